//! Compares our kernels for a GPU with candle's operations on a CPU. Runs where there is a GPU, and on the stand-in for its
//! driver (`deploy/cuda/count.sh`), which computes the values of these kernels and of products only: so every input is moved
//! to the GPU as it is, and every result is moved back before anything else is done with it.
#![cfg(feature = "cuda")]
#![allow(clippy::unwrap_used, reason = "a test panics where something is wrong")]

use std::{collections::HashMap, sync::OnceLock};

use candle_core::{D, DType, Device, Module, Result, Tensor};
use candle_nn::VarBuilder;
use echogen_models::{
    layers::{
        Kernels,
        attention::{HeadOptions, KeyValue, Rotation, Row, append_heads, attend_rows, split_heads, split_parts},
        bias::{add_bias, add_bias_relu},
        conv::{Conv2d, Geometry, GroupNorm, NormConfig},
        draws::{Choice, Draw, add_codes, code_tokens, draw, weighted_sum},
        kernels::{Activation, activate, affine_norm, modulated_norm, residual},
        linear::Linear,
        with_kernels,
    },
    random::CounterRng,
};

const TYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// The GPU, which a process opens once.
fn gpu() -> &'static Device {
    static GPU: OnceLock<Device> = OnceLock::new();
    GPU.get_or_init(|| Device::new_cuda(0).expect("the tests of kernels for a GPU need one, or deploy/cuda/count.sh"))
}

/// Returns numbers from -2 to 2 of a type, on the CPU.
fn tensor(shape: &[usize], seed: u64, dtype: DType) -> Tensor {
    let mut values = vec![0f32; shape.iter().product()];
    CounterRng::new(seed, 0).fill_uniform(&mut values);
    values.iter_mut().for_each(|x| *x = *x * 4.0 - 2.0);
    Tensor::from_vec(values, shape, &Device::Cpu).and_then(|xs| xs.to_dtype(dtype)).unwrap()
}

fn on_gpu(xs: &Tensor) -> Tensor {
    xs.to_device(gpu()).unwrap()
}

/// Compares a result of the GPU with what candle's operations give on the CPU, which round more often.
fn assert_close(name: &str, ours: &Tensor, expected: Result<Tensor>) {
    let (ours, expected) = (ours.to_device(&Device::Cpu).unwrap(), expected.unwrap());
    assert_eq!((ours.dims(), ours.dtype()), (expected.dims(), expected.dtype()), "{name}");
    let tolerance = match ours.dtype() {
        DType::F32 => 1e-5,
        DType::F16 => 6e-3,
        _ => 5e-2,
    };
    let flat = |xs: &Tensor| xs.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
    for (place, (ours, expected)) in flat(&ours).unwrap().into_iter().zip(flat(&expected).unwrap()).enumerate() {
        let off = (ours - expected).abs();
        assert!(off <= tolerance * (1.0 + expected.abs()), "{name}: {ours} against {expected} at {place}");
    }
}

fn generic<T>(work: impl FnOnce() -> T) -> T {
    with_kernels(Kernels::Generic, work)
}

#[test]
fn norms_equal_the_spelled_out_ones() {
    for (dtype, width) in TYPES.into_iter().flat_map(|dtype| [(dtype, 40), (dtype, 300)]) {
        let (xs, gains) = (tensor(&[6, width], 4, DType::F32), tensor(&[2, 6, width], 5, DType::F32));
        let expected = generic(|| modulated_norm(&xs, &gains, (2, 4), 1e-6, dtype));
        assert_close(
            "modulated",
            &modulated_norm(&on_gpu(&xs), &on_gpu(&gains), (2, 4), 1e-6, dtype).unwrap(),
            expected,
        );
        let (weight, bias) = (tensor(&[width], 6, dtype), tensor(&[width], 7, dtype));
        let expected = generic(|| affine_norm(&xs, &weight, &bias, 1e-6, dtype));
        let ours = affine_norm(&on_gpu(&xs), &on_gpu(&weight), &on_gpu(&bias), 1e-6, dtype);
        assert_close("affine", &ours.unwrap(), expected);
    }
}

#[test]
fn activations_and_biases_equal_the_spelled_out_ones() {
    for dtype in TYPES {
        let (xs, bias) = (tensor(&[7, 100], 2, dtype), tensor(&[100], 3, dtype));
        for activation in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu] {
            let expected = generic(|| activate(xs.clone(), Some(&bias), activation));
            assert_close("activated", &activate(on_gpu(&xs), Some(&on_gpu(&bias)), activation).unwrap(), expected);
            let expected = generic(|| activate(xs.clone(), None, activation));
            assert_close("activated only", &activate(on_gpu(&xs), None, activation).unwrap(), expected);
        }
        let expected = generic(|| add_bias(xs.clone(), Some(&bias)));
        assert_close("biased", &add_bias(on_gpu(&xs), Some(&on_gpu(&bias))).unwrap(), expected);
        let expected = generic(|| add_bias_relu(xs.clone(), Some(&bias)));
        assert_close("rectified", &add_bias_relu(on_gpu(&xs), Some(&on_gpu(&bias))).unwrap(), expected);
    }
}

#[test]
fn residuals_equal_the_spelled_out_ones() {
    for dtype in TYPES {
        let (xs, ys) = (tensor(&[4, 90], 8, DType::F32), tensor(&[4, 90], 9, dtype));
        let (bias, gains) = (tensor(&[90], 10, dtype), tensor(&[2, 6, 90], 11, DType::F32));
        let on = [&xs, &ys, &bias, &gains].map(on_gpu);
        // The sum is in float32: in the reduced type candle would round the sum with the bias first.
        let [ys, bias] = [ys, bias].map(|xs| xs.to_dtype(DType::F32).unwrap());
        let expected = generic(|| residual(&xs, &ys, Some(&bias), Some((&gains, 1))));
        assert_close("gated", &residual(&on[0], &on[1], Some(&on[2]), Some((&on[3], 1))).unwrap(), expected);
        let expected = generic(|| residual(&xs, &ys, None, None));
        assert_close("plain", &residual(&on[0], &on[1], None, None).unwrap(), expected);
    }
}

/// Bias, sharpness and rotation of heads.
struct Parameters {
    bias: Tensor,
    sharpness: Tensor,
    rotation: Rotation,
}

impl Parameters {
    fn new(heads: usize, tokens: usize, head_dim: usize, dtype: DType) -> Self {
        let angles = |seed| tensor(&[tokens, head_dim / 2], seed, DType::F32);
        let rotation = Rotation { cos: angles(21), sin: angles(23) };
        Self { bias: tensor(&[heads * head_dim], 19, dtype), sharpness: tensor(&[heads], 25, DType::F32), rotation }
    }

    fn on_gpu(&self) -> Self {
        let rotation = Rotation { cos: on_gpu(&self.rotation.cos), sin: on_gpu(&self.rotation.sin) };
        Self { bias: on_gpu(&self.bias), sharpness: on_gpu(&self.sharpness), rotation }
    }

    fn queries(&self) -> HeadOptions<'_> {
        HeadOptions { bias: Some(&self.bias), sharpness: Some(&self.sharpness), ..self.keys() }
    }

    fn keys(&self) -> HeadOptions<'_> {
        HeadOptions { unit: true, rotation: Some(&self.rotation), ..HeadOptions::default() }
    }

    fn values(&self) -> HeadOptions<'_> {
        HeadOptions { bias: Some(&self.bias), ..HeadOptions::default() }
    }
}

#[test]
fn heads_are_split_as_spelled_out() {
    // 96 channels are no multiple of a warp's pairs, and 10 heads of 3 tokens no multiple of a block's warps.
    for dtype in TYPES {
        let (shape, xs) = ((2, 5, 96), tensor(&[6, 1000], 17, dtype));
        let parameters = Parameters::new(5, 3, 96, dtype);
        let on = parameters.on_gpu();
        let expected = generic(|| split_heads(&xs, 16, shape, parameters.queries()));
        assert_close("split", &split_heads(&on_gpu(&xs), 16, shape, on.queries()).unwrap(), expected);
        let expected = generic(|| split_parts(&xs, 8, shape, [parameters.keys(), parameters.values()])).unwrap();
        let ours = split_parts(&on_gpu(&xs), 8, shape, [on.keys(), on.values()]).unwrap();
        for (ours, expected) in ours.iter().zip(expected) {
            assert_close("part", ours, Ok(expected));
        }
    }
}

#[test]
fn keys_and_values_go_to_their_place_in_the_caches() {
    for dtype in TYPES {
        let (shape, xs) = ((2, 3, 16), tensor(&[8, 144], 31, dtype));
        let cache =
            |seed| KeyValue { keys: tensor(&[3, 9, 16], seed, dtype), values: tensor(&[3, 9, 16], seed + 1, dtype) };
        let (first, second) = (cache(33), cache(35));
        let parameters = Parameters::new(3, 4, 16, dtype);
        let on = parameters.on_gpu();
        let copies =
            [&first, &second].map(|cache| KeyValue { keys: on_gpu(&cache.keys), values: on_gpu(&cache.values) });
        let options = [on.queries(), on.keys(), on.values()];
        let ours = append_heads(&on_gpu(&xs), shape, options, &[&copies[0], &copies[1]], 3).unwrap();
        let options = [parameters.queries(), parameters.keys(), parameters.values()];
        assert_close("queries", &ours, generic(|| append_heads(&xs, shape, options, &[&first, &second], 3)));
        for (ours, expected) in copies.iter().zip([first, second]) {
            assert_close("keys", &ours.keys, Ok(expected.keys));
            assert_close("values", &ours.values, Ok(expected.values));
        }
    }
}

#[test]
fn attention_equals_the_spelled_out_one() {
    for dtype in TYPES {
        // One long segment as a view of a larger cache, and two whose lengths are no multiples of the alignment.
        let (cache_keys, cache_values) = (tensor(&[3, 50, 16], 41, dtype), tensor(&[3, 50, 16], 43, dtype));
        let segment = |tokens, seed| (tensor(&[3, tokens, 16], seed, dtype), tensor(&[3, tokens, 16], seed + 1, dtype));
        let tensors = [(cache_keys, cache_values), segment(13, 45), segment(300, 47)];
        let queries = tensor(&[2, 3, 5, 16], 49, dtype);
        // A third row's queries are a view whose channels do not lie side by side.
        let apart = tensor(&[3, 16, 4], 57, dtype);
        let attended = |queries: &Tensor, apart: &Tensor, tensors: &[(Tensor, Tensor)]| {
            let segments: Vec<_> =
                tensors.iter().map(|(keys, values)| KeyValue { keys: keys.clone(), values: values.clone() }).collect();
            let view = |xs: &Tensor| xs.narrow(1, 0, 37);
            let seen = KeyValue { keys: view(&segments[0].keys)?, values: view(&segments[0].values)? };
            let first = Row { queries: queries.get(0)?, segments: vec![&seen] };
            let second = Row { queries: queries.get(1)?.narrow(1, 1, 3)?, segments: vec![&segments[1], &segments[2]] };
            let third = Row { queries: apart.transpose(1, 2)?, segments: vec![&segments[1]] };
            attend_rows(&[first, second, third], 0.7)
        };
        let on: Vec<_> = tensors.iter().map(|(keys, values)| (on_gpu(keys), on_gpu(values))).collect();
        let expected = generic(|| attended(&queries, &apart, &tensors));
        assert_close("attention", &attended(&on_gpu(&queries), &on_gpu(&apart), &on).unwrap(), expected);
    }
}

/// The keys and values of a segment.
fn seen(shape: &[usize], seed: u64, dtype: DType) -> (Tensor, Tensor) {
    (tensor(shape, seed, dtype), tensor(shape, seed + 1, dtype))
}

/// Attention of queries over the segments of these numbers, each a view of the tokens from the second one on.
fn attended(rows: &[(Tensor, Vec<usize>)], segments: &[(Tensor, Tensor)], scale: f64) -> Result<Tensor> {
    let view = |xs: &Tensor| xs.narrow(1, 1, xs.dim(1)? - 1);
    let views = segments.iter().map(|(keys, values)| Ok(KeyValue { keys: view(keys)?, values: view(values)? }));
    let views = views.collect::<Result<Vec<_>>>()?;
    let rows = rows.iter().map(|(queries, seen)| {
        let segments = seen.iter().map(|index| &views[*index]).collect();
        Row { queries: queries.clone(), segments }
    });
    attend_rows(&rows.collect::<Vec<_>>(), scale)
}

fn compare_attended(name: &str, rows: &[(Tensor, Vec<usize>)], segments: &[(Tensor, Tensor)], scale: f64) {
    let expected = generic(|| attended(rows, segments, scale));
    let on: Vec<_> = segments.iter().map(|(keys, values)| (on_gpu(keys), on_gpu(values))).collect();
    let rows: Vec<_> = rows.iter().map(|(queries, seen)| (on_gpu(queries), seen.clone())).collect();
    assert_close(name, &attended(&rows, &on, scale).unwrap(), expected);
}

#[test]
fn fused_attention_equals_the_spelled_out_one() {
    for (dtype, head_dim) in TYPES.into_iter().flat_map(|dtype| [64, 96, 128].map(|head_dim| (dtype, head_dim))) {
        // One key, tiles that are full, and tiles that are not; the first token of each is not seen.
        let segments: Vec<_> =
            [2, 32, 65, 81].iter().map(|tokens| seen(&[2, *tokens, head_dim], 100 + *tokens as u64, dtype)).collect();
        let queries = |tokens, seed| tensor(&[2, tokens, head_dim], seed, dtype);
        let apart = tensor(&[2, head_dim, 3], 96, dtype).transpose(1, 2).unwrap();
        let rows = [
            (queries(1, 91), vec![0]),
            (queries(64, 92), vec![2]),
            (queries(70, 93), vec![3, 0]),
            (queries(5, 94), vec![1, 3]),
            (apart, vec![1]),
        ];
        compare_attended(&format!("{dtype:?} of {head_dim}"), &rows, &segments, 0.2);
    }
}

#[test]
fn fused_attention_of_many_rows_is_that_of_each() {
    for dtype in TYPES {
        let segments: Vec<_> = (0..3).map(|n| seen(&[1, 9 + n, 64], 110 + 2 * n as u64, dtype)).collect();
        let rows: Vec<_> =
            (0..19).map(|row| (tensor(&[1, 1 + row % 2, 64], 120 + row as u64, dtype), vec![row % 3])).collect();
        compare_attended("many rows", &rows, &segments, 0.3);
    }
}

#[test]
fn fused_attention_neither_overflows_nor_vanishes() {
    for dtype in TYPES {
        // Scores of 1e5: with them one key of 70 has all the weight. It is the last, so every sum before it is forgotten; and
        // with the other sign it has none.
        let (keys, values) = seen(&[1, 71, 64], 131, dtype);
        let raised = keys
            .slice_assign(
                &[0..1, 70..71, 0..64],
                &Tensor::full(40f32, (1, 1, 64), &Device::Cpu).unwrap().to_dtype(dtype).unwrap(),
            )
            .unwrap();
        for sign in [1.0, -1.0] {
            let queries = Tensor::full(sign * 40f32, (1, 3, 64), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            compare_attended("extreme", &[(queries, vec![0])], &[(raised.clone(), values.clone())], 1.0);
        }
    }
}

#[test]
fn a_product_is_added_to_what_is_there() {
    for dtype in TYPES {
        let (weight, xs, onto) =
            (tensor(&[24, 40], 51, dtype), tensor(&[6, 40], 53, dtype), tensor(&[6, 24], 55, dtype));
        let layer = Linear::from_tensors(&weight, None).unwrap();
        let expected = generic(|| layer.product_onto(&xs, onto.clone()));
        // A weight is stored transposed, which the stand-in cannot do on the device.
        let stored =
            Linear::from_tensors(&on_gpu(&weight.t().unwrap().contiguous().unwrap()).t().unwrap(), None).unwrap();
        assert_close("sum", &stored.product_onto(&on_gpu(&xs), on_gpu(&onto)).unwrap(), expected);
    }
}

#[test]
fn convolutions_equal_candles() {
    let unequal = Geometry { kernel: 3, stride: 2, before: 0, after: 1 };
    for (dtype, geometry) in TYPES
        .into_iter()
        .flat_map(|dtype| [Geometry::POINTWISE, Geometry::SAME_3X3, unequal].map(|geometry| (dtype, geometry)))
    {
        let (xs, bias) = (tensor(&[2, 5, 6, 8], 71, dtype), tensor(&[7], 73, dtype));
        let weight =
            (tensor(&[7, 5, geometry.kernel, geometry.kernel], 75, DType::F32) * 0.2).and_then(|xs| xs.to_dtype(dtype));
        let weight = weight.unwrap();
        let plain = generic(|| Conv2d::from_tensors(&weight, bias.clone(), geometry)).unwrap();
        let ours = Conv2d::from_tensors(&on_gpu(&weight), on_gpu(&bias), geometry).unwrap();
        let expected = generic(|| plain.forward(&xs)).unwrap();
        assert_close("convolution", &ours.forward(&on_gpu(&xs)).unwrap(), Ok(expected.clone()));
        let residual = tensor(expected.dims(), 77, dtype);
        let onto = ours.forward_onto(&on_gpu(&xs), &on_gpu(&residual)).unwrap();
        assert_close("with residual", &onto, generic(|| plain.forward_onto(&xs, &residual)));
        let doubled = generic(|| plain.forward_doubled(&xs));
        assert_close("doubled", &ours.forward_doubled(&on_gpu(&xs)).unwrap(), doubled);
    }
}

#[test]
fn group_norms_equal_candles() {
    for dtype in TYPES {
        // 4 channels of 70 x 70 pixels are more than one chunk, and no whole number of them.
        let xs = tensor(&[2, 8, 70, 70], 81, dtype);
        let named = |on: fn(&Tensor) -> Tensor| {
            let tensors =
                [("weight", 83), ("bias", 85)].map(|(name, seed)| (name.to_owned(), on(&tensor(&[8], seed, dtype))));
            HashMap::from(tensors)
        };
        let config = NormConfig { groups: 2, eps: 1e-6 };
        let vb = VarBuilder::from_tensors(named(Tensor::clone), dtype, &Device::Cpu);
        let plain = GroupNorm::new(&vb, 8, config).unwrap();
        let ours = GroupNorm::new(&VarBuilder::from_tensors(named(on_gpu), dtype, gpu()), 8, config).unwrap();
        assert_close("norm", &ours.forward(&on_gpu(&xs)).unwrap(), generic(|| plain.forward(&xs)));
        assert_close("norm, SiLU", &ours.forward_silu(&on_gpu(&xs)).unwrap(), generic(|| plain.forward_silu(&xs)));
    }
}

/// Returns logits, some of them far apart, as pairs.
fn logits(pairs: usize, seed: u64) -> Tensor {
    let mut values = vec![0f32; 2 * pairs];
    CounterRng::new(seed, 9).fill_normal(&mut values);
    values.iter_mut().step_by(7).for_each(|logit| *logit *= 9.0);
    Tensor::from_vec(values, (pairs, 2), &Device::Cpu).unwrap()
}

/// Draws one picture's bits, and returns them with the position of the numbers after.
fn drawn(logits: &Tensor, choice: Choice, mut rng: CounterRng) -> (Option<Vec<u8>>, u64) {
    let bits = draw(&mut [Draw { logits, choice, rng: &mut rng }]).unwrap();
    (bits.map(|bits| bits[0].to_vec1().unwrap()), rng.position())
}

#[test]
fn bits_are_those_of_the_cpu() {
    let published = Choice { is_greedy: false, top_p: 0.97 };
    let choices = [published, Choice { top_p: 0.0, ..published }, Choice { is_greedy: true, ..published }];
    // Less than a block, no whole number of blocks, and one bit.
    for (pairs, choice) in [1, 77, 2_600].into_iter().flat_map(|pairs| choices.map(|choice| (pairs, choice))) {
        for (seed, stream, position) in
            [(0, 1, 0), (7, 1, 5), ((1 << 32) + 3, 2, (1 << 34) + 2), (u64::MAX, 1 << 40, 4_099)]
        {
            let logits = logits(pairs, seed);
            let mut rng = CounterRng::new(seed, stream);
            rng.seek(position);
            assert_eq!(
                drawn(&on_gpu(&logits), choice, rng.clone()),
                drawn(&logits, choice, rng),
                "{pairs} {choice:?} {seed}"
            );
        }
    }
}

#[test]
fn several_pictures_are_drawn_each_from_its_numbers() {
    let choice = Choice { is_greedy: false, top_p: 0.97 };
    let (first, second) = (logits(300, 1), logits(300, 2));
    let on = [&first, &second].map(on_gpu);
    let mut rngs = [CounterRng::new(11, 1), CounterRng::new(12, 1)];
    let [of_first, of_second] = &mut rngs;
    let mut draws = [Draw { logits: &on[0], choice, rng: of_first }, Draw { logits: &on[1], choice, rng: of_second }];
    let bits = draw(&mut draws).unwrap().unwrap();
    for ((bits, logits), seed) in bits.iter().zip([first, second]).zip([11, 12]) {
        let alone = drawn(&logits, choice, CounterRng::new(seed, 1)).0;
        assert_eq!(Some(bits.to_vec1::<u8>().unwrap()), alone, "{seed}");
    }
}

#[test]
fn no_bit_is_drawn_from_what_is_no_number() {
    let choice = Choice { is_greedy: false, top_p: 0.97 };
    for (odd, is_told) in [(f32::NAN, true), (f32::INFINITY, true), (f32::NEG_INFINITY, true), (f32::MAX, false)] {
        for place in [0, 601] {
            let mut values = logits(301, 3).flatten_all().unwrap().to_vec1::<f32>().unwrap();
            values[place] = odd;
            let spoiled = Tensor::from_vec(values, (301, 2), gpu()).unwrap();
            assert_eq!(drawn(&spoiled, choice, CounterRng::new(1, 1)).0.is_none(), is_told, "{odd} at {place}");
        }
    }
}

#[test]
fn weighted_sums_have_the_digits_of_the_cpu() {
    let rows: Vec<_> = (0..3).map(|row| tensor(&[37, 10], 91 + row, DType::F32)).collect();
    let on: Vec<_> = rows.iter().map(on_gpu).collect();
    for weights in [&[1.25][..], &[1.25, -0.7], &[1.3, -0.7, 0.45]] {
        let sum = |rows: &[Tensor]| {
            let terms: Vec<_> = rows.iter().zip(weights.iter().copied()).collect();
            weighted_sum(&terms).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(sum(&on), sum(&rows), "{weights:?}");
    }
}

#[test]
fn codes_and_the_next_input_are_those_of_the_cpu() {
    for (scales, (batch, depth)) in [
        (vec![(1, 1), (2, 2), (3, 5), (7, 4), (13, 9)], (1, 8)),
        (vec![(1, 1), (2, 1), (9, 5), (30, 18)], (2, 5)),
        (vec![(1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16)], (1, 32)),
    ] {
        let (height, width) = *scales.last().unwrap();
        let mut expected = Tensor::zeros((batch, depth, height, width), DType::F32, &Device::Cpu).unwrap();
        let mut ours = on_gpu(&expected);
        for (index, &(h, w)) in scales.iter().enumerate() {
            let bits = tensor(&[batch, h, w, depth], index as u64, DType::F32).ge(0f64).unwrap();
            expected = add_codes(&expected, &bits).unwrap();
            let before = ours;
            ours = add_codes(&before, &on_gpu(&bits)).unwrap();
            assert_close("codes", &ours, Ok(expected.clone()));
            if let Some(&next) = scales.get(index + 1) {
                assert_close("input", &code_tokens(&ours, next).unwrap(), code_tokens(&expected, next));
            }
            // A preview may still have the sum before.
            let again = add_codes(&before, &on_gpu(&bits)).unwrap();
            assert_close("again", &again, Ok(expected.clone()));
        }
    }
    let bits = on_gpu(&tensor(&[1, 2, 2, 3], 1, DType::F32).ge(0f64).unwrap());
    let sum = Tensor::zeros((1, 4, 2, 2), DType::F32, gpu()).unwrap();
    assert!(add_codes(&sum, &bits).is_err(), "codes of another depth");
}

#[test]
fn rows_of_scores_are_weights() {
    let (keys, values) =
        (tensor(&[2, 11, 8], 61, DType::BF16), Tensor::ones((2, 11, 8), DType::BF16, &Device::Cpu).unwrap());
    let segment = KeyValue { keys: on_gpu(&keys), values: on_gpu(&values) };
    let queries = on_gpu(&tensor(&[2, 4, 8], 63, DType::BF16));
    let summed =
        attend_rows(&[Row { queries, segments: vec![&segment] }], 3.0).unwrap().to_device(&Device::Cpu).unwrap();
    let least = summed.to_dtype(DType::F32).unwrap().min_all().unwrap().to_scalar::<f32>().unwrap();
    assert!((least - 1.0).abs() < 0.02, "weights add up to 1, not to {least}");
    assert_eq!(summed.dim(D::Minus1).unwrap(), 16);
}
