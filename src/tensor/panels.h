/* Products whose right-hand matrix is laid out once and used many times: a recurrent net's weights, over all steps.
 * Panels are the columns of a k×n matrix in groups as wide as a register tile (tile.h), [k][columns] each, one after
 * the other; the last is filled up with zeros.
 *
 * Every element of a product is one sum in the order of k: its bits do not depend on the rows computed with it. */
#ifndef EK_PANELS_H
#define EK_PANELS_H

#include "core.h"

/* Elements that the panels of a k×n matrix take. */
int64_t ek_panels_size_f32(int64_t n, int64_t k);
int64_t ek_panels_size_f64(int64_t n, int64_t k);
/* The panels of op(B), in parallel: B is k×n as stored, n×k where it is to be transposed; ldb its row stride. */
void ek_panels_pack_f32(bool transpose, int64_t n, int64_t k, const float *b, int64_t ldb, float *panels);
void ek_panels_pack_f64(bool transpose, int64_t n, int64_t k, const double *b, int64_t ldb, double *panels);
/* C (m×n, row stride ldc) = A·B + (accumulate ? C : 0) in the calling thread; A: m×k, row stride lda. */
void ek_panels_multiply_f32(int64_t m, int64_t n, int64_t k, const float *a, int64_t lda, const float *panels, float *c,
                            int64_t ldc, bool accumulate);
void ek_panels_multiply_f64(int64_t m, int64_t n, int64_t k, const double *a, int64_t lda, const double *panels,
                            double *c, int64_t ldc, bool accumulate);

#endif
