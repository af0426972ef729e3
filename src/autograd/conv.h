/* What the passes of a convolution share: sizes and where things stand (conv_plan.c), packing (conv_pack.c), the outputs
 * that a tap reaches (conv_tap.c).  The passes themselves: op_conv2d.c.
 *
 * What a pass reads is packed into planes padded with zeros, one for each channel and each phase of the strides:
 * position (u, v) of phase (f, g) holds element (u·stride + phase(f) − padding, v·stride + phase(g) − padding) of the
 * image.  All lines of a plane have one pitch, so for the outputs numbered q = line·pitch + column, tap (channel, kh,
 * kw) reads packed[offset(tap) + q]: a row of the im2col matrix stands there already, and is never written.  The few q
 * at the end of each line that are no output are computed and dropped.  Zeros behind a line are those before the next.
 */
#ifndef EK_CONV_H
#define EK_CONV_H

#include "window.h"

/* Sizes of a convolution; c and o are channels per group. */
typedef struct conv_sizes {
    int64_t n, groups, c, o, rows; /* rows = c·KH·KW, the taps of an output */
    int64_t pixels, pixels_in;
    ek_window h, w;
    bool relu;                     /* y = max(…, 0) */
} conv_sizes;

/* One axis of what is packed. */
typedef struct conv_axis {
    int64_t in;
    int64_t stride, padding;    /* position u of phase f holds element u·stride + phase(f) − padding, or zero */
    int64_t phases, phase_step; /* phase(f) = f·phase_step, mod stride where they repeat */
    bool repeats;
    int64_t out, reach;         /* output u < out reads positions u … u + reach */
    int64_t strip, strips;      /* outputs of a strip, whose positions are packed at once */
    int64_t pitch;              /* positions from one line, or image, to the next */
    int64_t filled;             /* of them come from the image, what follows is zero */
} conv_axis;

typedef struct conv_layout {
    conv_axis h, w;
    int64_t channels;     /* of a group */
    int64_t pixels;       /* of a plane of the image */
    int64_t samples;      /* packed side by side, for a longer run of outputs: line u of all, then line u + 1 */
    int64_t stacks;       /* of so many samples */
    int64_t plane, numel; /* elements from plane to plane; of all planes and what is read behind them */
    bool in_place;        /* the images are laid out so already and are not packed */
} conv_layout;

/* One strip of a stack of samples, and some of its group's channels. */
typedef struct conv_place {
    int64_t sample, samples, group;
    int64_t row, rows, column, columns; /* its outputs */
    int64_t channel, channels;
} conv_place;

/* Where outputs of a strip go: output (u, v) to row first_h + u·step_h, column first_w + v·step_w of planes
 * [samples][groups·channels][pixels] of so many columns. */
typedef struct conv_target {
    int64_t first_h, step_h, count_h, first_w, step_w, count_w;
    int64_t channels, pixels, width;
    bool relu; /* y = max(v, 0) */
} conv_target;

/* ---- plan (conv_plan.c) ------------------------------------------------------------------------------------------- */
/* x, for y and dw.  A strip has about `run` outputs, with the samples of a stack. */
conv_layout ek_conv_layout_x(const conv_sizes *s, int64_t shortest_run, int64_t longest_run);
/* dy, for dx.  `masked`: by the output of a ReLU, so it cannot stay in place. */
conv_layout ek_conv_layout_dy(const conv_sizes *s, bool masked, int64_t shortest_run, int64_t longest_run);
/* dy, for dw: an output of the layout `x` stands at its q. */
conv_layout ek_conv_layout_outputs(const conv_sizes *s, const conv_layout *x, bool masked);
/* Changes the layouts of x and dy so that dy packed for dx serves dw too, shifted by conv_first(dy); false where they
 * cannot, or not within the cache, and then they are of no use. */
bool ek_conv_share(const conv_sizes *s, conv_layout *x, conv_layout *dy);
/* Strips of all stacks of all groups, and which one this is, with all channels. */
int64_t ek_conv_strips(const conv_sizes *s, const conv_layout *layout);
conv_place ek_conv_find_place(const conv_sizes *s, const conv_layout *layout, int64_t strip);
/* Where tap r of an output stands in x. */
void ek_conv_x_taps(const conv_sizes *s, const conv_layout *x, int64_t *offset);
/* The taps that phase (a, b) of dx has in dy, [≤ o·KH·KW]; their weights are at source + channel·KH·KW of the group's. */
int64_t ek_conv_dy_taps(const conv_sizes *s, const conv_layout *dy, int64_t a, int64_t b, int64_t *offset,
                        int64_t *source);
/* q of the first output of sample i, line u of a strip. */
static inline int64_t conv_line(const conv_layout *layout, int64_t sample, int64_t line)
{
    return (line * layout->samples + sample) * layout->w.pitch;
}

static inline int64_t conv_phase(const conv_axis *axis, int64_t f)
{
    return axis->repeats ? f * axis->phase_step % axis->stride : f * axis->phase_step;
}

/* With much fewer taps than output channels every tap gets a plane of its own, the im2col matrix after all: lines without a
 * gap make up for it, as dy can stay where it is. */
static inline bool conv_is_unrolled(const conv_sizes *s)
{
    return s->h.kernel * s->w.kernel > 1 && 2 * s->rows <= s->o;
}

/* Where the first element of a packed image stands. */
static inline int64_t conv_first(const conv_layout *layout)
{
    return conv_line(layout, 0, layout->h.padding) + layout->w.padding;
}

/* ---- packing (conv_pack.c) and single taps (conv_tap.c) ----------------------------------------------------------- */
#define CONV_KERNELS(REAL, FN)                                                                                         \
    /* The strip's planes of the images `from` [n][groups·channels][pixels], as elements 0 … numel − 1 of packed.  Where \
     * `relu` is given, the output of a ReLU laid out as `from`, its gradient: zero where it is not positive. */       \
    void FN(ek_conv_pack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at, const REAL *from,      \
                          const REAL *relu, REAL *packed);                                                             \
    /* packed[p·rows + i] = w[source[p] + i·step] for i < rows, p < taps; source NULL: p itself. */                    \
    void FN(ek_conv_pack_weights)(int64_t rows, int64_t taps, const REAL *w, const int64_t *source, int64_t step,      \
                                  REAL *packed);                                                                       \
    /* Those outputs among q = q0 … q0 + n − 1, in run [channels of the place][ld], plus bias[channel] to `to`. */     \
    void FN(ek_conv_unpack)(const conv_sizes *s, const conv_layout *layout, const conv_place *at,                      \
                            const conv_target *target, int64_t q0, int64_t n, const REAL *run, int64_t ld,             \
                            const REAL *bias, REAL *to);                                                               \
    /* dx [c, H, W] += what tap r of the outputs q0 … q0 + n − 1 [n] adds to it. */                                    \
    void FN(ek_conv_add_tap)(const conv_sizes *s, int64_t r, int64_t q0, int64_t n, const REAL *run, REAL *dx);
#define CONV_F32(name) name##_f32
#define CONV_F64(name) name##_f64
CONV_KERNELS(float, CONV_F32)
CONV_KERNELS(double, CONV_F64)
#undef CONV_KERNELS
#undef CONV_F32
#undef CONV_F64

#endif
