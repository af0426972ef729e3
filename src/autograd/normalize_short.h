/* Norms over short rows (LayerNorm over a few features): SHORT_LANES rows at a time, a lane of a vector each, so that
 * nothing is folded and no vector is half empty.  The mathematics is that of op_normalize.c, in whose per-type part this
 * is included: hence no include guard. */

/* lanes[i][l] = rows[l][i]; lanes without a row hold 0. */
static inline void FN(norm_rows_to_lanes)(int64_t n_rows, int64_t n, const REAL *rows, REAL (*lanes)[SHORT_LANES])
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t l = 0; l < SHORT_LANES; l++)
            lanes[i][l] = l < n_rows ? rows[l * n + i] : 0;
}

static inline void FN(norm_lanes_to_rows)(int64_t n_rows, int64_t n, REAL (*const lanes)[SHORT_LANES], REAL *rows)
{
    for (int64_t l = 0; l < n_rows; l++)
        for (int64_t i = 0; i < n; i++)
            rows[l * n + i] = lanes[i][l];
}

/* x, y: [n_rows][n]; gamma, beta: [n] or NULL; mean, rstd: [n_rows], for the backward. */
EK_KERNEL static void FN(norm_short_forward)(int64_t n_rows, int64_t n, const REAL *x, REAL *y, bool center, double eps,
                                             const REAL *gamma, const REAL *beta, bool relu, double *mean, double *rstd)
{
    REAL lane[SHORT_ROW][SHORT_LANES], m[SHORT_LANES], r[SHORT_LANES], lo[SHORT_LANES];
    double sum[SHORT_LANES] = {0}, square[SHORT_LANES] = {0};
    FN(norm_rows_to_lanes)(n_rows, n, x, lane);
    for (int64_t i = 1; center && i < n; i++)
        for (int l = 0; l < SHORT_LANES; l++)
            sum[l] += (double)lane[i][l] - (double)lane[0][l];
    for (int l = 0; l < SHORT_LANES; l++)
        sum[l] = center ? (double)lane[0][l] + sum[l] / (double)n : 0; /* from here on the mean */
    for (int64_t i = 0; i < n; i++)
        for (int l = 0; l < SHORT_LANES; l++) {
            const double d = (double)lane[i][l] - sum[l];
            square[l] += d * d;
        }
    const double lone = center && n == 1 ? 0 : 1; /* see ek_norm_finish_forward */
    for (int l = 0; l < SHORT_LANES; l++) {
        square[l] = lone * norm_rstd(square[l] / (double)n, eps); /* from here on r */
        m[l] = (REAL)sum[l];
        r[l] = (REAL)square[l];
        lo[l] = (REAL)(((double)m[l] - sum[l]) * square[l]);
    }
    memcpy(mean, sum, (size_t)n_rows * sizeof *mean);
    memcpy(rstd, square, (size_t)n_rows * sizeof *rstd);
    for (int64_t i = 0; i < n; i++) {
        const REAL g = gamma ? gamma[i] : 1, b = beta ? beta[i] : 0;
        for (int l = 0; l < SHORT_LANES; l++) {
            const REAL value = MATH(fma)(MATH(fma)(lane[i][l] - m[l], r[l], lo[l]), g, b);
            lane[i][l] = relu ? FN(norm_relu)(value) : value;
        }
    }
    FN(norm_lanes_to_rows)(n_rows, n, lane, y);
}

/* x, dy, y (behind a ReLU, else NULL), dx (NULL: not wanted): [n_rows][n]; d_gamma, d_beta: [n] lanes that are added to,
 * or NULL. */
EK_KERNEL static void FN(norm_short_backward)(int64_t n_rows, int64_t n, const REAL *x, const REAL *dy, const REAL *y,
                                              REAL *dx, bool center, const REAL *gamma, const double *mean,
                                              const double *rstd, double (*d_gamma)[SHORT_LANES],
                                              double (*d_beta)[SHORT_LANES])
{
    REAL lane[SHORT_ROW][SHORT_LANES], d[SHORT_ROW][SHORT_LANES];
    REAL m[SHORT_LANES], r[SHORT_LANES], lo[SHORT_LANES], b[SHORT_LANES], c[SHORT_LANES];
    double exact_m[SHORT_LANES] = {0}, exact_r[SHORT_LANES] = {0};
    double plain[SHORT_LANES] = {0}, product[SHORT_LANES] = {0};
    memcpy(exact_m, mean, (size_t)n_rows * sizeof *mean);
    memcpy(exact_r, rstd, (size_t)n_rows * sizeof *rstd);
    FN(norm_rows_to_lanes)(n_rows, n, x, lane);
    FN(norm_rows_to_lanes)(n_rows, n, dy, d);
    for (int64_t i = 0; y && i < n; i++)
        for (int64_t l = 0; l < n_rows; l++)
            d[i][l] = y[l * n + i] <= 0 ? 0 : d[i][l];
    for (int l = 0; l < SHORT_LANES; l++) {
        m[l] = (REAL)exact_m[l];
        r[l] = (REAL)exact_r[l];
        lo[l] = (REAL)(((double)m[l] - exact_m[l]) * exact_r[l]);
    }
    for (int64_t i = 0; i < n; i++)
        for (int l = 0; l < SHORT_LANES; l++) {
            const double g = (double)d[i][l] * (gamma ? (double)gamma[i] : 1);
            plain[l] += g;
            product[l] += g * (double)(lane[i][l] - m[l]);
        }
    for (int64_t i = 0; d_beta && i < n; i++)
        for (int l = 0; l < SHORT_LANES; l++) {
            d_beta[i][l] += (double)d[i][l];
            d_gamma[i][l] += (double)(d[i][l] * ((lane[i][l] - m[l]) * r[l] + lo[l]));
        }
    for (int l = 0; l < SHORT_LANES; l++) {
        const double rest = (double)m[l] - exact_m[l], s2 = (product[l] + plain[l] * rest) * exact_r[l];
        const double dm = center ? -exact_r[l] * plain[l] / (double)n : 0, slope = -exact_r[l] * s2 / (double)n;
        b[l] = (REAL)slope;
        c[l] = (REAL)(dm + slope * exact_r[l] * rest);
    }
    for (int64_t i = 0; dx && i < n; i++) {
        const REAL g = gamma ? gamma[i] : 1;
        for (int l = 0; l < SHORT_LANES; l++)
            d[i][l] = r[l] * g * d[i][l] + (b[l] * ((lane[i][l] - m[l]) * r[l]) + c[l]);
    }
    if (dx)
        FN(norm_lanes_to_rows)(n_rows, n, d, dx);
}
