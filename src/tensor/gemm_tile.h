/* The serial products under ek_gemm: C = op(A)·op(B) + (accumulate ? C : 0) in the calling thread, for m, n, k ≥ 1 and row
 * strides no shorter than the rows as stored.  May be called from several threads at once; the bits depend on m, n, k,
 * the transposes and the values alone. */
#ifndef EK_GEMM_TILE_H
#define EK_GEMM_TILE_H

#include "core.h"

/* On register tiles (gemm_tiled.c). */
void ek_gemm_tiled_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                       const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate);
void ek_gemm_tiled_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double *a,
                       int64_t lda, const double *b, int64_t ldb, double *c, int64_t ldc, bool accumulate);
/* Is it faster that way than by OpenBLAS on this machine? */
bool ek_gemm_prefers_tiles(int64_t m, int64_t n, int64_t k);

#ifdef EK_BLAS
/* By OpenBLAS (gemm_blas.c), which counts in int. */
void ek_gemm_blas_f32(bool transpose_a, bool transpose_b, int m, int n, int k, const float *a, int lda, const float *b,
                      int ldb, float *c, int ldc, bool accumulate);
void ek_gemm_blas_f64(bool transpose_a, bool transpose_b, int m, int n, int k, const double *a, int lda,
                      const double *b, int ldb, double *c, int ldc, bool accumulate);
#endif

#endif
