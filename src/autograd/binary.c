/* The driver of elementwise ops with two inputs that broadcast: the kernels come from the op's own file. */
#ifdef REAL

typedef struct {
    const ek_binary_op *op;
    const pair_plan *plan;
    const REAL *a, *b, *dy;
    REAL *y, *da, *db; /* [numel] each; NULL where not asked for */
} FN(binary_arguments);

/* Elements begin … end−1 of the output, run by run. */
static void FN(binary_range)(void *context, int64_t begin, int64_t end)
{
    const FN(binary_arguments) *g = context;
    const pair_plan *plan = g->plan;
    int outer = plan->n - 1;
    int64_t run = plan->size[outer], sa = plan->stride[0][outer], sb = plan->stride[1][outer];
    while (begin < end) {
        int64_t row = begin / run, column = begin % run;
        int64_t n = run - column < end - begin ? run - column : end - begin;
        const REAL *a = g->a + ek_strided_offset(outer, plan->size, plan->stride[0], row) + column * sa;
        const REAL *b = g->b + ek_strided_offset(outer, plan->size, plan->stride[1], row) + column * sb;
        if (g->y)
            g->op->FN(forward)(n, a, sa, b, sb, g->y + begin);
        else
            g->op->FN(backward)(n, a, sa, b, sb, g->dy + begin, g->da ? g->da + begin : NULL,
                                g->db ? g->db + begin : NULL);
        begin += n;
    }
}

ek_status FN(ek_binary_forward)(ek_node *node)
{
    pair_plan plan = plan_pair(node);
    FN(binary_arguments) g = {.op = (const ek_binary_op *)node->op, .plan = &plan, .a = node->in[0]->data,
                              .b = node->in[1]->data, .y = node->out->data};
    ek_parallel_for(node->out->numel, EK_GRAIN, FN(binary_range), &g);
    return EK_OK;
}

ek_status FN(ek_binary_backward)(ek_node *node)
{
    pair_plan plan = plan_pair(node);
    REAL *grad[2], *full[2];
    unsigned axes[2];
    for (int i = 0; i < 2; i++) {
        grad[i] = full[i] = ek_node_grad_in(node, i);
        axes[i] = ek_broadcast_axes(node->in[i]->shape, node->out->shape);
        if (grad[i] && axes[i]) { /* its gradient before the sum over broadcast axes */
            full[i] = ek_node_scratch(node, ek_tensor_bytes(node->out));
            if (!full[i])
                return EK_ERR_MEMORY;
        }
    }
    FN(binary_arguments) g = {.op = (const ek_binary_op *)node->op, .plan = &plan, .a = node->in[0]->data,
                              .b = node->in[1]->data, .dy = ek_node_grad_out(node), .da = full[0], .db = full[1]};
    ek_parallel_for(node->out->numel, EK_GRAIN, FN(binary_range), &g);
    ek_status status = EK_OK;
    for (int i = 0; status == EK_OK && i < 2; i++)
        if (grad[i] && axes[i])
            status = FN(ek_reduce_sum)(node, full[i], node->out->shape, axes[i], 1, grad[i]);
    return status;
}

typedef struct {
    const REAL *dy;
    REAL *dx;
} FN(negate_arguments);

static void FN(negate_range)(void *context, int64_t begin, int64_t end)
{
    const FN(negate_arguments) *g = context;
    for (int64_t i = begin; i < end; i++)
        g->dx[i] = -g->dy[i];
}

ek_status FN(ek_broadcast_grad)(ek_node *node, int i, REAL sign)
{
    unsigned axes = ek_broadcast_axes(node->in[i]->shape, node->out->shape);
    if (!axes && sign > 0)
        return ek_node_pass_grad(node, i);
    FN(negate_arguments) g = {.dy = ek_node_grad_out(node), .dx = ek_node_grad_in(node, i)};
    if (!g.dx)
        return EK_OK;
    if (axes)
        return FN(ek_reduce_sum)(node, g.dy, node->out->shape, axes, (double)sign, g.dx);
    ek_parallel_for(node->out->numel, EK_GRAIN, FN(negate_range), &g);
    return EK_OK;
}

#else
#include "op.h"

/* The axes of the output without those of size 1, neighbours merged where both inputs go on in the same way; stride
 * [0] is a's and [1] b's, 0 where it is broadcast.  The innermost axis is the run that a kernel sees. */
typedef struct pair_plan {
    int n; /* at least 1 */
    int64_t size[EK_MAX_NDIM];
    int64_t stride[2][EK_MAX_NDIM];
} pair_plan;

static pair_plan plan_pair(const ek_node *node)
{
    ek_shape to = node->out->shape;
    unsigned repeated[2] = {ek_broadcast_axes(node->in[0]->shape, to), ek_broadcast_axes(node->in[1]->shape, to)};
    unsigned kind[EK_MAX_NDIM]; /* bit k: input k is broadcast */
    pair_plan plan = {.n = 0};
    for (int i = 0; i < to.ndim; i++) {
        unsigned here = (repeated[0] >> i & 1) | (repeated[1] >> i & 1) << 1;
        if (to.dim[i] == 1)
            continue;
        if (plan.n > 0 && kind[plan.n - 1] == here) {
            plan.size[plan.n - 1] *= to.dim[i];
        } else {
            kind[plan.n] = here;
            plan.size[plan.n++] = to.dim[i];
        }
    }
    if (plan.n == 0) { /* one element */
        kind[0] = 0;
        plan.size[plan.n++] = 1;
    }
    for (unsigned k = 0; k < 2; k++) {
        int64_t stride = 1;
        for (int i = plan.n - 1; i >= 0; i--) {
            bool is_repeated = kind[i] >> k & 1;
            plan.stride[k][i] = is_repeated ? 0 : stride;
            stride *= is_repeated ? 1 : plan.size[i];
        }
    }
    return plan;
}

#define OP_FILE "binary.c"
#include "foreach_real.h"

ek_status ek_infer_broadcast(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    if (ek_need_float(node, 0) != EK_OK || ek_need_float(node, 1) != EK_OK)
        return EK_ERR_DTYPE;
    return ek_broadcast(node->op->name, node->in[0]->shape, node->in[1]->shape, shape);
}
#endif
