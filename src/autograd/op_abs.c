/* y = |x|.  Expands to abs_forward_f32, abs_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n]. */
EK_KERNEL static void FN(abs_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = MATH(fabs)(x[i]);
}

/* dx = sign(x)·dy, with sign 0 at 0 and, as in PyTorch, at NaN.  x, dy, dx: [n]. */
EK_KERNEL static void FN(abs_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                       const double *p)
{
    (void)y;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = x[i] > 0 ? dy[i] : x[i] < 0 ? -dy[i] : 0;
}

#else
#include "op.h"
#define OP_FILE "op_abs.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(abs)

ek_tensor *ek_abs(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_abs, x, 0, 0);
}
#endif
