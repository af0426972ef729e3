/* Adam and AdamW.  Expands to adam_update_f32 and adam_update_f64. */
#ifdef REAL

/* Adam: g = dL/dθ + λθ.  AdamW: θ ← θ·(1 − lr·λ), g = dL/dθ.  Then
 *   m ← β1·m + (1 − β1)·g;  v ← β2·v + (1 − β2)·g²;  w = v, with amsgrad the largest v so far;
 *   θ ← θ − lr/(1 − β1ᵗ) · m/(√w/√(1 − β2ᵗ) + eps).
 * Kingma and Ba 2015, algorithm 1, with eps where torch.optim has it.  parameter, gradient, m, v, v_max: elements
 * begin … end−1. */
EK_KERNEL static void FN(adam_update)(const ek_update *u, int64_t begin, int64_t end)
{
    const ek_adam_opts *o = &u->optimizer->opts.adam;
    bool decoupled = u->optimizer->kind == &adamw;
    REAL *restrict parameter = u->parameter;
    const REAL *restrict gradient = u->gradient;
    REAL *restrict m = u->state[0], *restrict v = u->state[1], *restrict v_max = u->state[2];
    REAL scale = (REAL)u->gradient_scale, step_size = (REAL)u->factor[0], unbias = (REAL)u->factor[1];
    REAL keep_m = (REAL)o->betas[0], take_m = (REAL)(1 - o->betas[0]);
    REAL keep_v = (REAL)o->betas[1], take_v = (REAL)(1 - o->betas[1]);
    REAL eps = (REAL)o->eps;
    REAL decay = decoupled ? 0 : (REAL)u->weight_decay;
    REAL shrink = decoupled ? (REAL)(1 - u->lr * u->weight_decay) : 1;
    for (int64_t i = begin; i < end; i++) {
        REAL theta = parameter[i] * shrink;
        REAL g = scale * gradient[i] + decay * theta;
        REAL w;
        m[i] = keep_m * m[i] + take_m * g;
        w = v[i] = keep_v * v[i] + take_v * g * g;
        if (v_max) /* the compiler makes two loops of it */
            w = v_max[i] = v_max[i] > w ? v_max[i] : w;
        parameter[i] = theta - step_size * m[i] / (MATH(sqrt)(w) * unbias + eps);
    }
}

#else
#include "optimizer.h"

static const ek_optimizer_kind adamw;

/* lr/(1 − β1ᵗ) and 1/√(1 − β2ᵗ). */
static void prepare(ek_update *u)
{
    const ek_adam_opts *o = &u->optimizer->opts.adam;
    u->factor[0] = u->lr / (1 - pow(o->betas[0], (double)u->step));
    u->factor[1] = 1 / sqrt(1 - pow(o->betas[1], (double)u->step));
}

#define OP_FILE "adam.c"
#include "foreach_real.h"

#define STATE_NAMES {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
static const ek_optimizer_kind adam = {
    .name = "adam", .state_name = STATE_NAMES, .prepare = prepare, .update = EK_BY_DTYPE(adam_update)};
static const ek_optimizer_kind adamw = {
    .name = "adamw", .state_name = STATE_NAMES, .prepare = prepare, .update = EK_BY_DTYPE(adam_update)};

ek_adam_opts ek_adam_opts_default(void)
{
    return (ek_adam_opts){.betas = {0.9, 0.999}, .eps = 1e-8, .weight_decay = 0, .amsgrad = false,
                          .decay_norms_and_biases = true};
}

ek_adamw_opts ek_adamw_opts_default(void)
{
    ek_adamw_opts o = ek_adam_opts_default();
    o.weight_decay = 0.01;
    return o;
}

static ek_optimizer *make(const ek_optimizer_kind *kind, double lr, ek_adam_opts o)
{
    if (ek_check_option(kind->name, "betas[0]", o.betas[0], 0, 1) != EK_OK ||
        ek_check_option(kind->name, "betas[1]", o.betas[1], 0, 1) != EK_OK ||
        ek_check_option(kind->name, "eps", o.eps, 0, INFINITY) != EK_OK)
        return NULL;
    ek_group_opts defaults = {.lr = lr, .weight_decay = o.weight_decay};
    ek_optimizer *optimizer = ek_optimizer_new(kind, defaults, o.decay_norms_and_biases);
    if (!optimizer)
        return NULL;
    optimizer->opts.adam = o;
    optimizer->has_state[0] = optimizer->has_state[1] = true;
    optimizer->has_state[2] = o.amsgrad;
    return optimizer;
}

ek_optimizer *ek_adam(ek_module *module, double lr, const ek_adam_opts *opts)
{
    return ek_optimizer_with_module(make(&adam, lr, opts ? *opts : ek_adam_opts_default()), module);
}

ek_optimizer *ek_adam_tensors(ek_tensor *const *tensors, int n, double lr, const ek_adam_opts *opts)
{
    return ek_optimizer_with_tensors(make(&adam, lr, opts ? *opts : ek_adam_opts_default()), tensors, n);
}

ek_optimizer *ek_adamw(ek_module *module, double lr, const ek_adamw_opts *opts)
{
    return ek_optimizer_with_module(make(&adamw, lr, opts ? *opts : ek_adamw_opts_default()), module);
}

ek_optimizer *ek_adamw_tensors(ek_tensor *const *tensors, int n, double lr, const ek_adamw_opts *opts)
{
    return ek_optimizer_with_tensors(make(&adamw, lr, opts ? *opts : ek_adamw_opts_default()), tensors, n);
}
#endif
