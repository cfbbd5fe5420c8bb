//! Names of pixel budgets: about how many pixels a picture has.

use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{JobError, text::quoted};

/// Most digits before the point, and after it.
const MAX_DIGITS: usize = 4;

/// Length of the longest name: two groups of digits, the point and the letter.
const MAX_BYTES: usize = 2 * MAX_DIGITS + 2;

/// About how many pixels a picture has, by its name: millions of pixels, such as `0.06M`. Which budgets there are is for the
/// model bundle to say; `0.06M` and `0.060M` are two names, and a bundle has one of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PixelBudget {
    /// The name, filled up with zeros.
    name: [u8; MAX_BYTES],
}

impl PixelBudget {
    /// The `format` of its JSON Schema.
    pub(crate) const FORMAT: &'static str = "pixel-budget";

    /// About 64 x 64, of bits: a decoder may draw them larger.
    pub const M0_004: Self = Self::filled(b"0.004M");
    /// About 256 x 256.
    pub const M0_06: Self = Self::filled(b"0.06M");
    /// About 512 x 512.
    pub const M0_25: Self = Self::filled(b"0.25M");
    /// About 768 x 768.
    pub const M0_60: Self = Self::filled(b"0.60M");
    /// About 1024 x 1024.
    pub const M1: Self = Self::filled(b"1M");

    /// Cuts a name that is too long; names from outside have been checked.
    const fn filled(text: &[u8]) -> Self {
        let (mut name, mut index) = ([0; MAX_BYTES], 0);
        while index < text.len() && index < MAX_BYTES {
            name[index] = text[index];
            index += 1;
        }
        Self { name }
    }

    /// The name, such as `0.06M`.
    pub fn as_str(&self) -> &str {
        let length = self.name.iter().position(|byte| *byte == 0).unwrap_or(MAX_BYTES);
        // Only ASCII has been let in.
        std::str::from_utf8(&self.name[..length]).unwrap_or_default()
    }

    /// About how large a picture is, in thousands of pixels.
    pub fn kilopixels(self) -> u32 {
        u32::try_from(self.pixels() / 1_000).unwrap_or(u32::MAX).max(1)
    }

    /// The number that the name says.
    fn pixels(self) -> u64 {
        let number = self.as_str().trim_end_matches('M');
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = |text: &str| text.parse::<u64>().unwrap_or_default();
        // Four digits after the point: units of a hundred pixels.
        digits(whole) * 1_000_000 + digits(&format!("{fraction:0<MAX_DIGITS$}")) * 100
    }
}

impl FromStr for PixelBudget {
    type Err = JobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let are_digits =
            |text: &str| (1..=MAX_DIGITS).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        let is_number = |number: &str| match number.split_once('.') {
            Some((whole, fraction)) => are_digits(whole) && are_digits(fraction),
            None => are_digits(number),
        };
        let named = text.strip_suffix('M').is_some_and(is_number).then(|| Self::filled(text.as_bytes()));
        named.filter(|budget| budget.pixels() > 0).ok_or_else(|| {
            let message = "is no pixel budget; name it by its millions of pixels, such as 0.06M, 0.25M, 0.60M or 1M";
            JobError::new("pixel_budget", format!("{} {message}", quoted(text)))
        })
    }
}

/// Smallest first.
impl Ord for PixelBudget {
    fn cmp(&self, other: &Self) -> Ordering {
        self.pixels().cmp(&other.pixels()).then_with(|| self.name.cmp(&other.name))
    }
}

impl PartialOrd for PixelBudget {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for PixelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for PixelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for PixelBudget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for PixelBudget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|fault: JobError| de::Error::custom(fault.message))
    }
}

impl JsonSchema for PixelBudget {
    fn schema_name() -> Cow<'static, str> {
        "PixelBudget".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "About how many pixels a picture has: millions of pixels, as one of those that the model bundle has.",
            "type": "string",
            "format": Self::FORMAT,
            "pattern": r"^[0-9]{1,4}(\.[0-9]{1,4})?M$",
            "examples": ["0.06M", "0.25M", "0.60M", "1M"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_as_they_are_and_sorted_by_size() {
        let names = ["0.004M", "0.060M", "0.06M", "0.25M", "0.60M", "1M", "2M", "1234.5678M"];
        let budgets = names.map(|name| name.parse::<PixelBudget>().unwrap());
        assert!(budgets.is_sorted());
        assert_eq!(budgets.map(|budget| budget.to_string()), names);
        assert_eq!((budgets[0], budgets[2]), (PixelBudget::M0_004, PixelBudget::M0_06));
        let json = serde_json::to_string(&budgets).unwrap();
        assert_eq!(serde_json::from_str::<Vec<PixelBudget>>(&json).unwrap(), budgets);
        assert_eq!(budgets.map(PixelBudget::kilopixels), [4, 60, 60, 250, 600, 1_000, 2_000, 1_234_567]);
    }

    #[test]
    fn what_is_no_number_of_millions_is_refused() {
        for text in ["", "M", "1", "1m", "-1M", ".5M", "1.M", "12345M", "0.12345M", "0M", "0.0M", "1 M", "big", "1e2M"]
        {
            let error = text.parse::<PixelBudget>().unwrap_err();
            assert!(error.message.contains("such as 0.06M"), "{text}: {error}");
        }
    }
}
