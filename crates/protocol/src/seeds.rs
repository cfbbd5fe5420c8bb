//! Which seeds to sample with.

use std::fmt;

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, value},
};

use crate::{JobError, limits};

/// Which seeds to sample with: a list, or a first seed and a count. 1 to 64 pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(deny_unknown_fields)]
pub enum Seeds {
    /// These seeds, no two the same.
    List(#[schemars(length(min = 1, max = limits::MAX_SEEDS), extend("uniqueItems" = true))] Vec<u64>),
    /// `count` seeds, from `first` upwards.
    Range {
        /// The first seed; 42 if absent.
        #[serde(default = "default_first")]
        first: u64,
        /// How many.
        #[schemars(range(min = 1, max = limits::MAX_SEEDS))]
        count: u32,
    },
}

impl Seeds {
    /// `count` seeds from the default one upwards.
    pub fn count(count: u32) -> Self {
        Self::Range { first: default_first(), count }
    }

    /// The seeds one by one, in the order of the pictures. Of a job that does not validate, at most the limit.
    pub fn values(&self) -> Vec<u64> {
        match self {
            Self::List(seeds) => seeds.iter().copied().take(limits::MAX_SEEDS).collect(),
            Self::Range { first, count } => {
                let count = u64::from(*count).min(limits::MAX_SEEDS as u64);
                (0..count).map(|offset| first.wrapping_add(offset)).collect()
            }
        }
    }

    pub(crate) fn validate(&self) -> Result<(), JobError> {
        match self {
            Self::List(seeds) => validate_list(seeds),
            Self::Range { first, count } => validate_range(*first, *count),
        }
    }
}

fn validate_list(seeds: &[u64]) -> Result<(), JobError> {
    if seeds.is_empty() || seeds.len() > limits::MAX_SEEDS {
        let message = format!("lists {} seeds; a job makes 1 to {} pictures", seeds.len(), limits::MAX_SEEDS);
        return Err(JobError::new("seeds", message));
    }
    for (index, seed) in seeds.iter().enumerate() {
        if seeds.iter().take(index).any(|earlier| earlier == seed) {
            return Err(JobError::new(format!("seeds[{index}]"), format!("{seed} is listed twice; leave one out")));
        }
    }
    Ok(())
}

fn validate_range(first: u64, count: u32) -> Result<(), JobError> {
    if count == 0 || count as usize > limits::MAX_SEEDS {
        let message = format!("is {count}; a job makes 1 to {} pictures", limits::MAX_SEEDS);
        return Err(JobError::new("seeds.count", message));
    }
    if first.checked_add(u64::from(count) - 1).is_none() {
        let message = format!("is {first}; with {count} pictures the seeds pass {}, start lower", u64::MAX);
        return Err(JobError::new("seeds.first", message));
    }
    Ok(())
}

impl Default for Seeds {
    fn default() -> Self {
        Self::count(1)
    }
}

fn default_first() -> u64 {
    42
}

#[derive(Deserialize)]
struct Range {
    #[serde(default = "default_first")]
    first: u64,
    count: u32,
}

/// By hand, because serde's untagged enums say only "did not match any variant".
impl<'de> Deserialize<'de> for Seeds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Seeds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of seeds or {\"first\": 42, \"count\": 4}")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seeds: A) -> Result<Seeds, A::Error> {
                Deserialize::deserialize(value::SeqAccessDeserializer::new(seeds)).map(Seeds::List)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Seeds, A::Error> {
                let Range { first, count } = Deserialize::deserialize(value::MapAccessDeserializer::new(map))?;
                Ok(Seeds::Range { first, count })
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_counts_upwards_and_a_list_keeps_its_order() {
        assert_eq!(Seeds::Range { first: 7, count: 3 }.values(), [7, 8, 9]);
        assert_eq!(Seeds::List(vec![9, 1]).values(), [9, 1]);
        assert_eq!(Seeds::default().values(), [42]);
    }

    #[test]
    fn an_absurd_count_allocates_no_more_than_the_limit() {
        assert_eq!(Seeds::Range { first: u64::MAX, count: u32::MAX }.values().len(), limits::MAX_SEEDS);
    }

    #[test]
    fn counts_outside_the_limit_are_refused() {
        for count in [0, 65, 10_000] {
            let error = Seeds::count(count).validate().unwrap_err();
            assert_eq!(error.to_string(), format!("seeds.count: is {count}; a job makes 1 to 64 pictures"));
        }
        assert!(Seeds::List(vec![]).validate().is_err());
        assert!(Seeds::List((0..65).collect()).validate().is_err());
        assert!(Seeds::List((0..64).collect()).validate().is_ok());
        assert!(Seeds::Range { first: u64::MAX, count: 2 }.validate().is_err());
        assert!(Seeds::Range { first: u64::MAX, count: 1 }.validate().is_ok());
    }

    #[test]
    fn a_seed_listed_twice_is_named() {
        let error = Seeds::List(vec![5, 6, 5]).validate().unwrap_err();
        assert_eq!(error.to_string(), "seeds[2]: 5 is listed twice; leave one out");
    }
}
