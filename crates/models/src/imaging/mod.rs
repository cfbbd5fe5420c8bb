//! Pictures: reading them within bounds, preparing them as EchoGen does, and writing them.
//!
//! Everything works on 8-bit RGB in memory; colour profiles and gamma are not applied, as in the published code.

mod canvas;
mod chart;
mod contact_sheet;
mod container;
mod cutout;
mod decode;
mod encode;
mod error;
mod font;
mod mask;
mod prepare;
mod resize;

pub use chart::{Chart, ChartLine, ChartPoint, chart};
pub use contact_sheet::{SheetRow, contact_sheet};
pub use cutout::{PixelBox, white_outside};
pub use decode::{ImageLimits, decode_as_published, decode_image, decoding_bytes};
pub use encode::{ImageFormat, encode_image};
pub use error::ImageError;
pub use image::RgbImage;
pub use mask::{SubjectMask, overlay, white_outside_mask};
pub use prepare::{cover_and_crop, covering_size, from_unit_tensor, shorter_side_and_crop, to_unit_tensor};
pub use resize::{Filter, resize};
