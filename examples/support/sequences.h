/* What the examples on sequences share: texts with labels, padding to a wanted share, training steps. */
#ifndef EXAMPLES_SEQUENCES_H
#define EXAMPLES_SEQUENCES_H

#include "common.h"

/* Training and test texts of the same classes, and the characters of the training texts. */
typedef struct texts {
    ek_text *train, *test;
    ek_vocabulary *vocabulary;
    double most_frequent; /* share of the test texts that are of the class most frequent among them, in % */
} texts;

/* From a folder with one file per class, CLASS.txt, of which a fifth is held out, or the embedded numerals for NULL:
 * about n_train and n_test of them, all there are when there are fewer.  What was loaded is freed by free_texts(), also
 * after a failure. */
ek_status load_texts(const char *folder, int64_t n_train, int64_t n_test, uint64_t seed, texts *t);
void free_texts(texts *t);
/* Prints how many there are of what. */
void print_texts(const texts *t, const char *folder);

/* A loader of batches of `size` texts, or all of fewer; in a new order each epoch with `shuffle`.  bucket: of how many
 * batches the texts are sorted by length among each other, 0: none. */
ek_sequence_loader *open_texts(const ek_text *text, const ek_vocabulary *vocabulary, int64_t size, int64_t bucket,
                               bool shuffle, uint64_t seed);

/* The symbols and lengths of a batch, padded so that (as nearly as whole steps allow) `share` of all steps are padding,
 * but at least to its longest sequence.  The caller's; NULL on failure. */
ek_tensor *pad_to_share(const ek_batch *batch, double share);

/* One step of training on the cross-entropy of net(x) against y, which goes to *loss.  Resets the tape. */
ek_status training_step(ek_module *net, ek_optimizer *optimizer, ek_tape *tape, ek_tensor *x, ek_tensor *y,
                        double *loss);
/* How many of a batch are classified right; −1 on failure.  Resets the tape. */
int64_t count_right(ek_module *net, ek_tape *tape, ek_tensor *x, ek_tensor *y);

#endif
