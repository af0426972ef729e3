#include "norm.h"

/* ---- options and construction ------------------------------------------------------------------------------------ */

bool ek_norm_eps_ok(const ek_module *module, double eps)
{
    if (eps >= 0 && !isinf(eps))
        return true;
    ek_fail(EK_ERR_ARGUMENT, "%s: expected a finite eps ≥ 0, got %g", module->description, eps);
    return false;
}

bool ek_norm_channel_axis_ok(const ek_module *module, int axis)
{
    if (axis == 1 || axis == EK_CHANNELS_LAST)
        return true;
    ek_fail(EK_ERR_ARGUMENT, "%s: expected channel_axis 1 or EK_CHANNELS_LAST, got %d", module->description, axis);
    return false;
}

static bool options_ok(const ek_module *module, const ek_batch_norm_opts *opts)
{
    if (!ek_norm_eps_ok(module, opts->eps) || !ek_norm_channel_axis_ok(module, opts->channel_axis))
        return false;
    if (!ek_running_options_ok(module, opts->momentum, opts->statistics))
        return false;
    if (!opts->track_running_stats && opts->statistics != EK_STATS_AUTO && opts->statistics != EK_STATS_BATCH) {
        ek_fail(EK_ERR_ARGUMENT, "%s: running statistics are to be used, but track_running_stats is off",
                module->description);
        return false;
    }
    return true;
}

/* ek_module_init: the running statistics start anew, and so does the count of batches they refused. */
static void forget_batches(ek_module *module)
{
    channel_norm *norm = ek_module_state(module);
    norm->non_finite_batches = 0;
}

static void note(const ek_module *module, char *text)
{
    const channel_norm *norm = ek_module_state(module);
    if (!norm->running_mean)
        snprintf(text, EK_NOTE_BYTES, "no running statistics: the input's own in evaluation too");
    else
        ek_running_describe(norm->momentum, norm->statistics, text);
}

/* Sets the choice, and what it means for a bias before the norm: running statistics do not take it away. */
static void choose_statistics(ek_module *module, ek_norm_statistics choice)
{
    channel_norm *norm = ek_module_state(module);
    norm->statistics = choice;
    const bool given = choice == EK_STATS_RUNNING || choice == EK_STATS_FROZEN;
    module->centers_axis = norm->centers && !given ? norm->channel_axis : 0;
}

ek_module *ek_channel_norm_new(const ek_module_def *def, const channel_norm_spec *spec)
{
    ek_module *module = ek_module_new(def, "%s(%lld)", def->type, (long long)spec->num_features);
    if (!module)
        return NULL;
    if (spec->num_features < 1) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected num_features ≥ 1, got %lld", def->type, (long long)spec->num_features);
        return ek_module_complete(module, false);
    }
    const ek_batch_norm_opts *opts = spec->opts;
    if (!options_ok(module, opts))
        return ek_module_complete(module, false);
    channel_norm *norm = ek_module_state(module);
    *norm = (channel_norm){.num_features = spec->num_features, .min_ndim = spec->min_ndim, .max_ndim = spec->max_ndim,
                           .channel_axis = opts->channel_axis, .eps = opts->eps, .momentum = opts->momentum,
                           .centers = spec->centers};
    choose_statistics(module, opts->statistics);
    const ek_shape channels = EK_SHAPE(spec->num_features);
    bool complete = true;
    if (opts->affine) {
        ek_init first = {spec->first_weight == 0 ? EK_INIT_ZEROS : EK_INIT_ONES, 0};
        norm->weight = ek_module_add_parameter(module, "weight", channels, first, false);
        norm->bias = ek_module_add_parameter(module, "bias", channels, (ek_init){EK_INIT_ZEROS, 0}, false);
        complete = norm->weight && norm->bias;
    }
    if (complete && opts->track_running_stats) {
        norm->running_mean = ek_module_add_buffer(module, "running_mean", EK_F32, channels, 0);
        norm->running_var = ek_module_add_buffer(module, "running_var", EK_F32, channels, spec->first_running_var);
        norm->num_batches_tracked = ek_module_add_buffer(module, "num_batches_tracked", EK_I64, EK_SCALAR, 0);
        complete = norm->running_mean && norm->running_var && norm->num_batches_tracked;
        module->choose_statistics = choose_statistics;
        module->non_finite_batches = &norm->non_finite_batches;
    }
    module->note = note;
    module->after_init = forget_batches;
    return ek_module_complete(module, complete);
}

/* ---- reading the input ------------------------------------------------------------------------------------------- */

bool ek_norm_dtype_ok(const ek_module *module, const ek_tensor *x)
{
    if (x->dtype == module->dtype)
        return true;
    ek_fail(EK_ERR_DTYPE, "%s: expected %s, the layer's own type, got %s; ek_tensor_cast() converts the input, "
                          "ek_module_to() the layer", module->description, ek_dtype_name(module->dtype),
            ek_dtype_name(x->dtype));
    return false;
}

/* "(N, 64, H, W)" for each rank that is accepted. */
static void expected_shapes(const channel_norm *norm, char *text, size_t bytes)
{
    static const char *const spaces[3] = {"L", "H, W", "D, H, W"};
    size_t used = 0;
    for (int ndim = norm->min_ndim; ndim <= norm->max_ndim; ndim++) {
        const char *space = ndim > 2 ? spaces[ndim - 3] : "";
        const char *comma = ndim > 2 ? ", " : "", *or = ndim > norm->min_ndim ? " or " : "";
        if (norm->channel_axis == 1)
            used += (size_t)snprintf(text + used, bytes - used, "%s(N, %lld%s%s)", or, (long long)norm->num_features,
                                     comma, space);
        else
            used += (size_t)snprintf(text + used, bytes - used, "%s(N, %s%s%lld)", or, space, comma,
                                     (long long)norm->num_features);
    }
}

void ek_norm_refuse_shape(const ek_module *module, const ek_tensor *x, const char *expected, bool rank_fits, int axis,
                          int64_t channels)
{
    const int ndim = x->shape.ndim, other = axis == 1 ? ndim - 1 : 1;
    if (rank_fits && ndim > 2 && x->shape.dim[axis] != channels && x->shape.dim[other] == channels)
        ek_fail(EK_ERR_SHAPE, "%s: expected %s, got %s, of which axis %d (%lld) was read as the channels; if axis %d "
                              "(%lld) holds them, set opts.channel_axis = %s", module->description, expected,
                EK_TEXT(x->shape), axis, (long long)x->shape.dim[axis], other, (long long)x->shape.dim[other],
                other == 1 ? "1" : "EK_CHANNELS_LAST");
    else
        ek_fail(EK_ERR_SHAPE, "%s: expected %s, got %s", module->description, expected, EK_TEXT(x->shape));
}

bool ek_channel_norm_read(const ek_module *module, const ek_tensor *x, norm_dims *dims)
{
    const channel_norm *norm = ek_module_state(module);
    const int ndim = x->shape.ndim, axis = norm->channel_axis == 1 ? 1 : ndim - 1;
    const bool rank_fits = ndim >= norm->min_ndim && ndim <= norm->max_ndim;
    if (!ek_norm_dtype_ok(module, x))
        return false;
    if (!rank_fits || x->shape.dim[axis] != norm->num_features) {
        char expected[160];
        expected_shapes(norm, expected, sizeof expected);
        ek_norm_refuse_shape(module, x, expected, rank_fits, axis, norm->num_features);
        return false;
    }
    *dims = (norm_dims){.n = x->shape.dim[0], .c = norm->num_features, .s = 1, .channels_last = axis != 1};
    for (int i = 1; i < ndim; i++)
        if (i != axis)
            dims->s *= x->shape.dim[i];
    return true;
}

void ek_norm_refuse_single(const ek_module *module, const ek_tensor *x)
{
    ek_fail(EK_ERR_SHAPE,
            "%s: expected more than one value per channel to take statistics of, got %s; use a larger batch (the "
            "loader's drop_last or merge_last), ek_module_eval(), or EK_STATS_FROZEN",
            module->description, EK_TEXT(x->shape));
}

ek_view ek_norm_view_per_channel(norm_dims d)
{
    return d.channels_last ? (ek_view){1, d.n * d.s, d.c, 1} : (ek_view){1, d.n, d.c, d.s};
}

ek_view ek_norm_view_per_sample_channel(norm_dims d)
{
    return d.channels_last ? (ek_view){d.n, d.s, d.c, 1} : (ek_view){d.n, 1, d.c, d.s};
}

/* ---- running statistics ------------------------------------------------------------------------------------------ */

bool ek_channel_norm_uses_running(const ek_module *module)
{
    const channel_norm *norm = ek_module_state(module);
    return norm->running_mean && ek_running_is_used(norm->statistics, module->training);
}

bool ek_channel_norm_updates_running(const ek_module *module)
{
    const channel_norm *norm = ek_module_state(module);
    return norm->running_mean && ek_running_is_updated(norm->statistics, module->training);
}

void ek_channel_norm_warn_untracked(const ek_module *module)
{
    const channel_norm *norm = ek_module_state(module);
    if (ek_item(norm->num_batches_tracked) != 0)
        return;
    for (int64_t i = 0; i < norm->num_features; i++) /* a file without the counter may have brought statistics */
        if (ek_tensor_at(norm->running_mean, i) != 0)
            return;
    ek_warn("%s: normalizing by running statistics that no batch has updated yet: train first, or load them",
            module->description);
}

/* The batch's statistics, on the tape until the forward ends. */
typedef struct pending_update {
    const double *mean, *var;
    int64_t rows;
    double correction;
} pending_update;

/* Mean over the rows of one channel's statistic. */
static double pooled(const double *table, int64_t rows, int64_t channels, int64_t channel)
{
    double sum = 0;
    for (int64_t r = 0; r < rows; r++)
        sum += table[r * channels + channel];
    return sum / (double)rows;
}

static void update(ek_module *module, const void *data, bool succeeded)
{
    const pending_update *batch = data;
    channel_norm *norm = ek_module_state(module);
    const int64_t channels = norm->num_features;
    if (!succeeded)
        return;
    for (int64_t c = 0; c < channels; c++)
        if (!ek_running_fits(norm->running_mean, pooled(batch->mean, batch->rows, channels, c)) ||
            !ek_running_fits(norm->running_var, batch->correction * pooled(batch->var, batch->rows, channels, c))) {
            norm->non_finite_batches++;
            ek_running_warn_refused(module, "channel", c, norm->non_finite_batches);
            return;
        }
    int64_t *count = norm->num_batches_tracked->data;
    ++*count;
    const double fraction = ek_running_fraction(norm->momentum, *count);
    for (int64_t c = 0; c < channels; c++) {
       ek_running_move(norm->running_mean, c, fraction, pooled(batch->mean, batch->rows, channels, c));
       ek_running_move(norm->running_var, c, fraction, batch->correction * pooled(batch->var, batch->rows, channels, c));
    }
}

ek_status ek_channel_norm_update_later(ek_module *module, ek_tape *tape, const ek_normalize_stats *stats, int64_t rows,
                                    double correction)
{
    pending_update batch = {.mean = stats->mean, .var = stats->var, .rows = rows, .correction = correction};
    return ek_after_forward(tape, module, update, &batch, sizeof batch);
}
