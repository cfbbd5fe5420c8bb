//! Two-dimensional rotary position embeddings on the grid of the finest published scale.

use candle_core::{Device, Result, Tensor};

use super::schedule::Schedule;
use crate::layers::attention::Rotation;

/// Base of the frequencies.
const BASE: f32 = 10_000.0;

/// Returns the grid position of each of `count` token rows or columns on a grid of `grid`: `index · grid / count` in
/// float32, rounded half to even.
pub(crate) fn grid_lines(count: usize, grid: usize) -> impl Iterator<Item = f32> {
    let step = (grid as f64 / count as f64) as f32;
    (0..count).map(move |index| (index as f32 * step).round_ties_even())
}

/// Returns the angles of the whole sequence, (1 + image tokens, head_dim / 2). The first half of the channel pairs
/// encodes the row, the second the column. The global token and the text token are both at (0, 0).
pub(crate) fn rotation_table(schedule: &Schedule, head_dim: usize, device: &Device) -> Result<Rotation> {
    let pairs = head_dim / 4;
    let frequencies: Vec<f32> = (0..pairs).map(|j| 1.0 / BASE.powf((2 * j) as f32 / (head_dim / 2) as f32)).collect();
    let (grid_height, grid_width) = schedule.rotary_grid();
    let mut angles = vec![0f32; head_dim / 2];
    for &(height, width) in schedule.scales() {
        for row in grid_lines(height, grid_height) {
            for column in grid_lines(width, grid_width) {
                angles.extend(frequencies.iter().map(|f| row * f));
                angles.extend(frequencies.iter().map(|f| column * f));
            }
        }
    }
    let shape = (schedule.image_tokens() + 1, head_dim / 2);
    let table = |f: fn(f32) -> f32| Tensor::from_vec(angles.iter().map(|a| f(*a)).collect(), shape, device);
    Ok(Rotation { cos: table(f32::cos)?, sin: table(f32::sin)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::echogen::schedule::Schedules;

    #[test]
    fn grid_lines_round_ties_to_even() {
        assert_eq!(grid_lines(6, 64).collect::<Vec<_>>(), [0.0, 11.0, 21.0, 32.0, 43.0, 53.0]);
        // 24 lines over 60: line 1 is at 2.5, which rounds to 2, and line 3 is at 7.5, which rounds to 8.
        assert_eq!(grid_lines(24, 60).take(4).collect::<Vec<_>>(), [0.0, 2.0, 5.0, 8.0]);
    }

    #[test]
    fn lines_are_those_of_the_published_table() {
        let table = include_str!("../../../../tests/fixtures/scale_schedules.json");
        let table: serde_json::Value = serde_json::from_str(table).unwrap();
        let schedules = Schedules::published();
        for template in table["templates"].as_array().unwrap() {
            let ratio = template["h_div_w"].as_f64().unwrap();
            let schedule = schedules.nearest(ratio, "1M").unwrap();
            let (grid_height, grid_width) = schedule.rotary_grid();
            for (index, &(height, width)) in schedule.scales().iter().enumerate() {
                let lines =
                    |count, grid| serde_json::json!(grid_lines(count, grid).map(|x| x as u64).collect::<Vec<_>>());
                assert_eq!(lines(height, grid_height), template["rope_rows"][index]);
                assert_eq!(lines(width, grid_width), template["rope_cols"][index]);
                assert_eq!(serde_json::json!([height, width]), template["scales"][index]);
            }
        }
    }
}
