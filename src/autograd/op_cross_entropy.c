/* Cross-entropy of logits against class indices, log-softmax and all, and the count of right answers.  With p =
 * softmax(x) over the C classes of a position, target t and label smoothing ε:
 *
 *   q = (1 − ε)·[c = t] + ε/C,   l = −Σ q·ln p,   dx = (p − q)·dl      (Szegedy et al. 2016, section 7)
 *
 * Expands to cross_entropy_forward_f32, cross_entropy_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    cross_entropy_attributes options;
    ek_lines lines;        /* (N, C, positions per sample) */
    const REAL *x;         /* logits */
    const int64_t *target; /* [lines] */
    double *loss;          /* [lines], 0 where ignored */
    REAL *p;               /* softmax of x for the backward, NULL if none follows */
    const REAL *dy;        /* [lines], or [1] where reduced */
    double scale;          /* 1/(targets that count) for a mean, else 1 */
    REAL *dx;
} FN(cross_entropy_arguments);

/* l = ln Σ exp(x − max) + (1 − ε)·(max − x_t) + ε·mean(max − x), which takes no difference of large numbers. */
static void FN(loss_tiles)(void *context, int64_t begin, int64_t end)
{
    const FN(cross_entropy_arguments) *a = context;
    const int64_t n = a->lines.n, inner = a->lines.inner;
    const double smoothing = a->options.label_smoothing;
    REAL max[EK_TILE];
    double sum[EK_TILE];
    for (int64_t index = begin; index < end; index++) {
        ek_tile tile = ek_tile_at(&a->lines, index);
        const REAL *x = a->x + tile.begin;
        FN(ek_softmax_tile)(n, inner, tile.width, x, a->p ? a->p + tile.begin : NULL, max, sum);
        for (int j = 0; j < tile.width; j++) {
            int64_t target = a->target[tile.line + j];
            double loss = 0;
            if (target != a->options.ignore_index) {
                loss = log(sum[j]) + (1 - smoothing) * ((double)max[j] - x[target * inner + j]);
                double below = 0;
                for (int64_t k = 0; smoothing > 0 && k < n; k++)
                    below += (double)max[j] - x[k * inner + j];
                if (smoothing > 0)
                    loss += smoothing * below / (double)n;
            }
            a->loss[tile.line + j] = loss;
        }
    }
}

/* dx = (p − q)·dl, and 0 where ignored, whatever the logits are. */
static void FN(gradient_tiles)(void *context, int64_t begin, int64_t end)
{
    const FN(cross_entropy_arguments) *a = context;
    const int64_t n = a->lines.n, inner = a->lines.inner;
    const double smoothing = a->options.label_smoothing;
    const REAL elsewhere = (REAL)(smoothing / (double)n);
    for (int64_t index = begin; index < end; index++) {
        ek_tile tile = ek_tile_at(&a->lines, index);
        const REAL *p = a->p + tile.begin;
        REAL *dx = a->dx + tile.begin;
        for (int j = 0; j < tile.width; j++) {
            int64_t line = tile.line + j, target = a->target[line];
            if (target == a->options.ignore_index) {
                for (int64_t k = 0; k < n; k++)
                    dx[k * inner + j] = 0;
                continue;
            }
            const REAL dl = (REAL)(a->scale * a->dy[a->options.reduction == EK_REDUCE_NONE ? line : 0]);
            for (int64_t k = 0; k < n; k++)
                dx[k * inner + j] = (p[k * inner + j] - elsewhere) * dl;
            dx[target * inner + j] = (p[target * inner + j] - elsewhere - (REAL)(1 - smoothing)) * dl;
        }
    }
}

static FN(cross_entropy_arguments) FN(arguments)(const ek_node *node)
{
    const cross_entropy_attributes *options = node->attributes;
    return (FN(cross_entropy_arguments)){
        .options = *options,
        .lines = ek_lines_of(node->in[0]->shape, 1),
        .x = node->in[0]->data,
        .target = node->in[1]->data,
        .scale = options->reduction == EK_REDUCE_MEAN ? 1.0 / (double)count_targets(node) : 1,
    };
}

static ek_status FN(cross_entropy_forward)(ek_node *node)
{
    FN(cross_entropy_arguments) a = FN(arguments)(node);
    int64_t n = node->in[1]->numel;
    a.loss = ek_node_scratch(node, (size_t)n * sizeof *a.loss);
    if (!a.loss)
        return EK_ERR_MEMORY;
    if (node->recorded) {
        a.p = ek_node_save(node, ek_tensor_bytes(node->in[0]));
        if (!a.p)
            return EK_ERR_MEMORY;
    }
    ek_parallel_for(a.lines.tiles, a.lines.grain, FN(loss_tiles), &a);
    REAL *y = node->out->data;
    if (a.options.reduction == EK_REDUCE_NONE)
        for (int64_t i = 0; i < n; i++)
            y[i] = (REAL)a.loss[i];
    else if (a.options.reduction == EK_REDUCE_SUM)
        y[0] = (REAL)ek_sum_run_f64(n, a.loss);
    else
        y[0] = (REAL)(ek_sum_run_f64(n, a.loss) / (double)count_targets(node)); /* 0/0 where all are ignored */
    return EK_OK;
}

static ek_status FN(cross_entropy_backward)(ek_node *node)
{
    FN(cross_entropy_arguments) a = FN(arguments)(node);
    a.p = node->saved;
    a.dy = ek_node_grad_out(node);
    a.dx = ek_node_grad_in(node, 0);
    if (a.dx)
        ek_parallel_for(a.lines.tiles, a.lines.grain, FN(gradient_tiles), &a);
    return EK_OK;
}

/* How many rows of x [rows, n] have their largest value at the target.  The first of equals counts, and NaN as largest
 * of all, as in PyTorch's argmax. */
static int64_t FN(count_rows)(int64_t rows, int64_t n, const REAL *x, const int64_t *target)
{
    int64_t correct = 0;
    for (int64_t i = 0; i < rows; i++, x += n) {
        int64_t best = 0;
        for (int64_t k = 1; k < n && !isnan(x[best]); k++)
            if (x[k] > x[best] || isnan(x[k]))
                best = k;
        correct += best == target[i];
    }
    return correct;
}

#else
#include "softmax.h"
#include "loss.h"

typedef ek_cross_entropy_opts cross_entropy_attributes;

/* Targets that are not ignored. */
static int64_t count_targets(const ek_node *node)
{
    const cross_entropy_attributes *options = node->attributes;
    const int64_t *target = node->in[1]->data;
    int64_t count = 0;
    for (int64_t i = 0; i < node->in[1]->numel; i++)
        count += target[i] != options->ignore_index;
    return count;
}

#define OP_FILE "op_cross_entropy.c"
#include "foreach_real.h"

/* EK_OK when every target that is not ignored is in 0 … classes−1; `ignore_index` NULL: none is ignored. */
static ek_status check_targets(const char *who, const ek_tensor *targets, int64_t classes, const int64_t *ignore_index)
{
    const int64_t *target = targets->data;
    for (int64_t i = 0; i < targets->numel; i++)
        if ((target[i] < 0 || target[i] >= classes) && !(ignore_index && target[i] == *ignore_index))
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected targets in 0 … %lld, got %lld at flat index %lld", who,
                           (long long)classes - 1, (long long)target[i], (long long)i);
    return EK_OK;
}

/* logits (N, C, d1, …), target (N, d1, …). */
static ek_status check_shapes(const char *who, ek_shape logits, ek_shape target)
{
    bool fits = logits.ndim >= 2 && target.ndim == logits.ndim - 1 && target.dim[0] == logits.dim[0];
    for (int i = 1; fits && i < target.ndim; i++)
        fits = target.dim[i] == logits.dim[i + 1];
    if (!fits)
        return ek_fail(EK_ERR_SHAPE, "%s: expected logits (N, C, …) and targets (N, …), got %s and %s", who,
                       EK_TEXT(logits), EK_TEXT(target));
    return EK_OK;
}

static ek_status infer_cross_entropy(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* that of the logits */
    const char *who = node->op->name;
    const cross_entropy_attributes *options = node->attributes;
    const ek_tensor *logits = node->in[0], *target = node->in[1];
    if (ek_need_float(node, 0) != EK_OK || ek_need_int64(node, 1) != EK_OK)
        return EK_ERR_DTYPE;
    if (ek_need_reduction(who, options->reduction) != EK_OK)
        return EK_ERR_ARGUMENT;
    if (!(options->label_smoothing >= 0 && options->label_smoothing <= 1))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected label_smoothing in [0, 1], got %g", who,
                       options->label_smoothing);
    if (check_shapes(who, logits->shape, target->shape) != EK_OK)
        return EK_ERR_SHAPE;
    *shape = options->reduction == EK_REDUCE_NONE ? target->shape : EK_SCALAR;
    return check_targets(who, target, logits->shape.dim[1], &options->ignore_index);
}

static const ek_op cross_entropy = {.name = "cross_entropy",
                                    .infer = infer_cross_entropy,
                                    .forward = EK_BY_DTYPE(cross_entropy_forward),
                                    .backward = EK_BY_DTYPE(cross_entropy_backward)};
const ek_op *const ek_op_cross_entropy = &cross_entropy;

ek_cross_entropy_opts ek_cross_entropy_opts_default(void)
{
    return (ek_cross_entropy_opts){.reduction = EK_REDUCE_MEAN, .ignore_index = -100, .label_smoothing = 0};
}

ek_tensor *ek_cross_entropy(ek_tape *tape, ek_tensor *logits, ek_tensor *target, const ek_cross_entropy_opts *opts)
{
    ek_cross_entropy_opts options = opts ? *opts : ek_cross_entropy_opts_default();
    return ek_apply(tape, ek_op_cross_entropy, 2, (ek_tensor *[]){logits, target}, &options, sizeof options);
}

int64_t ek_count_correct(const ek_tensor *logits, const ek_tensor *target)
{
    static const char who[] = "count_correct";
    if (!logits || !target) {
        ek_fail(EK_ERR_ARGUMENT, "%s: the %s tensor is NULL", who, logits ? "target" : "logits");
        return -1;
    }
    if (logits->dtype == EK_I64 || target->dtype != EK_I64) {
        ek_fail(EK_ERR_DTYPE, "%s: expected float logits and int64 targets, got %s and %s", who,
                ek_dtype_name(logits->dtype), ek_dtype_name(target->dtype));
        return -1;
    }
    if (logits->shape.ndim != 2 || check_shapes(who, logits->shape, target->shape) != EK_OK) {
        ek_fail(EK_ERR_SHAPE, "%s: expected logits (N, C) and targets (N), got %s and %s", who, EK_TEXT(logits->shape),
                EK_TEXT(target->shape));
        return -1;
    }
    int64_t rows = logits->shape.dim[0], n = logits->shape.dim[1];
    if (check_targets(who, target, n, NULL) != EK_OK)
        return -1;
    return logits->dtype == EK_F32 ? count_rows_f32(rows, n, logits->data, target->data)
                                   : count_rows_f64(rows, n, logits->data, target->data);
}
#endif
