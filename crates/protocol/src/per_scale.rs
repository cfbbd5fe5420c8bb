//! Settings that may differ from scale to scale.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, SeqAccess, value},
};

use crate::{JobError, limits};

/// One number for all scales, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum PerScale {
    /// The same for every scale.
    All(f64),
    /// One number for each scale, coarse to fine; beyond the end of the list its last number applies.
    Each(#[schemars(length(min = 1, max = limits::MAX_SCALES))] Vec<f64>),
}

impl PerScale {
    /// The number of scale `scale`, counted from 0.
    pub fn at(&self, scale: usize) -> Option<f64> {
        match self {
            Self::All(number) => Some(*number),
            Self::Each(numbers) => numbers.get(scale).or(numbers.last()).copied(),
        }
    }

    /// The numbers of the first `scales` scales.
    pub fn expand(&self, scales: usize) -> Vec<f64> {
        (0..scales).filter_map(|scale| self.at(scale)).collect()
    }

    /// Checks the list's length and every number by `check`, which says what is wrong with it.
    pub(crate) fn validate(&self, field: &str, check: impl Fn(f64) -> Option<String>) -> Result<(), JobError> {
        let numbers = match self {
            Self::All(number) => {
                return check(*number).map_or(Ok(()), |message| Err(JobError::new(field, message)));
            }
            Self::Each(numbers) => numbers,
        };
        if numbers.is_empty() || numbers.len() > limits::MAX_SCALES {
            let message = format!("lists {} numbers; give 1 to {}, one a scale", numbers.len(), limits::MAX_SCALES);
            return Err(JobError::new(field, message));
        }
        for (index, number) in numbers.iter().enumerate() {
            if let Some(message) = check(*number) {
                return Err(JobError::new(format!("{field}[{index}]"), message));
            }
        }
        Ok(())
    }
}

impl From<f64> for PerScale {
    fn from(number: f64) -> Self {
        Self::All(number)
    }
}

/// By hand, because serde's untagged enums say only "did not match any variant".
impl<'de> Deserialize<'de> for PerScale {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = PerScale;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers, one a scale")
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<PerScale, E> {
                Ok(PerScale::All(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<PerScale, E> {
                Ok(PerScale::All(number as f64))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<PerScale, E> {
                Ok(PerScale::All(number as f64))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, numbers: A) -> Result<PerScale, A::Error> {
                Deserialize::deserialize(value::SeqAccessDeserializer::new(numbers)).map(PerScale::Each)
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_list_holds_its_last_number() {
        let numbers = PerScale::Each(vec![1.0, 2.0]);
        assert_eq!(numbers.expand(4), [1.0, 2.0, 2.0, 2.0]);
        assert_eq!(PerScale::All(3.0).expand(2), [3.0, 3.0]);
        assert_eq!(PerScale::Each(vec![]).at(0), None);
    }

    #[test]
    fn numbers_and_lists_are_read() {
        assert_eq!(serde_json::from_str::<PerScale>("2").unwrap(), PerScale::All(2.0));
        assert_eq!(serde_json::from_str::<PerScale>("-2").unwrap(), PerScale::All(-2.0));
        assert_eq!(serde_json::from_str::<PerScale>("[1, 2.5]").unwrap(), PerScale::Each(vec![1.0, 2.5]));
        assert!(serde_json::from_str::<PerScale>("\"NaN\"").is_err());
        assert!(serde_json::from_str::<PerScale>("1e999").is_err());
    }

    #[test]
    fn the_bad_number_of_a_list_is_named() {
        let check = |number: f64| (number < 0.0).then(|| "is negative".to_owned());
        let error = PerScale::Each(vec![1.0, -1.0]).validate("temperature", check).unwrap_err();
        assert_eq!(error.to_string(), "temperature[1]: is negative");
        assert!(PerScale::Each(vec![0.0; 13]).validate("temperature", check).is_ok());
        assert!(PerScale::Each(vec![0.0; 14]).validate("temperature", check).is_err());
        assert!(PerScale::Each(vec![]).validate("temperature", check).is_err());
    }
}
