/* Softmax along an axis. */
#include "module.h"

static ek_tensor *softmax_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return ek_softmax(tape, x, *(const int *)ek_module_state(module));
}

static ek_tensor *log_softmax_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return ek_log_softmax(tape, x, *(const int *)ek_module_state(module));
}

static const ek_module_def softmax_def = {
    .type = "softmax", .forward = softmax_forward, .state_bytes = sizeof(int)};
static const ek_module_def log_softmax_def = {
    .type = "log_softmax", .forward = log_softmax_forward, .state_bytes = sizeof(int)};

static ek_module *along_axis(const ek_module_def *def, int axis)
{
    if (axis < -EK_MAX_NDIM || axis >= EK_MAX_NDIM) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected an axis of %d … %d, got %d", def->type, -EK_MAX_NDIM, EK_MAX_NDIM - 1,
                axis);
        return NULL;
    }
    ek_module *module = ek_module_new(def, "%s(%d)", def->type, axis);
    if (module)
        *(int *)ek_module_state(module) = axis;
    return module;
}

ek_module *ek_softmax_layer(int axis)
{
    return along_axis(&softmax_def, axis);
}

ek_module *ek_log_softmax_layer(int axis)
{
    return along_axis(&log_softmax_def, axis);
}
