/* Layers: what constructors accept, first values, results by hand, errors of forward, dropout, gradients. */
#include "support.h"

#include "module.h"

static ek_tensor *ramp(ek_dtype dtype, ek_shape shape)
{
    ek_tensor *x = ek_zeros(dtype, shape);
    ck_made(x);
    for (int64_t i = 0; i < ek_tensor_numel(x); i++) {
        double value = (double)(i * 7 % 11) / 4 - 1.3; /* no two neighbours equal, none at a kink */
        if (dtype == EK_F32)
            ek_data_f32(x)[i] = (float)value;
        else
            ek_data_f64(x)[i] = value;
    }
    return x;
}

/* Applies a module on a tape of its own in evaluation or training; the result is the caller's. */
static ek_tensor *apply(ek_module *module, ek_tensor *x)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(module, tape, x);
    y = y ? ek_tensor_clone(y) : NULL;
    ek_tape_free(tape);
    return y;
}

/* ---- constructors ----------------------------------------------------------------------------------------------- */

static ek_conv_layer_opts conv_opts(int64_t stride, int64_t padding, int64_t dilation, int64_t groups, bool bias)
{
    return (ek_conv_layer_opts){{stride, stride}, {padding, padding}, {dilation, dilation}, groups, bias, false};
}

START_TEST(constructors_refuse_nonsense)
{
    ek_conv_layer_opts stride = conv_opts(0, 0, 1, 1, true), padding = conv_opts(1, -1, 1, 1, true);
    ek_conv_layer_opts dilation = conv_opts(1, 0, 0, 1, true), groups = conv_opts(1, 0, 1, 2, true);
    ek_pool_opts pool_stride = ek_pool_opts_default(), pool_padding = ek_pool_opts_default();
    pool_stride.stride[1] = 0;
    pool_padding.padding[0] = 2;
    struct {
        ek_module *made;
        const char *error;
    } cases[32];
    int n = 0;
#define REFUSED(call, text)                                                                                            \
    do {                                                                                                               \
        ek_clear_error();                                                                                              \
        cases[n].made = (call);                                                                                        \
        cases[n].error = (text);                                                                                       \
        ck_assert_msg(!cases[n].made, "%s was made", #call);                                                           \
        ck_error(EK_ERR_ARGUMENT, cases[n].error);                                                                     \
        n++;                                                                                                           \
    } while (0)
    REFUSED(ek_linear(0, 3, NULL), "linear: expected in_features and out_features of 1 or more, got 0 and 3");
    REFUSED(ek_linear(3, -1, NULL), "got 3 and -1");
    REFUSED(ek_conv1d_layer(0, 2, 3, NULL), "conv1d: expected in_channels and out_channels of 1 or more, got 0 and 2");
    REFUSED(ek_conv2d_layer(1, 2, 0, NULL), "conv2d: expected kernel ≥ 1, got 0");
    REFUSED(ek_conv2d_rect_layer(1, 2, 3, -3, NULL), "conv2d: expected kernel ≥ 1, got -3");
    REFUSED(ek_conv2d_layer(1, 2, 3, &stride), "conv2d: expected stride ≥ 1, got 0");
    REFUSED(ek_conv2d_layer(1, 2, 3, &padding), "conv2d: expected padding ≥ 0, got -1");
    REFUSED(ek_conv1d_layer(1, 2, 3, &dilation), "conv1d: expected dilation ≥ 1, got 0");
    REFUSED(ek_conv2d_layer(3, 4, 3, &groups),
            "conv2d: expected groups that divide in_channels 3 and out_channels 4, got 2");
    REFUSED(ek_conv2d_layer(4, 3, 3, &groups), "in_channels 4 and out_channels 3, got 2");
    REFUSED(ek_max_pool2d_layer(0, NULL), "max_pool2d: expected kernel ≥ 1, got 0");
    REFUSED(ek_avg_pool2d_layer(3, &pool_stride),
            "avg_pool2d: expected a stride of 1 or more, or EK_STRIDE_IS_KERNEL, got 0");
    REFUSED(ek_max_pool1d_layer(3, &pool_padding),
            "max_pool1d: expected a padding of 0 to half the kernel, 1, got 2");
    REFUSED(ek_adaptive_avg_pool2d_layer(1, 0), "adaptive_avg_pool2d: expected output size ≥ 1, got 0");
    REFUSED(ek_leaky_relu_layer(NAN), "leaky_relu: expected a finite negative_slope, got nan");
    REFUSED(ek_softmax_layer(8), "softmax: expected an axis of -8 … 7, got 8");
    REFUSED(ek_dropout_layer(1), "dropout: expected a probability 0 ≤ p < 1, got 1");
    REFUSED(ek_dropout_layer(-0.1), "dropout: expected a probability 0 ≤ p < 1, got -0.1");
    REFUSED(ek_dropout_layer(NAN), "got nan");
    REFUSED(ek_embedding_layer(0, 3, NULL), "embedding: expected num_embeddings and embedding_dim of 1 or more, got 0");
    REFUSED(ek_embedding_layer(5, 3, &(ek_embedding_layer_opts){5}),
            "embedding: expected a padding_idx of 0 … 4 or EK_NO_PADDING_IDX, got 5");
    REFUSED(ek_residual(NULL), "residual: the child is NULL");
    REFUSED(ek_residual(ek_linear(0, 1, NULL)), "residual: the child is NULL; the last error was: linear: expected");
    ck_assert_ptr_null(ek_linear(INT64_MAX, INT64_MAX, NULL));
    ck_error(EK_ERR_SHAPE, "overflows");
}
END_TEST

START_TEST(descriptions_say_what_is_not_usual)
{
    ek_conv_layer_opts all = conv_opts(2, 1, 3, 2, false), rect = ek_conv_layer_opts_default();
    rect.padding[1] = 1;
    ek_pool_opts pool = ek_pool_opts_default();
    pool.stride[0] = pool.stride[1] = 2;
    pool.padding[0] = pool.padding[1] = 1;
    struct {
        ek_module *module;
        const char *type, *description;
    } cases[] = {
        {ek_linear(784, 256, NULL), "linear", "linear(784, 256)"},
        {ek_linear(2, 3, &(ek_linear_opts){.bias = false}), "linear", "linear(2, 3, no bias)"},
        {ek_conv1d_layer(3, 4, 5, NULL), "conv1d", "conv1d(3, 4, 5)"},
        {ek_conv2d_layer(4, 6, 3, &all), "conv2d",
         "conv2d(4, 6, 3, stride 2, padding 1, dilation 3, groups 2, no bias)"},
        {ek_conv2d_rect_layer(1, 2, 3, 5, &rect), "conv2d", "conv2d(1, 2, 3x5, padding 0x1)"},
        {ek_max_pool2d_layer(2, NULL), "max_pool2d", "max_pool2d(2)"},
        {ek_avg_pool1d_layer(3, &pool), "avg_pool1d", "avg_pool1d(3, stride 2, padding 1)"},
        {ek_adaptive_avg_pool2d_layer(2, 3), "adaptive_avg_pool2d", "adaptive_avg_pool2d(2x3)"},
        {ek_adaptive_avg_pool1d_layer(4), "adaptive_avg_pool1d", "adaptive_avg_pool1d(4)"},
        {ek_leaky_relu_layer(0.2), "leaky_relu", "leaky_relu(0.2)"},
        {ek_log_softmax_layer(-1), "log_softmax", "log_softmax(-1)"},
        {ek_dropout_layer(0.5), "dropout", "dropout(0.5)"},
        {ek_embedding_layer(10, 4, &(ek_embedding_layer_opts){0}), "embedding", "embedding(10, 4, padding_idx 0)"},
        {ek_residual(ek_gelu_layer()), "residual", "residual"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_made(cases[i].module);
        ck_assert_str_eq(ek_module_type(cases[i].module), cases[i].type);
        ck_assert_str_eq(ek_module_describe(cases[i].module), cases[i].description);
        ek_module_free(cases[i].module);
    }
}
END_TEST

/* ---- first values ----------------------------------------------------------------------------------------------- */

/* All of t within ±bound, and its variance that of the uniform distribution, bound²/3: for n values the sample variance
 * strays by a relative √(4/5n) (one σ); five of those are allowed. */
static void assert_uniform(const ek_tensor *t, double bound)
{
    ck_made(t);
    double sum_of_squares = 0;
    int64_t n = ek_tensor_numel(t);
    for (int64_t i = 0; i < n; i++) {
        double value = ek_tensor_at(t, i);
        ck_assert_msg(value >= -bound && value < bound, "%g is outside ±%g", value, bound);
        sum_of_squares += value * value;
    }
    double relative = sum_of_squares / (double)n / (bound * bound / 3);
    ck_assert_msg(fabs(relative - 1) < 5 * sqrt(4.0 / 5 / (double)n), "variance is %g of what it should be", relative);
}

START_TEST(first_values_are_torchs)
{
    ek_conv_layer_opts grouped = conv_opts(1, 0, 1, 2, true);
    ek_module *net = ek_sequential(ek_linear(784, 256, NULL), ek_conv2d_layer(8, 16, 3, &grouped),
                                   ek_conv1d_layer(8, 16, 5, NULL), ek_embedding_layer(100, 50, NULL),
                                   ek_embedding_layer(100, 50, &(ek_embedding_layer_opts){7}),
                                   ek_conv2d_rect_layer(2, 16, 3, 5, NULL));
    ck_made(net);
    ck_ok(ek_module_init(net, 11));
    assert_uniform(ek_module_parameter(net, "0.weight"), 1 / sqrt(784));
    assert_uniform(ek_module_parameter(net, "0.bias"), 1 / sqrt(784));
    assert_uniform(ek_module_parameter(net, "1.weight"), 1 / sqrt(4 * 9));
    assert_uniform(ek_module_parameter(net, "1.bias"), 1 / sqrt(4 * 9));
    assert_uniform(ek_module_parameter(net, "2.weight"), 1 / sqrt(8 * 5));
    assert_uniform(ek_module_parameter(net, "5.weight"), 1 / sqrt(2 * 15));
    struct {
        const char *name, *shape;
        bool decays;
    } slots[] = {{"0.weight", "(256, 784)", true}, {"0.bias", "(256,)", false}, {"1.weight", "(16, 4, 3, 3)", true},
                 {"2.weight", "(16, 8, 5)", true}, {"2.bias", "(16,)", false},  {"3.weight", "(100, 50)", true},
                 {"5.weight", "(16, 2, 3, 5)", true}};
    for (int i = 0; i < 7; i++) {
        const ek_tensor *t = ek_module_parameter(net, slots[i].name);
        ck_assert_str_eq(EK_TEXT(ek_tensor_shape(t)), slots[i].shape);
        ck_assert(ek_tensor_requires_grad(t) && t->decays == slots[i].decays);
    }
    const ek_tensor *normal = ek_module_parameter(net, "3.weight"), *padded = ek_module_parameter(net, "4.weight");
    double sum = 0, squares = 0;
    for (int i = 0; i < 5000; i++) {
        sum += ek_tensor_at(normal, i);
        squares += ek_tensor_at(normal, i) * ek_tensor_at(normal, i);
        ck_assert((ek_tensor_at(padded, i) == 0) == (i / 50 == 7));
    }
    ck_assert_double_lt(fabs(sum / 5000), 5 / sqrt(5000));          /* 5 σ of the mean of n normals, 1/√n */
    ck_assert_double_lt(fabs(squares / 5000 - 1), 5 * sqrt(2.0 / 5000)); /* and of their mean square, √(2/n) */
    ek_module_free(net);
}
END_TEST

/* ---- results ---------------------------------------------------------------------------------------------------- */

START_TEST(layers_apply_their_ops)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ramp(EK_F32, EK_SHAPE(2, 3, 4, 4)), *row = ramp(EK_F32, EK_SHAPE(2, 3, 8));
    ek_conv_layer_opts options = conv_opts(2, 1, 1, 1, true);
    ek_conv_opts op_options = ek_conv_opts_default();
    op_options.stride[0] = op_options.stride[1] = 2;
    op_options.padding[0] = op_options.padding[1] = 1;
    ek_pool_opts pool = ek_pool_opts_default();
    pool.stride[0] = pool.stride[1] = 1;
    ek_module *layers[] = {
        ek_relu_layer(), ek_leaky_relu_layer(0.3), ek_gelu_layer(), ek_silu_layer(), ek_sigmoid_layer(),
        ek_tanh_layer(), ek_softplus_layer(), ek_softmax_layer(1), ek_log_softmax_layer(-1), ek_flatten_layer(),
        ek_max_pool2d_layer(2, &pool), ek_avg_pool2d_layer(2, NULL), ek_adaptive_avg_pool2d_layer(2, 1),
        ek_conv2d_layer(3, 5, 3, &options), ek_linear(4, 6, NULL), ek_residual(ek_tanh_layer()),
        ek_max_pool1d_layer(2, &pool), ek_avg_pool1d_layer(2, NULL), ek_adaptive_avg_pool1d_layer(3),
        ek_conv1d_layer(3, 5, 3, &options)};
    enum { N = sizeof layers / sizeof *layers, FIRST_1D = 16 };
    for (int i = 0; i < N; i++)
        ck_ok(ek_module_init(layers[i], 3));
    ek_module *conv2d = layers[13], *linear = layers[14], *conv1d = layers[19];
    ek_tensor *expected[N] = {
        ek_relu(tape, x), ek_leaky_relu(tape, x, 0.3), ek_gelu(tape, x), ek_silu(tape, x), ek_sigmoid(tape, x),
        ek_tanh(tape, x), ek_softplus(tape, x, 1, 20), ek_softmax(tape, x, 1), ek_log_softmax(tape, x, 3),
        ek_reshape(tape, x, EK_SHAPE(2, 48)), ek_max_pool2d(tape, x, 2, 2, &pool), ek_avg_pool2d(tape, x, 2, 2, NULL),
        ek_adaptive_avg_pool2d(tape, x, 2, 1),
        ek_conv2d(tape, x, ek_module_parameter(conv2d, "weight"), ek_module_parameter(conv2d, "bias"), &op_options),
        ek_linear_op(tape, x, ek_module_parameter(linear, "weight"), ek_module_parameter(linear, "bias")),
        ek_add(tape, x, ek_tanh(tape, x)), ek_max_pool1d(tape, row, 2, &pool), ek_avg_pool1d(tape, row, 2, NULL),
        ek_adaptive_avg_pool1d(tape, row, 3),
        ek_conv1d(tape, row, ek_module_parameter(conv1d, "weight"), ek_module_parameter(conv1d, "bias"), &op_options)};
    for (int i = 0; i < N; i++) {
        ek_tensor *y = ek_forward(layers[i], tape, i < FIRST_1D ? x : row);
        ck_made(y);
        ck_assert_msg(ek_tensor_equal(y, expected[i]), "%s differs from its op", ek_module_describe(layers[i]));
        ek_module_free(layers[i]);
    }
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(row);
}
END_TEST

START_TEST(linear_by_hand)
{
    ek_module *linear = ek_linear(2, 3, NULL), *unbiased = ek_linear(2, 3, &(ek_linear_opts){.bias = false});
    float weight[] = {1, 2, 3, 4, 5, 6}, bias[] = {10, 20, 30};
    ck_ok(ek_tensor_write(ek_module_parameter(linear, "weight"), weight, sizeof weight));
    ck_ok(ek_tensor_write(ek_module_parameter(linear, "bias"), bias, sizeof bias));
    ck_ok(ek_tensor_write(ek_module_parameter(unbiased, "weight"), weight, sizeof weight));
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(2, 2), (float[]){1, 1, 2, -1});
    ek_tensor *y = apply(linear, x), *z = apply(unbiased, x);
    ek_tensor *expected_y = ek_from_array(EK_F32, EK_SHAPE(2, 3), (float[]){13, 27, 41, 10, 22, 34});
    ek_tensor *expected_z = ek_from_array(EK_F32, EK_SHAPE(2, 3), (float[]){3, 7, 11, 0, 2, 4});
    ck_assert(ek_tensor_equal(y, expected_y) && ek_tensor_equal(z, expected_z)); /* small integers: exact */
    ck_assert_int_eq(ek_module_count_parameters(linear), 9);
    ck_assert_int_eq(ek_module_count_parameters(unbiased), 6);
    ek_tensor *all[] = {x, y, z, expected_y, expected_z};
    for (int i = 0; i < 5; i++)
        ek_tensor_free(all[i]);
    ek_module_free(linear);
    ek_module_free(unbiased);
}
END_TEST

START_TEST(forward_errors_say_what_to_do)
{
    struct {
        ek_module *module;
        ek_dtype dtype;
        ek_shape shape;
        ek_status status;
        const char *error;
    } cases[] = {
        {ek_linear(784, 256, NULL), EK_F32, EK_SHAPE(32, 28, 28), EK_ERR_SHAPE,
         "linear(784, 256): expected (…, 784), got (32, 28, 28): flatten first, with ek_flatten_layer()"},
        {ek_linear(784, 256, NULL), EK_F32, EK_SHAPE(32, 100), EK_ERR_SHAPE,
         "linear(784, 256): expected (…, 784), got (32, 100): in_features is the size of the last axis"},
        {ek_linear(3, 2, NULL), EK_F32, EK_SCALAR, EK_ERR_SHAPE, "linear(3, 2): expected (…, 3), got ()"},
        {ek_linear(3, 2, NULL), EK_F64, EK_SHAPE(4, 3), EK_ERR_DTYPE, "expected inputs of one float type"},
        {ek_conv2d_layer(1, 2, 3, NULL), EK_F32, EK_SHAPE(32, 28, 28), EK_ERR_SHAPE,
         "conv2d(1, 2, 3): expected (N, 1, H, W), got (32, 28, 28): put the channel axis in with ek_reshape()"},
        {ek_conv2d_layer(3, 2, 3, NULL), EK_F32, EK_SHAPE(3, 28, 28), EK_ERR_SHAPE,
         "expected (N, 3, H, W), got (3, 28, 28): one sample is a batch of 1"},
        {ek_conv2d_layer(3, 2, 3, NULL), EK_F32, EK_SHAPE(5, 28, 28, 3), EK_ERR_SHAPE,
         "got (5, 28, 28, 3): channels come second; ek_permute() moves them"},
        {ek_conv1d_layer(3, 2, 3, NULL), EK_F32, EK_SHAPE(5, 4, 28), EK_ERR_SHAPE,
         "conv1d(3, 2, 3): expected (N, 3, L), got (5, 4, 28): in_channels is the size of axis 1"},
        {ek_max_pool2d_layer(2, NULL), EK_F32, EK_SHAPE(5, 4, 28), EK_ERR_SHAPE,
         "max_pool2d(2): expected (N, C, H, W), got (5, 4, 28)"},
        {ek_adaptive_avg_pool1d_layer(2), EK_F32, EK_SHAPE(5, 4), EK_ERR_SHAPE,
         "adaptive_avg_pool1d(2): expected (N, C, L), got (5, 4)"},
        {ek_flatten_layer(), EK_F32, EK_SHAPE(5), EK_ERR_SHAPE, "flatten: expected (N, …) of rank 2 or more, got (5,)"},
        {ek_embedding_layer(4, 2, NULL), EK_F32, EK_SHAPE(5), EK_ERR_DTYPE,
         "embedding(4, 2): expected int64 indices, got float32 (5,)"},
        {ek_residual(ek_flatten_layer()), EK_F32, EK_SHAPE(2, 3, 4), EK_ERR_SHAPE,
         "residual: expected flatten to keep the shape (2, 3, 4) of its input, got (2, 12)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ek_tensor *x = ek_ones(cases[i].dtype, cases[i].shape);
        ck_assert_ptr_null(apply(cases[i].module, x));
        ck_error(cases[i].status, cases[i].error);
        ek_tensor_free(x);
        ek_module_free(cases[i].module);
    }
}
END_TEST

START_TEST(padding_row_is_not_trained)
{
    ek_module *table = ek_embedding_layer(4, 2, &(ek_embedding_layer_opts){1});
    ek_tensor *words = ek_from_array(EK_I64, EK_SHAPE(1, 3), (int64_t[]){1, 3, 3});
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(table, tape, words);
    ck_made(y);
    ck_assert_str_eq(EK_TEXT(ek_tensor_shape(y)), "(1, 3, 2)");
    ck_assert(ek_tensor_at(y, 0) == 0 && ek_tensor_at(y, 1) == 0);
    ck_assert(ek_tensor_at(y, 2) == ek_tensor_at(ek_module_parameter(table, "weight"), 6));
    ck_ok(ek_backward(tape, ek_sum(tape, y, EK_ALL_AXES, false)));
    ek_tensor *expected = ek_from_array(EK_F32, EK_SHAPE(4, 2), (float[]){0, 0, 0, 0, 0, 0, 2, 2});
    ck_assert(ek_tensor_equal(ek_tensor_grad(ek_module_parameter(table, "weight")), expected));
    ek_tensor_free(expected);
    ek_tensor_free(words);
    ek_tape_free(tape);
    ek_module_free(table);
}
END_TEST

/* ---- dropout ---------------------------------------------------------------------------------------------------- */

static ek_module *dropout_net(uint64_t seed)
{
    ek_module *net = ek_sequential(ek_dropout_layer(0.5), ek_dropout_layer(0.25));
    ck_made(net);
    ck_ok(ek_module_init(net, seed));
    return net;
}

START_TEST(dropout_is_reproducible)
{
    ek_module *a = dropout_net(1), *b = dropout_net(1), *c = dropout_net(2);
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(400)), *first = apply(a, x), *second = apply(a, x);
    ek_tensor *first_b = apply(b, x), *first_c = apply(c, x);
    ck_assert(ek_tensor_equal(first, first_b) && !ek_tensor_equal(first, second) && !ek_tensor_equal(first, first_c));
    /* Each value is 0 or 1/(½·¾); 3/8 of them stay, ±5σ with σ = √(400·⅜·⅝) ≈ 9.7. */
    int stayed = 0;
    for (int i = 0; i < 400; i++) {
        double value = ek_tensor_at(first, i);
        ck_assert(value == 0 || fabs(value - 8.0 / 3) < 1e-6);
        stayed += value != 0;
    }
    ck_assert_int_lt(abs(stayed - 150), 49);
    /* A mask is known by seed, name and count, so an init brings the first one back. */
    ck_ok(ek_module_init(a, 1));
    ek_tensor *again = apply(a, x);
    ck_assert(ek_tensor_equal(first, again));
    /* Evaluation does nothing, to the counter neither. */
    ek_module_eval(a);
    ek_tensor *same = apply(a, x);
    ck_assert(ek_tensor_equal(same, x));
    ek_module_train(a);
    ek_tensor *next = apply(a, x);
    ck_assert(ek_tensor_equal(next, second));
    ek_tensor *all[] = {x, first, second, first_b, first_c, again, same, next};
    for (int i = 0; i < 8; i++)
        ek_tensor_free(all[i]);
    ek_module_free(a);
    ek_module_free(b);
    ek_module_free(c);
}
END_TEST

/* The same dropout twice, side by side; fails afterwards when its state says so. */
static ek_tensor *twice_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *masks[2] = {ek_forward(ek_module_child(module, 0), tape, x),
                           ek_forward(ek_module_child(module, 0), tape, x)};
    ek_tensor *y = ek_concat(tape, masks, 2, 0);
    if (*(bool *)ek_module_state(module)) {
        ek_fail(EK_ERR_ARGUMENT, "as asked");
        return NULL;
    }
    return y;
}

static ek_module *twice(void)
{
    static const ek_module_def def = {"twice", twice_forward, NULL, sizeof(bool)};
    ek_module *module = ek_module_new(&def, NULL);
    ck_ok(ek_module_add_child(module, "drop", ek_dropout_layer(0.5)));
    ck_ok(ek_module_init(module, 4));
    return module;
}

static ek_tensor *forward_of(ek_tape *tape, ek_tensor *const *inputs, void *module)
{
    return ek_forward(module, tape, inputs[0]);
}

START_TEST(dropout_moves_with_forwards_that_succeed)
{
    ek_module *smooth = twice(), *rough = twice();
    ek_tensor *x = ek_ones(EK_F64, EK_SHAPE(1, 40));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *first = apply(smooth, x), *second = apply(smooth, x);
    ck_made(first);
    ck_assert_msg(memcmp(ek_data_f64(first), ek_data_f64(first) + 40, 320) != 0, "both uses drew one mask");

    *(bool *)ek_module_state(rough) = true;
    ck_assert_ptr_null(apply(rough, x));
    *(bool *)ek_module_state(rough) = false;
    ck_ok(ek_gradcheck(forward_of, rough, &x, 1, NULL, NULL));
    ek_tensor *rough_first = apply(rough, x), *rough_second = apply(rough, x);
    ck_assert(ek_tensor_equal(first, rough_first) && ek_tensor_equal(second, rough_second));
    ek_tensor *all[] = {x, first, second, rough_first, rough_second};
    for (int i = 0; i < 5; i++)
        ek_tensor_free(all[i]);
    ek_module_free(smooth);
    ek_module_free(rough);
}
END_TEST

/* ---- whole nets ------------------------------------------------------------------------------------------------- */

/* All parameters of a module, to differentiate with respect to them too. */
typedef struct leaves {
    ek_tensor *at[24];
    int n;
} leaves;

static ek_status gather(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name;
    leaves *l = user;
    if (kind == EK_PARAMETER)
        l->at[l->n++] = tensor;
    return EK_OK;
}

/* A module of one's own: y = up(tanh(down(x))) + offset, with an offset that is not trained. */
static ek_tensor *bottleneck_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *hidden = ek_tanh(tape, ek_forward(ek_module_child(module, 0), tape, x));
    return ek_add(tape, ek_forward(ek_module_child(module, 1), tape, hidden), ek_module_buffer(module, "offset"));
}

static ek_module *bottleneck(int64_t wide, int64_t narrow)
{
    static const ek_module_def def = {.type = "bottleneck", .forward = bottleneck_forward};
    ek_module *module = ek_module_new(&def, "bottleneck(%lld, %lld)", (long long)wide, (long long)narrow);
    bool complete = ek_module_add_child(module, "down", ek_linear(wide, narrow, NULL)) == EK_OK &&
                    ek_module_add_child(module, "up", ek_linear(narrow, wide, NULL)) == EK_OK &&
                    ek_module_add_buffer(module, "offset", EK_F32, EK_SHAPE(wide), 0.5);
    return ek_module_complete(module, complete);
}

static ek_module *small_net(void)
{
    ek_conv_layer_opts padded = conv_opts(1, 1, 1, 1, true);
    return ek_sequential(ek_conv2d_layer(2, 4, 3, &padded), ek_silu_layer(), ek_avg_pool2d_layer(2, NULL),
                         ek_residual(ek_conv2d_layer(4, 4, 3, &padded)), ek_dropout_layer(0.2), ek_flatten_layer(),
                         ek_linear(16, 6, NULL), bottleneck(6, 3), ek_log_softmax_layer(-1));
}

START_TEST(gradients_of_a_small_net)
{
    ek_module *net = small_net();
    ck_made(net);
    ck_ok(ek_module_init(net, 8));
    ck_ok(ek_module_to(net, EK_F64));
    leaves l = {.n = 1};
    l.at[0] = ramp(EK_F64, EK_SHAPE(2, 2, 4, 4));
    ck_ok(ek_tensor_set_requires_grad(l.at[0], true));
    ck_ok(ek_module_visit(net, gather, &l));
    ck_assert_int_eq(l.n, 1 + 10);
    ck_ok(ek_gradcheck(forward_of, net, l.at, l.n, NULL, NULL));
    ek_tensor_free(l.at[0]);
    ek_module_free(net);
}
END_TEST

START_TEST(modules_of_ones_own)
{
    ek_module *net = ek_sequential(ek_relu_layer(), bottleneck(6, 3));
    ck_made(ek_module_parameter(net, "1.down.weight"));
    ck_assert(ek_tensor_at(ek_module_buffer(net, "1.offset"), 0) == 0.5);
    ek_tensor *x = ramp(EK_F32, EK_SHAPE(4, 6)), *wrong = ramp(EK_F32, EK_SHAPE(4, 5)), *y = apply(net, x);
    ck_made(y);
    ck_assert_str_eq(EK_TEXT(ek_tensor_shape(y)), "(4, 6)");
    ck_assert_ptr_null(apply(net, wrong));
    ck_error(EK_ERR_SHAPE, "linear(6, 3): expected (…, 6), got (4, 5): ");
    ck_error(EK_ERR_SHAPE, " [in layer \"1.down\": linear(6, 3)]");
    ek_tensor_free(x);
    ek_tensor_free(wrong);
    ek_tensor_free(y);
    ek_module_free(net);
}
END_TEST

/* Builds a net, trains one step of it, evaluates. */
static ek_status use_a_net(void)
{
    ek_module *net = small_net();
    ek_tensor *x = net ? ek_ones(EK_F32, EK_SHAPE(2, 2, 4, 4)) : NULL;
    ek_tape *tape = x ? ek_tape_new() : NULL;
    ek_status status = tape ? EK_OK : ek_last_status();
    if (tape) {
        status = ek_backward(tape, ek_mean(tape, ek_forward(net, tape, x), EK_ALL_AXES, false));
        ek_tape_reset(tape);
        ek_module_eval(net);
        if (status == EK_OK && !ek_forward(net, tape, x))
            status = ek_last_status();
    }
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    return status;
}

START_TEST(memory_may_run_out_anywhere)
{
    ck_assert_int_gt(assert_survives_refusals(use_a_net), 100);
}
END_TEST

START_TEST(summary_names_lost_biases)
{
    ek_batch_norm_opts last = ek_batch_norm_opts_default(), cumulative = ek_batch_norm_opts_default();
    last.channel_axis = EK_CHANNELS_LAST;
    cumulative.momentum = EK_MOMENTUM_CUMULATIVE;
    ek_conv_layer_opts unbiased = conv_opts(1, 0, 1, 1, false);
    ek_module *net = ek_sequential(ek_conv2d_layer(3, 4, 3, NULL), ek_batch_norm2d(4, NULL), ek_relu_layer(),
                                   ek_conv2d_layer(4, 4, 3, NULL), ek_batch_norm2d(4, &last),
                                   ek_conv2d_layer(4, 4, 1, &unbiased), ek_batch_norm2d(4, NULL), ek_flatten_layer(),
                                   ek_linear(64, 8, NULL), ek_batch_norm1d(8, &cumulative));
    ck_made(net);
    ek_tensor *x = ramp(EK_F32, EK_SHAPE(2, 3, 8, 8));
    FILE *file = tmpfile();
    ck_ok(ek_module_summary(net, x, file));
    rewind(file);
    char text[4000];
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    ck_assert_str_eq(text, "name  layer                     output          parameters\n"
                           "-     sequential                (2, 8)                   0\n"
                           "0     conv2d(3, 4, 3)           (2, 4, 6, 6)           112\n"
                           "1     batch_norm2d(4)           (2, 4, 6, 6)             8\n"
                           "2     relu                      (2, 4, 6, 6)             0\n"
                           "3     conv2d(4, 4, 3)           (2, 4, 4, 4)           148\n"
                           "4     batch_norm2d(4)           (2, 4, 4, 4)             8\n"
                           "5     conv2d(4, 4, 1, no bias)  (2, 4, 4, 4)            16\n"
                           "6     batch_norm2d(4)           (2, 4, 4, 4)             8\n"
                           "7     flatten                   (2, 64)                  0\n"
                           "8     linear(64, 8)             (2, 8)                 520\n"
                           "9     batch_norm1d(8)           (2, 8)                  16\n"
                           "836 parameters, 3344 bytes; 44 values in buffers, 192 bytes\n"
                           "1, 4, 6: running ← 0.9·running + 0.1·batch\n"
                           "9: running ← running + (batch − running)/(number of batches)\n"
                           "the bias of 0 (conv2d) is cancelled by 1 (batch_norm2d): set opts.bias = false\n"
                           "the bias of 8 (linear) is cancelled by 9 (batch_norm1d): set opts.bias = false\n");
    /* Given means take no bias away. */
    for (ek_norm_statistics s = EK_STATS_AUTO; s <= EK_STATS_FROZEN; s++) {
        ck_ok(ek_module_set_norm_statistics(net, s));
        file = tmpfile();
        ck_ok(ek_module_summary(net, x, file));
        rewind(file);
        text[fread(text, 1, sizeof text - 1, file)] = '\0';
        fclose(file);
        ck_assert((strstr(text, "cancelled") != NULL) == (s == EK_STATS_AUTO || s == EK_STATS_BATCH));
    }
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

int main(void)
{
    return RUN_TESTS("layers", constructors_refuse_nonsense, descriptions_say_what_is_not_usual,
                     first_values_are_torchs, layers_apply_their_ops, linear_by_hand, forward_errors_say_what_to_do,
                     padding_row_is_not_trained, dropout_is_reproducible, dropout_moves_with_forwards_that_succeed,
                     gradients_of_a_small_net, modules_of_ones_own, summary_names_lost_biases,
                     memory_may_run_out_anywhere);
}
