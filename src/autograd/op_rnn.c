/* The cell of Elman's RNN (1990): h = f(in + rec + b_hh), f = tanh or max(·, 0).  recurrent.c runs it over all steps.
 * Expands to rnn_update_f32, rnn_update_backward_f32 and their _f64 twins. */
#ifdef REAL
#include "vector_math.h"

/* in, rec, bias, h: [H]. */
EK_KERNEL static void FN(rnn_update)(const FN(cell_row) *row)
{
    for (int64_t j = 0; j < row->hidden; j++) {
        const REAL a = row->in[j] + row->rec[j] + (row->bias ? row->bias[j] : 0);
        row->h[j] = !row->relu ? FN(real_tanh)(a) : a < 0 ? 0 : a;
    }
}

/* da = dh·(1 − h²), or dh where h > 0. */
EK_KERNEL static void FN(rnn_update_backward)(const FN(cell_row) *row)
{
    for (int64_t j = 0; j < row->hidden; j++) {
        const REAL h = row->h[j];
        row->d_in[j] = !row->relu ? row->dh[j] * (1 - h * h) : h <= 0 ? 0 : row->dh[j];
    }
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
