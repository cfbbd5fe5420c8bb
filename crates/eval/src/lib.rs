//! What evaluation measures with: judges of pictures, and what the visual tokenizer loses.
//!
//! [`judge`] names what a drawn picture shows, [`similarity`] compares pictures and sentences as the DreamBooth paper does
//! (CLIP and DINO, the only networks taken from candle-transformers), [`round_trip`] measures what the visual tokenizer
//! loses. None of them makes pictures, and no service loads them.

pub mod judge;
pub mod round_trip;
pub mod similarity;
