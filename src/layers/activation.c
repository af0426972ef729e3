/* Layers without parameters that apply one elementwise op. */
#include "module.h"

/* Where an output counts as saturated: the derivative is less than 2 % of its largest there (tanh) or 4 % (sigmoid), or
 * 0 (relu). */
static bool tanh_is_flat(double y)
{
    return fabs(y) > 0.99;
}

static bool sigmoid_is_flat(double y)
{
    return y < 0.01 || y > 0.99;
}

static bool relu_is_flat(double y)
{
    return y == 0;
}

static ek_module *activation_new(const ek_module_def *def, bool (*is_flat)(double y))
{
    ek_module *module = ek_module_new(def, NULL);
    if (module) {
        module->is_activation = true;
        module->is_flat = is_flat;
    }
    return module;
}

#define ACTIVATION(NAME, IS_FLAT, APPLY)                                                                               \
    static ek_tensor *NAME##_forward(ek_module *module, ek_tape *tape, ek_tensor *x)                                   \
    {                                                                                                                  \
        (void)module;                                                                                                  \
        return APPLY;                                                                                                  \
    }                                                                                                                  \
    static const ek_module_def NAME##_def = {.type = #NAME, .forward = NAME##_forward};                                \
    ek_module *ek_##NAME##_layer(void)                                                                                 \
    {                                                                                                                  \
        return activation_new(&NAME##_def, IS_FLAT);                                                                   \
    }

ACTIVATION(relu, relu_is_flat, ek_relu(tape, x))

bool ek_module_is_relu(const ek_module *module)
{
    return module->def.forward == relu_forward;
}

ACTIVATION(gelu, NULL, ek_gelu(tape, x))
ACTIVATION(silu, NULL, ek_silu(tape, x))
ACTIVATION(sigmoid, sigmoid_is_flat, ek_sigmoid(tape, x))
ACTIVATION(tanh, tanh_is_flat, ek_tanh(tape, x))
ACTIVATION(softplus, NULL, ek_softplus(tape, x, 1, 20))

/* ---- with a number ---------------------------------------------------------------------------------------------- */

static ek_tensor *leaky_relu_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return ek_leaky_relu(tape, x, *(const double *)ek_module_state(module));
}

static const ek_module_def leaky_relu_def = {
    .type = "leaky_relu", .forward = leaky_relu_forward, .state_bytes = sizeof(double)};

ek_module *ek_leaky_relu_layer(double negative_slope)
{
    if (!isfinite(negative_slope)) {
        ek_fail(EK_ERR_ARGUMENT, "leaky_relu: expected a finite negative_slope, got %g", negative_slope);
        return NULL;
    }
    ek_module *module = ek_module_new(&leaky_relu_def, "leaky_relu(%g)", negative_slope);
    if (module) {
        *(double *)ek_module_state(module) = negative_slope;
        module->is_activation = true;
    }
    return module;
}
