/* The cell of a GRU (Cho et al. 2014) as PyTorch has it, gates in the order r, z, n:
 *
 *   r, z = σ(in + rec + b_hh);  m = rec_n + b_hn;  n = tanh(in_n + r·m);  h = (1 − z)·n + z·h_before
 *
 * Kept for the backward: r, z, n, m.  recurrent.c runs it over all steps.  Expands to gru_update_f32,
 * gru_update_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* h of one row; in, rec, bias: [3H], h_before, h: [H], kept: [4H]. */
EK_KERNEL static void FN(gru_update)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *in = row->in, *rec = row->rec, *bias = row->bias;
    REAL *kept = row->kept;
    for (int64_t j = 0; j < 2 * n; j++)
        kept[j] = FN(real_sigmoid)(in[j] + rec[j] + (bias ? bias[j] : 0));
    for (int64_t j = 0; j < n; j++) {
        const REAL m = rec[2 * n + j] + (bias ? bias[2 * n + j] : 0);
        const REAL candidate = FN(real_tanh)(in[2 * n + j] + kept[j] * m), z = kept[n + j];
        kept[2 * n + j] = candidate;
        kept[3 * n + j] = m;
        row->h[j] = (1 - z) * candidate + z * row->h_before[j];
    }
}

/* da_z = dh·(h_before − n)·z·(1 − z);  da_n = dh·(1 − z)·(1 − n²);  dm = da_n·r;  da_r = da_n·m·r·(1 − r);
 * dh_before = dh·z. */
EK_KERNEL static void FN(gru_update_backward)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *r = row->kept, *z = r + n, *candidate = z + n, *m = candidate + n;
    for (int64_t j = 0; j < n; j++) {
        const REAL dh = row->dh[j];
        const REAL da_z = dh * (row->h_before[j] - candidate[j]) * z[j] * (1 - z[j]);
        const REAL da_n = dh * (1 - z[j]) * (1 - candidate[j] * candidate[j]);
        const REAL da_r = da_n * m[j] * r[j] * (1 - r[j]);
        row->d_in[j] = row->d_rec[j] = da_r;
        row->d_in[n + j] = row->d_rec[n + j] = da_z;
        row->d_in[2 * n + j] = da_n;
        row->d_rec[2 * n + j] = da_n * r[j];
        row->dh[j] = dh * z[j];
    }
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
