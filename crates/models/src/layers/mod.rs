//! Layers shared by several networks: resampling, convolutions, attention, norms, draws. Device and kernel selection is in
//! this module only.

pub mod attention;
pub mod bias;
mod checked_matmul;
pub mod conv;
#[cfg(feature = "cuda")]
mod cuda;
pub mod deformable;
pub mod draws;
#[cfg(any(feature = "cuda", test))]
mod fused_attention;
mod kernel_choice;
pub mod kernels;
pub mod linear;
pub mod norm;
mod product;
pub mod resize;
mod simd;
pub mod window_attention;

pub use checked_matmul::CheckedMatmul;
pub use kernel_choice::{Kernels, has_own_kernels, with_kept_layouts, with_kernels};
