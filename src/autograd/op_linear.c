/* y = x·wᵀ + b over the last axis, and max(y, 0) with the attribute.  Expands to linear_forward_f32,
 * linear_backward_f32 and their _f64 twins. */
#ifdef REAL

/* y ← y + b, and with relu max(y + b, 0), NaN as it is.  y [rows, n], b [n] or NULL. */
EK_KERNEL static void FN(finish_rows)(int64_t rows, int64_t n, const REAL *restrict b, bool relu, REAL *restrict y)
{
    for (int64_t i = 0; i < rows; i++, y += n) {
        for (int64_t j = 0; b && j < n; j++)
            y[j] += b[j];
        for (int64_t j = 0; relu && j < n; j++)
            y[j] = y[j] < 0 ? 0 : y[j];
    }
}

/* masked = dy, and 0 where y ≤ 0, unless it is NULL; sum = Σ_rows of that, or of dy, in double, unless that is NULL.
 * y, dy, masked [rows, n], masked may be dy; sum [n]. */
EK_KERNEL static void FN(gather_rows)(int64_t rows, int64_t n, const REAL *y, const REAL *dy, REAL *masked,
                                      double *restrict sum)
{
    for (int64_t j = 0; sum && j < n; j++)
        sum[j] = 0;
    for (int64_t i = 0; i < rows; i += 4) { /* few enough to be in the first-level cache when they are summed */
        const int64_t these = rows - i < 4 ? rows - i : 4;
        const REAL *g = (masked ? masked : dy) + i * n;
        for (int64_t j = i * n; masked && j < (i + these) * n; j++)
            masked[j] = y[j] <= 0 ? 0 : dy[j];
        if (sum && these == 4)
            for (int64_t j = 0; j < n; j++)
                sum[j] += ((double)g[j] + (double)g[n + j]) + ((double)g[2 * n + j] + (double)g[3 * n + j]);
        else
            for (int64_t r = 0; sum && r < these; r++)
                for (int64_t j = 0; j < n; j++)
                    sum[j] += (double)g[r * n + j];
    }
}

typedef struct {
    linear_sizes sizes;
    const REAL *b, *dy;
    REAL *y, *masked;
    double *partial; /* [chunks, n]: db by chunk */
} FN(linear_arguments);

static void FN(finish_range)(void *context, int64_t begin, int64_t end)
{
    const FN(linear_arguments) *g = context;
    FN(finish_rows)(end - begin, g->sizes.n, g->b, g->sizes.relu, g->y + begin * g->sizes.n);
}

static void FN(gather_range)(void *context, int64_t begin, int64_t end)
{
    const FN(linear_arguments) *g = context;
    const int64_t n = g->sizes.n, at = begin * n;
    FN(gather_rows)(end - begin, n, g->y + at, g->dy + at, g->masked ? g->masked + at : NULL,
                    g->partial ? g->partial + begin / g->sizes.grain * n : NULL);
}

/* x [m, k], w [n, k], b [n] or none, y [m, n]: y = x·wᵀ + b. */
static ek_status FN(linear_forward)(ek_node *node)
{
    const linear_sizes s = linear_find(node);
    FN(linear_arguments) g = {.sizes = s, .b = node->in[2] ? node->in[2]->data : NULL, .y = node->out->data};
    ek_status status = FN(ek_node_gemm)(node, false, true, s.m, s.n, s.k, node->in[0]->data, s.k, node->in[1]->data,
                                        s.k, g.y, s.n, false);
    if (status == EK_OK && (g.b || s.relu))
        ek_parallel_for(s.m, s.grain, FN(finish_range), &g);
    return status;
}

/* Masks g->dy where there is a ReLU, and sums its rows to db [n] where that is not NULL, in one pass over memory. */
static ek_status FN(gather)(ek_node *node, FN(linear_arguments) *g, REAL *db)
{
    const linear_sizes *s = &g->sizes;
    const int64_t chunks = (s->m + s->grain - 1) / s->grain;
    if (s->relu && !(g->masked = ek_node_grad_out_to_change(node)))
        return EK_ERR_MEMORY;
    if (db && !(g->partial = ek_node_scratch(node, (size_t)(chunks * s->n) * sizeof *g->partial)))
        return EK_ERR_MEMORY;
    if (g->masked || db)
        ek_parallel_for(s->m, s->grain, FN(gather_range), g);
    for (int64_t j = 0; db && j < s->n; j++) {
        double sum = 0;
        for (int64_t c = 0; c < chunks; c++)
            sum += g->partial[c * s->n + j];
        db[j] = (REAL)sum;
    }
    g->dy = g->masked ? g->masked : g->dy;
    return EK_OK;
}

/* dx = dy·w, dw = dyᵀ·x, db = Σ_rows dy.  dy [m, n]; the rest as above. */
static ek_status FN(linear_backward)(ek_node *node)
{
    const linear_sizes s = linear_find(node);
    const REAL *x = node->in[0]->data, *w = node->in[1]->data;
    REAL *dx = ek_node_grad_in(node, 0), *dw = ek_node_grad_in(node, 1);
    REAL *db = node->in[2] ? ek_node_grad_in(node, 2) : NULL;
    FN(linear_arguments) g = {.sizes = s, .y = node->out->data, .dy = ek_node_grad_out(node)};
    ek_status status = FN(gather)(node, &g, db);
    if (dx && status == EK_OK)
        status = FN(ek_node_gemm)(node, false, false, s.m, s.k, s.n, g.dy, s.n, w, s.k, dx, s.k, false);
    if (dw && status == EK_OK)
        status = FN(ek_node_gemm)(node, true, false, s.n, s.k, s.m, g.dy, s.n, x, s.k, dw, s.k, false);
    return status;
}

#else
#include "op.h"

enum { MOST_CHUNKS = 64 };

typedef struct linear_sizes {
    int64_t m, n, k; /* rows of x, outputs, inputs */
    int64_t grain;   /* rows in a chunk of a pass over y: by shape alone */
    bool relu;
} linear_sizes;

static linear_sizes linear_find(const ek_node *node)
{
    ek_shape x = node->in[0]->shape, w = node->in[1]->shape;
    const bool *relu = node->attributes;
    linear_sizes s = {.m = 1, .n = w.dim[0], .k = w.dim[1], .relu = relu && *relu};
    for (int i = 0; i + 1 < x.ndim; i++)
        s.m *= x.dim[i];
    s.grain = EK_GRAIN / (s.n + 1) + 1;
    if (s.grain < s.m / MOST_CHUNKS)
        s.grain = s.m / MOST_CHUNKS + 1;
    return s;
}

static ek_status linear_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    ek_shape x = *shape, w = node->in[1]->shape;
    for (int i = 0; i < 3; i++)
        if (node->in[i] && ek_need_float(node, i) != EK_OK)
            return EK_ERR_DTYPE;
    if (w.ndim != 2)
        return ek_fail(EK_ERR_SHAPE, "linear: expected a weight of shape (out, in), got %s", EK_TEXT(w));
    if (x.ndim < 1 || x.dim[x.ndim - 1] != w.dim[1])
        return ek_fail(EK_ERR_SHAPE, "linear: expected an input of shape (…, %lld) for a weight of shape %s, got %s",
                       (long long)w.dim[1], EK_TEXT(w), EK_TEXT(x));
    if (node->in[2] && !ek_shape_equal(node->in[2]->shape, EK_SHAPE(w.dim[0])))
        return ek_fail(EK_ERR_SHAPE, "linear: expected a bias of shape (%lld,) for a weight of shape %s, got %s",
                       (long long)w.dim[0], EK_TEXT(w), EK_TEXT(node->in[2]->shape));
    shape->dim[x.ndim - 1] = w.dim[0];
    return EK_OK;
}

#define OP_FILE "op_linear.c"
#include "foreach_real.h"

/* The last axis is another one afterwards. */
static ek_status linear_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *x = ek_node_lengths(node, 0);
    const int last = node->out->shape.ndim - 1;
    return x && x->batch_axis != last && x->time_axis != last ? ek_keep_first_lengths(node, lengths) : EK_OK;
}

static const ek_op linear_op = {.name = "linear", .optional_from = 2, .infer = linear_infer,
                                .forward = EK_BY_DTYPE(linear_forward), .backward = EK_BY_DTYPE(linear_backward),
                                .lengths = linear_lengths};
const ek_op *const ek_op_linear = &linear_op;

ek_tensor *ek_linear_op(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b)
{
    return ek_apply(tape, ek_op_linear, 3, (ek_tensor *[]){x, w, b}, NULL, 0);
}

ek_tensor *ek_linear_relu(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b)
{
    return ek_apply(tape, ek_op_linear, 3, (ek_tensor *[]){x, w, b}, &(bool){true}, sizeof(bool));
}
#endif
