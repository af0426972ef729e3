/* y = σ(x) = 1/(1 + e⁻ˣ).  Expands to sigmoid_forward_f32, sigmoid_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]. */
EK_KERNEL static void FN(sigmoid_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = FN(real_sigmoid)(x[i]);
}

/* dx = y·(1 − y)·dy.  y, dy, dx: [n]. */
EK_KERNEL static void FN(sigmoid_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                           const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] * (1 - y[i]) * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_sigmoid.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(sigmoid)

ek_tensor *ek_sigmoid(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_sigmoid, x, 0, 0);
}
#endif
