/* Recurrent ops: one op runs one layer in one direction over all steps.  recurrent.c is the driver (steps, matrix
 * products, norms inside the cell, gradients through time); an op file gives the cell's own arithmetic, forward and
 * backward (op_rnn.c, op_lstm.c, op_gru.c).
 *
 * Rows are those of ek_rows by step: at step s the rows first[s] … first[s] + count[s] − 1 are the sequences that have
 * this step, so row k of step s continues row k of step s − 1.  R = Σ lengths, N sequences, H hidden units; `gates`
 * blocks of H in a projection. */
#ifndef EK_RECURRENT_H
#define EK_RECURRENT_H

#include "sequence.h"

/* Inputs of a recurrent op; from CELL_BIAS_IH on NULL where left out. */
enum {
    CELL_PROJECTED, /* [R, gates·H] W_ih·x, and + b_ih without a norm */
    CELL_WEIGHT,    /* [gates·H, H] W_hh */
    CELL_BIAS_IH,   /* [gates·H] bias of the norm of W_ih·x */
    CELL_BIAS_HH,   /* [gates·H] b_hh, or the bias of the norm of W_hh·h */
    CELL_H0,        /* [N, H] */
    CELL_C0,        /* [N, H] */
    CELL_GAIN_IH,   /* [gates·H] */
    CELL_GAIN_HH,   /* [gates·H] */
    CELL_GAIN_C,    /* [H] */
    CELL_BIAS_C,    /* [H] */
    CELL_INPUTS
};

/* What is normalized: W_ih·x, W_hh·h, and the cell state on its way to the output. */
enum { SITE_IH, SITE_HH, SITE_C, CELL_SITES };

typedef enum cell_norm { CELL_NO_NORM, CELL_LAYER_NORM, CELL_BATCH_NORM } cell_norm;

/* The batch's statistics by step and unit, [steps][units of the site]; biased variances.  Set where a step has two rows
 * or more. */
typedef struct cell_report {
    double *mean[CELL_SITES], *var[CELL_SITES];
} cell_report;

typedef struct cell_attributes {
    const ek_rows *rows;
    cell_norm norm;
    double eps;
    bool relu; /* an RNN's f */
    /* BatchNorm: */
    bool batch_statistics; /* where a step has two rows or more; the running ones elsewhere */
    const ek_tensor *running_mean[CELL_SITES], *running_var[CELL_SITES]; /* [max_steps, units]; read in forward only */
    const int64_t *running_step; /* [steps] which of their rows stands for each step */
    cell_report *report;         /* NULL: not wanted */
} cell_attributes;

/* One row in the hands of a cell's kernels. */
#define EK_CELL_ROW(REAL, NAME)                                                                                        \
    typedef struct NAME {                                                                                              \
        int64_t hidden;              /* H */                                                                           \
        bool relu;                                                                                                     \
        const REAL *in, *rec;        /* [gates·H] the two projections, normalized where asked */                       \
        const REAL *bias;            /* [gates·H] b_hh; NULL without one, and with a norm, which has added it */       \
        const REAL *h_before, *c_before; /* [H] state of the step before */                                            \
        REAL *h, *c;                 /* [H] state of this step */                                                      \
        const REAL *c_shown;         /* [H] the cell state that h shows: c, or its norm */                             \
        REAL *kept;                  /* [kept·H] what backward needs again */                                          \
        REAL *dh;                    /* [H] in: dL/dh; out: dL/dh_before past W_hh, in cells that have it */           \
        REAL *dc;                    /* [H] in: dL/dc; out: dL/dc_before */                                            \
        REAL *dc_shown;              /* [H] dL/dc_shown */                                                             \
        REAL *d_in, *d_rec;          /* [gates·H] dL/din, dL/drec; one array in cells where they are the same */       \
    } NAME;
EK_CELL_ROW(float, cell_row_f32)
EK_CELL_ROW(double, cell_row_f64)

/* A cell.  Without a cell state: `update` makes h and `update_backward` all derivatives.  With one (an LSTM): `update`
 * makes the gates and c, `show` makes h of c_shown; backward, show_backward comes first. */
typedef struct ek_cell {
    ek_op op;
    int gates, kept;
    bool has_c;
    bool splits;   /* d_in and d_rec differ */
    bool bypasses; /* h_before also reaches h past W_hh */
    int segments, segment_gates[2]; /* LayerNorm takes these numbers of gates together */
    void (*update_f32)(const cell_row_f32 *row);
    void (*update_f64)(const cell_row_f64 *row);
    void (*show_f32)(const cell_row_f32 *row);
    void (*show_f64)(const cell_row_f64 *row);
    void (*show_backward_f32)(const cell_row_f32 *row);
    void (*show_backward_f64)(const cell_row_f64 *row);
    void (*update_backward_f32)(const cell_row_f32 *row);
    void (*update_backward_f64)(const cell_row_f64 *row);
} ek_cell;

ek_status ek_infer_cell(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
ek_status ek_cell_forward_f32(ek_node *node);
ek_status ek_cell_forward_f64(ek_node *node);
ek_status ek_cell_backward_f32(ek_node *node);
ek_status ek_cell_backward_f64(ek_node *node);
#define EK_CELL_OP(NAME)                                                                                               \
    {.name = NAME, .optional_from = CELL_BIAS_IH, .infer = ek_infer_cell, .forward = EK_BY_DTYPE(ek_cell_forward),     \
     .backward = EK_BY_DTYPE(ek_cell_backward)}

/* The states, (R + N, H): h of every row, then the final h of each sequence in the order of the batch; with a cell
 * state (2·(R + N), H), the same of c below. */
ek_tensor *ek_apply_cell(ek_tape *tape, const ek_op *op, ek_tensor *const in[CELL_INPUTS],
                         const cell_attributes *attributes);

/* ---- norms inside a cell (recurrent_norm.c) ---------------------------------------------------------------------- */
/* One site: what the forward leaves for the backward.  LayerNorm has an r per row and segment, BatchNorm one per step
 * and unit. */
#define EK_CELL_SITE(REAL, NAME)                                                                                       \
    typedef struct NAME {                                                                                              \
        int64_t units;                                                                                                 \
        int segments;                                                                                                  \
        int64_t segment_units[2];                                                                                      \
        double eps;                                                                                                    \
        const REAL *gain, *bias; /* [units]; bias may be NULL */                                                       \
        REAL *normalized;        /* x̂: [R][units] */                                                                  \
        REAL *rstd;              /* r: [R][segments] or [steps][units] */                                              \
    } NAME;
EK_CELL_SITE(float, cell_site_f32)
EK_CELL_SITE(double, cell_site_f64)

/* Statistics of one step that BatchNorm is given, or leaves. */
typedef struct cell_step_statistics {
    const void *given_mean, *given_var; /* [units] of the site's type, NULL: the batch's own */
    double *mean, *var;                 /* [units] where the batch's own go, or NULL */
} cell_step_statistics;

/* y = gain·x̂ + bias of one row; x may be y. */
void ek_cell_norm_row_f32(const cell_site_f32 *site, int64_t row, const float *x, float *y);
void ek_cell_norm_row_f64(const cell_site_f64 *site, int64_t row, const double *x, double *y);
/* dx from dy of one row; dy may be dx. */
void ek_cell_norm_row_backward_f32(const cell_site_f32 *site, int64_t row, const float *dy, float *dx);
void ek_cell_norm_row_backward_f64(const cell_site_f64 *site, int64_t row, const double *dy, double *dx);
/* The same over the `rows` rows of step `step`, which begin at row `first` of the site: x, y, dx, dy: [rows][units]. */
void ek_cell_norm_step_f32(const cell_site_f32 *site, int64_t step, int64_t first, int64_t rows, const float *x,
                           float *y, cell_step_statistics statistics);
void ek_cell_norm_step_f64(const cell_site_f64 *site, int64_t step, int64_t first, int64_t rows, const double *x,
                           double *y, cell_step_statistics statistics);
/* `own`: the statistics were the batch's own. */
void ek_cell_norm_step_backward_f32(const cell_site_f32 *site, int64_t step, int64_t first, int64_t rows, bool own,
                                    const float *dy, float *dx);
void ek_cell_norm_step_backward_f64(const cell_site_f64 *site, int64_t step, int64_t first, int64_t rows, bool own,
                                    const double *dy, double *dx);
/* d_gain = Σ dy·x̂ over all R rows; dy: [rows][units]. */
void ek_cell_norm_gain_gradient_f32(const cell_site_f32 *site, int64_t rows, const float *dy, float *d_gain);
void ek_cell_norm_gain_gradient_f64(const cell_site_f64 *site, int64_t rows, const double *dy, double *d_gain);

#endif
