//! Figures for people: a contact sheet of a batch, a chart, and an overlay that marks the found subject.
//!
//! [`contact_sheet()`] shows the results of a batch, [`chart()`] plots the measures of an evaluation, [`overlay()`]
//! draws a box or an outline on a picture. All three use a small canvas and a built-in stroke font, so no font file is
//! needed and the result is the same on every machine. No network reads these figures.

mod canvas;
mod chart;
mod contact_sheet;
mod font;
mod overlay;

pub use chart::{Chart, ChartLine, ChartPoint, chart};
pub use contact_sheet::{MAX_CARDS, MAX_RESULTS, SheetRow, THUMBNAIL, contact_sheet, contact_sheet_headed, counted};
pub use overlay::overlay;
