//! Schedules: the scales at which a picture is sampled. A model has several shapes of pictures, each with the same number of
//! scales; a pixel budget uses the first scales of the list.
//!
//! Which there are is for the bundle to say ([`ScheduleTable`]); the published values are those of Infinity's
//! dynamic-resolution table, which EchoGen uses.

use echogen_checkpoint::bundle::{Bundle, BundleError, Network, ScheduleTable};

use crate::visual_tokenizer::TokenizerConfig;

/// Size of a scale in tokens: (height, width).
pub type Scale = (usize, usize);

/// Pixels per token along one side, of the published tokenizers.
const PIXELS_PER_TOKEN: usize = 16;

/// A shape that is asked for may be beyond the table's last by this factor: 16:9 is beyond no table, 1:3.3 is beyond 1:3.
const BEYOND: f64 = 1.13;

/// The schedules of a model: every shape of every pixel budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedules {
    /// Names of the pixel budgets with their numbers of scales, smallest first.
    budgets: Vec<(String, usize)>,
    shapes: Vec<Shape>,
    pixels_per_token: usize,
}

/// The scales of a shape, height divided by width.
#[derive(Clone, Debug, PartialEq)]
struct Shape {
    h_div_w: f64,
    scales: Vec<Scale>,
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
    #[error("height to width is {h_div_w}; the model makes pictures from {least} to {most}")]
    Shape {
        /// Height divided by width.
        h_div_w: f64,
        /// That of the widest picture.
        least: f64,
        /// That of the highest picture.
        most: f64,
    },
    /// The pixel budget is not supported.
    #[error("the bundle makes no pictures of {budget} pixels; it offers {offered}")]
    Budget {
        /// The name of the requested budget.
        budget: String,
        /// The names of those that there are.
        offered: String,
    },
    /// No shape has that size.
    #[error("the model makes no pictures of {width} x {height} pixels with the budget {budget}")]
    Size {
        /// Pixels from left to right.
        width: usize,
        /// Pixels from top to bottom.
        height: usize,
        /// The name of the budget.
        budget: String,
    },
    /// The list of scales is empty, or a scale has no tokens.
    #[error("a schedule needs at least one scale, and every scale at least one token")]
    Empty,
}

impl Schedules {
    /// Returns the schedules of a table, with tokens of that many pixels along one side.
    pub fn new(table: &ScheduleTable, pixels_per_token: usize) -> Self {
        let shapes = table.shapes.iter();
        Self {
            budgets: table.budgets.iter().map(|(budget, scales)| (budget.to_string(), *scales)).collect(),
            shapes: shapes.map(|s| Shape { h_div_w: s.height_to_width, scales: s.scales.clone() }).collect(),
            pixels_per_token,
        }
    }

    /// Returns the schedules of a bundle: those of its pixel budgets for which it says how subjects are encoded. Reads the
    /// manifest only.
    pub fn of(bundle: &Bundle) -> Result<Self, BundleError> {
        let (manifest, tokenizer) = (bundle.manifest(), bundle.config::<TokenizerConfig>(Network::VisualTokenizer)?);
        let mut schedules = Self::new(&manifest.schedule, tokenizer.patch_size());
        let offered = &manifest.sampling.subject_resolution;
        schedules.budgets.retain(|(name, _)| offered.keys().any(|budget| budget.as_str() == name));
        Ok(schedules)
    }

    /// Returns the published schedules.
    pub fn published() -> Self {
        Self::new(&ScheduleTable::default(), PIXELS_PER_TOKEN)
    }

    /// Returns the names of the pixel budgets, smallest first.
    pub fn budgets(&self) -> impl Iterator<Item = &str> {
        self.budgets.iter().map(|(name, _)| name.as_str())
    }

    /// Returns height divided by width of every shape, in the order of the table.
    pub fn shapes(&self) -> impl Iterator<Item = f64> {
        self.shapes.iter().map(|shape| shape.h_div_w)
    }

    /// Returns the number of scales of a budget.
    pub(crate) fn scales(&self, budget: &str) -> Result<usize, ScheduleError> {
        let found = self.budgets.iter().find(|(name, _)| name == budget);
        found.map(|(_, scales)| *scales).ok_or_else(|| ScheduleError::Budget {
            budget: budget.to_owned(),
            offered: self.budgets().collect::<Vec<_>>().join(", "),
        })
    }

    /// Returns the schedules of all shapes of a budget, in the order of the table.
    pub fn of_budget(&self, budget: &str) -> Result<Vec<Schedule>, ScheduleError> {
        let scales = self.scales(budget)?;
        self.shapes.iter().map(|shape| shape.schedule(scales, self.pixels_per_token)).collect()
    }

    /// Returns the schedule of the shape nearest to `h_div_w` (height divided by width, compared as a ratio).
    pub fn nearest(&self, h_div_w: f64, budget: &str) -> Result<Schedule, ScheduleError> {
        let scales = self.scales(budget)?;
        let least = self.shapes().fold(f64::INFINITY, f64::min);
        let most = self.shapes().fold(0.0, f64::max);
        if !(least / BEYOND..=most * BEYOND).contains(&h_div_w) {
            return Err(ScheduleError::Shape { h_div_w, least, most });
        }
        let distance = |shape: &Shape| (shape.h_div_w.ln() - h_div_w.ln()).abs();
        let nearest = self.shapes.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)));
        nearest.ok_or(ScheduleError::Empty)?.schedule(scales, self.pixels_per_token)
    }

    /// Returns the schedule whose pictures have exactly that size. No two shapes have the same.
    pub fn of_pixels(&self, (height, width): (usize, usize), budget: &str) -> Result<Schedule, ScheduleError> {
        let found = self.of_budget(budget)?.into_iter().find(|schedule| schedule.pixels() == (height, width));
        found.ok_or_else(|| ScheduleError::Size { width, height, budget: budget.to_owned() })
    }
}

impl Shape {
    fn schedule(&self, scales: usize, pixels_per_token: usize) -> Result<Schedule, ScheduleError> {
        let (Some(used), Some(last)) = (self.scales.get(..scales), self.scales.last()) else {
            return Err(ScheduleError::Empty);
        };
        Ok(Schedule { pixels_per_token, ..Schedule::new(used.to_vec(), *last)? })
    }
}

impl Schedule {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_is_its_own_nearest_and_ends_at_its_shape() {
        let schedules = Schedules::published();
        for (index, ratio) in schedules.shapes().enumerate() {
            for budget in schedules.budgets() {
                let schedule = schedules.nearest(ratio, budget).unwrap();
                assert_eq!(schedule, schedules.of_budget(budget).unwrap()[index]);
                assert_eq!(schedule, schedules.of_pixels(schedule.pixels(), budget).unwrap());
                assert_eq!(schedule.scales()[0], (1, 1));
            }
            let (height, width) = schedules.nearest(ratio, "1M").unwrap().last();
            assert!((height as f64 / width as f64 / ratio - 1.0).abs() < 0.05, "{ratio}: {height} x {width}");
        }
    }

    #[test]
    fn square_sizes_are_the_published_ones() {
        let schedules = Schedules::published();
        let square = |budget| schedules.nearest(1.0, budget).unwrap();
        let sizes: Vec<_> = schedules.budgets().map(|b| (b, square(b).pixels(), square(b).image_tokens())).collect();
        let expected = [
            ("0.004M", (128, 128), 121),
            ("0.06M", (256, 256), 521),
            ("0.25M", (512, 512), 2521),
            ("0.60M", (768, 768), 6425),
            ("1M", (1024, 1024), 10521),
        ];
        assert_eq!(sizes, expected);
    }

    #[test]
    fn the_tokenizer_says_how_large_a_token_is() {
        let mini = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bundles/mini");
        let schedules = Schedules::of(&Bundle::open(&mini).unwrap()).unwrap();
        assert_eq!(schedules.budgets().collect::<Vec<_>>(), ["0.004M"]);
        assert_eq!(schedules.nearest(1.0, "0.004M").unwrap().pixels(), (128, 128));
        let error = schedules.nearest(1.0, "1M").unwrap_err().to_string();
        assert_eq!(error, "the bundle makes no pictures of 1M pixels; it offers 0.004M");
    }

    #[test]
    fn other_ratios_take_the_nearest_shape_and_absurd_ones_none() {
        let schedules = Schedules::published();
        let scales = |ratio| schedules.nearest(ratio, "1M").unwrap();
        assert_eq!(scales(9.0 / 16.0), scales(0.571));
        assert_eq!(scales(1.01), scales(1.0));
        for ratio in [0.0, -1.0, 0.1, 10.0, f64::NAN, f64::INFINITY] {
            assert!(matches!(schedules.nearest(ratio, "1M"), Err(ScheduleError::Shape { .. })));
        }
        let error = schedules.of_pixels((1000, 1000), "1M").unwrap_err().to_string();
        assert_eq!(error, "the model makes no pictures of 1000 x 1000 pixels with the budget 1M");
    }

    #[test]
    fn positions_cover_the_sequence_without_gaps() {
        let schedule = Schedules::published().nearest(2.0, "0.25M").unwrap();
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
