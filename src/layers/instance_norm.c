/* InstanceNorm (Ulyanov, Vedaldi, Lempitsky 2016, arXiv:1607.08022): statistics per sample and channel over space. */
#include "norm.h"

ek_instance_norm_opts ek_instance_norm_opts_default(void)
{
    return (ek_instance_norm_opts){.eps = 1e-5, .momentum = 0.1, .affine = false, .track_running_stats = false,
                                   .statistics = EK_STATS_AUTO, .channel_axis = 1, .r_max = 1};
}

static ek_tensor *instance_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const channel_norm *norm = ek_module_state(module);
    const bool uses_running = ek_channel_norm_uses_running(module), updates = ek_channel_norm_updates_running(module);
    norm_input in;
    if (!ek_channel_norm_read(module, tape, x, &in))
        return NULL;
    if (!x->lengths && in.s == 1 && (updates || !uses_running)) {
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one element of space per sample and channel, got %s; there is "
                              "nothing to normalize over: leave the norm out here, or use another",
                module->description, EK_TEXT(x->shape));
        return NULL;
    }
    if (uses_running && !updates)
        ek_channel_norm_warn_untracked(module);
    const ek_view channels = ek_norm_view_per_channel(&in);
    ek_normalize_opts per_sample = {.affine = channels, .eps = norm->eps, .center = true}, opts;
    if (!ek_norm_view_per_sample(tape, &in, in.before, in.c, in.after, &per_sample))
        return NULL;
    /* Running statistics are per channel: with them the layer does what BatchNorm does in evaluation. */
    const ek_normalize_opts running = {.stats = channels, .affine = channels, .eps = norm->eps, .center = true,
                                       .mean = norm->running_mean, .var = norm->running_var};
    opts = uses_running ? running : per_sample;
    opts.relu = ek_module_takes_relu(module, tape);
    ek_normalize_stats instances;
    const bool same_pass = updates && !uses_running;
    ek_tensor *y = ek_normalize(tape, in.x, norm->weight, norm->bias, NULL, NULL, &opts, same_pass ? &instances : NULL);
    if (y && updates && !same_pass) { /* EK_STATS_RUNNING: the instances' statistics only feed the running ones */
        ek_tensor *values = ek_detach(tape, in.x);
        if (!values || !ek_normalize(tape, values, NULL, NULL, NULL, NULL, &per_sample, &instances))
            return NULL;
    }
    if (y && updates) {
        const norm_batch batch = {.mean = instances.mean, .var = instances.var, .rows = in.n,
                                  .count = in.before * in.after, .per_sample = true,
                                  .length = in.packed ? in.packed->lengths->length : NULL};
        if (ek_channel_norm_update_later(module, tape, &batch) != EK_OK)
            return NULL;
    }
    return ek_norm_close(tape, &in, y);
}

static bool instance_norm_at(const ek_module *module, int i, norm_traits *traits)
{
    ek_channel_norm_traits(module, traits);
    traits->groups = GROUPS_PER_SAMPLE;
    return i == 0;
}

static ek_module *instance_norm_new(const ek_module_def *def, int ndim, int64_t num_features,
                                    const ek_instance_norm_opts *opts)
{
    ek_instance_norm_opts defaults = ek_instance_norm_opts_default();
    channel_norm_spec spec = {ndim, ndim, num_features, opts ? opts : &defaults, 1, 1, true, false};
    ek_module *module = ek_channel_norm_new(def, &spec);
    if (module)
        module->norm_at = instance_norm_at;
    return module;
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
