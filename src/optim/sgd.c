/* Stochastic gradient descent.  Expands to sgd_update_f32 and sgd_update_f64. */
#ifdef REAL

/* g = dL/dθ + λθ;  b ← μ·b + (1 − dampening)·g, the first time b ← g;  θ ← θ − lr·b, with Nesterov θ − lr·(g + μ·b).
 * parameter, gradient, momentum_buffer: elements begin … end−1. */
EK_KERNEL static void FN(sgd_update)(const ek_update *u, int64_t begin, int64_t end)
{
    const ek_sgd_opts *o = &u->optimizer->opts.sgd;
    REAL *restrict parameter = u->parameter;
    const REAL *restrict gradient = u->gradient;
    REAL *restrict buffer = u->state[0];
    REAL lr = (REAL)u->lr, decay = (REAL)u->weight_decay, momentum = (REAL)o->momentum;
    REAL scale = (REAL)u->gradient_scale;
    bool nesterov = o->nesterov;
    REAL keep = u->step == 1 ? 0 : momentum, take = u->step == 1 ? 1 : (REAL)(1 - o->dampening);
    for (int64_t i = begin; i < end; i++) {
        REAL g = scale * gradient[i] + decay * parameter[i], d = g;
        if (buffer) { /* the same for all i, as is nesterov: the compiler makes loops of them */
            d = buffer[i] = keep * buffer[i] + take * g;
            if (nesterov)
                d = g + momentum * d;
        }
        parameter[i] -= lr * d;
    }
}

#else
#include "optimizer.h"
#define OP_FILE "sgd.c"
#include "foreach_real.h"

static const ek_optimizer_kind sgd = {
    .name = "sgd", .state_name = {"momentum_buffer"}, .update = EK_BY_DTYPE(sgd_update)};

ek_sgd_opts ek_sgd_opts_default(void)
{
    return (ek_sgd_opts){.momentum = 0, .dampening = 0, .weight_decay = 0, .nesterov = false,
                         .decay_norms_and_biases = true};
}

static ek_optimizer *make(double lr, const ek_sgd_opts *opts)
{
    ek_sgd_opts o = opts ? *opts : ek_sgd_opts_default();
    if (ek_check_option("sgd", "momentum", o.momentum, 0, INFINITY) != EK_OK ||
        ek_check_option("sgd", "dampening", o.dampening, -INFINITY, INFINITY) != EK_OK)
        return NULL;
    if (o.nesterov && (o.momentum == 0 || o.dampening != 0)) {
        ek_fail(EK_ERR_ARGUMENT, "sgd: nesterov needs momentum > 0 and dampening = 0, got momentum %g, dampening %g",
                o.momentum, o.dampening);
        return NULL;
    }
    ek_group_opts defaults = {.lr = lr, .weight_decay = o.weight_decay};
    ek_optimizer *optimizer = ek_optimizer_new(&sgd, defaults, o.decay_norms_and_biases);
    if (!optimizer)
        return NULL;
    optimizer->opts.sgd = o;
    optimizer->has_state[0] = o.momentum != 0;
    return optimizer;
}

ek_optimizer *ek_sgd(ek_module *module, double lr, const ek_sgd_opts *opts)
{
    return ek_optimizer_with_module(make(lr, opts), module);
}

ek_optimizer *ek_sgd_tensors(ek_tensor *const *tensors, int n, double lr, const ek_sgd_opts *opts)
{
    return ek_optimizer_with_tensors(make(lr, opts), tensors, n);
}
#endif
