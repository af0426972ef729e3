/* The register tiles of products (tile.h) against plain sums, for every size of tile; expands per float type. */
#ifdef REAL

/* n numbers in [−1, 1). */
static void FN(draw)(int64_t n, REAL *x, ek_rng *rng)
{
    for (int64_t i = 0; i < n; i++)
        x[i] = (REAL)(2 * ek_rng_uniform(rng) - 1);
}

/* Two sums of n products of numbers below 1, each rounded at most once per step: |difference| ≤ 2·(n + 1)·u·n/2 on
 * average, and the worst case has n instead of n/2. */
static void FN(expect)(double value, double expected, int64_t n)
{
    const double bound = 2 * (double)(n + 1) * (double)REAL_EPSILON * (double)(n + 1);
    if (!(fabs(value - expected) <= bound)) /* asserting millions of times takes seconds */
        ck_abort_msg("%.9g, expected %.9g (n = %d)", value, expected, (int)n);
}

/* Every number of rows and columns, k from 0 on, with strides and with offsets, into c that has room on all sides. */
static void FN(check_multiply)(void)
{
    enum { MOST_K = 37, LDB = EK_TILE_MOST_COLUMNS + 3, LDC = EK_TILE_MOST_COLUMNS + 5, LDA = MOST_K + 2 };
    static REAL a[LDA * (EK_TILE_MOST_ROWS + 1)], b[(MOST_K + 1) * LDB], c[EK_TILE_MOST_ROWS * LDC];
    static REAL before[EK_TILE_MOST_ROWS * LDC];
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    const int64_t depth[] = {0, 1, 2, MOST_K};
    int64_t offset[MOST_K];
    ek_rng rng = ek_rng_seed(1);
    FN(draw)(LDA * (EK_TILE_MOST_ROWS + 1), a, &rng);
    FN(draw)((MOST_K + 1) * LDB, b, &rng);
    for (int p = 0; p < MOST_K; p++)
        offset[p] = (p * 5 % MOST_K) * LDB + p % 3;
    ck_assert_int_le(tile->rows, EK_TILE_MOST_ROWS);
    ck_assert_int_le(tile->columns, EK_TILE_MOST_COLUMNS);
    for (int rows = 1; rows <= tile->rows; rows++)
        for (int columns = 1; columns <= tile->columns; columns++)
            for (int variant = 0; variant < 8 * 4; variant++) {
                const int64_t k = depth[variant / 8];
                const bool accumulate = variant & 1, plain = variant & 4, by_rows = plain && variant & 2;
                const bool gathered = !plain && variant & 2;
                const int64_t a_row = by_rows ? LDA : 1, a_step = by_rows ? 1 : plain ? EK_TILE_MOST_ROWS + 1 : rows;
                FN(draw)(EK_TILE_MOST_ROWS * LDC, before, &rng);
                memcpy(c, before, sizeof c);
                if (by_rows)
                    tile->multiply_rows(rows, columns, k, a, a_row, b, LDB, c, LDC, accumulate);
                else if (plain)
                    tile->multiply_columns(rows, columns, k, a, a_step, b, LDB, c, LDC, accumulate);
                else
                    tile->multiply(rows, columns, k, a, b, LDB, gathered ? offset : NULL, c, LDC, accumulate);
                for (int i = 0; i < EK_TILE_MOST_ROWS; i++)
                    for (int j = 0; j < LDC; j++) {
                        double sum = accumulate ? (double)before[i * LDC + j] : 0;
                        for (int64_t p = 0; p < k; p++)
                            sum += (double)a[i * a_row + p * a_step] *
                                   (double)b[(gathered ? offset[p] : p * LDB) + j];
                        if (i < rows && j < columns)
                            FN(expect)((double)c[i * LDC + j], sum, k);
                        else if (c[i * LDC + j] != before[i * LDC + j])
                            ck_abort_msg("wrote to row %d, column %d of %d x %d", i, j, rows, columns);
                    }
            }
}

static void FN(check_dot)(void)
{
    enum { MOST_N = 70, LDA = MOST_N + 1, LDB = MOST_N + 3, MOST = 8 };
    static REAL a[MOST * LDA], b[MOST * LDB + 8], c[MOST * MOST], before[MOST * MOST];
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    int64_t offset[MOST];
    ek_rng rng = ek_rng_seed(2);
    FN(draw)(MOST * LDA, a, &rng);
    FN(draw)(MOST * LDB + 8, b, &rng);
    for (int j = 0; j < MOST; j++)
        offset[j] = (j * 3 % MOST) * LDB + j;
    for (int rows = 1; rows <= tile->dot_rows; rows++)
        for (int columns = 1; columns <= tile->dot_columns; columns++)
            for (int variant = 0; variant < 4 * MOST_N; variant++) {
                const int64_t n = variant / 4;
                const bool accumulate = variant & 1, gathered = variant & 2;
                FN(draw)(MOST * MOST, before, &rng);
                memcpy(c, before, sizeof c);
                tile->dot(rows, columns, n, a, LDA, b, LDB, gathered ? offset : NULL, c, MOST, accumulate);
                for (int i = 0; i < MOST; i++)
                    for (int j = 0; j < MOST; j++) {
                        double sum = accumulate ? (double)before[i * MOST + j] : 0;
                        for (int64_t q = 0; q < n; q++)
                            sum += (double)a[i * LDA + q] * (double)b[(gathered ? offset[j] : j * LDB) + q];
                        if (i < rows && j < columns)
                            FN(expect)((double)c[i * MOST + j], sum, n);
                        else if (c[i * MOST + j] != before[i * MOST + j])
                            ck_abort_msg("wrote to row %d, column %d of %d x %d", i, j, rows, columns);
                    }
            }
}

/* An element's bits do not depend on the tile it falls in. */
static void FN(check_same_bits)(void)
{
    enum { K = 129 };
    static REAL a[K * EK_TILE_MOST_ROWS], one[K], b[K * EK_TILE_MOST_COLUMNS];
    static REAL c[EK_TILE_MOST_ROWS * EK_TILE_MOST_COLUMNS];
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    ek_rng rng = ek_rng_seed(3);
    FN(draw)(K * EK_TILE_MOST_ROWS, a, &rng);
    FN(draw)(K * EK_TILE_MOST_COLUMNS, b, &rng);
    tile->multiply(tile->rows, tile->columns, K, a, b, tile->columns, NULL, c, tile->columns, false);
    for (int i = 0; i < tile->rows; i++) {
        for (int p = 0; p < K; p++)
            one[p] = a[p * tile->rows + i];
        for (int j = 0; j + tile->lanes <= tile->columns; j++) {
            REAL alone;
            tile->multiply(1, 1, K, one, b + j, tile->columns, NULL, &alone, 1, false);
            ck_assert(alone == c[i * tile->columns + j]);
            tile->multiply_rows(1, 1, K, one, K, b + j, tile->columns, &alone, 1, false);
            ck_assert(alone == c[i * tile->columns + j]);
        }
    }
}

#else
#include "support.h"
#include "tile.h"

#include <float.h>
#include <math.h>

#define OP_FILE "test_tile.c"
#include "foreach_real.h"

START_TEST(products_are_the_sums_they_stand_for)
{
    check_multiply_f32();
    check_multiply_f64();
}
END_TEST

START_TEST(dots_are_the_sums_they_stand_for)
{
    check_dot_f32();
    check_dot_f64();
}
END_TEST

START_TEST(an_element_has_the_same_bits_in_any_tile)
{
    check_same_bits_f32();
    check_same_bits_f64();
}
END_TEST

int main(void)
{
    return RUN_TESTS("tile", products_are_the_sums_they_stand_for, dots_are_the_sums_they_stand_for,
                     an_element_has_the_same_bits_in_any_tile);
}
#endif
