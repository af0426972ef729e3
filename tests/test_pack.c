/* Valid steps as rows and back: the three orders, every place of the axes, and what is refused. */
#include "support_layers.h"
#include "support_ops.h"

/* Element 100·i + 10·s + d for step s of sequence i, feature d. */
static ek_tensor *numbered(int64_t n, int64_t steps, int64_t features, bool time_first)
{
    ek_tensor *x = ek_zeros(EK_F32, time_first ? EK_SHAPE(steps, n, features) : EK_SHAPE(n, steps, features));
    ck_made(x);
    for (int64_t i = 0; i < n; i++)
        for (int64_t s = 0; s < steps; s++)
            for (int64_t d = 0; d < features; d++)
                ek_data_f32(x)[((time_first ? s * n + i : i * steps + s) * features) + d] =
                    (float)(100 * i + 10 * s + d);
    return x;
}

static void assert_rows(const ek_tensor *rows, int64_t n, const double *first_of_each)
{
    ck_made(rows);
    ck_assert_int_eq(ek_tensor_dim(rows, 0), n);
    for (int64_t r = 0; r < n; r++)
        for (int64_t d = 0; d < 2; d++)
            ck_assert_double_eq(ek_tensor_at(rows, 2 * r + d), first_of_each[r] + (double)d);
}

static const int64_t lengths[4] = {2, 3, 1, 3};
static const struct {
    ek_row_order order;
    double rows[9];
} orders[] = {
    {EK_ROWS_BY_SEQUENCE, {0, 10, 100, 110, 120, 200, 300, 310, 320}},
    {EK_ROWS_BY_STEP, {100, 300, 0, 200, 110, 310, 10, 120, 320}},
    {EK_ROWS_BY_STEP_REVERSED, {120, 320, 10, 200, 110, 310, 0, 100, 300}},
};

/* _i: order·2 + time first. */
START_TEST(rows_stand_in_their_order_and_go_back)
{
    const bool time_first = _i % 2;
    ek_tensor *x = numbered(4, 3, 2, time_first);
    ck_ok(ek_tensor_set_lengths(x, lengths, 4, time_first ? 1 : 0, time_first ? 0 : 1));
    ek_tape *tape = ek_tape_new();
    ek_tensor *rows = ek_pack(tape, x, orders[_i / 2].order);
    assert_rows(rows, 9, orders[_i / 2].rows);
    ck_assert_ptr_null(ek_tensor_lengths(rows));
    ek_tensor *back = ek_unpack(tape, rows, x, orders[_i / 2].order);
    ck_made(back);
    const ek_lengths *carried = ek_tensor_lengths(back);
    ck_assert_ptr_nonnull(carried);
    ck_assert_mem_eq(carried->length, lengths, sizeof lengths);
    for (int64_t i = 0; i < 4; i++)
        for (int64_t s = 0; s < 3; s++) {
            int64_t at = 2 * (time_first ? s * 4 + i : i * 3 + s);
            ck_assert_double_eq(ek_tensor_at(back, at), s < lengths[i] ? ek_tensor_at(x, at) : 0);
        }
    ek_tape_free(tape);
    ek_tensor_free(x);
}
END_TEST

/* (2, N, 3, T): features before, between and after are gathered in their order. */
START_TEST(axes_may_stand_anywhere)
{
    ek_tensor *x = ek_arange(EK_I64, 0, 2 * 2 * 3 * 4, 1);
    ck_made(x);
    ek_tape *tape = ek_tape_new();
    ek_tensor *shaped = ek_tensor_clone(ek_reshape(tape, x, EK_SHAPE(2, 2, 3, 4)));
    ck_ok(ek_tensor_set_lengths(shaped, (int64_t[]){1, 2}, 2, 1, 3));
    ek_tensor *rows = ek_pack(tape, shaped, EK_ROWS_BY_SEQUENCE);
    ck_made(rows);
    ck_assert_int_eq(ek_tensor_ndim(rows), 3);
    const int64_t *v = ek_tensor_const_data(rows);
    const int64_t sequence[3] = {0, 1, 1}, step[3] = {0, 0, 1};
    for (int64_t r = 0; r < 3; r++)
        for (int64_t a = 0; a < 2; a++)
            for (int64_t b = 0; b < 3; b++)
                ck_assert_int_eq(v[(r * 2 + a) * 3 + b], ((a * 2 + sequence[r]) * 3 + b) * 4 + step[r]);
    ek_tensor *back = ek_unpack(tape, rows, shaped, EK_ROWS_BY_SEQUENCE);
    ck_made(back);
    ck_assert_int_eq(((const int64_t *)ek_tensor_const_data(back))[1], 0);
    ck_assert_int_eq(((const int64_t *)ek_tensor_const_data(back))[13], 13);
    ek_tape_free(tape);
    ek_tensor_free(shaped);
    ek_tensor_free(x);
}
END_TEST

START_TEST(a_mask_gives_the_valid_steps)
{
    ek_tensor *x = numbered(2, 3, 2, false);
    ck_ok(ek_tensor_set_mask(x, (bool[]){false, true, true, true, false, true}, 2, 3, 0, 1));
    ek_tape *tape = ek_tape_new();
    assert_rows(ek_pack(tape, x, EK_ROWS_BY_SEQUENCE), 4, (double[]){10, 20, 100, 120});
    assert_rows(ek_pack(tape, x, EK_ROWS_BY_STEP_REVERSED), 4, (double[]){20, 120, 10, 100});
    ek_tape_free(tape);
    ek_tensor_free(x);
}
END_TEST

/* Full batches in the memory's own order are views, with the same gradients as copies. */
START_TEST(rows_in_place_cost_nothing)
{
    ek_tensor *x = numbered(3, 4, 2, true);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){4, 4, 4}, 3, 1, 0));
    ek_tape *tape = ek_tape_new();
    ek_tensor *rows = ek_pack(tape, x, EK_ROWS_BY_STEP);
    ck_made(rows);
    ck_assert_ptr_eq(ek_tensor_const_data(rows), ek_tensor_const_data(x));
    ek_tensor *back = ek_unpack(tape, ek_mul(tape, rows, rows), x, EK_ROWS_BY_STEP);
    ck_made(back);
    ck_assert_ptr_nonnull(ek_tensor_lengths(back));
    ck_ok(ek_backward(tape, ek_sum(tape, back, EK_ALL_AXES, false)));
    for (int64_t i = 0; i < ek_tensor_numel(x); i++)
        ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(x), i), 2 * ek_tensor_at(x, i));
    ek_tape_free(tape);
    ek_tensor_free(x);
}
END_TEST

/* The gradient reaches valid steps only. */
START_TEST(padding_gets_no_gradient)
{
    ek_tensor *x = numbered(4, 3, 2, false);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_tensor_set_lengths(x, lengths, 4, 0, 1));
    ek_tape *tape = ek_tape_new();
    ck_ok(ek_backward(tape, ek_sum(tape, ek_pack(tape, x, EK_ROWS_BY_STEP), EK_ALL_AXES, false)));
    for (int64_t i = 0; i < 4; i++)
        for (int64_t s = 0; s < 3; s++)
            ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(x), 2 * (3 * i + s)), s < lengths[i] ? 1 : 0);
    ek_tape_free(tape);
    ek_tensor_free(x);
}
END_TEST

static ek_tensor *call_pack(ek_tape *t, ek_tensor *const *in, const void *options)
{
    return ek_pack(t, in[0], *(const ek_row_order *)options);
}

static ek_tensor *call_unpack(ek_tape *t, ek_tensor *const *in, const void *options)
{
    return ek_unpack(t, in[0], in[1], *(const ek_row_order *)options);
}

START_TEST(refusals_say_what_was_expected)
{
    const ek_row_order order = EK_ROWS_BY_SEQUENCE, none = (ek_row_order)7;
    ek_tensor *x = numbered(4, 3, 2, false), *rows = ek_zeros(EK_F32, EK_SHAPE(8, 2));
    assert_op_fails(EK_ERR_STATE, "pack: expected a tensor that carries lengths", call_pack, &x, 1, &order);
    assert_op_fails(EK_ERR_STATE, "unpack: expected a tensor that carries lengths", call_unpack,
                    (ek_tensor *[]){rows, x}, 2, &order);
    ck_ok(ek_tensor_set_lengths(x, lengths, 4, 0, 1));
    assert_op_fails(EK_ERR_ARGUMENT, "pack: expected one of ek_row_order, got 7", call_pack, &x, 1, &none);
    assert_op_fails(EK_ERR_SHAPE, "unpack: expected (9, …), a row for each valid step, got (8, 2)", call_unpack,
                    (ek_tensor *[]){rows, x}, 2, &order);
    ek_tensor *flat = ek_zeros(EK_F32, EK_SHAPE(9)), *last = ek_zeros(EK_F32, EK_SHAPE(4, 2, 3));
    ck_ok(ek_tensor_set_lengths(last, lengths, 4, 0, 2));
    assert_op_fails(EK_ERR_SHAPE, "become a tensor of rank 2, in which axes 0 and 2 cannot be batch and time",
                    call_unpack, (ek_tensor *[]){flat, last}, 2, &order);
    assert_op_fails(EK_ERR_ARGUMENT, "pack: the padded tensor is NULL", call_pack, &(ek_tensor *){NULL}, 1, &order);
    ek_tensor_free(last);
    ek_tensor_free(flat);
    ek_tensor_free(rows);
    ek_tensor_free(x);
}
END_TEST

START_TEST(same_bits_for_any_number_of_threads)
{
    ek_rng rng = ek_rng_seed(3);
    ek_tensor *x = random_leaf(EK_F32, EK_SHAPE(40, 30, 64), &rng);
    int64_t many[40];
    for (int64_t i = 0; i < 40; i++)
        many[i] = 1 + ek_rng_below(&rng, 30);
    ck_ok(ek_tensor_set_lengths(x, many, 40, 0, 1));
    assert_same_for_any_threads("pack", call_pack, &x, 1, &orders[1].order);
    ek_tensor_free(x);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pack");
    TCase *tcase = tcase_create("pack");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, rows_stand_in_their_order_and_go_back, 0, 6);
    tcase_add_test(tcase, axes_may_stand_anywhere);
    tcase_add_test(tcase, a_mask_gives_the_valid_steps);
    tcase_add_test(tcase, rows_in_place_cost_nothing);
    tcase_add_test(tcase, padding_gets_no_gradient);
    tcase_add_test(tcase, refusals_say_what_was_expected);
    tcase_add_test(tcase, same_bits_for_any_number_of_threads);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
