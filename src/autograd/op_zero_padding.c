/* y = x in the valid steps, 0 in the padding; dx = dy likewise.  Expands to zero_padding_forward_f32,
 * zero_padding_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    const ek_strips *strips;
    const REAL *from;
    REAL *to;
} FN(zero_padding_arguments);

/* Strips begin … end−1 of `to`, which holds zeros. */
static void FN(copy_valid)(void *context, int64_t begin, int64_t end)
{
    const FN(zero_padding_arguments) *g = context;
    const int64_t stride = g->strips->stride, width = g->strips->width;
    for (int64_t i = begin; i < end; i++) {
        const ek_strip strip = ek_strip_at(g->strips, i);
        const bool one_piece = stride == width && ek_strip_is_gapless(&strip);
        const int64_t pieces = one_piece ? strip.length > 0 : strip.length;
        for (int64_t k = 0; k < pieces; k++) {
            int64_t at = strip.begin + ek_strip_step(&strip, k) * stride;
            memcpy(g->to + at, g->from + at, (size_t)(one_piece ? strip.length * width : width) * sizeof(REAL));
        }
    }
}

/* from, to: in[0]'s shape. */
static void FN(keep_valid)(const ek_node *node, const REAL *from, REAL *to)
{
    const ek_lengths *lengths = ek_node_lengths(node, 0);
    const ek_strips strips = ek_strips_of(node->out->shape, lengths->time_axis, lengths);
    FN(zero_padding_arguments) g = {.strips = &strips, .from = from, .to = to};
    memset(to, 0, ek_tensor_bytes(node->out));
    if (node->out->numel)
        ek_parallel_for(strips.count, strips.grain, FN(copy_valid), &g);
}

static ek_status FN(zero_padding_forward)(ek_node *node)
{
    FN(keep_valid)(node, node->in[0]->data, node->out->data);
    return EK_OK;
}

static ek_status FN(zero_padding_backward)(ek_node *node)
{
    REAL *dx = ek_node_grad_in(node, 0);
    if (dx)
        FN(keep_valid)(node, ek_node_grad_out(node), dx);
    return EK_OK;
}

#else
#include "strips.h"
#define OP_FILE "op_zero_padding.c"
#include "foreach_real.h"

static const ek_op zero_padding = {.name = "zero_padding",
                                   .infer = ek_infer_same,
                                   .forward = EK_BY_DTYPE(zero_padding_forward),
                                   .backward = EK_BY_DTYPE(zero_padding_backward),
                                   .lengths = ek_keep_lengths};
const ek_op *const ek_op_zero_padding = &zero_padding;

ek_tensor *ek_zero_padding(ek_tape *tape, ek_tensor *x)
{
    if (!ek_tape_usable(tape, "zero_padding"))
        return NULL;
    if (x && !x->lengths && (!x->tape || x->tape == tape))
        return x;
    return ek_apply(tape, ek_op_zero_padding, 1, &x, NULL, 0);
}
#endif
