/* A stand-in for the NVIDIA driver, libcuda.so.1: the functions that candle calls. It computes nothing. See README.md.
 *
 * Kernels are looked up in the PTX that the program loads, and launches are checked for what the driver refuses. */
#define _GNU_SOURCE
#include "counts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* CUresult and the device attributes, as in cuda.h of CUDA 13. */
enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_PTX = 218, NOT_FOUND = 500 };
enum {
    ATTRIBUTE_MAX_THREADS_PER_BLOCK = 1,
    ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK = 8,
    ATTRIBUTE_WARP_SIZE = 10,
    ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97,
    ATTRIBUTE_MEMORY_POOLS_SUPPORTED = 115,
};

/* The limits of every device from compute capability 8.0 on. */
enum { MAX_THREADS = 1024, MAX_GRID_SIDE = 65535, SHARED_BYTES = 49152, SHARED_BYTES_OPTIN = 166912 };

typedef uint64_t pointer;
typedef void *handle;

struct function {
    char *name;
    struct function *next;
};

struct module {
    char *ptx;
    struct function *functions;
};

static int the_context, the_pool;
static __thread handle current;

/* ---- device and context ---- */

int cuInit(unsigned flags) { return flags ? INVALID_VALUE : SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *devices) { return *devices = 1, SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return ordinal ? 101 : (*device = 0, SUCCESS); }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { return (void)device, *bytes = memory_total(), SUCCESS; }
int cuDeviceGetName(char *name, int length, int device) {
    return (void)device, snprintf(name, (size_t)length, "stand-in"), SUCCESS;
}
int cuDeviceGetUuid_v2(char *uuid, int device) { return (void)device, memset(uuid, 0, 16), SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    switch (attribute) {
    case ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = MAX_THREADS; return SUCCESS;
    case ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK: *value = SHARED_BYTES; return SUCCESS;
    case ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = SHARED_BYTES_OPTIN; return SUCCESS;
    case ATTRIBUTE_WARP_SIZE: *value = 32; return SUCCESS;
    case ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = 132; return SUCCESS;
    case ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = 9; return SUCCESS;
    case ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = 0; return SUCCESS;
    case ATTRIBUTE_MEMORY_POOLS_SUPPORTED: *value = 1; return SUCCESS;
    }
    refuse("the program asks for device attribute %d, which driver.c does not know", attribute);
}

int cuDevicePrimaryCtxRetain(handle *context, int device) { return (void)device, *context = &the_context, SUCCESS; }
int cuDevicePrimaryCtxRelease_v2(int device) { return (void)device, SUCCESS; }
int cuCtxGetCurrent(handle *context) { return *context = current, SUCCESS; }
int cuCtxSetCurrent(handle context) { return current = context, SUCCESS; }
int cuCtxSynchronize(void) { return count(COUNT_SYNCHRONISATIONS, 1), SUCCESS; }
int cuProfilerStart(void) { return section_begin(), SUCCESS; }
int cuProfilerStop(void) { return section_end(), SUCCESS; }

int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
            : error == NOT_FOUND   ? "CUDA_ERROR_NOT_FOUND"
            : error == INVALID_PTX ? "CUDA_ERROR_INVALID_PTX"
                                   : "CUDA_ERROR_INVALID_VALUE";
    return SUCCESS;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

/* ---- streams and events ---- */

int cuStreamCreate(handle *stream, unsigned flags) { return (void)flags, *stream = malloc(1), SUCCESS; }
int cuStreamDestroy_v2(handle stream) { return free(stream), SUCCESS; }
int cuStreamSynchronize(handle stream) { return (void)stream, count(COUNT_SYNCHRONISATIONS, 1), SUCCESS; }
int cuStreamWaitEvent(handle stream, handle event, unsigned flags) {
    return (void)stream, (void)event, (void)flags, count(COUNT_EVENTS, 1), SUCCESS;
}
int cuStreamIsCapturing(handle stream, int *status) { return (void)stream, *status = 0, SUCCESS; }
int cuEventCreate(handle *event, unsigned flags) {
    return (void)flags, *event = malloc(1), count(COUNT_EVENTS, 1), SUCCESS;
}
int cuEventDestroy_v2(handle event) { return free(event), count(COUNT_EVENTS, 1), SUCCESS; }
int cuEventRecord(handle event, handle stream) { return (void)event, (void)stream, count(COUNT_EVENTS, 1), SUCCESS; }
int cuEventQuery(handle event) { return (void)event, SUCCESS; }
int cuEventSynchronize(handle event) { return (void)event, count(COUNT_SYNCHRONISATIONS, 1), SUCCESS; }

/* ---- memory ---- */

int cuMemAlloc_v2(pointer *address, size_t bytes) { return memory_allocate(address, bytes) ? OUT_OF_MEMORY : SUCCESS; }
int cuMemAllocAsync(pointer *address, size_t bytes, handle stream) { return (void)stream, cuMemAlloc_v2(address, bytes); }
int cuMemFree_v2(pointer address) { return memory_free(address) ? INVALID_VALUE : SUCCESS; }
int cuMemFreeAsync(pointer address, handle stream) { return (void)stream, cuMemFree_v2(address); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    return (void)flags, (*address = malloc(bytes)) ? SUCCESS : OUT_OF_MEMORY;
}
int cuMemFreeHost(void *address) { return free(address), SUCCESS; }
int cuMemGetInfo_v2(size_t *free_bytes, size_t *total) {
    return *total = memory_total(), *free_bytes = *total - memory_used(), SUCCESS;
}
int cuDeviceGetDefaultMemPool(handle *pool, int device) { return (void)device, *pool = &the_pool, SUCCESS; }
int cuDeviceGetMemPool(handle *pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
int cuMemPoolSetAttribute(handle pool, int attribute, void *value) {
    return (void)pool, (void)attribute, (void)value, SUCCESS;
}
int cuMemPoolGetAttribute(handle pool, int attribute, void *value) {
    return (void)pool, (void)attribute, *(uint64_t *)value = memory_used(), SUCCESS;
}
int cuMemPoolTrimTo(handle pool, size_t bytes) { return (void)pool, (void)bytes, SUCCESS; }

/* Ends the program if a range is not of one allocation: the driver would answer some time later, or not at all. */
static void check_range(const char *function, pointer address, size_t bytes) {
    if (!memory_holds(address, bytes)) refuse("%s of %zu bytes beyond an allocation", function, bytes);
}

int cuMemcpyHtoDAsync_v2(pointer to, const void *from, size_t bytes, handle stream) {
    (void)stream;
    check_range("cuMemcpyHtoD", to, bytes);
    memory_written(to);
    memcpy((void *)to, from, bytes);
    count(COUNT_UPLOADS, 1);
    count(COUNT_UPLOADED_BYTES, bytes);
    return SUCCESS;
}

/* From pageable memory, as here, the driver's download waits for the stream: it counts as a synchronisation too. */
int cuMemcpyDtoHAsync_v2(void *to, pointer from, size_t bytes, handle stream) {
    (void)stream;
    check_range("cuMemcpyDtoH", from, bytes);
    memcpy(to, (const void *)from, bytes);
    count(COUNT_DOWNLOADS, 1);
    count(COUNT_DOWNLOADED_BYTES, bytes);
    return SUCCESS;
}

/* Copies only what does not read as zero on both sides, so that large copies take neither time nor memory. */
int cuMemcpyDtoDAsync_v2(pointer to, pointer from, size_t bytes, handle stream) {
    (void)stream;
    check_range("cuMemcpyDtoD", to, bytes);
    check_range("cuMemcpyDtoD", from, bytes);
    if (memory_is_written(from) || memory_is_written(to)) {
        memory_written(to);
        memmove((void *)to, (const void *)from, bytes);
    }
    count(COUNT_COPIES, 1);
    count(COUNT_COPIED_BYTES, bytes);
    return SUCCESS;
}

int cuMemcpyHtoD_v2(pointer to, const void *from, size_t bytes) { return cuMemcpyHtoDAsync_v2(to, from, bytes, NULL); }
int cuMemcpyDtoH_v2(void *to, pointer from, size_t bytes) { return cuMemcpyDtoHAsync_v2(to, from, bytes, NULL); }
int cuMemcpyDtoD_v2(pointer to, pointer from, size_t bytes) { return cuMemcpyDtoDAsync_v2(to, from, bytes, NULL); }

int cuMemsetD8Async(pointer to, unsigned char value, size_t bytes, handle stream) {
    (void)stream;
    check_range("cuMemsetD8", to, bytes);
    if (value || memory_is_written(to)) {
        memory_written(to);
        memset((void *)to, value, bytes);
    }
    count(COUNT_MEMSETS, 1);
    return SUCCESS;
}
int cuMemsetD8_v2(pointer to, unsigned char value, size_t bytes) { return cuMemsetD8Async(to, value, bytes, NULL); }

/* ---- modules and launches ---- */

int cuModuleLoadData(handle *module, const void *image) {
    if (strncmp(image, "//", 2) && !strstr(image, ".version")) return INVALID_PTX;
    struct module *loaded = calloc(1, sizeof *loaded);
    if (!loaded || !(loaded->ptx = strdup(image))) refuse("out of host memory");
    *module = loaded;
    return SUCCESS;
}

int cuModuleUnload(handle module) {
    struct module *unloaded = module;
    while (unloaded->functions) {
        struct function *first = unloaded->functions;
        unloaded->functions = first->next;
        free(first->name);
        free(first);
    }
    free(unloaded->ptx);
    free(unloaded);
    return SUCCESS;
}

/* Whether the PTX has the line `.visible .entry NAME(`. */
static int has_entry(const char *ptx, const char *name) {
    char entry[512];
    if (snprintf(entry, sizeof entry, ".entry %s(", name) >= (int)sizeof entry) return 0;
    return strstr(ptx, entry) != NULL;
}

int cuModuleGetFunction(handle *function, handle module, const char *name) {
    struct module *from = module;
    struct function *found = from->functions;
    while (found && strcmp(found->name, name)) found = found->next;
    if (!found) {
        if (!has_entry(from->ptx, name)) {
            fprintf(stderr, "stand-in for the NVIDIA driver: there is no kernel %s in its module\n", name);
            return NOT_FOUND;
        }
        found = calloc(1, sizeof *found);
        if (!found || !(found->name = strdup(name))) refuse("out of host memory");
        found->next = from->functions;
        from->functions = found;
    }
    *function = found;
    return SUCCESS;
}

int cuFuncSetAttribute(handle function, int attribute, int value) {
    return (void)function, (void)attribute, value > SHARED_BYTES_OPTIN ? INVALID_VALUE : SUCCESS;
}

int cuLaunchKernel(handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared_bytes, handle stream, void **parameters, void **extra) {
    (void)stream, (void)extra;
    const struct function *launched = function;
    uint64_t threads = (uint64_t)block_x * block_y * block_z;
    int is_empty = !grid_x || !grid_y || !grid_z || !threads;
    int is_too_large = grid_x > 0x7fffffffu || grid_y > MAX_GRID_SIDE || grid_z > MAX_GRID_SIDE || threads > MAX_THREADS ||
                       block_z > 64 || shared_bytes > SHARED_BYTES_OPTIN;
    if (is_empty || is_too_large) {
        fprintf(stderr, "stand-in for the NVIDIA driver: %s was launched on a grid of %u x %u x %u blocks of %u x %u x %u\n",
                launched->name, grid_x, grid_y, grid_z, block_x, block_y, block_z);
        return INVALID_VALUE;
    }
    count_name(TABLE_KERNELS, launched->name);
    if (computes() && !run_kernel_of_ours(launched->name, grid_x, block_x, parameters))
        refuse("the values of the kernel %s, which is not ours, are asked for", launched->name);
    return SUCCESS;
}
