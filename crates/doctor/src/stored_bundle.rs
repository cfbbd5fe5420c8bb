//! A bundle that is installed: loaded, and one picture made of it.

use std::{ops::ControlFlow, sync::Arc, time::Instant};

use anyhow::Context;
use echogen_checkpoint::bundle::{Bundle, Network};
use echogen_models::{
    device::Compute,
    echogen::{EchoGenConfig, SamplingOptions},
    encoded_subject::EncodedSubject,
    generator::{Generator, ImageRequest},
};

use crate::report::{Report, Section};

/// Bytes of the cache of conditions.
const CACHE_BYTES: usize = 4 << 30;

/// Loads the networks that make pictures, and makes one of the bundle's default size.
pub(crate) fn examine(bundle: &Bundle, compute: &Compute, report: &mut Report) -> anyhow::Result<()> {
    let mut section = Section::new(&format!("The bundle {}", bundle.name()), &["what", "seconds"]);
    let began = Instant::now();
    let generator = Generator::load(bundle, &compute.device, compute.dtype, CACHE_BYTES)?;
    compute.synchronize()?;
    section.row(["loading".to_owned(), format!("{:.2}", began.elapsed().as_secs_f64())]);

    let sampling = &bundle.manifest().sampling;
    let side =
        sampling.subject_resolution.get(&sampling.pixel_budget).context("the bundle names no subject resolution")?;
    let config: EchoGenConfig = bundle.config(Network::Transformer)?;
    let request = ImageRequest {
        prompt: "a red mug on a beach".to_owned(),
        negative_prompt: None,
        subject: Arc::new(EncodedSubject::blank(&config, *side as usize)?),
        seed: sampling.seed,
        options: SamplingOptions::default(),
    };
    let schedule = generator.schedules().nearest(sampling.height_to_width, sampling.pixel_budget.as_str())?;
    for what in ["first picture", "second picture"] {
        let began = Instant::now();
        generator.generate(std::slice::from_ref(&request), &schedule, |_, _| ControlFlow::Continue(()))?;
        section.row([what.to_owned(), format!("{:.2}", began.elapsed().as_secs_f64())]);
    }
    let advice = "verify the bundle with `echogen models verify`";
    report.check(
        "the bundle makes a picture",
        true,
        format!("{} x {}", schedule.pixels().1, schedule.pixels().0),
        advice,
    );
    report.sections.push(section);
    Ok(())
}
