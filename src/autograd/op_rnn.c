/* The cell of Elman's RNN (1990): h = f(in + rec + b_hh), f = tanh or max(·, 0).  recurrent.c runs it over all steps.
 * Expands to rnn_update_f32, rnn_update_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* in, rec, bias, h: [H]. */
EK_KERNEL static void FN(rnn_update)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *in = row->in, *rec = row->rec, *bias = row->bias;
    REAL *restrict h = row->h;
    for (int64_t j = 0; j < n; j++)
        h[j] = in[j] + rec[j] + (bias ? bias[j] : 0);
    if (row->relu)
        for (int64_t j = 0; j < n; j++)
            h[j] = h[j] < 0 ? 0 : h[j];
    else
        for (int64_t j = 0; j < n; j++)
            h[j] = FN(real_tanh)(h[j]);
}

/* da = dh·(1 − h²), or dh where h > 0. */
EK_KERNEL static void FN(rnn_update_backward)(const FN(cell_row) *row)
{
    const int64_t n = row->hidden;
    const REAL *h = row->h, *dh = row->dh;
    REAL *restrict da = row->d_in;
    if (row->relu)
        for (int64_t j = 0; j < n; j++)
            da[j] = h[j] <= 0 ? 0 : dh[j];
    else
        for (int64_t j = 0; j < n; j++)
            da[j] = dh[j] * (1 - h[j] * h[j]);
}

#else
#include "recurrent.h"
#define OP_FILE "op_rnn.c"
#include "foreach_real.h"

static const ek_cell rnn_cell = {
    .op = EK_CELL_OP("rnn"),
    .gates = 1,
    .segments = 1,
    .segment_gates = {1},
    .update_f32 = rnn_update_f32,
    .update_f64 = rnn_update_f64,
    .update_backward_f32 = rnn_update_backward_f32,
    .update_backward_f64 = rnn_update_backward_f64,
};
const ek_op *const ek_op_rnn = &rnn_cell.op;
#endif
