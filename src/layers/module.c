/* Modules: their life, the tree they form, the parameters and buffers they own. */
#include "module.h"

/* ---- the tree --------------------------------------------------------------------------------------------------- */

ek_module *ek_module_next(const ek_module *root, const ek_module *m)
{
    if (m->num_children)
        return m->children[0];
    while (m != root && m->index + 1 == m->parent->num_children)
        m = m->parent;
    return m == root ? NULL : m->parent->children[m->index + 1];
}

ek_module *ek_module_root(ek_module *module)
{
    while (module->parent)
        module = module->parent;
    return module;
}

/* Copies `part`, or the end of it that fits, in front of text[at]; returns where it begins. */
static size_t prepend(char *text, size_t at, const char *part, size_t length)
{
    size_t fits = length < at ? length : at;
    memcpy(text + at - fits, part + length - fits, fits);
    return at - fits;
}

size_t ek_module_name(const ek_module *module, const ek_module *root, const char *leaf, char *text, size_t bytes)
{
    size_t length = leaf ? strlen(leaf) : 0;
    for (const ek_module *m = module; m != root && m->parent; m = m->parent)
        length += strlen(m->name) + (length > 0);
    if (!bytes)
        return length;
    size_t at = length < bytes ? length : bytes - 1;
    text[at] = '\0';
    bool last = !leaf;
    if (leaf)
        at = prepend(text, at, leaf, strlen(leaf));
    for (const ek_module *m = module; m != root && m->parent; m = m->parent) {
        if (!last)
            at = prepend(text, at, ".", 1);
        at = prepend(text, at, m->name, strlen(m->name));
        last = false;
    }
    return length;
}

char *ek_module_name_buffer(const ek_module *module, const ek_module *root, size_t *bytes)
{
    size_t longest = 0;
    for (const ek_module *m = module; m; m = ek_module_next(module, m)) {
        size_t length = ek_module_name(m, root, NULL, NULL, 0), slot = 0;
        for (int i = 0; i < m->parameters.n; i++)
            slot = strlen(m->parameters.at[i].name) > slot ? strlen(m->parameters.at[i].name) : slot;
        for (int i = 0; i < m->buffers.n; i++)
            slot = strlen(m->buffers.at[i].name) > slot ? strlen(m->buffers.at[i].name) : slot;
        longest = length + 1 + slot > longest ? length + 1 + slot : longest;
    }
    *bytes = longest + 1;
    return ek_alloc(*bytes);
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

ek_status ek_cause_of_null(void)
{
    return ek_last_status() != EK_OK ? ek_last_status() : EK_ERR_ARGUMENT;
}

static char *format_text(const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, again);
    va_end(again);
    if (length < 0) {
        ek_fail(EK_ERR_ARGUMENT, "module_new: the description's format \"%s\" cannot be printed", format);
        return NULL;
    }
    char *text = ek_alloc((size_t)length + 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, arguments);
    return text;
}

/* The user's state follows the module in the same block. */
enum { STATE_OFFSET = (sizeof(ek_module) + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT };

ek_module *ek_module_new(const ek_module_def *def, const char *format, ...)
{
    if (!def || !def->type || !def->forward) {
        ek_fail(EK_ERR_ARGUMENT, "module_new: expected a definition with a type and a forward function, got %s",
                !def ? "NULL" : !def->type ? "no type" : "no forward function");
        return NULL;
    }
    if (def->state_bytes > PTRDIFF_MAX - STATE_OFFSET) {
        ek_fail(EK_ERR_MEMORY, "module_new: %s: no memory holds a state of %zu bytes", def->type, def->state_bytes);
        return NULL;
    }
    va_list arguments;
    va_start(arguments, format);
    char *description = format ? format_text(format, arguments) : ek_copy_text(def->type);
    va_end(arguments);
    ek_module *module = description ? ek_alloc_zeroed(STATE_OFFSET + def->state_bytes) : NULL;
    if (!module) {
        ek_release(description);
        return NULL;
    }
    module->def = *def;
    module->description = description;
    module->training = true;
    module->dtype = EK_F32;
    module->uninitialised = 1;
    return module;
}

void *ek_module_state(const ek_module *module)
{
    return module ? (char *)module + STATE_OFFSET : NULL;
}

void ek_slots_drop_last(ek_slots *slots)
{
    const ek_slot *last = &slots->at[--slots->n];
    ek_tensor_free(last->tensor);
    ek_release(last->name);
}

void ek_slots_free(ek_slots *slots)
{
    while (slots->n)
        ek_slots_drop_last(slots);
    ek_release(slots->at);
    *slots = (ek_slots){0};
}

static void free_one(ek_module *module)
{
    if (module->def.destroy)
        module->def.destroy(ek_module_state(module));
    ek_slots_free(&module->parameters);
    ek_slots_free(&module->buffers);
    ek_release(module->gathered);
    ek_release(module->children);
    ek_release(module->description);
    ek_release(module->name);
    ek_release(module);
}

void ek_module_free(ek_module *module)
{
    if (!module || module->parent)
        return;
    /* The last child first, without recursion: trees may be deep. */
    ek_module *m = module;
    while (m) {
        if (m->num_children) {
            m = m->children[--m->num_children];
            continue;
        }
        ek_module *parent = m == module ? NULL : m->parent;
        free_one(m);
        m = parent;
    }
}

void ek_module_free_all(int n, ek_module *const *modules)
{
    /* First find out who is to go: once some are freed, nothing may be asked of their children any more. */
    ek_module *condemned = NULL;
    for (int i = 0; i < n; i++) {
        ek_module *module = modules[i];
        if (module && !module->parent && !module->is_condemned) {
            module->is_condemned = true;
            module->condemned = condemned;
            condemned = module;
        }
    }
    while (condemned) {
        ek_module *next = condemned->condemned;
        ek_module_free(condemned);
        condemned = next;
    }
}

ek_module *ek_module_complete(ek_module *module, bool complete)
{
    if (complete)
        return module;
    ek_module_free(module);
    return NULL;
}

/* ---- children --------------------------------------------------------------------------------------------------- */

/* Doubles an array when it is full. */
static ek_status make_room(void **array, int n, int *capacity, size_t element_bytes)
{
    if (n < *capacity)
        return EK_OK;
    int more = *capacity ? 2 * *capacity : 4;
    void *larger = ek_alloc((size_t)more * element_bytes);
    if (!larger)
        return EK_ERR_MEMORY;
    if (n)
        memcpy(larger, *array, (size_t)n * element_bytes);
    ek_release(*array);
    *array = larger;
    *capacity = more;
    return EK_OK;
}

static bool has_slot(const ek_slots *slots, const char *name)
{
    for (int i = 0; i < slots->n; i++)
        if (!strcmp(slots->at[i].name, name))
            return true;
    return false;
}

/* A name may be any text without a '.', which joins names, that nothing else in the module has. */
static ek_status check_name(const char *who, const ek_module *module, const char *name)
{
    if (!name || !*name || strchr(name, '.'))
        return ek_fail(EK_ERR_ARGUMENT, "%s: %s: expected a name without '.', got %s%s%s", who, module->description,
                       name ? "\"" : "", name ? name : "NULL", name ? "\"" : "");
    bool taken = has_slot(&module->parameters, name) || has_slot(&module->buffers, name);
    for (int i = 0; i < module->num_children; i++)
        taken |= !strcmp(module->children[i]->name, name);
    if (taken)
        return ek_fail(EK_ERR_ARGUMENT, "%s: %s already has something named \"%s\"", who, module->description, name);
    return EK_OK;
}

void ek_module_count_uninitialised(ek_module *module, int64_t change)
{
    for (; module; module = module->parent)
        module->uninitialised += change;
}

ek_status ek_module_attach(ek_module *module, const char *name, ek_module *child)
{
    if (child->parent)
        return ek_fail(EK_ERR_STATE, "module_add_child: %s already is \"%s\" of %s, and a module has one parent: make "
                                     "another one", child->description, child->name, child->parent->description);
    ek_status status = check_name("module_add_child", module, name);
    void *children = module->children;
    if (status == EK_OK)
        status = make_room(&children, module->num_children, &module->children_capacity, sizeof(ek_module *));
    module->children = children;
    char *copy = status == EK_OK ? ek_copy_text(name) : NULL;
    if (!copy)
        return ek_last_status();
    child->name = copy;
    child->parent = module;
    child->index = module->num_children;
    module->children[module->num_children++] = child;
    ek_module_count_uninitialised(module, child->uninitialised);
    return EK_OK;
}

ek_status ek_module_add_child(ek_module *module, const char *name, ek_module *child)
{
    if (!module || !child) {
        ek_status status = ek_fail_null(ek_cause_of_null(), "module_add_child", module ? "child" : "module");
        ek_module_free(child);
        return status;
    }
    if (ek_module_root(module) == child) /* not freed: that would take `module` along */
        return ek_fail(EK_ERR_ARGUMENT, "module_add_child: %s cannot be a child of %s", child->description,
                       child == module ? "itself" : "a module below it");
    ek_status status = ek_module_attach(module, name, child);
    if (status != EK_OK)
        ek_module_free(child); /* which leaves one with a parent alone */
    return status;
}

int ek_module_num_children(const ek_module *module)
{
    return module ? module->num_children : 0;
}

ek_module *ek_module_child(const ek_module *module, int i)
{
    if (module && i >= 0 && i < module->num_children)
        return module->children[i];
    ek_fail(EK_ERR_ARGUMENT, "module_child: expected an index below %d, got %d", ek_module_num_children(module), i);
    return NULL;
}

const char *ek_module_type(const ek_module *module)
{
    return module ? module->def.type : "";
}

const char *ek_module_describe(const ek_module *module)
{
    return module ? module->description : "";
}

/* ---- parameters and buffers ------------------------------------------------------------------------------------- */

/* Adds a slot for a tensor of its own; what comes back is valid until the next one is added. */
static ek_slot *add_slot(const char *who, ek_module *module, ek_slots *slots, const char *name, ek_dtype dtype,
                         ek_shape shape, double value)
{
    if (!module) {
        ek_fail_null(ek_cause_of_null(), who, "module");
        return NULL;
    }
    void *at = slots->at;
    if (check_name(who, module, name) != EK_OK || make_room(&at, slots->n, &slots->capacity, sizeof(ek_slot)) != EK_OK)
        return NULL;
    slots->at = at;
    ek_tensor *tensor = ek_full(dtype, shape, value);
    char *copy = tensor ? ek_copy_text(name) : NULL;
    if (!copy) {
        ek_tensor_free(tensor);
        return NULL;
    }
    ek_slot *slot = &slots->at[slots->n++];
    *slot = (ek_slot){.name = copy, .tensor = tensor, .fill = value};
    return slot;
}

ek_tensor *ek_module_add_parameter(ek_module *module, const char *name, ek_shape shape, ek_init init, bool decays)
{
    const char *who = "module_add_parameter";
    bool random = init.kind == EK_INIT_UNIFORM || init.kind == EK_INIT_NORMAL;
    if (!random && init.kind != EK_INIT_ZEROS && init.kind != EK_INIT_ONES && init.kind != EK_INIT_CONSTANT) {
        ek_fail(EK_ERR_ARGUMENT, "%s: %s: there is no ek_init_kind %d", who, name ? name : "NULL", (int)init.kind);
        return NULL;
    }
    if (init.kind == EK_INIT_CONSTANT && !isfinite(init.scale)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: %s: expected a finite constant, got %g", who, name ? name : "NULL", init.scale);
        return NULL;
    }
    if (random && !(init.scale >= 0 && isfinite(init.scale))) {
        ek_fail(EK_ERR_ARGUMENT, "%s: %s: expected a finite scale of 0 or more, got %g", who, name ? name : "NULL",
                init.scale);
        return NULL;
    }
    ek_slot *slot = add_slot(who, module, module ? &module->parameters : NULL, name, module ? module->dtype : EK_F32,
                             shape, init.kind == EK_INIT_CONSTANT ? init.scale : init.kind == EK_INIT_ONES);
    if (!slot)
        return NULL;
    slot->init = init;
    slot->drawn = !random;
    slot->tensor->requires_grad = true;
    slot->tensor->decays = decays;
    if (random)
        ek_module_count_uninitialised(module, 1);
    return slot->tensor;
}

ek_tensor *ek_module_add_buffer(ek_module *module, const char *name, ek_dtype dtype, ek_shape shape, double value)
{
    ek_slot *slot = add_slot("module_add_buffer", module, module ? &module->buffers : NULL, name, dtype, shape, value);
    if (slot)
        slot->tensor->decays = false;
    return slot ? slot->tensor : NULL;
}
