/* The floor: a copy of the tensor from memory to memory, by as many threads, a contiguous part each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "worker.h"

static struct {
    float *from, *to;
    int64_t n;
} tensor;

static const char *about(void)
{
    return "memcpy";
}

static bool prepare(const bench_case *c)
{
    free(tensor.from);
    free(tensor.to);
    memset(&tensor, 0, sizeof tensor);
    if (!c->ndim || !strcmp(c->kind, "gemm"))
        return false;
#ifdef _OPENMP
    omp_set_num_threads(c->threads);
#endif
    const size_t bytes = ((size_t)c->numel * sizeof(float) + 63) / 64 * 64;
    tensor.n = c->numel;
    tensor.from = aligned_alloc(64, bytes);
    tensor.to = aligned_alloc(64, bytes);
    if (!tensor.from || !tensor.to)
        bench_die("copy", "out of memory");
    bench_fill(tensor.from, tensor.n, false);
    memset(tensor.to, 0, bytes);
    return true;
}

static void step(void)
{
    enum { SERIAL_BELOW = 1 << 15 }; /* elements: to start threads costs more than to copy these */
    if (tensor.n < SERIAL_BELOW) {
        memcpy(tensor.to, tensor.from, (size_t)tensor.n * sizeof *tensor.to);
        return;
    }
#ifdef _OPENMP
#pragma omp parallel
    {
        const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
#else
    {
        const int64_t part = 0, parts = 1;
#endif
        const int64_t begin = tensor.n * part / parts, end = tensor.n * (part + 1) / parts;
        memcpy(tensor.to + begin, tensor.from + begin, (size_t)(end - begin) * sizeof *tensor.to);
    }
}

static void check(double *a, double *b)
{
    step();
    *a = *b = 0;
}

int main(void)
{
    return bench_serve(&(bench_worker){about, prepare, step, check, NULL});
}
