//! Fused attention on a GPU: launches of `flash.cu`.

use std::f64::consts::LOG2_E;

use candle_core::{DType, Result, Tensor, cuda_backend::cudarc::driver::DeviceRepr};

use super::launch::{Argument, empty, launch_by_tile, with_addresses};
use crate::layers::{
    attention::{KeyValue, Row},
    fused_attention::{FusedAttention, Launch, PreparedRow, ROWS, SEGMENTS, Shape, launches, strides},
};

/// Keys and values that a row sees; `AttendSegment` in `flash.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct SegmentArgument {
    keys: u64,
    values: u64,
    key_head_stride: u64,
    key_token_stride: u64,
    value_head_stride: u64,
    value_token_stride: u64,
    count: u64,
}

/// A row; `AttendRow` in `flash.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct RowArgument {
    queries: u64,
    out: u64,
    query_head_stride: u64,
    query_token_stride: u64,
    tokens: u64,
    first_block: u64,
    segments: [SegmentArgument; SEGMENTS],
}

/// The rows of a launch; `AttendRows` in `flash.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RowsArgument {
    count: u64,
    rows: [RowArgument; ROWS],
}

#[expect(unsafe_code, reason = "a marker: the type is passed to kernels by its bytes")]
// SAFETY: plain numbers in the layout of C, which is how the kernel declares it.
unsafe impl DeviceRepr for RowsArgument {}

/// The kernel on a GPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct FusedKernel;

impl FusedAttention for FusedKernel {
    fn attend(&self, rows: &[Row<'_>], scale: f64) -> Result<Tensor> {
        // The tiles in `flash.cu`.
        let is_exact = rows.first().is_some_and(|row| row.queries.dtype() == DType::F32);
        let (shape, launches) = launches(rows, if is_exact { 32 } else { 64 })?;
        let device = rows[0].queries.device();
        let out = empty((shape.tokens, shape.heads * shape.head_dim), shape.dtype, device)?;
        launches.iter().try_for_each(|launch| launch_onto(&out, launch, shape, scale))?;
        Ok(out)
    }
}

/// Writes the result of a launch's rows to their place in `out`.
fn launch_onto(out: &Tensor, launch: &Launch, shape: Shape, scale: f64) -> Result<()> {
    let name = match shape.head_dim {
        64 => "attend_64",
        96 => "attend_96",
        _ => "attend_128",
    };
    let mut tensors = vec![Some(out)];
    for row in &launch.rows {
        tensors.push(Some(&row.queries));
        tensors.extend(row.segments.iter().flat_map(|KeyValue { keys, values }| [Some(keys), Some(values)]));
    }
    with_addresses(&tensors, |device, at| {
        let mut argument = RowsArgument { count: launch.rows.len() as u64, ..RowsArgument::default() };
        let mut inputs = at[1..].iter().copied();
        for (to, row) in argument.rows.iter_mut().zip(&launch.rows) {
            let before = row.first_token * shape.heads * shape.head_dim * shape.dtype.size_in_bytes();
            *to = row_argument(row, at[0] + before as u64, &mut inputs)?;
        }
        let arguments = [
            Argument::Rows(&argument),
            Argument::Count(shape.heads),
            // The kernel takes powers of two.
            Argument::Float((scale * LOG2_E) as f32),
        ];
        launch_by_tile(device, (name, shape.dtype), launch.blocks, &arguments)
    })
}

/// Describes a row; `inputs` begins with the addresses of its queries, keys and values.
fn row_argument(row: &PreparedRow, out: u64, inputs: &mut impl Iterator<Item = u64>) -> Result<RowArgument> {
    let mut next = || inputs.next().unwrap_or_default();
    let (head, token) = strides(&row.queries)?;
    let mut argument = RowArgument {
        queries: next(),
        out,
        query_head_stride: head as u64,
        query_token_stride: token as u64,
        tokens: row.queries.dim(1)? as u64,
        first_block: row.first_block as u64,
        ..RowArgument::default()
    };
    for (to, KeyValue { keys, values }) in argument.segments.iter_mut().zip(&row.segments) {
        let ((key_head, key_token), (value_head, value_token)) = (strides(keys)?, strides(values)?);
        *to = SegmentArgument {
            keys: next(),
            values: next(),
            key_head_stride: key_head as u64,
            key_token_stride: key_token as u64,
            value_head_stride: value_head as u64,
            value_token_stride: value_token as u64,
            count: keys.dim(1)? as u64,
        };
    }
    Ok(argument)
}
