/* Every failure of the norm layers and of ek_normalize: status, message, and nothing has moved. */
#include "support_layers.h"

static ek_tensor *ones(ek_dtype dtype, ek_shape shape)
{
    ek_tensor *x = ek_ones(dtype, shape);
    ck_made(x);
    return x;
}

/* The layer refuses an input of this shape; the layer is freed. */
static void refuses(ek_module *layer, ek_dtype dtype, ek_shape shape, ek_status status, const char *text)
{
    ek_tensor *x = ones(dtype, shape);
    ck_made(layer);
    assert_forward_fails(status, text, layer, x);
    ek_tensor_free(x);
    ek_module_free(layer);
}

static ek_batch_norm_opts last(ek_batch_norm_opts opts)
{
    opts.channel_axis = EK_CHANNELS_LAST;
    return opts;
}

/* ---- constructors ------------------------------------------------------------------------------------------------ */

START_TEST(options_of_norms_over_channels)
{
    ek_module *(*const make[])(int64_t, const ek_batch_norm_opts *) = {ek_batch_norm1d, ek_batch_norm3d,
                                                                       ek_instance_norm2d};
    static const char *const names[] = {"batch_norm1d", "batch_norm3d", "instance_norm2d"};
    const double bad_eps[] = {-1e-5, INFINITY, NAN}, bad_momentum[] = {-0.5, 1.5, NAN};
    for (int k = 0; k < 3; k++) {
        const ek_batch_norm_opts good = ek_batch_norm_opts_default();
        ek_batch_norm_opts opts = good;
        char text[160];
        snprintf(text, sizeof text, "%s: expected num_features ≥ 1, got 0", names[k]);
        ck_refused(EK_ERR_ARGUMENT, text, make[k](0, NULL));
        snprintf(text, sizeof text, "%s: expected num_features ≥ 1, got -3", names[k]);
        ck_refused(EK_ERR_ARGUMENT, text, make[k](-3, NULL));
        for (int i = 0; i < 3; i++) {
            opts = good;
            opts.eps = bad_eps[i];
            snprintf(text, sizeof text, "%s(4): expected a finite eps ≥ 0, got %g", names[k], opts.eps);
            ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
            opts = good;
            opts.momentum = bad_momentum[i];
            snprintf(text, sizeof text, "%s(4): expected a momentum (the update fraction) of 0 … 1 or "
                                        "EK_MOMENTUM_CUMULATIVE, got %g", names[k], opts.momentum);
            ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
        }
        opts = good;
        opts.channel_axis = 2;
        snprintf(text, sizeof text, "%s(4): expected channel_axis 1 or EK_CHANNELS_LAST, got 2", names[k]);
        ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
        opts = good;
        opts.statistics = (ek_norm_statistics)4;
        snprintf(text, sizeof text, "%s(4): expected one of ek_norm_statistics, got 4", names[k]);
        ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
        opts.statistics = (ek_norm_statistics)-1;
        ck_refused(EK_ERR_ARGUMENT, "expected one of ek_norm_statistics, got -1", make[k](4, &opts));
        opts = good;
        opts.track_running_stats = false;
        opts.statistics = EK_STATS_RUNNING;
        snprintf(text, sizeof text,
                 "%s(4): running statistics are to be used, but track_running_stats is off", names[k]);
        ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
        opts.statistics = EK_STATS_FROZEN;
        ck_refused(EK_ERR_ARGUMENT, text, make[k](4, &opts));
        opts.statistics = EK_STATS_BATCH;
        ek_module *fine = make[k](4, &opts);
        ck_made(fine);
        ek_module_free(fine);
    }
}
END_TEST

START_TEST(options_of_the_other_norms)
{
    ek_layer_norm_opts ln = ek_layer_norm_opts_default();
    ek_rms_norm_opts rms = ek_rms_norm_opts_default();
    ek_group_norm_opts gn = ek_group_norm_opts_default();
    ek_switchable_norm_opts sn = ek_switchable_norm_opts_default();
    ln.eps = EK_EPS_MACHINE; /* means something to RMSNorm alone */
    ck_refused(EK_ERR_ARGUMENT, "layer_norm(3): expected a finite eps ≥ 0, got -1", ek_layer_norm(EK_SHAPE(3), &ln));
    rms.eps = -2;
    ck_refused(EK_ERR_ARGUMENT, "rms_norm(3): expected a finite eps ≥ 0, got -2", ek_rms_norm(EK_SHAPE(3), &rms));
    ck_refused(EK_ERR_SHAPE, "layer_norm: expected a normalized_shape of one or more axes of 1 or more, got ()",
               ek_layer_norm(EK_SCALAR, NULL));
    ck_refused(EK_ERR_SHAPE, "rms_norm: expected a normalized_shape of one or more axes of 1 or more, got (2, 0)",
               ek_rms_norm(EK_SHAPE(2, 0), NULL));
    ck_refused(EK_ERR_SHAPE, "layer_norm", ek_layer_norm(EK_SHAPE(-1), NULL));
    ck_refused(EK_ERR_SHAPE, "layer_norm", ek_layer_norm(EK_SHAPE(INT64_MAX, INT64_MAX), NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(0, 4): expected num_groups ≥ 1 that divides num_channels ≥ 1",
               ek_group_norm(0, 4, NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(-2, 4): expected num_groups", ek_group_norm(-2, 4, NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(3, 4): expected num_groups", ek_group_norm(3, 4, NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(8, 4): expected num_groups", ek_group_norm(8, 4, NULL));
    ck_refused(EK_ERR_SHAPE, "group_norm(1, 0): expected num_groups", ek_group_norm(1, 0, NULL));
    gn.channel_axis = 0;
    ck_refused(EK_ERR_ARGUMENT, "group_norm(2, 4): expected channel_axis 1 or EK_CHANNELS_LAST, got 0",
               ek_group_norm(2, 4, &gn));
    gn = ek_group_norm_opts_default();
    gn.eps = -1;
    ck_refused(EK_ERR_ARGUMENT, "group_norm(2, 4): expected a finite eps ≥ 0, got -1", ek_group_norm(2, 4, &gn));
    sn.momentum = 2;
    ck_refused(EK_ERR_ARGUMENT, "switchable_norm2d(4): expected a momentum", ek_switchable_norm2d(4, &sn));
    sn = ek_switchable_norm_opts_default();
    sn.batch = false;
    sn.statistics = EK_STATS_FROZEN;
    ck_refused(EK_ERR_ARGUMENT,
               "switchable_norm2d(4): running statistics are to be used", ek_switchable_norm2d(4, &sn));
    ck_refused(EK_ERR_ARGUMENT, "switchable_norm1d: expected num_features ≥ 1, got 0", ek_switchable_norm1d(0, NULL));
}
END_TEST

START_TEST(choosing_statistics)
{
    ck_assert_int_eq(ek_module_set_norm_statistics(NULL, EK_STATS_AUTO), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_norm_statistics: the module is NULL");
    ek_module *net = ek_sequential(ek_layer_norm(EK_SHAPE(3), NULL), ek_instance_norm2d(3, NULL));
    ck_assert_int_eq(ek_module_set_norm_statistics(net, EK_STATS_FROZEN), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_norm_statistics: no norm with running statistics at or below sequential");
    ck_assert_int_eq(ek_module_set_norm_statistics(net, (ek_norm_statistics)7), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "set_norm_statistics: expected one of ek_norm_statistics, got 7");
    ck_assert_int_eq(ek_module_non_finite_batches(net), 0);
    ck_assert_int_eq(ek_module_non_finite_batches(NULL), 0);
    ek_module_free(net);
}
END_TEST

/* ---- inputs of layers -------------------------------------------------------------------------------------------- */

START_TEST(shapes_of_batch_norm)
{
    const ek_batch_norm_opts at_end = last(ek_batch_norm_opts_default());
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(4), EK_ERR_SHAPE,
            "batch_norm1d(4): expected (N, 4) or (N, 4, L), got (4,)");
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SCALAR, EK_ERR_SHAPE, "expected (N, 4) or (N, 4, L), got ()");
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(2, 5), EK_ERR_SHAPE, "(N, 4) or (N, 4, L), got (2, 5)");
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(2, 4, 3, 3), EK_ERR_SHAPE, "(N, 4, L), got (2, 4, 3, 3)");
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(2, 7, 4), EK_ERR_SHAPE,
            "batch_norm1d(4): expected (N, 4) or (N, 4, L), got (2, 7, 4), of which axis 1 (7) was read as the "
            "channels; "
            "if axis 2 (4) holds them, set opts.channel_axis = EK_CHANNELS_LAST");
    refuses(ek_batch_norm1d(4, &at_end), EK_F32, EK_SHAPE(2, 4, 7), EK_ERR_SHAPE,
            "batch_norm1d(4): expected (N, 4) or (N, L, 4), got (2, 4, 7), of which axis 2 (7) was read as the "
            "channels; "
            "if axis 1 (4) holds them, set opts.channel_axis = 1");
    refuses(ek_batch_norm2d(4, NULL), EK_F32, EK_SHAPE(4, 3, 3), EK_ERR_SHAPE,
            "batch_norm2d(4): expected (N, 4, H, W), got (4, 3, 3)");
    refuses(ek_batch_norm2d(4, &at_end), EK_F32, EK_SHAPE(2, 4, 3, 3), EK_ERR_SHAPE,
            "batch_norm2d(4): expected (N, H, W, 4), got (2, 4, 3, 3), of which axis 3 (3) was read as the channels");
    refuses(ek_batch_norm3d(4, NULL), EK_F32, EK_SHAPE(2, 4, 3, 3), EK_ERR_SHAPE,
            "batch_norm3d(4): expected (N, 4, D, H, W), got (2, 4, 3, 3)");
    refuses(ek_batch_norm3d(4, NULL), EK_F32, EK_SHAPE(2, 3, 3, 3, 3), EK_ERR_SHAPE, "got (2, 3, 3, 3, 3)");
}
END_TEST

START_TEST(one_value_per_channel)
{
    const char *remedy = "; use a larger batch (the loader's drop_last or merge_last), ek_module_eval(), or "
                         "EK_STATS_FROZEN";
    char text[300];
    snprintf(text, sizeof text, "batch_norm1d(4): expected more than one value per channel to take statistics of, got "
                                "(1, 4)%s", remedy);
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(1, 4), EK_ERR_SHAPE, text);
    refuses(ek_batch_norm1d(4, NULL), EK_F32, EK_SHAPE(1, 4, 1), EK_ERR_SHAPE, "channel to take statistics of, got");
    refuses(ek_batch_norm2d(4, NULL), EK_F32, EK_SHAPE(1, 4, 1, 1), EK_ERR_SHAPE,
            "got (1, 4, 1, 1); use a larger batch");
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.track_running_stats = false; /* in evaluation, too */
    ek_module *bn = ek_batch_norm1d(4, &opts);
    ek_module_eval(bn);
    refuses(bn, EK_F32, EK_SHAPE(1, 4), EK_ERR_SHAPE, "expected more than one value per channel");
    ek_module *net = ek_sequential(ek_relu_layer(), ek_batch_norm1d(4, NULL));
    refuses(net, EK_F32, EK_SHAPE(1, 4), EK_ERR_SHAPE, "[in layer \"1\": batch_norm1d(4)]");
}
END_TEST

START_TEST(shapes_of_instance_norm)
{
    refuses(ek_instance_norm1d(4, NULL), EK_F32, EK_SHAPE(4, 6), EK_ERR_SHAPE,
            "instance_norm1d(4): expected (N, 4, L), got (4, 6)"); /* PyTorch reads (C, L) */
    refuses(ek_instance_norm2d(4, NULL), EK_F32, EK_SHAPE(4, 6, 6), EK_ERR_SHAPE,
            "instance_norm2d(4): expected (N, 4, H, W), got (4, 6, 6)");
    refuses(ek_instance_norm3d(4, NULL), EK_F32, EK_SHAPE(4, 6, 6, 6), EK_ERR_SHAPE,
            "(N, 4, D, H, W), got (4, 6, 6, 6)");
    refuses(ek_instance_norm1d(4, NULL), EK_F32, EK_SHAPE(2, 6, 4), EK_ERR_SHAPE,
            "(2, 6, 4), of which axis 1 (6) was read as the channels; if axis 2 (4) holds them");
    const char *text = "expected more than one element of space per sample and channel, got (5, 4, 1); there is "
                       "nothing to "
                       "normalize over: leave the norm out here, or use another";
    refuses(ek_instance_norm1d(4, NULL), EK_F32, EK_SHAPE(5, 4, 1), EK_ERR_SHAPE, text);
    ek_module *in = ek_instance_norm1d(4, NULL);
    ek_module_eval(in);
    refuses(in, EK_F32, EK_SHAPE(5, 4, 1), EK_ERR_SHAPE, text);
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.track_running_stats = true;
    refuses(ek_instance_norm1d(4, &opts), EK_F32, EK_SHAPE(5, 4, 1), EK_ERR_SHAPE, text);
    opts.statistics = EK_STATS_RUNNING; /* training still takes statistics */
    refuses(ek_instance_norm1d(4, &opts), EK_F32, EK_SHAPE(5, 4, 1), EK_ERR_SHAPE, text);
    in = ek_instance_norm1d(4, &opts);
    ek_module_eval(in); /* per-channel running values: legal */
    ek_tensor *x = ones(EK_F32, EK_SHAPE(5, 4, 1));
    ek_tensor_free(apply_layer(in, x));
    ek_tensor_free(x);
    ek_module_free(in);
}
END_TEST

START_TEST(shapes_of_group_norm)
{
    ek_group_norm_opts opts = ek_group_norm_opts_default();
    refuses(ek_group_norm(2, 4, NULL), EK_F32, EK_SHAPE(4), EK_ERR_SHAPE,
            "group_norm(2, 4): expected (N, 4, …), got (4,)");
    refuses(ek_group_norm(2, 4, NULL), EK_F32, EK_SCALAR, EK_ERR_SHAPE, "expected (N, 4, …), got ()");
    refuses(ek_group_norm(2, 4, NULL), EK_F32, EK_SHAPE(2, 5), EK_ERR_SHAPE, "expected (N, 4, …), got (2, 5)");
    refuses(ek_group_norm(2, 4, NULL), EK_F32, EK_SHAPE(2, 7, 4), EK_ERR_SHAPE,
            "group_norm(2, 4): expected (N, 4, …), got (2, 7, 4), of which axis 1 (7) was read as the channels; if "
            "axis 2 "
            "(4) holds them, set opts.channel_axis = EK_CHANNELS_LAST");
    opts.channel_axis = EK_CHANNELS_LAST;
    refuses(ek_group_norm(2, 4, &opts), EK_F32, EK_SHAPE(2, 4, 7), EK_ERR_SHAPE,
            "expected (N, …, 4), got (2, 4, 7), of which axis 2 (7) was read as the channels; if axis 1 (4) holds "
            "them, set "
            "opts.channel_axis = 1");
    for (int n = 1; n <= 3; n += 2)
        for (int eval = 0; eval < 2; eval++) {
            ek_module *gn = ek_group_norm(4, 4, NULL);
            if (eval)
                ek_module_eval(gn);
            refuses(gn, EK_F32, EK_SHAPE(n, 4), EK_ERR_SHAPE,
                    "group_norm(4, 4): expected more than one element per group, got (");
            refuses(ek_group_norm(4, 4, &opts), EK_F32, EK_SHAPE(n, 1, 1, 4), EK_ERR_SHAPE,
                    ") with 4 groups of one; use fewer groups");
        }
}
END_TEST

START_TEST(shapes_of_layer_norm)
{
    refuses(ek_layer_norm(EK_SHAPE(5), NULL), EK_F32, EK_SHAPE(5, 4), EK_ERR_SHAPE,
            "layer_norm(5): expected (…, 5), got (5, 4)");
    refuses(ek_layer_norm(EK_SHAPE(5, 10), NULL), EK_F32, EK_SHAPE(2, 4, 10), EK_ERR_SHAPE,
            "layer_norm(5, 10): expected (…, 5, 10), got (2, 4, 10)");
    refuses(ek_layer_norm(EK_SHAPE(5, 10), NULL), EK_F32, EK_SHAPE(10), EK_ERR_SHAPE, "(…, 5, 10), got (10,)");
    refuses(ek_rms_norm(EK_SHAPE(5), NULL), EK_F32, EK_SCALAR, EK_ERR_SHAPE, "rms_norm(5): expected (…, 5), got ()");
}
END_TEST

START_TEST(shapes_of_switchable_norm)
{
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    refuses(ek_switchable_norm1d(4, NULL), EK_F32, EK_SHAPE(2, 4, 3), EK_ERR_SHAPE,
            "switchable_norm1d(4): expected (N, 4), got (2, 4, 3)");
    refuses(ek_switchable_norm2d(4, NULL), EK_F32, EK_SHAPE(2, 4), EK_ERR_SHAPE,
            "switchable_norm2d(4): expected (N, 4, H, W), got (2, 4)");
    refuses(ek_switchable_norm3d(4, NULL), EK_F32, EK_SHAPE(2, 4, 1, 1, 1), EK_ERR_SHAPE,
            "switchable_norm3d(4): expected more than one element of space per sample and channel, got (2, 4, 1, 1, "
            "1); "
            "use switchable_norm1d on (N, C)");
    ek_module *sn = ek_switchable_norm2d(4, NULL);
    ek_module_eval(sn);
    refuses(sn, EK_F32, EK_SHAPE(2, 4, 1, 1), EK_ERR_SHAPE, "expected more than one element of space");
    refuses(ek_switchable_norm1d(4, NULL), EK_F32, EK_SHAPE(1, 4), EK_ERR_SHAPE,
            "switchable_norm1d(4): expected more than one value per channel to take statistics of, got (1, 4); use a "
            "larger "
            "batch");
    sn = ek_switchable_norm1d(4, NULL);
    ck_ok(ek_module_set_norm_statistics(sn, EK_STATS_BATCH));
    ek_module_eval(sn); /* takes the batch's statistics all the same */
    refuses(sn, EK_F32, EK_SHAPE(1, 4), EK_ERR_SHAPE, "expected more than one value per channel");
    opts.reference = true;
    refuses(ek_switchable_norm1d(1, &opts), EK_F32, EK_SHAPE(3, 1), EK_ERR_SHAPE,
            "switchable_norm1d(1): expected more than one channel for an unbiased variance over channels, got (3, 1)");
    sn = ek_switchable_norm1d(4, NULL);
    ek_module_eval(sn); /* BN's pair is the running one */
    ek_tensor *x = ones(EK_F32, EK_SHAPE(1, 4));
    ek_tensor_free(apply_layer(sn, x));
    ek_tensor_free(x);
    ek_module_free(sn);
}
END_TEST

START_TEST(types_do_not_convert)
{
    const char *single = ": expected float64, the layer's own type, got float32; ek_tensor_cast() converts the input, "
                         "ek_module_to() the layer";
    ek_module *all[] = {ek_batch_norm1d(4, NULL),        ek_instance_norm1d(4, NULL), ek_group_norm(2, 4, NULL),
                        ek_layer_norm(EK_SHAPE(4), NULL), ek_rms_norm(EK_SHAPE(4), NULL),
                        ek_switchable_norm1d(4, NULL)};
    for (int k = 0; k < 6; k++) {
        const ek_shape shape = k == 1 ? EK_SHAPE(2, 4, 3) : EK_SHAPE(2, 4);
        ek_tensor *wide = ones(EK_F64, shape), *narrow = ones(EK_F32, shape), *whole = ones(EK_I64, shape);
        assert_forward_fails(EK_ERR_DTYPE, ": expected float32, the layer's own type, got float64; ek_tensor_cast() ",
                             all[k], wide);
        assert_forward_fails(EK_ERR_DTYPE, ": expected float32, the layer's own type, got int64", all[k], whole);
        ck_ok(ek_module_to(all[k], EK_F64));
        assert_forward_fails(EK_ERR_DTYPE, single, all[k], narrow);
        ek_tensor *y = apply_layer(all[k], wide);
        ck_assert_int_eq(ek_tensor_dtype(y), EK_F64);
        ek_tensor_free(y);
        ek_tensor_free(wide);
        ek_tensor_free(narrow);
        ek_tensor_free(whole);
        ek_module_free(all[k]);
    }
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct failing_memory {
    int64_t calls, fail_at, live;
} failing_memory;

static void *allocate(size_t bytes, void *user)
{
    failing_memory *memory = user;
    if (memory->fail_at >= 0 && bytes > 1 << 16)
        return NULL; /* no chunk in reserve: the tape then takes just what is asked of it, site by site */
    if (memory->fail_at >= 0 && memory->calls++ >= memory->fail_at)
        return NULL;
    memory->live++;
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void release(void *block, void *user)
{
    failing_memory *memory = user;
    memory->live--;
    free(block);
}

/* Memory runs out at each allocation of a step in turn: the step says so and nothing moves. */
START_TEST(memory_that_runs_out)
{
    failing_memory memory = {.fail_at = -1};
    ck_ok(ek_set_allocator(&(ek_allocator){allocate, release, &memory}));
    ek_instance_norm_opts running = ek_instance_norm_opts_default();
    running.track_running_stats = true;
    running.statistics = EK_STATS_RUNNING;
    ek_module *all[] = {ek_batch_norm2d(4, NULL), ek_instance_norm2d(4, &running), ek_switchable_norm2d(4, NULL),
                        ek_group_norm(2, 4, NULL), ek_layer_norm(EK_SHAPE(4), NULL)};
    for (int k = 0; k < 5; k++) {
        ek_tensor *x = ones(EK_F32, EK_SHAPE(2, 4, 3, 4)), *dy = ones(EK_F32, EK_SHAPE(2, 4, 3, 4));
        ck_ok(ek_tensor_set_requires_grad(x, true));
        ek_tensor *before = copy_state(all[k]);
        int failures = 0;
        for (bool done = false; !done;) {
            ek_tape *t = ek_tape_new();
            ck_made(t);
            memory.calls = 0;
            memory.fail_at = failures;
            ek_tensor *y = ek_forward(all[k], t, x);
            done = y && ek_backward_from(t, y, dy) == EK_OK;
            memory.fail_at = -1;
            if (!done) {
                ck_assert_int_eq(ek_last_status(), EK_ERR_MEMORY);
                failures++;
            }
            if (!y) {
                assert_state("a step without memory", all[k], before);
                ck_assert_ptr_null(ek_tensor_grad(x));
            } else if (!done) {
                ck_assert_ptr_null(ek_tensor_grad(x));
                ck_ok(ek_module_init(all[k], 0));
            }
            ek_tape_free(t);
        }
        ck_assert_msg(failures > 5, "%s: only %d places to fail", ek_module_describe(all[k]), failures);
        ek_tensor_free(x);
        ek_tensor_free(dy);
        ek_tensor_free(before);
        ek_module_free(all[k]);
    }
    ck_assert_int_eq(memory.live, 0);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

/* ---- the op ------------------------------------------------------------------------------------------------------ */

typedef struct op_inputs {
    ek_tensor *x, *weight, *bias, *mean_weight, *var_weight;
} op_inputs;

static void op_fails(const op_inputs *in, const ek_normalize_opts *opts, ek_status status, const char *text)
{
    ek_tape *t = ek_tape_new();
    ek_normalize_stats stats;
    ek_clear_error();
    ck_assert_msg(!ek_normalize(t, in->x, in->weight, in->bias, in->mean_weight, in->var_weight, opts, &stats),
                  "expected a failure, «%s»", text);
    ck_error(status, text);
    ck_assert_int_eq(ek_tape_status(t), status);
    ck_assert_ptr_nonnull(strstr(ek_tape_error(t), text));
    ek_tape_free(t);
}

/* x (4, 3, 2) as a batch norm. */
static ek_normalize_opts good_opts(void)
{
    return (ek_normalize_opts){.stats = {1, 4, 3, 2}, .affine = {1, 4, 3, 2}, .eps = 1e-5, .center = true};
}

START_TEST(views_of_the_op)
{
    op_inputs in = {.x = ones(EK_F32, EK_SHAPE(4, 3, 2)), .weight = ones(EK_F32, EK_SHAPE(3))};
    op_fails(&in, NULL, EK_ERR_ARGUMENT, "normalize: the options, which hold the views, are NULL");
    const ek_view bad[] = {{1, 4, 3, 3},  {1, 4, 3, 1},         {-1, -4, 3, 2},
                           {1, 4, 0, 2},  {INT64_MAX, 4, 3, 2}, {0, 4, 3, 2}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ek_normalize_opts opts = good_opts();
        char text[200];
        opts.stats = bad[i];
        snprintf(text, sizeof text,
                 "normalize: expected a statistics view (batch, outer, group, inner) of 24 elements, got "
                                    "(%lld, %lld, %lld, %lld)", (long long)bad[i].batch, (long long)bad[i].outer,
                 (long long)bad[i].group, (long long)bad[i].inner);
        op_fails(&in, &opts, EK_ERR_SHAPE, text);
        opts = good_opts();
        opts.affine = bad[i];
        op_fails(&in, &opts, EK_ERR_SHAPE, "normalize: expected an affine view (batch, outer");
    }
    ek_normalize_opts opts = good_opts();
    opts.affine = (ek_view){4, 1, 3, 2};
    op_fails(&in, &opts, EK_ERR_ARGUMENT,
             "normalize: weight and bias have one value per affine group, so the affine view's "
                                          "batch must be 1, got 4");
    opts.affine = (ek_view){1, 2, 3, 4};
    opts.stats = (ek_view){1, 1, 4, 6};
    op_fails(&in, &opts, EK_ERR_ARGUMENT,
             "normalize: the affine view (1, 2, 3, 4) cuts across the groups of the statistics "
                                          "view (1, 1, 4, 6)");
    opts.affine = (ek_view){1, 4, 3, 2};
    opts.stats = (ek_view){1, 4, 6, 1};
    op_fails(&in, &opts, EK_ERR_ARGUMENT, "cuts across the groups of the statistics view (1, 4, 6, 1)");
    ek_tensor_free(in.x);
    ek_tensor_free(in.weight);
}
END_TEST

/* x (4, 3, 2) as sequences of 3 and 1 steps. */
START_TEST(ragged_views_of_the_op)
{
    op_inputs in = {.x = ones(EK_F32, EK_SHAPE(4, 3, 2)), .weight = ones(EK_F32, EK_SHAPE(3))};
    ek_normalize_opts opts = good_opts();
    opts.stats = (ek_view){2, 0, 3, 2};
    opts.stats_outer = (const int64_t[]){3, 1};
    ek_tape *t = ek_tape_new();
    ck_made(ek_normalize(t, in.x, in.weight, NULL, NULL, NULL, &opts, NULL));
    ek_tape_free(t);
    opts.stats_outer = (const int64_t[]){3, 2};
    op_fails(&in, &opts, EK_ERR_SHAPE,
             "normalize: expected a statistics view (batch, 0, group, inner) whose 5 rows, Σ stats_outer, have 24 "
             "elements, got (2, 0, 3, 2)");
    opts.stats_outer = (const int64_t[]){5, -1};
    op_fails(&in, &opts, EK_ERR_SHAPE, "normalize: expected stats_outer ≥ 0, got -1 for batch 1");
    opts.stats_outer = (const int64_t[]){INT64_MAX, 1};
    op_fails(&in, &opts, EK_ERR_SHAPE, "normalize: expected stats_outer ≥ 0");
    opts.stats_outer = (const int64_t[]){INT64_MAX, 0};
    op_fails(&in, &opts, EK_ERR_SHAPE, "whose 9223372036854775807 rows");
    opts.stats_outer = (const int64_t[]){3, 1};
    opts.stats.outer = 1;
    op_fails(&in, &opts, EK_ERR_SHAPE, "got (2, 1, 3, 2)");
    opts.stats = (ek_view){-1, 0, 3, 2};
    op_fails(&in, &opts, EK_ERR_SHAPE, "got (-1, 0, 3, 2)");
    opts.stats = (ek_view){2, 0, 2, 3};
    op_fails(&in, &opts, EK_ERR_ARGUMENT, "cuts across the groups of the statistics view (2, 0, 2, 3)");
    ek_tensor_free(in.x);
    ek_tensor_free(in.weight);
}
END_TEST

START_TEST(tensors_of_the_op)
{
    ek_tensor *x = ones(EK_F32, EK_SHAPE(4, 3, 2));
    ek_tensor *three = ones(EK_F32, EK_SHAPE(3)), *two = ones(EK_F32, EK_SHAPE(2));
    ek_tensor *wide = ones(EK_F64, EK_SHAPE(3)), *whole = ones(EK_I64, EK_SHAPE(3));
    ek_tensor *ids = ones(EK_I64, EK_SHAPE(4, 3, 2));
    ek_normalize_opts opts = good_opts();
    op_fails(&(op_inputs){.x = ids}, &opts, EK_ERR_DTYPE,
             "normalize: expected float32 or float64 for input 0, got int64");
    op_fails(&(op_inputs){.x = x, .weight = two}, &opts, EK_ERR_SHAPE,
             "normalize: expected a weight of 3 elements, got (2,)");
    op_fails(&(op_inputs){.x = x, .bias = two}, &opts, EK_ERR_SHAPE,
             "normalize: expected a bias of 3 elements, got (2,)");
    op_fails(&(op_inputs){.x = x, .weight = whole}, &opts, EK_ERR_DTYPE, "for input 1, got int64");
    op_fails(&(op_inputs){.x = x, .weight = wide}, &opts, EK_ERR_DTYPE, "float64");
    op_fails(&(op_inputs){.x = NULL}, &opts, EK_ERR_ARGUMENT, "normalize");
    opts.eps = -1;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_ARGUMENT, "normalize: expected a finite eps ≥ 0, got -1");
    opts.eps = NAN;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_ARGUMENT, "normalize: expected a finite eps ≥ 0, got");
    opts = good_opts();
    opts.mean = three;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_ARGUMENT, "normalize: mean and var are given together or not at all");
    opts.var = two;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_SHAPE,
             "normalize: expected a var of 3 elements of float32, got float32 (2,)");
    opts.mean = wide;
    opts.var = three;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_DTYPE,
             "normalize: expected a mean of 3 elements of float32, got float64 (3,)");
    opts = good_opts();
    op_fails(&(op_inputs){.x = x, .mean_weight = three, .var_weight = three}, &opts, EK_ERR_ARGUMENT,
             "normalize: a switchable norm, and no other, needs mean_weight and var_weight");
    ek_clear_error();
    ck_assert_ptr_null(ek_normalize(NULL, x, NULL, NULL, NULL, NULL, &opts, NULL));
    ck_error(EK_ERR_ARGUMENT, "normalize: the tape is NULL");
    ek_tensor *all[] = {x, three, two, wide, whole, ids};
    for (int i = 0; i < 6; i++)
        ek_tensor_free(all[i]);
}
END_TEST

START_TEST(mixing_options_of_the_op)
{
    ek_tensor *x = ones(EK_F32, EK_SHAPE(4, 3, 2));
    ek_tensor *three = ones(EK_F32, EK_SHAPE(3)), *two = ones(EK_F32, EK_SHAPE(2));
    ek_switch_opts mix = {.instance = true, .batch = true};
    const ek_normalize_opts good = {.stats = {4, 1, 3, 2}, .affine = {1, 4, 3, 2}, .eps = 1e-5, .center = true,
                                    .switchable = &mix};
    const op_inputs in = {.x = x, .mean_weight = three, .var_weight = three};
    ek_normalize_opts opts = good;
    op_fails(&(op_inputs){.x = x}, &opts, EK_ERR_ARGUMENT,
             "normalize: a switchable norm, and no other, needs mean_weight");
    op_fails(&(op_inputs){.x = x, .mean_weight = three}, &opts, EK_ERR_ARGUMENT, "needs mean_weight and var_weight");
    op_fails(&(op_inputs){.x = x, .mean_weight = two, .var_weight = three}, &opts, EK_ERR_SHAPE,
             "normalize: expected a mean_weight of 3 elements, got (2,)");
    op_fails(&(op_inputs){.x = x, .mean_weight = three, .var_weight = two}, &opts, EK_ERR_SHAPE,
             "normalize: expected a var_weight of 3 elements, got (2,)");
    opts.center = false;
    op_fails(&in, &opts, EK_ERR_ARGUMENT,
             "normalize: a switchable norm mixes centered statistics of its own; running ones "
                                          "go into ek_switch_opts");
    opts = good;
    opts.mean = opts.var = three;
    op_fails(&in, &opts, EK_ERR_ARGUMENT, "normalize: a switchable norm mixes centered statistics of its own");
    mix.running_mean = three;
    op_fails(&in, &good, EK_ERR_ARGUMENT, "normalize: running_mean and running_var are given together or not at all");
    mix.running_var = two;
    op_fails(&in, &good, EK_ERR_SHAPE, "normalize: expected a running_var of 3 elements of float32, got float32 (2,)");
    mix.running_mean = two;
    mix.running_var = three;
    op_fails(&in, &good, EK_ERR_SHAPE, "normalize: expected a running_mean of 3 elements of float32, got float32 (2,)");
    ek_tensor_free(x);
    ek_tensor_free(three);
    ek_tensor_free(two);
}
END_TEST

int main(void)
{
    return RUN_TESTS("norm errors", options_of_norms_over_channels, options_of_the_other_norms, choosing_statistics,
                     shapes_of_batch_norm, one_value_per_channel, shapes_of_instance_norm, shapes_of_group_norm,
                     shapes_of_layer_norm, shapes_of_switchable_norm, types_do_not_convert, memory_that_runs_out,
                     views_of_the_op, ragged_views_of_the_op, tensors_of_the_op, mixing_options_of_the_op);
}
