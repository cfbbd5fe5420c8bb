//! The chain of the mini bundle against numbers that it gave on a CPU in float32.

use std::collections::BTreeMap;

use anyhow::Context;
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use echogen_checkpoint::bundle::{Bundle, Network};
use echogen_imaging::RgbImage;
use echogen_models::{
    echogen::{EchoGen, EchoGenConfig, Schedule, Schedules, SubjectFeatures, is_ignored},
    encoded_subject::EncodedSubject,
    feature_extractor::FeatureExtractor,
    random::CounterRng,
    t5::{T5Config, T5Encoder},
    visual_tokenizer::{TokenizerConfig, TokenizerDecoder},
};

use crate::report::{Report, Section};

/// Numbers kept of each tensor, evenly over its elements.
const KEPT: usize = 192;
/// A prompt, as token ids of the mini bundle.
const PROMPT: [u32; 9] = [17, 203, 5, 88, 411, 42, 9, 130, 1];
/// Side of the subject's picture.
const SIDE: u32 = 64;

/// The stored numbers, by the tensor's name.
type Numbers = BTreeMap<String, Vec<f32>>;

/// Root-mean-square errors that are allowed in a type: twice what a CPU gives.
const LIMITS: [(DType, f64); 3] = [(DType::F32, 1e-4), (DType::BF16, 0.026), (DType::F16, 0.003)];

/// Compares the networks in three types.
pub(crate) fn compare(bundle: &Bundle, device: &Device, report: &mut Report) -> anyhow::Result<()> {
    let advice = "verify the bundle with `echogen models verify mini`; if it is whole, a kernel of this device gives wrong \
                  numbers in this type: use another type (--dtype) and give the report to the authors";
    let stored: Numbers = serde_json::from_str(include_str!("mini_numbers.json")).context("the stored numbers")?;
    let mut section = Section::new("Numbers of the mini bundle", &["tensor", "f32", "bf16", "f16"]);
    let mut errors = BTreeMap::<&str, Vec<String>>::new();
    for (dtype, limit) in LIMITS {
        let name = format!("numbers in {}", dtype.as_str());
        let done = report.part(&name, |report| {
            let found = numbers(bundle, device, dtype)?;
            let mut worst = 0.0_f64;
            for (tensor, expected) in &stored {
                let error = error(expected, found.get(tensor).map_or(&[][..], Vec::as_slice));
                worst = if error.is_nan() { f64::INFINITY } else { worst.max(error) };
                errors.entry(tensor).or_default().push(format!("{error:.1e}"));
            }
            let is_finite = found.values().flatten().all(|x| x.is_finite());
            report.check(
                &format!("{name} are finite"),
                is_finite,
                if is_finite { "all are" } else { "some are not" },
                advice,
            );
            report.check(&name, worst <= limit, format!("error {worst:.1e}, limit {limit:.1e}"), advice);
            Ok(())
        });
        if done.is_none() {
            stored.keys().for_each(|tensor| errors.entry(tensor).or_default().push("failed".to_owned()));
        }
    }
    for (tensor, errors) in errors {
        section.rows.push(std::iter::once(tensor.to_owned()).chain(errors).collect());
    }
    section.note("Root-mean-square errors relative to the values of a CPU in f32, over the whole chain.");
    report.sections.push(section);
    Ok(())
}

/// Root-mean-square error relative to the expected values.
fn error(expected: &[f32], found: &[f32]) -> f64 {
    if expected.len() != found.len() {
        return f64::INFINITY;
    }
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = expected.iter().zip(found).map(|(a, b)| square(a - b)).sum();
    (difference / expected.iter().map(|x| square(*x)).sum::<f64>().max(f64::MIN_POSITIVE)).sqrt()
}

/// Runs the chain: text, subject, transformer with known codes, decoder.
fn numbers(bundle: &Bundle, device: &Device, dtype: DType) -> anyhow::Result<Numbers> {
    let config: T5Config = bundle.config(Network::TextEncoder)?;
    let build = |vb: VarBuilder<'static>| T5Encoder::new(vb, &config);
    let encoder = bundle.load(Network::TextEncoder, (device, dtype), T5Encoder::is_ignored, build)?;
    let text = encoder.forward(&Tensor::new(&PROMPT[..], device)?.unsqueeze(0)?, None)?.squeeze(0)?;
    let subject = FeatureExtractor::load(bundle, device, dtype)?.encode(&picture(), SIDE as usize)?;
    let schedule = Schedules::published().nearest(1.0, "0.004M")?;
    let [stream, logits] = transformer(bundle, (device, dtype), &text, &subject, &schedule)?;
    let named = [
        ("text", text),
        ("subject's class token", subject.cls),
        ("subject's patches", subject.patches),
        ("subject's content", subject.mean),
        ("transformer's stream", stream),
        ("logits", logits),
        ("picture", decoded(bundle, (device, dtype), &schedule)?),
    ];
    named.into_iter().map(|(name, xs)| Ok((name.to_owned(), sampled(&xs)?))).collect()
}

/// Returns the last block's stream and the logits of known codes.
fn transformer(
    bundle: &Bundle,
    (device, dtype): (&Device, DType),
    text: &Tensor,
    subject: &EncodedSubject,
    schedule: &Schedule,
) -> anyhow::Result<[Tensor; 2]> {
    let subject = SubjectFeatures {
        cls_token: subject.cls.to_device(device)?,
        patch_tokens: subject.patches.to_device(device)?,
        content: subject.content(0)?.to_device(device)?,
    };
    let config: EchoGenConfig = bundle.config(Network::Transformer)?;
    let (on, ignored) = ((device, DType::F32), |name: &str| is_ignored(&config, name));
    let model = bundle.load(Network::Transformer, on, ignored, |vb| EchoGen::new(vb, &config, dtype))?;
    let inputs = codes(&[schedule.image_tokens() - 1, config.bits], device)?;
    let (logits, mut taps) = model.teacher_forced(text, &subject, &inputs, schedule)?;
    Ok([taps.blocks.pop().context("the transformer has no block")?, logits])
}

/// Returns the picture of known codes, before it is rounded to bytes.
fn decoded(bundle: &Bundle, on: (&Device, DType), schedule: &Schedule) -> anyhow::Result<Tensor> {
    let config: TokenizerConfig = bundle.config(Network::VisualTokenizer)?;
    let build = |vb: VarBuilder<'static>| TokenizerDecoder::new(vb, &config);
    let decoder = bundle.load(Network::VisualTokenizer, on, TokenizerDecoder::ignores, build)?;
    let (height, width) = schedule.last();
    Ok(decoder.forward(&codes(&[1, config.bits, height, width], on.0)?)?)
}

/// Returns some of the elements, evenly over all.
fn sampled(xs: &Tensor) -> candle_core::Result<Vec<f32>> {
    let all = xs.to_device(&Device::Cpu)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    let step = (all.len() / KEPT).max(1);
    Ok(all.into_iter().step_by(step).take(KEPT).collect())
}

/// Returns drawn numbers of the size of code sums.
fn codes(shape: &[usize], device: &Device) -> candle_core::Result<Tensor> {
    let mut values = vec![0.0; shape.iter().product()];
    CounterRng::new(1, 0).fill_uniform(&mut values);
    values.iter_mut().for_each(|x| *x = (*x - 0.5) * 0.4);
    Tensor::from_vec(values, shape, device)
}

/// Returns the subject: a disc on white.
fn picture() -> RgbImage {
    RgbImage::from_fn(SIDE, SIDE, |x, y| {
        let (dx, dy) = (x as i32 - 32, y as i32 - 30);
        let is_inside = dx * dx + dy * dy < 400;
        if is_inside { [200, (x * 3) as u8, (y * 2) as u8].into() } else { [255, 255, 255].into() }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn mini() -> Bundle {
        Bundle::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini")).unwrap()
    }

    /// The stored numbers are those of a CPU in float32; `ECHOGEN_TEST_UPDATE=1` writes them.
    #[test]
    fn the_stored_numbers_are_those_of_the_bundle() {
        if std::env::var_os("ECHOGEN_TEST_UPDATE").is_some() {
            let numbers = numbers(&mini(), &Device::Cpu, DType::F32).unwrap();
            let lines = numbers.iter().map(|(name, values)| format!("{name:?}: {values:?}")).collect::<Vec<_>>();
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/mini_numbers.json");
            std::fs::write(path, format!("{{\n{}\n}}\n", lines.join(",\n"))).unwrap();
            return;
        }
        let mut report = Report::new();
        compare(&mini(), &Device::Cpu, &mut report).unwrap();
        assert!(report.passed && report.checks.len() == 6, "{}", report.markdown());
    }

    #[test]
    fn a_wrong_number_is_noticed() {
        assert_eq!(error(&[1.0, 2.0], &[1.0, 2.0]), 0.0);
        assert!((error(&[3.0, 4.0], &[3.0, 4.5]) - 0.1).abs() < 1e-9);
        assert!(error(&[1.0], &[f32::NAN]).is_nan());
        assert_eq!(error(&[1.0], &[]), f64::INFINITY);
    }
}
