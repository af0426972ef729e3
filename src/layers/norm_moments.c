/* Means and variances of any groups of a tensor's elements, by plain sums over memory: slower than the op's own, and
 * independent of it. */
#include "norm_report.h"

ek_status ek_norm_grouping_make(norm_grouping *grouping, const ek_tensor *x)
{
    const ek_lengths *lengths = x->lengths;
    *grouping = (norm_grouping){.groups = 1};
    for (int i = 0; i < EK_MAX_NDIM; i++)
        grouping->divide[i] = 1;
    if (!lengths)
        return EK_OK;
    grouping->valid = ek_alloc_zeroed((size_t)(lengths->n * lengths->steps) * sizeof *grouping->valid);
    if (!grouping->valid)
        return EK_ERR_MEMORY;
    for (int64_t i = 0; i < lengths->n; i++)
        for (int64_t k = lengths->start[i]; k < lengths->start[i + 1]; k++)
            grouping->valid[i * lengths->steps + lengths->step[k]] = true;
    grouping->valid_stride[lengths->batch_axis] = lengths->steps;
    grouping->valid_stride[lengths->time_axis] = 1;
    return EK_OK;
}

void ek_norm_each(const norm_grouping *grouping, const ek_tensor *x,
                  void (*visit)(void *context, int64_t group, double value), void *context)
{
    const int last = x->shape.ndim > 0 ? x->shape.ndim - 1 : 0;
    const int64_t *dim = x->shape.dim, width = x->shape.ndim > 0 ? dim[last] : 1;
    const int64_t rows = width > 0 ? x->numel / width : 0;
    const float *f32 = x->dtype == EK_F32 ? x->data : NULL;
    const double *f64 = x->dtype == EK_F64 ? x->data : NULL;
    const bool alike = grouping->stride[last] == 0; /* a row is in one group: spares divisions */
    for (int64_t row = 0, at = 0; row < rows; row++) {
        int64_t group = 0, step = 0, rest = row;
        for (int i = last - 1; i >= 0; rest /= dim[i], i--) {
            group += rest % dim[i] / grouping->divide[i] * grouping->stride[i];
            step += rest % dim[i] * grouping->valid_stride[i];
        }
        for (int64_t j = 0; j < width; j++, at++)
            if (!grouping->valid || grouping->valid[step + j * grouping->valid_stride[last]])
                visit(context, alike ? group : group + j / grouping->divide[last] * grouping->stride[last],
                      f32 ? (double)f32[at] : f64[at]);
    }
}

ek_status ek_norm_moments_make(norm_moments *moments, int64_t groups)
{
    double *memory = ek_alloc_zeroed((size_t)(3 * groups) * sizeof *memory);
    *moments = (norm_moments){.groups = groups};
    if (!memory)
        return EK_ERR_MEMORY;
    moments->mean = memory;
    moments->var = memory + groups;
    moments->count = (int64_t *)(memory + 2 * groups);
    return EK_OK;
}

void ek_norm_moments_free(norm_moments *moments)
{
    ek_release(moments->mean);
}

/* mean: the first element of the group; var: Σ (x − first), so that equal elements have exactly no variance. */
static void add(void *context, int64_t group, double value)
{
    norm_moments *m = context;
    if (m->count[group]++ == 0)
        m->mean[group] = value;
    m->var[group] += value - m->mean[group];
}

static void add_square(void *context, int64_t group, double value)
{
    norm_moments *m = context;
    const double d = value - m->mean[group];
    m->var[group] += d * d;
}

void ek_norm_moments_take(norm_moments *moments, const norm_grouping *grouping, const ek_tensor *x, bool center)
{
    ek_norm_each(grouping, x, add, moments);
    for (int64_t g = 0; g < moments->groups; g++) {
        if (moments->count[g] > 0)
            moments->mean[g] += moments->var[g] / (double)moments->count[g];
        moments->mean[g] = center ? moments->mean[g] : 0;
        moments->var[g] = 0;
    }
    ek_norm_each(grouping, x, add_square, moments);
    for (int64_t g = 0; g < moments->groups; g++)
        moments->var[g] /= moments->count[g] > 0 ? (double)moments->count[g] : 1;
}
