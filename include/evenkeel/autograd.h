/* Tape, backward pass, gradient check, and every op.
 *
 * An op takes the tape first, then its inputs, and returns a tensor that belongs to the tape.  It records itself when
 * the tape records and an input requires a gradient.  An op that fails returns NULL; NULL inputs propagate, and the
 * tape keeps its first error until ek_tape_reset(), so one check per step is enough.  Shapes broadcast as in NumPy
 * where an op says so; types never convert by themselves: the float inputs of one op are all float32 or all float64.
 */
#ifndef EVENKEEL_AUTOGRAD_H
#define EVENKEEL_AUTOGRAD_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- tape ------------------------------------------------------------------------------------------------------- */
typedef struct ek_tape ek_tape;

/* A tape records (for backward) from the start.  It grows by itself, and after the first steps of a training loop
 * takes no more memory from the allocator. */
EK_API ek_tape *ek_tape_new(void);
/* Frees the tape and every tensor on it. */
EK_API void ek_tape_free(ek_tape *tape);
/* Recycles every tensor on the tape and clears its error.  Tensors it returned are invalid from here on. */
EK_API void ek_tape_reset(ek_tape *tape);
/* Recording off: inference, nothing is kept for backward.  To be set while the tape is empty (EK_ERR_STATE). */
EK_API ek_status ek_tape_set_recording(ek_tape *tape, bool recording);
EK_API bool ek_tape_recording(const ek_tape *tape);
/* The first failure since the last reset: its status and message (EK_OK and "" if none). */
EK_API ek_status ek_tape_status(const ek_tape *tape);
EK_API const char *ek_tape_error(const ek_tape *tape);
/* Bytes this tape has taken from the allocator. */
EK_API size_t ek_tape_bytes(const ek_tape *tape);

/* Adds d loss / d leaf to the gradient of every leaf that requires one.  `loss` has one element.  One backward per
 * recording: reset the tape before the next.  A loss that does not depend on such a leaf is EK_ERR_STATE.  When it
 * fails half-way (out of memory, a failing op of your own) the gradients of all leaves on the tape are cleared. */
EK_API ek_status ek_backward(ek_tape *tape, ek_tensor *loss);
/* The same from any tensor y, given dL/dy in `dy` (same type and shape). */
EK_API ek_status ek_backward_from(ek_tape *tape, ek_tensor *y, const ek_tensor *dy);

/* x without its history: a tensor of the tape over the same memory, through which no gradient flows. */
EK_API ek_tensor *ek_detach(ek_tape *tape, ek_tensor *x);

/* ---- ops of your own -------------------------------------------------------------------------------------------- */
/* One application of an op.  Its fields are for the op's own functions, to read. */
typedef struct ek_op ek_op;
typedef struct ek_node {
    const ek_op *op;
    int n_in;
    ek_tensor **in;    /* an optional input that was left out is NULL */
    ek_tensor *out;    /* allocated, of the shape `infer` gave */
    void *attributes;  /* the tape's copy of what ek_apply was given */
    void *saved;       /* for the op: what forward leaves for backward, from ek_node_save() */
    ek_tape *tape;
    bool recorded;     /* a backward may follow */
    const ek_lengths *const *lengths; /* [n_in] what each input carried, NULL where nothing; NULL: none carried any */
} ek_node;

/* An op of the library and one of yours are the same thing: a name, a shape rule, a forward and a backward.  The
 * functions return EK_OK, or what ek_fail() returned. */
struct ek_op {
    const char *name;
    int optional_from; /* inputs from this index on may be left out (NULL); 0: none may */
    /* Checks the inputs and gives the output's type and shape, which on entry are those of the first input. */
    ek_status (*infer)(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
    /* By float type of the first float input: [EK_F32], [EK_F64].  `forward` fills node->out.  `backward` fills, for
     * each input i, the buffer that ek_node_grad_in(node, i) gives it, from ek_node_grad_out(node).  One that is NULL
     * is EK_ERR_ARGUMENT when it is needed. */
    ek_status (*forward[2])(ek_node *node);
    ek_status (*backward[2])(ek_node *node);
    unsigned flags;
    /* When an input carries lengths (tensor.h): says in *lengths which ones the output carries; it holds NULL on entry,
     * for none.  node->out has its shape, and no values yet.  Left out: none.  ek_keep_lengths() is the rule of an op
     * that treats every step alike. */
    ek_status (*lengths)(const ek_node *node, const ek_lengths **lengths);
};
/* ek_op.flags: backward adds to the buffers it is given, which then hold zeros or the sum so far, instead of
 * overwriting them; for ops whose backward touches a small part of a large input. */
#define EK_OP_ADDS_GRADIENT 1u

/* Applies an op to n_in inputs, in which NULL stands for an optional input left out (an input that is NULL because an
 * op failed is caught through the tape's error).  `attributes` are copied. */
EK_API ek_tensor *ek_apply(ek_tape *tape, const ek_op *op, int n_in, ek_tensor *const *in, const void *attributes,
                           size_t attribute_bytes);
/* In forward: memory that backward finds again as node->saved.  64-byte aligned, not cleared.  NULL on failure (return
 * EK_ERR_MEMORY then). */
EK_API void *ek_node_save(ek_node *node, size_t bytes);
/* The lengths that input i carried in the forward; NULL if none. */
EK_API const ek_lengths *ek_node_lengths(const ek_node *node, int i);
/* A rule for ek_op.lengths: the output carries what the inputs do, on the same axes.  EK_ERR_SHAPE when two inputs
 * differ in that; none when the output has not these axes. */
EK_API ek_status ek_keep_lengths(const ek_node *node, const ek_lengths **lengths);
/* Memory until the running forward or backward function returns.  NULL on failure. */
EK_API void *ek_node_scratch(ek_node *node, size_t bytes);
/* In backward: dL/d out, same layout as node->out. */
EK_API const void *ek_node_grad_out(const ek_node *node);
/* In backward: where dL/d in[i] goes; NULL when in[i] needs none (or memory ran out, which is reported by itself).
 * Every element has to be written. */
EK_API void *ek_node_grad_in(ek_node *node, int i);

/* ---- gradient check --------------------------------------------------------------------------------------------- */
/* A function of float64 inputs, built from ops on `tape`; its result may have any shape. */
typedef ek_tensor *(*ek_gradcheck_fn)(ek_tape *tape, ek_tensor *const *inputs, void *user);

typedef struct ek_gradcheck_opts {
    double step;          /* h of the five-point difference, relative to max(1, |x|); default 1e-3 */
    double tolerance;     /* default 1e-7 */
    uint64_t seed;        /* of the random cotangent; default 0 */
    int64_t max_elements; /* differentiate at most so many elements of each input, evenly spread; 0 = all (default) */
} ek_gradcheck_opts;
EK_API ek_gradcheck_opts ek_gradcheck_opts_default(void);

typedef struct ek_gradcheck_result {
    double error;        /* max |analytic − numeric| / max(1, max |numeric|), over all inputs */
    int worst_input;     /* where |analytic − numeric| was largest: input, flat index, both values */
    int64_t worst_index;
    double analytic, numeric;
    int64_t checked;     /* number of derivatives compared */
} ek_gradcheck_result;

/* Compares backward with central differences, numeric = (f(x−2h) − 8f(x−h) + 8f(x+h) − f(x+2h)) / 12h, of
 * L = Σ c·f(inputs) for a random cotangent c.  Every input that requires a gradient is checked; all float inputs have
 * to be float64.  EK_OK when error ≤ tolerance; EK_ERR_ARGUMENT with the worst place in the message when not; `result`
 * (may be NULL) is filled in both cases.  Inputs are left as they were, their gradients cleared; other leaves (the
 * parameters of a module that is called) get no gradient; running statistics and random counters of modules do not
 * move, so dropout draws the same mask each time.  Keep inputs away from kinks (relu
 * at 0, ties of a max) by more than 2h. */
EK_API ek_status ek_gradcheck(ek_gradcheck_fn fn, void *user, ek_tensor *const *inputs, int n_inputs,
                              const ek_gradcheck_opts *opts, ek_gradcheck_result *result);

/* ---- arithmetic, with NumPy's broadcasting ---------------------------------------------------------------------- */
EK_API ek_tensor *ek_add(ek_tape *tape, ek_tensor *a, ek_tensor *b);
EK_API ek_tensor *ek_sub(ek_tape *tape, ek_tensor *a, ek_tensor *b);
EK_API ek_tensor *ek_mul(ek_tape *tape, ek_tensor *a, ek_tensor *b);
EK_API ek_tensor *ek_div(ek_tape *tape, ek_tensor *a, ek_tensor *b);
/* y = scale·x + shift, for numbers that are no tensors. */
EK_API ek_tensor *ek_affine(ek_tape *tape, ek_tensor *x, double scale, double shift);

/* op(a)·op(b), where op transposes the last two axes if asked.  Rank ≥ 2; leading axes are batch axes and broadcast.
 * (…, M, K)·(…, K, N) → (…, M, N). */
EK_API ek_tensor *ek_matmul(ek_tape *tape, ek_tensor *a, ek_tensor *b, bool transpose_a, bool transpose_b);
/* x·wᵀ + b, torch.nn.functional.linear.  x (…, in), w (out, in), b (out) or NULL → (…, out). */
EK_API ek_tensor *ek_linear_op(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b);
/* ek_relu(ek_linear_op(x, w, b)) in one op, bit for bit. */
EK_API ek_tensor *ek_linear_relu(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b);

/* ---- reductions and shapes -------------------------------------------------------------------------------------- */
/* Sum and mean over the named axes (EK_AXES(…), EK_ALL_AXES); keepdim leaves them with size 1.  The mean over no
 * elements is NaN, as in NumPy. */
EK_API ek_tensor *ek_sum(ek_tape *tape, ek_tensor *x, ek_axes axes, bool keepdim);
EK_API ek_tensor *ek_mean(ek_tape *tape, ek_tensor *x, ek_axes axes, bool keepdim);
/* The ops from here to ek_concat move elements whatever they are: int64 too, through which no gradient flows.
 * A view of the same elements; one dimension may be −1. */
EK_API ek_tensor *ek_reshape(ek_tape *tape, ek_tensor *x, ek_shape shape);
/* Joins axes start … end (inclusive) into one; a view. */
EK_API ek_tensor *ek_flatten(ek_tape *tape, ek_tensor *x, int start, int end);
/* out axis i = in axis order[i]; a copy. */
EK_API ek_tensor *ek_permute(ek_tape *tape, ek_tensor *x, ek_axes order);
/* Elements start … stop−1 of an axis; negative bounds count from the end, bounds outside the axis are EK_ERR_ARGUMENT.
 * A view when it is the leading axis, or all before it have size 1. */
EK_API ek_tensor *ek_slice(ek_tape *tape, ek_tensor *x, int axis, int64_t start, int64_t stop);
/* Joins n ≥ 1 tensors along an axis. */
EK_API ek_tensor *ek_concat(ek_tape *tape, ek_tensor *const *xs, int n, int axis);

/* ---- padded sequences -------------------------------------------------------------------------------------------- */
/* What ops do with lengths (tensor.h).  Where inputs have to agree and do not, it is EK_ERR_SHAPE.
 *
 *   elementwise, dropout, softmax, norms  kept; add, sub, mul, div: of all inputs that carry some, on the axes they
 *                                         have after broadcasting, unless repeated along one of them
 *   linear                                x's kept, unless the last axis is one of the two
 *   matmul                                kept on leading axes, rows of op(a), columns of op(b); rows before columns
 *   sum, mean                             kept, renumbered, unless summed over one of the two
 *   reshape, flatten                      kept where both axes are still there with as many elements before them
 *   permute                               follow their axes
 *   slice                                 of the batch: of those sequences; of time: the valid steps within, maybe none
 *   concat                                along the batch: one after the other (all steps valid where there are none);
 *                                         along time: none; along another axis: kept, all have to agree
 *   conv, pool                            kept where batch and time keep their size with stride 1 (conv: and none is
 *                                         the channel axis); windows read the padding, so ek_zero_padding() first
 *   embedding                             those of the indices
 *   losses                                valid positions count; EK_REDUCE_NONE keeps them, with 0 in the padding
 *   pack, pool_time                       used up; unpack, with_lengths: those of `like`
 *
 * Softmax, sum and mean along the time axis itself take the padding in; ek_pool_time() does not. */

/* The orders in which the valid steps of a padded tensor become rows. */
typedef enum ek_row_order {
    EK_ROWS_BY_SEQUENCE = 0, /* sequence after sequence, each in the order of time */
    EK_ROWS_BY_STEP,         /* first steps of all sequences, then second steps, …: sequences from the longest to the
                                shortest (equal ones in the order of the batch), so that the rows of a step are the
                                sequences that have one */
    EK_ROWS_BY_STEP_REVERSED /* the same with each sequence read from its end */
} ek_row_order;
/* The valid steps of x, which has to carry lengths (EK_ERR_STATE), as rows: (Σ lengths, other axes of x in their
 * order…).  The padding gets no gradient. */
EK_API ek_tensor *ek_pack(ek_tape *tape, ek_tensor *x, ek_row_order order);
/* The way back: rows (Σ lengths, …) to a tensor with the lengths of `like`, its batch and time axis where `like` has
 * them, and the other axes of `rows` around them; 0 in the padding.  `like` gives lengths and axes only. */
EK_API ek_tensor *ek_unpack(ek_tape *tape, ek_tensor *rows, const ek_tensor *like, ek_row_order order);
/* The same elements as x with the lengths of `like`, none where that carries none or is NULL: a view.  EK_ERR_SHAPE
 * when the batch and time axis of `like` have another size in x. */
EK_API ek_tensor *ek_with_lengths(ek_tape *tape, ek_tensor *x, const ek_tensor *like);
/* x with zeros in the padding, through which no gradient flows; x itself when it carries no lengths. */
EK_API ek_tensor *ek_zero_padding(ek_tape *tape, ek_tensor *x);

typedef enum ek_time_pooling { EK_POOL_MEAN = 0, EK_POOL_MAX = 1, EK_POOL_LAST = 2 } ek_time_pooling;
/* Takes the mean, the largest value (NaN wins) or the last one along an axis, which the output no longer has: over the
 * valid steps where x carries lengths, whose time axis has to be this one (EK_ERR_SHAPE), over all elsewhere.  0 where
 * there is no step.  The first of equal largest values gets the gradient, the padding exactly 0.  The result of a
 * sequence has the same bits whatever it was padded to. */
EK_API ek_tensor *ek_pool_time(ek_tape *tape, ek_tensor *x, int time_axis, ek_time_pooling pooling);

/* ---- elementwise ------------------------------------------------------------------------------------------------ */
EK_API ek_tensor *ek_exp(ek_tape *tape, ek_tensor *x);
EK_API ek_tensor *ek_log(ek_tape *tape, ek_tensor *x);
EK_API ek_tensor *ek_sqrt(ek_tape *tape, ek_tensor *x);
EK_API ek_tensor *ek_pow(ek_tape *tape, ek_tensor *x, double exponent);
EK_API ek_tensor *ek_abs(ek_tape *tape, ek_tensor *x);                                   /* derivative at 0: 0 */
EK_API ek_tensor *ek_clamp(ek_tape *tape, ek_tensor *x, double low, double high);        /* ±INFINITY: no bound */
EK_API ek_tensor *ek_relu(ek_tape *tape, ek_tensor *x);                                  /* derivative at 0: 0 */
EK_API ek_tensor *ek_leaky_relu(ek_tape *tape, ek_tensor *x, double negative_slope);     /* PyTorch's default: 0.01 */
EK_API ek_tensor *ek_gelu(ek_tape *tape, ek_tensor *x);                                  /* x·Φ(x), not by tanh */
EK_API ek_tensor *ek_silu(ek_tape *tape, ek_tensor *x);                                  /* x·σ(x) */
EK_API ek_tensor *ek_sigmoid(ek_tape *tape, ek_tensor *x);
EK_API ek_tensor *ek_tanh(ek_tape *tape, ek_tensor *x);
/* log(1 + exp(βx))/β, and x itself where βx > threshold (PyTorch's defaults: 1 and 20). */
EK_API ek_tensor *ek_softplus(ek_tape *tape, ek_tensor *x, double beta, double threshold);

/* ---- softmax and losses ----------------------------------------------------------------------------------------- */
EK_API ek_tensor *ek_softmax(ek_tape *tape, ek_tensor *x, int axis);
EK_API ek_tensor *ek_log_softmax(ek_tape *tape, ek_tensor *x, int axis);

typedef enum ek_reduction { EK_REDUCE_MEAN = 0, EK_REDUCE_SUM = 1, EK_REDUCE_NONE = 2 } ek_reduction;

typedef struct ek_cross_entropy_opts {
    ek_reduction reduction; /* default mean: over the targets that are not ignored */
    int64_t ignore_index;   /* targets of this value count nothing; default −100 */
    double label_smoothing; /* ε in [0, 1]: target mass 1 − ε + ε/C on the label, ε/C elsewhere; default 0 */
} ek_cross_entropy_opts;
EK_API ek_cross_entropy_opts ek_cross_entropy_opts_default(void);
/* −log softmax(logits)[target], softmax over axis 1.  logits (N, C) or (N, C, d1, …); target int64 (N) or (N, d1, …).
 * A target outside 0 … C−1 that is not ignore_index is EK_ERR_ARGUMENT.  Mean over no target is NaN, as in PyTorch.
 * Where logits (N, C, …, T, …) or target (N, …, T, …) carry lengths (or both, the same), positions in the padding are
 * ignored, whatever stands there: no loss, no part in the mean, gradient 0.  The batch axis has to be 0, and the time
 * axis of the logits behind that of the classes (EK_ERR_SHAPE). */
EK_API ek_tensor *ek_cross_entropy(ek_tape *tape, ek_tensor *logits, ek_tensor *target,
                                   const ek_cross_entropy_opts *opts);
/* At how many positions of (N, C, …) logits the largest value (the first of equals; NaN is largest) is at the target
 * (N, …); −1 on failure, which a target outside 0 … C−1 is.  Positions in the padding of either do not count: of
 * (N, C, T) logits with lengths there are ek_lengths.total that do.  Not an op. */
EK_API int64_t ek_count_correct(const ek_tensor *logits, const ek_tensor *target);

/* Elementwise losses of x against a target of the same shape, both differentiable.  Where one carries lengths (or both,
 * the same), losses in the padding are 0 and the mean is that of the valid elements. */
EK_API ek_tensor *ek_mse_loss(ek_tape *tape, ek_tensor *x, ek_tensor *target, ek_reduction reduction);
EK_API ek_tensor *ek_l1_loss(ek_tape *tape, ek_tensor *x, ek_tensor *target, ek_reduction reduction);
/* ½d² for |d| ≤ delta, delta·(|d| − ½·delta) beyond; delta > 0. */
EK_API ek_tensor *ek_huber_loss(ek_tape *tape, ek_tensor *x, ek_tensor *target, double delta, ek_reduction reduction);
/* −[t·log σ(x) + (1−t)·log(1−σ(x))], computed as max(x,0) − x·t + log(1 + exp(−|x|)). */
EK_API ek_tensor *ek_bce_with_logits(ek_tape *tape, ek_tensor *x, ek_tensor *target, ek_reduction reduction);

/* ---- convolution and pooling ------------------------------------------------------------------------------------- */
/* One-dimensional ops use index 0 of each pair; two-dimensional ones {height, width}. */
typedef struct ek_conv_opts {
    int64_t stride[2];   /* default 1 */
    int64_t padding[2];  /* zeros on both sides; default 0 */
    int64_t dilation[2]; /* default 1 */
    int64_t groups;      /* default 1 */
    bool relu;           /* y ← max(y, 0) on the way: ek_relu of the result, in one op, bit for bit; default false */
} ek_conv_opts;
EK_API ek_conv_opts ek_conv_opts_default(void);
/* Cross-correlation, as every framework calls convolution.  x (N, C, L), w (O, C/groups, K), b (O) or NULL →
 * (N, O, ⌊(L + 2p − d·(K−1) − 1)/s⌋ + 1). */
EK_API ek_tensor *ek_conv1d(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b, const ek_conv_opts *opts);
/* x (N, C, H, W), w (O, C/groups, KH, KW), b (O) or NULL.  Both: NaN or ±∞ in x reaches the outputs whose windows hold
 * it and no others, but any element of dw, also from where no window reads: zeros stand there in its sums. */
EK_API ek_tensor *ek_conv2d(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b, const ek_conv_opts *opts);

#define EK_STRIDE_IS_KERNEL (-1)
typedef struct ek_pool_opts {
    int64_t stride[2];      /* default EK_STRIDE_IS_KERNEL */
    int64_t padding[2];     /* at most half the kernel; default 0 */
    bool count_include_pad; /* average pooling divides by the whole kernel also at the border; default true */
} ek_pool_opts;
EK_API ek_pool_opts ek_pool_opts_default(void);
/* Windows of `kernel` = {size} or {height, width}.  Padding never wins a max; NaN does. */
EK_API ek_tensor *ek_max_pool1d(ek_tape *tape, ek_tensor *x, int64_t kernel, const ek_pool_opts *opts);
EK_API ek_tensor *ek_max_pool2d(ek_tape *tape, ek_tensor *x, int64_t kernel_h, int64_t kernel_w,
                                const ek_pool_opts *opts);
EK_API ek_tensor *ek_avg_pool1d(ek_tape *tape, ek_tensor *x, int64_t kernel, const ek_pool_opts *opts);
EK_API ek_tensor *ek_avg_pool2d(ek_tape *tape, ek_tensor *x, int64_t kernel_h, int64_t kernel_w,
                                const ek_pool_opts *opts);
/* Output i averages inputs ⌊i·L/O⌋ … ⌈(i+1)·L/O⌉−1. */
EK_API ek_tensor *ek_adaptive_avg_pool1d(ek_tape *tape, ek_tensor *x, int64_t out);
EK_API ek_tensor *ek_adaptive_avg_pool2d(ek_tape *tape, ek_tensor *x, int64_t out_h, int64_t out_w);

/* ---- dropout and embedding --------------------------------------------------------------------------------------- */
/* Zeroes each element with probability p, 0 ≤ p < 1, and scales the rest by 1/(1−p).  The mask is a function of *rng,
 * which is moved on by the number of draws. */
EK_API ek_tensor *ek_dropout(ek_tape *tape, ek_tensor *x, double p, ek_rng *rng);
/* Rows of table (V, D) by int64 indices of any shape → (…, D).  An index outside 0 … V−1 is EK_ERR_ARGUMENT; rows equal
 * to padding_idx get no gradient (EK_NO_PADDING_IDX: none). */
#define EK_NO_PADDING_IDX (-1)
EK_API ek_tensor *ek_embedding(ek_tape *tape, ek_tensor *table, ek_tensor *indices, int64_t padding_idx);

/* ---- normalize: every norm is this op --------------------------------------------------------------------------- */
/* A view factors the flat index of x as ((b·outer + o)·group + g)·inner + i; the group of an element is its pair
 * (b, g), so there are batch·group groups.  batch·outer·group·inner must be the number of elements of x. */
typedef struct ek_view {
    int64_t batch, outer, group, inner;
} ek_view;

typedef struct ek_switch_opts {
    bool instance;            /* mix IN statistics in; off for 1-D input, whose planes hold one value */
    bool batch;               /* mix BN statistics in */
    bool unbiased;            /* the published code's: SS/(S−1) within a plane (for S = 1: over C and over N) */
    ek_tensor *running_mean;  /* [C]: BN's pair comes from these (evaluation); NULL: from the batch */
    ek_tensor *running_var;
} ek_switch_opts;

typedef struct ek_normalize_opts {
    ek_view stats;              /* which elements share mean and variance */
    const int64_t *stats_outer; /* [stats.batch] where `outer` differs from batch to batch (sequences packed one after
                                   the other): their numbers, and stats.outer is 0; NULL elsewhere */
    ek_view affine;             /* which elements share weight and bias */
    double eps;                 /* inside the square root */
    bool center;                /* false: RMSNorm, m ≡ 0 and v = mean(x²) */
    bool relu;                  /* y ← max(y, 0) on the way: ek_relu of the result, in one op */
    ek_tensor *mean, *var;      /* [groups]: normalize by these instead of the input's own; both or neither */
    const ek_switch_opts *switchable; /* SwitchableNorm: a group of stats is a sample's channel; else NULL */
} ek_normalize_opts;

/* What the input's own statistics were, one pair per group of `stats` (per channel's batch pair for a switchable norm),
 * on the tape; biased variances. */
typedef struct ek_normalize_stats {
    const double *mean, *var;
    int64_t groups;
    int64_t count; /* elements per group; 0 where groups differ: stats_outer·inner of the group's batch then */
} ek_normalize_stats;

/* y = γ·(x − M)·(V + eps)^−½ + β, and γ ≡ 1, β ≡ 0 where weight or bias is NULL.  mean_weight and var_weight are the
 * switchable norm's logits ([3], [2] or [1] in the order IN, LN, BN), NULL otherwise.  Each is of x's type.  Variances
 * are biased; where V + eps is 0, or a group that is centered by its own mean has one element, rstd is 0.  `stats` (may
 * be NULL) receives the input's statistics when they were computed.  docs/norms-internals.md derives the backward
 * pass. */
EK_API ek_tensor *ek_normalize(ek_tape *tape, ek_tensor *x, ek_tensor *weight, ek_tensor *bias, ek_tensor *mean_weight,
                               ek_tensor *var_weight, const ek_normalize_opts *opts, ek_normalize_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
