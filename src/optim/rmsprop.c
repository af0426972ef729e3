/* RMSprop.  Expands to rmsprop_update_f32 and rmsprop_update_f64. */
#ifdef REAL

/* g = dL/dθ + λθ;  v ← α·v + (1 − α)·g²;  centered: a ← α·a + (1 − α)·g, s = v − a², else s = v;  d = g/(√s + eps);
 * with momentum b ← μ·b + d and θ ← θ − lr·b, else θ ← θ − lr·d.
 * parameter, gradient, v, b, a: elements begin … end−1. */
EK_KERNEL static void FN(rmsprop_update)(const ek_update *u, int64_t begin, int64_t end)
{
    const ek_rmsprop_opts *o = &u->optimizer->opts.rmsprop;
    REAL *restrict parameter = u->parameter;
    const REAL *restrict gradient = u->gradient;
    REAL *restrict v = u->state[0], *restrict b = u->state[1], *restrict a = u->state[2];
    REAL lr = (REAL)u->lr, decay = (REAL)u->weight_decay, momentum = (REAL)o->momentum, eps = (REAL)o->eps;
    REAL scale = (REAL)u->gradient_scale, keep = (REAL)o->alpha, take = (REAL)(1 - o->alpha);
    for (int64_t i = begin; i < end; i++) {
        REAL g = scale * gradient[i] + decay * parameter[i];
        REAL s, d;
        s = v[i] = keep * v[i] + take * g * g;
        if (a) { /* both conditions are the same for all i: the compiler makes loops of them */
            a[i] = keep * a[i] + take * g;
            s -= a[i] * a[i];
            s = s < 0 ? 0 : s; /* a variance: below 0 by rounding alone, where the gradient is constant */
        }
        d = g / (MATH(sqrt)(s) + eps);
        if (b)
            d = b[i] = momentum * b[i] + d;
        parameter[i] -= lr * d;
    }
}

#else
#include "optimizer.h"
#define OP_FILE "rmsprop.c"
#include "foreach_real.h"

static const ek_optimizer_kind rmsprop = {.name = "rmsprop",
                                          .state_name = {"square_avg", "momentum_buffer", "grad_avg"},
                                          .update = EK_BY_DTYPE(rmsprop_update)};

ek_rmsprop_opts ek_rmsprop_opts_default(void)
{
    return (ek_rmsprop_opts){.alpha = 0.99, .eps = 1e-8, .weight_decay = 0, .momentum = 0, .centered = false,
                             .decay_norms_and_biases = true};
}

static ek_optimizer *make(double lr, const ek_rmsprop_opts *opts)
{
    ek_rmsprop_opts o = opts ? *opts : ek_rmsprop_opts_default();
    if (ek_check_option("rmsprop", "alpha", o.alpha, 0, 1) != EK_OK ||
        ek_check_option("rmsprop", "eps", o.eps, 0, INFINITY) != EK_OK ||
        ek_check_option("rmsprop", "momentum", o.momentum, 0, INFINITY) != EK_OK)
        return NULL;
    ek_group_opts defaults = {.lr = lr, .weight_decay = o.weight_decay};
    ek_optimizer *optimizer = ek_optimizer_new(&rmsprop, defaults, o.decay_norms_and_biases);
    if (!optimizer)
        return NULL;
    optimizer->opts.rmsprop = o;
    optimizer->has_state[0] = true;
    optimizer->has_state[1] = o.momentum != 0;
    optimizer->has_state[2] = o.centered;
    return optimizer;
}

ek_optimizer *ek_rmsprop(ek_module *module, double lr, const ek_rmsprop_opts *opts)
{
    return ek_optimizer_with_module(make(lr, opts), module);
}

ek_optimizer *ek_rmsprop_tensors(ek_tensor *const *tensors, int n, double lr, const ek_rmsprop_opts *opts)
{
    return ek_optimizer_with_tensors(make(lr, opts), tensors, n);
}
#endif
