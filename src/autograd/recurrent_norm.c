/* LayerNorm and BatchNorm of the rows of one step, inside a recurrent cell: y = gain·x̂ + bias, x̂ = (x − m)·r with
 * r = (v + eps)^−½, and dx = r·(g − mean(g) − x̂·mean(g·x̂)) with g = gain·dy, means over whatever shares (m, v).
 * Unlike `normalize`, which sees a whole tensor, these see a few rows at a time and run inside the loop over steps.
 * Expands to ek_cell_norm_row_f32, … and their _f64 twins. */
#ifdef REAL

/* ---- over the units of a row ------------------------------------------------------------------------------------- */

/* n units that share statistics; x, y, gain, bias, normalized: [n].  Returns r.  Summed as differences from the first,
 * so that equal units have exactly no variance. */
EK_KERNEL static REAL FN(cell_norm_units)(int64_t n, const REAL *x, double eps, const REAL *gain, const REAL *bias,
                                          REAL *normalized, REAL *y)
{
    double sum[EK_LANES] = {0}, square[EK_LANES] = {0};
    const int64_t body = n - n % EK_LANES;
    const double first = (double)x[0];
    for (int64_t j = 0; j < n; j += EK_LANES) {
        const int width = j < body ? EK_LANES : (int)(n - body);
        for (int l = 0; l < width; l++)
            sum[l] += (double)x[j + l] - first;
    }
    const double mean = first + ek_fold_lanes(sum) / (double)n;
    for (int64_t j = 0; j < n; j += EK_LANES) {
        const int width = j < body ? EK_LANES : (int)(n - body);
        for (int l = 0; l < width; l++) {
            const double d = (double)x[j + l] - mean;
            square[l] += d * d;
        }
    }
    const double rstd = norm_rstd(ek_fold_lanes(square) / (double)n, eps);
    for (int64_t j = 0; j < n; j++) {
        normalized[j] = (REAL)(((double)x[j] - mean) * rstd);
        y[j] = gain[j] * normalized[j] + (bias ? bias[j] : 0);
    }
    return (REAL)rstd;
}

EK_KERNEL static void FN(cell_norm_units_backward)(int64_t n, const REAL *dy, const REAL *gain, const REAL *normalized,
                                                   REAL rstd, REAL *dx)
{
    double plain[EK_LANES] = {0}, product[EK_LANES] = {0};
    const int64_t body = n - n % EK_LANES;
    for (int64_t j = 0; j < n; j += EK_LANES) {
        const int width = j < body ? EK_LANES : (int)(n - body);
        for (int l = 0; l < width; l++) {
            const double g = (double)dy[j + l] * (double)gain[j + l];
            plain[l] += g;
            product[l] += g * (double)normalized[j + l];
        }
    }
    const REAL a = (REAL)(ek_fold_lanes(plain) / (double)n), b = (REAL)(ek_fold_lanes(product) / (double)n);
    for (int64_t j = 0; j < n; j++)
        dx[j] = rstd * (dy[j] * gain[j] - a - normalized[j] * b);
}

void FN(ek_cell_norm_row)(const FN(cell_site) *site, int64_t row, const REAL *x, REAL *y)
{
    REAL *normalized = site->normalized + row * site->units;
    for (int64_t s = 0, at = 0; s < site->segments; at += site->segment_units[s], s++)
        site->rstd[row * site->segments + s] =
            FN(cell_norm_units)(site->segment_units[s], x + at, site->eps, site->gain + at,
                                site->bias ? site->bias + at : NULL, normalized + at, y + at);
}

void FN(ek_cell_norm_row_backward)(const FN(cell_site) *site, int64_t row, const REAL *dy, REAL *dx)
{
    const REAL *normalized = site->normalized + row * site->units;
    for (int64_t s = 0, at = 0; s < site->segments; at += site->segment_units[s], s++)
        FN(cell_norm_units_backward)(site->segment_units[s], dy + at, site->gain + at, normalized + at,
                                     site->rstd[row * site->segments + s], dx + at);
}

/* ---- over the rows of a step ------------------------------------------------------------------------------------- */

/* Mean and biased variance of `n` ≤ UNITS neighbouring units over `rows` rows that stand `stride` apart. */
EK_KERNEL static void FN(cell_step_moments)(int64_t rows, int64_t n, int64_t stride, const REAL *x, double *mean,
                                            double *var)
{
    double sum[UNITS] = {0}, square[UNITS] = {0};
    for (int64_t k = 1; k < rows; k++)
        for (int64_t j = 0; j < n; j++)
            sum[j] += (double)x[k * stride + j] - (double)x[j];
    for (int64_t j = 0; j < n; j++)
        mean[j] = (double)x[j] + sum[j] / (double)rows;
    for (int64_t k = 0; k < rows; k++)
        for (int64_t j = 0; j < n; j++) {
            const double d = (double)x[k * stride + j] - mean[j];
            square[j] += d * d;
        }
    for (int64_t j = 0; j < n; j++)
        var[j] = square[j] / (double)rows;
}

EK_KERNEL static void FN(cell_step_apply)(int64_t rows, int64_t n, int64_t stride, const REAL *x, const double *mean,
                                          const double *rstd, const REAL *gain, const REAL *bias, REAL *normalized,
                                          REAL *y)
{
    for (int64_t k = 0; k < rows; k++)
        for (int64_t j = 0; j < n; j++) {
            const REAL value = (REAL)(((double)x[k * stride + j] - mean[j]) * rstd[j]);
            normalized[k * stride + j] = value;
            y[k * stride + j] = gain[j] * value + (bias ? bias[j] : 0);
        }
}

/* Without `own` statistics dx = r·g. */
EK_KERNEL static void FN(cell_step_backward)(int64_t rows, int64_t n, int64_t stride, bool own, const REAL *dy,
                                             const REAL *gain, const REAL *normalized, const REAL *rstd, REAL *dx)
{
    double plain[UNITS] = {0}, product[UNITS] = {0};
    for (int64_t k = 0; own && k < rows; k++)
        for (int64_t j = 0; j < n; j++) {
            plain[j] += (double)dy[k * stride + j];
            product[j] += (double)dy[k * stride + j] * (double)normalized[k * stride + j];
        }
    for (int64_t k = 0; k < rows; k++)
        for (int64_t j = 0; j < n; j++) {
            const REAL a = (REAL)(plain[j] / (double)rows), b = (REAL)(product[j] / (double)rows);
            dx[k * stride + j] = rstd[j] * gain[j] * (dy[k * stride + j] - a - normalized[k * stride + j] * b);
        }
}

/* sum[j] += Σ_rows dy·x̂.  Whole blocks have a length that the compiler knows: the sums become registers. */
EK_KERNEL static void FN(cell_gain_sums)(int64_t rows, int64_t n, int64_t stride, const REAL *dy,
                                         const REAL *normalized, double *sum)
{
    for (int64_t at = 0; at < n; at += EK_LANES) {
        const int64_t width = n - at < EK_LANES ? n - at : EK_LANES;
        double lane[EK_LANES] = {0};
        for (int64_t k = 0; k < rows; k++) {
            const REAL *d = dy + k * stride + at, *x = normalized + k * stride + at;
            if (width == EK_LANES)
                for (int l = 0; l < EK_LANES; l++)
                    lane[l] += (double)d[l] * (double)x[l];
            else
                for (int64_t l = 0; l < width; l++)
                    lane[l] += (double)d[l] * (double)x[l];
        }
        for (int64_t l = 0; l < width; l++)
            sum[at + l] += lane[l];
    }
}

typedef struct {
    const FN(cell_site) *site;
    int64_t step, first, rows;
    const REAL *x, *dy;
    REAL *out; /* y or dx */
    bool own;
    cell_step_statistics statistics;
    REAL *d_gain;
} FN(cell_step);

static void FN(norm_unit_blocks)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_step) *a = context;
    const FN(cell_site) *site = a->site;
    for (int64_t block = begin; block < end; block++) {
        const int64_t at = block * UNITS, n = site->units - at < UNITS ? site->units - at : UNITS;
        const REAL *given_mean = a->statistics.given_mean, *given_var = a->statistics.given_var;
        double mean[UNITS], var[UNITS];
        if (!given_mean || a->statistics.mean)
            FN(cell_step_moments)(a->rows, n, site->units, a->x + at, mean, var);
        if (a->statistics.mean) {
            memcpy(a->statistics.mean + at, mean, (size_t)n * sizeof *mean);
            memcpy(a->statistics.var + at, var, (size_t)n * sizeof *var);
        }
        for (int64_t j = 0; j < n; j++) {
            if (given_mean) {
                mean[j] = (double)given_mean[at + j];
                var[j] = (double)given_var[at + j];
            }
            var[j] = norm_rstd(var[j], site->eps); /* from here on r */
            site->rstd[a->step * site->units + at + j] = (REAL)var[j];
        }
        FN(cell_step_apply)(a->rows, n, site->units, a->x + at, mean, var, site->gain + at,
                            site->bias ? site->bias + at : NULL, site->normalized + a->first * site->units + at,
                            a->out + at);
    }
}

static void FN(norm_unit_blocks_backward)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_step) *a = context;
    const FN(cell_site) *site = a->site;
    for (int64_t block = begin; block < end; block++) {
        const int64_t at = block * UNITS, n = site->units - at < UNITS ? site->units - at : UNITS;
        FN(cell_step_backward)(a->rows, n, site->units, a->own, a->dy + at, site->gain + at,
                               site->normalized + a->first * site->units + at,
                               site->rstd + a->step * site->units + at, a->out + at);
    }
}

static void FN(gain_unit_blocks)(void *context, int64_t begin, int64_t end)
{
    const FN(cell_step) *a = context;
    const int64_t units = a->site->units;
    for (int64_t block = begin; block < end; block++) {
        const int64_t at = block * UNITS, n = units - at < UNITS ? units - at : UNITS;
        double sum[UNITS] = {0};
        FN(cell_gain_sums)(a->rows, n, units, a->dy + at, a->site->normalized + at, sum);
        for (int64_t j = 0; j < n; j++)
            a->d_gain[at + j] = (REAL)sum[j];
    }
}

void FN(ek_cell_norm_step)(const FN(cell_site) *site, int64_t step, int64_t first, int64_t rows, const REAL *x, REAL *y,
                           cell_step_statistics statistics)
{
    FN(cell_step) a = {.site = site, .step = step, .first = first, .rows = rows, .x = x, .out = y,
                       .statistics = statistics};
    ek_parallel_for(unit_blocks(site->units), unit_block_grain(rows), FN(norm_unit_blocks), &a);
}

void FN(ek_cell_norm_step_backward)(const FN(cell_site) *site, int64_t step, int64_t first, int64_t rows, bool own,
                                    const REAL *dy, REAL *dx)
{
    FN(cell_step) a = {.site = site, .step = step, .first = first, .rows = rows, .own = own, .dy = dy, .out = dx};
    ek_parallel_for(unit_blocks(site->units), unit_block_grain(rows), FN(norm_unit_blocks_backward), &a);
}

void FN(ek_cell_norm_gain_gradient)(const FN(cell_site) *site, int64_t rows, const REAL *dy, REAL *d_gain)
{
    FN(cell_step) a = {.site = site, .rows = rows, .dy = dy, .d_gain = d_gain};
    ek_parallel_for(unit_blocks(site->units), unit_block_grain(rows), FN(gain_unit_blocks), &a);
}

#else
#include "normalize.h"
#include "recurrent.h"

enum { UNITS = 64 }; /* neighbouring units that are reduced together */

static int64_t unit_blocks(int64_t units)
{
    return (units + UNITS - 1) / UNITS;
}

/* Blocks that make a task worth a thread. */
static int64_t unit_block_grain(int64_t rows)
{
    return EK_GRAIN / (UNITS * (rows > 0 ? rows : 1)) + 1;
}

#define OP_FILE "recurrent_norm.c"
#include "foreach_real.h"
#endif
