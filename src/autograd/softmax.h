/* What softmax, log-softmax and cross-entropy share: the walk over the lines of a tensor along one axis. */
#ifndef EK_SOFTMAX_H
#define EK_SOFTMAX_H

#include "op.h"

/* x seen as (outer, n, inner): element k of line (o, i) is x[(o·n + k)·inner + i].  Work is cut into tiles of up to
 * EK_TILE lines side by side; where inner is 1 a tile is one contiguous line. */
typedef struct ek_lines {
    int64_t outer, n, inner;
    int64_t tiles_per_outer, tiles; /* ⌈inner/EK_TILE⌉, and that times outer */
    int64_t grain;                  /* tiles per chunk of a parallel loop */
} ek_lines;
enum { EK_TILE = EK_LANES };

typedef struct ek_tile {
    int64_t begin; /* offset of element 0 of its first line */
    int64_t line;  /* number of its first line, o·inner + i */
    int width;     /* lines in it */
} ek_tile;

ek_lines ek_lines_of(ek_shape shape, int axis);
ek_tile ek_tile_at(const ek_lines *lines, int64_t index);

/* Kernels on a tile: element k of its line j is at [k·inner + j], j < width. */

/* STATEMENT for all elements, with `at` for where one is and j for its line.  One line by itself is a loop of its own,
 * so that it is vectorized. */
#define EK_FOR_TILE(n, inner, width, STATEMENT)                                                                        \
    do {                                                                                                               \
        if ((inner) == 1) {                                                                                            \
            const int j = 0;                                                                                           \
            for (int64_t at = 0; at < (n); at++) {                                                                     \
                STATEMENT;                                                                                             \
            }                                                                                                          \
        } else {                                                                                                       \
            for (int64_t k = 0; k < (n); k++)                                                                          \
                for (int j = 0; j < (width); j++) {                                                                    \
                    const int64_t at = k * (inner) + j;                                                                \
                    STATEMENT;                                                                                         \
                }                                                                                                      \
        }                                                                                                              \
    } while (0)

/* max[j] = max over line j, sum[j] = Σ exp(x − max).  Where y is not NULL it receives the softmax.  A line that holds
 * NaN or +∞, or nothing but −∞, gives NaN. */
void ek_softmax_tile_f32(int64_t n, int64_t inner, int width, const float *x, float *y, float *max, double *sum);
void ek_softmax_tile_f64(int64_t n, int64_t inner, int width, const double *x, double *y, double *max, double *sum);
/* The same, summed in the order of lines side by side also where there is only one (inner = 1): the bits of a line do
 * not depend on how many stand beside it. */
void ek_softmax_columns_f32(int64_t n, int64_t inner, int width, const float *x, float *y, float *max, double *sum);
void ek_softmax_columns_f64(int64_t n, int64_t inner, int width, const double *x, double *y, double *max, double *sum);
/* sum[j] = Σ a·b over line j; b may be NULL, for 1. */
void ek_dot_tile_f32(int64_t n, int64_t inner, int width, const float *a, const float *b, double *sum);
void ek_dot_tile_f64(int64_t n, int64_t inner, int width, const double *a, const double *b, double *sum);

/* An op that makes each line of y from the same line of x, and of dx from those of y and dy. */
typedef struct ek_line_op {
    ek_op op;
    void (*forward_f32)(int64_t n, int64_t inner, int width, const float *x, float *y);
    void (*forward_f64)(int64_t n, int64_t inner, int width, const double *x, double *y);
    void (*backward_f32)(int64_t n, int64_t inner, int width, const float *y, const float *dy, float *dx);
    void (*backward_f64)(int64_t n, int64_t inner, int width, const double *y, const double *dy, double *dx);
} ek_line_op;

ek_status ek_infer_lines(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
ek_status ek_lines_forward_f32(ek_node *node);
ek_status ek_lines_forward_f64(ek_node *node);
ek_status ek_lines_backward_f32(ek_node *node);
ek_status ek_lines_backward_f64(ek_node *node);

/* Defines ek_op_NAME from kernels NAME_forward and NAME_backward. */
#define EK_DEFINE_LINE_OP(NAME)                                                                                        \
    static const ek_line_op lines_##NAME = {.op = {.name = #NAME,                                                      \
                                                   .infer = ek_infer_lines,                                            \
                                                   .forward = EK_BY_DTYPE(ek_lines_forward),                           \
                                                   .backward = EK_BY_DTYPE(ek_lines_backward),                         \
                                                   .lengths = ek_keep_lengths},                                        \
                                            .forward_f32 = NAME##_forward_f32,                                         \
                                            .forward_f64 = NAME##_forward_f64,                                         \
                                            .backward_f32 = NAME##_backward_f32,                                       \
                                            .backward_f64 = NAME##_backward_f64};                                      \
    const ek_op *const ek_op_##NAME = &lines_##NAME.op;

ek_tensor *ek_apply_lines(ek_tape *tape, const ek_op *op, ek_tensor *x, int axis);

#endif
