/* ek_fold_batch_norm: the same function with fewer layers, and nothing else. */
#include "support_files.h"
#include "support_layers.h"

/* ---- pairs of a layer and a norm --------------------------------------------------------------------------------- */

enum { PAIRS = 9 };

/* Layers with four outputs, with and without a bias, groups, strides, standardized weights. */
static ek_module *make_layer(int which)
{
    ek_linear_opts linear = ek_linear_opts_default();
    ek_conv_layer_opts conv = ek_conv_layer_opts_default();
    linear.bias = which != 1;
    linear.weight_standardization = which == 2;
    conv.bias = which != 4;
    conv.groups = which == 5 ? 2 : 1;
    conv.weight_standardization = which == 6;
    for (int i = 0; i < 2; i++) {
        conv.padding[i] = 1;
        conv.stride[i] = which == 7 ? 2 : 1;
        conv.dilation[i] = which == 8 ? 2 : 1;
    }
    return which < 3   ? ek_linear(5, 4, &linear)
           : which < 5 ? ek_conv1d_layer(2, 4, 3, &conv)
                       : ek_conv2d_layer(2, 4, 3, &conv);
}

static ek_module *make_norm(int which)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.affine = which != 3 && which != 7;
    opts.channel_axis = which == 2 ? EK_CHANNELS_LAST : 1;
    return which < 5 ? ek_batch_norm1d(4, &opts) : ek_batch_norm2d(4, &opts);
}

static ek_tensor *input_of(int which, ek_dtype dtype)
{
    const ek_shape shape = which < 2   ? EK_SHAPE(6, 5)
                           : which < 3 ? EK_SHAPE(2, 3, 5)
                           : which < 5 ? EK_SHAPE(3, 2, 5)
                                       : EK_SHAPE(2, 2, 5, 6);
    return normal(dtype, shape, 0.5, 1, 31);
}

static void set(ek_tensor *t, int64_t i, double value)
{
    if (ek_tensor_dtype(t) == EK_F32)
        ek_data_f32(t)[i] = (float)value;
    else
        ek_data_f64(t)[i] = value;
}

/* Running statistics as after training: means of a few σ, variances of different size, one of them 0. */
static void draw_statistics(ek_module *norm, uint64_t seed)
{
    ek_rng rng = ek_rng_seed(seed);
    ek_tensor *mean = ek_module_buffer(norm, "running_mean"), *var = ek_module_buffer(norm, "running_var");
    for (int64_t c = 0; c < ek_tensor_numel(mean); c++) {
        set(mean, c, 3 * ek_rng_normal(&rng));
        set(var, c, c == 1 ? 0 : exp(2 * ek_rng_normal(&rng)));
    }
    *ek_data_i64(ek_module_buffer(norm, "num_batches_tracked")) = 7;
}

/* In evaluation, with parameters and statistics drawn. */
static ek_module *make_pair(int which, ek_dtype dtype)
{
    ek_module *net = ek_sequential(make_layer(which), make_norm(which));
    ck_made(net);
    ck_ok(ek_module_to(net, dtype));
    draw_parameters(net, 17);
    draw_statistics(ek_module_child(net, 1), 18);
    ek_module_eval(net);
    return net;
}

static double parameter_or(ek_module *module, const char *name, int64_t i, double other)
{
    ek_clear_error();
    const ek_tensor *t = ek_module_parameter(module, name);
    return t ? ek_tensor_at(t, i) : other;
}

/* What the terms of one output sum up to in size: |s|·(Σ|w·x| + |b| + |mean|) + |β|, with K terms |w·x|.  Here |x| ≤ 5
 * and the weights used are ≤ 5 (standardized) or ≤ 1.7. */
static double size_of(ek_module *net, int64_t channel)
{
    ek_module *norm = ek_module_child(net, 1);
    const double gamma = parameter_or(norm, "weight", channel, 1);
    const double s = fabs(gamma) / sqrt(state_at(norm, "running_var", channel) + 1e-5);
    return s * (18 * 5 * 5 + 1.7 + fabs(state_at(norm, "running_mean", channel))) + 1.7;
}

static void assert_one_folded(ek_module *net)
{
    int folded = -1;
    ck_ok(ek_fold_batch_norm(net, &folded));
    ck_assert_int_eq(folded, 1);
}

/* Each of the at most 18 products, sums and roundings of w and b is off by u relative to what is summed up: 18 + 3 on
 * one side, and 18 + 4 on the other, whose standardized weights are off by some more. */
START_TEST(the_same_output)
{
    for (int f64 = 0; f64 < 2; f64++) {
        const ek_dtype dtype = f64 ? EK_F64 : EK_F32;
        ek_module *net = make_pair(_i, dtype), *plain = make_pair(_i, dtype);
        ek_tensor *x = input_of(_i, dtype), *expected = apply_layer(plain, x);
        assert_one_folded(net);
        ek_tensor *y = apply_layer(net, x);
        ck_assert_int_eq((int)ek_tensor_numel(y), (int)ek_tensor_numel(expected));
        const int axis = _i < 3 ? ek_tensor_ndim(y) - 1 : 1;
        const int64_t inner = _i < 3 ? 1 : ek_tensor_numel(y) / ek_tensor_dim(y, 0) / 4;
        ck_assert_int_eq((int)ek_tensor_dim(y, axis), 4);
        for (int64_t i = 0; i < ek_tensor_numel(y); i++) {
            const double bound = 60 * ldexp(size_of(plain, i / inner % 4), f64 ? -53 : -24);
            ck_each(fabs(ek_tensor_at(y, i) - ek_tensor_at(expected, i)) <= bound, "element %lld is %.17g, expected "
                    "%.17g ± %g", (long long)i, ek_tensor_at(y, i), ek_tensor_at(expected, i), bound);
        }
        ek_module_train(net); /* there is nothing left that could train otherwise */
        ek_tensor *in_training = apply_layer(net, x);
        ck_assert(ek_tensor_equal(in_training, y));
        ek_tensor *all[] = {x, expected, y, in_training};
        for (int i = 0; i < 4; i++)
            ek_tensor_free(all[i]);
        ek_module_free(net);
        ek_module_free(plain);
    }
}
END_TEST

/* w' = s·w and b' = s·(b − mean) + β, each rounded once. */
START_TEST(the_formula)
{
    ek_module *net = make_pair(_i, EK_F32), *plain = make_pair(_i, EK_F32);
    ek_module *norm = ek_module_child(plain, 1), *layer = ek_module_child(plain, 0);
    assert_one_folded(net);
    const ek_tensor *w = ek_module_parameter(net, "0.weight"), *b = ek_module_parameter(net, "0.bias");
    ck_made(b);
    const int64_t k = ek_tensor_numel(w) / 4;
    for (int64_t o = 0; o < 4; o++) {
        const double s = parameter_or(norm, "weight", o, 1) / sqrt(state_at(norm, "running_var", o) + 1e-5);
        const double mean = state_at(norm, "running_mean", o), bias = parameter_or(layer, "bias", o, 0);
        const double expected = s * (bias - mean) + parameter_or(norm, "bias", o, 0);
        ck_near(ek_tensor_at(b, o), expected, ldexp(fabs(expected), -24));
        for (int64_t i = o * k; i < (o + 1) * k; i++)
            ck_near(ek_tensor_at(w, i), s * state_at(layer, "weight", i), ldexp(fabs(ek_tensor_at(w, i)), -23));
    }
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

START_TEST(gradients_still_flow)
{
    ek_module *net = make_pair(5, EK_F64), *plain = make_pair(5, EK_F64);
    ek_tensor *x = input_of(5, EK_F64), *dx[2];
    assert_one_folded(net);
    for (int i = 0; i < 2; i++) {
        ck_ok(ek_tensor_set_requires_grad(x, true));
        ek_tape *t = ek_tape_new();
        ek_tensor *y = ek_forward(i ? net : plain, t, x);
        ck_ok(ek_backward(t, ek_sum(t, ek_mul(t, y, y), EK_ALL_AXES, false)));
        dx[i] = ek_tensor_clone(ek_tensor_grad(x));
        ek_tensor_clear_grad(x);
        ek_tape_free(t);
    }
    ck_made(ek_tensor_grad(ek_module_parameter(net, "0.bias")));
    /* sums of 36 terms γ·rstd·w·dy, dy up to 2·size ≤ 3e5 where the variance is 0: bounded by the gradient itself */
    assert_close("dx", dx[1], dx[0], 1e-12, 1e-12 * 1e6);
    ek_tensor_free(dx[0]);
    ek_tensor_free(dx[1]);
    ek_tensor_free(x);
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

/* ---- what the net looks like afterwards -------------------------------------------------------------------------- */

static ek_module *deep_net(void)
{
    ek_conv_layer_opts same = ek_conv_layer_opts_default();
    same.padding[0] = same.padding[1] = 1;
    same.bias = false;
    same.weight_standardization = true;
    ek_module *net = ek_sequential(
        ek_conv2d_layer(2, 3, 3, NULL), ek_batch_norm2d(3, NULL), ek_relu_layer(),
        ek_residual(ek_sequential(ek_conv2d_layer(3, 3, 3, &same), ek_batch_norm2d(3, NULL))),
        ek_group_norm(1, 3, NULL), ek_residual(ek_batch_norm2d(3, NULL)), ek_flatten_layer(), ek_linear(12, 4, NULL), ek_batch_norm1d(4, NULL),
        ek_relu_layer(), ek_linear(4, 2, NULL));
    ck_made(net);
    draw_parameters(net, 3);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 2, 4, 4), 1, 2, 4);
    feed(net, x);
    ek_tensor_free(x);
    ek_module_eval(net);
    return net;
}

static ek_status append_name(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)tensor;
    (void)kind;
    strcat(user, name);
    strcat(user, " ");
    return EK_OK;
}

START_TEST(names_stay)
{
    ek_module *net = deep_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 2, 4, 4), 1, 2, 5), *before = apply_layer(net, x);
    int folded = 0;
    ck_ok(ek_fold_batch_norm(net, &folded));
    ck_assert_int_eq(folded, 3);
    char names[1000] = "";
    ck_ok(ek_module_visit(net, append_name, names));
    ck_assert_str_eq(names, "0.weight 0.bias 3.0.0.weight 3.0.0.bias 4.weight 4.bias 5.0.weight 5.0.bias "
                            "5.0.running_mean 5.0.running_var 5.0.num_batches_tracked 7.weight 7.bias 10.weight "
                            "10.bias ");
    ck_assert_int_eq(ek_module_num_children(net), 11);
    ck_assert_str_eq(ek_module_type(ek_module_child(net, 1)), "identity");
    ck_assert_str_eq(ek_module_describe(ek_module_child(net, 1)), "identity(batch_norm2d(3) folded)");
    ek_module *inner = ek_module_child(ek_module_child(net, 3), 0);
    ck_assert_str_eq(ek_module_describe(ek_module_child(inner, 0)), "conv2d(3, 3, 3, padding 1)");
    ck_assert_str_eq(ek_module_type(ek_module_child(ek_module_child(net, 5), 0)), "batch_norm2d");
    ek_tensor *after = apply_layer(net, x);
    assert_close("deep net", after, before, 1e-4, 1e-4); /* that the right numbers met; the_same_output is exact */
    ck_ok(ek_fold_batch_norm(net, &folded)); /* once is enough */
    ck_assert_int_eq(folded, 0);
    ck_ok(ek_fold_batch_norm(net, NULL));
    ck_ok(ek_module_set_norm_statistics(net, EK_STATS_FROZEN)); /* nobody asks an identity */
    ck_ok(ek_module_to(net, EK_F64));
    ek_tensor *wide = ek_tensor_cast(x, EK_F64);
    char text[4000] = "";
    FILE *out = tmpfile();
    ck_ok(ek_module_summary(net, wide, out));
    rewind(out);
    ck_assert(fread(text, 1, sizeof text - 1, out) > 0);
    fclose(out);
    ck_assert_msg(strstr(text, "\n5.0: running statistics are used and frozen\n"), "%s", text);
    ck_assert_msg(!strstr(text, "no running statistics"), "%s", text);
    ck_ok(ek_module_init(net, 1));
    ek_tensor *all[] = {x, before, after, wide};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
    ek_module_free(net);
}
END_TEST

START_TEST(a_file_of_a_folded_net)
{
    const char *path = temp_path("folded.npz");
    ek_module *net = deep_net(), *other = deep_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 2, 4, 4), 1, 2, 5);
    ck_ok(ek_fold_batch_norm(net, NULL));
    ck_ok(ek_save(net, path));
    draw_parameters(other, 99);
    ck_ok(ek_fold_batch_norm(other, NULL));
    ck_ok(ek_load(other, path));
    ek_tensor *y = apply_layer(net, x), *again = apply_layer(other, x);
    ck_assert(ek_tensor_equal(y, again));
    ek_tensor *all[] = {x, y, again};
    for (int i = 0; i < 3; i++)
        ek_tensor_free(all[i]);
    ek_module_free(net);
    ek_module_free(other);
    remove_temp();
}
END_TEST

START_TEST(an_optimizer_from_before)
{
    ek_module *net = make_pair(4, EK_F32); /* without a bias */
    ek_tensor *x = input_of(4, EK_F32);
    ek_optimizer *sgd = ek_sgd(net, 0.1, NULL);
    ek_tensor *weight = ek_module_parameter(net, "0.weight");
    for (int i = 0; i < 2; i++) {
        ek_tape *t = ek_tape_new();
        ck_ok(ek_backward(t, ek_sum(t, ek_forward(net, t, x), EK_ALL_AXES, false)));
        ek_tape_free(t);
        ck_made(ek_tensor_grad(weight));
        if (i == 0) {
            assert_one_folded(net);
            ck_assert_ptr_eq(ek_module_parameter(net, "0.weight"), weight);
            ck_assert_ptr_null(ek_tensor_grad(weight)); /* of a weight that is no more */
        }
    }
    const double before = ek_tensor_at(weight, 0), bias = state_at(net, "0.bias", 0);
    ck_ok(ek_optimizer_step(sgd));
    ck_assert_double_ne(ek_tensor_at(weight, 0), before);
    ck_assert_double_eq(state_at(net, "0.bias", 0), bias);
    ek_optimizer_free(sgd);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- lengths and ranks ------------------------------------------------------------------------------------------- */

START_TEST(padding_still_comes_out_as_zero)
{
    ek_module *net = make_pair(2, EK_F64), *plain = make_pair(2, EK_F64);
    ek_tensor *x = normal(EK_F64, EK_SHAPE(2, 3, 5), 0, 1, 1);
    ck_ok(ek_tensor_set_lengths(x, (const int64_t[]){3, 1}, 2, 0, 1));
    for (int i = 4 * 5; i < 6 * 5; i++)
        ek_data_f64(x)[i] = NAN;
    assert_one_folded(net);
    ek_tensor *y = apply_layer(net, x), *expected = apply_layer(plain, x);
    ck_made(ek_tensor_lengths(y));
    for (int64_t i = 0; i < ek_tensor_numel(y); i++)
        ck_near(ek_tensor_at(y, i), ek_tensor_at(expected, i),
                i < 16 ? 60 * ldexp(size_of(plain, i % 4), -53) : 0);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_tensor_free(expected);
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

/* Where axis 1 is not the last one the norm was not about the layer's outputs. */
START_TEST(a_rank_for_which_it_would_be_wrong_is_refused)
{
    ek_module *net = make_pair(0, EK_F32);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(2, 4, 5), 0, 1, 1);
    feed(net, x); /* (2, 4, 4) by chance fits the norm */
    assert_one_folded(net);
    assert_forward_fails(EK_ERR_SHAPE, "identity(batch_norm1d(4) folded): expected 2 axes, for which the norm was folded"
                                       ", got (2, 4, 4); in a norm after a linear layer opts.channel_axis = "
                                       "EK_CHANNELS_LAST allows more", net, x);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- what is left alone ------------------------------------------------------------------------------------------ */

static ek_module *norm_with(bool tracked, ek_norm_statistics statistics, int axis)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.track_running_stats = tracked;
    opts.statistics = statistics;
    opts.channel_axis = axis;
    return ek_batch_norm2d(4, &opts);
}

static ek_module *tracked_instance_norm(void)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.track_running_stats = true;
    return ek_instance_norm2d(4, &opts);
}

START_TEST(what_cannot_be_folded_is_left_alone)
{
    ek_module *const nets[] = {
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), norm_with(false, EK_STATS_AUTO, 1)),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), norm_with(true, EK_STATS_BATCH, 1)),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), norm_with(true, EK_STATS_AUTO, EK_CHANNELS_LAST)),
        ek_sequential(ek_linear(2, 4, NULL), norm_with(true, EK_STATS_AUTO, 1)),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), ek_batch_norm1d(4, NULL)),
        ek_sequential(ek_conv1d_layer(2, 4, 3, NULL), norm_with(true, EK_STATS_AUTO, 1)),
        ek_sequential(ek_conv2d_layer(2, 3, 3, NULL), norm_with(true, EK_STATS_AUTO, 1)),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), ek_relu_layer(), norm_with(true, EK_STATS_AUTO, 1)),
        ek_sequential(norm_with(true, EK_STATS_AUTO, 1), ek_conv2d_layer(4, 4, 3, NULL)),
        ek_sequential(ek_sequential(ek_conv2d_layer(2, 4, 3, NULL)), norm_with(true, EK_STATS_AUTO, 1)),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), ek_residual(norm_with(true, EK_STATS_AUTO, 1))),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), tracked_instance_norm()),
        ek_sequential(ek_conv2d_layer(2, 4, 3, NULL), ek_switchable_norm2d(4, NULL)),
        norm_with(true, EK_STATS_AUTO, 1),
    };
    for (size_t i = 0; i < sizeof nets / sizeof *nets; i++) {
        ck_made(nets[i]);
        ek_module_eval(nets[i]);
        ek_tensor *before = copy_state(nets[i]);
        int folded = -1;
        ck_ok(ek_fold_batch_norm(nets[i], &folded));
        ck_assert_msg(folded == 0, "net %d: %d folded", (int)i, folded);
        assert_state("left alone", nets[i], before);
        ek_tensor_free(before);
        ek_module_free(nets[i]);
    }
}
END_TEST

START_TEST(numbers_that_would_not_be_finite)
{
    static const struct {
        const char *name;
        float value;
    } bad[] = {{"1.weight", 3e38f}, {"1.running_var", -1}, {"1.running_mean", NAN}, {"0.weight", INFINITY}};
    for (int i = 0; i < 4; i++) {
        ek_module *net = make_pair(4, EK_F32);
        ek_tensor *t = ek_module_parameter(net, bad[i].name);
        t = t ? t : ek_module_buffer(net, bad[i].name);
        ek_data_f32(t)[1] = bad[i].value;
        ek_tensor *before = copy_state(net);
        int folded = -1;
        ck_ok(ek_fold_batch_norm(net, &folded));
        ck_assert_msg(folded == 0, "%s: folded", bad[i].name);
        ck_assert_str_eq(ek_module_type(ek_module_child(net, 1)), "batch_norm1d");
        ck_assert_str_eq(ek_module_describe(ek_module_child(net, 0)), "conv1d(2, 4, 3, padding 1, no bias)");
        assert_state(bad[i].name, net, before);
        ek_tensor_free(before);
        ek_module_free(net);
    }
}
END_TEST

/* Without an eps a channel that never varied has no rstd: the norm gives β, and so does the layer. */
START_TEST(no_variance_and_no_eps)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.eps = 0;
    ek_module *net = ek_sequential(ek_linear(3, 2, NULL), ek_batch_norm1d(2, &opts));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 3), 0, 1, 1);
    draw_parameters(net, 2);
    set(ek_module_buffer(net, "1.running_var"), 1, 0);
    ek_module_eval(net);
    const double beta = state_at(net, "1.bias", 1);
    assert_one_folded(net);
    ek_tensor *y = apply_layer(net, x);
    for (int64_t i = 0; i < 5; i++)
        ck_assert_double_eq(ek_tensor_at(y, 2 * i + 1), beta);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(net);
}
END_TEST

START_TEST(a_norm_that_gathers_statistics)
{
    ek_module *net = make_pair(0, EK_F32);
    ck_ok(ek_module_begin_pooling(net));
    assert_one_folded(net);
    ck_assert_int_eq(ek_module_end_pooling(net), EK_ERR_ARGUMENT); /* no norm is left */
    ck_assert_int_eq(ek_module_set_norm_statistics(net, EK_STATS_AUTO), EK_ERR_ARGUMENT);
    ek_module_free(net);
}
END_TEST

START_TEST(a_choice_of_running_statistics_is_folded)
{
    for (int choice = EK_STATS_RUNNING; choice <= EK_STATS_FROZEN; choice++) {
        ek_module *net = make_pair(0, EK_F32);
        ck_ok(ek_module_set_norm_statistics(net, (ek_norm_statistics)choice));
        assert_one_folded(net);
        ek_module_free(net);
    }
}
END_TEST

/* ---- errors ------------------------------------------------------------------------------------------------------ */

START_TEST(errors_change_nothing)
{
    int folded = -5;
    ck_assert_int_eq(ek_fold_batch_norm(NULL, &folded), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "fold_batch_norm: the module is NULL");
    ek_module *net = make_pair(0, EK_F32);
    ek_tensor *before = copy_state(net);
    ek_module_train(ek_module_child(net, 1));
    ck_assert_int_eq(ek_fold_batch_norm(net, &folded), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "fold_batch_norm: batch_norm1d(4) is in training mode, and folding is for evaluation: call "
                           "ek_module_eval() first");
    assert_state("refused", net, before);
    ck_assert_int_eq(folded, -5);
    ek_tensor_free(before);
    ek_module_free(net);
}
END_TEST

static ek_tensor *fold_now(void *user)
{
    ek_fold_batch_norm(user, NULL);
    return NULL;
}

START_TEST(not_during_a_recalibration)
{
    ek_module *net = make_pair(0, EK_F32);
    ck_assert_int_eq(ek_batch_norm_recalibrate(net, fold_now, net, 1), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "fold_batch_norm: a recalibration of this net is running");
    ek_module_free(net);
}
END_TEST

static ek_status use_fold(void)
{
    ek_module *net = ek_sequential(ek_linear(2, 3, &(ek_linear_opts){.weight_standardization = true}),
                                   ek_batch_norm1d(3, NULL), ek_linear(3, 2, &(ek_linear_opts){.bias = false}),
                                   ek_batch_norm1d(2, NULL));
    ek_status status = net ? ek_module_init(net, 1) : ek_last_status();
    if (status == EK_OK) {
        ek_module_eval(net);
        const double before = ek_tensor_at(ek_module_parameter(ek_module_child(net, 0), "weight"), 0);
        int folded = -1;
        status = ek_fold_batch_norm(net, &folded);
        ck_assert_int_eq(folded, status == EK_OK ? 2 : -1);
        const double after = ek_tensor_at(ek_module_parameter(ek_module_child(net, 0), "weight"), 0);
        ck_assert((before == after) == (status != EK_OK));
        ck_assert_int_eq((int)ek_module_count_parameters(net), status == EK_OK ? 17 : 22);
    }
    ek_module_free(net);
    return status;
}

START_TEST(refused_memory)
{
    ck_assert_int_gt((int)assert_survives_refusals(use_fold), 30);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fold");
    TCase *tcase = tcase_create("fold");
    suite_add_tcase(suite, tcase);
    tcase_add_loop_test(tcase, the_same_output, 0, PAIRS);
    tcase_add_loop_test(tcase, the_formula, 0, 2);
    tcase_add_loop_test(tcase, the_formula, 3, 6);
    tcase_add_test(tcase, gradients_still_flow);
    tcase_add_test(tcase, names_stay);
    tcase_add_test(tcase, a_file_of_a_folded_net);
    tcase_add_test(tcase, an_optimizer_from_before);
    tcase_add_test(tcase, padding_still_comes_out_as_zero);
    tcase_add_test(tcase, a_rank_for_which_it_would_be_wrong_is_refused);
    tcase_add_test(tcase, what_cannot_be_folded_is_left_alone);
    tcase_add_test(tcase, numbers_that_would_not_be_finite);
    tcase_add_test(tcase, no_variance_and_no_eps);
    tcase_add_test(tcase, a_norm_that_gathers_statistics);
    tcase_add_test(tcase, a_choice_of_running_statistics_is_folded);
    tcase_add_test(tcase, errors_change_nothing);
    tcase_add_test(tcase, not_during_a_recalibration);
    tcase_add_test(tcase, refused_memory);
    return run_suite(suite);
}
