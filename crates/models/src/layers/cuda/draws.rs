//! What lies between two scales of a picture, on a GPU.
//!
//! Nothing but one number goes to the host, and nothing comes from it: see [`draw`].

use candle_core::{DType, Result, Tensor, bail};

use super::{
    launch::{Argument, empty, launch_by_number, with_addresses},
    takes,
};
use crate::layers::draws::{Draw, code};

/// Terms that a sum has at most: the guidance rows of a picture.
const TERMS: usize = 3;

/// Whether the kernels of this module run on `xs`: what they read is float32.
pub(in crate::layers) fn takes_f32(xs: &Tensor) -> bool {
    takes(xs) && xs.dtype() == DType::F32
}

/// Whether [`weighted_sum`] takes these terms.
pub(in crate::layers) fn takes_sum(terms: &[(&Tensor, f64)]) -> bool {
    (1..=TERMS).contains(&terms.len()) && terms.iter().all(|(term, _)| takes_f32(term))
}

/// As `draws::weighted_sum`, of terms that [`takes_sum`] takes.
pub(in crate::layers) fn weighted_sum(terms: &[(&Tensor, f64)]) -> Result<Tensor> {
    let Some((first, _)) = terms.first() else { bail!("a sum needs a term") };
    if let Some((other, _)) = terms.iter().find(|(term, _)| term.dims() != first.dims()) {
        bail!("the sum of {:?} and {:?}", first.dims(), other.dims());
    }
    let held = terms.iter().map(|(term, _)| term.contiguous()).collect::<Result<Vec<_>>>()?;
    let out = empty(first.shape(), DType::F32, first.device())?;
    let tensors = [held.first(), held.get(1), held.get(2), Some(&out)];
    with_addresses(&tensors, |device, at| {
        let weight = |index: usize| Argument::Float(terms.get(index).map_or(0.0, |(_, weight)| *weight as f32));
        let arguments: Vec<_> = (at.iter().map(|address| Argument::Address(*address)))
            .chain([Argument::Count(out.elem_count())])
            .chain((0..TERMS).map(weight))
            .collect();
        launch_by_number(device, ("weighted_sum", DType::F32), out.elem_count(), &arguments)
    })?;
    Ok(out)
}

/// As `draws::draw`. The host reads back one number, whether all logits are finite, and so waits for the device once for all
/// pictures.
pub(in crate::layers) fn draw(draws: &mut [Draw<'_>]) -> Result<Option<Vec<Tensor>>> {
    let Some(first) = draws.first() else { return Ok(Some(Vec::new())) };
    let odd = Tensor::zeros(1, DType::U32, first.logits.device())?;
    let bits = draws.iter_mut().map(|draw| draw_one(draw, &odd)).collect::<Result<Vec<_>>>()?;
    let is_odd = odd.to_vec1::<u32>()?.into_iter().any(|odd| odd != 0);
    Ok((!is_odd).then_some(bits))
}

fn draw_one(Draw { logits, choice, rng }: &mut Draw<'_>, odd: &Tensor) -> Result<Tensor> {
    let logits = logits.contiguous()?;
    let count = logits.elem_count() / 2;
    let bits = empty(count, DType::U8, logits.device())?;
    with_addresses(&[Some(&logits), Some(&bits), Some(odd)], |device, at| {
        let arguments = [
            Argument::Address(at[0]),
            Argument::Address(at[1]),
            Argument::Address(at[2]),
            Argument::Count(count),
            Argument::Number(rng.seed()),
            Argument::Number(rng.stream()),
            Argument::Number(rng.position()),
            Argument::Double(choice.top_p),
            Argument::Code(choice.is_greedy.into()),
        ];
        launch_by_number(device, ("draw_bits", DType::F32), count, &arguments)
    })?;
    rng.seek(rng.position().wrapping_add(count as u64));
    Ok(bits)
}

/// As `draws::add_codes`; `bits` are u8.
pub(in crate::layers) fn add_codes(sum: &Tensor, bits: &Tensor) -> Result<Tensor> {
    let (batch, depth, height, width) = sum.dims4()?;
    let (of_batch, from_height, from_width, bit_depth) = bits.dims4()?;
    if (batch, depth) != (of_batch, bit_depth) || from_height * from_width == 0 {
        bail!("codes of bits {:?} cannot be added to {:?}", bits.dims(), sum.dims());
    }
    let (sum, bits) = (sum.contiguous()?, bits.contiguous()?);
    let out = empty(sum.shape(), DType::F32, sum.device())?;
    with_addresses(&[Some(&sum), Some(&bits), Some(&out)], |device, at| {
        let sizes = [out.elem_count(), depth, height, width, from_height, from_width];
        let arguments: Vec<_> = (at.iter().map(|address| Argument::Address(*address)))
            .chain(sizes.map(Argument::Count))
            .chain([Argument::Float(code(depth) as f32)])
            .collect();
        launch_by_number(device, ("add_codes", DType::F32), out.elem_count(), &arguments)
    })?;
    Ok(out)
}

/// As `draws::code_tokens`.
pub(in crate::layers) fn code_tokens(sum: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    let (batch, depth, from_height, from_width) = sum.dims4()?;
    if height * width * from_height * from_width == 0 {
        bail!("cannot resize {from_height} x {from_width} to {height} x {width}: no side may be 0");
    }
    let sum = sum.contiguous()?;
    let out = empty((batch, height * width, depth), DType::F32, sum.device())?;
    with_addresses(&[Some(&sum), Some(&out)], |device, at| {
        let sizes = [out.elem_count(), depth, height, width, from_height, from_width];
        let arguments: Vec<_> =
            (at.iter().map(|address| Argument::Address(*address))).chain(sizes.map(Argument::Count)).collect();
        launch_by_number(device, ("code_tokens", DType::F32), out.elem_count(), &arguments)
    })?;
    Ok(out)
}
