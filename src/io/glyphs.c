/* The embedded data set: ten classes of strokes, drawn with everything about them at random.  It stands in for
 * handwritten digits on a machine without any files, and its spreads are chosen to be as hard: a linear model stays
 * under 85 % on held-out images, a small convolutional net passes 95 %. */
#include "dataset.h"

#include <math.h>

#define CLASSES 10
#define SIDE 28
#define PIXELS (SIDE * SIDE)
#define MAX_SEGMENTS 64
#define RIGHT_ANGLE 1.57079632679489661923

/* A stroke is a line from (x0, y0) to (x1, y1), or an arc of an ellipse around (x0, y0) with radii (x1, y1) from angle
 * `from` to angle `to`, in right angles.  x runs to the right and y down, both in −1 … 1. */
typedef struct stroke {
    enum { NONE, LINE, ARC } kind;
    float x0, y0, x1, y1, from, to;
} stroke;

#define MAX_STROKES 4
static const stroke signs[CLASSES][MAX_STROKES] = {
    /* ring */ {{ARC, 0, 0, 0.8f, 0.9f, 0, 4}},
    /* square */
    {{LINE, -0.75f, -0.8f, 0.75f, -0.8f, 0, 0}, {LINE, 0.75f, -0.8f, 0.75f, 0.8f, 0, 0},
     {LINE, 0.75f, 0.8f, -0.75f, 0.8f, 0, 0}, {LINE, -0.75f, 0.8f, -0.75f, -0.8f, 0, 0}},
    /* triangle */
    {{LINE, 0, -0.95f, 0.85f, 0.75f, 0, 0}, {LINE, 0.85f, 0.75f, -0.85f, 0.75f, 0, 0},
     {LINE, -0.85f, 0.75f, 0, -0.95f, 0, 0}},
    /* plus */ {{LINE, 0, -0.95f, 0, 0.95f, 0, 0}, {LINE, -0.9f, 0, 0.9f, 0, 0, 0}},
    /* cross */ {{LINE, -0.75f, -0.8f, 0.75f, 0.8f, 0, 0}, {LINE, 0.75f, -0.8f, -0.75f, 0.8f, 0, 0}},
    /* zigzag */
    {{LINE, -0.75f, -0.85f, 0.75f, -0.85f, 0, 0}, {LINE, 0.75f, -0.85f, -0.75f, 0.85f, 0, 0},
     {LINE, -0.75f, 0.85f, 0.75f, 0.85f, 0, 0}},
    /* eight */ {{ARC, 0, -0.48f, 0.5f, 0.46f, 1, 5}, {ARC, 0, 0.48f, 0.58f, 0.5f, -1, 3}},
    /* open ring with a bar */ {{ARC, 0.1f, 0, 0.8f, 0.9f, 0.55f, 3.45f}, {LINE, -0.7f, 0, 0.55f, 0, 0, 0}},
    /* arch */
    {{ARC, 0, -0.1f, 0.7f, 0.8f, 2, 4}, {LINE, -0.7f, -0.1f, -0.7f, 0.95f, 0, 0},
     {LINE, 0.7f, -0.1f, 0.7f, 0.95f, 0, 0}},
    /* fork */
    {{LINE, 0, 0.95f, 0, 0, 0, 0}, {LINE, 0, 0, -0.75f, -0.9f, 0, 0}, {LINE, 0, 0, 0.75f, -0.9f, 0, 0}},
};

/* How far each property strays; see draw_sign for what is drawn from what. */
static const struct {
    double turn, scale_low, scale_high, stretch, shear, shift, jitter, bend;
    double radius_low, radius_high, ink_low, ink_high, ground, slope, noise, cover;
} spread = {
    .turn = 0.35, .scale_low = 7.5, .scale_high = 10, .stretch = 0.15, .shear = 0.2, .shift = 2.75, .jitter = 0.35,
    .bend = 0.12, .radius_low = 0.5, .radius_high = 1.5, .ink_low = 0.45, .ink_high = 0.9, .ground = 0.25,
    .slope = 0.1, .noise = 0.08, .cover = 0.5,
};

typedef struct segment {
    float x0, y0, x1, y1;
} segment;

static double between(ek_rng *rng, double low, double high)
{
    return low + (high - low) * ek_rng_uniform(rng);
}

/* ---- geometry ---------------------------------------------------------------------------------------------------- */

/* Cuts the strokes of a sign into straight segments, in sign coordinates. */
static int flatten(const stroke *strokes, segment *out)
{
    int n = 0;
    for (int s = 0; s < MAX_STROKES && strokes[s].kind != NONE; s++) {
        const stroke *k = &strokes[s];
        int pieces = k->kind == LINE ? 4 : (int)ceil(4 * fabs((double)k->to - k->from));
        double x = 0, y = 0;
        for (int i = 0; i <= pieces; i++) {
            double t = (double)i / pieces, angle = (k->from + t * (k->to - k->from)) * RIGHT_ANGLE;
            double last_x = x, last_y = y;
            x = k->kind == LINE ? k->x0 + t * (k->x1 - k->x0) : k->x0 + k->x1 * cos(angle);
            y = k->kind == LINE ? k->y0 + t * (k->y1 - k->y0) : k->y0 + k->y1 * sin(angle);
            if (i > 0)
                out[n++] = (segment){(float)last_x, (float)last_y, (float)x, (float)y};
        }
    }
    return n;
}

/* An affine map from sign to pixel coordinates plus a slow wave, so that straight strokes bend. */
typedef struct placement {
    double xx, xy, yx, yy, x, y;
    double bend_x, bend_y, phase_x, phase_y;
} placement;

static placement place(ek_rng *rng)
{
    double turn = between(rng, -spread.turn, spread.turn), size = between(rng, spread.scale_low, spread.scale_high);
    double wide = size * exp(between(rng, -spread.stretch, spread.stretch));
    double high = size * exp(between(rng, -spread.stretch, spread.stretch));
    double shear = between(rng, -spread.shear, spread.shear), c = cos(turn), s = sin(turn);
    placement p = {.xx = c * wide, .xy = (c * shear - s) * high, .yx = s * wide, .yy = (s * shear + c) * high};
    p.x = (SIDE - 1) / 2.0 + between(rng, -spread.shift, spread.shift);
    p.y = (SIDE - 1) / 2.0 + between(rng, -spread.shift, spread.shift);
    p.bend_x = between(rng, -spread.bend, spread.bend);
    p.bend_y = between(rng, -spread.bend, spread.bend);
    p.phase_x = between(rng, 0, 4 * RIGHT_ANGLE);
    p.phase_y = between(rng, 0, 4 * RIGHT_ANGLE);
    return p;
}

static void move_point(const placement *p, float *x, float *y)
{
    double u = *x + p->bend_x * sin(3 * *y + p->phase_x), v = *y + p->bend_y * sin(3 * *x + p->phase_y);
    *x = (float)(p->x + p->xx * u + p->xy * v);
    *y = (float)(p->y + p->yx * u + p->yy * v);
}

/* ---- drawing ----------------------------------------------------------------------------------------------------- */

/* Squared distance of a point to a segment. */
static inline float distance2(const segment *s, float x, float y)
{
    float dx = s->x1 - s->x0, dy = s->y1 - s->y0, length2 = dx * dx + dy * dy;
    float t = length2 > 0 ? ((x - s->x0) * dx + (y - s->y0) * dy) / length2 : 0;
    t = t < 0 ? 0 : t > 1 ? 1 : t;
    float ex = x - s->x0 - t * dx, ey = y - s->y0 - t * dy;
    return ex * ex + ey * ey;
}

static int pixel_bound(float v)
{
    return v < 0 ? 0 : v > SIDE - 1 ? SIDE - 1 : (int)v;
}

/* ink [SIDE][SIDE] ← max(ink, coverage): 1 within `radius` of the segment, falling to 0 over one pixel. */
static void draw_segment(const segment *s, float radius, float *ink)
{
    float reach = radius + 1;
    int x0 = pixel_bound(fminf(s->x0, s->x1) - reach), x1 = pixel_bound(fmaxf(s->x0, s->x1) + reach + 1);
    int y0 = pixel_bound(fminf(s->y0, s->y1) - reach), y1 = pixel_bound(fmaxf(s->y0, s->y1) + reach + 1);
    for (int y = y0; y <= y1; y++)
        for (int x = x0; x <= x1; x++) {
            float d2 = distance2(s, (float)x, (float)y);
            if (d2 >= (radius + 0.5f) * (radius + 0.5f))
                continue;
            float cover = fminf(1, radius + 0.5f - sqrtf(d2));
            ink[y * SIDE + x] = fmaxf(ink[y * SIDE + x], cover);
        }
}

static void draw_sign(int label, ek_rng *rng, float *ink)
{
    segment segments[MAX_SEGMENTS];
    int n = flatten(signs[label], segments);
    placement p = place(rng);
    float radius = (float)between(rng, spread.radius_low, spread.radius_high);
    float shift_x = 0, shift_y = 0; /* of the last end, where the next segment begins */
    for (int i = 0; i < n; i++) {
        segment *s = &segments[i];
        move_point(&p, &s->x0, &s->y0);
        move_point(&p, &s->x1, &s->y1);
        s->x0 += shift_x;
        s->y0 += shift_y;
        shift_x = (float)between(rng, -spread.jitter, spread.jitter);
        shift_y = (float)between(rng, -spread.jitter, spread.jitter);
        s->x1 += shift_x;
        s->y1 += shift_y;
        draw_segment(s, radius, ink);
    }
}

/* Wipes a stripe across the sign away: half of the images are partly covered. */
static void cover_part(ek_rng *rng, float *ink)
{
    bool covered = ek_rng_uniform(rng) < spread.cover, across = ek_rng_uniform(rng) < 0.5;
    int width = 2 + (int)ek_rng_below(rng, 2), at = 5 + (int)ek_rng_below(rng, SIDE - 10 - width);
    for (int i = at; covered && i < at + width; i++)
        for (int j = 0; j < SIDE; j++)
            ink[across ? i * SIDE + j : j * SIDE + i] = 0;
}

/* image ← ground + slope + contrast·ink + noise, in [0, 1].  The noise is the sum of two uniform numbers, a triangle
 * of standard deviation spread.noise. */
static void shade(ek_rng *rng, const float *ink, float *image)
{
    float ground = (float)between(rng, 0, spread.ground);
    float contrast = (float)between(rng, spread.ink_low, spread.ink_high);
    float slope_x = (float)between(rng, -spread.slope, spread.slope) / SIDE;
    float slope_y = (float)between(rng, -spread.slope, spread.slope) / SIDE;
    float noise = (float)(spread.noise * 2.449489742783178 / 65536); /* √6 per uniform pair, of 16 bits each */
    for (int i = 0; i < PIXELS; i += 4) {
        uint32_t word[4];
        ek_philox(rng->key, rng->counter++, word);
        for (int j = i; j < i + 4; j++) {
            int32_t pair = (int32_t)(word[j - i] & 0xFFFF) + (int32_t)(word[j - i] >> 16) - 65535;
            float value = ground + slope_x * (float)(j % SIDE - SIDE / 2) + slope_y * (float)(j / SIDE - SIDE / 2) +
                          contrast * ink[j] + noise * (float)pair;
            image[j] = value < 0 ? 0 : value > 1 ? 1 : value;
        }
    }
}

/* ---- the data set ------------------------------------------------------------------------------------------------ */

typedef struct glyph_job {
    ek_rng images, orders; /* block i of either is image i's, or the i-th ten's, own key */
    float *x;              /* [n][SIDE][SIDE] */
    int64_t *y;            /* [n] */
} glyph_job;

static void draw_range(void *context, int64_t begin, int64_t end)
{
    const glyph_job *job = context;
    for (int64_t i = begin; i < end; i++) {
        int64_t order[CLASSES];
        ek_rng order_rng = ek_rng_child(job->orders, i / CLASSES), rng = ek_rng_child(job->images, i);
        ek_rng_permutation(&order_rng, CLASSES, order);
        job->y[i] = order[i % CLASSES];
        float ink[PIXELS] = {0};
        draw_sign((int)job->y[i], &rng, ink);
        cover_part(&rng, ink);
        shade(&rng, ink, job->x + i * PIXELS);
    }
}

ek_dataset *ek_dataset_glyphs(int64_t n, uint64_t seed, ek_split split)
{
    const char *who = "dataset_glyphs";
    if (n < 1 || (split != EK_TRAIN && split != EK_TEST)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected at least one image and EK_TRAIN or EK_TEST, got %lld and %d", who,
                (long long)n, (int)split);
        return NULL;
    }
    ek_tensor *x = ek_tensor_new(EK_F32, EK_SHAPE(n, 1, SIDE, SIDE));
    ek_tensor *y = x ? ek_tensor_new(EK_I64, EK_SHAPE(n)) : NULL;
    if (y) {
        glyph_job job = {.x = x->data, .y = y->data};
        job.images = ek_rng_named(seed, split == EK_TRAIN ? "glyphs.train" : "glyphs.test");
        job.orders = ek_rng_named(seed, split == EK_TRAIN ? "glyphs.train.order" : "glyphs.test.order");
        ek_parallel_for(n, 64, draw_range, &job);
    }
    return ek_dataset_own(who, x, y, CLASSES);
}
