/* (N, d1, d2, …) → (N, d1·d2·…). */
#include "module.h"

static ek_tensor *flatten_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    if (x->shape.ndim < 2) {
        ek_fail(EK_ERR_SHAPE, "%s: expected (N, …) of rank 2 or more, got %s: ek_reshape() makes the batch axis",
                module->description, EK_TEXT(x->shape));
        return NULL;
    }
    return ek_flatten(tape, x, 1, -1);
}

static const ek_module_def flatten_def = {.type = "flatten", .forward = flatten_forward};

ek_module *ek_flatten_layer(void)
{
    return ek_module_new(&flatten_def, NULL);
}
