/* Cross-entropy of logits against class indices, log-softmax and all, and the count of right answers.  With p =
 * softmax(x) over the C classes of a position, target t and label smoothing ε:
 *
 *   q = (1 − ε)·[c = t] + ε/C,   l = −Σ q·ln p,   dx = (p − q)·dl      (Szegedy et al. 2016, section 7)
 *
 * Positions that are ignored or lie in the padding of sequences do not count; the others are summed in their order, so
 * the bits do not depend on the padding.
 *
 * Expands to cross_entropy_forward_f32, cross_entropy_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    cross_entropy_attributes options;
    ek_lines lines;        /* (N, C, positions per sample) */
    bool columns;          /* positions stand side by side, be it only one */
    const REAL *x;         /* logits */
    const int64_t *target; /* [lines] */
    unsigned char *counts; /* [lines] 1 where a position counts */
    double *loss;          /* [lines], 0 where it does not */
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
        if (memchr(a->counts + tile.line, 1, (size_t)tile.width))
            (a->columns ? FN(ek_softmax_columns) : FN(ek_softmax_tile))(n, inner, tile.width, x,
                                                                        a->p ? a->p + tile.begin : NULL, max, sum);
        for (int j = 0; j < tile.width; j++) {
            int64_t target = a->target[tile.line + j];
            double loss = 0;
            if (a->counts[tile.line + j]) {
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

/* dx = (p − q)·dl, and 0 where a position does not count, whatever its logits are. */
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
        if (!memchr(a->counts + tile.line, 1, (size_t)tile.width)) {
            for (int64_t k = 0; k < n; k++)
                memset(dx + k * inner, 0, (size_t)tile.width * sizeof *dx);
            continue;
        }
        for (int j = 0; j < tile.width; j++) {
            int64_t line = tile.line + j, target = a->target[line];
            if (!a->counts[line]) {
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

/* What both directions need; `count` positions count. */
static ek_status FN(prepare)(ek_node *node, FN(cross_entropy_arguments) *a, int64_t *count)
{
    const cross_entropy_attributes *options = node->attributes;
    const ek_shape logits = node->in[0]->shape;
    *a = (FN(cross_entropy_arguments)){.options = *options, .lines = ek_lines_of(logits, 1), .columns = logits.ndim > 2,
                                       .x = node->in[0]->data, .target = node->in[1]->data,
                                       .counts = ek_node_scratch(node, (size_t)node->in[1]->numel)};
    if (!a->counts)
        return EK_ERR_MEMORY;
    *count = mark_counting(node, a->counts);
    a->scale = options->reduction == EK_REDUCE_MEAN ? 1.0 / (double)*count : 1;
    return EK_OK;
}

static ek_status FN(cross_entropy_forward)(ek_node *node)
{
    FN(cross_entropy_arguments) a;
    int64_t n = node->in[1]->numel, count;
    ek_status status = FN(prepare)(node, &a, &count);
    if (status != EK_OK)
        return status;
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
        y[0] = (REAL)sum_counting(n, a.loss, a.counts);
    else
        y[0] = (REAL)(sum_counting(n, a.loss, a.counts) / (double)count); /* 0/0 where none counts */
    return EK_OK;
}

static ek_status FN(cross_entropy_backward)(ek_node *node)
{
    FN(cross_entropy_arguments) a;
    int64_t count;
    ek_status status = FN(prepare)(node, &a, &count);
    if (status != EK_OK)
        return status;
    a.p = node->saved;
    a.dy = ek_node_grad_out(node);
    a.dx = ek_node_grad_in(node, 0);
    if (a.dx)
        ek_parallel_for(a.lines.tiles, a.lines.grain, FN(gradient_tiles), &a);
    return EK_OK;
}

/* How many valid positions of x [N, C, inner] have their largest value at the target.  The first of equals counts, and
 * NaN as largest of all, as in PyTorch's argmax. */
static int64_t FN(count_positions)(const positions *p, int64_t classes, int64_t inner, const REAL *x,
                                   const int64_t *target)
{
    int64_t correct = 0;
    for (int64_t i = 0; i < p->count; i++) {
        const REAL *line = x + i / inner * classes * inner + i % inner;
        int64_t best = 0;
        if (!is_valid(p, i))
            continue;
        for (int64_t k = 1; k < classes && !isnan(line[best * inner]); k++)
            if (line[k * inner] > line[best * inner] || isnan(line[k * inner]))
                best = k;
        correct += best == target[i];
    }
    return correct;
}

#else
#include "softmax.h"
#include "loss.h"

typedef ek_cross_entropy_opts cross_entropy_attributes;

/* The positions of a target (N, d1, …), and which of them are valid steps of sequences along one of these axes. */
typedef struct positions {
    int64_t count, per_sequence, inner; /* all, those of one index of the batch axis, and of one step within that */
    const ek_lengths *lengths;          /* NULL: all are valid */
} positions;

static bool is_valid(const positions *p, int64_t i)
{
    return !p->lengths || ek_lengths_hold(p->lengths, i / p->per_sequence, i / p->inner % p->lengths->steps);
}

/* The time axis of the target comes from either; shapes fit. */
static positions find_positions(ek_shape target, const ek_lengths *of_logits, const ek_lengths *of_target)
{
    positions p = {.count = 1, .per_sequence = 1, .inner = 1, .lengths = of_target ? of_target : of_logits};
    const int time = of_target ? of_target->time_axis : of_logits ? of_logits->time_axis - 1 : 0;
    for (int i = 0; i < target.ndim; i++) {
        p.count *= target.dim[i];
        p.per_sequence *= i > 0 ? target.dim[i] : 1;
        p.inner *= i > time ? target.dim[i] : 1;
    }
    return p;
}

/* Batch first in both; the logits have their classes before time; both agree. */
static ek_status check_lengths(const char *who, ek_shape logits, const ek_lengths *of_logits,
                               const ek_lengths *of_target)
{
    if (of_logits && of_logits->batch_axis == 0 && of_logits->time_axis == 1)
        return ek_fail(EK_ERR_SHAPE, "%s: the steps of the logits %s lie along axis 1, which is the class axis: "
                                     "ek_permute() (N, T, C) to (N, C, T)", who, EK_TEXT(logits));
    if ((of_logits && of_logits->batch_axis != 0) || (of_target && of_target->batch_axis != 0))
        return ek_fail(EK_ERR_SHAPE, "%s: expected lengths with batch axis 0, got %d in the %s: ek_permute() puts axes "
                                     "in another order", who,
                       of_logits && of_logits->batch_axis != 0 ? of_logits->batch_axis : of_target->batch_axis,
                       of_logits && of_logits->batch_axis != 0 ? "logits" : "target");
    if (of_logits && of_target &&
        (of_logits->time_axis != of_target->time_axis + 1 || !ek_lengths_equal(of_logits, of_target)))
        return ek_fail(EK_ERR_SHAPE, "%s: logits and target carry different lengths, or on different axes; give both "
                                     "the same, or take them off one with ek_with_lengths(tape, x, NULL)", who);
    return EK_OK;
}

/* Marks the positions that are valid and not ignored with 1, the others with 0; returns how many count. */
static int64_t mark_counting(const ek_node *node, unsigned char *counts)
{
    const cross_entropy_attributes *options = node->attributes;
    const positions p = find_positions(node->in[1]->shape, ek_node_lengths(node, 0), ek_node_lengths(node, 1));
    const int64_t *target = node->in[1]->data;
    int64_t count = 0;
    for (int64_t i = 0; i < p.count; i++)
        count += counts[i] = target[i] != options->ignore_index && is_valid(&p, i);
    return count;
}

/* Σ of the losses that count, which end up side by side. */
static double sum_counting(int64_t n, double *loss, const unsigned char *counts)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (counts[i])
            loss[count++] = loss[i];
    return ek_sum_run_f64(count, loss);
}

#define OP_FILE "op_cross_entropy.c"
#include "foreach_real.h"

/* EK_OK when every valid target that is not ignored is in 0 … classes−1; `ignore_index` NULL: none is ignored. */
static ek_status check_targets(const char *who, const int64_t *target, const positions *p, int64_t classes,
                               const int64_t *ignore_index)
{
    for (int64_t i = 0; i < p->count; i++)
        if ((target[i] < 0 || target[i] >= classes) && !(ignore_index && target[i] == *ignore_index) && is_valid(p, i))
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
    const ek_lengths *of_logits = ek_node_lengths(node, 0), *of_target = ek_node_lengths(node, 1);
    if (check_lengths(who, logits->shape, of_logits, of_target) != EK_OK ||
        check_shapes(who, logits->shape, target->shape) != EK_OK)
        return EK_ERR_SHAPE;
    const positions p = find_positions(target->shape, of_logits, of_target);
    *shape = options->reduction == EK_REDUCE_NONE ? target->shape : EK_SCALAR;
    return check_targets(who, target->data, &p, logits->shape.dim[1], &options->ignore_index);
}

/* Losses that are not reduced carry what the target does, or would. */
static ek_status cross_entropy_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const int i = ek_node_lengths(node, 1) ? 1 : 0;
    return ek_place_lengths(node, i, 0, ek_node_lengths(node, i)->time_axis - (i == 0), lengths);
}

static const ek_op cross_entropy = {.name = "cross_entropy",
                                    .infer = infer_cross_entropy,
                                    .forward = EK_BY_DTYPE(cross_entropy_forward),
                                    .backward = EK_BY_DTYPE(cross_entropy_backward),
                                    .lengths = cross_entropy_lengths};
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
    if (check_lengths(who, logits->shape, logits->lengths, target->lengths) != EK_OK ||
        check_shapes(who, logits->shape, target->shape) != EK_OK)
        return -1;
    const positions p = find_positions(target->shape, logits->lengths, target->lengths);
    const int64_t classes = logits->shape.dim[1];
    if (check_targets(who, target->data, &p, classes, NULL) != EK_OK)
        return -1;
    return logits->dtype == EK_F32 ? count_positions_f32(&p, classes, p.per_sequence, logits->data, target->data)
                                   : count_positions_f64(&p, classes, p.per_sequence, logits->data, target->data);
}
#endif
