/* Products with a matrix in panels (panels.h) against plain sums; expands per float type. */
#ifdef REAL

/* Two sums of k products of numbers below 1, each rounded at most once per step. */
static void FN(check_product)(int64_t m, int64_t n, int64_t k, bool transpose, bool accumulate)
{
    const int64_t lda = k + 1, ldb = (transpose ? k : n) + 2, ldc = n + 3, size = FN(ek_panels_size)(n, k);
    const double bound = 2 * (double)(k + 1) * (double)(k + 1) * (double)REAL_EPSILON;
    REAL *a = FN(drawn)(m * lda + 1, 1), *b = FN(drawn)((transpose ? n : k) * ldb + 1, 2);
    REAL *c = FN(drawn)(m * ldc + 1, 3), *before = FN(drawn)(m * ldc + 1, 3), *panels = FN(drawn)(size + 1, 4);
    const REAL behind = panels[size];
    FN(ek_panels_pack)(transpose, n, k, b, ldb, panels);
    ck_assert(panels[size] == behind);
    FN(ek_panels_multiply)(m, n, k, a, lda, panels, c, ldc, accumulate);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < ldc; j++) {
            double sum = accumulate ? (double)before[i * ldc + j] : 0;
            for (int64_t p = 0; j < n && p < k; p++)
                sum += (double)a[i * lda + p] * (double)b[transpose ? j * ldb + p : p * ldb + j];
            if (j < n && !(fabs((double)c[i * ldc + j] - sum) <= bound))
                ck_abort_msg("%.9g, expected %.9g: row %d, column %d of %dx%d, k = %d", (double)c[i * ldc + j], sum,
                             (int)i, (int)j, (int)m, (int)n, (int)k);
            if (j >= n && c[i * ldc + j] != before[i * ldc + j])
                ck_abort_msg("wrote to column %d of %d", (int)j, (int)n);
        }
    /* a row alone has the same bits */
    for (int64_t i = 0; i < m && !accumulate; i++) {
        FN(ek_panels_multiply)(1, n, k, a + i * lda, lda, panels, before, ldc, false);
        ck_assert_mem_eq(before, c + i * ldc, (size_t)n * sizeof *c);
    }
    free(a);
    free(b);
    free(c);
    free(before);
    free(panels);
}

#else
#include "panels.h"
#include "support.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>

static float *drawn_f32(int64_t n, uint64_t seed)
{
    ek_rng rng = ek_rng_seed(seed);
    float *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(2 * ek_rng_uniform(&rng) - 1);
    return x;
}

static double *drawn_f64(int64_t n, uint64_t seed)
{
    ek_rng rng = ek_rng_seed(seed);
    double *x = malloc((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = 2 * ek_rng_uniform(&rng) - 1;
    return x;
}

#define OP_FILE "test_panels.c"
#include "foreach_real.h"

/* Sizes around whole squares, vectors, panels and pieces of k; none of each. */
START_TEST(products_are_the_sums_they_stand_for)
{
    const int64_t rows[] = {0, 1, 3, 8, 19}, columns[] = {0, 1, 4, 15, 48, 51, 97};
    const int64_t depths[] = {0, 1, 2, 5, 64, 131, 260};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        for (size_t j = 0; j < sizeof columns / sizeof *columns; j++)
            for (size_t p = 0; p < sizeof depths / sizeof *depths; p++)
                for (int variant = 0; variant < 4; variant++) {
                    check_product_f32(rows[i], columns[j], depths[p], variant & 1, variant & 2);
                    check_product_f64(rows[i], columns[j], depths[p], variant & 1, variant & 2);
                }
}
END_TEST

int main(void)
{
    return RUN_TESTS("panels", products_are_the_sums_they_stand_for);
}
#endif
