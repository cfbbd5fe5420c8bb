//! Comparison of expected with computed tensors. The crate `eval` includes this file for its own networks.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use serde::Deserialize;

/// Maximum error relative to the largest magnitude of the expected tensor, in float32.
pub(crate) const TOLERANCE: f64 = 1e-4;

/// In a reduced type: maximum ratio of our root-mean-square error to PyTorch's own in that type.
pub(crate) const REDUCED_TOLERANCE: f64 = 1.5;

/// PyTorch's error counts as at least this: what it computed in float32 we need not do bit by bit.
const YARDSTICK_FLOOR: f64 = 1e-5;

/// The error of smaller tensors is mostly luck, and is reported only.
const FEWEST_VALUES: usize = 50;

/// Where and in which type the networks run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The device.
    pub(crate) device: Device,
    /// The type of the weights.
    pub(crate) dtype: DType,
}

impl Default for Setup {
    /// float32 on the CPU.
    fn default() -> Self {
        Self { device: Device::Cpu, dtype: DType::F32 }
    }
}

impl Setup {
    /// Whether the type is a reduced one. Then each choice must be the fixture's: one flipped bit changes all that follows.
    pub(crate) fn is_reduced(&self) -> bool {
        self.dtype != DType::F32
    }
}

/// The result of comparing one tensor.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// Fixture folder.
    pub(crate) folder: String,
    /// Tensor name in `io.safetensors`.
    pub(crate) tensor: String,
    /// Largest absolute difference.
    pub(crate) max_abs_error: f64,
    /// `max_abs_error` divided by the largest magnitude of the expected tensor.
    pub(crate) relative_error: f64,
    /// Root-mean-square error divided by that of the expected values.
    pub(crate) rms_rel: f64,
    /// In a reduced type: our root-mean-square error divided by PyTorch's own.
    pub(crate) ratio: Option<f64>,
    /// Whether a limit applies.
    is_judged: bool,
}

impl Comparison {
    /// How far the tensor is from its limit: above 1 it is past it.
    pub(crate) fn severity(&self) -> f64 {
        let severity = self.ratio.map_or(self.relative_error / TOLERANCE, |ratio| ratio / REDUCED_TOLERANCE);
        if self.is_judged { severity } else { 0.0 }
    }

    /// Whether this compares the tensor `name`. A label is the name, optionally followed by a space and the variant.
    fn compares(&self, name: &str) -> bool {
        self.tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, tensor, max_abs_error, relative_error, rms_rel, ratio, .. } = self;
        write!(f, "{folder} {tensor} {max_abs_error:.3e} {relative_error:.3e} rms {rms_rel:.3e}")?;
        ratio.map_or(Ok(()), |ratio| write!(f, " ratio {ratio:.2}"))
    }
}

/// PyTorch's own error in one tensor, in a reduced type.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Yardstick {
    /// rms(ours - float32) / rms(float32).
    rms_rel: f64,
}

/// The tensors of a fixture, and the comparisons so far. [`Fixture::finish`] fails if an output was not compared.
pub(crate) struct Fixture {
    folder: String,
    setup: Setup,
    tensors: BTreeMap<String, Tensor>,
    yardsticks: BTreeMap<String, Yardstick>,
    comparisons: Vec<Comparison>,
    /// Outputs that this setup does not compare.
    passed_over: Vec<String>,
}

impl Fixture {
    /// Reads `io.safetensors` of a fixture folder and, for a reduced type, the errors in `reduced.json`.
    pub(crate) fn open(folder: &Path, setup: &Setup) -> anyhow::Result<Self> {
        let tensors =
            candle_core::safetensors::load(folder.join("io.safetensors"), &Device::Cpu)?.into_iter().collect();
        let yardsticks = if setup.is_reduced() { yardsticks(folder, setup.dtype)? } else { BTreeMap::new() };
        let folder = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        let setup = setup.clone();
        Ok(Self { folder, setup, tensors, yardsticks, comparisons: Vec::new(), passed_over: Vec::new() })
    }

    /// The setup of the networks.
    pub(crate) fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Returns the tensor of that name, as stored.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the fixture lacks the tensor {name}"))
    }

    /// Returns the tensor of that name as an input of a network: on its device, and numbers with a fraction in its type.
    pub(crate) fn input(&self, name: &str) -> anyhow::Result<Tensor> {
        let stored = self.get(name)?;
        let dtype = if stored.dtype().is_float() { self.setup.dtype } else { stored.dtype() };
        Ok(stored.to_device(&self.setup.device)?.to_dtype(dtype)?)
    }

    /// Whether the fixture has the tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns all names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Leaves out the tensor `name`, which nothing can be compared with in this setup.
    pub(crate) fn pass_over(&mut self, name: &str) {
        self.passed_over.push(name.to_owned());
    }

    /// Compares `actual` with the stored tensor `name`.
    pub(crate) fn check(&mut self, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        self.check_as(name, name, actual)
    }

    /// Compares `actual` with the stored tensor `name` and reports it as `label` (for a second variant of the same
    /// output).
    pub(crate) fn check_as(&mut self, label: &str, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        let expected = self.get(name)?.clone();
        let yardstick = self.yardsticks.get(name).copied();
        let errors = Errors::between(label, &expected, actual)?;
        let ratio = yardstick.map(|yardstick| errors.ratio(yardstick));
        let is_judged = ratio.is_none() || errors.values >= FEWEST_VALUES;
        self.report(label, &errors, errors.relative(), ratio, is_judged);
        Ok(())
    }

    /// Compares `actual` with `expected`. If the largest difference is within `allowance`, the relative error is zero.
    pub(crate) fn check_against(
        &mut self,
        label: &str,
        expected: &Tensor,
        actual: &Tensor,
        allowance: f64,
    ) -> anyhow::Result<()> {
        let errors = Errors::between(label, expected, actual)?;
        let relative_error = if errors.largest <= allowance { 0.0 } else { errors.relative() };
        self.report(label, &errors, relative_error, None, true);
        Ok(())
    }

    fn report(&mut self, label: &str, errors: &Errors, relative_error: f64, ratio: Option<f64>, is_judged: bool) {
        let (folder, tensor) = (self.folder.clone(), label.to_owned());
        let (max_abs_error, rms_rel) = (errors.largest, errors.rms());
        self.comparisons.push(Comparison { folder, tensor, max_abs_error, relative_error, rms_rel, ratio, is_judged });
    }

    /// Returns the comparisons; an error if an `out.` tensor of the fixture was not compared.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<Comparison>> {
        let left_out: Vec<_> = self
            .tensors
            .keys()
            .filter(|name| name.starts_with("out.") && !self.passed_over.contains(name))
            .filter(|name| !self.comparisons.iter().any(|c| c.compares(name)))
            .collect();
        ensure!(left_out.is_empty(), "outputs of the fixture that nothing was compared with: {left_out:?}");
        Ok(self.comparisons)
    }
}

/// Reads PyTorch's errors in a reduced type.
fn yardsticks(folder: &Path, dtype: DType) -> anyhow::Result<BTreeMap<String, Yardstick>> {
    #[derive(Deserialize)]
    struct Reduced {
        bf16: BTreeMap<String, Yardstick>,
        f16: BTreeMap<String, Yardstick>,
    }
    let path = folder.join("reduced.json");
    let text = std::fs::read(&path).with_context(|| format!("{} has the errors to compare with", path.display()))?;
    let reduced: Reduced = serde_json::from_slice(&text).with_context(|| path.display().to_string())?;
    match dtype {
        DType::BF16 => Ok(reduced.bf16),
        DType::F16 => Ok(reduced.f16),
        other => anyhow::bail!("{} has no errors for {other:?}", path.display()),
    }
}

/// The differences of two tensors.
struct Errors {
    /// The largest one.
    largest: f64,
    /// The largest magnitude that was expected.
    magnitude: f64,
    /// Sum of squares of the differences, and of the expected values.
    squares: (f64, f64),
    /// How many values are finite.
    values: usize,
}

impl Errors {
    fn between(label: &str, expected: &Tensor, actual: &Tensor) -> anyhow::Result<Self> {
        let (shape, computed) = (expected.dims(), actual.dims());
        ensure!(shape == computed, "{label}: expected shape {shape:?}, computed {computed:?}");
        let values = |xs: &Tensor| xs.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>();
        let mut errors = Self { largest: 0.0, magnitude: 0.0, squares: (0.0, 0.0), values: 0 };
        for (e, a) in values(expected)?.into_iter().zip(values(actual)?) {
            // Equal infinities (masked logits) have difference 0. A NaN on either side must not count as equal.
            let error = if e == a { 0.0 } else { (e - a).abs() };
            let error = if error.is_nan() { f64::INFINITY } else { error };
            errors.largest = errors.largest.max(error);
            if e.is_finite() {
                errors.magnitude = errors.magnitude.max(e.abs());
                errors.squares = (errors.squares.0 + error * error, errors.squares.1 + e * e);
                errors.values += 1;
            }
        }
        Ok(errors)
    }

    fn relative(&self) -> f64 {
        if self.largest == 0.0 { 0.0 } else { self.largest / self.magnitude }
    }

    fn rms(&self) -> f64 {
        if self.squares.0 == 0.0 { 0.0 } else { (self.squares.0 / self.squares.1).sqrt() }
    }

    fn ratio(&self, yardstick: Yardstick) -> f64 {
        self.rms() / yardstick.rms_rel.max(YARDSTICK_FLOOR)
    }
}
