/* Dropout: the op with a stream of random numbers that moves only with forwards that succeed. */
#include "module.h"

/* What a forward drew, and of which stream. */
typedef struct draws {
    ek_dropout_stream *stream;
    uint64_t n;
} draws;

static void settle(ek_module *module, const void *data, bool succeeded)
{
    (void)module; /* whose state the stream is part of */
    const draws *drawn = data;
    drawn->stream->ahead -= drawn->n;
    if (succeeded)
        drawn->stream->rng.counter += drawn->n;
}

ek_tensor *ek_dropout_draw(ek_module *module, ek_dropout_stream *stream, ek_tape *tape, ek_tensor *x)
{
    ek_rng rng = stream->rng;
    rng.counter += stream->ahead;
    uint64_t before = rng.counter;
    ek_tensor *y = ek_dropout(tape, x, stream->p, &rng);
    const draws drawn = {stream, rng.counter - before};
    if (!y || ek_after_forward(tape, module, settle, &drawn, sizeof drawn) != EK_OK)
        return NULL;
    if (!tape->leaves_modules_alone)
        stream->ahead += drawn.n;
    return y;
}

static ek_tensor *dropout_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return module->training ? ek_dropout_draw(module, ek_module_state(module), tape, x) : x;
}

static const ek_module_def dropout_def = {
    .type = "dropout", .forward = dropout_forward, .state_bytes = sizeof(ek_dropout_stream)};

ek_module *ek_dropout_layer(double p)
{
    if (!(p >= 0 && p < 1)) {
        ek_fail(EK_ERR_ARGUMENT, "dropout: expected a probability 0 ≤ p < 1, got %g", p);
        return NULL;
    }
    ek_module *module = ek_module_new(&dropout_def, "dropout(%g)", p);
    if (!module)
        return NULL;
    ek_dropout_stream *stream = ek_module_state(module);
    stream->p = p;
    module->rng = &stream->rng;
    return module;
}
