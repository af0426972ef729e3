/* y = (Σ x)/n over axes, n the number of elements summed.  Expands to mean_forward_f32, mean_backward_f32 and their
 * _f64 twins. */
#ifdef REAL

/* x: in[0]'s shape; y: what is left of it. */
static ek_status FN(mean_forward)(ek_node *node)
{
    int64_t count;
    unsigned axes = ek_reduction_axes(node, &count);
    return FN(ek_reduce_sum)(node, node->in[0]->data, node->in[0]->shape, axes, (double)count, node->out->data);
}

/* dx = dy/n repeated along those axes. */
static ek_status FN(mean_backward)(ek_node *node)
{
    int64_t count;
    unsigned axes = ek_reduction_axes(node, &count);
    REAL *dx = ek_node_grad_in(node, 0);
    if (dx)
        FN(ek_reduce_spread)(ek_node_grad_out(node), node->in[0]->shape, axes, (double)count, dx);
    return EK_OK;
}

#else
#include "op.h"
#define OP_FILE "op_mean.c"
#include "foreach_real.h"

static const ek_op op_mean = {.name = "mean",
                            .infer = ek_infer_reduction,
                            .forward = EK_BY_DTYPE(mean_forward),
                            .backward = EK_BY_DTYPE(mean_backward),
                            .lengths = ek_reduction_lengths};
const ek_op *const ek_op_mean = &op_mean;

ek_tensor *ek_mean(ek_tape *tape, ek_tensor *x, ek_axes axes, bool keepdim)
{
    return ek_apply_reduction(tape, ek_op_mean, x, axes, keepdim);
}
#endif
