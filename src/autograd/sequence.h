/* The valid steps of padded sequences as rows: what recurrent layers and norms over padded tensors work on. */
#ifndef EK_SEQUENCE_H
#define EK_SEQUENCE_H

#include "op.h"

/* Where each row comes from; all of it lives on the tape. */
typedef struct ek_rows {
    const ek_lengths *lengths;
    ek_row_order order;
    bool carried;            /* a tensor carried the lengths: what is unpacked carries them as well */
    const int64_t *sequence; /* [lengths->total] index of the row's sequence along the batch axis */
    const int64_t *step;     /* [lengths->total] its index along the time axis */
    /* Only where rows go by step: */
    int64_t steps;            /* of the longest sequence */
    const int64_t *count;     /* [steps] rows of each step: never more than of the step before */
    const int64_t *first;     /* [steps + 1] the first of them */
    const int64_t *by_length; /* [n] row k of any step belongs to sequence by_length[k]: the longest first */
} ek_rows;

/* The rows of these lengths (memory of the tape); NULL on failure, which the tape keeps. */
const ek_rows *ek_rows_make(ek_tape *tape, const ek_lengths *lengths, ek_row_order order);
/* ek_pack and ek_unpack with rows that are known already.  x and `packed` may lie outside the tape. */
ek_tensor *ek_pack_rows(ek_tape *tape, ek_tensor *x, const ek_rows *rows);
ek_tensor *ek_unpack_rows(ek_tape *tape, ek_tensor *packed, const ek_rows *rows);

#endif
