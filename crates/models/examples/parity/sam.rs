//! Parity of SAM: image embeddings, and masks and IoU scores for boxes and points.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use candle_core::{DType, Tensor};
use echogen_checkpoint::Checkpoint;
use echogen_models::sam::{Sam, SamConfig, SamEmbedding, SamPoint, SamPrompt};

use crate::compare::{Comparison, Fixture, Setup};

pub(crate) fn run(folder: &Path, setup: &Setup) -> anyhow::Result<Vec<Comparison>> {
    let mut fixture = Fixture::open(folder, setup)?;
    let config = std::fs::read(folder.join("config.json")).context("config.json")?;
    let config: SamConfig = serde_json::from_slice(&config).context("config.json")?;
    // As in the program and in the published script, SAM is float32 whatever the type of the others.
    let weights = Checkpoint::open(&folder.join("model.safetensors"))?;
    let network = weights.load(DType::F32, &setup.device, Sam::is_ignored, |vb| Sam::new(vb, &config))?;
    let pictures = network.embed(&fixture.get("in.pixel_values")?.to_device(&setup.device)?)?;
    if fixture.has("out.image_embeddings") {
        let maps = pictures.iter().map(SamEmbedding::map).collect::<candle_core::Result<Vec<_>>>()?;
        fixture.check("out.image_embeddings", &Tensor::stack(&maps, 0)?)?;
    }
    for case in cases(&fixture) {
        check_case(&mut fixture, &network, &pictures, &case)?;
    }
    fixture.finish()
}

/// Returns the case names: the part of a tensor name between `out.` and `.pred_masks` or `.iou_scores`.
fn cases(fixture: &Fixture) -> Vec<String> {
    let case = |name: &str| {
        let rest = name.strip_prefix("out.")?;
        Some(rest.strip_suffix(".pred_masks").or(rest.strip_suffix(".iou_scores"))?.to_owned())
    };
    let mut cases: Vec<_> = fixture.names().filter_map(case).collect();
    cases.dedup();
    cases
}

/// Compares one case. A name that begins with `box` uses the boxes as prompts, `point` the points, `both` both. A name
/// that ends in `single` uses the mask for an unambiguous prompt.
fn check_case(fixture: &mut Fixture, network: &Sam, pictures: &[SamEmbedding], case: &str) -> anyhow::Result<()> {
    let prompts = prompts(fixture, case)?;
    ensure!(prompts.len() == pictures.len(), "{case}: {} pictures, {} prompts", pictures.len(), prompts.len());
    let (mut masks, mut scores) = (Vec::new(), Vec::new());
    for (picture, prompts) in pictures.iter().zip(&prompts) {
        let (mut of_picture, mut scores_of_picture) = (Vec::new(), Vec::new());
        for prompt in prompts {
            let output = network.masks(picture, prompt)?;
            let count = output.masks.dim(0)?;
            let (first, count) = if case.ends_with("single") { (0, 1) } else { (1, count - 1) };
            of_picture.push(output.masks.narrow(0, first, count)?);
            scores_of_picture.push(output.iou_scores.narrow(0, first, count)?);
        }
        masks.push(Tensor::stack(&of_picture, 0)?);
        scores.push(Tensor::stack(&scores_of_picture, 0)?);
    }
    for (output, actual) in [("pred_masks", masks), ("iou_scores", scores)] {
        let name = format!("out.{case}.{output}");
        if fixture.has(&name) {
            fixture.check(&name, &Tensor::stack(&actual, 0)?)?;
        }
    }
    Ok(())
}

/// Returns the prompts of the case for each picture.
fn prompts(fixture: &Fixture, case: &str) -> anyhow::Result<Vec<Vec<SamPrompt>>> {
    let numbers = |name: &str| -> anyhow::Result<Vec<Vec<Vec<f32>>>> {
        Ok(fixture.get(name)?.to_dtype(DType::F32)?.flatten_from(2)?.to_vec3()?)
    };
    let boxes = || -> anyhow::Result<Vec<Vec<SamPrompt>>> {
        let corner = |b: &Vec<f32>| SamPrompt { bounding_box: Some([b[0], b[1], b[2], b[3]]), points: Vec::new() };
        Ok(numbers("in.input_boxes")?.iter().map(|boxes| boxes.iter().map(corner).collect()).collect())
    };
    let points = || -> anyhow::Result<Vec<Vec<SamPrompt>>> {
        let prompt = |(places, labels): (&Vec<f32>, &Vec<f32>)| {
            let point = |(at, label): (&[f32], &f32)| SamPoint { x: at[0], y: at[1], is_subject: *label == 1.0 };
            SamPrompt { bounding_box: None, points: places.chunks_exact(2).zip(labels).map(point).collect() }
        };
        let labels = numbers("in.input_labels")?;
        let both = numbers("in.input_points")?.into_iter().zip(labels);
        Ok(both.map(|(places, labels)| places.iter().zip(&labels).map(prompt).collect()).collect())
    };
    match case {
        case if case.starts_with("box") => boxes(),
        case if case.starts_with("point") => points(),
        case if case.starts_with("both") => {
            let join = |(b, p): (SamPrompt, SamPrompt)| SamPrompt { bounding_box: b.bounding_box, ..p };
            let both = boxes()?.into_iter().zip(points()?);
            Ok(both.map(|(boxes, points)| boxes.into_iter().zip(points).map(join).collect()).collect())
        }
        _ => bail!("the case {case} begins with none of box, point and both"),
    }
}
