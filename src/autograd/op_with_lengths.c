/* The same elements with other lengths: a view.  Moves no numbers, so it takes int64 too. */
#include "op.h"

/* The attribute: lengths in memory of the tape, or NULL. */
static const ek_lengths *lengths_of(const ek_node *node)
{
    return *(const ek_lengths *const *)node->attributes;
}

static ek_status with_lengths_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* they hold those of in[0] already */
    const ek_lengths *lengths = lengths_of(node);
    if (!lengths)
        return EK_OK;
    const int batch = lengths->batch_axis, time = lengths->time_axis;
    if (batch >= shape->ndim || time >= shape->ndim || shape->dim[batch] != lengths->n ||
        shape->dim[time] != lengths->steps)
        return ek_fail(EK_ERR_SHAPE, "with_lengths: expected %lld sequences along axis %d and %lld steps along axis "
                                     "%d, as the tensor has that gives the lengths, got %s", (long long)lengths->n,
                       batch, (long long)lengths->steps, time, EK_TEXT(*shape));
    return EK_OK;
}

static ek_status with_lengths_forward(ek_node *node)
{
    node->out->data = node->in[0]->data;
    node->out->lengths = lengths_of(node);
    return EK_OK;
}

static ek_status with_lengths_backward(ek_node *node)
{
    return ek_node_pass_grad(node, 0);
}

static const ek_op with_lengths = {.name = "with_lengths",
                                   .infer = with_lengths_infer,
                                   .forward = {with_lengths_forward, with_lengths_forward},
                                   .backward = {with_lengths_backward, with_lengths_backward},
                                   .flags = EK_OP_VIEW};
const ek_op *const ek_op_with_lengths = &with_lengths;

ek_tensor *ek_with_lengths(ek_tape *tape, ek_tensor *x, const ek_tensor *like)
{
    if (!ek_tape_usable(tape, "with_lengths"))
        return NULL;
    const ek_lengths *lengths = like ? like->lengths : NULL;
    if (lengths && like->tape != tape) {
        lengths = ek_lengths_on_tape(tape, lengths);
        if (!lengths)
            return ek_tape_fail(tape);
    }
    return ek_apply(tape, ek_op_with_lengths, 1, &x, &lengths, sizeof lengths);
}
