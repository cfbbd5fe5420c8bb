//! A single-threaded matrix product over slices, for kernels that parallelise themselves.
//!
//! Large products of whole tensors use candle. This function is for small products inside a parallel task, whose
//! operands are views of larger buffers; creating a tensor for each would cost more than the product.

use candle_core::{Result, bail};

/// A matrix in a slice: element (i, j) is at i · `row_stride` + j · `column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    shape: (usize, usize),
    strides: (usize, usize),
}

/// A mutable matrix in a slice, with contiguous rows.
#[derive(Debug)]
pub(crate) struct MatrixMut<'a> {
    data: &'a mut [f32],
    shape: (usize, usize),
    strides: (usize, usize),
}

/// Whether every element of the matrix is within `length`.
fn fits(length: usize, (rows, columns): (usize, usize), (row, column): (usize, usize)) -> bool {
    if rows == 0 || columns == 0 {
        return true;
    }
    let last = (rows - 1).checked_mul(row).zip((columns - 1).checked_mul(column));
    last.and_then(|(row, column)| row.checked_add(column)).is_some_and(|last| last < length)
}

impl<'a> Matrix<'a> {
    /// Creates a matrix of `shape` (rows, columns) with `strides` (row, column); an error if it exceeds `data`.
    pub(crate) fn new(data: &'a [f32], shape: (usize, usize), strides: (usize, usize)) -> Result<Self> {
        if !fits(data.len(), shape, strides) {
            bail!("a matrix of {shape:?} with strides {strides:?} does not fit into {} numbers", data.len());
        }
        Ok(Self { data, shape, strides })
    }

    /// Returns the transposed matrix, without copying.
    pub(crate) fn transposed(self) -> Self {
        let swap = |(a, b)| (b, a);
        Self { data: self.data, shape: swap(self.shape), strides: swap(self.strides) }
    }
}

impl<'a> MatrixMut<'a> {
    /// As [`Matrix::new`]; rows are contiguous and do not overlap.
    pub(crate) fn new(data: &'a mut [f32], shape: (usize, usize), row_stride: usize) -> Result<Self> {
        let strides = (row_stride, 1);
        if !fits(data.len(), shape, strides) || (row_stride < shape.1 && shape.0 > 1) {
            bail!("rows of {shape:?} {row_stride} apart do not fit into {} numbers", data.len());
        }
        Ok(Self { data, shape, strides })
    }
}

/// Sets `out` to a · b, or adds a · b to `out`.
pub(crate) fn multiply(out: &mut MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, add: bool) -> Result<()> {
    let ((rows, columns), inner) = (out.shape, a.shape.1);
    if a.shape.0 != rows || b.shape != (inner, columns) {
        bail!("a product of {:?} and {:?} does not fit {:?}", a.shape, b.shape, out.shape);
    }
    let stride = |stride: usize| isize::try_from(stride).map_err(candle_core::Error::wrap);
    let (out_strides, a_strides, b_strides) = (
        (stride(out.strides.0)?, stride(out.strides.1)?),
        (stride(a.strides.0)?, stride(a.strides.1)?),
        (stride(b.strides.0)?, stride(b.strides.1)?),
    );
    call(out, a, b, add, [out_strides, a_strides, b_strides]);
    Ok(())
}

#[expect(unsafe_code, reason = "the kernel takes pointers and strides; the matrices have proven that theirs fit")]
fn call(out: &mut MatrixMut<'_>, a: Matrix<'_>, b: Matrix<'_>, add: bool, strides: [(isize, isize); 3]) {
    let [(out_row, out_column), (a_row, a_column), (b_row, b_column)] = strides;
    // SAFETY: `Matrix::new` and `MatrixMut::new` check that every element addressed by shape and strides is within the
    // slice, `multiply` checks that the shapes agree, and `out` is borrowed exclusively, so it overlaps neither
    // operand.
    unsafe {
        gemm::gemm(
            out.shape.0,
            out.shape.1,
            a.shape.1,
            out.data.as_mut_ptr(),
            out_column,
            out_row,
            add,
            a.data.as_ptr(),
            a_column,
            a_row,
            b.data.as_ptr(),
            b_column,
            b_row,
            1.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_of_windows_equals_the_spelled_out_one() {
        let a: Vec<f32> = (0..60).map(|i| i as f32 * 0.5 - 10.0).collect();
        let b: Vec<f32> = (0..60).map(|i| 7.0 - i as f32 * 0.25).collect();
        let left = Matrix::new(&a[3..], (4, 5), (12, 1)).unwrap();
        let right = Matrix::new(&b[1..], (6, 5), (8, 1)).unwrap();
        let mut out = vec![1.0; 4 * 9];
        multiply(&mut MatrixMut::new(&mut out, (4, 6), 9).unwrap(), left, right.transposed(), false).unwrap();
        let expected = |i: usize, j: usize| (0..5).map(|k| a[3 + i * 12 + k] * b[1 + j * 8 + k]).sum::<f32>();
        for (i, row) in out.chunks_exact(9).enumerate() {
            for (j, x) in row.iter().enumerate() {
                let expected = if j < 6 { expected(i, j) } else { 1.0 };
                assert!((x - expected).abs() < 1e-3, "({i}, {j}): {x} against {expected}");
            }
        }
        multiply(&mut MatrixMut::new(&mut out, (4, 6), 9).unwrap(), left, right.transposed(), true).unwrap();
        assert!((out[0] - 2.0 * expected(0, 0)).abs() < 1e-3, "adding adds");
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let data = [0.0; 12];
        assert!(Matrix::new(&data, (3, 4), (4, 1)).is_ok());
        assert!(Matrix::new(&data, (3, 5), (4, 1)).is_err());
        assert!(Matrix::new(&data, (2, 2), (usize::MAX, 1)).is_err());
        assert!(MatrixMut::new(&mut [0.0; 12], (3, 4), 3).is_err(), "rows overlap");
        let (a, b) = (Matrix::new(&data, (3, 4), (4, 1)).unwrap(), Matrix::new(&data, (3, 4), (4, 1)).unwrap());
        assert!(multiply(&mut MatrixMut::new(&mut [0.0; 9], (3, 3), 3).unwrap(), a, b, false).is_err());
    }
}
