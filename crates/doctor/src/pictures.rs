//! Pictures of networks with drawn weights: time by part, memory, and whether a picture depends on its batch.

mod networks;

use candle_core::Device;
use echogen_models::{
    device::{Compute, DeviceMemory},
    device_fault::is_out_of_memory,
};

use self::networks::{Made, Networks};
use crate::{
    machine::readable,
    report::{Report, Section},
    size::{Size, Work},
};

/// Pictures in a batch.
const BATCHES: [usize; 3] = [1, 4, 8];

/// Makes pictures; `products` is the measured rate of matrix products in FLOP/s.
pub(crate) fn make(size: Size, compute: &Compute, products: Option<f64>, report: &mut Report) -> anyhow::Result<()> {
    forget_the_most();
    let before = used(&compute.device);
    let networks = match Networks::draw(size, compute) {
        Err(error) if wants_memory(&error) => {
            report.skip("Pictures of drawn weights", "the weights do not fit into the memory; take a smaller --size");
            return Ok(());
        }
        networks => networks?,
    };
    let mut memory = Section::new("Memory", &["what", "predicted", "found"]);
    let loaded = used(&compute.device);
    let difference = |after: Option<u64>| Some(readable(after?.saturating_sub(before?)));
    let text = |found: Option<String>| found.unwrap_or_else(|| "not known".to_owned());
    memory.row(["weights".to_owned(), readable(networks.weight_bytes()), text(difference(loaded))]);

    let mut times = Times::new(size, compute, &networks, products);
    let mut alone = None;
    // What is allocated and compiled once is not timed.
    networks.make(1, 0)?;
    for (run, batch) in BATCHES.into_iter().enumerate() {
        let made = match networks.make(batch, run + 1) {
            Err(error) if wants_memory(&error) => {
                report.skip(&format!("batch of {batch}"), "it does not fit into the memory");
                break;
            }
            made => made?,
        };
        let predicted = networks.weight_bytes() + networks.kv_bytes(batch);
        let found = text(difference(used(&compute.device)));
        memory.row([format!("with the keys and values of {batch}"), readable(predicted), found]);
        times.add(batch, &made);
        if batch == 1 {
            alone = Some(made);
        }
    }
    memory.note(
        "Found is what is used beyond what was used before; for a CPU, the most that the process has used. It contains \
                 conditions and temporary tensors, and on a GPU what its pool keeps.",
    );
    report.sections.extend([times.parts, times.scales, memory]);
    if let Some(alone) = alone {
        independence(&networks, &alone, &compute.device, report)?;
    }
    Ok(())
}

/// Compares the first picture of a batch with the same picture made alone.
fn independence(networks: &Networks, alone: &Made, device: &Device, report: &mut Report) -> anyhow::Result<()> {
    // The same conditions as the picture alone.
    let together = networks.make(2, 1)?;
    let (Some(one), Some(same)) = (alone.pictures.first(), together.pictures.first()) else {
        anyhow::bail!("no picture was made");
    };
    let is_equal = one == same;
    let found = match is_equal {
        true => "the same bytes alone and in a batch of two".to_owned(),
        false => format!("{:.1} dB between the picture alone and in a batch of two", psnr(one, same)),
    };
    let advice = "on a CPU a picture must not depend on its batch: give the report to the authors";
    // cuBLAS chooses its way by the number of rows; a bit whose logits are close then falls to the other side.
    report.check("a picture does not depend on its batch", is_equal || !device.is_cpu(), found, advice);
    Ok(())
}

/// Peak signal-to-noise ratio of two pictures, in dB.
fn psnr(a: &[u8], b: &[u8]) -> f64 {
    let squares: f64 = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    let mean = squares / a.len().max(1) as f64;
    if mean == 0.0 { f64::INFINITY } else { 10.0 * (255.0 * 255.0 / mean).log10() }
}

fn wants_memory(error: &anyhow::Error) -> bool {
    error.chain().any(is_out_of_memory)
}

/// Lets Linux count the most memory that this process has used from now on, where it allows that.
fn forget_the_most() {
    std::fs::write("/proc/self/clear_refs", "5").unwrap_or_default();
}

/// Returns the bytes in use: of a GPU all, of a CPU the most that this process has used.
fn used(device: &Device) -> Option<u64> {
    if device.is_cpu() {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        return Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024);
    }
    device.synchronize().ok()?;
    DeviceMemory::of(device).ok().flatten().map(|memory| memory.total - memory.free)
}

/// The tables of times.
struct Times {
    parts: Section,
    scales: Section,
    work: Work,
    products: Option<f64>,
    rows: usize,
    pixels: (usize, usize),
}

impl Times {
    fn new(size: Size, compute: &Compute, networks: &Networks, products: Option<f64>) -> Self {
        let title = format!("Seconds of pictures of drawn weights, size {size} in {}", compute.dtype.as_str());
        let columns = [
            "batch",
            "per picture",
            "text",
            "conditions",
            "all scales",
            "decoder",
            "floor of the transformer",
            "share reached",
        ];
        let mut scales =
            Section::new("Seconds of each scale", &["scale", "tokens", "batch of 1", "batch of 4", "batch of 8"]);
        for (index, (height, width)) in networks.schedule().scales().iter().enumerate() {
            scales.rows.push(vec![index.to_string(), (height * width).to_string()]);
        }
        Self {
            parts: Section::new(&title, &columns),
            scales,
            work: networks.work(),
            products,
            rows: networks.rows(),
            pixels: networks.schedule().pixels(),
        }
    }

    fn add(&mut self, batch: usize, made: &Made) {
        let scales: f64 = made.scales.iter().sum();
        let total = made.text + made.conditions + scales + made.decoder;
        // Conditions are computed once: the pictures of a batch have the same prompt and subject. The first scale is a part.
        let per_picture: f64 = self.work.scales.iter().skip(1).sum();
        let flop = self.rows as f64 * (self.work.conditions + batch as f64 * per_picture);
        let floor = self.products.map(|rate| flop / rate);
        let reached = floor.map(|floor| floor / (made.conditions + scales));
        self.parts.row([
            batch.to_string(),
            format!("{:.4}", total / batch as f64),
            format!("{:.4}", made.text),
            format!("{:.4}", made.conditions),
            format!("{scales:.4}"),
            format!("{:.4}", made.decoder),
            floor.map_or("not known".to_owned(), |floor| format!("{floor:.4}")),
            reached.map_or("not known".to_owned(), |reached| format!("{:.0} %", reached * 100.0)),
        ]);
        for (row, seconds) in self.scales.rows.iter_mut().zip(&made.scales) {
            row.push(format!("{seconds:.4}"));
        }
        if batch == 1 {
            let (height, width) = self.pixels;
            let teraflop = flop / 1e12;
            self.parts.note(format!(
                "Pictures of {width} x {height}, {} guidance rows, {teraflop:.3} TFLOP of the transformer for one. The floor is \
                 that number divided by the measured rate of products.",
                self.rows
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use echogen_models::device::{DeviceChoice, Precision};

    use super::*;

    #[test]
    fn small_pictures_are_made_and_measured() {
        let compute = DeviceChoice::Cpu.open(Precision::Auto).unwrap();
        let mut report = Report::new();
        make(Size::Tiny, &compute, Some(1e11), &mut report).unwrap();
        assert!(report.passed, "{}", report.markdown());
        let [parts, scales, memory] = &report.sections[..] else { panic!("three tables") };
        assert_eq!((parts.rows.len(), scales.rows.len(), memory.rows.len()), (3, 5, 4));
        assert!(
            report.sections.iter().all(|section| section.rows.iter().all(|row| row.len() == section.columns.len()))
        );
    }

    #[test]
    fn equal_pictures_have_no_noise() {
        assert_eq!(psnr(&[1, 2], &[1, 2]), f64::INFINITY);
        assert!((psnr(&[0, 0], &[255, 255])).abs() < 1e-9);
    }
}
