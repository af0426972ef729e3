/* Elementwise ops: values and derivatives against plain formulas over a range, against PyTorch at the special points,
 * the same bits for any number of threads, and what they refuse. */
#include "support_ops.h"

#include <float.h>

/* Options of every op here: up to two numbers. */
#define CALL(name, list)                                                                                               \
    static ek_tensor *call_##name(ek_tape *t, ek_tensor *const *in, const void *options)                               \
    {                                                                                                                  \
        const double *p = options;                                                                                     \
        (void)p;                                                                                                       \
        return ek_##name list;                                                                                         \
    }
CALL(exp, (t, in[0]))
CALL(log, (t, in[0]))
CALL(sqrt, (t, in[0]))
CALL(pow, (t, in[0], p[0]))
CALL(abs, (t, in[0]))
CALL(clamp, (t, in[0], p[0], p[1]))
CALL(relu, (t, in[0]))
CALL(leaky_relu, (t, in[0], p[0]))
CALL(gelu, (t, in[0]))
CALL(silu, (t, in[0]))
CALL(sigmoid, (t, in[0]))
CALL(tanh, (t, in[0]))
CALL(softplus, (t, in[0], p[0], p[1]))

/* ---- against plain formulas ------------------------------------------------------------------------------------- */

static double sigma(double x)
{
    return 1 / (1 + exp(-x));
}
static double normal_density(double x)
{
    return exp(-x * x / 2) / sqrt(2 * acos(-1));
}
static double normal_distribution(double x)
{
    return 0.5 * erfc(-x / sqrt(2));
}

/* Value and derivative at x. */
typedef void (*formula)(double x, const double *p, double *y, double *d);
#define FORMULA(name, value, derivative)                                                                               \
    static void formula_##name(double x, const double *p, double *y, double *d)                                        \
    {                                                                                                                  \
        (void)p;                                                                                                       \
        *y = value;                                                                                                    \
        *d = derivative;                                                                                               \
    }
FORMULA(exp, exp(x), exp(x))
FORMULA(log, log(x), 1 / x)
FORMULA(sqrt, sqrt(x), 0.5 / sqrt(x))
FORMULA(pow, pow(x, p[0]), p[0] * pow(x, p[0] - 1))
FORMULA(abs, fabs(x), x < 0 ? -1 : 1)
FORMULA(clamp, fmin(fmax(x, p[0]), p[1]), x >= p[0] && x <= p[1])
FORMULA(relu, fmax(x, 0), x > 0)
FORMULA(leaky_relu, x > 0 ? x : p[0] * x, x > 0 ? 1 : p[0])
FORMULA(gelu, x * normal_distribution(x), normal_distribution(x) + x * normal_density(x))
FORMULA(silu, x * sigma(x), sigma(x) * (1 + x * sigma(-x)))
FORMULA(sigmoid, sigma(x), sigma(x) * sigma(-x))
FORMULA(tanh, tanh(x), 1 / (cosh(x) * cosh(x)))
FORMULA(softplus, p[0] * x > p[1] ? x : log1p(exp(p[0] * x)) / p[0], p[0] * x > p[1] ? 1 : sigma(p[0] * x))

/* Errors are allowed up to `ulps`·ε·(|expected| + scale): `ulps` counts the roundings and the steepest condition number
 * on the way (an argument z of exp or erfc that is off by ε|z| changes the result by up to z² parts), `scale` is the
 * size of the terms where they cancel. */
static const struct sweep {
    const char *name;
    op_call call;
    formula formula;
    double p[2], low, high, ulps, scale;
} sweeps[] = {
    {"exp", call_exp, formula_exp, {0}, -80, 80, 4, 0},
    {"log", call_log, formula_log, {0}, 1e-3, 1e3, 4, 0},
    {"sqrt", call_sqrt, formula_sqrt, {0}, 0.01, 1e4, 4, 0},
    {"pow 3", call_pow, formula_pow, {3}, -10, 10, 8, 0},
    {"pow 2", call_pow, formula_pow, {2}, -10, 10, 4, 0},
    {"pow 0", call_pow, formula_pow, {0}, 0.1, 10, 4, 0},
    {"pow 1", call_pow, formula_pow, {1}, 0.1, 10, 4, 0},
    {"pow -1", call_pow, formula_pow, {-1}, 0.1, 10, 4, 0},
    {"pow -0.5", call_pow, formula_pow, {-0.5}, 0.1, 10, 8, 0},
    {"pow 2.5", call_pow, formula_pow, {2.5}, 0.1, 10, 8, 0},
    {"abs", call_abs, formula_abs, {0}, -5, 5.01, 0, 0},
    {"clamp", call_clamp, formula_clamp, {-1, 2}, -5, 5.01, 0, 0},
    {"relu", call_relu, formula_relu, {0}, -5, 5.01, 0, 0},
    {"leaky_relu", call_leaky_relu, formula_leaky_relu, {0.25}, -5, 5.01, 2, 0},
    {"gelu", call_gelu, formula_gelu, {0}, -6, 6, 64, 0.05},
    {"gelu, tail", call_gelu, formula_gelu, {0}, -8, -6, 256, 0},
    {"silu", call_silu, formula_silu, {0}, -20, 20, 32, 0.05},
    {"sigmoid", call_sigmoid, formula_sigmoid, {0}, -40, 8, 64, 0.01},
    {"tanh", call_tanh, formula_tanh, {0}, -3, 3, 16, 1},
    {"softplus", call_softplus, formula_softplus, {1, 20}, -30, 30, 16, 0},
    {"softplus 2", call_softplus, formula_softplus, {2, 3}, -10, 3, 32, 0},
};
enum { SWEEPS = sizeof sweeps / sizeof sweeps[0], POINTS = 403 };

static void check_sweep(const struct sweep *s, ek_dtype dtype)
{
    double values[POINTS], epsilon = dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    double tiny = dtype == EK_F32 ? FLT_MIN : DBL_MIN;
    for (int i = 0; i < POINTS; i++)
        values[i] = s->low + (s->high - s->low) * i / (POINTS - 1);
    if (s->low <= 0 && s->high >= 0) /* the smallest numbers there are */
        values[1] = dtype == EK_F32 ? 1e-40 : 1e-310, values[2] = -values[1];
    ek_tensor *x = leaf(dtype, EK_SHAPE(POINTS), values), *y = run_op(s->call, &x, 1, s->p, NULL);
    for (int i = 0; i < POINTS; i++) {
        double at = ek_tensor_at(x, i), got[2] = {ek_tensor_at(y, i), ek_tensor_at(ek_tensor_grad(x), i)}, expected[2];
        s->formula(at, s->p, &expected[0], &expected[1]);
        for (int k = 0; k < 2; k++)
            ck_assert_msg(fabs(got[k] - expected[k]) <= s->ulps * epsilon * (fabs(expected[k]) + s->scale) + tiny,
                          "%s, %s, %s at %.17g: %.17g, expected %.17g", s->name, ek_dtype_name(dtype),
                          k ? "derivative" : "value", at, got[k], expected[k]);
    }
    ek_tensor_free(x);
    ek_tensor_free(y);
}

START_TEST(values_and_derivatives_follow_the_formulas)
{
    for (int i = 0; i < SWEEPS; i++) {
        check_sweep(&sweeps[i], EK_F32);
        check_sweep(&sweeps[i], EK_F64);
    }
}
END_TEST

/* ---- against PyTorch where conventions matter ------------------------------------------------------------------- */

/* PyTorch 1.13.1, float64: y = the expression of x = these points, d = x.grad after y.sum().backward(). */
static const double special[] = {0, -0.0, -2, 2, 1, 0.7, 1e30, -1e30, INFINITY, -INFINITY, NAN};
enum { SPECIAL = sizeof special / sizeof special[0] };
static const struct convention {
    const char *expression;
    op_call call;
    double p[2], y[SPECIAL], d[SPECIAL];
} conventions[] = {
    {"torch.exp(x)", call_exp, {0, 0},
     {1, 1, 0.1353352832366127, 7.38905609893065, 2.718281828459045, 2.0137527074704766, INFINITY, 0, INFINITY, 0,
      NAN},
     {1, 1, 0.1353352832366127, 7.38905609893065, 2.718281828459045, 2.0137527074704766, INFINITY, 0, INFINITY, 0,
      NAN}},
    {"torch.log(x)", call_log, {0, 0},
     {-INFINITY, -INFINITY, NAN, 0.6931471805599453, 0, -0.35667494393873245, 69.07755278982137, NAN, INFINITY, NAN,
      NAN},
     {INFINITY, -INFINITY, -0.5, 0.5, 1, 1.4285714285714286, 9.999999999999999e-31, -9.999999999999999e-31, 0, -0.0,
      NAN}},
    {"torch.sqrt(x)", call_sqrt, {0, 0},
     {0, -0.0, NAN, 1.4142135623730951, 1, 0.8366600265340756, 1000000000000000, NAN, INFINITY, NAN, NAN},
     {INFINITY, -INFINITY, NAN, 0.35355339059327373, 0.5, 0.5976143046671968, 5e-16, NAN, 0, NAN, NAN}},
    {"torch.abs(x)", call_abs, {0, 0},
     {0, 0, 2, 2, 1, 0.7, 1e+30, 1e+30, INFINITY, INFINITY, NAN},
     {0, 0, -1, 1, 1, 1, 1, -1, 1, -1, 0}},
    {"torch.relu(x)", call_relu, {0, 0},
     {0, -0.0, 0, 2, 1, 0.7, 1e+30, 0, INFINITY, 0, NAN},
     {0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1}},
    {"F.leaky_relu(x, 0.01)", call_leaky_relu, {0.01, 0},
     {0, -0.0, -0.02, 2, 1, 0.7, 1e+30, -1e+28, INFINITY, -INFINITY, NAN},
     {0.01, 0.01, 0.01, 1, 1, 1, 1, 0.01, 1, 0.01, 0.01}},
    {"F.gelu(x)", call_gelu, {0, 0},
     {0, -0.0, -0.04550026389635842, 1.9544997361036416, 0.841344746068543, 0.5306254434438489, 1e+30, -0.0, INFINITY,
      NAN, NAN},
     {0.5, 0.5, -0.08523180107819692, 1.085231801078197, 1.0833154705876864, 0.9766141011336599, 1, 0, NAN, NAN, NAN}},
    {"F.silu(x)", call_silu, {0, 0},
     {0, -0.0, -0.2384058440442351, 1.7615941559557646, 0.7310585786300049, 0.46773144051771626, 1e+30, -0.0,
      INFINITY, NAN, NAN},
     {0.5, 0.5, -0.09078424878489547, 1.0907842487848955, 0.9276705118714869, 0.8233867834733425, 1, -0.0, NAN, NAN,
      NAN}},
    {"torch.sigmoid(x)", call_sigmoid, {0, 0},
     {0.5, 0.5, 0.11920292202211755, 0.8807970779778823, 0.7310585786300049, 0.6681877721681662, 1, 0, 1, 0, NAN},
     {0.25, 0.25, 0.1049935854035065, 0.10499358540350662, 0.19661193324148185, 0.22171287329310904, 0, 0, 0, 0, NAN}},
    {"torch.tanh(x)", call_tanh, {0, 0},
     {0, -0.0, -0.9640275800758169, 0.9640275800758169, 0.7615941559557649, 0.6043677771171635, 1, -1, 1, -1, NAN},
     {1, 1, 0.07065082485316443, 0.07065082485316443, 0.41997434161402614, 0.6347395899824586, 0, 0, 0, 0, NAN}},
    {"F.softplus(x)", call_softplus, {1, 20},
     {0.6931471805599453, 0.6931471805599453, 0.1269280110429725, 2.1269280110429727, 1.3132616875182228,
      1.103186048885458, 1e+30, 0, INFINITY, 0, NAN},
     {0.5, 0.5, 0.11920292202211755, 0.8807970779778824, 0.7310585786300049, 0.6681877721681662, 1, 0, 1, 0, NAN}},
    {"F.softplus(x, 2, 3)", call_softplus, {2, 3},
     {0.34657359027997264, 0.34657359027997264, 0.009074963958904869, 2, 1.0634640055214863, 0.8102087049592255,
      1e+30, 0, INFINITY, 0, NAN},
     {0.5, 0.5, 0.017986209962091555, 1, 0.8807970779778824, 0.8021838885585817, 1, 0, 1, 0, NAN}},
    {"torch.clamp(x, -1, 1)", call_clamp, {-1, 1},
     {0, -0.0, -1, 1, 1, 0.7, 1, -1, 1, -1, NAN},
     {1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0}},
    {"torch.clamp(x, min=0.7)", call_clamp, {0.7, INFINITY},
     {0.7, 0.7, 0.7, 2, 1, 0.7, 1e+30, 0.7, INFINITY, 0.7, NAN},
     {0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 0}},
    {"torch.pow(x, 0)", call_pow, {0, 0},
     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1},
     {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
    {"torch.pow(x, 1)", call_pow, {1, 0},
     {0, -0.0, -2, 2, 1, 0.7, 1e+30, -1e+30, INFINITY, -INFINITY, NAN},
     {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}},
    {"torch.pow(x, 2)", call_pow, {2, 0},
     {0, 0, 4, 4, 1, 0.48999999999999994, 1.0000000000000001e+60, 1.0000000000000001e+60, INFINITY, INFINITY, NAN},
     {0, -0.0, -4, 4, 2, 1.4, 2e+30, -2e+30, INFINITY, -INFINITY, NAN}},
    {"torch.pow(x, 3)", call_pow, {3, 0},
     {0, -0.0, -8, 8, 1, 0.3429999999999999, 1.0000000000000002e+90, -1.0000000000000002e+90, INFINITY, -INFINITY,
      NAN},
     {0, 0, 12, 12, 3, 1.4699999999999998, 3.0000000000000006e+60, 3.0000000000000006e+60, INFINITY, INFINITY, NAN}},
    {"torch.pow(x, -1)", call_pow, {-1, 0},
     {INFINITY, -INFINITY, -0.5, 0.5, 1, 1.4285714285714286, 9.999999999999999e-31, -9.999999999999999e-31, 0, -0.0,
      NAN},
     {-INFINITY, -INFINITY, -0.25, -0.25, -1, -2.0408163265306127, -9.999999999999998e-61, -9.999999999999998e-61,
      -0.0, -0.0, NAN}},
    {"torch.pow(x, -2)", call_pow, {-2, 0},
     {INFINITY, INFINITY, 0.25, 0.25, 1, 2.0408163265306127, 9.999999999999998e-61, 9.999999999999998e-61, 0, 0, NAN},
     {-INFINITY, INFINITY, 0.25, -0.25, -2, -5.830903790087465, -2e-90, 2e-90, -0.0, 0, NAN}},
    {"torch.pow(x, 0.5)", call_pow, {0.5, 0},
     {0, -0.0, NAN, 1.4142135623730951, 1, 0.8366600265340756, 1000000000000000, NAN, INFINITY, NAN, NAN},
     {INFINITY, -INFINITY, NAN, 0.35355339059327373, 0.5, 0.5976143046671968, 5e-16, NAN, 0, NAN, NAN}},
    {"torch.pow(x, -0.5)", call_pow, {-0.5, 0},
     {INFINITY, -INFINITY, NAN, 0.7071067811865475, 1, 1.1952286093343936, 1e-15, NAN, 0, NAN, NAN},
     {-INFINITY, -INFINITY, NAN, -0.17677669529663687, -0.5, -0.8537347209531384, -5e-46, NAN, -0.0, -0.0, NAN}},
    {"torch.pow(x, 2.5)", call_pow, {2.5, 0},
     {0, 0, NAN, 5.656854249492381, 1, 0.409963413001697, 1.0000000000000001e+75, NAN, INFINITY, INFINITY, NAN},
     {0, 0, NAN, 7.0710678118654755, 2.5, 1.464155046434632, 2.5000000000000003e+45, NAN, INFINITY, INFINITY, NAN}},
    {"torch.pow(x, inf)", call_pow, {INFINITY, 0},
     {0, 0, INFINITY, INFINITY, 1, 0, INFINITY, INFINITY, INFINITY, INFINITY, NAN},
     {NAN, NAN, INFINITY, INFINITY, INFINITY, NAN, INFINITY, INFINITY, INFINITY, INFINITY, NAN}},
    {"torch.pow(x, nan)", call_pow, {NAN, 0},
     {NAN, NAN, NAN, NAN, 1, NAN, NAN, NAN, NAN, NAN, NAN},
     {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN}},
};
enum { CONVENTIONS = sizeof conventions / sizeof conventions[0] };

/* NaN for NaN, ∞ for ∞ of the same sign, else within the rounding of a few operations. */
static bool agrees(double got, double expected, double tolerance)
{
    return isnan(expected)   ? isnan(got)
           : isinf(expected) ? got == expected
                             : fabs(got - expected) <= tolerance * (fabs(expected) + 1e-3);
}

START_TEST(special_points_are_those_of_pytorch)
{
    for (int c = 0; c < CONVENTIONS; c++) {
        const struct convention *row = &conventions[c];
        ek_tensor *x = leaf(EK_F64, EK_SHAPE(SPECIAL), special), *y = run_op(row->call, &x, 1, row->p, NULL);
        for (int i = 0; i < SPECIAL; i++) {
            double got = ek_tensor_at(y, i), d = ek_tensor_at(ek_tensor_grad(x), i);
            ck_assert_msg(agrees(got, row->y[i], 8 * DBL_EPSILON), "%s at %g: %.17g, PyTorch %.17g", row->expression,
                          special[i], got, row->y[i]);
            ck_assert_msg(agrees(d, row->d[i], 8 * DBL_EPSILON), "derivative of %s at %g: %.17g, PyTorch %.17g",
                          row->expression, special[i], d, row->d[i]);
        }
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
}
END_TEST

/* In float32 the same points give no other kind of number: NaN, infinite or finite as in float64, unless float32 itself
 * overflows. */
START_TEST(float32_goes_wrong_nowhere_else)
{
    for (int c = 0; c < CONVENTIONS; c++) {
        const struct convention *row = &conventions[c];
        ek_tensor *x = leaf(EK_F32, EK_SHAPE(SPECIAL), special), *y = run_op(row->call, &x, 1, row->p, NULL);
        for (int i = 0; i < SPECIAL; i++)
            ck_assert_msg(isnan(ek_tensor_at(y, i)) == isnan(row->y[i]), "%s at %g in float32: %g, PyTorch %g",
                          row->expression, special[i], ek_tensor_at(y, i), row->y[i]);
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
}
END_TEST

/* ---- sizes, threads, errors -------------------------------------------------------------------------------------- */

START_TEST(no_elements_are_no_problem)
{
    for (int i = 0; i < SWEEPS; i++) {
        ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(3, 0, 2));
        ck_ok(ek_tensor_set_requires_grad(x, true));
        ek_tensor *y = run_op(sweeps[i].call, &x, 1, sweeps[i].p, NULL);
        ck_assert_int_eq(ek_tensor_ndim(y), 3);
        ck_assert_int_eq(ek_tensor_numel(y), 0);
        ck_assert_int_eq(ek_tensor_numel(ek_tensor_grad(x)), 0);
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
}
END_TEST

START_TEST(threads_change_no_bit)
{
    ek_rng rng = ek_rng_seed(1);
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        for (int i = 0; i < SWEEPS; i++) {
            ek_tensor *x = ek_uniform((ek_dtype)dtype, EK_SHAPE(3, 20011), sweeps[i].low, sweeps[i].high, &rng);
            ck_ok(ek_tensor_set_requires_grad(x, true));
            assert_same_for_any_threads(sweeps[i].name, sweeps[i].call, &x, 1, sweeps[i].p);
            ek_tensor_free(x);
        }
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    static const struct {
        op_call call;
        double p[2];
        const char *text;
    } rows[] = {
        {call_clamp, {1, -1}, "clamp: expected low ≤ high (±INFINITY for no bound), got 1 and -1"},
        {call_clamp, {NAN, 1}, "clamp: expected low ≤ high (±INFINITY for no bound), got nan and 1"},
        {call_clamp, {0, NAN}, "clamp: expected low ≤ high (±INFINITY for no bound), got 0 and nan"},
        {call_leaky_relu, {INFINITY}, "leaky_relu: expected a finite negative_slope, got inf"},
        {call_leaky_relu, {NAN}, "leaky_relu: expected a finite negative_slope, got nan"},
        {call_softplus, {0, 20}, "softplus: expected a finite beta > 0, got 0"},
        {call_softplus, {-1, 20}, "softplus: expected a finite beta > 0, got -1"},
        {call_softplus, {NAN, 20}, "softplus: expected a finite beta > 0, got nan"},
        {call_softplus, {INFINITY, 20}, "softplus: expected a finite beta > 0, got inf"},
        {call_softplus, {1, NAN}, "softplus: the threshold is NaN; 20 is usual, INFINITY means never linear"},
    };
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2));
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_op_fails(EK_ERR_ARGUMENT, rows[i].text, rows[i].call, &x, 1, rows[i].p);
    ek_tensor_free(x);
}
END_TEST

START_TEST(int64_and_null_are_refused)
{
    ek_tensor *x = ek_ones(EK_I64, EK_SHAPE(2)), *none = NULL;
    for (int i = 0; i < SWEEPS; i++) {
        assert_op_fails(EK_ERR_DTYPE, "expected float32 or float64 for input 0, got int64", sweeps[i].call, &x, 1,
                        sweeps[i].p);
        assert_op_fails(EK_ERR_ARGUMENT, "input 0 is NULL", sweeps[i].call, &none, 1, sweeps[i].p);
    }
    ek_tensor_free(x);
    ck_assert_ptr_null(ek_clamp(NULL, NULL, 1, -1));
    ck_error(EK_ERR_ARGUMENT, "clamp: the tape is NULL");
}
END_TEST

int main(void)
{
    return RUN_TESTS("elementwise", values_and_derivatives_follow_the_formulas, special_points_are_those_of_pytorch,
                     float32_goes_wrong_nowhere_else, no_elements_are_no_problem, threads_change_no_bit,
                     bad_arguments_are_refused, int64_and_null_are_refused);
}
