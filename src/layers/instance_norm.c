/* InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022): statistics per sample and channel over space. */
#include "norm.h"

ek_instance_norm_opts ek_instance_norm_opts_default(void)
{
    return (ek_instance_norm_opts){.eps = 1e-5, .momentum = 0.1, .affine = false, .track_running_stats = false,
                                   .statistics = EK_STATS_AUTO, .channel_axis = 1};
}

static ek_tensor *instance_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const channel_norm *norm = ek_module_state(module);
    const bool uses_running = ek_channel_norm_uses_running(module), updates = ek_channel_norm_updates_running(module);
    norm_dims d;
    if (!ek_channel_norm_read(module, x, &d))
        return NULL;
    if (d.s == 1 && (updates || !uses_running)) {
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one element of space per sample and channel, got %s; there is "
                              "nothing to normalize over: leave the norm out here, or use another",
                module->description, EK_TEXT(x->shape));
        return NULL;
    }
    if (uses_running && !updates)
        ek_channel_norm_warn_untracked(module);
    /* Running statistics are per channel: with them the layer does what BatchNorm does in evaluation. */
    const ek_normalize_opts opts = {
        .stats = uses_running ? ek_norm_view_per_channel(d) : ek_norm_view_per_sample_channel(d),
        .affine = ek_norm_view_per_channel(d),
        .eps = norm->eps,
        .center = true,
        .mean = uses_running ? norm->running_mean : NULL,
        .var = uses_running ? norm->running_var : NULL,
    };
    ek_normalize_stats instances;
    const bool same_pass = updates && !uses_running;
    ek_tensor *y = ek_normalize(tape, x, norm->weight, norm->bias, NULL, NULL, &opts, same_pass ? &instances : NULL);
    if (y && updates && !same_pass) { /* EK_STATS_RUNNING: the instances' statistics only feed the running ones */
        ek_normalize_opts look = opts;
        look.stats = ek_norm_view_per_sample_channel(d);
        look.mean = look.var = NULL;
        ek_tensor *values = ek_detach(tape, x);
        if (!values || !ek_normalize(tape, values, NULL, NULL, NULL, NULL, &look, &instances))
            return NULL;
    }
    if (y && updates && d.n * d.s > 0 &&
        ek_channel_norm_update_later(module, tape, &instances, d.n, (double)d.s / (double)(d.s - 1)) != EK_OK)
        return NULL;
    return y;
}

static ek_module *instance_norm_new(const ek_module_def *def, int ndim, int64_t num_features,
                                    const ek_instance_norm_opts *opts)
{
    ek_instance_norm_opts defaults = ek_instance_norm_opts_default();
    channel_norm_spec spec = {ndim, ndim, num_features, opts ? opts : &defaults, 1, 1, true};
    return ek_channel_norm_new(def, &spec);
}

static const ek_module_def instance_norm1d_def = {"instance_norm1d", instance_norm_forward, NULL, sizeof(channel_norm)};
static const ek_module_def instance_norm2d_def = {"instance_norm2d", instance_norm_forward, NULL, sizeof(channel_norm)};
static const ek_module_def instance_norm3d_def = {"instance_norm3d", instance_norm_forward, NULL, sizeof(channel_norm)};

ek_module *ek_instance_norm1d(int64_t num_features, const ek_instance_norm_opts *opts)
{
    return instance_norm_new(&instance_norm1d_def, 3, num_features, opts);
}

ek_module *ek_instance_norm2d(int64_t num_features, const ek_instance_norm_opts *opts)
{
    return instance_norm_new(&instance_norm2d_def, 4, num_features, opts);
}

ek_module *ek_instance_norm3d(int64_t num_features, const ek_instance_norm_opts *opts)
{
    return instance_norm_new(&instance_norm3d_def, 5, num_features, opts);
}
