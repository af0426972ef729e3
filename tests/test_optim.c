/* Optimizers and clipping: groups, state, lifetimes, threads.  Values against PyTorch: test_optim_golden.c; what they
 * refuse: test_optim_errors.c. */
#include "support_optim.h"

/* ---- every optimizer, with all its options in use --------------------------------------------------------------- */

typedef ek_optimizer *(*maker)(ek_tensor *const *tensors, int n);

static ek_optimizer *make_sgd(ek_tensor *const *tensors, int n)
{
    ek_sgd_opts o = ek_sgd_opts_default();
    o.momentum = 0.9;
    o.nesterov = true;
    o.weight_decay = 0.1;
    return ek_sgd_tensors(tensors, n, 0.05, &o);
}

static ek_optimizer *make_adam(ek_tensor *const *tensors, int n)
{
    ek_adam_opts o = ek_adam_opts_default();
    o.amsgrad = true;
    o.weight_decay = 0.1;
    return ek_adam_tensors(tensors, n, 0.05, &o);
}

static ek_optimizer *make_adamw(ek_tensor *const *tensors, int n)
{
    return ek_adamw_tensors(tensors, n, 0.05, NULL);
}

static ek_optimizer *make_rmsprop(ek_tensor *const *tensors, int n)
{
    ek_rmsprop_opts o = ek_rmsprop_opts_default();
    o.momentum = 0.8;
    o.centered = true;
    o.weight_decay = 0.1;
    return ek_rmsprop_tensors(tensors, n, 0.05, &o);
}

static const maker makers[] = {make_sgd, make_adam, make_adamw, make_rmsprop};
enum { MAKERS = sizeof makers / sizeof *makers };

/* Puts `value` + a little noise into the gradient, as a backward pass would. */
static void give_gradient(ek_tensor *t, double value, uint64_t seed)
{
    ck_ok(ek_tensor_need_grad_buffer(t));
    ek_rng rng = ek_rng_seed(seed);
    ek_fill_normal(t->grad, value, 0.1, &rng);
    t->has_grad = true;
}

/* ---- steps ------------------------------------------------------------------------------------------------------ */

/* Gradients that backward made, not this test: the minimum of Σ (x − 1)² is found. */
START_TEST(test_minimizes_through_backward)
{
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *x = normal_leaf(EK_F64, 3, 1);
        ek_optimizer *opt = makers[m](&x, 1);
        ck_made(opt);
        ek_tape *tape = ek_tape_new();
        double lr = ek_optimizer_lr(opt, 0);
        for (int step = 0; step < 400; step++) {
            ek_schedule s = ek_schedule_cosine(lr, 400, 0);
            ck_ok(ek_schedule_apply(&s, opt, step));
            ek_tensor *difference = ek_affine(tape, x, 1, -1), *value = ek_affine(tape, difference, 2, 0);
            ck_made(value);
            ck_ok(ek_backward_from(tape, difference, value)); /* dL/d(x − 1) = 2(x − 1) */
            ck_ok(ek_optimizer_step(opt));
            ek_optimizer_zero_grad(opt);
            ck_assert_ptr_null(ek_tensor_grad(x));
            ek_tape_reset(tape);
        }
        /* With decay λ = 0.1 added to the gradient the minimum of (x − 1)² + 0.05x² is 1/1.05. */
        for (int i = 0; i < 3; i++)
            ck_assert_msg(fabs(ek_tensor_at(x, i) - 1 / 1.05) < 0.06, "%d: %g", m, ek_tensor_at(x, i));
        ck_assert_int_eq(ek_optimizer_num_steps(opt), 400);
        ek_tape_free(tape);
        ek_optimizer_free(opt);
        ek_tensor_free(x);
    }
}
END_TEST

/* A tensor without gradient keeps its value and its state, whatever its decay. */
START_TEST(test_skips_tensors_without_gradient)
{
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *t[2] = {normal_leaf(EK_F32, 5, 1), normal_leaf(EK_F32, 5, 2)};
        ek_optimizer *opt = makers[m](t, 2);
        ck_made(opt);
        give_gradient(t[0], 1, 3);
        give_gradient(t[1], 1, 4);
        ck_ok(ek_optimizer_step(opt));
        ek_tensor *moved = ek_tensor_clone(t[0]), *kept = ek_tensor_clone(t[1]);
        ek_tensor_clear_grad(t[1]);
        ck_ok(ek_optimizer_step(opt));
        ck_assert(!ek_tensor_equal(t[0], moved));
        ck_assert(ek_tensor_equal(t[1], kept));
        ck_assert_int_eq(opt->groups[0].slots[0].step, 2);
        ck_assert_int_eq(opt->groups[0].slots[1].step, 1);
        ek_tensor_free(moved);
        ek_tensor_free(kept);
        ek_optimizer_free(opt);
        ek_tensor_free(t[0]);
        ek_tensor_free(t[1]);
    }
}
END_TEST

START_TEST(test_state_is_made_when_needed)
{
    ek_tensor *t = normal_leaf(EK_F32, 5, 1);
    ek_optimizer *opt = ek_adam_tensors(&t, 1, 0.1, NULL);
    ck_made(opt);
    ck_assert_ptr_null(ek_optimizer_state(opt, 0, 0, "exp_avg"));
    fill_gradient(t, 2);
    ck_ok(ek_optimizer_step(opt));
    ck_assert_double_eq_tol(ek_tensor_at(ek_optimizer_state(opt, 0, 0, "exp_avg"), 4), 0.1 * 2, 1e-6);
    ck_assert_double_eq_tol(ek_tensor_at(ek_optimizer_state(opt, 0, 0, "exp_avg_sq"), 4), 0.001 * 4, 1e-8);
    ck_assert_ptr_null(ek_optimizer_state(opt, 0, 0, "max_exp_avg_sq"));
    ck_assert_ptr_null(ek_optimizer_state(opt, 0, 0, "momentum_buffer"));
    ek_optimizer_free(opt);
    ek_tensor_free(t);
}
END_TEST

START_TEST(test_empty_tensor)
{
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *t = normal_leaf(EK_F32, 0, 1);
        ek_optimizer *opt = makers[m](&t, 1);
        fill_gradient(t, 1);
        ck_ok(ek_optimizer_step(opt));
        double norm = -1;
        ck_ok(ek_clip_grad_norm(opt, 1, &norm));
        ck_assert_double_eq(norm, 0);
        ek_optimizer_free(opt);
        ek_tensor_free(t);
    }
}
END_TEST

/* ---- memory, lifetimes ------------------------------------------------------------------------------------------ */

static int allocations, alive;
static int refuse_after = -1; /* fail when so many allocations have been made */

static void *counting_allocate(size_t bytes, void *user)
{
    (void)user;
    if (refuse_after >= 0 && allocations >= refuse_after)
        return NULL;
    allocations++;
    alive++;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void counting_release(void *memory, void *user)
{
    (void)user;
    alive--;
    free(memory);
}

static const ek_allocator counting = {counting_allocate, counting_release, NULL};

START_TEST(test_no_allocation_after_the_first_step)
{
    ck_ok(ek_set_allocator(&counting));
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *t[2] = {normal_leaf(EK_F32, 40000, 1), normal_leaf(EK_F64, 7, 2)};
        ek_optimizer *opt = makers[m](t, 2);
        ek_schedule schedule = ek_schedule_step(0.05, 2, 0.5);
        int before = 0;
        for (int step = 0; step < 5; step++) {
            give_gradient(t[0], 1, 1);
            give_gradient(t[1], 1, 2);
            ck_ok(ek_schedule_apply(&schedule, opt, step));
            ck_ok(ek_clip_grad_norm(opt, 1, NULL));
            ck_ok(ek_clip_grad_value(opt, 0.5));
            ck_ok(ek_optimizer_step(opt));
            ek_optimizer_zero_grad(opt);
            if (step == 0)
                before = allocations;
        }
        ck_assert_int_eq(allocations, before);
        ek_optimizer_free(opt);
        ek_tensor_free(t[0]);
        ek_tensor_free(t[1]);
    }
    ck_assert_int_eq(alive, 0);
}
END_TEST

/* Out of memory at each allocation in turn: nothing moves, nothing leaks, and the same call succeeds later. */
START_TEST(test_out_of_memory_moves_nothing)
{
    ck_ok(ek_set_allocator(&counting));
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *t[2] = {normal_leaf(EK_F32, 5, 1), normal_leaf(EK_F32, 5, 2)}, *start[2];
        for (int i = 0; i < 2; i++) {
            give_gradient(t[i], 1, 3);
            start[i] = ek_tensor_clone(t[i]);
        }
        int failures = 0;
        ek_optimizer *opt = NULL;
        for (bool done = false; !done; failures++) {
            refuse_after = allocations + failures;
            opt = makers[m](t, 2);
            done = opt && ek_optimizer_step(opt) == EK_OK;
            refuse_after = -1;
            if (done)
                break;
            ck_error(EK_ERR_MEMORY, "out of memory");
            ck_assert(ek_tensor_equal(t[0], start[0]) && ek_tensor_equal(t[1], start[1]));
            if (opt)
                ck_assert_int_eq(ek_optimizer_num_steps(opt), 0);
            ek_optimizer_free(opt);
        }
        ck_assert_int_gt(failures, 6); /* optimizer, groups, slots, and three per state tensor */
        ck_assert(!ek_tensor_equal(t[0], start[0]));
        ek_optimizer_free(opt);
        for (int i = 0; i < 2; i++) {
            ek_tensor_free(t[i]);
            ek_tensor_free(start[i]);
        }
    }
    ck_assert_int_eq(alive, 0);
}
END_TEST

START_TEST(test_tensors_may_be_freed_first)
{
    ek_tensor *t = normal_leaf(EK_F32, 5, 1);
    ek_optimizer *opt = make_adam(&t, 1);
    fill_gradient(t, 1);
    ek_tensor_free(t);
    ck_ok(ek_optimizer_step(opt));
    ck_ok(ek_clip_grad_norm(opt, 1, NULL));
    ek_optimizer_zero_grad(opt);
    ek_optimizer_free(opt);
    ek_optimizer_free(NULL);
}
END_TEST

/* ---- modules ---------------------------------------------------------------------------------------------------- */

static ek_tensor *identity(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    (void)module;
    (void)tape;
    return x;
}

/* A module with a weight of ones that decays, a bias of ones that does not, and a buffer. */
static ek_module *module_of_two(void)
{
    static const ek_module_def def = {.type = "pair", .forward = identity};
    ek_module *module = ek_module_new(&def, NULL);
    ck_made(ek_module_add_parameter(module, "weight", EK_SHAPE(3), (ek_init){EK_INIT_ONES, 0}, true));
    ck_made(ek_module_add_parameter(module, "bias", EK_SHAPE(2), (ek_init){EK_INIT_ONES, 0}, false));
    ck_made(ek_module_add_buffer(module, "count", EK_I64, EK_SCALAR, 0));
    return module;
}

START_TEST(test_module)
{
    ek_module *module = module_of_two();
    ek_adamw_opts o = ek_adamw_opts_default();
    o.decay_norms_and_biases = false;
    ek_optimizer *opt = ek_adamw(module, 0.1, &o);
    ck_made(opt);
    ck_assert_int_eq(opt->groups[0].n, 2);
    ek_tensor *weight = ek_module_parameter(module, "weight"), *bias = ek_module_parameter(module, "bias");
    fill_gradient(weight, 0);
    fill_gradient(bias, 0);
    ck_ok(ek_optimizer_step(opt));
    ck_assert_double_eq_tol(ek_tensor_at(weight, 2), 1 - 0.1 * 0.01, 1e-7);
    ck_assert(ek_tensor_at(bias, 1) == 1);

    ck_assert_int_eq(ek_optimizer_add_module(opt, module, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "adamw: tensor 0 (3,) is in a group of this optimizer already");
    ek_module *other = module_of_two();
    ek_group_opts group = {.lr = 0.5, .weight_decay = 0};
    ck_ok(ek_optimizer_add_module(opt, other, &group));
    ck_assert(ek_optimizer_lr(opt, 1) == 0.5);
    ek_module_free(other);

    ck_ok(ek_module_to(module, EK_F64));
    ck_ok(ek_optimizer_step(opt)); /* conversion dropped the gradients: all tensors are skipped */
    fill_gradient(bias, 0);
    ck_assert_int_eq(ek_optimizer_step(opt), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "adamw: tensor 1 of group 0 (2,) was trained as float32 and is float64 now");
    ek_optimizer_free(opt);
    ek_module_free(module);
}
END_TEST

START_TEST(test_module_and_optimizer_are_freed_in_either_order)
{
    for (int module_first = 0; module_first < 2; module_first++) {
        ek_module *module = module_of_two();
        ek_optimizer *opts[] = {ek_sgd(module, 0.1, NULL), ek_adam(module, 0.1, NULL), ek_adamw(module, 0.1, NULL),
                                ek_rmsprop(module, 0.1, NULL)};
        fill_gradient(ek_module_parameter(module, "weight"), 1);
        if (module_first)
            ek_module_free(module);
        for (int i = 0; i < 4; i++) {
            ck_made(opts[i]);
            ck_ok(ek_optimizer_step(opts[i]));
            ek_optimizer_free(opts[i]);
        }
        if (!module_first) {
            ck_assert_double_lt(ek_tensor_at(ek_module_parameter(module, "weight"), 0), 1);
            ek_module_free(module);
        }
    }
}
END_TEST

/* ---- threads ---------------------------------------------------------------------------------------------------- */

/* Three clipped steps over a tensor of many chunks with a ragged end, and a small one behind it. */
static void train(maker make, ek_dtype dtype, int threads, ek_tensor **out, double *norm)
{
    ck_ok(ek_set_num_threads(threads));
    ek_tensor *t[2] = {normal_leaf(dtype, 4 * EK_GRAIN + 77, 5), normal_leaf(dtype, 33, 5)};
    ek_optimizer *opt = make(t, 2);
    for (int step = 0; step < 3; step++) {
        give_gradient(t[0], 0.1, 10 + (uint64_t)step);
        give_gradient(t[1], 0.2, 10 + (uint64_t)step);
        ck_ok(ek_clip_grad_norm(opt, 20, norm));
        ck_ok(ek_clip_grad_value(opt, 0.1));
        ck_ok(ek_optimizer_step(opt));
    }
    *out = t[0];
    ek_tensor_free(t[1]);
    ek_optimizer_free(opt);
}

START_TEST(test_same_bits_for_any_number_of_threads)
{
    const int threads[] = {2, 3, 8};
    for (int m = 0; m < MAKERS; m++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            ek_tensor *serial, *parallel;
            double serial_norm, norm;
            train(makers[m], (ek_dtype)dtype, 1, &serial, &serial_norm);
            ck_assert_double_gt(serial_norm, 20);
            for (int i = 0; i < 3; i++) {
                train(makers[m], (ek_dtype)dtype, threads[i], &parallel, &norm);
                ck_assert_msg(ek_tensor_equal(serial, parallel), "optimizer %d, %d threads", m, threads[i]);
                ck_assert(norm == serial_norm);
                ek_tensor_free(parallel);
            }
            ek_tensor_free(serial);
        }
}
END_TEST

/* The same element gets the same bits wherever it stands: in vectors, in the remainder, in another chunk. */
START_TEST(test_position_does_not_matter)
{
    for (int m = 0; m < MAKERS; m++) {
        ek_tensor *one = normal_leaf(EK_F32, 1, 1);
        ek_tensor *many = ek_full(EK_F32, EK_SHAPE(EK_GRAIN + 5), ek_tensor_at(one, 0));
        ck_ok(ek_tensor_set_requires_grad(many, true));
        ek_optimizer *opt_one = makers[m](&one, 1), *opt_many = makers[m](&many, 1);
        for (int step = 0; step < 4; step++) {
            fill_gradient(one, 0.3 - step);
            fill_gradient(many, 0.3 - step);
            ck_ok(ek_optimizer_step(opt_one));
            ck_ok(ek_optimizer_step(opt_many));
        }
        for (int64_t i = 0; i < many->numel; i++)
            ck_assert_msg(ek_tensor_at(many, i) == ek_tensor_at(one, 0), "optimizer %d, element %lld", m, (long long)i);
        ek_optimizer_free(opt_one);
        ek_optimizer_free(opt_many);
        ek_tensor_free(one);
        ek_tensor_free(many);
    }
}
END_TEST

/* ---- groups and rates ------------------------------------------------------------------------------------------- */

START_TEST(test_groups)
{
    ek_tensor *t[3] = {normal_leaf(EK_F32, 2, 1), normal_leaf(EK_F32, 2, 2), normal_leaf(EK_F32, 2, 3)};
    ek_optimizer *opt = ek_sgd_tensors(NULL, 0, 0.5, NULL);
    ck_made(opt);
    ck_assert_int_eq(ek_optimizer_num_groups(opt), 0);
    ck_ok(ek_optimizer_step(opt));
    ek_group_opts o = ek_group_opts_default(opt);
    ck_assert(o.lr == 0.5 && o.weight_decay == 0);
    ck_ok(ek_optimizer_add_group(opt, t, 1, NULL));
    o.lr = 0.25;
    ck_ok(ek_optimizer_add_group(opt, t + 1, 2, &o));
    ck_assert_int_eq(ek_optimizer_num_groups(opt), 2);
    double before[3];
    for (int i = 0; i < 3; i++) {
        before[i] = ek_tensor_at(t[i], 0);
        fill_gradient(t[i], 1);
    }
    ck_ok(ek_optimizer_step(opt));
    const double moved[3] = {0.5, 0.25, 0.25};
    for (int i = 0; i < 3; i++)
        ck_assert_double_eq_tol(before[i] - ek_tensor_at(t[i], 0), moved[i], 1e-6);

    ck_ok(ek_optimizer_set_group_lr(opt, 1, 0.125));
    ck_assert(ek_optimizer_lr(opt, 0) == 0.5 && ek_optimizer_lr(opt, 1) == 0.125);
    ck_ok(ek_optimizer_set_lr(opt, 1));
    ck_assert(ek_optimizer_lr(opt, 0) == 1 && ek_optimizer_lr(opt, 1) == 1);

    ck_assert_int_eq(ek_optimizer_add_group(opt, t + 2, 1, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "sgd: tensor 0 (2,) is in a group of this optimizer already");
    ck_assert_int_eq(ek_optimizer_num_groups(opt), 2);
    ek_optimizer_free(opt);
    for (int i = 0; i < 3; i++)
        ek_tensor_free(t[i]);
}
END_TEST

/* Weight decay moves a weight of 1 under a gradient of 0; `decays` says that it is neither of a norm nor a bias. */
START_TEST(test_decay_switch)
{
    for (int decays = 0; decays < 2; decays++)
        for (int all = 0; all < 2; all++)
            for (int m = 0; m < 4; m++) {
                ek_tensor *t = ek_ones(EK_F64, EK_SHAPE(1));
                ck_ok(ek_tensor_set_requires_grad(t, true));
                t->decays = decays;
                ek_sgd_opts sgd = ek_sgd_opts_default();
                ek_adam_opts adam = ek_adam_opts_default(), adamw = ek_adamw_opts_default();
                ek_rmsprop_opts rmsprop = ek_rmsprop_opts_default();
                sgd.weight_decay = adam.weight_decay = adamw.weight_decay = rmsprop.weight_decay = 0.5;
                sgd.decay_norms_and_biases = adam.decay_norms_and_biases = adamw.decay_norms_and_biases =
                    rmsprop.decay_norms_and_biases = all;
                ek_optimizer *opt = m == 0   ? ek_sgd_tensors(&t, 1, 0.1, &sgd)
                                    : m == 1 ? ek_adam_tensors(&t, 1, 0.1, &adam)
                                    : m == 2 ? ek_adamw_tensors(&t, 1, 0.1, &adamw)
                                             : ek_rmsprop_tensors(&t, 1, 0.1, &rmsprop);
                ck_made(opt);
                fill_gradient(t, 0);
                ck_ok(ek_optimizer_step(opt));
                ck_assert_msg((ek_item(t) < 1) == (decays || all), "optimizer %d, decays %d, switch %d: %g", m, decays,
                              all, ek_item(t));
                ek_optimizer_free(opt);
                ek_tensor_free(t);
            }
}
END_TEST

/* A gradient that never changes has variance 0, which v − a² misses by its rounding, to either side. */
START_TEST(test_centered_rmsprop_with_a_constant_gradient)
{
    ek_rmsprop_opts o = ek_rmsprop_opts_default();
    o.centered = true;
    ek_tensor *t = normal_leaf(EK_F32, 40, 1);
    ek_optimizer *opt = ek_rmsprop_tensors(&t, 1, 1e-3, &o);
    fill_gradient(t, 0.1);
    for (int step = 0; step < 3000; step++)
        ck_ok(ek_optimizer_step(opt));
    for (int64_t i = 0; i < 40; i++)
        ck_assert(isfinite(ek_tensor_at(t, i)));
    ek_optimizer_free(opt);
    ek_tensor_free(t);
}
END_TEST

/* ---- clipping --------------------------------------------------------------------------------------------------- */

/* Tensors of sizes that share chunks and cross them, one of them without elements; the last never gets a gradient. */
enum { ROW = 9 };
static const int64_t row_sizes[ROW] = {5, EK_GRAIN - 3, 0, 2 * EK_GRAIN + 1, 16, 1, 40000, 17, 300};

static void make_row(ek_tensor **row, ek_dtype dtype)
{
    for (int i = 0; i < ROW; i++)
        row[i] = normal_leaf(dtype, row_sizes[i], (uint64_t)i);
}

static void give_row_gradients(ek_tensor **row, uint64_t seed)
{
    for (int i = 0; i + 1 < ROW; i++)
        give_gradient(row[i], 0.1, seed + (uint64_t)i);
}

/* Tensors updated side by side get the bits that each gets by itself. */
START_TEST(test_a_row_of_tensors)
{
    for (int m = 0; m < MAKERS; m++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            ek_tensor *row[ROW], *alone[ROW];
            make_row(row, (ek_dtype)dtype);
            make_row(alone, (ek_dtype)dtype);
            ek_optimizer *opt = makers[m](row, 4), *by_itself[ROW];
            ck_ok(ek_optimizer_add_group(opt, row + 4, ROW - 4, NULL));
            for (int i = 0; i < ROW; i++)
                by_itself[i] = makers[m](alone + i, 1);
            for (int step = 0; step < 3; step++) {
                give_row_gradients(row, 10 * (uint64_t)step);
                give_row_gradients(alone, 10 * (uint64_t)step);
                ck_ok(ek_optimizer_step(opt));
                for (int i = 0; i < ROW; i++)
                    ck_ok(ek_optimizer_step(by_itself[i]));
            }
            for (int i = 0; i < ROW; i++) {
                ck_assert_msg(ek_tensor_equal(row[i], alone[i]), "optimizer %d, tensor %d", m, i);
                ek_optimizer_free(by_itself[i]);
                ek_tensor_free(alone[i]);
                ek_tensor_free(row[i]);
            }
            ek_optimizer_free(opt);
        }
}
END_TEST

/* A step that clips gives the parameters the bits of clipping before it, and leaves the gradients alone. */
START_TEST(test_a_step_that_clips)
{
    for (int m = 0; m < MAKERS; m++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            ek_tensor *row[ROW], *before[ROW], *given = NULL;
            make_row(row, (ek_dtype)dtype);
            make_row(before, (ek_dtype)dtype);
            ek_optimizer *opt = makers[m](row, ROW), *plain = makers[m](before, ROW);
            ck_assert(isnan(ek_optimizer_grad_norm(opt)));
            for (int step = 0; step < 4; step++) {
                const double max_norm = step == 2 ? INFINITY : step == 1 ? 1e6 : 3;
                double norm;
                give_row_gradients(row, 10 * (uint64_t)step);
                give_row_gradients(before, 10 * (uint64_t)step);
                given = ek_tensor_clone(row[3]->grad);
                ck_ok(ek_optimizer_set_max_norm(opt, max_norm));
                ck_ok(ek_optimizer_step(opt));
                ck_ok(ek_clip_grad_norm(plain, max_norm, &norm));
                ck_ok(ek_optimizer_step(plain));
                ck_assert_double_gt(norm, 3);
                ck_assert(step == 2 ? isnan(ek_optimizer_grad_norm(opt)) : ek_optimizer_grad_norm(opt) == norm);
                ck_assert(ek_tensor_equal(row[3]->grad, given));
                ck_assert(ek_tensor_equal(before[3]->grad, given) == (max_norm > 3));
                ek_tensor_free(given);
            }
            for (int i = 0; i < ROW; i++) {
                ck_assert_msg(ek_tensor_equal(row[i], before[i]), "optimizer %d, tensor %d", m, i);
                ek_tensor_free(row[i]);
                ek_tensor_free(before[i]);
            }
            ek_optimizer_free(opt);
            ek_optimizer_free(plain);
        }
    ck_assert(isnan(ek_optimizer_grad_norm(NULL)));
}
END_TEST

START_TEST(test_clip_norm)
{
    ek_tensor *t[2] = {normal_leaf(EK_F64, 1, 1), normal_leaf(EK_F64, 1, 2)};
    fill_gradient(t[0], 3);
    fill_gradient(t[1], -4);
    double norm;
    ck_ok(ek_clip_grad_norm_tensors(t, 2, INFINITY, &norm));
    ck_assert_double_eq_tol(norm, 5, 1e-15);
    ck_ok(ek_clip_grad_norm_tensors(t, 2, 5.1, &norm));
    ck_assert(ek_item(t[0]->grad) == 3 && ek_item(t[1]->grad) == -4);
    ck_ok(ek_clip_grad_norm_tensors(t, 2, 0.5, NULL));
    ck_assert_double_eq_tol(ek_item(t[0]->grad), 3 * 0.5 / (5 + 1e-6), 1e-15);
    ck_assert_double_eq_tol(ek_item(t[1]->grad), -4 * 0.5 / (5 + 1e-6), 1e-15);
    ek_tensor_clear_grad(t[1]);
    ck_ok(ek_clip_grad_norm_tensors(t, 2, INFINITY, &norm));
    ck_assert_double_eq(norm, fabs(ek_item(t[0]->grad)));
    ck_ok(ek_clip_grad_norm_tensors(t, 1, 0, NULL));
    ck_assert(ek_item(t[0]->grad) == 0);
    fill_gradient(t[0], NAN);
    fill_gradient(t[1], 1);
    ck_ok(ek_clip_grad_norm_tensors(t, 2, 1, &norm));
    ck_assert(isnan(norm) && isnan(ek_item(t[1]->grad)));
    fill_gradient(t[0], INFINITY);
    fill_gradient(t[1], 1);
    ck_ok(ek_clip_grad_norm_tensors(t, 2, INFINITY, &norm)); /* only measures, whatever the norm is */
    ck_assert(norm == INFINITY && ek_item(t[0]->grad) == INFINITY && ek_item(t[1]->grad) == 1);
    ck_ok(ek_clip_grad_norm_tensors(NULL, 0, 1, &norm));
    ck_assert_double_eq(norm, 0);
    ek_tensor_free(t[0]);
    ek_tensor_free(t[1]);
}
END_TEST

/* A million float32 gradients of 0.1: a sum in float32 would be off in the fourth digit. */
START_TEST(test_clip_norm_sums_in_double)
{
    ek_tensor *t = normal_leaf(EK_F32, 1000000, 1);
    fill_gradient(t, 0.1);
    double norm;
    ck_ok(ek_clip_grad_norm_tensors(&t, 1, INFINITY, &norm));
    /* 10⁶ additions of relative error 2⁻⁵³ each, halved by the root. */
    ck_assert_double_eq_tol(norm, 1000 * (double)0.1f, 100 * 1e6 * 0x1p-54);
    ek_tensor_free(t);
}
END_TEST

START_TEST(test_clip_value)
{
    const float gradient[] = {-3, -1, -0.5f, 0, 0.5f, 1, 3, INFINITY, -INFINITY, NAN};
    const float expected[] = {-1, -1, -0.5f, 0, 0.5f, 1, 1, 1, -1, NAN};
    ek_tensor *t = normal_leaf(EK_F32, 10, 1);
    ek_optimizer *opt = make_sgd(&t, 1);
    fill_gradient(t, 0);
    ck_ok(ek_tensor_write(t->grad, gradient, sizeof gradient));
    ck_ok(ek_clip_grad_value(opt, 1));
    for (int i = 0; i < 9; i++)
        ck_assert(ek_tensor_at(t->grad, i) == expected[i]);
    ck_assert(isnan(ek_tensor_at(t->grad, 9)));
    ck_ok(ek_clip_grad_value_tensors(&t, 1, 0.25));
    ck_assert(ek_tensor_at(t->grad, 0) == -0.25 && ek_tensor_at(t->grad, 6) == 0.25);
    ek_optimizer_free(opt);
    ek_tensor_free(t);
}
END_TEST

int main(void)
{
    return RUN_TESTS("optim", test_minimizes_through_backward, test_skips_tensors_without_gradient,
                     test_state_is_made_when_needed, test_empty_tensor, test_no_allocation_after_the_first_step,
                     test_out_of_memory_moves_nothing, test_tensors_may_be_freed_first,
                     test_module, test_module_and_optimizer_are_freed_in_either_order,
                     test_same_bits_for_any_number_of_threads, test_position_does_not_matter, test_groups,
                     test_decay_switch, test_centered_rmsprop_with_a_constant_gradient, test_a_row_of_tensors,
                     test_a_step_that_clips, test_clip_norm,
                     test_clip_norm_sums_in_double, test_clip_value);
}
