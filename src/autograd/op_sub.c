/* y = a − b with broadcasting.  Expands to sub_forward_f32, sub_backward_f32 and their _f64 twins. */
#ifdef REAL

/* a, b, y: [n]. */
EK_KERNEL static void FN(sub_forward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, REAL *y)
{
    EK_FOR_PAIRS(n, a, sa, b, sb, y[i] = ai - bi);
}

/* da = dy, handed on where a was not broadcast; db = −dy. */
static ek_status FN(sub_backward)(ek_node *node)
{
    ek_status status = FN(ek_broadcast_grad)(node, 0, 1);
    return status == EK_OK ? FN(ek_broadcast_grad)(node, 1, -1) : status;
}

#else
#include "op.h"
#define OP_FILE "op_sub.c"
#include "foreach_real.h"

static const ek_binary_op binary_sub = {
    .op = {.name = "sub",
           .infer = ek_infer_broadcast,
           .forward = EK_BY_DTYPE(ek_binary_forward),
           .backward = EK_BY_DTYPE(sub_backward),
           .lengths = ek_broadcast_lengths},
    .forward_f32 = sub_forward_f32,
    .forward_f64 = sub_forward_f64};
const ek_op *const ek_op_sub = &binary_sub.op;

ek_tensor *ek_sub(ek_tape *tape, ek_tensor *a, ek_tensor *b)
{
    return ek_apply(tape, ek_op_sub, 2, (ek_tensor *[]){a, b}, NULL, 0);
}
#endif
