/* BatchNorm (Ioffe and Szegedy 2015, arXiv:1502.03167): statistics per channel over batch and space; over ghost batches
 * (Hoffer, Hubara, Soudry 2017, arXiv:1705.08741); corrected toward the running ones (Ioffe 2017, arXiv:1702.03275). */
#include "norm.h"

typedef struct batch_norm {
    channel_norm base; /* first: norm.c reads it */
    int64_t ghost_batch_size;
    double r_max, d_max;
} batch_norm;

ek_batch_norm_opts ek_batch_norm_opts_default(void)
{
    return (ek_batch_norm_opts){.eps = 1e-5, .momentum = 0.1, .affine = true, .track_running_stats = true,
                                .statistics = EK_STATS_AUTO, .channel_axis = 1, .ghost_batch_size = 0, .r_max = 1,
                                .d_max = 0};
}

/* Gives opts and batch the statistics of ghosts, where there is more than one.  False with a failure. */
static bool split_ghosts(const ek_module *module, ek_tape *tape, const ek_tensor *x, const norm_input *in,
                         ek_normalize_opts *opts, norm_batch *batch)
{
    const batch_norm *norm = ek_module_state(module);
    const int64_t size = norm->ghost_batch_size, *length = in->packed ? in->packed->lengths->length : NULL;
    if (size * in->s == 1) {
        ek_fail(EK_ERR_SHAPE, "%s: expected more than one value per channel in a ghost batch, got ghost_batch_size 1 "
                              "and %s; use a larger one", module->description, EK_TEXT(x->shape));
        return false;
    }
    int64_t ghosts = (in->n - 1) / size + 1, *outer = ek_tape_alloc(tape, (size_t)ghosts * sizeof *outer);
    if (!outer)
        return false;
    for (int64_t g = 0; g < ghosts; g++) {
        const int64_t first = g * size, samples = in->n - first < size ? in->n - first : size;
        int64_t rows = length ? 0 : samples;
        for (int64_t i = first; length && i < first + samples; i++)
            rows += length[i];
        outer[g] = rows * in->before;
    }
    if (outer[ghosts - 1] * in->after == 1) {
        ghosts--;
        outer[ghosts - 1]++;
    }
    if (ghosts == 1)
        return true;
    const bool alike = !length && outer[ghosts - 1] == outer[0];
    opts->stats.batch = ghosts;
    opts->stats.outer = alike ? outer[0] : 0;
    opts->stats_outer = alike ? NULL : outer;
    batch->rows = ghosts;
    batch->length = outer;
    batch->count = in->after;
    return true;
}

/* NaN stays. */
static double clip(double value, double low, double high)
{
    return value < low ? low : value > high ? high : value;
}

/* r and d, [C] each. */
static void correct(const ek_module *module, const ek_normalize_stats *stats, ek_tensor *r, ek_tensor *d)
{
    const batch_norm *norm = ek_module_state(module);
    const double eps = norm->base.eps, r_max = norm->r_max, d_max = norm->d_max;
    for (int64_t c = 0; c < norm->base.num_features; c++) {
        const double mean = ek_tensor_at(norm->base.running_mean, c);
        const double sigma = sqrt(ek_tensor_at(norm->base.running_var, c) + eps);
        const bool none = sigma == 0;
        ek_running_set(r, c, none ? 1 : clip(sqrt(stats->var[c] + eps) / sigma, 1 / r_max, r_max));
        ek_running_set(d, c, none ? 0 : clip((stats->mean[c] - mean) / sigma, -d_max, d_max));
    }
}

static ek_tensor *constant_new(const ek_module *module, ek_tape *tape, int64_t n)
{
    ek_tensor *t = ek_tape_tensor(tape, module->dtype, EK_SHAPE(n), n);
    void *data = t ? ek_tape_alloc(tape, (size_t)n * ek_dtype_size(module->dtype)) : NULL;
    if (!data)
        return NULL;
    t->data = data;
    return t;
}

/* γ·(x̂·r + d) + β = (γ·r)·x̂ + (γ·d + β): batch renormalization is another weight and bias, which need the statistics
 * beforehand. */
static bool renormalize(const ek_module *module, ek_tape *tape, const norm_input *in, ek_tensor **weight,
                        ek_tensor **bias)
{
    const channel_norm *norm = ek_module_state(module);
    const ek_normalize_opts opts = {.stats = ek_norm_view_per_channel(in), .eps = norm->eps, .center = true};
    ek_normalize_stats stats;
    ek_tensor *values = ek_detach(tape, in->x);
    if (!values || !ek_normalize(tape, values, NULL, NULL, NULL, NULL, &opts, &stats))
        return false;
    ek_tensor *r = constant_new(module, tape, norm->num_features), *d = constant_new(module, tape, norm->num_features);
    if (!r || !d)
        return ek_tape_fail(tape);
    correct(module, &stats, r, d);
    *weight = norm->weight ? ek_mul(tape, norm->weight, r) : r;
    *bias = norm->weight ? ek_add(tape, ek_mul(tape, norm->weight, d), norm->bias) : d;
    return *weight && *bias;
}

static ek_tensor *batch_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const batch_norm *state = ek_module_state(module);
    const channel_norm *norm = &state->base;
    const bool uses_running = ek_channel_norm_uses_running(module), updates = ek_channel_norm_updates_running(module);
    norm_input in;
    if (!ek_channel_norm_read(module, tape, x, &in))
        return NULL;
    if (!x->lengths && in.n * in.s == 1 && (updates || !uses_running)) { /* by its lengths a batch may have one */
        ek_norm_refuse_single(module, x);
        return NULL;
    }
    if (uses_running && !updates)
        ek_channel_norm_warn_untracked(module);
    const ek_view view = ek_norm_view_per_channel(&in);
    ek_normalize_opts opts = {.stats = view, .affine = view, .eps = norm->eps, .center = true,
                              .relu = ek_module_takes_relu(module, tape),
                              .mean = uses_running ? norm->running_mean : NULL,
                              .var = uses_running ? norm->running_var : NULL};
    norm_batch batch = {.rows = 1, .count = in.rows * in.before * in.after};
    ek_tensor *weight = norm->weight, *bias = norm->bias;
    const bool adapts = module->training && !uses_running && !module->pooled;
    if (adapts && state->ghost_batch_size && in.n > state->ghost_batch_size &&
        !split_ghosts(module, tape, x, &in, &opts, &batch))
        return NULL;
    if (adapts && (state->r_max != 1 || state->d_max != 0) && batch.count > 1 &&
        !renormalize(module, tape, &in, &weight, &bias))
        return NULL;
    ek_normalize_stats stats;
    ek_tensor *y = ek_normalize(tape, in.x, weight, bias, NULL, NULL, &opts, updates ? &stats : NULL);
    if (y && updates) {
        batch.mean = stats.mean;
        batch.var = stats.var;
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

ek_status ek_batch_norm_set_renorm(ek_module *module, double r_max, double d_max)
{
    if (!module)
        return ek_fail_null(EK_ERR_ARGUMENT, "batch_norm_set_renorm", "module");
    if (!(r_max >= 1) || !(d_max >= 0))
        return ek_fail(EK_ERR_ARGUMENT, "batch_norm_set_renorm: expected r_max ≥ 1 and d_max ≥ 0, got %g and %g",
                       r_max, d_max);
    bool any = false;
    for (int pass = 0; pass < 2; pass++) /* all are asked before any is set */
        for (ek_module *m = module; m; m = ek_module_next(module, m)) {
            if (!ek_module_is_batch_norm(m))
                continue;
            batch_norm *norm = ek_module_state(m);
            any = true;
            if ((r_max != 1 || d_max != 0) && (!norm->base.running_mean || norm->ghost_batch_size))
                return ek_fail(EK_ERR_ARGUMENT, "batch_norm_set_renorm: %s %s", m->description,
                               norm->ghost_batch_size
                                   ? "has ghost batches, which batch renormalization does not go with"
                                   : "keeps no running statistics to renormalize by");
            if (pass) {
                norm->r_max = r_max;
                norm->d_max = d_max;
            }
        }
    return any ? EK_OK : ek_fail(EK_ERR_ARGUMENT, "batch_norm_set_renorm: no BatchNorm at or below %s",
                                 module->description);
}

static ek_module *batch_norm_new(const ek_module_def *def, int min_ndim, int max_ndim, int64_t num_features,
                                 const ek_batch_norm_opts *opts)
{
    const ek_batch_norm_opts defaults = ek_batch_norm_opts_default();
    opts = opts ? opts : &defaults;
    const channel_norm_spec spec = {min_ndim, max_ndim, num_features, opts, 1, 1, true, true};
    ek_module *module = ek_channel_norm_new(def, &spec);
    if (!module)
        return NULL;
    batch_norm *norm = ek_module_state(module);
    norm->ghost_batch_size = opts->ghost_batch_size;
    norm->r_max = opts->r_max;
    norm->d_max = opts->d_max;
    module->norm_at = batch_norm_at;
    return module;
}

static const ek_module_def batch_norm1d_def = {"batch_norm1d", batch_norm_forward, NULL, sizeof(batch_norm)};
static const ek_module_def batch_norm2d_def = {"batch_norm2d", batch_norm_forward, NULL, sizeof(batch_norm)};
static const ek_module_def batch_norm3d_def = {"batch_norm3d", batch_norm_forward, NULL, sizeof(batch_norm)};

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
