/* What the optimizers share: groups of tensors with state, and one pass over memory, in one parallel loop, per step. */
#ifndef EK_OPTIMIZER_H
#define EK_OPTIMIZER_H

#include <evenkeel/optim.h>

#include "core.h"

#include <math.h>

enum { EK_STATE_TENSORS = 3 };

/* The update of one tensor, as its kernel sees it. */
typedef struct ek_update {
    const ek_optimizer *optimizer;
    ek_dtype dtype;
    double lr, weight_decay; /* of the group; weight_decay is 0 for a tensor that is spared */
    double gradient_scale;   /* of clipping; 1 without */
    double factor[2];        /* what the kind's prepare() leaves for its kernel */
    int64_t step;            /* updates of this tensor, this one included: 1, 2, … */
    int64_t n;               /* its elements; 0: none are updated */
    void *parameter;         /* [n] */
    const void *gradient;    /* [n] */
    void *state[EK_STATE_TENSORS]; /* [n] each; NULL where the options need none */
} ek_update;

typedef struct ek_optimizer_kind {
    const char *name;
    const char *state_name[EK_STATE_TENSORS]; /* torch.optim's */
    /* Numbers that are the same for all elements; may be NULL. */
    void (*prepare)(ek_update *update);
    /* By dtype: updates elements begin … end−1.  An element's bits do not depend on where a range begins. */
    void (*update[2])(const ek_update *update, int64_t begin, int64_t end);
} ek_optimizer_kind;

typedef struct ek_trained {
    ek_tensor *parameter;                /* retained */
    ek_tensor *state[EK_STATE_TENSORS];  /* made when the parameter is first updated */
    int64_t step;
    ek_update update; /* while a step runs */
} ek_trained;

typedef struct ek_group {
    double lr, weight_decay;
    double initial_lr; /* what schedules scale */
    int n;
    ek_trained *slots;
} ek_group;

struct ek_optimizer {
    const ek_optimizer_kind *kind;
    union {
        ek_sgd_opts sgd;
        ek_adam_opts adam;
        ek_rmsprop_opts rmsprop;
    } opts;
    ek_group_opts defaults; /* of groups: what the optimizer was made with */
    bool spares_norms_and_biases;
    bool has_state[EK_STATE_TENSORS];
    int n_groups;
    ek_group *groups;
    int64_t steps;
    double max_norm, grad_norm; /* INFINITY: no clipping; of the last step */
};

/* A new optimizer without groups, defaults and opts still to be set.  NULL after ek_fail. */
ek_optimizer *ek_optimizer_new(const ek_optimizer_kind *kind, ek_group_opts defaults, bool decay_norms_and_biases);
/* The end of a constructor: adds the module, or the tensors, as the first group (none for n = 0).  Returns the
 * optimizer, or frees it and returns NULL.  NULL propagates. */
ek_optimizer *ek_optimizer_with_module(ek_optimizer *optimizer, ek_module *module);
ek_optimizer *ek_optimizer_with_tensors(ek_optimizer *optimizer, ek_tensor *const *tensors, int n);

/* low ≤ value < high, or the failure that says so; high may be INFINITY, and low −INFINITY. */
ek_status ek_check_option(const char *who, const char *option, double value, double low, double high);

/* State tensor `name` ("exp_avg") of tensor i of a group; NULL when there is none (yet). */
ek_tensor *ek_optimizer_state(const ek_optimizer *optimizer, int group, int i, const char *name);

/* Passes over many tensors are cut into parts, by the sizes of the tensors alone.  Each part has the same share of every
 * large tensor, so that a thread has the rows of a weight that it also computes in the products of the forward and the
 * backward: to write memory that another core has read takes sixteen times as long as what no other has (measured,
 * docs/design-notes.md).  Small tensors are whole: in the first part, which is the calling thread's as small products
 * are, or spread over all parts where there are many. */
enum { EK_MOST_PARTS = 64, EK_SMALL_TENSOR = 32768, EK_MANY_SMALL = 1 << 20 };
typedef struct ek_parts {
    int64_t n;     /* number of parts, at least 1 */
    int64_t small; /* elements in small tensors */
} ek_parts;
/* Counts a tensor; begin with {0}: `n` is the number of elements until ek_parts_cut. */
static inline void ek_parts_add(ek_parts *parts, int64_t numel)
{
    parts->n += numel;
    parts->small += numel <= EK_SMALL_TENSOR ? numel : 0;
}
static inline void ek_parts_cut(ek_parts *parts)
{
    const int64_t most = parts->n / EK_GRAIN;
    parts->n = most < 1 ? 1 : most > EK_MOST_PARTS ? EK_MOST_PARTS : most;
}
/* Elements *begin … *end−1 of a tensor of so many are in this part; *small_before: elements of the small tensors before
 * it, counted on from 0. */
static inline void ek_parts_range(const ek_parts *parts, int64_t part, int64_t numel, int64_t *small_before,
                                  int64_t *begin, int64_t *end)
{
    const int64_t line = EK_ALIGNMENT / 4, per_part = numel / parts->n / line * line;
    if (numel > EK_SMALL_TENSOR) {
        *begin = part * per_part;
        *end = part == parts->n - 1 ? numel : *begin + per_part;
        return;
    }
    const int64_t place = parts->small < EK_MANY_SMALL ? 0 : *small_before / (parts->small / parts->n + 1);
    *small_before += numel;
    *begin = 0;
    *end = place == part ? numel : 0;
}

/* √Σ g² over all gradients of an optimizer, and what clipping multiplies them by. */
double ek_gradient_norm(const ek_optimizer *optimizer);
double ek_clip_coefficient(double norm, double max_norm);

#endif
