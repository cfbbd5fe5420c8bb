//! Qwen2.5-VL: takes pictures and text, returns text.
//!
//! Bai et al., "Qwen2.5-VL Technical Report" (2025); compared with `modeling_qwen2_5_vl.py` of transformers 5.23.
//! Reads the tensor names of the published 3B and 7B checkpoints, sharded or not, and those that newer libraries write
//! (`model.visual.*`, `model.language_model.*`).
//!
//! Greedy decoding only, so an answer is a function of the picture and the question. Videos are not supported.
//! candle-transformers does not contain this network.

mod config;
mod language;
mod mlp;
mod model;
mod positions;
mod processor;
mod vision;

pub use config::{QwenActivation, QwenConfig, QwenTextConfig, QwenVisionConfig};
pub use model::{DecodingState, Qwen, QwenInput};
pub use positions::{Grid, TextPositions, WindowOrder, patch_places};
pub use processor::{QwenPatches, QwenProcessorConfig, QwenProcessorError, smart_resize};
pub use vision::{VisionOutput, VisionTower};
