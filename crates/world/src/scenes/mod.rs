//! Scenes, their light, and how they are painted.

mod indoors;
mod land;
mod strange;

use crate::{
    canvas::{Canvas, Frame},
    colour::Colour,
    random::Draw,
    shape::{Shape, area, block, disc, ellipse},
};

/// A scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Scene {
    Beach,
    SnowyMountain,
    CityStreet,
    Forest,
    Desert,
    LivingRoom,
    Kitchen,
    Moon,
    Underwater,
    Meadow,
    Stage,
    Library,
}

/// The time of day, which tints all colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "each says what it is")]
pub enum Light {
    Day,
    Sunset,
    Night,
}

impl Light {
    /// All lights.
    pub const ALL: [Self; 3] = [Self::Day, Self::Sunset, Self::Night];

    /// Its index in [`Light::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// Returns the factor on colours of the scene.
    fn tint(self) -> Colour {
        match self {
            Self::Day => Colour::WHITE,
            Self::Sunset => Colour([1.0, 0.80, 0.66]),
            Self::Night => Colour([0.42, 0.50, 0.80]),
        }
    }

    /// Returns the factor on colours of the subject. It is weaker than the scene's, so the subject's colours stay
    /// recognisable.
    pub(crate) fn subject_tint(self) -> Colour {
        Colour::WHITE.mix(self.tint(), 0.4)
    }
}

impl Scene {
    /// All scenes.
    pub const ALL: [Self; 12] = [
        Self::Beach,
        Self::SnowyMountain,
        Self::CityStreet,
        Self::Forest,
        Self::Desert,
        Self::LivingRoom,
        Self::Kitchen,
        Self::Moon,
        Self::Underwater,
        Self::Meadow,
        Self::Stage,
        Self::Library,
    ];

    /// Its index in [`Scene::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The word that its captions always contain.
    pub fn name(self) -> &'static str {
        match self {
            Self::Beach => "beach",
            Self::SnowyMountain => "snowy mountain",
            Self::CityStreet => "city street",
            Self::Forest => "forest",
            Self::Desert => "desert",
            Self::LivingRoom => "living room",
            Self::Kitchen => "kitchen",
            Self::Moon => "moon",
            Self::Underwater => "underwater",
            Self::Meadow => "meadow",
            Self::Stage => "stage",
            Self::Library => "library",
        }
    }

    /// The lights it is seen in. Space has no times of day, and indoor scenes have day and night only.
    pub fn lights(self) -> &'static [Light] {
        match self {
            Self::Moon | Self::Stage => &[Light::Day],
            Self::LivingRoom | Self::Kitchen | Self::Library | Self::Underwater => &[Light::Day, Light::Night],
            _ => &Light::ALL,
        }
    }

    /// Whether subjects float in the scene and cast no shadow on the ground.
    pub(crate) fn floats(self) -> bool {
        self == Self::Underwater
    }

    /// Paints it; random numbers come from `draw`.
    pub(crate) fn paint(self, canvas: &mut Canvas, light: Light, draw: Draw) {
        let mut painter = Painter { canvas, draw, light, tint: light.tint() };
        match self {
            Self::Beach => land::beach(&mut painter),
            Self::SnowyMountain => land::snowy_mountain(&mut painter),
            Self::CityStreet => land::city_street(&mut painter),
            Self::Forest => land::forest(&mut painter),
            Self::Desert => land::desert(&mut painter),
            Self::Meadow => land::meadow(&mut painter),
            Self::LivingRoom => indoors::living_room(&mut painter),
            Self::Kitchen => indoors::kitchen(&mut painter),
            Self::Library => indoors::library(&mut painter),
            Self::Stage => indoors::stage(&mut painter),
            Self::Moon => strange::moon(&mut painter),
            Self::Underwater => strange::underwater(&mut painter),
        }
    }
}

/// A canvas, its light, and random numbers.
struct Painter<'a> {
    canvas: &'a mut Canvas,
    draw: Draw,
    light: Light,
    tint: Colour,
}

impl Painter<'_> {
    /// A lit surface.
    fn fill(&mut self, shape: Shape, colour: Colour) {
        let colour = colour.times(self.tint);
        self.glow(shape, 1.0, colour);
    }

    /// A light source.
    fn glow(&mut self, shape: Shape, opacity: f32, colour: Colour) {
        self.canvas.fill(&Frame::WHOLE, &shape, 0.0, opacity, |_, _| colour);
    }

    /// Fills a shape with a vertical gradient.
    fn fade(&mut self, shape: Shape, top: Colour, bottom: Colour) {
        let (top, bottom) = (top.times(self.tint), bottom.times(self.tint));
        self.glow_fade(shape, top, bottom);
    }

    fn glow_fade(&mut self, shape: Shape, top: Colour, bottom: Colour) {
        let [_, from, _, to] = shape.bounds();
        self.canvas.fill(&Frame::WHOLE, &shape, 0.0, 1.0, |(_, y), _| {
            top.mix(bottom, ((y - from) / (to - from)).clamp(0.0, 1.0))
        });
    }

    /// Paints the sky from the top down to `horizon`, with the details of the time of day.
    fn sky(&mut self, horizon: f32) {
        let whole = area(0.0, 0.0, 1.0, horizon + 0.02);
        match self.light {
            Light::Day => {
                self.glow_fade(whole, Colour::hex(0x4A_A3_EC), Colour::hex(0xBF_E4_FA));
                let x = self.draw.between(0.1, 0.9);
                self.glow(disc(x, 0.12, 0.075), 1.0, Colour::hex(0xFF_EE_88));
                self.clouds(horizon, Colour::WHITE);
            }
            Light::Sunset => {
                self.glow_fade(whole, Colour::hex(0x7A_4A_A0), Colour::hex(0xFF_A2_4E));
                let x = self.draw.between(0.15, 0.85);
                self.glow(disc(x, horizon - 0.07, 0.17), 0.35, Colour::hex(0xFF_D0_60));
                self.glow(disc(x, horizon - 0.07, 0.11), 1.0, Colour::hex(0xFF_E0_70));
                self.clouds(horizon, Colour::hex(0xF0_8A_90));
            }
            Light::Night => {
                self.glow_fade(whole, Colour::hex(0x0B_10_34), Colour::hex(0x2A_3A_78));
                self.stars(18, horizon);
                let x = self.draw.between(0.12, 0.88);
                self.glow(disc(x, 0.14, 0.085), 1.0, Colour::hex(0xF4_F0_D8));
                self.glow(disc(x + 0.035, 0.12, 0.07), 1.0, Colour::hex(0x10_17_40));
            }
        }
    }

    fn clouds(&mut self, horizon: f32, colour: Colour) {
        for _ in 0..1 + self.draw.below(3) {
            let (x, y) = (self.draw.unit(), self.draw.between(0.08, (horizon * 0.6).max(0.1)));
            let size = self.draw.between(0.06, 0.1);
            self.glow(ellipse(x, y, size * 1.6, size * 0.45), 0.8, colour);
            self.glow(disc(x - size * 0.4, y - size * 0.3, size * 0.5), 0.8, colour);
            self.glow(disc(x + size * 0.4, y - size * 0.2, size * 0.42), 0.8, colour);
        }
    }

    fn stars(&mut self, count: usize, horizon: f32) {
        for _ in 0..count {
            let (x, y) = (self.draw.unit(), self.draw.unit() * horizon);
            let radius = self.draw.between(0.005, 0.011);
            self.glow(disc(x, y, radius), 0.9, Colour::WHITE);
        }
    }

    /// Paints a window in a wall that shows the time of day.
    fn window(&mut self, x: f32, y: f32, half: f32) {
        let (top, bottom) = match self.light {
            Light::Night => (Colour::hex(0x0E_14_3C), Colour::hex(0x24_32_6A)),
            _ => (Colour::hex(0x7C_C4_F6), Colour::hex(0xD4_EE_FB)),
        };
        self.fill(block(x, y, half + 0.02, half * 1.1 + 0.02, 0.01), Colour::WHITE);
        self.glow_fade(block(x, y, half, half * 1.1, 0.0), top, bottom);
        self.fill(block(x, y, 0.008, half * 1.1, 0.0), Colour::WHITE);
        self.fill(block(x, y, half, 0.008, 0.0), Colour::WHITE);
    }
}
