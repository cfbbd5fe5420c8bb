//! Indoor scenes.

use super::{Light, Painter};
use crate::{
    colour::Colour,
    shape::{area, block, disc, ellipse, polygon},
};

/// Lightens the picture at night as electric light does.
fn lamplight(p: &mut Painter) {
    if p.light == Light::Night {
        p.tint = Colour([0.70, 0.58, 0.50]);
    }
}

pub(super) fn living_room(p: &mut Painter) {
    lamplight(p);
    let walls = [0xF2_DC_B8, 0xE8_C8_B0, 0xF0_E0_A8].map(Colour::hex);
    let wall = *p.draw.pick(&walls);
    p.fill(area(0.0, 0.0, 1.0, 0.72), wall);
    let window_left = p.draw.chance(0.5);
    let (a, b) = if window_left { (0.22, 0.76) } else { (0.78, 0.24) };
    p.window(a, 0.22, 0.12);
    p.fill(block(b, 0.2, 0.13, 0.1, 0.0), Colour::hex(0x7A_50_30));
    let art = [0xE8_6A_50, 0x4A_90_C0, 0x6A_B0_7A].map(Colour::hex);
    let (one, two) = (*p.draw.pick(&art), *p.draw.pick(&art));
    p.fade(block(b, 0.2, 0.11, 0.08, 0.0), one, two.mix(Colour::WHITE, 0.6));
    p.fade(area(0.0, 0.7, 1.0, 1.0), Colour::hex(0xB4_7C_4A), Colour::hex(0x96_62_36));
    let sofas = [0x3E_7C_8C, 0xA8_4A_4A, 0x5C_6A_A8, 0x6E_8C_50].map(Colour::hex);
    let sofa = *p.draw.pick(&sofas);
    let x = p.draw.between(0.42, 0.58);
    p.fill(block(x, 0.54, 0.4, 0.14, 0.06), sofa);
    p.fill(block(x, 0.68, 0.4, 0.09, 0.04), sofa.bright(1.2));
    for side in [-0.4, 0.4] {
        p.fill(block(x + side, 0.64, 0.07, 0.13, 0.05), sofa.bright(0.85));
    }
    let rug = *p.draw.pick(&art);
    p.fill(ellipse(0.5, 0.92, 0.44, 0.09), rug.mix(Colour::WHITE, 0.3));
    p.fill(ellipse(0.5, 0.92, 0.36, 0.065), rug.mix(Colour::WHITE, 0.55));
}

pub(super) fn kitchen(p: &mut Painter) {
    lamplight(p);
    let tiles = [0xD4_EE_EA, 0xE4_F0_F8, 0xD8_EC_D8].map(Colour::hex);
    let tile = *p.draw.pick(&tiles);
    p.fill(area(0.0, 0.0, 1.0, 0.8), tile.bright(0.84));
    for row in 0..7 {
        for column in 0..9 {
            let shift = if row % 2 == 0 { 0.0 } else { 0.06 };
            let (x, y) = (column as f32 * 0.12 + shift, 0.05 + row as f32 * 0.1);
            p.fill(block(x, y, 0.054, 0.044, 0.008), tile);
        }
    }
    let window = if p.draw.chance(0.5) { 0.25 } else { 0.72 };
    p.window(window, 0.24, 0.11);
    let shelf = 1.0 - window;
    p.fill(area(shelf - 0.18, 0.3, shelf + 0.18, 0.325), Colour::hex(0xA8_74_44));
    let jars = [0xE0_5A_4A, 0xF0_B0_3A, 0x4A_A0_C0, 0x7A_B0_5A].map(Colour::hex);
    for slot in 0..3 {
        let x = shelf - 0.12 + slot as f32 * 0.12;
        let jar = *p.draw.pick(&jars);
        p.fill(block(x, 0.25, 0.035, 0.05, 0.012), jar);
        p.fill(block(x, 0.195, 0.026, 0.012, 0.0), Colour::hex(0x6A_48_30));
    }
    let doors = [0x4A_8A_8A, 0xC8_5A_44, 0x5A_78_A8, 0xE8_D8_B8].map(Colour::hex);
    let door = *p.draw.pick(&doors);
    p.fill(area(0.0, 0.8, 1.0, 1.0), door.bright(0.8));
    for slot in 0..4 {
        let x = 0.125 + slot as f32 * 0.25;
        p.fill(block(x, 0.97, 0.112, 0.1, 0.01), door);
        p.fill(block(x, 0.9, 0.04, 0.01, 0.0), Colour::hex(0xE8_E8_E8));
    }
    p.fade(area(0.0, 0.7, 1.0, 0.86), Colour::hex(0xF6_F2_EA), Colour::hex(0xD6_CC_BE));
}

pub(super) fn library(p: &mut Painter) {
    lamplight(p);
    p.fill(area(0.0, 0.0, 1.0, 0.8), Colour::hex(0x4A_2C_1A));
    let covers = [0xA8_34_2C, 0x2C_5A_8A, 0x3A_7A_4A, 0xC8_94_3A, 0x6A_3A_7A, 0xD8_C8_A8, 0x2A_2A_3A].map(Colour::hex);
    for shelf in 0..4 {
        let foot = 0.18 + shelf as f32 * 0.19;
        p.fill(area(0.0, foot, 1.0, foot + 0.028), Colour::hex(0x8A_5A_30));
        let mut x = -p.draw.between(0.0, 0.04);
        while x < 1.0 {
            let (width, height) = (p.draw.between(0.045, 0.075), p.draw.between(0.1, 0.15));
            let cover = *p.draw.pick(&covers);
            if p.draw.chance(0.94) {
                p.fill(area(x, foot - height, x + width - 0.006, foot), cover);
            }
            x += width;
        }
    }
    for x in [0.0, 1.0] {
        p.fill(block(x, 0.4, 0.04, 0.42, 0.0), Colour::hex(0x7A_4C_28));
    }
    p.fade(area(0.0, 0.78, 1.0, 1.0), Colour::hex(0x9A_64_38), Colour::hex(0x6A_40_22));
    p.fill(ellipse(0.5, 0.94, 0.5, 0.08), Colour::hex(0x8A_2C_2C));
    p.fill(ellipse(0.5, 0.94, 0.44, 0.06), Colour::hex(0xA8_44_38));
}

pub(super) fn stage(p: &mut Painter) {
    p.glow_fade(area(0.0, 0.0, 1.0, 0.8), Colour::hex(0x14_08_18), Colour::hex(0x3A_14_2E));
    let beams = [0xFF_F4_C0, 0xFF_C0_E8, 0xC0_E4_FF].map(Colour::hex);
    for _ in 0..2 {
        let (from, to) = (p.draw.between(0.2, 0.8), p.draw.between(0.35, 0.65));
        let beam = *p.draw.pick(&beams);
        p.glow(polygon(&[(from - 0.02, 0.0), (from + 0.02, 0.0), (to + 0.26, 0.82), (to - 0.26, 0.82)]), 0.3, beam);
    }
    p.fade(area(0.0, 0.76, 1.0, 1.0), Colour::hex(0xB0_74_40), Colour::hex(0x70_44_24));
    for plank in 1..7 {
        let x = plank as f32 / 7.0;
        p.fill(polygon(&[(x - 0.004, 0.76), (x + 0.004, 0.76), ((x - 0.5) * 1.5 + 0.5, 1.0)]), Colour::hex(0x6A_40_22));
    }
    p.glow(ellipse(0.5, 0.9, 0.36, 0.08), 0.4, Colour::hex(0xFF_F0_C0));
    let curtains = [0xC4_1E_2E, 0xA8_18_40, 0xB8_30_1E].map(Colour::hex);
    let curtain = *p.draw.pick(&curtains);
    for fold in 0..4 {
        let x = fold as f32 * 0.05;
        let shade = if fold % 2 == 0 { 1.0 } else { 0.72 };
        for side in [x, 1.0 - x - 0.05] {
            p.fill(area(side, 0.0, side + 0.05, 0.84 - 0.02 * fold as f32), curtain.bright(shade));
        }
    }
    for fold in 0..6 {
        let x = (fold as f32 + 0.5) / 6.0;
        p.fill(disc(x, 0.02, 0.1), curtain.bright(if fold % 2 == 0 { 0.95 } else { 0.8 }));
    }
    p.fill(area(0.0, 0.0, 1.0, 0.06), Colour::hex(0xD8_A8_3A));
}
