/* Backward against central differences. */
#include "op.h"

ek_gradcheck_opts ek_gradcheck_opts_default(void)
{
    return (ek_gradcheck_opts){.step = 1e-3, .tolerance = 1e-7, .seed = 0, .max_elements = 0};
}

typedef struct checker {
    ek_gradcheck_fn fn;
    void *user;
    ek_tensor *const *inputs;
    int n_inputs;
    ek_tape *tape;
    ek_tensor *cotangent;
} checker;

static ek_status check_arguments(const checker *c, const ek_gradcheck_opts *opts)
{
    if (!c->fn || !c->inputs || c->n_inputs < 1)
        return ek_fail(EK_ERR_ARGUMENT, "gradcheck: expected a function and at least one input");
    if (!(opts->step > 0) || !(opts->tolerance >= 0) || opts->max_elements < 0)
        return ek_fail(EK_ERR_ARGUMENT, "gradcheck: expected step > 0, tolerance ≥ 0 and max_elements ≥ 0, got %g, %g "
                                        "and %lld", opts->step, opts->tolerance, (long long)opts->max_elements);
    bool any = false;
    for (int i = 0; i < c->n_inputs; i++) {
        const ek_tensor *x = c->inputs[i];
        if (!x)
            return ek_fail(EK_ERR_ARGUMENT, "gradcheck: input %d is NULL", i);
        if (x->dtype == EK_F32)
            return ek_fail(EK_ERR_DTYPE, "gradcheck: expected float64 for input %d, got float32, whose differences are "
                                         "rounding; ek_tensor_cast() or ek_module_to() converts", i);
        any |= x->requires_grad;
    }
    return any ? EK_OK
               : ek_fail(EK_ERR_ARGUMENT, "gradcheck: no input requires a gradient; ek_tensor_set_requires_grad()");
}

/* f(inputs) on a fresh tape; float64, or NULL after ek_fail. */
static ek_tensor *run(const checker *c, bool recording)
{
    ek_tape_reset(c->tape);
    if (ek_tape_set_recording(c->tape, recording) != EK_OK)
        return NULL;
    const uint64_t errors = ek_error_count();
    ek_tensor *y = c->fn(c->tape, c->inputs, c->user);
    if (!y && ek_error_count() == errors)
        ek_fail(EK_ERR_ARGUMENT, "gradcheck: the function returned NULL");
    if (y && y->dtype != EK_F64) {
        ek_fail(EK_ERR_DTYPE, "gradcheck: expected a float64 result, got %s", ek_dtype_name(y->dtype));
        return NULL;
    }
    return y;
}

/* L = Σ c·f(inputs); the sum is kept in long double, so that it adds no rounding to that of f. */
static ek_status loss(const checker *c, long double *value)
{
    const ek_tensor *y = run(c, false);
    if (!y)
        return ek_last_status();
    if (!ek_shape_equal(y->shape, c->cotangent->shape))
        return ek_fail(EK_ERR_SHAPE, "gradcheck: the function's result changed its shape from %s to %s",
                       EK_TEXT(c->cotangent->shape), EK_TEXT(y->shape));
    const double *f = y->data, *weight = c->cotangent->data;
    long double sum = 0;
    for (int64_t i = 0; i < y->numel; i++)
        sum += (long double)weight[i] * f[i];
    *value = sum;
    return EK_OK;
}

/* dL/dx[index] by the five-point rule, whose error is h⁴·L⁽⁵⁾/30.  x[index] is put back. */
static ek_status difference(const checker *c, ek_tensor *x, int64_t index, double step, double *derivative)
{
    static const double offset[4] = {-2, -1, 1, 2}, weight[4] = {1, -8, 8, -1};
    double *place = (double *)x->data + index;
    const double original = *place, h = step * fmax(1, fabs(original));
    long double sum = 0;
    ek_status status = EK_OK;
    for (int k = 0; k < 4 && status == EK_OK; k++) {
        long double value = 0;
        *place = original + offset[k] * h;
        status = loss(c, &value);
        sum += weight[k] * value;
    }
    *place = original;
    *derivative = (double)(sum / (12 * (long double)h));
    return status;
}

/* Leaves that fn uses beside the inputs, parameters of a module say, are not to gather gradients here: a tensor without
 * history takes their place on the tape. */
static ek_status shield_other_leaves(const checker *c)
{
    for (ek_record *record = c->tape->last; record; record = record->previous)
        for (int i = 0; i < record->node.n_in; i++) {
            ek_tensor *x = record->node.in[i];
            bool checked = false;
            for (int k = 0; k < c->n_inputs; k++)
                checked |= c->inputs[k] == x;
            if (!x || x->tape || !x->requires_grad || checked)
                continue;
            record->node.in[i] = ek_detach(c->tape, x);
            if (!record->node.in[i])
                return EK_ERR_MEMORY;
        }
    return EK_OK;
}

/* Differentiates once with backward: leaves the gradients in the inputs. */
static ek_status analytic(checker *c, uint64_t seed)
{
    for (int i = 0; i < c->n_inputs; i++)
        ek_tensor_clear_grad(c->inputs[i]);
    ek_tensor *y = run(c, true);
    if (!y)
        return ek_last_status();
    ek_rng rng = ek_rng_seed(seed);
    c->cotangent = ek_normal(EK_F64, y->shape, 0, 1, &rng);
    if (!c->cotangent || shield_other_leaves(c) != EK_OK)
        return EK_ERR_MEMORY;
    return ek_backward_from(c->tape, y, c->cotangent);
}

static ek_status compare(const checker *c, const ek_gradcheck_opts *opts, ek_gradcheck_result *result)
{
    double worst = 0, largest = 1;
    for (int i = 0; i < c->n_inputs; i++) {
        ek_tensor *x = c->inputs[i];
        if (!x->requires_grad)
            continue;
        int64_t n = opts->max_elements && opts->max_elements < x->numel ? opts->max_elements : x->numel;
        for (int64_t k = 0; k < n; k++) {
            int64_t index = n == x->numel ? k : (int64_t)((double)k / (double)n * (double)x->numel);
            double numeric, exact = x->has_grad ? ((const double *)x->grad_data)[index] : 0;
            ek_status status = difference(c, x, index, opts->step, &numeric);
            if (status != EK_OK)
                return status;
            double gap = fabs(exact - numeric);
            largest = fmax(largest, fabs(numeric));
            result->checked++;
            if (!(gap <= worst)) { /* NaN is the worst of all */
                worst = isnan(gap) ? INFINITY : gap;
                result->worst_input = i;
                result->worst_index = index;
                result->analytic = exact;
                result->numeric = numeric;
            }
        }
    }
    result->error = worst / largest;
    if (result->error <= opts->tolerance)
        return EK_OK;
    return ek_fail(EK_ERR_ARGUMENT,
                   "gradcheck: relative error %.3g is above %.3g: input %d, element %lld: backward gives "
                   "%.12g, differences give %.12g",
                   result->error, opts->tolerance, result->worst_input, (long long)result->worst_index,
                   result->analytic, result->numeric);
}

ek_status ek_gradcheck(ek_gradcheck_fn fn, void *user, ek_tensor *const *inputs, int n_inputs,
                       const ek_gradcheck_opts *opts, ek_gradcheck_result *result)
{
    ek_gradcheck_opts defaults = ek_gradcheck_opts_default();
    ek_gradcheck_result unused;
    checker c = {.fn = fn, .user = user, .inputs = inputs, .n_inputs = n_inputs};
    opts = opts ? opts : &defaults;
    result = result ? result : &unused;
    memset(result, 0, sizeof *result);
    ek_status status = check_arguments(&c, opts);
    if (status != EK_OK)
        return status;
    c.tape = ek_tape_new();
    if (!c.tape)
        return EK_ERR_MEMORY;
    c.tape->leaves_modules_alone = true;
    ek_clear_error();
    status = analytic(&c, opts->seed);
    if (status == EK_OK)
        status = compare(&c, opts, result);
    for (int i = 0; i < n_inputs; i++)
        ek_tensor_clear_grad(inputs[i]);
    ek_tensor_free(c.cotangent);
    ek_tape_free(c.tape);
    return status;
}
