/* First values of parameters.  Every one is drawn from a stream of its own, keyed by (seed, full name), so neither the
 * order of construction nor what else is in the net matters. */
#include "module.h"

static void draw(ek_slot *slot, uint64_t seed, const char *name)
{
    ek_rng rng = ek_rng_named(seed, name);
    switch (slot->init.kind) {
    case EK_INIT_ZEROS: ek_fill(slot->tensor, 0); break;
    case EK_INIT_ONES: ek_fill(slot->tensor, 1); break;
    case EK_INIT_CONSTANT: ek_fill(slot->tensor, slot->init.scale); break;
    case EK_INIT_UNIFORM: ek_fill_uniform(slot->tensor, -slot->init.scale, slot->init.scale, &rng); break;
    case EK_INIT_NORMAL: ek_fill_normal(slot->tensor, 0, slot->init.scale, &rng); break;
    }
}

/* The parameters of m itself: those never drawn, or all with `again`, which also sets its buffers back. */
static void initialise_one(ek_module *m, uint64_t seed, bool again, char *name, size_t bytes)
{
    int64_t settled = !m->initialised;
    for (int i = 0; i < m->parameters.n; i++) {
        ek_slot *slot = &m->parameters.at[i];
        if (slot->drawn && !again)
            continue;
        ek_module_name(m, NULL, slot->name, name, bytes);
        draw(slot, seed, name);
        ek_tensor_clear_grad(slot->tensor);
        settled += !slot->drawn;
        slot->drawn = true;
    }
    for (int i = 0; again && i < m->buffers.n; i++)
        ek_fill(m->buffers.at[i].tensor, m->buffers.at[i].fill);
    if (again || !m->initialised) {
        if (m->rng) {
            ek_module_name(m, NULL, NULL, name, bytes);
            *m->rng = ek_rng_named(seed, name);
        }
        if (m->after_init)
            m->after_init(m);
    }
    m->initialised = true;
    ek_module_count_uninitialised(m, -settled);
}

static ek_status initialise(ek_module *module, uint64_t seed, bool again)
{
    size_t bytes;
    char *name = ek_module_name_buffer(module, NULL, &bytes);
    if (!name)
        return EK_ERR_MEMORY;
    for (ek_module *m = module; m; m = ek_module_next(module, m))
        if (again || m->uninitialised)
            initialise_one(m, seed, again, name, bytes);
    ek_release(name);
    return EK_OK;
}

ek_status ek_module_init(ek_module *module, uint64_t seed)
{
    if (!module)
        return ek_fail_null(EK_ERR_ARGUMENT, "module_init", "module");
    return initialise(module, seed, true);
}

ek_status ek_module_ready(ek_module *module)
{
    return module->uninitialised ? initialise(ek_module_root(module), 0, false) : EK_OK;
}
