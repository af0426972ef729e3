/* Dropout: the op with a stream of random numbers that moves only with forwards that succeed. */
#include "module.h"

typedef struct dropout {
    double p;
    ek_rng rng;     /* keyed and set back by ek_module_init */
    uint64_t ahead; /* draws of the forward that is running, so that a second use in it draws another mask */
} dropout;

static void settle(ek_module *module, const void *data, bool succeeded)
{
    dropout *layer = ek_module_state(module);
    uint64_t draws = *(const uint64_t *)data;
    layer->ahead -= draws;
    if (succeeded)
        layer->rng.counter += draws;
}

static ek_tensor *dropout_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    dropout *layer = ek_module_state(module);
    if (!module->training)
        return x;
    ek_rng rng = layer->rng;
    rng.counter += layer->ahead;
    uint64_t before = rng.counter;
    ek_tensor *y = ek_dropout(tape, x, layer->p, &rng);
    uint64_t draws = rng.counter - before;
    if (!y || ek_after_forward(tape, module, settle, &draws, sizeof draws) != EK_OK)
        return NULL;
    if (!tape->leaves_modules_alone)
        layer->ahead += draws;
    return y;
}

static const ek_module_def dropout_def = {
    .type = "dropout", .forward = dropout_forward, .state_bytes = sizeof(dropout)};

ek_module *ek_dropout_layer(double p)
{
    if (!(p >= 0 && p < 1)) {
        ek_fail(EK_ERR_ARGUMENT, "dropout: expected a probability 0 ≤ p < 1, got %g", p);
        return NULL;
    }
    ek_module *module = ek_module_new(&dropout_def, "dropout(%g)", p);
    if (!module)
        return NULL;
    dropout *layer = ek_module_state(module);
    layer->p = p;
    module->rng = &layer->rng;
    return module;
}
