/* Learning rates as functions of the step, in closed form. */
#include "optimizer.h"

static const double pi = 3.14159265358979323846;

static ek_schedule schedule(ek_schedule_kind kind, double lr, int64_t steps)
{
    return (ek_schedule){.kind = kind, .lr = lr, .steps = steps, .gamma = 0.1, .lr_min = 0, .pct_start = 0.3,
                         .div_factor = 25, .final_div_factor = 1e4, .warmup_steps = 0, .warmup_start_factor = 1.0 / 3};
}

ek_schedule ek_schedule_step(double lr, int64_t step_size, double gamma)
{
    ek_schedule s = schedule(EK_SCHEDULE_STEP, lr, step_size);
    s.gamma = gamma;
    return s;
}

ek_schedule ek_schedule_cosine(double lr, int64_t t_max, double lr_min)
{
    ek_schedule s = schedule(EK_SCHEDULE_COSINE, lr, t_max);
    s.lr_min = lr_min;
    return s;
}

ek_schedule ek_schedule_warmup(double lr, int64_t warmup_steps, double start_factor)
{
    ek_schedule s = schedule(EK_SCHEDULE_CONSTANT, lr, 1);
    s.warmup_steps = warmup_steps;
    s.warmup_start_factor = start_factor;
    return s;
}

ek_schedule ek_schedule_one_cycle(double max_lr, int64_t total_steps)
{
    return schedule(EK_SCHEDULE_ONE_CYCLE, max_lr, total_steps);
}

static ek_status check(const char *who, const ek_schedule *s, int64_t step)
{
    if (!s)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the schedule is NULL", who);
    if (step < 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a step of 0 or more, got %lld", who, (long long)step);
    if (s->kind < EK_SCHEDULE_CONSTANT || s->kind > EK_SCHEDULE_ONE_CYCLE)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected an ek_schedule_kind, got %d", who, (int)s->kind);
    if (s->steps < 1 || s->warmup_steps < 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected at least 1 step and a warm-up of 0 or more, got %lld and %lld",
                       who, (long long)s->steps, (long long)s->warmup_steps);
    if (ek_check_option(who, "lr", s->lr, 0, INFINITY) != EK_OK ||
        ek_check_option(who, "gamma", s->gamma, 0, INFINITY) != EK_OK ||
        ek_check_option(who, "lr_min", s->lr_min, 0, INFINITY) != EK_OK ||
        ek_check_option(who, "warmup_start_factor", s->warmup_start_factor, 0, INFINITY) != EK_OK)
        return ek_last_status();
    if (!(s->pct_start >= 0 && s->pct_start <= 1))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected pct_start in [0, 1], got %g", who, s->pct_start);
    if (!(s->div_factor > 0 && s->final_div_factor > 0))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected div_factor and final_div_factor above 0, got %g and %g", who,
                       s->div_factor, s->final_div_factor);
    if (s->kind == EK_SCHEDULE_ONE_CYCLE && s->warmup_steps)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected warmup_steps = 0 for one cycle, which rises by itself, got %lld",
                       who, (long long)s->warmup_steps);
    return EK_OK;
}

/* From a at 0 to b at 1. */
static double half_cosine(double a, double b, double t)
{
    return b + (a - b) / 2 * (1 + cos(pi * t));
}

static double one_cycle(const ek_schedule *s, int64_t step)
{
    double start = s->lr / s->div_factor, last = (double)(s->steps - 1), peak = s->pct_start * (double)s->steps - 1;
    double t = (double)step < last ? (double)step : last;
    if (t <= peak && peak > 0)
        return half_cosine(start, s->lr, t / peak);
    /* A peak before step 0 (few steps, or pct_start = 0) leaves part of the way down, as in PyTorch. */
    return half_cosine(s->lr, start / s->final_div_factor, last > peak ? (t - peak) / (last - peak) : 1);
}

static double lr_at(const ek_schedule *s, int64_t step)
{
    if (step < s->warmup_steps) {
        double from = s->warmup_start_factor;
        return s->lr * (from + (1 - from) * (double)step / (double)s->warmup_steps);
    }
    step -= s->warmup_steps;
    switch (s->kind) {
    case EK_SCHEDULE_CONSTANT: break;
    case EK_SCHEDULE_STEP: return s->lr * pow(s->gamma, (double)(step / s->steps));
    case EK_SCHEDULE_COSINE: return half_cosine(s->lr, s->lr_min, (double)step / (double)s->steps);
    case EK_SCHEDULE_ONE_CYCLE: return one_cycle(s, step);
    }
    return s->lr;
}

double ek_schedule_lr(const ek_schedule *s, int64_t step)
{
    return check("schedule_lr", s, step) == EK_OK ? lr_at(s, step) : NAN;
}

ek_status ek_schedule_apply(const ek_schedule *s, ek_optimizer *optimizer, int64_t step)
{
    const char *who = "schedule_apply";
    if (check(who, s, step) != EK_OK)
        return ek_last_status();
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the optimizer is NULL", who);
    if (optimizer->defaults.lr == 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the optimizer was made with lr 0, to which its groups have no ratio: make "
                                        "it with the schedule's lr", who);
    for (int g = 0; g < optimizer->n_groups; g++)
        optimizer->groups[g].lr = lr_at(s, step) * (optimizer->groups[g].initial_lr / optimizer->defaults.lr);
    return EK_OK;
}
