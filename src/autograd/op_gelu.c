/* y = x·Φ(x) with the normal distribution Φ(x) = ½·erfc(−x/√2) (Hendrycks and Gimpel 2016).  Expands to
 * gelu_forward_f32, gelu_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, y: [n]. */
EK_KERNEL static void FN(gelu_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++) {
        REAL cdf, density;
        FN(real_normal)(x[i], &cdf, &density);
        y[i] = x[i] * cdf;
    }
}

/* dx = (Φ(x) + x·φ(x))·dy with the density φ(x) = exp(−x²/2)/√(2π).  x, dy, dx: [n]. */
EK_KERNEL static void FN(gelu_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)y;
    (void)p;
    for (int64_t i = 0; i < n; i++) {
        REAL cdf, density;
        FN(real_normal)(x[i], &cdf, &density);
        dx[i] = (cdf + x[i] * density) * dy[i];
    }
}

#else
#include "op.h"
#define OP_FILE "op_gelu.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(gelu)

ek_tensor *ek_gelu(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_gelu, x, 0, 0);
}
#endif
