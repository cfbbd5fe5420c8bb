//! Shapes as signed distance functions: negative inside, positive outside, approximately the distance to the edge near
//! it.
//!
//! Uses only additions, multiplications, divisions and square roots, which every machine rounds alike.

/// A point: x to the right, y down.
pub(crate) type Point = (f32, f32);

/// A shape that can be filled.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Ellipse { centre: Point, radius: Point },
    Block { centre: Point, half: Point, round: f32 },
    Line { from: Point, to: Point, radius: f32 },
    Polygon { corners: Vec<Point>, round: f32 },
    Ring { centre: Point, radius: f32, width: f32 },
    Both(Box<Shape>, Box<Shape>),
}

pub(crate) fn ellipse(x: f32, y: f32, rx: f32, ry: f32) -> Shape {
    Shape::Ellipse { centre: (x, y), radius: (rx, ry) }
}

pub(crate) fn disc(x: f32, y: f32, radius: f32) -> Shape {
    ellipse(x, y, radius, radius)
}

/// Creates a rectangle with rounded corners from its centre and half its sides.
pub(crate) fn block(x: f32, y: f32, half_width: f32, half_height: f32, round: f32) -> Shape {
    Shape::Block { centre: (x, y), half: (half_width, half_height), round }
}

/// Creates a rectangle from its edges.
pub(crate) fn area(left: f32, top: f32, right: f32, bottom: f32) -> Shape {
    block((left + right) / 2.0, (top + bottom) / 2.0, (right - left) / 2.0, (bottom - top) / 2.0, 0.0)
}

/// Creates a line with round ends.
pub(crate) fn line(from: Point, to: Point, radius: f32) -> Shape {
    Shape::Line { from, to, radius }
}

pub(crate) fn polygon(corners: &[Point]) -> Shape {
    soft_polygon(corners, 0.0)
}

/// Creates a polygon grown by `round`, which rounds its corners.
pub(crate) fn soft_polygon(corners: &[Point], round: f32) -> Shape {
    Shape::Polygon { corners: corners.to_vec(), round }
}

pub(crate) fn ring(x: f32, y: f32, radius: f32, width: f32) -> Shape {
    Shape::Ring { centre: (x, y), radius, width }
}

impl Shape {
    pub(crate) fn and(self, other: Shape) -> Shape {
        Shape::Both(Box::new(self), Box::new(other))
    }

    pub(crate) fn distance(&self, point: Point) -> f32 {
        match self {
            Self::Ellipse { centre, radius } => ellipse_distance(minus(point, *centre), *radius),
            Self::Block { centre, half, round } => {
                let (x, y) = minus(point, *centre);
                let (dx, dy) = (x.abs() - half.0 + round, y.abs() - half.1 + round);
                length((dx.max(0.0), dy.max(0.0))) + dx.max(dy).min(0.0) - round
            }
            Self::Line { from, to, radius } => segment_distance(point, *from, *to) - radius,
            Self::Polygon { corners, round } => polygon_distance(point, corners) - round,
            Self::Ring { centre, radius, width } => (length(minus(point, *centre)) - radius).abs() - width / 2.0,
            Self::Both(a, b) => a.distance(point).max(b.distance(point)),
        }
    }

    /// Returns (left, top, right, bottom) of a rectangle that encloses the shape.
    pub(crate) fn bounds(&self) -> [f32; 4] {
        let around = |(x, y): Point, (rx, ry): Point| [x - rx, y - ry, x + rx, y + ry];
        match self {
            Self::Ellipse { centre, radius } => around(*centre, *radius),
            Self::Block { centre, half, .. } => around(*centre, *half),
            Self::Line { from, to, radius } => hull(&[*from, *to], *radius),
            Self::Polygon { corners, round } => hull(corners, *round),
            Self::Ring { centre, radius, width } => around(*centre, (radius + width / 2.0, radius + width / 2.0)),
            Self::Both(a, b) => {
                let (a, b) = (a.bounds(), b.bounds());
                [a[0].max(b[0]), a[1].max(b[1]), a[2].min(b[2]), a[3].min(b[3])]
            }
        }
    }
}

fn minus(a: Point, b: Point) -> Point {
    (a.0 - b.0, a.1 - b.1)
}

fn dot(a: Point, b: Point) -> f32 {
    a.0 * b.0 + a.1 * b.1
}

fn length(a: Point) -> f32 {
    dot(a, a).sqrt()
}

fn hull(points: &[Point], grow: f32) -> [f32; 4] {
    let start = [f32::INFINITY, f32::INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY];
    points
        .iter()
        .fold(start, |b, p| [b[0].min(p.0 - grow), b[1].min(p.1 - grow), b[2].max(p.0 + grow), b[3].max(p.1 + grow)])
}

/// Signed distance to an ellipse: exact for circles on the edge and along the axes, approximate near the edge of an
/// ellipse.
fn ellipse_distance(point: Point, radius: Point) -> f32 {
    let scaled = (point.0 / radius.0, point.1 / radius.1);
    let slope = length((scaled.0 / radius.0, scaled.1 / radius.1));
    let from_centre = length(scaled);
    if slope < 1e-6 { -radius.0.min(radius.1) } else { from_centre * (from_centre - 1.0) / slope }
}

fn segment_distance(point: Point, from: Point, to: Point) -> f32 {
    let (along, offset) = (minus(to, from), minus(point, from));
    let share = (dot(offset, along) / dot(along, along).max(1e-9)).clamp(0.0, 1.0);
    length((offset.0 - along.0 * share, offset.1 - along.1 * share))
}

fn polygon_distance(point: Point, corners: &[Point]) -> f32 {
    let mut nearest = f32::INFINITY;
    let mut inside = false;
    let mut previous = corners[corners.len() - 1];
    for &corner in corners {
        nearest = nearest.min(segment_distance(point, previous, corner));
        let crosses = (corner.1 > point.1) != (previous.1 > point.1);
        if crosses {
            let x = (previous.0 - corner.0) * (point.1 - corner.1) / (previous.1 - corner.1) + corner.0;
            inside ^= point.0 < x;
        }
        previous = corner;
    }
    if inside { -nearest } else { nearest }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_the_ruler() {
        let check = |shape: &Shape, point, expected: f32| {
            let distance = shape.distance(point);
            assert!((distance - expected).abs() < 1e-5, "{shape:?} at {point:?}: {distance}");
        };
        check(&disc(1.0, 0.0, 0.5), (2.0, 0.0), 0.5);
        check(&block(0.0, 0.0, 1.0, 0.5, 0.1), (1.5, 0.0), 0.5);
        check(&block(0.0, 0.0, 1.0, 0.5, 0.1), (0.0, 0.2), -0.3);
        check(&line((0.0, 0.0), (1.0, 0.0), 0.1), (0.5, 0.3), 0.2);
        check(&ring(0.0, 0.0, 1.0, 0.2), (1.0, 0.0), -0.1);
        let triangle = polygon(&[(0.0, 0.0), (2.0, 0.0), (0.0, 2.0)]);
        check(&triangle, (0.5, 0.25), -0.25);
        check(&triangle, (-1.0, 1.0), 1.0);
        check(&area(0.0, 0.0, 1.0, 1.0).and(area(0.5, 0.0, 1.0, 1.0)), (0.25, 0.5), 0.25);
    }

    #[test]
    fn no_shape_leaves_its_bounds() {
        let shapes = [
            ellipse(0.1, -0.2, 0.5, 0.3),
            line((-0.5, 0.5), (0.3, -0.4), 0.2),
            soft_polygon(&[(0.0, -0.8), (0.5, 0.5), (-0.5, 0.5)], 0.1),
            ring(0.0, 0.2, 0.5, 0.2).and(area(0.0, -1.0, 1.0, 1.0)),
        ];
        for shape in shapes {
            let [left, top, right, bottom] = shape.bounds();
            for step in 0..4_000 {
                let point = ((step % 63) as f32 / 31.0 - 1.0, (step / 63) as f32 / 31.0 - 1.0);
                let within = (left..=right).contains(&point.0) && (top..=bottom).contains(&point.1);
                assert!(within || shape.distance(point) > -1e-6, "{shape:?} at {point:?}");
            }
        }
    }
}
