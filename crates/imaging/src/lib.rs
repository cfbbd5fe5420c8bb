//! Pictures: bounded decoding, resizing, cut-outs, conversion to and from tensors, encoding.
//!
//! All functions work on 8-bit sRGB in memory ([`RgbImage`]). The parts, in the order in which a picture passes through
//! them:
//!
//! 1. [`decode_image`] reads PNG, JPEG, WebP, GIF, BMP and TIFF within [`ImageLimits`], which are checked before pixels
//!    are allocated; [`decoding_bytes`] returns in advance how much memory that needs.
//! 2. [`white_outside`] and [`white_outside_mask`] paint the background white: everything outside a [`PixelBox`] or a
//!    [`SubjectMask`]; [`paint_outside_white`] and [`paint_outside_runs_white`] do so in place.
//! 3. [`resize()`], [`cover_and_crop`] and [`shorter_side_and_crop`] match Pillow and torchvision exactly; their
//!    arithmetic is part of the published models.
//! 4. [`to_unit_tensor`] makes a network's input, [`from_unit_tensor`] makes a picture from a network's output.
//! 5. [`encode_image`] encodes a picture as a file.
//!
//! All errors are [`ImageError`] and permanent: the same bytes fail again. Drawing for people is in crate `figures`.

mod colour;
mod container;
mod cutout;
mod decode;
mod encode;
mod error;
mod mask;
mod prepare;
mod resize;

pub use cutout::{PixelBox, paint_outside_white, white_outside};
pub use decode::{ImageLimits, decode_as_published, decode_image, decoding_bytes, media_type};
pub use encode::{ImageFormat, encode_image};
pub use error::ImageError;
pub use image::RgbImage;
pub use mask::{SubjectMask, paint_outside_runs_white, white_outside_mask};
pub use prepare::{cover_and_crop, covering_size, from_unit_tensor, shorter_side_and_crop, to_unit_tensor};
pub use resize::{Filter, resize};
