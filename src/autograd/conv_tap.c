/* One tap of a convolution by itself: the outputs that it reaches (conv.h).  Expands to ek_conv_add_tap_f32 and
 * ek_conv_add_tap_f64. */
#ifdef REAL

/* dx [c, H, W] += run [n], outputs q0 … q0 + n − 1, where the tap reads it. */
EK_KERNEL static void FN(conv_add_tap)(const conv_sizes *s, const conv_tap *tap, int64_t q0, int64_t n,
                                       const REAL *run, REAL *dx)
{
    const int64_t width = s->w.out, stride = s->w.stride;
    int64_t i = q0 / width, j = q0 % width;
    for (int64_t q = 0; q < n; q += width - j, j = 0, i++) {
        const int64_t left = tap->left > j ? tap->left : j, most = n - q + j;
        const int64_t right = tap->right < most ? tap->right : most;
        const REAL *from = run + q - j;
        REAL *to = dx + tap->offset + i * s->h.stride * s->w.in;
        if (i < tap->top || i >= tap->bottom)
            continue;
        if (stride == 1)
            for (int64_t v = left; v < right; v++)
                to[v] += from[v];
        else
            for (int64_t v = left; v < right; v++)
                to[v * stride] += from[v];
    }
}

void FN(ek_conv_add_tap)(const conv_sizes *s, int64_t r, int64_t q0, int64_t n, const REAL *run, REAL *dx)
{
    const conv_tap tap = conv_find_tap(s, r);
    FN(conv_add_tap)(s, &tap, q0, n, run, dx);
}

#else
#include "conv.h"

/* Rows top … bottom−1 and columns left … right−1 of the output read tap r = (channel, kh, kw) inside the input, at
 * row·h.stride·w.in + column·w.stride + offset from the group's first channel. */
typedef struct conv_tap {
    int64_t top, bottom, left, right, offset;
} conv_tap;

static conv_tap conv_find_tap(const conv_sizes *s, int64_t r)
{
    int64_t taps = s->h.kernel * s->w.kernel, kh = r % taps / s->w.kernel, kw = r % s->w.kernel;
    conv_tap tap = {.offset = r / taps * s->pixels_in + (kh * s->h.dilation - s->h.padding) * s->w.in +
                              kw * s->w.dilation - s->w.padding};
    ek_window_reach(&s->h, kh, &tap.top, &tap.bottom);
    ek_window_reach(&s->w, kw, &tap.left, &tap.right);
    return tap;
}

#define OP_FILE "conv_tap.c"
#include "foreach_real.h"
#endif
