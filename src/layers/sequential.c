/* Modules one after the other. */
#include "module.h"

/* Child i can end in a ReLU and the next one is one, and nobody wants to see what stands between them: the child does
 * both in one pass over memory. */
static bool can_take_relu(const ek_module *module, const ek_tape *tape, int i)
{
    ek_module *const *child = module->children + i;
    return i + 1 < module->num_children && child[0]->takes_relu && ek_module_is_relu(child[1]) &&
           !ek_module_is_watched(child[0], tape) && !ek_module_is_watched(child[1], tape);
}

bool ek_module_takes_relu(const ek_module *module, ek_tape *tape)
{
    const bool takes = tape->relu_offer == module;
    if (takes)
        tape->relu_offer = NULL;
    return takes;
}

static ek_tensor *sequential_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    for (int i = 0; x && i < module->num_children; i++) {
        const bool offers = can_take_relu(module, tape, i);
        tape->relu_offer = offers ? module->children[i] : NULL;
        x = ek_forward(module->children[i], tape, x);
        i += offers && !tape->relu_offer; /* both are done */
        tape->relu_offer = NULL;
    }
    return x;
}

static const ek_module_def sequential_def = {.type = "sequential", .forward = sequential_forward};

bool ek_module_is_sequential(const ek_module *module)
{
    return module->def.forward == sequential_forward;
}

/* The arguments as a whole: a NULL is a constructor that failed, and says why. */
static ek_status check_modules(int n, ek_module *const *modules)
{
    if (n < 0 || (n && !modules))
        return ek_fail(EK_ERR_ARGUMENT, "sequential: expected a list of modules, got %s of length %d",
                       modules ? "one" : "NULL", n);
    for (int i = 0; i < n; i++) {
        if (!modules[i]) {
            char which[48];
            snprintf(which, sizeof which, "module at index %d of %d", i, n);
            return ek_fail_null(ek_cause_of_null(), "sequential", which);
        }
        for (int j = 0; j < i; j++)
            if (modules[j] == modules[i])
                return ek_fail(EK_ERR_ARGUMENT, "sequential: modules %d and %d are the same %s; make one for each", j,
                               i, modules[i]->description);
    }
    return EK_OK;
}

ek_module *ek_sequential_from(int n, ek_module *const *modules)
{
    ek_module *module = check_modules(n, modules) == EK_OK ? ek_module_new(&sequential_def, NULL) : NULL;
    if (!module) {
        if (n > 0 && modules)
            ek_module_free_all(n, modules);
        return NULL;
    }
    for (int i = 0; i < n; i++) {
        char name[12];
        snprintf(name, sizeof name, "%d", i);
        if (ek_module_attach(module, name, modules[i]) != EK_OK) {
            ek_module_free_all(n - i, modules + i);
            ek_module_free(module);
            return NULL;
        }
    }
    return module;
}
