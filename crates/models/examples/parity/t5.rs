//! Parity of the T5 encoder: last hidden state with and without padding, state after each block, position bias and
//! buckets.

use std::path::Path;

use anyhow::Context;
use candle_core::{Device, Tensor};
use echogen_checkpoint::Checkpoint;
use echogen_models::t5::{T5Config, T5Encoder};

use crate::compare::{Comparison, Fixture, Setup};

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let encoder = open_encoder(folder, setup)?;
    for group in groups(&fixture) {
        check_group(&mut fixture, &encoder, &group)?;
    }
    fixture.finish()
}

fn open_encoder(folder: &Path, setup: &Setup) -> anyhow::Result<T5Encoder> {
    let config = std::fs::read(folder.join("config.json")).context("config.json")?;
    let config: T5Config = serde_json::from_slice(&config).context("config.json")?;
    let weights = Checkpoint::open(&folder.join("model.safetensors"))?;
    Ok(weights.load(setup.dtype, &setup.device, T5Encoder::is_ignored, |vb| T5Encoder::new(vb, &config))?)
}

/// Returns the group names: the part between `in.` and `input_ids`: "" for `in.input_ids`, "long." for
/// `in.long.input_ids`.
fn groups(fixture: &Fixture) -> Vec<String> {
    let group = |name: &str| Some(name.strip_prefix("in.")?.strip_suffix("input_ids")?.to_owned());
    fixture.names().filter_map(group).collect()
}

fn check_group(fixture: &mut Fixture, encoder: &T5Encoder, group: &str) -> anyhow::Result<()> {
    let input_ids = fixture.input(&format!("in.{group}input_ids"))?;
    let mask = format!("in.{group}attention_mask");
    let mask = fixture.has(&mask).then(|| fixture.input(&mask)).transpose()?;
    let (states, last) = encoder.forward_with_hidden_states(&input_ids, mask.as_ref())?;
    check_if_there(fixture, &format!("out.{group}last_hidden_state"), || Ok(last))?;
    for (n, state) in states.into_iter().enumerate() {
        check_if_there(fixture, &format!("out.{group}hidden.{n}"), || Ok(state))?;
    }
    let tokens = input_ids.dim(1)?;
    check_if_there(fixture, &format!("out.{group}position_bias"), || Ok(encoder.position_bias(tokens)?))?;
    check_if_there(fixture, &format!("out.{group}bucket"), || {
        Ok(Tensor::from_vec(encoder.position_buckets(tokens), (tokens, tokens), &Device::Cpu)?)
    })
}

fn check_if_there(
    fixture: &mut Fixture,
    name: &str,
    actual: impl FnOnce() -> anyhow::Result<Tensor>,
) -> anyhow::Result<()> {
    if fixture.has(name) { fixture.check(name, &actual()?) } else { Ok(()) }
}
