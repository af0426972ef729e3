/* The header of an .npy array (numpy.lib.format).  Not installed. */
#ifndef EK_NPY_H
#define EK_NPY_H

#include "core.h"

/* "\x93NUMPY", version, length, a Python dict as text. */
#define EK_NPY_PREFIX 10
#define EK_NPY_MAX_HEADER 512 /* what ek_npy_format writes at most, prefix included */

typedef struct ek_npy {
    const char *descr; /* the element type in NumPy's notation; static storage */
    ek_dtype dtype;    /* what it becomes */
    size_t element_bytes;
    bool is_signed;
    bool fortran_order;
    ek_shape shape;
} ek_npy;

/* Reads the dict.  EK_ERR_FORMAT for text that is not such a dict, EK_ERR_DTYPE for a type that cannot be read,
 * EK_ERR_SHAPE for a shape that no tensor can have.  The messages begin with the problem: the caller names the file. */
ek_status ek_npy_parse(const char *text, size_t bytes, ek_npy *npy);
/* Writes the whole header of an array in C order, a multiple of 64 bytes; returns their number. */
size_t ek_npy_format(ek_dtype dtype, ek_shape shape, char header[EK_NPY_MAX_HEADER]);

#endif
