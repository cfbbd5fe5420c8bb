//! Which tensors a network has, and numbers for them.

use anyhow::Result;
use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::var_builder::SimpleBackend;
use echogen_models::random::CounterRng;
use half::f16;
use safetensors::{Dtype, serialize, tensor::TensorView};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Names and shapes, in the order that weights are drawn in.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;

/// Writes down what a constructor asks for, and claims to have none of the other key layouts.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<Mutex<Shapes>>);

impl Asked {
    pub(crate) fn shapes(&self) -> Shapes {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl SimpleBackend for Asked {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: candle_nn::Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let mut shapes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shapes.insert(name.to_owned(), shape.dims().to_vec());
        Tensor::zeros(shape, dtype, device)
    }

    fn get_unchecked(&self, name: &str, _: DType, _: &Device) -> candle_core::Result<Tensor> {
        candle_core::bail!("{name} is asked for without a shape")
    }

    fn contains_tensor(&self, _: &str) -> bool {
        false
    }
}

/// Draws every tensor and returns the bytes of a `.safetensors` file.
pub(crate) fn draw(shapes: &Shapes, seed: u64, stream: u64) -> Result<Vec<u8>> {
    let mut generator = CounterRng::new(seed, stream);
    let mut content = Vec::new();
    for (name, shape) in shapes {
        content.push((name, shape, draw_one(name, shape, &mut generator)));
    }
    let mut tensors = BTreeMap::new();
    for (name, shape, bytes) in &content {
        tensors.insert(name.as_str(), TensorView::new(Dtype::F16, (*shape).clone(), bytes)?);
    }
    Ok(serialize(tensors, None)?)
}

fn draw_one(name: &str, shape: &[usize], generator: &mut CounterRng) -> Vec<u8> {
    let (centre, deviation) = distribution(name, shape);
    let mut uniforms = vec![0f32; shape.iter().product()];
    generator.fill_uniform(&mut uniforms);
    // A uniform number in [-1, 1) has deviation 1/sqrt(3).
    let reach = deviation * 3f32.sqrt();
    let values = uniforms.into_iter().map(|uniform| f16::from_f32(centre + reach * (2.0 * uniform - 1.0)));
    values.flat_map(f16::to_le_bytes).collect()
}

/// Centre and standard deviation of a tensor's numbers, such that activations neither vanish nor grow.
fn distribution(name: &str, shape: &[usize]) -> (f32, f32) {
    let fan_in: usize = shape.iter().skip(1).product();
    let unit = 1.0 / (fan_in as f32).sqrt();
    let is = |part: &str| name.contains(part);
    match name {
        _ if name.ends_with("zero_k_bias") => (0.0, 0.0),
        _ if name.ends_with("bias") => (0.0, 0.02),
        // Sharpness of attention: the exponential is the score of equal vectors.
        _ if is("scale_mul_1H11") => (4f32.ln(), 0.05),
        _ if is("lambda1") => (0.5, 0.05),
        // Learned stand-ins for what the other networks give, which is normed or nearly so.
        _ if is("_uncond") || is("mat_q") && shape.len() == 3 || name == "shared.weight" => (0.0, 1.0),
        _ if is("pos_start") || is("lvl_embed") || is("embeddings.cls") || is("embeddings.pos") => (0.0, 0.3),
        // Gains around one and gates around nothing would switch every block off.
        _ if is("ada_gss") => (0.3, 0.2),
        _ if is("ada_lin") => (0.0, 0.2 * unit),
        _ if is("relative_attention_bias") => (0.0, 0.5),
        // T5's scores are not divided by the root of the head's width: its queries are small instead.
        _ if is("SelfAttention.q.") => (0.0, unit * 32f32.powf(-0.5)),
        _ if shape.len() == 1 => (1.0, 0.05),
        _ => (0.0, unit),
    }
}
