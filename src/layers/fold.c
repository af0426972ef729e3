/* Folding BatchNorm into the layer before it.  In evaluation a norm with running statistics is y = s·(z − mean) + β for
 * each channel, s = γ/√(var + eps), and z = w·x + b: so y = (s·w)·x + s·(b − mean) + β. */
#include "norm.h"

/* One norm and the layer before it, and what the layer's numbers become; memory of a tape. */
typedef struct fold {
    struct fold *next;
    ek_module *layer, *norm;
    void *weight, *bias;    /* [out, …] and [out], of the layer's type */
    char *norm_description; /* of the library's own memory */
    bool adds_bias;
} fold;

/* ---- what stands in the norm's place ----------------------------------------------------------------------------- */

/* What a norm does beside normalizing: it refuses other ranks, and puts zeros into the padding. */
static ek_tensor *identity_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const channel_norm *was = ek_module_state(module);
    if (x->shape.ndim < was->min_ndim || x->shape.ndim > was->max_ndim) {
        ek_fail(EK_ERR_SHAPE, "%s: expected %d axes, for which the norm was folded, got %s; in a norm after a linear "
                              "layer opts.channel_axis = EK_CHANNELS_LAST allows more", module->description,
                was->max_ndim, EK_TEXT(x->shape));
        return NULL;
    }
    return ek_zero_padding(tape, x);
}

static const ek_module_def identity_def = {"identity", identity_forward, NULL, sizeof(channel_norm)};

/* The norm becomes the identity: names and indices of the modules around it stay. */
static void become_identity(ek_module *norm, char *description, int max_ndim)
{
    channel_norm *state = ek_module_state(norm);
    ek_slots_free(&norm->parameters);
    ek_slots_free(&norm->buffers);
    *state = (channel_norm){.min_ndim = state->min_ndim, .max_ndim = max_ndim};
    ek_release(norm->description);
    norm->description = description;
    norm->def = identity_def;
    norm->after_init = NULL;
    norm->note = NULL;
    norm->choose_statistics = NULL;
    norm->non_finite_batches = NULL;
    norm->statistics = NULL;
    norm->num_pairs = 0;
    norm->running_pair = NULL;
    norm->momentum = NULL;
    ek_release(norm->gathered);
    norm->gathered = NULL;
    norm->norm_at = NULL;
    norm->takes_relu = false;
    norm->centers_axis = 0;
}

/* ---- which norms ------------------------------------------------------------------------------------------------- */

/* The norm's channels are the layer's outputs: on the same axis, and as many. */
static bool channels_fit(const ek_module *layer, const channel_norm *norm)
{
    const ek_tensor *weight = layer->weights->weight;
    if (weight->shape.dim[0] != norm->num_features || layer->dtype != norm->running_mean->dtype)
        return false;
    if (layer->weights->axis == 1) /* a convolution's output has as many axes as its weight */
        return norm->channel_axis == 1 && norm->min_ndim <= weight->shape.ndim && weight->shape.ndim <= norm->max_ndim;
    return norm->channel_axis == EK_CHANNELS_LAST || norm->min_ndim == 2; /* (N, C): axis 1 is the last one */
}

static bool can_fold(const ek_module *layer, const ek_module *norm)
{
    if (!layer->weights || !ek_module_is_batch_norm(norm))
        return false;
    const channel_norm *state = ek_module_state(norm);
    return ek_channel_norm_uses_running(norm) && channels_fit(layer, state);
}

/* ---- the numbers ------------------------------------------------------------------------------------------------- */

/* Writes a value in the type; false when it cannot hold it. */
static bool put(ek_dtype dtype, void *to, int64_t i, double value)
{
    if (dtype == EK_F32)
        ((float *)to)[i] = (float)value;
    else
        ((double *)to)[i] = value;
    return dtype == EK_F32 ? isfinite((float)value) : isfinite(value);
}

/* weight: as the layer uses it, [out, …].  False when a number is not finite. */
static bool compute(const fold *f, const ek_tensor *weight)
{
    const channel_norm *norm = ek_module_state(f->norm);
    const ek_tensor *bias = f->adds_bias ? NULL : f->layer->weights->bias;
    const int64_t out = weight->shape.dim[0], k = weight->numel / out;
    bool finite = true;
    for (int64_t o = 0; o < out; o++) {
        const double spread = ek_tensor_at(norm->running_var, o) + norm->eps;
        const double rstd = spread == 0 ? 0 : 1 / sqrt(spread); /* as the norm has it */
        const double scale = norm->weight ? ek_tensor_at(norm->weight, o) * rstd : rstd;
        const double shift = (bias ? ek_tensor_at(bias, o) : 0) - ek_tensor_at(norm->running_mean, o);
        for (int64_t i = o * k; i < (o + 1) * k; i++)
            finite &= put(weight->dtype, f->weight, i, ek_tensor_at(weight, i) * scale);
        finite &= put(weight->dtype, f->bias, o, shift * scale + (norm->bias ? ek_tensor_at(norm->bias, o) : 0));
    }
    return finite;
}

/* A norm that is to be folded, in front of `list`; the list as it is when its numbers do not allow it. */
static ek_status plan_one(ek_tape *tape, ek_module *layer, ek_module *norm, fold **list)
{
    const size_t element = ek_dtype_size(layer->dtype);
    fold *f = ek_tape_alloc(tape, sizeof *f);
    ek_tensor *weight = ek_weights_use(tape, layer->weights);
    if (!f || !weight)
        return EK_ERR_MEMORY;
    *f = (fold){.next = *list, .layer = layer, .norm = norm, .adds_bias = !layer->weights->bias,
                .weight = ek_tape_alloc(tape, (size_t)weight->numel * element),
                .bias = ek_tape_alloc(tape, (size_t)weight->shape.dim[0] * element)};
    if (!f->weight || !f->bias)
        return EK_ERR_MEMORY;
    if (!compute(f, weight))
        return EK_OK;
    char text[EK_NAME_BYTES];
    snprintf(text, sizeof text, "identity(%.200s folded)", norm->description);
    f->norm_description = ek_copy_text(text);
    if (!f->norm_description)
        return EK_ERR_MEMORY;
    if (f->adds_bias && !ek_module_add_parameter(layer, "bias", EK_SHAPE(weight->shape.dim[0]),
                                                 (ek_init){EK_INIT_ZEROS, 0}, false)) {
        ek_release(f->norm_description);
        return EK_ERR_MEMORY;
    }
    *list = f;
    return EK_OK;
}

static ek_status plan(ek_module *net, ek_tape *tape, fold **list)
{
    ek_status status = EK_OK;
    for (ek_module *m = net; status == EK_OK && m; m = ek_module_next(net, m))
        for (int i = 1; status == EK_OK && ek_module_is_sequential(m) && i < m->num_children; i++)
            if (can_fold(m->children[i - 1], m->children[i]))
                status = plan_one(tape, m->children[i - 1], m->children[i], list);
    return status;
}

static void undo(const fold *list)
{
    for (const fold *f = list; f; f = f->next) {
        ek_release(f->norm_description);
        if (f->adds_bias)
            ek_slots_drop_last(&f->layer->parameters);
    }
}

/* Takes `part` out of a description. */
static void cut_out(char *text, const char *part)
{
    char *at = strstr(text, part);
    if (at)
        memmove(at, at + strlen(part), strlen(at + strlen(part)) + 1);
}

/* Cannot fail. */
static void carry_out(const fold *f)
{
    ek_weights *weights = f->layer->weights;
    const channel_norm *norm = ek_module_state(f->norm);
    if (f->adds_bias)
        weights->bias = f->layer->parameters.at[f->layer->parameters.n - 1].tensor;
    memcpy(weights->weight->data, f->weight, ek_tensor_bytes(weights->weight));
    memcpy(weights->bias->data, f->bias, ek_tensor_bytes(weights->bias));
    ek_tensor_clear_grad(weights->weight);
    ek_tensor_clear_grad(weights->bias);
    weights->standardized = false;
    f->layer->bias_axis = weights->axis;
    cut_out(f->layer->description, EK_STANDARDIZED_TEXT);
    cut_out(f->layer->description, EK_NO_BIAS_TEXT);
    const bool two_axes = weights->axis == -1 && norm->channel_axis == 1; /* of three, axis 1 is not the last one */
    become_identity(f->norm, f->norm_description, two_axes ? 2 : norm->max_ndim);
}

static ek_status check(ek_module *net)
{
    if (!net)
        return ek_fail_null(EK_ERR_ARGUMENT, "fold_batch_norm", "module");
    for (const ek_module *m = net; m; m = ek_module_next(net, m))
        if (m->training)
            return ek_fail(EK_ERR_STATE, "fold_batch_norm: %s is in training mode, and folding is for evaluation: call "
                                         "ek_module_eval() first", m->description);
        else if (m->pooled)
            return ek_fail(EK_ERR_STATE, "fold_batch_norm: a recalibration of this net is running");
    return ek_module_ready(net);
}

ek_status ek_fold_batch_norm(ek_module *net, int *folded)
{
    ek_status status = check(net);
    if (status != EK_OK)
        return status;
    ek_tape *tape = ek_tape_new();
    fold *list = NULL;
    status = tape ? ek_tape_set_recording(tape, false) : EK_ERR_MEMORY;
    if (status == EK_OK)
        status = plan(net, tape, &list);
    if (status != EK_OK)
        undo(list);
    int count = 0;
    for (const fold *f = list; status == EK_OK && f; f = f->next, count++)
        carry_out(f);
    ek_tape_free(tape);
    if (status == EK_OK && folded)
        *folded = count;
    return status;
}
