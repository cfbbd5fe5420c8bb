//! The schedule table of a bundle: at which scales pictures of which sizes are sampled.
//!
//! A bundle without the table `[schedule]`, or without one of its two fields, has the published one. The table is read and
//! checked here; the networks' crate makes schedules of it.

use echogen_protocol::{PixelBudget, limits};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::OnceLock;

/// Most shapes of a table.
const MAX_SHAPES: usize = 64;
/// Most tokens along one side of a scale. The published maximum is 111.
const MAX_SIDE: usize = 1_024;
/// Most tokens of a scale. The published maximum is 4,107; attention grows with the square.
const MAX_TOKENS: usize = 1 << 16;

/// Which schedules a model has.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleTable {
    /// For each pixel budget the number of scales that are sampled, from the coarsest on.
    pub budgets: BTreeMap<PixelBudget, usize>,
    /// The shapes of pictures.
    pub shapes: Vec<ShapeTable>,
}

/// The scales of one shape.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ShapeTable {
    /// Height divided by width.
    pub height_to_width: f64,
    /// (height, width) of every scale in tokens, coarse to fine. The last is also the grid of the rotary positions, whichever
    /// of the scales are sampled.
    pub scales: Vec<(usize, usize)>,
}

impl Default for ScheduleTable {
    /// The published table.
    fn default() -> Self {
        /// What the file has; the table itself would take its defaults from here.
        #[derive(Deserialize)]
        struct Published {
            budgets: BTreeMap<PixelBudget, usize>,
            shapes: Vec<ShapeTable>,
        }
        static PUBLISHED: OnceLock<ScheduleTable> = OnceLock::new();
        let published = PUBLISHED.get_or_init(|| {
            let table = toml::from_str(include_str!("published_schedule.toml"));
            let Published { budgets, shapes } = table.expect("the program's own table is well-formed");
            ScheduleTable { budgets, shapes }
        });
        published.clone()
    }
}

impl ScheduleTable {
    /// Whether this is the published table.
    pub fn is_published(&self) -> bool {
        *self == Self::default()
    }

    /// Checks everything that does not depend on a network. The error names the field and says what to change.
    pub(super) fn check(&self) -> Result<(), String> {
        let Some(first) = self.shapes.first() else {
            return Err(
                "schedule.shapes: give at least one shape, or leave the field out for the published ones".into()
            );
        };
        if self.shapes.len() > MAX_SHAPES {
            return Err(format!("schedule.shapes: {} shapes; the limit is {MAX_SHAPES}", self.shapes.len()));
        }
        let count = first.scales.len();
        for shape in &self.shapes {
            let wrong = |reason| format!("schedule.shapes: height_to_width {}: {reason}", shape.height_to_width);
            shape.check(count).map_err(wrong)?;
        }
        self.check_budgets(count)?;
        self.check_pictures()
    }

    fn check_budgets(&self, count: usize) -> Result<(), String> {
        if self.budgets.is_empty() {
            return Err("schedule.budgets: give at least one budget, such as \"0.06M\" = 7".into());
        }
        match self.budgets.iter().find(|(_, scales)| !(1..=count).contains(*scales)) {
            Some((budget, scales)) => Err(format!(
                "schedule.budgets: {budget} takes {scales} scales and schedule.shapes has {count}; give 1 to {count}"
            )),
            None => Ok(()),
        }
    }

    /// A picture's size says which shape it has, so no two shapes may end alike.
    fn check_pictures(&self) -> Result<(), String> {
        for (budget, scales) in &self.budgets {
            let mut seen = BTreeMap::new();
            for shape in &self.shapes {
                let last = shape.scales.get(scales - 1).copied().unwrap_or_default();
                if let Some(other) = seen.insert(last, shape.height_to_width) {
                    let (height, width) = last;
                    return Err(format!(
                        "schedule.shapes: height_to_width {other} and {} both end at {height} x {width} tokens with {budget}; \
                         remove one, or give one of them another scale {scales}",
                        shape.height_to_width
                    ));
                }
            }
        }
        Ok(())
    }
}

impl ShapeTable {
    /// The error is the reason, to be preceded by the shape.
    fn check(&self, count: usize) -> Result<(), String> {
        let widest = limits::MAX_ASPECT_RATIO * 1.01;
        if !(1.0 / widest..=widest).contains(&self.height_to_width) {
            return Err("jobs ask for shapes from 1:3 to 3:1; give 0.333 to 3".into());
        }
        if self.scales.len() != count {
            return Err(format!("it has {} scales, the first shape {count}; give all as many", self.scales.len()));
        }
        if count > limits::MAX_SCALES {
            return Err(format!("it has {count} scales; the limit is {}", limits::MAX_SCALES));
        }
        if self.scales.first() != Some(&(1, 1)) {
            return Err("the first scale is the one token that the text starts; give [1, 1]".into());
        }
        let fits = |(height, width): (usize, usize)| {
            (1..=MAX_SIDE).contains(&height) && (1..=MAX_SIDE).contains(&width) && height * width <= MAX_TOKENS
        };
        if let Some((height, width)) = self.scales.iter().copied().find(|scale| !fits(*scale)) {
            return Err(format!("a scale of [{height}, {width}]; give 1 to {MAX_SIDE} a side, {MAX_TOKENS} in all"));
        }
        let shrinks = |pair: &&[(usize, usize)]| pair[1].0 < pair[0].0 || pair[1].1 < pair[0].1;
        match self.scales.windows(2).find(shrinks) {
            Some(pair) => {
                Err(format!("scale {:?} follows {:?}; sort the scales from coarse to fine", pair[1], pair[0]))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        let table: ScheduleTable = toml::from_str(text).unwrap();
        table.check().unwrap_err()
    }

    const SHAPE: &str = "[[shapes]]\nheight_to_width = 1.0\nscales = [[1, 1], [2, 2], [4, 4]]\n";

    #[test]
    fn the_published_table_is_the_default_of_either_field() {
        let table = ScheduleTable::default();
        table.check().unwrap();
        assert_eq!((table.budgets.len(), table.shapes.len()), (5, 15));
        assert!(toml::from_str::<ScheduleTable>("").unwrap().is_published());
        let own: ScheduleTable = toml::from_str("budgets = { \"0.1M\" = 8 }").unwrap();
        assert!(own.shapes == table.shapes && own.check().is_ok() && !own.is_published());
    }

    #[test]
    fn a_wrong_table_is_refused_by_field_and_with_what_to_change() {
        let budgets = "budgets = { \"0.001M\" = 3 }\n";
        let shape = |from: &str, to: &str| error(&format!("{budgets}{}", SHAPE.replace(from, to)));
        assert!(error("budgets = {}").contains("schedule.budgets: give at least one"));
        assert!(error("shapes = []").contains("schedule.shapes: give at least one"));
        let more = error(&format!("budgets = {{ \"0.001M\" = 4 }}\n{SHAPE}"));
        assert!(more.contains("schedule.budgets: 0.001M takes 4 scales") && more.contains("give 1 to 3"), "{more}");
        assert!(shape("= 1.0", "= 9.0").contains("height_to_width 9: jobs ask for shapes"));
        assert!(shape("[1, 1]", "[1, 2]").contains("give [1, 1]"));
        assert!(shape("[4, 4]", "[4, 0]").contains("a scale of [4, 0]; give 1 to 1024"));
        assert!(shape("[4, 4]", "[1, 8]").contains("sort the scales"));
        assert!(shape("[4, 4]", "[9999, 8]").contains("a scale of [9999, 8]"));
        let others = "[[shapes]]\nheight_to_width = 1.2\nscales = [[1, 1], [3, 2]]\n";
        assert!(error(&format!("{budgets}{SHAPE}{others}")).contains("it has 2 scales, the first shape 3"));
        let same = "[[shapes]]\nheight_to_width = 1.2\nscales = [[1, 1], [3, 2], [4, 4]]\n";
        let same = error(&format!("{budgets}{SHAPE}{same}"));
        assert!(same.contains("1 and 1.2 both end at 4 x 4 tokens with 0.001M"), "{same}");
        let unnamed = toml::from_str::<ScheduleTable>("budgets = { big = 3 }").unwrap_err().to_string();
        assert!(unnamed.contains("such as 0.06M"), "{unnamed}");
    }
}
