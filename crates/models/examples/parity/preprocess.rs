//! Parity of picture preprocessing: resizing, cropping and conversion to a tensor, from the decoded pixels of the
//! fixture.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, ensure};
use candle_core::{Device, Tensor};
use echogen_imaging::{
    Filter, ImageLimits, RgbImage, cover_and_crop, covering_size, decode_as_published, resize, to_unit_tensor,
};
use echogen_models::detector::{detector_size, prepare};
use image::ImageDecoder;
use serde::Deserialize;

use crate::compare::{Comparison, Fixture, Setup};

/// The tolerance is one of 256 levels: in bytes, and in [-1, 1] (with a margin for the rounding of f32).
const LEVEL: f64 = 1.0;
const UNIT_LEVEL: f64 = 2.0 / 255.0 + 1e-6;

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let outputs: Vec<_> = fixture.names().filter(|name| name.starts_with("out.")).map(str::to_owned).collect();
    for name in outputs {
        check_output(&mut fixture, folder, &name)?;
    }
    check_expected_files(&mut fixture, folder)?;
    check_sizes(&mut fixture, folder)?;
    check_detector(&mut fixture, folder)?;
    fixture.finish()
}

/// Compares an output named `out.[exif_applied.](float|crop)SIZE.PICTURE`.
fn check_output(fixture: &mut Fixture, folder: &Path, name: &str) -> anyhow::Result<()> {
    let rest = name.strip_prefix("out.").unwrap_or(name);
    let (rest, turn) = rest.strip_prefix("exif_applied.").map_or((rest, false), |rest| (rest, true));
    let (kind, picture_name) = rest.split_once('.').with_context(|| format!("{name} names no picture"))?;
    let decoded = decoded(fixture, picture_name)?;
    let picture = if turn { upright(decoded, folder, picture_name)? } else { decoded };
    let expected = fixture.get(name)?.clone();
    if let Some(size) = kind.strip_prefix("float") {
        let (height, width) = parse_size(size)?;
        let actual = to_unit_tensor(&cover_and_crop(&picture, height, width)?)?;
        return fixture.check_against(name, &expected, &actual, UNIT_LEVEL);
    }
    let size = kind.strip_prefix("crop").with_context(|| format!("{name} is neither float nor crop"))?;
    let (height, width) = parse_size(size)?;
    fixture.check_against(name, &expected, &bytes_tensor(&cover_and_crop(&picture, height, width)?)?, LEVEL)
}

/// Compares the pictures in folders `expectedSIZE`, one for each input of that name.
fn check_expected_files(fixture: &mut Fixture, folder: &Path) -> anyhow::Result<()> {
    for (directory, size) in expected_folders(folder)? {
        let (height, width) = parse_size(&size)?;
        for name in picture_names(fixture) {
            let path = folder.join(&directory).join(format!("{name}.png"));
            if !path.exists() {
                continue;
            }
            let expected = decode_as_published(&std::fs::read(&path)?, &ImageLimits::default())?;
            let actual = cover_and_crop(&decoded(fixture, &name)?, height, width)?;
            let label = format!("{directory}/{name}.png");
            fixture.check_against(&label, &bytes_tensor(&expected)?, &bytes_tensor(&actual)?, LEVEL)?;
        }
    }
    Ok(())
}

/// Compares the sizes before cropping with those in `info.json`; they must be equal.
fn check_sizes(fixture: &mut Fixture, folder: &Path) -> anyhow::Result<()> {
    let info = info(folder)?;
    for name in picture_names(fixture) {
        let picture = decoded(fixture, &name)?;
        let Some(resized) = info[&name]["resized"].as_object() else { continue };
        for (size, expected) in resized {
            let (height, width) = parse_size(size)?;
            let (height, width) = covering_size(&picture, height, width);
            let expected: [u32; 2] = serde_json::from_value(expected.clone())?;
            let tensor = |size: [u32; 2]| Tensor::new(&size, &Device::Cpu);
            let label = format!("info.resized.{size}.{name}");
            fixture.check_against(&label, &tensor(expected)?, &tensor([width, height])?, 0.0)?;
        }
    }
    Ok(())
}

/// Compares the detector's preprocessing, which must be bit-identical to Pillow's.
fn check_detector(fixture: &mut Fixture, folder: &Path) -> anyhow::Result<()> {
    let path = folder.join("io.groundingdino.safetensors");
    if !path.exists() {
        return Ok(());
    }
    let sizes: DetectorSizes = serde_json::from_slice(&std::fs::read(folder.join("groundingdino_sizes.json"))?)?;
    let sorted: BTreeMap<_, _> = candle_core::safetensors::load(path, &Device::Cpu)?.into_iter().collect();
    for (name, expected) in sorted {
        let rest = name.strip_prefix("out.").with_context(|| format!("{name} is no output"))?;
        let (picture, kind) = rest.rsplit_once('.').with_context(|| format!("{name} names no picture"))?;
        let picture = decoded(fixture, picture)?;
        let (height, width) = detector_size((picture.height(), picture.width()), sizes.size, sizes.max_size);
        let actual = match kind {
            "resized_u8" => bytes_tensor(&resize(&picture, height, width, Filter::Bilinear)?)?,
            "pixel_values" => prepare(&picture, sizes.size, sizes.max_size)?,
            _ => anyhow::bail!("{name} is neither resized_u8 nor pixel_values"),
        };
        fixture.check_against(&format!("groundingdino {name}"), &expected, &actual, 0.0)?;
    }
    let tensor = |sizes: Vec<[u32; 2]>| Tensor::from_vec(sizes.concat(), (sizes.len(), 2), &Device::Cpu);
    let actual = sizes.table_800_1333.iter().map(|case| {
        let (height, width) = detector_size((case.h, case.w), 800, 1_333);
        [height, width]
    });
    let expected = sizes.table_800_1333.iter().map(|case| case.original_hw).collect();
    fixture.check_against("groundingdino sizes", &tensor(expected)?, &tensor(actual.collect())?, 0.0)
}

/// The contents of `groundingdino_sizes.json`.
#[derive(Deserialize)]
struct DetectorSizes {
    size: u32,
    max_size: u32,
    table_800_1333: Vec<DetectorSize>,
}

/// The size of one picture, and the size that the original repository resizes it to.
#[derive(Deserialize)]
struct DetectorSize {
    h: u32,
    w: u32,
    original_hw: [u32; 2],
}

/// Returns the folders named `expectedSIZE`, with their sizes.
fn expected_folders(folder: &Path) -> anyhow::Result<Vec<(String, String)>> {
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if let Some(size) = name.strip_prefix("expected").map(str::to_owned) {
            folders.push((name, size));
        }
    }
    folders.sort();
    Ok(folders)
}

/// Returns the names of the pictures for which the fixture has decoded pixels.
fn picture_names(fixture: &Fixture) -> Vec<String> {
    let name = |tensor: &str| Some(tensor.strip_prefix("in.")?.strip_suffix(".decoded")?.to_owned());
    fixture.names().filter_map(name).collect()
}

fn decoded(fixture: &Fixture, name: &str) -> anyhow::Result<RgbImage> {
    let tensor = fixture.get(&format!("in.{name}.decoded"))?;
    let (height, width, channels) = tensor.dims3()?;
    ensure!(channels == 3, "in.{name}.decoded has {channels} channels instead of 3");
    RgbImage::from_raw(width.try_into()?, height.try_into()?, tensor.flatten_all()?.to_vec1()?).context("too large")
}

/// Applies the EXIF orientation of the file to the fixture's decoded pixels. Our own decoded pixels cannot be used,
/// because JPEG decoders differ slightly.
fn upright(picture: RgbImage, folder: &Path, name: &str) -> anyhow::Result<RgbImage> {
    let info = info(folder)?;
    let file = info[name]["file"].as_str().with_context(|| format!("info.json names no file for {name}"))?;
    let bytes = std::io::Cursor::new(std::fs::read(folder.join(file))?);
    let orientation = image::ImageReader::new(bytes).with_guessed_format()?.into_decoder()?.orientation()?;
    let mut picture = image::DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    Ok(picture.into_rgb8())
}

fn info(folder: &Path) -> anyhow::Result<serde_json::Value> {
    Ok(serde_json::from_slice(&std::fs::read(folder.join("info.json"))?)?)
}

/// Parses a size: `48` is 48 x 48, `48x64` is 48 high and 64 wide.
fn parse_size(text: &str) -> anyhow::Result<(u32, u32)> {
    let (height, width) = text.split_once('x').unwrap_or((text, text));
    let number = |text: &str| text.parse().with_context(|| format!("{text:?} is no size"));
    Ok((number(height)?, number(width)?))
}

/// Returns the picture as a tensor (height, width, 3) of bytes.
fn bytes_tensor(picture: &RgbImage) -> anyhow::Result<Tensor> {
    let shape = (picture.height() as usize, picture.width() as usize, 3);
    Ok(Tensor::from_vec(picture.as_raw().clone(), shape, &Device::Cpu)?)
}
