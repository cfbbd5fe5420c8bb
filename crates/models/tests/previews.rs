//! Previews of the mini bundle's pictures: the code sum of the scales so far, decoded small.
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor};
use echogen_checkpoint::bundle::Bundle;
use echogen_imaging::{Filter, RgbImage, resize};
use echogen_models::{
    echogen::SamplingOptions,
    encoded_subject::EncodedSubject,
    generator::{Generator, ImageRequest},
    sizes::Sizes,
};

fn generator() -> (Generator, Arc<EncodedSubject>) {
    let bundle = Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini")).unwrap();
    let sizes = Sizes::of(&bundle).unwrap();
    let subject = EncodedSubject::blank(&sizes.transformer, 64).unwrap();
    let subject = EncodedSubject::from_bytes(&subject.to_bytes().unwrap()).unwrap();
    (Generator::load(&bundle, &Device::Cpu, DType::F32, 1 << 24).unwrap(), Arc::new(subject))
}

/// The code sums of a picture after each of its scales.
fn sums(generator: &Generator, subject: &Arc<EncodedSubject>) -> Vec<Tensor> {
    let schedule = generator.schedules().nearest(1.0, "0.004M").unwrap();
    let options = SamplingOptions { top_p: 0.9, ..SamplingOptions::default() };
    let (prompt, subject) = ("a red mug on a beach".to_owned(), Arc::clone(subject));
    let request = ImageRequest { prompt, negative_prompt: None, subject, seed: 7, options };
    let mut sampling = generator.start(&[request], &schedule).unwrap();
    let steps = schedule.scales().iter().map(|_| {
        sampling.step().unwrap();
        sampling.summed().unwrap().remove(0)
    });
    steps.collect()
}

/// Mean difference of two pictures' values, of 255.
fn difference(one: &RgbImage, other: &RgbImage) -> f64 {
    assert_eq!(one.dimensions(), other.dimensions());
    let pairs = one.as_raw().iter().zip(other.as_raw());
    pairs.map(|(one, other)| f64::from(one.abs_diff(*other))).sum::<f64>() / one.as_raw().len() as f64
}

#[test]
fn previews_approach_the_picture_scale_by_scale() {
    let (generator, subject) = generator();
    let sums = sums(&generator, &subject);
    let picture = generator.decode(sums.last().unwrap()).unwrap();
    let previews: Vec<RgbImage> = sums.iter().map(|sum| generator.preview(sum, 256).unwrap()).collect();
    assert_eq!(previews.last(), Some(&picture), "what is small enough is decoded like the picture itself");
    let differences: Vec<f64> = previews.iter().map(|preview| difference(preview, &picture)).collect();
    assert!(differences.windows(2).all(|pair| pair[1] < pair[0]), "{differences:?}");
}

#[test]
fn a_preview_is_the_picture_so_far_in_small() {
    let (generator, subject) = generator();
    for sum in sums(&generator, &subject) {
        let whole = generator.decode(&sum).unwrap();
        let expected = resize(&whole, 32, 32, Filter::Bilinear).unwrap();
        let error = difference(&generator.preview(&sum, 32).unwrap(), &expected);
        assert!(error < 4.0, "{error}");
        assert_eq!(generator.decode(&sum).unwrap(), whole, "it changes nothing");
    }
    let wide = Tensor::zeros((32, 3, 8), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(generator.preview(&wide, 32).unwrap().dimensions(), (32, 12), "the shape is kept");
}
