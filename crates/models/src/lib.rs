//! The networks of EchoGen in candle: loading of published checkpoints, image preparation, encoding, sampling.
//!
//! Synchronous, and ignorant of queues and stores. Call it from threads of its own, never from async threads.
//!
//! Every network of EchoGen is written here, and not taken from candle-transformers: what that has of them differs from
//! the reference in numbers or reads other key names (each module says where), and the rest it lacks. From there come the
//! judges of [`similarity`], which make no pictures.

pub mod bundle;
pub mod checkpoint;
pub mod detector;
pub mod device;
pub mod device_fault;
pub mod dinov2;
pub mod echogen;
pub mod flux_vae;
pub mod generator;
pub mod grounding_dino;
pub mod imaging;
pub mod judge;
pub mod layers;
pub mod masker;
pub mod namer;
pub mod qwen2_5_vl;
pub mod random;
pub mod round_trip;
pub mod sam;
pub mod similarity;
pub mod subject_encoder;
pub mod subject_finder;
pub mod t5;
pub mod text_encoder;
pub mod visual_tokenizer;

pub use candle_core::{DType, Device};
