/* Axes in another order: out axis i is in axis order[i].  Moves elements whatever they are, so it takes int64 too. */
#include "op.h"

static ek_status permute_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    ek_axes order = *(const ek_axes *)node->attributes;
    ek_shape from = node->in[0]->shape;
    unsigned seen = 0;
    if (order.n != from.ndim)
        return ek_fail(EK_ERR_ARGUMENT, "permute: expected an order of %d axes for %s, got %d", from.ndim,
                       EK_TEXT(from), order.n);
    for (int i = 0; i < from.ndim; i++) {
        int axis = ek_axis_resolve(order.axis[i], from.ndim);
        if (axis < 0 || seen >> axis & 1)
            return ek_fail(EK_ERR_ARGUMENT, "permute: expected each axis of %s once, got axis %d%s", EK_TEXT(from),
                           order.axis[i], axis < 0 ? "" : " twice");
        seen |= 1u << axis;
        shape->dim[i] = from.dim[axis];
    }
    return EK_OK;
}

/* Axes of size 1 are left out, neighbours merged where the source goes on through both.  If the innermost axis is
 * contiguous in the source as well, runs of it are copied.  If not, another axis is: the two make a matrix to
 * transpose, in tiles that use up every cache line they touch.  `n` counts the axes outside the run or matrix. */
typedef struct permute_plan {
    int n;
    int64_t size[EK_MAX_NDIM], src_stride[EK_MAX_NDIM], dst_stride[EK_MAX_NDIM]; /* in elements */
    int64_t rows, columns, src_step, dst_step; /* dst[i·dst_step + j] = src[j·src_step + i], i < rows, j < columns */
    size_t element;                            /* bytes */
    const char *src;
    char *dst;
} permute_plan;

enum { TILE = 16, TILES_PER_ITEM = 64 };

/* y[i·sy + j] = x[j·sx + i] for elements of 4 or 8 bytes. */
static inline void transpose_tile(int64_t rows, int64_t columns, const char *x, int64_t sx, char *y, int64_t sy,
                                  size_t bytes)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            memcpy(y + (size_t)(i * sy + j) * bytes, x + (size_t)(j * sx + i) * bytes, bytes);
}

/* Items are (position of the outer axes, strip of rows, piece of columns). */
static void transpose_items(void *context, int64_t begin, int64_t end)
{
    const permute_plan *plan = context;
    int64_t piece = TILE * TILES_PER_ITEM, pieces = (plan->columns + piece - 1) / piece;
    int64_t strips = (plan->rows + TILE - 1) / TILE;
    for (int64_t item = begin; item < end; item++) {
        int64_t outer = item / pieces / strips, i = item / pieces % strips * TILE, first = item % pieces * piece;
        int64_t rows = plan->rows - i < TILE ? plan->rows - i : TILE;
        int64_t last = first + piece < plan->columns ? first + piece : plan->columns;
        int64_t from = ek_strided_offset(plan->n, plan->size, plan->src_stride, outer) + i;
        int64_t to = ek_strided_offset(plan->n, plan->size, plan->dst_stride, outer) + i * plan->dst_step;
        for (int64_t j = first; j < last; j += TILE) {
            int64_t columns = last - j < TILE ? last - j : TILE;
            const char *x = plan->src + (size_t)(from + j * plan->src_step) * plan->element;
            char *y = plan->dst + (size_t)(to + j) * plan->element;
            if (plan->element == 4)
                transpose_tile(rows, columns, x, plan->src_step, y, plan->dst_step, 4);
            else
                transpose_tile(rows, columns, x, plan->src_step, y, plan->dst_step, 8);
        }
    }
}

/* Elements begin … end−1 of dst, in runs of `columns`. */
static void copy_runs(void *context, int64_t begin, int64_t end)
{
    const permute_plan *plan = context;
    while (begin < end) {
        int64_t row = begin / plan->columns, column = begin % plan->columns;
        int64_t n = plan->columns - column < end - begin ? plan->columns - column : end - begin;
        int64_t from = ek_strided_offset(plan->n, plan->size, plan->src_stride, row) + column;
        memcpy(plan->dst + (size_t)begin * plan->element, plan->src + (size_t)from * plan->element,
               (size_t)n * plan->element);
        begin += n;
    }
}

static void remove_axis(permute_plan *plan, int axis)
{
    plan->n--;
    for (int i = axis; i < plan->n; i++) {
        plan->size[i] = plan->size[i + 1];
        plan->src_stride[i] = plan->src_stride[i + 1];
        plan->dst_stride[i] = plan->dst_stride[i + 1];
    }
}

/* The axes of dst, merged, with their strides in both. */
static permute_plan merge_axes(ek_shape from, const int *order)
{
    permute_plan plan = {.n = 0};
    int64_t numel = 1, stride[EK_MAX_NDIM];
    for (int i = from.ndim - 1; i >= 0; i--) {
        stride[i] = numel;
        numel *= from.dim[i];
    }
    for (int i = 0; i < from.ndim; i++) {
        int64_t size = from.dim[order[i]];
        if (size == 1)
            continue;
        if (plan.n > 0 && plan.src_stride[plan.n - 1] == size * stride[order[i]]) {
            plan.size[plan.n - 1] *= size;
            plan.src_stride[plan.n - 1] = stride[order[i]];
        } else {
            plan.size[plan.n] = size;
            plan.src_stride[plan.n++] = stride[order[i]];
        }
    }
    if (plan.n == 0) { /* one element */
        plan.size[0] = 1;
        plan.src_stride[plan.n++] = 1;
    }
    plan.dst_stride[plan.n - 1] = 1;
    for (int i = plan.n - 2; i >= 0; i--)
        plan.dst_stride[i] = plan.dst_stride[i + 1] * plan.size[i + 1];
    return plan;
}

/* dst axis i = src axis order[i], for src of shape `from`, which is not empty. */
static void permute(size_t element, ek_shape from, const int *order, const void *src, void *dst)
{
    permute_plan plan = merge_axes(from, order);
    int last = plan.n - 1, row = 0;
    int64_t numel = plan.size[0] * plan.dst_stride[0];
    plan.element = element;
    plan.src = src;
    plan.dst = dst;
    plan.columns = plan.size[last];
    plan.src_step = plan.src_stride[last];
    remove_axis(&plan, last);
    if (plan.src_step == 1) {
        ek_parallel_for(numel, EK_GRAIN, copy_runs, &plan);
        return;
    }
    while (plan.src_stride[row] != 1)
        row++;
    plan.rows = plan.size[row];
    plan.dst_step = plan.dst_stride[row];
    remove_axis(&plan, row);
    int64_t strips = (plan.rows + TILE - 1) / TILE, pieces = (plan.columns - 1) / (TILE * TILES_PER_ITEM) + 1;
    int64_t items = numel / (plan.rows * plan.columns) * strips * pieces;
    ek_parallel_for(items, EK_GRAIN / (numel / items + 1) + 1, transpose_items, &plan);
}

static ek_status permute_forward(ek_node *node)
{
    const ek_axes *order = node->attributes;
    const ek_tensor *x = node->in[0];
    int resolved[EK_MAX_NDIM];
    for (int i = 0; i < order->n; i++)
        resolved[i] = ek_axis_resolve(order->axis[i], order->n);
    if (x->numel)
        permute(ek_dtype_size(x->dtype), x->shape, resolved, x->data, node->out->data);
    return EK_OK;
}

/* dx is dy with the axes put back. */
static ek_status permute_backward(ek_node *node)
{
    const ek_axes *order = node->attributes;
    int inverse[EK_MAX_NDIM];
    for (int i = 0; i < order->n; i++)
        inverse[ek_axis_resolve(order->axis[i], order->n)] = i;
    void *dx = ek_node_grad_in(node, 0);
    if (dx && node->out->numel)
        permute(ek_dtype_size(node->out->dtype), node->out->shape, inverse, ek_node_grad_out(node), dx);
    return EK_OK;
}

static ek_status permute_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_axes *order = node->attributes;
    const ek_lengths *x = ek_node_lengths(node, 0);
    int batch = -1, time = -1;
    for (int i = 0; i < order->n; i++) {
        int from = ek_axis_resolve(order->axis[i], order->n);
        batch = from == x->batch_axis ? i : batch;
        time = from == x->time_axis ? i : time;
    }
    return ek_place_lengths(node, 0, batch, time, lengths);
}

static const ek_op op_permute = {.name = "permute",
                                 .infer = permute_infer,
                                 .forward = {permute_forward, permute_forward},
                                 .backward = {permute_backward, permute_backward},
                                 .lengths = permute_lengths};
const ek_op *const ek_op_permute = &op_permute;

ek_tensor *ek_permute(ek_tape *tape, ek_tensor *x, ek_axes order)
{
    return ek_apply(tape, ek_op_permute, 1, &x, &order, sizeof order);
}
