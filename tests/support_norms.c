#include "support_norms.h"

#include <float.h>
#include <stdio.h>

const char *norm_name(norm_kind kind)
{
    static const char *const names[] = {"batch_norm", "layer_norm", "rms_norm", "instance_norm", "group_norm",
                                        "switchable_norm", "any views"};
    return names[kind];
}

int64_t norm_sample_size(const norm_case *c, int64_t sample)
{
    return c->rows ? c->rows[sample] * c->before * c->after : c->s;
}

int64_t norm_numel(const norm_case *c)
{
    int64_t numel = 0;
    if (!c->rows || c->kind == ANY_VIEWS)
        return c->n * c->c * c->s;
    for (int64_t i = 0; i < c->n; i++)
        numel += c->c * norm_sample_size(c, i);
    return numel;
}

int64_t norm_groups(const norm_case *c)
{
    switch (c->kind) {
    case BATCH_NORM: return c->c;
    case LAYER_NORM:
    case RMS_NORM: return c->n;
    case GROUP_NORM: return c->n * c->groups;
    case ANY_VIEWS: return c->stats.batch * c->stats.group;
    case INSTANCE_NORM:
    case SWITCHABLE_NORM: break;
    }
    return c->n * c->c;
}

int norm_weights(const norm_case *c)
{
    return c->kind == SWITCHABLE_NORM ? 1 + c->instance + c->batch : 0;
}

int64_t norm_at(const norm_case *c, int64_t sample, int64_t channel, int64_t position)
{
    return c->channels_last ? (sample * c->s + position) * c->c + channel : (sample * c->c + channel) * c->s + position;
}

/* autograd.h: i = ((b·outer + o)·group + g)·inner + inside, and the element's group is (b, g). */
static int64_t view_group(ek_view v, int64_t i)
{
    int64_t b = i / (v.outer * v.group * v.inner), g = i / v.inner % v.group;
    return b * v.group + g;
}

/* Which sample, or batch of a view, row `row` of a ragged case belongs to. */
static int64_t row_owner(const norm_case *c, int64_t row)
{
    int64_t owner = 0;
    while (row >= c->rows[owner])
        row -= c->rows[owner++];
    return owner;
}

static int64_t channel_of(const norm_case *c, int64_t i)
{
    if (c->kind == ANY_VIEWS)
        return view_group(c->affine, i);
    if (c->rows)
        return i / c->after % c->c;
    return c->channels_last ? i % c->c : i / c->s % c->c;
}

static int64_t sample_of(const norm_case *c, int64_t i)
{
    return c->rows ? row_owner(c, i / (c->before * c->c * c->after)) : i / (c->c * c->s);
}

/* A plane is what a sample has in one channel. */
static int64_t plane_of(const norm_case *c, int64_t i)
{
    return sample_of(c, i) * c->c + channel_of(c, i);
}

static int64_t group_of(const norm_case *c, int64_t i)
{
    if (c->kind == ANY_VIEWS && c->rows)
        return row_owner(c, i / (c->stats.group * c->stats.inner)) * c->stats.group +
               i / c->stats.inner % c->stats.group;
    const int64_t sample = c->kind == ANY_VIEWS ? 0 : sample_of(c, i), channel = channel_of(c, i);
    switch (c->kind) {
    case BATCH_NORM: return channel;
    case LAYER_NORM:
    case RMS_NORM: return sample;
    case GROUP_NORM: return sample * c->groups + channel / (c->c / c->groups);
    case ANY_VIEWS: return view_group(c->stats, i);
    case INSTANCE_NORM:
    case SWITCHABLE_NORM: break;
    }
    return sample * c->c + channel;
}

const char *norm_text(const norm_case *c)
{
    static char text[256];
    if (c->kind == ANY_VIEWS) {
        const ek_view s = c->stats, a = c->affine;
        snprintf(text, sizeof text, "statistics (%lld, %lld, %lld, %lld), affine (%lld, %lld, %lld, %lld)%s%s%s",
                 (long long)s.batch, (long long)s.outer, (long long)s.group, (long long)s.inner, (long long)a.batch,
                 (long long)a.outer, (long long)a.group, (long long)a.inner, c->weight ? " weight" : "",
                 c->bias ? " bias" : "", c->given ? " given" : "");
        return text;
    }
    snprintf(text, sizeof text, "%s n=%lld c=%lld s=%lld groups=%lld eps=%g%s%s%s%s%s%s%s", norm_name(c->kind),
             (long long)c->n, (long long)c->c, (long long)c->s, (long long)c->groups, c->eps,
             c->channels_last ? " channels last" : "", c->weight ? " weight" : "", c->bias ? " bias" : "",
             c->given ? " given" : "", c->instance ? " instance" : "", c->batch ? " batch" : "",
             c->unbiased ? " unbiased" : "");
    if (c->rows) {
        size_t used = strlen(text);
        used += (size_t)snprintf(text + used, sizeof text - used, " before=%lld after=%lld rows", (long long)c->before,
                                 (long long)c->after);
        for (int64_t i = 0; i < c->n && used < sizeof text; i++)
            used += (size_t)snprintf(text + used, sizeof text - used, " %lld", (long long)c->rows[i]);
    }
    return text;
}

static double *room(int64_t n)
{
    double *memory = calloc((size_t)(n > 0 ? n : 1), sizeof *memory);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static long double *long_room(int64_t n)
{
    long double *memory = calloc((size_t)(n > 0 ? n : 1), sizeof *memory);
    ck_assert_ptr_nonnull(memory);
    return memory;
}

static norm_numbers numbers(int64_t n)
{
    return (norm_numbers){n, room(n), room(n)};
}

static void free_numbers(norm_numbers *numbers)
{
    free(numbers->value);
    free(numbers->size);
}

norm_inputs norm_inputs_new(const norm_case *c)
{
    int64_t numel = norm_numel(c), pairs = c->kind == SWITCHABLE_NORM ? c->c : norm_groups(c);
    return (norm_inputs){.x = room(numel), .dy = room(numel), .gamma = room(c->c), .beta = room(c->c),
                         .mean = room(pairs), .var = room(pairs)};
}

void norm_free(norm_inputs *in, norm_outputs *out)
{
    if (in) {
        free(in->x);
        free(in->dy);
        free(in->gamma);
        free(in->beta);
        free(in->mean);
        free(in->var);
    }
    if (out) {
        free_numbers(&out->y);
        free_numbers(&out->dx);
        free_numbers(&out->dgamma);
        free_numbers(&out->dbeta);
        free_numbers(&out->dmean_logits);
        free_numbers(&out->dvar_logits);
        free(out->mean);
        free(out->var);
    }
}

/* ---- what all norms share once M and V are known ----------------------------------------------------------------- */

static long double inverse_root(long double v)
{
    return v == 0 ? 0 : 1 / sqrtl(v);
}

/* y_i = γ·x̂ + β, and how much i weighs in dγ and dβ; returns x̂ = (x − M)·r. */
static long double apply(const norm_case *c, const norm_inputs *in, norm_outputs *out, int64_t i, long double center,
                         long double r)
{
    const int64_t k = channel_of(c, i);
    const long double hat = ((long double)in->x[i] - center) * r, gamma = c->weight ? in->gamma[k] : 1,
                      beta = c->bias ? in->beta[k] : 0, dy = in->dy[i];
    out->y.value[i] = (double)(gamma * hat + beta);
    out->y.size[i] = (double)(fabsl(gamma) * (fabsl(hat) + 1) + fabsl(beta));
    out->dgamma.size[k] += (double)(fabsl(dy) * (fabsl(hat) + 1));
    out->dbeta.size[k] += (double)fabsl(dy);
    out->kappa = fmax(out->kappa, (double)(fabsl(in->x[i]) * r));
    return hat;
}

/* dγ_k = Σ dy·x̂ and dβ_k = Σ dy over the elements of channel k. */
static void affine_gradients(const norm_case *c, const norm_inputs *in, const long double *hat, norm_outputs *out)
{
    long double *dgamma = long_room(c->c), *dbeta = long_room(c->c);
    for (int64_t i = 0; i < norm_numel(c); i++) {
        dgamma[channel_of(c, i)] += (long double)in->dy[i] * hat[i];
        dbeta[channel_of(c, i)] += (long double)in->dy[i];
    }
    for (int64_t k = 0; k < c->c; k++) {
        out->dgamma.value[k] = (double)dgamma[k];
        out->dbeta.value[k] = (double)dbeta[k];
    }
    free(dgamma);
    free(dbeta);
}

/* ---- BN, LN, RMS, IN, GN ----------------------------------------------------------------------------------------- */

/* dx_i = Σ_j dy_j·γ_j·∂x̂_j/∂x_i with ∂x̂_j/∂x_i = r·([i = j] − 1/K − x̂_i·x̂_j/K) over the members of a group: K²
 * terms. */
static void group_jacobian(const norm_case *c, const norm_inputs *in, const int64_t *member, int64_t k, long double r,
                           const long double *hat, norm_outputs *out)
{
    const long double share = c->kind == RMS_NORM ? 0 : 1 / (long double)k;
    for (int64_t a = 0; a < k; a++) {
        const int64_t i = member[a];
        long double sum = 0;
        for (int64_t b = 0; b < k; b++) {
            const int64_t j = member[b];
            const long double g = (long double)in->dy[j] * (c->weight ? in->gamma[channel_of(c, j)] : 1);
            long double jacobian = i == j ? r : 0;
            jacobian -= r * share + r * hat[i] * hat[j] / (long double)k;
            sum += g * jacobian;
        }
        out->dx.value[i] = (double)sum;
    }
}

/* The same with the sums over j taken once, for groups too long for K² terms, and the sums of absolute values. */
static void group_sums(const norm_case *c, const norm_inputs *in, const int64_t *member, int64_t k, long double r,
                       const long double *hat, norm_outputs *out)
{
    const long double share = c->kind == RMS_NORM ? 0 : 1 / (long double)k;
    long double plain = 0, product = 0, plain_size = 0, product_size = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t a = 0; a < k; a++) {
            const int64_t i = member[a];
            const long double g = (long double)in->dy[i] * (c->weight ? in->gamma[channel_of(c, i)] : 1);
            if (pass == 0 && !c->given) {
                plain += g * share;
                product += g * hat[i] / (long double)k;
                plain_size += fabsl(g) * share;
                product_size += fabsl(g) * (fabsl(hat[i]) + 1) / (long double)k;
            } else if (pass == 1) {
                const long double through = c->given ? 0 : plain + hat[i] * product;
                out->dx.value[i] = (double)(r * (g - through));
                out->dx.size[i] = (double)(r * (c->given ? fabsl(g) : fabsl(g) + plain_size +
                                                                          (fabsl(hat[i]) + 1) * product_size));
            }
        }
}

enum { LONGEST_JACOBIAN = 250 };

static void one_group(const norm_case *c, const norm_inputs *in, int64_t group, const int64_t *group_at,
                      int64_t *member, long double *hat, norm_outputs *out)
{
    int64_t k = 0;
    long double mean = 0, var = 0;
    for (int64_t i = 0; i < norm_numel(c); i++)
        if (group_at[i] == group)
            member[k++] = i;
    for (int64_t a = 0; a < k && c->kind != RMS_NORM; a++)
        mean += (long double)in->x[member[a]] / (long double)k;
    for (int64_t a = 0; a < k; a++)
        var += ((long double)in->x[member[a]] - mean) * ((long double)in->x[member[a]] - mean) / (long double)k;
    out->mean[group] = (double)mean;
    out->var[group] = (double)var;
    if (c->given) {
        mean = in->mean[group];
        var = in->var[group];
    }
    const long double r = inverse_root(var + (long double)c->eps);
    for (int64_t a = 0; a < k; a++)
        hat[member[a]] = apply(c, in, out, member[a], mean, r);
    group_sums(c, in, member, k, r, hat, out);
    if (k <= LONGEST_JACOBIAN && !c->given)
        group_jacobian(c, in, member, k, r, hat, out);
}

/* ---- SwitchableNorm ---------------------------------------------------------------------------------------------- */

enum { IN, LN, BN };

/* Statistics of one of the three kinds: [number of its groups]. */
typedef struct switch_tables {
    long double *mean[3], *var[3];
    long double w[3], u[3];
    int64_t numel;
    int64_t *plane; /* [numel] the plane of each element */
} switch_tables;

static int64_t switch_index(const norm_case *c, int kind, int64_t plane)
{
    return kind == IN ? plane : kind == LN ? plane / c->c : plane % c->c;
}

static long double plane_size(const norm_case *c, int64_t plane)
{
    return (long double)norm_sample_size(c, plane / c->c);
}

/* How many elements share a plane's statistic of this kind. */
static long double switch_count(const norm_case *c, int kind, int64_t plane)
{
    long double all = 0;
    for (int64_t i = 0; i < c->n; i++)
        all += (long double)norm_sample_size(c, i);
    return kind == IN ? plane_size(c, plane) : kind == LN ? (long double)c->c * plane_size(c, plane) : all;
}

/* The published code for one dimension, whose planes are single values by shape. */
static bool one_dimension(const norm_case *c)
{
    return !c->rows && c->s == 1;
}

static bool shares(const norm_case *c, int kind, int64_t plane, int64_t other)
{
    return switch_index(c, kind, plane) == switch_index(c, kind, other);
}

/* Mean and variance over all elements of a group, straight from the elements; only the published code's variances for
 * planes are means over unbiased plane variances plus the spread of the plane means, where a plane weighs its share
 * of the group's elements. */
static void switch_statistic(const norm_case *c, const norm_inputs *in, int kind, int64_t plane, switch_tables *t)
{
    const int64_t at = switch_index(c, kind, plane), planes = c->n * c->c;
    const long double count = switch_count(c, kind, plane);
    long double mean = 0, squares = 0, within = 0, between = 0;
    for (int64_t i = 0; i < t->numel; i++)
        if (shares(c, kind, plane, t->plane[i]))
            mean += (long double)in->x[i] / count;
    for (int64_t i = 0; i < t->numel; i++)
        if (shares(c, kind, plane, t->plane[i]))
            squares += ((long double)in->x[i] - mean) * ((long double)in->x[i] - mean);
    t->mean[kind][at] = mean;
    t->var[kind][at] = squares / count;
    if (!c->unbiased)
        return;
    if (kind == IN || one_dimension(c)) {
        t->var[kind][at] = count > 1 ? squares / (count - 1) : 0;
        return;
    }
    for (int64_t p = 0; p < planes; p++)
        if (shares(c, kind, plane, p)) {
            const long double share = plane_size(c, p) / count;
            within += t->var[IN][p] * share;
            between += (t->mean[IN][p] - mean) * (t->mean[IN][p] - mean) * share;
        }
    t->var[kind][at] = within + between;
}

/* ∂(variance of `kind`)/∂x_i for a member i of plane q. */
static long double switch_variance_slope(const norm_case *c, int kind, long double x, int64_t q, const switch_tables *t)
{
    const long double count = switch_count(c, kind, q), mean = t->mean[kind][switch_index(c, kind, q)];
    if (!c->unbiased)
        return 2 * (x - mean) / count;
    if (kind == IN || one_dimension(c))
        return count > 1 ? 2 * (x - mean) / (count - 1) : 0;
    const long double s = plane_size(c, q), own = t->mean[IN][q];
    return (s > 1 ? 2 * (x - own) / ((s - 1) * (count / s)) : 0) + 2 * (own - mean) / count;
}

static void softmax_weights(const norm_case *c, const double *logits, long double *weights)
{
    const bool used[3] = {c->instance, true, c->batch};
    long double sum = 0;
    for (int k = 0, i = 0; k < 3; k++) {
        weights[k] = used[k] ? expl((long double)logits[i++]) : 0;
        sum += weights[k];
    }
    for (int k = 0; k < 3; k++)
        weights[k] /= sum;
}

/* d logit_k = Σ_j (dL/dw_j)·w_j·([j = k] − w_k). */
static void softmax_gradient(const norm_case *c, const long double *weights, const long double *d,
                             const long double *d_size, norm_numbers *out)
{
    const bool used[3] = {c->instance, true, c->batch};
    for (int k = 0, i = 0; k < 3; k++) {
        long double sum = 0, size = 0;
        for (int j = 0; j < 3; j++) {
            sum += d[j] * weights[j] * ((j == k) - weights[k]);
            size += d_size[j] * weights[j];
        }
        if (used[k]) {
            out->value[i] = (double)sum;
            out->size[i++] = (double)size;
        }
    }
}

/* dL/dM and dL/dV of each plane, and the sums of the absolute values of their terms. */
typedef struct plane_gradients {
    long double *m, *v, *m_size, *v_size, *r;
} plane_gradients;

static void switch_dx(const norm_case *c, const norm_inputs *in, const switch_tables *t, const plane_gradients *g,
                      norm_outputs *out)
{
    const int64_t planes = c->n * c->c;
    for (int64_t i = 0; i < t->numel; i++) {
        const int64_t q = t->plane[i];
        const long double gamma = c->weight ? in->gamma[q % c->c] : 1;
        long double sum = gamma * (long double)in->dy[i] * g->r[q], size = fabsl(sum);
        for (int kind = IN; kind <= BN; kind++) {
            if (kind == BN && c->given)
                continue;
            const long double slope = switch_variance_slope(c, kind, in->x[i], q, t),
                              count = switch_count(c, kind, q);
            const long double slope_size = fabsl(slope) + (g->r[q] > 0 ? 2 / (count * g->r[q]) : 0);
            for (int64_t p = 0; p < planes; p++)
                if (shares(c, kind, p, q)) {
                    sum += g->m[p] * t->w[kind] / count + g->v[p] * t->u[kind] * slope;
                    size += g->m_size[p] * t->w[kind] / count + g->v_size[p] * t->u[kind] * slope_size;
                }
        }
        out->dx.value[i] = (double)sum;
        out->dx.size[i] = (double)size;
    }
}

static void switch_backward(const norm_case *c, const norm_inputs *in, const switch_tables *t, const long double *hat,
                            plane_gradients *g, norm_outputs *out)
{
    long double dw[3] = {0}, du[3] = {0}, dw_size[3] = {0}, du_size[3] = {0};
    for (int64_t p = 0; p < c->n * c->c; p++) {
        const long double gamma = c->weight ? in->gamma[p % c->c] : 1, r = g->r[p];
        /* y = γ·(x − M)·r + β: ∂y/∂M = −γ·r, ∂y/∂V = −½·γ·x̂·r² */
        for (int64_t i = 0; i < t->numel; i++) {
            if (t->plane[i] != p)
                continue;
            const long double d = gamma * (long double)in->dy[i];
            g->m[p] -= d * r;
            g->v[p] -= d * hat[i] * r * r / 2;
            g->m_size[p] += fabsl(d) * r;
            g->v_size[p] += fabsl(d) * (fabsl(hat[i]) + 1) * r * r / 2;
        }
        for (int k = IN; k <= BN; k++) {
            dw[k] += g->m[p] * t->mean[k][switch_index(c, k, p)];
            du[k] += g->v[p] * t->var[k][switch_index(c, k, p)];
            dw_size[k] += g->m_size[p] * fabsl(t->mean[k][switch_index(c, k, p)]);
            du_size[k] += g->v_size[p] * t->var[k][switch_index(c, k, p)];
        }
    }
    softmax_gradient(c, t->w, dw, dw_size, &out->dmean_logits);
    softmax_gradient(c, t->u, du, du_size, &out->dvar_logits);
    switch_dx(c, in, t, g, out);
}

static void switchable(const norm_case *c, const norm_inputs *in, long double *hat, norm_outputs *out)
{
    const int64_t planes = c->n * c->c;
    switch_tables t = {.numel = norm_numel(c)};
    t.plane = malloc((size_t)(t.numel + 1) * sizeof *t.plane);
    ck_assert_ptr_nonnull(t.plane);
    for (int64_t i = 0; i < t.numel; i++)
        t.plane[i] = plane_of(c, i);
    for (int kind = IN; kind <= BN; kind++) {
        t.mean[kind] = long_room(planes);
        t.var[kind] = long_room(planes);
        for (int64_t p = 0; p < planes; p++)
            if (p == 0 || kind == IN || (kind == LN ? p % c->c == 0 : p < c->c)) /* the first of those that share it */
                switch_statistic(c, in, kind, p, &t);
    }
    for (int64_t k = 0; k < c->c; k++) {
        out->mean[k] = (double)t.mean[BN][k];
        out->var[k] = (double)t.var[BN][k];
        if (c->given) {
            t.mean[BN][k] = in->mean[k];
            t.var[BN][k] = in->var[k];
        }
    }
    softmax_weights(c, in->mean_logits, t.w);
    softmax_weights(c, in->var_logits, t.u);
    plane_gradients g = {long_room(planes), long_room(planes), long_room(planes), long_room(planes), long_room(planes)};
    for (int64_t p = 0; p < planes; p++) {
        long double mean = 0, var = 0;
        for (int kind = IN; kind <= BN; kind++) {
            mean += t.w[kind] * t.mean[kind][switch_index(c, kind, p)];
            var += t.u[kind] * t.var[kind][switch_index(c, kind, p)];
        }
        g.r[p] = inverse_root(var + (long double)c->eps);
        for (int64_t i = 0; i < t.numel; i++)
            if (t.plane[i] == p)
                hat[i] = apply(c, in, out, i, mean, g.r[p]);
    }
    switch_backward(c, in, &t, hat, &g, out);
    for (int kind = IN; kind <= BN; kind++) {
        free(t.mean[kind]);
        free(t.var[kind]);
    }
    free(t.plane);
    free(g.m);
    free(g.v);
    free(g.m_size);
    free(g.v_size);
    free(g.r);
}

norm_outputs norm_oracle(const norm_case *c, const norm_inputs *in)
{
    const int64_t numel = norm_numel(c), groups = norm_groups(c), pairs = c->kind == SWITCHABLE_NORM ? c->c : groups;
    norm_outputs out = {numbers(numel), numbers(numel), numbers(c->c), numbers(c->c), numbers(norm_weights(c)),
                        numbers(norm_weights(c)), room(pairs), room(pairs), 0};
    long double *hat = long_room(numel);
    int64_t *member = malloc((size_t)(2 * numel + 1) * sizeof *member), *group_at = member + numel;
    ck_assert_ptr_nonnull(member);
    for (int64_t i = 0; i < numel; i++)
        group_at[i] = group_of(c, i);
    if (c->kind == SWITCHABLE_NORM)
        switchable(c, in, hat, &out);
    else
        for (int64_t g = 0; g < groups; g++)
            one_group(c, in, g, group_at, member, hat, &out);
    affine_gradients(c, in, hat, &out);
    free(hat);
    free(member);
    return out;
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* Roundings in the tensor's type that touch one result: x − M, the product with r·γ, the rounding of that coefficient,
 * of the constant term, and the sum; in dx a second product and coefficient and two more sums. */
enum { ROUNDINGS = 8 };

void assert_norm_numbers(const char *what, const norm_case *c, const ek_tensor *t, const norm_numbers *expected,
                         double kappa)
{
    const bool single = ek_tensor_dtype(t) == EK_F32;
    const double unit = single ? FLT_EPSILON / 2 : DBL_EPSILON / 2, least = single ? 0x1p-149 : 0x1p-1074;
    /* Terms that a double adds one after the other: 4096/32 in a lane of a piece or 64 rows of a column, 5 levels of
     * the tree, then the pieces; never more than there are elements. */
    const double numel = (double)norm_numel(c), terms = fmin(numel, 128 + 5 + numel / 64);
    ck_assert_msg(t != NULL, "%s: %s is missing: %s", norm_text(c), what, ek_last_error());
    ck_assert_msg(ek_tensor_numel(t) == expected->n, "%s: %s has %lld elements, expected %lld", norm_text(c), what,
                  (long long)ek_tensor_numel(t), (long long)expected->n);
    for (int64_t i = 0; i < expected->n; i++) {
        double got = ek_tensor_at(t, i), tolerance = (ROUNDINGS * unit + (terms + 8) * (1 + kappa) * DBL_EPSILON / 2) *
                                                         expected->size[i] + 4 * least;
        ck_each(fabs(got - expected->value[i]) <= tolerance,
                "%s: %s %s[%lld] is %.17g, expected %.17g ± %.3g (kappa %g)", norm_text(c), single ? "f32" : "f64",
                what, (long long)i, got, expected->value[i], tolerance, kappa);
    }
}

double norm_relative_error(const ek_tensor *t, const norm_numbers *expected)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < expected->n; i++) {
        worst = fmax(worst, fabs(ek_tensor_at(t, i) - expected->value[i]));
        largest = fmax(largest, fabs(expected->value[i]));
    }
    return worst / largest;
}
