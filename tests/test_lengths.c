/* Lengths of padded sequences: setting them, what each op passes on, zero padding, and their life beside that of tapes
 * and leaves. */
#include "op.h"
#include "support_ops.h"

/* ---- setting ----------------------------------------------------------------------------------------------------- */

static void assert_lengths(const char *what, const ek_lengths *got, int batch_axis, int time_axis, int64_t n,
                           int64_t steps, const int64_t *length)
{
    ck_assert_msg(got, "%s: no lengths", what);
    ck_assert_msg(got->batch_axis == batch_axis && got->time_axis == time_axis,
                  "%s: on axes %d and %d, expected %d and %d", what, got->batch_axis, got->time_axis, batch_axis,
                  time_axis);
    ck_assert_msg(got->n == n && got->steps == steps, "%s: %lld sequences of %lld steps, expected %lld of %lld", what,
                  (long long)got->n, (long long)got->steps, (long long)n, (long long)steps);
    int64_t total = 0;
    for (int64_t i = 0; i < n; i++) {
        ck_assert_msg(got->length[i] == length[i], "%s: sequence %lld has %lld steps, expected %lld", what,
                      (long long)i, (long long)got->length[i], (long long)length[i]);
        ck_assert_int_eq(got->start[i], total);
        for (int64_t k = 0; got->leading && k < length[i]; k++)
            ck_assert_int_eq(got->step[total + k], k);
        total += length[i];
    }
    ck_assert_int_eq(got->start[n], total);
    ck_assert_int_eq(got->total, total);
}

START_TEST(lengths_are_set_and_cleared)
{
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(3, 2, 4));
    ck_assert_ptr_null(ek_tensor_lengths(x));
    ck_assert_ptr_null(ek_tensor_lengths(NULL));
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){2, 4, 1}, 3, 0, -1));
    assert_lengths("set", ek_tensor_lengths(x), 0, 2, 3, 4, (int64_t[]){2, 4, 1});
    ck_assert(ek_tensor_lengths(x)->leading);
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){1, 3, 3, 2}, 4, 2, 0)); /* other axes, more sequences */
    assert_lengths("replaced", ek_tensor_lengths(x), 2, 0, 4, 3, (int64_t[]){1, 3, 3, 2});
    ek_tensor_clear_lengths(x);
    ck_assert_ptr_null(ek_tensor_lengths(x));
    ek_tensor_clear_lengths(NULL);
    const bool mask[12] = {0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1};
    ck_ok(ek_tensor_set_mask(x, mask, 3, 4, 0, 2));
    const ek_lengths *holes = ek_tensor_lengths(x);
    assert_lengths("mask", holes, 0, 2, 3, 4, (int64_t[]){2, 3, 1});
    ck_assert(!holes->leading);
    ck_assert(!memcmp(holes->step, (int64_t[]){1, 3, 0, 1, 2, 3}, 6 * sizeof(int64_t)));
    for (int64_t i = 0; i < 3; i++)
        for (int64_t s = 0; s < 4; s++)
            ck_assert_int_eq(ek_lengths_hold(holes, i, s), mask[i * 4 + s]);
    ck_ok(ek_tensor_set_mask(x, (bool[]){1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 1, 1}, 3, 4, 0, 2));
    ck_assert(ek_tensor_lengths(x)->leading);
    assert_lengths("mask without holes", ek_tensor_lengths(x), 0, 2, 3, 4, (int64_t[]){2, 1, 4});
    ek_tensor_free(x);
}
END_TEST

START_TEST(bad_lengths_are_refused)
{
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(2, 3));
    ek_tape *t = ek_tape_new();
    const int64_t good[] = {3, 1};
    ck_ok(ek_tensor_set_lengths(x, good, 2, 0, 1));
    const struct {
        int64_t lengths[2], n;
        int batch, time;
        ek_status status;
        const char *text;
    } rows[] = {
        {{0, 1}, 2, 0, 1, EK_ERR_ARGUMENT, "tensor_set_lengths: expected lengths in 1 … 3, the size of axis 1 of "
                                           "(2, 3), got 0 for sequence 0; leave empty sequences out of the batch"},
        {{1, 4}, 2, 0, 1, EK_ERR_ARGUMENT, "in 1 … 3, the size of axis 1 of (2, 3), got 4 for sequence 1"},
        {{1, -1}, 2, 0, 1, EK_ERR_ARGUMENT, "got -1 for sequence 1"},
        {{1, 1}, 1, 0, 1, EK_ERR_SHAPE,
         "tensor_set_lengths: expected 2 sequences, as (2, 3) has along axes 0 and 1, got 1"},
        {{1, 1}, 2, 1, 0, EK_ERR_SHAPE, "expected 3 sequences, as (2, 3) has along axes 1 and 0, got 2"},
        {{1, 1}, 2, 0, 0, EK_ERR_ARGUMENT, "expected two different axes of (2, 3) for batch and time, got 0 and 0"},
        {{1, 1}, 2, 1, -1, EK_ERR_ARGUMENT, "expected two different axes of (2, 3) for batch and time, got 1 and -1"},
        {{1, 1}, 2, 0, 2, EK_ERR_ARGUMENT, "expected two different axes of (2, 3) for batch and time, got 0 and 2"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        ck_assert_int_eq(ek_tensor_set_lengths(x, rows[i].lengths, rows[i].n, rows[i].batch, rows[i].time),
                         rows[i].status);
        ck_error(rows[i].status, rows[i].text);
        assert_lengths("after a refusal", ek_tensor_lengths(x), 0, 1, 2, 3, good);
    }
    ck_assert_int_eq(ek_tensor_set_lengths(NULL, good, 2, 0, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_set_lengths: the tensor is NULL");
    ck_assert_int_eq(ek_tensor_set_lengths(x, NULL, 2, 0, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_set_lengths: the list of lengths is NULL");
    const bool none[6] = {1, 0, 1, 0, 0, 0};
    ck_assert_int_eq(ek_tensor_set_mask(x, none, 2, 3, 0, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_set_mask: expected a valid step in every sequence, got none in sequence 1");
    ck_assert_int_eq(ek_tensor_set_mask(x, none, 2, 2, 0, 1), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE,
             "tensor_set_mask: expected 2 sequences of 3 steps, as (2, 3) has along axes 0 and 1, got 2 of 2");
    ck_assert_int_eq(ek_tensor_set_mask(x, NULL, 2, 3, 0, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tensor_set_mask: the mask is NULL");
    ek_tensor *y = ek_relu(t, x);
    ck_assert_int_eq(ek_tensor_set_lengths(y, good, 2, 0, 1), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "tensor_set_lengths: the tensor belongs to a tape; set the lengths of the input");
    ek_tensor_clear_lengths(y); /* no effect on a tensor of a tape */
    assert_lengths("of a tape", ek_tensor_lengths(y), 0, 1, 2, 3, good);
    ek_tape_free(t);
    ek_tensor_free(x);
}
END_TEST

/* Without elements a tensor may have so many steps that the bytes of their lengths are more than a size_t counts. */
START_TEST(lengths_beyond_all_memory_are_refused)
{
    const int64_t length[] = {50};
    for (int64_t less = 1; less < 5; less++) {
        ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(1, (INT64_C(1) << 61) - less, 0));
        ck_assert_ptr_nonnull(x);
        ck_assert_int_eq(ek_tensor_set_lengths(x, length, 1, 0, 1), EK_ERR_MEMORY);
        ck_error(EK_ERR_MEMORY, "out of memory: the allocator refused");
        ck_assert_ptr_null(ek_tensor_lengths(x));
        ek_tensor_free(x);
    }
}
END_TEST

/* ---- what ops pass on -------------------------------------------------------------------------------------------- */

/* Other inputs of a rule's expression, freed after it. */
static ek_tensor *others[4];
static int n_others;

static ek_tensor *keep(ek_tensor *t)
{
    ck_made(t);
    return others[n_others++] = t;
}
#define OTHER(...) keep(ek_ones(EK_F64, EK_SHAPE(__VA_ARGS__)))
#define LABELS(...) keep(ek_zeros(EK_I64, EK_SHAPE(__VA_ARGS__)))
static void free_others(void)
{
    while (n_others > 0)
        ek_tensor_free(others[--n_others]);
}

/* x with other lengths. */
static ek_tensor *relabelled(const ek_tensor *x, int batch_axis, int time_axis, const int64_t *lengths)
{
    ek_tensor *y = keep(ek_ones(EK_F64, x->shape));
    ck_ok(ek_tensor_set_lengths(y, lengths, x->shape.dim[batch_axis], batch_axis, time_axis));
    return y;
}

#define PAIR(a, b) ((ek_tensor *[]){a, b}), 2
#define CONV(...) (&(ek_conv_opts){__VA_ARGS__, .relu = false})
#define POOL(...) (&(ek_pool_opts){__VA_ARGS__})
#define NO_REDUCTION (&(ek_cross_entropy_opts){EK_REDUCE_NONE, -100, 0})

typedef struct rule {
    const char *name;
    ek_shape shape;
    int batch_axis, time_axis;
    ek_tensor *(*apply)(ek_tape *t, ek_tensor *x);
    int out_batch, out_time; /* −1: no lengths expected */
    int64_t n, expected[8];
} rule;

#define RULE(name, shape, batch, time, expression, ...) NONE(name, shape, batch, time, expression)
#define NONE(name, shape, batch, time, expression)                                                                     \
    static ek_tensor *rule_##name(ek_tape *t, ek_tensor *x)                                                            \
    {                                                                                                                  \
        return expression;                                                                                             \
    }
#define S(...) 0
#include "length_rules.def"
#undef S
#undef RULE
#undef NONE
#define S(...) {(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}}
#define COUNT(...) (int64_t)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t))
#define RULE(name, shape, batch, time, expression, out_batch, out_time, ...)                                           \
    {#name, shape, batch, time, rule_##name, out_batch, out_time, COUNT(__VA_ARGS__), {__VA_ARGS__}},
#define NONE(name, shape, batch, time, expression) {#name, shape, batch, time, rule_##name, -1, -1, 0, {0}},
static const rule rules[] = {
#include "length_rules.def"
};
enum { N_RULES = sizeof rules / sizeof rules[0] };

/* As a leaf (requires_grad or not) and as a tensor of the tape. */
START_TEST(ops_pass_lengths_on)
{
    const rule *r = &rules[_i];
    for (int way = 0; way < 3; way++) {
        ek_tape *t = ek_tape_new();
        ek_tensor *leaf = ek_ones(EK_F64, r->shape);
        ck_ok(ek_tensor_set_requires_grad(leaf, way > 0));
        ck_ok(ek_tensor_set_lengths(leaf, (int64_t[]){2, 4, 1}, 3, r->batch_axis, r->time_axis));
        ek_tensor *y = r->apply(t, way == 2 ? ek_exp(t, leaf) : leaf);
        ck_assert_msg(y, "%s: %s", r->name, ek_last_error());
        const ek_lengths *got = ek_tensor_lengths(y);
        ek_tensor_clear_lengths(leaf);
        if (r->out_batch < 0)
            ck_assert_msg(!got, "%s: expected no lengths", r->name);
        else
            assert_lengths(r->name, got, r->out_batch, r->out_time, r->n, ek_tensor_dim(y, r->out_time), r->expected);
        if (got)
            ck_assert_int_eq(got->n, ek_tensor_dim(y, r->out_batch));
        ek_tape_free(t);
        free_others();
        ek_tensor_free(leaf);
    }
}
END_TEST

START_TEST(without_lengths_none_come_out)
{
    const rule *r = &rules[_i];
    const char *const need_them[] = {"pack", "unpack", "with_others"};
    for (size_t i = 0; i < sizeof need_them / sizeof need_them[0]; i++)
        if (!strcmp(r->name, need_them[i]))
            return;
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F64, r->shape), *y = r->apply(t, x);
    ck_assert_msg(y && !ek_tensor_lengths(y), "%s", r->name);
    ek_tape_free(t);
    free_others();
    ek_tensor_free(x);
}
END_TEST

START_TEST(masks_pass_through_windows_and_joins)
{
    ek_tensor *x = ek_zeros(EK_I64, EK_SHAPE(2, 5)), *table = ek_ones(EK_F32, EK_SHAPE(4, 3));
    ek_tape *t = ek_tape_new();
    ck_ok(ek_tensor_set_mask(x, (bool[]){1, 0, 1, 1, 0, 0, 1, 0, 0, 1}, 2, 5, 0, 1));
    const ek_lengths *cut = ek_tensor_lengths(ek_slice(t, x, 1, 1, 4)); /* int64, which nothing records */
    assert_lengths("cut", cut, 0, 1, 2, 3, (int64_t[]){2, 1});
    ck_assert(!cut->leading && cut->step[0] == 1 && cut->step[1] == 2 && cut->step[2] == 0);
    const ek_lengths *second = ek_tensor_lengths(ek_slice(t, ek_slice(t, x, 1, 1, 3), 0, 1, 2));
    assert_lengths("second", second, 0, 1, 1, 2, (int64_t[]){1});
    ck_assert(second->leading);
    ek_tensor *e = ek_embedding(t, table, x, EK_NO_PADDING_IDX);
    assert_lengths("embedding", ek_tensor_lengths(e), 0, 1, 2, 5, (int64_t[]){3, 2});
    const ek_lengths *joined = ek_tensor_lengths(ek_concat(t, (ek_tensor *[]){x, ek_slice(t, x, 0, 1, 2)}, 2, 0));
    assert_lengths("joined", joined, 0, 1, 3, 5, (int64_t[]){3, 2, 2});
    ck_assert(!memcmp(joined->step, (int64_t[]){0, 2, 3, 1, 4, 1, 4}, 7 * sizeof(int64_t)));
    ek_tensor *copy = ek_tensor_clone(x), *cast = ek_tensor_cast(x, EK_F32), *of_tape = ek_tensor_clone(e);
    ck_assert(ek_lengths_equal(ek_tensor_lengths(copy), ek_tensor_lengths(x)));
    ck_assert(ek_lengths_equal(ek_tensor_lengths(cast), ek_tensor_lengths(x)));
    ek_tape_free(t);
    ck_assert(ek_lengths_equal(ek_tensor_lengths(of_tape), ek_tensor_lengths(x)));
    ek_tensor *all[] = {x, table, copy, cast, of_tape};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

/* One sequence, or one step: axes of size 1 keep their order. */
START_TEST(axes_of_one_are_told_apart)
{
    static const int64_t three[] = {3}, one[] = {1};
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(1, 1, 4)), *single = ek_ones(EK_F32, EK_SHAPE(1, 1, 1));
    ck_ok(ek_tensor_set_lengths(x, three, 1, 1, 2));
    ck_ok(ek_tensor_set_lengths(single, one, 1, 2, 0));
    const ek_lengths *more = ek_tensor_lengths(ek_reshape(t, x, EK_SHAPE(1, 1, 4, 1)));
    assert_lengths("more", more, 1, 2, 1, 4, three);
    assert_lengths("less", ek_tensor_lengths(ek_reshape(t, x, EK_SHAPE(1, 4))), 0, 1, 1, 4, three);
    assert_lengths("ones", ek_tensor_lengths(ek_reshape(t, single, EK_SHAPE(1, 1, 1, 1))), 2, 0, 1, 1, one);
    ck_assert_ptr_null(ek_tensor_lengths(ek_reshape(t, single, EK_SHAPE(1)))); /* one axis cannot be both */
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(single);
}
END_TEST

static ek_tensor *call_add(ek_tape *t, ek_tensor *const *in, const void *options)
{
    (void)options;
    return ek_add(t, in[0], in[1]);
}
static ek_tensor *call_concat(ek_tape *t, ek_tensor *const *in, const void *axis)
{
    return ek_concat(t, in, 2, *(const int *)axis);
}
static ek_tensor *call_with_lengths(ek_tape *t, ek_tensor *const *in, const void *options)
{
    (void)options;
    return ek_with_lengths(t, in[0], in[1]);
}
static ek_tensor *call_mse_loss(ek_tape *t, ek_tensor *const *in, const void *options)
{
    (void)options;
    return ek_mse_loss(t, in[0], in[1], EK_REDUCE_MEAN);
}
static ek_tensor *call_zero_padding(ek_tape *t, ek_tensor *const *in, const void *options)
{
    (void)options;
    return ek_zero_padding(t, in[0]);
}

START_TEST(conflicting_lengths_are_refused)
{
    ek_tensor *a = ek_ones(EK_F32, EK_SHAPE(2, 2)), *b = ek_ones(EK_F32, EK_SHAPE(2, 2));
    ek_tensor *wide = ek_ones(EK_F32, EK_SHAPE(2, 3)), *tokens = ek_zeros(EK_I64, EK_SHAPE(2, 2));
    ek_tensor *in[] = {a, b};
    const char *text = "inputs 0 and 1 carry different lengths, or on different axes; give both the same, or take them "
                       "from one with ek_with_lengths()";
    for (int k = 0; k < 2; k++) { /* other lengths; the same on other axes */
        ck_ok(ek_tensor_set_lengths(a, (int64_t[]){2, 1}, 2, 0, 1));
        ck_ok(k == 0 ? ek_tensor_set_lengths(b, (int64_t[]){2, 2}, 2, 0, 1)
                     : ek_tensor_set_lengths(b, (int64_t[]){2, 1}, 2, 1, 0));
        assert_op_fails(EK_ERR_SHAPE, text, call_add, in, 2, NULL);
        assert_op_fails(EK_ERR_SHAPE, text, call_mse_loss, in, 2, NULL);
    }
    assert_op_fails(EK_ERR_SHAPE,
                    "concat: expected all lengths with batch axis 0 and time axis 1, got 1 and 0 (input 1)",
                    call_concat, in, 2, &(int){0});
    ck_ok(ek_tensor_set_lengths(wide, (int64_t[]){2, 1}, 2, 0, 1));
    assert_op_fails(EK_ERR_SHAPE, "with_lengths: expected 2 sequences along axis 0 and 3 steps along axis 1, as the "
                                  "tensor has that gives the lengths, got (2, 2)", call_with_lengths,
                    (ek_tensor *[]){a, wide}, 2, NULL);
    assert_op_fails(EK_ERR_ARGUMENT, "with_lengths: input 0 is NULL", call_with_lengths, (ek_tensor *[]){NULL, a}, 2,
                    NULL);
    ck_ok(ek_tensor_set_lengths(tokens, (int64_t[]){2, 1}, 2, 0, 1));
    assert_op_fails(EK_ERR_DTYPE, "zero_padding: expected float32 or float64 for input 0, got int64", call_zero_padding,
                    &tokens, 1, NULL);
    assert_op_fails(EK_ERR_ARGUMENT, "zero_padding: input 0 is NULL", call_zero_padding, (ek_tensor *[]){NULL}, 1,
                    NULL);
    ek_tensor *all[] = {a, b, wide, tokens};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}
END_TEST

/* Ops of one's own: without a rule nothing is passed on, with ek_keep_lengths() it is; and what forward sees. */
static ek_status copy_forward(ek_node *node)
{
    const ek_lengths *seen = ek_node_lengths(node, 0);
    ck_assert(seen && seen->length[0] == 2 && seen->length[1] == 3);
    ck_assert_ptr_null(ek_node_lengths(node, 1));
    ck_assert_ptr_null(ek_node_lengths(node, -1));
    memcpy(ek_tensor_data(node->out), ek_tensor_const_data(node->in[0]), 6 * sizeof(float));
    return EK_OK;
}

START_TEST(own_ops_see_lengths)
{
    ek_op plain = {.name = "copy", .infer = ek_infer_same, .forward = {copy_forward, NULL}};
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3));
    ek_tape *t = ek_tape_new();
    const ek_lengths *lengths = NULL;
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){2, 3}, 2, 0, 1));
    ck_assert_ptr_null(ek_tensor_lengths(ek_apply(t, &plain, 1, &x, NULL, 0)));
    plain.lengths = ek_keep_lengths;
    assert_lengths("kept", ek_tensor_lengths(ek_apply(t, &plain, 1, &x, NULL, 0)), 0, 1, 2, 3, (int64_t[]){2, 3});
    ck_assert_ptr_null(ek_node_lengths(NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "node_lengths: the node is NULL");
    ck_assert_int_eq(ek_keep_lengths(NULL, &lengths), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "keep_lengths: the node is NULL");
    ck_assert_int_eq(ek_keep_lengths(&(ek_node){.op = &plain}, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "keep_lengths: the place for the lengths is NULL");
    ek_tape_free(t);
    ek_tensor_free(x);
}
END_TEST

START_TEST(layers_pass_lengths_on)
{
    ek_tensor *tokens = ek_zeros(EK_I64, EK_SHAPE(2, 3));
    ek_module *net = ek_sequential(ek_embedding_layer(5, 4, NULL), ek_linear(4, 4, NULL), ek_relu_layer(),
                                   ek_residual(ek_linear(4, 4, NULL)), ek_layer_norm(EK_SHAPE(4), NULL),
                                   ek_dropout_layer(0.5), ek_softmax_layer(-1));
    ek_module *whole = ek_sequential(net, ek_pool_time_layer(1, EK_POOL_MEAN));
    ek_tape *t = ek_tape_new();
    ck_made(whole);
    ck_ok(ek_tensor_set_lengths(tokens, (int64_t[]){2, 3}, 2, 0, 1));
    for (int training = 1; training >= 0; training--) {
        if (!training)
            ek_module_eval(whole);
        ek_tensor *y = ek_forward(net, t, tokens);
        ck_made(y);
        assert_lengths("net", ek_tensor_lengths(y), 0, 1, 2, 3, (int64_t[]){2, 3});
        ek_tensor *pooled = ek_forward(whole, t, tokens);
        ck_made(pooled);
        ck_assert_ptr_null(ek_tensor_lengths(pooled));
        ek_tape_reset(t);
    }
    ek_tape_free(t);
    ek_module_free(whole);
    ek_tensor_free(tokens);
}
END_TEST

/* ---- zero padding ------------------------------------------------------------------------------------------------ */

/* Element by element, over layouts, masks and threads; what stood in the padding, NaN here, leaves no trace. */
static void check_zero_padding(ek_dtype dtype, ek_shape shape, int batch_axis, int time_axis, bool holes)
{
    ek_rng rng = ek_rng_seed(3);
    ek_tensor *x = random_leaf(dtype, shape, &rng), *dy = ek_uniform(dtype, shape, -1, 1, &rng);
    const int64_t n = shape.dim[batch_axis], steps = shape.dim[time_axis];
    bool *mask = calloc((size_t)(n * steps), sizeof *mask);
    for (int64_t i = 0; i < n; i++) {
        int64_t length = 1 + ek_rng_below(&rng, steps);
        for (int64_t s = 0; s < steps; s++)
            mask[i * steps + s] = holes ? s == length - 1 || ek_rng_below(&rng, 2) : s < length;
    }
    ck_ok(ek_tensor_set_mask(x, mask, n, steps, batch_axis, time_axis));
    int64_t stride[EK_MAX_NDIM], numel = 1;
    for (int i = shape.ndim - 1; i >= 0; i--) {
        stride[i] = numel;
        numel *= shape.dim[i];
    }
    ek_tensor *clean = ek_tensor_clone(x);
    for (int64_t e = 0; e < numel; e++)
        if (!mask[e / stride[batch_axis] % n * steps + e / stride[time_axis] % steps]) {
            if (dtype == EK_F32)
                ek_data_f32(x)[e] = ek_data_f32(dy)[e] = NAN;
            else
                ek_data_f64(x)[e] = ek_data_f64(dy)[e] = NAN;
        }
    ek_tensor *y = run_op(call_zero_padding, &x, 1, NULL, dy);
    for (int64_t e = 0; e < numel; e++) {
        bool valid = mask[e / stride[batch_axis] % n * steps + e / stride[time_axis] % steps];
        ck_each(ek_tensor_at(y, e) == (valid ? ek_tensor_at(clean, e) : 0), "value %lld", (long long)e);
        ck_each(ek_tensor_at(ek_tensor_grad(x), e) == (valid ? ek_tensor_at(dy, e) : 0), "gradient %lld", (long long)e);
    }
    assert_same_for_any_threads("zero_padding", call_zero_padding, &x, 1, NULL);
    ek_tensor *all[] = {x, dy, clean, y};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
    free(mask);
}

START_TEST(padding_is_zeroed)
{
    static const struct {
        ek_shape shape;
        int batch_axis, time_axis;
    } layouts[] = {{{2, {3, 5}}, 0, 1},       {{2, {5, 3}}, 1, 0},          {{3, {4, 7, 3}}, 0, 1},
                   {{3, {7, 4, 3}}, 1, 0},    {{3, {4, 3, 7}}, 0, 2},       {{5, {2, 3, 2, 7, 3}}, 1, 3},
                   {{5, {2, 7, 2, 3, 2}}, 3, 1}, {{3, {70, 40, 60}}, 0, 1}, {{3, {70, 40, 60}}, 1, 2}};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++)
        for (int k = 0; k < 4; k++)
            check_zero_padding(k & 1 ? EK_F32 : EK_F64, layouts[i].shape, layouts[i].batch_axis, layouts[i].time_axis,
                               k & 2);
}
END_TEST

START_TEST(nothing_to_zero_gives_the_tensor_itself)
{
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 3));
    ck_assert_ptr_eq(ek_zero_padding(t, x), x);
    ek_tensor *y = ek_relu(t, x);
    ck_assert_ptr_eq(ek_zero_padding(t, y), y);
    ek_tensor *none = ek_zeros(EK_F32, EK_SHAPE(0, 3)), *view = ek_with_lengths(t, x, NULL);
    ck_ok(ek_tensor_set_lengths(none, NULL, 0, 0, 1));
    ck_assert_int_eq(ek_tensor_numel(ek_zero_padding(t, none)), 0);
    ck_assert_ptr_eq(ek_tensor_const_data(view), ek_tensor_const_data(x));
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(none);
}
END_TEST

/* ---- life -------------------------------------------------------------------------------------------------------- */

/* What backward uses is what the forward saw. */
START_TEST(lengths_may_change_after_the_forward)
{
    ek_tensor *x = ek_ones(EK_F64, EK_SHAPE(2, 3));
    ek_tape *t = ek_tape_new();
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){1, 2}, 2, 0, 1));
    ek_tensor *loss = ek_sum(t, ek_add(t, ek_pool_time(t, x, 1, EK_POOL_MEAN),
                                       ek_sum(t, ek_zero_padding(t, x), EK_AXES(1), false)), EK_ALL_AXES, false);
    ck_ok(ek_tensor_set_lengths(x, (int64_t[]){3, 3}, 2, 0, 1)); /* in the same memory */
    ck_ok(ek_backward(t, loss));
    const double expected[] = {2, 0, 0, 1.5, 1.5, 0};
    for (int i = 0; i < 6; i++)
        ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(x), i), expected[i]);
    ek_tape_free(t);
    ek_tensor_free(x);
}
END_TEST

/* Views of a leaf that its owner frees, on a tape that does not record. */
START_TEST(tapes_keep_the_lengths_of_freed_leaves)
{
    static const int64_t lengths[] = {1, 2};
    ek_tape *t = ek_tape_new();
    ck_ok(ek_tape_set_recording(t, false));
    ek_tensor *x = ek_ones(EK_F64, EK_SHAPE(2, 3)), *like = ek_ones(EK_F64, EK_SHAPE(2, 3));
    ck_ok(ek_tensor_set_lengths(x, lengths, 2, 0, 1));
    ck_ok(ek_tensor_set_lengths(like, lengths, 2, 0, 1));
    ek_tensor *views[] = {ek_reshape(t, x, EK_SHAPE(2, 3, 1)), ek_detach(t, x), ek_slice(t, x, 0, 0, 2), ek_relu(t, x),
                          ek_with_lengths(t, ek_relu(t, x), like), ek_zero_padding(t, x)};
    ek_tensor_free(x);
    ek_tensor_free(like);
    for (size_t i = 0; i < sizeof views / sizeof views[0]; i++) {
        assert_lengths("view", ek_tensor_lengths(views[i]), 0, 1, 2, 3, lengths);
        ek_tensor *pooled = ek_pool_time(t, views[i], 1, EK_POOL_MEAN);
        ck_made(pooled);
        ck_assert(ek_tensor_at(pooled, 0) == 1 && ek_tensor_at(pooled, 1) == 1);
    }
    ek_tape_free(t);
}
END_TEST

START_TEST(new_lengths_each_step_take_no_memory)
{
    memory_count count;
    count_memory(&count);
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(3, 2, 5)), *target = ek_zeros(EK_I64, EK_SHAPE(3, 5));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    for (int step = 0; step < 6; step++) {
        const int64_t lengths[] = {1 + step % 5, 5, 1 + (step + 2) % 3};
        bool mask[15];
        for (int i = 0; i < 15; i++)
            mask[i] = (i + step) % 3 != 0;
        int64_t before = count.calls;
        ck_ok(step % 2 ? ek_tensor_set_mask(x, mask, 3, 5, 0, 2) : ek_tensor_set_lengths(x, lengths, 3, 0, 2));
        ek_tensor *y = ek_zero_padding(t, ek_slice(t, x, 2, 0, 5));
        ek_tensor *pooled = ek_mean(t, ek_pool_time(t, y, -1, EK_POOL_MAX), EK_ALL_AXES, false);
        ek_tensor *parts[] = {ek_slice(t, x, 0, 0, 1), ek_slice(t, x, 0, 1, 3)};
        ek_tensor *each = ek_mse_loss(t, y, ek_concat(t, parts, 2, 0), EK_REDUCE_SUM);
        ck_ok(ek_backward(t, ek_add(t, ek_add(t, pooled, each), ek_cross_entropy(t, y, target, NULL))));
        ek_tensor_clear_grad(x);
        ek_tape_reset(t);
        ck_assert_msg(step < 2 || count.calls == before, "step %d asks for memory %lld times", step,
                      (long long)(count.calls - before));
    }
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(target);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

static ek_status use_lengths(void)
{
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(300, 40, 90)), *copy = NULL;
    ek_tape *t = ek_tape_new();
    int64_t lengths[300];
    for (int i = 0; i < 300; i++)
        lengths[i] = 1 + i % 40;
    ek_status status = x && t ? ek_tensor_set_requires_grad(x, true) : EK_ERR_MEMORY;
    if (status == EK_OK)
        status = ek_tensor_set_lengths(x, lengths, 300, 0, 1);
    if (status == EK_OK && !(copy = ek_tensor_clone(x)))
        status = EK_ERR_MEMORY;
    if (status == EK_OK) {
        ek_tensor *y = ek_concat(t, (ek_tensor *[]){ek_slice(t, x, 0, 0, 100), ek_slice(t, x, 0, 100, 300)}, 2, 0);
        ek_tensor *z = ek_with_lengths(t, ek_zero_padding(t, y), copy);
        ek_tensor *loss = ek_mse_loss(t, ek_permute(t, z, EK_AXES(0, 2, 1)), ek_permute(t, x, EK_AXES(0, 2, 1)),
                                      EK_REDUCE_NONE);
        status = ek_backward(t, ek_sum(t, ek_pool_time(t, loss, 2, EK_POOL_MAX), EK_ALL_AXES, false));
    }
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(copy);
    return status;
}

START_TEST(want_of_memory_is_survived)
{
    ck_ok(ek_set_num_threads(1));
    ck_assert_int_gt(assert_survives_refusals(use_lengths), 8);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("lengths");
    TCase *tcase = tcase_create("lengths");
    tcase_add_test(tcase, lengths_are_set_and_cleared);
    tcase_add_test(tcase, bad_lengths_are_refused);
    tcase_add_test(tcase, lengths_beyond_all_memory_are_refused);
    tcase_add_loop_test(tcase, ops_pass_lengths_on, 0, N_RULES);
    tcase_add_loop_test(tcase, without_lengths_none_come_out, 0, N_RULES);
    tcase_add_test(tcase, masks_pass_through_windows_and_joins);
    tcase_add_test(tcase, axes_of_one_are_told_apart);
    tcase_add_test(tcase, conflicting_lengths_are_refused);
    tcase_add_test(tcase, own_ops_see_lengths);
    tcase_add_test(tcase, layers_pass_lengths_on);
    tcase_add_test(tcase, padding_is_zeroed);
    tcase_add_test(tcase, nothing_to_zero_gives_the_tensor_itself);
    tcase_add_test(tcase, lengths_may_change_after_the_forward);
    tcase_add_test(tcase, tapes_keep_the_lengths_of_freed_leaves);
    tcase_add_test(tcase, new_lengths_each_step_take_no_memory);
    tcase_add_test(tcase, want_of_memory_is_survived);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
