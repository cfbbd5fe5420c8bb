/* What the stand-in for the NVIDIA driver counts, and the device memory that it hands out. See README.md. */
#ifndef COUNTS_H
#define COUNTS_H

#include <stddef.h>
#include <stdint.h>

/* Single counts of a section. */
enum count {
    COUNT_ALLOCATIONS,
    COUNT_UPLOADS,
    COUNT_UPLOADED_BYTES,
    COUNT_DOWNLOADS,
    COUNT_DOWNLOADED_BYTES,
    COUNT_COPIES,
    COUNT_COPIED_BYTES,
    COUNT_MEMSETS,
    COUNT_SYNCHRONISATIONS,
    COUNT_EVENTS,
    COUNT_RANDOM_FILLS,
    COUNTS
};

/* Counts by name of a section. */
enum table { TABLE_KERNELS, TABLE_GEMMS, TABLES };

void count(enum count which, uint64_t amount);
void count_name(enum table which, const char *name);

/* A section lasts from cuProfilerStart to cuProfilerStop. What is counted outside of any belongs to none. */
void section_begin(void);
void section_end(void);

/* Device memory. It costs nothing until it is written, and reads as zero. */
int memory_allocate(uint64_t *address, size_t bytes); /* 0, or -1 if the device has no room */
int memory_free(uint64_t address);                    /* 0, or -1 if nothing was allocated there */
int memory_holds(uint64_t address, size_t bytes);     /* whether the range lies within one allocation */
void memory_written(uint64_t address);                /* the allocation no longer reads as zero */
int memory_is_written(uint64_t address);
uint64_t memory_total(void);
uint64_t memory_used(void);

/* Whether values are computed too: our kernels by the library that ECHOGEN_DRIVER_KERNELS names, and products. */
int computes(void);
int run_kernel_of_ours(const char *name, unsigned blocks, unsigned threads, void **arguments); /* whether it is ours */

/* Ends the program with a message that names the function. */
_Noreturn void refuse(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
