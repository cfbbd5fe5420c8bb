//! Parity of Qwen2.5-VL: preprocessing, vision encoder, positions, prefill and greedy decoding, for every text of the
//! fixture.

use std::{collections::BTreeMap, ops::ControlFlow, path::Path};

use anyhow::{Context, ensure};
use candle_core::{DType, Device, Tensor};
use echogen_checkpoint::Checkpoint;
use echogen_imaging::{Filter, RgbImage, resize};
use echogen_models::qwen2_5_vl::{
    DecodingState, Grid, Qwen, QwenConfig, QwenInput, QwenProcessorConfig, TextPositions, WindowOrder, patch_places,
    smart_resize,
};
use serde::Deserialize;

use crate::compare::{Comparison, Fixture, Setup};

/// Side of a merged cell in pixels, for the list of sizes.
const FACTOR: usize = 28;

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let config = read(folder, "config.json")?.context("config.json")?;
    let config: QwenConfig = serde_json::from_slice(&config).context("config.json")?;
    let processor = match read(folder, "preprocessor_config.json")? {
        Some(text) => serde_json::from_slice(&text).context("preprocessor_config.json")?,
        None => QwenProcessorConfig::default(),
    };
    let index = folder.join("model.safetensors.index.json");
    let weights = if index.exists() { index } else { folder.join("model.safetensors") };
    let checkpoint = Checkpoint::open(&weights)?;
    let model = checkpoint.load(setup.dtype, &setup.device, Qwen::is_ignored, |vb| Qwen::new(vb, &config))?;
    check_sizes(&mut fixture, folder)?;
    for picture in names_between(&fixture, "in.", ".grid_thw") {
        check_picture(&mut fixture, &picture, &processor, &config)?;
    }
    for case in names_between(&fixture, "in.", ".input_ids") {
        check_case(&mut fixture, &case, &model)?;
    }
    fixture.finish()
}

fn read(folder: &Path, name: &str) -> anyhow::Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    if path.exists() { Ok(Some(std::fs::read(path)?)) } else { Ok(None) }
}

fn names_between(fixture: &Fixture, before: &str, after: &str) -> Vec<String> {
    let name = |name: &str| Some(name.strip_prefix(before)?.strip_suffix(after)?.to_owned());
    // `image_grid_thw` belongs to a case, not to a picture.
    fixture.names().filter_map(name).filter(|name| !name.contains('.')).collect()
}

#[derive(Deserialize)]
struct SizeCase {
    h: usize,
    w: usize,
    min_pixels: usize,
    max_pixels: usize,
    resized: Option<[u32; 2]>,
}

/// Compares every size of the list; (0, 0) marks pictures that must be rejected.
fn check_sizes(fixture: &mut Fixture, folder: &Path) -> anyhow::Result<()> {
    let Some(text) = read(folder, "smart_resize_cases.json")? else { return Ok(()) };
    let cases: Vec<SizeCase> = serde_json::from_slice(&text).context("smart_resize_cases.json")?;
    ensure!(!cases.is_empty(), "smart_resize_cases.json is empty");
    let actual = cases.iter().flat_map(|case| {
        let size = smart_resize((case.h, case.w), FACTOR, (case.min_pixels, case.max_pixels)).unwrap_or_default();
        [size.0 as u32, size.1 as u32]
    });
    let actual = Tensor::from_vec(actual.collect::<Vec<_>>(), (cases.len(), 2), &Device::Cpu)?;
    let expected = cases.iter().flat_map(|case| case.resized.unwrap_or_default()).collect::<Vec<_>>();
    let expected = Tensor::from_vec(expected, (cases.len(), 2), &Device::Cpu)?;
    fixture.check_against("smart_resize_cases", &expected, &actual, 0.0)
}

fn check_picture(
    fixture: &mut Fixture,
    name: &str,
    processor: &QwenProcessorConfig,
    config: &QwenConfig,
) -> anyhow::Result<()> {
    let pixels = fixture.get(&format!("in.{name}"))?;
    let (height, width, _) = pixels.dims3()?;
    let picture = RgbImage::from_raw(width as u32, height as u32, pixels.flatten_all()?.to_vec1()?);
    let picture = picture.with_context(|| format!("in.{name} is no picture"))?;
    let (height, width) = processor.size_of(&picture, &config.vision)?;
    let resized = resize(&picture, height as u32, width as u32, Filter::Bicubic)?.into_raw();
    let resized = Tensor::from_vec(resized, (height, width, 3), &Device::Cpu)?;
    check_if_there(fixture, &format!("out.{name}.resized_u8"), &resized)?;
    let size = Tensor::new(&[height as u32, width as u32], &Device::Cpu)?;
    check_if_there(fixture, &format!("out.{name}.resized_hw"), &size)?;
    let patches = processor.patches(&picture, &config.vision)?;
    let grid = [patches.grid.frames as u32, patches.grid.rows as u32, patches.grid.columns as u32];
    let name_of = |tensor: &str| format!("in.{name}.{tensor}");
    let grid = Tensor::from_slice(&grid, (1, 3), &Device::Cpu)?;
    fixture.check_as(&format!("{} (prepared)", name_of("grid_thw")), &name_of("grid_thw"), &grid)?;
    let values = &patches.pixel_values;
    fixture.check_as(&format!("{} (prepared)", name_of("pixel_values")), &name_of("pixel_values"), values)
}

fn check_case(fixture: &mut Fixture, case: &str, model: &Qwen) -> anyhow::Result<()> {
    let input_ids = fixture.get(&format!("in.{case}.input_ids"))?.to_dtype(DType::U32)?.squeeze(0)?.to_vec1::<u32>()?;
    let grids = fixture.get(&format!("in.{case}.image_grid_thw"))?.to_dtype(DType::U32)?.to_vec2::<u32>()?;
    let grid = |thw: &Vec<u32>| Grid { frames: thw[0] as usize, rows: thw[1] as usize, columns: thw[2] as usize };
    let grids: Vec<Grid> = grids.iter().map(grid).collect();
    let pixel_values = pixel_values(fixture, case, grids.len())?;
    let name = |output: &str| format!("out.{case}.{output}");
    for (output, tensor) in positions(model.config(), &input_ids, &grids)? {
        check_if_there(fixture, &name(output), &tensor)?;
    }
    let seen = model.visual().forward(&pixel_values, &grids)?;
    check_if_there(fixture, &name("image_embeds"), &seen.embeds)?;
    check_if_there(fixture, &name("vision_last_hidden_state_window_order"), &seen.last_hidden_state)?;
    let input = QwenInput { input_ids: &input_ids, pixel_values: &pixel_values, grids: &grids };
    let mut states = BTreeMap::new();
    let mut state = model.prefill_visiting(&input, &mut |index, state| {
        states.insert(index, state.unsqueeze(0)?);
        Ok(())
    })?;
    for (index, state) in states {
        check_if_there(fixture, &name(&format!("hidden.{index}")), &state)?;
    }
    if fixture.has(&name("prefill_logits")) {
        let count = fixture.get(&name("prefill_logits"))?.dim(1)?;
        fixture.check(&name("prefill_logits"), &model.last_logits(&state, count)?.unsqueeze(0)?)?;
    }
    if fixture.has(&name("greedy_tokens")) && fixture.setup().is_reduced() {
        fixture.pass_over(&name("greedy_tokens"));
        check_if_there(fixture, &name("greedy_logits"), &replayed_logits(fixture, model, &mut state, case)?)?;
    } else if fixture.has(&name("greedy_tokens")) {
        let count = fixture.get(&name("greedy_tokens"))?.dim(0)?;
        let mut logits = Vec::new();
        let tokens = model.greedy(&mut state, count, |_, chosen_by| {
            logits.push(chosen_by.clone());
            ControlFlow::Continue(())
        })?;
        fixture.check(&name("greedy_tokens"), &Tensor::from_slice(&tokens, tokens.len(), &Device::Cpu)?)?;
        check_if_there(fixture, &name("greedy_logits"), &Tensor::stack(&logits, 0)?)?;
    }
    Ok(())
}

/// Returns the logits at each of the fixture's tokens, which are fed in place of the likeliest ones.
fn replayed_logits(fixture: &Fixture, model: &Qwen, state: &mut DecodingState, case: &str) -> anyhow::Result<Tensor> {
    let tokens = fixture.get(&format!("out.{case}.greedy_tokens"))?.to_dtype(DType::U32)?.to_vec1::<u32>()?;
    let mut logits = Vec::new();
    for token in tokens {
        logits.push(state.logits.clone());
        model.step(state, token)?;
    }
    Ok(Tensor::stack(&logits, 0)?)
}

/// Returns the case's own patches, or those of its pictures in order.
fn pixel_values(fixture: &Fixture, case: &str, pictures: usize) -> anyhow::Result<Tensor> {
    let own = format!("in.{case}.pixel_values");
    if fixture.has(&own) {
        return Ok(fixture.get(&own)?.clone());
    }
    let order = format!("in.{case}.image_order");
    let order = match fixture.has(&order) {
        true => fixture.get(&order)?.to_dtype(DType::U32)?.to_vec1::<u32>()?,
        false => (0..pictures as u32).collect(),
    };
    let parts = order.iter().map(|n| fixture.get(&format!("in.image{n}.pixel_values")));
    Ok(Tensor::cat(&parts.collect::<anyhow::Result<Vec<_>>>()?, 0)?)
}

/// Returns all position tensors of a case.
fn positions(config: &QwenConfig, ids: &[u32], grids: &[Grid]) -> anyhow::Result<Vec<(&'static str, Tensor)>> {
    let merge = config.vision.spatial_merge_size;
    let text = TextPositions::new(ids, config.image_token_id, grids, merge)?;
    let axis = |axis: usize| text.places.iter().map(move |place| place[axis]);
    let places: Vec<u32> = (0..3).flat_map(axis).collect();
    let delta = f64::from(text.next) - ids.len() as f64;
    let order = WindowOrder::new(grids, &config.vision);
    let ends: Vec<u32> = order.window_ends.iter().map(|end| *end as u32).collect();
    let patches: Vec<u32> = patch_places(grids, merge).into_iter().flatten().collect();
    let device = &Device::Cpu;
    Ok(vec![
        ("position_ids", Tensor::from_vec(places, (3, 1, ids.len()), device)?),
        ("rope_delta", Tensor::new(&[[delta]], device)?),
        ("window_index", Tensor::from_slice(&order.index, order.index.len(), device)?),
        ("cu_window_seqlens", Tensor::from_slice(&ends, ends.len(), device)?),
        ("vision_hw_position_ids", Tensor::from_slice(&patches, (patches.len() / 2, 2), device)?),
    ])
}

fn check_if_there(fixture: &mut Fixture, name: &str, actual: &Tensor) -> anyhow::Result<()> {
    if fixture.has(name) { fixture.check(name, actual) } else { Ok(()) }
}
