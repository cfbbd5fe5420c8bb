//! GroundingDINO: takes a picture and a caption, returns boxes with a score for each token.
//!
//! Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection" (2023);
//! compared with `modeling_grounding_dino.py` of transformers 5.23. Reads the tensor names of
//! `IDEA-Research/grounding-dino-tiny` and `-base`, with the shared box head under any or all of its names.
//!
//! candle-transformers does not contain this network. Three computations differ from the reference's order, with the
//! same result except for rounding: the fusion's projections are folded into one matrix per caption
//! (`attention::BiMultiHeadAttention`), boxes are computed only for selected cells, and masks only where there is
//! padding. Everything is float32, because box coordinates need that precision.

mod attention;
mod bert;
mod config;
mod decoder;
mod encoder;
mod levels;
mod model;
mod neck;
mod phrases;
mod swin;

pub use config::{
    BertConfig, FeedForwardActivation, GroundingDinoConfig, PositionEmbeddingType, SwinConfig, TowerActivation,
};
pub use model::{GroundingDino, GroundingDinoInput, GroundingDinoOutput};
pub use neck::PixelMask;
pub use phrases::PhraseBlocks;
