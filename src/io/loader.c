/* The mini-batch loader. */
#include "dataset.h"
#include "epochs.h"

struct ek_loader {
    ek_tensor *x, *y; /* of the data set */
    ek_epochs epochs;
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

static ek_status make_batches(ek_loader *loader)
{
    const ek_epochs *epochs = &loader->epochs;
    ek_status status = make_batch(loader, epochs->full_batches > 0 ? epochs->batch_size : 0, &loader->full);
    return status == EK_OK ? make_batch(loader, epochs->last_size, &loader->last) : status;
}

ek_loader *ek_loader_new(ek_dataset *data, int64_t batch_size, const ek_loader_opts *opts)
{
    if (!data) {
        ek_fail(EK_ERR_ARGUMENT, "loader: expected a data set, got NULL");
        return NULL;
    }
    ek_loader *loader = ek_alloc_zeroed(sizeof *loader);
    if (!loader)
        return NULL;
    const ek_loader_opts chosen = opts ? *opts : ek_loader_opts_default();
    loader->x = ek_tensor_retain(data->x);
    loader->y = ek_tensor_retain(data->y);
    if (ek_epochs_begin(&loader->epochs, "loader", ek_dataset_size(data), batch_size, &chosen) != EK_OK ||
        make_batches(loader) != EK_OK) {
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
    ek_epochs_end(&loader->epochs);
    ek_release(loader);
}

ek_status ek_loader_next(ek_loader *loader, ek_batch *batch)
{
    if (!loader || !batch)
        return ek_fail(EK_ERR_ARGUMENT, "loader_next: expected a loader and a batch to fill, got NULL");
    const int64_t *indices;
    int64_t size;
    *batch = (ek_batch){0};
    ek_status status = ek_epochs_next(&loader->epochs, &indices, &size);
    if (status != EK_OK)
        return status;
    *batch = size == loader->last.size ? loader->last : loader->full;
    ek_gather_rows(loader->x, indices, size, batch->x);
    ek_gather_rows(loader->y, indices, size, batch->y);
    batch->indices = indices;
    return EK_OK;
}

int64_t ek_loader_num_batches(const ek_loader *loader)
{
    return loader ? loader->epochs.num_batches : 0;
}

void ek_loader_reset(ek_loader *loader)
{
    if (loader)
        ek_epochs_reset(&loader->epochs);
}

ek_loader_state ek_loader_get_state(const ek_loader *loader)
{
    return loader ? loader->epochs.at : (ek_loader_state){0};
}

ek_status ek_loader_set_state(ek_loader *loader, ek_loader_state state)
{
    if (!loader)
        return ek_fail(EK_ERR_ARGUMENT, "loader_set_state: expected a loader, got NULL");
    return ek_epochs_set_state(&loader->epochs, state);
}
