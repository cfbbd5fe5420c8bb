//! Parity of EchoGen's transformer: teacher-forced passes and replayed sampling runs.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, ensure};
use candle_core::{DType, IndexOp, Tensor};
use candle_nn::VarBuilder;
use echogen_checkpoint::Checkpoint;
use echogen_models::echogen::{
    EchoGen, EchoGenConfig, FeatureKeys, PerScale, Rows, SampleRequest, Sampler, SamplingOptions, Schedule,
    SubjectFeatures, is_ignored,
};
use serde::Deserialize;

use crate::compare::{Comparison, Fixture, Setup};

/// The contents of `config.json` in an `echogen` fixture.
#[derive(Deserialize)]
struct Description {
    model: EchoGenConfig,
    batch: usize,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    scales: Vec<(usize, usize)>,
    rope_grid: (usize, usize),
    #[serde(default)]
    runs: BTreeMap<String, Run>,
}

#[derive(Deserialize)]
struct Run {
    greedy: bool,
    top_p: f64,
    negative: bool,
    cfg_text: Vec<f64>,
    cfg_image: Vec<f64>,
    tau: Vec<f64>,
}

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let description = std::fs::read_to_string(folder.join("config.json")).context("config.json")?;
    let description: Description = serde_json::from_str(&description).context("config.json")?;
    let mut fixture = Fixture::open(folder, setup)?;
    let config = &description.model;
    // As published, the conditions are float32, and the blocks are in the reduced type.
    let model = Checkpoint::open(&folder.join("model.safetensors"))?.load(
        DType::F32,
        &setup.device,
        |name| is_ignored(config, name),
        |vb: VarBuilder| EchoGen::new(vb, config, setup.dtype),
    )?;
    let sampler = Sampler::new(model, 256 << 20);
    for (name, case) in &description.cases {
        let schedule = Schedule::new(case.scales.clone(), case.rope_grid)?;
        if fixture.has(&format!("in.{name}.tf.inputs")) {
            teacher_forced(&mut fixture, sampler.model(), name, &schedule, description.batch)?;
        }
        for (run_name, run) in &case.runs {
            let stem = format!("out.{name}.{run_name}");
            sampling_run(&mut fixture, &sampler, &stem, run, &schedule, description.batch)?;
        }
    }
    fixture.finish()
}

/// Returns the features of image `index`.
fn subject(fixture: &Fixture, index: usize) -> anyhow::Result<SubjectFeatures> {
    let content = fixture.get("in.content")?.i(index)?; // (content_dim, h, w)
    Ok(SubjectFeatures {
        cls_token: fixture.get("in.cls")?.i(index)?,
        patch_tokens: fixture.get("in.patches")?.i(index)?,
        content: content.flatten_from(1)?.t()?.contiguous()?,
    })
}

fn teacher_forced(
    fixture: &mut Fixture,
    model: &EchoGen,
    case: &str,
    schedule: &Schedule,
    batch: usize,
) -> anyhow::Result<()> {
    let mut outputs: BTreeMap<&str, Vec<Tensor>> = BTreeMap::new();
    for image in 0..batch {
        let (text, subject) = (fixture.get(&format!("in.text.{image}"))?.clone(), subject(fixture, image)?);
        let inputs = fixture.get(&format!("in.{case}.tf.inputs"))?.i(image)?;
        let (logits, taps) = model.teacher_forced(&text, &subject, &inputs, schedule)?;
        let conditions = model.condition_taps(&text, &subject)?;
        let first_and_last = |xs: &[Tensor]| xs.first().cloned().zip(xs.last().cloned());
        let (block_first, block_last) = first_and_last(&taps.blocks).context("the model has no blocks")?;
        outputs.entry("logits").or_default().push(logits);
        outputs.entry("block_first").or_default().push(block_first);
        outputs.entry("block_last").or_default().push(block_last);
        if let Some((first, before_last)) = first_and_last(&conditions.content) {
            outputs.entry("content_first").or_default().push(first);
            outputs.entry("content_before_last").or_default().push(before_last);
        }
        outputs.entry("text_vector").or_default().push(conditions.text_vector);
        outputs.entry("global_vector").or_default().push(conditions.global_vector);
        outputs.entry("gains_image").or_default().push(conditions.gains_image.unsqueeze(0)?);
        outputs.entry("gains_content").or_default().push(conditions.gains_content.unsqueeze(0)?);
    }
    for (name, images) in outputs {
        let name = format!("out.{case}.tf.{name}");
        if fixture.has(&name) {
            fixture.check(&name, &Tensor::stack(&images, 0)?)?;
        }
    }
    Ok(())
}

/// Replays the fixture's bits scale by scale and compares all outputs. Repeats this with only the rows that guidance
/// needs, and, if the run is greedy, with the bits that our sampler selects.
fn sampling_run(
    fixture: &mut Fixture,
    sampler: &Sampler,
    stem: &str,
    run: &Run,
    schedule: &Schedule,
    batch: usize,
) -> anyhow::Result<()> {
    let requests = (0..batch).map(|image| request(fixture, run, image)).collect::<anyhow::Result<Vec<_>>>()?;
    for (rows, way) in [(Rows::All, ""), (Rows::Needed, " (needed rows)")] {
        let mut sampling = sampler.start(&requests, schedule, rows)?;
        for scale in 0..schedule.scales().len() {
            let logits = sampling.logits()?;
            let name = format!("{stem}.logits.{scale}");
            fixture.check_as(&format!("{name}{way}"), &name, &Tensor::stack(&logits, 0)?)?;
            let rows_name = format!("{stem}.rows.{scale}");
            if rows == Rows::All && fixture.has(&rows_name) {
                fixture.check(&rows_name, &by_kind(sampling.row_logits(), batch)?)?;
            }
            let replays = fixture.setup().is_reduced();
            let name = format!("{stem}.bits.{scale}");
            let replayed = fixture.get(&name)?.clone();
            let bits = (0..batch).map(|i| replayed.i(i)?.flatten_all()).collect::<candle_core::Result<Vec<_>>>()?;
            let taken = if run.greedy && !replays { sampling.draw(&logits)? } else { bits.clone() };
            let taken = Tensor::stack(&taken, 0)?.reshape(replayed.dims())?;
            fixture.check_as(&format!("{name}{way}"), &name, &taken)?;
            sampling.accept(&bits)?;
        }
        let name = format!("{stem}.summed");
        fixture.check_as(&format!("{name}{way}"), &name, &Tensor::stack(&sampling.summed()?, 0)?)?;
    }
    Ok(())
}

fn request(fixture: &Fixture, run: &Run, image: usize) -> anyhow::Result<SampleRequest> {
    let negative = format!("in.negative.{image}");
    Ok(SampleRequest {
        text: fixture.get(&format!("in.text.{image}"))?.clone(),
        negative_text: run.negative.then(|| fixture.get(&negative).cloned()).transpose()?,
        subject: subject(fixture, image)?,
        keys: FeatureKeys::default(),
        seed: 0,
        options: SamplingOptions {
            guidance_text: PerScale::Each(run.cfg_text.clone()),
            guidance_subject: PerScale::Each(run.cfg_image.clone()),
            temperature: PerScale::Each(run.tau.clone()),
            top_k: if run.greedy { 1 } else { 900 },
            top_p: run.top_p,
        },
    })
}

/// Reorders rows from image-major to kind-major, the fixture's order.
fn by_kind(rows: &[Tensor], batch: usize) -> anyhow::Result<Tensor> {
    ensure!(rows.len() == 3 * batch, "expected three rows for each of {batch} images, got {}", rows.len());
    let order = (0..3).flat_map(|kind| (0..batch).map(move |image| image * 3 + kind));
    let ordered: Vec<_> = order.filter_map(|index| rows.get(index).cloned()).collect();
    Ok(Tensor::stack(&ordered, 0)?)
}
