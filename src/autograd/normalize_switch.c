/* SwitchableNorm (Luo, Ren, Peng, Zhang, Li 2018, "Differentiable Learning-to-Normalize via Switchable Normalization",
 * arXiv:1806.10779): mixing instance, layer and batch statistics, forward and backward, on tables of N×C numbers.
 *
 * Everything follows from the instance moments m, v [n][c]:
 *   m_ln[n] = mean_c m,  v_ln[n] = mean_c v + mean_c (m − m_ln)²,   and over n for m_bn[c], v_bn[c];
 *   M = Σ w_k·m_k,  V = Σ u_k·v_k,  w = softmax(mean_weight), u = softmax(var_weight), k in [IN, LN, BN].
 */
#include "normalize.h"

enum { IN, LN, BN };

int64_t ek_switch_table_size(int64_t n, int64_t c)
{
    return n * c + 2 * n + 2 * c;
}

/* Divisor of the sum over `count` plane means: `unbiased` 1-D input has variances of plain samples. */
static double between_divisor(const switch_saved *mixed, int64_t count)
{
    return (double)(mixed->unbiased && mixed->s == 1 ? count - 1 : count);
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

/* Mean and variance of a set of planes whose moments stand `stride` apart. */
static void pool_planes(const double *m, const double *v, int64_t count, int64_t stride, double divisor, double *mean,
                        double *variance)
{
    double sum = 0, within = 0, between = 0;
    for (int64_t i = 0; i < count; i++) {
        sum += m[i * stride] - m[0]; /* so that equal means have no spread */
        within += v[i * stride];
    }
    *mean = m[0] + sum / (double)count;
    for (int64_t i = 0; i < count; i++)
        between += (m[i * stride] - *mean) * (m[i * stride] - *mean);
    *variance = within / (double)count + between / divisor;
}

void ek_switch_forward(switch_saved *mixed, double *tables, const norm_saved *saved, double eps,
                       const double *mean_logits, const double *var_logits, const double *running_mean,
                       const double *running_var, double *batch_mean, double *batch_var)
{
    const int64_t n = mixed->n, c = mixed->c;
    mixed->v_in = tables;
    mixed->m_ln = tables + n * c;
    mixed->v_ln = mixed->m_ln + n;
    mixed->m_bn = mixed->v_ln + n;
    mixed->v_bn = mixed->m_bn + c;
    mixed->n_weights = 1 + mixed->instance + mixed->batch;
    mixed->batch_given = running_mean != NULL;
    softmax_in_use(mixed, mean_logits, mixed->w);
    softmax_in_use(mixed, var_logits, mixed->u);

    const double *m = saved->mean;
    double within = (double)(mixed->unbiased && mixed->s > 1 ? mixed->s - 1 : mixed->s);
    for (int64_t i = 0; i < n * c; i++)
        mixed->v_in[i] = saved->rstd[i] / within; /* rstd holds the sums of squares until it is computed below */
    for (int64_t i = 0; i < n; i++)
        pool_planes(m + i * c, mixed->v_in + i * c, c, 1, between_divisor(mixed, c), &mixed->m_ln[i], &mixed->v_ln[i]);
    for (int64_t j = 0; j < c; j++) {
        pool_planes(m + j, mixed->v_in + j, n, c, between_divisor(mixed, n), &mixed->m_bn[j], &mixed->v_bn[j]);
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

    const double c_div = between_divisor(mixed, c), n_div = between_divisor(mixed, n);
    for (int64_t i = 0; i < n * c; i++) {
        int64_t sample = i / c, channel = i % c;
        double dm = w[IN] * g->s1[i] + w[LN] * a_ln[sample] / (double)c +
                    2 * u[LN] * b_ln[sample] * (m[i] - mixed->m_ln[sample]) / c_div;
        double dv = u[IN] * g->s2[i] + u[LN] * b_ln[sample] / (double)c;
        if (mixed->batch && !mixed->batch_given) {
            dm += w[BN] * a_bn[channel] / (double)n +
                  2 * u[BN] * b_bn[channel] * (m[i] - mixed->m_bn[channel]) / n_div;
            dv += u[BN] * b_bn[channel] / (double)n;
        }
        g->s1[i] = dm;
        g->s2[i] = dv;
    }
}
