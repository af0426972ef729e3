/* y = the mean of each window, with zeros in the padding.  The kernels are in pool.c: ek_average_forward_f32, …. */
#ifdef REAL

static ek_status FN(avg_pool_forward)(ek_node *node)
{
    return FN(ek_average_forward)(node, avg_pool_range);
}

/* Each element of a window gets dy/divisor. */
static ek_status FN(avg_pool_backward)(ek_node *node)
{
    return FN(ek_average_backward)(node, avg_pool_range);
}

#else
#include "pool.h"

/* A window never reaches beyond the padding, so one that counts it has the kernel's size. */
static void avg_pool_range(const ek_node *node, const ek_window *w, int64_t o, int64_t *begin, int64_t *end,
                           int64_t *divisor)
{
    const ek_pool_attributes *a = node->attributes;
    int64_t start = o * w->stride - w->padding, stop = start + w->kernel;
    *begin = start > 0 ? start : 0;
    *end = stop < w->in ? stop : w->in;
    *divisor = a->opts.count_include_pad ? w->kernel : *end - *begin;
}

#define OP_FILE "op_avg_pool.c"
#include "foreach_real.h"

static const ek_op avg_pool1d_op = {.name = "avg_pool1d", .infer = ek_infer_pool,
                                    .forward = EK_BY_DTYPE(avg_pool_forward),
                                    .backward = EK_BY_DTYPE(avg_pool_backward),
                                    .lengths = ek_pool_lengths};
static const ek_op avg_pool2d_op = {.name = "avg_pool2d", .infer = ek_infer_pool,
                                    .forward = EK_BY_DTYPE(avg_pool_forward),
                                    .backward = EK_BY_DTYPE(avg_pool_backward),
                                    .lengths = ek_pool_lengths};
const ek_op *const ek_op_avg_pool1d = &avg_pool1d_op;
const ek_op *const ek_op_avg_pool2d = &avg_pool2d_op;

ek_tensor *ek_avg_pool1d(ek_tape *tape, ek_tensor *x, int64_t kernel, const ek_pool_opts *opts)
{
    return ek_apply_pool(tape, ek_op_avg_pool1d, x, 1, kernel, opts);
}

ek_tensor *ek_avg_pool2d(ek_tape *tape, ek_tensor *x, int64_t kernel_h, int64_t kernel_w, const ek_pool_opts *opts)
{
    return ek_apply_pool(tape, ek_op_avg_pool2d, x, kernel_h, kernel_w, opts);
}
#endif
