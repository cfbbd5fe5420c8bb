//! Positions: of patches in a picture, of cells in windows, and of tokens in a prompt with pictures.

use candle_core::{Device, Result, Tensor, bail};

use super::config::QwenVisionConfig;
use crate::layers::attention::Rotation;

/// Base of the rotary wavelengths in the vision encoder.
const VISION_THETA: f32 = 10_000.0;

/// A picture's size in patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Time steps; 1 for a picture.
    pub frames: usize,
    /// Number of patch rows.
    pub rows: usize,
    /// Number of patch columns.
    pub columns: usize,
}

impl Grid {
    /// Returns the number of patches of all frames.
    pub fn patches(&self) -> usize {
        self.frames * self.rows * self.columns
    }

    /// Returns the number of rows and columns of merged cells.
    fn cells(&self, merge: usize) -> (usize, usize) {
        (self.rows / merge, self.columns / merge)
    }

    /// Returns the number of tokens of this picture in the language model.
    pub fn tokens(&self, merge: usize) -> usize {
        let (rows, columns) = self.cells(merge);
        self.frames * rows * columns
    }
}

/// The window order of merged cells in the vision encoder, and the boundaries of attention.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowOrder {
    /// Indices of the merged cells, window by window.
    pub index: Vec<u32>,
    /// End of each window in patches, with a leading 0.
    pub window_ends: Vec<usize>,
    /// End of each picture's frame in patches, with a leading 0.
    pub frame_ends: Vec<usize>,
}

impl WindowOrder {
    /// Windows start at the upper left corner and are clipped at the edges; cells within a window are row-major.
    pub fn new(grids: &[Grid], config: &QwenVisionConfig) -> Self {
        let (side, merge) = (config.window_cells(), config.spatial_merge_size);
        let mut order = Self { index: Vec::new(), window_ends: vec![0], frame_ends: vec![0] };
        let mut first = 0;
        for (grid, _) in grids.iter().flat_map(|grid| (0..grid.frames).map(move |frame| (grid, frame))) {
            let (rows, columns) = grid.cells(merge);
            for (top, left) in (0..rows).step_by(side).flat_map(|y| (0..columns).step_by(side).map(move |x| (y, x))) {
                let inside =
                    (top..rows.min(top + side)).flat_map(|y| (left..columns.min(left + side)).map(move |x| (y, x)));
                order.index.extend(inside.map(|(y, x)| (first + y * columns + x) as u32));
                order.window_ends.push(order.index.len() * merge * merge);
            }
            first += rows * columns;
            order.frame_ends.push(first * merge * merge);
        }
        order
    }

    /// Returns the inverse permutation.
    pub fn inverse(&self) -> Vec<u32> {
        let mut inverse = vec![0; self.index.len()];
        for (place, cell) in self.index.iter().enumerate() {
            inverse[*cell as usize] = place as u32;
        }
        inverse
    }
}

/// Returns row and column of a patch from its index; patches are ordered by blocks of merged cells.
pub(super) fn place_of_patch(patch: usize, columns: usize, merge: usize) -> (usize, usize) {
    let (block, inside) = (patch / (merge * merge), patch % (merge * merge));
    let blocks = columns / merge;
    (block / blocks * merge + inside / merge, block % blocks * merge + inside % merge)
}

/// Returns row and column of every patch, in the order of the patches.
pub fn patch_places(grids: &[Grid], merge: usize) -> Vec<[u32; 2]> {
    let of_frame = |grid: &Grid| {
        let columns = grid.columns;
        (0..grid.rows * columns).map(move |patch| {
            let (row, column) = place_of_patch(patch, columns, merge);
            [row as u32, column as u32]
        })
    };
    grids.iter().flat_map(|grid| (0..grid.frames).flat_map(move |_| of_frame(grid))).collect()
}

/// Returns the rotary angles of every patch: half of a head's channel pairs encode the row, half the column.
pub(super) fn vision_rotation(places: &[[u32; 2]], head_dim: usize, device: &Device) -> Result<Rotation> {
    let waves = wave_lengths(head_dim / 2, VISION_THETA);
    let angles = places.iter().flat_map(|place| place.iter().flat_map(|at| waves.iter().map(move |w| *at as f32 * w)));
    rotation(angles.collect(), places.len(), head_dim / 2, device)
}

/// Returns 1 / theta^(2 i / width) for i below width / 2, in f32 as in the reference.
fn wave_lengths(width: usize, theta: f32) -> Vec<f32> {
    (0..width / 2).map(|i| 1.0 / theta.powf((2 * i) as f32 / width as f32)).collect()
}

fn rotation(angles: Vec<f32>, tokens: usize, pairs: usize, device: &Device) -> Result<Rotation> {
    let part = |f: fn(f32) -> f32| {
        Tensor::from_vec(angles.iter().map(|angle| f(*angle)).collect::<Vec<_>>(), (tokens, pairs), device)
    };
    Ok(Rotation { cos: part(f32::cos)?, sin: part(f32::sin)? })
}

/// Multimodal rotary positions (time, row, column) of every token, and the position of the next token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextPositions {
    /// One triple per token.
    pub places: Vec<[u32; 3]>,
    /// Position of the next token. Less than the number of tokens, because a picture advances it by its longer side
    /// only.
    pub next: u32,
}

impl TextPositions {
    /// Computes the positions. Text tokens advance all three axes. A picture's tokens have the position of its start,
    /// plus their row and column on those two axes.
    ///
    /// # Errors
    /// The number of image tokens differs from the number of tokens of the pictures.
    pub fn new(input_ids: &[u32], image_token: u32, grids: &[Grid], merge: usize) -> Result<Self> {
        let (mut places, mut next, mut token) = (Vec::with_capacity(input_ids.len()), 0u32, 0);
        let mut grids = grids.iter();
        while let Some(id) = input_ids.get(token) {
            if *id != image_token {
                places.push([next; 3]);
                next += 1;
                token += 1;
                continue;
            }
            let Some(grid) = grids.next() else { bail!("there are more places for pictures than pictures") };
            let (rows, columns) = grid.cells(merge);
            let tokens = grid.tokens(merge);
            let own = input_ids[token..].iter().take(tokens).take_while(|id| **id == image_token).count();
            if own != tokens || tokens == 0 {
                bail!("a picture of {tokens} tokens has {own} places in the text");
            }
            for (row, column) in
                (0..grid.frames).flat_map(|_| (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))))
            {
                places.push([next, next + row as u32, next + column as u32]);
            }
            next += rows.max(columns) as u32;
            token += tokens;
        }
        if grids.next().is_some() {
            bail!("there are more pictures than places for them in the text");
        }
        Ok(Self { places, next })
    }
}

/// Returns the rotary angles of every token: sections of a head's channel pairs encode time, row and column.
pub(super) fn text_rotation(
    places: &[[u32; 3]],
    head_dim: usize,
    theta: f64,
    sections: [usize; 3],
    device: &Device,
) -> Result<Rotation> {
    let waves = wave_lengths(head_dim, theta as f32);
    let axes: Vec<usize> = sections.iter().enumerate().flat_map(|(axis, count)| vec![axis; *count]).collect();
    let angle = |place: &[u32; 3]| {
        let place = *place;
        waves.iter().zip(axes.clone()).map(move |(wave, axis)| place[axis] as f32 * wave).collect::<Vec<_>>()
    };
    rotation(places.iter().flat_map(angle).collect(), places.len(), head_dim / 2, device)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Grid = Grid { frames: 1, rows: 4, columns: 6 };

    #[test]
    fn patches_come_block_by_block() {
        let places: Vec<_> = (0..8).map(|patch| place_of_patch(patch, 4, 2)).collect();
        assert_eq!(places, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (0, 3), (1, 2), (1, 3)]);
    }

    #[test]
    fn words_and_pictures_have_their_places() {
        let ids = [7, 1, 1, 1, 1, 1, 1, 8, 9];
        let positions = TextPositions::new(&ids, 1, &[GRID], 2).unwrap();
        assert_eq!(positions.places[0], [0, 0, 0]);
        assert_eq!(positions.places[1..7], [[1, 1, 1], [1, 1, 2], [1, 1, 3], [1, 2, 1], [1, 2, 2], [1, 2, 3]]);
        assert_eq!(positions.places[7..], [[4; 3], [5; 3]]);
        assert_eq!(positions.next, 6);
    }

    #[test]
    fn too_few_or_too_many_places_are_refused() {
        assert!(TextPositions::new(&[1, 1, 1], 1, &[GRID], 2).is_err());
        assert!(TextPositions::new(&[1; 7], 1, &[GRID], 2).is_err());
        assert!(TextPositions::new(&[7], 1, &[GRID], 2).is_err());
        assert!(TextPositions::new(&[1; 12], 1, &[GRID, GRID], 2).is_ok());
    }

    #[test]
    fn windows_are_clipped_and_undone() {
        let config = QwenVisionConfig { window_size: 56, ..QwenVisionConfig::default() };
        let order = WindowOrder::new(&[GRID, Grid { frames: 1, rows: 2, columns: 2 }], &config);
        assert_eq!(order.index, [0, 1, 3, 4, 2, 5, 6]);
        assert_eq!(order.window_ends, [0, 16, 24, 28]);
        assert_eq!(order.frame_ends, [0, 24, 28]);
        assert_eq!(order.inverse(), [0, 1, 4, 2, 3, 5, 6]);
    }
}
