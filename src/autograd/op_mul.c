/* y = a·b with broadcasting.  Expands to mul_forward_f32, mul_backward_f32 and their _f64 twins. */
#ifdef REAL

/* a, b, y: [n]. */
EK_KERNEL static void FN(mul_forward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, REAL *y)
{
    EK_FOR_PAIRS(n, a, sa, b, sb, y[i] = ai * bi);
}

/* da = b·dy, db = a·dy.  dy, da, db: [n]. */
EK_KERNEL static void FN(mul_backward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, const REAL *dy,
                                       REAL *da, REAL *db)
{
    if (da)
        EK_FOR_PAIRS(n, dy, 1, b, sb, da[i] = ai * bi);
    if (db)
        EK_FOR_PAIRS(n, a, sa, dy, 1, db[i] = ai * bi);
}

#else
#include "op.h"
#define OP_FILE "op_mul.c"
#include "foreach_real.h"

EK_DEFINE_BINARY(mul)

ek_tensor *ek_mul(ek_tape *tape, ek_tensor *a, ek_tensor *b)
{
    return ek_apply(tape, ek_op_mul, 2, (ek_tensor *[]){a, b}, NULL, 0);
}
#endif
