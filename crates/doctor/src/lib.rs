//! Examines a machine: is its device what the networks need, are their numbers right on it, and how fast is it.
//!
//! One prepared program for a machine with a GPU, no network, and minutes of time. [`examine`] measures the device, compares
//! the networks of the mini bundle with stored numbers in three types, and those of the fixtures with the reference's values, makes
//! pictures with a transformer of a chosen size whose weights are drawn on the device, and returns one [`Report`] of all of it.
//!
//! A part that fails is a failed check with what to do, and does not stop the others. Speed is reported and never a check.

// The comparisons with reference values are those of the example `parity` of the crate models.
#[path = "../../models/examples/parity/bsq.rs"]
mod bsq;
#[path = "../../models/examples/parity/compare.rs"]
mod compare;
#[path = "../../models/examples/parity/dinov2.rs"]
mod dinov2;
#[path = "../../models/examples/parity/echogen.rs"]
mod echogen;
#[path = "../../models/examples/parity/flux_vae.rs"]
mod flux_vae;
#[path = "../../models/examples/parity/grounding_dino.rs"]
mod grounding_dino;
#[path = "../../models/examples/parity/qwen2_5_vl.rs"]
mod qwen2_5_vl;
#[path = "../../models/examples/parity/sam.rs"]
mod sam;
#[path = "../../models/examples/parity/t5.rs"]
mod t5;

mod drawn_weights;
mod fixtures;
mod machine;
mod numbers;
mod pictures;
mod rates;
mod report;
mod size;
mod stored_bundle;

use std::path::PathBuf;

use echogen_checkpoint::bundle::Bundle;
use echogen_models::device::{Compute, DeviceChoice};

pub use report::{Check, Report, Section};
pub use size::Size;

/// What is examined.
#[derive(Debug)]
pub struct Options {
    /// The device that was asked for.
    pub device: DeviceChoice,
    /// That device and the type in which pictures are made, or why it cannot be opened.
    pub compute: Result<Compute, String>,
    /// The transformer whose weights are drawn.
    pub size: Size,
    /// The mini bundle, whose numbers are known; `None` if it was not found.
    pub mini: Option<Bundle>,
    /// Another bundle, of which one picture is made.
    pub bundle: Option<Bundle>,
    /// Folder with reference values.
    pub fixtures: Option<PathBuf>,
}

/// Examines the machine. `progress` is called with the name of each part before it begins.
pub fn examine(options: &Options, mut progress: impl FnMut(&str)) -> Report {
    let mut report = Report::new();
    progress("the device");
    let Some(compute) = machine::examine(options, &mut report) else { return report };
    progress("rates");
    let rates = report.part("Rates", |report| rates::measure(&compute, report));
    if let Some(mini) = &options.mini {
        progress("numbers");
        report.part("Numbers of the mini bundle", |report| numbers::compare(mini, &compute.device, report));
    } else {
        report.skip("Numbers of the mini bundle", "no bundle `mini` was found; name its folder with --bundles");
    }
    match &options.fixtures {
        Some(folder) => {
            progress("reference values");
            report.part("Reference values", |report| fixtures::compare(folder, &compute.device, report));
        }
        None => report.skip("Reference values", "no folder was given; it is tests/fixtures of the source"),
    }
    progress("pictures");
    let products = rates.and_then(|rates| rates.of(compute.dtype));
    report.part("Pictures of drawn weights", |report| pictures::make(options.size, &compute, products, report));
    if let Some(bundle) = &options.bundle {
        progress("the bundle");
        report.part("The bundle", |report| stored_bundle::examine(bundle, &compute, report));
    }
    report
}
