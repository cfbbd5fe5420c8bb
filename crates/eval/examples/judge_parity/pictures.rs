//! The fixture's pictures, preprocessed for a network.

use anyhow::Context;
use candle_core::Tensor;
use echogen_imaging::RgbImage;

use crate::compare::Fixture;

/// Preprocesses the fixture's pictures `in.picture.0` and following, compares each, and returns the batch.
pub(crate) fn prepared<E: Into<anyhow::Error>>(
    fixture: &mut Fixture,
    prepare: impl Fn(&RgbImage) -> Result<Tensor, E>,
) -> anyhow::Result<Tensor> {
    let mut pictures = Vec::new();
    while let Some(picture) = picture(fixture, &format!("in.picture.{}", pictures.len()))? {
        let prepared = prepare(&picture).map_err(Into::into)?;
        fixture.check(&format!("out.pixel_values.{}", pictures.len()), &prepared)?;
        pictures.push(prepared);
    }
    Ok(Tensor::stack(&pictures, 0)?)
}

/// Returns the tensor of that name, (height, width, 3) bytes, as a picture; `None` if it does not exist.
fn picture(fixture: &Fixture, name: &str) -> anyhow::Result<Option<RgbImage>> {
    if !fixture.has(name) {
        return Ok(None);
    }
    let bytes = fixture.get(name)?;
    let (height, width, _) = bytes.dims3()?;
    let bytes = bytes.flatten_all()?.to_vec1::<u8>()?;
    let picture = RgbImage::from_raw(width as u32, height as u32, bytes);
    Ok(Some(picture.with_context(|| format!("{name} is no picture"))?))
}
