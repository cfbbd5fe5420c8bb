//! Rendering of a subject in a view.

use crate::{
    canvas::{Canvas, Frame},
    colour::Colour,
    identity::Identity,
    kinds,
    random::Draw,
    shape::ellipse,
    view::View,
};

/// Number of the random stream that the scene's details are drawn from.
const SCENE_STREAM: u64 = 5;

/// The subject's box in pixels; `right` and `bottom` are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub struct Bounds {
    pub left: usize,
    pub top: usize,
    pub right: usize,
    pub bottom: usize,
}

/// A square picture: RGB, 8 bits per channel, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Side in pixels.
    pub size: usize,
    /// Three bytes per pixel.
    pub pixels: Vec<u8>,
    /// The subject's box.
    pub bounds: Bounds,
}

impl Picture {
    /// Renders the subject in the view.
    pub fn render(identity: &Identity, view: &View, size: usize) -> Self {
        Self::from_canvas(&paint(identity, view, size), size)
    }

    /// Renders the subject in the view's pose, on a white background and without tint.
    pub fn alone(identity: &Identity, view: &View, size: usize) -> Self {
        let mut canvas = Canvas::new(size, Colour::WHITE);
        kinds::paint(&mut canvas, &frame(identity, view), identity, Colour::WHITE);
        Self::from_canvas(&canvas, size)
    }

    /// Returns the picture with everything outside the subject's box white, as the segmenter's cut-out.
    pub fn cutout(&self) -> Self {
        let Bounds { left, top, right, bottom } = self.bounds;
        let mut cutout = self.clone();
        for (index, pixel) in cutout.pixels.chunks_exact_mut(3).enumerate() {
            let (x, y) = (index % self.size, index / self.size);
            if !(left..right).contains(&x) || !(top..bottom).contains(&y) {
                pixel.fill(255);
            }
        }
        cutout
    }

    fn from_canvas(canvas: &Canvas, size: usize) -> Self {
        let [left, top, right, bottom] = canvas.subject_bounds().unwrap_or([0, 0, size, size]);
        Self { size, pixels: canvas.bytes(), bounds: Bounds { left, top, right, bottom } }
    }
}

fn frame(identity: &Identity, view: &View) -> Frame {
    Frame::new(view.centre, view.scale / 2.0, view.tilt, identity.stretch, view.mirrored)
}

fn paint(identity: &Identity, view: &View, size: usize) -> Canvas {
    let mut canvas = Canvas::new(size, Colour::WHITE);
    view.scene.paint(&mut canvas, view.light, Draw::new(view.number, SCENE_STREAM));
    if !view.scene.floats() {
        let foot = view.centre.1 + view.scale * 0.47;
        let shadow = ellipse(view.centre.0, foot, view.scale * 0.42, view.scale * 0.09);
        canvas.fill(&Frame::WHOLE, &shadow, 0.0, 0.35, |_, _| Colour::INK);
    }
    kinds::paint(&mut canvas, &frame(identity, view), identity, view.light.subject_tint());
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, Scene};

    #[test]
    fn boxes_are_tight_around_the_subject() {
        for number in 0..240u64 {
            let identity = Identity::new(number);
            let view = View::new(number, Scene::ALL[(number / 12) as usize % 12]);
            let size = 64;
            let canvas = paint(&identity, &view, size);
            let Bounds { left, top, right, bottom } = Picture::render(&identity, &view, size).bounds;
            let covered = |x: usize, y: usize| canvas.mask()[y * size + x] >= 0.5;
            let column = |x: usize| (0..size).any(|y| covered(x, y));
            let row = |y: usize| (0..size).any(|x| covered(x, y));
            assert!(column(left) && column(right - 1) && row(top) && row(bottom - 1), "{number}: an edge is empty");
            let outside = |x: &usize| !(left..right).contains(x);
            assert!((0..size).filter(outside).all(|x| !column(x)), "{number}: something lies beside the box");
            assert!((0..size).filter(|y| !(top..bottom).contains(y)).all(|y| !row(y)), "{number}: above or below");
        }
    }

    #[test]
    fn subjects_are_large_and_mostly_in_the_picture() {
        for number in 0..1_200u64 {
            let identity = Identity::new(number);
            let view = View::for_training(number, identity.kind);
            let Bounds { left, top, right, bottom } = Picture::render(&identity, &view, 64).bounds;
            let (width, height) = (right - left, bottom - top);
            assert!(width.max(height) >= 24 && width.min(height) >= 12, "{:?}: {width} x {height}", identity.kind);
        }
    }

    #[test]
    fn a_cutout_is_the_box_on_white() {
        let identity = Identity::new(5);
        let picture = Picture::render(&identity, &View::new(9, Scene::Forest), 64);
        let cutout = picture.cutout();
        let Bounds { left, top, right, bottom } = picture.bounds;
        for index in 0..64 * 64 {
            let (x, y) = (index % 64, index / 64);
            let inside = (left..right).contains(&x) && (top..bottom).contains(&y);
            let expected = if inside { &picture.pixels[3 * index..3 * index + 3] } else { &[255, 255, 255][..] };
            assert_eq!(&cutout.pixels[3 * index..3 * index + 3], expected);
        }
    }

    #[test]
    fn the_identity_is_what_pictures_of_it_share() {
        // With one pose in two scenes, pixels inside the outline differ only by the tint and by anti-aliased edges.
        let identity = Identity::new(Kind::Mug.index() as u64);
        let view = View { scene: Scene::Moon, ..View::new(4, Scene::Stage) };
        let (one, other) = (paint(&identity, &view, 64), paint(&identity, &View::new(4, Scene::Stage), 64));
        let (a, b) = (one.bytes(), other.bytes());
        let inside: Vec<usize> = (0..64 * 64).filter(|index| one.mask()[*index] == 1.0).collect();
        assert!(inside.len() > 300);
        assert!(inside.iter().all(|index| a[3 * index..3 * index + 3] == b[3 * index..3 * index + 3]));
    }
}
