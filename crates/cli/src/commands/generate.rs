//! `echogen generate`: one job from arguments and settings.

use std::path::PathBuf;

use clap::Args;
use echogen_protocol::{BoundingBox, ImageLocation, ImageSource, Job, JobId};
use echogen_service::{Failure, config::ServiceConfig, id_words};

use super::jobs::content_ids;
use crate::values;

pub(crate) const GENERATE_EXAMPLES: &str = "\
Examples:
  Four pictures with the seeds 42 to 45, wide, as JPEG:
    echogen generate -s cat.png -p \"a cat on a beach\" --count 4 --aspect-ratio 16:9 --format jpeg
  The subject is only a part of the picture (left, top, right, bottom in pixels):
    echogen generate -s park.jpg --box 120,40,380,300 --name cat -p \"a cat in a forest\"
  More weight on the prompt, less on the subject:
    echogen generate -s cat.png -p \"a cat on a snowy mountain\" --guidance-text 4 --guidance-subject 2

The pictures are OUT/<job id>/image-0.png and so on; result.json beside them has all parameters, and
contact-sheet.png shows the subject beside the pictures. The same command again skips the
completed job; for other pictures, change --seed.";

/// `echogen generate`.
#[derive(Args, Debug, Clone)]
pub(crate) struct GenerateArguments {
    /// Picture of the subject: a file, or a `data:` address
    #[arg(short, long, value_name = "PICTURE")]
    pub(crate) subject: String,

    /// The scene, in words
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) prompt: String,

    /// What the subject is called, such as `dog`
    #[arg(long, value_name = "TEXT")]
    pub(crate) name: Option<String>,

    /// Where the subject is: `left,top,right,bottom` in pixels; by default the networks find it
    #[arg(long = "box", value_name = "BOX", value_parser = values::bounding_box)]
    pub(crate) bounding_box: Option<BoundingBox>,

    /// Id of the job and name of its folder; by default derived from prompt, settings and picture
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,

    /// See [`RunArguments`].
    #[command(flatten)]
    pub(crate) run: RunArguments,
}

/// Where a run writes, and how often it tries.
#[derive(Args, Debug, Clone)]
pub(crate) struct RunArguments {
    /// Folder for pictures and results; intermediate products are in OUT/.echogen and may be deleted
    #[arg(short, long, value_name = "OUT", default_value = "out")]
    pub(crate) out: PathBuf,

    /// Attempts of a stage when something temporary fails, such as a full disk
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) attempts: u32,
}

/// Builds the job from the command line and validates it.
pub(crate) fn job(arguments: &GenerateArguments, config: &ServiceConfig) -> Result<Job, Failure> {
    let fault = |error: echogen_protocol::JobError| Failure::usage(error.to_string());
    let mut job = Job::new(ImageSource(arguments.subject.clone()), arguments.prompt.clone());
    job.subject.name = arguments.name.clone();
    job.subject.bounding_box = arguments.bounding_box;
    config.job.apply(&mut job);
    job.id = JobId(arguments.id.clone().unwrap_or_default());
    let job = with_id(job, config)?;
    job.validate().map_err(fault)?;
    Ok(job)
}

/// Sets an id derived from all settings, the bundle and the picture's content. If the picture file changes, the same
/// command therefore makes a new job and does not return the old result.
fn with_id(mut job: Job, config: &ServiceConfig) -> Result<Job, Failure> {
    if !job.id.as_str().is_empty() {
        return Ok(job);
    }
    // A picture that is not there is told at once.
    if let Ok(ImageLocation::File(path)) = job.subject.image.location() {
        std::fs::metadata(path).map_err(|error| {
            let advice = "give a png, jpeg or webp file";
            Failure::usage(format!("cannot read the subject's picture {path}: {error}; {advice}"))
        })?;
    }
    let hash = content_ids(config).hash(&job);
    job.id = JobId(format!("{}-{}", id_words(&job.prompt), hash.get(..12).unwrap_or(&hash)));
    Ok(job)
}
