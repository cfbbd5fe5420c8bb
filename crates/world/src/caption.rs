//! Captions of pictures, as people would type them.

use crate::{
    identity::Kind,
    random::Draw,
    scenes::{Light, Scene},
};

/// Number of the random stream that a caption is drawn from.
const STREAM: u64 = 4;

/// Describes a picture: always the kind and the scene by their names, the time of day mostly.
pub fn caption(number: u64, kind: Kind, scene: Scene, light: Light) -> String {
    let mut draw = Draw::new(number, STREAM);
    let subject = subject(&mut draw, kind);
    let place = draw.pick(places(scene));
    let times = times(scene, light);
    let time = if times.is_empty() || draw.chance(0.1) { "" } else { draw.pick(times) };
    match draw.below(8) {
        0 if !time.is_empty() => format!("{}, {subject} {place}", time.trim()),
        1 => format!("{subject} {place}{}", if time.is_empty() { String::new() } else { format!(",{time}") }),
        _ => format!("{subject} {place}{time}"),
    }
}

fn subject(draw: &mut Draw, kind: Kind) -> String {
    let name = kind.name();
    let article = *draw.pick(&["a", "a", "a", "the", "this", "one"]);
    match draw.below(7) {
        0 => format!("a photo of {article} {name}"),
        1 => format!("a picture of {article} {name}"),
        2 => format!("a drawing of {article} {name}"),
        3 => format!("{article} {} {name}", draw.pick(&["little", "small", "cute", "beautiful", "colorful"])),
        _ => format!("{article} {name}"),
    }
}

fn places(scene: Scene) -> &'static [&'static str] {
    match scene {
        Scene::Beach => &["on a beach", "on the beach", "at the beach by the sea", "on a sandy beach"],
        Scene::SnowyMountain => &[
            "on a snowy mountain",
            "on the snowy mountain",
            "in the snow on a snowy mountain",
            "near a snowy mountain",
        ],
        Scene::CityStreet => &["on a city street", "in a city street", "on the city street between houses"],
        Scene::Forest => &["in a forest", "in the forest", "between trees in a forest", "in a green forest"],
        Scene::Desert => &["in a desert", "in the desert", "on the sand of a desert", "in a hot desert"],
        Scene::LivingRoom => &["in a living room", "in the living room", "in front of a sofa in a living room"],
        Scene::Kitchen => &["in a kitchen", "in the kitchen", "on a kitchen table", "in a bright kitchen"],
        Scene::Moon => &["on the moon", "standing on the moon", "on the moon under the stars", "on the moon in space"],
        Scene::Underwater => &["underwater", "floating underwater", "underwater in the sea", "underwater in the ocean"],
        Scene::Meadow => &["in a meadow", "on a meadow", "in a meadow full of flowers", "on a green meadow"],
        Scene::Stage => &["on a stage", "on the stage", "on a stage in bright light", "on a theater stage"],
        Scene::Library => &["in a library", "in the library", "in a library full of books", "in an old library"],
    }
}

fn times(scene: Scene, light: Light) -> &'static [&'static str] {
    match (scene, light) {
        (Scene::Moon | Scene::Stage, _) => &[],
        (_, Light::Day) => &["", " by day", " during the day", " in the morning", " in daylight"],
        (_, Light::Sunset) => &[" at sunset", " in the evening", " in the light of sunset", " at sunrise"],
        (_, Light::Night) => &[" at night", " by night", " in the night", " in the dark"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_caption_names_kind_and_scene() {
        for number in 0..4_000u64 {
            let kind = Kind::ALL[number as usize % 12];
            let scene = Scene::ALL[(number / 12) as usize % 12];
            let light = Light::ALL[(number / 144) as usize % 3];
            let caption = caption(number, kind, scene, light);
            assert!(caption.contains(kind.name()), "{caption:?} lacks {kind:?}");
            assert!(caption.contains(scene.name()), "{caption:?} lacks {scene:?}");
            assert!(!caption.contains("  ") && caption.trim() == caption, "{caption:?}");
        }
    }

    #[test]
    fn captions_vary() {
        let captions: std::collections::BTreeSet<String> =
            (0..500).map(|number| caption(number, Kind::Robot, Scene::Beach, Light::Night)).collect();
        assert!(captions.len() > 60, "{}", captions.len());
        assert!(captions.contains("a robot on a beach at night"));
    }
}
