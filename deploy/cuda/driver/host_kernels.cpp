// Compiles our kernels for the CPU, so that the stand-in for the driver can run them: libkernels.so. Slow, one block after the
// other. The threads of a block are coroutines that take turns from barrier to barrier; a shuffle is two barriers.
//
// A kernel whose threads do not all reach a barrier is undefined on a GPU. Here it ends the program.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>

#include <cmath>
// The toolkit's types for 16-bit numbers, whose conversions are for the CPU too.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __global__
#undef __device__
#undef __shared__
#define __global__
#define __device__
#define __shared__ static

namespace {

struct Index {
    unsigned x;
};

enum { MAX_THREADS = 1024, STACK_BYTES = 64 * 1024 };

Index threadIdx, blockIdx, blockDim;
ucontext_t scheduler, fibers[MAX_THREADS];
char stacks[MAX_THREADS][STACK_BYTES];
bool is_finished[MAX_THREADS];
float exchanged[MAX_THREADS];
void (*running)(void **);
void **parameters;

void run_thread() {
    running(parameters);
    is_finished[threadIdx.x] = true;
    swapcontext(&fibers[threadIdx.x], &scheduler);
}

void __syncthreads() { swapcontext(&fibers[threadIdx.x], &scheduler); }

// Rounded once each: through memory, so that no compiler fuses them.
float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
float __fadd_rn(float x, float y) { return x + y; }

float __shfl_xor_sync(unsigned, float value, int lanes) {
    exchanged[threadIdx.x] = value;
    __syncthreads();
    float other = exchanged[threadIdx.x ^ (unsigned)lanes];
    __syncthreads();
    return other;
}

// Runs a block: every thread to its next barrier, in turns, until all are finished.
void run_block() {
    for (unsigned thread = 0; thread < blockDim.x; thread++) {
        is_finished[thread] = false;
        getcontext(&fibers[thread]);
        fibers[thread].uc_stack.ss_sp = stacks[thread];
        fibers[thread].uc_stack.ss_size = STACK_BYTES;
        fibers[thread].uc_link = &scheduler;
        makecontext(&fibers[thread], run_thread, 0);
    }
    for (unsigned finished = 0; finished < blockDim.x;) {
        finished = 0;
        for (unsigned thread = 0; thread < blockDim.x; thread++) {
            threadIdx.x = thread;
            swapcontext(&scheduler, &fibers[thread]);
            finished += is_finished[thread];
        }
        if (finished && finished < blockDim.x) {
            std::fprintf(stderr, "%u of %u threads of a block are finished, the others wait at a barrier\n", finished, blockDim.x);
            std::abort();
        }
    }
}

} // namespace

#include "rows.cu"
#include "maps.cu"
#include "draws.cu"

namespace {

template <typename... Arguments, std::size_t... Positions>
void unpack(void (*kernel)(Arguments...), void **from, std::index_sequence<Positions...>) {
    kernel(*static_cast<Arguments *>(from[Positions])...);
}

template <auto kernel> struct Call;
template <typename... Arguments, void (*kernel)(Arguments...)> struct Call<kernel> {
    static void run(void **from) { unpack(kernel, from, std::index_sequence_for<Arguments...>{}); }
};

// candle's conversions and copies, in its order of arguments; `layout` has sizes and strides, or is null.
template <typename From, typename To>
void cast(count_t count, count_t dims, const count_t *layout, const From *xs, To *out) {
    const count_t i = (count_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    count_t from = layout ? 0 : i;
    for (count_t rest = i, dim = dims; layout && dim-- > 0; rest /= layout[dim]) from += rest % layout[dim] * layout[dims + dim];
    store(out + i, to_float(xs[from]));
}

struct Named {
    const char *name;
    void (*run)(void **);
};

#define NAMED(kernel) {#kernel, Call<kernel>::run}
#define ALL(kernel) NAMED(kernel##_f32), NAMED(kernel##_f16), NAMED(kernel##_bf16)
#define CAST(T, NAME)                                                                                                        \
    {"ucopy_" #NAME, Call<cast<T, T>>::run}, {"cast_" #NAME "_f32", Call<cast<T, float>>::run}, {"cast_" #NAME "_f16", Call<cast<T, __half>>::run},                     \
    {"cast_" #NAME "_bf16", Call<cast<T, __nv_bfloat16>>::run}
const Named KERNELS_BY_NAME[] = {ALL(modulated_norm), ALL(affine_norm), ALL(activate), ALL(residual), ALL(split_heads), ALL(softmax),
                                 ALL(patches), ALL(finish), ALL(group_moments), ALL(group_norm), NAMED(weighted_sum_f32),
                                 NAMED(draw_bits_f32), NAMED(add_codes_f32), NAMED(code_tokens_f32), CAST(float, f32), CAST(__half, f16),
                                 CAST(__nv_bfloat16, bf16)};

} // namespace

// Runs the kernel of that name on a grid of blocks in a row; false if it is not one of ours.
extern "C" bool run_kernel(const char *name, unsigned blocks, unsigned threads, void **arguments) {
    for (const Named &named : KERNELS_BY_NAME) {
        if (std::strcmp(named.name, name)) continue;
        running = named.run;
        parameters = arguments;
        blockDim.x = threads;
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++) run_block();
        return true;
    }
    return false;
}
