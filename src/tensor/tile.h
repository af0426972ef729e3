/* Tiles of matrix products whose sums stay in registers, for loops that lay out their own operands: convolution, the
 * steps of a recurrent net, products too small for BLAS.  A table of kernels per instruction set, chosen at run time.
 *
 * Every element of c is one sum in the order of p (multiply), or in `lanes` partial sums folded by a fixed tree (dot),
 * whatever tile it falls in: on one machine its bits depend on nothing else. */
#ifndef EK_TILE_H
#define EK_TILE_H

#include "core.h"

/* The largest tile on any machine, for memory that has to hold one. */
enum { EK_TILE_MOST_ROWS = 8, EK_TILE_MOST_COLUMNS = 48 };

#define EK_TILE(REAL, NAME)                                                                                            \
    typedef struct NAME {                                                                                              \
        int lanes;                 /* of a vector */                                                                   \
        int rows, columns;         /* of the largest tile of multiply; columns = 3·lanes */                            \
        int dot_rows, dot_columns; /* of the largest tile of dot */                                                    \
        /* c[i·ldc + j] = (accumulate ? c : 0) + Σ_p a[p·rows + i]·b[at(p) + j] for i < rows, j < columns, p < k, with \
         * at(p) = offset[p], or p·ldb where offset is NULL.  1 ≤ rows, columns ≤ those above.  b is read up to the    \
         * next whole vector after `columns`; c is not touched beyond them. */                                         \
        void (*multiply)(int rows, int columns, int64_t k, const REAL *a, const REAL *b, int64_t ldb,                  \
                         const int64_t *offset, REAL *c, int64_t ldc, bool accumulate);                                \
        /* The same with a as a matrix has it, a[i·lda + p], or its transpose, a[p·lda + i]. */                        \
        void (*multiply_rows)(int rows, int columns, int64_t k, const REAL *a, int64_t lda, const REAL *b,             \
                              int64_t ldb, REAL *c, int64_t ldc, bool accumulate);                                     \
        void (*multiply_columns)(int rows, int columns, int64_t k, const REAL *a, int64_t lda, const REAL *b,          \
                                 int64_t ldb, REAL *c, int64_t ldc, bool accumulate);                                  \
        /* c[i·ldc + j] = (accumulate ? c : 0) + Σ_q a[i·lda + q]·b[at(j) + q] for q < n, with at(j) as above. */      \
        void (*dot)(int rows, int columns, int64_t n, const REAL *a, int64_t lda, const REAL *b, int64_t ldb,          \
                    const int64_t *offset, REAL *c, int64_t ldc, bool accumulate);                                     \
    } NAME;
EK_TILE(float, ek_tile_kernels_f32)
EK_TILE(double, ek_tile_kernels_f64)
#undef EK_TILE

/* The kernels of this machine; they live for ever. */
const ek_tile_kernels_f32 *ek_tile_f32(void);
const ek_tile_kernels_f64 *ek_tile_f64(void);

#endif
