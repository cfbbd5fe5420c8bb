//! Drawing: anti-aliased rounded rectangles, lines, pictures, and text.

use image::RgbImage;

use crate::font;

/// A colour: red, green and blue, 8 bits each.
pub(crate) type Colour = [u8; 3];

/// A rectangle in whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Area {
    pub(crate) x: u32,
    pub(crate) y: u32,
    pub(crate) width: u32,
    pub(crate) height: u32,
}

impl Area {
    /// Returns the share of the pixel, 0 to 1, that lies within the area with corners rounded by `radius`.
    fn coverage(&self, x: u32, y: u32, radius: f32) -> f32 {
        let from_middle = |pixel: u32, start: u32, size: u32| {
            let half = size as f32 / 2.0;
            (pixel as f32 + 0.5 - start as f32 - half).abs() - half + radius
        };
        let (dx, dy) = (from_middle(x, self.x, self.width), from_middle(y, self.y, self.height));
        let distance = dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius;
        (0.5 - distance).clamp(0.0, 1.0)
    }
}

/// A picture that is drawn on.
pub(crate) struct Canvas {
    pixels: RgbImage,
}

impl Canvas {
    pub(crate) fn new(width: u32, height: u32, background: Colour) -> Self {
        Self { pixels: RgbImage::from_pixel(width, height, image::Rgb(background)) }
    }

    /// Creates a canvas from an existing picture.
    pub(crate) fn of(pixels: RgbImage) -> Self {
        Self { pixels }
    }

    pub(crate) fn into_image(self) -> RgbImage {
        self.pixels
    }

    /// Fills a rectangle with rounded corners. `radius` is in pixels.
    pub(crate) fn fill(&mut self, area: Area, radius: f32, colour: Colour) {
        self.each_pixel(area, radius, |_, _| colour);
    }

    /// Draws the picture with its upper left corner at (x, y) and rounded corners.
    pub(crate) fn paste(&mut self, picture: &RgbImage, x: u32, y: u32, radius: f32) {
        let area = Area { x, y, width: picture.width(), height: picture.height() };
        self.each_pixel(area, radius, |column, row| picture.get_pixel(column - x, row - y).0);
    }

    /// Draws one line of text. (x, y) is the upper left corner of its capitals, which are `capital_height` pixels
    /// high.
    pub(crate) fn text(&mut self, text: &str, x: u32, y: u32, capital_height: f32, colour: Colour) {
        let scale = capital_height / font::CAPITAL_HEIGHT;
        let thickness = (capital_height / 8.5).max(1.2);
        let place = |point: (f32, f32)| (x as f32 + point.0 * scale, y as f32 + point.1 * scale);
        let lines: Vec<_> = font::segments(text).iter().map(|[from, to]| [place(*from), place(*to)]).collect();
        self.strokes(&lines, thickness / 2.0, colour);
    }

    /// Draws lines with round ends. Where lines cross, the colour is blended only once.
    pub(crate) fn strokes(&mut self, lines: &[font::Segment], radius: f32, colour: Colour) {
        let reach = radius + 1.0;
        let mut ink = std::collections::BTreeMap::<(u32, u32), f32>::new();
        for [from, to] in lines {
            let columns = pixel_range(from.0.min(to.0) - reach, from.0.max(to.0) + reach, self.pixels.width());
            let rows = pixel_range(from.1.min(to.1) - reach, from.1.max(to.1) + reach, self.pixels.height());
            for (row, column) in rows.flat_map(|row| columns.clone().map(move |column| (row, column))) {
                let distance = distance_to_segment((column as f32 + 0.5, row as f32 + 0.5), *from, *to);
                let coverage = (radius + 0.5 - distance).clamp(0.0, 1.0);
                let entry = ink.entry((row, column)).or_default();
                *entry = entry.max(coverage);
            }
        }
        for ((row, column), coverage) in ink {
            self.blend(column, row, colour, coverage);
        }
    }

    fn each_pixel(&mut self, area: Area, radius: f32, colour: impl Fn(u32, u32) -> Colour) {
        for y in area.y..(area.y + area.height).min(self.pixels.height()) {
            for x in area.x..(area.x + area.width).min(self.pixels.width()) {
                self.blend(x, y, colour(x, y), area.coverage(x, y, radius));
            }
        }
    }

    fn blend(&mut self, x: u32, y: u32, colour: Colour, coverage: f32) {
        for (below, above) in self.pixels.get_pixel_mut(x, y).0.iter_mut().zip(colour) {
            *below = (f32::from(*below) + (f32::from(above) - f32::from(*below)) * coverage).round() as u8;
        }
    }
}

fn pixel_range(from: f32, to: f32, size: u32) -> std::ops::Range<u32> {
    (from.floor().max(0.0) as u32)..(to.ceil().max(0.0) as u32).min(size)
}

fn distance_to_segment(point: (f32, f32), from: (f32, f32), to: (f32, f32)) -> f32 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length_squared = (dx * dx + dy * dy).max(1e-9);
    let along = (((point.0 - from.0) * dx + (point.1 - from.1) * dy) / length_squared).clamp(0.0, 1.0);
    (point.0 - from.0 - along * dx).hypot(point.1 - from.1 - along * dy)
}
