//! The draws, and a twin of the kernels in `cuda/draws.cu`: their arithmetic by the index of a thread, in Rust.

use candle_core::Device;

use super::*;

const BIT_STREAM: u64 = 1;

const PUBLISHED: Choice = Choice { is_greedy: false, top_p: 0.97 };

fn share_of_ones(pair: [f32; 2], choice: Choice) -> f64 {
    let logits: Vec<f32> = pair.iter().copied().cycle().take(40_000).collect();
    let bits = draw_bits(&logits, choice, &mut CounterRng::new(7, BIT_STREAM));
    bits.iter().map(|bit| f64::from(*bit)).sum::<f64>() / bits.len() as f64
}

#[test]
fn frequencies_follow_the_probabilities() {
    assert!((share_of_ones([0.0, 1.0], PUBLISHED) - 0.7311).abs() < 0.01);
    assert!((share_of_ones([1.0, 0.0], PUBLISHED) - 0.2689).abs() < 0.01);
}

#[test]
fn top_p_settles_rare_values_and_top_k_one_is_greedy() {
    assert_eq!(share_of_ones([0.0, 3.6], PUBLISHED), 1.0);
    assert_eq!(share_of_ones([3.6, 0.0], PUBLISHED), 0.0);
    assert!(share_of_ones([0.0, 3.6], Choice { top_p: 0.0, ..PUBLISHED }) < 1.0);
    let greedy = Choice { is_greedy: true, ..PUBLISHED };
    assert_eq!((share_of_ones([0.1, 0.2], greedy), share_of_ones([0.2, 0.1], greedy)), (1.0, 0.0));
}

#[test]
fn settled_bits_use_up_their_number_too() {
    let mut rng = CounterRng::new(1, BIT_STREAM);
    draw_bits(&[0.0, 50.0, 50.0, 0.0], PUBLISHED, &mut rng);
    assert_eq!(rng.position(), 2);
}

#[test]
fn codes_lie_on_the_unit_sphere_channel_by_channel() -> Result<()> {
    let bits = Tensor::new(&[[[[0u8, 1, 1, 0]]]], &Device::Cpu)?;
    let codes = bits_to_codes(&bits, DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(codes, [-0.5, 0.5, 0.5, -0.5]);
    let bits = Tensor::new(&[[[[1u8, 0, 0, 1], [1, 1, 0, 0]]]], &Device::Cpu)?; // two cells
    let codes = bits_to_codes(&bits, DType::F32)?;
    assert_eq!(codes.dims(), [1, 4, 1, 2]);
    let by_channel = codes.flatten_all()?.to_vec1::<f32>()?;
    assert_eq!(by_channel, [0.5, 0.5, -0.5, 0.5, -0.5, -0.5, 0.5, -0.5]);
    Ok(())
}

#[test]
fn what_is_no_number_is_told_and_a_sum_needs_a_term() -> Result<()> {
    let mut rng = CounterRng::new(1, BIT_STREAM);
    for (odd, is_told) in [(f32::NAN, true), (f32::INFINITY, true), (f32::NEG_INFINITY, true), (f32::MAX, false)] {
        let logits = Tensor::new(&[0.0, 1.0, odd, 3.0], &Device::Cpu)?;
        let drawn = draw(&mut [Draw { logits: &logits, choice: PUBLISHED, rng: &mut rng }])?;
        assert_eq!(drawn.is_none(), is_told, "{odd}");
    }
    assert!(weighted_sum(&[]).is_err());
    Ok(())
}

/// The kernel's word `index` of a stream.
fn word(seed: u64, stream: u64, index: u64) -> u32 {
    let block = index / 4;
    let [mut first, mut second, mut third, mut fourth] =
        [block as u32, (block >> 32) as u32, stream as u32, (stream >> 32) as u32];
    let (mut low_key, mut high_key) = (seed as u32, (seed >> 32) as u32);
    for _ in 0..10 {
        let (of_first, of_third) = (0xD251_1F53 * u64::from(first), 0xCD9E_8D57 * u64::from(third));
        first = (of_third >> 32) as u32 ^ second ^ low_key;
        third = (of_first >> 32) as u32 ^ fourth ^ high_key;
        second = of_third as u32;
        fourth = of_first as u32;
        low_key = low_key.wrapping_add(0x9E37_79B9);
        high_key = high_key.wrapping_add(0xBB67_AE85);
    }
    [first, second, third, fourth][(index % 4) as usize]
}

/// The kernel's bit `i` of a draw at a position.
fn bit(logits: &[f32], choice: Choice, rng: &CounterRng, i: usize) -> u8 {
    let (of_zero, of_one) = (logits[2 * i], logits[2 * i + 1]);
    if choice.is_greedy {
        return u8::from(of_one > of_zero);
    }
    let mut one = 1.0 / (1.0 + (f64::from(of_zero) - f64::from(of_one)).exp());
    if choice.top_p > 0.0 && one <= 1.0 - choice.top_p {
        one = 0.0;
    } else if choice.top_p > 0.0 && 1.0 - one <= 1.0 - choice.top_p {
        one = 1.0;
    }
    let uniform = (word(rng.seed(), rng.stream(), rng.position() + i as u64) >> 8) as f32 / 16_777_216.0;
    u8::from(f64::from(uniform) < one)
}

#[test]
fn the_kernels_words_and_bits_are_those_of_the_generator() {
    let seeds = [0, 7, (1 << 32) + 5, u64::MAX];
    let positions = [0, 1, 3, 4_096, (1 << 34) + 6];
    for (seed, position) in seeds.into_iter().flat_map(|seed| positions.map(|position| (seed, position))) {
        for stream in [BIT_STREAM, (1 << 40) + 2] {
            let mut rng = CounterRng::new(seed, stream);
            rng.seek(position);
            let start = rng.clone();
            let mut uniforms = [0f32; 301];
            rng.fill_uniform(&mut uniforms);
            for (i, uniform) in uniforms.iter().enumerate() {
                let word = word(seed, stream, position + i as u64);
                assert_eq!((word >> 8) as f32 / 16_777_216.0, *uniform, "{seed} {stream} {position} {i}");
            }
            let mut logits = [0f32; 602];
            CounterRng::new(seed, 9).fill_normal(&mut logits);
            logits.iter_mut().step_by(5).for_each(|logit| *logit *= 4.0); // so that some are settled by top_p
            for choice in [PUBLISHED, Choice { top_p: 0.0, ..PUBLISHED }, Choice { is_greedy: true, ..PUBLISHED }] {
                let mut rng = start.clone();
                let drawn = draw_bits(&logits, choice, &mut rng);
                assert_eq!(drawn, (0..301).map(|i| bit(&logits, choice, &start, i)).collect::<Vec<_>>());
                assert_eq!(rng.position(), position + 301);
            }
        }
    }
}

/// The two input cells of an axis that the kernel makes an output cell of, with their weights.
#[derive(Clone, Copy)]
struct Taps {
    cells: [(usize, f32); 2],
    is_fused: bool,
}

fn taps(to: usize, from_size: usize, to_size: usize) -> Taps {
    let scale = from_size as f32 / to_size as f32;
    let position = (scale * (to as f32 + 0.5) - 0.5).max(0.0);
    let left = (position as usize).min(from_size - 1);
    let right = if left + 1 < from_size { left + 1 } else { left };
    let fraction = (position - left as f32).clamp(0.0, 1.0);
    let both = 1.0 - fraction + fraction;
    let cells = if left == right { [(left, both), (left, 0.0)] } else { [(left, 1.0 - fraction), (right, fraction)] };
    Taps { cells, is_fused: from_size > 2 }
}

/// The kernel's number of a plane at an output cell.
fn resized(
    plane: impl Fn(usize, usize) -> f32,
    (row, column): (usize, usize),
    from: (usize, usize),
    to: (usize, usize),
) -> f32 {
    let between = |taps: Taps, at: &dyn Fn(usize) -> f32| {
        let [(left, of_left), (right, of_right)] = taps.cells;
        let first = of_left * at(left);
        if taps.is_fused { of_right.mul_add(at(right), first) } else { first + of_right * at(right) }
    };
    let columns = taps(column, from.1, to.1);
    between(taps(row, from.0, to.0), &|row| between(columns, &|column| plane(row, column)))
}

/// As `add_codes`, thread by thread.
fn added(
    sum: &[f32],
    bits: &[u8],
    (batch, depth): (usize, usize),
    to: (usize, usize),
    from: (usize, usize),
) -> Vec<f32> {
    let code = code(depth) as f32;
    let thread = |i: usize| {
        let (column, row, channel) = (i % to.1, i / to.1 % to.0, i / to.1 / to.0 % depth);
        let own = i / to.1 / to.0 / depth * from.0 * from.1 * depth + channel;
        let plane = |y: usize, x: usize| if bits[own + (y * from.1 + x) * depth] == 1 { code } else { -code };
        sum[i] + resized(plane, (row, column), from, to)
    };
    (0..batch * depth * to.0 * to.1).map(thread).collect()
}

/// As `code_tokens`, thread by thread.
fn tokens(sum: &[f32], (batch, depth): (usize, usize), from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    let thread = |i: usize| {
        let (channel, column, row) = (i % depth, i / depth % to.1, i / depth / to.1 % to.0);
        let own = (i / depth / to.1 / to.0 * depth + channel) * from.0 * from.1;
        resized(|y, x| sum[own + y * from.1 + x], (row, column), from, to)
    };
    (0..batch * depth * to.0 * to.1).map(thread).collect()
}

/// The number of values that differ, after a check that they do in the last digits only.
fn differing(ours: &[f32], expected: &Tensor) -> usize {
    let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(ours.len(), expected.len());
    for (ours, expected) in ours.iter().zip(&expected) {
        assert!((ours - expected).abs() <= 4e-7 * expected.abs().max(1.0), "{ours} against {expected}");
    }
    ours.iter().zip(&expected).filter(|(ours, expected)| ours != expected).count()
}

#[test]
fn the_kernels_codes_are_those_of_matrix_products() {
    let mut rng = CounterRng::new(5, 0);
    let mut off = 0;
    for scales in [
        vec![(1, 1), (2, 2), (3, 5), (7, 4), (16, 16)],
        vec![(1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (20, 20), (24, 24), (32, 32)],
        vec![(1, 1), (2, 1), (9, 5), (30, 18)],
        vec![(1, 1), (48, 48), (64, 64)],
    ] {
        for (batch, depth) in [(1, 8), (2, 5), (1, 32)] {
            let to = *scales.last().unwrap();
            let mut sum = Tensor::zeros((batch, depth, to.0, to.1), DType::F32, &Device::Cpu).unwrap();
            for (index, from) in scales.iter().enumerate() {
                let mut drawn = vec![0f32; batch * depth * from.0 * from.1];
                rng.fill_uniform(&mut drawn);
                let bits: Vec<u8> = drawn.iter().map(|u| u8::from(*u < 0.5)).collect();
                let of_bits = Tensor::from_slice(&bits, (batch, from.0, from.1, depth), &Device::Cpu).unwrap();
                let before = sum.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                sum = add_codes(&sum, &of_bits).unwrap();
                off += differing(&added(&before, &bits, (batch, depth), to, *from), &sum);
                let values = sum.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                if let Some(next) = scales.get(index + 1) {
                    let expected = code_tokens(&sum, *next).unwrap();
                    off += differing(&tokens(&values, (batch, depth), to, *next), &expected);
                }
            }
        }
    }
    // Where products are fused, all digits are equal.
    #[cfg(target_arch = "x86_64")]
    assert!(off == 0 || !std::arch::is_x86_feature_detected!("fma"), "{off} numbers differ");
}
