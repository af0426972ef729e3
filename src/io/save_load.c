/* Saving and loading a module's parameters and buffers. */
#include "core.h"

#include <evenkeel/checkpoint.h>

#include <string.h>

/* Weights are noise to deflate: more work than the least makes them hardly smaller. */
#define SAVE_LEVEL 1

static ek_status check_arguments(const char *who, const ek_module *module, const char *path)
{
    if (module && path)
        return EK_OK;
    return ek_fail(EK_ERR_ARGUMENT, "%s: expected a module and a path, got NULL for the %s", who,
                   module ? "path" : "module");
}

static ek_status add_tensor(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)kind;
    return ek_npz_writer_add(user, name, tensor);
}

ek_status ek_save(ek_module *module, const char *path)
{
    ek_status status = check_arguments("save", module, path);
    if (status != EK_OK)
        return status;
    ek_npz_writer *writer = ek_npz_writer_new(path, SAVE_LEVEL);
    if (!writer)
        return ek_last_status();
    status = ek_module_visit(module, add_tensor, writer);
    if (status == EK_OK)
        return ek_npz_writer_close(writer);
    ek_npz_writer_abandon(writer);
    return status;
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

#define LIST_BYTES 1200 /* of an error message's 2048, half of which may be the path */

typedef struct loading {
    const ek_npz *npz;
    ek_tensor **values; /* [count], by entry */
    bool *used;         /* [count]: the module has that name */
    int64_t next;       /* the entry after the one found last */
    char problems[LIST_BYTES];
    size_t problem_bytes;
    int unlisted; /* problems for which there was no room */
} loading;

static void add_problem(loading *load, const char *format, ...) EK_PRINTF(2, 3);

static void add_problem(loading *load, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    size_t room = LIST_BYTES - load->problem_bytes;
    int bytes = vsnprintf(load->problems + load->problem_bytes, room, format, arguments);
    va_end(arguments);
    if (bytes >= 0 && (size_t)bytes < room) {
        load->problem_bytes += (size_t)bytes;
    } else {
        load->problems[load->problem_bytes] = '\0';
        load->unlisted++;
    }
}

static bool is_batch_counter(const char *name, ek_state_kind kind)
{
    const char *dot = strrchr(name, '.');
    return kind == EK_BUFFER && !strcmp(dot ? dot + 1 : name, "num_batches_tracked");
}

/* The entry of that name, or −1.  Most often the next one, since archives keep the module's order: looking there first
 * spares a search through all names for each name. */
static int64_t find(loading *load, const char *name)
{
    int64_t i = load->next < ek_npz_count(load->npz) ? load->next : 0;
    if (ek_npz_count(load->npz) == 0 || strcmp(ek_npz_name(load->npz, i), name) != 0)
        i = ek_npz_find(load->npz, name);
    if (i >= 0)
        load->next = i + 1;
    return i;
}

static ek_status compare(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    loading *load = user;
    int64_t i = find(load, name);
    if (i < 0) {
        if (!is_batch_counter(name, kind))
            add_problem(load, "; missing: %s", name);
        return EK_OK;
    }
    const ek_tensor *value = load->values[i];
    load->used[i] = true;
    if (!ek_shape_equal(value->shape, tensor->shape))
        add_problem(load, "; %s: expected %s, got %s", name, EK_TEXT(tensor->shape), EK_TEXT(value->shape));
    else if (value->dtype != tensor->dtype)
        add_problem(load, "; %s: expected %s, got %s", name, ek_dtype_name(tensor->dtype),
                    ek_dtype_name(value->dtype));
    return EK_OK;
}

/* Everything fits: nothing can fail from here on. */
static ek_status assign(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    loading *load = user;
    (void)kind;
    int64_t i = find(load, name);
    if (i < 0)
        memset(tensor->data, 0, ek_tensor_bytes(tensor));
    else
        memcpy(tensor->data, load->values[i]->data, ek_tensor_bytes(tensor));
    return EK_OK;
}

static ek_status read_values(loading *load)
{
    for (int64_t i = 0; i < ek_npz_count(load->npz); i++) {
        load->values[i] = ek_npz_read_at(load->npz, i);
        if (!load->values[i])
            return ek_last_status();
    }
    return EK_OK;
}

static ek_status load_values(loading *load, ek_module *module, const char *path)
{
    ek_status status = read_values(load);
    if (status == EK_OK)
        status = ek_module_visit(module, compare, load);
    if (status != EK_OK)
        return status;
    for (int64_t i = 0; i < ek_npz_count(load->npz); i++)
        if (!load->used[i])
            add_problem(load, "; unexpected: %s", ek_npz_name(load->npz, i));
    if (load->problem_bytes || load->unlisted) {
        char more[40] = "";
        if (load->unlisted)
            snprintf(more, sizeof more, "; and %d more", load->unlisted);
        return ek_fail(EK_ERR_FORMAT, "load: %.700s does not fit this module, which is left as it was%s%s", path,
                       load->problems, more);
    }
    return ek_module_visit(module, assign, load);
}

ek_status ek_load(ek_module *module, const char *path)
{
    ek_status status = check_arguments("load", module, path);
    if (status != EK_OK)
        return status;
    ek_npz *npz = ek_npz_open(path);
    if (!npz)
        return ek_last_status();
    size_t count = (size_t)ek_npz_count(npz);
    loading load = {.npz = npz};
    load.values = ek_alloc_zeroed(count * sizeof *load.values);
    load.used = load.values ? ek_alloc_zeroed(count * sizeof *load.used) : NULL;
    status = load.used ? load_values(&load, module, path) : EK_ERR_MEMORY;
    for (size_t i = 0; load.values && i < count; i++)
        ek_tensor_free(load.values[i]);
    ek_release(load.values);
    ek_release(load.used);
    ek_npz_close(npz);
    return status;
}
