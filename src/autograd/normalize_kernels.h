/* The arithmetic of every norm, forward and backward, over stretches of memory; to be included in the part of
 * op_normalize.c that is compiled per float type, hence no include guard. */

/* out[i] = VALUE for i = 0 … n−1.  `stream`: past the caches, where what is written is too large to stay in them: by
 * stretches made in a small buffer and stored whole. */
#define NORM_STORE(n, out, stream, VALUE)                                                                              \
    do {                                                                                                               \
        int64_t i = 0;                                                                                                 \
        if (stream) {                                                                                                  \
            _Alignas(EK_ALIGNMENT) REAL buffer[NORM_STRETCH];                                                          \
            for (; i < (n) && !ek_may_stream((out) + i); i++)                                                          \
                (out)[i] = VALUE;                                                                                      \
            for (int64_t stop; (stop = i + NORM_STRETCH) <= (n);) {                                                    \
                REAL *to = (out) + i;                                                                                  \
                for (int k = 0; k < NORM_STRETCH; k++, i++)                                                            \
                    buffer[k] = VALUE;                                                                                 \
                ek_stream_store(to, buffer, sizeof buffer);                                                            \
            }                                                                                                          \
        }                                                                                                              \
        for (; i < (n); i++)                                                                                           \
            (out)[i] = VALUE;                                                                                          \
    } while (0)

/* dy behind a ReLU whose output y is: 0 where y ≤ 0, and dy elsewhere, at NaN too.  Without a ReLU y is NULL. */
#define NORM_DY(i) (dy[i])
#define NORM_DY_RELU(i) (y[i] <= 0 ? 0 : dy[i])

static inline REAL FN(norm_relu)(REAL v)
{
    return v < 0 ? 0 : v;
}

/* ---- sums in registers ------------------------------------------------------------------------------------------- */
/* NORM_VECTORS of them at a time, of 32 bytes: arrays of lanes would be added up in memory.  What is left of the last
 * vector is read with what stands before it. */
typedef REAL FN(norm_vector) __attribute__((vector_size(32), aligned(sizeof(REAL)), may_alias));
typedef REAL FN(norm_four) __attribute__((vector_size(4 * sizeof(REAL)), aligned(sizeof(REAL)), may_alias));
#if REAL_IS_F32
typedef int32_t FN(norm_mask) __attribute__((vector_size(32)));
static const FN(norm_mask) FN(norm_counting) = {0, 1, 2, 3, 4, 5, 6, 7};
#else
typedef int64_t FN(norm_mask) __attribute__((vector_size(32)));
static const FN(norm_mask) FN(norm_counting) = {0, 1, 2, 3};
#endif

EK_INLINE double FN(norm_fold)(const FN(norm_vector) *v)
{
#if REAL_IS_F32
    norm_quad sum[NORM_VECTORS];
    NORM_UNROLL for (int k = 0; k < NORM_VECTORS; k++)
        sum[k] = __builtin_convertvector(__builtin_shufflevector(v[k], v[k], 0, 1, 2, 3), norm_quad) +
                 __builtin_convertvector(__builtin_shufflevector(v[k], v[k], 4, 5, 6, 7), norm_quad);
    return norm_fold_quads(sum);
#else
    return norm_fold_quads(v);
#endif
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */
/* fma: one rounding less, and the same bits from every clone; those without the instruction make a call of it. */


/* Mean and Σ (x − mean)² of n ≤ NORM_PIECE contiguous elements; without `center` the mean is 0.  All is summed over
 * d = x − x₀ in double, so equal elements have a variance of exactly 0.  float32 takes one pass, Σ (x − mean)² =
 * Σ d² − (Σ d)²/n: no element is further than √n standard deviations from the mean, so Σ d² ≤ n·Σ (x − mean)² and the
 * difference loses at most log₂ n of double's 53 bits, whatever x₀ is.  float64 has none to lose: two passes. */
EK_KERNEL static norm_moments FN(norm_moments_long)(int64_t n, const REAL *x, bool center)
{
    double sum[EK_LANES] = {0}, square[EK_LANES] = {0};
    const int64_t body = n - n % EK_LANES;
    const double first = center ? (double)x[0] : 0;
    for (int64_t i = 0; i < body; i += EK_LANES)
        for (int l = 0; l < EK_LANES; l++) {
            const double d = (double)x[i + l] - first;
            sum[l] += d;
            if (REAL_IS_F32)
                square[l] += d * d;
        }
    for (int l = 0; l < EK_LANES; l++) /* so written, the rest is a masked vector or two */
        if (body + l < n) {
            const double d = (double)x[body + l] - first;
            sum[l] += d;
            if (REAL_IS_F32)
                square[l] += d * d;
        }
    const double s = center ? ek_fold_lanes(sum) : 0, mean = first + s / (double)n;
    if (REAL_IS_F32) {
        const double m2 = ek_fold_lanes(square) - s * (s / (double)n);
        return (norm_moments){mean, m2 > 0 || isnan(m2) ? m2 : 0};
    }
    for (int64_t i = 0; i < body; i += EK_LANES)
        for (int l = 0; l < EK_LANES; l++) {
            const double d = (double)x[i + l] - mean;
            square[l] += d * d;
        }
    for (int l = 0; l < EK_LANES; l++)
        if (body + l < n) {
            const double d = (double)x[body + l] - mean;
            square[l] += d * d;
        }
    return (norm_moments){mean, ek_fold_lanes(square)};
}

/* The same of a short run, in registers. */
EK_KERNEL static norm_moments FN(norm_moments_short)(int64_t n, const REAL *x, bool center)
{
    const double first = center ? (double)x[0] : 0;
    double s = 0, m2 = 0, mean = 0;
    for (int pass = 0; pass < (REAL_IS_F32 ? 1 : 2); pass++) {
        const double from = pass == 0 ? first : mean;
        norm_quad sum[NORM_VECTORS] = {{0}}, square[NORM_VECTORS] = {{0}}, d;
#define DEVIATION(k, AT, KEEP)                                                                                         \
    d = __builtin_convertvector(*(const FN(norm_four) *)(x + (AT)), norm_quad) - from;                                 \
    d = (norm_quad)((norm_longs)d & (KEEP));                                                                           \
    sum[k] += d;                                                                                                       \
    square[k] += d * d;
        int64_t i = 0;
        for (; i + NORM_VECTORS * 4 <= n; i += NORM_VECTORS * 4)
            NORM_UNROLL for (int k = 0; k < NORM_VECTORS; k++) {
                DEVIATION(k, i + 4 * k, -1)
            }
        NORM_UNROLL for (int k = 0; k < NORM_VECTORS - 1; k++)
            if (i + 4 <= n) {
                DEVIATION(k, i, -1)
                i += 4;
            }
        if (i < n && n >= 4) { /* the last four, less those that were */
            const norm_longs keep = (norm_longs){0, 1, 2, 3} >= 4 - (n - i);
            DEVIATION(NORM_VECTORS - 1, n - 4, keep)
        }
        for (; i < n && n < 4; i++) {
            const double lone = (double)x[i] - from;
            sum[0][0] += lone;
            square[0][0] += lone * lone;
        }
#undef DEVIATION
        if (pass == 0) {
            s = center ? norm_fold_quads(sum) : 0;
            mean = first + s / (double)n;
        }
        m2 = norm_fold_quads(square);
    }
    if (REAL_IS_F32)
        m2 -= s * (s / (double)n);
    return (norm_moments){mean, m2 > 0 || isnan(m2) ? m2 : 0};
}

static norm_moments FN(norm_moments_of)(int64_t n, const REAL *x, bool center)
{
    return n < NORM_SHORT_RUN ? FN(norm_moments_short)(n, x, center) : FN(norm_moments_long)(n, x, center);
}

/* The same for each of `columns` ≤ COLUMN_BLOCK neighbouring columns of `rows` rows that stand `stride` apart. */
EK_KERNEL static void FN(norm_column_moments)(int64_t rows, int64_t columns, int64_t stride, const REAL *x, bool center,
                                              norm_moments *out)
{
    double sum[COLUMN_BLOCK] = {0}, square[COLUMN_BLOCK] = {0};
    if (center)
        for (int64_t r = 1; r < rows; r++)
            for (int64_t c = 0; c < columns; c++)
                sum[c] += (double)x[r * stride + c] - (double)x[c];
    for (int64_t c = 0; c < columns; c++)
        sum[c] = center ? (double)x[c] + sum[c] / (double)rows : 0;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            double d = (double)x[r * stride + c] - sum[c];
            square[c] += d * d;
        }
    for (int64_t c = 0; c < columns; c++)
        out[c] = (norm_moments){sum[c], square[c]};
}

/* y = (x − M)·a + b, or max(y, 0) with `relu`; x, y: [n]. */
EK_KERNEL static void FN(norm_apply_scalar)(int64_t n, const REAL *x, REAL *y, REAL center, REAL a, REAL b, bool relu,
                                            bool stream)
{
    if (relu)
        NORM_STORE(n, y, stream, FN(norm_relu)(MATH(fma)(x[i] - center, a, b)));
    else
        NORM_STORE(n, y, stream, MATH(fma)(x[i] - center, a, b));
}

/* y = ((x − M)·r + lo)·γ + β; x, y, γ, β: [n], γ and β may be NULL. */
EK_KERNEL static void FN(norm_apply_vector)(int64_t n, const REAL *x, REAL *y, REAL center, REAL rstd, REAL lo,
                                            const REAL *gamma, const REAL *beta, bool relu, bool stream)
{
    if (gamma && beta && relu)
        NORM_STORE(n, y, stream, FN(norm_relu)(MATH(fma)(MATH(fma)(x[i] - center, rstd, lo), gamma[i], beta[i])));
    else if (relu)
        NORM_STORE(n, y, stream, FN(norm_relu)(MATH(fma)(MATH(fma)(x[i] - center, rstd, lo), gamma ? gamma[i] : 1,
                                                         beta ? beta[i] : 0)));
    else if (gamma && beta)
        NORM_STORE(n, y, stream, MATH(fma)(MATH(fma)(x[i] - center, rstd, lo), gamma[i], beta[i]));
    else if (gamma)
        NORM_STORE(n, y, stream, MATH(fma)(x[i] - center, rstd, lo) * gamma[i]);
    else
        NORM_STORE(n, y, stream, MATH(fma)(x[i] - center, rstd, lo) + beta[i]);
}

/* y = (x − M)·a + b with a group per column; x, y, center, a, b: [n]. */
EK_KERNEL static void FN(norm_apply_columns)(int64_t n, const REAL *x, REAL *y, const REAL *center, const REAL *a,
                                             const REAL *b, bool relu)
{
    if (relu)
        for (int64_t i = 0; i < n; i++)
            y[i] = FN(norm_relu)(MATH(fma)(x[i] - center[i], a[i], b[i]));
    else
        for (int64_t i = 0; i < n; i++)
            y[i] = MATH(fma)(x[i] - center[i], a[i], b[i]);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* Σ γ·dy and Σ γ·dy·(x − M) over n ≤ NORM_PIECE elements, γ ≡ 1 where it is NULL; terms, and sums of eight of them, are
 * of type REAL, the sums of those in double. */
EK_INLINE norm_sums FN(norm_sums_terms)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL center,
                                        const REAL *gamma)
{
    enum { LANES = (int)(sizeof(FN(norm_vector)) / sizeof(REAL)), ALL = NORM_VECTORS * LANES };
    norm_sums total = {0, 0};
    if (n < LANES) {
        for (int64_t i = 0; i < n; i++) {
            const REAL d = y && y[i] <= 0 ? 0 : dy[i], g = gamma ? gamma[i] * d : d;
            total.plain += (double)g;
            total.product += (double)(g * (x[i] - center));
        }
        return total;
    }
    for (int64_t begin = 0; begin < n; begin += 8 * ALL) {
        const int64_t end = n - begin < 8 * ALL ? n : begin + 8 * ALL;
        FN(norm_vector) plain[NORM_VECTORS] = {{0}}, product[NORM_VECTORS] = {{0}}, g;
#define AT(p, i) (*(const FN(norm_vector) *)((p) + (i)))
#define TERM(k, i, KEEP)                                                                                               \
    g = (FN(norm_vector))((FN(norm_mask))AT(dy, i) & (KEEP));                                                          \
    if (y)                                                                                                             \
        g = (FN(norm_vector))((FN(norm_mask))g & ~(AT(y, i) <= 0));                                                    \
    if (gamma)                                                                                                         \
        g = AT(gamma, i) * g;                                                                                          \
    plain[k] += g;                                                                                                     \
    product[k] += g * (AT(x, i) - center);
        int64_t i = begin;
        for (; i + ALL <= end; i += ALL)
            NORM_UNROLL for (int k = 0; k < NORM_VECTORS; k++) {
                TERM(k, i + k * LANES, -1)
            }
        NORM_UNROLL for (int k = 0; k < NORM_VECTORS - 1; k++)
            if (i + LANES <= end) {
                TERM(k, i, -1)
                i += LANES;
            }
        if (i < end) { /* the last vector, less what was in others */
            const FN(norm_mask) keep = FN(norm_counting) >= LANES - (int)(end - i);
            TERM(NORM_VECTORS - 1, end - LANES, keep)
        }
#undef TERM
#undef AT
        total.plain += FN(norm_fold)(plain);
        total.product += FN(norm_fold)(product);
    }
    return total;
}

EK_KERNEL static norm_sums FN(norm_sums_short)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL center,
                                               const REAL *gamma)
{
    if (y && !gamma)
        return FN(norm_sums_terms)(n, x, dy, y, center, NULL);
    if (y)
        return FN(norm_sums_terms)(n, x, dy, y, center, gamma);
    if (!gamma)
        return FN(norm_sums_terms)(n, x, dy, NULL, center, NULL);
    return FN(norm_sums_terms)(n, x, dy, NULL, center, gamma);
}

#if REAL_IS_F32
/* The same with everything in double. */
#define NORM_SUMS(NAME, ACC, DY)                                                                                       \
    EK_KERNEL static norm_sums FN(NAME)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL center,          \
                                        const REAL *gamma)                                                             \
    {                                                                                                                  \
        (void)y;                                                                                                       \
        double plain[EK_LANES] = {0}, product[EK_LANES] = {0};                                                         \
        for (int64_t begin = 0; begin < n; begin += 8 * EK_LANES) {                                                    \
            const int64_t end = n - begin < 8 * EK_LANES ? n : begin + 8 * EK_LANES;                                   \
            const int64_t body = end - (end - begin) % EK_LANES;                                                       \
            ACC short_plain[EK_LANES] = {0}, short_product[EK_LANES] = {0};                                            \
            for (int64_t i = begin; i < body; i += EK_LANES)                                                           \
                for (int l = 0; l < EK_LANES; l++) {                                                                   \
                    const ACC g = gamma ? (ACC)gamma[i + l] * (ACC)DY(i + l) : (ACC)DY(i + l);                         \
                    short_plain[l] += g;                                                                               \
                    short_product[l] += g * (ACC)(x[i + l] - center);                                                  \
                }                                                                                                      \
            for (int l = 0; l < EK_LANES; l++)                                                                         \
                if (body + l < end) {                                                                                  \
                    const int64_t i = body + l;                                                                        \
                    const ACC g = gamma ? (ACC)gamma[i] * (ACC)DY(i) : (ACC)DY(i);                                     \
                    short_plain[l] += g;                                                                               \
                    short_product[l] += g * (ACC)(x[i] - center);                                                      \
                }                                                                                                      \
            for (int l = 0; l < EK_LANES; l++) {                                                                       \
                plain[l] += (double)short_plain[l];                                                                    \
                product[l] += (double)short_product[l];                                                                \
            }                                                                                                          \
        }                                                                                                              \
        return (norm_sums){ek_fold_lanes(plain), ek_fold_lanes(product)};                                              \
    }
NORM_SUMS(norm_sums_wide, double, NORM_DY)
NORM_SUMS(norm_sums_wide_relu, double, NORM_DY_RELU)
#endif

/* The same in double throughout where float's range was left, or its smallest numbers reached. */
static norm_sums FN(norm_sums_of)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL center,
                                  const REAL *gamma)
{
    const norm_sums sums = FN(norm_sums_short)(n, x, dy, y, center, gamma);
#if REAL_IS_F32
    const double size = fabs(sums.product);
    if (!(size >= NORM_FLOAT_LEAST && size <= FLT_MAX && fabs(sums.plain) <= FLT_MAX))
        return (y ? norm_sums_wide_relu_f32 : norm_sums_wide_f32)(n, x, dy, y, center, gamma);
#endif
    return sums;
}

/* dβ += dy and dγ += dy·x̂, x̂ = (x − M)·r + lo, of `rows` ≤ AFFINE_ROWS rows of n elements, each with its own M, r,
 * lo; x, dy: [rows][n], d_gamma, d_beta: [n]. */
EK_KERNEL static void FN(norm_affine_rows)(int64_t rows, int64_t n, const REAL *x, const REAL *dy, const REAL *y,
                                           const norm_row *row, double *d_gamma, double *d_beta)
{
    for (int64_t at = 0; at < n; at += COLUMN_BLOCK) {
        const int width = n - at < COLUMN_BLOCK ? (int)(n - at) : COLUMN_BLOCK;
        REAL plain[COLUMN_BLOCK] = {0}, product[COLUMN_BLOCK] = {0};
        for (int64_t r = 0; r < rows; r++) {
            const REAL *xr = x + r * n + at, *dyr = dy + r * n + at, *yr = y ? y + r * n + at : dyr;
            const bool relu = y;
            const REAL center = (REAL)row[r].center, rstd = (REAL)row[r].rstd, lo = (REAL)row[r].lo;
            for (int c = 0; c < width; c++) {
                const REAL d = relu && yr[c] <= 0 ? 0 : dyr[c];
                plain[c] += d;
                product[c] += d * ((xr[c] - center) * rstd + lo);
            }
        }
        bool in_range = true;
        for (int c = 0; REAL_IS_F32 && c < width; c++)
            in_range = in_range && MATH(fabs)(plain[c]) <= FLT_MAX && MATH(fabs)(product[c]) <= FLT_MAX;
        for (int c = 0; in_range && c < width; c++) {
            d_beta[at + c] += (double)plain[c];
            d_gamma[at + c] += (double)product[c];
        }
        for (int64_t r = 0; !in_range && r < rows; r++) /* again, in double */
            for (int64_t c = at; c < at + width; c++) {
                const double d = y && y[r * n + c] <= 0 ? 0 : (double)dy[r * n + c];
                d_beta[c] += d;
                d_gamma[c] += d * ((double)(x[r * n + c] - (REAL)row[r].center) * row[r].rstd + row[r].lo);
            }
    }
}

/* Σ dy and Σ dy·(x − M) for each of `columns` ≤ COLUMN_BLOCK columns.  center: [columns]. */
EK_KERNEL static void FN(norm_sums_columns)(int64_t rows, int64_t columns, int64_t stride, const REAL *x,
                                            const REAL *dy, const REAL *y, const REAL *center, norm_sums *out)
{
    double plain[COLUMN_BLOCK] = {0}, product[COLUMN_BLOCK] = {0};
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            const int64_t i = r * stride + c;
            const double d = (double)(y && y[i] <= 0 ? 0 : dy[i]);
            plain[c] += d;
            product[c] += d * (double)(x[i] - center[c]);
        }
    for (int64_t c = 0; c < columns; c++)
        out[c] = (norm_sums){plain[c], product[c]};
}

/* dx = a·dy + b·x̂ + c with x̂ = (x − m)·r: b ~ r stays in range where r² would not.  x is NULL where nothing flows
 * through the statistics: dx = a·dy, whatever x is.  x, dy, dx: [n]. */
EK_KERNEL static void FN(norm_dx_scalar)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL *dx, REAL mean,
                                         REAL rstd, REAL a, REAL b, REAL c, bool stream)
{
    if (x && y)
        NORM_STORE(n, dx, stream, a * NORM_DY_RELU(i) + (b * ((x[i] - mean) * rstd) + c));
    else if (x)
        NORM_STORE(n, dx, stream, a * NORM_DY(i) + (b * ((x[i] - mean) * rstd) + c));
    else if (y)
        NORM_STORE(n, dx, stream, a * NORM_DY_RELU(i));
    else
        NORM_STORE(n, dx, stream, a * NORM_DY(i));
}

/* dx = r·γ·dy + b·x̂ + c; x, dy, dx, gamma: [n]. */
EK_KERNEL static void FN(norm_dx_vector)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL *dx, REAL mean,
                                         REAL rstd, const REAL *gamma, REAL b, REAL c, bool stream)
{
    if (x && y)
        NORM_STORE(n, dx, stream, rstd * gamma[i] * NORM_DY_RELU(i) + (b * ((x[i] - mean) * rstd) + c));
    else if (x)
        NORM_STORE(n, dx, stream, rstd * gamma[i] * NORM_DY(i) + (b * ((x[i] - mean) * rstd) + c));
    else if (y)
        NORM_STORE(n, dx, stream, rstd * gamma[i] * NORM_DY_RELU(i));
    else
        NORM_STORE(n, dx, stream, rstd * gamma[i] * NORM_DY(i));
}

/* dx = a·dy + b·x̂ + c with a group per column; all [n]. */
EK_KERNEL static void FN(norm_dx_columns)(int64_t n, const REAL *x, const REAL *dy, const REAL *y, REAL *dx,
                                          const REAL *mean, const REAL *rstd, const REAL *a, const REAL *b,
                                          const REAL *c)
{
    if (x && y)
        for (int64_t i = 0; i < n; i++)
            dx[i] = a[i] * NORM_DY_RELU(i) + (b[i] * ((x[i] - mean[i]) * rstd[i]) + c[i]);
    else if (x)
        for (int64_t i = 0; i < n; i++)
            dx[i] = a[i] * NORM_DY(i) + (b[i] * ((x[i] - mean[i]) * rstd[i]) + c[i]);
    else
        for (int64_t i = 0; i < n; i++)
            dx[i] = a[i] * (y ? NORM_DY_RELU(i) : NORM_DY(i));
}
