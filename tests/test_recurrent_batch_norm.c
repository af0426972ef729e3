/* Recurrent BatchNorm: by hand, what statistics each step is normalized by and which of them move, when, and when not.
 * All cells with random numbers: test_recurrent_oracle.c. */
#include "core.h"
#include "support_recurrent.h"

#include <stdio.h>

/* h = tanh(gain·(x − m)/√(v + eps) + gain·0): one unit, W_ih = 1, W_hh = 0, no bias; the recurrent norm sees zeros. */
static ek_module *one_unit(ek_recurrent_opts opts)
{
    opts.bias = false;
    opts.norm = EK_RECURRENT_BATCH_NORM;
    ek_module *layer = ek_rnn(1, 1, EK_BATCH_FIRST, &opts);
    ck_made(layer);
    ck_ok(ek_module_to(layer, EK_F64));
    ek_data_f64(ek_module_parameter(layer, "weight_ih_l0"))[0] = 1;
    ek_data_f64(ek_module_parameter(layer, "weight_hh_l0"))[0] = 0;
    if (opts.bidirectional) {
        ek_data_f64(ek_module_parameter(layer, "weight_ih_l0_reverse"))[0] = 1;
        ek_data_f64(ek_module_parameter(layer, "weight_hh_l0_reverse"))[0] = 0;
    }
    return layer;
}

/* What one_unit gives for x and these statistics; gains start at 0.1, in float32. */
static double unit(double x, double mean, double var)
{
    return tanh((double)0.1F * (x - mean) / sqrt(var + 1e-5));
}

enum { T = 3 };

/* (N, 3, 1) with lengths. */
static ek_tensor *sequences(int64_t n, const double *values, const int64_t *lengths)
{
    ek_tensor *x = ek_from_array(EK_F64, EK_SHAPE(n, T, 1), values);
    ck_made(x);
    if (lengths)
        ck_ok(ek_tensor_set_lengths(x, lengths, n, 0, 1));
    return x;
}

static const double near = 1e-14;

/* Two sequences at step 0, one from there on. */
static ek_tensor *two_and_one(void)
{
    return sequences(2, (const double[]){1, 9, 9, 3, 5, 7}, (const int64_t[]){1, 3});
}

START_TEST(a_step_of_one_sequence_uses_running_statistics)
{
    ek_module *layer = one_unit(ek_recurrent_opts_default());
    ek_tensor *x = two_and_one(), *y = apply_layer(layer, x);
    /* Step 0: 1 and 3, mean 2, variance 1, unbiased 2.  Steps 1 and 2: nothing is known yet. */
    const double first[] = {unit(1, 2, 1), 0, 0, unit(3, 2, 1), unit(5, 0, 1), unit(7, 0, 1)};
    for (int i = 0; i < 6; i++)
        ck_near(ek_tensor_at(y, i), first[i], near);
    ck_near(state_at(layer, "running_mean_ih_l0", 0), 0.2, near);
    ck_near(state_at(layer, "running_var_ih_l0", 0), 0.9 + 0.1 * 2, near);
    ck_near(state_at(layer, "running_mean_hh_l0", 0), 0, near);
    ck_near(state_at(layer, "running_var_hh_l0", 0), 0.9, near);
    ck_assert(state_at(layer, "num_batches_tracked_l0", 0) == 1);
    for (int s = 1; s < 64; s++) {
        ck_assert(state_at(layer, "num_batches_tracked_l0", s) == 0);
        ck_assert(state_at(layer, "running_mean_ih_l0", s) == 0 && state_at(layer, "running_var_ih_l0", s) == 1);
        ck_assert(state_at(layer, "running_mean_hh_l0", s) == 0 && state_at(layer, "running_var_hh_l0", s) == 1);
    }
    /* The second time step 0's are known, as the first batch left them. */
    ek_tensor_free(y);
    y = apply_layer(layer, x);
    ck_near(ek_tensor_at(y, 3), unit(3, 2, 1), near);
    ck_near(ek_tensor_at(y, 4), unit(5, 0.2, 1.1), near);
    ck_near(ek_tensor_at(y, 5), unit(7, 0.2, 1.1), near);
    ck_near(state_at(layer, "running_mean_ih_l0", 0), 0.9 * 0.2 + 0.1 * 2, near);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(layer);
}
END_TEST

/* Backward in time, steps count from the end of each sequence: 1 and 7 meet at step 0. */
START_TEST(steps_backward_count_from_the_end)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.bidirectional = true;
    ek_module *layer = one_unit(opts);
    ek_tensor *x = two_and_one(), *y = apply_layer(layer, x);
    const double backward[] = {unit(1, 4, 9), 0, 0, unit(3, 0, 1), unit(5, 0, 1), unit(7, 4, 9)};
    for (int i = 0; i < 6; i++)
        ck_near(ek_tensor_at(y, 2 * i + 1), backward[i], near);
    ck_near(ek_tensor_at(y, 0), unit(1, 2, 1), near);
    ck_near(state_at(layer, "running_mean_ih_l0_reverse", 0), 0.4, near);
    ck_near(state_at(layer, "running_var_ih_l0_reverse", 0), 0.9 + 0.1 * 18, near);
    ck_near(state_at(layer, "running_mean_ih_l0", 0), 0.2, near);
    ck_assert(state_at(layer, "num_batches_tracked_l0_reverse", 0) == 1);
    ck_assert(state_at(layer, "num_batches_tracked_l0_reverse", 1) == 0);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(layer);
}
END_TEST

/* Training normalizes steps beyond max_steps by the batch, and keeps nothing of them; evaluation falls back to the last
 * step that has been tracked. */
START_TEST(steps_beyond_max_steps)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.max_steps = 2;
    opts.momentum = 1;
    ek_module *layer = one_unit(opts);
    ck_assert_str_eq(EK_TEXT(ek_tensor_shape(ek_module_buffer(layer, "running_mean_ih_l0"))), "(2, 1)");
    ek_tensor *x = sequences(2, (const double[]){1, 5, 10, 3, 7, 30}, NULL), *y = apply_layer(layer, x);
    const double trained[] = {unit(1, 2, 1), unit(5, 6, 1), unit(10, 20, 100)};
    for (int i = 0; i < T; i++)
        ck_near(ek_tensor_at(y, i), trained[i], near);
    ck_near(state_at(layer, "running_mean_ih_l0", 1), 6, near);
    ck_assert(state_at(layer, "num_batches_tracked_l0", 1) == 1);
    ek_tensor_free(y);
    ek_module_eval(layer);
    y = apply_layer(layer, x);
    const double evaluated[] = {unit(1, 2, 2), unit(5, 6, 2), unit(10, 6, 2)};
    for (int i = 0; i < T; i++)
        ck_near(ek_tensor_at(y, i), evaluated[i], near);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(layer);
}
END_TEST

START_TEST(momentum_of_any_kind)
{
    const double momentum[] = {0, 0.3, 1, EK_MOMENTUM_CUMULATIVE};
    for (int k = 0; k < 4; k++) {
        ek_recurrent_opts opts = ek_recurrent_opts_default();
        opts.momentum = momentum[k];
        ek_module *layer = one_unit(opts);
        double mean = 0, var = 1;
        for (int batch = 1; batch <= 3; batch++) {
            ek_tensor *x = sequences(2, (const double[]){batch, 0, 0, 3 * batch, 0, 0}, NULL);
            const double fraction = momentum[k] < 0 ? 1. / batch : momentum[k];
            mean += fraction * (2 * batch - mean);
            var += fraction * (2 * batch * batch - var);
            feed(layer, x);
            ck_near(state_at(layer, "running_mean_ih_l0", 0), mean, 1e-13);
            ck_near(state_at(layer, "running_var_ih_l0", 0), var, 1e-13);
            ck_assert(state_at(layer, "num_batches_tracked_l0", 2) == batch);
            ek_tensor_free(x);
        }
        ek_module_free(layer);
    }
}
END_TEST

/* ---- when nothing moves ------------------------------------------------------------------------------------------ */

START_TEST(a_batch_of_one_moves_nothing)
{
    ek_module *layer = one_unit(ek_recurrent_opts_default());
    ek_tensor *before = copy_state(layer), *x = sequences(1, (const double[]){1, 2, 3}, NULL);
    feed(layer, x);
    assert_state("a batch of one", layer, before);
    ek_tensor_free(before);
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

START_TEST(a_forward_that_fails_moves_nothing)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.num_layers = 2;
    opts.dropout = 0.5;
    ek_module *net = ek_sequential(ek_lstm(3, 4, EK_BATCH_FIRST, &opts), ek_linear(5, 2, NULL));
    ck_made(net);
    ck_ok(ek_module_init(net, 1));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 6, 3), 0, 1, 2);
    assert_forward_fails(EK_ERR_SHAPE, "linear(5, 2): expected (…, 5), got (4, 6, 4)", net, x);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(evaluation_moves_nothing)
{
    for (int cell = 0; cell < CELLS; cell++) {
        recurrent_case c = recurrent_case_of((cell_kind)cell);
        c.opts.norm = EK_RECURRENT_BATCH_NORM;
        ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
        ek_tensor *x = recurrent_input(&c, EK_F32, 1);
        feed(layer, x);
        ek_module_eval(layer);
        ek_tensor *before = copy_state(layer);
        feed(layer, x);
        assert_state("evaluation", layer, before);
        ek_tensor_free(before);
        ek_tensor_free(x);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- numbers that are not finite --------------------------------------------------------------------------------- */

START_TEST(statistics_that_are_not_finite_are_not_kept)
{
    const double bad[] = {NAN, INFINITY, 1e200}; /* the last has a variance beyond float64 */
    for (int k = 0; k < 3; k++) {
        ek_module *layer = one_unit(ek_recurrent_opts_default());
        ek_tensor *before = copy_state(layer);
        ek_tensor *x = sequences(2, (const double[]){1, bad[k], 3, 4, -bad[k], 6}, NULL);
        ek_clear_warning();
        feed(layer, x);
        assert_state("not finite", layer, before);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 1);
        ck_assert_msg(strstr(ek_last_warning(), "rnn(1, 1, batch norm, no bias)") &&
                          strstr(ek_last_warning(), "the batch statistics of step 1 are not finite; the running ones "
                                                    "were left as they were (1 such batches so far)"),
                      "%s", ek_last_warning());
        feed(layer, x);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 2);
        ck_ok(ek_module_init(layer, 0));
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 0);
        ek_tensor_free(before);
        ek_tensor_free(x);
        ek_module_free(layer);
    }
}
END_TEST

/* A variance that a double holds and the float32 buffer does not. */
START_TEST(what_overflows_the_buffer_is_not_kept)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    ek_module *net = ek_sequential(ek_tanh_layer(), ek_gru(1, 1, EK_BATCH_FIRST, &opts));
    ek_module *layer = ek_module_child(net, 1);
    ck_ok(ek_module_init(net, 1));
    for (int g = 0; g < 3; g++)
        ek_data_f32(ek_module_parameter(net, "1.weight_ih_l0"))[g] = 1e30F;
    ek_tensor *before = copy_state(net), *x = normal(EK_F32, EK_SHAPE(4, 2, 1), 0, 1, 2);
    for (int64_t i = 0; i < 4; i++)
        ek_data_f32(x)[2 * i] = 0; /* step 0 is fine */
    ek_tensor *y = apply_layer(net, x);
    for (int64_t i = 0; i < ek_tensor_numel(y); i++)
        ck_assert(isfinite(ek_tensor_at(y, i)));
    assert_state("overflow", net, before);
    ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
    ck_assert_int_eq(ek_module_non_finite_batches(layer), 1);
    ck_assert_msg(strstr(ek_last_warning(), "in layer \"1\": the batch statistics of step 1 are not finite"), "%s",
                  ek_last_warning());
    ek_tensor *all[] = {before, x, y};
    for (int i = 0; i < 3; i++)
        ek_tensor_free(all[i]);
    ek_module_free(net);
}
END_TEST

/* The first step multiplies an h of zeros: no variance, and with eps = 0 nothing below the root.  x̂ is 0 there. */
START_TEST(no_variance_and_no_eps)
{
    for (int k = 0; k < 2 * CELLS; k++) {
        recurrent_case c = recurrent_case_of((cell_kind)(k % CELLS));
        c.opts.norm = k < CELLS ? EK_RECURRENT_LAYER_NORM : EK_RECURRENT_BATCH_NORM;
        c.opts.eps = 0;
        c.steps = 1;
        ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
        recurrent_inputs in = recurrent_draw(&c, EK_F64, 3);
        recurrent_answer expected = recurrent_oracle(&c, layer, &in);
        recurrent_run run = recurrent_run_of(layer, &c, &in);
        assert_answer(recurrent_text(&c), &expected, &run, layer, recurrent_tolerance(EK_F64, &c, 1, 10));
        for (int p = 0; p < run.parameters; p++)
            for (int64_t i = 0; i < ek_tensor_numel(run.gradient[p]); i++)
                ck_assert(isfinite(ek_tensor_at(run.gradient[p], i)));
        recurrent_answer_free(&expected);
        recurrent_run_free(&run);
        recurrent_inputs_free(&in);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- the choice of statistics ------------------------------------------------------------------------------------ */

static bool moved(ek_module *layer, ek_tensor *x)
{
    ek_tensor *before = copy_state(layer);
    feed(layer, x);
    ek_tensor *after = copy_state(layer);
    const bool same = ek_tensor_equal(before, after);
    ek_tensor_free(before);
    ek_tensor_free(after);
    return !same;
}

START_TEST(the_choice_of_statistics)
{
    ek_module *layer = one_unit(ek_recurrent_opts_default());
    ek_module *net = ek_sequential(layer);
    ek_tensor *x = sequences(2, (const double[]){1, 5, 10, 3, 7, 30}, NULL);
    ck_assert(moved(net, x));
    const double mean = state_at(layer, "running_mean_ih_l0", 0), var = state_at(layer, "running_var_ih_l0", 0);
    const struct {
        ek_norm_statistics choice;
        bool training, running, moves;
    } cases[] = {
        {EK_STATS_FROZEN, true, true, false}, {EK_STATS_FROZEN, false, true, false},
        {EK_STATS_BATCH, false, false, false}, {EK_STATS_AUTO, false, true, false},
        {EK_STATS_RUNNING, false, true, false}, {EK_STATS_RUNNING, true, true, true},
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        ck_ok(ek_module_set_norm_statistics(net, cases[k].choice));
        ek_module_eval(net);
        if (cases[k].training)
            ek_module_train(net);
        ek_tensor *before = copy_state(net), *y = apply_layer(net, x), *after = copy_state(net);
        ck_assert_int_eq(!ek_tensor_equal(before, after), cases[k].moves);
        ck_near(ek_tensor_at(y, 0), cases[k].running ? unit(1, mean, var) : unit(1, 2, 1), near);
        ek_tensor *all[] = {before, y, after};
        for (int i = 0; i < 3; i++)
            ek_tensor_free(all[i]);
    }
    ek_tensor_free(x);
    ek_module_free(net);
    layer = ek_lstm(1, 1, EK_BATCH_FIRST, NULL);
    ck_assert_int_eq(ek_module_set_norm_statistics(layer, EK_STATS_FROZEN), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "no norm with running statistics at or below lstm(1, 1)");
    ek_module_free(layer);
}
END_TEST

START_TEST(evaluation_before_any_batch_is_warned_of)
{
    ek_module *layer = one_unit(ek_recurrent_opts_default());
    ek_tensor *x = sequences(2, (const double[]){1, 5, 10, 3, 7, 30}, NULL);
    ek_module_eval(layer);
    ek_clear_warning();
    feed(layer, x);
    ck_assert_msg(strstr(ek_last_warning(), "rnn(1, 1, batch norm, no bias): normalizing by running statistics that no "
                                            "batch has updated yet: train first, or load them"),
                  "%s", ek_last_warning());
    ek_module_train(layer);
    feed(layer, x);
    ek_module_eval(layer);
    ek_clear_warning();
    feed(layer, x);
    ck_assert_str_eq(ek_last_warning(), "");
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

/* ---- first values ------------------------------------------------------------------------------------------------ */

static ek_status first_value(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    const recurrent_case *c = user;
    const double gain = c->opts.norm == EK_RECURRENT_BATCH_NORM ? (double)0.1F : 1;
    const double expected = strstr(name, "gain") ? gain : strstr(name, "var") ? 1 : 0;
    const bool of_cell = strstr(name, "_c_") != NULL;
    const int64_t units = of_cell ? c->hidden : recurrent_gates(c->cell) * c->hidden;
    if (strstr(name, "weight"))
        return EK_OK;
    for (int64_t i = 0; i < ek_tensor_numel(t); i++)
        ck_assert_msg(ek_tensor_at(t, i) == expected, "%s starts at %g", name, ek_tensor_at(t, i));
    ck_assert_int_eq(kind == EK_BUFFER, strstr(name, "running") || strstr(name, "tracked"));
    if (strstr(name, "tracked"))
        ck_assert(ek_tensor_dtype(t) == EK_I64 && ek_tensor_numel(t) == c->opts.max_steps);
    else
        ck_assert_int_eq(ek_tensor_numel(t), kind == EK_BUFFER ? c->opts.max_steps * units : units);
    return EK_OK;
}

typedef struct name_list {
    char text[2000];
} name_list;

static ek_status append_name(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    name_list *list = user;
    (void)t;
    (void)kind;
    const size_t used = strlen(list->text);
    snprintf(list->text + used, sizeof list->text - used, "%s ", name);
    return EK_OK;
}

START_TEST(names_and_first_values_of_norms)
{
    static const char *const names[CELLS] = {
        "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 gain_ih_l0 gain_hh_l0 ",
        "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 gain_ih_l0 gain_hh_l0 gain_c_l0 bias_c_l0 ",
        "weight_ih_l0 weight_hh_l0 bias_ih_l0 bias_hh_l0 gain_ih_l0 gain_hh_l0 "};
    static const char plain[] = "running_mean_ih_l0 running_var_ih_l0 running_mean_hh_l0 running_var_hh_l0 "
                                "num_batches_tracked_l0 ";
    static const char with_c[] = "running_mean_ih_l0 running_var_ih_l0 running_mean_hh_l0 running_var_hh_l0 "
                                 "running_mean_c_l0 running_var_c_l0 num_batches_tracked_l0 ";
    static const char *const buffers[CELLS] = {plain, with_c, plain};
    for (int k = 0; k < 2 * CELLS; k++) {
        recurrent_case c = recurrent_case_of((cell_kind)(k % CELLS));
        c.opts.norm = k < CELLS ? EK_RECURRENT_LAYER_NORM : EK_RECURRENT_BATCH_NORM;
        c.opts.max_steps = 7;
        ek_module *layer = recurrent_layer(&c);
        name_list list = {""};
        ck_ok(ek_module_visit(layer, append_name, &list));
        char expected[2000];
        snprintf(expected, sizeof expected, "%s%s", names[c.cell], k < CELLS ? "" : buffers[c.cell]);
        ck_assert_str_eq(list.text, expected);
        ck_ok(ek_module_visit(layer, first_value, &c));
        ek_module_free(layer);
    }
}
END_TEST

int main(void)
{
    return RUN_TESTS("recurrent_batch_norm", a_step_of_one_sequence_uses_running_statistics,
                     steps_backward_count_from_the_end, steps_beyond_max_steps, momentum_of_any_kind,
                     a_batch_of_one_moves_nothing, a_forward_that_fails_moves_nothing, evaluation_moves_nothing,
                     statistics_that_are_not_finite_are_not_kept, what_overflows_the_buffer_is_not_kept,
                     no_variance_and_no_eps, the_choice_of_statistics, evaluation_before_any_batch_is_warned_of,
                     names_and_first_values_of_norms);
}
