/* Every registered op has a backward and rows in op_cases.def, and every row passes the gradient check at 1e-7. */
#include "recurrent.h"
#include "support.h"

typedef enum domain { ANY, POSITIVE, DISTINCT } domain;
enum { MAX_INPUTS = 10, MAX_CONSTANTS = 8 };

/* What a row needs while it runs: the integer tensors its expression made. */
typedef struct run_state {
    const struct op_case *row;
    ek_tensor *constants[MAX_CONSTANTS];
    int n_constants;
    bool op_seen;
} run_state;

typedef ek_tensor *(*case_fn)(ek_tape *t, ek_tensor **x, run_state *state);

typedef struct op_case {
    const char *op, *label;
    domain domain;
    ek_shape shapes[MAX_INPUTS];
    int n_inputs;
    case_fn fn;
} op_case;

/* An int64 tensor that lives as long as the row runs. */
static ek_tensor *ints(run_state *state, ek_shape shape, const int64_t *values)
{
    ck_assert_int_lt(state->n_constants, MAX_CONSTANTS);
    ek_tensor *constant = ek_from_array(EK_I64, shape, values);
    ck_made(constant);
    return state->constants[state->n_constants++] = constant;
}

/* A float64 tensor that requires no gradient and lives as long as the row runs. */
static ek_tensor *reals(run_state *state, ek_shape shape, const double *values)
{
    ck_assert_int_lt(state->n_constants, MAX_CONSTANTS);
    ek_tensor *constant = ek_from_array(EK_F64, shape, values);
    ck_made(constant);
    return state->constants[state->n_constants++] = constant;
}

/* x, a tensor of the tape, with lengths along its time axis. */
static ek_tensor *padded(ek_tape *t, ek_tensor *x, int batch_axis, int time_axis, const int64_t *lengths)
{
    if (x)
        x->lengths = ek_lengths_make(t, batch_axis, time_axis, x->shape.dim[batch_axis], x->shape.dim[time_axis],
                                     lengths);
    return x;
}

/* The same with a valid step wherever the mask is not 0. */
static ek_tensor *masked(ek_tape *t, ek_tensor *x, int batch_axis, int time_axis, const bool *mask)
{
    const int64_t n = x->shape.dim[batch_axis], steps = x->shape.dim[time_axis];
    ek_tensor *leaf = ek_zeros(x->dtype, x->shape);
    ck_ok(ek_tensor_set_mask(leaf, mask, n, steps, batch_axis, time_axis));
    x->lengths = ek_lengths_on_tape(t, leaf->lengths);
    ek_tensor_free(leaf);
    return x;
}

/* From rows to a padded tensor whose lengths, of n sequences of so many steps, stand on these axes. */
static ek_tensor *unpacked(ek_tape *t, ek_tensor *rows, int batch_axis, int time_axis, int64_t n, int64_t steps,
                           const int64_t *lengths, ek_row_order order)
{
    ek_tensor like = {.tape = t, .lengths = ek_lengths_make(t, batch_axis, time_axis, n, steps, lengths)};
    return ek_unpack(t, rows, &like, order);
}

/* A recurrent op on three sequences of 2, 3 and 1 steps; in batch mode BatchNorm takes running statistics at the last
 * step alone, which has one sequence. */
static ek_tensor *cell(ek_tape *t, run_state *state, const ek_op *op, cell_norm norm, bool batch, bool relu,
                       ek_row_order order, ek_tensor *const *in)
{
    static const int64_t lengths[3] = {2, 3, 1}, running_step[3] = {0, 1, 0};
    const ek_lengths *valid = ek_lengths_make(t, 0, 1, 3, 3, lengths);
    cell_attributes attributes = {.rows = ek_rows_make(t, valid, order), .norm = norm, .eps = 1e-2,
                                  .batch_statistics = batch, .relu = relu, .running_step = running_step};
    for (int site = 0; norm == CELL_BATCH_NORM && site < CELL_SITES; site++) {
        const int64_t units = in[1]->shape.dim[site == SITE_C];
        ek_tensor *mean = ek_full(EK_F64, EK_SHAPE(2, units), 0.1), *var = ek_full(EK_F64, EK_SHAPE(2, units), 0.7);
        ck_made(mean);
        ck_made(var);
        attributes.running_mean[site] = state->constants[state->n_constants++] = mean;
        attributes.running_var[site] = state->constants[state->n_constants++] = var;
    }
    return ek_apply_cell(t, op, in, &attributes);
}

static ek_tensor *normalize(ek_tape *t, ek_tensor *x, ek_tensor *weight, ek_tensor *bias, ek_view stats, ek_view affine,
                            bool center, ek_tensor *mean, ek_tensor *var)
{
    ek_normalize_opts opts = {
        .stats = stats, .affine = affine, .eps = 1e-3, .center = center, .mean = mean, .var = var};
    return ek_normalize(t, x, weight, bias, NULL, NULL, &opts, NULL);
}

/* Far enough from the kink: two steps of 1e-3, times 1.25 before the op, γ ≤ 1.9 and 1/σ ≤ 1, move y by less than
 * 0.005. */
static ek_tensor *normalize_relu(ek_tape *t, ek_tensor *x, ek_tensor *weight, ek_tensor *bias, ek_view stats,
                                 ek_view affine, ek_tensor *mean, ek_tensor *var)
{
    ek_normalize_opts opts = {.stats = stats, .affine = affine, .eps = 1e-3, .center = true, .mean = mean, .var = var};
    ek_tensor *before = ek_normalize(t, x, weight, bias, NULL, NULL, &opts, NULL);
    for (int64_t i = 0; before && i < before->numel; i++)
        ck_each(fabs(ek_tensor_at(before, i)) > 0.005, "%g at %lld is too close to 0", ek_tensor_at(before, i),
                (long long)i);
    opts.relu = true;
    return ek_normalize(t, x, weight, bias, NULL, NULL, &opts, NULL);
}

static ek_tensor *switchable(ek_tape *t, ek_tensor **x, ek_view view, ek_switch_opts mix)
{
    ek_normalize_opts opts = {.stats = view, .affine = {1, view.batch * view.outer, view.group, view.inner},
                              .eps = 1e-3,
                              .center = true, .switchable = &mix};
    return ek_normalize(t, x[0], x[1], x[2], x[3], x[4], &opts, NULL);
}

/* Batches of rows (…, group, inner), outer[b] of them each; γ and β as `affine` says. */
static ek_tensor *ragged(ek_tape *t, ek_tensor *x, ek_tensor *weight, ek_tensor *bias, const int64_t *outer,
                         ek_view stats, ek_view affine, bool center)
{
    ek_normalize_opts opts = {.stats = stats, .stats_outer = outer, .affine = affine, .eps = 1e-3, .center = center};
    return ek_normalize(t, x, weight, bias, NULL, NULL, &opts, NULL);
}

static ek_tensor *switchable_ragged(ek_tape *t, ek_tensor **x, const int64_t *outer, ek_view stats, int64_t rows,
                                    ek_switch_opts mix)
{
    ek_normalize_opts opts = {.stats = stats, .stats_outer = outer, .affine = {1, rows, stats.group, stats.inner},
                              .eps = 1e-3, .center = true, .switchable = &mix};
    return ek_normalize(t, x[0], x[1], x[2], x[3], x[4], &opts, NULL);
}

#define V(...) ((ek_view){__VA_ARGS__})
#define OUTER(...) ((const int64_t[]){__VA_ARGS__})
#define S3 EK_SHAPE(3)
#define REALS(shape, ...) reals(state, shape, (const double[]){__VA_ARGS__})
#define NORM(x, w, b, stats, affine) normalize(t, x, w, b, stats, affine, true, NULL, NULL)
#define NORM_RELU(x, w, b, stats, affine, mean, var) normalize_relu(t, x, w, b, stats, affine, mean, var)
#define NORM_GIVEN(x, w, b, stats, affine, mean, var) normalize(t, x, w, b, stats, affine, true, mean, var)
#define NORM_RMS(x, w, stats, affine) normalize(t, x, w, NULL, stats, affine, false, NULL, NULL)
#define SWITCH(n, c, s, instance, batch, unbiased, mean, var)                                                          \
    switchable(t, x, V(n, 1, c, s), (ek_switch_opts){instance, batch, unbiased, mean, var})
#define S(...) {(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}}
#define N {0, {0}}
#define INTS(shape, ...) ints(state, shape, (const int64_t[]){__VA_ARGS__})
#define x0 x[0]
#define x1 x[1]
#define x2 x[2]
#define x3 x[3]
#define x4 x[4]
/* Lengths of the sequences along the batch axis. */
#define PADDED(x, batch_axis, time_axis, ...) padded(t, x, batch_axis, time_axis, (const int64_t[]){__VA_ARGS__})
#define MASKED(x, batch_axis, time_axis, ...) masked(t, x, batch_axis, time_axis, (const bool[]){__VA_ARGS__})
#define UNPACKED(rows, batch_axis, time_axis, n, steps, order, ...)                                                    \
    unpacked(t, rows, batch_axis, time_axis, n, steps, (const int64_t[]){__VA_ARGS__}, order)
#define CELL(op, norm, batch, relu, order, ...)                                                                        \
    cell(t, state, ek_op_##op, norm, batch, relu, order, (ek_tensor *[CELL_INPUTS]){__VA_ARGS__})
#define x5 x[5]
#define x6 x[6]
#define x7 x[7]
#define x8 x[8]
#define x9 x[9]
#define LIST(...) {__VA_ARGS__}

#define CASE(op, label, domain, shapes, expression)                                                                    \
    static ek_tensor *case_##op##_##label(ek_tape *t, ek_tensor **x, run_state *state)                                 \
    {                                                                                                                  \
        (void)state;                                                                                                   \
        return expression;                                                                                             \
    }
#include "op_cases.def"
#undef CASE

#define SHAPE_COUNT(...) (int)(sizeof((ek_shape[]){__VA_ARGS__}) / sizeof(ek_shape))
#define CASE(op, label, domain, shapes, expression)                                                                    \
    {#op, #label, domain, LIST shapes, SHAPE_COUNT shapes, case_##op##_##label},
static const op_case rows[] = {
#include "op_cases.def"
};
#undef CASE
enum { N_ROWS = sizeof rows / sizeof rows[0] };

static ek_tensor *draw(const op_case *row, int i, ek_rng *rng)
{
    ek_tensor *x = ek_uniform(EK_F64, row->shapes[i], 0.3, 1.5, rng);
    ck_made(x);
    double *v = ek_data_f64(x);
    int64_t n = ek_tensor_numel(x), *order = malloc((size_t)(n + 1) * sizeof *order);
    ek_rng_permutation(rng, n, order);
    for (int64_t k = 0; k < n; k++) {
        if (row->domain == ANY && ek_rng_u64(rng) & 1)
            v[k] = -v[k];
        if (row->domain == DISTINCT)
            v[k] = 0.02 * (double)(order[k] - n / 2) + 0.011;
    }
    free(order);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

static void free_constants(run_state *state)
{
    while (state->n_constants > 0)
        ek_tensor_free(state->constants[--state->n_constants]);
}

/* The row's expression of inputs that an affine op has scaled; notes whether the op in question was recorded. */
static ek_tensor *evaluate(ek_tape *t, ek_tensor *const *inputs, void *user)
{
    run_state *state = user;
    ek_tensor *x[MAX_INPUTS] = {NULL};
    free_constants(state);
    for (int i = 0; i < state->row->n_inputs; i++)
        x[i] = ek_affine(t, inputs[i], 1.25, 0);
    ek_tensor *y = state->row->fn(t, x, state);
    for (const ek_record *record = t->last; record; record = record->previous)
        state->op_seen |= !strcmp(record->node.op->name, state->row->op);
    return y;
}

START_TEST(every_row_passes)
{
    const op_case *row = &rows[_i];
    run_state state = {.row = row};
    ek_rng rng = ek_rng_named(1, row->op);
    ek_tensor *inputs[MAX_INPUTS];
    for (int i = 0; i < row->n_inputs; i++)
        inputs[i] = draw(row, i, &rng);
    ek_gradcheck_result result;
    ek_status status = ek_gradcheck(evaluate, &state, inputs, row->n_inputs, NULL, &result);
    ck_assert_msg(status == EK_OK, "%s, %s: %s", row->op, row->label, ek_last_error());
    ck_assert_msg(result.checked > 0, "%s, %s: nothing was compared", row->op, row->label);
    ck_assert_msg(state.op_seen, "%s, %s: the row does not use the op", row->op, row->label);
    for (int i = 0; i < row->n_inputs; i++)
        ek_tensor_free(inputs[i]);
    free_constants(&state);
}
END_TEST

START_TEST(every_op_has_a_backward_and_a_row)
{
    for (int i = 0; i < ek_registry_size; i++) {
        const ek_op *op = *ek_registry[i];
        bool row = false;
        for (int k = 0; k < N_ROWS; k++)
            row |= !strcmp(rows[k].op, op->name);
        ck_assert_msg(op->backward[EK_F32] && op->backward[EK_F64], "%s has no backward", op->name);
        ck_assert_msg(op->forward[EK_F32] && op->forward[EK_F64] && op->infer, "%s is incomplete", op->name);
        ck_assert_msg(row, "%s has no row in op_cases.def", op->name);
    }
}
END_TEST

/* An op whose backward is wrong by one part in 10⁵. */
static ek_status wrong_forward(ek_node *node)
{
    memcpy(ek_tensor_data(node->out), ek_tensor_const_data(node->in[0]), sizeof(double) * 3);
    return EK_OK;
}

static ek_status wrong_backward(ek_node *node)
{
    const double *dy = ek_node_grad_out(node);
    double *dx = ek_node_grad_in(node, 0);
    for (int i = 0; i < 3; i++)
        dx[i] = dy[i] * (i == 1 ? 1 + 1e-5 : 1);
    return EK_OK;
}

static const ek_op wrong_op = {.name = "wrong", .infer = ek_infer_same, .forward = {wrong_forward, wrong_forward},
                               .backward = {wrong_backward, wrong_backward}};

static ek_tensor *apply_wrong(ek_tape *t, ek_tensor *const *in, void *user)
{
    (void)user;
    return ek_apply(t, &wrong_op, 1, in, NULL, 0);
}

static ek_tensor *apply_relu(ek_tape *t, ek_tensor *const *in, void *user)
{
    (void)user;
    return ek_relu(t, in[0]);
}

START_TEST(a_wrong_backward_is_found)
{
    double values[3] = {1, 2, 3};
    ek_tensor *x = ek_from_array(EK_F64, EK_SHAPE(3), values);
    ek_gradcheck_result result;
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_assert_int_eq(ek_gradcheck(apply_wrong, NULL, &x, 1, NULL, &result), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "input 0, element 1");
    ck_assert_int_eq(result.worst_index, 1);
    ck_assert(result.error > 1e-7 && result.error < 1e-4);
    ck_assert(ek_data_f64(x)[0] == 1 && ek_data_f64(x)[1] == 2 && ek_data_f64(x)[2] == 3);
    ck_assert_ptr_null(ek_tensor_grad(x));
    ek_tensor_free(x);
}
END_TEST

static ek_tensor *gives_nothing(ek_tape *t, ek_tensor *const *in, void *user)
{
    (void)t;
    (void)in;
    (void)user;
    return NULL;
}

static ek_tensor *gives_single(ek_tape *t, ek_tensor *const *in, void *single)
{
    (void)in;
    return ek_relu(t, single);
}

/* As many elements as calls so far. */
static ek_tensor *grows(ek_tape *t, ek_tensor *const *in, void *calls)
{
    return ek_slice(t, in[0], 0, 0, ++*(int64_t *)calls);
}

START_TEST(bad_functions_are_refused)
{
    ek_tensor *x = ek_ones(EK_F64, EK_SHAPE(3)), *single = ek_ones(EK_F32, EK_SHAPE(3));
    int64_t calls = 0;
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_fail(EK_ERR_IO, "something else"); /* an old error is not taken for the function's */
    ck_assert_int_eq(ek_gradcheck(gives_nothing, NULL, &x, 1, NULL, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "gradcheck: the function returned NULL");
    ck_assert_int_eq(ek_gradcheck(gives_single, single, &x, 1, NULL, NULL), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "gradcheck: expected a float64 result, got float32");
    ck_assert_int_eq(ek_gradcheck(grows, &calls, &x, 1, NULL, NULL), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "gradcheck: the function's result changed its shape from (1,) to (2,)");
    ck_assert_ptr_null(ek_tensor_grad(x));
    ck_assert(ek_data_f64(x)[0] == 1 && ek_data_f64(x)[1] == 1 && ek_data_f64(x)[2] == 1);
    ek_tensor_free(x);
    ek_tensor_free(single);
}
END_TEST

static ek_tensor *apply_product(ek_tape *t, ek_tensor *const *in, void *user)
{
    return ek_mul(t, ek_mul(t, in[0], user), ek_relu(t, user));
}

START_TEST(other_leaves_gather_no_gradient)
{
    ek_rng rng = ek_rng_seed(2);
    ek_tensor *x = ek_normal(EK_F64, EK_SHAPE(5), 0, 1, &rng), *w = ek_uniform(EK_F64, EK_SHAPE(5), 1, 2, &rng);
    ek_tape *tape = ek_tape_new();
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_tensor_set_requires_grad(w, true));
    ck_ok(ek_gradcheck(apply_product, w, &x, 1, NULL, NULL));
    ck_assert_ptr_null(ek_tensor_grad(w));
    ck_ok(ek_backward(tape, ek_sum(tape, ek_affine(tape, w, 2, 0), EK_ALL_AXES, false)));
    ck_ok(ek_gradcheck(apply_product, w, &x, 1, NULL, NULL));
    ck_assert(ek_tensor_at(ek_tensor_grad(w), 0) == 2); /* a sum that is under way stays what it is */
    ck_ok(ek_gradcheck(apply_product, w, (ek_tensor *[]){x, w}, 2, NULL, NULL));
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(w);
}
END_TEST

START_TEST(bad_arguments_are_refused)
{
    ek_tensor *single = ek_ones(EK_F32, EK_SHAPE(3)), *fixed = ek_ones(EK_F64, EK_SHAPE(3)), *none = NULL;
    ck_ok(ek_tensor_set_requires_grad(single, true));
    ck_assert_int_eq(ek_gradcheck(apply_relu, NULL, &single, 1, NULL, NULL), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "expected float64 for input 0, got float32");
    ck_assert_int_eq(ek_gradcheck(apply_relu, NULL, &fixed, 1, NULL, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "no input requires a gradient");
    ck_assert_int_eq(ek_gradcheck(apply_relu, NULL, &none, 1, NULL, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "input 0 is NULL");
    ck_assert_int_eq(ek_gradcheck(NULL, NULL, &fixed, 1, NULL, NULL), EK_ERR_ARGUMENT);
    ek_gradcheck_opts opts = ek_gradcheck_opts_default();
    opts.step = 0;
    ck_ok(ek_tensor_set_requires_grad(fixed, true));
    ck_assert_int_eq(ek_gradcheck(apply_relu, NULL, &fixed, 1, &opts, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "step > 0");
    ek_tensor_free(single);
    ek_tensor_free(fixed);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gradcheck");
    TCase *tcase = tcase_create("gradcheck");
    tcase_add_loop_test(tcase, every_row_passes, 0, N_ROWS);
    tcase_add_test(tcase, every_op_has_a_backward_and_a_row);
    tcase_add_test(tcase, a_wrong_backward_is_found);
    tcase_add_test(tcase, bad_functions_are_refused);
    tcase_add_test(tcase, other_leaves_gather_no_gradient);
    tcase_add_test(tcase, bad_arguments_are_refused);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
