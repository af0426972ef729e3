/* y = softmax(x) along one axis.  Expands to softmax_forward_f32, softmax_backward_f32 and their _f64 twins. */
#ifdef REAL

/* y = exp(x − max)/Σ exp(x − max).  x, y: tile of `width` lines of n elements (softmax.h). */
static void FN(softmax_forward)(int64_t n, int64_t inner, int width, const REAL *x, REAL *y)
{
    REAL max[EK_TILE];
    double sum[EK_TILE];
    FN(ek_softmax_tile)(n, inner, width, x, y, max, sum);
}

/* dx = y·(dy − Σ dy·y).  y, dy, dx: tile of `width` lines of n elements. */
EK_KERNEL static void FN(softmax_backward)(int64_t n, int64_t inner, int width, const REAL *y, const REAL *dy, REAL *dx)
{
    double dot[EK_TILE];
    FN(ek_dot_tile)(n, inner, width, dy, y, dot);
    EK_FOR_TILE(n, inner, width, dx[at] = y[at] * (dy[at] - (REAL)dot[j]));
}

#else
#include "softmax.h"
#define OP_FILE "op_softmax.c"
#include "foreach_real.h"

EK_DEFINE_LINE_OP(softmax)

ek_tensor *ek_softmax(ek_tape *tape, ek_tensor *x, int axis)
{
    return ek_apply_lines(tape, ek_op_softmax, x, axis);
}
#endif
