/* What the layers of the norm family share: reading (N, C, …), the options of γ, β and running statistics, and when
 * those move. */
#ifndef EK_NORM_H
#define EK_NORM_H

#include "module.h"

/* x as samples, channels and positions. */
typedef struct norm_dims {
    int64_t n, c, s;
    bool channels_last;
} norm_dims;

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
/* Reads the shape of x, or EK_ERR_SHAPE that says what was expected. */
bool ek_channel_norm_read(const ek_module *module, const ek_tensor *x, norm_dims *dims);

/* The failure of statistics over one value per channel. */
void ek_norm_refuse_single(const ek_module *module, const ek_tensor *x);

/* One (mean, var) per channel over everything, or per sample and channel; and one (γ, β) per channel. */
ek_view ek_norm_view_per_channel(norm_dims d);
ek_view ek_norm_view_per_sample_channel(norm_dims d);

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
bool ek_running_fits(const ek_tensor *buffer, double value);
/* Element i ← (1 − fraction)·element i + fraction·value. */
void ek_running_move(ek_tensor *buffer, int64_t i, double fraction, double value);
/* Warns that the statistics of a batch were refused: those of `what` number `index` are not finite. */
void ek_running_warn_refused(const ek_module *module, const char *what, int64_t index, int64_t batches);

/* ---- running statistics of a norm over channels (norm.c) --------------------------------------------------------- */
/* Which statistics this forward normalizes by, and whether it moves the running ones. */
bool ek_channel_norm_uses_running(const ek_module *module);
bool ek_channel_norm_updates_running(const ek_module *module);
/* Warns when running statistics are used that no batch has ever moved. */
void ek_channel_norm_warn_untracked(const ek_module *module);
/* Moves the running statistics once the outermost forward has succeeded, toward the mean over `rows` of mean[rows][C]
 * and correction·var[rows][C]. */
ek_status ek_channel_norm_update_later(ek_module *module, ek_tape *tape, const ek_normalize_stats *stats, int64_t rows,
                                    double correction);

#endif
