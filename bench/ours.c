/* Evenkeel's side of a comparison: steps through the public API, as a user's program takes them. */
#include "ours.h"

static const ours_kind *const kinds[] = {&ours_norm, &ours_conv, &ours_gemm, &ours_train};
static const ours_kind *now_running;

void ours_need(bool done)
{
    if (!done)
        bench_die("ours", ek_last_error());
}

ek_tensor *ours_tensor(ek_shape shape, bool is_dy)
{
    ek_tensor *t = ek_zeros(EK_F32, shape);
    ours_need(t != NULL);
    bench_fill(ek_data_f32(t), ek_tensor_numel(t), is_dy);
    return t;
}

double ours_mean_absolute(const ek_tensor *t)
{
    return bench_mean_absolute(ek_tensor_const_data(t), ek_tensor_numel(t));
}

static const char *about(void)
{
    return ek_build_info();
}

static bool prepare(const bench_case *c)
{
    if (now_running)
        now_running->discard();
    now_running = NULL;
    ek_clear_error();
    ours_need(ek_set_num_threads(c->threads) == EK_OK);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && !now_running; i++) {
        if (kinds[i]->prepare(c))
            now_running = kinds[i];
        ours_need(ek_last_status() == EK_OK);
    }
    return now_running;
}

static void step(void)
{
    now_running->step();
}

static void check(double *a, double *b)
{
    now_running->check(a, b);
}

int main(void)
{
    return bench_serve(&(bench_worker){about, prepare, step, check, NULL});
}
