/* The norms of bench/norm.cases. */
#include <stdlib.h>
#include <string.h>

#include "norm_layer.h"
#include "ours.h"

static struct {
    ek_module *layer;
    ek_tape *tape;
    ek_tensor *x, *dy;
    bool train;
} now_running;

static void discard(void)
{
    ek_module_free(now_running.layer);
    ek_tape_free(now_running.tape);
    ek_tensor_free(now_running.x);
    ek_tensor_free(now_running.dy);
    memset(&now_running, 0, sizeof now_running);
}

static bool prepare(const bench_case *c)
{
    ek_module *norm = c->ndim ? bench_norm(c) : NULL;
    if (!norm)
        return false;
    now_running.layer = c->relu ? ek_sequential(norm, ek_relu_layer()) : norm;
    now_running.tape = ek_tape_new();
    now_running.x = ours_tensor(bench_shape(c), false);
    now_running.dy = ours_tensor(bench_shape(c), true);
    now_running.train = c->train;
    ours_need(now_running.layer && now_running.tape && ek_tensor_set_requires_grad(now_running.x, true) == EK_OK);
    return true;
}

/* Forward in training mode on a tape that records, then the gradients of x, γ and β from dL/dy. */
static ek_tensor *forward_backward(void)
{
    ek_tensor *y = ek_forward(now_running.layer, now_running.tape, now_running.x);
    ours_need(y && (!now_running.train || ek_backward_from(now_running.tape, y, now_running.dy) == EK_OK));
    return y;
}

static void next_step(void)
{
    ek_tensor_clear_grad(now_running.x);
    ek_module_clear_grad(now_running.layer);
    ek_tape_reset(now_running.tape);
}

static void step(void)
{
    forward_backward();
    next_step();
}

static void check(double *a, double *b)
{
    ek_tensor *y = forward_backward();
    *a = ours_mean_absolute(y);
    if (now_running.train)
        *b = ours_mean_absolute(ek_tensor_grad(now_running.x));
    next_step();
}

const ours_kind ours_norm = {prepare, step, check, discard};
