/* What the lines of a .cases file say, for programs that take them apart. */
#ifndef BENCH_CASES_H
#define BENCH_CASES_H

#include <stdbool.h>
#include <stdint.h>

enum { BENCH_MAX_NDIM = 12, BENCH_MAX_WORDS = 16 };

typedef struct bench_case {
    const char *kind;
    int ndim; /* SIZE as a shape, 32x64x56x56; 0 where it is something else */
    int64_t dim[BENCH_MAX_NDIM];
    int64_t numel;
    const char *size, *variant;
    bool relu, train; /* VARIANT says relu_…, …train */
    int threads, n_options;
    const char *options[BENCH_MAX_WORDS];
} bench_case;

/* Takes a line KIND SIZE VARIANT THREADS [OPTION…] apart, whose words stay where they are; false: it is none. */
bool bench_read_case(char *line, bench_case *c);

/* The number behind a letter in a size of such parts, "b32_w64"; `otherwise` where there is none. */
int64_t bench_size(const bench_case *c, char letter, int64_t otherwise);

/* The number in an option "name=number", 1 for "name" alone, `otherwise` where there is none. */
int64_t bench_option(const bench_case *c, const char *name, int64_t otherwise);

/* Calls `use` for every line of a .cases file in each of its variants, with 1 for the number of threads, until it
 * returns false.  Returns how often it was called; -1 when the file cannot be read. */
int bench_each_case(const char *path, bool (*use)(void *user, const bench_case *c), void *user);

#endif
