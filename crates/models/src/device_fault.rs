//! Classification of the errors of a compute device.
//!
//! After an illegal memory access, a failed launch or a lost GPU, every later CUDA call of the process fails, and only
//! a new process can recover. Other errors say nothing about the device: want of memory passes with the batch, and a kernel,
//! type or layout that candle lacks is a mistake of ours, which fails the work and not the process.

use std::error::Error;

/// The names of the errors after which a CUDA context, or a handle in it, is of no use. Matched as text, because the driver's
/// error types exist only in CUDA builds. Source: the comments on `cudaError_enum` in CUDA's driver API, and on
/// `cublasStatus_t`.
const BROKEN: [&str; 27] = [
    "CUDA_ERROR_ASSERT",
    "CUDA_ERROR_CONTAINED",
    "CUDA_ERROR_CONTEXT_IS_DESTROYED",
    "CUDA_ERROR_DEINITIALIZED",
    "CUDA_ERROR_DEVICE_UNAVAILABLE",
    "CUDA_ERROR_ECC_UNCORRECTABLE",
    "CUDA_ERROR_EXTERNAL_DEVICE",
    "CUDA_ERROR_HARDWARE_STACK_ERROR",
    "CUDA_ERROR_ILLEGAL_ADDRESS",
    "CUDA_ERROR_ILLEGAL_INSTRUCTION",
    "CUDA_ERROR_INVALID_ADDRESS_SPACE",
    "CUDA_ERROR_INVALID_CONTEXT",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_LAUNCH_FAILED",
    "CUDA_ERROR_LAUNCH_TIMEOUT",
    "CUDA_ERROR_MISALIGNED_ADDRESS",
    "CUDA_ERROR_MPS_",
    "CUDA_ERROR_NO_DEVICE",
    "CUDA_ERROR_NOT_INITIALIZED",
    "CUDA_ERROR_NVLINK_UNCORRECTABLE",
    "CUDA_ERROR_SYSTEM_NOT_READY",
    "CUDA_ERROR_TENSOR_MEMORY_LEAK",
    "CUDA_ERROR_UNKNOWN",
    "CUBLAS_STATUS_EXECUTION_FAILED",
    "CUBLAS_STATUS_INTERNAL_ERROR",
    "CUBLAS_STATUS_MAPPING_ERROR",
    "CUBLAS_STATUS_NOT_INITIALIZED",
];

/// The names of errors that say that there is not enough memory for what was asked.
const WANT_OF_MEMORY: [&str; 4] = [
    "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CURAND_STATUS_ALLOCATION_FAILED",
];

/// What candle and cuBLAS call operations that they do not have: names of variants, and of errors.
const MISSING: [&str; 9] = [
    "MissingKernel",
    "UnsupportedDtype",
    "UnexpectedDType",
    "MatMulNonContiguous",
    "InternalError(",
    "CUDA_ERROR_NOT_FOUND",
    "CUDA_ERROR_INVALID_VALUE",
    "CUBLAS_STATUS_NOT_SUPPORTED",
    "CUBLAS_STATUS_INVALID_VALUE",
];

/// What an error of a network says about what can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The device is of no more use to this process.
    BrokenDevice,
    /// There was not enough memory: a smaller batch may succeed, and so may the same one later.
    OutOfMemory,
    /// candle lacks an operation for this type, shape or layout: a mistake of ours. The work fails again each time, the device
    /// is well.
    Mistake,
    /// Something else.
    Other,
}

/// Classifies an error by the first of candle's in its source chain.
pub fn classify(error: &(dyn Error + 'static)) -> ErrorClass {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<candle_core::Error>() {
            return class_of(error);
        }
        next = error.source();
    }
    ErrorClass::Other
}

/// Whether the error, or one in its source chain, says that the compute device is of no more use to this process.
pub fn is_device_fault(error: &(dyn Error + 'static)) -> bool {
    classify(error) == ErrorClass::BrokenDevice
}

/// Whether the error, or one in its source chain, says that the device has not enough memory for what was asked.
pub fn is_out_of_memory(error: &(dyn Error + 'static)) -> bool {
    classify(error) == ErrorClass::OutOfMemory
}

fn class_of(error: &candle_core::Error) -> ErrorClass {
    match error {
        candle_core::Error::Cuda(inner) => class_of_text(&format!("{inner:?} {inner}")),
        candle_core::Error::Context { inner, .. }
        | candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::WithBacktrace { inner, .. } => class_of(inner),
        candle_core::Error::WrappedContext { wrapped, .. } => match wrapped.downcast_ref::<candle_core::Error>() {
            Some(inner) => class_of(inner),
            None => class_of_text(&format!("{wrapped:?}")),
        },
        // Our own check of layouts, and candle's for both kinds of devices.
        candle_core::Error::UnsupportedDTypeForOp(..)
        | candle_core::Error::UnexpectedDType { .. }
        | candle_core::Error::RequiresContiguous { .. }
        | candle_core::Error::DTypeMismatchBinaryOp { .. }
        | candle_core::Error::DeviceMismatchBinaryOp { .. }
        | candle_core::Error::ShapeMismatchBinaryOp { .. } => ErrorClass::Mistake,
        _ => ErrorClass::Other,
    }
}

fn class_of_text(text: &str) -> ErrorClass {
    let names = |names: &[&str]| names.iter().any(|name| text.contains(name));
    match () {
        () if names(&WANT_OF_MEMORY) => ErrorClass::OutOfMemory,
        () if names(&BROKEN) => ErrorClass::BrokenDevice,
        () if names(&MISSING) => ErrorClass::Mistake,
        () => ErrorClass::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{echogen::SampleError, generator::GeneratorError};

    fn cuda(text: &str) -> candle_core::Error {
        candle_core::Error::Cuda(text.into())
    }

    #[test]
    fn a_fault_is_found_behind_other_errors() {
        let fault = || cuda("DriverError(CUDA_ERROR_ILLEGAL_ADDRESS, \"an illegal memory access was encountered\")");
        assert!(is_device_fault(&fault()));
        assert!(is_device_fault(&cuda("CublasError(CUBLAS_STATUS_EXECUTION_FAILED)")));
        assert!(is_device_fault(&fault().bt()));
        assert!(is_device_fault(&fault().context("scale 3")));
        assert!(is_device_fault(&GeneratorError::from(fault())));
        assert!(is_device_fault(&GeneratorError::from(SampleError::from(fault()))));
    }

    #[test]
    fn each_error_of_the_driver_has_its_class() {
        for (class, text) in [
            (ErrorClass::OutOfMemory, "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")"),
            (ErrorClass::OutOfMemory, "Cublas(CublasError(CUBLAS_STATUS_ALLOC_FAILED))"),
            (ErrorClass::BrokenDevice, "DriverError(CUDA_ERROR_LAUNCH_FAILED, \"unspecified launch failure\")"),
            (ErrorClass::BrokenDevice, "DriverError(CUDA_ERROR_ECC_UNCORRECTABLE, \"uncorrectable ECC error\")"),
            (ErrorClass::Mistake, "CublasError(CUBLAS_STATUS_NOT_SUPPORTED)"),
            (ErrorClass::Mistake, "DriverError(CUDA_ERROR_NOT_FOUND, \"named symbol not found\")"),
            (ErrorClass::Mistake, "UnsupportedDtype { dtype: U8, op: \"matmul\" }"),
            (ErrorClass::Mistake, "MatMulNonContiguous { lhs_stride: [3, 1], rhs_stride: [1, 3], mnk: (1, 2, 3) }"),
            (ErrorClass::Mistake, "MissingKernel { module_name: \"usoftmax_bf16\" }"),
            (ErrorClass::Other, "DriverError(CUDA_ERROR_INVALID_PTX, \"a PTX JIT compilation failed\")"),
        ] {
            let error = GeneratorError::from(SampleError::from(cuda(text).context("scale 3").bt()));
            assert_eq!(classify(&error), class, "{text}");
            assert_eq!(is_device_fault(&error), class == ErrorClass::BrokenDevice, "{text}");
            assert_eq!(is_out_of_memory(&error), class == ErrorClass::OutOfMemory, "{text}");
        }
    }

    #[test]
    fn mistakes_on_any_device_are_told_from_the_rest() {
        let xs = |dtype| candle_core::Tensor::zeros((2, 3), dtype, &candle_core::Device::Cpu).unwrap();
        let mixed = (xs(candle_core::DType::F32) + xs(candle_core::DType::BF16)).unwrap_err();
        assert_eq!(classify(&GeneratorError::from(mixed)), ErrorClass::Mistake);
        assert_eq!(classify(&candle_core::Error::Msg("shapes differ".to_owned())), ErrorClass::Other);
        assert_eq!(classify(&SampleError::Invalid("no scale".to_owned())), ErrorClass::Other);
    }
}
