/* The same elements in another shape: a view.  Moves no numbers, so it takes int64 too. */
#include "op.h"

/* The shape with its −1 worked out. */
static ek_status reshape_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    const ek_tensor *x = node->in[0];
    ek_shape to = *(const ek_shape *)node->attributes;
    int64_t known = 1;
    int open = -1;
    bool empty = false;
    if (to.ndim < 0 || to.ndim > EK_MAX_NDIM)
        return ek_fail(EK_ERR_SHAPE, "reshape: expected a rank of 0 to %d, got %d", EK_MAX_NDIM, to.ndim);
    for (int i = 0; i < to.ndim; i++) {
        if (to.dim[i] < -1 || (to.dim[i] == -1 && open >= 0))
            return ek_fail(EK_ERR_SHAPE, "reshape: expected dimensions of 0 or more and at most one −1, got %s",
                           EK_TEXT(to));
        if (to.dim[i] == -1)
            open = i;
        else if (to.dim[i] == 0)
            empty = true;
        else if (__builtin_mul_overflow(known, to.dim[i], &known))
            return ek_fail(EK_ERR_SHAPE, "reshape: the number of elements of %s overflows int64", EK_TEXT(to));
    }
    known = empty ? 0 : known;
    if (open >= 0 ? (known ? x->numel % known != 0 : true) : known != x->numel)
        return ek_fail(EK_ERR_SHAPE, "reshape: expected a shape of %lld elements, as %s has, got %s%s",
                       (long long)x->numel, EK_TEXT(x->shape), EK_TEXT(to),
                       open >= 0 && !known ? ", in which any −1 would do" : "");
    if (open >= 0)
        to.dim[open] = x->numel / known;
    *shape = to;
    return EK_OK;
}

static ek_status reshape_forward(ek_node *node)
{
    node->out->data = node->in[0]->data;
    return EK_OK;
}

static ek_status reshape_backward(ek_node *node)
{
    return ek_node_pass_grad(node, 0);
}

/* The axis of `to` that is axis i of `from` as it was: of its size, with as many elements before it.  Of several axes
 * of size 1 side by side the first stays the first.  −1 if there is none. */
static int same_axis(ek_shape from, int i, ek_shape to)
{
    int64_t before = 1, before_to = 1;
    int ones = 0, found = -1; /* axes of size 1 directly before i */
    for (int k = 0; k < i; k++) {
        before *= from.dim[k];
        ones = from.dim[k] == 1 ? ones + 1 : 0;
    }
    for (int j = 0; j < to.ndim && before_to <= before; before_to *= to.dim[j++])
        if (before_to == before && to.dim[j] == from.dim[i] && (found < 0 || ones-- > 0))
            found = j;
    return found;
}

static ek_status reshape_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *x = ek_node_lengths(node, 0);
    const ek_shape from = node->in[0]->shape, to = node->out->shape;
    return ek_place_lengths(node, 0, same_axis(from, x->batch_axis, to), same_axis(from, x->time_axis, to), lengths);
}

static const ek_op op_reshape = {.name = "reshape",
                                 .infer = reshape_infer,
                                 .forward = {reshape_forward, reshape_forward},
                                 .backward = {reshape_backward, reshape_backward},
                                 .flags = EK_OP_VIEW,
                                 .lengths = reshape_lengths};
const ek_op *const ek_op_reshape = &op_reshape;

ek_tensor *ek_reshape(ek_tape *tape, ek_tensor *x, ek_shape shape)
{
    return ek_apply(tape, ek_op_reshape, 1, &x, &shape, sizeof shape);
}

ek_tensor *ek_flatten(ek_tape *tape, ek_tensor *x, int start, int end)
{
    if (!ek_tape_usable(tape, "flatten"))
        return NULL;
    ek_shape from = x && x->shape.ndim ? x->shape : EK_SHAPE(1); /* a scalar becomes one element of rank 1 */
    if (!x)
        return ek_reshape(tape, x, from); /* which says so */
    int first = ek_axis_resolve(start, from.ndim), last = ek_axis_resolve(end, from.ndim);
    if (first < 0 || last < first) {
        ek_fail(EK_ERR_ARGUMENT, "flatten: expected a first and a last axis of %s, in order, got %d and %d",
                EK_TEXT(x->shape), start, end);
        return ek_tape_fail(tape);
    }
    ek_shape to = {.ndim = from.ndim - (last - first)};
    for (int i = 0; i < from.ndim; i++) {
        int64_t *dim = &to.dim[i <= first ? i : i <= last ? first : i - (last - first)];
        *dim = i > first && i <= last ? *dim * from.dim[i] : from.dim[i];
    }
    return ek_reshape(tape, x, to);
}
