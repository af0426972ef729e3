/* What holds for every norm whatever the numbers: sums, shifts and scales, independence of samples, equality between
 * norms, the same bits for any number of threads; and gradient checks of layers behind others. */
#include "support_layers.h"
#include "support_norms.h"

/* ---- the layers under test --------------------------------------------------------------------------------------- */

typedef ek_module *(*maker)(double eps, bool affine);

static ek_batch_norm_opts bn_opts(double eps, bool affine, bool last)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.eps = eps;
    opts.affine = affine;
    opts.channel_axis = last ? EK_CHANNELS_LAST : 1;
    return opts;
}

static ek_module *bn(double eps, bool affine)
{
    ek_batch_norm_opts opts = bn_opts(eps, affine, false);
    return ek_batch_norm2d(6, &opts);
}

static ek_module *bn_last(double eps, bool affine)
{
    ek_batch_norm_opts opts = bn_opts(eps, affine, true);
    return ek_batch_norm2d(6, &opts);
}

static ek_module *in(double eps, bool affine)
{
    ek_batch_norm_opts opts = bn_opts(eps, affine, false);
    return ek_instance_norm2d(6, &opts);
}

static ek_module *in_last(double eps, bool affine)
{
    ek_batch_norm_opts opts = bn_opts(eps, affine, true);
    opts.track_running_stats = false;
    return ek_instance_norm2d(6, &opts);
}

static ek_module *gn_of(int64_t groups, double eps, bool affine, int axis)
{
    ek_group_norm_opts opts = ek_group_norm_opts_default();
    opts.eps = eps;
    opts.affine = affine;
    opts.channel_axis = axis;
    return ek_group_norm(groups, 6, &opts);
}

static ek_module *gn(double eps, bool affine)
{
    return gn_of(3, eps, affine, 1);
}

static ek_module *gn_last(double eps, bool affine)
{
    return gn_of(3, eps, affine, EK_CHANNELS_LAST);
}

static ek_module *ln_over(ek_shape shape, double eps, bool affine)
{
    ek_layer_norm_opts opts = ek_layer_norm_opts_default();
    opts.eps = eps;
    opts.weight = opts.bias = affine;
    return ek_layer_norm(shape, &opts);
}

static ek_module *ln(double eps, bool affine)
{
    return ln_over(EK_SHAPE(6), eps, affine);
}

static ek_module *rms(double eps, bool affine)
{
    ek_rms_norm_opts opts = ek_rms_norm_opts_default();
    opts.eps = eps;
    opts.weight = affine;
    return ek_rms_norm(EK_SHAPE(6), &opts);
}

static ek_module *sn(double eps, bool affine)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.eps = eps;
    opts.affine = affine;
    return ek_switchable_norm2d(6, &opts);
}

static ek_module *sn_reference(double eps, bool affine)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.eps = eps;
    opts.affine = affine;
    opts.reference = true;
    return ek_switchable_norm2d(6, &opts);
}

static ek_module *sn_without_batch(double eps, bool affine)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.eps = eps;
    opts.affine = affine;
    opts.batch = false;
    return ek_switchable_norm2d(6, &opts);
}

/* All take x (N, 6, H, 6): six channels first and last. */
static const struct {
    maker make;
    bool centers, per_sample; /* takes the mean away; a sample does not see the others */
} norms[] = {{bn, true, false},  {bn_last, true, false}, {in, true, true},
             {in_last, true, true}, {gn, true, true},       {gn_last, true, true},
             {ln, true, true},      {rms, false, true},     {sn, true, false},
             {sn_reference, true, false}, {sn_without_batch, true, true}};
enum { NORMS = sizeof norms / sizeof norms[0] };

/* ---- sums, shifts and scales ------------------------------------------------------------------------------------- */

/* y does not change with x + b, so Σ dx = 0; nor with a·x, so Σ x·dx = 0 without eps. */
START_TEST(gradient_sums_vanish)
{
    ek_module *layer = norms[_i].make(0, true);
    ck_ok(ek_module_to(layer, EK_F64));
    draw_parameters(layer, 1);
    ek_tensor *x = normal(EK_F64, EK_SHAPE(4, 6, 3, 6), 1, 2, 1), *dy = normal(EK_F64, EK_SHAPE(4, 6, 3, 6), 0, 1, 2);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tape *t = ek_tape_new();
    ck_ok(ek_backward_from(t, ek_forward(layer, t, x), dy));
    double sum = 0, product = 0, size = 0;
    for (int64_t i = 0; i < ek_tensor_numel(x); i++) {
        double dx = ek_tensor_at(ek_tensor_grad(x), i);
        sum += dx;
        product += dx * ek_tensor_at(x, i);
        size += fabs(dx);
    }
    /* Some 430 terms of rounding 2⁻⁵³ each, |x| up to 8. */
    ck_assert_msg(!norms[_i].centers || fabs(sum) <= 1e-13 * size, "sum of dx is %g of %g", sum, size);
    ck_assert_msg(fabs(product) <= 1e-12 * size, "sum of x·dx is %g of %g", product, size);
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
}
END_TEST

/* The sum vanishes in every single group, which the sum over all does not show. */
START_TEST(gradient_sums_vanish_per_group)
{
    ek_tensor *x = normal(EK_F64, EK_SHAPE(4, 6, 3, 6), 1, 2, 1), *dy = normal(EK_F64, EK_SHAPE(4, 6, 3, 6), 0, 1, 2);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    /* Elements of a group stand next to each other in LN (6), IN (18) and GN (36). */
    const struct {
        maker make;
        int64_t length;
    } rows[] = {{ln, 6}, {in, 18}, {gn, 36}};
    for (int k = 0; k < 3; k++) {
        ek_module *layer = rows[k].make(1e-5, true);
        ck_ok(ek_module_to(layer, EK_F64));
        draw_parameters(layer, 1);
        ek_tape *t = ek_tape_new();
        ek_tensor_clear_grad(x);
        ck_ok(ek_backward_from(t, ek_forward(layer, t, x), dy));
        for (int64_t g = 0; g < ek_tensor_numel(x); g += rows[k].length) {
            double sum = 0, size = 0;
            for (int64_t i = g; i < g + rows[k].length; i++) {
                sum += ek_tensor_at(ek_tensor_grad(x), i);
                size += fabs(ek_tensor_at(ek_tensor_grad(x), i));
            }
            ck_assert_msg(fabs(sum) <= 1e-14 * (size + 1), "layer %d, group at %lld: %g of %g", k, (long long)g, sum,
                          size);
        }
        ek_tape_free(t);
        ek_module_free(layer);
    }
    ek_tensor_free(x);
    ek_tensor_free(dy);
}
END_TEST

/* y(a·x + b) = y(x) without eps, and with eps scaled by a². */
START_TEST(shifts_and_scales_change_nothing)
{
    ek_tensor *x = normal(EK_F64, EK_SHAPE(4, 6, 3, 6), 1, 2, 1), *moved = ek_tensor_clone(x);
    const double a = 3, b = norms[_i].centers ? -7 : 0;
    for (int64_t i = 0; i < ek_tensor_numel(x); i++)
        ek_data_f64(moved)[i] = a * ek_data_f64(x)[i] + b;
    for (int with_eps = 0; with_eps < 2; with_eps++) {
        const double eps = with_eps ? 0.1 : 0;
        ek_module *plain = norms[_i].make(eps, true), *scaled = norms[_i].make(eps * a * a, true);
        ck_ok(ek_module_to(plain, EK_F64));
        ck_ok(ek_module_to(scaled, EK_F64));
        draw_parameters(plain, 1);
        draw_parameters(scaled, 1);
        ek_tensor *y = apply_layer(plain, x), *again = apply_layer(scaled, moved);
        assert_close("y(a·x + b)", again, y, 1e-12, 1e-13);
        ek_tensor_free(y);
        ek_tensor_free(again);
        ek_module_free(plain);
        ek_module_free(scaled);
    }
    ek_tensor_free(x);
    ek_tensor_free(moved);
}
END_TEST

/* ---- samples among others ---------------------------------------------------------------------------------------- */

START_TEST(a_sample_alone_and_in_a_batch)
{
    const int64_t sample = 6 * 5 * 6;
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 6, 5, 6), 1, 2, 1);
    ek_tensor *one = ek_from_array(EK_F32, EK_SHAPE(1, 6, 5, 6), ek_data_f32(x) + 2 * sample);
    ek_module *layer = norms[_i].make(1e-5, true);
    draw_parameters(layer, 1);
    ek_tensor *all = apply_layer(layer, x), *alone = apply_layer(layer, one);
    bool same = !memcmp(ek_data_f32(all) + 2 * sample, ek_data_f32(alone), (size_t)sample * sizeof(float));
    ck_assert_msg(same == norms[_i].per_sample, "%s: a sample %s its batch", ek_module_describe(layer),
                  same ? "does not see" : "sees");
    ek_tensor_free(x);
    ek_tensor_free(one);
    ek_tensor_free(all);
    ek_tensor_free(alone);
    ek_module_free(layer);
}
END_TEST

START_TEST(training_and_evaluation_give_the_same_bits)
{
    static const maker makers[] = {ln, rms, gn, gn_last, in_last, sn_without_batch};
    for (int k = 0; k < 6; k++) {
        ek_module *layer = makers[k](1e-5, true);
        draw_parameters(layer, 1);
        ek_tensor *x = normal(EK_F32, EK_SHAPE(3, 6, 5, 6), 1, 2, 1), *train = apply_layer(layer, x);
        ek_module_eval(layer);
        ek_tensor *eval = apply_layer(layer, x);
        ck_assert_msg(ek_tensor_equal(train, eval), "%s", ek_module_describe(layer));
        ck_assert_ptr_null(ek_module_buffer(layer, "running_mean"));
        ek_tensor_free(x);
        ek_tensor_free(train);
        ek_tensor_free(eval);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- one norm is another ----------------------------------------------------------------------------------------- */

static void assert_same_layer(const char *what, ek_module *a, ek_module *b)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(3, 6, 4, 5), 3, 2, 1), *left = apply_layer(a, x), *right = apply_layer(b, x);
    assert_close(what, left, right, 1e-6, 1e-6);
    ek_tensor_free(x);
    ek_tensor_free(left);
    ek_tensor_free(right);
    ek_module_free(a);
    ek_module_free(b);
}

START_TEST(group_norm_between_instance_and_layer_norm)
{
    assert_same_layer("GN(C, C) = IN", gn_of(6, 1e-5, false, 1), ek_instance_norm2d(6, NULL));
    assert_same_layer("GN(1, C) = LN([C, H, W])", gn_of(1, 1e-5, false, 1), ln_over(EK_SHAPE(6, 4, 5), 1e-5, false));
    /* γ per channel against γ per element */
    ek_module *group = ek_group_norm(1, 6, NULL), *layer = ek_layer_norm(EK_SHAPE(6, 4, 5), NULL);
    ck_assert_int_eq(ek_module_count_parameters(group), 12);
    ck_assert_int_eq(ek_module_count_parameters(layer), 240);
    ek_module_free(group);
    ek_module_free(layer);
}
END_TEST

START_TEST(rms_norm_eps_is_the_types_own)
{
    for (int type = EK_F32; type <= EK_F64; type++) {
        const double eps = type == EK_F32 ? 0x1p-23 : 0x1p-52, x = sqrt(eps); /* mean(x²) = eps: y = 1/√2 */
        ek_module *layer = ek_rms_norm(EK_SHAPE(4), NULL);
        ck_ok(ek_module_to(layer, (ek_dtype)type));
        ek_tensor *row = ek_full((ek_dtype)type, EK_SHAPE(1, 4), x), *y = apply_layer(layer, row);
        for (int64_t i = 0; i < 4; i++)
            ck_assert_double_eq_tol(ek_tensor_at(y, i), sqrt(0.5), 1e-6);
        ck_assert_ptr_null(ek_module_parameter(layer, "bias"));
        ek_tensor_free(row);
        ek_tensor_free(y);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* Large enough that every loop has several chunks. */
static const struct {
    maker make;
    ek_shape shape;
} large[] = {
    {bn, {4, {8, 6, 70, 60}}},      {bn_last, {4, {8, 60, 70, 6}}}, {in, {4, {8, 6, 70, 60}}},
    {in_last, {4, {8, 60, 70, 6}}}, {gn, {4, {8, 6, 70, 60}}},      {gn_last, {4, {8, 60, 70, 6}}},
    {ln, {3, {200, 180, 6}}},       {rms, {3, {200, 180, 6}}},      {sn, {4, {8, 6, 70, 60}}},
};
enum { LARGE = sizeof large / sizeof large[0] };

typedef struct step_result {
    ek_tensor *y, *dx, *state, *grads;
} step_result;

static ek_status add_grad(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    double *sum = user;
    (void)name;
    for (int64_t i = 0; kind == EK_PARAMETER && i < ek_tensor_numel(tensor); i++)
        sum[(int64_t)++sum[0]] = ek_tensor_at(ek_tensor_grad(tensor), i);
    return EK_OK;
}

static step_result step_of(ek_module *layer, ek_tensor *x, const ek_tensor *dy)
{
    step_result r;
    ck_ok(ek_module_init(layer, 0));
    draw_parameters(layer, 1);
    ek_tensor_clear_grad(x);
    ek_tape *t = ek_tape_new();
    ek_tensor *y = ek_forward(layer, t, x);
    ck_made(y);
    ck_ok(ek_backward_from(t, y, dy));
    r.y = ek_tensor_clone(y);
    r.dx = ek_tensor_clone(ek_tensor_grad(x));
    r.state = copy_state(layer);
    r.grads = ek_zeros(EK_F64, EK_SHAPE(1 + ek_module_count_parameters(layer)));
    ck_ok(ek_module_visit(layer, add_grad, ek_data_f64(r.grads)));
    ek_tape_free(t);
    return r;
}

static void free_step(step_result *r)
{
    ek_tensor_free(r->y);
    ek_tensor_free(r->dx);
    ek_tensor_free(r->state);
    ek_tensor_free(r->grads);
}

static void check_threads_in(ek_dtype dtype, ek_module *layer, ek_shape shape)
{
    static const int threads[] = {2, 3, 8};
    ek_tensor *x = normal(dtype, shape, 5, 2, 1), *dy = normal(dtype, shape, 0, 1, 2);
    ck_ok(ek_module_to(layer, dtype));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_set_num_threads(1));
    step_result one = step_of(layer, x, dy);
    for (int k = 0; k < 3; k++) {
        ck_ok(ek_set_num_threads(threads[k]));
        step_result many = step_of(layer, x, dy);
        const char *name = ek_module_describe(layer);
        ck_assert_msg(ek_tensor_equal(one.y, many.y), "%s: %d threads change y", name, threads[k]);
        ck_assert_msg(ek_tensor_equal(one.dx, many.dx), "%s: %d threads change dx", name, threads[k]);
        ck_assert_msg(ek_tensor_equal(one.state, many.state), "%s: %d threads change buffers", name, threads[k]);
        ck_assert_msg(ek_tensor_equal(one.grads, many.grads), "%s: %d threads change d_weight", name, threads[k]);
        free_step(&many);
    }
    free_step(&one);
    ek_tensor_free(x);
    ek_tensor_free(dy);
}

/* In float64 as well: sums are in double, and rounding to float32 would hide another order of adding. */
static void check_threads(ek_module *layer, ek_shape shape)
{
    ck_made(layer);
    check_threads_in(EK_F32, layer, shape);
    check_threads_in(EK_F64, layer, shape);
    ek_module_free(layer);
}

START_TEST(the_same_bits_for_any_number_of_threads)
{
    check_threads(large[_i].make(1e-5, true), large[_i].shape);
}
END_TEST

START_TEST(the_same_bits_for_any_number_of_threads_in_other_shapes)
{
    check_threads(ek_batch_norm1d(130, NULL), EK_SHAPE(1000, 130));
    check_threads(ek_layer_norm(EK_SHAPE(50000), NULL), EK_SHAPE(3, 50000));
    check_threads(ek_layer_norm(EK_SHAPE(300), NULL), EK_SHAPE(500, 300));
    check_threads(ek_batch_norm1d(2, NULL), EK_SHAPE(2, 2, 50000));
    check_threads(ek_switchable_norm1d(130, NULL), EK_SHAPE(1000, 130));
    check_threads(ek_group_norm(2, 400, NULL), EK_SHAPE(300, 400));
}
END_TEST

/* ---- gradient checks behind another layer ------------------------------------------------------------------------ */

static ek_tensor *through(ek_tape *t, ek_tensor *const *inputs, void *net)
{
    return ek_forward(net, t, inputs[0]);
}

typedef struct leaves {
    ek_tensor *at[16];
    int n;
} leaves;

static ek_status add_leaf(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    leaves *all = user;
    (void)name;
    if (kind == EK_PARAMETER)
        all->at[all->n++] = tensor;
    return EK_OK;
}

/* Input and every parameter of a float64 net, in training, in evaluation by running statistics, and by frozen ones. */
static void check_gradients(ek_module *net, ek_shape shape)
{
    ck_made(net);
    ck_ok(ek_module_to(net, EK_F64));
    draw_parameters(net, 4);
    ek_tensor *x = normal(EK_F64, shape, 0.5, 1, 5);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor_free(apply_layer(net, x)); /* running statistics that are no longer 0 and 1 */
    leaves all = {{x}, 1};
    ck_ok(ek_module_visit(net, add_leaf, &all));
    for (int mode = 0; mode < 3; mode++) {
        ek_gradcheck_result result;
        if (mode == 1)
            ek_module_eval(net);
        if (mode == 2) {
            ek_module_train(net);
            if (ek_module_set_norm_statistics(net, EK_STATS_FROZEN) != EK_OK)
                break;
        }
        ek_gradcheck_opts opts = ek_gradcheck_opts_default();
        opts.seed = (uint64_t)mode + 1;
        ek_status status = ek_gradcheck(through, net, all.at, all.n, &opts, &result);
        ck_assert_msg(status == EK_OK, "%s, mode %d: %s", ek_module_describe(ek_module_child(net, 1)), mode,
                      ek_last_error());
        ck_assert(result.checked > 0 && result.error <= 1e-7);
    }
    ek_tensor_free(x);
    ek_module_free(net);
}

START_TEST(gradients_behind_a_linear_layer)
{
    ek_switchable_norm_opts reference = ek_switchable_norm_opts_default(), no_batch = reference;
    ek_batch_norm_opts untracked = ek_batch_norm_opts_default(), bare = untracked;
    ek_layer_norm_opts weight = ek_layer_norm_opts_default(), bias = weight, none = weight;
    ek_group_norm_opts plain = ek_group_norm_opts_default();
    ek_rms_norm_opts no_weight = ek_rms_norm_opts_default();
    reference.reference = true;
    no_batch.batch = false;
    untracked.track_running_stats = bare.affine = plain.affine = no_weight.weight = false;
    weight.bias = bias.weight = none.weight = none.bias = false;
    ek_module *const all[] = {
        ek_batch_norm1d(6, NULL), ek_batch_norm1d(6, &untracked), ek_batch_norm1d(6, &bare),
        ek_layer_norm(EK_SHAPE(6), NULL), ek_layer_norm(EK_SHAPE(6), &weight), ek_layer_norm(EK_SHAPE(6), &bias),
        ek_layer_norm(EK_SHAPE(6), &none), ek_rms_norm(EK_SHAPE(6), NULL), ek_rms_norm(EK_SHAPE(6), &no_weight),
        ek_group_norm(2, 6, NULL), ek_group_norm(2, 6, &plain), ek_switchable_norm1d(6, NULL),
        ek_switchable_norm1d(6, &reference), ek_switchable_norm1d(6, &no_batch),
    };
    for (size_t k = 0; k < sizeof all / sizeof all[0]; k++)
        check_gradients(ek_sequential(ek_linear(4, 6, NULL), all[k]), EK_SHAPE(5, 4));
}
END_TEST

/* The channels of (N, H, W, C) mixed by a linear layer, which is a 1×1 convolution. */
START_TEST(gradients_behind_a_linear_layer_with_channels_last)
{
    static const maker makers[] = {bn_last, in_last, gn_last};
    for (int k = 0; k < 3; k++)
        for (int affine = 0; affine < 2; affine++)
            check_gradients(ek_sequential(ek_linear(4, 6, NULL), makers[k](1e-5, affine)), EK_SHAPE(3, 2, 2, 4));
}
END_TEST

START_TEST(gradients_behind_a_convolution)
{
    static const maker makers[] = {bn, in, gn, sn, sn_reference, sn_without_batch};
    for (int affine = 0; affine < 2; affine++)
        check_gradients(ek_sequential(ek_conv2d_layer(2, 6, 2, NULL), makers[_i](1e-5, affine)), EK_SHAPE(3, 2, 3, 3));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm properties");
    TCase *tcase = tcase_create("norm properties");
    tcase_add_loop_test(tcase, gradient_sums_vanish, 0, NORMS);
    tcase_add_test(tcase, gradient_sums_vanish_per_group);
    tcase_add_loop_test(tcase, shifts_and_scales_change_nothing, 0, NORMS);
    tcase_add_loop_test(tcase, a_sample_alone_and_in_a_batch, 0, NORMS);
    tcase_add_test(tcase, training_and_evaluation_give_the_same_bits);
    tcase_add_test(tcase, group_norm_between_instance_and_layer_norm);
    tcase_add_test(tcase, rms_norm_eps_is_the_types_own);
    tcase_add_loop_test(tcase, the_same_bits_for_any_number_of_threads, 0, LARGE);
    tcase_add_test(tcase, the_same_bits_for_any_number_of_threads_in_other_shapes);
    tcase_add_test(tcase, gradients_behind_a_linear_layer);
    tcase_add_test(tcase, gradients_behind_a_linear_layer_with_channels_last);
    tcase_add_loop_test(tcase, gradients_behind_a_convolution, 0, 6);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
