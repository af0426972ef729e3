/* Gradient checks in float64 of every recurrent cell with every option, with an op before the layer and a function of
 * outputs and final states after it: input, initial states, all parameters. */
#include "support_recurrent.h"

#include <stdio.h>

typedef struct checked {
    const recurrent_case *c;
    ek_module *layer;
} checked;

static ek_tensor *flat(ek_tape *tape, ek_tensor *t)
{
    return ek_reshape(tape, t, EK_SHAPE(-1));
}

/* Inputs: x, then h0 and c0 where the case has them, then parameters, which the layer reads by itself. */
static ek_tensor *outputs_and_states(ek_tape *tape, ek_tensor *const *inputs, void *user)
{
    const checked *k = user;
    const bool lstm = k->c->cell == LSTM;
    ek_recurrent_state final, initial = {k->c->states ? inputs[1] : NULL, k->c->states && lstm ? inputs[2] : NULL};
    ek_tensor *x = ek_affine(tape, ek_tanh(tape, inputs[0]), 2, 0.1);
    ek_tensor *y = ek_recurrent_forward(k->layer, tape, x, &initial, &final);
    if (!y)
        return NULL;
    ek_tensor *all[] = {flat(tape, y), flat(tape, final.h), lstm ? flat(tape, final.c) : NULL};
    return ek_concat(tape, all, lstm ? 3 : 2, 0);
}

typedef struct leaves {
    ek_tensor *at[MOST_TENSORS];
    int n;
} leaves;

static ek_status gather(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    leaves *l = user;
    (void)name;
    if (kind == EK_PARAMETER) {
        ck_assert_int_lt(l->n, MOST_TENSORS);
        l->at[l->n++] = t;
    }
    return EK_OK;
}

/* The step of the difference quotient is small, for truncation errs by step⁴ times a fifth derivative, which 1/σ of
 * the few units and sequences here makes large, and relu's kink must not be stepped over; rounding, some 1e-15/step,
 * is far below 1e-7 still. */
static void check(const recurrent_case *c, bool training, int64_t max_elements)
{
    const uint64_t seed = 11;
    ek_module *layer = recurrent_drawn(c, EK_F64, 0.8, seed);
    recurrent_inputs in = recurrent_draw(c, EK_F64, seed);
    ek_module_train(layer);
    for (int i = 0; i < 2 && c->opts.norm == EK_RECURRENT_BATCH_NORM; i++) { /* running statistics that say something */
        recurrent_inputs other = recurrent_draw(c, EK_F64, seed + 20 + (uint64_t)i);
        recurrent_run run = recurrent_forward_of(layer, &other);
        recurrent_run_free(&run);
        recurrent_inputs_free(&other);
    }
    if (!training)
        ek_module_eval(layer);
    leaves all = {.n = 0};
    ek_tensor *given[] = {in.x, in.h0, in.c0};
    for (int i = 0; i < 3; i++)
        if (given[i]) {
            ck_ok(ek_tensor_set_requires_grad(given[i], true));
            all.at[all.n++] = given[i];
        }
    ck_ok(ek_module_visit(layer, gather, &all));
    ek_gradcheck_opts opts = ek_gradcheck_opts_default();
    opts.max_elements = max_elements;
    opts.step = 1e-5;
    ek_tensor *before = copy_state(layer);
    ek_gradcheck_result result;
    ek_status status = ek_gradcheck(outputs_and_states, &(checked){c, layer}, all.at, all.n, &opts, &result);
    ck_assert_msg(status == EK_OK, "%s, %s: %s", recurrent_text(c), training ? "training" : "evaluation",
                  ek_last_error());
    ck_assert_int_gt(result.checked, 0);
    assert_state("gradient check", layer, before);
    ek_tensor_free(before);
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}

enum { CELLS_AND_RELU = 4, NORMS_AND_MODES = 4 };

/* RNN, LSTM, GRU and RNN with relu. */
static recurrent_case numbered_cell(int which)
{
    recurrent_case c = recurrent_case_of(which < CELLS ? (cell_kind)which : RNN);
    if (which == CELLS)
        c.opts.nonlinearity = EK_NONLINEARITY_RELU;
    return c;
}

/* {each cell} × {no norm, LN, BN in training, BN in evaluation} per test; bias, lengths, layers, directions and initial
 * states within. */
START_TEST(every_option)
{
    static const int64_t lengths[] = {4, 2, 1, 4};
    recurrent_case c = numbered_cell(_i % CELLS_AND_RELU);
    const int norm = _i / CELLS_AND_RELU;
    c.hidden = 3;
    c.input = 2;
    c.n = 4;
    c.steps = 4;
    c.opts.norm = (ek_recurrent_norm)(norm < 3 ? norm : 2);
    c.opts.eps = 1e-2;
    for (int options = 0; options < 32; options++) {
        c.opts.bias = options & 1;
        c.lengths = options & 2 ? lengths : NULL;
        c.opts.num_layers = options & 4 ? 2 : 1;
        c.opts.bidirectional = options & 8;
        c.states = options & 16;
        c.layout = options % 3 ? EK_BATCH_FIRST : EK_TIME_FIRST;
        check(&c, norm < 3, 3);
    }
}
END_TEST

/* All elements of all inputs, and a mask with holes; the default eps. */
START_TEST(every_element)
{
    static const bool mask[] = {0, 1, 1, 0, 1, 0, /**/ 1, 1, 1, 1, 1, 1, /**/ 0, 0, 0, 1, 0, 0, /**/ 1, 0, 0, 1, 0, 1};
    recurrent_case c = numbered_cell(_i % CELLS_AND_RELU);
    const int norm = _i / CELLS_AND_RELU;
    c.hidden = 3;
    c.input = 2;
    c.n = 4;
    c.steps = 6;
    c.mask = mask;
    c.states = c.opts.bidirectional = true;
    c.opts.max_steps = 2;
    c.opts.norm = (ek_recurrent_norm)(norm < 3 ? norm : 2);
    check(&c, norm < 3, 0);
}
END_TEST

/* More units than a kernel has lanes, or sums up at a time, and not a multiple of either. */
START_TEST(wide_layers)
{
    static const int64_t lengths[] = {2, 3, 1, 3}, widths[] = {33, 71};
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.hidden = widths[_i / CELLS % 2];
    c.n = 4;
    c.steps = 3;
    c.lengths = lengths;
    c.states = true;
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS / 2);
    check(&c, true, 6);
}
END_TEST

/* ---- with dropout ------------------------------------------------------------------------------------------------ */

START_TEST(with_dropout_between_layers)
{
    for (int which = 0; which < CELLS_AND_RELU; which++) {
        static const int64_t lengths[] = {4, 2, 1, 4};
        recurrent_case c = numbered_cell(which);
        c.n = c.steps = 4;
        c.lengths = lengths;
        c.opts.num_layers = 3;
        c.opts.dropout = 0.4;
        check(&c, true, 5);
    }
}
END_TEST

/* ---- parts of the result ----------------------------------------------------------------------------------------- */

/* Of y, h and c only one is used: the gradients are those of cotangents that are 0 for the others, and the lengths of x
 * may change before the backward. */
START_TEST(only_one_result_is_used)
{
    static const int64_t lengths[] = {4, 2, 1, 4}, others[] = {1, 1, 1, 1};
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.n = c.steps = 4;
    c.lengths = lengths;
    c.states = c.opts.bidirectional = true;
    c.opts.num_layers = 2;
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS);
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
    recurrent_inputs in = recurrent_draw(&c, EK_F64, 2);
    const ek_shape y_shape = recurrent_shape(&c, 2 * c.hidden), state = recurrent_state_shape(&c);
    for (int used = 0; used < (c.cell == LSTM ? 3 : 2); used++) {
        ek_tensor *weights[3];
        for (int k = 0; k < 3; k++)
            weights[k] = k == used ? ek_ones(EK_F64, k ? state : y_shape) : ek_zeros(EK_F64, k ? state : y_shape);
        recurrent_run expected = recurrent_run_with(layer, &in, weights[0], weights[1], weights[2]);
        ek_module_clear_grad(layer);
        ek_tensor_clear_grad(in.x);
        ek_tensor_clear_grad(in.h0);
        ek_tape *tape = ek_tape_new();
        ek_recurrent_state final, initial = {in.h0, in.c0};
        ek_tensor *y = ek_recurrent_forward(layer, tape, in.x, &initial, &final);
        ek_tensor *result[] = {y, final.h, final.c};
        ck_ok(ek_tensor_set_lengths(in.x, others, c.n, 0, 1));
        ck_ok(ek_backward(tape, ek_sum(tape, result[used], EK_ALL_AXES, false)));
        ck_assert_msg(ek_tensor_equal(ek_tensor_grad(in.x), expected.dx), "%s: dx of %d", recurrent_text(&c), used);
        ck_assert_msg(ek_tensor_equal(ek_tensor_grad(in.h0), expected.dh0), "%s: dh0 of %d", recurrent_text(&c), used);
        leaves all = {.n = 0};
        ck_ok(ek_module_visit(layer, gather, &all));
        for (int k = 0; k < all.n; k++)
            ck_assert_msg(ek_tensor_equal(ek_tensor_grad(all.at[k]), expected.gradient[k]), "%s: parameter %d of %d",
                          recurrent_text(&c), k, used);
        recurrent_set_lengths(&c, in.x);
        ek_tape_free(tape);
        recurrent_run_free(&expected);
        for (int k = 0; k < 3; k++)
            ek_tensor_free(weights[k]);
    }
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_gradients");
    TCase *tcase = tcase_create("recurrent_gradients");
    tcase_add_loop_test(tcase, every_option, 0, CELLS_AND_RELU * NORMS_AND_MODES);
    tcase_add_loop_test(tcase, every_element, 0, CELLS_AND_RELU * NORMS_AND_MODES);
    tcase_add_loop_test(tcase, wide_layers, 0, CELLS * 2 * 3);
    tcase_add_test(tcase, with_dropout_between_layers);
    tcase_add_loop_test(tcase, only_one_result_is_used, 0, 3 * CELLS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
