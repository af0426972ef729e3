/* Convolutions alone, `conv IN_OUT_SIDE_bBATCH`: 3×3, padding 1; and products of matrices, `gemm MxNxK`. */
#include <stdio.h>
#include <string.h>

#include "ours.h"

static struct {
    ek_tape *tape;
    ek_tensor *x, *w, *b, *dy; /* of a product: x·w */
    bool train;
} now_running;

static void discard(void)
{
    ek_tape_free(now_running.tape);
    ek_tensor_free(now_running.x);
    ek_tensor_free(now_running.w);
    ek_tensor_free(now_running.b);
    ek_tensor_free(now_running.dy);
    memset(&now_running, 0, sizeof now_running);
}

/* ---- convolution ------------------------------------------------------------------------------------------------- */

static bool prepare_conv(const bench_case *c)
{
    long long in, out, side;
    if (strcmp(c->kind, "conv") != 0 || sscanf(c->size, "%lld_%lld_%lld", &in, &out, &side) != 3)
        return false;
    const int64_t batch = bench_size(c, 'b', 1);
    now_running.tape = ek_tape_new();
    now_running.x = ours_tensor(EK_SHAPE(batch, in, side, side), false);
    now_running.w = ours_tensor(EK_SHAPE(out, in, 3, 3), true);
    now_running.b = ours_tensor(EK_SHAPE(out), true);
    now_running.dy = ours_tensor(EK_SHAPE(batch, out, side, side), true);
    now_running.train = c->train;
    ours_need(now_running.tape && ek_tensor_set_requires_grad(now_running.x, true) == EK_OK &&
              ek_tensor_set_requires_grad(now_running.w, true) == EK_OK &&
              ek_tensor_set_requires_grad(now_running.b, true) == EK_OK);
    return true;
}

/* Forward on a tape that records, then the gradients of x, w and b from dL/dy. */
static ek_tensor *forward_backward(void)
{
    ek_conv_opts opts = ek_conv_opts_default();
    opts.padding[0] = opts.padding[1] = 1;
    ek_tensor *y = ek_conv2d(now_running.tape, now_running.x, now_running.w, now_running.b, &opts);
    ours_need(y && (!now_running.train || ek_backward_from(now_running.tape, y, now_running.dy) == EK_OK));
    return y;
}

static void next_step(void)
{
    ek_tensor_clear_grad(now_running.x);
    ek_tensor_clear_grad(now_running.w);
    ek_tensor_clear_grad(now_running.b);
    ek_tape_reset(now_running.tape);
}

static void step_conv(void)
{
    forward_backward();
    next_step();
}

static void check_conv(double *a, double *b)
{
    *a = ours_mean_absolute(forward_backward());
    if (now_running.train)
        *b = ours_mean_absolute(ek_tensor_grad(now_running.x)) * ours_mean_absolute(ek_tensor_grad(now_running.w)) *
             ours_mean_absolute(ek_tensor_grad(now_running.b));
    next_step();
}

const ours_kind ours_conv = {prepare_conv, step_conv, check_conv, discard};

/* ---- product of matrices ----------------------------------------------------------------------------------------- */

static bool prepare_gemm(const bench_case *c)
{
    if (strcmp(c->kind, "gemm") != 0 || c->ndim != 3)
        return false;
    now_running.tape = ek_tape_new();
    now_running.x = ours_tensor(EK_SHAPE(c->dim[0], c->dim[2]), false);
    now_running.w = ours_tensor(EK_SHAPE(c->dim[2], c->dim[1]), true);
    ours_need(now_running.tape != NULL);
    return true;
}

static void step_gemm(void)
{
    ours_need(ek_matmul(now_running.tape, now_running.x, now_running.w, false, false) != NULL);
    ek_tape_reset(now_running.tape);
}

static void check_gemm(double *a, double *b)
{
    ek_tensor *y = ek_matmul(now_running.tape, now_running.x, now_running.w, false, false);
    ours_need(y != NULL);
    *a = ours_mean_absolute(y);
    *b = 0;
    ek_tape_reset(now_running.tape);
}

const ours_kind ours_gemm = {prepare_gemm, step_gemm, check_gemm, discard};
