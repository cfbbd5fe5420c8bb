//! Scenes without air: under water and in space.

use super::{Light, Painter};
use crate::{
    colour::Colour,
    shape::{area, disc, ellipse, line, polygon, ring},
};

pub(super) fn moon(p: &mut Painter) {
    p.glow_fade(area(0.0, 0.0, 1.0, 1.0), Colour::hex(0x04_04_0C), Colour::hex(0x12_12_24));
    p.stars(26, 0.7);
    let (x, y, radius) = (p.draw.between(0.15, 0.85), p.draw.between(0.12, 0.26), p.draw.between(0.09, 0.13));
    p.glow(disc(x, y, radius), 1.0, Colour::hex(0x2E_7C_D8));
    let land = |dx: f32, dy: f32, w: f32, h: f32| {
        ellipse(x + dx * radius, y + dy * radius, w * radius, h * radius).and(disc(x, y, radius))
    };
    p.glow(land(-0.4, -0.2, 0.5, 0.4), 1.0, Colour::hex(0x4C_B0_60));
    p.glow(land(0.5, 0.4, 0.45, 0.35), 1.0, Colour::hex(0x4C_B0_60));
    p.glow(land(0.1, -0.85, 0.6, 0.2), 1.0, Colour::WHITE);
    p.fade(ellipse(0.5, 1.2, 1.15, 0.6), Colour::hex(0xC2_C2_CA), Colour::hex(0x8A_8A_96));
    for _ in 0..6 {
        let (x, y) = (p.draw.unit(), p.draw.between(0.7, 0.97));
        let size = p.draw.between(0.03, 0.07);
        p.fill(ellipse(x, y, size, size * 0.45), Colour::hex(0x86_86_90));
        p.fill(ellipse(x, y + size * 0.12, size * 0.8, size * 0.3), Colour::hex(0x9E_9E_A8));
    }
}

pub(super) fn underwater(p: &mut Painter) {
    let (top, bottom) = match p.light {
        Light::Night => (Colour::hex(0x10_3A_70), Colour::hex(0x06_12_34)),
        _ => (Colour::hex(0x4A_CC_E0), Colour::hex(0x0E_56_A0)),
    };
    p.glow_fade(area(0.0, 0.0, 1.0, 1.0), top, bottom);
    for _ in 0..3 {
        let (x, lean) = (p.draw.unit(), p.draw.between(-0.2, 0.2));
        p.glow(
            polygon(&[(x - 0.04, 0.0), (x + 0.04, 0.0), (x + lean + 0.1, 0.9), (x + lean - 0.1, 0.9)]),
            0.12,
            Colour::WHITE,
        );
    }
    p.fade(ellipse(0.5, 1.1, 0.9, 0.24), Colour::hex(0xD8_C8_8C), Colour::hex(0x00A8_9464));
    let corals = [0xF2_6A_7A, 0xF8_9A_4A, 0xC8_6A_D8].map(Colour::hex);
    for _ in 0..2 {
        let x = p.draw.unit();
        let coral = *p.draw.pick(&corals);
        for (dx, dy) in [(-0.06, -0.1), (0.0, -0.16), (0.06, -0.11)] {
            p.fill(line((x, 0.94), (x + dx, 0.94 + dy), 0.02), coral);
        }
    }
    for _ in 0..3 {
        let (x, height) = (p.draw.unit(), p.draw.between(0.2, 0.36));
        let sway = p.draw.between(-0.05, 0.05);
        p.fill(line((x, 0.98), (x + sway, 0.98 - height / 2.0), 0.018), Colour::hex(0x2A_A0_60));
        p.fill(line((x + sway, 0.98 - height / 2.0), (x, 0.98 - height), 0.015), Colour::hex(0x3C_B8_70));
    }
    for _ in 0..7 {
        let (x, y, radius) = (p.draw.unit(), p.draw.between(0.05, 0.8), p.draw.between(0.012, 0.026));
        p.glow(ring(x, y, radius, 0.009), 0.8, Colour::hex(0xDC_F6_FF));
    }
}
