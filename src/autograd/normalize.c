/* What `normalize` takes: its options and the shapes of its inputs.  The op itself is in op_normalize.c. */
#include "normalize.h"

static ek_status need_vector(const ek_node *node, int i, const char *name, int64_t length)
{
    const ek_tensor *t = node->in[i];
    if (!t)
        return EK_OK;
    if (ek_need_float(node, i) != EK_OK)
        return EK_ERR_DTYPE;
    if (t->numel != length)
        return ek_fail(EK_ERR_SHAPE, "normalize: expected a %s of %lld elements, got %s", name, (long long)length,
                       EK_TEXT(t->shape));
    return EK_OK;
}

static ek_status need_constant(const ek_node *node, const ek_tensor *t, const char *name, int64_t length)
{
    if (t && (t->dtype != node->in[0]->dtype || t->numel != length))
        return ek_fail(t->numel != length ? EK_ERR_SHAPE : EK_ERR_DTYPE,
                       "normalize: expected a %s of %lld elements of %s, got %s %s", name, (long long)length,
                       ek_dtype_name(node->in[0]->dtype), ek_dtype_name(t->dtype), EK_TEXT(t->shape));
    return EK_OK;
}

ek_status ek_norm_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* those of x */
    (void)shape;
    normalize_attributes *attr = node->attributes;
    ek_status status = ek_need_float(node, 0);
    const int64_t groups = attr->plan.groups, affine = attr->plan.affine_groups, channels = attr->plan.stats.group;
    if (status == EK_OK)
        status = need_vector(node, 1, "weight", affine);
    if (status == EK_OK)
        status = need_vector(node, 2, "bias", affine);
    if (status == EK_OK)
        status = need_constant(node, attr->mean, "mean", groups);
    if (status == EK_OK)
        status = need_constant(node, attr->var, "var", groups);
    for (int i = 3; i <= 4 && status == EK_OK; i++) {
        if (attr->switchable != (node->in[i] != NULL))
            return ek_fail(EK_ERR_ARGUMENT, "normalize: a switchable norm, and no other, needs mean_weight and "
                                            "var_weight");
        status = need_vector(node, i, i == 3 ? "mean_weight" : "var_weight", attr->n_weights);
    }
    if (status == EK_OK)
        status = need_constant(node, attr->running_mean, "running_mean", channels);
    if (status == EK_OK)
        status = need_constant(node, attr->running_var, "running_var", channels);
    return status;
}

static ek_status check_options(const ek_normalize_opts *opts)
{
    if (!opts)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: the options, which hold the views, are NULL");
    if (!(opts->eps >= 0) || isinf(opts->eps))
        return ek_fail(EK_ERR_ARGUMENT, "normalize: expected a finite eps ≥ 0, got %g", opts->eps);
    if (!opts->mean != !opts->var)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: mean and var are given together or not at all");
    const ek_switch_opts *mix = opts->switchable;
    if (!mix)
        return EK_OK;
    if (opts->mean || !opts->center)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: a switchable norm mixes centered statistics of its own; running "
                                        "ones go into ek_switch_opts");
    if (!mix->running_mean != !mix->running_var)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: running_mean and running_var are given together or not at all");
    return EK_OK;
}

/* Elements of a sample in one channel, where that is the most. */
static int64_t largest_plane(const ek_normalize_opts *opts)
{
    int64_t most = opts->stats_outer ? 0 : opts->stats.outer;
    for (int64_t b = 0; opts->stats_outer && b < opts->stats.batch; b++)
        most = opts->stats_outer[b] > most ? opts->stats_outer[b] : most;
    return most * opts->stats.inner;
}

ek_tensor *ek_normalize(ek_tape *tape, ek_tensor *x, ek_tensor *weight, ek_tensor *bias, ek_tensor *mean_weight,
                        ek_tensor *var_weight, const ek_normalize_opts *opts, ek_normalize_stats *stats)
{
    if (!ek_tape_usable(tape, "normalize"))
        return NULL;
    if (check_options(opts) != EK_OK)
        return ek_tape_fail(tape);
    normalize_attributes attr = {.eps = opts->eps, .center = opts->center, .mean = opts->mean, .var = opts->var,
                                 .relu = opts->relu, .stats = stats};
    if (x && ek_norm_plan_make(&attr.plan, tape, x->numel, opts, weight || bias) != EK_OK)
        return ek_tape_fail(tape);
    if (opts->switchable) {
        const ek_switch_opts *mix = opts->switchable;
        attr.switchable = true;
        attr.mix = (switch_saved){.n = opts->stats.batch, .c = opts->stats.group, .s = largest_plane(opts),
                                  .outer = attr.plan.ragged ? attr.plan.ragged->outer : NULL,
                                  .inner = opts->stats.inner, .instance = mix->instance, .batch = mix->batch,
                                  .unbiased = mix->unbiased};
        attr.n_weights = 1 + mix->instance + mix->batch;
        attr.running_mean = mix->running_mean;
        attr.running_var = mix->running_var;
    }
    if (stats)
        *stats = (ek_normalize_stats){0};
    ek_tensor *in[5] = {x, weight, bias, mean_weight, var_weight};
    return ek_apply(tape, ek_op_normalize, 5, in, &attr, sizeof attr);
}
