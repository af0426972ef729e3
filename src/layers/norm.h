/* What the layers of the norm family share: reading (N, C, …), with lengths or without, the options of γ, β and running
 * statistics, and when those move. */
#ifndef EK_NORM_H
#define EK_NORM_H

#include "module.h"
#include "sequence.h"

/* What a norm works on: the rows of x, each `before` positions, c channels, `after` positions.  Without lengths a row
 * is a sample, and x the input as it is; with them a row is a valid step, and x the input packed, sequence after
 * sequence, so that no padding is there to enter anything. */
typedef struct norm_input {
    ek_tensor *x;
    const ek_rows *packed; /* NULL: x is the input itself */
    int64_t n;             /* samples */
    int64_t rows, before, c, after;
    int64_t s; /* elements per sample and channel by the input's shape, padding included */
} norm_input;

/* The state of a norm over channels: BatchNorm, InstanceNorm, SwitchableNorm; each puts it first in its own state. */
typedef struct channel_norm {
    int64_t num_features;
    int min_ndim, max_ndim; /* ranks it accepts */
    int channel_axis;
    double eps, momentum;
    bool centers; /* takes each channel's mean away, unless running statistics stand in for it */
    ek_norm_statistics statistics;
    int64_t non_finite_batches;
    ek_tensor *weight, *bias;                                  /* NULL without affine */
    ek_tensor *running_mean, *running_var, *num_batches_tracked; /* NULL without tracking */
} channel_norm;

/* NULL options in constructors mean the defaults; 0 < ranks; description "type(num_features)". */
typedef struct channel_norm_spec {
    int min_ndim, max_ndim;
    int64_t num_features;
    const ek_batch_norm_opts *opts;
    double first_weight, first_running_var; /* what γ and running_var start from */
    bool centers;
    bool batch_norm; /* takes the options that are BatchNorm's alone */
} channel_norm_spec;
ek_module *ek_channel_norm_new(const ek_module_def *def, const channel_norm_spec *spec);

/* True for a finite eps ≥ 0, or EK_ERR_ARGUMENT that names the layer. */
bool ek_norm_eps_ok(const ek_module *module, double eps);
bool ek_norm_channel_axis_ok(const ek_module *module, int axis);
/* x is of the module's type, or EK_ERR_DTYPE. */
bool ek_norm_dtype_ok(const ek_module *module, const ek_tensor *x);
/* EK_ERR_SHAPE for an x that is not as `expected`; where the channels may lie on the other axis, with both readings. */
void ek_norm_refuse_shape(const ek_module *module, const ek_tensor *x, const char *expected, bool rank_fits, int axis,
                          int64_t channels);
/* Reads x, whose shape is known to fit, as the norm sees it: `axes` axes from `axis` on are the channels.  False with a
 * failure: the lengths that x carries have their batch or time axis among them, or memory ran out. */
bool ek_norm_open(const ek_module *module, ek_tape *tape, ek_tensor *x, int axis, int axes, norm_input *in);
/* The same for sequences that are known. */
bool ek_norm_open_sequences(ek_tape *tape, ek_tensor *x, const ek_lengths *lengths, int axis, int axes, norm_input *in);
/* The norm's result y, of the shape of in->x, in the shape of the layer's input: 0 in the padding.  NULL for NULL. */
ek_tensor *ek_norm_close(ek_tape *tape, const norm_input *in, ek_tensor *y);
/* Reads x for a norm over channels, or EK_ERR_SHAPE that says what was expected. */
bool ek_channel_norm_read(const ek_module *module, ek_tape *tape, ek_tensor *x, norm_input *in);

/* Is it one of ek_batch_norm1d, 2d, 3d? */
bool ek_module_is_batch_norm(const ek_module *module);

/* The failure of statistics over one value per channel. */
void ek_norm_refuse_single(const ek_module *module, const ek_tensor *x);

/* One (mean, var), or (γ, β), per channel over everything. */
ek_view ek_norm_view_per_channel(const norm_input *in);
/* One (mean, var) per sample and group: opts->stats, and stats_outer, where each row is (outer, group, inner).  False
 * when memory ran out. */
bool ek_norm_view_per_sample(ek_tape *tape, const norm_input *in, int64_t outer, int64_t group, int64_t inner,
                             ek_normalize_opts *opts);

/* ---- what a report reads of a norm (norm_report.c) ---------------------------------------------------------------- */
enum { NORM_PART_BYTES = 64 };
typedef enum norm_groups {
    GROUPS_UNKNOWN = 0,  /* inside a layer that shows no input of it */
    GROUPS_PER_CHANNEL,  /* over batch and space */
    GROUPS_PER_SAMPLE,   /* per sample and group of channels */
    GROUPS_PER_POSITION, /* over the last axes */
    GROUPS_MIXED,        /* SwitchableNorm: running statistics are those of its BatchNorm part */
    GROUPS_PER_STEP      /* of a recurrent layer, which shows the statistics themselves: ek_watch.steps */
} norm_groups;

typedef struct norm_traits {
    norm_groups groups;
    char part[NORM_PART_BYTES]; /* which norm it is of a layer with several; "" for the only one */
    double eps;
    int channel_axis;          /* 1 or −1, where groups are of channels */
    int64_t channels, channels_per_group;
    int axes;                  /* PER_POSITION: how many last axes */
    bool over_time, center;    /* PER_POSITION: steps share statistics too; false: RMSNorm */
    bool reference;            /* MIXED: variances as the published code takes them */
    ek_norm_statistics statistics;
    bool uses_running;         /* the next forward would */
    const ek_tensor *weight, *bias, *mean_weight, *var_weight; /* NULL where there is none; of the mixture's weights */
    bool instance, batch;                                      /* … IN's and BN's are there */
    const ek_tensor *running_mean, *running_var, *num_batches_tracked;
} norm_traits;

/* Of a norm over channels, with PER_CHANNEL groups. */
void ek_channel_norm_traits(const ek_module *module, norm_traits *traits);

/* ---- running statistics (running.c) ------------------------------------------------------------------------------ */
/* A momentum and a choice that there are, or EK_ERR_ARGUMENT that names the layer. */
bool ek_running_options_ok(const ek_module *module, double momentum, ek_norm_statistics choice);
/* The rule of update, for the summary; `text` holds EK_NOTE_BYTES. */
void ek_running_describe(double momentum, ek_norm_statistics choice, char *text);
bool ek_running_is_used(ek_norm_statistics choice, bool training);
bool ek_running_is_updated(ek_norm_statistics choice, bool training);
/* How far the running statistics move, this batch being number `batches`. */
double ek_running_fraction(double momentum, int64_t batches);
/* The buffer's type can hold the value: a float32 overflows where the double did not. */
static inline bool ek_running_fits(const ek_tensor *buffer, double value)
{
    return buffer->dtype == EK_F32 ? isfinite((float)value) : isfinite(value);
}
/* Element i ← (1 − fraction)·element i + fraction·value. */
static inline void ek_running_move(ek_tensor *buffer, int64_t i, double fraction, double value)
{
    if (buffer->dtype == EK_F32) {
        float *at = (float *)buffer->data + i;
        *at = (float)((1 - fraction) * (double)*at + fraction * value);
    } else {
        double *at = (double *)buffer->data + i;
        *at = (1 - fraction) * *at + fraction * value;
    }
}
/* Element i ← value, whatever it was. */
void ek_running_set(ek_tensor *buffer, int64_t i, double value);
/* Warns that the statistics of a batch were refused: those of `what` number `index` are not finite. */
void ek_running_warn_refused(const ek_module *module, const char *what, int64_t index, int64_t batches);

/* Statistics of several batches as if they were one: the mean of all elements, and their variance, squares/freedom. */
typedef struct ek_pooled {
    double elements, mean;
    double squares; /* Σ(x − mean)² */
    double freedom;
    int64_t batches;
} ek_pooled;
/* Joins so many elements with this mean in, and returns by how much the sum of squares grows because the two means
 * differ. */
double ek_pooled_join_mean(ek_pooled *pooled, double elements, double mean);
/* The same with their sum of squares; the variance is the unbiased one. */
void ek_pooled_join(ek_pooled *pooled, double elements, double mean, double squares);
static inline double ek_pooled_variance(const ek_pooled *pooled)
{
    return pooled->squares / pooled->freedom;
}
/* Where statistics are joined instead of moving the running ones: a recalibration's pairs, or else those gathered of
 * micro-batches; NULL: nowhere. */
ek_pooled *ek_running_pool(const ek_module *module);
/* Throws away what was gathered. */
void ek_running_forget_gathered(ek_module *module);

/* ---- running statistics of a norm over channels (norm.c) --------------------------------------------------------- */
/* Which statistics this forward normalizes by, and whether it moves the running ones. */
bool ek_channel_norm_uses_running(const ek_module *module);
bool ek_channel_norm_updates_running(const ek_module *module);
/* Warns when running statistics are used that no batch has ever moved. */
void ek_channel_norm_warn_untracked(const ek_module *module);
/* A batch's statistics that are to move the running ones: `rows` means and variances per channel, of length[r]·count
 * elements each (length NULL: of `count`).  A row of one element has a mean and brings no variance. */
typedef struct norm_batch {
    const double *mean, *var; /* [rows][C] */
    int64_t rows, count;
    const int64_t *length; /* [rows], memory of the tape */
    bool as_it_is;         /* the variance is taken as it is, not made unbiased by K/(K−1) */
    bool per_sample;       /* rows are samples, each with statistics of its own, of which the mean is wanted */
} norm_batch;
/* Moves the running statistics once the outermost forward has succeeded, or pools those of the batch.  Rows are the
 * parts of one batch, whose statistics are those of all its elements; or samples, over which both are averaged.  Where
 * there is no variance nothing moves, the counter of batches neither. */
ek_status ek_channel_norm_update_later(ek_module *module, ek_tape *tape, const norm_batch *batch);

#endif
