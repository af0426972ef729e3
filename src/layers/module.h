/* The inside of a module, for layers, checkpoints and optimizers. */
#ifndef EK_MODULE_H
#define EK_MODULE_H

#include <evenkeel/layers.h>

#include "op.h"

/* A parameter or a buffer. */
typedef struct ek_slot {
    char *name;
    ek_tensor *tensor;
    ek_init init; /* of a parameter */
    double fill;  /* of a buffer: its first value */
    bool drawn;   /* a parameter has its first values */
    ek_tensor *converted; /* while ek_module_to runs */
} ek_slot;

typedef struct ek_slots {
    ek_slot *at;
    int n, capacity;
} ek_slots;

/* The weight and bias of a linear or convolution layer, first in its state (weights.c). */
typedef struct ek_weights {
    ek_tensor *weight; /* [out, …] */
    ek_tensor *bias;   /* [out], or NULL */
    int axis;          /* of the layer's output that has size `out`: 1 or −1 */
    bool standardized;
} ek_weights;

/* Where a layer keeps one running mean and variance, and the number of batches behind it. */
typedef struct ek_running_pair {
    ek_tensor *mean, *var; /* element `at` of both */
    int64_t at;
    ek_tensor *num_batches_tracked; /* element `tracked_at` */
    int64_t tracked_at;
} ek_running_pair;

struct norm_traits;

struct ek_module {
    ek_module_def def;
    char *description;
    char *name; /* in its parent; NULL for a root */
    ek_module *parent;
    int index; /* among the parent's children */
    ek_module **children;
    int num_children, children_capacity;
    ek_slots parameters, buffers;
    bool training;
    ek_dtype dtype;        /* of parameters added from now on */
    int64_t uninitialised; /* parameters without values and modules never initialised, here and below */
    bool initialised;
    ek_observer observer;
    void *observer_user;
    ek_module *condemned; /* links what a failed constructor of a container frees */
    bool is_condemned;

    /* What only some layers have; their constructors set it. */
    ek_rng *rng;                              /* the stream a layer draws from: keyed by ek_module_init */
    void (*after_init)(ek_module *module);    /* parameters have just been drawn */
    /* A line of ek_module_summary about this layer, "" for none; `text` holds EK_NOTE_BYTES. */
    void (*note)(const ek_module *module, char *text);
    /* Of a layer with running statistics: changes which ones it uses, and counts the batches they refused. */
    void (*choose_statistics)(ek_module *module, ek_norm_statistics choice);
    int64_t *non_finite_batches;
    const ek_norm_statistics *statistics; /* the choice */
    int64_t num_pairs;                    /* of mean and variance; where number i is: */
    ek_running_pair (*running_pair)(const ek_module *module, int64_t i);
    /* [num_pairs] while ek_batch_norm_recalibrate runs: the layer normalizes by the statistics of the batch, whatever
     * its mode, and joins them in here instead of moving the running ones. */
    struct ek_pooled *pooled;
    /* [num_pairs] of the module since ek_module_begin_pooling(): the micro-batches so far. */
    struct ek_pooled *gathered;
    const double *momentum;
    bool takes_relu;  /* a layer that asks ek_module_takes_relu() */
    ek_weights *weights; /* of a linear or convolution layer */
    /* Of a layer that normalizes: its norm number i, for reports; false past the last. */
    bool (*norm_at)(const ek_module *module, int i, struct norm_traits *traits);
    bool is_activation;        /* f(x) element by element, and nothing else */
    bool (*is_flat)(double y); /* does an activation's output y lie at one of its flat ends?  NULL: it has none */
    int bias_axis;    /* ends by adding a bias along this axis of its output (1 or −1); 0: it does not */
    int centers_axis; /* takes the mean of each index of this axis (1 or −1) away: a bias along it is lost; 0: no */
};

enum { EK_NOTE_BYTES = 160, EK_NAME_BYTES = 256, EK_MAX_FORWARD_DEPTH = 1000 };

/* The module after m in the tree below and including `root`: a module before its children.  NULL after the last.
 *   for (ek_module *m = root; m; m = ek_module_next(root, m)) */
ek_module *ek_module_next(const ek_module *root, const ek_module *m);
ek_module *ek_module_root(ek_module *module);
/* Writes the name of `module` (with `leaf`, a slot of it, unless that is NULL) relative to `root`, or to the top of the
 * tree for NULL; where it does not fit, its end.  Returns its whole length. */
size_t ek_module_name(const ek_module *module, const ek_module *root, const char *leaf, char *text, size_t bytes);
/* Room for the longest name relative to `root` of any slot at or below `module`; ek_release() it.  NULL on failure. */
char *ek_module_name_buffer(const ek_module *module, const ek_module *root, size_t *bytes);
/* Draws with seed 0 what never was drawn in the whole tree that `module` belongs to.  Costs nothing when there is
 * nothing to do. */
ek_status ek_module_ready(ek_module *module);
void ek_module_count_uninitialised(ek_module *module, int64_t change);
/* ek_forward with another function in place of the module's own. */
typedef ek_tensor *(*ek_forward_fn)(ek_module *module, ek_tape *tape, ek_tensor *x, void *user);
ek_tensor *ek_forward_by(ek_module *module, ek_tape *tape, ek_tensor *x, ek_forward_fn forward, void *user);
/* In a layer's forward: true when the ReLU after it is to be done there, which then is settled. */
bool ek_module_takes_relu(const ek_module *module, ek_tape *tape);
bool ek_module_is_relu(const ek_module *module);
/* Does anybody see the output of `module`? */
bool ek_module_is_watched(const ek_module *module, const ek_tape *tape);
/* Shows y, which it made of x, to whoever observes `module`. */
ek_status ek_module_show(ek_module *module, ek_tape *tape, const ek_tensor *x, ek_tensor *y);
/* Frees what has no parent among n modules, each once, whatever is NULL or twice among them. */
void ek_module_free_all(int n, ek_module *const *modules);
/* ek_module_add_child for two modules that are there and no cycle; `child` stays the caller's when it fails. */
ek_status ek_module_attach(ek_module *module, const char *name, ek_module *child);
/* The status for a NULL that stands for a failed constructor: why that failed. */
ek_status ek_cause_of_null(void);
/* The end of a constructor: the module if it is complete, or NULL after freeing it. */
ek_module *ek_module_complete(ek_module *module, bool complete);
/* Takes the last slot away, or all of them. */
void ek_slots_drop_last(ek_slots *slots);
void ek_slots_free(ek_slots *slots);
/* Is it one of ek_sequential, of ek_residual? */
bool ek_module_is_sequential(const ek_module *module);
bool ek_module_is_residual(const ek_module *module);

/* ---- linear and convolution layers (weights.c) ------------------------------------------------------------------- */
/* Adds weight and bias (if wanted), both uniform in ±1/√fan_in; false when that failed or weights cannot be
 * standardized. */
bool ek_weights_add(ek_module *module, ek_shape shape, double fan_in, int axis, bool bias, bool standardized);
/* The weight to be used: as it is, or standardized. */
ek_tensor *ek_weights_use(ek_tape *tape, const ek_weights *weights);
#define EK_STANDARDIZED_TEXT ", weight standardization"
#define EK_NO_BIAS_TEXT ", no bias"

/* ---- dropout (dropout.c) ----------------------------------------------------------------------------------------- */
/* A stream of masks; it moves with forwards that succeed.  Its owner sets module->rng to &stream.rng. */
typedef struct ek_dropout_stream {
    double p;
    ek_rng rng;     /* keyed and set back by ek_module_init */
    uint64_t ahead; /* draws of the forward that is running, so that a second use in it draws another mask */
} ek_dropout_stream;
/* x with the next mask of a stream that is part of the module's state. */
ek_tensor *ek_dropout_draw(ek_module *module, ek_dropout_stream *stream, ek_tape *tape, ek_tensor *x);

/* ---- options in pairs: {height, width}, or index 0 alone where dims is 1 (describe.c) --------------------------- */
/* Writes "3" or "3x5". */
void ek_describe_sizes(char *text, size_t bytes, const int64_t *size, int dims);
/* Appends ", stride 2" unless the value is the usual one. */
void ek_describe_option(char *text, size_t bytes, const char *option, const int64_t *value, int dims, int64_t usual);
/* EK_ERR_ARGUMENT for a value below `least`. */
ek_status ek_check_sizes(const char *who, const char *option, const int64_t *value, int dims, int64_t least);

#endif
