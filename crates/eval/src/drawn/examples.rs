//! The evaluation examples: held-out subjects, each with a scene and a caption.
//!
//! Every second example shows its kind in the scene that is held out for that kind.

use anyhow::{Context, Result};
use echogen_imaging::RgbImage;
use echogen_world::{Bounds, Emblem, Identity, Pattern, Picture, Scene, View, caption, split};

/// Number of subjects in the retrieval gallery.
pub(crate) const GALLERY: usize = 50;

/// One example: a subject with a reference and a target picture.
pub(crate) struct Example {
    identity: Identity,
    reference_view: View,
    view: View,
    /// The caption of the target.
    pub(crate) caption: String,
    /// Whether training never showed this kind in this scene.
    pub(crate) is_new_pair: bool,
}

impl Example {
    /// Creates the example of this number.
    pub(crate) fn new(number: usize) -> Self {
        let identity = Identity::new(split::HELD_OUT_IDENTITIES.start + number as u64);
        let held_out = Scene::ALL.into_iter().find(|scene| split::is_held_out_pair(identity.kind, *scene));
        // The kinds repeat every twelve numbers, so scenes must repeat with another period.
        let any = Scene::ALL[(number * 7 + number / 12) % Scene::ALL.len()];
        let scene = held_out.filter(|_| number.is_multiple_of(2)).unwrap_or(any);
        let first = 2 * identity.number;
        let reference_scene = Scene::ALL[(number * 5 + number / 12 + 1) % Scene::ALL.len()];
        let view = View::new(first + 1, scene);
        Self {
            caption: caption(view.number, identity.kind, scene, view.light),
            is_new_pair: held_out == Some(scene),
            reference_view: View::new(first, reference_scene),
            identity,
            view,
        }
    }

    /// Returns the reference: the subject cut out of a picture by its box, or alone on white.
    pub(crate) fn reference(&self, side: usize) -> Result<RgbImage> {
        let picture = match self.identity.number % 2 {
            0 => Picture::render(&self.identity, &self.reference_view, side).cutout(),
            _ => Picture::alone(&self.identity, &self.reference_view, side),
        };
        image_of(picture)
    }

    /// Returns the target rendered by the drawn world, and the subject's box.
    pub(crate) fn target(&self, side: usize) -> Result<(RgbImage, Bounds)> {
        let picture = Picture::render(&self.identity, &self.view, side);
        let bounds = picture.bounds;
        Ok((image_of(picture)?, bounds))
    }

    /// Index of the kind.
    pub(crate) fn kind(&self) -> usize {
        self.identity.kind.index()
    }

    /// Name of the kind.
    pub(crate) fn name(&self) -> &'static str {
        self.identity.kind.name()
    }

    /// Index of the emblem; `None` without one.
    pub(crate) fn emblem(&self) -> Option<usize> {
        (self.identity.emblem != Emblem::None).then(|| self.identity.emblem.index())
    }

    /// Index of the pattern; `None` without one.
    pub(crate) fn pattern(&self) -> Option<usize> {
        (self.identity.pattern != Pattern::Plain).then(|| self.identity.pattern.index())
    }

    /// Index of the scene.
    pub(crate) fn scene(&self) -> usize {
        self.view.scene.index()
    }
}

fn image_of(picture: Picture) -> Result<RgbImage> {
    let side = picture.size as u32;
    RgbImage::from_raw(side, side, picture.pixels).context("a picture of the world has not its size")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn half_of_the_pairs_are_new_and_all_kinds_and_scenes_come() {
        let examples: Vec<Example> = (0..200).map(Example::new).collect();
        let new = examples.iter().filter(|example| example.is_new_pair).count();
        assert!((100..130).contains(&new), "{new}");
        let pairs: BTreeSet<_> = examples.iter().map(|example| (example.kind(), example.scene())).collect();
        assert!(pairs.len() > 60, "{}", pairs.len());
        for example in &examples {
            assert!(example.identity.is_held_out());
            assert!(example.caption.contains(example.name()), "{}", example.caption);
        }
    }

    #[test]
    fn references_and_targets_show_one_subject() {
        let example = Example::new(3);
        let (target, bounds) = example.target(64).unwrap();
        assert_eq!(target.dimensions(), (64, 64));
        assert!(bounds.right <= 64 && bounds.left < bounds.right);
        assert_eq!(*example.reference(32).unwrap().get_pixel(0, 0), [255; 3].into());
    }
}
