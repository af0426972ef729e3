#include "norm_layer.h"

#include <string.h>

ek_shape bench_shape(const bench_case *c)
{
    ek_shape shape = {.ndim = c->ndim};
    memcpy(shape.dim, c->dim, sizeof shape.dim);
    return shape;
}

/* Option `latest`: running statistics are those of the last batch, in InstanceNorm too. */
static ek_batch_norm_opts statistics_options(const bench_case *c, ek_batch_norm_opts opts)
{
    if (bench_option(c, "latest", 0)) {
        opts.track_running_stats = true;
        opts.momentum = 1;
    }
    return opts;
}

ek_module *bench_norm(const bench_case *c)
{
    const int64_t channels = c->ndim > 1 ? c->dim[1] : 0;
    if (!strcmp(c->kind, "bn")) {
        const ek_batch_norm_opts opts = statistics_options(c, ek_batch_norm_opts_default());
        return c->ndim == 4 ? ek_batch_norm2d(channels, &opts) : ek_batch_norm1d(channels, &opts);
    }
    if (!strcmp(c->kind, "gn"))
        return ek_group_norm(bench_option(c, "groups", 1), channels, NULL);
    if (!strcmp(c->kind, "sn"))
        return ek_switchable_norm2d(channels, NULL);
    if (!strcmp(c->kind, "in") || !strcmp(c->kind, "in_affine")) {
        ek_instance_norm_opts opts = statistics_options(c, ek_instance_norm_opts_default());
        opts.affine = !strcmp(c->kind, "in_affine");
        return ek_instance_norm2d(channels, &opts);
    }
    if (strcmp(c->kind, "ln") != 0)
        return NULL;
    ek_shape normalized = {.ndim = (int)bench_option(c, "last", 1)};
    for (int i = 0; i < normalized.ndim; i++)
        normalized.dim[i] = c->dim[c->ndim - normalized.ndim + i];
    return ek_layer_norm(normalized, NULL);
}
