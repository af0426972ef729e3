/* Groups, the step, learning rates: everything about optimizers but the update rules. */
#include "optimizer.h"

#include <string.h>

/* ---- checks ----------------------------------------------------------------------------------------------------- */

ek_status ek_check_option(const char *who, const char *option, double value, double low, double high)
{
    if (value >= low && value < high)
        return EK_OK;
    if (low == -INFINITY)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a finite %s, got %g", who, option, value);
    if (high == INFINITY)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a finite %s of at least %g, got %g", who, option, low, value);
    return ek_fail(EK_ERR_ARGUMENT, "%s: expected %s in [%g, %g), got %g", who, option, low, high, value);
}

static bool has_tensor(const ek_optimizer *optimizer, const ek_tensor *tensor)
{
    for (int g = 0; g < optimizer->n_groups; g++)
        for (int i = 0; i < optimizer->groups[g].n; i++)
            if (optimizer->groups[g].slots[i].parameter == tensor)
                return true;
    return false;
}

static ek_status check_tensors(const ek_optimizer *optimizer, ek_tensor *const *tensors, int n)
{
    const char *who = optimizer->kind->name;
    for (int i = 0; i < n; i++) {
        const ek_tensor *t = tensors[i];
        if (!t)
            return ek_fail(EK_ERR_ARGUMENT, "%s: tensor %d is NULL", who, i);
        if (t->tape)
            return ek_fail(EK_ERR_STATE, "%s: expected leaves, but tensor %d %s belongs to a tape; train a leaf that "
                                         "ek_tensor_clone() makes of it", who, i, EK_TEXT(t->shape));
        if (has_tensor(optimizer, t))
            return ek_fail(EK_ERR_ARGUMENT, "%s: tensor %d %s is in a group of this optimizer already", who, i,
                           EK_TEXT(t->shape));
        for (int j = 0; j < i; j++)
            if (tensors[j] == t)
                return ek_fail(EK_ERR_ARGUMENT, "%s: tensors %d and %d are the same", who, j, i);
    }
    return EK_OK;
}

/* ---- making and freeing ----------------------------------------------------------------------------------------- */

ek_optimizer *ek_optimizer_new(const ek_optimizer_kind *kind, ek_group_opts defaults, bool decay_norms_and_biases)
{
    if (ek_check_option(kind->name, "lr", defaults.lr, 0, INFINITY) != EK_OK ||
        ek_check_option(kind->name, "weight_decay", defaults.weight_decay, 0, INFINITY) != EK_OK)
        return NULL;
    ek_optimizer *optimizer = ek_alloc_zeroed(sizeof *optimizer);
    if (!optimizer)
        return NULL;
    optimizer->kind = kind;
    optimizer->defaults = defaults;
    optimizer->spares_norms_and_biases = !decay_norms_and_biases;
    optimizer->max_norm = INFINITY;
    optimizer->grad_norm = NAN;
    return optimizer;
}

void ek_optimizer_free(ek_optimizer *optimizer)
{
    if (!optimizer)
        return;
    for (int g = 0; g < optimizer->n_groups; g++) {
        ek_group *group = &optimizer->groups[g];
        for (int i = 0; i < group->n; i++) {
            ek_tensor_free(group->slots[i].parameter);
            for (int k = 0; k < EK_STATE_TENSORS; k++)
                ek_tensor_free(group->slots[i].state[k]);
        }
        ek_release(group->slots);
    }
    ek_release(optimizer->groups);
    ek_release(optimizer);
}

/* Adds tensors that were checked. */
static ek_status append_group(ek_optimizer *optimizer, ek_tensor *const *tensors, int n, const ek_group_opts *opts)
{
    ek_group_opts o = opts ? *opts : optimizer->defaults;
    if (ek_check_option(optimizer->kind->name, "lr", o.lr, 0, INFINITY) != EK_OK ||
        ek_check_option(optimizer->kind->name, "weight_decay", o.weight_decay, 0, INFINITY) != EK_OK)
        return ek_last_status();
    size_t count = (size_t)optimizer->n_groups;
    ek_group *groups = ek_alloc((count + 1) * sizeof *groups);
    ek_trained *slots = ek_alloc_zeroed((size_t)n * sizeof *slots);
    if (!groups || !slots) {
        ek_release(groups);
        ek_release(slots);
        return EK_ERR_MEMORY;
    }
    for (int i = 0; i < n; i++)
        slots[i].parameter = ek_tensor_retain(tensors[i]);
    if (count)
        memcpy(groups, optimizer->groups, count * sizeof *groups);
    groups[count] = (ek_group){.lr = o.lr, .weight_decay = o.weight_decay, .initial_lr = o.lr, .n = n, .slots = slots};
    ek_release(optimizer->groups);
    optimizer->groups = groups;
    optimizer->n_groups++;
    return EK_OK;
}

ek_status ek_optimizer_add_group(ek_optimizer *optimizer, ek_tensor *const *tensors, int n, const ek_group_opts *opts)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "optimizer_add_group: the optimizer is NULL");
    const char *who = optimizer->kind->name;
    if (n < 1 || !tensors)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a group of at least one tensor, got %s", who,
                       n < 1 ? "none" : "NULL");
    if (check_tensors(optimizer, tensors, n) != EK_OK)
        return ek_last_status();
    for (int i = 0; i < n; i++) /* modules may freeze parameters; in a list one without gradient is a mistake */
        if (!tensors[i]->requires_grad)
            return ek_fail(EK_ERR_ARGUMENT, "%s: tensor %d %s requires no gradient; ek_tensor_set_requires_grad() it "
                                            "before", who, i, EK_TEXT(tensors[i]->shape));
    return append_group(optimizer, tensors, n, opts);
}

/* The parameters of a module: counted in a first visit, listed in a second. */
typedef struct parameter_list {
    int n;
    ek_tensor **tensors;
} parameter_list;

static ek_status list_parameter(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name;
    parameter_list *list = user;
    if (kind != EK_PARAMETER)
        return EK_OK;
    if (list->tensors)
        list->tensors[list->n] = tensor;
    list->n++;
    return EK_OK;
}

ek_status ek_optimizer_add_module(ek_optimizer *optimizer, ek_module *module, const ek_group_opts *opts)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "optimizer_add_module: the optimizer is NULL");
    const char *who = optimizer->kind->name;
    if (!module)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the module is NULL", who);
    parameter_list list = {0};
    ek_status status = ek_module_visit(module, list_parameter, &list);
    if (status != EK_OK)
        return status;
    if (!list.n)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the module %s has no parameters to train", who,
                       ek_module_describe(module));
    list.tensors = ek_alloc((size_t)list.n * sizeof *list.tensors);
    if (!list.tensors)
        return EK_ERR_MEMORY;
    list.n = 0;
    status = ek_module_visit(module, list_parameter, &list);
    if (status == EK_OK)
        status = check_tensors(optimizer, list.tensors, list.n);
    if (status == EK_OK)
        status = append_group(optimizer, list.tensors, list.n, opts);
    ek_release(list.tensors);
    return status;
}

ek_optimizer *ek_optimizer_with_module(ek_optimizer *optimizer, ek_module *module)
{
    if (optimizer && ek_optimizer_add_module(optimizer, module, NULL) != EK_OK) {
        ek_optimizer_free(optimizer);
        return NULL;
    }
    return optimizer;
}

ek_optimizer *ek_optimizer_with_tensors(ek_optimizer *optimizer, ek_tensor *const *tensors, int n)
{
    if (optimizer && n && ek_optimizer_add_group(optimizer, tensors, n, NULL) != EK_OK) {
        ek_optimizer_free(optimizer);
        return NULL;
    }
    return optimizer;
}

/* ---- the step --------------------------------------------------------------------------------------------------- */

/* Makes the state a tensor's first update needs; later only checks that it still fits. */
static ek_status prepare_slot(const ek_optimizer *optimizer, ek_trained *slot, int g, int i)
{
    const ek_tensor *p = slot->parameter;
    for (int k = 0; k < EK_STATE_TENSORS; k++) {
        if (!optimizer->has_state[k])
            continue;
        if (!slot->state[k])
            slot->state[k] = ek_zeros(p->dtype, p->shape);
        if (!slot->state[k])
            return EK_ERR_MEMORY;
        if (slot->state[k]->dtype != p->dtype)
            return ek_fail(EK_ERR_DTYPE, "%s: tensor %d of group %d %s was trained as %s and is %s now: make a new "
                                         "optimizer after converting a module", optimizer->kind->name, i, g,
                           EK_TEXT(p->shape), ek_dtype_name(slot->state[k]->dtype), ek_dtype_name(p->dtype));
    }
    return EK_OK;
}

/* What all parts of a step share. */
typedef struct step_pass {
    const ek_optimizer *optimizer;
    ek_parts parts;
} step_pass;

static void update_parts(void *context, int64_t begin, int64_t end)
{
    const step_pass *pass = context;
    const ek_optimizer *optimizer = pass->optimizer;
    for (int64_t part = begin; part < end; part++) {
        int64_t small = 0, from, to;
        for (int g = 0; g < optimizer->n_groups; g++)
            for (int i = 0; i < optimizer->groups[g].n; i++) {
                const ek_update *update = &optimizer->groups[g].slots[i].update;
                ek_parts_range(&pass->parts, part, update->n, &small, &from, &to);
                if (from < to)
                    optimizer->kind->update[update->dtype](update, from, to);
            }
    }
}

/* Everything about a slot's update but the elements. */
static void prepare_update(const ek_optimizer *optimizer, const ek_group *group, ek_trained *slot, double scale)
{
    const ek_tensor *p = slot->parameter;
    slot->update.n = 0;
    if (!p->has_grad)
        return;
    bool spared = optimizer->spares_norms_and_biases && !p->decays;
    slot->step++;
    slot->update = (ek_update){.optimizer = optimizer, .dtype = p->dtype, .lr = group->lr,
                               .weight_decay = spared ? 0 : group->weight_decay, .gradient_scale = scale,
                               .step = slot->step, .n = p->numel, .parameter = p->data,
                               .gradient = p->grad_data};
    for (int k = 0; k < EK_STATE_TENSORS; k++)
        slot->update.state[k] = slot->state[k] ? slot->state[k]->data : NULL;
    if (optimizer->kind->prepare)
        optimizer->kind->prepare(&slot->update);
}

ek_status ek_optimizer_step(ek_optimizer *optimizer)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "optimizer_step: the optimizer is NULL");
    for (int g = 0; g < optimizer->n_groups; g++)
        for (int i = 0; i < optimizer->groups[g].n; i++) {
            ek_trained *slot = &optimizer->groups[g].slots[i];
            if (slot->parameter->has_grad && prepare_slot(optimizer, slot, g, i) != EK_OK)
                return ek_last_status();
        }
    const bool clips = optimizer->max_norm < INFINITY;
    optimizer->grad_norm = clips ? ek_gradient_norm(optimizer) : NAN;
    const double scale = clips ? ek_clip_coefficient(optimizer->grad_norm, optimizer->max_norm) : 1;
    step_pass pass = {.optimizer = optimizer};
    for (int g = 0; g < optimizer->n_groups; g++)
        for (int i = 0; i < optimizer->groups[g].n; i++) {
            ek_trained *slot = &optimizer->groups[g].slots[i];
            prepare_update(optimizer, &optimizer->groups[g], slot, scale);
            ek_parts_add(&pass.parts, slot->update.n);
        }
    ek_parts_cut(&pass.parts);
    ek_parallel_for(pass.parts.n, 1, update_parts, &pass);
    optimizer->steps++;
    return EK_OK;
}

void ek_optimizer_zero_grad(ek_optimizer *optimizer)
{
    for (int g = 0; optimizer && g < optimizer->n_groups; g++)
        for (int i = 0; i < optimizer->groups[g].n; i++)
            ek_tensor_clear_grad(optimizer->groups[g].slots[i].parameter);
}

int64_t ek_optimizer_num_steps(const ek_optimizer *optimizer)
{
    return optimizer ? optimizer->steps : 0;
}

ek_tensor *ek_optimizer_state(const ek_optimizer *optimizer, int group, int i, const char *name)
{
    for (int k = 0; k < EK_STATE_TENSORS; k++)
        if (optimizer->kind->state_name[k] && !strcmp(optimizer->kind->state_name[k], name))
            return optimizer->groups[group].slots[i].state[k];
    return NULL;
}

/* ---- groups and learning rates ---------------------------------------------------------------------------------- */

ek_group_opts ek_group_opts_default(const ek_optimizer *optimizer)
{
    return optimizer ? optimizer->defaults : (ek_group_opts){0};
}

int ek_optimizer_num_groups(const ek_optimizer *optimizer)
{
    return optimizer ? optimizer->n_groups : 0;
}

static ek_status check_group(const char *who, const ek_optimizer *optimizer, int group)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "%s: the optimizer is NULL", who);
    if (group < 0 || group >= optimizer->n_groups)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a group of 0 … %d, got %d", who, optimizer->n_groups - 1, group);
    return EK_OK;
}

double ek_optimizer_lr(const ek_optimizer *optimizer, int group)
{
    return check_group("optimizer_lr", optimizer, group) == EK_OK ? optimizer->groups[group].lr : NAN;
}

ek_status ek_optimizer_set_group_lr(ek_optimizer *optimizer, int group, double lr)
{
    ek_status status = check_group("optimizer_set_group_lr", optimizer, group);
    if (status == EK_OK)
        status = ek_check_option("optimizer_set_group_lr", "lr", lr, 0, INFINITY);
    if (status == EK_OK)
        optimizer->groups[group].lr = lr;
    return status;
}

ek_status ek_optimizer_set_lr(ek_optimizer *optimizer, double lr)
{
    if (!optimizer)
        return ek_fail(EK_ERR_ARGUMENT, "optimizer_set_lr: the optimizer is NULL");
    ek_status status = ek_check_option("optimizer_set_lr", "lr", lr, 0, INFINITY);
    for (int g = 0; status == EK_OK && g < optimizer->n_groups; g++)
        optimizer->groups[g].lr = lr;
    return status;
}
