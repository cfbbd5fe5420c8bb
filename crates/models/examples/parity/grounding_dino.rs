//! Parity of GroundingDINO: all steps from the phrase mask to the boxes, for every caption of the fixture.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, bail};
use candle_core::{DType, Tensor};
use echogen_checkpoint::Checkpoint;
use echogen_models::grounding_dino::{GroundingDino, GroundingDinoConfig, GroundingDinoInput, PixelMask};

use crate::compare::{Comparison, Fixture, Setup};

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let config = std::fs::read(folder.join("config.json")).context("config.json")?;
    let config: GroundingDinoConfig = serde_json::from_slice(&config).context("config.json")?;
    // As in the program and in the published script, the detector is float32 whatever the type of the others.
    let weights = Checkpoint::open(&folder.join("model.safetensors"))?;
    let network =
        weights.load(DType::F32, &setup.device, GroundingDino::is_ignored, |vb| GroundingDino::new(vb, &config))?;
    for case in cases(&fixture) {
        let computed = compute(&fixture, &network, &case)?;
        compare(&mut fixture, &case, &computed)?;
    }
    fixture.finish()
}

/// Returns the case names: the part of a tensor name between `in.` and `.input_ids`.
fn cases(fixture: &Fixture) -> Vec<String> {
    let case = |name: &str| Some(name.strip_prefix("in.")?.strip_suffix(".input_ids")?.to_owned());
    fixture.names().filter_map(case).collect()
}

fn compute(fixture: &Fixture, network: &GroundingDino, case: &str) -> anyhow::Result<BTreeMap<String, Tensor>> {
    let input_ids = fixture.get(&format!("in.{case}.input_ids"))?;
    let batch = input_ids.dim(0)?;
    // A case may have its own pictures; otherwise it uses the first ones of the fixture.
    let of_case = |name: &str| -> anyhow::Result<Option<Tensor>> {
        let own = format!("in.{case}.{name}");
        let name = if fixture.has(&own) { own } else { format!("in.{name}") };
        Ok(if fixture.has(&name) { Some(fixture.get(&name)?.narrow(0, 0, batch)?) } else { None })
    };
    let pixel_values = of_case("pixel_values")?.context("in.pixel_values")?;
    let pixel_mask = match of_case("pixel_mask")? {
        Some(mask) => PixelMask::new(&mask)?,
        None => PixelMask::whole(batch, pixel_values.dim(2)?, pixel_values.dim(3)?),
    };
    let optional = |name: &str| -> anyhow::Result<Option<&Tensor>> {
        let name = format!("in.{case}.{name}");
        if fixture.has(&name) { fixture.get(&name).map(Some) } else { Ok(None) }
    };
    let input = GroundingDinoInput {
        pixel_values: &pixel_values,
        pixel_mask: &pixel_mask,
        input_ids,
        attention_mask: optional("attention_mask")?,
        token_type_ids: optional("token_type_ids")?,
    };
    let mut computed = BTreeMap::new();
    let output = network.forward_visiting(&input, &mut |name, tensor| {
        computed.insert(name.to_owned(), tensor.clone());
        Ok(())
    })?;
    computed.insert("logits".to_owned(), output.logits);
    computed.insert("pred_boxes".to_owned(), output.pred_boxes);
    Ok(computed)
}

/// Compares every output of a case. A number at the end of a name selects one image of the computed tensor.
fn compare(fixture: &mut Fixture, case: &str, computed: &BTreeMap<String, Tensor>) -> anyhow::Result<()> {
    let prefix = format!("out.{case}.");
    let outputs: Vec<_> = fixture.names().filter_map(|name| name.strip_prefix(&prefix)).map(str::to_owned).collect();
    for output in outputs {
        let name = format!("{prefix}{output}");
        if let Some(tensor) = computed.get(&output) {
            fixture.check(&name, tensor)?;
            continue;
        }
        let image = output.rsplit_once('.').and_then(|(stem, image)| Some((computed.get(stem)?, image.parse().ok()?)));
        let Some((tensor, image)) = image else { bail!("nothing that is computed is called {output}") };
        let tensor: &Tensor = tensor;
        fixture.check(&name, &tensor.get(image)?)?;
    }
    Ok(())
}
