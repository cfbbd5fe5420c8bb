//! Rates of the device: memory, matrix products, copies to it, the cost of an operation.

use std::time::Instant;

use candle_core::{DType, Device, Result, Tensor};
use echogen_models::device::Compute;

use crate::report::{Report, Section};

/// Repetitions; the best counts, because others may use the machine.
const REPETITIONS: usize = 3;
/// Operations whose cost is averaged.
const OPERATIONS: usize = 2_000;

/// Measured rates of matrix products, in FLOP/s.
pub(crate) struct Rates(Vec<(DType, f64)>);

impl Rates {
    /// The rate in a type.
    pub(crate) fn of(&self, dtype: DType) -> Option<f64> {
        self.0.iter().find(|(of, _)| *of == dtype).map(|(_, rate)| *rate)
    }
}

/// Measures the rates.
pub(crate) fn measure(compute: &Compute, report: &mut Report) -> anyhow::Result<Rates> {
    let device = &compute.device;
    let is_gpu = !device.is_cpu();
    let mut section = Section::new("Rates", &["what", "rate"]);
    let megabytes = if is_gpu { 1_024 } else { 64 };
    section.row(["memory, read and written".to_owned(), format!("{:.0} GB/s", bandwidth(device, megabytes)? / 1e9)]);
    if is_gpu {
        section.row(["from the host's memory".to_owned(), format!("{:.1} GB/s", upload(device, 256)? / 1e9)]);
    }
    section.row(["one small operation".to_owned(), format!("{:.1} us", operation(device)? * 1e6)]);
    let mut rates = Vec::new();
    for dtype in [DType::F32, DType::BF16, DType::F16] {
        let side = match (is_gpu, dtype) {
            (true, DType::F32) => 4_096,
            (true, _) => 8_192,
            (false, DType::F32) => 1_024,
            (false, _) => 512,
        };
        let rate = products(device, dtype, side)?;
        section
            .row([format!("products of {side} x {side} in {}", dtype.as_str()), format!("{:.2} TFLOP/s", rate / 1e12)]);
        rates.push((dtype, rate));
    }
    report.sections.push(section);
    Ok(Rates(rates))
}

/// Returns the least time of several runs in seconds, after one that is not timed. The device's queue is empty before each run.
fn best(device: &Device, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut best = f64::INFINITY;
    for _ in 0..REPETITIONS {
        device.synchronize()?;
        let began = Instant::now();
        run()?;
        device.synchronize()?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Bytes read and written per second by an operation on each element.
fn bandwidth(device: &Device, megabytes: usize) -> Result<f64> {
    let xs = Tensor::zeros(megabytes << 18, DType::F32, device)?;
    let seconds = best(device, || xs.affine(2.0, 1.0).map(drop))?;
    Ok((megabytes << 21) as f64 / seconds)
}

/// Bytes per second from the host's memory.
fn upload(device: &Device, megabytes: usize) -> Result<f64> {
    let xs = Tensor::zeros(megabytes << 18, DType::F32, &Device::Cpu)?;
    let seconds = best(device, || xs.to_device(device).map(drop))?;
    Ok((megabytes << 20) as f64 / seconds)
}

/// Seconds of an operation that has nothing to do: the cost of a launch.
fn operation(device: &Device) -> Result<f64> {
    let xs = Tensor::zeros(1, DType::F32, device)?;
    let run = || {
        for _ in 0..OPERATIONS {
            xs.affine(1.0, 1.0)?;
        }
        Ok(())
    };
    Ok(best(device, run)? / OPERATIONS as f64)
}

/// FLOP per second of a product of two square matrices.
fn products(device: &Device, dtype: DType, side: usize) -> Result<f64> {
    let xs = Tensor::ones((side, side), dtype, device)?;
    let seconds = best(device, || xs.matmul(&xs).map(drop))?;
    Ok(2.0 * (side as f64).powi(3) / seconds)
}
