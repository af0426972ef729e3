/* What each norm layer means and when its running statistics move; the layers against the oracle of support_norms.c. */
#include "support_layers.h"
#include "support_norms.h"

/* A float32 buffer after a handful of roundings. */
#define ck_buffer(module, name, i, expected)                                                                           \
    ck_near(state_at(module, name, i), (double)(expected), 4e-7 * (1 + fabs((double)(expected))))

/* ---- every layer is the norm that it says ------------------------------------------------------------------------ */

typedef struct layer_case {
    const char *label;
    norm_case norm; /* as the oracle knows it; eps, weight and bias are filled in */
    ek_shape shape;
    int dims; /* 1, 2, 3: which of …1d, …2d, …3d */
    bool reference;
} layer_case;

static const layer_case layers[] = {
    {"bn1d (N, C)", {.kind = BATCH_NORM, .n = 5, .c = 3, .s = 1}, {2, {5, 3}}, 1, false},
    {"bn1d (N, C, L)", {.kind = BATCH_NORM, .n = 4, .c = 3, .s = 7}, {3, {4, 3, 7}}, 1, false},
    {"bn1d (1, C, L)", {.kind = BATCH_NORM, .n = 1, .c = 3, .s = 7}, {3, {1, 3, 7}}, 1, false},
    {"bn1d (N, L, C)", {.kind = BATCH_NORM, .n = 4, .c = 3, .s = 7, .channels_last = true}, {3, {4, 7, 3}}, 1, false},
    {"bn2d", {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 20}, {4, {2, 3, 4, 5}}, 2, false},
    {"bn2d last", {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 20, .channels_last = true}, {4, {2, 4, 5, 3}}, 2, false},
    {"bn3d", {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 12}, {5, {2, 3, 2, 3, 2}}, 3, false},
    {"bn3d last", {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 12, .channels_last = true}, {5, {2, 2, 3, 2, 3}}, 3, false},
    {"in1d", {.kind = INSTANCE_NORM, .n = 3, .c = 2, .s = 6}, {3, {3, 2, 6}}, 1, false},
    {"in1d last", {.kind = INSTANCE_NORM, .n = 3, .c = 2, .s = 6, .channels_last = true}, {3, {3, 6, 2}}, 1, false},
    {"in2d", {.kind = INSTANCE_NORM, .n = 3, .c = 2, .s = 6}, {4, {3, 2, 3, 2}}, 2, false},
    {"in3d", {.kind = INSTANCE_NORM, .n = 3, .c = 2, .s = 8}, {5, {3, 2, 2, 2, 2}}, 3, false},
    {"gn (N, C)", {.kind = GROUP_NORM, .n = 3, .c = 6, .s = 1, .groups = 2}, {2, {3, 6}}, 1, false},
    {"gn (N, C, L)", {.kind = GROUP_NORM, .n = 3, .c = 6, .s = 4, .groups = 3}, {3, {3, 6, 4}}, 1, false},
    {"gn (N, C, H, W)", {.kind = GROUP_NORM, .n = 2, .c = 4, .s = 6, .groups = 2}, {4, {2, 4, 3, 2}}, 1, false},
    {"gn last", {.kind = GROUP_NORM, .n = 2, .c = 4, .s = 6, .groups = 2, .channels_last = true}, {4, {2, 3, 2, 4}}, 1,
     false},
    {"ln (K)", {.kind = LAYER_NORM, .n = 12, .c = 5, .s = 1}, {3, {3, 4, 5}}, 1, false},
    {"ln (T, D)", {.kind = LAYER_NORM, .n = 3, .c = 20, .s = 1}, {3, {3, 4, 5}}, 2, false},
    {"ln all axes", {.kind = LAYER_NORM, .n = 1, .c = 60, .s = 1}, {3, {3, 4, 5}}, 3, false},
    {"rms (K)", {.kind = RMS_NORM, .n = 12, .c = 5, .s = 1}, {3, {3, 4, 5}}, 1, false},
    {"rms (T, D)", {.kind = RMS_NORM, .n = 3, .c = 20, .s = 1}, {3, {3, 4, 5}}, 2, false},
    {"sn1d", {.kind = SWITCHABLE_NORM, .n = 5, .c = 4, .s = 1, .batch = true}, {2, {5, 4}}, 1, false},
    {"sn1d reference", {.kind = SWITCHABLE_NORM, .n = 5, .c = 4, .s = 1, .batch = true, .unbiased = true}, {2, {5, 4}},
     1, true},
    {"sn2d", {.kind = SWITCHABLE_NORM, .n = 3, .c = 4, .s = 6, .instance = true, .batch = true}, {4, {3, 4, 3, 2}}, 2,
     false},
    {"sn2d reference",
     {.kind = SWITCHABLE_NORM, .n = 3, .c = 4, .s = 6, .instance = true, .batch = true, .unbiased = true},
     {4, {3, 4, 3, 2}}, 2, true},
    {"sn3d", {.kind = SWITCHABLE_NORM, .n = 3, .c = 4, .s = 8, .instance = true, .batch = true}, {5, {3, 4, 2, 2, 2}},
     3, false},
    {"sn2d without batch", {.kind = SWITCHABLE_NORM, .n = 3, .c = 4, .s = 6, .instance = true}, {4, {3, 4, 3, 2}}, 2,
     false},
};
enum { LAYERS = sizeof layers / sizeof layers[0] };

static ek_module *make_channel_norm(const layer_case *l, bool affine)
{
    static ek_module *(*const make[2][3])(int64_t, const ek_batch_norm_opts *) = {
        {ek_batch_norm1d, ek_batch_norm2d, ek_batch_norm3d},
        {ek_instance_norm1d, ek_instance_norm2d, ek_instance_norm3d},
    };
    const norm_case *c = &l->norm;
    const bool instance = c->kind == INSTANCE_NORM;
    ek_batch_norm_opts opts = instance ? ek_instance_norm_opts_default() : ek_batch_norm_opts_default();
    opts.affine = affine;
    opts.track_running_stats = true;
    opts.channel_axis = c->channels_last ? EK_CHANNELS_LAST : 1;
    return make[instance][l->dims - 1](c->c, &opts);
}

static ek_module *make_row_norm(const layer_case *l, bool weight, bool bias)
{
    ek_shape over = {.ndim = l->dims};
    for (int i = 0; i < l->dims; i++)
        over.dim[i] = l->shape.dim[l->shape.ndim - l->dims + i];
    ek_layer_norm_opts opts = ek_layer_norm_opts_default();
    opts.weight = weight;
    opts.bias = bias;
    if (l->norm.kind == LAYER_NORM)
        return ek_layer_norm(over, &opts);
    ek_rms_norm_opts rms = ek_rms_norm_opts_default();
    rms.weight = weight;
    rms.eps = 1e-5;
    return ek_rms_norm(over, &rms);
}

static ek_module *make_layer(const layer_case *l, bool weight, bool bias)
{
    const norm_case *c = &l->norm;
    ek_group_norm_opts group = ek_group_norm_opts_default();
    ek_switchable_norm_opts mix = ek_switchable_norm_opts_default();
    switch (c->kind) {
    case BATCH_NORM:
    case INSTANCE_NORM: return make_channel_norm(l, weight);
    case LAYER_NORM:
    case RMS_NORM: return make_row_norm(l, weight, bias);
    case GROUP_NORM:
        group.affine = weight;
        group.channel_axis = c->channels_last ? EK_CHANNELS_LAST : 1;
        return ek_group_norm(c->groups, c->c, &group);
    case SWITCHABLE_NORM:
    case ANY_VIEWS: break;
    }
    mix.affine = weight;
    mix.batch = c->batch;
    mix.reference = l->reference;
    static ek_module *(*const make[3])(int64_t, const ek_switchable_norm_opts *) = {
        ek_switchable_norm1d, ek_switchable_norm2d, ek_switchable_norm3d};
    return make[l->dims - 1](c->c, &mix);
}

static void read_numbers(const ek_tensor *t, double *out)
{
    for (int64_t i = 0; t && i < ek_tensor_numel(t); i++)
        out[i] = ek_tensor_at(t, i);
}

/* What stands in a layer and a batch, for the oracle. */
static norm_inputs read_inputs(const norm_case *c, ek_module *layer, const ek_tensor *x, const ek_tensor *dy)
{
    norm_inputs in = norm_inputs_new(c);
    read_numbers(x, in.x);
    read_numbers(dy, in.dy);
    if (c->weight)
        read_numbers(ek_module_parameter(layer, "weight"), in.gamma);
    if (c->bias)
        read_numbers(ek_module_parameter(layer, "bias"), in.beta);
    if (c->given) {
        read_numbers(ek_module_buffer(layer, "running_mean"), in.mean);
        read_numbers(ek_module_buffer(layer, "running_var"), in.var);
    }
    if (c->kind == SWITCHABLE_NORM) {
        read_numbers(ek_module_parameter(layer, "mean_weight"), in.mean_logits);
        read_numbers(ek_module_parameter(layer, "var_weight"), in.var_logits);
    }
    return in;
}

static void compare_parameter(const norm_case *c, ek_module *layer, const char *name, const norm_numbers *expected,
                              double kappa)
{
    assert_norm_numbers(name, c, ek_tensor_grad(ek_module_parameter(layer, name)), expected, kappa);
}

/* One step of `layer` on x from the cotangent dy agrees with the oracle for the case c. */
static norm_outputs compare_step(const norm_case *c, ek_module *layer, ek_tensor *x, const ek_tensor *dy)
{
    norm_inputs in = read_inputs(c, layer, x, dy);
    norm_outputs out = norm_oracle(c, &in);
    ek_tape *t = ek_tape_new();
    ek_tensor_clear_grad(x);
    ek_module_clear_grad(layer);
    ek_tensor *y = ek_forward(layer, t, x);
    ck_made(y);
    ck_ok(ek_backward_from(t, y, dy));
    assert_norm_numbers("y", c, y, &out.y, out.kappa);
    assert_norm_numbers("dx", c, ek_tensor_grad(x), &out.dx, out.kappa);
    if (c->weight)
        compare_parameter(c, layer, "weight", &out.dgamma, out.kappa);
    if (c->bias)
        compare_parameter(c, layer, "bias", &out.dbeta, out.kappa);
    if (c->kind == SWITCHABLE_NORM) {
        compare_parameter(c, layer, "mean_weight", &out.dmean_logits, out.kappa);
        compare_parameter(c, layer, "var_weight", &out.dvar_logits, out.kappa);
    }
    ek_tape_free(t);
    norm_free(&in, NULL);
    return out;
}

/* The buffers after one batch are (1 − 0.1)·first + 0.1·batch, with the unbiased variance. */
static void compare_buffers(const layer_case *l, ek_module *layer, const norm_outputs *out)
{
    const norm_case *c = &l->norm;
    const double rows = c->kind == INSTANCE_NORM ? (double)c->n : 1, n = (double)(norm_numel(c) / c->c) / rows;
    for (int64_t k = 0; k < c->c; k++) {
        double mean = 0, var = 0;
        for (int64_t r = 0; r < (int64_t)rows; r++) {
            mean += out->mean[r * c->c + k] / rows;
            var += out->var[r * c->c + k] / rows;
        }
        ck_buffer(layer, "running_mean", k, 0.1 * mean);
        ck_buffer(layer, "running_var", k, l->reference ? 0.1 * var : 0.9 + 0.1 * var * n / (n - 1));
    }
    ck_assert_double_eq(state_at(layer, "num_batches_tracked", 0), 1);
}

static void check_layer(const layer_case *l, bool weight, bool bias, ek_dtype dtype)
{
    ek_module *layer = make_layer(l, weight, bias);
    ck_made(layer);
    ck_ok(ek_module_to(layer, dtype));
    draw_parameters(layer, 3);
    norm_case c = l->norm;
    c.eps = 1e-5;
    c.weight = weight;
    c.bias = bias;
    const bool tracks = c.kind == BATCH_NORM || c.kind == INSTANCE_NORM || (c.kind == SWITCHABLE_NORM && c.batch);
    ek_tensor *x = normal(dtype, l->shape, 1.5, 2, 10), *dy = normal(dtype, l->shape, 0, 1, 11);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    norm_outputs out = compare_step(&c, layer, x, dy);
    if (tracks)
        compare_buffers(l, layer, &out);
    norm_free(NULL, &out);
    ek_module_eval(layer);
    if (tracks) { /* per channel, also for InstanceNorm: what BatchNorm does */
        c.kind = c.kind == INSTANCE_NORM ? BATCH_NORM : c.kind;
        c.given = true;
    }
    ek_tensor *before = copy_state(layer);
    out = compare_step(&c, layer, x, dy);
    assert_state("evaluation", layer, before);
    norm_free(NULL, &out);
    ek_tensor_free(before);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
}

START_TEST(layer_agrees_with_the_oracle)
{
    const layer_case *l = &layers[_i];
    for (int type = EK_F32; type <= EK_F64; type++) {
        check_layer(l, true, l->norm.kind != RMS_NORM, (ek_dtype)type);
        check_layer(l, false, false, (ek_dtype)type);
        if (l->norm.kind == LAYER_NORM) {
            check_layer(l, true, false, (ek_dtype)type);
            check_layer(l, false, true, (ek_dtype)type);
        }
    }
}
END_TEST

/* ---- running statistics ------------------------------------------------------------------------------------------ */

START_TEST(biased_for_normalizing_unbiased_in_running_var)
{
    ek_module *bn = ek_batch_norm1d(1, NULL);
    ek_tensor *x = F32(EK_SHAPE(2, 1), 1, 5), *y = apply_layer(bn, x); /* mean 3, SS 8: biased 4, unbiased 8 */
    ck_near(ek_tensor_at(y, 0), -2 / sqrt(4 + 1e-5), 1e-6);
    ck_near(ek_tensor_at(y, 1), 2 / sqrt(4 + 1e-5), 1e-6);
    ck_buffer(bn, "running_mean", 0, 0.3);
    ck_buffer(bn, "running_var", 0, 0.9 * 1 + 0.1 * 8);
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(bn);
}
END_TEST

START_TEST(defaults)
{
    const ek_batch_norm_opts bn = ek_batch_norm_opts_default(), in = ek_instance_norm_opts_default();
    const ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
    ck_assert(bn.eps == 1e-5 && bn.momentum == 0.1 && bn.affine && bn.track_running_stats && bn.channel_axis == 1);
    ck_assert(in.eps == 1e-5 && in.momentum == 0.1 && !in.affine && !in.track_running_stats && in.channel_axis == 1);
    ck_assert(sn.eps == 1e-5 && sn.momentum == 0.1 && sn.affine && sn.batch && !sn.last_gamma && !sn.reference);
    ck_assert(bn.statistics == EK_STATS_AUTO && in.statistics == EK_STATS_AUTO && sn.statistics == EK_STATS_AUTO);
    ck_assert(ek_layer_norm_opts_default().eps == 1e-5 && ek_layer_norm_opts_default().weight &&
              ek_layer_norm_opts_default().bias);
    ck_assert(ek_rms_norm_opts_default().eps == EK_EPS_MACHINE && ek_rms_norm_opts_default().weight);
    ck_assert(ek_group_norm_opts_default().eps == 1e-5 && ek_group_norm_opts_default().affine &&
              ek_group_norm_opts_default().channel_axis == 1);
    ek_module *layer = ek_batch_norm2d(3, NULL);
    ck_assert_double_eq(state_at(layer, "running_mean", 2), 0);
    ck_assert_double_eq(state_at(layer, "running_var", 2), 1);
    ck_assert_double_eq(state_at(layer, "num_batches_tracked", 0), 0);
    ck_assert_double_eq(state_at(layer, "weight", 2), 1);
    ck_assert_double_eq(state_at(layer, "bias", 2), 0);
    ek_module_free(layer);
    layer = ek_instance_norm2d(3, NULL);
    ck_assert_int_eq(ek_module_count_parameters(layer), 0);
    ek_tensor *state = copy_state(layer);
    ck_assert_int_eq(ek_tensor_numel(state), 0);
    ek_tensor_free(state);
    ek_module_free(layer);
}
END_TEST

/* Every batch counts the same, whatever its size, and the first overwrites what the buffers started with. */
START_TEST(cumulative_momentum)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.momentum = EK_MOMENTUM_CUMULATIVE;
    ek_module *bn = ek_batch_norm1d(1, &opts);
    ek_tensor *a = F32(EK_SHAPE(2, 1), 1, 5), *b = F32(EK_SHAPE(4, 1), 7, 9, 7, 9), *c = F32(EK_SHAPE(2, 1), 0, 2);
    feed(bn, a);
    ck_buffer(bn, "running_mean", 0, 3);
    ck_buffer(bn, "running_var", 0, 8);
    feed(bn, b);
    ck_buffer(bn, "running_mean", 0, (3 + 8) / 2.0);
    ck_buffer(bn, "running_var", 0, (8 + 4 / 3.0) / 2);
    feed(bn, c);
    ck_buffer(bn, "running_mean", 0, (3 + 8 + 1) / 3.0);
    ck_buffer(bn, "running_var", 0, (8 + 4 / 3.0 + 2) / 3);
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 3);
    ek_tensor_free(a);
    ek_tensor_free(b);
    ek_tensor_free(c);
    ek_module_free(bn);
}
END_TEST

START_TEST(momentum_zero_and_one)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    ek_tensor *x = F32(EK_SHAPE(2, 1), 1, 5);
    for (int k = 0; k < 2; k++) {
        opts.momentum = k;
        ek_module *bn = ek_batch_norm1d(1, &opts);
        feed(bn, x);
        ck_assert_double_eq(state_at(bn, "running_mean", 0), k ? 3 : 0);
        ck_assert_double_eq(state_at(bn, "running_var", 0), k ? 8 : 1);
        ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 1);
        ek_module_free(bn);
    }
    ek_tensor_free(x);
}
END_TEST

START_TEST(statistics_move_when_nothing_is_recorded)
{
    ek_module *bn = ek_batch_norm1d(1, NULL);
    ek_tensor *x = F32(EK_SHAPE(2, 1), 1, 5);
    ek_tape *t = ek_tape_new();
    ck_ok(ek_tape_set_recording(t, false));
    ck_made(ek_forward(bn, t, x));
    ck_buffer(bn, "running_mean", 0, 0.3);
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 1);
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_module_free(bn);
}
END_TEST

START_TEST(without_tracking_evaluation_uses_the_batch)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.track_running_stats = false;
    ek_module *bn = ek_batch_norm1d(3, &opts);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3), 5, 2, 1), *train = apply_layer(bn, x);
    ek_module_eval(bn);
    ek_tensor *eval = apply_layer(bn, x), *state = copy_state(bn);
    ck_assert(ek_tensor_equal(train, eval));
    ck_assert_int_eq(ek_tensor_numel(state), 6); /* γ and β alone */
    ck_assert_ptr_null(ek_module_buffer(bn, "running_mean"));
    ek_tensor_free(x);
    ek_tensor_free(train);
    ek_tensor_free(eval);
    ek_tensor_free(state);
    ek_module_free(bn);
}
END_TEST

START_TEST(two_forwards_on_one_tape)
{
    ek_module *bn = ek_batch_norm1d(1, NULL);
    ek_tensor *x = F32(EK_SHAPE(2, 1), 1, 5), *z = F32(EK_SHAPE(2, 1), 10, 10);
    ek_tape *t = ek_tape_new();
    ck_made(ek_forward(bn, t, x));
    ck_made(ek_forward(bn, t, z));
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 2);
    ck_buffer(bn, "running_mean", 0, 0.9 * 0.3 + 0.1 * 10);
    ck_buffer(bn, "running_var", 0, 0.9 * 1.7);
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(z);
    ek_module_free(bn);
}
END_TEST

/* Uses one child twice within a single ek_forward. */
static ek_tensor *twice_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_module *child = ek_module_child(module, 0);
    return ek_forward(child, tape, ek_affine(tape, ek_forward(child, tape, x), 1, 7));
}

static const ek_module_def twice_def = {"twice", twice_forward, NULL, 0};

START_TEST(two_uses_below_one_module)
{
    ek_module *bn = ek_batch_norm1d(1, NULL), *net = ek_module_new(&twice_def, NULL);
    ck_ok(ek_module_add_child(net, "0", bn));
    ek_tensor *x = F32(EK_SHAPE(2, 1), 1, 5);
    feed(net, x); /* the second use sees ±1 + 7 */
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 2);
    ck_buffer(bn, "running_mean", 0, 0.9 * 0.3 + 0.1 * 7);
    ck_buffer(bn, "running_var", 0, 0.9 * 1.7 + 0.1 * 2 * 4 / (4 + 1e-5));
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- failures and empty batches move nothing --------------------------------------------------------------------- */

static ek_module *tracked(int which)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.track_running_stats = true;
    return which == 0 ? ek_batch_norm2d(3, NULL) : which == 1 ? ek_instance_norm2d(3, &opts)
                                                              : ek_switchable_norm2d(3, NULL);
}

START_TEST(a_later_failure_moves_nothing)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(2, 3, 2, 2), 3, 1, 1);
    ek_module *net = ek_sequential(tracked(_i), ek_residual(ek_sequential(tracked(_i), ek_relu_layer())),
                                   ek_batch_norm2d(5, NULL));
    ck_made(net);
    assert_forward_fails(EK_ERR_SHAPE, "batch_norm2d(5): expected (N, 5, H, W), got (2, 3, 2, 2) [in layer \"2\": ",
                         net, x);
    ek_module *first = ek_module_child(net, 0);
    feed(first, x); /* alone it moves */
    ck_assert_double_eq(state_at(first, "num_batches_tracked", 0), 1);
    ck_assert_double_eq(state_at(net, "1.0.0.num_batches_tracked", 0), 0);
    ek_module_free(net);
    ek_tensor_free(x);
}
END_TEST

START_TEST(an_empty_batch_moves_nothing)
{
    const ek_shape shapes[] = {EK_SHAPE(0, 3, 2, 2), EK_SHAPE(2, 3, 0, 2)};
    for (int k = 0; k < 2; k++) {
        ek_module *layer = tracked(_i);
        ek_tensor *x = ek_zeros(EK_F32, shapes[k]), *before = copy_state(layer), *y = apply_layer(layer, x);
        ck_assert_int_eq(ek_tensor_numel(y), 0);
        assert_state("an empty batch", layer, before);
        ck_assert_int_eq(ek_module_non_finite_batches(layer), 0);
        ek_module_eval(layer);
        feed(layer, x);
        ek_tensor_free(x);
        ek_tensor_free(y);
        ek_tensor_free(before);
        ek_module_free(layer);
    }
}
END_TEST

static ek_tensor *forward_of(ek_tape *t, ek_tensor *const *in, void *module)
{
    return ek_forward(module, t, in[0]);
}

START_TEST(a_gradient_check_moves_nothing)
{
    ek_module *layer = tracked(_i);
    ck_ok(ek_module_to(layer, EK_F64));
    ek_tensor *x = normal(EK_F64, EK_SHAPE(2, 3, 2, 2), 3, 1, 1), *before = copy_state(layer);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_gradcheck(forward_of, layer, &x, 1, NULL, NULL));
    assert_state("a gradient check", layer, before);
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_module_free(layer);
}
END_TEST

/* ---- zero variance ----------------------------------------------------------------------------------------------- */

START_TEST(no_eps_and_no_variance_give_beta)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.eps = 0;
    ek_module *bn = ek_batch_norm1d(2, &opts);
    draw_parameters(bn, 1);
    ek_tensor *x = ek_full(EK_F32, EK_SHAPE(3, 2), 0.1), *y = apply_layer(bn, x);
    for (int64_t i = 0; i < 6; i++)
        ck_assert_double_eq(ek_tensor_at(y, i), state_at(bn, "bias", i % 2));
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(bn);
}
END_TEST

START_TEST(a_row_of_one_element_gives_beta)
{
    static const float values[] = {3, -1e30f, 0.1f};
    ek_module *ln = ek_layer_norm(EK_SHAPE(1), NULL);
    draw_parameters(ln, 1);
    ek_tensor *x = f32(EK_SHAPE(3, 1), values), *y = apply_layer(ln, x);
    for (int64_t i = 0; i < 3; i++)
        ck_assert_double_eq(ek_tensor_at(y, i), state_at(ln, "bias", 0));
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_module_free(ln);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm semantics");
    TCase *tcase = tcase_create("norm semantics");
    tcase_add_loop_test(tcase, layer_agrees_with_the_oracle, 0, LAYERS);
    tcase_add_test(tcase, biased_for_normalizing_unbiased_in_running_var);
    tcase_add_test(tcase, defaults);
    tcase_add_test(tcase, cumulative_momentum);
    tcase_add_test(tcase, momentum_zero_and_one);
    tcase_add_test(tcase, statistics_move_when_nothing_is_recorded);
    tcase_add_test(tcase, without_tracking_evaluation_uses_the_batch);
    tcase_add_test(tcase, two_forwards_on_one_tape);
    tcase_add_test(tcase, two_uses_below_one_module);
    tcase_add_loop_test(tcase, a_later_failure_moves_nothing, 0, 3);
    tcase_add_loop_test(tcase, an_empty_batch_moves_nothing, 0, 3);
    tcase_add_loop_test(tcase, a_gradient_check_moves_nothing, 0, 3);
    tcase_add_test(tcase, no_eps_and_no_variance_give_beta);
    tcase_add_test(tcase, a_row_of_one_element_gives_beta);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
