//! Parity of CLIP: preprocessed pictures, tokens, and the features of both encoders.

use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::Device;
use echogen_eval::similarity::Clip;
use serde::Deserialize;

use crate::{
    compare::{Comparison, Fixture, Setup},
    pictures::prepared,
};

/// An entry of `sentences.json`.
#[derive(Deserialize)]
struct Sentence {
    text: String,
    ids: Vec<u32>,
}

pub(crate) fn run(folder: &Path) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, &Setup::default())?;
    let clip = Clip::load(folder, &Device::Cpu)?;
    let pictures = prepared(&mut fixture, |picture| clip.prepare(picture))?;
    fixture.check("out.image_features", &clip.image_features(&pictures)?)?;
    let sentences = std::fs::read(folder.join("sentences.json")).context("sentences.json")?;
    let sentences: Vec<Sentence> = serde_json::from_slice(&sentences).context("sentences.json")?;
    for (number, Sentence { text, ids }) in sentences.iter().enumerate() {
        let tokens = clip.tokenize(text)?;
        ensure!(tokens == *ids, "{text:?} has the tokens {ids:?}; computed {tokens:?}");
        fixture.check(&format!("out.text_features.{number}"), &clip.text_features(text)?.squeeze(0)?)?;
    }
    fixture.finish()
}
