/* Layers of the norm family on padded sequences, for tests that say how padding may matter: not at all. */
#ifndef EK_TEST_SUPPORT_NORM_LENGTHS_H
#define EK_TEST_SUPPORT_NORM_LENGTHS_H

#include "support_layers.h"

enum { N = 4, C = 6, H = 3 };

typedef ek_module *(*maker)(void);
/* Layers over C channels or features, with γ and β; `last`: channels last. */
ek_module *make_bn(void);
ek_batch_norm_opts last_opts(void);
ek_module *make_bn_last(void);
ek_module *make_in(void);
ek_module *make_in_last(void);
ek_module *make_in_tracked(void);
ek_module *make_gn_with(int64_t groups, int axis);
ek_module *make_gn(void);
ek_module *make_gn_last(void);
ek_module *make_ln(void);
ek_module *make_rms(void);
ek_module *make_ln_over_time(void);
ek_module *make_ln_over_time_and_two_axes(void);
ek_module *make_sn(void);
ek_module *make_sn_last(void);
ek_module *make_sn_reference(void);
ek_module *make_sn_without_batch(void);

/* axes: one letter for each axis of the input, N(umber), T(ime), C(hannels), H(eight).  per_sample: a sequence does not
 * see the others.  in_rows: packing leaves the order of memory, so a tensor without lengths gives the same bits. */
typedef struct subject {
    const char *name, *axes;
    maker make;
    bool per_sample, in_rows;
} subject;

enum { SUBJECTS = 28 };
extern const subject subjects[SUBJECTS];

/* Sequences padded to `steps`: valid[i·steps + s]. */
typedef struct batch {
    int64_t n, steps;
    const bool *valid;
    int64_t first;     /* index of the first sequence, whose numbers do not depend on the batch it stands in */
    double garbage;    /* what the padding holds */
    bool no_lengths;   /* all of it is valid, and nothing says so */
} batch;

/* A place in the tensor: which sequence and step, and which of the other elements of that step. */
typedef struct place {
    int64_t sequence, step, rest;
    bool valid;
    int64_t ordinal; /* of the step among the valid ones of its sequence */
} place;

/* One step of training, read at the valid places. */
typedef struct outcome {
    int64_t n;
    double *y, *dx; /* [n] in the order (sequence, ordinal, rest) */
    ek_tensor *state, *grads;
} outcome;

enum { MOST_STEPS = 20 };

int axis_of(const subject *s, char axis);
place place_of(const subject *s, const batch *b, int64_t flat);
/* Elements of one step. */
int64_t rest_size(const subject *s);
/* Numbers that depend on the sequence, the ordinal of the step and the rest alone. */
ek_tensor *fill_batch(const subject *s, const batch *b, ek_dtype dtype, uint64_t seed, double mean);
/* Steps 0 … length−1 of each sequence are valid. */
void from_lengths(bool *valid, const int64_t *lengths, int64_t n, int64_t steps);
/* A visitor that appends the gradients of parameters to a vector, whose first number counts them. */
ek_status add_grad(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind);
/* The valid elements of t; the others have to be zeros, all bits. */
double *gather(const char *what, const subject *s, const batch *b, const ek_tensor *t, int64_t *n);
/* The subject's layer, its parameters drawn. */
ek_module *layer_of(const subject *s, ek_dtype dtype);
/* Forward and backward of a batch, by a layer that is there or one made for it. */
outcome run_layer(const subject *s, ek_module *layer, const batch *b, ek_dtype dtype);
outcome run_subject(const subject *s, const batch *b, ek_dtype dtype, bool training);
void free_outcome(outcome *r);
/* The same bits; and, for sums in float64 that may be in another order, the same but for rounding. */
void assert_bits(const char *what, const subject *s, const double *a, const double *b, int64_t n);
void assert_same(const char *what, const subject *s, const outcome *a, const outcome *b);
void assert_near(const char *what, const subject *s, const double *a, const double *b, int64_t n);

#endif
