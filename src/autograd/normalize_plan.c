/* From two views of a tensor to the loops that walk it. */
#include "normalize.h"

/* rows: Σ outer where batches are ragged, which then is that of the one batch to look at; −1: they are alike. */
static ek_status check_view(const char *name, ek_view v, int64_t rows, int64_t numel)
{
    int64_t product;
    if (rows >= 0) {
        if (v.batch >= 0 && v.outer == 0 && v.group >= 1 && v.inner >= 0 &&
            !__builtin_mul_overflow(rows, v.group, &product) && !__builtin_mul_overflow(product, v.inner, &product) &&
            product == numel)
            return EK_OK;
        return ek_fail(EK_ERR_SHAPE, "normalize: expected %s view (batch, 0, group, inner) whose %lld rows, Σ "
                                     "stats_outer, have %lld elements, got (%lld, %lld, %lld, %lld)", name,
                       (long long)rows, (long long)numel, (long long)v.batch, (long long)v.outer, (long long)v.group,
                       (long long)v.inner);
    }
    if (v.batch < 0 || v.outer < 0 || v.group < 1 || v.inner < 0 ||
        __builtin_mul_overflow(v.batch, v.outer, &product) || __builtin_mul_overflow(product, v.group, &product) ||
        __builtin_mul_overflow(product, v.inner, &product) || product != numel)
        return ek_fail(EK_ERR_SHAPE, "normalize: expected %s view (batch, outer, group, inner) of %lld elements, got "
                                     "(%lld, %lld, %lld, %lld)", name, (long long)numel, (long long)v.batch,
                       (long long)v.outer, (long long)v.group, (long long)v.inner);
    return EK_OK;
}

/* With one group, outer and inner are one contiguous block; with one row per group, batch and group are one index. */
static ek_view joined(ek_view v)
{
    if (v.group == 1) {
        v.inner *= v.outer;
        v.outer = 1;
    }
    return v;
}

static bool divides(int64_t a, int64_t b)
{
    return a > 0 && b % a == 0;
}

/* Σ outer, or −1 with the failure for one that is negative or a sum that overflows. */
static int64_t count_rows(const ek_normalize_opts *opts)
{
    int64_t rows = 0;
    for (int64_t b = 0; b < opts->stats.batch; b++)
        if (opts->stats_outer[b] < 0 || __builtin_add_overflow(rows, opts->stats_outer[b], &rows)) {
            ek_fail(EK_ERR_SHAPE, "normalize: expected stats_outer ≥ 0, got %lld for batch %lld",
                    (long long)opts->stats_outer[b], (long long)b);
            return -1;
        }
    return rows;
}

/* The tables of ragged batches, in one piece; NULL on failure. */
static const norm_ragged *ragged_new(ek_tape *tape, const ek_normalize_opts *opts, int64_t rows)
{
    const int64_t batches = opts->stats.batch;
    int64_t blocks = 0;
    for (int64_t b = 0; b < batches; b++)
        blocks += (opts->stats_outer[b] + COLUMN_ROWS - 1) / COLUMN_ROWS;
    norm_ragged *ragged = ek_tape_alloc(tape, sizeof *ragged);
    int64_t *outer = ragged ? ek_tape_alloc(tape, (size_t)(3 * batches + 2 + rows + blocks) * sizeof *outer) : NULL;
    if (!outer)
        return NULL;
    int64_t *first_row = outer + batches, *first_block = first_row + batches + 1;
    int64_t *row_batch = first_block + batches + 1, *block_batch = row_batch + rows;
    *ragged = (norm_ragged){outer, first_row, row_batch, first_block, block_batch};
    first_row[0] = first_block[0] = 0;
    for (int64_t b = 0; b < batches; b++) {
        outer[b] = opts->stats_outer[b];
        first_row[b + 1] = first_row[b] + outer[b];
        first_block[b + 1] = first_block[b] + (outer[b] + COLUMN_ROWS - 1) / COLUMN_ROWS;
        for (int64_t r = first_row[b]; r < first_row[b + 1]; r++)
            row_batch[r] = b;
        for (int64_t k = first_block[b]; k < first_block[b + 1]; k++)
            block_batch[k] = b;
    }
    return ragged;
}

ek_status ek_norm_plan_make(norm_plan *plan, ek_tape *tape, int64_t numel, const ek_normalize_opts *opts,
                            bool has_affine)
{
    ek_view stats = opts->stats, affine = opts->affine;
    const int64_t rows = opts->stats_outer ? count_rows(opts) : -1;
    if (opts->stats_outer && rows < 0)
        return EK_ERR_SHAPE;
    ek_status status = check_view("a statistics", stats, rows, numel);
    if (status == EK_OK && has_affine)
        status = check_view("an affine", affine, -1, numel);
    if (status != EK_OK)
        return status;
    if (has_affine && affine.batch != 1)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: weight and bias have one value per affine group, so the affine "
                                        "view's batch must be 1, got %lld", (long long)affine.batch);
    *plan = (norm_plan){.numel = numel, .groups = stats.batch * stats.group,
                        .affine_groups = has_affine ? affine.group : 0};
    if (!has_affine)
        affine = (ek_view){1, 1, 1, numel};
    if (rows >= 0 && !(plan->ragged = ragged_new(tape, opts, rows)))
        return EK_ERR_MEMORY;
    plan->stats = stats = rows >= 0 ? stats : joined(stats);
    plan->affine = affine = joined(affine);
    if (numel == 0)
        return EK_OK;

    plan->columns = stats.inner == 1 && stats.group > 1;
    plan->contiguous = stats.group == 1 || (stats.outer == 1 && !plan->ragged);
    bool walkable;
    if (plan->columns) {
        plan->run = stats.group;
        walkable = !has_affine || affine.group == 1 || (affine.inner == 1 && affine.group == stats.group);
        plan->vector_affine = has_affine && affine.group > 1;
    } else {
        plan->vector_affine = affine.inner == 1 && affine.group > 1;
        int64_t period = plan->vector_affine ? affine.group : affine.inner;
        plan->run = period < stats.inner ? period : stats.inner;
        walkable = divides(plan->run, period) && divides(plan->run, stats.inner);
    }
    if (!walkable)
        return ek_fail(EK_ERR_ARGUMENT, "normalize: the affine view (1, %lld, %lld, %lld) cuts across the groups of "
                                        "the statistics view (%lld, %lld, %lld, %lld)", (long long)affine.outer,
                       (long long)affine.group, (long long)affine.inner, (long long)stats.batch,
                       (long long)stats.outer, (long long)stats.group, (long long)stats.inner);
    plan->n_runs = numel / plan->run;
    plan->short_rows = plan->contiguous && !plan->ragged && !plan->columns && numel / plan->groups <= SHORT_ROW &&
                       (!has_affine || (plan->vector_affine && plan->affine_groups == numel / plan->groups));
    return EK_OK;
}

norm_split ek_norm_split_make(const norm_plan *plan, int64_t segment)
{
    norm_split split = {0};
    if (plan->columns) {
        split.blocks = (plan->stats.outer + COLUMN_ROWS - 1) / COLUMN_ROWS;
        const int64_t blocks = norm_first_block(plan, &split, plan->stats.batch);
        split.tasks = blocks * norm_column_blocks(plan->stats);
        split.results = blocks * plan->stats.group;
        split.grain = norm_grain((plan->n_runs + blocks - 1) / blocks * COLUMN_BLOCK); /* rows of a block on average */
    } else {
        split.segment = segment;
        split.pieces_per_segment = (segment + NORM_PIECE - 1) / NORM_PIECE;
        split.tasks = split.results = plan->numel / segment * split.pieces_per_segment;
        split.grain = norm_grain(segment < NORM_PIECE ? segment : NORM_PIECE);
    }
    return split;
}

/* Tables of dγ and dβ that are summed side by side, and elements of all of them together (32 MiB in double). */
enum { MOST_TABLES = 64, MOST_TABLES_NUMEL = 1 << 21 };

int64_t ek_norm_vector_chunk(const norm_plan *plan)
{
    int64_t tables = MOST_TABLES_NUMEL / (plan->affine_groups > 0 ? plan->affine_groups : 1);
    tables = tables < 2 ? 2 : tables > MOST_TABLES ? MOST_TABLES : tables;
    int64_t least = norm_grain(plan->run), spread = (plan->n_runs + tables - 1) / tables;
    return least > spread ? least : spread;
}

typedef struct merge_task {
    const norm_plan *plan;
    const norm_split *split;
    const norm_moments *parts;
    const norm_saved *saved;
} merge_task;

static void merge_groups(void *context, int64_t begin, int64_t end)
{
    const merge_task *t = context;
    const norm_plan *plan = t->plan;
    const norm_split *split = t->split;
    const ek_view v = plan->stats;
    for (int64_t g = begin; g < end; g++) {
        const int64_t batch = g / v.group, within = g % v.group, rows = norm_rows(plan, batch);
        const int64_t first = plan->columns ? norm_first_block(plan, split, batch) : norm_first_row(plan, batch);
        const int64_t outer = plan->columns ? (rows + COLUMN_ROWS - 1) / COLUMN_ROWS : rows;
        const int64_t pieces = plan->columns ? 1 : split->pieces_per_segment;
        norm_moments total = {0, 0};
        double count = 0;
        for (int64_t o = 0; o < outer; o++)
            for (int64_t p = 0; p < pieces; p++) {
                const int64_t block_rows = o + 1 < outer ? COLUMN_ROWS : rows - o * COLUMN_ROWS;
                int64_t n = plan->columns ? block_rows : norm_piece_at(p, split).n;
                norm_moments part = t->parts[((first + o) * v.group + within) * pieces + p];
                if (count == 0)
                    total = part;
                else
                    norm_merge(&total, count, part, (double)n);
                count += (double)n;
            }
        t->saved->mean[g] = total.mean;
        t->saved->rstd[g] = total.m2;
    }
}

void ek_norm_merge_moments(const norm_plan *plan, const norm_split *split, const norm_moments *parts,
                           const norm_saved *saved)
{
    merge_task task = {plan, split, parts, saved};
    int64_t parts_per_group = (split->results + plan->groups - 1) / plan->groups;
    ek_parallel_for(plan->groups, norm_grain(parts_per_group * 8), merge_groups, &task);
}

void ek_norm_spread_vector_sums(const norm_plan *plan, const norm_saved *saved, const norm_sums *sums,
                                const double *parts, int64_t chunks, bool single, norm_grads *g, double *d_gamma,
                                double *d_beta)
{
    for (int64_t r = 0; r < plan->n_runs; r++) {
        int64_t group = norm_stats_group(plan, r * plan->run);
        double center = saved->center[group], high = single ? (double)(float)center : center;
        g->s1[group] += sums[r].plain;
        g->s2[group] += (sums[r].product + sums[r].plain * (high - center)) * saved->rstd[group];
    }
    if (d_beta)
        ek_norm_add_vector_parts(plan, parts, chunks, d_gamma, d_beta);
}

void ek_norm_add_vector_parts(const norm_plan *plan, const double *parts, int64_t chunks, double *d_gamma,
                              double *d_beta)
{
    for (int64_t k = 0; k < chunks; k++)
        for (int64_t i = 0; i < plan->affine_groups; i++) {
            d_gamma[i] += parts[2 * k * plan->affine_groups + i];
            d_beta[i] += parts[(2 * k + 1) * plan->affine_groups + i];
        }
}
