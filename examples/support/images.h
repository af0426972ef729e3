/* What the examples on images share: data sets, norms by name, evaluation. */
#ifndef EXAMPLES_IMAGES_H
#define EXAMPLES_IMAGES_H

#include "common.h"

/* Images of 28×28 to train on and to test with, scaled to mean 0 and variance 1 of those to train on. */
typedef struct image_sets {
    ek_dataset *train, *test;
} image_sets;

/* n_train and n_test images, drawn at random from MNIST's files in `folder`, all there are when there are no more; or
 * of the embedded glyphs for NULL.  What was loaded is freed by free_images(), also after a failure. */
ek_status load_images(const char *folder, int64_t n_train, int64_t n_test, image_sets *sets);
void free_images(image_sets *sets);

/* The norm "bn", "ln", "in", "gn" (of `groups` groups) or "sn", in letters of either case, for `channels` planes of
 * size×size, or behind a fully connected layer (size 0), where there is no "in". */
ek_module *make_norm(const char *norm, int64_t channels, int64_t size, int64_t groups);

/* How a net fares on a whole data set, in evaluation mode: mean cross-entropy and how many it gets right. */
typedef struct evaluation {
    double loss;
    int64_t right;
} evaluation;
ek_status evaluate(ek_module *net, ek_dataset *data, evaluation *result);

#endif
