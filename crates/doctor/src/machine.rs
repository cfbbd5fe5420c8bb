//! The device: opened, named, and with memory left.

use echogen_models::device::{Compute, DeviceChoice, DeviceFacts, Precision};

use crate::{
    Options,
    report::{Report, Section},
};

/// Oldest GPUs that the kernels run on.
const LEAST_CAPABILITY: f64 = 8.0;
/// The version of CUDA that the program is built with.
const LEAST_CUDA: f64 = 13.0;

/// Opens the device and describes it; `None` if it cannot be opened.
pub(crate) fn examine(options: &Options, report: &mut Report) -> Option<Compute> {
    let advice = "run `nvidia-smi`: it must list the GPU, with driver 580 or newer and capability 8.0 or higher; in a \
                  container, give it the GPU (`--gpus all`)";
    let compute = match &options.compute {
        Ok(compute) => compute.clone(),
        Err(error) => {
            report.check("device", false, error.replace('\n', " "), advice);
            return None;
        }
    };
    report.check(
        "device",
        true,
        format!("{:?} computes in {}", compute.device.location(), compute.dtype.as_str()),
        advice,
    );
    if options.device == DeviceChoice::Auto && compute.device.is_cpu() {
        let reason = DeviceChoice::Cuda(0).open(Precision::Auto).err().map(|error| one_line(&error));
        report.skip("GPU", &reason.unwrap_or_else(|| "it can be opened now".to_owned()));
    }
    report.part("device's properties", |report| {
        let facts = DeviceFacts::of(&compute.device)?;
        judge(&facts, report);
        report.sections.push(section(&facts));
        Ok(())
    });
    Some(compute)
}

/// An error and its cause.
fn one_line(error: &dyn std::error::Error) -> String {
    let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
    format!("{error}{cause}").replace('\n', " ")
}

/// Checks what a GPU says about itself.
fn judge(facts: &DeviceFacts, report: &mut Report) {
    let number = |name: &str| {
        let found = facts.details.iter().find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.parse::<f64>().ok())
    };
    if let Some(capability) = number("capability") {
        let advice =
            "use an Ampere or newer GPU (A100, A10, L4, L40S, H100, B200), or build for its capability with CUDA 12";
        report.check("capability", capability >= LEAST_CAPABILITY, format!("{capability:.1}"), advice);
    }
    if let Some(version) = number("driver's CUDA") {
        let advice = "install driver 580 or newer";
        report.check("driver", version >= LEAST_CUDA, format!("it runs CUDA {version:.1}"), advice);
    }
}

fn section(facts: &DeviceFacts) -> Section {
    let mut section = Section::new("Device", &["property", "value"]);
    section.row(["name".to_owned(), facts.name.clone()]);
    for (name, value) in &facts.details {
        section.row([name.clone(), value.clone()]);
    }
    if let Some(memory) = facts.memory {
        section.row(["memory".to_owned(), readable(memory.total)]);
        section.row(["free".to_owned(), readable(memory.free)]);
    }
    section.row(["system".to_owned(), format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)]);
    section
}

/// Formats a number of bytes.
pub(crate) fn readable(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_gpu_or_driver_fails_with_what_to_do() {
        let facts = |capability: &str, cuda: &str| DeviceFacts {
            name: "GPU".to_owned(),
            details: vec![
                ("capability".to_owned(), capability.to_owned()),
                ("driver's CUDA".to_owned(), cuda.to_owned()),
            ],
            memory: None,
        };
        for (capability, cuda, failed) in
            [("9.0", "13.0", 0), ("7.5", "13.1", 1), ("12.0", "12.8", 1), ("7.0", "12.4", 2)]
        {
            let mut report = Report::new();
            judge(&facts(capability, cuda), &mut report);
            assert_eq!(report.checks.iter().filter(|check| !check.passed).count(), failed, "{capability} {cuda}");
        }
    }
}
