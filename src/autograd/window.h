/* Windows that slide along one axis, for convolution and pooling (window.c). */
#ifndef EK_WINDOW_H
#define EK_WINDOW_H

#include "op.h"

/* Tap k of output o reads input o·stride − padding + k·dilation, if there is one. */
typedef struct ek_window {
    int64_t in, out, kernel, stride, padding, dilation;
} ek_window;

/* Checks the sizes and fills `out` = ⌊(in + 2·padding − span)/stride⌋ + 1, span = dilation·(kernel − 1) + 1.  `axis`,
 * for messages: "height". */
ek_status ek_window_fit(const char *who, const char *axis, ek_window *window);

/* Output o stands for input o: one for each, the window moving by one. */
static inline bool ek_window_keeps(const ek_window *w)
{
    return w->out == w->in && (w->stride == 1 || w->in == 1);
}

/* begin … end−1 are the outputs for which this tap reads inside the input. */
static inline void ek_window_reach(const ek_window *w, int64_t tap, int64_t *begin, int64_t *end)
{
    int64_t before = w->padding - tap * w->dilation, last = w->in - 1 + before;
    *begin = before > 0 ? (before + w->stride - 1) / w->stride : 0;
    *end = last < 0 ? 0 : last / w->stride + 1;
    if (*end > w->out)
        *end = w->out;
    if (*begin > *end)
        *begin = *end;
}

#endif
