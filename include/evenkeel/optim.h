/* Optimizers, gradient clipping and learning-rate schedules.
 *
 * The updates, names and defaults are those of torch.optim (PyTorch 1.13).  Below, θ is a parameter, g its gradient, λ
 * weight_decay, t the number of updates this parameter has seen, this one included.  λθ is added to g first, where
 * nothing else is said.
 */
#ifndef EVENKEEL_OPTIM_H
#define EVENKEEL_OPTIM_H

#include "layers.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- optimizers ------------------------------------------------------------------------------------------------- */
/* An optimizer updates tensors in groups, each with a learning rate and a weight decay of its own.  It holds on to its
 * tensors (they are reference-counted), so it and the module may be freed in either order.  A module or tensor given to
 * two optimizers is updated by both. */
typedef struct ek_optimizer ek_optimizer;

/* Each optimizer can be made from a module (all its parameters; a module that was never initialised is, with seed 0) or
 * from a list of n leaves that require a gradient.  With n = 0 it is empty until ek_optimizer_add_group().  In each,
 * decay_norms_and_biases = false keeps weight decay off the parameters of norms and off biases (those that were added
 * with decays = false); tensors made outside a module always decay.  NULL on failure: EK_ERR_ARGUMENT for a rate or an
 * option outside its range, a tensor that is named twice or requires no gradient; EK_ERR_STATE for one of a tape. */

typedef struct ek_sgd_opts {
    double momentum;             /* μ; default 0 */
    double dampening;            /* default 0; the first update is not dampened */
    double weight_decay;         /* default 0 */
    bool nesterov;               /* needs momentum > 0 and dampening = 0; default false */
    bool decay_norms_and_biases; /* default true */
} ek_sgd_opts;
EK_API ek_sgd_opts ek_sgd_opts_default(void);
/* b ← g at first, then μ·b + (1 − dampening)·g;  θ ← θ − lr·b, or θ − lr·(g + μ·b) with nesterov. */
EK_API ek_optimizer *ek_sgd(ek_module *module, double lr, const ek_sgd_opts *opts);
EK_API ek_optimizer *ek_sgd_tensors(ek_tensor *const *tensors, int n, double lr, const ek_sgd_opts *opts);

typedef struct ek_adam_opts {
    double betas[2];             /* default 0.9, 0.999; in [0, 1) */
    double eps;                  /* default 1e-8 */
    double weight_decay;         /* default 0; AdamW: 0.01 */
    bool amsgrad;                /* divide by the largest v so far; default false */
    bool decay_norms_and_biases; /* default true */
} ek_adam_opts;
typedef ek_adam_opts ek_adamw_opts;
EK_API ek_adam_opts ek_adam_opts_default(void);
EK_API ek_adamw_opts ek_adamw_opts_default(void);
/* m ← β1·m + (1 − β1)·g;  v ← β2·v + (1 − β2)·g²;  θ ← θ − lr/(1 − β1ᵗ) · m/(√v/√(1 − β2ᵗ) + eps).
 * Kingma and Ba 2015, arXiv:1412.6980; amsgrad: Reddi et al. 2018. */
EK_API ek_optimizer *ek_adam(ek_module *module, double lr, const ek_adam_opts *opts);
EK_API ek_optimizer *ek_adam_tensors(ek_tensor *const *tensors, int n, double lr, const ek_adam_opts *opts);
/* The same with decoupled decay: θ ← θ·(1 − lr·λ) first, and λθ is not added to g.  Loshchilov and Hutter 2019,
 * arXiv:1711.05101. */
EK_API ek_optimizer *ek_adamw(ek_module *module, double lr, const ek_adamw_opts *opts);
EK_API ek_optimizer *ek_adamw_tensors(ek_tensor *const *tensors, int n, double lr, const ek_adamw_opts *opts);

typedef struct ek_rmsprop_opts {
    double alpha;                /* α in [0, 1); default 0.99 */
    double eps;                  /* default 1e-8 */
    double weight_decay;         /* default 0 */
    double momentum;             /* μ; default 0 */
    bool centered;               /* subtract the squared mean gradient; default false */
    bool decay_norms_and_biases; /* default true */
} ek_rmsprop_opts;
EK_API ek_rmsprop_opts ek_rmsprop_opts_default(void);
/* v ← α·v + (1 − α)·g²;  with centered a ← α·a + (1 − α)·g and s = v − a², else s = v;  with momentum
 * b ← μ·b + g/(√s + eps) and θ ← θ − lr·b, else θ ← θ − lr·g/(√s + eps).  Hinton's lecture 6e. */
EK_API ek_optimizer *ek_rmsprop(ek_module *module, double lr, const ek_rmsprop_opts *opts);
EK_API ek_optimizer *ek_rmsprop_tensors(ek_tensor *const *tensors, int n, double lr, const ek_rmsprop_opts *opts);

/* NULL is left alone. */
EK_API void ek_optimizer_free(ek_optimizer *optimizer);

/* Updates every tensor that has a gradient.  One that has none is skipped, its state too.  A tensor's first update
 * makes its state; later ones take no memory.  EK_ERR_DTYPE when a tensor with state has changed its type since
 * (ek_module_to): make a new optimizer then.  When a step fails, nothing has moved. */
EK_API ek_status ek_optimizer_step(ek_optimizer *optimizer);
/* Forgets the gradient of every tensor, so that the next backward starts a new sum. */
EK_API void ek_optimizer_zero_grad(ek_optimizer *optimizer);
/* Number of steps that succeeded. */
EK_API int64_t ek_optimizer_num_steps(const ek_optimizer *optimizer);

/* ---- parameter groups ------------------------------------------------------------------------------------------- */
typedef struct ek_group_opts {
    double lr, weight_decay; /* default: what the optimizer was made with */
} ek_group_opts;
EK_API ek_group_opts ek_group_opts_default(const ek_optimizer *optimizer);
/* Adds a group; its index is the number of groups before.  A tensor that the optimizer has already is EK_ERR_ARGUMENT,
 * and nothing is added. */
EK_API ek_status ek_optimizer_add_group(ek_optimizer *optimizer, ek_tensor *const *tensors, int n,
                                        const ek_group_opts *opts);
EK_API ek_status ek_optimizer_add_module(ek_optimizer *optimizer, ek_module *module, const ek_group_opts *opts);
EK_API int ek_optimizer_num_groups(const ek_optimizer *optimizer);
/* The learning rate of a group; NaN with EK_ERR_ARGUMENT when there is no such group. */
EK_API double ek_optimizer_lr(const ek_optimizer *optimizer, int group);
EK_API ek_status ek_optimizer_set_group_lr(ek_optimizer *optimizer, int group, double lr);
/* Sets the learning rate of every group. */
EK_API ek_status ek_optimizer_set_lr(ek_optimizer *optimizer, double lr);

/* ---- gradient clipping ------------------------------------------------------------------------------------------ */
/* Scales all gradients by min(1, max_norm/(norm + 1e-6)), where norm = √Σ g² over all of them together, summed in
 * double; the norm before goes to *total_norm (may be NULL).  As torch.nn.utils.clip_grad_norm_: a norm that is not
 * finite is not caught but reaches every gradient.  max_norm = INFINITY only measures, where
 * PyTorch turns an infinite norm into NaN.  Tensors without a gradient do not count. */
EK_API ek_status ek_clip_grad_norm(ek_optimizer *optimizer, double max_norm, double *total_norm);
EK_API ek_status ek_clip_grad_norm_tensors(ek_tensor *const *tensors, int n, double max_norm, double *total_norm);
/* From now on every ek_optimizer_step() clips on its way, in place of ek_clip_grad_norm(optimizer, max_norm) before it:
 * the parameters get the same bits, with one pass over the gradients less, which themselves stay as they were.
 * max_norm = INFINITY, as at first, ends it; below 0 or NaN is EK_ERR_ARGUMENT. */
EK_API ek_status ek_optimizer_set_max_norm(ek_optimizer *optimizer, double max_norm);
/* The norm that the last step found; NaN when it did not clip. */
EK_API double ek_optimizer_grad_norm(const ek_optimizer *optimizer);
/* Cuts every element of every gradient to [−limit, limit]; NaN stays. */
EK_API ek_status ek_clip_grad_value(ek_optimizer *optimizer, double limit);
EK_API ek_status ek_clip_grad_value_tensors(ek_tensor *const *tensors, int n, double limit);

/* ---- learning-rate schedules ------------------------------------------------------------------------------------ */
typedef enum ek_schedule_kind {
    EK_SCHEDULE_CONSTANT,
    EK_SCHEDULE_STEP,
    EK_SCHEDULE_COSINE,
    EK_SCHEDULE_ONE_CYCLE
} ek_schedule_kind;

/* A learning rate as a pure function of the step 0, 1, 2, … (an epoch, if you count epochs).  Made by the functions
 * below; fields may be changed afterwards. */
typedef struct ek_schedule {
    ek_schedule_kind kind;
    double lr;                  /* where it starts; ONE_CYCLE: the peak */
    int64_t steps;              /* STEP: between two cuts; COSINE: from lr to lr_min; ONE_CYCLE: in all */
    double gamma;               /* STEP: what a cut multiplies by */
    double lr_min;              /* COSINE */
    double pct_start;           /* ONE_CYCLE: share of the steps that rises; default 0.3 */
    double div_factor;          /* ONE_CYCLE: starts at lr/div_factor; default 25 */
    double final_div_factor;    /* ONE_CYCLE: ends at lr/div_factor/final_div_factor; default 1e4 */
    int64_t warmup_steps;       /* before the schedule, which then starts at step warmup_steps; default 0 */
    double warmup_start_factor; /* the warm-up rises linearly from this share of lr to lr; default 1/3 */
} ek_schedule;

/* lr·gamma^⌊step/step_size⌋: torch.optim.lr_scheduler.StepLR. */
EK_API ek_schedule ek_schedule_step(double lr, int64_t step_size, double gamma);
/* lr_min + (lr − lr_min)·(1 + cos(π·step/t_max))/2: CosineAnnealingLR.  As there, it rises again after t_max. */
EK_API ek_schedule ek_schedule_cosine(double lr, int64_t t_max, double lr_min);
/* lr·(start_factor + (1 − start_factor)·min(step/warmup_steps, 1)): LinearLR, constant after the warm-up.  For a
 * warm-up before another schedule (SequentialLR) set that schedule's warmup_steps and warmup_start_factor. */
EK_API ek_schedule ek_schedule_warmup(double lr, int64_t warmup_steps, double start_factor);
/* Half a cosine up from max_lr/div_factor to max_lr, another down to max_lr/div_factor/final_div_factor at step
 * total_steps − 1, and that rate ever after: OneCycleLR with cosine annealing in two phases.  Momentum does not cycle
 * (cycle_momentum=False).  Smith and Topin 2018, arXiv:1708.07120. */
EK_API ek_schedule ek_schedule_one_cycle(double max_lr, int64_t total_steps);

/* The rate at a step; NaN with EK_ERR_ARGUMENT for a negative step or a field outside its range. */
EK_API double ek_schedule_lr(const ek_schedule *schedule, int64_t step);
/* Sets the rate of every group before the step is taken.  A group made with k times the optimizer's first learning rate
 * keeps the ratio: it gets k·ek_schedule_lr().  An optimizer made with lr = 0 knows no such ratio: EK_ERR_ARGUMENT. */
EK_API ek_status ek_schedule_apply(const ek_schedule *schedule, ek_optimizer *optimizer, int64_t step);

#ifdef __cplusplus
}
#endif
#endif
