/* y = xᵉ for an exponent that is a plain number.  Expands to pow_forward_f32, pow_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x, y: [n].  The exponents that need no call of pow are those in common use and what their derivatives need; √ also
 * gives PyTorch's NaN at −∞. */
static inline void FN(power)(int64_t n, const REAL *x, REAL *y, double exponent)
{
    if (exponent == 1)
        memcpy(y, x, (size_t)n * sizeof *y);
    else if (exponent == 2)
        for (int64_t i = 0; i < n; i++)
            y[i] = x[i] * x[i];
    else if (exponent == 0.5)
        for (int64_t i = 0; i < n; i++)
            y[i] = MATH(sqrt)(x[i]);
    else if (exponent == -0.5)
        for (int64_t i = 0; i < n; i++)
            y[i] = 1 / MATH(sqrt)(x[i]);
    else if (exponent == -1)
        for (int64_t i = 0; i < n; i++)
            y[i] = 1 / x[i];
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = MATH(pow)(x[i], (REAL)exponent);
}

/* x, y: [n]; p = {exponent}.  C's pow, and so PyTorch's: x⁰ = 1 even for NaN, negative x needs an integer exponent. */
EK_KERNEL static void FN(pow_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    FN(power)(n, x, y, p[0]);
}

/* dx = e·xᵉ⁻¹·dy, and 0 everywhere for e = 0 (0·x⁻¹ would be NaN at 0).  x, dy, dx: [n]. */
EK_KERNEL static void FN(pow_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                       const double *p)
{
    (void)y;
    const REAL exponent = (REAL)p[0];
    if (exponent == 0) {
        memset(dx, 0, (size_t)n * sizeof *dx);
        return;
    }
    FN(power)(n, x, dx, p[0] - 1);
    for (int64_t i = 0; i < n; i++)
        dx[i] = exponent * dx[i] * dy[i];
}

#else
#include "op.h"
#define OP_FILE "op_pow.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(pow)

ek_tensor *ek_pow(ek_tape *tape, ek_tensor *x, double exponent)
{
    return ek_apply_unary(tape, ek_op_pow, x, exponent, 0);
}
#endif
