/* The part that all workers in C share: reading commands, timing, data. */
#include "worker.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST_REPETITIONS = 20000, FEWEST_REPETITIONS = 2, LINE_BYTES = 512 };

_Noreturn void bench_die(const char *who, const char *what)
{
    fprintf(stderr, "%s: %s\n", who, what);
    exit(EXIT_FAILURE);
}

void bench_fill(float *values, int64_t n, bool is_dy)
{
    const uint32_t step = is_dy ? 2246822519u : 2654435761u;
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(((uint32_t)i * step) >> 8) * 0x1p-23f - (is_dy ? 1.0f : 0.5f);
}

uint32_t bench_hash(uint32_t i, uint32_t stream)
{
    uint32_t h = i + stream * 0x9e3779b9u;
    h = (h ^ h >> 16) * 0x85ebca6bu;
    h = (h ^ h >> 13) * 0xc2b2ae35u;
    return h ^ h >> 16;
}

void bench_noise(float *values, int64_t n, uint32_t stream, double scale)
{
    for (int64_t i = 0; i < n; i++)
        values[i] = ((float)(bench_hash((uint32_t)i, stream) >> 8) * 0x1p-23f - 1) * (float)scale;
}

double bench_mean_absolute(const float *values, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += fabs((double)values[i]);
    return n ? sum / (double)n : 0;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The median. */
static double run(const bench_worker *worker, double warm_up, double seconds, int *repetitions, double *fastest)
{
    static double took[MOST_REPETITIONS];
    double start = now();
    while (now() - start < warm_up)
        worker->step();
    int n = 0;
    const int fewest = seconds > 0 ? FEWEST_REPETITIONS : 1;
    start = now();
    for (double before = start; n < MOST_REPETITIONS && (n < fewest || before - start < seconds);) {
        worker->step();
        const double after = now();
        took[n++] = 1e6 * (after - before);
        before = after;
    }
    qsort(took, (size_t)n, sizeof *took, ascending);
    *repetitions = n;
    *fastest = took[0];
    return n % 2 ? took[n / 2] : (took[n / 2 - 1] + took[n / 2]) / 2;
}

int bench_serve(const bench_worker *worker)
{
    char line[LINE_BYTES];
    bench_case c;
    while (fgets(line, sizeof line, stdin)) {
        double warm_up, seconds, a = 0, b = 0;
        if (!strncmp(line, "about", 5)) {
            printf("%s\n", worker->about());
        } else if (!strncmp(line, "case ", 5) && bench_read_case(line + 5, &c)) {
            if (worker->prepare(&c)) {
                worker->check(&a, &b);
                printf("ready %.9g %.9g\n", a, b);
            } else {
                puts("none");
            }
        } else if (sscanf(line, "run %lf %lf", &warm_up, &seconds) == 2) {
            int repetitions;
            double fastest;
            const double median = run(worker, warm_up, seconds, &repetitions, &fastest);
            const double share = worker->share ? *worker->share : 1;
            printf("%.6g %d %.6g\n", share * median, repetitions, share * fastest);
        } else {
            bench_die("worker", "a command that it does not know");
        }
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}
