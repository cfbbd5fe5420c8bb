//! A small line chart with marked points, in percent on both axes.

use image::RgbImage;

use crate::{
    canvas::{Area, Canvas, Colour},
    font,
};

/// The contents of a chart.
#[derive(Clone, Debug)]
pub struct Chart<'a> {
    /// Title, above the chart.
    pub title: &'a str,
    /// Label of the horizontal axis.
    pub across: &'a str,
    /// Label of the vertical axis, written above it.
    pub up: &'a str,
    /// The lines. There are six distinct colours.
    pub lines: &'a [ChartLine],
}

/// A line through points, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct ChartLine {
    /// Name in the legend, beside the chart.
    pub label: String,
    /// Points, in drawing order.
    pub points: Vec<ChartPoint>,
}

/// A marked point. Coordinates are shares from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct ChartPoint {
    /// Horizontal coordinate.
    pub across: f32,
    /// Vertical coordinate.
    pub up: f32,
    /// Label beside the point.
    pub label: String,
}

const WIDTH: u32 = 900;
const HEIGHT: u32 = 620;
const PLOT: Area = Area { x: 84, y: 96, width: 600, height: 430 };
const TEXT: f32 = 11.0;
const PAPER: Colour = [250, 248, 244];
const FIELD: Colour = [255, 255, 255];
const GRID: Colour = [226, 222, 214];
const INK: Colour = [52, 49, 46];
const SOFT_INK: Colour = [120, 113, 104];
const COLOURS: [Colour; 6] =
    [[214, 96, 54], [40, 110, 160], [70, 140, 80], [140, 90, 160], [190, 150, 30], [90, 90, 90]];

/// Draws the chart: 900 x 620 pixels. The range of each axis is the smallest in whole tens of percent that covers the
/// points.
pub fn chart(chart: &Chart<'_>) -> RgbImage {
    let mut canvas = Canvas::new(WIDTH, HEIGHT, PAPER);
    canvas.text(chart.title, PLOT.x, 30, 16.0, INK);
    canvas.text(chart.up, PLOT.x, PLOT.y - 26, TEXT, SOFT_INK);
    centred(&mut canvas, chart.across, PLOT.x + PLOT.width / 2, PLOT.y + PLOT.height + 48);
    canvas.fill(PLOT, 0.0, FIELD);
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let across = Axis::of(points().map(|point| point.across));
    let up = Axis::of(points().map(|point| point.up));
    draw_grid(&mut canvas, across, up);
    for (index, line) in chart.lines.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        draw_line(&mut canvas, line, (across, up), colour);
        let y = PLOT.y + 8 + index as u32 * 26;
        canvas.fill(Area { x: PLOT.x + PLOT.width + 24, y, width: 18, height: 12 }, 6.0, colour);
        canvas.text(&line.label, PLOT.x + PLOT.width + 52, y, TEXT, INK);
    }
    canvas.into_image()
}

/// The range of an axis in tens of percent.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Axis {
    from: i32,
    to: i32,
}

impl Axis {
    /// Returns the smallest range that covers the values, at least two tens wide. Values outside 0 to 1 are drawn on
    /// the edge.
    fn of(values: impl Iterator<Item = f32>) -> Self {
        let tens = values.filter(|value| value.is_finite()).map(|value| value.clamp(0.0, 1.0) * 10.0);
        let (low, high) = tens.fold((10.0f32, 0.0f32), |(low, high), ten| (low.min(ten), high.max(ten)));
        let (mut from, mut to) = (low.min(high).floor() as i32, high.max(low).ceil() as i32);
        while to - from < 2 {
            (from, to) = ((from - 1).max(0), (to + 1).min(10));
        }
        Self { from, to }
    }

    /// Returns the relative position of a value on the axis, 0 to 1.
    fn at(self, value: f32) -> f32 {
        ((value * 10.0 - self.from as f32) / (self.to - self.from) as f32).clamp(0.0, 1.0)
    }
}

fn place((across, up): (Axis, Axis), point: (f32, f32)) -> (f32, f32) {
    let x = PLOT.x as f32 + across.at(point.0) * PLOT.width as f32;
    (x, PLOT.y as f32 + (1.0 - up.at(point.1)) * PLOT.height as f32)
}

fn draw_grid(canvas: &mut Canvas, across: Axis, up: Axis) {
    let (bottom, right) = ((PLOT.y + PLOT.height) as f32, (PLOT.x + PLOT.width) as f32);
    for ten in across.from..=across.to {
        let (x, _) = place((across, up), (ten as f32 / 10.0, 0.0));
        canvas.strokes(&[[(x, PLOT.y as f32), (x, bottom)]], 0.4, GRID);
        centred(canvas, &format!("{} %", ten * 10), x as u32, PLOT.y + PLOT.height + 16);
    }
    for ten in up.from..=up.to {
        let (_, y) = place((across, up), (0.0, ten as f32 / 10.0));
        canvas.strokes(&[[(PLOT.x as f32, y), (right, y)]], 0.4, GRID);
        let label = format!("{} %", ten * 10);
        canvas.text(&label, PLOT.x.saturating_sub(12 + width(&label)), y as u32 - 6, TEXT, SOFT_INK);
    }
}

fn draw_line(canvas: &mut Canvas, line: &ChartLine, axes: (Axis, Axis), colour: Colour) {
    let places: Vec<_> = line.points.iter().map(|point| place(axes, (point.across, point.up))).collect();
    let strokes: Vec<_> = places.windows(2).map(|pair| [pair[0], pair[1]]).collect();
    canvas.strokes(&strokes, 1.3, colour);
    for (point, at) in line.points.iter().zip(places) {
        canvas.strokes(&[[at, at]], 5.0, colour);
        canvas.text(&point.label, at.0 as u32 + 9, (at.1 as u32).saturating_sub(16), 9.0, SOFT_INK);
    }
}

fn width(text: &str) -> u32 {
    (font::width(text) * TEXT / font::CAPITAL_HEIGHT) as u32
}

fn centred(canvas: &mut Canvas, text: &str, x: u32, y: u32) {
    canvas.text(text, x.saturating_sub(width(text) / 2), y, TEXT, SOFT_INK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_cover_their_values_in_whole_tens() {
        assert_eq!(Axis::of([0.42, 0.78].into_iter()), Axis { from: 4, to: 8 });
        assert_eq!(Axis::of([0.995].into_iter()), Axis { from: 8, to: 10 });
        assert_eq!(Axis::of([0.0, 1.7, f32::NAN].into_iter()), Axis { from: 0, to: 10 });
        assert!(Axis::of(std::iter::empty()).at(0.5).is_finite());
    }

    #[test]
    fn points_are_where_their_values_say() {
        let point = |across, up| ChartPoint { across, up, label: String::new() };
        let lines = [ChartLine { label: "one".to_owned(), points: vec![point(0.0, 0.0), point(1.0, 1.0)] }];
        let picture = chart(&Chart { title: "t", across: "a", up: "u", lines: &lines });
        for (x, y) in [(PLOT.x, PLOT.y + PLOT.height), (PLOT.x + PLOT.width, PLOT.y)] {
            assert_eq!(picture.get_pixel(x, y).0, COLOURS[0], "{x}, {y}");
        }
        assert_eq!(picture.get_pixel(PLOT.x + 30, PLOT.y + 30).0, FIELD);
    }
}
