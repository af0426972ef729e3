/* y = scale·x + shift with plain numbers.  Expands to affine_forward_f32, affine_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n]; p = {scale, shift}. */
EK_KERNEL static void FN(affine_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    const REAL scale = (REAL)p[0], shift = (REAL)p[1];
    for (int64_t i = 0; i < n; i++)
        y[i] = scale * x[i] + shift;
}

/* dx = scale·dy.  dy, dx: [n]. */
EK_KERNEL static void FN(affine_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                          const double *p)
{
    (void)x;
    (void)y;
    const REAL scale = (REAL)p[0];
    for (int64_t i = 0; i < n; i++)
        dx[i] = scale * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_affine.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(affine)

ek_tensor *ek_affine(ek_tape *tape, ek_tensor *x, double scale, double shift)
{
    return ek_apply_unary(tape, ek_op_affine, x, scale, shift);
}
#endif
