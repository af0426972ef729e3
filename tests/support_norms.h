/* An oracle for the norm family: slow, obvious sums written from the definitions, element by element, in long double.
 * It shares nothing with the library: no views, no plans, no finish.
 *
 * x has n samples, c channels and s positions, as (N, C, S) or, channels last, (N, S, C).  LayerNorm and RMSNorm see n
 * rows of c elements, s = 1.
 *
 * Ragged: sample i has rows[i] rows, each (before, c, after); they stand one after the other.  LayerNorm and RMSNorm
 * take all rows of a sample together then. */
#ifndef EK_TEST_SUPPORT_NORMS_H
#define EK_TEST_SUPPORT_NORMS_H

#include "support.h"

typedef enum norm_kind {
    BATCH_NORM,
    LAYER_NORM,
    RMS_NORM,
    INSTANCE_NORM,
    GROUP_NORM,
    SWITCHABLE_NORM,
    ANY_VIEWS /* groups as the views say, whatever norm that is; n·s elements of each of c affine groups */
} norm_kind;
enum { NORM_KINDS = SWITCHABLE_NORM + 1 };

typedef struct norm_case {
    norm_kind kind;
    int64_t n, c, s, groups; /* groups of channels: GroupNorm */
    const int64_t *rows;     /* [n] of a ragged case, NULL elsewhere; ANY_VIEWS: of the batches of `stats` */
    int64_t before, after;   /* of a ragged case, which has no s */
    bool channels_last;
    double eps;
    bool weight, bias;
    bool given; /* normalizes by the given (mean, var), one per statistics group; SwitchableNorm: BN's, [c] */
    bool instance, batch, unbiased; /* SwitchableNorm */
    ek_view stats, affine;          /* ANY_VIEWS */
} norm_case;

/* The numbers that go in, with the precision they have in the tensors. */
typedef struct norm_inputs {
    double *x, *dy;          /* [n·c·s] */
    double *gamma, *beta;    /* [c] */
    double *mean, *var;      /* [statistics groups], or [c] for SwitchableNorm */
    double mean_logits[3], var_logits[3];
} norm_inputs;

/* Results, each with the sum of the absolute values of the terms it was added up from: what rounding is relative to. */
typedef struct norm_numbers {
    int64_t n;
    double *value, *size;
} norm_numbers;

typedef struct norm_outputs {
    norm_numbers y, dx, dgamma, dbeta, dmean_logits, dvar_logits;
    double *mean, *var; /* the input's statistics: [groups], or BN's [c] for SwitchableNorm */
    double kappa;       /* max |x|/√(V + eps): how much relative errors of a mean are magnified */
} norm_outputs;

const char *norm_name(norm_kind kind);
int64_t norm_numel(const norm_case *c);
int64_t norm_groups(const norm_case *c); /* pairs (mean, var) */
int64_t norm_sample_size(const norm_case *c, int64_t sample); /* its elements in each channel */
int norm_weights(const norm_case *c);    /* logits of SwitchableNorm in use; 0 for the others */
int64_t norm_at(const norm_case *c, int64_t sample, int64_t channel, int64_t position);
/* "group_norm n=2 c=6 s=3 …", static storage. */
const char *norm_text(const norm_case *c);

/* Memory for the inputs of a case, all zero; and the answer.  Both are given back with norm_free. */
norm_inputs norm_inputs_new(const norm_case *c);
norm_outputs norm_oracle(const norm_case *c, const norm_inputs *in);
void norm_free(norm_inputs *in, norm_outputs *out);

/* |t − expected| ≤ roundings·u·size + pieces·2⁻⁵³·(1 + κ)·size, u = 2⁻²⁴ or 2⁻⁵³ after t's type, plus a few units of
 * its smallest number; `pieces` is how many terms one after the other a sum in double adds. */
void assert_norm_numbers(const char *what, const norm_case *c, const ek_tensor *t, const norm_numbers *expected,
                         double kappa);
/* The largest |t − expected|/max |expected|. */
double norm_relative_error(const ek_tensor *t, const norm_numbers *expected);

#endif
