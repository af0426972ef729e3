/* Gradient clipping.  Expands to sum_of_squares, scale and clamp for both float types. */
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

static void FN(square_range)(void *context, int64_t begin, int64_t end)
{
    const clip_pass *pass = context;
    pass->partial[begin / pass->grain] = FN(sum_of_squares)(end - begin, (const REAL *)pass->gradient + begin);
}

static void FN(scale_range)(void *context, int64_t begin, int64_t end)
{
    const clip_pass *pass = context;
    FN(scale)(end - begin, (REAL *)pass->gradient + begin, pass->number);
}

static void FN(clamp_range)(void *context, int64_t begin, int64_t end)
{
    const clip_pass *pass = context;
    FN(clamp)(end - begin, (REAL *)pass->gradient + begin, pass->number);
}

#else
#include "optimizer.h"

enum { MAX_CHUNKS = 64 };

/* One pass over one gradient. */
typedef struct clip_pass {
    void *gradient;
    double number;   /* to scale by, or to clamp at */
    int64_t grain;   /* depends on the number of elements alone */
    double *partial; /* [MAX_CHUNKS] sums by chunk: added up in their order, whichever thread made them */
} clip_pass;

#define OP_FILE "clip.c"
#include "foreach_real.h"

static const ek_range_body square_range[] = EK_BY_DTYPE(square_range);
static const ek_range_body scale_range[] = EK_BY_DTYPE(scale_range);
static const ek_range_body clamp_range[] = EK_BY_DTYPE(clamp_range);

/* The passes, in the form ek_optimizer_each_gradient calls; `user` is a double. */
static void add_squares(void *user, ek_tensor *tensor)
{
    double *sum = user, partial[MAX_CHUNKS];
    int64_t shortest = (tensor->numel + MAX_CHUNKS - 1) / MAX_CHUNKS;
    clip_pass pass = {.gradient = tensor->grad_data, .grain = shortest > EK_GRAIN ? shortest : EK_GRAIN,
                      .partial = partial};
    ek_parallel_for(tensor->numel, pass.grain, square_range[tensor->dtype], &pass);
    for (int64_t c = 0; c * pass.grain < tensor->numel; c++)
        *sum += partial[c];
}

static void scale_gradient(void *user, ek_tensor *tensor)
{
    clip_pass pass = {.gradient = tensor->grad_data, .number = *(const double *)user};
    ek_parallel_for(tensor->numel, EK_GRAIN, scale_range[tensor->dtype], &pass);
}

static void clamp_gradient(void *user, ek_tensor *tensor)
{
    clip_pass pass = {.gradient = tensor->grad_data, .number = *(const double *)user};
    ek_parallel_for(tensor->numel, EK_GRAIN, clamp_range[tensor->dtype], &pass);
}

/* Gradients of an optimizer, or of a list. */
typedef struct gradients {
    ek_optimizer *optimizer;
    ek_tensor *const *tensors;
    int n;
} gradients;

static void each(const gradients *gs, void (*visit)(void *user, ek_tensor *tensor), void *user)
{
    if (gs->optimizer)
        ek_optimizer_each_gradient(gs->optimizer, visit, user);
    for (int i = 0; i < gs->n; i++)
        if (gs->tensors[i]->has_grad)
            visit(user, gs->tensors[i]);
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

static ek_status clip_norm(const gradients *gs, double max_norm, double *total_norm)
{
    if (!(max_norm >= 0))
        return ek_fail(EK_ERR_ARGUMENT, "clip_grad_norm: expected max_norm of 0 or more, got %g", max_norm);
    double sum = 0;
    each(gs, add_squares, &sum);
    double norm = sqrt(sum), coefficient = max_norm / (norm + 1e-6);
    if (max_norm < INFINITY && !(coefficient >= 1)) /* NaN is passed on to the gradients */
        each(gs, scale_gradient, &coefficient);
    if (total_norm)
        *total_norm = norm;
    return EK_OK;
}

static ek_status clip_value(const gradients *gs, double limit)
{
    if (!(limit >= 0))
        return ek_fail(EK_ERR_ARGUMENT, "clip_grad_value: expected a limit of 0 or more, got %g", limit);
    each(gs, clamp_gradient, &limit);
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
