/* Every failure of the recurrent layers: status, message, and nothing has moved. */
#include "recurrent.h"
#include "support_recurrent.h"

#include <stdio.h>

/* ---- constructors ------------------------------------------------------------------------------------------------ */

typedef ek_module *(*constructor)(int64_t, int64_t, ek_sequence_layout, const ek_recurrent_opts *);
static const constructor make[CELLS] = {ek_rnn, ek_lstm, ek_gru};
static const char *const names[CELLS] = {"rnn", "lstm", "gru"};

START_TEST(sizes)
{
    for (int cell = 0; cell < CELLS; cell++) {
        const int64_t bad[][3] = {{0, 4, 1}, {-2, 4, 1}, {3, 0, 1}, {3, -1, 1}, {3, 4, 0}, {3, 4, -1}, {3, 4, 4097}};
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            ek_recurrent_opts opts = ek_recurrent_opts_default();
            opts.num_layers = bad[k][2];
            char text[200];
            snprintf(text, sizeof text, "%s: expected input_size and hidden_size of 1 or more and num_layers of 1 … "
                                        "4096, got %lld, %lld and %lld", names[cell], (long long)bad[k][0],
                     (long long)bad[k][1], (long long)bad[k][2]);
            ck_refused(EK_ERR_ARGUMENT, text, make[cell](bad[k][0], bad[k][1], EK_BATCH_FIRST, &opts));
        }
        ck_refused(EK_ERR_ARGUMENT, "expected input_size", make[cell](3, INT64_MAX, EK_BATCH_FIRST, NULL));
        ck_refused(EK_ERR_SHAPE, "", make[cell](3, INT64_MAX / 8, EK_BATCH_FIRST, NULL)); /* bytes overflow */
    }
}
END_TEST

static void refuses_options(ek_recurrent_opts opts, const char *text)
{
    for (int cell = 0; cell < CELLS; cell++) {
        char whole[300];
        snprintf(whole, sizeof whole, "%s(3, 4", names[cell]);
        ck_refused(EK_ERR_ARGUMENT, text, make[cell](3, 4, EK_BATCH_FIRST, &opts));
        ck_error(EK_ERR_ARGUMENT, whole);
    }
}

START_TEST(options)
{
    const ek_recurrent_opts good = ek_recurrent_opts_default();
    ek_recurrent_opts opts = good;
    const struct {
        double value;
        const char *text;
    } eps[] = {{-1e-5, "expected a finite eps ≥ 0, got -1e-05"},
               {INFINITY, "expected a finite eps ≥ 0, got inf"},
               {NAN, "expected a finite eps ≥ 0, got "}},
      momentum[] = {{-0.5, "expected a momentum (the update fraction) of 0 … 1 or EK_MOMENTUM_CUMULATIVE, got -0.5"},
                    {1.5, "EK_MOMENTUM_CUMULATIVE, got 1.5"},
                    {NAN, "EK_MOMENTUM_CUMULATIVE, got "}},
      dropout[] = {{-0.1, "expected a dropout 0 ≤ p < 1, got -0.1"}, {1, "p < 1, got 1"}, {NAN, "p < 1, got "}};
    for (int i = 0; i < 3; i++) {
        opts = good;
        opts.eps = eps[i].value;
        refuses_options(opts, eps[i].text);
        opts = good;
        opts.momentum = momentum[i].value;
        refuses_options(opts, momentum[i].text);
        opts = good;
        opts.num_layers = 2;
        opts.dropout = dropout[i].value;
        refuses_options(opts, dropout[i].text);
    }
    opts = good;
    opts.dropout = 0.5;
    refuses_options(opts, "dropout stands between layers, and there is one; use ek_dropout_layer() after it");
    opts = good;
    opts.max_steps = 0;
    refuses_options(opts, "expected max_steps ≥ 1, got 0");
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.max_steps = INT64_MAX;
    for (int cell = 0; cell < CELLS; cell++)
        ck_refused(EK_ERR_SHAPE, "overflows int64", make[cell](3, 4, EK_BATCH_FIRST, &opts));
    opts = good;
    opts.norm = (ek_recurrent_norm)3;
    refuses_options(opts, "expected one of ek_recurrent_norm, got 3");
    opts.norm = (ek_recurrent_norm)-1;
    refuses_options(opts, "expected one of ek_recurrent_norm, got -1");
    opts = good;
    opts.nonlinearity = (ek_nonlinearity)2;
    refuses_options(opts, "expected one of ek_nonlinearity, got 2");
    opts.nonlinearity = EK_NONLINEARITY_RELU;
    ck_refused(EK_ERR_ARGUMENT, "lstm(3, 4, relu): only ek_rnn has a choice of nonlinearity; leave "
                                "EK_NONLINEARITY_TANH", ek_lstm(3, 4, EK_BATCH_FIRST, &opts));
    ck_refused(EK_ERR_ARGUMENT, "gru(3, 4, relu): only ek_rnn", ek_gru(3, 4, EK_BATCH_FIRST, &opts));
    opts = good;
    opts.statistics = (ek_norm_statistics)4;
    refuses_options(opts, "expected one of ek_norm_statistics, got 4");
    opts.statistics = (ek_norm_statistics)-1;
    refuses_options(opts, "expected one of ek_norm_statistics, got -1");
}
END_TEST

START_TEST(layout)
{
    for (int cell = 0; cell < CELLS; cell++)
        for (int bad = 0; bad <= 3; bad += 3) {
            char text[100];
            snprintf(text, sizeof text, "%s(3, 4): expected EK_BATCH_FIRST or EK_TIME_FIRST, got %d", names[cell], bad);
            ck_refused(EK_ERR_ARGUMENT, text, make[cell](3, 4, (ek_sequence_layout)bad, NULL));
        }
}
END_TEST

/* ---- inputs ------------------------------------------------------------------------------------------------------ */

/* Each cell with BatchNorm and dropout, so that there is something that could move. */
static ek_module *movable(int cell, ek_sequence_layout order)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.num_layers = 2;
    opts.bidirectional = true;
    opts.dropout = 0.5;
    ek_module *layer = make[cell](3, 4, order, &opts);
    ck_made(layer);
    ck_ok(ek_module_init(layer, 1));
    return layer;
}

START_TEST(shapes_and_types)
{
    for (int cell = 0; cell < CELLS; cell++) {
        ek_module *first = movable(cell, EK_BATCH_FIRST), *last = movable(cell, EK_TIME_FIRST);
        const struct {
            ek_module *layer;
            ek_dtype dtype;
            ek_shape shape;
            ek_status status;
            const char *text;
        } cases[] = {
            {first, EK_F32, EK_SHAPE(5, 6, 2), EK_ERR_SHAPE, "expected (N, T, 3), got (5, 6, 2)"},
            {last, EK_F32, EK_SHAPE(5, 6, 2), EK_ERR_SHAPE, "expected (T, N, 3), got (5, 6, 2)"},
            {first, EK_F32, EK_SHAPE(6, 3), EK_ERR_SHAPE, "expected (N, T, 3), got (6, 3)"},
            {first, EK_F32, EK_SHAPE(3), EK_ERR_SHAPE, "expected (N, T, 3), got (3,)"},
            {first, EK_F32, EK_SCALAR, EK_ERR_SHAPE, "expected (N, T, 3), got ()"},
            {last, EK_F32, EK_SHAPE(2, 5, 6, 3), EK_ERR_SHAPE, "expected (T, N, 3), got (2, 5, 6, 3)"},
            {first, EK_F64, EK_SHAPE(5, 6, 3), EK_ERR_DTYPE, "expected float32, the layer's own type, got float64"},
            {first, EK_I64, EK_SHAPE(5, 6, 3), EK_ERR_DTYPE, "expected float32, the layer's own type, got int64"},
        };
        for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
            ek_tensor *x = ek_ones(cases[k].dtype, cases[k].shape);
            ck_made(x);
            assert_forward_fails(cases[k].status, cases[k].text, cases[k].layer, x);
            ck_error(cases[k].status, ek_module_describe(cases[k].layer));
            ek_tensor_free(x);
        }
        ek_module_free(first);
        ek_module_free(last);
    }
}
END_TEST

/* Lengths for other axes than the layer's. */
START_TEST(lengths_of_other_axes)
{
    const int64_t lengths[] = {1, 2, 3, 4, 4};
    const struct {
        ek_sequence_layout layout;
        ek_shape shape;
        int batch, time;
        const char *text;
    } cases[] = {
        {EK_BATCH_FIRST, EK_SHAPE(4, 5, 3), 1, 0, "expected lengths with the batch on axis 0 and time on axis 1, got 1 "
                                                  "and 0; the layer's layout and the lengths must agree"},
        {EK_TIME_FIRST, EK_SHAPE(5, 4, 3), 0, 1, "expected lengths with the batch on axis 1 and time on axis 0, got 0 "
                                                 "and 1"},
        {EK_BATCH_FIRST, EK_SHAPE(5, 4, 3), 0, 2, "batch on axis 0 and time on axis 1, got 0 and 2"},
        {EK_BATCH_FIRST, EK_SHAPE(4, 5, 3), 2, 1, "batch on axis 0 and time on axis 1, got 2 and 1"},
    };
    for (int k = 0; k < 4; k++) {
        ek_module *layer = movable(k % CELLS, cases[k].layout);
        ek_tensor *x = ek_ones(EK_F32, cases[k].shape);
        const int64_t small[] = {1, 2, 3, 3, 3};
        const bool features = cases[k].time == 2 || cases[k].batch == 2;
        ck_ok(ek_tensor_set_lengths(x, features ? small : lengths, ek_tensor_dim(x, cases[k].batch), cases[k].batch,
                                    cases[k].time));
        assert_forward_fails(EK_ERR_SHAPE, cases[k].text, layer, x);
        ek_tensor_free(x);
        ek_module_free(layer);
    }
}
END_TEST

/* A length of 0, one beyond T and a wrong number of them are refused where they are set, and x stays as it was. */
START_TEST(lengths_that_cannot_be)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(3, 4, 2));
    const int64_t bad[][3] = {{4, 0, 1}, {4, 5, 1}, {-1, 2, 3}};
    for (int k = 0; k < 3; k++) {
        ck_assert_int_eq(ek_tensor_set_lengths(x, bad[k], 3, 0, 1), EK_ERR_ARGUMENT);
        ck_error(EK_ERR_ARGUMENT, "expected lengths in 1 … 4, the size of axis 1 of (3, 4, 2), got ");
        ck_assert_ptr_null(ek_tensor_lengths(x));
    }
    ck_assert_int_eq(ek_tensor_set_lengths(x, (const int64_t[]){1, 2, 3, 4}, 4, 0, 1), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "expected 3 sequences");
    ck_assert_ptr_null(ek_tensor_lengths(x));
    ek_tensor_free(x);
}
END_TEST

/* ---- states ------------------------------------------------------------------------------------------------------ */

static void state_is_refused(ek_module *layer, ek_tensor *h, ek_tensor *c, ek_status status, const char *text)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(5, 6, 3)), *before = copy_state(layer);
    ek_tape *tape = ek_tape_new();
    ek_recurrent_state initial = {h, c}, final = {x, x};
    ek_clear_error();
    ck_assert_ptr_null(ek_recurrent_forward(layer, tape, x, &initial, &final));
    ck_error(status, text);
    ck_error(status, ek_module_describe(layer));
    ck_assert_int_eq(ek_tape_status(tape), status);
    ck_assert(!final.h && !final.c);
    assert_state(text, layer, before);
    ek_tape_free(tape);
    ek_tensor_free(before);
    ek_tensor_free(x);
}

START_TEST(initial_states)
{
    ek_tensor *good = ek_ones(EK_F32, EK_SHAPE(4, 5, 4)), *wide = ek_ones(EK_F64, EK_SHAPE(4, 5, 4));
    const ek_shape bad[] = {EK_SHAPE(2, 5, 4), EK_SHAPE(4, 6, 4), EK_SHAPE(4, 5, 3), EK_SHAPE(5, 4, 4),
                            EK_SHAPE(4, 20), EK_SHAPE(1, 4, 5, 4)};
    for (int cell = 0; cell < CELLS; cell++) {
        ek_module *layer = movable(cell, EK_BATCH_FIRST);
        for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
            ek_tensor *state = ek_ones(EK_F32, bad[k]);
            char shape[100], text[300];
            for (int c = 0; c <= (cell == LSTM); c++) {
                snprintf(text, sizeof text, "expected an initial %s of float32 (4, 5, 4) (layers·directions, N, "
                                            "hidden_size), got float32 %s", c ? "c" : "h",
                         ek_shape_text(bad[k], shape, sizeof shape));
                state_is_refused(layer, c ? good : state, c ? state : NULL, EK_ERR_SHAPE, text);
            }
            ek_tensor_free(state);
        }
        state_is_refused(layer, wide, NULL, EK_ERR_DTYPE, "expected an initial h of float32 (4, 5, 4) "
                                                          "(layers·directions, N, hidden_size), got float64 (4, 5, 4)");
        if (cell == LSTM)
            state_is_refused(layer, NULL, wide, EK_ERR_DTYPE, "an initial c of float32 (4, 5, 4)");
        else
            state_is_refused(layer, NULL, good, EK_ERR_ARGUMENT,
                             "an initial c was given, but only an LSTM has one");
        ek_module_free(layer);
    }
    ek_tensor_free(good);
    ek_tensor_free(wide);
}
END_TEST

START_TEST(what_is_not_a_recurrent_layer)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(5, 6, 3));
    ek_module *layer = ek_linear(3, 4, NULL), *net = ek_sequential(ek_rnn(3, 4, EK_BATCH_FIRST, NULL));
    ek_tape *tape = ek_tape_new();
    ek_recurrent_state final = {x, x};
    ck_assert_ptr_null(ek_recurrent_forward(layer, tape, x, NULL, &final));
    ck_error(EK_ERR_ARGUMENT, "recurrent_forward: expected a layer of ek_rnn, ek_lstm or ek_gru, got linear(3, 4)");
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_ARGUMENT);
    ck_assert(!final.h && !final.c);
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_recurrent_forward(net, tape, x, NULL, NULL));
    ck_error(EK_ERR_ARGUMENT, "got sequential");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_recurrent_forward(NULL, tape, x, NULL, &final));
    ck_error(EK_ERR_ARGUMENT, "NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_recurrent_forward(ek_module_child(net, 0), tape, NULL, NULL, &final));
    ck_error(EK_ERR_ARGUMENT, "NULL");
    ek_clear_error();
    ck_assert_ptr_null(ek_recurrent_forward(ek_module_child(net, 0), NULL, x, NULL, &final));
    ck_error(EK_ERR_ARGUMENT, "NULL");
    ek_tape_free(tape);
    ek_module_free(layer);
    ek_module_free(net);
    ek_tensor_free(x);
}
END_TEST

/* The layer's name stands in the message of a net. */
START_TEST(the_layer_is_named)
{
    ek_module *net = ek_sequential(ek_relu_layer(), ek_gru(3, 4, EK_BATCH_FIRST, NULL));
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(5, 6, 2));
    assert_forward_fails(EK_ERR_SHAPE, "gru(3, 4): expected (N, T, 3), got (5, 6, 2) [in layer \"1\": gru(3, 4)]", net,
                         x);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- the op ------------------------------------------------------------------------------------------------------ */

/* The layer gives its op what fits; an op that is given something else says so.  R = 6 rows, N = 2 sequences, H = 4. */
START_TEST(inputs_of_the_op)
{
    const ek_shape fitting[CELL_INPUTS] = {EK_SHAPE(6, 16), EK_SHAPE(16, 4), EK_SHAPE(16), EK_SHAPE(16),
                                           EK_SHAPE(2, 4),  EK_SHAPE(2, 4),  EK_SHAPE(16), EK_SHAPE(16),
                                           EK_SHAPE(4),     EK_SHAPE(4)};
    static const char *const expected[CELL_INPUTS] = {
        "lstm: expected projected inputs of shape (6, 16), got ", "lstm: expected projected inputs of shape (6, ",
        "lstm: expected bias_ih of shape (16,), got ", "lstm: expected bias_hh of shape (16,), got ",
        "lstm: expected the initial h of shape (2, 4), got ", "lstm: expected the initial c of shape (2, 4), got ",
        "lstm: expected gain_ih of shape (16,), got ", "lstm: expected gain_hh of shape (16,), got ",
        "lstm: expected gain_c of shape (4,), got ", "lstm: expected bias_c of shape (4,), got "};
    ek_tape *tape = ek_tape_new();
    for (int bad = 0; bad <= CELL_INPUTS; bad++)
        for (int wide = 0; wide < 2; wide++) {
            ek_tensor *in[CELL_INPUTS];
            for (int i = 0; i < CELL_INPUTS; i++) {
                ek_shape shape = fitting[i];
                if (i == bad && !wide)
                    shape.dim[shape.ndim - 1]++;
                ck_made(in[i] = ek_ones(i == bad && wide ? EK_F64 : EK_F32, shape));
            }
            const ek_lengths *lengths = ek_lengths_make(tape, 0, 1, 2, 3, NULL);
            const cell_attributes attributes = {.rows = ek_rows_make(tape, lengths, EK_ROWS_BY_STEP), .eps = 1e-5,
                                                .norm = CELL_LAYER_NORM};
            ek_tensor *states = ek_apply_cell(tape, ek_op_lstm, in, &attributes);
            if (bad == CELL_INPUTS)
                ck_made(states);
            else if (wide)
                ck_error(EK_ERR_DTYPE, "lstm: ");
            else
                ck_error(EK_ERR_SHAPE, expected[bad]);
            ck_assert_int_eq(!states, bad < CELL_INPUTS);
            for (int i = 0; i < CELL_INPUTS; i++)
                ek_tensor_free(in[i]);
            ek_tape_reset(tape);
        }
    ek_tape_free(tape);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static recurrent_case *case_in_use;

static ek_status use_a_layer(void)
{
    const recurrent_case *c = case_in_use;
    ek_status status = EK_ERR_MEMORY;
    ek_module *layer = make[c->cell](c->input, c->hidden, c->layout, &c->opts);
    ek_tensor *x = ek_ones(EK_F32, recurrent_shape(c, c->input)), *h0 = ek_ones(EK_F32, recurrent_state_shape(c));
    ek_tape *tape = ek_tape_new();
    if (layer && x && h0 && tape && ek_module_init(layer, 1) == EK_OK &&
        ek_tensor_set_lengths(x, c->lengths, c->n, 0, 1) == EK_OK && ek_tensor_set_requires_grad(x, true) == EK_OK &&
        ek_tensor_set_requires_grad(h0, true) == EK_OK) {
        ek_recurrent_state initial = {h0, c->cell == LSTM ? h0 : NULL}, final = {NULL, NULL};
        ek_tensor *y = ek_recurrent_forward(layer, tape, x, &initial, &final);
        ek_tensor *loss = ek_sum(tape, y, EK_ALL_AXES, false);
        loss = ek_add(tape, loss, ek_sum(tape, final.h, EK_ALL_AXES, false));
        status = loss ? ek_backward(tape, loss) : ek_last_status();
    }
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(h0);
    ek_module_free(layer);
    return status;
}

/* Once within the tape's first piece of memory, once with a piece of its own for much of what is needed. */
START_TEST(refused_memory)
{
    static const int64_t few[] = {2, 3, 1}, many[] = {200, 300, 100, 300};
    const int64_t *lengths = _i < 3 * CELLS ? few : many;
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.n = _i < 3 * CELLS ? 3 : 4;
    c.steps = _i < 3 * CELLS ? 4 : 300;
    c.lengths = lengths;
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS % 3);
    c.opts.num_layers = 2;
    c.opts.dropout = 0.5;
    c.opts.max_steps = 5;
    c.opts.bidirectional = true;
    case_in_use = &c;
    ck_assert_int_gt(assert_survives_refusals(use_a_layer), 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_errors");
    TCase *tcase = tcase_create("recurrent_errors");
    tcase_add_test(tcase, sizes);
    tcase_add_test(tcase, options);
    tcase_add_test(tcase, layout);
    tcase_add_test(tcase, shapes_and_types);
    tcase_add_test(tcase, lengths_of_other_axes);
    tcase_add_test(tcase, lengths_that_cannot_be);
    tcase_add_test(tcase, initial_states);
    tcase_add_test(tcase, what_is_not_a_recurrent_layer);
    tcase_add_test(tcase, the_layer_is_named);
    tcase_add_test(tcase, inputs_of_the_op);
    tcase_add_loop_test(tcase, refused_memory, 0, 2 * 3 * CELLS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
