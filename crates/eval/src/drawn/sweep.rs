//! The trade-off between text and subject guidance: a sweep over strengths, and its chart.

use std::path::Path;

use anyhow::{Context, Result};
use echogen_figures::{Chart, ChartLine, ChartPoint, chart};
use echogen_imaging::{ImageFormat, RgbImage, encode_image};

use super::report::SweepPoint;

/// Strengths of text guidance: one line of the chart each.
pub(crate) const TEXT: [f64; 3] = [1.0, 2.0, 4.0];

/// Strengths of subject guidance: the points of a line.
pub(crate) const SUBJECT: [f64; 5] = [0.0, 1.0, 2.0, 3.0, 5.0];

/// Draws the chart: kind accuracy, which text guidance raises, against identity retrieval. Scene accuracy is not used,
/// because it is near 100 % for any usable network.
pub(crate) fn draw(points: &[SweepPoint]) -> RgbImage {
    let share = |value: Option<f64>| value.unwrap_or(0.0) as f32;
    let line = |text: f64| ChartLine {
        label: format!("text guidance {text}"),
        points: points
            .iter()
            .filter(|point| point.guidance_text == text)
            .map(|point| ChartPoint {
                across: share(point.fidelity.kind_accuracy),
                up: share(point.fidelity.identity_retrieval),
                label: format!("{}", point.guidance_subject),
            })
            .collect(),
    };
    chart(&Chart {
        title: "What guidance gains and costs",
        across: "kind right: what the words ask for",
        up: "subject found among 50; numbers beside the points: subject guidance",
        lines: &TEXT.map(line),
    })
}

/// Writes a PNG file, and its folders.
pub(crate) fn write(path: &Path, picture: &RgbImage) -> Result<()> {
    let png = encode_image(picture, ImageFormat::Png, 100)?;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    std::fs::write(path, png).with_context(|| format!("cannot write {}", path.display()))
}
