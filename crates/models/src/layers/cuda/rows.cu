// Row kernels for NVIDIA GPUs; `mod.rs` beside this file launches them and says what each computes.
//
// Every kernel computes in float32 and rounds once, when it stores. T is the type of the blocks (float, half, bfloat16).
// `deploy/cuda/driver/host_kernels.cpp` compiles this file for the CPU too, so that the tests run it without a GPU: therefore
// all threads of a block reach every barrier and every shuffle, and nothing is used that that file does not define.

#include "common.cuh"

__device__ inline float block_max(float x) {
    __shared__ float partial[ROW_THREADS / WARP];
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float max = partial[0];
    for (int warp = 1; warp < ROW_THREADS / WARP; warp++) max = fmaxf(max, partial[warp]);
    return max;
}

// Mean and 1 / sqrt(variance + eps) of a row. Two passes, as on the CPU: a row of activations may lie far from zero.
__device__ inline void moments(const float *row, count_t width, float eps, float *mean, float *inverse) {
    float sum = 0.0f;
    for (count_t i = threadIdx.x; i < width; i += ROW_THREADS) sum += row[i];
    *mean = block_sum(sum) / (float)width;
    float squares = 0.0f;
    for (count_t i = threadIdx.x; i < width; i += ROW_THREADS) squares += (row[i] - *mean) * (row[i] - *mean);
    *inverse = 1.0f / sqrtf(block_sum(squares) / (float)width + eps);
}

// One block a token: out = LN(x) (1 + scale) + shift. `scale` and `shift` point to those of the first row of gains; the next
// row's are `gains_stride` further, and `tokens` tokens share one.
template <typename T>
__device__ void modulated_norm(const float *xs, const float *scale, const float *shift, T *out, count_t width,
                               count_t tokens, count_t gains_stride, float eps) {
    const count_t token = blockIdx.x, gains = token / tokens * gains_stride;
    float mean, inverse;
    moments(xs + token * width, width, eps, &mean, &inverse);
    for (count_t i = threadIdx.x; i < width; i += ROW_THREADS) {
        const float normed = (xs[token * width + i] - mean) * inverse;
        store(out + token * width + i, normed * (1.0f + scale[gains + i]) + shift[gains + i]);
    }
}

// One block a token: out = LN(x) weight + bias.
template <typename T>
__device__ void affine_norm(const float *xs, const T *weight, const T *bias, T *out, count_t width, float eps) {
    const count_t token = blockIdx.x;
    float mean, inverse;
    moments(xs + token * width, width, eps, &mean, &inverse);
    for (count_t i = threadIdx.x; i < width; i += ROW_THREADS) {
        const float normed = (xs[token * width + i] - mean) * inverse;
        store(out + token * width + i, normed * to_float(weight[i]) + to_float(bias[i]));
    }
}

enum { ACTIVATION_NONE, ACTIVATION_GELU_TANH, ACTIVATION_GELU_ERF, ACTIVATION_SILU, ACTIVATION_RELU };

__device__ inline float activated(float x, int activation) {
    switch (activation) {
    case ACTIVATION_GELU_TANH:
        // 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) = x sigmoid of twice that.
        return x / (1.0f + expf(-1.5957691f * (x + 0.044715f * x * x * x)));
    case ACTIVATION_GELU_ERF: return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case ACTIVATION_SILU: return x / (1.0f + expf(-x));
    case ACTIVATION_RELU: return fmaxf(x, 0.0f);
    default: return x;
    }
}

// One thread a number: out = activation(x + bias); `bias` may be null. `xs` and `out` may be the same.
template <typename T>
__device__ void activate(const T *xs, const T *bias, T *out, count_t count, count_t width, int activation) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float added = bias ? to_float(bias[i % width]) : 0.0f;
    store(out + i, activated(to_float(xs[i]) + added, activation));
}

// One thread a number: out = x + gate (y + bias). `bias` and `gate` may be null; a row's gates are `gains_stride` after those
// of the row before, and `tokens` tokens share one.
template <typename T>
__device__ void residual(const float *xs, const T *ys, const T *bias, const float *gate, float *out, count_t count,
                         count_t width, count_t tokens, count_t gains_stride) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const count_t column = i % width, row = i / width / tokens;
    const float y = to_float(ys[i]) + (bias ? to_float(bias[column]) : 0.0f);
    out[i] = xs[i] + (gate ? gate[row * gains_stride + column] : 1.0f) * y;
}

// One part of a projection, and where its heads go. `mod.rs` has the same declaration.
struct Part {
    count_t bias;        // T, or 0: added first
    count_t sharpness;   // float, or 0: one factor a head
    count_t out;         // T: element c of a head's token t is at row * row_stride + head * head_stride + t * head_dim + c
    count_t row_stride;
    count_t head_stride;
    int unit;            // whether the head's vector is then divided by max(its length, 1e-12)
    int rotate;          // whether neighbouring channels are then rotated by the token's angles
};

// One warp a token, part and head: part p of `xs` (rows * tokens, width) are the columns `offset + p * heads * head_dim` and
// following. `cos` and `sin` are (tokens, head_dim / 2), or null.
template <typename T>
__device__ void split_heads(const T *xs, const float *cos, const float *sin, Part first, Part second, Part third,
                            count_t parts, count_t rows, count_t tokens, count_t heads, count_t head_dim, count_t width,
                            count_t offset) {
    const count_t index = (count_t)blockIdx.x * HEAD_WARPS + threadIdx.x / WARP;
    const int is_active = index < rows * tokens * parts * heads;
    const count_t head = index % heads, which = index / heads % parts, place = index / heads / parts;
    const Part part = which == 0 ? first : which == 1 ? second : third;
    const count_t token = place % tokens, row = place / tokens, lane = threadIdx.x % WARP, pairs = head_dim / 2;
    const T *from = xs + (is_active ? place * width + offset + (which * heads + head) * head_dim : 0);
    const T *bias = part.bias ? (const T *)part.bias + head * head_dim : (const T *)0;
    T *out = (T *)part.out + row * part.row_stride + head * part.head_stride + token * head_dim;

    float squares = 0.0f;
    for (count_t i = lane; is_active && i < head_dim; i += WARP) {
        const float x = to_float(from[i]) + (bias ? to_float(bias[i]) : 0.0f);
        squares += x * x;
    }
    squares = warp_sum(squares);
    if (!is_active) return;
    float factor = part.sharpness ? ((const float *)part.sharpness)[head] : 1.0f;
    if (part.unit) factor /= fmaxf(sqrtf(squares), 1e-12f);
    for (count_t pair = lane; pair < pairs; pair += WARP) {
        float even = to_float(from[2 * pair]) + (bias ? to_float(bias[2 * pair]) : 0.0f);
        float odd = to_float(from[2 * pair + 1]) + (bias ? to_float(bias[2 * pair + 1]) : 0.0f);
        even *= factor;
        odd *= factor;
        if (part.rotate) {
            const float c = cos[token * pairs + pair], s = sin[token * pairs + pair], turned = even * c - odd * s;
            odd = even * s + odd * c;
            even = turned;
        }
        store(out + 2 * pair, even);
        store(out + 2 * pair + 1, odd);
    }
}

// One block a row of `stride` scores: out = softmax(scores * scale) over the first `count` scores and the `more` scores from
// `start` on. What lies between is not read, and not written. For float, `out` may be `scores`.
template <typename T>
__device__ void softmax(const float *scores, T *out, count_t stride, count_t count, count_t start, count_t more,
                        float scale) {
    const float *row = scores + blockIdx.x * stride;
    T *to = out + blockIdx.x * stride;
    float max = -3.402823466e38f;
    for (count_t i = threadIdx.x; i < count + more; i += ROW_THREADS) max = fmaxf(max, row[i < count ? i : start + i - count]);
    max = block_max(max);
    float sum = 0.0f;
    for (count_t i = threadIdx.x; i < count + more; i += ROW_THREADS)
        sum += expf((row[i < count ? i : start + i - count] - max) * scale);
    const float share = 1.0f / block_sum(sum);
    for (count_t i = threadIdx.x; i < count + more; i += ROW_THREADS) {
        const count_t at = i < count ? i : start + i - count;
        store(to + at, expf((row[at] - max) * scale) * share);
    }
}

#define KERNELS(T, NAME)                                                                                                      \
    extern "C" __global__ void modulated_norm_##NAME(const float *xs, const float *scale, const float *shift, T *out,         \
                                                     count_t width, count_t tokens, count_t gains_stride, float eps) {        \
        modulated_norm<T>(xs, scale, shift, out, width, tokens, gains_stride, eps);                                           \
    }                                                                                                                         \
    extern "C" __global__ void affine_norm_##NAME(const float *xs, const T *weight, const T *bias, T *out, count_t width,     \
                                                  float eps) {                                                                \
        affine_norm<T>(xs, weight, bias, out, width, eps);                                                                    \
    }                                                                                                                         \
    extern "C" __global__ void activate_##NAME(const T *xs, const T *bias, T *out, count_t count, count_t width,              \
                                               int activation) {                                                              \
        activate<T>(xs, bias, out, count, width, activation);                                                                 \
    }                                                                                                                         \
    extern "C" __global__ void residual_##NAME(const float *xs, const T *ys, const T *bias, const float *gate, float *out,    \
                                               count_t count, count_t width, count_t tokens, count_t gains_stride) {          \
        residual<T>(xs, ys, bias, gate, out, count, width, tokens, gains_stride);                                             \
    }                                                                                                                         \
    extern "C" __global__ void split_heads_##NAME(const T *xs, const float *cos, const float *sin, Part first, Part second,   \
                                                  Part third, count_t parts, count_t rows, count_t tokens, count_t heads,     \
                                                  count_t head_dim, count_t width, count_t offset) {                          \
        split_heads<T>(xs, cos, sin, first, second, third, parts, rows, tokens, heads, head_dim, width, offset);              \
    }                                                                                                                         \
    extern "C" __global__ void softmax_##NAME(const float *scores, T *out, count_t stride, count_t count, count_t start,      \
                                              count_t more, float scale) {                                                    \
        softmax<T>(scores, out, stride, count, start, more, scale);                                                           \
    }

KERNELS(float, f32)
KERNELS(__half, f16)
KERNELS(__nv_bfloat16, bf16)
#undef KERNELS
