/* The driver of elementwise losses: the kernels come from the op's own file. */
#ifdef REAL

typedef struct {
    const ek_loss_op *op;
    ek_reduction reduction;
    double p;
    const REAL *x, *t; /* [numel] */
    REAL *out;         /* [numel] losses, where they are not reduced */
    double *partial;   /* [chunks] sums of losses, where they are */
    const REAL *dy;    /* [numel], or [1] where reduced */
    double scale;      /* 1/numel for a mean */
    REAL *dx, *dt;     /* [numel], NULL if not wanted */
} FN(loss_arguments);

/* Sums one chunk of EK_GRAIN elements: losses in blocks, which stay in the first cache, summed in double. */
static void FN(sum_range)(void *context, int64_t begin, int64_t end)
{
    const FN(loss_arguments) *a = context;
    REAL losses[BLOCK];
    double sum = 0;
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = end - i < BLOCK ? end - i : BLOCK;
        a->op->FN(value)(n, a->x + i, a->t + i, losses, a->p);
        sum += FN(ek_sum_run)(n, losses);
    }
    a->partial[begin / EK_GRAIN] = sum;
}

static void FN(value_range)(void *context, int64_t begin, int64_t end)
{
    const FN(loss_arguments) *a = context;
    a->op->FN(value)(end - begin, a->x + begin, a->t + begin, a->out + begin, a->p);
}

/* dx = dl/dx·dy and dt = dl/dt·dy; of a mean or sum dy is one number. */
static void FN(slope_range)(void *context, int64_t begin, int64_t end)
{
    const FN(loss_arguments) *a = context;
    bool reduced = a->reduction != EK_REDUCE_NONE;
    const REAL one_dy = (REAL)(reduced ? a->dy[0] * a->scale : 0);
    REAL dx[BLOCK], dt[BLOCK];
    for (int64_t i = begin; i < end; i += BLOCK) {
        int64_t n = end - i < BLOCK ? end - i : BLOCK;
        a->op->FN(slope)(n, a->x + i, a->t + i, dx, dt, a->p);
        for (int64_t k = 0; a->dx && k < n; k++)
            a->dx[i + k] = dx[k] * (reduced ? one_dy : a->dy[i + k]);
        for (int64_t k = 0; a->dt && k < n; k++)
            a->dt[i + k] = dt[k] * (reduced ? one_dy : a->dy[i + k]);
    }
}

static FN(loss_arguments) FN(arguments)(const ek_node *node)
{
    const loss_attributes *attributes = node->attributes;
    int64_t n = node->in[0]->numel;
    return (FN(loss_arguments)){.op = (const ek_loss_op *)node->op, .reduction = attributes->reduction,
                                .p = attributes->p, .x = node->in[0]->data, .t = node->in[1]->data,
                                .out = node->out->data,
                                .scale = attributes->reduction == EK_REDUCE_MEAN ? 1.0 / (double)n : 1};
}

ek_status FN(ek_loss_forward)(ek_node *node)
{
    FN(loss_arguments) a = FN(arguments)(node);
    int64_t n = node->in[0]->numel, chunks = (n + EK_GRAIN - 1) / EK_GRAIN;
    if (a.reduction == EK_REDUCE_NONE) {
        ek_parallel_for(n, EK_GRAIN, FN(value_range), &a);
        return EK_OK;
    }
    a.partial = ek_node_scratch(node, (size_t)chunks * sizeof *a.partial);
    if (!a.partial)
        return EK_ERR_MEMORY;
    ek_parallel_for(n, EK_GRAIN, FN(sum_range), &a);
    double sum = ek_sum_run_f64(chunks, a.partial);
    a.out[0] = (REAL)(a.reduction == EK_REDUCE_MEAN ? sum / (double)n : sum);
    return EK_OK;
}

ek_status FN(ek_loss_backward)(ek_node *node)
{
    FN(loss_arguments) a = FN(arguments)(node);
    a.dy = ek_node_grad_out(node);
    a.dx = ek_node_grad_in(node, 0);
    a.dt = ek_node_grad_in(node, 1);
    if (a.dx || a.dt)
        ek_parallel_for(node->in[0]->numel, EK_GRAIN, FN(slope_range), &a);
    return EK_OK;
}

#else
#include "loss.h"
#include "sequence.h"

enum { BLOCK = 256 };

typedef struct loss_attributes {
    ek_reduction reduction;
    double p;
} loss_attributes;

#define OP_FILE "loss.c"
#include "foreach_real.h"

ek_status ek_need_reduction(const char *who, ek_reduction reduction)
{
    if (reduction != EK_REDUCE_MEAN && reduction != EK_REDUCE_SUM && reduction != EK_REDUCE_NONE)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected EK_REDUCE_MEAN, EK_REDUCE_SUM or EK_REDUCE_NONE, got %d", who,
                       (int)reduction);
    return EK_OK;
}

ek_status ek_infer_loss(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* that of in[0] */
    const char *who = node->op->name;
    const loss_attributes *attributes = node->attributes;
    if (ek_need_float(node, 0) != EK_OK || ek_need_float(node, 1) != EK_OK)
        return EK_ERR_DTYPE;
    if (ek_need_reduction(who, attributes->reduction) != EK_OK)
        return EK_ERR_ARGUMENT;
    if (!(attributes->p > 0))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected delta > 0, got %g", who, attributes->p);
    if (!ek_shape_equal(node->in[0]->shape, node->in[1]->shape))
        return ek_fail(EK_ERR_SHAPE, "%s: expected input and target of one shape, got %s and %s; losses do not "
                                     "broadcast, ek_reshape() one of them", who, EK_TEXT(node->in[0]->shape),
                       EK_TEXT(node->in[1]->shape));
    if (attributes->reduction != EK_REDUCE_NONE)
        *shape = EK_SCALAR;
    return EK_OK;
}

/* The loss of the valid steps alone, in the order of the sequences: as rows, in which the padding has no part. */
static ek_tensor *apply_to_rows(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_tensor *target,
                                const loss_attributes *attributes)
{
    const ek_tensor *carrier = x->lengths ? x : target;
    const ek_lengths *lengths = carrier->lengths, *other = target->lengths;
    if (other && (other->batch_axis != lengths->batch_axis || other->time_axis != lengths->time_axis ||
                  !ek_lengths_equal(other, lengths))) {
        ek_fail_lengths(op->name, 0, 1);
        return ek_tape_fail(tape);
    }
    if (carrier->tape != tape && !(lengths = ek_lengths_on_tape(tape, lengths)))
        return ek_tape_fail(tape);
    const ek_rows *rows = ek_rows_make(tape, lengths, EK_ROWS_BY_SEQUENCE);
    ek_tensor *in[] = {ek_pack_rows(tape, x, rows), ek_pack_rows(tape, target, rows)};
    ek_tensor *y = ek_apply(tape, op, 2, in, attributes, sizeof *attributes);
    return y && attributes->reduction == EK_REDUCE_NONE ? ek_unpack_rows(tape, y, rows) : y;
}

ek_tensor *ek_apply_loss(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_tensor *target, ek_reduction reduction,
                         double p)
{
    loss_attributes attributes = {.reduction = reduction, .p = p};
    const bool padded = x && target && (x->lengths || target->lengths) && ek_shape_equal(x->shape, target->shape);
    if (padded && ek_tape_usable(tape, op->name))
        return apply_to_rows(tape, op, x, target, &attributes);
    return ek_apply(tape, op, 2, (ek_tensor *[]){x, target}, &attributes, sizeof attributes);
}
#endif
