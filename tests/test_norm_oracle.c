/* ek_normalize against the oracle of support_norms.c: every norm, every option, random shapes, float64 and float32. */
#include "support_norms.h"

#include <float.h>
#include <stdio.h>

/* ---- running one case -------------------------------------------------------------------------------------------- */

/* Which inputs require a gradient. */
enum { NEED_X = 1, NEED_WEIGHT = 2, NEED_BIAS = 4, NEED_LOGITS = 8, NEED_ALL = 15 };

enum { MOST_SAMPLES = 9 }; /* of a ragged case */
typedef struct run {
    ek_tape *tape;
    ek_tensor *x, *dy, *weight, *bias, *mean_weight, *var_weight, *mean, *var;
    ek_tensor *y;
    ek_normalize_stats stats;
} run;

static ek_tensor *tensor(ek_dtype dtype, int64_t n, const double *values, bool needs_gradient)
{
    ek_tensor *wide = ek_from_array(EK_F64, EK_SHAPE(n), values), *t = ek_tensor_cast(wide, dtype);
    ck_made(t);
    ek_tensor_free(wide);
    ck_ok(ek_tensor_set_requires_grad(t, needs_gradient));
    return t;
}

static ek_view affine_view(const norm_case *c)
{
    if (c->kind == ANY_VIEWS)
        return c->affine;
    if (c->rows)
        return (ek_view){1, norm_numel(c) / (c->c * c->after), c->c, c->after};
    return c->channels_last ? (ek_view){1, c->n * c->s, c->c, 1} : (ek_view){1, c->n, c->c, c->s};
}

/* The table of the design document. */
static ek_view stats_view(const norm_case *c)
{
    if (c->rows && c->kind != BATCH_NORM && c->kind != ANY_VIEWS) {
        if (c->kind == LAYER_NORM || c->kind == RMS_NORM)
            return (ek_view){c->n, 0, 1, c->before * c->c * c->after};
        return c->kind == GROUP_NORM ? (ek_view){c->n, 0, c->groups, c->c / c->groups * c->after}
                                     : (ek_view){c->n, 0, c->c, c->after};
    }
    switch (c->kind) {
    case BATCH_NORM: return affine_view(c);
    case ANY_VIEWS: return c->stats;
    case LAYER_NORM:
    case RMS_NORM: return (ek_view){c->n, 1, 1, c->c};
    case GROUP_NORM:
        return c->channels_last ? (ek_view){c->n, c->s, c->groups, c->c / c->groups}
                                : (ek_view){c->n, 1, c->groups, c->c / c->groups * c->s};
    case INSTANCE_NORM:
    case SWITCHABLE_NORM: break;
    }
    return c->channels_last ? (ek_view){c->n, c->s, c->c, 1} : (ek_view){c->n, 1, c->c, c->s};
}

static run forward_and_backward(const norm_case *c, const norm_inputs *in, ek_dtype dtype, unsigned needs)
{
    const int64_t numel = norm_numel(c), pairs = c->kind == SWITCHABLE_NORM ? c->c : norm_groups(c);
    run r = {.tape = ek_tape_new(), .x = tensor(dtype, numel, in->x, needs & NEED_X),
             .dy = tensor(dtype, numel, in->dy, false)};
    if (c->weight)
        r.weight = tensor(dtype, c->c, in->gamma, needs & NEED_WEIGHT);
    if (c->bias)
        r.bias = tensor(dtype, c->c, in->beta, needs & NEED_BIAS);
    if (c->given) {
        r.mean = tensor(dtype, pairs, in->mean, false);
        r.var = tensor(dtype, pairs, in->var, false);
    }
    ek_switch_opts mix = {.instance = c->instance, .batch = c->batch, .unbiased = c->unbiased, .running_mean = r.mean,
                          .running_var = r.var};
    ek_normalize_opts opts = {.stats = stats_view(c), .affine = affine_view(c), .eps = c->eps,
                              .center = c->kind != RMS_NORM, .mean = r.mean, .var = r.var};
    int64_t outer[MOST_SAMPLES]; /* on no tape: the op keeps a copy */
    const bool whole = c->kind == LAYER_NORM || c->kind == RMS_NORM || c->kind == ANY_VIEWS;
    for (int64_t i = 0; c->rows && i < (c->kind == ANY_VIEWS ? c->stats.batch : c->n); i++)
        outer[i] = c->rows[i] * (whole ? 1 : c->before);
    opts.stats_outer = c->rows && opts.stats.outer == 0 ? outer : NULL;
    if (c->kind == SWITCHABLE_NORM) {
        r.mean_weight = tensor(dtype, norm_weights(c), in->mean_logits, needs & NEED_LOGITS);
        r.var_weight = tensor(dtype, norm_weights(c), in->var_logits, needs & NEED_LOGITS);
        opts.switchable = &mix;
        opts.mean = opts.var = NULL;
    }
    r.y = ek_normalize(r.tape, r.x, r.weight, r.bias, r.mean_weight, r.var_weight, &opts, &r.stats);
    ck_assert_msg(r.y != NULL, "%s: %s", norm_text(c), ek_last_error());
    if (needs)
        ck_ok(ek_backward_from(r.tape, r.y, r.dy));
    return r;
}

static void free_run(run *r)
{
    ek_tape_free(r->tape);
    ek_tensor *all[] = {r->x, r->dy, r->weight, r->bias, r->mean_weight, r->var_weight, r->mean, r->var};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        ek_tensor_free(all[i]);
}

static void round_to_float(double *values, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        values[i] = (double)(float)values[i];
}

/* To what a float32 tensor holds, so that the oracle sees the same numbers. */
static void round_inputs(const norm_case *c, norm_inputs *in)
{
    const int64_t numel = norm_numel(c), pairs = c->kind == SWITCHABLE_NORM ? c->c : norm_groups(c);
    round_to_float(in->x, numel);
    round_to_float(in->dy, numel);
    round_to_float(in->gamma, c->c);
    round_to_float(in->beta, c->c);
    round_to_float(in->mean, pairs);
    round_to_float(in->var, pairs);
    round_to_float(in->mean_logits, 3);
    round_to_float(in->var_logits, 3);
}

static void compare_gradient(const char *what, const norm_case *c, ek_tensor *leaf, bool needed,
                             const norm_numbers *expected, double kappa)
{
    if (!leaf)
        return;
    if (needed)
        assert_norm_numbers(what, c, ek_tensor_grad(leaf), expected, kappa);
    else
        ck_assert_msg(!ek_tensor_grad(leaf), "%s: %s was not asked for", norm_text(c), what);
}

/* The statistics that are reported: a mean to within rounding of the largest element, a variance relatively, too. */
static void compare_stats(const norm_case *c, const norm_inputs *in, const run *r, const norm_outputs *out)
{
    const int64_t pairs = c->kind == SWITCHABLE_NORM ? c->c : norm_groups(c);
    double largest = 0;
    for (int64_t i = 0; i < norm_numel(c); i++)
        largest = fmax(largest, fabs(in->x[i]));
    const double slack = (double)(200 + norm_numel(c) / 64) * DBL_EPSILON;
    ck_assert_int_eq(r->stats.groups, pairs);
    if (c->rows && c->kind != SWITCHABLE_NORM && c->kind != BATCH_NORM)
        ck_assert_int_eq(r->stats.count, 0);
    else
        ck_assert_int_eq(r->stats.count * pairs, norm_numel(c));
    for (int64_t g = 0; g < pairs; g++) {
        const double var = out->var[g];
        ck_assert_msg(fabs(r->stats.mean[g] - out->mean[g]) <= slack * largest,
                      "%s: mean of group %lld is %.17g, not %.17g", norm_text(c), (long long)g, r->stats.mean[g],
                      out->mean[g]);
        ck_assert_msg(fabs(r->stats.var[g] - var) <= slack * (var + sqrt(var) * largest) + 0x1p-1074 +
                                                         slack * slack * largest * largest,
                      "%s: variance of group %lld is %.17g, not %.17g", norm_text(c), (long long)g, r->stats.var[g],
                      var);
    }
}

static void check_case(const norm_case *c, norm_inputs *in, ek_dtype dtype, unsigned needs)
{
    if (dtype == EK_F32)
        round_inputs(c, in);
    norm_outputs out = norm_oracle(c, in);
    run r = forward_and_backward(c, in, dtype, needs);
    assert_norm_numbers("y", c, r.y, &out.y, out.kappa);
    compare_gradient("dx", c, r.x, needs & NEED_X, &out.dx, out.kappa);
    compare_gradient("d_weight", c, r.weight, needs & NEED_WEIGHT, &out.dgamma, out.kappa);
    compare_gradient("d_bias", c, r.bias, needs & NEED_BIAS, &out.dbeta, out.kappa);
    compare_gradient("d_mean_weight", c, r.mean_weight, needs & NEED_LOGITS, &out.dmean_logits, out.kappa);
    compare_gradient("d_var_weight", c, r.var_weight, needs & NEED_LOGITS, &out.dvar_logits, out.kappa);
    compare_stats(c, in, &r, &out);
    free_run(&r);
    norm_free(NULL, &out);
}

/* ---- random cases ------------------------------------------------------------------------------------------------ */

static double sign(ek_rng *rng)
{
    return ek_rng_u64(rng) & 1 ? -1 : 1;
}

static norm_inputs draw_inputs(const norm_case *c, double offset, double scale, ek_rng *rng)
{
    norm_inputs in = norm_inputs_new(c);
    const int64_t pairs = c->kind == SWITCHABLE_NORM ? c->c : norm_groups(c);
    for (int64_t i = 0; i < norm_numel(c); i++) {
        in.x[i] = scale * (offset + ek_rng_normal(rng));
        in.dy[i] = ek_rng_normal(rng);
    }
    for (int64_t i = 0; i < c->c; i++) {
        in.gamma[i] = sign(rng) * (0.3 + 1.4 * ek_rng_uniform(rng));
        in.beta[i] = ek_rng_normal(rng);
    }
    for (int64_t i = 0; i < pairs; i++) {
        in.mean[i] = scale * (offset + 0.5 * ek_rng_normal(rng));
        in.var[i] = scale * scale * (0.5 + ek_rng_uniform(rng));
    }
    for (int i = 0; i < 3; i++) {
        in.mean_logits[i] = ek_rng_normal(rng);
        in.var_logits[i] = ek_rng_normal(rng);
    }
    return in;
}

static int64_t draw_size(ek_rng *rng)
{
    static const int64_t sizes[] = {1, 1, 2, 2, 3, 4, 5, 7, 8, 13, 31, 32, 33, 40, 63, 64, 65, 70, 97, 130};
    return sizes[ek_rng_below(rng, sizeof sizes / sizeof sizes[0])];
}

static bool coin(ek_rng *rng)
{
    return ek_rng_u64(rng) & 1;
}

static int64_t draw_divisor(int64_t n, ek_rng *rng)
{
    int64_t divisor;
    do
        divisor = 1 + ek_rng_below(rng, n);
    while (n % divisor);
    return divisor;
}

static norm_case draw_case(ek_rng *rng)
{
    static const double eps[] = {1e-5, 1e-5, 1e-3, 0};
    norm_case c = {.kind = (norm_kind)ek_rng_below(rng, NORM_KINDS), .groups = 1, .eps = eps[ek_rng_below(rng, 4)],
                   .weight = coin(rng), .bias = coin(rng)};
    const bool rows = c.kind == LAYER_NORM || c.kind == RMS_NORM;
    do {
        c.n = draw_size(rng);
        c.c = draw_size(rng);
        c.s = rows ? 1 : draw_size(rng);
    } while (norm_numel(&c) > (c.kind == SWITCHABLE_NORM ? 2000 : 6000));
    if (c.kind != SWITCHABLE_NORM) {
        c.channels_last = !rows && coin(rng);
        c.given = ek_rng_below(rng, 5) == 0 && c.kind != RMS_NORM;
    } else {
        c.batch = ek_rng_below(rng, 4) > 0;
        c.given = c.batch && coin(rng);
        c.channels_last = c.s > 1 && coin(rng);
        c.instance = c.s > 1 || coin(rng);
        c.unbiased = coin(rng) && (c.s > 1 || (c.c > 1 && c.n > 1));
    }
    if (c.kind == GROUP_NORM)
        c.groups = draw_divisor(c.c, rng);
    return c;
}

/* Batches whose samples have different numbers of rows: the valid steps of padded sequences.  Some have one row. */
static norm_case draw_ragged(int64_t rows[MOST_SAMPLES], ek_rng *rng)
{
    static const int64_t channels[] = {1, 2, 3, 4, 6, 8, 33, 64, 70}, positions[] = {1, 1, 1, 2, 3, 5, 35};
    norm_case c = draw_case(rng);
    c.channels_last = false;
    c.s = 0;
    c.rows = rows;
    do {
        c.n = 1 + ek_rng_below(rng, MOST_SAMPLES);
        c.c = channels[ek_rng_below(rng, 9)];
        c.before = positions[ek_rng_below(rng, 7)];
        c.after = positions[ek_rng_below(rng, 7)];
        for (int64_t i = 0; i < c.n; i++)
            rows[i] = ek_rng_below(rng, 8) ? 1 + ek_rng_below(rng, coin(rng) ? 200 : 8) : 1;
    } while (norm_numel(&c) > (c.kind == SWITCHABLE_NORM ? 900 : 6000));
    c.instance = true;
    c.unbiased = c.kind == SWITCHABLE_NORM && coin(rng);
    c.groups = c.kind == GROUP_NORM ? draw_divisor(c.c, rng) : 1;
    return c;
}

enum { CASES_PER_TEST = 40, RANDOM_TESTS = 12 };

static void random_cases(ek_dtype dtype, int seed, bool ragged)
{
    for (int i = 0; i < CASES_PER_TEST; i++) {
        ek_rng rng = ek_rng_seed((uint64_t)(seed * CASES_PER_TEST + i));
        int64_t rows[MOST_SAMPLES];
        norm_case c = ragged ? draw_ragged(rows, &rng) : draw_case(&rng);
        norm_inputs in = draw_inputs(&c, 3 * ek_rng_normal(&rng), exp(ek_rng_normal(&rng)), &rng);
        unsigned needs = ek_rng_below(&rng, 3) ? NEED_ALL : (unsigned)ek_rng_below(&rng, 16);
        if (!c.weight)
            needs &= ~(unsigned)NEED_WEIGHT;
        if (!c.bias)
            needs &= ~(unsigned)NEED_BIAS;
        if (c.kind != SWITCHABLE_NORM)
            needs &= ~(unsigned)NEED_LOGITS;
        check_case(&c, &in, dtype, needs);
        norm_free(&in, NULL);
    }
}

START_TEST(random_even_cases)
{
    random_cases(EK_F64, _i, false);
    random_cases(EK_F32, RANDOM_TESTS + _i, false);
}
END_TEST

START_TEST(random_ragged_cases)
{
    random_cases(EK_F64, 2 * RANDOM_TESTS + _i, true);
    random_cases(EK_F32, 3 * RANDOM_TESTS + _i, true);
}
END_TEST

/* Ragged batches that have no rows at all between others, and blocks of rows at their seams; LN over time that leaves
 * an axis before the normalized ones alone: (N, T, before, D) in groups of (N, before). */
START_TEST(ragged_views)
{
    static const int64_t rows[][5] = {{0, 3, 0, 1, 0}, {64, 65, 1, 63, 0}, {128, 0, 1, 129, 1}, {1, 1, 1, 1, 1}};
    static const ek_view views[] = {{5, 0, 3, 1}, {5, 0, 70, 1}, {5, 0, 3, 4}, {5, 0, 1, 6}, {5, 0, 1, 1}};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < 5; k++)
            for (int variant = 0; variant < 4; variant++) {
                ek_rng rng = ek_rng_seed((uint64_t)(100 * i + 10 * k + variant));
                norm_case c = {.kind = ANY_VIEWS, .eps = 1e-5, .s = 1, .weight = variant > 0, .bias = variant > 1,
                               .stats = views[k], .rows = rows[i]};
                const int64_t width = c.stats.group * c.stats.inner;
                int64_t all = 0;
                for (int b = 0; b < 5; b++)
                    all += rows[i][b];
                /* γ per column, per element of a run, or one for all */
                const int64_t period = c.stats.inner == 1 ? width : c.stats.inner;
                c.affine = (ek_view){1, all * width / period, period, 1};
                if (variant == 3)
                    c.affine = (ek_view){1, 1, 1, all * width};
                c.c = c.affine.group;
                c.n = all * width / c.c;
                norm_inputs in = draw_inputs(&c, 2, 1, &rng);
                check_case(&c, &in, coin(&rng) ? EK_F32 : EK_F64,
                           NEED_X | (c.weight ? NEED_WEIGHT : 0u) | (c.bias ? NEED_BIAS : 0u));
                norm_free(&in, NULL);
            }
}
END_TEST

/* Cuts a product of factors into a view at three random places. */
static ek_view draw_view(const int64_t *factor, int n, bool one_batch, ek_rng *rng)
{
    int64_t at[3], part[4] = {1, 1, 1, 1};
    for (int k = 0; k < 3; k++)
        at[k] = ek_rng_below(rng, n + 1);
    if (one_batch)
        at[0] = 0;
    for (int i = 0; i < n; i++)
        part[(i >= at[0]) + (i >= at[1]) + (i >= at[2])] *= factor[i];
    return (ek_view){part[0], part[1], part[2], part[3]};
}

/* Views that no layer makes: the op agrees with the oracle wherever it does not refuse them. */
START_TEST(random_views)
{
    static const int64_t factors[] = {1, 2, 2, 3, 4, 5, 8, 33, 64, 70};
    int walked = 0;
    for (int i = 0; i < 400; i++) {
        ek_rng rng = ek_rng_seed((uint64_t)(9000 + 400 * _i + i));
        int64_t factor[5], numel = 1;
        for (int k = 0; k < 5; k++) {
            factor[k] = factors[ek_rng_below(&rng, 10)];
            if (numel * factor[k] > 4000)
                factor[k] = 1;
            numel *= factor[k];
        }
        norm_case c = {.kind = ANY_VIEWS, .eps = 1e-5, .s = 1, .weight = coin(&rng), .bias = coin(&rng),
                       .given = ek_rng_below(&rng, 4) == 0};
        c.stats = draw_view(factor, 5, false, &rng);
        c.affine = draw_view(factor, 5, true, &rng);
        c.c = c.affine.group;
        c.n = numel / c.c;
        ek_tape *t = ek_tape_new();
        ek_tensor *x = ek_zeros(EK_F64, EK_SHAPE(numel)), *weight = ek_zeros(EK_F64, EK_SHAPE(c.c));
        ek_normalize_opts opts = {.stats = c.stats, .affine = c.affine, .eps = 1, .center = true};
        bool walks = ek_normalize(t, x, c.weight || c.bias ? weight : NULL, NULL, NULL, NULL, &opts, NULL);
        if (!walks)
            ck_error(EK_ERR_ARGUMENT, "cuts across the groups");
        ek_tape_free(t);
        ek_tensor_free(x);
        ek_tensor_free(weight);
        if (!walks)
            continue;
        walked++;
        norm_inputs in = draw_inputs(&c, 2, 1, &rng);
        unsigned needs = NEED_X | (c.weight ? NEED_WEIGHT : 0u) | (c.bias ? NEED_BIAS : 0u);
        check_case(&c, &in, coin(&rng) ? EK_F32 : EK_F64, needs);
        norm_free(&in, NULL);
    }
    ck_assert_int_gt(walked, 100);
}
END_TEST

/* ---- shapes at the seams of the kernels -------------------------------------------------------------------------- */

/* Pieces hold 4096 elements, columns come in blocks of 64, rows of columns in blocks of 64, lanes in 32. */
static const norm_case long_cases[] = {
    {.kind = LAYER_NORM, .n = 2, .c = 4096, .s = 1},
    {.kind = LAYER_NORM, .n = 2, .c = 4097, .s = 1},
    {.kind = LAYER_NORM, .n = 1, .c = 8200, .s = 1},
    {.kind = LAYER_NORM, .n = 1500, .c = 17, .s = 1},
    {.kind = LAYER_NORM, .n = 3000, .c = 1, .s = 1},
    {.kind = RMS_NORM, .n = 2, .c = 8191, .s = 1},
    {.kind = RMS_NORM, .n = 700, .c = 33, .s = 1},
    {.kind = BATCH_NORM, .n = 2, .c = 2, .s = 4097},
    {.kind = BATCH_NORM, .n = 1, .c = 1, .s = 8193},
    {.kind = BATCH_NORM, .n = 5, .c = 3, .s = 901},
    {.kind = BATCH_NORM, .n = 400, .c = 70, .s = 1},
    {.kind = BATCH_NORM, .n = 129, .c = 129, .s = 1},
    {.kind = BATCH_NORM, .n = 5000, .c = 2, .s = 1},
    {.kind = BATCH_NORM, .n = 2, .c = 1500, .s = 1},
    {.kind = BATCH_NORM, .n = 5, .c = 66, .s = 40, .channels_last = true},
    {.kind = INSTANCE_NORM, .n = 2, .c = 2, .s = 4095},
    {.kind = INSTANCE_NORM, .n = 2, .c = 1, .s = 8192},
    {.kind = INSTANCE_NORM, .n = 3, .c = 65, .s = 66, .channels_last = true},
    {.kind = INSTANCE_NORM, .n = 40, .c = 3, .s = 70, .channels_last = true},
    {.kind = GROUP_NORM, .n = 2, .c = 6, .s = 1400, .groups = 2},
    {.kind = GROUP_NORM, .n = 2, .c = 6, .s = 1400, .groups = 2, .channels_last = true},
    {.kind = GROUP_NORM, .n = 3, .c = 66, .s = 67, .groups = 33, .channels_last = true},
    {.kind = GROUP_NORM, .n = 2, .c = 4200, .s = 1, .groups = 1},
    {.kind = SWITCHABLE_NORM, .n = 2, .c = 2, .s = 4098, .instance = true, .batch = true},
    {.kind = SWITCHABLE_NORM, .n = 3, .c = 70, .s = 9, .instance = true, .batch = true, .unbiased = true},
    {.kind = SWITCHABLE_NORM, .n = 33, .c = 67, .s = 1, .batch = true},
};
enum { LONG_CASES = sizeof long_cases / sizeof long_cases[0] };

START_TEST(long_shapes)
{
    for (int variant = 0; variant < 4; variant++) {
        norm_case c = long_cases[_i];
        ek_rng rng = ek_rng_seed((uint64_t)(1000 + 4 * _i + variant));
        c.eps = 1e-5;
        c.weight = variant != 1;
        c.bias = variant != 2;
        c.given = variant == 3 && c.kind != RMS_NORM;
        norm_inputs in = draw_inputs(&c, 2, 3, &rng);
        unsigned needs = NEED_ALL & ~(c.weight ? 0u : NEED_WEIGHT) & ~(c.bias ? 0u : NEED_BIAS);
        check_case(&c, &in, variant % 2 ? EK_F64 : EK_F32, needs);
        if (variant == 0)
            check_case(&c, &in, EK_F64, needs);
        norm_free(&in, NULL);
    }
}
END_TEST

/* ---- hostile numbers --------------------------------------------------------------------------------------------- */

/* One shape per way through the kernels. */
static const norm_case ways[] = {
    {.kind = BATCH_NORM, .n = 9, .c = 3, .s = 35},
    {.kind = BATCH_NORM, .n = 90, .c = 5, .s = 1},
    {.kind = LAYER_NORM, .n = 7, .c = 75, .s = 1},
    {.kind = RMS_NORM, .n = 7, .c = 75, .s = 1},
    {.kind = INSTANCE_NORM, .n = 4, .c = 3, .s = 70},
    {.kind = INSTANCE_NORM, .n = 4, .c = 3, .s = 70, .channels_last = true},
    {.kind = GROUP_NORM, .n = 3, .c = 6, .s = 21, .groups = 2},
    {.kind = GROUP_NORM, .n = 3, .c = 6, .s = 21, .groups = 2, .channels_last = true},
    {.kind = SWITCHABLE_NORM, .n = 4, .c = 3, .s = 35, .instance = true, .batch = true},
    {.kind = SWITCHABLE_NORM, .n = 4, .c = 3, .s = 35, .instance = true, .batch = true, .unbiased = true},
    {.kind = SWITCHABLE_NORM, .n = 14, .c = 13, .s = 1, .batch = true, .unbiased = true},
};
enum { WAYS = sizeof ways / sizeof ways[0] };

static norm_case way(int i, double eps)
{
    norm_case c = ways[i];
    c.eps = eps;
    c.weight = c.bias = true;
    return c;
}

static unsigned all_needs(const norm_case *c)
{
    return c->kind == SWITCHABLE_NORM ? NEED_ALL : NEED_ALL & ~NEED_LOGITS;
}

static void check_both_types(const norm_case *c, norm_inputs *in)
{
    check_case(c, in, EK_F64, all_needs(c));
    check_case(c, in, EK_F32, all_needs(c));
}

START_TEST(large_offsets)
{
    static const double offsets[] = {0, 1, 1e2, 1e4, 1e6};
    double worst[2] = {0, 0}; /* of float32 forward and backward at 10⁶ */
    for (int k = 0; k < 5; k++) {
        norm_case c = way(_i, 1e-5);
        ek_rng rng = ek_rng_seed((uint64_t)(50 + 10 * _i + k));
        norm_inputs in = draw_inputs(&c, offsets[k], 1, &rng);
        check_both_types(&c, &in);
        if (k == 4) {
            norm_outputs out = norm_oracle(&c, &in); /* of the values already rounded to float32 */
            run r = forward_and_backward(&c, &in, EK_F32, all_needs(&c));
            worst[0] = norm_relative_error(r.y, &out.y);
            worst[1] = norm_relative_error(ek_tensor_grad(r.x), &out.dx);
            ck_assert_msg(worst[0] < 1e-6 && worst[1] < 1e-6, "%s: %g, %g", norm_text(&c), worst[0], worst[1]);
            if (getenv("EK_TEST_VERBOSE"))
                printf("mean/sigma 1e6, float32: y %.2g, dx %.2g of the largest: %s\n", worst[0], worst[1],
                       norm_text(&c));
            free_run(&r);
            norm_free(NULL, &out);
        }
        norm_free(&in, NULL);
    }
}
END_TEST

START_TEST(large_and_small_scales)
{
    static const double scales[] = {1e30, 1e15, 1e-15, 1e-30};
    for (int k = 0; k < 4; k++)
        for (int with_eps = 0; with_eps < 2; with_eps++) {
            norm_case c = way(_i, with_eps ? 1e-5 : 0);
            ek_rng rng = ek_rng_seed((uint64_t)(200 + 10 * _i + k));
            norm_inputs in = draw_inputs(&c, 0.5, scales[k], &rng);
            check_both_types(&c, &in);
            norm_free(&in, NULL);
        }
}
END_TEST

START_TEST(denormal_inputs)
{
    for (int k = 0; k < 2; k++) {
        norm_case c = way(_i, 1e-5);
        ek_rng rng = ek_rng_seed((uint64_t)(300 + _i));
        norm_inputs in = draw_inputs(&c, 0.5, k ? 1e-40 : 1e-310, &rng);
        if (k)
            check_both_types(&c, &in);
        else
            check_case(&c, &in, EK_F64, all_needs(&c));
        norm_free(&in, NULL);
    }
}
END_TEST

START_TEST(one_large_outlier)
{
    static const double outliers[] = {1e3, -1e6, 1e9};
    for (int k = 0; k < 3; k++) {
        norm_case c = way(_i, 1e-5);
        ek_rng rng = ek_rng_seed((uint64_t)(400 + 10 * _i + k));
        norm_inputs in = draw_inputs(&c, 0.5, 1, &rng);
        in.x[norm_numel(&c) / 3] = outliers[k];
        check_both_types(&c, &in);
        norm_free(&in, NULL);
    }
}
END_TEST

/* Zero variance: y = β up to what rounding leaves of x − M, and exactly β when eps = 0. */
START_TEST(constants)
{
    static const double values[] = {0, 1, 0.1, -1.0 / 3, 12345.678, 1e30};
    for (int k = 0; k < 6; k++)
        for (int with_eps = 0; with_eps < 2; with_eps++)
            for (int type = EK_F32; type <= EK_F64; type++) {
                norm_case c = way(_i, with_eps ? 1e-5 : 0);
                ek_rng rng = ek_rng_seed((uint64_t)(500 + 10 * _i + k));
                norm_inputs in = draw_inputs(&c, 0, 1, &rng);
                for (int64_t i = 0; i < norm_numel(&c); i++)
                    in.x[i] = values[k];
                if (c.kind == RMS_NORM) {
                    if (values[k] != 0 || with_eps)
                        check_case(&c, &in, (ek_dtype)type, all_needs(&c));
                    norm_free(&in, NULL);
                    continue;
                }
                run r = forward_and_backward(&c, &in, (ek_dtype)type, all_needs(&c));
                for (int64_t i = 0; i < norm_numel(&c); i++) {
                    double beta = ek_tensor_at(r.bias, i / c.s % c.c);
                    if (c.channels_last)
                        beta = ek_tensor_at(r.bias, i % c.c);
                    ck_assert_msg(ek_tensor_at(r.y, i) == beta, "%s: y of the constant %g is %.17g, not β = %.17g",
                                  norm_text(&c), values[k], ek_tensor_at(r.y, i), beta);
                    double dx = ek_tensor_at(ek_tensor_grad(r.x), i);
                    ck_assert_msg(with_eps ? isfinite(dx) : dx == 0, "%s: dx = %g", norm_text(&c), dx);
                }
                for (int64_t i = 0; i < c.c; i++)
                    ck_assert_msg(ek_tensor_at(ek_tensor_grad(r.weight), i) == 0, "%s: d_weight of a constant is %g",
                                  norm_text(&c), ek_tensor_at(ek_tensor_grad(r.weight), i));
                free_run(&r);
                norm_free(&in, NULL);
            }
}
END_TEST

/* Groups of one element have no variance; with eps > 0 nothing may depend on x. */
START_TEST(one_element_per_group)
{
    const norm_case cases[] = {
        {.kind = LAYER_NORM, .n = 5, .c = 1, .s = 1},     {.kind = BATCH_NORM, .n = 1, .c = 6, .s = 1},
        {.kind = INSTANCE_NORM, .n = 3, .c = 4, .s = 1},  {.kind = GROUP_NORM, .n = 2, .c = 4, .s = 1, .groups = 4},
        {.kind = BATCH_NORM, .n = 1, .c = 70, .s = 1, .channels_last = true},
    };
    for (int k = 0; k < 10; k++) {
        norm_case c = cases[k / 2];
        c.eps = k % 2 ? 1e-5 : 0;
        c.weight = c.bias = true;
        ek_rng rng = ek_rng_seed(600);
        norm_inputs in = draw_inputs(&c, 0, 1, &rng);
        check_both_types(&c, &in);
        run r = forward_and_backward(&c, &in, EK_F32, all_needs(&c));
        for (int64_t i = 0; i < norm_numel(&c); i++)
            ck_assert_double_eq(ek_tensor_at(r.y, i), ek_tensor_at(r.bias, i % c.c));
        free_run(&r);
        norm_free(&in, NULL);
    }
}
END_TEST

/* SwitchableNorm of sequences that are all down to one step: not the 1-D form, which is one by shape. */
START_TEST(single_steps_of_switchable_norm)
{
    const int64_t rows[5] = {1, 1, 1, 1, 1};
    for (int unbiased = 0; unbiased < 2; unbiased++) {
        norm_case c = {.kind = SWITCHABLE_NORM, .n = 5, .c = 4, .rows = rows, .before = 1, .after = 1, .eps = 1e-5,
                       .weight = true, .bias = true, .instance = true, .batch = true, .unbiased = unbiased};
        ek_rng rng = ek_rng_seed(650);
        norm_inputs in = draw_inputs(&c, 1, 1, &rng);
        check_both_types(&c, &in);
        norm_free(&in, NULL);
    }
}
END_TEST

/* No element at all: gradients of γ, β and logits are zeros. */
START_TEST(empty_input)
{
    const norm_case cases[] = {
        {.kind = BATCH_NORM, .n = 0, .c = 3, .s = 4},     {.kind = BATCH_NORM, .n = 2, .c = 3, .s = 0},
        {.kind = LAYER_NORM, .n = 0, .c = 5, .s = 1},     {.kind = RMS_NORM, .n = 0, .c = 5, .s = 1},
        {.kind = INSTANCE_NORM, .n = 0, .c = 4, .s = 2},  {.kind = GROUP_NORM, .n = 2, .c = 4, .s = 0, .groups = 2},
        {.kind = SWITCHABLE_NORM, .n = 0, .c = 4, .s = 2, .instance = true, .batch = true},
    };
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++)
        for (int type = EK_F32; type <= EK_F64; type++) {
            norm_case c = cases[k];
            c.eps = 1e-5;
            c.weight = c.bias = true;
            norm_inputs in = norm_inputs_new(&c);
            run r = forward_and_backward(&c, &in, (ek_dtype)type, all_needs(&c));
            ck_assert_int_eq(ek_tensor_numel(r.y), 0);
            for (int64_t i = 0; i < c.c; i++) {
                ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(r.weight), i), 0);
                ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(r.bias), i), 0);
            }
            for (int i = 0; i < norm_weights(&c); i++)
                ck_assert_double_eq(ek_tensor_at(ek_tensor_grad(r.mean_weight), i), 0);
            free_run(&r);
            norm_free(&in, NULL);
        }
}
END_TEST

/* With given statistics dx = γ·dy·r, whatever x is. */
START_TEST(given_statistics_pass_gradients_by_what_x_is)
{
    const double values[] = {INFINITY, -INFINITY, NAN, 3e38, -3e38, 1};
    for (int last = 0; last < 2; last++) {
        norm_case c = {.kind = BATCH_NORM, .n = 6, .c = 3, .s = 5, .channels_last = last, .eps = 1e-5, .weight = true,
                       .bias = true, .given = true};
        ek_rng rng = ek_rng_seed(700);
        norm_inputs in = draw_inputs(&c, 0, 1, &rng);
        for (int64_t i = 0; i < norm_numel(&c); i++)
            in.x[i] = values[i % 6];
        round_inputs(&c, &in);
        norm_outputs out = norm_oracle(&c, &in);
        run r = forward_and_backward(&c, &in, EK_F32, NEED_X);
        assert_norm_numbers("dx", &c, ek_tensor_grad(r.x), &out.dx, 0);
        free_run(&r);
        norm_free(&in, &out);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm oracle");
    TCase *tcase = tcase_create("norm oracle");
    tcase_add_loop_test(tcase, random_even_cases, 0, RANDOM_TESTS);
    tcase_add_loop_test(tcase, random_ragged_cases, 0, RANDOM_TESTS);
    tcase_add_test(tcase, ragged_views);
    tcase_add_loop_test(tcase, random_views, 0, 3);
    tcase_add_loop_test(tcase, long_shapes, 0, LONG_CASES);
    tcase_add_loop_test(tcase, large_offsets, 0, WAYS);
    tcase_add_loop_test(tcase, large_and_small_scales, 0, WAYS);
    tcase_add_loop_test(tcase, denormal_inputs, 0, WAYS);
    tcase_add_loop_test(tcase, one_large_outlier, 0, WAYS);
    tcase_add_loop_test(tcase, constants, 0, WAYS);
    tcase_add_test(tcase, one_element_per_group);
    tcase_add_test(tcase, single_steps_of_switchable_norm);
    tcase_add_test(tcase, empty_input);
    tcase_add_test(tcase, given_statistics_pass_gradients_by_what_x_is);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
