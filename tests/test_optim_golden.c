/* Twenty steps of every optimizer, clipping and schedules against PyTorch 1.13.1: golden/optim.npz, made by
 * golden/make_optim.py. */
#include "optimizer.h"
#include "support.h"

enum { WEIGHT = 15, BIAS = 3, ROW = WEIGHT + BIAS, STEPS = 20 };

static const double lr = 0.05;

/* ---- the cases of make_optim.py --------------------------------------------------------------------------------- */

enum kind { SGD, ADAM, ADAMW, RMSPROP };

static const struct test_case {
    const char *name;
    enum kind kind;
    const void *opts;  /* of that kind; NULL: the defaults */
    bool groups;       /* the bias in a second group: lr 0.2, weight_decay 0.3 */
    int skipped_every; /* the bias gets no gradient at multiples of this step */
} cases[] = {
    {"sgd", SGD, NULL, false, 0},
    {"sgd_decay", SGD, &(const ek_sgd_opts){.weight_decay = 0.1, .decay_norms_and_biases = true}, false, 0},
    {"sgd_momentum", SGD, &(const ek_sgd_opts){.momentum = 0.9}, false, 0},
    {"sgd_dampening", SGD,
     &(const ek_sgd_opts){.momentum = 0.9, .dampening = 0.3, .weight_decay = 0.1, .decay_norms_and_biases = true},
     false, 0},
    {"sgd_nesterov", SGD,
     &(const ek_sgd_opts){.momentum = 0.9, .nesterov = true, .weight_decay = 0.1, .decay_norms_and_biases = true},
     false, 0},
    {"adam", ADAM, NULL, false, 0},
    {"adam_options", ADAM,
     &(const ek_adam_opts){.betas = {0.8, 0.95}, .eps = 1e-3, .weight_decay = 0.1, .decay_norms_and_biases = true},
     false, 0},
    {"adam_amsgrad", ADAM, &(const ek_adam_opts){.betas = {0.9, 0.5}, .eps = 1e-8, .amsgrad = true}, false, 0},
    {"adamw", ADAMW, NULL, false, 0},
    {"adamw_options", ADAMW,
     &(const ek_adamw_opts){.betas = {0.8, 0.5}, .eps = 1e-3, .weight_decay = 0.5, .amsgrad = true,
                            .decay_norms_and_biases = true},
     false, 0},
    {"rmsprop", RMSPROP, NULL, false, 0},
    {"rmsprop_centered", RMSPROP, &(const ek_rmsprop_opts){.alpha = 0.9, .eps = 1e-2, .centered = true}, false, 0},
    {"rmsprop_momentum", RMSPROP,
     &(const ek_rmsprop_opts){.alpha = 0.9, .eps = 1e-2, .weight_decay = 0.1, .momentum = 0.8, .centered = true,
                              .decay_norms_and_biases = true},
     false, 0},
    {"groups", SGD, &(const ek_sgd_opts){.momentum = 0.9, .decay_norms_and_biases = true}, true, 0},
    {"no_decay", ADAMW, &(const ek_adamw_opts){.betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0.5}, false, 0},
    {"skip", ADAM,
     &(const ek_adam_opts){.betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0.1, .decay_norms_and_biases = true},
     false, 3},
};
enum { CASES = sizeof cases / sizeof *cases };

static ek_optimizer *make(const struct test_case *c, ek_tensor *const tensors[2])
{
    int n = c->groups ? 1 : 2;
    ek_optimizer *optimizer = c->kind == SGD     ? ek_sgd_tensors(tensors, n, lr, c->opts)
                              : c->kind == ADAM  ? ek_adam_tensors(tensors, n, lr, c->opts)
                              : c->kind == ADAMW ? ek_adamw_tensors(tensors, n, lr, c->opts)
                                                 : ek_rmsprop_tensors(tensors, n, lr, c->opts);
    ck_made(optimizer);
    ek_group_opts second = {.lr = 0.2, .weight_decay = 0.3};
    if (c->groups)
        ck_ok(ek_optimizer_add_group(optimizer, tensors + 1, 1, &second));
    return optimizer;
}

/* ---- rows of the archive ---------------------------------------------------------------------------------------- */

static ek_tensor *golden(const ek_npz *npz, const char *format, const char *a, const char *b)
{
    char name[100];
    snprintf(name, sizeof name, format, a, b);
    ek_tensor *t = ek_npz_read(npz, name);
    ck_assert_msg(t != NULL, "%s: %s", name, ek_last_error());
    return t;
}

static ek_npz *open_golden(void)
{
    ek_npz *npz = ek_npz_open(TEST_DATA_DIR "/golden/optim.npz");
    ck_made(npz);
    return npz;
}

/* Elements first … first+n−1 of a tensor. */
static void *at(ek_tensor *t, int64_t first)
{
    return (char *)t->data + (size_t)first * ek_dtype_size(t->dtype);
}

static void make_leaves(ek_tensor *start, ek_tensor *leaves[2])
{
    leaves[0] = ek_from_array(start->dtype, EK_SHAPE(3, 5), at(start, 0));
    leaves[1] = ek_from_array(start->dtype, EK_SHAPE(BIAS), at(start, WEIGHT));
    for (int i = 0; i < 2; i++) {
        ck_ok(ek_tensor_set_requires_grad(leaves[i], true));
        ck_ok(ek_tensor_need_grad_buffer(leaves[i]));
    }
    leaves[1]->decays = false;
}

static void give_gradients(ek_tensor *gradients, int row, ek_tensor *leaves[2])
{
    for (int i = 0; i < 2; i++) {
        memcpy(leaves[i]->grad_data, at(gradients, row * ROW + i * WEIGHT), ek_tensor_bytes(leaves[i]));
        leaves[i]->has_grad = true;
    }
}

/* The two tensors against a row of `expected`. */
static void check_row(const char *what, ek_tensor *weight, ek_tensor *bias, ek_tensor *expected, int row,
                      double tolerance)
{
    ek_tensor *e[2] = {ek_from_array(expected->dtype, EK_SHAPE(3, 5), at(expected, row * ROW)),
                       ek_from_array(expected->dtype, EK_SHAPE(BIAS), at(expected, row * ROW + WEIGHT))};
    assert_close(what, weight, e[0], tolerance, tolerance);
    assert_close(what, bias, e[1], tolerance, tolerance);
    ek_tensor_free(e[0]);
    ek_tensor_free(e[1]);
}

/* PyTorch fuses some multiplications and additions, so its roundings differ from ours.  An update rounds fewer than 10
 * times, each by at most u = ε/2 of numbers below max(1, |θ|); 20 updates add up to 20·10·u·max(1, |θ|). */
static double tolerance(ek_dtype dtype)
{
    return STEPS * 10 * (dtype == EK_F32 ? 0x1p-24 : 0x1p-53);
}

/* ---- tests ------------------------------------------------------------------------------------------------------ */

START_TEST(test_trajectories)
{
    const struct test_case *c = &cases[_i / 2];
    const char *dtype = _i % 2 ? "float64" : "float32";
    ek_npz *npz = open_golden();
    ek_tensor *start = golden(npz, "%s.start", dtype, ""), *gradients = golden(npz, "%s.gradients", dtype, "");
    ek_tensor *expected = golden(npz, "%s.%s", dtype, c->name), *recorded = golden(npz, "recorded_steps", "", "");
    ek_tensor *leaves[2];
    make_leaves(start, leaves);
    ek_optimizer *optimizer = make(c, leaves);
    int row = 0;
    for (int step = 1; step <= STEPS; step++) {
        give_gradients(gradients, step - 1, leaves);
        if (c->skipped_every && step % c->skipped_every == 0)
            ek_tensor_clear_grad(leaves[1]);
        ck_ok(ek_optimizer_step(optimizer));
        if (ek_tensor_at(recorded, row) == step) {
            char what[100];
            snprintf(what, sizeof what, "%s %s, step %d", c->name, dtype, step);
            check_row(what, leaves[0], leaves[1], expected, row++, tolerance(start->dtype));
        }
    }
    ck_assert_int_eq(row, ek_tensor_numel(recorded));
    ek_optimizer_free(optimizer);
    ek_tensor *all[] = {start, gradients, expected, recorded, leaves[0], leaves[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ek_tensor_free(all[i]);
    ek_npz_close(npz);
}
END_TEST

START_TEST(test_clipping)
{
    const char *dtype = _i % 2 ? "float64" : "float32", *name = _i / 2 ? "cut" : "kept";
    ek_npz *npz = open_golden();
    ek_tensor *start = golden(npz, "%s.start", dtype, ""), *gradients = golden(npz, "%s.gradients", dtype, "");
    ek_tensor *expected = golden(npz, "clip.%s.%s", dtype, name), *norm = golden(npz, "clip.%s.%s.norm", dtype, name);
    ek_tensor *leaves[2];
    make_leaves(start, leaves);
    give_gradients(gradients, 0, leaves);
    double total;
    ck_ok(ek_clip_grad_norm_tensors(leaves, 2, _i / 2 ? 0.7 : 1e3, &total));
    /* PyTorch sums 18 squares in the type of the gradients. */
    double u = start->dtype == EK_F32 ? 0x1p-24 : 0x1p-53;
    ck_assert_double_eq_tol(total, ek_item(norm), 20 * u * total);
    check_row(name, leaves[0]->grad, leaves[1]->grad, expected, 0, 20 * u);
    ek_tensor *all[] = {start, gradients, expected, norm, leaves[0], leaves[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ek_tensor_free(all[i]);
    ek_npz_close(npz);
}
END_TEST

static void check_schedule(const ek_npz *npz, const char *name, ek_schedule schedule)
{
    ek_tensor *expected = golden(npz, "schedule.%s", name, "");
    for (int64_t step = 0; step < expected->numel; step++) {
        /* PyTorch goes from rate to rate: in up to 60 steps each rate carries 5 roundings on, of numbers below 0.4. */
        double rate = ek_schedule_lr(&schedule, step), want = ek_tensor_at(expected, step);
        ck_assert_msg(fabs(rate - want) <= 0.4 * 60 * 5 * 0x1p-53, "%s, step %lld: %.17g, expected %.17g", name,
                      (long long)step, rate, want);
    }
    ek_tensor_free(expected);
}

START_TEST(test_schedules)
{
    ek_npz *npz = open_golden();
    check_schedule(npz, "step", ek_schedule_step(0.4, 7, 0.5));
    check_schedule(npz, "cosine", ek_schedule_cosine(0.4, 25, 0.01));
    ek_schedule s = ek_schedule_warmup(0.4, 12, 1.0 / 3);
    check_schedule(npz, "warmup", s);
    s = ek_schedule_cosine(0.4, 30, 0.01);
    s.warmup_steps = 10;
    s.warmup_start_factor = 0.1;
    check_schedule(npz, "warmup_cosine", s);
    s = ek_schedule_one_cycle(0.4, 50);
    check_schedule(npz, "one_cycle", s);
    s.steps = 25;
    s.pct_start = 0.45;
    s.div_factor = 10;
    s.final_div_factor = 100;
    check_schedule(npz, "one_cycle_options", s);
    s = ek_schedule_one_cycle(0.4, 9);
    s.pct_start = 0;
    check_schedule(npz, "one_cycle_falls", s);
    s.pct_start = 1;
    check_schedule(npz, "one_cycle_rises", s);
    ek_npz_close(npz);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optim_golden");
    TCase *tcase = tcase_create("optim_golden");
    tcase_add_loop_test(tcase, test_trajectories, 0, 2 * CASES);
    tcase_add_loop_test(tcase, test_clipping, 0, 4);
    tcase_add_test(tcase, test_schedules);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
