/* Matrix products for ops.  Expands to ek_node_gemm_f32 and ek_node_gemm_f64. */
#ifdef REAL

ek_status FN(ek_node_gemm)(ek_node *node, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                           const REAL *a, int64_t lda, const REAL *b, int64_t ldb, REAL *c, int64_t ldc,
                           bool accumulate)
{
    size_t bytes = FN(ek_gemm_scratch)(m, n, k);
    void *scratch = bytes ? ek_node_scratch(node, bytes) : NULL;
    if (bytes && !scratch)
        return EK_ERR_MEMORY;
    FN(ek_gemm_into)(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, c, ldc, accumulate, scratch);
    return EK_OK;
}

#else
#include "op.h"
#define OP_FILE "matrix.c"
#include "foreach_real.h"
#endif
