/* Matrix products: cuts C, and a long sum over k, into pieces that are computed serially (gemm_tile.h), in parallel: on
 * register tiles, or by OpenBLAS where there is one and it is faster.
 * Expands to ek_gemm_f32, ek_gemm_into_f32, ek_gemm_serial_f32 and their _f64 twins. */
#ifdef REAL /* this part is compiled once per dtype */

/* C (m×n) = op(A)·op(B) + (accumulate ? C : 0), and how it is cut.  Chunk 0 of k is summed in C itself, chunk q > 0 in
 * partial[q − 1], each m×n. */
struct FN(product) {
    bool transpose_a, transpose_b, accumulate;
    int64_t m, n, k, lda, ldb, ldc;
    const REAL *a, *b;
    REAL *c, *partial;
    struct cut cut;
};

#ifdef EK_BLAS
/* In pieces whose sizes and strides BLAS's int can hold: where a stride does not fit, they are one row (of the matrix as
 * stored) high. */
static void FN(by_blas)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                        const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    const bool far_a = lda > INT_MAX, far_b = ldb > INT_MAX;
    const int64_t step_m = ldc > INT_MAX || (far_a && !transpose_a) ? 1 : LARGEST_PIECE;
    const int64_t step_n = far_b && transpose_b ? 1 : LARGEST_PIECE;
    const int64_t step_k = (far_a && transpose_a) || (far_b && !transpose_b) ? 1 : LARGEST_PIECE;
    for (int64_t i = 0; i < m; i += step_m)
        for (int64_t j = 0; j < n; j += step_n)
            for (int64_t q = 0; q < k; q += step_k)
                FN(ek_gemm_blas)(transpose_a, transpose_b, (int)smaller(step_m, m - i), (int)smaller(step_n, n - j),
                                 (int)smaller(step_k, k - q), transpose_a ? a + q * lda + i : a + i * lda + q,
                                 (int)smaller(lda, INT_MAX), transpose_b ? b + j * ldb + q : b + q * ldb + j,
                                 (int)smaller(ldb, INT_MAX), c + i * ldc + j, (int)smaller(ldc, INT_MAX),
                                 accumulate || q > 0);
}
#endif

static void FN(serial)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                       const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    if (m < 1 || n < 1 || k < 1)
        return;
#ifdef EK_BLAS
    if (!ek_gemm_prefers_tiles(m, n, k)) {
        FN(by_blas)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
        return;
    }
#endif
    FN(ek_gemm_tiled)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

/* Pieces begin…end of the product, numbered (chunk of k, row of tiles, column of tiles), or with columns before rows:
 * a thread has neighbouring numbers, and the larger factor is what they share out, so that no two threads read all of
 * it.  What several cores have read is slow to write (18 ns a cache line, measured), and weights are, in each step. */
static void FN(run_pieces)(void *context, int64_t begin, int64_t end)
{
    const struct FN(product) *p = context;
    const int64_t rows = pieces(p->m, p->cut.m), columns = pieces(p->n, p->cut.n);
    for (int64_t t = begin; t < end; t++) {
        const int64_t chunk = t / (rows * columns), at = t % (rows * columns);
        const int64_t i = (p->m < p->n ? at % rows : at / columns) * p->cut.m;
        const int64_t j = (p->m < p->n ? at / rows : at % columns) * p->cut.n;
        int64_t ldo = chunk ? p->n : p->ldc, q = chunk * p->cut.k;
        REAL *out = chunk ? p->partial + (chunk - 1) * p->m * p->n : p->c;
        FN(serial)(p->transpose_a, p->transpose_b, smaller(p->cut.m, p->m - i), smaller(p->cut.n, p->n - j),
                   smaller(p->cut.k, p->k - q), p->transpose_a ? p->a + q * p->lda + i : p->a + i * p->lda + q, p->lda,
                   p->transpose_b ? p->b + j * p->ldb + q : p->b + q * p->ldb + j, p->ldb, out + i * ldo + j, ldo,
                   chunk == 0 && p->accumulate);
    }
}

/* Rows begin…end of C += partial[0] + partial[1] + …, in this order. */
EK_KERNEL static void FN(merge_rows)(const struct FN(product) *p, int64_t begin, int64_t end)
{
    int64_t chunks = pieces(p->k, p->cut.k), n = p->n;
    for (int64_t q = 1; q < chunks; q++)
        for (int64_t i = begin; i < end; i++) {
            const REAL *partial = p->partial + ((q - 1) * p->m + i) * n;
            REAL *c = p->c + i * p->ldc;
            for (int64_t j = 0; j < n; j++)
                c[j] += partial[j];
        }
}

static void FN(merge)(void *context, int64_t begin, int64_t end)
{
    FN(merge_rows)(context, begin, end);
}

/* k = 0: the empty sum. */
static void FN(clear)(int64_t m, int64_t n, REAL *c, int64_t ldc)
{
    for (int64_t i = 0; i < m; i++)
        memset(c + i * ldc, 0, (size_t)n * sizeof(REAL));
}

void FN(ek_gemm_serial)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                        const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    if (k == 0 && !accumulate)
        FN(clear)(m, n, c, ldc);
    else
        FN(serial)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}

size_t FN(ek_gemm_scratch)(int64_t m, int64_t n, int64_t k)
{
    int64_t chunks = pieces(k, choose_cut(m, n, k).k);
    return chunks > 1 ? (size_t)(chunks - 1) * (size_t)(m * n) * sizeof(REAL) : 0;
}

void FN(ek_gemm_into)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                      const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate, void *scratch)
{
    struct cut cut = choose_cut(m, n, k);
    int64_t tiles = pieces(m, cut.m) * pieces(n, cut.n), chunks = pieces(k, cut.k);
    if (tiles * chunks <= 1) {
        FN(ek_gemm_serial)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
        return;
    }
    struct FN(product) p = {transpose_a, transpose_b, accumulate, m, n, k, lda, ldb, ldc, a, b, c, scratch, cut};
    ek_parallel_for(tiles * chunks, 1, FN(run_pieces), &p);
    if (chunks > 1)
        ek_parallel_for(m, n < EK_GRAIN ? EK_GRAIN / n : 1, FN(merge), &p);
}

ek_status FN(ek_gemm)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                      const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    size_t bytes = FN(ek_gemm_scratch)(m, n, k);
    void *scratch = bytes ? ek_alloc(bytes) : NULL;
    if (bytes && !scratch)
        return EK_ERR_MEMORY;
    FN(ek_gemm_into)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate, scratch);
    ek_release(scratch);
    return EK_OK;
}

#else
#include "gemm_tile.h"

#include <float.h>
#include <limits.h>
#include <string.h>

/* Sizes of the pieces a product is cut into. */
struct cut {
    int64_t m, n, k;
};

#ifdef EK_BLAS
#define LARGEST_PIECE ((int64_t)1 << 30)
#endif
/* Tiles of C are at most so large.  Measured on two cores: 128 loses nothing against whole products at 1024³ (156 GF/s;
 * 64: 137), and leaves the middling sizes enough tiles for both cores (163 GF/s at 256³; tiles of 256: 129). */
#define TILE 128
/* Below this side a tile's packing costs more than its share of the sums. */
#define SMALLEST_TILE 64
/* Multiplications that are worth a thread: some 10 µs.  An element read or written takes as long as PER_ELEMENT of
 * them, which is what a product with few rows consists of. */
#define WORTH_A_THREAD ((double)(3 << 16))
#define PER_ELEMENT 4
/* As many pieces as a large machine has cores, if there is work enough for them; chunks of k are no shorter than this,
 * so that adding them up costs little. */
#define ENOUGH_PIECES 16
#define SHORTEST_CHUNK 512

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t pieces(int64_t n, int64_t size)
{
    return (n + size - 1) / size;
}

/* Equal pieces of n no longer than `most`, whole vectors wide. */
static int64_t even(int64_t n, int64_t most)
{
    int64_t size = (pieces(n, pieces(n, most)) + 15) / 16 * 16;
    return smaller(n, size);
}

/* By shape alone, never by the number of threads: that keeps the bits the same. */
static struct cut choose_cut(int64_t m, int64_t n, int64_t k)
{
    struct cut whole = {m > 1 ? m : 1, n > 1 ? n : 1, k > 1 ? k : 1};
    double elements = (double)m * (double)n + (double)m * (double)k + (double)n * (double)k;
    double multiplications = (double)m * (double)n * (double)k, work = multiplications + PER_ELEMENT * elements;
    if (multiplications == 0 || work < 2 * WORTH_A_THREAD)
        return whole;
    int64_t limit = work / WORTH_A_THREAD < ENOUGH_PIECES ? (int64_t)(work / WORTH_A_THREAD) : ENOUGH_PIECES;
    struct cut cut = {even(m, TILE), even(n, TILE), k};
    while (pieces(m, cut.m) * pieces(n, cut.n) < limit) {
        if (cut.n >= cut.m && cut.n >= 2 * SMALLEST_TILE)
            cut.n = even(n, cut.n / 2);
        else if (cut.m >= 2 * SMALLEST_TILE)
            cut.m = even(m, cut.m / 2);
        else
            break;
    }
    int64_t tiles = pieces(m, cut.m) * pieces(n, cut.n);
    int64_t chunks = smaller(limit / tiles, k / SHORTEST_CHUNK);
    if (chunks > 1)
        cut.k = even(k, pieces(k, chunks));
    return cut;
}

#ifndef EK_BLAS
const char *ek_gemm_backend(void)
{
    return "built-in";
}
#endif

#define OP_FILE "gemm.c"
#include "foreach_real.h"
#endif
