/* What a program that takes part in a comparison has to do.  The driver, compare.c, starts one process per peer and
 * number of threads and tells it by lines on its standard input:
 *
 *   about                                        answer: one line that says what this is
 *   case KIND SIZE VARIANT THREADS [OPTION…]     answer: "ready A B", or "none" when there is no such case here.
 *                                                A and B tell what was computed: for a norm the means of |y| and |dx|
 *   run WARM_UP SECONDS                          answer: "M N F", of N repetitions the median and the fastest, in
 *                                                microseconds; WARM_UP and SECONDS 0: a single one, as it comes
 *
 * KIND, SIZE and OPTIONs are the words of a line of a .cases file; VARIANT is one of its `variants`.  A worker in C
 * fills in a bench_worker; peer_pytorch.py speaks the same in Python.
 */
#ifndef BENCH_WORKER_H
#define BENCH_WORKER_H

#include "cases.h"

typedef struct bench_worker {
    const char *(*about)(void);
    /* Makes a case ready, in place of the one before; false: there is no such case here. */
    bool (*prepare)(const bench_case *c);
    void (*step)(void); /* what is timed */
    /* One step, and numbers that are nearly the same for everyone who does the same work. */
    void (*check)(double *a, double *b);
    const double *share; /* of the time of a step, what counts; NULL: all */
} bench_worker;

/* Answers the driver until it hangs up. */
int bench_serve(const bench_worker *worker);

/* The same numbers for every worker: a Weyl sequence in [−0.5, 1.5) for x, another one for dy. */
void bench_fill(float *values, int64_t n, bool is_dy);
/* Random numbers in [−scale, scale), the same for every worker: element i of a stream is a hash of the two. */
void bench_noise(float *values, int64_t n, uint32_t stream, double scale);
/* The hash: the last steps of MurmurHash3 (Appleby 2011, public domain). */
uint32_t bench_hash(uint32_t i, uint32_t stream);
double bench_mean_absolute(const float *values, int64_t n);
/* Says what is wrong and leaves: the driver goes on without this peer. */
_Noreturn void bench_die(const char *who, const char *what);
#endif
