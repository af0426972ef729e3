/* oneDNN's side of a comparison: its BatchNorm and LayerNorm primitives, made once, executed over and over on the
 * same buffers.  `peer_onednn blocked` takes the channels in blocks (nChw16c, or nChw8c without AVX-512), as its
 * convolutions would hand them over: reordering is not timed.  BatchNorm's ReLU is the primitive's own. */
#include <dnnl.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

#include "worker.h"

enum { MOST_MEMORIES = 12 };

static struct {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool blocked, train;
    dnnl_primitive_t forward, backward;
    int n;
    dnnl_exec_arg_t args[MOST_MEMORIES]; /* of both directions; a primitive looks for those it knows */
    dnnl_memory_desc_t plain;
} state;

static void need(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success)
        bench_die("oneDNN", what);
}

static const char *about(void)
{
    static char text[80];
    const dnnl_version_t *v = dnnl_version();
    snprintf(text, sizeof text, "oneDNN %d.%d.%d%s", v->major, v->minor, v->patch,
             !state.blocked ? "" : __builtin_cpu_supports("avx512f") ? ", nChw16c" : ", nChw8c");
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
        dnnl_memory_t memory;
        need(dnnl_memory_create(&memory, md, state.engine, DNNL_MEMORY_ALLOCATE), "memory");
        void *data;
        need(dnnl_memory_get_data_handle(memory, &data), "memory");
        memset(data, 0, dnnl_memory_desc_get_size(md));
        state.args[state.n++] = (dnnl_exec_arg_t){all[i], memory};
    }
}

static void execute(dnnl_primitive_t primitive, int n, const dnnl_exec_arg_t *args)
{
    need(dnnl_primitive_execute(primitive, state.stream, n, args), "a primitive failed");
    need(dnnl_stream_wait(state.stream), "a primitive failed");
}

static void reorder(dnnl_memory_t from, dnnl_memory_t to)
{
    const dnnl_memory_desc_t *source, *target;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    need(dnnl_memory_get_memory_desc(from, &source), "reorder");
    need(dnnl_memory_get_memory_desc(to, &target), "reorder");
    need(dnnl_reorder_primitive_desc_create(&desc, source, state.engine, target, state.engine, NULL), "reorder");
    need(dnnl_primitive_create(&primitive, desc), "reorder");
    execute(primitive, 2, (dnnl_exec_arg_t[]){{DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}});
    dnnl_primitive_destroy(primitive);
    dnnl_primitive_desc_destroy(desc);
}

/* Plain memory of the tensor's shape, to fill or to read. */
static dnnl_memory_t plain_memory(float **data)
{
    dnnl_memory_t memory;
    void *handle;
    need(dnnl_memory_create(&memory, &state.plain, state.engine, DNNL_MEMORY_ALLOCATE), "memory");
    need(dnnl_memory_get_data_handle(memory, &handle), "memory");
    *data = handle;
    return memory;
}

static void fill(int arg, int64_t n, bool is_dy)
{
    float *values;
    if (!memory_of(arg))
        return;
    dnnl_memory_t memory = plain_memory(&values);
    bench_fill(values, n, is_dy);
    reorder(memory, memory_of(arg));
    dnnl_memory_destroy(memory);
}

static double mean_absolute(int arg)
{
    float *values;
    int64_t n = 1;
    for (int i = 0; i < state.plain.ndims; i++)
        n *= state.plain.dims[i];
    dnnl_memory_t memory = plain_memory(&values);
    reorder(memory_of(arg), memory);
    const double mean = bench_mean_absolute(values, n);
    dnnl_memory_destroy(memory);
    return mean;
}

static void discard(void)
{
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
    need(dnnl_primitive_desc_create(desc, op, NULL, state.engine, hint), "there is no such primitive");
    need(dnnl_primitive_create(&primitive, *desc), "there is no such primitive");
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
    if (state.blocked)
        need(dnnl_memory_desc_init_by_tag(&md, c->ndim, c->dim, dnnl_f32, blocks), "shape");
    dnnl_batch_normalization_desc_t forward, backward;
    need(dnnl_batch_normalization_forward_desc_init(&forward, dnnl_forward_training, &md, 1e-5f, flags), "BatchNorm");
    need(dnnl_batch_normalization_backward_desc_init(&backward, dnnl_backward, &md, &md, 1e-5f, flags), "BatchNorm");
    make_primitives(&forward, &backward);
}

/* Over the last axis: what `last` axes there are have been joined. */
static void make_layer_norm(int ndim, const dnnl_dim_t *dim)
{
    dnnl_memory_desc_t stat;
    dnnl_layer_normalization_desc_t forward, backward;
    need(dnnl_memory_desc_init_by_tag(&stat, ndim - 1, dim, dnnl_f32, ndim == 2 ? dnnl_a : dnnl_ab), "shape");
    need(dnnl_layer_normalization_forward_desc_init(&forward, dnnl_forward_training, &state.plain, &stat, 1e-5f,
                                                    dnnl_use_scaleshift), "LayerNorm");
    need(dnnl_layer_normalization_backward_desc_init(&backward, dnnl_backward, &state.plain, &state.plain, &stat, 1e-5f,
                                                     dnnl_use_scaleshift), "LayerNorm");
    make_primitives(&forward, &backward);
}

static bool prepare(const bench_case *c)
{
    const bool batch = !strcmp(c->kind, "bn"), layer = !strcmp(c->kind, "ln");
    discard();
    if ((!batch && !layer) || c->ndim < 2 || (layer && (c->relu || state.blocked)) || (state.blocked && c->ndim != 4))
        return false;
    omp_set_num_threads(c->threads);
    state.train = c->train;
    const int last = batch ? 1 : (int)bench_option(c, "last", 1), ndim = c->ndim - last + 1;
    static const dnnl_format_tag_t row_major[] = {dnnl_ab, dnnl_abc, dnnl_abcd};
    dnnl_dim_t dim[BENCH_MAX_NDIM];
    for (int i = 0; i < ndim; i++)
        dim[i] = c->dim[i];
    for (int i = ndim; i < c->ndim; i++)
        dim[ndim - 1] *= c->dim[i];
    need(dnnl_memory_desc_init_by_tag(&state.plain, ndim, dim, dnnl_f32, row_major[ndim - 2]), "shape");
    if (batch)
        make_batch_norm(c);
    else
        make_layer_norm(ndim, dim);
    fill(DNNL_ARG_SRC, c->numel, false);
    fill(DNNL_ARG_DIFF_DST, c->numel, true);
    void *scale_shift;
    need(dnnl_memory_get_data_handle(memory_of(DNNL_ARG_SCALE_SHIFT), &scale_shift), "memory");
    const int64_t parameters = batch ? dim[1] : dim[ndim - 1];
    for (int64_t i = 0; i < parameters; i++)
        ((float *)scale_shift)[i] = 1;
    return true;
}

static void step(void)
{
    execute(state.forward, state.n, state.args);
    if (state.train)
        execute(state.backward, state.n, state.args);
}

static void check(double *a, double *b)
{
    step();
    *a = mean_absolute(DNNL_ARG_DST);
    *b = state.train ? mean_absolute(DNNL_ARG_DIFF_SRC) : 0;
}

int main(int argc, char **argv)
{
    state.blocked = argc > 1 && !strcmp(argv[1], "blocked");
    need(dnnl_engine_create(&state.engine, dnnl_cpu, 0), "engine");
    need(dnnl_stream_create(&state.stream, state.engine, dnnl_stream_default_flags), "stream");
    const int status = bench_serve(&(bench_worker){about, prepare, step, check, NULL});
    discard();
    dnnl_stream_destroy(state.stream);
    dnnl_engine_destroy(state.engine);
    return status;
}
