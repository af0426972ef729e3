/* Ops of one's own: what a user gives, what the library checks, what an op's functions may call. */
#include "support.h"

static ek_tensor *parameter(ek_tensor *t)
{
    return t && ek_tensor_set_requires_grad(t, true) == EK_OK ? t : NULL;
}

typedef struct blend_attributes {
    double weight;
} blend_attributes;

/* y = w·a + (1−w)·b², b optional; saves b² − which backward does not need, but which shows that it is found again. */
static ek_status blend_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)shape;
    if (*dtype != EK_F64)
        return ek_fail(EK_ERR_DTYPE, "blend: expected float64, got %s", ek_dtype_name(*dtype));
    return ((const blend_attributes *)node->attributes)->weight < 0
               ? ek_fail(EK_ERR_ARGUMENT, "blend: expected a weight of 0 or more")
               : EK_OK;
}

static ek_status blend_forward(ek_node *node)
{
    double weight = ((const blend_attributes *)node->attributes)->weight, *y = ek_data_f64(node->out);
    const double *a = ek_data_f64(node->in[0]), *b = node->n_in > 1 && node->in[1] ? ek_data_f64(node->in[1]) : NULL;
    int64_t n = ek_tensor_numel(node->out);
    double *saved = ek_node_save(node, (size_t)n * sizeof *saved), *scratch = ek_node_scratch(node, sizeof *scratch);
    if (!saved || !scratch)
        return EK_ERR_MEMORY;
    ck_assert_uint_eq((uintptr_t)saved % 64, 0);
    *scratch = 1;
    for (int64_t i = 0; i < n; i++) {
        saved[i] = b ? b[i] * b[i] : 0;
        y[i] = weight * a[i] + (*scratch - weight) * saved[i];
    }
    return isnan(y[0]) ? ek_fail(EK_ERR_ARGUMENT, "blend: it is NaN") : EK_OK;
}

static ek_status blend_backward(ek_node *node)
{
    double weight = ((const blend_attributes *)node->attributes)->weight;
    const double *dy = ek_node_grad_out(node), *saved = node->saved;
    double *da = ek_node_grad_in(node, 0), *db = ek_node_grad_in(node, 1);
    ck_assert_ptr_eq(da, ek_node_grad_in(node, 0)); /* asked twice, it is the same */
    ck_assert_ptr_null(ek_node_grad_in(node, 2));
    ck_assert_ptr_null(ek_node_grad_in(node, -1));
    for (int64_t i = 0; i < ek_tensor_numel(node->out); i++) {
        if (da)
            da[i] = weight * dy[i];
        if (db)
            db[i] = (1 - weight) * 2 * copysign(sqrt(saved[i]), ek_data_f64(node->in[1])[i]) * dy[i];
    }
    return weight == 13 ? ek_fail(EK_ERR_ARGUMENT, "blend: 13 brings bad luck") : EK_OK;
}

static const ek_op blend = {.name = "blend",
                            .optional_from = 1,
                            .infer = blend_infer,
                            .forward = {blend_forward, blend_forward},
                            .backward = {blend_backward, blend_backward}};

static ek_tensor *apply_blend(ek_tape *tape, ek_tensor *a, ek_tensor *b, double weight)
{
    blend_attributes attributes = {weight};
    return ek_apply(tape, &blend, 2, (ek_tensor *[]){a, b}, &attributes, sizeof attributes);
}

static ek_tensor *blend_twice(ek_tape *tape, ek_tensor *const *in, void *user)
{
    ek_tensor *once = apply_blend(tape, in[0], in[1], *(double *)user);
    return apply_blend(tape, once, once, 0.25);
}

START_TEST(an_op_of_ones_own)
{
    ek_rng rng = ek_rng_seed(1);
    ek_tensor *in[2] = {parameter(ek_uniform(EK_F64, EK_SHAPE(5), 0.5, 1, &rng)),
                        parameter(ek_uniform(EK_F64, EK_SHAPE(5), -2, -1, &rng))};
    double weight = 0.75;
    ck_ok(ek_gradcheck(blend_twice, &weight, in, 2, NULL, NULL));
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = apply_blend(tape, in[0], NULL, 0.5); /* b left out */
    ck_assert(ek_tensor_at(y, 0) == 0.5 * ek_tensor_at(in[0], 0));
    ck_ok(ek_backward(tape, ek_sum(tape, y, EK_ALL_AXES, false)));
    ck_assert(ek_tensor_at(ek_tensor_grad(in[0]), 0) == 0.5);
    ck_assert_ptr_null(ek_tensor_grad(in[1]));
    ek_tape_reset(tape);
    ck_ok(ek_tape_set_recording(tape, false));
    ck_made(apply_blend(tape, in[0], in[1], 0.5)); /* saves to scratch memory */
    ek_tensor_free(in[0]);
    ek_tensor_free(in[1]);
    ek_tape_free(tape);
}
END_TEST

START_TEST(failures_of_ones_own_op)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *a = parameter(ek_ones(EK_F64, EK_SHAPE(2))), *nan = ek_full(EK_F64, EK_SHAPE(2), NAN);
    ek_tensor *single = ek_ones(EK_F32, EK_SHAPE(2));
    ck_assert_ptr_null(apply_blend(tape, a, NULL, -1));
    ck_error(EK_ERR_ARGUMENT, "blend: expected a weight of 0 or more");
    ek_tape_reset(tape);
    ck_assert_ptr_null(apply_blend(tape, single, NULL, 1));
    ck_error(EK_ERR_DTYPE, "blend: expected float64, got float32");
    ek_tape_reset(tape);
    ck_assert_ptr_null(apply_blend(tape, a, nan, 0.5)); /* a forward that fails */
    ck_error(EK_ERR_ARGUMENT, "blend: it is NaN");
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_ARGUMENT);
    ek_tape_reset(tape);
    ck_assert_ptr_null(apply_blend(tape, NULL, a, 0.5)); /* input 0 is not optional */
    ck_error(EK_ERR_ARGUMENT, "blend: input 0 is NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_apply(tape, NULL, 1, &a, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "apply: expected an op and at least one input, got NULL and 1");
    ek_tape_reset(tape);
    ek_tensor *sum = ek_sum(tape, ek_add(tape, apply_blend(tape, a, NULL, 13), a), EK_ALL_AXES, false);
    ck_assert_int_eq(ek_backward(tape, sum), EK_ERR_ARGUMENT); /* a backward that fails, after a had a gradient */
    ck_error(EK_ERR_ARGUMENT, "blend: 13 brings bad luck");
    ck_assert_ptr_null(ek_tensor_grad(a));
    ek_tensor_free(a);
    ek_tensor_free(nan);
    ek_tensor_free(single);
    ek_tape_free(tape);
}
END_TEST

/* y = x[0], whose backward adds to one element and finds zeros, or the sum so far, in the rest. */
static ek_status first_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)node;
    (void)dtype;
    shape->ndim = 0;
    return EK_OK;
}

static ek_status first_forward(ek_node *node)
{
    *(float *)ek_tensor_data(node->out) = *(const float *)ek_tensor_const_data(node->in[0]);
    return EK_OK;
}

static ek_status first_backward(ek_node *node)
{
    *(float *)ek_node_grad_in(node, 0) += *(const float *)ek_node_grad_out(node);
    return EK_OK;
}

START_TEST(an_op_that_adds_to_gradients)
{
    static const ek_op first = {.name = "first", .infer = first_infer, .forward = {first_forward, NULL},
                                .backward = {first_backward, NULL}, .flags = EK_OP_ADDS_GRADIENT};
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(3))), *u = ek_affine(tape, x, 1, 0);
    ek_tensor *y = ek_apply(tape, &first, 1, &u, NULL, 0), *again = ek_apply(tape, &first, 1, &u, NULL, 0);
    ek_tensor *rest = ek_sum(tape, u, EK_ALL_AXES, false);
    ck_ok(ek_backward(tape, ek_add(tape, ek_add(tape, y, again), rest)));
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 3 && ek_tensor_at(ek_tensor_grad(x), 2) == 1);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

/* y = x in float64, from float32 alone: which functions run is a matter of the input's type, not of y's. */
static ek_status widen_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)node;
    (void)shape;
    *dtype = EK_F64;
    return EK_OK;
}

static ek_status widen_forward(ek_node *node)
{
    for (int64_t i = 0; i < ek_tensor_numel(node->out); i++)
        ek_data_f64(node->out)[i] = ek_data_f32(node->in[0])[i];
    return EK_OK;
}

static ek_status widen_backward(ek_node *node)
{
    float *dx = ek_node_grad_in(node, 0);
    const double *dy = ek_node_grad_out(node);
    for (int64_t i = 0; dx && i < ek_tensor_numel(node->out); i++)
        dx[i] = (float)dy[i];
    return EK_OK;
}

START_TEST(an_op_for_one_float_type)
{
    static const ek_op widen = {.name = "widen", .infer = widen_infer, .forward = {widen_forward, NULL},
                                .backward = {widen_backward, NULL}};
    static const ek_op one_way = {.name = "one_way", .infer = widen_infer, .forward = {widen_forward, NULL}};
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(3))), *wide = ek_ones(EK_F64, EK_SHAPE(3));
    ek_tensor *y = ek_apply(tape, &widen, 1, &x, NULL, 0);
    ck_ok(ek_backward(tape, ek_sum(tape, ek_affine(tape, y, 3, 0), EK_ALL_AXES, false)));
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 2) == 3);
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_apply(tape, &widen, 1, &wide, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "widen: the op has no forward function for float64");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_apply(tape, &one_way, 1, &x, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "one_way: the op has no backward function for float32; ek_detach() the inputs if no "
                              "gradient is to flow");
    ek_tape_reset(tape);
    ek_tensor *fixed = ek_detach(tape, x);
    ck_made(ek_apply(tape, &one_way, 1, &fixed, NULL, 0));
    ck_assert_ptr_null(ek_apply(tape, &(ek_op){.name = "bare"}, 1, &x, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "apply: bare: the shape rule, infer, is NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_apply(tape, &(ek_op){.infer = widen_infer}, 1, &x, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "apply: an op: the name is NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_apply(tape, &widen, 1, &x, NULL, 8));
    ck_error(EK_ERR_ARGUMENT, "apply: widen: the attributes are NULL");
    ek_tensor_free(x);
    ek_tensor_free(wide);
    ek_tape_free(tape);
}
END_TEST

/* Functions that fail in silence when their attribute names them. */
enum { IN_INFER, IN_FORWARD, IN_BACKWARD };

static ek_status silent(const ek_node *node, int where)
{
    return *(const int *)node->attributes == where ? EK_ERR_STATE : EK_OK;
}

static ek_status silent_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    (void)shape;
    return silent(node, IN_INFER);
}

static ek_status silent_forward(ek_node *node)
{
    *(float *)ek_tensor_data(node->out) = 1;
    return silent(node, IN_FORWARD);
}

static ek_status silent_backward(ek_node *node)
{
    *(float *)ek_node_grad_in(node, 0) = 1;
    return silent(node, IN_BACKWARD);
}

START_TEST(failures_without_a_message)
{
    static const ek_op op = {.name = "silent", .infer = silent_infer, .forward = {silent_forward, NULL},
                             .backward = {silent_backward, NULL}};
    static const char *const function[2] = {"infer", "forward"};
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(1)));
    char expected[120];
    for (int where = IN_INFER; where <= IN_FORWARD; where++) {
        ek_fail(EK_ERR_IO, "an error of long ago");
        ck_assert_ptr_null(ek_apply(tape, &op, 1, &x, &where, sizeof where));
        snprintf(expected, sizeof expected, "silent: its %s function returned EK_ERR_STATE without a message",
                 function[where]);
        ck_error(EK_ERR_STATE, expected);
        ck_assert_int_eq(ek_tape_status(tape), EK_ERR_STATE);
        ek_tape_reset(tape);
    }
    ek_fail(EK_ERR_IO, "an error of long ago");
    ck_assert_int_eq(ek_backward(tape, ek_apply(tape, &op, 1, &x, &(int){IN_BACKWARD}, sizeof(int))), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "silent: its backward function returned EK_ERR_STATE without a message");
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

START_TEST(a_node_that_is_null)
{
    ck_assert_ptr_null(ek_node_save(NULL, 8));
    ck_error(EK_ERR_ARGUMENT, "node_save: the node is NULL");
    ck_assert_ptr_null(ek_node_scratch(NULL, 8));
    ck_error(EK_ERR_ARGUMENT, "node_scratch: the node is NULL");
    ck_assert_ptr_null(ek_node_grad_out(NULL));
    ck_error(EK_ERR_ARGUMENT, "node_grad_out: the node is NULL");
    ck_assert_ptr_null(ek_node_grad_in(NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "node_grad_in: the node is NULL");
}
END_TEST

int main(void)
{
    return RUN_TESTS("own_ops", an_op_of_ones_own, failures_of_ones_own_op, an_op_that_adds_to_gradients,
                     an_op_for_one_float_type, failures_without_a_message, a_node_that_is_null);
}
