/* Learning-rate schedules: limits, groups, errors.  Values against PyTorch: test_optim_golden.c. */
#include "support.h"

/* |lr − expected| ≤ 1e-15: a few roundings of numbers below 1. */
#define ck_lr(schedule, step, expected) ck_assert_double_eq_tol(ek_schedule_lr(&(schedule), (step)), (expected), 1e-15)

START_TEST(test_step)
{
    ek_schedule s = ek_schedule_step(0.8, 3, 0.5);
    const double expected[] = {0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.2};
    for (int i = 0; i < 7; i++)
        ck_lr(s, i, expected[i]);
}
END_TEST

START_TEST(test_cosine)
{
    ek_schedule s = ek_schedule_cosine(0.8, 10, 0.2);
    ck_lr(s, 0, 0.8);
    ck_lr(s, 5, 0.5);
    ck_lr(s, 10, 0.2);
    ck_lr(s, 20, 0.8); /* it rises again, as PyTorch's does */
}
END_TEST

START_TEST(test_warmup)
{
    ek_schedule s = ek_schedule_warmup(0.8, 4, 0.5);
    const double expected[] = {0.4, 0.5, 0.6, 0.7, 0.8, 0.8};
    for (int i = 0; i < 6; i++)
        ck_lr(s, i, expected[i]);
    ck_lr(s, INT64_MAX, 0.8);
    s = ek_schedule_warmup(0.8, 0, 0.5);
    ck_lr(s, 0, 0.8);
}
END_TEST

START_TEST(test_warmup_before_a_schedule)
{
    ek_schedule s = ek_schedule_step(0.8, 2, 0.5);
    ck_assert_int_eq(s.warmup_steps, 0);
    s.warmup_steps = 2;
    s.warmup_start_factor = 0;
    const double expected[] = {0, 0.4, 0.8, 0.8, 0.4, 0.4, 0.2};
    for (int i = 0; i < 7; i++)
        ck_lr(s, i, expected[i]);
}
END_TEST

START_TEST(test_one_cycle)
{
    ek_schedule s = ek_schedule_one_cycle(1, 100);
    ck_lr(s, 0, 1.0 / 25);
    ck_lr(s, 29, 1);
    ck_lr(s, 99, 1.0 / 25 / 1e4);
    ck_lr(s, 100, 1.0 / 25 / 1e4);
    ck_lr(s, INT64_MAX, 1.0 / 25 / 1e4);
    for (int i = 0; i < 99; i++)
        ck_assert((ek_schedule_lr(&s, i) < ek_schedule_lr(&s, i + 1)) == (i < 29));
    s = ek_schedule_one_cycle(1, 1); /* as PyTorch: the rise ended before step 0 */
    ck_lr(s, 0, 1.0 / 25 / 1e4);
    s.steps = 10;
    s.pct_start = 0.1; /* the peak is step 0 */
    ck_lr(s, 0, 1);
    ck_lr(s, 9, 1.0 / 25 / 1e4);
    s.steps = 1;
    s.pct_start = 1;
    ck_assert(isfinite(ek_schedule_lr(&s, 0)));
}
END_TEST

/* Groups keep the ratio of the rates they were made with. */
START_TEST(test_apply)
{
    ek_tensor *t[2] = {ek_zeros(EK_F32, EK_SHAPE(1)), ek_zeros(EK_F32, EK_SHAPE(1))};
    for (int i = 0; i < 2; i++)
        ck_ok(ek_tensor_set_requires_grad(t[i], true));
    ek_optimizer *opt = ek_sgd_tensors(t, 1, 0.8, NULL);
    ek_group_opts o = {.lr = 0.08};
    ck_ok(ek_optimizer_add_group(opt, t + 1, 1, &o));
    ek_schedule s = ek_schedule_step(0.8, 2, 0.5);
    for (int step = 0; step < 4; step++) {
        ck_ok(ek_schedule_apply(&s, opt, step));
        ck_assert_double_eq_tol(ek_optimizer_lr(opt, 0), step < 2 ? 0.8 : 0.4, 1e-15);
        ck_assert_double_eq_tol(ek_optimizer_lr(opt, 1), step < 2 ? 0.08 : 0.04, 1e-15);
    }
    ck_ok(ek_schedule_apply(&s, opt, 0));
    ck_assert_double_eq_tol(ek_optimizer_lr(opt, 0), 0.8, 1e-15);
    ck_assert_int_eq(ek_schedule_apply(&s, opt, -1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "schedule_apply: expected a step of 0 or more, got -1");
    ck_assert_double_eq_tol(ek_optimizer_lr(opt, 0), 0.8, 1e-15);
    ck_assert_int_eq(ek_schedule_apply(&s, NULL, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "schedule_apply: the optimizer is NULL");
    ck_assert_int_eq(ek_schedule_apply(NULL, opt, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "schedule_apply: the schedule is NULL");
    ek_optimizer_free(opt);

    opt = ek_sgd_tensors(t, 1, 0, NULL);
    ck_assert_int_eq(ek_schedule_apply(&s, opt, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "schedule_apply: the optimizer was made with lr 0");
    ek_optimizer_free(opt);
    ek_tensor_free(t[0]);
    ek_tensor_free(t[1]);
}
END_TEST

#define ck_bad(schedule, text)                                                                                         \
    do {                                                                                                               \
        ck_assert(isnan(ek_schedule_lr(&(schedule), 0)));                                                              \
        ck_error(EK_ERR_ARGUMENT, text);                                                                               \
    } while (0)

START_TEST(test_errors)
{
    ck_assert(isnan(ek_schedule_lr(NULL, 0)));
    ck_error(EK_ERR_ARGUMENT, "schedule_lr: the schedule is NULL");
    ek_schedule s = ek_schedule_step(1, 0, 0.5);
    ck_bad(s, "schedule_lr: expected at least 1 step and a warm-up of 0 or more, got 0 and 0");
    s = ek_schedule_warmup(1, -3, 0.5);
    ck_bad(s, "schedule_lr: expected at least 1 step and a warm-up of 0 or more, got 1 and -3");
    s = ek_schedule_warmup(1, 3, -0.5);
    ck_bad(s, "schedule_lr: expected a finite warmup_start_factor of at least 0, got -0.5");
    s = ek_schedule_cosine(-1, 3, 0);
    ck_bad(s, "schedule_lr: expected a finite lr of at least 0, got -1");
    s = ek_schedule_cosine(1, 3, NAN);
    ck_bad(s, "schedule_lr: expected a finite lr_min of at least 0, got nan");
    s = ek_schedule_step(1, 3, -0.1);
    ck_bad(s, "schedule_lr: expected a finite gamma of at least 0, got -0.1");
    s = ek_schedule_one_cycle(1, 100);
    s.pct_start = 1.5;
    ck_bad(s, "schedule_lr: expected pct_start in [0, 1], got 1.5");
    s = ek_schedule_one_cycle(1, 100);
    s.div_factor = 0;
    ck_bad(s, "schedule_lr: expected div_factor and final_div_factor above 0, got 0 and 10000");
    s = ek_schedule_one_cycle(1, 100);
    s.warmup_steps = 5;
    ck_bad(s, "schedule_lr: expected warmup_steps = 0 for one cycle, which rises by itself, got 5");
    s.kind = (ek_schedule_kind)9;
    ck_bad(s, "schedule_lr: expected an ek_schedule_kind, got 9");
}
END_TEST

int main(void)
{
    return RUN_TESTS("schedule", test_step, test_cosine, test_warmup, test_warmup_before_a_schedule, test_one_cycle,
                     test_apply, test_errors);
}
