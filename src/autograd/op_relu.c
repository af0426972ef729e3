/* y = max(x, 0).  Expands to relu_forward_f32, relu_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n].  NaN passes through. */
EK_KERNEL static void FN(relu_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i];
}

/* dx = 0 where y ≤ 0, the kink included, and dy elsewhere: at NaN too, as in PyTorch.  y, dy, dx: [n]. */
EK_KERNEL static void FN(relu_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] <= 0 ? 0 : dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_relu.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(relu)

ek_tensor *ek_relu(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_relu, x, 0, 0);
}
#endif
