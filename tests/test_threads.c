/* Ops give the same bits with 1, 2, 3 and 8 threads.  Each count runs in a child of its own (libgomp does not survive a
 * fork after its first parallel region), so results meet in files. */
#include "core.h"
#include "support.h"

#include <sys/wait.h>
#include <unistd.h>

enum { CASES = 14 };

/* One case of each kind, large enough for many chunks and of no round size. */
static ek_tensor *apply_case(int which, ek_tape *t, ek_tensor *x, ek_tensor *channel, ek_tensor *row)
{
    switch (which) {
    case 0: return ek_add(t, x, channel);
    case 1: return ek_sub(t, row, x);
    case 2: return ek_mul(t, x, channel);
    case 3: return ek_div(t, ek_mul(t, x, row), ek_affine(t, ek_mul(t, x, x), 1, 1));
    case 4: return ek_sum(t, x, EK_ALL_AXES, false);
    case 5: return ek_sum(t, x, EK_AXES(0, 2), false);
    case 6: return ek_mean(t, x, EK_AXES(0, 1), false);
    case 7: return ek_mean(t, x, EK_AXES(-1), true);
    case 8: return ek_permute(t, x, EK_AXES(2, 0, 1));
    case 9: return ek_slice(t, x, 2, 3, -2);
    case 10: return ek_concat(t, (ek_tensor *[]){x, ek_reshape(t, x, ek_tensor_shape(x)), x}, 3, 1);
    case 11: return ek_relu(t, x);
    case 12: return ek_mul(t, ek_sum(t, x, EK_AXES(1), true), row);
    default: return ek_add(t, ek_slice(t, x, 0, 0, 20), ek_slice(t, x, 0, 17, 37));
    }
}

/* Writes the bits of every result and of every gradient. */
static void run_cases(ek_dtype dtype, int threads, FILE *out)
{
    ck_ok(ek_set_num_threads(threads));
    ek_rng rng = ek_rng_seed(1);
    ek_tensor *leaves[3] = {ek_normal(dtype, EK_SHAPE(37, 11, 303), 0, 1, &rng),
                            ek_normal(dtype, EK_SHAPE(11, 1), 0, 1, &rng), ek_normal(dtype, EK_SHAPE(303), 0, 1, &rng)};
    ek_tape *tape = ek_tape_new();
    for (int i = 0; i < 3; i++)
        ck_ok(ek_tensor_set_requires_grad(leaves[i], true));
    for (int which = 0; which < CASES; which++) {
        ek_tensor *y = apply_case(which, tape, leaves[0], leaves[1], leaves[2]);
        ck_made(y);
        ek_tensor *dy = ek_normal(dtype, ek_tensor_shape(y), 0, 1, &rng);
        ck_ok(ek_backward_from(tape, y, dy));
        ck_assert_uint_eq(fwrite(ek_tensor_data(y), ek_dtype_size(dtype), (size_t)y->numel, out), (size_t)y->numel);
        for (int i = 0; i < 3; i++) {
            ek_tensor *gradient = ek_tensor_grad(leaves[i]);
            if (gradient)
                fwrite(ek_tensor_data(gradient), ek_dtype_size(dtype), (size_t)gradient->numel, out);
            ek_tensor_clear_grad(leaves[i]);
        }
        ek_tensor_free(dy);
        ek_tape_reset(tape);
    }
    ek_tape_free(tape);
    for (int i = 0; i < 3; i++)
        ek_tensor_free(leaves[i]);
}

static FILE *run_in_child(ek_dtype dtype, int threads)
{
    FILE *file = tmpfile();
    ck_assert_ptr_nonnull(file);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        run_cases(dtype, threads, file);
        _exit(fflush(file) == 0 ? 0 : 1);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%d threads: the child failed", threads);
    rewind(file);
    return file;
}

static void compare_with_one_thread(ek_dtype dtype, int threads)
{
    FILE *one = run_in_child(dtype, 1), *many = run_in_child(dtype, threads);
    static char a[1 << 16], b[1 << 16];
    size_t total = 0;
    for (;;) {
        size_t n = fread(a, 1, sizeof a, one), m = fread(b, 1, sizeof b, many);
        ck_assert_uint_eq(n, m);
        if (n == 0)
            break;
        ck_assert_msg(!memcmp(a, b, n), "%d threads: other bits after byte %zu", threads, total);
        total += n;
    }
    ck_assert_uint_gt(total, (size_t)10 << 20); /* the comparison saw something */
    fclose(one);
    fclose(many);
}

START_TEST(results_do_not_depend_on_the_number_of_threads)
{
    static const int threads[] = {2, 3, 8};
    compare_with_one_thread(_i % 2 ? EK_F64 : EK_F32, threads[_i / 2]);
}
END_TEST

/* What a body sees: every index once, in chunks that do not depend on the number of threads. */
typedef struct visit {
    unsigned char *seen;
    int64_t *begins;
    int64_t grain;
} visit;

static void note_chunk(void *context, int64_t begin, int64_t end)
{
    visit *v = context;
    v->begins[begin / v->grain] = end;
    for (int64_t i = begin; i < end; i++)
        v->seen[i]++;
}

START_TEST(a_parallel_loop_visits_every_index_once)
{
    enum { N = 1003, GRAIN = 10, CHUNKS = (N + GRAIN - 1) / GRAIN };
    static const int threads[] = {1, 2, 3, 8};
    unsigned char seen[N] = {0};
    int64_t ends[CHUNKS] = {0};
    visit v = {seen, ends, GRAIN};
    ck_ok(ek_set_num_threads(threads[_i]));
    ek_parallel_for(N, GRAIN, note_chunk, &v);
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(seen[i], 1);
    for (int i = 0; i < CHUNKS; i++)
        ck_assert_int_eq(ends[i], (i + 1) * GRAIN < N ? (i + 1) * GRAIN : N);
    ek_parallel_for(0, GRAIN, note_chunk, &v);
    ck_assert_int_eq(seen[0], 1);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("threads");
    TCase *tcase = tcase_create("threads");
    tcase_add_loop_test(tcase, results_do_not_depend_on_the_number_of_threads, 0, 6);
    tcase_add_loop_test(tcase, a_parallel_loop_visits_every_index_once, 0, 4);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
