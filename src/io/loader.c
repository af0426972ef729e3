/* The mini-batch loader.  The order of an epoch is a function of (seed, epoch), so where a loader stands is three
 * numbers. */
#include "dataset.h"

struct ek_loader {
    ek_tensor *x, *y; /* of the data set */
    ek_loader_opts opts;
    int64_t size, batch_size;
    int64_t num_batches;
    ek_loader_state at;
    bool ordered;   /* `order` is that of epoch at.epoch */
    int64_t *order; /* [size] */
    ek_batch full, last; /* `last` has size 0 when all batches of an epoch are full */
};

ek_loader_opts ek_loader_opts_default(void)
{
    return (ek_loader_opts){.shuffle = true, .seed = 0, .drop_last = false, .merge_last = false};
}

static ek_status make_batch(const ek_loader *loader, int64_t size, ek_batch *batch)
{
    if (size == 0)
        return EK_OK;
    batch->size = size;
    batch->x = ek_tensor_new(loader->x->dtype, ek_with_rows(loader->x->shape, size));
    batch->y = ek_tensor_new(loader->y->dtype, ek_with_rows(loader->y->shape, size));
    return batch->x && batch->y ? EK_OK : EK_ERR_MEMORY;
}

/* How an epoch is cut: full batches, then perhaps another one. */
static ek_status plan_epoch(ek_loader *loader)
{
    int64_t full = loader->size / loader->batch_size, rest = loader->size % loader->batch_size;
    if (loader->opts.drop_last)
        rest = 0;
    if (rest == 1 && loader->opts.merge_last) {
        full -= 1;
        rest = loader->batch_size + 1;
    }
    loader->num_batches = full + (rest > 0);
    ek_status status = make_batch(loader, full > 0 ? loader->batch_size : 0, &loader->full);
    return status == EK_OK ? make_batch(loader, rest, &loader->last) : status;
}

ek_loader *ek_loader_new(ek_dataset *data, int64_t batch_size, const ek_loader_opts *opts)
{
    int64_t size = ek_dataset_size(data);
    if (!data) {
        ek_fail(EK_ERR_ARGUMENT, "loader: expected a data set, got NULL");
        return NULL;
    }
    if (batch_size < 1 || batch_size > size) {
        ek_fail(EK_ERR_ARGUMENT, "loader: expected a batch size of 1 to %lld, the number of samples, got %lld",
                (long long)size, (long long)batch_size);
        return NULL;
    }
    ek_loader *loader = ek_alloc_zeroed(sizeof *loader);
    if (!loader)
        return NULL;
    loader->opts = opts ? *opts : ek_loader_opts_default();
    loader->size = size;
    loader->batch_size = batch_size;
    loader->at.seed = loader->opts.seed;
    loader->x = ek_tensor_retain(data->x);
    loader->y = ek_tensor_retain(data->y);
    loader->order = ek_alloc((size_t)size * sizeof *loader->order);
    if (!loader->order || plan_epoch(loader) != EK_OK) {
        ek_loader_free(loader);
        return NULL;
    }
    return loader;
}

void ek_loader_free(ek_loader *loader)
{
    if (!loader)
        return;
    ek_tensor *tensors[] = {loader->x, loader->y, loader->full.x, loader->full.y, loader->last.x, loader->last.y};
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        ek_tensor_free(tensors[i]);
    ek_release(loader->order);
    ek_release(loader);
}

static void order_epoch(ek_loader *loader)
{
    if (loader->opts.shuffle) {
        ek_rng keys = ek_rng_named(loader->at.seed, "loader");
        keys.counter = (uint64_t)loader->at.epoch;
        ek_rng rng = ek_rng_seed(ek_rng_u64(&keys));
        ek_rng_permutation(&rng, loader->size, loader->order);
    } else {
        for (int64_t i = 0; i < loader->size; i++)
            loader->order[i] = i;
    }
    loader->ordered = true;
}

ek_status ek_loader_next(ek_loader *loader, ek_batch *batch)
{
    if (!loader || !batch)
        return ek_fail(EK_ERR_ARGUMENT, "loader_next: expected a loader and a batch to fill, got NULL");
    ek_loader_state *at = &loader->at;
    if (at->batch == loader->num_batches) {
        at->epoch++;
        at->batch = 0;
        loader->ordered = false;
        *batch = (ek_batch){0};
        return EK_DONE;
    }
    if (!loader->ordered)
        order_epoch(loader);
    bool is_last = at->batch == loader->num_batches - 1 && loader->last.size > 0;
    const ek_batch *to = is_last ? &loader->last : &loader->full;
    const int64_t *indices = loader->order + at->batch * loader->batch_size;
    ek_gather_rows(loader->x, indices, to->size, to->x);
    ek_gather_rows(loader->y, indices, to->size, to->y);
    at->batch++;
    *batch = *to;
    return EK_OK;
}

int64_t ek_loader_num_batches(const ek_loader *loader)
{
    return loader ? loader->num_batches : 0;
}

void ek_loader_reset(ek_loader *loader)
{
    if (!loader)
        return;
    loader->at = (ek_loader_state){.seed = loader->opts.seed};
    loader->ordered = false;
}

ek_loader_state ek_loader_get_state(const ek_loader *loader)
{
    return loader ? loader->at : (ek_loader_state){0};
}

ek_status ek_loader_set_state(ek_loader *loader, ek_loader_state state)
{
    if (!loader)
        return ek_fail(EK_ERR_ARGUMENT, "loader_set_state: expected a loader, got NULL");
    if (state.epoch < 0 || state.batch < 0 || state.batch > loader->num_batches)
        return ek_fail(EK_ERR_ARGUMENT, "loader_set_state: expected an epoch of 0 or more and a batch of 0 to %lld, "
                       "got epoch %lld and batch %lld", (long long)loader->num_batches, (long long)state.epoch,
                       (long long)state.batch);
    loader->at = state;
    loader->ordered = false;
    return EK_OK;
}
