/* A norm, linear layer or convolution and the ReLU after it in ek_sequential are one op, and the same bits as two. */
#include "op.h"
#include "support_layers.h"

typedef struct fused_case {
    const char *name;
    ek_shape shape;
    const int64_t *lengths; /* of sequences along axes 0 and 1, or NULL */
    ek_module *(*make)(void);
} fused_case;

static ek_module *bn1d(void)
{
    return ek_batch_norm1d(7, NULL);
}
static ek_module *bn2d(void)
{
    return ek_batch_norm2d(3, NULL);
}
static ek_module *bn_last(void)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.channel_axis = EK_CHANNELS_LAST;
    return ek_batch_norm1d(5, &opts);
}
static ek_module *bn_bare(void)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.affine = false;
    return ek_batch_norm2d(3, &opts);
}
static ek_module *in2d(void)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.affine = opts.track_running_stats = true;
    return ek_instance_norm2d(3, &opts);
}
static ek_module *gn(void)
{
    return ek_group_norm(2, 6, NULL);
}
static ek_module *ln(void)
{
    return ek_layer_norm(EK_SHAPE(70), NULL);
}
static ek_module *ln_weight(void)
{
    ek_layer_norm_opts opts = ek_layer_norm_opts_default();
    opts.bias = false;
    return ek_layer_norm(EK_SHAPE(70), &opts);
}
static ek_module *rms(void)
{
    return ek_rms_norm(EK_SHAPE(70), NULL);
}
static ek_module *sn2d(void)
{
    return ek_switchable_norm2d(3, NULL);
}
static ek_module *linear(void)
{
    return ek_linear(70, 33, NULL);
}
static ek_module *linear_bare(void)
{
    return ek_linear(70, 33, &(ek_linear_opts){.weight_standardization = true});
}
static ek_module *linear_wide(void)
{
    return ek_linear(5, 300, NULL);
}
static ek_module *conv1d(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.bias = false;
    return ek_conv1d_layer(6, 4, 2, &opts);
}
static ek_module *conv2d(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.padding[0] = opts.padding[1] = 1;
    return ek_conv2d_layer(3, 21, 3, &opts);
}
static ek_module *pointwise(void)
{
    return ek_conv2d_layer(3, 17, 1, NULL);
}
static ek_module *depthwise(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.groups = 3;
    opts.stride[0] = opts.stride[1] = 2;
    return ek_conv2d_layer(3, 6, 3, &opts);
}

static const int64_t lengths[3] = {4, 1, 6};
static const fused_case cases[] = {
    {"bn (N, C)", {2, {6, 7}}, NULL, bn1d},
    {"bn (N, C, H, W)", {4, {4, 3, 5, 9}}, NULL, bn2d},
    {"bn without affine", {4, {4, 3, 5, 9}}, NULL, bn_bare},
    {"bn (N, L, C)", {3, {3, 6, 5}}, NULL, bn_last},
    {"bn (N, L, C) with lengths", {3, {3, 6, 5}}, lengths, bn_last},
    {"in", {4, {4, 3, 5, 9}}, NULL, in2d},
    {"gn", {4, {4, 6, 5, 9}}, NULL, gn},
    {"ln", {2, {40, 70}}, NULL, ln},
    {"ln without bias", {2, {40, 70}}, NULL, ln_weight},
    {"rms", {2, {40, 70}}, NULL, rms},
    {"sn", {4, {4, 3, 5, 9}}, NULL, sn2d},
    {"linear", {2, {40, 70}}, NULL, linear},
    {"linear, in several chunks", {3, {40, 50, 70}}, NULL, linear},
    {"linear, one row", {2, {1, 70}}, NULL, linear},
    {"linear without bias, standardized", {2, {40, 70}}, NULL, linear_bare},
    {"linear with lengths", {3, {3, 6, 5}}, lengths, linear_wide},
    {"conv1d without bias", {3, {4, 6, 11}}, NULL, conv1d},
    {"conv2d", {4, {4, 3, 13, 19}}, NULL, conv2d},
    {"conv2d 1×1", {4, {4, 3, 13, 19}}, NULL, pointwise},
    {"depthwise", {4, {4, 3, 13, 19}}, NULL, depthwise},
    {"a large bn, stored past the caches", {4, {32, 3, 210, 210}}, NULL, bn2d},
};

typedef struct outcome {
    ek_tensor *y, *dx, *gradients, *state;
    bool fused;
} outcome;

static ek_status join_gradients(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name;
    ek_tensor **all = user;
    if (kind == EK_PARAMETER) {
        ck_made(ek_tensor_grad(tensor));
        ek_tape *tape = ek_tape_new();
        ek_tensor *flat = ek_reshape(tape, ek_tensor_grad(tensor), EK_SHAPE(-1));
        ek_tensor *joined = *all ? ek_concat(tape, (ek_tensor *[]){*all, flat}, 2, 0) : flat;
        ck_made(joined);
        joined = ek_tensor_clone(joined);
        ek_tape_free(tape);
        ek_tensor_free(*all);
        *all = joined;
    }
    return EK_OK;
}

static void look(void *user, const char *name, const ek_module *module, ek_event event, const ek_tensor *tensor)
{
    (void)name, (void)module, (void)tensor;
    *(int *)user += event == EK_EVENT_OUTPUT;
}

/* One forward and backward of a layer and ReLU; an observer keeps them apart. */
static outcome run(const fused_case *c, ek_dtype dtype, bool observed, bool training)
{
    ek_module *net = ek_sequential(c->make(), ek_relu_layer());
    ck_made(net);
    int outputs = 0;
    draw_parameters(net, 5);
    ck_ok(ek_module_to(net, dtype));
    if (observed)
        ck_ok(ek_module_observe(net, look, &outputs));
    ek_tensor *x = normal(dtype, c->shape, 0.5, 2, 1), *dy;
    ck_ok(ek_tensor_set_requires_grad(x, true));
    if (c->lengths)
        ck_ok(ek_tensor_set_lengths(x, c->lengths, 3, 0, 1));
    if (!training) {
        feed(net, x);
        ek_module_eval(net);
    }
    outputs = 0;
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(net, tape, x);
    ck_made(y);
    dy = normal(dtype, ek_tensor_shape(y), 0, 1, 2);
    outcome out = {.fused = true};
    for (const ek_record *record = tape->last; record; record = record->previous)
        out.fused = out.fused && strcmp(record->node.op->name, "relu") != 0;
    ck_assert_int_eq(outputs, observed ? 3 : 0);
    ek_tensor *given = ek_tensor_clone(dy);
    ck_ok(ek_backward_from(tape, y, dy));
    out.y = ek_tensor_clone(y);
    out.dx = ek_tensor_clone(ek_tensor_grad(x));
    ck_ok(ek_module_visit(net, join_gradients, &out.gradients));
    out.state = copy_state(net);
    ck_assert_msg(ek_tensor_equal(dy, given), "the caller's gradient was written to");
    ek_tensor_free(given);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(net);
    return out;
}

static void outcome_free(outcome *out)
{
    ek_tensor *all[] = {out->y, out->dx, out->gradients, out->state};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
}

/* _i: case·4 + float64·2 + evaluation. */
START_TEST(one_pass_gives_the_bits_of_two)
{
    const fused_case *c = &cases[_i / 4];
    const ek_dtype dtype = _i & 2 ? EK_F64 : EK_F32;
    if (_i / 4 == sizeof cases / sizeof *cases - 1 && (_i & 3))
        return; /* the large one once */
    outcome one = run(c, dtype, false, !(_i & 1)), two = run(c, dtype, true, !(_i & 1));
    ck_assert_msg(one.fused && !two.fused, "%s: fused %d and %d", c->name, one.fused, two.fused);
    ck_assert_msg(ek_tensor_equal(one.y, two.y), "%s: outputs differ", c->name);
    ck_assert_msg(ek_tensor_equal(one.dx, two.dx), "%s: dx differ", c->name);
    ck_assert_msg(!one.gradients || ek_tensor_equal(one.gradients, two.gradients), "%s: gradients differ", c->name);
    ck_assert_msg(!one.state || ek_tensor_equal(one.state, two.state), "%s: buffers differ", c->name);
    outcome_free(&one);
    outcome_free(&two);
}
END_TEST

/* A NaN passes, and so does the gradient at it, as through ek_relu(). */
START_TEST(a_nan_passes)
{
    ek_module *net = ek_sequential(ek_layer_norm(EK_SHAPE(4), NULL), ek_relu_layer());
    ck_made(net);
    ek_tensor *x = F32(EK_SHAPE(2, 4), NAN, 1, 2, 3, -1, 1, 2, 3);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *y = apply_layer(net, x);
    ck_assert(isnan(ek_tensor_at(y, 0)) && isnan(ek_tensor_at(y, 3)));
    ck_assert(ek_tensor_at(y, 4) == 0 && ek_tensor_at(y, 7) > 0);
    ek_tensor_free(y);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* Inside a net the gradient that a fused layer masks is memory of the walk: masked in place, and still the same bits. */
START_TEST(in_the_middle_of_a_net)
{
    ek_tensor *gradient[2], *x = normal(EK_F32, EK_SHAPE(50, 20), 0, 1, 1);
    for (int observed = 0; observed < 2; observed++) {
        ek_module *net = ek_sequential(ek_linear(20, 400, NULL), ek_relu_layer(),
                                       ek_residual(ek_sequential(ek_linear(400, 400, NULL), ek_relu_layer())),
                                       ek_linear(400, 3, NULL), ek_relu_layer());
        ck_made(net);
        ck_ok(ek_module_init(net, 4));
        int outputs = 0;
        if (observed)
            ck_ok(ek_module_observe(net, look, &outputs));
        ek_tape *tape = ek_tape_new();
        ck_ok(ek_backward(tape, ek_mean(tape, ek_forward(net, tape, x), EK_ALL_AXES, false)));
        gradient[observed] = NULL;
        ck_ok(ek_module_visit(net, join_gradients, &gradient[observed]));
        ek_tape_free(tape);
        ek_module_free(net);
    }
    ck_assert(ek_tensor_equal(gradient[0], gradient[1]));
    ek_tensor_free(gradient[0]);
    ek_tensor_free(gradient[1]);
    ek_tensor_free(x);
}
END_TEST

/* Only what stands directly behind such a layer is taken, and each ReLU once. */
START_TEST(only_the_next_relu_is_taken)
{
    ek_module *net = ek_sequential(ek_relu_layer(), ek_sequential(ek_layer_norm(EK_SHAPE(4), NULL)), ek_relu_layer(),
                                   ek_layer_norm(EK_SHAPE(4), NULL), ek_tanh_layer(), ek_relu_layer(),
                                   ek_layer_norm(EK_SHAPE(4), NULL), ek_relu_layer(), ek_relu_layer());
    ck_made(net);
    ek_tensor *x = F32(EK_SHAPE(2, 4), 4, 1, 2, 3, -1, 1, 2, 3);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tape *tape = ek_tape_new();
    ck_made(ek_forward(net, tape, x));
    int relus = 0;
    for (const ek_record *record = tape->last; record; record = record->previous)
        relus += strcmp(record->node.op->name, "relu") == 0;
    ck_assert_int_eq(relus, 4);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("relu fusion");
    TCase *tcase = tcase_create("relu fusion");
    tcase_set_timeout(tcase, 120);
    tcase_add_loop_test(tcase, one_pass_gives_the_bits_of_two, 0, 4 * (int)(sizeof cases / sizeof *cases));
    tcase_add_test(tcase, a_nan_passes);
    tcase_add_test(tcase, in_the_middle_of_a_net);
    tcase_add_test(tcase, only_the_next_relu_is_taken);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
