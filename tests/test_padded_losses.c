/* Losses of padded sequences: only valid positions count, with the same bits whatever the batch was padded to, and
 * nothing that stands in the padding leaves a trace. */
#include "support_ops.h"

#include <float.h>

typedef struct loss_options {
    ek_reduction reduction;
    ek_cross_entropy_opts cross_entropy;
} loss_options;

#define CALL(name, list)                                                                                               \
    static ek_tensor *call_##name(ek_tape *t, ek_tensor *const *in, const void *options)                               \
    {                                                                                                                  \
        const loss_options *o = options;                                                                               \
        return ek_##name list;                                                                                         \
    }
CALL(cross_entropy, (t, in[0], in[1], &o->cross_entropy))
CALL(mse_loss, (t, in[0], in[1], o->reduction))
CALL(l1_loss, (t, in[0], in[1], o->reduction))
CALL(huber_loss, (t, in[0], in[1], 0.75, o->reduction))
CALL(bce_with_logits, (t, in[0], in[1], o->reduction))

static const struct {
    const char *name;
    op_call call;
} elementwise[] = {{"mse_loss", call_mse_loss},
                   {"l1_loss", call_l1_loss},
                   {"huber_loss", call_huber_loss},
                   {"bce_with_logits", call_bce_with_logits}};
enum { ELEMENTWISE = sizeof elementwise / sizeof elementwise[0] };

/* The carriers of lengths: bit 0 for the first input, bit 1 for the second. */
enum { FIRST = 1, SECOND = 2, BOTH = 3 };

static void set(ek_tensor *x, int64_t at, double value)
{
    if (ek_tensor_dtype(x) == EK_F32)
        ek_data_f32(x)[at] = (float)value;
    else if (ek_tensor_dtype(x) == EK_F64)
        ek_data_f64(x)[at] = value;
    else
        ek_data_i64(x)[at] = (int64_t)value;
}

/* An index walk: offset in `to` of the element at flat position e of `from`; both of one rank. */
static int64_t moved(ek_shape from, int64_t e, ek_shape to)
{
    int64_t index[EK_MAX_NDIM], offset = 0;
    for (int i = from.ndim - 1; i >= 0; i--) {
        index[i] = e % from.dim[i];
        e /= from.dim[i];
    }
    for (int i = 0; i < to.ndim; i++)
        offset = offset * to.dim[i] + index[i];
    return offset;
}

/* x with its time axis padded to `steps` by `filler`; requires a gradient if x does. */
static ek_tensor *pad(const ek_tensor *x, int time_axis, int64_t steps, double filler)
{
    const ek_shape from = ek_tensor_shape(x);
    ek_shape to = from;
    to.dim[time_axis] = steps;
    ek_tensor *y = ek_full(ek_tensor_dtype(x), to, 0);
    ck_made(y);
    for (int64_t e = 0; e < ek_tensor_numel(y); e++)
        set(y, e, filler);
    for (int64_t e = 0; e < ek_tensor_numel(x); e++)
        set(y, moved(from, e, to), ek_tensor_at(x, e));
    if (ek_tensor_requires_grad(x))
        ck_ok(ek_tensor_set_requires_grad(y, true));
    return y;
}

/* Overwrites the padding of x. */
static void spoil(ek_tensor *x, int batch_axis, int time_axis, const int64_t *lengths, double filler)
{
    const ek_shape shape = ek_tensor_shape(x);
    int64_t batch_stride = 1, time_stride = 1;
    for (int i = 0; i < shape.ndim; i++) {
        batch_stride *= i > batch_axis ? shape.dim[i] : 1;
        time_stride *= i > time_axis ? shape.dim[i] : 1;
    }
    for (int64_t e = 0; e < ek_tensor_numel(x); e++)
        if (e / time_stride % shape.dim[time_axis] >= lengths[e / batch_stride % shape.dim[batch_axis]])
            set(x, e, filler);
}

/* ---- cross-entropy ----------------------------------------------------------------------------------------------- */

/* Σ over valid positions, and their number, from the loss of each position by itself. */
static double sum_by_position(ek_tensor *logits, ek_tensor *target, int time_axis, const int64_t *lengths,
                              ek_cross_entropy_opts options, int64_t *count)
{
    const ek_shape shape = ek_tensor_shape(target);
    int64_t inner = 1, per_sequence = ek_tensor_numel(target) / shape.dim[0], classes = ek_tensor_dim(logits, 1);
    double sum = 0;
    for (int i = time_axis + 1; i < shape.ndim; i++)
        inner *= shape.dim[i];
    *count = 0;
    for (int64_t e = 0; e < ek_tensor_numel(target); e++) {
        const int64_t label = (int64_t)ek_tensor_at(target, e);
        if (e / inner % shape.dim[time_axis] >= lengths[e / per_sequence] || label == options.ignore_index)
            continue;
        double total = 0, mean = 0;
        const int64_t first = e / per_sequence * classes * per_sequence + e % per_sequence;
        for (int64_t c = 0; c < classes; c++) {
            total += exp(ek_tensor_at(logits, first + c * per_sequence));
            mean += ek_tensor_at(logits, first + c * per_sequence) / (double)classes;
        }
        sum += log(total) - (1 - options.label_smoothing) * ek_tensor_at(logits, first + label * per_sequence) -
               options.label_smoothing * mean;
        ++*count;
    }
    return sum;
}

/* Logits (3, 5, …, T, …), T = 4: value and gradient from it padded further, by NaN, are the same bits. */
static void check_cross_entropy(ek_dtype dtype, ek_shape shape, int time_axis, int carriers,
                                ek_cross_entropy_opts options)
{
    ek_rng rng = ek_rng_seed(6);
    ek_shape places = {.ndim = shape.ndim - 1, .dim = {shape.dim[0]}};
    for (int i = 1; i < places.ndim; i++)
        places.dim[i] = shape.dim[i + 1];
    const int64_t steps = shape.dim[time_axis];
    const int64_t lengths[3] = {steps, 1 + ek_rng_below(&rng, steps), 1};
    ek_tensor *in[] = {random_leaf(dtype, shape, &rng), ek_zeros(EK_I64, places)};
    for (int64_t e = 0; e < ek_tensor_numel(in[1]); e++)
        set(in[1], e, (double)ek_rng_below(&rng, 5));
    set(in[1], 0, options.reduction == EK_REDUCE_SUM ? (double)options.ignore_index : 2);
    int64_t count;
    double expected = sum_by_position(in[0], in[1], time_axis - 1, lengths, options, &count);
    if (options.reduction == EK_REDUCE_MEAN)
        expected /= (double)count;
    ek_tensor *first = NULL, *first_grad = NULL;
    for (int more = 0; more < 4; more++) {
        const int64_t longer = steps + (more == 3 ? 40 : more);
        ek_tensor *wide[] = {pad(in[0], time_axis, longer, NAN), pad(in[1], time_axis - 1, longer, 999)};
        spoil(wide[0], 0, time_axis, lengths, NAN);
        spoil(wide[1], 0, time_axis - 1, lengths, -7);
        if (carriers & FIRST)
            ck_ok(ek_tensor_set_lengths(wide[0], lengths, 3, 0, time_axis));
        if (carriers & SECOND)
            ck_ok(ek_tensor_set_lengths(wide[1], lengths, 3, 0, time_axis - 1));
        loss_options o = {.cross_entropy = options};
        ek_tensor *y = run_op(call_cross_entropy, wide, 2, &o, NULL);
        ek_tensor *grad = ek_tensor_grad(wide[0]);
        if (!first) {
            first = ek_tensor_clone(y);
            first_grad = ek_tensor_clone(grad);
            /* A few roundings of each term to the type; the terms are of one sign. */
            if (options.reduction != EK_REDUCE_NONE)
                ck_assert_double_eq_tol(ek_item(y), expected,
                                        8 * (dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON) * (1 + expected));
        }
        ek_shape wide_shape = ek_tensor_shape(wide[0]), wide_places = ek_tensor_shape(wide[1]);
        double left = 0;
        for (int64_t e = 0; e < ek_tensor_numel(grad); e++)
            left += ek_tensor_at(grad, e) != 0;
        for (int64_t e = 0; e < ek_tensor_numel(first_grad); e++) {
            double g = ek_tensor_at(grad, moved(shape, e, wide_shape));
            ck_each(g == ek_tensor_at(first_grad, e), "gradient %lld: %.17g against %.17g", (long long)e, g,
                    ek_tensor_at(first_grad, e));
            left -= g != 0;
        }
        ck_assert_msg(left == 0, "the padding has a gradient");
        for (int64_t e = 0; e < ek_tensor_numel(first); e++)
            ck_each(ek_tensor_at(first, e) ==
                        ek_tensor_at(y, options.reduction == EK_REDUCE_NONE ? moved(places, e, wide_places) : 0),
                    "padded by %d: loss %lld differs", more, (long long)e);
        ek_tensor *all[] = {wide[0], wide[1], y};
        for (int k = 0; k < 3; k++)
            ek_tensor_free(all[k]);
    }
    ek_tensor *all[] = {in[0], in[1], first, first_grad};
    for (int k = 0; k < 4; k++)
        ek_tensor_free(all[k]);
}

START_TEST(cross_entropy_counts_valid_positions)
{
    static const struct {
        ek_shape shape;
        int time_axis;
    } cases[] = {{{3, {3, 5, 4}}, 2},       {{3, {3, 5, 1}}, 2},    {{3, {3, 5, 45}}, 2},
                 {{4, {3, 5, 4, 2}}, 2},    {{4, {3, 5, 2, 4}}, 3}, {{5, {3, 5, 2, 4, 3}}, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < 6; k++)
            for (int carriers = FIRST; carriers <= BOTH; carriers++)
                check_cross_entropy(k & 1 ? EK_F32 : EK_F64, cases[i].shape, cases[i].time_axis, carriers,
                                    (ek_cross_entropy_opts){(ek_reduction)(k / 2), -100, k & 1 ? 0.2 : 0});
}
END_TEST

/* All valid, a mask with holes, none valid (a slice). */
START_TEST(cross_entropy_with_masks)
{
    ek_rng rng = ek_rng_seed(1);
    ek_tensor *x = random_leaf(EK_F64, EK_SHAPE(2, 3, 4), &rng), *labels = ek_zeros(EK_I64, EK_SHAPE(2, 4));
    ek_tape *t = ek_tape_new();
    const double plain = ek_item(ek_cross_entropy(t, x, labels, NULL));
    ck_ok(ek_tensor_set_lengths(labels, (int64_t[]){4, 4}, 2, 0, 1));
    ck_assert(ek_item(ek_cross_entropy(t, x, labels, NULL)) == plain);
    const bool mask[8] = {0, 1, 0, 1, 1, 0, 0, 0};
    ek_cross_entropy_opts each = {EK_REDUCE_NONE, -100, 0}, sum = {EK_REDUCE_SUM, -100, 0};
    ck_ok(ek_tensor_set_mask(labels, mask, 2, 4, 0, 1));
    ek_tensor *masked = ek_cross_entropy(t, x, labels, &each);
    double mean = 0;
    ek_tensor_clear_lengths(labels);
    ek_tensor *all = ek_cross_entropy(t, x, labels, &each);
    for (int i = 0; i < 8; i++) {
        ck_assert(ek_tensor_at(masked, i) == (mask[i] ? ek_tensor_at(all, i) : 0));
        mean += ek_tensor_at(masked, i) / 3;
    }
    ck_ok(ek_tensor_set_mask(labels, mask, 2, 4, 0, 1));
    ck_assert_double_eq_tol(ek_item(ek_cross_entropy(t, x, labels, NULL)), mean, 4 * DBL_EPSILON * mean);
    ek_tensor *late = ek_slice(t, x, 2, 2, 3), *late_labels = ek_slice(t, labels, 1, 2, 3);
    ck_assert_double_nan(ek_item(ek_cross_entropy(t, late, late_labels, NULL)));
    ck_assert_double_eq(ek_item(ek_cross_entropy(t, late, late_labels, &sum)), 0);
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(labels);
}
END_TEST

START_TEST(cross_entropy_refuses)
{
    const loss_options plain = {.cross_entropy = ek_cross_entropy_opts_default()};
    static const int64_t two[] = {3, 1}, other[] = {3, 2}, three[] = {1, 2, 1};
    ek_tensor *last = ek_ones(EK_F32, EK_SHAPE(2, 3, 5)), *x = ek_ones(EK_F32, EK_SHAPE(2, 5, 3));
    ek_tensor *target = ek_zeros(EK_I64, EK_SHAPE(2, 3)), *high = ek_full(EK_I64, EK_SHAPE(2, 3), 5);
    ck_ok(ek_tensor_set_lengths(last, two, 2, 0, 1));
    assert_op_fails(EK_ERR_SHAPE, "cross_entropy: the steps of the logits (2, 3, 5) lie along axis 1, which is the "
                                  "class axis: ek_permute() (N, T, C) to (N, C, T)", call_cross_entropy,
                    (ek_tensor *[]){last, target}, 2, &plain);
    ck_ok(ek_tensor_set_lengths(x, three, 3, 2, 0));
    assert_op_fails(EK_ERR_SHAPE, "cross_entropy: expected lengths with batch axis 0, got 2 in the logits",
                    call_cross_entropy, (ek_tensor *[]){x, target}, 2, &plain);
    ek_tensor_clear_lengths(x);
    ck_ok(ek_tensor_set_lengths(target, (int64_t[]){1, 2, 2}, 3, 1, 0));
    assert_op_fails(EK_ERR_SHAPE, "cross_entropy: expected lengths with batch axis 0, got 1 in the target: "
                                  "ek_permute() puts axes in another order", call_cross_entropy,
                    (ek_tensor *[]){x, target}, 2, &plain);
    ck_ok(ek_tensor_set_lengths(x, two, 2, 0, 2));
    ck_ok(ek_tensor_set_lengths(target, other, 2, 0, 1));
    assert_op_fails(EK_ERR_SHAPE, "cross_entropy: logits and target carry different lengths, or on different axes",
                    call_cross_entropy, (ek_tensor *[]){x, target}, 2, &plain);
    ck_assert_int_eq(ek_count_correct(x, target), -1);
    ck_error(EK_ERR_SHAPE, "count_correct: logits and target carry different lengths");
    assert_op_fails(EK_ERR_ARGUMENT, "cross_entropy: expected targets in 0 … 4, got 5 at flat index 0",
                    call_cross_entropy, (ek_tensor *[]){x, high}, 2, &plain);
    ek_tensor *all[] = {last, x, target, high};
    for (int k = 0; k < 4; k++)
        ek_tensor_free(all[k]);
}
END_TEST

START_TEST(right_answers_are_counted)
{
    /* (2, 3, 4): the largest of the classes is 0, 1, 2, 0 in the first sequence and 2, 2, 1, 1 in the second. */
    static const double x[] = {5, 0, 0, 9, 1, 7, 1, 8, 2, 2, 3, 7, 0, 0, 1, 0, 1, 0, NAN, 3, 2, 5, 0, 1};
    static const int64_t best[] = {0, 1, 2, 0, 2, 2, 1, 1};
    static const int64_t padded[] = {0, 2, 99, -1, 2, 2, 1, -5};
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *logits = leaf((ek_dtype)dtype, EK_SHAPE(2, 3, 4), x);
        ek_tensor *right = ek_from_array(EK_I64, EK_SHAPE(2, 4), best);
        ek_tensor *some = ek_from_array(EK_I64, EK_SHAPE(2, 4), padded);
        ck_assert_int_eq(ek_count_correct(logits, right), 8);
        ck_assert_int_eq(ek_count_correct(logits, some), -1);
        ck_error(EK_ERR_ARGUMENT, "count_correct: expected targets in 0 … 2, got 99 at flat index 2");
        ck_ok(ek_tensor_set_lengths(logits, (int64_t[]){2, 3}, 2, 0, 2));
        ck_assert_int_eq(ek_count_correct(logits, some), 4);
        ck_assert_int_eq(ek_count_correct(logits, right), ek_tensor_lengths(logits)->total);
        ek_tensor_clear_lengths(logits);
        ck_ok(ek_tensor_set_mask(some, (bool[]){0, 1, 0, 0, 1, 0, 1, 0}, 2, 4, 0, 1));
        ck_assert_int_eq(ek_count_correct(logits, some), 2);
        ek_tensor_free(logits);
        ek_tensor_free(right);
        ek_tensor_free(some);
    }
}
END_TEST

/* ---- elementwise losses ------------------------------------------------------------------------------------------ */

static void check_elementwise(int loss, ek_dtype dtype, ek_shape shape, int batch_axis, int time_axis, int carriers,
                              ek_reduction reduction)
{
    ek_rng rng = ek_rng_seed(8);
    const loss_options o = {.reduction = reduction}, none = {.reduction = EK_REDUCE_NONE};
    const int64_t steps = shape.dim[time_axis], n = shape.dim[batch_axis];
    int64_t lengths[8], valid = 0;
    for (int64_t i = 0; i < n; i++)
        valid += lengths[i] = i == 0 ? steps : 1 + ek_rng_below(&rng, steps);
    ek_tensor *in[] = {random_leaf(dtype, shape, &rng), random_leaf(dtype, shape, &rng)};
    valid *= ek_tensor_numel(in[0]) / (n * steps);
    ek_tensor *each = run_op(elementwise[loss].call, in, 2, &none, NULL), *slope[2], *first = NULL;
    spoil(each, batch_axis, time_axis, lengths, 0);
    double sum = 0;
    for (int64_t e = 0; e < ek_tensor_numel(each); e++)
        sum += ek_tensor_at(each, e);
    for (int k = 0; k < 2; k++) {
        slope[k] = ek_tensor_clone(ek_tensor_grad(in[k]));
        spoil(slope[k], batch_axis, time_axis, lengths, 0);
    }
    const double epsilon = dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    const double scale = reduction == EK_REDUCE_MEAN ? 1.0 / (double)valid : 1;
    for (int more = 0; more < 3; more++) {
        const int64_t longer = steps + 3 * more;
        ek_tensor *wide[] = {pad(in[0], time_axis, longer, NAN), pad(in[1], time_axis, longer, NAN)};
        for (int k = 0; k < 2; k++) {
            spoil(wide[k], batch_axis, time_axis, lengths, k ? INFINITY : NAN);
            if (carriers >> k & 1)
                ck_ok(ek_tensor_set_lengths(wide[k], lengths, n, batch_axis, time_axis));
        }
        const ek_shape wide_shape = ek_tensor_shape(wide[0]);
        ek_tensor *y = run_op(elementwise[loss].call, wide, 2, &o, NULL);
        if (!first)
            first = ek_tensor_clone(y);
        double inside = 0, total = 0;
        for (int64_t e = 0; e < ek_tensor_numel(each); e++)
            for (int k = 0; k < 2; k++) {
                double g = ek_tensor_at(ek_tensor_grad(wide[k]), moved(shape, e, wide_shape));
                double expected = ek_tensor_at(slope[k], e) * scale;
                /* 1/n and the product, rounded to the type */
                ck_each(fabs(g - expected) <= 2 * epsilon * fabs(expected),
                        "%s: gradient %lld of input %d is %g, expected %g", elementwise[loss].name, (long long)e, k, g,
                        expected);
                inside += g != 0;
            }
        for (int k = 0; k < 2; k++)
            for (int64_t e = 0; e < ek_tensor_numel(wide[k]); e++)
                total += ek_tensor_at(ek_tensor_grad(wide[k]), e) != 0;
        ck_assert_msg(inside == total, "%s: the padding has a gradient", elementwise[loss].name);
        if (reduction == EK_REDUCE_NONE) {
            for (int64_t e = 0; e < ek_tensor_numel(each); e++)
                ck_each(ek_tensor_at(y, moved(shape, e, wide_shape)) == ek_tensor_at(each, e), "loss %lld",
                        (long long)e);
        } else {
            ck_assert_msg(ek_item(y) == ek_item(first), "%s: padding changes bits", elementwise[loss].name);
            /* Each loss is rounded to the type, and so is the result; sums are in double. */
            ck_assert_double_eq_tol(ek_item(y), sum * scale, (epsilon + 300 * DBL_EPSILON) * sum * scale);
        }
        ek_tensor *all[] = {wide[0], wide[1], y};
        for (int k = 0; k < 3; k++)
            ek_tensor_free(all[k]);
    }
    ek_tensor *all[] = {in[0], in[1], each, slope[0], slope[1], first};
    for (int k = 0; k < 6; k++)
        ek_tensor_free(all[k]);
}

START_TEST(elementwise_losses_count_valid_elements)
{
    static const struct {
        ek_shape shape;
        int batch_axis, time_axis;
    } cases[] = {{{2, {3, 5}}, 0, 1},    {{2, {5, 3}}, 1, 0},    {{3, {4, 5, 3}}, 0, 1},
                 {{3, {5, 4, 3}}, 1, 0}, {{3, {4, 3, 6}}, 0, 2}, {{3, {3, 1, 4}}, 0, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int k = 0; k < 18; k++)
            check_elementwise(_i, k & 1 ? EK_F32 : EK_F64, cases[i].shape, cases[i].batch_axis, cases[i].time_axis,
                              1 + k / 2 % 3, (ek_reduction)(k / 6));
}
END_TEST

/* ---- all of them ------------------------------------------------------------------------------------------------- */

START_TEST(threads_change_no_bit)
{
    ek_rng rng = ek_rng_seed(4);
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *in[] = {random_leaf((ek_dtype)dtype, EK_SHAPE(40, 30, 67), &rng),
                           random_leaf((ek_dtype)dtype, EK_SHAPE(40, 30, 67), &rng),
                           ek_zeros(EK_I64, EK_SHAPE(40, 67))};
        int64_t lengths[40];
        for (int i = 0; i < 40; i++)
            lengths[i] = 1 + ek_rng_below(&rng, 67);
        for (int i = 0; i < 40 * 67; i++)
            ek_data_i64(in[2])[i] = ek_rng_below(&rng, 30);
        ck_ok(ek_tensor_set_lengths(in[0], lengths, 40, 0, 2));
        for (int reduction = 0; reduction < 3; reduction++) {
            loss_options o = {(ek_reduction)reduction, {(ek_reduction)reduction, 3, 0.1}};
            for (int i = 0; i < ELEMENTWISE; i++)
                assert_same_for_any_threads(elementwise[i].name, elementwise[i].call, in, 2, &o);
            assert_same_for_any_threads("cross_entropy", call_cross_entropy, (ek_tensor *[]){in[0], in[2]}, 2, &o);
        }
        for (int k = 0; k < 3; k++)
            ek_tensor_free(in[k]);
    }
}
END_TEST

static ek_status use_losses(void)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(100, 60, 50)), *target = ek_zeros(EK_I64, EK_SHAPE(100, 50));
    ek_tape *t = ek_tape_new();
    int64_t lengths[100];
    for (int i = 0; i < 100; i++)
        lengths[i] = 1 + i % 50;
    ek_status status = x && target && t ? ek_tensor_set_requires_grad(x, true) : EK_ERR_MEMORY;
    if (status == EK_OK)
        status = ek_tensor_set_lengths(x, lengths, 100, 0, 2);
    if (status == EK_OK) {
        ek_tensor *a = ek_mse_loss(t, ek_affine(t, x, 2, 0), x, EK_REDUCE_MEAN);
        ek_tensor *b = ek_sum(t, ek_l1_loss(t, x, x, EK_REDUCE_NONE), EK_ALL_AXES, false);
        status = ek_backward(t, ek_add(t, ek_add(t, a, b), ek_cross_entropy(t, x, target, NULL)));
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
    Suite *suite = suite_create("padded_losses");
    TCase *tcase = tcase_create("padded_losses");
    tcase_add_test(tcase, cross_entropy_counts_valid_positions);
    tcase_add_test(tcase, cross_entropy_with_masks);
    tcase_add_test(tcase, cross_entropy_refuses);
    tcase_add_test(tcase, right_answers_are_counted);
    tcase_add_loop_test(tcase, elementwise_losses_count_valid_elements, 0, ELEMENTWISE);
    tcase_add_test(tcase, threads_change_no_bit);
    tcase_add_test(tcase, want_of_memory_is_survived);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
