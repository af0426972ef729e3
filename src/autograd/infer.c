/* Shape rules that many ops share. */
#include "op.h"

ek_status ek_need_float(const ek_node *node, int i)
{
    if (node->in[i]->dtype == EK_I64)
        return ek_fail(EK_ERR_DTYPE,
                       "%s: expected float32 or float64 for input %d, got int64; ek_tensor_cast() converts",
                       node->op->name, i);
    return EK_OK;
}

ek_status ek_need_int64(const ek_node *node, int i)
{
    if (node->in[i]->dtype != EK_I64)
        return ek_fail(EK_ERR_DTYPE, "%s: expected int64 for input %d, got %s; ek_tensor_cast() converts",
                       node->op->name, i, ek_dtype_name(node->in[i]->dtype));
    return EK_OK;
}

ek_status ek_infer_same(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* they hold those of in[0] already */
    (void)shape;
    return ek_need_float(node, 0);
}

ek_status ek_broadcast(const char *who, ek_shape a, ek_shape b, ek_shape *out)
{
    ek_shape result = {.ndim = a.ndim > b.ndim ? a.ndim : b.ndim};
    for (int i = 1; i <= result.ndim; i++) {
        int64_t da = i <= a.ndim ? a.dim[a.ndim - i] : 1, db = i <= b.ndim ? b.dim[b.ndim - i] : 1;
        if (da != db && da != 1 && db != 1)
            return ek_fail(EK_ERR_SHAPE, "%s: %s and %s do not broadcast: from the right, each pair of dimensions must "
                                         "be equal or hold a 1", who, EK_TEXT(a), EK_TEXT(b));
        result.dim[result.ndim - i] = da == 1 ? db : da;
    }
    *out = result;
    return EK_OK;
}

unsigned ek_broadcast_axes(ek_shape from, ek_shape to)
{
    unsigned axes = 0;
    int lead = to.ndim - from.ndim;
    for (int i = 0; i < to.ndim; i++)
        if (i < lead || (from.dim[i - lead] == 1 && to.dim[i] != 1))
            axes |= 1u << i;
    return axes;
}

int64_t ek_broadcast_offset(ek_shape from, ek_shape to, int64_t flat)
{
    int64_t offset = 0, stride = 1;
    for (int i = 1; i <= to.ndim; i++) {
        int64_t index = flat % to.dim[to.ndim - i];
        flat /= to.dim[to.ndim - i];
        if (i <= from.ndim) {
            int64_t size = from.dim[from.ndim - i];
            offset += size == 1 ? 0 : index * stride;
            stride *= size;
        }
    }
    return offset;
}
