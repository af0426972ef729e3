/* y[i] = the mean of x[⌊i·L/O⌋ … ⌈(i+1)·L/O⌉−1] along each spatial axis, for O outputs from L inputs.  The kernels are
 * in pool.c: ek_average_forward_f32, …. */
#ifdef REAL

static ek_status FN(adaptive_avg_pool_forward)(ek_node *node)
{
    return FN(ek_average_forward)(node, adaptive_range);
}

/* Windows may overlap; each element gets the sum of dy/size over those that hold it. */
static ek_status FN(adaptive_avg_pool_backward)(ek_node *node)
{
    return FN(ek_average_backward)(node, adaptive_range);
}

#else
#include "pool.h"

static void adaptive_range(const ek_node *node, const ek_window *w, int64_t o, int64_t *begin, int64_t *end,
                           int64_t *divisor)
{
    (void)node;
    *begin = o * w->in / w->out;
    *end = ((o + 1) * w->in + w->out - 1) / w->out;
    *divisor = *end - *begin;
}

static ek_status adaptive_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    const ek_pool_attributes *a = node->attributes;
    int rank = ek_pool_rank(node->op);
    ek_status status = ek_pool_check_input(node);
    if (status != EK_OK)
        return status;
    for (int i = 0; i < rank; i++) {
        int64_t out = a->kernel[2 - rank + i];
        if (out < 1 || out > INT32_MAX)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected an output size of 1 … %lld, got %lld", node->op->name,
                           (long long)INT32_MAX, (long long)out);
        shape->dim[2 + i] = out;
    }
    return EK_OK;
}

#define OP_FILE "op_adaptive_avg_pool.c"
#include "foreach_real.h"

static const ek_op adaptive_avg_pool1d_op = {.name = "adaptive_avg_pool1d", .infer = adaptive_infer,
                                             .forward = EK_BY_DTYPE(adaptive_avg_pool_forward),
                                             .backward = EK_BY_DTYPE(adaptive_avg_pool_backward),
                                             .lengths = ek_keep_lengths};
static const ek_op adaptive_avg_pool2d_op = {.name = "adaptive_avg_pool2d", .infer = adaptive_infer,
                                             .forward = EK_BY_DTYPE(adaptive_avg_pool_forward),
                                             .backward = EK_BY_DTYPE(adaptive_avg_pool_backward),
                                             .lengths = ek_keep_lengths};
const ek_op *const ek_op_adaptive_avg_pool1d = &adaptive_avg_pool1d_op;
const ek_op *const ek_op_adaptive_avg_pool2d = &adaptive_avg_pool2d_op;

ek_tensor *ek_adaptive_avg_pool1d(ek_tape *tape, ek_tensor *x, int64_t out)
{
    return ek_apply_pool(tape, ek_op_adaptive_avg_pool1d, x, 1, out, NULL);
}

ek_tensor *ek_adaptive_avg_pool2d(ek_tape *tape, ek_tensor *x, int64_t out_h, int64_t out_w)
{
    return ek_apply_pool(tape, ek_op_adaptive_avg_pool2d, x, out_h, out_w, NULL);
}
#endif
