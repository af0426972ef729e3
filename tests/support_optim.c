#include "support_optim.h"

ek_tensor *normal_leaf(ek_dtype dtype, int64_t n, uint64_t seed)
{
    ek_rng rng = ek_rng_seed(seed);
    ek_tensor *t = ek_normal(dtype, EK_SHAPE(n), 0, 1, &rng);
    ck_made(t);
    ck_ok(ek_tensor_set_requires_grad(t, true));
    return t;
}

void fill_gradient(ek_tensor *t, double value)
{
    ck_ok(ek_tensor_need_grad_buffer(t));
    for (int64_t i = 0; i < t->numel; i++)
        if (t->dtype == EK_F32)
            ((float *)t->grad_data)[i] = (float)value;
        else
            ((double *)t->grad_data)[i] = value;
    t->has_grad = true;
}
