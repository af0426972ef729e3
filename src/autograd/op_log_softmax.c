/* y = ln softmax(x) along one axis.  Expands to log_softmax_forward_f32, log_softmax_backward_f32 and their
 * _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* y = (x − max) − ln Σ exp(x − max).  x, y: tile of `width` lines of n elements (softmax.h). */
EK_KERNEL static void FN(log_softmax_forward)(int64_t n, int64_t inner, int width, const REAL *x, REAL *y)
{
    REAL max[EK_TILE];
    double sum[EK_TILE];
    FN(ek_softmax_tile)(n, inner, width, x, NULL, max, sum);
    for (int j = 0; j < width; j++)
        sum[j] = log(sum[j]);
    EK_FOR_TILE(n, inner, width, y[at] = (x[at] - max[j]) - (REAL)sum[j]);
}

/* dx = dy − exp(y)·Σ dy.  y, dy, dx: tile of `width` lines of n elements. */
EK_KERNEL static void FN(log_softmax_backward)(int64_t n, int64_t inner, int width, const REAL *y, const REAL *dy,
                                               REAL *dx)
{
    double total[EK_TILE];
    FN(ek_dot_tile)(n, inner, width, dy, NULL, total);
    EK_FOR_TILE(n, inner, width, dx[at] = dy[at] - FN(real_exp)(y[at]) * (REAL)total[j]);
}

#else
#include "softmax.h"
#define OP_FILE "op_log_softmax.c"
#include "foreach_real.h"

EK_DEFINE_LINE_OP(log_softmax)

ek_tensor *ek_log_softmax(ek_tape *tape, ek_tensor *x, int axis)
{
    return ek_apply_lines(tape, ek_op_log_softmax, x, axis);
}
#endif
