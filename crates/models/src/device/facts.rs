//! What a device is: its name, its capabilities, its memory.

use std::fs;

use candle_core::Device;

use super::DeviceMemory;

/// What is known about a device, for reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceFacts {
    /// The device's own name.
    pub name: String,
    /// Further properties, each with its name.
    pub details: Vec<(String, String)>,
    /// Its memory; `None` where the system does not say.
    pub memory: Option<DeviceMemory>,
}

impl DeviceFacts {
    /// Asks the driver, or for a CPU the operating system.
    ///
    /// # Errors
    /// The driver fails.
    pub fn of(device: &Device) -> candle_core::Result<Self> {
        match device {
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => super::cuda::facts(cuda),
            _ => Ok(of_cpu()),
        }
    }
}

fn of_cpu() -> DeviceFacts {
    let name = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| value(&text, "model name").map(str::to_owned));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    DeviceFacts {
        name: name.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        details: vec![
            ("cores".to_owned(), cores.to_string()),
            ("threads of the networks".to_owned(), rayon::current_num_threads().to_string()),
            ("instruction sets".to_owned(), instruction_sets().join(", ")),
        ],
        memory: DeviceMemory::of(&Device::Cpu).ok().flatten(),
    }
}

/// Those that the networks' loops and matrix products have a version for.
fn instruction_sets() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bf16", std::arch::is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found: [(&'static str, bool); 0] = [];
    found.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
}

/// Returns the value of the first line `name : value`, as Linux lists what it knows.
pub(super) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_has_a_name_and_memory() {
        let facts = DeviceFacts::of(&Device::Cpu).unwrap();
        assert!(!facts.name.is_empty() && facts.details.iter().any(|(name, _)| name == "cores"));
        let memory = facts.memory.unwrap();
        assert!(0 < memory.free && memory.free <= memory.total);
    }

    #[test]
    fn lines_of_the_kernel_are_read() {
        let text = "processor\t: 0\nmodel name\t: A: fast one\n";
        assert_eq!(value(text, "model name").unwrap(), "A: fast one");
        assert_eq!(value(text, "model"), None);
    }
}
