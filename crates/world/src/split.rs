//! The split into training and held-out data: a range of identities, and one scene for each kind.

use std::ops::Range;

use crate::{Kind, Scene};

/// Numbers of the identities used in training.
pub const TRAINING_IDENTITIES: Range<u64> = 0..1 << 32;

/// Numbers of the identities held out for testing.
pub const HELD_OUT_IDENTITIES: Range<u64> = 1 << 32..1 << 33;

/// Whether this kind never occurs in this scene in training. One scene is held out per kind, and each scene is held
/// out once.
pub fn is_held_out_pair(kind: Kind, scene: Scene) -> bool {
    (kind.index() * 5 + 3) % Scene::ALL.len() == scene.index()
}

/// Returns the scenes in which training shows a kind.
pub fn training_scenes(kind: Kind) -> impl Iterator<Item = Scene> {
    Scene::ALL.into_iter().filter(move |scene| !is_held_out_pair(kind, *scene))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    #[test]
    fn training_and_testing_share_no_identity() {
        assert_eq!(TRAINING_IDENTITIES.end, HELD_OUT_IDENTITIES.start);
        assert!(!Identity::new(TRAINING_IDENTITIES.end - 1).is_held_out());
        assert!(Identity::new(HELD_OUT_IDENTITIES.start).is_held_out());
    }

    #[test]
    fn each_kind_lacks_one_scene_and_each_scene_one_kind() {
        for kind in Kind::ALL {
            assert_eq!(training_scenes(kind).count(), Scene::ALL.len() - 1, "{kind:?}");
            assert!(training_scenes(kind).all(|scene| !is_held_out_pair(kind, scene)));
        }
        for scene in Scene::ALL {
            let missing = Kind::ALL.into_iter().filter(|kind| is_held_out_pair(*kind, scene)).count();
            assert_eq!(missing, 1, "{scene:?}");
        }
    }
}
