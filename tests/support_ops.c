#include "support_ops.h"

ek_tensor *leaf(ek_dtype dtype, ek_shape shape, const double *values)
{
    ek_tensor *wide = ek_from_array(EK_F64, shape, values), *x = ek_tensor_cast(wide, dtype);
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tensor_free(wide);
    return x;
}

ek_tensor *random_leaf(ek_dtype dtype, ek_shape shape, ek_rng *rng)
{
    ek_tensor *x = ek_uniform(dtype, shape, -1, 1, rng);
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

ek_tensor *run_op(op_call op, ek_tensor *const *in, int n_in, const void *options, const ek_tensor *dy)
{
    ek_tape *t = ek_tape_new();
    bool needs_grad = false;
    for (int i = 0; i < n_in; i++) {
        ek_tensor_clear_grad(in[i]);
        needs_grad |= ek_tensor_requires_grad(in[i]);
    }
    ek_tensor *y = op(t, in, options);
    ck_made(y);
    if (needs_grad) {
        ek_tensor *ones = ek_ones(ek_tensor_dtype(y), ek_tensor_shape(y));
        ck_ok(ek_backward_from(t, y, dy ? dy : ones));
        ek_tensor_free(ones);
    }
    ek_tensor *result = ek_tensor_clone(y);
    ck_made(result);
    ek_tape_free(t);
    return result;
}

void assert_same_for_any_threads(const char *what, op_call op, ek_tensor *const *in, int n_in, const void *options)
{
    static const int threads[] = {2, 3, 8};
    enum { MAX_INPUTS = 4 };
    ek_tensor *grads[MAX_INPUTS] = {NULL};
    ck_assert_int_le(n_in, MAX_INPUTS);
    ck_ok(ek_set_num_threads(1));
    ek_tensor *y = run_op(op, in, n_in, options, NULL);
    for (int i = 0; i < n_in; i++)
        grads[i] = ek_tensor_grad(in[i]) ? ek_tensor_clone(ek_tensor_grad(in[i])) : NULL;
    for (int k = 0; k < 3; k++) {
        ck_ok(ek_set_num_threads(threads[k]));
        ek_tensor *again = run_op(op, in, n_in, options, NULL);
        ck_assert_msg(ek_tensor_equal(y, again), "%s: %d threads change the result", what, threads[k]);
        for (int i = 0; i < n_in; i++)
            ck_assert_msg(!grads[i] || ek_tensor_equal(grads[i], ek_tensor_grad(in[i])),
                          "%s: %d threads change the gradient of input %d", what, threads[k], i);
        ek_tensor_free(again);
    }
    for (int i = 0; i < n_in; i++)
        ek_tensor_free(grads[i]);
    ek_tensor_free(y);
}

void assert_op_fails(ek_status status, const char *text, op_call op, ek_tensor *const *in, int n_in,
                     const void *options)
{
    enum { MAX_INPUTS = 4 };
    ek_tensor *before[MAX_INPUTS] = {NULL};
    ck_assert_int_le(n_in, MAX_INPUTS);
    for (int i = 0; i < n_in; i++)
        before[i] = in[i] ? ek_tensor_clone(in[i]) : NULL;
    ek_tape *t = ek_tape_new();
    ek_clear_error();
    ck_assert_msg(!op(t, in, options), "expected a failure, «%s»", text);
    ck_error(status, text);
    ck_assert_int_eq(ek_tape_status(t), status);
    ck_assert_ptr_nonnull(strstr(ek_tape_error(t), text));
    ek_tape_free(t);
    for (int i = 0; i < n_in; i++) {
        ck_assert(!in[i] || ek_tensor_equal(before[i], in[i]));
        ek_tensor_free(before[i]);
    }
}
