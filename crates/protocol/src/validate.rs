//! Checks of a job, however it was built: everything in its JSON Schema, and what a schema cannot express.

use url::Url;

use crate::{Job, JobError, PerScale, key, limits, text::quoted};

impl Job {
    /// Checks every field against its limits; the first error is returned. [`Job::parse`] does this; a job that is
    /// built in code must be validated before it is published.
    pub fn validate(&self) -> Result<(), JobError> {
        id(&self.id.0)?;
        if let Some(tenant) = &self.tenant {
            validate_name("tenant", tenant, limits::MAX_TENANT_CHARS)?;
        }
        self.validate_subject()?;
        validate_text("prompt", &self.prompt, limits::MAX_PROMPT_CHARS, Lines::Many)?;
        if let Some(prompt) = &self.negative_prompt {
            validate_text("negative_prompt", prompt, limits::MAX_PROMPT_CHARS, Lines::Many)?;
        }
        self.seeds.validate()?;
        if self.previews > limits::MAX_PREVIEWS {
            let message = format!("is {}; give a number from 0 to {}", self.previews, limits::MAX_PREVIEWS);
            return Err(JobError::new("previews", message));
        }
        self.validate_sampling()?;
        self.validate_output()?;
        self.callback.as_deref().map_or(Ok(()), callback)?;
        self.validate_metadata()
    }

    fn validate_subject(&self) -> Result<(), JobError> {
        self.subject.image.location()?;
        if let Some(name) = &self.subject.name {
            validate_text("subject.name", name, limits::MAX_NAME_CHARS, Lines::One)?;
        }
        let Some(area) = &self.subject.bounding_box else { return Ok(()) };
        if self.subject.point.is_some() {
            return Err(JobError::new(
                "subject.point",
                "stands beside a box, which says it all; leave one of them out",
            ));
        }
        if area.left >= area.right || area.top >= area.bottom {
            let message = format!(
                "is empty: columns {} to {}, rows {} to {}; right and bottom are exclusive and must be larger",
                area.left, area.right, area.top, area.bottom
            );
            return Err(JobError::new("subject.box", message));
        }
        Ok(())
    }

    fn validate_sampling(&self) -> Result<(), JobError> {
        let guidance = |number: f64| {
            let fine = (0.0..=limits::MAX_GUIDANCE).contains(&number);
            (!fine).then(|| format!("is {number}; give a number from 0 to {}", limits::MAX_GUIDANCE))
        };
        let temperature = |number: f64| {
            let fine = number > 0.0 && number <= limits::MAX_TEMPERATURE;
            (!fine).then(|| format!("is {number}; give a number above 0, at most {}", limits::MAX_TEMPERATURE))
        };
        validate_per_scale("guidance.text", self.guidance.text.as_ref(), guidance)?;
        validate_per_scale("guidance.subject", self.guidance.subject.as_ref(), guidance)?;
        validate_per_scale("temperature", self.temperature.as_ref(), temperature)?;
        if self.top_k == Some(0) {
            return Err(JobError::new("top_k", "is 0; 1 takes the likelier value of every bit, 2 or more draws"));
        }
        match self.top_p {
            Some(top_p) if !(top_p > 0.0 && top_p <= 1.0) => {
                Err(JobError::new("top_p", format!("is {top_p}; give a number above 0, at most 1")))
            }
            _ => Ok(()),
        }
    }

    fn validate_output(&self) -> Result<(), JobError> {
        if let Some(quality) = self.output.quality
            && !(1..=100).contains(&quality)
        {
            return Err(JobError::new("output.quality", format!("is {quality}; give a number from 1 to 100")));
        }
        if let Some(destination) = &self.output.destination {
            key::check_object_key(destination)
                .map_err(|error| JobError::new("output.destination", error.to_string()))?;
        }
        // The id and a file's name follow, so the longest of the job's keys must fit too.
        key::check_object_key(&self.result_key())
            .map_err(|error| JobError::new("output.destination", error.to_string()))
    }

    fn validate_metadata(&self) -> Result<(), JobError> {
        let fault = |message: String| Err(JobError::new("metadata", message));
        if self.metadata.len() > limits::MAX_METADATA_ENTRIES {
            let limit = limits::MAX_METADATA_ENTRIES;
            return fault(format!("has {} entries; the limit is {limit}", self.metadata.len()));
        }
        for (key, value) in &self.metadata {
            let (key_chars, value_chars) = (key.chars().count(), value.chars().count());
            if key_chars == 0 || key_chars > limits::MAX_METADATA_KEY_CHARS {
                let limit = limits::MAX_METADATA_KEY_CHARS;
                return fault(format!("the key {} has {key_chars} characters; give 1 to {limit}", quoted(key)));
            }
            if value_chars > limits::MAX_METADATA_VALUE_CHARS {
                let limit = limits::MAX_METADATA_VALUE_CHARS;
                return fault(format!(
                    "the value of {} has {value_chars} characters; the limit is {limit}",
                    quoted(key)
                ));
            }
        }
        Ok(())
    }
}

/// Whether a text may hold line breaks and tabs.
#[derive(Clone, Copy, PartialEq)]
enum Lines {
    One,
    Many,
}

/// Checks the address that is notified of a job's end.
pub(crate) fn callback(address: &str) -> Result<(), JobError> {
    let fault = |message: String| Err(JobError::new("callback", message));
    if address.len() > limits::MAX_CALLBACK_CHARS {
        return fault(format!("has {} characters; the limit is {}", address.len(), limits::MAX_CALLBACK_CHARS));
    }
    match Url::parse(address) {
        Err(error) => fault(format!("{} is no address: {error}", quoted(address))),
        Ok(url) if url.scheme() != "https" || !address.starts_with("https://") => {
            fault(format!("{} does not begin with https://", quoted(address)))
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            fault("carries a user name or password; take it out".to_owned())
        }
        Ok(_) => Ok(()),
    }
}

/// Checks a job's id.
pub(crate) fn id(text: &str) -> Result<(), JobError> {
    validate_name("id", text, limits::MAX_ID_CHARS)?;
    if text.starts_with('.') {
        return Err(JobError::new("id", format!("{} begins with a dot; begin with a letter or digit", quoted(text))));
    }
    Ok(())
}

fn validate_name(field: &str, name: &str, limit: usize) -> Result<(), JobError> {
    let length = name.chars().count();
    if length == 0 || length > limit {
        return Err(JobError::new(field, format!("has {length} characters; give 1 to {limit}")));
    }
    if let Some(bad) = name.chars().find(|&c| !key::is_key_char(c)) {
        let message = format!("{} contains {bad:?}; use letters, digits, \".\", \"_\" and \"-\"", quoted(name));
        return Err(JobError::new(field, message));
    }
    Ok(())
}

fn validate_text(field: &str, text: &str, limit: usize, lines: Lines) -> Result<(), JobError> {
    let length = text.chars().count();
    if length > limit {
        return Err(JobError::new(field, format!("has {length} characters; the limit is {limit}, shorten it")));
    }
    if text.trim().is_empty() {
        return Err(JobError::new(field, "is empty; write a few words"));
    }
    let allowed = |c: char| !c.is_control() || (lines == Lines::Many && matches!(c, '\n' | '\r' | '\t'));
    if let Some((place, bad)) = text.chars().enumerate().find(|&(_, c)| !allowed(c)) {
        let message = format!("contains the control character {bad:?} at place {}; remove it", place + 1);
        return Err(JobError::new(field, message));
    }
    Ok(())
}

fn validate_per_scale(
    field: &str,
    numbers: Option<&PerScale>,
    check: impl Fn(f64) -> Option<String>,
) -> Result<(), JobError> {
    numbers.map_or(Ok(()), |numbers| numbers.validate(field, check))
}
