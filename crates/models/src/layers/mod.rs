//! What several networks share: resampling, convolutions, attention, norms. Choice of device and kernel lives here only.

pub mod attention;
pub mod bias;
pub mod conv;
pub mod deformable;
pub mod kernels;
pub mod linear;
pub mod norm;
mod product;
pub mod resize;
mod simd;
pub mod window_attention;
