/* y = the largest element of each window; padding never wins, NaN does, and the first of equals.  Expands to
 * max_pool_forward_f32, max_pool_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    const ek_pool_plan *plan;
    const REAL *x, *dy;
    REAL *y, *dx;
    int64_t *winner; /* like y: the winner's place in its plane of x; NULL when no backward follows */
} FN(max_pool_arguments);

/* x [H, W], y and winner [OH, OW]. */
EK_KERNEL static void FN(max_pool_plane)(const ek_pool_plan *s, const REAL *x, REAL *y, int64_t *winner)
{
    for (int64_t i = 0; i < s->h.out; i++) {
        int64_t top = i * s->h.stride - s->h.padding, bottom = top + s->h.kernel;
        top = top > 0 ? top : 0;
        bottom = bottom < s->h.in ? bottom : s->h.in;
        for (int64_t j = 0; j < s->w.out; j++) {
            int64_t left = j * s->w.stride - s->w.padding, right = left + s->w.kernel;
            left = left > 0 ? left : 0;
            right = right < s->w.in ? right : s->w.in;
            int64_t best = top * s->w.in + left;
            for (int64_t row = top; row < bottom; row++)
                for (int64_t at = row * s->w.in + left; at < row * s->w.in + right; at++)
                    if (x[at] > x[best] || (x[at] != x[at] && x[best] == x[best]))
                        best = at;
            y[i * s->w.out + j] = x[best];
            if (winner)
                winner[i * s->w.out + j] = best;
        }
    }
}

static void FN(max_pool_range)(void *context, int64_t begin, int64_t end)
{
    const FN(max_pool_arguments) *g = context;
    const ek_pool_plan *s = g->plan;
    for (int64_t plane = begin; plane < end; plane++)
        FN(max_pool_plane)(s, g->x + plane * s->pixels_in, g->y + plane * s->pixels,
                           g->winner ? g->winner + plane * s->pixels : NULL);
}

/* dx = the sum of dy over the windows that the element won. */
static void FN(max_pool_back_range)(void *context, int64_t begin, int64_t end)
{
    const FN(max_pool_arguments) *g = context;
    const ek_pool_plan *s = g->plan;
    memset(g->dx + begin * s->pixels_in, 0, (size_t)((end - begin) * s->pixels_in) * sizeof(REAL));
    for (int64_t plane = begin; plane < end; plane++)
        for (int64_t p = plane * s->pixels; p < (plane + 1) * s->pixels; p++)
            g->dx[plane * s->pixels_in + g->winner[p]] += g->dy[p];
}

static ek_status FN(max_pool_forward)(ek_node *node)
{
    const ek_pool_plan plan = ek_pool_find(node);
    FN(max_pool_arguments) g = {.plan = &plan, .x = node->in[0]->data, .y = node->out->data};
    if (node->recorded) {
        g.winner = ek_node_save(node, (size_t)node->out->numel * sizeof(int64_t));
        if (!g.winner)
            return EK_ERR_MEMORY;
    }
    ek_parallel_for(plan.planes, plan.grain, FN(max_pool_range), &g);
    return EK_OK;
}

static ek_status FN(max_pool_backward)(ek_node *node)
{
    const ek_pool_plan plan = ek_pool_find(node);
    FN(max_pool_arguments) g = {.plan = &plan, .winner = node->saved, .dy = ek_node_grad_out(node),
                                .dx = ek_node_grad_in(node, 0)};
    if (g.dx)
        ek_parallel_for(plan.planes, plan.grain, FN(max_pool_back_range), &g);
    return EK_OK;
}

#else
#include "pool.h"
#define OP_FILE "op_max_pool.c"
#include "foreach_real.h"

static const ek_op max_pool1d_op = {.name = "max_pool1d", .infer = ek_infer_pool,
                                    .forward = EK_BY_DTYPE(max_pool_forward),
                                    .backward = EK_BY_DTYPE(max_pool_backward),
                                    .lengths = ek_pool_lengths};
static const ek_op max_pool2d_op = {.name = "max_pool2d", .infer = ek_infer_pool,
                                    .forward = EK_BY_DTYPE(max_pool_forward),
                                    .backward = EK_BY_DTYPE(max_pool_backward),
                                    .lengths = ek_pool_lengths};
const ek_op *const ek_op_max_pool1d = &max_pool1d_op;
const ek_op *const ek_op_max_pool2d = &max_pool2d_op;

ek_tensor *ek_max_pool1d(ek_tape *tape, ek_tensor *x, int64_t kernel, const ek_pool_opts *opts)
{
    return ek_apply_pool(tape, ek_op_max_pool1d, x, 1, kernel, opts);
}

ek_tensor *ek_max_pool2d(ek_tape *tape, ek_tensor *x, int64_t kernel_h, int64_t kernel_w, const ek_pool_opts *opts)
{
    return ek_apply_pool(tape, ek_op_max_pool2d, x, kernel_h, kernel_w, opts);
}
#endif
