//! The drawn world: seeded pictures of subjects in scenes, with captions and boxes.
//!
//! An [`Identity`] is a subject (for example a robot with certain colours, pattern and proportions). A [`View`] is the
//! scene and the pose. [`Picture::render`] paints an identity in a view at any size. The same numbers give the same
//! bytes on every machine: random numbers come from a counter-based generator, and the arithmetic uses only operations
//! that all processors round alike. [`split`] defines which identities and which pairs of kind and scene are held out
//! from training.
//!
//! The crate makes training and evaluation data for the mini bundle. It contains no network and no file format.

mod canvas;
mod caption;
mod colour;
mod identity;
mod kinds;
mod picture;
mod random;
mod scenes;
mod shape;
pub mod split;
mod view;

pub use caption::caption;
pub use colour::Colour;
pub use identity::{Emblem, Identity, Kind, Pattern};
pub use picture::{Bounds, Picture};
pub use scenes::{Light, Scene};
pub use view::View;
