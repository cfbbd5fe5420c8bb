//! The networks against the reference's values, in three types.

use std::path::Path;

use anyhow::Context;
use candle_core::{DType, Device};

use crate::{
    compare::{Comparison, Setup},
    report::{Report, Section},
};

type Run = fn(&Path, &Setup) -> anyhow::Result<Vec<Comparison>>;

/// The folders, and what compares each.
const NETWORKS: [(&str, Run); 9] = [
    ("t5", crate::t5::run),
    ("dinov2", crate::dinov2::run),
    ("flux-vae", crate::flux_vae::run),
    ("bsq-tiny", crate::bsq::run),
    ("bsq-deep", crate::bsq::run),
    ("echogen-tiny", crate::echogen::run),
    ("grounding-dino", crate::grounding_dino::run),
    ("qwen2.5-vl", crate::qwen2_5_vl::run),
    ("sam", crate::sam::run),
];

/// Compares every network whose folder is below `folder`.
pub(crate) fn compare(folder: &Path, device: &Device, report: &mut Report) -> anyhow::Result<()> {
    let mut section = Section::new("Reference values", &["network", "type", "tensors", "worst, of its limit", "in"]);
    for (name, run) in NETWORKS {
        let folder = folder.join(name);
        if !folder.join("io.safetensors").is_file() {
            report.skip(&format!("reference values of {name}"), &format!("{} has none", folder.display()));
            continue;
        }
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let named = format!("{name} in {}", dtype.as_str());
            report.part(&named, |report| one(&folder, run, device, dtype, &named, &mut section, report));
        }
    }
    section.note(
        "A limit is 1e-4 of the largest value in f32; in a reduced type it is 1.5 times the error of PyTorch in that type.",
    );
    report.sections.push(section);
    Ok(())
}

fn one(
    folder: &Path,
    run: Run,
    device: &Device,
    dtype: DType,
    named: &str,
    section: &mut Section,
    report: &mut Report,
) -> anyhow::Result<()> {
    let comparisons = run(folder, &Setup { device: device.clone(), dtype })?;
    let by_severity = |a: &&Comparison, b: &&Comparison| a.severity().total_cmp(&b.severity());
    let worst = comparisons.iter().max_by(by_severity).context("nothing was compared")?;
    let past = comparisons.iter().filter(|comparison| comparison.severity() > 1.0).count();
    let advice = "a kernel gives other numbers than the reference: make no pictures in this type on this device, and give the \
                  report to the authors";
    report.check(named, past == 0, format!("{past} of {} tensors are past their limits", comparisons.len()), advice);
    section.row([
        worst.folder.clone(),
        dtype.as_str().to_owned(),
        comparisons.len().to_string(),
        format!("{:.2}", worst.severity()),
        worst.tensor.clone(),
    ]);
    Ok(())
}
