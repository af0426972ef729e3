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

ek_status ek_fail_lengths(const char *who, int i, int j)
{
    return ek_fail(EK_ERR_SHAPE, "%s: inputs %d and %d carry different lengths, or on different axes; give both the "
                                 "same, or take them from one with ek_with_lengths()", who, i, j);
}

ek_status ek_place_lengths(const ek_node *node, int i, int batch_axis, int time_axis, const ek_lengths **lengths)
{
    const ek_lengths *carried = ek_node_lengths(node, i);
    const ek_shape out = node->out->shape;
    if (!carried || batch_axis < 0 || time_axis < 0 || batch_axis >= out.ndim || time_axis >= out.ndim ||
        batch_axis == time_axis || out.dim[batch_axis] != carried->n || out.dim[time_axis] != carried->steps)
        return EK_OK;
    const bool moved = batch_axis != carried->batch_axis || time_axis != carried->time_axis;
    if (!*lengths) {
        *lengths = moved ? ek_lengths_on_axes(node->tape, carried, batch_axis, time_axis) : carried;
        return *lengths ? EK_OK : EK_ERR_MEMORY;
    }
    int first = 0;
    while (!ek_node_lengths(node, first))
        first++;
    return (*lengths)->batch_axis == batch_axis && (*lengths)->time_axis == time_axis &&
                   ek_lengths_equal(*lengths, carried)
               ? EK_OK
               : ek_fail_lengths(node->op->name, first, i);
}

ek_status ek_keep_lengths(const ek_node *node, const ek_lengths **lengths)
{
    if (!node || !lengths)
        return ek_fail_null(EK_ERR_ARGUMENT, "keep_lengths", node ? "place for the lengths" : "node");
    ek_status status = EK_OK;
    for (int i = 0; status == EK_OK && i < node->n_in; i++) {
        const ek_lengths *carried = ek_node_lengths(node, i);
        if (carried)
            status = ek_place_lengths(node, i, carried->batch_axis, carried->time_axis, lengths);
    }
    return status;
}

ek_status ek_keep_first_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *carried = ek_node_lengths(node, 0);
    return carried ? ek_place_lengths(node, 0, carried->batch_axis, carried->time_axis, lengths) : EK_OK;
}

ek_status ek_broadcast_lengths(const ek_node *node, const ek_lengths **lengths)
{
    ek_status status = EK_OK;
    for (int i = 0; status == EK_OK && i < node->n_in; i++) {
        const ek_lengths *carried = ek_node_lengths(node, i);
        if (!carried)
            continue;
        int shift = node->out->shape.ndim - node->in[i]->shape.ndim;
        status = ek_place_lengths(node, i, carried->batch_axis + shift, carried->time_axis + shift, lengths);
    }
    return status;
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
