//! The same numbers must give the same bytes on every machine and in every version, because trained networks depend on
//! them.

use echogen_world::{Identity, Picture, Scene, View, caption, split};
use sha2::{Digest, Sha256};

/// Returns one checksum over pictures of every kind in every scene.
fn sum_of_pictures(size: usize) -> String {
    let mut hasher = Sha256::new();
    for number in 0..144u64 {
        let identity = Identity::new(number);
        let view = View::new(number, Scene::ALL[(number / 12) as usize]);
        let picture = Picture::render(&identity, &view, size);
        let Picture { bounds, .. } = picture;
        hasher.update(&picture.pixels);
        hasher.update(format!("{bounds:?}"));
        hasher.update(caption(number, identity.kind, view.scene, view.light));
    }
    hex::encode(hasher.finalize())
}

#[test]
fn pictures_have_their_known_sum() {
    assert_eq!(sum_of_pictures(64), "7b0de8e756eced0963a80b367f9596fc33f617765f28e1adf18330c830718d64");
}

#[test]
fn training_views_avoid_the_held_out_scene() {
    for number in 0..3_000u64 {
        let kind = Identity::new(number).kind;
        assert!(!split::is_held_out_pair(kind, View::for_training(number, kind).scene));
    }
}

#[test]
fn a_larger_picture_shows_the_same() {
    let (identity, view) = (Identity::new(13), View::new(2, Scene::Beach));
    let (small, large) = (Picture::render(&identity, &view, 64), Picture::render(&identity, &view, 256));
    let difference: usize = (0..64 * 64)
        .map(|index| {
            let (x, y) = (index % 64, index / 64);
            let shrunk: usize =
                (0..16).map(|step| usize::from(large.pixels[3 * ((4 * y + step / 4) * 256 + 4 * x + step % 4)])).sum();
            (shrunk / 16).abs_diff(usize::from(small.pixels[3 * index]))
        })
        .sum();
    assert!(difference < 6 * 64 * 64, "{difference}");
}
