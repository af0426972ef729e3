/* A tensor cut along its time axis, for ops that treat each sequence by itself (strips.c). */
#ifndef EK_STRIPS_H
#define EK_STRIPS_H

#include "op.h"

/* Strips of steps × width elements, width as large as memory and batch axis allow, so that a strip belongs to one
 * sequence.  Strips that stand side by side fill the axes behind time. */
typedef struct ek_strips {
    const ek_lengths *lengths;   /* NULL: every step is valid */
    int64_t count, steps, width;
    int64_t stride;              /* from a step to the next, in elements */
    int64_t side_by_side;        /* strips whose steps start within one stride */
    int64_t per_sequence;        /* strips in a row that belong to one sequence */
    bool runs;                   /* time is the last axis: each strip is one contiguous run */
    int64_t grain;               /* strips that are worth a chunk of a parallel loop */
} ek_strips;

/* `lengths` (may be NULL) are what a tensor of this shape carries on this time axis. */
ek_strips ek_strips_of(ek_shape shape, int time_axis, const ek_lengths *lengths);

/* Element j of step s of a strip is at begin + s·stride + j, and at place + j of a tensor without the time axis. */
typedef struct ek_strip {
    int64_t begin, place;
    int64_t length;      /* valid steps: step[0 … length−1], or 0 … length−1 where that is NULL */
    const int64_t *step;
} ek_strip;

ek_strip ek_strip_at(const ek_strips *strips, int64_t index);
/* The k-th valid step. */
static inline int64_t ek_strip_step(const ek_strip *strip, int64_t k)
{
    return strip->step ? strip->step[k] : k;
}
/* No invalid step stands between valid ones. */
static inline bool ek_strip_is_gapless(const ek_strip *strip)
{
    return !strip->step || strip->length == 0 || strip->step[strip->length - 1] - strip->step[0] == strip->length - 1;
}

#endif
