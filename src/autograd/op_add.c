/* y = a + b with broadcasting.  Expands to add_forward_f32, add_backward_f32 and their _f64 twins. */
#ifdef REAL

/* a, b, y: [n]. */
EK_KERNEL static void FN(add_forward)(int64_t n, const REAL *a, int64_t sa, const REAL *b, int64_t sb, REAL *y)
{
    EK_FOR_PAIRS(n, a, sa, b, sb, y[i] = ai + bi);
}

/* da = dy and db = dy, handed on where nothing was broadcast. */
static ek_status FN(add_backward)(ek_node *node)
{
    ek_status status = FN(ek_broadcast_grad)(node, 0, 1);
    return status == EK_OK ? FN(ek_broadcast_grad)(node, 1, 1) : status;
}

#else
#include "op.h"
#define OP_FILE "op_add.c"
#include "foreach_real.h"

static const ek_binary_op binary_add = {
    .op = {.name = "add",
           .infer = ek_infer_broadcast,
           .forward = EK_BY_DTYPE(ek_binary_forward),
           .backward = EK_BY_DTYPE(add_backward),
           .lengths = ek_broadcast_lengths},
    .forward_f32 = add_forward_f32,
    .forward_f64 = add_forward_f64};
const ek_op *const ek_op_add = &binary_add.op;

ek_tensor *ek_add(ek_tape *tape, ek_tensor *a, ek_tensor *b)
{
    return ek_apply(tape, ek_op_add, 2, (ek_tensor *[]){a, b}, NULL, 0);
}
#endif
