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

int64_t bench_option(const bench_case *c, const char *name, int64_t otherwise)
{
    const size_t length = strlen(name);
    for (int i = 0; i < c->n_options; i++)
        if (!strncmp(c->options[i], name, length)) {
            if (c->options[i][length] == '=')
                return strtoll(c->options[i] + length + 1, NULL, 10);
            if (c->options[i][length] == '\0')
                return 1;
        }
    return otherwise;
}

void bench_fill(float *values, int64_t n, bool is_dy)
{
    const uint32_t step = is_dy ? 2246822519u : 2654435761u;
    for (int64_t i = 0; i < n; i++)
        values[i] = (float)(((uint32_t)i * step) >> 8) * 0x1p-23f - (is_dy ? 1.0f : 0.5f);
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

static double run(const bench_worker *worker, double warm_up, double seconds, int *repetitions)
{
    static double took[MOST_REPETITIONS];
    double start = now();
    do
        worker->step();
    while (now() - start < warm_up);
    int n = 0;
    start = now();
    for (double before = start; n < MOST_REPETITIONS && (n < FEWEST_REPETITIONS || before - start < seconds);) {
        worker->step();
        const double after = now();
        took[n++] = 1e6 * (after - before);
        before = after;
    }
    qsort(took, (size_t)n, sizeof *took, ascending);
    *repetitions = n;
    return n % 2 ? took[n / 2] : (took[n / 2 - 1] + took[n / 2]) / 2;
}

/* 32x64x56x56; a size that is no shape has no dimensions. */
static void read_shape(bench_case *c)
{
    const char *text = c->size;
    c->numel = 1;
    for (char *end; c->ndim < BENCH_MAX_NDIM; text = end + 1) {
        const int64_t dim = strtoll(text, &end, 10);
        if (end == text || dim < 1)
            break;
        c->dim[c->ndim++] = dim;
        c->numel *= dim;
        if (*end != 'x')
            return;
    }
    c->ndim = 0;
    c->numel = 0;
}

static bool read_case(char *words, bench_case *c)
{
    *c = (bench_case){0};
    const char *word[BENCH_MAX_WORDS];
    int n = 0;
    for (char *at = strtok(words, " \n"); at && n < BENCH_MAX_WORDS; at = strtok(NULL, " \n"))
        word[n++] = at;
    if (n < 4)
        return false;
    c->kind = word[0];
    c->size = word[1];
    c->variant = word[2];
    c->threads = atoi(word[3]);
    for (int i = 4; i < n; i++)
        c->options[c->n_options++] = word[i];
    c->relu = strstr(c->variant, "relu") != NULL;
    c->train = strstr(c->variant, "train") != NULL;
    read_shape(c);
    return c->threads >= 1;
}

int bench_serve(const bench_worker *worker)
{
    char line[LINE_BYTES];
    bench_case c;
    while (fgets(line, sizeof line, stdin)) {
        double warm_up, seconds, a = 0, b = 0;
        if (!strncmp(line, "about", 5)) {
            printf("%s\n", worker->about());
        } else if (!strncmp(line, "case ", 5) && read_case(line + 5, &c)) {
            if (worker->prepare(&c)) {
                worker->check(&a, &b);
                printf("ready %.9g %.9g\n", a, b);
            } else {
                puts("none");
            }
        } else if (sscanf(line, "run %lf %lf", &warm_up, &seconds) == 2) {
            int repetitions;
            const double median = run(worker, warm_up, seconds, &repetitions);
            printf("%.6g %d\n", median, repetitions);
        } else {
            bench_die("worker", "a command that it does not know");
        }
        fflush(stdout);
    }
    return EXIT_SUCCESS;
}
