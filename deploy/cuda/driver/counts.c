/* Counts and device memory of the stand-in for the NVIDIA driver. */
#define _GNU_SOURCE
#include "counts.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const char *const COUNT_NAMES[COUNTS] = {
    "allocations", "uploads", "uploaded_bytes", "downloads", "downloaded_bytes", "copies", "copied_bytes", "memsets",
    "synchronisations", "events", "random_fills",
};
static const char *const TABLE_NAMES[TABLES] = {"kernels", "gemms"};

/* A name with its number, in the order of their first appearance. */
struct named {
    char *name;
    uint64_t number;
};

struct named_counts {
    struct named *items;
    size_t length, capacity;
};

/* One allocation. All are kept sorted by address. */
struct allocation {
    uint64_t address;
    size_t bytes;
    int is_written;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t counts[COUNTS];
static struct named_counts tables[TABLES];
static int is_open;

static struct allocation *allocations;
static size_t allocations_length, allocations_capacity;
static uint64_t used, peak;

_Noreturn void refuse(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("stand-in for the NVIDIA driver: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

/* Makes room for one more item of `size` bytes. */
static void *grown(void *items, size_t length, size_t *capacity, size_t size) {
    if (length < *capacity) return items;
    *capacity = *capacity ? 2 * *capacity : 64;
    items = realloc(items, *capacity * size);
    if (!items) refuse("out of host memory");
    return items;
}

void count(enum count which, uint64_t amount) {
    pthread_mutex_lock(&lock);
    if (is_open) counts[which] += amount;
    pthread_mutex_unlock(&lock);
}

void count_name(enum table which, const char *name) {
    pthread_mutex_lock(&lock);
    struct named_counts *table = &tables[which];
    size_t index = 0;
    while (index < table->length && strcmp(table->items[index].name, name)) index++;
    if (is_open && index == table->length) {
        table->items = grown(table->items, table->length, &table->capacity, sizeof *table->items);
        table->items[table->length++] = (struct named){strdup(name), 0};
    }
    if (is_open) table->items[index].number++;
    pthread_mutex_unlock(&lock);
}

void section_begin(void) {
    pthread_mutex_lock(&lock);
    memset(counts, 0, sizeof counts);
    for (int which = 0; which < TABLES; which++)
        for (size_t index = 0; index < tables[which].length; index++) tables[which].items[index].number = 0;
    peak = used;
    is_open = 1;
    pthread_mutex_unlock(&lock);
}

static void write_table(FILE *file, const struct named_counts *table) {
    const char *separator = "";
    for (size_t index = 0; index < table->length; index++) {
        if (!table->items[index].number) continue;
        fprintf(file, "%s\"%s\":%llu", separator, table->items[index].name,
                (unsigned long long)table->items[index].number);
        separator = ",";
    }
}

/* Appends the section as one line of JSON to the file that ECHOGEN_DRIVER_COUNTS names. */
void section_end(void) {
    pthread_mutex_lock(&lock);
    const char *path = getenv("ECHOGEN_DRIVER_COUNTS");
    FILE *file = is_open && path ? fopen(path, "a") : NULL;
    if (is_open && path && !file) refuse("cannot write to %s", path);
    is_open = 0;
    if (file) {
        fputc('{', file);
        for (int which = 0; which < COUNTS; which++)
            fprintf(file, "\"%s\":%llu,", COUNT_NAMES[which], (unsigned long long)counts[which]);
        for (int which = 0; which < TABLES; which++) {
            fprintf(file, "\"%s\":{", TABLE_NAMES[which]);
            write_table(file, &tables[which]);
            fputs("},", file);
        }
        fprintf(file, "\"used_bytes\":%llu,\"peak_bytes\":%llu}\n", (unsigned long long)used, (unsigned long long)peak);
        fclose(file);
    }
    pthread_mutex_unlock(&lock);
}

uint64_t memory_total(void) {
    const char *bytes = getenv("ECHOGEN_DRIVER_MEMORY_BYTES");
    return bytes ? strtoull(bytes, NULL, 10) : 141000000000ull;
}

uint64_t memory_used(void) {
    return used;
}

/* The index of the first allocation that begins after `address`. */
static size_t after(uint64_t address) {
    size_t low = 0, high = allocations_length;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (allocations[middle].address <= address) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The allocation that holds `address`, or NULL. An empty one holds its own address. */
static struct allocation *holder(uint64_t address) {
    size_t index = after(address);
    if (!index) return NULL;
    struct allocation *found = &allocations[index - 1];
    return address - found->address <= found->bytes ? found : NULL;
}

int memory_allocate(uint64_t *address, size_t bytes) {
    pthread_mutex_lock(&lock);
    int fits = bytes <= memory_total() - used;
    if (fits) {
        /* A page behind each, so that two never touch. */
        void *mapped = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) refuse("cannot map %zu bytes", bytes);
        *address = (uint64_t)mapped;
        allocations = grown(allocations, allocations_length, &allocations_capacity, sizeof *allocations);
        size_t index = after(*address);
        memmove(&allocations[index + 1], &allocations[index], (allocations_length - index) * sizeof *allocations);
        allocations[index] = (struct allocation){*address, bytes, 0};
        allocations_length++;
        used += bytes;
        if (used > peak) peak = used;
        if (is_open) counts[COUNT_ALLOCATIONS]++;
    }
    pthread_mutex_unlock(&lock);
    return fits ? 0 : -1;
}

int memory_free(uint64_t address) {
    pthread_mutex_lock(&lock);
    size_t index = after(address);
    int known = index && allocations[index - 1].address == address;
    if (known) {
        struct allocation freed = allocations[--index];
        allocations_length--;
        memmove(&allocations[index], &allocations[index + 1], (allocations_length - index) * sizeof *allocations);
        used -= freed.bytes;
        munmap((void *)freed.address, freed.bytes + 4096);
    }
    pthread_mutex_unlock(&lock);
    return known ? 0 : -1;
}

int memory_holds(uint64_t address, size_t bytes) {
    pthread_mutex_lock(&lock);
    struct allocation *found = holder(address);
    int holds = found && bytes <= found->bytes - (address - found->address);
    pthread_mutex_unlock(&lock);
    return holds;
}

void memory_written(uint64_t address) {
    pthread_mutex_lock(&lock);
    struct allocation *found = holder(address);
    if (found) found->is_written = 1;
    pthread_mutex_unlock(&lock);
}

int memory_is_written(uint64_t address) {
    pthread_mutex_lock(&lock);
    struct allocation *found = holder(address);
    int is_written = computes() || (found && found->is_written);
    pthread_mutex_unlock(&lock);
    return is_written;
}

int computes(void) {
    return getenv("ECHOGEN_DRIVER_KERNELS") != NULL;
}

int run_kernel_of_ours(const char *name, unsigned blocks, unsigned threads, void **arguments) {
    static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
    static _Bool (*run)(const char *, unsigned, unsigned, void **);
    pthread_mutex_lock(&turn);
    if (!run) {
        void *library = dlopen(getenv("ECHOGEN_DRIVER_KERNELS"), RTLD_NOW);
        if (!library) refuse("%s", dlerror());
        *(void **)&run = dlsym(library, "run_kernel");
        if (!run) refuse("%s", dlerror());
    }
    int is_ours = run(name, blocks, threads, arguments);
    pthread_mutex_unlock(&turn);
    return is_ours;
}
