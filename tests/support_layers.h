/* Shared by the tests of layers: running one alone, and seeing that a failure moved nothing. */
#ifndef EK_TEST_SUPPORT_LAYERS_H
#define EK_TEST_SUPPORT_LAYERS_H

#include "support.h"

/* Tensors of values, and of normal random numbers. */
ek_tensor *f32(ek_shape shape, const float *values);
#define F32(shape, ...) f32(shape, (const float[]){__VA_ARGS__})
ek_tensor *normal(ek_dtype dtype, ek_shape shape, double mean, double std, uint64_t seed);

#define ck_near(value, expected, tolerance)                                                                            \
    ck_assert_msg(fabs((value) - (expected)) <= (tolerance), "%s is %.12g, expected %.12g", #value, (double)(value),   \
                  (double)(expected))

/* The output of one forward on a tape of its own, cloned; fails the test when there is none. */
ek_tensor *apply_layer(ek_module *module, ek_tensor *x);
/* One forward whose output nobody needs. */
void feed(ek_module *module, ek_tensor *x);

/* The norm report with default options; fails the test when there is none. */
ek_norm_report *report_on(ek_module *net, ek_tensor *x);

/* The parameters and buffers of a module, all in one vector of doubles. */
ek_tensor *copy_state(ek_module *module);
/* They are the bits of `before` still. */
void assert_state(const char *what, ek_module *module, const ek_tensor *before);
/* ek_forward fails with this status and text, and no parameter or buffer moves. */
void assert_forward_fails(ek_status status, const char *text, ek_module *module, ek_tensor *x);

/* Sets every parameter to random values away from 0, from a stream named after it. */
void draw_parameters(ek_module *module, uint64_t seed);
/* The value of a buffer or parameter at an index. */
double state_at(ek_module *module, const char *name, int64_t i);

#endif
