/* ek_batch_norm_recalibrate: statistics over several batches are those of one batch that holds them all, and nothing
 * else moves. */
#include "support_layers.h"

/* Batches that are handed out one by one. */
typedef struct feeder {
    ek_tensor *batch[6];
    int n, next;
    int fails_at; /* the callback fails by itself there; −1: never */
} feeder;

static ek_tensor *next_batch(void *user)
{
    feeder *f = user;
    if (f->next == f->fails_at) {
        ek_fail(EK_ERR_IO, "the disk is gone");
        return NULL;
    }
    return f->next < f->n ? f->batch[f->next++] : NULL;
}

static void free_feeder(feeder *f)
{
    for (int i = 0; i < f->n; i++)
        ek_tensor_free(f->batch[i]);
}

/* Rows of `all` (axis 0) cut into batches of these sizes. */
static feeder cut(const ek_tensor *all, const int64_t *sizes, int n)
{
    feeder f = {.n = n, .fails_at = -1};
    ek_shape shape = ek_tensor_shape(all);
    const int64_t row = ek_tensor_numel(all) / shape.dim[0];
    const char *from = ek_tensor_const_data(all);
    for (int i = 0; i < n; i++) {
        shape.dim[0] = sizes[i];
        f.batch[i] = ek_from_array(ek_tensor_dtype(all), shape, from);
        ck_made(f.batch[i]);
        from += (size_t)(sizes[i] * row) * ek_dtype_size(ek_tensor_dtype(all));
    }
    return f;
}

enum { CHANNELS = 3, KINDS = 4 };
/* BatchNorm, tracked InstanceNorm, SwitchableNorm, and that as published; momentum 1: what the last batch was. */
static ek_module *make_norm(int kind, bool sequence)
{
    ek_batch_norm_opts bn = ek_batch_norm_opts_default();
    ek_instance_norm_opts in = ek_instance_norm_opts_default();
    ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
    in.track_running_stats = true;
    sn.reference = kind == 3;
    bn.momentum = in.momentum = sn.momentum = 1;
    bn.channel_axis = in.channel_axis = sn.channel_axis = sequence ? EK_CHANNELS_LAST : 1;
    ek_module *module = kind == 0   ? (sequence ? ek_batch_norm1d(CHANNELS, &bn) : ek_batch_norm2d(CHANNELS, &bn))
                        : kind == 1 ? (sequence ? ek_instance_norm1d : ek_instance_norm2d)(CHANNELS, &in)
                                    : (sequence ? ek_switchable_norm_sequence : ek_switchable_norm2d)(CHANNELS, &sn);
    ck_made(module);
    return module;
}

/* Both sums are in double, in another order.  A sum of n terms in lanes and pieces, folded by trees, is off by at most
 * some 20 roundings of the sum of its terms' sizes for the sizes here, on either side; the mean's terms are of size
 * |m| + 3σ at most, and a mean that is off by δ changes the variance by δ² only.  So 40·2⁻⁵³, relative to |m| + 3σ and
 * to v.  Rounding either to float32 is one more neighbour. */
static void assert_same_statistics(const char *what, ek_module *module, ek_module *expected, const char *mean,
                                   const char *var, bool f64)
{
    const ek_tensor *m = ek_module_buffer(module, mean), *v = ek_module_buffer(module, var);
    const ek_tensor *em = ek_module_buffer(expected, mean), *ev = ek_module_buffer(expected, var);
    ck_assert(m && v && em && ev);
    const double u = f64 ? 0 : ldexp(1, -23), sums = 40 * ldexp(1, -53);
    for (int64_t i = 0; i < ek_tensor_numel(m); i++) {
        const double mi = ek_tensor_at(em, i), vi = ek_tensor_at(ev, i);
        ck_each(fabs(ek_tensor_at(m, i) - mi) <= u * fabs(mi) + sums * (fabs(mi) + 3 * sqrt(vi)),
                "%s: mean %lld is %.17g, expected %.17g", what, (long long)i, ek_tensor_at(m, i), mi);
        ck_each(fabs(ek_tensor_at(v, i) - vi) <= (u + sums) * vi, "%s: variance %lld is %.17g, expected %.17g", what,
                (long long)i, ek_tensor_at(v, i), vi);
    }
}

START_TEST(batches_of_any_size_are_as_good_as_one)
{
    const int64_t sizes[] = {5, 1, 9, 2};
    for (int f64 = 0; f64 < 2; f64++) {
        ek_module *one = make_norm(_i, false), *many = make_norm(_i, false);
        if (f64) {
            ck_ok(ek_module_to(one, EK_F64));
            ck_ok(ek_module_to(many, EK_F64));
        }
        ek_tensor *all = normal(f64 ? EK_F64 : EK_F32, EK_SHAPE(17, CHANNELS, 4, 5), 3, 2, 7);
        feeder f = cut(all, sizes, 4);
        feed(many, f.batch[1]); /* what was there before does not matter */
        feed(one, all);
        ck_ok(ek_batch_norm_recalibrate(many, next_batch, &f, 100));
        assert_same_statistics("in batches", many, one, "running_mean", "running_var", f64);
        ck_assert_double_eq(state_at(many, "num_batches_tracked", 0), 4);
        ck_assert(ek_module_is_training(many));
        free_feeder(&f);
        ek_tensor_free(all);
        ek_module_free(one);
        ek_module_free(many);
    }
}
END_TEST

/* The definitions themselves: `mean` and `var` of channel c of (n, CHANNELS, size) numbers. */
static void statistics_by_definition(int kind, const ek_tensor *x, int64_t n, int64_t size, int64_t c,
                                     long double *mean, long double *var)
{
    long double total = 0, squares = 0, within = 0, between = 0;
    for (int64_t i = 0; i < n * size; i++)
        total += ek_tensor_at(x, (i / size * CHANNELS + c) * size + i % size);
    *mean = total / (long double)(n * size);
    for (int64_t sample = 0; sample < n; sample++) {
        long double own = 0;
        for (int64_t i = 0; i < size; i++)
            own += ek_tensor_at(x, (sample * CHANNELS + c) * size + i) / (long double)size;
        between += (own - *mean) * (own - *mean);
        for (int64_t i = 0; i < size; i++) {
            const long double value = ek_tensor_at(x, (sample * CHANNELS + c) * size + i);
            within += (value - own) * (value - own) / (long double)(size - 1);
            squares += (value - *mean) * (value - *mean);
        }
    }
    *var = kind == 1   ? within / (long double)n             /* the mean of the samples' variances */
           : kind == 3 ? (within + between) / (long double)n /* as published: v and (m − m_bn)² over samples */
                       : squares / (long double)(n * size - 1);
}

START_TEST(the_statistics_are_those_of_all_elements)
{
    enum { N = 7, S = 6 };
    ek_module *norm = make_norm(_i, false);
    ck_ok(ek_module_to(norm, EK_F64));
    ek_tensor *all = normal(EK_F64, EK_SHAPE(N, CHANNELS, 2, 3), -40, 1, 3);
    feeder f = cut(all, (const int64_t[]){1, 6}, 2);
    ck_ok(ek_batch_norm_recalibrate(norm, next_batch, &f, 2));
    for (int c = 0; c < CHANNELS; c++) {
        long double mean, var;
        statistics_by_definition(_i, all, N, S, c, &mean, &var);
        /* 42 terms: fewer roundings than 40, each of a term of size 44 or 16 at most */
        ck_near(state_at(norm, "running_mean", c), (double)mean, 40 * ldexp(44, -53));
        ck_near(state_at(norm, "running_var", c), (double)var, 40 * ldexp(16, -53));
    }
    free_feeder(&f);
    ek_tensor_free(all);
    ek_module_free(norm);
}
END_TEST

/* What a norm passes on was normalized by the batch, whatever its running statistics are and which it uses. */
START_TEST(batch_statistics_are_used)
{
    ek_module *net = ek_sequential(make_norm(0, false), make_norm(0, false));
    ek_tensor *x = normal(EK_F64, EK_SHAPE(4, CHANNELS, 4, 5), 9, 4, 2);
    feeder f = cut(x, (const int64_t[]){4}, 1);
    ck_ok(ek_module_to(net, EK_F64));
    ck_ok(ek_module_set_norm_statistics(net, (ek_norm_statistics)_i));
    ck_ok(ek_batch_norm_recalibrate(net, next_batch, &f, 1));
    for (int c = 0; c < CHANNELS; c++) { /* 80 elements; eps is small beside a variance of about 16 */
        ck_near(state_at(net, "1.running_mean", c), 0, 1e-13);
        ck_near(state_at(net, "1.running_var", c), 80. / 79, 1e-5);
    }
    free_feeder(&f);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* (n, steps, CHANNELS) of valid numbers that depend on the sequence alone, and garbage in the padding. */
static ek_tensor *sequences(const int64_t *lengths, int64_t first, int64_t n, int64_t steps, double garbage)
{
    ek_tensor *x = ek_full(EK_F64, EK_SHAPE(n, steps, CHANNELS), garbage);
    ck_made(x);
    for (int64_t i = 0; i < n; i++) {
        ek_rng rng = ek_rng_seed((uint64_t)(first + i));
        for (int64_t k = 0; k < lengths[first + i] * CHANNELS; k++)
            ek_data_f64(x)[i * steps * CHANNELS + k] = 2 + 3 * ek_rng_normal(&rng);
    }
    ck_ok(ek_tensor_set_lengths(x, lengths + first, n, 0, 1));
    return x;
}

START_TEST(padding_enters_nothing)
{
    const int64_t lengths[] = {4, 2, 5, 1, 3, 7}; /* the fourth is a batch of one valid step */
    feeder f = {.n = 3, .fails_at = -1};
    f.batch[0] = sequences(lengths, 0, 3, 5, 1e6);
    f.batch[1] = sequences(lengths, 3, 1, 2, -1e9);
    f.batch[2] = sequences(lengths, 4, 2, 9, NAN);
    ek_tensor *all = sequences(lengths, 0, 6, 7, 5);
    ek_module *one = make_norm(_i, true), *many = make_norm(_i, true);
    ck_ok(ek_module_to(one, EK_F64));
    ck_ok(ek_module_to(many, EK_F64));
    feed(one, all);
    ck_ok(ek_batch_norm_recalibrate(many, next_batch, &f, 3));
    assert_same_statistics("with lengths", many, one, "running_mean", "running_var", true);
    ck_assert_double_eq(state_at(many, "num_batches_tracked", 0), 3);
    free_feeder(&f);
    ek_tensor_free(all);
    ek_module_free(one);
    ek_module_free(many);
}
END_TEST

/* W_ih·x does not depend on the state, so its statistics are exact at each step, of each direction. */
START_TEST(recurrent_layers_step_by_step)
{
    const int64_t lengths[] = {4, 2, 5, 5, 3, 5};
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.max_steps = 6;
    opts.momentum = 1;
    opts.bidirectional = true;
    opts.num_layers = 2;
    opts.dropout = 0.5;
    ek_module *one = ek_lstm(CHANNELS, 4, EK_BATCH_FIRST, &opts), *many = ek_lstm(CHANNELS, 4, EK_BATCH_FIRST, &opts);
    ck_ok(ek_module_to(one, EK_F64));
    ck_ok(ek_module_to(many, EK_F64));
    feeder f = {.n = 2, .fails_at = -1};
    f.batch[0] = sequences(lengths, 0, 3, 5, 1e6); /* only one of these has a fifth step */
    f.batch[1] = sequences(lengths, 3, 3, 6, NAN);
    ek_tensor *all = sequences(lengths, 0, 6, 5, 0);
    feed(one, all);
    ck_ok(ek_batch_norm_recalibrate(many, next_batch, &f, 2));
    for (int64_t s = 0; s < 6; s++) {
        ck_assert_double_eq(state_at(many, "num_batches_tracked_l0", s), s < 4 ? 2 : s < 5 ? 1 : 0);
        ck_assert_double_eq(state_at(many, "num_batches_tracked_l1_reverse", s), s < 4 ? 2 : s < 5 ? 1 : 0);
    }
    for (int64_t i = 0; i < 6 * 16; i++) /* the fifth step is that of the second batch, the sixth as at first */
        for (int reverse = 0; reverse < 2; reverse++) {
            const char *mean = reverse ? "running_mean_ih_l0_reverse" : "running_mean_ih_l0";
            const char *var = reverse ? "running_var_ih_l0_reverse" : "running_var_ih_l0";
            const double m = state_at(one, mean, i), v = state_at(one, var, i), now = state_at(many, var, i);
            if (i < 4 * 16) { /* as above, and a product of three terms on either side */
                ck_near(state_at(many, mean, i), m, 50 * ldexp(fabs(m) + 3 * sqrt(v), -53));
                ck_near(now, v, 100 * ldexp(v, -53));
            } else {
                ck_each((now == 1) == (i >= 5 * 16), "variance %lld is %g", (long long)i, now);
            }
        }
    ck_assert_double_ne(state_at(many, "running_var_c_l1", 0), 1);
    free_feeder(&f);
    ek_tensor_free(all);
    ek_module_free(one);
    ek_module_free(many);
}
END_TEST

/* Over a single batch every site of every step is what a forward in training finds. */
START_TEST(recurrent_layers_use_the_batch)
{
    const int64_t lengths[] = {4, 2, 5, 5};
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.max_steps = 5;
    opts.momentum = 1;
    ek_module *one = ek_lstm(CHANNELS, 4, EK_BATCH_FIRST, &opts), *other = ek_lstm(CHANNELS, 4, EK_BATCH_FIRST, &opts);
    ck_ok(ek_module_to(one, EK_F64));
    ck_ok(ek_module_to(other, EK_F64));
    feeder f = {.n = 1, .fails_at = -1};
    f.batch[0] = sequences(lengths, 0, 4, 5, NAN);
    feed(one, f.batch[0]);
    ck_ok(ek_batch_norm_recalibrate(other, next_batch, &f, 1));
    ek_tensor *expected = copy_state(one), *state = copy_state(other);
    assert_close("one batch", state, expected, 4 * ldexp(1, -53), 0); /* SS/(K − 1) in another order of factors */
    ek_tensor_free(expected);
    ek_tensor_free(state);
    free_feeder(&f);
    ek_module_free(one);
    ek_module_free(other);
}
END_TEST

/* ---- what does not move ------------------------------------------------------------------------------------------ */

static ek_module *deep_net(void)
{
    ek_module *net = ek_sequential(
        ek_conv2d_layer(2, 4, 3, NULL), ek_batch_norm2d(4, NULL), ek_relu_layer(),
        ek_residual(ek_sequential(ek_switchable_norm2d(4, NULL), ek_dropout_layer(0.5))), ek_flatten_layer(),
        ek_linear(16, 5, NULL), ek_dropout_layer(0.3), ek_batch_norm1d(5, NULL));
    ck_made(net);
    return net;
}

static ek_status keep_parameter(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name;
    double *sum = user;
    for (int64_t i = 0; kind == EK_PARAMETER && i < ek_tensor_numel(tensor); i++)
        *sum += (double)(i + 1) * ek_tensor_at(tensor, i);
    return EK_OK;
}

START_TEST(nothing_but_statistics_moves)
{
    ek_module *net = deep_net(), *twin = deep_net();
    ek_tensor *all = normal(EK_F32, EK_SHAPE(9, 2, 4, 4), 1, 2, 1);
    feeder f = cut(all, (const int64_t[]){4, 5}, 2);
    feed(net, f.batch[0]);
    feed(twin, f.batch[0]);
    ek_module_eval(ek_module_child(net, 6)); /* a mode of its own */
    ek_module_eval(ek_module_child(twin, 6));
    ck_ok(ek_module_set_norm_statistics(ek_module_child(net, 1), EK_STATS_RUNNING));
    double before = 0, after = 0;
    ck_ok(ek_module_visit(net, keep_parameter, &before));
    ck_ok(ek_batch_norm_recalibrate(net, next_batch, &f, 2));
    ck_ok(ek_module_visit(net, keep_parameter, &after));
    ck_assert(before == after);
    ck_assert(ek_module_is_training(net) && !ek_module_is_training(ek_module_child(net, 6)));
    ck_assert(ek_module_is_training(ek_module_child(ek_module_child(ek_module_child(net, 3), 0), 1)));
    for (int layer = 1; layer < 8; layer += 6) {
        char name[40];
        snprintf(name, sizeof name, "%d.running_mean", layer);
        ck_assert_double_ne(state_at(net, name, 0), state_at(twin, name, 0));
    }
    ck_assert_double_ne(state_at(net, "3.0.0.running_mean", 0), state_at(twin, "3.0.0.running_mean", 0));
    /* the choice is still there: evaluation and training give the same behind the first norm, and dropout draws what
     * it would have drawn */
    ck_ok(ek_module_set_norm_statistics(ek_module_child(twin, 1), EK_STATS_BATCH));
    ek_tensor *by_running = apply_layer(net, f.batch[1]), *by_batch = apply_layer(twin, f.batch[1]);
    ck_assert(!ek_tensor_equal(by_running, by_batch));
    ck_ok(ek_module_set_norm_statistics(net, EK_STATS_BATCH));
    ek_tensor *y = apply_layer(net, f.batch[1]), *expected = apply_layer(twin, f.batch[1]);
    ck_assert(ek_tensor_equal(y, expected));
    ek_tensor *tensors[] = {by_running, by_batch, y, expected, all};
    for (int i = 0; i < 5; i++)
        ek_tensor_free(tensors[i]);
    free_feeder(&f);
    ek_module_free(net);
    ek_module_free(twin);
}
END_TEST

START_TEST(frozen_norms_and_those_not_reached_keep_theirs)
{
    ek_module *frozen = make_norm(0, false), *free_one = make_norm(0, false);
    ek_module *net = ek_sequential(frozen, free_one);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, CHANNELS, 2, 2), 5, 2, 1);
    feeder f = cut(x, (const int64_t[]){4}, 1);
    ck_ok(ek_module_set_norm_statistics(frozen, EK_STATS_FROZEN));
    ek_tensor *before = copy_state(frozen);
    ck_ok(ek_batch_norm_recalibrate(net, next_batch, &f, 1));
    assert_state("a frozen norm", frozen, before);
    ck_assert_double_gt(state_at(free_one, "running_mean", 0), 3); /* it saw what the frozen one passes on */
    ek_tensor_free(before);
    free_feeder(&f);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(statistics_that_are_not_finite_are_mended)
{
    ek_module *norm = make_norm(0, false);
    ck_ok(ek_tensor_write(ek_module_buffer(norm, "running_var"), (const float[]){NAN, INFINITY, -1}, 12));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, CHANNELS, 2, 2), 5, 2, 1);
    feeder f = cut(x, (const int64_t[]){4}, 1);
    ck_ok(ek_batch_norm_recalibrate(norm, next_batch, &f, 1));
    for (int c = 0; c < CHANNELS; c++)
        ck_assert(state_at(norm, "running_var", c) > 0 && isfinite(state_at(norm, "running_var", c)));
    free_feeder(&f);
    ek_tensor_free(x);
    ek_module_free(norm);
}
END_TEST

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void assert_refused(ek_module *net, feeder *f, ek_status status, const char *text)
{
    ek_tensor *before = copy_state(net);
    ek_clear_error();
    ck_assert_int_eq(ek_batch_norm_recalibrate(net, next_batch, f, 6), status);
    ck_error(status, text);
    assert_state(text, net, before);
    ck_assert(ek_module_is_training(net));
    ek_tensor_free(before);
}

START_TEST(bad_arguments)
{
    feeder f = {.fails_at = -1};
    ek_module *net = make_norm(0, false), *plain = ek_sequential(ek_relu_layer(), ek_layer_norm(EK_SHAPE(3), NULL));
    ck_assert_int_eq(ek_batch_norm_recalibrate(NULL, next_batch, &f, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_recalibrate: the module is NULL");
    ck_assert_int_eq(ek_batch_norm_recalibrate(net, NULL, &f, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_recalibrate: the function is NULL");
    ck_assert_int_eq(ek_batch_norm_recalibrate(net, next_batch, &f, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_recalibrate: expected 1 batch or more, got 0");
    assert_refused(plain, &f, EK_ERR_ARGUMENT, "batch_norm_recalibrate: no norm with running statistics that may move "
                                               "(EK_STATS_FROZEN) at or below sequential");
    assert_refused(net, &f, EK_ERR_ARGUMENT, "batch_norm_recalibrate: next_batch gave no batch at all");
    ck_ok(ek_module_set_norm_statistics(net, EK_STATS_FROZEN));
    assert_refused(net, &f, EK_ERR_ARGUMENT, "no norm with running statistics that may move");
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

START_TEST(whatever_fails_nothing_has_changed)
{
    ek_module *net = ek_sequential(make_norm(0, false), ek_relu_layer(), make_norm(0, false));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(8, CHANNELS, 2, 2), 5, 2, 1);
    feeder f = cut(x, (const int64_t[]){4, 4}, 2);
    feed(net, x);
    f.fails_at = 1;
    assert_refused(net, &f, EK_ERR_IO, "the disk is gone");
    f.fails_at = -1;
    f.next = 0;
    ek_tensor *good = f.batch[1];
    f.batch[1] = normal(EK_F32, EK_SHAPE(4, CHANNELS + 1, 2, 2), 0, 1, 1);
    assert_refused(net, &f, EK_ERR_SHAPE, "batch_norm_recalibrate: batch 1: batch_norm2d(3): expected (N, 3, H, W), "
                                          "got (4, 4, 2, 2) [in layer \"0\": batch_norm2d(3)]");
    ek_tensor_free(f.batch[1]);
    f.batch[1] = good;
    ek_data_f32(good)[5] = INFINITY;
    f.next = 0;
    assert_refused(net, &f, EK_ERR_ARGUMENT, "batch_norm_recalibrate: batch_norm2d(3) in layer \"0\": with batch 1 the "
                                             "statistics are not finite; nothing was changed");
    ek_data_f32(good)[5] = 3e38f; /* a variance that float32 cannot hold */
    f.next = 0;
    assert_refused(net, &f, EK_ERR_ARGUMENT, "with batch 1 the statistics are not finite");
    ck_assert_int_eq((int)ek_module_non_finite_batches(net), 0);
    ek_data_f32(good)[5] = 3;
    f.next = 0;
    ck_ok(ek_batch_norm_recalibrate(net, next_batch, &f, 2));
    ck_assert_double_eq(state_at(net, "0.num_batches_tracked", 0), 2);
    free_feeder(&f);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(a_single_value_has_no_variance)
{
    const int64_t length = 1;
    feeder f = {.n = 1, .fails_at = -1};
    f.batch[0] = sequences(&length, 0, 1, 3, 0);
    ek_module *norm = make_norm(0, true);
    ck_ok(ek_module_to(norm, EK_F64));
    assert_refused(norm, &f, EK_ERR_ARGUMENT, "batch_norm_recalibrate: batch_norm1d(3): all batches together have one "
                                              "value per channel, and no variance; nothing was changed");
    free_feeder(&f);
    ek_module_free(norm);
}
END_TEST

typedef struct nested {
    ek_module *net;
    feeder *f;
    ek_status status;
} nested;

static ek_tensor *recalibrate_again(void *user)
{
    nested *n = user;
    n->status = ek_batch_norm_recalibrate(n->net, next_batch, n->f, 1);
    return NULL;
}

START_TEST(not_while_one_is_running)
{
    feeder f = {.fails_at = -1};
    ek_module *net = make_norm(0, false);
    nested n = {net, &f, EK_OK};
    ck_assert_int_eq(ek_batch_norm_recalibrate(net, recalibrate_again, &n, 1), EK_ERR_STATE);
    ck_assert_int_eq(n.status, EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "batch_norm_recalibrate: a recalibration of this net is running already");
    ek_module_free(net);
}
END_TEST

/* Statistics are all there or as they were. */
static ek_status use_recalibrate(void)
{
    ek_module *net = ek_sequential(ek_linear(3, 2, NULL), ek_batch_norm1d(2, NULL), ek_batch_norm1d(2, NULL));
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(2, 3), (const float[]){1, 2, 3, 5, 4, 1});
    feeder f = {.n = 1, .fails_at = -1, .batch = {x}};
    ek_status status = net && x ? ek_module_init(net, 1) : ek_last_status();
    if (status == EK_OK) {
        status = ek_batch_norm_recalibrate(net, next_batch, &f, 3);
        for (int layer = 1; layer < 3; layer++) {
            const ek_tensor *batches = ek_module_buffer(ek_module_child(net, layer), "num_batches_tracked");
            ck_assert_double_eq(ek_item(batches), status == EK_OK);
        }
        ck_assert(ek_module_is_training(net));
    }
    ek_tensor_free(x);
    ek_module_free(net);
    return status;
}

START_TEST(refused_memory)
{
    ck_assert_int_gt((int)assert_survives_refusals(use_recalibrate), 10);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recalibrate");
    TCase *tcase = tcase_create("recalibrate");
    suite_add_tcase(suite, tcase);
    tcase_add_loop_test(tcase, batches_of_any_size_are_as_good_as_one, 0, KINDS);
    tcase_add_loop_test(tcase, the_statistics_are_those_of_all_elements, 0, KINDS);
    tcase_add_loop_test(tcase, batch_statistics_are_used, EK_STATS_AUTO, EK_STATS_RUNNING + 1);
    tcase_add_loop_test(tcase, padding_enters_nothing, 0, KINDS);
    tcase_add_test(tcase, recurrent_layers_step_by_step);
    tcase_add_test(tcase, recurrent_layers_use_the_batch);
    tcase_add_test(tcase, nothing_but_statistics_moves);
    tcase_add_test(tcase, frozen_norms_and_those_not_reached_keep_theirs);
    tcase_add_test(tcase, statistics_that_are_not_finite_are_mended);
    tcase_add_test(tcase, bad_arguments);
    tcase_add_test(tcase, whatever_fails_nothing_has_changed);
    tcase_add_test(tcase, a_single_value_has_no_variance);
    tcase_add_test(tcase, not_while_one_is_running);
    tcase_add_test(tcase, refused_memory);
    return run_suite(suite);
}
