/* The driver of elementwise ops with one input: the kernels come from the op's own file. */
#ifdef REAL

typedef struct {
    const ek_unary_op *op;
    const REAL *x, *y, *dy;
    REAL *out; /* y of the forward, dx of the backward */
    const double *p;
} FN(unary_arguments);

static void FN(forward_range)(void *context, int64_t begin, int64_t end)
{
    const FN(unary_arguments) *a = context;
    a->op->FN(forward)(end - begin, a->x + begin, a->out + begin, a->p);
}

static void FN(backward_range)(void *context, int64_t begin, int64_t end)
{
    const FN(unary_arguments) *a = context;
    a->op->FN(backward)(end - begin, a->x + begin, a->y + begin, a->dy + begin, a->out + begin, a->p);
}

ek_status FN(ek_unary_forward)(ek_node *node)
{
    FN(unary_arguments) a = {.op = (const ek_unary_op *)node->op, .x = node->in[0]->data, .out = node->out->data,
                             .p = node->attributes};
    ek_parallel_for(node->out->numel, EK_GRAIN, FN(forward_range), &a);
    return EK_OK;
}

ek_status FN(ek_unary_backward)(ek_node *node)
{
    FN(unary_arguments) a = {.op = (const ek_unary_op *)node->op, .x = node->in[0]->data, .y = node->out->data,
                             .dy = ek_node_grad_out(node), .out = ek_node_grad_in(node, 0), .p = node->attributes};
    if (a.out)
        ek_parallel_for(node->out->numel, EK_GRAIN, FN(backward_range), &a);
    return EK_OK;
}

#else
#include "op.h"
#define OP_FILE "unary.c"
#include "foreach_real.h"

ek_tensor *ek_apply_unary(ek_tape *tape, const ek_op *op, ek_tensor *x, double p0, double p1)
{
    double p[2] = {p0, p1};
    return ek_apply(tape, op, 1, &x, p, sizeof p);
}
#endif
