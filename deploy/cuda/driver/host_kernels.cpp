// Compiles our kernels for the CPU, so that the stand-in for the driver can run them: libkernels.so. Slow, one block after the
// other. The threads of a block are coroutines: those of a warp take turns from shuffle to shuffle, and each warp runs to the next
// barrier of the block before the next warp begins. So where a barrier is missing, the first warps read what the others have not
// written yet, or write over what they still have to read.
//
// A kernel whose threads do not all reach a barrier is undefined on a GPU. Here it ends the program.

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <utility>
#include <vector>

#include <cmath>
// The toolkit's types for 16-bit numbers, whose conversions are for the CPU too.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#undef __global__
#undef __device__
#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__

namespace {

struct Index {
    unsigned x;
};

enum { MAX_THREADS = 1024, STACK_BYTES = 64 * 1024 };

Index threadIdx, blockIdx, blockDim;
ucontext_t scheduler, fibers[MAX_THREADS];
char stacks[MAX_THREADS][STACK_BYTES];
enum State { RUNS, AT_SHUFFLE, AT_BARRIER, FINISHED } states[MAX_THREADS];
float exchanged[MAX_THREADS];
void (*running)(void **);
void **parameters;

void run_thread() {
    running(parameters);
    states[threadIdx.x] = FINISHED;
    swapcontext(&fibers[threadIdx.x], &scheduler);
}

void wait(State state) {
    states[threadIdx.x] = state;
    swapcontext(&fibers[threadIdx.x], &scheduler);
}

void __syncthreads() { wait(AT_BARRIER); }

// Rounded once each: through memory, so that no compiler fuses them.
float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
float __fadd_rn(float x, float y) { return x + y; }

float __shfl_xor_sync(unsigned, float value, int lanes) {
    exchanged[threadIdx.x] = value;
    wait(AT_SHUFFLE);
    float other = exchanged[threadIdx.x ^ (unsigned)lanes];
    wait(AT_SHUFFLE);
    return other;
}

// The instructions of `flash.cu`; it says what the lanes of a warp hold.

// Copies to shared memory that a thread has begun. They end when it waits for them; until then there are no numbers (NaN).
struct Copy {
    uint4 *to;
    const void *from;
    bool is_there;
};
std::vector<Copy> begun[MAX_THREADS];

void copy_16_bytes(uint4 *to, const void *from, bool is_there) {
    std::memset(to, 0xff, sizeof *to);
    begun[threadIdx.x].push_back({to, from, is_there});
}

void wait_for_copies() {
    for (const Copy &copy : begun[threadIdx.x]) {
        if (copy.is_there) std::memcpy(copy.to, copy.from, sizeof *copy.to);
        else std::memset(copy.to, 0, sizeof *copy.to);
    }
    begun[threadIdx.x].clear();
}

// What each thread hands to its warp. The next time it is the other one, so that one barrier is enough.
struct Handed {
    const void *address;
    unsigned a[4], b[2];
};
Handed handed[2][MAX_THREADS];
unsigned turns[MAX_THREADS];

// Hands `mine` to the warp and returns what its lanes have handed.
const Handed *hand(const Handed &mine) {
    Handed *all = handed[turns[threadIdx.x]++ % 2];
    all[threadIdx.x] = mine;
    wait(AT_SHUFFLE);
    return all + threadIdx.x / 32 * 32;
}

std::uint16_t number(const Handed &lane, unsigned index) {
    std::uint16_t number;
    std::memcpy(&number, (const char *)lane.address + 2 * index, sizeof number);
    return number;
}

void load_matrices(unsigned (&to)[4], const uint4 *row) {
    const Handed *lanes = hand({row, {}, {}});
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const Handed &from = lanes[8 * matrix + lane / 4];
        to[matrix] = number(from, lane % 4 * 2) | (unsigned)number(from, lane % 4 * 2 + 1) << 16;
    }
}

void load_transposed(unsigned (&to)[4], const uint4 *row) {
    const Handed *lanes = hand({row, {}, {}});
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const Handed *from = lanes + 8 * matrix + lane % 4 * 2;
        to[matrix] = number(from[0], lane / 4) | (unsigned)number(from[1], lane / 4) << 16;
    }
}

// Number `index` of a pair.
template <typename T> float of_pair(unsigned pair, unsigned index) {
    const std::uint16_t bits = (std::uint16_t)(pair >> 16 * index);
    T number;
    std::memcpy(&number, &bits, sizeof number);
    return (float)number;
}

template <typename T> void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, T) {
    const Handed *lanes = hand({nullptr, {a[0], a[1], a[2], a[3]}, {b0, b1}});
    const unsigned lane = threadIdx.x % 32;
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const Handed &left = lanes[row % 8 * 4 + k % 8 / 2], &right = lanes[column * 4 + k % 8 / 2];
            sum[i] += of_pair<T>(left.a[row / 8 + k / 8 * 2], k % 2) * of_pair<T>(right.b[k / 8], k % 2);
        }
    }
}

// Whether all threads from `first` on are in that state. If only some are, the others never get there.
bool are_all(State state, unsigned first, unsigned end) {
    unsigned count = 0;
    for (unsigned thread = first; thread < end; thread++) count += states[thread] == state;
    if (count && count < end - first) {
        std::fprintf(stderr, "%u of %u threads are in the state %d, the others elsewhere\n", count, end - first, (int)state);
        std::abort();
    }
    return count;
}

// Runs the threads of a warp until all are at a barrier of the block, or finished.
void run_warp(unsigned first, unsigned end) {
    do {
        for (unsigned thread = first; thread < end; thread++) {
            threadIdx.x = thread;
            states[thread] = RUNS;
            swapcontext(&scheduler, &fibers[thread]);
        }
    } while (are_all(AT_SHUFFLE, first, end));
}

void run_block() {
    for (unsigned thread = 0; thread < blockDim.x; thread++) {
        getcontext(&fibers[thread]);
        fibers[thread].uc_stack.ss_sp = stacks[thread];
        fibers[thread].uc_stack.ss_size = STACK_BYTES;
        fibers[thread].uc_link = &scheduler;
        makecontext(&fibers[thread], run_thread, 0);
    }
    do
        for (unsigned first = 0; first < blockDim.x; first += 32) run_warp(first, first + 32 < blockDim.x ? first + 32 : blockDim.x);
    while (!are_all(FINISHED, 0, blockDim.x));
}

} // namespace

#include "rows.cu"
#include "maps.cu"
#include "draws.cu"
#include "flash.cu"

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
                                 NAMED(draw_bits_f32), NAMED(add_codes_f32), NAMED(code_tokens_f32), ALL(attend_64), ALL(attend_96),
                                 ALL(attend_128), CAST(float, f32), CAST(__half, f16),
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
