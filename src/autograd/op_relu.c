/* y = max(x, 0).  Expands to relu_forward_f32, relu_backward_f32, and what other ops do a ReLU by: ek_relu_in_place_f32,
 * ek_node_relu_grad_f32; and their _f64 twins. */
#ifdef REAL

/* x, y: [n].  NaN passes through. */
EK_KERNEL static void FN(relu_forward)(int64_t n, const REAL *x, REAL *y, const double *p)
{
    (void)p;
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i] < 0 ? 0 : x[i];
}

/* dx = 0 where y ≤ 0, the kink included, and dy elsewhere: at NaN too, as in PyTorch.  y, dy, dx: [n]. */
EK_KERNEL static void FN(relu_backward)(int64_t n, const REAL *x, const REAL *y, const REAL *dy, REAL *dx,
                                        const double *p)
{
    (void)x;
    (void)p;
    for (int64_t i = 0; i < n; i++)
        dx[i] = y[i] <= 0 ? 0 : dy[i];
}

typedef struct {
    const REAL *y, *dy;
    REAL *out; /* may be dy, or y */
} FN(relu_arguments);

static void FN(cut_range)(void *context, int64_t begin, int64_t end)
{
    const FN(relu_arguments) *a = context;
    FN(relu_forward)(end - begin, a->y + begin, a->out + begin, NULL);
}

static void FN(mask_range)(void *context, int64_t begin, int64_t end)
{
    const FN(relu_arguments) *a = context;
    FN(relu_backward)(end - begin, NULL, a->y + begin, a->dy + begin, a->out + begin, NULL);
}

void FN(ek_relu_in_place)(int64_t n, REAL *y)
{
    FN(relu_arguments) a = {.y = y, .out = y};
    ek_parallel_for(n, EK_GRAIN, FN(cut_range), &a);
}

const REAL *FN(ek_node_relu_grad)(ek_node *node)
{
    FN(relu_arguments) a = {.y = node->out->data, .dy = ek_node_grad_out(node),
                            .out = ek_node_grad_out_to_change(node)};
    if (a.out)
        ek_parallel_for(node->out->numel, EK_GRAIN, FN(mask_range), &a);
    return a.out;
}

#else
#include "op.h"
#define OP_FILE "op_relu.c"
#include "foreach_real.h"

EK_DEFINE_UNARY(relu)

ek_tensor *ek_relu(ek_tape *tape, ek_tensor *x)
{
    return ek_apply_unary(tape, ek_op_relu, x, 0, 0);
}
#endif
