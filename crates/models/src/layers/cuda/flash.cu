// Fused attention for NVIDIA GPUs: out = softmax(q Kᵀ scale) V without scores in memory, by the online softmax of FlashAttention-2
// (Dao, 2023). `attention.rs` launches it; `../fused_attention.rs` prepares the rows, says which shapes it takes, and has the same
// arithmetic on a CPU. What `rows.cu` says about barriers and the CPU holds here too.
//
// A block of four warps takes one row, one head and one tile of queries. It goes over the tiles of keys of the row's segments,
// one segment after the other, and keeps for each query the greatest score m, the sum l of the weights exp((s - m) scale), and the
// weighted sum o of the values; where a tile raises m, it multiplies l and o by exp((m before - m) scale). At the end out = o / l.
// A tile that is not full is filled with keys and values of zeros; their scores count as the lowest number.
//
// | type | queries of a block | of a warp | keys of a tile | products |
// |---|---|---|---|---|
// | half, bfloat16 | 64 | 16 | 64 | tensor cores, mma.m16n8k16, sums in float; weights are rounded to the type, as l is not |
// | float | 32 | 8 | 32 | one multiplication and addition after the other |
//
// This has not run on a GPU. Arithmetic, D being the channels of a head:
// - Registers: at most 168 a thread, which ptxas of CUDA 13.0 keeps without spilling for 8.0, 8.6, 8.9 and 9.0 (of 65,536, three blocks
//   of 128 threads may have 170). Shared memory of a block, all static: in half one tile of keys and one of values, 2 * 64 * (2 D + 16)
//   bytes, 18, 26 and 34 KiB for D = 64, 96, 128; in float queries, one tile and weights, 128 D + 32 * (4 D + 16) + 4096 bytes, 20.5, 28.5
//   and 36.5 KiB. So a multiprocessor has three blocks, 12 warps of 64 (8.0, 9.0) or 48 (8.6, 8.9), where D = 128 leaves room for two
//   in the 100 KiB of 8.6 and 8.9.
// - Global memory: a block reads its queries once, and for its 64 queries 4 D bytes of a key and a value, with which it does
//   64 * 4 D operations: 64 a byte. Blocks of one head run side by side, so most of it comes from the L2 cache: at 312 T operations a
//   second (A100) 4.9 TB/s, about what that cache has. DRAM sees queries, keys, values and results about once. Scores and weights, which
//   took 4 bytes written, 8 read (two passes), and 2 written and read each, take none.
// - Shared memory: a warp's 16 queries do 16 * 2 operations with each number of 2 bytes that it reads, which is as much as the 128
//   bytes a clock of a multiprocessor let the tensor cores of an A100 do (2,048 operations a clock), and half of those of an H100.
// - Few queries: a launch has at least heads * rows blocks, and a block goes over all keys by itself. Up to 64 queries of one row, 16
//   heads occupy 16 of 108 or 132 multiprocessors; keys are not divided among blocks.

#include "common.cuh"

// Greatest number of rows of a launch, and of segments of a row.
#define ATTEND_ROWS 16
#define ATTEND_SEGMENTS 2
#define ATTEND_WARPS 4
#define ATTEND_THREADS (ATTEND_WARPS * WARP)
#define ATTEND_BLOCKS 3
#define LOWEST (-3.402823466e38f)

// Keys and values that are seen by a row: channel c of a head's token t is at head * head_stride + t * token_stride + c.
// `attention.rs` has the same declarations. Addresses, and strides in bytes, are multiples of 16.
struct AttendSegment {
    count_t keys;
    count_t values;
    count_t key_head_stride;
    count_t key_token_stride;
    count_t value_head_stride;
    count_t value_token_stride;
    count_t count; // tokens; 0 for no segment
};

struct AttendRow {
    count_t queries;
    count_t out; // (tokens, heads * D)
    count_t query_head_stride;
    count_t query_token_stride;
    count_t tokens;
    count_t first_block; // blocks of the rows before: heads * tiles of queries each
    AttendSegment segments[ATTEND_SEGMENTS];
};

struct AttendRows {
    count_t count;
    AttendRow rows[ATTEND_ROWS];
};

// What a block works on.
struct AttendPlace {
    count_t row, head, first_query;
};

// The blocks of a head are neighbours.
__device__ inline AttendPlace attend_place(const AttendRows &rows, count_t queries) {
    count_t row = 0;
    while (row + 1 < rows.count && rows.rows[row + 1].first_block <= blockIdx.x) row++;
    const count_t tiles = (rows.rows[row].tokens + queries - 1) / queries, block = blockIdx.x - rows.rows[row].first_block;
    return {row, block / tiles, block % tiles * queries};
}

// One tile of keys: the segment, its first key there, and the number of keys.
struct AttendTile {
    int segment;
    count_t first;
    int count;
};

__device__ inline count_t attend_tiles(const AttendRow &row, int keys) {
    return (row.segments[0].count + keys - 1) / keys + (row.segments[1].count + keys - 1) / keys;
}

__device__ inline AttendTile attend_tile(const AttendRow &row, count_t index, int keys) {
    const count_t before = (row.segments[0].count + keys - 1) / keys;
    const int segment = index >= before;
    const count_t first = (segment ? index - before : index) * keys, left = row.segments[segment].count - first;
    return {segment, first, left < (count_t)keys ? (int)left : keys};
}

#ifdef __CUDACC__

__device__ inline unsigned shared_address(const void *at) { return (unsigned)__cvta_generic_to_shared(at); }

// Begins to copy 16 bytes to shared memory, or zeros; `from` is valid in either case.
__device__ inline void copy_16_bytes(uint4 *to, const void *from, bool is_there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from), "r"(is_there ? 16 : 0) : "memory");
}

// Waits for what this thread has begun to copy.
__device__ inline void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Loads four 8 x 8 matrices of 16-bit numbers from shared memory: lane l gives the address of row l % 8 of matrix l / 8, and receives
// of each matrix the elements 2 (l % 4) and following of row l / 4.
__device__ inline void load_matrices(unsigned (&to)[4], const uint4 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// The same of the matrices' transposes.
__device__ inline void load_transposed(unsigned (&to)[4], const uint4 *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Adds the product of a (16, 16) and b (16, 8) to `sum`, over the lanes of a warp. With g = lane / 4 and i = 2 (lane % 4), a lane
// holds of a the pairs (g, i), (g + 8, i), (g, i + 8), (g + 8, i + 8), each with the next column; of b the pairs (i, g), (i + 8, g),
// each with the next row; and of the sum (g, i), (g, i + 1), (g + 8, i), (g + 8, i + 1).
__device__ inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __half) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void multiply_add(float (&sum)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, __nv_bfloat16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

#endif // else host_kernels.cpp defines these for the CPU

// Two numbers side by side, the first in the lower half.
__device__ inline unsigned pair_of(float first, float second, __half) {
    const __half2 pair = __floats2half2_rn(first, second);
    return *reinterpret_cast<const unsigned *>(&pair);
}

__device__ inline unsigned pair_of(float first, float second, __nv_bfloat16) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
    return *reinterpret_cast<const unsigned *>(&pair);
}

// Begins to copy a tile of keys or values, KEYS rows of D channels, which in shared memory lie D + 8 apart: eight rows of one matrix
// then lie in different banks.
template <typename T, int D, int KEYS>
__device__ inline void copy_tile(uint4 *to, const T *from, count_t token_stride, int count) {
    constexpr int CHUNKS = D / 8;
    for (int i = threadIdx.x; i < KEYS * CHUNKS; i += ATTEND_THREADS) {
        const int key = i / CHUNKS, chunk = i % CHUNKS;
        const bool is_there = key < count;
        copy_16_bytes(to + key * (CHUNKS + 1) + chunk, from + (is_there ? key : 0) * token_stride + 8 * chunk, is_there);
    }
}

template <typename T> __device__ inline const T *attend_keys(const AttendRow &row, const AttendTile &tile, count_t head) {
    const AttendSegment &segment = row.segments[tile.segment];
    return (const T *)segment.keys + head * segment.key_head_stride + tile.first * segment.key_token_stride;
}

template <typename T> __device__ inline const T *attend_values(const AttendRow &row, const AttendTile &tile, count_t head) {
    const AttendSegment &segment = row.segments[tile.segment];
    return (const T *)segment.values + head * segment.value_head_stride + tile.first * segment.value_token_stride;
}

// For half and bfloat16. A lane holds what `multiply_add` says: of two queries, at lane / 4 and 8 further, of each its scores of
// two keys in every eight, and two channels in every eight. `scale` is that of the scores times log2(e).
template <typename T, int D>
__device__ void attend_reduced(const AttendRows &rows, count_t heads, float scale) {
    constexpr int QUERIES = 64, KEYS = 64, CHUNKS = D / 8, STEPS = D / 16, ROW = CHUNKS + 1;
    __shared__ uint4 keys[KEYS * ROW];
    __shared__ uint4 values[KEYS * ROW];

    const AttendPlace place = attend_place(rows, QUERIES);
    const AttendRow &row = rows.rows[place.row];
    const int lane = threadIdx.x % WARP, group = lane / 4, pair = lane % 4 * 2;
    const count_t query = place.first_query + threadIdx.x / WARP * 16 + group;

    unsigned queries[STEPS][4];
    for (int half = 0; half < 2; half++) {
        const T *from = (const T *)row.queries + place.head * row.query_head_stride + (query + 8 * half) * row.query_token_stride;
        const bool is_there = query + 8 * half < row.tokens;
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
            queries[step][half] = is_there ? *(const unsigned *)(from + 16 * step + pair) : 0;
            queries[step][half + 2] = is_there ? *(const unsigned *)(from + 16 * step + pair + 8) : 0;
        }
    }

    float out[CHUNKS][4] = {};
    float max[2] = {LOWEST, LOWEST}, sum[2] = {};
    const count_t tiles = attend_tiles(row, KEYS);
    AttendTile tile = attend_tile(row, 0, KEYS);
    copy_tile<T, D, KEYS>(keys, attend_keys<T>(row, tile, place.head), row.segments[tile.segment].key_token_stride, tile.count);
    for (count_t index = 0; index < tiles; index++) {
        // The keys are there, and no warp reads the values of the tile before.
        wait_for_copies();
        __syncthreads();
        copy_tile<T, D, KEYS>(values, attend_values<T>(row, tile, place.head), row.segments[tile.segment].value_token_stride, tile.count);

        float scores[KEYS / 8][4] = {};
#pragma unroll
        for (int step = 0; step < STEPS; step++) {
#pragma unroll
            for (int key = 0; key < KEYS; key += 16) {
                unsigned loaded[4]; // channels 0 to 7 and 8 to 15 of eight keys, and of the next eight
                load_matrices(loaded, keys + (key + lane / 16 * 8 + lane % 8) * ROW + 2 * step + lane / 8 % 2);
                multiply_add(scores[key / 8], queries[step], loaded[0], loaded[1], T());
                multiply_add(scores[key / 8 + 1], queries[step], loaded[2], loaded[3], T());
            }
        }

        // The values are there, and no warp reads the keys: those of the next tile may come.
        wait_for_copies();
        __syncthreads();
        const int count = tile.count;
        if (index + 1 < tiles) {
            tile = attend_tile(row, index + 1, KEYS);
            copy_tile<T, D, KEYS>(keys, attend_keys<T>(row, tile, place.head), row.segments[tile.segment].key_token_stride, tile.count);
        }

        if (count < KEYS) {
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    if (8 * i + pair + j % 2 >= count) scores[i][j] = LOWEST;
        }
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float greatest = max[half];
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) {
                greatest = fmaxf(greatest, fmaxf(scores[i][2 * half], scores[i][2 * half + 1]));
            }
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
            const float kept = exp2f((max[half] - greatest) * scale);
            max[half] = greatest;
            sum[half] *= kept;
#pragma unroll
            for (int i = 0; i < KEYS / 8; i++) {
                scores[i][2 * half] = exp2f((scores[i][2 * half] - greatest) * scale);
                scores[i][2 * half + 1] = exp2f((scores[i][2 * half + 1] - greatest) * scale);
                sum[half] += scores[i][2 * half] + scores[i][2 * half + 1];
            }
#pragma unroll
            for (int i = 0; i < CHUNKS; i++) {
                out[i][2 * half] *= kept;
                out[i][2 * half + 1] *= kept;
            }
        }

        // The lane's scores of sixteen keys are its part of the left operand.
#pragma unroll
        for (int key = 0; key < KEYS; key += 16) {
            const float *first = scores[key / 8], *second = scores[key / 8 + 1];
            const unsigned weights[4] = {pair_of(first[0], first[1], T()), pair_of(first[2], first[3], T()),
                                         pair_of(second[0], second[1], T()), pair_of(second[2], second[3], T())};
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                unsigned loaded[4]; // keys 0 to 7 and 8 to 15 of eight channels, and of the next eight
                load_transposed(loaded, values + (key + lane / 8 % 2 * 8 + lane % 8) * ROW + 2 * step + lane / 16);
                multiply_add(out[2 * step], weights, loaded[0], loaded[1], T());
                multiply_add(out[2 * step + 1], weights, loaded[2], loaded[3], T());
            }
        }
    }

#pragma unroll
    for (int half = 0; half < 2; half++) {
        float all = sum[half];
        all += __shfl_xor_sync(0xffffffffu, all, 1);
        all += __shfl_xor_sync(0xffffffffu, all, 2);
        const float share = 1.0f / all;
        T *to = (T *)row.out + ((query + 8 * half) * heads + place.head) * D + pair;
        if (query + 8 * half < row.tokens) {
#pragma unroll
            for (int i = 0; i < CHUNKS; i++)
                *(unsigned *)(to + 8 * i) = pair_of(out[i][2 * half] * share, out[i][2 * half + 1] * share, T());
        }
    }
}

// Loads up to 32 tokens of D channels, which in shared memory lie `apart`, in numbers; the others are zeros.
template <int D> __device__ inline void load_tokens(float *to, int apart, const float *from, count_t token_stride, count_t count) {
    for (int i = threadIdx.x; i < 32 * (D / 4); i += ATTEND_THREADS) {
        const int token = i / (D / 4), chunk = i % (D / 4);
        const float4 zeros = {0.0f, 0.0f, 0.0f, 0.0f};
        *(float4 *)(to + token * apart + 4 * chunk) = token < count ? *(const float4 *)(from + token * token_stride + 4 * chunk) : zeros;
    }
}

// For float. A lane has one key of a tile for the scores, and for the sums of values every 32nd channel.
template <int D> __device__ void attend_exact(const AttendRows &rows, count_t heads, float scale) {
    constexpr int QUERIES = 32, KEYS = 32, OWN = QUERIES / ATTEND_WARPS, CHANNELS = D / WARP, APART = D + 4;
    __shared__ float4 queries[QUERIES * D / 4];
    __shared__ float4 shared_tile[KEYS * APART / 4]; // keys, then values
    __shared__ float4 weights[ATTEND_WARPS][KEYS][OWN / 4];

    const AttendPlace place = attend_place(rows, QUERIES);
    const AttendRow &row = rows.rows[place.row];
    const int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const float *first = (const float *)row.queries + place.head * row.query_head_stride + place.first_query * row.query_token_stride;
    load_tokens<D>((float *)queries, D, first, row.query_token_stride, row.tokens - place.first_query);

    float out[OWN][CHANNELS] = {}, max[OWN], sum[OWN] = {};
    for (int i = 0; i < OWN; i++) max[i] = LOWEST;
    const count_t tiles = attend_tiles(row, KEYS);
    for (count_t index = 0; index < tiles; index++) {
        const AttendTile tile = attend_tile(row, index, KEYS);
        const AttendSegment &segment = row.segments[tile.segment];
        __syncthreads(); // no warp reads the values of the tile before
        load_tokens<D>((float *)shared_tile, APART, attend_keys<float>(row, tile, place.head), segment.key_token_stride, tile.count);
        __syncthreads();

        float scores[OWN] = {};
        for (int chunk = 0; chunk < D / 4; chunk++) {
            const float4 key = shared_tile[lane * (APART / 4) + chunk];
#pragma unroll
            for (int i = 0; i < OWN; i++) {
                const float4 query = queries[(warp * OWN + i) * (D / 4) + chunk];
                scores[i] += query.x * key.x + query.y * key.y + query.z * key.z + query.w * key.w;
            }
        }
#pragma unroll
        for (int i = 0; i < OWN; i++) {
            const float score = lane < tile.count ? scores[i] : LOWEST;
            const float greatest = fmaxf(max[i], warp_max(score));
            const float kept = exp2f((max[i] - greatest) * scale), weight = exp2f((score - greatest) * scale);
            max[i] = greatest;
            sum[i] = sum[i] * kept + weight;
            ((float *)weights[warp][lane])[i] = weight;
#pragma unroll
            for (int channel = 0; channel < CHANNELS; channel++) out[i][channel] *= kept;
        }

        __syncthreads(); // the weights are there, and no warp reads the keys
        load_tokens<D>((float *)shared_tile, APART, attend_values<float>(row, tile, place.head), segment.value_token_stride, tile.count);
        __syncthreads();
        for (int key = 0; key < KEYS; key++) {
            const float *value = (const float *)shared_tile + key * APART + lane, *weight = (const float *)weights[warp][key];
#pragma unroll
            for (int channel = 0; channel < CHANNELS; channel++)
#pragma unroll
                for (int i = 0; i < OWN; i++) out[i][channel] += weight[i] * value[channel * WARP];
        }
    }

#pragma unroll
    for (int i = 0; i < OWN; i++) {
        const float share = 1.0f / warp_sum(sum[i]);
        const count_t query = place.first_query + warp * OWN + i;
        float *to = (float *)row.out + (query * heads + place.head) * D + lane;
        if (query < row.tokens)
#pragma unroll
            for (int channel = 0; channel < CHANNELS; channel++) to[channel * WARP] = out[i][channel] * share;
    }
}

// The structure stays in the constant memory of the launch, where every thread reads it.
#define KERNELS(D)                                                                                                            \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, ATTEND_BLOCKS)                                               \
        attend_##D##_f32(const __grid_constant__ AttendRows rows, count_t heads, float scale) {                               \
        attend_exact<D>(rows, heads, scale);                                                                                  \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, ATTEND_BLOCKS)                                               \
        attend_##D##_f16(const __grid_constant__ AttendRows rows, count_t heads, float scale) {                               \
        attend_reduced<__half, D>(rows, heads, scale);                                                                        \
    }                                                                                                                         \
    extern "C" __global__ void __launch_bounds__(ATTEND_THREADS, ATTEND_BLOCKS)                                               \
        attend_##D##_bf16(const __grid_constant__ AttendRows rows, count_t heads, float scale) {                              \
        attend_reduced<__nv_bfloat16, D>(rows, heads, scale);                                                                 \
    }

KERNELS(64)
KERNELS(96)
KERNELS(128)
#undef KERNELS
