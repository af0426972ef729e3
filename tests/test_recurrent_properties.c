/* Recurrent layers as modules: first values, dropout between layers, files, conversion, observers, nets, states carried
 * from tape to tape, and which gradients are asked for. */
#include "core.h"
#include "support_files.h"
#include "support_recurrent.h"

#include <stdio.h>

/* ---- first values ------------------------------------------------------------------------------------------------ */

typedef struct spread {
    double bound, most;
} spread;

static ek_status widest(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    spread *s = user;
    for (int64_t i = 0; kind == EK_PARAMETER && i < ek_tensor_numel(t); i++) {
        const double v = fabs(ek_tensor_at(t, i));
        ck_assert_msg(v <= s->bound, "%s: %g is beyond ±%g", name, v, s->bound);
        s->most = fmax(s->most, v);
    }
    return EK_OK;
}

/* Uniform in ±1/√hidden_size, whatever the input's size. */
START_TEST(bounds_of_first_values)
{
    for (int cell = 0; cell < CELLS; cell++) {
        recurrent_case c = recurrent_case_of((cell_kind)cell);
        c.input = 50;
        c.hidden = 25;
        c.opts.num_layers = 2;
        c.opts.bidirectional = true;
        ek_module *layer = recurrent_layer(&c);
        spread s = {.bound = (double)(0.2F * (1 + 0x1p-22F))};
        ck_ok(ek_module_visit(layer, widest, &s));
        ck_assert_msg(s.most > 0.199, "no more than %g", s.most);
        ek_module_free(layer);
    }
}
END_TEST

static ek_module *two_layers(bool in_order)
{
    ek_module *net = ek_sequential(ek_relu_layer()), *a = NULL, *b = NULL;
    if (in_order)
        a = ek_lstm(3, 4, EK_BATCH_FIRST, NULL);
    b = ek_gru(4, 5, EK_BATCH_FIRST, NULL);
    if (!in_order)
        a = ek_lstm(3, 4, EK_BATCH_FIRST, NULL);
    ck_ok(ek_module_add_child(net, "a", a));
    ck_ok(ek_module_add_child(net, "b", b));
    return net;
}

/* Values are a function of (seed, name). */
START_TEST(first_values_follow_from_the_seed)
{
    ek_module *net = two_layers(true), *other = two_layers(false);
    ck_ok(ek_module_init(net, 7));
    ck_ok(ek_module_init(other, 7));
    ek_tensor *seven = copy_state(net);
    assert_state("made in another order", other, seven);
    ck_ok(ek_module_init(net, 8));
    ek_tensor *eight = copy_state(net);
    ck_assert(!ek_tensor_equal(seven, eight));
    ck_ok(ek_module_init(net, 7));
    assert_state("the same seed", net, seven);
    ck_assert(!ek_tensor_equal(ek_module_parameter(net, "a.bias_ih_l0"), ek_module_parameter(net, "a.bias_hh_l0")));
    ek_tensor_free(seven);
    ek_tensor_free(eight);
    ek_module_free(net);
    ek_module_free(other);
}
END_TEST

/* ---- dropout ----------------------------------------------------------------------------------------------------- */

static ek_status to_identity(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    const int64_t rows = ek_tensor_dim(t, 0), columns = ek_tensor_dim(t, 1);
    (void)user;
    (void)kind;
    for (int64_t i = 0; i < rows * columns; i++)
        ek_data_f32(t)[i] = strstr(name, "ih") && i / columns == i % columns ? 1 : 0;
    return EK_OK;
}

enum { DROP_N = 8, DROP_T = 25, DROP_H = 20 };

/* Layers that pass positive inputs on: y = x, but for dropout.  (8, 25, 20). */
static ek_module *pipe(int64_t layers, double p, bool both)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.nonlinearity = EK_NONLINEARITY_RELU;
    opts.bias = false;
    opts.num_layers = layers;
    opts.dropout = p;
    opts.bidirectional = both;
    ek_module *layer = ek_rnn(DROP_H, DROP_H, EK_BATCH_FIRST, &opts);
    ck_made(layer);
    ck_ok(ek_module_init(layer, 3));
    ck_ok(ek_module_visit(layer, to_identity, NULL));
    return layer;
}

static ek_tensor *positive(void)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(DROP_N, DROP_T, DROP_H));
    ck_made(x);
    return x;
}

/* How many of the numbers are 0; the others are `value`. */
static int64_t zeros(const ek_tensor *y, double value)
{
    int64_t n = 0;
    for (int64_t i = 0; i < ek_tensor_numel(y); i++) {
        const double v = ek_tensor_at(y, i);
        ck_each(v == 0 || fabs(v - value) <= 1e-6 * value, "%g is neither 0 nor %g", v, value);
        n += v == 0;
    }
    return n;
}

/* A share of n numbers, to within 5 standard deviations. */
static void assert_share(int64_t count, int64_t n, double share)
{
    const double expected = share * (double)n, sigma = sqrt((double)n * share * (1 - share));
    ck_assert_msg(fabs((double)count - expected) <= 5 * sigma, "%lld of %lld, expected %g ± %g", (long long)count,
                  (long long)n, expected, sigma);
}

START_TEST(dropout_stands_between_layers)
{
    const double p = 0.25;
    ek_tensor *x = positive();
    const int64_t n = ek_tensor_numel(x);
    for (int64_t layers = 2; layers <= 4; layers++) {
        ek_module *layer = pipe(layers, p, false);
        ek_tensor *y = apply_layer(layer, x);
        const double kept = pow(1 - p, (double)(layers - 1)); /* none after the last */
        assert_share(zeros(y, 1 / kept), n, 1 - kept);
        ek_module_eval(layer);
        ek_tensor *evaluated = apply_layer(layer, x);
        ck_assert(ek_tensor_equal(evaluated, x));
        ek_tensor_free(y);
        ek_tensor_free(evaluated);
        ek_module_free(layer);
    }
    ek_tensor_free(x);
}
END_TEST

/* Both directions are dropped, each by a mask of its own: the second layer shows each direction of the first in one of
 * its own. */
START_TEST(dropout_of_both_directions)
{
    ek_module *layer = pipe(2, 0.5, true);
    ek_tensor *x = positive(), *w = ek_module_parameter(layer, "weight_ih_l1_reverse");
    for (int64_t i = 0; i < DROP_H; i++) { /* the second layer backward shows the first layer backward */
        ek_data_f32(w)[i * 2 * DROP_H + i] = 0;
        ek_data_f32(w)[i * 2 * DROP_H + DROP_H + i] = 1;
    }
    ek_tensor *y = apply_layer(layer, x);
    int64_t dropped[2] = {0, 0}, both = 0;
    for (int64_t i = 0; i < DROP_N * DROP_T; i++)
        for (int64_t u = 0; u < DROP_H; u++) {
            const double forward = ek_tensor_at(y, (2 * i) * DROP_H + u);
            const double backward = ek_tensor_at(y, (2 * i + 1) * DROP_H + u);
            ck_each((forward == 0 || forward == 2) && (backward == 0 || backward == 2), "%g, %g", forward, backward);
            dropped[0] += forward == 0;
            dropped[1] += backward == 0;
            both += forward == 0 && backward == 0;
        }
    assert_share(dropped[0], ek_tensor_numel(x), 0.5);
    assert_share(dropped[1], ek_tensor_numel(x), 0.5);
    assert_share(both, ek_tensor_numel(x), 0.25);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(layer);
}
END_TEST

START_TEST(masks_of_dropout)
{
    ek_module *layer = pipe(3, 0.5, false), *twin = pipe(3, 0.5, false);
    ek_tensor *x = positive(), *first = apply_layer(layer, x), *second = apply_layer(layer, x);
    ck_assert_msg(!ek_tensor_equal(first, second), "two forwards draw one mask");
    ek_tensor *again = apply_layer(twin, x);
    ck_assert_msg(ek_tensor_equal(first, again), "the seed does not say it all");
    /* A forward that fails does not count. */
    ek_module *net = ek_sequential(twin, ek_linear(DROP_H + 1, 2, NULL));
    ek_tape *tape = ek_tape_new();
    ck_assert_ptr_null(ek_forward(net, tape, x));
    ek_tape_reset(tape);
    ek_tensor *after = ek_forward(twin, tape, x);
    ck_assert_msg(ek_tensor_equal(after, second), "a failed forward moved the counter");
    /* Nor does one in evaluation. */
    ek_tape_free(tape);
    ck_ok(ek_module_init(layer, 3));
    ck_ok(ek_module_visit(layer, to_identity, NULL));
    ek_module_eval(layer);
    feed(layer, x);
    ek_module_train(layer);
    ek_tensor *anew = apply_layer(layer, x);
    ck_assert_msg(ek_tensor_equal(first, anew), "init does not set the counter back, or evaluation draws");
    ek_tensor *all[] = {x, first, second, again, anew};
    for (int i = 0; i < 5; i++)
        ek_tensor_free(all[i]);
    ek_module_free(layer);
    ek_module_free(net);
}
END_TEST

/* ---- files, conversion, description ------------------------------------------------------------------------------ */

static recurrent_case with_everything(int which)
{
    recurrent_case c = recurrent_case_of((cell_kind)(which % CELLS));
    c.opts.norm = (ek_recurrent_norm)(which / CELLS);
    c.opts.num_layers = 2;
    c.opts.bidirectional = true;
    c.opts.max_steps = 5;
    return c;
}

START_TEST(saved_and_loaded)
{
    const recurrent_case c = with_everything(_i);
    const char *path = temp_path("layer.npz");
    ek_module *a = recurrent_drawn(&c, EK_F32, 0.5, 1), *b = recurrent_drawn(&c, EK_F32, 0.5, 2);
    recurrent_inputs in = recurrent_draw(&c, EK_F32, 3);
    recurrent_run trained = recurrent_forward_of(a, &in); /* moves the running statistics */
    ck_ok(ek_save(a, path));
    ck_ok(ek_load(b, path));
    ek_tensor *state = copy_state(a);
    assert_state("loaded", b, state);
    ek_module_eval(a);
    ek_module_eval(b);
    recurrent_run one = recurrent_forward_of(a, &in), other = recurrent_forward_of(b, &in);
    assert_same_run("loaded", &one, &other);
    ek_tensor_free(state);
    recurrent_inputs_free(&in);
    recurrent_run_free(&trained);
    recurrent_run_free(&one);
    recurrent_run_free(&other);
    ek_module_free(a);
    ek_module_free(b);
    remove_temp();
}
END_TEST

/* In float64 the same numbers to within float32's rounding; back again the same bits. */
START_TEST(converted)
{
    const recurrent_case c = with_everything(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    recurrent_inputs narrow = recurrent_draw(&c, EK_F32, 3), wide = recurrent_draw(&c, EK_F64, 3);
    if (c.opts.norm == EK_RECURRENT_BATCH_NORM)
        feed(layer, narrow.x);
    ek_module_eval(layer);
    recurrent_run first = recurrent_forward_of(layer, &narrow);
    ck_ok(ek_module_to(layer, EK_F64));
    recurrent_run other = recurrent_forward_of(layer, &wide);
    const double condition = c.opts.norm ? 1 / sqrt(c.opts.eps) : 1;
    assert_close_run("converted", &first, &other, recurrent_tolerance(EK_F32, &c, 1, condition));
    ck_ok(ek_module_to(layer, EK_F32));
    recurrent_run back = recurrent_forward_of(layer, &narrow);
    assert_same_run("back again", &first, &back);
    recurrent_run *all[] = {&first, &other, &back};
    for (int i = 0; i < 3; i++)
        recurrent_run_free(all[i]);
    recurrent_inputs_free(&narrow);
    recurrent_inputs_free(&wide);
    ek_module_free(layer);
}
END_TEST

START_TEST(descriptions)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    ek_module *layer = ek_gru(3, 4, EK_TIME_FIRST, NULL);
    ck_assert_str_eq(ek_module_describe(layer), "gru(3, 4)");
    ck_assert_str_eq(ek_module_type(layer), "gru");
    ek_module_free(layer);
    opts.num_layers = 2;
    opts.bidirectional = true;
    opts.nonlinearity = EK_NONLINEARITY_RELU;
    opts.norm = EK_RECURRENT_LAYER_NORM;
    opts.bias = false;
    opts.dropout = 0.25;
    layer = ek_rnn(3, 4, EK_TIME_FIRST, &opts);
    ck_assert_str_eq(ek_module_describe(layer),
                     "rnn(3, 4, 2 layers, bidirectional, relu, layer norm, no bias, dropout 0.25)");
    ek_module_free(layer);
}
END_TEST

START_TEST(summary)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.max_steps = 10;
    ek_module *net = ek_sequential(ek_embedding_layer(7, 3, NULL), ek_lstm(3, 4, EK_BATCH_FIRST, &opts),
                                   ek_linear(4, 2, NULL));
    ck_ok(ek_module_init(net, 1));
    ek_tensor *x = ek_zeros(EK_I64, EK_SHAPE(5, 6)), *before = copy_state(net);
    char text[2000] = "";
    FILE *file = tmpfile();
    ck_ok(ek_module_summary(net, x, file));
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    /* LSTM: 4·4·(3 + 4) weights, 2·16 biases and as many gains, 4 + 4 for the cell; 10·(2·16 + 2·16 + 2·4 + 1) in
     * buffers. */
    ck_assert_str_eq(text, "name  layer                   output       parameters\n"
                           "-     sequential              (5, 6, 2)             0\n"
                           "0     embedding(7, 3)         (5, 6, 3)            21\n"
                           "1     lstm(3, 4, batch norm)  (5, 6, 4)           184\n"
                           "2     linear(4, 2)            (5, 6, 2)            10\n"
                           "215 parameters, 860 bytes; 730 values in buffers, 2960 bytes\n"
                           "1: running ← 0.9·running + 0.1·batch, for each of 10 steps\n");
    ck_assert_int_eq(ek_module_count_parameters(net), 215);
    assert_state("summary", net, before);
    ek_tensor_free(before);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- in a net ---------------------------------------------------------------------------------------------------- */

START_TEST(in_a_sequential)
{
    const int64_t lengths[] = {4, 6, 1};
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.bidirectional = true;
    ek_module *net = ek_sequential(ek_embedding_layer(7, 3, NULL), ek_lstm(3, 4, EK_BATCH_FIRST, &opts),
                                   ek_gru(8, 5, EK_BATCH_FIRST, NULL), ek_linear(5, 2, NULL));
    ck_ok(ek_module_init(net, 1));
    ek_tensor *x = ek_zeros(EK_I64, EK_SHAPE(3, 6));
    for (int64_t i = 0; i < 18; i++)
        ek_data_i64(x)[i] = i % 7;
    ck_ok(ek_tensor_set_lengths(x, lengths, 3, 0, 1));
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(net, tape, x);
    ck_made(y);
    ck_assert_str_eq(EK_TEXT(ek_tensor_shape(y)), "(3, 6, 2)");
    ck_assert(ek_tensor_lengths(y) && ek_tensor_lengths(y)->length[1] == 6);
    ck_ok(ek_backward(tape, ek_sum(tape, ek_mul(tape, y, y), EK_ALL_AXES, false)));
    ck_made(ek_tensor_grad(ek_module_parameter(net, "0.weight")));
    /* What stands in the padding changes nothing but what the linear layer makes of it. */
    ek_tensor *first = ek_tensor_clone(ek_tensor_grad(ek_module_parameter(net, "0.weight")));
    ek_module_clear_grad(net);
    ek_tape_reset(tape);
    for (int64_t s = 1; s < 6; s++)
        ek_data_i64(x)[12 + s] = 3;
    y = ek_forward(net, tape, x);
    ck_ok(ek_backward(tape, ek_sum(tape, ek_mul(tape, y, y), EK_ALL_AXES, false)));
    ck_assert(ek_tensor_equal(ek_tensor_grad(ek_module_parameter(net, "0.weight")), first));
    ek_tape_free(tape);
    ek_tensor_free(first);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

typedef struct seen {
    int outputs, gradients;
    ek_tensor *output;
} seen;

static void see(void *user, const char *name, const ek_module *module, ek_event event, const ek_tensor *t)
{
    seen *s = user;
    (void)module;
    ck_assert_str_eq(name, "");
    s->outputs += event == EK_EVENT_OUTPUT;
    s->gradients += event == EK_EVENT_GRADIENT;
    if (event == EK_EVENT_OUTPUT) {
        ek_tensor_free(s->output);
        s->output = ek_tensor_clone(t);
    }
}

/* The two ways to call a layer are one: bits, observers. */
START_TEST(with_and_without_states)
{
    recurrent_case c = with_everything(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    ek_tensor *x = recurrent_input(&c, EK_F32, 2), *zero = ek_zeros(EK_F32, recurrent_state_shape(&c));
    ek_module_eval(layer);
    ek_tensor *plain = apply_layer(layer, x);
    seen s = {0, 0, NULL};
    ck_ok(ek_module_observe(layer, see, &s));
    const ek_recurrent_state none = {NULL, NULL}, zeros_given = {zero, c.cell == LSTM ? zero : NULL};
    const ek_recurrent_state *const initial[] = {NULL, &none, &zeros_given};
    for (int k = 0; k < 6; k++) {
        ek_recurrent_state final = {NULL, NULL};
        ek_tape *tape = ek_tape_new();
        ck_ok(ek_tensor_set_requires_grad(x, true));
        ek_tensor *y = ek_recurrent_forward(layer, tape, x, initial[k / 2], k % 2 ? &final : NULL);
        ck_assert_msg(y && ek_tensor_equal(y, plain), "%s: %d", recurrent_text(&c), k);
        ck_assert_int_eq(s.outputs, k + 1);
        ck_assert(ek_tensor_equal(s.output, plain));
        ck_ok(ek_backward(tape, ek_sum(tape, y, EK_ALL_AXES, false)));
        ck_assert_int_eq(s.gradients, k + 1);
        ek_tape_free(tape);
    }
    ek_tape *silent = ek_tape_new(); /* nothing is kept for backward */
    ck_ok(ek_tape_set_recording(silent, false));
    ck_assert(ek_tensor_equal(ek_forward(layer, silent, x), plain));
    ek_tape_free(silent);
    ek_tensor *all[] = {x, zero, plain, s.output};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
    ek_module_free(layer);
}
END_TEST

/* A module of one's own that gives the final state of its child, and fails after it where it is told to. */
static ek_tensor *encode(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_recurrent_state final;
    if (!ek_recurrent_forward(ek_module_child(module, 0), tape, x, NULL, &final))
        return NULL;
    if (*(bool *)ek_module_state(module)) {
        ek_fail(EK_ERR_STATE, "told to fail");
        return NULL;
    }
    return ek_flatten(tape, ek_permute(tape, final.h, EK_AXES(1, 0, 2)), 1, 2);
}

START_TEST(in_a_module_of_ones_own)
{
    static const ek_module_def def = {.type = "encoder", .forward = encode, .state_bytes = sizeof(bool)};
    recurrent_case c = with_everything(CELLS * 2 + GRU);
    ek_module *encoder = ek_module_new(&def, NULL), *net = ek_sequential(encoder);
    ck_ok(ek_module_add_child(encoder, "cell", recurrent_layer(&c)));
    ck_ok(ek_module_init(net, 1));
    ek_tensor *x = recurrent_input(&c, EK_F32, 2), *narrow = ek_ones(EK_F32, EK_SHAPE(5, 6, 2));
    *(bool *)ek_module_state(encoder) = true;
    assert_forward_fails(EK_ERR_STATE, "told to fail", net, x);
    *(bool *)ek_module_state(encoder) = false;
    assert_forward_fails(EK_ERR_SHAPE, "(5, 6, 2) [in layer \"0.cell\": gru(3, 4, 2 layers", net, narrow);
    ek_tensor *y = apply_layer(net, x);
    ck_assert_str_eq(EK_TEXT(ek_tensor_shape(y)), "(5, 16)");
    ck_assert(state_at(net, "0.cell.num_batches_tracked_l1_reverse", 0) == 1);
    ek_tensor *all[] = {x, narrow, y};
    for (int i = 0; i < 3; i++)
        ek_tensor_free(all[i]);
    ek_module_free(net);
}
END_TEST

/* One tensor as both states: its gradient is the sum of the two. */
START_TEST(one_tensor_as_both_states)
{
    recurrent_case c = with_everything(LSTM);
    c.states = true;
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
    recurrent_inputs apart = recurrent_draw(&c, EK_F64, 2), one = {apart.x, apart.h0, apart.h0};
    ek_tensor_free(apart.c0);
    apart.c0 = ek_tensor_clone(apart.h0);
    recurrent_run expected = recurrent_run_of(layer, &c, &apart), run = recurrent_run_of(layer, &c, &one);
    ck_assert(ek_tensor_equal(run.y, expected.y));
    for (int64_t i = 0; i < ek_tensor_numel(run.dh0); i++)
        ck_near(ek_tensor_at(run.dh0, i), ek_tensor_at(expected.dh0, i) + ek_tensor_at(expected.dc0, i), 1e-14);
    recurrent_run_free(&expected);
    recurrent_run_free(&run);
    recurrent_inputs_free(&apart);
    ek_module_free(layer);
}
END_TEST

/* ---- which gradients are asked for ------------------------------------------------------------------------------- */

typedef struct selection {
    uint64_t mask; /* bit k: parameter k requires a gradient */
    int next;
} selection;

static ek_status choose(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    selection *s = user;
    (void)name;
    if (kind == EK_PARAMETER)
        ck_ok(ek_tensor_set_requires_grad(t, s->mask >> s->next++ & 1));
    return EK_OK;
}

/* A parameter that is frozen gets no gradient, and the others the same bits as before. */
START_TEST(frozen_parameters)
{
    recurrent_case c = with_everything(_i);
    c.opts.bidirectional = false;
    c.states = true;
    recurrent_inputs in = recurrent_draw(&c, EK_F32, 3);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    recurrent_run whole = recurrent_run_of(layer, &c, &in);
    ek_rng rng = ek_rng_seed((uint64_t)_i);
    for (int k = 0; k < 12; k++) {
        const uint64_t mask = k == 0 ? 0 : k <= whole.parameters ? 1ULL << (k - 1) : ek_rng_u64(&rng);
        ck_ok(ek_module_visit(layer, choose, &(selection){mask, 0}));
        recurrent_run run = recurrent_run_of(layer, &c, &in);
        for (int p = 0; p < whole.parameters; p++) {
            if (mask >> p & 1) {
                ck_made(run.gradient[p]);
                ck_assert_msg(ek_tensor_equal(run.gradient[p], whole.gradient[p]), "%s: parameter %d",
                              recurrent_text(&c), p);
            } else {
                ck_assert_ptr_null(run.gradient[p]);
            }
        }
        ck_assert(ek_tensor_equal(run.dx, whole.dx) && ek_tensor_equal(run.dh0, whole.dh0));
        recurrent_run_free(&run);
    }
    recurrent_run_free(&whole);
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}
END_TEST

/* Only a parameter is trained, nothing else requires a gradient: neither x nor the states get one. */
START_TEST(only_parameters)
{
    const recurrent_case c = with_everything(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    ek_tensor *x = recurrent_input(&c, EK_F32, 3), *h0 = recurrent_initial(&c, EK_F32, 4);
    ek_tensor *gradient[2] = {NULL, NULL};
    for (int k = 0; k < 2; k++) {
        ck_ok(ek_module_visit(layer, choose, &(selection){k ? 1 : ~0ULL, 0})); /* weight_ih_l0 is the first */
        ek_module_clear_grad(layer);
        ek_tape *tape = ek_tape_new();
        ek_recurrent_state initial = {h0, NULL}, final;
        ek_tensor *y = ek_recurrent_forward(layer, tape, x, &initial, &final);
        ek_tensor *squares = ek_sum(tape, ek_mul(tape, final.h, final.h), EK_ALL_AXES, false);
        ck_ok(ek_backward(tape, ek_add(tape, squares, ek_sum(tape, y, EK_ALL_AXES, false))));
        ck_assert(!ek_tensor_grad(x) && !ek_tensor_grad(h0));
        gradient[k] = ek_tensor_clone(ek_tensor_grad(ek_module_parameter(layer, "weight_ih_l0")));
        ek_tape_free(tape);
    }
    ck_assert(ek_tensor_equal(gradient[0], gradient[1]));
    ek_tensor *all[] = {x, h0, gradient[0], gradient[1]};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
    ek_module_free(layer);
}
END_TEST

typedef struct halving {
    const ek_tensor *before;
    int64_t at;
} halving;

static ek_status halved(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    halving *h = user;
    const bool decays = kind == EK_PARAMETER && strstr(name, "weight");
    for (int64_t i = 0; i < ek_tensor_numel(t); i++, h->at++)
        ck_each(ek_tensor_at(t, i) == (decays ? 0.5 : 1) * ek_tensor_at(h->before, h->at), "%s[%lld]", name,
                (long long)i);
    return EK_OK;
}

/* Where decay spares norms and biases, weight matrices alone decay. */
START_TEST(what_decays)
{
    const recurrent_case c = with_everything(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    ek_sgd_opts opts = ek_sgd_opts_default();
    opts.weight_decay = 0.5;
    opts.decay_norms_and_biases = false;
    ek_optimizer *sgd = ek_sgd(layer, 1, &opts);
    ck_made(sgd);
    ek_tensor *x = recurrent_input(&c, EK_F32, 3), *before = copy_state(layer), *zero = ek_zeros(EK_F32, EK_SCALAR);
    ek_tape *tape = ek_tape_new();
    ek_module_eval(layer); /* gradients of 0: only decay moves anything */
    ek_tensor *sum = ek_sum(tape, ek_forward(layer, tape, x), EK_ALL_AXES, false);
    ck_ok(ek_backward(tape, ek_mul(tape, sum, zero)));
    ck_ok(ek_optimizer_step(sgd));
    ck_ok(ek_module_visit(layer, halved, &(halving){before, 0}));
    ek_tape_free(tape);
    ek_optimizer_free(sgd);
    ek_tensor *all[] = {x, before, zero};
    for (int i = 0; i < 3; i++)
        ek_tensor_free(all[i]);
    ek_module_free(layer);
}
END_TEST

/* ---- windows ----------------------------------------------------------------------------------------------------- */

/* Truncated backpropagation: the state cloned from one tape into the next gives the outputs of one long run. */
START_TEST(states_carried_from_tape_to_tape)
{
    enum { WINDOW = 4, WINDOWS = 3 };
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS);
    c.opts.num_layers = 2;
    c.steps = WINDOW * WINDOWS;
    c.layout = EK_TIME_FIRST;
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
    recurrent_inputs in = recurrent_draw(&c, EK_F64, 2);
    ek_module_eval(layer); /* BatchNorm: of statistics that no step has moved */
    recurrent_run whole = recurrent_forward_of(layer, &in);
    const double tolerance = recurrent_tolerance(EK_F64, &c, 1, 1);
    const int64_t per_window = WINDOW * c.n;
    recurrent_inputs part = {NULL, NULL, NULL};
    for (int w = 0; w < WINDOWS; w++) {
        part.x = ek_from_array(EK_F64, EK_SHAPE(WINDOW, c.n, c.input), ek_data_f64(in.x) + w * per_window * c.input);
        recurrent_run run = recurrent_forward_of(layer, &part);
        ek_tensor *expected = ek_from_array(EK_F64, EK_SHAPE(WINDOW, c.n, c.hidden),
                                            ek_data_f64(whole.y) + w * per_window * c.hidden);
        assert_close("window", run.y, expected, 0, tolerance);
        recurrent_inputs_free(&part);
        part = (recurrent_inputs){NULL, ek_tensor_clone(run.h), run.c ? ek_tensor_clone(run.c) : NULL};
        if (w == WINDOWS - 1) {
            assert_close("h", run.h, whole.h, 0, tolerance);
            if (run.c)
                assert_close("c", run.c, whole.c, 0, tolerance);
        }
        ek_tensor_free(expected);
        recurrent_run_free(&run);
    }
    recurrent_inputs_free(&part);
    recurrent_inputs_free(&in);
    recurrent_run_free(&whole);
    ek_module_free(layer);
}
END_TEST

/* No steps or no sequences: the final state is the initial one, and gets all of its gradient. */
START_TEST(nothing_to_run_over)
{
    for (int which = 0; which < 2 * CELLS; which++) {
        recurrent_case c = recurrent_case_of((cell_kind)(which % CELLS));
        c.steps = which < CELLS ? 0 : c.steps;
        c.n = which < CELLS ? c.n : 0;
        c.states = true;
        ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
        recurrent_inputs in = recurrent_draw(&c, EK_F32, 2);
        ek_tensor *dy = ek_zeros(EK_F32, recurrent_shape(&c, c.hidden)), *dh = recurrent_initial(&c, EK_F32, 3);
        recurrent_run run = recurrent_run_with(layer, &in, dy, dh, dh);
        ck_assert(ek_tensor_equal(run.h, in.h0) && ek_tensor_equal(run.dh0, dh));
        if (c.cell == LSTM)
            ck_assert(ek_tensor_equal(run.c, in.c0) && ek_tensor_equal(run.dc0, dh));
        ck_assert_int_eq(ek_tensor_numel(run.y), 0);
        for (int p = 0; p < run.parameters; p++)
            for (int64_t i = 0; run.gradient[p] && i < ek_tensor_numel(run.gradient[p]); i++)
                ck_assert(ek_tensor_at(run.gradient[p], i) == 0);
        ek_tensor_free(dy);
        ek_tensor_free(dh);
        recurrent_run_free(&run);
        recurrent_inputs_free(&in);
        ek_module_free(layer);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_properties");
    TCase *tcase = tcase_create("recurrent_properties");
    const TTest *const once[] = {bounds_of_first_values, first_values_follow_from_the_seed,
                                 dropout_stands_between_layers, dropout_of_both_directions, masks_of_dropout,
                                 descriptions, summary, in_a_sequential, in_a_module_of_ones_own,
                                 one_tensor_as_both_states, nothing_to_run_over};
    const TTest *const each[] = {saved_and_loaded, converted, with_and_without_states, frozen_parameters,
                                 only_parameters, what_decays, states_carried_from_tape_to_tape};
    for (size_t i = 0; i < sizeof once / sizeof *once; i++)
        tcase_add_test(tcase, once[i]);
    for (size_t i = 0; i < sizeof each / sizeof *each; i++)
        tcase_add_loop_test(tcase, each[i], 0, 3 * CELLS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
