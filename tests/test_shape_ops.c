/* reshape, flatten, permute, slice and concat against naive index arithmetic, for int64 too; what they refuse. */
#include "core.h"
#include "support.h"

static ek_tensor *counted(ek_dtype dtype, ek_shape shape)
{
    ek_tensor *x = ek_zeros(dtype, shape);
    ck_made(x);
    for (int64_t i = 0; i < x->numel; i++)
        switch (dtype) {
        case EK_F32: ek_data_f32(x)[i] = (float)i; break;
        case EK_F64: ek_data_f64(x)[i] = (double)i; break;
        case EK_I64: ek_data_i64(x)[i] = i; break;
        }
    return x;
}

static void check_shape(const ek_tensor *y, ek_shape expected)
{
    ck_made(y);
    ck_assert_msg(ek_shape_equal(y->shape, expected), "got %s, expected %s", EK_TEXT(y->shape), EK_TEXT(expected));
}

START_TEST(reshape_and_flatten_are_views)
{
    ek_tape *tape = ek_tape_new();
    for (int dtype = EK_F32; dtype <= EK_I64; dtype++) {
        ek_tensor *x = counted((ek_dtype)dtype, EK_SHAPE(2, 3, 4)), *one = ek_ones((ek_dtype)dtype, EK_SCALAR);
        ek_tensor *y = ek_reshape(tape, x, EK_SHAPE(4, -1));
        check_shape(y, EK_SHAPE(4, 6));
        ck_assert_ptr_eq(ek_tensor_data(y), ek_tensor_data(x));
        ck_assert_int_eq(ek_tensor_dtype(y), dtype);
        check_shape(ek_reshape(tape, x, EK_SHAPE(-1)), EK_SHAPE(24));
        check_shape(ek_flatten(tape, x, 0, -1), EK_SHAPE(24));
        check_shape(ek_flatten(tape, x, 1, 2), EK_SHAPE(2, 12));
        check_shape(ek_flatten(tape, x, 0, 1), EK_SHAPE(6, 4));
        check_shape(ek_flatten(tape, x, -2, -2), EK_SHAPE(2, 3, 4));
        check_shape(ek_flatten(tape, one, 0, -1), EK_SHAPE(1));
        check_shape(ek_reshape(tape, one, EK_SHAPE(1, 1)), EK_SHAPE(1, 1));
        check_shape(ek_reshape(tape, one, EK_SCALAR), EK_SCALAR);
        ek_tensor_free(x);
        ek_tensor_free(one);
    }
    ek_tensor *empty = ek_zeros(EK_F32, EK_SHAPE(0, 3));
    check_shape(ek_reshape(tape, empty, EK_SHAPE(-1, 7)), EK_SHAPE(0, 7));
    check_shape(ek_reshape(tape, empty, EK_SHAPE(2, 0)), EK_SHAPE(2, 0));
    check_shape(ek_flatten(tape, empty, 0, 1), EK_SHAPE(0));
    ck_assert_ptr_null(ek_reshape(tape, empty, EK_SHAPE(0, -1)));
    ck_error(EK_ERR_SHAPE, "reshape: expected a shape of 0 elements, as (0, 3) has, got (0, -1), in which any −1 would "
                           "do");
    ek_tensor_free(empty);
    ek_tape_free(tape);
}
END_TEST

START_TEST(reshape_refuses)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(EK_F32, EK_SHAPE(2, 3));
    const int64_t huge = (int64_t)1 << 40;
    static const char *const count = "reshape: expected a shape of 6 elements, as (2, 3) has, got ";
    const struct {
        ek_shape to;
        const char *text;
    } wrong[] = {
        {EK_SHAPE(7), count},
        {EK_SHAPE(4, -1), count},
        {EK_SHAPE(-1, 0), count},
        {EK_SCALAR, count},
        {EK_SHAPE(-1, -1), "reshape: expected dimensions of 0 or more and at most one −1, got (-1, -1)"},
        {EK_SHAPE(-2, 3), "reshape: expected dimensions of 0 or more and at most one −1, got (-2, 3)"},
        {EK_SHAPE(huge, huge), "reshape: the number of elements of (1099511627776, 1099511627776) overflows int64"},
        {{.ndim = 9}, "reshape: expected a rank of 0 to 8, got 9"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        ck_assert_ptr_null(ek_reshape(tape, x, wrong[i].to));
        ck_error(EK_ERR_SHAPE, wrong[i].text);
        ek_tape_reset(tape);
    }
    ck_assert_ptr_null(ek_flatten(tape, x, 1, 0));
    ck_error(EK_ERR_ARGUMENT, "flatten: expected a first and a last axis of (2, 3), in order, got 1 and 0");
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_ARGUMENT);
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_flatten(tape, x, 0, 2));
    ck_error(EK_ERR_ARGUMENT, "in order, got 0 and 2");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_flatten(tape, NULL, 0, -1));
    ck_error(EK_ERR_ARGUMENT, "input 0 is NULL");
    ck_assert_ptr_null(ek_flatten(NULL, x, 0, -1));
    ck_error(EK_ERR_ARGUMENT, "flatten: the tape is NULL");
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

/* Position of `index` in a row-major tensor. */
static int64_t flat_index(ek_shape shape, const int64_t *index)
{
    int64_t flat = 0;
    for (int i = 0; i < shape.ndim; i++)
        flat = flat * shape.dim[i] + index[i];
    return flat;
}

static void next_index(ek_shape shape, int64_t *index)
{
    for (int i = shape.ndim - 1; i >= 0 && ++index[i] == shape.dim[i]; i--)
        index[i] = 0;
}

static void check_permute(ek_dtype dtype, ek_shape shape, const int64_t *order)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(dtype, shape);
    ek_axes axes = {.n = shape.ndim};
    ek_shape expected = {.ndim = shape.ndim};
    for (int i = 0; i < shape.ndim; i++) {
        axes.axis[i] = (int)order[i] - (i % 2 ? shape.ndim : 0);
        expected.dim[i] = shape.dim[order[i]];
    }
    if (dtype != EK_I64)
        ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *y = ek_permute(tape, x, axes);
    check_shape(y, expected);
    if (dtype != EK_I64)
        ck_ok(ek_backward_from(tape, y, y)); /* the gradient x gets back is x itself */
    int64_t index[EK_MAX_NDIM] = {0}, source[EK_MAX_NDIM];
    for (int64_t i = 0; i < y->numel; i++) {
        for (int k = 0; k < shape.ndim; k++)
            source[order[k]] = index[k];
        ck_each(ek_tensor_at(y, i) == ek_tensor_at(x, flat_index(shape, source)), "%s to %s: element %lld",
                EK_TEXT(shape), EK_TEXT(expected), (long long)i);
        next_index(expected, index);
    }
    if (dtype != EK_I64)
        ck_assert(ek_tensor_equal(x, ek_tensor_grad(x)));
    ek_tensor_free(x);
    ek_tape_free(tape);
}

START_TEST(permute_moves_every_element)
{
    ek_rng rng = ek_rng_seed(1);
    int64_t order[EK_MAX_NDIM];
    for (int round = 0; round < 300; round++) {
        ek_shape shape = {.ndim = (int)ek_rng_below(&rng, 6)};
        for (int i = 0; i < shape.ndim; i++)
            shape.dim[i] = ek_rng_below(&rng, 30) ? 1 + ek_rng_below(&rng, 6) : 0;
        ek_rng_permutation(&rng, shape.ndim, order);
        check_permute((ek_dtype)(round % 3), shape, order);
    }
    check_permute(EK_F32, EK_SHAPE(300, 200), (int64_t[]){1, 0}); /* several chunks */
    check_permute(EK_I64, EK_SHAPE(40, 30, 50), (int64_t[]){2, 0, 1});
    check_permute(EK_F64, EK_SHAPE(40, 30, 50), (int64_t[]){1, 0, 2});
    check_permute(EK_F32, EK_SHAPE(5000, 3), (int64_t[]){1, 0}); /* rows in several pieces */
    check_permute(EK_F32, EK_SHAPE(3, 17, 33, 18), (int64_t[]){0, 3, 1, 2});
    check_permute(EK_I64, EK_SHAPE(3, 17, 33, 18), (int64_t[]){2, 3, 0, 1});
    check_permute(EK_F64, EK_SHAPE(3, 17, 33, 18), (int64_t[]){3, 1, 0, 2});
}
END_TEST

START_TEST(permute_refuses)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(EK_F32, EK_SHAPE(2, 3));
    ck_assert_ptr_null(ek_permute(tape, x, EK_AXES(0)));
    ck_error(EK_ERR_ARGUMENT, "permute: expected an order of 2 axes for (2, 3), got 1");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_permute(tape, x, EK_ALL_AXES));
    ck_error(EK_ERR_ARGUMENT, "permute: expected an order of 2 axes for (2, 3), got -1");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_permute(tape, x, EK_AXES(1, -1)));
    ck_error(EK_ERR_ARGUMENT, "permute: expected each axis of (2, 3) once, got axis -1 twice");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_permute(tape, x, EK_AXES(0, 2)));
    ck_error(EK_ERR_ARGUMENT, "permute: expected each axis of (2, 3) once, got axis 2");
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

static void check_slice(ek_dtype dtype, ek_shape shape, int axis, int64_t start, int64_t stop)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(dtype, shape);
    ek_shape expected = shape;
    expected.dim[axis] = stop - start;
    if (dtype != EK_I64)
        ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor *y = ek_slice(tape, x, axis - shape.ndim, start, stop == shape.dim[axis] ? stop : stop - shape.dim[axis]);
    check_shape(y, expected);
    if (axis == 0 && y->numel) {
        size_t skipped = (size_t)(start * (x->numel / shape.dim[0])) * ek_dtype_size(dtype);
        ck_assert_ptr_eq((char *)ek_tensor_data(y), (char *)ek_tensor_data(x) + skipped);
    }
    if (dtype != EK_I64)
        ck_ok(ek_backward_from(tape, y, y)); /* x's gradient: x inside the range, 0 outside */
    int64_t index[EK_MAX_NDIM] = {0}, at = 0;
    for (int64_t i = 0; i < x->numel; i++) {
        bool inside = index[axis] >= start && index[axis] < stop;
        if (inside)
            ck_each(ek_tensor_at(y, at++) == (double)i, "%s, axis %d: element %lld", EK_TEXT(shape), axis,
                    (long long)i);
        if (dtype != EK_I64)
            ck_each(ek_tensor_at(ek_tensor_grad(x), i) == (inside ? (double)i : 0), "%s, axis %d: gradient %lld",
                    EK_TEXT(shape), axis, (long long)i);
        next_index(shape, index);
    }
    ek_tensor_free(x);
    ek_tape_free(tape);
}

START_TEST(slice_takes_its_range)
{
    ek_rng rng = ek_rng_seed(2);
    for (int round = 0; round < 400; round++) {
        ek_shape shape = {.ndim = 1 + (int)ek_rng_below(&rng, 4)};
        for (int i = 0; i < shape.ndim; i++)
            shape.dim[i] = ek_rng_below(&rng, 30) ? 1 + ek_rng_below(&rng, 6) : 0;
        int axis = (int)ek_rng_below(&rng, shape.ndim);
        int64_t start = ek_rng_below(&rng, shape.dim[axis] + 1);
        check_slice((ek_dtype)(round % 3), shape, axis, start, start + ek_rng_below(&rng, shape.dim[axis] - start + 1));
    }
    check_slice(EK_F32, EK_SHAPE(3, 40000), 1, 100, 39000); /* several chunks */
    check_slice(EK_F64, EK_SHAPE(2, 200000), 1, 1, 199999);
}
END_TEST

START_TEST(slice_refuses)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(EK_F32, EK_SHAPE(5, 3)), *one = ek_ones(EK_F32, EK_SCALAR);
    static const int64_t range[][2] = {{0, 6}, {3, 2}, {-6, 2}, {0, -6}, {INT64_MIN, INT64_MAX}};
    for (size_t i = 0; i < sizeof range / sizeof range[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "slice: expected a range within 0 … 5 on axis 0 of (5, 3), got %lld … %lld",
                 (long long)range[i][0], (long long)range[i][1]);
        ck_assert_ptr_null(ek_slice(tape, x, 0, range[i][0], range[i][1]));
        ck_error(EK_ERR_ARGUMENT, text);
        ek_tape_reset(tape);
    }
    ck_assert_ptr_null(ek_slice(tape, x, 2, 0, 1));
    ck_error(EK_ERR_ARGUMENT, "slice: expected an axis within the rank of (5, 3), got axis 2");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_slice(tape, one, 0, 0, 1));
    ck_error(EK_ERR_ARGUMENT, "slice: expected an axis within the rank of (), got axis 0");
    ek_tensor_free(x);
    ek_tensor_free(one);
    ek_tape_free(tape);
}
END_TEST

/* Concat undoes slicing: values and gradients. */
static void check_concat(ek_dtype dtype, ek_shape shape, int axis, ek_rng *rng)
{
    enum { MOST = 8 };
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = counted(dtype, shape), *parts[MOST];
    int n = 0;
    if (dtype != EK_I64)
        ck_ok(ek_tensor_set_requires_grad(x, true));
    int64_t start = 0;
    do {
        int64_t left = shape.dim[axis] - start, size = n == MOST - 1 ? left : ek_rng_below(rng, left + 1);
        parts[n++] = ek_slice(tape, x, axis, start, start + size);
        ck_made(parts[n - 1]);
        start += size;
    } while (start < shape.dim[axis]);
    ek_tensor *y = ek_concat(tape, parts, n, axis - shape.ndim);
    check_shape(y, shape);
    ck_assert(ek_tensor_equal(x, y));
    if (dtype != EK_I64) {
        ck_ok(ek_backward_from(tape, y, x));
        ck_assert(ek_tensor_equal(ek_tensor_grad(x), x));
    }
    ek_tensor_free(x);
    ek_tape_free(tape);
}

START_TEST(concat_joins_what_slices_cut)
{
    ek_rng rng = ek_rng_seed(3);
    for (int round = 0; round < 400; round++) {
        ek_shape shape = {.ndim = 1 + (int)ek_rng_below(&rng, 4)};
        for (int i = 0; i < shape.ndim; i++)
            shape.dim[i] = ek_rng_below(&rng, 30) ? 1 + ek_rng_below(&rng, 9) : 0;
        check_concat((ek_dtype)(round % 3), shape, (int)ek_rng_below(&rng, shape.ndim), &rng);
    }
    check_concat(EK_F32, EK_SHAPE(2, 300000), 1, &rng); /* blocks copied in pieces */
    check_concat(EK_F64, EK_SHAPE(60000, 4), 1, &rng);
}
END_TEST

START_TEST(concat_refuses)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *a = ek_ones(EK_F32, EK_SHAPE(2, 3)), *b = ek_ones(EK_F32, EK_SHAPE(2, 4));
    ek_tensor *flat = ek_ones(EK_F32, EK_SHAPE(3)), *labels = ek_ones(EK_I64, EK_SHAPE(2, 3));
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){a, b}, 2, 0));
    ck_error(EK_ERR_SHAPE, "concat: expected inputs like (2, 3) but for axis 0, got (2, 4) (input 1)");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){a, b, flat}, 3, 1));
    ck_error(EK_ERR_SHAPE, "concat: expected inputs like (2, 3) but for axis 1, got (3,) (input 2)");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){a, labels}, 2, 0));
    ck_error(EK_ERR_DTYPE, "concat: expected inputs of one type, got float32 and int64 (input 1)");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){a, a}, 2, 2));
    ck_error(EK_ERR_ARGUMENT, "concat: expected an axis within the rank of (2, 3), got axis 2");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){a, NULL}, 2, 0));
    ck_error(EK_ERR_ARGUMENT, "concat: input 1 is NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_concat(tape, &a, 0, 0));
    ck_error(EK_ERR_ARGUMENT, "expected an op and at least one input, got concat and 0");
    ek_tape_reset(tape);
    ek_tensor *endless = ek_zeros(EK_F32, EK_SHAPE(0, INT64_MAX / 4));
    ck_assert_ptr_null(ek_concat(tape, (ek_tensor *[]){endless, endless, endless, endless, endless}, 5, 1));
    ck_error(EK_ERR_SHAPE, "concat: the size of axis 1 overflows int64");
    ek_tensor_free(endless);
    ek_tensor *all[] = {a, b, flat, labels};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
    ek_tape_free(tape);
}
END_TEST

int main(void)
{
    return RUN_TESTS("shape_ops", reshape_and_flatten_are_views, reshape_refuses, permute_moves_every_element,
                     permute_refuses, slice_takes_its_range, slice_refuses, concat_joins_what_slices_cut,
                     concat_refuses);
}
