/* What a training step of an LSTM costs: against the number of steps T, all sequences being T long, and against the sum
 * of the lengths, the padded tensor staying as large as it is.  Both curves as TSV, each with the straight line through
 * it.
 */
#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { POINTS = 8 };

typedef struct setting {
    int64_t batch, steps, features, hidden, repetitions, seed;
} setting;

typedef struct point {
    int64_t steps, total; /* padded steps of one sequence; valid steps of all */
    double milliseconds;
} point;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

/* Forward and backward, mean over time and features as the loss. */
static ek_status training_step(ek_module *lstm, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *loss = ek_mean(tape, ek_pool_time(tape, ek_forward(lstm, tape, x), 1, EK_POOL_MEAN), EK_ALL_AXES, false);
    const ek_status status = ek_backward(tape, loss);
    ek_module_clear_grad(lstm);
    ek_tape_reset(tape);
    return status;
}

/* The padded input of a point. */
static ek_tensor *make_input(const setting *s, const int64_t *lengths, point *p)
{
    ek_rng rng = ek_rng_named((uint64_t)s->seed, "input");
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(s->batch, p->steps, s->features), 0, 1, &rng);
    if (x && ek_tensor_set_lengths(x, lengths, s->batch, 0, 1) == EK_OK) {
        p->total = ek_tensor_lengths(x)->total;
        return x;
    }
    ek_tensor_free(x);
    return NULL;
}

/* All sequences are T long, T growing. */
static ek_tensor *steps_input(const setting *s, int k, int64_t *lengths, point *p)
{
    p->steps = s->steps * (k + 1) / POINTS;
    for (int64_t i = 0; i < s->batch; i++)
        lengths[i] = p->steps;
    return make_input(s, lengths, p);
}

/* The tensor stays (N, T, D): one sequence fills it, the others are drawn so that they fill a growing share of it. */
static ek_tensor *lengths_input(const setting *s, int k, int64_t *lengths, point *p)
{
    ek_rng rng = ek_rng_named((uint64_t)s->seed, "lengths");
    const double share = (k + 1.0) / POINTS, spread = fmin(share, 1 - share);
    p->steps = s->steps;
    for (int64_t i = 0; i < s->batch; i++) {
        const double drawn = (double)s->steps * (share + spread * (2 * ek_rng_uniform(&rng) - 1));
        lengths[i] = drawn < 1 ? 1 : (int64_t)drawn;
    }
    lengths[0] = s->steps;
    return make_input(s, lengths, p);
}

/* Goes round all points as often as there are repetitions, after one round that warms up, and keeps the fastest of
 * each: a machine that is busy for a while then slows all of them, not one. */
static ek_status measure(const setting *s, ek_module *lstm, ek_tape *tape, int64_t *lengths,
                         ek_tensor *(*input)(const setting *, int, int64_t *, point *), point *points)
{
    ek_tensor *x[POINTS] = {NULL};
    ek_status status = EK_OK;
    for (int k = 0; k < POINTS && status == EK_OK; k++) {
        points[k].milliseconds = INFINITY;
        x[k] = input(s, k, lengths, &points[k]);
        status = x[k] ? EK_OK : ek_last_status();
    }
    for (int64_t i = 0; i <= s->repetitions; i++)
        for (int k = 0; k < POINTS && status == EK_OK; k++) {
            const double start = now();
            status = training_step(lstm, tape, x[k]);
            if (i > 0)
                points[k].milliseconds = fmin(points[k].milliseconds, now() - start);
        }
    for (int k = 0; k < POINTS; k++)
        ek_tensor_free(x[k]);
    return status;
}

/* time = intercept + slope·total by least squares, and how much of the variation it explains. */
static void fit(const point *points, double *intercept, double *slope, double *r_squared)
{
    double x = 0, y = 0, xx = 0, xy = 0, yy = 0;
    for (int k = 0; k < POINTS; k++) {
        x += (double)points[k].total / POINTS;
        y += points[k].milliseconds / POINTS;
    }
    for (int k = 0; k < POINTS; k++) {
        const double dx = (double)points[k].total - x, dy = points[k].milliseconds - y;
        xx += dx * dx;
        xy += dx * dy;
        yy += dy * dy;
    }
    *slope = xy / xx;
    *intercept = y - *slope * x;
    *r_squared = xy * xy / (xx * yy);
}

static void print_curve(const char *title, const setting *s, const point *points)
{
    printf("\n# %s\nT\tpadded_steps\tvalid_steps\tms\tus_per_valid_step\n", title);
    for (int k = 0; k < POINTS; k++)
        printf("%lld\t%lld\t%lld\t%.3f\t%.3f\n", (long long)points[k].steps, (long long)(s->batch * points[k].steps),
               (long long)points[k].total, points[k].milliseconds,
               1e3 * points[k].milliseconds / (double)points[k].total);
    double intercept, slope, r_squared;
    fit(points, &intercept, &slope, &r_squared);
    const point *first = &points[0], *last = &points[POINTS - 1];
    printf("# time = %.3f ms + %.3f us per valid step, R² = %.4f; %.2f times the valid steps take %.2f times as long\n",
           intercept, 1e3 * slope, r_squared, (double)last->total / (double)first->total,
           last->milliseconds / first->milliseconds);
}

int main(int argc, char **argv)
{
    setting s = {.batch = 32, .steps = 256, .features = 64, .hidden = 128, .repetitions = 7, .seed = 0};
    int64_t threads = 1;
    const option options[] = {
        {"batch", "N", OPTION_INT, &s.batch, 2, "sequences"},
        {"steps", "N", OPTION_INT, &s.steps, POINTS, "T at most"},
        {"features", "N", OPTION_INT, &s.features, 1, "of each step"},
        {"hidden", "N", OPTION_INT, &s.hidden, 1, "units"},
        {"repetitions", "N", OPTION_INT, &s.repetitions, 1, "the fastest counts"},
        {"seed", "N", OPTION_INT, &s.seed, 0, "of input and lengths"},
        {"threads", "N", OPTION_INT, &threads, 0, "threads; one shows the work itself, 0: as many as there are cores"},
    };
    int status;
    if (!parse_options(argc, argv, "Time of a training step of an LSTM against T and against the sum of the lengths.",
                       options, (int)(sizeof options / sizeof options[0]), &status))
        return status;
    use_threads(threads);
    ek_module *lstm = ek_lstm(s.features, s.hidden, EK_BATCH_FIRST, NULL);
    ek_tape *tape = ek_tape_new();
    int64_t *lengths = malloc((size_t)s.batch * sizeof *lengths);
    point by_steps[POINTS], by_lengths[POINTS];
    const bool done = lstm && tape && lengths &&
                      measure(&s, lstm, tape, lengths, steps_input, by_steps) == EK_OK &&
                      measure(&s, lstm, tape, lengths, lengths_input, by_lengths) == EK_OK;
    if (done) {
        printf("# %s\n# LSTM, %lld sequences, %lld features, %lld units, forward and backward, fastest of %lld\n",
               ek_build_info(), (long long)s.batch, (long long)s.features, (long long)s.hidden,
               (long long)s.repetitions);
        print_curve("every sequence T long", &s, by_steps);
        print_curve("padded to the same T, growing lengths", &s, by_lengths);
        const point *sparse = &by_lengths[0], *full = &by_lengths[POINTS - 1];
        printf("\n# At %.0f %% padding a step takes %.0f %% of the time of the full tensor: the cost %s.\n",
               100 * (1 - (double)sparse->total / (double)(s.batch * s.steps)),
               100 * sparse->milliseconds / full->milliseconds,
               sparse->milliseconds < 0.5 * full->milliseconds ? "follows the valid steps, not N·T"
                                                               : "does NOT follow the valid steps in this run");
    }
    status = done ? EXIT_SUCCESS : report_failure("sequence_cost");
    free(lengths);
    ek_tape_free(tape);
    ek_module_free(lstm);
    return status;
}
