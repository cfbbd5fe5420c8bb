//! Painting of a picture: shapes with anti-aliased edges, in painting order.

use crate::{
    colour::Colour,
    shape::{Point, Shape},
};

/// The transformation from a drawing's coordinates to the canvas: rotation, mirroring, scale and translation. The
/// canvas is the square from (0, 0) to (1, 1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    origin: Point,
    scale: f32,
    cos: f32,
    sin: f32,
    /// Factor on the ratio of width to height.
    stretch: f32,
    mirror: f32,
}

impl Frame {
    /// The identity transformation.
    pub(crate) const WHOLE: Self =
        Self { origin: (0.0, 0.0), scale: 1.0, cos: 1.0, sin: 0.0, stretch: 1.0, mirror: 1.0 };

    /// Creates a transformation. `tilt` is in radians and small: sine and cosine are polynomials, because math
    /// libraries differ in the last bit.
    pub(crate) fn new(origin: Point, scale: f32, tilt: f32, stretch: f32, mirrored: bool) -> Self {
        let square = tilt * tilt;
        let sin = tilt * (1.0 - square / 6.0 * (1.0 - square / 20.0));
        let cos = 1.0 - square / 2.0 * (1.0 - square / 12.0 * (1.0 - square / 30.0));
        Self { origin, scale, cos, sin, stretch, mirror: if mirrored { -1.0 } else { 1.0 } }
    }

    fn place(&self, (x, y): Point) -> Point {
        let (x, y) = (x * self.stretch * self.mirror * self.scale, y * self.scale);
        (self.origin.0 + x * self.cos - y * self.sin, self.origin.1 + x * self.sin + y * self.cos)
    }

    fn local(&self, point: Point) -> Point {
        let (x, y) = (point.0 - self.origin.0, point.1 - self.origin.1);
        let (x, y) = (x * self.cos + y * self.sin, y * self.cos - x * self.sin);
        (x * self.mirror / (self.scale * self.stretch), y / self.scale)
    }

    /// Returns the canvas rectangle that encloses a rectangle of the drawing.
    fn around(&self, [left, top, right, bottom]: [f32; 4]) -> [f32; 4] {
        let corners = [(left, top), (right, top), (left, bottom), (right, bottom)].map(|corner| self.place(corner));
        let fold =
            |start: f32, join: fn(f32, f32) -> f32, part: fn(&Point) -> f32| corners.iter().map(part).fold(start, join);
        [
            fold(f32::INFINITY, f32::min, |p| p.0),
            fold(f32::INFINITY, f32::min, |p| p.1),
            fold(f32::NEG_INFINITY, f32::max, |p| p.0),
            fold(f32::NEG_INFINITY, f32::max, |p| p.1),
        ]
    }
}

/// A square picture, and the share of each pixel that the subject covers.
pub(crate) struct Canvas {
    size: usize,
    pixels: Vec<Colour>,
    mask: Vec<f32>,
}

impl Canvas {
    pub(crate) fn new(size: usize, background: Colour) -> Self {
        Self { size, pixels: vec![background; size * size], mask: vec![0.0; size * size] }
    }

    /// Fills the shape, grown by `grow` on all sides, with a colour that may depend on the position in the drawing.
    /// The second argument of the colour function is a pixel's width in the drawing's units.
    pub(crate) fn fill(
        &mut self,
        frame: &Frame,
        shape: &Shape,
        grow: f32,
        opacity: f32,
        colour: impl Fn(Point, f32) -> Colour,
    ) {
        self.each(frame, shape, grow, |pixel, _, local, width, coverage| {
            *pixel = pixel.mix(colour(local, width), coverage * opacity);
        });
    }

    /// As [`Canvas::fill`], and marks the pixels as part of the subject.
    pub(crate) fn fill_subject(
        &mut self,
        frame: &Frame,
        shape: &Shape,
        grow: f32,
        colour: impl Fn(Point, f32) -> Colour,
    ) {
        self.each(frame, shape, grow, |pixel, mask, local, width, coverage| {
            *pixel = pixel.mix(colour(local, width), coverage);
            *mask = mask.max(coverage);
        });
    }

    fn each(
        &mut self,
        frame: &Frame,
        shape: &Shape,
        grow: f32,
        mut paint: impl FnMut(&mut Colour, &mut f32, Point, f32, f32),
    ) {
        let size = self.size as f32;
        let pixel = 1.0 / (frame.scale * size);
        let [left, top, right, bottom] = shape.bounds();
        let reach = grow + pixel;
        let [left, top, right, bottom] = frame.around([left - reach, top - reach, right + reach, bottom + reach]);
        let range = |from: f32, to: f32| {
            (from * size).floor().clamp(0.0, size) as usize..(to * size).ceil().clamp(0.0, size) as usize
        };
        for row in range(top, bottom) {
            for column in range(left, right) {
                let place = ((column as f32 + 0.5) / size, (row as f32 + 0.5) / size);
                let local = frame.local(place);
                let coverage = (0.5 - (shape.distance(local) - grow) / pixel).clamp(0.0, 1.0);
                if coverage > 0.0 {
                    let index = row * self.size + column;
                    paint(&mut self.pixels[index], &mut self.mask[index], local, pixel, coverage);
                }
            }
        }
    }

    /// Returns (left, top, right, bottom) of the pixels that the subject covers by at least half; right and bottom are
    /// exclusive.
    pub(crate) fn subject_bounds(&self) -> Option<[usize; 4]> {
        let mut bounds: Option<[usize; 4]> = None;
        for (index, _) in self.mask.iter().enumerate().filter(|(_, covered)| **covered >= 0.5) {
            let (x, y) = (index % self.size, index / self.size);
            let [left, top, right, bottom] = bounds.unwrap_or([x, y, x + 1, y + 1]);
            bounds = Some([left.min(x), top.min(y), right.max(x + 1), bottom.max(y + 1)]);
        }
        bounds
    }

    #[cfg(test)]
    pub(crate) fn mask(&self) -> &[f32] {
        &self.mask
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.pixels.iter().flat_map(|colour| colour.bytes()).collect()
    }
}
