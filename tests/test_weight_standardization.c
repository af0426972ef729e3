/* weight_standardization of linear and convolution layers: the formula, its gradient, and what is saved. */
#include "support_layers.h"

enum { LAYERS = 4 };
/* A linear layer and convolutions of each kind, with groups and without a bias among them. */
static ek_module *make_layer(int which, bool standardized)
{
    ek_linear_opts linear = ek_linear_opts_default();
    ek_conv_layer_opts conv = ek_conv_layer_opts_default();
    linear.weight_standardization = conv.weight_standardization = standardized;
    conv.padding[0] = conv.padding[1] = 1;
    conv.groups = which == 2 ? 2 : 1;
    conv.bias = which != 3;
    ek_module *layer = which == 0   ? ek_linear(6, 4, &linear)
                       : which == 1 ? ek_conv1d_layer(4, 6, 3, &conv)
                       : which == 2 ? ek_conv2d_layer(4, 6, 3, &conv)
                                    : ek_conv2d_rect_layer(2, 3, 1, 2, &conv);
    ck_made(layer);
    return layer;
}

static ek_tensor *input_of(int which, ek_dtype dtype)
{
    const ek_shape shapes[LAYERS] = {EK_SHAPE(3, 6), EK_SHAPE(2, 4, 5), EK_SHAPE(2, 4, 3, 4), EK_SHAPE(2, 2, 3, 3)};
    return normal(dtype, shapes[which], 0.5, 1, 11);
}

/* A copy with the weights of each output standardized, by the formula. */
static ek_tensor *standardize(const ek_tensor *weight)
{
    const int64_t out = ek_tensor_dim(weight, 0), k = ek_tensor_numel(weight) / out;
    ek_tensor *result = ek_tensor_cast(weight, EK_F64);
    ck_made(result);
    double *w = ek_data_f64(result);
    for (int64_t o = 0; o < out; o++) {
        double mean = 0, var = 0;
        for (int64_t i = 0; i < k; i++)
            mean += w[o * k + i] / (double)k;
        for (int64_t i = 0; i < k; i++)
            var += (w[o * k + i] - mean) * (w[o * k + i] - mean) / (double)k;
        for (int64_t i = 0; i < k; i++)
            w[o * k + i] = (w[o * k + i] - mean) / sqrt(var + 1e-5);
    }
    return result;
}

/* A plain layer with the standardized weights gives what the layer gives. */
START_TEST(the_formula)
{
    for (int f64 = 0; f64 < 2; f64++) {
        const ek_dtype dtype = f64 ? EK_F64 : EK_F32;
        ek_module *layer = make_layer(_i, true), *plain = make_layer(_i, false);
        ck_ok(ek_module_to(layer, dtype));
        ck_ok(ek_module_to(plain, dtype));
        draw_parameters(layer, 5);
        draw_parameters(plain, 5);
        ek_tensor *before = copy_state(layer), *weights = standardize(ek_module_parameter(plain, "weight"));
        ek_tensor *x = input_of(_i, dtype), *cast = ek_tensor_cast(weights, dtype);
        ck_ok(ek_tensor_write(ek_module_parameter(plain, "weight"), ek_tensor_data(cast),
                              (size_t)ek_tensor_numel(cast) * ek_dtype_size(dtype)));
        ek_tensor *y = apply_layer(layer, x), *expected = apply_layer(plain, x);
        /* ŵ is right to some roundings (here |ŵ| ≤ 5, |x| ≤ 4): 18 terms of |ŵ·x| ≤ 20, off by as many roundings in
         * either layer, and the bias ≤ 1.7 */
        assert_close("y", y, expected, 0, 2 * (18 * 20 + 2) * 20 * (f64 ? ldexp(1, -53) : ldexp(1, -24)));
        assert_state("the raw weight", layer, before);
        ek_tensor *all[] = {before, weights, x, cast, y, expected};
        for (int i = 0; i < 6; i++)
            ek_tensor_free(all[i]);
        ek_module_free(layer);
        ek_module_free(plain);
    }
}
END_TEST

static ek_tensor *apply(ek_tape *tape, ek_tensor *const *inputs, void *user)
{
    return ek_forward(user, tape, inputs[0]);
}

START_TEST(the_gradient)
{
    ek_module *layer = make_layer(_i, true);
    ck_ok(ek_module_to(layer, EK_F64));
    draw_parameters(layer, 6);
    ek_tensor *x = input_of(_i, EK_F64);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *bias = _i == 3 ? NULL : ek_module_parameter(layer, "bias");
    ek_tensor *inputs[] = {x, ek_module_parameter(layer, "weight"), bias};
    ek_gradcheck_result result;
    ck_ok(ek_gradcheck(apply, layer, inputs, _i == 3 ? 2 : 3, NULL, &result));
    ck_assert_int_gt((int)result.checked, (int)ek_tensor_numel(x));

    /* A shift or a scale of an output's weights changes nothing (but for eps): the gradient is orthogonal to both. */
    ek_tape *t = ek_tape_new();
    ek_tensor *y = ek_forward(layer, t, x);
    ck_ok(ek_backward(t, ek_sum(t, ek_mul(t, y, y), EK_ALL_AXES, false)));
    const ek_tensor *w = inputs[1], *dw = ek_tensor_grad(w);
    const int64_t k = ek_tensor_numel(w) / ek_tensor_dim(w, 0);
    for (int64_t o = 0; o < ek_tensor_dim(w, 0); o++) {
        double shift = 0, scale = 0, size = 0;
        for (int64_t i = o * k; i < (o + 1) * k; i++) {
            shift += ek_tensor_at(dw, i);
            scale += ek_tensor_at(dw, i) * ek_tensor_at(w, i);
            size += fabs(ek_tensor_at(dw, i));
        }
        ck_assert_msg(fabs(shift) <= 1e-12 * (1 + size) && fabs(scale) <= 1e-4 * (1 + size), "output %lld: %g, %g",
                      (long long)o, shift, scale);
    }
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

START_TEST(described_and_off_by_default)
{
    static const char *const texts[LAYERS] = {
        "linear(6, 4, weight standardization)", "conv1d(4, 6, 3, padding 1, weight standardization)",
        "conv2d(4, 6, 3, padding 1, groups 2, weight standardization)",
        "conv2d(2, 3, 1x2, padding 1, weight standardization, no bias)"};
    ek_module *layer = make_layer(_i, true);
    ck_assert_str_eq(ek_module_describe(layer), texts[_i]);
    ek_module_free(layer);
    ck_assert(!ek_linear_opts_default().weight_standardization && !ek_conv_layer_opts_default().weight_standardization);
}
END_TEST

START_TEST(one_weight_is_refused)
{
    ek_linear_opts linear = ek_linear_opts_default();
    ek_conv_layer_opts conv = ek_conv_layer_opts_default();
    linear.weight_standardization = conv.weight_standardization = true;
    conv.groups = 4;
    ck_refused(EK_ERR_ARGUMENT, "linear(1, 3, weight standardization): weight_standardization needs two or more "
                                "weights for each output, got one", ek_linear(1, 3, &linear));
    ck_refused(EK_ERR_ARGUMENT, "needs two or more weights for each output", ek_conv2d_layer(4, 4, 1, &conv));
    ck_refused(EK_ERR_ARGUMENT, "needs two or more weights for each output", ek_conv1d_layer(4, 8, 1, &conv));
}
END_TEST

static ek_status use_layer(void)
{
    ek_module *layer = ek_linear(2, 3, &(ek_linear_opts){.bias = true, .weight_standardization = true});
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(1, 2), (const float[]){1, 2});
    ek_status status = EK_ERR_MEMORY;
    if (layer && t && x)
        status = ek_backward(t, ek_sum(t, ek_forward(layer, t, x), EK_ALL_AXES, false));
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_module_free(layer);
    return status;
}

START_TEST(refused_memory)
{
    ck_assert_int_gt((int)assert_survives_refusals(use_layer), 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("weight_standardization");
    TCase *tcase = tcase_create("weight_standardization");
    suite_add_tcase(suite, tcase);
    tcase_add_loop_test(tcase, the_formula, 0, LAYERS);
    tcase_add_loop_test(tcase, the_gradient, 0, LAYERS);
    tcase_add_loop_test(tcase, described_and_off_by_default, 0, LAYERS);
    tcase_add_test(tcase, one_weight_is_refused);
    tcase_add_test(tcase, refused_memory);
    return run_suite(suite);
}
