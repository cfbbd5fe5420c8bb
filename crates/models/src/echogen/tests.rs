//! Caching and row skipping do not change results, and an image depends on its own request only. Uses the weights of
//! the shipped fixture.

use std::{collections::HashMap, ops::ControlFlow, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;

use super::*;
use crate::random::CounterRng;

fn fixture() -> (EchoGenConfig, HashMap<String, Tensor>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/echogen-tiny");
    let description = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let description: serde_json::Value = serde_json::from_str(&description).unwrap();
    let config = serde_json::from_value(description["model"].clone()).unwrap();
    (config, candle_core::safetensors::load(folder.join("model.safetensors"), &Device::Cpu).unwrap())
}

fn model_of(config: &EchoGenConfig, tensors: HashMap<String, Tensor>) -> candle_core::Result<EchoGen> {
    EchoGen::new(VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu), config, DType::F32)
}

fn sampler(cache_bytes: usize) -> Sampler {
    let (config, tensors) = fixture();
    Sampler::new(model_of(&config, tensors).unwrap(), cache_bytes)
}

fn noise(shape: &[usize], seed: u64) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    CounterRng::new(seed, 99).fill_normal(&mut values);
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

fn request(words: usize, seed: u64, options: SamplingOptions) -> SampleRequest {
    SampleRequest {
        text: noise(&[words, 256], words as u64),
        negative_text: None,
        subject: SubjectFeatures {
            cls_token: noise(&[24], 1),
            patch_tokens: noise(&[16, 24], 2),
            content: noise(&[64, 16], 3),
        },
        keys: FeatureKeys::default(),
        seed,
        options,
    }
}

fn guided(text: f64, subject: f64) -> SamplingOptions {
    SamplingOptions {
        guidance_text: PerScale::All(text),
        guidance_subject: PerScale::All(subject),
        ..SamplingOptions::default()
    }
}

fn square() -> Schedule {
    Schedules::published().nearest(1.0, "0.06M").unwrap()
}

fn sample(sampler: &Sampler, requests: &[SampleRequest], schedule: &Schedule) -> Vec<Vec<f32>> {
    let summed = sampler.sample(requests, schedule, |_, _| ControlFlow::Continue(())).unwrap();
    summed.iter().map(|codes| codes.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn an_image_is_the_same_alone_and_in_any_batch() {
    let (sampler, schedule) = (sampler(0), square());
    let mut negative = request(7, 4, guided(3.0, 1.5));
    negative.negative_text = Some(noise(&[3, 256], 77));
    let lists = SamplingOptions {
        guidance_text: PerScale::Each(vec![2.0, 3.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        guidance_subject: PerScale::Each(vec![2.0, 2.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ..SamplingOptions::default()
    };
    let requests = [
        request(5, 1, guided(2.5, 2.5)),
        request(11, 2, guided(1.0, 1.0)),
        request(5, 3, guided(4.0, 2.0)),
        negative,
        request(9, 5, lists),
    ];
    let together = sample(&sampler, &requests, &schedule);
    for (request, together) in requests.iter().zip(&together) {
        assert_eq!(&sample(&sampler, std::slice::from_ref(request), &schedule)[0], together);
    }
    let reversed: Vec<_> = requests.iter().rev().cloned().collect();
    assert_eq!(sample(&sampler, &reversed, &schedule).into_iter().rev().collect::<Vec<_>>(), together);
}

#[test]
fn a_seed_decides_the_image() {
    let (sampler, schedule) = (sampler(1 << 24), square());
    let of = |seed| sample(&sampler, &[request(5, seed, guided(2.5, 2.5))], &schedule);
    assert_eq!(of(1), of(1));
    assert_ne!(of(1), of(2));
}

#[test]
fn kept_conditions_change_nothing_and_are_used() {
    let (keeping, forgetting, schedule) = (sampler(1 << 26), sampler(0), square());
    let first = request(5, 1, guided(3.0, 2.0));
    let mut other_subject = request(5, 2, guided(3.0, 2.0));
    other_subject.subject.cls_token = noise(&[24], 50);
    let other_prompt = request(8, 3, guided(3.0, 2.0));
    let usage = |request: &SampleRequest| {
        let usage = keeping.start(std::slice::from_ref(request), &schedule, Rows::Needed).unwrap().cache_use();
        (usage.hits, usage.misses)
    };
    assert_eq!(usage(&first), (0, 3), "nothing is known yet");
    assert_eq!(usage(&SampleRequest { seed: 9, ..first.clone() }), (3, 0), "seeds share every row");
    assert_eq!(usage(&other_subject), (2, 1), "a prompt's rows without subject serve every subject");
    assert_eq!(usage(&other_prompt), (0, 3), "another prompt of another length has nothing in common");
    let same_length = SampleRequest { text: noise(&[5, 256], 123), ..first.clone() };
    assert_eq!(usage(&same_length), (1, 2), "the row of nothing depends on the text's length alone");
    for request in [first, other_subject, other_prompt, same_length] {
        let kept = sample(&keeping, std::slice::from_ref(&request), &schedule);
        assert_eq!(kept, sample(&forgetting, &[request], &schedule));
    }
}

#[test]
fn equal_keys_share_conditions_and_others_never_do() {
    let (sampler, schedule) = (sampler(1 << 26), square());
    let keyed = |text: &str, subject: &str, words: usize| {
        let keys = FeatureKeys {
            text: Some(FeatureKey::of(text)),
            subject: Some(FeatureKey::of(subject)),
            ..FeatureKeys::default()
        };
        SampleRequest { keys, ..request(words, 1, guided(3.0, 2.0)) }
    };
    let usage = |request: &SampleRequest| {
        let usage = sampler.start(std::slice::from_ref(request), &schedule, Rows::Needed).unwrap().cache_use();
        (usage.hits, usage.misses, usage.parts)
    };
    assert_eq!(usage(&keyed("a dog", "dog", 5)), (0, 3, 4), "nothing is known yet");
    let mut same = keyed("a dog", "dog", 5);
    same.subject.content = noise(&[64, 16], 77);
    assert_eq!(usage(&same), (3, 0, 0), "the key decides, nothing is read of the features");
    assert_eq!(usage(&keyed("a dog", "cat", 5)), (2, 1, 1), "another subject has a row of its own");
    assert_eq!(usage(&keyed("dog", "dog", 5)), (1, 2, 1), "a text and a subject of one name are two things");
    assert_eq!(usage(&request(5, 1, guided(3.0, 2.0))), (1, 2, 2), "features without keys are hashed");
    let negative = SampleRequest { negative_text: Some(noise(&[5, 256], 8)), ..keyed("a dog", "dog", 5) };
    let named = FeatureKeys { negative_text: Some(FeatureKey::of("fog")), ..negative.keys };
    assert_eq!(usage(&SampleRequest { keys: named, ..negative.clone() }), (2, 1, 1), "a negative text has its own");
    assert_eq!(usage(&SampleRequest { keys: named, ..negative }), (3, 0, 0));
}

#[test]
fn seeds_of_one_batch_share_conditions_that_no_cache_can_hold() {
    let (sampler, schedule) = (sampler(1), square());
    let seeds = [1, 2, 3].map(|seed| request(5, seed, guided(3.0, 2.0)));
    let usage = sampler.start(&seeds, &schedule, Rows::Needed).unwrap().cache_use();
    assert_eq!((usage.hits, usage.misses), (6, 3), "a row is computed once for all seeds");
    assert_eq!(usage.parts, 4, "the text, its absence, the subject and its absence");
    let again = sampler.start(&seeds[..1], &schedule, Rows::Needed).unwrap().cache_use();
    assert_eq!((again.hits, again.misses), (0, 3), "the cache could not hold them for another batch");
}

/// Steps each sampling to its end, in the order of `turns` while it lasts.
fn interleaved(mut samplings: Vec<Sampling>, scales: &[usize], turns: &[usize]) -> Vec<Vec<Vec<f32>>> {
    let mut left = scales.to_vec();
    let rest = (0..samplings.len()).flat_map(|index| std::iter::repeat_n(index, scales[index]));
    for turn in turns.iter().copied().chain(rest) {
        if left[turn] > 0 {
            samplings[turn].step().unwrap();
            left[turn] -= 1;
        }
    }
    samplings.iter().map(values).collect()
}

fn values(sampling: &Sampling) -> Vec<Vec<f32>> {
    let summed = sampling.summed().unwrap();
    summed.iter().map(|codes| codes.flatten_all().unwrap().to_vec1().unwrap()).collect()
}

#[test]
fn images_are_the_same_however_samplings_are_interleaved() {
    let sampler = sampler(0);
    let (large, small) = (Schedules::published().nearest(1.0, "0.25M").unwrap(), square());
    let batches = [
        (&large, vec![request(5, 1, guided(3.0, 2.0)), request(11, 2, guided(2.5, 2.5))]),
        (&small, vec![request(5, 3, guided(2.5, 2.5))]),
        (&small, vec![request(7, 4, guided(1.0, 1.0)), request(5, 1, guided(4.0, 2.0))]),
    ];
    let alone: Vec<_> = batches.iter().map(|(schedule, requests)| sample(&sampler, requests, schedule)).collect();
    let scales = batches.each_ref().map(|(schedule, _)| schedule.scales().len());
    for turns in [&[0, 1, 2, 0, 1, 2, 0, 1, 2][..], &[0, 0, 0, 0, 1, 1, 2, 1, 1, 2, 1, 0, 0], &[2, 1, 0, 0, 2, 2, 1]] {
        let start = |(schedule, requests): &(&Schedule, Vec<_>)| sampler.start(requests, schedule, Rows::Needed);
        let started = batches.iter().map(|batch| start(batch).unwrap()).collect();
        assert!(interleaved(started, &scales, turns) == alone, "{turns:?}");
    }
}

#[test]
fn an_image_that_is_removed_leaves_the_others_as_they_are() {
    let (sampler, schedule) = (sampler(1 << 24), square());
    let requests = [1, 2, 3, 4].map(|seed| request(5, seed, guided(3.0, 2.0)));
    let whole = sample(&sampler, &requests, &schedule);
    for (at, removed) in [(0, 0..1), (3, 1..3), (6, 3..4)] {
        let mut sampling = sampler.start(&requests, &schedule, Rows::Needed).unwrap();
        for scale in 0..schedule.scales().len() {
            if scale == at {
                sampling.remove(removed.clone());
            }
            sampling.step().unwrap();
        }
        let mut left = whole.clone();
        left.drain(removed);
        assert!(values(&sampling) == left, "removed before scale {at}");
    }
}

#[test]
fn rows_without_weight_change_nothing() {
    let (sampler, schedule) = (sampler(0), square());
    for (text, subject, needed) in [(2.5, 2.5, 2), (1.0, 3.0, 2), (2.0, 0.0, 2), (1.0, 1.0, 1), (3.0, 2.0, 3)] {
        let requests = [request(5, 1, guided(text, subject))];
        let [all, few] = [Rows::All, Rows::Needed].map(|rows| {
            let mut sampling = sampler.start(&requests, &schedule, rows).unwrap();
            let mut logits = Vec::new();
            for _ in schedule.scales() {
                let guided = sampling.logits().unwrap();
                assert_eq!(sampling.row_logits().len(), if rows == Rows::All { 3 } else { needed });
                let bits = sampling.draw(&guided).unwrap();
                logits.extend(guided[0].flatten_all().unwrap().to_vec1::<f32>().unwrap());
                sampling.accept(&bits).unwrap();
            }
            logits
        });
        assert_eq!(all, few);
    }
}

#[test]
fn nothing_is_drawn_from_what_is_no_number() {
    let (sampler, schedule) = (sampler(0), square());
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let requests = [request(5, 1, SamplingOptions::default())];
        let mut sampling = sampler.start(&requests, &schedule, Rows::Needed).unwrap();
        let mut logits = sampling.logits().unwrap();
        let bits = sampling.draw(&logits).unwrap();
        sampling.accept(&bits).unwrap();
        logits = sampling.logits().unwrap();
        let mut values = logits[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[3] = odd;
        let spoiled = Tensor::from_vec(values, logits[0].dims(), &Device::Cpu).unwrap();
        assert!(matches!(sampling.draw(&[spoiled]), Err(SampleError::NotFinite { scale: 1 })), "{odd}");
    }
}

#[test]
fn the_last_block_leaves_its_content_alone() {
    let (config, mut tensors) = fixture();
    let before = model_of(&config, tensors.clone()).unwrap();
    let unread: Vec<_> = tensors.keys().filter(|name| is_ignored(&config, name)).cloned().collect();
    assert!(unread.iter().any(|name| name.contains("control_ffn")));
    tensors.retain(|name, _| !is_ignored(&config, name));
    let after = model_of(&config, tensors).unwrap();
    let requests = [request(5, 1, guided(3.0, 2.0))];
    let of = |model| sample(&Sampler::new(model, 0), &requests, &square());
    assert_eq!(of(before), of(after));
}

#[test]
fn tables_of_another_length_are_cut_or_followed_by_zeros() {
    let (config, tensors) = fixture();
    let cut = EchoGenConfig { content_len: 32, text_maxlen: 8, ..config.clone() };
    let model = model_of(&cut, tensors.clone()).unwrap();
    let stored = tensors["control_features_refer_uncond"].narrow(0, 0, 32).unwrap();
    let content = model.no_subject(32, 16).unwrap().content;
    assert_eq!(content.to_vec2::<f32>().unwrap(), stored.to_vec2::<f32>().unwrap());
    let longer = EchoGenConfig { content_len: 100, ..config };
    let content = model_of(&longer, tensors).unwrap().no_subject(100, 16).unwrap().content;
    assert_eq!(content.get(99).unwrap().to_vec1::<f32>().unwrap(), vec![0.0; 16]);
}

#[test]
fn every_shape_of_the_table_can_be_sampled() {
    let sampler = sampler(1 << 26);
    let sizes = |schedule: &Schedule| {
        let summed = sampler.sample(&[request(3, 1, guided(2.5, 2.5))], schedule, |_, _| ControlFlow::Continue(()));
        summed.unwrap()[0].dims().to_vec()
    };
    let schedules = Schedules::published();
    for schedule in schedules.of_budget("0.06M").unwrap() {
        assert_eq!(sizes(&schedule), [8, schedule.last().0, schedule.last().1]);
    }
    for (ratio, budget) in [(1.333, "0.25M"), (0.571, "0.60M"), (1.0, "1M")] {
        let schedule = schedules.nearest(ratio, budget).unwrap();
        assert_eq!(sizes(&schedule), [8, schedule.last().0, schedule.last().1]);
    }
}

#[test]
fn an_observer_sees_every_scale_and_may_stop() {
    let (sampler, schedule, requests) = (sampler(0), square(), [request(5, 1, guided(2.5, 2.5))]);
    let mut seen = Vec::new();
    let stopped = sampler.sample(&requests, &schedule, |scale, scales| {
        seen.push((scale, scales));
        if scale == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(SampleError::Cancelled { scale: 2 })));
    assert_eq!(seen, [(0, 7), (1, 7), (2, 7)]);
}

#[test]
fn features_that_do_not_fit_are_refused() {
    let (sampler, schedule) = (sampler(0), square());
    let good = request(5, 1, guided(2.5, 2.5));
    let subject = &good.subject;
    let wrong = [
        SampleRequest { text: noise(&[33, 256], 1), ..good.clone() },
        SampleRequest { text: noise(&[5, 255], 1), ..good.clone() },
        SampleRequest { subject: SubjectFeatures { content: noise(&[65, 16], 1), ..subject.clone() }, ..good.clone() },
        SampleRequest { subject: SubjectFeatures { cls_token: noise(&[23], 1), ..subject.clone() }, ..good.clone() },
        SampleRequest { options: guided(f64::NAN, 2.5), ..good.clone() },
    ];
    for request in wrong {
        assert!(sampler.start(&[request], &schedule, Rows::Needed).is_err());
    }
}

#[test]
fn key_value_memory_is_what_admission_is_told() {
    let sampler = sampler(0);
    let caches = sampler.model().empty_caches(square().image_tokens() + 1).unwrap();
    let held: usize = caches.iter().map(crate::layers::attention::KeyValue::bytes).sum();
    assert_eq!(sampler.model().kv_cache_bytes(&square()), held);
}
