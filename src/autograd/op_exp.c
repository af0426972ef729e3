/* y = eˣ.  Expands to exp_forward_f32, exp_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]. */
EK_KERNEL static void FN(exp_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = FN(real_exp)(x[i]);
}

/* dx = y·dy.  y, dy, dx: [n]. */
EK_KERNEL static void FN(exp_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                       const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_exp.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(exp)

ek_tensor *ek_exp(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_exp, x, 0, 0);
}
#endif
