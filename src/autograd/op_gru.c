/* The cell of a GRU (Cho et al. 2014) as PyTorch has it, gates in the order r, z, n:
 *
 *   r, z = σ(in + rec + b_hh);  m = rec_n + b_hn;  n = tanh(in_n + r·m);  h = (1 − z)·n + z·h_before
 *
 * Kept for the backward: r, z, n, m.  recurrent.c runs it over all steps.  Expands to gru_update_f32,
 * gru_update_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* n and h from the other gates; all [H], bias may be NULL.  A function of its own, as the one below, since compilers heed
 * `restrict` in parameters, and find too many pointers to compare without it. */
EK_INLINE void FN(gru_candidate)(int64_t n, const REAL *in, const REAL *rec, const REAL *bias, const REAL *r,
                                 const REAL *z, const REAL *h_before, REAL *restrict candidate, REAL *restrict m,
                                 REAL *restrict h)
{
    for (int64_t j = 0; j < n; j++) {
        m[j] = rec[j] + (bias ? bias[j] : 0);
        candidate[j] = FN(real_tanh)(in[j] + r[j] * m[j]);
        h[j] = (1 - z[j]) * candidate[j] + z[j] * h_before[j];
    }
}

/* h of one row; in, rec, bias: [3H], h_before, h: [H], kept: [4H]. */
EK_KERNEL static void FN(gru_update)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *in = row->in, *rec = row->rec, *bias = row->bias;
    REAL *kept = row->kept;
    for (int64_t j = 0; j < 2 * n; j++)
        kept[j] = FN(real_sigmoid)(in[j] + rec[j] + (bias ? bias[j] : 0));
    FN(gru_candidate)(n, in + 2 * n, rec + 2 * n, bias ? bias + 2 * n : NULL, kept, kept + n, row->h_before,
                      kept + 2 * n, kept + 3 * n, row->h);
}

/* da_z = dh·(h_before − n)·z·(1 − z);  da_n = dh·(1 − z)·(1 − n²);  dm = da_n·r;  da_r = da_n·m·r·(1 − r);
 * dh_before = dh·z. */
EK_INLINE void FN(gru_gate_gradients)(int64_t n, const REAL *r, const REAL *z, const REAL *candidate, const REAL *m,
                                      const REAL *h_before, REAL *restrict da_r, REAL *restrict da_z,
                                      REAL *restrict da_n, REAL *restrict dm, REAL *restrict dh)
{
    for (int64_t j = 0; j < n; j++) {
        da_z[j] = dh[j] * (h_before[j] - candidate[j]) * z[j] * (1 - z[j]);
        da_n[j] = dh[j] * (1 - z[j]) * (1 - candidate[j] * candidate[j]);
        da_r[j] = da_n[j] * m[j] * r[j] * (1 - r[j]);
        dm[j] = da_n[j] * r[j];
        dh[j] *= z[j];
    }
}

EK_KERNEL static void FN(gru_update_backward)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *r = row->kept, *z = r + n, *candidate = z + n, *m = candidate + n;
    REAL *da_r = row->d_in;
    FN(gru_gate_gradients)(n, r, z, candidate, m, row->h_before, da_r, da_r + n, da_r + 2 * n, row->d_rec + 2 * n,
                           row->dh);
    memcpy(row->d_rec, da_r, (size_t)(2 * n) * sizeof *da_r);
}

#else
#include "recurrent.h"
#define OP_FILE "op_gru.c"
#include "foreach_real.h"

static const ek_cell gru_cell = {
    .op = EK_CELL_OP("gru"),
    .gates = 3,
    .kept = 4,
    .splits = true,
    .bypasses = true,
    .segments = 2,
    .segment_gates = {2, 1},
    .update_f32 = gru_update_f32,
    .update_f64 = gru_update_f64,
    .update_backward_f32 = gru_update_backward_f32,
    .update_backward_f64 = gru_update_backward_f64,
};
const ek_op *const ek_op_gru = &gru_cell.op;
#endif
