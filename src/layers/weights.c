/* What linear and convolution layers share: weight, bias, and weight standardization (Qiao et al. 2019,
 * arXiv:1903.10520). */
#include "module.h"

#define STANDARDIZATION_EPS 1e-5

bool ek_weights_add(ek_module *module, ek_shape shape, double fan_in, int axis, bool bias, bool standardized)
{
    if (standardized && fan_in < 2) {
        ek_fail(EK_ERR_ARGUMENT, "%s: weight_standardization needs two or more weights for each output, got one; its "
                                 "standardized value is always 0", module->description);
        return false;
    }
    ek_weights *weights = ek_module_state(module);
    const ek_init init = {EK_INIT_UNIFORM, 1 / sqrt(fan_in)};
    weights->axis = axis;
    weights->standardized = standardized;
    weights->weight = ek_module_add_parameter(module, "weight", shape, init, true);
    if (weights->weight && bias)
        weights->bias = ek_module_add_parameter(module, "bias", EK_SHAPE(shape.dim[0]), init, false);
    module->weights = weights;
    module->bias_axis = bias ? axis : 0;
    return weights->weight && (weights->bias || !bias);
}

/* ŵ[o] = (w[o] − mean)/√(var + eps) with the mean and the biased variance of w[o], the weights of output o. */
ek_tensor *ek_weights_use(ek_tape *tape, const ek_weights *weights)
{
    if (!weights->standardized)
        return weights->weight;
    const int64_t out = weights->weight->shape.dim[0], k = weights->weight->numel / out;
    const ek_normalize_opts opts = {.stats = {out, 1, 1, k}, .affine = {1, out, k, 1}, .eps = STANDARDIZATION_EPS,
                                    .center = true};
    return ek_normalize(tape, weights->weight, NULL, NULL, NULL, NULL, &opts, NULL);
}
