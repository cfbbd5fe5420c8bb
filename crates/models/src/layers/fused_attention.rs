//! Attention in one pass over the keys, which keeps no scores: which rows take it, and how they are laid out for its blocks.
//!
//! [`FusedAttention`] is the kernel in `cuda/flash.cu` on a GPU (`cuda::flash`), and in this module's tests a twin on the CPU with
//! the same arithmetic, block by block and tile by tile. Both go by the [`Launch`]es that are prepared here.

use candle_core::{DType, Result, Tensor, bail};

use super::attention::{FUSED_HEAD_DIMS, KeyValue, Row};

/// Greatest number of rows of a launch; `ATTEND_ROWS` in `flash.cu`. All have to fit into the 4 KiB of a launch's arguments.
pub(super) const ROWS: usize = 16;

/// Greatest number of segments of a row; `ATTEND_SEGMENTS` in `flash.cu`.
pub(super) const SEGMENTS: usize = 2;

/// Bytes to whose multiples everything is aligned that a thread reads at once.
const ALIGNMENT: usize = 16;

/// An implementation of fused attention.
pub(super) trait FusedAttention {
    /// Returns softmax(q Kᵀ · scale) V of each row, one below the other: (all tokens, heads · head_dim). The rows are such that
    /// [`takes`] accepts them, and may differ in their numbers of tokens. `scale` is positive.
    fn attend(&self, rows: &[Row<'_>], scale: f64) -> Result<Tensor>;
}

/// Whether fused attention takes these rows. All others take products that keep their scores.
pub(super) fn takes(rows: &[Row<'_>]) -> bool {
    let is_taken = |row: &Row<'_>| {
        let head_dim = row.queries.dims().last();
        head_dim.is_some_and(|size| FUSED_HEAD_DIMS.contains(size)) && (1..=SEGMENTS).contains(&row.segments.len())
    };
    !rows.is_empty() && rows.iter().all(is_taken)
}

/// What all rows have in common, and their tokens in total.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) tokens: usize,
    pub(super) heads: usize,
    pub(super) head_dim: usize,
    pub(super) dtype: DType,
}

/// Rows that are computed together. Each block has one row, one head and one tile of queries; all blocks of a row follow those
/// of the row before, and in a row those of a head.
#[derive(Clone, Debug)]
pub(super) struct Launch {
    pub(super) rows: Vec<PreparedRow>,
    pub(super) blocks: usize,
}

/// A row whose tensors have aligned channels side by side.
#[derive(Clone, Debug)]
pub(super) struct PreparedRow {
    /// (heads, tokens, head_dim).
    pub(super) queries: Tensor,
    /// The same of the keys that are seen.
    pub(super) segments: Vec<KeyValue>,
    /// The row's first token in the result.
    pub(super) first_token: usize,
    /// The row's first block.
    pub(super) first_block: usize,
}

/// Checks rows that are taken, and lays them out for blocks of so many queries.
pub(super) fn launches(rows: &[Row<'_>], queries_of_block: usize) -> Result<(Shape, Vec<Launch>)> {
    let Some(first) = rows.first() else { bail!("attention needs queries") };
    let (heads, _, head_dim) = first.queries.dims3()?;
    let mut shape = Shape { tokens: 0, heads, head_dim, dtype: first.queries.dtype() };
    let mut launches = Vec::with_capacity(rows.len().div_ceil(ROWS));
    for rows in rows.chunks(ROWS) {
        let mut launch = Launch { rows: Vec::with_capacity(rows.len()), blocks: 0 };
        for row in rows {
            let (queries, segments) = shape.prepare(row)?;
            let tokens = queries.dim(1)?;
            launch.rows.push(PreparedRow { queries, segments, first_token: shape.tokens, first_block: launch.blocks });
            launch.blocks += heads * tokens.div_ceil(queries_of_block);
            shape.tokens += tokens;
        }
        launches.push(launch);
    }
    Ok((shape, launches))
}

impl Shape {
    fn prepare(&self, row: &Row<'_>) -> Result<(Tensor, Vec<KeyValue>)> {
        let segments = row.segments.iter().map(|segment| {
            if segment.keys.dims() != segment.values.dims() {
                bail!("keys of shape {:?} with values of {:?}", segment.keys.dims(), segment.values.dims());
            }
            Ok(KeyValue { keys: self.aligned(&segment.keys)?, values: self.aligned(&segment.values)? })
        });
        let segments = segments.collect::<Result<Vec<_>>>()?;
        if segments.iter().all(|segment| segment.keys.elem_count() == 0) {
            bail!("attention needs keys");
        }
        Ok((self.aligned(&row.queries)?, segments))
    }

    /// Returns a tensor (heads, tokens, head_dim) with aligned channels side by side: a copy if it has others.
    fn aligned(&self, xs: &Tensor) -> Result<Tensor> {
        let (heads, _, head_dim) = xs.dims3()?;
        if (heads, head_dim, xs.dtype()) != (self.heads, self.head_dim, self.dtype) {
            bail!("{:?} of {:?} do not fit {} heads of {}", xs.dims(), xs.dtype(), self.heads, self.head_dim);
        }
        let elements = ALIGNMENT / xs.dtype().size_in_bytes();
        let is_aligned = strides(xs).is_ok_and(|(head, token)| {
            [head, token, xs.layout().start_offset()].iter().all(|count| count.is_multiple_of(elements))
        });
        if is_aligned { Ok(xs.clone()) } else { xs.force_contiguous() }
    }
}

/// Returns the strides of heads and tokens of (heads, tokens, head_dim), whose channels lie side by side.
pub(super) fn strides(xs: &Tensor) -> Result<(usize, usize)> {
    match xs.stride() {
        &[head, token, 1] => Ok((head, token)),
        _ => bail!("the channels of a head must lie side by side, got strides {:?}", xs.stride()),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Storage};

    use super::{super::attention::attend_spelled_out, *};
    use crate::random::CounterRng;

    /// The kernel's arithmetic on a CPU in float32, with tiles of these sizes.
    #[derive(Clone, Copy, Debug)]
    struct Twin {
        queries: usize,
        keys: usize,
    }

    /// The tiles of the kernel for float32, and for the reduced types.
    const TILES: [Twin; 2] = [Twin { queries: 32, keys: 32 }, Twin { queries: 64, keys: 64 }];

    impl FusedAttention for Twin {
        fn attend(&self, rows: &[Row<'_>], scale: f64) -> Result<Tensor> {
            let (shape, launches) = launches(rows, self.queries)?;
            let mut out = vec![f32::NAN; shape.tokens * shape.heads * shape.head_dim];
            let scale = scale as f32 * std::f32::consts::LOG2_E;
            for launch in &launches {
                for block in 0..launch.blocks {
                    self.attend_block(launch, block, shape, scale, &mut out)?;
                }
            }
            Tensor::from_vec(out, (shape.tokens, shape.heads * shape.head_dim), &Device::Cpu)
        }
    }

    /// Tokens of one head from `first` on.
    struct Tile<'a> {
        data: &'a [f32],
        token_stride: usize,
        head_dim: usize,
    }

    impl Tile<'_> {
        fn token(&self, token: usize) -> &[f32] {
            &self.data[token * self.token_stride..][..self.head_dim]
        }
    }

    fn with_tile<R>(xs: &Tensor, head: usize, first: usize, f: impl FnOnce(&Tile<'_>) -> R) -> Result<R> {
        let (storage, layout) = xs.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else { bail!("the twin runs on a CPU") };
        let (head_stride, token_stride) = strides(xs)?;
        let at = layout.start_offset() + head * head_stride + first * token_stride;
        Ok(f(&Tile { data: &storage.as_slice::<f32>()?[at..], token_stride, head_dim: xs.dim(2)? }))
    }

    /// What a block keeps of one query.
    struct Kept {
        max: f32,
        sum: f32,
        out: Vec<f32>,
    }

    impl Twin {
        fn attend_block(&self, launch: &Launch, block: usize, shape: Shape, scale: f32, out: &mut [f32]) -> Result<()> {
            let before = launch.rows.iter().skip(1).take_while(|row| row.first_block <= block).count();
            let row = &launch.rows[before];
            let (tokens, index) = (row.queries.dim(1)?, block - row.first_block);
            let tiles = tokens.div_ceil(self.queries);
            let (head, first) = (index / tiles, index % tiles * self.queries);
            let count = self.queries.min(tokens - first);
            let new = || Kept { max: f32::MIN, sum: 0.0, out: vec![0.0; shape.head_dim] };
            let mut kept: Vec<_> = (0..count).map(|_| new()).collect();
            for index in 0..self.tiles_of(row, 0)? + self.tiles_of(row, 1)? {
                self.add_tile(row, (head, first), index, scale, &mut kept)?;
            }
            for (token, kept) in kept.iter().enumerate() {
                let at = ((row.first_token + first + token) * shape.heads + head) * shape.head_dim;
                let share = 1.0 / kept.sum;
                out[at..][..shape.head_dim].iter_mut().zip(&kept.out).for_each(|(y, x)| *y = x * share);
            }
            Ok(())
        }

        fn tiles_of(&self, row: &PreparedRow, segment: usize) -> Result<usize> {
            row.segments.get(segment).map_or(Ok(0), |segment| Ok(segment.keys.dim(1)?.div_ceil(self.keys)))
        }

        fn add_tile(
            &self,
            row: &PreparedRow,
            (head, first_query): (usize, usize),
            index: usize,
            scale: f32,
            kept: &mut [Kept],
        ) -> Result<()> {
            let before = self.tiles_of(row, 0)?;
            let (segment, tile) = if index < before { (0, index) } else { (1, index - before) };
            let (seen, first) = (&row.segments[segment], tile * self.keys);
            let count = self.keys.min(seen.keys.dim(1)? - first);
            with_tile(&row.queries, head, first_query, |queries| {
                with_tile(&seen.keys, head, first, |keys| {
                    with_tile(&seen.values, head, first, |values| {
                        for (token, kept) in kept.iter_mut().enumerate() {
                            // The scores of keys that are not there are the lowest number.
                            let score = |key| match key < count {
                                true => queries.token(token).iter().zip(keys.token(key)).map(|(q, k)| q * k).sum(),
                                false => f32::MIN,
                            };
                            kept.add(&(0..self.keys).map(score).collect::<Vec<f32>>(), values, count, scale);
                        }
                    })
                })?
            })?
        }
    }

    impl Kept {
        fn add(&mut self, scores: &[f32], values: &Tile<'_>, count: usize, scale: f32) {
            let greatest = scores.iter().fold(self.max, |max, score| max.max(*score));
            let factor = ((self.max - greatest) * scale).exp2();
            self.max = greatest;
            self.sum *= factor;
            self.out.iter_mut().for_each(|x| *x *= factor);
            for (key, score) in scores.iter().enumerate() {
                let weight = ((score - greatest) * scale).exp2();
                self.sum += weight;
                if key < count {
                    self.out.iter_mut().zip(values.token(key)).for_each(|(x, value)| *x += weight * value);
                }
            }
        }
    }

    fn tensor(shape: &[usize], seed: u64, range: f32) -> Tensor {
        let mut values = vec![0f32; shape.iter().product()];
        CounterRng::new(seed, 0).fill_uniform(&mut values);
        values.iter_mut().for_each(|x| *x = (*x * 2.0 - 1.0) * range);
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn segment(heads: usize, tokens: usize, head_dim: usize, seed: u64) -> KeyValue {
        let shape = [heads, tokens, head_dim];
        KeyValue { keys: tensor(&shape, seed, 2.0), values: tensor(&shape, seed + 1, 2.0) }
    }

    /// Compares the twin with attention that is spelled out.
    fn check(rows: &[Row<'_>], scale: f64) {
        assert!(takes(rows));
        let expected: Vec<_> =
            rows.iter().map(|row| attend_spelled_out(&row.queries, &row.segments, scale).unwrap()).collect();
        let expected = Tensor::cat(&expected, 0).unwrap();
        for twin in TILES {
            let ours = twin.attend(rows, scale).unwrap();
            assert_eq!(ours.dims(), expected.dims());
            let flat = |xs: &Tensor| xs.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            for (ours, expected) in flat(&ours).into_iter().zip(flat(&expected)) {
                assert!((ours - expected).abs() < 1e-5, "{twin:?}: {ours} against {expected}");
            }
        }
    }

    #[test]
    fn online_softmax_equals_the_spelled_out_one() {
        for (head_dim, heads) in [(64, 3), (96, 2), (128, 1)] {
            let seen = [1, 31, 64, 65, 200].map(|count| segment(heads, count, head_dim, 10 + count as u64));
            let [one, few, tile, more, many] = &seen;
            let queries = |tokens, seed| tensor(&[heads, tokens, head_dim], seed, 2.0);
            let rows = [
                Row { queries: queries(1, 1), segments: vec![one] },
                Row { queries: queries(64, 2), segments: vec![tile] },
                Row { queries: queries(70, 3), segments: vec![many, one] },
                Row { queries: queries(5, 4), segments: vec![few, more] },
                Row { queries: queries(129, 5), segments: vec![more] },
            ];
            check(&rows, 0.2);
        }
    }

    #[test]
    fn more_rows_than_a_launch_has_are_several_launches() {
        let seen = [segment(2, 40, 64, 1), segment(2, 7, 64, 3)];
        let rows: Vec<_> = (0..35)
            .map(|row| Row { queries: tensor(&[2, row % 3, 64], 20 + row as u64, 2.0), segments: vec![&seen[row % 2]] })
            .collect();
        let (shape, prepared) = launches(&rows, 32).unwrap();
        assert_eq!(prepared.iter().map(|launch| launch.rows.len()).collect::<Vec<_>>(), [16, 16, 3]);
        assert_eq!((shape.tokens, prepared[0].blocks), (34, 2 * 10));
        check(&rows, 0.3);
    }

    #[test]
    fn views_of_caches_are_read_where_they_are() {
        let cache = segment(3, 90, 64, 1);
        let view = |xs: &Tensor| xs.narrow(1, 11, 50).unwrap();
        let seen = KeyValue { keys: view(&cache.keys), values: view(&cache.values) };
        let tokens_apart = tensor(&[9, 3, 64], 5, 2.0).transpose(0, 1).unwrap();
        let channels_apart = tensor(&[3, 64, 9], 7, 2.0).transpose(1, 2).unwrap();
        let shifted = tensor(&[3, 9, 65], 9, 2.0).narrow(2, 1, 64).unwrap();
        for (queries, is_copied) in [(tokens_apart, false), (channels_apart, true), (shifted, true)] {
            let rows = [Row { queries: queries.clone(), segments: vec![&seen] }];
            let (_, prepared) = launches(&rows, 32).unwrap();
            let row = &prepared[0].rows[0];
            assert_eq!(row.queries.stride() != queries.stride(), is_copied);
            assert_eq!(row.segments[0].keys.layout(), seen.keys.layout());
            check(&rows, 0.2);
        }
    }

    #[test]
    fn extreme_scores_neither_overflow_nor_vanish() {
        let (tokens, head_dim) = (40, 64);
        // Scores of some 1e6: one key has all the weight. The greatest comes first, in the middle, or last.
        for far in [0, 35, 99] {
            let keys = (tensor(&[1, 100, head_dim], 1, 1.0) * 100.0).unwrap();
            let raised = Tensor::full(1000f32, (1, 1, head_dim), &Device::Cpu).unwrap();
            let keys = keys.slice_assign(&[0..1, far..far + 1, 0..head_dim], &raised).unwrap();
            let seen = KeyValue { keys, values: tensor(&[1, 100, head_dim], 3, 2.0) };
            let queries = (tensor(&[1, tokens, head_dim], 5, 50.0) + 200.0).unwrap();
            check(&[Row { queries, segments: vec![&seen] }], 1.0);
        }
        // All scores far below zero, where the lowest number must still count for nothing.
        let seen = KeyValue {
            keys: Tensor::full(-1e4f32, (1, 33, head_dim), &Device::Cpu).unwrap(),
            values: tensor(&[1, 33, head_dim], 7, 2.0),
        };
        let queries = Tensor::full(1e4f32, (1, tokens, head_dim), &Device::Cpu).unwrap();
        check(&[Row { queries, segments: vec![&seen] }], 1.0);
    }

    #[test]
    fn other_rows_are_not_taken_and_wrong_ones_refused() {
        let (seen, none) = (segment(2, 5, 64, 1), segment(2, 0, 64, 1));
        let row = |head_dim, segments| Row { queries: tensor(&[2, 3, head_dim], 3, 1.0), segments };
        assert!(!takes(&[]) && !takes(&[row(80, vec![&seen])]) && !takes(&[row(64, vec![])]));
        assert!(!takes(&[row(64, vec![&seen]), row(64, vec![&seen; 3])]));
        check(&[row(64, vec![&none, &seen]), row(64, vec![&seen, &none])], 0.5);
        for wrong in [row(64, vec![&none]), row(96, vec![&seen])] {
            assert!(launches(&[wrong], 32).is_err());
        }
        let mixed = KeyValue { keys: seen.keys.clone(), values: seen.values.to_dtype(DType::BF16).unwrap() };
        assert!(launches(&[row(64, vec![&mixed])], 32).is_err());
    }
}
