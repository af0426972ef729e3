/* OpenBLAS's side of a comparison: `gemm MxNxK` by one call of cblas_sgemm on its own threads.  `peer_blas large` tells
 * for each the time that as many multiplications take in one of 1024³. */
#define _GNU_SOURCE /* sched_setaffinity */
#include <cblas.h>
#include <dirent.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker.h"

enum { LARGE = 1024 };

static bool large;
static double value, share; /* of the product that was asked for; what of the one that is timed it is */
static struct {
    float *x, *w, *y; /* (m, k)·(k, n) → (m, n) */
    int m, n, k;
} now_running;

static const char *about(void)
{
    return openblas_get_config();
}

/* A core for each thread of this process, as OMP_PROC_BIND does for OpenMP's. */
static void bind_threads(void)
{
    DIR *tasks = opendir("/proc/self/task");
    const struct dirent *entry;
    for (int core = 0; tasks && (entry = readdir(tasks));) {
        const int task = atoi(entry->d_name);
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (task > 0 && sched_setaffinity(task, sizeof set, &set) == 0)
            core++;
    }
    if (tasks)
        closedir(tasks);
}

static void discard(void)
{
    free(now_running.x);
    free(now_running.w);
    free(now_running.y);
    memset(&now_running, 0, sizeof now_running);
}

static float *matrix(int rows, int columns, bool is_dy)
{
    const int64_t n = (int64_t)rows * columns;
    float *values = aligned_alloc(64, ((size_t)n * sizeof *values + 63) / 64 * 64);
    if (!values)
        bench_die("openblas", "out of memory");
    bench_fill(values, n, is_dy);
    return values;
}

static void make(int m, int n, int k)
{
    discard();
    now_running.m = m;
    now_running.n = n;
    now_running.k = k;
    now_running.x = matrix(m, k, false);
    now_running.w = matrix(k, n, true);
    now_running.y = matrix(m, n, false);
}

static void step(void)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, now_running.m, now_running.n, now_running.k, 1,
                now_running.x, now_running.k, now_running.w, now_running.n, 0, now_running.y, now_running.n);
}

static bool prepare(const bench_case *c)
{
    discard();
    if (strcmp(c->kind, "gemm") != 0 || c->ndim != 3)
        return false;
    openblas_set_num_threads(c->threads);
    bind_threads();
    make((int)c->dim[0], (int)c->dim[1], (int)c->dim[2]);
    step();
    value = bench_mean_absolute(now_running.y, c->dim[0] * c->dim[1]);
    share = 1;
    if (large) {
        share = (double)c->numel / ((double)LARGE * LARGE * LARGE);
        make(LARGE, LARGE, LARGE);
    }
    return true;
}

static void check(double *a, double *b)
{
    step();
    *a = value;
    *b = 0;
}

int main(int argc, char **argv)
{
    large = argc > 1 && !strcmp(argv[1], "large");
    return bench_serve(&(bench_worker){about, prepare, step, check, &share});
}
