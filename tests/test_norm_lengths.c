/* Norms on tensors that carry lengths: the padding enters nothing and is given nothing, however long it is and whatever
 * it holds, bit for bit; a sequence alone; full lengths; groups of one element; running statistics; errors. */
#include "support_norm_lengths.h"

#include <stdio.h>

static const int64_t lengths[N] = {5, 1, 3, 4};

/* ---- how far a batch is padded ----------------------------------------------------------------------------------- */

START_TEST(padding_changes_nothing)
{
    static const struct {
        int64_t steps;
        double garbage;
    } paddings[] = {{5, NAN}, {6, 1e30}, {12, NAN}, {10, -INFINITY}, {12, 3}};
    const subject *s = &subjects[_i];
    for (int type = EK_F32; type <= EK_F64; type++)
        for (int training = 0; training < 2; training++) {
            bool valid[N * MOST_STEPS];
            from_lengths(valid, lengths, N, 5);
            batch b = {.n = N, .steps = 5, .valid = valid, .garbage = 0};
            outcome first = run_subject(s, &b, (ek_dtype)type, training);
            for (size_t k = 0; k < sizeof paddings / sizeof paddings[0]; k++) {
                char what[60];
                b.steps = paddings[k].steps;
                b.garbage = paddings[k].garbage;
                from_lengths(valid, lengths, N, b.steps);
                outcome again = run_subject(s, &b, (ek_dtype)type, training);
                snprintf(what, sizeof what, "padded to %d with %g, training %d", (int)b.steps, b.garbage, training);
                assert_same(what, s, &again, &first);
                free_outcome(&again);
            }
            free_outcome(&first);
        }
}
END_TEST

/* The same steps anywhere: a mask with holes. */
START_TEST(holes_change_nothing)
{
    const subject *s = &subjects[_i];
    for (int seed = 0; seed < 4; seed++) {
        bool valid[N * MOST_STEPS], holes[N * MOST_STEPS] = {false};
        const int64_t steps = 9 + seed;
        ek_rng rng = ek_rng_seed((uint64_t)seed);
        from_lengths(valid, lengths, N, 5);
        for (int64_t i = 0; i < N; i++)
            for (int64_t left = lengths[i]; left > 0;) {
                bool *at = &holes[i * steps + ek_rng_below(&rng, steps)];
                left -= !*at;
                *at = true;
            }
        const batch tight = {.n = N, .steps = 5, .valid = valid};
        const batch loose = {.n = N, .steps = steps, .valid = holes, .garbage = NAN};
        outcome plain = run_subject(s, &tight, EK_F32, true), holed = run_subject(s, &loose, EK_F32, true);
        assert_same("with holes", s, &holed, &plain);
        free_outcome(&plain);
        free_outcome(&holed);
    }
}
END_TEST

/* ---- one sequence, and no padding -------------------------------------------------------------------------------- */

/* Without lengths the first axis is the batch, except for norms that have no batch. */
static bool reads_without(const subject *s)
{
    return s->axes[0] == 'N' || s->make == make_ln;
}

START_TEST(a_sequence_alone)
{
    const subject *s = &subjects[_i];
    if (!s->per_sample)
        return;
    for (int type = EK_F32; type <= EK_F64; type++) {
        bool valid[N * MOST_STEPS];
        from_lengths(valid, lengths, N, 7);
        const batch together = {.n = N, .steps = 7, .valid = valid, .garbage = NAN};
        outcome all = run_subject(s, &together, (ek_dtype)type, true);
        for (int64_t i = 0, at = 0; i < N; at += lengths[i++] * rest_size(s)) {
            bool every[MOST_STEPS];
            from_lengths(every, &lengths[i], 1, lengths[i] + 1);
            batch b = {.n = 1, .steps = lengths[i] + 1, .valid = every, .first = i};
            for (int without = 0; without < 2; without++) {
                if (without && (lengths[i] == 1 || !reads_without(s)))
                    continue; /* by shape some layers refuse one step */
                if (without) {
                    b.steps = lengths[i];
                    b.no_lengths = true;
                    from_lengths(every, &lengths[i], 1, lengths[i]);
                }
                outcome one = run_subject(s, &b, (ek_dtype)type, true);
                if (!without || s->in_rows) {
                    assert_bits("alone: y", s, one.y, all.y + at, one.n);
                    assert_bits("alone: dx", s, one.dx, all.dx + at, one.n);
                } else if (type == EK_F64) {
                    assert_near("alone: y", s, one.y, all.y + at, one.n);
                    assert_near("alone: dx", s, one.dx, all.dx + at, one.n);
                }
                free_outcome(&one);
            }
        }
        free_outcome(&all);
    }
}
END_TEST

/* Lengths that are all T, against none: the same bits where packing leaves the order of memory, else the same sums in
 * another order. */
START_TEST(full_lengths)
{
    const subject *s = &subjects[_i];
    const int64_t full[N] = {7, 7, 7, 7};
    bool valid[N * MOST_STEPS];
    from_lengths(valid, full, N, 7);
    for (int training = 0; training < 2; training++) {
        batch b = {.n = N, .steps = 7, .valid = valid};
        if (!reads_without(s))
            return;
        outcome with = run_subject(s, &b, EK_F64, training);
        b.no_lengths = true;
        outcome without = run_subject(s, &b, EK_F64, training);
        if (s->in_rows) {
            assert_same("full lengths", s, &with, &without);
        } else {
            assert_near("full lengths: y", s, with.y, without.y, with.n);
            assert_near("full lengths: dx", s, with.dx, without.dx, with.n);
            assert_near("full lengths: d_parameters", s, ek_data_f64(with.grads), ek_data_f64(without.grads),
                        ek_tensor_numel(with.grads));
            assert_near("full lengths: state", s, ek_data_f64(with.state), ek_data_f64(without.state),
                        ek_tensor_numel(with.state));
        }
        free_outcome(&with);
        free_outcome(&without);
    }
}
END_TEST

/* BatchNorm of a padded batch is that of all valid steps as one long sequence: (ΣL, C) with the same bits. */
START_TEST(batch_norm_of_the_concatenation)
{
    bool valid[N * MOST_STEPS], every[MOST_STEPS];
    from_lengths(valid, lengths, N, 9);
    for (int type = EK_F32; type <= EK_F64; type++)
        for (int last = 0; last < 2; last++) {
            const subject *s = &subjects[last];
            ek_module *padded = layer_of(s, (ek_dtype)type), *plain = layer_of(s, (ek_dtype)type);
            batch b = {.n = N, .steps = 9, .valid = valid, .garbage = NAN};
            outcome r = run_layer(s, padded, &b, (ek_dtype)type);
            const int64_t total = r.n / C;
            from_lengths(every, &total, 1, total);
            /* The valid numbers of x and dy, one after the other, and once through without lengths. */
            ek_tensor *x = fill_batch(s, &b, (ek_dtype)type, 1, 2), *dy = fill_batch(s, &b, (ek_dtype)type, 5, 0);
            ek_tensor *rows[2] = {x, dy}, *long_ones[2];
            const ek_shape shape = last ? EK_SHAPE(1, total, C) : EK_SHAPE(1, C, total);
            for (int k = 0; k < 2; k++) {
                ek_tensor *wide = ek_zeros(EK_F64, shape);
                for (int64_t i = 0; i < ek_tensor_numel(x); i++) {
                    place p = place_of(s, &b, i);
                    int64_t step = p.ordinal;
                    for (int64_t q = 0; q < p.sequence; q++)
                        step += lengths[q];
                    if (p.valid)
                        ek_data_f64(wide)[last ? step * C + p.rest : p.rest * total + step] =
                            ek_tensor_at(rows[k], i);
                }
                long_ones[k] = ek_tensor_cast(wide, (ek_dtype)type);
                ek_tensor_free(wide);
            }
            ck_ok(ek_tensor_set_requires_grad(long_ones[0], true));
            ek_tape *t = ek_tape_new();
            ek_tensor *y = ek_forward(plain, t, long_ones[0]);
            ck_made(y);
            ck_ok(ek_backward_from(t, y, long_ones[1]));
            int64_t n;
            batch whole = {.n = 1, .steps = total, .valid = every, .no_lengths = true};
            double *values = gather("y", s, &whole, y, &n);
            double *dx = gather("dx", s, &whole, ek_tensor_grad(long_ones[0]), &n);
            ek_tensor *state = copy_state(plain);
            if (last) {
                assert_bits("concatenated: y", s, r.y, values, n);
                assert_bits("concatenated: dx", s, r.dx, dx, n);
                ck_assert(ek_tensor_equal(r.state, state));
            } else if (type == EK_F64) {
                assert_near("concatenated: y", s, r.y, values, n);
                assert_near("concatenated: dx", s, r.dx, dx, n);
                assert_near("concatenated: state", s, ek_data_f64(r.state), ek_data_f64(state), ek_tensor_numel(state));
            }
            free(values);
            free(dx);
            ek_tensor_free(state);
            ek_tape_free(t);
            free_outcome(&r);
            ek_tensor *all[] = {x, dy, long_ones[0], long_ones[1]};
            for (int k = 0; k < 4; k++)
                ek_tensor_free(all[k]);
            ek_module_free(padded);
            ek_module_free(plain);
        }
}
END_TEST

/* ---- LayerNorm over (T, D) --------------------------------------------------------------------------------------- */

/* Statistics over valid steps and the features, from the definition. */
START_TEST(layer_norm_over_steps_and_features)
{
    const subject *s = &subjects[16]; /* (N, T, C) */
    ck_assert_str_eq(s->name, "LN");
    bool valid[N * MOST_STEPS];
    from_lengths(valid, lengths, N, 8);
    batch b = {.n = N, .steps = 8, .valid = valid, .garbage = 1e30};
    ek_layer_norm_opts plain = {.eps = 1e-5}, over_time = {.eps = 1e-5, .over_time = true};
    ek_module *layers[] = {ek_layer_norm(EK_SHAPE(8, C), &plain), ek_layer_norm(EK_SHAPE(C), &over_time)};
    ck_assert_str_eq(ek_module_describe(layers[1]), "layer_norm(6, over time)");
    for (int k = 0; k < 2; k++) {
        ck_ok(ek_module_to(layers[k], EK_F64));
        outcome r = run_layer(s, layers[k], &b, EK_F64);
        ek_tensor *x = fill_batch(s, &b, EK_F64, 1, 2);
        for (int64_t i = 0, at = 0; i < N; at += lengths[i++] * C) {
            const int64_t count = lengths[i] * C;
            const double *values = ek_data_f64(x) + i * 8 * C; /* the valid steps stand first */
            double mean = 0, var = 0;
            for (int64_t j = 0; j < count; j++)
                mean += values[j] / (double)count;
            for (int64_t j = 0; j < count; j++)
                var += (values[j] - mean) * (values[j] - mean) / (double)count;
            for (int64_t j = 0; j < count; j++)
                ck_near(r.y[at + j], (values[j] - mean) / sqrt(var + 1e-5), 1e-13);
        }
        ek_tensor_free(x);
        free_outcome(&r);
        ek_module_free(layers[k]);
    }
}
END_TEST

/* Where all steps are valid γ and β may belong to steps, and the result is what it is without lengths. */
START_TEST(layer_norm_over_steps_with_weights)
{
    const int64_t full[2] = {3, 3}, varied[2] = {3, 2};
    ek_module *layer = ek_layer_norm(EK_SHAPE(3, C), NULL);
    draw_parameters(layer, 1);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(2, 3, C), 1, 2, 1), *without = apply_layer(layer, x);
    ck_ok(ek_tensor_set_lengths(x, full, 2, 0, 1));
    ek_tensor *with = apply_layer(layer, x);
    ck_assert(ek_tensor_equal(with, without));
    ck_assert_ptr_nonnull(ek_tensor_lengths(with));
    ck_ok(ek_tensor_set_lengths(x, varied, 2, 0, 1));
    assert_forward_fails(EK_ERR_SHAPE,
                         "layer_norm(3, 6): the sequences of (2, 3, 6) differ in length, and γ and β of "
                         "normalized_shape would belong to steps (axis 1); leave that axis out of normalized_shape and "
                         "set opts.over_time, or switch weight and bias off", layer, x);
    ek_tensor_free(x);
    ek_tensor_free(with);
    ek_tensor_free(without);
    ek_module_free(layer);
}
END_TEST

START_TEST(layer_norm_is_the_same_in_evaluation)
{
    static const maker makers[] = {make_ln,      make_ln_over_time, make_rms,
                                   make_gn_last, make_in_last,      make_sn_without_batch};
    for (int k = 0; k < 6; k++) {
        subject s = {"", "NTC", makers[k], true, true};
        bool valid[N * MOST_STEPS];
        from_lengths(valid, lengths, N, 6);
        batch b = {.n = N, .steps = 6, .valid = valid, .garbage = NAN};
        outcome train = run_subject(&s, &b, EK_F32, true), eval = run_subject(&s, &b, EK_F32, false);
        assert_same("in evaluation", &s, &eval, &train);
        free_outcome(&train);
        free_outcome(&eval);
    }
}
END_TEST

/* ---- groups of one element --------------------------------------------------------------------------------------- */

/* Groups that the lengths leave one element: y = β, and nothing flows back. */
START_TEST(one_element_by_the_data)
{
    static const maker makers[] = {make_in, make_in_tracked, make_bn};
    for (int k = 0; k < 3; k++)
        for (int type = EK_F32; type <= EK_F64; type++) {
            subject s = {"one element", "NCT", makers[k], false, false};
            const bool valid[2 * 3] = {true, false, false, true, false, false};
            batch b = {.n = k < 2 ? 2 : 1, .steps = 3, .valid = valid, .garbage = NAN};
            ek_module *layer = layer_of(&s, (ek_dtype)type);
            ek_tensor *before = copy_state(layer);
            outcome r = run_layer(&s, layer, &b, (ek_dtype)type);
            for (int64_t i = 0; i < r.n; i++) {
                ck_assert_double_eq(r.y[i], state_at(layer, "bias", i % C));
                ck_assert_double_eq(r.dx[i], 0);
            }
            for (int64_t c = 0; c < C; c++)
                ck_assert_double_eq(ek_data_f64(r.grads)[1 + c], 0); /* of the weight */
            assert_state("statistics that nothing can be said about", layer, before);
            ck_assert_int_eq(ek_module_non_finite_batches(layer), 0);
            ek_tensor_free(before);
            free_outcome(&r);
            ek_module_free(layer);
        }
}
END_TEST

/* Texts of one letter: how far they are padded, not at all included, makes no difference.  (Without lengths such a shape
 * is refused: test_norm_errors.) */
START_TEST(one_step_padded_or_not)
{
    const int64_t one[2] = {1, 1};
    ek_module *layers[] = {make_bn(), make_in(), make_gn_with(6, 1), make_sn()};
    for (int k = 0; k < 4; k++) {
        const int64_t n = k ? 2 : 1;
        draw_parameters(layers[k], 3);
        ek_tensor *x = normal(EK_F32, EK_SHAPE(n, C, 1), 0, 1, 1), *padded = ek_full(EK_F32, EK_SHAPE(n, C, 3), NAN);
        for (int64_t i = 0; i < n * C; i++)
            ek_data_f32(padded)[3 * i] = ek_data_f32(x)[i];
        ck_ok(ek_tensor_set_lengths(x, one, n, 0, 2));
        ck_ok(ek_tensor_set_lengths(padded, one, n, 0, 2));
        ek_tensor *alone = apply_layer(layers[k], x), *among = apply_layer(layers[k], padded);
        ck_made(alone);
        ck_made(among);
        for (int64_t i = 0; i < n * C; i++) {
            ck_assert(ek_tensor_at(alone, i) == ek_tensor_at(among, 3 * i));
            ck_assert(ek_tensor_at(among, 3 * i + 1) == 0 && ek_tensor_at(among, 3 * i + 2) == 0);
        }
        ek_tensor *all[] = {x, padded, alone, among};
        for (int i = 0; i < 4; i++)
            ek_tensor_free(all[i]);
        ek_module_free(layers[k]);
    }
}
END_TEST

/* ---- running statistics ------------------------------------------------------------------------------------------ */

/* What the buffers should have become, from the definitions: BN over all valid elements of a channel; tracked IN as the
 * mean over samples of means, and of unbiased variances of those that have two elements; SN's BN part; the published
 * code's, which weighs unbiased plane variances and takes the result as it is. */
static void expected_statistics(int kind, const ek_tensor *x, int64_t steps, int64_t c, double *mean, double *var)
{
    double total = 0, with_variance = 0, squares = 0;
    *mean = *var = 0;
    for (int64_t i = 0; i < N; i++) {
        const double length = (double)lengths[i];
        double own = 0, ss = 0;
        for (int64_t s = 0; s < lengths[i]; s++)
            own += ek_tensor_at(x, (i * C + c) * steps + s) / length;
        for (int64_t s = 0; s < lengths[i]; s++)
            ss += pow(ek_tensor_at(x, (i * C + c) * steps + s) - own, 2);
        *mean += kind == 1 ? own / N : own * length;
        *var += lengths[i] < 2 ? 0 : kind == 1 ? ss / (length - 1) : kind == 2 ? length * ss / (length - 1) : ss;
        with_variance += lengths[i] > 1;
        total += length;
        squares += length * own * own;
    }
    if (kind == 1) {
        *var /= with_variance;
        return;
    }
    *mean /= total;
    const double between = squares - total * *mean * *mean;
    *var = kind == 2 ? (*var + between) / total : (*var + between) / (total - 1);
}

START_TEST(running_statistics)
{
    ek_module *layers[] = {make_bn(), make_in_tracked(), make_sn_reference(), make_sn()};
    const int kinds[] = {0, 1, 2, 0};
    const subject s = {"running", "NCT", NULL, false, false};
    for (int k = 0; k < 4; k++) {
        bool valid[N * MOST_STEPS];
        from_lengths(valid, lengths, N, 8);
        ck_ok(ek_module_to(layers[k], EK_F64));
        batch b = {.n = N, .steps = 8, .valid = valid, .garbage = NAN};
        ek_tensor *x = fill_batch(&s, &b, EK_F64, 1, 2);
        const double first = state_at(layers[k], "running_var", 0);
        for (int choice = EK_STATS_AUTO; choice <= EK_STATS_RUNNING; choice++) {
            ck_ok(ek_module_init(layers[k], 0));
            ck_ok(ek_module_set_norm_statistics(layers[k], (ek_norm_statistics)choice));
            feed(layers[k], x);
            for (int64_t c = 0; c < C; c++) {
                double mean, var;
                expected_statistics(kinds[k], x, 8, c, &mean, &var);
                ck_near(state_at(layers[k], "running_mean", c), 0.1 * mean, 1e-14);
                ck_near(state_at(layers[k], "running_var", c), 0.9 * first + 0.1 * var, 1e-13);
            }
            ck_assert_double_eq(state_at(layers[k], "num_batches_tracked", 0), 1);
        }
        ek_tensor_free(x);
        ek_module_free(layers[k]);
    }
}
END_TEST

/* ---- nets -------------------------------------------------------------------------------------------------------- */

/* Norms behind each other and beside a shortcut, which carries the padding on. */
static ek_module *net(void)
{
    ek_batch_norm_opts opts = last_opts();
    return ek_sequential(ek_layer_norm(EK_SHAPE(C), NULL), ek_residual(ek_sequential(ek_batch_norm1d(C, &opts),
                                                                                    ek_relu_layer())),
                         make_ln_over_time(), ek_residual(make_sn_last()), make_gn_last());
}

START_TEST(norms_inside_nets)
{
    const subject s = {"net", "NTC", net, false, true};
    bool valid[N * MOST_STEPS];
    from_lengths(valid, lengths, N, 5);
    batch b = {.n = N, .steps = 5, .valid = valid};
    outcome tight = run_subject(&s, &b, EK_F32, true);
    b.steps = 11;
    b.garbage = NAN;
    from_lengths(valid, lengths, N, 11);
    outcome loose = run_subject(&s, &b, EK_F32, true);
    assert_same("in a net", &s, &loose, &tight);
    free_outcome(&tight);
    free_outcome(&loose);
}
END_TEST

/* ---- gradients --------------------------------------------------------------------------------------------------- */

static ek_tensor *through_layer(ek_tape *tape, ek_tensor *const *inputs, void *layer)
{
    /* with a layer before it, whose padding is not 0 */
    return ek_forward(layer, tape, ek_affine(tape, inputs[0], 1.5, 0.25));
}

static ek_status require_grad(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    ek_tensor **inputs = user;
    (void)name;
    for (int i = 1; kind == EK_PARAMETER; i++)
        if (!inputs[i]) {
            inputs[i] = tensor;
            return EK_OK;
        }
    return EK_OK;
}

START_TEST(gradients)
{
    const subject *s = &subjects[_i];
    for (int training = 0; training < 2; training++) {
        ek_module *layer = layer_of(s, EK_F64);
        if (!training) {
            bool warm[N * MOST_STEPS];
            from_lengths(warm, lengths, N, 5);
            ek_tensor *x = fill_batch(s, &(batch){.n = N, .steps = 5, .valid = warm}, EK_F64, 3, 1);
            feed(layer, x);
            ek_tensor_free(x);
            ek_module_eval(layer);
        }
        bool valid[3 * 4];
        const int64_t few[3] = {3, 4, 1}; /* two elements would be ±1 but for eps: too sharp a bend for differences */
        from_lengths(valid, few, 3, 4);
        const batch b = {.n = 3, .steps = 4, .valid = valid, .garbage = 0.7};
        ek_tensor *inputs[6] = {fill_batch(s, &b, EK_F64, 1, 2)};
        ck_ok(ek_tensor_set_requires_grad(inputs[0], true));
        ck_ok(ek_module_visit(layer, require_grad, inputs));
        int n = 1;
        while (inputs[n])
            n++;
        ek_status status = ek_gradcheck(through_layer, layer, inputs, n, NULL, NULL);
        ck_assert_msg(status == EK_OK, "%s, training %d: %s", s->name, training, ek_last_error());
        ek_tensor_free(inputs[0]);
        ek_module_free(layer);
    }
}
END_TEST

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static void lengths_fail(ek_module *layer, ek_shape shape, int batch_axis, int time_axis, const char *text)
{
    int64_t some[8];
    ek_tensor *x = normal(EK_F32, shape, 0, 1, 1);
    for (int i = 0; i < 8; i++)
        some[i] = 1 + i % 2;
    ck_ok(ek_tensor_set_lengths(x, some, shape.dim[batch_axis], batch_axis, time_axis));
    assert_forward_fails(EK_ERR_SHAPE, text, layer, x);
    ek_tensor_free(x);
    ek_module_free(layer);
}

START_TEST(axes_that_are_confused)
{
    lengths_fail(make_bn(), EK_SHAPE(2, C, 5), 0, 1,
                 "batch_norm1d(6): the lengths that (2, 6, 5) carries have their steps along axis 1, which this layer "
                 "reads as its channels; if another axis holds the channels, set opts.channel_axis, else correct the "
                 "axes given to ek_tensor_set_lengths()");
    lengths_fail(make_bn_last(), EK_SHAPE(2, 5, C), 0, 2, "have their steps along axis 2");
    lengths_fail(make_bn(), EK_SHAPE(2, C), 0, 1, "have their steps along axis 1");
    lengths_fail(make_in(), EK_SHAPE(2, C, 5), 1, 2,
                 "instance_norm1d(6): the lengths that (2, 6, 5) carries have their sequences along axis 1, "
                 "which this layer reads as its channels");
    lengths_fail(make_gn(), EK_SHAPE(2, C, 5), 0, 1, "group_norm(2, 6): the lengths");
    lengths_fail(make_sn(), EK_SHAPE(2, C, 5), 0, 1, "switchable_norm_sequence(6): the lengths");
    lengths_fail(make_ln(), EK_SHAPE(2, 5, C), 2, 1,
                 "layer_norm(6): the sequences of (2, 5, 6) stand along axis 2, one of those this layer takes "
                 "statistics over; statistics belong to one sequence");
    lengths_fail(make_ln_over_time(), EK_SHAPE(2, 5, C), 0, 2,
                 "layer_norm(6, over time): the steps of (2, 5, 6) stand along axis 2, one of normalized_shape; "
                 "over_time takes them in by itself");
}
END_TEST

START_TEST(shapes_over_time)
{
    ek_module *layer = make_ln_over_time();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, C), 0, 1, 1), *narrow = normal(EK_F32, EK_SHAPE(2, 5, 4), 0, 1, 1);
    assert_forward_fails(EK_ERR_SHAPE, "layer_norm(6, over time): expected (N, T, …, 6), got (5, 6)", layer, x);
    assert_forward_fails(EK_ERR_SHAPE, "expected (N, T, …, 6), got (2, 5, 4)", layer, narrow);
    ek_tensor_free(x);
    ek_tensor_free(narrow);
    ek_module_free(layer);
    layer = make_sn();
    x = normal(EK_F32, EK_SHAPE(5, C), 0, 1, 1);
    assert_forward_fails(EK_ERR_SHAPE, "switchable_norm_sequence(6): expected (N, 6, L), got (5, 6)", layer, x);
    ek_tensor_free(x);
    ek_module_free(layer);
}
END_TEST

/* ---- threads and memory ------------------------------------------------------------------------------------------ */

/* Large enough that every loop has several chunks. */
static outcome large_step(const subject *s, ek_dtype dtype)
{
    const int64_t n = 40, steps = 90;
    ek_shape shape = {.ndim = (int)strlen(s->axes)};
    for (int i = 0; i < shape.ndim; i++)
        shape.dim[i] = s->axes[i] == 'N' ? n : s->axes[i] == 'T' ? steps : s->axes[i] == 'C' ? C : 4 * H;
    int64_t own[40];
    ek_rng rng = ek_rng_seed(1);
    for (int64_t i = 0; i < n; i++)
        own[i] = 1 + ek_rng_below(&rng, steps);
    ek_tensor *x = normal(dtype, shape, 1, 2, 2), *dy = normal(dtype, shape, 0, 1, 3);
    ck_ok(ek_tensor_set_lengths(x, own, n, axis_of(s, 'N'), axis_of(s, 'T')));
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_module *layer = layer_of(s, dtype);
    ek_tape *t = ek_tape_new();
    ek_tensor *y = ek_forward(layer, t, x);
    ck_made(y);
    ck_ok(ek_backward_from(t, y, dy));
    outcome r = {.n = ek_tensor_numel(x), .state = copy_state(layer)};
    r.y = malloc((size_t)r.n * sizeof *r.y);
    r.dx = malloc((size_t)r.n * sizeof *r.dx);
    for (int64_t i = 0; i < r.n; i++) {
        r.y[i] = ek_tensor_at(y, i);
        r.dx[i] = ek_tensor_at(ek_tensor_grad(x), i);
    }
    r.grads = ek_zeros(EK_F64, EK_SHAPE(1 + ek_module_count_parameters(layer)));
    ck_ok(ek_module_visit(layer, add_grad, ek_data_f64(r.grads)));
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
    return r;
}

START_TEST(the_same_bits_for_any_number_of_threads)
{
    static const int threads[] = {2, 3, 8};
    subject s = subjects[_i];
    if (s.make == make_ln_over_time_and_two_axes)
        return; /* its H is fixed; the same loops as over one axis */
    for (int type = EK_F32; type <= EK_F64; type++) {
        ck_ok(ek_set_num_threads(1));
        outcome one = large_step(&s, (ek_dtype)type);
        for (int k = 0; k < 3; k++) {
            ck_ok(ek_set_num_threads(threads[k]));
            outcome many = large_step(&s, (ek_dtype)type);
            assert_same("threads", &s, &many, &one);
            free_outcome(&many);
        }
        free_outcome(&one);
    }
}
END_TEST

START_TEST(steps_that_take_no_memory)
{
    const subject *s = &subjects[_i];
    memory_count c;
    count_memory(&c);
    bool valid[N * MOST_STEPS];
    from_lengths(valid, lengths, N, 8);
    batch b = {.n = N, .steps = 8, .valid = valid};
    ek_module *layer = layer_of(s, EK_F32);
    ek_tensor *x = fill_batch(s, &b, EK_F32, 1, 2), *dy = fill_batch(s, &b, EK_F32, 5, 0);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    ek_tape *t = ek_tape_new();
    int64_t calls = 0;
    for (int step = 0; step < 8; step++) {
        if (step == 4)
            calls = c.calls;
        ck_ok(ek_tensor_set_mask(x, valid, N, 8, axis_of(s, 'N'), axis_of(s, 'T')));
        ek_tensor *y = ek_forward(layer, t, x);
        ck_made(y);
        ck_ok(ek_backward_from(t, y, dy));
        ek_tape_reset(t);
    }
    ck_assert_msg(c.calls == calls, "%s: %lld allocations in 4 steps", s->name, (long long)(c.calls - calls));
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(layer);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

/* Whatever request is refused, the step fails with that alone, moves nothing and leaks nothing. */
static ek_status one_step(void)
{
    const int64_t some[2] = {1, 3};
    ek_switchable_norm_opts opts = ek_switchable_norm_opts_default();
    ek_rng rng = ek_rng_seed(1);
    ek_module *layer = ek_sequential(ek_switchable_norm_sequence(C, &opts), ek_instance_norm1d(C, NULL));
    ek_tape *t = ek_tape_new();
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(2, C, 3), 0, 1, &rng);
    ek_status status = layer && t && x ? ek_tensor_set_lengths(x, some, 2, 0, 2) : EK_ERR_MEMORY;
    if (status == EK_OK)
        status = ek_tensor_set_requires_grad(x, true);
    ek_tensor *y = status == EK_OK ? ek_forward(layer, t, x) : NULL;
    if (status == EK_OK)
        status = y ? ek_backward(t, ek_sum(t, y, EK_ALL_AXES, false)) : ek_last_status();
    ek_tape_free(t);
    ek_tensor_free(x);
    ek_module_free(layer);
    return status;
}

START_TEST(memory_that_runs_out)
{
    ck_assert_int_gt(assert_survives_refusals(one_step), 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norm lengths");
    TCase *tcase = tcase_create("norm lengths");
    tcase_add_loop_test(tcase, padding_changes_nothing, 0, SUBJECTS);
    tcase_add_loop_test(tcase, holes_change_nothing, 0, SUBJECTS);
    tcase_add_loop_test(tcase, a_sequence_alone, 0, SUBJECTS);
    tcase_add_loop_test(tcase, full_lengths, 0, SUBJECTS);
    tcase_add_test(tcase, batch_norm_of_the_concatenation);
    tcase_add_test(tcase, layer_norm_over_steps_and_features);
    tcase_add_test(tcase, layer_norm_over_steps_with_weights);
    tcase_add_test(tcase, layer_norm_is_the_same_in_evaluation);
    tcase_add_test(tcase, one_element_by_the_data);
    tcase_add_test(tcase, one_step_padded_or_not);
    tcase_add_test(tcase, running_statistics);
    tcase_add_test(tcase, norms_inside_nets);
    tcase_add_loop_test(tcase, gradients, 0, SUBJECTS);
    tcase_add_test(tcase, axes_that_are_confused);
    tcase_add_test(tcase, shapes_over_time);
    tcase_add_loop_test(tcase, the_same_bits_for_any_number_of_threads, 0, SUBJECTS);
    tcase_add_loop_test(tcase, steps_that_take_no_memory, 0, SUBJECTS);
    tcase_add_test(tcase, memory_that_runs_out);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
