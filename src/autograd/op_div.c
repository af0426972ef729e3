/* y = a/b with broadcasting.  Expands to div_forward_f32, div_backward_f32 and their _f64 twins. */
#ifdef REAL

/* a, b, y: [n]. */
EK_KERNEL static void FN(div_forward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, REAL *y)
{
    EK_FOR_PAIRS(n, a, sa, b, sb, y[i] = ai / bi);
}

/* da = dy/b, db = −(a/b)·dy/b.  dy, da, db: [n].  Never b², which over- and underflows where the result does not. */
EK_KERNEL static void FN(div_backward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, const REAL *dy,
                                       REAL *da, REAL *db)
{
    if (da)
        EK_FOR_PAIRS(n, dy, 1, b, sb, da[i] = ai / bi);
    if (db)
        EK_FOR_PAIRS(n, a, sa, b, sb, db[i] = -(ai / bi) * (dy[i] / bi));
}

#else
#include "op.h"
#define OP_FILE "op_div.c"
#include "foreach_real.h"

EK_DEFINE_BINARY(div)

ek_tensor *ek_div(ek_tape *tape, ek_tensor *a, ek_tensor *b)
{
    return ek_apply(tape, ek_op_div, 2, (ek_tensor *[]){a, b}, NULL, 0);
}
#endif
