/* Observers: a look at outputs and gradients from outside. */
#include "module.h"

/* Lives on the tape, as long as the tensor whose gradient it waits for. */
typedef struct gradient_hook {
    ek_hook hook;
    const ek_module *root, *module;
    const char *name;
} gradient_hook;

/* The observer is asked for again, so that one taken away after the forward is not called. */
static void show_gradient(const ek_hook *hook, const ek_tensor *gradient)
{
    const gradient_hook *to = (const gradient_hook *)hook;
    if (to->root->observer)
        to->root->observer(to->root->observer_user, to->name, to->module, EK_EVENT_GRADIENT, gradient);
}

static ek_status show_to(const ek_module *root, const ek_module *module, ek_tape *tape, ek_tensor *y)
{
    size_t bytes = ek_module_name(module, root, NULL, NULL, 0) + 1;
    char *name = ek_tape_alloc(tape, bytes);
    gradient_hook *to = name && y->record ? ek_tape_alloc(tape, sizeof *to) : NULL;
    if (!name || (y->record && !to))
        return EK_ERR_MEMORY;
    ek_module_name(module, root, NULL, name, bytes);
    if (to) {
        *to = (gradient_hook){.hook.call = show_gradient, .root = root, .module = module, .name = name};
        ek_tape_hook(y, &to->hook);
    }
    root->observer(root->observer_user, name, module, EK_EVENT_OUTPUT, y);
    return EK_OK;
}

bool ek_module_is_watched(const ek_module *module, const ek_tape *tape)
{
    bool watched = tape->watch;
    for (const ek_module *root = module; !watched && root; root = root->parent)
        watched = root->observer;
    return watched;
}

ek_status ek_module_show(ek_module *module, ek_tape *tape, const ek_tensor *x, ek_tensor *y)
{
    if (tape->watch) {
        tape->watch->output(tape->watch, module, x, y);
        return EK_OK;
    }
    ek_status status = EK_OK;
    for (const ek_module *root = module; status == EK_OK && root; root = root->parent)
        if (root->observer)
            status = show_to(root, module, tape, y);
    return status;
}

ek_status ek_module_observe(ek_module *module, ek_observer observer, void *user)
{
    if (!module)
        return ek_fail(EK_ERR_ARGUMENT, "module_observe: the module is NULL");
    module->observer = observer;
    module->observer_user = user;
    return EK_OK;
}
