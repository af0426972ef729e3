/* Recurrent layers against the oracle of support_recurrent.h: outputs, final states and running statistics of every
 * cell, norm and option, random shapes, lengths and masks, in training and in evaluation, float64 and float32. */
#include "support_recurrent.h"

#include <stdio.h>

/* Lengths or masks of a case live here. */
typedef struct drawn_case {
    recurrent_case c;
    int64_t lengths[MOST_SEQUENCES];
    bool mask[MOST_SEQUENCES * 16];
} drawn_case;

static bool coin(ek_rng *rng)
{
    return ek_rng_u64(rng) & 1;
}

#define PICK(rng, ...)                                                                                                 \
    ((const double[]){__VA_ARGS__}[ek_rng_below(rng, sizeof((const double[]){__VA_ARGS__}) / sizeof(double))])

static void draw_validity(drawn_case *d, ek_rng *rng)
{
    recurrent_case *c = &d->c;
    const int64_t which = ek_rng_below(rng, 4);
    for (int64_t i = 0; i < c->n; i++) {
        d->lengths[i] = 1 + ek_rng_below(rng, c->steps);
        for (int64_t t = 0; t < c->steps; t++)
            d->mask[i * c->steps + t] = coin(rng);
        d->mask[i * c->steps + ek_rng_below(rng, c->steps)] = true;
    }
    c->lengths = which == 1 || which == 2 ? d->lengths : NULL;
    c->mask = which == 3 ? d->mask : NULL;
}

static void draw_case(drawn_case *d, ek_rng *rng)
{
    *d = (drawn_case){.c = recurrent_case_of((cell_kind)ek_rng_below(rng, CELLS))};
    recurrent_case *c = &d->c;
    c->input = (int64_t)PICK(rng, 1, 2, 3, 5, 17);
    c->hidden = (int64_t)PICK(rng, 1, 2, 3, 4, 5, 9);
    c->n = 1 + ek_rng_below(rng, 8);
    c->steps = 1 + ek_rng_below(rng, 9);
    c->layout = coin(rng) ? EK_BATCH_FIRST : EK_TIME_FIRST;
    c->states = coin(rng);
    c->opts.num_layers = 1 + ek_rng_below(rng, 3);
    c->opts.bias = ek_rng_below(rng, 3) > 0;
    c->opts.bidirectional = coin(rng);
    c->opts.nonlinearity = c->cell == RNN && coin(rng) ? EK_NONLINEARITY_RELU : EK_NONLINEARITY_TANH;
    c->opts.norm = (ek_recurrent_norm)ek_rng_below(rng, 3);
    c->opts.eps = PICK(rng, 1e-2, 1e-3);
    c->opts.momentum = PICK(rng, 0.1, 0.3, 0, 1, EK_MOMENTUM_CUMULATIVE);
    c->opts.max_steps = (int64_t)PICK(rng, 1, 2, 4, 64);
    c->opts.statistics = (ek_norm_statistics)PICK(rng, EK_STATS_AUTO, EK_STATS_AUTO, EK_STATS_BATCH, EK_STATS_RUNNING,
                                                  EK_STATS_FROZEN);
    draw_validity(d, rng);
}

/* Entries of standard deviation s give an (H, H) matrix the norm 2·s·√H: uniform in ±1/√H about 1.15, which is what
 * recurrent_tolerance wants. */
static double weight_scale(const recurrent_case *c)
{
    return 1 / sqrt((double)c->hidden);
}

static double scale_of(const recurrent_answer *answer)
{
    const ek_tensor *all[] = {answer->y, answer->h, answer->c};
    double most = 1;
    for (int k = 0; k < 3; k++)
        for (int64_t i = 0; all[k] && i < ek_tensor_numel(all[k]); i++)
            most = fmax(most, fabs(ek_tensor_at(all[k], i)));
    return most;
}

static void check_forward(const recurrent_case *c, ek_module *layer, ek_dtype dtype, uint64_t seed, const char *mode)
{
    recurrent_inputs in = recurrent_draw(c, dtype, seed);
    recurrent_answer expected = recurrent_oracle(c, layer, &in);
    recurrent_run run = recurrent_forward_of(layer, &in);
    char what[400];
    snprintf(what, sizeof what, "%s, %s, %s, seed %llu", recurrent_text(c), ek_dtype_name(dtype), mode,
             (unsigned long long)seed);
    const double condition = c->opts.norm ? 1 / sqrt(c->opts.eps) : 1;
    assert_answer(what, &expected, &run, layer, recurrent_tolerance(dtype, c, scale_of(&expected), condition));
    recurrent_run_free(&run);
    recurrent_answer_free(&expected);
    recurrent_inputs_free(&in);
}

/* Two batches in training and one in evaluation. */
static void check_layer(const recurrent_case *c, ek_dtype dtype, uint64_t seed)
{
    ek_module *layer = recurrent_drawn(c, dtype, weight_scale(c), seed);
    check_forward(c, layer, dtype, seed, "first batch");
    check_forward(c, layer, dtype, seed + 7, "second batch");
    ek_module_eval(layer);
    check_forward(c, layer, dtype, seed + 13, "evaluation");
    ek_module_free(layer);
}

enum { CASES_PER_TEST = 30, RANDOM_TESTS = 10 };

static void random_cases(ek_dtype dtype, int test)
{
    for (int i = 0; i < CASES_PER_TEST; i++) {
        const uint64_t seed = (uint64_t)(test * CASES_PER_TEST + i);
        ek_rng rng = ek_rng_seed(seed);
        drawn_case d;
        draw_case(&d, &rng);
        check_layer(&d.c, dtype, seed);
    }
}

START_TEST(random_cases_in_float64)
{
    random_cases(EK_F64, _i);
}
END_TEST

START_TEST(random_cases_in_float32)
{
    random_cases(EK_F32, _i);
}
END_TEST

/* More units than a block of a kernel has, and more than its lanes, without being a multiple. */
START_TEST(wide_layers)
{
    static const int64_t lengths[] = {5, 1, 3, 5, 2, 4, 3}, widths[] = {32, 33, 71};
    recurrent_case c = recurrent_case_of((cell_kind)(_i % 3));
    c.n = 7;
    c.steps = 5;
    c.lengths = lengths;
    c.input = 40;
    c.hidden = widths[_i / 3 % 3];
    c.opts.bidirectional = true;
    c.opts.norm = (ek_recurrent_norm)(_i / 9);
    c.opts.eps = 1e-3;
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        check_layer(&c, (ek_dtype)dtype, 5);
}
END_TEST

/* BatchNorm with the running statistics of steps that some batches have and others have not. */
START_TEST(batches_of_different_length)
{
    static const int64_t lengths[4][5] = {{2, 2, 1, 2, 1}, {6, 4, 1, 6, 2}, {6, 1, 1, 1, 1}, {3, 5, 4, 3, 6}};
    for (int cell = 0; cell < CELLS; cell++) {
        recurrent_case c = recurrent_case_of((cell_kind)cell);
        c.opts.norm = EK_RECURRENT_BATCH_NORM;
        c.opts.eps = 1e-3;
        c.opts.max_steps = 5;
        c.opts.num_layers = 2;
        c.opts.bidirectional = true;
        ek_module *layer = recurrent_drawn(&c, EK_F64, weight_scale(&c), 3);
        for (int batch = 0; batch < 4; batch++) {
            c.lengths = lengths[batch];
            ek_module_train(layer);
            check_forward(&c, layer, EK_F64, (uint64_t)batch, "training");
            ek_module_eval(layer);
            c.lengths = lengths[3];
            check_forward(&c, layer, EK_F64, (uint64_t)batch, "evaluation");
        }
        ek_module_free(layer);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_oracle");
    TCase *tcase = tcase_create("recurrent_oracle");
    tcase_add_loop_test(tcase, random_cases_in_float64, 0, RANDOM_TESTS);
    tcase_add_loop_test(tcase, random_cases_in_float32, 0, RANDOM_TESTS);
    tcase_add_loop_test(tcase, wide_layers, 0, 27);
    tcase_add_test(tcase, batches_of_different_length);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
