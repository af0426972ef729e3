/* Tensors: contiguous row-major arrays of rank 0 to 8, and the random numbers that fill them.
 *
 * Ownership.  What the functions of this header return belongs to the caller, who gives it back with ek_tensor_free().
 * What an op returns (autograd.h) belongs to the tape and is gone at ek_tape_reset(); ek_tensor_clone() makes a copy
 * that outlives it.  Tensors are reference-counted: ek_tensor_retain() adds an owner.
 */
#ifndef EVENKEEL_TENSOR_H
#define EVENKEEL_TENSOR_H

#include <stdio.h>

#include "status.h"

#define EK_MAX_NDIM 8

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ek_dtype {
    EK_F32 = 0, /* float: the type work is done in */
    EK_F64 = 1, /* double: gradient checks and references */
    EK_I64 = 2  /* int64_t: labels, tokens, lengths */
} ek_dtype;

/* "float32", "float64", "int64". */
EK_API const char *ek_dtype_name(ek_dtype dtype);
/* Bytes per element: 4, 8, 8. */
EK_API size_t ek_dtype_size(ek_dtype dtype);

/* Rank and dimensions.  Write one as EK_SHAPE(32, 3, 28, 28); EK_SCALAR is the shape of a single number. */
typedef struct ek_shape {
    int ndim;
    int64_t dim[EK_MAX_NDIM];
} ek_shape;

/* A list of axes, EK_AXES(0, 2); negative ones count from the end.  EK_ALL_AXES means every axis. */
typedef struct ek_axes {
    int n;
    int axis[EK_MAX_NDIM];
} ek_axes;

typedef struct ek_tensor ek_tensor;

/* The state of a counter-based generator (Philox4x32-10, Salmon et al. 2011) is these two numbers: save them and the
 * stream goes on where it was. */
typedef struct ek_rng {
    uint64_t key;
    uint64_t counter;
} ek_rng;

EK_API ek_rng ek_rng_seed(uint64_t seed);
/* A stream of its own for each name: equal (seed, name) give equal numbers, whatever else was drawn.  NULL is taken for
 * "", with EK_ERR_ARGUMENT. */
EK_API ek_rng ek_rng_named(uint64_t seed, const char *name);
/* Of a generator that is NULL these give 0, with EK_ERR_ARGUMENT. */
EK_API uint64_t ek_rng_u64(ek_rng *rng);
EK_API double ek_rng_uniform(ek_rng *rng);               /* [0, 1), 53 bits */
EK_API double ek_rng_normal(ek_rng *rng);                /* mean 0, variance 1 (Box–Muller) */
EK_API int64_t ek_rng_below(ek_rng *rng, int64_t n);     /* 0 … n−1 without bias; 0 for n < 1 */
/* Writes a random order of 0 … n−1 to `order` (Fisher–Yates); nothing, with EK_ERR_ARGUMENT, when either is NULL. */
EK_API void ek_rng_permutation(ek_rng *rng, int64_t n, int64_t *order);

/* ---- making tensors ------------------------------------------------------------------------------------------- */
/* All of these return NULL on failure: EK_ERR_SHAPE for a rank outside 0…8, a negative dimension or a product that
 * overflows; EK_ERR_MEMORY when the allocator has no more; EK_ERR_DTYPE where the type makes no sense.  A dimension of
 * 0 is legal. */
EK_API ek_tensor *ek_zeros(ek_dtype dtype, ek_shape shape);
EK_API ek_tensor *ek_ones(ek_dtype dtype, ek_shape shape);
EK_API ek_tensor *ek_full(ek_dtype dtype, ek_shape shape, double value);
/* start, start + step, … up to but not including stop; rank 1, ⌈(stop − start)/step⌉ elements.  step ≠ 0. */
EK_API ek_tensor *ek_arange(ek_dtype dtype, double start, double stop, double step);
/* Uniform in [low, high) and normal; float32 and float64 only. */
EK_API ek_tensor *ek_uniform(ek_dtype dtype, ek_shape shape, double low, double high, ek_rng *rng);
EK_API ek_tensor *ek_normal(ek_dtype dtype, ek_shape shape, double mean, double std, ek_rng *rng);
/* Copies numel(shape) elements of the given type from `values`. */
EK_API ek_tensor *ek_from_array(ek_dtype dtype, ek_shape shape, const void *values);
/* Uses `values` in place, without a copy: it must stay valid until `release(values, user)` is called, which happens
 * once, when the last owner lets go (release may be NULL).  On failure release is not called. */
EK_API ek_tensor *ek_borrow(ek_dtype dtype, ek_shape shape, void *values, void (*release)(void *values, void *user),
                            void *user);
/* A copy with memory of its own, outside any tape, that requires no gradient; it carries the lengths that t carries. */
EK_API ek_tensor *ek_tensor_clone(const ek_tensor *t);
/* The same, converted to another type (float to int64 truncates toward zero; a value int64 cannot hold is
 * EK_ERR_ARGUMENT). */
EK_API ek_tensor *ek_tensor_cast(const ek_tensor *t, ek_dtype dtype);

/* Adds an owner and returns t.  A tensor of a tape cannot be retained (EK_ERR_STATE, NULL): clone it. */
EK_API ek_tensor *ek_tensor_retain(ek_tensor *t);
/* Lets go of a tensor; NULL and tensors of a tape are left alone. */
EK_API void ek_tensor_free(ek_tensor *t);

/* ---- looking at tensors --------------------------------------------------------------------------------------- */
/* Of a tensor that is NULL these say EK_F32, a scalar's shape, rank 0 and 0 elements, with EK_ERR_ARGUMENT. */
EK_API ek_dtype ek_tensor_dtype(const ek_tensor *t);
EK_API ek_shape ek_tensor_shape(const ek_tensor *t);
EK_API int ek_tensor_ndim(const ek_tensor *t);
/* Size of one axis, negative axes from the end; −1 with EK_ERR_ARGUMENT when there is no such axis. */
EK_API int64_t ek_tensor_dim(const ek_tensor *t, int axis);
EK_API int64_t ek_tensor_numel(const ek_tensor *t);
/* The elements, row-major.  The typed ones return NULL with EK_ERR_DTYPE for a tensor of another type. */
EK_API void *ek_tensor_data(ek_tensor *t);
EK_API const void *ek_tensor_const_data(const ek_tensor *t);
EK_API float *ek_data_f32(ek_tensor *t);
EK_API double *ek_data_f64(ek_tensor *t);
EK_API int64_t *ek_data_i64(ek_tensor *t);
/* The only element of a one-element tensor, whatever its type; NaN with an error otherwise (NULL included). */
EK_API double ek_item(const ek_tensor *t);
/* Element `flat` of the row-major order as a double; NaN with an error outside 0 … numel−1. */
EK_API double ek_tensor_at(const ek_tensor *t, int64_t flat);
/* Copies all elements out to, or in from, a C array of `bytes` bytes, which must be exactly the tensor's size.  A
 * tensor of a tape cannot be written to. */
EK_API ek_status ek_tensor_read(const ek_tensor *t, void *values, size_t bytes);
EK_API ek_status ek_tensor_write(ek_tensor *t, const void *values, size_t bytes);

/* Same type, shape and values (NaN equals NaN, 0 equals −0 not: the comparison is of bits). */
EK_API bool ek_tensor_equal(const ek_tensor *a, const ek_tensor *b);
/* Same type and shape, and |a − b| ≤ atol + rtol·|b| everywhere; NaN matches NaN. */
EK_API bool ek_tensor_all_close(const ek_tensor *a, const ek_tensor *b, double rtol, double atol);

/* Writes "float32 (2, 3)\n[[1, 2, 3],\n [4, 5, 6]]\n"; long axes are shortened to their ends with "...". */
EK_API ek_status ek_tensor_print(const ek_tensor *t, FILE *out);
/* "(2, 3)"; returns `text`, or "" where that is NULL.  A buffer of 200 bytes holds any shape. */
EK_API const char *ek_shape_text(ek_shape shape, char *text, size_t bytes);

/* ---- padded sequences -------------------------------------------------------------------------------------------- */
/* Sequences of different length stand in one tensor when each is padded to a common number of steps.  Such a tensor can
 * carry which steps are valid.  Ops that keep the batch and the time axis pass that on; norms, recurrent layers,
 * pooling over time and losses honour it: padded steps enter no statistic, give no gradient and come out as 0. */
typedef struct ek_lengths {
    int batch_axis, time_axis;
    int64_t n, steps;      /* size of these axes */
    int64_t total;         /* valid steps of all sequences together */
    const int64_t *length; /* [n] valid steps of each sequence */
    const int64_t *start;  /* [n + 1] sums of the lengths before it */
    const int64_t *step;   /* [total] the valid steps themselves, sequence after sequence, each in ascending order */
    bool leading;          /* every sequence is valid in its first steps: no mask with holes */
} ek_lengths;

/* Says that of sequence i (index along batch_axis) the first lengths[i] steps (along time_axis) are valid.  Values are
 * copied; what t carried before is replaced.  Axes may count from the end.  EK_ERR_ARGUMENT for the same axis twice,
 * one there is not, or a length outside 1 … steps; EK_ERR_SHAPE when n is not the size of the batch axis. */
EK_API ek_status ek_tensor_set_lengths(ek_tensor *t, const int64_t *lengths, int64_t n, int batch_axis, int time_axis);
/* The same for valid steps anywhere: mask[i·steps + s] is true where step s of sequence i is valid; n and steps are the
 * sizes of the two axes.  A sequence without a valid step is EK_ERR_ARGUMENT. */
EK_API ek_status ek_tensor_set_mask(ek_tensor *t, const bool *mask, int64_t n, int64_t steps, int batch_axis,
                                    int time_axis);
/* From here on every step of t counts as valid. */
EK_API void ek_tensor_clear_lengths(ek_tensor *t);
/* What t carries, or NULL.  Belongs to t, until its lengths are set again. */
EK_API const ek_lengths *ek_tensor_lengths(const ek_tensor *t);

/* ---- gradients of leaves ---------------------------------------------------------------------------------------- */
/* A leaf is a float tensor that no op produced: a parameter, or an input of your own.  Tensors of a tape are refused
 * (EK_ERR_STATE), int64 tensors too (EK_ERR_DTYPE). */
EK_API ek_status ek_tensor_set_requires_grad(ek_tensor *t, bool requires_grad);
EK_API bool ek_tensor_requires_grad(const ek_tensor *t);
/* The gradient that backward passes have summed up since it was last cleared; NULL (no error) if there was none.
 * Belongs to the leaf. */
EK_API ek_tensor *ek_tensor_grad(const ek_tensor *t);
/* Forgets the gradient; the next backward starts a new sum. */
EK_API void ek_tensor_clear_grad(ek_tensor *t);

#ifdef __cplusplus
}
/* C++ has no compound literals. */
namespace evenkeel {
template <class... Dims> inline ek_shape make_shape(Dims... dims)
{
    static_assert(sizeof...(Dims) <= EK_MAX_NDIM, "rank above EK_MAX_NDIM");
    return ek_shape{static_cast<int>(sizeof...(Dims)), {static_cast<int64_t>(dims)...}};
}
template <class... Axes> inline ek_axes make_axes(Axes... axes)
{
    static_assert(sizeof...(Axes) <= EK_MAX_NDIM, "more than EK_MAX_NDIM axes");
    return ek_axes{static_cast<int>(sizeof...(Axes)), {static_cast<int>(axes)...}};
}
}
#define EK_SHAPE(...) (evenkeel::make_shape(__VA_ARGS__))
#define EK_SCALAR (evenkeel::make_shape())
#define EK_AXES(...) (evenkeel::make_axes(__VA_ARGS__))
#define EK_ALL_AXES (ek_axes{-1, {0}})
#else
#define EK_SHAPE(...) ((ek_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define EK_SCALAR ((ek_shape){0, {0}})
#define EK_AXES(...) ((ek_axes){(int)(sizeof((int[]){__VA_ARGS__}) / sizeof(int)), {__VA_ARGS__}})
#define EK_ALL_AXES ((ek_axes){-1, {0}})
#endif
#endif
