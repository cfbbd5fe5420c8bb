//! Addresses of tensors on a GPU, launches of our kernels, and matrix products with layouts that candle's lack.

use candle_core::{
    CudaDevice, CudaStorage, DType, Device, Result, Shape, Storage, Tensor,
    backend::BackendStorage,
    bail,
    cuda_backend::{
        CudaStorageSlice, WrapErr,
        cudarc::{
            cublas::{result::gemm_strided_batched_ex, sys},
            driver::{CudaSlice, CudaStream, DevicePtr, DeviceRepr, LaunchConfig, PushKernelArg, SyncOnDrop},
        },
    },
};

use super::flash::RowsArgument;

/// A compiled file of kernels, and the name under which candle keeps it once it is loaded.
type Module = (&'static str, &'static str);

const ROWS: Module = ("echogen-rows", include_str!(concat!(env!("OUT_DIR"), "/rows.ptx")));

const MAPS: Module = ("echogen-maps", include_str!(concat!(env!("OUT_DIR"), "/maps.ptx")));

const DRAWS: Module = ("echogen-draws", include_str!(concat!(env!("OUT_DIR"), "/draws.ptx")));

const FLASH: Module = ("echogen-flash", include_str!(concat!(env!("OUT_DIR"), "/flash.ptx")));

/// The kernels of `flash.cu`.
const OF_FLASH: [&str; 3] = ["attend_64", "attend_96", "attend_128"];

/// The kernels of `maps.cu`.
const OF_MAPS: [&str; 4] = ["patches", "finish", "group_moments", "group_norm"];

/// The kernels of `draws.cu`; all others are in `rows.cu`.
const OF_DRAWS: [&str; 4] = ["weighted_sum", "draw_bits", "add_codes", "code_tokens"];

/// Threads of a block that works on one row; `ROW_THREADS` in `common.cuh`.
const ROW_THREADS: u32 = 256;

/// Threads of a block of which each works on one number.
const NUMBER_THREADS: u32 = 256;

/// Warps of a block of which each works on one head; `HEAD_WARPS` in `common.cuh`.
const HEAD_WARPS: usize = 4;

/// Warps of a block that works on a tile of queries; `ATTEND_WARPS` in `flash.cu`.
const TILE_WARPS: u32 = 4;

/// One part of a projection, and where its heads go; `Part` in `rows.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) bias: u64,
    pub(super) sharpness: u64,
    pub(super) out: u64,
    pub(super) row_stride: u64,
    pub(super) head_stride: u64,
    pub(super) unit: i32,
    pub(super) rotate: i32,
}

#[expect(unsafe_code, reason = "a marker: the type is passed to kernels by its bytes")]
// SAFETY: plain numbers in the layout of C, which is how the kernel declares it.
unsafe impl DeviceRepr for Part {}

/// An argument of a kernel.
#[derive(Clone, Copy, Debug)]
pub(super) enum Argument<'a> {
    /// The address of device memory; 0 for none.
    Address(u64),
    Count(usize),
    Number(u64),
    Float(f32),
    Double(f64),
    Code(i32),
    Part(Part),
    Rows(&'a RowsArgument),
}

/// A kernel's name without its type, and the type.
pub(super) type Kernel = (&'static str, DType);

/// Creates a tensor that the caller fills.
#[expect(unsafe_code, reason = "zeroing memory that is written next would be a launch more")]
pub(super) fn empty(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    // SAFETY: the memory holds numbers, which have no invalid bits, and every caller launches what writes all of it before it
    // hands the tensor on.
    unsafe { Tensor::empty(shape, dtype, device) }
}

/// Calls `f` with the device and the addresses of the tensors' first elements, 0 for none. The tensors' storages are
/// borrowed meanwhile, and what `f` launches is ordered after what wrote them.
pub(super) fn with_addresses<R>(
    tensors: &[Option<&Tensor>],
    f: impl FnOnce(&CudaDevice, &[u64]) -> Result<R>,
) -> Result<R> {
    let held: Vec<_> = tensors.iter().map(|tensor| tensor.map(Tensor::storage_and_layout)).collect();
    let Some(device) = held.iter().flatten().find_map(|(storage, _)| match &**storage {
        Storage::Cuda(storage) => Some(storage.device.clone()),
        _ => None,
    }) else {
        bail!("a GPU's kernel was given no tensor of a GPU");
    };
    let stream = device.cuda_stream();
    let mut addresses = Vec::with_capacity(held.len());
    let mut uses = Vec::with_capacity(held.len());
    for held in &held {
        let Some((storage, layout)) = held else {
            addresses.push(0);
            continue;
        };
        let Storage::Cuda(storage) = &**storage else { bail!("a GPU's kernel was given a tensor of another device") };
        let (address, used) = address_of(storage, &stream)?;
        addresses.push(address + (layout.start_offset() * storage.dtype().size_in_bytes()) as u64);
        uses.push(used);
    }
    f(&device, &addresses)
}

fn address_of<'a>(storage: &'a CudaStorage, stream: &'a CudaStream) -> Result<(u64, SyncOnDrop<'a>)> {
    fn of<'a, T>(slice: &'a CudaSlice<T>, stream: &'a CudaStream) -> (u64, SyncOnDrop<'a>) {
        slice.device_ptr(stream)
    }
    Ok(match &storage.slice {
        CudaStorageSlice::F32(slice) => of(slice, stream),
        CudaStorageSlice::F16(slice) => of(slice, stream),
        CudaStorageSlice::BF16(slice) => of(slice, stream),
        CudaStorageSlice::U8(slice) => of(slice, stream),
        CudaStorageSlice::U32(slice) => of(slice, stream),
        _ => bail!("a GPU's kernel takes f32, f16, bf16, u8 and u32"),
    })
}

/// Launches a kernel of one block a row.
pub(super) fn launch_by_row(device: &CudaDevice, kernel: Kernel, rows: usize, arguments: &[Argument]) -> Result<()> {
    launch(device, kernel, rows, ROW_THREADS, arguments)
}

/// Launches a kernel of one thread a number.
pub(super) fn launch_by_number(
    device: &CudaDevice,
    kernel: Kernel,
    count: usize,
    arguments: &[Argument],
) -> Result<()> {
    launch(device, kernel, count.div_ceil(NUMBER_THREADS as usize), NUMBER_THREADS, arguments)
}

/// Launches a kernel of one warp a head.
pub(super) fn launch_by_head(device: &CudaDevice, kernel: Kernel, heads: usize, arguments: &[Argument]) -> Result<()> {
    launch(device, kernel, heads.div_ceil(HEAD_WARPS), 32 * HEAD_WARPS as u32, arguments)
}

/// Launches a kernel of one block a tile of queries.
pub(super) fn launch_by_tile(device: &CudaDevice, kernel: Kernel, tiles: usize, arguments: &[Argument]) -> Result<()> {
    launch(device, kernel, tiles, 32 * TILE_WARPS, arguments)
}

#[expect(unsafe_code, reason = "a launch trusts the arguments")]
fn launch(
    device: &CudaDevice,
    (name, dtype): Kernel,
    blocks: usize,
    threads: u32,
    arguments: &[Argument],
) -> Result<()> {
    let blocks = u32::try_from(blocks).map_err(candle_core::Error::wrap)?;
    if blocks == 0 {
        return Ok(());
    }
    let (module, ptx) = match name {
        _ if OF_MAPS.contains(&name) => MAPS,
        _ if OF_DRAWS.contains(&name) => DRAWS,
        _ if OF_FLASH.contains(&name) => FLASH,
        _ => ROWS,
    };
    let function = device.get_or_load_custom_func(&format!("{name}_{}", dtype.as_str()), module, ptx)?;
    let mut builder = function.builder();
    for argument in arguments {
        match argument {
            Argument::Address(address) => builder.arg(address),
            Argument::Count(count) => builder.arg(count),
            Argument::Number(number) => builder.arg(number),
            Argument::Float(number) => builder.arg(number),
            Argument::Double(number) => builder.arg(number),
            Argument::Code(code) => builder.arg(code),
            Argument::Part(part) => builder.arg(part),
            Argument::Rows(rows) => builder.arg(*rows),
        };
    }
    let config = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: the callers in this module pass what the kernel of that name declares, addresses from `with_addresses` of
    // tensors whose shapes and layouts they have checked, and counts and strides of these; the kernels write to their results
    // only.
    unsafe { builder.launch(config) }.w()?;
    Ok(())
}

/// A batch of matrices in row-major order, at an address: element (i, j) of matrix b is b · `batch_stride` + i ·
/// `row_stride` + j further.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrices {
    pub(super) address: u64,
    pub(super) dtype: DType,
    pub(super) row_stride: usize,
    pub(super) batch_stride: usize,
}

/// The sizes of a batch of products, (m, k) times (k, n).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) batch: usize,
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
}

/// Sets `out` to a · b, or to a · bᵀ if `b` is stored as (n, k); adds it to `out` if `add`. Sums in float32.
#[expect(unsafe_code, reason = "cuBLAS takes addresses and strides")]
pub(super) fn multiply(
    device: &CudaDevice,
    out: Matrices,
    a: Matrices,
    (b, is_transposed): (Matrices, bool),
    sizes: Sizes,
    add: bool,
) -> Result<()> {
    let int = |size: usize| i32::try_from(size).map_err(candle_core::Error::wrap);
    let long = |size: usize| i64::try_from(size).map_err(candle_core::Error::wrap);
    let (one, beta) = (1f32, if add { 1f32 } else { 0f32 });
    let blas = device.cublas_handle();
    // cuBLAS counts by columns, where a row-major matrix is its transpose: outᵀ = bᵀ · aᵀ.
    let op_b = if is_transposed { sys::cublasOperation_t::CUBLAS_OP_T } else { sys::cublasOperation_t::CUBLAS_OP_N };
    // SAFETY: the callers in this module pass addresses from `with_addresses`, and strides and sizes of these tensors'
    // checked layouts; `out` overlaps neither operand.
    unsafe {
        gemm_strided_batched_ex(
            *blas.handle(),
            op_b,
            sys::cublasOperation_t::CUBLAS_OP_N,
            int(sizes.n)?,
            int(sizes.m)?,
            int(sizes.k)?,
            (&raw const one).cast(),
            b.address as *const _,
            data_type(b.dtype)?,
            int(b.row_stride)?,
            long(b.batch_stride)?,
            a.address as *const _,
            data_type(a.dtype)?,
            int(a.row_stride)?,
            long(a.batch_stride)?,
            (&raw const beta).cast(),
            out.address as *mut _,
            data_type(out.dtype)?,
            int(out.row_stride)?,
            long(out.batch_stride)?,
            int(sizes.batch)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT_TENSOR_OP,
        )
    }
    .w()
}

fn data_type(dtype: DType) -> Result<sys::cudaDataType> {
    Ok(match dtype {
        DType::F32 => sys::cudaDataType::CUDA_R_32F,
        DType::F16 => sys::cudaDataType::CUDA_R_16F,
        DType::BF16 => sys::cudaDataType::CUDA_R_16BF,
        _ => bail!("a GPU's product takes f32, f16 and bf16"),
    })
}
