/* The driver of elementwise losses, L = reduce(l(x, t)): what an op file gives it.  Shapes are equal, nothing
 * broadcasts. */
#ifndef EK_LOSS_H
#define EK_LOSS_H

#include "op.h"

/* l[i] = l(x[i], t[i]), and both derivatives; all arrays are [n], p as given to ek_apply_loss. */
typedef struct ek_loss_op {
    ek_op op;
    void (*value_f32)(int64_t n, const float *x, const float *t, float *l, double p);
    void (*value_f64)(int64_t n, const double *x, const double *t, double *l, double p);
    void (*slope_f32)(int64_t n, const float *x, const float *t, float *dx, float *dt, double p);
    void (*slope_f64)(int64_t n, const double *x, const double *t, double *dx, double *dt, double p);
} ek_loss_op;

ek_status ek_infer_loss(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
ek_status ek_loss_forward_f32(ek_node *node);
ek_status ek_loss_forward_f64(ek_node *node);
ek_status ek_loss_backward_f32(ek_node *node);
ek_status ek_loss_backward_f64(ek_node *node);

/* Defines ek_op_NAME from kernels NAME_value and NAME_slope. */
#define EK_DEFINE_LOSS(NAME)                                                                                           \
    static const ek_loss_op loss_##NAME = {.op = {.name = #NAME,                                                       \
                                                  .infer = ek_infer_loss,                                              \
                                                  .forward = EK_BY_DTYPE(ek_loss_forward),                             \
                                                  .backward = EK_BY_DTYPE(ek_loss_backward)},                          \
                                           .value_f32 = NAME##_value_f32,                                              \
                                           .value_f64 = NAME##_value_f64,                                              \
                                           .slope_f32 = NAME##_slope_f32,                                              \
                                           .slope_f64 = NAME##_slope_f64};                                             \
    const ek_op *const ek_op_##NAME = &loss_##NAME.op;

/* p: a parameter > 0 of the loss; 1 where it has none. */
ek_tensor *ek_apply_loss(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_tensor *target, ek_reduction reduction,
                         double p);

/* EK_OK for one of the three reductions. */
ek_status ek_need_reduction(const char *who, ek_reduction reduction);

#endif
