/* The driver of ops that work on lines along one axis, and the sums over lines that they and cross-entropy need. */
#ifdef REAL
#include "vector_math.h"

/* One contiguous line: lanes keep the comparisons and additions independent; a fixed tree folds them. */
EK_INLINE REAL FN(line_max)(int64_t n, const REAL *x)
{
    REAL lane[EK_TILE], largest = -INFINITY;
    int64_t k = 0;
    if (n >= EK_TILE) {
        for (int j = 0; j < EK_TILE; j++)
            lane[j] = x[j];
        for (k = EK_TILE; k + EK_TILE <= n; k += EK_TILE)
            for (int j = 0; j < EK_TILE; j++)
                lane[j] = x[k + j] > lane[j] ? x[k + j] : lane[j];
        for (int half = EK_TILE / 2; half > 0; half /= 2)
            for (int j = 0; j < half; j++)
                lane[j] = lane[j] > lane[j + half] ? lane[j] : lane[j + half];
        largest = lane[0];
    }
    for (; k < n; k++)
        largest = x[k] > largest ? x[k] : largest;
    return largest;
}

/* e = exp(x − max) of a block of a line.  The end of a line is filled up with exp(−∞) = 0 to whole vectors: the classes
 * of a classifier are often fewer than EK_TILE. */
EK_INLINE void FN(block_exp)(int width, const REAL *x, REAL max, REAL *e)
{
    if (width == EK_TILE) {
        for (int j = 0; j < EK_TILE; j++)
            e[j] = FN(real_exp)(x[j] - max);
        return;
    }
    for (int j = 0; j < width; j++)
        e[j] = x[j];
    for (int j = width; j % VECTOR > 0; j++)
        e[j] = -INFINITY;
    for (int begin = 0; begin < width; begin += VECTOR)
        for (int j = 0; j < VECTOR; j++)
            e[begin + j] = FN(real_exp)(e[begin + j] - max);
}

EK_INLINE double FN(line_exp_sum)(int64_t n, const REAL *x, REAL *y, REAL max)
{
    double lane[EK_TILE] = {0};
    for (int64_t k = 0; k < n; k += EK_TILE) {
        const int width = n - k < EK_TILE ? (int)(n - k) : EK_TILE;
        REAL e[EK_TILE];
        FN(block_exp)(width, x + k, max, e);
        for (int j = 0; j < width; j++)
            lane[j] += e[j];
        if (y)
            memcpy(y + k, e, (size_t)width * sizeof *y);
    }
    return ek_fold_lanes(lane);
}

EK_KERNEL static void FN(softmax_tile)(int64_t n, int64_t inner, int width, bool line, const REAL *x, REAL *y,
                                       REAL *max, double *sum)
{
    if (line) {
        max[0] = FN(line_max)(n, x);
        sum[0] = FN(line_exp_sum)(n, x, y, max[0]);
    } else {
        for (int j = 0; j < width; j++) {
            max[j] = -INFINITY;
            sum[j] = 0;
        }
        for (int64_t k = 0; k < n; k++)
            for (int j = 0; j < width; j++)
                max[j] = x[k * inner + j] > max[j] ? x[k * inner + j] : max[j];
        for (int64_t k = 0; k < n; k++) {
            REAL e[EK_TILE];
            for (int j = 0; j < width; j++)
                e[j] = FN(real_exp)(x[k * inner + j] - max[j]);
            for (int j = 0; j < width; j++)
                sum[j] += e[j];
            if (y)
                memcpy(y + k * inner, e, (size_t)width * sizeof *y);
        }
    }
    if (!y)
        return;
    REAL inverse[EK_TILE];
    for (int j = 0; j < width; j++)
        inverse[j] = (REAL)(1 / sum[j]);
    EK_FOR_TILE(n, inner, width, y[at] *= inverse[j]);
}

void FN(ek_softmax_tile)(int64_t n, int64_t inner, int width, const REAL *x, REAL *y, REAL *max, double *sum)
{
    FN(softmax_tile)(n, inner, width, inner == 1, x, y, max, sum);
}

void FN(ek_softmax_columns)(int64_t n, int64_t inner, int width, const REAL *x, REAL *y, REAL *max, double *sum)
{
    FN(softmax_tile)(n, inner, width, false, x, y, max, sum);
}

EK_KERNEL static void FN(dot_tile)(int64_t n, int64_t inner, int width, const REAL *a, const REAL *b, double *sum)
{
    if (inner == 1) {
        double lane[EK_TILE] = {0};
        int64_t k = 0;
        for (; k + EK_TILE <= n; k += EK_TILE)
            for (int j = 0; j < EK_TILE; j++)
                lane[j] += b ? (double)a[k + j] * b[k + j] : a[k + j];
        for (int j = 0; k < n; j++, k++)
            lane[j] += b ? (double)a[k] * b[k] : a[k];
        sum[0] = ek_fold_lanes(lane);
        return;
    }
    for (int j = 0; j < width; j++)
        sum[j] = 0;
    for (int64_t k = 0; k < n; k++)
        for (int j = 0; j < width; j++)
            sum[j] += b ? (double)a[k * inner + j] * b[k * inner + j] : a[k * inner + j];
}

void FN(ek_dot_tile)(int64_t n, int64_t inner, int width, const REAL *a, const REAL *b, double *sum)
{
    FN(dot_tile)(n, inner, width, a, b, sum);
}

typedef struct {
    const ek_line_op *op;
    ek_lines lines;
    const REAL *x, *y, *dy;
    REAL *out; /* y of the forward, dx of the backward */
} FN(line_arguments);

static void FN(forward_tiles)(void *context, int64_t begin, int64_t end)
{
    const FN(line_arguments) *a = context;
    for (int64_t t = begin; t < end; t++) {
        ek_tile tile = ek_tile_at(&a->lines, t);
        a->op->FN(forward)(a->lines.n, a->lines.inner, tile.width, a->x + tile.begin, a->out + tile.begin);
    }
}

static void FN(backward_tiles)(void *context, int64_t begin, int64_t end)
{
    const FN(line_arguments) *a = context;
    for (int64_t t = begin; t < end; t++) {
        ek_tile tile = ek_tile_at(&a->lines, t);
        a->op->FN(backward)(a->lines.n, a->lines.inner, tile.width, a->y + tile.begin, a->dy + tile.begin,
                            a->out + tile.begin);
    }
}

ek_status FN(ek_lines_forward)(ek_node *node)
{
    FN(line_arguments) a = {.op = (const ek_line_op *)node->op, .lines = lines_of_node(node),
                            .x = node->in[0]->data, .out = node->out->data};
    ek_parallel_for(a.lines.tiles, a.lines.grain, FN(forward_tiles), &a);
    return EK_OK;
}

ek_status FN(ek_lines_backward)(ek_node *node)
{
    FN(line_arguments) a = {.op = (const ek_line_op *)node->op, .lines = lines_of_node(node),
                            .y = node->out->data, .dy = ek_node_grad_out(node), .out = ek_node_grad_in(node, 0)};
    if (a.out)
        ek_parallel_for(a.lines.tiles, a.lines.grain, FN(backward_tiles), &a);
    return EK_OK;
}

#else
#include "softmax.h"

enum { VECTOR = 8 }; /* divides EK_TILE */

/* The attribute is the axis.  A scalar counts as one line of one element. */
static ek_lines lines_of_node(const ek_node *node)
{
    ek_shape shape = node->out->shape;
    return ek_lines_of(shape, ek_axis_resolve(*(const int *)node->attributes, shape.ndim ? shape.ndim : 1));
}

#define OP_FILE "softmax.c"
#include "foreach_real.h"

ek_lines ek_lines_of(ek_shape shape, int axis)
{
    ek_lines lines = {.outer = 1, .n = shape.ndim ? shape.dim[axis] : 1, .inner = 1};
    for (int i = 0; i < axis; i++)
        lines.outer *= shape.dim[i];
    for (int i = axis + 1; i < shape.ndim; i++)
        lines.inner *= shape.dim[i];
    lines.tiles_per_outer = (lines.inner + EK_TILE - 1) / EK_TILE;
    lines.tiles = lines.outer * lines.tiles_per_outer;
    int64_t tile_elements = lines.n * (lines.inner < EK_TILE ? lines.inner : EK_TILE);
    lines.grain = EK_GRAIN / (tile_elements > 0 ? tile_elements : 1);
    if (lines.grain < 1)
        lines.grain = 1;
    return lines;
}

ek_tile ek_tile_at(const ek_lines *lines, int64_t index)
{
    int64_t o = index / lines->tiles_per_outer, i = index % lines->tiles_per_outer * EK_TILE;
    int64_t width = lines->inner - i < EK_TILE ? lines->inner - i : EK_TILE;
    return (ek_tile){.begin = o * lines->n * lines->inner + i, .line = o * lines->inner + i, .width = (int)width};
}

ek_status ek_infer_lines(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    int axis = *(const int *)node->attributes;
    if (ek_axis_resolve(axis, shape->ndim ? shape->ndim : 1) < 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected an axis of %s, got %d; negative axes count from the end",
                       node->op->name, EK_TEXT(*shape), axis);
    return ek_infer_same(node, dtype, shape);
}

ek_tensor *ek_apply_lines(ek_tape *tape, const ek_op *op, ek_tensor *x, int axis)
{
    return ek_apply(tape, op, 1, &x, &axis, sizeof axis);
}
#endif
