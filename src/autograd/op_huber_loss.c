/* l = ½d² for d = x − t up to |d| = delta, delta·(|d| − ½·delta) beyond (Huber 1964).  Expands to
 * huber_loss_value_f32, huber_loss_slope_f32 and their _f64 twins. */
#ifdef REAL

/* x, t, l: [n]. */
EK_KERNEL static void FN(huber_loss_value)(int64_t n, const REAL *x, const REAL *t, REAL *l, double p)
{
    const REAL delta = (REAL)p;
    for (int64_t i = 0; i < n; i++) {
        const REAL d = MATH(fabs)(x[i] - t[i]);
        l[i] = d > delta ? delta * (d - (REAL)0.5 * delta) : (REAL)0.5 * d * d;
    }
}

/* dx = d kept between −delta and delta, dt = −dx.  x, t, dx, dt: [n]. */
EK_KERNEL static void FN(huber_loss_slope)(int64_t n, const REAL *x, const REAL *t, REAL *dx, REAL *dt, double p)
{
    const REAL delta = (REAL)p;
    for (int64_t i = 0; i < n; i++) {
        const REAL d = x[i] - t[i];
        dx[i] = d > delta ? delta : d < -delta ? -delta : d;
        dt[i] = -dx[i];
    }
}

#else
#include "loss.h"
#define OP_FILE "op_huber_loss.c"
#include "foreach_real.h"

EK_DEFINE_LOSS(huber_loss)

ek_tensor *ek_huber_loss(ek_tape *tape, ek_tensor *x, ek_tensor *target, double delta, ek_reduction reduction)
{
    return ek_apply_loss(tape, ek_op_huber_loss, x, target, reduction, delta);
}
#endif
