/* y = the largest element of each window; padding never wins, NaN does, and the first of equals.  Windows of 2×2 side by
 * side have kernels without branches.  Expands to max_pool_forward_f32, max_pool_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    const ek_pool_plan *plan;
    const REAL *x, *dy;
    REAL *y, *dx;
    int64_t *winner;       /* like y: the winner's place in its plane of x; NULL when no backward follows */
    unsigned char *corner; /* in its place where windows are 2×2: 0 … 3, row by row */
} FN(max_pool_arguments);

/* `width` 2×2 windows side by side.  top, bottom [2·width], y [width]; corner [width] or NULL. */
static inline void FN(pool_pairs)(int width, const REAL *restrict top, const REAL *restrict bottom, REAL *restrict y,
                                  unsigned char *restrict corner)
{
    REAL which[PAIRS] = {0}; /* a number of y's own type, so that one vector holds as many of both */
    for (int j = 0; j < width; j++) {
        /* The second of two wins where !(second ≤ first): larger, or one is NaN; but a NaN that is first stays. */
        const REAL x0 = top[2 * j], x1 = top[2 * j + 1], x2 = bottom[2 * j], x3 = bottom[2 * j + 1];
        REAL above = x1 <= x0 ? x0 : x1, k_above = x1 <= x0 ? 0 : 1;
        REAL below = x3 <= x2 ? x2 : x3, k_below = x3 <= x2 ? 2 : 3;
        above = x0 != x0 ? x0 : above;
        k_above = x0 != x0 ? 0 : k_above;
        below = x2 != x2 ? x2 : below;
        k_below = x2 != x2 ? 2 : k_below;
        const REAL best = below <= above ? above : below, k = below <= above ? k_above : k_below;
        y[j] = above != above ? above : best;
        which[j] = above != above ? k_above : k;
    }
    for (int j = 0; corner && j < width; j++)
        corner[j] = (unsigned char)(int)which[j];
}

/* The way back: dx is written once.  corner, dy [width]; top, bottom [2·width]. */
static inline void FN(unpool_pairs)(int width, const unsigned char *restrict corner, const REAL *restrict dy,
                                    REAL *restrict top, REAL *restrict bottom)
{
    REAL which[PAIRS] = {0};
    for (int j = 0; j < width; j++)
        which[j] = (REAL)(int)corner[j];
    for (int j = 0; j < width; j++) {
        const REAL d = dy[j], k = which[j]; /* read whatever k is, or there is a branch for each */
        top[2 * j] = k == 0 ? d : 0;
        top[2 * j + 1] = k == 1 ? d : 0;
        bottom[2 * j] = k == 2 ? d : 0;
        bottom[2 * j + 1] = k == 3 ? d : 0;
    }
}

/* Rows of windows: row r of plane p is number p·OH + r.  An odd last row or column of x is in no window. */
EK_KERNEL static void FN(pool_rows)(const FN(max_pool_arguments) *g, int64_t begin, int64_t end)
{
    const ek_pool_plan *s = g->plan;
    const int width = pairs_at_a_time(s->w.out);
    for (int64_t row = begin; row < end; row++) {
        const REAL *x = g->x + row / s->h.out * s->pixels_in + row % s->h.out * 2 * s->w.in;
        REAL *y = g->y + row * s->w.out;
        unsigned char *corner = g->corner ? g->corner + row * s->w.out : NULL;
        for (int64_t j = 0; j < s->w.out; j += width) {
            const int64_t at = j + width <= s->w.out ? j : s->w.out - width;
            FN(pool_pairs)(width, x + 2 * at, x + s->w.in + 2 * at, y + at, corner ? corner + at : NULL);
        }
    }
}

EK_KERNEL static void FN(unpool_rows)(const FN(max_pool_arguments) *g, int64_t begin, int64_t end)
{
    const ek_pool_plan *s = g->plan;
    const int width = pairs_at_a_time(s->w.out);
    for (int64_t row = begin; row < end; row++) {
        REAL *dx = g->dx + row / s->h.out * s->pixels_in + row % s->h.out * 2 * s->w.in;
        const REAL *dy = g->dy + row * s->w.out;
        const unsigned char *corner = g->corner + row * s->w.out;
        for (int64_t j = 0; j < s->w.out; j += width) {
            const int64_t at = j + width <= s->w.out ? j : s->w.out - width;
            FN(unpool_pairs)(width, corner + at, dy + at, dx + 2 * at, dx + s->w.in + 2 * at);
        }
        if (s->w.in > 2 * s->w.out)
            dx[s->w.in - 1] = dx[2 * s->w.in - 1] = 0;
        if (row % s->h.out == s->h.out - 1 && s->h.in > 2 * s->h.out)
            memset(dx + 2 * s->w.in, 0, (size_t)s->w.in * sizeof *dx);
    }
}

/* Planes begin … end−1. */
static void FN(pairs_range)(void *context, int64_t begin, int64_t end)
{
    const FN(max_pool_arguments) *g = context;
    FN(pool_rows)(g, begin * g->plan->h.out, end * g->plan->h.out);
}

static void FN(pairs_back_range)(void *context, int64_t begin, int64_t end)
{
    const FN(max_pool_arguments) *g = context;
    FN(unpool_rows)(g, begin * g->plan->h.out, end * g->plan->h.out);
}

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
    const bool pairs = in_pairs(&plan);
    if (node->recorded) {
        void *saved = ek_node_save(node, (size_t)node->out->numel * (pairs ? 1 : sizeof(int64_t)));
        if (!saved)
            return EK_ERR_MEMORY;
        g.winner = saved;
        g.corner = saved;
    }
    ek_parallel_for(plan.planes, plan.grain, pairs ? FN(pairs_range) : FN(max_pool_range), &g);
    return EK_OK;
}

static ek_status FN(max_pool_backward)(ek_node *node)
{
    const ek_pool_plan plan = ek_pool_find(node);
    FN(max_pool_arguments) g = {.plan = &plan, .winner = node->saved, .corner = node->saved,
                                .dy = ek_node_grad_out(node), .dx = ek_node_grad_in(node, 0)};
    if (g.dx)
        ek_parallel_for(plan.planes, plan.grain, in_pairs(&plan) ? FN(pairs_back_range) : FN(max_pool_back_range), &g);
    return EK_OK;
}

#else
#include "pool.h"

/* Windows of a row that the kernels for 2×2 take at a time: a vector of float, or half of one.  The last ones are those
 * up to the end of the row, some of them a second time, as a remainder of single ones would take longer than the rest. */
enum { PAIRS = 8 };
static int pairs_at_a_time(int64_t n)
{
    return n >= PAIRS ? PAIRS : n >= PAIRS / 2 ? PAIRS / 2 : 1;
}

/* Windows of 2×2 side by side, from the first element on. */
static bool in_pairs(const ek_pool_plan *s)
{
    return s->h.kernel == 2 && s->w.kernel == 2 && s->h.stride == 2 && s->w.stride == 2 && s->h.padding == 0 &&
           s->w.padding == 0;
}

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
