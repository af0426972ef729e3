/* y = x·Wᵀ + b over the last axis. */
#include "module.h"

typedef struct linear {
    ek_tensor *weight; /* [out, in] */
    ek_tensor *bias;   /* [out], or NULL */
} linear;

static ek_tensor *linear_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const linear *layer = ek_module_state(module);
    int64_t in = layer->weight->shape.dim[1];
    int last = x->shape.ndim - 1;
    if (last < 0 || x->shape.dim[last] != in) {
        bool flat_fits = last > 1 && x->shape.dim[0] > 0 && x->numel / x->shape.dim[0] == in;
        ek_fail(EK_ERR_SHAPE, "%s: expected (…, %lld), got %s: %s", module->description, (long long)in,
                EK_TEXT(x->shape), flat_fits ? "flatten first, with ek_flatten_layer()"
                                             : "in_features is the size of the last axis; make the two equal");
        return NULL;
    }
    return ek_linear_op(tape, x, layer->weight, layer->bias);
}

static const ek_module_def linear_def = {.type = "linear", .forward = linear_forward, .state_bytes = sizeof(linear)};

ek_linear_opts ek_linear_opts_default(void)
{
    return (ek_linear_opts){.bias = true};
}

ek_module *ek_linear(int64_t in_features, int64_t out_features, const ek_linear_opts *opts)
{
    bool bias = opts ? opts->bias : ek_linear_opts_default().bias;
    if (in_features < 1 || out_features < 1) {
        ek_fail(EK_ERR_ARGUMENT, "linear: expected in_features and out_features of 1 or more, got %lld and %lld",
                (long long)in_features, (long long)out_features);
        return NULL;
    }
    ek_module *module = ek_module_new(&linear_def, "linear(%lld, %lld%s)", (long long)in_features,
                                      (long long)out_features, bias ? "" : ", no bias");
    if (!module)
        return NULL;
    linear *layer = ek_module_state(module);
    ek_init init = {EK_INIT_UNIFORM, 1 / sqrt((double)in_features)};
    layer->weight = ek_module_add_parameter(module, "weight", EK_SHAPE(out_features, in_features), init, true);
    if (layer->weight && bias)
        layer->bias = ek_module_add_parameter(module, "bias", EK_SHAPE(out_features), init, false);
    module->bias_axis = bias ? -1 : 0;
    return ek_module_complete(module, layer->weight && (layer->bias || !bias));
}
