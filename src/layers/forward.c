/* Applying a module: what is put off until the outermost forward ends, where an error happened, who watches. */
#include "module.h"

ek_status ek_after_forward(ek_tape *tape, ek_module *module,
                           void (*finish)(ek_module *module, const void *data, bool succeeded), const void *data,
                           size_t bytes)
{
    if (!ek_tape_usable(tape, "after_forward"))
        return ek_last_status();
    ek_status status = EK_OK;
    if (!module || !finish || (bytes && !data))
        status = ek_fail(EK_ERR_ARGUMENT, "after_forward: the %s is NULL",
                         !module ? "module" : !finish ? "function" : "data");
    else if (!tape->depth)
        status = ek_fail(EK_ERR_STATE, "after_forward: %s: no forward is running on this tape; call it in a module's "
                                       "forward function", module->description);
    if (status != EK_OK) {
        ek_tape_fail(tape);
        return status;
    }
    if (tape->leaves_modules_alone)
        return EK_OK;
    ek_pending *pending = ek_tape_alloc(tape, sizeof *pending);
    void *copy = pending ? ek_tape_alloc(tape, bytes) : NULL;
    if (!copy) {
        ek_tape_fail(tape);
        return EK_ERR_MEMORY;
    }
    if (bytes)
        memcpy(copy, data, bytes);
    *pending = (ek_pending){.module = module, .finish = finish, .data = copy};
    *tape->pending_end = pending;
    tape->pending_end = &pending->next;
    return EK_OK;
}

static void finish_pending(ek_tape *tape, bool succeeded)
{
    const ek_pending *pending = tape->pending;
    tape->pending = NULL;
    tape->pending_end = &tape->pending;
    for (; pending; pending = pending->next)
        pending->finish(pending->module, pending->data, succeeded);
}

/* Adds to the tape's error which layer of which net it was, once; the whole net needs no such place. */
static void say_where(ek_tape *tape, const ek_module *module)
{
    if (!tape->error_placed && module->parent) {
        char name[EK_NAME_BYTES];
        ek_module_name(module, NULL, NULL, name, sizeof name);
        size_t used = strlen(tape->error);
        snprintf(tape->error + used, sizeof tape->error - used, " [in layer \"%s\": %s]", name, module->description);
        tape->error_placed = true;
    }
    ek_fail(tape->status, "%s", tape->error);
}

/* Runs the function and checks what comes back. */
static ek_tensor *call(ek_module *module, ek_tape *tape, ek_tensor *x, ek_forward_fn forward, void *user)
{
    uint64_t errors = ek_error_count();
    ek_tensor *y = forward(module, tape, x, user);
    if (tape->status != EK_OK)
        return NULL;
    if (!y) {
        if (ek_error_count() == errors)
            ek_fail(EK_ERR_ARGUMENT, "%s: its forward function returned NULL without an error; return ek_fail()'s "
                                     "reason with it", module->description);
        return NULL;
    }
    if (y->tape && y->tape != tape) {
        ek_fail(EK_ERR_STATE, "%s: its forward function returned a tensor of another tape; use the tape it was given",
                module->description);
        return NULL;
    }
    return ek_module_show(module, tape, x, y) == EK_OK ? y : NULL;
}

static ek_status check(ek_module *module, const ek_tape *tape, const ek_tensor *x)
{
    if (!module)
        return ek_fail_null(EK_ERR_ARGUMENT, "forward", "module");
    if (!x)
        return ek_fail_null(EK_ERR_ARGUMENT, module->description, "input");
    if (x->tape && x->tape != tape)
        return ek_fail(EK_ERR_STATE, "forward: %s: the input belongs to another tape; ek_tensor_clone() it to carry it "
                                     "over", module->description);
    if (tape->depth >= EK_MAX_FORWARD_DEPTH)
        return ek_fail(EK_ERR_STATE, "forward: %s: modules call each other more than %d deep; does one call itself?",
                       module->description, EK_MAX_FORWARD_DEPTH);
    return ek_module_ready(module);
}

static ek_tensor *own_forward(ek_module *module, ek_tape *tape, ek_tensor *x, void *user)
{
    (void)user;
    return module->def.forward(module, tape, x);
}

ek_tensor *ek_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return ek_forward_by(module, tape, x, own_forward, NULL);
}

ek_tensor *ek_forward_by(ek_module *module, ek_tape *tape, ek_tensor *x, ek_forward_fn forward, void *user)
{
    if (!ek_tape_usable(tape, "forward"))
        return NULL;
    if (check(module, tape, x) != EK_OK)
        return ek_tape_fail(tape);
    int depth = tape->depth++;
    ek_tensor *y = call(module, tape, x, forward, user);
    tape->depth = depth;
    if (!y) {
        ek_tape_fail(tape);
        say_where(tape, module);
    }
    if (!depth)
        finish_pending(tape, y != NULL);
    return y;
}
