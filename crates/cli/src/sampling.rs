//! From options to jobs: the settings of one job, and the defaults of a batch.

use echogen_protocol::{Job, JobError, Seeds};
use serde_json::{Map, Value, json};

use crate::arguments::SamplingOptions;

impl SamplingOptions {
    /// Sets what was given and leaves the rest as it is.
    pub(crate) fn apply(&self, job: &mut Job) {
        job.negative_prompt = self.negative_prompt.clone().or(job.negative_prompt.take());
        job.seeds = self.seeds().unwrap_or_else(|| job.seeds.clone());
        job.aspect_ratio = self.aspect_ratio.clone().unwrap_or_else(|| job.aspect_ratio.clone());
        job.pixel_budget = self.pixels.or(job.pixel_budget);
        job.guidance.text = self.guidance_text.clone().or(job.guidance.text.take());
        job.guidance.subject = self.guidance_subject.clone().or(job.guidance.subject.take());
        job.temperature = self.temperature.clone().or(job.temperature.take());
        job.top_k = self.top_k.or(job.top_k);
        job.top_p = self.top_p.or(job.top_p);
        job.subject.mask = self.mask.unwrap_or(job.subject.mask);
        job.output.format = self.format.unwrap_or(job.output.format);
        job.output.quality = self.quality.or(job.output.quality);
    }

    /// `--seeds 1,2` is a list; `--count 4` counts up from the first seed.
    fn seeds(&self) -> Option<Seeds> {
        match (self.seeds.as_slice(), self.count) {
            ([], None) => None,
            ([], Some(count)) => Some(Seeds::count(count)),
            ([first, ..], Some(count)) if self.seeds.len() == 1 => Some(Seeds::Range { first: *first, count }),
            (seeds, _) => Some(Seeds::List(seeds.to_vec())),
        }
    }

    /// Refuses values that no job may have, before any line is read.
    pub(crate) fn check(&self) -> Result<(), JobError> {
        if let (Some(count), true) = (self.count, self.seeds.len() > 1) {
            let message =
                format!("gives {} seeds, and --count says {count} pictures; use one of them", self.seeds.len());
            return Err(JobError::new("seeds", message));
        }
        let mut job = Job::new("subject.png".into(), "a subject").with_id();
        self.apply(&mut job);
        job.validate()
    }

    /// The given values as fields of a job, for lines that do not have them.
    pub(crate) fn as_defaults(&self) -> Map<String, Value> {
        let guidance = present([("text", json!(self.guidance_text)), ("subject", json!(self.guidance_subject))]);
        let output = present([("format", json!(self.format)), ("quality", json!(self.quality))]);
        present([
            ("negative_prompt", json!(self.negative_prompt)),
            ("seeds", json!(self.seeds())),
            ("aspect_ratio", json!(self.aspect_ratio)),
            ("pixel_budget", json!(self.pixels)),
            ("guidance", Value::Object(guidance)),
            ("temperature", json!(self.temperature)),
            ("top_k", json!(self.top_k)),
            ("top_p", json!(self.top_p)),
            ("subject", Value::Object(present([("mask", json!(self.mask))]))),
            ("output", Value::Object(output)),
        ])
    }
}

fn present<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let is_present = |value: &Value| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty());
    fields.into_iter().filter(|(_, value)| is_present(value)).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use echogen_protocol::PerScale;

    use super::*;

    fn options() -> SamplingOptions {
        SamplingOptions {
            guidance_text: Some(PerScale::All(4.0)),
            guidance_subject: Some(PerScale::All(2.0)),
            count: Some(3),
            top_k: Some(1),
            ..SamplingOptions::default()
        }
    }

    #[test]
    fn what_was_given_becomes_fields_of_a_job() {
        let expected =
            json!({ "guidance": {"text": 4.0, "subject": 2.0}, "seeds": {"count": 3, "first": 42}, "top_k": 1 });
        assert_eq!(Value::Object(options().as_defaults()), expected);
        assert!(SamplingOptions::default().as_defaults().is_empty());
    }

    #[test]
    fn options_out_of_range_are_refused_before_anything_runs() {
        let message = |options: SamplingOptions| options.check().unwrap_err().to_string();
        let defaults = SamplingOptions::default;
        assert!(message(SamplingOptions { count: Some(0), ..defaults() }).starts_with("seeds.count: is 0"));
        assert!(message(SamplingOptions { count: Some(10_000), ..defaults() }).starts_with("seeds.count: is 10000"));
        let nan = SamplingOptions { guidance_text: Some(PerScale::All(f64::NAN)), ..defaults() };
        assert!(message(nan).starts_with("guidance.text: is NaN"));
        let both = SamplingOptions { seeds: vec![1, 2], count: Some(3), ..defaults() };
        assert!(message(both).contains("use one of them"));
        assert!(options().check().is_ok());
    }

    #[test]
    fn one_seed_and_a_count_is_a_range() {
        let options = SamplingOptions { seeds: vec![7], count: Some(2), ..SamplingOptions::default() };
        assert_eq!(options.seeds(), Some(Seeds::Range { first: 7, count: 2 }));
    }
}
