/* The one allocator. */
#include "core.h"

#include <stdlib.h>
#include <string.h>

static void *default_allocate(size_t bytes, void *user)
{
    (void)user;
    size_t rounded = (bytes + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
    return rounded < bytes ? NULL : aligned_alloc(EK_ALIGNMENT, rounded);
}

static void default_release(void *memory, void *user)
{
    (void)user;
    free(memory);
}

static const ek_allocator default_allocator = {default_allocate, default_release, NULL};
/* Process-wide by design, and set while nothing of the library is alive, so it needs no lock. */
static ek_allocator current = {default_allocate, default_release, NULL};

ek_status ek_set_allocator(const ek_allocator *allocator)
{
    if (!allocator) {
        current = default_allocator;
        return EK_OK;
    }
    if (!allocator->allocate || !allocator->release)
        return ek_fail(EK_ERR_ARGUMENT, "set_allocator: both allocate and release are needed, %s is NULL",
                       allocator->allocate ? "release" : "allocate");
    current = *allocator;
    return EK_OK;
}

void *ek_alloc(size_t bytes)
{
    void *memory = current.allocate(bytes ? bytes : 1, current.user);
    if (!memory)
        ek_fail(EK_ERR_MEMORY, "out of memory: the allocator refused %zu bytes", bytes);
    return memory;
}

void *ek_alloc_zeroed(size_t bytes)
{
    void *memory = ek_alloc(bytes);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

void ek_release(void *memory)
{
    if (memory)
        current.release(memory, current.user);
}

char *ek_copy_text(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = ek_alloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}
