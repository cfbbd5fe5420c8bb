//! Weights that are drawn instead of read: numbers of the right size on the device, for networks whose weights are not at hand.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use candle_core::{DType, Device, Result, Shape, Tensor};
use candle_nn::{Init, VarBuilder, var_builder::SimpleBackend};
use echogen_models::random::CounterRng;

/// Numbers that are drawn; larger tensors repeat them.
const DRAWN: usize = 1 << 20;

/// Draws weights on one device, and counts them.
#[derive(Clone)]
pub(crate) struct DrawnWeights {
    noise: Tensor,
    bytes: Arc<AtomicU64>,
}

impl DrawnWeights {
    /// Draws the numbers.
    pub(crate) fn new(device: &Device) -> Result<Self> {
        let mut noise = vec![0.0; DRAWN];
        CounterRng::new(0, 0).fill_normal(&mut noise);
        Ok(Self { noise: Tensor::from_vec(noise, DRAWN, device)?, bytes: Arc::default() })
    }

    /// Returns a builder whose tensors are of `dtype` unless they are asked for in another one.
    pub(crate) fn builder(&self, dtype: DType) -> VarBuilder<'static> {
        VarBuilder::from_backend(Box::new(self.clone()), dtype, self.noise.device().clone())
    }

    /// Returns the bytes of all tensors that were asked for.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Returns normal numbers with this deviation.
    pub(crate) fn normal(&self, shape: &Shape, deviation: f64, dtype: DType) -> Result<Tensor> {
        let count = shape.elem_count();
        let times = count.div_ceil(DRAWN).max(1);
        let repeated = match times {
            1 => self.noise.clone(),
            _ => self.noise.broadcast_as((times, DRAWN))?.contiguous()?.flatten_all()?,
        };
        repeated.narrow(0, 0, count)?.affine(deviation, 0.0)?.reshape(shape)?.to_dtype(dtype)
    }
}

impl SimpleBackend for DrawnWeights {
    fn get(&self, shape: Shape, name: &str, _: Init, dtype: DType, device: &Device) -> Result<Tensor> {
        let bytes = shape.elem_count() * dtype.size_in_bytes();
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        match shape.dims() {
            // Gains of norms, and biases.
            [_] if name.ends_with("weight") => Tensor::ones(shape, dtype, device),
            [_] => Tensor::zeros(shape, dtype, device),
            // So that every layer leaves the size of its input as it is.
            [_, inputs @ ..] => {
                let fan_in = inputs.iter().product::<usize>().max(1);
                self.normal(&shape, (fan_in as f64).sqrt().recip(), dtype)
            }
            [] => Tensor::zeros(shape, dtype, device),
        }
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> Result<Tensor> {
        candle_core::bail!("the shape of {name} is not known")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}
