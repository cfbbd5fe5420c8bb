//! Partitions of tenants: each stage's lane is split into a fixed number of queues, and a worker serves them in turn, so that
//! one tenant's backlog delays only those who share its queue.
//!
//! A partition belongs to no tenant: many share one. There is no list of tenants anywhere.

use std::fmt;

/// One of the queues into which a lane is split.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// That of jobs without a tenant, and of clients that name only a lane.
    pub const ZERO: Self = Self(0);

    /// Its number.
    pub const fn number(self) -> u16 {
        self.0
    }

    /// Reads a number as queues' names have it: without a sign and without leading zeros.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let number: u16 = text.parse().ok()?;
        (number < Partitions::MAX && number.to_string() == text).then_some(Self(number))
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many partitions an installation has, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions(u16);

impl Partitions {
    /// The most that an installation can have: each is a queue for every lane and stage, which costs the broker memory.
    pub const MAX: u16 = 64;

    /// A single one: lanes are not split.
    pub const ONE: Self = Self(1);

    /// So many, moved into the bounds.
    pub const fn clamped(count: u16) -> Self {
        match count {
            0 => Self(1),
            Self::MAX.. => Self(Self::MAX),
            count => Self(count),
        }
    }

    /// How many.
    pub const fn count(self) -> u16 {
        self.0
    }

    /// All of them, in order.
    pub fn all(self) -> impl Iterator<Item = Partition> + Clone {
        (0..self.0).map(Partition)
    }

    /// Those that this installation does not have, but one with a larger number may have declared; in order.
    pub fn beyond(self) -> impl Iterator<Item = Partition> {
        (self.0..Self::MAX).map(Partition)
    }

    /// A tenant's partition: CRC-32 (IEEE) of its name, modulo the number of partitions. Without a tenant it is the first.
    pub fn of(self, tenant: Option<&str>) -> Partition {
        // The remainder is below a number of 16 bits.
        tenant.map_or(Partition::ZERO, |name| Partition((crc32fast::hash(name.as_bytes()) % u32::from(self.0)) as u16))
    }
}

impl Default for Partitions {
    /// Eight: fifty tenants beside a busy one have on average six in its partition.
    fn default() -> Self {
        Self(8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenants_partition_is_the_one_that_other_languages_compute() {
        // Python: zlib.crc32(b"acme") % 8
        for (tenant, crc) in [("acme", 0x05c4_ba3e_u32), ("123456789", 0xcbf4_3926), ("shop-7", 0x3a15_92a5)] {
            for count in [1, 4, 8, 16, 64] {
                let partition = Partitions::clamped(count).of(Some(tenant));
                assert_eq!(u32::from(partition.number()), crc % u32::from(count), "{tenant} of {count}");
            }
        }
        assert_eq!(Partitions::default().of(None), Partition::ZERO);
    }

    #[test]
    fn their_number_has_bounds() {
        assert_eq!([0, 1, 8, 64, 65, u16::MAX].map(|count| Partitions::clamped(count).count()), [1, 1, 8, 64, 64, 64]);
        let all = Partitions::clamped(3);
        assert_eq!(all.all().map(Partition::number).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!((all.beyond().next(), all.beyond().last()), (Some(Partition(3)), Some(Partition(63))));
        assert_eq!(Partition::parse("63"), Some(Partition(63)));
        for text in ["", "64", "-1", "+1", "01", "bulk", "65536"] {
            assert_eq!(Partition::parse(text), None, "{text:?}");
        }
    }
}
