/* The float functions of src/tensor/vector_math.h: their errors against the C library in double, over every float where
 * EK_TEST_EVERY_FLOAT is set (half a minute), else over one in 61; the special points; the same bits wherever a number
 * stands in an array, for every instruction set, from every compiler and from the ops. */
#ifdef REAL
#include "vector_math.h"
#else
#include "core.h"
#include "support.h"

#define OP_FILE "test_vector_math.c"
#include "foreach_real.h"

enum { BLOCK = 4096 };
typedef void loop(int64_t n, const float *x, float *y);

static inline float cdf_of(float x)
{
    float cdf, density;
    real_normal_f32(x, &cdf, &density);
    return cdf;
}
static inline float density_of(float x)
{
    float cdf, density;
    real_normal_f32(x, &cdf, &density);
    return density;
}

/* One loop per function and instruction set. */
#define LOOP(NAME, VALUE)                                                                                              \
    static void NAME(int64_t n, const float *x, float *y)                                                              \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            y[i] = VALUE(x[i]);                                                                                        \
    }
#define LOOPS(SET, TARGET)                                                                                             \
    TARGET LOOP(exp_##SET, real_exp_f32)                                                                               \
    TARGET LOOP(log_##SET, real_log_f32)                                                                               \
    TARGET LOOP(tanh_##SET, real_tanh_f32)                                                                             \
    TARGET LOOP(sigmoid_##SET, real_sigmoid_f32)                                                                       \
    TARGET LOOP(softplus_##SET, softplus_tail_f32)                                                                     \
    TARGET LOOP(cdf_##SET, cdf_of)                                                                                     \
    TARGET LOOP(density_##SET, density_of)
#ifdef EK_MULTIVERSION
LOOPS(base, )
LOOPS(avx2, __attribute__((target("avx2,fma"))))
LOOPS(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))))
#define SETS(NAME) {NAME##_base, NAME##_avx2, NAME##_avx512}
#else
LOOPS(base, )
#define SETS(NAME) {NAME##_base, NAME##_base, NAME##_base}
#endif

/* Instruction sets that this machine has, of base, avx2, avx512. */
static int count_sets(void)
{
#ifdef EK_MULTIVERSION
    return !__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ? 1
           : !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl") ? 2 : 3;
#else
    return 1;
#endif
}

/* f(a) and f(−a) in double for a ≥ 0.  Most floats are so small that the first terms of the series are the value to
 * less than 2⁻⁴⁵ of it. */
typedef struct {
    double plus, minus;
} values;

static values exp_of(double a)
{
    if (a < 0x1p-23)
        return (values){1 + a + a * a / 2, 1 - a + a * a / 2};
    const double e = exp(a);
    return (values){e, 1 / e};
}

/* Away from 1, where no digits cancel, ln(2ⁿ·m) = n·ln 2 + ln m with a table of ln m. */
static values log_of(double a)
{
    static double table[1 << 23];
    const double minus = a == 0 ? -INFINITY : NAN;
    if (table[1] == 0)
        for (int i = 0; i < 1 << 23; i++)
            table[i] = log(1 + ldexp(i, -23));
    if (a < FLT_MIN || (a >= 0.5 && a < 2) || isinf(a))
        return (values){log(a), minus};
    const uint32_t bits = bits_of_f32((float)a);
    return (values){((int)(bits >> 23) - 127) * 0.69314718055994530942 + table[bits & 0x7fffff], minus};
}

static values tanh_of(double a)
{
    const double t = a < 0x1p-11 ? a - a * a * a / 3 : a > 20 ? 1 : tanh(a);
    return (values){t, -t};
}

static values sigmoid_of(double a)
{
    if (a < 0x1p-15)
        return (values){0.5 + a / 4, 0.5 - a / 4};
    const double e = exp(-a);
    return (values){1 / (1 + e), e / (1 + e)};
}

static values softplus_of(double a)
{
    const double s = a < 0x1p-22 ? 0.69314718055994530942 - a / 2 + a * a / 8 : log1p(exp(-a));
    return (values){s, s};
}

static values normal_of(double a)
{
    if (a < 0x1p-16)
        return (values){0.5 + a * 0.39894228040143267794, 0.5 - a * 0.39894228040143267794};
    const double tail = a > 40 ? 0 : 0.5 * erfc(a * 0.70710678118654752440);
    return (values){1 - tail, tail};
}

static values density_of_normal(double a)
{
    const double d = 0.39894228040143267794 * (a < 0x1p-12 ? 1 - a * a / 2 : a > 40 ? 0 : exp(-0.5 * a * a));
    return (values){d, d};
}

/* Below `small` and above `large` a function is constant, or x, from the bounds of its terms and the limits its code
 * puts on its argument: one float in 61 will do there always. */
static const struct function {
    const char *name;
    double ulp; /* the largest error, in units in the last place, that the header states */
    float small, large;
    loop *run[3];
    values (*reference)(double a);
} functions[] = {
    {"exp", 0.99, 0x1p-30f, 256, SETS(exp), exp_of},
    {"log", 0.88, 0, INFINITY, SETS(log), log_of},
    {"tanh", 1.42, 0x1p-30f, 256, SETS(tanh), tanh_of},
    {"sigmoid", 2.41, 0x1p-30f, 256, SETS(sigmoid), sigmoid_of},
    {"softplus_tail", 1.71, 0x1p-30f, 256, SETS(softplus), softplus_of},
    {"Φ", 4.88, 0x1p-30f, 256, SETS(cdf), normal_of},
    {"φ", 2.09, 0x1p-30f, 256, SETS(density), density_of_normal},
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

/* ---- errors over all floats ------------------------------------------------------------------------------------- */

/* |y − value| in units of the last place of floats of the size of `value`; ∞ counts as 2¹²⁸.  NaN for NaN. */
EK_INLINE double error_in_ulp(float y, double value)
{
    const double top = 0x1p128, near = value > top ? top : value < -top ? -top : value;
    const double got = y > FLT_MAX ? top : y < -FLT_MAX ? -top : y;
    int64_t bits;
    memcpy(&bits, &near, sizeof bits);
    int64_t exponent = (bits >> 52 & 0x7ff) - 1023;
    exponent = exponent < -126 ? -126 : exponent > 127 ? 127 : exponent;
    bits = (1023 + 23 - exponent) << 52;
    double per_ulp;
    memcpy(&per_ulp, &bits, sizeof per_ulp);
    return fabs(got - near) * per_ulp;
}

/* The largest; ∞ where one of y and value is NaN and the other is not. */
EK_KERNEL static double largest_error(const float *y, const double *value)
{
    enum { LANES = 32 };
    double lane[LANES] = {0};
    for (int i = 0; i < BLOCK; i += LANES)
        for (int l = 0; l < LANES; l++) {
            const double error = (y[i + l] != y[i + l]) != (value[i + l] != value[i + l])
                                     ? INFINITY : error_in_ulp(y[i + l], value[i + l]);
            lane[l] = error > lane[l] ? error : lane[l];
        }
    double largest = 0;
    for (int l = 0; l < LANES; l++)
        largest = fmax(largest, lane[l]);
    return largest;
}

typedef struct {
    double error;
    float at;
} worst;

/* One in `stride` floats from `from` to `to`, and their negatives. */
static void sweep(const struct function *f, float from, float to, uint32_t stride, worst *found)
{
    static float x[2][BLOCK], y[2][BLOCK];
    static double value[2][BLOCK];
    const uint32_t last = bits_of_f32(to);
    for (uint32_t begin = bits_of_f32(from); begin <= last; begin += BLOCK * stride) {
        for (uint32_t i = 0; i < BLOCK; i++) {
            const uint32_t bits = begin + i * stride;
            x[0][i] = float_of_bits_f32(bits < last ? bits : last);
            x[1][i] = -x[0][i];
            const values both = f->reference(x[0][i]);
            value[0][i] = both.plus;
            value[1][i] = both.minus;
        }
        for (int sign = 0; sign < 2; sign++) {
            f->run[count_sets() - 1](BLOCK, x[sign], y[sign]);
            const double error = largest_error(y[sign], value[sign]);
            for (int i = 0; error > found->error && i < BLOCK; i++)
                if (!(error_in_ulp(y[sign][i], value[sign][i]) < error))
                    *found = (worst){error, x[sign][i]};
        }
    }
}

START_TEST(errors_are_those_stated)
{
    const struct function *f = &functions[_i];
    worst found = {0, 0};
    sweep(f, 0, f->small, 61, &found);
    sweep(f, f->small, f->large, getenv("EK_TEST_EVERY_FLOAT") ? 1 : 61, &found);
    sweep(f, f->large, INFINITY, 61, &found);
    ck_assert_msg(found.error <= f->ulp, "%s: %.3f ulp at %a, expected %g at most", f->name, found.error, found.at,
                  f->ulp);
}
END_TEST

static bool same_bits(const float *a, const float *b)
{
    return memcmp(a, b, sizeof *a) == 0 || (isnan(*a) && isnan(*b));
}

/* ---- special points --------------------------------------------------------------------------------------------- */

/* x, then what the functions in their order give, as C99's Annex F has it where it has the function. */
START_TEST(special_points)
{
    const float tiny = 0x1p-149f, half_ln_2 = 0x1.62e43p-1f, peak = 0x1.988454p-2f;
    const float cases[][1 + FUNCTIONS] = {
        {0.0f, 1, -INFINITY, 0.0f, 0.5f, half_ln_2, 0.5f, peak},
        {-0.0f, 1, -INFINITY, -0.0f, 0.5f, half_ln_2, 0.5f, peak},
        {INFINITY, INFINITY, INFINITY, 1, 1, 0, 1, 0},
        {-INFINITY, 0, NAN, -1, 0, 0, 0, 0},
        {FLT_MAX, INFINITY, 0x1.62e43p6f, 1, 1, 0, 1, 0},
        {-FLT_MAX, 0, NAN, -1, 0, 0, 0, 0},
        {tiny, 1, -0x1.9d1dap6f, tiny, 0.5f, half_ln_2, 0.5f, peak},
        {-tiny, 1, NAN, -tiny, 0.5f, half_ln_2, 0.5f, peak},
        {NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const struct function *f = &functions[_i];
        const float x = cases[c][0], expected = cases[c][1 + _i];
        float y;
        f->run[0](1, &x, &y);
        ck_assert_msg(same_bits(&y, &expected), "%s(%a) = %a, expected %a", f->name, x, y, expected);
    }
}
END_TEST

/* The floats on either side of overflow, and of where the nearest float is 0. */
START_TEST(limits_of_exp)
{
    const float x[] = {0x1.62e42ep6f, 0x1.62e43p6f, -0x1.9fe368p6f, -0x1.9fe36ap6f};
    float y[4];
    exp_base(4, x, y);
    ck_assert(y[0] <= FLT_MAX && y[0] > 0x1.ffffp127f);
    ck_assert(y[1] == INFINITY);
    ck_assert(y[2] == 0x1p-149f);
    ck_assert(y[3] == 0);
}
END_TEST

/* ---- the same bits everywhere ----------------------------------------------------------------------------------- */

/* A mixture of sizes and signs, special points among them. */
static void fill(int64_t n, float *x)
{
    ek_rng rng = ek_rng_seed(7);
    for (int64_t i = 0; i < n; i++) {
        const double u = 2 * ek_rng_uniform(&rng) - 1, power = copysign(ldexp(1, (int)(277 * fabs(u)) - 149), u);
        x[i] = (float)(i % 3 == 0 ? 6 * u : i % 3 == 1 ? 110 * u : power);
    }
    const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, FLT_MAX, FLT_MIN, 0x1p-149f};
    for (int64_t i = 0; i < n; i += 29)
        x[i] = special[i / 29 % 8];
}

enum { LONGEST = 67, OFFSETS = 16 };

START_TEST(the_place_in_an_array_changes_no_bit)
{
    const struct function *f = &functions[_i];
    static _Alignas(64) float x[BLOCK], whole[BLOCK], part[LONGEST + OFFSETS + 1];
    fill(BLOCK, x);
    f->run[0](BLOCK, x, whole);
    for (int set = 0; set < count_sets(); set++)
        for (int n = 1; n <= LONGEST; n++)
            for (int offset = 0; offset < OFFSETS; offset++) {
                const float *from = x + (n * 59 + offset) % (BLOCK - LONGEST);
                part[offset + n] = 42;
                f->run[set](n, from, part + offset);
                for (int i = 0; i < n; i++)
                    ck_each(same_bits(&part[offset + i], &whole[from - x + i]),
                            "%s, set %d, %d numbers at %d: element %d is %a, expected %a", f->name, set, n, offset, i,
                            part[offset + i], whole[from - x + i]);
                ck_each(part[offset + n] == 42, "%s writes past its end", f->name);
            }
}
END_TEST

/* FNV-1a over the bits of one result in 9973.  A new number here says that the results of the library have changed. */
START_TEST(bits_are_those_of_every_compiler)
{
    static const uint64_t expected[FUNCTIONS] = {
        0x9645dfd0113d510eu, 0x82a9160e721a9a87u, 0x70aa94377aeb044fu, 0x9ec9b75f70708183u,
        0x5bec311f0a540801u, 0x9a8e19bf5ae2ab55u, 0x78dc9e09c5849619u,
    };
    const struct function *f = &functions[_i];
    static float x[BLOCK], y[BLOCK];
    for (int set = 0; set < count_sets(); set++) {
        uint64_t hash = 14695981039346656037u, next = 0;
        while (next <= UINT32_MAX) {
            int n = 0;
            for (; n < BLOCK && next <= UINT32_MAX; n++, next += 9973)
                x[n] = float_of_bits_f32((uint32_t)next);
            f->run[set](n, x, y);
            for (int i = 0; i < n; i++)
                hash = (hash ^ (isnan(y[i]) ? 0x7fc00000 : bits_of_f32(y[i]))) * 1099511628211u;
        }
        ck_assert_msg(hash == expected[_i], "%s, set %d: %#llx, expected %#llx", f->name, set, (unsigned long long)hash,
                      (unsigned long long)expected[_i]);
    }
}
END_TEST

static ek_tensor *softplus_1(ek_tape *tape, ek_tensor *x)
{
    return ek_softplus(tape, x, 1, INFINITY);
}

/* y of the ops for each number of elements, from the values above. */
START_TEST(ops_give_these_values)
{
    enum { OPS = 6 };
    static ek_tensor *(*const op[OPS])(ek_tape *tape, ek_tensor *x) = {ek_exp, ek_log, ek_tanh, ek_sigmoid, softplus_1,
                                                                       ek_gelu};
    static float x[BLOCK], y[BLOCK];
    fill(BLOCK, x);
    functions[_i].run[0](BLOCK, x, y);
    ek_tape *tape = ek_tape_new();
    for (int64_t n = 1; n <= LONGEST; n++) {
        ek_tensor *input = ek_from_array(EK_F32, EK_SHAPE(n), x + n), *output = op[_i](tape, input);
        ck_made(output);
        for (int64_t i = 0; i < n; i++) {
            const float *got = ek_tensor_data(output);
            float value = y[n + i];
            if (op[_i] == ek_gelu)
                value *= x[n + i];
            else if (op[_i] == softplus_1)
                value += x[n + i] > 0 ? x[n + i] : 0;
            ck_each(same_bits(&got[i], &value), "%s, %lld of %lld: %a, expected %a", functions[_i].name, (long long)i,
                    (long long)n, got[i], value);
        }
        ek_tape_reset(tape);
        ek_tensor_free(input);
    }
    ek_tape_free(tape);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("vector math");
    TCase *tcase = tcase_create("vector math");
    tcase_add_loop_test(tcase, errors_are_those_stated, 0, FUNCTIONS);
    tcase_add_loop_test(tcase, special_points, 0, FUNCTIONS);
    tcase_add_test(tcase, limits_of_exp);
    tcase_add_loop_test(tcase, the_place_in_an_array_changes_no_bit, 0, FUNCTIONS);
    tcase_add_loop_test(tcase, bits_are_those_of_every_compiler, 0, FUNCTIONS);
    tcase_add_loop_test(tcase, ops_give_these_values, 0, 6);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
#endif
