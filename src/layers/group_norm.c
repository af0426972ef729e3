/* GroupNorm (Wu and He 2018, arXiv:1803.08494): statistics per sample over each group of channels. */
#include "norm.h"

typedef struct group_norm {
    int64_t num_groups, num_channels;
    int channel_axis;
    double eps;
    ek_tensor *weight, *bias;
} group_norm;

ek_group_norm_opts ek_group_norm_opts_default(void)
{
    return (ek_group_norm_opts){.eps = 1e-5, .affine = true, .channel_axis = 1};
}

static ek_tensor *group_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const group_norm *norm = ek_module_state(module);
    const int ndim = x->shape.ndim, axis = norm->channel_axis == 1 ? 1 : ndim - 1;
    if (!ek_norm_dtype_ok(module, x))
        return NULL;
    if (ndim < 2 || x->shape.dim[axis] != norm->num_channels) {
        char expected[64];
        snprintf(expected, sizeof expected, norm->channel_axis == 1 ? "(N, %lld, …)" : "(N, …, %lld)",
                 (long long)norm->num_channels);
        ek_norm_refuse_shape(module, x, expected, ndim >= 2, axis, norm->num_channels);
        return NULL;
    }
    const int64_t g = norm->num_groups, channels = norm->num_channels / g;
    norm_input in;
    if (!ek_norm_open(module, tape, x, axis, 1, &in))
        return NULL;
    if (!x->lengths && channels * in.s == 1) {
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one element per group, got %s with %lld groups of one; use fewer "
                              "groups", module->description, EK_TEXT(x->shape), (long long)g);
        return NULL;
    }
    ek_normalize_opts opts = {.affine = ek_norm_view_per_channel(&in), .eps = norm->eps, .center = true,
                              .relu = ek_module_takes_relu(module, tape)};
    if (!ek_norm_view_per_sample(tape, &in, in.before, g, channels * in.after, &opts))
        return NULL;
    return ek_norm_close(tape, &in, ek_normalize(tape, in.x, norm->weight, norm->bias, NULL, NULL, &opts, NULL));
}

static bool group_norm_at(const ek_module *module, int i, norm_traits *traits)
{
    const group_norm *norm = ek_module_state(module);
    *traits = (norm_traits){.groups = GROUPS_PER_SAMPLE, .eps = norm->eps, .channel_axis = norm->channel_axis,
                            .channels = norm->num_channels, .channels_per_group = norm->num_channels / norm->num_groups,
                            .center = true, .weight = norm->weight, .bias = norm->bias};
    return i == 0;
}

static const ek_module_def group_norm_def = {"group_norm", group_norm_forward, NULL, sizeof(group_norm)};

ek_module *ek_group_norm(int64_t num_groups, int64_t num_channels, const ek_group_norm_opts *opts)
{
    ek_group_norm_opts defaults = ek_group_norm_opts_default();
    opts = opts ? opts : &defaults;
    if (num_groups < 1 || num_channels < 1 || num_channels % num_groups != 0) {
        ek_fail(EK_ERR_SHAPE, "group_norm(%lld, %lld): expected num_groups ≥ 1 that divides num_channels ≥ 1",
                (long long)num_groups, (long long)num_channels);
        return NULL;
    }
    ek_module *module = ek_module_new(&group_norm_def, "group_norm(%lld, %lld)", (long long)num_groups,
                                      (long long)num_channels);
    if (!module)
        return NULL;
    if (!ek_norm_eps_ok(module, opts->eps) || !ek_norm_channel_axis_ok(module, opts->channel_axis))
        return ek_module_complete(module, false);
    module->norm_at = group_norm_at;
    group_norm *norm = ek_module_state(module);
    *norm = (group_norm){num_groups, num_channels, opts->channel_axis, opts->eps, NULL, NULL};
    if (opts->affine) {
        const ek_shape channels = EK_SHAPE(num_channels);
        norm->weight = ek_module_add_parameter(module, "weight", channels, (ek_init){EK_INIT_ONES, 0}, false);
        norm->bias = ek_module_add_parameter(module, "bias", channels, (ek_init){EK_INIT_ZEROS, 0}, false);
    }
    module->takes_relu = true;
    return ek_module_complete(module, !opts->affine || (norm->weight && norm->bias));
}
