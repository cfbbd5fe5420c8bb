//! The bytes of a network's weights once they are loaded.

use candle_core::DType;
use echogen_checkpoint::bundle::{Bundle, BundleError, Network, Presence};
use serde::Serialize;

use super::shapes::{self, Shapes};
use crate::{
    echogen::{EchoGenConfig, is_ignored},
    sizes::Sizes,
    t5::T5Encoder,
    visual_tokenizer::TokenizerDecoder,
};

/// The networks that sample, in the order in which they are loaded.
const SAMPLERS: [Network; 3] = [Network::Transformer, Network::VisualTokenizer, Network::TextEncoder];

/// The loaded weights of one network, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NetworkWeights {
    /// The network's name in the bundle.
    pub network: &'static str,
    /// Tensors in the type that is computed in.
    pub reduced_bytes: u64,
    /// Tensors that are in float32 whatever that type is.
    pub exact_bytes: u64,
    /// Whether the shapes are those of the files; else they follow from the sizes.
    pub from_files: bool,
}

impl NetworkWeights {
    /// All of them.
    pub fn bytes(&self) -> u64 {
        self.reduced_bytes + self.exact_bytes
    }
}

/// Returns the weights of the networks that sample, as they are loaded with that type. Where the files are present their
/// tables of contents are read, and nothing else of them.
pub fn sampler_weights(bundle: &Bundle, sizes: &Sizes, dtype: DType) -> Result<Vec<NetworkWeights>, BundleError> {
    SAMPLERS.into_iter().map(|network| weights(bundle, sizes, network, dtype)).collect()
}

fn weights(bundle: &Bundle, sizes: &Sizes, network: Network, dtype: DType) -> Result<NetworkWeights, BundleError> {
    let from_files = bundle.presence(network) == Presence::Complete;
    let shapes = if from_files { stored(bundle, network)? } else { expected(sizes, network) };
    let mut weights = NetworkWeights { network: network.name(), reduced_bytes: 0, exact_bytes: 0, from_files };
    for (name, shape) in shapes.iter().filter(|(name, _)| !is_left_out(sizes, network, name)) {
        let elements = shape.iter().map(|extent| *extent as u64).product::<u64>();
        match is_exact(&sizes.transformer, network, name, dtype) || dtype == DType::F32 {
            true => weights.exact_bytes += elements * DType::F32.size_in_bytes() as u64,
            false => weights.reduced_bytes += elements * dtype.size_in_bytes() as u64,
        }
    }
    Ok(weights)
}

fn stored(bundle: &Bundle, network: Network) -> Result<Shapes, BundleError> {
    let checkpoint = bundle.checkpoint(network)?;
    let shapes = checkpoint.names().map(|name| (name.to_owned(), checkpoint.shape(name).unwrap_or_default().to_vec()));
    Ok(shapes.collect())
}

fn expected(sizes: &Sizes, network: Network) -> Shapes {
    match network {
        Network::Transformer => shapes::transformer(&sizes.transformer),
        Network::TextEncoder => shapes::text_encoder(&sizes.text_encoder),
        Network::VisualTokenizer => shapes::tokenizer_decoder(&sizes.tokenizer),
        _ => Shapes::new(),
    }
}

/// Whether a tensor is not kept on the device: what the networks ignore, and the heads' sharpness, which is kept as numbers
/// of the host.
fn is_left_out(sizes: &Sizes, network: Network, name: &str) -> bool {
    match network {
        Network::Transformer => is_ignored(&sizes.transformer, name) || name.ends_with("scale_mul_1H11"),
        Network::TextEncoder => T5Encoder::is_ignored(name),
        Network::VisualTokenizer => TokenizerDecoder::ignores(name),
        _ => false,
    }
}

/// Whether a tensor stays in float32 when the network is loaded with a reduced type.
fn is_exact(config: &EchoGenConfig, network: Network, name: &str, dtype: DType) -> bool {
    match network {
        Network::Transformer => {
            let is_of_block = (0..config.depth)
                .any(|index| name.strip_prefix(&config.block_prefix(index)).is_some_and(|rest| rest.starts_with('.')));
            !is_of_block || name.ends_with("ada_gss")
        }
        Network::TextEncoder => {
            name.ends_with("relative_attention_bias.weight") || (dtype == DType::F16 && name.ends_with(".wo.weight"))
        }
        Network::VisualTokenizer => name.contains("norm") || name.contains("conv_out"),
        _ => false,
    }
}
