/* Epochs.  The order of an epoch is a function of (seed, epoch), so where a loader stands is three numbers. */
#include "epochs.h"

#include <string.h>

/* How an epoch is cut: full batches, then perhaps another one. */
static void plan(ek_epochs *e)
{
    int64_t full = e->size / e->batch_size, rest = e->size % e->batch_size;
    if (e->opts.drop_last)
        rest = 0;
    if (rest == 1 && e->opts.merge_last) {
        full -= 1;
        rest = e->batch_size + 1;
    }
    e->full_batches = full;
    e->last_size = rest;
    e->num_batches = full + (rest > 0);
}

ek_status ek_epochs_begin(ek_epochs *e, const char *who, int64_t size, int64_t batch_size, const ek_loader_opts *opts)
{
    *e = (ek_epochs){.who = who, .opts = *opts, .size = size, .batch_size = batch_size, .at.seed = opts->seed};
    if (batch_size < 1 || batch_size > size)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a batch size of 1 to %lld, the number of samples, got %lld", who,
                       (long long)size, (long long)batch_size);
    plan(e);
    e->order = ek_alloc((size_t)size * sizeof *e->order);
    return e->order ? EK_OK : EK_ERR_MEMORY;
}

ek_status ek_epochs_bucket(ek_epochs *e, int64_t bucket, const int64_t *lengths)
{
    e->bucket = bucket < e->full_batches ? bucket : e->full_batches;
    e->lengths = lengths;
    if (e->bucket == 0)
        return EK_OK;
    e->scratch = ek_alloc((size_t)e->size * sizeof *e->scratch);
    e->batches = e->scratch ? ek_alloc((size_t)e->full_batches * sizeof *e->batches) : NULL;
    return e->batches ? EK_OK : EK_ERR_MEMORY;
}

void ek_epochs_end(ek_epochs *e)
{
    ek_release(e->order);
    ek_release(e->scratch);
    ek_release(e->batches);
}

/* ---- orders ------------------------------------------------------------------------------------------------------ */

/* Merges order[begin … middle−1] and order[middle … end−1], both ascending by length, into `to`; equals keep their
 * order. */
static void merge(const int64_t *order, int64_t begin, int64_t middle, int64_t end, const int64_t *lengths, int64_t *to)
{
    int64_t a = begin, b = middle;
    for (int64_t i = begin; i < end; i++)
        to[i] = a < middle && (b == end || lengths[order[a]] <= lengths[order[b]]) ? order[a++] : order[b++];
}

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Sorts n samples by length; bottom up, in memory that is there. */
static void sort_by_length(int64_t *order, int64_t n, const int64_t *lengths, int64_t *scratch)
{
    for (int64_t run = 1; run < n; run *= 2) {
        for (int64_t begin = 0; begin < n; begin += 2 * run)
            merge(order, begin, least(begin + run, n), least(begin + 2 * run, n), lengths, scratch);
        memcpy(order, scratch, (size_t)n * sizeof *order);
    }
}

/* Windows of `bucket` full batches are sorted, then all full batches change places.  The last batch, if it is not a
 * full one, stays what it was, so that which samples it has, and drop_last leaves out, has nothing to do with their
 * length. */
static void bucket_epoch(ek_epochs *e, ek_rng *rng)
{
    const int64_t n = e->full_batches * e->batch_size, window = e->bucket * e->batch_size;
    for (int64_t begin = 0; begin < n; begin += window)
        sort_by_length(e->order + begin, least(window, n - begin), e->lengths, e->scratch);
    if (!e->opts.shuffle)
        return;
    ek_rng_permutation(rng, e->full_batches, e->batches);
    for (int64_t b = 0; b < e->full_batches; b++)
        memcpy(e->scratch + b * e->batch_size, e->order + e->batches[b] * e->batch_size,
               (size_t)e->batch_size * sizeof *e->order);
    memcpy(e->order, e->scratch, (size_t)n * sizeof *e->order);
}

static void order_epoch(ek_epochs *e)
{
    ek_rng rng = ek_rng_child(ek_rng_named(e->at.seed, "loader"), e->at.epoch);
    if (e->opts.shuffle) {
        ek_rng_permutation(&rng, e->size, e->order);
    } else {
        for (int64_t i = 0; i < e->size; i++)
            e->order[i] = i;
    }
    if (e->bucket > 0)
        bucket_epoch(e, &rng);
    e->ordered = true;
}

/* ---- walking ----------------------------------------------------------------------------------------------------- */

ek_status ek_epochs_next(ek_epochs *e, const int64_t **indices, int64_t *n)
{
    ek_loader_state *at = &e->at;
    if (at->batch == e->num_batches) {
        at->epoch++;
        at->batch = 0;
        e->ordered = false;
        return EK_DONE;
    }
    if (!e->ordered)
        order_epoch(e);
    *indices = e->order + at->batch * e->batch_size;
    *n = at->batch < e->full_batches ? e->batch_size : e->last_size;
    at->batch++;
    return EK_OK;
}

int64_t ek_epochs_largest(const ek_epochs *e)
{
    return e->full_batches > 0 && e->batch_size > e->last_size ? e->batch_size : e->last_size;
}

void ek_epochs_reset(ek_epochs *e)
{
    e->at = (ek_loader_state){.seed = e->opts.seed};
    e->ordered = false;
}

ek_status ek_epochs_set_state(ek_epochs *e, ek_loader_state state)
{
    if (state.epoch < 0 || state.batch < 0 || state.batch > e->num_batches)
        return ek_fail(EK_ERR_ARGUMENT, "%s_set_state: expected an epoch of 0 or more and a batch of 0 to %lld, "
                       "got epoch %lld and batch %lld", e->who, (long long)e->num_batches, (long long)state.epoch,
                       (long long)state.batch);
    e->at = state;
    e->ordered = false;
    return EK_OK;
}
