//! The networks of EchoGen in candle: finding the subject, encoding it, sampling pictures.
//!
//! | for | start at |
//! |---|---|
//! | making a picture of a prompt and an encoded subject | [`generator`] (the transformer is in [`echogen`], [`visual_tokenizer`] decodes) |
//! | encoding a subject | [`feature_extractor`] ([`dinov2`] and [`flux_vae`]), which makes an [`encoded_subject`] |
//! | finding a subject in a picture | [`subject_finder`] ([`namer`]: Qwen2.5-VL, [`detector`]: GroundingDINO, [`masker`]: SAM) |
//! | text | [`text_encoder`] ([`t5`]) |
//! | choosing a device and a type, telling a broken device from a bad job | [`device`], [`device_fault`] |
//! | attention, convolutions, norms, kernels | [`layers`]: the only place that knows about devices' kernels |
//! | seeded randomness | [`random`] |
//!
//! Synchronous: nothing here knows queues or object stores. Call it from dedicated threads, never from async threads.
//! Weights come from crate `checkpoint`, pictures from crate `imaging`.
//!
//! Every network of EchoGen is written here, and not taken from candle-transformers: what that has of them differs from
//! the reference in numbers or reads other key names (each module says where), and the rest it lacks. Each is compared
//! with reference numbers by the example `parity` and the test of the same name.

pub mod detector;
pub mod device;
pub mod device_fault;
pub mod dinov2;
pub mod echogen;
pub mod encoded_subject;
pub mod feature_extractor;
pub mod flux_vae;
pub mod generator;
pub mod grounding_dino;
pub mod layers;
pub mod masker;
pub mod namer;
pub mod qwen2_5_vl;
pub mod random;
pub mod sam;
pub mod subject_finder;
pub mod t5;
pub mod text_encoder;
pub mod visual_tokenizer;

pub use candle_core::{DType, Device};
