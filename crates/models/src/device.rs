//! Selection of the compute device and dtype.
//!
//! On a GPU, each thread that computes opens the device for itself: a handle has a stream and a cuBLAS handle of its own, and
//! two threads must not share those. A process may have handles of several GPUs, and several of one.

#[cfg(feature = "cuda")]
mod cuda;
mod facts;
mod memory;

use std::{fmt, str::FromStr};

pub use facts::DeviceFacts;
pub use memory::DeviceMemory;

use candle_core::{DType, Device};

/// The requested device: automatic, the CPU, or a specific GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if the program is built with CUDA and one is available, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with that index.
    Cuda(usize),
}

/// The dtype of the large networks. Parts that need the range of float32 (norms, the residual stream, the detector)
/// use float32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// float32 on the CPU, bfloat16 on a GPU, as in the published code.
    #[default]
    Auto,
    /// float32.
    F32,
    /// float16.
    F16,
    /// bfloat16.
    Bf16,
}

/// An open device and the dtype to compute in.
#[derive(Clone, Debug)]
pub struct Compute {
    /// The device. Tensors of two handles cannot be combined, also if both are of one GPU: networks that give each other
    /// tensors share a handle, and then a thread.
    pub device: Device,
    /// The dtype of the large networks.
    pub dtype: DType,
}

/// The requested device is not available.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The program was built without CUDA.
    #[error("this program is built without CUDA; build it with `--features cuda`, or take the device cpu")]
    NotBuilt,
    /// The GPU does not exist, its driver failed, or driver or GPU are too old for this program.
    #[error(
        "CUDA device {number} cannot be used; `nvidia-smi` must list it, with driver 580 or newer and capability 8.0 or \
         higher; or take the device cpu"
    )]
    Unavailable {
        /// Index of the GPU.
        number: usize,
        /// The driver's error.
        #[source]
        source: candle_core::Error,
    },
    /// Not a device name.
    #[error("{0:?} is no device; give auto, cpu, cuda, or cuda:1 for the second GPU")]
    BadName(String),
    /// Not a dtype name.
    #[error("{0:?} is no type to compute in; give auto, f32, f16 or bf16")]
    BadType(String),
}

impl DeviceChoice {
    /// Opens the device: once for each thread that computes.
    ///
    /// # Errors
    ///
    /// A specific GPU was requested and is not available.
    pub fn open(self, precision: Precision) -> Result<Compute, DeviceError> {
        let device = match self {
            Self::Cpu => Device::Cpu,
            Self::Cuda(number) => open_cuda(number)?,
            // No specific device was requested, so the CPU is an acceptable fallback. It is a hundred times slower, so the
            // log says why it is used.
            Self::Auto => open_cuda(0).unwrap_or_else(|error| {
                match &error {
                    DeviceError::Unavailable { source, .. } => {
                        tracing::warn!(%error, cause = %source, "no GPU is used")
                    }
                    _ => tracing::debug!(%error, "no GPU is used"),
                }
                Device::Cpu
            }),
        };
        let dtype = precision.on(&device);
        tracing::info!(device = ?device.location(), ?dtype, "the networks' device");
        Ok(Compute { device, dtype })
    }
}

impl Compute {
    /// Waits until the device has done all that it was given, such as copying weights, and returns its errors.
    ///
    /// # Errors
    /// Something that was given before has failed.
    pub fn synchronize(&self) -> candle_core::Result<()> {
        self.device.synchronize()
    }
}

impl Precision {
    /// Returns the names of the types that this can become, the likeliest first: the choice may be left to a device that
    /// this process does not have.
    pub fn possible(self) -> Vec<&'static str> {
        let types = match self {
            Self::Auto if cfg!(feature = "cuda") => vec![DType::BF16, DType::F32],
            Self::Auto => vec![DType::F32, DType::BF16],
            Self::F32 => vec![DType::F32],
            Self::F16 => vec![DType::F16],
            Self::Bf16 => vec![DType::BF16],
        };
        types.into_iter().map(|dtype| dtype.as_str()).collect()
    }

    fn on(self, device: &Device) -> DType {
        match self {
            Self::Auto if device.is_cpu() => DType::F32,
            Self::Auto | Self::Bf16 => DType::BF16,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(number: usize) -> Result<Device, DeviceError> {
    cuda::open(number).map_err(|source| DeviceError::Unavailable { number, source })
}

#[cfg(not(feature = "cuda"))]
fn open_cuda(_number: usize) -> Result<Device, DeviceError> {
    Err(DeviceError::NotBuilt)
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number.map(Self::Cuda).ok_or_else(|| DeviceError::BadName(text.to_owned()))
            }
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Precision {
    type Err = DeviceError;

    fn from_str(text: &str) -> Result<Self, DeviceError> {
        match text {
            "auto" => Ok(Self::Auto),
            "f32" => Ok(Self::F32),
            "f16" => Ok(Self::F16),
            "bf16" => Ok(Self::Bf16),
            _ => Err(DeviceError::BadType(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_wrong_ones_say_what_is_right() {
        for name in ["auto", "cpu", "cuda:0", "cuda:3"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        assert_eq!("cuda".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(0));
        for name in ["", "gpu", "cuda:", "cuda:x", "cuda:-1"] {
            assert!(name.parse::<DeviceChoice>().unwrap_err().to_string().contains("give auto, cpu, cuda"), "{name}");
        }
        assert!("float".parse::<Precision>().unwrap_err().to_string().contains("f32, f16 or bf16"));
    }

    #[test]
    fn the_processor_computes_in_float32_unless_told_otherwise() {
        for (name, dtype) in [("auto", DType::F32), ("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16)] {
            let compute = DeviceChoice::Cpu.open(name.parse().unwrap()).unwrap();
            assert!(compute.device.is_cpu());
            assert_eq!(compute.dtype, dtype);
        }
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_only_where_it_was_asked_for() {
        let error = DeviceChoice::Cuda(9_999).open(Precision::Auto).unwrap_err();
        assert!(error.to_string().contains("take the device cpu"), "{error}");
        DeviceChoice::Auto.open(Precision::Auto).unwrap();
    }
}
