/* Broadcasting arithmetic and reductions against naive index arithmetic, over random shapes and over shapes large
 * enough to be cut into chunks; what they refuse. */
#include "core.h"
#include "support.h"

#include <float.h>

typedef long double real;

/* Flat index in a tensor of shape `from` of the element that broadcasts to position `index` of `to`. */
static int64_t broadcast_index(ek_shape from, ek_shape to, const int64_t *index)
{
    int64_t flat = 0;
    for (int i = 0; i < from.ndim; i++)
        flat = flat * from.dim[i] + (from.dim[i] == 1 ? 0 : index[i + to.ndim - from.ndim]);
    return flat;
}

/* Moves to the next position in row-major order. */
static void next_index(ek_shape shape, int64_t *index)
{
    for (int i = shape.ndim - 1; i >= 0 && ++index[i] == shape.dim[i]; i--)
        index[i] = 0;
}

static double epsilon(ek_dtype dtype)
{
    return dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
}

static ek_tensor *leaf(ek_dtype dtype, ek_shape shape, ek_rng *rng)
{
    ek_tensor *x = ek_uniform(dtype, shape, 0.5, 2, rng); /* away from 0, for division */
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

typedef struct arithmetic {
    const char *name;
    ek_tensor *(*apply)(ek_tape *tape, ek_tensor *a, ek_tensor *b);
    float (*single)(float a, float b);
    double (*wide)(double a, double b);
    real (*slope_a)(real a, real b);
    real (*slope_b)(real a, real b);
} arithmetic;

#define DEFINE(name, expression, slope_of_a, slope_of_b)                                                               \
    static float name##_single(float a, float b) { return expression; }                                               \
    static double name##_wide(double a, double b) { return expression; }                                              \
    static real name##_slope_a(real a, real b) { (void)a; (void)b; return slope_of_a; }                                \
    static real name##_slope_b(real a, real b) { (void)a; (void)b; return slope_of_b; }
DEFINE(add, a + b, 1, 1)
DEFINE(sub, a - b, 1, -1)
DEFINE(mul, a * b, b, a)
DEFINE(div, a / b, 1 / b, -a / (b * b))
#define ROW(name) {#name, ek_##name, name##_single, name##_wide, name##_slope_a, name##_slope_b}
static const arithmetic operations[] = {ROW(add), ROW(sub), ROW(mul), ROW(div)};

/* The gradient of input k is Σ slope·dy over what broadcast to each element.  A term carries at most 4 roundings of the
 * type, the sum of n terms n roundings of double, the result one more of the type. */
static void check_gradient(const char *name, const ek_tensor *const x[2], int k, const ek_tensor *dy,
                           real (*slope)(real, real))
{
    const ek_tensor *gradient = ek_tensor_grad(x[k]);
    ck_made(gradient);
    int64_t n = ek_tensor_numel(x[k]), index[EK_MAX_NDIM] = {0};
    real *sum = calloc((size_t)n + 1, sizeof *sum), *size = calloc((size_t)n + 1, sizeof *size);
    for (int64_t i = 0; i < ek_tensor_numel(dy); i++) {
        int64_t at = broadcast_index(x[k]->shape, dy->shape, index);
        real term = slope(ek_tensor_at(x[0], broadcast_index(x[0]->shape, dy->shape, index)),
                          ek_tensor_at(x[1], broadcast_index(x[1]->shape, dy->shape, index))) *
                    ek_tensor_at(dy, i);
        sum[at] += term;
        size[at] += fabsl(term);
        next_index(dy->shape, index);
    }
    double terms = n ? (double)ek_tensor_numel(dy) / (double)n : 0;
    for (int64_t i = 0; i < n; i++)
        ck_each(fabsl(ek_tensor_at(gradient, i) - sum[i]) <=
                    size[i] * (5 * epsilon(dy->dtype) + terms * DBL_EPSILON),
                "%s, input %d of %s to %s: gradient %lld is %g, expected %Lg", name, k, EK_TEXT(x[k]->shape),
                EK_TEXT(dy->shape), (long long)i, ek_tensor_at(gradient, i), sum[i]);
    free(sum);
    free(size);
}

static void check_operation(const arithmetic *operation, ek_dtype dtype, ek_shape shape_a, ek_shape shape_b,
                            ek_shape expected, ek_rng *rng)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *a = leaf(dtype, shape_a, rng), *b = leaf(dtype, shape_b, rng);
    ek_tensor *y = operation->apply(tape, a, b);
    ck_made(y);
    ck_assert_msg(ek_shape_equal(y->shape, expected), "%s: %s and %s gave %s", operation->name, EK_TEXT(shape_a),
                  EK_TEXT(shape_b), EK_TEXT(y->shape));
    int64_t index[EK_MAX_NDIM] = {0};
    for (int64_t i = 0; i < ek_tensor_numel(y); i++) {
        double u = ek_tensor_at(a, broadcast_index(shape_a, expected, index));
        double v = ek_tensor_at(b, broadcast_index(shape_b, expected, index));
        double value = dtype == EK_F32 ? operation->single((float)u, (float)v) : operation->wide(u, v);
        ck_each(ek_tensor_at(y, i) == value, "%s of %s and %s: element %lld is %g, expected %g", operation->name,
                EK_TEXT(shape_a), EK_TEXT(shape_b), (long long)i, ek_tensor_at(y, i), value);
        next_index(expected, index);
    }
    ek_tensor *dy = ek_normal(dtype, expected, 0, 1, rng);
    ck_ok(ek_backward_from(tape, y, dy));
    check_gradient(operation->name, (const ek_tensor *const[2]){a, b}, 0, dy, operation->slope_a);
    check_gradient(operation->name, (const ek_tensor *const[2]){a, b}, 1, dy, operation->slope_b);
    ek_tensor_free(a);
    ek_tensor_free(b);
    ek_tensor_free(dy);
    ek_tape_free(tape);
}

/* `to` with leading axes left out and others at size 1, by chance. */
static ek_shape narrower(ek_shape to, ek_rng *rng)
{
    ek_shape from = {.ndim = 0};
    int skip = ek_rng_below(rng, 3) ? 0 : (int)ek_rng_below(rng, to.ndim + 1);
    for (int i = skip; i < to.ndim; i++)
        from.dim[from.ndim++] = ek_rng_below(rng, 3) ? to.dim[i] : 1;
    return from;
}

static ek_shape random_shape(ek_rng *rng, int64_t largest)
{
    ek_shape shape = {.ndim = (int)ek_rng_below(rng, 6)};
    for (int i = 0; i < shape.ndim; i++)
        shape.dim[i] = ek_rng_below(rng, 40) ? 1 + ek_rng_below(rng, largest) : 0;
    return shape;
}

START_TEST(arithmetic_over_random_shapes)
{
    const arithmetic *operation = &operations[_i];
    ek_rng rng = ek_rng_named(1, operation->name);
    for (int round = 0; round < 300; round++) {
        ek_shape to = random_shape(&rng, 5), a = narrower(to, &rng), b = narrower(to, &rng), expected = {0};
        expected.ndim = a.ndim > b.ndim ? a.ndim : b.ndim;
        for (int i = 1; i <= expected.ndim; i++) { /* where both are 1, so is the result */
            int64_t da = i <= a.ndim ? a.dim[a.ndim - i] : 1, db = i <= b.ndim ? b.dim[b.ndim - i] : 1;
            expected.dim[expected.ndim - i] = da == 1 ? db : da;
        }
        check_operation(operation, round % 2 ? EK_F64 : EK_F32, a, b, expected, &rng);
    }
}
END_TEST

START_TEST(arithmetic_over_large_shapes)
{
    static const struct {
        ek_shape a, b, y;
    } large[] = {
        {{1, {40000}}, {1, {40000}}, {1, {40000}}},                  /* several chunks */
        {{1, {40000}}, {0, {0}}, {1, {40000}}},                      /* a scalar */
        {{2, {3, 20000}}, {1, {20000}}, {2, {3, 20000}}},            /* a bias, wider than a tile */
        {{2, {9000, 5}}, {1, {5}}, {2, {9000, 5}}},                  /* a bias, sum in several parts */
        {{4, {8, 3, 50, 40}}, {3, {3, 1, 1}}, {4, {8, 3, 50, 40}}},  /* per channel */
        {{2, {1, 30000}}, {2, {2, 1}}, {2, {2, 30000}}},             /* both */
        {{4, {20, 1, 30, 1}}, {4, {1, 20, 1, 30}}, {4, {20, 20, 30, 30}}},
    };
    ek_rng rng = ek_rng_seed(2);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        check_operation(&operations[_i], EK_F32, large[i].a, large[i].b, large[i].y, &rng);
        check_operation(&operations[_i], EK_F64, large[i].b, large[i].a, large[i].y, &rng);
    }
}
END_TEST

START_TEST(arithmetic_of_special_values)
{
    ek_tape *tape = ek_tape_new();
    float left[5] = {1, -1, 0, INFINITY, NAN}, right[5] = {0, 0, 0, INFINITY, 1};
    ek_tensor *a = ek_from_array(EK_F32, EK_SHAPE(5), left), *b = ek_from_array(EK_F32, EK_SHAPE(5), right);
    const float *quotient = ek_data_f32(ek_div(tape, a, b));
    ck_assert(quotient[0] == INFINITY && quotient[1] == -INFINITY && isnan(quotient[2]) && isnan(quotient[3]) &&
              isnan(quotient[4]));
    ck_assert(isnan(ek_data_f32(ek_sub(tape, a, b))[3]));
    /* b² overflows and underflows in float, the derivatives do not. */
    float extreme[2] = {1e25f, 1e-25f}, same[2] = {1e25f, 1e-25f};
    ek_tensor *c = ek_from_array(EK_F32, EK_SHAPE(2), extreme), *d = ek_from_array(EK_F32, EK_SHAPE(2), same);
    ck_ok(ek_tensor_set_requires_grad(d, true));
    ck_ok(ek_backward(tape, ek_sum(tape, ek_div(tape, c, d), EK_ALL_AXES, false)));
    ck_assert_float_eq_tol(ek_data_f32(ek_tensor_grad(d))[0], -1e-25f, 1e-31f);
    ck_assert_float_eq_tol(ek_data_f32(ek_tensor_grad(d))[1], -1e25f, 1e19f);
    ek_tensor *all[] = {a, b, c, d};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
    ek_tape_free(tape);
}
END_TEST

START_TEST(arithmetic_refuses)
{
    const arithmetic *operation = &operations[_i];
    char text[200];
    ek_tape *tape = ek_tape_new();
    ek_tensor *a = ek_ones(EK_F32, EK_SHAPE(2, 3)), *b = ek_ones(EK_F32, EK_SHAPE(4));
    ek_tensor *k = ek_ones(EK_I64, EK_SHAPE(3)), *wide = ek_ones(EK_F64, EK_SHAPE(3));
    ck_assert_ptr_null(operation->apply(tape, a, b));
    snprintf(text, sizeof text, "%s: (2, 3) and (4,) do not broadcast: from the right", operation->name);
    ck_error(EK_ERR_SHAPE, text);
    ek_tape_reset(tape);
    ck_assert_ptr_null(operation->apply(tape, a, k));
    snprintf(text, sizeof text, "%s: expected float32 or float64 for input 1, got int64; ek_tensor_cast() converts",
             operation->name);
    ck_error(EK_ERR_DTYPE, text);
    ek_tape_reset(tape);
    ck_assert_ptr_null(operation->apply(tape, k, a));
    ck_error(EK_ERR_DTYPE, "expected float32 or float64 for input 0, got int64");
    ek_tape_reset(tape);
    ck_assert_ptr_null(operation->apply(tape, a, wide));
    snprintf(text, sizeof text, "%s: expected inputs of one float type, got float32 and float64 (input 1)",
             operation->name);
    ck_error(EK_ERR_DTYPE, text);
    ek_tape_reset(tape);
    ck_assert_ptr_null(operation->apply(tape, a, NULL));
    snprintf(text, sizeof text, "%s: input 1 is NULL", operation->name);
    ck_error(EK_ERR_ARGUMENT, text);
    ck_assert_ptr_null(operation->apply(NULL, a, a));
    snprintf(text, sizeof text, "%s: the tape is NULL", operation->name);
    ck_error(EK_ERR_ARGUMENT, text);
    ek_tape_free(tape);
    ek_tensor *all[] = {a, b, k, wide};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

/* Sum or mean over the axes of `bits`, and its gradient.  The sum of n numbers carries at most n roundings of double,
 * the result at most two of the type. */
static void check_reduction(bool mean, ek_dtype dtype, ek_shape shape, unsigned bits, bool keepdim, ek_rng *rng)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_normal(dtype, shape, 0.3, 1, rng);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_axes axes = {.n = 0};
    ek_shape kept = shape, left = {.ndim = 0};
    int64_t n = 1, index[EK_MAX_NDIM] = {0};
    for (int i = 0; i < shape.ndim; i++) {
        if (bits >> i & 1) {
            axes.axis[axes.n++] = ek_rng_below(rng, 2) ? i : i - shape.ndim;
            kept.dim[i] = 1;
            n *= shape.dim[i];
        } else {
            left.dim[left.ndim++] = shape.dim[i];
        }
    }
    ek_tensor *y = mean ? ek_mean(tape, x, axes, keepdim) : ek_sum(tape, x, axes, keepdim);
    ck_made(y);
    ck_assert_msg(ek_shape_equal(y->shape, keepdim ? kept : left), "%s over %x gave %s", EK_TEXT(shape), bits,
                  EK_TEXT(y->shape));
    real *sum = calloc((size_t)y->numel + 1, sizeof *sum), *size = calloc((size_t)y->numel + 1, sizeof *size);
    for (int64_t i = 0; i < x->numel; i++) {
        int64_t at = broadcast_index(kept, shape, index);
        sum[at] += ek_tensor_at(x, i);
        size[at] += fabs(ek_tensor_at(x, i));
        next_index(shape, index);
    }
    for (int64_t i = 0; i < y->numel; i++) {
        real divisor = mean ? (real)n : 1, value = ek_tensor_at(y, i);
        if (mean && n == 0)
            ck_assert(isnan((double)value));
        else
            ck_each(fabsl(value - sum[i] / divisor) <=
                        2 * epsilon(dtype) * fabsl(sum[i] / divisor) + (real)n * DBL_EPSILON * size[i] / divisor,
                    "%s over %x: element %lld is %Lg, expected %Lg", EK_TEXT(shape), bits, (long long)i, value,
                    sum[i] / divisor);
    }
    ek_tensor *dy = ek_normal(dtype, y->shape, 0, 1, rng);
    ck_ok(ek_backward_from(tape, y, dy));
    memset(index, 0, sizeof index);
    for (int64_t i = 0; i < x->numel; i++) {
        double g = ek_tensor_at(dy, broadcast_index(kept, shape, index)), expected = mean ? g / (double)n : g;
        ck_each(fabs(ek_tensor_at(ek_tensor_grad(x), i) - expected) <= epsilon(dtype) * fabs(expected),
                "%s over %x: gradient %lld is %g, expected %g", EK_TEXT(shape), bits, (long long)i,
                ek_tensor_at(ek_tensor_grad(x), i), expected);
        next_index(shape, index);
    }
    free(sum);
    free(size);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_tape_free(tape);
}

START_TEST(reductions_over_random_shapes)
{
    ek_rng rng = ek_rng_seed(3);
    for (int round = 0; round < 1000; round++) {
        ek_shape shape = random_shape(&rng, 6);
        unsigned bits = (unsigned)ek_rng_below(&rng, 1 << shape.ndim);
        check_reduction(round % 2, round % 3 ? EK_F32 : EK_F64, shape, bits, ek_rng_below(&rng, 2), &rng);
    }
}
END_TEST

START_TEST(reductions_over_large_shapes)
{
    static const ek_shape large[] = {
        {1, {50001}},         /* one output of several parts */
        {2, {3, 40000}},      /* a run of several segments */
        {2, {20000, 3}},      /* many narrow rows */
        {2, {70, 1100}},      /* several tiles of columns */
        {3, {30, 17, 130}},   /* as in the gradient of a channel */
        {4, {6, 50, 7, 40}},
        {5, {3, 9, 1, 40, 21}},
    };
    ek_rng rng = ek_rng_seed(4);
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++)
        for (unsigned bits = 0; bits < 1u << large[i].ndim; bits++)
            check_reduction(bits % 2, i % 2 ? EK_F64 : EK_F32, large[i], bits, false, &rng);
}
END_TEST

START_TEST(sums_of_floats_lose_nothing_to_length)
{
    /* 0.1f a million times: float accumulation would be off in the third digit. */
    enum { N = 1000000 };
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_full(EK_F32, EK_SHAPE(N), 0.1);
    ck_assert_float_eq((float)ek_item(ek_sum(tape, x, EK_ALL_AXES, false)), (float)((double)0.1f * N));
    ck_assert_float_eq((float)ek_item(ek_mean(tape, x, EK_ALL_AXES, false)), 0.1f);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

START_TEST(reductions_refuse)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3)), *k = ek_ones(EK_I64, EK_SHAPE(3));
    ck_assert_ptr_null(ek_sum(tape, x, EK_AXES(2), false));
    ck_error(EK_ERR_ARGUMENT, "sum: expected axes within the rank of (2, 3), got axis 2");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_mean(tape, x, EK_AXES(0, -3), false));
    ck_error(EK_ERR_ARGUMENT, "mean: expected axes within the rank of (2, 3), got axis -3");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_sum(tape, x, EK_AXES(1, -1), false));
    ck_error(EK_ERR_ARGUMENT, "sum: expected each axis once, got axis 1 of (2, 3) twice");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_sum(tape, x, (ek_axes){.n = 9}, false));
    ck_error(EK_ERR_ARGUMENT, "sum: expected a list of 0 to 8 axes or EK_ALL_AXES, got one of 9");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_mean(tape, k, EK_ALL_AXES, false));
    ck_error(EK_ERR_DTYPE, "mean: expected float32 or float64 for input 0, got int64");
    ek_tensor_free(x);
    ek_tensor_free(k);
    ek_tape_free(tape);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("arithmetic");
    TCase *tcase = tcase_create("arithmetic");
    tcase_add_loop_test(tcase, arithmetic_over_random_shapes, 0, 4);
    tcase_add_loop_test(tcase, arithmetic_over_large_shapes, 0, 4);
    tcase_add_loop_test(tcase, arithmetic_refuses, 0, 4);
    tcase_add_test(tcase, arithmetic_of_special_values);
    tcase_add_test(tcase, reductions_over_random_shapes);
    tcase_add_test(tcase, reductions_over_large_shapes);
    tcase_add_test(tcase, sums_of_floats_lose_nothing_to_length);
    tcase_add_test(tcase, reductions_refuse);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
