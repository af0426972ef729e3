/* Packing what a convolution reads, and unpacking what it makes (conv.h). */
#ifdef REAL

/* Runs of some 10 to 30 elements: a call of memcpy would cost as much as the copy, so vectors, of which the last may
 * overlap.  A type for each size, with the comparison's result. */
#define VECTOR(BYTES)                                                                                                  \
    typedef REAL FN(vector_##BYTES) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));             \
    typedef FN(integer) FN(mask_##BYTES) __attribute__((vector_size(BYTES)));                                          \
    /* to = from, but 0 where `relu` is given and ≤ 0: a NaN there lets it pass. */                                    \
    static inline void FN(copy_##BYTES)(const REAL *from, const REAL *relu, REAL *to)                                  \
    {                                                                                                                  \
        FN(vector_##BYTES) x = *(const FN(vector_##BYTES) *)from;                                                      \
        if (relu)                                                                                                      \
            x = (FN(vector_##BYTES))((FN(mask_##BYTES))x & ~(*(const FN(vector_##BYTES) *)relu <= 0));                 \
        *(FN(vector_##BYTES) *)to = x;                                                                                 \
    }                                                                                                                  \
    /* to = from + bias, with `relu` 0 where that is less. */                                                          \
    static inline void FN(put_##BYTES)(const REAL *from, REAL bias, bool relu, REAL *to)                               \
    {                                                                                                                  \
        FN(vector_##BYTES) y = *(const FN(vector_##BYTES) *)from + bias;                                               \
        if (relu)                                                                                                      \
            y = (FN(vector_##BYTES))((FN(mask_##BYTES))y & ~(y < 0));                                                  \
        *(FN(vector_##BYTES) *)to = y;                                                                                 \
    }
#if REAL_IS_F32
typedef int32_t FN(integer);
#else
typedef int64_t FN(integer);
#endif
VECTOR(64)
VECTOR(32)
VECTOR(16)
#undef VECTOR
#define LONG ((int)(64 / sizeof(REAL)))

static inline void FN(copy_row)(int64_t n, const REAL *from, const REAL *relu, REAL *to)
{
#define COPY(BYTES, AT) FN(copy_##BYTES)(from + (AT), relu ? relu + (AT) : NULL, to + (AT))
    if (n >= LONG) {
        for (int64_t v = 0; v < n - LONG; v += LONG)
            COPY(64, v);
        COPY(64, n - LONG);
    } else if (n >= LONG / 2) {
        COPY(32, 0);
        COPY(32, n - LONG / 2);
    } else if (n >= LONG / 4) {
        COPY(16, 0);
        COPY(16, n - LONG / 4);
    } else {
        for (int64_t v = 0; v < n; v++)
            to[v] = relu && relu[v] <= 0 ? 0 : from[v];
    }
#undef COPY
}

/* `lines` rows of an image that start `step` apart, each as n elements `stride` apart and then zeros up to the pitch:
 * those of a whole vector, as the next line overwrites what is too much. */
static inline void FN(copy_rows)(int64_t lines, int64_t n, int64_t pitch, const REAL *from, const REAL *relu,
                                 int64_t step, int64_t stride, REAL *to)
{
    const FN(vector_64) zeros = {0};
    for (int64_t u = 0; u < lines; u++, from += step, to += pitch) {
        if (stride == 1)
            FN(copy_row)(n, from, relu ? relu + u * step : NULL, to);
        else
            for (int64_t v = 0; v < n; v++)
                to[v] = from[v * stride];
        if (pitch - n <= LONG)
            *(FN(vector_64) *)(to + n) = zeros;
        else
            memset(to + n, 0, (size_t)(pitch - n) * sizeof(REAL));
    }
}

/* One phase of one channel of one image [H, W] to lines [h.pitch][w.pitch] and up to a vector of zeros behind them. */
EK_KERNEL static void FN(conv_pack_image)(const conv_layout *layout, const conv_place *at, int64_t phase_h,
                                          int64_t phase_w, const REAL *from, const REAL *relu, REAL *lines)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    const int64_t pitch = w->pitch;
    int64_t top, bottom, left, right;
    conv_inside(h, at->row, phase_h, &top, &bottom);
    conv_inside(w, at->column, phase_w, &left, &right);
    if (left == right)
        bottom = top;
    const int64_t above = top < bottom ? top * pitch + left : h->pitch * pitch;
    memset(lines, 0, (size_t)above * sizeof(REAL));
    if (top == bottom)
        return;
    const int64_t first = ((at->row + top) * h->stride + phase_h - h->padding) * w->in +
                          (at->column + left) * w->stride + phase_w - w->padding;
    from += first;
    lines += above;
    if (relu)
        FN(copy_rows)(bottom - top, right - left, pitch, from, relu + first, h->stride * w->in, 1, lines);
    else if (w->stride == 1)
        FN(copy_rows)(bottom - top, right - left, pitch, from, NULL, h->stride * w->in, 1, lines);
    else
        FN(copy_rows)(bottom - top, right - left, pitch, from, NULL, h->stride * w->in, w->stride, lines);
    if (h->pitch > bottom)
        memset(lines + (bottom - top) * pitch, 0, (size_t)((h->pitch - bottom) * pitch - left) * sizeof(REAL));
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
                    FN(conv_pack_image)(layout, at, conv_phase(h, f), conv_phase(w, g),
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

/* to[v·step] = from[v] + bias for v < n, in lines; with relu nothing below 0. */
static inline void FN(put_lines)(int64_t lines, int64_t n, const REAL *from, int64_t pitch, REAL bias, bool relu,
                                 int64_t step, REAL *to, int64_t line_step)
{
    if (n == pitch && step == 1 && line_step == n) { /* no gaps: one long line */
        n *= lines;
        lines = 1;
    }
    for (int64_t u = 0; u < lines; u++, from += pitch, to += line_step) {
        if (step == 1 && n >= LONG) {
            for (int64_t v = 0; v < n - LONG; v += LONG)
                FN(put_64)(from + v, bias, relu, to + v);
            FN(put_64)(from + n - LONG, bias, relu, to + n - LONG);
        } else if (step == 1 && n >= LONG / 2) {
            FN(put_32)(from, bias, relu, to);
            FN(put_32)(from + n - LONG / 2, bias, relu, to + n - LONG / 2);
        } else if (step == 1 && n >= LONG / 4) {
            FN(put_16)(from, bias, relu, to);
            FN(put_16)(from + n - LONG / 4, bias, relu, to + n - LONG / 4);
        } else {
            for (int64_t v = 0; v < n; v++) {
                const REAL y = from[v] + bias;
                to[v * step] = relu && y < 0 ? 0 : y;
            }
        }
    }
}

EK_KERNEL static void FN(conv_unpack_channel)(const conv_layout *layout, const conv_place *at, const conv_target *target,
                                              int64_t q0, int64_t n, const REAL *run, REAL bias, int64_t sample_step,
                                              REAL *to)
{
    const int64_t pitch = layout->w.pitch, left = target->count_h - at->row, right = target->count_w - at->column;
    const int64_t rows = left < at->rows ? left : at->rows, columns = right < at->columns ? right : at->columns;
    const int64_t line_step = target->step_h * target->width;
    int64_t line = q0 / pitch, v0 = q0 % pitch, sample = line / layout->h.pitch, u = line % layout->h.pitch, q = 0;
    for (; q < n && sample < at->samples; v0 = 0) {
        /* Whole lines, or the piece of one that is there. */
        int64_t lines = v0 > 0 || n - q < columns ? 1 : (n - q - columns) / pitch + 1;
        lines = lines < rows - u ? lines : rows - u;
        const int64_t end = v0 + n - q < columns ? v0 + n - q : columns;
        REAL *first = to + sample * sample_step + target->first_h * target->width + (at->row + u) * line_step +
                      target->first_w + (at->column + v0) * target->step_w;
        if (lines > 0 && v0 < end && target->relu)
            FN(put_lines)(lines, end - v0, run + q, pitch, bias, true, target->step_w, first, line_step);
        else if (lines > 0 && v0 < end)
            FN(put_lines)(lines, end - v0, run + q, pitch, bias, false, target->step_w, first, line_step);
        lines = lines > 0 ? lines : layout->h.pitch - u; /* on to the next sample */
        q += lines * pitch - v0;
        u += lines;
        if (u == layout->h.pitch) {
            u = 0;
            sample++;
        }
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

#undef LONG

#else
#include "conv.h"

/* Positions begin … end−1 of a strip come from the image. */
static void conv_inside(const conv_axis *axis, int64_t strip, int64_t phase, int64_t *begin, int64_t *end)
{
    /* ⌈(padding − phase)/stride⌉ is the first position of the image, and so on. */
    const int64_t before = axis->padding - phase, behind = axis->in + before, stride = axis->stride;
    *begin = (before > 0 ? (before + stride - 1) / stride : -(-before / stride)) - strip;
    *end = (behind > 0 ? (behind + stride - 1) / stride : 0) - strip;
    *begin = *begin < 0 ? 0 : *begin > axis->filled ? axis->filled : *begin;
    *end = *end < *begin ? *begin : *end > axis->filled ? axis->filled : *end;
}

#define OP_FILE "conv_pack.c"
#include "foreach_real.h"
#endif
