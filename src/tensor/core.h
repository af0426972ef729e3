/* What every part of the library shares: memory, errors, the tensor itself, parallel loops.  Not installed. */
#ifndef EK_CORE_H
#define EK_CORE_H

#include <evenkeel/tensor.h>

#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

/* Kernels marked so are compiled for baseline x86-64, AVX2 with FMA and AVX-512 from the same source, and the dynamic
 * linker picks one.  EK_MULTIVERSION is set by CMake where the compiler can do it.  For static functions whose names
 * are unique in the library: clang makes a global NAME.resolver of each, and no NAME that another file could call.
 *
 * clang 14 takes the names of levels too, but its resolver then leaves everyone with the baseline.  It does know
 * features, one per clone: `fma` brings AVX, `avx512f` brings AVX2 and FMA. */
#if !defined(EK_MULTIVERSION)
#define EK_KERNEL
#elif defined(__clang__)
#define EK_KERNEL __attribute__((target_clones("default", "fma", "avx512f")))
#else
#define EK_KERNEL __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
/* Functions that kernels call in their loops.  Not left to the compiler: a call would keep the loop from becoming
 * vectors, and run the code for baseline x86-64. */
#define EK_INLINE static inline __attribute__((always_inline, unused))

#define EK_ALIGNMENT 64

/* Accumulators of a reduction: independent of each other, so that they vectorize, and folded by one fixed tree, so that
 * every clone of a kernel and every compiler give the same bits. */
enum { EK_LANES = 32 };
static inline double ek_fold_lanes(double lane[EK_LANES])
{
    /* Level by level: a loop over the levels becomes scalar code with stores that stall the loads behind them. */
    for (int l = 0; l < 16; l++)
        lane[l] += lane[l + 16];
    for (int l = 0; l < 8; l++)
        lane[l] += lane[l + 8];
    for (int l = 0; l < 4; l++)
        lane[l] += lane[l + 4];
    return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* Stores past the caches, for what is too large to be found there again.  ek_stream_store copies a multiple of 16
 * bytes, from a 16-byte boundary to one that ek_may_stream has accepted; ek_stream_fence before other threads may read
 * it. */
#ifdef __SSE2__
#include <emmintrin.h>
static inline bool ek_may_stream(const void *to)
{
    return (uintptr_t)to % EK_ALIGNMENT == 0;
}
static inline void ek_stream_store(void *to, const void *from, size_t bytes)
{
    for (size_t at = 0; at < bytes; at += sizeof(__m128i))
        _mm_stream_si128((__m128i *)((char *)to + at), _mm_load_si128((const __m128i *)((const char *)from + at)));
}
static inline void ek_stream_fence(void)
{
    _mm_sfence();
}
#else
static inline bool ek_may_stream(const void *to)
{
    (void)to;
    return true;
}
static inline void ek_stream_store(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
}
static inline void ek_stream_fence(void)
{
}
#endif

/* ---- memory (alloc.c) ------------------------------------------------------------------------------------------- */
/* 64-byte aligned, not cleared; bytes = 0 gives a valid pointer.  NULL after ek_fail(EK_ERR_MEMORY, …). */
void *ek_alloc(size_t bytes);
void *ek_alloc_zeroed(size_t bytes);
/* NULL is left alone. */
void ek_release(void *memory);
char *ek_copy_text(const char *text);

/* ---- errors (error.c) ------------------------------------------------------------------------------------------- */
ek_status ek_fail_v(ek_status status, const char *format, va_list arguments);
/* How many failures this thread has seen, so that a caller can tell a new one from an old one. */
uint64_t ek_error_count(void);
/* Fails with "who: the <what> is NULL; the last error was: …". */
ek_status ek_fail_null(ek_status status, const char *who, const char *what);
void ek_warn(const char *format, ...) EK_PRINTF(1, 2);

/* ---- tensors (tensor.c) ----------------------------------------------------------------------------------------- */
typedef struct ek_storage {
    atomic_int owners;
    void (*release)(void *values, void *user); /* of borrowed memory; NULL with `owned` false: nothing to do */
    void *user;
    bool owned; /* the memory came from ek_alloc */
    void *base;
} ek_storage;

struct ek_tensor {
    ek_dtype dtype;
    ek_shape shape;
    int64_t numel;
    void *data;
    atomic_int owners;     /* of a tensor outside any tape */
    ek_storage *storage;   /* NULL for a tensor of a tape */
    struct ek_tape *tape;  /* the tape it belongs to, or NULL */
    struct ek_record *record; /* the recorded op that made it, or NULL */
    bool requires_grad;
    bool decays;    /* weight decay applies when norms and biases are spared */
    ek_tensor *grad; /* of a leaf: its gradient, kept once made */
    void *grad_data; /* of a leaf: grad's elements; of an intermediate: its gradient while backward needs it */
    bool has_grad;   /* the gradient holds a value */
    bool grad_is_borrowed; /* grad_data is the caller's, where a walk began, or the value's: neither written nor freed */
    const ek_lengths *lengths; /* which steps are valid, or NULL; in a leaf's own memory, or in the tape's */
    void *lengths_memory;      /* of a leaf, and its size: kept for the next ones */
    size_t lengths_bytes;
};

/* A new tensor with memory of its own, values undefined. */
ek_tensor *ek_tensor_new(ek_dtype dtype, ek_shape shape);
/* Number of elements; EK_ERR_SHAPE for a bad rank, a negative dimension, an overflowing product (also in bytes). */
ek_status ek_shape_check(const char *who, ek_dtype dtype, ek_shape shape, int64_t *numel);
bool ek_shape_equal(ek_shape a, ek_shape b);
/* "(2, 3)" in a buffer that lives as long as the enclosing block: printf("%s", EK_TEXT(shape)). */
#define EK_TEXT(shape) ek_shape_text((shape), (char[200]){0}, 200)
static inline size_t ek_tensor_bytes(const ek_tensor *t)
{
    return (size_t)t->numel * ek_dtype_size(t->dtype);
}
/* axis in 0 … ndim−1 for an axis that may count from the end; −1 (and no error set) if there is none. */
int ek_axis_resolve(int axis, int ndim);
/* Converts a tensor in place, dropping its gradient. */
ek_status ek_tensor_convert(ek_tensor *t, ek_dtype dtype);
/* Gives t the type and the elements of `copy`, which has t's shape and no other owner and is used up.  Drops t's
 * gradient. */
void ek_tensor_adopt(ek_tensor *t, ek_tensor *copy);
/* Sets every element. */
void ek_fill(ek_tensor *t, double value);
/* Makes sure that a leaf has grad_data; has_grad says whether it holds a value. */
ek_status ek_tensor_need_grad_buffer(ek_tensor *leaf);

/* ---- lengths (lengths.c) ---------------------------------------------------------------------------------------- */
/* The memory of lengths: at most n·steps valid steps fit, so that it can be filled anew for the same n and steps.
 * SIZE_MAX, which no allocator gives, where that is more than there are numbers for. */
size_t ek_lengths_bytes(int64_t n, int64_t steps);
/* A copy in that much memory, made elsewhere. */
const ek_lengths *ek_lengths_copy_to(void *memory, const ek_lengths *lengths);
/* The sequences are valid in their first length[i] ≥ 0 steps.  `memory` as above, not overlapping `length`. */
const ek_lengths *ek_lengths_fill(void *memory, int batch_axis, int time_axis, int64_t n, int64_t steps,
                                  const int64_t *length);
/* Sequences first … first + n − 1 with those of their steps that lie in first_step … first_step + steps − 1, counted
 * from there, of which a sequence may have none.  `memory` for n and steps. */
const ek_lengths *ek_lengths_window(void *memory, const ek_lengths *from, int64_t first, int64_t n, int64_t first_step,
                                    int64_t steps);
/* The sequences of all parts one after the other, on the axes of the first; the parts have equally many steps.
 * `memory` for the sum of their n. */
const ek_lengths *ek_lengths_join(void *memory, int parts, const ek_lengths *const *part);
/* Is this step of this sequence valid? */
bool ek_lengths_hold(const ek_lengths *lengths, int64_t sequence, int64_t step);
/* The same steps are valid; axes do not matter. */
bool ek_lengths_equal(const ek_lengths *a, const ek_lengths *b);
/* `to` carries what `from` does.  Both outside any tape, of one shape. */
ek_status ek_lengths_clone(ek_tensor *to, const ek_tensor *from);

/* ---- random numbers (rng.c) ------------------------------------------------------------------------------------- */
/* The 128 bits of block `counter` of stream `key`. */
void ek_philox(uint64_t key, uint64_t counter, uint32_t out[4]);
/* A stream of its own for each i: its key is block i of `keys`. */
ek_rng ek_rng_child(ek_rng keys, int64_t i);
void ek_fill_uniform(ek_tensor *t, double low, double high, ek_rng *rng);
void ek_fill_normal(ek_tensor *t, double mean, double std, ek_rng *rng);

/* ---- threads (threads.c) ---------------------------------------------------------------------------------------- */
/* Calls body(context, begin, end) for the chunks of `grain` indices that make up 0 … n−1, on as many threads as there
 * are.  Chunks depend on n and grain alone, never on the number of threads; with one chunk, or inside another parallel
 * loop, it runs in the calling thread.  A body writes only what belongs to its own indices, and may not fail. */
typedef void (*ek_range_body)(void *context, int64_t begin, int64_t end);
void ek_parallel_for(int64_t n, int64_t grain, ek_range_body body, void *context);
/* For scratch memory per thread: a loop started here runs on at most ek_workers() threads, and inside its body
 * ek_worker() numbers them from 0. */
int ek_workers(void);
int ek_worker(void);
/* Elements below which a pass over memory is not worth a team of threads; also the grain of elementwise loops. */
#define EK_GRAIN 16384
/* Makes OpenMP's team size 1 for this thread, for a library that would start a team of its own; ek_team_resume() takes
 * what this returned and restores the size. */
int ek_team_suspend(void);
void ek_team_resume(int suspended);

/* ---- matrix products (gemm.c; by gemm_tiled.c or gemm_blas.c) ------------------------------------------------------ */
/* C (m×n, row stride ldc) = op(A)·op(B) + (accumulate ? C : 0), row-major; op transposes if asked.  op(A) is m×k, op(B)
 * k×n; lda and ldb are the row strides of A and B as stored, never shorter than the rows.  The same bits for any number
 * of threads; may be called inside a parallel loop (then it runs in that thread).  A size of 0 is legal.
 * EK_ERR_MEMORY when scratch memory is short, C unchanged. */
ek_status ek_gemm_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                      const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate);
ek_status ek_gemm_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double *a,
                      int64_t lda, const double *b, int64_t ldb, double *c, int64_t ldc, bool accumulate);
/* The same with the caller's scratch memory (an op's comes from its tape): ek_gemm_scratch bytes, 0 for most shapes.
 * Cannot fail. */
size_t ek_gemm_scratch_f32(int64_t m, int64_t n, int64_t k);
size_t ek_gemm_scratch_f64(int64_t m, int64_t n, int64_t k);
void ek_gemm_into_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a, int64_t lda,
                      const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate, void *scratch);
void ek_gemm_into_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double *a,
                      int64_t lda, const double *b, int64_t ldb, double *c, int64_t ldc, bool accumulate,
                      void *scratch);
/* In one piece in the calling thread, for the body of a parallel loop; cannot fail.  Its bits may differ from those of
 * the ones above. */
void ek_gemm_serial_f32(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float *a,
                        int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc, bool accumulate);
void ek_gemm_serial_f64(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const double *a,
                        int64_t lda, const double *b, int64_t ldb, double *c, int64_t ldc, bool accumulate);
/* "OpenBLAS 0.3.21 (pthread)", "built-in". */
const char *ek_gemm_backend(void);

#endif
