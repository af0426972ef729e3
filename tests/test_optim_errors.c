/* What optimizers and clipping refuse: every message, and nothing has moved. */
#include "support_optim.h"

static ek_tensor *identity(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    (void)module;
    (void)tape;
    return x;
}

START_TEST(test_module_errors)
{
    static const ek_module_def def = {.type = "nothing", .forward = identity};
    ek_module *module = ek_module_new(&def, NULL);
    ck_refused(EK_ERR_ARGUMENT, "sgd: the module nothing has no parameters to train", ek_sgd(module, 0.1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "adam: the module is NULL", ek_adam(NULL, 0.1, NULL));
    ck_assert_int_eq(ek_optimizer_add_module(NULL, module, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_add_module: the optimizer is NULL");
    ek_module_free(module);
}
END_TEST

START_TEST(test_option_errors)
{
    ek_tensor *t = normal_leaf(EK_F32, 2, 1);
    ek_sgd_opts sgd = ek_sgd_opts_default();
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a finite lr of at least 0, got -0.1", ek_sgd_tensors(&t, 1, -0.1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a finite lr of at least 0, got nan", ek_sgd_tensors(&t, 1, NAN, NULL));
    sgd.weight_decay = -1;
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a finite weight_decay of at least 0, got -1",
               ek_sgd_tensors(&t, 1, 1, &sgd));
    sgd = ek_sgd_opts_default();
    sgd.momentum = INFINITY;
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a finite momentum of at least 0, got inf",
               ek_sgd_tensors(&t, 1, 1, &sgd));
    sgd = ek_sgd_opts_default();
    sgd.dampening = NAN;
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a finite dampening, got nan", ek_sgd_tensors(&t, 1, 1, &sgd));
    sgd = ek_sgd_opts_default();
    sgd.nesterov = true;
    ck_refused(EK_ERR_ARGUMENT, "sgd: nesterov needs momentum > 0 and dampening = 0, got momentum 0, dampening 0",
               ek_sgd_tensors(&t, 1, 1, &sgd));
    sgd.momentum = 0.9;
    sgd.dampening = 0.5;
    ck_refused(EK_ERR_ARGUMENT, "got momentum 0.9, dampening 0.5", ek_sgd_tensors(&t, 1, 1, &sgd));

    ek_adam_opts adam = ek_adam_opts_default();
    adam.betas[0] = 1;
    ck_refused(EK_ERR_ARGUMENT, "adam: expected betas[0] in [0, 1), got 1", ek_adam_tensors(&t, 1, 1, &adam));
    adam = ek_adam_opts_default();
    adam.betas[1] = -0.5;
    ck_refused(EK_ERR_ARGUMENT, "adamw: expected betas[1] in [0, 1), got -0.5", ek_adamw_tensors(&t, 1, 1, &adam));
    adam = ek_adam_opts_default();
    adam.eps = -1;
    ck_refused(EK_ERR_ARGUMENT, "adam: expected a finite eps of at least 0, got -1", ek_adam_tensors(&t, 1, 1, &adam));

    ek_rmsprop_opts rmsprop = ek_rmsprop_opts_default();
    rmsprop.alpha = 1;
    ck_refused(EK_ERR_ARGUMENT, "rmsprop: expected alpha in [0, 1), got 1", ek_rmsprop_tensors(&t, 1, 1, &rmsprop));
    rmsprop = ek_rmsprop_opts_default();
    rmsprop.eps = NAN;
    ck_refused(EK_ERR_ARGUMENT, "rmsprop: expected a finite eps of at least 0", ek_rmsprop_tensors(&t, 1, 1, &rmsprop));
    rmsprop = ek_rmsprop_opts_default();
    rmsprop.momentum = -1;
    ck_refused(EK_ERR_ARGUMENT, "rmsprop: expected a finite momentum of at least 0, got -1",
               ek_rmsprop_tensors(&t, 1, 1, &rmsprop));
    ck_assert_int_eq(atomic_load(&t->owners), 1);
    ek_tensor_free(t);
}
END_TEST

START_TEST(test_tensor_errors)
{
    ek_tensor *t = normal_leaf(EK_F32, 2, 1), *frozen = ek_zeros(EK_F32, EK_SHAPE(2)), *twice[] = {t, frozen, t};
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a group of at least one tensor, got NULL",
               ek_sgd_tensors(NULL, 2, 1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "sgd: expected a group of at least one tensor, got none",
               ek_sgd_tensors(&t, -1, 1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "sgd: tensors 0 and 2 are the same", ek_sgd_tensors(twice, 3, 1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "sgd: tensor 1 (2,) requires no gradient", ek_sgd_tensors(twice, 2, 1, NULL));
    twice[1] = NULL;
    ck_refused(EK_ERR_ARGUMENT, "sgd: tensor 1 is NULL", ek_sgd_tensors(twice, 2, 1, NULL));
    ek_tape *tape = ek_tape_new();
    twice[1] = ek_relu(tape, t);
    ck_made(twice[1]);
    ck_refused(EK_ERR_STATE, "sgd: expected leaves, but tensor 1 (2,) belongs to a tape",
               ek_sgd_tensors(twice, 2, 1, NULL));
    ck_assert_int_eq(ek_clip_grad_norm_tensors(twice, 2, 1, NULL), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "clip_grad_norm: expected leaves, but tensor 1 (2,) belongs to a tape");
    ek_tape_free(tape);
    ck_assert_int_eq(atomic_load(&t->owners), 1);

    ek_optimizer *opt = ek_sgd_tensors(&t, 1, 1, NULL);
    ek_group_opts o = {.lr = -1};
    ek_tensor *other = normal_leaf(EK_F32, 2, 2);
    ck_assert_int_eq(ek_optimizer_add_group(opt, &other, 1, &o), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "sgd: expected a finite lr of at least 0, got -1");
    ck_assert_int_eq(ek_optimizer_add_group(opt, NULL, 0, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT,
               "sgd: expected a group of at least one tensor, got none");
    ck_assert_int_eq(ek_optimizer_add_group(NULL, &other, 1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_add_group: the optimizer is NULL");
    ck_assert_int_eq(ek_optimizer_num_groups(opt), 1);
    ek_optimizer_free(opt);
    ek_tensor_free(t);
    ek_tensor_free(other);
    ek_tensor_free(frozen);
}
END_TEST

START_TEST(test_call_errors)
{
    ek_tensor *t = normal_leaf(EK_F32, 2, 1);
    ek_optimizer *opt = ek_sgd_tensors(&t, 1, 1, NULL);
    fill_gradient(t, 1);
    ck_assert(isnan(ek_optimizer_lr(opt, 1)));
    ck_error(EK_ERR_ARGUMENT, "optimizer_lr: expected a group of 0 … 0, got 1");
    ck_assert(isnan(ek_optimizer_lr(NULL, 0)));
    ck_error(EK_ERR_ARGUMENT, "optimizer_lr: the optimizer is NULL");
    ck_assert_int_eq(ek_optimizer_set_group_lr(opt, -1, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_group_lr: expected a group of 0 … 0, got -1");
    ck_assert_int_eq(ek_optimizer_set_group_lr(opt, 0, -1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_group_lr: expected a finite lr of at least 0, got -1");
    ck_assert_int_eq(ek_optimizer_set_lr(opt, INFINITY), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_lr: expected a finite lr of at least 0, got inf");
    ck_assert_int_eq(ek_optimizer_set_lr(NULL, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_lr: the optimizer is NULL");
    ck_assert(ek_optimizer_lr(opt, 0) == 1);
    ck_assert_int_eq(ek_optimizer_step(NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_step: the optimizer is NULL");
    ek_optimizer_zero_grad(NULL);
    ck_assert_int_eq(ek_clip_grad_norm(NULL, 1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_norm: the optimizer is NULL");
    ck_assert_int_eq(ek_clip_grad_norm(opt, -1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_norm: expected max_norm of 0 or more, got -1");
    ck_assert_int_eq(ek_optimizer_set_max_norm(NULL, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_max_norm: the optimizer is NULL");
    ck_assert_int_eq(ek_optimizer_set_max_norm(opt, NAN), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "optimizer_set_max_norm: expected max_norm of 0 or more, got nan");
    ck_assert_int_eq(ek_clip_grad_norm_tensors(NULL, 1, 1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_norm: expected a list of tensors, got NULL");
    ck_assert_int_eq(ek_clip_grad_norm_tensors(&t, -1, 1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_norm: expected a list of tensors, got a negative length");
    ck_assert_int_eq(ek_clip_grad_value(NULL, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_value: the optimizer is NULL");
    ck_assert_int_eq(ek_clip_grad_value(opt, NAN), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_value: expected a limit of 0 or more, got nan");
    ck_assert_int_eq(ek_clip_grad_value_tensors((ek_tensor *[]){NULL}, 1, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "clip_grad_value: tensor 0 is NULL");
    ck_assert(ek_tensor_at(t->grad, 0) == 1);
    ek_optimizer_free(opt);
    ek_tensor_free(t);
}
END_TEST

/* Before its first step an optimizer follows a conversion; afterwards it says what to do, and moves nothing. */
START_TEST(test_converted_tensor)
{
    ek_tensor *t[2] = {normal_leaf(EK_F32, 2, 1), normal_leaf(EK_F32, 2, 2)};
    ek_optimizer *opt = ek_adam_tensors(t, 2, 0.05, NULL);
    ck_ok(ek_tensor_convert(t[1], EK_F64));
    fill_gradient(t[0], 1);
    fill_gradient(t[1], 1);
    ck_ok(ek_optimizer_step(opt));
    ck_ok(ek_tensor_convert(t[1], EK_F32));
    fill_gradient(t[1], 1);
    ek_tensor *before = ek_tensor_clone(t[0]);
    ck_assert_int_eq(ek_optimizer_step(opt), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "adam: tensor 1 of group 0 (2,) was trained as float64 and is float32 now: make a new "
                           "optimizer after converting a module");
    ck_assert(ek_tensor_equal(before, t[0]));
    ck_assert_int_eq(ek_optimizer_num_steps(opt), 1);
    ek_tensor_free(before);
    ek_optimizer_free(opt);
    ek_tensor_free(t[0]);
    ek_tensor_free(t[1]);
}
END_TEST

int main(void)
{
    return RUN_TESTS("optim_errors", test_module_errors, test_option_errors, test_tensor_errors, test_call_errors,
                     test_converted_tensor);
}
