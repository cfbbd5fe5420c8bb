//! Subject-text classifier-free guidance: which rows run, and how their logits are combined.
//!
//! Each image has three rows: 0 = (text, subject), 1 = (text, no subject), 2 = (no text, no subject). With cfg_t and
//! cfg_i, the published L = L2 + cfg_t (L1 − L2) + cfg_i (L0 − L1) equals the weighted sum cfg_i·L0 + (cfg_t −
//! cfg_i)·L1 + (1 − cfg_t)·L2. A row whose weight is zero at the current and every later scale is not run. With cfg_t
//! = cfg_i, the published default, that is row 1.

use serde::{Deserialize, Serialize};

use crate::layers::draws::Choice;

/// A parameter for all scales, or one value per scale from coarse to fine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerScale {
    /// The same value at every scale.
    All(f64),
    /// One value per scale.
    Each(Vec<f64>),
}

impl PerScale {
    /// Returns the value at `scale`. A list that is too short repeats its last value.
    pub fn at(&self, scale: usize) -> f64 {
        match self {
            Self::All(value) => *value,
            Self::Each(values) => values.get(scale).or(values.last()).copied().unwrap_or(1.0),
        }
    }

    fn values(&self) -> &[f64] {
        match self {
            Self::All(value) => std::slice::from_ref(value),
            Self::Each(values) => values,
        }
    }
}

/// Sampling parameters of one image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingOptions {
    /// cfg_t: strength of text guidance.
    pub guidance_text: PerScale,
    /// cfg_i: strength of subject guidance.
    pub guidance_subject: PerScale,
    /// tau: the logits are divided by it.
    pub temperature: PerScale,
    /// 1 is greedy. Any larger number has no effect, because a bit has two values.
    pub top_k: u32,
    /// A value with probability 1 − top_p or less is never drawn; 0 disables this.
    pub top_p: f64,
}

impl Default for SamplingOptions {
    /// The defaults of the published inference script.
    fn default() -> Self {
        Self {
            guidance_text: PerScale::All(2.5),
            guidance_subject: PerScale::All(2.5),
            temperature: PerScale::All(2.0),
            top_k: 900,
            top_p: 0.97,
        }
    }
}

impl SamplingOptions {
    /// Checks the parameters. The error says what to change.
    pub fn validate(&self, scales: usize) -> Result<(), String> {
        for (name, value) in [
            ("text guidance", &self.guidance_text),
            ("subject guidance", &self.guidance_subject),
            ("temperature", &self.temperature),
        ] {
            if let PerScale::Each(list) = value
                && list.len() != scales
            {
                return Err(format!(
                    "{name} has {} numbers; give one, or one for each of the {scales} scales",
                    list.len()
                ));
            }
            if let Some(bad) = value.values().iter().find(|v| !v.is_finite()) {
                return Err(format!("{name} is {bad}; give a finite number"));
            }
        }
        if self.temperature.values().iter().any(|t| *t <= 0.0) {
            return Err("temperature must be above 0".to_owned());
        }
        if self.top_k == 0 {
            return Err("top_k must be at least 1".to_owned());
        }
        if !(0.0..=1.0).contains(&self.top_p) {
            return Err(format!("top_p is {}; it must lie between 0 and 1", self.top_p));
        }
        Ok(())
    }

    /// Returns how a bit is chosen from its logits.
    pub fn choice(&self) -> Choice {
        Choice { is_greedy: self.top_k == 1, top_p: self.top_p }
    }

    /// Returns the weights of the three rows at `scale`.
    pub fn row_weights(&self, scale: usize) -> [f64; 3] {
        let (text, subject) = (self.guidance_text.at(scale), self.guidance_subject.at(scale));
        [subject, text - subject, 1.0 - text]
    }

    /// Returns, for each row, the number of leading scales at which it must run.
    pub fn row_scales(&self, scales: usize) -> [usize; 3] {
        [0, 1, 2]
            .map(|row| (0..scales).rev().find(|scale| self.row_weights(*scale)[row] != 0.0).map_or(0, |last| last + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(text: PerScale, subject: PerScale) -> SamplingOptions {
        SamplingOptions { guidance_text: text, guidance_subject: subject, ..SamplingOptions::default() }
    }

    #[test]
    fn rows_without_weight_are_not_run() {
        let all = PerScale::All;
        assert_eq!(SamplingOptions::default().row_scales(7), [7, 0, 7]);
        assert_eq!(options(all(3.0), all(2.0)).row_scales(7), [7, 7, 7]);
        assert_eq!(options(all(1.0), all(2.0)).row_scales(7), [7, 7, 0]);
        assert_eq!(options(all(2.0), all(0.0)).row_scales(7), [0, 7, 7]);
        assert_eq!(options(all(1.0), all(1.0)).row_scales(7), [7, 0, 0]);
    }

    #[test]
    fn a_row_runs_up_to_the_last_scale_that_needs_it() {
        let text = PerScale::Each(vec![2.0, 3.0, 1.0, 1.0]);
        let subject = PerScale::Each(vec![2.0, 2.0, 1.0, 1.0]);
        assert_eq!(options(text, subject).row_scales(4), [4, 2, 2]);
    }

    #[test]
    fn weights_are_the_published_formula() {
        let (l0, l1, l2) = (0.3, -1.2, 2.5);
        let [a, b, c] = options(PerScale::All(3.5), PerScale::All(1.25)).row_weights(0);
        let published = l2 + 3.5 * (l1 - l2) + 1.25 * (l0 - l1);
        assert!((a * l0 + b * l1 + c * l2 - published).abs() < 1e-12);
    }

    #[test]
    fn nonsense_is_refused() {
        let wrong = [
            options(PerScale::All(f64::NAN), PerScale::All(1.0)),
            options(PerScale::All(1.0), PerScale::Each(vec![1.0; 3])),
            SamplingOptions { temperature: PerScale::All(0.0), ..SamplingOptions::default() },
            SamplingOptions { top_p: 1.5, ..SamplingOptions::default() },
            SamplingOptions { top_k: 0, ..SamplingOptions::default() },
        ];
        assert!(wrong.iter().all(|options| options.validate(7).is_err()));
        assert!(SamplingOptions::default().validate(7).is_ok());
    }
}
