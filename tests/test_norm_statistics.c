/* Which statistics a norm uses and which it moves: the sticky choice, batches that are not finite, evaluation before
 * training; and what SwitchableNorm and tracked InstanceNorm keep. */
#include "support_layers.h"

/* BatchNorm, tracked InstanceNorm and SwitchableNorm over (N, 3, H, W). */
enum { TRACKED = 3 };
static ek_module *tracked(int which, ek_norm_statistics statistics)
{
    ek_batch_norm_opts bn = ek_batch_norm_opts_default();
    ek_instance_norm_opts in = ek_instance_norm_opts_default();
    ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
    in.track_running_stats = true;
    in.affine = true;
    bn.statistics = in.statistics = sn.statistics = statistics;
    ek_module *module = which == 0   ? ek_batch_norm2d(3, &bn)
                        : which == 1 ? ek_instance_norm2d(3, &in)
                                     : ek_switchable_norm2d(3, &sn);
    ck_made(module);
    return module;
}

/* ---- the sticky choice ------------------------------------------------------------------------------------------- */

/* What a layer gives in training with the batch's statistics, and in evaluation with the running ones. */
static void check_choice(int which, ek_norm_statistics choice, bool training, bool set_later)
{
    const ek_shape shape = EK_SHAPE(4, 3, 3, 2);
    ek_tensor *warm = normal(EK_F32, shape, 1, 2, 1), *x = normal(EK_F32, shape, 5, 3, 2);
    ek_module *layer = tracked(which, set_later ? EK_STATS_AUTO : choice), *plain = tracked(which, EK_STATS_AUTO);
    ck_ok(ek_module_set_norm_statistics(layer, EK_STATS_AUTO));
    feed(layer, warm);
    feed(plain, warm);
    ck_ok(ek_module_set_norm_statistics(layer, choice));
    ek_tensor *before = copy_state(plain);
    ek_module_eval(plain);
    ek_tensor *by_running = apply_layer(plain, x);
    ek_module_train(plain);
    ek_tensor *by_batch = apply_layer(plain, x), *after = copy_state(plain);
    ck_assert(!ek_tensor_equal(by_running, by_batch));

    ek_module_eval(layer); /* neither of these undoes the choice */
    ek_module_train(layer);
    if (!training)
        ek_module_eval(layer);
    const bool automatic = choice == EK_STATS_AUTO && !training;
    const bool running = automatic || choice == EK_STATS_RUNNING || choice == EK_STATS_FROZEN;
    const bool moves = training && choice != EK_STATS_FROZEN;
    ek_tensor *y = apply_layer(layer, x);
    ck_assert_msg(ek_tensor_equal(y, running ? by_running : by_batch),
                  "layer %d, choice %d, training %d: wrong statistics", which, choice, training);
    assert_state(moves ? "what the batch should have moved" : "what should have stood still", layer,
                 moves ? after : before);
    ek_tensor *all[] = {warm, x, before, by_running, by_batch, after, y};
    for (int i = 0; i < 7; i++)
        ek_tensor_free(all[i]);
    ek_module_free(layer);
    ek_module_free(plain);
}

START_TEST(every_choice_in_training_and_evaluation)
{
    for (int choice = EK_STATS_AUTO; choice <= EK_STATS_FROZEN; choice++)
        for (int mode = 0; mode < 4; mode++)
            check_choice(_i, (ek_norm_statistics)choice, mode & 1, mode & 2);
}
END_TEST

START_TEST(a_choice_in_the_options_sticks)
{
    ek_module *layer = tracked(_i, EK_STATS_FROZEN);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2), *before = copy_state(layer);
    ek_module_eval(layer);
    ek_module_train(layer);
    feed(layer, x);
    assert_state("frozen from the start", layer, before);
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_module_free(layer);
}
END_TEST

START_TEST(a_choice_reaches_every_norm_below)
{
    ek_module *net = ek_sequential(tracked(0, EK_STATS_AUTO), ek_residual(tracked(1, EK_STATS_AUTO)),
                                   ek_group_norm(1, 3, NULL), ek_sequential(tracked(2, EK_STATS_AUTO)));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2), *before = copy_state(net);
    ck_ok(ek_module_set_norm_statistics(net, EK_STATS_FROZEN));
    ek_module_train(net);
    feed(net, x);
    assert_state("a frozen net", net, before);
    ck_ok(ek_module_set_norm_statistics(ek_module_child(net, 1), EK_STATS_AUTO)); /* one alone */
    feed(net, x);
    ck_assert_double_eq(state_at(net, "0.num_batches_tracked", 0), 0);
    ck_assert_double_eq(state_at(net, "1.0.num_batches_tracked", 0), 1);
    ck_assert_double_eq(state_at(net, "3.0.num_batches_tracked", 0), 0);
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_module_free(net);
}
END_TEST

/* Frozen statistics and frozen parameters are two things. */
START_TEST(the_choice_says_nothing_about_gradients)
{
    for (int frozen = 0; frozen < 2; frozen++)
        for (int trained = 0; trained < 2; trained++) {
            ek_module *layer = tracked(_i, frozen ? EK_STATS_FROZEN : EK_STATS_AUTO);
            ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2);
            ck_ok(ek_tensor_set_requires_grad(x, true));
            ck_ok(ek_tensor_set_requires_grad(ek_module_parameter(layer, "weight"), trained));
            ek_tape *t = ek_tape_new();
            ck_ok(ek_backward(t, ek_sum(t, ek_forward(layer, t, x), EK_ALL_AXES, false)));
            ck_assert(!trained == !ek_tensor_grad(ek_module_parameter(layer, "weight")));
            ck_made(ek_tensor_grad(ek_module_parameter(layer, "bias")));
            ck_assert_double_eq(state_at(layer, "num_batches_tracked", 0), !frozen);
            ek_tape_free(t);
            ek_tensor_free(x);
            ek_module_free(layer);
        }
}
END_TEST

START_TEST(one_value_is_enough_where_no_statistics_are_taken)
{
    ek_tensor *x = F32(EK_SHAPE(1, 3), 1, 2, 3);
    for (int choice = EK_STATS_AUTO; choice <= EK_STATS_FROZEN; choice++)
        for (int training = 0; training < 2; training++) {
            ek_module *bn = ek_batch_norm1d(3, NULL);
            ck_ok(ek_module_set_norm_statistics(bn, (ek_norm_statistics)choice));
            if (!training)
                ek_module_eval(bn);
            if (choice == EK_STATS_FROZEN || (!training && choice != EK_STATS_BATCH))
                feed(bn, x);
            else
                assert_forward_fails(EK_ERR_SHAPE, "batch_norm1d(3): expected more than one value per channel to take "
                                                   "statistics of, got (1, 3)", bn, x);
            ek_module_free(bn);
        }
    ek_tensor_free(x);
}
END_TEST

/* ---- batches that are not finite --------------------------------------------------------------------------------- */

START_TEST(a_batch_that_is_not_finite_is_not_committed)
{
    static const float bad[] = {INFINITY, -INFINITY, NAN};
    for (int k = 0; k < 3; k++) {
        ek_module *layer = tracked(_i, EK_STATS_AUTO), *net = ek_sequential(ek_relu_layer(), ek_residual(layer));
        ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2), *good = ek_tensor_clone(x);
        feed(net, x);
        ek_data_f32(x)[8] = bad[k]; /* sample 0, channel 1 */
        ek_clear_warning();
        ek_tensor *before = copy_state(net), *y = apply_layer(layer, x);
        ck_assert(!isfinite(ek_tensor_at(y, 8)));
        ck_assert(_i == 2 || isfinite(ek_tensor_at(y, 0))); /* LN's part of SwitchableNorm carries it along */
        assert_state("a batch that is not finite", net, before);
        ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 1);
        const char *warning = "in layer \"1.0\": the batch statistics of channel 1 are not finite; the running ones "
                              "were left as they were (1 such batches so far)";
        ck_assert_msg(strstr(ek_last_warning(), warning), "%s", ek_last_warning());
        ck_assert_ptr_nonnull(strstr(ek_last_warning(), ek_module_type(layer)));
        feed(net, good);
        ck_assert_double_eq(state_at(layer, "num_batches_tracked", 0), 2);
        ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
        ek_module_eval(net);
        feed(net, x);
        ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
        ek_tensor_free(x);
        ek_tensor_free(good);
        ek_tensor_free(before);
        ek_tensor_free(y);
        ek_module_free(net);
    }
}
END_TEST

/* SwitchableNorm without its batch part mixes nothing across samples: a weight of 0 must not carry a NaN either. */
START_TEST(samples_stay_apart_without_the_batch_part)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.batch = false;
    ek_module *sn = ek_switchable_norm2d(3, &opts);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(2, 3, 3, 2), 5, 3, 2), *clean = apply_layer(sn, x);
    ek_data_f32(x)[4] = INFINITY;
    ek_tensor *y = apply_layer(sn, x);
    ck_assert(!isfinite(ek_tensor_at(y, 0)));
    for (int64_t i = 18; i < 36; i++)
        ck_assert_double_eq(ek_tensor_at(y, i), ek_tensor_at(clean, i));
    ek_tensor_free(x);
    ek_tensor_free(clean);
    ek_tensor_free(y);
    ek_module_free(sn);
}
END_TEST

/* A variance of 10⁶⁰ fits in a double but not in the float32 buffer. */
START_TEST(a_variance_beyond_the_buffers_type)
{
    for (int type = EK_F32; type <= EK_F64; type++) {
        ek_module *layer = tracked(_i, EK_STATS_AUTO);
        ck_ok(ek_module_to(layer, (ek_dtype)type));
        ek_tensor *x = normal((ek_dtype)type, EK_SHAPE(4, 3, 3, 2), 0, 1e30, 2), *y = apply_layer(layer, x);
        double square = 0;
        for (int64_t i = 0; i < ek_tensor_numel(y); i++)
            square += ek_tensor_at(y, i) * ek_tensor_at(y, i);
        ck_near(square / (double)ek_tensor_numel(y), 1, _i == 2 ? 0.2 : 1e-5);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), type == EK_F32);
        ck_assert_double_eq(state_at(layer, "num_batches_tracked", 0), type == EK_F64);
        ck_assert(isfinite(state_at(layer, "running_var", 0)));
        ck_assert(type == EK_F32 ? state_at(layer, "running_var", 0) == 1 : state_at(layer, "running_var", 0) > 1e58);
        ek_tensor_free(x);
        ek_tensor_free(y);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- evaluating what never was trained --------------------------------------------------------------------------- */

START_TEST(evaluating_without_a_tracked_batch_warns)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2);
    ek_module *layer = tracked(_i, EK_STATS_AUTO);
    ek_clear_warning();
    feed(layer, x);
    ck_assert_str_eq(ek_last_warning(), "");
    ek_module_eval(layer);
    feed(layer, x);
    ck_assert_str_eq(ek_last_warning(), ""); /* one batch was tracked */
    ck_ok(ek_module_init(layer, 0));
    feed(layer, x);
    ck_assert_ptr_nonnull(strstr(ek_last_warning(), "(3): normalizing by running statistics that no batch has updated "
                                                    "yet: train first, or load them"));
    ck_assert_ptr_nonnull(strstr(ek_last_warning(), ek_module_type(layer)));
    ek_clear_warning();
    ek_data_f32(ek_module_buffer(layer, "running_mean"))[1] = 1; /* as from a file without the counter */
    feed(layer, x);
    ck_assert_str_eq(ek_last_warning(), "");
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

/* ---- InstanceNorm and SwitchableNorm ----------------------------------------------------------------------------- */

START_TEST(tracked_instance_norm_averages_instances)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.track_running_stats = true;
    ek_module *in = ek_instance_norm1d(1, &opts);
    /* Instances (1, 5) and (10, 10, …): means 3, 10; unbiased variances 8, 0.  A batch norm would see other ones. */
    ek_tensor *x = F32(EK_SHAPE(2, 1, 2), 1, 5, 10, 10);
    feed(in, x);
    ck_near(state_at(in, "running_mean", 0), 0.1 * 6.5, 1e-6);
    ck_near(state_at(in, "running_var", 0), 0.9 + 0.1 * 4, 1e-6);
    ek_tensor_free(x);
    ek_module_free(in);
}
END_TEST

START_TEST(instance_norm_without_tracking_is_the_same_in_evaluation)
{
    ek_module *in = ek_instance_norm2d(3, NULL);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2), *train = apply_layer(in, x);
    ek_clear_warning();
    ek_module_eval(in);
    ek_tensor *eval = apply_layer(in, x);
    ck_assert(ek_tensor_equal(train, eval));
    ck_assert_str_eq(ek_last_warning(), "");
    ek_tensor_free(x);
    ek_tensor_free(train);
    ek_tensor_free(eval);
    ek_module_free(in);
}
END_TEST

static void set(ek_module *module, const char *name, const float *values, size_t n)
{
    ck_ok(ek_tensor_write(ek_module_parameter(module, name), values, n * sizeof *values));
}

/* With logits of ±50 one statistic has all the weight: the layer is that norm. */
START_TEST(switchable_weights_are_in_the_order_in_ln_bn)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3, 3, 2), 5, 3, 2);
    ek_module *pure[3] = {ek_instance_norm2d(3, NULL), ek_group_norm(1, 3, NULL), ek_batch_norm2d(3, NULL)};
    for (int k = 0; k < 3; k++) {
        float logits[3] = {-50, -50, -50};
        logits[k] = 50;
        ek_module *sn = ek_switchable_norm2d(3, NULL);
        set(sn, "mean_weight", logits, 3);
        set(sn, "var_weight", logits, 3);
        ek_tensor *y = apply_layer(sn, x), *expected = apply_layer(pure[k], x);
        assert_close("switchable", y, expected, 1e-6, 1e-6);
        ek_tensor_free(y);
        ek_tensor_free(expected);
        ek_module_free(sn);
        ek_module_free(pure[k]);
    }
    ek_tensor_free(x);
}
END_TEST

START_TEST(switchable_1d_weights_are_in_the_order_ln_bn)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 3), 5, 3, 2);
    ek_module *pure[2] = {ek_layer_norm(EK_SHAPE(3), NULL), ek_batch_norm1d(3, NULL)};
    for (int k = 0; k < 2; k++) {
        float logits[2] = {-50, -50};
        logits[k] = 50;
        ek_module *sn = ek_switchable_norm1d(3, NULL);
        ck_assert_int_eq(ek_tensor_numel(ek_module_parameter(sn, "mean_weight")), 2);
        set(sn, "mean_weight", logits, 2);
        set(sn, "var_weight", logits, 2);
        ek_tensor *y = apply_layer(sn, x), *expected = apply_layer(pure[k], x);
        assert_close("switchable 1d", y, expected, 1e-6, 1e-6);
        ek_tensor_free(y);
        ek_tensor_free(expected);
        ek_module_free(sn);
        ek_module_free(pure[k]);
    }
    ek_tensor_free(x);
}
END_TEST

/* Logits of 1 each: equal shares.  x: planes (1, 3) and (5, 9) of one sample and (2, 2) and (4, 8) of another. */
START_TEST(switchable_by_hand)
{
    ek_tensor *x = F32(EK_SHAPE(2, 2, 1, 2), 1, 3, 5, 9, 2, 2, 4, 8);
    const double within[2][2][2] = {{{1, 4}, {0, 4}}, {{2, 8}, {0, 8}}}; /* population, unbiased */
    const double mean[2][2] = {{2, 7}, {2, 6}}, ln_mean[2] = {4.5, 4}, bn_mean[2] = {2, 6.5};
    const double ln_between[2] = {6.25, 4}, bn_between[2] = {0, 0.25};
    for (int reference = 0; reference < 2; reference++) {
        ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
        opts.reference = reference;
        ek_module *sn = ek_switchable_norm2d(2, &opts);
        ek_tensor *y = apply_layer(sn, x);
        for (int n = 0; n < 2; n++)
            for (int c = 0; c < 2; c++) {
                const double *v_ln = within[reference][n];
                double v_bn = (within[reference][0][c] + within[reference][1][c]) / 2 + bn_between[c];
                double m = (mean[n][c] + ln_mean[n] + bn_mean[c]) / 3;
                double v = (within[reference][n][c] + (v_ln[0] + v_ln[1]) / 2 + ln_between[n] + v_bn) / 3;
                for (int s = 0; s < 2; s++) {
                    int64_t i = (n * 2 + c) * 2 + s;
                    ck_near(ek_tensor_at(y, i), (ek_tensor_at(x, i) - m) / sqrt(v + 1e-5), 2e-6);
                }
                ck_near(state_at(sn, "running_mean", c), 0.1 * bn_mean[c], 1e-6);
                ck_near(state_at(sn, "running_var", c), reference ? 0.1 * v_bn : 0.9 + 0.1 * v_bn * 4 / 3, 1e-6);
            }
        ek_tensor_free(y);
        ek_module_free(sn);
    }
    ek_tensor_free(x);
}
END_TEST

START_TEST(switchable_options)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.last_gamma = true;
    opts.reference = true;
    ek_module *sn = ek_switchable_norm3d(4, &opts);
    ck_ok(ek_module_init(sn, 5));
    for (int i = 0; i < 4; i++) {
        ck_assert_double_eq(state_at(sn, "weight", i), 0);
        ck_assert_double_eq(state_at(sn, "bias", i), 0);
        ck_assert_double_eq(state_at(sn, "running_mean", i), 0);
        ck_assert_double_eq(state_at(sn, "running_var", i), 0);
    }
    for (int i = 0; i < 3; i++) {
        ck_assert_double_eq(state_at(sn, "mean_weight", i), 1);
        ck_assert_double_eq(state_at(sn, "var_weight", i), 1);
    }
    ek_module_free(sn);
    opts = ek_switchable_norm_opts_default();
    opts.batch = false;
    sn = ek_switchable_norm2d(4, &opts);
    ck_assert_int_eq(ek_tensor_numel(ek_module_parameter(sn, "mean_weight")), 2);
    ck_assert_ptr_null(ek_module_buffer(sn, "running_mean"));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(1, 4, 3, 3), 5, 3, 2), *train = apply_layer(sn, x);
    ek_module_eval(sn);
    ek_tensor *eval = apply_layer(sn, x);
    ck_assert(ek_tensor_equal(train, eval));
    ek_tensor_free(x);
    ek_tensor_free(train);
    ek_tensor_free(eval);
    ek_module_free(sn);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm statistics");
    TCase *tcase = tcase_create("norm statistics");
    tcase_add_loop_test(tcase, every_choice_in_training_and_evaluation, 0, TRACKED);
    tcase_add_loop_test(tcase, a_choice_in_the_options_sticks, 0, TRACKED);
    tcase_add_test(tcase, a_choice_reaches_every_norm_below);
    tcase_add_loop_test(tcase, the_choice_says_nothing_about_gradients, 0, TRACKED);
    tcase_add_test(tcase, one_value_is_enough_where_no_statistics_are_taken);
    tcase_add_loop_test(tcase, a_batch_that_is_not_finite_is_not_committed, 0, TRACKED);
    tcase_add_test(tcase, samples_stay_apart_without_the_batch_part);
    tcase_add_loop_test(tcase, a_variance_beyond_the_buffers_type, 0, TRACKED);
    tcase_add_loop_test(tcase, evaluating_without_a_tracked_batch_warns, 0, TRACKED);
    tcase_add_test(tcase, tracked_instance_norm_averages_instances);
    tcase_add_test(tcase, instance_norm_without_tracking_is_the_same_in_evaluation);
    tcase_add_test(tcase, switchable_weights_are_in_the_order_in_ln_bn);
    tcase_add_test(tcase, switchable_1d_weights_are_in_the_order_ln_bn);
    tcase_add_test(tcase, switchable_by_hand);
    tcase_add_test(tcase, switchable_options);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
