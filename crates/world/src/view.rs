//! Views: where, at what time of day, at which size and in which pose a subject is shown.

use crate::{
    identity::Kind,
    random::Draw,
    scenes::{Light, Scene},
    split::training_scenes,
};

/// Number of the random stream that a view is drawn from.
const STREAM: u64 = 2;

/// All properties of a picture except the subject.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// The seed of the random numbers, also of the scene's details.
    pub number: u64,
    /// The scene.
    pub scene: Scene,
    /// The time of day.
    pub light: Light,
    /// The subject's centre (x, y), relative to the picture's side, 0 to 1.
    pub centre: (f32, f32),
    /// The subject's size relative to the picture's side.
    pub scale: f32,
    /// Rotation to the right in radians.
    pub tilt: f32,
    /// Whether the subject is mirrored horizontally.
    pub mirrored: bool,
}

impl View {
    /// Creates a view in this scene. The same number in another scene gives the same pose.
    pub fn new(number: u64, scene: Scene) -> Self {
        let mut draw = Draw::new(number, STREAM);
        let light = *draw.pick(scene.lights());
        let scale = draw.between(0.50, 0.68);
        let leaning = if draw.chance(0.3) { 0.22 } else { 0.06 };
        let tilt = draw.between(-leaning, leaning);
        let x = draw.between(scale * 0.52, 1.0 - scale * 0.52);
        // Subjects stand in the lower part; nearer ones lower.
        let foot = draw.between(0.84, 0.90) + (scale - 0.5) * 0.3;
        let y = if scene.floats() { draw.between(0.36, 0.62) } else { foot - scale / 2.0 };
        Self { number, scene, light, centre: (x, y), scale, tilt, mirrored: draw.chance(0.5) }
    }

    /// Creates a view for training: in any scene that is not held out for this kind.
    pub fn for_training(number: u64, kind: Kind) -> Self {
        let scenes: Vec<Scene> = training_scenes(kind).collect();
        let scene = *Draw::new(number, STREAM + 1).pick(&scenes);
        Self::new(number, scene)
    }
}
