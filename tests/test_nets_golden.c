/* Whole nets against PyTorch 1.13.1 (golden/nets.npz): names, shapes and order of the state_dict, a few SGD steps from
 * PyTorch's weights, and the default initialisation.
 *
 * Tolerance of training.  One forward and backward errs by ε = golden_tolerance with K the elements of the largest
 * activation (support_golden.h).  A step adds lr·ε to the weights; the error a weight already has comes back in the
 * next gradient times the curvature of the loss, which these nets keep below 1/lr (they train), so after T steps it is
 * at most about T·ε.  Measured, it stays below a twentieth of that. */
#include "support_golden.h"

/* ---- names ------------------------------------------------------------------------------------------------------- */

static ek_module *conv2d_grouped(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.groups = 2;
    opts.bias = false;
    return ek_conv2d_rect_layer(4, 6, 3, 2, &opts);
}

START_TEST(test_names)
{
    ek_instance_norm_opts instance = ek_instance_norm_opts_default();
    instance.affine = instance.track_running_stats = true;
    ek_batch_norm_opts bare = ek_batch_norm_opts_default(), untracked = bare;
    bare.affine = false;
    untracked.track_running_stats = false;
    ek_module *net = ek_sequential(
        ek_sequential(ek_conv1d_layer(2, 4, 3, NULL), ek_batch_norm1d(4, NULL),
                      ek_sequential(conv2d_grouped(), ek_relu_layer(), ek_batch_norm2d(6, NULL))),
        ek_layer_norm(EK_SHAPE(4, 5), NULL), ek_embedding_layer(7, 3, NULL),
        ek_sequential(ek_group_norm(2, 6, NULL), ek_flatten_layer()), ek_instance_norm2d(6, &instance),
        ek_instance_norm1d(6, NULL), ek_batch_norm3d(5, &bare), ek_batch_norm1d(5, &untracked), ek_linear(4, 3, NULL),
        ek_linear(3, 2, &(ek_linear_opts){.bias = false}));
    ck_made(net);
    ek_npz *npz = golden_open("nets.npz");
    golden_in_order(net, (golden_order){.npz = npz, .prefix = "nested."});
    ek_npz_close(npz);
    ek_module_free(net);
}
END_TEST

/* ---- training ---------------------------------------------------------------------------------------------------- */

static void load(const golden_order *order, ek_tensor *ours, const ek_tensor *theirs, const char *name)
{
    (void)order;
    ek_tensor *values = ek_tensor_cast(theirs, ek_tensor_dtype(ours));
    ck_assert_msg(values != NULL, "%s: %s", name, ek_last_error());
    ck_ok(ek_tensor_write(ours, ek_tensor_data(values),
                          (size_t)ek_tensor_numel(ours) * ek_dtype_size(ek_tensor_dtype(ours))));
    ek_tensor_free(values);
}

static void compare(const golden_order *order, ek_tensor *ours, const ek_tensor *theirs, const char *name)
{
    assert_close(name, ours, theirs, 0, ek_tensor_dtype(ours) == EK_I64 ? 0 : order->tolerance);
}

static ek_module *cnn(void)
{
    ek_conv_layer_opts first = ek_conv_layer_opts_default(), second = first;
    first.padding[0] = first.padding[1] = 1;
    second.stride[0] = second.stride[1] = 2;
    second.bias = false;
    return ek_sequential(ek_conv2d_layer(1, 4, 3, &first), ek_batch_norm2d(4, NULL), ek_relu_layer(),
                         ek_conv2d_layer(4, 6, 3, &second), ek_group_norm(2, 6, NULL), ek_relu_layer(),
                         ek_flatten_layer(), ek_linear(6 * 2 * 2, 3, NULL));
}

static ek_module *mlp(void)
{
    ek_batch_norm_opts cumulative = ek_batch_norm_opts_default();
    cumulative.momentum = EK_MOMENTUM_CUMULATIVE;
    return ek_sequential(ek_linear(6, 8, &(ek_linear_opts){.bias = false}), ek_batch_norm1d(8, &cumulative),
                         ek_relu_layer(), ek_linear(8, 3, NULL));
}

static const struct net_case {
    const char *name, *before, *after;
    ek_module *(*make)(void);
    double momentum;
    int64_t terms;                 /* elements of the largest activation */
} nets[] = {
    {"cnn", "cnn.before.", "cnn.after.", cnn, 0, 4 * 4 * 6 * 6},
    {"mlp", "mlp.before.", "mlp.after.", mlp, 0.9, 6 * 8},
};

static void train(const struct net_case *c, ek_npz *npz, ek_dtype dtype)
{
    ek_module *net = c->make();
    ck_made(net);
    ck_ok(ek_module_to(net, dtype));
    golden_in_order(net, (golden_order){.npz = npz, .prefix = c->before, .each = load});
    ek_sgd_opts opts = ek_sgd_opts_default();
    opts.momentum = c->momentum;
    ek_optimizer *sgd = ek_sgd(net, 0.1, &opts);
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = golden_read(npz, c->name, ".x"), *labels = golden_read(npz, c->name, ".labels");
    ek_tensor *losses = golden_read(npz, c->name, ".losses"), *output = golden_read(npz, c->name, ".output");
    const int64_t steps = ek_tensor_numel(losses);
    const double tolerance = (double)steps * golden_tolerance(dtype, output, c->terms, 1);
    for (int64_t step = 0; step <= steps; step++) {
        ek_tensor *batch = golden_row(x, step, dtype), *targets = golden_row(labels, step, dtype);
        if (step == steps)
            ek_module_eval(net);
        ek_tensor *y = ek_forward(net, tape, batch);
        if (step == steps) {
            assert_close("output in evaluation", y, output, 0, tolerance);
        } else {
            ek_tensor *loss = ek_cross_entropy(tape, y, targets, NULL);
            ck_ok(ek_backward(tape, loss));
            ck_assert_msg(fabs(ek_item(loss) - ek_tensor_at(losses, step)) <= tolerance,
                          "%s, step %lld: loss %.17g, expected %.17g", c->name, (long long)step, ek_item(loss),
                          ek_tensor_at(losses, step));
            ck_ok(ek_optimizer_step(sgd));
            ek_optimizer_zero_grad(sgd);
        }
        ek_tape_reset(tape);
        ek_tensor_free(batch);
        ek_tensor_free(targets);
    }
    golden_in_order(net, (golden_order){.npz = npz, .prefix = c->after, .each = compare, .tolerance = tolerance});
    ek_tensor *all[] = {x, labels, losses, output};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ek_tensor_free(all[i]);
    ek_tape_free(tape);
    ek_optimizer_free(sgd);
    ek_module_free(net);
}

START_TEST(test_training)
{
    ek_npz *npz = golden_open("nets.npz");
    train(&nets[_i / 2], npz, _i % 2 ? EK_F64 : EK_F32);
    ek_npz_close(npz);
}
END_TEST

/* ---- first values ------------------------------------------------------------------------------------------------ */

static ek_module *grouped_conv1d(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.groups = 2;
    return ek_conv1d_layer(40, 96, 5, &opts);
}

static ek_module *grouped_conv2d(void)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.groups = 4;
    return ek_conv2d_rect_layer(24, 64, 3, 5, &opts);
}

static ek_module *linear(void)
{
    return ek_linear(400, 300, NULL);
}

static ek_module *embedding(void)
{
    return ek_embedding_layer(200, 50, NULL);
}

static ek_module *padded_embedding(void)
{
    return ek_embedding_layer(200, 50, &(ek_embedding_layer_opts){.padding_idx = 3});
}

static ek_module *batch_norm(void)
{
    return ek_batch_norm2d(4, NULL);
}

static ek_module *tracked_instance_norm(void)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.affine = opts.track_running_stats = true;
    return ek_instance_norm2d(4, &opts);
}

static ek_module *layer_norm(void)
{
    return ek_layer_norm(EK_SHAPE(4), NULL);
}

static ek_module *group_norm(void)
{
    return ek_group_norm(2, 4, NULL);
}

static const struct init_case {
    const char *prefix;
    ek_module *(*make)(void);
    bool normal;
} inits[] = {
    {"init.linear.", linear, false},
    {"init.conv1d.", grouped_conv1d, false},
    {"init.conv2d.", grouped_conv2d, false},
    {"init.embedding.", embedding, true},
    {"init.padding_idx.", padded_embedding, true},
    {"init.batch_norm.", batch_norm, false},
    {"init.instance_norm.", tracked_instance_norm, false},
    {"init.layer_norm.", layer_norm, false},
    {"init.group_norm.", group_norm, false},
};

typedef struct first_values {
    const ek_npz *npz;
    const struct init_case *c;
} first_values;

static ek_status visit_first_values(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    const first_values *first = user;
    (void)kind;
    ek_tensor *theirs = golden_read(first->npz, first->c->prefix, name);
    golden_alike(name, t, theirs, first->c->normal);
    ek_tensor_free(theirs);
    return EK_OK;
}

START_TEST(test_first_values)
{
    const struct init_case *c = &inits[_i];
    ek_npz *npz = golden_open("nets.npz");
    ek_module *module = c->make();
    ck_made(module);
    ck_ok(ek_module_init(module, 1));
    ck_ok(ek_module_visit(module, visit_first_values, &(first_values){npz, c}));
    ek_module_free(module);
    ek_npz_close(npz);
}
END_TEST

/* What has no counterpart in PyTorch: both logits start at 1; γ at 0 with last_gamma; the published buffers at 0. */
START_TEST(test_first_values_of_switchable_norm)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.last_gamma = opts.reference = _i == 1;
    ek_module *module = ek_switchable_norm2d(3, &opts);
    ck_made(module);
    for (int64_t i = 0; i < 3; i++) {
        ck_assert(ek_tensor_at(ek_module_parameter(module, "mean_weight"), i) == 1);
        ck_assert(ek_tensor_at(ek_module_parameter(module, "var_weight"), i) == 1);
        ck_assert(ek_tensor_at(ek_module_parameter(module, "weight"), i) == (_i ? 0 : 1));
        ck_assert(ek_tensor_at(ek_module_parameter(module, "bias"), i) == 0);
        ck_assert(ek_tensor_at(ek_module_buffer(module, "running_mean"), i) == 0);
        ck_assert(ek_tensor_at(ek_module_buffer(module, "running_var"), i) == (_i ? 0 : 1));
    }
    ek_module_free(module);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("nets_golden");
    TCase *tcase = tcase_create("nets_golden");
    tcase_add_test(tcase, test_names);
    tcase_add_loop_test(tcase, test_training, 0, 2 * (int)(sizeof nets / sizeof *nets));
    tcase_add_loop_test(tcase, test_first_values, 0, (int)(sizeof inits / sizeof *inits));
    tcase_add_loop_test(tcase, test_first_values_of_switchable_norm, 0, 2);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
