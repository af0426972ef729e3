/* Dropout: the mask is a function of generator and position, has the right frequency, and is that of the gradient. */
#include "core.h"
#include "support_ops.h"

typedef struct dropout_options {
    double p;
    ek_rng rng;
} dropout_options;

static ek_tensor *call_dropout(ek_tape *t, ek_tensor *const *in, const void *options)
{
    dropout_options o = *(const dropout_options *)options;
    return ek_dropout(t, in[0], o.p, &o.rng);
}

static ek_tensor *call_without_rng(ek_tape *t, ek_tensor *const *in, const void *options)
{
    (void)options;
    return ek_dropout(t, in[0], 0.5, NULL);
}

static ek_tensor *ones_leaf(ek_dtype dtype, int64_t n)
{
    ek_tensor *x = ek_ones(dtype, EK_SHAPE(n));
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

/* By the rule in op_dropout.c: word i % 4 of block counter + i/4 against p·2³². */
START_TEST(the_mask_is_a_function_of_generator_and_position)
{
    enum { N = 40003 };
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++)
        for (int k = 0; k < 3; k++) {
            const dropout_options o = {(double[]){0, 0.3, 0.9}[k], {77, (uint64_t[]){0, 12, UINT64_MAX - 3}[k]}};
            double scale = dtype == EK_F32 ? (double)(float)(1 / (1 - o.p)) : 1 / (1 - o.p);
            ek_tensor *x = ones_leaf((ek_dtype)dtype, N), *y = run_op(call_dropout, &x, 1, &o, NULL);
            for (int64_t i = 0; i < N; i++) {
                uint32_t word[4];
                ek_philox(o.rng.key, o.rng.counter + (uint64_t)i / 4, word);
                double expected = word[i % 4] / 0x1p32 < o.p ? 0 : scale;
                ck_assert_double_eq(ek_tensor_at(y, i), expected);
                ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(x), i), expected); /* dy is 1 */
            }
            ek_tensor_free(x);
            ek_tensor_free(y);
        }
}
END_TEST

START_TEST(the_frequency_is_right)
{
    enum { N = 1000000 };
    static const double rates[] = {0, 0.1, 0.5, 0.75};
    for (int k = 0; k < 4; k++) {
        double p = rates[k], dropped = 0, neighbours = 0;
        ek_tensor *x = ones_leaf(EK_F32, N), *y = run_op(call_dropout, &x, 1, &(dropout_options){p, {k, 0}}, NULL);
        const float *values = ek_data_f32(y);
        for (int i = 0; i < N; i++) {
            dropped += values[i] == 0;
            neighbours += i > 0 && values[i] == 0 && values[i - 1] == 0;
        }
        /* Binomial: five standard deviations; pairs of neighbours vary a little more than a binomial of rate p². */
        ck_assert_double_le(fabs(dropped - N * p), 5 * sqrt(N * p * (1 - p)));
        ck_assert_double_le(fabs(neighbours - (N - 1) * p * p), 5 * sqrt(N * p * p * (1 + 2 * p - 3 * p * p)));
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
}
END_TEST

START_TEST(the_generator_moves_on_by_the_blocks_drawn)
{
    ek_rng rng = ek_rng_seed(3);
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ones_leaf(EK_F32, 4001), *empty = ek_zeros(EK_F32, EK_SHAPE(0, 4));
    ek_tensor *a = ek_dropout(t, x, 0.5, &rng);
    ck_assert_uint_eq(rng.counter, 1001);
    ck_assert_uint_eq(rng.key, 3);
    ek_tensor *b = ek_dropout(t, x, 0.5, &rng);
    ck_assert_uint_eq(rng.counter, 2002);
    ck_assert(!ek_tensor_equal(a, b));
    rng.counter = 0;
    ck_assert(ek_tensor_equal(a, ek_dropout(t, x, 0.5, &rng)));
    ck_made(ek_dropout(t, empty, 0.5, &rng));
    ck_assert_uint_eq(rng.counter, 1001);
    ck_made(ek_dropout(t, x, 0, &rng));
    ck_assert_uint_eq(rng.counter, 2002);
    ck_assert_ptr_null(ek_dropout(t, x, 1, &rng));
    ck_assert_uint_eq(rng.counter, 2002);
    ck_assert_ptr_null(ek_dropout(t, x, 0.5, &rng)); /* the tape has failed */
    ck_assert_uint_eq(rng.counter, 2002);
    ek_tape_free(t);
    /* An inference tape draws the same mask and saves none. */
    ek_tape *inference = ek_tape_new();
    ck_ok(ek_tape_set_recording(inference, false));
    rng.counter = 0;
    ek_tensor *y = ek_dropout(inference, x, 0.5, &rng), *again;
    again = run_op(call_dropout, &x, 1, &(dropout_options){0.5, {3, 0}}, NULL);
    ck_assert(ek_tensor_equal(y, again));
    ek_tape_free(inference);
    ek_tensor_free(again);
    ek_tensor_free(x);
    ek_tensor_free(empty);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    static const double rates[] = {-0.1, 1, 1.5, NAN};
    static const char *const texts[] = {"dropout: expected 0 ≤ p < 1, got -0.1", "dropout: expected 0 ≤ p < 1, got 1",
                                        "dropout: expected 0 ≤ p < 1, got 1.5", "dropout: expected 0 ≤ p < 1, got nan"};
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(3)), *labels = ek_ones(EK_I64, EK_SHAPE(3)), *none = NULL;
    for (int i = 0; i < 4; i++)
        assert_op_fails(EK_ERR_ARGUMENT, texts[i], call_dropout, &x, 1, &(dropout_options){rates[i], {0, 0}});
    assert_op_fails(EK_ERR_DTYPE, "dropout: expected float32 or float64 for input 0, got int64", call_dropout, &labels,
                    1, &(dropout_options){0.5, {0, 0}});
    assert_op_fails(EK_ERR_ARGUMENT, "dropout: input 0 is NULL", call_dropout, &none, 1,
                    &(dropout_options){0.5, {0, 0}});
    assert_op_fails(EK_ERR_ARGUMENT, "dropout: the generator is NULL; ek_rng_seed() makes one", call_without_rng, &x, 1,
                    NULL);
    ek_tensor_free(x);
    ek_tensor_free(labels);
}
END_TEST

START_TEST(threads_change_no_bit)
{
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *x = ones_leaf((ek_dtype)dtype, 70001);
        assert_same_for_any_threads("dropout", call_dropout, &x, 1, &(dropout_options){0.4, {9, 5}});
        ek_tensor_free(x);
    }
}
END_TEST

static ek_status use_dropout(void)
{
    ek_rng rng = ek_rng_seed(1);
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(400000));
    ek_tape *t = ek_tape_new();
    ek_status status = x && t ? ek_tensor_set_requires_grad(x, true) : EK_ERR_MEMORY;
    if (status == EK_OK) {
        ek_tensor *y = ek_dropout(t, x, 0.5, &rng);
        ck_assert_uint_eq(rng.counter, y ? 100000 : 0);
        status = ek_backward(t, ek_sum(t, y, EK_ALL_AXES, false));
    }
    ek_tape_free(t);
    ek_tensor_free(x);
    return status;
}

START_TEST(want_of_memory_is_survived)
{
    ck_ok(ek_set_num_threads(1));
    ck_assert_int_gt(assert_survives_refusals(use_dropout), 4);
}
END_TEST

int main(void)
{
    return RUN_TESTS("dropout", the_mask_is_a_function_of_generator_and_position, the_frequency_is_right,
                     the_generator_moves_on_by_the_blocks_drawn, bad_arguments_are_refused, threads_change_no_bit,
                     want_of_memory_is_survived);
}
