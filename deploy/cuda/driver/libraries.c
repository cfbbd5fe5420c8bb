/* A stand-in for cuBLAS, cuRAND and the CUDA runtime: the functions that candle calls. Products are checked and counted, not
 * computed. See README.md. */
#include "counts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 7 };

/* cudaDataType_t and cublasOperation_t. */
enum { REAL_32F = 0, REAL_64F = 1, REAL_16F = 2, REAL_16BF = 14 };
enum { PLAIN = 0, TRANSPOSED = 1 };

typedef void *handle;

/* ---- cuBLAS ---- */

/* One operand of a product, stored by columns. */
struct matrix {
    const char *name;
    const void *data;
    int type, rows, columns, leading;
    long long stride;
};

int cublasCreate_v2(handle *context) { return *context = malloc(1), SUCCESS; }
int cublasDestroy_v2(handle context) { return free(context), SUCCESS; }
int cublasSetStream_v2(handle context, handle stream) { return (void)context, (void)stream, SUCCESS; }

static size_t bytes_of(int type) {
    switch (type) {
    case REAL_16F:
    case REAL_16BF: return 2;
    case REAL_32F: return 4;
    case REAL_64F: return 8;
    }
    refuse("a product of the data type %d", type);
}

static const char *name_of(int type) {
    return type == REAL_16F ? "f16" : type == REAL_16BF ? "bf16" : type == REAL_32F ? "f32" : "f64";
}

/* Whether cuBLAS takes the operand. That every element lies within one allocation, it does not check. */
static int is_taken(const struct matrix *matrix, int batch) {
    if (matrix->rows < 0 || matrix->columns < 0 || matrix->leading < (matrix->rows > 1 ? matrix->rows : 1)) return 0;
    if (!matrix->rows || !matrix->columns || !batch) return 1;
    long long last = (batch - 1) * matrix->stride + (long long)(matrix->columns - 1) * matrix->leading + matrix->rows;
    if (!memory_holds((uint64_t)matrix->data, (size_t)last * bytes_of(matrix->type)))
        refuse("operand %s of a product, %d x %d with %d between columns, %d times with %lld between, leaves its allocation",
               matrix->name, matrix->rows, matrix->columns, matrix->leading, batch, matrix->stride);
    return 1;
}

static float element(const struct matrix *matrix, size_t index) {
    if (matrix->type == REAL_32F) return ((const float *)matrix->data)[index];
    if (matrix->type == REAL_16F) return (float)((const _Float16 *)matrix->data)[index];
    uint32_t bits = (uint32_t)((const uint16_t *)matrix->data)[index] << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to the nearest, ties to even. */
static void set_element(const struct matrix *matrix, size_t index, float value) {
    if (matrix->type == REAL_32F) ((float *)(uintptr_t)matrix->data)[index] = value;
    if (matrix->type == REAL_16F) ((_Float16 *)(uintptr_t)matrix->data)[index] = (_Float16)value;
    if (matrix->type == REAL_16BF) {
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        ((uint16_t *)(uintptr_t)matrix->data)[index] = (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
    }
}

/* One number after the other: for tests. */
static void multiply(const struct matrix *a, int op_a, const struct matrix *b, int op_b, const struct matrix *c, int k,
                     int batch, float alpha, float beta) {
    for (int image = 0; image < batch; image++)
        for (int column = 0; column < c->columns; column++)
            for (int row = 0; row < c->rows; row++) {
                double sum = 0.0;
                for (int i = 0; i < k; i++) {
                    size_t in_a = op_a == PLAIN ? (size_t)i * a->leading + row : (size_t)row * a->leading + i;
                    size_t in_b = op_b == PLAIN ? (size_t)column * b->leading + i : (size_t)i * b->leading + column;
                    sum += (double)element(a, image * a->stride + in_a) * element(b, image * b->stride + in_b);
                }
                size_t at = image * c->stride + (size_t)column * c->leading + row;
                float before = beta == 0.0f ? 0.0f : beta * element(c, at);
                set_element(c, at, alpha * (float)sum + before);
            }
}

int cublasGemmStridedBatchedEx(handle context, int op_a, int op_b, int m, int n, int k, const void *alpha, const void *a,
                               int type_a, int lda, long long stride_a, const void *b, int type_b, int ldb,
                               long long stride_b, const void *beta, void *c, int type_c, int ldc, long long stride_c,
                               int batch, int compute, int algorithm) {
    (void)context, (void)compute, (void)algorithm;
    struct matrix left = {"a", a, type_a, op_a == PLAIN ? m : k, op_a == PLAIN ? k : m, lda, stride_a};
    struct matrix right = {"b", b, type_b, op_b == PLAIN ? k : n, op_b == PLAIN ? n : k, ldb, stride_b};
    struct matrix result = {"c", c, type_c, m, n, ldc, stride_c};
    if (op_a > TRANSPOSED || op_b > TRANSPOSED || batch < 0 || type_a != type_b ||
        (type_c != type_a && type_c != REAL_32F) || !is_taken(&left, batch) || !is_taken(&right, batch) ||
        !is_taken(&result, batch)) {
        fprintf(stderr, "stand-in for cuBLAS: refused %d x %d x %d, leading %d %d %d\n", m, n, k, lda, ldb, ldc);
        return INVALID_VALUE;
    }
    char name[64];
    snprintf(name, sizeof name, "%s to %s", name_of(type_a), name_of(type_c));
    count_name(TABLE_GEMMS, name);
    if (computes() && type_a != REAL_64F)
        multiply(&left, op_a, &right, op_b, &result, k, batch, *(const float *)alpha, *(const float *)beta);
    return SUCCESS;
}

int cublasDgemmStridedBatched(handle context, int op_a, int op_b, int m, int n, int k, const double *alpha, const double *a,
                              int lda, long long stride_a, const double *b, int ldb, long long stride_b, const double *beta,
                              double *c, int ldc, long long stride_c, int batch) {
    return cublasGemmStridedBatchedEx(context, op_a, op_b, m, n, k, alpha, a, REAL_64F, lda, stride_a, b, REAL_64F, ldb,
                                      stride_b, beta, c, REAL_64F, ldc, stride_c, batch, 0, 0);
}

/* ---- cuRAND ---- */

int curandCreateGenerator(handle *generator, int kind) { return (void)kind, *generator = malloc(1), SUCCESS; }
int curandDestroyGenerator(handle generator) { return free(generator), SUCCESS; }
int curandSetStream(handle generator, handle stream) { return (void)generator, (void)stream, SUCCESS; }
int curandSetPseudoRandomGeneratorSeed(handle generator, unsigned long long seed) {
    return (void)generator, (void)seed, SUCCESS;
}
int curandGenerateUniform(handle generator, float *out, size_t length) {
    return (void)generator, (void)out, (void)length, count(COUNT_RANDOM_FILLS, 1), SUCCESS;
}
int curandGenerateNormal(handle generator, float *out, size_t length, float mean, float deviation) {
    return (void)generator, (void)out, (void)length, (void)mean, (void)deviation, count(COUNT_RANDOM_FILLS, 1), SUCCESS;
}

/* ---- the CUDA runtime: what registers the statically linked kernels when the program starts ---- */

void **__cudaRegisterFatBinary(void *binary) { return (void)binary, (void **)malloc(sizeof(void *)); }
void __cudaRegisterFatBinaryEnd(void **binary) { (void)binary; }
void __cudaUnregisterFatBinary(void **binary) { free(binary); }
void __cudaRegisterFunction(void **binary, const char *host, char *device, const char *name, int limit, void *thread,
                            void *block, void *block_size, void *grid_size, int *warp_size) {
    (void)binary, (void)host, (void)device, (void)name, (void)limit;
    (void)thread, (void)block, (void)block_size, (void)grid_size, (void)warp_size;
}
void __cudaRegisterVar(void **binary, char *host, char *device, const char *name, int external, size_t bytes, int constant,
                       int global) {
    (void)binary, (void)host, (void)device, (void)name, (void)external, (void)bytes, (void)constant, (void)global;
}
char __cudaInitModule(void **binary) { return (void)binary, 1; }
