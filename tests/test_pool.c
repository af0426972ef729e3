/* Pooling: values and gradients against loops, NaN and padding in a max, threads, errors. */
#include "support_ops.h"

#include <float.h>

enum what { MAX, AVG, ADAPTIVE };

/* A one-dimensional case has h = kh = 1. */
typedef struct sizes {
    enum what what;
    bool one_d;
    int64_t n, c, h, w, kh, kw; /* kh, kw: output sizes of an adaptive pool */
    ek_pool_opts opts;
    const char *text; /* of a failure */
    ek_status status;
} sizes;

static ek_tensor *call(ek_tape *t, ek_tensor *const *in, const void *user)
{
    const sizes *s = user;
    ek_pool_opts opts = s->opts;
    if (s->one_d) {
        opts.stride[0] = opts.stride[1];
        opts.padding[0] = opts.padding[1];
        opts.stride[1] = opts.padding[1] = -7; /* must not be looked at */
    }
    switch (s->what) {
    case MAX: return s->one_d ? ek_max_pool1d(t, in[0], s->kw, &opts) : ek_max_pool2d(t, in[0], s->kh, s->kw, &opts);
    case AVG: return s->one_d ? ek_avg_pool1d(t, in[0], s->kw, &opts) : ek_avg_pool2d(t, in[0], s->kh, s->kw, &opts);
    case ADAPTIVE: break;
    }
    return s->one_d ? ek_adaptive_avg_pool1d(t, in[0], s->kw) : ek_adaptive_avg_pool2d(t, in[0], s->kh, s->kw);
}

/* Inputs first … last−1 of output o, and what an average divides by. */
typedef struct span {
    int64_t first, last, size;
} span;

static span window(const sizes *s, int axis, int64_t o)
{
    int64_t in = axis ? s->w : s->h, kernel = axis ? s->kw : s->kh;
    if (s->what == ADAPTIVE) {
        int64_t first = o * in / kernel, last = ((o + 1) * in + kernel - 1) / kernel;
        return (span){first, last, last - first};
    }
    int64_t stride = s->opts.stride[axis] == EK_STRIDE_IS_KERNEL ? kernel : s->opts.stride[axis];
    int64_t first = o * stride - s->opts.padding[axis], last = first + kernel;
    span clipped = {first < 0 ? 0 : first, last > in ? in : last, kernel};
    if (!s->opts.count_include_pad)
        clipped.size = clipped.last - clipped.first;
    return clipped;
}

static int64_t outputs(const sizes *s, int axis)
{
    int64_t in = axis ? s->w : s->h, kernel = axis ? s->kw : s->kh;
    int64_t stride = s->opts.stride[axis] == EK_STRIDE_IS_KERNEL ? kernel : s->opts.stride[axis];
    return s->what == ADAPTIVE ? kernel : (in + 2 * s->opts.padding[axis] - kernel) / stride + 1;
}

/* One output: its value, and dy spread over its window. */
static double one_window(const sizes *s, const ek_tensor *x, int64_t plane, span rows, span columns, double dy,
                         double *dx)
{
    double sum = 0;
    int64_t best = -1;
    for (int64_t i = rows.first; i < rows.last; i++)
        for (int64_t j = columns.first; j < columns.last; j++) {
            int64_t at = (plane * s->h + i) * s->w + j;
            double v = ek_tensor_at(x, at), top = best < 0 ? -INFINITY : ek_tensor_at(x, best);
            sum += v;
            if (best < 0 || v > top || (isnan(v) && !isnan(top)))
                best = at;
            if (s->what != MAX)
                dx[at] += dy / (double)(rows.size * columns.size);
        }
    if (s->what != MAX)
        return sum / (double)(rows.size * columns.size);
    dx[best] += dy;
    return ek_tensor_at(x, best);
}

static ek_tensor *make_input(const sizes *s, ek_dtype dtype, ek_rng *rng)
{
    ek_shape shape = s->one_d ? EK_SHAPE(s->n, s->c, s->w) : EK_SHAPE(s->n, s->c, s->h, s->w);
    ek_tensor *x = ek_uniform(dtype, shape, -1, 1, rng);
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

/* A max is exact.  A mean of at most 1 in magnitude is summed in double and rounded once: relative error u and, for
 * float64, K·u more for K elements.  A gradient adds up to K quotients in the tensor's type, each rounded: K·(K + 1)·u
 * for |dy| ≤ 1 (Higham 2002, §3.1; u is half the epsilon). */
static double bound(const sizes *s, ek_dtype dtype, bool gradient)
{
    double u = (dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON) / 2, k = (double)(s->kh * s->kw + 4);
    return gradient ? k * (k + 1) * u : s->what == MAX ? 0 : 2 * u + 2 * k * DBL_EPSILON;
}

static void check_input(const sizes *s, ek_tensor *x, ek_rng *rng)
{
    ek_dtype dtype = ek_tensor_dtype(x);
    int64_t oh = outputs(s, 0), ow = outputs(s, 1);
    ek_tensor *y = run_op(call, &x, 1, s, NULL), *dy = ek_uniform(dtype, ek_tensor_shape(y), -1, 1, rng);
    ck_assert_int_eq(ek_tensor_numel(y), s->n * s->c * oh * ow);
    ek_tensor_free(y);
    y = run_op(call, &x, 1, s, dy);
    ek_tensor *wanted = ek_zeros(EK_F64, ek_tensor_shape(y)), *dx = ek_zeros(EK_F64, ek_tensor_shape(x));
    for (int64_t at = 0; at < ek_tensor_numel(y); at++)
        ek_data_f64(wanted)[at] = one_window(s, x, at / (oh * ow), window(s, 0, at / ow % oh), window(s, 1, at % ow),
                                             ek_tensor_at(dy, at), ek_data_f64(dx));
    assert_close("y", y, wanted, 0, bound(s, dtype, false));
    assert_close("dx", ek_tensor_grad(x), dx, 0, bound(s, dtype, true));
    ek_tensor *all[] = {y, dy, wanted, dx};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
}

static sizes random_sizes(ek_rng *rng, int i)
{
    sizes s = {.what = (enum what)(i % 3), .one_d = i % 4 == 0, .n = ek_rng_below(rng, 4),
               .c = 1 + ek_rng_below(rng, 3), .h = 1 + ek_rng_below(rng, 8), .w = 1 + ek_rng_below(rng, 12)};
    s.opts.count_include_pad = ek_rng_below(rng, 2);
    for (int axis = 0; axis < 2; axis++) {
        int64_t in = axis ? s.w : s.h, kernel = 1 + ek_rng_below(rng, s.what == ADAPTIVE ? 9 : in);
        *(axis ? &s.kw : &s.kh) = kernel;
        s.opts.stride[axis] = ek_rng_below(rng, 3) ? 1 + ek_rng_below(rng, 4) : EK_STRIDE_IS_KERNEL;
        s.opts.padding[axis] = ek_rng_below(rng, kernel / 2 + 1);
    }
    if (s.one_d) {
        s.h = s.kh = s.opts.stride[0] = 1;
        s.opts.padding[0] = 0;
    }
    return s;
}

START_TEST(random_options)
{
    ek_rng rng = ek_rng_seed(1);
    for (int i = 0; i < 240; i++) {
        sizes s = random_sizes(&rng, i);
        ek_tensor *x = make_input(&s, i % 2 ? EK_F32 : EK_F64, &rng);
        check_input(&s, x, &rng);
        ek_tensor_free(x);
    }
}
END_TEST

/* NaN wins wherever it stands, −∞ and very negative numbers beat padding, the first of equals gets the gradient. */
START_TEST(special_values_in_a_max)
{
    sizes s = {.what = MAX, .n = 1, .c = 1, .h = 3, .w = 4, .kh = 3, .kw = 2, .opts = {{1, 1}, {1, 1}, true}};
    ek_rng rng = ek_rng_seed(2);
    for (int64_t i = 0; i < 12; i++) {
        ek_tensor *x = make_input(&s, EK_F32, &rng);
        ek_data_f32(x)[i] = NAN;
        check_input(&s, x, &rng);
        ek_data_f32(x)[(i + 5) % 12] = NAN;
        check_input(&s, x, &rng);
        ek_tensor_free(x);
    }
    const double low[] = {-INFINITY, -1e30, -1e30, -INFINITY, -INFINITY, -1e30,
                          -1e30,     -1e30, -2e30, -3e30,     -3e30,     -2e30};
    ek_tensor *x = leaf(EK_F64, EK_SHAPE(1, 1, 3, 4), low);
    check_input(&s, x, &rng);
    ek_tensor_free(x);
    x = ek_ones(EK_F32, EK_SHAPE(1, 1, 3, 4));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    check_input(&s, x, &rng);
    ek_tensor_free(x);
}
END_TEST

/* 2×2 side by side: rows of any length, odd ones too, with every order of few values, NaN among them. */
START_TEST(pairs)
{
    static const double values[] = {1, 2, -1, 0, NAN, -INFINITY, INFINITY, 2};
    ek_rng rng = ek_rng_seed(3);
    for (int64_t w = 2; w < 40; w++)
        for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
            sizes s = {.what = MAX, .n = 2, .c = 3, .h = 2 + w % 4, .w = w, .kh = 2, .kw = 2,
                       .opts = {{EK_STRIDE_IS_KERNEL, 2}, {0, 0}, true}};
            ek_tensor *x = make_input(&s, (ek_dtype)dtype, &rng);
            check_input(&s, x, &rng);
            for (int64_t i = 0; i < ek_tensor_numel(x); i++)
                if (dtype == EK_F32)
                    ek_data_f32(x)[i] = (float)values[ek_rng_below(&rng, 8)];
                else
                    ek_data_f64(x)[i] = values[ek_rng_below(&rng, 8)];
            check_input(&s, x, &rng);
            ek_tensor_free(x);
        }
}
END_TEST

START_TEST(defaults_and_inference)
{
    const double values[] = {1, 5, 2, 3, 4, 0};
    ek_tensor *x = leaf(EK_F32, EK_SHAPE(1, 1, 6), values);
    ek_tape *t = ek_tape_new();
    ck_ok(ek_tape_set_recording(t, false));
    ek_tensor *largest = ek_max_pool1d(t, x, 2, NULL), *mean = ek_avg_pool1d(t, x, 3, NULL);
    ck_made(largest);
    ck_made(mean);
    ck_assert_int_eq(ek_tensor_dim(largest, 2), 3);
    ck_assert(ek_tensor_at(largest, 0) == 5 && ek_tensor_at(largest, 1) == 3 && ek_tensor_at(largest, 2) == 4);
    ck_assert(fabs(ek_tensor_at(mean, 0) - 8.0 / 3) < 1e-6 && fabs(ek_tensor_at(mean, 1) - 7.0 / 3) < 1e-6);
    ek_tape_free(t);
    ek_tensor_free(x);
}
END_TEST

START_TEST(any_threads)
{
    ek_rng rng = ek_rng_seed(3);
    for (int i = 0; i < 3; i++) {
        sizes s = {.what = (enum what)i, .n = 9, .c = 11, .h = 30, .w = 33, .kh = 3, .kw = 3,
                   .opts = {{2, 1}, {1, 1}, true}};
        ek_tensor *x = make_input(&s, EK_F32, &rng);
        assert_same_for_any_threads("pooling", call, &x, 1, &s);
        ek_tensor_free(x);
    }
}
END_TEST

START_TEST(refused)
{
#define DEFAULTS {{EK_STRIDE_IS_KERNEL, EK_STRIDE_IS_KERNEL}, {0, 0}, true}
    static const sizes list[] = {
        {MAX, false, 1, 1, 4, 5, 5, 2, DEFAULTS,
         "max_pool2d: the kernel spans 5 (size 5, dilation 1), more than the height of 4 with padding 0 on both sides",
         EK_ERR_SHAPE},
        {AVG, true, 1, 1, 1, 5, 1, 6, DEFAULTS, "avg_pool1d: the kernel spans 6 (size 6, dilation 1), more than the "
                                                "length of 5", EK_ERR_SHAPE},
        {AVG, false, 1, 1, 4, 5, 2, 0, DEFAULTS,
         "avg_pool2d: expected a kernel size of 1 … 2147483647 for the width, got 0", EK_ERR_ARGUMENT},
        {MAX, false, 1, 1, 4, 5, 2, 2, {{0, 1}, {0, 0}, true},
         "max_pool2d: expected a stride of 1 … 2147483647 for the height, got 0", EK_ERR_ARGUMENT},
        {MAX, true, 1, 1, 1, 5, 1, 2, {{1, -2}, {0, 0}, true},
         "max_pool1d: expected a stride of 1 … 2147483647 for the length, got -2", EK_ERR_ARGUMENT},
        {MAX, false, 1, 1, 4, 5, 3, 3, {{1, 1}, {1, 2}, true},
         "max_pool2d: expected a padding of at most half the kernel for the width, got 2 and a kernel of 3",
         EK_ERR_ARGUMENT},
        {AVG, false, 1, 1, 4, 5, 3, 3, {{1, 1}, {-1, 0}, true},
         "avg_pool2d: expected a padding of 0 … 2147483647 for the height, got -1", EK_ERR_ARGUMENT},
        {MAX, false, 1, 1, 0, 5, 2, 2, {{1, 1}, {1, 1}, true},
         "max_pool2d: expected at least one element along axis 2, got (1, 1, 0, 5)", EK_ERR_SHAPE},
        {ADAPTIVE, false, 1, 1, 4, 0, 2, 2, DEFAULTS,
         "adaptive_avg_pool2d: expected at least one element along axis 3, got (1, 1, 4, 0)", EK_ERR_SHAPE},
        {ADAPTIVE, false, 1, 1, 4, 5, 2, 0, DEFAULTS,
         "adaptive_avg_pool2d: expected an output size of 1 … 2147483647, got 0", EK_ERR_ARGUMENT},
        {ADAPTIVE, true, 1, 1, 1, 5, 1, -1, DEFAULTS,
         "adaptive_avg_pool1d: expected an output size of 1 … 2147483647, got -1", EK_ERR_ARGUMENT}};
    ek_rng rng = ek_rng_seed(4);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        ek_tensor *x = make_input(&list[i], EK_F32, &rng);
        assert_op_fails(list[i].status, list[i].text, call, &x, 1, &list[i]);
        ek_tensor_free(x);
    }
    for (int i = 0; i < 3; i++) {
        static const char *const names[] = {"max_pool", "avg_pool", "adaptive_avg_pool"};
        sizes s = {.what = (enum what)i, .kh = 2, .kw = 2, .opts = DEFAULTS};
        char text[120];
        ek_tensor *flat = ek_ones(EK_F32, EK_SHAPE(3, 4)), *integers = ek_ones(EK_I64, EK_SHAPE(1, 1, 4, 4));
        for (int rank = 1; rank <= 2; rank++) {
            s.one_d = rank == 1;
            snprintf(text, sizeof text, "%s%dd: expected an input %s, got (3, 4)", names[i], rank,
                     rank == 1 ? "(N, C, L)" : "(N, C, H, W)");
            assert_op_fails(EK_ERR_SHAPE, text, call, &flat, 1, &s);
            snprintf(text, sizeof text, "%s%dd: expected float32 or float64 for input 0, got int64", names[i], rank);
            assert_op_fails(EK_ERR_DTYPE, text, call, &integers, 1, &s);
        }
        ek_tensor_free(flat);
        ek_tensor_free(integers);
    }
}
END_TEST

int main(void)
{
    return RUN_TESTS("pool", random_options, special_values_in_a_max, pairs, defaults_and_inference, any_threads,
                     refused);
}
