//! Which implementation of an operation runs: our own for a CPU (vectorised loops) or a GPU (the module `cuda`), or candle's
//! operations.
//!
//! A reduced type on a CPU always takes candle's. So that this *generic* way is also tested on a CPU in f32, and compared with
//! ours on a GPU, [`with_kernels`] selects it for everything that a thread loads and computes meanwhile.

use std::cell::Cell;

use candle_core::{DType, Device, Tensor};

/// An implementation of the layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// Ours wherever they apply: float32 on the CPU, and any type on a GPU.
    #[default]
    Own,
    /// candle's operations everywhere.
    Generic,
}

thread_local! {
    static CHOSEN: Cell<Kernels> = const { Cell::new(Kernels::Own) };
}

/// Runs `work` with this choice. It holds for the calling thread; networks must be loaded with the choice that they are run
/// with, because weights are laid out for one of them.
pub fn with_kernels<T>(kernels: Kernels, work: impl FnOnce() -> T) -> T {
    /// Restores the choice, also when `work` panics.
    struct Restore(Kernels);
    impl Drop for Restore {
        fn drop(&mut self) {
            CHOSEN.set(self.0);
        }
    }
    let _restore = Restore(CHOSEN.replace(kernels));
    work()
}

/// Whether our vectorised loops run on `xs`.
pub fn has_own_kernels(xs: &Tensor) -> bool {
    CHOSEN.get() == Kernels::Own && xs.device().is_cpu() && xs.dtype() == DType::F32
}

/// Whether our kernels for a GPU run on `xs`.
#[cfg(feature = "cuda")]
pub(super) fn has_device_kernels(xs: &Tensor) -> bool {
    CHOSEN.get() == Kernels::Own && xs.device().is_cuda()
}

/// Runs `work`. Where candle describes a strided tensor to a GPU, the description that this thread uploads meanwhile is kept
/// there for the next time. For work whose shapes are few, as they are never freed.
pub fn with_kept_layouts<T>(device: &Device, work: impl FnOnce() -> T) -> T {
    #[cfg(feature = "cuda")]
    let _kept = device.as_cuda_device().map(|device| device.enable_cuda_graph_htod_cache());
    #[cfg(not(feature = "cuda"))]
    let _ = device;
    work()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_ends_with_the_work_and_holds_for_one_thread() {
        let xs = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        assert!(has_own_kernels(&xs) && !has_own_kernels(&xs.to_dtype(DType::BF16).unwrap()));
        with_kernels(Kernels::Generic, || {
            assert!(!has_own_kernels(&xs));
            let other = std::thread::scope(|scope| scope.spawn(|| has_own_kernels(&xs)).join());
            assert!(other.unwrap());
        });
        let panicked = std::panic::catch_unwind(|| with_kernels(Kernels::Generic, || panic!("for a test")));
        assert!(panicked.is_err() && has_own_kernels(&xs));
    }
}
