//! The memory plan: what fits on a device, reckoned from the bundle's sizes before any weight is loaded.
//!
//! [`MemoryPlan::new`] subtracts from the device's free memory a reserve and the loaded weights, and divides the rest: how many
//! pictures of each pixel budget a batch has, and how large the cache of conditions is. The sampler takes its limits from it
//! where none are set. A batch is planned for the case in which each picture has a subject and a prompt of its own.
//!
//! - `shapes`, `weights`: the loaded bytes of each network, from the files' tables of contents or from the sizes alone;
//! - `demand`: what a batch takes; [`Demand`] can be compared with what a device has measured;
//! - `division`: the limits;
//! - `report`: the table.
//!
//! Deliberately not planned: other networks on the same device. Those loaded earlier are seen, as memory that is not free.

mod demand;
mod division;
mod report;
pub mod shapes;
#[cfg(test)]
mod tests;
mod weights;

use echogen_checkpoint::{
    WeightType,
    bundle::{Bundle, BundleError},
};
use serde::Serialize;

pub use self::{
    demand::{ConditionBytes, Demand, Layers, Scores, Work},
    division::{BatchSizes, BudgetPlan, Limits, SetLimits},
    weights::{NetworkWeights, sampler_weights},
};
use crate::{device::DeviceMemory, echogen::SamplingOptions, sizes::Sizes};

/// Bytes that are left free whatever the device: a GPU's context and libraries, prompts' features, tokens of the host.
const RESERVE_BYTES: u64 = 768 << 20;

/// Share of a GPU's memory that is left free: gaps between blocks of the allocator, and what the arithmetic leaves out.
const GPU_RESERVE: f64 = 0.03;

/// Share of the host's memory that is left free: other processes, and the pages of the checkpoints.
const CPU_RESERVE: f64 = 0.2;

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanRequest<'a> {
    /// The bundle; its weights need not be there.
    pub bundle: &'a Bundle,
    /// Whether the device is the CPU, which computes more tokens no faster and shares its memory with others.
    pub is_cpu: bool,
    /// How the device computes.
    pub work: Work,
    /// The type that the weights are to be converted to before they are loaded; `None` for the type that they have.
    pub converted: Option<WeightType>,
    /// The device's memory; `None` if it does not say.
    pub memory: Option<DeviceMemory>,
    /// Most pictures of a batch.
    pub max_batch: usize,
    /// Size in bytes of the cache of encoded subjects, which is in the host's memory.
    pub subject_cache_bytes: u64,
    /// Limits that are set, and not for the plan to choose.
    pub set: SetLimits,
}

/// A plan: where the memory goes, and the limits that follow. All sizes are in bytes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MemoryPlan {
    /// The bundle's name.
    pub bundle: String,
    /// Whether the device is the CPU.
    pub is_cpu: bool,
    /// The type of the large networks.
    pub dtype: &'static str,
    /// What attention keeps of its scores.
    pub scores: Scores,
    /// The device's memory, if it is known.
    pub memory: Option<DeviceMemory>,
    /// What is left free.
    pub reserve_bytes: u64,
    /// The loaded weights.
    pub weights: Vec<NetworkWeights>,
    /// The cache of encoded subjects; on a GPU in the host's memory, and not counted.
    pub subject_cache_bytes: u64,
    /// What is left for batches and the cache of conditions.
    pub left_bytes: u64,
    /// Most pictures of a batch.
    pub max_batch: usize,
    /// Guidance rows of a picture with the bundle's guidance.
    pub rows: usize,
    /// Each pixel budget, smallest first.
    pub budgets: Vec<BudgetPlan>,
    /// The pixel budget of jobs that give none.
    pub default_budget: String,
    /// The sampler's limits.
    pub limits: Limits,
}

/// No plan could be made.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The bundle's sizes or files are unusable.
    #[error(transparent)]
    Bundle(#[from] Box<BundleError>),
    /// The weights, or the smallest batch beside them, do not fit.
    #[error("{0}")]
    TooSmall(String),
    /// A limit that is set does not fit.
    #[error("{0}")]
    Set(String),
}

impl MemoryPlan {
    /// Makes a plan. Reads the bundle's manifest, and of those of its files that are present the tables of contents.
    ///
    /// # Errors
    ///
    /// The bundle is unusable, or not even one picture of the smallest pixel budget fits beside weights and set limits.
    pub fn new(request: &PlanRequest) -> Result<Self, PlanError> {
        let sizes = Sizes::of(request.bundle).map_err(Box::new)?;
        let weights =
            sampler_weights(request.bundle, &sizes, request.work.dtype, request.converted).map_err(Box::new)?;
        let reserve_bytes = reserve(request);
        let taken = reserve_bytes + weights.iter().map(NetworkWeights::bytes).sum::<u64>();
        let free = request.memory.map_or(u64::MAX, |memory| memory.free);
        let sampling = &request.bundle.manifest().sampling;
        let mut plan = Self {
            bundle: request.bundle.name().to_owned(),
            is_cpu: request.is_cpu,
            dtype: request.work.dtype.as_str(),
            scores: request.work.scores.of_heads(sizes.transformer.head_dim()),
            memory: request.memory,
            reserve_bytes,
            weights,
            subject_cache_bytes: request.subject_cache_bytes,
            left_bytes: free.saturating_sub(taken),
            max_batch: request.max_batch.max(1),
            rows: rows(sampling.guidance_text, sampling.guidance_subject),
            budgets: Vec::new(),
            default_budget: sampling.pixel_budget.to_string(),
            limits: Limits::default(),
        };
        if taken >= free {
            return Err(PlanError::TooSmall(plan.no_weights()));
        }
        (plan.limits, plan.budgets) = division::divide(&plan, request, &sizes);
        plan.check(&request.set)?;
        Ok(plan)
    }

    /// Returns the bytes of all weights.
    pub fn weight_bytes(&self) -> u64 {
        self.weights.iter().map(NetworkWeights::bytes).sum()
    }

    /// Returns the plan of the pixel budget with that name.
    pub fn budget(&self, name: &str) -> Option<&BudgetPlan> {
        self.budgets.iter().find(|budget| budget.name == name)
    }

    /// Returns the pixel budgets of which not even one picture fits.
    pub fn too_large(&self) -> impl Iterator<Item = &BudgetPlan> {
        self.budgets.iter().filter(|budget| budget.pictures == 0)
    }

    /// Returns one line that says what does not fit and what to change, if pictures of some pixel budgets do not.
    pub fn complaint(&self) -> Option<String> {
        let worst = self.too_large().last()?;
        Some(self.no_picture(worst))
    }

    /// Whether a picture of the bundle's default pixel budget fits.
    pub fn default_fits(&self) -> bool {
        self.budget(&self.default_budget).is_some_and(|budget| budget.pictures > 0)
    }

    fn check(&self, set: &SetLimits) -> Result<(), PlanError> {
        if let Some(reason) = self.set_too_high(set) {
            return Err(PlanError::Set(reason));
        }
        match self.budgets.first() {
            Some(smallest) if smallest.pictures == 0 => Err(PlanError::TooSmall(self.no_picture(smallest))),
            _ => Ok(()),
        }
    }
}

fn reserve(request: &PlanRequest) -> u64 {
    let share = |part: f64, of: u64| (of as f64 * part) as u64;
    match (request.memory, request.is_cpu) {
        (None, _) => 0,
        (Some(memory), true) => share(CPU_RESERVE, memory.free) + request.subject_cache_bytes,
        (Some(memory), false) => share(GPU_RESERVE, memory.total) + RESERVE_BYTES,
    }
}

/// Returns how many guidance rows a picture has.
fn rows(text: f64, subject: f64) -> usize {
    use crate::echogen::PerScale::All;
    let options = SamplingOptions { guidance_text: All(text), guidance_subject: All(subject), ..Default::default() };
    options.row_scales(1).into_iter().filter(|scales| *scales > 0).count()
}
