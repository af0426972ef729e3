/* oneDNN's side of a comparison: its BatchNorm and LayerNorm primitives, and convolutions (onednn_conv.c), made once,
 * executed over and over on the same buffers.  `peer_onednn blocked` takes the channels in blocks (nChw16c, or nChw8c
 * without AVX-512), as its convolutions would hand them over: reordering is not timed.  BatchNorm's ReLU is the
 * primitive's own. */
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "onednn.h"

enum { MOST_MEMORIES = 12 };

onednn onednn_state;

static struct {
    bool train, conv; /* a convolution, which is made elsewhere */
    dnnl_primitive_t forward, backward;
    int n;
    dnnl_exec_arg_t args[MOST_MEMORIES]; /* of both directions; a primitive looks for those it knows */
    dnnl_memory_desc_t plain;
} state;

void onednn_need(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success)
        bench_die("oneDNN", what);
}

static const char *about(void)
{
    static char text[80];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d%s", v->major, v->minor, v->patch,
             !onednn_state.blocked ? "" : __builtin_cpu_supports("avx512f") ? ", nChw16c" : ", nChw8c");
    return text;
}

static dnnl_memory_t memory_of(int arg)
{
    for (int i = 0; i < state.n; i++)
        if (state.args[i].arg == arg)
            return state.args[i].memory;
    return NULL;
}

/* Memory for every argument of this primitive that has none yet. */
static void make_memories(const_dnnl_primitive_desc_t desc)
{
    static const int all[] = {DNNL_ARG_SRC, DNNL_ARG_DST, DNNL_ARG_MEAN, DNNL_ARG_VARIANCE, DNNL_ARG_SCALE_SHIFT,
                              DNNL_ARG_WORKSPACE, DNNL_ARG_DIFF_SRC, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_SCALE_SHIFT};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        const dnnl_memory_desc_t *md = dnnl_primitive_desc_query_md(desc, dnnl_query_exec_arg_md, all[i]);
        if (!md || md->ndims == 0 || memory_of(all[i]))
            continue;
        state.args[state.n++] = (dnnl_exec_arg_t){all[i], onednn_memory(md)};
    }
}

void onednn_execute(dnnl_primitive_t primitive, int n, const dnnl_exec_arg_t *args)
{
    onednn_need(dnnl_primitive_execute(primitive, onednn_state.stream, n, args), "a primitive failed");
    onednn_need(dnnl_stream_wait(onednn_state.stream), "a primitive failed");
}

dnnl_memory_t onednn_memory(const dnnl_memory_desc_t *md)
{
    dnnl_memory_t memory;
    onednn_need(dnnl_memory_create(&memory, md, onednn_state.engine, DNNL_MEMORY_ALLOCATE), "memory");
    memset(onednn_data(memory), 0, dnnl_memory_desc_get_size(md));
    return memory;
}

float *onednn_data(dnnl_memory_t memory)
{
    void *handle;
    onednn_need(dnnl_memory_get_data_handle(memory, &handle), "memory");
    return handle;
}

dnnl_primitive_t onednn_reorder_primitive(dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_memory_desc_t *source, *target;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    onednn_need(dnnl_memory_get_memory_desc(from, &source), "reorder");
    onednn_need(dnnl_memory_get_memory_desc(to, &target), "reorder");
    onednn_need(dnnl_reorder_primitive_desc_create(&desc, source, onednn_state.engine, target, onednn_state.engine,
                                                   NULL), "reorder");
    onednn_need(dnnl_primitive_create(&primitive, desc), "reorder");
    dnnl_primitive_desc_destroy(desc);
    return primitive;
}

void onednn_reorder(dnnl_memory_t from, dnnl_memory_t to)
{
    dnnl_primitive_t primitive = onednn_reorder_primitive(from, to);
    onednn_execute(primitive, 2, (dnnl_exec_arg_t[]){{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
    dnnl_primitive_destroy(primitive);
}

static void fill(int arg, int64_t n, bool is_dy)
{
    if (!memory_of(arg))
        return;
    dnnl_memory_t memory = onednn_memory(&state.plain);
    bench_fill(onednn_data(memory), n, is_dy);
    onednn_reorder(memory, memory_of(arg));
    dnnl_memory_destroy(memory);
}

static double mean_absolute(int arg)
{
    int64_t n = 1;
    for (int i = 0; i < state.plain.ndims; i++)
        n *= state.plain.dims[i];
    dnnl_memory_t memory = onednn_memory(&state.plain);
    onednn_reorder(memory_of(arg), memory);
    const double mean = bench_mean_absolute(onednn_data(memory), n);
    dnnl_memory_destroy(memory);
    return mean;
}

static void discard(void)
{
    onednn_conv_discard();
    for (int i = 0; i < state.n; i++)
        dnnl_memory_destroy(state.args[i].memory);
    state.n = 0;
    if (state.forward)
        dnnl_primitive_destroy(state.forward);
    if (state.backward)
        dnnl_primitive_destroy(state.backward);
    state.forward = state.backward = NULL;
}

/* A primitive and its memory from an operation descriptor. */
static dnnl_primitive_t make_primitive(const_dnnl_op_desc_t op, const_dnnl_primitive_desc_t hint,
                                       dnnl_primitive_desc_t *desc)
{
    dnnl_primitive_t primitive;
    onednn_need(dnnl_primitive_desc_create(desc, op, NULL, onednn_state.engine, hint), "there is no such primitive");
    onednn_need(dnnl_primitive_create(&primitive, *desc), "there is no such primitive");
    make_memories(*desc);
    return primitive;
}

static void make_primitives(const_dnnl_op_desc_t forward, const_dnnl_op_desc_t backward)
{
    dnnl_primitive_desc_t hint, desc;
    state.forward = make_primitive(forward, NULL, &hint);
    if (state.train) {
        state.backward = make_primitive(backward, hint, &desc);
        dnnl_primitive_desc_destroy(desc);
    }
    dnnl_primitive_desc_destroy(hint);
}

static void make_batch_norm(const bench_case *c)
{
    const dnnl_format_tag_t blocks = __builtin_cpu_supports("avx512f") ? dnnl_nChw16c : dnnl_nChw8c;
    const unsigned flags = dnnl_use_scaleshift | (c->relu ? dnnl_fuse_norm_relu : 0u);
    dnnl_memory_desc_t md = state.plain;
    if (onednn_state.blocked)
        onednn_need(dnnl_memory_desc_init_by_tag(&md, c->ndim, c->dim, dnnl_f32, blocks), "shape");
    dnnl_batch_normalization_desc_t forward, backward;
    onednn_need(dnnl_batch_normalization_forward_desc_init(&forward, dnnl_forward_training, &md, 1e-5f, flags), "BatchNorm");
    onednn_need(dnnl_batch_normalization_backward_desc_init(&backward, dnnl_backward, &md, &md, 1e-5f, flags), "BatchNorm");
    make_primitives(&forward, &backward);
}

/* Over the last axis: what `last` axes there are have been joined. */
static void make_layer_norm(int ndim, const dnnl_dim_t *dim)
{
    dnnl_memory_desc_t stat;
    dnnl_layer_normalization_desc_t forward, backward;
    onednn_need(dnnl_memory_desc_init_by_tag(&stat, ndim - 1, dim, dnnl_f32, ndim == 2 ? dnnl_a : dnnl_ab), "shape");
    onednn_need(dnnl_layer_normalization_forward_desc_init(&forward, dnnl_forward_training, &state.plain, &stat, 1e-5f,
                                                    dnnl_use_scaleshift), "LayerNorm");
    onednn_need(dnnl_layer_normalization_backward_desc_init(&backward, dnnl_backward, &state.plain, &state.plain, &stat, 1e-5f,
                                                     dnnl_use_scaleshift), "LayerNorm");
    make_primitives(&forward, &backward);
}

static bool prepare(const bench_case *c)
{
    const bool batch = !strcmp(c->kind, "bn"), layer = !strcmp(c->kind, "ln");
    discard();
    omp_set_num_threads(c->threads);
    state.conv = onednn_conv_prepare(c);
    if (state.conv)
        return true;
    if ((!batch && !layer) || c->ndim < 2 || (layer && (c->relu || onednn_state.blocked)) || (onednn_state.blocked && c->ndim != 4))
        return false;
    state.train = c->train;
    const int last = batch ? 1 : (int)bench_option(c, "last", 1), ndim = c->ndim - last + 1;
    static const dnnl_format_tag_t row_major[] = {dnnl_ab, dnnl_abc, dnnl_abcd};
    dnnl_dim_t dim[BENCH_MAX_NDIM];
    for (int i = 0; i < ndim; i++)
        dim[i] = c->dim[i];
    for (int i = ndim; i < c->ndim; i++)
        dim[ndim - 1] *= c->dim[i];
    onednn_need(dnnl_memory_desc_init_by_tag(&state.plain, ndim, dim, dnnl_f32, row_major[ndim - 2]), "shape");
    if (batch)
        make_batch_norm(c);
    else
        make_layer_norm(ndim, dim);
    fill(DNNL_ARG_SRC, c->numel, false);
    fill(DNNL_ARG_DIFF_DST, c->numel, true);
    float *scale_shift = onednn_data(memory_of(DNNL_ARG_SCALE_SHIFT));
    const int64_t parameters = batch ? dim[1] : dim[ndim - 1];
    for (int64_t i = 0; i < parameters; i++)
        scale_shift[i] = 1;
    return true;
}

static void step(void)
{
    if (state.conv) {
        onednn_conv_step();
        return;
    }
    onednn_execute(state.forward, state.n, state.args);
    if (state.train)
        onednn_execute(state.backward, state.n, state.args);
}

static void check(double *a, double *b)
{
    if (state.conv) {
        onednn_conv_check(a, b);
        return;
    }
    step();
    *a = mean_absolute(DNNL_ARG_DST);
    *b = state.train ? mean_absolute(DNNL_ARG_DIFF_SRC) : 0;
}

int main(int argc, char **argv)
{
    onednn_state.blocked = argc > 1 && !strcmp(argv[1], "blocked");
    onednn_need(dnnl_engine_create(&onednn_state.engine, dnnl_cpu, 0), "engine");
    onednn_need(dnnl_stream_create(&onednn_state.stream, onednn_state.engine, dnnl_stream_default_flags), "stream");
    const int status = bench_serve(&(bench_worker){about, prepare, step, check, NULL});
    discard();
    dnnl_stream_destroy(onednn_state.stream);
    dnnl_engine_destroy(onednn_state.engine);
    return status;
}
