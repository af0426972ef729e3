/* Panels (panels.h).  Expands to ek_panels_size_f32, ek_panels_pack_f32, ek_panels_multiply_f32, and _f64. */
#ifdef REAL
#include "transpose.h"

typedef struct {
    bool transpose;
    int64_t n, k, ldb;
    const REAL *b;
    REAL *panels;
} FN(packing);

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
