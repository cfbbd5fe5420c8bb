//! SIMD building blocks for kernels that keep their sums in vector registers.

use pulp::Simd;

/// Rows that [`small_product`] processes at a time: with two vectors of columns, eight independent sums.
pub(super) const ROWS: usize = 4;

/// The number of columns of [`small_product`] must be a multiple of this: two vectors of the widest supported
/// registers.
pub(super) const COLUMNS: usize = 32;

/// out = a · b for matrices that fit into the CPU caches: `a` (rows, stride), of which the first `inner` columns are
/// used; `b` (inner, columns); `out` (rows, columns). `rows` is a multiple of [`ROWS`], `columns` of [`COLUMNS`].
#[inline(always)]
pub(super) fn small_product<S: Simd>(
    simd: S,
    (a, stride, inner): (&[f32], usize, usize),
    b: &[f32],
    columns: usize,
    out: &mut [f32],
) {
    for (a, out) in a.chunks_exact(ROWS * stride).zip(out.chunks_exact_mut(ROWS * columns)) {
        let (a0, rest) = a.split_at(stride);
        let (a1, rest) = rest.split_at(stride);
        let (a2, a3) = rest.split_at(stride);
        for at in (0..columns).step_by(2 * S::F32_LANES) {
            let mut sums = [[simd.splat_f32s(0.0); 2]; ROWS];
            let rows = b.chunks_exact(columns).take(inner).zip(a0).zip(a1).zip(a2).zip(a3);
            for ((((row, x0), x1), x2), x3) in rows {
                let (row, _) = S::as_simd_f32s(&row[at..]);
                let (left, right) = (row[0], row[1]);
                for (sum, x) in sums.iter_mut().zip([x0, x1, x2, x3]) {
                    let x = simd.splat_f32s(*x);
                    *sum = [simd.mul_add_e_f32s(x, left, sum[0]), simd.mul_add_e_f32s(x, right, sum[1])];
                }
            }
            for (out, sum) in out.chunks_exact_mut(columns).zip(sums) {
                let (out, _) = S::as_mut_simd_f32s(&mut out[at..]);
                (out[0], out[1]) = (sum[0], sum[1]);
            }
        }
    }
}

/// Loads a vector of the values of `xs` from index `at` on; zeros past the end.
#[inline(always)]
pub(super) fn load<S: Simd>(simd: S, xs: &[f32], at: usize) -> S::f32s {
    let rest = xs.get(at..).unwrap_or_default();
    match S::as_simd_f32s(rest).0.first() {
        Some(first) => *first,
        None => simd.partial_load_f32s(rest),
    }
}

/// Stores the vector into `xs` from index `at` on, as many values as fit.
#[inline(always)]
pub(super) fn store<S: Simd>(simd: S, xs: &mut [f32], at: usize, values: S::f32s) {
    let Some(rest) = xs.get_mut(at..) else { return };
    match S::as_mut_simd_f32s(rest).0.first_mut() {
        Some(first) => *first = values,
        None => simd.partial_store_f32s(rest, values),
    }
}

#[cfg(test)]
mod tests {
    use pulp::{Arch, WithSimd};

    use super::*;

    struct Product<'a>(&'a [f32], &'a [f32], usize, usize, &'a mut [f32]);

    impl WithSimd for Product<'_> {
        type Output = ();

        #[inline(always)]
        fn with_simd<S: Simd>(self, simd: S) {
            let Self(a, b, inner, columns, out) = self;
            small_product(simd, (a, inner + 1, inner), b, columns, out);
        }
    }

    #[test]
    fn small_products_are_products() {
        let (rows, inner, columns) = (8, 5, 64);
        let a: Vec<f32> = (0..rows * (inner + 1)).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let b: Vec<f32> = (0..inner * columns).map(|i| (i * 5 % 13) as f32 - 6.0).collect();
        let mut out = vec![f32::NAN; rows * columns];
        Arch::new().dispatch(Product(&a, &b, inner, columns, &mut out));
        for (row, column) in (0..rows).flat_map(|row| (0..columns).map(move |column| (row, column))) {
            let expected: f32 = (0..inner).map(|k| a[row * (inner + 1) + k] * b[k * columns + column]).sum();
            assert_eq!(out[row * columns + column], expected, "{row} {column}");
        }
    }
}
