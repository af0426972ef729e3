/* BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167): statistics per channel over batch and space. */
#include "norm.h"

ek_batch_norm_opts ek_batch_norm_opts_default(void)
{
    return (ek_batch_norm_opts){.eps = 1e-5, .momentum = 0.1, .affine = true, .track_running_stats = true,
                                .statistics = EK_STATS_AUTO, .channel_axis = 1};
}

static ek_tensor *batch_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const channel_norm *norm = ek_module_state(module);
    const bool uses_running = ek_channel_norm_uses_running(module), updates = ek_channel_norm_updates_running(module);
    norm_input in;
    if (!ek_channel_norm_read(module, tape, x, &in))
        return NULL;
    if (in.n * in.s == 1 && (updates || !uses_running)) { /* one value by shape; by its lengths a batch may have one */
        ek_norm_refuse_single(module, x);
        return NULL;
    }
    if (uses_running && !updates)
        ek_channel_norm_warn_untracked(module);
    const ek_view view = ek_norm_view_per_channel(&in);
    const ek_normalize_opts opts = {.stats = view, .affine = view, .eps = norm->eps, .center = true,
                                    .relu = ek_module_takes_relu(module, tape),
                                    .mean = uses_running ? norm->running_mean : NULL,
                                    .var = uses_running ? norm->running_var : NULL};
    ek_normalize_stats stats;
    ek_tensor *y = ek_normalize(tape, in.x, norm->weight, norm->bias, NULL, NULL, &opts, updates ? &stats : NULL);
    if (y && updates) {
        const norm_batch batch = {.mean = stats.mean, .var = stats.var, .rows = 1,
                                  .count = in.rows * in.before * in.after};
        if (ek_channel_norm_update_later(module, tape, &batch) != EK_OK)
            return NULL;
    }
    return ek_norm_close(tape, &in, y);
}

bool ek_module_is_batch_norm(const ek_module *module)
{
    return module->def.forward == batch_norm_forward;
}

static bool batch_norm_at(const ek_module *module, int i, norm_traits *traits)
{
    ek_channel_norm_traits(module, traits);
    return i == 0;
}

static ek_module *batch_norm_new(const ek_module_def *def, int min_ndim, int max_ndim, int64_t num_features,
                                 const ek_batch_norm_opts *opts)
{
    ek_batch_norm_opts defaults = ek_batch_norm_opts_default();
    channel_norm_spec spec = {min_ndim, max_ndim, num_features, opts ? opts : &defaults, 1, 1, true};
    ek_module *module = ek_channel_norm_new(def, &spec);
    if (module)
        module->norm_at = batch_norm_at;
    return module;
}

static const ek_module_def batch_norm1d_def = {"batch_norm1d", batch_norm_forward, NULL, sizeof(channel_norm)};
static const ek_module_def batch_norm2d_def = {"batch_norm2d", batch_norm_forward, NULL, sizeof(channel_norm)};
static const ek_module_def batch_norm3d_def = {"batch_norm3d", batch_norm_forward, NULL, sizeof(channel_norm)};

ek_module *ek_batch_norm1d(int64_t num_features, const ek_batch_norm_opts *opts)
{
    return batch_norm_new(&batch_norm1d_def, 2, 3, num_features, opts);
}

ek_module *ek_batch_norm2d(int64_t num_features, const ek_batch_norm_opts *opts)
{
    return batch_norm_new(&batch_norm2d_def, 4, 4, num_features, opts);
}

ek_module *ek_batch_norm3d(int64_t num_features, const ek_batch_norm_opts *opts)
{
    return batch_norm_new(&batch_norm3d_def, 5, 5, num_features, opts);
}
