//! `echogen models plan`: shows what of a bundle fits on a device, before anything is loaded.

use super::Output;
use anyhow::Context;
use echogen_checkpoint::{WeightType, bundle::Bundle};
use echogen_models::{
    DType,
    device::{DeviceChoice, DeviceMemory, Precision},
    plan::{MemoryPlan, PlanError, PlanRequest},
};
use echogen_service::{Exit, config::ServiceConfig, console::print_error, plan_request};
use std::str::FromStr;

/// What to plan, and for which device.
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArguments {
    /// Name of a bundle, or path of its TOML file or folder; its weights need not be there
    pub(super) bundle: String,
    /// Memory of a device that is only described, such as 24GiB or 141GB; a GPU unless --device is cpu
    #[arg(long, value_name = "SIZE")]
    memory: Option<MemorySize>,
    /// Type that the weights are to be converted to with `models convert`; those of a converted bundle are known
    #[arg(long, value_name = "TYPE", value_parser = WeightType::from_str)]
    weights: Option<WeightType>,
}

/// A size in bytes, written with a unit.
#[derive(Clone, Copy, Debug, PartialEq)]
struct MemorySize(u64);

impl FromStr for MemorySize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const UNITS: [(&str, u64); 5] =
            [("GiB", 1 << 30), ("MiB", 1 << 20), ("GB", 1_000_000_000), ("MB", 1_000_000), ("", 1)];
        let wrong = || "give a size such as 24GiB, 40960MiB or 141GB".to_owned();
        let (number, unit) =
            UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes))).ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        let bytes = number * unit as f64;
        // Below 2^53 every number of bytes is exact.
        if (1.0..9e15).contains(&bytes) { Ok(Self(bytes as u64)) } else { Err(wrong()) }
    }
}

/// Prints the plan. The exit code is 1 if a picture of the bundle's default size does not fit.
pub(super) fn plan(
    bundle: &Bundle,
    arguments: &PlanArguments,
    config: &ServiceConfig,
    output: &mut Output,
) -> anyhow::Result<Exit> {
    let (is_cpu, dtype, memory) = device(arguments, config)?;
    let request = plan_request(bundle, is_cpu, dtype, memory, &config.sampler);
    let request = PlanRequest { converted: arguments.weights, ..request };
    let plan = match MemoryPlan::new(&request) {
        Ok(plan) => plan,
        Err(PlanError::Bundle(error)) => return Err((*error).into()),
        Err(error) => {
            print_error(error);
            return Ok(Exit::JobFailed);
        }
    };
    output.answer(&plan, plan.table().trim_end())?;
    if let Some(complaint) = plan.complaint() {
        print_error(complaint);
    }
    Ok(if plan.default_fits() { Exit::Success } else { Exit::JobFailed })
}

/// Returns whether the device is the CPU, the type that it computes in, and its memory.
fn device(arguments: &PlanArguments, config: &ServiceConfig) -> anyhow::Result<(bool, DType, Option<DeviceMemory>)> {
    let (choice, precision) = (config.model.device, config.model.dtype);
    let Some(MemorySize(bytes)) = arguments.memory else {
        let opened = choice.open(precision)?;
        let memory = DeviceMemory::of(&opened.device).context("the device does not say its memory; give --memory")?;
        return Ok((opened.device.is_cpu(), opened.dtype, memory));
    };
    let is_cpu = choice == DeviceChoice::Cpu;
    let dtype = match precision {
        Precision::Auto if is_cpu => DType::F32,
        Precision::Auto | Precision::Bf16 => DType::BF16,
        Precision::F16 => DType::F16,
        Precision::F32 => DType::F32,
    };
    Ok((is_cpu, dtype, Some(DeviceMemory::described(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in
            [("24GiB", 24 << 30), ("1.5 GiB", 3 << 29), ("141GB", 141_000_000_000), ("512MiB", 512 << 20), ("7", 7)]
        {
            assert_eq!(text.parse(), Ok(MemorySize(bytes)));
        }
        for text in ["", "GiB", "24Gb", "-1GiB", "0", "nan", "inf", "1e99GiB", "many"] {
            assert!(text.parse::<MemorySize>().unwrap_err().contains("such as 24GiB"), "{text}");
        }
    }
}
