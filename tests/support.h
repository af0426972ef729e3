/* Shared by all tests: a Check program in one line, and comparisons that print where they failed. */
#ifndef EK_TEST_SUPPORT_H
#define EK_TEST_SUPPORT_H

#include <check.h>
#include <evenkeel/evenkeel.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Runs one suite of one test case; for main().  No parallel region may run in the parent: Check forks, and a child of a
 * parent that used libgomp hangs. */
int run_suite(Suite *suite);
int run_tests(const char *name, const TTest *const *tests, int n);
#define RUN_TESTS(name, ...)                                                                                           \
    run_tests(name, (const TTest *const[]){__VA_ARGS__},                                                               \
              (int)(sizeof((const TTest *const[]){__VA_ARGS__}) / sizeof(const TTest *)))

#define ck_ok(call)                                                                                                    \
    do {                                                                                                               \
        ek_status ck_status_ = (call);                                                                                 \
        ck_assert_msg(ck_status_ == EK_OK, "%s: %s: %s", #call, ek_status_name(ck_status_), ek_last_error());          \
    } while (0)
#define ck_made(pointer) ck_assert_msg((pointer) != NULL, "%s is NULL: %s", #pointer, ek_last_error())
/* ek_last_error() holds this text. */
#define ck_error(status, text)                                                                                         \
    ck_assert_msg(ek_last_status() == (status) && strstr(ek_last_error(), (text)), "expected %s «%s», got %s «%s»",    \
                  ek_status_name(status), (text), ek_status_name(ek_last_status()), ek_last_error())

/* A constructor returned NULL with this error. */
#define ck_refused(status, text, constructor)                                                                          \
    do {                                                                                                               \
        ek_clear_error();                                                                                              \
        ck_assert_ptr_null(constructor);                                                                               \
        ck_error(status, text);                                                                                        \
    } while (0)

/* ck_assert_msg for loops over many elements: silent, so fast, while it holds. */
#define ck_each(condition, ...)                                                                                        \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            ck_abort_msg(__VA_ARGS__);                                                                                 \
    } while (0)

/* |a − b| ≤ atol + rtol·|b| elementwise, types converted to double; prints the worst place. */
void assert_close(const char *what, const ek_tensor *a, const ek_tensor *b, double rtol, double atol);

/* A hash of the bits of a tensor's elements and of the hash of what came before (0 at first). */
uint64_t hash_tensor(uint64_t hash, const ek_tensor *t);

/* From here on the library's memory is counted, from 0, until ek_set_allocator(NULL). */
typedef struct memory_count {
    int64_t calls, alive; /* requests; blocks not yet given back */
} memory_count;
void count_memory(memory_count *count);

/* Calls `use` with an allocator that refuses all from the k-th request on, for k = 0, 1, … until `use` returns EK_OK,
 * then with one that refuses the k-th alone: it may only return EK_OK or EK_ERR_MEMORY, and must have released
 * everything each time.  Returns how many requests `use` makes. */
int64_t assert_survives_refusals(ek_status (*use)(void));

#endif
