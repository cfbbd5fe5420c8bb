//! The networks of EchoGen in candle: finding the subject, encoding it, sampling pictures.
//!
//! | task | start at |
//! |---|---|
//! | generate a picture from a prompt and an encoded subject | [`generator`] (the transformer is in [`echogen`];
//! [`visual_tokenizer`] decodes) |
//! | encode a subject | [`feature_extractor`] ([`dinov2`] and [`flux_vae`]), which creates an [`encoded_subject`] |
//! | find a subject in a picture | [`subject_finder`] ([`namer`]: Qwen2.5-VL, [`detector`]: GroundingDINO, [`masker`]:
//! SAM) |
//! | encode text | [`text_encoder`] ([`t5`]) |
//! | select device and dtype, classify device errors | [`device`], [`device_fault`] |
//! | reduce the weights of a bundle | [`reduced_weights`] |
//! | read a bundle's sizes, plan the memory before loading | [`sizes`], [`plan`] |
//! | attention, convolutions, norms, kernels | [`layers`]: the only module with device-specific kernels |
//! | seeded random numbers | [`random`] |
//!
//! The crate is synchronous and contains no queues or object stores. Call it from dedicated threads, never from async
//! threads. Weights come from crate `checkpoint`, pictures from crate `imaging`.
//!
//! All networks are implemented here and not taken from candle-transformers: its versions differ from the reference
//! numerically or read other tensor names (each module says how), and the other networks do not exist there. Each
//! network is compared with reference values by the example `parity` and the test of the same name.

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
pub mod plan;
pub mod qwen2_5_vl;
pub mod random;
pub mod reduced_weights;
pub mod sam;
pub mod sizes;
pub mod subject_finder;
pub mod t5;
pub mod text_encoder;
pub mod visual_tokenizer;

pub use candle_core::{DType, Device, Tensor};
