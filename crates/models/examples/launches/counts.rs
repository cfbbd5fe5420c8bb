//! Counts of driver calls by section, and their upper bounds.

use std::{collections::BTreeMap, fmt, path::Path};

use anyhow::{Context, bail, ensure};
use candle_core::Device;
use serde::Deserialize;

use crate::network::Size;

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    Load,
    /// Conditions of a new prompt and subject, and the first scale.
    Conditions,
    FirstScale(usize),
    FirstDecode,
    /// The same where prompt and subject are known.
    KnownConditions,
    Scale(usize),
    Decode,
}

/// The sections in the order of their beginning. On a GPU, each is bracketed for the driver.
pub(crate) struct Sections {
    #[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "only a GPU has a driver"))]
    device: Device,
    begun: Vec<Section>,
}

/// One line of the driver's counts.
#[derive(Debug, Deserialize)]
pub(crate) struct Counts {
    allocations: u64,
    uploads: u64,
    uploaded_bytes: u64,
    downloads: u64,
    downloaded_bytes: u64,
    copies: u64,
    memsets: u64,
    synchronisations: u64,
    events: u64,
    kernels: BTreeMap<String, u64>,
    gemms: BTreeMap<String, u64>,
    peak_bytes: u64,
}

/// Upper bounds by kind of section and by name of the count.
pub(crate) struct Budget(BTreeMap<String, BTreeMap<String, f64>>);

impl Section {
    /// Returns the name in the budget.
    fn kind(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Conditions => "conditions",
            Self::FirstScale(_) => "first_scale",
            Self::FirstDecode => "first_decode",
            Self::KnownConditions => "known_conditions",
            Self::Scale(_) => "scale",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FirstScale(scale) | Self::Scale(scale) => write!(f, "{} {scale}", self.kind()),
            _ => f.write_str(self.kind()),
        }
    }
}

impl Sections {
    pub(crate) fn new(device: &Device) -> Self {
        Self { device: device.clone(), begun: Vec::new() }
    }

    /// Ends the section before and begins this one.
    pub(crate) fn begin(&mut self, section: Section) {
        self.end();
        self.begun.push(section);
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() {
            use candle_core::cuda_backend::cudarc::driver::profiler_start;
            profiler_start().expect("starting the profiler fails on no device");
        }
    }

    /// Ends the section.
    pub(crate) fn end(&self) {
        #[cfg(feature = "cuda")]
        if self.device.is_cuda() && !self.begun.is_empty() {
            use candle_core::cuda_backend::cudarc::driver::profiler_stop;
            profiler_stop().expect("stopping the profiler fails on no device");
        }
    }

    /// Reads the driver's counts of all sections.
    pub(crate) fn read(&self, path: &Path) -> anyhow::Result<Vec<(Section, Counts)>> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let counts = text.lines().map(serde_json::from_str).collect::<Result<Vec<Counts>, _>>()?;
        let (counted, begun) = (counts.len(), self.begun.len());
        ensure!(counted == begun, "{} holds {counted} sections of {begun}", path.display());
        Ok(self.begun.iter().copied().zip(counts).collect())
    }
}

impl Counts {
    fn kernels(&self) -> u64 {
        self.kernels.values().sum()
    }

    fn gemms(&self) -> u64 {
        self.gemms.values().sum()
    }

    /// Returns the count of that name in a budget. What is "per layer" is divided by the number of blocks.
    fn named(&self, name: &str, depth: usize) -> anyhow::Result<f64> {
        let per_layer = |count: u64| count as f64 / depth as f64;
        Ok(match name {
            "kernels_per_layer" => per_layer(self.kernels()),
            "products_per_layer" => per_layer(self.gemms()),
            "kernels" => self.kernels() as f64,
            "products" => self.gemms() as f64,
            "allocations" => self.allocations as f64,
            "uploads" => self.uploads as f64,
            "uploaded_bytes" => self.uploaded_bytes as f64,
            "downloads" => self.downloads as f64,
            "downloaded_bytes" => self.downloaded_bytes as f64,
            "copies" => self.copies as f64,
            "memsets" => self.memsets as f64,
            "synchronisations" => self.synchronisations as f64,
            "events" => self.events as f64,
            "peak_gigabytes" => self.peak_bytes as f64 / 1e9,
            _ => bail!("the budget bounds {name}, which is not counted"),
        })
    }
}

impl Budget {
    /// Reads the bounds of a size and a number of pictures.
    pub(crate) fn read(path: &Path, size: Size, pictures: usize) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut budgets: BTreeMap<String, BTreeMap<String, BTreeMap<String, f64>>> = serde_json::from_str(&text)?;
        let name = format!("{}, {pictures}", size.name());
        budgets.remove(&name).map(Self).with_context(|| format!("{} has no budget for {name:?}", path.display()))
    }

    /// Compares all sections with their bounds.
    pub(crate) fn check(&self, counted: &[(Section, Counts)], depth: usize) -> anyhow::Result<()> {
        let mut past = String::new();
        for (kind, bounds) in &self.0 {
            let of_kind: Vec<_> = counted.iter().filter(|(section, _)| section.kind() == kind).collect();
            ensure!(!of_kind.is_empty(), "the budget bounds {kind}, which is no section");
            for ((section, counts), (name, bound)) in
                of_kind.iter().flat_map(|counted| bounds.iter().map(move |bound| (counted, bound)))
            {
                let count = counts.named(name, depth)?;
                if count > *bound {
                    past.push_str(&format!("\n{section}: {name} is {count:.1}, the bound {bound}"));
                }
            }
        }
        ensure!(past.is_empty(), "more is asked of the driver than is budgeted:{past}");
        println!("within the budget");
        Ok(())
    }
}

/// Prints the table of all sections, the sum of a second picture's, and the kernels of its last scale.
pub(crate) fn print(counted: &[(Section, Counts)], depth: usize) {
    println!(
        "{:<18}{:>8}{:>8}{:>9}{:>9}{:>9}{:>9}{:>9}{:>7}{:>8}{:>8}{:>7}{:>8}{:>9}",
        "section",
        "kernels",
        "a layer",
        "products",
        "a layer",
        "uploads",
        "MB up",
        "down",
        "copies",
        "memsets",
        "allocs",
        "syncs",
        "events",
        "peak GB"
    );
    for (section, counts) in counted {
        print_row(&section.to_string(), counts, depth);
    }
    let is_second = |section: &Section| matches!(section.kind(), "known_conditions" | "scale" | "decode");
    let second: Vec<_> = counted.iter().filter(|(section, _)| is_second(section)).map(|(_, counts)| counts).collect();
    let sum = |count: fn(&Counts) -> u64| second.iter().map(|counts| count(counts)).sum::<u64>();
    println!(
        "a second picture: {} kernels, {} products, {} uploads, {} downloads, {} copies, {} memsets, {} synchronisations, \
         {} events",
        sum(Counts::kernels),
        sum(Counts::gemms),
        sum(|counts| counts.uploads),
        sum(|counts| counts.downloads),
        sum(|counts| counts.copies),
        sum(|counts| counts.memsets),
        sum(|counts| counts.synchronisations),
        sum(|counts| counts.events)
    );
    if let Some((section, counts)) = counted.iter().rev().find(|(section, _)| section.kind() == "scale") {
        println!("kernels of {section}:");
        counts.kernels.iter().chain(&counts.gemms).for_each(|(name, count)| println!("{count:>8}  {name}"));
    }
}

fn print_row(name: &str, counts: &Counts, depth: usize) {
    let per_layer = |count: u64| count as f64 / depth as f64;
    println!(
        "{name:<18}{:>8}{:>8.1}{:>9}{:>9.1}{:>9}{:>9.2}{:>9}{:>7}{:>8}{:>8}{:>7}{:>8}{:>9.2}",
        counts.kernels(),
        per_layer(counts.kernels()),
        counts.gemms(),
        per_layer(counts.gemms()),
        counts.uploads,
        counts.uploaded_bytes as f64 / 1e6,
        counts.downloads,
        counts.copies,
        counts.memsets,
        counts.allocations,
        counts.synchronisations,
        counts.events,
        counts.peak_bytes as f64 / 1e9
    );
}
