//! `echogen models verify`: compares every file with its published length and checksum.

use super::{Output, human};
use echogen_checkpoint::bundle::{Bundle, BundleError, Compared, VerifiedFile};
use echogen_service::Exit;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// The output for one file.
#[derive(Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
enum Verdict<'a> {
    Right { path: &'a str, bytes: u64, sha256: &'a str, compared: &'static str },
    Wrong { error: String },
}

pub(super) fn verify(bundle: &Bundle, output: &mut Output) -> anyhow::Result<Exit> {
    // The bar is drawn on a terminal only.
    let bar =
        ProgressBar::no_length().with_style(ProgressStyle::with_template("{bytes} {binary_bytes_per_sec} {msg}")?);
    let results = bundle.verify(&mut |file, bytes| {
        bar.set_message(file.path.clone());
        bar.inc(bytes);
    });
    bar.finish_and_clear();
    let faults = results.iter().filter(|result| result.is_err()).count();
    for result in &results {
        answer(result, output)?;
    }
    if faults > 0 {
        return Ok(Exit::Usage);
    }
    if !output.json {
        let count = results.len();
        output.answer(&(), &format!("all {count} files of {} are right", bundle.name()))?;
    }
    Ok(Exit::Success)
}

fn answer(result: &Result<VerifiedFile, BundleError>, output: &mut Output) -> anyhow::Result<()> {
    match result {
        Ok(file) => {
            let compared = compared(file.compared);
            let verdict = Verdict::Right { path: &file.path, bytes: file.size, sha256: &file.sha256, compared };
            output.answer(&verdict, &format!("right  {}  {}  {compared}", file.path, human(file.size)))
        }
        Err(error) => output.answer(&Verdict::Wrong { error: error.to_string() }, &format!("wrong  {error}")),
    }
}

fn compared(compared: Compared) -> &'static str {
    match compared {
        Compared::Published => "equals the published sum",
        Compared::Recorded => "equals the sum recorded when it was first pulled",
        Compared::FirstRecord => "no published sum: recorded now",
        Compared::Nothing => "no published sum, and none can be recorded here: compared with nothing",
    }
}
