/* l = (x − t)².  Expands to mse_loss_value_f32, mse_loss_slope_f32 and their _f64 twins. */
#ifdef REAL

/* x, t, l: [n]. */
EK_KERNEL static void FN(mse_loss_value)(int64_t n, const REAL *x, const REAL *t, REAL *l, double p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        l[i] = (x[i] - t[i]) * (x[i] - t[i]);
}

/* dx = 2(x − t), dt = −dx.  x, t, dx, dt: [n]. */
EK_KERNEL static void FN(mse_loss_slope)(int64_t n, const REAL *x, const REAL *t, REAL *dx, REAL *dt, double p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++) {
        dx[i] = 2 * (x[i] - t[i]);
        dt[i] = -dx[i];
    }
}

#else
#include "loss.h"
#define OP_FILE "op_mse_loss.c"
#include "foreach_real.h"

EK_DEFINE_LOSS(mse_loss)

ek_tensor *ek_mse_loss(ek_tape *tape, ek_tensor *x, ek_tensor *target, ek_reduction reduction)
{
    return ek_apply_loss(tape, ek_op_mse_loss, x, target, reduction, 1);
}
#endif
