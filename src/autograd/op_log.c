/* y = ln x.  Expands to log_forward_f32, log_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n].  −∞ at 0, NaN below. */
EK_KERNEL static void FN(log_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = FN(real_log)(x[i]);
}

/* dx = dy/x.  x, dy, dx: [n]. */
EK_KERNEL static void FN(log_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                       const double *p)
{
    (void)y;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = dy[i] / x[i];
}

#else
#include "op.h"
#define OP_FILE "op_log.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(log)

ek_tensor *ek_log(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_log, x, 0, 0);
}
#endif
