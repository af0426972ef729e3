/* Which steps of a padded tensor are valid: a header and its arrays in one piece of memory. */
#include "core.h"

#include <string.h>

size_t ek_lengths_bytes(int64_t n, int64_t steps)
{
    const size_t header = sizeof(ek_lengths) + sizeof(int64_t), most = (SIZE_MAX - header) / sizeof(int64_t);
    /* A tensor without elements may have axes whose product is near the end of what there are numbers for. */
    if ((uint64_t)steps > most - 2 || (n > 0 && (uint64_t)n > most / ((uint64_t)steps + 2)))
        return SIZE_MAX;
    return header + (size_t)n * ((size_t)steps + 2) * sizeof(int64_t);
}

/* A header in front of arrays for n sequences of so many steps; `total` and the arrays are still to be filled. */
static ek_lengths *lay_out(void *memory, int batch_axis, int time_axis, int64_t n, int64_t steps)
{
    ek_lengths *lengths = memory;
    int64_t *arrays = (int64_t *)(lengths + 1);
    *lengths = (ek_lengths){.batch_axis = batch_axis, .time_axis = time_axis, .n = n, .steps = steps, .length = arrays,
                            .start = arrays + n, .step = arrays + 2 * n + 1, .leading = true};
    return lengths;
}

const ek_lengths *ek_lengths_fill(void *memory, int batch_axis, int time_axis, int64_t n, int64_t steps,
                                  const int64_t *length)
{
    ek_lengths *lengths = lay_out(memory, batch_axis, time_axis, n, steps);
    int64_t *own_length = (int64_t *)(lengths + 1), *start = own_length + n, *step = start + n + 1;
    for (int64_t i = 0; i < n; i++) {
        own_length[i] = length[i];
        start[i] = lengths->total;
        for (int64_t s = 0; s < length[i]; s++)
            step[lengths->total++] = s;
    }
    start[n] = lengths->total;
    return lengths;
}

/* The same from a mask of n·steps flags. */
static const ek_lengths *fill_from_mask(void *memory, int batch_axis, int time_axis, int64_t n, int64_t steps,
                                        const bool *mask)
{
    ek_lengths *lengths = lay_out(memory, batch_axis, time_axis, n, steps);
    int64_t *length = (int64_t *)(lengths + 1), *start = length + n, *step = start + n + 1;
    for (int64_t i = 0; i < n; i++) {
        start[i] = lengths->total;
        for (int64_t s = 0; s < steps; s++)
            if (mask[i * steps + s]) {
                lengths->leading = lengths->leading && lengths->total - start[i] == s;
                step[lengths->total++] = s;
            }
        length[i] = lengths->total - start[i];
    }
    start[n] = lengths->total;
    return lengths;
}

const ek_lengths *ek_lengths_copy_to(void *memory, const ek_lengths *from)
{
    ek_lengths *to = lay_out(memory, from->batch_axis, from->time_axis, from->n, from->steps);
    int64_t *arrays = (int64_t *)(to + 1);
    memcpy(arrays, from->length, (size_t)from->n * sizeof *arrays);
    memcpy(arrays + from->n, from->start, (size_t)(from->n + 1) * sizeof *arrays);
    memcpy(arrays + 2 * from->n + 1, from->step, (size_t)from->total * sizeof *arrays);
    to->total = from->total;
    to->leading = from->leading;
    return to;
}

/* Position in from->step[begin … end−1], which ascends, of the first step that is `least` or later. */
static int64_t first_step_from(const ek_lengths *from, int64_t begin, int64_t end, int64_t least)
{
    while (begin < end) {
        int64_t middle = begin + (end - begin) / 2;
        if (from->step[middle] < least)
            begin = middle + 1;
        else
            end = middle;
    }
    return begin;
}

bool ek_lengths_hold(const ek_lengths *lengths, int64_t sequence, int64_t step)
{
    if (lengths->leading)
        return step < lengths->length[sequence];
    const int64_t end = lengths->start[sequence + 1];
    int64_t at = first_step_from(lengths, lengths->start[sequence], end, step);
    return at < end && lengths->step[at] == step;
}

/* Adds those of a sequence's steps that lie in `first` … first + to->steps − 1, counted from there, as sequence i. */
static void add_sequence(ek_lengths *to, int64_t i, const ek_lengths *from, int64_t sequence, int64_t first)
{
    int64_t *length = (int64_t *)(to + 1), *start = length + to->n, *step = start + to->n + 1;
    int64_t end = from->start[sequence + 1];
    start[i] = to->total;
    for (int64_t at = first_step_from(from, from->start[sequence], end, first);
         at < end && from->step[at] - first < to->steps; at++) {
        to->leading = to->leading && from->step[at] - first == to->total - start[i];
        step[to->total++] = from->step[at] - first;
    }
    length[i] = to->total - start[i];
    start[i + 1] = to->total;
}

const ek_lengths *ek_lengths_window(void *memory, const ek_lengths *from, int64_t first, int64_t n, int64_t first_step,
                                    int64_t steps)
{
    ek_lengths *to = lay_out(memory, from->batch_axis, from->time_axis, n, steps);
    ((int64_t *)(to + 1))[n] = 0; /* start[0], where there is no sequence to set it */
    for (int64_t i = 0; i < n; i++)
        add_sequence(to, i, from, first + i, first_step);
    return to;
}

const ek_lengths *ek_lengths_join(void *memory, int parts, const ek_lengths *const *part)
{
    int64_t n = 0, at = 0;
    for (int k = 0; k < parts; k++)
        n += part[k]->n;
    ek_lengths *to = lay_out(memory, part[0]->batch_axis, part[0]->time_axis, n, part[0]->steps);
    ((int64_t *)(to + 1))[n] = 0;
    for (int k = 0; k < parts; k++)
        for (int64_t i = 0; i < part[k]->n; i++)
            add_sequence(to, at++, part[k], i, 0);
    return to;
}

bool ek_lengths_equal(const ek_lengths *a, const ek_lengths *b)
{
    return a == b || (a->n == b->n && a->steps == b->steps && a->total == b->total &&
                      memcmp(a->length, b->length, (size_t)a->n * sizeof *a->length) == 0 &&
                      memcmp(a->step, b->step, (size_t)a->total * sizeof *a->step) == 0);
}

/* Memory of t for the lengths of n sequences of so many steps; kept, so that the next ones need none. */
static void *lengths_memory(ek_tensor *t, int64_t n, int64_t steps)
{
    size_t bytes = ek_lengths_bytes(n, steps);
    if (bytes <= t->lengths_bytes)
        return t->lengths_memory;
    void *memory = ek_alloc(bytes);
    if (!memory)
        return NULL;
    ek_release(t->lengths_memory);
    t->lengths_memory = memory;
    t->lengths_bytes = bytes;
    t->lengths = NULL;
    return memory;
}

/* Resolves the axes and compares their sizes; steps < 0: any number will do. */
static ek_status check_axes(const char *who, const ek_tensor *t, int64_t n, int64_t steps, int *batch_axis,
                            int *time_axis)
{
    const int ndim = t->shape.ndim;
    const int batch = ek_axis_resolve(*batch_axis, ndim), time = ek_axis_resolve(*time_axis, ndim);
    if (t->tape)
        return ek_fail(EK_ERR_STATE, "%s: the tensor belongs to a tape; set the lengths of the input, from which ops "
                                     "pass them on, or use ek_with_lengths()", who);
    if (batch < 0 || time < 0 || batch == time)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected two different axes of %s for batch and time, got %d and %d", who,
                       EK_TEXT(t->shape), *batch_axis, *time_axis);
    if (n != t->shape.dim[batch] || (steps >= 0 && steps != t->shape.dim[time])) {
        char expected[64] = "", got[64] = "";
        if (steps >= 0) {
            snprintf(expected, sizeof expected, " of %lld steps", (long long)t->shape.dim[time]);
            snprintf(got, sizeof got, " of %lld", (long long)steps);
        }
        return ek_fail(EK_ERR_SHAPE, "%s: expected %lld sequences%s, as %s has along axes %d and %d, got %lld%s", who,
                       (long long)t->shape.dim[batch], expected, EK_TEXT(t->shape), batch, time, (long long)n, got);
    }
    *batch_axis = batch;
    *time_axis = time;
    return EK_OK;
}

ek_status ek_tensor_set_lengths(ek_tensor *t, const int64_t *lengths, int64_t n, int batch_axis, int time_axis)
{
    static const char who[] = "tensor_set_lengths";
    if (!t || (!lengths && n > 0))
        return ek_fail_null(EK_ERR_ARGUMENT, who, t ? "list of lengths" : "tensor");
    ek_status status = check_axes(who, t, n, -1, &batch_axis, &time_axis);
    if (status != EK_OK)
        return status;
    const int64_t steps = t->shape.dim[time_axis];
    for (int64_t i = 0; i < n; i++)
        if (lengths[i] < 1 || lengths[i] > steps)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected lengths in 1 … %lld, the size of axis %d of %s, got %lld for "
                                            "sequence %lld%s", who, (long long)steps, time_axis, EK_TEXT(t->shape),
                           (long long)lengths[i], (long long)i,
                           lengths[i] == 0 ? "; leave empty sequences out of the batch" : "");
    void *memory = lengths_memory(t, n, steps);
    if (!memory)
        return EK_ERR_MEMORY;
    t->lengths = ek_lengths_fill(memory, batch_axis, time_axis, n, steps, lengths);
    return EK_OK;
}

ek_status ek_tensor_set_mask(ek_tensor *t, const bool *mask, int64_t n, int64_t steps, int batch_axis, int time_axis)
{
    static const char who[] = "tensor_set_mask";
    if (!t || (!mask && n > 0 && steps > 0))
        return ek_fail_null(EK_ERR_ARGUMENT, who, t ? "mask" : "tensor");
    ek_status status = check_axes(who, t, n, steps < 0 ? 0 : steps, &batch_axis, &time_axis);
    if (status != EK_OK)
        return status;
    for (int64_t i = 0; i < n; i++) {
        bool any = false;
        for (int64_t s = 0; s < steps; s++)
            any = any || mask[i * steps + s];
        if (!any)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected a valid step in every sequence, got none in sequence %lld; "
                                            "leave empty sequences out of the batch", who, (long long)i);
    }
    void *memory = lengths_memory(t, n, steps);
    if (!memory)
        return EK_ERR_MEMORY;
    t->lengths = fill_from_mask(memory, batch_axis, time_axis, n, steps, mask);
    return EK_OK;
}

ek_status ek_lengths_clone(ek_tensor *to, const ek_tensor *from)
{
    if (!from->lengths)
        return EK_OK;
    void *memory = lengths_memory(to, from->lengths->n, from->lengths->steps);
    if (!memory)
        return EK_ERR_MEMORY;
    to->lengths = ek_lengths_copy_to(memory, from->lengths);
    return EK_OK;
}

void ek_tensor_clear_lengths(ek_tensor *t)
{
    if (t && !t->tape)
        t->lengths = NULL;
}

const ek_lengths *ek_tensor_lengths(const ek_tensor *t)
{
    return t ? t->lengths : NULL;
}
