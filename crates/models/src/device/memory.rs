//! How much memory a device has, and how much of it is free.

use std::{fs, path::Path};

use candle_core::Device;
use serde::Serialize;

use super::facts::value;

/// Where Linux shows the limits of this process's group, in either version.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where Linux shows the machine's memory.
const MEMORY_INFO: &str = "/proc/meminfo";

/// The memory of a device in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceMemory {
    /// All of it.
    pub total: u64,
    /// What is free now; of a device that is only described, all.
    pub free: u64,
}

impl DeviceMemory {
    /// The memory of a device that is only described.
    pub fn described(bytes: u64) -> Self {
        Self { total: bytes, free: bytes }
    }

    /// Asks the device: a GPU's driver, or the operating system, whose limit for this process's group counts as all. `None`
    /// if it does not say.
    pub fn of(device: &Device) -> candle_core::Result<Option<Self>> {
        match device {
            Device::Cpu => Ok(of_process(Path::new(CGROUPS), Path::new(MEMORY_INFO))),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => Ok(Some(super::cuda::memory(cuda)?)),
            _ => Ok(None),
        }
    }
}

/// The smaller of what the machine and what the process's group has.
fn of_process(cgroups: &Path, info: &Path) -> Option<DeviceMemory> {
    let info = fs::read_to_string(info).ok()?;
    let field = |name: &str| value(&info, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024);
    let machine = DeviceMemory { total: field("MemTotal")?, free: field("MemAvailable")? };
    Some(match of_group(cgroups) {
        Some(group) if group.total < machine.total => {
            DeviceMemory { total: group.total, free: group.free.min(machine.free) }
        }
        _ => machine,
    })
}

/// The limit of the process's group and what is left of it; `None` without a limit.
fn of_group(cgroups: &Path) -> Option<DeviceMemory> {
    let number = |name: &str| fs::read_to_string(cgroups.join(name)).ok()?.trim().parse::<u64>().ok();
    let names = [
        ("memory.max", "memory.current", "memory.stat", ["inactive_file ", "active_file "]),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            ["total_inactive_file ", "total_active_file "],
        ),
    ];
    names.into_iter().find_map(|(limit, usage, stat, files)| {
        let (total, used) = (number(limit)?, number(usage)?);
        // Pages of files, such as of weights that were verified, are given back before the limit is reached.
        let stat = fs::read_to_string(cgroups.join(stat)).unwrap_or_default();
        let pages = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.parse::<u64>().ok());
        let cached = files.into_iter().filter_map(pages).fold(0, u64::saturating_add);
        Some(DeviceMemory { total, free: total.saturating_sub(used.saturating_sub(cached)) })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "MemTotal:       16000000 kB\nMemFree:         100 kB\nMemAvailable:    8000000 kB\n";

    fn memory(files: &[(&str, &str)]) -> Option<DeviceMemory> {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("memory")).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.path().join(name), text).unwrap());
        of_process(folder.path(), &folder.path().join("meminfo"))
    }

    #[test]
    fn the_group_counts_where_it_has_less_than_the_machine() {
        let machine = DeviceMemory { total: 16_000_000 << 10, free: 8_000_000 << 10 };
        assert_eq!(memory(&[("meminfo", INFO)]), Some(machine));
        let unlimited = [("meminfo", INFO), ("memory.max", "max\n"), ("memory.current", "5\n")];
        assert_eq!(memory(&unlimited), Some(machine));
        let limited = [
            ("meminfo", INFO),
            ("memory.max", "1000000\n"),
            ("memory.current", "700000\n"),
            ("memory.stat", "anon 5\ninactive_file 200000\nactive_file 100000\n"),
        ];
        assert_eq!(memory(&limited), Some(DeviceMemory { total: 1_000_000, free: 600_000 }));
        let older = [
            ("meminfo", INFO),
            ("memory/memory.limit_in_bytes", "1000000\n"),
            ("memory/memory.usage_in_bytes", "1500000\n"),
        ];
        assert_eq!(memory(&older), Some(DeviceMemory { total: 1_000_000, free: 0 }));
        assert_eq!(memory(&[("meminfo", "MemTotal: much\n")]), None);
        assert_eq!(memory(&[]), None);
    }

    #[test]
    fn this_machine_says_what_it_has() {
        let memory = DeviceMemory::of(&Device::Cpu).unwrap();
        assert!(!cfg!(target_os = "linux") || memory.is_some_and(|memory| memory.free <= memory.total));
    }
}
