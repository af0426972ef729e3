/* Evenkeel's side of a comparison: steps through the public API, as a user's program takes them. */
#include <evenkeel/evenkeel.h>
#include <stdlib.h>
#include <string.h>

#include "norm_layer.h"
#include "worker.h"

static struct {
    ek_module *layer;
    ek_tape *tape;
    ek_tensor *x, *dy;
    bool train;
} now_running;

static void need(bool done)
{
    if (!done)
        bench_die("ours", ek_last_error());
}

static const char *about(void)
{
    return ek_build_info();
}

static ek_tensor *make_tensor(const bench_case *c, bool is_dy)
{
    ek_tensor *t = ek_zeros(EK_F32, bench_shape(c));
    need(t != NULL);
    bench_fill(ek_data_f32(t), c->numel, is_dy);
    return t;
}

static bool prepare(const bench_case *c)
{
    ek_module_free(now_running.layer);
    ek_tape_free(now_running.tape);
    ek_tensor_free(now_running.x);
    ek_tensor_free(now_running.dy);
    memset(&now_running, 0, sizeof now_running);
    ek_clear_error();
    ek_module *norm = c->ndim ? bench_norm(c) : NULL;
    if (!norm) {
        need(ek_last_status() == EK_OK);
        return false;
    }
    now_running.layer = c->relu ? ek_sequential(norm, ek_relu_layer()) : norm;
    now_running.tape = ek_tape_new();
    now_running.x = make_tensor(c, false);
    now_running.dy = make_tensor(c, true);
    now_running.train = c->train;
    need(now_running.layer && now_running.tape &&
         ek_tensor_set_requires_grad(now_running.x, true) == EK_OK && ek_set_num_threads(c->threads) == EK_OK);
    return true;
}

/* Forward in training mode on a tape that records, then the gradients of x, γ and β from dL/dy. */
static ek_tensor *forward_backward(void)
{
    ek_tensor *y = ek_forward(now_running.layer, now_running.tape, now_running.x);
    need(y && (!now_running.train || ek_backward_from(now_running.tape, y, now_running.dy) == EK_OK));
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
    const int64_t n = ek_tensor_numel(y);
    *a = bench_mean_absolute(ek_tensor_const_data(y), n);
    if (now_running.train)
        *b = bench_mean_absolute(ek_tensor_const_data(ek_tensor_grad(now_running.x)), n);
    next_step();
}

int main(void)
{
    return bench_serve(&(bench_worker){about, prepare, step, check});
}
