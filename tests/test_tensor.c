/* Making, reading, writing, printing, comparing and converting tensors; who frees what; what is refused, and how. */
#include "core.h"
#include "support.h"

START_TEST(makers_fill_every_type)
{
    for (int dtype = EK_F32; dtype <= EK_I64; dtype++) {
        ek_tensor *zeros = ek_zeros((ek_dtype)dtype, EK_SHAPE(2, 3)), *ones = ek_ones((ek_dtype)dtype, EK_SHAPE(4));
        ek_tensor *full = ek_full((ek_dtype)dtype, EK_SCALAR, -7);
        ek_tensor *range = ek_arange((ek_dtype)dtype, 2, 9, 3), *none = ek_arange((ek_dtype)dtype, 5, 5, 1);
        ck_assert_int_eq(ek_tensor_dtype(zeros), dtype);
        ck_assert_int_eq(ek_tensor_ndim(zeros), 2);
        ck_assert_int_eq(ek_tensor_numel(zeros), 6);
        ck_assert(ek_tensor_dim(zeros, 0) == 2 && ek_tensor_dim(zeros, -1) == 3);
        for (int i = 0; i < 6; i++)
            ck_assert(ek_tensor_at(zeros, i) == 0);
        for (int i = 0; i < 4; i++)
            ck_assert(ek_tensor_at(ones, i) == 1);
        ck_assert_int_eq(ek_tensor_ndim(full), 0);
        ck_assert(ek_item(full) == -7);
        ck_assert_int_eq(ek_tensor_numel(range), 3);
        for (int i = 0; i < 3; i++)
            ck_assert(ek_tensor_at(range, i) == 2 + 3 * i);
        ck_assert_int_eq(ek_tensor_numel(none), 0);
        ck_assert_uint_eq((uintptr_t)ek_tensor_data(zeros) % 64, 0);
        ek_tensor_free(zeros);
        ek_tensor_free(ones);
        ek_tensor_free(full);
        ek_tensor_free(range);
        ek_tensor_free(none);
    }
    ek_tensor *down = ek_arange(EK_F64, 1, 0, -0.25);
    ck_assert_int_eq(ek_tensor_numel(down), 4);
    ck_assert(ek_tensor_at(down, 3) == 0.25);
    ek_tensor_free(down);
}
END_TEST

static void *refuse(size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    return NULL;
}

static void release_nothing(void *memory, void *user)
{
    (void)memory;
    (void)user;
}

START_TEST(a_refusal_of_the_allocator_is_an_error)
{
    ck_ok(ek_set_allocator(&(ek_allocator){refuse, release_nothing, NULL}));
    ck_assert_ptr_null(ek_zeros(EK_F32, EK_SHAPE((int64_t)1 << 60)));
    ck_error(EK_ERR_MEMORY, "out of memory: the allocator refused 4611686018427387904 bytes");
    ck_assert_ptr_null(ek_tape_new());
    ck_assert_int_eq(ek_last_status(), EK_ERR_MEMORY);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

START_TEST(makers_refuse_bad_shapes)
{
    const int64_t huge = (int64_t)1 << 40;
    ck_assert_ptr_null(ek_zeros(EK_F32, EK_SHAPE(2, -3)));
    ck_error(EK_ERR_SHAPE, "zeros: expected dimensions of 0 or more, got (2, -3)");
    ck_assert_ptr_null(ek_ones(EK_F32, EK_SHAPE(huge, huge)));
    ck_error(EK_ERR_SHAPE, "full: the number of elements of (1099511627776, 1099511627776) overflows int64");
    ck_assert_ptr_null(ek_full(EK_F64, EK_SHAPE(huge, 0, huge), 1)); /* a 0 hides nothing */
    ck_error(EK_ERR_SHAPE, "overflows int64");
    ck_assert_ptr_null(ek_zeros(EK_F64, EK_SHAPE((int64_t)1 << 61)));
    ck_error(EK_ERR_SHAPE, "zeros: the bytes of float64 (2305843009213693952,) overflow size_t");
    ck_assert_ptr_null(ek_zeros(EK_F32, (ek_shape){.ndim = 9}));
    ck_error(EK_ERR_SHAPE, "zeros: expected a rank of 0 to 8, got 9");
    ck_assert_ptr_null(ek_zeros(EK_F32, (ek_shape){.ndim = -1}));
    ck_error(EK_ERR_SHAPE, "zeros: expected a rank of 0 to 8, got -1");
    ck_assert_ptr_null(ek_zeros((ek_dtype)5, EK_SHAPE(2)));
    ck_error(EK_ERR_DTYPE, "zeros: expected EK_F32, EK_F64 or EK_I64, got dtype 5");
    ek_tensor *empty = ek_zeros(EK_F32, EK_SHAPE(3, 0, 2));
    ck_made(empty);
    ck_assert_int_eq(ek_tensor_numel(empty), 0);
    ek_tensor_free(empty);
}
END_TEST

START_TEST(makers_refuse_bad_values)
{
    ek_rng rng = ek_rng_seed(1);
    ck_assert_ptr_null(ek_full(EK_I64, EK_SHAPE(1), 1e19));
    ck_error(EK_ERR_ARGUMENT, "full: int64 cannot hold 1e+19");
    ck_assert_ptr_null(ek_full(EK_I64, EK_SHAPE(1), NAN));
    ck_error(EK_ERR_ARGUMENT, "full: int64 cannot hold");
    ck_assert_ptr_null(ek_arange(EK_F32, 0, 1, 0));
    ck_error(EK_ERR_ARGUMENT, "arange: expected finite bounds and a step other than 0, got start 0, stop 1, step 0");
    ck_assert_ptr_null(ek_arange(EK_F32, 0, INFINITY, 1));
    ck_error(EK_ERR_ARGUMENT, "arange: expected finite bounds");
    ck_assert_ptr_null(ek_arange(EK_F32, 0, 1, 1e-300));
    ck_error(EK_ERR_SHAPE, "are more than a tensor can hold");
    ck_assert_ptr_null(ek_arange(EK_I64, 1e19, 2e19, 1e19));
    ck_error(EK_ERR_ARGUMENT, "arange: int64 cannot hold 1e+19 … 2e+19");
    ck_assert_ptr_null(ek_uniform(EK_I64, EK_SHAPE(1), 0, 1, &rng));
    ck_error(EK_ERR_DTYPE, "uniform: expected float32 or float64, got int64");
    ck_assert_ptr_null(ek_normal(EK_I64, EK_SHAPE(1), 0, 1, &rng));
    ck_error(EK_ERR_DTYPE, "normal: expected float32 or float64, got int64");
    ck_assert_uint_eq(rng.counter, 0);
    ck_assert_ptr_null(ek_from_array(EK_F32, EK_SHAPE(2), NULL));
    ck_error(EK_ERR_ARGUMENT, "from_array: expected 2 values, got NULL");
    ck_assert_ptr_null(ek_borrow(EK_F32, EK_SHAPE(2), NULL, NULL, NULL));
    ck_error(EK_ERR_ARGUMENT, "borrow: expected 2 values, got NULL");
}
END_TEST

START_TEST(values_are_copied_in_and_out)
{
    float values[6] = {1, 2, 3, 4, 5, 6}, back[6] = {0};
    ek_tensor *t = ek_from_array(EK_F32, EK_SHAPE(2, 3), values);
    values[0] = 9;
    ck_ok(ek_tensor_read(t, back, sizeof back));
    ck_assert(back[0] == 1 && back[5] == 6);
    ck_ok(ek_tensor_write(t, values, sizeof values));
    ck_assert(ek_data_f32(t)[0] == 9);
    ck_assert_int_eq(ek_tensor_read(t, back, 20), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "tensor_read: float32 (2, 3) is 24 bytes, got an array of 20");
    ck_assert_int_eq(ek_tensor_write(t, values, 28), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "tensor_write: float32 (2, 3) is 24 bytes, got an array of 28");
    ck_assert_int_eq(ek_tensor_write(t, NULL, 24), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_write: got NULL");
    ck_assert_int_eq(ek_tensor_read(NULL, back, 24), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_read: got NULL");
    ck_assert_ptr_null(ek_data_f64(t));
    ck_error(EK_ERR_DTYPE, "data: asked for float64, the tensor (2, 3) is float32");
    ck_assert_ptr_null(ek_data_i64(t));
    ck_error(EK_ERR_DTYPE, "data: asked for int64");
    ck_assert(isnan(ek_tensor_at(t, 6)));
    ck_error(EK_ERR_ARGUMENT, "tensor_at: expected an index of 0 … 5, got 6");
    ck_assert(isnan(ek_tensor_at(t, -1)));
    ck_assert(isnan(ek_item(t)));
    ck_error(EK_ERR_SHAPE, "item: expected one element, got (2, 3)");
    ck_assert_int_eq(ek_tensor_dim(t, 2), -1);
    ck_error(EK_ERR_ARGUMENT, "tensor_dim: axis 2 is outside the rank of (2, 3)");
    ck_assert_int_eq(ek_tensor_dim(t, -3), -1);
    ek_tensor_free(t);
}
END_TEST

START_TEST(a_null_tensor_is_an_error_that_names_its_cause)
{
    ek_clear_error();
    ck_assert(isnan(ek_item(NULL)));
    ck_error(EK_ERR_ARGUMENT, "item: the tensor is NULL");
    ck_assert_ptr_null(ek_zeros(EK_F32, EK_SHAPE(-1)));
    ck_assert(isnan(ek_item(NULL)));
    ck_error(EK_ERR_ARGUMENT, "item: the tensor is NULL; the last error was: zeros: expected dimensions of 0 or more");
    ek_clear_error();
    ck_assert_ptr_null(ek_tensor_clone(NULL));
    ck_error(EK_ERR_ARGUMENT, "clone: the tensor is NULL");
    ck_assert_ptr_null(ek_tensor_cast(NULL, EK_F64));
    ck_error(EK_ERR_ARGUMENT, "cast: the tensor is NULL");
    ck_assert(isnan(ek_tensor_at(NULL, 0)));
    ck_error(EK_ERR_ARGUMENT, "tensor_at: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_dtype(NULL), EK_F32);
    ck_error(EK_ERR_ARGUMENT, "tensor_dtype: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_shape(NULL).ndim, 0);
    ck_error(EK_ERR_ARGUMENT, "tensor_shape: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_ndim(NULL), 0);
    ck_error(EK_ERR_ARGUMENT, "tensor_ndim: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_numel(NULL), 0);
    ck_error(EK_ERR_ARGUMENT, "tensor_numel: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_dim(NULL, 0), -1);
    ck_error(EK_ERR_ARGUMENT, "tensor_dim: the tensor is NULL");
    ck_assert_ptr_null(ek_data_f32(NULL));
    ck_error(EK_ERR_ARGUMENT, "data: the tensor is NULL");
    ck_assert_ptr_null(ek_tensor_data(NULL));
    ck_assert_ptr_null(ek_tensor_const_data(NULL));
    ck_assert_ptr_null(ek_tensor_retain(NULL));
    ck_assert_ptr_null(ek_tensor_grad(NULL));
    ck_assert(!ek_tensor_requires_grad(NULL));
    ck_assert_int_eq(ek_tensor_set_requires_grad(NULL, true), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_requires_grad: got NULL");
    ck_assert(!ek_tensor_equal(NULL, NULL) && !ek_tensor_all_close(NULL, NULL, 0, 0));
    ck_assert_int_eq(ek_tensor_print(NULL, stdout), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_print: got NULL");
    ek_tensor_clear_grad(NULL);
    ek_tensor_free(NULL);
}
END_TEST

static void count_release(void *values, void *user)
{
    ck_assert_int_eq(*(double *)values, 3);
    ++*(int *)user;
}

START_TEST(borrowed_memory_is_released_once_by_the_last_owner)
{
    double values[2] = {3, 4};
    int released = 0;
    ek_tensor *t = ek_borrow(EK_F64, EK_SHAPE(2), values, count_release, &released);
    ck_assert_ptr_eq(ek_data_f64(t), values);
    ck_assert_ptr_eq(ek_tensor_retain(t), t);
    ek_tensor_free(t);
    ck_assert_int_eq(released, 0);
    ck_assert(ek_tensor_at(t, 1) == 4);
    ek_tensor_free(t);
    ck_assert_int_eq(released, 1);
    ck_assert_ptr_null(ek_borrow(EK_F64, EK_SHAPE(-2), values, count_release, &released));
    ck_assert_int_eq(released, 1);
    ek_tensor_free(ek_borrow(EK_F64, EK_SHAPE(2), values, NULL, NULL));
    ek_tensor_free(ek_borrow(EK_F64, EK_SHAPE(0), NULL, NULL, NULL));
}
END_TEST

START_TEST(clones_and_casts_stand_alone)
{
    double values[4] = {1.75, -1.75, 0x1p53, -0.0};
    ek_tensor *t = ek_from_array(EK_F64, EK_SHAPE(4), values);
    ck_ok(ek_tensor_set_requires_grad(t, true));
    ek_tensor *clone = ek_tensor_clone(t);
    ek_tensor *whole = ek_tensor_cast(t, EK_I64), *single = ek_tensor_cast(t, EK_F32);
    ck_assert(ek_tensor_equal(t, clone) && !ek_tensor_requires_grad(clone));
    ek_data_f64(clone)[0] = 5;
    ck_assert(ek_tensor_at(t, 0) == 1.75);
    const int64_t *k = ek_data_i64(whole);
    ck_assert(k[0] == 1 && k[1] == -1 && k[2] == (int64_t)1 << 53 && k[3] == 0);
    ck_assert(ek_data_f32(single)[1] == -1.75f && signbit(ek_data_f32(single)[3]));
    ek_data_i64(whole)[0] = ((int64_t)1 << 53) + 1; /* more than a double holds */
    ek_tensor *same = ek_tensor_cast(whole, EK_I64);
    ck_assert(ek_data_i64(same)[0] == ((int64_t)1 << 53) + 1);
    ek_data_f64(t)[1] = 0x1p63;
    ck_assert_ptr_null(ek_tensor_cast(t, EK_I64));
    ck_error(EK_ERR_ARGUMENT, "cast: int64 cannot hold 9.22337e+18 (element 1)");
    ck_assert_ptr_null(ek_tensor_cast(t, (ek_dtype)-1));
    ck_error(EK_ERR_DTYPE, "cast: expected EK_F32, EK_F64 or EK_I64, got dtype -1");
    ek_tensor_free(t);
    ek_tensor_free(clone);
    ek_tensor_free(whole);
    ek_tensor_free(single);
    ek_tensor_free(same);
}
END_TEST

START_TEST(comparisons)
{
    float base[3] = {1, NAN, INFINITY}, near[3] = {1.0001f, NAN, INFINITY}, zero[1] = {0}, minus[1] = {-0.0f};
    ek_tensor *a = ek_from_array(EK_F32, EK_SHAPE(3), base), *b = ek_from_array(EK_F32, EK_SHAPE(3), near);
    ek_tensor *p = ek_from_array(EK_F32, EK_SHAPE(1), zero), *m = ek_from_array(EK_F32, EK_SHAPE(1), minus);
    ek_tensor *row = ek_from_array(EK_F32, EK_SHAPE(1, 3), base), *wide = ek_tensor_cast(a, EK_F64);
    ck_assert(ek_tensor_equal(a, a) && !ek_tensor_equal(a, b) && !ek_tensor_equal(p, m));
    ck_assert(!ek_tensor_equal(a, row) && !ek_tensor_equal(a, wide));
    ck_assert(ek_tensor_all_close(a, b, 1e-3, 0) && ek_tensor_all_close(a, b, 0, 1e-3));
    ck_assert(!ek_tensor_all_close(a, b, 1e-5, 1e-5) && ek_tensor_all_close(p, m, 0, 0));
    ck_assert(!ek_tensor_all_close(a, row, 1, 1) && !ek_tensor_all_close(a, wide, 1, 1));
    ek_data_f32(b)[1] = 0;
    ck_assert(!ek_tensor_all_close(a, b, 1e-3, 1e3));
    ek_data_f32(b)[1] = NAN;
    ek_data_f32(b)[2] = -INFINITY;
    ck_assert(!ek_tensor_all_close(a, b, 1e-3, 1e3));
    ek_data_f32(b)[2] = 1;
    ck_assert(!ek_tensor_all_close(a, b, 1e-3, 1e3) && !ek_tensor_all_close(b, a, 1e-3, 1e3));
    ek_tensor *all[] = {a, b, p, m, row, wide};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

/* Prints t and compares. */
static void check_print(ek_tensor *t, const char *expected)
{
    char text[4096] = "";
    FILE *file = tmpfile();
    ck_ok(ek_tensor_print(t, file));
    rewind(file);
    text[fread(text, 1, sizeof text - 1, file)] = '\0';
    fclose(file);
    ck_assert_str_eq(text, expected);
    ek_tensor_free(t);
}

START_TEST(printing)
{
    check_print(ek_full(EK_F32, EK_SCALAR, 0.1), "float32 ()\n0.1\n");
    check_print(ek_arange(EK_I64, 0, 3, 1), "int64 (3,)\n[0, 1, 2]\n");
    check_print(ek_zeros(EK_F64, EK_SHAPE(0)), "float64 (0,)\n[]\n");
    check_print(ek_from_array(EK_F32, EK_SHAPE(2, 3), (float[]){1, 2, 3, 4, 5, 6}),
                "float32 (2, 3)\n[[1, 2, 3],\n [4, 5, 6]]\n");
    check_print(ek_ones(EK_F32, EK_SHAPE(2, 1, 2)), "float32 (2, 1, 2)\n[[[1, 1]],\n\n [[1, 1]]]\n");
    check_print(ek_zeros(EK_F32, EK_SHAPE(2, 0)), "float32 (2, 0)\n[[],\n []]\n");
    check_print(ek_zeros(EK_F32, EK_SHAPE((int64_t)1 << 40, 0)),
                "float32 (1099511627776, 0)\n[[],\n [],\n [],\n ...,\n [],\n [],\n []]\n");
    check_print(ek_arange(EK_F32, 0, 2000, 1), "float32 (2000,)\n[0, 1, 2, ..., 1997, 1998, 1999]\n");
    check_print(ek_from_array(EK_F64, EK_SHAPE(3), (double[]){NAN, INFINITY, -1.0 / 3}),
                "float64 (3,)\n[nan, inf, -0.33333333]\n");
    ek_tensor *t = ek_ones(EK_F32, EK_SHAPE(1));
    ck_assert_int_eq(ek_tensor_print(t, NULL), EK_ERR_ARGUMENT);
    FILE *full = fopen("/dev/full", "w");
    if (full) {
        setvbuf(full, NULL, _IONBF, 0);
        ck_assert_int_eq(ek_tensor_print(t, full), EK_ERR_IO);
        ck_error(EK_ERR_IO, "tensor_print: writing failed");
        fclose(full);
    }
    ek_tensor_free(t);
}
END_TEST

START_TEST(shape_texts)
{
    char text[200], small[6];
    const int64_t big = INT64_MAX;
    ck_assert_str_eq(ek_shape_text(EK_SCALAR, text, sizeof text), "()");
    ck_assert_str_eq(ek_shape_text(EK_SCALAR, NULL, 10), "");
    ck_assert_str_eq(ek_shape_text(EK_SHAPE(3), text, sizeof text), "(3,)");
    ck_assert_str_eq(ek_shape_text(EK_SHAPE(3, 4), text, sizeof text), "(3, 4)");
    ek_shape_text(EK_SHAPE(big, big, big, big, big, big, big, big), text, sizeof text);
    ck_assert_uint_eq(strlen(text), 8 * 19 + 7 * 2 + 2);
    ck_assert_str_eq(ek_shape_text(EK_SHAPE(12, 34), small, sizeof small), "(12, ");
}
END_TEST

START_TEST(leaves_say_what_may_require_a_gradient)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2)), *labels = ek_zeros(EK_I64, EK_SHAPE(2));
    ck_assert(!ek_tensor_requires_grad(x));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_assert(ek_tensor_requires_grad(x) && !ek_tensor_grad(x));
    ck_assert_int_eq(ek_tensor_set_requires_grad(labels, true), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "set_requires_grad: expected float32 or float64, got int64");
    ck_ok(ek_tensor_set_requires_grad(labels, false));
    ek_tensor_free(x);
    ek_tensor_free(labels);
}
END_TEST

START_TEST(converting_in_place_drops_the_gradient)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(3));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_backward(tape, ek_sum(tape, x, EK_ALL_AXES, false)));
    ck_made(ek_tensor_grad(x));
    ek_tape_free(tape);
    ck_ok(ek_tensor_convert(x, EK_F64));
    ck_assert_int_eq(ek_tensor_dtype(x), EK_F64);
    ck_assert_ptr_null(ek_tensor_grad(x));
    ck_assert(ek_tensor_requires_grad(x) && ek_tensor_at(x, 2) == 1);
    ek_tensor_free(x);
}
END_TEST

START_TEST(status_names_version_and_allocator)
{
    static const char *const names[] = {"EK_OK", "EK_DONE", "EK_ERR_ARGUMENT", "EK_ERR_SHAPE", "EK_ERR_DTYPE",
                                        "EK_ERR_STATE", "EK_ERR_MEMORY", "EK_ERR_IO", "EK_ERR_FORMAT"};
    for (int status = EK_OK; status <= EK_ERR_FORMAT; status++)
        ck_assert_str_eq(ek_status_name((ek_status)status), names[status]);
    ck_assert_str_eq(ek_status_name((ek_status)99), "unknown status");
    ck_assert_str_eq(ek_version(), EK_VERSION_STRING);
    ck_assert_ptr_nonnull(strstr(ek_build_info(), "Evenkeel " EK_VERSION_STRING));
    ck_assert_int_eq(ek_set_num_threads(0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_num_threads: expected at least 1, got 0");
    ck_assert_int_eq(ek_set_allocator(&(ek_allocator){0}), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_allocator: both allocate and release are needed, allocate is NULL");
    ck_ok(ek_set_allocator(NULL));
    ck_assert_int_eq(ek_fail(EK_ERR_IO, "%s", ek_last_error()), EK_ERR_IO); /* a message may quote the last one */
    ck_error(EK_ERR_IO, "set_allocator: both");
    ek_clear_error();
    ck_assert_int_eq(ek_last_status(), EK_OK);
    ck_assert_str_eq(ek_last_error(), "");
}
END_TEST

int main(void)
{
    return RUN_TESTS("tensor", makers_fill_every_type, a_refusal_of_the_allocator_is_an_error,
                     makers_refuse_bad_shapes, makers_refuse_bad_values,
                     values_are_copied_in_and_out, a_null_tensor_is_an_error_that_names_its_cause,
                     borrowed_memory_is_released_once_by_the_last_owner, clones_and_casts_stand_alone, comparisons,
                     printing, shape_texts, leaves_say_what_may_require_a_gradient,
                     converting_in_place_drops_the_gradient, status_names_version_and_allocator);
}
