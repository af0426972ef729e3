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

/* The options that are BatchNorm's alone. */
static bool batch_options_ok(const ek_module *module, const ek_batch_norm_opts *opts, bool batch_norm)
{
    const bool renormalizes = opts->r_max != 1 || opts->d_max != 0;
    if (!batch_norm && (opts->ghost_batch_size || renormalizes))
        ek_fail(EK_ERR_ARGUMENT, "%s: ghost_batch_size, r_max and d_max are BatchNorm's: leave the defaults",
                module->description);
    else if (opts->ghost_batch_size < 0)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected ghost_batch_size ≥ 0, got %lld", module->description,
                (long long)opts->ghost_batch_size);
    else if (!(opts->r_max >= 1) || !(opts->d_max >= 0))
        ek_fail(EK_ERR_ARGUMENT, "%s: expected r_max ≥ 1 and d_max ≥ 0, got %g and %g", module->description,
                opts->r_max, opts->d_max);
    else if (renormalizes && !opts->track_running_stats)
        ek_fail(EK_ERR_ARGUMENT, "%s: batch renormalization needs the running statistics, but track_running_stats is "
                                 "off", module->description);
    else if (renormalizes && opts->ghost_batch_size)
        ek_fail(EK_ERR_ARGUMENT, "%s: batch renormalization has one correction per channel, so it does not go with "
                                 "ghost batches: set ghost_batch_size = 0, or r_max = 1 and d_max = 0",
                module->description);
    else
        return true;
    return false;
}

static bool options_ok(const ek_module *module, const ek_batch_norm_opts *opts, bool batch_norm)
{
    if (!batch_options_ok(module, opts, batch_norm))
        return false;
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
    ek_running_forget_gathered(module);
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

static ek_running_pair running_pair(const ek_module *module, int64_t i)
{
    const channel_norm *norm = ek_module_state(module);
    return (ek_running_pair){norm->running_mean, norm->running_var, i, norm->num_batches_tracked, 0};
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
    if (!options_ok(module, opts, spec->batch_norm))
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
        module->statistics = &norm->statistics;
        module->momentum = &norm->momentum;
        module->num_pairs = spec->num_features;
        module->running_pair = running_pair;
    }
    module->note = note;
    module->takes_relu = true;
    module->after_init = forget_batches;
    return ek_module_complete(module, complete);
}

void ek_channel_norm_traits(const ek_module *module, norm_traits *traits)
{
    const channel_norm *norm = ek_module_state(module);
    *traits = (norm_traits){.groups = GROUPS_PER_CHANNEL, .eps = norm->eps, .channel_axis = norm->channel_axis,
                            .channels = norm->num_features, .channels_per_group = 1, .center = true,
                            .statistics = norm->statistics, .uses_running = ek_channel_norm_uses_running(module),
                            .weight = norm->weight, .bias = norm->bias, .running_mean = norm->running_mean,
                            .running_var = norm->running_var, .num_batches_tracked = norm->num_batches_tracked};
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

/* Lengths whose batch or time axis is one of the channels. */
static void refuse_lengths(const ek_module *module, const ek_tensor *x, int axis, int axes)
{
    const ek_lengths *lengths = x->lengths;
    const bool time = lengths->time_axis >= axis && lengths->time_axis < axis + axes;
    ek_fail(EK_ERR_SHAPE, "%s: the lengths that %s carries have their %s along axis %d, which this layer reads as its "
                          "channels; if another axis holds the channels, set opts.channel_axis, else correct the axes "
                          "given to ek_tensor_set_lengths()", module->description, EK_TEXT(x->shape),
            time ? "steps" : "sequences", time ? lengths->time_axis : lengths->batch_axis);
}

bool ek_norm_open(const ek_module *module, ek_tape *tape, ek_tensor *x, int axis, int axes, norm_input *in)
{
    const ek_lengths *lengths = x->lengths;
    if (lengths && ((lengths->batch_axis >= axis && lengths->batch_axis < axis + axes) ||
                    (lengths->time_axis >= axis && lengths->time_axis < axis + axes))) {
        refuse_lengths(module, x, axis, axes);
        return false;
    }
    if (lengths && !x->tape && !(lengths = ek_lengths_on_tape(tape, lengths)))
        return false;
    return ek_norm_open_sequences(tape, x, lengths, axis, axes, in);
}

bool ek_norm_open_sequences(ek_tape *tape, ek_tensor *x, const ek_lengths *lengths, int axis, int axes, norm_input *in)
{
    const int batch = lengths ? lengths->batch_axis : 0, time = lengths ? lengths->time_axis : 0;
    *in = (norm_input){.x = x, .n = x->shape.dim[batch], .rows = x->shape.dim[batch], .before = 1, .c = 1, .after = 1};
    for (int i = 0; i < x->shape.ndim; i++)
        if (i != batch && i != time)
            *(i < axis ? &in->before : i < axis + axes ? &in->c : &in->after) *= x->shape.dim[i];
    in->s = in->before * in->after * (lengths ? lengths->steps : 1);
    if (!lengths)
        return true;
    in->rows = lengths->total;
    const ek_rows *found = ek_rows_make(tape, lengths, EK_ROWS_BY_SEQUENCE);
    ek_rows *rows = found ? ek_tape_alloc(tape, sizeof *rows) : NULL;
    if (!rows)
        return false;
    *rows = *found;
    rows->carried = x->lengths != NULL;
    in->packed = rows;
    in->x = ek_pack_rows(tape, x, rows);
    return in->x;
}

ek_tensor *ek_norm_close(ek_tape *tape, const norm_input *in, ek_tensor *y)
{
    return y && in->packed ? ek_unpack_rows(tape, y, in->packed) : y;
}

bool ek_channel_norm_read(const ek_module *module, ek_tape *tape, ek_tensor *x, norm_input *in)
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
    return ek_norm_open(module, tape, x, axis, 1, in);
}

void ek_norm_refuse_single(const ek_module *module, const ek_tensor *x)
{
    ek_fail(EK_ERR_SHAPE,
            "%s: expected more than one value per channel to take statistics of, got %s; use a larger batch (the "
            "loader's drop_last or merge_last), ek_module_eval(), or EK_STATS_FROZEN",
            module->description, EK_TEXT(x->shape));
}

ek_view ek_norm_view_per_channel(const norm_input *in)
{
    return (ek_view){1, in->rows * in->before, in->c, in->after};
}

bool ek_norm_view_per_sample(ek_tape *tape, const norm_input *in, int64_t outer, int64_t group, int64_t inner,
                             ek_normalize_opts *opts)
{
    if (!in->packed) {
        opts->stats = (ek_view){in->n, outer, group, inner};
        return true;
    }
    const int64_t *length = in->packed->lengths->length;
    opts->stats = (ek_view){in->n, 0, group, inner};
    opts->stats_outer = length;
    if (outer == 1)
        return true;
    int64_t *rows = ek_tape_alloc(tape, (size_t)in->n * sizeof *rows);
    for (int64_t i = 0; rows && i < in->n; i++)
        rows[i] = length[i] * outer;
    opts->stats_outer = rows;
    return rows;
}

/* ---- running statistics ------------------------------------------------------------------------------------------ */

bool ek_channel_norm_uses_running(const ek_module *module)
{
    const channel_norm *norm = ek_module_state(module);
    return norm->running_mean && !module->pooled && ek_running_is_used(norm->statistics, module->training);
}

bool ek_channel_norm_updates_running(const ek_module *module)
{
    const channel_norm *norm = ek_module_state(module);
    return norm->running_mean && (module->pooled || ek_running_is_updated(norm->statistics, module->training));
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

/* Elements behind each statistic of a row. */
static int64_t elements(const norm_batch *batch, int64_t row)
{
    return batch->length ? batch->length[row] * batch->count : batch->count;
}

/* Joins one channel's statistics with those of other batches. */
static void join(const norm_batch *batch, int64_t channels, int64_t channel, ek_pooled *pooled)
{
    for (int64_t r = 0; r < batch->rows; r++) {
        const double k = (double)elements(batch, r), mean = batch->mean[r * channels + channel];
        const double squares = k * batch->var[r * channels + channel];
        if (!batch->per_sample && k > 0) {
            ek_pooled_join(pooled, k, mean, squares);
            pooled->freedom += batch->as_it_is;
        } else if (k > 0) {
            ek_pooled_join_mean(pooled, 1, mean); /* how far samples lie apart is no part of the mean variance */
            pooled->squares += k > 1 ? squares / (k - 1) : 0;
            pooled->freedom += k > 1;
        }
    }
    pooled->batches++;
}

/* The denominator of the batch's variance, > 0 where it has one. */
static int64_t freedom(const norm_batch *batch)
{
    int64_t total = batch->per_sample ? 0 : -1;
    for (int64_t r = 0; r < batch->rows; r++)
        total += batch->per_sample ? elements(batch, r) > 1 : elements(batch, r);
    return total;
}

static ek_pooled total(const norm_batch *batch, int64_t channels, int64_t channel)
{
    if (batch->rows == 1 && !batch->per_sample) { /* nothing to join */
        const double k = (double)elements(batch, 0);
        return (ek_pooled){.elements = k, .mean = batch->mean[channel], .squares = k * batch->var[channel],
                           .freedom = k - 1 + batch->as_it_is};
    }
    ek_pooled all = {0};
    join(batch, channels, channel, &all);
    return all;
}

/* Can the buffers hold the batch's statistics?  If not, it is counted as refused. */
static bool fits(ek_module *module, const norm_batch *batch)
{
    channel_norm *norm = ek_module_state(module);
    for (int64_t c = 0; c < norm->num_features; c++) {
        const ek_pooled all = total(batch, norm->num_features, c);
        if (!ek_running_fits(norm->running_mean, all.mean) ||
            (all.freedom > 0 && !ek_running_fits(norm->running_var, ek_pooled_variance(&all)))) {
            norm->non_finite_batches++;
            ek_running_warn_refused(module, "channel", c, norm->non_finite_batches);
            return false;
        }
    }
    return true;
}

static void update(ek_module *module, const void *data, bool succeeded)
{
    const norm_batch *batch = data;
    channel_norm *norm = ek_module_state(module);
    const int64_t channels = norm->num_features;
    ek_pooled *pool = ek_running_pool(module);
    if (!succeeded || (!module->pooled && !fits(module, batch)))
        return;
    for (int64_t c = 0; pool && c < channels; c++)
        join(batch, channels, c, &pool[c]);
    if (pool)
        return;
    int64_t *count = norm->num_batches_tracked->data;
    ++*count;
    const double fraction = ek_running_fraction(norm->momentum, *count);
    for (int64_t c = 0; c < channels; c++) {
        const ek_pooled all = total(batch, channels, c);
        ek_running_move(norm->running_mean, c, fraction, all.mean);
        ek_running_move(norm->running_var, c, fraction, ek_pooled_variance(&all));
    }
}

ek_status ek_channel_norm_update_later(ek_module *module, ek_tape *tape, const norm_batch *batch)
{
    bool any = freedom(batch) > 0;
    for (int64_t r = 0; ek_running_pool(module) && r < batch->rows; r++)
        any = any || elements(batch, r) > 0; /* a single value does say something among those of other batches */
    return any ? ek_after_forward(tape, module, update, batch, sizeof *batch) : EK_OK;
}
