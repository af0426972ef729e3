/* Cross-correlation, y[n, o, i] = b[o] + Σ_{c, k} w[o, c, k]·x[n, c, i·stride − padding + k·dilation], in two
 * dimensions, and in one as the case of height 1.  Expands to conv_forward_f32, conv_backward_f32 and their _f64 twins.
 *
 * Per sample and group it is a matrix product: with R = C/groups·KH·KW rows, P pixels of output and the columns
 * X [R, P] that hold what each output reads,   Y = W·X,   dX = Wᵀ·dY,   dW = Σ_samples dY·Xᵀ.
 * X is made (im2col) in strips of pixels small enough for the cache, and never kept.  A 1×1 kernel of stride 1 has
 * X = x.  With one input channel per group the sums are taken directly. */
#ifdef REAL

typedef struct {
    const conv_plan *plan;
    const REAL *x, *w, *b, *dy; /* [N, C, H, W], [O, C/groups, KH, KW], [O] or NULL, [N, O, OH, OW] */
    REAL *y, *dx, *dw;          /* dw: one copy of [O, R] for each chunk of samples */
    REAL *columns;              /* one strip for each chunk of the parallel loop */
    int64_t grain;
} FN(conv_arguments);

/* columns[r, p − p0] = x at tap r of output pixel p, for p0 ≤ p < p1; x: the group's channels. */
EK_KERNEL static void FN(conv_gather)(const conv_plan *s, const REAL *x, int64_t p0, int64_t p1, REAL *columns)
{
    const int64_t width = s->w.out, stride = s->w.stride;
    for (int64_t r = 0; r < s->rows; r++) {
        const conv_tap tap = conv_find_tap(s, r);
        int64_t i = p0 / width, j = p0 % width;
        for (int64_t left = p1 - p0; left > 0; i++, j = 0) { /* one row of output after the other */
            int64_t n = left < width - j ? left : width - j;
            int64_t begin = tap.left > j ? tap.left - j : 0, end = tap.right > j ? tap.right - j : 0;
            begin = begin > n || i < tap.top || i >= tap.bottom ? n : begin; /* zeros up to here: they are padding */
            end = end > n ? n : end < begin ? begin : end;                   /* and from here on */
            const REAL *in = x + tap.offset + i * s->h.stride * s->w.in + j * stride;
            for (int64_t q = 0; q < begin; q++)
                columns[q] = 0;
            if (stride == 1)
                for (int64_t q = begin; q < end; q++)
                    columns[q] = in[q];
            else
                for (int64_t q = begin; q < end; q++)
                    columns[q] = in[q * stride];
            for (int64_t q = end; q < n; q++)
                columns[q] = 0;
            columns += n;
            left -= n;
        }
    }
}

/* x += columns: each column back to where conv_gather reads it. */
EK_KERNEL static void FN(conv_spread)(const conv_plan *s, const REAL *columns, int64_t p0, int64_t p1, REAL *x)
{
    const int64_t width = s->w.out, stride = s->w.stride;
    for (int64_t r = 0; r < s->rows; r++) {
        const conv_tap tap = conv_find_tap(s, r);
        int64_t i = p0 / width, j = p0 % width;
        for (int64_t left = p1 - p0; left > 0; i++, j = 0) {
            int64_t n = left < width - j ? left : width - j;
            int64_t begin = tap.left > j ? tap.left - j : 0, end = tap.right - j < n ? tap.right - j : n;
            if (i >= tap.top && i < tap.bottom) {
                REAL *out = x + tap.offset + i * s->h.stride * s->w.in + j * stride;
                if (stride == 1)
                    for (int64_t q = begin; q < end; q++)
                        out[q] += columns[q];
                else
                    for (int64_t q = begin; q < end; q++)
                        out[q * stride] += columns[q];
            }
            columns += n;
            left -= n;
        }
    }
}

/* The columns of pixels p0 … p1−1 for one sample and group, [R, p1 − p0] with row stride *ld. */
static const REAL *FN(conv_columns)(const conv_plan *s, const REAL *x, int64_t p0, int64_t p1, REAL *strip, int64_t *ld)
{
    if (s->pointwise) {
        *ld = s->pixels;
        return x + p0;
    }
    FN(conv_gather)(s, x, p0, p1, strip);
    *ld = p1 - p0;
    return strip;
}

/* The strip that belongs to the chunk starting at `begin`; NULL where none is needed. */
static REAL *FN(conv_strip)(const FN(conv_arguments) *g, int64_t begin)
{
    return g->columns ? g->columns + begin / g->grain * g->plan->strip_numel : NULL;
}

/* Y = W·X + b for the strips begin … end−1, numbered (sample, group, strip). */
static void FN(conv_forward_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    REAL *strip = FN(conv_strip)(g, begin);
    for (int64_t unit = begin; unit < end; unit++) {
        int64_t block = unit / s->strips, group = block % s->groups, p0 = unit % s->strips * s->strip, ld;
        int64_t p1 = p0 + s->strip < s->pixels ? p0 + s->strip : s->pixels;
        const REAL *columns = FN(conv_columns)(s, g->x + block * s->c * s->pixels_in, p0, p1, strip, &ld);
        REAL *y = g->y + block * s->o * s->pixels + p0;
        for (int64_t o = 0; g->b && o < s->o; o++)
            for (int64_t p = 0; p < p1 - p0; p++)
                y[o * s->pixels + p] = g->b[group * s->o + o];
        FN(ek_gemm_serial)(false, false, s->o, p1 - p0, s->rows, g->w + group * s->o * s->rows, s->rows, columns, ld, y,
                           s->pixels, g->b != NULL);
    }
}

/* dX = Wᵀ·dY, spread to dx [N, C, H, W], for the blocks begin … end−1, numbered (sample, group). */
static void FN(conv_dx_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    REAL *strip = FN(conv_strip)(g, begin);
    for (int64_t block = begin; block < end; block++) {
        const REAL *w = g->w + block % s->groups * s->o * s->rows, *dy = g->dy + block * s->o * s->pixels;
        REAL *dx = g->dx + block * s->c * s->pixels_in;
        if (s->pointwise) {
            FN(ek_gemm_serial)(true, false, s->c, s->pixels, s->o, w, s->rows, dy, s->pixels, dx, s->pixels, false);
            continue;
        }
        memset(dx, 0, (size_t)(s->c * s->pixels_in) * sizeof(REAL));
        for (int64_t p0 = 0; p0 < s->pixels; p0 += s->strip) {
            int64_t p1 = p0 + s->strip < s->pixels ? p0 + s->strip : s->pixels;
            FN(ek_gemm_serial)(true, false, s->rows, p1 - p0, s->o, w, s->rows, dy + p0, s->pixels, strip, p1 - p0,
                               false);
            FN(conv_spread)(s, strip, p0, p1, dx);
        }
    }
}

/* dW = Σ dY·Xᵀ over the samples begin … end−1, one chunk, into the chunk's own copy. */
static void FN(conv_dw_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    int64_t chunk = begin / g->grain, ld;
    REAL *strip = FN(conv_strip)(g, begin), *dw = g->dw + chunk * s->groups * s->o * s->rows;
    for (int64_t block = begin * s->groups; block < end * s->groups; block++)
        for (int64_t p0 = 0; p0 < s->pixels; p0 += s->strip) {
            int64_t p1 = p0 + s->strip < s->pixels ? p0 + s->strip : s->pixels;
            const REAL *columns = FN(conv_columns)(s, g->x + block * s->c * s->pixels_in, p0, p1, strip, &ld);
            bool first = p0 == 0 && block < (begin + 1) * s->groups;
            FN(ek_gemm_serial)(false, true, s->o, s->rows, p1 - p0, g->dy + block * s->o * s->pixels + p0, s->pixels,
                               columns, ld, dw + block % s->groups * s->o * s->rows, s->rows, !first);
        }
}

/* One input channel per group: y [OH, OW] = b + Σ_taps w·x, for x [H, W] and w [KH, KW]. */
EK_KERNEL static void FN(conv_plane_forward)(const conv_plan *s, const REAL *x, const REAL *w, REAL bias, REAL *y)
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
EK_KERNEL static void FN(conv_plane_dx)(const conv_plan *s, const REAL *dy, const REAL *w, REAL *dx)
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
EK_KERNEL static REAL FN(conv_plane_dw)(const conv_plan *s, conv_tap tap, const REAL *x, int64_t x_step, const REAL *dy,
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

/* Output planes begin … end−1, numbered (sample, output channel). */
static void FN(depthwise_forward_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    for (int64_t plane = begin; plane < end; plane++) {
        int64_t o = plane % (s->groups * s->o);
        FN(conv_plane_forward)(s, g->x + plane / s->o * s->pixels_in, g->w + o * s->rows, g->b ? g->b[o] : 0,
                               g->y + plane * s->pixels);
    }
}

/* Input planes begin … end−1, numbered (sample, channel); each feeds s->o output channels. */
static void FN(depthwise_dx_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    memset(g->dx + begin * s->pixels_in, 0, (size_t)((end - begin) * s->pixels_in) * sizeof(REAL));
    for (int64_t plane = begin; plane < end; plane++)
        for (int64_t o = 0; o < s->o; o++)
            FN(conv_plane_dx)(s, g->dy + (plane * s->o + o) * s->pixels,
                              g->w + (plane % s->groups * s->o + o) * s->rows, g->dx + plane * s->pixels_in);
}

/* Weights begin … end−1 of dw [O, KH·KW]. */
static void FN(depthwise_dw_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_arguments) *g = context;
    const conv_plan *s = g->plan;
    for (int64_t i = begin; i < end; i++) {
        int64_t o = i / s->rows;
        g->dw[i] = FN(conv_plane_dw)(s, conv_find_tap(s, i % s->rows), g->x + o / s->o * s->pixels_in,
                                     s->groups * s->pixels_in, g->dy + o * s->pixels, s->groups * s->o * s->pixels);
    }
}

/* Runs `body` over n units in at most `most` chunks, each with a strip of its own. */
static ek_status FN(conv_run)(ek_node *node, FN(conv_arguments) *g, int64_t n, double unit_work, int64_t most,
                              ek_range_body body)
{
    g->grain = conv_grain(n, unit_work, conv_most_chunks(g->plan, most));
    int64_t chunks = (n + g->grain - 1) / g->grain;
    /* Also of no bytes, where strips are not needed: a null pointer takes no offset, not even 0. */
    g->columns = ek_node_scratch(node, (size_t)(chunks * g->plan->strip_numel) * sizeof(REAL));
    if (!g->columns)
        return EK_ERR_MEMORY;
    ek_parallel_for(n, g->grain, body, g);
    return EK_OK;
}

static ek_status FN(conv_forward)(ek_node *node)
{
    const conv_plan s = conv_find(node);
    FN(conv_arguments) g = {.plan = &s, .x = node->in[0]->data, .w = node->in[1]->data,
                            .b = node->in[2] ? node->in[2]->data : NULL, .y = node->out->data};
    ek_status status =
        s.depthwise ? FN(conv_run)(node, &g, s.n * s.groups * s.o, s.work, MOST_CHUNKS, FN(depthwise_forward_range))
                    : FN(conv_run)(node, &g, s.n * s.groups * s.strips, s.work / (double)s.strips, MOST_CHUNKS,
                                   FN(conv_forward_range));
    if (status == EK_OK && s.relu)
        FN(ek_relu_in_place)(node->out->numel, g.y);
    return status;
}

/* dw [O, R], from one copy per chunk of samples. */
static ek_status FN(conv_dw)(ek_node *node, const conv_plan *s, FN(conv_arguments) *g, REAL *dw)
{
    int64_t weights = s->groups * s->o * s->rows, most = conv_most_chunks(s, conv_dw_chunks(weights));
    if (s->n == 0 || weights == 0) {
        memset(dw, 0, (size_t)weights * sizeof(REAL));
        return EK_OK;
    }
    double unit_work = s->work * (double)s->groups;
    int64_t grain = conv_grain(s->n, unit_work, most), chunks = (s->n + grain - 1) / grain;
    g->dw = chunks > 1 ? ek_node_scratch(node, (size_t)(chunks * weights) * sizeof(REAL)) : dw;
    if (!g->dw)
        return EK_ERR_MEMORY;
    ek_status status = FN(conv_run)(node, g, s->n, unit_work, most, FN(conv_dw_range));
    if (status != EK_OK || chunks == 1)
        return status;
    return FN(ek_reduce_sum)(node, g->dw, EK_SHAPE(chunks, weights), 1u << 0, 1, dw);
}

static ek_status FN(conv_backward)(ek_node *node)
{
    const conv_plan s = conv_find(node);
    FN(conv_arguments) g = {.plan = &s, .x = node->in[0]->data, .w = node->in[1]->data,
                            .dy = s.relu ? FN(ek_node_relu_grad)(node) : ek_node_grad_out(node),
                            .dx = ek_node_grad_in(node, 0)};
    if (!g.dy)
        return EK_ERR_MEMORY;
    REAL *dw = ek_node_grad_in(node, 1), *db = node->in[2] ? ek_node_grad_in(node, 2) : NULL;
    ek_status status = EK_OK;
    if (g.dx)
        status = FN(conv_run)(node, &g, s.n * s.groups, s.work, MOST_CHUNKS,
                              s.depthwise ? FN(depthwise_dx_range) : FN(conv_dx_range));
    if (dw && status == EK_OK && s.depthwise) {
        g.dw = dw;
        status = FN(conv_run)(node, &g, s.groups * s.o * s.rows, (double)s.n * (double)s.pixels, MOST_CHUNKS,
                              FN(depthwise_dw_range));
    } else if (dw && status == EK_OK) {
        status = FN(conv_dw)(node, &s, &g, dw);
    }
    if (db && status == EK_OK)
        status = FN(ek_reduce_sum)(node, g.dy, EK_SHAPE(s.n, s.groups * s.o, s.pixels), 1u << 0 | 1u << 2, 1, db);
    return status;
}

#else
#include "window.h"

/* A strip of columns holds about so many elements: 512 KiB of float, within the second-level cache.  Measured: half of
 * it is 4 % slower at 64 channels, and with 256 channels strips of less than 128 pixels cost a third. */
#define STRIP_NUMEL 131072
/* Chunks of a parallel loop that owns a strip each; multiplications that are worth a chunk (some 10 µs); elements of
 * all copies of dw together. */
enum { MOST_CHUNKS = 32, MOST_DW_CHUNKS = 16, SHORTEST_STRIP = 128 };
#define WORTH_A_CHUNK ((double)(1 << 19))
#define DW_COPIES_NUMEL ((int64_t)1 << 23)
/* Elements of all strips of a loop together: with very many channels fewer chunks run side by side. */
#define STRIPS_NUMEL ((int64_t)1 << 24)

/* Sizes of a convolution; c and o are channels per group. */
typedef struct conv_plan {
    int64_t n, groups, c, o, rows, pixels, pixels_in;
    ek_window h, w;
    int64_t strip, strips, strip_numel; /* pixels per strip, strips per sample, elements of one */
    double work;                        /* multiplications per sample and group (depthwise: per output plane) */
    bool pointwise, depthwise, relu;
} conv_plan;

/* Rows top … bottom−1 and columns left … right−1 of the output read tap r = (channel, kh, kw) inside the input, at
 * row·h.stride·w.in + column·w.stride + offset from the group's first channel. */
typedef struct conv_tap {
    int64_t top, bottom, left, right, offset;
} conv_tap;

static conv_tap conv_find_tap(const conv_plan *s, int64_t r)
{
    int64_t taps = s->h.kernel * s->w.kernel, kh = r % taps / s->w.kernel, kw = r % s->w.kernel;
    conv_tap tap = {.offset = r / taps * s->pixels_in + (kh * s->h.dilation - s->h.padding) * s->w.in +
                              kw * s->w.dilation - s->w.padding};
    ek_window_reach(&s->h, kh, &tap.top, &tap.bottom);
    ek_window_reach(&s->w, kw, &tap.left, &tap.right);
    return tap;
}

/* Units per chunk: by shape alone. */
static int64_t conv_grain(int64_t units, double unit_work, int64_t most_chunks)
{
    int64_t grain = (units + most_chunks - 1) / most_chunks;
    double worth = WORTH_A_CHUNK / (unit_work > 1 ? unit_work : 1);
    if ((double)grain < worth)
        grain = (int64_t)worth + 1;
    return grain > 0 ? grain : 1;
}

static int64_t conv_dw_chunks(int64_t weights)
{
    int64_t chunks = DW_COPIES_NUMEL / (weights > 0 ? weights : 1);
    return chunks < 2 ? 2 : chunks > MOST_DW_CHUNKS ? MOST_DW_CHUNKS : chunks;
}

static int64_t conv_most_chunks(const conv_plan *s, int64_t most)
{
    int64_t strips = STRIPS_NUMEL / (s->strip_numel > 0 ? s->strip_numel : 1);
    strips = strips < 2 ? 2 : strips;
    return strips < most ? strips : most;
}

/* The windows of x under w, without their outputs. */
static void conv_windows(const ek_conv_opts *opts, ek_shape x, ek_shape w, ek_window *height, ek_window *width)
{
    int rank = x.ndim - 2;
    *height = (ek_window){.in = 1, .kernel = 1, .stride = 1, .dilation = 1};
    if (rank == 2)
        *height = (ek_window){.in = x.dim[2], .kernel = w.dim[2], .stride = opts->stride[0],
                              .padding = opts->padding[0], .dilation = opts->dilation[0]};
    *width = (ek_window){.in = x.dim[rank + 1], .kernel = w.dim[rank + 1], .stride = opts->stride[rank - 1],
                         .padding = opts->padding[rank - 1], .dilation = opts->dilation[rank - 1]};
}

static conv_plan conv_find(const ek_node *node)
{
    const ek_conv_opts *opts = node->attributes;
    ek_shape x = node->in[0]->shape, w = node->in[1]->shape, y = node->out->shape;
    conv_plan s = {.n = x.dim[0], .groups = opts->groups, .c = w.dim[1], .o = w.dim[0] / opts->groups,
                   .relu = opts->relu};
    conv_windows(opts, x, w, &s.h, &s.w);
    s.h.out = y.ndim == 4 ? y.dim[2] : 1;
    s.w.out = y.dim[y.ndim - 1];
    s.rows = s.c * s.h.kernel * s.w.kernel;
    s.pixels = s.h.out * s.w.out;
    s.pixels_in = s.h.in * s.w.in;
    s.depthwise = s.c == 1 && s.groups > 1;
    s.work = (double)s.o * (double)s.rows * (double)s.pixels;
    if (s.depthwise)
        s.work /= (double)(s.o > 0 ? s.o : 1);
    s.pointwise = s.rows == s.c && s.h.stride == 1 && s.w.stride == 1 && s.h.padding == 0 && s.w.padding == 0;
    s.strip = STRIP_NUMEL / (s.rows > 0 ? s.rows : 1) / 16 * 16;
    s.strip = s.strip < SHORTEST_STRIP ? SHORTEST_STRIP : s.strip;
    s.strip = s.strip > s.pixels ? s.pixels : s.strip;
    s.strips = (s.pixels + s.strip - 1) / s.strip;
    s.strip_numel = s.pointwise || s.depthwise ? 0 : s.rows * s.strip;
    return s;
}

/* Ranks, channels and groups. */
static ek_status conv_check(const ek_node *node, int rank)
{
    const char *who = node->op->name, *x_axes = rank == 2 ? "(N, C, H, W)" : "(N, C, L)";
    const char *w_axes = rank == 2 ? "(O, C/groups, KH, KW)" : "(O, C/groups, K)";
    int64_t groups = ((const ek_conv_opts *)node->attributes)->groups;
    for (int i = 0; i < 3; i++)
        if (node->in[i] && ek_need_float(node, i) != EK_OK)
            return EK_ERR_DTYPE;
    ek_shape x = node->in[0]->shape, w = node->in[1]->shape;
    if (x.ndim != rank + 2)
        return ek_fail(EK_ERR_SHAPE, "%s: expected an input %s, got %s", who, x_axes, EK_TEXT(x));
    if (w.ndim != rank + 2)
        return ek_fail(EK_ERR_SHAPE, "%s: expected a weight %s, got %s", who, w_axes, EK_TEXT(w));
    if (groups < 1)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected at least 1 group, got %lld", who, (long long)groups);
    if (x.dim[1] % groups || w.dim[0] % groups)
        return ek_fail(EK_ERR_SHAPE, "%s: expected numbers of input and output channels that %lld groups divide, got "
                                     "%lld and %lld", who, (long long)groups, (long long)x.dim[1], (long long)w.dim[0]);
    if (w.dim[1] != x.dim[1] / groups)
        return ek_fail(EK_ERR_SHAPE, "%s: expected a weight %s with C/groups = %lld/%lld = %lld, got %s for the input "
                                     "%s", who, w_axes, (long long)x.dim[1], (long long)groups,
                       (long long)(x.dim[1] / groups), EK_TEXT(w), EK_TEXT(x));
    if (node->in[2] && !ek_shape_equal(node->in[2]->shape, EK_SHAPE(w.dim[0])))
        return ek_fail(EK_ERR_SHAPE, "%s: expected a bias of shape (%lld,) for a weight of shape %s, got %s", who,
                       (long long)w.dim[0], EK_TEXT(w), EK_TEXT(node->in[2]->shape));
    return EK_OK;
}

static ek_status conv_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype;
    int rank = node->op == ek_op_conv1d ? 1 : 2;
    ek_status status = conv_check(node, rank);
    if (status != EK_OK)
        return status;
    ek_window height, width;
    conv_windows(node->attributes, *shape, node->in[1]->shape, &height, &width);
    status = ek_window_fit(node->op->name, "height", &height);
    if (status == EK_OK)
        status = ek_window_fit(node->op->name, rank == 2 ? "width" : "length", &width);
    if (status != EK_OK)
        return status;
    shape->dim[1] = node->in[1]->shape.dim[0];
    if (rank == 2)
        shape->dim[2] = height.out;
    shape->dim[rank + 1] = width.out;
    return EK_OK;
}

/* Channels are mixed; batch and space stay where there is an output for each input. */
static ek_status conv_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *x = ek_node_lengths(node, 0);
    const ek_shape y = node->out->shape;
    ek_window window[2];
    if (!x)
        return EK_OK;
    conv_windows(node->attributes, node->in[0]->shape, node->in[1]->shape, &window[0], &window[1]);
    window[0].out = y.ndim == 4 ? y.dim[2] : 1;
    window[1].out = y.dim[y.ndim - 1];
    for (int k = 0; k < 2; k++) {
        int axis = k == 0 ? x->batch_axis : x->time_axis;
        if (axis == 1 || (axis > 1 && !ek_window_keeps(&window[axis == y.ndim - 1])))
            return EK_OK;
    }
    return ek_keep_first_lengths(node, lengths);
}

#define OP_FILE "op_conv2d.c"
#include "foreach_real.h"

static const ek_op conv1d_op = {.name = "conv1d", .optional_from = 2, .infer = conv_infer,
                                .forward = EK_BY_DTYPE(conv_forward), .backward = EK_BY_DTYPE(conv_backward),
                                .lengths = conv_lengths};
static const ek_op conv2d_op = {.name = "conv2d", .optional_from = 2, .infer = conv_infer,
                                .forward = EK_BY_DTYPE(conv_forward), .backward = EK_BY_DTYPE(conv_backward),
                                .lengths = conv_lengths};
const ek_op *const ek_op_conv1d = &conv1d_op;
const ek_op *const ek_op_conv2d = &conv2d_op;

ek_conv_opts ek_conv_opts_default(void)
{
    return (ek_conv_opts){.stride = {1, 1}, .padding = {0, 0}, .dilation = {1, 1}, .groups = 1};
}

static ek_tensor *conv(ek_tape *tape, const ek_op *op, ek_tensor *x, ek_tensor *w, ek_tensor *b,
                       const ek_conv_opts *opts)
{
    ek_conv_opts literal = opts ? *opts : ek_conv_opts_default();
    return ek_apply(tape, op, 3, (ek_tensor *[]){x, w, b}, &literal, sizeof literal);
}

ek_tensor *ek_conv1d(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b, const ek_conv_opts *opts)
{
    return conv(tape, ek_op_conv1d, x, w, b, opts);
}

ek_tensor *ek_conv2d(ek_tape *tape, ek_tensor *x, ek_tensor *w, ek_tensor *b, const ek_conv_opts *opts)
{
    return conv(tape, ek_op_conv2d, x, w, b, opts);
}
#endif
