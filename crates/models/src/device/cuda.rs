//! Opening of a GPU, and what the driver says about it.
//!
//! Each opened device has a stream of its own, on which all its work is ordered, whichever thread submits it. The per-thread
//! stream that candle takes by default would be another one in each thread: weights that one thread loads could be read by
//! another before they have arrived.

use std::{ffi::c_void, ptr};

use candle_core::{
    CudaDevice, DType, Device, Result, Tensor,
    cuda_backend::{
        WrapErr,
        cudarc::driver::{CudaContext, result, sys},
    },
};

use super::{DeviceFacts, DeviceMemory};

/// Opens a GPU.
pub(super) fn open(number: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    let cuda = device.as_cuda_device()?;
    take_no_events(cuda);
    keep_memory(cuda.cuda_stream().context())?;
    // One kernel, so that a driver or a GPU that is too old for this program is noticed here and not by the first job.
    Tensor::ones(1, DType::F32, &device)?.affine(2.0, 1.0)?.to_vec1::<f32>()?;
    Ok(device)
}

/// Switches off the events by which cudarc orders streams: six calls of the driver a tensor.
#[expect(unsafe_code, reason = "one stream needs no events; nobody but this module creates streams")]
fn take_no_events(cuda: &CudaDevice) {
    // SAFETY: every tensor of this handle is allocated, used and freed on the handle's only stream, in the order of submission.
    // Tensors of two handles cannot be combined: candle compares the handles' ids, and copies through the host's memory.
    unsafe { cuda.disable_event_tracking() }
}

/// Lets the device's pool keep what tensors have freed. By default each synchronisation returns it to the driver, which maps
/// it anew for the next tensor.
#[expect(unsafe_code, reason = "cudarc has no safe form of this call of the driver")]
fn keep_memory(context: &CudaContext) -> Result<()> {
    if !context.has_async_alloc() {
        return Ok(());
    }
    context.bind_to_thread().w()?;
    let mut threshold = u64::MAX;
    // SAFETY: the device is a valid one of this context, the default pool lives as long as the device, and the attribute is a
    // 64-bit number that the driver copies.
    unsafe {
        let pool = result::device::get_default_mem_pool(context.cu_device()).w()?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, ptr::from_mut(&mut threshold).cast::<c_void>()).result().w()
    }
}

/// Returns what is known about an open GPU.
pub(super) fn facts(cuda: &CudaDevice) -> Result<DeviceFacts> {
    let stream = cuda.cuda_stream();
    let context = stream.context();
    let (major, minor) = context.compute_capability().w()?;
    Ok(DeviceFacts {
        name: context.name().w()?,
        details: vec![
            ("capability".to_owned(), format!("{major}.{minor}")),
            ("driver's CUDA".to_owned(), driver_version()?),
            ("GPUs".to_owned(), CudaContext::device_count().w()?.to_string()),
            ("uuid".to_owned(), uuid(context)?),
        ],
        memory: memory(cuda).ok(),
    })
}

/// Returns the device's memory as the driver counts it. What the pool keeps is counted as used.
pub(super) fn memory(cuda: &CudaDevice) -> Result<DeviceMemory> {
    let (free, total) = cuda.cuda_stream().context().mem_get_info().w()?;
    Ok(DeviceMemory { free: free as u64, total: total as u64 })
}

fn uuid(context: &CudaContext) -> Result<String> {
    let bytes = context.uuid().w()?.bytes;
    Ok(bytes.iter().map(|byte| format!("{:02x}", *byte as u8)).collect())
}

/// Returns the newest version of CUDA that the driver runs, such as 13.0.
#[expect(unsafe_code, reason = "cudarc has no safe form of this call of the driver")]
fn driver_version() -> Result<String> {
    let mut version = 0;
    // SAFETY: the driver writes one number to the place.
    unsafe { sys::cuDriverGetVersion(&mut version) }.result().w()?;
    Ok(format!("{}.{}", version / 1000, version % 1000 / 10))
}
