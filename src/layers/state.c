/* What is done with all parameters and buffers of a tree at once. */
#include "module.h"

void ek_module_train(ek_module *module)
{
    for (ek_module *m = module; m; m = ek_module_next(module, m))
        m->training = true;
}

void ek_module_eval(ek_module *module)
{
    for (ek_module *m = module; m; m = ek_module_next(module, m))
        m->training = false;
}

bool ek_module_is_training(const ek_module *module)
{
    return module && module->training;
}

void ek_module_clear_grad(ek_module *module)
{
    for (ek_module *m = module; m; m = ek_module_next(module, m))
        for (int i = 0; i < m->parameters.n; i++)
            ek_tensor_clear_grad(m->parameters.at[i].tensor);
}

int64_t ek_module_count_parameters(const ek_module *module)
{
    int64_t count = 0;
    for (const ek_module *m = module; m; m = ek_module_next(module, m))
        for (int i = 0; i < m->parameters.n; i++)
            if (m->parameters.at[i].tensor->requires_grad)
                count += m->parameters.at[i].tensor->numel;
    return count;
}

/* ---- visiting --------------------------------------------------------------------------------------------------- */

static ek_status check_module(const char *who, const ek_module *module)
{
    return module ? EK_OK : ek_fail_null(EK_ERR_ARGUMENT, who, "module");
}

ek_status ek_module_visit(ek_module *module, ek_state_visitor visit, void *user)
{
    ek_status status = check_module("module_visit", module);
    if (status == EK_OK && !visit)
        status = ek_fail(EK_ERR_ARGUMENT, "module_visit: the function is NULL");
    if (status == EK_OK)
        status = ek_module_ready(module);
    if (status != EK_OK)
        return status;
    size_t bytes;
    char *name = ek_module_name_buffer(module, module, &bytes);
    if (!name)
        return EK_ERR_MEMORY;
    for (ek_module *m = module; status == EK_OK && m; m = ek_module_next(module, m)) {
        for (int i = 0; status == EK_OK && i < m->parameters.n; i++) {
            ek_module_name(m, module, m->parameters.at[i].name, name, bytes);
            status = visit(user, name, m->parameters.at[i].tensor, EK_PARAMETER);
        }
        for (int i = 0; status == EK_OK && i < m->buffers.n; i++) {
            ek_module_name(m, module, m->buffers.at[i].name, name, bytes);
            status = visit(user, name, m->buffers.at[i].tensor, EK_BUFFER);
        }
    }
    ek_release(name);
    return status;
}

static const ek_slots *slots_of(const ek_module *module, ek_state_kind kind)
{
    return kind == EK_PARAMETER ? &module->parameters : &module->buffers;
}

/* Follows a dotted name down from `module`. */
static ek_tensor *find(const ek_module *module, const char *name, ek_state_kind kind)
{
    for (const char *dot; (dot = strchr(name, '.')); name = dot + 1) {
        const ek_module *below = NULL;
        for (int i = 0; i < module->num_children && !below; i++) {
            const char *child = module->children[i]->name;
            if (strlen(child) == (size_t)(dot - name) && !strncmp(child, name, (size_t)(dot - name)))
                below = module->children[i];
        }
        if (!below)
            return NULL;
        module = below;
    }
    const ek_slots *slots = slots_of(module, kind);
    for (int i = 0; i < slots->n; i++)
        if (!strcmp(slots->at[i].name, name))
            return slots->at[i].tensor;
    return NULL;
}

/* "0.weight, 0.bias, …" as far as it fits; "none". */
static void list_names(const ek_module *module, ek_state_kind kind, char *text, size_t bytes)
{
    static const char more[] = ", …";
    size_t used = 0;
    snprintf(text, bytes, "none");
    for (const ek_module *m = module; m; m = ek_module_next(module, m)) {
        const ek_slots *slots = slots_of(m, kind);
        for (int i = 0; i < slots->n; i++) {
            size_t length = ek_module_name(m, module, slots->at[i].name, NULL, 0);
            if (used + 2 + length + sizeof more > bytes) {
                snprintf(text + used, bytes - used, "%s", used ? more : more + 2);
                return;
            }
            used += (size_t)snprintf(text + used, bytes - used, "%s", used ? ", " : "");
            ek_module_name(m, module, slots->at[i].name, text + used, bytes - used);
            used += length;
        }
    }
}

static ek_tensor *find_or_fail(const char *who, ek_module *module, const char *name, ek_state_kind kind)
{
    if (check_module(who, module) != EK_OK || ek_module_ready(module) != EK_OK)
        return NULL;
    ek_tensor *tensor = name ? find(module, name, kind) : NULL;
    if (!tensor) {
        char names[1024];
        list_names(module, kind, names, sizeof names);
        ek_fail(EK_ERR_ARGUMENT, "%s: %s has no %s named \"%s\"; there are: %s", who, module->description,
                kind == EK_PARAMETER ? "parameter" : "buffer", name ? name : "NULL", names);
    }
    return tensor;
}

ek_tensor *ek_module_parameter(ek_module *module, const char *name)
{
    return find_or_fail("module_parameter", module, name, EK_PARAMETER);
}

ek_tensor *ek_module_buffer(ek_module *module, const char *name)
{
    return find_or_fail("module_buffer", module, name, EK_BUFFER);
}

/* ---- changing the type ------------------------------------------------------------------------------------------ */

static ek_status stage(ek_slots *slots, ek_dtype dtype)
{
    for (int i = 0; i < slots->n; i++) {
        const ek_tensor *tensor = slots->at[i].tensor;
        if (tensor->dtype == EK_I64 || tensor->dtype == dtype)
            continue;
        slots->at[i].converted = ek_tensor_cast(tensor, dtype);
        if (!slots->at[i].converted)
            return EK_ERR_MEMORY;
    }
    return EK_OK;
}

static void settle(ek_slots *slots, bool convert)
{
    for (int i = 0; i < slots->n; i++) {
        ek_slot *slot = &slots->at[i];
        if (slot->converted && convert)
            ek_tensor_adopt(slot->tensor, slot->converted);
        else
            ek_tensor_free(slot->converted);
        slot->converted = NULL;
    }
}

ek_status ek_module_to(ek_module *module, ek_dtype dtype)
{
    ek_status status = check_module("module_to", module);
    if (status == EK_OK && dtype != EK_F32 && dtype != EK_F64)
        status = ek_fail(EK_ERR_DTYPE, "module_to: expected float32 or float64, got %s", ek_dtype_name(dtype));
    if (status != EK_OK)
        return status;
    /* All copies first, so that a net is never half converted. */
    for (ek_module *m = module; status == EK_OK && m; m = ek_module_next(module, m)) {
        status = stage(&m->parameters, dtype);
        if (status == EK_OK)
            status = stage(&m->buffers, dtype);
    }
    for (ek_module *m = module; m; m = ek_module_next(module, m)) {
        settle(&m->parameters, status == EK_OK);
        settle(&m->buffers, status == EK_OK);
        if (status == EK_OK)
            m->dtype = dtype;
    }
    return status;
}
