/* y = tanh x.  Expands to tanh_forward_f32, tanh_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]. */
EK_KERNEL static void FN(tanh_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = FN(real_tanh)(x[i]);
}

/* dx = (1 − y²)·dy.  y, dy, dx: [n]. */
EK_KERNEL static void FN(tanh_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = (1 - y[i] * y[i]) * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_tanh.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(tanh)

ek_tensor *ek_tanh(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_tanh, x, 0, 0);
}
#endif
