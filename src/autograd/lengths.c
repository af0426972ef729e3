/* Lengths on their way through ops. */
#include "op.h"

const ek_lengths *ek_node_lengths(const ek_node *node, int i)
{
    if (!node) {
        ek_fail_null(EK_ERR_ARGUMENT, "node_lengths", "node");
        return NULL;
    }
    return node->lengths && i >= 0 && i < node->n_in ? node->lengths[i] : NULL;
}

ek_status ek_common_lengths(const ek_node *node, const ek_lengths **common)
{
    int first = -1;
    *common = NULL;
    for (int i = 0; i < node->n_in; i++) {
        const ek_lengths *lengths = ek_node_lengths(node, i);
        if (!lengths)
            continue;
        if (*common && !ek_lengths_equal(*common, lengths))
            return ek_fail(EK_ERR_SHAPE, "%s: inputs %d and %d carry different lengths; give both the same, or take "
                                         "them from one with ek_with_lengths()", node->op->name, first, i);
        if (!*common) {
            *common = lengths;
            first = i;
        }
    }
    return EK_OK;
}

ek_status ek_keep_lengths(const ek_node *node, const ek_lengths **lengths)
{
    if (!node || !lengths)
        return ek_fail_null(EK_ERR_ARGUMENT, "keep_lengths", node ? "place for the lengths" : "node");
    const ek_lengths *common;
    ek_status status = ek_common_lengths(node, &common);
    if (status != EK_OK || !common)
        return status;
    const ek_shape out = node->out->shape;
    /* Broadcasting counts axes from the right: the input that carries them may have fewer than the output. */
    if (common->batch_axis < out.ndim && common->time_axis < out.ndim && out.dim[common->batch_axis] == common->n &&
        out.dim[common->time_axis] == common->steps)
        *lengths = common;
    return EK_OK;
}

const ek_lengths *ek_lengths_on_tape(ek_tape *tape, const ek_lengths *lengths)
{
    void *memory = ek_tape_alloc(tape, ek_lengths_bytes(lengths->n, lengths->steps));
    return memory ? ek_lengths_copy_to(memory, lengths) : NULL;
}

const ek_lengths *ek_lengths_on_axes(ek_tape *tape, const ek_lengths *lengths, int batch_axis, int time_axis)
{
    ek_lengths *turned = ek_tape_alloc(tape, sizeof *turned); /* the arrays are shared: both live until the reset */
    if (!turned)
        return NULL;
    *turned = *lengths;
    turned->batch_axis = batch_axis;
    turned->time_axis = time_axis;
    return turned;
}

const ek_lengths *ek_lengths_make(ek_tape *tape, int batch_axis, int time_axis, int64_t n, int64_t steps,
                                  const int64_t *length)
{
    void *memory = ek_tape_alloc(tape, ek_lengths_bytes(n, steps));
    int64_t *all = length || !memory ? NULL : ek_tape_alloc(tape, (size_t)n * sizeof *all);
    if (!memory || (!length && !all))
        return NULL;
    for (int64_t i = 0; all && i < n; i++)
        all[i] = steps;
    return ek_lengths_fill(memory, batch_axis, time_axis, n, steps, length ? length : all);
}
