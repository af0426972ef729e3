/* Every case of bench/norm.cases gives the same bits for any number of threads: output, all gradients, and running
 * statistics. */
#include "norm_layer.h"
#include "support_layers.h"
#include "worker.h"

#define CASES BENCH_DIR "/norm.cases"

/* ---- bits -------------------------------------------------------------------------------------------------------- */

enum { Y, DX, GRADIENTS, STATE, RESULTS };
typedef struct bits {
    uint64_t of[RESULTS];
} bits;
static const char *const result_names[] = {"y", "dx", "the gradients of weights", "weights and running statistics"};

static ek_status add_bits(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    bits *b = user;
    (void)name;
    b->of[STATE] = hash_tensor(b->of[STATE], tensor);
    if (kind == EK_PARAMETER)
        b->of[GRADIENTS] = hash_tensor(b->of[GRADIENTS], ek_tensor_grad(tensor));
    return EK_OK;
}

/* ---- a case ------------------------------------------------------------------------------------------------------ */

/* One step from the same parameters and buffers each time. */
static bits step(ek_module *layer, ek_tensor *x, const ek_tensor *dy)
{
    ck_ok(ek_module_init(layer, 0));
    draw_parameters(layer, 1);
    ek_tensor_clear_grad(x);
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = ek_forward(layer, tape, x);
    ck_made(y);
    bits b = {{0}};
    b.of[Y] = hash_tensor(0, y); /* before the backward, which may reuse its memory */
    ck_ok(ek_backward_from(tape, y, dy));
    b.of[DX] = hash_tensor(0, ek_tensor_grad(x));
    ck_ok(ek_module_visit(layer, add_bits, &b));
    ek_tape_free(tape);
    return b;
}

/* The numbers of the benchmark, to the third power: sums of them are not exact in double, so their order shows. */
static ek_tensor *make_input(const bench_case *c, ek_dtype dtype, bool is_dy)
{
    ek_tensor *t = ek_zeros(EK_F32, bench_shape(c));
    ck_made(t);
    float *values = ek_data_f32(t);
    bench_fill(values, c->numel, is_dy);
    for (int64_t i = 0; i < c->numel; i++)
        values[i] = values[i] * values[i] * values[i];
    if (dtype == EK_F32)
        return t;
    ek_tensor *cast = ek_tensor_cast(t, dtype);
    ck_made(cast);
    ek_tensor_free(t);
    return cast;
}

static void check_case(const bench_case *c, ek_dtype dtype)
{
    static const int threads[] = {2, 3, 8};
    ek_module *layer = bench_norm(c);
    ck_made(layer);
    if (c->relu)
        layer = ek_sequential(layer, ek_relu_layer());
    ck_ok(ek_module_to(layer, dtype));
    ek_tensor *x = make_input(c, dtype, false), *dy = make_input(c, dtype, true);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ck_ok(ek_set_num_threads(1));
    const bits one = step(layer, x, dy);
    for (int k = 0; k < 3; k++) {
        ck_ok(ek_set_num_threads(threads[k]));
        const bits many = step(layer, x, dy);
        for (int r = 0; r < RESULTS; r++)
            ck_assert_msg(one.of[r] == many.of[r], "%s %s %s %s: %d threads change %s", c->kind, c->size, c->variant,
                          dtype == EK_F32 ? "float32" : "float64", threads[k], result_names[r]);
    }
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static bool count_training(void *user, const bench_case *c)
{
    int *count = user;
    *count += c->train; /* a forward alone is part of it */
    return true;
}

static int n_cases(void)
{
    int count = 0;
    return bench_each_case(CASES, count_training, &count) > 0 ? count : 0;
}

/* Rounding to float32 hides most changes of the last bits of sums in double, float64 does not; but the largest tensors
 * would be too large then. */
static bool check_if_next(void *left, const bench_case *c)
{
    enum { LARGEST_F64 = 10000000 };
    int *index = left;
    if (!c->train || (*index)-- > 0)
        return true;
    check_case(c, EK_F32);
    if (c->numel <= LARGEST_F64)
        check_case(c, EK_F64);
    return false;
}

START_TEST(the_same_bits_for_any_number_of_threads)
{
    int index = _i;
    bench_each_case(CASES, check_if_next, &index);
    ck_assert_int_eq(index, -1);
}
END_TEST

START_TEST(the_cases_are_there)
{
    ck_assert_int_ge(n_cases(), 30); /* 15 norms, alone and with a ReLU */
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm threads");
    TCase *tcase = tcase_create("norm threads");
    tcase_add_test(tcase, the_cases_are_there);
    tcase_add_loop_test(tcase, the_same_bits_for_any_number_of_threads, 0, n_cases());
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
