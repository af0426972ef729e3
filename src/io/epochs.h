/* What all loaders share: how epochs are cut into batches, in which order samples come, where a loader stands.  Not
 * installed. */
#ifndef EK_EPOCHS_H
#define EK_EPOCHS_H

#include "core.h"

#include <evenkeel/data.h>

typedef struct ek_epochs {
    const char *who; /* the loader's name, for messages */
    ek_loader_opts opts;
    int64_t size, batch_size;
    int64_t full_batches, num_batches;
    int64_t last_size; /* of an epoch's last batch when that is not a full one, else 0 */
    ek_loader_state at;
    bool ordered;   /* `order` is that of epoch at.epoch */
    int64_t *order; /* [size] */
    /* For bucketing: */
    int64_t bucket;         /* how many batches are sorted together; 0: none */
    const int64_t *lengths; /* [size], the loader's */
    int64_t *scratch;       /* [size] */
    int64_t *batches;       /* [full_batches] */
} ek_epochs;

/* Batches of `batch_size` out of `size` samples.  Clean up with ek_epochs_end() after a failure too. */
ek_status ek_epochs_begin(ek_epochs *epochs, const char *who, int64_t size, int64_t batch_size,
                          const ek_loader_opts *opts);
/* From now on batches hold samples of similar length; see ek_sequence_loader_opts.  `lengths` is kept. */
ek_status ek_epochs_bucket(ek_epochs *epochs, int64_t bucket, const int64_t *lengths);
void ek_epochs_end(ek_epochs *epochs);

/* The samples of the next batch, good until the next call; EK_DONE at the end of an epoch. */
ek_status ek_epochs_next(ek_epochs *epochs, const int64_t **indices, int64_t *n);
/* The size of the largest batch. */
int64_t ek_epochs_largest(const ek_epochs *epochs);
void ek_epochs_reset(ek_epochs *epochs);
ek_status ek_epochs_set_state(ek_epochs *epochs, ek_loader_state state);

#endif
