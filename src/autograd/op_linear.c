/* y = x·wᵀ + b over the last axis.  Expands to linear_forward_f32, linear_backward_f32 and their _f64 twins. */
#ifdef REAL

/* x [m, k], w [n, k], b [n] or none, y [m, n]: y = x·wᵀ + b. */
static ek_status FN(linear_forward)(ek_node *node)
{
    const linear_sizes s = linear_find(node);
    REAL *y = node->out->data;
    if (node->in[2])
        ek_copy_blocks(s.m, (size_t)s.n * sizeof(REAL), node->in[2]->data, 0, y, (size_t)s.n * sizeof(REAL));
    return FN(ek_node_gemm)(node, false, true, s.m, s.n, s.k, node->in[0]->data, s.k, node->in[1]->data, s.k, y, s.n,
                            node->in[2] != NULL);
}

/* dx = dy·w, dw = dyᵀ·x, db = Σ_rows dy.  dy [m, n]; the rest as above. */
static ek_status FN(linear_backward)(ek_node *node)
{
    const linear_sizes s = linear_find(node);
    const REAL *x = node->in[0]->data, *w = node->in[1]->data, *dy = ek_node_grad_out(node);
    REAL *dx = ek_node_grad_in(node, 0), *dw = ek_node_grad_in(node, 1);
    REAL *db = node->in[2] ? ek_node_grad_in(node, 2) : NULL;
    ek_status status = EK_OK;
    if (dx)
        status = FN(ek_node_gemm)(node, false, false, s.m, s.k, s.n, dy, s.n, w, s.k, dx, s.k, false);
    if (dw && status == EK_OK)
        status = FN(ek_node_gemm)(node, true, false, s.n, s.k, s.m, dy, s.n, x, s.k, dw, s.k, false);
    if (db && status == EK_OK)
        status = FN(ek_reduce_sum)(node, dy, EK_SHAPE(s.m, s.n), 1u << 0, 1, db);
    return status;
}

#else
#include "op.h"

typedef struct linear_sizes {
    int64_t m, n, k; /* rows of x, outputs, inputs */
} linear_sizes;

static linear_sizes linear_find(const ek_node *node)
{
    ek_shape x = node->in[0]->shape, w = node->in[1]->shape;
    linear_sizes s = {1, w.dim[0], w.dim[1]};
    for (int i = 0; i + 1 < x.ndim; i++)
        s.m *= x.dim[i];
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
#endif
