//! Identities: a subject's kind, colours, pattern and proportions. All are derived from one number.

use crate::{colour::Colour, random::Draw, shape::Point, split::HELD_OUT_IDENTITIES};

/// Number of the random stream that an identity's appearance is drawn from.
const STREAM: u64 = 1;

/// The kind of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Kind {
    Mug,
    Robot,
    Fish,
    Teapot,
    Backpack,
    Rocket,
    Cactus,
    Car,
    Bird,
    Lamp,
    Boat,
    Cat,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Self; 12] = [
        Self::Mug,
        Self::Robot,
        Self::Fish,
        Self::Teapot,
        Self::Backpack,
        Self::Rocket,
        Self::Cactus,
        Self::Car,
        Self::Bird,
        Self::Lamp,
        Self::Boat,
        Self::Cat,
    ];

    /// Its index in [`Kind::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Whether subjects of this kind have room for an emblem.
    pub fn bears_emblems(self) -> bool {
        !matches!(self, Self::Cactus | Self::Bird | Self::Boat | Self::Cat)
    }

    /// The name in captions.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mug => "mug",
            Self::Robot => "robot",
            Self::Fish => "fish",
            Self::Teapot => "teapot",
            Self::Backpack => "backpack",
            Self::Rocket => "rocket",
            Self::Cactus => "cactus",
            Self::Car => "car",
            Self::Bird => "bird",
            Self::Lamp => "lamp",
            Self::Boat => "boat",
            Self::Cat => "cat",
        }
    }
}

/// The pattern in the second colour on a subject's largest part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Pattern {
    Plain,
    Stripes,
    Bars,
    Diagonals,
    Dots,
    Checks,
    Band,
    Halves,
}

impl Pattern {
    /// All patterns.
    pub const ALL: [Self; 8] =
        [Self::Plain, Self::Stripes, Self::Bars, Self::Diagonals, Self::Dots, Self::Checks, Self::Band, Self::Halves];

    /// Its index in [`Pattern::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// An emblem on the subject's largest part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Emblem {
    None,
    Disc,
    Star,
    Heart,
    Square,
}

impl Emblem {
    /// All emblems.
    pub const ALL: [Self; 5] = [Self::None, Self::Disc, Self::Star, Self::Heart, Self::Square];

    /// Its index in [`Emblem::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }
}

/// The appearance of one subject.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// The number from which all fields are derived.
    pub number: u64,
    /// Its kind.
    pub kind: Kind,
    /// Colours: of the largest part, of the pattern and secondary parts, and of small parts.
    pub palette: [Colour; 3],
    /// The pattern of the largest part.
    pub pattern: Pattern,
    /// The emblem on the largest part.
    pub emblem: Emblem,
    /// Factor on the kind's ratio of width to height.
    pub stretch: f32,
    /// Proportions of single parts, each 0 to 1; their meaning depends on the kind.
    pub traits: [f32; 4],
    /// Number of repeats of the pattern across the subject.
    pub repeats: f32,
}

impl Identity {
    /// Creates the subject of this number. The kind is the number modulo the number of kinds, so all kinds are equally
    /// frequent in any range.
    pub fn new(number: u64) -> Self {
        let kind = Kind::ALL[(number % Kind::ALL.len() as u64) as usize];
        let mut draw = Draw::new(number, STREAM);
        let palette = palette(&mut draw);
        let pattern = *draw.pick(&Pattern::ALL);
        // A sign on a busy pattern would not be visible.
        let calm = matches!(pattern, Pattern::Plain | Pattern::Band | Pattern::Halves);
        let drawn = if calm || draw.chance(0.2) { *draw.pick(&Emblem::ALL) } else { Emblem::None };
        let emblem = if kind.bears_emblems() { drawn } else { Emblem::None };
        Self {
            number,
            kind,
            palette,
            pattern,
            emblem,
            stretch: draw.between(0.86, 1.14),
            traits: [draw.unit(), draw.unit(), draw.unit(), draw.unit()],
            repeats: draw.between(2.2, 4.2),
        }
    }

    /// Whether it is held out of training.
    pub fn is_held_out(&self) -> bool {
        HELD_OUT_IDENTITIES.contains(&self.number)
    }

    /// Returns the colour of the decorated part at a point, before shading. `width` is a pixel's width in the
    /// drawing's units.
    pub(crate) fn skin(&self, point: Point, width: f32) -> Colour {
        let [main, second, _] = self.palette;
        main.mix(second, self.pattern_share(point, width))
    }

    /// Returns the share of the second colour in the pattern at a point, 0 to 1.
    fn pattern_share(&self, (x, y): Point, width: f32) -> f32 {
        let (x, y) = (x * self.stretch, y);
        let period = 2.0 / self.repeats;
        let soft = |distance: f32| (0.5 - distance / width).clamp(0.0, 1.0);
        // Signed distance to the second half of each period, negative inside it.
        let wave = |at: f32| {
            let phase = at / period + 0.25;
            ((phase - phase.floor() - 0.5).abs() - 0.25) * period
        };
        match self.pattern {
            Pattern::Plain => 0.0,
            Pattern::Stripes => soft(wave(y)),
            Pattern::Bars => soft(wave(x)),
            Pattern::Diagonals => soft(wave((x + y) * std::f32::consts::FRAC_1_SQRT_2)),
            Pattern::Dots => {
                let cell = |at: f32| {
                    let phase = at / period * 1.3;
                    (phase - phase.floor() - 0.5) * period / 1.3
                };
                let (dx, dy) = (cell(x), cell(y));
                soft((dx * dx + dy * dy).sqrt() - 0.3 * period)
            }
            Pattern::Checks => {
                let (a, b) = (soft(wave(x)), soft(wave(y)));
                a + b - 2.0 * a * b
            }
            Pattern::Band => soft((y - 0.25).abs() - 0.5 / self.repeats),
            Pattern::Halves => soft(0.1 - y),
        }
    }
}

/// Three colours that are easily distinguished.
fn palette(draw: &mut Draw) -> [Colour; 3] {
    let hue = draw.unit();
    let main = match draw.below(10) {
        0 => Colour::hsv(hue, draw.between(0.0, 0.1), draw.between(0.88, 1.0)),
        1 => Colour::hsv(hue, draw.between(0.0, 0.3), draw.between(0.22, 0.36)),
        2 | 3 => Colour::hsv(hue, draw.between(0.3, 0.5), draw.between(0.85, 1.0)),
        _ => Colour::hsv(hue, draw.between(0.7, 0.95), draw.between(0.65, 0.98)),
    };
    let far = hue + draw.between(0.28, 0.72);
    let second = match draw.below(4) {
        0 if main.luminance() < 0.7 => Colour::hsv(far, draw.between(0.0, 0.15), draw.between(0.9, 1.0)),
        1 if main.luminance() > 0.5 => Colour::hsv(far, draw.between(0.2, 0.6), draw.between(0.22, 0.38)),
        _ => Colour::hsv(far, draw.between(0.65, 0.95), if main.luminance() > 0.5 { 0.62 } else { 0.98 }),
    };
    let accent = Colour::hsv(hue + draw.between(0.1, 0.9), draw.between(0.6, 0.95), draw.between(0.75, 1.0));
    [main, second, accent]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Picture, Scene, View};

    #[test]
    fn a_number_is_one_subject_and_another_number_another() {
        assert_eq!(Identity::new(77), Identity::new(77));
        let (a, b) = (Identity::new(77), Identity::new(77 + 12));
        assert_eq!(a.kind, b.kind);
        assert_ne!(a, b);
    }

    #[test]
    fn main_and_second_colour_differ_enough_to_be_seen() {
        for number in 0..3_000 {
            let [main, second, _] = Identity::new(number).palette;
            let difference: f32 = main.0.iter().zip(second.0).map(|(a, b)| (a - b).abs()).sum();
            assert!(difference > 0.3, "{number}: {main:?} {second:?}");
        }
    }

    #[test]
    fn an_emblem_is_seen_on_every_kind_that_bears_any() {
        let view = View::new(4, Scene::Moon);
        for number in 0..24 {
            let of = |emblem| Identity { emblem, ..Identity::new(number) };
            let [plain, star] =
                [Emblem::None, Emblem::Star].map(|emblem| Picture::alone(&of(emblem), &view, 64).pixels);
            assert_eq!(plain != star, of(Emblem::None).kind.bears_emblems(), "{number}");
        }
    }

    #[test]
    fn patterns_have_both_colours() {
        for number in 0..400 {
            let identity = Identity::new(number);
            let shares: Vec<f32> = (0..400)
                .map(|step| ((step % 20) as f32 / 14.0 - 0.7, (step / 20) as f32 / 14.0 - 0.7))
                .map(|point| identity.pattern_share(point, 0.02))
                .collect();
            let mean = shares.iter().sum::<f32>() / shares.len() as f32;
            let expected = if identity.pattern == Pattern::Plain { 0.0..=0.0 } else { 0.05..=0.95 };
            assert!(expected.contains(&mean), "{:?}: {mean}", identity.pattern);
        }
    }
}
