/* The only file that knows OpenMP. */
#include "core.h"

#ifdef _OPENMP
#include <omp.h>
#endif

int ek_num_threads(void)
{
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

ek_status ek_set_num_threads(int n)
{
    if (n < 1)
        return ek_fail(EK_ERR_ARGUMENT, "set_num_threads: expected at least 1, got %d", n);
#ifdef _OPENMP
    omp_set_num_threads(n);
#endif
    return EK_OK;
}

const char *ek_build_info(void)
{
    static _Thread_local char text[160];
#ifdef _OPENMP
    const char *threads = "OpenMP";
#else
    const char *threads = "none (built without OpenMP)";
#endif
    snprintf(text, sizeof text, "Evenkeel %s, threads: %s, %d in use, matrix products: %s", EK_VERSION_STRING, threads,
             ek_num_threads(), ek_gemm_backend());
    return text;
}

int ek_team_suspend(void)
{
    int size = 1;
#ifdef _OPENMP
    size = omp_get_max_threads();
    if (size != 1)
        omp_set_num_threads(1);
#endif
    return size;
}

void ek_team_resume(int suspended)
{
#ifdef _OPENMP
    if (suspended != 1)
        omp_set_num_threads(suspended);
#else
    (void)suspended;
#endif
}

static _Thread_local int worker;

int ek_worker(void)
{
    return worker;
}

int ek_workers(void)
{
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
}

void ek_parallel_for(int64_t n, int64_t grain, ek_range_body body, void *context)
{
    if (n <= 0)
        return;
    int64_t chunks = (n + grain - 1) / grain;
#ifdef _OPENMP
    if (chunks > 1 && ek_workers() > 1) {
#pragma omp parallel
        {
            worker = omp_get_thread_num();
#pragma omp for schedule(static)
            for (int64_t c = 0; c < chunks; c++)
                body(context, c * grain, (c + 1) * grain < n ? (c + 1) * grain : n);
        }
        return;
    }
#endif
    const int outer = worker;
    worker = 0;
    for (int64_t c = 0; c < chunks; c++)
        body(context, c * grain, (c + 1) * grain < n ? (c + 1) * grain : n);
    worker = outer;
}
