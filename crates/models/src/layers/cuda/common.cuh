// What the files of kernels share: numbers of three types, and sums over a warp and a block.

#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

typedef unsigned long long count_t;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__half x) { return __half2float(x); }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store(float *to, float x) { *to = x; }
__device__ inline void store(__half *to, float x) { *to = __float2half(x); }
__device__ inline void store(__nv_bfloat16 *to, float x) { *to = __float2bfloat16(x); }

// Threads of a block that works on one row, and warps of a block that works on heads.
#define ROW_THREADS 256
#define WARP 32
#define HEAD_WARPS 4

__device__ inline float warp_sum(float x) {
    for (int lane = WARP / 2; lane > 0; lane /= 2) x += __shfl_xor_sync(0xffffffffu, x, lane);
    return x;
}

__device__ inline float warp_max(float x) {
    for (int lane = WARP / 2; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lane));
    return x;
}

// The sum over the block, in every thread. The order of summation depends on the number of threads only.
__device__ inline float block_sum(float x) {
    __shared__ float partial[ROW_THREADS / WARP];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) partial[threadIdx.x / WARP] = x;
    __syncthreads();
    float sum = 0.0f;
    for (int warp = 0; warp < ROW_THREADS / WARP; warp++) sum += partial[warp];
    return sum;
}
