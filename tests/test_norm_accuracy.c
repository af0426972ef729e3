/* Layers on numbers that are hard, against long double: groups from 2 to many thousand elements, means far from 0,
 * outliers, scales whose squares float32 cannot hold, gradients of such scales; and what running statistics take. */
#include "support_layers.h"
#include "support_norms.h"

#include <float.h>

/* ---- shapes ------------------------------------------------------------------------------------------------------ */

/* Every way through the kernels that depends on sizes: rows and columns; groups of less than one piece of 4096
 * elements, one and several; groups walked one by one or in the order of memory; few groups and many. */
static const norm_case shapes[] = {
    {.kind = BATCH_NORM, .n = 2, .c = 5, .s = 1},
    {.kind = BATCH_NORM, .n = 3, .c = 70, .s = 1},
    {.kind = BATCH_NORM, .n = 12000, .c = 2, .s = 1},
    {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 5},
    {.kind = BATCH_NORM, .n = 3, .c = 2, .s = 5000},
    {.kind = BATCH_NORM, .n = 40, .c = 12, .s = 100},
    {.kind = LAYER_NORM, .n = 20, .c = 2, .s = 1},
    {.kind = LAYER_NORM, .n = 50, .c = 75, .s = 1},
    {.kind = LAYER_NORM, .n = 2, .c = 12000, .s = 1},
    {.kind = RMS_NORM, .n = 50, .c = 75, .s = 1},
    {.kind = RMS_NORM, .n = 2, .c = 12000, .s = 1},
    {.kind = INSTANCE_NORM, .n = 4, .c = 3, .s = 2},
    {.kind = INSTANCE_NORM, .n = 2, .c = 3, .s = 9000},
    {.kind = GROUP_NORM, .n = 3, .c = 6, .s = 1, .groups = 3},
    {.kind = GROUP_NORM, .n = 3, .c = 4, .s = 3000, .groups = 2},
    {.kind = SWITCHABLE_NORM, .n = 2, .c = 3, .s = 4500, .instance = true, .batch = true},
};
enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static norm_case shape_with(int i, double eps)
{
    norm_case c = shapes[i];
    c.eps = eps;
    c.weight = c.bias = true;
    return c;
}

static bool has_running(const norm_case *c)
{
    return c->kind == BATCH_NORM || c->kind == INSTANCE_NORM;
}

/* Running statistics are those of the last batch: momentum 1. */
static ek_module *layer_of(const norm_case *c, ek_dtype dtype)
{
    ek_module *layer = NULL;
    ek_batch_norm_opts channels = ek_batch_norm_opts_default();
    channels.eps = c->eps;
    channels.momentum = 1;
    ek_group_norm_opts groups = ek_group_norm_opts_default();
    groups.eps = c->eps;
    ek_layer_norm_opts rows = ek_layer_norm_opts_default();
    rows.eps = c->eps;
    ek_rms_norm_opts rms = ek_rms_norm_opts_default();
    rms.eps = c->eps;
    ek_switchable_norm_opts mixed = ek_switchable_norm_opts_default();
    mixed.eps = c->eps;
    switch (c->kind) {
    case BATCH_NORM: layer = ek_batch_norm1d(c->c, &channels); break;
    case INSTANCE_NORM: layer = ek_instance_norm1d(c->c, &channels); break;
    case GROUP_NORM: layer = ek_group_norm(c->groups, c->c, &groups); break;
    case LAYER_NORM: layer = ek_layer_norm(EK_SHAPE(c->c), &rows); break;
    case RMS_NORM: layer = ek_rms_norm(EK_SHAPE(c->c), &rms); break;
    case SWITCHABLE_NORM: layer = ek_switchable_norm_sequence(c->c, &mixed); break;
    case ANY_VIEWS: break;
    }
    ck_made(layer);
    ck_ok(ek_module_to(layer, dtype));
    return layer;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* x of mean·scale and deviation `scale`, dy of deviation dy_scale, all of them float32 numbers (so both types see the
 * same ones); γ and β around 1 and 0. */
static norm_inputs draw(const norm_case *c, double mean, double scale, double dy_scale, uint64_t seed)
{
    norm_inputs in = norm_inputs_new(c);
    ek_rng rng = ek_rng_seed(seed);
    ek_tensor *x = ek_normal(EK_F64, EK_SHAPE(norm_numel(c)), mean, 1, &rng);
    ek_tensor *dy = ek_normal(EK_F64, EK_SHAPE(norm_numel(c)), 0, 1, &rng);
    ek_tensor *affine = ek_normal(EK_F64, EK_SHAPE(2 * c->c), 0, 1, &rng);
    ck_assert(x && dy && affine);
    for (int64_t i = 0; i < norm_numel(c); i++) {
        in.x[i] = (double)(float)(ek_data_f64(x)[i] * scale);
        in.dy[i] = (double)(float)(ek_data_f64(dy)[i] * dy_scale);
    }
    for (int64_t i = 0; i < c->c; i++) {
        in.gamma[i] = (double)(float)(1 + 0.3 * ek_data_f64(affine)[2 * i]);
        in.beta[i] = (double)(float)ek_data_f64(affine)[2 * i + 1];
    }
    for (int i = 0; i < 3; i++)
        in.mean_logits[i] = in.var_logits[i] = 1; /* as the layer starts */
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_tensor_free(affine);
    return in;
}

static ek_tensor *tensor_of(ek_dtype dtype, ek_shape shape, const double *values)
{
    ek_tensor *wide = ek_from_array(EK_F64, shape, values), *t = ek_tensor_cast(wide, dtype);
    ck_made(t);
    ek_tensor_free(wide);
    return t;
}

static void set_parameter(ek_module *layer, const char *name, const double *values, int64_t n)
{
    ek_tensor *parameter = ek_module_parameter(layer, name);
    for (int64_t i = 0; parameter && i < n; i++) {
        if (ek_tensor_dtype(parameter) == EK_F32)
            ek_data_f32(parameter)[i] = (float)values[i];
        else
            ek_data_f64(parameter)[i] = values[i];
    }
}

typedef struct run {
    ek_module *layer;
    ek_tape *tape;
    ek_tensor *x, *dy, *y;
} run;

static run run_layer(const norm_case *c, const norm_inputs *in, ek_dtype dtype)
{
    const bool flat = c->s == 1;
    const ek_shape shape = flat ? EK_SHAPE(c->n, c->c) : EK_SHAPE(c->n, c->c, c->s);
    run r = {layer_of(c, dtype), ek_tape_new(), tensor_of(dtype, shape, in->x), tensor_of(dtype, shape, in->dy), NULL};
    set_parameter(r.layer, "weight", in->gamma, c->c);
    set_parameter(r.layer, "bias", in->beta, c->c);
    ck_ok(ek_tensor_set_requires_grad(r.x, true));
    r.y = ek_forward(r.layer, r.tape, r.x);
    ck_assert_msg(r.y != NULL, "%s: %s", norm_text(c), ek_last_error());
    ck_ok(ek_backward_from(r.tape, r.y, r.dy));
    return r;
}

static void free_run(run *r)
{
    ek_tape_free(r->tape);
    ek_tensor_free(r->x);
    ek_tensor_free(r->dy);
    ek_module_free(r->layer);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* The batch's statistics of channel k: mean and unbiased variance, of InstanceNorm their means over the samples. */
static void channel_statistics(const norm_case *c, const norm_outputs *out, int64_t k, double *mean, double *var)
{
    const int64_t samples = c->kind == INSTANCE_NORM ? c->n : 1, count = norm_numel(c) / norm_groups(c);
    *mean = *var = 0;
    for (int64_t i = 0; i < samples; i++) {
        *mean += out->mean[i * c->c + k] / (double)samples;
        *var += out->var[i * c->c + k] * ((double)count / (double)(count - 1)) / (double)samples;
    }
}

static void assert_near(const norm_case *c, const char *what, const ek_tensor *t, int64_t i, double expected,
                        double tolerance)
{
    ck_assert_msg(fabs(ek_tensor_at(t, i) - expected) <= tolerance, "%s: %s %s[%lld] is %.17g, expected %.17g ± %.3g",
                  norm_text(c), ek_tensor_dtype(t) == EK_F32 ? "f32" : "f64", what, (long long)i, ek_tensor_at(t, i),
                  expected, tolerance);
}

/* One rounding to the buffer's type, and in double sums of `terms` one after the other.  Those of a mean are off by
 * e = terms·2⁻⁵²·max |x|; the pieces of a group are joined by the difference of their means, so a variance is off by
 * 2·e·σ + e².  One taken in one pass over a piece around its first element is a difference of numbers up to 4096 times
 * as large (normalize_kernels.h). */
static void compare_running(const norm_case *c, const norm_inputs *in, const run *r, const norm_outputs *out)
{
    const int64_t count = norm_numel(c) / norm_groups(c);
    const ek_tensor *mean = ek_module_buffer(r->layer, "running_mean"),
                    *var = ek_module_buffer(r->layer, "running_var");
    const bool single = ek_tensor_dtype(mean) == EK_F32;
    const double unit = single ? FLT_EPSILON / 2 : DBL_EPSILON / 2, least = single ? 0x1p-149 : 0x1p-1074;
    const double terms = fmin((double)count, 128 + 5 + (double)count / 64) + 8;
    const double relative = 2 * unit + fmin((double)count, 4096) * terms * DBL_EPSILON;
    double largest = 0, expected_mean, expected_var;
    bool fits = true;
    for (int64_t i = 0; i < norm_numel(c); i++)
        largest = fmax(largest, fabs(in->x[i]));
    for (int64_t k = 0; k < c->c; k++) {
        channel_statistics(c, out, k, &expected_mean, &expected_var);
        fits &= !single || expected_var < FLT_MAX;
    }
    const double off = terms * DBL_EPSILON * largest;
    for (int64_t k = 0; k < c->c; k++) {
        channel_statistics(c, out, k, &expected_mean, &expected_var);
        if (!fits) { /* buffers that cannot hold the statistics of all channels are left as they were */
            assert_near(c, "running_mean", mean, k, 0, 0);
            assert_near(c, "running_var", var, k, 1, 0);
            continue;
        }
        assert_near(c, "running_mean", mean, k, expected_mean, 2 * unit * fabs(expected_mean) + off + least);
        assert_near(c, "running_var", var, k, expected_var,
                    relative * expected_var + 2 * off * sqrt(expected_var) + off * off + least);
    }
}

static bool within(const norm_numbers *numbers, double limit)
{
    for (int64_t i = 0; i < numbers->n; i++)
        if (fabs(numbers->value[i]) > limit)
            return false;
    return true;
}

/* Results that a type cannot hold are not compared: gradients of 1e60. */
static void compare(const char *what, const norm_case *c, const ek_tensor *t, const norm_numbers *expected,
                    double kappa)
{
    if (ek_tensor_dtype(t) == EK_F64 || within(expected, FLT_MAX / 4))
        assert_norm_numbers(what, c, t, expected, kappa);
}

static void check_in(const norm_case *c, const norm_inputs *in, const norm_outputs *out, ek_dtype dtype)
{
    run r = run_layer(c, in, dtype);
    compare("y", c, r.y, &out->y, out->kappa);
    compare("dx", c, ek_tensor_grad(r.x), &out->dx, out->kappa);
    compare("d_weight", c, ek_tensor_grad(ek_module_parameter(r.layer, "weight")), &out->dgamma, out->kappa);
    if (c->kind != RMS_NORM)
        compare("d_bias", c, ek_tensor_grad(ek_module_parameter(r.layer, "bias")), &out->dbeta, out->kappa);
    if (c->kind == SWITCHABLE_NORM) {
        compare("d_mean_weight", c, ek_tensor_grad(ek_module_parameter(r.layer, "mean_weight")), &out->dmean_logits,
                out->kappa);
        compare("d_var_weight", c, ek_tensor_grad(ek_module_parameter(r.layer, "var_weight")), &out->dvar_logits,
                out->kappa);
    }
    if (has_running(c))
        compare_running(c, in, &r, out);
    free_run(&r);
}

static void check(norm_case *c, norm_inputs *in)
{
    c->bias = c->kind != RMS_NORM;
    norm_outputs out = norm_oracle(c, in);
    check_in(c, in, &out, EK_F32);
    check_in(c, in, &out, EK_F64);
    norm_free(in, &out);
}

/* ---- tests ------------------------------------------------------------------------------------------------------- */

START_TEST(means_far_from_zero)
{
    static const double means[] = {0, 1, 1e2, 1e4, 1e6};
    for (int k = 0; k < 5; k++) {
        norm_case c = shape_with(_i, 1e-5);
        norm_inputs in = draw(&c, means[k], 1, 1, (uint64_t)(10 * _i + k));
        check(&c, &in);
    }
}
END_TEST

/* First in memory, where a one-pass variance takes its origin from; in the middle of a later piece; last. */
START_TEST(one_outlier)
{
    for (int k = 0; k < 3; k++) {
        norm_case c = shape_with(_i, 1e-5);
        norm_inputs in = draw(&c, 0.5, 1, 1, (uint64_t)(200 + 10 * _i + k));
        const int64_t last = norm_numel(&c) - 1, places[] = {0, 2 * last / 3, last};
        in.x[places[k]] = k == 1 ? -1e6 : 1e6;
        check(&c, &in);
    }
}
END_TEST

/* A gradient that is large at one element only. */
START_TEST(one_outlier_of_the_gradient)
{
    norm_case c = shape_with(_i, 1e-5);
    norm_inputs in = draw(&c, 3, 1, 1, (uint64_t)(400 + _i));
    in.dy[norm_numel(&c) / 2] = 1e9F;
    check(&c, &in);
}
END_TEST

/* Variances of 1e60, 1e-60 and, of float32's denormal numbers, 1e-80, none of which float32 holds; without eps y is the
 * same as at scale 1.  Gradients of 1e30 and 1e-30 beside that. */
START_TEST(large_and_small_scales)
{
    static const struct {
        double x, dy, eps;
    } scales[] = {{1e30, 1, 0},      {1e30, 1, 1e-5},      {1e30, 1e30, 1e-5}, {1e-30, 1, 0},     {1e-30, 1, 1e-5},
                  {1e-30, 1e-30, 0}, {1, 1e30, 1e-5},      {1, 1e-30, 1e-5},   {1e30, 1e-30, 0},  {1e-36, 1, 0},
                  {1e-40, 1, 1e-5},  {1e-40, 1e-30, 1e-5}, {1, 1e-40, 1e-5},   {1e-22, 1e-20, 0}, {1e19, 1e19, 1e-5}};
    for (size_t k = 0; k < sizeof scales / sizeof scales[0]; k++) {
        norm_case c = shape_with(_i, scales[k].eps);
        norm_inputs in = draw(&c, 0.5, scales[k].x, scales[k].dy, 600 + 20 * (uint64_t)_i + k);
        check(&c, &in);
    }
}
END_TEST

/* Exactly: y = β, d_weight = 0, running_var = 0 and running_mean the constant; dx finite, and 0 without eps. */
START_TEST(constants)
{
    static const double values[] = {0, 0.1, -12345.678, 1e30, -1e-30, 1e-40};
    const bool centers = shapes[_i].kind != RMS_NORM; /* which takes a constant for what it is */
    for (int k = 0; centers && k < 12; k++)
        for (int type = EK_F32; type <= EK_F64; type++) {
            norm_case c = shape_with(_i, k % 2 ? 1e-5 : 0);
            norm_inputs in = draw(&c, 0, 1, 1, (uint64_t)(1000 + 20 * _i + k));
            for (int64_t i = 0; i < norm_numel(&c); i++)
                in.x[i] = (double)(float)values[k / 2];
            run r = run_layer(&c, &in, (ek_dtype)type);
            for (int64_t i = 0; i < norm_numel(&c); i++) {
                const double dx = ek_tensor_at(ek_tensor_grad(r.x), i);
                ck_each(ek_tensor_at(r.y, i) == in.beta[i / c.s % c.c], "%s: y of the constant %g is %.17g, not %.17g",
                        norm_text(&c), in.x[i], ek_tensor_at(r.y, i), in.beta[i / c.s % c.c]);
                ck_each(c.eps > 0 ? isfinite(dx) : dx == 0, "%s: dx of the constant %g is %g", norm_text(&c), in.x[i],
                        dx);
            }
            for (int64_t i = 0; i < c.c; i++) {
                ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(ek_module_parameter(r.layer, "weight")), i), 0);
                if (has_running(&c)) {
                    ck_assert_double_eq(state_at(r.layer, "running_var", i), 0);
                    ck_assert_double_eq(state_at(r.layer, "running_mean", i), in.x[0]);
                }
            }
            free_run(&r);
            norm_free(&in, NULL);
        }
}
END_TEST

/* Constant groups beside others; a group of two neighbours in float32. */
START_TEST(nearly_constant)
{
    norm_case c = shape_with(_i, 1e-5);
    norm_inputs in = draw(&c, 0, 1, 1, (uint64_t)(1400 + _i));
    for (int64_t i = 0; i < norm_numel(&c); i++)
        in.x[i] = i == norm_numel(&c) / 2 ? 1000 + 0x1p-14 : 1000; /* 1000 and the float32 number after it */
    check(&c, &in);
}
END_TEST

/* Gradients whose sum fits float32 while partial sums of a few rows do not: over rows short and long (32 elements is where
 * LayerNorm changes its walk), for dβ and, as x̂ is the same in all rows, dγ. */
START_TEST(sums_that_pass_the_range)
{
    const int64_t d = _i ? 70 : 20, rows = 16;
    ek_module *layer = ek_layer_norm(EK_SHAPE(d), NULL);
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(rows, d)), *dy = ek_zeros(EK_F32, EK_SHAPE(rows, d));
    ck_made(layer);
    ck_made(x);
    ck_made(dy);
    const float up = 4.8e37f, down = 4.76e37f;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < d; i++) {
            ek_data_f32(x)[r * d + i] = (float)(i % 5);
            ek_data_f32(dy)[r * d + i] = r < rows / 2 ? up : -down;
        }
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(layer, tape, x);
    ck_made(y);
    ck_ok(ek_backward_from(tape, y, dy));
    const double sum = (double)(rows / 2) * ((double)up - (double)down);
    for (int64_t i = 0; i < d; i++) { /* y = x̂ here, to half a unit of its last place */
        const double d_beta = ek_tensor_at(ek_tensor_grad(ek_module_parameter(layer, "bias")), i);
        const double d_gamma = ek_tensor_at(ek_tensor_grad(ek_module_parameter(layer, "weight")), i);
        const double size = (double)rows * (double)up * 0x1p-23; /* of the terms: 16 roundings of x̂ and one of the sum */
        ck_assert_msg(fabs(d_beta - sum) <= size, "dbeta[%lld] is %g, not %g", (long long)i, d_beta, sum);
        ck_assert_msg(fabs(d_gamma - sum * ek_tensor_at(y, i)) <= size, "dgamma[%lld] is %g, not %g", (long long)i,
                      d_gamma, sum * ek_tensor_at(y, i));
    }
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm accuracy");
    TCase *tcase = tcase_create("norm accuracy");
    tcase_add_loop_test(tcase, means_far_from_zero, 0, SHAPES);
    tcase_add_loop_test(tcase, one_outlier, 0, SHAPES);
    tcase_add_loop_test(tcase, one_outlier_of_the_gradient, 0, SHAPES);
    tcase_add_loop_test(tcase, large_and_small_scales, 0, SHAPES);
    tcase_add_loop_test(tcase, constants, 0, SHAPES);
    tcase_add_loop_test(tcase, sums_that_pass_the_range, 0, 2);
    tcase_add_loop_test(tcase, nearly_constant, 0, SHAPES);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
