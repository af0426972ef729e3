/* Printing a tensor the way NumPy does. */
#include "core.h"

enum { EDGE_ITEMS = 3, FULL_PRINT_LIMIT = 1000 };

typedef struct printer {
    const ek_tensor *tensor;
    FILE *out;
    bool shorten;
} printer;

static void print_value(const printer *p, int64_t flat)
{
    if (p->tensor->dtype == EK_I64)
        fprintf(p->out, "%lld", (long long)((const int64_t *)p->tensor->data)[flat]);
    else
        fprintf(p->out, "%.*g", p->tensor->dtype == EK_F32 ? 6 : 8, ek_tensor_at(p->tensor, flat));
}

/* Prints the block of elements from `flat` that axes `axis` … span; `size` is their number. */
static void print_axis(const printer *p, int axis, int64_t flat, int64_t size)
{
    ek_shape shape = p->tensor->shape;
    if (axis == shape.ndim) {
        print_value(p, flat);
        return;
    }
    int64_t n = shape.dim[axis], step = n ? size / n : 0;
    fputc('[', p->out);
    for (int64_t i = 0; i < n; i++) {
        if (i > 0) {
            fputc(',', p->out);
            for (int newline = axis; newline < shape.ndim - 1; newline++)
                fputc('\n', p->out);
            fprintf(p->out, "%*s", axis < shape.ndim - 1 ? axis + 1 : 1, "");
        }
        if (p->shorten && n > 2 * EDGE_ITEMS && i == EDGE_ITEMS) {
            fputs("...", p->out);
            i = n - EDGE_ITEMS - 1;
        } else {
            print_axis(p, axis + 1, flat + i * step, step);
        }
    }
    fputc(']', p->out);
}

ek_status ek_tensor_print(const ek_tensor *t, FILE *out)
{
    if (!t || !out)
        return ek_fail(EK_ERR_ARGUMENT, "tensor_print: got NULL");
    printer p = {t, out, t->numel > FULL_PRINT_LIMIT || !t->numel}; /* no elements, yet perhaps 2⁴⁰ empty rows */
    fprintf(out, "%s %s\n", ek_dtype_name(t->dtype), EK_TEXT(t->shape));
    print_axis(&p, 0, 0, t->numel);
    fputc('\n', out);
    return ferror(out) ? ek_fail(EK_ERR_IO, "tensor_print: writing failed") : EK_OK;
}
