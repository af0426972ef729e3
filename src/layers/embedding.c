/* Rows of a table by index. */
#include "module.h"

typedef struct embedding {
    ek_tensor *weight; /* [num_embeddings, embedding_dim] */
    int64_t padding_idx;
} embedding;

static ek_tensor *embedding_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    const embedding *layer = ek_module_state(module);
    if (x->dtype != EK_I64) {
        ek_fail(EK_ERR_DTYPE, "%s: expected int64 indices, got %s %s: ek_tensor_cast() converts", module->description,
                ek_dtype_name(x->dtype), EK_TEXT(x->shape));
        return NULL;
    }
    return ek_embedding(tape, layer->weight, x, layer->padding_idx);
}

static void clear_padding(ek_module *module)
{
    const embedding *layer = ek_module_state(module);
    if (layer->padding_idx == EK_NO_PADDING_IDX)
        return;
    size_t row = (size_t)layer->weight->shape.dim[1] * ek_dtype_size(layer->weight->dtype);
    memset((char *)layer->weight->data + (size_t)layer->padding_idx * row, 0, row);
}

static const ek_module_def embedding_def = {
    .type = "embedding", .forward = embedding_forward, .state_bytes = sizeof(embedding)};

ek_embedding_layer_opts ek_embedding_layer_opts_default(void)
{
    return (ek_embedding_layer_opts){.padding_idx = EK_NO_PADDING_IDX};
}

ek_module *ek_embedding_layer(int64_t num_embeddings, int64_t embedding_dim, const ek_embedding_layer_opts *opts)
{
    int64_t padding_idx = opts ? opts->padding_idx : EK_NO_PADDING_IDX;
    if (num_embeddings < 1 || embedding_dim < 1) {
        ek_fail(EK_ERR_ARGUMENT, "embedding: expected num_embeddings and embedding_dim of 1 or more, got %lld and %lld",
                (long long)num_embeddings, (long long)embedding_dim);
        return NULL;
    }
    if (padding_idx != EK_NO_PADDING_IDX && (padding_idx < 0 || padding_idx >= num_embeddings)) {
        ek_fail(EK_ERR_ARGUMENT, "embedding: expected a padding_idx of 0 … %lld or EK_NO_PADDING_IDX, got %lld",
                (long long)num_embeddings - 1, (long long)padding_idx);
        return NULL;
    }
    char padding[40] = "";
    if (padding_idx != EK_NO_PADDING_IDX)
        snprintf(padding, sizeof padding, ", padding_idx %lld", (long long)padding_idx);
    ek_module *module = ek_module_new(&embedding_def, "embedding(%lld, %lld%s)", (long long)num_embeddings,
                                      (long long)embedding_dim, padding);
    if (!module)
        return NULL;
    embedding *layer = ek_module_state(module);
    layer->padding_idx = padding_idx;
    layer->weight = ek_module_add_parameter(module, "weight", EK_SHAPE(num_embeddings, embedding_dim),
                                            (ek_init){EK_INIT_NORMAL, 1}, true);
    module->after_init = clear_padding;
    return ek_module_complete(module, layer->weight);
}
