//! Kinds with a face.

use super::{Paint, Part, emblem, eye, inner, part};
use crate::{
    colour::Colour,
    identity::Identity,
    shape::{block, disc, ellipse, line, polygon, soft_polygon},
};

pub(super) fn robot(identity: &Identity) -> Vec<Part> {
    let [head, antennas, round, arms] = identity.traits;
    let half = 0.36 + 0.1 * head;
    let hand = 0.62 - 0.7 * arms;
    let mut parts = vec![
        part(line((-0.22, 0.6), (-0.22, 0.86), 0.12), Paint::Second),
        part(line((0.22, 0.6), (0.22, 0.86), 0.12), Paint::Second),
        part(line((-0.46, 0.1), (-0.78, hand), 0.1), Paint::Second),
        part(line((0.46, 0.1), (0.78, 0.5), 0.1), Paint::Second),
        part(disc(-0.78, hand, 0.14), Paint::Accent),
        part(disc(0.78, 0.5, 0.14), Paint::Accent),
    ];
    let stalks: &[f32] = if antennas < 0.5 { &[0.0] } else { &[-0.24, 0.24] };
    for &x in stalks {
        parts.push(part(line((x, -0.6), (x, -0.86), 0.04), Paint::Second));
        parts.push(part(disc(x, -0.9, 0.11), Paint::Accent));
    }
    parts.push(part(block(0.0, 0.3, 0.5, 0.42, 0.08 + 0.16 * round), Paint::Skin));
    parts.push(part(block(0.0, -0.4, half, 0.3, 0.06 + 0.2 * round), Paint::Main));
    parts.extend(eye(-0.18, -0.46, 0.13));
    parts.extend(eye(0.18, -0.46, 0.13));
    parts.push(inner(block(0.0, -0.23, 0.2, 0.035, 0.03), Paint::Fixed(Colour::INK)));
    parts.extend(emblem(identity, 0.0, 0.3, 0.22));
    parts
}

pub(super) fn fish(identity: &Identity) -> Vec<Part> {
    let [tail, fin, plump, _] = identity.traits;
    let spread = 0.34 + 0.24 * tail;
    let height = 0.44 + 0.14 * plump;
    let mut parts = vec![
        part(
            soft_polygon(&[(-0.42, 0.1), (-0.9, 0.1 - spread), (-0.76, 0.1), (-0.9, 0.1 + spread)], 0.05),
            Paint::Second,
        ),
        part(soft_polygon(&[(-0.3, -0.2), (0.0, -0.45 - 0.25 * fin), (0.4, -0.2)], 0.05), Paint::Second),
        part(soft_polygon(&[(-0.2, 0.4), (-0.1, 0.7), (0.2, 0.4)], 0.05), Paint::Accent),
        part(ellipse(0.15, 0.1, 0.72, height), Paint::Skin),
        inner(soft_polygon(&[(-0.12, 0.06), (-0.34, 0.2), (-0.12, 0.32)], 0.05), Paint::Accent),
    ];
    parts.extend(eye(0.5, -0.02, 0.13));
    parts.push(inner(line((0.66, 0.26), (0.8, 0.22), 0.03), Paint::Fixed(Colour::INK)));
    parts.extend(emblem(identity, 0.12, 0.12, 0.22));
    parts
}

pub(super) fn bird(identity: &Identity) -> Vec<Part> {
    let [crest, tail, beak, wing] = identity.traits;
    let mut parts = vec![
        part(line((-0.1, 0.6), (-0.1, 0.92), 0.035), Paint::Accent),
        part(line((0.15, 0.6), (0.15, 0.92), 0.035), Paint::Accent),
        part(soft_polygon(&[(-0.4, 0.1), (-0.95, -0.3 * tail), (-0.9, 0.3), (-0.4, 0.4)], 0.04), Paint::Second),
        part(soft_polygon(&[(0.62, -0.5), (0.92 + 0.1 * beak, -0.36), (0.62, -0.24)], 0.02), Paint::Accent),
    ];
    if crest > 0.4 {
        parts.push(part(soft_polygon(&[(0.2, -0.7), (0.1, -0.98), (0.5, -0.75)], 0.04), Paint::Accent));
    }
    parts.extend([
        part(ellipse(0.0, 0.2, 0.58, 0.5), Paint::Skin),
        part(disc(0.4, -0.42, 0.36), Paint::Main),
        part(ellipse(-0.14, 0.16 + 0.1 * wing, 0.34, 0.2), Paint::Second),
    ]);
    parts.extend(eye(0.5, -0.46, 0.12));
    parts
}

pub(super) fn cat(identity: &Identity) -> Vec<Part> {
    let [ears, tail, chest, width] = identity.traits;
    let tip = -0.72 - 0.24 * ears;
    let half = 0.46 + 0.08 * width;
    let mut parts = vec![
        part(line((0.4, 0.8), (0.84, 0.6), 0.1), Paint::Main),
        part(line((0.84, 0.6), (0.76, 0.2 - 0.3 * tail), 0.1), Paint::Second),
        part(polygon(&[(-0.46, -0.4), (-0.4, tip), (-0.06, -0.56)]), Paint::Main),
        part(polygon(&[(0.46, -0.4), (0.4, tip), (0.06, -0.56)]), Paint::Main),
        inner(polygon(&[(-0.38, -0.48), (-0.35, tip + 0.18), (-0.16, -0.56)]), Paint::Accent),
        inner(polygon(&[(0.38, -0.48), (0.35, tip + 0.18), (0.16, -0.56)]), Paint::Accent),
        part(soft_polygon(&[(-0.2, 0.1), (0.2, 0.1), (half - 0.06, 0.8), (0.06 - half, 0.8)], 0.12), Paint::Skin),
        part(ellipse(0.0, -0.24, 0.5, 0.4), Paint::Main),
        inner(ellipse(0.0, -0.08, 0.22, 0.16), Paint::Fixed(Colour::hex(0xFF_F6_EA))),
        inner(disc(0.0, -0.16, 0.06), Paint::Accent),
    ];
    if chest > 0.5 {
        parts.push(inner(ellipse(0.0, 0.42, 0.2, 0.2), Paint::Fixed(Colour::hex(0xFF_F6_EA))));
    }
    parts.extend(eye(-0.22, -0.3, 0.12));
    parts.extend(eye(0.22, -0.3, 0.12));
    parts.push(part(line((-0.2, 0.86), (-0.12, 0.86), 0.08), Paint::Second));
    parts.push(part(line((0.12, 0.86), (0.2, 0.86), 0.08), Paint::Second));
    parts
}
