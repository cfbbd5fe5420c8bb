//! Applies the default settings of jobs: to a single job, and to the lines of a jobs file.

use echogen_protocol::{Job, JobError, Seeds};
use serde_json::{Map, Value, json};

use super::JobDefaults;
use crate::JobFields;

/// Fields of a job whose settings have different names.
const RENAMED: [(&str, &str); 7] = [
    ("seeds.count", "count"),
    ("pixel_budget", "pixels"),
    ("guidance.text", "guidance_text"),
    ("guidance.subject", "guidance_subject"),
    ("subject.mask", "mask"),
    ("output.format", "format"),
    ("output.quality", "quality"),
];

impl JobDefaults {
    /// Applies the settings that were given and keeps the job's other fields. Lane, tenant and callback are not applied: only
    /// callers that use a queue apply them.
    pub fn apply(&self, job: &mut Job) {
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
        job.previews = self.previews.unwrap_or(job.previews);
    }

    /// `seeds = [1, 2]` is a list; `count = 4` counts up from the first seed.
    fn seeds(&self) -> Option<Seeds> {
        match (self.seeds.as_slice(), self.count) {
            ([], None) => None,
            ([], Some(count)) => Some(Seeds::count(count)),
            ([first, ..], Some(count)) if self.seeds.len() == 1 => Some(Seeds::Range { first: *first, count }),
            (seeds, _) => Some(Seeds::List(seeds.to_vec())),
        }
    }

    /// Rejects values that no job may have, before any line is read.
    pub(super) fn check(&self) -> Result<(), String> {
        if let (Some(count), true) = (self.count, self.seeds.len() > 1) {
            let seeds = self.seeds.len();
            return Err(format!("job.seeds gives {seeds} seeds, and job.count says {count} pictures; use one of them"));
        }
        let mut job = Job::new("subject.png".into(), "a subject").with_id();
        self.apply(&mut job);
        job.callback.clone_from(&self.callback);
        job.tenant.clone_from(&self.tenant);
        job.validate().map_err(|JobError { field, message }| format!("job.{} {message}", setting_of(&field)))
    }

    /// Returns the given values as job fields, for lines that lack them; without lane, tenant and callback.
    pub fn fields(&self) -> JobFields {
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
            ("previews", json!(self.previews)),
        ])
    }
}

/// Returns the setting that a job's field comes from. The field may be an item of a list.
fn setting_of(field: &str) -> &str {
    let field = field.split('[').next().unwrap_or(field);
    RENAMED.iter().find(|(name, _)| *name == field).map_or(field, |(_, setting)| setting)
}

fn present<const N: usize>(fields: [(&str, Value); N]) -> Map<String, Value> {
    let is_present = |value: &Value| !value.is_null() && value.as_object().is_none_or(|fields| !fields.is_empty());
    fields.into_iter().filter(|(_, value)| is_present(value)).map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use echogen_protocol::PerScale;

    use super::*;

    fn defaults() -> JobDefaults {
        JobDefaults {
            guidance_text: Some(PerScale::All(4.0)),
            guidance_subject: Some(PerScale::All(2.0)),
            count: Some(3),
            top_k: Some(1),
            ..JobDefaults::default()
        }
    }

    #[test]
    fn what_was_given_becomes_fields_of_a_job() {
        let expected =
            json!({ "guidance": {"text": 4.0, "subject": 2.0}, "seeds": {"count": 3, "first": 42}, "top_k": 1 });
        assert_eq!(Value::Object(defaults().fields()), expected);
        assert!(JobDefaults::default().fields().is_empty());
    }

    #[test]
    fn what_no_job_may_have_is_refused_by_the_setting_s_name_before_anything_runs() {
        let message = |given: JobDefaults| given.check().unwrap_err();
        let none = JobDefaults::default;
        assert!(message(JobDefaults { count: Some(0), ..none() }).starts_with("job.count is 0"));
        assert!(message(JobDefaults { count: Some(10_000), ..none() }).starts_with("job.count is 10000"));
        let nan = JobDefaults { guidance_text: Some(PerScale::All(f64::NAN)), ..none() };
        assert!(message(nan).starts_with("job.guidance_text is NaN"));
        let each = JobDefaults { temperature: Some(PerScale::Each(vec![1.0, -1.0])), ..none() };
        assert!(message(each).starts_with("job.temperature "));
        assert!(message(JobDefaults { top_p: Some(2.0), ..none() }).starts_with("job.top_p "));
        assert!(message(JobDefaults { tenant: Some("a b".into()), ..none() }).starts_with("job.tenant "));
        assert!(message(JobDefaults { callback: Some("http://a".into()), ..none() }).starts_with("job.callback "));
        let both = JobDefaults { seeds: vec![1, 2], count: Some(3), ..none() };
        assert!(message(both).contains("use one of them"));
        assert!(defaults().check().is_ok());
    }

    #[test]
    fn one_seed_and_a_count_is_a_range() {
        let given = JobDefaults { seeds: vec![7], count: Some(2), ..JobDefaults::default() };
        assert_eq!(given.seeds(), Some(Seeds::Range { first: 7, count: 2 }));
    }
}
