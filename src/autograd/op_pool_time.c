/* Mean, largest or last of the valid steps of each sequence.  Expands to pool_time_forward_f32, pool_time_backward_f32
 * and their _f64 twins.  Each sequence is summed in the order of its own valid steps, so the bits depend neither on the
 * padding nor on the sequences beside it. */
#ifdef REAL

typedef struct {
    const ek_strips *strips;
    ek_time_pooling pooling;
    const REAL *x;   /* padded */
    REAL *y;         /* without the time axis */
    int64_t *winner; /* like y: the step that a maximum came from, −1 for none; NULL when no backward follows */
    const REAL *dy;
    REAL *dx;        /* added to */
} FN(pool_time_arguments);

/* Σ over a contiguous run's valid steps, in the lanes of ek_sum_run, whether there are gaps or not.  x: [steps]. */
EK_KERNEL static double FN(sum_valid)(const ek_strip *strip, const REAL *x)
{
    if (ek_strip_is_gapless(strip))
        return FN(ek_sum_run)(strip->length, x + ek_strip_step(strip, 0));
    double lane[EK_LANES] = {0};
    for (int64_t k = 0; k < strip->length; k++)
        lane[k % EK_LANES] += (double)x[strip->step[k]];
    return ek_fold_lanes(lane);
}

/* y[j] = (Σ_k x[step k, j])/length for n ≤ TILE columns.  x: [steps, n] of this stride. */
EK_KERNEL static void FN(mean_columns)(const ek_strip *strip, int64_t stride, int64_t n, const REAL *x, REAL *y)
{
    double sum[TILE];
    for (int64_t j = 0; j < n; j++)
        sum[j] = 0;
    for (int64_t k = 0; k < strip->length; k++) {
        const REAL *row = x + ek_strip_step(strip, k) * stride;
        for (int64_t j = 0; j < n; j++)
            sum[j] += (double)row[j];
    }
    for (int64_t j = 0; j < n; j++)
        y[j] = (REAL)(sum[j] / (double)strip->length);
}

/* y[j] = max_k x[step k, j], and the step; the first of equals, and NaN before all.  x as above; y, winner: [n]. */
EK_KERNEL static void FN(max_columns)(const ek_strip *strip, int64_t stride, int64_t n, const REAL *x, REAL *y,
                                      int64_t *winner)
{
    int64_t best[TILE];
    const int64_t first = ek_strip_step(strip, 0);
    for (int64_t j = 0; j < n; j++) {
        y[j] = x[first * stride + j];
        best[j] = first;
    }
    for (int64_t k = 1; k < strip->length; k++) {
        const int64_t step = ek_strip_step(strip, k);
        const REAL *row = x + step * stride;
        for (int64_t j = 0; j < n; j++) {
            const bool wins = row[j] > y[j] || (row[j] != row[j] && y[j] == y[j]);
            y[j] = wins ? row[j] : y[j];
            best[j] = wins ? step : best[j];
        }
    }
    if (winner)
        memcpy(winner, best, (size_t)n * sizeof *winner);
}

/* Columns `from` … `from` + n − 1 of one strip. */
static void FN(pool_columns)(const FN(pool_time_arguments) *g, const ek_strip *strip, int64_t from, int64_t n)
{
    const int64_t stride = g->strips->stride, length = strip->length;
    const REAL *x = g->x + strip->begin + from;
    REAL *y = g->y + strip->place + from;
    int64_t *winner = g->winner ? g->winner + strip->place + from : NULL;
    if (length == 0) {
        memset(y, 0, (size_t)n * sizeof *y);
        for (int64_t j = 0; winner && j < n; j++)
            winner[j] = -1;
    } else if (g->pooling == EK_POOL_LAST) {
        memcpy(y, x + ek_strip_step(strip, length - 1) * stride, (size_t)n * sizeof *y);
    } else if (g->pooling == EK_POOL_MAX) {
        FN(max_columns)(strip, stride, n, x, y, winner);
    } else if (g->strips->runs) {
        y[0] = (REAL)(FN(sum_valid)(strip, x) / (double)length);
    } else {
        FN(mean_columns)(strip, stride, n, x, y);
    }
}

static void FN(pool_strips)(void *context, int64_t begin, int64_t end)
{
    const FN(pool_time_arguments) *g = context;
    const int64_t width = g->strips->width;
    for (int64_t i = begin; i < end; i++) {
        const ek_strip strip = ek_strip_at(g->strips, i);
        for (int64_t from = 0; from < width; from += TILE)
            FN(pool_columns)(g, &strip, from, width - from < TILE ? width - from : TILE);
    }
}

/* dx[step, j] += dy[j]·∂y[j]/∂x[step, j]: 1/length in each valid step, or 1 in the one that was taken. */
EK_KERNEL static void FN(spread_strip)(const ek_strip *strip, int64_t stride, int64_t n, const REAL *dy, REAL *dx)
{
    const REAL length = (REAL)strip->length;
    for (int64_t k = 0; k < strip->length; k++) {
        REAL *row = dx + ek_strip_step(strip, k) * stride;
        for (int64_t j = 0; j < n; j++)
            row[j] += dy[j] / length;
    }
}

static void FN(unpool_strips)(void *context, int64_t begin, int64_t end)
{
    const FN(pool_time_arguments) *g = context;
    const int64_t stride = g->strips->stride, width = g->strips->width;
    for (int64_t i = begin; i < end; i++) {
        const ek_strip strip = ek_strip_at(g->strips, i);
        const REAL *dy = g->dy + strip.place;
        REAL *dx = g->dx + strip.begin;
        if (strip.length == 0)
            continue;
        if (g->pooling == EK_POOL_MEAN) {
            FN(spread_strip)(&strip, stride, width, dy, dx);
            continue;
        }
        const int64_t last = ek_strip_step(&strip, strip.length - 1);
        for (int64_t j = 0; j < width; j++)
            dx[(g->pooling == EK_POOL_MAX ? g->winner[strip.place + j] : last) * stride + j] += dy[j];
    }
}

/* x: in[0]'s shape; y: that without the time axis. */
static ek_status FN(pool_time_forward)(ek_node *node)
{
    const ek_strips strips = strips_of_node(node);
    FN(pool_time_arguments) g = {.strips = &strips, .pooling = pooling_of(node), .x = node->in[0]->data,
                                 .y = node->out->data};
    if (node->recorded && g.pooling == EK_POOL_MAX) {
        g.winner = ek_node_save(node, (size_t)node->out->numel * sizeof *g.winner);
        if (!g.winner)
            return EK_ERR_MEMORY;
    }
    if (node->out->numel)
        ek_parallel_for(strips.count, strips.grain, FN(pool_strips), &g);
    return EK_OK;
}

static ek_status FN(pool_time_backward)(ek_node *node)
{
    const ek_strips strips = strips_of_node(node);
    FN(pool_time_arguments) g = {.strips = &strips, .pooling = pooling_of(node), .winner = node->saved,
                                 .dy = ek_node_grad_out(node), .dx = ek_node_grad_in(node, 0)};
    if (g.dx && node->out->numel)
        ek_parallel_for(strips.count, strips.grain, FN(unpool_strips), &g);
    return EK_OK;
}

#else
#include "strips.h"

enum { TILE = 256 };

typedef struct pool_time_attributes {
    int time_axis;
    ek_time_pooling pooling;
} pool_time_attributes;

static ek_time_pooling pooling_of(const ek_node *node)
{
    return ((const pool_time_attributes *)node->attributes)->pooling;
}

static ek_strips strips_of_node(const ek_node *node)
{
    const pool_time_attributes *attributes = node->attributes;
    const ek_shape shape = node->in[0]->shape;
    return ek_strips_of(shape, ek_axis_resolve(attributes->time_axis, shape.ndim), ek_node_lengths(node, 0));
}

#define OP_FILE "op_pool_time.c"
#include "foreach_real.h"

ek_status ek_need_time_pooling(const char *who, ek_time_pooling pooling)
{
    if (pooling != EK_POOL_MEAN && pooling != EK_POOL_MAX && pooling != EK_POOL_LAST)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected EK_POOL_MEAN, EK_POOL_MAX or EK_POOL_LAST, got %d", who,
                       (int)pooling);
    return EK_OK;
}

static ek_status infer_pool_time(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* that of x */
    const pool_time_attributes *attributes = node->attributes;
    const ek_lengths *lengths = ek_node_lengths(node, 0);
    const int axis = ek_axis_resolve(attributes->time_axis, shape->ndim);
    if (ek_need_float(node, 0) != EK_OK)
        return EK_ERR_DTYPE;
    if (ek_need_time_pooling("pool_time", attributes->pooling) != EK_OK)
        return EK_ERR_ARGUMENT;
    if (axis < 0)
        return ek_fail(EK_ERR_ARGUMENT, "pool_time: expected an axis of %s, got %d; negative axes count from the end",
                       EK_TEXT(*shape), attributes->time_axis);
    if (lengths && lengths->time_axis != axis)
        return ek_fail(EK_ERR_SHAPE, "pool_time: expected time axis %d, along which the lengths of the input %s lie, "
                                     "got %d; ek_with_lengths(tape, x, NULL) takes them off", lengths->time_axis,
                       EK_TEXT(*shape), axis);
    shape->ndim--;
    for (int i = axis; i < shape->ndim; i++)
        shape->dim[i] = shape->dim[i + 1];
    return EK_OK;
}

static const ek_op op_pool_time = {.name = "pool_time",
                                   .infer = infer_pool_time,
                                   .forward = EK_BY_DTYPE(pool_time_forward),
                                   .backward = EK_BY_DTYPE(pool_time_backward),
                                   .flags = EK_OP_ADDS_GRADIENT};
const ek_op *const ek_op_pool_time = &op_pool_time;

ek_tensor *ek_pool_time(ek_tape *tape, ek_tensor *x, int time_axis, ek_time_pooling pooling)
{
    pool_time_attributes attributes = {.time_axis = time_axis, .pooling = pooling};
    return ek_apply(tape, ek_op_pool_time, 1, &x, &attributes, sizeof attributes);
}
#endif
