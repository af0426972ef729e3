/* y = ln(1 + exp(βx))/β, and x where βx > threshold.  Expands to softplus_forward_f32, softplus_backward_f32 and
 * their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]; p = {β, threshold}. */
EK_KERNEL static void FN(softplus_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    const REAL beta = (REAL)p[0], threshold = (REAL)p[1];
    for (int64_t i = 0; i < n; i++) {
        const REAL z = beta * x[i], above = z > 0 ? z : 0;
        y[i] = z > threshold ? x[i] : (above + FN(softplus_tail)(z)) / beta;
    }
}

/* dx = σ(βx)·dy, and dy where βx > threshold.  x, dy, dx: [n]. */
EK_KERNEL static void FN(softplus_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                            const double *p)
{
    (void)y;
    const REAL beta = (REAL)p[0], threshold = (REAL)p[1];
    for (int64_t i = 0; i < n; i++) {
        const REAL z = beta * x[i], slope = FN(real_sigmoid)(z);
        dx[i] = (z > threshold ? 1 : slope) * dy[i];
    }
}

#else
#include "op.h"
#define OP_FILE "op_softplus.c"
#include "foreach_real.h"

static ek_status infer_softplus(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    const double *p = node->attributes;
    if (!(p[0] > 0) || isinf(p[0]))
        return ek_fail(EK_ERR_ARGUMENT, "softplus: expected a finite beta > 0, got %g", p[0]);
    if (isnan(p[1]))
        return ek_fail(EK_ERR_ARGUMENT, "softplus: the threshold is NaN; 20 is usual, INFINITY means never linear");
    return ek_infer_same(node, dtype, shape);
}

EK_DEFINE_CHECKED_UNARY(softplus, infer_softplus)

ek_tensor *ek_softplus(ek_tape *tape, ek_tensor *x, double beta, double threshold)
{
    return ek_apply_unary(tape, ek_op_softplus, x, beta, threshold);
}
#endif
