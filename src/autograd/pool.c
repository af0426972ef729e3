/* What the pooling ops share.  Expands to ek_average_forward_f32, ek_average_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    const ek_node *node;
    const ek_pool_plan *plan;
    ek_pool_range range;
    const REAL *from; /* x, or dy */
    REAL *to;         /* y, or dx */
} FN(average_arguments);

/* Σ of a block of rows × columns in a plane of row stride ld, in double. */
EK_KERNEL static double FN(sum_block)(const REAL *x, int64_t ld, int64_t rows, int64_t columns)
{
    double sum = 0;
    if (columns == ld) /* whole rows, as in global pooling, are one run */
        return FN(ek_sum_run)(rows * columns, x);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            sum += (double)x[i * ld + j];
    return sum;
}

EK_KERNEL static void FN(add_block)(REAL *x, int64_t ld, int64_t rows, int64_t columns, REAL value)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            x[i * ld + j] += value;
}

/* Planes begin … end−1. */
static void FN(average_range)(void *context, int64_t begin, int64_t end)
{
    const FN(average_arguments) *g = context;
    const ek_pool_plan *s = g->plan;
    int64_t top, bottom, rows, left, right, columns;
    for (int64_t i = 0; i < s->h.out; i++) {
        g->range(g->node, &s->h, i, &top, &bottom, &rows);
        for (int64_t j = 0; j < s->w.out; j++) {
            g->range(g->node, &s->w, j, &left, &right, &columns);
            double divisor = (double)rows * (double)columns;
            for (int64_t plane = begin; plane < end; plane++)
                g->to[plane * s->pixels + i * s->w.out + j] =
                    (REAL)(FN(sum_block)(g->from + plane * s->pixels_in + top * s->w.in + left, s->w.in, bottom - top,
                                         right - left) / divisor);
        }
    }
}

static void FN(average_back_range)(void *context, int64_t begin, int64_t end)
{
    const FN(average_arguments) *g = context;
    const ek_pool_plan *s = g->plan;
    int64_t top, bottom, rows, left, right, columns;
    memset(g->to + begin * s->pixels_in, 0, (size_t)((end - begin) * s->pixels_in) * sizeof(REAL));
    for (int64_t i = 0; i < s->h.out; i++) {
        g->range(g->node, &s->h, i, &top, &bottom, &rows);
        for (int64_t j = 0; j < s->w.out; j++) {
            g->range(g->node, &s->w, j, &left, &right, &columns);
            double divisor = (double)rows * (double)columns;
            for (int64_t plane = begin; plane < end; plane++)
                FN(add_block)(g->to + plane * s->pixels_in + top * s->w.in + left, s->w.in, bottom - top, right - left,
                              (REAL)((double)g->from[plane * s->pixels + i * s->w.out + j] / divisor));
        }
    }
}

ek_status FN(ek_average_forward)(ek_node *node, ek_pool_range range)
{
    const ek_pool_plan plan = ek_pool_find(node);
    FN(average_arguments) g = {node, &plan, range, node->in[0]->data, node->out->data};
    ek_parallel_for(plan.planes, plan.grain, FN(average_range), &g);
    return EK_OK;
}

ek_status FN(ek_average_backward)(ek_node *node, ek_pool_range range)
{
    const ek_pool_plan plan = ek_pool_find(node);
    FN(average_arguments) g = {node, &plan, range, ek_node_grad_out(node), ek_node_grad_in(node, 0)};
    if (g.to)
        ek_parallel_for(plan.planes, plan.grain, FN(average_back_range), &g);
    return EK_OK;
}

#else
#include "pool.h"
#define OP_FILE "pool.c"
#include "foreach_real.h"

int ek_pool_rank(const ek_op *op)
{
    return op->name[strlen(op->name) - 2] - '0';
}

ek_pool_opts ek_pool_opts_default(void)
{
    return (ek_pool_opts){.stride = {EK_STRIDE_IS_KERNEL, EK_STRIDE_IS_KERNEL}, .count_include_pad = true};
}

ek_status ek_pool_check_input(const ek_node *node)
{
    ek_shape x = node->in[0]->shape;
    int rank = ek_pool_rank(node->op);
    if (ek_need_float(node, 0) != EK_OK)
        return EK_ERR_DTYPE;
    if (x.ndim != rank + 2)
        return ek_fail(EK_ERR_SHAPE, "%s: expected an input %s, got %s", node->op->name,
                       rank == 2 ? "(N, C, H, W)" : "(N, C, L)", EK_TEXT(x));
    for (int i = 2; i < x.ndim; i++)
        if (x.dim[i] == 0)
            return ek_fail(EK_ERR_SHAPE, "%s: expected at least one element along axis %d, got %s", node->op->name, i,
                           EK_TEXT(x));
    return EK_OK;
}

/* Sizes of planes, without those of windows. */
static ek_pool_plan planes_of(ek_shape x)
{
    ek_pool_plan plan = {.planes = x.dim[0] * x.dim[1], .h.in = x.ndim == 4 ? x.dim[2] : 1,
                         .w.in = x.dim[x.ndim - 1]};
    plan.pixels_in = plan.h.in * plan.w.in;
    plan.grain = plan.pixels_in < EK_GRAIN ? EK_GRAIN / plan.pixels_in : 1;
    return plan;
}

static void set_window(ek_window *w, const ek_pool_attributes *a, int axis)
{
    w->kernel = a->kernel[axis];
    w->stride = a->opts.stride[axis] == EK_STRIDE_IS_KERNEL ? w->kernel : a->opts.stride[axis];
    w->padding = a->opts.padding[axis];
    w->dilation = 1;
}

ek_pool_plan ek_pool_find(const ek_node *node)
{
    ek_pool_plan plan = planes_of(node->in[0]->shape);
    ek_shape y = node->out->shape;
    set_window(&plan.h, node->attributes, 0);
    set_window(&plan.w, node->attributes, 1);
    plan.h.out = y.ndim == 4 ? y.dim[2] : 1;
    plan.w.out = y.dim[y.ndim - 1];
    plan.pixels = plan.h.out * plan.w.out;
    return plan;
}

ek_status ek_pool_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *x = ek_node_lengths(node, 0);
    const ek_pool_plan plan = ek_pool_find(node);
    for (int k = 0; k < 2; k++) {
        int axis = k == 0 ? x->batch_axis : x->time_axis;
        if (axis > 1 && !ek_window_keeps(axis == node->out->shape.ndim - 1 ? &plan.w : &plan.h))
            return EK_OK;
    }
    return ek_keep_first_lengths(node, lengths);
}

static ek_status fit(const char *who, const char *axis, ek_window *w)
{
    ek_status status = ek_window_fit(who, axis, w);
    if (status == EK_OK && w->padding > w->kernel / 2)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a padding of at most half the kernel for the %s, got %lld and a "
                                        "kernel of %lld", who, axis, (long long)w->padding, (long long)w->kernel);
    return status;
}

ek_status ek_infer_pool(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    int rank = ek_pool_rank(node->op);
    ek_status status = ek_pool_check_input(node);
    if (status != EK_OK)
        return status;
    ek_pool_plan plan = planes_of(*shape);
    set_window(&plan.h, node->attributes, 0);
    set_window(&plan.w, node->attributes, 1);
    status = fit(node->op->name, "height", &plan.h);
    if (status == EK_OK)
        status = fit(node->op->name, rank == 2 ? "width" : "length", &plan.w);
    if (status != EK_OK)
        return status;
    if (rank == 2)
        shape->dim[2] = plan.h.out;
    shape->dim[rank + 1] = plan.w.out;
    return EK_OK;
}

ek_tensor *ek_apply_pool(ek_tape *tape, const ek_op *op, ek_tensor *x, int64_t kernel_h, int64_t kernel_w,
                         const ek_pool_opts *opts)
{
    ek_pool_attributes a = {.kernel = {kernel_h, kernel_w}, .opts = opts ? *opts : ek_pool_opts_default()};
    if (ek_pool_rank(op) == 1) {
        a.opts.stride[1] = a.opts.stride[0];
        a.opts.padding[1] = a.opts.padding[0];
        a.opts.stride[0] = 1;
        a.opts.padding[0] = 0;
    }
    return ek_apply(tape, op, 1, &x, &a, sizeof a);
}
#endif
