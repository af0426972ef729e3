/* Serial tiles in plain C, for builds without BLAS.  Expands to ek_gemm_tile_f32 and ek_gemm_tile_f64.
 *
 * B is packed into panels of PANEL_K × PANEL_N, which stay in the first-level cache while ROWS rows of A run over them;
 * the ROWS × PANEL_N sums live in registers (Goto and van de Geijn 2008, without the packing of A). */
#ifdef REAL /* kernels: this part is compiled once per dtype */

/* 64 bytes of REAL: one AVX-512 register, two of AVX2, four of SSE2. */
typedef REAL FN(lanes) __attribute__((vector_size(64)));
#define PANEL_N ((int)(64 / sizeof(REAL)))

/* panel [k, PANEL_N] = op(B)[0…k, 0…n], zeros to the right of n ≤ PANEL_N.  Element (p, j) is b[p·row + j·column]. */
static inline void FN(pack)(int k, int n, const REAL *b, int64_t row, int64_t column, FN(lanes) * panel)
{
    REAL *out = (REAL *)panel;
    for (int p = 0; p < k; p++)
        for (int j = 0; j < PANEL_N; j++)
            out[p * PANEL_N + j] = j < n ? b[p * row + j * column] : 0;
}

/* c[0…rows, 0…n] += or = Σ_p A[i, p]·panel[p, :].  A's element (i, p) is a[i·row + p·column]; rows ≤ ROWS.  Missing
 * rows are computed from the last one and dropped, so every element sees the same sums in the same order. */
static inline void FN(micro)(int rows, int n, int k, const REAL *a, int64_t row, int64_t column,
                             const FN(lanes) * panel, REAL *c, int64_t ldc, bool accumulate)
{
    const REAL *a0 = a, *a1 = a + (rows > 1 ? 1 : 0) * row, *a2 = a + (rows > 2 ? 2 : rows - 1) * row;
    const REAL *a3 = a + (rows > 3 ? 3 : rows - 1) * row;
    FN(lanes) sum[ROWS] = {{0}};
    for (int p = 0; p < k; p++) {
        FN(lanes) b = panel[p];
        sum[0] += a0[p * column] * b;
        sum[1] += a1[p * column] * b;
        sum[2] += a2[p * column] * b;
        sum[3] += a3[p * column] * b;
    }
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < n; j++)
            c[i * ldc + j] = accumulate ? c[i * ldc + j] + sum[i][j] : sum[i][j];
}

EK_KERNEL static void FN(tile)(bool transpose_a, bool transpose_b, int m, int n, int k, const REAL *a, int64_t lda,
                               const REAL *b, int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    FN(lanes) panel[PANEL_K];
    int64_t a_row = transpose_a ? 1 : lda, a_column = transpose_a ? lda : 1;
    int64_t b_row = transpose_b ? 1 : ldb, b_column = transpose_b ? ldb : 1;
    for (int p = 0; p < k; p += PANEL_K) {
        int depth = k - p < PANEL_K ? k - p : PANEL_K;
        for (int j = 0; j < n; j += PANEL_N) {
            int width = n - j < PANEL_N ? n - j : PANEL_N;
            FN(pack)(depth, width, b + p * b_row + j * b_column, b_row, b_column, panel);
            for (int i = 0; i < m; i += ROWS)
                FN(micro)(m - i < ROWS ? m - i : ROWS, width, depth, a + i * a_row + p * a_column, a_row, a_column,
                          panel, c + i * ldc + j, ldc, accumulate || p > 0);
        }
    }
}

void FN(ek_gemm_tile)(bool transpose_a, bool transpose_b, int m, int n, int k, const REAL *a, int lda, const REAL *b,
                      int ldb, REAL *c, int ldc, bool accumulate)
{
    FN(tile)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate);
}
#undef PANEL_N

#else
#include "gemm_tile.h"

#include <float.h>

enum { ROWS = 4, PANEL_K = 256 };

#define OP_FILE "gemm_plain.c"
#include "foreach_real.h"

const char *ek_gemm_backend(void)
{
    return "built-in";
}
#endif
