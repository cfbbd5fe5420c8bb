//! Classification of errors that mean the device itself is unusable.
//!
//! After an illegal memory access, a failed launch or a lost GPU, every later CUDA call of the process fails, and only
//! a new process can recover. Out of memory is not such a fault.

use std::error::Error;

/// CUDA's error name for out of memory. Matched as text, because the driver's error type exists only in CUDA builds.
const OUT_OF_MEMORY: &str = "OUT_OF_MEMORY";

/// Whether the error, or one in its source chain, is a fault of the compute device.
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
        candle_core::Error::Cuda(inner) => !format!("{inner:?} {inner}").to_uppercase().contains(OUT_OF_MEMORY),
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
        assert!(is_device_fault(&fault().bt()));
        assert!(is_device_fault(&fault().context("scale 3")));
        assert!(is_device_fault(&GeneratorError::from(fault())));
        assert!(is_device_fault(&GeneratorError::from(SampleError::from(fault()))));
    }

    #[test]
    fn want_of_memory_and_mistakes_are_none() {
        let memory = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        assert!(!is_device_fault(&GeneratorError::from(cuda(memory))));
        assert!(!is_device_fault(&candle_core::Error::Msg("shapes differ".to_owned())));
        assert!(!is_device_fault(&SampleError::Invalid("no scale".to_owned())));
    }
}
