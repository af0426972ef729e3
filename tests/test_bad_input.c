/* Bad input in a training step and in making a net, each kind that a user meets: a specific message, and the model, its
 * gradients and the optimizer are as they were; then the same step with good input works. */
#include "support_layers.h"

/* Dense input, so that one row of x is one value per channel of the BatchNorm. */
static ek_module *make_net(void)
{
    ek_module *net = ek_sequential(ek_linear(6, 4, NULL), ek_batch_norm1d(4, NULL), ek_relu_layer(),
                                   ek_dropout_layer(0.5), ek_layer_norm(EK_SHAPE(4), NULL), ek_linear(4, 3, NULL));
    ck_made(net);
    return net;
}

static ek_status step(ek_module *net, ek_optimizer *optimizer, ek_tape *tape, ek_tensor *x, ek_tensor *y)
{
    ek_status status = ek_backward(tape, ek_cross_entropy(tape, ek_forward(net, tape, x), y, NULL));
    ck_ok(ek_optimizer_step(optimizer)); /* a caller who did not look: there is no gradient to step along */
    return status;
}

static ek_status no_gradient(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)user;
    ck_assert_msg(kind == EK_BUFFER || !ek_tensor_grad(tensor), "%s has a gradient", name);
    return EK_OK;
}

typedef struct bad_step {
    ek_dtype x_dtype;
    ek_shape x;
    ek_dtype y_dtype;
    ek_shape y;
    double label; /* every target */
    ek_status status;
    const char *text;
    bool forward_succeeds; /* the loss is what fails: running statistics have seen a batch that was good */
} bad_step;

static const bad_step bad_steps[] = {
    {EK_F32, {1, {6}}, EK_I64, {1, {1}}, 0, EK_ERR_SHAPE,
     "batch_norm1d(4): expected (N, 4) or (N, 4, L), got (4,) [in layer \"1\": batch_norm1d(4)]", false},
    {EK_F32, {2, {8, 5}}, EK_I64, {1, {8}}, 0, EK_ERR_SHAPE,
     "linear(6, 4): expected (…, 6), got (8, 5): in_features is the size of the last axis", false},
    {EK_F64, {2, {8, 6}}, EK_I64, {1, {8}}, 0, EK_ERR_DTYPE,
     "linear: expected inputs of one float type, got float64 and float32 (input 1); ek_tensor_cast() converts", false},
    {EK_I64, {2, {8, 6}}, EK_I64, {1, {8}}, 0, EK_ERR_DTYPE,
     "linear: expected float32 or float64 for input 0, got int64; ek_tensor_cast() converts", false},
    {EK_F32, {2, {1, 6}}, EK_I64, {1, {1}}, 0, EK_ERR_SHAPE,
     "batch_norm1d(4): expected more than one value per channel to take statistics of, got (1, 4); use a larger batch",
     false},
    {EK_F32, {2, {8, 6}}, EK_I64, {1, {8}}, 3, EK_ERR_ARGUMENT,
     "cross_entropy: expected targets in 0 … 2, got 3 at flat index 0", true},
    {EK_F32, {2, {8, 6}}, EK_I64, {1, {8}}, -1, EK_ERR_ARGUMENT,
     "cross_entropy: expected targets in 0 … 2, got -1 at flat index 0", true},
    {EK_F32, {2, {8, 6}}, EK_I64, {1, {7}}, 0, EK_ERR_SHAPE,
     "cross_entropy: expected logits (N, C, …) and targets (N, …), got (8, 3) and (7,)", true},
    {EK_F32, {2, {8, 6}}, EK_F32, {1, {8}}, 0, EK_ERR_DTYPE,
     "cross_entropy: expected int64 for input 1, got float32", true},
};
enum { BAD_STEPS = sizeof bad_steps / sizeof bad_steps[0] };

START_TEST(a_bad_step_moves_nothing)
{
    const bad_step *bad = &bad_steps[_i];
    ek_rng rng = ek_rng_seed(1);
    ek_module *net = make_net();
    ek_optimizer *optimizer = ek_adam(net, 0.1, NULL);
    ek_tape *tape = ek_tape_new();
    ek_tensor *good_x = ek_normal(EK_F32, EK_SHAPE(8, 6), 0, 1, &rng), *good_y = ek_zeros(EK_I64, EK_SHAPE(8));
    ek_tensor *x = ek_ones(bad->x_dtype, bad->x), *y = ek_full(bad->y_dtype, bad->y, bad->label);
    ek_tensor *weight = ek_tensor_clone(ek_module_parameter(net, "0.weight")), *before = copy_state(net);

    ck_assert_int_eq(step(net, optimizer, tape, x, y), bad->status);
    ck_error(bad->status, bad->text);
    ck_assert_int_eq(ek_tape_status(tape), bad->status);
    ck_assert_msg(strstr(ek_tape_error(tape), bad->text), "%s", ek_tape_error(tape));
    ck_ok(ek_module_visit(net, no_gradient, NULL));
    ck_assert(ek_tensor_equal(ek_module_parameter(net, "0.weight"), weight));
    ck_assert_int_eq((int)ek_item(ek_module_buffer(net, "1.num_batches_tracked")), bad->forward_succeeds);
    if (!bad->forward_succeeds)
        assert_state(bad->text, net, before);

    ek_tape_reset(tape);
    ck_ok(step(net, optimizer, tape, good_x, good_y));
    ck_assert(!ek_tensor_equal(ek_module_parameter(net, "0.weight"), weight));

    ek_tensor *all[] = {good_x, good_y, x, y, weight, before};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
    ek_tape_free(tape);
    ek_optimizer_free(optimizer);
    ek_module_free(net);
}
END_TEST

/* A layer that cannot be: the whole net is refused, and the message says which and why. */
START_TEST(a_bad_layer_is_a_bad_net)
{
    ck_refused(EK_ERR_SHAPE, "group_norm(4, 6): expected num_groups ≥ 1 that divides num_channels",
               ek_group_norm(4, 6, NULL));
    ck_refused(EK_ERR_ARGUMENT, "linear: expected in_features and out_features of 1 or more, got -6",
               ek_linear(-6, 4, NULL));
    ck_refused(EK_ERR_ARGUMENT, "batch_norm1d: expected num_features ≥ 1, got -4", ek_batch_norm1d(-4, NULL));
    ck_refused(EK_ERR_SHAPE, "layer_norm: expected dimensions of 0 or more, got (4, -1)",
               ek_layer_norm(EK_SHAPE(4, -1), NULL));
    ck_refused(EK_ERR_SHAPE, "overflow", ek_linear(INT64_MAX, INT64_MAX, NULL));
    ck_refused(EK_ERR_SHAPE, "overflow", ek_linear(INT64_MAX / 2, 1, NULL));
    ck_refused(EK_ERR_SHAPE, "overflow", ek_embedding_layer(INT64_MAX, 2, NULL));
    ck_refused(EK_ERR_SHAPE, "overflow", ek_conv2d_layer(INT64_MAX / 4, 8, 3, NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(4, 6)", ek_sequential(ek_relu_layer(), ek_group_norm(4, 6, NULL)));
    ck_error(EK_ERR_SHAPE, "sequential: the module at index 1 of 2 is NULL; the last error was: group_norm(4, 6): ");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("bad_input");
    TCase *tcase = tcase_create("bad_input");
    tcase_add_loop_test(tcase, a_bad_step_moves_nothing, 0, BAD_STEPS);
    tcase_add_test(tcase, a_bad_layer_is_a_bad_net);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
