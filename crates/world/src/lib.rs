//! A drawn world: seeded pictures of subjects in scenes, with captions and boxes.
//!
//! An [`Identity`] is a subject (a robot with such colours, such a pattern, such proportions), a [`View`] is where and
//! how it is seen, and [`Picture::render`] paints the one in the other at any size. The same numbers give the same
//! bytes on every machine: random numbers come from counters, and only operations are used that all processors round
//! alike. [`split`] says which identities and which pairs of kind and scene are held out of training.
//!
//! It renders training and evaluation data for the mini bundle; it contains no network and no file format.

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
