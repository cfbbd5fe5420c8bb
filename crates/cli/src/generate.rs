//! `echogen generate`: one job from options.

use std::{io::Read, path::Path};

use echogen_protocol::{ContentHash, ImageLocation, ImageSource, Job, JobId};
use echogen_service::Failure;

use crate::arguments::GenerateArguments;

/// Builds the one job of the command line and checks it.
pub(crate) fn job(arguments: &GenerateArguments) -> Result<Job, Failure> {
    let fault = |error: echogen_protocol::JobError| Failure::usage(error.to_string());
    arguments.sampling.check().map_err(fault)?;
    let mut job = Job::new(ImageSource(arguments.subject.clone()), arguments.prompt.clone());
    job.subject.name = arguments.name.clone();
    job.subject.bounding_box = arguments.bounding_box;
    arguments.sampling.apply(&mut job);
    job.id = JobId(arguments.id.clone().unwrap_or_default());
    let job = with_id(job, arguments)?;
    job.validate().map_err(fault)?;
    Ok(job)
}

/// An id that follows from all settings, the bundle, and the picture's content: if the file is changed, the same
/// command makes a new job and not the old result.
fn with_id(mut job: Job, arguments: &GenerateArguments) -> Result<Job, Failure> {
    if !job.id.as_str().is_empty() {
        return Ok(job);
    }
    let picture = match job.subject.image.location() {
        Ok(ImageLocation::File(path)) => hash_of_file(Path::new(path), arguments.run.max_image_bytes)?,
        _ => ContentHash::of(job.subject.image.0.as_bytes()),
    };
    let settings = serde_json::to_string(&job).unwrap_or_default();
    let hash = ContentHash::of(format!("{settings}\n{picture}\n{}", arguments.run.model.bundle).as_bytes()).to_string();
    job.id = JobId(format!("{}-{}", words(&job.prompt), hash.get(..12).unwrap_or(&hash)));
    Ok(job)
}

/// The first words of a prompt, as a file name that a person recognises.
fn words(prompt: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric();
    let words = prompt.split(|c| !is_word(c)).filter(|word| !word.is_empty());
    let name = words.take(6).map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    if name.is_empty() { "job".to_owned() } else { name.chars().take(48).collect() }
}

fn hash_of_file(path: &Path, max_bytes: u64) -> Result<ContentHash, Failure> {
    let fault = |error: std::io::Error| {
        let path = path.display();
        Failure::usage(format!("cannot read the subject's picture {path}: {error}; give a png, jpeg or webp file"))
    };
    let mut bytes = Vec::new();
    // A picture over the limit is refused later, with the limit; its first part is enough for a name.
    std::fs::File::open(path).map_err(fault)?.take(max_bytes).read_to_end(&mut bytes).map_err(fault)?;
    Ok(ContentHash::of(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_named_by_its_first_words() {
        assert_eq!(words("A dog, on a BEACH at noon, painted"), "a-dog-on-a-beach-at");
        assert_eq!(words("犬"), "job");
        assert!(words(&"x".repeat(500)).len() <= 48);
    }
}
