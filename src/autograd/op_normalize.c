/* Every norm: y = γ·(x − M)·r + β with r = (V + eps)^−½, and its gradients (DESIGN: the norm family is one op).
 *
 * forward:   moments (m, v per statistics group) → finish (M, r) → apply
 * backward:  sums (s1 = Σ γ·dy, s2 = Σ γ·dy·x̂ per statistics group; dβ = Σ dy, dγ = Σ dy·x̂ per affine group)
 *            → finish (dm, dv) → dx = r·γ·dy + (2·dv/K)·(x − m) + dm/K
 *
 * M is kept as a float and the double remainder: x − (REAL)M is a difference of neighbours and exact where it matters,
 * and the remainder joins the constant term.  Statistics and sums are in double.  Kernels expand to norm_…_f32 and
 * norm_…_f64.
 */
#ifdef REAL

#include "normalize_kernels.h"
#include "normalize_short.h"

/* ---- loops over pieces, runs and rows ---------------------------------------------------------------------------- */

/* What the bodies of the parallel loops share. */
typedef struct {
    const norm_plan *plan;
    const norm_saved *saved;
    const REAL *x, *dy, *gamma, *beta;
    REAL *out;     /* y or dx */
    const REAL *y; /* backward behind a ReLU: its output; NULL without one */
    const normalize_attributes *attr;
    bool stream;
    double *report; /* the statistics for whoever asked, or NULL */
    norm_grads grads;
    int64_t group_chunk; /* groups of one chunk of the loop over groups */
    norm_moments *moments; /* [pieces] or [row blocks][columns] */
    norm_sums *sums;       /* likewise */
    const double *dm, *dv; /* [groups], divided by what they spread over; NULL: no gradient through statistics */
    const REAL *column[5]; /* [stats.batch][columns] coefficients of the column kernels */
    norm_split split;
    int64_t vector_chunk;
    double *affine_parts; /* [vector chunks][2][affine_groups]: dγ, dβ */
} FN(norm_loop);

static const REAL *FN(relu_at)(const FN(norm_loop) *t, int64_t start)
{
    return t->y ? t->y + start : NULL;
}

static void FN(moments_pieces)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    for (int64_t p = begin; p < end; p++) {
        norm_piece piece = norm_piece_at(p, &t->split);
        t->moments[p] = FN(norm_moments_of)(piece.n, t->x + piece.start, t->attr->center);
    }
}

/* Index q runs over (row block of a batch, column block); the results stand by [row block][column]. */
static void FN(moments_columns)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    for (int64_t q = begin; q < end; q++) {
        norm_tile tile = norm_tile_at(q, t->plan, &t->split);
        FN(norm_column_moments)(tile.rows, tile.columns, t->plan->stats.group, t->x + tile.start, t->attr->center,
                                t->moments + tile.result);
    }
}

static void FN(sums_columns)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    for (int64_t q = begin; q < end; q++) {
        norm_tile tile = norm_tile_at(q, t->plan, &t->split);
        FN(norm_sums_columns)(tile.rows, tile.columns, t->plan->stats.group, t->x + tile.start, t->dy + tile.start,
                              FN(relu_at)(t, tile.start), t->column[0] + tile.group, t->sums + tile.result);
    }
}

static void FN(sums_pieces)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const bool runs = t->split.pieces_per_segment == 1;
    int64_t group = 0;
    for (int64_t p = begin; p < end; p++) {
        norm_piece piece = norm_piece_at(p, &t->split);
        group = p > begin && runs ? norm_stats_next(t->plan, group, piece.start)
                                  : norm_stats_group(t->plan, piece.start);
        t->sums[p] = FN(norm_sums_of)(piece.n, t->x + piece.start, t->dy + piece.start, FN(relu_at)(t, piece.start),
                                      (REAL)t->saved->center[group], NULL);
    }
}

/* y of the run at `start`, whose elements have statistics of `group` and affine groups from `at` on. */
static void FN(apply_run)(const FN(norm_loop) *t, int64_t start, int64_t group, int64_t at)
{
    const norm_plan *plan = t->plan;
    double center = t->saved->center[group], rstd = t->saved->rstd[group];
    double lo = ((double)(REAL)center - center) * rstd;
    if (plan->vector_affine) {
        FN(norm_apply_vector)(plan->run, t->x + start, t->out + start, (REAL)center, (REAL)rstd, (REAL)lo,
                              t->gamma ? t->gamma + at : NULL, t->beta ? t->beta + at : NULL, t->attr->relu,
                              t->stream);
    } else {
        double gamma = t->gamma ? (double)t->gamma[at] : 1, beta = t->beta ? (double)t->beta[at] : 0;
        FN(norm_apply_scalar)(plan->run, t->x + start, t->out + start, (REAL)center, (REAL)(gamma * rstd),
                              (REAL)(gamma * lo + beta), t->attr->relu, t->stream);
    }
}

static void FN(apply_runs)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const norm_plan *plan = t->plan;
    int64_t start = begin * plan->run, group = norm_stats_group(plan, start), at = norm_affine_at(plan, start);
    for (int64_t r = begin; r < end; r++) {
        FN(apply_run)(t, start, group, at);
        start += plan->run;
        if (r + 1 < end) {
            group = norm_stats_next(plan, group, start);
            at = norm_affine_next(plan, at, start);
        }
    }
    if (t->stream)
        ek_stream_fence();
}

/* Σ dy and Σ dy·(x − M) of the run at `start`, both times γ where it varies along the run. */
static norm_sums FN(run_sums)(const FN(norm_loop) *t, int64_t start, int64_t group, int64_t at)
{
    const int64_t run = t->plan->run;
    const REAL center = (REAL)t->saved->center[group], *gamma = t->plan->vector_affine ? t->gamma : NULL;
    norm_sums total = {0, 0};
    for (int64_t done = 0; done < run; done += NORM_PIECE) {
        const int64_t n = run - done < NORM_PIECE ? run - done : NORM_PIECE, i = start + done;
        norm_sums part = FN(norm_sums_of)(n, t->x + i, t->dy + i, FN(relu_at)(t, i), center,
                                          gamma ? gamma + at + done : NULL);
        total.plain += part.plain;
        total.product += part.product;
    }
    return total;
}

/* Adds what the runs first … first + n − 1, along which γ varies, give to dγ and dβ. */
static void FN(add_affine)(const FN(norm_loop) *t, int64_t first, int64_t n, double *d_gamma, double *d_beta)
{
    const norm_plan *plan = t->plan;
    const int64_t most = plan->run == plan->affine_groups ? AFFINE_ROWS : 1; /* rows below each other */
    for (int64_t r = first; r < first + n;) {
        const int64_t rows = first + n - r < most ? first + n - r : most, at = norm_affine_at(plan, r * plan->run);
        norm_row row[AFFINE_ROWS];
        for (int64_t k = 0; k < rows; k++) {
            const int64_t group = norm_stats_group(plan, (r + k) * plan->run);
            const double center = t->saved->center[group], rstd = t->saved->rstd[group];
            row[k] = (norm_row){center, rstd, ((double)(REAL)center - center) * rstd};
        }
        FN(norm_affine_rows)(rows, plan->run, t->x + r * plan->run, t->dy + r * plan->run,
                             FN(relu_at)(t, r * plan->run), row, d_gamma + at,
                             d_beta + at);
        r += rows;
    }
}

/* Chunk k takes vector_chunk runs and has sums of its own for dγ and dβ. */
static void FN(sums_vector_chunks)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const norm_plan *plan = t->plan;
    for (int64_t k = begin; k < end; k++) {
        const int64_t first = k * t->vector_chunk;
        const int64_t n = plan->n_runs - first < t->vector_chunk ? plan->n_runs - first : t->vector_chunk;
        for (int64_t r = first; r < first + n; r++) {
            const int64_t start = r * plan->run;
            t->sums[r] = FN(run_sums)(t, start, norm_stats_group(plan, start), norm_affine_at(plan, start));
        }
        if (!t->affine_parts)
            continue;
        double *d_gamma = t->affine_parts + 2 * k * plan->affine_groups;
        memset(d_gamma, 0, (size_t)(2 * plan->affine_groups) * sizeof *d_gamma);
        FN(add_affine)(t, first, n, d_gamma, d_gamma + plan->affine_groups);
    }
}

/* dx of the run at `start`. */
static void FN(dx_run)(const FN(norm_loop) *t, int64_t start, int64_t group, int64_t at)
{
    const norm_plan *plan = t->plan;
    double mean = t->saved->mean[group], rstd = t->saved->rstd[group];
    double slope = t->dv ? t->dv[group] : 0, b = rstd > 0 ? slope / rstd : 0;
    double c = t->dm ? t->dm[group] + slope * ((double)(REAL)mean - mean) : 0;
    const REAL *x = t->dv ? t->x + start : NULL, *dy = t->dy + start, *y = FN(relu_at)(t, start);
    if (plan->vector_affine && t->gamma) {
        FN(norm_dx_vector)(plan->run, x, dy, y, t->out + start, (REAL)mean, (REAL)rstd, t->gamma + at, (REAL)b, (REAL)c,
                           t->stream);
    } else {
        double gamma = t->gamma ? (double)t->gamma[at] : 1;
        FN(norm_dx_scalar)(plan->run, x, dy, y, t->out + start, (REAL)mean, (REAL)rstd, (REAL)(gamma * rstd), (REAL)b,
                           (REAL)c, t->stream);
    }
}

static void FN(dx_runs)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const norm_plan *plan = t->plan;
    int64_t start = begin * plan->run, group = norm_stats_group(plan, start), at = norm_affine_at(plan, start);
    for (int64_t r = begin; r < end; r++) {
        FN(dx_run)(t, start, group, at);
        start += plan->run;
        if (r + 1 < end) {
            group = norm_stats_next(plan, group, start);
            at = norm_affine_next(plan, at, start);
        }
    }
    if (t->stream)
        ek_stream_fence();
}

/* ---- loops over groups: all passes over one while it is in a cache ---------------------------------------------- */

/* m and Σ (x − m)² of a group, in the order of memory. */
static void FN(group_moments)(const FN(norm_loop) *t, int64_t g, norm_walk at)
{
    norm_moments total = {0, 0};
    int64_t count = 0;
    for (; at.stretches; at.stretches--, at.start += at.stride, at.stop += at.stride)
        for (int64_t start = at.start; start < at.stop; start += NORM_PIECE) {
            const int64_t n = at.stop - start < NORM_PIECE ? at.stop - start : NORM_PIECE;
            norm_moments part = FN(norm_moments_of)(n, t->x + start, t->attr->center);
            if (count == 0)
                total = part;
            else
                norm_merge(&total, (double)count, part, (double)n);
            count += n;
        }
    t->saved->mean[g] = total.mean;
    t->saved->rstd[g] = total.m2;
}

static void FN(forward_groups)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    norm_walk at = norm_walk_of(t->plan, begin);
    for (int64_t g = begin; g < end; g++) {
        FN(group_moments)(t, g, at);
        if (t->report)
            ek_norm_report(t->plan, t->saved, g, t->report);
        ek_norm_finish_forward(t->attr, t->saved, g);
        for (; at.stretches; norm_walk_on(t->plan, &at))
            FN(apply_run)(t, at.start, g, at.affine);
        if (g + 1 < end)
            at = norm_walk_after(t->plan, at, g + 1);
    }
    if (t->stream)
        ek_stream_fence();
}

/* s1 and s2 of a group; what its runs give to dγ and dβ is noted in t->sums, where that is wanted. */
static void FN(group_sums)(const FN(norm_loop) *t, int64_t g, norm_walk at)
{
    const norm_plan *plan = t->plan;
    const double center = t->saved->center[g], remainder = (double)(REAL)center - center, rstd = t->saved->rstd[g];
    double s1 = 0, s2 = 0;
    for (; at.stretches; norm_walk_on(plan, &at)) {
        norm_sums sums = FN(run_sums)(t, at.start, g, at.affine);
        sums.product = (sums.product + sums.plain * remainder) * rstd; /* Σ dy·x̂ */
        const double gamma = t->gamma && !plan->vector_affine ? (double)t->gamma[at.affine] : 1;
        s1 += gamma * sums.plain;
        s2 += gamma * sums.product;
        if (t->sums)
            t->sums[at.start / plan->run] = sums;
    }
    t->grads.s1[g] = s1;
    t->grads.s2[g] = s2;
}

/* Sums, finish and dx of groups.  Where γ varies along the runs, this chunk has tables of its own for dγ and dβ. */
static void FN(backward_groups)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const norm_plan *plan = t->plan;
    double *d_gamma = NULL;
    if (t->affine_parts) {
        d_gamma = t->affine_parts + 2 * (begin / t->group_chunk) * plan->affine_groups;
        memset(d_gamma, 0, (size_t)(2 * plan->affine_groups) * sizeof *d_gamma);
    }
    norm_walk at = norm_walk_of(plan, begin);
    int64_t added = at.start / plan->run; /* runs before this one have given their share */
    for (int64_t g = begin; g < end; g++) {
        FN(group_sums)(t, g, at);
        ek_norm_finish_group(t->attr, t->saved, &t->grads, g);
        ek_norm_share_group(t->attr, &t->grads, g);
        for (; at.stretches; norm_walk_on(plan, &at)) {
            if (t->out)
                FN(dx_run)(t, at.start, g, at.affine);
            if (d_gamma && !plan->contiguous)
                FN(add_affine)(t, at.start / plan->run, 1, d_gamma, d_gamma + plan->affine_groups);
        }
        const int64_t done = at.start / plan->run;
        if (d_gamma && plan->contiguous && (done - added >= AFFINE_ROWS || g + 1 == end)) {
            FN(add_affine)(t, added, done - added, d_gamma, d_gamma + plan->affine_groups);
            added = done;
        }
        if (g + 1 < end)
            at = norm_walk_after(plan, at, g + 1);
    }
    if (t->stream)
        ek_stream_fence();
}

static void FN(forward_short_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const int64_t n = t->plan->numel / t->plan->groups;
    for (int64_t g = begin; g < end; g += SHORT_LANES)
        FN(norm_short_forward)(end - g < SHORT_LANES ? end - g : SHORT_LANES, n, t->x + g * n, t->out + g * n,
                               t->attr->center, t->attr->eps, t->gamma, t->beta, t->attr->relu, t->saved->mean + g,
                               t->saved->rstd + g);
}

static void FN(backward_short_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const int64_t n = t->plan->numel / t->plan->groups;
    double d_gamma[SHORT_ROW][SHORT_LANES], d_beta[SHORT_ROW][SHORT_LANES];
    const bool affine = t->affine_parts;
    memset(d_gamma, 0, (size_t)n * sizeof *d_gamma);
    memset(d_beta, 0, (size_t)n * sizeof *d_beta);
    for (int64_t g = begin; g < end; g += SHORT_LANES)
        FN(norm_short_backward)(end - g < SHORT_LANES ? end - g : SHORT_LANES, n, t->x + g * n, t->dy + g * n,
                                FN(relu_at)(t, g * n), t->out ? t->out + g * n : NULL, t->attr->center, t->gamma,
                                t->saved->mean + g, t->saved->rstd + g, affine ? d_gamma : NULL,
                                affine ? d_beta : NULL);
    double *parts = affine ? t->affine_parts + 2 * (begin / t->group_chunk) * n : NULL;
    for (int64_t i = 0; affine && i < n; i++) {
        parts[i] = parts[n + i] = 0;
        for (int l = 0; l < SHORT_LANES; l++) {
            parts[i] += d_gamma[i][l];
            parts[n + i] += d_beta[i][l];
        }
    }
}

static void FN(apply_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const int64_t columns = t->plan->stats.group;
    for (int64_t r = begin; r < end; r++) {
        int64_t at = norm_row_batch(t->plan, r) * columns;
        FN(norm_apply_columns)(columns, t->x + r * columns, t->out + r * columns, t->column[0] + at,
                               t->column[1] + at, t->column[2] + at, t->attr->relu);
    }
}

static void FN(dx_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(norm_loop) *t = context;
    const int64_t columns = t->plan->stats.group;
    for (int64_t r = begin; r < end; r++) {
        int64_t at = norm_row_batch(t->plan, r) * columns;
        FN(norm_dx_columns)(columns, t->dv ? t->x + r * columns : NULL, t->dy + r * columns,
                            FN(relu_at)(t, r * columns), t->out + r * columns,
                            t->column[0] + at, t->column[1] + at, t->column[2] + at, t->column[3] + at,
                            t->column[4] + at);
    }
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

/* m in saved->mean and Σ (x − m)² in saved->rstd, per statistics group. */
static ek_status FN(input_moments)(ek_node *node, FN(norm_loop) *t, const norm_saved *saved)
{
    const norm_plan *plan = t->plan;
    t->split = ek_norm_split_make(plan, plan->stats.inner);
    t->moments = ek_node_scratch(node, (size_t)t->split.results * sizeof *t->moments);
    if (!t->moments)
        return EK_ERR_MEMORY;
    ek_parallel_for(t->split.tasks, t->split.grain, plan->columns ? FN(moments_columns) : FN(moments_pieces), t);
    ek_norm_merge_moments(plan, &t->split, t->moments, saved);
    return EK_OK;
}

/* center, a = γ·r and b per column and batch of the statistics view. */
static ek_status FN(apply_coefficients)(ek_node *node, FN(norm_loop) *t)
{
    const int64_t groups = t->plan->groups, columns = t->plan->stats.group;
    REAL *center = ek_node_scratch(node, (size_t)(3 * groups) * sizeof *center);
    if (!center)
        return EK_ERR_MEMORY;
    REAL *a = center + groups, *b = a + groups;
    for (int64_t g = 0; g < groups; g++) {
        int64_t at = t->plan->vector_affine ? g % columns : 0;
        double m = t->saved->center[g], rstd = t->saved->rstd[g], gamma = t->gamma ? (double)t->gamma[at] : 1;
        center[g] = (REAL)m;
        a[g] = (REAL)(gamma * rstd);
        b[g] = (REAL)(gamma * ((double)center[g] - m) * rstd + (t->beta ? (double)t->beta[at] : 0));
    }
    t->column[0] = center;
    t->column[1] = a;
    t->column[2] = b;
    return EK_OK;
}

static void FN(to_double)(const ek_tensor *t, int64_t n, double *out)
{
    const REAL *values = t->data;
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)values[i];
}

/* The statistics of all groups for whoever asked. */
static ek_status FN(report)(ek_node *node, FN(norm_loop) *t)
{
    if (ek_norm_report_room(node, t->plan->groups, &t->report) != EK_OK)
        return EK_ERR_MEMORY;
    for (int64_t g = 0; t->report && g < t->plan->groups; g++)
        ek_norm_report(t->plan, t->saved, g, t->report);
    return EK_OK;
}

static ek_status FN(normalize_forward)(ek_node *node)
{
    const normalize_attributes *attr = node->attributes;
    const norm_plan *plan = &attr->plan;
    norm_saved *saved = ek_norm_saved_make(node);
    if (!saved)
        return EK_ERR_MEMORY;
    FN(norm_loop) t = {.plan = plan, .saved = saved, .x = node->in[0]->data, .out = node->out->data,
                       .gamma = norm_data(node, 1), .beta = norm_data(node, 2), .attr = attr,
                       .stream = plan->numel >= NORM_STREAM_BYTES / (int64_t)sizeof(REAL)};
    if (plan->numel == 0)
        return EK_OK;
    if (attr->mean) { /* the input's own statistics are looked at only to report them */
        if (attr->stats && (FN(input_moments)(node, &t, saved) != EK_OK || FN(report)(node, &t) != EK_OK))
            return EK_ERR_MEMORY;
        FN(to_double)(attr->mean, plan->groups, saved->center);
        FN(to_double)(attr->var, plan->groups, saved->rstd);
        for (int64_t g = 0; g < plan->groups; g++)
            saved->rstd[g] = norm_rstd(saved->rstd[g], attr->eps);
    } else if (!saved->mixed && norm_by_groups(plan)) {
        if (ek_norm_report_room(node, plan->groups, &t.report) != EK_OK)
            return EK_ERR_MEMORY;
        ek_parallel_for(plan->groups, norm_grain((plan->numel + plan->groups - 1) / plan->groups),
                        plan->short_rows && !t.report ? FN(forward_short_rows) : FN(forward_groups), &t);
        return EK_OK;
    } else {
        if (FN(input_moments)(node, &t, saved) != EK_OK)
            return EK_ERR_MEMORY;
        if (saved->mixed) {
            double logits[2][3], *running = NULL;
            FN(to_double)(node->in[3], attr->n_weights, logits[0]);
            FN(to_double)(node->in[4], attr->n_weights, logits[1]);
            if (attr->running_mean) {
                running = ek_node_scratch(node, (size_t)(2 * plan->stats.group) * sizeof *running);
                if (!running)
                    return EK_ERR_MEMORY;
                FN(to_double)(attr->running_mean, plan->stats.group, running);
                FN(to_double)(attr->running_var, plan->stats.group, running + plan->stats.group);
            }
            if (ek_norm_mix(node, saved, logits[0], logits[1], running) != EK_OK)
                return EK_ERR_MEMORY;
        } else {
            if (FN(report)(node, &t) != EK_OK)
                return EK_ERR_MEMORY;
            for (int64_t g = 0; g < plan->groups; g++)
                ek_norm_finish_forward(attr, saved, g);
        }
    }
    if (plan->columns) {
        if (FN(apply_coefficients)(node, &t) != EK_OK)
            return EK_ERR_MEMORY;
        ek_parallel_for(plan->n_runs, norm_grain(plan->run), FN(apply_rows), &t);
    } else {
        ek_parallel_for(plan->n_runs, norm_grain(plan->run), FN(apply_runs), &t);
    }
    return EK_OK;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Adds sums of runs (Σ dy, Σ dy·(x − M)), which share γ, to s1, s2 of their statistics group and to dγ, dβ. */
static void FN(spread_sums)(const FN(norm_loop) *t, norm_grads *g, double *d_gamma, double *d_beta)
{
    const norm_plan *plan = t->plan;
    int64_t group = 0, at = 0;
    for (int64_t r = 0; r < plan->n_runs; r++) {
        const int64_t start = r * plan->run;
        group = r > 0 ? norm_stats_next(plan, group, start) : norm_stats_group(plan, start);
        at = r > 0 ? norm_affine_next(plan, at, start) : norm_affine_at(plan, start);
        double center = t->saved->center[group], plain = 0, product = 0;
        for (int64_t p = 0; p < t->split.pieces_per_segment; p++) {
            plain += t->sums[r * t->split.pieces_per_segment + p].plain;
            product += t->sums[r * t->split.pieces_per_segment + p].product;
        }
        product = (product + plain * ((double)(REAL)center - center)) * t->saved->rstd[group]; /* Σ dy·x̂ */
        double gamma = t->gamma ? (double)t->gamma[at] : 1;
        g->s1[group] += gamma * plain;
        g->s2[group] += gamma * product;
        if (d_beta) {
            d_gamma[at] += product;
            d_beta[at] += plain;
        }
    }
}

/* The same for column sums: [row block of a batch][column]. */
static void FN(spread_column_sums)(const FN(norm_loop) *t, norm_grads *g, double *d_gamma, double *d_beta)
{
    const int64_t columns = t->plan->stats.group;
    for (int64_t i = 0; i < t->split.results; i++) {
        int64_t column = i % columns, group = norm_block_batch(t->plan, &t->split, i / columns) * columns + column;
        int64_t at = t->plan->vector_affine ? column : 0;
        double center = t->saved->center[group], plain = t->sums[i].plain;
        double product = (t->sums[i].product + plain * ((double)(REAL)center - center)) * t->saved->rstd[group];
        double gamma = t->gamma ? (double)t->gamma[at] : 1;
        g->s1[group] += gamma * plain;
        g->s2[group] += gamma * product;
        if (d_beta) {
            d_gamma[at] += product;
            d_beta[at] += plain;
        }
    }
}

/* s1, s2 per statistics group and dγ, dβ (NULL: not wanted). */
static ek_status FN(gradient_sums)(ek_node *node, FN(norm_loop) *t, norm_grads *g, double *d_gamma, double *d_beta)
{
    const norm_plan *plan = t->plan;
    t->split = ek_norm_split_make(plan, plan->run);
    t->vector_chunk = ek_norm_vector_chunk(plan);
    const int64_t chunks = (plan->n_runs + t->vector_chunk - 1) / t->vector_chunk;
    const bool vector = plan->vector_affine && !plan->columns;
    t->sums = ek_node_scratch(node, (size_t)(vector ? plan->n_runs : t->split.results) * sizeof *t->sums);
    if (vector && d_beta)
        t->affine_parts = ek_node_scratch(node, (size_t)(2 * chunks * plan->affine_groups) * sizeof(double));
    if (!t->sums || (vector && d_beta && !t->affine_parts))
        return EK_ERR_MEMORY;
    if (vector) {
        ek_parallel_for(chunks, 1, FN(sums_vector_chunks), t);
        ek_norm_spread_vector_sums(plan, t->saved, t->sums, t->affine_parts, chunks, REAL_IS_F32, g, d_gamma, d_beta);
    } else if (plan->columns) {
        REAL *center = ek_node_scratch(node, (size_t)plan->groups * sizeof *center);
        if (!center)
            return EK_ERR_MEMORY;
        for (int64_t i = 0; i < plan->groups; i++)
            center[i] = (REAL)t->saved->center[i];
        t->column[0] = center;
        ek_parallel_for(t->split.tasks, t->split.grain, FN(sums_columns), t);
        FN(spread_column_sums)(t, g, d_gamma, d_beta);
    } else {
        ek_parallel_for(t->split.tasks, t->split.grain, FN(sums_pieces), t);
        FN(spread_sums)(t, g, d_gamma, d_beta);
    }
    return EK_OK;
}

/* dγ and dβ of runs that share γ, added up in the order of memory; t->sums holds Σ dy and Σ dy·x̂. */
static void FN(add_run_sums)(const FN(norm_loop) *t, double *d_gamma, double *d_beta)
{
    for (int64_t r = 0; r < t->plan->n_runs; r++) {
        const int64_t at = norm_affine_at(t->plan, r * t->plan->run);
        d_gamma[at] += t->sums[r].product;
        d_beta[at] += t->sums[r].plain;
    }
}

/* The whole backward, group by group. */
static ek_status FN(backward_by_groups)(ek_node *node, FN(norm_loop) *t, norm_work *work)
{
    const norm_plan *plan = t->plan;
    t->grads = work->g;
    t->dm = work->g.s1;
    t->dv = work->g.s2;
    t->group_chunk = norm_grain((plan->numel + plan->groups - 1) / plan->groups);
    if (plan->vector_affine) {
        const int64_t runs = (plan->n_runs + plan->groups - 1) / plan->groups;
        const int64_t chunk = (ek_norm_vector_chunk(plan) + runs - 1) / runs;
        t->group_chunk = chunk > t->group_chunk ? chunk : t->group_chunk;
    }
    const int64_t chunks = (plan->groups + t->group_chunk - 1) / t->group_chunk;
    if (work->d_beta && plan->vector_affine)
        t->affine_parts = ek_node_scratch(node, (size_t)(2 * chunks * plan->affine_groups) * sizeof(double));
    else if (work->d_beta)
        t->sums = ek_node_scratch(node, (size_t)plan->n_runs * sizeof *t->sums);
    if (work->d_beta && !t->affine_parts && !t->sums)
        return EK_ERR_MEMORY;
    ek_parallel_for(plan->groups, t->group_chunk, plan->short_rows ? FN(backward_short_rows) : FN(backward_groups), t);
    if (t->sums)
        FN(add_run_sums)(t, work->d_gamma, work->d_beta);
    if (t->affine_parts)
        ek_norm_add_vector_parts(plan, t->affine_parts, chunks, work->d_gamma, work->d_beta);
    return EK_OK;
}

/* m, r, a = γ·r, b, c per column and batch of the statistics view. */
static ek_status FN(dx_coefficients)(ek_node *node, FN(norm_loop) *t)
{
    const int64_t groups = t->plan->groups, columns = t->plan->stats.group;
    REAL *table = ek_node_scratch(node, (size_t)(5 * groups) * sizeof *table);
    if (!table)
        return EK_ERR_MEMORY;
    REAL *mean = table, *r = mean + groups, *a = r + groups, *b = a + groups, *c = b + groups;
    for (int64_t g = 0; g < groups; g++) {
        double m = t->saved->mean[g], gamma = t->gamma ? (double)t->gamma[t->plan->vector_affine ? g % columns : 0] : 1;
        double rstd = t->saved->rstd[g], slope = t->dv ? t->dv[g] : 0;
        mean[g] = (REAL)m;
        r[g] = (REAL)rstd;
        a[g] = (REAL)(gamma * rstd);
        b[g] = (REAL)(rstd > 0 ? slope / rstd : 0);
        c[g] = (REAL)(t->dm ? t->dm[g] + slope * ((double)mean[g] - m) : 0);
    }
    for (int i = 0; i < 5; i++)
        t->column[i] = table + i * groups;
    return EK_OK;
}

static void FN(store)(void *out, const double *values, int64_t n)
{
    REAL *to = out;
    for (int64_t i = 0; to && i < n; i++)
        to[i] = (REAL)values[i];
}

static ek_status FN(normalize_backward)(ek_node *node)
{
    const normalize_attributes *attr = node->attributes;
    const norm_plan *plan = &attr->plan;
    const norm_saved *saved = node->saved;
    FN(norm_loop) t = {.plan = plan, .saved = saved, .x = node->in[0]->data, .dy = ek_node_grad_out(node),
                       .out = ek_node_grad_in(node, 0), .gamma = norm_data(node, 1), .attr = attr,
                       .y = attr->relu ? node->out->data : NULL,
                       .stream = plan->numel >= NORM_STREAM_BYTES / (int64_t)sizeof(REAL)};
    void *d_weight = ek_node_grad_in(node, 1), *d_bias = ek_node_grad_in(node, 2);
    void *d_mean_weight = ek_node_grad_in(node, 3), *d_var_weight = ek_node_grad_in(node, 4);
    norm_work work;
    if (ek_norm_work_make(node, &work, d_weight || d_bias) != EK_OK)
        return EK_ERR_MEMORY;
    const bool own_statistics = !attr->mean;
    if (plan->numel > 0 && own_statistics && !saved->mixed && norm_by_groups(plan)) {
        if (FN(backward_by_groups)(node, &t, &work) != EK_OK)
            return EK_ERR_MEMORY;
    } else if (plan->numel > 0) {
        if ((own_statistics || d_weight || d_bias) &&
            FN(gradient_sums)(node, &t, &work.g, work.d_gamma, work.d_beta) != EK_OK)
            return EK_ERR_MEMORY;
        if (own_statistics) {
            ek_norm_finish_backward(attr, saved, &work);
            t.dm = work.g.s1;
            t.dv = work.g.s2;
        }
        if (t.out && plan->columns && FN(dx_coefficients)(node, &t) != EK_OK)
            return EK_ERR_MEMORY;
        if (t.out)
            ek_parallel_for(plan->n_runs, norm_grain(plan->run), plan->columns ? FN(dx_rows) : FN(dx_runs), &t);
    }
    FN(store)(d_weight, work.d_gamma, plan->affine_groups);
    FN(store)(d_bias, work.d_beta, plan->affine_groups);
    FN(store)(d_mean_weight, work.d_mean_logits, attr->n_weights);
    FN(store)(d_var_weight, work.d_var_logits, attr->n_weights);
    return EK_OK;
}

#else
#include "normalize.h"

static const void *norm_data(const ek_node *node, int i)
{
    return node->in[i] ? node->in[i]->data : NULL;
}

/* For sums in registers (normalize_kernels.h). */
enum { NORM_VECTORS = 4, NORM_SHORT_RUN = 512 };
typedef double norm_quad __attribute__((vector_size(32), aligned(8), may_alias));
typedef int64_t norm_longs __attribute__((vector_size(32)));
#define NORM_UNROLL _Pragma("GCC unroll 4")

EK_INLINE double norm_fold_quads(const norm_quad *v)
{
    const norm_quad sum = (v[0] + v[1]) + (v[2] + v[3]);
    return (sum[0] + sum[2]) + (sum[1] + sum[3]);
}

#define OP_FILE "op_normalize.c"
#include "foreach_real.h"

static const ek_op normalize_op = {.name = "normalize",
                                   .optional_from = 1,
                                   .infer = ek_norm_infer,
                                   .forward = EK_BY_DTYPE(normalize_forward),
                                   .backward = EK_BY_DTYPE(normalize_backward),
                                   .lengths = ek_keep_first_lengths};
const ek_op *const ek_op_normalize = &normalize_op;
#endif
