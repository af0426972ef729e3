/* What a recurrent layer computes for a sequence does not depend on how far it was padded, with what, or beside which
 * others: the same bits, but for the last, where the matrix products have another shape. */
#include "support_recurrent.h"

#include <stdio.h>

enum { CELLS_AND_NORMS = CELLS * 3, SEQUENCES = 5, STEPS = 6 };

static const int64_t lengths[SEQUENCES] = {4, 6, 1, 4, 2}; /* unsorted, a tie, a single step; nobody reaches the ends */

/* Each cell with each norm, two layers, both directions, initial states. */
static recurrent_case numbered_case(int which)
{
    recurrent_case c = recurrent_case_of((cell_kind)(which % CELLS));
    c.n = SEQUENCES;
    c.steps = STEPS + 1;
    c.lengths = lengths;
    c.states = c.opts.bidirectional = true;
    c.opts.num_layers = 2;
    c.opts.norm = (ek_recurrent_norm)(which / CELLS);
    c.layout = which % 2 ? EK_TIME_FIRST : EK_BATCH_FIRST;
    return c;
}

static double number_at(const recurrent_case *c, const ek_tensor *t, int64_t i, int64_t s, int64_t f)
{
    const int64_t features = ek_tensor_dim(t, 2);
    return ek_tensor_at(t, (c->layout == EK_BATCH_FIRST ? i * c->steps + s : s * c->n + i) * features + f);
}

static void set_number(const recurrent_case *c, ek_tensor *t, int64_t i, int64_t s, int64_t f, double value)
{
    const int64_t features = ek_tensor_dim(t, 2);
    const int64_t at = (c->layout == EK_BATCH_FIRST ? i * c->steps + s : s * c->n + i) * features + f;
    if (ek_tensor_dtype(t) == EK_F32)
        ek_data_f32(t)[at] = (float)value;
    else
        ek_data_f64(t)[at] = value;
}

static bool is_valid(const recurrent_case *c, int64_t i, int64_t s)
{
    return c->lengths ? s < c->lengths[i] : c->mask ? c->mask[i * c->steps + s] : true;
}

/* Exactly 0 in the padding of (N, T, F) or (T, N, F). */
static void assert_zero_padding(const char *what, const recurrent_case *c, const ek_tensor *t)
{
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t s = 0; s < c->steps; s++)
            for (int64_t f = 0; f < ek_tensor_dim(t, 2) && !is_valid(c, i, s); f++)
                ck_each(number_at(c, t, i, s, f) == 0, "%s: %s is %g in the padding (sequence %lld, step %lld)",
                        recurrent_text(c), what, number_at(c, t, i, s, f), (long long)i, (long long)s);
}

/* The valid steps of two tensors that are padded differently: the same bits. */
static void assert_same_steps(const char *what, const recurrent_case *a, const ek_tensor *ta, const recurrent_case *b,
                              const ek_tensor *tb)
{
    for (int64_t i = 0; i < a->n; i++)
        for (int64_t s = 0; s < a->lengths[i]; s++)
            for (int64_t f = 0; f < ek_tensor_dim(ta, 2); f++)
                ck_each(number_at(a, ta, i, s, f) == number_at(b, tb, i, s, f),
                        "%s: %s differs with the padding (sequence %lld, step %lld)", recurrent_text(b), what,
                        (long long)i, (long long)s);
}

/* What has no steps is compared as a whole. */
static recurrent_run without_steps(recurrent_run run)
{
    run.y = run.dx = NULL;
    return run;
}

/* ---- the amount of padding --------------------------------------------------------------------------------------- */

START_TEST(any_amount_of_padding_gives_the_same_bits)
{
    const int64_t steps[] = {STEPS, STEPS + 1, STEPS + 5, 2 * STEPS};
    const ek_dtype dtype = _i % 2 ? EK_F64 : EK_F32;
    recurrent_case tight = numbered_case(_i / 2);
    tight.steps = STEPS;
    ek_tensor *state = NULL;
    recurrent_run first = {.parameters = 0};
    for (int k = 0; k < 4; k++) {
        recurrent_case c = tight;
        c.steps = steps[k];
        ek_module *again = recurrent_drawn(&c, dtype, 0.5, 2); /* running statistics start anew */
        recurrent_inputs padded = recurrent_draw(&c, dtype, 3);
        recurrent_run run = recurrent_run_of(again, &c, &padded);
        assert_zero_padding("y", &c, run.y);
        assert_zero_padding("dx", &c, run.dx);
        if (k == 0) {
            first = run;
            state = copy_state(again);
        } else {
            assert_same_steps("y", &tight, first.y, &c, run.y);
            assert_same_steps("dx", &tight, first.dx, &c, run.dx);
            const recurrent_run a = without_steps(first), b = without_steps(run);
            assert_same_run(recurrent_text(&c), &a, &b);
            assert_state("padding", again, state);
            recurrent_run_free(&run);
        }
        recurrent_inputs_free(&padded);
        ek_module_free(again);
    }
    recurrent_run_free(&first);
    ek_tensor_free(state);
}
END_TEST

/* NaN, infinities and huge numbers in the padding of x and of dL/dy. */
START_TEST(nothing_in_the_padding_counts)
{
    const double garbage[] = {NAN, 1e30, -INFINITY};
    const recurrent_case c = numbered_case(_i);
    recurrent_run first = {.parameters = 0};
    ek_tensor *state = NULL;
    for (int k = -1; k < 3; k++) {
        ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 2);
        recurrent_inputs in = recurrent_draw(&c, EK_F32, 3);
        ek_tensor *dy = normal(EK_F32, recurrent_shape(&c, 2 * c.hidden), 0, 1, 8);
        ek_tensor *dh = recurrent_initial(&c, EK_F32, 9), *dc = recurrent_initial(&c, EK_F32, 10);
        for (int64_t i = 0; k >= 0 && i < c.n; i++)
            for (int64_t s = lengths[i]; s < c.steps; s++) {
                for (int64_t f = 0; f < c.input; f++)
                    set_number(&c, in.x, i, s, f, garbage[k]);
                for (int64_t f = 0; f < 2 * c.hidden; f++)
                    set_number(&c, dy, i, s, f, garbage[k]);
            }
        recurrent_run run = recurrent_run_with(layer, &in, dy, dh, dc);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 0);
        if (k < 0) {
            first = run;
            state = copy_state(layer);
        } else {
            assert_same_run("garbage in the padding", &first, &run);
            assert_state("garbage in the padding", layer, state);
            recurrent_run_free(&run);
        }
        ek_tensor *all[] = {dy, dh, dc};
        for (int j = 0; j < 3; j++)
            ek_tensor_free(all[j]);
        recurrent_inputs_free(&in);
        ek_module_free(layer);
    }
    recurrent_run_free(&first);
    ek_tensor_free(state);
}
END_TEST

/* Lengths that are all T say nothing. */
START_TEST(full_lengths_are_no_lengths)
{
    static const int64_t full[SEQUENCES] = {STEPS, STEPS, STEPS, STEPS, STEPS};
    recurrent_case c = numbered_case(_i), whole = c;
    whole.steps = c.steps = STEPS;
    c.lengths = full;
    whole.lengths = NULL;
    ek_module *a = recurrent_drawn(&c, EK_F32, 0.5, 2), *b = recurrent_drawn(&whole, EK_F32, 0.5, 2);
    recurrent_inputs with = recurrent_draw(&c, EK_F32, 3), without = recurrent_draw(&whole, EK_F32, 3);
    recurrent_run one = recurrent_run_of(a, &c, &with), other = recurrent_run_of(b, &whole, &without);
    assert_same_run("full lengths", &one, &other);
    ck_assert(!ek_tensor_lengths(other.y));
    ck_assert(ek_tensor_lengths(one.y));
    recurrent_run_free(&one);
    recurrent_run_free(&other);
    recurrent_inputs_free(&with);
    recurrent_inputs_free(&without);
    ek_module_free(a);
    ek_module_free(b);
}
END_TEST

/* ---- one sequence alone ------------------------------------------------------------------------------------------ */

/* Columns of sequence i of a state (ways, N, H). */
static ek_tensor *state_of_sequence(const recurrent_case *c, const ek_tensor *all, int64_t i)
{
    const int64_t ways = ek_tensor_dim(all, 0);
    ek_tensor *t = ek_zeros(EK_F64, EK_SHAPE(ways, 1, c->hidden));
    for (int64_t w = 0; w < ways; w++)
        for (int64_t u = 0; u < c->hidden; u++)
            ek_data_f64(t)[w * c->hidden + u] = ek_tensor_at(all, (w * c->n + i) * c->hidden + u);
    return t;
}

/* The valid steps of sequence i, (1, length, F) or (length, 1, F). */
static ek_tensor *steps_of_sequence(const recurrent_case *c, const ek_tensor *all, int64_t i)
{
    const int64_t features = ek_tensor_dim(all, 2);
    ek_tensor *t = ek_zeros(EK_F64, c->layout == EK_BATCH_FIRST ? EK_SHAPE(1, c->lengths[i], features)
                                                                : EK_SHAPE(c->lengths[i], 1, features));
    for (int64_t s = 0; s < c->lengths[i]; s++)
        for (int64_t f = 0; f < features; f++)
            ek_data_f64(t)[s * features + f] = number_at(c, all, i, s, f);
    return t;
}

static void close_and_free(const char *what, ek_tensor *ours, ek_tensor *expected, double tolerance)
{
    assert_close(what, ours, expected, 0, tolerance);
    ek_tensor_free(expected);
}

/* BatchNorm in evaluation: its batch statistics are what makes one sequence depend on the others. */
START_TEST(a_sequence_alone_gives_what_it_gives_in_the_batch)
{
    recurrent_case c = numbered_case(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 2);
    if (c.opts.norm == EK_RECURRENT_BATCH_NORM)
        ek_module_eval(layer);
    recurrent_inputs in = recurrent_draw(&c, EK_F64, 3);
    ek_tensor *dy = normal(EK_F64, recurrent_shape(&c, 2 * c.hidden), 0, 1, 8);
    ek_tensor *dh = recurrent_initial(&c, EK_F64, 9), *dc = recurrent_initial(&c, EK_F64, 10);
    recurrent_run together = recurrent_run_with(layer, &in, dy, dh, dc);
    ek_tensor *sum[MOST_TENSORS] = {NULL};
    /* Gradients of parameters add up n of them, of steps that each are of order 10. */
    const double tolerance = recurrent_tolerance(EK_F64, &c, 10 * (double)c.n, c.opts.norm ? 1 / sqrt(c.opts.eps) : 1);
    for (int64_t i = 0; i < c.n; i++) {
        recurrent_inputs alone = {steps_of_sequence(&c, in.x, i), state_of_sequence(&c, in.h0, i),
                                  in.c0 ? state_of_sequence(&c, in.c0, i) : NULL};
        ek_tensor *dy_i = steps_of_sequence(&c, dy, i), *dh_i = state_of_sequence(&c, dh, i);
        ek_tensor *dc_i = state_of_sequence(&c, dc, i);
        recurrent_run run = recurrent_run_with(layer, &alone, dy_i, dh_i, dc_i);
        close_and_free("y", run.y, steps_of_sequence(&c, together.y, i), tolerance);
        close_and_free("dx", run.dx, steps_of_sequence(&c, together.dx, i), tolerance);
        close_and_free("h", run.h, state_of_sequence(&c, together.h, i), tolerance);
        close_and_free("dh0", run.dh0, state_of_sequence(&c, together.dh0, i), tolerance);
        if (c.cell == LSTM) {
            close_and_free("c", run.c, state_of_sequence(&c, together.c, i), tolerance);
            close_and_free("dc0", run.dc0, state_of_sequence(&c, together.dc0, i), tolerance);
        }
        for (int k = 0; k < run.parameters; k++) {
            if (i == 0)
                ck_made(sum[k] = ek_zeros(EK_F64, ek_tensor_shape(run.gradient[k])));
            for (int64_t j = 0; j < ek_tensor_numel(sum[k]); j++)
                ek_data_f64(sum[k])[j] += ek_tensor_at(run.gradient[k], j);
        }
        ek_tensor *all[] = {dy_i, dh_i, dc_i};
        for (int j = 0; j < 3; j++)
            ek_tensor_free(all[j]);
        recurrent_inputs_free(&alone);
        recurrent_run_free(&run);
    }
    for (int k = 0; k < together.parameters; k++)
        close_and_free("gradient of a parameter", together.gradient[k], sum[k], tolerance);
    ek_tensor *all[] = {dy, dh, dc};
    for (int j = 0; j < 3; j++)
        ek_tensor_free(all[j]);
    recurrent_inputs_free(&in);
    recurrent_run_free(&together);
    ek_module_free(layer);
}
END_TEST

/* A NaN in a valid step shows in the outputs of its own sequence from there on, and nowhere else. */
START_TEST(a_nan_stays_in_its_sequence)
{
    enum { CELLS_AND_RELU = CELLS + 1, WHO = 1, WHEN = 2 };
    recurrent_case c = numbered_case(_i % CELLS_AND_RELU < CELLS ? _i % CELLS_AND_RELU : RNN);
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS_AND_RELU);
    c.opts.bidirectional = false;
    if (_i % CELLS_AND_RELU == CELLS)
        c.opts.nonlinearity = EK_NONLINEARITY_RELU;
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 2);
    recurrent_inputs in = recurrent_draw(&c, EK_F32, 3);
    recurrent_run clean = recurrent_forward_of(layer, &in);
    set_number(&c, in.x, WHO, WHEN, 0, NAN);
    recurrent_run run = recurrent_forward_of(layer, &in);
    for (int64_t i = 0; i < c.n; i++)
        for (int64_t s = 0; s < c.steps; s++)
            for (int64_t u = 0; u < c.hidden; u++) {
                const double v = number_at(&c, run.y, i, s, u), before = number_at(&c, clean.y, i, s, u);
                const bool reached = i == WHO && s >= WHEN && s < lengths[i];
                ck_each(reached ? isnan(v) : v == before, "%s: sequence %lld, step %lld: %g, was %g",
                        recurrent_text(&c), (long long)i, (long long)s, v, before);
            }
    recurrent_run_free(&clean);
    recurrent_run_free(&run);
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}
END_TEST

/* ---- masks with holes -------------------------------------------------------------------------------------------- */

/* A sequence with holes is the sequence without the steps that are not valid. */
START_TEST(holes_are_skipped)
{
    static const bool mask[SEQUENCES * (STEPS + 1)] = {
        0, 1, 1, 0, 1, 0, 1, /* 4 */ 1, 1, 1, 0, 1, 1, 1, /* 6 */ 0, 0, 0, 0, 0, 0, 1, /* 1 */
        1, 0, 1, 0, 1, 1, 0, /* 4 */ 1, 1, 0, 0, 0, 0, 0, /* 2 */
    };
    recurrent_case dense = numbered_case(_i), holes = dense;
    holes.lengths = NULL;
    holes.mask = mask;
    ek_module *a = recurrent_drawn(&dense, EK_F32, 0.5, 2), *b = recurrent_drawn(&holes, EK_F32, 0.5, 2);
    recurrent_inputs in = recurrent_draw(&dense, EK_F32, 3), spread = recurrent_draw(&holes, EK_F32, 4);
    ek_tensor *dy = normal(EK_F32, recurrent_shape(&dense, 2 * dense.hidden), 0, 1, 8);
    ek_tensor *dy_spread = ek_tensor_clone(dy);
    ek_tensor *dh = recurrent_initial(&dense, EK_F32, 9), *dc = recurrent_initial(&dense, EK_F32, 10);
    ek_tensor *states[] = {spread.h0, spread.c0};
    spread.h0 = ek_tensor_clone(in.h0);
    spread.c0 = in.c0 ? ek_tensor_clone(in.c0) : NULL;
    int64_t step_of[SEQUENCES][STEPS + 1];
    for (int64_t i = 0; i < dense.n; i++) {
        int64_t k = 0;
        for (int64_t s = 0; s < dense.steps; s++)
            if (mask[i * dense.steps + s]) {
                for (int64_t f = 0; f < dense.input; f++)
                    set_number(&holes, spread.x, i, s, f, number_at(&dense, in.x, i, k, f));
                for (int64_t f = 0; f < 2 * dense.hidden; f++)
                    set_number(&holes, dy_spread, i, s, f, number_at(&dense, dy, i, k, f));
                step_of[i][k++] = s;
            }
        ck_assert_int_eq(k, lengths[i]);
    }
    recurrent_run one = recurrent_run_with(a, &in, dy, dh, dc);
    recurrent_run other = recurrent_run_with(b, &spread, dy_spread, dh, dc);
    assert_zero_padding("y", &holes, other.y);
    assert_zero_padding("dx", &holes, other.dx);
    for (int64_t i = 0; i < dense.n; i++)
        for (int64_t k = 0; k < lengths[i]; k++) {
            for (int64_t f = 0; f < 2 * dense.hidden; f++)
                ck_each(number_at(&dense, one.y, i, k, f) == number_at(&holes, other.y, i, step_of[i][k], f),
                        "%s: y of sequence %lld, step %lld", recurrent_text(&holes), (long long)i, (long long)k);
            for (int64_t f = 0; f < dense.input; f++)
                ck_each(number_at(&dense, one.dx, i, k, f) == number_at(&holes, other.dx, i, step_of[i][k], f),
                        "%s: dx of sequence %lld, step %lld", recurrent_text(&holes), (long long)i, (long long)k);
        }
    const recurrent_run rest = without_steps(one), other_rest = without_steps(other);
    assert_same_run("holes", &rest, &other_rest);
    ck_assert(!ek_tensor_lengths(other.y)->leading);
    ek_tensor *all[] = {dy, dy_spread, dh, dc, states[0], states[1]};
    for (size_t j = 0; j < sizeof all / sizeof *all; j++)
        ek_tensor_free(all[j]);
    recurrent_run_free(&one);
    recurrent_run_free(&other);
    recurrent_inputs_free(&in);
    recurrent_inputs_free(&spread);
    ek_module_free(a);
    ek_module_free(b);
}
END_TEST

/* ---- states and lengths of what comes out ------------------------------------------------------------------------ */

/* The last layer's final state is its output at the last valid step, going backward at the first. */
START_TEST(final_states_are_the_last_outputs)
{
    recurrent_case c = numbered_case(_i);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 2);
    recurrent_inputs in = recurrent_draw(&c, EK_F32, 3);
    recurrent_run run = recurrent_forward_of(layer, &in);
    for (int64_t i = 0; i < c.n; i++)
        for (int64_t u = 0; u < c.hidden; u++) {
            ck_each(ek_tensor_at(run.h, (2 * c.n + i) * c.hidden + u) == number_at(&c, run.y, i, lengths[i] - 1, u),
                    "%s: forward, sequence %lld", recurrent_text(&c), (long long)i);
            ck_each(ek_tensor_at(run.h, (3 * c.n + i) * c.hidden + u) == number_at(&c, run.y, i, 0, c.hidden + u),
                    "%s: backward, sequence %lld", recurrent_text(&c), (long long)i);
        }
    recurrent_run_free(&run);
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}
END_TEST

START_TEST(lengths_are_passed_on)
{
    recurrent_case c = numbered_case(_i);
    ek_module *layer = recurrent_layer(&c);
    ek_tensor *x = recurrent_input(&c, EK_F32, 3);
    ek_tape *tape = ek_tape_new();
    ek_recurrent_state final;
    ek_tensor *y = ek_recurrent_forward(layer, tape, x, NULL, &final);
    ck_made(y);
    const ek_lengths *given = ek_tensor_lengths(x), *passed = ek_tensor_lengths(y);
    ck_assert(passed != NULL);
    ck_assert_int_eq(passed->batch_axis, given->batch_axis);
    ck_assert_int_eq(passed->time_axis, given->time_axis);
    ck_assert_int_eq(passed->n, given->n);
    ck_assert_int_eq(passed->steps, given->steps);
    for (int64_t i = 0; i < c.n; i++)
        ck_assert_int_eq(passed->length[i], lengths[i]);
    ck_assert(!ek_tensor_lengths(final.h) && !(final.c && ek_tensor_lengths(final.c)));
    ck_assert_int_eq(!final.c, c.cell != LSTM);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_padding");
    TCase *tcase = tcase_create("recurrent_padding");
    tcase_add_loop_test(tcase, any_amount_of_padding_gives_the_same_bits, 0, 2 * CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, nothing_in_the_padding_counts, 0, CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, full_lengths_are_no_lengths, 0, CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, a_sequence_alone_gives_what_it_gives_in_the_batch, 0, CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, a_nan_stays_in_its_sequence, 0, 2 * (CELLS + 1)); /* without a norm, and LayerNorm */
    tcase_add_loop_test(tcase, holes_are_skipped, 0, CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, final_states_are_the_last_outputs, 0, CELLS_AND_NORMS);
    tcase_add_loop_test(tcase, lengths_are_passed_on, 0, CELLS_AND_NORMS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
