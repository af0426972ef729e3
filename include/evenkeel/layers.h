/* Modules: layers with parameters and buffers, the norm family, and what is done with a whole net.
 *
 * Names.  A layer whose plain name an op has already carries the suffix _layer (ek_relu is the op, ek_relu_layer() the
 * layer).  What a layer cannot do without is a positional argument; the rest is an options struct filled by its
 * ek_…_opts_default(), in which every field is literal; NULL means all defaults.  Defaults, shapes, parameter names and
 * initialisation are PyTorch's.
 *
 * Ownership.  A module owns its children, parameters and buffers; free the root, once.  A constructor returns NULL on
 * failure (ek_last_error()).
 */
#ifndef EVENKEEL_LAYERS_H
#define EVENKEEL_LAYERS_H

#include "autograd.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_module ek_module;

/* ---- using a module ---------------------------------------------------------------------------------------------- */
/* Applies a module.  Running statistics and random counters move when the outermost ek_forward has succeeded, and not
 * at all when it fails.  In evaluation nothing in the module is written, so threads may share it, each with its own
 * tape (call ek_module_init() first: a module never initialised is initialised with seed 0 at its first forward). */
EK_API ek_tensor *ek_forward(ek_module *module, ek_tape *tape, ek_tensor *x);
/* Frees a root and everything below it.  A module that has a parent is left alone: its parent frees it. */
EK_API void ek_module_free(ek_module *module);
/* Draws every parameter anew, each from a stream keyed by (seed, its full name), so the order in which layers were
 * made does not matter; sets buffers to their first values, resets the random counters of dropout and drops
 * gradients. */
EK_API ek_status ek_module_init(ek_module *module, uint64_t seed);
/* Training mode (the state after construction) and evaluation mode, for the module and everything below it. */
EK_API void ek_module_train(ek_module *module);
EK_API void ek_module_eval(ek_module *module);
EK_API bool ek_module_is_training(const ek_module *module);
/* Converts all float parameters and buffers to float32 or float64 in place; gradients of what changes its type are
 * dropped.  All or, when memory runs out, none.  To be called while no tape holds a forward of the module. */
EK_API ek_status ek_module_to(ek_module *module, ek_dtype dtype);
EK_API void ek_module_clear_grad(ek_module *module);

/* Parameters are trained; buffers belong to the state and are not (running_mean, num_batches_tracked). */
typedef enum ek_state_kind { EK_PARAMETER, EK_BUFFER } ek_state_kind;
typedef ek_status (*ek_state_visitor)(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind);
/* Calls `visit` for each parameter and buffer in the order of PyTorch's state_dict, under names like "0.weight"; stops
 * at the first status that is not EK_OK and returns it.  Initialises a module that never was. */
EK_API ek_status ek_module_visit(ek_module *module, ek_state_visitor visit, void *user);
/* The parameter or buffer of a full name; NULL with EK_ERR_ARGUMENT (and the names there are) when there is none.
 * Belongs to the module. */
EK_API ek_tensor *ek_module_parameter(ek_module *module, const char *name);
EK_API ek_tensor *ek_module_buffer(ek_module *module, const char *name);
/* Number of trained scalars. */
EK_API int64_t ek_module_count_parameters(const ek_module *module);
/* Children by index, and the type ("batch_norm2d") and description ("batch_norm2d(64)") of a module.  Borrowed. */
EK_API int ek_module_num_children(const ek_module *module);
EK_API ek_module *ek_module_child(const ek_module *module, int i);
EK_API const char *ek_module_type(const ek_module *module);
EK_API const char *ek_module_describe(const ek_module *module);

/* Writes a table to `out`: each layer's name, description, output shape for the input `example`, parameter count;
 * then totals, how running statistics are updated, and any bias that a following BatchNorm or
 * InstanceNorm cancels.  Runs one evaluation forward; changes nothing. */
EK_API ek_status ek_module_summary(ek_module *module, ek_tensor *example, FILE *out);

/* Observers see the output of a module and of every module below it, and its gradient in the backward pass, without
 * changing the net.  `name` is the full name relative to the observed root ("" for the root itself). */
typedef enum ek_event { EK_EVENT_OUTPUT, EK_EVENT_GRADIENT } ek_event;
typedef void (*ek_observer)(void *user, const char *name, const ek_module *module, ek_event event,
                            const ek_tensor *tensor);
/* One observer per module; NULL takes it away, also for backward passes still to come.  An observed module must live as
 * long as the tapes it was applied on are used. */
EK_API ek_status ek_module_observe(ek_module *module, ek_observer observer, void *user);

/* ---- modules of your own ----------------------------------------------------------------------------------------- */
typedef struct ek_module_def {
    const char *type; /* a lower-case word; static storage */
    /* Returns a tensor of the tape, or NULL after ek_fail() or a failed op. */
    ek_tensor *(*forward)(ek_module *module, ek_tape *tape, ek_tensor *x);
    void (*destroy)(void *state); /* frees what `state` holds, not `state` itself; may be NULL */
    size_t state_bytes;           /* zeroed memory that ek_module_state() returns */
} ek_module_def;
/* `format` makes the description; NULL: the type. */
EK_API ek_module *ek_module_new(const ek_module_def *def, const char *format, ...) EK_PRINTF(2, 3);
EK_API void *ek_module_state(const ek_module *module);
/* `name`: unique in the module, without '.'.  Takes ownership of `child` even when it fails (a NULL child is a failed
 * constructor).  A child that has a parent already stays with it (EK_ERR_STATE), and one that `module` is or is below
 * stays what it is. */
EK_API ek_status ek_module_add_child(ek_module *module, const char *name, ek_module *child);

typedef enum ek_init_kind {
    EK_INIT_ZEROS,
    EK_INIT_ONES,
    EK_INIT_UNIFORM,
    EK_INIT_NORMAL,
    EK_INIT_CONSTANT
} ek_init_kind;
/* UNIFORM: in [−scale, scale); NORMAL: standard deviation scale; CONSTANT: scale everywhere. */
typedef struct ek_init {
    ek_init_kind kind;
    double scale;
} ek_init;
/* `decays` says whether weight decay applies when an optimizer spares norms and biases.  The tensor (float32, or the
 * type ek_module_to set) belongs to the module.  UNIFORM and NORMAL values are drawn when the whole net is known: by
 * ek_module_init(), or with seed 0 at the first forward or ek_module_visit/parameter/buffer; write your own after
 * that. */
EK_API ek_tensor *ek_module_add_parameter(ek_module *module, const char *name, ek_shape shape, ek_init init,
                                          bool decays);
/* A buffer filled with `value`. */
EK_API ek_tensor *ek_module_add_buffer(ek_module *module, const char *name, ek_dtype dtype, ek_shape shape,
                                       double value);
/* In a forward function: asks for `finish(module, data, true)` once the outermost ek_forward has succeeded, or
 * `finish(module, data, false)` when it fails, and copies `bytes` bytes of data for it.  This is how statistics move
 * only with a forward that succeeded.  Not called on tapes that must leave modules alone (gradient checks). */
EK_API ek_status ek_after_forward(ek_tape *tape, ek_module *module,
                                  void (*finish)(ek_module *module, const void *data, bool succeeded),
                                  const void *data, size_t bytes);

/* ---- containers ------------------------------------------------------------------------------------------------- */
/* The modules one after the other, named "0", "1", …  Takes ownership of all of them even when it fails; a NULL among
 * them (a failed constructor) is an error of the whole. */
EK_API ek_module *ek_sequential_from(int n, ek_module *const *modules);
/* y = x + child(x); the child's name is "0".  Takes ownership of the child even when it fails. */
EK_API ek_module *ek_residual(ek_module *child);

/* ---- layers ----------------------------------------------------------------------------------------------------- */
typedef struct ek_linear_opts {
    bool bias;                   /* default true */
    bool weight_standardization; /* as in ek_conv_layer_opts; default false */
} ek_linear_opts;
EK_API ek_linear_opts ek_linear_opts_default(void);
/* weight (out, in), bias (out), both uniform in ±1/√in.  (…, in) → (…, out). */
EK_API ek_module *ek_linear(int64_t in_features, int64_t out_features, const ek_linear_opts *opts);

typedef struct ek_conv_layer_opts {
    int64_t stride[2], padding[2], dilation[2]; /* as ek_conv_opts; {height, width}, or index 0 alone in 1-D */
    int64_t groups;
    bool bias; /* default true */
    /* ŵ = (w − mean)/√(var + 1e-5) is used in place of the weight w, with the mean and biased variance of the weights
     * of each output channel (Qiao et al. 2019, arXiv:1903.10520); w is what is trained and saved.  One weight per
     * output channel is EK_ERR_ARGUMENT.  Default false. */
    bool weight_standardization;
} ek_conv_layer_opts;
EK_API ek_conv_layer_opts ek_conv_layer_opts_default(void);
/* weight (out, in/groups, kernel…), bias (out), uniform in ±1/√(in/groups · ∏kernel).  A square kernel in 2-D; see
 * ek_conv2d_rect_layer for others. */
EK_API ek_module *ek_conv1d_layer(int64_t in_channels, int64_t out_channels, int64_t kernel,
                                  const ek_conv_layer_opts *opts);
EK_API ek_module *ek_conv2d_layer(int64_t in_channels, int64_t out_channels, int64_t kernel,
                                  const ek_conv_layer_opts *opts);
EK_API ek_module *ek_conv2d_rect_layer(int64_t in_channels, int64_t out_channels, int64_t kernel_h, int64_t kernel_w,
                                       const ek_conv_layer_opts *opts);

EK_API ek_module *ek_max_pool1d_layer(int64_t kernel, const ek_pool_opts *opts);
EK_API ek_module *ek_max_pool2d_layer(int64_t kernel, const ek_pool_opts *opts);
EK_API ek_module *ek_avg_pool1d_layer(int64_t kernel, const ek_pool_opts *opts);
EK_API ek_module *ek_avg_pool2d_layer(int64_t kernel, const ek_pool_opts *opts);
EK_API ek_module *ek_adaptive_avg_pool1d_layer(int64_t out);
EK_API ek_module *ek_adaptive_avg_pool2d_layer(int64_t out_h, int64_t out_w);
/* ek_pool_time(): the mean, largest or last of the valid steps. */
EK_API ek_module *ek_pool_time_layer(int time_axis, ek_time_pooling pooling);

/* (N, d1, d2, …) → (N, d1·d2·…). */
EK_API ek_module *ek_flatten_layer(void);
EK_API ek_module *ek_relu_layer(void);
EK_API ek_module *ek_leaky_relu_layer(double negative_slope);
EK_API ek_module *ek_gelu_layer(void);
EK_API ek_module *ek_silu_layer(void);
EK_API ek_module *ek_sigmoid_layer(void);
EK_API ek_module *ek_tanh_layer(void);
EK_API ek_module *ek_softplus_layer(void);
EK_API ek_module *ek_softmax_layer(int axis);
EK_API ek_module *ek_log_softmax_layer(int axis);
/* Drops in training, does nothing in evaluation.  Its masks are a function of (seed of ek_module_init, the layer's full
 * name, how many forwards it has seen). */
EK_API ek_module *ek_dropout_layer(double p);

typedef struct ek_embedding_layer_opts {
    int64_t padding_idx; /* this row starts at 0 and is not trained; default EK_NO_PADDING_IDX */
} ek_embedding_layer_opts;
EK_API ek_embedding_layer_opts ek_embedding_layer_opts_default(void);
/* weight (num_embeddings, embedding_dim), standard normal.  int64 (…) → (…, embedding_dim). */
EK_API ek_module *ek_embedding_layer(int64_t num_embeddings, int64_t embedding_dim,
                                     const ek_embedding_layer_opts *opts);

/* ---- the norm family --------------------------------------------------------------------------------------------
 * All compute y = γ·(x − m)/√(v + eps) + β.  They differ in which elements share (m, v), and γ, β:
 * docs/norms-internals.md.  The variance is biased (SS/n) for normalizing; running_var takes the unbiased one
 * (SS/(n−1)).
 *
 * Lengths.  A norm honours the lengths that x carries (ek_tensor_set_lengths, _set_mask), wherever their batch and time
 * axis stand: it works on the valid steps alone and puts them back.  So the padding enters no statistic, comes out as
 * exactly 0, gets a gradient of exactly 0, whatever it holds, and nothing (y, gradients, running statistics) depends on
 * how far the batch was padded, bit for bit.  A group that its lengths leave one element gives β, and a gradient of 0,
 * also where there is no padding; without lengths such a shape is an error.  Lengths along the axis of the channels are EK_ERR_SHAPE.
 */

/* Which statistics a norm with running buffers uses; sticks through ek_module_train() and ek_module_eval(). */
typedef enum ek_norm_statistics {
    EK_STATS_AUTO = 0, /* the batch's in training, the running ones in evaluation (default) */
    EK_STATS_BATCH,    /* always the batch's; training still updates the running ones */
    EK_STATS_RUNNING,  /* always the running ones; training still updates them */
    EK_STATS_FROZEN    /* always the running ones, which never move */
} ek_norm_statistics;
/* Sets it for every norm with running buffers at or below `module`; independent of whether γ and β are trained.
 * EK_ERR_ARGUMENT when there is no such norm. */
EK_API ek_status ek_module_set_norm_statistics(ek_module *module, ek_norm_statistics choice);

/* Batches at or below `module` whose statistics were not finite (in the buffers' type) and so were kept out of the
 * running ones, since it was initialised; each also sets ek_last_warning(). */
EK_API int64_t ek_module_non_finite_batches(const ek_module *module);

/* Sets the running statistics of every norm that has some, at or below a trained `net`, to those of all elements of up
 * to n ≥ 1 batches together ("precise BN": Wu and Johnson 2021, arXiv:2105.07576).  Batches may differ in size and
 * carry lengths.  They go through the net in evaluation, so dropout is off, but norms normalize by the statistics of the
 * batch, as in training; so those behind the first one depend a little on how the data are cut into batches.
 *
 *   BatchNorm       mean and SS/(K−1) of all K elements of a channel
 *   InstanceNorm    the mean over all samples of each one's mean and SS/(K−1)
 *   SwitchableNorm  BatchNorm's part, as BatchNorm; `reference`: the variance as it mixes it, over all samples
 *   recurrent       as BatchNorm, for each step; over the batches in which two or more sequences have that step
 *
 * num_batches_tracked becomes the number of batches behind each statistic, so that EK_MOMENTUM_CUMULATIVE can go on
 * from there.  Norms and steps that no batch reaches, and norms that are EK_STATS_FROZEN, keep what they have.
 * Parameters, modes, choices of statistics and random counters are left as they were.
 *
 * next_batch(user) returns the next input of the net, which has to stay valid until it is called again and remains the
 * caller's; NULL after an error (ek_fail() or a failed call) makes that the result, any other NULL ends the data.  It
 * must not touch the net.  EK_ERR_ARGUMENT: no norm to set, no batch, statistics that are not finite, or of a single
 * element.  Whatever fails, nothing has changed. */
EK_API ek_status ek_batch_norm_recalibrate(ek_module *net, ek_tensor *(*next_batch)(void *user), void *user, int64_t n);

/* Gradient accumulation.  From ek_module_begin_pooling() on, forwards in training leave the running statistics of every
 * norm at or below `module` alone and gather theirs; ek_module_commit_statistics(), to be called after each optimizer
 * step, moves them once, as one batch of all that was gathered would have done: for BatchNorm by the mean and SS/(K−1)
 * of all K elements, the differences between the micro-batches included (for the other norms see
 * ek_batch_norm_recalibrate), and one batch is counted.  Each micro-batch is still normalized by its own statistics.
 *
 *     ek_module_begin_pooling(net);
 *     for each step:
 *         for each micro-batch: forward, backward, ek_tape_reset
 *         optimizer step, ek_module_commit_statistics(net)
 *
 * A forward that fails, or whose statistics are not finite, adds nothing.  A pool that is empty, or holds one element,
 * moves nothing, and one that is not finite in the buffers' type is refused as a batch would be.  Pooling goes on after
 * a commit.  begin_pooling again, and ek_module_init(), throw away what was gathered; end_pooling does too, and goes
 * back to moving with every forward.  Pools are not saved: commit first.  EK_ERR_ARGUMENT: no norm with running
 * statistics; EK_ERR_STATE: commit or end where none pools. */
EK_API ek_status ek_module_begin_pooling(ek_module *module);
EK_API ek_status ek_module_commit_statistics(ek_module *module);
EK_API ek_status ek_module_end_pooling(ek_module *module);

/* For inference: folds each BatchNorm that stands right behind a linear or convolution layer in one ek_sequential, at
 * or below `net`, into that layer.  With s = γ/√(running_var + eps) the weight becomes s·w, and the bias
 * s·(b − running_mean) + β, which a layer without a bias gets.  The output is the same up to rounding,
 * and 0 in the padding of what carries lengths.
 *
 * The norm becomes an "identity" without parameters and buffers, so names and indices of all other modules stay: a file
 * of a folded net is loaded into an equal net that has been folded.  A layer's weight_standardization is folded, too,
 * and off from then on.  `folded` (may be NULL) receives how many norms were folded.  Left alone are norms without
 * running statistics, norms that are EK_STATS_BATCH or have their channels on another axis than the layer its outputs,
 * and those for which a folded number would not be finite.  A norm with channel_axis 1 behind a linear layer is taken
 * for one on (N, C); its identity refuses (N, C, L).
 *
 * Everything has to be in evaluation mode (EK_ERR_STATE), no tape may hold a forward of the net, and no module of your
 * own may use a layer that is folded without its norm.  ek_module_train() has no effect on folded norms.  Gradients of
 * what changes are dropped.  Optimizers made before keep the layer's weight and bias, whose values change under their
 * momentum, and the γ and β that are gone; they do not know an added bias: make a new one.  When memory runs out
 * nothing has changed. */
EK_API ek_status ek_fold_batch_norm(ek_module *net, int *folded);

/* running ← (1 − momentum)·running + momentum·batch; cumulative: every batch counts the same. */
#define EK_MOMENTUM_CUMULATIVE (-1.0)
/* channel_axis: where (N, …, C, …) keeps its channels. */
#define EK_CHANNELS_LAST (-1)

typedef struct ek_batch_norm_opts {
    double eps;                    /* default 1e-5 */
    double momentum;               /* the update fraction; default 0.1 */
    bool affine;                   /* γ and β, [C]; default true */
    bool track_running_stats;      /* off: batch statistics in evaluation too, no buffers; default true */
    ek_norm_statistics statistics; /* default EK_STATS_AUTO */
    int channel_axis;              /* 1 (default), or EK_CHANNELS_LAST for (N, …, C) */
    /* Of BatchNorm alone; for InstanceNorm the defaults have to stay. */
    int64_t ghost_batch_size;      /* in training, statistics over so many samples at a time; default 0: over all */
    double r_max, d_max;           /* batch renormalization: ek_batch_norm_set_renorm(); default 1 and 0: none */
} ek_batch_norm_opts;
EK_API ek_batch_norm_opts ek_batch_norm_opts_default(void);
/* Statistics per channel over batch and space.  1d: (N, C) or (N, C, L); 2d: (N, C, H, W); 3d: (N, C, D, H, W).
 * Parameters weight, bias; buffers running_mean, running_var, num_batches_tracked.  One value per channel in training
 * is EK_ERR_SHAPE, and nothing moves.  With lengths a batch is its valid elements, running_var takes SS/(K−1) over
 * those, and a batch of one such element moves nothing.
 *
 * Ghost batches (Hoffer, Hubara, Soudry 2017, arXiv:1705.08741): with ghost_batch_size g > 0 each g consecutive samples
 * have statistics of their own in training; the last ones may be fewer, and a last one of one value per channel joins
 * the ghost before it.  The running statistics move once, by those of the whole batch.  A batch of g samples or less,
 * and evaluation, are as without.  With lengths a ghost is the valid elements of its samples.  g = 1 on (N, C) is
 * EK_ERR_SHAPE.  Where running statistics normalize (EK_STATS_RUNNING), there are no ghosts. */
EK_API ek_module *ek_batch_norm1d(int64_t num_features, const ek_batch_norm_opts *opts);
EK_API ek_module *ek_batch_norm2d(int64_t num_features, const ek_batch_norm_opts *opts);
EK_API ek_module *ek_batch_norm3d(int64_t num_features, const ek_batch_norm_opts *opts);
/* Batch renormalization (Ioffe 2017, arXiv:1702.03275) for every BatchNorm at or below `module`: in training
 *
 *     y = γ·(x̂·r + d) + β,   x̂ = (x − μ_B)/σ_B
 *     r = clip(σ_B/σ, 1/r_max, r_max),   d = clip((μ_B − μ)/σ, −d_max, d_max)
 *
 * where σ_B = √(v_B + eps) with the batch's biased variance, μ and σ = √(running_var + eps) are the running ones before
 * this batch, and no gradient flows through r and d.  Evaluation uses the running statistics as ever.  r_max ≥ 1 and
 * d_max ≥ 0 (infinite: as in evaluation) may change at any time; a schedule starts with 1 and 0, plain BatchNorm to the
 * bit, and widens to about 3 and 5.  r = 1 and d = 0 where running_var + eps is 0, and where the lengths leave a batch
 * one element.  EK_ERR_ARGUMENT, and nothing changed: other limits, no BatchNorm, one that has no running statistics,
 * one with ghost batches. */
EK_API ek_status ek_batch_norm_set_renorm(ek_module *module, double r_max, double d_max);

typedef ek_batch_norm_opts ek_instance_norm_opts;
/* affine and track_running_stats are off by default. */
EK_API ek_instance_norm_opts ek_instance_norm_opts_default(void);
/* Statistics per sample and channel over space.  1d: (N, C, L); 2d: (N, C, H, W); 3d: (N, C, D, H, W).  With
 * track_running_stats evaluation uses per-channel running values, exactly as BatchNorm does.  One element of space is
 * EK_ERR_SHAPE whenever the input's statistics are used.  With lengths the running statistics take the mean over
 * samples of each one's mean and SS/(K−1); a sample of one valid element brings no variance, and when none brings any,
 * nothing moves. */
EK_API ek_module *ek_instance_norm1d(int64_t num_features, const ek_instance_norm_opts *opts);
EK_API ek_module *ek_instance_norm2d(int64_t num_features, const ek_instance_norm_opts *opts);
EK_API ek_module *ek_instance_norm3d(int64_t num_features, const ek_instance_norm_opts *opts);

typedef struct ek_layer_norm_opts {
    double eps;  /* default 1e-5 */
    bool weight; /* γ of shape normalized_shape; default true */
    bool bias;   /* β likewise; default true */
    bool over_time; /* statistics per sample over all its (valid) steps as well; default false */
} ek_layer_norm_opts;
EK_API ek_layer_norm_opts ek_layer_norm_opts_default(void);
/* Statistics per position over the trailing axes, which must equal normalized_shape.  No buffers: training and
 * evaluation give the same bits.
 * over_time: x is (N, T, …, D…), or has its batch and time axis where the lengths it carries say; statistics are taken
 * per sample over its steps and the axes of normalized_shape, which does not name time, and γ, β belong to those axes.
 * A normalized_shape that does name the time axis, (T, D…), gives statistics over the valid steps too; its γ and β
 * would belong to steps, so they are EK_ERR_SHAPE where lengths vary. */
EK_API ek_module *ek_layer_norm(ek_shape normalized_shape, const ek_layer_norm_opts *opts);

#define EK_EPS_MACHINE (-1.0)
typedef struct ek_rms_norm_opts {
    double eps;  /* default EK_EPS_MACHINE: the machine epsilon of the input's type */
    bool weight; /* default true */
} ek_rms_norm_opts;
EK_API ek_rms_norm_opts ek_rms_norm_opts_default(void);
/* y = γ·x/√(mean(x²) + eps) over the trailing axes. */
EK_API ek_module *ek_rms_norm(ek_shape normalized_shape, const ek_rms_norm_opts *opts);

typedef struct ek_group_norm_opts {
    double eps;       /* default 1e-5 */
    bool affine;      /* γ and β per channel, [C]; default true */
    int channel_axis; /* 1 (default) or EK_CHANNELS_LAST */
} ek_group_norm_opts;
EK_API ek_group_norm_opts ek_group_norm_opts_default(void);
/* Statistics per sample over each of num_groups groups of channels.  (N, C, …).  GN(C, C) is InstanceNorm; GN(1, C) has
 * LayerNorm([C, …])'s statistics but not its γ/β.  C % num_groups ≠ 0 or one element per group is EK_ERR_SHAPE. */
EK_API ek_module *ek_group_norm(int64_t num_groups, int64_t num_channels, const ek_group_norm_opts *opts);

typedef struct ek_switchable_norm_opts {
    double eps;                    /* default 1e-5 */
    double momentum;               /* the update fraction; default 0.1 */
    bool affine;                   /* default true */
    bool batch;                    /* mix BatchNorm in; default true */
    bool last_gamma;               /* γ starts at 0; default false */
    bool reference;                /* exactly the published code: unbiased variance within a plane, running statistics
                                      that start at 0 and take the mixed batch variance as it is; default false */
    ek_norm_statistics statistics; /* default EK_STATS_AUTO; speaks of the BatchNorm part */
    int channel_axis;              /* 1 (default), or EK_CHANNELS_LAST for (N, …, C) */
} ek_switchable_norm_opts;
EK_API ek_switchable_norm_opts ek_switchable_norm_opts_default(void);
/* Mean Σ w_k·m_k and variance Σ u_k·v_k over k = IN, LN, BN, with w = softmax(mean_weight), u = softmax(var_weight)
 * (Luo et al. 2018, arXiv:1806.10779).  1d: (N, C), which mixes LN and BN only; sequence: (N, C, L); 2d: (N, C, H, W);
 * 3d: (N, C, D, H, W).  With lengths BN's means over n weigh each sample by its share of the valid elements; where the
 * published code divides by S−1, a sample of one valid element has variance 0. */
EK_API ek_module *ek_switchable_norm1d(int64_t num_features, const ek_switchable_norm_opts *opts);
EK_API ek_module *ek_switchable_norm_sequence(int64_t num_features, const ek_switchable_norm_opts *opts);
EK_API ek_module *ek_switchable_norm2d(int64_t num_features, const ek_switchable_norm_opts *opts);
EK_API ek_module *ek_switchable_norm3d(int64_t num_features, const ek_switchable_norm_opts *opts);

/* ---- the norm report ---------------------------------------------------------------------------------------------
 * How the norms of a net fare on a batch: how far the batch's statistics stray from the running ones, which channels
 * have nothing to normalize, how much of the activation behind each norm is saturated, what SwitchableNorm mixes.
 *
 * A report is one forward of a batch, looked at from outside.  It costs that forward and two passes over the input of
 * each norm; a net that no report is being made of does nothing for it.
 */
/* Over channels, groups or parameters; all NaN where it does not apply, or one of the values is NaN. */
typedef struct ek_spread {
    double mean, min, max;
} ek_spread;

/* One norm.  What does not apply is NaN, "" or −1; of a layer applied more than once the last time is reported. */
typedef struct ek_norm_report_row {
    const char *name;  /* of the layer in the net; of a recurrent one with that of the norm in it: "1.ih_l0" */
    const char *layer; /* its description */
    const char *note;  /* what is not reported, and why */
    int64_t calls;     /* how often the forward used the layer; 0: nothing below comes from the batch */

    bool has_running;              /* running statistics are kept */
    ek_norm_statistics statistics; /* which ones are to be used, as set */
    bool uses_running;             /* this forward normalized by them */
    int64_t batches;               /* that moved them; per step in a recurrent layer: those of the first step */
    int64_t refused_batches;       /* that were not finite (ek_module_non_finite_batches) */

    int64_t groups; /* channels (BatchNorm, SwitchableNorm), samples' groups (IN, GN), positions (LN, RMS), or units of
                       each step (recurrent), with more than one element in this batch */
    ek_spread mean_drift;     /* |batch mean − running mean|/√(running var + eps) */
    int64_t worst_channel;    /* where that is largest; recurrent: step·units + unit */
    ek_spread variance_ratio; /* (batch var + eps)/(running var + eps), the batch's as it would enter the running one */
    ek_spread variance;       /* of the groups: biased, as for normalizing; RMSNorm: mean(x²) */
    double near_zero;         /* share of the groups whose variance is at most opts.near_zero */
    ek_spread gamma, beta;    /* |γ| and |β| */

    const char *activation; /* type of the activation that takes the norm's output, "" for none */
    double saturation;      /* share of its outputs at its flat ends: |tanh| > 0.99, sigmoid outside 0.01 … 0.99, relu 0 */

    double mean_mixture[3], var_mixture[3]; /* SwitchableNorm: shares of IN, LN, BN; 0 for one that is left out */
} ek_norm_report_row;

/* near_zero: each layer's own eps, from which on it is eps rather than the input that sets the scale. */
#define EK_NEAR_ZERO_EPS (-1.0)
typedef struct ek_norm_report_opts {
    double near_zero; /* variances up to this count as near zero; default EK_NEAR_ZERO_EPS */
} ek_norm_report_opts;
EK_API ek_norm_report_opts ek_norm_report_opts_default(void);

typedef struct ek_norm_report ek_norm_report;
/* Runs one forward of `net` on x, with every layer in the mode (training, evaluation) it is in, and reports each norm
 * at or below `net` in the order of its layers.  Parameters, running statistics, counters, random streams and modes
 * stay as they are, and observers see nothing of it.  Where x carries lengths, valid steps alone count.
 *
 * The activation of a norm is the module that takes its output, also past reshapes (ek_flatten_layer) and the sum of an
 * ek_residual() that the norm ends.  Recurrent BatchNorm is compared step by step, each step with the running statistics
 * that stand for it.
 *
 * The report does not need net or x any more; free it with ek_norm_report_free().  NULL on failure: EK_ERR_ARGUMENT for
 * NULL, a near_zero that is negative or NaN, or a net without a norm; else what the forward failed with. */
EK_API ek_norm_report *ek_norm_report_new(ek_module *net, ek_tensor *x, const ek_norm_report_opts *opts);
EK_API void ek_norm_report_free(ek_norm_report *report);
/* Rows, by index and by name; they belong to the report.  NULL with EK_ERR_ARGUMENT for one there is not. */
EK_API int ek_norm_report_size(const ek_norm_report *report);
EK_API const ek_norm_report_row *ek_norm_report_at(const ek_norm_report *report, int i);
EK_API const ek_norm_report_row *ek_norm_report_find(const ek_norm_report *report, const char *name);
/* An aligned table, then mixtures and notes; "-" stands for what does not apply. */
EK_API ek_status ek_norm_report_print(const ek_norm_report *report, FILE *out);
/* A line per norm, after a line with the names of the columns if `header`.  The first column is `step`, so that reports
 * made during training go into one file; then the fields of ek_norm_report_row in their order, _mean, _min and _max for
 * each spread and _in, _ln, _bn for each mixture; the statistics as "batch", "running", "frozen" or "own" (of a norm
 * that keeps none).  What does not apply is empty. */
EK_API ek_status ek_norm_report_csv(const ek_norm_report *report, int64_t step, bool header, FILE *out);

/* ---- recurrent layers -------------------------------------------------------------------------------------------- */
/* Where sequences stand: to be said, since (N, T, D) and (T, N, D) look alike. */
typedef enum ek_sequence_layout {
    EK_BATCH_FIRST = 1, /* (N, T, D) */
    EK_TIME_FIRST = 2   /* (T, N, D) */
} ek_sequence_layout;

typedef enum ek_nonlinearity { EK_NONLINEARITY_TANH = 0, EK_NONLINEARITY_RELU = 1 } ek_nonlinearity;

/* What is normalized inside the cell.  N stands for a norm with a gain and a bias of its own:
 *   RNN   h = f(N(W_ih·x) + N(W_hh·h))
 *   LSTM  (i, f, g, o) = N(W_ih·x) + N(W_hh·h);  c = σ(f)·c + σ(i)·tanh(g);  h = σ(o)·tanh(N(c))
 *   GRU   (r, z, n) with r, z = σ(N(W_ih·x) + N(W_hh·h)), n = tanh(N(W_ih·x) + r·N(W_hh·h));  h = (1 − z)·n + z·h */
typedef enum ek_recurrent_norm {
    EK_RECURRENT_NO_NORM = 0,
    /* Over the units of one step of one sequence (Ba, Kiros, Hinton 2016, arXiv:1607.06450): all four gates of an LSTM
     * together; of a GRU r and z together and n by itself. */
    EK_RECURRENT_LAYER_NORM = 1,
    /* Over the batch, with statistics of its own for each time step (Cooijmans et al. 2017, arXiv:1603.09025): over the
     * sequences that have this step.  Fewer than two of them, and evaluation, use the running statistics of the step:
     * of the last one before it that has some, for steps that never had two sequences or lie beyond max_steps.
     * Backward in time, steps count from the end of each sequence. */
    EK_RECURRENT_BATCH_NORM = 2
} ek_recurrent_norm;

typedef struct ek_recurrent_opts {
    int64_t num_layers;            /* default 1 */
    bool bias;                     /* default true; also the norms' biases */
    double dropout;                /* on the output of every layer but the last, in training; default 0 */
    bool bidirectional;            /* a second pass from each sequence's end; outputs side by side; default false */
    ek_nonlinearity nonlinearity;  /* of ek_rnn, the others have no choice; default tanh */
    ek_recurrent_norm norm;        /* default EK_RECURRENT_NO_NORM */
    double eps;                    /* of the norm; default 1e-5 */
    double momentum;               /* BatchNorm's update fraction, or EK_MOMENTUM_CUMULATIVE; default 0.1 */
    int64_t max_steps;             /* BatchNorm keeps running statistics for so many steps; default 64 */
    ek_norm_statistics statistics; /* BatchNorm's choice; default EK_STATS_AUTO */
} ek_recurrent_opts;
EK_API ek_recurrent_opts ek_recurrent_opts_default(void);

/* Elman's RNN, h = f(W_ih·x + b_ih + W_hh·h + b_hh), LSTM and GRU as torch.nn has them: names, gate order (i, f, g, o;
 * r, z, n), uniform initialisation in ±1/√hidden_size.  (N, T, input) or (T, N, input) → the same with hidden_size, or
 * twice that for both directions, in place of input.
 *
 * Where x carries lengths (for this batch and time axis; else EK_ERR_SHAPE) each sequence is run over its valid steps
 * alone: the output is 0 in the padding and carries the lengths, the final state is that of the last valid step, and
 * nothing flows into the padding.  Work is proportional to Σ lengths.
 *
 * Parameters of layer k: weight_ih_lk, weight_hh_lk, bias_ih_lk, bias_hh_lk, and with _reverse for the second
 * direction.  With a norm bias_ih and bias_hh are the norms' biases, which start at 0, beside gain_ih_lk and gain_hh_lk,
 * and for an LSTM gain_c_lk, bias_c_lk; gains start at 1 (LayerNorm) or 0.1 (BatchNorm, as its authors advise).
 * BatchNorm's buffers: running_mean_ih_lk, running_var_ih_lk, … _hh_lk, … _c_lk (max_steps, units),
 * num_batches_tracked_lk (max_steps). */
EK_API ek_module *ek_rnn(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout,
                         const ek_recurrent_opts *opts);
EK_API ek_module *ek_lstm(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout,
                          const ek_recurrent_opts *opts);
EK_API ek_module *ek_gru(int64_t input_size, int64_t hidden_size, ek_sequence_layout layout,
                         const ek_recurrent_opts *opts);

/* States of all layers, (num_layers·directions, N, hidden_size), in the order layer 0 forward, layer 0 reverse, layer 1
 * forward, …; c is the LSTM's cell state, NULL for the others. */
typedef struct ek_recurrent_state {
    ek_tensor *h, *c;
} ek_recurrent_state;
/* ek_forward() of a recurrent layer with states: `initial` (NULL, or NULL members: zeros), and `final` (may be NULL),
 * which receives tensors of the tape, each sequence's state after its last valid step.  Clone what is to be the initial
 * state of another tape's forward. */
EK_API ek_tensor *ek_recurrent_forward(ek_module *layer, ek_tape *tape, ek_tensor *x,
                                       const ek_recurrent_state *initial, ek_recurrent_state *final);

#ifdef __cplusplus
}
namespace evenkeel {
template <class... Modules> inline ek_module *make_sequential(Modules... modules)
{
    ek_module *const list[] = {modules...};
    return ek_sequential_from(static_cast<int>(sizeof...(Modules)), list);
}
}
#define ek_sequential(...) (evenkeel::make_sequential(__VA_ARGS__))
#else
#define ek_sequential(...)                                                                                             \
    ek_sequential_from((int)(sizeof((ek_module *[]){__VA_ARGS__}) / sizeof(ek_module *)), (ek_module *[]){__VA_ARGS__})
#endif
#endif
