/* Running statistics pooled over micro-batches: ek_module_begin_pooling(), ek_module_commit_statistics(). */
#include "support_layers.h"

/* Norms with running statistics, and inputs they take: N samples, cut into micro-batches of 4, 4, 3. */
enum { SAMPLES = 11, CHANNELS = 3 };
static const int64_t cuts[] = {0, 4, 8, SAMPLES};
enum { MICRO_BATCHES = sizeof cuts / sizeof *cuts - 1 };

typedef enum norm_choice { BN_ROWS, BN_1D, BN_2D, BN_3D, BN_LAST, BN_LENGTHS, IN_2D, SN_2D, SN_REFERENCE } norm_choice;
enum { NORMS = SN_REFERENCE + 1 };

static ek_module *make(norm_choice which, ek_dtype dtype)
{
    ek_batch_norm_opts bn = ek_batch_norm_opts_default();
    ek_instance_norm_opts in = ek_instance_norm_opts_default();
    ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
    in.track_running_stats = true;
    bn.channel_axis = which == BN_LAST ? EK_CHANNELS_LAST : 1;
    sn.reference = which == SN_REFERENCE;
    ek_module *module = which == IN_2D                           ? ek_instance_norm2d(CHANNELS, &in)
                        : which == SN_2D || which == SN_REFERENCE ? ek_switchable_norm2d(CHANNELS, &sn)
                        : which == BN_2D                         ? ek_batch_norm2d(CHANNELS, &bn)
                        : which == BN_3D                         ? ek_batch_norm3d(CHANNELS, &bn)
                                                                 : ek_batch_norm1d(CHANNELS, &bn);
    ck_made(module);
    ck_ok(ek_module_to(module, dtype));
    return module;
}

/* The same with another number of samples in front. */
static ek_shape shape_of(norm_choice which, int64_t n)
{
    return which == BN_ROWS   ? EK_SHAPE(n, CHANNELS)
           : which == BN_3D   ? EK_SHAPE(n, CHANNELS, 2, 3, 2)
           : which == BN_LAST ? EK_SHAPE(n, 4, CHANNELS)
           : which == BN_1D || which == BN_LENGTHS ? EK_SHAPE(n, CHANNELS, 4)
                                                   : EK_SHAPE(n, CHANNELS, 3, 2);
}

/* Sequences of different length. */
static const int64_t lengths[SAMPLES] = {4, 2, 1, 3, 4, 4, 2, 1, 3, 1, 4};

/* Samples whose mean moves along the batch, so that micro-batches differ. */
static ek_tensor *data_of(norm_choice which, ek_dtype dtype)
{
    ek_tensor *x = normal(EK_F64, shape_of(which, SAMPLES), 5, 3, 7);
    const int64_t size = ek_tensor_numel(x) / SAMPLES;
    for (int64_t i = 0; i < SAMPLES * size; i++)
        ek_data_f64(x)[i] += 2 * (double)(i / size);
    ek_tensor *cast = ek_tensor_cast(x, dtype);
    ek_tensor_free(x);
    return cast;
}

/* Samples first … last − 1. */
static ek_tensor *part(norm_choice which, ek_tensor *x, int64_t first, int64_t last)
{
    const size_t bytes = ek_dtype_size(ek_tensor_dtype(x)) * (size_t)(ek_tensor_numel(x) / SAMPLES);
    ek_tensor *p = ek_from_array(ek_tensor_dtype(x), shape_of(which, last - first),
                                 (const char *)ek_tensor_data(x) + (size_t)first * bytes);
    ck_made(p);
    if (which == BN_LENGTHS)
        ck_ok(ek_tensor_set_lengths(p, lengths + first, last - first, 0, 2));
    return p;
}

static void feed_parts(norm_choice which, ek_module *module, ek_tensor *x, const int64_t *bounds, int n)
{
    for (int k = 0; k < n; k++) {
        ek_tensor *p = part(which, x, bounds[k], bounds[k + 1]);
        feed(module, p);
        ek_tensor_free(p);
    }
}

/* Running statistics agree: double sums of few hundred terms, joined by parts, lose some units of 2⁻⁵³, magnified by
 * κ = |mean|/σ < 8 in the variance; a float32 buffer adds a rounding of each side, one unit of 2⁻²³ apart. */
static void assert_same_statistics(ek_module *a, ek_module *b, ek_dtype dtype)
{
    const double tolerance = dtype == EK_F64 ? 512 * 0x1p-53 : 0x1p-23;
    for (int c = 0; c < CHANNELS; c++) {
        const double mean = state_at(b, "running_mean", c), var = state_at(b, "running_var", c);
        ck_near(state_at(a, "running_mean", c), mean, tolerance * fabs(mean));
        ck_near(state_at(a, "running_var", c), var, tolerance * var);
    }
    ck_assert_double_eq(state_at(a, "num_batches_tracked", 0), state_at(b, "num_batches_tracked", 0));
}

/* Three micro-batches and a commit move as one batch of all; twice, so that the pool is seen to be emptied. */
START_TEST(pooled_micro_batches_are_one_batch)
{
    const norm_choice which = (norm_choice)(_i / 2);
    const ek_dtype dtype = _i % 2 ? EK_F32 : EK_F64;
    ek_module *pooled = make(which, dtype), *plain = make(which, dtype);
    ek_tensor *x = data_of(which, dtype), *all = part(which, x, 0, SAMPLES), *before = copy_state(pooled);
    ck_ok(ek_module_begin_pooling(pooled));
    for (int step = 0; step < 2; step++) {
        feed_parts(which, pooled, x, cuts, MICRO_BATCHES);
        if (step == 0)
            assert_state("before the commit", pooled, before);
        ck_ok(ek_module_commit_statistics(pooled));
        feed(plain, all);
        assert_same_statistics(pooled, plain, dtype);
        ck_assert_double_eq(state_at(pooled, "num_batches_tracked", 0), step + 1);
    }
    ek_tensor *moved = copy_state(pooled);
    ck_ok(ek_module_commit_statistics(pooled)); /* nothing was gathered since */
    assert_state("an empty pool", pooled, moved);
    ek_tensor_free(x);
    ek_tensor_free(all);
    ek_tensor_free(before);
    ek_tensor_free(moved);
    ek_module_free(pooled);
    ek_module_free(plain);
}
END_TEST

/* Against sums over all elements, and against what moving with every micro-batch gives. */
START_TEST(the_statistics_are_those_of_all_elements)
{
    ek_module *pooled = make(BN_LENGTHS, EK_F64), *each = make(BN_LENGTHS, EK_F64);
    ek_tensor *x = data_of(BN_LENGTHS, EK_F64);
    ck_ok(ek_module_begin_pooling(pooled));
    feed_parts(BN_LENGTHS, pooled, x, cuts, MICRO_BATCHES);
    feed_parts(BN_LENGTHS, each, x, cuts, MICRO_BATCHES);
    ck_ok(ek_module_commit_statistics(pooled));
    for (int c = 0; c < CHANNELS; c++) {
        long double sum = 0, square = 0;
        int64_t k = 0;
        for (int pass = 0; pass < 2; pass++)
            for (int n = 0; n < SAMPLES; n++)
                for (int64_t l = 0; l < lengths[n]; l++) {
                    const long double value = ek_tensor_at(x, (n * CHANNELS + c) * 4 + l);
                    sum += pass ? 0 : value;
                    k += !pass;
                    square += pass ? (value - sum / k) * (value - sum / k) : 0;
                }
        const double mean = (double)(0.1L * sum / k), var = (double)(0.9L + 0.1L * square / (k - 1));
        ck_near(state_at(pooled, "running_mean", c), mean, 512 * 0x1p-53 * mean);
        ck_near(state_at(pooled, "running_var", c), var, 512 * 0x1p-53 * var);
        ck_assert(state_at(each, "running_mean", c) > 2 * mean); /* moved three times */
    }
    ek_tensor_free(x);
    ek_module_free(pooled);
    ek_module_free(each);
}
END_TEST

/* One micro-batch and a commit are a batch, bit for bit; so is a forward after end_pooling. */
START_TEST(one_micro_batch_is_a_batch)
{
    const norm_choice which = (norm_choice)_i;
    ek_module *pooled = make(which, EK_F32), *plain = make(which, EK_F32);
    ek_tensor *x = data_of(which, EK_F32), *all = part(which, x, 0, SAMPLES);
    ck_ok(ek_module_begin_pooling(pooled));
    feed(pooled, all);
    ck_ok(ek_module_commit_statistics(pooled));
    feed(plain, all);
    ek_tensor *expected = copy_state(plain);
    assert_state("one micro-batch", pooled, expected);
    feed(pooled, all); /* is thrown away */
    ck_ok(ek_module_end_pooling(pooled));
    assert_state("after end_pooling", pooled, expected);
    feed(pooled, all);
    feed(plain, all);
    ek_tensor_free(expected);
    expected = copy_state(plain);
    assert_state("moving at once again", pooled, expected);
    ek_tensor_free(expected);
    ek_tensor_free(x);
    ek_tensor_free(all);
    ek_module_free(pooled);
    ek_module_free(plain);
}
END_TEST

/* Pooling changes no output and no gradient: each micro-batch goes by its own statistics; evaluation by the running. */
START_TEST(normalization_stays_the_same)
{
    const norm_choice which = (norm_choice)_i;
    ek_module *pooled = make(which, EK_F32), *plain = make(which, EK_F32);
    ek_tensor *x = data_of(which, EK_F32), *p = part(which, x, 0, 4);
    ck_ok(ek_module_begin_pooling(pooled));
    ek_tensor *a = apply_layer(pooled, p), *b = apply_layer(plain, p);
    ck_assert(ek_tensor_equal(a, b));
    ck_ok(ek_module_commit_statistics(pooled));
    ek_tensor *before = copy_state(pooled);
    ek_module_eval(pooled);
    ek_module_eval(plain);
    ek_tensor *c = apply_layer(pooled, p), *d = apply_layer(plain, p);
    ck_assert(ek_tensor_equal(c, d));
    ck_ok(ek_module_commit_statistics(pooled));
    assert_state("evaluation gathers nothing", pooled, before);
    ck_ok(ek_module_set_norm_statistics(pooled, EK_STATS_FROZEN));
    ek_module_train(pooled);
    feed(pooled, p);
    ck_ok(ek_module_commit_statistics(pooled));
    assert_state("frozen statistics gather nothing", pooled, before);
    ek_tensor *all[] = {x, p, a, b, c, d, before};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ek_tensor_free(all[i]);
    ek_module_free(pooled);
    ek_module_free(plain);
}
END_TEST

/* A forward that fails behind the norm, one that is not finite, and one thrown away add nothing. */
START_TEST(what_adds_nothing)
{
    const norm_choice which = (norm_choice)_i;
    ek_module *norm = make(which, EK_F32), *plain = make(which, EK_F32);
    ek_module *net = ek_sequential(norm, ek_flatten_layer(), ek_linear(1, 2, NULL)); /* which does not fit */
    ek_tensor *x = data_of(which, EK_F32), *p = part(which, x, 4, 8), *bad = part(which, x, 0, 4);
    ek_data_f32(bad)[0] = NAN;
    ck_ok(ek_module_begin_pooling(net));
    assert_forward_fails(EK_ERR_SHAPE, "[in layer \"2\"", net, p);
    ck_ok(ek_module_commit_statistics(net));
    ck_assert_double_eq(state_at(norm, "num_batches_tracked", 0), 0);
    ek_clear_warning();
    feed(norm, bad);
    ck_assert_int_eq(ek_module_non_finite_batches(net), 1);
    ck_assert_ptr_nonnull(strstr(ek_last_warning(), "are not finite; the running ones were left as they were"));
    feed(norm, bad);
    ck_ok(ek_module_begin_pooling(norm)); /* nothing that was gathered stays */
    feed(norm, p);
    feed(norm, bad);
    ck_ok(ek_module_commit_statistics(net));
    feed(plain, p);
    ek_tensor *expected = copy_state(plain);
    assert_state("the good one alone", norm, expected);
    ek_tensor_free(expected);
    ek_tensor_free(x);
    ek_tensor_free(p);
    ek_tensor_free(bad);
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

/* Each micro-batch fits float32, but not the variance between them. */
START_TEST(a_pool_that_is_not_finite_is_not_committed)
{
    ek_module *bn = ek_batch_norm1d(1, NULL);
    ek_tensor *low = F32(EK_SHAPE(2, 1), -1e20f, -1e20f), *high = F32(EK_SHAPE(2, 1), 1e20f, 1e20f);
    ek_tensor *before = copy_state(bn);
    ck_ok(ek_module_begin_pooling(bn));
    feed(bn, low);
    feed(bn, high);
    ck_assert_int_eq(ek_module_non_finite_batches(bn), 0);
    ck_ok(ek_module_commit_statistics(bn));
    assert_state("a pool beyond float32", bn, before);
    ck_assert_int_eq(ek_module_non_finite_batches(bn), 1);
    feed(bn, low);
    ck_ok(ek_module_commit_statistics(bn)); /* the refused one is gone */
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 1);
    ek_tensor_free(low);
    ek_tensor_free(high);
    ek_tensor_free(before);
    ek_module_free(bn);
}
END_TEST

/* Lengths may leave a micro-batch one element: it counts as one of the pool, and alone moves nothing. */
START_TEST(single_elements)
{
    ek_module *bn = ek_batch_norm1d(1, NULL);
    const int64_t one[] = {1};
    ek_tensor *a = F32(EK_SHAPE(1, 1, 2), 3, 99), *b = F32(EK_SHAPE(1, 1, 2), 7, 99);
    ck_ok(ek_tensor_set_lengths(a, one, 1, 0, 2));
    ck_ok(ek_tensor_set_lengths(b, one, 1, 0, 2));
    ck_ok(ek_module_begin_pooling(bn));
    feed(bn, a);
    ck_ok(ek_module_commit_statistics(bn));
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 0);
    feed(bn, a);
    feed(bn, b);
    ck_ok(ek_module_commit_statistics(bn)); /* mean 5, unbiased variance 8 */
    ck_near(state_at(bn, "running_mean", 0), 0.5, 0x1p-24);
    ck_near(state_at(bn, "running_var", 0), 1.7, 0x1p-23);
    ek_tensor_free(a);
    ek_tensor_free(b);
    ek_module_free(bn);
}
END_TEST

START_TEST(init_throws_the_pool_away)
{
    ek_module *bn = make(BN_1D, EK_F32);
    ek_tensor *x = data_of(BN_1D, EK_F32);
    ck_ok(ek_module_begin_pooling(bn));
    feed(bn, x);
    ck_ok(ek_module_init(bn, 3));
    ek_tensor *before = copy_state(bn);
    ck_ok(ek_module_commit_statistics(bn));
    assert_state("after ek_module_init", bn, before);
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_module_free(bn);
}
END_TEST

START_TEST(thread_counts_do_not_matter)
{
    static const int threads[] = {1, 2, 3, 8};
    ek_tensor *first = NULL;
    for (int t = 0; t < 4; t++) {
        ck_ok(ek_set_num_threads(threads[t]));
        ek_module *bn = ek_batch_norm2d(5, NULL);
        ck_ok(ek_module_begin_pooling(bn));
        for (uint64_t k = 0; k < 3; k++) {
            ek_tensor *x = normal(EK_F32, EK_SHAPE(7, 5, 40, 30), 3, 2, k);
            feed(bn, x);
            ek_tensor_free(x);
        }
        ck_ok(ek_module_commit_statistics(bn));
        if (first)
            assert_state("another number of threads", bn, first);
        else
            first = copy_state(bn);
        ek_module_free(bn);
    }
    ek_tensor_free(first);
}
END_TEST

/* What a recurrent layer normalizes of its input does not depend on how the batch is cut: its statistics per step are
 * those of the whole batch. */
START_TEST(recurrent_batch_norm_pools_each_step)
{
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = EK_RECURRENT_BATCH_NORM;
    opts.max_steps = 4;
    ek_module *pooled = ek_lstm(CHANNELS, 2, EK_BATCH_FIRST, &opts);
    ek_module *plain = ek_lstm(CHANNELS, 2, EK_BATCH_FIRST, &opts);
    ck_ok(ek_module_to(pooled, EK_F64));
    ck_ok(ek_module_to(plain, EK_F64));
    ek_tensor *x = data_of(BN_LAST, EK_F64), *before = copy_state(pooled);
    ck_ok(ek_module_begin_pooling(pooled));
    feed_parts(BN_LAST, pooled, x, cuts, MICRO_BATCHES);
    assert_state("before the commit", pooled, before);
    ck_ok(ek_module_commit_statistics(pooled));
    feed(plain, x);
    for (int64_t i = 0; i < 4 * 8; i++) {
        const double mean = state_at(plain, "running_mean_ih_l0", i), var = state_at(plain, "running_var_ih_l0", i);
        ck_near(state_at(pooled, "running_mean_ih_l0", i), mean, 512 * 0x1p-53 * (fabs(mean) + sqrt(var)));
        ck_near(state_at(pooled, "running_var_ih_l0", i), var, 512 * 0x1p-53 * var);
    }
    for (int64_t step = 0; step < 4; step++)
        ck_assert_double_eq(state_at(pooled, "num_batches_tracked_l0", step), 1);
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_module_free(pooled);
    ek_module_free(plain);
}
END_TEST

START_TEST(what_cannot_be_pooled)
{
    ek_module *bn = ek_batch_norm1d(3, NULL), *none = ek_group_norm(1, 3, NULL), *net = ek_sequential(bn);
    ck_assert_int_eq(ek_module_begin_pooling(NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "begin_pooling: the module is NULL");
    ck_assert_int_eq(ek_module_commit_statistics(NULL), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_module_end_pooling(NULL), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_module_begin_pooling(none), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "begin_pooling: no norm with running statistics at or below group_norm(1, 3)");
    ck_assert_int_eq(ek_module_commit_statistics(none), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_module_commit_statistics(net), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "commit_statistics: no norm at or below sequential pools its statistics: call "
                           "ek_module_begin_pooling() before the first micro-batch");
    ck_assert_int_eq(ek_module_end_pooling(net), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "end_pooling: no norm at or below");
    ck_ok(ek_module_begin_pooling(bn));
    ck_ok(ek_module_commit_statistics(net));
    ek_module_free(net);
    ek_module_free(none);
}
END_TEST

static ek_status use_pools(void)
{
    ek_module *net = ek_sequential(ek_batch_norm1d(2, NULL), ek_batch_norm1d(2, NULL));
    ek_status status = net ? ek_module_begin_pooling(net) : EK_ERR_MEMORY;
    if (net && status != EK_OK) /* none of the two began */
        ck_assert_int_eq(ek_module_commit_statistics(net), EK_ERR_STATE);
    ek_module_free(net);
    return status;
}

START_TEST(memory_runs_out)
{
    ck_assert_int_gt(assert_survives_refusals(use_pools), 2);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pooled statistics");
    TCase *tcase = tcase_create("pooled statistics");
    tcase_add_loop_test(tcase, pooled_micro_batches_are_one_batch, 0, 2 * NORMS);
    tcase_add_test(tcase, the_statistics_are_those_of_all_elements);
    tcase_add_loop_test(tcase, one_micro_batch_is_a_batch, 0, NORMS);
    tcase_add_loop_test(tcase, normalization_stays_the_same, 0, NORMS);
    tcase_add_loop_test(tcase, what_adds_nothing, 0, NORMS);
    tcase_add_test(tcase, a_pool_that_is_not_finite_is_not_committed);
    tcase_add_test(tcase, single_elements);
    tcase_add_test(tcase, init_throws_the_pool_away);
    tcase_add_test(tcase, thread_counts_do_not_matter);
    tcase_add_test(tcase, recurrent_batch_norm_pools_each_step);
    tcase_add_test(tcase, what_cannot_be_pooled);
    tcase_add_test(tcase, memory_runs_out);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
