/* Softmax and losses: values and gradients against plain double formulas and against PyTorch, large and infinite
 * logits, empty tensors, the same bits for any number of threads, and what they refuse. */
#include "support_ops.h"

#include <float.h>

/* What any loss here may need. */
typedef struct loss_options {
    ek_reduction reduction;
    double delta;
    int axis;
    ek_cross_entropy_opts cross_entropy;
} loss_options;

#define CALL(name, list)                                                                                               \
    static ek_tensor *call_##name(ek_tape *t, ek_tensor *const *in, const void *options)                               \
    {                                                                                                                  \
        const loss_options *o = options;                                                                               \
        return ek_##name list;                                                                                         \
    }
CALL(softmax, (t, in[0], o->axis))
CALL(log_softmax, (t, in[0], o->axis))
CALL(cross_entropy, (t, in[0], in[1], &o->cross_entropy))
CALL(mse_loss, (t, in[0], in[1], o->reduction))
CALL(l1_loss, (t, in[0], in[1], o->reduction))
CALL(huber_loss, (t, in[0], in[1], o->delta, o->reduction))
CALL(bce_with_logits, (t, in[0], in[1], o->reduction))

static double epsilon_of(ek_dtype dtype)
{
    return dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
}

static void assert_values(const char *what, const ek_tensor *got, const double *expected, double tolerance)
{
    for (int64_t i = 0; i < ek_tensor_numel(got); i++) {
        double g = ek_tensor_at(got, i), e = expected[i];
        bool close = isnan(e) ? isnan(g) : isinf(e) ? g == e : fabs(g - e) <= tolerance * (1 + fabs(e));
        ck_assert_msg(close, "%s: element %lld is %.17g, expected %.17g", what, (long long)i, g, e);
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

static const struct {
    ek_shape shape;
    int axis;
} line_cases[] = {
    {{2, {7, 1}}, 1},     {{2, {7, 5}}, 1},      {{2, {3, 200}}, -1},      {{2, {200, 3}}, 0},
    {{3, {3, 4, 5}}, -2}, {{3, {2, 9, 70}}, 1},  {{4, {2, 3, 33, 2}}, 2},  {{1, {45}}, 0},
    {{0, {0}}, 0},        {{0, {0}}, -1},
};
enum { LINE_CASES = sizeof line_cases / sizeof line_cases[0] };

/* Softmax of every line, by the definition, and its gradient Σ_j J_jk·dy_j term by term. */
static void check_lines(ek_dtype dtype, ek_shape shape, int axis, bool logarithm)
{
    ek_rng rng = ek_rng_seed(5);
    ek_tensor *x = ek_normal(dtype, shape, 0, 2, &rng), *dy = ek_normal(dtype, shape, 0, 1, &rng);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *y = run_op(logarithm ? call_log_softmax : call_softmax, &x, 1, &(loss_options){.axis = axis}, dy);
    int at = axis < 0 ? axis + shape.ndim : axis;
    int64_t n = shape.ndim ? shape.dim[at] : 1, inner = 1, numel = ek_tensor_numel(x);
    for (int i = at + 1; i < shape.ndim; i++)
        inner *= shape.dim[i];
    double *expected = malloc((size_t)numel * sizeof *expected), *gradient = calloc((size_t)numel, sizeof *gradient);
    for (int64_t start = 0; start < numel; start++) {
        if (start / inner % n)
            continue; /* not the first element of a line */
        double sum = 0;
        for (int64_t k = 0; k < n; k++)
            sum += exp(ek_tensor_at(x, start + k * inner));
        for (int64_t k = 0; k < n; k++) {
            double p = exp(ek_tensor_at(x, start + k * inner)) / sum;
            expected[start + k * inner] = logarithm ? log(p) : p;
            for (int64_t j = 0; j < n; j++) {
                double pj = exp(ek_tensor_at(x, start + j * inner)) / sum;
                double jacobian = logarithm ? (j == k) - p : pj * ((j == k) - p);
                gradient[start + k * inner] += jacobian * ek_tensor_at(dy, start + j * inner);
            }
        }
    }
    /* A few roundings of terms up to 2·max |x| ≈ 16; in the gradient of a sum of up to 200 terms dy as well. */
    assert_values("softmax", y, expected, 16 * epsilon_of(dtype));
    assert_values("gradient of softmax", ek_tensor_grad(x), gradient, 64 * epsilon_of(dtype));
    free(expected);
    free(gradient);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_tensor_free(y);
}

START_TEST(softmax_follows_the_definition)
{
    for (int i = 0; i < LINE_CASES; i++)
        for (int k = 0; k < 4; k++)
            check_lines(k & 1 ? EK_F32 : EK_F64, line_cases[i].shape, line_cases[i].axis, k & 2);
}
END_TEST

/* PyTorch 1.13.1, float64: F.softmax(x, 1) and F.log_softmax(x, 1), whatever the memory order of the lines is here. */
START_TEST(softmax_of_extreme_lines)
{
    enum { ROWS = 8, N = 4 };
    static const double x[ROWS][N] = {{1, 2, 3, 1e4},         {-1e4, 1e4, 0, -INFINITY},
                                      {INFINITY, 1, 2, 3},    {-INFINITY, -INFINITY, -INFINITY, -INFINITY},
                                      {NAN, 1, 2, 3},         {-1e30, -1e30, -1e30, -1e30},
                                      {1e30, -1e30, 0, 1e30}, {0, 0, 0, NAN}};
    static const double p[ROWS][N] = {{0, 0, 0, 1},         {0, 1, 0, 0},
                                      {NAN, NAN, NAN, NAN}, {NAN, NAN, NAN, NAN},
                                      {NAN, NAN, NAN, NAN}, {.25, .25, .25, .25},
                                      {.5, 0, 0, .5},       {NAN, NAN, NAN, NAN}};
    const double h = -log(2), q = -log(4);
    const double l[ROWS][N] = {{-9999, -9998, -9997, 0}, {-20000, 0, -10000, -INFINITY}, {NAN, NAN, NAN, NAN},
                               {NAN, NAN, NAN, NAN},     {NAN, NAN, NAN, NAN},           {q, q, q, q},
                               {h, -2e30, -1e30, h},     {NAN, NAN, NAN, NAN}};
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        for (int row = 0; row < ROWS; row++)
            for (int axis = 0; axis < 2; axis++) { /* N × 1 at axis 0 with a neighbour of zeros, 1 × N at axis 1 */
                double values[2 * N] = {0};
                for (int k = 0; k < N; k++)
                    values[axis ? k : 2 * k] = x[row][k];
                ek_tensor *t = leaf((ek_dtype)dtype, axis ? EK_SHAPE(1, N) : EK_SHAPE(N, 2), values);
                ek_tensor *y = run_op(call_softmax, &t, 1, &(loss_options){.axis = axis}, NULL);
                ek_tensor *z = run_op(call_log_softmax, &t, 1, &(loss_options){.axis = axis}, NULL);
                double expected[2][2 * N];
                for (int k = 0; k < N; k++) {
                    int at = axis ? k : 2 * k;
                    expected[0][at] = p[row][k];
                    expected[1][at] = l[row][k];
                    if (!axis) {
                        expected[0][at + 1] = 0.25;
                        expected[1][at + 1] = q;
                    }
                }
                assert_values("softmax", y, expected[0], 4 * epsilon_of((ek_dtype)dtype));
                assert_values("log_softmax", z, expected[1], 4 * epsilon_of((ek_dtype)dtype));
                ek_tensor_free(t);
                ek_tensor_free(y);
                ek_tensor_free(z);
            }
}
END_TEST

/* ---- cross-entropy ---------------------------------------------------------------------------------------------- */

static const double table_logits[12] = {0.5, -1, 2, 0.1, 1.5, 0.3, -0.7, 0.2, -0.2, 0.4, 0.9, -1.3};
static const int64_t table_target[3] = {2, -100, 1};

/* PyTorch 1.13.1: F.cross_entropy(L, tensor([2, -100, 1]), label_smoothing=…, reduction=…) and L.grad for
 * L = tensor(table_logits).reshape(3, 4) in float64. */
START_TEST(cross_entropy_is_that_of_pytorch)
{
    static const struct {
        ek_reduction reduction;
        double smoothing, y, d[12];
    } rows[] = {
        {EK_REDUCE_MEAN, 0, 0.785172839171642,
         {0.07842965907291799, 0.017500022389326946, -0.1485026541425628, 0.052572972680317895, 0, 0, 0, 0,
          0.08117995508892983, -0.35208047761760375, 0.24387806290366038, 0.027022459625013498}},
        {EK_REDUCE_MEAN, 0.1, 0.8876728391716421,
         {0.06592965907291799, 0.0050000223893269455, -0.11100265414256283, 0.0400729726803179, 0, 0, 0, 0,
          0.06867995508892984, -0.31458047761760377, 0.23137806290366036, 0.014522459625013497}},
        {EK_REDUCE_MEAN, 1, 1.810172839171642,
         {-0.04657034092708201, -0.10749997761067305, 0.2264973458574372, -0.0724270273196821, 0, 0, 0, 0,
          -0.043820044911070166, 0.022919522382396224, 0.11887806290366038, -0.0979775403749865}},
        {EK_REDUCE_SUM, 0, 1.570345678343284,
         {0.15685931814583598, 0.03500004477865389, -0.2970053082851256, 0.10514594536063579, 0, 0, 0, 0,
          0.16235991017785967, -0.7041609552352075, 0.48775612580732075, 0.054044919250026996}},
        {EK_REDUCE_SUM, 0.1, 1.7753456783432842,
         {0.13185931814583599, 0.010000044778653891, -0.22200530828512566, 0.0801459453606358, 0, 0, 0, 0,
          0.13735991017785967, -0.6291609552352075, 0.46275612580732073, 0.029044919250026995}},
        {EK_REDUCE_SUM, 1, 3.620345678343284,
         {-0.09314068185416402, -0.2149999552213461, 0.4529946917148744, -0.1448540546393642, 0, 0, 0, 0,
          -0.08764008982214033, 0.04583904476479245, 0.23775612580732075, -0.195955080749973}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            loss_options o = {.cross_entropy = {rows[i].reduction, -100, rows[i].smoothing}};
            ek_tensor *in[] = {leaf((ek_dtype)dtype, EK_SHAPE(3, 4), table_logits),
                               ek_from_array(EK_I64, EK_SHAPE(3), table_target)};
            ek_tensor *y = run_op(call_cross_entropy, in, 2, &o, NULL);
            ck_assert_int_eq(ek_tensor_ndim(y), 0);
            assert_values("cross_entropy", y, &rows[i].y, 4 * epsilon_of((ek_dtype)dtype));
            assert_values("gradient", ek_tensor_grad(in[0]), rows[i].d, 4 * epsilon_of((ek_dtype)dtype));
            ek_tensor_free(y);
            ek_tensor_free(in[0]);
            ek_tensor_free(in[1]);
        }
}
END_TEST

/* The same logits as (1, 4, 3): F.cross_entropy(X, T, label_smoothing=.1, reduction='none'), dy = [1, 2, 3]. */
START_TEST(cross_entropy_by_place)
{
    static const double expected[3] = {0.5124059381034307, 0, 1.2629397402398534}, weights[3] = {1, 2, 3};
    static const double gradient[12] = {0.13185931814583599,  0, 0.41207973053357916, 0.010000044778653891, 0,
                                        -1.8874828657056228,  -0.22200530828512566,   0, 1.3882683774219626,
                                        0.0801459453606358,   0, 0.08713475775008102};
    double moved[12];
    for (int c = 0; c < 4; c++)
        for (int i = 0; i < 3; i++)
            moved[c * 3 + i] = table_logits[i * 4 + c];
    loss_options o = {.cross_entropy = {EK_REDUCE_NONE, -100, 0.1}};
    ek_tensor *in[] = {leaf(EK_F64, EK_SHAPE(1, 4, 3), moved), ek_from_array(EK_I64, EK_SHAPE(1, 3), table_target)};
    ek_tensor *dy = ek_from_array(EK_F64, EK_SHAPE(1, 3), weights);
    ek_tensor *y = run_op(call_cross_entropy, in, 2, &o, dy);
    ck_assert_int_eq(ek_tensor_ndim(y), 2);
    assert_values("cross_entropy", y, expected, 4 * DBL_EPSILON);
    assert_values("gradient", ek_tensor_grad(in[0]), gradient, 4 * DBL_EPSILON);
    ek_tensor_free(y);
    ek_tensor_free(dy);
    ek_tensor_free(in[0]);
    ek_tensor_free(in[1]);
}
END_TEST

/* Every reduction over many shapes, by the definition −Σ q·ln p. */
static void check_cross_entropy(ek_dtype dtype, ek_shape shape, ek_cross_entropy_opts options)
{
    ek_rng rng = ek_rng_seed(9);
    int64_t classes = shape.dim[1], inner = 1, places, valid = 0;
    ek_shape target_shape = {.ndim = shape.ndim - 1, .dim = {shape.dim[0]}};
    for (int i = 2; i < shape.ndim; i++) {
        target_shape.dim[i - 1] = shape.dim[i];
        inner *= shape.dim[i];
    }
    ek_tensor *in[] = {ek_normal(dtype, shape, 0, 2, &rng), ek_zeros(EK_I64, target_shape)};
    int64_t *target = ek_data_i64(in[1]);
    places = ek_tensor_numel(in[1]);
    double sum = 0, *loss = calloc((size_t)places, sizeof *loss);
    for (int64_t i = 0; i < places; i++) {
        target[i] = ek_rng_below(&rng, classes + 1);
        if (target[i] == classes || target[i] == options.ignore_index) {
            target[i] = options.ignore_index;
            continue;
        }
        valid++;
        double total = 0;
        for (int64_t c = 0; c < classes; c++)
            total += exp(ek_tensor_at(in[0], (i / inner * classes + c) * inner + i % inner));
        for (int64_t c = 0; c < classes; c++) {
            double q = (1 - options.label_smoothing) * (c == target[i]) + options.label_smoothing / (double)classes;
            loss[i] -= q * (ek_tensor_at(in[0], (i / inner * classes + c) * inner + i % inner) - log(total));
        }
        sum += loss[i];
    }
    ek_tensor *y = run_op(call_cross_entropy, in, 2, &(loss_options){.cross_entropy = options}, NULL);
    if (options.reduction == EK_REDUCE_MEAN)
        sum /= (double)valid;
    /* Each loss is a few roundings of terms up to 16; the sums are in double. */
    assert_values("cross_entropy", y, options.reduction == EK_REDUCE_NONE ? loss : &sum, 16 * epsilon_of(dtype));
    free(loss);
    ek_tensor_free(y);
    ek_tensor_free(in[0]);
    ek_tensor_free(in[1]);
}

START_TEST(cross_entropy_follows_the_definition)
{
    static const ek_shape shapes[] = {{2, {40, 10}}, {2, {3, 1}}, {2, {5, 130}}, {3, {2, 3, 45}}, {4, {3, 5, 4, 9}}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int k = 0; k < 12; k++)
            check_cross_entropy(k & 1 ? EK_F32 : EK_F64, shapes[i],
                                (ek_cross_entropy_opts){(ek_reduction)(k / 2 % 3), k < 6 ? -100 : 0, k & 1 ? 0.2 : 0});
}
END_TEST

static double cross_entropy_of(ek_tensor *logits, ek_shape shape, const int64_t *target, ek_cross_entropy_opts options)
{
    ek_tensor *in[] = {logits, ek_from_array(EK_I64, shape, target)};
    ek_tensor *y = run_op(call_cross_entropy, in, 2, &(loss_options){.cross_entropy = options}, NULL);
    double value = ek_item(y);
    ek_tensor_free(y);
    ek_tensor_free(in[1]);
    return value;
}

START_TEST(cross_entropy_at_the_edges)
{
    ek_cross_entropy_opts mean = ek_cross_entropy_opts_default(), smooth = mean, sum = mean;
    ck_assert(mean.reduction == EK_REDUCE_MEAN && mean.ignore_index == -100 && mean.label_smoothing == 0);
    smooth.label_smoothing = 0.1;
    sum.reduction = EK_REDUCE_SUM;

    /* No precision is lost under large logits: ln(1 + e⁻¹) in float32, where 10⁴ itself is rounded to 10⁻³. */
    ek_tensor *large = leaf(EK_F32, EK_SHAPE(1, 3), (double[]){1e4, 1e4 - 1, -1e4});
    double expected = log1p(exp(-1)), p = 1 / (1 + exp(-1));
    ck_assert_double_eq_tol(cross_entropy_of(large, EK_SHAPE(1), (int64_t[]){0}, mean), expected, 4 * FLT_EPSILON);
    assert_values("gradient", ek_tensor_grad(large), (double[]){p - 1, 1 - p, 0}, 4 * FLT_EPSILON);
    ck_assert_double_eq_tol(cross_entropy_of(large, EK_SHAPE(1), (int64_t[]){2}, mean), 2e4 + expected,
                            2e4 * FLT_EPSILON);

    /* −∞ rules a class out: nothing where it is not the target (PyTorch: 1.3133), ∞ with smoothing (PyTorch: inf). */
    ek_tensor *ruled_out = leaf(EK_F64, EK_SHAPE(1, 3), (double[]){-INFINITY, 0, 1});
    ck_assert_double_eq_tol(cross_entropy_of(ruled_out, EK_SHAPE(1), (int64_t[]){1}, mean), log(1 + exp(1)), 1e-15);
    assert_values("gradient", ek_tensor_grad(ruled_out), (double[]){0, p - 1 - (2 * p - 1), p}, 4 * DBL_EPSILON);
    ck_assert_double_infinite(cross_entropy_of(ruled_out, EK_SHAPE(1), (int64_t[]){1}, smooth));
    ck_assert_double_infinite(cross_entropy_of(ruled_out, EK_SHAPE(1), (int64_t[]){0}, mean));

    /* All ignored: mean NaN, sum 0, no gradient. */
    ek_tensor *two = leaf(EK_F64, EK_SHAPE(2, 2), (double[]){1, 2, NAN, 4});
    ck_assert_double_nan(cross_entropy_of(two, EK_SHAPE(2), (int64_t[]){-100, -100}, mean));
    assert_values("gradient", ek_tensor_grad(two), (double[]){0, 0, 0, 0}, 0);
    ck_assert_double_eq(cross_entropy_of(two, EK_SHAPE(2), (int64_t[]){-100, -100}, sum), 0);
    /* An ignored NaN row does no harm; one that counts shows. */
    ck_assert_double_eq_tol(cross_entropy_of(two, EK_SHAPE(2), (int64_t[]){1, -100}, mean), expected, 1e-15);
    assert_values("gradient", ek_tensor_grad(two), (double[]){1 - p, p - 1, 0, 0}, 4 * DBL_EPSILON);
    ck_assert_double_nan(cross_entropy_of(two, EK_SHAPE(2), (int64_t[]){1, 1}, mean));

    /* No rows, no places, no classes. */
    ek_tensor *empty = ek_zeros(EK_F32, EK_SHAPE(0, 3)), *no_classes = ek_zeros(EK_F32, EK_SHAPE(2, 0));
    ck_ok(ek_tensor_set_requires_grad(empty, true));
    ck_assert_double_nan(cross_entropy_of(empty, EK_SHAPE(0), NULL, mean));
    ck_assert_double_eq(cross_entropy_of(empty, EK_SHAPE(0), NULL, sum), 0);
    ck_assert_double_nan(cross_entropy_of(no_classes, EK_SHAPE(2), (int64_t[]){-100, -100}, mean));
    ek_tensor_free(large);
    ek_tensor_free(ruled_out);
    ek_tensor_free(two);
    ek_tensor_free(empty);
    ek_tensor_free(no_classes);
}
END_TEST

START_TEST(cross_entropy_refuses)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3)), *good = ek_zeros(EK_I64, EK_SHAPE(2));
    ek_tensor *high = ek_from_array(EK_I64, EK_SHAPE(2), ((int64_t[]){1, 3}));
    ek_tensor *low = ek_from_array(EK_I64, EK_SHAPE(2), ((int64_t[]){-1, 0}));
    ek_tensor *three = ek_zeros(EK_I64, EK_SHAPE(3)), *square = ek_zeros(EK_I64, EK_SHAPE(2, 3));
    ek_tensor *floats = ek_zeros(EK_F32, EK_SHAPE(2)), *row = ek_ones(EK_F32, EK_SHAPE(3)), *none = NULL;
    const ek_cross_entropy_opts plain = ek_cross_entropy_opts_default();
    const struct {
        ek_tensor *logits, *target;
        ek_cross_entropy_opts options;
        ek_status status;
        const char *text;
    } rows[] = {
        {x, high, plain, EK_ERR_ARGUMENT, "cross_entropy: expected targets in 0 … 2, got 3 at flat index 1"},
        {x, low, plain, EK_ERR_ARGUMENT, "cross_entropy: expected targets in 0 … 2, got -1 at flat index 0"},
        {x, three, plain, EK_ERR_SHAPE,
         "cross_entropy: expected logits (N, C, …) and targets (N, …), got (2, 3) and (3,)"},
        {x, square, plain, EK_ERR_SHAPE,
         "cross_entropy: expected logits (N, C, …) and targets (N, …), got (2, 3) and (2, 3)"},
        {row, three, plain, EK_ERR_SHAPE,
         "cross_entropy: expected logits (N, C, …) and targets (N, …), got (3,) and (3,)"},
        {x, floats, plain, EK_ERR_DTYPE, "cross_entropy: expected int64 for input 1, got float32"},
        {good, good, plain, EK_ERR_DTYPE, "cross_entropy: expected float32 or float64 for input 0, got int64"},
        {x, none, plain, EK_ERR_ARGUMENT, "cross_entropy: input 1 is NULL"},
        {x, good, {EK_REDUCE_MEAN, -100, 1.5}, EK_ERR_ARGUMENT,
         "cross_entropy: expected label_smoothing in [0, 1], got 1.5"},
        {x, good, {EK_REDUCE_MEAN, -100, -0.1}, EK_ERR_ARGUMENT,
         "cross_entropy: expected label_smoothing in [0, 1], got -0.1"},
        {x, good, {EK_REDUCE_MEAN, -100, NAN}, EK_ERR_ARGUMENT,
         "cross_entropy: expected label_smoothing in [0, 1], got nan"},
        {x, good, {(ek_reduction)3, -100, 0}, EK_ERR_ARGUMENT,
         "cross_entropy: expected EK_REDUCE_MEAN, EK_REDUCE_SUM or EK_REDUCE_NONE, got 3"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_op_fails(rows[i].status, rows[i].text, call_cross_entropy,
                        (ek_tensor *[]){rows[i].logits, rows[i].target}, 2,
                        &(loss_options){.cross_entropy = rows[i].options});
    ek_tensor *all[] = {x, good, high, low, three, square, floats, row};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

/* PyTorch 1.13.1: x.argmax(1) of the first four rows is [0, 1, 0, 0]. */
START_TEST(right_answers_are_counted)
{
    static const double x[] = {NAN, 1, 1, NAN, 1, 1, NAN, NAN, -1, -2, -3, -2, -INFINITY, -INFINITY};
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *logits = leaf((ek_dtype)dtype, EK_SHAPE(7, 2), x);
        ek_tensor *right = ek_from_array(EK_I64, EK_SHAPE(7), ((int64_t[]){0, 1, 0, 0, 0, 1, 0}));
        ek_tensor *wrong = ek_from_array(EK_I64, EK_SHAPE(7), ((int64_t[]){1, 0, 1, 1, 1, 0, 1}));
        ek_tensor *outside = ek_from_array(EK_I64, EK_SHAPE(7), ((int64_t[]){1, 0, 1, 1, 2, 0, 1}));
        ck_assert_int_eq(ek_count_correct(logits, right), 7);
        ck_assert_int_eq(ek_count_correct(logits, wrong), 0);
        ck_assert_int_eq(ek_count_correct(logits, outside), -1);
        ck_error(EK_ERR_ARGUMENT, "count_correct: expected targets in 0 … 1, got 2 at flat index 4");
        ck_assert_int_eq(ek_count_correct(logits, logits), -1);
        ck_error(EK_ERR_DTYPE, "count_correct: expected float logits and int64 targets, got float");
        ck_assert_int_eq(ek_count_correct(right, right), -1);
        ck_error(EK_ERR_DTYPE, "count_correct: expected float logits and int64 targets, got int64 and int64");
        ck_assert_int_eq(ek_count_correct(NULL, right), -1);
        ck_error(EK_ERR_ARGUMENT, "count_correct: the logits tensor is NULL");
        ck_assert_int_eq(ek_count_correct(logits, NULL), -1);
        ck_error(EK_ERR_ARGUMENT, "count_correct: the target tensor is NULL");
        ek_tensor *cube = ek_zeros((ek_dtype)dtype, EK_SHAPE(7, 2, 1));
        ck_assert_int_eq(ek_count_correct(cube, right), -1);
        ck_error(EK_ERR_SHAPE, "count_correct: expected logits (N, C, …) and targets (N, …), got (7, 2, 1) and (7,)");
        ek_tensor *none = ek_zeros((ek_dtype)dtype, EK_SHAPE(0, 2)), *no_target = ek_zeros(EK_I64, EK_SHAPE(0));
        ck_assert_int_eq(ek_count_correct(none, no_target), 0);
        ck_assert_int_eq(ek_count_correct(logits, no_target), -1);
        ck_error(EK_ERR_SHAPE, "count_correct: expected logits (N, C, …) and targets (N, …), got (7, 2) and (0,)");
        ek_tensor *all[] = {logits, right, wrong, outside, cube, none, no_target};
        for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
            ek_tensor_free(all[i]);
    }
}
END_TEST

/* ---- elementwise losses ----------------------------------------------------------------------------------------- */

static double mse(double x, double t)
{
    return (x - t) * (x - t);
}
static double l1(double x, double t)
{
    return fabs(x - t);
}
static double huber(double x, double t) /* delta = 0.75 */
{
    double d = fabs(x - t);
    return d <= 0.75 ? d * d / 2 : 0.75 * (d - 0.375);
}
static double bce(double x, double t)
{
    double p = 1 / (1 + exp(-x));
    return -t * log(p) - (1 - t) * log(1 / (1 + exp(x)));
}

/* PyTorch 1.13.1, float64, on x and t below: F.mse_loss, F.l1_loss, F.huber_loss(delta=0.75) and
 * F.binary_cross_entropy_with_logits with reduction='none', and x.grad, t.grad after .sum().backward() (its huber_loss
 * has none to the target). */
static const double loss_x[4] = {0.5, -1, 2, 0.1}, loss_t[4] = {1, -1, -0.5, 0.8};
static const struct elementwise_loss {
    const char *name;
    op_call call;
    double (*formula)(double x, double t);
    double y[4], dx[4], dt[4], mean, sum;
} elementwise_losses[] = {
    {"mse_loss", call_mse_loss, mse, {0.25, 0, 6.25, 0.49}, {-1, 0, 5, -1.4}, {1, 0, -5, 1.4}, 1.7475, 6.99},
    {"l1_loss", call_l1_loss, l1, {0.5, 0, 2.5, 0.7}, {-1, 0, 1, -1}, {1, 0, -1, 1}, 0.925, 3.7},
    {"huber_loss", call_huber_loss, huber, {0.125, 0, 1.59375, 0.245}, {-0.5, 0, 0.75, -0.7}, {0.5, 0, -0.75, 0.7},
     0.4909375, 1.96375},
    {"bce_with_logits", call_bce_with_logits, bce,
     {0.4740769841801067, -0.6867383124817772, 3.1269280110429727, 0.6643966600735709},
     {-0.3775406687981454, 1.2689414213699952, 1.3807970779778822, -0.27502081252106003}, {-0.5, 1, -2, -0.1},
     0.8946658357037183, 3.578663342814873},
};
enum { LOSSES = sizeof elementwise_losses / sizeof elementwise_losses[0] };

START_TEST(elementwise_losses_are_those_of_pytorch)
{
    for (int i = 0; i < LOSSES; i++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            const struct elementwise_loss *loss = &elementwise_losses[i];
            double tolerance = 4 * epsilon_of((ek_dtype)dtype), dx_mean[4];
            ek_tensor *in[] = {leaf((ek_dtype)dtype, EK_SHAPE(2, 2), loss_x),
                               leaf((ek_dtype)dtype, EK_SHAPE(2, 2), loss_t)};
            ek_tensor *none = run_op(loss->call, in, 2, &(loss_options){EK_REDUCE_NONE, .delta = 0.75}, NULL);
            assert_values(loss->name, none, loss->y, tolerance);
            assert_values(loss->name, ek_tensor_grad(in[0]), loss->dx, tolerance);
            assert_values(loss->name, ek_tensor_grad(in[1]), loss->dt, tolerance);
            ek_tensor *sum = run_op(loss->call, in, 2, &(loss_options){EK_REDUCE_SUM, .delta = 0.75}, NULL);
            assert_values(loss->name, sum, &loss->sum, tolerance);
            assert_values(loss->name, ek_tensor_grad(in[0]), loss->dx, tolerance);
            ek_tensor *mean = run_op(loss->call, in, 2, &(loss_options){EK_REDUCE_MEAN, .delta = 0.75}, NULL);
            assert_values(loss->name, mean, &loss->mean, tolerance);
            for (int k = 0; k < 4; k++)
                dx_mean[k] = loss->dx[k] / 4;
            assert_values(loss->name, ek_tensor_grad(in[0]), dx_mean, tolerance);
            ck_assert(ek_tensor_ndim(none) == 2 && ek_tensor_ndim(sum) == 0 && ek_tensor_ndim(mean) == 0);
            ek_tensor *all[] = {none, sum, mean, in[0], in[1]};
            for (int k = 0; k < 5; k++)
                ek_tensor_free(all[k]);
        }
}
END_TEST

/* Over several chunks, so that every partial sum counts: 50000 float32 losses summed in double. */
START_TEST(reductions_are_exact_sums)
{
    enum { N = 50003 };
    ek_rng rng = ek_rng_seed(2);
    for (int i = 0; i < LOSSES; i++) {
        ek_tensor *in[] = {ek_normal(EK_F64, EK_SHAPE(N), 0, 2, &rng), ek_uniform(EK_F64, EK_SHAPE(N), 0, 1, &rng)};
        double sum = 0;
        for (int64_t k = 0; k < N; k++)
            sum += elementwise_losses[i].formula(ek_tensor_at(in[0], k), ek_tensor_at(in[1], k));
        ek_tensor *y = run_op(elementwise_losses[i].call, in, 2, &(loss_options){EK_REDUCE_SUM, .delta = 0.75}, NULL);
        /* N additions of one sign, each rounded to ε: relative error up to Nε/2, far less in practice. */
        ck_assert_double_eq_tol(ek_item(y), sum, sum * N * DBL_EPSILON);
        ek_tensor *single[] = {ek_tensor_cast(in[0], EK_F32), ek_tensor_cast(in[1], EK_F32)};
        loss_options mean = {EK_REDUCE_MEAN, .delta = 0.75};
        ek_tensor *z = run_op(elementwise_losses[i].call, single, 2, &mean, NULL);
        ck_assert_double_eq_tol(ek_item(z), sum / N, 4 * FLT_EPSILON * sum / N);
        ek_tensor *all[] = {in[0], in[1], single[0], single[1], y, z};
        for (int k = 0; k < 6; k++)
            ek_tensor_free(all[k]);
    }
}
END_TEST

/* PyTorch 1.13.1: F.binary_cross_entropy_with_logits at ±10⁴; kinks and NaN of the others. */
START_TEST(elementwise_losses_at_the_edges)
{
    static const double x[5] = {1e4, -1e4, 1e4, -1e4, 0}, t[5] = {1, 0, 0, 1, 0.5};
    static const double y[5] = {0, 0, 1e4, 1e4, 0.6931471805599453}, dx[5] = {0, 0, 1, -1, 0};
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *in[] = {leaf((ek_dtype)dtype, EK_SHAPE(5), x), leaf((ek_dtype)dtype, EK_SHAPE(5), t)};
        ek_tensor *loss = run_op(call_bce_with_logits, in, 2, &(loss_options){.reduction = EK_REDUCE_NONE}, NULL);
        assert_values("bce_with_logits", loss, y, epsilon_of((ek_dtype)dtype));
        assert_values("bce_with_logits", ek_tensor_grad(in[0]), dx, epsilon_of((ek_dtype)dtype));
        ek_tensor_free(loss);
        ek_tensor_free(in[0]);
        ek_tensor_free(in[1]);
    }
    static const double far[3] = {NAN, 1e30, -INFINITY}, zero[3] = {0, 0, 0};
    static const double huber_y[3] = {NAN, 0.75e30, INFINITY}, huber_d[3] = {NAN, 0.75, -0.75};
    static const double l1_y[3] = {NAN, 1e30, INFINITY}, l1_d[3] = {0, 1, -1};
    ek_tensor *in[] = {leaf(EK_F64, EK_SHAPE(3), far), leaf(EK_F64, EK_SHAPE(3), zero)};
    ek_tensor *h = run_op(call_huber_loss, in, 2, &(loss_options){EK_REDUCE_NONE, .delta = 0.75}, NULL);
    assert_values("huber_loss", h, huber_y, DBL_EPSILON);
    assert_values("huber_loss", ek_tensor_grad(in[0]), huber_d, DBL_EPSILON);
    ek_tensor *l = run_op(call_l1_loss, in, 2, &(loss_options){.reduction = EK_REDUCE_NONE}, NULL);
    assert_values("l1_loss", l, l1_y, DBL_EPSILON);
    assert_values("l1_loss", ek_tensor_grad(in[0]), l1_d, DBL_EPSILON);
    ek_tensor *all[] = {in[0], in[1], h, l};
    for (int k = 0; k < 4; k++)
        ek_tensor_free(all[k]);
}
END_TEST

START_TEST(elementwise_losses_refuse)
{
    ek_tensor *column = ek_ones(EK_F32, EK_SHAPE(3, 1)), *flat = ek_ones(EK_F32, EK_SHAPE(3));
    ek_tensor *labels = ek_zeros(EK_I64, EK_SHAPE(3)), *wide = ek_ones(EK_F64, EK_SHAPE(3)), *none = NULL;
    for (int i = 0; i < LOSSES; i++) {
        const loss_options options = {.delta = 1}, bad = {(ek_reduction)-1, .delta = 1};
        op_call call = elementwise_losses[i].call;
        assert_op_fails(EK_ERR_SHAPE, "expected input and target of one shape, got (3, 1) and (3,); losses do not"
                                      " broadcast", call, (ek_tensor *[]){column, flat}, 2, &options);
        assert_op_fails(EK_ERR_DTYPE, "expected float32 or float64 for input 1, got int64", call,
                        (ek_tensor *[]){flat, labels}, 2, &options);
        assert_op_fails(EK_ERR_DTYPE, "expected float32 or float64 for input 0, got int64", call,
                        (ek_tensor *[]){labels, flat}, 2, &options);
        assert_op_fails(EK_ERR_DTYPE, "expected inputs of one float type, got float32 and float64", call,
                        (ek_tensor *[]){flat, wide}, 2, &options);
        assert_op_fails(EK_ERR_ARGUMENT, "input 1 is NULL", call, (ek_tensor *[]){flat, none}, 2, &options);
        assert_op_fails(EK_ERR_ARGUMENT, "expected EK_REDUCE_MEAN, EK_REDUCE_SUM or EK_REDUCE_NONE, got -1", call,
                        (ek_tensor *[]){flat, flat}, 2, &bad);
        assert_op_fails(EK_ERR_ARGUMENT, elementwise_losses[i].name, call, (ek_tensor *[]){flat, flat}, 2, &bad);
    }
    assert_op_fails(EK_ERR_ARGUMENT, "huber_loss: expected delta > 0, got 0", call_huber_loss,
                    (ek_tensor *[]){flat, flat}, 2, &(loss_options){.delta = 0});
    assert_op_fails(EK_ERR_ARGUMENT, "huber_loss: expected delta > 0, got nan", call_huber_loss,
                    (ek_tensor *[]){flat, flat}, 2, &(loss_options){.delta = NAN});
    ek_tensor_free(column);
    ek_tensor_free(flat);
    ek_tensor_free(labels);
    ek_tensor_free(wide);
}
END_TEST

START_TEST(softmax_refuses)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3)), *labels = ek_zeros(EK_I64, EK_SHAPE(3));
    assert_op_fails(EK_ERR_ARGUMENT, "softmax: expected an axis of (2, 3), got 2", call_softmax, &x, 1,
                    &(loss_options){.axis = 2});
    assert_op_fails(EK_ERR_ARGUMENT, "log_softmax: expected an axis of (2, 3), got -3", call_log_softmax, &x, 1,
                    &(loss_options){.axis = -3});
    assert_op_fails(EK_ERR_DTYPE, "softmax: expected float32 or float64 for input 0, got int64", call_softmax, &labels,
                    1, &(loss_options){.axis = 0});
    ek_tensor_free(x);
    ek_tensor_free(labels);
}
END_TEST

/* ---- all of them ------------------------------------------------------------------------------------------------ */

START_TEST(no_elements_are_no_problem)
{
    for (int i = 0; i < LOSSES; i++)
        for (int reduction = 0; reduction < 3; reduction++) {
            ek_tensor *x = ek_zeros(EK_F64, EK_SHAPE(0, 3));
            ck_ok(ek_tensor_set_requires_grad(x, true));
            ek_tensor *y = run_op(elementwise_losses[i].call, (ek_tensor *[]){x, x}, 2,
                                  &(loss_options){(ek_reduction)reduction, .delta = 1}, NULL);
            ck_assert(reduction != EK_REDUCE_MEAN || isnan(ek_item(y)));
            ck_assert(reduction != EK_REDUCE_SUM || ek_item(y) == 0);
            ck_assert(reduction != EK_REDUCE_NONE || ek_tensor_numel(y) == 0);
            ek_tensor_free(x);
            ek_tensor_free(y);
        }
    static const ek_shape shapes[] = {{2, {0, 3}}, {2, {3, 0}}, {3, {2, 0, 4}}, {3, {2, 3, 0}}, {1, {0}}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        for (int axis = 0; axis < shapes[i].ndim; axis++) {
            ek_tensor *x = ek_zeros(EK_F32, shapes[i]);
            ck_ok(ek_tensor_set_requires_grad(x, true));
            ek_tensor *y = run_op(call_softmax, &x, 1, &(loss_options){.axis = axis}, NULL);
            ek_tensor *z = run_op(call_log_softmax, &x, 1, &(loss_options){.axis = axis}, NULL);
            ck_assert(ek_tensor_numel(y) == 0 && ek_tensor_numel(z) == 0);
            ek_tensor_free(x);
            ek_tensor_free(y);
            ek_tensor_free(z);
        }
}
END_TEST

static void check_threads(ek_dtype dtype)
{
    ek_rng rng = ek_rng_seed(4);
    ek_tensor *pair[] = {ek_normal(dtype, EK_SHAPE(70001), 0, 2, &rng), ek_uniform(dtype, EK_SHAPE(70001), 0, 1, &rng)};
    ck_ok(ek_tensor_set_requires_grad(pair[0], true));
    ck_ok(ek_tensor_set_requires_grad(pair[1], true));
    for (int i = 0; i < LOSSES; i++)
        for (int reduction = 0; reduction < 3; reduction++)
            assert_same_for_any_threads(elementwise_losses[i].name, elementwise_losses[i].call, pair, 2,
                                        &(loss_options){(ek_reduction)reduction, .delta = 0.75});
    ek_tensor *lines[] = {ek_normal(dtype, EK_SHAPE(40, 30, 67), 0, 2, &rng), ek_zeros(EK_I64, EK_SHAPE(40, 67))};
    int64_t *target = ek_data_i64(lines[1]);
    for (int i = 0; i < 40 * 67; i++)
        target[i] = ek_rng_below(&rng, 31) - 1;
    ck_ok(ek_tensor_set_requires_grad(lines[0], true));
    for (int axis = 0; axis < 3; axis++) {
        assert_same_for_any_threads("softmax", call_softmax, lines, 1, &(loss_options){.axis = axis});
        assert_same_for_any_threads("log_softmax", call_log_softmax, lines, 1, &(loss_options){.axis = axis});
    }
    for (int reduction = 0; reduction < 3; reduction++)
        assert_same_for_any_threads("cross_entropy", call_cross_entropy, lines, 2,
                                    &(loss_options){.cross_entropy = {(ek_reduction)reduction, -1, 0.1}});
    ek_tensor_free(pair[0]);
    ek_tensor_free(pair[1]);
    ek_tensor_free(lines[0]);
    ek_tensor_free(lines[1]);
}

START_TEST(threads_change_no_bit)
{
    check_threads(EK_F32);
    check_threads(EK_F64);
}
END_TEST

/* Large enough that every op asks the tape, and the tape the allocator, for more. */
static ek_status use_losses(void)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(900, 300)), *target = ek_zeros(EK_I64, EK_SHAPE(900));
    ek_tape *t = ek_tape_new();
    ek_status status = x && target && t ? ek_tensor_set_requires_grad(x, true) : EK_ERR_MEMORY;
    if (status == EK_OK) {
        ek_cross_entropy_opts each = {EK_REDUCE_NONE, -100, 0.1};
        ek_tensor *y = ek_softmax(t, x, 0), *z = ek_log_softmax(t, x, 1);
        ek_tensor *a = ek_mse_loss(t, y, z, EK_REDUCE_MEAN), *b = ek_huber_loss(t, z, y, 1, EK_REDUCE_SUM);
        ek_tensor *c = ek_mean(t, ek_bce_with_logits(t, z, y, EK_REDUCE_NONE), EK_ALL_AXES, false);
        ek_tensor *d = ek_sum(t, ek_cross_entropy(t, z, target, &each), EK_ALL_AXES, false);
        status = ek_backward(t, ek_add(t, ek_add(t, a, b), ek_add(t, c, d)));
        if (status != EK_OK)
            ck_assert_ptr_null(ek_tensor_grad(x));
    }
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(target);
    return status;
}

START_TEST(want_of_memory_is_survived)
{
    ck_ok(ek_set_num_threads(1));
    ck_assert_int_gt(assert_survives_refusals(use_losses), 8);
}
END_TEST

int main(void)
{
    return RUN_TESTS("losses", softmax_follows_the_definition, softmax_of_extreme_lines,
                     cross_entropy_is_that_of_pytorch, cross_entropy_by_place, cross_entropy_follows_the_definition,
                     cross_entropy_at_the_edges, cross_entropy_refuses, right_answers_are_counted,
                     elementwise_losses_are_those_of_pytorch, reductions_are_exact_sums,
                     elementwise_losses_at_the_edges, elementwise_losses_refuse, softmax_refuses,
                     no_elements_are_no_problem, threads_change_no_bit, want_of_memory_is_survived);
}
