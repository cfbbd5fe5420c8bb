//! Makes pictures with weights of zeros, and reports what that asks of the GPU's driver, section by section: loading,
//! conditions, every scale, decoder. `deploy/cuda/count.sh` runs it on a stand-in for the driver, which counts.
//!
//! On a GPU, each section lies between the driver's calls to start and stop profiling:
//! `nsys profile --capture-range=cudaProfilerApi --capture-range-end=repeat`. On a CPU it only runs.
#![allow(clippy::print_stdout, reason = "an example that reports to a person")]

mod counts;
mod network;

use std::{ops::ControlFlow, path::PathBuf};

use candle_core::{DType, Device};
use clap::Parser;
use counts::{Budget, Section, Sections};
use echogen_models::{
    device::{Compute, DeviceChoice, Precision},
    echogen::{SampleError, Sampler},
    layers::{Kernels, with_kernels},
};
use network::{Network, Size};

/// Makes pictures with weights of zeros, and reports what that asks of the GPU's driver.
#[derive(Parser)]
struct Arguments {
    /// Which model: `tiny`, `125m` at 512 x 512 pixels, or `2b` at 1024 x 1024 pixels.
    #[arg(long, value_enum, default_value_t = Size::Tiny)]
    size: Size,

    /// Number of pictures of one subject and prompt that are sampled together.
    #[arg(long, default_value_t = 1)]
    pictures: usize,

    /// Where the networks run: cpu, cuda or cuda:N.
    #[arg(long, default_value = "cpu")]
    device: DeviceChoice,

    /// Type of the weights: f32, bf16 or f16.
    #[arg(long, default_value = "bf16")]
    dtype: Precision,

    /// Whether to run candle's operations where we have kernels of our own, for comparison.
    #[arg(long)]
    generic: bool,

    /// The file into which the stand-in for the driver writes its counts, one line a section.
    #[arg(long)]
    counts: Option<PathBuf>,

    /// Upper bounds of the counts; the exit code is 1 if one is passed.
    #[arg(long, requires = "counts")]
    budget: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let compute = arguments.device.open(arguments.dtype)?;
    let mut sections = Sections::new(&compute.device);
    let kernels = if arguments.generic { Kernels::Generic } else { Kernels::Own };
    with_kernels(kernels, || make_pictures(&arguments, &compute, &mut sections))?;
    sections.end();
    let Some(path) = &arguments.counts else {
        println!("made {} of size {:?} on {:?}", arguments.pictures, arguments.size, compute.device.location());
        return Ok(());
    };
    let counted = sections.read(path)?;
    let depth = arguments.size.transformer().depth;
    counts::print(&counted, depth);
    match &arguments.budget {
        None => Ok(()),
        Some(budget) => Budget::read(budget, arguments.size, arguments.pictures)?.check(&counted, depth),
    }
}

/// Makes the pictures twice. The second time, everything that is kept between jobs is there.
fn make_pictures(arguments: &Arguments, compute: &Compute, sections: &mut Sections) -> anyhow::Result<()> {
    sections.begin(Section::Load);
    let network = Network::load(arguments.size, compute)?;
    let sampler = Sampler::new(network.transformer, 8 << 30);
    let schedule = arguments.size.schedule()?;
    for round in 0..2 {
        let requests: Vec<_> = (0..arguments.pictures)
            .map(|seed| arguments.size.request(&compute.device, seed as u64))
            .collect::<Result<_, _>>()?;
        sections.begin(if round == 0 { Section::Conditions } else { Section::KnownConditions });
        let summed = sampler.sample(&requests, &schedule, |scale, _| {
            if scale > 0 {
                sections.begin(if round == 0 { Section::FirstScale(scale) } else { Section::Scale(scale) });
            }
            ControlFlow::Continue(())
        });
        let summed = summed.map_err(|error: SampleError| anyhow::anyhow!(error))?;
        for codes in &summed {
            sections.begin(if round == 0 { Section::FirstDecode } else { Section::Decode });
            let picture = network.decoder.forward(&codes.unsqueeze(0)?.to_device(&compute.device)?)?;
            let bytes = echogen_models::visual_tokenizer::to_rgb8(&picture)?.to_dtype(DType::U8)?;
            bytes.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<u8>()?;
        }
    }
    Ok(())
}
