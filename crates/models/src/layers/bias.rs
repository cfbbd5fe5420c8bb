//! In-place bias addition, optionally with ReLU in the same pass over memory.

use candle_core::{D, DType, Result, Tensor, bail};

#[cfg(feature = "cuda")]
use super::cuda;
use super::{
    kernel_choice::has_own_kernels,
    kernels::{for_each_row, in_place, with_slice},
};

/// Returns xs + bias; `xs` is (…, channels), `bias` (channels). Modifies `xs` in place, so no other tensor may share
/// its storage.
pub fn add_bias(xs: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else { return Ok(xs) };
    add_and(
        xs,
        bias,
        #[inline(always)]
        |x| x,
        After::Nothing,
    )
}

/// Returns max(xs + bias, 0); `xs` is (…, channels), `bias` (channels). Modifies `xs` in place, so no other tensor may
/// share its storage.
pub fn add_bias_relu(xs: Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let Some(bias) = bias else { return xs.relu() };
    add_and(
        xs,
        bias,
        #[inline(always)]
        |x| x.max(0.0),
        After::Relu,
    )
}

/// What follows the addition.
#[derive(Clone, Copy, Debug)]
enum After {
    Nothing,
    Relu,
}

#[inline(always)]
fn add_and(xs: Tensor, bias: &Tensor, each: impl Fn(f32) -> f32 + Sync, after: After) -> Result<Tensor> {
    let width = xs.dim(D::Minus1)?;
    if bias.dims() != [width] {
        bail!("a bias of shape {:?} does not fit {:?}", bias.dims(), xs.dims());
    }
    #[cfg(feature = "cuda")]
    if cuda::takes(&xs) {
        let after = match after {
            After::Nothing => cuda::After::Nothing,
            After::Relu => cuda::After::Relu,
        };
        return cuda::add_and(&xs, Some(bias), after);
    }
    if !(has_own_kernels(&xs) && xs.is_contiguous()) {
        let added = xs.broadcast_add(bias)?;
        return match after {
            After::Nothing => Ok(added),
            After::Relu => added.relu(),
        };
    }
    let bias = with_slice(&bias.to_dtype(DType::F32)?, |bias| Ok(bias.to_vec()))?;
    in_place(&xs, |data| {
        for_each_row(
            data,
            width,
            #[inline(always)]
            |_, row| {
                for (x, b) in row.iter_mut().zip(&bias) {
                    *x = each(*x + b);
                }
            },
        );
    })?;
    Ok(xs)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_bias_is_added_to_every_row() {
        let xs = || Tensor::new(&[[1f32, -2.0, 3.0], [-4.0, 5.0, -6.0]], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f32, 1.0, 4.0], &Device::Cpu).unwrap();
        let added = add_bias(xs(), Some(&bias)).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(added, [[1.5, -1.0, 7.0], [-3.5, 6.0, -2.0]]);
        let cut = add_bias_relu(xs(), Some(&bias)).unwrap().to_vec2::<f32>().unwrap();
        assert_eq!(cut, [[1.5, 0.0, 7.0], [0.0, 6.0, 0.0]]);
        assert!(add_bias(xs(), Some(&bias.narrow(0, 0, 2).unwrap())).is_err());
    }

    #[test]
    fn other_types_take_the_spelled_out_way() {
        let xs = Tensor::new(&[[1f64, -2.0]], &Device::Cpu).unwrap();
        let bias = Tensor::new(&[0.5f64, 1.0], &Device::Cpu).unwrap();
        assert_eq!(add_bias_relu(xs, Some(&bias)).unwrap().to_vec2::<f64>().unwrap(), [[1.5, 0.0]]);
    }
}
