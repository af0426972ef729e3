/* Data sets: checks, copies of parts, normalization. */
#include "dataset.h"

#include <math.h>
#include <string.h>

/* ---- making them ------------------------------------------------------------------------------------------------- */

/* Labels in 0 … num_classes−1; finds num_classes where it is 0. */
static ek_status check_labels(const char *who, const ek_tensor *y, int64_t *num_classes)
{
    const int64_t *label = y->data;
    int64_t most = 0;
    for (int64_t i = 0; i < y->numel; i++) {
        int64_t limit = *num_classes > 0 ? *num_classes : INT64_MAX;
        if (label[i] < 0 || label[i] >= limit)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected labels of 0 to %lld, got %lld for sample %lld", who,
                           (long long)(limit - 1), (long long)label[i], (long long)i);
        most = label[i] > most ? label[i] : most;
    }
    if (*num_classes == 0)
        *num_classes = most + 1;
    return EK_OK;
}

static ek_status check_dataset(const char *who, const ek_tensor *x, const ek_tensor *y, int64_t *num_classes)
{
    if (x->tape || y->tape)
        return ek_fail(EK_ERR_STATE, "%s: a tensor of a tape lives until ek_tape_reset(); ek_tensor_clone() it first",
                       who);
    if (x->shape.ndim < 1 || y->shape.ndim < 1)
        return ek_fail(EK_ERR_SHAPE, "%s: expected samples (N, …) and targets (N) or (N, …), got %s and %s", who,
                       EK_TEXT(x->shape), EK_TEXT(y->shape));
    if (x->shape.dim[0] == 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the data set is empty: expected at least one sample, got %s", who,
                       EK_TEXT(x->shape));
    if (x->shape.dim[0] != y->shape.dim[0])
        return ek_fail(EK_ERR_SHAPE, "%s: expected as many targets as samples, got %lld samples and %lld targets", who,
                       (long long)x->shape.dim[0], (long long)y->shape.dim[0]);
    if (*num_classes < 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected num_classes of 0 or more, got %lld", who,
                       (long long)*num_classes);
    if (y->dtype != EK_I64)
        return *num_classes == 0 ? EK_OK
                                 : ek_fail(EK_ERR_DTYPE, "%s: expected int64 labels for %lld classes, got %s", who,
                                           (long long)*num_classes, ek_dtype_name(y->dtype));
    if (y->shape.ndim != 1)
        return ek_fail(EK_ERR_SHAPE, "%s: expected labels (N), got %s", who, EK_TEXT(y->shape));
    return check_labels(who, y, num_classes);
}

ek_dataset *ek_dataset_own(const char *who, ek_tensor *x, ek_tensor *y, int64_t num_classes)
{
    ek_dataset *data = NULL;
    if (x && y && check_dataset(who, x, y, &num_classes) == EK_OK)
        data = ek_alloc(sizeof *data);
    if (data) {
        *data = (ek_dataset){.x = x, .y = y, .num_classes = num_classes};
    } else {
        ek_tensor_free(x);
        ek_tensor_free(y);
    }
    return data;
}

ek_dataset *ek_dataset_from_tensors(ek_tensor *x, ek_tensor *y, int64_t num_classes)
{
    const char *who = "dataset_from_tensors";
    if (!x || !y) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected two tensors, got NULL for the %s", who, x ? "targets" : "samples");
        return NULL;
    }
    if (check_dataset(who, x, y, &num_classes) != EK_OK)
        return NULL;
    return ek_dataset_own(who, ek_tensor_retain(x), ek_tensor_retain(y), num_classes);
}

void ek_dataset_free(ek_dataset *data)
{
    if (!data)
        return;
    ek_tensor_free(data->x);
    ek_tensor_free(data->y);
    ek_release(data);
}

/* ---- parts ------------------------------------------------------------------------------------------------------- */

static size_t row_bytes(const ek_tensor *t)
{
    return t->shape.dim[0] ? ek_tensor_bytes(t) / (size_t)t->shape.dim[0] : 0;
}

void ek_gather_rows(const ek_tensor *from, const int64_t *indices, int64_t n, ek_tensor *to)
{
    size_t bytes = row_bytes(from);
    for (int64_t i = 0; i < n; i++)
        memcpy((char *)to->data + (size_t)i * bytes, (const char *)from->data + (size_t)indices[i] * bytes, bytes);
}

static ek_tensor *gathered(const ek_tensor *from, const int64_t *indices, int64_t n)
{
    ek_tensor *t = ek_tensor_new(from->dtype, ek_with_rows(from->shape, n));
    if (t)
        ek_gather_rows(from, indices, n, t);
    return t;
}

ek_dataset *ek_dataset_subset(const ek_dataset *data, const int64_t *indices, int64_t n)
{
    const char *who = "dataset_subset";
    if (!data || !indices || n < 1) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a data set and at least one index, got %s and %lld", who,
                data ? "one" : "NULL", indices ? (long long)n : 0);
        return NULL;
    }
    for (int64_t i = 0; i < n; i++)
        if (indices[i] < 0 || indices[i] >= data->x->shape.dim[0]) {
            ek_fail(EK_ERR_ARGUMENT, "%s: expected indices of 0 to %lld, got %lld at place %lld", who,
                    (long long)data->x->shape.dim[0] - 1, (long long)indices[i], (long long)i);
            return NULL;
        }
    ek_tensor *x = gathered(data->x, indices, n);
    return ek_dataset_own(who, x, x ? gathered(data->y, indices, n) : NULL, data->num_classes);
}

static ek_tensor *sliced(const ek_tensor *from, int64_t start, int64_t stop)
{
    ek_tensor *t = ek_tensor_new(from->dtype, ek_with_rows(from->shape, stop - start));
    if (t)
        memcpy(t->data, (const char *)from->data + (size_t)start * row_bytes(from), ek_tensor_bytes(t));
    return t;
}

ek_dataset *ek_dataset_slice(const ek_dataset *data, int64_t start, int64_t stop)
{
    const char *who = "dataset_slice";
    int64_t size = ek_dataset_size(data);
    if (!data || start < 0 || stop > size || start >= stop) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected 0 ≤ start < stop ≤ %lld, the number of samples, got start %lld and "
                "stop %lld", who, (long long)size, (long long)start, (long long)stop);
        return NULL;
    }
    ek_tensor *x = sliced(data->x, start, stop);
    return ek_dataset_own(who, x, x ? sliced(data->y, start, stop) : NULL, data->num_classes);
}

/* ---- statistics and access --------------------------------------------------------------------------------------- */

static ek_status check_float(const char *who, const ek_dataset *data)
{
    if (!data)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a data set, got NULL", who);
    if (data->x->dtype == EK_I64)
        return ek_fail(EK_ERR_DTYPE, "%s: expected float samples, got int64", who);
    return EK_OK;
}

static double value_at(const ek_tensor *t, int64_t i)
{
    return t->dtype == EK_F32 ? (double)((const float *)t->data)[i] : ((const double *)t->data)[i];
}

ek_status ek_dataset_moments(const ek_dataset *data, double *mean, double *std)
{
    ek_status status = check_float("dataset_moments", data);
    if (status == EK_OK && (!mean || !std))
        status = ek_fail(EK_ERR_ARGUMENT, "dataset_moments: expected places for two numbers, got NULL for the %s",
                         mean ? "std" : "mean");
    if (status == EK_OK && data->x->numel == 0)
        status = ek_fail(EK_ERR_SHAPE, "dataset_moments: expected samples of at least one element, got %s",
                         EK_TEXT(data->x->shape));
    if (status != EK_OK)
        return status;
    const ek_tensor *x = data->x;
    /* Row by row, so that a sum of many small numbers loses nothing; then squares of differences. */
    int64_t rows = x->shape.dim[0], width = x->numel / rows;
    double sum = 0, squares = 0;
    for (int64_t r = 0; r < rows; r++) {
        double row = 0;
        for (int64_t i = 0; i < width; i++)
            row += value_at(x, r * width + i);
        sum += row;
    }
    double m = sum / (double)x->numel;
    for (int64_t r = 0; r < rows; r++) {
        double row = 0;
        for (int64_t i = 0; i < width; i++) {
            double d = value_at(x, r * width + i) - m;
            row += d * d;
        }
        squares += row;
    }
    *mean = m;
    *std = sqrt(squares / (double)x->numel);
    return EK_OK;
}

ek_status ek_dataset_normalize(ek_dataset *data, double mean, double std)
{
    const char *who = "dataset_normalize";
    ek_status status = check_float(who, data);
    if (status != EK_OK)
        return status;
    if (!isfinite(mean) || !isfinite(std) || std <= 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a finite mean and a std above 0, got %g and %g", who, mean, std);
    const bool alone = atomic_load(&data->x->owners) == 1 && data->x->storage->owned; /* not borrowed memory either */
    ek_tensor *x = alone ? data->x : ek_tensor_new(data->x->dtype, data->x->shape);
    if (!x)
        return EK_ERR_MEMORY;
    for (int64_t i = 0; i < x->numel; i++) {
        const double value = (value_at(data->x, i) - mean) / std;
        if (x->dtype == EK_F32)
            ((float *)x->data)[i] = (float)value;
        else
            ((double *)x->data)[i] = value;
    }
    if (!alone)
        ek_tensor_free(data->x);
    data->x = x;
    return EK_OK;
}

int64_t ek_dataset_size(const ek_dataset *data)
{
    return data ? data->x->shape.dim[0] : 0;
}

int64_t ek_dataset_num_classes(const ek_dataset *data)
{
    return data ? data->num_classes : 0;
}

ek_tensor *ek_dataset_x(const ek_dataset *data)
{
    return data ? data->x : NULL;
}

ek_tensor *ek_dataset_y(const ek_dataset *data)
{
    return data ? data->y : NULL;
}
