//! A matrix product that every device takes.
//!
//! candle's CPU product takes matrices of any strides, its CUDA product only some. What it would refuse is refused on a CPU
//! too wherever the generic way runs, so that a test finds it. Source of the rules: `gemm_config` of candle's CUDA backend.

use candle_core::{Layout, Result, Tensor, bail};

use super::kernel_choice::has_own_kernels;

/// The product of tensors, checked for its layouts.
pub trait CheckedMatmul {
    /// Returns self · rhs, (..., m, n) of (..., m, k) and (..., k, n).
    fn checked_matmul(&self, rhs: &Tensor) -> Result<Tensor>;
}

impl CheckedMatmul for Tensor {
    fn checked_matmul(&self, rhs: &Tensor) -> Result<Tensor> {
        if !has_own_kernels(self)
            && let Some(refused) = [self, rhs].into_iter().find(|side| !is_taken(side.layout()))
        {
            let (shape, strides) = (refused.dims(), refused.stride());
            bail!("a GPU multiplies no matrices of shape {shape:?} with strides {strides:?}; make them contiguous");
        }
        self.matmul(rhs)
    }
}

/// Whether the CUDA product takes matrices of this layout.
fn is_taken(layout: &Layout) -> bool {
    let (dims, strides) = (layout.dims(), layout.stride());
    let ([batch_dims @ .., rows, columns], [batch_strides @ .., row, column]) = (dims, strides) else { return false };
    let (by_row, by_column) = (*column == 1 || *columns == 1, *row == 1 || *rows == 1);
    let is_plain = by_row && (*row == *columns || *rows == 1);
    let is_transposed = by_column && (*column == *rows || *columns == 1);
    let has_one_step = match (batch_dims, batch_strides) {
        ([], _) | ([_], _) => true,
        ([first, second], [outer, inner]) => *outer == inner * second || *first == 1 || *second == 1,
        _ => false,
    };
    (is_plain || is_transposed) && has_one_step
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::layers::{Kernels, with_kernels};

    fn zeros(shape: &[usize]) -> Tensor {
        Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
    }

    #[test]
    fn layouts_are_taken_as_on_a_gpu() {
        let (plain, batched) = (zeros(&[4, 6]), zeros(&[2, 3, 4, 6]));
        for (taken, xs) in [
            (true, plain.clone()),
            (true, plain.t().unwrap()),
            (false, plain.narrow(1, 0, 3).unwrap()),
            (true, plain.narrow(0, 1, 2).unwrap()),
            (true, batched.t().unwrap()),
            (false, batched.transpose(0, 1).unwrap()),
            (false, batched.transpose(1, 2).unwrap()),
            (true, batched.narrow(0, 0, 1).unwrap()),
            (true, zeros(&[1, 6]).narrow(1, 0, 3).unwrap()),
        ] {
            assert_eq!(is_taken(xs.layout()), taken, "{:?}", xs.layout());
        }
    }

    #[test]
    fn only_the_generic_way_refuses() {
        let (view, rhs) = (zeros(&[4, 6]).narrow(1, 0, 3).unwrap(), zeros(&[3, 2]));
        assert!(view.checked_matmul(&rhs).is_ok());
        let error = with_kernels(Kernels::Generic, || view.checked_matmul(&rhs)).unwrap_err().to_string();
        assert!(error.contains("[4, 3] with strides [6, 1]"), "{error}");
    }
}
