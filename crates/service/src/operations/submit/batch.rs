//! Publishes a file of jobs to the queues.
//!
//! The number of unconfirmed messages is bounded, so memory does not grow with the file. A note beside the file
//! records the line up to which the broker has confirmed every job, and which lines failed, so that the next run
//! retries those and continues. Jobs are identified by their ids, so a line that is published twice is still one job.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use echogen_protocol::{Job, JobId};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio_util::sync::CancellationToken;

use super::{
    Submitter,
    note::{Note, sample},
};
use crate::{
    Failure,
    job_lines::JobLine,
    jobs_file::{JobFields, JobsFile},
};

/// Number of lines after which the note is written again.
const NOTE_EVERY: u64 = 1_000;

/// How a file is published.
#[derive(Clone, Debug, Default)]
pub struct BatchOptions {
    /// Default fields of jobs that lack them.
    pub defaults: JobFields,
    /// Maximum number of unconfirmed messages.
    pub in_flight: usize,
    /// Whether to begin at the first line, and to ignore an earlier run's progress, file and broker.
    pub restart: bool,
}

/// The outcome of a line.
#[derive(Debug)]
pub struct LineEnd {
    /// Its number, counted from 1.
    pub line: u64,
    /// The job's id if the broker has confirmed it, or the error; `None` if an earlier run has published the line.
    pub sent: Option<Result<JobId, String>>,
}

/// The outcome of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchSummary {
    /// Number of lines that were published.
    pub sent: u64,
    /// Number of lines that failed.
    pub failed: u64,
    /// The last of the lines that earlier runs have published.
    pub before: u64,
    /// Whether some of those were retried.
    pub tried_again: bool,
    /// Whether it was stopped before the end.
    pub stopped: bool,
    /// Whether the progress is stored, so that the same command continues.
    pub noted: bool,
}

/// A file that is being published.
pub struct Batch<'a> {
    submitter: &'a Submitter,
    file: JobsFile,
    in_flight: usize,
    /// The path of the note; none for standard input.
    note: Option<PathBuf>,
    /// The progress of earlier runs.
    before: Note,
}

/// The progress of a batch.
struct Progress {
    sent: u64,
    failed: u64,
    note: Note,
    /// Lines that are published and not confirmed yet.
    open: BTreeSet<u64>,
    /// The last line that was published.
    last_line: u64,
    /// Lines that failed in earlier runs and are still to be retried.
    again: BTreeSet<u64>,
}

impl<'a> Batch<'a> {
    /// Opens a file; `-` is standard input. It is an error if an earlier run has published the file to another broker,
    /// or if the file was changed since.
    pub async fn open(path: &Path, submitter: &'a Submitter, options: BatchOptions) -> Result<Self, Failure> {
        let (note, target) = (Note::path_of(path), submitter.target.clone());
        let before = match &note {
            Some(note) if !options.restart => Note::open(note, path, target).await?,
            _ => Note::fresh(target),
        };
        let file = JobsFile::open(path, options.defaults).await?;
        Ok(Self { submitter, file, in_flight: options.in_flight.max(1), note, before })
    }

    /// Returns the number of lines, if it can be known.
    pub fn total(&self) -> Option<u64> {
        self.file.total()
    }

    /// Publishes all lines, or until `stop`; then unconfirmed messages are still waited for. `each` is called for
    /// every line.
    pub async fn send(
        mut self,
        stop: &CancellationToken,
        mut each: impl FnMut(&LineEnd),
    ) -> Result<BatchSummary, Failure> {
        let mut progress = Progress::after(&self.before);
        let (mut on_the_way, mut at_end) = (FuturesUnordered::new(), false);
        while !((at_end || stop.is_cancelled()) && on_the_way.is_empty()) {
            let may_read = !at_end && !stop.is_cancelled() && on_the_way.len() < self.in_flight;
            tokio::select! {
                // The signal is checked first, then confirms: each confirm frees a slot for the next line.
                biased;
                // A signal: no more lines are read, and the loop ends when all confirms have arrived. The guard keeps
                // this arm from completing again and again.
                () = stop.cancelled(), if !stop.is_cancelled() => {}
                // A line was confirmed or has failed.
                Some((line, sample, ended)) = on_the_way.next() => {
                    progress.ended(line, sample, &ended);
                    each(&LineEnd { line, sent: Some(ended) });
                    if (progress.sent + progress.failed).is_multiple_of(NOTE_EVERY) {
                        self.write_note(&progress)?;
                    }
                }
                // The next line, if the number of unconfirmed messages is below the limit.
                line = self.file.next_line(), if may_read => match line? {
                    None => {
                        at_end = true;
                        progress.at_end();
                    }
                    Some(line) if !progress.is_due(line.number, &self.before) => {
                        each(&LineEnd { line: line.number, sent: None });
                    }
                    Some(line) => {
                        let job = self.file.job(&line);
                        on_the_way.push(deliver(self.submitter, progress.begin(&line), job));
                    }
                },
            }
        }
        // All confirms have arrived, so the mark moves past the last published line, and then the note is written.
        progress.note.advance(progress.last_line + 1);
        self.write_note(&progress)?;
        Ok(self.summary(&progress, stop.is_cancelled()))
    }

    fn write_note(&self, progress: &Progress) -> Result<(), Failure> {
        self.note.as_ref().map_or(Ok(()), |note| progress.note.write(note))
    }

    fn summary(&self, progress: &Progress, stopped: bool) -> BatchSummary {
        let Progress { sent, failed, .. } = *progress;
        let (before, tried_again) = (self.before.up_to(), !self.before.failed().is_empty());
        BatchSummary { sent, failed, before, tried_again, stopped, noted: self.note.is_some() }
    }
}

impl Progress {
    fn after(before: &Note) -> Self {
        let (note, again) = (before.clone(), before.failed().clone());
        Self { sent: 0, failed: 0, note, open: BTreeSet::new(), last_line: before.up_to(), again }
    }

    /// Returns whether a line is to be published: earlier runs have not published it, or it failed then.
    fn is_due(&mut self, line: u64, before: &Note) -> bool {
        let failed_before = self.again.remove(&line);
        line > before.up_to() || failed_before
    }

    /// Records that a line is being published; returns its number, and its sample if one is wanted.
    fn begin(&mut self, line: &JobLine) -> (u64, Option<String>) {
        self.last_line = self.last_line.max(line.number);
        self.open.insert(line.number);
        (line.number, if self.note.wants_samples() { sample(line) } else { None })
    }

    fn ended(&mut self, line: u64, sample: Option<String>, ended: &Result<JobId, String>) {
        self.open.remove(&line);
        match ended {
            Ok(_) => {
                self.sent += 1;
                self.note.confirm(line, sample);
            }
            Err(_) => {
                self.failed += 1;
                self.note.fail(line);
            }
        }
        self.note.advance(self.open.first().copied().unwrap_or(self.last_line + 1));
    }

    /// Called at the end of the file: lines that failed in earlier runs and no longer exist are not retried.
    fn at_end(&mut self) {
        self.again.iter().for_each(|line| self.note.forget(*line));
    }
}

async fn deliver(
    submitter: &Submitter,
    (line, sample): (u64, Option<String>),
    job: Result<Job, String>,
) -> (u64, Option<String>, Result<JobId, String>) {
    let sent = async {
        let job = submitter.prepare(job?).await?;
        submitter.send(&job).await.map_err(|error| error.to_string())?;
        Ok(job.id)
    };
    (line, sample, sent.await)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use echogen_ports::MemoryBroker;
    use echogen_protocol::{Lane, Partitions, StageTask};
    use serde_json::json;

    use super::*;
    use crate::{
        Exit,
        jobs_file::forms::{self, Becomes},
        operations::submit::{note::Target, pictures::Pictures},
    };

    const HERE: &str = "amqp://guest:guest@rabbit/%2f";

    /// A folder with a jobs file and its pictures, and an in-memory broker.
    struct Bench {
        folder: tempfile::TempDir,
        broker: MemoryBroker,
    }

    impl Bench {
        fn new(lines: &[&str]) -> Self {
            let bench = Self { folder: tempfile::tempdir().unwrap(), broker: MemoryBroker::new() };
            bench.write(lines);
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, lines: &[&str]) {
            std::fs::write(self.path("jobs.jsonl"), lines.join("\n") + "\n").unwrap();
        }

        fn draw(&self, picture: &str) {
            std::fs::write(self.path(picture), picture).unwrap();
        }

        /// The URL and the prefix are only recorded in the note.
        fn submitter(&self, url: &str, prefix: &str) -> Submitter {
            let broker = Arc::new(self.broker.clone());
            let (pictures, target) = (Pictures { work: None }, Target::of(url, prefix));
            let partitions = Partitions::default();
            Submitter { broker, pictures, target, partitions, amqp: None }
        }

        async fn run_at(&self, url: &str, prefix: &str, restart: bool) -> Result<BatchSummary, Failure> {
            let submitter = self.submitter(url, prefix);
            let options = BatchOptions { in_flight: 16, restart, ..BatchOptions::default() };
            let batch = Batch::open(&self.path("jobs.jsonl"), &submitter, options).await?;
            batch.send(&CancellationToken::new(), |_| ()).await
        }

        /// Returns the number of lines that failed.
        async fn run(&self) -> Result<u64, Failure> {
            Ok(self.run_at(HERE, "echogen", false).await?.failed)
        }

        fn sent(&self) -> usize {
            self.broker.waiting(&Job::new("dog.png".into(), "").queue())
        }
    }

    const DOG: &str = r#"{"subject": {"image": "dog.png"}, "prompt": "a dog"}"#;
    const CAT: &str = r#"{"subject": {"image": "cat.png"}, "prompt": "a cat"}"#;

    #[tokio::test]
    async fn a_failed_line_is_sent_by_the_next_run_and_by_no_further_one() {
        let bench = Bench::new(&["no job", CAT, DOG]);
        bench.draw("dog.png");
        assert_eq!((bench.run().await.unwrap(), bench.sent()), (2, 1));
        bench.draw("cat.png");
        assert_eq!((bench.run().await.unwrap(), bench.sent()), (1, 2), "line 1 is still none");
        bench.write(&[
            &DOG.replace("a dog", "a dog in the snow"),
            CAT,
            DOG,
            &CAT.replace("a cat", "a cat in the snow"),
        ]);
        assert_eq!((bench.run().await.unwrap(), bench.sent()), (0, 4), "mended, and one more");
        assert_eq!((bench.run().await.unwrap(), bench.sent()), (0, 4));
    }

    #[tokio::test]
    async fn a_failed_line_that_was_taken_out_is_forgotten() {
        let bench = Bench::new(&[DOG, "no job", DOG]);
        bench.draw("dog.png");
        assert_eq!(bench.run().await.unwrap(), 1);
        bench.write(&[DOG, "", DOG]);
        assert_eq!(bench.run().await.unwrap(), 0);
        assert!(std::fs::read_to_string(bench.path("jobs.jsonl.submitted")).unwrap().contains(r#""failed":[]"#));
    }

    #[tokio::test]
    async fn another_file_under_the_same_name_is_refused() {
        let bench = Bench::new(&[DOG]);
        bench.draw("dog.png");
        bench.draw("cat.png");
        assert_eq!(bench.run().await.unwrap(), 0);
        bench.write(&[CAT]);
        let refused = bench.run().await.unwrap_err();
        assert_eq!((refused.exit, bench.sent()), (Exit::Usage, 1));
        assert!(refused.message.contains("line 1") && refused.message.contains("--restart"), "{}", refused.message);
        assert_eq!(bench.run_at(HERE, "echogen", true).await.unwrap().failed, 0);
        assert_eq!(bench.sent(), 2);
        assert_eq!((bench.run().await.unwrap(), bench.sent()), (0, 2));
    }

    #[tokio::test]
    async fn another_prefix_or_broker_is_refused() {
        let bench = Bench::new(&[DOG]);
        bench.draw("dog.png");
        assert_eq!(bench.run_at(HERE, "dogs", false).await.unwrap().sent, 1);
        for ((url, prefix), said) in [((HERE, "cats"), "\"cats\""), (("amqp://x:secret@hare/%2f", "dogs"), "hare/%2f")]
        {
            let refused = bench.run_at(url, prefix, false).await.unwrap_err();
            assert_eq!(refused.exit, Exit::Usage);
            for word in [said, "rabbit/%2f with the prefix \"dogs\"", "--restart"] {
                assert!(refused.message.contains(word), "{word}: {}", refused.message);
            }
            assert!(!refused.message.contains("secret"), "{}", refused.message);
        }
        let again = bench.run_at("amqp://other:password@rabbit/%2f", "dogs", false).await.unwrap();
        assert_eq!((again.sent, again.failed, again.before), (0, 0, 1));
        assert_eq!(bench.sent(), 1);
    }

    #[tokio::test]
    async fn every_form_of_a_file_is_sent_or_refused_by_line() {
        for form in forms::all() {
            let bench = Bench::new(&[]);
            std::fs::write(bench.path("jobs.jsonl"), &form.bytes).unwrap();
            let submitter = bench.submitter(HERE, "echogen");
            let options = BatchOptions { in_flight: 1, ..BatchOptions::default() };
            let batch = match (Batch::open(&bench.path("jobs.jsonl"), &submitter, options).await, &form.becomes) {
                (Err(refused), Becomes::Refused(word)) => {
                    forms::check_refusal(form.name, word, &refused.message);
                    continue;
                }
                (opened, _) => opened.unwrap(),
            };
            let Becomes::Lines(jobs, refused) = form.becomes else { panic!("{} is read", form.name) };
            let (mut sent, mut errors) = (Vec::new(), Vec::new());
            let each = |end: &LineEnd| match &end.sent {
                Some(Ok(_)) => sent.push(end.line),
                Some(Err(error)) => errors.push((end.line, error.clone())),
                None => {}
            };
            batch.send(&CancellationToken::new(), each).await.unwrap();
            assert_eq!(sent, jobs, "{}", form.name);
            forms::check_errors(form.name, &refused, &errors);
        }
    }

    #[tokio::test]
    async fn lane_and_callback_are_for_lines_that_do_not_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jobs.jsonl");
        let job = |more: &str| format!(r#"{{"subject": {{"image": "data:,x"}}, "prompt": "a dog"{more}}}"#) + "\n";
        let own = r#", "lane": "interactive", "callback": "https://example.org/own""#;
        std::fs::write(&path, job("") + &job(own)).unwrap();
        let defaults = json!({ "lane": "bulk", "callback": "https://example.org/all" });
        let mut file = JobsFile::open(&path, defaults.as_object().cloned().unwrap()).await.unwrap();
        let mut seen = Vec::new();
        while let Some(line) = file.next_line().await.unwrap() {
            let job = file.job(&line).unwrap();
            seen.push((job.lane, job.callback.unwrap()));
        }
        let expected = |lane, callback: &str| (lane, format!("https://example.org/{callback}"));
        assert_eq!(seen, [expected(Lane::Bulk, "all"), expected(Lane::Interactive, "own")]);
    }
}
