/* Every model of bench/models.h trains to the same bits on 1, 2, 3 and 8 threads: the loss of every step, and weights
 * and running statistics after the last.  After the first steps none takes memory from the allocator. */
#include "models.h"
#include "support.h"

/* TRAINING_STEPS (CMakeLists.txt): 200, fewer under sanitizers, which make a step up to twenty times as long.  A large
 * batch, which is cut into many chunks, takes a share of them: all that it has beyond the small one is in each step. */
static const struct {
    char *kind, *size;
    int share;
} cases[] = {
    {"mlp_bn_adam", "b2", 1},   {"mlp_bn_adam", "b128", 4}, {"mlp_gn_sgd", "b32", 4},   {"cnn_bn_sgd", "b2", 1},
    {"cnn_bn_sgd", "b32", 40},  {"cnn_gn_sgd", "b2", 1},    {"cnn_gn_sgd", "b32", 40},  {"cnn_none_sgd", "b2", 1},
    {"cnn_none_sgd", "b32", 40}, {"resnet_bn_sgd", "b2", 1}, {"resnet_bn_sgd", "b16", 40}, {"lstm_adam", "b1", 1},
    {"lstm_adam", "b32", 10},   {"lnlstm_adam", "b1", 1},   {"lnlstm_adam", "b32", 10},
};
static const int threads[] = {1, 2, 3, 8};
enum { N_CASES = sizeof cases / sizeof *cases, N_THREADS = sizeof threads / sizeof *threads };

typedef struct run {
    double loss[TRAINING_STEPS];
    uint64_t state[2]; /* EK_PARAMETER, EK_BUFFER */
} run;

static ek_status add_bits(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    run *r = user;
    (void)name;
    r->state[kind] = hash_tensor(r->state[kind], tensor);
    return EK_OK;
}

static run train(int i, int steps, int n_threads)
{
    bench_model model;
    run r = {{0}, {0}};
    ck_ok(ek_set_num_threads(n_threads));
    const bench_case c = {.kind = cases[i].kind, .size = cases[i].size, .variant = "-", .threads = n_threads};
    ck_assert_msg(bench_model_make(&model, &c), "%s %s: %s", c.kind, c.size, ek_last_error());
    for (int s = 0; s < steps; s++)
        ck_ok(bench_model_step(&model, &r.loss[s]));
    ck_ok(ek_module_visit(model.net, add_bits, &r));
    bench_model_free(&model);
    return r;
}

START_TEST(the_same_bits_for_any_number_of_threads)
{
    const int share = TRAINING_STEPS / cases[_i].share, steps = share > 2 ? share : 2;
    const run one = train(_i, steps, threads[0]);
    ck_assert(isfinite(one.loss[steps - 1]) && one.loss[0] != one.loss[steps - 1]);
    for (int k = 1; k < N_THREADS; k++) {
        const run many = train(_i, steps, threads[k]);
        for (int s = 0; s < steps; s++)
            ck_assert_msg(one.loss[s] == many.loss[s], "%s %s: %d threads change the loss of step %d: %.17g to %.17g",
                          cases[_i].kind, cases[_i].size, threads[k], s, one.loss[s], many.loss[s]);
        ck_assert_msg(one.state[EK_PARAMETER] == many.state[EK_PARAMETER], "%s %s: %d threads change the weights",
                      cases[_i].kind, cases[_i].size, threads[k]);
        ck_assert_msg(one.state[EK_BUFFER] == many.state[EK_BUFFER], "%s %s: %d threads change running statistics",
                      cases[_i].kind, cases[_i].size, threads[k]);
    }
}
END_TEST

/* The bits depend on every step: one more and weights and statistics are others. */
START_TEST(a_step_more_shows)
{
    const run two = train(_i, 2, 2), one = train(_i, 1, 2);
    ck_assert(two.loss[0] == one.loss[0] && two.loss[1] != two.loss[0]);
    ck_assert(two.state[EK_PARAMETER] != one.state[EK_PARAMETER]);
    ck_assert(!strstr(cases[_i].kind, "bn") || two.state[EK_BUFFER] != one.state[EK_BUFFER]);
}
END_TEST

START_TEST(later_steps_take_no_memory)
{
    memory_count c;
    int64_t calls[3];
    bench_model model;
    ck_ok(ek_set_num_threads(2));
    count_memory(&c);
    const bench_case kind = {.kind = cases[_i].kind, .size = cases[_i].size, .variant = "-", .threads = 2};
    ck_assert_msg(bench_model_make(&model, &kind), "%s %s: %s", kind.kind, kind.size, ek_last_error());
    for (int k = 0; k < 3; k++) {
        calls[k] = c.calls;
        ck_ok(bench_model_step(&model, NULL));
        ck_ok(bench_model_step(&model, NULL));
    }
    ck_assert_int_gt(calls[1], calls[0]);
    ck_assert_msg(c.calls == calls[1], "%s %s: %lld allocations in later steps", kind.kind, kind.size,
                  (long long)(c.calls - calls[1]));
    bench_model_free(&model);
    ck_assert_int_eq(c.alive, 0);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("training determinism");
    TCase *tcase = tcase_create("training determinism");
    tcase_add_loop_test(tcase, the_same_bits_for_any_number_of_threads, 0, N_CASES);
    tcase_add_loop_test(tcase, a_step_more_shows, 0, N_CASES);
    tcase_add_loop_test(tcase, later_steps_take_no_memory, 0, N_CASES);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
