//! Reads a picture from a file that the user names.

use std::{fs::File, io::Read, path::Path};

use anyhow::{Context, Result, bail};
use echogen_imaging::{ImageLimits, RgbImage, decode_image};
use echogen_protocol::limits::MAX_IMAGE_BYTES;

/// Reads a picture in upright orientation, within the limits that apply to jobs.
pub fn read(path: &Path) -> Result<RgbImage> {
    read_bounded(path).with_context(|| path.display().to_string())
}

fn read_bounded(path: &Path) -> Result<RgbImage> {
    let mut bytes = Vec::new();
    let length = std::fs::metadata(path)?.len();
    if length > MAX_IMAGE_BYTES {
        bail!("the picture has {length} bytes; the limit is {MAX_IMAGE_BYTES}");
    }
    File::open(path)?.take(MAX_IMAGE_BYTES).read_to_end(&mut bytes)?;
    Ok(decode_image(&bytes, &ImageLimits::default())?)
}
