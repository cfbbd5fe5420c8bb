//! Draws the weights of the mini bundle from a fixed seed: `draw_mini [FOLDER]` (default `bundles/mini`).
//!
//! Reads `bundle.toml` for the architectures, writes one `.safetensors` file per network in half precision, and fills
//! lengths and sums into the manifest. The same program always writes the same bytes, on every machine: numbers are
//! uniform and only multiplied, and the generator counts.

mod transformer;
mod weights;

use anyhow::{Context, Result, bail};
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use echogen_models::bundle::MANIFEST_FILE;
use echogen_models::dinov2::{Dinov2, Dinov2Config};
use echogen_models::flux_vae::{FluxVaeConfig, FluxVaeEncoder};
use echogen_models::t5::{T5Config, T5Encoder};
use echogen_models::visual_tokenizer::{TokenizerConfig, TokenizerDecoder, TokenizerEncoder};
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use transformer::{TransformerSizes, transformer_shapes};
use weights::{Shapes, draw};

/// Weights of another seed are as good; this one makes the committed files.
const SEED: u64 = 2_026;

fn main() -> Result<()> {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("bundles/mini"), PathBuf::from);
    draw_mini(&folder).with_context(|| format!("cannot draw the weights of {}", folder.display()))
}

fn draw_mini(folder: &Path) -> Result<()> {
    let manifest_path = folder.join(MANIFEST_FILE);
    let text = std::fs::read_to_string(&manifest_path)?;
    let manifest: toml::Table = toml::from_str(&text)?;
    let text_encoder =
        asked_shapes(&manifest, "text_encoder", |vb, config: &T5Config| T5Encoder::new(vb, config).map(drop))?;
    let dinov2 = asked_shapes(&manifest, "dinov2", |vb, config: &Dinov2Config| Dinov2::new(vb, config).map(drop))?;
    let flux_vae =
        asked_shapes(&manifest, "flux_vae", |vb, config: &FluxVaeConfig| FluxVaeEncoder::new(vb, config).map(drop))?;
    let visual_tokenizer = asked_shapes(&manifest, "visual_tokenizer", |vb, config: &TokenizerConfig| {
        TokenizerEncoder::new(vb.clone(), config)?;
        TokenizerDecoder::new(vb, config).map(drop)
    })?;
    let transformer = transformer_shapes(&config::<TransformerSizes>(&manifest, "transformer")?);
    let networks = [text_encoder, dinov2, flux_vae, visual_tokenizer, transformer];
    let names = ["text_encoder", "dinov2", "flux_vae", "visual_tokenizer", "transformer"];
    for (stream, (name, shapes)) in names.into_iter().zip(networks).enumerate() {
        let bytes = draw(&shapes, SEED, stream as u64)?;
        std::fs::write(folder.join(format!("{name}.safetensors")), bytes)?;
    }
    std::fs::write(&manifest_path, fill_in(&text, folder)?)?;
    Ok(())
}

fn config<T: DeserializeOwned>(manifest: &toml::Table, network: &str) -> Result<T> {
    let table = manifest.get(network).and_then(|table| table.get("config")).context("a config table is missing")?;
    table.clone().try_into().with_context(|| format!("config of {network}"))
}

/// The tensors that a network's constructor asks for.
fn asked_shapes<T: DeserializeOwned>(
    manifest: &toml::Table,
    network: &str,
    build: impl FnOnce(VarBuilder, &T) -> candle_core::Result<()>,
) -> Result<Shapes> {
    let config = config(manifest, network)?;
    let asked = weights::Asked::default();
    let vb = VarBuilder::from_backend(Box::new(asked.clone()), DType::F32, Device::Cpu);
    build(vb, &config).with_context(|| format!("architecture of {network}"))?;
    Ok(asked.shapes())
}

/// Sets the `size` and `sha256` line after each `path` line; everything else stays as it is.
fn fill_in(manifest: &str, folder: &Path) -> Result<String> {
    let mut filled = String::new();
    let mut bytes = Vec::new();
    for line in manifest.lines() {
        match line.split_once(" = ") {
            Some(("path", value)) => {
                bytes = std::fs::read(folder.join(value.trim_matches('"')))?;
                filled.push_str(line);
            }
            Some(("size" | "sha256", _)) if bytes.is_empty() => bail!("{line:?} comes before a path"),
            Some(("size", _)) => filled.push_str(&format!("size = {}", bytes.len())),
            Some(("sha256", _)) => filled.push_str(&format!("sha256 = \"{}\"", hex::encode(Sha256::digest(&bytes)))),
            _ => filled.push_str(line),
        }
        filled.push('\n');
    }
    Ok(filled)
}
