/* y = x, kept between low and high.  Expands to clamp_forward_f32, clamp_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n]; p = {low, high}.  Both comparisons are false for NaN, which passes through. */
EK_KERNEL static void FN(clamp_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    const REAL low = (REAL)p[0], high = (REAL)p[1];
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < low ? low : x[i] > high ? high : x[i];
}

/* dx = dy between the bounds and at them, 0 outside and, as in PyTorch, at NaN.  x, dy, dx: [n]. */
EK_KERNEL static void FN(clamp_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                         const double *p)
{
    (void)y;
    const REAL low = (REAL)p[0], high = (REAL)p[1];
    for (int64_t i = 0; i < n; i++)
        dx[i] = x[i] >= low && x[i] <= high ? dy[i] : 0;
}

#else
#include "op.h"
#define OP_FILE "op_clamp.c"
#include "foreach_real.h"

static ek_status infer_clamp(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    const double *p = node->attributes;
    if (!(p[0] <= p[1]))
        return ek_fail(EK_ERR_ARGUMENT, "clamp: expected low ≤ high (±INFINITY for no bound), got %g and %g", p[0],
                       p[1]);
    return ek_infer_same(node, dtype, shape);
}

EK_DEFINE_CHECKED_UNARY(clamp, infer_clamp)

ek_tensor *ek_clamp(ek_tape *tape, ek_tensor *x, double low, double high)
{
    return ek_apply_unary(tape, ek_op_clamp, x, low, high);
}
#endif
