/* y = x·Wᵀ + b over the last axis. */
#include "module.h"

static ek_tensor *linear_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const ek_weights *weights = ek_module_state(module); /* weight [out, in] */
    int64_t in = weights->weight->shape.dim[1];
    int last = x->shape.ndim - 1;
    if (last < 0 || x->shape.dim[last] != in) {
        bool flat_fits = last > 1 && x->shape.dim[0] > 0 && x->numel / x->shape.dim[0] == in;
        ek_fail(EK_ERR_SHAPE, "%s: expected (…, %lld), got %s: %s", module->description, (long long)in,
                EK_TEXT(x->shape), flat_fits ? "flatten first, with ek_flatten_layer()"
                                             : "in_features is the size of the last axis; make the two equal");
        return NULL;
    }
    ek_tensor *weight = ek_weights_use(tape, weights);
    return ek_module_takes_relu(module, tape) ? ek_linear_relu(tape, x, weight, weights->bias)
                                              : ek_linear_op(tape, x, weight, weights->bias);
}

static const ek_module_def linear_def = {
    .type = "linear", .forward = linear_forward, .state_bytes = sizeof(ek_weights)};

ek_linear_opts ek_linear_opts_default(void)
{
    return (ek_linear_opts){.bias = true};
}

ek_module *ek_linear(int64_t in_features, int64_t out_features, const ek_linear_opts *opts)
{
    const ek_linear_opts o = opts ? *opts : ek_linear_opts_default();
    if (in_features < 1 || out_features < 1) {
        ek_fail(EK_ERR_ARGUMENT, "linear: expected in_features and out_features of 1 or more, got %lld and %lld",
                (long long)in_features, (long long)out_features);
        return NULL;
    }
    ek_module *module = ek_module_new(&linear_def, "linear(%lld, %lld%s%s)", (long long)in_features,
                                      (long long)out_features, o.weight_standardization ? EK_STANDARDIZED_TEXT : "",
                                      o.bias ? "" : EK_NO_BIAS_TEXT);
    if (!module)
        return NULL;
    module->takes_relu = true;
    const ek_shape shape = EK_SHAPE(out_features, in_features);
    return ek_module_complete(module, ek_weights_add(module, shape, (double)in_features, -1, o.bias,
                                                     o.weight_standardization));
}
