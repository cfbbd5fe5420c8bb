//! Comparison of expected with computed tensors. The crate `eval` includes this file for its own networks.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};

/// Maximum error relative to the largest magnitude of the expected tensor.
pub(crate) const TOLERANCE: f64 = 1e-4;

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
}

impl Comparison {
    /// Whether this compares the tensor `name`. A label is the name, optionally followed by a space and the variant.
    fn compares(&self, name: &str) -> bool {
        self.tensor.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, tensor, max_abs_error, relative_error } = self;
        write!(f, "{folder} {tensor} {max_abs_error:.3e} {relative_error:.3e}")
    }
}

/// The tensors of a fixture, and the comparisons so far. [`Fixture::finish`] fails if an output was not compared.
pub(crate) struct Fixture {
    folder: String,
    tensors: BTreeMap<String, Tensor>,
    comparisons: Vec<Comparison>,
}

impl Fixture {
    /// Reads `io.safetensors` of a fixture folder.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let tensors =
            candle_core::safetensors::load(folder.join("io.safetensors"), &Device::Cpu)?.into_iter().collect();
        let folder = folder.file_name().unwrap_or(folder.as_os_str()).to_string_lossy().into_owned();
        Ok(Self { folder, tensors, comparisons: Vec::new() })
    }

    /// Returns the tensor of that name, as stored.
    pub(crate) fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.tensors.get(name).with_context(|| format!("the fixture lacks the tensor {name}"))
    }

    /// Whether the fixture has the tensor.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Returns all names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Compares `actual` with the stored tensor `name`.
    pub(crate) fn check(&mut self, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        self.check_as(name, name, actual)
    }

    /// Compares `actual` with the stored tensor `name` and reports it as `label` (for a second variant of the same
    /// output).
    pub(crate) fn check_as(&mut self, label: &str, name: &str, actual: &Tensor) -> anyhow::Result<()> {
        let expected = self.get(name)?.clone();
        self.check_against(label, &expected, actual, 0.0)
    }

    /// Compares `actual` with `expected`. If the largest difference is within `allowance`, the relative error is zero.
    pub(crate) fn check_against(
        &mut self,
        label: &str,
        expected: &Tensor,
        actual: &Tensor,
        allowance: f64,
    ) -> anyhow::Result<()> {
        ensure!(
            expected.dims() == actual.dims(),
            "{label}: expected shape {:?}, computed {:?}",
            expected.dims(),
            actual.dims()
        );
        let expected = expected.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let actual = actual.to_device(&Device::Cpu)?.flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
        let mut max_abs_error: f64 = 0.0;
        let mut magnitude: f64 = 0.0;
        for (e, a) in expected.iter().zip(&actual) {
            // Equal infinities (masked logits) have difference 0. A NaN on either side must not count as equal.
            let error = if e == a { 0.0 } else { (e - a).abs() };
            max_abs_error = if error.is_nan() { f64::INFINITY } else { max_abs_error.max(error) };
            if e.is_finite() {
                magnitude = magnitude.max(e.abs());
            }
        }
        let relative_error = if max_abs_error <= allowance { 0.0 } else { max_abs_error / magnitude };
        let (folder, tensor) = (self.folder.clone(), label.to_owned());
        self.comparisons.push(Comparison { folder, tensor, max_abs_error, relative_error });
        Ok(())
    }

    /// Returns the comparisons; an error if an `out.` tensor of the fixture was not compared.
    pub(crate) fn finish(self) -> anyhow::Result<Vec<Comparison>> {
        let left_out: Vec<_> = self
            .tensors
            .keys()
            .filter(|name| name.starts_with("out.") && !self.comparisons.iter().any(|c| c.compares(name)))
            .collect();
        ensure!(left_out.is_empty(), "outputs of the fixture that nothing was compared with: {left_out:?}");
        Ok(self.comparisons)
    }
}
