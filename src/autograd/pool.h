/* What the pooling ops share (pool.c): ranks, windows, and averages over windows. */
#ifndef EK_POOL_H
#define EK_POOL_H

#include "window.h"

/* Attributes of every pooling op, in (height, width) order; a one-dimensional op has height 1. */
typedef struct ek_pool_attributes {
    int64_t kernel[2]; /* of an adaptive pool: the output's size */
    ek_pool_opts opts;
} ek_pool_attributes;

/* Planes [H, W] → [OH, OW], N·C of them. */
typedef struct ek_pool_plan {
    int64_t planes, pixels_in, pixels;
    int64_t grain; /* planes that are worth a chunk of a parallel loop */
    ek_window h, w;
} ek_pool_plan;

/* Spatial axes of the op: 1 or 2, by the last digit but one of its name ("max_pool2d"). */
int ek_pool_rank(const ek_op *op);
/* Expects (N, C, L) or (N, C, H, W) of a float type. */
ek_status ek_pool_check_input(const ek_node *node);
/* Shape rule of max and average pooling. */
ek_status ek_infer_pool(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
/* Rule for lengths of max and average pooling: kept where there is an output for each input. */
ek_status ek_pool_lengths(const ek_node *node, const ek_lengths **lengths);
ek_pool_plan ek_pool_find(const ek_node *node);
/* Applies a pooling op; opts may be NULL.  A one-dimensional op takes kernel_w and index 0 of the options. */
ek_tensor *ek_apply_pool(ek_tape *tape, const ek_op *op, ek_tensor *x, int64_t kernel_h, int64_t kernel_w,
                         const ek_pool_opts *opts);

/* Inputs begin … end−1 that output o averages, and the number it divides by. */
typedef void (*ek_pool_range)(const ek_node *node, const ek_window *w, int64_t o, int64_t *begin, int64_t *end,
                              int64_t *divisor);
/* y = Σ x/(divisor_h·divisor_w) over each window; dx is the mirror. */
ek_status ek_average_forward_f32(ek_node *node, ek_pool_range range);
ek_status ek_average_forward_f64(ek_node *node, ek_pool_range range);
ek_status ek_average_backward_f32(ek_node *node, ek_pool_range range);
ek_status ek_average_backward_f64(ek_node *node, ek_pool_range range);

#endif
