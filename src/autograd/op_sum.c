/* y = Σ x over axes.  Expands to sum_forward_f32, sum_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x: in[0]'s shape; y: what is left of it. */
static ek_status FN(sum_forward)(ek_node *node)
{
    unsigned axes = ek_reduction_axes(node, NULL);
    return FN(ek_reduce_sum)(node, node->in[0]->data, node->in[0]->shape, axes, 1, node->out->data);
}

/* dx = dy repeated along those axes. */
static ek_status FN(sum_backward)(ek_node *node)
{
    unsigned axes = ek_reduction_axes(node, NULL);
    REAL *dx = ek_node_grad_in(node, 0);
    if (dx)
        FN(ek_reduce_spread)(ek_node_grad_out(node), node->in[0]->shape, axes, 1, dx);
    return EK_OK;
}

#else
#include "op.h"
#define OP_FILE "op_sum.c"
#include "foreach_real.h"

static const ek_op op_sum = {.name = "sum",
                            .infer = ek_infer_reduction,
                            .forward = EK_BY_DTYPE(sum_forward),
                            .backward = EK_BY_DTYPE(sum_backward),
                            .lengths = ek_reduction_lengths};
const ek_op *const ek_op_sum = &op_sum;

ek_tensor *ek_sum(ek_tape *tape, ek_tensor *x, ek_axes axes, bool keepdim)
{
    return ek_apply_reduction(tape, ek_op_sum, x, axes, keepdim);
}
#endif
