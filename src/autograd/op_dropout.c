/* Inverted dropout (Srivastava et al. 2014).  Expands to dropout_forward_f32, dropout_backward_f32 and their _f64
 * twins. */
#ifdef REAL

typedef struct {
    const dropout_attributes *options;
    const REAL *in;      /* x of the forward, dy of the backward */
    REAL *out;           /* y of the forward, dx of the backward */
    unsigned char *kept; /* [numel] 1 where the element stays */
} FN(dropout_arguments);

/* y = x/(1 − p) where kept, 0 elsewhere; and dx from dy likewise. */
EK_KERNEL static void FN(dropout_mask)(int64_t n, const REAL *in, const unsigned char *kept, REAL scale, REAL *out)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = kept[i] ? in[i] * scale : 0;
}

static void FN(mask_range)(void *context, int64_t begin, int64_t end)
{
    const FN(dropout_arguments) *a = context;
    FN(dropout_mask)(end - begin, a->in + begin, a->kept + begin, (REAL)(1 / (1 - a->options->p)), a->out + begin);
}

/* Chunks start at multiples of 4, so no block of random numbers is shared by two. */
static void FN(draw_range)(void *context, int64_t begin, int64_t end)
{
    const FN(dropout_arguments) *a = context;
    draw_kept(a->options, begin, end, a->kept);
    FN(mask_range)(context, begin, end);
}

static ek_status FN(dropout_forward)(ek_node *node)
{
    FN(dropout_arguments) a = {.options = node->attributes, .in = node->in[0]->data, .out = node->out->data,
                               .kept = ek_node_save(node, (size_t)node->out->numel)};
    if (!a.kept)
        return EK_ERR_MEMORY;
    ek_parallel_for(node->out->numel, EK_GRAIN, FN(draw_range), &a);
    return EK_OK;
}

static ek_status FN(dropout_backward)(ek_node *node)
{
    FN(dropout_arguments) a = {.options = node->attributes, .in = ek_node_grad_out(node),
                               .out = ek_node_grad_in(node, 0), .kept = node->saved};
    if (a.out)
        ek_parallel_for(node->out->numel, EK_GRAIN, FN(mask_range), &a);
    return EK_OK;
}

#else
#include "op.h"

typedef struct dropout_attributes {
    double p;
    ek_rng rng; /* as it stood before */
    bool has_rng;
} dropout_attributes;

enum { WORDS = 4 }; /* in a block of random numbers */
_Static_assert(EK_GRAIN % WORDS == 0, "chunks of elementwise loops hold whole blocks");

/* Element i is kept when word i % 4 of block counter + i/4 is at least p·2³²: a function of the generator and i. */
static void draw_kept(const dropout_attributes *options, int64_t begin, int64_t end, unsigned char *kept)
{
    const uint64_t threshold = (uint64_t)(options->p * 0x1p32);
    uint32_t word[WORDS];
    for (int64_t i = begin; i < end; i += WORDS) {
        ek_philox(options->rng.key, options->rng.counter + (uint64_t)(i / WORDS), word);
        for (int k = 0; k < WORDS && i + k < end; k++)
            kept[i + k] = word[k] >= threshold;
    }
}

#define OP_FILE "op_dropout.c"
#include "foreach_real.h"

static ek_status infer_dropout(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    const dropout_attributes *options = node->attributes;
    if (!options->has_rng)
        return ek_fail(EK_ERR_ARGUMENT, "dropout: the generator is NULL; ek_rng_seed() makes one");
    if (!(options->p >= 0 && options->p < 1))
        return ek_fail(EK_ERR_ARGUMENT, "dropout: expected 0 ≤ p < 1, got %g", options->p);
    return ek_infer_same(node, dtype, shape);
}

static const ek_op dropout = {.name = "dropout",
                              .infer = infer_dropout,
                              .forward = EK_BY_DTYPE(dropout_forward),
                              .backward = EK_BY_DTYPE(dropout_backward),
                              .lengths = ek_keep_lengths};
const ek_op *const ek_op_dropout = &dropout;

ek_tensor *ek_dropout(ek_tape *tape, ek_tensor *x, double p, ek_rng *rng)
{
    dropout_attributes options = {.p = p, .has_rng = rng != NULL};
    if (rng)
        options.rng = *rng;
    ek_tensor *y = ek_apply(tape, ek_op_dropout, 1, &x, &options, sizeof options);
    if (y)
        rng->counter += (uint64_t)((y->numel + WORDS - 1) / WORDS);
    return y;
}
#endif
