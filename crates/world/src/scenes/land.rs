//! Outdoor scenes on land.

use super::{Light, Painter};
use crate::{
    colour::Colour,
    shape::{area, block, disc, ellipse, line, polygon},
};

pub(super) fn beach(p: &mut Painter) {
    let horizon = p.draw.between(0.34, 0.44);
    p.sky(horizon);
    p.fade(area(0.0, horizon, 1.0, 0.66), Colour::hex(0x16_78_B8), Colour::hex(0x52_CE_D6));
    let shore = horizon + 0.2;
    p.fill(ellipse(0.5, 1.0, 1.1, 1.02 - shore), Colour::hex(0xFA_FE_FF));
    p.fade(ellipse(0.5, 1.04, 1.1, 1.03 - shore), Colour::hex(0xF2_DA_9C), Colour::hex(0xE4_BE_74));
    if p.draw.chance(0.7) {
        let side = if p.draw.chance(0.5) { 0.12 } else { 0.88 };
        palm(p, side);
    }
    for _ in 0..3 {
        let (x, y) = (p.draw.unit(), p.draw.between(0.8, 0.98));
        let colour = *p.draw.pick(&[Colour::hex(0xF4_8A_7A), Colour::hex(0xFF_FF_FF), Colour::hex(0xC8_98_5C)]);
        p.fill(disc(x, y, 0.018), colour);
    }
}

fn palm(p: &mut Painter, x: f32) {
    let lean = if x < 0.5 { 0.07 } else { -0.07 };
    let top = (x + lean, 0.24);
    p.fill(line((x, 0.74), (x + lean * 0.4, 0.46), 0.026), Colour::hex(0x8A_5C_34));
    p.fill(line((x + lean * 0.4, 0.46), top, 0.022), Colour::hex(0x8A_5C_34));
    for (dx, dy) in [(-0.2, 0.06), (0.2, 0.06), (-0.14, -0.09), (0.14, -0.09), (-0.08, 0.16), (0.09, 0.16)] {
        p.fill(line(top, (top.0 + dx, top.1 + dy), 0.024), Colour::hex(0x2C_94_48));
    }
}

pub(super) fn snowy_mountain(p: &mut Painter) {
    p.sky(0.66);
    for (base, colour) in [(0.6, Colour::hex(0x8E_A4_C4)), (0.68, Colour::hex(0x6C_80_A4))] {
        for slot in 0..2 {
            let x = slot as f32 * 0.55 + p.draw.between(0.05, 0.4);
            let peak = base - p.draw.between(0.36, 0.52);
            let half = p.draw.between(0.34, 0.44);
            p.fill(polygon(&[(x - half, base + 0.1), (x, peak), (x + half, base + 0.1)]), colour);
            let (w, h) = (half * 0.4, (base + 0.1 - peak) * 0.4);
            let cap = [(x, peak), (x + w, peak + h), (x + w * 0.4, peak + h * 0.75), (x, peak + h * 1.1)];
            p.fill(polygon(&[&cap[..], &[(x - w * 0.45, peak + h * 0.7), (x - w, peak + h)]].concat()), Colour::WHITE);
        }
    }
    p.fade(ellipse(0.5, 1.06, 1.0, 0.44), Colour::hex(0xF6_FA_FF), Colour::hex(0xD2_E0_F2));
    for _ in 0..2 + p.draw.below(3) {
        let (x, y) = (p.draw.unit(), p.draw.between(0.66, 0.74));
        pine(p, x, y, 0.16, Colour::hex(0x24_60_54));
    }
    for _ in 0..10 {
        let (x, y) = (p.draw.unit(), p.draw.unit());
        p.glow(disc(x, y, 0.008), 0.9, Colour::WHITE);
    }
}

fn pine(p: &mut Painter, x: f32, foot: f32, height: f32, colour: Colour) {
    p.fill(area(x - 0.012, foot - 0.04, x + 0.012, foot), Colour::hex(0x5A_3C_28));
    for step in 0..3 {
        let y = foot - 0.03 - step as f32 * height * 0.28;
        let half = height * (0.4 - 0.08 * step as f32);
        p.fill(polygon(&[(x - half, y), (x, y - height * 0.48), (x + half, y)]), colour);
    }
}

pub(super) fn city_street(p: &mut Painter) {
    p.sky(0.6);
    let lit = p.light != Light::Day;
    let mut left = -p.draw.between(0.0, 0.1);
    while left < 1.0 {
        let right = left + p.draw.between(0.18, 0.28);
        let top = p.draw.between(0.08, 0.34);
        let walls = [0x8C_96_A8, 0xB0_8A_7A, 0x70_7C_90, 0xC4_B4_A0, 0x9A_74_6C].map(Colour::hex);
        let wall = *p.draw.pick(&walls);
        p.fill(area(left, top, right - 0.012, 0.72), wall);
        let mut y = top + 0.05;
        while y < 0.62 {
            for column in 0..3 {
                let x = left + (right - left) * (column as f32 + 0.75) / 3.5;
                let pane = block(x, y, 0.017, 0.02, 0.0);
                match lit && p.draw.chance(0.7) {
                    true => p.glow(pane, 1.0, Colour::hex(0xFF_DE_7A)),
                    false => p.fill(pane, Colour::hex(0x3E_4E_66)),
                }
            }
            y += 0.085;
        }
        left = right;
    }
    p.fill(area(0.0, 0.68, 1.0, 0.76), Colour::hex(0xB4_B4_B8));
    p.fade(area(0.0, 0.76, 1.0, 1.0), Colour::hex(0x50_52_5A), Colour::hex(0x3C_3E_46));
    let shift = p.draw.between(0.0, 0.25);
    for dash in 0..5 {
        let x = dash as f32 * 0.25 - shift;
        p.fill(area(x, 0.93, x + 0.13, 0.955), Colour::hex(0xF4_E8_A0));
    }
}

pub(super) fn forest(p: &mut Painter) {
    let (top, bottom) = match p.light {
        Light::Day => (Colour::hex(0x9C_CC_8C), Colour::hex(0xD2_EA_A8)),
        Light::Sunset => (Colour::hex(0xC8_7A_4A), Colour::hex(0xFF_C0_70)),
        Light::Night => (Colour::hex(0x0C_20_38), Colour::hex(0x2A_56_60)),
    };
    p.glow_fade(area(0.0, 0.0, 1.0, 1.0), top, bottom);
    for (count, width, colour) in [(6, 0.022, Colour::hex(0x6E_86_5C)), (5, 0.045, Colour::hex(0x5C_40_2C))] {
        for slot in 0..count {
            let x = (slot as f32 + p.draw.between(0.1, 0.9)) / count as f32;
            p.fill(
                polygon(&[(x - width, 0.8), (x - width * 0.7, 0.0), (x + width * 0.7, 0.0), (x + width, 0.8)]),
                colour,
            );
        }
    }
    for slot in 0..7 {
        let x = (slot as f32 + p.draw.unit()) / 7.0;
        let (y, radius) = (p.draw.between(-0.04, 0.12), p.draw.between(0.12, 0.18));
        let green = Colour::hex(0x1E_66_34).mix(Colour::hex(0x46_94_40), p.draw.unit());
        p.fill(disc(x, y, radius), green);
    }
    p.fade(ellipse(0.5, 1.05, 1.1, 0.34), Colour::hex(0x3E_7C_38), Colour::hex(0x2A_50_2A));
    for _ in 0..6 {
        let (x, y) = (p.draw.unit(), p.draw.between(0.76, 0.96));
        p.fill(
            polygon(&[(x - 0.03, y), (x - 0.03, y - 0.06), (x, y), (x + 0.03, y - 0.07), (x + 0.03, y)]),
            Colour::hex(0x54_A0_4A),
        );
    }
    if p.draw.chance(0.5) {
        let x = p.draw.between(0.08, 0.92);
        p.fill(block(x, 0.93, 0.014, 0.035, 0.01), Colour::hex(0xF2_E8_D8));
        p.fill(ellipse(x, 0.9, 0.045, 0.03), Colour::hex(0xD8_38_2C));
    }
}

pub(super) fn desert(p: &mut Painter) {
    p.sky(0.7);
    for _ in 0..2 {
        let (x, half) = (p.draw.unit(), p.draw.between(0.1, 0.2));
        let top = p.draw.between(0.34, 0.46);
        let mesa = [(x - half * 1.3, 0.62), (x - half, top), (x + half, top), (x + half * 1.3, 0.62)];
        p.fade(polygon(&mesa), Colour::hex(0xC8_6A_3E), Colour::hex(0x9C_48_30));
    }
    let dunes = [(0.60, 0xEC_B0_5C), (0.68, 0xE0_9C_48), (0.80, 0xD2_88_38)];
    for (y, colour) in dunes {
        let x = p.draw.between(0.1, 0.9);
        p.fill(ellipse(x, y + 0.5, 1.1, 0.5), Colour::hex(colour));
    }
    for _ in 0..3 {
        let (x, y) = (p.draw.unit(), p.draw.between(0.78, 0.96));
        p.fill(ellipse(x, y, 0.035, 0.022), Colour::hex(0xA4_62_34));
    }
}

pub(super) fn meadow(p: &mut Painter) {
    p.sky(0.64);
    for (y, colour) in [(0.46, 0x7C_C0_62), (0.54, 0x5E_B0_4A)] {
        let x = p.draw.between(0.1, 0.9);
        p.fill(ellipse(x, y + 0.6, 0.95, 0.6), Colour::hex(colour));
    }
    p.fade(area(0.0, 0.62, 1.0, 1.0), Colour::hex(0x66_BC_46), Colour::hex(0x3C_92_34));
    let petals = [0xFF_FF_FF, 0xFF_D8_3A, 0xF2_5C_8A, 0xB0_6A_E8, 0xF2_4A_3A].map(Colour::hex);
    for row in 0..4 {
        let y = 0.64 + row as f32 * 0.1;
        for _ in 0..6 {
            let (x, dy) = (p.draw.unit(), p.draw.between(-0.03, 0.03));
            let petal = *p.draw.pick(&petals);
            let size = 0.013 + 0.005 * row as f32;
            p.fill(disc(x, y + dy, size), petal);
            p.fill(disc(x, y + dy, size * 0.4), Colour::hex(0xFF_B0_20));
        }
    }
}
