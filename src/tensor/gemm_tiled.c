/* Serial products on register tiles (tile.h).  Expands to ek_gemm_tiled_f32 and ek_gemm_tiled_f64.
 *
 * A tile reads the rows or columns of the left factor as they are, and of the right one a panel as wide as a tile, a
 * piece of k at a time, which stays in the caches while all rows of the left one go over it.  Measured, packing either
 * (Goto and van de Geijn 2008) gains nothing at these sizes, so it is done only where the right one has to be transposed
 * or its last panel ends within a vector.  Each factor may be the right one, since (A·B)ᵀ = Bᵀ·Aᵀ: where one would have
 * to be transposed for a few rows of the other, the few are.
 *
 * Every element is one sum in the order of k, whichever way it is taken; in products of DOT_ROWS rows and fewer that
 * tile.h's `dot` computes, a few sums. */
#ifdef REAL /* kernels: this part is compiled once per dtype */
#include "transpose.h"

/* One factor of a product: of element (i, p), i counts the rows or columns of C, p the terms of its sums. */
typedef struct {
    const REAL *x;
    int64_t ld;
    bool by_terms; /* x[p·ld + i]; x[i·ld + p] without */
} FN(factor);

/* C or its transpose: left·right over k. */
typedef struct {
    FN(factor) left, right;
    int64_t m, n, k; /* m counts the rows of left */
    REAL *c;
    int64_t ldc;
    bool accumulate, transposed; /* element (i, j) is c[j·ldc + i] */
} FN(tiled);

/* to [k, ldt]: `width` rows (or columns) of a factor from `first` on, terms p … p + k − 1; zeros up to ldt. */
static void FN(pack)(const FN(factor) *from, int64_t first, int64_t width, int64_t p, int64_t k, REAL *to, int64_t ldt)
{
    if (!from->by_terms)
        FN(transpose)(width, k, from->x + first * from->ld + p, from->ld, to, ldt);
    for (int64_t q = 0; q < k; q++) {
        if (from->by_terms)
            memcpy(to + q * ldt, from->x + (p + q) * from->ld + first, (size_t)width * sizeof(REAL));
        for (int64_t j = width; j < ldt; j++)
            to[q * ldt + j] = 0;
    }
}

/* Rows i … i + rows − 1 and columns j … j + columns − 1 of the product, terms p … p + k − 1, added to those before. */
static void FN(tile)(const FN(tiled) *g, int64_t i, int rows, int64_t j, int columns, int64_t p, int64_t k,
                     const REAL *panel, int64_t ldp)
{
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    const bool accumulate = g->accumulate || p > 0;
    REAL turned[EK_TILE_MOST_ROWS * EK_TILE_MOST_COLUMNS];
    REAL *c = g->transposed ? turned : g->c + i * g->ldc + j, *home = g->c + j * g->ldc + i;
    const int64_t ldc = g->transposed ? columns : g->ldc;
    if (g->transposed && accumulate)
        FN(transpose)(columns, rows, home, g->ldc, turned, ldc);
    if (g->left.by_terms)
        tile->multiply_columns(rows, columns, k, g->left.x + p * g->left.ld + i, g->left.ld, panel, ldp, c, ldc,
                               accumulate);
    else
        tile->multiply_rows(rows, columns, k, g->left.x + i * g->left.ld + p, g->left.ld, panel, ldp, c, ldc,
                            accumulate);
    if (g->transposed)
        FN(transpose)(rows, columns, turned, ldc, home, g->ldc);
}

/* A few rows of C: no row or column is used often enough to be laid out for it. */
static void FN(multiply_dots)(const FN(tiled) *g)
{
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    for (int64_t j = 0; j < g->n; j += tile->dot_columns)
        for (int64_t i = 0; i < g->m; i += tile->dot_rows)
            tile->dot((int)smaller(tile->dot_rows, g->m - i), (int)smaller(tile->dot_columns, g->n - j), g->k,
                      g->left.x + i * g->left.ld, g->left.ld, g->right.x + j * g->right.ld, g->right.ld, NULL,
                      g->c + i * g->ldc + j, g->ldc, g->accumulate);
}

static void FN(multiply_tiled)(const FN(tiled) *g)
{
    const FN(ek_tile_kernels) *tile = FN(ek_tile)();
    REAL packed[PACKED_BYTES / sizeof(REAL)];
    const int64_t widest = panel_width(g->n, tile->lanes);
    const int64_t depth = g->transposed ? PACKED_BYTES / (int64_t)sizeof(REAL) / widest : DEPTH;
    for (int64_t p = 0; p < g->k; p += depth) {
        const int64_t k = smaller(depth, g->k - p);
        for (int64_t first = 0; first < g->m; first += MOST_ROWS) {
            const int64_t end = smaller(first + MOST_ROWS, g->m);
            for (int64_t j = 0, columns; j < g->n; j += columns) {
                columns = smaller(panel_width(g->n - j, tile->lanes), g->n - j);
                const bool direct = g->right.by_terms && columns % tile->lanes == 0;
                if (!direct)
                    FN(pack)(&g->right, j, columns, p, k, packed, widest);
                for (int64_t i = first; i < end; i += tile->rows)
                    FN(tile)(g, i, (int)smaller(tile->rows, end - i), j, (int)columns, p, k,
                             direct ? g->right.x + p * g->right.ld + j : packed, direct ? g->right.ld : widest);
            }
        }
    }
}

void FN(ek_gemm_tiled)(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const REAL *a, int64_t lda,
                       const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    FN(tiled) g = {.left = {a, lda, transpose_a}, .right = {b, ldb, !transpose_b}, .m = m, .n = n, .k = k, .c = c,
                   .ldc = ldc, .accumulate = accumulate};
    if (transpose_b && !transpose_a && m < n && m > DOT_ROWS && m <= FEW_ROWS) {
        const FN(factor) other = g.left;
        g.left = g.right;
        g.right = other;
        g.m = n;
        g.n = m;
        g.transposed = true;
    }
    if (transpose_b && !transpose_a && m <= DOT_ROWS)
        FN(multiply_dots)(&g);
    else
        FN(multiply_tiled)(&g);
}

#else
#include "gemm_tile.h"
#include "tile.h"

#include <float.h>

/* Terms of a piece: its panel stays in the first-level cache, the part of MOST_ROWS rows that goes over it in the second.
 * The panel is longer for the few rows whose product is transposed, which has to be read and written for every piece. */
enum { DEPTH = 128, MOST_ROWS = 256, PACKED_BYTES = 64 << 10 };
/* Rows that do not pay for transposing the other factor; and those that do not pay for a panel of their own. */
enum { FEW_ROWS = 64, DOT_ROWS = 4 };

/* Measured: smaller products are faster by OpenBLAS, which has kernels for them, and so may be all where vectors have 16
 * bytes. */
enum { LEAST_ROWS = 16, LEAST_COLUMNS = 32, LEAST_TERMS = 64, LEAST_WORK = 1 << 18, LEAST_LANES = 8 };

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Columns of the next panel out of n: vectors dealt out so that no panel is much narrower than the others. */
static int64_t panel_width(int64_t n, int lanes)
{
    const int64_t vectors = (n + lanes - 1) / lanes, panels = (vectors + 2) / 3;
    return (vectors + panels - 1) / panels * lanes;
}

bool ek_gemm_prefers_tiles(int64_t m, int64_t n, int64_t k)
{
    return m >= LEAST_ROWS && n >= LEAST_COLUMNS && k >= LEAST_TERMS && (double)m * (double)n * (double)k >= LEAST_WORK &&
           ek_tile_f32()->lanes >= LEAST_LANES;
}

#define OP_FILE "gemm_tiled.c"
#include "foreach_real.h"
#endif
