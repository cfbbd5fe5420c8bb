//! Draws the subject pictures in `examples/subjects`: `draw_subjects FOLDER`.
//!
//! Simple shapes, painted in order and smoothed by supersampling; the same bytes on every run. One picture has a
//! transparent background and one is a JPEG, so that the examples pass through those ways of reading too.

use std::path::{Path, PathBuf};

use clap::Parser;
use image::{DynamicImage, Rgba, RgbaImage};

/// Draws the example subjects.
#[derive(Parser)]
struct Arguments {
    /// Where the pictures are written.
    folder: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let folder = Arguments::parse().folder;
    std::fs::create_dir_all(&folder)?;
    save(&robot(), &folder.join("robot.png"))?;
    save(&mug(), &folder.join("mug.png"))?;
    save(&teapot(), &folder.join("teapot.png"))?;
    save(&cactus(), &folder.join("cactus.png"))?;
    save(&rocket(), &folder.join("rocket.jpg"))
}

/// JPEG by the file's name, else PNG, with alpha only where something is clear.
fn save(picture: &RgbaImage, path: &Path) -> anyhow::Result<()> {
    let opaque = picture.pixels().all(|pixel| pixel.0[3] == 255);
    let picture = DynamicImage::ImageRgba8(picture.clone());
    let picture = if opaque { DynamicImage::ImageRgb8(picture.into_rgb8()) } else { picture };
    if path.extension().is_some_and(|extension| extension == "jpg") {
        let file = std::io::BufWriter::new(std::fs::File::create(path)?);
        picture.write_with_encoder(image::codecs::jpeg::JpegEncoder::new_with_quality(file, 92))?;
    } else {
        picture.save(path)?;
    }
    Ok(())
}

/// Samples along a side of a pixel.
const SAMPLES: u32 = 3;

type Colour = [f32; 3];
/// Signed distance to the edge in pixels, about: negative inside.
type Shape = Box<dyn Fn(f32, f32) -> f32>;
type Paint = Box<dyn Fn(f32, f32) -> Colour>;

/// What is painted one over the other.
struct Scene {
    width: u32,
    height: u32,
    layers: Vec<(Shape, Paint, f32, f32)>,
}

impl Scene {
    fn new(width: u32, height: u32) -> Self {
        Self { width, height, layers: Vec::new() }
    }

    fn add(&mut self, shape: Shape, paint: Paint) -> &mut Self {
        self.layers.push((shape, paint, 0.4, 1.0));
        self
    }

    /// A layer whose edge fades over `blur` pixels and that lets through what is below.
    fn glow(&mut self, shape: Shape, colour: Colour, blur: f32, strength: f32) -> &mut Self {
        self.layers.push((shape, flat(colour), blur, strength));
        self
    }

    fn render(&self) -> RgbaImage {
        RgbaImage::from_fn(self.width, self.height, |x, y| {
            let mut sum = [0.0; 4];
            for sample in 0..SAMPLES * SAMPLES {
                let offset = |index: u32| (index as f32 + 0.5) / SAMPLES as f32;
                let at = (x as f32 + offset(sample % SAMPLES), y as f32 + offset(sample / SAMPLES));
                for (total, value) in sum.iter_mut().zip(self.sample(at.0, at.1)) {
                    *total += value / (SAMPLES * SAMPLES) as f32;
                }
            }
            let alpha = sum[3].max(1e-6);
            let byte = |value: f32| (value * 255.0).round().clamp(0.0, 255.0) as u8;
            Rgba([byte(sum[0] / alpha), byte(sum[1] / alpha), byte(sum[2] / alpha), byte(sum[3])])
        })
    }

    /// Colour times alpha, and alpha.
    fn sample(&self, x: f32, y: f32) -> [f32; 4] {
        let mut below = [0.0; 4];
        for (shape, paint, blur, strength) in &self.layers {
            let alpha = (0.5 - shape(x, y) / blur).clamp(0.0, 1.0) * strength;
            if alpha > 0.0 {
                let [r, g, b] = paint(x, y);
                below = [(r, 0), (g, 1), (b, 2), (1.0, 3)].map(|(v, i)| v * alpha + below[i] * (1.0 - alpha));
            }
        }
        below
    }
}

fn rgb(hex: u32) -> Colour {
    [16, 8, 0].map(|shift| ((hex >> shift) & 255) as f32 / 255.0)
}

fn mix(a: Colour, b: Colour, t: f32) -> Colour {
    [0, 1, 2].map(|i| a[i] + (b[i] - a[i]) * t.clamp(0.0, 1.0))
}

fn flat(colour: Colour) -> Paint {
    Box::new(move |_, _| colour)
}

/// From one colour to another along the line between two points.
fn gradient(from: (f32, f32), to: (f32, f32), first: u32, second: u32) -> Paint {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length_squared = dx * dx + dy * dy;
    Box::new(move |x, y| mix(rgb(first), rgb(second), ((x - from.0) * dx + (y - from.1) * dy) / length_squared))
}

/// A round body lit from the upper left: bright, its own colour, shade.
fn rounded_body(left: f32, right: f32, light: u32, body: u32, shade: u32) -> Paint {
    Box::new(move |x, _| {
        let t = (x - left) / (right - left);
        let dark = ((t - 0.35) / 0.65).clamp(0.0, 1.0);
        let shaded = mix(rgb(body), rgb(shade), dark * dark * (3.0 - 2.0 * dark));
        mix(shaded, rgb(light), (-((t - 0.2) / 0.13).powi(2)).exp())
    })
}

fn everything() -> Shape {
    Box::new(|_, _| -1e3)
}

fn circle(x: f32, y: f32, radius: f32) -> Shape {
    Box::new(move |px, py| (px - x).hypot(py - y) - radius)
}

fn ellipse(x: f32, y: f32, rx: f32, ry: f32) -> Shape {
    Box::new(move |px, py| (((px - x) / rx).hypot((py - y) / ry) - 1.0) * rx.min(ry))
}

/// A rectangle by its edges, with rounded corners.
fn slab(left: f32, top: f32, right: f32, bottom: f32, radius: f32) -> Shape {
    let (x, y, hw, hh) = ((left + right) / 2.0, (top + bottom) / 2.0, (right - left) / 2.0, (bottom - top) / 2.0);
    Box::new(move |px, py| {
        let (dx, dy) = ((px - x).abs() - hw + radius, (py - y).abs() - hh + radius);
        dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
    })
}

/// A thick line with round ends.
fn stroke(from: (f32, f32), to: (f32, f32), radius: f32) -> Shape {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    Box::new(move |px, py| {
        let along = (((px - from.0) * dx + (py - from.1) * dy) / (dx * dx + dy * dy)).clamp(0.0, 1.0);
        (px - from.0 - along * dx).hypot(py - from.1 - along * dy) - radius
    })
}

/// The edge of a shape, `width` thick.
fn edge(shape: Shape, width: f32) -> Shape {
    Box::new(move |x, y| shape(x, y).abs() - width / 2.0)
}

fn both(a: Shape, b: Shape) -> Shape {
    Box::new(move |x, y| a(x, y).max(b(x, y)))
}

fn either(a: Shape, b: Shape) -> Shape {
    Box::new(move |x, y| a(x, y).min(b(x, y)))
}

/// A polygon with convex or concave outline.
fn polygon(points: &[(f32, f32)]) -> Shape {
    let points = points.to_vec();
    Box::new(move |x, y| {
        let (mut nearest, mut inside) = (f32::INFINITY, false);
        for (a, b) in points.iter().zip(points.iter().cycle().skip(1)) {
            nearest = nearest.min(stroke(*a, *b, 0.0)(x, y));
            if (a.1 > y) != (b.1 > y) && x < a.0 + (y - a.1) / (b.1 - a.1) * (b.0 - a.0) {
                inside = !inside;
            }
        }
        if inside { -nearest } else { nearest }
    })
}

/// A wall, a table, and the shadow that something throws on it.
fn room(scene: &mut Scene, wall: (u32, u32), table: (u32, u32), edge_y: f32, shadow: (f32, f32, f32)) {
    let (width, height) = (scene.width as f32, scene.height as f32);
    scene.add(everything(), gradient((0.0, 0.0), (width * 0.4, edge_y), wall.0, wall.1));
    scene.add(
        slab(-9.0, edge_y, width + 9.0, height + 9.0, 0.0),
        gradient((0.0, edge_y), (0.0, height), table.0, table.1),
    );
    scene.glow(ellipse(shadow.0, shadow.1, shadow.2, 16.0), [0.1, 0.08, 0.1], 22.0, 0.35);
}

fn robot() -> RgbaImage {
    let mut s = Scene::new(384, 384);
    room(&mut s, (0xF6D9A8, 0xF2B880), (0xC98A5B, 0xA96B42), 296.0, (192.0, 338.0, 104.0));
    s.add(stroke((192.0, 66.0), (192.0, 40.0), 4.0), flat(rgb(0x6C7A89)));
    s.add(circle(192.0, 34.0, 11.0), gradient((184.0, 24.0), (200.0, 46.0), 0xFF9A76, 0xE0452F));
    for (x, side) in [(116.0, -1.0), (268.0, 1.0)] {
        s.add(stroke((x, 218.0), (x + side * 28.0, 262.0), 13.0), flat(rgb(0x5F8FA3)));
        s.add(circle(x + side * 30.0, 268.0, 18.0), gradient((x - 10.0, 250.0), (x + 20.0, 290.0), 0xF6C453, 0xD18F1E));
    }
    for x in [160.0, 224.0] {
        s.add(slab(x - 14.0, 290.0, x + 14.0, 330.0, 5.0), flat(rgb(0x4F7A8C)));
        s.add(slab(x - 24.0, 318.0, x + 24.0, 342.0, 11.0), gradient((0.0, 318.0), (0.0, 342.0), 0xF6C453, 0xC98417));
    }
    s.add(slab(116.0, 190.0, 268.0, 302.0, 26.0), rounded_body(116.0, 268.0, 0xB7E3EA, 0x7FBCCB, 0x4B8497));
    s.add(slab(146.0, 214.0, 238.0, 274.0, 12.0), gradient((0.0, 214.0), (0.0, 274.0), 0xF4F1E6, 0xD9D3BF));
    for (x, colour) in [(168.0, 0xE0452F), (192.0, 0xF6C453), (216.0, 0x58B368)] {
        s.add(circle(x, 233.0, 7.5), flat(rgb(colour)));
    }
    s.add(slab(160.0, 252.0, 224.0, 260.0, 4.0), flat(rgb(0x8D9AA5)));
    s.add(slab(172.0, 170.0, 212.0, 196.0, 4.0), flat(rgb(0x4F7A8C)));
    for x in [100.0, 284.0] {
        s.add(slab(x - 12.0, 104.0, x + 12.0, 148.0, 8.0), gradient((0.0, 104.0), (0.0, 148.0), 0xF6C453, 0xC98417));
    }
    s.add(slab(104.0, 66.0, 280.0, 178.0, 34.0), rounded_body(104.0, 280.0, 0xC4EBF0, 0x8CC7D4, 0x558FA2));
    s.add(slab(124.0, 86.0, 260.0, 158.0, 24.0), gradient((0.0, 86.0), (0.0, 158.0), 0x24343F, 0x33495A));
    for x in [160.0, 224.0] {
        s.glow(circle(x, 115.0, 20.0), rgb(0x7FF0E0), 18.0, 0.35);
        s.add(circle(x, 115.0, 14.0), gradient((x, 100.0), (x, 130.0), 0xD6FFF8, 0x58E0CC));
    }
    let smile = both(edge(circle(192.0, 126.0, 18.0), 5.0), slab(150.0, 132.0, 234.0, 160.0, 0.0));
    s.add(smile, flat(rgb(0x7FF0E0)));
    s.render()
}

fn mug() -> RgbaImage {
    let mut s = Scene::new(352, 352);
    s.add(edge(ellipse(262.0, 196.0, 50.0, 62.0), 24.0), gradient((220.0, 140.0), (320.0, 260.0), 0xF07A5A, 0xA8341F));
    let body = either(slab(62.0, 104.0, 258.0, 290.0, 34.0), slab(62.0, 104.0, 258.0, 200.0, 0.0));
    s.add(body, rounded_body(62.0, 258.0, 0xFFB199, 0xE8573A, 0xA03019));
    let band = slab(62.0, 178.0, 258.0, 238.0, 0.0);
    s.add(band, rounded_body(62.0, 258.0, 0xFFFFFF, 0xFBEFD9, 0xC9B48F));
    for (i, x) in [84.0f32, 122.0, 160.0, 198.0, 236.0].into_iter().enumerate() {
        let (up, down) = if i % 2 == 0 { (190.0, 226.0) } else { (226.0, 190.0) };
        let triangle = polygon(&[(x - 16.0, down), (x + 16.0, down), (x, up)]);
        s.add(triangle, rounded_body(62.0, 258.0, 0x5FA8B8, 0x2F7F93, 0x1C5566));
    }
    s.add(ellipse(160.0, 106.0, 98.0, 26.0), gradient((62.0, 100.0), (258.0, 112.0), 0xFFC4B0, 0xB8432B));
    s.add(ellipse(160.0, 109.0, 86.0, 20.0), gradient((90.0, 95.0), (200.0, 125.0), 0x3B1F14, 0x6B3E26));
    s.add(ellipse(160.0, 114.0, 74.0, 13.0), gradient((90.0, 105.0), (220.0, 125.0), 0x8A5433, 0x5A321E));
    for (x, lift) in [(132.0, 0.0), (172.0, -12.0)] {
        for step in 0..26 {
            let t = step as f32 / 26.0;
            let point = (x + 11.0 * (t * 7.0).sin(), 90.0 - 62.0 * t + lift);
            s.glow(circle(point.0, point.1, 5.0 * (1.0 - t) + 2.0), rgb(0xFFFFFF), 9.0, 0.16);
        }
    }
    s.render()
}

fn teapot() -> RgbaImage {
    let mut s = Scene::new(448, 336);
    room(&mut s, (0xBFD7D2, 0x8FB3B5), (0x7C5A4A, 0x5B3F34), 250.0, (220.0, 292.0, 132.0));
    let spout =
        polygon(&[(318.0, 220.0), (322.0, 168.0), (362.0, 122.0), (398.0, 112.0), (382.0, 138.0), (366.0, 190.0)]);
    s.add(spout, gradient((320.0, 130.0), (390.0, 220.0), 0x6E86C9, 0x2B3F7D));
    s.add(edge(ellipse(112.0, 184.0, 56.0, 58.0), 20.0), gradient((60.0, 130.0), (150.0, 250.0), 0x8FA5E0, 0x31478C));
    s.add(slab(160.0, 276.0, 280.0, 296.0, 8.0), rounded_body(160.0, 280.0, 0x8FA5E0, 0x4A62AE, 0x22336B));
    s.add(ellipse(220.0, 200.0, 124.0, 90.0), rounded_body(96.0, 344.0, 0xB4C4F0, 0x5E78C4, 0x263A78));
    let glaze = both(ellipse(220.0, 200.0, 124.0, 90.0), slab(80.0, 184.0, 360.0, 228.0, 0.0));
    s.add(glaze, rounded_body(96.0, 344.0, 0xFFFFFF, 0xF2EAD8, 0xB5A88D));
    for i in 0..7 {
        let x = 118.0 + 34.0 * i as f32;
        for (dx, dy) in [(0.0, -8.0), (7.6, -2.5), (4.7, 6.5), (-4.7, 6.5), (-7.6, -2.5)] {
            s.add(circle(x + dx, 206.0 + dy, 5.4), flat(rgb(0xD9534A)));
        }
        s.add(circle(x, 206.0, 4.2), flat(rgb(0xF6C453)));
    }
    s.add(ellipse(220.0, 120.0, 72.0, 20.0), rounded_body(148.0, 292.0, 0xDCE5FF, 0x7F96D8, 0x35498E));
    s.add(ellipse(220.0, 112.0, 60.0, 20.0), rounded_body(160.0, 280.0, 0xC6D3F7, 0x6A83CC, 0x2C4182));
    s.add(circle(220.0, 84.0, 15.0), gradient((210.0, 72.0), (232.0, 100.0), 0xFFE6A3, 0xC98417));
    s.glow(ellipse(160.0, 152.0, 22.0, 11.0), [1.0; 3], 14.0, 0.55);
    s.render()
}

fn cactus() -> RgbaImage {
    let mut s = Scene::new(320, 384);
    room(&mut s, (0xF7C9C3, 0xE99AA0), (0xEAD8C0, 0xC9AE8C), 306.0, (160.0, 350.0, 92.0));
    let arm = |x: f32, side: f32, y: f32, top: f32| {
        either(stroke((160.0, y), (x, y), 19.0), stroke((x, y), (x + side * 2.0, top), 19.0))
    };
    let green = || rounded_body(92.0, 236.0, 0xA8D98A, 0x5FAE62, 0x2B6B45);
    s.add(arm(84.0, -1.0, 186.0, 136.0), gradient((60.0, 130.0), (150.0, 200.0), 0x9BD483, 0x3F8B52));
    s.add(arm(238.0, 1.0, 160.0, 104.0), gradient((200.0, 100.0), (262.0, 180.0), 0x6DB868, 0x2B6B45));
    s.add(slab(116.0, 52.0, 204.0, 290.0, 44.0), green());
    for x in [138.0, 160.0, 182.0] {
        for row in 0..7 {
            let y = 92.0 + 26.0 * row as f32 + if x == 160.0 { 12.0 } else { 0.0 };
            s.add(stroke((x - 3.5, y - 4.0), (x + 3.5, y + 4.0), 1.2), flat(rgb(0xF4F7DA)));
            s.add(stroke((x + 3.5, y - 4.0), (x - 3.5, y + 4.0), 1.2), flat(rgb(0xF4F7DA)));
        }
    }
    for turn in 0..6 {
        let angle = turn as f32 / 6.0 * std::f32::consts::TAU;
        s.add(ellipse(160.0 + 15.0 * angle.cos(), 52.0 + 12.0 * angle.sin(), 12.0, 10.0), flat(rgb(0xE8457C)));
    }
    s.add(circle(160.0, 52.0, 8.5), flat(rgb(0xFFD166)));
    let pot = polygon(&[(92.0, 272.0), (228.0, 272.0), (210.0, 352.0), (110.0, 352.0)]);
    s.add(pot, rounded_body(92.0, 228.0, 0xF2B08A, 0xCE7346, 0x87401F));
    s.add(slab(82.0, 256.0, 238.0, 284.0, 7.0), rounded_body(82.0, 238.0, 0xFFC7A3, 0xDE8353, 0x954A26));
    s.render()
}

fn rocket() -> RgbaImage {
    let mut s = Scene::new(320, 448);
    s.add(everything(), gradient((0.0, 0.0), (60.0, 448.0), 0x141B41, 0x6B4C9A));
    for i in 0..60u32 {
        let (x, y) = ((i * 7919 % 320) as f32, (i * 104_729 % 400) as f32);
        s.glow(circle(x, y, 0.8 + (i % 3) as f32 * 0.6), rgb(0xFFF6D6), 2.0, 0.85);
    }
    s.add(circle(262.0, 70.0, 30.0), gradient((240.0, 50.0), (285.0, 95.0), 0xFFF1C9, 0xD9B36C));
    for (reach, width, colour) in [(430.0, 34.0, 0xE8452F), (404.0, 24.0, 0xF98B2B), (376.0, 13.0, 0xFFE08A)] {
        let flame = polygon(&[(160.0 - width, 318.0), (160.0 + width, 318.0), (160.0, reach)]);
        s.glow(flame, rgb(colour), 9.0, 0.95);
    }
    for side in [-1.0, 1.0] {
        let fin = polygon(&[(160.0 + side * 44.0, 226.0), (160.0 + side * 98.0, 318.0), (160.0 + side * 36.0, 304.0)]);
        s.add(fin, gradient((60.0, 230.0), (260.0, 320.0), 0xF26B5B, 0xA82A2A));
    }
    s.add(slab(128.0, 296.0, 192.0, 324.0, 6.0), rounded_body(128.0, 192.0, 0x9AA5B1, 0x5D6873, 0x2F3740));
    let hull = || both(ellipse(160.0, 206.0, 62.0, 170.0), slab(60.0, 30.0, 260.0, 306.0, 0.0));
    s.add(hull(), rounded_body(98.0, 222.0, 0xFFFFFF, 0xE9ECEF, 0x8B95A3));
    s.add(both(hull(), slab(60.0, 20.0, 260.0, 104.0, 0.0)), rounded_body(98.0, 222.0, 0xFF9C8A, 0xE0452F, 0x8E2018));
    s.add(both(hull(), slab(60.0, 262.0, 260.0, 280.0, 0.0)), rounded_body(98.0, 222.0, 0xFF9C8A, 0xE0452F, 0x8E2018));
    s.add(circle(160.0, 168.0, 30.0), gradient((140.0, 140.0), (185.0, 200.0), 0xB8C1CC, 0x6A7683));
    s.add(circle(160.0, 168.0, 22.0), gradient((148.0, 150.0), (176.0, 190.0), 0x9FE3F5, 0x256E9C));
    s.glow(ellipse(152.0, 159.0, 8.0, 5.0), [1.0; 3], 5.0, 0.8);
    s.add(stroke((160.0, 250.0), (160.0, 316.0), 9.0), gradient((151.0, 0.0), (169.0, 0.0), 0xF26B5B, 0x8E2018));
    s.render()
}
