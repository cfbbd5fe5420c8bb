//! The jobs of every picture of a folder with every line of a file of prompts.
//!
//! They are lines of a jobs file that nobody had to write: the same defaults fill them in, and the same checks refuse them.
//! The pictures come in the order of their names, each with all prompts in the order of their lines, so that a subject is
//! encoded once and its jobs follow each other.

use std::path::{Path, PathBuf};

use echogen_protocol::{
    Job, JobId,
    limits::MAX_JOB_JSON_BYTES,
    text::{one_line, quoted},
};
use serde_json::{Value, json};

use crate::{
    Failure,
    embedded::{Candidate, JobSource},
    job_lines::JobLine,
    jobs_file::{ContentIds, JobFields, parsed},
};

/// Stands for the subject's name in a prompt.
const NAME: &str = "{name}";

/// Endings of files that are pictures.
const ENDINGS: [&str; 4] = ["png", "jpg", "jpeg", "webp"];

/// Bytes of a file of prompts. It is kept in memory as a whole, because every subject reads it.
const MAX_PROMPTS_BYTES: u64 = 64 * 1024 * 1024;

/// Words of a prompt, and characters of them and of a picture's name, in an id.
const ID_WORDS: usize = 6;
const ID_CHARS: usize = 40;

/// Pictures crossed with prompts.
pub struct Crossing {
    pictures: Vec<PathBuf>,
    prompts: Vec<String>,
    defaults: JobFields,
    ids: ContentIds,
    /// Files of the folder that are no pictures by their endings.
    ignored: usize,
    next: usize,
}

impl Crossing {
    /// Reads the names of the pictures in `subjects` and the prompts in the file `prompts`.
    pub fn open(subjects: &Path, prompts: &Path, defaults: JobFields, ids: ContentIds) -> Result<Self, Failure> {
        let (pictures, ignored) = pictures_in(subjects)?;
        let prompts = prompts_in(prompts)?;
        Ok(Self { pictures, prompts, defaults, ids, ignored, next: 0 })
    }

    /// Returns the number of jobs.
    pub fn total(&self) -> u64 {
        self.pictures.len() as u64 * self.prompts.len() as u64
    }

    /// Returns how many files of the folder are no pictures.
    pub fn ignored(&self) -> usize {
        self.ignored
    }

    /// Returns the next job, or what is wrong with it, as the line of a jobs file; `None` at the end.
    pub fn next_job(&mut self) -> Option<Result<Job, String>> {
        let count = self.prompts.len();
        let (picture, prompt) = (self.pictures.get(self.next / count)?, self.prompts.get(self.next % count)?);
        self.next += 1;
        Some(self.job(picture, prompt))
    }

    fn job(&self, picture: &Path, prompt: &str) -> Result<Job, String> {
        let fields = fields(picture, prompt)?;
        let job = parsed(&JobLine { number: 0, text: Some(fields.to_string().into_bytes()) }, &self.defaults);
        let job = job.map_err(|error| format!("{}: {error}", one_line(&picture.display().to_string())))?;
        let mut job = job.without_derived_id();
        let hash = self.ids.hash(&job);
        job.id = JobId(format!("{}-{}-{hash:.12}", id_words(&name_of(picture)), id_words(&job.prompt)));
        Ok(job)
    }
}

impl JobSource for Crossing {
    async fn next(&mut self) -> Result<Option<Candidate>, Failure> {
        let job = self.next_job();
        Ok(job.map(|job| Candidate { line: None, job: job.and_then(crate::jobs_file::without_callback) }))
    }
}

/// The fields of a job. The name counts only where a prompt asks for it: files are often called what their subjects are not.
fn fields(picture: &Path, prompt: &str) -> Result<Value, String> {
    let path = picture.to_str().ok_or_else(|| {
        format!("the name of {} is not in UTF-8; rename the file", one_line(&picture.display().to_string()))
    })?;
    if !prompt.contains(NAME) {
        return Ok(json!({ "subject": { "image": path }, "prompt": prompt }));
    }
    let name = name_of(picture);
    Ok(json!({ "subject": { "image": path, "name": name }, "prompt": prompt.replace(NAME, &name) }))
}

/// Returns what a picture's subject is called by its file: `red-mug_2.png` is `red mug`.
fn name_of(picture: &Path) -> String {
    let stem = picture.file_stem().unwrap_or_default().to_string_lossy();
    let words: Vec<&str> = stem.split(['-', '_', ' ', '.']).filter(|word| !word.is_empty()).collect();
    let named = words.iter().rposition(|word| !word.chars().all(|c| c.is_ascii_digit()));
    words.get(..=named.unwrap_or(words.len().saturating_sub(1))).unwrap_or_default().join(" ")
}

/// Returns the first words of a text in a form that is readable as a file name.
pub fn id_words(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let name = words.take(ID_WORDS).map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-");
    if name.is_empty() { "job".to_owned() } else { name.chars().take(ID_CHARS).collect() }
}

fn pictures_in(folder: &Path) -> Result<(Vec<PathBuf>, usize), Failure> {
    let shown = one_line(&folder.display().to_string());
    let fault = |error: std::io::Error| {
        Failure::usage(format!("cannot read the folder of subjects {shown}: {error}; give a folder of pictures"))
    };
    let (mut pictures, mut ignored) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let ending = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        match ENDINGS.contains(&ending.as_str()) && path.is_file() {
            true if !is_hidden => pictures.push(path),
            _ => ignored += usize::from(!is_hidden),
        }
    }
    // Folders list their files in any order; runs shall not differ in theirs.
    pictures.sort();
    if pictures.is_empty() {
        return Err(Failure::usage(format!("the folder {shown} has no pictures: no png, jpg, jpeg or webp file")));
    }
    Ok((pictures, ignored))
}

fn prompts_in(path: &Path) -> Result<Vec<String>, Failure> {
    let shown = one_line(&path.display().to_string());
    let fault = |what: &str| {
        Failure::usage(format!("cannot read the prompts {shown}: {what}; give a text file with one prompt per line"))
    };
    let length = std::fs::metadata(path).map_err(|error| fault(&error.to_string()))?.len();
    if length > MAX_PROMPTS_BYTES {
        return Err(fault(&format!("it has {length} bytes; the limit is {MAX_PROMPTS_BYTES}")));
    }
    let bytes = std::fs::read(path).map_err(|error| fault(&error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|_| fault("it is not in UTF-8"))?;
    let lines = text.trim_start_matches('\u{feff}').split(['\n', '\r']).map(str::trim);
    let prompts: Vec<String> = lines.filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if let Some(long) = prompts.iter().find(|prompt| prompt.len() > MAX_JOB_JSON_BYTES / 2) {
        return Err(fault(&format!("the line {} is too long", quoted(long))));
    }
    if prompts.is_empty() {
        return Err(fault("it has no prompts"));
    }
    Ok(prompts)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Given(tempfile::TempDir);

    impl Given {
        fn new(files: &[&str], prompts: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            std::fs::create_dir(folder.path().join("subjects")).unwrap();
            for file in files {
                std::fs::write(folder.path().join("subjects").join(file), file).unwrap();
            }
            std::fs::write(folder.path().join("prompts.txt"), prompts).unwrap();
            Self(folder)
        }

        fn open(&self) -> Result<Crossing, Failure> {
            let ids = ContentIds { bundle: "mini".to_owned(), max_image_bytes: 1 << 20 };
            let [subjects, prompts] = ["subjects", "prompts.txt"].map(|name| self.0.path().join(name));
            Crossing::open(&subjects, &prompts, JobFields::new(), ids)
        }

        fn jobs(&self) -> Vec<Job> {
            let mut crossing = self.open().unwrap();
            let total = crossing.total();
            let jobs: Vec<Job> = std::iter::from_fn(|| crossing.next_job()).map(Result::unwrap).collect();
            assert_eq!(jobs.len() as u64, total);
            jobs
        }
    }

    #[test]
    fn every_picture_meets_every_prompt_in_order() {
        let given =
            Given::new(&["b-mug.PNG", "a_cat.jpg", ".hidden.png", "notes.txt"], "on a beach\n\n  by night \r\n");
        let jobs = given.jobs();
        let file = |job: &Job| job.subject.image.0.rsplit('/').next().unwrap().to_owned();
        let seen: Vec<(String, &str)> = jobs.iter().map(|job| (file(job), job.prompt.as_str())).collect();
        let expected = [
            ("a_cat.jpg", "on a beach"),
            ("a_cat.jpg", "by night"),
            ("b-mug.PNG", "on a beach"),
            ("b-mug.PNG", "by night"),
        ];
        assert_eq!(seen, expected.map(|(file, prompt)| (file.to_owned(), prompt)));
        assert_eq!(given.open().unwrap().ignored(), 1);
        assert!(jobs.iter().all(|job| job.subject.name.is_none()), "a file's name is no subject's name unless asked");
    }

    #[test]
    fn a_name_in_the_prompt_is_what_is_looked_for() {
        let job = Given::new(&["red-mug_2.png"], "a {name} on a beach, the {name} alone").jobs().remove(0);
        assert_eq!(job.subject.name.as_deref(), Some("red mug"));
        assert_eq!(job.prompt, "a red mug on a beach, the red mug alone");
        assert!(job.id.as_str().starts_with("red-mug-a-red-mug-on-a-beach-"), "{}", job.id);
        assert_eq!([name_of(Path::new("7.png")), name_of(Path::new("mug.1.2.png"))], ["7", "mug"]);
    }

    #[test]
    fn a_text_is_named_by_its_first_words() {
        assert_eq!(id_words("A dog, on a BEACH at noon, painted"), "a-dog-on-a-beach-at");
        assert_eq!(id_words("\u{72ac}"), "job");
        assert!(id_words(&"x".repeat(500)).len() <= ID_CHARS);
    }

    #[test]
    fn ids_follow_from_contents_and_not_from_places() {
        let ids = |prompts: &str| Given::new(&["mug.png"], prompts).jobs().remove(0).id;
        assert_eq!(ids("on a beach"), ids("on a beach\n"));
        assert_ne!(ids("on a beach"), ids("on a beach!"));
    }

    #[test]
    fn what_cannot_be_crossed_says_what_to_give() {
        let error = |given: &Given| given.open().map(|_| ()).unwrap_err().message;
        assert!(error(&Given::new(&["notes.txt"], "a")).contains("has no pictures"));
        assert!(error(&Given::new(&["mug.png"], "\n \n")).contains("it has no prompts"));
        let given = Given::new(&["mug.png"], "a");
        std::fs::write(given.0.path().join("prompts.txt"), b"\xff\xfea\0").unwrap();
        assert!(error(&given).contains("not in UTF-8"));
        std::fs::remove_dir_all(given.0.path().join("subjects")).unwrap();
        assert!(error(&given).contains("give a folder of pictures"));
    }

    #[test]
    fn a_prompt_that_no_job_may_have_fails_its_jobs_alone() {
        let mut crossing = Given::new(&["mug.png"], &format!("{}\nfine", "x".repeat(2_001))).open().unwrap();
        assert!(crossing.next_job().unwrap().unwrap_err().contains("mug.png: prompt"));
        assert_eq!(crossing.next_job().unwrap().unwrap().prompt, "fine");
        assert!(crossing.next_job().is_none());
    }
}
