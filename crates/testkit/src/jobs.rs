//! Jobs for tests, and what networks that only pretend make of them.

use echogen_protocol::{Job, JobId, Parameters, PerScale, PixelBudget};

/// A valid job with every setting at its default.
pub fn job(id: &str) -> Job {
    Job { id: JobId(id.to_owned()), ..Job::new("dog.png".into(), "a dog on a beach") }
}

/// The parameters of a job's pictures, squares of `side` pixels from a bundle that does not exist, with all guidance at 1.
pub fn parameters(job: &Job, bundle: &str, side: u32) -> Parameters {
    let all = PerScale::All(1.0);
    Parameters {
        bundle: bundle.to_owned(),
        prompt: job.prompt.clone(),
        negative_prompt: None,
        aspect_ratio: job.aspect_ratio.to_string(),
        pixel_budget: PixelBudget::M0_06,
        width: side,
        height: side,
        text_guidance: all.clone(),
        subject_guidance: all.clone(),
        temperature: all,
        top_k: 1,
        top_p: 1.0,
        format: job.output.format,
        quality: job.output.quality,
    }
}
