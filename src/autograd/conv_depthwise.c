/* One input channel per group: planes of x and y, one tap after the other (conv.h). */
#ifdef REAL

/* One input channel per group: y [OH, OW] = b + Σ_taps w·x, for x [H, W] and w [KH, KW]. */
EK_KERNEL static void FN(conv_plane_forward)(const conv_sizes *s, const REAL *x, const REAL *w, REAL bias, REAL *y)
{
    for (int64_t p = 0; p < s->pixels; p++)
        y[p] = bias;
    for (int64_t r = 0; r < s->rows; r++) {
        const conv_tap tap = conv_find_tap(s, r);
        for (int64_t i = tap.top; i < tap.bottom; i++) {
            const REAL *in = x + tap.offset + i * s->h.stride * s->w.in;
            REAL *out = y + i * s->w.out;
            if (s->w.stride == 1)
                for (int64_t j = tap.left; j < tap.right; j++)
                    out[j] += w[r] * in[j];
            else
                for (int64_t j = tap.left; j < tap.right; j++)
                    out[j] += w[r] * in[j * s->w.stride];
        }
    }
}

/* dx [H, W] += Σ_taps w·dy, for dy [OH, OW]. */
EK_KERNEL static void FN(conv_plane_dx)(const conv_sizes *s, const REAL *dy, const REAL *w, REAL *dx)
{
    for (int64_t r = 0; r < s->rows; r++) {
        const conv_tap tap = conv_find_tap(s, r);
        for (int64_t i = tap.top; i < tap.bottom; i++) {
            REAL *out = dx + tap.offset + i * s->h.stride * s->w.in;
            const REAL *in = dy + i * s->w.out;
            if (s->w.stride == 1)
                for (int64_t j = tap.left; j < tap.right; j++)
                    out[j] += w[r] * in[j];
            else
                for (int64_t j = tap.left; j < tap.right; j++)
                    out[j * s->w.stride] += w[r] * in[j];
        }
    }
}

/* Σ over output pixels and samples of dy·x at one tap, in 32 sums folded by a fixed tree.  Planes of x and dy are
 * x_step and dy_step apart from sample to sample. */
EK_KERNEL static REAL FN(conv_plane_dw)(const conv_sizes *s, conv_tap tap, const REAL *x, int64_t x_step, const REAL *dy,
                                        int64_t dy_step)
{
    REAL sum[EK_LANES] = {0};
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t i = tap.top; i < tap.bottom; i++) {
            const REAL *in = x + n * x_step + tap.offset + i * s->h.stride * s->w.in;
            const REAL *d = dy + n * dy_step + i * s->w.out;
            for (int64_t j = tap.left, stride = s->w.stride; j < tap.right; j += EK_LANES) {
                int n_lanes = tap.right - j < EK_LANES ? (int)(tap.right - j) : EK_LANES;
                if (stride == 1)
                    for (int l = 0; l < n_lanes; l++)
                        sum[l] += d[j + l] * in[j + l];
                else
                    for (int l = 0; l < n_lanes; l++)
                        sum[l] += d[j + l] * in[(j + l) * stride];
            }
        }
    for (int half = EK_LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++)
            sum[l] += sum[l + half];
    return sum[0];
}

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

void FN(ek_conv_plane_forward)(const conv_sizes *s, const REAL *x, const REAL *w, REAL bias, REAL *y)
{
    FN(conv_plane_forward)(s, x, w, bias, y);
}

void FN(ek_conv_plane_dx)(const conv_sizes *s, const REAL *dy, const REAL *w, REAL *dx)
{
    FN(conv_plane_dx)(s, dy, w, dx);
}

REAL FN(ek_conv_plane_dw)(const conv_sizes *s, int64_t r, const REAL *x, int64_t x_step, const REAL *dy,
                          int64_t dy_step)
{
    return FN(conv_plane_dw)(s, conv_find_tap(s, r), x, x_step, dy, dy_step);
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

#define OP_FILE "conv_depthwise.c"
#include "foreach_real.h"
#endif
