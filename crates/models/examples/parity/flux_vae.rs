//! Parity of the FLUX autoencoder, in each naming scheme for which the folder has weights.

use std::path::Path;

use anyhow::{Context, ensure};
use echogen_checkpoint::Checkpoint;
use echogen_models::{
    flux_vae::{FluxVaeConfig, FluxVaeDecoder, FluxVaeEncoder},
    layers::conv::Stage,
};

use crate::compare::{Comparison, Fixture, Setup};

/// Configuration file, weight file and label suffix of each naming scheme.
const LAYOUTS: [(&str, &str, &str); 2] =
    [("config.json", "model.safetensors", ""), ("config.bfl.json", "model.bfl.safetensors", " (ae names)")];

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let mut found = false;
    for (config, weights, note) in LAYOUTS {
        if folder.join(weights).exists() {
            compare_layout(&mut fixture, &folder.join(config), &folder.join(weights), note).context(weights)?;
            found = true;
        }
    }
    ensure!(found, "the folder has neither model.safetensors nor model.bfl.safetensors");
    fixture.finish()
}

fn compare_layout(fixture: &mut Fixture, config: &Path, weights: &Path, note: &str) -> anyhow::Result<()> {
    let config: FluxVaeConfig = serde_json::from_slice(&std::fs::read(config)?)?;
    let checkpoint = Checkpoint::open(weights)?;
    let Setup { device, dtype } = fixture.setup().clone();

    let mut taps = Vec::new();
    let encoder = checkpoint.load(dtype, &device, FluxVaeEncoder::ignores, |vb| FluxVaeEncoder::new(vb, &config))?;
    let posterior = encoder.forward_with_tap(&fixture.input("in.image")?, |stage, xs| {
        taps.push((stage_name("enc", "down", stage), xs.clone()));
        Ok(())
    })?;
    let decoder = checkpoint.load(dtype, &device, FluxVaeDecoder::ignores, |vb| FluxVaeDecoder::new(vb, &config))?;
    // A reduced type's errors are those of each half on its own.
    let latent = if fixture.setup().is_reduced() { fixture.input("out.mean")? } else { posterior.mean.clone() };
    let decoded = decoder.forward_with_tap(&latent, |stage, xs| {
        taps.push((stage_name("dec", "up", stage), xs.clone()));
        Ok(())
    })?;
    for (name, xs) in taps.into_iter().filter(|(name, _)| fixture.has(name)).collect::<Vec<_>>() {
        fixture.check_as(&format!("{name}{note}"), &name, &xs)?;
    }
    let sample = posterior.sample(&fixture.input("in.noise")?)?;
    let scaled_mean = config.normalise(&posterior.mean)?;
    for (name, xs) in [
        ("out.mean", &posterior.mean),
        ("out.logvar", &posterior.logvar),
        ("out.sample", &sample),
        ("out.scaled_mean", &scaled_mean),
        ("out.decoded", &decoded),
    ] {
        fixture.check_as(&format!("{name}{note}"), name, xs)?;
    }
    Ok(())
}

fn stage_name(part: &str, direction: &str, stage: Stage) -> String {
    match stage {
        Stage::Level(index) => format!("out.dbg.{part}.{direction}.{index}"),
        Stage::Middle => format!("out.dbg.{part}.mid"),
    }
}
