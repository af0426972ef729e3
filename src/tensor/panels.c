/* Panels (panels.h).  Expands to ek_panels_size_f32, ek_panels_pack_f32, ek_panels_multiply_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    bool transpose;
    int64_t n, k, ldb;
    const REAL *b;
    REAL *panels;
} FN(packing);

/* Squares of SQUARE × SQUARE elements, which two steps of shuffles transpose in registers. */
#define SQUARE ((int)(16 / sizeof(REAL)))
typedef REAL FN(quad) __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

/* to[p·ldt + j] = from[j·ldf + p] for j, p < SQUARE. */
static inline void FN(transpose_square)(const REAL *from, int64_t ldf, REAL *to, int64_t ldt)
{
    FN(quad) row[SQUARE];
    for (int j = 0; j < SQUARE; j++)
        row[j] = *(const FN(quad) *)(from + j * ldf);
#if REAL_IS_F32
    const FN(quad) a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    const FN(quad) b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    const FN(quad) c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    const FN(quad) d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    *(FN(quad) *)to = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    *(FN(quad) *)(to + ldt) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    *(FN(quad) *)(to + 2 * ldt) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    *(FN(quad) *)(to + 3 * ldt) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
#else
    *(FN(quad) *)to = __builtin_shufflevector(row[0], row[1], 0, 2);
    *(FN(quad) *)(to + ldt) = __builtin_shufflevector(row[0], row[1], 1, 3);
#endif
}

/* to[p·ldt + j] = from[j·ldf + p] for j < n, p < k. */
static void FN(transpose)(int64_t n, int64_t k, const REAL *from, int64_t ldf, REAL *to, int64_t ldt)
{
    const int64_t whole_n = n - n % SQUARE, whole_k = k - k % SQUARE;
    for (int64_t p = 0; p < whole_k; p += SQUARE)
        for (int64_t j = 0; j < whole_n; j += SQUARE)
            FN(transpose_square)(from + j * ldf + p, ldf, to + p * ldt + j, ldt);
    for (int64_t p = 0; p < k; p++)
        for (int64_t j = p < whole_k ? whole_n : 0; j < n; j++)
            to[p * ldt + j] = from[j * ldf + p];
}
#undef SQUARE

static void FN(pack_some)(void *context, int64_t begin, int64_t end)
{
    const FN(packing) *a = context;
    const int64_t columns = FN(ek_tile)()->columns;
    for (int64_t i = begin; i < end; i++) {
        REAL *panel = a->panels + i * columns * a->k;
        const int64_t at = i * columns, width = a->n - at < columns ? a->n - at : columns;
        if (a->transpose)
            FN(transpose)(width, a->k, a->b + at * a->ldb, a->ldb, panel, columns);
        for (int64_t p = 0; p < a->k; p++) {
            if (!a->transpose)
                memcpy(panel + p * columns, a->b + p * a->ldb + at, (size_t)width * sizeof(REAL));
            for (int64_t j = width; j < columns; j++)
                panel[p * columns + j] = 0;
        }
    }
}

int64_t FN(ek_panels_size)(int64_t n, int64_t k)
{
    const int64_t columns = FN(ek_tile)()->columns;
    return (n + columns - 1) / columns * columns * k;
}

void FN(ek_panels_pack)(bool transpose, int64_t n, int64_t k, const REAL *b, int64_t ldb, REAL *panels)
{
    FN(packing) a = {.transpose = transpose, .n = n, .k = k, .ldb = ldb, .b = b, .panels = panels};
    const int64_t columns = FN(ek_tile)()->columns;
    if (k > 0)
        ek_parallel_for((n + columns - 1) / columns, EK_GRAIN / (columns * k) + 1, FN(pack_some), &a);
}

void FN(ek_panels_multiply)(int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda, const REAL *panels, REAL *c,
                            int64_t ldc, bool accumulate)
{
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    const int64_t columns = tile->columns, rows = tile->rows, depth = PIECE_BYTES / (columns * (int64_t)sizeof(REAL));
    for (int64_t p = 0; p == 0 || p < k; p += depth)
        for (int64_t j = 0; j < n; j += columns)
            for (int64_t i = 0; i < m; i += rows)
                tile->multiply_rows((int)(m - i < rows ? m - i : rows), (int)(n - j < columns ? n - j : columns),
                                    k - p < depth ? k - p : depth, a + i * lda + p, lda, panels + j * k + p * columns,
                                    columns, c + i * ldc + j, ldc, accumulate || p > 0);
}

#else
#include "panels.h"
#include "tile.h"

#include <float.h>

/* Of a panel, what stays in the first-level cache while all rows of A go over it. */
enum { PIECE_BYTES = 24 << 10 };

#define OP_FILE "panels.c"
#include "foreach_real.h"
#endif
