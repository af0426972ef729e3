/* Shared by the tests against PyTorch: runs a case of an archive that golden/make_layers.py made (which says what it
 * holds), in float32 or in float64, forward and backward.
 *
 * Tolerance.  The golden numbers were computed in float64 from inputs that are exact in float32, so in float32 only
 * our roundings count, and in float64 ours and PyTorch's.  A result is a sum of at most K terms, K the number of
 * elements of the case's largest input or output.  Inputs, weights and cotangents lie within ±2, so the terms are of
 * the order of S = max(1, max |expected|), and each is rounded a few times by at most u = 2^-24 (float32) or 2^-53:
 * rounding errors of random sign add up to
 *     |ours − expected| ≤ 4·√K·u·S·condition,   twice that in float64.
 * `condition` is 1, but: |mean|/σ where a norm is fed an offset, since x − m keeps only the digits after those the two
 * share; and the slope where a function is so steep (a norm's 1/σ) that a gradient is a difference of large terms.
 * Measured, the worst error of any case is half of that, the median a fiftieth. */
#ifndef EK_TEST_SUPPORT_GOLDEN_H
#define EK_TEST_SUPPORT_GOLDEN_H

#include "support.h"

enum { GOLDEN_INPUTS = 3 };

/* One of the two functions is there. */
typedef struct golden_case {
    const char *name;
    double condition;
    ek_module *(*make)(void);                               /* a layer, applied to x[0] */
    ek_tensor *(*call)(ek_tape *tape, ek_tensor *const *x); /* an op */
} golden_case;

/* Output, gradients of inputs and parameters, and buffers of every row; a layer with one row does the same in
 * evaluation, to the bit. */
void golden_check(const ek_npz *npz, const golden_case *c, ek_dtype dtype);
/* Every case of the archive stands in `cases`, each once. */
void golden_check_complete(const ek_npz *npz, const golden_case *cases, int n);

/* "golden/<name>". */
ek_npz *golden_open(const char *name);
/* Reads "<a><b>". */
ek_tensor *golden_read(const ek_npz *npz, const char *a, const char *b);
/* Row `row` of a tensor as a leaf: float64 becomes `dtype`, int64 stays. */
ek_tensor *golden_row(const ek_tensor *rows, int64_t row, ek_dtype dtype);
/* 4·√terms·u·max(1, max |expected|)·condition, twice that in float64. */
double golden_tolerance(ek_dtype dtype, const ek_tensor *expected, int64_t terms, double condition);

/* ---- names and first values -------------------------------------------------------------------------------------- */
typedef struct golden_order {
    const ek_npz *npz;
    const char *prefix;
    int64_t next; /* entry of the archive */
    void (*each)(const struct golden_order *order, ek_tensor *ours, const ek_tensor *theirs, const char *name);
    double tolerance; /* for `each` */
} golden_order;
/* Every parameter and buffer of `net` is the entry of that prefix that is next in the archive, in name and shape, and
 * none is left; calls `each`, unless it is NULL, for every pair. */
void golden_in_order(ek_module *net, golden_order order);
/* `theirs`: largest magnitude, mean and standard deviation σ of PyTorch's own draw.  Of n draws the mean has standard
 * error σ/√n and σ, for a uniform or normal distribution, at most σ/√(2n): the difference of two draws stays within 6
 * such errors each, 12 in all.  The largest magnitude of a uniform draw falls short of its bound by about bound/n, of a
 * normal one it varies by about σ/4 from draw to draw. */
void golden_alike(const char *name, const ek_tensor *ours, const ek_tensor *theirs, bool normal);

/* Two tests, test_NAME and test_NAME_complete: the loop test runs case _i/2 in float32 or float64. */
#define GOLDEN_TESTS(NAME, ARCHIVE, CASES)                                                                             \
    START_TEST(test_##NAME)                                                                                            \
    {                                                                                                                  \
        ek_npz *npz = golden_open(ARCHIVE);                                                                            \
        golden_check(npz, &(CASES)[_i / 2], _i % 2 ? EK_F64 : EK_F32);                                                 \
        ek_npz_close(npz);                                                                                             \
    }                                                                                                                  \
    END_TEST                                                                                                           \
    START_TEST(test_##NAME##_complete)                                                                                 \
    {                                                                                                                  \
        ek_npz *npz = golden_open(ARCHIVE);                                                                            \
        golden_check_complete(npz, (CASES), (int)(sizeof(CASES) / sizeof *(CASES)));                                   \
        ek_npz_close(npz);                                                                                             \
    }                                                                                                                  \
    END_TEST
/* Adds both to a TCase. */
#define ADD_GOLDEN_TESTS(TCASE, NAME, CASES)                                                                           \
    do {                                                                                                               \
        tcase_add_loop_test(TCASE, test_##NAME, 0, 2 * (int)(sizeof(CASES) / sizeof *(CASES)));                        \
        tcase_add_test(TCASE, test_##NAME##_complete);                                                                 \
    } while (0)

#endif
