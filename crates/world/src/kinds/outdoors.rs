//! Kinds that are found outdoors.

use super::{Paint, Part, emblem, inner, part};
use crate::{
    colour::Colour,
    identity::Identity,
    shape::{block, disc, ellipse, line, polygon, soft_polygon},
};

const GLASS: Paint = Paint::Fixed(Colour::hex(0xBF_E6_F7));
const RUBBER: Paint = Paint::Fixed(Colour::hex(0x26_26_2C));

pub(super) fn rocket(identity: &Identity) -> Vec<Part> {
    let [plump, fins, window, _] = identity.traits;
    let half = 0.3 + 0.1 * plump;
    let reach = 0.66 + 0.16 * fins;
    let body = ellipse(0.0, -0.1, half, 0.88).and(block(0.0, -0.5, 1.0, 1.1, 0.0));
    let nose = ellipse(0.0, -0.1, half, 0.88).and(block(0.0, -0.9, 1.0, 0.4, 0.0));
    let hole = -0.22 + 0.1 * window;
    let mut parts = vec![
        part(soft_polygon(&[(-0.14, 0.6), (0.14, 0.6), (0.0, 0.92)], 0.06), Paint::Fixed(Colour::hex(0xFF_A0_20))),
        inner(soft_polygon(&[(-0.06, 0.6), (0.06, 0.6), (0.0, 0.78)], 0.04), Paint::Fixed(Colour::hex(0xFF_F0_90))),
        part(soft_polygon(&[(-0.2, 0.1), (-reach, 0.5), (-reach, 0.78), (-0.2, 0.5)], 0.04), Paint::Second),
        part(soft_polygon(&[(0.2, 0.1), (reach, 0.5), (reach, 0.78), (0.2, 0.5)], 0.04), Paint::Second),
        part(body, Paint::Skin),
        inner(nose, Paint::Second),
        inner(disc(0.0, hole, 0.2), Paint::Accent),
        inner(disc(0.0, hole, 0.12), GLASS),
    ];
    parts.extend(emblem(identity, 0.0, 0.3, 0.15));
    parts
}

pub(super) fn cactus(identity: &Identity) -> Vec<Part> {
    let [left, right, flower, pot] = identity.traits;
    let (left, right) = (0.25 - 0.4 * left, 0.2 - 0.4 * right);
    let foot = 0.3 + 0.12 * pot;
    let mut parts = vec![
        part(line((-0.55, left), (-0.55, left - 0.3), 0.14), Paint::Skin),
        part(line((-0.55, left), (0.0, left), 0.13), Paint::Skin),
        part(line((0.55, right), (0.55, right - 0.34), 0.14), Paint::Skin),
        part(line((0.55, right), (0.0, right), 0.13), Paint::Skin),
        part(line((0.0, -0.6), (0.0, 0.5), 0.27), Paint::Skin),
        part(polygon(&[(-0.46, 0.5), (0.46, 0.5), (foot, 0.95), (-foot, 0.95)]), Paint::Second),
        part(block(0.0, 0.48, 0.54, 0.1, 0.04), Paint::Accent),
    ];
    if flower > 0.35 {
        parts.push(part(disc(0.0, -0.86, 0.14), Paint::Accent));
        parts.push(inner(disc(0.0, -0.86, 0.06), Paint::Fixed(Colour::hex(0xFF_F0_90))));
    }
    parts
}

pub(super) fn car(identity: &Identity) -> Vec<Part> {
    let [roof, nose, hub, _] = identity.traits;
    let top = -0.28 - 0.2 * roof;
    let front = 0.62 + 0.2 * nose;
    let mut parts = vec![
        part(soft_polygon(&[(-0.62, 0.15), (-0.44, top), (0.26, top), (0.52, 0.15)], 0.05), Paint::Second),
        inner(soft_polygon(&[(-0.48, 0.1), (-0.37, top + 0.09), (-0.1, top + 0.09), (-0.1, 0.1)], 0.01), GLASS),
        inner(soft_polygon(&[(0.04, 0.1), (0.04, top + 0.09), (0.22, top + 0.09), (0.38, 0.1)], 0.01), GLASS),
        part(soft_polygon(&[(-0.86, 0.18), (front, 0.18), (0.88, 0.36), (0.88, 0.6), (-0.86, 0.6)], 0.08), Paint::Skin),
        inner(disc(0.84, 0.36, 0.09), Paint::Fixed(Colour::hex(0xFF_F0_90))),
    ];
    for x in [-0.48, 0.48] {
        parts.push(part(disc(x, 0.68, 0.25), RUBBER));
        parts.push(inner(disc(x, 0.68, 0.1 + 0.04 * hub), Paint::Accent));
    }
    parts.extend(emblem(identity, -0.02, 0.4, 0.17));
    parts
}

pub(super) fn boat(identity: &Identity) -> Vec<Part> {
    let [mast, jib, hull, flag] = identity.traits;
    let x = -0.1 + 0.16 * mast;
    let bow = 0.55 + 0.15 * hull;
    let mut parts = vec![
        part(line((x, -0.85), (x, 0.4), 0.045), Paint::Fixed(Colour::hex(0x6E_48_2C))),
        part(soft_polygon(&[(x - 0.12, -0.7), (x - 0.12, 0.26), (-0.8, 0.26)], 0.03), Paint::Second),
        part(soft_polygon(&[(x + 0.12, -0.6 + 0.3 * jib), (x + 0.12, 0.26), (0.72, 0.26)], 0.03), Paint::Accent),
        part(soft_polygon(&[(-0.92, 0.44), (0.92, 0.44), (bow, 0.88), (-0.62, 0.88)], 0.05), Paint::Skin),
        inner(block(0.0, 0.44, 0.9, 0.05, 0.03), Paint::Accent),
    ];
    if flag > 0.4 {
        parts.push(part(polygon(&[(x, -0.95), (x + 0.3, -0.84), (x, -0.73)]), Paint::Main));
    }
    parts
}
