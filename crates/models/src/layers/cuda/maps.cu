// Kernels on feature maps for NVIDIA GPUs; `conv.rs` beside this file launches them and says what each computes. The rules of
// `rows.cu` hold here too. A map is (channels, height, width), and its numbers are of T; sums are float.

#include "common.cuh"

// One thread a number: column `pixel` of row (channel, y, x of the kernel) of `out` is what the kernel reads there for output
// pixel `pixel` of the rows from `first_row` on; zero outside of the map. If `doubled`, every pixel of the map is four.
template <typename T>
__device__ void patches(const T *xs, T *out, count_t count, count_t height, count_t width, count_t kernel, count_t stride,
                        count_t before, count_t out_width, count_t first_row, count_t pixels, int doubled) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const count_t pixel = i % pixels, row = i / pixels, place = row % (kernel * kernel), channel = row / (kernel * kernel);
    // One `before` more than it is: numbers below zero are none of the type.
    const count_t y = (first_row + pixel / out_width) * stride + place / kernel;
    const count_t x = pixel % out_width * stride + place % kernel;
    const count_t factor = doubled ? 2 : 1;
    float value = 0.0f;
    if (y >= before && y - before < factor * height && x >= before && x - before < factor * width)
        value = to_float(xs[(channel * height + (y - before) / factor) * width + (x - before) / factor]);
    store(out + i, value);
}

// One thread a number: y = y + bias of the channel + residual, in place; `residual` may be null.
template <typename T>
__device__ void finish(T *ys, const T *bias, const T *residual, count_t count, count_t pixels, count_t channels) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float added = residual ? to_float(residual[i]) : 0.0f;
    store(ys + i, to_float(ys[i]) + to_float(bias[i / pixels % channels]) + added);
}

// One block a chunk of a group of channels: its mean, and the sum of the squared distances from it.
template <typename T>
__device__ void group_moments(const T *xs, float *moments, count_t group_size, count_t chunk, count_t chunks) {
    const count_t group = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const count_t count = group_size - first < chunk ? group_size - first : chunk;
    const T *from = xs + group * group_size + first;
    float sum = 0.0f;
    for (count_t i = threadIdx.x; i < count; i += ROW_THREADS) sum += to_float(from[i]);
    const float mean = block_sum(sum) / (float)count;
    float squares = 0.0f;
    for (count_t i = threadIdx.x; i < count; i += ROW_THREADS) squares += (to_float(from[i]) - mean) * (to_float(from[i]) - mean);
    squares = block_sum(squares);
    if (threadIdx.x == 0) {
        moments[2 * blockIdx.x] = mean;
        moments[2 * blockIdx.x + 1] = squares;
    }
}

// One block a chunk: out = (x - mean) / sqrt(variance + eps) weight + bias of the channel, and then x sigmoid(x) if `silu`. Mean
// and variance of the group come from the moments of its chunks.
template <typename T>
__device__ void group_norm(const T *xs, const float *moments, const float *weight, const float *bias, T *out, count_t pixels,
                           count_t channels, count_t group_size, count_t chunk, count_t chunks, float eps, int silu) {
    const count_t group = blockIdx.x / chunks, first = blockIdx.x % chunks * chunk;
    const float *own = moments + 2 * group * chunks;
    float sum = 0.0f;
    for (count_t i = threadIdx.x; i < chunks; i += ROW_THREADS) {
        const count_t count = group_size - i * chunk < chunk ? group_size - i * chunk : chunk;
        sum += own[2 * i] * (float)count;
    }
    const float mean = block_sum(sum) / (float)group_size;
    float squares = 0.0f;
    for (count_t i = threadIdx.x; i < chunks; i += ROW_THREADS) {
        const count_t count = group_size - i * chunk < chunk ? group_size - i * chunk : chunk;
        squares += own[2 * i + 1] + (own[2 * i] - mean) * (own[2 * i] - mean) * (float)count;
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares) / (float)group_size + eps);
    const count_t last = first + chunk < group_size ? first + chunk : group_size;
    for (count_t i = first + threadIdx.x; i < last; i += ROW_THREADS) {
        const count_t at = group * group_size + i, channel = at / pixels % channels;
        float x = (to_float(xs[at]) - mean) * inverse * weight[channel] + bias[channel];
        if (silu) x = x / (1.0f + expf(-x));
        store(out + at, x);
    }
}

#define KERNELS(T, NAME)                                                                                                      \
    extern "C" __global__ void patches_##NAME(const T *xs, T *out, count_t count, count_t height, count_t width,              \
                                              count_t kernel, count_t stride, count_t before, count_t out_width,              \
                                              count_t first_row, count_t pixels, int doubled) {                               \
        patches<T>(xs, out, count, height, width, kernel, stride, before, out_width, first_row, pixels, doubled);             \
    }                                                                                                                         \
    extern "C" __global__ void finish_##NAME(T *ys, const T *bias, const T *residual, count_t count, count_t pixels,          \
                                             count_t channels) {                                                              \
        finish<T>(ys, bias, residual, count, pixels, channels);                                                               \
    }                                                                                                                         \
    extern "C" __global__ void group_moments_##NAME(const T *xs, float *moments, count_t group_size, count_t chunk,           \
                                                    count_t chunks) {                                                         \
        group_moments<T>(xs, moments, group_size, chunk, chunks);                                                             \
    }                                                                                                                         \
    extern "C" __global__ void group_norm_##NAME(const T *xs, const float *moments, const float *weight, const float *bias,   \
                                                 T *out, count_t pixels, count_t channels, count_t group_size, count_t chunk, \
                                                 count_t chunks, float eps, int silu) {                                       \
        group_norm<T>(xs, moments, weight, bias, out, pixels, channels, group_size, chunk, chunks, eps, silu);                \
    }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
#undef KERNELS
