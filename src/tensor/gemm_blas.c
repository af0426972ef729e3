/* Serial products by OpenBLAS, whichever of its flavours is loaded.  The only file that sees cblas.h, which leaks macros.
 *
 * The flavour is asked at run time, because Debian can swap it under a built program:
 *   0, serial:  keeps its work space in one place for all threads, so calls take turns (slow, but right);
 *   1, pthread: told to use one thread, for the whole process, as there is no other way;
 *   2, OpenMP:  starts a team of OpenMP's size unless it is called inside one, so that size is 1 during the call.
 */
#include "gemm_tile.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

enum flavour { FLAVOUR_SERIAL = 0, FLAVOUR_PTHREAD = 1, FLAVOUR_OPENMP = 2 };

/* Guards OpenBLAS's own process-wide state: its settings, and in the serial flavour its work space. */
static pthread_mutex_t blas_lock = PTHREAD_MUTEX_INITIALIZER;

const char *ek_gemm_backend(void)
{
    static _Thread_local char text[96];
    static const char *const names[] = {"serial", "pthread", "OpenMP"};
    int flavour = openblas_get_parallel();
    const char *config = openblas_get_config(); /* "OpenBLAS 0.3.21 DYNAMIC_ARCH …" */
    const char *version = strchr(config, ' ');
    int length = version ? (int)strcspn(version + 1, " ") : 0;
    snprintf(text, sizeof text, "OpenBLAS %.*s (%s)", length, version ? version + 1 : "",
             flavour >= 0 && flavour <= 2 ? names[flavour] : "unknown");
    return text;
}

/* OpenBLAS keeps to the calling thread until leave(), which takes what this returned. */
static int enter(int flavour)
{
    if (flavour == FLAVOUR_SERIAL) {
        pthread_mutex_lock(&blas_lock);
    } else if (flavour == FLAVOUR_PTHREAD) {
        if (openblas_get_num_threads() != 1) { /* at first, or after someone else in the process changed it */
            pthread_mutex_lock(&blas_lock);
            openblas_set_num_threads(1);
            pthread_mutex_unlock(&blas_lock);
        }
    } else {
#ifdef _OPENMP
        return ek_team_suspend();
#else
        /* This library was built without OpenMP and cannot ask for the team's size, only set it, per thread. */
        static _Thread_local bool is_set;
        if (!is_set) {
            pthread_mutex_lock(&blas_lock);
            openblas_set_num_threads(1);
            pthread_mutex_unlock(&blas_lock);
            is_set = true;
        }
#endif
    }
    return 0;
}

static void leave(int flavour, int team)
{
    if (flavour == FLAVOUR_SERIAL)
        pthread_mutex_unlock(&blas_lock);
    else if (flavour == FLAVOUR_OPENMP)
        ek_team_resume(team);
}

void ek_gemm_blas_f32(bool transpose_a, bool transpose_b, int m, int n, int k, const float *a, int lda, const float *b,
                      int ldb, float *c, int ldc, bool accumulate)
{
    int flavour = openblas_get_parallel(), team = enter(flavour);
    cblas_sgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, m, n,
                k, 1, a, lda, b, ldb, accumulate ? 1 : 0, c, ldc);
    leave(flavour, team);
}

void ek_gemm_blas_f64(bool transpose_a, bool transpose_b, int m, int n, int k, const double *a, int lda,
                      const double *b, int ldb, double *c, int ldc, bool accumulate)
{
    int flavour = openblas_get_parallel(), team = enter(flavour);
    cblas_dgemm(CblasRowMajor, transpose_a ? CblasTrans : CblasNoTrans, transpose_b ? CblasTrans : CblasNoTrans, m, n,
                k, 1, a, lda, b, ldb, accumulate ? 1 : 0, c, ldc);
    leave(flavour, team);
}
