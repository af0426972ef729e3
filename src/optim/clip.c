/* Gradient clipping: passes over all gradients in one parallel loop.  Expands to sum_of_squares_f32, scale_f32,
 * clamp_f32, visit_f32 and their _f64 twins. */
#ifdef REAL

/* Σ g² in double; g: [n]. */
EK_KERNEL static double FN(sum_of_squares)(int64_t n, const REAL *g)
{
    double lane[EK_LANES] = {0};
    int64_t i = 0;
    for (; i + EK_LANES <= n; i += EK_LANES)
        for (int k = 0; k < EK_LANES; k++)
            lane[k] += (double)g[i + k] * (double)g[i + k];
    for (int k = 0; i + k < n; k++)
        lane[k] += (double)g[i + k] * (double)g[i + k];
    return ek_fold_lanes(lane);
}

/* g ← coefficient·g.  g: [n]. */
EK_KERNEL static void FN(scale)(int64_t n, REAL *g, double coefficient)
{
    REAL c = (REAL)coefficient;
    for (int64_t i = 0; i < n; i++)
        g[i] *= c;
}

/* g ← min(max(g, −limit), limit), NaN stays.  g: [n]. */
EK_KERNEL static void FN(clamp)(int64_t n, REAL *g, double limit)
{
    REAL high = (REAL)limit, low = -high;
    for (int64_t i = 0; i < n; i++)
        g[i] = g[i] > high ? high : g[i] < low ? low : g[i];
}

/* Elements begin … end−1 of one gradient; Σ g² of them, where that is what is done. */
static double FN(visit)(void *gradient, int64_t begin, int64_t end, enum job job, double number)
{
    REAL *g = (REAL *)gradient + begin;
    if (job == SUM_SQUARES)
        return FN(sum_of_squares)(end - begin, g);
    if (job == SCALE)
        FN(scale)(end - begin, g, number);
    else
        FN(clamp)(end - begin, g, number);
    return 0;
}

#else
#include "optimizer.h"

enum job { SUM_SQUARES, SCALE, CLAMP };

#define OP_FILE "clip.c"
#include "foreach_real.h"

/* Gradients of an optimizer, or of a list. */
typedef struct gradients {
    const ek_optimizer *optimizer;
    ek_tensor *const *tensors;
    int n;
} gradients;

/* The next tensor that has a gradient, from places 0 and 0 on; NULL after the last. */
static ek_tensor *next_gradient(const gradients *gs, int *group, int *i)
{
    for (; gs->optimizer && *group < gs->optimizer->n_groups; (*group)++, *i = 0)
        while (*i < gs->optimizer->groups[*group].n) {
            ek_tensor *tensor = gs->optimizer->groups[*group].slots[(*i)++].parameter;
            if (tensor->has_grad)
                return tensor;
        }
    while (*i < gs->n)
        if (gs->tensors[(*i)++]->has_grad)
            return gs->tensors[*i - 1];
    return NULL;
}

/* One pass over all gradients. */
typedef struct clip_pass {
    const gradients *gradients;
    enum job job;
    double number; /* to scale by, or to clamp at */
    ek_parts parts;
    double partial[EK_MOST_PARTS]; /* sums by part: added up in their order, whichever thread made them */
} clip_pass;

static void visit_parts(void *context, int64_t begin, int64_t end)
{
    static double (*const visit[])(void *, int64_t, int64_t, enum job, double) = EK_BY_DTYPE(visit);
    clip_pass *pass = context;
    for (int64_t part = begin; part < end; part++) {
        double sum = 0;
        int group = 0, i = 0;
        int64_t small = 0, from, to;
        for (ek_tensor *t; (t = next_gradient(pass->gradients, &group, &i));) {
            ek_parts_range(&pass->parts, part, t->numel, &small, &from, &to);
            if (from < to)
                sum += visit[t->dtype](t->grad_data, from, to, pass->job, pass->number);
        }
        pass->partial[part] = sum;
    }
}

/* The sum of what the job gives. */
static double run(const gradients *gs, enum job job, double number)
{
    clip_pass pass = {.gradients = gs, .job = job, .number = number};
    int group = 0, i = 0;
    for (const ek_tensor *t; (t = next_gradient(gs, &group, &i));)
        ek_parts_add(&pass.parts, t->numel);
    ek_parts_cut(&pass.parts);
    ek_parallel_for(pass.parts.n, 1, visit_parts, &pass);
    double sum = 0;
    for (int64_t part = 0; part < pass.parts.n; part++)
        sum += pass.partial[part];
    return sum;
}

static ek_status check_list(const char *who, const gradients *gs)
{
    if (gs->n < 0 || (gs->n && !gs->tensors))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a list of tensors, got %s", who,
                       gs->n < 0 ? "a negative length" : "NULL");
    for (int i = 0; i < gs->n; i++) {
        if (!gs->tensors[i])
            return ek_fail(EK_ERR_ARGUMENT, "%s: tensor %d is NULL", who, i);
        if (gs->tensors[i]->tape)
            return ek_fail(EK_ERR_STATE, "%s: expected leaves, but tensor %d %s belongs to a tape", who, i,
                           EK_TEXT(gs->tensors[i]->shape));
    }
    return EK_OK;
}

double ek_gradient_norm(const ek_optimizer *optimizer)
{
    return sqrt(run(&(gradients){.optimizer = optimizer}, SUM_SQUARES, 0));
}

double ek_clip_coefficient(double norm, double max_norm)
{
    const double coefficient = max_norm / (norm + 1e-6);
    return max_norm < INFINITY && !(coefficient >= 1) ? coefficient : 1; /* NaN is passed on to the gradients */
}

static ek_status check_max_norm(const char *who, double max_norm)
{
    if (max_norm >= 0)
        return EK_OK;
    return ek_fail(EK_ERR_ARGUMENT, "%s: expected max_norm of 0 or more, got %g", who, max_norm);
}

static ek_status clip_norm(const gradients *gs, double max_norm, double *total_norm)
{
    if (check_max_norm("clip_grad_norm", max_norm) != EK_OK)
        return EK_ERR_ARGUMENT;
    const double norm = sqrt(run(gs, SUM_SQUARES, 0)), coefficient = ek_clip_coefficient(norm, max_norm);
    if (coefficient != 1)
        run(gs, SCALE, coefficient);
    if (total_norm)
        *total_norm = norm;
    return EK_OK;
}

static ek_status clip_value(const gradients *gs, double limit)
{
    if (!(limit >= 0))
        return ek_fail(EK_ERR_ARGUMENT, "clip_grad_value: expected a limit of 0 or more, got %g", limit);
    run(gs, CLAMP, limit);
    return EK_OK;
}

ek_status ek_clip_grad_norm(ek_optimizer *optimizer, double max_norm, double *total_norm)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "clip_grad_norm: the optimizer is NULL");
    return clip_norm(&(gradients){.optimizer = optimizer}, max_norm, total_norm);
}

ek_status ek_clip_grad_norm_tensors(ek_tensor *const *tensors, int n, double max_norm, double *total_norm)
{
    gradients gs = {.tensors = tensors, .n = n};
    ek_status status = check_list("clip_grad_norm", &gs);
    return status == EK_OK ? clip_norm(&gs, max_norm, total_norm) : status;
}

ek_status ek_optimizer_set_max_norm(ek_optimizer *optimizer, double max_norm)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "optimizer_set_max_norm: the optimizer is NULL");
    if (check_max_norm("optimizer_set_max_norm", max_norm) != EK_OK)
        return EK_ERR_ARGUMENT;
    optimizer->max_norm = max_norm;
    return EK_OK;
}

double ek_optimizer_grad_norm(const ek_optimizer *optimizer)
{
    return optimizer ? optimizer->grad_norm : NAN;
}

ek_status ek_clip_grad_value(ek_optimizer *optimizer, double limit)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "clip_grad_value: the optimizer is NULL");
    return clip_value(&(gradients){.optimizer = optimizer}, limit);
}

ek_status ek_clip_grad_value_tensors(ek_tensor *const *tensors, int n, double limit)
{
    gradients gs = {.tensors = tensors, .n = n};
    ek_status status = check_list("clip_grad_value", &gs);
    return status == EK_OK ? clip_value(&gs, limit) : status;
}
#endif
