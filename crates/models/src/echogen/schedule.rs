//! Schedules: the scales at which a picture is sampled. There are 15 aspect ratios with 13 scales each; a pixel budget
//! uses the first scales of the list.
//!
//! The values are those of Infinity's dynamic-resolution table, which EchoGen uses.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Size of a scale in tokens: (height, width).
pub type Scale = (usize, usize);

/// Pixels per token along one side, for the published budgets.
const PIXELS_PER_TOKEN: usize = 16;

/// The approximate number of pixels of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PixelBudget {
    /// 64 x 64 when square: 5 scales with 8 pixels per token side. Not a published budget.
    #[serde(rename = "0.004M")]
    M0_004,
    /// 256 x 256 when square: 7 scales.
    #[serde(rename = "0.06M")]
    M0_06,
    /// 512 x 512 when square: 10 scales.
    #[serde(rename = "0.25M")]
    M0_25,
    /// 768 x 768 when square: 12 scales.
    #[serde(rename = "0.60M")]
    M0_60,
    /// 1024 x 1024 when square: 13 scales.
    #[serde(rename = "1M")]
    M1,
}

impl PixelBudget {
    /// All budgets, smallest first.
    pub const ALL: [Self; 5] = [Self::M0_004, Self::M0_06, Self::M0_25, Self::M0_60, Self::M1];

    /// Returns how many of the 13 scales are sampled.
    pub fn scales(self) -> usize {
        match self {
            Self::M0_004 => 5,
            Self::M0_06 => 7,
            Self::M0_25 => 10,
            Self::M0_60 => 12,
            Self::M1 => 13,
        }
    }

    /// Returns the pixels per token along one side.
    pub fn pixels_per_token(self) -> usize {
        if self == Self::M0_004 { 8 } else { PIXELS_PER_TOKEN }
    }

    /// Returns the side in pixels at which the subject is encoded for this budget (the published pairing).
    pub fn subject_resolution(self) -> usize {
        match self {
            Self::M0_004 => 64,
            Self::M1 => 512,
            _ => 256,
        }
    }
}

impl fmt::Display for PixelBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::M0_004 => "0.004M",
            Self::M0_06 => "0.06M",
            Self::M0_25 => "0.25M",
            Self::M0_60 => "0.60M",
            Self::M1 => "1M",
        })
    }
}

/// The scales of one picture, coarse to fine, and the grid of its rotary positions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schedule {
    scales: Vec<Scale>,
    rotary_grid: Scale,
    pixels_per_token: usize,
}

/// There is no such schedule.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum ScheduleError {
    /// The aspect ratio is not supported.
    #[error("height to width is {0}; the model makes pictures between 1:3 and 3:1")]
    Shape(f64),
    /// The list of scales is empty, or a scale has no tokens.
    #[error("a schedule needs at least one scale, and every scale at least one token")]
    Empty,
}

impl Schedule {
    /// Returns the schedule of the template nearest to `h_div_w` (height divided by width, compared as a ratio).
    pub fn nearest(h_div_w: f64, budget: PixelBudget) -> Result<Self, ScheduleError> {
        if !(0.3..=3.4).contains(&h_div_w) {
            return Err(ScheduleError::Shape(h_div_w));
        }
        let distance = |template: &Template| (template.h_div_w.ln() - h_div_w.ln()).abs();
        let nearest = TEMPLATES.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.map(|template| template.schedule(budget)).ok_or(ScheduleError::Empty)
    }

    /// Creates a schedule of arbitrary scales with 16 pixels per token side. `rotary_grid` is the last scale of the
    /// full list of which they are a prefix.
    pub fn new(scales: Vec<Scale>, rotary_grid: Scale) -> Result<Self, ScheduleError> {
        let empty = |&(height, width): &Scale| height == 0 || width == 0;
        if scales.is_empty() || scales.iter().any(empty) || empty(&rotary_grid) {
            return Err(ScheduleError::Empty);
        }
        Ok(Self { scales, rotary_grid, pixels_per_token: PIXELS_PER_TOKEN })
    }

    /// Returns all scales, coarse to fine.
    pub fn scales(&self) -> &[Scale] {
        &self.scales
    }

    /// Returns the grid of rotary positions, which is the same for every budget.
    pub fn rotary_grid(&self) -> Scale {
        self.rotary_grid
    }

    /// Returns the finest scale, which is the size of the latent.
    pub fn last(&self) -> Scale {
        self.scales.last().copied().unwrap_or((1, 1))
    }

    /// Returns (height, width) of the picture in pixels.
    pub fn pixels(&self) -> (usize, usize) {
        let (height, width) = self.last();
        (height * self.pixels_per_token, width * self.pixels_per_token)
    }

    /// Returns the total number of image tokens of all scales.
    pub fn image_tokens(&self) -> usize {
        self.scales.iter().map(|(height, width)| height * width).sum()
    }

    /// Returns the sequence positions of scale `index`. The first scale consists of the global token and the text
    /// token; every later scale consists of its image tokens.
    pub fn positions(&self, index: usize) -> std::ops::Range<usize> {
        let tokens = |scales: &[Scale]| scales.iter().map(|(height, width)| height * width).sum::<usize>();
        let start = if index == 0 { 0 } else { 1 + tokens(&self.scales[..index]) };
        start..1 + tokens(&self.scales[..=index])
    }
}

/// Returns height divided by width of every template, as named in the table.
pub fn template_ratios() -> impl Iterator<Item = f64> {
    TEMPLATES.iter().map(|template| template.h_div_w)
}

struct Template {
    h_div_w: f64,
    scales: [Scale; 13],
}

impl Template {
    fn schedule(&self, budget: PixelBudget) -> Schedule {
        Schedule {
            scales: self.scales[..budget.scales()].to_vec(),
            rotary_grid: self.scales[12],
            pixels_per_token: budget.pixels_per_token(),
        }
    }
}

#[rustfmt::skip]
const TEMPLATES: [Template; 15] = [
    Template { h_div_w: 1.0, scales: [(1, 1), (2, 2), (4, 4), (6, 6), (8, 8), (12, 12), (16, 16), (20, 20), (24, 24), (32, 32), (40, 40), (48, 48), (64, 64)] },
    Template { h_div_w: 1.25, scales: [(1, 1), (2, 2), (3, 3), (5, 4), (10, 8), (15, 12), (20, 16), (25, 20), (30, 24), (35, 28), (45, 36), (55, 44), (70, 56)] },
    Template { h_div_w: 0.8, scales: [(1, 1), (2, 2), (3, 3), (4, 5), (8, 10), (12, 15), (16, 20), (20, 25), (24, 30), (28, 35), (36, 45), (44, 55), (56, 70)] },
    Template { h_div_w: 1.333, scales: [(1, 1), (2, 2), (4, 3), (8, 6), (12, 9), (16, 12), (20, 15), (24, 18), (28, 21), (36, 27), (48, 36), (60, 45), (72, 54)] },
    Template { h_div_w: 0.75, scales: [(1, 1), (2, 2), (3, 4), (6, 8), (9, 12), (12, 16), (15, 20), (18, 24), (21, 28), (27, 36), (36, 48), (45, 60), (54, 72)] },
    Template { h_div_w: 1.5, scales: [(1, 1), (2, 2), (3, 2), (6, 4), (9, 6), (15, 10), (21, 14), (27, 18), (33, 22), (39, 26), (48, 32), (63, 42), (78, 52)] },
    Template { h_div_w: 0.666, scales: [(1, 1), (2, 2), (2, 3), (4, 6), (6, 9), (10, 15), (14, 21), (18, 27), (22, 33), (26, 39), (32, 48), (42, 63), (52, 78)] },
    Template { h_div_w: 1.75, scales: [(1, 1), (2, 2), (3, 3), (7, 4), (11, 6), (14, 8), (21, 12), (28, 16), (35, 20), (42, 24), (56, 32), (70, 40), (84, 48)] },
    Template { h_div_w: 0.571, scales: [(1, 1), (2, 2), (3, 3), (4, 7), (6, 11), (8, 14), (12, 21), (16, 28), (20, 35), (24, 42), (32, 56), (40, 70), (48, 84)] },
    Template { h_div_w: 2.0, scales: [(1, 1), (2, 2), (4, 2), (6, 3), (10, 5), (16, 8), (22, 11), (30, 15), (38, 19), (46, 23), (60, 30), (74, 37), (90, 45)] },
    Template { h_div_w: 0.5, scales: [(1, 1), (2, 2), (2, 4), (3, 6), (5, 10), (8, 16), (11, 22), (15, 30), (19, 38), (23, 46), (30, 60), (37, 74), (45, 90)] },
    Template { h_div_w: 2.5, scales: [(1, 1), (2, 2), (5, 2), (10, 4), (15, 6), (20, 8), (25, 10), (30, 12), (40, 16), (50, 20), (65, 26), (80, 32), (100, 40)] },
    Template { h_div_w: 0.4, scales: [(1, 1), (2, 2), (2, 5), (4, 10), (6, 15), (8, 20), (10, 25), (12, 30), (16, 40), (20, 50), (26, 65), (32, 80), (40, 100)] },
    Template { h_div_w: 3.0, scales: [(1, 1), (2, 2), (6, 2), (9, 3), (15, 5), (21, 7), (27, 9), (36, 12), (45, 15), (54, 18), (72, 24), (90, 30), (111, 37)] },
    Template { h_div_w: 0.333, scales: [(1, 1), (2, 2), (2, 6), (3, 9), (5, 15), (7, 21), (9, 27), (12, 36), (15, 45), (18, 54), (24, 72), (30, 90), (37, 111)] },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_is_its_own_nearest_and_ends_at_its_shape() {
        for ratio in template_ratios() {
            for budget in PixelBudget::ALL {
                let schedule = Schedule::nearest(ratio, budget).unwrap();
                assert_eq!(schedule.scales().len(), budget.scales());
                assert_eq!(schedule.scales()[0], (1, 1));
            }
            let (height, width) = Schedule::nearest(ratio, PixelBudget::M1).unwrap().last();
            assert!((height as f64 / width as f64 / ratio - 1.0).abs() < 0.05, "{ratio}: {height} x {width}");
        }
    }

    #[test]
    fn square_sizes_are_the_published_ones() {
        let sizes: Vec<_> = PixelBudget::ALL
            .iter()
            .map(|budget| Schedule::nearest(1.0, *budget).unwrap())
            .map(|schedule| (schedule.pixels(), schedule.image_tokens()))
            .collect();
        assert_eq!(sizes[0], ((64, 64), 121));
        assert_eq!(sizes[1..], [((256, 256), 521), ((512, 512), 2521), ((768, 768), 6425), ((1024, 1024), 10521)]);
    }

    #[test]
    fn other_ratios_take_the_nearest_template_and_absurd_ones_none() {
        let scales = |ratio| Schedule::nearest(ratio, PixelBudget::M1).unwrap();
        assert_eq!(scales(9.0 / 16.0), scales(0.571));
        assert_eq!(scales(1.01), scales(1.0));
        for ratio in [0.0, -1.0, 0.1, 10.0, f64::NAN, f64::INFINITY] {
            assert!(Schedule::nearest(ratio, PixelBudget::M1).is_err());
        }
    }

    #[test]
    fn positions_cover_the_sequence_without_gaps() {
        let schedule = Schedule::nearest(2.0, PixelBudget::M0_25).unwrap();
        let mut next = 0;
        for index in 0..schedule.scales().len() {
            let positions = schedule.positions(index);
            assert_eq!(positions.start, next);
            next = positions.end;
        }
        assert_eq!(next, schedule.image_tokens() + 1);
        assert_eq!(schedule.positions(0), 0..2);
    }
}
