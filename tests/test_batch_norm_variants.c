/* BatchNorm over ghost batches, and batch renormalization: against sums in double written from the definitions. */
#include "support_layers.h"

/* Double arithmetic over at most 100 terms of size 10: a few hundred units of 2⁻⁵³ of those. */
static const double tolerance = 1000 * 0x1p-53 * 10;

/* x is (n, c, s), or with `last` (n, s, c); sample i has its first steps[i] positions, all of them for NULL. */
typedef struct batch {
    int64_t n, c, s;
    bool last;
    const int64_t *steps;
    ek_tensor *x, *dy;
} batch;

static ek_shape shape_of(const batch *b)
{
    return b->last ? EK_SHAPE(b->n, b->s, b->c) : EK_SHAPE(b->n, b->c, b->s);
}

static void fill(batch *b, uint64_t seed)
{
    b->x = normal(EK_F64, shape_of(b), 2, 3, seed);
    b->dy = normal(EK_F64, shape_of(b), 0, 1, seed + 1);
    if (b->steps)
        ck_ok(ek_tensor_set_lengths(b->x, b->steps, b->n, 0, b->last ? 1 : 2));
    ck_ok(ek_tensor_set_requires_grad(b->x, true));
}

static void empty(batch *b)
{
    ek_tensor_free(b->x);
    ek_tensor_free(b->dy);
}

static int64_t at(const batch *b, int64_t n, int64_t c, int64_t s)
{
    return b->last ? (n * b->s + s) * b->c + c : (n * b->c + c) * b->s + s;
}

static bool is_valid(const batch *b, int64_t n, int64_t s)
{
    return !b->steps || s < b->steps[n];
}

static double sigma_of(double variance)
{
    return sqrt(variance + 1e-5);
}

/* Mean and biased variance of samples first … last − 1; returns their number. */
static int64_t moments(const batch *b, int64_t c, int64_t first, int64_t last, double *mean, double *var)
{
    int64_t k = 0;
    *mean = *var = 0;
    for (int pass = 0; pass < 2; pass++) {
        for (int64_t n = first; n < last; n++)
            for (int64_t s = 0; s < b->s; s++) {
                const double value = ek_tensor_at(b->x, at(b, n, c, s));
                if (is_valid(b, n, s)) {
                    k += !pass;
                    *(pass ? var : mean) += pass ? (value - *mean) * (value - *mean) : value;
                }
            }
        *(pass ? var : mean) /= (double)k;
    }
    return k;
}

/* y, dx, and what these samples add to dγ, dβ, of y = γ·(x̂·r + d) + β over samples first … last − 1. */
static void expect(const batch *b, int64_t c, int64_t first, int64_t last, double gamma, double beta, double r,
                   double d, double *y, double *dx, double *d_gamma, double *d_beta)
{
    double mean, var, sum = 0, product = 0;
    const int64_t k = moments(b, c, first, last, &mean, &var);
    const double rstd = k > 1 ? 1 / sigma_of(var) : 0;
    for (int pass = 0; pass < 2; pass++)
        for (int64_t n = first; n < last; n++)
            for (int64_t s = 0; s < b->s; s++) {
                const int64_t i = at(b, n, c, s);
                const double x_hat = (ek_tensor_at(b->x, i) - mean) * rstd, dy = ek_tensor_at(b->dy, i);
                if (!is_valid(b, n, s))
                    continue;
                if (pass) {
                    y[i] = gamma * (x_hat * r + d) + beta;
                    dx[i] = rstd * gamma * r * (dy - sum / (double)k - x_hat * product / (double)k);
                } else {
                    sum += dy;
                    product += dy * x_hat;
                    *d_gamma += dy * (x_hat * r + d);
                    *d_beta += dy;
                }
            }
}

static void assert_near(const char *what, const ek_tensor *t, const double *expected, double scale)
{
    ck_made(t);
    for (int64_t i = 0; i < ek_tensor_numel(t); i++)
        ck_each(fabs(ek_tensor_at(t, i) - expected[i]) <= tolerance * scale, "%s[%lld] is %.17g, expected %.17g", what,
                (long long)i, ek_tensor_at(t, i), expected[i]);
}

/* A forward and a backward of the layer against y, dx, dγ, dβ. */
static void assert_pass(ek_module *bn, batch *b, const double *y, const double *dx, const double *d_gamma,
                        const double *d_beta)
{
    ek_tape *t = ek_tape_new();
    ek_tensor *out = ek_forward(bn, t, b->x);
    ck_made(out);
    assert_near("y", out, y, 1);
    ck_ok(ek_backward_from(t, out, b->dy));
    assert_near("dx", ek_tensor_grad(b->x), dx, 1);
    assert_near("dγ", ek_tensor_grad(ek_module_parameter(bn, "weight")), d_gamma, 10);
    assert_near("dβ", ek_tensor_grad(ek_module_parameter(bn, "bias")), d_beta, 10);
    ek_tape_free(t);
    ek_module_clear_grad(bn);
    ek_tensor_clear_grad(b->x);
}

static ek_module *make(const batch *b, ek_batch_norm_opts opts)
{
    opts.channel_axis = b->last ? EK_CHANNELS_LAST : 1;
    ek_module *bn = ek_batch_norm1d(b->c, &opts);
    ck_made(bn);
    ck_ok(ek_module_to(bn, EK_F64));
    draw_parameters(bn, 3);
    return bn;
}

static ek_batch_norm_opts with_ghosts(int64_t size)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.ghost_batch_size = size;
    return opts;
}

static ek_batch_norm_opts with_renorm(double r_max, double d_max)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.r_max = r_max;
    opts.d_max = d_max;
    return opts;
}

/* ---- ghost batches ----------------------------------------------------------------------------------------------- */

static const int64_t steps[7] = {3, 1, 2, 3, 3, 2, 1};
static const struct ghost_case {
    batch b;
    int64_t size, bounds[8]; /* where ghosts begin, and the end */
} ghost_cases[] = {
    {{6, 3, 4, .last = false}, 3, {0, 3, 6}},                    /* alike */
    {{7, 3, 4, .last = false}, 3, {0, 3, 6, 7}},                 /* the last one smaller */
    {{7, 3, 1, .last = false}, 3, {0, 3, 7}},                    /* one value joins the ghost before */
    {{4, 3, 1, .last = false}, 3, {0, 4}},                       /* which then is the whole batch */
    {{5, 2, 3, .last = false}, 1, {0, 1, 2, 3, 4, 5}},           /* each sample by itself */
    {{7, 3, 4, .last = true}, 3, {0, 3, 6, 7}},                  /* channels last */
    {{7, 3, 3, .last = false, .steps = steps}, 2, {0, 2, 4, 7}}, /* sequences: the last one has one step */
    {{6, 3, 3, .last = true, .steps = steps}, 1, {0, 1, 2, 3, 4, 5, 6}}, /* where one has a single element: β */
};
enum { GHOST_CASES = sizeof ghost_cases / sizeof *ghost_cases };

START_TEST(ghosts_have_statistics_of_their_own)
{
    const struct ghost_case *g = &ghost_cases[_i];
    batch b = g->b;
    fill(&b, 5);
    double y[100] = {0}, dx[100] = {0}, d_gamma[3] = {0}, d_beta[3] = {0};
    ek_module *bn = make(&b, with_ghosts(g->size)), *plain = make(&b, ek_batch_norm_opts_default());
    for (int64_t c = 0; c < b.c; c++)
        for (int k = 0; g->bounds[k] < b.n; k++)
            expect(&b, c, g->bounds[k], g->bounds[k + 1], state_at(bn, "weight", c), state_at(bn, "bias", c), 1, 0, y,
                   dx, &d_gamma[c], &d_beta[c]);
    assert_pass(bn, &b, y, dx, d_gamma, d_beta);
    feed(plain, b.x); /* the running statistics are those of the whole batch */
    for (int64_t c = 0; c < b.c; c++) {
        ck_near(state_at(bn, "running_mean", c), state_at(plain, "running_mean", c), tolerance);
        ck_near(state_at(bn, "running_var", c), state_at(plain, "running_var", c), tolerance);
    }
    ck_assert_double_eq(state_at(bn, "num_batches_tracked", 0), 1);
    empty(&b);
    ek_module_free(bn);
    ek_module_free(plain);
}
END_TEST

static ek_tensor *apply_to(ek_tape *tape, ek_tensor *const *inputs, void *user)
{
    (void)inputs;
    return ek_forward(user, tape, inputs[0]);
}

static void check_gradients(ek_module *bn, batch *b)
{
    ek_tensor *inputs[] = {b->x, ek_module_parameter(bn, "weight"), ek_module_parameter(bn, "bias")};
    ck_ok(ek_gradcheck(apply_to, bn, inputs, 3, NULL, NULL));
}

START_TEST(ghost_gradients)
{
    batch b = ghost_cases[_i].b;
    fill(&b, 9);
    ek_module *bn = make(&b, with_ghosts(ghost_cases[_i].size));
    check_gradients(bn, &b);
    empty(&b);
    ek_module_free(bn);
}
END_TEST

/* Bit for bit: outputs, gradients, running statistics. */
static void assert_same_bits(ek_module *a, ek_module *b, ek_tensor *x, ek_tensor *dy)
{
    ek_module *modules[] = {a, b};
    ek_tensor *y[2], *dx[2], *d_gamma[2];
    for (int k = 0; k < 2; k++) {
        ek_tape *t = ek_tape_new();
        ek_tensor *out = ek_forward(modules[k], t, x);
        ck_made(out);
        ck_ok(ek_backward_from(t, out, dy));
        y[k] = ek_tensor_clone(out);
        dx[k] = ek_tensor_clone(ek_tensor_grad(x));
        ek_tensor *grad = ek_tensor_grad(ek_module_parameter(modules[k], "weight"));
        d_gamma[k] = ek_tensor_clone(grad);
        ek_tape_free(t);
        ek_tensor_clear_grad(x);
        ek_module_clear_grad(modules[k]);
    }
    ck_assert(ek_tensor_equal(y[0], y[1]) && ek_tensor_equal(dx[0], dx[1]) && ek_tensor_equal(d_gamma[0], d_gamma[1]));
    ek_tensor *state = copy_state(b);
    assert_state("the same", a, state);
    for (int k = 0; k < 2; k++) {
        ek_tensor_free(y[k]);
        ek_tensor_free(dx[k]);
        ek_tensor_free(d_gamma[k]);
    }
    ek_tensor_free(state);
}

/* A ghost as large as the batch, or larger; limits of 1 and 0; and evaluation. */
START_TEST(where_the_variants_are_plain)
{
    batch b = {6, 3, 4, .last = false};
    fill(&b, 1);
    ek_module *variants[] = {make(&b, with_ghosts(6)), make(&b, with_ghosts(100)), make(&b, with_renorm(1, 0)),
                             make(&b, with_ghosts(2)), make(&b, with_renorm(2, 1))};
    for (int k = 0; k < 5; k++) {
        ek_module *plain = make(&b, ek_batch_norm_opts_default());
        if (k < 3)
            assert_same_bits(variants[k], plain, b.x, b.dy);
        for (int choice = EK_STATS_AUTO; choice <= EK_STATS_FROZEN; choice++) {
            const bool running = choice == EK_STATS_RUNNING || choice == EK_STATS_FROZEN;
            ck_ok(ek_module_set_norm_statistics(plain, (ek_norm_statistics)choice));
            ck_ok(ek_module_set_norm_statistics(variants[k], (ek_norm_statistics)choice));
            if (running)
                assert_same_bits(variants[k], plain, b.x, b.dy);
            ek_module_eval(plain);
            ek_module_eval(variants[k]);
            assert_same_bits(variants[k], plain, b.x, b.dy);
            ek_module_train(plain);
            ek_module_train(variants[k]);
        }
        ek_module_free(variants[k]);
        ek_module_free(plain);
    }
    empty(&b);
}
END_TEST

START_TEST(a_ghost_of_one_value)
{
    ek_batch_norm_opts opts = with_ghosts(1);
    ek_module *bn = ek_batch_norm1d(3, &opts);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(4, 3), 0, 1, 1);
    assert_forward_fails(EK_ERR_SHAPE, "batch_norm1d(3): expected more than one value per channel in a ghost batch, "
                                       "got ghost_batch_size 1 and (4, 3); use a larger one", bn, x);
    ek_module_eval(bn);
    feed(bn, x);
    ek_tensor_free(x);
    ek_module_free(bn);
}
END_TEST

/* ---- batch renormalization --------------------------------------------------------------------------------------- */

static double clip(double value, double low, double high)
{
    return fmin(fmax(value, low), high);
}

/* Limits that hold nothing back, that hold all back, and between. */
static const double limits[][2] = {{INFINITY, INFINITY}, {1.01, 0.01}, {1.3, 0.4}, {1, 0.3}, {1.5, 0}};
enum { LIMITS = sizeof limits / sizeof *limits };

/* Running statistics near those of the batches, but for channel 2. */
static void set_running(ek_module *bn)
{
    const double mean[] = {1.5, 2.2, -4}, var[] = {8, 10, 40};
    ck_ok(ek_tensor_write(ek_module_buffer(bn, "running_mean"), mean, sizeof mean));
    ck_ok(ek_tensor_write(ek_module_buffer(bn, "running_var"), var, sizeof var));
}

START_TEST(renormalized_by_the_definition)
{
    const double r_max = limits[_i / 3][0], d_max = limits[_i / 3][1];
    batch b = {7, 3, 4, .last = _i % 3 == 1, .steps = _i % 3 == 2 ? (const int64_t[]){3, 1, 2, 4, 3, 2, 1} : NULL};
    fill(&b, 21);
    double y[100] = {0}, dx[100] = {0}, d_gamma[3] = {0}, d_beta[3] = {0}, mean, var;
    ek_module *bn = make(&b, with_renorm(r_max, d_max)), *plain = make(&b, ek_batch_norm_opts_default());
    set_running(bn);
    set_running(plain);
    for (int64_t c = 0; c < b.c; c++) {
        const double sigma = sigma_of(state_at(bn, "running_var", c));
        moments(&b, c, 0, b.n, &mean, &var);
        const double r = clip(sigma_of(var) / sigma, 1 / r_max, r_max);
        const double d = clip((mean - state_at(bn, "running_mean", c)) / sigma, -d_max, d_max);
        expect(&b, c, 0, b.n, state_at(bn, "weight", c), state_at(bn, "bias", c), r, d, y, dx, &d_gamma[c], &d_beta[c]);
    }
    ek_module_eval(bn);
    ek_tensor *by_running = apply_layer(bn, b.x);
    ek_module_train(bn);
    if (isinf(r_max)) /* nothing is held back: the values of evaluation */
        assert_near("evaluation", by_running, y, 1);
    assert_pass(bn, &b, y, dx, d_gamma, d_beta);
    feed(plain, b.x);
    ek_tensor *expected = copy_state(plain);
    assert_state("statistics move as without", bn, expected);
    ek_tensor_free(by_running);
    ek_tensor_free(expected);
    empty(&b);
    ek_module_free(bn);
    ek_module_free(plain);
}
END_TEST

/* With r and d at their limits they are constants, which differences see as the backward pass does. */
START_TEST(renorm_gradients)
{
    batch b = {7, 3, 4, .last = _i == 1, .steps = _i == 2 ? (const int64_t[]){3, 1, 2, 4, 3, 2, 1} : NULL};
    fill(&b, 23);
    ek_module *bn = make(&b, with_renorm(1.2, 0.5));
    const double mean[] = {12, -10, 15}, var[] = {90, 1, 100};
    ck_ok(ek_tensor_write(ek_module_buffer(bn, "running_mean"), mean, sizeof mean));
    ck_ok(ek_tensor_write(ek_module_buffer(bn, "running_var"), var, sizeof var));
    check_gradients(bn, &b);
    empty(&b);
    ek_module_free(bn);
}
END_TEST

/* float32, without γ and β; running_var + eps = 0 leaves a channel plain; a NaN comes through. */
START_TEST(renorm_corners)
{
    ek_batch_norm_opts opts = with_renorm(3, 5);
    opts.affine = false;
    opts.eps = 0;
    ek_module *bn = ek_batch_norm1d(2, &opts);
    ek_data_f32(ek_module_buffer(bn, "running_var"))[0] = 0;
    ek_tensor *x = F32(EK_SHAPE(2, 2), 1, 1, 3, 5), *y = apply_layer(bn, x);
    const double expected[] = {-1, -2 + 3, 1, 2 + 3}; /* channel 1: mean 3, σ 2 against 0, 1 */
    for (int i = 0; i < 4; i++)
        ck_near(ek_tensor_at(y, i), expected[i], 1e-6);
    ek_tensor *before = copy_state(bn);
    ek_data_f32(x)[1] = NAN;
    ek_tensor *z = apply_layer(bn, x);
    ck_assert(isnan(ek_tensor_at(z, 3)) && isfinite(ek_tensor_at(z, 2)));
    assert_state("a batch that is not finite", bn, before);
    ek_tensor *all[] = {x, y, z, before};
    for (int i = 0; i < 4; i++)
        ek_tensor_free(all[i]);
    ek_module_free(bn);
}
END_TEST

/* ek_sequential does the ReLU in the norm: it comes after r and d. */
START_TEST(a_relu_after_the_variants)
{
    batch b = {7, 3, 4, .last = false};
    fill(&b, 31);
    ek_batch_norm_opts opts = _i ? with_renorm(1.3, 0.4) : with_ghosts(3);
    ek_module *bn = make(&b, opts), *net = ek_sequential(make(&b, opts), ek_relu_layer());
    draw_parameters(ek_module_child(net, 0), 3);
    ek_tensor *y = apply_layer(bn, b.x), *z = apply_layer(net, b.x);
    for (int64_t i = 0; i < ek_tensor_numel(y); i++)
        ck_assert_double_eq(ek_tensor_at(z, i), fmax(ek_tensor_at(y, i), 0));
    ek_tensor_free(y);
    ek_tensor_free(z);
    empty(&b);
    ek_module_free(bn);
    ek_module_free(net);
}
END_TEST

START_TEST(limits_for_a_whole_net)
{
    ek_module *a = ek_batch_norm1d(3, NULL), *c = ek_batch_norm1d(3, NULL);
    ek_module *net = ek_sequential(a, ek_group_norm(1, 3, NULL), ek_residual(c));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 3), 4, 3, 1), *plain = apply_layer(c, x);
    ck_ok(ek_batch_norm_set_renorm(net, 3, 5));
    ek_tensor *renormalized = apply_layer(c, x);
    ck_assert(!ek_tensor_equal(plain, renormalized));
    ck_ok(ek_batch_norm_set_renorm(net, 1, 0));
    ek_tensor *again = apply_layer(c, x);
    ck_assert(ek_tensor_equal(plain, again));
    ek_tensor_free(x);
    ek_tensor_free(plain);
    ek_tensor_free(renormalized);
    ek_tensor_free(again);
    ek_module_free(net);
}
END_TEST

/* ---- both -------------------------------------------------------------------------------------------------------- */

START_TEST(thread_counts_do_not_matter)
{
    static const int threads[] = {1, 2, 3, 8};
    ek_batch_norm_opts opts = _i ? with_renorm(1.3, 0.4) : with_ghosts(3);
    const ek_shape shape = EK_SHAPE(10, 6, 40, 30);
    ek_tensor *x = normal(EK_F32, shape, 3, 2, 1), *dy = normal(EK_F32, shape, 0, 1, 2);
    ek_tensor *first[3] = {NULL};
    ck_ok(ek_tensor_set_requires_grad(x, true));
    for (int t = 0; t < 4; t++) {
        ck_ok(ek_set_num_threads(threads[t]));
        ek_module *bn = ek_batch_norm2d(6, &opts);
        draw_parameters(bn, 4);
        ek_tape *tape = ek_tape_new();
        ek_tensor *y = ek_forward(bn, tape, x);
        ck_made(y);
        ck_ok(ek_backward_from(tape, y, dy));
        ek_tensor *now[3] = {ek_tensor_clone(y), ek_tensor_clone(ek_tensor_grad(x)), copy_state(bn)};
        for (int i = 0; i < 3; i++) {
            ck_assert_msg(!first[i] || ek_tensor_equal(first[i], now[i]), "result %d with %d threads", i, threads[t]);
            ek_tensor_free(t ? now[i] : NULL);
            first[i] = t ? first[i] : now[i];
        }
        ek_tape_free(tape);
        ek_tensor_clear_grad(x);
        ek_module_free(bn);
    }
    for (int i = 0; i < 3; i++)
        ek_tensor_free(first[i]);
    ek_tensor_free(x);
    ek_tensor_free(dy);
}
END_TEST

START_TEST(options_that_are_refused)
{
    ek_batch_norm_opts opts = with_ghosts(-1);
    ck_refused(EK_ERR_ARGUMENT, "batch_norm1d(3): expected ghost_batch_size ≥ 0, got -1", ek_batch_norm1d(3, &opts));
    const double bad[][2] = {{0.5, 0}, {1, -1}, {NAN, 0}, {1, NAN}};
    for (int k = 0; k < 4; k++) {
        opts = with_renorm(bad[k][0], bad[k][1]);
        ck_refused(EK_ERR_ARGUMENT, "batch_norm2d(3): expected r_max ≥ 1 and d_max ≥ 0, got ",
                   ek_batch_norm2d(3, &opts));
    }
    opts = with_renorm(2, 1);
    opts.track_running_stats = false;
    ck_refused(EK_ERR_ARGUMENT, "batch renormalization needs the running statistics, but track_running_stats is off",
               ek_batch_norm3d(3, &opts));
    opts = with_renorm(2, 1);
    opts.ghost_batch_size = 4;
    ck_refused(EK_ERR_ARGUMENT, "batch renormalization has one correction per channel, so it does not go with ghost "
                                "batches: set ghost_batch_size = 0, or r_max = 1 and d_max = 0",
               ek_batch_norm1d(3, &opts));
    ek_instance_norm_opts in = ek_instance_norm_opts_default();
    in.ghost_batch_size = 4;
    ck_refused(EK_ERR_ARGUMENT, "instance_norm1d(3): ghost_batch_size, r_max and d_max are BatchNorm's: leave the "
                                "defaults", ek_instance_norm1d(3, &in));
}
END_TEST

START_TEST(limits_that_are_refused)
{
    ek_batch_norm_opts ghosts = with_ghosts(4), untracked = ek_batch_norm_opts_default();
    untracked.track_running_stats = false;
    ek_module *first = ek_batch_norm1d(3, NULL), *net = ek_sequential(first, ek_batch_norm1d(3, &ghosts));
    ek_module *other = ek_sequential(ek_batch_norm1d(3, &untracked)), *none = ek_group_norm(1, 3, NULL);
    ek_tensor *x = normal(EK_F32, EK_SHAPE(5, 3), 4, 3, 1), *before = apply_layer(first, x);
    ck_assert_int_eq(ek_batch_norm_set_renorm(NULL, 1, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_set_renorm: the module is NULL");
    ck_assert_int_eq(ek_batch_norm_set_renorm(net, 0.5, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_set_renorm: expected r_max ≥ 1 and d_max ≥ 0, got 0.5 and 0");
    ck_assert_int_eq(ek_batch_norm_set_renorm(net, 1, NAN), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_batch_norm_set_renorm(none, 2, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_set_renorm: no BatchNorm at or below group_norm(1, 3)");
    ck_assert_int_eq(ek_batch_norm_set_renorm(other, 2, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm_set_renorm: batch_norm1d(3) keeps no running statistics to renormalize by");
    ck_assert_int_eq(ek_batch_norm_set_renorm(net, 2, 1), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "batch_norm1d(3) has ghost batches, which batch renormalization does not go with");
    ek_tensor *after = apply_layer(first, x);
    ck_assert(ek_tensor_equal(before, after)); /* the first one was not set */
    ck_ok(ek_batch_norm_set_renorm(net, 1, 0));
    ck_ok(ek_batch_norm_set_renorm(other, 1, 0));
    ek_tensor_free(x);
    ek_tensor_free(before);
    ek_tensor_free(after);
    ek_module_free(net);
    ek_module_free(other);
    ek_module_free(none);
}
END_TEST

/* Ghosts are parts of the batch for a pool, too. */
START_TEST(ghosts_are_pooled)
{
    batch b = {7, 3, 4, .last = false};
    fill(&b, 41);
    ek_module *bn = make(&b, with_ghosts(3)), *plain = make(&b, ek_batch_norm_opts_default());
    ck_ok(ek_module_begin_pooling(bn));
    feed(bn, b.x);
    ck_ok(ek_module_commit_statistics(bn));
    feed(plain, b.x);
    for (int64_t c = 0; c < b.c; c++)
        ck_near(state_at(bn, "running_var", c), state_at(plain, "running_var", c), tolerance);
    empty(&b);
    ek_module_free(bn);
    ek_module_free(plain);
}
END_TEST

static ek_status use_variants(void)
{
    ek_batch_norm_opts ghosts = with_ghosts(2), renorm = with_renorm(2, 1);
    ek_module *net = ek_sequential(ek_batch_norm1d(2, &ghosts), ek_batch_norm1d(2, &renorm));
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(5, 2));
    if (x && net && tape && ek_tensor_set_requires_grad(x, true) == EK_OK) {
        ek_tensor *y = ek_forward(net, tape, x);
        if (y)
            ek_backward(tape, ek_sum(tape, y, EK_ALL_AXES, false));
    }
    ek_status status = !x || !net || !tape ? EK_ERR_MEMORY : ek_tape_status(tape);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    return status;
}

START_TEST(memory_runs_out)
{
    ck_ok(ek_set_num_threads(1));
    ck_assert_int_gt(assert_survives_refusals(use_variants), 5);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("batch norm variants");
    TCase *tcase = tcase_create("batch norm variants");
    tcase_add_loop_test(tcase, ghosts_have_statistics_of_their_own, 0, GHOST_CASES);
    tcase_add_loop_test(tcase, ghost_gradients, 0, GHOST_CASES);
    tcase_add_test(tcase, where_the_variants_are_plain);
    tcase_add_test(tcase, a_ghost_of_one_value);
    tcase_add_loop_test(tcase, renormalized_by_the_definition, 0, 3 * LIMITS);
    tcase_add_loop_test(tcase, renorm_gradients, 0, 3);
    tcase_add_test(tcase, renorm_corners);
    tcase_add_loop_test(tcase, a_relu_after_the_variants, 0, 2);
    tcase_add_test(tcase, limits_for_a_whole_net);
    tcase_add_loop_test(tcase, thread_counts_do_not_matter, 0, 2);
    tcase_add_test(tcase, options_that_are_refused);
    tcase_add_test(tcase, limits_that_are_refused);
    tcase_add_test(tcase, ghosts_are_pooled);
    tcase_add_test(tcase, memory_runs_out);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
