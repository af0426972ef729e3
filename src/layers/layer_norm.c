/* LayerNorm (Ba, Kiros, Hinton 2016, arXiv:1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467):
 * statistics per position over the trailing axes. */
#include "norm.h"

typedef struct layer_norm {
    ek_shape normalized_shape;
    int64_t elements; /* of normalized_shape */
    double eps;
    bool center; /* false: RMSNorm */
    ek_tensor *weight, *bias;
} layer_norm;

ek_layer_norm_opts ek_layer_norm_opts_default(void)
{
    return (ek_layer_norm_opts){.eps = 1e-5, .weight = true, .bias = true};
}

ek_rms_norm_opts ek_rms_norm_opts_default(void)
{
    return (ek_rms_norm_opts){.eps = EK_EPS_MACHINE, .weight = true};
}

enum { AXES_BYTES = 200 };

/* "5, 10" for (5, 10) and "5" for (5,). */
static const char *axes_text(ek_shape shape, char text[AXES_BYTES])
{
    ek_shape_text(shape, text, AXES_BYTES);
    text[strlen(text) - (shape.ndim == 1 ? 2 : 1)] = '\0';
    return text + 1;
}

static ek_tensor *layer_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const layer_norm *norm = ek_module_state(module);
    const ek_shape over = norm->normalized_shape;
    bool fits = x->shape.ndim >= over.ndim;
    for (int i = 1; fits && i <= over.ndim; i++)
        fits = x->shape.dim[x->shape.ndim - i] == over.dim[over.ndim - i];
    if (!ek_norm_dtype_ok(module, x))
        return NULL;
    if (!fits) {
        char text[AXES_BYTES];
        ek_fail(EK_ERR_SHAPE, "%s: expected (…, %s), got %s", module->description, axes_text(over, text),
                EK_TEXT(x->shape));
        return NULL;
    }
    const int64_t k = norm->elements, rows = x->numel / k;
    const double machine = x->dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    const ek_normalize_opts opts = {.stats = {rows, 1, 1, k}, .affine = {1, rows, k, 1}, .center = norm->center,
                                    .eps = norm->eps == EK_EPS_MACHINE ? machine : norm->eps};
    return ek_normalize(tape, x, norm->weight, norm->bias, NULL, NULL, &opts, NULL);
}

static ek_module *layer_norm_new(const ek_module_def *def, ek_shape normalized_shape, double eps, bool weight,
                                 bool bias, bool center)
{
    int64_t elements;
    char text[AXES_BYTES];
    if (ek_shape_check(def->type, EK_F32, normalized_shape, &elements) != EK_OK)
        return NULL;
    if (normalized_shape.ndim < 1 || elements < 1) {
        ek_fail(EK_ERR_SHAPE, "%s: expected a normalized_shape of one or more axes of 1 or more, got %s", def->type,
                EK_TEXT(normalized_shape));
        return NULL;
    }
    ek_module *module = ek_module_new(def, "%s(%s)", def->type, axes_text(normalized_shape, text));
    if (!module)
        return NULL;
    if ((center || eps != EK_EPS_MACHINE) && !ek_norm_eps_ok(module, eps))
        return ek_module_complete(module, false);
    layer_norm *norm = ek_module_state(module);
    *norm = (layer_norm){normalized_shape, elements, eps, center, NULL, NULL};
    if (weight)
        norm->weight = ek_module_add_parameter(module, "weight", normalized_shape, (ek_init){EK_INIT_ONES, 0}, false);
    if (bias)
        norm->bias = ek_module_add_parameter(module, "bias", normalized_shape, (ek_init){EK_INIT_ZEROS, 0}, false);
    return ek_module_complete(module, (!weight || norm->weight) && (!bias || norm->bias));
}

static const ek_module_def layer_norm_def = {"layer_norm", layer_norm_forward, NULL, sizeof(layer_norm)};
static const ek_module_def rms_norm_def = {"rms_norm", layer_norm_forward, NULL, sizeof(layer_norm)};

ek_module *ek_layer_norm(ek_shape normalized_shape, const ek_layer_norm_opts *opts)
{
    ek_layer_norm_opts defaults = ek_layer_norm_opts_default();
    opts = opts ? opts : &defaults;
    return layer_norm_new(&layer_norm_def, normalized_shape, opts->eps, opts->weight, opts->bias, true);
}

ek_module *ek_rms_norm(ek_shape normalized_shape, const ek_rms_norm_opts *opts)
{
    ek_rms_norm_opts defaults = ek_rms_norm_opts_default();
    opts = opts ? opts : &defaults;
    return layer_norm_new(&rms_norm_def, normalized_shape, opts->eps, opts->weight, false, false);
}
