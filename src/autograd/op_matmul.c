/* y = op(a)·op(b) for each pair of matrices of two batches that broadcast; op transposes if asked.  Expands to
 * matmul_forward_f32, matmul_backward_f32 and their _f64 twins. */
#ifdef REAL

/* One of the three products, for every matrix of its result: y from (a, b), da from (dy, b), db from (a, dy). */
typedef struct {
    const matmul_plan *plan;
    const matmul_result *result;
    const REAL *a, *b, *y; /* [batch_a, m·k], [batch_b, k·n], and [batch, m·n]: dy, in backward */
    REAL *out;
    void *scratch;
    bool serial; /* within a parallel loop over results */
} FN(matmul_arguments);

/* out (+)= op(left)·op(right), m×n over k; matrices without gaps. */
static void FN(matmul_product)(const FN(matmul_arguments) *g, bool t_left, bool t_right, int64_t m, int64_t n,
                               int64_t k, const REAL *left, const REAL *right, REAL *out, bool accumulate)
{
    int64_t ld_left = t_left ? m : k, ld_right = t_right ? k : n;
    if (g->serial)
        FN(ek_gemm_serial)(t_left, t_right, m, n, k, left, ld_left, right, ld_right, out, n, accumulate);
    else
        FN(ek_gemm_into)(t_left, t_right, m, n, k, left, ld_left, right, ld_right, out, n, accumulate, g->scratch);
}

/* The share of pair `flat` of the batch in its result. */
static void FN(matmul_pair)(const FN(matmul_arguments) *g, int64_t flat, REAL *out, bool accumulate)
{
    const matmul_plan *p = g->plan;
    const REAL *a = g->a + ek_broadcast_offset(p->batch_a, p->batch, flat) * p->m * p->k;
    const REAL *b = g->b + ek_broadcast_offset(p->batch_b, p->batch, flat) * p->k * p->n;
    const REAL *dy = g->y ? g->y + flat * p->m * p->n : NULL; /* the forward has none */
    switch (g->result->what) {
    case RESULT_Y: FN(matmul_product)(g, p->ta, p->tb, p->m, p->n, p->k, a, b, out, accumulate); break;
    case RESULT_DA: /* dy·op(b)ᵀ, transposed again where a is stored so */
        if (p->ta)
            FN(matmul_product)(g, p->tb, true, p->k, p->m, p->n, b, dy, out, accumulate);
        else
            FN(matmul_product)(g, false, !p->tb, p->m, p->k, p->n, dy, b, out, accumulate);
        break;
    case RESULT_DB: /* op(a)ᵀ·dy */
        if (p->tb)
            FN(matmul_product)(g, true, p->ta, p->n, p->k, p->m, dy, a, out, accumulate);
        else
            FN(matmul_product)(g, !p->ta, false, p->k, p->n, p->m, a, dy, out, accumulate);
        break;
    }
}

/* Matrices begin … end−1 of the result, each a sum over the pairs in which its operand was repeated, in their order. */
static void FN(matmul_range)(void *context, int64_t begin, int64_t end)
{
    const FN(matmul_arguments) *g = context;
    const matmul_result *r = g->result;
    for (int64_t item = begin; item < end; item++) {
        REAL *out = g->out + item * r->numel;
        int64_t first = ek_strided_offset(r->n_own, r->own_size, r->own_stride, item);
        for (int64_t i = 0; i < r->repeats; i++)
            FN(matmul_pair)(g, first + ek_strided_offset(r->n_shared, r->shared_size, r->shared_stride, i), out, i > 0);
        if (r->repeats == 0)
            memset(out, 0, (size_t)r->numel * sizeof(REAL));
    }
}

static ek_status FN(matmul_run)(ek_node *node, const matmul_plan *plan, enum matmul_what what, const REAL *y, REAL *out)
{
    const matmul_result result = matmul_result_find(plan, what);
    FN(matmul_arguments) g = {.plan = plan, .result = &result, .a = node->in[0]->data, .b = node->in[1]->data, .y = y,
                              .out = out};
    double work = (double)plan->m * (double)plan->n * (double)plan->k * (double)result.repeats;
    if (result.count > 1 && work < LARGE_PRODUCT) { /* many small ones: one thread each */
        g.serial = true;
        int64_t grain = work > 0 && work < WORTH_A_CHUNK ? (int64_t)(WORTH_A_CHUNK / work) : 1;
        ek_parallel_for(result.count, grain, FN(matmul_range), &g);
        return EK_OK;
    }
    size_t bytes = FN(ek_gemm_scratch)(result.m, result.n, result.k);
    g.scratch = bytes ? ek_node_scratch(node, bytes) : NULL;
    if (bytes && !g.scratch)
        return EK_ERR_MEMORY;
    FN(matmul_range)(&g, 0, result.count);
    return EK_OK;
}

static ek_status FN(matmul_forward)(ek_node *node)
{
    const matmul_plan plan = matmul_find(node);
    return FN(matmul_run)(node, &plan, RESULT_Y, NULL, node->out->data);
}

static ek_status FN(matmul_backward)(ek_node *node)
{
    const matmul_plan plan = matmul_find(node);
    const REAL *dy = ek_node_grad_out(node);
    REAL *da = ek_node_grad_in(node, 0), *db = ek_node_grad_in(node, 1);
    ek_status status = da ? FN(matmul_run)(node, &plan, RESULT_DA, dy, da) : EK_OK;
    return db && status == EK_OK ? FN(matmul_run)(node, &plan, RESULT_DB, dy, db) : status;
}

#else
#include "op.h"

/* Multiplications above which one product is spread over the threads by itself, and below which a chunk of products is
 * not worth a thread (some 10 µs). */
#define LARGE_PRODUCT ((double)(1 << 21))
#define WORTH_A_CHUNK ((double)(1 << 19))

typedef struct matmul_attributes {
    bool transpose_a, transpose_b;
} matmul_attributes;

typedef struct matmul_plan {
    bool ta, tb;
    int64_t m, n, k;
    ek_shape batch_a, batch_b, batch; /* leading axes of a, b and y */
} matmul_plan;

enum matmul_what { RESULT_Y, RESULT_DA, RESULT_DB };

/* The matrices of one result: `count` of them, m×n sums of k products, each over `repeats` pairs of the batch.  Pair
 * number = offset of the result's index along its own axes + offset along the axes over which it was repeated. */
typedef struct matmul_result {
    enum matmul_what what;
    int64_t m, n, k, numel, count, repeats;
    int n_own, n_shared;
    int64_t own_size[EK_MAX_NDIM], own_stride[EK_MAX_NDIM], shared_size[EK_MAX_NDIM], shared_stride[EK_MAX_NDIM];
} matmul_result;

static ek_shape leading_axes(ek_shape shape)
{
    shape.ndim -= 2;
    return shape;
}

static int64_t numel(ek_shape shape)
{
    int64_t n = 1;
    for (int i = 0; i < shape.ndim; i++)
        n *= shape.dim[i];
    return n;
}

static matmul_plan matmul_find(const ek_node *node)
{
    const matmul_attributes *attributes = node->attributes;
    ek_shape a = node->in[0]->shape, b = node->in[1]->shape, y = node->out->shape;
    matmul_plan plan = {.ta = attributes->transpose_a, .tb = attributes->transpose_b,
                        .m = y.dim[y.ndim - 2], .n = y.dim[y.ndim - 1],
                        .k = a.dim[a.ndim - (attributes->transpose_a ? 2 : 1)],
                        .batch_a = leading_axes(a), .batch_b = leading_axes(b), .batch = leading_axes(y)};
    /* One b for all rows of all a: a single product of more rows. */
    if (!plan.ta && numel(plan.batch_b) == 1 && numel(plan.batch_a) == numel(plan.batch)) {
        plan.m *= numel(plan.batch);
        plan.batch_a.ndim = plan.batch_b.ndim = plan.batch.ndim = 0;
    }
    return plan;
}

static matmul_result matmul_result_find(const matmul_plan *plan, enum matmul_what what)
{
    matmul_result r = {.what = what, .m = plan->m, .n = plan->n, .k = plan->k, .count = 1, .repeats = 1};
    ek_shape own = plan->batch, batch = plan->batch;
    if (what == RESULT_DA) {
        r.n = plan->k, r.k = plan->n, own = plan->batch_a;
        if (plan->ta)
            r.m = plan->k, r.n = plan->m;
    } else if (what == RESULT_DB) {
        r.m = plan->k, r.k = plan->m, own = plan->batch_b;
        if (plan->tb)
            r.m = plan->n, r.n = plan->k;
    }
    r.numel = r.m * r.n;
    int64_t stride = numel(batch);
    unsigned shared = ek_broadcast_axes(own, batch);
    for (int i = 0; i < batch.ndim; i++) {
        int64_t size = batch.dim[i];
        stride = size ? stride / size : 0;
        if (shared >> i & 1) {
            r.shared_size[r.n_shared] = size;
            r.shared_stride[r.n_shared++] = stride;
            r.repeats *= size;
        } else {
            r.own_size[r.n_own] = size;
            r.own_stride[r.n_own++] = stride;
            r.count *= size;
        }
    }
    return r;
}

static ek_status matmul_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    const matmul_attributes *attributes = node->attributes;
    ek_shape a = node->in[0]->shape, b = node->in[1]->shape, batch;
    if (ek_need_float(node, 0) != EK_OK || ek_need_float(node, 1) != EK_OK)
        return EK_ERR_DTYPE;
    if (a.ndim < 2 || b.ndim < 2)
        return ek_fail(EK_ERR_SHAPE, "matmul: expected two matrices or batches of them, got %s and %s; ek_reshape() "
                                     "makes a vector a matrix of one row or column", EK_TEXT(a), EK_TEXT(b));
    int a_m = attributes->transpose_a ? 1 : 2, b_k = attributes->transpose_b ? 1 : 2;
    if (a.dim[a.ndim - 3 + a_m] != b.dim[b.ndim - b_k])
        return ek_fail(EK_ERR_SHAPE, "matmul: expected (…, M, K)·(…, K, N), got %s%s · %s%s: %lld columns against %lld "
                                     "rows", EK_TEXT(a), attributes->transpose_a ? "ᵀ" : "", EK_TEXT(b),
                       attributes->transpose_b ? "ᵀ" : "", (long long)a.dim[a.ndim - 3 + a_m],
                       (long long)b.dim[b.ndim - b_k]);
    ek_status status = ek_broadcast("matmul", leading_axes(a), leading_axes(b), &batch);
    if (status != EK_OK)
        return status;
    *shape = batch;
    shape->dim[shape->ndim++] = a.dim[a.ndim - a_m];
    shape->dim[shape->ndim++] = b.dim[b.ndim - 3 + b_k];
    return EK_OK;
}

#define OP_FILE "op_matmul.c"
#include "foreach_real.h"

/* Where an axis of a (i = 0) or b (1) is in the output; −1 for the one that is summed over. */
static int matmul_axis(const ek_node *node, int i, int axis)
{
    const matmul_attributes *attributes = node->attributes;
    const int ndim = node->in[i]->shape.ndim, out = node->out->shape.ndim;
    const bool rows = axis == ndim - 2, transposed = i == 0 ? attributes->transpose_a : attributes->transpose_b;
    if (axis < ndim - 2)
        return axis + out - ndim;
    return rows != (i == 0 ? !transposed : transposed) ? -1 : i == 0 ? out - 2 : out - 1;
}

/* Lengths on leading axes, on rows of op(a) or on columns of op(b) stay.  Where both rows and columns are steps, as in
 * the scores of attention, the rows' are carried. */
static ek_status matmul_lengths(const ek_node *node, const ek_lengths **lengths)
{
    for (int i = 0; i < 2; i++) {
        const ek_lengths *carried = ek_node_lengths(node, i);
        int batch = carried ? matmul_axis(node, i, carried->batch_axis) : -1;
        int time = carried ? matmul_axis(node, i, carried->time_axis) : -1;
        if (*lengths && ((*lengths)->batch_axis != batch || (*lengths)->time_axis != time))
            continue;
        ek_status status = ek_place_lengths(node, i, batch, time, lengths);
        if (status != EK_OK)
            return status;
    }
    return EK_OK;
}

static const ek_op matmul_op = {.name = "matmul", .infer = matmul_infer, .forward = EK_BY_DTYPE(matmul_forward),
                                .backward = EK_BY_DTYPE(matmul_backward), .lengths = matmul_lengths};
const ek_op *const ek_op_matmul = &matmul_op;

ek_tensor *ek_matmul(ek_tape *tape, ek_tensor *a, ek_tensor *b, bool transpose_a, bool transpose_b)
{
    matmul_attributes attributes = {transpose_a, transpose_b};
    return ek_apply(tape, ek_op_matmul, 2, (ek_tensor *[]){a, b}, &attributes, sizeof attributes);
}
#endif
