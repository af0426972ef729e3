/* `conv IN_OUT_SIDE_bBATCH` by oneDNN's primitives, each in the layout that it chooses.  `blocked` times the primitives
 * alone; otherwise tensors are row-major before and after, and the reorders are part of a step, as in a framework that
 * keeps its tensors so. */
#include <stdio.h>
#include <string.h>

#include "onednn.h"

/* The tensors of a convolution, and the arguments that they are. */
enum { X, W, B, Y, DX, DW, DB, DY, TENSORS };
enum { FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, PRIMITIVES, MOST_ARGUMENTS = 4 };

/* Argument and tensor of each primitive, inputs first. */
static const struct {
    int n, inputs;
    struct {
        int arg, tensor;
    } of[MOST_ARGUMENTS];
} signature[PRIMITIVES] = {
    {4, 3, {{DNNL_ARG_SRC, X}, {DNNL_ARG_WEIGHTS, W}, {DNNL_ARG_BIAS, B}, {DNNL_ARG_DST, Y}}},
    {3, 2, {{DNNL_ARG_DIFF_DST, DY}, {DNNL_ARG_WEIGHTS, W}, {DNNL_ARG_DIFF_SRC, DX}}},
    {4, 2, {{DNNL_ARG_DIFF_DST, DY}, {DNNL_ARG_SRC, X}, {DNNL_ARG_DIFF_WEIGHTS, DW}, {DNNL_ARG_DIFF_BIAS, DB}}},
};

static struct {
    bool train;
    dnnl_memory_t plain[TENSORS]; /* row-major */
    struct {
        dnnl_primitive_t primitive;
        dnnl_exec_arg_t args[MOST_ARGUMENTS];     /* memory in the primitive's layout: `plain` where that is the same */
        dnnl_primitive_t reorder[MOST_ARGUMENTS]; /* between the two; NULL where there is nothing to do */
    } of[PRIMITIVES];
} conv;

void onednn_conv_discard(void)
{
    for (int p = 0; p < PRIMITIVES; p++) {
        for (int i = 0; conv.of[p].primitive && i < signature[p].n; i++) {
            if (conv.of[p].args[i].memory != conv.plain[signature[p].of[i].tensor])
                dnnl_memory_destroy(conv.of[p].args[i].memory);
            if (conv.of[p].reorder[i])
                dnnl_primitive_destroy(conv.of[p].reorder[i]);
        }
        if (conv.of[p].primitive)
            dnnl_primitive_destroy(conv.of[p].primitive);
    }
    for (int t = 0; t < TENSORS; t++)
        if (conv.plain[t])
            dnnl_memory_destroy(conv.plain[t]);
    memset(&conv, 0, sizeof conv);
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

static dnnl_memory_desc_t describe(int ndim, const dnnl_dim_t *dim, dnnl_format_tag_t tag)
{
    dnnl_memory_desc_t md;
    onednn_need(dnnl_memory_desc_init_by_tag(&md, ndim, dim, dnnl_f32, tag), "shape");
    return md;
}

/* Memory for the arguments, and the reorders to and from row-major memory. */
static void make_primitive(int p, const_dnnl_op_desc_t op, const_dnnl_primitive_desc_t hint,
                           dnnl_primitive_desc_t *desc)
{
    onednn_need(dnnl_primitive_desc_create(desc, op, NULL, onednn_state.engine, hint), "there is no such primitive");
    onednn_need(dnnl_primitive_create(&conv.of[p].primitive, *desc), "there is no such primitive");
    for (int i = 0; i < signature[p].n; i++) {
        const int arg = signature[p].of[i].arg;
        dnnl_memory_t plain = conv.plain[signature[p].of[i].tensor], own = plain;
        const dnnl_memory_desc_t *wanted = dnnl_primitive_desc_query_md(*desc, dnnl_query_exec_arg_md, arg), *is;
        onednn_need(dnnl_memory_get_memory_desc(plain, &is), "memory");
        if (!dnnl_memory_desc_equal(wanted, is)) {
            own = onednn_memory(wanted);
            const bool input = i < signature[p].inputs;
            conv.of[p].reorder[i] = onednn_reorder_primitive(input ? plain : own, input ? own : plain);
            if (input)
                onednn_reorder(plain, own);
        }
        conv.of[p].args[i] = (dnnl_exec_arg_t){arg, own};
    }
}

static void make_primitives(const dnnl_dim_t *x, const dnnl_dim_t *w, const dnnl_dim_t *y)
{
    static const dnnl_dims_t one = {1, 1};
    const dnnl_memory_desc_t x_any = describe(4, x, dnnl_format_tag_any), w_any = describe(4, w, dnnl_format_tag_any),
                             y_any = describe(4, y, dnnl_format_tag_any), b = describe(1, w, dnnl_a);
    dnnl_convolution_desc_t forward, data, weights;
    dnnl_primitive_desc_t hint, desc;
    onednn_need(dnnl_convolution_forward_desc_init(&forward, dnnl_forward_training, dnnl_convolution_direct, &x_any,
                                                   &w_any, &b, &y_any, one, one, one), "convolution");
    make_primitive(FORWARD, &forward, NULL, &hint);
    if (conv.train) {
        onednn_need(dnnl_convolution_backward_data_desc_init(&data, dnnl_convolution_direct, &x_any, &w_any, &y_any,
                                                             one, one, one), "convolution");
        make_primitive(BACKWARD_DATA, &data, hint, &desc);
        dnnl_primitive_desc_destroy(desc);
        onednn_need(dnnl_convolution_backward_weights_desc_init(&weights, dnnl_convolution_direct, &x_any, &w_any, &b,
                                                                &y_any, one, one, one), "convolution");
        make_primitive(BACKWARD_WEIGHTS, &weights, hint, &desc);
        dnnl_primitive_desc_destroy(desc);
    }
    dnnl_primitive_desc_destroy(hint);
}

static int64_t count(int ndim, const dnnl_dim_t *dim)
{
    int64_t n = 1;
    for (int i = 0; i < ndim; i++)
        n *= dim[i];
    return n;
}

bool onednn_conv_prepare(const bench_case *c)
{
    long long in, out, side;
    if (strcmp(c->kind, "conv") != 0 || sscanf(c->size, "%lld_%lld_%lld", &in, &out, &side) != 3)
        return false;
    const dnnl_dim_t batch = bench_size(c, 'b', 1), x[] = {batch, in, side, side}, w[] = {out, in, 3, 3},
                     y[] = {batch, out, side, side}, *const dims[TENSORS] = {x, w, w, y, x, w, w, y};
    conv.train = c->train;
    for (int t = 0; t < TENSORS; t++) {
        const int ndim = t == B || t == DB ? 1 : 4; /* [out] */
        const dnnl_memory_desc_t md = describe(ndim, dims[t], ndim == 1 ? dnnl_a : dnnl_abcd);
        conv.plain[t] = onednn_memory(&md);
        if (t < Y || t == DY)
            bench_fill(onednn_data(conv.plain[t]), count(ndim, dims[t]), t != X);
    }
    make_primitives(x, w, y);
    return true;
}

/* ---- a step ------------------------------------------------------------------------------------------------------ */

static void reorder(int p, int i)
{
    const dnnl_memory_t plain = conv.plain[signature[p].of[i].tensor], own = conv.of[p].args[i].memory;
    const bool input = i < signature[p].inputs;
    if (conv.of[p].reorder[i])
        onednn_execute(conv.of[p].reorder[i], 2, (dnnl_exec_arg_t[]){{DNNL_ARG_FROM, input ? plain : own},
                                                                     {DNNL_ARG_TO, input ? own : plain}});
}

static void run(bool reorders)
{
    for (int p = 0; p < (conv.train ? PRIMITIVES : 1); p++) {
        for (int i = 0; reorders && i < signature[p].inputs; i++)
            reorder(p, i);
        onednn_execute(conv.of[p].primitive, signature[p].n, conv.of[p].args);
        for (int i = signature[p].inputs; reorders && i < signature[p].n; i++)
            reorder(p, i);
    }
}

void onednn_conv_step(void)
{
    run(!onednn_state.blocked);
}

static double mean_absolute(int tensor)
{
    const dnnl_memory_desc_t *md;
    onednn_need(dnnl_memory_get_memory_desc(conv.plain[tensor], &md), "memory");
    return bench_mean_absolute(onednn_data(conv.plain[tensor]), count(md->ndims, md->dims));
}

void onednn_conv_check(double *a, double *b)
{
    run(true);
    *a = mean_absolute(Y);
    *b = conv.train ? mean_absolute(DX) * mean_absolute(DW) * mean_absolute(DB) : 0;
}
