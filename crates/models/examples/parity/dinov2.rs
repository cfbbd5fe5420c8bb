//! Parity of DINOv2: preprocessing, resampled position table, state after each block, both outputs; in every naming
//! scheme.

use std::path::Path;

use anyhow::{Context, ensure};
use candle_core::Tensor;
use echogen_checkpoint::Checkpoint;
use echogen_models::dinov2::{Dinov2, Dinov2Config, Dinov2Output, PositionResampling};

use crate::compare::{Comparison, Fixture, Setup};

/// Weight file of each naming scheme, and the suffix of tensor names in the report.
const WEIGHTS: [(&str, &str); 2] = [("model.safetensors", ""), ("model.torchhub.safetensors", " (torch hub)")];

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let config = std::fs::read(folder.join("config.json")).context("config.json")?;
    let config: Dinov2Config = serde_json::from_slice(&config).context("config.json")?;
    let mut found = false;
    for (file, label) in WEIGHTS {
        let file = folder.join(file);
        if file.exists() {
            found = true;
            let weights = Checkpoint::open(&file)?;
            let network =
                weights.load(setup.dtype, &setup.device, Dinov2::is_ignored, |vb| Dinov2::new(vb, &config))?;
            check_layout(&mut fixture, label, &network)?;
        }
    }
    ensure!(found, "the folder has none of the weight files {WEIGHTS:?}");
    fixture.finish()
}

fn check_layout(fixture: &mut Fixture, label: &str, network: &Dinov2) -> anyhow::Result<()> {
    let (rows, columns) = grid(fixture, network.config())?;
    // The picture is prepared in float32.
    let image = fixture.get("in.image")?.to_device(&fixture.setup().device)?;
    let mut check = |name: &str, actual: &Tensor| -> anyhow::Result<()> {
        if fixture.has(name) { fixture.check_as(&format!("{name}{label}"), name, actual) } else { Ok(()) }
    };
    let echogen = network.with_grid(rows, columns, PositionResampling::Antialiased)?;
    let prepared = echogen.prepare(&image)?;
    check("out.resized", &prepared)?;
    check("out.pos_embed_resampled", echogen.position_embeddings())?;
    let (states, output) = echogen.forward_with_hidden_states(&prepared)?;
    for (n, state) in states.iter().enumerate() {
        check(&format!("out.hidden.{n}"), state)?;
    }
    check("out.x_norm_clstoken", &output.cls_token)?;
    check("out.x_norm_patchtokens", &output.patch_tokens)?;
    let native = network.with_grid(rows, columns, PositionResampling::Plain)?;
    check("out.native_interp.last_hidden_state", &last_hidden_state(&native.forward(&prepared)?)?)
}

fn last_hidden_state(output: &Dinov2Output) -> candle_core::Result<Tensor> {
    Tensor::cat(&[&output.cls_token.unsqueeze(1)?, &output.patch_tokens], 1)
}

/// Returns rows and columns of patches: of the preprocessed image if the fixture has it, else of a square with that
/// many tokens.
fn grid(fixture: &Fixture, config: &Dinov2Config) -> anyhow::Result<(usize, usize)> {
    if fixture.has("out.resized") {
        let (_, _, height, width) = fixture.get("out.resized")?.dims4()?;
        return Ok((height / config.patch_size, width / config.patch_size));
    }
    let patches = fixture.get("out.x_norm_patchtokens")?.dim(1)?;
    let side = patches.isqrt();
    ensure!(side * side == patches, "{patches} patches are no square, and there is no out.resized to tell the grid");
    Ok((side, side))
}
