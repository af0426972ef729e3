/* The serial product under ek_gemm: CMake compiles gemm_blas.c or gemm_plain.c. */
#ifndef EK_GEMM_TILE_H
#define EK_GEMM_TILE_H

#include "core.h"

/* C = op(A)·op(B) + (accumulate ? C : 0) in the calling thread, for m, n, k ≥ 1 and row strides no shorter than the
 * rows as stored.  BLAS counts in int, hence the types.  May be called from several threads at once; the bits depend on
 * m, n, k, the transposes and the values alone. */
void ek_gemm_tile_f32(bool transpose_a, bool transpose_b, int m, int n, int k, const float *a, int lda, const float *b,
                      int ldb, float *c, int ldc, bool accumulate);
void ek_gemm_tile_f64(bool transpose_a, bool transpose_b, int m, int n, int k, const double *a, int lda,
                      const double *b, int ldb, double *c, int ldc, bool accumulate);

#endif
