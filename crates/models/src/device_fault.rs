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

/// Whether the error, or one in its source chain, says that the compute device is of no more use to this process.
pub fn is_device_fault(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<candle_core::Error>() {
            return is_of_device(error);
        }
        next = error.source();
    }
    false
}

fn is_of_device(error: &candle_core::Error) -> bool {
    match error {
        candle_core::Error::Cuda(inner) => {
            let text = format!("{inner:?} {inner}");
            BROKEN.iter().any(|name| text.contains(name))
        }
        candle_core::Error::Context { inner, .. }
        | candle_core::Error::WithPath { inner, .. }
        | candle_core::Error::WithBacktrace { inner, .. } => is_of_device(inner),
        _ => false,
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
    fn want_of_memory_and_mistakes_are_none() {
        for mistake in [
            "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
            "CublasError(CUBLAS_STATUS_ALLOC_FAILED)",
            "CublasError(CUBLAS_STATUS_NOT_SUPPORTED)",
            "DriverError(CUDA_ERROR_NOT_FOUND, \"named symbol not found\")",
            "UnsupportedDtype { dtype: U8, op: \"matmul\" }",
            "MatMulNonContiguous { lhs_stride: [3, 1], rhs_stride: [1, 3], mnk: (1, 2, 3) }",
            "MissingKernel { module_name: \"usoftmax_bf16\" }",
        ] {
            assert!(!is_device_fault(&GeneratorError::from(cuda(mistake))), "{mistake}");
        }
        assert!(!is_device_fault(&candle_core::Error::Msg("shapes differ".to_owned())));
        assert!(!is_device_fault(&SampleError::Invalid("no scale".to_owned())));
    }
}
