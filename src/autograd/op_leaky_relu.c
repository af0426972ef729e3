/* y = x where x > 0, slope·x elsewhere.  Expands to leaky_relu_forward_f32, leaky_relu_backward_f32 and their _f64
 * twins. */
#ifdef REAL

/* x, y: [n]; p = {slope}. */
EK_KERNEL static void FN(leaky_relu_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    const REAL slope = (REAL)p[0];
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] > 0 ? x[i] : slope * x[i];
}

/* dx = dy where x > 0, slope·dy elsewhere.  x, dy, dx: [n]. */
EK_KERNEL static void FN(leaky_relu_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                              const double *p)
{
    (void)y;
    const REAL slope = (REAL)p[0];
    for (int64_t i = 0; i < n; i++)
        dx[i] = x[i] > 0 ? dy[i] : slope * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_leaky_relu.c"
#include "foreach_real.h"

static ek_status infer_leaky_relu(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    const double *p = node->attributes;
    if (!isfinite(p[0]))
        return ek_fail(EK_ERR_ARGUMENT, "leaky_relu: expected a finite negative_slope, got %g", p[0]);
    return ek_infer_same(node, dtype, shape);
}

EK_DEFINE_CHECKED_UNARY(leaky_relu, infer_leaky_relu)

ek_tensor *ek_leaky_relu(ek_tape *tape, ek_tensor *x, double negative_slope)
{
    return ek_apply_unary(tape, ek_op_leaky_relu, x, negative_slope, 0);
}
#endif
