/* The kernels of tile.h for one float type and one instruction set: included by tile.c, hence no include guard.
 *   TILE(name)    the name of this copy     TARGET   function attribute that allows the instructions
 *   VECTOR_BYTES  of a register             ROWS, DOT_ROWS, DOT_COLUMNS   sums that fit in registers
 * All loops over a tile have constant bounds in the copies below and are unrolled, so that sums become registers. */

typedef REAL TILE(vector) __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
#define LANES ((int)(VECTOR_BYTES / sizeof(REAL)))

/* FOLD(v): lane l of v[0] becomes the sum of the lanes of v[l], by halves.  Of two vectors of blocks of 2·HALF lanes,
 * FOLD_HALVES makes one whose blocks are those of both, folded to HALF lanes. */
#define LOWER(LANE, HALF) ((LANE) / (HALF) * 2 * (HALF) + (LANE) % (HALF))
#define LOWER_2(L, HALF, ADD) LOWER(L, HALF) + (ADD), LOWER((L) + 1, HALF) + (ADD)
#define LOWER_4(L, HALF, ADD) LOWER_2(L, HALF, ADD), LOWER_2((L) + 2, HALF, ADD)
#define LOWER_8(L, HALF, ADD) LOWER_4(L, HALF, ADD), LOWER_4((L) + 4, HALF, ADD)
#define LOWER_16(L, HALF, ADD) LOWER_8(L, HALF, ADD), LOWER_8((L) + 8, HALF, ADD)
#define FOLD_HALVES(v, HALF, INDICES)                                                                                  \
    UNROLL for (int f = 0; f < (HALF); f++)                                                                            \
        v[f] = __builtin_shufflevector(v[2 * f], v[2 * f + 1], INDICES(0, HALF, 0)) +                                  \
               __builtin_shufflevector(v[2 * f], v[2 * f + 1], INDICES(0, HALF, HALF));
#if VECTOR_BYTES == 64 && REAL_IS_F32
#define FOLD(v)                                                                                                        \
    do {                                                                                                               \
        FOLD_HALVES(v, 8, LOWER_16) FOLD_HALVES(v, 4, LOWER_16) FOLD_HALVES(v, 2, LOWER_16)                            \
        FOLD_HALVES(v, 1, LOWER_16)                                                                                    \
    } while (0)
#elif VECTOR_BYTES == 64 || (VECTOR_BYTES == 32 && REAL_IS_F32)
#define FOLD(v)                                                                                                        \
    do {                                                                                                               \
        FOLD_HALVES(v, 4, LOWER_8) FOLD_HALVES(v, 2, LOWER_8) FOLD_HALVES(v, 1, LOWER_8)                               \
    } while (0)
#elif VECTOR_BYTES == 32 || REAL_IS_F32
#define FOLD(v)                                                                                                        \
    do {                                                                                                               \
        FOLD_HALVES(v, 2, LOWER_4) FOLD_HALVES(v, 1, LOWER_4)                                                          \
    } while (0)
#else
#define FOLD(v)                                                                                                        \
    do {                                                                                                               \
        FOLD_HALVES(v, 1, LOWER_2)                                                                                     \
    } while (0)
#endif

/* Σ_p of rows × vectors·LANES elements; element (i, p) of a is a[i·a_row + p·a_step]. */
TARGET static inline INLINE void TILE(sums)(const int rows, const int vectors, int64_t k, const REAL *a, int64_t a_row,
                                            int64_t a_step, const REAL *b, int64_t ldb, const int64_t *offset, REAL *c,
                                            int64_t ldc, bool accumulate)
{
    TILE(vector) sum[ROWS][VECTORS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            sum[i][v] = accumulate ? *(const TILE(vector) *)(c + i * ldc + v * LANES) : (TILE(vector)){0};
    for (int64_t p = 0; p < k; p++) {
        const REAL *row = b + (offset ? offset[p] : p * ldb);
        TILE(vector) x[VECTORS];
        UNROLL for (int v = 0; v < vectors; v++)
            x[v] = *(const TILE(vector) *)(row + v * LANES);
        UNROLL for (int i = 0; i < rows; i++) {
            const REAL w = a[i * a_row + p * a_step];
            UNROLL for (int v = 0; v < vectors; v++)
                sum[i][v] += w * x[v];
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++)
            *(TILE(vector) *)(c + i * ldc + v * LANES) = sum[i][v];
}

/* The same by rows and vectors known at run time; element (i, p) of a is a[i·lda + p], or a[p·lda + i]. */
TARGET static inline INLINE void TILE(whole_vectors)(int rows, int vectors, int64_t k, const REAL *a,
                                                     const bool by_rows, int64_t lda, const REAL *b, int64_t ldb,
                                                     const int64_t *offset, REAL *c, int64_t ldc, bool accumulate)
{
#ifdef EK_ONE_TILE
    TILE(sums)(rows, vectors, k, a, by_rows ? lda : 1, by_rows ? 1 : lda, b, ldb, offset, c, ldc, accumulate);
#else
#define ONE(R, V)                                                                                                      \
    case (R) * VECTORS + (V):                                                                                          \
        TILE(sums)((R) <= ROWS ? (R) : ROWS, V, k, a, by_rows ? lda : 1, by_rows ? 1 : lda, b, ldb, offset, c, ldc,    \
                   accumulate);                                                                                        \
        break;
#define THREE(R) ONE(R, 1) ONE(R, 2) ONE(R, 3)
    switch (rows * VECTORS + vectors) {
        THREE(1) THREE(2) THREE(3) THREE(4)
#if ROWS > 4
        THREE(5) THREE(6) THREE(7) THREE(8)
#endif
    default:
        break;
    }
#undef THREE
#undef ONE
#endif
}

/* The same by columns: a part of a vector is computed whole, in memory that has room. */
TARGET static inline INLINE void TILE(any_columns)(int rows, int columns, int64_t k, const REAL *a, const bool by_rows,
                                                   int64_t lda, const REAL *b, int64_t ldb, const int64_t *offset,
                                                   REAL *c, int64_t ldc, bool accumulate)
{
    const int vectors = (columns + LANES - 1) / LANES, padded = vectors * LANES;
    REAL whole[ROWS * VECTORS * LANES];
    for (int i = 0; columns < padded && accumulate && i < rows; i++)
        memcpy(whole + i * padded, c + i * ldc, (size_t)columns * sizeof(REAL));
    TILE(whole_vectors)(rows, vectors, k, a, by_rows, lda, b, ldb, offset, columns < padded ? whole : c,
                        columns < padded ? padded : ldc, accumulate);
    for (int i = 0; columns < padded && i < rows; i++)
        memcpy(c + i * ldc, whole + i * padded, (size_t)columns * sizeof(REAL));
}

TARGET static __attribute__((noinline)) void TILE(by_columns)(int rows, int columns, int64_t k, const REAL *a,
                                                              int64_t lda, const REAL *b, int64_t ldb,
                                                              const int64_t *offset, REAL *c, int64_t ldc,
                                                              bool accumulate)
{
    TILE(any_columns)(rows, columns, k, a, false, lda, b, ldb, offset, c, ldc, accumulate);
}

TARGET static void TILE(multiply)(int rows, int columns, int64_t k, const REAL *a, const REAL *b, int64_t ldb,
                                  const int64_t *offset, REAL *c, int64_t ldc, bool accumulate)
{
    TILE(by_columns)(rows, columns, k, a, rows, b, ldb, offset, c, ldc, accumulate);
}

TARGET static void TILE(multiply_rows)(int rows, int columns, int64_t k, const REAL *a, int64_t lda, const REAL *b,
                                       int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    TILE(any_columns)(rows, columns, k, a, true, lda, b, ldb, NULL, c, ldc, accumulate);
}

TARGET static void TILE(multiply_columns)(int rows, int columns, int64_t k, const REAL *a, int64_t lda, const REAL *b,
                                          int64_t ldb, REAL *c, int64_t ldc, bool accumulate)
{
    TILE(by_columns)(rows, columns, k, a, lda, b, ldb, NULL, c, ldc, accumulate);
}

/* The first n < LANES elements, then zeros. */
TARGET static inline TILE(vector) TILE(part)(const REAL *from, int64_t n)
{
    TILE(vector) x = {0};
    memcpy(&x, from, (size_t)n * sizeof(REAL));
    return x;
}

TARGET static inline INLINE void TILE(dots)(const int rows, const int columns, int64_t n, const REAL *a, int64_t lda,
                                            const REAL *const *b, REAL *c, int64_t ldc, bool accumulate)
{
    TILE(vector) sum[DOT_ROWS][DOT_COLUMNS], x[DOT_ROWS];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++)
            sum[i][j] = (TILE(vector)){0};
    const int64_t body = n - n % LANES;
    for (int64_t q = 0; q < body; q += LANES) {
        UNROLL for (int i = 0; i < rows; i++)
            x[i] = *(const TILE(vector) *)(a + i * lda + q);
        UNROLL for (int j = 0; j < columns; j++) {
            const TILE(vector) y = *(const TILE(vector) *)(b[j] + q);
            UNROLL for (int i = 0; i < rows; i++)
                sum[i][j] += x[i] * y;
        }
    }
    if (body < n) {
        UNROLL for (int i = 0; i < rows; i++)
            x[i] = TILE(part)(a + i * lda + body, n - body);
        UNROLL for (int j = 0; j < columns; j++) {
            const TILE(vector) y = TILE(part)(b[j] + body, n - body);
            UNROLL for (int i = 0; i < rows; i++)
                sum[i][j] += x[i] * y;
        }
    }
    REAL total[DOT_ROWS * DOT_COLUMNS + LANES];
    UNROLL for (int first = 0; first < rows * columns; first += LANES) {
        TILE(vector) v[LANES];
        UNROLL for (int l = 0; l < LANES; l++)
            v[l] = first + l < rows * columns ? sum[(first + l) / columns][(first + l) % columns] : (TILE(vector)){0};
        FOLD(v);
        memcpy(total + first, v, sizeof v[0]);
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int j = 0; j < columns; j++)
            c[i * ldc + j] = accumulate ? c[i * ldc + j] + total[i * columns + j] : total[i * columns + j];
}

TARGET static void TILE(dot)(int rows, int columns, int64_t n, const REAL *a, int64_t lda, const REAL *b, int64_t ldb,
                             const int64_t *offset, REAL *c, int64_t ldc, bool accumulate)
{
    const REAL *at[DOT_COLUMNS];
    for (int j = 0; j < DOT_COLUMNS; j++)
        at[j] = j < columns ? b + (offset ? offset[j] : j * ldb) : NULL;
#ifdef EK_ONE_TILE
    TILE(dots)(rows, columns, n, a, lda, at, c, ldc, accumulate);
#else
#define ONE(R, C)                                                                                                      \
    case (R) * DOT_COLUMNS + (C) - 1:                                                                                  \
        TILE(dots)(R, C, n, a, lda, at, c, ldc, accumulate);                                                           \
        break;
#if DOT_COLUMNS > 4
#define ALL(R) ONE(R, 1) ONE(R, 2) ONE(R, 3) ONE(R, 4) ONE(R, 5) ONE(R, 6)
#else
#define ALL(R) ONE(R, 1) ONE(R, 2) ONE(R, 3) ONE(R, 4)
#endif
    switch (rows * DOT_COLUMNS + columns - 1) {
        ALL(1) ALL(2) ALL(3)
#if DOT_ROWS > 3
        ALL(4)
#endif
    default:
        break;
    }
#undef ALL
#undef ONE
#endif
}

static const FN(ek_tile_kernels) TILE(kernels) = {
    .lanes = LANES, .rows = ROWS, .columns = VECTORS * LANES, .dot_rows = DOT_ROWS, .dot_columns = DOT_COLUMNS,
    .multiply = TILE(multiply), .multiply_rows = TILE(multiply_rows),
    .multiply_columns = TILE(multiply_columns), .dot = TILE(dot)};
#undef LANES
#undef FOLD
#undef FOLD_HALVES
#undef LOWER
#undef LOWER_2
#undef LOWER_4
#undef LOWER_8
#undef LOWER_16
