#include "images.h"

#include <stdlib.h>
#include <strings.h>

enum { EVALUATION_BATCH = 100 };

/* ---- data -------------------------------------------------------------------------------------------------------- */

/* Takes n samples of *data, drawn at random. */
static ek_status keep(ek_dataset **data, int64_t n, const char *stream)
{
    const int64_t size = ek_dataset_size(*data);
    if (n >= size)
        return EK_OK;
    int64_t *order = malloc((size_t)size * sizeof *order);
    if (!order)
        return ek_fail(EK_ERR_MEMORY, "out of memory");
    ek_rng rng = ek_rng_named(0, stream);
    ek_rng_permutation(&rng, size, order);
    ek_dataset *kept = ek_dataset_subset(*data, order, n);
    free(order);
    if (!kept)
        return ek_last_status();
    ek_dataset_free(*data);
    *data = kept;
    return EK_OK;
}

/* Scales both sets by the training set's mean and standard deviation. */
static ek_status standardize(image_sets *sets)
{
    double mean, std;
    char text[200];
    const ek_shape shape = ek_tensor_shape(ek_dataset_x(sets->train));
    if (shape.ndim != 4 || shape.dim[1] != 1 || shape.dim[2] != 28 || shape.dim[3] != 28)
        return ek_fail(EK_ERR_SHAPE, "expected images of 28×28, got %s", ek_shape_text(shape, text, sizeof text));
    ek_status status = ek_dataset_moments(sets->train, &mean, &std);
    if (status == EK_OK)
        status = ek_dataset_normalize(sets->train, mean, std);
    return status == EK_OK ? ek_dataset_normalize(sets->test, mean, std) : status;
}

ek_status load_images(const char *folder, int64_t n_train, int64_t n_test, image_sets *sets)
{
    *sets = (image_sets){0};
    sets->train = folder ? ek_dataset_from_mnist(folder, EK_TRAIN) : ek_dataset_glyphs(n_train, 0, EK_TRAIN);
    if (!sets->train)
        return ek_last_status();
    sets->test = folder ? ek_dataset_from_mnist(folder, EK_TEST) : ek_dataset_glyphs(n_test, 0, EK_TEST);
    ek_status status = sets->test ? keep(&sets->train, n_train, "training images") : ek_last_status();
    if (status == EK_OK)
        status = keep(&sets->test, n_test, "test images");
    return status == EK_OK ? standardize(sets) : status;
}

void free_images(image_sets *sets)
{
    ek_dataset_free(sets->train);
    ek_dataset_free(sets->test);
}

/* ---- nets -------------------------------------------------------------------------------------------------------- */

ek_module *make_norm(const char *norm, int64_t channels, int64_t size, int64_t groups)
{
    const bool flat = size == 0;
    if (!strcasecmp(norm, "bn"))
        return flat ? ek_batch_norm1d(channels, NULL) : ek_batch_norm2d(channels, NULL);
    if (!strcasecmp(norm, "ln"))
        return ek_layer_norm(flat ? EK_SHAPE(channels) : EK_SHAPE(channels, size, size), NULL);
    if (!strcasecmp(norm, "gn"))
        return ek_group_norm(groups, channels, NULL);
    if (!strcasecmp(norm, "sn"))
        return flat ? ek_switchable_norm1d(channels, NULL) : ek_switchable_norm2d(channels, NULL);
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.affine = true;
    return ek_instance_norm2d(channels, &opts);
}

ek_status evaluate(ek_module *net, ek_dataset *data, evaluation *result)
{
    ek_loader_opts in_order = ek_loader_opts_default();
    in_order.shuffle = false;
    const int64_t size = ek_dataset_size(data);
    ek_loader *loader = ek_loader_new(data, size < EVALUATION_BATCH ? size : EVALUATION_BATCH, &in_order);
    ek_tape *tape = loader ? ek_tape_new() : NULL;
    ek_status status = tape ? ek_tape_set_recording(tape, false) : ek_last_status();
    ek_batch batch;
    *result = (evaluation){0};
    ek_module_eval(net);
    while (status == EK_OK && (status = ek_loader_next(loader, &batch)) == EK_OK) {
        ek_tensor *logits = ek_forward(net, tape, batch.x), *loss = ek_cross_entropy(tape, logits, batch.y, NULL);
        if (loss) {
            result->loss += ek_item(loss) * (double)batch.size / (double)size;
            result->right += ek_count_correct(logits, batch.y);
        } else {
            status = ek_last_status();
        }
        ek_tape_reset(tape);
    }
    ek_module_train(net);
    ek_tape_free(tape);
    ek_loader_free(loader);
    return status == EK_DONE ? EK_OK : status;
}
