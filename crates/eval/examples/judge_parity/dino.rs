//! Parity of DINO's vision transformer: preprocessed pictures and class tokens.

use std::path::Path;

use candle_core::Device;
use echogen_eval::similarity::Dino;

use crate::{
    compare::{Comparison, Fixture, Setup},
    pictures::prepared,
};

pub(crate) fn run(folder: &Path) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, &Setup::default())?;
    let dino = Dino::load(folder, &Device::Cpu)?;
    let pictures = prepared(&mut fixture, |picture| dino.prepare(picture))?;
    fixture.check("out.cls_token", &dino.class_tokens(&pictures)?)?;
    fixture.finish()
}
