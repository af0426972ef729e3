/* The kinds of cases that our side knows; ours.c asks one after the other. */
#ifndef BENCH_OURS_H
#define BENCH_OURS_H

#include <evenkeel/evenkeel.h>

#include "worker.h"

typedef struct ours_kind {
    bool (*prepare)(const bench_case *c); /* as in worker.h; false with ek_last_status() EK_OK: none of this kind */
    void (*step)(void);
    void (*check)(double *a, double *b);
    void (*discard)(void); /* frees what prepare made */
} ours_kind;

extern const ours_kind ours_norm, ours_conv, ours_gemm, ours_train;

/* Leaves with ek_last_error() where this has not been done. */
void ours_need(bool done);
/* A tensor of the numbers of bench_fill(). */
ek_tensor *ours_tensor(ek_shape shape, bool is_dy);
double ours_mean_absolute(const ek_tensor *t);

#endif
