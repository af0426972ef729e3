/* Packing what a convolution reads, and unpacking what it makes (conv.h). */
#ifdef REAL

/* A row of the image to a line: zeros, n elements that stand `stride` apart, zeros up to pitch.  Rows are short, so that
 * a call of memcpy costs as much as the copy: whole vectors, the last of which may overlap. */
static inline void FN(fill_line)(int64_t zeros, int64_t n, int64_t pitch, const REAL *from, int64_t stride, REAL *line)
{
    for (int64_t v = 0; v < zeros; v++)
        line[v] = 0;
    REAL *to = line + zeros;
    if (stride == 1 && n >= SHORT) {
        for (int64_t v = 0; v < n - SHORT; v += SHORT)
            memcpy(to + v, from + v, SHORT * sizeof(REAL));
        memcpy(to + n - SHORT, from + n - SHORT, SHORT * sizeof(REAL));
    } else {
        for (int64_t v = 0; v < n; v++)
            to[v] = from[v * stride];
    }
    for (int64_t v = zeros + n; v < pitch; v++)
        line[v] = 0;
}

/* The same of a gradient, zero where the ReLU's output is not positive (a NaN passes it on). */
static inline void FN(fill_masked)(int64_t zeros, int64_t n, int64_t pitch, const REAL *from, const REAL *relu,
                                   REAL *line)
{
    for (int64_t v = 0; v < zeros; v++)
        line[v] = 0;
    for (int64_t v = 0; v < n; v++)
        line[zeros + v] = relu[v] <= 0 ? 0 : from[v];
    for (int64_t v = zeros + n; v < pitch; v++)
        line[v] = 0;
}

/* One phase of one channel of one image [H, W] to lines [h.pitch][w.pitch]. */
EK_KERNEL static void FN(conv_pack_image)(const conv_layout *layout, const conv_place *at, int64_t phase_h,
                                          int64_t phase_w, const REAL *from, const REAL *relu, REAL *lines)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    int64_t begin, end;
    conv_inside(w, at->column, phase_w, &begin, &end);
    const int64_t first = (at->column + begin) * w->stride + phase_w - w->padding;
    for (int64_t u = 0; u < h->pitch; u++) {
        REAL *line = lines + u * w->pitch;
        const int64_t i = (at->row + u) * h->stride + phase_h - h->padding, row = i * w->in + first;
        if (u >= h->filled || i < 0 || i >= h->in || begin == end)
            memset(line, 0, (size_t)w->pitch * sizeof(REAL));
        else if (relu)
            FN(fill_masked)(begin, end - begin, w->pitch, from + row, relu + row, line);
        else
            FN(fill_line)(begin, end - begin, w->pitch, from + row, w->stride, line);
    }
}

void FN(ek_conv_pack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at, const REAL *from,
                      const REAL *relu, REAL *packed)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    const int64_t image = h->pitch * w->pitch, used = at->samples * image;
    REAL *plane = packed;
    for (int64_t c = at->channel; c < at->channel + at->channels; c++)
        for (int64_t f = 0; f < h->phases; f++)
            for (int64_t g = 0; g < w->phases; g++, plane += layout->plane) {
                for (int64_t i = 0; i < at->samples; i++) {
                    const int64_t source = (((at->sample + i) * s->groups + at->group) * layout->channels + c) *
                                           layout->pixels;
                    FN(conv_pack_image)(layout, at, f * h->phase_step % h->stride, g * w->phase_step % w->stride,
                                        from + source, relu ? relu + source : NULL, plane + i * image);
                }
                memset(plane + used, 0, (size_t)(layout->plane - used) * sizeof(REAL));
            }
    /* What is read behind the last plane. */
    const int64_t slack = layout->numel - layout->channels * h->phases * w->phases * layout->plane;
    memset(plane, 0, (size_t)slack * sizeof(REAL));
}

EK_KERNEL static void FN(conv_pack_columns)(int64_t rows, int64_t taps, const REAL *w, const int64_t *source,
                                            int64_t step, REAL *packed)
{
    for (int64_t p = 0; p < taps; p++) {
        const REAL *from = w + (source ? source[p] : p);
        for (int64_t i = 0; i < rows; i++)
            packed[p * rows + i] = from[i * step];
    }
}

void FN(ek_conv_pack_weights)(int64_t rows, int64_t taps, const REAL *w, const int64_t *source, int64_t step,
                              REAL *packed)
{
    FN(conv_pack_columns)(rows, taps, w, source, step, packed);
}

/* to[v] = from[v] + bias for v < SHORT. */
static inline void FN(put_vector)(const REAL *from, REAL bias, bool relu, REAL *to)
{
    REAL y[SHORT];
    for (int v = 0; v < SHORT; v++)
        y[v] = from[v] + bias;
    for (int v = 0; relu && v < SHORT; v++)
        y[v] = y[v] < 0 ? 0 : y[v];
    memcpy(to, y, sizeof y);
}

/* to[v·step] = from[v] + bias for v < n. */
static inline void FN(put_line)(int64_t n, const REAL *from, REAL bias, bool relu, int64_t step, REAL *to)
{
    if (step == 1 && n >= SHORT) {
        for (int64_t v = 0; v < n - SHORT; v += SHORT)
            FN(put_vector)(from + v, bias, relu, to + v);
        FN(put_vector)(from + n - SHORT, bias, relu, to + n - SHORT);
    } else {
        for (int64_t v = 0; v < n; v++) {
            const REAL y = from[v] + bias;
            to[v * step] = relu && y < 0 ? 0 : y;
        }
    }
}

EK_KERNEL static void FN(conv_unpack_channel)(const conv_layout *layout, const conv_place *at, const conv_target *target,
                                              int64_t q0, int64_t n, const REAL *run, REAL bias, int64_t sample_step,
                                              REAL *to)
{
    const int64_t pitch = layout->w.pitch, left = target->count_h - at->row, right = target->count_w - at->column;
    const int64_t rows = left < at->rows ? left : at->rows, columns = right < at->columns ? right : at->columns;
    int64_t line = q0 / pitch, v0 = q0 % pitch, sample = line / layout->h.pitch, u = line % layout->h.pitch;
    for (int64_t q = q0; q < q0 + n && sample < at->samples; q += pitch - v0, v0 = 0, u++) {
        if (u == layout->h.pitch) {
            u = 0;
            if (++sample == at->samples)
                break;
        }
        const int64_t end = columns < v0 + q0 + n - q ? columns : v0 + q0 + n - q;
        if (u < rows && v0 < end)
            FN(put_line)(end - v0, run + (q - q0), bias, target->relu, target->step_w,
                         to + sample * sample_step + (target->first_h + (at->row + u) * target->step_h) * target->width +
                             target->first_w + (at->column + v0) * target->step_w);
    }
}

void FN(ek_conv_unpack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at, const conv_target *target,
                        int64_t q0, int64_t n, const REAL *run, int64_t ld, const REAL *bias, REAL *to)
{
    const int64_t sample_step = s->groups * target->channels * target->pixels;
    for (int64_t i = 0; i < at->channels; i++) {
        const int64_t channel = at->group * target->channels + at->channel + i;
        FN(conv_unpack_channel)(layout, at, target, q0, n, run + i * ld, bias ? bias[channel] : 0, sample_step,
                                to + at->sample * sample_step + channel * target->pixels);
    }
}

#else
#include "conv.h"

enum { SHORT = 16 };

/* Positions begin … end−1 of a line of this strip come from the image. */
static void conv_inside(const conv_axis *w, int64_t column, int64_t phase, int64_t *begin, int64_t *end)
{
    /* ⌈(padding − phase)/stride⌉ is the first position of the image in the whole line, and so on. */
    const int64_t before = w->padding - phase, behind = w->in + before;
    *begin = (before > 0 ? (before + w->stride - 1) / w->stride : -(-before / w->stride)) - column;
    *end = (behind > 0 ? (behind + w->stride - 1) / w->stride : 0) - column;
    *begin = *begin < 0 ? 0 : *begin > w->filled ? w->filled : *begin;
    *end = *end < *begin ? *begin : *end > w->filled ? w->filled : *end;
}

#define OP_FILE "conv_pack.c"
#include "foreach_real.h"
#endif
