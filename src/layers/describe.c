/* Parts of descriptions that convolution and pooling share. */
#include "module.h"

void ek_describe_sizes(char *text, size_t bytes, const int64_t *size, int dims)
{
    if (dims == 1 || size[0] == size[1])
        snprintf(text, bytes, "%lld", (long long)size[0]);
    else
        snprintf(text, bytes, "%lldx%lld", (long long)size[0], (long long)size[1]);
}

void ek_describe_option(char *text, size_t bytes, const char *option, const int64_t *value, int dims, int64_t usual)
{
    if (value[0] == usual && (dims == 1 || value[1] == usual))
        return;
    char sizes[48];
    ek_describe_sizes(sizes, sizeof sizes, value, dims);
    size_t used = strlen(text);
    snprintf(text + used, bytes - used, ", %s %s", option, sizes);
}

ek_status ek_check_sizes(const char *who, const char *option, const int64_t *value, int dims, int64_t least)
{
    for (int i = 0; i < dims; i++)
        if (value[i] < least)
            return ek_fail(EK_ERR_ARGUMENT, "%s: expected %s ≥ %lld, got %lld", who, option, (long long)least,
                           (long long)value[i]);
    return EK_OK;
}
