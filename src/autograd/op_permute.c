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

/* How to write a row-major tensor from one whose strides are `stride` (in elements): axes of size 1 left out,
 * neighbours merged where the source goes on through both. */
typedef struct permute_plan {
    int n; /* at least 1 */
    int64_t size[EK_MAX_NDIM], stride[EK_MAX_NDIM];
    size_t element; /* bytes */
    const char *src;
    char *dst;
} permute_plan;

/* y[i] = x[i·stride] for elements of 4 or 8 bytes. */
static inline void gather(int64_t n, const char *x, int64_t stride, char *y, size_t bytes)
{
    for (int64_t i = 0; i < n; i++)
        memcpy(y + (size_t)i * bytes, x + (size_t)(i * stride) * bytes, bytes);
}

static void permute_range(void *context, int64_t begin, int64_t end)
{
    const permute_plan *plan = context;
    int outer = plan->n - 1;
    int64_t run = plan->size[outer], stride = plan->stride[outer];
    while (begin < end) {
        int64_t row = begin / run, column = begin % run;
        int64_t n = run - column < end - begin ? run - column : end - begin;
        int64_t from = ek_strided_offset(outer, plan->size, plan->stride, row) + column * stride;
        const char *x = plan->src + (size_t)from * plan->element;
        char *y = plan->dst + (size_t)begin * plan->element;
        if (stride == 1)
            memcpy(y, x, (size_t)n * plan->element);
        else if (plan->element == 4)
            gather(n, x, stride, y, 4);
        else
            gather(n, x, stride, y, 8);
        begin += n;
    }
}

/* dst axis i = src axis order[i], for src of shape `from`. */
static void permute(size_t element, ek_shape from, const int *order, const void *src, void *dst)
{
    permute_plan plan = {.element = element, .src = src, .dst = dst};
    int64_t numel = 1, stride[EK_MAX_NDIM];
    for (int i = from.ndim - 1; i >= 0; i--) {
        stride[i] = numel;
        numel *= from.dim[i];
    }
    for (int i = 0; i < from.ndim; i++) {
        int64_t size = from.dim[order[i]];
        if (size == 1)
            continue;
        if (plan.n > 0 && plan.stride[plan.n - 1] == size * stride[order[i]]) {
            plan.size[plan.n - 1] *= size;
            plan.stride[plan.n - 1] = stride[order[i]];
        } else {
            plan.size[plan.n] = size;
            plan.stride[plan.n++] = stride[order[i]];
        }
    }
    if (plan.n == 0) { /* one element */
        plan.size[0] = 1;
        plan.stride[plan.n++] = 1;
    }
    ek_parallel_for(numel, EK_GRAIN, permute_range, &plan);
}

static ek_status permute_forward(ek_node *node)
{
    const ek_axes *order = node->attributes;
    const ek_tensor *x = node->in[0];
    int resolved[EK_MAX_NDIM];
    for (int i = 0; i < order->n; i++)
        resolved[i] = ek_axis_resolve(order->axis[i], order->n);
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
    if (dx)
        permute(ek_dtype_size(node->out->dtype), node->out->shape, inverse, ek_node_grad_out(node), dx);
    return EK_OK;
}

static const ek_op op_permute = {.name = "permute",
                                 .infer = permute_infer,
                                 .forward = {permute_forward, permute_forward},
                                 .backward = {permute_backward, permute_backward}};
const ek_op *const ek_op_permute = &op_permute;

ek_tensor *ek_permute(ek_tape *tape, ek_tensor *x, ek_axes order)
{
    return ek_apply(tape, ek_op_permute, 1, &x, &order, sizeof order);
}
