/* SwitchableNorm (Luo et al. 2018, arXiv:1806.10779): a learned mixture of the statistics of IN, LN and BN. */
#include "norm.h"

typedef struct switchable_norm {
    channel_norm base; /* first: norm.c reads it */
    bool batch, reference;
    ek_tensor *mean_weight, *var_weight;
} switchable_norm;

ek_switchable_norm_opts ek_switchable_norm_opts_default(void)
{
    return (ek_switchable_norm_opts){.eps = 1e-5, .momentum = 0.1, .affine = true, .batch = true,
                                     .statistics = EK_STATS_AUTO, .channel_axis = 1};
}

/* Are there enough values for every variance that this layer mixes? */
static bool enough_values(const ek_module *module, const ek_tensor *x, const norm_input *in, bool batch_statistics)
{
    const switchable_norm *norm = ek_module_state(module);
    const bool plane = norm->base.min_ndim > 2;
    if (plane && in->s == 1 && !x->lengths)
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one element of space per sample and channel, got %s; use "
                              "switchable_norm1d on (N, C)", module->description, EK_TEXT(x->shape));
    else if (!plane && norm->reference && in->c == 1)
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one channel for an unbiased variance over channels, got %s",
                module->description, EK_TEXT(x->shape));
    else if (!plane && batch_statistics && in->n == 1)
        ek_norm_refuse_single(module, x);
    else
        return true;
    return false;
}

static ek_tensor *switchable_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const switchable_norm *norm = ek_module_state(module);
    const channel_norm *base = &norm->base;
    const bool uses_running = ek_channel_norm_uses_running(module), updates = ek_channel_norm_updates_running(module);
    norm_input in;
    if (!ek_channel_norm_read(module, tape, x, &in) ||
        !enough_values(module, x, &in, norm->batch && (updates || !uses_running)))
        return NULL;
    if (uses_running && !updates)
        ek_channel_norm_warn_untracked(module);
    const ek_switch_opts mix = {.instance = base->min_ndim > 2, .batch = norm->batch, .unbiased = norm->reference,
                                .running_mean = uses_running ? base->running_mean : NULL,
                                .running_var = uses_running ? base->running_var : NULL};
    ek_normalize_opts opts = {.affine = ek_norm_view_per_channel(&in), .eps = base->eps, .center = true,
                              .relu = ek_module_takes_relu(module, tape), .switchable = &mix};
    if (!ek_norm_view_per_sample(tape, &in, in.before, in.c, in.after, &opts))
        return NULL;
    ek_normalize_stats stats;
    ek_tensor *y = ek_normalize(tape, in.x, base->weight, base->bias, norm->mean_weight, norm->var_weight, &opts,
                                updates ? &stats : NULL);
    if (y && updates) {
        const norm_batch batch = {.mean = stats.mean, .var = stats.var, .rows = 1,
                                  .count = in.rows * in.before * in.after, .as_it_is = norm->reference};
        if (ek_channel_norm_update_later(module, tape, &batch) != EK_OK)
            return NULL;
    }
    return ek_norm_close(tape, &in, y);
}

static bool switchable_norm_at(const ek_module *module, int i, norm_traits *traits)
{
    const switchable_norm *norm = ek_module_state(module);
    ek_channel_norm_traits(module, traits);
    traits->groups = GROUPS_MIXED;
    traits->reference = norm->reference;
    traits->instance = norm->base.min_ndim > 2;
    traits->batch = norm->batch;
    traits->mean_weight = norm->mean_weight;
    traits->var_weight = norm->var_weight;
    return i == 0;
}

static ek_module *switchable_norm_new(const ek_module_def *def, int ndim, int64_t num_features,
                                      const ek_switchable_norm_opts *opts)
{
    ek_switchable_norm_opts defaults = ek_switchable_norm_opts_default();
    opts = opts ? opts : &defaults;
    ek_batch_norm_opts common = {.eps = opts->eps, .momentum = opts->momentum, .affine = opts->affine,
                                 .track_running_stats = opts->batch, .statistics = opts->statistics,
                                 .channel_axis = opts->channel_axis, .r_max = 1};
    channel_norm_spec spec = {ndim, ndim, num_features, &common, opts->last_gamma ? 0 : 1, opts->reference ? 0 : 1,
                              false, false};
    ek_module *module = ek_channel_norm_new(def, &spec);
    if (!module)
        return NULL;
    switchable_norm *norm = ek_module_state(module);
    norm->batch = opts->batch;
    norm->reference = opts->reference;
    module->norm_at = switchable_norm_at;
    const ek_shape weights = EK_SHAPE(1 + (ndim > 2) + opts->batch);
    norm->mean_weight = ek_module_add_parameter(module, "mean_weight", weights, (ek_init){EK_INIT_ONES, 0}, false);
    norm->var_weight = ek_module_add_parameter(module, "var_weight", weights, (ek_init){EK_INIT_ONES, 0}, false);
    return ek_module_complete(module, norm->mean_weight && norm->var_weight);
}

static const ek_module_def switchable_norm1d_def = {"switchable_norm1d", switchable_norm_forward, NULL,
                                                    sizeof(switchable_norm)};
static const ek_module_def switchable_norm2d_def = {"switchable_norm2d", switchable_norm_forward, NULL,
                                                    sizeof(switchable_norm)};
static const ek_module_def switchable_norm3d_def = {"switchable_norm3d", switchable_norm_forward, NULL,
                                                    sizeof(switchable_norm)};
static const ek_module_def switchable_norm_sequence_def = {"switchable_norm_sequence", switchable_norm_forward, NULL,
                                                           sizeof(switchable_norm)};

ek_module *ek_switchable_norm1d(int64_t num_features, const ek_switchable_norm_opts *opts)
{
    return switchable_norm_new(&switchable_norm1d_def, 2, num_features, opts);
}

ek_module *ek_switchable_norm2d(int64_t num_features, const ek_switchable_norm_opts *opts)
{
    return switchable_norm_new(&switchable_norm2d_def, 4, num_features, opts);
}

ek_module *ek_switchable_norm3d(int64_t num_features, const ek_switchable_norm_opts *opts)
{
    return switchable_norm_new(&switchable_norm3d_def, 5, num_features, opts);
}

ek_module *ek_switchable_norm_sequence(int64_t num_features, const ek_switchable_norm_opts *opts)
{
    return switchable_norm_new(&switchable_norm_sequence_def, 3, num_features, opts);
}
