/* The norm report: every figure against sums written out here, or against what a training forward does to the running
 * statistics.  That making one leaves no trace, and how it is written: test_norm_report_use.c. */
#include "module.h"
#include "support_recurrent.h"

#include <stdio.h>

/* The report's sums are in double over at most a few hundred elements; so are those here, in another order: a few
 * hundred units of 2⁻⁵³ on numbers of the order of 1. */
static const double near = 1e-12;

static ek_module *f64(ek_module *module)
{
    ck_made(module);
    ck_ok(ek_module_to(module, EK_F64));
    return module;
}

static double *parameter(ek_module *module, const char *name)
{
    ek_tensor *t = ek_module_parameter(module, name);
    ck_made(t);
    return ek_data_f64(t);
}

static double *buffer(ek_module *module, const char *name)
{
    ek_tensor *t = ek_module_buffer(module, name);
    ck_made(t);
    return ek_data_f64(t);
}

/* ---- statistics against plain sums ------------------------------------------------------------------------------- */

/* Mean, smallest and largest of n numbers. */
static ek_spread spread_of(int n, const double *values)
{
    ek_spread s = {0, values[0], values[0]};
    for (int i = 0; i < n; i++) {
        s.mean += values[i] / n;
        s.min = fmin(s.min, values[i]);
        s.max = fmax(s.max, values[i]);
    }
    return s;
}

static void assert_spread(const char *what, ek_spread got, ek_spread expected)
{
    const double a[3] = {got.mean, got.min, got.max}, b[3] = {expected.mean, expected.min, expected.max};
    for (int i = 0; i < 3; i++)
        ck_assert_msg(fabs(a[i] - b[i]) <= near * (1 + fabs(b[i])), "%s[%d]: %.17g, expected %.17g", what, i, a[i], b[i]);
}

static bool is_unknown(ek_spread s)
{
    return isnan(s.mean) && isnan(s.min) && isnan(s.max);
}

/* Mean and biased variance of x[at(k)], k = 0 … n−1, at(k) = k/inner·step + first + k%inner. */
static void moments_of(const ek_tensor *x, int n, int first, int inner, int step, double *mean, double *var)
{
    *mean = *var = 0;
    for (int k = 0; k < n; k++)
        *mean += ek_tensor_at(x, k / inner * step + first + k % inner) / n;
    for (int k = 0; k < n; k++) {
        const double d = ek_tensor_at(x, k / inner * step + first + k % inner) - *mean;
        *var += d * d / n;
    }
}

START_TEST(batch_norm_drift_is_that_of_plain_sums)
{
    enum { N = 6, C = 3, S = 20 };
    ek_module *norm = ek_batch_norm2d(C, NULL);
    ck_made(norm);
    ek_module_eval(norm);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(N, C, 4, 5), 2, 3, 7);
    const float mean[C] = {1.5f, 2, -1}, var[C] = {9, 0.25f, 30}, weight[C] = {-2, 0.5f, 1}, bias[C] = {0, -3, 1};
    ck_ok(ek_tensor_write(ek_module_buffer(norm, "running_mean"), mean, sizeof mean));
    ck_ok(ek_tensor_write(ek_module_buffer(norm, "running_var"), var, sizeof var));
    ck_ok(ek_tensor_write(ek_module_parameter(norm, "weight"), weight, sizeof weight));
    ck_ok(ek_tensor_write(ek_module_parameter(norm, "bias"), bias, sizeof bias));
    double drift[C], ratio[C], variance[C];
    int worst = 0;
    for (int c = 0; c < C; c++) {
        double m, v;
        moments_of(x, N * S, c * S, S, C * S, &m, &v);
        drift[c] = fabs(m - (double)mean[c]) / sqrt((double)var[c] + 1e-5);
        ratio[c] = (v * (N * S) / (N * S - 1) + 1e-5) / ((double)var[c] + 1e-5);
        variance[c] = v;
        worst = drift[c] > drift[worst] ? c : worst;
    }
    ek_norm_report *report = report_on(norm, x);
    ck_assert_int_eq(ek_norm_report_size(report), 1);
    const ek_norm_report_row *row = ek_norm_report_at(report, 0);
    assert_spread("drift", row->mean_drift, spread_of(C, drift));
    assert_spread("ratio", row->variance_ratio, spread_of(C, ratio));
    assert_spread("variance", row->variance, spread_of(C, variance));
    assert_spread("gamma", row->gamma, (ek_spread){3.5 / 3, 0.5, 2});
    assert_spread("beta", row->beta, (ek_spread){4.0 / 3, 0, 3});
    ck_assert_int_eq(row->worst_channel, worst);
    ck_assert_int_eq(row->groups, C);
    ck_assert_int_eq(row->calls, 1);
    ck_assert(row->near_zero == 0 && row->has_running && row->uses_running && row->statistics == EK_STATS_AUTO);
    ck_assert(row->batches == 0 && row->refused_batches == 0 && isnan(row->saturation) && isnan(row->mean_mixture[0]));
    ck_assert_str_eq(row->name, "");
    ck_assert_str_eq(row->layer, "batch_norm2d(3)");
    ck_assert_str_eq(row->note, "");
    ck_assert_str_eq(row->activation, "");
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_module_free(norm);
}
END_TEST

/* A norm on x whose group g holds n elements from first[g] on, in blocks of `inner` that stand `step` apart. */
static void check_groups(ek_module *norm, ek_tensor *x, int groups, int n, int inner, int step, const int *first)
{
    double variance[24], mean;
    for (int g = 0; g < groups; g++)
        moments_of(x, n, first[g], inner, step, &mean, &variance[g]);
    ek_norm_report *report = report_on(f64(norm), x);
    const ek_norm_report_row *row = ek_norm_report_at(report, 0);
    ck_assert_int_eq(row->groups, groups);
    assert_spread(row->layer, row->variance, spread_of(groups, variance));
    ck_assert(is_unknown(row->mean_drift) && is_unknown(row->variance_ratio) && row->worst_channel == -1);
    ck_assert(!row->has_running && !row->uses_running && row->batches == -1 && row->refused_batches == -1);
    ek_norm_report_free(report);
    ek_module_free(norm);
}

START_TEST(norms_without_running_statistics_report_their_groups)
{
    ek_tensor *x = normal(EK_F64, EK_SHAPE(2, 4, 3), 1, 2, 3);
    ek_group_norm_opts last = ek_group_norm_opts_default();
    last.channel_axis = EK_CHANNELS_LAST;
    check_groups(ek_group_norm(2, 4, NULL), x, 4, 6, 6, 6, (const int[]){0, 6, 12, 18});
    check_groups(ek_group_norm(3, 3, &last), x, 6, 4, 1, 3, (const int[]){0, 1, 2, 12, 13, 14});
    check_groups(ek_instance_norm1d(4, NULL), x, 8, 3, 3, 3, (const int[]){0, 3, 6, 9, 12, 15, 18, 21});
    check_groups(ek_layer_norm(EK_SHAPE(3), NULL), x, 8, 3, 3, 3, (const int[]){0, 3, 6, 9, 12, 15, 18, 21});
    check_groups(ek_layer_norm(EK_SHAPE(4, 3), NULL), x, 2, 12, 12, 12, (const int[]){0, 12});
    ek_layer_norm_opts over_time = ek_layer_norm_opts_default();
    over_time.over_time = true;
    check_groups(ek_layer_norm(EK_SHAPE(3), &over_time), x, 2, 12, 12, 12, (const int[]){0, 12});
    ek_batch_norm_opts untracked = ek_batch_norm_opts_default();
    untracked.track_running_stats = false;
    check_groups(ek_batch_norm1d(4, &untracked), x, 4, 6, 3, 12, (const int[]){0, 3, 6, 9});

    double squares[8] = {0};
    for (int i = 0; i < 24; i++)
        squares[i / 3] += ek_tensor_at(x, i) * ek_tensor_at(x, i) / 3;
    ek_module *rms = f64(ek_rms_norm(EK_SHAPE(3), NULL));
    ek_norm_report *report = report_on(rms, x);
    assert_spread("rms_norm", ek_norm_report_at(report, 0)->variance, spread_of(8, squares));
    ck_assert(is_unknown(ek_norm_report_at(report, 0)->beta));
    ek_norm_report_free(report);
    ek_module_free(rms);
    ek_tensor_free(x);
}
END_TEST

/* ---- drift ------------------------------------------------------------------------------------------------------- */

/* One training batch with momentum 1 makes the running statistics the batch's own: then there is no drift, up to the
 * roundings of both sums. */
static void check_no_drift(ek_module *norm, ek_tensor *x)
{
    ck_made(norm);
    f64(norm);
    feed(norm, x);
    ek_norm_report *report = report_on(norm, x);
    for (int i = 0; i < ek_norm_report_size(report); i++) {
        const ek_norm_report_row *row = ek_norm_report_at(report, i);
        ck_assert_msg(row->mean_drift.max <= near, "%s %s: drift %g", row->layer, row->name, row->mean_drift.max);
        ck_assert_msg(fabs(row->variance_ratio.min - 1) <= near && fabs(row->variance_ratio.max - 1) <= near,
                      "%s %s: ratio %.17g … %.17g", row->layer, row->name, row->variance_ratio.min,
                      row->variance_ratio.max);
        ck_assert_int_eq(row->batches, 1);
        ck_assert(!row->uses_running);
    }
    ek_norm_report_free(report);
    ek_module_free(norm);
    ek_tensor_free(x);
}

START_TEST(statistics_just_taken_over_do_not_drift)
{
    const int64_t lengths[4] = {5, 1, 3, 2};
    ek_batch_norm_opts bn = ek_batch_norm_opts_default(), last = bn;
    bn.momentum = last.momentum = 1;
    last.channel_axis = EK_CHANNELS_LAST;
    ek_instance_norm_opts in = ek_instance_norm_opts_default();
    in.momentum = 1;
    in.track_running_stats = true;
    for (int with_lengths = 0; with_lengths < 2; with_lengths++) {
        ek_tensor *x[7];
        for (int i = 0; i < 7; i++) {
            x[i] = normal(EK_F64, EK_SHAPE(4, 3, 5), 1, 2, (uint64_t)i);
            if (i == 6) {
                ek_tensor_free(x[i]);
                x[i] = normal(EK_F64, EK_SHAPE(4, 5, 3), 1, 2, 6);
            }
            if (with_lengths)
                ck_ok(ek_tensor_set_lengths(x[i], lengths, 4, 0, i == 6 ? 1 : 2));
        }
        check_no_drift(ek_batch_norm1d(3, &bn), x[0]);
        check_no_drift(ek_instance_norm1d(3, &in), x[1]);
        ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
        sn.momentum = 1;
        check_no_drift(ek_switchable_norm_sequence(3, &sn), x[2]);
        sn.reference = true;
        check_no_drift(ek_switchable_norm_sequence(3, &sn), x[3]);
        ek_tensor_free(x[4]);
        ek_tensor_free(x[5]);
        check_no_drift(ek_switchable_norm1d(3, &sn), normal(EK_F64, EK_SHAPE(6, 3), 1, 2, 4));
        sn.reference = false;
        check_no_drift(ek_switchable_norm1d(3, &sn), normal(EK_F64, EK_SHAPE(6, 3), 1, 2, 5));
        check_no_drift(ek_batch_norm1d(3, &last), x[6]);
    }
    for (cell_kind cell = RNN; cell <= GRU; cell++) { /* the first layer: its input is the same in both forwards */
        recurrent_case c = recurrent_case_of(cell);
        const int64_t steps[5] = {6, 3, 3, 5, 2};
        c.lengths = steps;
        c.opts.norm = EK_RECURRENT_BATCH_NORM;
        c.opts.momentum = 1;
        c.opts.bidirectional = true;
        check_no_drift(recurrent_drawn(&c, EK_F64, 0.5, 11), recurrent_input(&c, EK_F64, 12));
    }
}
END_TEST

START_TEST(a_shift_of_running_statistics_is_reported_as_set)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.momentum = 1;
    ek_module *net = f64(ek_sequential(ek_batch_norm1d(4, &opts), ek_tanh_layer()));
    ek_tensor *x = normal(EK_F64, EK_SHAPE(32, 4), 1, 2, 1);
    feed(net, x);
    double *mean = buffer(net, "0.running_mean"), *var = buffer(net, "0.running_var");
    var[1] = 4 * (var[1] + opts.eps) - opts.eps; /* ratio 1/4 */
    mean[2] += 3 * sqrt(var[2] + opts.eps);      /* 3 σ */
    mean[3] -= 0.5 * sqrt(var[3] + opts.eps);
    ek_norm_report *report = report_on(net, x);
    const ek_norm_report_row *row = ek_norm_report_find(report, "0");
    ck_made(row);
    ck_near(row->mean_drift.max, 3, near);
    ck_near(row->mean_drift.mean, 3.5 / 4, near);
    ck_near(row->mean_drift.min, 0, near);
    ck_assert_int_eq(row->worst_channel, 2);
    ck_near(row->variance_ratio.min, 0.25, near);
    ck_near(row->variance_ratio.max, 1, near);
    ck_near(row->variance_ratio.mean, 3.25 / 4, near);
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(recurrent_drift_is_reported_over_steps)
{
    recurrent_case c = recurrent_case_of(LSTM);
    const int64_t steps[5] = {6, 3, 3, 5, 2};
    c.lengths = steps; /* steps 0 … 4 have two sequences or more */
    c.opts.norm = EK_RECURRENT_BATCH_NORM;
    c.opts.momentum = 1;
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
    ek_tensor *x = recurrent_input(&c, EK_F64, 2);
    feed(layer, x);
    buffer(layer, "running_mean_hh_l0")[3 * 16 + 5] += 2 * sqrt(buffer(layer, "running_var_hh_l0")[3 * 16 + 5] + 1e-5);
    ek_norm_report *report = report_on(layer, x);
    ck_assert_int_eq(ek_norm_report_size(report), 3);
    const ek_norm_report_row *ih = ek_norm_report_find(report, "ih_l0"), *hh = ek_norm_report_find(report, "hh_l0");
    const ek_norm_report_row *cell = ek_norm_report_find(report, "c_l0");
    ck_assert(ih && hh && cell && ih->calls == 1 && hh->calls == 1 && cell->calls == 1);
    ck_assert(ih->groups == 5 * 16 && hh->groups == 5 * 16 && cell->groups == 5 * 4);
    ck_near(ih->mean_drift.max, 0, near);
    ck_near(hh->mean_drift.max, 2, near);
    ck_near(hh->mean_drift.mean, 2.0 / 80, near);
    ck_assert_int_eq(hh->worst_channel, 3 * 16 + 5);
    ck_near(hh->near_zero, 16.0 / 80, 0); /* h is 0 at the first step */
    ck_assert(ih->near_zero == 0 && hh->variance.min == 0);
    ek_norm_report_free(report);
    /* In evaluation the running statistics are used; the batch's are looked at nevertheless. */
    ek_module_eval(layer);
    report = report_on(layer, x);
    ck_assert(ek_norm_report_find(report, "ih_l0")->uses_running);
    ck_near(ek_norm_report_find(report, "ih_l0")->mean_drift.max, 0, near);
    ek_norm_report_free(report);
    /* Steps beyond the tables are compared with the last there is: the full tables hold what each step's batch was. */
    c.opts.max_steps = 2;
    ek_module *less = recurrent_drawn(&c, EK_F64, 0.5, 1);
    feed(less, x);
    double drift[5 * 16];
    for (int i = 0; i < 5 * 16; i++) {
        const int stands = i < 2 * 16 ? i : 16 + i % 16;
        drift[i] = fabs(buffer(layer, "running_mean_ih_l0")[i] - buffer(layer, "running_mean_ih_l0")[stands]) /
                   sqrt(buffer(layer, "running_var_ih_l0")[stands] + 1e-5);
    }
    report = report_on(less, x);
    assert_spread("beyond max_steps", ek_norm_report_find(report, "ih_l0")->mean_drift, spread_of(5 * 16, drift));
    ck_assert(ek_norm_report_find(report, "ih_l0")->mean_drift.max > 0.1);
    ek_norm_report_free(report);
    ek_module_free(less);
    ek_module_free(layer);

    c.opts.norm = EK_RECURRENT_LAYER_NORM;
    c.opts.max_steps = 64;
    layer = recurrent_drawn(&c, EK_F64, 0.5, 1);
    report = report_on(layer, x);
    ck_assert_int_eq(ek_norm_report_size(report), 3);
    ih = ek_norm_report_at(report, 0);
    ck_assert(!strcmp(ih->name, "ih_l0") && !ih->has_running && is_unknown(ih->variance) && isnan(ih->near_zero));
    ck_assert(strstr(ih->note, "does not keep the statistics of its LayerNorm") && ih->gamma.max > 0);
    ek_norm_report_free(report);
    ek_module_free(layer);
    ek_tensor_free(x);
}
END_TEST

/* Not a figure depends on padding, nor on what stands in it. */
START_TEST(valid_steps_alone_count)
{
    const int64_t lengths[3] = {4, 2, 3};
    ek_norm_report_row rows[2][4];
    for (int k = 0; k < 2; k++) {
        const int64_t steps = k ? 9 : 4;
        ek_module *net = ek_sequential(ek_batch_norm1d(2, NULL), ek_relu_layer(), ek_switchable_norm_sequence(2, NULL),
                                       ek_tanh_layer(), ek_instance_norm1d(2, NULL), ek_group_norm(1, 2, NULL),
                                       ek_sigmoid_layer());
        f64(net);
        ek_tensor *x = ek_full(EK_F64, EK_SHAPE(3, 2, steps), NAN);
        ek_rng rng = ek_rng_seed(5);
        for (int i = 0; i < 3; i++)
            for (int c = 0; c < 2; c++)
                for (int t = 0; t < lengths[i]; t++)
                    ek_data_f64(x)[(i * 2 + c) * steps + t] = 1 + ek_rng_normal(&rng);
        ck_ok(ek_tensor_set_lengths(x, lengths, 3, 0, 2));
        ek_norm_report *report = report_on(net, x);
        for (int i = 0; i < 4; i++) {
            rows[k][i] = *ek_norm_report_at(report, i);
            ck_assert(isfinite(rows[k][i].variance.max) && rows[k][i].variance.max > 0);
        }
        if (k == 0) { /* by hand: 9 elements of channel 0 */
            double sum = 0, squares = 0, v[2];
            for (int c = 0; c < 2; c++) {
                sum = squares = 0;
                for (int i = 0; i < 3; i++)
                    for (int t = 0; t < lengths[i]; t++)
                        sum += ek_tensor_at(x, (i * 2 + c) * steps + t) / 9;
                for (int i = 0; i < 3; i++)
                    for (int t = 0; t < lengths[i]; t++)
                        squares += pow(ek_tensor_at(x, (i * 2 + c) * steps + t) - sum, 2) / 9;
                v[c] = squares;
            }
            assert_spread("BatchNorm with lengths", rows[0][0].variance, spread_of(2, v));
            /* relu: exactly the negative ones of what BatchNorm gave, among 18 valid outputs */
            const double negative = rows[0][0].saturation * 18;
            ck_near(negative, round(negative), near);
            ck_assert(negative > 0 && negative < 18);
        }
        ek_norm_report_free(report);
        ek_tensor_free(x);
        ek_module_free(net);
    }
    for (int i = 0; i < 4; i++) {
        const ek_norm_report_row *a = &rows[0][i], *b = &rows[1][i];
        ck_assert(!memcmp(&a->variance, &b->variance, sizeof a->variance) && a->groups == b->groups);
        ck_assert(!memcmp(&a->mean_drift, &b->mean_drift, sizeof a->mean_drift) &&
                  !memcmp(&a->saturation, &b->saturation, sizeof a->saturation) && a->near_zero == b->near_zero);
    }
}
END_TEST

/* ---- near-zero variance, saturation, mixtures -------------------------------------------------------------------- */

START_TEST(dead_channels_are_counted)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(16, 5), 3, 1, 2);
    for (int i = 0; i < 16; i++) {
        ek_data_f32(x)[i * 5 + 1] = 0.1f;
        ek_data_f32(x)[i * 5 + 4] = 1e20f;
        ek_data_f32(x)[i * 5 + 2] = i % 2 ? 2.001f : 2; /* variance 2.5e-7 */
    }
    ek_module *norm = ek_batch_norm1d(5, NULL);
    const double limits[5] = {EK_NEAR_ZERO_EPS, 0, 1e-8, 1e-6, 1e3};
    const double shares[5] = {0.6, 0.4, 0.4, 0.6, 1};
    for (int i = 0; i < 5; i++) {
        ek_norm_report *report = ek_norm_report_new(norm, x, &(ek_norm_report_opts){.near_zero = limits[i]});
        ck_made(report);
        ck_near(ek_norm_report_at(report, 0)->near_zero, shares[i], 1e-15);
        ck_assert(ek_norm_report_at(report, 0)->variance.min == 0);
        ek_norm_report_free(report);
    }
    ek_tensor_free(x);
    ek_module_free(norm);
}
END_TEST

static void check_activation(ek_module *net, const char *norm, const double bias[4], const char *activation,
                             double saturation)
{
    f64(net);
    ek_tensor *x = normal(EK_F64, EK_SHAPE(10, 4), 0, 1, 9);
    char name[32];
    snprintf(name, sizeof name, "%s.bias", norm);
    memcpy(parameter(net, name), bias, 4 * sizeof *bias);
    snprintf(name, sizeof name, "%s.weight", norm);
    memset(parameter(net, name), 0, 4 * sizeof *bias); /* the norm gives its β */
    ek_norm_report *report = report_on(net, x);
    const ek_norm_report_row *row = ek_norm_report_find(report, norm);
    ck_made(row);
    ck_assert_str_eq(row->activation, activation);
    if (isnan(saturation))
        ck_assert_msg(isnan(row->saturation), "%s: %g", activation, row->saturation);
    else
        ck_assert_msg(row->saturation == saturation, "%s: %g, expected %g", activation, row->saturation, saturation);
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_module_free(net);
}

/* tanh(2.64) = 0.98987, tanh(2.65) = 0.99007; σ(4.59) = 0.98995, σ(4.6) = 0.99005. */
START_TEST(saturation_of_the_activation_is_counted)
{
    const double tanh_bias[4] = {2.65, -2.65, 2.64, -2.64}, sigmoid_bias[4] = {4.6, -4.6, 4.59, -4.59};
    const double relu_bias[4] = {-1, 0, 1e-300, 1}, none[4] = {9, 9, -9, -9};
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_tanh_layer()), "0", tanh_bias, "tanh", 0.5);
    check_activation(ek_sequential(ek_layer_norm(EK_SHAPE(4), NULL), ek_sigmoid_layer()), "0", sigmoid_bias, "sigmoid",
                     0.5);
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_relu_layer()), "0", relu_bias, "relu", 0.5);
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_gelu_layer()), "0", none, "gelu", NAN);
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_leaky_relu_layer(0.1)), "0", none, "leaky_relu", NAN);
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_linear(4, 4, NULL), ek_tanh_layer()), "0", none, "",
                     NAN);
    /* Past containers, reshapes and the sum of a residual: x + β with |x| < 4 keeps the sign of ±9. */
    check_activation(ek_sequential(ek_sequential(ek_batch_norm1d(4, NULL)), ek_flatten_layer(), ek_tanh_layer()), "0.0",
                     none, "tanh", 1);
    check_activation(ek_sequential(ek_residual(ek_sequential(ek_linear(4, 4, NULL), ek_batch_norm1d(4, NULL))),
                                   ek_relu_layer()),
                     "0.0.1", none, "relu", 0.5);
    /* The input of a residual is not its sum. */
    check_activation(ek_sequential(ek_batch_norm1d(4, NULL), ek_residual(ek_linear(4, 4, NULL)), ek_relu_layer()), "0",
                     none, "", NAN);
}
END_TEST

START_TEST(mixtures_are_the_softmax_of_the_weights)
{
    const float mean_logits[3] = {0, 1, -1}, var_logits[3] = {2, 2, 0};
    ek_module *norm = ek_switchable_norm2d(4, NULL);
    ck_ok(ek_tensor_write(ek_module_parameter(norm, "mean_weight"), mean_logits, sizeof mean_logits));
    ck_ok(ek_tensor_write(ek_module_parameter(norm, "var_weight"), var_logits, sizeof var_logits));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(2, 4, 3, 3), 0, 1, 1), *flat = normal(EK_F32, EK_SHAPE(5, 4), 0, 1, 1);
    ek_norm_report *report = report_on(norm, x);
    const ek_norm_report_row *row = ek_norm_report_at(report, 0);
    const double m = 1 + exp(1) + exp(-1), v = 2 * exp(2) + 1;
    for (int k = 0; k < 3; k++) {
        ck_near(row->mean_mixture[k], exp((double)mean_logits[k]) / m, near);
        ck_near(row->var_mixture[k], exp((double)var_logits[k]) / v, near);
    }
    ek_norm_report_free(report);
    ek_module_free(norm);
    /* (N, C) has no IN; without batch there is no BN, and nothing that runs. */
    norm = ek_switchable_norm1d(4, NULL);
    report = report_on(norm, flat);
    row = ek_norm_report_at(report, 0);
    ck_assert(row->mean_mixture[0] == 0 && row->mean_mixture[1] == 0.5 && row->mean_mixture[2] == 0.5);
    ek_norm_report_free(report);
    ek_module_free(norm);
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.batch = false;
    norm = ek_switchable_norm2d(4, &opts);
    report = report_on(norm, x);
    row = ek_norm_report_at(report, 0);
    ck_assert(row->var_mixture[0] == 0.5 && row->var_mixture[1] == 0.5 && row->var_mixture[2] == 0);
    ck_assert(!row->has_running && is_unknown(row->mean_drift) && row->groups == 4);
    ek_norm_report_free(report);
    ek_module_free(norm);
    ek_tensor_free(x);
    ek_tensor_free(flat);
}
END_TEST

/* ---- which statistics, how often ---------------------------------------------------------------------------------- */

START_TEST(modes_and_counts_are_told)
{
    ek_module *net = ek_sequential(ek_batch_norm1d(2, NULL), ek_instance_norm1d(2, NULL));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(3, 2, 4), 0, 1, 1), *bad = normal(EK_F32, EK_SHAPE(3, 2, 4), 0, 1, 1);
    ek_data_f32(bad)[0] = INFINITY;
    feed(net, x);
    feed(net, x);
    feed(net, bad);
    const struct {
        ek_norm_statistics choice;
        bool training, uses_running;
        const char *text;
    } cases[] = {{EK_STATS_AUTO, true, false, "batch"},     {EK_STATS_AUTO, false, true, "running"},
                 {EK_STATS_BATCH, false, false, "batch"},   {EK_STATS_RUNNING, true, true, "running"},
                 {EK_STATS_FROZEN, true, true, "frozen"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ck_ok(ek_module_set_norm_statistics(net, cases[i].choice));
        (cases[i].training ? ek_module_train : ek_module_eval)(net);
        ek_norm_report *report = report_on(net, x);
        const ek_norm_report_row *row = ek_norm_report_find(report, "0");
        ck_assert(row->statistics == cases[i].choice && row->uses_running == cases[i].uses_running);
        ck_assert(row->batches == 2 && row->refused_batches == 1);
        char text[4096] = "";
        FILE *file = tmpfile();
        ck_ok(ek_norm_report_print(report, file));
        rewind(file);
        ck_assert(fread(text, 1, sizeof text - 1, file) > 0);
        fclose(file);
        ck_assert_msg(strstr(text, cases[i].text) && strstr(text, "own"), "%s", text);
        ek_norm_report_free(report);
    }
    /* Numbers of a batch that is not finite are not numbers, and it is not counted by looking at it. */
    ek_norm_report *report = report_on(net, bad);
    ck_assert(is_unknown(ek_norm_report_find(report, "0")->mean_drift));
    ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_tensor_free(bad);
    ek_module_free(net);
}
END_TEST

static ek_tensor *twice_and_never(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *y = ek_forward(ek_module_child(module, 0), tape, x);
    return ek_forward(ek_module_child(module, 0), tape, ek_affine(tape, y, 1, 5));
}

START_TEST(layers_used_twice_or_never_say_so)
{
    const ek_module_def def = {.type = "own", .forward = twice_and_never};
    ek_module *net = ek_module_new(&def, NULL);
    ck_ok(ek_module_add_child(net, "used", ek_batch_norm1d(2, NULL)));
    ck_ok(ek_module_add_child(net, "an \"idle\", one", ek_batch_norm1d(2, NULL)));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(64, 2), 0, 1, 1);
    ek_norm_report *report = report_on(net, x);
    const ek_norm_report_row *used = ek_norm_report_find(report, "used");
    const ek_norm_report_row *idle = ek_norm_report_find(report, "an \"idle\", one");
    ck_assert_int_eq(used->calls, 2);
    ck_near(used->mean_drift.mean, 5, 1e-4); /* the second time: normalized, + 5, in float32; σ is √(1 + 1e-5) */
    ck_assert_int_eq(idle->calls, 0);
    ck_assert_str_eq(idle->note, "not used in this forward");
    ck_assert(is_unknown(idle->variance) && idle->gamma.max == 1 && idle->groups == 0);
    char text[4096] = "";
    FILE *file = tmpfile();
    ck_ok(ek_norm_report_csv(report, 0, false, file));
    rewind(file);
    ck_assert(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    ck_assert_msg(strstr(text, "\n0,\"an \"\"idle\"\", one\",batch_norm1d(2),not used"), "%s", text);
    ek_norm_report_free(report);
    /* One element per channel: a mean, and no variance to drift. */
    ek_module *norm = ek_batch_norm1d(2, NULL);
    ek_module_eval(norm);
    ek_tensor *one = normal(EK_F32, EK_SHAPE(1, 2), 0, 1, 1);
    report = report_on(norm, one);
    used = ek_norm_report_at(report, 0);
    ck_assert(used->groups == 0 && is_unknown(used->mean_drift) && isnan(used->near_zero));
    ck_assert_str_eq(used->note, "no statistic of this batch has two elements: no drift");
    ek_norm_report_free(report);
    ek_tensor_free(one);
    ek_tensor_free(x);
    ek_module_free(norm);
    ek_module_free(net);
}
END_TEST

int main(void)
{
    return RUN_TESTS("norm report", batch_norm_drift_is_that_of_plain_sums,
                     norms_without_running_statistics_report_their_groups, statistics_just_taken_over_do_not_drift,
                     a_shift_of_running_statistics_is_reported_as_set, recurrent_drift_is_reported_over_steps,
                     valid_steps_alone_count, dead_channels_are_counted, saturation_of_the_activation_is_counted,
                     mixtures_are_the_softmax_of_the_weights, modes_and_counts_are_told,
                     layers_used_twice_or_never_say_so);
}
