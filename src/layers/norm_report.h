/* The norm report, in two parts: what it measures (norm_report.c, by the sums of norm_moments.c), and how it is written
 * (norm_report_text.c). */
#ifndef EK_NORM_REPORT_H
#define EK_NORM_REPORT_H

#include "norm.h"

/* A row and the memory of its texts. */
typedef struct report_entry {
    ek_norm_report_row row;
    char name[EK_NAME_BYTES + NORM_PART_BYTES], layer[EK_NAME_BYTES], activation[EK_NAME_BYTES], note[EK_NOTE_BYTES];
    /* While the forward runs: */
    const ek_module *module;
    norm_traits traits;
    const ek_tensor *output;   /* the norm's output, as far as it has been followed */
    const ek_module *residual; /* whose sum it enters */
} report_entry;

struct ek_norm_report {
    int size;
    report_entry *entry; /* [size] */
};

/* ---- moments of groups (norm_moments.c) -------------------------------------------------------------------------- */
/* Which elements of a tensor belong together, and which count: element (i0, i1, …) is in group Σ (i/divide)·stride, and
 * counts where valid[Σ i·valid_stride]. */
typedef struct norm_grouping {
    int64_t groups;
    int64_t stride[EK_MAX_NDIM], divide[EK_MAX_NDIM], valid_stride[EK_MAX_NDIM];
    bool *valid; /* NULL: all of them; ek_release() it */
} norm_grouping;
/* One group of all valid elements of x, to be refined. */
ek_status ek_norm_grouping_make(norm_grouping *grouping, const ek_tensor *x);
/* Calls `visit` for each element that counts, in the order of memory. */
void ek_norm_each(const norm_grouping *grouping, const ek_tensor *x,
                  void (*visit)(void *context, int64_t group, double value), void *context);

/* [groups] numbers of elements, means (0 unless `center`) and variances Σ(x − mean)²/count; 0 for a group without
 * elements.  Taken one element after the other in double: the same for any number of threads. */
typedef struct norm_moments {
    int64_t groups;
    int64_t *count;
    double *mean, *var;
} norm_moments;
/* All zero; ek_norm_moments_free() it. */
ek_status ek_norm_moments_make(norm_moments *moments, int64_t groups);
void ek_norm_moments_free(norm_moments *moments);
void ek_norm_moments_take(norm_moments *moments, const norm_grouping *grouping, const ek_tensor *x, bool center);

#endif
