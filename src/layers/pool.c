/* Pooling layers: the ops with their sizes remembered. */
#include "module.h"

typedef struct pool {
    int dims; /* of space: 1 or 2 */
    bool max;
    int64_t kernel;
    ek_pool_opts opts;
    int64_t out[2]; /* of adaptive pooling */
} pool;

static ek_status check_rank(const ek_module *module, const ek_tensor *x, int dims)
{
    if (x->shape.ndim == dims + 2)
        return EK_OK;
    return ek_fail(EK_ERR_SHAPE, "%s: expected (N, C, %s), got %s: ek_reshape() puts axes in or out",
                   module->description, dims == 1 ? "L" : "H, W", EK_TEXT(x->shape));
}

static ek_tensor *pool_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const pool *layer = ek_module_state(module);
    if (check_rank(module, x, layer->dims) != EK_OK)
        return NULL;
    if (layer->dims == 1)
        return (layer->max ? ek_max_pool1d : ek_avg_pool1d)(tape, x, layer->kernel, &layer->opts);
    return (layer->max ? ek_max_pool2d : ek_avg_pool2d)(tape, x, layer->kernel, layer->kernel, &layer->opts);
}

static const ek_module_def pool_defs[2][2] = {
    {{.type = "avg_pool1d", .forward = pool_forward, .state_bytes = sizeof(pool)},
     {.type = "avg_pool2d", .forward = pool_forward, .state_bytes = sizeof(pool)}},
    {{.type = "max_pool1d", .forward = pool_forward, .state_bytes = sizeof(pool)},
     {.type = "max_pool2d", .forward = pool_forward, .state_bytes = sizeof(pool)}},
};

static ek_status check_options(const char *who, int dims, int64_t kernel, const ek_pool_opts *opts)
{
    ek_status status = ek_check_sizes(who, "kernel", &kernel, 1, 1);
    for (int i = 0; status == EK_OK && i < dims; i++) {
        if (opts->stride[i] < 1 && opts->stride[i] != EK_STRIDE_IS_KERNEL)
            status = ek_fail(EK_ERR_ARGUMENT, "%s: expected a stride of 1 or more, or EK_STRIDE_IS_KERNEL, got %lld",
                             who, (long long)opts->stride[i]);
        else if (opts->padding[i] < 0 || opts->padding[i] > kernel / 2)
            status = ek_fail(EK_ERR_ARGUMENT, "%s: expected a padding of 0 to half the kernel, %lld, got %lld", who,
                             (long long)(kernel / 2), (long long)opts->padding[i]);
    }
    return status;
}

static ek_module *make_pool(int dims, bool max, int64_t kernel, const ek_pool_opts *given)
{
    ek_pool_opts opts = given ? *given : ek_pool_opts_default();
    const ek_module_def *def = &pool_defs[max][dims - 1];
    if (check_options(def->type, dims, kernel, &opts) != EK_OK)
        return NULL;
    char options[160] = "";
    ek_describe_option(options, sizeof options, "stride", opts.stride, dims, EK_STRIDE_IS_KERNEL);
    ek_describe_option(options, sizeof options, "padding", opts.padding, dims, 0);
    ek_module *module = ek_module_new(def, "%s(%lld%s)", def->type, (long long)kernel, options);
    if (module)
        *(pool *)ek_module_state(module) = (pool){.dims = dims, .max = max, .kernel = kernel, .opts = opts};
    return module;
}

ek_module *ek_max_pool1d_layer(int64_t kernel, const ek_pool_opts *opts)
{
    return make_pool(1, true, kernel, opts);
}

ek_module *ek_max_pool2d_layer(int64_t kernel, const ek_pool_opts *opts)
{
    return make_pool(2, true, kernel, opts);
}

ek_module *ek_avg_pool1d_layer(int64_t kernel, const ek_pool_opts *opts)
{
    return make_pool(1, false, kernel, opts);
}

ek_module *ek_avg_pool2d_layer(int64_t kernel, const ek_pool_opts *opts)
{
    return make_pool(2, false, kernel, opts);
}

/* ---- adaptive --------------------------------------------------------------------------------------------------- */

static ek_tensor *adaptive_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const pool *layer = ek_module_state(module);
    if (check_rank(module, x, layer->dims) != EK_OK)
        return NULL;
    return layer->dims == 1 ? ek_adaptive_avg_pool1d(tape, x, layer->out[0])
                            : ek_adaptive_avg_pool2d(tape, x, layer->out[0], layer->out[1]);
}

static const ek_module_def adaptive_defs[] = {
    {.type = "adaptive_avg_pool1d", .forward = adaptive_forward, .state_bytes = sizeof(pool)},
    {.type = "adaptive_avg_pool2d", .forward = adaptive_forward, .state_bytes = sizeof(pool)},
};

static ek_module *make_adaptive(int dims, int64_t out_h, int64_t out_w)
{
    const ek_module_def *def = &adaptive_defs[dims - 1];
    pool layer = {.dims = dims, .out = {out_h, out_w}};
    if (ek_check_sizes(def->type, "output size", layer.out, dims, 1) != EK_OK)
        return NULL;
    char sizes[48];
    ek_describe_sizes(sizes, sizeof sizes, layer.out, dims);
    ek_module *module = ek_module_new(def, "%s(%s)", def->type, sizes);
    if (module)
        *(pool *)ek_module_state(module) = layer;
    return module;
}

ek_module *ek_adaptive_avg_pool1d_layer(int64_t out)
{
    return make_adaptive(1, out, 0);
}

ek_module *ek_adaptive_avg_pool2d_layer(int64_t out_h, int64_t out_w)
{
    return make_adaptive(2, out_h, out_w);
}

/* ---- over time -------------------------------------------------------------------------------------------------- */

typedef struct time_pool {
    int time_axis;
    ek_time_pooling pooling;
} time_pool;

static ek_tensor *time_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const time_pool *layer = ek_module_state(module);
    return ek_pool_time(tape, x, layer->time_axis, layer->pooling);
}

static const ek_module_def time_def = {.type = "pool_time", .forward = time_forward, .state_bytes = sizeof(time_pool)};

ek_module *ek_pool_time_layer(int time_axis, ek_time_pooling pooling)
{
    static const char *const names[] = {[EK_POOL_MEAN] = "mean", [EK_POOL_MAX] = "max", [EK_POOL_LAST] = "last"};
    if (ek_need_time_pooling(time_def.type, pooling) != EK_OK)
        return NULL;
    ek_module *module = ek_module_new(&time_def, "%s(%s, axis=%d)", time_def.type, names[pooling], time_axis);
    if (module)
        *(time_pool *)ek_module_state(module) = (time_pool){.time_axis = time_axis, .pooling = pooling};
    return module;
}
