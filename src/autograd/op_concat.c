/* Tensors joined along an axis.  Moves elements whatever they are, so it takes int64 too. */
#include "op.h"

static ek_status concat_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    int given = *(const int *)node->attributes, axis = ek_axis_resolve(given, shape->ndim);
    if (axis < 0)
        return ek_fail(EK_ERR_ARGUMENT, "concat: expected an axis within the rank of %s, got axis %d", EK_TEXT(*shape),
                       given);
    for (int i = 1; i < node->n_in; i++) {
        const ek_tensor *x = node->in[i];
        ek_shape rest = x->shape;
        if (x->dtype != *dtype)
            return ek_fail(EK_ERR_DTYPE,
                           "concat: expected inputs of one type, got %s and %s (input %d); ek_tensor_cast() converts",
                           ek_dtype_name(*dtype), ek_dtype_name(x->dtype), i);
        if (rest.ndim == shape->ndim)
            rest.dim[axis] = shape->dim[axis];
        if (!ek_shape_equal(rest, *shape))
            return ek_fail(EK_ERR_SHAPE, "concat: expected inputs like %s but for axis %d, got %s (input %d)",
                           EK_TEXT(node->in[0]->shape), axis, EK_TEXT(x->shape), i);
        if (__builtin_add_overflow(shape->dim[axis], x->shape.dim[axis], &shape->dim[axis]))
            return ek_fail(EK_ERR_SHAPE, "concat: the size of axis %d overflows int64", axis);
    }
    return EK_OK;
}

/* Bytes that input i gives to each of the `count` blocks that make up the output. */
static size_t block_bytes(const ek_node *node, const ek_tensor *x, int64_t *count)
{
    int axis = ek_axis_resolve(*(const int *)node->attributes, x->shape.ndim);
    size_t bytes = ek_dtype_size(x->dtype);
    *count = 1;
    for (int i = 0; i < axis; i++)
        *count *= x->shape.dim[i];
    for (int i = axis; i < x->shape.ndim; i++)
        bytes *= (size_t)x->shape.dim[i];
    return bytes;
}

static ek_status concat_forward(ek_node *node)
{
    int64_t count;
    size_t step = block_bytes(node, node->out, &count);
    char *y = node->out->data;
    for (int i = 0; i < node->n_in; i++) {
        size_t bytes = block_bytes(node, node->in[i], &count);
        ek_copy_blocks(count, bytes, node->in[i]->data, bytes, y, step);
        y += bytes;
    }
    return EK_OK;
}

/* Each input's gradient is its part of dy. */
static ek_status concat_backward(ek_node *node)
{
    int64_t count;
    size_t step = block_bytes(node, node->out, &count);
    const char *dy = ek_node_grad_out(node);
    for (int i = 0; i < node->n_in; i++) {
        size_t bytes = block_bytes(node, node->in[i], &count);
        void *dx = ek_node_grad_in(node, i);
        if (dx)
            ek_copy_blocks(count, bytes, dy, step, dx, bytes);
        dy += bytes;
    }
    return EK_OK;
}

/* The sequences of all inputs one after the other; of one without lengths every step is valid. */
static ek_status join_lengths(const ek_node *node, const ek_lengths *like, const ek_lengths **lengths)
{
    const ek_lengths **parts = ek_tape_alloc(node->tape, (size_t)node->n_in * sizeof *parts);
    void *memory = ek_tape_alloc(node->tape, ek_lengths_bytes(node->out->shape.dim[like->batch_axis], like->steps));
    if (!parts || !memory)
        return EK_ERR_MEMORY;
    for (int i = 0; i < node->n_in; i++) {
        parts[i] = ek_node_lengths(node, i);
        if (!parts[i])
            parts[i] = ek_lengths_make(node->tape, like->batch_axis, like->time_axis,
                                       node->in[i]->shape.dim[like->batch_axis], like->steps, NULL);
        if (!parts[i])
            return EK_ERR_MEMORY;
        if (parts[i]->batch_axis != like->batch_axis || parts[i]->time_axis != like->time_axis)
            return ek_fail(EK_ERR_SHAPE, "concat: expected all lengths with batch axis %d and time axis %d, got %d and "
                                         "%d (input %d)", like->batch_axis, like->time_axis, parts[i]->batch_axis,
                           parts[i]->time_axis, i);
    }
    *lengths = ek_lengths_join(memory, node->n_in, parts);
    return EK_OK;
}

static ek_status concat_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const int axis = ek_axis_resolve(*(const int *)node->attributes, node->out->shape.ndim);
    const ek_lengths *first = NULL;
    for (int i = 0; i < node->n_in && !first; i++)
        first = ek_node_lengths(node, i);
    if (node->n_in > 1 && axis == first->time_axis)
        return EK_OK;
    return node->n_in > 1 && axis == first->batch_axis ? join_lengths(node, first, lengths)
                                                       : ek_keep_lengths(node, lengths);
}

static const ek_op op_concat = {.name = "concat",
                                .infer = concat_infer,
                                .forward = {concat_forward, concat_forward},
                                .backward = {concat_backward, concat_backward},
                                .lengths = concat_lengths};
const ek_op *const ek_op_concat = &op_concat;

ek_tensor *ek_concat(ek_tape *tape, ek_tensor *const *xs, int n, int axis)
{
    return ek_apply(tape, ek_op_concat, n, xs, &axis, sizeof axis);
}
