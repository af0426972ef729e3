/* What the data set, its sources and the loader share.  Not installed. */
#ifndef EK_DATASET_H
#define EK_DATASET_H

#include "core.h"

#include <evenkeel/data.h>

struct ek_dataset {
    ek_tensor *x, *y;
    int64_t num_classes;
};

/* Takes over both tensors, also when it fails; NULL ones are failures of before.  `who` is for messages. */
ek_dataset *ek_dataset_own(const char *who, ek_tensor *x, ek_tensor *y, int64_t num_classes);

/* Copies the rows (entries along axis 0) with the given indices to the first rows of `to`. */
void ek_gather_rows(const ek_tensor *from, const int64_t *indices, int64_t n, ek_tensor *to);
/* `shape` with another number of rows. */
static inline ek_shape ek_with_rows(ek_shape shape, int64_t rows)
{
    shape.dim[0] = rows;
    return shape;
}

typedef enum ek_idx_type {
    EK_IDX_U8 = 8,
    EK_IDX_I8 = 9,
    EK_IDX_I16 = 11,
    EK_IDX_I32 = 12,
    EK_IDX_F32 = 13,
    EK_IDX_F64 = 14
} ek_idx_type;
/* ek_idx_read for the public function `who`, which also learns the type of the file's elements. */
ek_tensor *ek_idx_load(const char *who, const char *path, ek_dtype dtype, ek_idx_type *type);

#endif
