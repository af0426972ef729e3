/* The cell of an LSTM (Hochreiter and Schmidhuber 1997, with a forget gate), gates in PyTorch's order i, f, g, o:
 *
 *   a = in + rec + b_hh;  c = σ(a_f)·c_before + σ(a_i)·tanh(a_g);  h = σ(a_o)·tanh(c_shown)
 *
 * Kept for the backward: σ(a_i), σ(a_f), tanh(a_g), σ(a_o), tanh(c_shown).  recurrent.c runs it over all steps.
 * Expands to lstm_update_f32, lstm_show_f32, … and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* Gates and c of one row; in, rec, bias: [4H], c_before, c: [H], kept: [5H]. */
EK_KERNEL static void FN(lstm_update)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *in = row->in, *rec = row->rec, *bias = row->bias, *c_before = row->c_before;
    REAL *kept = row->kept, *c = row->c;
    for (int64_t j = 0; j < 4 * n; j++)
        kept[j] = in[j] + rec[j] + (bias ? bias[j] : 0);
    for (int64_t j = 0; j < 2 * n; j++)
        kept[j] = FN(real_sigmoid)(kept[j]);
    for (int64_t j = 2 * n; j < 3 * n; j++)
        kept[j] = FN(real_tanh)(kept[j]);
    for (int64_t j = 3 * n; j < 4 * n; j++)
        kept[j] = FN(real_sigmoid)(kept[j]);
    for (int64_t j = 0; j < n; j++)
        c[j] = kept[n + j] * c_before[j] + kept[j] * kept[2 * n + j];
}

/* h = o·tanh(c_shown). */
EK_KERNEL static void FN(lstm_show)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    REAL *kept = row->kept;
    for (int64_t j = 0; j < n; j++) {
        kept[4 * n + j] = FN(real_tanh)(row->c_shown[j]);
        row->h[j] = kept[3 * n + j] * kept[4 * n + j];
    }
}

/* da_o = dh·tanh(c_shown)·o·(1 − o);  dc_shown = dh·o·(1 − tanh²(c_shown)). */
EK_KERNEL static void FN(lstm_show_backward)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *o = row->kept + 3 * n, *t = row->kept + 4 * n;
    for (int64_t j = 0; j < n; j++) {
        const REAL dh = row->dh[j];
        row->d_in[3 * n + j] = dh * t[j] * o[j] * (1 - o[j]);
        row->dc_shown[j] = dh * o[j] * (1 - t[j] * t[j]);
    }
}

/* da_i = dc·g·i·(1 − i);  da_f = dc·c_before·f·(1 − f);  da_g = dc·i·(1 − g²);  dc_before = dc·f.  All [H].  A function
 * of its own since compilers heed `restrict` in parameters, and find too many pointers to compare without it. */
EK_INLINE void FN(lstm_gate_gradients)(int64_t n, const REAL *i, const REAL *f, const REAL *g, const REAL *c_before,
                                       REAL *restrict da_i, REAL *restrict da_f, REAL *restrict da_g,
                                       REAL *restrict dc)
{
    for (int64_t j = 0; j < n; j++) {
        da_i[j] = dc[j] * g[j] * i[j] * (1 - i[j]);
        da_f[j] = dc[j] * c_before[j] * f[j] * (1 - f[j]);
        da_g[j] = dc[j] * i[j] * (1 - g[j] * g[j]);
        dc[j] *= f[j];
    }
}

EK_KERNEL static void FN(lstm_update_backward)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *i = row->kept, *f = i + n, *g = f + n;
    FN(lstm_gate_gradients)(n, i, f, g, row->c_before, row->d_in, row->d_in + n, row->d_in + 2 * n, row->dc);
}

#else
#include "recurrent.h"
#define OP_FILE "op_lstm.c"
#include "foreach_real.h"

static const ek_cell lstm_cell = {
    .op = EK_CELL_OP("lstm"),
    .gates = 4,
    .kept = 5,
    .has_c = true,
    .segments = 1,
    .segment_gates = {4},
    .update_f32 = lstm_update_f32,
    .update_f64 = lstm_update_f64,
    .show_f32 = lstm_show_f32,
    .show_f64 = lstm_show_f64,
    .show_backward_f32 = lstm_show_backward_f32,
    .show_backward_f64 = lstm_show_backward_f64,
    .update_backward_f32 = lstm_update_backward_f32,
    .update_backward_f64 = lstm_update_backward_f64,
};
const ek_op *const ek_op_lstm = &lstm_cell.op;
#endif
