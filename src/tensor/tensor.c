/* Tensors: shapes, storage, making them, reading them, gradients of leaves. */
#include "core.h"

#include <math.h>
#include <string.h>

/* ---- types and shapes ------------------------------------------------------------------------------------------- */

const char *ek_dtype_name(ek_dtype dtype)
{
    switch (dtype) {
    case EK_F32: return "float32";
    case EK_F64: return "float64";
    case EK_I64: return "int64";
    }
    return "unknown dtype";
}

size_t ek_dtype_size(ek_dtype dtype)
{
    return dtype == EK_F32 ? 4 : 8;
}

const char *ek_shape_text(ek_shape shape, char *text, size_t bytes)
{
    if (!text)
        return "";
    size_t used = (size_t)snprintf(text, bytes, "(");
    for (int i = 0; i < shape.ndim && i < EK_MAX_NDIM && used < bytes; i++)
        used += (size_t)snprintf(text + used, bytes - used, i ? ", %lld" : "%lld", (long long)shape.dim[i]);
    if (used < bytes)
        snprintf(text + used, bytes - used, shape.ndim == 1 ? ",)" : ")");
    return text;
}

ek_status ek_shape_check(const char *who, ek_dtype dtype, ek_shape shape, int64_t *numel)
{
    if (dtype != EK_F32 && dtype != EK_F64 && dtype != EK_I64)
        return ek_fail(EK_ERR_DTYPE, "%s: expected EK_F32, EK_F64 or EK_I64, got dtype %d", who, (int)dtype);
    if (shape.ndim < 0 || shape.ndim > EK_MAX_NDIM)
        return ek_fail(EK_ERR_SHAPE, "%s: expected a rank of 0 to %d, got %d", who, EK_MAX_NDIM, shape.ndim);
    int64_t product = 1;
    bool empty = false;
    for (int i = 0; i < shape.ndim; i++) {
        if (shape.dim[i] < 0)
            return ek_fail(EK_ERR_SHAPE, "%s: expected dimensions of 0 or more, got %s", who, EK_TEXT(shape));
        empty |= shape.dim[i] == 0;
    }
    /* A 0 among the dimensions must not hide an overflow of the others: strides are products of those. */
    for (int i = 0; i < shape.ndim; i++)
        if (shape.dim[i] && __builtin_mul_overflow(product, shape.dim[i], &product))
            return ek_fail(EK_ERR_SHAPE, "%s: the number of elements of %s overflows int64", who, EK_TEXT(shape));
    if (product > (int64_t)(PTRDIFF_MAX / ek_dtype_size(dtype)))
        return ek_fail(EK_ERR_SHAPE, "%s: the bytes of %s %s overflow size_t", who, ek_dtype_name(dtype),
                       EK_TEXT(shape));
    *numel = empty ? 0 : product;
    return EK_OK;
}

bool ek_shape_equal(ek_shape a, ek_shape b)
{
    if (a.ndim != b.ndim)
        return false;
    for (int i = 0; i < a.ndim; i++)
        if (a.dim[i] != b.dim[i])
            return false;
    return true;
}

int ek_axis_resolve(int axis, int ndim)
{
    if (axis < 0)
        axis += ndim;
    return axis >= 0 && axis < ndim ? axis : -1;
}

/* ---- storage ----------------------------------------------------------------------------------------------------- */

static ek_tensor *tensor_over(ek_dtype dtype, ek_shape shape, int64_t numel, ek_storage *storage)
{
    ek_tensor *t = ek_alloc_zeroed(sizeof *t);
    if (!t)
        return NULL;
    t->dtype = dtype;
    t->shape = shape;
    t->numel = numel;
    t->storage = storage;
    t->data = storage->base;
    t->decays = true;
    atomic_init(&t->owners, 1);
    return t;
}

static ek_storage *storage_new(void *base, bool owned)
{
    ek_storage *storage = ek_alloc_zeroed(sizeof *storage);
    if (!storage)
        return NULL;
    atomic_init(&storage->owners, 1);
    storage->base = base;
    storage->owned = owned;
    return storage;
}

static void storage_release(ek_storage *storage)
{
    if (atomic_fetch_sub(&storage->owners, 1) != 1)
        return;
    if (storage->owned)
        ek_release(storage->base);
    else if (storage->release)
        storage->release(storage->base, storage->user);
    ek_release(storage);
}

static ek_tensor *tensor_new(const char *who, ek_dtype dtype, ek_shape shape)
{
    int64_t numel;
    if (ek_shape_check(who, dtype, shape, &numel) != EK_OK)
        return NULL;
    void *base = ek_alloc((size_t)numel * ek_dtype_size(dtype));
    if (!base)
        return NULL;
    ek_storage *storage = storage_new(base, true);
    ek_tensor *t = storage ? tensor_over(dtype, shape, numel, storage) : NULL;
    if (!t) {
        ek_release(storage);
        ek_release(base);
    }
    return t;
}

ek_tensor *ek_tensor_new(ek_dtype dtype, ek_shape shape)
{
    return tensor_new("tensor", dtype, shape);
}

ek_tensor *ek_tensor_retain(ek_tensor *t)
{
    if (!t)
        return NULL;
    if (t->tape) {
        ek_fail(EK_ERR_STATE, "tensor_retain: a tensor of a tape lives until ek_tape_reset(); "
                              "ek_tensor_clone() makes a copy that outlives it");
        return NULL;
    }
    atomic_fetch_add(&t->owners, 1);
    return t;
}

void ek_tensor_free(ek_tensor *t)
{
    if (!t || t->tape || atomic_fetch_sub(&t->owners, 1) != 1)
        return;
    ek_tensor_free(t->grad);
    storage_release(t->storage);
    ek_release(t->lengths_memory);
    ek_release(t);
}

/* ---- making tensors ---------------------------------------------------------------------------------------------- */

static bool draw_possible(const char *who, ek_dtype dtype, const ek_rng *rng)
{
    if (dtype == EK_I64)
        ek_fail(EK_ERR_DTYPE, "%s: expected float32 or float64, got int64", who);
    else if (!rng)
        ek_fail(EK_ERR_ARGUMENT, "%s: the random generator is NULL; ek_rng_seed() makes one", who);
    return dtype != EK_I64 && rng;
}

void ek_fill(ek_tensor *t, double value)
{
    for (int64_t i = 0; i < t->numel; i++)
        switch (t->dtype) {
        case EK_F32: ((float *)t->data)[i] = (float)value; break;
        case EK_F64: ((double *)t->data)[i] = value; break;
        case EK_I64: ((int64_t *)t->data)[i] = (int64_t)value; break;
        }
}

/* Can int64 hold the integral part of this? */
static bool fits_int64(double value)
{
    return value >= -0x1p63 && value < 0x1p63;
}

ek_tensor *ek_zeros(ek_dtype dtype, ek_shape shape)
{
    ek_tensor *t = tensor_new("zeros", dtype, shape);
    if (t)
        memset(t->data, 0, ek_tensor_bytes(t));
    return t;
}

ek_tensor *ek_ones(ek_dtype dtype, ek_shape shape)
{
    return ek_full(dtype, shape, 1);
}

ek_tensor *ek_full(ek_dtype dtype, ek_shape shape, double value)
{
    if (dtype == EK_I64 && !fits_int64(value)) {
        ek_fail(EK_ERR_ARGUMENT, "full: int64 cannot hold %g", value);
        return NULL;
    }
    ek_tensor *t = tensor_new("full", dtype, shape);
    if (t)
        ek_fill(t, value);
    return t;
}

ek_tensor *ek_arange(ek_dtype dtype, double start, double stop, double step)
{
    double count = ceil((stop - start) / step);
    if (!(step != 0) || !isfinite(start) || !isfinite(stop) || !isfinite(step)) {
        ek_fail(EK_ERR_ARGUMENT,
                "arange: expected finite bounds and a step other than 0, got start %g, stop %g, step %g", start, stop,
                step);
        return NULL;
    }
    if (count > 0x1p53) {
        ek_fail(EK_ERR_SHAPE, "arange: %g elements from %g to %g by %g are more than a tensor can hold", count, start,
                stop, step);
        return NULL;
    }
    if (dtype == EK_I64 && (!fits_int64(start) || !fits_int64(stop))) {
        ek_fail(EK_ERR_ARGUMENT, "arange: int64 cannot hold %g … %g", start, stop);
        return NULL;
    }
    ek_tensor *t = tensor_new("arange", dtype, EK_SHAPE(count > 0 ? (int64_t)count : 0));
    for (int64_t i = 0; t && i < t->numel; i++) {
        double value = start + (double)i * step;
        switch (dtype) {
        case EK_F32: ((float *)t->data)[i] = (float)value; break;
        case EK_F64: ((double *)t->data)[i] = value; break;
        case EK_I64: ((int64_t *)t->data)[i] = (int64_t)value; break;
        }
    }
    return t;
}

ek_tensor *ek_uniform(ek_dtype dtype, ek_shape shape, double low, double high, ek_rng *rng)
{
    ek_tensor *t = draw_possible("uniform", dtype, rng) ? tensor_new("uniform", dtype, shape) : NULL;
    if (t)
        ek_fill_uniform(t, low, high, rng);
    return t;
}

ek_tensor *ek_normal(ek_dtype dtype, ek_shape shape, double mean, double std, ek_rng *rng)
{
    ek_tensor *t = draw_possible("normal", dtype, rng) ? tensor_new("normal", dtype, shape) : NULL;
    if (t)
        ek_fill_normal(t, mean, std, rng);
    return t;
}

ek_tensor *ek_from_array(ek_dtype dtype, ek_shape shape, const void *values)
{
    ek_tensor *t = tensor_new("from_array", dtype, shape);
    if (!t)
        return NULL;
    if (!values && t->numel) {
        ek_fail(EK_ERR_ARGUMENT, "from_array: expected %lld values, got NULL", (long long)t->numel);
        ek_tensor_free(t);
        return NULL;
    }
    if (t->numel)
        memcpy(t->data, values, ek_tensor_bytes(t));
    return t;
}

ek_tensor *ek_borrow(ek_dtype dtype, ek_shape shape, void *values, void (*release)(void *values, void *user),
                     void *user)
{
    int64_t numel;
    if (ek_shape_check("borrow", dtype, shape, &numel) != EK_OK)
        return NULL;
    if (!values && numel) {
        ek_fail(EK_ERR_ARGUMENT, "borrow: expected %lld values, got NULL", (long long)numel);
        return NULL;
    }
    ek_storage *storage = storage_new(values, false);
    ek_tensor *t = storage ? tensor_over(dtype, shape, numel, storage) : NULL;
    if (!t) {
        ek_release(storage);
        return NULL;
    }
    storage->release = release;
    storage->user = user;
    return t;
}

/* A new copy with the lengths of what it was copied from; NULL after freeing it when memory is short. */
static ek_tensor *with_lengths_of(ek_tensor *copy, const ek_tensor *from)
{
    if (copy && ek_lengths_clone(copy, from) != EK_OK) {
        ek_tensor_free(copy);
        return NULL;
    }
    return copy;
}

ek_tensor *ek_tensor_clone(const ek_tensor *t)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "clone", "tensor");
        return NULL;
    }
    ek_tensor *copy = tensor_new("clone", t->dtype, t->shape);
    if (copy && t->numel)
        memcpy(copy->data, t->data, ek_tensor_bytes(t));
    return with_lengths_of(copy, t);
}

ek_tensor *ek_tensor_cast(const ek_tensor *t, ek_dtype dtype)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "cast", "tensor");
        return NULL;
    }
    ek_tensor *copy = tensor_new("cast", dtype, t->shape);
    for (int64_t i = 0; copy && i < t->numel; i++) {
        if (t->dtype == EK_I64 && dtype == EK_I64) { /* not by way of double, which holds 53 bits */
            ((int64_t *)copy->data)[i] = ((const int64_t *)t->data)[i];
            continue;
        }
        double value = ek_tensor_at(t, i);
        switch (dtype) {
        case EK_F32: ((float *)copy->data)[i] = (float)value; break;
        case EK_F64: ((double *)copy->data)[i] = value; break;
        case EK_I64:
            if (!fits_int64(value)) {
                ek_fail(EK_ERR_ARGUMENT, "cast: int64 cannot hold %g (element %lld)", value, (long long)i);
                ek_tensor_free(copy);
                return NULL;
            }
            ((int64_t *)copy->data)[i] = (int64_t)value;
            break;
        }
    }
    return with_lengths_of(copy, t);
}

ek_status ek_tensor_convert(ek_tensor *t, ek_dtype dtype)
{
    if (t->dtype == dtype)
        return EK_OK;
    ek_tensor *copy = ek_tensor_cast(t, dtype);
    if (!copy)
        return ek_last_status();
    ek_tensor_adopt(t, copy);
    return EK_OK;
}

void ek_tensor_adopt(ek_tensor *t, ek_tensor *copy)
{
    storage_release(t->storage);
    ek_tensor_free(t->grad);
    t->grad = NULL;
    t->grad_data = NULL;
    t->has_grad = false;
    t->dtype = copy->dtype;
    t->storage = copy->storage;
    t->data = copy->data;
    ek_release(copy->lengths_memory);
    ek_release(copy);
}

/* ---- looking at tensors ------------------------------------------------------------------------------------------ */

ek_dtype ek_tensor_dtype(const ek_tensor *t)
{
    if (!t)
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_dtype", "tensor");
    return t ? t->dtype : EK_F32;
}

ek_shape ek_tensor_shape(const ek_tensor *t)
{
    if (!t)
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_shape", "tensor");
    return t ? t->shape : EK_SCALAR;
}

int ek_tensor_ndim(const ek_tensor *t)
{
    if (!t)
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_ndim", "tensor");
    return t ? t->shape.ndim : 0;
}

int64_t ek_tensor_dim(const ek_tensor *t, int axis)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_dim", "tensor");
        return -1;
    }
    int resolved = ek_axis_resolve(axis, t->shape.ndim);
    if (resolved < 0) {
        ek_fail(EK_ERR_ARGUMENT, "tensor_dim: axis %d is outside the rank of %s", axis, EK_TEXT(t->shape));
        return -1;
    }
    return t->shape.dim[resolved];
}

int64_t ek_tensor_numel(const ek_tensor *t)
{
    if (!t)
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_numel", "tensor");
    return t ? t->numel : 0;
}

void *ek_tensor_data(ek_tensor *t)
{
    return t ? t->data : NULL;
}

const void *ek_tensor_const_data(const ek_tensor *t)
{
    return t ? t->data : NULL;
}

static void *typed_data(ek_tensor *t, ek_dtype dtype)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "data", "tensor");
        return NULL;
    }
    if (t->dtype != dtype) {
        ek_fail(EK_ERR_DTYPE, "data: asked for %s, the tensor %s is %s", ek_dtype_name(dtype), EK_TEXT(t->shape),
                ek_dtype_name(t->dtype));
        return NULL;
    }
    return t->data;
}

float *ek_data_f32(ek_tensor *t)
{
    return typed_data(t, EK_F32);
}

double *ek_data_f64(ek_tensor *t)
{
    return typed_data(t, EK_F64);
}

int64_t *ek_data_i64(ek_tensor *t)
{
    return typed_data(t, EK_I64);
}

double ek_tensor_at(const ek_tensor *t, int64_t flat)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "tensor_at", "tensor");
        return NAN;
    }
    if (flat < 0 || flat >= t->numel) {
        ek_fail(EK_ERR_ARGUMENT, "tensor_at: expected an index of 0 … %lld, got %lld", (long long)t->numel - 1,
                (long long)flat);
        return NAN;
    }
    switch (t->dtype) {
    case EK_F32: return ((const float *)t->data)[flat];
    case EK_F64: return ((const double *)t->data)[flat];
    case EK_I64: return (double)((const int64_t *)t->data)[flat];
    }
    return NAN;
}

double ek_item(const ek_tensor *t)
{
    if (!t) {
        ek_fail_null(EK_ERR_ARGUMENT, "item", "tensor");
        return NAN;
    }
    if (t->numel != 1) {
        ek_fail(EK_ERR_SHAPE, "item: expected one element, got %s", EK_TEXT(t->shape));
        return NAN;
    }
    return ek_tensor_at(t, 0);
}

static ek_status transfer_check(const char *who, const ek_tensor *t, const void *values, size_t bytes)
{
    if (!t || !values)
        return ek_fail(EK_ERR_ARGUMENT, "%s: got NULL", who);
    if (bytes != ek_tensor_bytes(t))
        return ek_fail(EK_ERR_SHAPE, "%s: %s %s is %zu bytes, got an array of %zu", who, ek_dtype_name(t->dtype),
                       EK_TEXT(t->shape), ek_tensor_bytes(t), bytes);
    return EK_OK;
}

ek_status ek_tensor_read(const ek_tensor *t, void *values, size_t bytes)
{
    ek_status status = transfer_check("tensor_read", t, values, bytes);
    if (status == EK_OK && bytes)
        memcpy(values, t->data, bytes);
    return status;
}

ek_status ek_tensor_write(ek_tensor *t, const void *values, size_t bytes)
{
    ek_status status = transfer_check("tensor_write", t, values, bytes);
    if (status != EK_OK)
        return status;
    if (t->tape)
        return ek_fail(EK_ERR_STATE, "tensor_write: the tensor belongs to a tape, whose results are not written to; "
                                     "ek_tensor_clone() it first");
    if (bytes)
        memcpy(t->data, values, bytes);
    return EK_OK;
}

bool ek_tensor_equal(const ek_tensor *a, const ek_tensor *b)
{
    return a && b && a->dtype == b->dtype && ek_shape_equal(a->shape, b->shape) &&
           (!a->numel || !memcmp(a->data, b->data, ek_tensor_bytes(a)));
}

bool ek_tensor_all_close(const ek_tensor *a, const ek_tensor *b, double rtol, double atol)
{
    if (!a || !b || a->dtype != b->dtype || !ek_shape_equal(a->shape, b->shape))
        return false;
    for (int64_t i = 0; i < a->numel; i++) {
        double x = ek_tensor_at(a, i), y = ek_tensor_at(b, i);
        if (isnan(x) || isnan(y)) {
            if (!isnan(x) || !isnan(y))
                return false;
        } else if (x != y && (isinf(x) || isinf(y) || !(fabs(x - y) <= atol + rtol * fabs(y)))) {
            /* an infinity is close to itself alone, though |y| = ∞ would allow anything */
            return false;
        }
    }
    return true;
}

/* ---- gradients of leaves ----------------------------------------------------------------------------------------- */

ek_status ek_tensor_set_requires_grad(ek_tensor *t, bool requires_grad)
{
    if (!t)
        return ek_fail(EK_ERR_ARGUMENT, "set_requires_grad: got NULL");
    if (t->tape)
        return ek_fail(EK_ERR_STATE, "set_requires_grad: expected a leaf, got a tensor of a tape, which requires a "
                                     "gradient when its inputs do; ek_tensor_clone() makes a leaf of it");
    if (requires_grad && t->dtype == EK_I64)
        return ek_fail(EK_ERR_DTYPE, "set_requires_grad: expected float32 or float64, got int64");
    t->requires_grad = requires_grad;
    return EK_OK;
}

bool ek_tensor_requires_grad(const ek_tensor *t)
{
    return t && t->requires_grad;
}

ek_tensor *ek_tensor_grad(const ek_tensor *t)
{
    return t && !t->tape && t->has_grad ? t->grad : NULL;
}

void ek_tensor_clear_grad(ek_tensor *t)
{
    if (t && !t->tape)
        t->has_grad = false;
}

ek_status ek_tensor_need_grad_buffer(ek_tensor *leaf)
{
    if (!leaf->grad) {
        leaf->grad = ek_tensor_new(leaf->dtype, leaf->shape);
        if (!leaf->grad)
            return EK_ERR_MEMORY;
        leaf->grad_data = leaf->grad->data;
    }
    return EK_OK;
}
