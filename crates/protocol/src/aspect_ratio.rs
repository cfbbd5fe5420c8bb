//! The shape of a picture: width to height.

use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{JobError, limits, text::quoted};

/// Width to height, as the client wrote it: `"16:9"`, `"1.5"`, or the number 1.5. Always between 1:3 and 3:1; the
/// sampler uses the nearest shape of its schedule table.
#[derive(Clone, Debug, PartialEq)]
pub struct AspectRatio {
    text: String,
    width_to_height: f64,
}

impl AspectRatio {
    /// The `format` of its JSON Schema.
    pub(crate) const FORMAT: &'static str = "aspect-ratio";

    /// Width divided by height; finite, between 1/3 and 3.
    pub fn width_to_height(&self) -> f64 {
        self.width_to_height
    }

    /// As the client wrote it.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl Default for AspectRatio {
    fn default() -> Self {
        Self { text: "1:1".to_owned(), width_to_height: 1.0 }
    }
}

impl FromStr for AspectRatio {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let Some(width_to_height) = read_ratio(text) else {
            return Err(fault(&format!("{} is no aspect ratio", quoted(text))));
        };
        // A tolerance, so that 0.3333 is accepted as 1:3.
        let widest = limits::MAX_ASPECT_RATIO * 1.001;
        if !(1.0 / widest..=widest).contains(&width_to_height) {
            let how = if width_to_height > 1.0 { "wide" } else { "narrow" };
            return Err(fault(&format!("{} is too {how}", quoted(text))));
        }
        Ok(Self { text: text.to_owned(), width_to_height })
    }
}

fn read_ratio(text: &str) -> Option<f64> {
    let positive = |part: &str| part.trim().parse::<f64>().ok().filter(|x| x.is_finite() && *x > 0.0);
    // Neither "inf" nor exponents: what the JSON Schema's pattern refuses is refused here too.
    if text.len() > 32 || !text.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | ':' | ' ')) {
        return None;
    }
    match text.split_once(':') {
        Some((width, height)) => Some(positive(width)? / positive(height)?),
        None => positive(text),
    }
}

fn fault(what: &str) -> JobError {
    let allowed = "use width:height or a number from 1:3 to 3:1, such as 1:1, 4:3, 3:4, 3:2, 2:3, 16:9 or 9:16";
    JobError::new("aspect_ratio", format!("{what}; {allowed}"))
}

impl fmt::Display for AspectRatio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for AspectRatio {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for AspectRatio {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = AspectRatio;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an aspect ratio such as \"16:9\" or 1.5")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<AspectRatio, E> {
                text.parse().map_err(|fault: JobError| E::custom(fault.message))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<AspectRatio, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<AspectRatio, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<AspectRatio, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for AspectRatio {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "AspectRatio".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "format": Self::FORMAT,
            "anyOf": [
                { "type": "string", "pattern": r"^ *[0-9.]+ *(: *[0-9.]+ *)?$", "maxLength": 32 },
                { "type": "number", "minimum": 1.0 / 3.003, "maximum": 3.003 },
            ],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: f64) {
        let ratio: AspectRatio = text.parse().unwrap();
        assert!((ratio.width_to_height() - expected).abs() < 1e-12, "{text}");
    }

    #[test]
    fn pairs_and_numbers_are_read() {
        check("1:1", 1.0);
        check("16:9", 16.0 / 9.0);
        check("3:1", 3.0);
        check("1:3", 1.0 / 3.0);
        check("0.75", 0.75);
        check("1.91:1", 1.91);
    }

    #[test]
    fn absurd_and_unknown_ratios_are_refused_with_what_is_allowed() {
        for text in ["", "square", "16/9", "1:4", "4:1", "0:1", "1:0", "-1:1", "NaN", "inf", "1:1:1", "1e400", ":"] {
            let error = text.parse::<AspectRatio>().unwrap_err();
            assert!(error.message.contains("from 1:3 to 3:1"), "{text}: {error}");
        }
    }

    #[test]
    fn a_json_number_is_the_same_as_its_text() {
        let number: AspectRatio = serde_json::from_str("1.5").unwrap();
        let text: AspectRatio = serde_json::from_str("\"1.5\"").unwrap();
        assert_eq!(number, text);
        assert!(serde_json::from_str::<AspectRatio>("9").is_err());
    }
}
