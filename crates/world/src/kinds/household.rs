//! Household things.

use super::{Paint, Part, emblem, inner, part};
use crate::{
    colour::Colour,
    identity::Identity,
    shape::{block, disc, ellipse, line, polygon, ring, soft_polygon},
};

pub(super) fn mug(identity: &Identity) -> Vec<Part> {
    let [taper, handle, ..] = identity.traits;
    let foot = 0.62 - 0.22 * taper;
    let mut parts = vec![
        part(ring(0.5, 0.1, 0.3 + 0.1 * handle, 0.17), Paint::Second),
        part(soft_polygon(&[(-0.68, -0.6), (0.48, -0.6), (foot - 0.16, 0.9), (-0.04 - foot, 0.9)], 0.08), Paint::Skin),
        part(ellipse(-0.1, -0.66, 0.66, 0.2), Paint::Second),
        inner(ellipse(-0.1, -0.64, 0.52, 0.12), Paint::Fixed(Colour::hex(0x5A_36_20))),
    ];
    parts.extend(emblem(identity, -0.1, 0.2, 0.3));
    parts
}

pub(super) fn teapot(identity: &Identity) -> Vec<Part> {
    let [height, spout, ..] = identity.traits;
    let top = -0.45 - 0.15 * height;
    let tip = -0.4 - 0.25 * spout;
    let mut parts = vec![
        part(ring(-0.68, 0.15, 0.32, 0.15), Paint::Second),
        part(soft_polygon(&[(0.4, 0.1), (0.5, 0.6), (0.98, tip + 0.08), (0.8, tip)], 0.05), Paint::Main),
        part(ellipse(0.0, 0.3, 0.7, 0.66), Paint::Skin),
        part(ellipse(0.0, top + 0.2, 0.42, 0.2), Paint::Second),
        part(disc(0.0, top - 0.08, 0.14), Paint::Accent),
        part(block(0.0, 0.92, 0.42, 0.07, 0.05), Paint::Second),
    ];
    parts.extend(emblem(identity, 0.0, 0.35, 0.28));
    parts
}

pub(super) fn backpack(identity: &Identity) -> Vec<Part> {
    let [pocket, width, ..] = identity.traits;
    let half = 0.55 + 0.1 * width;
    let pocket_top = 0.12 + 0.16 * pocket;
    let mut parts = vec![
        part(ring(0.0, -0.74, 0.18, 0.1), Paint::Accent),
        part(block(-half - 0.04, 0.3, 0.12, 0.42, 0.1), Paint::Second),
        part(block(half + 0.04, 0.3, 0.12, 0.42, 0.1), Paint::Second),
        part(block(0.0, 0.14, half, 0.84, 0.36), Paint::Skin),
        part(block(0.0, (pocket_top + 0.86) / 2.0, half - 0.16, (0.86 - pocket_top) / 2.0, 0.1), Paint::Second),
        inner(block(0.0, pocket_top + 0.13, half - 0.24, 0.045, 0.03), Paint::Accent),
        inner(block(0.0, pocket_top + 0.22, 0.05, 0.1, 0.03), Paint::Accent),
    ];
    parts.extend(emblem(identity, 0.0, -0.26, 0.26));
    parts
}

pub(super) fn lamp(identity: &Identity) -> Vec<Part> {
    let [shade, foot, ..] = identity.traits;
    let top = 0.26 + 0.16 * shade;
    let base = 0.4 + 0.14 * foot;
    let mut parts = vec![
        part(line((0.0, 0.0), (0.0, 0.8), 0.07), Paint::Second),
        part(ellipse(0.0, 0.86, base, 0.12), Paint::Accent),
        part(disc(0.0, 0.42 + 0.2 * foot, 0.15), Paint::Accent),
        part(ellipse(0.0, 0.06, 0.3, 0.14), Paint::Fixed(Colour::hex(0xFF_F0_A0))),
        part(polygon(&[(-top, -0.95), (top, -0.95), (0.72, 0.02), (-0.72, 0.02)]), Paint::Skin),
    ];
    parts.extend(emblem(identity, 0.0, -0.42, 0.26));
    parts
}
