#include "support_norm_lengths.h"

#include <float.h>

/* ---- layers, and where their input keeps what -------------------------------------------------------------------- */

ek_module *make_bn(void)
{
    return ek_batch_norm1d(C, NULL);
}

ek_batch_norm_opts last_opts(void)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.channel_axis = EK_CHANNELS_LAST;
    return opts;
}

ek_module *make_bn_last(void)
{
    ek_batch_norm_opts opts = last_opts();
    return ek_batch_norm1d(C, &opts);
}

static ek_module *make_bn2d(void)
{
    return ek_batch_norm2d(C, NULL);
}

static ek_module *make_bn2d_last(void)
{
    ek_batch_norm_opts opts = last_opts();
    return ek_batch_norm2d(C, &opts);
}

static ek_module *make_in_with(bool tracked, int axis, bool plane)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.affine = true;
    opts.track_running_stats = tracked;
    opts.channel_axis = axis;
    return plane ? ek_instance_norm2d(C, &opts) : ek_instance_norm1d(C, &opts);
}

ek_module *make_in(void)
{
    return make_in_with(false, 1, false);
}

ek_module *make_in_last(void)
{
    return make_in_with(false, EK_CHANNELS_LAST, false);
}

static ek_module *make_in2d_last(void)
{
    return make_in_with(false, EK_CHANNELS_LAST, true);
}

ek_module *make_in_tracked(void)
{
    return make_in_with(true, 1, false);
}

ek_module *make_gn_with(int64_t groups, int axis)
{
    ek_group_norm_opts opts = ek_group_norm_opts_default();
    opts.channel_axis = axis;
    return ek_group_norm(groups, C, &opts);
}

ek_module *make_gn(void)
{
    return make_gn_with(2, 1);
}

ek_module *make_gn_last(void)
{
    return make_gn_with(2, EK_CHANNELS_LAST);
}

static ek_module *make_gn_one_group(void)
{
    return make_gn_with(1, EK_CHANNELS_LAST);
}

ek_module *make_ln(void)
{
    return ek_layer_norm(EK_SHAPE(C), NULL);
}

ek_module *make_rms(void)
{
    return ek_rms_norm(EK_SHAPE(C), NULL);
}

ek_module *make_ln_over_time(void)
{
    ek_layer_norm_opts opts = ek_layer_norm_opts_default();
    opts.over_time = true;
    return ek_layer_norm(EK_SHAPE(C), &opts);
}

ek_module *make_ln_over_time_and_two_axes(void)
{
    ek_layer_norm_opts opts = ek_layer_norm_opts_default();
    opts.over_time = true;
    return ek_layer_norm(EK_SHAPE(H, C), &opts);
}

static ek_module *make_sn_with(bool with_batch, bool reference, int axis, bool plane)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    opts.batch = with_batch;
    opts.reference = reference;
    opts.channel_axis = axis;
    return plane ? ek_switchable_norm2d(C, &opts) : ek_switchable_norm_sequence(C, &opts);
}

ek_module *make_sn(void)
{
    return make_sn_with(true, false, 1, false);
}

ek_module *make_sn_last(void)
{
    return make_sn_with(true, false, EK_CHANNELS_LAST, false);
}

ek_module *make_sn_reference(void)
{
    return make_sn_with(true, true, 1, false);
}

ek_module *make_sn_without_batch(void)
{
    return make_sn_with(false, false, EK_CHANNELS_LAST, false);
}

static ek_module *make_sn2d(void)
{
    return make_sn_with(true, false, 1, true);
}

const subject subjects[SUBJECTS] = {
    {"BN", "NCT", make_bn, false, false},
    {"BN channels last", "NTC", make_bn_last, false, true},
    {"BN time first", "TNC", make_bn_last, false, false},
    {"BN 2d, time last", "NCHT", make_bn2d, false, false},
    {"BN 2d, time before height", "NCTH", make_bn2d, false, false},
    {"BN 2d channels last", "NHTC", make_bn2d_last, false, false},
    {"BN 2d, batch last", "TCHN", make_bn2d, false, false},
    {"IN", "NCT", make_in, true, false},
    {"IN channels last", "NTC", make_in_last, true, true},
    {"IN 2d channels last", "NTHC", make_in2d_last, true, true},
    {"IN tracked", "NCT", make_in_tracked, true, false},
    {"GN", "NCT", make_gn, true, false},
    {"GN 2d", "NCTH", make_gn, true, false},
    {"GN channels last", "NTC", make_gn_last, true, true},
    {"GN channels last, time first", "TNC", make_gn_last, true, false},
    {"GN of one group", "NTHC", make_gn_one_group, true, false},
    {"LN", "NTC", make_ln, true, true},
    {"LN time first, height", "TNHC", make_ln, true, false},
    {"RMSNorm", "NTC", make_rms, true, true},
    {"LN over time", "NTC", make_ln_over_time, true, true},
    {"LN over time, height by itself", "NTHC", make_ln_over_time, true, true},
    {"LN over time and two axes", "NTHC", make_ln_over_time_and_two_axes, true, true},
    {"LN over time, time first", "TNC", make_ln_over_time, true, false},
    {"SN", "NCT", make_sn, false, false},
    {"SN channels last", "NTC", make_sn_last, false, true},
    {"SN reference", "NCT", make_sn_reference, false, false},
    {"SN without batch", "NTC", make_sn_without_batch, true, true},
    {"SN 2d", "NCHT", make_sn2d, false, false},
};
/* ---- batches ----------------------------------------------------------------------------------------------------- */

static int64_t size_of(char axis, const batch *b)
{
    return axis == 'N' ? b->n : axis == 'T' ? b->steps : axis == 'C' ? C : H;
}

int axis_of(const subject *s, char axis)
{
    return (int)(strchr(s->axes, axis) - s->axes);
}

static ek_shape shape_of(const subject *s, const batch *b)
{
    ek_shape shape = {.ndim = (int)strlen(s->axes)};
    for (int i = 0; i < shape.ndim; i++)
        shape.dim[i] = size_of(s->axes[i], b);
    return shape;
}

place place_of(const subject *s, const batch *b, int64_t flat)
{
    place p = {0};
    int64_t weight = 1;
    for (int i = (int)strlen(s->axes) - 1; i >= 0; i--) {
        int64_t size = size_of(s->axes[i], b), index = flat % size;
        flat /= size;
        if (s->axes[i] == 'N')
            p.sequence = index;
        else if (s->axes[i] == 'T')
            p.step = index;
        else {
            p.rest += index * weight;
            weight *= size;
        }
    }
    p.valid = b->valid[p.sequence * b->steps + p.step];
    for (int64_t k = 0; k < p.step; k++)
        p.ordinal += b->valid[p.sequence * b->steps + k];
    return p;
}

int64_t rest_size(const subject *s)
{
    return strchr(s->axes, 'H') ? C * H : C;
}

ek_tensor *fill_batch(const subject *s, const batch *b, ek_dtype dtype, uint64_t seed, double mean)
{
    ek_tensor *wide = ek_zeros(EK_F64, shape_of(s, b));
    for (int64_t i = 0; i < ek_tensor_numel(wide); i++) {
        place p = place_of(s, b, i);
        ek_rng rng = ek_rng_seed(seed + 7 * (uint64_t)(((b->first + p.sequence) * 1000 + p.ordinal) * 1000 + p.rest));
        ek_data_f64(wide)[i] = p.valid ? mean + ek_rng_normal(&rng) : b->garbage;
    }
    ek_tensor *x = ek_tensor_cast(wide, dtype);
    ck_made(x);
    ek_tensor_free(wide);
    if (!b->no_lengths)
        ck_ok(ek_tensor_set_mask(x, b->valid, b->n, b->steps, axis_of(s, 'N'), axis_of(s, 'T')));
    return x;
}

void from_lengths(bool *valid, const int64_t *lengths, int64_t n, int64_t steps)
{
    for (int64_t i = 0; i < n * steps; i++)
        valid[i] = i % steps < lengths[i / steps];
}

/* ---- one step of training, read at the valid places -------------------------------------------------------------- */

ek_status add_grad(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    double *sum = user;
    (void)name;
    for (int64_t i = 0; kind == EK_PARAMETER && i < ek_tensor_numel(tensor); i++)
        sum[(int64_t)++sum[0]] = ek_tensor_at(ek_tensor_grad(tensor), i);
    return EK_OK;
}

double *gather(const char *what, const subject *s, const batch *b, const ek_tensor *t, int64_t *n)
{
    double *values = calloc((size_t)ek_tensor_numel(t) + 1, sizeof *values);
    int64_t start[N] = {0};
    *n = 0;
    for (int64_t i = 0; i < b->n; i++) {
        start[i] = *n;
        for (int64_t k = 0; k < b->steps; k++)
            *n += b->valid[i * b->steps + k] ? rest_size(s) : 0;
    }
    for (int64_t i = 0; i < ek_tensor_numel(t); i++) {
        place p = place_of(s, b, i);
        double value = ek_tensor_at(t, i);
        if (p.valid)
            values[start[p.sequence] + p.ordinal * rest_size(s) + p.rest] = value;
        else
            ck_assert_msg(value == 0 && !signbit(value), "%s: %s is %g in the padding (sequence %lld, step %lld)",
                          s->name, what, value, (long long)p.sequence, (long long)p.step);
    }
    return values;
}

ek_module *layer_of(const subject *s, ek_dtype dtype)
{
    ek_module *layer = s->make();
    ck_made(layer);
    ck_ok(ek_module_to(layer, dtype));
    draw_parameters(layer, 1);
    return layer;
}

outcome run_layer(const subject *s, ek_module *layer, const batch *b, ek_dtype dtype)
{
    ek_tensor *x = fill_batch(s, b, dtype, 1, 2), *dy = fill_batch(s, b, dtype, 5, 0);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_module_clear_grad(layer);
    ek_tape *t = ek_tape_new();
    ek_tensor *y = ek_forward(layer, t, x);
    ck_assert_msg(y != NULL, "%s: %s", s->name, ek_last_error());
    ck_assert_msg(!ek_tensor_lengths(y) == b->no_lengths, "%s: the result carries %s", s->name,
                  b->no_lengths ? "lengths" : "none");
    ck_ok(ek_backward_from(t, y, dy));
    outcome r;
    r.y = gather("y", s, b, y, &r.n);
    r.dx = gather("dx", s, b, ek_tensor_grad(x), &r.n);
    r.state = copy_state(layer);
    r.grads = ek_zeros(EK_F64, EK_SHAPE(1 + ek_module_count_parameters(layer)));
    ck_ok(ek_module_visit(layer, add_grad, ek_data_f64(r.grads)));
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    return r;
}

outcome run_subject(const subject *s, const batch *b, ek_dtype dtype, bool training)
{
    ek_module *layer = layer_of(s, dtype);
    if (!training)
        ek_module_eval(layer);
    outcome r = run_layer(s, layer, b, dtype);
    ek_module_free(layer);
    return r;
}

void free_outcome(outcome *r)
{
    free(r->y);
    free(r->dx);
    ek_tensor_free(r->state);
    ek_tensor_free(r->grads);
}

void assert_bits(const char *what, const subject *s, const double *a, const double *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ck_each(!memcmp(&a[i], &b[i], sizeof a[i]), "%s, %s: element %lld is %.17g, not %.17g", s->name, what,
                (long long)i, a[i], b[i]);
}

void assert_same(const char *what, const subject *s, const outcome *a, const outcome *b)
{
    char text[100];
    ck_assert_int_eq(a->n, b->n);
    snprintf(text, sizeof text, "%s: y", what);
    assert_bits(text, s, a->y, b->y, a->n);
    snprintf(text, sizeof text, "%s: dx", what);
    assert_bits(text, s, a->dx, b->dx, a->n);
    ck_assert_msg(ek_tensor_equal(a->grads, b->grads), "%s, %s: gradients of parameters", s->name, what);
    ck_assert_msg(ek_tensor_equal(a->state, b->state), "%s, %s: running statistics", s->name, what);
}

/* Between two orders of summation in double, ΣK ≤ 400 terms of sizes around 1 … 10, and the rounding of r, γ·r and the
 * constant term in float64 that follows. */
static const double order_tolerance = 400 * 100 * DBL_EPSILON;

void assert_near(const char *what, const subject *s, const double *a, const double *b, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        ck_each(fabs(a[i] - b[i]) <= order_tolerance * (1 + fabs(b[i])), "%s, %s: element %lld is %.17g, not %.17g",
                s->name, what, (long long)i, a[i], b[i]);
}
