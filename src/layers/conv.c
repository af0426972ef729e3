/* Convolution layers: a weight, a bias and the ops of op_conv. */
#include "module.h"

typedef struct conv {
    ek_weights weights; /* weight [out, in/groups, kernel…] */
    int64_t in_channels;
    int dims; /* of space: 1 or 2 */
    ek_conv_opts opts;
} conv;

/* What to do about an input of the wrong shape. */
static const char *remedy(const conv *layer, ek_shape shape)
{
    if (shape.ndim == layer->dims + 1 && layer->in_channels == 1)
        return "put the channel axis in with ek_reshape()";
    if (shape.ndim == layer->dims + 1)
        return "one sample is a batch of 1; put that axis in with ek_reshape()";
    if (shape.ndim == layer->dims + 2 && shape.dim[shape.ndim - 1] == layer->in_channels)
        return "channels come second; ek_permute() moves them";
    return "in_channels is the size of axis 1";
}

static ek_tensor *conv_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const conv *layer = ek_module_state(module);
    if (x->shape.ndim != layer->dims + 2 || x->shape.dim[1] != layer->in_channels) {
        ek_fail(EK_ERR_SHAPE, "%s: expected (N, %lld, %s), got %s: %s", module->description,
                (long long)layer->in_channels, layer->dims == 1 ? "L" : "H, W", EK_TEXT(x->shape),
                remedy(layer, x->shape));
        return NULL;
    }
    ek_tensor *weight = ek_weights_use(tape, &layer->weights);
    ek_conv_opts opts = layer->opts;
    opts.relu = ek_module_takes_relu(module, tape);
    return layer->dims == 1 ? ek_conv1d(tape, x, weight, layer->weights.bias, &opts)
                            : ek_conv2d(tape, x, weight, layer->weights.bias, &opts);
}

static const ek_module_def conv_defs[] = {
    {.type = "conv1d", .forward = conv_forward, .state_bytes = sizeof(conv)},
    {.type = "conv2d", .forward = conv_forward, .state_bytes = sizeof(conv)},
};

ek_conv_layer_opts ek_conv_layer_opts_default(void)
{
    return (ek_conv_layer_opts){.stride = {1, 1}, .dilation = {1, 1}, .groups = 1, .bias = true};
}

static ek_status check(const char *who, int dims, int64_t in, int64_t out, const int64_t kernel[2],
                       const ek_conv_layer_opts *o)
{
    if (in < 1 || out < 1)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected in_channels and out_channels of 1 or more, got %lld and %lld",
                       who, (long long)in, (long long)out);
    if (o->groups < 1 || in % o->groups || out % o->groups)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected groups that divide in_channels %lld and out_channels %lld, got "
                                        "%lld", who, (long long)in, (long long)out, (long long)o->groups);
    ek_status status = ek_check_sizes(who, "kernel", kernel, dims, 1);
    if (status == EK_OK)
        status = ek_check_sizes(who, "stride", o->stride, dims, 1);
    if (status == EK_OK)
        status = ek_check_sizes(who, "padding", o->padding, dims, 0);
    if (status == EK_OK)
        status = ek_check_sizes(who, "dilation", o->dilation, dims, 1);
    return status;
}

static ek_module *new_module(int dims, int64_t in, int64_t out, const int64_t kernel[2], const ek_conv_layer_opts *o)
{
    const ek_module_def *def = &conv_defs[dims - 1];
    char kernel_text[48], options[240] = "";
    ek_describe_sizes(kernel_text, sizeof kernel_text, kernel, dims);
    ek_describe_option(options, sizeof options, "stride", o->stride, dims, 1);
    ek_describe_option(options, sizeof options, "padding", o->padding, dims, 0);
    ek_describe_option(options, sizeof options, "dilation", o->dilation, dims, 1);
    ek_describe_option(options, sizeof options, "groups", &o->groups, 1, 1);
    return ek_module_new(def, "%s(%lld, %lld, %s%s%s%s)", def->type, (long long)in, (long long)out, kernel_text,
                         options, o->weight_standardization ? EK_STANDARDIZED_TEXT : "",
                         o->bias ? "" : EK_NO_BIAS_TEXT);
}

static ek_module *make_conv(int dims, int64_t in, int64_t out, const int64_t kernel[2], const ek_conv_layer_opts *opts)
{
    ek_conv_layer_opts o = opts ? *opts : ek_conv_layer_opts_default();
    if (check(conv_defs[dims - 1].type, dims, in, out, kernel, &o) != EK_OK)
        return NULL;
    ek_module *module = new_module(dims, in, out, kernel, &o);
    if (!module)
        return NULL;
    conv *layer = ek_module_state(module);
    layer->in_channels = in;
    layer->dims = dims;
    layer->opts = ek_conv_opts_default();
    for (int i = 0; i < dims; i++) {
        layer->opts.stride[i] = o.stride[i];
        layer->opts.padding[i] = o.padding[i];
        layer->opts.dilation[i] = o.dilation[i];
    }
    layer->opts.groups = o.groups;
    module->takes_relu = true;
    double fan_in = (double)(in / o.groups) * (double)kernel[0] * (dims == 2 ? (double)kernel[1] : 1);
    const ek_shape shape = {dims + 2, {out, in / o.groups, kernel[0], kernel[1]}};
    return ek_module_complete(module, ek_weights_add(module, shape, fan_in, 1, o.bias, o.weight_standardization));
}

ek_module *ek_conv1d_layer(int64_t in_channels, int64_t out_channels, int64_t kernel, const ek_conv_layer_opts *opts)
{
    return make_conv(1, in_channels, out_channels, (int64_t[]){kernel, 0}, opts);
}

ek_module *ek_conv2d_layer(int64_t in_channels, int64_t out_channels, int64_t kernel, const ek_conv_layer_opts *opts)
{
    return make_conv(2, in_channels, out_channels, (int64_t[]){kernel, kernel}, opts);
}

ek_module *ek_conv2d_rect_layer(int64_t in_channels, int64_t out_channels, int64_t kernel_h, int64_t kernel_w,
                                const ek_conv_layer_opts *opts)
{
    return make_conv(2, in_channels, out_channels, (int64_t[]){kernel_h, kernel_w}, opts);
}
