/* Shared by the tests of optimizers: leaves, and gradients without a backward pass. */
#ifndef EK_TEST_SUPPORT_OPTIM_H
#define EK_TEST_SUPPORT_OPTIM_H

#include "optimizer.h"
#include "support.h"

/* A leaf of n normal random elements that requires a gradient. */
ek_tensor *normal_leaf(ek_dtype dtype, int64_t n, uint64_t seed);
/* Sets every element of the gradient, as a backward pass would. */
void fill_gradient(ek_tensor *t, double value);

#endif
