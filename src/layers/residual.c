/* y = x + child(x). */
#include "module.h"

static ek_tensor *residual_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *branch = ek_forward(module->children[0], tape, x);
    if (branch && !ek_shape_equal(branch->shape, x->shape)) {
        ek_fail(EK_ERR_SHAPE, "residual: expected %s to keep the shape %s of its input, got %s",
                module->children[0]->description, EK_TEXT(x->shape), EK_TEXT(branch->shape));
        return NULL;
    }
    return branch ? ek_add(tape, x, branch) : NULL;
}

static const ek_module_def residual_def = {.type = "residual", .forward = residual_forward};

bool ek_module_is_residual(const ek_module *module)
{
    return module->def.forward == residual_forward;
}

ek_module *ek_residual(ek_module *child)
{
    if (!child) {
        ek_fail_null(ek_cause_of_null(), "residual", "child");
        return NULL;
    }
    ek_module *module = ek_module_new(&residual_def, NULL);
    if (!module) {
        ek_module_free(child);
        return NULL;
    }
    return ek_module_complete(module, ek_module_add_child(module, "0", child) == EK_OK);
}
