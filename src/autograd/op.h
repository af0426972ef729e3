/* What an op file needs besides the public interface: the registry, shape rules, the drivers of elementwise ops; and
 * the tape's inside, for tape.c and the module base. */
#ifndef EK_OP_H
#define EK_OP_H

#include <evenkeel/autograd.h>

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* ---- registry --------------------------------------------------------------------------------------------------- */
#define EK_OP(name) extern const ek_op *const ek_op_##name;
#include "ops.def"
#undef EK_OP

/* Every registered op, for tests and tools. */
extern const ek_op *const *const ek_registry[];
extern const int ek_registry_size;

/* Flag of ops whose output shares the memory of in[0]: no memory is allocated, forward sets node->out->data. */
#define EK_OP_VIEW 2u

/* ---- shape rules (infer.c) --------------------------------------------------------------------------------------- */
/* Output like in[0], which has to be float32 or float64. */
ek_status ek_infer_same(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
/* in[i] is float32 or float64, or the failure that says so. */
ek_status ek_need_float(const ek_node *node, int i);
ek_status ek_need_int64(const ek_node *node, int i);
/* NumPy's broadcasting of two shapes. */
ek_status ek_broadcast(const char *who, ek_shape a, ek_shape b, ek_shape *out);
/* The bits of the axes of `to` along which `from` was broadcast. */
unsigned ek_broadcast_axes(ek_shape from, ek_shape to);
/* Offset in a tensor of shape `from` of the element that broadcasts to row-major position `flat` of `to`. */
int64_t ek_broadcast_offset(ek_shape from, ek_shape to, int64_t flat);

/* ---- lengths (lengths.c) ----------------------------------------------------------------------------------------- */
/* For a rule: what input i carries goes to these axes of the output; nothing does where it carries none, or the output
 * has no such axes of these sizes (an axis of −1 says so).  EK_ERR_SHAPE when *lengths holds others already. */
ek_status ek_place_lengths(const ek_node *node, int i, int batch_axis, int time_axis, const ek_lengths **lengths);
/* Fails with the sentence that inputs i and j carry different lengths. */
ek_status ek_fail_lengths(const char *who, int i, int j);
/* Rules for ek_op.lengths: the output carries what input 0 does; what all inputs of NumPy's broadcasting do that are
 * not repeated along these axes. */
ek_status ek_keep_first_lengths(const ek_node *node, const ek_lengths **lengths);
ek_status ek_broadcast_lengths(const ek_node *node, const ek_lengths **lengths);
/* A copy of `lengths` for other axes, in memory of the tape; NULL on failure. */
const ek_lengths *ek_lengths_on_axes(ek_tape *tape, const ek_lengths *lengths, int batch_axis, int time_axis);
/* A copy in memory of the tape, which outlives a change of the original; NULL on failure. */
const ek_lengths *ek_lengths_on_tape(ek_tape *tape, const ek_lengths *lengths);
/* n sequences of so many steps with these lengths (NULL: all of them valid), in memory of the tape; NULL on failure. */
const ek_lengths *ek_lengths_make(ek_tape *tape, int batch_axis, int time_axis, int64_t n, int64_t steps,
                                  const int64_t *length);

/* EK_OK for one of the three ways of pooling over time (op_pool_time.c). */
ek_status ek_need_time_pooling(const char *who, ek_time_pooling pooling);

/* ---- passing gradients on ---------------------------------------------------------------------------------------- */
/* In backward, for dL/d in[i] = dL/d out element by element (in[i] has out's number of elements): hands the buffer on
 * instead of copying it where it can.  For an op in which one tensor may stand at most twice. */
ek_status ek_node_pass_grad(ek_node *node, int i);
/* ek_node_grad_in() for an input whose value nobody reads any more, its maker's backward included: its gradient takes
 * the memory of the value where it can. */
void *ek_node_grad_over_input(ek_node *node, int i);
/* For an op that masks dL/d out, where it ends in a ReLU: memory to write that to, dL/d out's own or, where that is the
 * caller's, scratch memory.  NULL: EK_ERR_MEMORY. */
void *ek_node_grad_out_to_change(ek_node *node);

/* ---- elementwise ops of one input (unary.c) ---------------------------------------------------------------------- */
/* y[i] = f(x[i]); dx[i] = f'(x[i])·dy[i].  p: two parameters. */
typedef struct ek_unary_op {
    ek_op op;
    void (*forward_f32)(int64_t n, const float *x, float *y, const double *p);
    void (*forward_f64)(int64_t n, const double *x, double *y, const double *p);
    void (*backward_f32)(int64_t n, const float *x, const float *y, const float *dy, float *dx, const double *p);
    void (*backward_f64)(int64_t n, const double *x, const double *y, const double *dy, double *dx, const double *p);
} ek_unary_op;

ek_status ek_unary_forward_f32(ek_node *node);
ek_status ek_unary_forward_f64(ek_node *node);
ek_status ek_unary_backward_f32(ek_node *node);
ek_status ek_unary_backward_f64(ek_node *node);

/* Defines ek_op_NAME from kernels NAME_forward and NAME_backward.  INFER also checks node->attributes. */
#define EK_DEFINE_UNARY(NAME) EK_DEFINE_CHECKED_UNARY(NAME, ek_infer_same)
#define EK_DEFINE_CHECKED_UNARY(NAME, INFER)                                                                           \
    static const ek_unary_op unary_##NAME = {                                                                          \
        .op = {.name = #NAME,                                                                                          \
               .infer = INFER,                                                                                         \
               .forward = EK_BY_DTYPE(ek_unary_forward),                                                               \
               .backward = EK_BY_DTYPE(ek_unary_backward),                                                             \
               .lengths = ek_keep_lengths},                                                                            \
        .forward_f32 = NAME##_forward_f32,                                                                             \
        .forward_f64 = NAME##_forward_f64,                                                                             \
        .backward_f32 = NAME##_backward_f32,                                                                           \
        .backward_f64 = NAME##_backward_f64};                                                                          \
    const ek_op *const ek_op_##NAME = &unary_##NAME.op;

ek_tensor *ek_apply_unary(ek_tape *tape, const ek_op *op, ek_tensor *x, double p0, double p1);

/* ---- walking over axes ------------------------------------------------------------------------------------------- */
/* Position of element `index` (row-major over size[0 … n−1]) in memory with these strides. */
static inline int64_t ek_strided_offset(int n, const int64_t *size, const int64_t *stride, int64_t index)
{
    int64_t offset = 0;
    for (int i = n - 1; i > 0; i--) {
        offset += index % size[i] * stride[i];
        index /= size[i];
    }
    return n > 0 ? offset + index * stride[0] : 0;
}
/* Copies `count` blocks of `bytes` bytes that start every src_step and dst_step bytes, in parallel (blocks.c). */
void ek_copy_blocks(int64_t count, size_t bytes, const void *src, size_t src_step, void *dst, size_t dst_step);

/* ---- elementwise ops of two inputs, which broadcast (binary.c) --------------------------------------------------- */
/* y = f(a, b) on runs of n elements, along which a moves by sa and b by sb: 1, or 0 for one value
 * in the whole run, never both 0.  da = ∂f/∂a·dy and db = ∂f/∂b·dy, each [n] or NULL when not asked for: the sums over
 * broadcast axes are the driver's. */
typedef struct ek_binary_op {
    ek_op op;
    void (*forward_f32)(int64_t n, const float *a, int64_t sa, const float *b, int64_t sb, float *y);
    void (*forward_f64)(int64_t n, const double *a, int64_t sa, const double *b, int64_t sb, double *y);
    void (*backward_f32)(int64_t n, const float *a, int64_t sa, const float *b, int64_t sb, const float *dy, float *da,
                         float *db);
    void (*backward_f64)(int64_t n, const double *a, int64_t sa, const double *b, int64_t sb, const double *dy,
                         double *da, double *db);
} ek_binary_op;

ek_status ek_infer_broadcast(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
ek_status ek_binary_forward_f32(ek_node *node);
ek_status ek_binary_forward_f64(ek_node *node);
ek_status ek_binary_backward_f32(ek_node *node);
ek_status ek_binary_backward_f64(ek_node *node);
/* For a backward without a kernel: dL/d in[i] = sign·dL/d out, summed over the axes along which in[i] was broadcast. */
ek_status ek_broadcast_grad_f32(ek_node *node, int i, float sign);
ek_status ek_broadcast_grad_f64(ek_node *node, int i, double sign);

/* In a kernel of such an op: STATEMENT for i = 0 … n−1, with ai and bi for the elements of a and b.  One loop per pair
 * of strides, so that each is vectorized. */
#define EK_FOR_PAIRS(n, a, sa, b, sb, STATEMENT)                                                                       \
    do {                                                                                                               \
        if ((sa) && (sb)) {                                                                                            \
            for (int64_t i = 0; i < (n); i++) {                                                                        \
                const REAL ai = (a)[i], bi = (b)[i];                                                                   \
                STATEMENT;                                                                                             \
            }                                                                                                          \
        } else if (sa) {                                                                                               \
            const REAL bi = (b)[0];                                                                                    \
            for (int64_t i = 0; i < (n); i++) {                                                                        \
                const REAL ai = (a)[i];                                                                                \
                STATEMENT;                                                                                             \
            }                                                                                                          \
        } else {                                                                                                       \
            const REAL ai = (a)[0];                                                                                    \
            for (int64_t i = 0; i < (n); i++) {                                                                        \
                const REAL bi = (b)[i];                                                                               \
                STATEMENT;                                                                                             \
            }                                                                                                          \
        }                                                                                                              \
    } while (0)

/* Defines ek_op_NAME from kernels NAME_forward and NAME_backward. */
#define EK_DEFINE_BINARY(NAME)                                                                                         \
    static const ek_binary_op binary_##NAME = {                                                                        \
        .op = {.name = #NAME,                                                                                          \
               .infer = ek_infer_broadcast,                                                                            \
               .forward = EK_BY_DTYPE(ek_binary_forward),                                                              \
               .backward = EK_BY_DTYPE(ek_binary_backward),                                                            \
               .lengths = ek_broadcast_lengths},                                                                       \
        .forward_f32 = NAME##_forward_f32,                                                                             \
        .forward_f64 = NAME##_forward_f64,                                                                             \
        .backward_f32 = NAME##_backward_f32,                                                                           \
        .backward_f64 = NAME##_backward_f64};                                                                          \
    const ek_op *const ek_op_##NAME = &binary_##NAME.op;

/* ---- sums over axes (reduce.c) ----------------------------------------------------------------------------------- */
/* Σ x[i], in double, in an order that depends on n alone. */
double ek_sum_run_f32(int64_t n, const float *x);
double ek_sum_run_f64(int64_t n, const double *x);
/* dst = (Σ src)/divisor over the axes of `shape` whose bits are set; what remains keeps its order.  Summed in double.
 * The same bits for any number of threads.  Takes scratch memory of the node: EK_ERR_MEMORY. */
ek_status ek_reduce_sum_f32(ek_node *node, const float *src, ek_shape shape, unsigned axes, double divisor, float *dst);
ek_status ek_reduce_sum_f64(ek_node *node, const double *src, ek_shape shape, unsigned axes, double divisor,
                            double *dst);
/* The way back: dst, of shape `shape`, gets src/divisor repeated along those axes. */
void ek_reduce_spread_f32(const float *src, ek_shape shape, unsigned axes, double divisor, float *dst);
void ek_reduce_spread_f64(const double *src, ek_shape shape, unsigned axes, double divisor, double *dst);

/* Attributes, shape rule and set of axes of ops that reduce over axes. */
typedef struct ek_reduction_attributes {
    ek_axes axes;
    bool keepdim;
} ek_reduction_attributes;
ek_status ek_infer_reduction(const ek_node *node, ek_dtype *dtype, ek_shape *shape);
/* Lengths stay where both axes do, renumbered. */
ek_status ek_reduction_lengths(const ek_node *node, const ek_lengths **lengths);
ek_tensor *ek_apply_reduction(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_axes axes, bool keepdim);
/* The bits of the axes, and the number of elements behind each output (`count` may be NULL). */
unsigned ek_reduction_axes(const ek_node *node, int64_t *count);

/* ---- matrix products (matrix.c) ---------------------------------------------------------------------------------- */
/* ek_gemm_into (core.h) with the node's scratch memory: EK_ERR_MEMORY. */
ek_status ek_node_gemm_f32(ek_node *node, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                           const float *a, int64_t lda, const float *b, int64_t ldb, float *c, int64_t ldc,
                           bool accumulate);
ek_status ek_node_gemm_f64(ek_node *node, bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k,
                           const double *a, int64_t lda, const double *b, int64_t ldb, double *c, int64_t ldc,
                           bool accumulate);

/* ---- the inside of a tape ---------------------------------------------------------------------------------------- */
/* To be shown the gradient of a tensor once it is complete. */
typedef struct ek_hook {
    struct ek_hook *next;
    void (*call)(const struct ek_hook *hook, const ek_tensor *gradient);
} ek_hook;

typedef struct ek_pool_block ek_pool_block;

/* A recorded op: the public node, and what the backward walk keeps about it. */
typedef struct ek_record {
    ek_node node; /* first, so that a node is its record */
    struct ek_record *previous;
    ek_dtype real; /* of the first float input: which of the op's functions run */
    ek_hook *hooks;
    ek_pool_block *scratch; /* given back when the running function returns */
    void **grad_in;         /* [n_in] what ek_node_grad_in gave out */
    bool passed;            /* dL/d out now serves as the gradient of an input */
    bool out_of_memory;     /* some ek_node_grad_in failed */
} ek_record;

/* What is to happen to a module when the outermost forward ends. */
typedef struct ek_pending {
    struct ek_pending *next;
    struct ek_module *module;
    void (*finish)(struct ek_module *module, const void *data, bool succeeded);
    void *data;
} ek_pending;

/* BatchNorm's statistics of the batch at each step of a recurrent layer: [steps][units], biased variances. */
typedef struct ek_watched_steps {
    int norm; /* which of the layer's norms, as its norm_at counts them */
    int64_t steps, units;
    const int64_t *count;        /* [steps] sequences that have the step, two or more */
    const int64_t *running_step; /* [steps] the row of the running tables that stands for it */
    const double *mean, *var;
} ek_watched_steps;

/* To be shown what every module takes and gives, in place of the modules' own observers. */
typedef struct ek_watch {
    void (*output)(const struct ek_watch *watch, const struct ek_module *module, const ek_tensor *x,
                   const ek_tensor *y);
    void (*steps)(const struct ek_watch *watch, const struct ek_module *module,
                  const ek_watched_steps *statistics); /* NULL: not wanted */
} ek_watch;

typedef struct ek_chunk ek_chunk;
typedef struct ek_retained ek_retained;
enum { EK_TAPE_MESSAGE_BYTES = 2048 };

struct ek_tape {
    ek_chunk *chunks;  /* the oldest first */
    ek_chunk *current; /* which small things are taken from */
    size_t taken;      /* bytes from the allocator */
    ek_pool_block *free_blocks;
    ek_record *last;
    ek_retained *retained; /* leaves that must live until the reset */
    bool recording;
    bool backward_done;
    bool leaves_modules_alone; /* gradient checks: statistics and counters stand still */
    int depth;                 /* of nested ek_forward calls */
    ek_pending *pending, **pending_end;
    const ek_watch *watch;
    const struct ek_module *relu_offer; /* a layer whose output goes through a ReLU and nowhere else */
    bool error_placed; /* the error says in which layer it happened */
    ek_status status; /* the first failure */
    char error[EK_TAPE_MESSAGE_BYTES];
};

/* Memory until the reset, 64-byte aligned, not cleared.  NULL after ek_fail. */
void *ek_tape_alloc(ek_tape *tape, size_t bytes);
/* Makes the thread's last error the tape's (the first stays); returns NULL for `return ek_tape_fail(tape);`. */
void *ek_tape_fail(ek_tape *tape);
/* True when ops may go on; else the last error is set to the tape's first one (or to "the tape is NULL"). */
bool ek_tape_usable(ek_tape *tape, const char *who);
/* A tensor of the tape whose data is still to be set. */
ek_tensor *ek_tape_tensor(ek_tape *tape, ek_dtype dtype, ek_shape shape, int64_t numel);
/* Keeps a leaf alive until the reset. */
ek_status ek_tape_retain(ek_tape *tape, ek_tensor *leaf);
/* Scratch memory that is done with before its function returns: all that was taken since the mark. */
static inline ek_pool_block *ek_scratch_mark(const ek_node *node)
{
    return ((const ek_record *)node)->scratch;
}
void ek_scratch_release_to(ek_node *node, ek_pool_block *mark);
/* Lets `hook` (memory of the tape) see the gradient of t, if t has a history. */
void ek_tape_hook(ek_tensor *t, ek_hook *hook);

#endif
