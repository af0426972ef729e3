/* Running statistics anew, exact over data ("precise BN": Wu and Johnson 2021, arXiv:2105.07576, section 3). */
#include "norm.h"

typedef struct recalibration {
    ek_module *net;
    bool *was_training; /* [modules], in the order of ek_module_next */
    ek_pooled *pooled;  /* those of all layers one after the other */
} recalibration;

static bool takes_part(const ek_module *module)
{
    return module->num_pairs && *module->statistics != EK_STATS_FROZEN;
}

/* Everything a recalibration needs; changes nothing. */
static ek_status prepare(recalibration *r)
{
    size_t modules = 0, pairs = 0;
    for (const ek_module *m = r->net; m; m = ek_module_next(r->net, m), modules++) {
        if (m->pooled)
            return ek_fail(EK_ERR_STATE, "batch_norm_recalibrate: a recalibration of this net is running already");
        pairs += takes_part(m) ? (size_t)m->num_pairs : 0;
    }
    if (!pairs)
        return ek_fail(EK_ERR_ARGUMENT, "batch_norm_recalibrate: no norm with running statistics that may move "
                                        "(EK_STATS_FROZEN) at or below %s", r->net->description);
    r->was_training = ek_alloc(modules * sizeof *r->was_training);
    r->pooled = r->was_training ? ek_alloc_zeroed(pairs * sizeof *r->pooled) : NULL;
    return r->pooled ? EK_OK : EK_ERR_MEMORY;
}

static void begin(const recalibration *r)
{
    bool *was_training = r->was_training;
    ek_pooled *pooled = r->pooled;
    for (ek_module *m = r->net; m; m = ek_module_next(r->net, m)) {
        *was_training++ = m->training;
        m->training = false;
        if (takes_part(m)) {
            m->pooled = pooled;
            pooled += m->num_pairs;
        }
    }
}

static void end(const recalibration *r)
{
    const bool *was_training = r->was_training;
    for (ek_module *m = r->net; m; m = ek_module_next(r->net, m)) {
        m->training = *was_training++;
        m->pooled = NULL;
    }
}

static ek_status refuse(const ek_module *net, const ek_module *module, const char *what)
{
    char name[EK_NAME_BYTES];
    ek_module_name(module, net, NULL, name, sizeof name);
    return ek_fail(EK_ERR_ARGUMENT, "batch_norm_recalibrate: %s%s%s%s: %s; nothing was changed", module->description,
                   *name ? " in layer \"" : "", name, *name ? "\"" : "", what);
}

/* The statistics so far can be put where they belong.  Those of a pair that no batch has reached are not looked at. */
static ek_status check_pools(const ek_module *net, int64_t batch)
{
    for (const ek_module *m = net; m; m = ek_module_next(net, m))
        for (int64_t i = 0; m->pooled && i < m->num_pairs; i++) {
            const ek_pooled *pooled = &m->pooled[i];
            const ek_running_pair pair = m->running_pair(m, i);
            const bool has_variance = pooled->freedom > 0;
            if (pooled->batches && !(ek_running_fits(pair.mean, pooled->mean) &&
                                     (!has_variance || ek_running_fits(pair.var, ek_pooled_variance(pooled))))) {
                char what[120];
                snprintf(what, sizeof what, "with batch %lld the statistics are not finite", (long long)batch);
                return refuse(net, m, what);
            }
        }
    return EK_OK;
}

/* Runs up to n batches. */
static ek_status run(ek_module *net, ek_tape *tape, ek_tensor *(*next_batch)(void *user), void *user, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const uint64_t errors = ek_error_count();
        ek_tensor *x = next_batch(user);
        if (!x && ek_error_count() != errors)
            return ek_cause_of_null();
        if (!x)
            return i ? EK_OK : ek_fail(EK_ERR_ARGUMENT, "batch_norm_recalibrate: next_batch gave no batch at all");
        if (!ek_forward(net, tape, x))
            return ek_fail(ek_tape_status(tape), "batch_norm_recalibrate: batch %lld: %s", (long long)i,
                           ek_tape_error(tape));
        ek_tape_reset(tape);
        ek_status status = check_pools(net, i);
        if (status != EK_OK)
            return status;
    }
    return EK_OK;
}

/* There are enough values for every variance: by their lengths alone batches can have brought one. */
static ek_status check_counts(const ek_module *net)
{
    for (const ek_module *m = net; m; m = ek_module_next(net, m))
        for (int64_t i = 0; m->pooled && i < m->num_pairs; i++)
            if (m->pooled[i].batches && !(m->pooled[i].freedom > 0))
                return refuse(net, m, "all batches together have one value per channel, and no variance");
    return EK_OK;
}

/* Cannot fail. */
static void commit(const ek_module *net)
{
    for (const ek_module *m = net; m; m = ek_module_next(net, m))
        for (int64_t i = 0; m->pooled && i < m->num_pairs; i++) {
            if (!m->pooled[i].batches)
                continue;
            const ek_running_pair pair = m->running_pair(m, i);
            ek_running_set(pair.mean, pair.at, m->pooled[i].mean);
            ek_running_set(pair.var, pair.at, ek_pooled_variance(&m->pooled[i]));
            ((int64_t *)pair.num_batches_tracked->data)[pair.tracked_at] = m->pooled[i].batches;
        }
}

ek_status ek_batch_norm_recalibrate(ek_module *net, ek_tensor *(*next_batch)(void *user), void *user, int64_t n)
{
    if (!net || !next_batch)
        return ek_fail_null(EK_ERR_ARGUMENT, "batch_norm_recalibrate", net ? "function" : "module");
    if (n < 1)
        return ek_fail(EK_ERR_ARGUMENT, "batch_norm_recalibrate: expected 1 batch or more, got %lld", (long long)n);
    recalibration r = {.net = net};
    ek_tape *tape = NULL;
    ek_status status = ek_module_ready(net);
    if (status == EK_OK)
        status = prepare(&r);
    if (status == EK_OK)
        status = (tape = ek_tape_new()) ? ek_tape_set_recording(tape, false) : EK_ERR_MEMORY;
    if (status == EK_OK) {
        begin(&r);
        status = run(net, tape, next_batch, user, n);
        if (status == EK_OK)
            status = check_counts(net);
        if (status == EK_OK)
            commit(net);
        end(&r);
    }
    ek_tape_free(tape);
    ek_release(r.was_training);
    ek_release(r.pooled);
    return status;
}
