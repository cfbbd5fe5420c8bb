//! Which tensors of a bundle may be stored in a reduced type.
//!
//! A network that computes in bf16 reads most of its weights in bf16 and some in float32. The former may as well be stored in
//! bf16: they are rounded once, when the bundle is converted, to the same values. The latter stay as they are. Blocks of 8 bits
//! are for the linear layers of the two largest networks, the blocks of the transformer and of the text encoder. What no network
//! reads is left out.

use echogen_checkpoint::bundle::{Bundle, BundleError, Network};
use echogen_checkpoint::{Form, WeightType};

use crate::{
    echogen::{EchoGenConfig, is_ignored},
    t5::T5Encoder,
};

/// Returns what becomes of each tensor of `bundle` where its weights are stored as `dtype`.
///
/// # Errors
/// The bundle's transformer has no valid configuration.
pub fn forms(
    bundle: &Bundle,
    dtype: WeightType,
) -> Result<impl Fn(Network, &str, &[usize]) -> Form + 'static, BundleError> {
    let config: EchoGenConfig = bundle.config(Network::Transformer)?;
    Ok(move |network, name: &str, shape: &[usize]| match network {
        Network::Transformer if is_ignored(&config, name) => Form::LeftOut,
        Network::TextEncoder if T5Encoder::is_ignored(name) => Form::LeftOut,
        _ => weight_type(network, name, shape, dtype).map_or(Form::AsStored, Form::of),
    })
}

/// Returns the type in which a tensor is stored where the weights are stored as `dtype`; `None` if it keeps its own.
pub fn weight_type(network: Network, name: &str, shape: &[usize], dtype: WeightType) -> Option<WeightType> {
    let is_linear = name.ends_with(".weight") && shape.len() == 2;
    match network {
        Network::Transformer if !(name.starts_with("blocks.") || name.starts_with("block_chunks.")) => None,
        Network::Transformer if is_linear => Some(dtype.of_linear(shape)),
        Network::TextEncoder if name.contains("relative_attention_bias") => None,
        // With f16 weights, this layer is float32.
        Network::TextEncoder if dtype == WeightType::F16 && name.ends_with(".wo.weight") => None,
        Network::TextEncoder if is_linear && name.starts_with("encoder.block.") => Some(dtype.of_linear(shape)),
        // The last layer of the decoder is float32; the encoder is not read for generation.
        Network::VisualTokenizer if !name.starts_with("decoder.") => None,
        Network::VisualTokenizer if ["conv_out", "norm_out"].iter().any(|last| name.contains(last)) => None,
        Network::Dinov2 if name.contains("layer_scale") || name.contains(".ls") => None,
        // They are a small part of the memory, and the detector is float32 in any case.
        Network::Detector | Network::Namer | Network::SegmentAnything => None,
        _ => Some(dtype.of_others()),
    }
}
