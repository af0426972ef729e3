/* Elements start … stop−1 of one axis: a view where they lie in one piece, a copy elsewhere.  The backward adds to the
 * range it came from and touches nothing else, so T slices of a sequence cost as much as the sequence, not T times.
 * Takes int64 too.  Expands to slice_backward_f32 and slice_backward_f64. */
#ifdef REAL

typedef struct {
    const slice_layout *layout;
    const REAL *dy;
    REAL *dx;
} FN(slice_arguments);

/* dx[o, skip + j] += dy[o, j] for the flat positions begin … end−1 of dy: [outer, width]; dx: [outer, pitch]. */
static void FN(slice_add)(void *context, int64_t begin, int64_t end)
{
    const FN(slice_arguments) *g = context;
    const slice_layout *layout = g->layout;
    while (begin < end) {
        int64_t row = begin / layout->width, column = begin % layout->width;
        int64_t n = layout->width - column < end - begin ? layout->width - column : end - begin;
        REAL *dx = g->dx + row * layout->pitch + layout->skip + column;
        for (int64_t j = 0; j < n; j++)
            dx[j] += g->dy[begin + j];
        begin += n;
    }
}

static ek_status FN(slice_backward)(ek_node *node)
{
    slice_layout layout = slice_find(node);
    FN(slice_arguments) g = {.layout = &layout, .dy = ek_node_grad_out(node), .dx = ek_node_grad_in(node, 0)};
    if (g.dx)
        ek_parallel_for(node->out->numel, EK_GRAIN, FN(slice_add), &g);
    return EK_OK;
}

#else
#include "op.h"

typedef struct slice_attributes {
    int axis;
    int64_t start, stop;
} slice_attributes;

/* In elements: `outer` pieces of `width` that start every `pitch`, the first at `skip`. */
typedef struct slice_layout {
    int64_t outer, width, pitch, skip;
} slice_layout;

static ek_status slice_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    const slice_attributes *attributes = node->attributes;
    int axis = ek_axis_resolve(attributes->axis, shape->ndim);
    if (axis < 0)
        return ek_fail(EK_ERR_ARGUMENT, "slice: expected an axis within the rank of %s, got axis %d", EK_TEXT(*shape),
                       attributes->axis);
    int64_t size = shape->dim[axis];
    int64_t start = attributes->start < 0 ? attributes->start + size : attributes->start;
    int64_t stop = attributes->stop < 0 ? attributes->stop + size : attributes->stop;
    if (start < 0 || stop < start || stop > size)
        return ek_fail(EK_ERR_ARGUMENT, "slice: expected a range within 0 … %lld on axis %d of %s, got %lld … %lld",
                       (long long)size, axis, EK_TEXT(*shape), (long long)attributes->start,
                       (long long)attributes->stop);
    shape->dim[axis] = stop - start;
    return EK_OK;
}

static slice_layout slice_find(const ek_node *node)
{
    const slice_attributes *attributes = node->attributes;
    ek_shape from = node->in[0]->shape;
    int axis = ek_axis_resolve(attributes->axis, from.ndim);
    int64_t size = from.dim[axis], inner = 1;
    slice_layout layout = {.outer = 1};
    for (int i = 0; i < axis; i++)
        layout.outer *= from.dim[i];
    for (int i = axis + 1; i < from.ndim; i++)
        inner *= from.dim[i];
    layout.width = node->out->shape.dim[axis] * inner;
    layout.pitch = size * inner;
    layout.skip = (attributes->start < 0 ? attributes->start + size : attributes->start) * inner;
    return layout;
}

static ek_status slice_forward(ek_node *node)
{
    ek_tensor *x = node->in[0], *y = node->out;
    slice_layout layout = slice_find(node);
    size_t element = ek_dtype_size(x->dtype);
    char *first = (char *)x->data + (x->numel ? (size_t)layout.skip * element : 0);
    if (layout.outer == 1) {
        y->data = first;
        return EK_OK;
    }
    y->data = ek_tape_alloc(node->tape, ek_tensor_bytes(y));
    if (!y->data)
        return EK_ERR_MEMORY;
    ek_copy_blocks(layout.outer, (size_t)layout.width * element, first, (size_t)layout.pitch * element, y->data,
                   (size_t)layout.width * element);
    return EK_OK;
}

/* A part of the sequences, of the steps, or of another axis. */
static ek_status slice_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const slice_attributes *attributes = node->attributes;
    const ek_lengths *x = ek_node_lengths(node, 0);
    int axis = ek_axis_resolve(attributes->axis, node->out->shape.ndim);
    int64_t size = node->out->shape.dim[axis], whole = node->in[0]->shape.dim[axis];
    int64_t start = attributes->start < 0 ? attributes->start + whole : attributes->start;
    if (size == whole || (axis != x->batch_axis && axis != x->time_axis)) {
        *lengths = x;
        return EK_OK;
    }
    const bool sequences = axis == x->batch_axis;
    const int64_t n = sequences ? size : x->n, steps = sequences ? x->steps : size;
    void *memory = ek_tape_alloc(node->tape, ek_lengths_bytes(n, steps));
    if (!memory)
        return EK_ERR_MEMORY;
    *lengths = ek_lengths_window(memory, x, sequences ? start : 0, n, sequences ? 0 : start, steps);
    return EK_OK;
}

#define OP_FILE "op_slice.c"
#include "foreach_real.h"

static const ek_op op_slice = {.name = "slice",
                               .infer = slice_infer,
                               .forward = {slice_forward, slice_forward},
                               .backward = EK_BY_DTYPE(slice_backward),
                               .flags = EK_OP_VIEW | EK_OP_ADDS_GRADIENT,
                               .lengths = slice_lengths};
const ek_op *const ek_op_slice = &op_slice;

ek_tensor *ek_slice(ek_tape *tape, ek_tensor *x, int axis, int64_t start, int64_t stop)
{
    slice_attributes attributes = {.axis = axis, .start = start, .stop = stop};
    return ek_apply(tape, ek_op_slice, 1, &x, &attributes, sizeof attributes);
}
#endif
