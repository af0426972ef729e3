/* Shared by the tests of ops: running one op forward and backward outside any net. */
#ifndef EK_TEST_SUPPORT_OPS_H
#define EK_TEST_SUPPORT_OPS_H

#include "support.h"

/* An op under test: its inputs, and whatever else it needs. */
typedef ek_tensor *(*op_call)(ek_tape *t, ek_tensor *const *in, const void *options);

/* Runs the op on a tape of its own and clones the result; then, if some input requires a gradient, walks back from dy
 * (NULL: ones), which leaves fresh gradients in the inputs. */
ek_tensor *run_op(op_call op, ek_tensor *const *in, int n_in, const void *options, const ek_tensor *dy);

/* The result and the gradients of the op have the same bits for 1, 2, 3 and 8 threads. */
void assert_same_for_any_threads(const char *what, op_call op, ek_tensor *const *in, int n_in, const void *options);

/* The op fails with this status and text, the tape keeps the failure, and the inputs' values stay. */
void assert_op_fails(ek_status status, const char *text, op_call op, ek_tensor *const *in, int n_in,
                     const void *options);

/* A leaf with a gradient from doubles, converted to dtype. */
ek_tensor *leaf(ek_dtype dtype, ek_shape shape, const double *values);
/* The same from random numbers in [−1, 1). */
ek_tensor *random_leaf(ek_dtype dtype, ek_shape shape, ek_rng *rng);

#endif
