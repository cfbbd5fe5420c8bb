//! How each kind is drawn: a list of parts, painted in order, in a square from -1 to 1 with the ground at y = 1.

mod creatures;
mod household;
mod outdoors;

use crate::{
    canvas::{Canvas, Frame},
    colour::Colour,
    identity::{Emblem, Identity, Kind},
    shape::{Point, Shape, block, disc, polygon},
};

/// Thickness of the dark outline around a subject.
const OUTLINE: f32 = 0.055;

/// How a part is coloured.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Paint {
    /// The main colour with the pattern.
    Skin,
    /// The main colour without the pattern.
    Main,
    /// The second colour.
    Second,
    /// The third colour.
    Accent,
    /// A fixed colour, the same for every identity.
    Fixed(Colour),
}

/// One part of a subject.
pub(crate) struct Part {
    shape: Shape,
    paint: Paint,
    outlined: bool,
}

/// Creates a part with a dark outline.
fn part(shape: Shape, paint: Paint) -> Part {
    Part { shape, paint, outlined: true }
}

/// Creates a part inside another, without an outline.
fn inner(shape: Shape, paint: Paint) -> Part {
    Part { shape, paint, outlined: false }
}

/// Draws an eye: a white disc with a pupil.
fn eye(x: f32, y: f32, radius: f32) -> [Part; 2] {
    [
        inner(disc(x, y, radius), Paint::Fixed(Colour::WHITE)),
        inner(disc(x + radius * 0.2, y, radius * 0.6), Paint::Fixed(Colour::INK)),
    ]
}

/// Draws the emblem in the accent colour around (x, y), with a light background where the contrast would be too low.
fn emblem(identity: &Identity, x: f32, y: f32, size: f32) -> Vec<Part> {
    let at = |points: &[Point]| -> Shape {
        polygon(&points.iter().map(|p| (x + p.0 * size, y + p.1 * size)).collect::<Vec<_>>())
    };
    let shapes = match identity.emblem {
        Emblem::None => return Vec::new(),
        Emblem::Disc => vec![disc(x, y, size * 0.9)],
        Emblem::Square => vec![block(x, y, size * 0.8, size * 0.8, size * 0.1)],
        Emblem::Star => vec![at(&[
            (0.0, -1.1),
            (0.32, -0.36),
            (1.05, -0.34),
            (0.48, 0.16),
            (0.68, 0.95),
            (0.0, 0.5),
            (-0.68, 0.95),
            (-0.48, 0.16),
            (-1.05, -0.34),
            (-0.32, -0.36),
        ])],
        Emblem::Heart => vec![
            disc(x - size * 0.42, y - size * 0.3, size * 0.5),
            disc(x + size * 0.42, y - size * 0.3, size * 0.5),
            at(&[(-0.86, -0.06), (0.86, -0.06), (0.0, 1.0)]),
        ],
    };
    shapes.into_iter().map(|shape| inner(shape, Paint::Accent)).collect()
}

fn parts(identity: &Identity) -> Vec<Part> {
    match identity.kind {
        Kind::Mug => household::mug(identity),
        Kind::Teapot => household::teapot(identity),
        Kind::Backpack => household::backpack(identity),
        Kind::Lamp => household::lamp(identity),
        Kind::Robot => creatures::robot(identity),
        Kind::Fish => creatures::fish(identity),
        Kind::Bird => creatures::bird(identity),
        Kind::Cat => creatures::cat(identity),
        Kind::Rocket => outdoors::rocket(identity),
        Kind::Cactus => outdoors::cactus(identity),
        Kind::Car => outdoors::car(identity),
        Kind::Boat => outdoors::boat(identity),
    }
}

/// Paints the subject. `tint` is the colour of the light.
pub(crate) fn paint(canvas: &mut Canvas, frame: &Frame, identity: &Identity, tint: Colour) {
    let parts = parts(identity);
    let line = identity.palette[0].bright(0.25).mix(Colour::INK, 0.5).times(tint);
    for part in parts.iter().filter(|part| part.outlined) {
        canvas.fill_subject(frame, &part.shape, OUTLINE, |_, _| line);
    }
    for part in &parts {
        canvas.fill_subject(frame, &part.shape, 0.0, |place, width| {
            let colour = match part.paint {
                Paint::Skin => identity.skin(place, width),
                Paint::Main => identity.palette[0],
                Paint::Second => identity.palette[1],
                Paint::Accent => identity.palette[2],
                Paint::Fixed(colour) => colour,
            };
            colour.bright(1.06 - 0.14 * place.1 - 0.08 * place.0).times(tint)
        });
    }
}
