#include "support_recurrent.h"

#include <stdio.h>

/* ---- cases ------------------------------------------------------------------------------------------------------- */

recurrent_case recurrent_case_of(cell_kind cell)
{
    return (recurrent_case){.cell = cell, .input = 3, .hidden = 4, .n = 5, .steps = 6, .layout = EK_BATCH_FIRST,
                            .opts = ek_recurrent_opts_default()};
}

int recurrent_directions(const recurrent_case *c)
{
    return c->opts.bidirectional ? 2 : 1;
}

int64_t recurrent_gates(cell_kind cell)
{
    return cell == RNN ? 1 : cell == LSTM ? 4 : 3;
}

const char *recurrent_text(const recurrent_case *c)
{
    static const char *const names[] = {"rnn", "lstm", "gru"}, *const norms[] = {"no norm", "LN", "BN"};
    static char text[300];
    snprintf(text, sizeof text, "%s%s(%lld, %lld) n=%lld T=%lld%s%s, %lld layers%s%s, %s%s", names[c->cell],
             c->opts.nonlinearity == EK_NONLINEARITY_RELU ? "-relu" : "", (long long)c->input, (long long)c->hidden,
             (long long)c->n, (long long)c->steps, c->layout == EK_TIME_FIRST ? ", time first" : "",
             c->lengths ? ", lengths" : c->mask ? ", mask" : "", (long long)c->opts.num_layers,
             c->opts.bidirectional ? ", both ways" : "", c->opts.bias ? "" : ", no bias", norms[c->opts.norm],
             c->states ? ", states" : "");
    return text;
}

ek_module *recurrent_layer(const recurrent_case *c)
{
    ek_module *(*const make[])(int64_t, int64_t, ek_sequence_layout, const ek_recurrent_opts *) = {ek_rnn, ek_lstm,
                                                                                                   ek_gru};
    ek_module *layer = make[c->cell](c->input, c->hidden, c->layout, &c->opts);
    ck_assert_msg(layer != NULL, "%s: %s", recurrent_text(c), ek_last_error());
    return layer;
}

typedef struct drawing {
    double scale;
    uint64_t seed;
} drawing;

static ek_status draw(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    const drawing *d = user;
    if (kind != EK_PARAMETER)
        return EK_OK;
    const bool gain = strstr(name, "gain_") != NULL;
    ek_rng rng = ek_rng_named(d->seed, name);
    ek_tensor *values = gain ? ek_uniform(EK_F64, ek_tensor_shape(t), 1 - d->scale / 2, 1 + d->scale / 2, &rng)
                             : ek_uniform(EK_F64, ek_tensor_shape(t), -d->scale, d->scale, &rng);
    ek_tensor *cast = ek_tensor_cast(values, ek_tensor_dtype(t));
    ck_made(cast);
    ck_ok(ek_tensor_write(t, ek_tensor_data(cast), (size_t)ek_tensor_numel(t) * ek_dtype_size(ek_tensor_dtype(t))));
    ek_tensor_free(values);
    ek_tensor_free(cast);
    return EK_OK;
}

ek_module *recurrent_drawn(const recurrent_case *c, ek_dtype dtype, double scale, uint64_t seed)
{
    ek_module *layer = recurrent_layer(c);
    ck_ok(ek_module_init(layer, seed));
    ck_ok(ek_module_to(layer, dtype));
    ck_ok(ek_module_visit(layer, draw, &(drawing){scale, seed}));
    return layer;
}

ek_shape recurrent_shape(const recurrent_case *c, int64_t features)
{
    return c->layout == EK_BATCH_FIRST ? EK_SHAPE(c->n, c->steps, features) : EK_SHAPE(c->steps, c->n, features);
}

ek_shape recurrent_state_shape(const recurrent_case *c)
{
    return EK_SHAPE(c->opts.num_layers * recurrent_directions(c), c->n, c->hidden);
}

void recurrent_set_lengths(const recurrent_case *c, ek_tensor *x)
{
    const int batch = c->layout == EK_BATCH_FIRST ? 0 : 1;
    if (c->lengths)
        ck_ok(ek_tensor_set_lengths(x, c->lengths, c->n, batch, 1 - batch));
    else if (c->mask)
        ck_ok(ek_tensor_set_mask(x, c->mask, c->n, c->steps, batch, 1 - batch));
}

/* Where step t of sequence i stands among all (sequence, step) pairs. */
static int64_t position(const recurrent_case *c, int64_t i, int64_t t)
{
    return c->layout == EK_BATCH_FIRST ? i * c->steps + t : t * c->n + i;
}

static ek_tensor *cast_away(ek_tensor *wide, ek_dtype dtype)
{
    ek_tensor *t = ek_tensor_cast(wide, dtype);
    ck_made(t);
    ek_tensor_free(wide);
    return t;
}

/* Normal numbers, each a function of (seed, sequence, step, feature) whatever the padding and the layout. */
static ek_tensor *numbers_per_step(const recurrent_case *c, ek_dtype dtype, int64_t features, uint64_t seed)
{
    ek_tensor *t = ek_zeros(EK_F64, recurrent_shape(c, features));
    ck_made(t);
    for (int64_t i = 0; i < c->n; i++) {
        ek_rng rng = ek_rng_seed(seed * 1000 + (uint64_t)i);
        for (int64_t s = 0; s < c->steps; s++)
            for (int64_t d = 0; d < features; d++)
                ek_data_f64(t)[position(c, i, s) * features + d] = (double)(float)ek_rng_normal(&rng);
    }
    return cast_away(t, dtype);
}

/* Numbers in ±1 for states, a function of (seed, sequence, layer and direction, unit). */
static ek_tensor *numbers_per_state(const recurrent_case *c, ek_dtype dtype, uint64_t seed)
{
    ek_tensor *t = ek_zeros(EK_F64, recurrent_state_shape(c));
    ck_made(t);
    const int64_t ways = ek_tensor_dim(t, 0);
    for (int64_t i = 0; i < c->n; i++) {
        ek_rng rng = ek_rng_seed(seed * 1000 + 500 + (uint64_t)i);
        for (int64_t w = 0; w < ways; w++)
            for (int64_t u = 0; u < c->hidden; u++)
                ek_data_f64(t)[(w * c->n + i) * c->hidden + u] = (double)(float)(2 * ek_rng_uniform(&rng) - 1);
    }
    return cast_away(t, dtype);
}

ek_tensor *recurrent_input(const recurrent_case *c, ek_dtype dtype, uint64_t seed)
{
    ek_tensor *x = numbers_per_step(c, dtype, c->input, seed);
    recurrent_set_lengths(c, x);
    return x;
}

ek_tensor *recurrent_initial(const recurrent_case *c, ek_dtype dtype, uint64_t seed)
{
    return numbers_per_state(c, dtype, seed);
}

double recurrent_tolerance(ek_dtype dtype, const recurrent_case *c, double scale, double condition)
{
    const double fan = (double)c->hidden + fmax((double)c->input, (double)(recurrent_directions(c) * c->hidden));
    return 4 * sqrt(fan) * (dtype == EK_F32 ? 0x1p-24 : 0x1p-53) * scale * condition *
           (double)(c->steps * c->opts.num_layers);
}

/* ---- one forward and backward ------------------------------------------------------------------------------------ */

recurrent_inputs recurrent_draw(const recurrent_case *c, ek_dtype dtype, uint64_t seed)
{
    recurrent_inputs in = {.x = recurrent_input(c, dtype, seed)};
    if (c->states)
        in.h0 = recurrent_initial(c, dtype, seed + 1);
    if (c->states && c->cell == LSTM)
        in.c0 = recurrent_initial(c, dtype, seed + 2);
    return in;
}

void recurrent_inputs_free(recurrent_inputs *in)
{
    ek_tensor_free(in->x);
    ek_tensor_free(in->h0);
    ek_tensor_free(in->c0);
}

static ek_tensor *weighted(ek_tape *tape, ek_tensor *t, const ek_tensor *weights)
{
    return ek_sum(tape, ek_mul(tape, t, (ek_tensor *)weights), EK_ALL_AXES, false);
}

ek_tensor *recurrent_loss(ek_tape *tape, ek_tensor *y, const ek_recurrent_state *final, const ek_tensor *dy,
                          const ek_tensor *dh, const ek_tensor *dc)
{
    ek_tensor *loss = ek_add(tape, weighted(tape, y, dy), weighted(tape, final->h, dh));
    return final->c ? ek_add(tape, loss, weighted(tape, final->c, dc)) : loss;
}

static ek_tensor *clone_of(const ek_tensor *t)
{
    if (!t)
        return NULL;
    ek_tensor *copy = ek_tensor_clone(t);
    ck_made(copy);
    return copy;
}

static ek_status keep_gradient(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    recurrent_run *run = user;
    (void)name;
    if (kind == EK_PARAMETER) {
        ck_assert_int_lt(run->parameters, MOST_TENSORS);
        run->gradient[run->parameters++] = clone_of(ek_tensor_grad(t));
    }
    return EK_OK;
}

static ek_recurrent_state state_of(const recurrent_inputs *in)
{
    return (ek_recurrent_state){in->h0, in->c0};
}

recurrent_run recurrent_run_with(ek_module *layer, const recurrent_inputs *in, const ek_tensor *dy,
                                 const ek_tensor *dh, const ek_tensor *dc)
{
    recurrent_run run = {.parameters = 0};
    ek_tensor *leaves[] = {in->x, in->h0, in->c0};
    for (int i = 0; i < 3; i++)
        if (leaves[i]) {
            ck_ok(ek_tensor_set_requires_grad(leaves[i], true));
            ek_tensor_clear_grad(leaves[i]);
        }
    ek_module_clear_grad(layer);
    ek_tape *tape = ek_tape_new();
    ek_recurrent_state initial = state_of(in), final = {NULL, NULL};
    ek_tensor *y = ek_recurrent_forward(layer, tape, in->x, in->h0 ? &initial : NULL, &final);
    ck_assert_msg(y && final.h, "%s: %s", ek_module_describe(layer), ek_last_error());
    ck_ok(ek_backward(tape, recurrent_loss(tape, y, &final, dy, dh, dc)));
    run.y = clone_of(y);
    run.h = clone_of(final.h);
    run.c = clone_of(final.c);
    run.dx = clone_of(ek_tensor_grad(in->x));
    run.dh0 = in->h0 ? clone_of(ek_tensor_grad(in->h0)) : NULL;
    run.dc0 = in->c0 ? clone_of(ek_tensor_grad(in->c0)) : NULL;
    ck_ok(ek_module_visit(layer, keep_gradient, &run));
    ek_tape_free(tape);
    return run;
}

recurrent_run recurrent_run_of(ek_module *layer, const recurrent_case *c, const recurrent_inputs *in)
{
    const ek_dtype dtype = ek_tensor_dtype(in->x);
    ek_tensor *dy = numbers_per_step(c, dtype, c->hidden * recurrent_directions(c), 77);
    ek_tensor *dh = numbers_per_state(c, dtype, 78), *dc = numbers_per_state(c, dtype, 79);
    recurrent_run run = recurrent_run_with(layer, in, dy, dh, dc);
    ek_tensor_free(dy);
    ek_tensor_free(dh);
    ek_tensor_free(dc);
    return run;
}

recurrent_run recurrent_forward_of(ek_module *layer, const recurrent_inputs *in)
{
    ek_tape *tape = ek_tape_new();
    ek_recurrent_state initial = state_of(in), final = {NULL, NULL};
    ek_tensor *y = ek_recurrent_forward(layer, tape, in->x, &initial, &final);
    ck_assert_msg(y && final.h, "%s: %s", ek_module_describe(layer), ek_last_error());
    recurrent_run run = {.y = clone_of(y), .h = clone_of(final.h), .c = clone_of(final.c)};
    ek_tape_free(tape);
    return run;
}

/* All tensors of a run, NULL where there is none. */
static int tensors_of(const recurrent_run *run, ek_tensor **all, const char **names)
{
    ek_tensor *own[] = {run->y, run->h, run->c, run->dx, run->dh0, run->dc0};
    static const char *const own_names[] = {"y", "h", "c", "dx", "dh0", "dc0"};
    for (int i = 0; i < 6; i++) {
        all[i] = own[i];
        names[i] = own_names[i];
    }
    for (int i = 0; i < run->parameters; i++) {
        all[6 + i] = run->gradient[i];
        names[6 + i] = "the gradient of a parameter";
    }
    return 6 + run->parameters;
}

void recurrent_run_free(recurrent_run *run)
{
    ek_tensor *all[6 + MOST_TENSORS];
    const char *names[6 + MOST_TENSORS];
    for (int i = tensors_of(run, all, names) - 1; i >= 0; i--)
        ek_tensor_free(all[i]);
    *run = (recurrent_run){.parameters = 0};
}

void assert_close_run(const char *what, const recurrent_run *a, const recurrent_run *b, double tolerance)
{
    ek_tensor *left[6 + MOST_TENSORS], *right[6 + MOST_TENSORS];
    const char *names[6 + MOST_TENSORS];
    const int n = tensors_of(a, left, names);
    ck_assert_int_eq(n, tensors_of(b, right, names));
    for (int i = 0; i < n; i++) {
        char label[400];
        snprintf(label, sizeof label, "%s: %s (%d)", what, names[i], i - 6);
        ck_assert_msg(!left[i] == !right[i], "%s is there once", label);
        if (left[i])
            assert_close(label, left[i], right[i], 0, tolerance);
    }
}

void assert_same_run(const char *what, const recurrent_run *a, const recurrent_run *b)
{
    ek_tensor *left[6 + MOST_TENSORS], *right[6 + MOST_TENSORS];
    const char *names[6 + MOST_TENSORS];
    const int n = tensors_of(a, left, names);
    ck_assert_int_eq(n, tensors_of(b, right, names));
    for (int i = 0; i < n; i++) {
        ck_assert_msg(!left[i] == !right[i], "%s: %s is there once", what, names[i]);
        ck_assert_msg(!left[i] || ek_tensor_equal(left[i], right[i]), "%s: %s (%d) has other bits", what, names[i],
                      i - 6);
    }
}
