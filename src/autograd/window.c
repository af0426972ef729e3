/* Sizes of sliding windows. */
#include "window.h"

static ek_status check_size(const char *who, const char *axis, const char *what, int64_t value, int64_t least)
{
    if (value >= least && value <= INT32_MAX)
        return EK_OK;
    return ek_fail(EK_ERR_ARGUMENT, "%s: expected a %s of %lld … %lld for the %s, got %lld", who, what,
                   (long long)least, (long long)INT32_MAX, axis, (long long)value);
}

ek_status ek_window_fit(const char *who, const char *axis, ek_window *window)
{
    ek_status status = check_size(who, axis, "kernel size", window->kernel, 1);
    if (status == EK_OK)
        status = check_size(who, axis, "stride", window->stride, 1);
    if (status == EK_OK)
        status = check_size(who, axis, "padding", window->padding, 0);
    if (status == EK_OK)
        status = check_size(who, axis, "dilation", window->dilation, 1);
    if (status != EK_OK)
        return status;
    int64_t span = window->dilation * (window->kernel - 1) + 1, room;
    if (__builtin_add_overflow(window->in, 2 * window->padding, &room))
        return ek_fail(EK_ERR_SHAPE, "%s: the padded %s overflows int64", who, axis);
    if (span > room)
        return ek_fail(EK_ERR_SHAPE, "%s: the kernel spans %lld (size %lld, dilation %lld), more than the %s of %lld "
                                     "with padding %lld on both sides: pad more, or take a smaller kernel", who,
                       (long long)span, (long long)window->kernel, (long long)window->dilation, axis,
                       (long long)window->in, (long long)window->padding);
    window->out = (room - span) / window->stride + 1;
    return EK_OK;
}
