//! Pictures for people: a contact sheet of a batch, a chart, and an overlay that shows which subject was found.
//!
//! [`contact_sheet()`] shows what a batch made, [`chart()`] the figures of an evaluation, [`overlay()`] a box or an outline on
//! a picture. All three draw with a small canvas and a stroke font of our own, so that no font file is needed and the
//! result is the same on every machine. Nothing here is read by a network.

mod canvas;
mod chart;
mod contact_sheet;
mod font;
mod overlay;

pub use chart::{Chart, ChartLine, ChartPoint, chart};
pub use contact_sheet::{SheetRow, contact_sheet};
pub use overlay::overlay;
