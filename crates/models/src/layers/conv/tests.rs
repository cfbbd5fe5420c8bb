//! Compares the CPU kernels with candle's convolution in f64.

use candle_core::{DType, Device};

use super::*;

/// Returns values in [-1, 1) from a linear congruential generator.
pub(super) fn noise(shape: (usize, usize, usize, usize), seed: u64) -> Result<Tensor> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values = (0..shape.0 * shape.1 * shape.2 * shape.3).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    });
    Tensor::from_vec(values.collect(), shape, &Device::Cpu)
}

/// Returns the largest difference, relative to the largest magnitude of `expected`, or to 1 where that is smaller: a
/// single pixel may be the small difference of large summands.
fn relative_error(actual: &Tensor, expected: &Tensor) -> Result<f64> {
    assert_eq!(actual.dims(), expected.dims());
    let largest = |xs: &Tensor| xs.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>();
    let error = largest(&(actual.to_dtype(DType::F64)? - expected)?)?;
    Ok(error / largest(expected)?.max(1.0))
}

/// Returns the convolution in f32, and the same in f64 by candle.
fn pair(in_channels: usize, out_channels: usize, geometry: Geometry) -> Result<(Conv2d, Conv2d)> {
    let weight = noise((out_channels, in_channels, geometry.kernel, geometry.kernel), 1)?;
    let bias = noise((1, 1, 1, out_channels), 2)?.flatten_all()?;
    let exact = Conv2d::from_tensors(&weight.to_dtype(DType::F64)?, bias.to_dtype(DType::F64)?, geometry)?;
    assert!(matches!(exact.weight, Weight::Plain(_)));
    Ok((Conv2d::from_tensors(&weight, bias, geometry)?, exact))
}

const SHAPES: [(usize, usize, usize, usize, usize); 8] = [
    // batch, in, out, height, width
    (1, 1, 1, 1, 1),
    (1, 3, 5, 2, 3),
    (2, 7, 3, 5, 9),
    (3, 16, 32, 4, 4),
    (2, 33, 17, 13, 11),
    (1, 20, 50, 1, 31),
    (1, 48, 3, 37, 2),
    (2, 32, 16, 24, 40),
];

#[test]
fn every_geometry_agrees_with_candle() -> Result<()> {
    for (batch, inputs, outputs, height, width) in SHAPES {
        for geometry in [Geometry::POINTWISE, Geometry::SAME_3X3, Geometry::HALVING_3X3] {
            if height + geometry.after < geometry.kernel || width + geometry.after < geometry.kernel {
                continue;
            }
            let (conv, exact) = pair(inputs, outputs, geometry)?;
            let xs = noise((batch, inputs, height, width), 3)?;
            let expected = exact.forward(&xs.to_dtype(DType::F64)?)?;
            let error = relative_error(&conv.forward(&xs)?, &expected)?;
            assert!(error < 2e-6, "{geometry:?} {:?}: {error}", xs.dims());
        }
    }
    Ok(())
}

#[test]
fn both_ways_agree_with_candle_on_tiny_maps_too() -> Result<()> {
    for (batch, inputs, outputs, height, width) in SHAPES {
        let (conv, exact) = pair(inputs, outputs, Geometry::SAME_3X3)?;
        let Weight::Patches(weight) = &conv.weight else { panic!("f32 on the CPU has kernels of its own") };
        let xs = noise((batch, inputs, height, width), 4)?;
        let residual = noise((batch, outputs, height, width), 5)?;
        let expected = exact.forward_onto(&xs.to_dtype(DType::F64)?, &residual.to_dtype(DType::F64)?)?;
        let (xs, residual) = (channels_last(&xs)?, channels_last(&residual)?);
        let map = FeatureMap::shape_of(&xs, Scale::One)?;
        let finish = Finish { bias: &conv.bias, residual: Some(&residual) };
        let shape = (batch, height, width, outputs);
        let winograd = channels_last_view(winograd::conv3x3(&xs, &map, weight, &finish)?, shape)?;
        assert!(relative_error(&winograd, &expected)? < 3e-6, "winograd {shape:?}");
        let im2col = im2col::conv(&xs, &map, weight, conv.geometry, (height, width), &finish)?;
        assert!(relative_error(&channels_last_view(im2col, shape)?, &expected)? < 2e-6, "im2col {shape:?}");
    }
    Ok(())
}

#[test]
fn several_bands_are_one_map() -> Result<()> {
    // Wide enough that both algorithms need more than one band.
    let (conv, exact) = pair(64, 64, Geometry::SAME_3X3)?;
    let xs = noise((2, 64, 66, 190), 6)?;
    let expected = exact.forward(&xs.to_dtype(DType::F64)?)?;
    assert!(relative_error(&conv.forward(&xs)?, &expected)? < 3e-6);
    let (conv, exact) = pair(64, 8, Geometry::HALVING_3X3)?;
    let xs = noise((2, 64, 130, 200), 7)?;
    let expected = exact.forward(&xs.to_dtype(DType::F64)?)?;
    assert!(relative_error(&conv.forward(&xs)?, &expected)? < 3e-6);
    Ok(())
}

#[test]
fn doubling_repeats_pixels() -> Result<()> {
    for (batch, inputs, outputs, height, width) in SHAPES {
        let (conv, exact) = pair(inputs, outputs, Geometry::SAME_3X3)?;
        let xs = noise((batch, inputs, height, width), 8)?;
        let doubled = xs.to_dtype(DType::F64)?.upsample_nearest2d(2 * height, 2 * width)?;
        let error = relative_error(&conv.forward_doubled(&xs)?, &exact.forward(&doubled)?)?;
        assert!(error < 3e-6, "{:?}: {error}", xs.dims());
        assert!(relative_error(&exact.forward_doubled(&xs.to_dtype(DType::F64)?)?, &exact.forward(&doubled)?)? < 1e-12);
    }
    Ok(())
}

#[test]
fn refuses_what_does_not_fit() -> Result<()> {
    let (conv, _) = pair(4, 6, Geometry::SAME_3X3)?;
    assert!(conv.forward(&noise((1, 5, 8, 8), 1)?).is_err());
    assert!(conv.forward_onto(&noise((1, 4, 8, 8), 1)?, &noise((1, 6, 8, 7), 1)?).is_err());
    let (halving, _) = pair(4, 6, Geometry::HALVING_3X3)?;
    assert!(halving.forward(&noise((1, 4, 1, 8), 1)?).is_err());
    Ok(())
}
