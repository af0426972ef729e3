#include "small_net.h"

#include <string.h>

/* Every net has the same modules at the same places, so that names and seeds mean the same; "none" has an empty
 * sequential where the others have their norm. */
static ek_module *norm_or_nothing(const char *norm, int64_t channels, int64_t size)
{
    if (!strcmp(norm, "none") || (!strcmp(norm, "IN") && size == 0))
        return ek_sequential_from(0, NULL);
    return make_norm(norm, channels, size, 4);
}

ek_module *small_net(const char *norm)
{
    ek_conv_layer_opts half = ek_conv_layer_opts_default();
    half.stride[0] = half.stride[1] = 2;
    half.padding[0] = half.padding[1] = 1;
    return ek_sequential(ek_conv2d_layer(1, 8, 3, &half), norm_or_nothing(norm, 8, 14), ek_relu_layer(),
                         ek_conv2d_layer(8, 16, 3, &half), norm_or_nothing(norm, 16, 7), ek_relu_layer(),
                         ek_flatten_layer(), ek_linear(784, 64, NULL), norm_or_nothing(norm, 64, 0), ek_relu_layer(),
                         ek_linear(64, 10, NULL));
}

ek_status train_small_net(ek_module *net, ek_dataset *data, int64_t batch_size, int64_t epochs, uint64_t seed)
{
    ek_loader_opts shuffled = ek_loader_opts_default();
    shuffled.seed = seed;
    shuffled.merge_last = true;
    ek_sgd_opts momentum = ek_sgd_opts_default();
    momentum.momentum = 0.9;
    ek_loader *loader = ek_loader_new(data, batch_size, &shuffled);
    ek_optimizer *optimizer = loader ? ek_sgd(net, 0.05 * (double)batch_size / 32, &momentum) : NULL;
    ek_tape *tape = optimizer ? ek_tape_new() : NULL;
    ek_status status = tape ? EK_OK : ek_last_status();
    for (int64_t epoch = 0; epoch < epochs && status == EK_OK; epoch++) {
        ek_batch batch;
        while (status == EK_OK && (status = ek_loader_next(loader, &batch)) == EK_OK) {
            ek_tensor *loss = ek_cross_entropy(tape, ek_forward(net, tape, batch.x), batch.y, NULL);
            status = ek_backward(tape, loss);
            if (status == EK_OK)
                status = ek_optimizer_step(optimizer);
            ek_optimizer_zero_grad(optimizer);
            ek_tape_reset(tape);
        }
        if (status == EK_DONE)
            status = EK_OK;
    }
    ek_tape_free(tape);
    ek_optimizer_free(optimizer);
    ek_loader_free(loader);
    return status;
}
