//! The display of running jobs, for a person or a program.
//!
//! It has three forms: a progress bar on a terminal, a line for each job elsewhere, and JSON on request. Everything
//! that is shown by a colour or a moving bar is also shown in words.

use std::{path::PathBuf, time::Duration};

use echogen_service::console::{print_error, print_json};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// The outcome of one job.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct JobReport {
    /// The job's id; absent if the line is not a valid job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// Its line in the jobs file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<u64>,
    /// `done`, `cached` (it was complete before) or `failed`.
    pub(crate) status: Status,
    /// The pictures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) images: Vec<PathBuf>,
    /// Why it failed, and what to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    /// Seconds from its submission to its end.
    pub(crate) seconds: f64,
}

/// The possible outcomes of a job in these commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    Done,
    Cached,
    Failed,
}

/// The totals of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Tally {
    /// Jobs that ran and completed.
    pub(crate) done: u64,
    /// Jobs that were complete before.
    pub(crate) cached: u64,
    /// Jobs and lines that failed.
    pub(crate) failed: u64,
    /// Duration of the whole run in seconds.
    pub(crate) seconds: f64,
    /// The paths of the pictures, for a run of one job.
    #[serde(skip)]
    pub(crate) images: Vec<PathBuf>,
    /// The error message of the first failure.
    #[serde(skip)]
    pub(crate) first_error: Option<String>,
    /// Whether Ctrl-C ended the run early.
    pub(crate) interrupted: bool,
    /// The first page of the contact sheet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) contact_sheet: Option<PathBuf>,
    /// Pages of the contact sheet, for a run of many jobs.
    #[serde(skip)]
    pub(crate) sheet_pages: usize,
    /// Finished jobs that are on no page.
    #[serde(skip)]
    pub(crate) hidden: usize,
    /// The table of results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<PathBuf>,
    /// The first failures, in words.
    #[serde(skip)]
    pub(crate) failures: Vec<String>,
}

/// Failures that are repeated at the end of a run; the table of results has all of them.
const REPEATED: usize = 20;

impl Tally {
    fn count(&mut self, report: &JobReport) {
        match report.status {
            Status::Done => self.done += 1,
            Status::Cached => self.cached += 1,
            Status::Failed => {
                self.failed += 1;
                if self.failures.len() < REPEATED {
                    self.failures.push(failure_line(report));
                }
            }
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&report.error);
        }
    }

    fn jobs(&self) -> u64 {
        self.done + self.cached + self.failed
    }

    /// Returns the failures once more, below the lines of all jobs or the bar, among which they are easily missed.
    pub(crate) fn repeated(&self) -> Vec<String> {
        let more = self.failed.saturating_sub(self.failures.len() as u64);
        let place = self.table.as_ref().map_or_else(String::new, |table| format!("; all are in {}", table.display()));
        let rest = (more > 0).then(|| format!("and {more} more failed{place}"));
        self.failures.iter().cloned().chain(rest).collect()
    }

    /// Returns a summary such as `3 done, 1 failed, 2 cached in 12.0 s (0.3 jobs/s)`. Cached jobs do not count in the
    /// speed.
    pub(crate) fn summary(&self) -> String {
        let speed = (self.done + self.failed) as f64 / self.seconds.max(1e-3);
        let Self { done, failed, cached, seconds, .. } = self;
        format!("{done} done, {failed} failed, {cached} cached in {seconds:.1} s ({speed:.2} jobs/s)")
    }
}

/// Displays the outcomes of jobs, and counts them.
pub(crate) struct Reporter {
    tally: Tally,
    total: Option<u64>,
    face: Face,
}

enum Face {
    /// One JSON object for each job.
    Json,
    /// One line for each job.
    Lines,
    /// A progress bar for many jobs.
    Bar(ProgressBar),
    /// The scales of one job as they complete; the caller prints its outcome. Hidden if there is no terminal.
    One(ProgressBar),
}

impl Reporter {
    /// Creates a reporter for a single job.
    pub(crate) fn for_one_job(json: bool, terminal: bool) -> Self {
        let face = match (json, terminal) {
            (true, _) => Face::Json,
            (false, true) => Face::One(spinner()),
            (false, false) => Face::One(ProgressBar::hidden()),
        };
        Self { tally: Tally::default(), total: Some(1), face }
    }

    /// Creates a reporter for many jobs; `total` is their number if known.
    pub(crate) fn for_many_jobs(json: bool, terminal: bool, total: Option<u64>) -> Self {
        let face = match (json, terminal) {
            (true, _) => Face::Json,
            (false, true) => Face::Bar(bar(total)),
            (false, false) => Face::Lines,
        };
        Self { tally: Tally::default(), total, face }
    }

    /// Counts and displays a job's outcome.
    pub(crate) fn job_ended(&mut self, report: &JobReport) {
        self.tally.count(report);
        match &self.face {
            Face::Json => print_json("job", report),
            Face::Lines => print_error(line(report, self.tally.jobs(), self.total)),
            Face::One(_) => self.tally.images.clone_from(&report.images),
            Face::Bar(bar) => {
                bar.set_message(format!("{} failed, {} cached", self.tally.failed, self.tally.cached));
                if report.status == Status::Failed {
                    bar.println(failure_line(report));
                }
                bar.set_position(self.tally.jobs());
                if report.status == Status::Cached {
                    // Cached jobs do not predict the speed of the following ones.
                    bar.reset_eta();
                }
            }
        }
    }

    /// Displays a job's progress in scales.
    pub(crate) fn scale_done(&self, scale: u64, scales: u64) {
        if let Face::One(bar) = &self.face {
            bar.set_message(format!("scale {scale} of {scales}"));
        }
    }

    /// Prints a note for people; not in JSON output.
    pub(crate) fn note(&self, text: &str) {
        match &self.face {
            Face::Json => {}
            Face::Lines => print_error(text),
            Face::Bar(bar) | Face::One(bar) => bar.println(text),
        }
    }

    /// Ends the display; returns the totals.
    pub(crate) fn finish(self, elapsed: Duration, interrupted: bool) -> Tally {
        if let Face::Bar(bar) | Face::One(bar) = &self.face {
            bar.finish_and_clear();
        }
        Tally { seconds: elapsed.as_secs_f64(), interrupted, ..self.tally }
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(style("{spinner} {msg} ({elapsed})"));
    bar.set_message("encoding the subject");
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn bar(total: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
    let template = match total {
        Some(_) => "{bar:30} {pos}/{len} done, {msg}, {per_sec}, {eta} left",
        None => "{spinner} {pos} done, {msg}, {per_sec}",
    };
    let speed = |state: &indicatif::ProgressState, out: &mut dyn std::fmt::Write| {
        // An error while formatting the display must not stop the run.
        write!(out, "{:.2} jobs/s", state.per_sec()).unwrap_or_default();
    };
    bar.set_style(style(template).with_key("per_sec", speed));
    bar.set_message("0 failed, 0 cached");
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn line(report: &JobReport, number: u64, total: Option<u64>) -> String {
    let count = total.map_or_else(|| number.to_string(), |total| format!("{number}/{total}"));
    if report.status == Status::Failed {
        return format!("[{count}] {}", failure_line(report));
    }
    let word = if report.status == Status::Done { "done  " } else { "cached" };
    let images: Vec<String> = report.images.iter().map(|path| path.display().to_string()).collect();
    let id = report.id.as_deref().unwrap_or("?");
    format!("[{count}] {word} {id} ({:.1} s) {}", report.seconds, images.join(" "))
}

fn failure_line(report: &JobReport) -> String {
    let place = report.line.map(|line| format!("line {line}")).into_iter();
    let id = report.id.as_ref().map(|id| format!("job {id}")).into_iter();
    let error = report.error.as_deref().unwrap_or("unknown error").to_owned();
    format!("failed {}", place.chain(id).chain([error]).collect::<Vec<_>>().join(": "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(status: Status) -> JobReport {
        JobReport {
            id: Some("dog".into()),
            line: Some(7),
            status,
            images: vec![PathBuf::from("out/dog/image-0.png")],
            error: (status == Status::Failed).then(|| "prompt: is empty".to_owned()),
            seconds: 2.25,
        }
    }

    #[test]
    fn a_line_says_how_far_what_and_where() {
        assert_eq!(line(&report(Status::Done), 3, Some(9)), "[3/9] done   dog (2.2 s) out/dog/image-0.png");
        assert_eq!(line(&report(Status::Cached), 3, None), "[3] cached dog (2.2 s) out/dog/image-0.png");
        assert_eq!(line(&report(Status::Failed), 3, None), "[3] failed line 7: job dog: prompt: is empty");
    }

    #[test]
    fn the_summary_counts_only_work_as_speed() {
        let mut tally = Tally { seconds: 4.0, ..Tally::default() };
        for status in [Status::Done, Status::Failed, Status::Cached, Status::Cached] {
            tally.count(&report(status));
        }
        assert_eq!(tally.summary(), "1 done, 1 failed, 2 cached in 4.0 s (0.50 jobs/s)");
    }

    #[test]
    fn failures_are_repeated_and_not_without_end() {
        let mut tally = Tally::default();
        tally.count(&report(Status::Done));
        assert_eq!(tally.repeated(), Vec::<String>::new());
        (0..25).for_each(|_| tally.count(&report(Status::Failed)));
        tally.table = Some(PathBuf::from("out/results.csv"));
        let failures = tally.repeated();
        assert_eq!(failures.len(), 21);
        assert_eq!(failures[0], "failed line 7: job dog: prompt: is empty");
        assert_eq!(failures[20], "and 5 more failed; all are in out/results.csv");
    }

    #[test]
    fn json_has_no_empty_fields() {
        let json = serde_json::to_value(report(Status::Done)).unwrap();
        assert_eq!(json["status"], "done");
        assert!(json.get("error").is_none());
    }
}
