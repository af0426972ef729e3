#include "models.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "worker.h"

enum { CLASSES = 10, STEPS = 20, FEATURES = 64, MOST_MODULES = 24 };
enum { STREAM_BATCH = 1000 }; /* of the first batch's x, the next one is its target's; parameter k has stream k */

/* ---- nets -------------------------------------------------------------------------------------------------------- */

typedef struct parts {
    const char *norm;
    int n;
    ek_module *at[MOST_MODULES];
} parts;

static void add(parts *p, ek_module *module)
{
    p->at[p->n++] = module; /* ek_sequential_from() refuses what failed */
}

static bool has_norm(const parts *p)
{
    return strcmp(p->norm, "none") != 0;
}

static void add_norm_relu(parts *p, int64_t channels, bool planes)
{
    if (!strcmp(p->norm, "gn"))
        add(p, ek_group_norm(8, channels, NULL));
    else if (has_norm(p))
        add(p, planes ? ek_batch_norm2d(channels, NULL) : ek_batch_norm1d(channels, NULL));
    add(p, ek_relu_layer());
}

/* A bias where no norm follows. */
static ek_module *linear(const parts *p, int64_t in, int64_t out)
{
    ek_linear_opts opts = ek_linear_opts_default();
    opts.bias = !has_norm(p);
    return ek_linear(in, out, &opts);
}

static ek_module *conv(const parts *p, int64_t in, int64_t out, int64_t kernel, int64_t stride)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.stride[0] = opts.stride[1] = stride;
    opts.padding[0] = opts.padding[1] = kernel / 2;
    opts.bias = !has_norm(p);
    return ek_conv2d_layer(in, out, kernel, &opts);
}

static ek_module *make_mlp(parts *p, int64_t width)
{
    add(p, linear(p, 784, width));
    add_norm_relu(p, width, false);
    add(p, linear(p, width, width));
    add_norm_relu(p, width, false);
    add(p, ek_linear(width, CLASSES, NULL));
    return ek_sequential_from(p->n, p->at);
}

static void add_conv_norm_relu(parts *p, int64_t in, int64_t out)
{
    add(p, conv(p, in, out, 3, 1));
    add_norm_relu(p, out, true);
}

static ek_module *make_cnn(parts *p, int64_t width)
{
    add_conv_norm_relu(p, 1, width);
    add_conv_norm_relu(p, width, width);
    add(p, ek_max_pool2d_layer(2, NULL));
    add_conv_norm_relu(p, width, 2 * width);
    add(p, ek_max_pool2d_layer(2, NULL));
    add(p, ek_flatten_layer());
    add(p, ek_linear(2 * width * 7 * 7, CLASSES, NULL));
    return ek_sequential_from(p->n, p->at);
}

/* relu(body(x) + shortcut(x)); the shortcut is x itself where the block keeps the shape. */
static ek_tensor *forward_block(ek_module *block, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *body = ek_forward(ek_module_child(block, 0), tape, x);
    ek_tensor *shortcut = ek_module_num_children(block) > 1 ? ek_forward(ek_module_child(block, 1), tape, x) : x;
    return ek_relu(tape, ek_add(tape, body, shortcut));
}

static ek_module *basic_block(const parts *p, int64_t in, int64_t out, int64_t stride)
{
    static const ek_module_def def = {.type = "basic_block", .forward = forward_block};
    ek_module *block = ek_module_new(&def, NULL);
    ek_module *body = ek_sequential(conv(p, in, out, 3, stride), ek_batch_norm2d(out, NULL), ek_relu_layer(),
                                    conv(p, out, out, 3, 1), ek_batch_norm2d(out, NULL));
    if (!block) {
        ek_module_free(body);
        return NULL;
    }
    ek_status status = ek_module_add_child(block, "body", body);
    if (status == EK_OK && stride > 1)
        status = ek_module_add_child(block, "shortcut",
                                     ek_sequential(conv(p, in, out, 1, stride), ek_batch_norm2d(out, NULL)));
    if (status == EK_OK)
        return block;
    ek_module_free(block);
    return NULL;
}

static ek_module *make_resnet(parts *p, int64_t width)
{
    add_conv_norm_relu(p, 3, width);
    for (int64_t stage = 0, in = width; stage < 3; stage++) {
        const int64_t out = width << stage;
        add(p, basic_block(p, in, out, stage ? 2 : 1));
        add(p, basic_block(p, out, out, 1));
        in = out;
    }
    add(p, ek_adaptive_avg_pool2d_layer(1, 1));
    add(p, ek_flatten_layer());
    add(p, ek_linear(4 * width, CLASSES, NULL));
    return ek_sequential_from(p->n, p->at);
}

static ek_module *make_lstm(int64_t width, bool layer_norm)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = layer_norm ? EK_RECURRENT_LAYER_NORM : EK_RECURRENT_NO_NORM;
    return ek_lstm(FEATURES, width, EK_TIME_FIRST, &opts);
}

/* ---- kinds ------------------------------------------------------------------------------------------------------- */

typedef struct family {
    const char *name, *norm, *optimizer; /* the defaults */
    int64_t width;
    ek_shape sample; /* without the batch */
} family;

static const family families[] = {
    {"mlp", "bn", "adam", 256, {1, {784}}},
    {"cnn", "bn", "sgd", 32, {3, {1, 28, 28}}},
    {"resnet", "bn", "sgd", 16, {3, {3, 32, 32}}},
    {"lstm", "none", "adam", 128, {2, {STEPS, FEATURES}}},
    {"lnlstm", "none", "adam", 128, {2, {STEPS, FEATURES}}},
};

/* `word` where that is one of two; else, and where there is none, `otherwise`. */
static const char *take(const char **word, const char *const *choices, const char *otherwise)
{
    for (; *choices; choices++)
        if (*word && !strcmp(*word, *choices)) {
            *word = strtok(NULL, "_");
            return *choices;
        }
    return otherwise;
}

/* Takes FAMILY[_NORM][_OPTIMIZER] apart; NULL: there is no such kind. */
static const family *read_kind(const char *kind, const char **norm, const char **optimizer)
{
    static const char *const norms[] = {"bn", "gn", "none", NULL}, *const optimizers[] = {"adam", "sgd", NULL};
    char text[64];
    snprintf(text, sizeof text, "%s", kind);
    const char *word = strtok(text, "_");
    for (size_t i = 0; word && i < sizeof families / sizeof *families; i++)
        if (!strcmp(word, families[i].name)) {
            word = strtok(NULL, "_");
            *norm = take(&word, norms, families[i].norm);
            *optimizer = take(&word, optimizers, families[i].optimizer);
            return word ? NULL : &families[i];
        }
    return NULL;
}

static ek_module *make_net(const family *f, const char *norm, int64_t width)
{
    parts p = {.norm = norm};
    if (!strcmp(f->name, "mlp"))
        return make_mlp(&p, width);
    if (!strcmp(f->name, "cnn"))
        return make_cnn(&p, width);
    if (!strcmp(f->name, "resnet"))
        return make_resnet(&p, width);
    return make_lstm(width, !strcmp(f->name, "lnlstm"));
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

/* Matrices are uniform in ±1/√fan_in, biases in ±0.1, gains stay 1. */
static ek_status fill_parameter(void *next, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    uint32_t *stream = next;
    if (kind != EK_PARAMETER)
        return EK_OK;
    const int64_t n = ek_tensor_numel(tensor);
    if (ek_tensor_ndim(tensor) > 1)
        bench_noise(ek_data_f32(tensor), n, *stream, 1 / sqrt((double)(n / ek_tensor_dim(tensor, 0))));
    else if (strstr(name, "bias"))
        bench_noise(ek_data_f32(tensor), n, *stream, 0.1);
    ++*stream;
    return EK_OK;
}

static ek_tensor *noise(ek_shape shape, uint32_t stream)
{
    ek_tensor *t = ek_zeros(EK_F32, shape);
    if (t)
        bench_noise(ek_data_f32(t), ek_tensor_numel(t), stream, 1);
    return t;
}

static ek_tensor *labels(int64_t batch, uint32_t stream)
{
    ek_tensor *t = ek_zeros(EK_I64, EK_SHAPE(batch));
    for (int64_t i = 0; t && i < batch; i++)
        ek_data_i64(t)[i] = bench_hash((uint32_t)i, stream) % CLASSES;
    return t;
}

/* Batch k; false when that failed. */
static bool make_batch(bench_model *model, int k, const family *f, int64_t batch, int64_t width)
{
    const bool sequence = f->sample.ndim == 2;
    const uint32_t stream = (uint32_t)(STREAM_BATCH + 2 * k);
    ek_shape shape = EK_SHAPE(STEPS, batch, FEATURES);
    if (!sequence) {
        shape = (ek_shape){.ndim = f->sample.ndim + 1, .dim = {batch}};
        memcpy(shape.dim + 1, f->sample.dim, (size_t)f->sample.ndim * sizeof *shape.dim);
    }
    model->x[k] = noise(shape, stream);
    model->target[k] = sequence ? noise(EK_SHAPE(STEPS, batch, width), stream + 1) : labels(batch, stream + 1);
    return model->x[k] && model->target[k];
}

static ek_optimizer *make_optimizer(ek_module *net, const char *name)
{
    ek_sgd_opts momentum = ek_sgd_opts_default();
    momentum.momentum = 0.9;
    return !strcmp(name, "sgd") ? ek_sgd(net, 0.01, &momentum) : ek_adam(net, 1e-3, NULL);
}

/* ---- the model --------------------------------------------------------------------------------------------------- */

bool bench_model_make(bench_model *model, const bench_case *c)
{
    const char *norm, *optimizer;
    const family *f = read_kind(c->kind, &norm, &optimizer);
    *model = (bench_model){0};
    if (!f)
        return false;
    const int64_t batch = bench_size(c, 'b', 32), width = bench_size(c, 'w', f->width);
    uint32_t stream = 0;
    const int64_t wanted = strcmp(c->variant, "mem") ? BENCH_MOST_BATCHES / batch : 1;
    model->batches = wanted > 1 ? (int)wanted : 1;
    model->net = make_net(f, norm, width);
    bool made = model->net && ek_module_visit(model->net, fill_parameter, &stream) == EK_OK;
    for (int k = 0; k < model->batches && made; k++)
        made = make_batch(model, k, f, batch, width);
    if (made) {
        model->optimizer = make_optimizer(model->net, optimizer);
        model->tape = ek_tape_new();
    }
    if (model->optimizer && model->tape)
        return true;
    bench_model_free(model);
    return false;
}

ek_status bench_model_step(bench_model *model, double *loss)
{
    ek_tensor *target = model->target[model->next];
    ek_tensor *y = ek_forward(model->net, model->tape, model->x[model->next]);
    ek_tensor *l = ek_tensor_dtype(target) == EK_I64 ? ek_cross_entropy(model->tape, y, target, NULL)
                                                     : ek_mse_loss(model->tape, y, target, EK_REDUCE_MEAN);
    model->next = (model->next + 1) % model->batches;
    ek_status status = ek_backward(model->tape, l);
    if (status == EK_OK && loss)
        *loss = ek_item(l);
    if (status == EK_OK)
        status = ek_optimizer_step(model->optimizer);
    ek_optimizer_zero_grad(model->optimizer);
    ek_tape_reset(model->tape);
    return status;
}

void bench_model_free(bench_model *model)
{
    ek_tape_free(model->tape);
    ek_optimizer_free(model->optimizer);
    ek_module_free(model->net);
    for (int k = 0; k < model->batches; k++) {
        ek_tensor_free(model->x[k]);
        ek_tensor_free(model->target[k]);
    }
    *model = (bench_model){0};
}
