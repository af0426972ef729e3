/* Where the passes of a convolution find what they read (conv.h): by shape alone, so that results do not depend on the
 * number of threads. */
#include "conv.h"
#include "tile.h"

/* Elements packed at once: what a core's second-level cache holds beside the weights (640 KiB of float). */
#define PACKED_NUMEL ((int64_t)160 << 10)
/* Planes start at multiples of a vector, and not all in the same sets of the first-level cache. */
enum { PLANE_UNIT = 16, PLANE_ALIAS = 512 };

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return -floor_div(-a, b);
}

static int64_t clip(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

static int64_t greatest_common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Cuts the outputs into strips of at most `most`, all but the last of the same length. */
static void cut(conv_axis *axis, int64_t most)
{
    most = clip(most, 1, axis->out);
    axis->strips = ceil_div(axis->out, most);
    axis->strip = ceil_div(axis->out, axis->strips);
    axis->strips = ceil_div(axis->out, axis->strip);
}

/* The pitch: zeros behind the end of a line may be those before the next one starts, as many as every phase has. */
static void choose_pitch(conv_axis *axis)
{
    const int64_t span = axis->strip + axis->reach;
    int64_t lead = span, end = 0;
    for (int64_t f = 0; f < axis->phases; f++) {
        const int64_t phase = conv_phase(axis, f);
        const int64_t first = ceil_div(axis->padding - phase, axis->stride);
        const int64_t last = ceil_div(axis->in + axis->padding - phase, axis->stride);
        lead = clip(first, 0, lead);
        end = clip(last, end, span);
    }
    axis->pitch = span;
    if (axis->strips == 1)
        axis->pitch = end > span - lead ? end : span - lead;
    if (axis->pitch < axis->strip)
        axis->pitch = axis->strip;
    axis->filled = axis->pitch;
}

/* A plane has at least so many elements. */
static void measure(conv_layout *layout, int64_t least)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    const int64_t used = layout->samples * h->pitch * w->pitch;
    layout->plane = ceil_div(used > least ? used : least, PLANE_UNIT) * PLANE_UNIT;
    if (layout->plane % PLANE_ALIAS == 0)
        layout->plane += PLANE_UNIT;
    /* The last plane is read up to the last tap of the last output, and on to the end of a tile; packing writes whole
     * vectors. */
    const int64_t read = conv_line(layout, layout->samples - 1, h->strip - 1 + h->reach) + w->strip + w->reach +
                         2 * EK_TILE_MOST_COLUMNS;
    const int64_t planes = layout->channels * h->phases * w->phases;
    layout->numel = planes * layout->plane + (read > layout->plane + PLANE_UNIT ? read - layout->plane : PLANE_UNIT);
}

/* Strips whose positions fit PACKED_NUMEL and whose runs are not longer than asked for.  Where the run of a whole sample
 * is shorter, several samples, as long as there are some stacks: four, of positions that fit the cache; or, for scalar
 * products, for which short runs are worse, two. */
static void choose_strips(conv_layout *layout, int64_t n, int64_t shortest_run, int64_t longest_run)
{
    conv_axis *h = &layout->h, *w = &layout->w;
    const int64_t planes = layout->channels * h->phases * w->phases, least = h->reach > 4 ? h->reach : 4;
    cut(w, w->out);
    cut(h, h->out);
    choose_pitch(w);
    choose_pitch(h);
    layout->samples = 1;
    const int64_t lines = PACKED_NUMEL / (planes * w->pitch + 1) - h->reach, run_lines = longest_run / w->pitch;
    const int64_t most = clip(lines < run_lines ? lines : run_lines, least, h->out);
    if (most < h->out) {
        cut(h, most);
        choose_pitch(h);
    }
    int64_t columns = PACKED_NUMEL / (planes * (h->strip + h->reach) + 1) - w->reach;
    columns = columns < 4 * w->reach ? 4 * w->reach : columns;
    columns = columns < shortest_run ? shortest_run : columns;
    if (columns < w->out / 2) {
        cut(w, columns);
        choose_pitch(w);
    }
    const int64_t image = h->pitch * w->pitch;
    if (h->strips == 1 && w->strips == 1 && image < shortest_run) {
        const bool dots = longest_run < INT64_MAX;
        int64_t samples = ceil_div(shortest_run, image), fits = (dots ? 4 : 1) * PACKED_NUMEL / (planes * image + 1);
        samples = samples < fits ? samples : fits;
        layout->samples = clip(samples, 1, n / (dots ? 2 : 4) > 1 ? n / (dots ? 2 : 4) : 1);
    }
    layout->stacks = ceil_div(n, layout->samples);
    measure(layout, 0);
}

/* A kernel of 1×1 that moves by one reads the images as they are. */
static bool is_pointwise(const conv_sizes *s)
{
    return s->h.kernel == 1 && s->w.kernel == 1 && s->h.stride == 1 && s->w.stride == 1 && s->h.padding == 0 &&
           s->w.padding == 0;
}

/* Outputs that are a run of the image, in whole vectors: there is no room to read behind the last image. */
static bool fits_in_place(const conv_layout *layout)
{
    return layout->samples == 1 && layout->w.strips == 1 && layout->pixels % PLANE_UNIT == 0 &&
           (layout->h.strips == 1 || layout->h.strip * layout->w.out % PLANE_UNIT == 0);
}

static void choose_layout(conv_layout *layout, const conv_sizes *s, bool masked, int64_t shortest_run,
                          int64_t longest_run)
{
    choose_strips(layout, s->n, shortest_run, longest_run);
    layout->in_place = is_pointwise(s) && !masked && fits_in_place(layout);
    if (layout->in_place)
        layout->plane = layout->pixels;
}

static conv_axis axis_of_x(const ek_window *window, bool unrolled)
{
    if (unrolled)
        return (conv_axis){.in = window->in, .stride = window->stride, .padding = window->padding, .out = window->out,
                           .phases = window->kernel, .phase_step = window->dilation};
    conv_axis axis = {.in = window->in, .stride = window->stride, .padding = window->padding, .out = window->out,
                      .phase_step = window->dilation, .repeats = true,
                      .reach = (window->kernel - 1) * window->dilation / window->stride};
    /* Tap k has phase k·dilation mod stride; they repeat after stride/gcd taps. */
    axis.phases = window->stride / greatest_common_divisor(window->stride, window->dilation);
    axis.phases = axis.phases < window->kernel ? axis.phases : window->kernel;
    return axis;
}

conv_layout ek_conv_layout_x(const conv_sizes *s, int64_t shortest_run, int64_t longest_run)
{
    const bool unrolled = conv_is_unrolled(s);
    conv_layout layout = {.h = axis_of_x(&s->h, unrolled), .w = axis_of_x(&s->w, unrolled), .channels = s->c,
                          .pixels = s->pixels_in};
    choose_layout(&layout, s, false, shortest_run, longest_run);
    return layout;
}

/* dx[i] = Σ_k w[k]·dy[(i + padding − k·dilation)/stride] over the k that divide.  i = u·stride + a reads
 * dy[u + shift], shift = (a + padding − k·dilation)/stride, and every a < stride is a set of outputs of its own. */
static conv_axis axis_of_dy(const ek_window *window)
{
    const int64_t lead = -ceil_div(window->padding - (window->kernel - 1) * window->dilation, window->stride);
    return (conv_axis){.in = window->out, .stride = 1, .padding = lead, .phases = 1,
                       .out = ceil_div(window->in, window->stride),
                       .reach = ceil_div(window->padding, window->stride) + lead};
}

conv_layout ek_conv_layout_dy(const conv_sizes *s, bool masked, int64_t shortest_run, int64_t longest_run)
{
    conv_layout layout = {.h = axis_of_dy(&s->h), .w = axis_of_dy(&s->w), .channels = s->o, .pixels = s->pixels};
    choose_layout(&layout, s, masked, shortest_run, longest_run);
    return layout;
}

conv_layout ek_conv_layout_outputs(const conv_sizes *s, const conv_layout *x, bool masked)
{
    conv_layout layout = *x;
    layout.channels = s->o;
    layout.pixels = s->pixels;
    conv_axis *axes[] = {&layout.h, &layout.w};
    for (int i = 0; i < 2; i++) {
        axes[i]->in = axes[i]->out;
        axes[i]->stride = axes[i]->phases = 1;
        axes[i]->repeats = false;
        axes[i]->padding = axes[i]->reach = 0;
        axes[i]->filled = axes[i]->strip;
    }
    layout.in_place = !masked && fits_in_place(&layout) && layout.h.pitch == layout.h.strip &&
                      layout.w.pitch == layout.w.strip;
    if (layout.in_place)
        layout.plane = s->pixels;
    else
        measure(&layout, 0);
    return layout;
}

bool ek_conv_share(const conv_sizes *s, conv_layout *x, conv_layout *dy)
{
    conv_axis *x_axes[] = {&x->h, &x->w}, *dy_axes[] = {&dy->h, &dy->w};
    if (x->in_place || conv_is_unrolled(s))
        return false;
    for (int i = 0; i < 2; i++) {
        conv_axis *a = x_axes[i], *b = dy_axes[i];
        if (a->strips > 1 || b->strips > 1 || b->padding < 0)
            return false;
        int64_t pitch = a->pitch > b->pitch ? a->pitch : b->pitch;
        pitch = pitch > b->padding + b->in ? pitch : b->padding + b->in;
        a->pitch = a->filled = b->pitch = b->filled = pitch;
    }
    dy->samples = x->samples;
    dy->stacks = x->stacks;
    dy->in_place = false;
    measure(x, 0);
    /* All of dy, from its first element on, and the rest of its last vector. */
    measure(dy, conv_first(dy) + conv_line(dy, x->samples - 1, s->h.out - 1) + s->w.out + PLANE_UNIT);
    return x->numel + dy->numel <= 3 * PACKED_NUMEL / 2;
}

int64_t ek_conv_strips(const conv_sizes *s, const conv_layout *layout)
{
    return layout->stacks * s->groups * layout->h.strips * layout->w.strips;
}

conv_place ek_conv_find_place(const conv_sizes *s, const conv_layout *layout, int64_t strip)
{
    const conv_axis *h = &layout->h, *w = &layout->w;
    conv_place at = {.column = strip % w->strips * w->strip, .channels = layout->channels};
    strip /= w->strips;
    at.row = strip % h->strips * h->strip;
    strip /= h->strips;
    at.group = strip % s->groups;
    at.sample = strip / s->groups * layout->samples;
    at.samples = clip(s->n - at.sample, 0, layout->samples);
    at.rows = clip(h->out - at.row, 0, h->strip);
    at.columns = clip(w->out - at.column, 0, w->strip);
    return at;
}

/* Taps of the first channel by divisions, which take longer than all else; then those of each further one, of which
 * everything stands `step` behind that of the one before. */
static void repeat_taps(int64_t channels, int64_t taps, int64_t step, int64_t *value)
{
    for (int64_t i = taps; i < channels * taps; i++)
        value[i] = value[i - taps] + step;
}

void ek_conv_x_taps(const conv_sizes *s, const conv_layout *x, int64_t *offset)
{
    int64_t *tap = offset;
    for (int64_t kh = 0; s->c > 0 && kh < s->h.kernel; kh++)
        for (int64_t kw = 0; kw < s->w.kernel; kw++) {
            const int64_t plane = kh % x->h.phases * x->w.phases + kw % x->w.phases;
            *tap++ = plane * x->plane + (x->h.repeats ? conv_line(x, 0, kh * s->h.dilation / s->h.stride) : 0) +
                     (x->w.repeats ? kw * s->w.dilation / s->w.stride : 0);
        }
    repeat_taps(s->c, s->h.kernel * s->w.kernel, x->h.phases * x->w.phases * x->plane, offset);
}

int64_t ek_conv_dy_taps(const conv_sizes *s, const conv_layout *dy, int64_t a, int64_t b, int64_t *offset,
                        int64_t *source)
{
    int64_t taps = 0;
    for (int64_t kh = 0; s->o > 0 && kh < s->h.kernel; kh++) {
        const int64_t i = a + s->h.padding - kh * s->h.dilation;
        for (int64_t kw = 0; i % s->h.stride == 0 && kw < s->w.kernel; kw++) {
            const int64_t j = b + s->w.padding - kw * s->w.dilation;
            if (j % s->w.stride != 0)
                continue;
            offset[taps] = conv_line(dy, 0, i / s->h.stride + dy->h.padding) + j / s->w.stride + dy->w.padding;
            source[taps++] = kh * s->w.kernel + kw;
        }
    }
    repeat_taps(s->o, taps, dy->plane, offset);
    repeat_taps(s->o, taps, s->rows, source);
    return taps * s->o;
}
