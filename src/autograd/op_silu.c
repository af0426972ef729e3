/* y = x·σ(x).  Expands to silu_forward_f32, silu_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]. */
EK_KERNEL static void FN(silu_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] * FN(real_sigmoid)(x[i]);
}

/* dx = σ(x)·(1 + x·σ(−x))·dy; 1 − σ(x) would lose its digits for large x.  x, dy, dx: [n]. */
EK_KERNEL static void FN(silu_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)y;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = FN(real_sigmoid)(x[i]) * (1 + x[i] * FN(real_sigmoid)(-x[i])) * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_silu.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(silu)

ek_tensor *ek_silu(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_silu, x, 0, 0);
}
#endif
