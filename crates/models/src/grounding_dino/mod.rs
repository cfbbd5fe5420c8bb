//! GroundingDINO: a picture and a caption in, boxes and how well each word fits them out.
//!
//! Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection" (2023); checked
//! against `modeling_grounding_dino.py` of transformers 5.23. Loads the key names of `IDEA-Research/grounding-dino-tiny`
//! and `-base`, with the one box head under any or all of its names.
//!
//! candle-transformers has no such network. Three things are done in fewer steps than in the reference, with the same
//! result but for rounding: the fusion's projections are folded into one matrix for the caption
//! (`attention::BiMultiHeadAttention`), boxes are computed for chosen cells only, and masks only where there is padding.
//! Everything is float32: a box's numbers would not bear less.

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
