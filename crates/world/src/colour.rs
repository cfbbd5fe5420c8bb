//! Colours: red, green and blue as display values from 0 to 1.

/// Red, green and blue, 0 to 1, display values (not linear light).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Colour(pub [f32; 3]);

impl Colour {
    pub(crate) const WHITE: Self = Self([1.0; 3]);
    pub(crate) const INK: Self = Self([0.10, 0.09, 0.12]);

    /// Creates a colour from hexadecimal notation, such as 0xFF8800.
    pub(crate) const fn hex(code: u32) -> Self {
        Self([part(code, 16), part(code, 8), part(code, 0)])
    }

    /// Creates a colour from hue, saturation and value, each 0 to 1. The hue wraps around.
    pub(crate) fn hsv(hue: f32, saturation: f32, value: f32) -> Self {
        let turn = (hue - hue.floor()) * 6.0;
        let channel = |offset: f32| {
            let at = (turn + offset) % 6.0;
            let ramp = at.min(4.0 - at).clamp(0.0, 1.0);
            value * (1.0 - saturation * ramp)
        };
        Self([channel(5.0), channel(3.0), channel(1.0)])
    }

    pub(crate) fn mix(self, other: Self, share: f32) -> Self {
        self.zip(other, |from, to| from + (to - from) * share)
    }

    pub(crate) fn times(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }

    /// Multiplies all channels: lighter for factors above 1, darker below 1.
    pub(crate) fn bright(self, factor: f32) -> Self {
        Self(self.0.map(|part| (part * factor).min(1.0)))
    }

    /// Returns the luminance, 0 to 1.
    pub(crate) fn luminance(self) -> f32 {
        0.30 * self.0[0] + 0.59 * self.0[1] + 0.11 * self.0[2]
    }

    pub(crate) fn bytes(self) -> [u8; 3] {
        self.0.map(|part| (part.clamp(0.0, 1.0) * 255.0 + 0.5) as u8)
    }

    fn zip(self, other: Self, join: impl Fn(f32, f32) -> f32) -> Self {
        Self([0, 1, 2].map(|i| join(self.0[i], other.0[i])))
    }
}

const fn part(code: u32, shift: u32) -> f32 {
    ((code >> shift) & 255) as f32 / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hues_go_round() {
        for (hue, bytes) in [(0.0, [255, 0, 0]), (1.0 / 3.0, [0, 255, 0]), (2.0 / 3.0, [0, 0, 255]), (1.0, [255, 0, 0])]
        {
            assert_eq!(Colour::hsv(hue, 1.0, 1.0).bytes(), bytes, "{hue}");
        }
        assert_eq!(Colour::hsv(0.3, 0.0, 0.5).bytes(), [128; 3]);
        assert_eq!(Colour::hex(0x01_80_FF).bytes(), [1, 128, 255]);
    }
}
