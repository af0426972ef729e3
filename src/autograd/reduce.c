/* Sums over any set of axes, and their way back.  Work is cut by the shape alone and partial sums merge in order, so
 * the bits do not depend on the number of threads.  Everything is summed in double. */
#ifdef REAL

/* Σ x; x: [n]. */
EK_KERNEL static double FN(sum_run)(int64_t n, const REAL *x)
{
    double lane[EK_LANES] = {0};
    int64_t i = 0;
    for (; i + EK_LANES <= n; i += EK_LANES)
        for (int j = 0; j < EK_LANES; j++)
            lane[j] += (double)x[i + j];
    for (int j = 0; i + j < n; j++)
        lane[j] += (double)x[i + j];
    return ek_fold_lanes(lane);
}

double FN(ek_sum_run)(int64_t n, const REAL *x)
{
    return FN(sum_run)(n, x);
}

/* sum += four rows.  x0 … x3, sum: [n]. */
EK_KERNEL static void FN(add_four_rows)(int64_t n, const REAL *x0, const REAL *x1, const REAL *x2, const REAL *x3,
                                        double *sum)
{
    for (int64_t j = 0; j < n; j++)
        sum[j] += ((double)x0[j] + (double)x1[j]) + ((double)x2[j] + (double)x3[j]);
}

/* x, sum: [n]. */
EK_KERNEL static void FN(add_row)(int64_t n, const REAL *x, double *sum)
{
    for (int64_t j = 0; j < n; j++)
        sum[j] += (double)x[j];
}

typedef struct {
    const sum_plan *plan;
    const REAL *src;
    double divisor;
    double *partial; /* [parts, n_out·kept_run]; NULL when one part is all */
    REAL *dst;       /* [n_out·kept_run] */
} FN(sum_arguments);

static const REAL *FN(row_start)(const FN(sum_arguments) *g, int64_t output, int64_t row)
{
    const sum_plan *plan = g->plan;
    return g->src + ek_strided_offset(plan->n_kept, plan->kept_size, plan->kept_stride, output) +
           ek_strided_offset(plan->n_summed, plan->summed_size, plan->summed_stride, row);
}

/* Rows begin … end−1 of columns `from` … `from` + n − 1: sum [n]. */
static void FN(sum_columns)(const FN(sum_arguments) *g, int64_t output, int64_t begin, int64_t end, int64_t from,
                            int64_t n, double *sum)
{
    for (int64_t j = 0; j < n; j++)
        sum[j] = 0;
    int64_t row = begin;
    for (; row + 4 <= end; row += 4)
        FN(add_four_rows)(n, FN(row_start)(g, output, row) + from, FN(row_start)(g, output, row + 1) + from,
                          FN(row_start)(g, output, row + 2) + from, FN(row_start)(g, output, row + 3) + from, sum);
    for (; row < end; row++)
        FN(add_row)(n, FN(row_start)(g, output, row) + from, sum);
}

/* The sum of runs begin … end−1, each cut into segments. */
static double FN(sum_segments)(const FN(sum_arguments) *g, int64_t output, int64_t begin, int64_t end)
{
    const sum_plan *plan = g->plan;
    double sum = 0;
    for (int64_t i = begin; i < end; i++) {
        int64_t from = i % plan->cuts * plan->width, left = plan->run - from;
        sum += FN(ek_sum_run)(left < plan->width ? left : plan->width,
                              FN(row_start)(g, output, i / plan->cuts) + from);
    }
    return sum;
}

/* dst = sum/divisor; [n]. */
EK_KERNEL static void FN(divide_sums)(int64_t n, const double *sum, double divisor, REAL *dst)
{
    if (divisor == 1)
        for (int64_t j = 0; j < n; j++)
            dst[j] = (REAL)sum[j];
    else
        for (int64_t j = 0; j < n; j++)
            dst[j] = (REAL)(sum[j] / divisor);
}

/* Items are (output, column tile, part) where columns remain, (output, part) where runs are summed. */
static void FN(sum_items)(void *context, int64_t begin, int64_t end)
{
    const FN(sum_arguments) *g = context;
    const sum_plan *plan = g->plan;
    for (int64_t item = begin; item < end; item++) {
        int64_t part = item % plan->parts, tile = item / plan->parts % plan->tiles;
        int64_t output = item / plan->parts / plan->tiles, from = tile * plan->width;
        int64_t first = part * plan->rows_per_part, last = first + plan->rows_per_part;
        int64_t n = 1, at = output;
        double sum[TILE];
        last = last < plan->rows ? last : plan->rows;
        if (plan->sums_runs) {
            sum[0] = FN(sum_segments)(g, output, first, last);
        } else {
            n = plan->run - from < plan->width ? plan->run - from : plan->width;
            at = output * plan->run + from;
            FN(sum_columns)(g, output, first, last, from, n, sum);
        }
        if (g->partial)
            memcpy(g->partial + part * plan->outputs + at, sum, (size_t)n * sizeof *sum);
        else
            FN(divide_sums)(n, sum, g->divisor, g->dst + at);
    }
}

static void FN(merge_parts)(void *context, int64_t begin, int64_t end)
{
    const FN(sum_arguments) *g = context;
    for (int64_t i = begin; i < end; i++) {
        double sum = 0;
        for (int64_t part = 0; part < g->plan->parts; part++)
            sum += g->partial[part * g->plan->outputs + i];
        g->dst[i] = (REAL)(sum / g->divisor);
    }
}

ek_status FN(ek_reduce_sum)(ek_node *node, const REAL *src, ek_shape shape, unsigned axes, double divisor, REAL *dst)
{
    sum_plan plan = plan_sum(shape, axes);
    FN(sum_arguments) g = {.plan = &plan, .src = src, .divisor = divisor, .dst = dst};
    if (plan.parts > 1) {
        g.partial = ek_node_scratch(node, (size_t)(plan.parts * plan.outputs) * sizeof *g.partial);
        if (!g.partial)
            return EK_ERR_MEMORY;
    }
    ek_parallel_for(plan.items, plan.grain, FN(sum_items), &g);
    if (plan.parts > 1)
        ek_parallel_for(plan.outputs, EK_GRAIN / plan.parts + 1, FN(merge_parts), &g);
    return EK_OK;
}

typedef struct {
    const spread_plan *plan;
    const REAL *src;
    REAL divisor;
    REAL *dst;
} FN(spread_arguments);

/* Elements begin … end−1 of dst, run by run. */
static void FN(spread_range)(void *context, int64_t begin, int64_t end)
{
    const FN(spread_arguments) *g = context;
    const spread_plan *plan = g->plan;
    while (begin < end) {
        int64_t row = begin / plan->run, column = begin % plan->run;
        int64_t n = plan->run - column < end - begin ? plan->run - column : end - begin;
        const REAL *src = g->src + ek_strided_offset(plan->n, plan->size, plan->stride, row);
        if (plan->repeats_one) {
            const REAL value = src[0] / g->divisor;
            for (int64_t j = 0; j < n; j++)
                g->dst[begin + j] = value;
        } else {
            for (int64_t j = 0; j < n; j++)
                g->dst[begin + j] = src[column + j] / g->divisor;
        }
        begin += n;
    }
}

void FN(ek_reduce_spread)(const REAL *src, ek_shape shape, unsigned axes, double divisor, REAL *dst)
{
    spread_plan plan = plan_spread(shape, axes);
    FN(spread_arguments) g = {.plan = &plan, .src = src, .divisor = (REAL)divisor, .dst = dst};
    ek_parallel_for(plan.numel, EK_GRAIN, FN(spread_range), &g);
}

#else
#include "op.h"

enum { TILE = 512 };

/* The axes without those of size 1, neighbours of one kind merged. */
typedef struct merged_axes {
    int n; /* at least 1 */
    int64_t size[EK_MAX_NDIM];
    bool summed[EK_MAX_NDIM];
} merged_axes;

static merged_axes merge_axes(ek_shape shape, unsigned axes)
{
    merged_axes merged = {.n = 0};
    for (int i = 0; i < shape.ndim; i++) {
        bool summed = axes >> i & 1;
        if (shape.dim[i] == 1)
            continue;
        if (merged.n > 0 && merged.summed[merged.n - 1] == summed) {
            merged.size[merged.n - 1] *= shape.dim[i];
        } else {
            merged.summed[merged.n] = summed;
            merged.size[merged.n++] = shape.dim[i];
        }
    }
    if (merged.n == 0)
        merged.size[merged.n++] = 1; /* one element, kept */
    return merged;
}

/* The innermost axis is either summed (each output is a sum of runs) or kept (runs are added to each other). */
typedef struct sum_plan {
    bool sums_runs;
    int64_t run;
    int n_kept, n_summed; /* the axes outside the run, with their strides in the source */
    int64_t kept_size[EK_MAX_NDIM], kept_stride[EK_MAX_NDIM];
    int64_t summed_size[EK_MAX_NDIM], summed_stride[EK_MAX_NDIM];
    int64_t outputs;       /* elements of the result */
    int64_t width, cuts;   /* a run in pieces of `width`: segments to sum, or tiles of columns */
    int64_t rows;          /* what each output, or tile, is the sum of: runs, or segments of runs */
    int64_t rows_per_part; /* so that a part is about EK_GRAIN elements */
    int64_t parts, tiles, items, grain;
} sum_plan;

static int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static sum_plan plan_sum(ek_shape shape, unsigned axes)
{
    merged_axes merged = merge_axes(shape, axes);
    int last = merged.n - 1;
    sum_plan plan = {.sums_runs = merged.summed[last], .run = merged.size[last]};
    int64_t n_kept = 1, n_summed = 1, stride[EK_MAX_NDIM];
    stride[last] = 1;
    for (int i = last - 1; i >= 0; i--)
        stride[i] = stride[i + 1] * merged.size[i + 1];
    for (int i = 0; i < last; i++) {
        if (merged.summed[i]) {
            plan.summed_size[plan.n_summed] = merged.size[i];
            plan.summed_stride[plan.n_summed++] = stride[i];
            n_summed *= merged.size[i];
        } else {
            plan.kept_size[plan.n_kept] = merged.size[i];
            plan.kept_stride[plan.n_kept++] = stride[i];
            n_kept *= merged.size[i];
        }
    }
    int64_t widest = plan.sums_runs ? EK_GRAIN : TILE;
    plan.width = plan.run < widest ? plan.run : widest;
    plan.cuts = plan.width ? ceil_div(plan.run, plan.width) : 0;
    plan.tiles = plan.sums_runs ? 1 : plan.cuts;
    plan.outputs = plan.sums_runs ? n_kept : n_kept * plan.run;
    plan.rows = plan.sums_runs ? n_summed * plan.cuts : n_summed;
    plan.rows_per_part = plan.width ? ceil_div(EK_GRAIN, plan.width) : 1;
    plan.parts = plan.rows ? ceil_div(plan.rows, plan.rows_per_part) : 1; /* a sum of nothing is one empty part */
    plan.items = n_kept * plan.tiles * plan.parts;
    int64_t rows_in_part = plan.rows < plan.rows_per_part ? plan.rows : plan.rows_per_part;
    plan.grain = EK_GRAIN / (rows_in_part * plan.width + 1) + 1;
    return plan;
}

/* The same axes seen from the large tensor: strides in the small one, 0 along summed axes. */
typedef struct spread_plan {
    bool repeats_one; /* along the run, which is the innermost axis */
    int64_t run, numel;
    int n;
    int64_t size[EK_MAX_NDIM], stride[EK_MAX_NDIM];
} spread_plan;

static spread_plan plan_spread(ek_shape shape, unsigned axes)
{
    merged_axes merged = merge_axes(shape, axes);
    int last = merged.n - 1;
    spread_plan plan = {.repeats_one = merged.summed[last], .run = merged.size[last], .n = last};
    int64_t stride = plan.repeats_one ? 1 : plan.run;
    plan.numel = plan.run;
    for (int i = last - 1; i >= 0; i--) {
        plan.size[i] = merged.size[i];
        plan.stride[i] = merged.summed[i] ? 0 : stride;
        stride *= merged.summed[i] ? 1 : merged.size[i];
        plan.numel *= merged.size[i];
    }
    return plan;
}

#define OP_FILE "reduce.c"
#include "foreach_real.h"

unsigned ek_reduction_axes(const ek_node *node, int64_t *count)
{
    const ek_reduction_attributes *attributes = node->attributes;
    ek_shape shape = node->in[0]->shape;
    unsigned axes = 0;
    if (attributes->axes.n < 0)
        axes = (1u << shape.ndim) - 1;
    for (int k = 0; k < attributes->axes.n; k++)
        axes |= 1u << ek_axis_resolve(attributes->axes.axis[k], shape.ndim);
    if (count) {
        *count = 1;
        for (int i = 0; i < shape.ndim; i++)
            *count *= axes >> i & 1 ? shape.dim[i] : 1;
    }
    return axes;
}

ek_status ek_infer_reduction(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* it holds that of in[0] already */
    const ek_reduction_attributes *attributes = node->attributes;
    const char *who = node->op->name;
    ek_shape from = node->in[0]->shape;
    unsigned seen = 0;
    if (ek_need_float(node, 0) != EK_OK)
        return EK_ERR_DTYPE;
    if (attributes->axes.n < -1 || attributes->axes.n > EK_MAX_NDIM)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a list of 0 to %d axes or EK_ALL_AXES, got one of %d", who,
                       EK_MAX_NDIM, attributes->axes.n);
    for (int k = 0; k < attributes->axes.n; k++) {
        int axis = ek_axis_resolve(attributes->axes.axis[k], from.ndim);
        if (axis < 0)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected axes within the rank of %s, got axis %d", who, EK_TEXT(from),
                           attributes->axes.axis[k]);
        if (seen >> axis & 1)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected each axis once, got axis %d of %s twice", who, axis,
                           EK_TEXT(from));
        seen |= 1u << axis;
    }
    unsigned axes = ek_reduction_axes(node, NULL);
    shape->ndim = 0;
    for (int i = 0; i < from.ndim; i++) {
        if (!(axes >> i & 1))
            shape->dim[shape->ndim++] = from.dim[i];
        else if (attributes->keepdim)
            shape->dim[shape->ndim++] = 1;
    }
    return EK_OK;
}

/* Where an axis of the input is in the output; −1 where it is summed over. */
static int remaining_axis(const ek_node *node, int axis)
{
    const unsigned axes = ek_reduction_axes(node, NULL);
    int gone = 0;
    for (int i = 0; i < axis && !((const ek_reduction_attributes *)node->attributes)->keepdim; i++)
        gone += axes >> i & 1;
    return axes >> axis & 1 ? -1 : axis - gone;
}

ek_status ek_reduction_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *x = ek_node_lengths(node, 0);
    return ek_place_lengths(node, 0, remaining_axis(node, x->batch_axis), remaining_axis(node, x->time_axis), lengths);
}

ek_tensor *ek_apply_reduction(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_axes axes, bool keepdim)
{
    ek_reduction_attributes attributes = {.axes = axes, .keepdim = keepdim};
    return ek_apply(tape, op, 1, &x, &attributes, sizeof attributes);
}
#endif
