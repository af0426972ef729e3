/* y = √x.  Expands to sqrt_forward_f32, sqrt_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n].  NaN below 0. */
EK_KERNEL static void FN(sqrt_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = MATH(sqrt)(x[i]);
}

/* dx = dy/(2y), which is ∞ at 0.  y, dy, dx: [n]. */
EK_KERNEL static void FN(sqrt_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] / (2 * y[i]);
}

#else
#include "op.h"
#define OP_FILE "op_sqrt.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(sqrt)

ek_tensor *ek_sqrt(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_sqrt, x, 0, 0);
}
#endif
