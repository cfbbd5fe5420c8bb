// Kernels between two scales of a picture, for NVIDIA GPUs; `draws.rs` beside this file launches them and says what each
// computes. The rules of `rows.cu` hold here too, and two more: products and sums of float are spelled out, so that the compiler
// fuses none of its own accord, and their order is that of the CPU.

#include "common.cuh"

// One thread a number: out = ((first a) + second b) + third c; `second` and `third` may be null. The zero is candle's, and makes
// of -0 a 0.
extern "C" __global__ void weighted_sum_f32(const float *first, const float *second, const float *third, float *out,
                                            count_t count, float a, float b, float c) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = __fadd_rn(__fmul_rn(first[i], a), 0.0f);
    if (second) sum = __fadd_rn(sum, __fadd_rn(__fmul_rn(second[i], b), 0.0f));
    if (third) sum = __fadd_rn(sum, __fadd_rn(__fmul_rn(third[i], c), 0.0f));
    out[i] = sum;
}

// Word `index` of a stream of Philox4x32 with 10 rounds, in the order of `random.rs`.
__device__ inline unsigned philox_word(count_t seed, count_t stream, count_t index) {
    const count_t block = index / 4;
    unsigned first = (unsigned)block, second = (unsigned)(block >> 32), third = (unsigned)stream, fourth = (unsigned)(stream >> 32);
    unsigned low_key = (unsigned)seed, high_key = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const count_t of_first = (count_t)0xD2511F53u * first, of_third = (count_t)0xCD9E8D57u * third;
        first = (unsigned)(of_third >> 32) ^ second ^ low_key;
        third = (unsigned)(of_first >> 32) ^ fourth ^ high_key;
        second = (unsigned)of_third;
        fourth = (unsigned)of_first;
        low_key += 0x9E3779B9u;
        high_key += 0xBB67AE85u;
    }
    switch (index % 4) {
    case 0: return first;
    case 1: return second;
    case 2: return third;
    default: return fourth;
    }
}

__device__ inline bool is_finite(float x) { return fabsf(x) <= 3.402823466e38f; }

// One thread a bit: draws it from its pair of logits with number `position + i` of the stream. Sets `odd` to 1 if a logit is not
// finite, and leaves it alone otherwise.
extern "C" __global__ void draw_bits_f32(const float *logits, unsigned char *bits, unsigned *odd, count_t count, count_t seed,
                                         count_t stream, count_t position, double top_p, int is_greedy) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const float of_zero = logits[2 * i], of_one = logits[2 * i + 1];
    if (!is_finite(of_zero) || !is_finite(of_one)) *odd = 1;
    if (is_greedy) {
        bits[i] = of_one > of_zero;
        return;
    }
    double one = 1.0 / (1.0 + exp((double)of_zero - (double)of_one));
    if (top_p > 0.0 && one <= 1.0 - top_p) one = 0.0;
    else if (top_p > 0.0 && 1.0 - one <= 1.0 - top_p) one = 1.0;
    const float uniform = (float)(philox_word(seed, stream, position + i) >> 8) / 16777216.0f;
    bits[i] = (double)uniform < one;
}

// The two input cells of an axis that an output cell is made of, and their weights.
struct Taps {
    count_t left, right;
    float of_left, of_right;
    bool is_fused;
};

// As `bilinear_weights` in `resize.rs`.
__device__ inline Taps taps(count_t to, count_t from_size, count_t to_size) {
    const float scale = (float)from_size / (float)to_size;
    const float position = fmaxf(__fadd_rn(__fmul_rn(scale, (float)to + 0.5f), -0.5f), 0.0f);
    Taps taps;
    taps.is_fused = from_size > 2;
    taps.left = (count_t)position < from_size - 1 ? (count_t)position : from_size - 1;
    taps.right = taps.left + 1 < from_size ? taps.left + 1 : taps.left;
    const float fraction = fminf(fmaxf(position - (float)taps.left, 0.0f), 1.0f);
    taps.of_left = 1.0f - fraction;
    taps.of_right = fraction;
    if (taps.left == taps.right) {
        taps.of_left = __fadd_rn(taps.of_left, taps.of_right);
        taps.of_right = 0.0f;
    }
    return taps;
}

// On the CPU this is a product with a matrix of weights, which adds one term after the other, each fused; those of the other
// cells are zero. A product of an inner width of two or less is not fused.
__device__ inline float between(const Taps &taps, float left, float right) {
    const float first = __fmul_rn(taps.of_left, left);
    return taps.is_fused ? fmaf(taps.of_right, right, first) : __fadd_rn(first, __fmul_rn(taps.of_right, right));
}

// One thread a number of the sums (batch, depth, height, width): out = sum + the codes of the bits (batch, from_height,
// from_width, depth), resized. A bit is `code` or `-code`.
extern "C" __global__ void add_codes_f32(const float *sum, const unsigned char *bits, float *out, count_t count, count_t depth,
                                         count_t height, count_t width, count_t from_height, count_t from_width, float code) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const Taps columns = taps(i % width, from_width, width), rows = taps(i / width % height, from_height, height);
    const count_t channel = i / width / height % depth;
    const unsigned char *own = bits + i / width / height / depth * from_height * from_width * depth + channel;
    float of_row[2];
    for (int which = 0; which < 2; which++) {
        const count_t row = (which ? rows.right : rows.left) * from_width;
        const float left = own[(row + columns.left) * depth] ? code : -code;
        const float right = own[(row + columns.right) * depth] ? code : -code;
        of_row[which] = between(columns, left, right);
    }
    out[i] = __fadd_rn(sum[i], between(rows, of_row[0], of_row[1]));
}

// One thread a number of the tokens (batch, height, width, depth): the sums (batch, depth, from_height, from_width), resized.
extern "C" __global__ void code_tokens_f32(const float *sum, float *out, count_t count, count_t depth, count_t height,
                                           count_t width, count_t from_height, count_t from_width) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    const count_t channel = i % depth, column = i / depth % width, row = i / depth / width % height;
    const Taps columns = taps(column, from_width, width), rows = taps(row, from_height, height);
    const float *own = sum + (i / depth / width / height * depth + channel) * from_height * from_width;
    float of_row[2];
    for (int which = 0; which < 2; which++) {
        const float *from = own + (which ? rows.right : rows.left) * from_width;
        of_row[which] = between(columns, from[columns.left], from[columns.right]);
    }
    out[i] = between(rows, of_row[0], of_row[1]);
}
