//! The division of what the weights leave: between the cache of conditions and batches, and from that the sampler's limits.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{ConditionBytes, Demand, MemoryPlan, PlanRequest, Work};
use crate::{echogen::Schedule, sizes::Sizes};

/// The share of the cache of conditions that is for rows; the rest is for texts and subjects.
const ROWS_SHARE: (u64, u64) = (5, 8);

/// Guidance rows of a picture, at most.
const MAX_ROWS: usize = 3;

/// Tokens of the prompts that are planned for: some 500 characters, of which none is the same for two pictures of a batch. In
/// real batches seeds share theirs, which leaves more memory than longer prompts take.
const TEXT_TOKENS: usize = 128;

/// Image tokens in a batch on a CPU: more are not faster.
const CPU_BATCH_TOKENS: u64 = 8_192;

/// Bytes of key-value caches in a batch on a CPU, at most.
const CPU_KV_BYTES: u64 = 4 << 30;

/// Bytes of the cache of conditions, if there is memory: more than a batch of a small model fills.
const CACHE_BYTES: u64 = 1 << 30;

/// The limits of a sampler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// Image tokens in a batch, at most; absent where memory alone decides, for each pixel budget.
    pub max_batch_tokens: Option<usize>,
    /// Bytes of key-value caches in a batch, at most.
    pub max_kv_bytes: u64,
    /// Bytes of the cache of conditions.
    pub condition_cache_bytes: u64,
}

/// Those limits that are set by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetLimits {
    /// See [`Limits::max_batch_tokens`].
    pub max_batch_tokens: Option<usize>,
    /// See [`Limits::max_kv_bytes`].
    pub max_kv_bytes: Option<u64>,
    /// See [`Limits::condition_cache_bytes`].
    pub condition_cache_bytes: Option<u64>,
}

/// What pictures of one pixel budget take, in the shape of the bundle's default. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BudgetPlan {
    /// The budget's name.
    pub name: String,
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// Image tokens of a picture.
    pub image_tokens: usize,
    /// Key-value caches of a picture, over all its guidance rows.
    pub kv_bytes: u64,
    /// Conditions of a picture that shares none with another.
    pub condition_bytes: u64,
    /// Working memory of a batch of one picture.
    pub working_bytes: u64,
    /// Pictures in a batch, at most; none if not even one fits.
    pub pictures: usize,
    /// Those that fit, for pictures of one, two and three guidance rows, whatever the limit of image tokens.
    pub pictures_by_rows: [usize; MAX_ROWS],
}

/// How many pictures of each pixel budget fit into a batch, whichever shape they have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchSizes(BTreeMap<String, [usize; MAX_ROWS]>);

impl BatchSizes {
    /// Returns the sizes of a plan.
    pub fn of(plan: &MemoryPlan) -> Self {
        let each = plan.budgets.iter();
        Self(each.map(|budget| (budget.name.clone(), budget.pictures_by_rows)).collect())
    }

    /// Returns the most pictures with that many guidance rows in a batch. One that does not fit is tried all the same.
    pub fn pictures(&self, budget: &str, rows: usize) -> Option<usize> {
        let by_rows = self.0.get(budget)?;
        by_rows.get(rows.clamp(1, MAX_ROWS) - 1).map(|pictures| (*pictures).max(1))
    }
}

/// One shape of one pixel budget.
struct Shape<'a> {
    demand: Demand<'a>,
    tokens: u64,
    /// Of one guidance row.
    kv_bytes: u64,
    /// Of one guidance row.
    conditions: ConditionBytes,
}

/// The cache of conditions: its size, and the bytes that it may really hold, since a cached row keeps the conditions of its
/// text and subject alive that the cache has dropped.
#[derive(Clone, Copy)]
struct ConditionCache {
    bytes: u64,
    held_bytes: u64,
}

/// What is divided, and among how many.
struct Division {
    left_bytes: u64,
    max_batch: u64,
    rows: u64,
    is_cpu: bool,
    set: SetLimits,
}

/// Returns the limits, and the plan of each pixel budget, smallest first.
pub(super) fn divide(plan: &MemoryPlan, request: &PlanRequest, sizes: &Sizes) -> (Limits, Vec<BudgetPlan>) {
    let division = Division {
        left_bytes: plan.left_bytes,
        max_batch: request.max_batch.max(1) as u64,
        rows: plan.rows.max(1) as u64,
        is_cpu: plan.is_cpu,
        set: request.set,
    };
    let names: Vec<&str> = sizes.schedules.budgets().collect();
    let schedules: Vec<Vec<Schedule>> =
        names.iter().map(|name| sizes.schedules.of_budget(name).unwrap_or_default()).collect();
    let shape = |name: &str, schedule| Shape::new(sizes, schedule, name, request.work);
    let shapes: Vec<Vec<Shape>> = names
        .iter()
        .zip(&schedules)
        .map(|(name, schedules)| schedules.iter().map(|schedule| shape(name, schedule)).collect())
        .collect();
    let cache = division.cache(&shapes);
    let ratio = request.bundle.manifest().sampling.height_to_width;
    let budgets: Vec<BudgetPlan> = names
        .iter()
        .zip(&shapes)
        .filter_map(|(name, shapes)| {
            let usual = sizes.schedules.nearest(ratio, name).or_else(|_| sizes.schedules.nearest(1.0, name)).ok()?;
            let usual = shapes.iter().find(|shape| *shape.demand.schedule == usual)?;
            Some(division.budget(name, usual, shapes, cache))
        })
        .collect();
    (division.limits(&budgets, cache), budgets)
}

impl<'a> Shape<'a> {
    fn new(sizes: &'a Sizes, schedule: &'a Schedule, budget: &str, work: Work) -> Self {
        let (transformer, tokenizer) = (&sizes.transformer, &sizes.tokenizer);
        let demand = Demand { transformer, tokenizer, schedule, subject: sizes.subject(budget), work };
        Self {
            tokens: schedule.image_tokens() as u64,
            kv_bytes: demand.kv_bytes(),
            conditions: demand.condition_bytes(transformer.text_maxlen.min(TEXT_TOKENS)),
            demand,
        }
    }

    /// Bytes of a batch without its conditions.
    fn batch_bytes(&self, pictures: u64, rows: u64) -> u64 {
        let rows = pictures * rows;
        rows.saturating_mul(self.kv_bytes).saturating_add(self.demand.working_bytes(rows))
    }

    /// Size of a cache that keeps the conditions of so many rows.
    fn cache_bytes(&self, rows: u64) -> u64 {
        cache_bytes(&self.conditions, rows)
    }

    /// A cache of that size, filled with conditions of this shape.
    fn filled(&self, bytes: u64) -> ConditionCache {
        let (share, of) = ROWS_SHARE;
        let beside = (self.conditions.text + self.conditions.subject) as f64 / self.conditions.row.max(1) as f64;
        let held_bytes = bytes as f64 * (1.0 + beside * share as f64 / of as f64);
        ConditionCache { bytes, held_bytes: held_bytes as u64 }
    }
}

/// Returns the size of a cache that keeps the conditions of so many rows.
pub(super) fn cache_bytes(conditions: &ConditionBytes, rows: u64) -> u64 {
    let (share, of) = ROWS_SHARE;
    // In whole KiB, as the cache counts.
    let kept = rows.saturating_mul(conditions.row.next_multiple_of(1024));
    kept.div_ceil(share).saturating_mul(of).saturating_add(of << 10)
}

impl Division {
    /// Returns the greatest number of pictures up to the limit for which `bytes` is not more than what is left.
    fn most(&self, bytes: impl Fn(u64) -> u64) -> u64 {
        let (mut fits, mut beyond) = (0, self.max_batch + 1);
        while fits + 1 < beyond {
            let middle = fits.midpoint(beyond);
            if bytes(middle) <= self.left_bytes { fits = middle } else { beyond = middle }
        }
        fits
    }

    /// Decides on the size of the cache: that which keeps all conditions of a batch of the largest pictures, if that costs few
    /// of these pictures; otherwise what such batches leave.
    fn cache(&self, shapes: &[Vec<Shape>]) -> ConditionCache {
        let largest = |shapes: &[Vec<Shape>]| -> Option<ConditionCache> {
            shapes.iter().rev().filter_map(|shapes| shapes.iter().max_by_key(|s| s.tokens)).find_map(|s| self.beside(s))
        };
        let none = ConditionCache { bytes: 0, held_bytes: 0 };
        match (self.set.condition_cache_bytes, shapes.last().and_then(|shapes| shapes.first())) {
            (Some(bytes), Some(shape)) => shape.filled(bytes),
            _ => largest(shapes).unwrap_or(none),
        }
    }

    /// The cache beside batches of this shape, if one picture fits at all.
    fn beside(&self, shape: &Shape) -> Option<ConditionCache> {
        let bound = self.bound(shape);
        let kept = |pictures| shape.filled(shape.cache_bytes(pictures * self.rows));
        let within = self.most(|n| shape.batch_bytes(n, self.rows).saturating_add(kept(n).held_bytes)).min(bound);
        let apart = |n: u64| {
            shape.batch_bytes(n, self.rows).saturating_add((n * self.rows).saturating_mul(shape.conditions.all()))
        };
        let most = self.most(apart).min(bound);
        if most == 0 {
            return None;
        }
        if within * 4 >= most * 3 {
            // What is left beyond a whole batch is worth more as room for larger batches of smaller pictures.
            let wanted = kept(within).bytes.max(CACHE_BYTES);
            let free = self.left_bytes - shape.batch_bytes(within, self.rows);
            let all = shape.filled(wanted);
            let share = (free as f64 / all.held_bytes.max(1) as f64).min(1.0);
            return Some(shape.filled(((wanted as f64 * share) as u64).max(kept(within).bytes)));
        }
        let free = self.left_bytes - apart(most);
        let share = free as f64 / shape.filled(CACHE_BYTES).held_bytes.max(1) as f64;
        Some(shape.filled((CACHE_BYTES as f64 * share.min(1.0)) as u64))
    }

    /// Pictures of this shape in a batch, with that many guidance rows each.
    fn pictures(&self, shape: &Shape, rows: u64, cache: ConditionCache) -> u64 {
        self.most(|pictures| {
            let of_batch = pictures * rows;
            // What the cache has no room for is alive beside it.
            let is_kept = shape.cache_bytes(of_batch) <= cache.bytes;
            let beside = if is_kept { 0 } else { of_batch.saturating_mul(shape.conditions.all()) };
            shape.batch_bytes(pictures, rows).saturating_add(beside).saturating_add(cache.held_bytes)
        })
    }

    /// Most pictures of this shape in a batch whatever memory there is.
    fn bound(&self, shape: &Shape) -> u64 {
        let by_tokens = self.set.max_batch_tokens.map(|tokens| tokens as u64);
        let by_tokens = by_tokens.or(self.is_cpu.then_some(CPU_BATCH_TOKENS));
        by_tokens.map_or(self.max_batch, |tokens| (tokens / shape.tokens.max(1)).clamp(1, self.max_batch))
    }

    /// Pictures of a pixel budget in a batch that fit, in whichever of its shapes.
    fn fewest(&self, shapes: &[Shape], rows: u64, cache: ConditionCache) -> usize {
        let each = shapes.iter().map(|shape| self.pictures(shape, rows, cache));
        each.min().unwrap_or_default() as usize
    }

    fn budget(&self, name: &str, usual: &Shape, shapes: &[Shape], cache: ConditionCache) -> BudgetPlan {
        let (height, width) = usual.demand.schedule.pixels();
        BudgetPlan {
            name: name.to_owned(),
            width,
            height,
            image_tokens: usual.tokens as usize,
            kv_bytes: self.rows * usual.kv_bytes,
            condition_bytes: self.rows * usual.conditions.all(),
            working_bytes: usual.demand.working_bytes(self.rows),
            pictures: self.fewest(shapes, self.rows, cache).min(self.bound(usual) as usize),
            pictures_by_rows: [1, 2, 3].map(|rows| self.fewest(shapes, rows, cache)),
        }
    }

    fn limits(&self, budgets: &[BudgetPlan], cache: ConditionCache) -> Limits {
        let of_batch = budgets.iter().flat_map(|budget| {
            let rows = budget.pictures_by_rows.iter().zip(1..);
            rows.map(|(pictures, rows)| *pictures as u64 * rows * (budget.kv_bytes / self.rows))
        });
        let most = of_batch.max().unwrap_or_default();
        let planned = if self.is_cpu { most.max(CPU_KV_BYTES.min(self.left_bytes / 2)) } else { most };
        Limits {
            max_batch_tokens: self.set.max_batch_tokens.or(self.is_cpu.then_some(CPU_BATCH_TOKENS as usize)),
            max_kv_bytes: self.set.max_kv_bytes.unwrap_or(planned),
            condition_cache_bytes: cache.bytes,
        }
    }
}
