/* The oracle of support_recurrent.h. */
#include "support_recurrent.h"

#include <stdio.h>

typedef long double real;

/* One norm of one pass: gain, bias and running statistics, and in which step it stands. */
typedef struct oracle_norm {
    const ek_tensor *gain, *bias; /* bias: NULL without */
    oracle_buffer *mean, *var;    /* BatchNorm: what they will be; [max_steps][units] */
    const ek_tensor *old_mean, *old_var;
    int64_t units;
} oracle_norm;

/* One direction of one layer. */
typedef struct pass {
    const recurrent_case *c;
    bool training;
    int64_t input;
    const ek_tensor *w_ih, *w_hh;
    oracle_norm ih, hh, cell;
    const ek_tensor *old_tracked;
    oracle_buffer *tracked;
} pass;

static const ek_tensor *find(ek_module *layer, const char *what, const char *suffix, bool buffer)
{
    char name[100];
    snprintf(name, sizeof name, "%s_%s", what, suffix);
    const ek_tensor *t = buffer ? ek_module_buffer(layer, name) : ek_module_parameter(layer, name);
    ck_assert_msg(t != NULL, "%s: %s", name, ek_last_error());
    return t;
}

static oracle_buffer *expected_buffer(recurrent_answer *answer, const char *what, const char *suffix,
                                      const ek_tensor *old)
{
    ck_assert_int_lt(answer->buffers, MOST_TENSORS);
    oracle_buffer *b = &answer->buffer[answer->buffers++];
    snprintf(b->name, sizeof b->name, "%s_%s", what, suffix);
    b->n = ek_tensor_numel(old);
    b->values = calloc((size_t)b->n, sizeof *b->values);
    for (int64_t i = 0; i < b->n; i++)
        b->values[i] = ek_tensor_at(old, i);
    return b;
}

static oracle_norm norm_of(const recurrent_case *c, ek_module *layer, recurrent_answer *answer, const char *which,
                           const char *suffix, int64_t units)
{
    char name[40];
    oracle_norm norm = {.units = units};
    snprintf(name, sizeof name, "bias_%s", which);
    norm.bias = c->opts.bias ? find(layer, name, suffix, false) : NULL;
    if (c->opts.norm == EK_RECURRENT_NO_NORM)
        return norm;
    snprintf(name, sizeof name, "gain_%s", which);
    norm.gain = find(layer, name, suffix, false);
    if (c->opts.norm != EK_RECURRENT_BATCH_NORM)
        return norm;
    snprintf(name, sizeof name, "running_mean_%s", which);
    norm.old_mean = find(layer, name, suffix, true);
    norm.mean = expected_buffer(answer, name, suffix, norm.old_mean);
    snprintf(name, sizeof name, "running_var_%s", which);
    norm.old_var = find(layer, name, suffix, true);
    norm.var = expected_buffer(answer, name, suffix, norm.old_var);
    return norm;
}

static pass pass_of(const recurrent_case *c, ek_module *layer, recurrent_answer *answer, int64_t k, int direction)
{
    char suffix[40];
    snprintf(suffix, sizeof suffix, "l%lld%s", (long long)k, direction ? "_reverse" : "");
    const int64_t rows = recurrent_gates(c->cell) * c->hidden;
    pass p = {.c = c, .training = ek_module_is_training(layer),
              .input = k ? c->hidden * recurrent_directions(c) : c->input};
    p.w_ih = find(layer, "weight_ih", suffix, false);
    p.w_hh = find(layer, "weight_hh", suffix, false);
    p.ih = norm_of(c, layer, answer, "ih", suffix, rows);
    p.hh = norm_of(c, layer, answer, "hh", suffix, rows);
    if (c->cell == LSTM && c->opts.norm != EK_RECURRENT_NO_NORM)
        p.cell = norm_of(c, layer, answer, "c", suffix, c->hidden);
    if (c->opts.norm == EK_RECURRENT_BATCH_NORM) {
        p.old_tracked = find(layer, "num_batches_tracked", suffix, true);
        p.tracked = expected_buffer(answer, "num_batches_tracked", suffix, p.old_tracked);
    }
    return p;
}

/* ---- norms ------------------------------------------------------------------------------------------------------- */

static real slope(real var, real eps)
{
    return var + eps > 0 ? 1 / sqrtl(var + eps) : 0;
}

static void scale(const oracle_norm *norm, int64_t u, real mean, real var, real eps, real *v)
{
    *v = (*v - mean) * slope(var, eps) * (real)ek_tensor_at(norm->gain, u);
    if (norm->bias)
        *v += (real)ek_tensor_at(norm->bias, u);
}

/* Units first … last−1 of one row. */
static void layer_norm(const pass *p, const oracle_norm *norm, int64_t first, int64_t last, real *v)
{
    real mean = 0, var = 0;
    for (int64_t u = first; u < last; u++)
        mean += v[u] / (real)(last - first);
    for (int64_t u = first; u < last; u++)
        var += (v[u] - mean) * (v[u] - mean) / (real)(last - first);
    for (int64_t u = first; u < last; u++)
        scale(norm, u, mean, var, (real)p->c->opts.eps, &v[u]);
}

/* Which step's running statistics stand in for those of this one. */
static int64_t known_step(const pass *p, int64_t step)
{
    step = step < p->c->opts.max_steps ? step : p->c->opts.max_steps - 1;
    while (step > 0 && ek_tensor_at(p->old_tracked, step) == 0)
        step--;
    return step;
}

static void batch_norm(const pass *p, const oracle_norm *norm, int64_t step, int64_t m, real *v)
{
    const ek_recurrent_opts *o = &p->c->opts;
    const bool from_batch =
        m > 1 && (o->statistics == EK_STATS_BATCH || (o->statistics == EK_STATS_AUTO && p->training));
    const bool updates = m > 1 && p->training && o->statistics != EK_STATS_FROZEN && step < o->max_steps;
    for (int64_t u = 0; u < norm->units; u++) {
        real mean = 0, var = 0;
        for (int64_t i = 0; i < m; i++)
            mean += v[i * norm->units + u] / (real)m;
        for (int64_t i = 0; i < m; i++)
            var += powl(v[i * norm->units + u] - mean, 2) / (real)m;
        if (updates) {
            const int64_t at = step * norm->units + u;
            const real fraction = o->momentum == EK_MOMENTUM_CUMULATIVE
                                      ? 1 / ((real)ek_tensor_at(p->old_tracked, step) + 1)
                                      : (real)o->momentum;
            norm->mean->values[at] =
                (double)((1 - fraction) * (real)ek_tensor_at(norm->old_mean, at) + fraction * mean);
            norm->var->values[at] = (double)((1 - fraction) * (real)ek_tensor_at(norm->old_var, at) +
                                             fraction * var * (real)m / (real)(m - 1));
            p->tracked->values[step] = ek_tensor_at(p->old_tracked, step) + 1;
        }
        if (!from_batch) {
            const int64_t at = known_step(p, step) * norm->units + u;
            mean = (real)ek_tensor_at(norm->old_mean, at);
            var = (real)ek_tensor_at(norm->old_var, at);
        }
        for (int64_t i = 0; i < m; i++)
            scale(norm, u, mean, var, (real)o->eps, &v[i * norm->units + u]);
    }
}

/* v: [m][units]. */
static void normalize(const pass *p, const oracle_norm *norm, int64_t step, int64_t m, real *v)
{
    if (p->c->opts.norm == EK_RECURRENT_BATCH_NORM) {
        batch_norm(p, norm, step, m, v);
        return;
    }
    for (int64_t i = 0; i < m; i++) {
        real *row = v + i * norm->units;
        const int64_t h = p->c->hidden;
        if (p->c->opts.norm == EK_RECURRENT_NO_NORM) {
            for (int64_t u = 0; norm->bias && u < norm->units; u++)
                row[u] += (real)ek_tensor_at(norm->bias, u);
        } else if (p->c->cell == GRU) {
            layer_norm(p, norm, 0, 2 * h, row);
            layer_norm(p, norm, 2 * h, 3 * h, row);
        } else {
            layer_norm(p, norm, 0, norm->units, row);
        }
    }
}

/* ---- cells ------------------------------------------------------------------------------------------------------- */

static real sigma(real v)
{
    return 1 / (1 + expl(-v));
}

/* out [rows] = w [rows][width] · x [width]. */
static void multiply(const ek_tensor *w, const real *x, real *out)
{
    const int64_t rows = ek_tensor_dim(w, 0), width = ek_tensor_dim(w, 1);
    for (int64_t r = 0; r < rows; r++) {
        out[r] = 0;
        for (int64_t k = 0; k < width; k++)
            out[r] += (real)ek_tensor_at(w, r * width + k) * x[k];
    }
}

/* One step of m sequences.  x [m][input]; h, cell [m][hidden] are replaced. */
static void take_step(const pass *p, int64_t step, int64_t m, const real *x, real *h, real *cell)
{
    const int64_t hidden = p->c->hidden, rows = recurrent_gates(p->c->cell) * hidden;
    real *a = calloc((size_t)(m * rows), sizeof *a), *b = calloc((size_t)(m * rows), sizeof *b);
    real *shown = calloc((size_t)(m * hidden), sizeof *shown);
    for (int64_t i = 0; i < m; i++) {
        multiply(p->w_ih, x + i * p->input, a + i * rows);
        multiply(p->w_hh, h + i * hidden, b + i * rows);
    }
    normalize(p, &p->ih, step, m, a);
    normalize(p, &p->hh, step, m, b);
    for (int64_t i = 0; i < m; i++)
        for (int64_t u = 0; u < hidden; u++) {
            const real *av = a + i * rows + u, *bv = b + i * rows + u;
            real *hv = h + i * hidden + u, *cv = cell + i * hidden + u;
            if (p->c->cell == RNN) {
                const real s = av[0] + bv[0];
                *hv = p->c->opts.nonlinearity == EK_NONLINEARITY_TANH ? tanhl(s) : s > 0 ? s : 0;
            } else if (p->c->cell == LSTM) {
                const real g = tanhl(av[2 * hidden] + bv[2 * hidden]);
                *cv = sigma(av[hidden] + bv[hidden]) * *cv + sigma(av[0] + bv[0]) * g;
                shown[i * hidden + u] = *cv;
            } else {
                const real r = sigma(av[0] + bv[0]), z = sigma(av[hidden] + bv[hidden]);
                *hv = (1 - z) * tanhl(av[2 * hidden] + r * bv[2 * hidden]) + z * *hv;
            }
        }
    if (p->c->cell == LSTM) {
        if (p->c->opts.norm != EK_RECURRENT_NO_NORM)
            normalize(p, &p->cell, step, m, shown);
        for (int64_t i = 0; i < m; i++)
            for (int64_t u = 0; u < hidden; u++) {
                const int64_t o = i * rows + 3 * hidden + u;
                h[i * hidden + u] = sigma(a[o] + b[o]) * tanhl(shown[i * hidden + u]);
            }
    }
    free(a);
    free(b);
    free(shown);
}

/* ---- sequences --------------------------------------------------------------------------------------------------- */

/* The valid steps of sequence i, in order; returns how many. */
static int64_t valid_steps(const recurrent_case *c, int64_t i, int64_t *at)
{
    int64_t n = 0;
    for (int64_t t = 0; t < c->steps; t++)
        if (c->lengths ? t < c->lengths[i] : c->mask ? c->mask[i * c->steps + t] : true)
            at[n++] = t;
    return n;
}

/* x [n][steps][input] → y [n][steps][width] from column `column` on; h, cell [n][hidden] are replaced. */
static void run_pass(const pass *p, bool backward, const real *x, real *y, int64_t width, int64_t column, real *h,
                     real *cell)
{
    const recurrent_case *c = p->c;
    const int64_t n = c->n, hidden = c->hidden, input = p->input;
    int64_t *at = calloc((size_t)(n * c->steps), sizeof *at), *length = calloc((size_t)n, sizeof *length);
    int64_t *who = calloc((size_t)n, sizeof *who);
    real *xs = calloc((size_t)(n * input), sizeof *xs), *hs = calloc((size_t)(n * hidden), sizeof *hs);
    real *cs = calloc((size_t)(n * hidden), sizeof *cs);
    for (int64_t i = 0; i < n; i++)
        length[i] = valid_steps(c, i, at + i * c->steps);
    for (int64_t s = 0; s < c->steps; s++) {
        int64_t m = 0;
        for (int64_t i = 0; i < n; i++)
            if (length[i] > s)
                who[m++] = i;
        for (int64_t r = 0; r < m; r++) {
            const int64_t t = at[who[r] * c->steps + (backward ? length[who[r]] - 1 - s : s)];
            memcpy(xs + r * input, x + (who[r] * c->steps + t) * input, (size_t)input * sizeof *xs);
            memcpy(hs + r * hidden, h + who[r] * hidden, (size_t)hidden * sizeof *hs);
            memcpy(cs + r * hidden, cell + who[r] * hidden, (size_t)hidden * sizeof *cs);
        }
        take_step(p, s, m, xs, hs, cs);
        for (int64_t r = 0; r < m; r++) {
            const int64_t t = at[who[r] * c->steps + (backward ? length[who[r]] - 1 - s : s)];
            memcpy(y + (who[r] * c->steps + t) * width + column, hs + r * hidden, (size_t)hidden * sizeof *hs);
            memcpy(h + who[r] * hidden, hs + r * hidden, (size_t)hidden * sizeof *hs);
            memcpy(cell + who[r] * hidden, cs + r * hidden, (size_t)hidden * sizeof *cs);
        }
    }
    void *all[] = {at, length, who, xs, hs, cs};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static real *values_of(const ek_tensor *t, int64_t n)
{
    real *values = calloc((size_t)n, sizeof *values);
    for (int64_t i = 0; t && i < n; i++)
        values[i] = (real)ek_tensor_at(t, i);
    return values;
}

static ek_tensor *tensor_of(ek_shape shape, const real *values)
{
    ek_tensor *t = ek_zeros(EK_F64, shape);
    ck_made(t);
    for (int64_t i = 0; i < ek_tensor_numel(t); i++)
        ek_data_f64(t)[i] = (double)values[i];
    return t;
}

/* (N, T, F) of either layout to [n][steps][f] and back. */
static void rearrange(const recurrent_case *c, int64_t features, const real *from, real *to, bool back)
{
    for (int64_t i = 0; i < c->n; i++)
        for (int64_t t = 0; t < c->steps; t++)
            for (int64_t f = 0; f < features; f++) {
                const int64_t plain = (i * c->steps + t) * features + f;
                const int64_t own =
                    c->layout == EK_BATCH_FIRST ? plain : (t * c->n + i) * features + f;
                to[back ? own : plain] = from[back ? plain : own];
            }
}

recurrent_answer recurrent_oracle(const recurrent_case *c, ek_module *layer, const recurrent_inputs *in)
{
    recurrent_answer answer = {.buffers = 0};
    const int ways = recurrent_directions(c);
    const int64_t pairs = c->n * c->steps, states = c->opts.num_layers * ways * c->n * c->hidden;
    const int64_t width = ways * c->hidden;
    real *given = values_of(in->x, pairs * c->input), *x = values_of(NULL, pairs * c->input);
    real *h = values_of(in->h0, states), *cell = values_of(in->c0, states);
    rearrange(c, c->input, given, x, false);
    for (int64_t k = 0; k < c->opts.num_layers; k++) {
        real *y = values_of(NULL, pairs * width);
        for (int d = 0; d < ways; d++) {
            const pass p = pass_of(c, layer, &answer, k, d);
            const int64_t at = (k * ways + d) * c->n * c->hidden;
            run_pass(&p, d == 1, x, y, width, d * c->hidden, h + at, cell + at);
        }
        free(x);
        x = y;
    }
    real *shown = values_of(NULL, pairs * width);
    rearrange(c, width, x, shown, true);
    answer.y = tensor_of(recurrent_shape(c, width), shown);
    answer.h = tensor_of(recurrent_state_shape(c), h);
    answer.c = c->cell == LSTM ? tensor_of(recurrent_state_shape(c), cell) : NULL;
    real *all[] = {given, x, h, cell, shown};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    return answer;
}

void recurrent_answer_free(recurrent_answer *answer)
{
    ek_tensor_free(answer->y);
    ek_tensor_free(answer->h);
    ek_tensor_free(answer->c);
    for (int i = 0; i < answer->buffers; i++)
        free(answer->buffer[i].values);
    *answer = (recurrent_answer){.buffers = 0};
}

static void close_to(const char *what, const char *which, const ek_tensor *ours, const ek_tensor *expected,
                     double tolerance)
{
    char label[400];
    snprintf(label, sizeof label, "%s: %s", what, which);
    ck_assert_msg(!ours == !expected, "%s: there is %s", label, ours ? "one" : "none");
    if (ours) {
        char a[200], b[200];
        ck_assert_str_eq(ek_shape_text(ek_tensor_shape(ours), a, sizeof a),
                         ek_shape_text(ek_tensor_shape(expected), b, sizeof b));
        assert_close(label, ours, expected, 0, tolerance);
    }
}

typedef struct counting {
    int buffers;
} counting;

static ek_status count_buffer(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    (void)name;
    (void)t;
    ((counting *)user)->buffers += kind == EK_BUFFER;
    return EK_OK;
}

void assert_answer(const char *what, const recurrent_answer *expected, const recurrent_run *run, ek_module *layer,
                   double tolerance)
{
    close_to(what, "y", run->y, expected->y, tolerance);
    close_to(what, "h", run->h, expected->h, tolerance);
    close_to(what, "c", run->c, expected->c, tolerance);
    counting all = {0};
    ck_ok(ek_module_visit(layer, count_buffer, &all));
    ck_assert_int_eq(all.buffers, expected->buffers);
    for (int i = 0; i < expected->buffers; i++) {
        const oracle_buffer *b = &expected->buffer[i];
        ek_tensor *ours = ek_module_buffer(layer, b->name);
        ck_made(ours);
        for (int64_t k = 0; k < b->n; k++) {
            const double v = ek_tensor_at(ours, k), size = fmax(1, fabs(b->values[k]));
            ck_each(fabs(v - b->values[k]) <= tolerance * size, "%s: %s[%lld] is %.17g, expected %.17g (± %g)", what,
                    b->name, (long long)k, v, b->values[k], tolerance * size);
        }
    }
}
