#include "support.h"

/* Check's own limit of 4 s is too short for some tests, above all under sanitizers; before any test case is made. */
__attribute__((constructor)) static void take_time(void)
{
    setenv("CK_DEFAULT_TIMEOUT", "300", 0);
}

int run_suite(Suite *suite)
{
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int run_tests(const char *name, const TTest *const *tests, int n)
{
    Suite *suite = suite_create(name);
    TCase *tcase = tcase_create(name);
    for (int i = 0; i < n; i++)
        tcase_add_test(tcase, tests[i]);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}

void assert_close(const char *what, const ek_tensor *a, const ek_tensor *b, double rtol, double atol)
{
    ck_assert_msg(a && b, "%s: a tensor is NULL: %s", what, ek_last_error());
    ck_assert_msg(ek_tensor_numel(a) == ek_tensor_numel(b), "%s: %lld elements against %lld", what,
                  (long long)ek_tensor_numel(a), (long long)ek_tensor_numel(b));
    double worst = 0;
    int64_t at = -1;
    for (int64_t i = 0; i < ek_tensor_numel(a); i++) {
        double x = ek_tensor_at(a, i), y = ek_tensor_at(b, i), excess = fabs(x - y) - (atol + rtol * fabs(y));
        if (!(excess <= worst) && !(isnan(x) && isnan(y)) && x != y) { /* a NaN on one side counts as worst */
            worst = isnan(excess) ? INFINITY : excess;
            at = i;
        }
    }
    ck_assert_msg(at < 0, "%s: element %lld is %.17g, expected %.17g (rtol %g, atol %g)", what, (long long)at,
                  ek_tensor_at(a, at), ek_tensor_at(b, at), rtol, atol);
}

/* FNV-1a (Fowler, Noll, Vo; RFC 9923) by words of eight bytes, which the copies of large results would have cost. */
static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const char *at = data;
    for (; bytes >= sizeof(uint64_t); at += sizeof(uint64_t), bytes -= sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        hash = (hash ^ word) * 0x100000001b3u;
        hash ^= hash >> 32; /* or the upper halves of words would never reach the lower bits */
    }
    for (; bytes > 0; at++, bytes--)
        hash = (hash ^ (unsigned char)*at) * 0x100000001b3u;
    return hash;
}

uint64_t hash_tensor(uint64_t hash, const ek_tensor *t)
{
    ck_made(t);
    return hash_bytes(hash, ek_tensor_const_data(t), (size_t)ek_tensor_numel(t) * ek_dtype_size(ek_tensor_dtype(t)));
}

static void *allocate_counted(size_t bytes, void *user)
{
    memory_count *count = user;
    count->calls++;
    count->alive++;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void release_counted(void *memory, void *user)
{
    ((memory_count *)user)->alive--;
    free(memory);
}

void count_memory(memory_count *count)
{
    *count = (memory_count){0};
    ck_ok(ek_set_allocator(&(ek_allocator){allocate_counted, release_counted, count}));
}

typedef struct budget {
    int64_t first, last; /* these requests are refused, counted from 0 */
    int64_t asked, alive;
} budget;

static void *allocate_within(size_t bytes, void *user)
{
    budget *b = user;
    const int64_t request = b->asked++;
    if (request >= b->first && request <= b->last)
        return NULL;
    b->alive++;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void release_within(void *memory, void *user)
{
    ((budget *)user)->alive--;
    free(memory);
}

/* One use with these requests refused. */
static ek_status use_within(budget *b, ek_status (*use)(void), int64_t first, int64_t last)
{
    *b = (budget){.first = first, .last = last};
    ek_status status = use();
    ck_assert_msg(status == EK_OK || status == EK_ERR_MEMORY, "requests %lld … %lld refused: %s %s", (long long)first,
                  (long long)last, ek_status_name(status), ek_last_error());
    ck_assert_msg(b->alive == 0, "requests %lld … %lld refused: %lld pieces leaked", (long long)first, (long long)last,
                  (long long)b->alive);
    return status;
}

int64_t assert_survives_refusals(ek_status (*use)(void))
{
    budget b = {0};
    int64_t requests = 0;
    ck_ok(ek_set_allocator(&(ek_allocator){allocate_within, release_within, &b}));
    while (use_within(&b, use, requests, INT64_MAX) != EK_OK) {
        requests++;
        ck_assert_msg(requests < 100000, "100000 requests are not enough");
    }
    for (int64_t k = 0; k < requests; k++)
        use_within(&b, use, k, k);
    ck_ok(ek_set_allocator(NULL));
    return requests;
}
