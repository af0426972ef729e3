/* The pieces of `normalize`: how its views walk memory (normalize_plan.c), how statistics are mixed
 * (normalize_switch.c), what stands between its passes (normalize_finish.c), the op with its kernels, forward and
 * backward (op_normalize.c), and what it takes (normalize.c). */
#ifndef EK_NORMALIZE_H
#define EK_NORMALIZE_H

#include "op.h"

enum {
    NORM_PIECE = 4096, /* elements reduced at a time: two passes over them stay in the first-level cache */
    COLUMN_BLOCK = 64, /* neighbouring columns reduced together */
    COLUMN_ROWS = NORM_PIECE / COLUMN_BLOCK, /* rows of such a block */
    AFFINE_ROWS = 16,  /* rows whose shares of dγ and dβ are added up before they go to a table */
    SHORT_ROW = 32, SHORT_LANES = 16, /* rows of at most so many elements go through so many at a time */
    NORM_STRETCH = 64, /* elements stored past the caches at a time */
    NORM_STREAM_BYTES = 1 << 24 /* results from this size on are: half of a usual last-level cache */
};

/* Sums of float products of this size are clear of float's smallest numbers. */
#define NORM_FLOAT_LEAST 1e-30

/* Batches of the statistics view that have different numbers of rows of group·inner elements (`outer`): they stand in
 * memory one after the other.  Memory of the tape. */
typedef struct norm_ragged {
    const int64_t *outer;       /* [batch] rows of each */
    const int64_t *first_row;   /* [batch + 1] rows before it */
    const int64_t *row_batch;   /* [rows] the batch of each row */
    const int64_t *first_block; /* [batch + 1] blocks of COLUMN_ROWS rows before it: each of one batch only */
    const int64_t *block_batch; /* [blocks] the batch of each block */
} norm_ragged;

/* The two views of x, turned into loops.  All of it depends on shapes alone.
 *
 * Runs: memory is cut into runs of `run` elements that share one statistics group and either one affine group, or
 * (vector_affine) have affine groups that follow each other along the run.
 * Columns: neighbours belong to different groups (inner = 1); x is read by rows of stats.group elements, and the affine
 * groups, if any, are the same columns. */
typedef struct norm_plan {
    ek_view stats, affine;
    const norm_ragged *ragged; /* NULL: every batch has stats.outer rows, which is 0 elsewhere */
    int64_t numel, groups;     /* groups of `stats` */
    bool columns;
    bool contiguous; /* the elements of a group are one stretch of memory, group after group */
    bool short_rows; /* groups are rows of at most SHORT_ROW elements, each with its own γ and β or none at all */
    int64_t run, n_runs;
    bool vector_affine;
    int64_t affine_groups; /* 0: no weight and no bias */
} norm_plan;

/* EK_ERR_SHAPE or EK_ERR_ARGUMENT when the views do not factor x, or not in a way the kernels walk; EK_ERR_MEMORY. */
ek_status ek_norm_plan_make(norm_plan *plan, ek_tape *tape, int64_t numel, const ek_normalize_opts *opts,
                            bool has_affine);

/* Group of the element at flat index p. */
static inline int64_t norm_group(ek_view v, int64_t p)
{
    int64_t row = p / v.inner;
    return row / (v.group * v.outer) * v.group + row % v.group;
}

/* The same in the statistics view, where batches may be ragged. */
static inline int64_t norm_stats_group(const norm_plan *plan, int64_t p)
{
    if (!plan->ragged)
        return norm_group(plan->stats, p);
    int64_t row = p / plan->stats.inner;
    return plan->ragged->row_batch[row / plan->stats.group] * plan->stats.group + row % plan->stats.group;
}

/* The statistics group of the run at p, which follows a run of group `at`: divisions would take longer than a short
 * run. */
static inline int64_t norm_stats_next(const norm_plan *plan, int64_t at, int64_t p)
{
    if (plan->ragged || plan->stats.batch != 1 || plan->stats.inner != plan->run)
        return norm_stats_group(plan, p);
    return at + 1 == plan->stats.group ? 0 : at + 1;
}

/* Rows of group·inner elements: how many a batch has, its first one, and the batch of a row. */
static inline int64_t norm_rows(const norm_plan *plan, int64_t batch)
{
    return plan->ragged ? plan->ragged->outer[batch] : plan->stats.outer;
}

static inline int64_t norm_first_row(const norm_plan *plan, int64_t batch)
{
    return plan->ragged ? plan->ragged->first_row[batch] : batch * plan->stats.outer;
}

static inline int64_t norm_row_batch(const norm_plan *plan, int64_t row)
{
    return plan->ragged ? plan->ragged->row_batch[row] : row / plan->stats.outer;
}

/* Affine group of the element at flat index p; where it varies along runs, of the first one of them. */
static inline int64_t norm_affine_at(const norm_plan *plan, int64_t p)
{
    return !plan->affine_groups ? 0 : plan->vector_affine ? p % plan->affine_groups : norm_group(plan->affine, p);
}

/* K: elements of a group. */
static inline int64_t norm_count(const norm_plan *plan, int64_t group)
{
    return norm_rows(plan, plan->ragged ? group / plan->stats.group : 0) * plan->stats.inner;
}

/* The affine group of the run at p, which follows a run of affine group `at`. */
static inline int64_t norm_affine_next(const norm_plan *plan, int64_t at, int64_t p)
{
    if (plan->affine_groups <= 1)
        return 0;
    const int64_t next = plan->vector_affine ? at + plan->run : at + 1;
    if (plan->vector_affine || plan->affine.inner == plan->run)
        return next == plan->affine_groups ? 0 : next;
    return norm_affine_at(plan, p);
}

/* A walk over the runs of a group, stretch by stretch of contiguous memory. */
typedef struct norm_walk {
    int64_t stretches;           /* still to come, this one included; 0: the end */
    int64_t start, stop, stride; /* what is left of this stretch; from one stretch to the next */
    int64_t affine;              /* affine group of the run at `start` */
} norm_walk;

static inline norm_walk norm_walk_of(const norm_plan *plan, int64_t group)
{
    const ek_view v = plan->stats;
    const int64_t batch = v.group == 1 ? group : group / v.group, row = v.group * v.inner;
    const int64_t rows = norm_rows(plan, batch);
    const int64_t start = norm_first_row(plan, batch) * row + (group - batch * v.group) * v.inner;
    const int64_t stretch = plan->contiguous ? rows * v.inner : v.inner;
    return (norm_walk){.stretches = rows == 0 ? 0 : plan->contiguous ? 1 : rows, .start = start,
                       .stop = start + stretch, .stride = row, .affine = norm_affine_at(plan, start)};
}

/* The walk of the group after the one that `at` has come to the end of. */
static inline norm_walk norm_walk_after(const norm_plan *plan, norm_walk at, int64_t group)
{
    if (!plan->contiguous || plan->ragged)
        return norm_walk_of(plan, group);
    at.stretches = 1;
    at.stop = at.start + norm_count(plan, group);
    return at;
}

static inline void norm_walk_on(const norm_plan *plan, norm_walk *at)
{
    at->start += plan->run;
    if (at->start == at->stop) {
        at->stretches--;
        if (!plan->contiguous) {
            at->start += at->stride - plan->stats.inner;
            at->stop += at->stride;
            at->affine = at->stretches ? norm_affine_at(plan, at->start) : 0;
            return;
        }
    }
    at->affine = norm_affine_next(plan, at->affine, at->start);
}

/* (count, mean, sum of squared deviations) of a part of a group. */
typedef struct norm_moments {
    double mean, m2;
} norm_moments;

/* Joins b (nb elements) to a (na elements): Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for
 * computing sample variances". */
static inline void norm_merge(norm_moments *a, double na, norm_moments b, double nb)
{
    double delta = b.mean - a->mean, n = na + nb;
    a->mean += delta * (nb / n);
    a->m2 += b.m2 + delta * delta * (na * (nb / n));
}

/* What forward leaves for backward, each [groups]. */
typedef struct norm_saved {
    double *mean;   /* m: the input's own mean, which dv acts on; the given one where one was given */
    double *center; /* M: what is subtracted; the same array unless statistics are mixed */
    double *rstd;   /* (V + eps)^−½ */
    struct switch_saved *mixed; /* SwitchableNorm only */
} norm_saved;

/* Gradient sums per statistics group, and what the finish makes of them. */
typedef struct norm_grads {
    double *s1, *s2; /* in: Σ γ·dy and Σ γ·dy·x̂;  out: dL/dm and dL/dv */
} norm_grads;

/* (V + eps)^−½, and 0 where that is 1/0: a constant group then gives β, not NaN. */
static inline double norm_rstd(double variance, double eps)
{
    double v = variance + eps;
    return v == 0 ? 0 : 1 / sqrt(v);
}

/* ---- how the work is cut: by shape alone (normalize_plan.c) ------------------------------------------------------ */

typedef struct norm_split {
    int64_t segment, pieces_per_segment;  /* runs: contiguous elements, cut into pieces of NORM_PIECE */
    int64_t blocks;                       /* columns: partial results per batch where batches are alike */
    int64_t tasks, grain, results;
} norm_split;

/* A stretch of memory with one result of its own. */
typedef struct norm_piece {
    int64_t start, n;
} norm_piece;

static inline norm_piece norm_piece_at(int64_t p, const norm_split *split)
{
    if (split->pieces_per_segment == 1)
        return (norm_piece){p * split->segment, split->segment};
    int64_t within = p % split->pieces_per_segment * NORM_PIECE;
    int64_t n = split->segment - within < NORM_PIECE ? split->segment - within : NORM_PIECE;
    return (norm_piece){p / split->pieces_per_segment * split->segment + within, n};
}

/* A block of rows and columns: where it starts in memory, in the table of groups and in that of results. */
typedef struct norm_tile {
    int64_t start, group, result, rows, columns;
} norm_tile;

static inline int64_t norm_column_blocks(ek_view stats)
{
    return (stats.group + COLUMN_BLOCK - 1) / COLUMN_BLOCK;
}

/* The batch of a block of rows, and the first block of a batch. */
static inline int64_t norm_block_batch(const norm_plan *plan, const norm_split *split, int64_t block)
{
    return plan->ragged ? plan->ragged->block_batch[block] : block / split->blocks;
}

static inline int64_t norm_first_block(const norm_plan *plan, const norm_split *split, int64_t batch)
{
    return plan->ragged ? plan->ragged->first_block[batch] : batch * split->blocks;
}

static inline norm_tile norm_tile_at(int64_t q, const norm_plan *plan, const norm_split *split)
{
    const ek_view stats = plan->stats;
    int64_t column = q % norm_column_blocks(stats) * COLUMN_BLOCK, block = q / norm_column_blocks(stats);
    int64_t batch = norm_block_batch(plan, split, block);
    int64_t first = (block - norm_first_block(plan, split, batch)) * COLUMN_ROWS, rows = norm_rows(plan, batch) - first;
    return (norm_tile){
        .start = (norm_first_row(plan, batch) + first) * stats.group + column,
        .group = batch * stats.group + column,
        .result = block * stats.group + column,
        .rows = rows < COLUMN_ROWS ? rows : COLUMN_ROWS,
        .columns = stats.group - column < COLUMN_BLOCK ? stats.group - column : COLUMN_BLOCK,
    };
}

/* Can whole groups be the unit of work, each going through all passes while it is in a cache?  They have to be enough
 * to share out, and small enough. */
static inline bool norm_by_groups(const norm_plan *plan)
{
    enum { FEW_GROUPS = 8, LARGE_GROUP = 1 << 20, LARGE_TENSOR = 1 << 24 };
    /* Stretches far from each other are read faster in the order of memory, twice, while the tensor fits a cache. */
    return !plan->columns && (plan->groups >= FEW_GROUPS || plan->numel <= EK_GRAIN) &&
           (plan->contiguous || plan->ragged || plan->numel > LARGE_TENSOR || plan->numel <= EK_GRAIN) &&
           plan->numel / plan->groups <= LARGE_GROUP;
}

/* Units of `size` elements that make a task worth a thread. */
static inline int64_t norm_grain(int64_t size)
{
    return size >= EK_GRAIN ? 1 : EK_GRAIN / size;
}

/* The cut for runs of `segment` contiguous elements, or for columns. */
norm_split ek_norm_split_make(const norm_plan *plan, int64_t segment);
/* Runs per partial sum of dγ and dβ: enough to outweigh the table they are summed in, and to keep all tables small. */
int64_t ek_norm_vector_chunk(const norm_plan *plan);
/* Partial moments to mean (saved->mean) and Σ (x − mean)² (saved->rstd) per group, in the order of memory. */
void ek_norm_merge_moments(const norm_plan *plan, const norm_split *split, const norm_moments *parts,
                           const norm_saved *saved);

/* Σ dy and Σ dy·(x − M), times γ where it varies along the run. */
typedef struct norm_sums {
    double plain, product;
} norm_sums;

/* x̂ = ((float)x − (float)M)·r + lo of a row. */
typedef struct norm_row {
    double center, rstd, lo;
} norm_row;

/* Σ γ·dy and Σ γ·dy·(x − M) of each run to its statistics group, and the chunks of dγ, dβ added up in order.  `single`:
 * the runs subtracted M rounded to float. */
void ek_norm_spread_vector_sums(const norm_plan *plan, const norm_saved *saved, const norm_sums *sums,
                                const double *parts, int64_t chunks, bool single, norm_grads *g, double *d_gamma,
                                double *d_beta);

/* The chunks of dγ, dβ, [chunks][2][affine_groups], added up in order. */
void ek_norm_add_vector_parts(const norm_plan *plan, const double *parts, int64_t chunks, double *d_gamma,
                              double *d_beta);

/* ---- SwitchableNorm's finish (normalize_switch.c) ---------------------------------------------------------------- */
typedef struct switch_saved {
    int64_t n, c, s;       /* samples, channels, elements per plane: the most that one has */
    const int64_t *outer;  /* [n] where planes differ: sample i has outer[i]·inner elements in each; NULL: s */
    int64_t inner;
    int n_weights;         /* of IN, LN, BN, those in use */
    bool instance, batch, batch_given, unbiased;
    double w[3], u[3]; /* softmax of mean_weight, var_weight; [IN, LN, BN], 0 where not in use */
    double *share;     /* [n] weight of a sample in the means over n: its elements over those of the largest sample */
    double shares;     /* their sum: n where all are alike */
    double *v_in;      /* [n·c] within-plane variances */
    double *m_ln, *v_ln; /* [n] */
    double *m_bn, *v_bn; /* [c] that were mixed in */
} switch_saved;

/* Doubles that ek_switch_forward needs for its tables. */
int64_t ek_switch_table_size(int64_t n, int64_t c);
/* From the instance moments (mean, and m2 in `rstd`, of each plane) to the mixed center and rstd.  `tables` has
 * ek_switch_table_size elements.  `batch_mean`, `batch_var` (NULL or [c]) receive the batch's BN statistics. */
void ek_switch_forward(switch_saved *mixed, double *tables, const norm_saved *saved, double eps,
                       const double *mean_logits, const double *var_logits, const double *running_mean,
                       const double *running_var, double *batch_mean, double *batch_var);
/* From dL/dM, dL/dV per plane (in g) to dL/dm, dL/dv (in place), and the gradients of both weight vectors. */
void ek_switch_backward(const switch_saved *mixed, const norm_saved *saved, norm_grads *g, double *scratch,
                        double *mean_logit_grad, double *var_logit_grad);

/* ---- the op's attributes, and what stands between its passes over memory (normalize_finish.c) -------------------- */
typedef struct normalize_attributes {
    norm_plan plan;
    double eps;
    bool center, switchable, relu;
    int n_weights; /* of each switch vector */
    switch_saved mix; /* its options */
    const ek_tensor *mean, *var, *running_mean, *running_var; /* read in forward only */
    ek_normalize_stats *stats;
} normalize_attributes;

/* Room for what backward needs, as node->saved. */
norm_saved *ek_norm_saved_make(ek_node *node);
/* Room for the input's statistics, [groups] means and then variances, where somebody asked for them; else NULL. */
ek_status ek_norm_report_room(ek_node *node, int64_t groups, double **room);
/* What is in saved->mean and saved->rstd, which still holds the sum of squares, as statistics of group g. */
void ek_norm_report(const norm_plan *plan, const norm_saved *saved, int64_t g, double *room);
/* That sum of squares to r. */
void ek_norm_finish_forward(const normalize_attributes *attr, const norm_saved *saved, int64_t g);
/* SwitchableNorm's M and r; running: [2][C] means and variances, or NULL. */
ek_status ek_norm_mix(ek_node *node, const norm_saved *saved, const double *mean_logits, const double *var_logits,
                      const double *running);

/* Small tables of the backward pass, zeroed. */
typedef struct norm_work {
    norm_grads g;
    double *d_gamma, *d_beta; /* NULL when neither is wanted */
    double *switch_scratch;
    double d_mean_logits[3], d_var_logits[3];
} norm_work;

ek_status ek_norm_work_make(ek_node *node, norm_work *work, bool affine_wanted);
/* s1, s2 of a group to dM = −r·s1, dV = −½·r²·s2. */
void ek_norm_finish_group(const normalize_attributes *attr, const norm_saved *saved, const norm_grads *g,
                          int64_t group);
/* dm, dv of a group to what each element gets: dm/K and 2·dv/K. */
void ek_norm_share_group(const normalize_attributes *attr, const norm_grads *g, int64_t group);
/* Both for all groups, with the mixing between them. */
void ek_norm_finish_backward(const normalize_attributes *attr, const norm_saved *saved, norm_work *work);

/* ---- what the op takes (normalize.c) ----------------------------------------------------------------------------- */
ek_status ek_norm_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape);

#endif
