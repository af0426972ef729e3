/* Embedding: rows by index, their gradient added up in order, the padding row left out. */
#include "support_ops.h"

static ek_tensor *call_embedding(ek_tape *t, ek_tensor *const *in, const void *options)
{
    return ek_embedding(t, in[0], in[1], *(const int64_t *)options);
}

static const int64_t no_padding = EK_NO_PADDING_IDX;

START_TEST(rows_are_looked_up_and_their_gradients_added)
{
    static const double table[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[12] = {3, 4, 7, 8, 3, 4, 1, 2, 1, 2, 3, 4};
    static const double dy[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    static const double d_table[8] = {16, 18, 17, 20, 0, 0, 3, 4}, d_padded[8] = {16, 18, 0, 0, 0, 0, 3, 4};
    static const int64_t index[6] = {1, 3, 1, 0, 0, 1}, padding = 1;
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *in[] = {leaf((ek_dtype)dtype, EK_SHAPE(4, 2), table), ek_from_array(EK_I64, EK_SHAPE(2, 3), index)};
        ek_tensor *seed = leaf((ek_dtype)dtype, EK_SHAPE(2, 3, 2), dy);
        ek_tensor *plain = run_op(call_embedding, in, 2, &no_padding, seed);
        ck_assert_int_eq(ek_tensor_ndim(plain), 3);
        for (int i = 0; i < 12; i++)
            ck_assert_double_eq(ek_tensor_at(plain, i), y[i]);
        for (int i = 0; i < 8; i++)
            ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(in[0]), i), d_table[i]);
        ek_tensor *padded = run_op(call_embedding, in, 2, &padding, seed);
        ck_assert(ek_tensor_equal(plain, padded));
        for (int i = 0; i < 8; i++)
            ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(in[0]), i), d_padded[i]);
        ek_tensor *all[] = {in[0], in[1], seed, plain, padded};
        for (int i = 0; i < 5; i++)
            ek_tensor_free(all[i]);
    }
}
END_TEST

/* Two lookups in one table add to one gradient, and a second backward adds to the first. */
START_TEST(gradients_of_several_uses_add_up)
{
    ek_tensor *table = leaf(EK_F64, EK_SHAPE(2, 1), (double[]){1, 2});
    ek_tensor *index = ek_from_array(EK_I64, EK_SHAPE(2), ((int64_t[]){0, 1}));
    ek_tape *t = ek_tape_new();
    for (int pass = 1; pass <= 2; pass++) {
        ek_tensor *y = ek_mul(t, ek_embedding(t, table, index, no_padding), ek_embedding(t, table, index, no_padding));
        ck_ok(ek_backward(t, ek_sum(t, y, EK_ALL_AXES, false)));
        ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(table), 0), 2.0 * pass);
        ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(table), 1), 4.0 * pass);
        ek_tape_reset(t);
    }
    ek_tape_free(t);
    ek_tensor_free(table);
    ek_tensor_free(index);
}
END_TEST

START_TEST(no_elements_are_no_problem)
{
    static const struct {
        ek_shape table, index;
    } rows[] = {{{2, {3, 0}}, {1, {4}}}, {{2, {3, 2}}, {1, {0}}}, {{2, {0, 2}}, {2, {0, 5}}}};
    for (int i = 0; i < 3; i++) {
        ek_tensor *in[] = {ek_ones(EK_F32, rows[i].table), ek_zeros(EK_I64, rows[i].index)};
        ck_ok(ek_tensor_set_requires_grad(in[0], true));
        ek_tensor *y = run_op(call_embedding, in, 2, &no_padding, NULL);
        ck_assert_int_eq(ek_tensor_numel(y), 0);
        for (int64_t k = 0; k < ek_tensor_numel(in[0]); k++)
            ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(in[0]), k), 0);
        ek_tensor_free(in[0]);
        ek_tensor_free(in[1]);
        ek_tensor_free(y);
    }
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    static const int64_t below = -2, above = 3;
    ek_tensor *table = ek_ones(EK_F32, EK_SHAPE(3, 2)), *flat = ek_ones(EK_F32, EK_SHAPE(3)), *none = NULL;
    ek_tensor *good = ek_zeros(EK_I64, EK_SHAPE(2)), *deep = ek_zeros(EK_I64, EK_SHAPE(1, 1, 1, 1, 1, 1, 1, 1));
    ek_tensor *high = ek_from_array(EK_I64, EK_SHAPE(3), ((int64_t[]){0, 2, 3}));
    ek_tensor *low = ek_from_array(EK_I64, EK_SHAPE(3), ((int64_t[]){0, -1, 3}));
    const struct {
        ek_tensor *table, *index;
        const int64_t *padding;
        ek_status status;
        const char *text;
    } rows[] = {
        {table, high, &no_padding, EK_ERR_ARGUMENT, "embedding: expected indices in 0 … 2, got 3 at flat index 2"},
        {table, low, &no_padding, EK_ERR_ARGUMENT, "embedding: expected indices in 0 … 2, got -1 at flat index 1"},
        {flat, good, &no_padding, EK_ERR_SHAPE, "embedding: expected a table (V, D), got (3,)"},
        {table, deep, &no_padding, EK_ERR_SHAPE,
         "embedding: expected indices of rank below 8, got (1, 1, 1, 1, 1, 1, 1, 1)"},
        {table, good, &above, EK_ERR_ARGUMENT,
         "embedding: expected padding_idx in 0 … 2 or EK_NO_PADDING_IDX, got 3"},
        {table, good, &below, EK_ERR_ARGUMENT,
         "embedding: expected padding_idx in 0 … 2 or EK_NO_PADDING_IDX, got -2"},
        {table, table, &no_padding, EK_ERR_DTYPE, "embedding: expected int64 for input 1, got float32"},
        {good, good, &no_padding, EK_ERR_DTYPE, "embedding: expected float32 or float64 for input 0, got int64"},
        {table, none, &no_padding, EK_ERR_ARGUMENT, "embedding: input 1 is NULL"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_op_fails(rows[i].status, rows[i].text, call_embedding, (ek_tensor *[]){rows[i].table, rows[i].index}, 2,
                        rows[i].padding);
    ek_tensor *all[] = {table, flat, good, deep, high, low};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

START_TEST(threads_change_no_bit)
{
    enum { INDICES = 3000, ROWS = 50 };
    ek_rng rng = ek_rng_seed(6);
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_tensor *in[] = {ek_normal((ek_dtype)dtype, EK_SHAPE(ROWS, 97), 0, 1, &rng),
                           ek_zeros(EK_I64, EK_SHAPE(INDICES))};
        for (int i = 0; i < INDICES; i++)
            ek_data_i64(in[1])[i] = ek_rng_below(&rng, ROWS);
        ck_ok(ek_tensor_set_requires_grad(in[0], true));
        assert_same_for_any_threads("embedding", call_embedding, in, 2, &no_padding);
        ek_tensor_free(in[0]);
        ek_tensor_free(in[1]);
    }
}
END_TEST

int main(void)
{
    return RUN_TESTS("embedding", rows_are_looked_up_and_their_gradients_added, gradients_of_several_uses_add_up,
                     no_elements_are_no_problem, bad_arguments_are_refused, threads_change_no_bit);
}
