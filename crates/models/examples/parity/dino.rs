//! DINO's ViT as candle-transformers has it: prepared pictures and class tokens.

use std::path::Path;

use candle_core::{Device, Tensor};
use echogen_models::similarity::Dino;

use crate::compare::{Comparison, Fixture};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder)?;
    let dino = Dino::load(folder, &Device::Cpu)?;
    let mut pictures = Vec::new();
    while let Some(picture) = fixture.picture(&format!("in.picture.{}", pictures.len()))? {
        let prepared = dino.prepare(&picture)?;
        fixture.check(&format!("out.pixel_values.{}", pictures.len()), &prepared)?;
        pictures.push(prepared);
    }
    fixture.check("out.cls_token", &dino.class_tokens(&Tensor::stack(&pictures, 0)?)?)?;
    fixture.finish()
}
