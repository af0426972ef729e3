/* Version, status codes, errors, warnings, memory and threads: what every other header builds on.
 *
 * The library never prints, exits, aborts or asserts on what a user did.  A function that makes an object returns NULL
 * on failure; a function that makes none returns an ek_status.  Either way the sentence that says what went wrong is in
 * ek_last_error(), which is local to the calling thread.
 */
#ifndef EVENKEEL_STATUS_H
#define EVENKEEL_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EK_VERSION_MAJOR 0
#define EK_VERSION_MINOR 1
#define EK_VERSION_PATCH 0
#define EK_VERSION_STRING "0.1.0"

#if defined(__GNUC__) || defined(__clang__)
#define EK_API __attribute__((visibility("default")))
#define EK_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define EK_API
#define EK_PRINTF(format_index, first_argument)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ek_status {
    EK_OK = 0,
    EK_DONE,         /* not an error: there is nothing more (the end of an epoch) */
    EK_ERR_ARGUMENT, /* a value or an option is outside what the function accepts */
    EK_ERR_SHAPE,    /* a rank or a dimension does not fit */
    EK_ERR_DTYPE,    /* a tensor holds another element type than is needed */
    EK_ERR_STATE,    /* the call came at the wrong time (a second backward, a module that has a parent already) */
    EK_ERR_MEMORY,   /* the allocator returned NULL, or a size does not fit in size_t */
    EK_ERR_IO,       /* the operating system refused to open, read, write or rename a file */
    EK_ERR_FORMAT    /* a file is not what it claims to be: truncated, corrupt, of another kind */
} ek_status;

/* "EK_OK", "EK_ERR_SHAPE", …; "unknown status" for any other number.  Static storage. */
EK_API const char *ek_status_name(ek_status status);

/* The version of the library that is linked, "major.minor.patch"; compare with EK_VERSION_STRING.  Static storage. */
EK_API const char *ek_version(void);

/* The message of this thread's last failure, "" when there was none since ek_clear_error().  It names the invariant,
 * what was received and what to do.  Valid until the next failing call in this thread. */
EK_API const char *ek_last_error(void);
/* The status that belongs to ek_last_error(). */
EK_API ek_status ek_last_status(void);
EK_API void ek_clear_error(void);

/* The last thing this thread was told that is not a failure ("" when none): a batch whose statistics were not finite
 * and were kept out of the running statistics, say.  Warnings are never printed. */
EK_API const char *ek_last_warning(void);
EK_API void ek_clear_warning(void);

/* Records a failure in the same way as the library itself does and returns `status`: for ops and modules of your own.
 *   return ek_fail(EK_ERR_SHAPE, "my_op: expected (N, 3), got %s", …); */
EK_API ek_status ek_fail(ek_status status, const char *format, ...) EK_PRINTF(2, 3);

/* Every byte the library uses comes from one allocator.  `allocate` returns memory of at least `bytes` bytes, aligned
 * to 64 bytes, or NULL; `release` takes back what `allocate` gave (never NULL).  Both may be called from any thread. */
typedef struct ek_allocator {
    void *(*allocate)(size_t bytes, void *user);
    void (*release)(void *memory, void *user);
    void *user;
} ek_allocator;

/* Replaces the allocator of the whole process; NULL brings back the default (aligned_alloc and free).  To be called
 * while no object of the library is alive: memory goes back to the allocator that is set when it is freed. */
EK_API ek_status ek_set_allocator(const ek_allocator *allocator);

/* How many threads the kernels may use: what OpenMP would give a parallel region now, 1 in a build without OpenMP.
 * Results are the same bits for any number. */
EK_API int ek_num_threads(void);
/* Sets that number for the calling thread, as omp_set_num_threads does.  EK_ERR_ARGUMENT for n < 1; a build without
 * OpenMP accepts any n ≥ 1 and stays at 1. */
EK_API ek_status ek_set_num_threads(int n);
/* One line that says how the library was built: version, threads, BLAS in use.  Static storage. */
EK_API const char *ek_build_info(void);

#ifdef __cplusplus
}
#endif
#endif
