/* Cross-correlation, y[n, o, i] = b[o] + Σ_{c, k} w[o, c, k]·x[n, c, i·stride − padding + k·dilation], in two
 * dimensions, and in one as the case of height 1.  Expands to conv_forward_f32, conv_backward_f32 and their _f64 twins.
 *
 * With a sample packed as conv.h says, tap r = (c, k) of the outputs q of a channel is one run of memory, x[offset(r) +
 * q], and y[o, q] = Σ_r w[o, r]·x[offset(r) + q] is a product of register tiles (tile.h).  The gradient of x is the same
 * product over dy for each phase of the strides, with the weights that reach it.  The gradient of the weights is
 * dw[o, r] = Σ_q dy[o, q]·x[offset(r) + q], summed over a chunk of strips, and then over the chunks in their order. */
#ifdef REAL

/* One set of outputs that share their taps: all of y; one phase of dx. */
typedef struct {
    conv_target target;
    int64_t taps;
    const int64_t *offset, *source; /* [taps] */
    const REAL *weights;            /* [groups] × tiles of channels, [taps][rows] each */
} FN(conv_outputs);

typedef struct {
    const conv_sizes *s;
    const conv_layout *layout;
    const FN(ek_tile_kernels) *tile;
    const REAL *from, *relu, *bias; /* bias and relu (the output of a ReLU that hides `from`) may be NULL */
    REAL *to;
    int64_t sets, parts;            /* parts: into which the channels of `to` are cut */
    bool columns;                   /* channels are taps of x, to be added to dx where each belongs */
    FN(conv_outputs) *set;
    REAL *scratch;                  /* per thread: run, then packed */
    int64_t scratch_numel;
} FN(conv_product);

/* Weights of the channels of all groups in tiles: `step` apart per channel of a group, group_step per group. */
typedef struct {
    const FN(conv_product) *g;
    const REAL *w;
    REAL *packed;
    int64_t set, channels, tiles, step, group_step;
} FN(conv_weights);

static void FN(conv_weights_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_weights) *p = context;
    const FN(conv_outputs) *set = &p->g->set[p->set];
    for (int64_t i = begin; i < end; i++) {
        const int64_t group = i / p->tiles, first = i % p->tiles * p->g->tile->rows, left = p->channels - first;
        FN(ek_conv_pack_weights)(left < p->g->tile->rows ? left : p->g->tile->rows, set->taps,
                                 p->w + group * p->group_step + first * p->step, set->source, p->step,
                                 p->packed + (group * p->channels + first) * set->taps);
    }
}

/* Adds Σ_o w[o, r]·dy[o, q], in run [taps r of the place][RUN] for q0 ≤ q < q0 + n, to dx where tap r has its output q.
 * There are no gaps between lines, so that those of a single sample are one long one. */
static void FN(conv_add_columns)(const FN(conv_product) *g, const conv_place *at, int64_t q0, int64_t n, const REAL *run)
{
    const conv_sizes *s = g->s;
    const int64_t samples = g->layout->samples, length = samples > 1 ? s->w.out : at->rows * s->w.out;
    for (int64_t r = at->channel; r < at->channel + at->channels; r++, run += RUN)
        for (int64_t line = q0 / length; line * length < q0 + n; line++) {
            const int64_t i = line % samples, u = line / samples, first = line * length;
            const int64_t begin = first > q0 ? first : q0, end = first + length < q0 + n ? first + length : q0 + n;
            if (i < at->samples)
                FN(ek_conv_add_tap)(s, r, (at->row + u) * s->w.out + begin - first, end - begin, run + (begin - q0),
                                    g->to + ((at->sample + i) * s->groups + at->group) * s->c * s->pixels_in);
        }
}

/* Outputs of all channels of the place, in blocks of q and of taps: sums of RUN outputs of a tile of channels stand in
 * `run` while the weights of a block of taps stay in the first-level cache. */
static void FN(conv_multiply)(const FN(conv_product) *g, const FN(conv_outputs) *set, const conv_place *at,
                              const REAL *packed, REAL *run)
{
    const FN(ek_tile_kernels) *tile = g->tile;
    const int64_t length = conv_line(g->layout, at->samples - 1, at->rows - 1) + at->columns;
    const REAL *weights = set->weights + at->group * set->target.channels * set->taps;
    conv_place some = *at;
    for (int64_t first = 0; first < at->channels; first += tile->rows) {
        const int rows = at->channels - first < tile->rows ? (int)(at->channels - first) : tile->rows;
        const REAL *w = weights + (at->channel + first) * set->taps;
        some.channel = at->channel + first;
        some.channels = rows;
        for (int64_t q0 = 0; q0 < length; q0 += RUN) {
            const int64_t n = length - q0 < RUN ? length - q0 : RUN;
            int64_t p0 = 0;
            do {
                const int64_t k = set->taps - p0 < TAPS ? set->taps - p0 : TAPS;
                for (int64_t q = 0; q < n; q += tile->columns) {
                    const int64_t left = (n - q + tile->lanes - 1) / tile->lanes * tile->lanes;
                    tile->multiply(rows, left < tile->columns ? (int)left : tile->columns, k, w + p0 * rows,
                                   packed + q0 + q, 0, set->offset + p0, run + q, RUN, p0 > 0);
                }
                p0 += TAPS;
            } while (p0 < set->taps);
            if (g->columns)
                FN(conv_add_columns)(g, &some, q0, n, run);
            else
                FN(ek_conv_unpack)(g->s, g->layout, &some, &set->target, q0, n, run, RUN, g->bias, g->to);
        }
    }
}

/* Outputs of the strips begin … end−1, numbered (strip, part of the channels). */
static void FN(conv_product_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_product) *g = context;
    const int64_t channels = g->set->target.channels;
    const int64_t part = conv_part(channels, g->parts, g->tile->rows);
    REAL *run = g->scratch + ek_worker() * g->scratch_numel, *packed = run + RUN_NUMEL;
    for (int64_t i = begin; i < end; i++) {
        conv_place at = ek_conv_find_place(g->s, g->layout, i / g->parts);
        const REAL *source = packed;
        if (g->layout->in_place)
            source = g->from + conv_place_offset(g->s, g->layout, &at);
        else if (i == begin || i % g->parts == 0)
            FN(ek_conv_pack)(g->s, g->layout, &at, g->from, g->relu, packed);
        at.channel = i % g->parts * part;
        at.channels = channels - at.channel < part ? channels - at.channel : part;
        for (int64_t k = 0; k < g->sets; k++)
            FN(conv_multiply)(g, &g->set[k], &at, source, run);
    }
}

/* Packs the weights, so many of all sets. */
static ek_status FN(conv_prepare)(ek_node *node, FN(conv_product) *g, const REAL *w, int64_t step, int64_t group_step,
                                  int64_t weights)
{
    const int64_t channels = g->set->target.channels;
    REAL *packed = ek_node_scratch(node, (size_t)weights * sizeof(REAL));
    if (!packed)
        return EK_ERR_MEMORY;
    for (int64_t k = 0; k < g->sets; k++) {
        FN(conv_weights) p = {.g = g, .w = w, .packed = packed, .set = k, .channels = channels, .step = step,
                              .tiles = (channels + g->tile->rows - 1) / g->tile->rows, .group_step = group_step};
        g->set[k].weights = packed;
        packed += g->s->groups * channels * g->set[k].taps;
        ek_parallel_for(g->s->groups * p.tiles, EK_GRAIN / (g->set[k].taps * g->tile->rows + 1) + 1,
                        FN(conv_weights_range), &p);
    }
    return EK_OK;
}

/* Runs over all strips. */
static ek_status FN(conv_run)(ek_node *node, FN(conv_product) *g)
{
    const conv_layout *layout = g->layout;
    const int64_t channels = g->set->target.channels, strips = ek_conv_strips(g->s, layout);
    g->scratch_numel = RUN_NUMEL + (layout->in_place ? 0 : conv_aligned(layout->numel));
    g->scratch = ek_node_scratch(node, (size_t)(ek_workers() * g->scratch_numel) * sizeof(REAL));
    if (!g->scratch)
        return EK_ERR_MEMORY;
    double taps = 0;
    for (int64_t k = 0; k < g->sets; k++)
        taps += (double)g->set[k].taps;
    const double work = taps * (double)channels * (double)(layout->samples * layout->h.strip) * (double)layout->w.strip;
    g->parts = conv_parts(strips, work, channels, g->tile->rows);
    ek_parallel_for(strips * g->parts, conv_grain(work / (double)g->parts), FN(conv_product_range), g);
    return EK_OK;
}

/* y = b + Σ_taps w·x */
static ek_status FN(conv_y)(ek_node *node, const conv_sizes *s)
{
    const conv_layout layout = ek_conv_layout_x(s, SHORTEST_RUN, INT64_MAX);
    int64_t *offset = ek_node_scratch(node, (size_t)s->rows * sizeof *offset);
    if (!offset)
        return EK_ERR_MEMORY;
    ek_conv_x_taps(s, &layout, offset);
    FN(conv_outputs) set = {.target = {.step_h = 1, .step_w = 1, .count_h = s->h.out, .count_w = s->w.out,
                                       .channels = s->o, .pixels = s->pixels, .width = s->w.out, .relu = s->relu},
                            .taps = s->rows, .offset = offset};
    FN(conv_product) g = {.s = s, .layout = &layout, .tile = FN(ek_tile)(), .from = node->in[0]->data,
                          .bias = node->in[2] ? node->in[2]->data : NULL, .to = node->out->data, .sets = 1,
                          .set = &set};
    ek_status status =
        FN(conv_prepare)(node, &g, node->in[1]->data, s->rows, s->o * s->rows, s->groups * s->o * s->rows);
    return status == EK_OK ? FN(conv_run)(node, &g) : status;
}

static void FN(conv_zero_range)(void *context, int64_t begin, int64_t end)
{
    memset((REAL *)context + begin, 0, (size_t)(end - begin) * sizeof(REAL));
}

/* dx = Σ_taps w·dy for each phase of the strides; zeros where no tap reaches. */
static ek_status FN(conv_prepare_dx)(ek_node *node, FN(conv_product) *g)
{
    const conv_sizes *s = g->s;
    const int64_t phases_h = s->h.stride < s->h.in ? s->h.stride : s->h.in;
    const int64_t phases_w = s->w.stride < s->w.in ? s->w.stride : s->w.in, kernel = s->h.kernel * s->w.kernel;
    g->tile = FN(ek_tile)();
    g->sets = 0;
    /* Every tap belongs to one phase. */
    int64_t *offset = ek_node_scratch(node, (size_t)(2 * s->o * kernel) * sizeof *offset), *source;
    g->set = ek_node_scratch(node, (size_t)(phases_h * phases_w) * sizeof *g->set);
    if (!offset || !g->set)
        return EK_ERR_MEMORY;
    source = offset + s->o * kernel;
    bool zeros = false;
    for (int64_t k = 0; k < phases_h * phases_w; k++) {
        const int64_t a = k / phases_w, b = k % phases_w;
        FN(conv_outputs) set = {
            .target = {.first_h = a, .step_h = s->h.stride, .count_h = (s->h.in - a + s->h.stride - 1) / s->h.stride,
                       .first_w = b, .step_w = s->w.stride, .count_w = (s->w.in - b + s->w.stride - 1) / s->w.stride,
                       .channels = s->c, .pixels = s->pixels_in, .width = s->w.in},
            .taps = ek_conv_dy_taps(s, g->layout, a, b, offset, source), .offset = offset, .source = source};
        offset += set.taps;
        source += set.taps;
        zeros |= set.taps == 0;
        if (set.taps > 0 || k == 0)
            g->set[g->sets++] = set;
    }
    if (zeros)
        ek_parallel_for(node->in[0]->numel, EK_GRAIN, FN(conv_zero_range), g->to);
    return FN(conv_prepare)(node, g, node->in[1]->data, kernel, s->o * s->rows, s->groups * s->o * s->rows);
}

/* dx of the stacks begin … end−1, numbered (stack, group). */
static void FN(conv_columns_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_product) *g = context;
    const conv_sizes *s = g->s;
    REAL *run = g->scratch + ek_worker() * g->scratch_numel, *packed = run + RUN_NUMEL;
    for (int64_t i = begin; i < end; i++)
        for (int64_t strip = 0; strip < g->layout->h.strips; strip++) {
            conv_place at = ek_conv_find_place(s, g->layout, i * g->layout->h.strips + strip);
            const REAL *source = g->layout->in_place ? g->from + conv_place_offset(s, g->layout, &at) : packed;
            if (!g->layout->in_place)
                FN(ek_conv_pack)(s, g->layout, &at, g->from, g->relu, packed);
            for (int64_t k = 0; strip == 0 && k < at.samples; k++)
                memset(g->to + ((at.sample + k) * s->groups + at.group) * s->c * s->pixels_in, 0,
                       (size_t)(s->c * s->pixels_in) * sizeof(REAL));
            at.channels = s->rows;
            FN(conv_multiply)(g, g->set, &at, source, run);
        }
}

/* dx with few taps: the columns Wᵀ·dY, each added where its tap reads. */
static ek_status FN(conv_dx_columns)(ek_node *node, const conv_sizes *s, const conv_layout *x, const REAL *dy,
                                     const REAL *relu, REAL *dx)
{
    const conv_layout layout = ek_conv_layout_outputs(s, x, relu != NULL);
    FN(conv_outputs) set = {.target = {.channels = s->rows}, .taps = s->o};
    FN(conv_product) g = {.s = s, .layout = &layout, .tile = FN(ek_tile)(), .from = dy, .relu = relu, .to = dx,
                          .sets = 1, .columns = true, .set = &set};
    int64_t *offset = ek_node_scratch(node, (size_t)(2 * s->o) * sizeof *offset);
    g.scratch_numel = RUN_NUMEL + (layout.in_place ? 0 : conv_aligned(layout.numel));
    g.scratch = ek_node_scratch(node, (size_t)(ek_workers() * g.scratch_numel) * sizeof(REAL));
    if (!offset || !g.scratch)
        return EK_ERR_MEMORY;
    for (int64_t o = 0; o < s->o; o++) {
        offset[o] = o * layout.plane;
        offset[s->o + o] = o * s->rows;
    }
    set.offset = offset;
    set.source = offset + s->o;
    const double work = (double)s->rows * (double)s->o * (double)(layout.samples * s->pixels);
    ek_status status =
        FN(conv_prepare)(node, &g, node->in[1]->data, 1, s->o * s->rows, s->groups * s->o * s->rows);
    if (status == EK_OK)
        ek_parallel_for(layout.stacks * s->groups, conv_grain(work), FN(conv_columns_range), &g);
    return status;
}

static ek_status FN(conv_dx)(ek_node *node, const conv_sizes *s, const REAL *dy, const REAL *relu, REAL *dx)
{
    if (conv_is_unrolled(s)) {
        const conv_layout x = ek_conv_layout_x(s, SHORTEST_RUN, INT64_MAX);
        if (x.w.strips == 1)
            return FN(conv_dx_columns)(node, s, &x, dy, relu, dx);
    }
    const conv_layout layout = ek_conv_layout_dy(s, relu != NULL, SHORTEST_RUN, INT64_MAX);
    FN(conv_product) g = {.s = s, .layout = &layout, .from = dy, .relu = relu, .to = dx};
    ek_status status = FN(conv_prepare_dx)(node, &g);
    return status == EK_OK ? FN(conv_run)(node, &g) : status;
}

/* What makes dw and db: strips of x and dy in chunks, each with copies of its own.  Where their layouts are shared, dx
 * is made of the same packed dy. */
typedef struct {
    const conv_sizes *s;
    const conv_layout *layout_x, *layout_dy;
    const FN(ek_tile_kernels) *tile;
    const REAL *x, *dy, *relu;
    const FN(conv_product) *dx; /* or NULL */
    const int64_t *offset;      /* [rows] */
    int64_t first;              /* of a plane's outputs in packed dy */
    REAL *dw;                   /* [chunks][groups·o][rows], or NULL */
    double *db;                 /* [chunks][groups·o], or NULL */
    int64_t strips, chunk;      /* strips of one group: of the batch, of a chunk */
    int64_t parts;              /* into which the output channels of a group are cut */
    REAL *scratch;
    int64_t scratch_numel;
} FN(conv_sums);

/* dw[o, r] += Σ_q dy[o, q]·x[offset(r) + q] and db[o] += Σ_q dy[o, q] of one strip. */
static void FN(conv_add_strip)(const FN(conv_sums) *g, const conv_place *at, bool first, const REAL *x, const REAL *dy,
                               REAL *dw, double *db)
{
    const conv_sizes *s = g->s;
    const FN(ek_tile_kernels) *tile = g->tile;
    const int64_t plane = g->layout_dy->plane, run = conv_line(g->layout_x, at->samples - 1, at->rows - 1) + at->columns;
    /* Whole vectors: there are zeros behind a packed run, and in place it has no rest. */
    const int64_t n = (run + tile->lanes - 1) / tile->lanes * tile->lanes;
    for (int64_t o = 0; db && o < at->channels; o++)
        db[o] = (first ? 0 : db[o]) + FN(ek_sum_run)(run, dy + o * plane);
    for (int64_t o = 0; dw && o < at->channels; o += tile->dot_rows) {
        const int rows = at->channels - o < tile->dot_rows ? (int)(at->channels - o) : tile->dot_rows;
        for (int64_t r = 0; r < s->rows; r += tile->dot_columns) {
            const int columns = s->rows - r < tile->dot_columns ? (int)(s->rows - r) : tile->dot_columns;
            tile->dot(rows, columns, n, dy + o * plane, plane, x, 0, g->offset + r, dw + o * s->rows + r, s->rows,
                      !first);
        }
    }
}

/* Chunks begin … end−1, numbered (chunk of strips, group, part of the output channels). */
static void FN(conv_sums_range)(void *context, int64_t begin, int64_t end)
{
    const FN(conv_sums) *g = context;
    const conv_sizes *s = g->s;
    const int64_t part = conv_part(s->o, g->parts, g->tile->dot_rows);
    const int64_t per_stack = g->layout_x->h.strips * g->layout_x->w.strips;
    REAL *packed_x = g->scratch + ek_worker() * g->scratch_numel;
    REAL *packed_dy = packed_x + (g->layout_x->in_place ? 0 : conv_aligned(g->layout_x->numel));
    for (int64_t i = begin; i < end; i++) {
        const int64_t group = i / g->parts % s->groups, chunk = i / g->parts / s->groups;
        for (int64_t strip = chunk * g->chunk; strip < g->strips && strip < (chunk + 1) * g->chunk; strip++) {
            const int64_t index = (strip / per_stack * s->groups + group) * per_stack + strip % per_stack;
            const conv_place at_x = ek_conv_find_place(s, g->layout_x, index);
            conv_place at = at_x;
            at.channel = i % g->parts * part;
            at.channels = s->o - at.channel < part ? s->o - at.channel : part;
            const REAL *x = packed_x, *dy = packed_dy;
            if (g->layout_x->in_place)
                x = g->x + conv_place_offset(s, g->layout_x, &at_x);
            else if (g->dw)
                FN(ek_conv_pack)(s, g->layout_x, &at_x, g->x, NULL, packed_x);
            if (g->layout_dy->in_place)
                dy = g->dy + conv_place_offset(s, g->layout_dy, &at);
            else
                FN(ek_conv_pack)(s, g->layout_dy, &at, g->dy, g->relu, packed_dy);
            const int64_t channel = (chunk * s->groups + group) * s->o + at.channel;
            FN(conv_add_strip)(g, &at, strip == chunk * g->chunk, x, dy + g->first,
                               g->dw ? g->dw + channel * s->rows : NULL, g->db ? g->db + channel : NULL);
            for (int64_t k = 0; g->dx && k < g->dx->sets; k++) {
                conv_place to = ek_conv_find_place(s, g->layout_dy, index);
                to.channels = s->c;
                FN(conv_multiply)(g->dx, &g->dx->set[k], &to, dy, packed_dy + conv_aligned(g->layout_dy->numel));
            }
        }
    }
}

/* dw and db from one copy for each chunk of strips, and dx; any of them may be NULL. */
static ek_status FN(conv_gradients)(ek_node *node, const conv_sizes *s, const REAL *dy, const REAL *relu, REAL *dx,
                                    REAL *dw, REAL *db)
{
    const int64_t channels = s->groups * s->o, weights = channels * s->rows;
    conv_layout x = ek_conv_layout_x(s, SHORTEST_DOT, LONGEST_DOT);
    FN(conv_sums) g = {.s = s, .layout_x = &x, .tile = FN(ek_tile)(), .x = node->in[0]->data, .dy = dy, .relu = relu,
                       .strips = x.stacks * x.h.strips * x.w.strips};
    const double work = (double)s->o * (double)s->rows * (double)(x.samples * x.h.strip) * (double)x.w.strip;
    int64_t most = conv_dw_chunks(weights), chunk = conv_grain(work * (double)s->groups);
    chunk = chunk * most < g.strips ? (g.strips + most - 1) / most : chunk;
    const int64_t chunks = g.strips > 0 ? (g.strips + chunk - 1) / chunk : 0;
    dw = weights > 0 ? dw : NULL;
    if (chunks == 0 || channels == 0) {
        for (int64_t i = 0; dw && i < weights; i++)
            dw[i] = 0;
        for (int64_t o = 0; db && o < channels; o++)
            db[o] = 0;
        return dx ? FN(conv_dx)(node, s, dy, relu, dx) : EK_OK;
    }
    g.chunk = chunk;
    g.parts = conv_parts(chunks * s->groups, work * (double)chunk, s->o, g.tile->dot_rows);
    /* By shape alone, whether dx is wanted or not: the order of dw's sums depends on it. */
    conv_layout shared_x = x, outputs = ek_conv_layout_dy(s, relu != NULL, SHORTEST_RUN, INT64_MAX);
    const bool shared = g.parts == 1 && ek_conv_share(s, &shared_x, &outputs);
    FN(conv_product) product = {.s = s, .layout = &outputs, .to = dx};
    ek_status status = EK_OK;
    if (shared) {
        x = shared_x;
        g.first = conv_first(&outputs);
        g.dx = dx ? &product : NULL;
        status = dx ? FN(conv_prepare_dx)(node, &product) : EK_OK;
    } else {
        ek_pool_block *mark = ek_scratch_mark(node);
        outputs = ek_conv_layout_outputs(s, &x, relu != NULL);
        status = dx ? FN(conv_dx)(node, s, dy, relu, dx) : EK_OK;
        ek_scratch_release_to(node, mark);
    }
    if (status != EK_OK)
        return status;
    g.layout_dy = &outputs;
    g.scratch_numel = conv_aligned(x.in_place ? 0 : x.numel) + conv_aligned(outputs.in_place ? 0 : outputs.numel) +
                      (g.dx ? RUN_NUMEL : 0);
    g.scratch = ek_node_scratch(node, (size_t)(ek_workers() * g.scratch_numel) * sizeof(REAL));
    int64_t *offset = ek_node_scratch(node, (size_t)s->rows * sizeof *offset);
    g.dw = chunks > 1 && dw ? ek_node_scratch(node, (size_t)(chunks * weights) * sizeof(REAL)) : dw;
    g.db = db ? ek_node_scratch(node, (size_t)(chunks * channels) * sizeof(double)) : NULL;
    if (!g.scratch || !offset || (dw && !g.dw) || (db && !g.db))
        return EK_ERR_MEMORY;
    ek_conv_x_taps(s, &x, offset);
    g.offset = offset;
    ek_parallel_for(chunks * s->groups * g.parts, 1, FN(conv_sums_range), &g);
    for (int64_t o = 0; db && o < channels; o++) {
        double sum = 0;
        for (int64_t k = 0; k < chunks; k++)
            sum += g.db[k * channels + o];
        db[o] = (REAL)sum;
    }
    return g.dw == dw ? EK_OK : FN(ek_reduce_sum)(node, g.dw, EK_SHAPE(chunks, weights), 1u << 0, 1, dw);
}

static ek_status FN(conv_forward)(ek_node *node)
{
    const conv_sizes s = conv_find(node);
    return node->out->numel == 0 ? EK_OK : FN(conv_y)(node, &s);
}

static ek_status FN(conv_backward)(ek_node *node)
{
    const conv_sizes s = conv_find(node);
    const REAL *dy = ek_node_grad_out(node), *relu = s.relu ? node->out->data : NULL;
    REAL *dx = ek_node_grad_in(node, 0), *dw = ek_node_grad_in(node, 1);
    REAL *db = node->in[2] ? ek_node_grad_in(node, 2) : NULL;
    dx = node->in[0]->numel > 0 ? dx : NULL;
    if (dw || db)
        return FN(conv_gradients)(node, &s, dy, relu, dx, dw, db);
    return dx ? FN(conv_dx)(node, &s, dy, relu, dx) : EK_OK;
}

#else
#include "conv.h"
#include "tile.h"

/* Outputs whose sums are taken side by side (10 tiles of EK_TILE_MOST_COLUMNS), and taps whose weights stay in the
 * first-level cache with them. */
enum { RUN = 960, RUN_NUMEL = EK_TILE_MOST_ROWS * RUN, TAPS = 576 };
/* Runs of a strip: a product wants some tiles; a scalar product wants to be long, because its lanes are folded in the
 * end, but its four rows of dy should stay in the first-level cache. */
enum { SHORTEST_RUN = 192, SHORTEST_DOT = 768, LONGEST_DOT = 1024 };
/* Copies of dw, and elements of all of them together. */
enum { MOST_DW_CHUNKS = 16 };
#define DW_COPIES_NUMEL ((int64_t)1 << 23)
/* Multiplications that are worth a chunk of a parallel loop (some 10 µs), and chunks that keep several threads busy. */
#define WORTH_A_CHUNK ((double)(1 << 19))
enum { FEW_CHUNKS = 4 };

/* Strips per chunk: by shape alone. */
static int64_t conv_grain(double strip_work)
{
    return (int64_t)(WORTH_A_CHUNK / (strip_work > 1 ? strip_work : 1)) + 1;
}

/* Channels of each of so many parts, in whole tiles of `rows`. */
static int64_t conv_part(int64_t channels, int64_t parts, int64_t rows)
{
    const int64_t tiles = (channels + rows - 1) / rows;
    return (tiles + parts - 1) / parts * rows;
}

/* Parts into which the channels of a strip are cut, none of them empty, where there are few strips but much to do. */
static int64_t conv_parts(int64_t strips, double strip_work, int64_t channels, int64_t rows)
{
    const int64_t tiles = (channels + rows - 1) / rows;
    int64_t parts = strips > 0 ? (FEW_CHUNKS + strips - 1) / strips : 1;
    while (parts > 1 && (parts > tiles || strip_work < WORTH_A_CHUNK * (double)parts))
        parts--;
    const int64_t part = conv_part(channels, parts, rows);
    return channels > 0 ? (channels + part - 1) / part : 1;
}

static int64_t conv_dw_chunks(int64_t weights)
{
    int64_t chunks = DW_COPIES_NUMEL / (weights > 0 ? weights : 1);
    return chunks < 2 ? 2 : chunks > MOST_DW_CHUNKS ? MOST_DW_CHUNKS : chunks;
}

static int64_t conv_aligned(int64_t numel)
{
    return (numel + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
}

/* Where a strip starts that is not packed. */
static int64_t conv_place_offset(const conv_sizes *s, const conv_layout *layout, const conv_place *at)
{
    return ((at->sample * s->groups + at->group) * layout->channels + at->channel) * layout->pixels +
           at->row * layout->w.out;
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

static conv_sizes conv_find(const ek_node *node)
{
    const ek_conv_opts *opts = node->attributes;
    ek_shape x = node->in[0]->shape, w = node->in[1]->shape, y = node->out->shape;
    conv_sizes s = {.n = x.dim[0], .groups = opts->groups, .c = w.dim[1], .o = w.dim[0] / opts->groups,
                    .relu = opts->relu};
    conv_windows(opts, x, w, &s.h, &s.w);
    s.h.out = y.ndim == 4 ? y.dim[2] : 1;
    s.w.out = y.dim[y.ndim - 1];
    s.rows = s.c * s.h.kernel * s.w.kernel;
    s.pixels = s.h.out * s.w.out;
    s.pixels_in = s.h.in * s.w.in;
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
