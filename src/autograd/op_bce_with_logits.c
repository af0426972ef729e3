/* l = −[t·ln σ(x) + (1 − t)·ln(1 − σ(x))] = max(x, 0) − x·t + ln(1 + exp(−|x|)), which overflows nowhere.  Expands to
 * bce_with_logits_value_f32, bce_with_logits_slope_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* x, t, l: [n]. */
EK_KERNEL static void FN(bce_with_logits_value)(int64_t n, const REAL *x, const REAL *t, REAL *l, double p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        l[i] = (x[i] > 0 ? x[i] : 0) - x[i] * t[i] + FN(softplus_tail)(x[i]);
}

/* dx = σ(x) − t, dt = −x.  x, t, dx, dt: [n]. */
EK_KERNEL static void FN(bce_with_logits_slope)(int64_t n, const REAL *x, const REAL *t, REAL *dx, REAL *dt, double p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++) {
        dx[i] = FN(real_sigmoid)(x[i]) - t[i];
        dt[i] = -x[i];
    }
}

#else
#include "loss.h"
#define OP_FILE "op_bce_with_logits.c"
#include "foreach_real.h"

EK_DEFINE_LOSS(bce_with_logits)

ek_tensor *ek_bce_with_logits(ek_tape *tape, ek_tensor *x, ek_tensor *target, ek_reduction reduction)
{
    return ek_apply_loss(tape, ek_op_bce_with_logits, x, target, reduction, 1);
}
#endif
