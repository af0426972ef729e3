/* Runs a recurrent cell over all steps, forward and back through time.  The cell's arithmetic comes from its op file,
 * the norms inside it from recurrent_norm.c.
 *
 * forward, step s:  rec = h_before·W_hhᵀ → norms of in, rec → update → norm of c → show
 * backward, step s: dL/dh and dL/dc of the step's rows → the same in reverse → dh_before += d_rec·W_hh; then, for all
 *                   steps at once, dW_hh = d_recᵀ·h_before and the sums for biases and gains.
 *
 * Sequences have nothing to do with each other, unless BatchNorm takes them together: so a thread takes a block of them
 * through all steps, and W_hh is laid out for it once (panels.h).  With BatchNorm threads meet at every step.
 *
 * Expands to ek_cell_forward_f32, ek_cell_backward_f32 and their _f64 twins. */
#ifdef REAL

/* What the loops over rows share; [R] tables are indexed by row, [N] ones by the row's place k within its step. */
typedef struct {
    cell_sizes z;
    const ek_cell *cell;
    const cell_attributes *attr;
    const REAL *projected, *bias;  /* in[CELL_PROJECTED], b_hh outside a norm */
    const REAL *panels;            /* of W_hhᵀ in forward, of W_hh in backward */
    const REAL *start_h, *start_c;         /* [N][H] initial states in the order of step 0 */
    REAL *h, *c;                           /* [R][H] states of all rows */
    REAL *kept;                            /* [R][kept·H] */
    FN(cell_site) site[CELL_SITES];
    int64_t step, first, count; /* of the step at hand */
    REAL *in, *rec, *shown;     /* [N][gates·H] normalized in; rec; [N][H] normalized c */
    /* backward */
    const REAL *dh_rows, *dc_rows, *dh_final, *dc_final; /* dL/d out: [R][H], [N][H] in the order of the batch */
    REAL *dh, *dc;                                       /* [N][H] what arrives from later steps */
    REAL *d_in, *d_rec;                                  /* [R][gates·H] of the normalized projections */
    REAL *d_projected, *d_product;                       /* [R][gates·H] of the projections themselves */
    int64_t product_step;                                /* from row to row of d_product */
    REAL *dc_shown;                                      /* [R][H] */
    REAL *dc_norm;                                       /* [N][H] what dc_shown gives to dc through the norm */
} FN(cell_pass);

/* Lays out W_hh for the products of a pass. */
static bool FN(pack_weight)(ek_node *node, FN(cell_pass) *p, bool transpose)
{
    const int64_t h = p->z.hidden, n = transpose ? p->z.width : h, k = transpose ? h : p->z.width;
    REAL *panels = ek_node_scratch(node, (size_t)FN(ek_panels_size)(n, k) * sizeof *panels);
    if (panels)
        FN(ek_panels_pack)(transpose, n, k, node->in[CELL_WEIGHT]->data, h, panels);
    p->panels = panels;
    return panels;
}

static void FN(enter_step)(FN(cell_pass) *p, int64_t step)
{
    p->step = step;
    p->first = p->attr->rows->first[step];
    p->count = p->attr->rows->count[step];
}

static FN(cell_row) FN(row_of)(const FN(cell_pass) *p, int64_t k)
{
    const int64_t h = p->z.hidden, width = p->z.width, row = p->first + k;
    const int64_t before = p->step > 0 ? p->attr->rows->first[p->step - 1] + k : 0;
    const bool normed = p->attr->norm != CELL_NO_NORM;
    FN(cell_row) r = {.hidden = h, .relu = p->attr->relu, .bias = p->bias, .h = p->h + row * h,
                      .kept = p->kept + row * p->cell->kept * h,
                      .h_before = p->step > 0 ? p->h + before * h : p->start_h + k * h};
    if (p->cell->has_c) {
        r.c = p->c + row * h;
        r.c_before = p->step > 0 ? p->c + before * h : p->start_c + k * h;
        r.c_shown = normed && p->shown ? p->shown + k * h : r.c;
    }
    if (p->rec) {
        r.in = normed ? p->in + k * width : p->projected + row * width;
        r.rec = p->rec + k * width;
    }
    if (p->dh) {
        r.dh = p->dh + k * h;
        r.dc = p->cell->has_c ? p->dc + k * h : NULL;
        r.dc_shown = p->cell->has_c ? p->dc_shown + row * h : NULL;
        r.d_in = p->d_in + row * width;
        r.d_rec = p->d_rec + row * width;
    }
    return r;
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void FN(multiply_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    const int64_t h = p->z.hidden, width = p->z.width;
    const REAL *h_before = p->step > 0 ? p->h + p->attr->rows->first[p->step - 1] * h : p->start_h;
    FN(ek_panels_multiply)(end - begin, width, h, h_before + begin * h, h, p->panels, p->rec + begin * width, width,
                           false);
}

/* Rows of a step from their projections to h, but for what BatchNorm does between rows. */
static void FN(update_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    const bool layer_norm = p->attr->norm == CELL_LAYER_NORM;
    for (int64_t k = begin; k < end; k++) {
        const int64_t row = p->first + k;
        if (layer_norm) {
            REAL *rec = p->rec + k * p->z.width;
            FN(ek_cell_norm_row)(&p->site[SITE_IH], row, p->projected + row * p->z.width, p->in + k * p->z.width);
            FN(ek_cell_norm_row)(&p->site[SITE_HH], row, rec, rec);
        }
        const FN(cell_row) r = FN(row_of)(p, k);
        p->cell->FN(update)(&r);
        if (p->cell->has_c && layer_norm)
            FN(ek_cell_norm_row)(&p->site[SITE_C], row, r.c, p->shown + k * p->z.hidden);
        if (p->cell->has_c && p->attr->norm != CELL_BATCH_NORM)
            p->cell->FN(show)(&r);
    }
}

static void FN(show_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    for (int64_t k = begin; k < end; k++) {
        const FN(cell_row) r = FN(row_of)(p, k);
        p->cell->FN(show)(&r);
    }
}

/* Which statistics the step at hand is normalized by, and where its own are reported. */
static cell_step_statistics FN(step_statistics)(const FN(cell_pass) *p, int site)
{
    const cell_attributes *attr = p->attr;
    const int64_t units = p->site[site].units;
    cell_step_statistics statistics = {0};
    if (!step_is_own(attr, p->step)) {
        const int64_t at = attr->running_step[p->step] * units;
        statistics.given_mean = (const REAL *)attr->running_mean[site]->data + at;
        statistics.given_var = (const REAL *)attr->running_var[site]->data + at;
    }
    if (attr->report && p->count > 1) {
        statistics.mean = attr->report->mean[site] + p->step * units;
        statistics.var = attr->report->var[site] + p->step * units;
    }
    return statistics;
}

static void FN(batch_norm_site)(const FN(cell_pass) *p, int site, const REAL *x, REAL *y)
{
    FN(ek_cell_norm_step)(&p->site[site], p->step, p->first, p->count, x, y, FN(step_statistics)(p, site));
}

static void FN(forward_blocks)(void *context, int64_t begin, int64_t end)
{
    FN(cell_pass) p = *(const FN(cell_pass) *)context;
    const ek_rows *rows = p.attr->rows;
    for (int64_t task = begin; task < end; task++) {
        const int64_t from = block_of_task(task, p.z.n) * BLOCK_ROWS;
        for (int64_t s = 0; s < rows->steps && from < rows->count[s]; s++) {
            FN(enter_step)(&p, s);
            const int64_t to = block_end(from, p.count);
            FN(multiply_rows)(&p, from, to);
            FN(update_rows)(&p, from, to);
        }
    }
}

/* A step with BatchNorm. */
static void FN(forward_step)(FN(cell_pass) *p)
{
    const int64_t h = p->z.hidden, width = p->z.width;
    ek_parallel_for(p->count, product_grain(&p->z), FN(multiply_rows), p);
    FN(batch_norm_site)(p, SITE_IH, p->projected + p->first * width, p->in);
    FN(batch_norm_site)(p, SITE_HH, p->rec, p->rec);
    ek_parallel_for(p->count, row_grain(width), FN(update_rows), p);
    if (p->cell->has_c) {
        FN(batch_norm_site)(p, SITE_C, p->c + p->first * h, p->shown);
        ek_parallel_for(p->count, row_grain(width), FN(show_rows), p);
    }
}

/* [N][H] in the order of step 0 from an optional input in the order of the batch. */
static const REAL *FN(start_state)(ek_node *node, const cell_sizes *z, int input)
{
    const cell_attributes *attr = node->attributes;
    REAL *start = ek_node_scratch(node, (size_t)(z->n * z->hidden) * sizeof *start);
    const size_t bytes = (size_t)z->hidden * sizeof *start;
    for (int64_t k = 0; start && k < z->n; k++)
        if (node->in[input])
            memcpy(start + k * z->hidden,
                   (const REAL *)node->in[input]->data + attr->rows->by_length[k] * z->hidden, bytes);
        else
            memset(start + k * z->hidden, 0, bytes);
    return start;
}

/* The final state of each sequence, in the order of the batch. */
static void FN(copy_final)(const FN(cell_pass) *p, const REAL *states, const REAL *start, REAL *final)
{
    const ek_rows *rows = p->attr->rows;
    const int64_t h = p->z.hidden;
    for (int64_t k = 0; k < p->z.n; k++) {
        const int64_t i = rows->by_length[k], length = rows->lengths->length[i];
        memcpy(final + i * h, length ? states + (rows->first[length - 1] + k) * h : start + k * h,
               (size_t)h * sizeof *final);
    }
}

/* The sites and what they keep, in memory that forward saves. */
static void FN(lay_out)(const ek_node *node, FN(cell_pass) *p, REAL *saved)
{
    const cell_attributes *attr = node->attributes;
    const int64_t h = p->z.hidden, rows = p->z.rows;
    const int gain[CELL_SITES] = {CELL_GAIN_IH, CELL_GAIN_HH, CELL_GAIN_C};
    const int bias[CELL_SITES] = {CELL_BIAS_IH, CELL_BIAS_HH, CELL_BIAS_C};
    p->kept = saved;
    saved += rows * p->cell->kept * h;
    for (int s = 0; attr->norm != CELL_NO_NORM && s < p->z.sites; s++) {
        FN(cell_site) *site = &p->site[s];
        *site = (FN(cell_site)){.units = s == SITE_C ? h : p->z.width, .segments = s == SITE_C ? 1 : p->cell->segments,
                                .eps = attr->eps, .gain = node->in[gain[s]]->data,
                                .bias = node->in[bias[s]] ? node->in[bias[s]]->data : NULL, .normalized = saved};
        for (int i = 0; i < site->segments; i++)
            site->segment_units[i] = s == SITE_C ? h : p->cell->segment_gates[i] * h;
        site->rstd = saved + rows * site->units;
        saved = site->rstd + rstd_count(attr, site->segments, site->units, rows);
    }
}

/* What both passes know: sizes, inputs, states in `out`, and what forward saved. */
static FN(cell_pass) FN(pass_of)(const ek_node *node)
{
    const cell_attributes *attr = node->attributes;
    FN(cell_pass) p = {.z = cell_sizes_of(node), .cell = (const ek_cell *)node->op, .attr = attr,
                       .projected = node->in[CELL_PROJECTED]->data, .h = node->out->data};
    if (attr->norm == CELL_NO_NORM && node->in[CELL_BIAS_HH])
        p.bias = node->in[CELL_BIAS_HH]->data;
    if (p.cell->has_c)
        p.c = p.h + (p.z.rows + p.z.n) * p.z.hidden;
    FN(lay_out)(node, &p, node->saved);
    return p;
}

ek_status FN(ek_cell_forward)(ek_node *node)
{
    const cell_attributes *attr = node->attributes;
    const cell_sizes z = cell_sizes_of(node);
    if (!ek_node_save(node, (size_t)saved_count(node, &z) * sizeof(REAL)))
        return EK_ERR_MEMORY;
    FN(cell_pass) p = FN(pass_of)(node);
    const size_t per_projection = (size_t)(z.n * z.width) * sizeof(REAL);
    const bool normed = attr->norm != CELL_NO_NORM;
    p.start_h = FN(start_state)(node, &z, CELL_H0);
    p.start_c = p.cell->has_c ? FN(start_state)(node, &z, CELL_C0) : NULL;
    p.rec = ek_node_scratch(node, per_projection);
    p.in = normed ? ek_node_scratch(node, per_projection) : NULL;
    p.shown = normed && p.cell->has_c ? ek_node_scratch(node, (size_t)(z.n * z.hidden) * sizeof(REAL)) : NULL;
    if (!FN(pack_weight)(node, &p, true) || !p.start_h || !p.rec || (p.cell->has_c && !p.start_c) ||
        (normed && !p.in) || (normed && p.cell->has_c && !p.shown))
        return EK_ERR_MEMORY;
    if (attr->norm != CELL_BATCH_NORM)
        ek_parallel_for(row_blocks(z.n), block_grain(&z), FN(forward_blocks), &p);
    for (int64_t s = 0; attr->norm == CELL_BATCH_NORM && s < attr->rows->steps; s++) {
        FN(enter_step)(&p, s);
        FN(forward_step)(&p);
    }
    FN(copy_final)(&p, p.h, p.start_h, p.h + z.rows * z.hidden);
    if (p.cell->has_c)
        FN(copy_final)(&p, p.c, p.start_c, p.c + z.rows * z.hidden);
    return EK_OK;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* d += row (+ final); each [H]. */
EK_KERNEL static void FN(add_states)(int64_t h, const REAL *row, const REAL *final, REAL *d)
{
    if (final)
        for (int64_t j = 0; j < h; j++)
            d[j] += row[j] + final[j];
    else
        for (int64_t j = 0; j < h; j++)
            d[j] += row[j];
}

/* d[k] += what reaches the states of the step at hand from outside: row by row, and as a final state where the sequence
 * ends with this step. */
static void FN(add_outside)(const FN(cell_pass) *p, int64_t k, const REAL *of_rows, const REAL *of_final, REAL *d)
{
    const ek_rows *rows = p->attr->rows;
    const int64_t h = p->z.hidden;
    const bool last = p->step + 1 == rows->steps || k >= rows->count[p->step + 1];
    FN(add_states)(h, of_rows + (p->first + k) * h, last ? of_final + rows->by_length[k] * h : NULL, d + k * h);
}

/* From dL/dh to dL/dc_shown. */
static void FN(show_rows_backward)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    for (int64_t k = begin; k < end; k++) {
        const FN(cell_row) r = FN(row_of)(p, k);
        FN(add_outside)(p, k, p->dh_rows, p->dh_final, p->dh);
        if (!p->cell->has_c)
            continue;
        FN(add_outside)(p, k, p->dc_rows, p->dc_final, p->dc);
        p->cell->FN(show_backward)(&r);
        if (p->attr->norm == CELL_LAYER_NORM)
            FN(ek_cell_norm_row_backward)(&p->site[SITE_C], p->first + k, r.dc_shown, p->dc_norm + k * p->z.hidden);
    }
}

/* From dL/dc to the derivatives of the projections. */
static void FN(update_rows_backward)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    const int64_t h = p->z.hidden, width = p->z.width;
    for (int64_t k = begin; k < end; k++) {
        const int64_t row = p->first + k;
        const FN(cell_row) r = FN(row_of)(p, k);
        const REAL *of_shown = p->dc_norm ? p->dc_norm + k * h : r.dc_shown;
        for (int64_t j = 0; p->cell->has_c && j < h; j++)
            r.dc[j] += of_shown[j];
        p->cell->FN(update_backward)(&r);
        if (p->attr->norm == CELL_LAYER_NORM) {
            FN(ek_cell_norm_row_backward)(&p->site[SITE_IH], row, r.d_in, p->d_projected + row * width);
            FN(ek_cell_norm_row_backward)(&p->site[SITE_HH], row, r.d_rec,
                                          p->d_product + row * p->product_step);
        }
    }
}

static void FN(batch_norm_site_backward)(const FN(cell_pass) *p, int site, const REAL *dy, REAL *dx)
{
    FN(ek_cell_norm_step_backward)(&p->site[site], p->step, p->first, p->count, step_is_own(p->attr, p->step), dy, dx);
}

/* dL/dh of the step before, past W_hh. */
static void FN(multiply_rows_backward)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_pass) *p = context;
    const int64_t h = p->z.hidden, width = p->z.width;
    FN(ek_panels_multiply)(end - begin, h, width, p->d_product + (p->first + begin) * p->product_step,
                           p->product_step, p->panels, p->dh + begin * h, h, p->cell->bypasses);
}

static void FN(backward_blocks)(void *context, int64_t begin, int64_t end)
{
    FN(cell_pass) p = *(const FN(cell_pass) *)context;
    for (int64_t task = begin; task < end; task++) {
        const int64_t from = block_of_task(task, p.z.n) * BLOCK_ROWS;
        for (int64_t s = p.attr->rows->steps - 1; s >= 0; s--) {
            FN(enter_step)(&p, s);
            if (from >= p.count)
                continue;
            const int64_t to = block_end(from, p.count);
            FN(show_rows_backward)(&p, from, to);
            FN(update_rows_backward)(&p, from, to);
            FN(multiply_rows_backward)(&p, from, to);
        }
    }
}

/* A step with BatchNorm. */
static void FN(backward_step)(FN(cell_pass) *p)
{
    const int64_t width = p->z.width, at = p->first * width;
    ek_parallel_for(p->count, row_grain(width), FN(show_rows_backward), p);
    if (p->cell->has_c)
        FN(batch_norm_site_backward)(p, SITE_C, p->dc_shown + p->first * p->z.hidden, p->dc_norm);
    ek_parallel_for(p->count, row_grain(width), FN(update_rows_backward), p);
    FN(batch_norm_site_backward)(p, SITE_IH, p->d_in + at, p->d_projected + at);
    FN(batch_norm_site_backward)(p, SITE_HH, p->d_rec + at, p->d_product + at);
    ek_parallel_for(p->count, product_grain(&p->z), FN(multiply_rows_backward), p);
}

/* Memory of the backward pass.  Arrays that are the same in this cell are one. */
static bool FN(find_memory)(ek_node *node, FN(cell_pass) *p)
{
    const cell_sizes *z = &p->z;
    const size_t projection = (size_t)(z->rows * z->width) * sizeof(REAL);
    const size_t state = (size_t)(z->n * z->hidden) * sizeof(REAL);
    const bool normed = p->attr->norm != CELL_NO_NORM, has_c = p->cell->has_c;
    REAL *given = ek_node_grad_over_input(node, CELL_PROJECTED); /* made by the layer, and read in the forward only */
    p->d_projected = given ? given : ek_node_scratch(node, projection);
    p->d_in = normed ? ek_node_scratch(node, projection) : p->d_projected;
    p->d_rec = p->cell->splits ? ek_node_scratch(node, projection) : p->d_in;
    p->product_step = z->width;
    if (p->attr->norm == CELL_LAYER_NORM && p->cell->kept >= p->cell->gates) { /* over what the row kept, read by then */
        p->d_product = p->kept;
        p->product_step = p->cell->kept * z->hidden;
    } else {
        p->d_product = normed ? ek_node_scratch(node, projection) : p->d_rec;
    }
    p->dh = ek_node_scratch(node, state);
    p->dc = has_c ? ek_node_scratch(node, state) : NULL;
    p->dc_shown = has_c ? ek_node_scratch(node, (size_t)(z->rows * z->hidden) * sizeof(REAL)) : NULL;
    p->dc_norm = has_c && normed ? ek_node_scratch(node, state) : NULL;
    if (!p->d_projected || !p->d_in || !p->d_rec || !p->d_product || !p->dh ||
        (has_c && (!p->dc || !p->dc_shown || (normed && !p->dc_norm))))
        return false;
    memset(p->dh, 0, state);
    if (has_c)
        memset(p->dc, 0, state);
    return true;
}

/* The gradient of an initial state: what is left after step 0, or of a sequence without steps, whose final state it is,
 * what that gets. */
static void FN(store_start)(const FN(cell_pass) *p, const REAL *d, const REAL *of_final, REAL *d_start)
{
    const ek_rows *rows = p->attr->rows;
    const int64_t h = p->z.hidden;
    for (int64_t k = 0; d_start && k < p->z.n; k++) {
        const int64_t i = rows->by_length[k];
        memcpy(d_start + i * h, rows->lengths->length[i] ? d + k * h : of_final + i * h, (size_t)h * sizeof *d);
    }
}

/* dW_hh = d_productᵀ·h_before, with h_before of all rows side by side: over dL/dc_shown, whose sums are done. */
static ek_status FN(weight_gradient)(ek_node *node, const FN(cell_pass) *p, REAL *d_weight)
{
    const ek_rows *rows = p->attr->rows;
    const int64_t h = p->z.hidden, width = p->z.width;
    REAL *before = p->dc_shown ? p->dc_shown : ek_node_scratch(node, (size_t)(p->z.rows * h) * sizeof *before);
    if (!before)
        return EK_ERR_MEMORY;
    for (int64_t s = 0; s < rows->steps; s++)
        memcpy(before + rows->first[s] * h, s > 0 ? p->h + rows->first[s - 1] * h : p->start_h,
               (size_t)(rows->count[s] * h) * sizeof *before);
    return FN(ek_node_gemm)(node, true, false, width, h, p->z.rows, p->d_product, p->product_step, before, h,
                            d_weight, h, false);
}

/* Gradients of the biases and gains: sums over all rows. */
static ek_status FN(sum_gradients)(ek_node *node, const FN(cell_pass) *p)
{
    const struct {
        int site, gain, bias;
        const REAL *dy;
    } sums[] = {{SITE_IH, CELL_GAIN_IH, CELL_BIAS_IH, p->d_in},
                {SITE_HH, CELL_GAIN_HH, CELL_BIAS_HH, p->d_rec},
                {SITE_C, CELL_GAIN_C, CELL_BIAS_C, p->dc_shown}};
    for (int i = 0; i < CELL_SITES; i++) {
        const int64_t units = i == SITE_C ? p->z.hidden : p->z.width;
        REAL *d_bias = ek_node_grad_in(node, sums[i].bias), *d_gain = ek_node_grad_in(node, sums[i].gain);
        if (d_bias && FN(ek_reduce_sum)(node, sums[i].dy, EK_SHAPE(p->z.rows, units), 1u << 0, 1, d_bias) != EK_OK)
            return EK_ERR_MEMORY;
        if (d_gain)
            FN(ek_cell_norm_gain_gradient)(&p->site[sums[i].site], p->z.rows, sums[i].dy, d_gain);
    }
    return EK_OK;
}

ek_status FN(ek_cell_backward)(ek_node *node)
{
    const cell_attributes *attr = node->attributes;
    FN(cell_pass) p = FN(pass_of)(node);
    const cell_sizes *z = &p.z;
    p.dh_rows = ek_node_grad_out(node);
    p.dh_final = p.dh_rows + z->rows * z->hidden;
    p.dc_rows = p.cell->has_c ? p.dh_final + z->n * z->hidden : NULL;
    p.dc_final = p.cell->has_c ? p.dc_rows + z->rows * z->hidden : NULL;
    p.start_h = FN(start_state)(node, z, CELL_H0);
    p.start_c = p.cell->has_c ? FN(start_state)(node, z, CELL_C0) : NULL;
    if (!p.start_h || (p.cell->has_c && !p.start_c) || !FN(find_memory)(node, &p) ||
        !FN(pack_weight)(node, &p, false))
        return EK_ERR_MEMORY;
    if (attr->norm != CELL_BATCH_NORM)
        ek_parallel_for(row_blocks(z->n), block_grain(z), FN(backward_blocks), &p);
    for (int64_t s = attr->rows->steps - 1; attr->norm == CELL_BATCH_NORM && s >= 0; s--) {
        FN(enter_step)(&p, s);
        FN(backward_step)(&p);
    }
    FN(store_start)(&p, p.dh, p.dh_final, ek_node_grad_in(node, CELL_H0));
    if (p.cell->has_c)
        FN(store_start)(&p, p.dc, p.dc_final, ek_node_grad_in(node, CELL_C0));
    if (FN(sum_gradients)(node, &p) != EK_OK)
        return EK_ERR_MEMORY;
    REAL *d_weight = ek_node_grad_in(node, CELL_WEIGHT);
    return d_weight ? FN(weight_gradient)(node, &p, d_weight) : EK_OK;
}

#else
#include "panels.h"
#include "recurrent.h"

/* Sequences that a thread takes through the steps together: enough of them to read W_hh once for many, and no more than
 * leave work for all threads. */
enum { BLOCK_ROWS = 16 };
/* Multiplications that are worth a thread: some 10 µs; and how many of them a gate's arithmetic costs. */
enum { WORTH_A_THREAD = 1 << 19, COST_OF_A_GATE = 64 };

typedef struct cell_sizes {
    int64_t rows, n, hidden, width; /* R, N, H, gates·H */
    int sites;                      /* that a norm would have */
} cell_sizes;

static int64_t row_blocks(int64_t n)
{
    return (n + BLOCK_ROWS - 1) / BLOCK_ROWS;
}

/* The longest sequences come first: long and short blocks in turn make threads' shares alike. */
static int64_t block_of_task(int64_t task, int64_t n)
{
    return task % 2 == 0 ? task / 2 : row_blocks(n) - 1 - task / 2;
}

static int64_t block_end(int64_t from, int64_t count)
{
    return from + BLOCK_ROWS < count ? from + BLOCK_ROWS : count;
}

static cell_sizes cell_sizes_of(const ek_node *node)
{
    const ek_cell *cell = (const ek_cell *)node->op;
    const ek_lengths *lengths = ((const cell_attributes *)node->attributes)->rows->lengths;
    const int64_t hidden = node->in[CELL_WEIGHT]->shape.dim[1];
    return (cell_sizes){.rows = lengths->total, .n = lengths->n, .hidden = hidden, .width = cell->gates * hidden,
                        .sites = cell->has_c ? CELL_SITES : SITE_C};
}

/* Does BatchNorm take the batch's own statistics at this step? */
static bool step_is_own(const cell_attributes *attr, int64_t step)
{
    return attr->batch_statistics && attr->rows->count[step] > 1;
}

/* Numbers r that a site keeps. */
static int64_t rstd_count(const cell_attributes *attr, int segments, int64_t units, int64_t rows)
{
    return attr->norm == CELL_LAYER_NORM ? rows * segments : attr->rows->steps * units;
}

/* Numbers that forward keeps for backward, laid out by lay_out. */
static int64_t saved_count(const ek_node *node, const cell_sizes *z)
{
    const ek_cell *cell = (const ek_cell *)node->op;
    const cell_attributes *attr = node->attributes;
    int64_t count = z->rows * cell->kept * z->hidden;
    for (int s = 0; attr->norm != CELL_NO_NORM && s < z->sites; s++) {
        const int64_t units = s == SITE_C ? z->hidden : z->width;
        count += z->rows * units + rstd_count(attr, s == SITE_C ? 1 : cell->segments, units, z->rows);
    }
    return count;
}

/* Rows of a step that make a task worth a thread: a unit costs an exponential or two. */
static int64_t row_grain(int64_t width)
{
    return EK_GRAIN / (8 * width) + 1;
}

/* Rows whose product makes a task worth a thread. */
static int64_t product_grain(const cell_sizes *z)
{
    const int64_t rows = WORTH_A_THREAD / (z->hidden * z->width + 1);
    return (rows / BLOCK_ROWS + 1) * BLOCK_ROWS;
}

/* Blocks of rows that do, over all steps. */
static int64_t block_grain(const cell_sizes *z)
{
    const int64_t per_row = (z->rows / (z->n + 1) + 1) * (z->hidden + COST_OF_A_GATE) * z->width;
    return WORTH_A_THREAD / (per_row * BLOCK_ROWS) + 1;
}

#define OP_FILE "recurrent.c"
#include "foreach_real.h"

static ek_status need_shape(const ek_node *node, int i, const char *name, ek_shape expected)
{
    const ek_tensor *t = node->in[i];
    if (!t)
        return EK_OK;
    if (ek_need_float(node, i) != EK_OK)
        return EK_ERR_DTYPE;
    if (!ek_shape_equal(t->shape, expected))
        return ek_fail(EK_ERR_SHAPE, "%s: expected %s of shape %s, got %s", node->op->name, name, EK_TEXT(expected),
                       EK_TEXT(t->shape));
    return EK_OK;
}

ek_status ek_infer_cell(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* that of the projection */
    const ek_cell *cell = (const ek_cell *)node->op;
    if (node->in[CELL_WEIGHT]->shape.ndim != 2)
        return ek_fail(EK_ERR_SHAPE, "%s: expected weight_hh of shape (%d·hidden, hidden), got %s", node->op->name,
                       cell->gates, EK_TEXT(node->in[CELL_WEIGHT]->shape));
    const cell_sizes z = cell_sizes_of(node);
    const ek_shape units = EK_SHAPE(z.width), hidden = EK_SHAPE(z.hidden), states = EK_SHAPE(z.n, z.hidden);
    const struct {
        const char *name;
        ek_shape shape;
    } expected[CELL_INPUTS] = {{"projected inputs", EK_SHAPE(z.rows, z.width)},
                               {"weight_hh", EK_SHAPE(z.width, z.hidden)},
                               {"bias_ih", units},
                               {"bias_hh", units},
                               {"the initial h", states},
                               {"the initial c", states},
                               {"gain_ih", units},
                               {"gain_hh", units},
                               {"gain_c", hidden},
                               {"bias_c", hidden}};
    for (int i = 0; i < CELL_INPUTS; i++) {
        ek_status status = need_shape(node, i, expected[i].name, expected[i].shape);
        if (status != EK_OK)
            return status;
    }
    *shape = EK_SHAPE((cell->has_c ? 2 : 1) * (z.rows + z.n), z.hidden);
    return EK_OK;
}

ek_tensor *ek_apply_cell(ek_tape *tape, const ek_op *op, ek_tensor *const in[CELL_INPUTS],
                         const cell_attributes *attributes)
{
    return ek_apply(tape, op, CELL_INPUTS, in, attributes, sizeof *attributes);
}
#endif
