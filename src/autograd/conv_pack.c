/* Packing what a convolution reads, and unpacking what it makes (conv.h). */
#ifdef REAL

/* Runs of some 10 to 30 elements: a call of memcpy would cost as much as the copy, so vectors, of which the last may
 * overlap.  A type for each size, with the comparison's result. */
#define VECTOR(BYTES)                                                                                                  \
    typedef REAL FN(vector_##BYTES) __attribute__((vector_size(BYTES), aligned(sizeof(REAL)), may_alias));             \
    typedef FN(integer) FN(mask_##BYTES) __attribute__((vector_size(BYTES)));                                          \
    /* to = from, but 0 where `relu` is given and ≤ 0: a NaN there lets it pass. */                                    \
    EK_INLINE void FN(copy_##BYTES)(const REAL *from, const REAL *relu, REAL *to)                                  \
    {                                                                                                                  \
        FN(vector_##BYTES) x = *(const FN(vector_##BYTES) *)from;                                                      \
        if (relu)                                                                                                      \
            x = (FN(vector_##BYTES))((FN(mask_##BYTES))x & ~(*(const FN(vector_##BYTES) *)relu <= 0));                 \
        *(FN(vector_##BYTES) *)to = x;                                                                                 \
    }                                                                                                                  \
    /* to = from + bias, with `relu` 0 where that is less. */                                                          \
    EK_INLINE void FN(put_##BYTES)(const REAL *from, REAL bias, bool relu, REAL *to)                               \
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
#define SIZE ((int)sizeof(REAL))
#define LONG (64 / SIZE)

/* Every second element of a row, and back, by the lanes of V: shuffles of two vectors and lists of their indices. */
#define SECOND(L, V, ODD) (2 * (L) + (ODD))
#define EVEN(L, V, FIRST) ((L) % 2 ? (V) + (L) : (FIRST) + (L) / 2)
#define ODD(L, V, FIRST) ((L) % 2 ? (FIRST) + (L) / 2 : (V) + (L))
#define LANES_2(INDEX, L, V, X) INDEX(L, V, X), INDEX((L) + 1, V, X)
#define LANES_4(INDEX, L, V, X) LANES_2(INDEX, L, V, X), LANES_2(INDEX, (L) + 2, V, X)
#define LANES_8(INDEX, L, V, X) LANES_4(INDEX, L, V, X), LANES_4(INDEX, (L) + 4, V, X)
#define STRIDED(BYTES, V, LANES)                                                                                       \
    /* to[v] = from[2v + odd] */                                                                                       \
    EK_INLINE void FN(take_##BYTES)(const REAL *from, bool odd, REAL *to)                                          \
    {                                                                                                                  \
        const FN(vector_##BYTES) a = *(const FN(vector_##BYTES) *)from, b = *(const FN(vector_##BYTES) *)(from + (V)); \
        *(FN(vector_##BYTES) *)to = odd ? __builtin_shufflevector(a, b, LANES(SECOND, 0, V, 1))                        \
                                        : __builtin_shufflevector(a, b, LANES(SECOND, 0, V, 0));                       \
    }                                                                                                                  \
    /* to[2v] = from[v] for v < n, V < n, with all between them stored as it was.  The last vector starts one element  \
     * early, as the row may end with to[2n − 2]. */                                                                   \
    EK_INLINE void FN(spread_##BYTES)(int64_t n, const REAL *from, REAL bias, REAL *to)                            \
    {                                                                                                                  \
        REAL *const last = to + 2 * (n - (V)) - 1;                                                                     \
        const FN(vector_##BYTES) c = *(FN(vector_##BYTES) *)last, d = *(FN(vector_##BYTES) *)(last + (V));             \
        for (int64_t v = 0; v + (V) < n; v += (V)) {                                                                   \
            const FN(vector_##BYTES) y = *(const FN(vector_##BYTES) *)(from + v) + bias;                               \
            FN(vector_##BYTES) *at = (FN(vector_##BYTES) *)(to + 2 * v);                                               \
            const FN(vector_##BYTES) a = at[0], b = at[1];                                                             \
            at[0] = __builtin_shufflevector(y, a, LANES(EVEN, 0, V, 0));                                               \
            at[1] = __builtin_shufflevector(y, b, LANES(EVEN, 0, V, (V) / 2));                                         \
        }                                                                                                              \
        const FN(vector_##BYTES) y = *(const FN(vector_##BYTES) *)(from + n - (V)) + bias;                             \
        *(FN(vector_##BYTES) *)last = __builtin_shufflevector(y, c, LANES(ODD, 0, V, 0));                              \
        *(FN(vector_##BYTES) *)(last + (V)) = __builtin_shufflevector(y, d, LANES(ODD, 0, V, (V) / 2));                \
    }
#if REAL_IS_F32
STRIDED(32, 8, LANES_8)
STRIDED(16, 4, LANES_4)
#else
STRIDED(32, 4, LANES_4)
STRIDED(16, 2, LANES_2)
#endif
#undef STRIDED

/* n zeros, or a whole vector. */
EK_INLINE void FN(put_zeros)(int64_t n, REAL *to)
{
    if (n > LONG)
        memset(to, 0, (size_t)n * sizeof(REAL));
    else if (n > 0)
        *(FN(vector_64) *)to = (FN(vector_64)){0};
}

/* `lines` rows of `images` images, the rows `step` apart and the images image_step, each as n elements `stride` apart and
 * then zeros up to the pitch: those of a whole vector, as the next row overwrites what is too much.  Row u of all images
 * comes before row u + 1, and has room for `places` images.  Nothing outside the rows is read: the last vector of each
 * overlaps, and for a stride of 2 starts one element early. */
EK_INLINE void FN(copy_rows)(int64_t lines, int64_t images, int64_t places, int64_t n, int64_t pitch, const REAL *first,
                             const REAL *mask, int64_t step, int64_t image_step, const int64_t stride, REAL *to)
{
#define EACH_LINE(ROW)                                                                                                 \
    for (int64_t u = 0; u < lines; u++, to += (places - images) * pitch) {                                             \
        for (int64_t i = 0; i < images; i++, to += pitch) {                                                            \
            const REAL *from = first + u * step + i * image_step;                                                      \
            const REAL *relu = mask ? mask + (from - first) : NULL;                                                    \
            ROW;                                                                                                       \
            (void)relu;                                                                                                \
            FN(put_zeros)(pitch - n, to + n);                                                                          \
        }                                                                                                              \
        if (places > images)                                                                                           \
            FN(put_zeros)((places - images) * pitch, to);                                                              \
    }
#define COPY(BYTES, AT) FN(copy_##BYTES)(from + (AT), relu ? relu + (AT) : NULL, to + (AT))
#define LAST(BYTES) FN(take_##BYTES)(from + 2 * (n - (BYTES) / SIZE) - 1, true, to + n - (BYTES) / SIZE)
    if (stride == 2 && n > LONG / 2)
        EACH_LINE(for (int64_t v = 0; v < n - LONG / 2; v += LONG / 2) FN(take_32)(from + 2 * v, false, to + v);
                  LAST(32))
    else if (stride == 2 && n > LONG / 4)
        EACH_LINE(FN(take_16)(from, false, to); LAST(16))
    else if (stride == 1 && n >= LONG)
        EACH_LINE(for (int64_t v = 0; v < n - LONG; v += LONG) COPY(64, v); COPY(64, n - LONG))
    else if (stride == 1 && n >= LONG / 2)
        EACH_LINE(COPY(32, 0); COPY(32, n - LONG / 2))
    else if (stride == 1 && n >= LONG / 4)
        EACH_LINE(COPY(16, 0); COPY(16, n - LONG / 4))
    else
        EACH_LINE(for (int64_t v = 0; v < n; v++) to[v] = relu && relu[v] <= 0 ? 0 : from[v * stride])
#undef LAST
#undef COPY
#undef EACH_LINE
}

/* One phase of one channel of the images, image_step apart, to lines [h.pitch][samples][w.pitch] of a plane, and zeros up
 * to the next one. */
EK_KERNEL static void FN(conv_pack_plane)(const conv_layout *layout, const conv_place *at, int64_t phase_h,
                                          int64_t phase_w, const REAL *from, const REAL *relu, int64_t image_step,
                                          REAL *plane)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    int64_t top, bottom, left, right;
    conv_inside(h, at->row, phase_h, &top, &bottom);
    conv_inside(w, at->column, phase_w, &left, &right);
    if (top == bottom || left == right) {
        FN(put_zeros)(layout->plane, plane);
        return;
    }
    const int64_t above = conv_line(layout, 0, top) + left, end = conv_line(layout, 0, bottom) + left;
    const int64_t step = h->stride * w->in, lines = bottom - top, n = right - left, places = layout->samples;
    const int64_t first = ((at->row + top) * h->stride + phase_h - h->padding) * w->in +
                          (at->column + left) * w->stride + phase_w - w->padding;
    REAL *to = plane + above;
    from += first;
    FN(put_zeros)(above, plane);
    if (relu)
        FN(copy_rows)(lines, at->samples, places, n, w->pitch, from, relu + first, step, image_step, 1, to);
    else if (w->stride == 1)
        FN(copy_rows)(lines, at->samples, places, n, w->pitch, from, NULL, step, image_step, 1, to);
    else if (w->stride == 2)
        FN(copy_rows)(lines, at->samples, places, n, w->pitch, from, NULL, step, image_step, 2, to);
    else
        FN(copy_rows)(lines, at->samples, places, n, w->pitch, from, NULL, step, image_step, w->stride, to);
    FN(put_zeros)(layout->plane - end, plane + end);
}

void FN(ek_conv_pack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at, const REAL *from,
                      const REAL *relu, REAL *packed)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    const int64_t image_step = s->groups * layout->channels * layout->pixels;
    const int64_t first = at->sample * image_step + at->group * layout->channels * layout->pixels;
    REAL *plane = packed;
    for (int64_t c = at->channel; c < at->channel + at->channels; c++)
        for (int64_t f = 0; f < h->phases; f++)
            for (int64_t g = 0; g < w->phases; g++, plane += layout->plane) {
                const int64_t source = first + c * layout->pixels;
                FN(conv_pack_plane)(layout, at, conv_phase(h, f), conv_phase(w, g), from + source,
                                    relu ? relu + source : NULL, image_step, plane);
            }
    /* What is read behind the last plane. */
    const int64_t slack = layout->numel - layout->channels * h->phases * w->phases * layout->plane;
    memset(plane, 0, (size_t)slack * sizeof(REAL));
}

/* packed[p·rows + i] = w[source[p] + i·step]: 16 bytes at a time. */
EK_KERNEL static void FN(conv_pack_columns)(int64_t rows, int64_t taps, const REAL *w, const int64_t *source,
                                            int64_t step, REAL *packed)
{
    const int64_t whole = rows - rows % (LONG / 4);
    for (int64_t p = 0; p < taps; p++, packed += rows) {
        const REAL *from = w + (source ? source[p] : p);
        for (int64_t i = 0; i < whole; i += LONG / 4) {
            const REAL *at = from + i * step;
#if REAL_IS_F32
            *(FN(vector_16) *)(packed + i) = (FN(vector_16)){at[0], at[step], at[2 * step], at[3 * step]};
#else
            *(FN(vector_16) *)(packed + i) = (FN(vector_16)){at[0], at[step]};
#endif
        }
        for (int64_t i = whole; i < rows; i++)
            packed[i] = from[i * step];
    }
}

void FN(ek_conv_pack_weights)(int64_t rows, int64_t taps, const REAL *w, const int64_t *source, int64_t step,
                              REAL *packed)
{
    FN(conv_pack_columns)(rows, taps, w, source, step, packed);
}

/* to[v·step] = from[v] + bias for v < n, in lines; with relu nothing below 0. */
EK_INLINE void FN(put_some)(int64_t lines, int64_t n, const REAL *from, int64_t pitch, REAL bias, const bool relu,
                            int64_t step, REAL *to, int64_t line_step)
{
#define EACH_LINE(ROW)                                                                                                 \
    for (int64_t u = 0; u < lines; u++, from += pitch, to += line_step) {                                              \
        ROW;                                                                                                           \
    }
#define PUT(BYTES, AT) FN(put_##BYTES)(from + (AT), bias, relu, to + (AT))
    if (step == 1 && n >= LONG)
        EACH_LINE(for (int64_t v = 0; v < n - LONG; v += LONG) PUT(64, v); PUT(64, n - LONG))
    else if (step == 1 && n >= LONG / 2)
        EACH_LINE(PUT(32, 0); PUT(32, n - LONG / 2))
    else if (step == 1 && n >= LONG / 4)
        EACH_LINE(PUT(16, 0); PUT(16, n - LONG / 4))
    else if (step == 2 && !relu && n > LONG / 2)
        EACH_LINE(FN(spread_32)(n, from, bias, to))
    else if (step == 2 && !relu && n > LONG / 4)
        EACH_LINE(FN(spread_16)(n, from, bias, to))
    else
        EACH_LINE(for (int64_t v = 0; v < n; v++) {
            const REAL y = from[v] + bias;
            to[v * step] = relu && y < 0 ? 0 : y;
        })
#undef PUT
#undef EACH_LINE
}

EK_INLINE void FN(put_lines)(int64_t lines, int64_t n, const REAL *from, int64_t pitch, REAL bias, bool relu,
                             int64_t step, REAL *to, int64_t line_step)
{
    if (n == pitch && step == 1 && line_step == n) { /* no gaps: one long line */
        n *= lines;
        lines = 1;
    }
    if (relu)
        FN(put_some)(lines, n, from, pitch, bias, true, step, to, line_step);
    else
        FN(put_some)(lines, n, from, pitch, bias, false, step, to, line_step);
}

EK_KERNEL static void FN(conv_unpack_channels)(const conv_layout *layout, const conv_place *at,
                                               const conv_target *target, int64_t q0, int64_t n, const REAL *run,
                                               int64_t ld, const REAL *bias, int64_t sample_step, REAL *to)
{
    const int64_t pitch = conv_line(layout, 0, 1), left = target->count_h - at->row;
    const int64_t right = target->count_w - at->column;
    const int64_t rows = left < at->rows ? left : at->rows, columns = right < at->columns ? right : at->columns;
    const int64_t line_step = target->step_h * target->width;
    to += (target->first_h + at->row * target->step_h) * target->width + target->first_w + at->column * target->step_w;
    for (int64_t k = 0; k < at->samples && columns > 0; k++, to += sample_step) {
        const int64_t start = conv_line(layout, k, 0) - q0; /* of the sample's first line in the run */
        int64_t u = start + columns > 0 ? 0 : -(start + columns) / pitch + 1, lines;
        for (; u < rows && start + u * pitch < n; u += lines) {
            /* Whole lines, or the piece of one that is there. */
            const int64_t line = start + u * pitch, v0 = line < 0 ? -line : 0;
            const int64_t end = n - line < columns ? n - line : columns;
            lines = v0 > 0 || end < columns ? 1 : (n - line - columns) / pitch + 1;
            lines = lines < rows - u ? lines : rows - u;
            REAL *first = to + u * line_step + v0 * target->step_w;
            for (int64_t i = 0; i < at->channels; i++, first += target->pixels)
                FN(put_lines)(lines, end - v0, run + i * ld + line + v0, pitch, bias ? bias[i] : 0, target->relu,
                              target->step_w, first, line_step);
        }
    }
}

void FN(ek_conv_unpack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at, const conv_target *target,
                        int64_t q0, int64_t n, const REAL *run, int64_t ld, const REAL *bias, REAL *to)
{
    const int64_t sample_step = s->groups * target->channels * target->pixels;
    const int64_t channel = at->group * target->channels + at->channel;
    FN(conv_unpack_channels)(layout, at, target, q0, n, run, ld, bias ? bias + channel : NULL, sample_step,
                             to + at->sample * sample_step + channel * target->pixels);
}

#undef SECOND
#undef EVEN
#undef ODD
#undef LANES_2
#undef LANES_4
#undef LANES_8
#undef LONG
#undef SIZE

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
