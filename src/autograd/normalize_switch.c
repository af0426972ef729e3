/* SwitchableNorm (Luo, Ren, Peng, Zhang, Li 2018, "Differentiable Learning-to-Normalize via Switchable Normalization",
 * arXiv:1806.10779): mixing instance, layer and batch statistics, forward and backward, on tables of N×C numbers.
 *
 * Everything follows from the instance moments m, v [n][c]:
 *   m_ln[n] = mean_c m,  v_ln[n] = mean_c v + mean_c (m − m_ln)²,   and over n for m_bn[c], v_bn[c];
 *   M = Σ w_k·m_k,  V = Σ u_k·v_k,  w = softmax(mean_weight), u = softmax(var_weight), k in [IN, LN, BN].
 * Where samples have different numbers of elements, a mean over n weighs each by its share of them.
 */
#include "normalize.h"

enum { IN, LN, BN };

int64_t ek_switch_table_size(int64_t n, int64_t c)
{
    return n * c + 3 * n + 2 * c;
}

/* Elements that sample i has in each of its planes. */
static int64_t plane_size(const switch_saved *mixed, int64_t i)
{
    return mixed->outer ? mixed->outer[i] * mixed->inner : mixed->s;
}

/* Divisor of the sum over `count` plane means: `unbiased` 1-D input has variances of plain samples.  Planes that are
 * down to one element by their lengths do not make the input 1-D. */
static double between_divisor(const switch_saved *mixed, double count)
{
    return mixed->unbiased && mixed->s == 1 && !mixed->outer ? count - 1 : count;
}

/* Divisor of a plane's sum of squares. */
static double within_divisor(const switch_saved *mixed, int64_t i)
{
    const int64_t s = plane_size(mixed, i);
    return (double)(mixed->unbiased && s > 1 ? s - 1 : s > 0 ? s : 1);
}

/* Softmax over the weights in use; the others get 0. */
static void softmax_in_use(const switch_saved *mixed, const double *logits, double *weights)
{
    const bool used[3] = {mixed->instance, true, mixed->batch};
    double largest = -INFINITY, sum = 0;
    for (int i = 0; i < mixed->n_weights; i++)
        largest = fmax(largest, logits[i]);
    for (int k = 0, i = 0; k < 3; k++) {
        weights[k] = used[k] ? exp(logits[i++] - largest) : 0;
        sum += weights[k];
    }
    for (int k = 0; k < 3; k++)
        weights[k] /= sum;
}

/* Mean and variance of a set of planes whose moments stand `stride` apart.  share: [count] their weights, or NULL where
 * all are 1; `shares` is their sum. */
static void pool_planes(const double *m, const double *v, int64_t count, int64_t stride, const double *share,
                        double shares, double divisor, double *mean, double *variance)
{
    double sum = 0, within = 0, between = 0;
    for (int64_t i = 0; i < count; i++) {
        const double weight = share ? share[i] : 1;
        sum += weight * (m[i * stride] - m[0]); /* so that equal means have no spread */
        within += weight * v[i * stride];
    }
    *mean = m[0] + sum / shares;
    for (int64_t i = 0; i < count; i++)
        between += (share ? share[i] : 1) * ((m[i * stride] - *mean) * (m[i * stride] - *mean));
    *variance = within / shares + between / divisor;
}

void ek_switch_forward(switch_saved *mixed, double *tables, const norm_saved *saved, double eps,
                       const double *mean_logits, const double *var_logits, const double *running_mean,
                       const double *running_var, double *batch_mean, double *batch_var)
{
    const int64_t n = mixed->n, c = mixed->c;
    mixed->v_in = tables;
    mixed->share = tables + n * c;
    mixed->m_ln = mixed->share + n;
    mixed->v_ln = mixed->m_ln + n;
    mixed->m_bn = mixed->v_ln + n;
    mixed->v_bn = mixed->m_bn + c;
    mixed->n_weights = 1 + mixed->instance + mixed->batch;
    mixed->batch_given = running_mean != NULL;
    softmax_in_use(mixed, mean_logits, mixed->w);
    softmax_in_use(mixed, var_logits, mixed->u);

    const double *m = saved->mean;
    mixed->shares = 0;
    for (int64_t i = 0; i < n; i++) {
        mixed->share[i] = (double)plane_size(mixed, i) / (double)mixed->s;
        mixed->shares += mixed->share[i];
        for (int64_t j = i * c; j < (i + 1) * c; j++) /* rstd holds the sums of squares until it is computed below */
            mixed->v_in[j] = saved->rstd[j] / within_divisor(mixed, i);
        pool_planes(m + i * c, mixed->v_in + i * c, c, 1, NULL, (double)c, between_divisor(mixed, (double)c),
                    &mixed->m_ln[i], &mixed->v_ln[i]);
    }
    for (int64_t j = 0; j < c; j++) {
        pool_planes(m + j, mixed->v_in + j, n, c, mixed->share, mixed->shares, between_divisor(mixed, mixed->shares),
                    &mixed->m_bn[j], &mixed->v_bn[j]);
        if (batch_mean) {
            batch_mean[j] = mixed->m_bn[j];
            batch_var[j] = mixed->v_bn[j];
        }
        if (running_mean) {
            mixed->m_bn[j] = running_mean[j];
            mixed->v_bn[j] = running_var[j];
        }
        if (!mixed->batch) /* a weight of 0 must not meet a statistic that is not finite */
            mixed->m_bn[j] = mixed->v_bn[j] = 0;
    }
    for (int64_t i = 0; i < n * c; i++) {
        int64_t sample = i / c, channel = i % c;
        /* Σ w_k·m_k with Σ w_k = 1, as differences: exact where the means agree */
        saved->center[i] = m[i] + mixed->w[LN] * (mixed->m_ln[sample] - m[i]);
        if (mixed->batch)
            saved->center[i] += mixed->w[BN] * (mixed->m_bn[channel] - m[i]);
        double variance = mixed->u[IN] * mixed->v_in[i] + mixed->u[LN] * mixed->v_ln[sample] +
                          mixed->u[BN] * mixed->v_bn[channel];
        saved->rstd[i] = norm_rstd(variance, eps);
    }
}

/* dλ_k = w_k·(D_k − Σ_j w_j·D_j) for the weights in use. */
static void softmax_gradient(const switch_saved *mixed, const double *weights, const double *d, double *gradient)
{
    const bool used[3] = {mixed->instance, true, mixed->batch};
    double mean = weights[IN] * d[IN] + weights[LN] * d[LN] + weights[BN] * d[BN];
    for (int k = 0, i = 0; k < 3; k++)
        if (used[k])
            gradient[i++] = weights[k] * (d[k] - mean);
}

void ek_switch_backward(const switch_saved *mixed, const norm_saved *saved, norm_grads *g, double *scratch,
                        double *mean_logit_grad, double *var_logit_grad)
{
    const int64_t n = mixed->n, c = mixed->c;
    const double *w = mixed->w, *u = mixed->u, *m = saved->mean;
    /* A_k, B_k: sums of dM and dV over what shares statistic k; scratch: [2n + 2c]. */
    double *a_ln = scratch, *b_ln = scratch + n, *a_bn = scratch + 2 * n, *b_bn = a_bn + c;
    double dw[3] = {0}, du[3] = {0}; /* D_k = Σ dM·m_k and Σ dV·v_k */
    memset(scratch, 0, (size_t)(2 * n + 2 * c) * sizeof *scratch);
    for (int64_t i = 0; i < n * c; i++) {
        int64_t sample = i / c, channel = i % c;
        double dm = g->s1[i], dv = g->s2[i];
        a_ln[sample] += dm;
        b_ln[sample] += dv;
        a_bn[channel] += dm;
        b_bn[channel] += dv;
        dw[IN] += dm * m[i];
        du[IN] += dv * mixed->v_in[i];
        dw[LN] += dm * mixed->m_ln[sample];
        du[LN] += dv * mixed->v_ln[sample];
        dw[BN] += dm * mixed->m_bn[channel];
        du[BN] += dv * mixed->v_bn[channel];
    }
    softmax_gradient(mixed, w, dw, mean_logit_grad);
    softmax_gradient(mixed, u, du, var_logit_grad);

    const double c_div = between_divisor(mixed, (double)c), n_div = between_divisor(mixed, mixed->shares);
    for (int64_t i = 0; i < n * c; i++) {
        int64_t sample = i / c, channel = i % c;
        const double share = mixed->share[sample];
        double dm = w[IN] * g->s1[i] + w[LN] * a_ln[sample] / (double)c +
                    2 * u[LN] * b_ln[sample] * (m[i] - mixed->m_ln[sample]) / c_div;
        double dv = u[IN] * g->s2[i] + u[LN] * b_ln[sample] / (double)c;
        if (mixed->batch && !mixed->batch_given) {
            dm += share * (w[BN] * a_bn[channel] / mixed->shares +
                           2 * u[BN] * b_bn[channel] * (m[i] - mixed->m_bn[channel]) / n_div);
            dv += share * u[BN] * b_bn[channel] / mixed->shares;
        }
        g->s1[i] = dm;
        g->s2[i] = dv;
    }
}
