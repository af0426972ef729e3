/* LayerNorm (Ba, Kiros, Hinton 2016, arXiv:1607.06450) and RMSNorm (Zhang and Sennrich 2019, arXiv:1910.07467):
 * statistics per position over the trailing axes. */
#include "norm.h"

typedef struct layer_norm {
    ek_shape normalized_shape;
    int64_t elements; /* of normalized_shape */
    double eps;
    bool center;    /* false: RMSNorm */
    bool over_time; /* statistics of a whole sequence */
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

/* Is this axis of x one of the normalized ones? */
static bool within(const layer_norm *norm, const ek_tensor *x, int axis)
{
    return axis >= x->shape.ndim - norm->normalized_shape.ndim;
}

static bool shape_fits(const ek_module *module, const ek_tensor *x)
{
    const layer_norm *norm = ek_module_state(module);
    const ek_shape over = norm->normalized_shape;
    bool fits = x->shape.ndim >= over.ndim + 2 * norm->over_time;
    for (int i = 1; fits && i <= over.ndim; i++)
        fits = x->shape.dim[x->shape.ndim - i] == over.dim[over.ndim - i];
    char text[AXES_BYTES];
    if (!fits)
        ek_fail(EK_ERR_SHAPE, "%s: expected (%s…, %s), got %s", module->description, norm->over_time ? "N, T, " : "",
                axes_text(over, text), EK_TEXT(x->shape));
    return fits;
}

/* Do the lengths that x carries leave statistics a meaning? */
static bool lengths_fit(const ek_module *module, const ek_tensor *x)
{
    const layer_norm *norm = ek_module_state(module);
    const ek_lengths *lengths = x->lengths;
    const bool time = within(norm, x, lengths->time_axis);
    if (within(norm, x, lengths->batch_axis)) {
        ek_fail(EK_ERR_SHAPE, "%s: the sequences of %s stand along axis %d, one of those this layer takes statistics "
                              "over; statistics belong to one sequence: give ek_tensor_set_lengths() the right axes",
                module->description, EK_TEXT(x->shape), lengths->batch_axis);
        return false;
    }
    if (time && norm->over_time) {
        ek_fail(EK_ERR_SHAPE, "%s: the steps of %s stand along axis %d, one of normalized_shape; over_time takes them "
                              "in by itself: leave them out of normalized_shape", module->description,
                EK_TEXT(x->shape), lengths->time_axis);
        return false;
    }
    if (time && (norm->weight || norm->bias) && lengths->total < lengths->n * lengths->steps) {
        ek_fail(EK_ERR_SHAPE, "%s: the sequences of %s differ in length, and γ and β of normalized_shape would belong "
                              "to steps (axis %d); leave that axis out of normalized_shape and set opts.over_time, or "
                              "switch weight and bias off", module->description, EK_TEXT(x->shape),
                lengths->time_axis);
        return false;
    }
    return true;
}

/* Statistics per position: nothing that padding could enter, but it has to come out as 0 and give no gradient. */
static ek_tensor *over_positions(const ek_module *module, ek_tape *tape, ek_tensor *x, ek_normalize_opts *opts)
{
    const layer_norm *norm = ek_module_state(module);
    const int axes = norm->normalized_shape.ndim;
    norm_input in = {.x = x}; /* as it is where γ and β belong to steps: all are valid then */
    if (!(x->lengths && within(norm, x, x->lengths->time_axis)) &&
        !ek_norm_open(module, tape, x, x->shape.ndim - axes, axes, &in))
        return NULL;
    const int64_t k = norm->elements, rows = in.x->numel / k;
    opts->stats = (ek_view){rows, 1, 1, k};
    opts->affine = (ek_view){1, rows, k, 1};
    return ek_norm_close(tape, &in, ek_normalize(tape, in.x, norm->weight, norm->bias, NULL, NULL, opts, NULL));
}

/* Statistics over the valid steps of each sequence and the last `axes` axes (time, if it is among them, left out), for
 * each index of the other axes by itself; γ and β, if any, belong to the last axes. */
static ek_tensor *over_sequences(const layer_norm *norm, ek_tape *tape, ek_tensor *x, const ek_lengths *lengths,
                                 ek_normalize_opts *opts)
{
    const int axes = norm->normalized_shape.ndim;
    norm_input in;
    if (!lengths || !ek_norm_open_sequences(tape, x, lengths, x->shape.ndim - axes, axes, &in) ||
        !ek_norm_view_per_sample(tape, &in, 1, in.before, in.c, opts))
        return NULL;
    opts->affine = (ek_view){1, in.rows * in.before, in.c, 1};
    return ek_norm_close(tape, &in, ek_normalize(tape, in.x, norm->weight, norm->bias, NULL, NULL, opts, NULL));
}

static ek_tensor *layer_norm_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const layer_norm *norm = ek_module_state(module);
    const ek_lengths *lengths = x->lengths;
    if (!ek_norm_dtype_ok(module, x) || !shape_fits(module, x) || (lengths && !lengths_fit(module, x)))
        return NULL;
    const double machine = x->dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    ek_normalize_opts opts = {.center = norm->center, .eps = norm->eps == EK_EPS_MACHINE ? machine : norm->eps,
                              .relu = ek_module_takes_relu(module, tape)};
    const bool affine = norm->weight || norm->bias;
    if (!norm->over_time && (affine || !lengths || !within(norm, x, lengths->time_axis)))
        return over_positions(module, tape, x, &opts);
    if (lengths && !x->tape)
        lengths = ek_lengths_on_tape(tape, lengths);
    else if (!lengths)
        lengths = ek_lengths_make(tape, 0, 1, x->shape.dim[0], x->shape.dim[1], NULL);
    return over_sequences(norm, tape, x, lengths, &opts);
}

static bool layer_norm_at(const ek_module *module, int i, norm_traits *traits)
{
    const layer_norm *norm = ek_module_state(module);
    const double machine = module->dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON;
    *traits = (norm_traits){.groups = GROUPS_PER_POSITION, .eps = norm->eps == EK_EPS_MACHINE ? machine : norm->eps,
                            .axes = norm->normalized_shape.ndim, .over_time = norm->over_time, .center = norm->center,
                            .weight = norm->weight, .bias = norm->bias};
    return i == 0;
}

static ek_module *layer_norm_new(const ek_module_def *def, ek_shape normalized_shape, const ek_layer_norm_opts *opts,
                                 bool center)
{
    const double eps = opts->eps;
    int64_t elements;
    char text[AXES_BYTES];
    if (ek_shape_check(def->type, EK_F32, normalized_shape, &elements) != EK_OK)
        return NULL;
    if (normalized_shape.ndim < 1 || elements < 1) {
        ek_fail(EK_ERR_SHAPE, "%s: expected a normalized_shape of one or more axes of 1 or more, got %s", def->type,
                EK_TEXT(normalized_shape));
        return NULL;
    }
    ek_module *module = ek_module_new(def, "%s(%s%s)", def->type, axes_text(normalized_shape, text),
                                      opts->over_time ? ", over time" : "");
    if (!module)
        return NULL;
    if ((center || eps != EK_EPS_MACHINE) && !ek_norm_eps_ok(module, eps))
        return ek_module_complete(module, false);
    module->norm_at = layer_norm_at;
    layer_norm *norm = ek_module_state(module);
    *norm = (layer_norm){normalized_shape, elements, eps, center, opts->over_time, NULL, NULL};
    if (opts->weight)
        norm->weight = ek_module_add_parameter(module, "weight", normalized_shape, (ek_init){EK_INIT_ONES, 0}, false);
    if (opts->bias)
        norm->bias = ek_module_add_parameter(module, "bias", normalized_shape, (ek_init){EK_INIT_ZEROS, 0}, false);
    module->takes_relu = true;
    return ek_module_complete(module, (!opts->weight || norm->weight) && (!opts->bias || norm->bias));
}

static const ek_module_def layer_norm_def = {"layer_norm", layer_norm_forward, NULL, sizeof(layer_norm)};
static const ek_module_def rms_norm_def = {"rms_norm", layer_norm_forward, NULL, sizeof(layer_norm)};

ek_module *ek_layer_norm(ek_shape normalized_shape, const ek_layer_norm_opts *opts)
{
    ek_layer_norm_opts defaults = ek_layer_norm_opts_default();
    return layer_norm_new(&layer_norm_def, normalized_shape, opts ? opts : &defaults, true);
}

ek_module *ek_rms_norm(ek_shape normalized_shape, const ek_rms_norm_opts *opts)
{
    ek_rms_norm_opts defaults = ek_rms_norm_opts_default();
    opts = opts ? opts : &defaults;
    const ek_layer_norm_opts common = {.eps = opts->eps, .weight = opts->weight};
    return layer_norm_new(&rms_norm_def, normalized_shape, &common, false);
}
