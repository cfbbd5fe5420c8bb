//! Qwen2.5-VL: pictures and words in, words out.
//!
//! Bai et al., "Qwen2.5-VL Technical Report" (2025); checked against `modeling_qwen2_5_vl.py` of transformers 5.23.
//! Loads the key names of the published 3B and 7B checkpoints, sharded or not, and those that newer libraries write
//! (`model.visual.*`, `model.language_model.*`).
//!
//! Greedy decoding only: an answer is a function of the picture and the question. Pictures, not films. candle-transformers
//! has no such network.

mod config;
mod language;
mod mlp;
mod model;
mod positions;
mod processor;
mod vision;

pub use config::{QwenActivation, QwenConfig, QwenTextConfig, QwenVisionConfig};
pub use model::{Conversation, Qwen, QwenInput};
pub use positions::{Grid, TextPositions, WindowOrder, patch_places};
pub use processor::{QwenPatches, QwenProcessorConfig, QwenProcessorError, smart_resize};
pub use vision::{VisionOutput, VisionTower};
