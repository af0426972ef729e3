#include "support_layers.h"

ek_tensor *f32(ek_shape shape, const float *values)
{
    ek_tensor *x = ek_from_array(EK_F32, shape, values);
    ck_made(x);
    return x;
}

ek_tensor *normal(ek_dtype dtype, ek_shape shape, double mean, double std, uint64_t seed)
{
    ek_rng rng = ek_rng_seed(seed);
    ek_tensor *x = ek_normal(dtype, shape, mean, std, &rng);
    ck_made(x);
    return x;
}

ek_tensor *apply_layer(ek_module *module, ek_tensor *x)
{
    ek_tape *t = ek_tape_new();
    ek_tensor *y = ek_forward(module, t, x);
    ck_made(y);
    y = ek_tensor_clone(y);
    ck_made(y);
    ek_tape_free(t);
    return y;
}

void feed(ek_module *module, ek_tensor *x)
{
    ek_tensor_free(apply_layer(module, x));
}

ek_norm_report *report_on(ek_module *net, ek_tensor *x)
{
    ek_norm_report *report = ek_norm_report_new(net, x, NULL);
    ck_made(report);
    return report;
}

typedef struct state_copy {
    int64_t n;
    double *values; /* NULL: only counting */
} state_copy;

static ek_status collect(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    state_copy *copy = user;
    (void)name;
    (void)kind;
    for (int64_t i = 0; i < ek_tensor_numel(tensor); i++, copy->n++)
        if (copy->values)
            copy->values[copy->n] = ek_tensor_at(tensor, i);
    return EK_OK;
}

ek_tensor *copy_state(ek_module *module)
{
    state_copy copy = {0, NULL};
    ck_ok(ek_module_visit(module, collect, &copy));
    ek_tensor *state = ek_zeros(EK_F64, EK_SHAPE(copy.n));
    ck_made(state);
    copy = (state_copy){0, ek_data_f64(state)};
    ck_ok(ek_module_visit(module, collect, &copy));
    return state;
}

void assert_state(const char *what, ek_module *module, const ek_tensor *before)
{
    ek_tensor *now = copy_state(module);
    ck_assert_msg(ek_tensor_equal(now, before), "%s: parameters or buffers of %s moved", what,
                  ek_module_describe(module));
    ek_tensor_free(now);
}

void assert_forward_fails(ek_status status, const char *text, ek_module *module, ek_tensor *x)
{
    ek_tensor *before = copy_state(module);
    ek_tape *t = ek_tape_new();
    ek_clear_error();
    ck_assert_msg(!ek_forward(module, t, x), "%s: expected a failure, «%s»", ek_module_describe(module), text);
    ck_error(status, text);
    ck_assert_int_eq(ek_tape_status(t), status);
    ek_tape_free(t);
    assert_state(text, module, before);
    ek_tensor_free(before);
}

static ek_status draw(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    ek_rng rng = ek_rng_named(*(uint64_t *)user, name);
    if (kind != EK_PARAMETER)
        return EK_OK;
    ek_tensor *values = ek_uniform(EK_F64, ek_tensor_shape(tensor), 0.3, 1.7, &rng);
    for (int64_t i = 0; i < ek_tensor_numel(values); i++)
        if (ek_rng_u64(&rng) & 1)
            ek_data_f64(values)[i] *= -1;
    ek_tensor *cast = ek_tensor_cast(values, ek_tensor_dtype(tensor));
    ek_status status = ek_tensor_write(tensor, ek_tensor_data(cast),
                                       (size_t)ek_tensor_numel(cast) * ek_dtype_size(ek_tensor_dtype(cast)));
    ek_tensor_free(values);
    ek_tensor_free(cast);
    return status;
}

void draw_parameters(ek_module *module, uint64_t seed)
{
    ck_ok(ek_module_visit(module, draw, &seed));
}

double state_at(ek_module *module, const char *name, int64_t i)
{
    ek_tensor *t = ek_module_buffer(module, name);
    t = t ? t : ek_module_parameter(module, name);
    ck_assert_msg(t != NULL, "%s has no \"%s\"", ek_module_describe(module), name);
    return ek_tensor_at(t, i);
}
