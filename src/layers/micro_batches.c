/* Running statistics over micro-batches: gathered by forwards, committed by the caller once per optimizer step. */
#include "norm.h"

/* The first module from m on, in the tree of `root`, that has running statistics (`gathering`: and gathers). */
static ek_module *next_norm(const ek_module *root, ek_module *m, bool gathering)
{
    while (m && (!m->num_pairs || (gathering && !m->gathered)))
        m = ek_module_next(root, m);
    return m;
}

static ek_module *first_norm(const char *who, ek_module *root, bool gathering)
{
    if (!root) {
        ek_fail_null(EK_ERR_ARGUMENT, who, "module");
        return NULL;
    }
    ek_module *m = next_norm(root, root, gathering);
    if (!m && !next_norm(root, root, false))
        ek_fail(EK_ERR_ARGUMENT, "%s: no norm with running statistics at or below %s", who, root->description);
    else if (!m)
        ek_fail(EK_ERR_STATE, "%s: no norm at or below %s pools its statistics: call ek_module_begin_pooling() before "
                              "the first micro-batch", who, root->description);
    return m;
}

void ek_running_forget_gathered(ek_module *module)
{
    if (module->gathered)
        memset(module->gathered, 0, (size_t)module->num_pairs * sizeof *module->gathered);
}

ek_status ek_module_begin_pooling(ek_module *module)
{
    ek_module *first = first_norm("begin_pooling", module, false), *m = first;
    if (!first)
        return ek_last_status();
    size_t norms = 0;
    for (; m; m = next_norm(module, ek_module_next(module, m), false))
        norms++;
    /* All memory before anything begins. */
    ek_pooled **room = ek_alloc_zeroed(norms * sizeof *room);
    bool enough = room != NULL;
    size_t i = 0;
    for (m = first; enough && m; m = next_norm(module, ek_module_next(module, m), false), i++)
        enough = m->gathered || (room[i] = ek_alloc((size_t)m->num_pairs * sizeof **room));
    i = 0;
    for (m = first; room && m; m = next_norm(module, ek_module_next(module, m), false), i++) {
        if (enough && !m->gathered)
            m->gathered = room[i];
        else
            ek_release(room[i]);
        if (enough)
            ek_running_forget_gathered(m);
    }
    ek_release(room);
    return enough ? EK_OK : EK_ERR_MEMORY;
}

/* The buffers can hold what was gathered; else it is counted as a batch that was refused. */
static bool fits(ek_module *module)
{
    for (int64_t i = 0; i < module->num_pairs; i++) {
        const ek_pooled *pooled = &module->gathered[i];
        const ek_running_pair pair = module->running_pair(module, i);
        if (pooled->freedom > 0 && !(ek_running_fits(pair.mean, pooled->mean) &&
                                     ek_running_fits(pair.var, ek_pooled_variance(pooled)))) {
            const bool by_step = pair.num_batches_tracked->shape.ndim > 0;
            ek_running_warn_refused(module, by_step ? "step" : "channel", by_step ? pair.tracked_at : pair.at,
                                    ++*module->non_finite_batches);
            return false;
        }
    }
    return true;
}

static void move(const ek_module *module)
{
    for (int64_t i = 0; i < module->num_pairs; i++) {
        ek_pooled *pooled = &module->gathered[i];
        const ek_running_pair pair = module->running_pair(module, i);
        if (!(pooled->freedom > 0))
            continue;
        pooled->batches = ((const int64_t *)pair.num_batches_tracked->data)[pair.tracked_at] + 1;
        const double fraction = ek_running_fraction(*module->momentum, pooled->batches);
        ek_running_move(pair.mean, pair.at, fraction, pooled->mean);
        ek_running_move(pair.var, pair.at, fraction, ek_pooled_variance(pooled));
    }
    for (int64_t i = 0; i < module->num_pairs; i++) { /* only now: several pairs share a counter */
        const ek_running_pair pair = module->running_pair(module, i);
        if (module->gathered[i].freedom > 0)
            ((int64_t *)pair.num_batches_tracked->data)[pair.tracked_at] = module->gathered[i].batches;
    }
}

ek_status ek_module_commit_statistics(ek_module *module)
{
    ek_module *m = first_norm("commit_statistics", module, true);
    if (!m)
        return ek_last_status();
    for (; m; m = next_norm(module, ek_module_next(module, m), true)) {
        if (fits(m))
            move(m);
        ek_running_forget_gathered(m);
    }
    return EK_OK;
}

ek_status ek_module_end_pooling(ek_module *module)
{
    ek_module *m = first_norm("end_pooling", module, true);
    if (!m)
        return ek_last_status();
    for (; m; m = next_norm(module, ek_module_next(module, m), true)) {
        ek_release(m->gathered);
        m->gathered = NULL;
    }
    return EK_OK;
}
