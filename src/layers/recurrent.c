/* Recurrent layers: RNN, LSTM and GRU over padded sequences, in several layers and both directions.  The ops of
 * src/autograd/recurrent.h run one layer in one direction; what is here chooses the rows they run over and owns the
 * parameters and BatchNorm's running statistics. */
#include "norm.h"
#include "recurrent.h"

enum { NAME_BYTES = NORM_PART_BYTES, MOST_LAYERS = 4096 };
static const char *const site_names[CELL_SITES] = {"ih", "hh", "c"};

/* The parameters of one layer in one direction; NULL what it has not. */
typedef struct cell_parameters {
    ek_tensor *weight_ih, *weight_hh, *bias_ih, *bias_hh, *gain_ih, *gain_hh, *gain_c, *bias_c;
    ek_tensor *running_mean[CELL_SITES], *running_var[CELL_SITES]; /* [max_steps, units] */
    ek_tensor *num_batches_tracked;                                /* [max_steps] */
} cell_parameters;

typedef struct recurrent {
    const ek_op *op;
    int gates, directions, sites;
    bool has_c;
    int64_t input_size, hidden_size, cells; /* cells: num_layers·directions */
    ek_sequence_layout layout;
    ek_recurrent_opts opts;
    ek_dropout_stream dropout;
    int64_t non_finite_batches;
    cell_parameters *cell; /* [cells] */
} recurrent;

ek_recurrent_opts ek_recurrent_opts_default(void)
{
    return (ek_recurrent_opts){.num_layers = 1, .bias = true, .eps = 1e-5, .momentum = 0.1, .max_steps = 64,
                               .statistics = EK_STATS_AUTO, .norm = EK_RECURRENT_NO_NORM,
                               .nonlinearity = EK_NONLINEARITY_TANH};
}

/* ---- BatchNorm's running statistics ------------------------------------------------------------------------------ */

static bool uses_running(const ek_module *module)
{
    const recurrent *layer = ek_module_state(module);
    return !module->pooled && ek_running_is_used(layer->opts.statistics, module->training);
}

static bool updates_running(const ek_module *module)
{
    const recurrent *layer = ek_module_state(module);
    return module->pooled || ek_running_is_updated(layer->opts.statistics, module->training);
}

static int64_t site_units(const recurrent *layer, int site)
{
    return site == SITE_C ? layer->hidden_size : layer->gates * layer->hidden_size;
}

/* For each step the row of the running tables that stands for it: its own, or the last before it that has seen a
 * batch. */
static const int64_t *choose_running_steps(const recurrent *layer, const cell_parameters *cell, ek_tape *tape,
                                           int64_t steps)
{
    const int64_t *tracked = cell->num_batches_tracked->data;
    int64_t *chosen = ek_tape_alloc(tape, (size_t)steps * sizeof *chosen);
    for (int64_t s = 0, last = 0; chosen && s < steps; s++) {
        if (s < layer->opts.max_steps && tracked[s] > 0)
            last = s;
        chosen[s] = last;
    }
    return chosen;
}

static void warn_untracked(const ek_module *module, const cell_parameters *cell)
{
    const int64_t *tracked = cell->num_batches_tracked->data;
    for (int64_t s = 0; s < cell->num_batches_tracked->numel; s++)
        if (tracked[s] > 0)
            return;
    ek_warn("%s: normalizing by running statistics that no batch has updated yet: train first, or load them",
            module->description);
}

/* A batch's statistics, on the tape until the forward ends. */
typedef struct pending_update {
    int64_t cell;
    const ek_rows *rows;
    cell_report report;
} pending_update;

/* Steps that have statistics of their own and a place for them. */
static int64_t reported_steps(const recurrent *layer, const ek_rows *rows)
{
    int64_t steps = 0;
    while (steps < rows->steps && steps < layer->opts.max_steps && rows->count[steps] > 1)
        steps++;
    return steps;
}

/* The first step whose statistics the buffers cannot hold; −1 for none. */
static int64_t find_non_finite(const recurrent *layer, const pending_update *batch, int64_t steps)
{
    const cell_parameters *cell = &layer->cell[batch->cell];
    for (int site = 0; site < layer->sites; site++) {
        const int64_t units = site_units(layer, site);
        for (int64_t i = 0; i < steps * units; i++) {
            const double count = (double)batch->rows->count[i / units];
            if (!ek_running_fits(cell->running_mean[site], batch->report.mean[site][i]) ||
                !ek_running_fits(cell->running_var[site], batch->report.var[site][i] * (count / (count - 1))))
                return i / units;
        }
    }
    return -1;
}

/* Pairs of mean and variance stand in the order of cells, sites, steps, units. */
static int64_t pairs_of_site(const recurrent *layer, int site)
{
    return layer->opts.max_steps * site_units(layer, site);
}

static int64_t pairs_of_cell(const recurrent *layer)
{
    int64_t pairs = 0;
    for (int site = 0; site < layer->sites; site++)
        pairs += pairs_of_site(layer, site);
    return pairs;
}

static ek_running_pair running_pair(const ek_module *module, int64_t i)
{
    const recurrent *layer = ek_module_state(module);
    const cell_parameters *cell = &layer->cell[i / pairs_of_cell(layer)];
    int site = 0;
    for (i %= pairs_of_cell(layer); i >= pairs_of_site(layer, site); site++)
        i -= pairs_of_site(layer, site);
    return (ek_running_pair){cell->running_mean[site], cell->running_var[site], i, cell->num_batches_tracked,
                             i / site_units(layer, site)};
}

/* Joins the statistics of these steps with those of other batches. */
static void join(const ek_module *module, const pending_update *batch, int64_t steps)
{
    const recurrent *layer = ek_module_state(module);
    ek_pooled *pooled = ek_running_pool(module) + batch->cell * pairs_of_cell(layer);
    for (int site = 0; site < layer->sites; pooled += pairs_of_site(layer, site++))
        for (int64_t i = 0, units = site_units(layer, site); i < steps * units; i++) {
            const double count = (double)batch->rows->count[i / units];
            ek_pooled_join(&pooled[i], count, batch->report.mean[site][i], count * batch->report.var[site][i]);
            pooled[i].batches++;
        }
}

static void update(ek_module *module, const void *data, bool succeeded)
{
    const pending_update *batch = data;
    recurrent *layer = ek_module_state(module);
    const cell_parameters *cell = &layer->cell[batch->cell];
    const int64_t steps = reported_steps(layer, batch->rows);
    if (!succeeded)
        return;
    const int64_t bad = module->pooled ? -1 : find_non_finite(layer, batch, steps);
    if (bad >= 0) {
        ek_running_warn_refused(module, "step", bad, ++layer->non_finite_batches);
        return;
    }
    if (ek_running_pool(module)) {
        join(module, batch, steps);
        return;
    }
    for (int64_t s = 0; s < steps; s++) {
        int64_t *tracked = (int64_t *)cell->num_batches_tracked->data + s;
        const double count = (double)batch->rows->count[s];
        const double fraction = ek_running_fraction(layer->opts.momentum, ++*tracked);
        for (int site = 0; site < layer->sites; site++) {
            const int64_t units = site_units(layer, site);
            for (int64_t i = s * units; i < (s + 1) * units; i++) {
                ek_running_move(cell->running_mean[site], i, fraction, batch->report.mean[site][i]);
                ek_running_move(cell->running_var[site], i, fraction,
                                batch->report.var[site][i] * (count / (count - 1)));
            }
        }
    }
}

/* Room for the statistics of every step, and where they update the running ones, the promise to do that. */
static cell_report *report_later(ek_module *module, ek_tape *tape, int64_t index, const ek_rows *rows, bool updates)
{
    const recurrent *layer = ek_module_state(module);
    pending_update batch = {.cell = index, .rows = rows};
    for (int site = 0; site < layer->sites; site++) {
        const size_t numbers = (size_t)(rows->steps * site_units(layer, site));
        double *room = ek_tape_alloc(tape, 2 * numbers * sizeof *room);
        if (!room)
            return ek_tape_fail(tape);
        batch.report.mean[site] = room;
        batch.report.var[site] = room + numbers;
    }
    cell_report *report = ek_tape_alloc(tape, sizeof *report);
    if (!report)
        return ek_tape_fail(tape);
    *report = batch.report;
    return !updates || ek_after_forward(tape, module, update, &batch, sizeof batch) == EK_OK ? report : NULL;
}

/* BatchNorm's part of what the op is told. */
static bool choose_statistics_of_cell(ek_module *module, ek_tape *tape, int64_t index, cell_attributes *attributes)
{
    const recurrent *layer = ek_module_state(module);
    const cell_parameters *cell = &layer->cell[index];
    const bool updates = updates_running(module), wanted = updates || (tape->watch && tape->watch->steps);
    attributes->batch_statistics = !uses_running(module);
    for (int site = 0; site < layer->sites; site++) {
        attributes->running_mean[site] = cell->running_mean[site];
        attributes->running_var[site] = cell->running_var[site];
    }
    attributes->running_step = choose_running_steps(layer, cell, tape, attributes->rows->steps);
    if (!attributes->running_step)
        return ek_tape_fail(tape);
    if (!attributes->batch_statistics && !updates)
        warn_untracked(module, cell);
    if (wanted)
        attributes->report = report_later(module, tape, index, attributes->rows, updates);
    return !wanted || attributes->report;
}

/* Shows whoever watches the statistics of the steps that have some. */
static void show_steps(const ek_module *module, const ek_watch *watch, int64_t index, const cell_attributes *attributes)
{
    const recurrent *layer = ek_module_state(module);
    const ek_rows *rows = attributes->rows;
    int64_t steps = 0;
    while (steps < rows->steps && rows->count[steps] > 1)
        steps++;
    for (int site = 0; site < layer->sites; site++) {
        const ek_watched_steps statistics = {.norm = (int)index * layer->sites + site, .steps = steps,
                                             .units = site_units(layer, site), .count = rows->count,
                                             .running_step = attributes->running_step,
                                             .mean = attributes->report->mean[site],
                                             .var = attributes->report->var[site]};
        watch->steps(watch, module, &statistics);
    }
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* x and the initial states fit this layer. */
static bool input_fits(const ek_module *module, const ek_tensor *x, const ek_recurrent_state *initial)
{
    const recurrent *layer = ek_module_state(module);
    const int batch_axis = layer->layout == EK_BATCH_FIRST ? 0 : 1;
    if (!ek_norm_dtype_ok(module, x))
        return false;
    if (x->shape.ndim != 3 || x->shape.dim[2] != layer->input_size) {
        ek_fail(EK_ERR_SHAPE, "%s: expected (%s, %lld), got %s", module->description,
                batch_axis == 0 ? "N, T" : "T, N", (long long)layer->input_size, EK_TEXT(x->shape));
        return false;
    }
    if (x->lengths && (x->lengths->batch_axis != batch_axis || x->lengths->time_axis != 1 - batch_axis)) {
        ek_fail(EK_ERR_SHAPE, "%s: expected lengths with the batch on axis %d and time on axis %d, got %d and %d; the "
                              "layer's layout and the lengths must agree", module->description, batch_axis,
                1 - batch_axis, x->lengths->batch_axis, x->lengths->time_axis);
        return false;
    }
    const ek_shape states = EK_SHAPE(layer->cells, x->shape.dim[batch_axis], layer->hidden_size);
    const ek_tensor *given[2] = {initial ? initial->h : NULL, initial ? initial->c : NULL};
    for (int i = 0; i < 2; i++) {
        if (!given[i])
            continue;
        if (i == 1 && !layer->has_c) {
            ek_fail(EK_ERR_ARGUMENT, "%s: an initial c was given, but only an LSTM has one", module->description);
            return false;
        }
        if (given[i]->dtype != x->dtype || !ek_shape_equal(given[i]->shape, states)) {
            ek_fail(given[i]->dtype != x->dtype ? EK_ERR_DTYPE : EK_ERR_SHAPE,
                    "%s: expected an initial %s of %s %s (layers·directions, N, hidden_size), got %s %s",
                    module->description, i == 0 ? "h" : "c", ek_dtype_name(x->dtype), EK_TEXT(states),
                    ek_dtype_name(given[i]->dtype), EK_TEXT(given[i]->shape));
            return false;
        }
    }
    return true;
}

/* State `index` of (layers·directions, N, H) as (N, H); NULL when none was given. */
static ek_tensor *state_of_cell(ek_tape *tape, ek_tensor *states, int64_t index)
{
    if (!states)
        return NULL;
    ek_tensor *one = ek_slice(tape, states, 0, index, index + 1);
    return one ? ek_reshape(tape, one, EK_SHAPE(states->shape.dim[1], states->shape.dim[2])) : NULL;
}

/* One layer in one direction: (Σ lengths, features) → its states, as ek_apply_cell has them. */
static ek_tensor *run_cell(ek_module *module, ek_tape *tape, int64_t index, ek_tensor *packed, const ek_rows *rows,
                           const ek_recurrent_state *initial)
{
    const recurrent *layer = ek_module_state(module);
    const cell_parameters *cell = &layer->cell[index];
    const bool normed = layer->opts.norm != EK_RECURRENT_NO_NORM;
    cell_attributes attributes = {.rows = rows, .norm = (cell_norm)layer->opts.norm, .eps = layer->opts.eps,
                                  .relu = layer->opts.nonlinearity == EK_NONLINEARITY_RELU};
    if (layer->opts.norm == EK_RECURRENT_BATCH_NORM && !choose_statistics_of_cell(module, tape, index, &attributes))
        return NULL;
    ek_tensor *const in[CELL_INPUTS] = {
        [CELL_PROJECTED] = ek_linear_op(tape, packed, cell->weight_ih, normed ? NULL : cell->bias_ih),
        [CELL_WEIGHT] = cell->weight_hh,
        [CELL_BIAS_IH] = normed ? cell->bias_ih : NULL,
        [CELL_BIAS_HH] = cell->bias_hh,
        [CELL_H0] = state_of_cell(tape, initial ? initial->h : NULL, index),
        [CELL_C0] = state_of_cell(tape, initial ? initial->c : NULL, index),
        [CELL_GAIN_IH] = cell->gain_ih,
        [CELL_GAIN_HH] = cell->gain_hh,
        [CELL_GAIN_C] = cell->gain_c,
        [CELL_BIAS_C] = cell->bias_c,
    };
    ek_tensor *states = ek_apply_cell(tape, layer->op, in, &attributes);
    if (states && attributes.report && tape->watch && tape->watch->steps)
        show_steps(module, tape->watch, index, &attributes);
    return states;
}

/* Final states of one cell, as (1, N, H), out of what run_cell gave. */
static bool note_final(const recurrent *layer, ek_tape *tape, ek_tensor *states, const ek_lengths *lengths,
                       ek_tensor **h, ek_tensor **c)
{
    const ek_shape shape = EK_SHAPE(1, lengths->n, layer->hidden_size);
    const int64_t h_rows = lengths->total + lengths->n;
    *h = ek_reshape(tape, ek_slice(tape, states, 0, lengths->total, h_rows), shape);
    *c = layer->has_c ? ek_reshape(tape, ek_slice(tape, states, 0, h_rows + lengths->total, 2 * h_rows), shape) : NULL;
    return *h && (*c || !layer->has_c);
}

/* Rows of each direction over the valid steps of x: over all of them where it carries no lengths. */
static bool find_rows(const recurrent *layer, ek_tape *tape, const ek_tensor *x, const ek_rows *rows[2])
{
    const int batch_axis = layer->layout == EK_BATCH_FIRST ? 0 : 1;
    const ek_lengths *lengths =
        !x->lengths ? ek_lengths_make(tape, batch_axis, 1 - batch_axis, x->shape.dim[batch_axis],
                                      x->shape.dim[1 - batch_axis], NULL)
        : x->tape   ? x->lengths
                    : ek_lengths_on_tape(tape, x->lengths);
    if (!lengths)
        return ek_tape_fail(tape);
    rows[0] = ek_rows_make(tape, lengths, EK_ROWS_BY_STEP);
    rows[1] = layer->directions == 2 ? ek_rows_make(tape, lengths, EK_ROWS_BY_STEP_REVERSED) : NULL;
    return rows[0] && (rows[1] || layer->directions == 1);
}

/* What a forward is asked for beside its output. */
typedef struct recurrent_call {
    const ek_recurrent_state *initial;
    ek_recurrent_state *final;
} recurrent_call;

static ek_tensor *run(ek_module *module, ek_tape *tape, ek_tensor *x, void *user)
{
    recurrent *layer = ek_module_state(module);
    const recurrent_call *call = user;
    const ek_rows *rows[2] = {NULL, NULL};
    if (!input_fits(module, x, call->initial) || !find_rows(layer, tape, x, rows))
        return NULL;
    const ek_lengths *lengths = rows[0]->lengths;
    ek_tensor **final = call->final ? ek_tape_alloc(tape, (size_t)(2 * layer->cells) * sizeof *final) : NULL;
    if (call->final && !final)
        return NULL;
    ek_tensor *packed = ek_pack_rows(tape, x, rows[0]);
    ek_tensor *y = x;
    for (int64_t index = 0; index < layer->cells; index += layer->directions) {
        ek_tensor *side[2] = {NULL, NULL};
        for (int d = 0; d < layer->directions; d++) {
            if (layer->directions == 2)
                packed = ek_pack_rows(tape, y, rows[d]);
            ek_tensor *states = run_cell(module, tape, index + d, packed, rows[d], call->initial);
            if (!states || (final && !note_final(layer, tape, states, lengths, &final[index + d],
                                                 &final[layer->cells + index + d])))
                return NULL;
            side[d] = ek_slice(tape, states, 0, 0, lengths->total);
            if (module->training && layer->dropout.p > 0 && index + layer->directions < layer->cells)
                side[d] = ek_dropout_draw(module, &layer->dropout, tape, side[d]);
        }
        packed = side[0];
        for (int d = 0; d < layer->directions && (layer->directions == 2 || index + 1 == layer->cells); d++)
            side[d] = ek_unpack_rows(tape, side[d], rows[d]);
        y = layer->directions == 2 ? ek_concat(tape, side, 2, 2) : side[0];
    }
    if (y)
        y->lengths = x->lengths ? lengths : NULL;
    if (y && final) {
        call->final->h = ek_concat(tape, final, (int)layer->cells, 0);
        call->final->c = layer->has_c ? ek_concat(tape, final + layer->cells, (int)layer->cells, 0) : NULL;
    }
    return y;
}

static ek_tensor *recurrent_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    recurrent_call call = {NULL, NULL};
    return run(module, tape, x, &call);
}

ek_tensor *ek_recurrent_forward(ek_module *layer, ek_tape *tape, ek_tensor *x, const ek_recurrent_state *initial,
                                ek_recurrent_state *final)
{
    recurrent_call call = {initial, final};
    if (final)
        *final = (ek_recurrent_state){NULL, NULL};
    if (layer && layer->def.forward != recurrent_forward) {
        ek_fail(EK_ERR_ARGUMENT, "recurrent_forward: expected a layer of ek_rnn, ek_lstm or ek_gru, got %s",
                layer->description);
        return tape ? ek_tape_fail(tape) : NULL;
    }
    ek_tensor *y = ek_forward_by(layer, tape, x, run, &call);
    if (!y && final)
        *final = (ek_recurrent_state){NULL, NULL};
    return y;
}

/* ---- construction ------------------------------------------------------------------------------------------------ */

static bool options_fit(const ek_module *module, const recurrent *layer)
{
    const ek_recurrent_opts *opts = &layer->opts;
    const char *who = module->description;
    if (layer->layout != EK_BATCH_FIRST && layer->layout != EK_TIME_FIRST)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected EK_BATCH_FIRST or EK_TIME_FIRST, got %d", who, (int)layer->layout);
    else if (opts->nonlinearity != EK_NONLINEARITY_TANH && opts->nonlinearity != EK_NONLINEARITY_RELU)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected one of ek_nonlinearity, got %d", who, (int)opts->nonlinearity);
    else if (opts->nonlinearity == EK_NONLINEARITY_RELU && layer->op != ek_op_rnn)
        ek_fail(EK_ERR_ARGUMENT, "%s: only ek_rnn has a choice of nonlinearity; leave EK_NONLINEARITY_TANH", who);
    else if (opts->norm < EK_RECURRENT_NO_NORM || opts->norm > EK_RECURRENT_BATCH_NORM)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected one of ek_recurrent_norm, got %d", who, (int)opts->norm);
    else if (!(opts->dropout >= 0 && opts->dropout < 1))
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a dropout 0 ≤ p < 1, got %g", who, opts->dropout);
    else if (opts->dropout > 0 && opts->num_layers == 1)
        ek_fail(EK_ERR_ARGUMENT, "%s: dropout stands between layers, and there is one; use ek_dropout_layer() after it",
                who);
    else if (opts->max_steps < 1)
        ek_fail(EK_ERR_ARGUMENT, "%s: expected max_steps ≥ 1, got %lld", who, (long long)opts->max_steps);
    else
        return ek_norm_eps_ok(module, opts->eps) && ek_running_options_ok(module, opts->momentum, opts->statistics);
    return false;
}

/* "weight_ih_l0_reverse". */
static const char *name_in_cell(const recurrent *layer, const char *what, const char *site, int64_t index, char *text)
{
    snprintf(text, NAME_BYTES, "%s%s%s_l%lld%s", what, *site ? "_" : "", site, (long long)(index / layer->directions),
             index % layer->directions ? "_reverse" : "");
    return text;
}

/* Adds a parameter, where `wanted`; false when that failed. */
static bool add(ek_module *module, int64_t index, const char *what, const char *site, bool wanted, ek_shape shape,
                ek_init init, ek_tensor **parameter)
{
    char name[NAME_BYTES];
    if (wanted)
        *parameter = ek_module_add_parameter(module, name_in_cell(ek_module_state(module), what, site, index, name),
                                             shape, init, shape.ndim == 2);
    return !wanted || *parameter;
}

static bool add_parameters(ek_module *module, int64_t index)
{
    const recurrent *layer = ek_module_state(module);
    const ek_recurrent_opts *opts = &layer->opts;
    cell_parameters *cell = &layer->cell[index];
    const int64_t hidden = layer->hidden_size, width = layer->gates * hidden;
    const int64_t in = index < layer->directions ? layer->input_size : layer->directions * hidden;
    const bool normed = opts->norm != EK_RECURRENT_NO_NORM;
    const ek_init uniform = {EK_INIT_UNIFORM, 1 / sqrt((double)hidden)};
    const ek_init bias = normed ? (ek_init){EK_INIT_ZEROS, 0} : uniform;
    const ek_init gain = {EK_INIT_CONSTANT, opts->norm == EK_RECURRENT_BATCH_NORM ? 0.1 : 1};
    const ek_shape units = EK_SHAPE(width), states = EK_SHAPE(hidden);
    return add(module, index, "weight", "ih", true, EK_SHAPE(width, in), uniform, &cell->weight_ih) &&
           add(module, index, "weight", "hh", true, EK_SHAPE(width, hidden), uniform, &cell->weight_hh) &&
           add(module, index, "bias", "ih", opts->bias, units, bias, &cell->bias_ih) &&
           add(module, index, "bias", "hh", opts->bias, units, bias, &cell->bias_hh) &&
           add(module, index, "gain", "ih", normed, units, gain, &cell->gain_ih) &&
           add(module, index, "gain", "hh", normed, units, gain, &cell->gain_hh) &&
           add(module, index, "gain", "c", normed && layer->has_c, states, gain, &cell->gain_c) &&
           add(module, index, "bias", "c", normed && layer->has_c && opts->bias, states, bias, &cell->bias_c);
}

static bool add_buffers(ek_module *module, int64_t index)
{
    const recurrent *layer = ek_module_state(module);
    cell_parameters *cell = &layer->cell[index];
    char name[NAME_BYTES];
    for (int site = 0; site < layer->sites; site++) {
        const ek_shape shape = EK_SHAPE(layer->opts.max_steps, site_units(layer, site));
        name_in_cell(layer, "running_mean", site_names[site], index, name);
        cell->running_mean[site] = ek_module_add_buffer(module, name, EK_F32, shape, 0);
        name_in_cell(layer, "running_var", site_names[site], index, name);
        cell->running_var[site] = ek_module_add_buffer(module, name, EK_F32, shape, 1);
        if (!cell->running_mean[site] || !cell->running_var[site])
            return false;
    }
    name_in_cell(layer, "num_batches_tracked", "", index, name);
    cell->num_batches_tracked = ek_module_add_buffer(module, name, EK_I64, EK_SHAPE(layer->opts.max_steps), 0);
    return cell->num_batches_tracked;
}

static void note(const ek_module *module, char *text)
{
    const recurrent *layer = ek_module_state(module);
    char formula[EK_NOTE_BYTES];
    *text = '\0';
    if (layer->opts.norm != EK_RECURRENT_BATCH_NORM)
        return;
    ek_running_describe(layer->opts.momentum, layer->opts.statistics, formula);
    snprintf(text, EK_NOTE_BYTES, "%.120s, for each of %lld steps", formula, (long long)layer->opts.max_steps);
}

static void choose_statistics(ek_module *module, ek_norm_statistics choice)
{
    recurrent *layer = ek_module_state(module);
    layer->opts.statistics = choice;
}

static void forget_batches(ek_module *module)
{
    recurrent *layer = ek_module_state(module);
    layer->non_finite_batches = 0;
    ek_running_forget_gathered(module);
}

static bool norm_at(const ek_module *module, int i, norm_traits *traits)
{
    const recurrent *layer = ek_module_state(module);
    const int64_t index = i / layer->sites;
    if (layer->opts.norm == EK_RECURRENT_NO_NORM || index >= layer->cells)
        return false;
    const cell_parameters *cell = &layer->cell[index];
    const int site = i % layer->sites;
    const bool batch = layer->opts.norm == EK_RECURRENT_BATCH_NORM;
    const ek_tensor *const gain[CELL_SITES] = {cell->gain_ih, cell->gain_hh, cell->gain_c};
    const ek_tensor *const bias[CELL_SITES] = {cell->bias_ih, cell->bias_hh, cell->bias_c};
    *traits = (norm_traits){.groups = batch ? GROUPS_PER_STEP : GROUPS_UNKNOWN, .eps = layer->opts.eps, .center = true,
                            .statistics = layer->opts.statistics, .uses_running = batch && uses_running(module),
                            .weight = gain[site], .bias = bias[site], .running_mean = cell->running_mean[site],
                            .running_var = cell->running_var[site],
                            .num_batches_tracked = cell->num_batches_tracked};
    name_in_cell(layer, site_names[site], "", index, traits->part);
    return true;
}

static void destroy(void *state)
{
    recurrent *layer = state;
    ek_release(layer->cell);
}

/* "lstm(8, 16, 2 layers, bidirectional, layer norm, dropout 0.1)" */
static void describe(const ek_recurrent_opts *opts, char *text, size_t bytes)
{
    static const char *const norms[] = {"", ", layer norm", ", batch norm"};
    char layers[40] = "", dropout[40] = "";
    if (opts->num_layers != 1)
        snprintf(layers, sizeof layers, ", %lld layers", (long long)opts->num_layers);
    if (opts->dropout != 0)
        snprintf(dropout, sizeof dropout, ", dropout %g", opts->dropout);
    snprintf(text, bytes, "%s%s%s%s%s%s", layers, opts->bidirectional ? ", bidirectional" : "",
             opts->nonlinearity == EK_NONLINEARITY_RELU ? ", relu" : "",
             opts->norm >= EK_RECURRENT_NO_NORM && opts->norm <= EK_RECURRENT_BATCH_NORM ? norms[opts->norm] : "",
             opts->bias ? "" : ", no bias", dropout);
}

static ek_module *recurrent_new(const ek_module_def *def, const ek_op *op, int64_t input_size, int64_t hidden_size,
                                ek_sequence_layout layout, const ek_recurrent_opts *opts)
{
    const ek_recurrent_opts defaults = ek_recurrent_opts_default();
    opts = opts ? opts : &defaults;
    if (input_size < 1 || hidden_size < 1 || hidden_size > INT64_MAX / 8 || opts->num_layers < 1 ||
        opts->num_layers > MOST_LAYERS) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected input_size and hidden_size of 1 or more and num_layers of 1 … %d, got "
                                 "%lld, %lld and %lld", def->type, MOST_LAYERS, (long long)input_size,
                (long long)hidden_size, (long long)opts->num_layers);
        return NULL;
    }
    char options[160];
    describe(opts, options, sizeof options);
    ek_module *module = ek_module_new(def, "%s(%lld, %lld%s)", def->type, (long long)input_size,
                                      (long long)hidden_size, options);
    if (!module)
        return NULL;
    const ek_cell *cell = (const ek_cell *)op;
    recurrent *layer = ek_module_state(module);
    *layer = (recurrent){.op = op, .gates = cell->gates, .has_c = cell->has_c, .input_size = input_size,
                         .directions = opts->bidirectional ? 2 : 1, .sites = cell->has_c ? CELL_SITES : SITE_C,
                         .hidden_size = hidden_size, .layout = layout, .opts = *opts,
                         .dropout = {.p = opts->dropout}};
    layer->cells = opts->num_layers * layer->directions;
    bool complete = options_fit(module, layer);
    if (complete) {
        layer->cell = ek_alloc_zeroed((size_t)layer->cells * sizeof *layer->cell);
        complete = layer->cell;
    }
    for (int64_t i = 0; complete && i < layer->cells; i++)
        complete = add_parameters(module, i) && (opts->norm != EK_RECURRENT_BATCH_NORM || add_buffers(module, i));
    module->rng = &layer->dropout.rng;
    module->note = note;
    module->after_init = forget_batches;
    module->norm_at = norm_at;
    if (opts->norm == EK_RECURRENT_BATCH_NORM) {
        module->choose_statistics = choose_statistics;
        module->non_finite_batches = &layer->non_finite_batches;
        module->statistics = &layer->opts.statistics;
        module->momentum = &layer->opts.momentum;
        module->num_pairs = complete ? layer->cells * pairs_of_cell(layer) : 0; /* else max_steps may be anything */
        module->running_pair = running_pair;
    }
    return ek_module_complete(module, complete);
}

static const ek_module_def rnn_def = {"rnn", recurrent_forward, destroy, sizeof(recurrent)};
static const ek_module_def lstm_def = {"lstm", recurrent_forward, destroy, sizeof(recurrent)};
static const ek_module_def gru_def = {"gru", recurrent_forward, destroy, sizeof(recurrent)};

ek_module *ek_rnn(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout, const ek_recurrent_opts *opts)
{
    return recurrent_new(&rnn_def, ek_op_rnn, input_size, hidden_size, layout, opts);
}

ek_module *ek_lstm(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout, const ek_recurrent_opts *opts)
{
    return recurrent_new(&lstm_def, ek_op_lstm, input_size, hidden_size, layout, opts);
}

ek_module *ek_gru(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout, const ek_recurrent_opts *opts)
{
    return recurrent_new(&gru_def, ek_op_gru, input_size, hidden_size, layout, opts);
}
