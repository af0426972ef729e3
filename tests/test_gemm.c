/* ek_gemm against a naive product, for any OpenBLAS flavour (tests/CMakeLists.txt runs this once per flavour). */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include "core.h"
#include "support.h"

#include <float.h>
#include <pthread.h>
#include <sys/mman.h>

enum { SHAPES_PER_COMBINATION = 12, MAX_SIZE = 300 };

typedef ek_status gemm_f32(bool, bool, int64_t, int64_t, int64_t, const float *, int64_t, const float *, int64_t,
                           float *, int64_t, bool);
typedef ek_status gemm_f64(bool, bool, int64_t, int64_t, int64_t, const double *, int64_t, const double *, int64_t,
                           double *, int64_t, bool);

static ek_status serial_f32(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                            const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate)
{
    ek_gemm_serial_f32(ta, tb, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
    return EK_OK;
}

static ek_status serial_f64(bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                            const double *b, int64_t ldb, double *c, int64_t ldc, bool accumulate)
{
    ek_gemm_serial_f64(ta, tb, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
    return EK_OK;
}

static float *random_f32(int64_t n, ek_rng *rng)
{
    float *x = malloc((size_t)(n + 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(2 * ek_rng_uniform(rng) - 1);
    return x;
}

static double *widened(int64_t n, const float *x)
{
    double *y = malloc((size_t)(n + 1) * sizeof *y);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i];
    return y;
}

typedef struct matrices {
    bool ta, tb, accumulate;
    int64_t m, n, k, lda, ldb, ldc, size_a, size_b, size_c;
    float *a, *b, *c;
    double *a64, *b64, *c64;
} matrices;

/* Strides are longer than the rows by 0 … 4. */
static matrices make(bool ta, bool tb, bool accumulate, int64_t m, int64_t n, int64_t k, ek_rng *rng)
{
    matrices p = {.ta = ta, .tb = tb, .accumulate = accumulate, .m = m, .n = n, .k = k};
    p.lda = (ta ? m : k) + ek_rng_below(rng, 5) + 1;
    p.ldb = (tb ? k : n) + ek_rng_below(rng, 5) + 1;
    p.ldc = n + ek_rng_below(rng, 5) + 1;
    p.size_a = p.lda * (ta ? k : m);
    p.size_b = p.ldb * (tb ? n : k);
    p.size_c = p.ldc * m;
    p.a = random_f32(p.size_a, rng);
    p.b = random_f32(p.size_b, rng);
    p.c = random_f32(p.size_c, rng);
    p.a64 = widened(p.size_a, p.a);
    p.b64 = widened(p.size_b, p.b);
    p.c64 = widened(p.size_c, p.c);
    return p;
}

static void drop(matrices *p)
{
    free(p->a);
    free(p->b);
    free(p->c);
    free(p->a64);
    free(p->b64);
    free(p->c64);
}

/* |error of a sum of k products, in any order| ≤ γ_(k+1)·Σ|a·b| with γ_j = j·u/(1 − j·u), u half the epsilon (Higham
 * 2002, §3.1), and one more rounding for the old C. */
static double bound(double u, int64_t k, double sum_of_magnitudes)
{
    double g = (double)(k + 2) * u;
    return g / (1 - g) * sum_of_magnitudes;
}

/* Runs both types and compares every element with long double sums; what lies between rows must not change. */
static void check(matrices *p, gemm_f32 *f32, gemm_f64 *f64)
{
    double *before = widened(p->size_c, p->c);
    ck_ok(f32(p->ta, p->tb, p->m, p->n, p->k, p->a, p->lda, p->b, p->ldb, p->c, p->ldc, p->accumulate));
    ck_ok(f64(p->ta, p->tb, p->m, p->n, p->k, p->a64, p->lda, p->b64, p->ldb, p->c64, p->ldc, p->accumulate));
    for (int64_t i = 0; i < p->m; i++)
        for (int64_t j = 0; j < p->ldc; j++) {
            int64_t at = i * p->ldc + j;
            long double sum = j >= p->n || p->accumulate ? before[at] : 0, magnitude = fabsl(sum);
            for (int64_t q = 0; q < p->k && j < p->n; q++) {
                long double term = (long double)p->a64[p->ta ? q * p->lda + i : i * p->lda + q] *
                                   p->b64[p->tb ? j * p->ldb + q : q * p->ldb + j];
                sum += term;
                magnitude += fabsl(term);
            }
            double wanted = (double)sum, allowed = j < p->n ? (double)magnitude : 0;
            ck_assert_msg(fabs(p->c[at] - wanted) <= bound(FLT_EPSILON / 2, p->k, allowed) &&
                              fabs(p->c64[at] - wanted) <= bound(DBL_EPSILON / 2, p->k, allowed),
                          "m %lld n %lld k %lld ta %d tb %d accumulate %d: C[%lld, %lld] is %.9g and %.17g, expected "
                          "%.17g", (long long)p->m, (long long)p->n, (long long)p->k, p->ta, p->tb, p->accumulate,
                          (long long)i, (long long)j, (double)p->c[at], p->c64[at], wanted);
        }
    free(before);
}

static int64_t random_size(ek_rng *rng)
{
    static const int64_t odd[] = {0, 1, 2, 3, 15, 16, 17, 127, 128, 129};
    int64_t pick = ek_rng_below(rng, 14);
    return pick < 10 ? odd[pick] : ek_rng_below(rng, MAX_SIZE);
}

START_TEST(random_shapes)
{
    ek_rng rng = ek_rng_seed(1);
    for (int combination = 0; combination < 8; combination++)
        for (int i = 0; i < SHAPES_PER_COMBINATION; i++) {
            bool ta = combination & 1, tb = combination & 2, accumulate = combination & 4;
            matrices p = make(ta, tb, accumulate, random_size(&rng), random_size(&rng), random_size(&rng), &rng);
            if (i % 3)
                check(&p, ek_gemm_f32, ek_gemm_f64);
            else
                check(&p, serial_f32, serial_f64);
            drop(&p);
        }
}
END_TEST

/* Shapes that are cut in tiles, in chunks of k, in both. */
static const int64_t cut_shapes[][3] = {{130, 140, 150}, {300, 40, 200}, {3, 1000, 600},  {16, 72, 6272},
                                        {1, 1, 2000000}, {70, 130, 3000}, {10, 64, 4096}, {257, 129, 65}};
enum { N_CUT_SHAPES = sizeof cut_shapes / sizeof cut_shapes[0] };

START_TEST(cut_products)
{
    ek_rng rng = ek_rng_seed(2);
    for (int i = 0; i < N_CUT_SHAPES; i++) {
        const int64_t *s = cut_shapes[i];
        matrices p = make(i & 1, i & 2, i & 4, s[0], s[1], s[2], &rng);
        check(&p, ek_gemm_f32, ek_gemm_f64);
        drop(&p);
    }
    ck_assert_uint_eq(ek_gemm_scratch_f32(64, 64, 64), 0);
    ck_assert_uint_eq(ek_gemm_scratch_f32(1024, 1024, 1 << 20), 0); /* tiles enough */
    ck_assert_uint_eq(ek_gemm_scratch_f32(5, 7, 0), 0);
    ck_assert_uint_ge(ek_gemm_scratch_f64(16, 72, 6272), 16 * 72 * sizeof(double));
}
END_TEST

START_TEST(no_size_no_harm)
{
    float c[4] = {1, 2, 3, 4}, a[4] = {1, 1, 1, 1};
    ck_ok(ek_gemm_f32(false, false, 0, 2, 2, NULL, 2, a, 2, NULL, 2, false));
    ck_ok(ek_gemm_f32(false, false, 2, 0, 2, a, 2, NULL, 1, NULL, 1, false));
    ck_ok(ek_gemm_f32(false, false, 2, 2, 0, NULL, 1, NULL, 2, c, 2, true));
    for (int i = 0; i < 4; i++)
        ck_assert(c[i] == (float)(i + 1));
    c[0] = NAN; /* an old NaN is overwritten, not multiplied by 0 */
    ck_ok(ek_gemm_f32(false, false, 1, 1, 4, a, 4, a, 1, c, 2, false));
    ck_assert(c[0] == 4 && c[1] == 2);
    ck_ok(ek_gemm_f32(false, false, 2, 2, 0, NULL, 1, NULL, 2, c, 2, false));
    for (int i = 0; i < 4; i++)
        ck_assert(c[i] == 0);

    /* The other two sizes are worth threads. */
    enum { LARGE = 320 };
    static float square[LARGE * LARGE];
    ck_ok(ek_gemm_f32(false, true, 0, LARGE, LARGE, NULL, LARGE, square, LARGE, NULL, LARGE, false));
    ck_ok(ek_gemm_f32(false, true, LARGE, 0, LARGE, square, LARGE, NULL, LARGE, NULL, 1, false));
    for (int i = 0; i < LARGE * LARGE; i++)
        square[i] = 1;
    ck_ok(ek_gemm_f32(false, false, LARGE, LARGE, 0, NULL, 1, NULL, LARGE, square, LARGE, true));
    ck_assert(square[LARGE * LARGE - 1] == 1);
    ck_ok(ek_gemm_f32(false, false, LARGE, LARGE, 0, NULL, 1, NULL, LARGE, square, LARGE, false));
    for (int i = 0; i < LARGE * LARGE; i++)
        ck_assert(square[i] == 0);
}
END_TEST

/* 0·∞ and 0·NaN are NaN: no shortcut over zeros. */
START_TEST(non_finite)
{
    enum { N = 40 };
    double a[N * N] = {0}, b[N * N] = {0}, c[N * N];
    float a32[N * N] = {0}, b32[N * N] = {0}, c32[N * N];
    b[3 * N + 5] = b32[3 * N + 5] = INFINITY;
    b[4 * N + 6] = b32[4 * N + 6] = NAN;
    a[7 * N + 3] = a32[7 * N + 3] = 1;
    ck_ok(ek_gemm_f64(false, false, N, N, N, a, N, b, N, c, N, false));
    ck_ok(ek_gemm_f32(false, false, N, N, N, a32, N, b32, N, c32, N, false));
    for (int i = 0; i < N; i++)
        for (int j = 0; j < N; j++) {
            double x = c[i * N + j], y = c32[i * N + j];
            if (i == 7 && j == 5)
                ck_assert(x == INFINITY && y == INFINITY);
            else if (j == 5 || j == 6)
                ck_assert(isnan(x) && isnan(y));
            else
                ck_assert(x == 0 && y == 0);
        }
}
END_TEST

START_TEST(same_bits_for_any_number_of_threads)
{
    static const int threads[] = {1, 2, 3, 8};
    ek_rng rng = ek_rng_seed(3);
    for (int i = 0; i < N_CUT_SHAPES; i++) {
        const int64_t *s = cut_shapes[i];
        matrices p = make(i & 2, i & 4, false, s[0], s[1], s[2], &rng);
        float *first = malloc((size_t)p.size_c * sizeof(float));
        double *first64 = malloc((size_t)p.size_c * sizeof(double));
        for (int t = 0; t < 4; t++) {
            ck_ok(ek_set_num_threads(threads[t]));
            check(&p, ek_gemm_f32, ek_gemm_f64);
            if (t == 0) {
                memcpy(first, p.c, (size_t)p.size_c * sizeof(float));
                memcpy(first64, p.c64, (size_t)p.size_c * sizeof(double));
            }
            ck_assert_mem_eq(first, p.c, (size_t)p.size_c * sizeof(float));
            ck_assert_mem_eq(first64, p.c64, (size_t)p.size_c * sizeof(double));
        }
        free(first);
        free(first64);
        drop(&p);
    }
}
END_TEST

/* OpenBLAS's own setting, where it is linked. */
extern int openblas_get_num_threads(void) __attribute__((weak));

/* A product of one piece that is OpenBLAS's (few rows) and large enough for it to use threads of its own, which changes
 * its bits at this shape (seen with 0.3.21: 10715 of 15465 elements); and the caller's number of threads is his. */
START_TEST(backend_stays_in_its_thread)
{
    ek_rng rng = ek_rng_seed(4);
    matrices p = make(false, false, false, 15, 1031, 1000, &rng);
    float *first = malloc((size_t)p.size_c * sizeof(float));
    for (int threads = 1; threads <= 8; threads++) {
        ck_ok(ek_set_num_threads(threads));
        int before = ek_num_threads();
        ck_ok(serial_f32(false, false, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.c, p.ldc, false));
        if (threads == 1)
            memcpy(first, p.c, (size_t)p.size_c * sizeof(float));
        ck_assert_mem_eq(first, p.c, (size_t)p.size_c * sizeof(float));
        ck_assert_int_eq(ek_num_threads(), before);
        if (strstr(ek_gemm_backend(), "(pthread)"))
            ck_assert_int_eq(openblas_get_num_threads(), 1);
    }
    free(first);
    drop(&p);
}
END_TEST

typedef struct caller {
    const matrices *p;
    const float *wanted;
    pthread_barrier_t *start;
    int wrong;
} caller;

static void *call_often(void *argument)
{
    caller *me = argument;
    const matrices *p = me->p;
    float *c = malloc((size_t)p->size_c * sizeof(float));
    memcpy(c, p->c, (size_t)p->size_c * sizeof(float));
    pthread_barrier_wait(me->start);
    for (int i = 0; i < (p->m < 100 ? 2000 : 200); i++) {
        ek_gemm_f32(p->ta, p->tb, p->m, p->n, p->k, p->a, p->lda, p->b, p->ldb, c, p->ldc, false);
        me->wrong += memcmp(c, me->wanted, (size_t)p->size_c * sizeof(float)) != 0;
    }
    free(c);
    return NULL;
}

/* The small shape is OpenBLAS's (few rows), and one that unguarded calls of the serial flavour get wrong now and then; the
 * large one goes on tiles. */
static void call_from(int n)
{
    ek_rng rng = ek_rng_seed(5);
    matrices small = make(false, true, false, 15, 300, 300, &rng), large = make(false, false, false, 200, 130, 90, &rng);
    pthread_t threads[8];
    caller callers[8];
    pthread_barrier_t start;
    ck_ok(ek_set_num_threads(2));
    check(&small, ek_gemm_f32, ek_gemm_f64);
    check(&large, ek_gemm_f32, ek_gemm_f64);
    pthread_barrier_init(&start, NULL, (unsigned)n);
    for (int i = 0; i < n; i++) {
        const matrices *p = i % 4 == 3 ? &large : &small;
        callers[i] = (caller){p, p->c, &start, 0};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
    }
    int wrong = 0;
    for (int i = 0; i < n; i++) {
        pthread_join(threads[i], NULL);
        wrong += callers[i].wrong;
    }
    ck_assert_int_eq(wrong, 0);
    pthread_barrier_destroy(&start);
    drop(&small);
    drop(&large);
}

START_TEST(two_callers_at_once)
{
    call_from(2);
}
END_TEST

START_TEST(eight_callers_at_once)
{
    call_from(8);
}
END_TEST

/* Rows farther apart than an int can say.  The memory is promised, not used: only touched pages exist. */
START_TEST(far_apart_rows)
{
    enum { ROWS = 3 };
    int64_t far = (int64_t)INT32_MAX + 6;
    size_t bytes = (size_t)(ROWS * far) * sizeof(float);
    float *a = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ck_assert_msg(a != MAP_FAILED, "no address space for the test");
    float b[ROWS * ROWS] = {1, 2, 3, 4, 5, 6, 7, 8, 10}, c[ROWS * ROWS];
    float ab[] = {30, 36, 45, 66, 81, 102, 109, 134, 169}; /* b·b, worked out by hand */
    for (int i = 0; i < ROWS; i++)
        memcpy(a + i * far, b + i * ROWS, ROWS * sizeof(float));
    ck_ok(ek_gemm_f32(false, false, ROWS, ROWS, ROWS, a, far, b, ROWS, c, ROWS, false));
    ck_assert_mem_eq(c, ab, sizeof c);
    ck_ok(ek_gemm_f32(false, false, ROWS, ROWS, ROWS, b, ROWS, a, far, c, ROWS, false));
    ck_assert_mem_eq(c, ab, sizeof c);
    float bt[ROWS * ROWS];
    for (int i = 0; i < ROWS * ROWS; i++)
        bt[i] = b[i % ROWS * ROWS + i / ROWS];
    for (int i = 0; i < ROWS; i++)
        memcpy(a + i * far, bt + i * ROWS, ROWS * sizeof(float));
    ck_ok(ek_gemm_f32(true, true, ROWS, ROWS, ROWS, a, far, a, far, c, ROWS, false));
    ck_assert_mem_eq(c, ab, sizeof c);
    for (int i = 0; i < ROWS; i++)
        memcpy(a + i * far, ab + i * ROWS, ROWS * sizeof(float));
    ck_ok(ek_gemm_f32(false, false, ROWS, ROWS, ROWS, b, ROWS, b, ROWS, a, far, true));
    for (int i = 0; i < ROWS * ROWS; i++)
        ck_assert(a[i / ROWS * far + i % ROWS] == 2 * ab[i]);
    munmap(a, bytes);
}
END_TEST

static void *refuse(size_t bytes, void *user)
{
    (void)bytes;
    (void)user;
    return NULL;
}

static void never(void *memory, void *user)
{
    (void)user;
    ck_assert_ptr_null(memory);
}

/* C stays as it was when scratch memory is refused, and small products ask for none. */
START_TEST(memory_refused)
{
    ek_rng rng = ek_rng_seed(6);
    matrices p = make(false, false, true, 16, 72, 6272, &rng);
    double *before = widened(p.size_c, p.c);
    ek_allocator stingy = {refuse, never, NULL};
    ck_ok(ek_set_allocator(&stingy));
    ck_assert_int_eq(ek_gemm_f32(false, false, p.m, p.n, p.k, p.a, p.lda, p.b, p.ldb, p.c, p.ldc, true),
                     EK_ERR_MEMORY);
    ck_error(EK_ERR_MEMORY, "out of memory");
    for (int64_t i = 0; i < p.size_c; i++)
        ck_assert(p.c[i] == before[i]);
    ck_ok(ek_gemm_f32(false, false, p.m, p.n, 100, p.a, p.lda, p.b, p.ldb, p.c, p.ldc, true));
    ck_ok(ek_set_allocator(NULL));
    free(before);
    drop(&p);
}
END_TEST

/* The flavour that ctest asked for is the one that was loaded. */
START_TEST(backend_name)
{
    const char *wanted = getenv("EK_TEST_BACKEND"), *name = ek_gemm_backend();
    ck_assert_msg(strncmp(name, "OpenBLAS ", 9) == 0 || strcmp(name, "built-in") == 0, "backend is «%s»", name);
    ck_assert_msg(!wanted || strstr(name, wanted), "expected the backend to be %s, it is %s", wanted, name);
    ck_assert_ptr_nonnull(strstr(ek_build_info(), name));
}
END_TEST

int main(void)
{
    return RUN_TESTS("gemm", random_shapes, cut_products, no_size_no_harm, non_finite, far_apart_rows, memory_refused,
                     backend_name, same_bits_for_any_number_of_threads, backend_stays_in_its_thread,
                     two_callers_at_once, eight_callers_at_once);
}
