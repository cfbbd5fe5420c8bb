// A group norm followed by SiLU in bf16, for maps whose channels lie next to each other in memory. `norm.py` calls it and has
// the formulas. Sums are taken in float over a block of pixels and then in double.

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { BLOCK = 64, WIDEST = 1024 };

static inline float wide(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

static inline float slope_of_silu(float x) {
    float share = 1.0f / (1.0f + expf(-x));
    return share * (1.0f + x * (1.0f - share));
}

// Per picture and channel: the sums of x and of its squares.
void sums(const uint16_t *restrict x, long batch, long pixels, long width, double *restrict first, double *restrict second) {
    float a[WIDEST], b[WIDEST];
    for (long picture = 0; picture < batch; picture++, first += width, second += width) {
        for (long start = 0; start < pixels; start += BLOCK) {
            long end = start + BLOCK < pixels ? start + BLOCK : pixels;
            memset(a, 0, sizeof(float) * width);
            memset(b, 0, sizeof(float) * width);
            for (long pixel = start; pixel < end; pixel++, x += width)
                for (long c = 0; c < width; c++) {
                    float value = wide(x[c]);
                    a[c] += value;
                    b[c] += value * value;
                }
            for (long c = 0; c < width; c++) first[c] += a[c], second[c] += b[c];
        }
    }
}

// silu(x * gain + shift)
void apply(const uint16_t *restrict x, long batch, long pixels, long width, const float *restrict gain,
           const float *restrict shift, uint16_t *restrict y) {
    for (long picture = 0; picture < batch; picture++, gain += width, shift += width)
        for (long pixel = 0; pixel < pixels; pixel++, x += width, y += width)
            for (long c = 0; c < width; c++) {
                float value = wide(x[c]) * gain[c] + shift[c];
                y[c] = narrow(value / (1.0f + expf(-value)));
            }
}

// Per picture and channel: the sums of SiLU's gradient and of its product with x.
void gradient_sums(const uint16_t *restrict x, const uint16_t *restrict grad, long batch, long pixels, long width,
                   const float *restrict gain, const float *restrict shift, double *restrict first, double *restrict second) {
    float a[WIDEST], b[WIDEST];
    for (long picture = 0; picture < batch; picture++, gain += width, shift += width, first += width, second += width) {
        for (long start = 0; start < pixels; start += BLOCK) {
            long end = start + BLOCK < pixels ? start + BLOCK : pixels;
            memset(a, 0, sizeof(float) * width);
            memset(b, 0, sizeof(float) * width);
            for (long pixel = start; pixel < end; pixel++, x += width, grad += width)
                for (long c = 0; c < width; c++) {
                    float value = wide(x[c]), through = wide(grad[c]) * slope_of_silu(value * gain[c] + shift[c]);
                    a[c] += through;
                    b[c] += through * value;
                }
            for (long c = 0; c < width; c++) first[c] += a[c], second[c] += b[c];
        }
    }
}

// The gradient of x: gradient of SiLU * gain + x * along + offset
void gradient(const uint16_t *restrict x, const uint16_t *restrict grad, long batch, long pixels, long width,
              const float *restrict gain, const float *restrict shift, const float *restrict along,
              const float *restrict offset, uint16_t *restrict result) {
    for (long picture = 0; picture < batch; picture++, gain += width, shift += width, along += width, offset += width)
        for (long pixel = 0; pixel < pixels; pixel++, x += width, grad += width, result += width)
            for (long c = 0; c < width; c++) {
                float value = wide(x[c]), through = wide(grad[c]) * slope_of_silu(value * gain[c] + shift[c]);
                result[c] = narrow(through * gain[c] + value * along[c] + offset[c]);
            }
}
