/* Pooling over time: mean, maximum and last value of the valid steps against plain loops, over layouts, masks and
 * types; what the padding may not do; ties, NaN and empty sequences; the layer. */
#include "core.h"
#include "support_ops.h"

#include <float.h>

typedef struct pool_options {
    int time_axis;
    ek_time_pooling pooling;
} pool_options;

static ek_tensor *call_pool_time(ek_tape *t, ek_tensor *const *in, const void *options)
{
    const pool_options *o = options;
    return ek_pool_time(t, in[0], o->time_axis, o->pooling);
}

static void set(ek_tensor *x, int64_t at, double value)
{
    if (ek_tensor_dtype(x) == EK_F32)
        ek_data_f32(x)[at] = (float)value;
    else
        ek_data_f64(x)[at] = value;
}

/* Row-major strides. */
static void find_strides(ek_shape shape, int64_t *stride)
{
    int64_t numel = 1;
    for (int i = shape.ndim - 1; i >= 0; i--) {
        stride[i] = numel;
        numel *= shape.dim[i];
    }
}

/* ---- against plain loops ----------------------------------------------------------------------------------------- */

typedef struct layout {
    ek_shape shape;
    int batch_axis, time_axis;
} layout;

static const layout layouts[] = {
    {{2, {3, 5}}, 0, 1},          {{2, {5, 3}}, 1, 0},           {{3, {4, 7, 3}}, 0, 1},   {{3, {7, 4, 3}}, 1, 0},
    {{3, {4, 3, 70}}, 0, 2},      {{5, {2, 3, 2, 7, 3}}, 1, 3},  {{5, {2, 7, 2, 3, 2}}, 3, 1},
    {{4, {2, 3, 1, 5}}, 2, 1},    {{3, {4, 9, 300}}, 0, 1},      {{3, {1, 6, 2}}, 0, 1},
};
enum { LAYOUTS = sizeof layouts / sizeof layouts[0] };

/* y and dx of one pooling, where `start` is the offset of a sequence's first step. */
static void pool_plainly(ek_time_pooling pooling, const ek_tensor *x, int64_t start, int64_t stride, int64_t steps,
                         const bool *valid, double dy, double *y, double *magnitude, double *dx)
{
    double sum = 0;
    int64_t count = 0, best = -1, last = -1;
    *magnitude = 0;
    for (int64_t s = 0; s < steps; s++) {
        double value = ek_tensor_at(x, start + s * stride);
        if (!valid[s])
            continue;
        sum += value;
        *magnitude += fabs(value);
        best = best < 0 || value > ek_tensor_at(x, start + best * stride) ? s : best;
        last = s;
        count++;
    }
    *magnitude /= (double)count;
    *y = pooling == EK_POOL_MEAN ? sum / (double)count
                                 : ek_tensor_at(x, start + (pooling == EK_POOL_MAX ? best : last) * stride);
    for (int64_t s = 0; s < steps; s++)
        dx[start + s * stride] = !valid[s]                       ? 0
                                 : pooling == EK_POOL_MEAN       ? dy / (double)count
                                 : s == (pooling == EK_POOL_MAX ? best : last) ? dy
                                                                               : 0;
}

/* The padding is NaN. */
static void check_layout(const layout *l, ek_dtype dtype, ek_time_pooling pooling, bool holes)
{
    ek_rng rng = ek_rng_seed(7);
    ek_tensor *x = random_leaf(dtype, l->shape, &rng);
    const int64_t n = l->shape.dim[l->batch_axis], steps = l->shape.dim[l->time_axis], numel = ek_tensor_numel(x);
    int64_t stride[EK_MAX_NDIM];
    bool *mask = calloc((size_t)(n * steps), sizeof *mask);
    double *dx = calloc((size_t)numel, sizeof *dx);
    find_strides(l->shape, stride);
    for (int64_t i = 0; i < n; i++) {
        int64_t length = 1 + ek_rng_below(&rng, steps);
        for (int64_t s = 0; s < steps; s++)
            mask[i * steps + s] = holes ? s == length - 1 || ek_rng_below(&rng, 2) : s < length;
    }
    for (int64_t e = 0; e < numel; e++)
        if (!mask[e / stride[l->batch_axis] % n * steps + e / stride[l->time_axis] % steps])
            set(x, e, NAN);
    ck_ok(ek_tensor_set_mask(x, mask, n, steps, l->batch_axis, l->time_axis));
    ek_shape out = l->shape;
    out.ndim--;
    for (int i = l->time_axis; i < out.ndim; i++)
        out.dim[i] = out.dim[i + 1];
    ek_tensor *dy = ek_uniform(dtype, out, -1, 1, &rng);
    const pool_options options = {l->time_axis - l->shape.ndim, pooling};
    ek_tensor *y = run_op(call_pool_time, &x, 1, &options, dy);
    ck_assert_int_eq(ek_tensor_numel(y), numel / steps);
    ck_assert_int_eq(ek_tensor_ndim(y), out.ndim);
    const double epsilon = dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    for (int64_t e = 0, place = 0; e < numel; e++) {
        if (e / stride[l->time_axis] % steps)
            continue;
        double expected, magnitude;
        pool_plainly(pooling, x, e, stride[l->time_axis], steps, mask + e / stride[l->batch_axis] % n * steps,
                     ek_tensor_at(dy, place), &expected, &magnitude, dx);
        /* At most 70 additions in double, then one rounding to the type. */
        ck_each(fabs(ek_tensor_at(y, place) - expected) <=
                    (pooling == EK_POOL_MEAN ? (epsilon + 70 * DBL_EPSILON) * magnitude : 0),
                "place %lld is %.17g, expected %.17g", (long long)place, ek_tensor_at(y, place), expected);
        place++;
    }
    for (int64_t e = 0; e < numel; e++) /* a quotient rounded to the type */
        ck_each(fabs(ek_tensor_at(ek_tensor_grad(x), e) - dx[e]) <= epsilon * fabs(dx[e]),
                "gradient %lld is %.17g, expected %.17g", (long long)e, ek_tensor_at(ek_tensor_grad(x), e), dx[e]);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_tensor_free(y);
    free(mask);
    free(dx);
}

START_TEST(pooling_follows_the_definition)
{
    for (int pooling = 0; pooling < 3; pooling++)
        for (int k = 0; k < 4; k++)
            check_layout(&layouts[_i], k & 1 ? EK_F32 : EK_F64, (ek_time_pooling)pooling, k & 2);
}
END_TEST

/* ---- independence ------------------------------------------------------------------------------------------------ */

/* One (T, D) sequence in a batch of n of so many steps, as sequence `at`; the others, and the padding, are noise. */
static ek_tensor *embed(const ek_tensor *sequence, int64_t n, int64_t steps, int64_t at, int order, bool holes,
                        ek_rng *rng)
{
    const int64_t length = ek_tensor_dim(sequence, 0), width = ek_tensor_dim(sequence, 1);
    const ek_shape shapes[] = {EK_SHAPE(n, steps, width), EK_SHAPE(steps, n, width), EK_SHAPE(n, width, steps)};
    const int batch[] = {0, 1, 0}, time[] = {1, 0, 2}, other[] = {2, 2, 1};
    ek_tensor *x = ek_normal(ek_tensor_dtype(sequence), shapes[order], 0, 100, rng);
    int64_t stride[EK_MAX_NDIM], used = 0;
    bool *mask = calloc((size_t)(n * steps), sizeof *mask);
    ck_made(x);
    find_strides(shapes[order], stride);
    for (int64_t i = 0; i < n; i++)
        mask[i * steps + ek_rng_below(rng, steps)] = i != at;
    for (int64_t s = 0; s < steps; s++) {
        bool gap = holes && steps - s > length - used && ek_rng_below(rng, 3) == 0;
        mask[at * steps + s] = !gap && used < length;
        for (int64_t j = 0; !gap && used < length && j < width; j++)
            set(x, at * stride[batch[order]] + s * stride[time[order]] + j * stride[other[order]],
                ek_tensor_at(sequence, used * width + j));
        used += !gap && used < length;
    }
    ck_assert_int_eq(used, length);
    ck_ok(ek_tensor_set_mask(x, mask, n, steps, batch[order], time[order]));
    free(mask);
    return x;
}

/* The bits of a sequence's result depend on its valid steps and the order of axes alone. */
static void check_independence(ek_dtype dtype, ek_time_pooling pooling, int order, int64_t width)
{
    enum { LENGTH = 83 };
    const int time[] = {1, 0, 2};
    ek_rng rng = ek_rng_seed(11);
    ek_tensor *sequence = ek_normal(dtype, EK_SHAPE(LENGTH, width), 3, 1, &rng);
    const pool_options options = {time[order], pooling};
    ek_tensor *bare = embed(sequence, 1, LENGTH, 0, order, false, &rng);
    ek_tensor_clear_lengths(bare);
    ek_tensor *alone = run_op(call_pool_time, &bare, 1, &options, NULL);
    for (int k = 0; k < 8; k++) {
        const int64_t n = k < 2 ? 1 : 5, at = n / 2;
        ek_tensor *x = embed(sequence, n, LENGTH + 40 * (k % 3), at, order, k & 1, &rng);
        ek_tensor *y = run_op(call_pool_time, &x, 1, &options, NULL);
        for (int64_t j = 0; j < width; j++)
            ck_each(ek_tensor_at(y, at * width + j) == ek_tensor_at(alone, j),
                    "variant %d, column %lld: %.17g against %.17g", k, (long long)j,
                    ek_tensor_at(y, at * width + j), ek_tensor_at(alone, j));
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
    ek_tensor_free(sequence);
    ek_tensor_free(bare);
    ek_tensor_free(alone);
}

START_TEST(padding_and_neighbours_change_no_bit)
{
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        for (int pooling = 0; pooling < 3; pooling++)
            for (int order = 0; order < 3; order++) {
                check_independence((ek_dtype)dtype, (ek_time_pooling)pooling, order, 1);
                check_independence((ek_dtype)dtype, (ek_time_pooling)pooling, order, 9);
            }
}
END_TEST

START_TEST(threads_change_no_bit)
{
    ek_rng rng = ek_rng_seed(5);
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        for (int order = 0; order < 3; order++) {
            const ek_shape shapes[] = {EK_SHAPE(37, 50, 40), EK_SHAPE(50, 37, 40), EK_SHAPE(37, 40, 50)};
            const int batch[] = {0, 1, 0}, time[] = {1, 0, 2};
            ek_tensor *x = random_leaf((ek_dtype)dtype, shapes[order], &rng);
            int64_t lengths[37];
            for (int i = 0; i < 37; i++)
                lengths[i] = 1 + ek_rng_below(&rng, 50);
            ck_ok(ek_tensor_set_lengths(x, lengths, 37, batch[order], time[order]));
            for (int pooling = 0; pooling < 3; pooling++)
                assert_same_for_any_threads("pool_time", call_pool_time, &x, 1,
                                            &(pool_options){time[order], (ek_time_pooling)pooling});
            ek_tensor_free(x);
        }
}
END_TEST

/* ---- edges ------------------------------------------------------------------------------------------------------- */

static void assert_row(const char *what, const ek_tensor *got, const double *expected)
{
    for (int64_t i = 0; i < ek_tensor_numel(got); i++) {
        double g = ek_tensor_at(got, i);
        ck_assert_msg(g == expected[i] || (isnan(g) && isnan(expected[i])), "%s %lld is %g, expected %g", what,
                      (long long)i, g, expected[i]);
    }
}

START_TEST(first_of_equals_and_nan_win)
{
    static const double x[4][4] = {{1, 3, 3, 9}, {1, NAN, 5, NAN}, {-INFINITY, -INFINITY, 0, 0}, {NAN, INFINITY, 0, 0}};
    static const double y[] = {3, NAN, -INFINITY, NAN};
    static const double dx[16] = {0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *t = leaf((ek_dtype)dtype, EK_SHAPE(4, 4), &x[0][0]);
        ck_ok(ek_tensor_set_lengths(t, (int64_t[]){3, 4, 2, 2}, 4, 0, 1));
        ek_tensor *max = run_op(call_pool_time, &t, 1, &(pool_options){1, EK_POOL_MAX}, NULL);
        assert_row("max", max, y);
        assert_row("gradient", ek_tensor_grad(t), dx);
        ek_tensor_free(t);
        ek_tensor_free(max);
    }
}
END_TEST

static ek_tensor *call_pool_window(ek_tape *t, ek_tensor *const *in, const void *options)
{
    const pool_options *o = options;
    return ek_pool_time(t, ek_slice(t, in[0], o->time_axis, 2, 4), o->time_axis, o->pooling);
}

/* Sequences of 1, 3 and 4 steps seen from step 2: none, one and two are left. */
START_TEST(no_step_left_gives_zero)
{
    static const double x[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const double y[3][3] = {{0, 7, 11.5}, {0, 7, 12}, {0, 7, 12}};
    static const double dx[3][12] = {{[6] = 1, [10] = 0.5, [11] = 0.5}, {[6] = 1, [11] = 1}, {[6] = 1, [11] = 1}};
    for (int pooling = 0; pooling < 3; pooling++) {
        ek_tensor *t = leaf(EK_F64, EK_SHAPE(3, 4), x);
        ck_ok(ek_tensor_set_lengths(t, (int64_t[]){1, 3, 4}, 3, 0, 1));
        ek_tensor *z = run_op(call_pool_window, &t, 1, &(pool_options){1, (ek_time_pooling)pooling}, NULL);
        assert_row("value", z, y[pooling]);
        assert_row("gradient", ek_tensor_grad(t), dx[pooling]);
        ek_tensor_free(t);
        ek_tensor_free(z);
    }
    static const ek_shape empty[] = {{3, {0, 3, 2}}, {3, {2, 0, 2}}, {3, {2, 3, 0}}};
    for (int i = 0; i < 3; i++)
        for (int pooling = 0; pooling < 3; pooling++) {
            ek_tensor *t = ek_zeros(EK_F32, empty[i]);
            ck_ok(ek_tensor_set_requires_grad(t, true));
            ek_tensor *z = run_op(call_pool_time, &t, 1, &(pool_options){1, (ek_time_pooling)pooling}, NULL);
            ck_assert_int_eq(ek_tensor_numel(z), i == 1 ? 4 : 0);
            assert_row("no steps", z, (double[4]){0});
            ek_tensor_free(t);
            ek_tensor_free(z);
        }
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3)), *tokens = ek_zeros(EK_I64, EK_SHAPE(2, 3)), *none = NULL;
    ek_tensor *scalar = ek_ones(EK_F32, EK_SCALAR);
    assert_op_fails(EK_ERR_ARGUMENT, "pool_time: expected an axis of (2, 3), got 2; negative axes count from the end",
                    call_pool_time, &x, 1, &(pool_options){2, EK_POOL_MEAN});
    assert_op_fails(EK_ERR_ARGUMENT, "pool_time: expected an axis of (), got 0", call_pool_time, &scalar, 1,
                    &(pool_options){0, EK_POOL_MEAN});
    assert_op_fails(EK_ERR_ARGUMENT, "pool_time: expected EK_POOL_MEAN, EK_POOL_MAX or EK_POOL_LAST, got 3",
                    call_pool_time, &x, 1, &(pool_options){1, (ek_time_pooling)3});
    assert_op_fails(EK_ERR_DTYPE, "pool_time: expected float32 or float64 for input 0, got int64", call_pool_time,
                    &tokens, 1, &(pool_options){1, EK_POOL_LAST});
    assert_op_fails(EK_ERR_ARGUMENT, "pool_time: input 0 is NULL", call_pool_time, &none, 1,
                    &(pool_options){1, EK_POOL_MAX});
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){2, 3}, 2, 0, 1));
    assert_op_fails(EK_ERR_SHAPE, "pool_time: expected time axis 1, along which the lengths of the input (2, 3) lie, "
                                  "got 0; ek_with_lengths(tape, x, NULL) takes them off", call_pool_time, &x, 1,
                    &(pool_options){-2, EK_POOL_MAX});
    ek_tensor_free(x);
    ek_tensor_free(tokens);
    ek_tensor_free(scalar);
}
END_TEST

START_TEST(the_layer_is_the_op)
{
    ek_rng rng = ek_rng_seed(2);
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(3, 4, 5), 0, 1, &rng);
    static const char *const names[] = {"pool_time(mean, axis=1)", "pool_time(max, axis=1)", "pool_time(last, axis=1)"};
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){4, 1, 2}, 3, 0, 1));
    for (int pooling = 0; pooling < 3; pooling++) {
        ek_module *layer = ek_pool_time_layer(1, (ek_time_pooling)pooling);
        ek_tape *t = ek_tape_new();
        ck_made(layer);
        ck_assert_str_eq(ek_module_describe(layer), names[pooling]);
        ek_tensor *y = ek_forward(layer, t, x);
        ck_made(y);
        ck_assert(ek_tensor_equal(y, ek_pool_time(t, x, 1, (ek_time_pooling)pooling)));
        ek_tape_free(t);
        ek_module_free(layer);
    }
    ck_refused(EK_ERR_ARGUMENT, "pool_time: expected EK_POOL_MEAN, EK_POOL_MAX or EK_POOL_LAST, got -1",
               ek_pool_time_layer(1, (ek_time_pooling)-1));
    ek_tensor_free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pool_time");
    TCase *tcase = tcase_create("pool_time");
    tcase_add_loop_test(tcase, pooling_follows_the_definition, 0, LAYOUTS);
    tcase_add_test(tcase, padding_and_neighbours_change_no_bit);
    tcase_add_test(tcase, threads_change_no_bit);
    tcase_add_test(tcase, first_of_equals_and_nan_win);
    tcase_add_test(tcase, no_step_left_gives_zero);
    tcase_add_test(tcase, bad_arguments_are_refused);
    tcase_add_test(tcase, the_layer_is_the_op);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
