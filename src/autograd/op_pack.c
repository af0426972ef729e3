/* Valid steps of a padded tensor to rows and back: `pack` gathers, `unpack` scatters and leaves 0 in the padding; each
 * is the backward of the other.  They move elements whatever they are, so they take int64 too. */
#include "sequence.h"

/* A step of a sequence in the padded tensor: `blocks` stretches of `inner` contiguous elements, one for each position
 * of the axes that stand before the later of batch and time.  A row is these stretches one after the other. */
typedef struct pack_layout {
    const ek_rows *rows;
    int64_t batch_stride, time_stride, blocks, inner;
    int64_t *offset; /* [blocks] */
} pack_layout;

/* The layout of a padded tensor of this shape; the offsets take scratch memory of the node. */
static ek_status find_layout(ek_node *node, ek_shape shape, pack_layout *layout)
{
    const ek_rows *rows = *(const ek_rows *const *)node->attributes;
    const int batch = rows->lengths->batch_axis, time = rows->lengths->time_axis, later = batch > time ? batch : time;
    int64_t stride = 1, size[EK_MAX_NDIM], strides[EK_MAX_NDIM];
    int n = 0;
    *layout = (pack_layout){.rows = rows, .blocks = 1, .inner = 1};
    for (int axis = shape.ndim - 1; axis >= 0; axis--) {
        if (axis == batch)
            layout->batch_stride = stride;
        else if (axis == time)
            layout->time_stride = stride;
        else if (axis > later)
            layout->inner *= shape.dim[axis];
        else {
            size[n] = shape.dim[axis];
            strides[n++] = stride;
            layout->blocks *= shape.dim[axis];
        }
        stride *= shape.dim[axis];
    }
    for (int i = 0; i < n / 2; i++) { /* they were met from the last axis to the first */
        int64_t other_size = size[n - 1 - i], other_stride = strides[n - 1 - i];
        size[n - 1 - i] = size[i];
        strides[n - 1 - i] = strides[i];
        size[i] = other_size;
        strides[i] = other_stride;
    }
    layout->offset = ek_node_scratch(node, (size_t)layout->blocks * sizeof *layout->offset);
    if (!layout->offset)
        return EK_ERR_MEMORY;
    for (int64_t b = 0; b < layout->blocks; b++)
        layout->offset[b] = ek_strided_offset(n, size, strides, b);
    return EK_OK;
}

typedef struct pack_arguments {
    const pack_layout *layout;
    size_t element;
    char *padded, *packed;
    bool gather; /* padded to packed; the other way round without */
} pack_arguments;

/* Single elements, of 4 or 8 bytes, where time is the last axis: not worth a call. */
static inline void copy_stretch(char *to, const char *from, size_t bytes)
{
    if (bytes == 4)
        memcpy(to, from, 4);
    else if (bytes == 8)
        memcpy(to, from, 8);
    else
        memcpy(to, from, bytes);
}

static void move_rows(void *context, int64_t begin, int64_t end)
{
    const pack_arguments *a = context;
    const pack_layout *layout = a->layout;
    const size_t bytes = (size_t)layout->inner * a->element;
    for (int64_t r = begin; r < end; r++) {
        int64_t at = layout->rows->sequence[r] * layout->batch_stride + layout->rows->step[r] * layout->time_stride;
        char *packed = a->packed + (size_t)(r * layout->blocks) * bytes;
        for (int64_t b = 0; b < layout->blocks; b++, packed += bytes) {
            char *padded = a->padded + (size_t)(at + layout->offset[b]) * a->element;
            copy_stretch(a->gather ? packed : padded, a->gather ? padded : packed, bytes);
        }
    }
}

/* Between a padded tensor of `shape` and its rows.  Scattering clears the padding first. */
static ek_status move(ek_node *node, ek_shape shape, ek_dtype dtype, void *padded, void *packed, bool gather)
{
    pack_layout layout;
    ek_status status = find_layout(node, shape, &layout);
    if (status != EK_OK)
        return status;
    const ek_lengths *lengths = layout.rows->lengths;
    const int64_t width = layout.blocks * layout.inner;
    pack_arguments a = {.layout = &layout, .element = ek_dtype_size(dtype), .padded = padded, .packed = packed,
                        .gather = gather};
    if (width == 0)
        return EK_OK;
    if (!gather && lengths->total < lengths->n * lengths->steps)
        memset(padded, 0, (size_t)(lengths->n * lengths->steps * width) * a.element);
    ek_parallel_for(lengths->total, EK_GRAIN / width + 1, move_rows, &a);
    return EK_OK;
}

/* ---- pack -------------------------------------------------------------------------------------------------------- */

static ek_shape packed_shape(ek_shape padded, const ek_lengths *lengths)
{
    ek_shape shape = {.ndim = 1, .dim = {lengths->total}};
    for (int axis = 0; axis < padded.ndim; axis++)
        if (axis != lengths->batch_axis && axis != lengths->time_axis)
            shape.dim[shape.ndim++] = padded.dim[axis];
    return shape;
}

static ek_status pack_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    const ek_lengths *lengths = (*(const ek_rows *const *)node->attributes)->lengths;
    if (lengths->batch_axis >= shape->ndim || lengths->time_axis >= shape->ndim ||
        shape->dim[lengths->batch_axis] != lengths->n || shape->dim[lengths->time_axis] != lengths->steps)
        return ek_fail(EK_ERR_SHAPE, "pack: expected %lld sequences along axis %d and %lld steps along axis %d, got %s",
                       (long long)lengths->n, lengths->batch_axis, (long long)lengths->steps, lengths->time_axis,
                       EK_TEXT(*shape));
    *shape = packed_shape(*shape, lengths);
    return EK_OK;
}

static ek_status pack_forward(ek_node *node)
{
    const ek_tensor *x = node->in[0];
    return move(node, x->shape, x->dtype, x->data, node->out->data, true);
}

static ek_status pack_backward(ek_node *node)
{
    const ek_tensor *x = node->in[0];
    void *dx = ek_node_grad_in(node, 0);
    /* const is shed for the function that goes both ways: scattering reads the rows. */
    return dx ? move(node, x->shape, x->dtype, dx, (void *)ek_node_grad_out(node), false) : EK_OK;
}

static const ek_op op_pack = {.name = "pack",
                              .infer = pack_infer,
                              .forward = {pack_forward, pack_forward},
                              .backward = {pack_backward, pack_backward}};
const ek_op *const ek_op_pack = &op_pack;

/* ---- unpack ------------------------------------------------------------------------------------------------------ */

static ek_status unpack_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    const ek_lengths *lengths = (*(const ek_rows *const *)node->attributes)->lengths;
    const ek_shape packed = *shape;
    ek_shape padded = {.ndim = packed.ndim + 1};
    if (packed.ndim < 1 || packed.dim[0] != lengths->total)
        return ek_fail(EK_ERR_SHAPE, "unpack: expected (%lld, …), a row for each valid step, got %s",
                       (long long)lengths->total, EK_TEXT(packed));
    if (padded.ndim > EK_MAX_NDIM || lengths->batch_axis >= padded.ndim || lengths->time_axis >= padded.ndim)
        return ek_fail(EK_ERR_SHAPE, "unpack: rows of shape %s become a tensor of rank %d, in which axes %d and %d "
                                     "cannot be batch and time", EK_TEXT(packed), padded.ndim, lengths->batch_axis,
                       lengths->time_axis);
    for (int axis = 0, from = 1; axis < padded.ndim; axis++)
        padded.dim[axis] = axis == lengths->batch_axis  ? lengths->n
                           : axis == lengths->time_axis ? lengths->steps
                                                        : packed.dim[from++];
    *shape = padded;
    return EK_OK;
}

static ek_status unpack_forward(ek_node *node)
{
    const ek_tensor *y = node->out;
    return move(node, y->shape, y->dtype, y->data, node->in[0]->data, false);
}

static ek_status unpack_backward(ek_node *node)
{
    const ek_tensor *y = node->out;
    void *d_rows = ek_node_grad_in(node, 0);
    return d_rows ? move(node, y->shape, y->dtype, (void *)ek_node_grad_out(node), d_rows, true) : EK_OK;
}

static const ek_op op_unpack = {.name = "unpack",
                                .infer = unpack_infer,
                                .forward = {unpack_forward, unpack_forward},
                                .backward = {unpack_backward, unpack_backward}};
const ek_op *const ek_op_unpack = &op_unpack;

/* ---- applying them ----------------------------------------------------------------------------------------------- */

/* Do the rows stand in memory as the padded tensor has them?  Then both ops are views. */
static bool rows_are_in_place(const ek_rows *rows)
{
    const ek_lengths *lengths = rows->lengths;
    if (lengths->total != lengths->n * lengths->steps || lengths->batch_axis > 1 || lengths->time_axis > 1)
        return false;
    const int64_t per_sequence = lengths->batch_axis == 0 ? lengths->steps : 1;
    const int64_t per_step = lengths->batch_axis == 0 ? 1 : lengths->n;
    for (int64_t r = 0; r < lengths->total; r++)
        if (rows->sequence[r] * per_sequence + rows->step[r] * per_step != r)
            return false;
    return true;
}

ek_tensor *ek_pack_rows(ek_tape *tape, ek_tensor *x, const ek_rows *rows)
{
    if (!x || !rows || !rows_are_in_place(rows))
        return rows ? ek_apply(tape, ek_op_pack, 1, &x, &rows, sizeof rows) : NULL;
    return ek_reshape(tape, x, packed_shape(x->shape, rows->lengths));
}

ek_tensor *ek_unpack_rows(ek_tape *tape, ek_tensor *packed, const ek_rows *rows)
{
    if (!rows)
        return NULL;
    const ek_lengths *lengths = rows->lengths;
    ek_tensor *y;
    if (!packed || !rows_are_in_place(rows) || packed->shape.ndim < 1 || packed->shape.ndim >= EK_MAX_NDIM) {
        y = ek_apply(tape, ek_op_unpack, 1, &packed, &rows, sizeof rows);
    } else {
        ek_shape shape = {.ndim = packed->shape.ndim + 1};
        memcpy(shape.dim + 2, packed->shape.dim + 1, (size_t)(packed->shape.ndim - 1) * sizeof *shape.dim);
        shape.dim[lengths->batch_axis] = lengths->n;
        shape.dim[lengths->time_axis] = lengths->steps;
        y = ek_reshape(tape, packed, shape);
    }
    if (y)
        y->lengths = rows->carried ? lengths : NULL;
    return y;
}

/* The rows of what t carries. */
static const ek_rows *rows_of(ek_tape *tape, const char *who, const ek_tensor *t, ek_row_order order)
{
    if (!ek_tape_usable(tape, who))
        return NULL;
    if (!t)
        ek_fail_null(EK_ERR_ARGUMENT, who, "padded tensor");
    else if (!t->lengths)
        ek_fail(EK_ERR_STATE, "%s: expected a tensor that carries lengths; ek_tensor_set_lengths() gives them to an "
                              "input, and ops that keep batch and time pass them on", who);
    else if (order < EK_ROWS_BY_SEQUENCE || order > EK_ROWS_BY_STEP_REVERSED)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected one of ek_row_order, got %d", who, (int)order);
    else {
        const ek_lengths *lengths = t->tape ? t->lengths : ek_lengths_on_tape(tape, t->lengths);
        if (lengths)
            return ek_rows_make(tape, lengths, order);
    }
    return ek_tape_fail(tape);
}

ek_tensor *ek_pack(ek_tape *tape, ek_tensor *x, ek_row_order order)
{
    const ek_rows *rows = rows_of(tape, "pack", x, order);
    return rows ? ek_pack_rows(tape, x, rows) : NULL;
}

ek_tensor *ek_unpack(ek_tape *tape, ek_tensor *rows, const ek_tensor *like, ek_row_order order)
{
    const ek_rows *known = rows_of(tape, "unpack", like, order);
    return known ? ek_unpack_rows(tape, rows, known) : NULL;
}
