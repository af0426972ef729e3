/* How far the norms of float32 are from the truth: ours, and those of a peer that answers as accuracy.py does.
 *
 *   accuracy [--match PATTERN] CASES [TO FROM]      TO, FROM: named pipes to and from the peer
 *
 * Everyone gets the same float32 numbers; the truth is computed from them by sums from the definitions in long double.
 * One line per case and result on standard output, separated by tabs:
 *
 *   case  result  ours_max  peer_max  ours_rms  peer_rms  ours_spacings  peer_spacings
 *
 * max: the largest error over the largest true value; rms: the same of root mean squares; spacings, of y: the largest
 * error in units of the float32 spacing at the largest of |y|, |γ·x̂| and |β|, which are what the last sum rounds.
 * The last lines, which begin with #, say in how many lines ours are at least as small, and name the others.
 */
#include <fnmatch.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "norm_layer.h"

enum { Y, DX, DGAMMA, DBETA, RUNNING_MEAN, RUNNING_VAR, RESULTS };
enum { OURS, PEER, SIDES };
enum { MOST_WORSE = 1024, NAME_BYTES = 192 };
static const char *const result_names[] = {"y", "dx", "dgamma", "dbeta", "running_mean", "running_var"};

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "accuracy: %s\n", what);
    exit(EXIT_FAILURE);
}

static void *allocate(int64_t n, size_t size)
{
    void *memory = calloc((size_t)n + 1, size);
    if (!memory)
        die("out of memory");
    return memory;
}

static void need(bool done)
{
    if (!done)
        die(ek_last_error());
}

/* ---- a case ------------------------------------------------------------------------------------------------------ */

/* Element i belongs to the statistics group and to the affine group that the views say (autograd.h). */
typedef struct layout {
    ek_view stats, affine;
    int64_t numel, groups, count, channels; /* statistics groups, elements of each; affine groups */
    bool running;                           /* there are running statistics: of `channels` */
} layout;

static int64_t group_of(ek_view v, int64_t i)
{
    const int64_t row = i / v.inner;
    return row / (v.group * v.outer) * v.group + row % v.group;
}

static layout layout_of(const bench_case *c)
{
    const int64_t n = c->dim[0], channels = c->dim[1], plane = c->numel / (n * channels);
    layout l = {.stats = {1, n, channels, plane}, .affine = {1, n, channels, plane}, .numel = c->numel,
                .channels = channels, .running = bench_option(c, "latest", 0)};
    if (!strcmp(c->kind, "ln"))
        l.stats = (ek_view){n, 1, 1, channels * plane};
    else if (!strcmp(c->kind, "in_affine"))
        l.stats = (ek_view){n, 1, channels, plane};
    else if (!strcmp(c->kind, "gn"))
        l.stats = (ek_view){n, 1, bench_option(c, "groups", 1), channels / bench_option(c, "groups", 1) * plane};
    else if (strcmp(c->kind, "bn") != 0)
        die("the cases may be of bn, ln, in_affine and gn");
    l.groups = l.stats.batch * l.stats.group;
    l.count = l.numel / l.groups;
    return l;
}

static int64_t size_of(const layout *l, int result)
{
    return result <= DX ? l->numel : result <= DBETA || l->running ? l->channels : 0;
}

/* The same float32 numbers for everyone: x around its mean with deviation 1, dy likewise around 0, γ around 1. */
typedef struct inputs {
    ek_tensor *x, *dy, *gamma, *beta;
} inputs;

static inputs draw(const bench_case *c, const layout *l)
{
    ek_rng rng = ek_rng_seed(4);
    inputs in = {ek_normal(EK_F32, bench_shape(c), strtod(c->variant, NULL), 1, &rng),
                 ek_normal(EK_F32, bench_shape(c), 0, 1, &rng), ek_normal(EK_F32, EK_SHAPE(l->channels), 1, 0.3, &rng),
                 ek_normal(EK_F32, EK_SHAPE(l->channels), 0, 1, &rng)};
    need(in.x && in.dy && in.gamma && in.beta && ek_tensor_set_requires_grad(in.x, true) == EK_OK);
    return in;
}

static void free_inputs(inputs *in)
{
    ek_tensor_free(in->x);
    ek_tensor_free(in->dy);
    ek_tensor_free(in->gamma);
    ek_tensor_free(in->beta);
}

static const float *floats(const ek_tensor *t)
{
    return ek_tensor_const_data(t);
}

/* ---- ours -------------------------------------------------------------------------------------------------------- */

typedef struct outputs {
    float *of[RESULTS];
} outputs;

static float *copy_of(const ek_tensor *t)
{
    need(t != NULL);
    float *copy = allocate(ek_tensor_numel(t), sizeof *copy);
    memcpy(copy, floats(t), (size_t)ek_tensor_numel(t) * sizeof *copy);
    return copy;
}

static void free_outputs(outputs *out)
{
    for (int r = 0; r < RESULTS; r++)
        free(out->of[r]);
}

static void set_parameter(ek_module *layer, const char *name, const ek_tensor *values)
{
    ek_tensor *parameter = ek_module_parameter(layer, name);
    need(parameter != NULL);
    memcpy(ek_data_f32(parameter), floats(values), (size_t)ek_tensor_numel(values) * sizeof(float));
}

static outputs compute_ours(const bench_case *c, const layout *l, const inputs *in)
{
    ek_module *layer = bench_norm(c);
    ek_tape *tape = ek_tape_new();
    need(layer && tape);
    set_parameter(layer, "weight", in->gamma);
    set_parameter(layer, "bias", in->beta);
    ek_tensor_clear_grad(in->x);
    ek_tensor *y = ek_forward(layer, tape, in->x);
    need(y && ek_backward_from(tape, y, in->dy) == EK_OK);
    outputs out = {{copy_of(y), copy_of(ek_tensor_grad(in->x)),
                    copy_of(ek_tensor_grad(ek_module_parameter(layer, "weight"))),
                    copy_of(ek_tensor_grad(ek_module_parameter(layer, "bias"))), NULL, NULL}};
    if (l->running) {
        out.of[RUNNING_MEAN] = copy_of(ek_module_buffer(layer, "running_mean"));
        out.of[RUNNING_VAR] = copy_of(ek_module_buffer(layer, "running_var"));
    }
    ek_tape_free(tape);
    ek_module_free(layer);
    return out;
}

/* ---- the peer ---------------------------------------------------------------------------------------------------- */

typedef struct peer {
    FILE *to, *from;
} peer;

static bool exchange(const peer *p, const bench_case *c, const layout *l, const inputs *in, outputs *out)
{
    char answer[64];
    fprintf(p->to, "%s %s", c->kind, c->size);
    for (int i = 0; i < c->n_options; i++)
        fprintf(p->to, " %s", c->options[i]);
    fputc('\n', p->to);
    const ek_tensor *const sent[] = {in->x, in->dy, in->gamma, in->beta};
    for (int i = 0; i < 4; i++)
        fwrite(floats(sent[i]), sizeof(float), (size_t)ek_tensor_numel(sent[i]), p->to);
    if (fflush(p->to) != 0 || !fgets(answer, sizeof answer, p->from) || strcmp(answer, "ready\n") != 0)
        return false;
    for (int r = 0; r < RESULTS; r++) {
        const size_t n = (size_t)size_of(l, r);
        out->of[r] = allocate((int64_t)n, sizeof(float));
        if (fread(out->of[r], sizeof(float), n, p->from) != n)
            return false;
    }
    return true;
}

/* False, once and for all, where there is no peer or it has gone. */
static bool compute_peers(peer *p, const bench_case *c, const layout *l, const inputs *in, outputs *out)
{
    if (!p->to)
        return false;
    if (exchange(p, c, l, in, out))
        return true;
    fputs("accuracy: the peer gives no answer: going on without\n", stderr);
    p->to = NULL;
    return false;
}

/* ---- the truth --------------------------------------------------------------------------------------------------- */

typedef struct truth {
    long double *mean, *rstd, *s1, *s2; /* [groups]; Σ γ·dy/K and Σ γ·dy·x̂/K */
    long double *small[RESULTS];        /* dγ, dβ and running statistics, [channels] */
} truth;

static long double hat(const truth *t, int64_t g, double x)
{
    return ((long double)x - t->mean[g]) * t->rstd[g];
}

/* Means over samples of what InstanceNorm's groups have; BatchNorm has a group per channel. */
static void add_running(const layout *l, const long double *var, truth *t)
{
    const int64_t each = l->groups / l->channels;
    for (int64_t g = 0; l->running && g < l->groups; g++) {
        t->small[RUNNING_MEAN][g % l->channels] += t->mean[g] / (long double)each;
        t->small[RUNNING_VAR][g % l->channels] += var[g] / ((long double)(l->count - 1) * (long double)each);
    }
}

static truth find_truth(const layout *l, const inputs *in)
{
    const float *x = floats(in->x), *dy = floats(in->dy), *gamma = floats(in->gamma);
    truth t = {allocate(l->groups, sizeof(long double)), allocate(l->groups, sizeof(long double)),
               allocate(l->groups, sizeof(long double)), allocate(l->groups, sizeof(long double)), {NULL}};
    for (int r = DGAMMA; r < RESULTS; r++)
        t.small[r] = allocate(l->channels, sizeof(long double));
    const long double count = (long double)l->count;
    for (int64_t i = 0; i < l->numel; i++)
        t.mean[group_of(l->stats, i)] += (long double)x[i];
    for (int64_t g = 0; g < l->groups; g++)
        t.mean[g] /= count;
    for (int64_t i = 0; i < l->numel; i++) {
        const int64_t g = group_of(l->stats, i);
        const long double d = (long double)x[i] - t.mean[g];
        t.rstd[g] += d * d;
    }
    add_running(l, t.rstd, &t);
    for (int64_t g = 0; g < l->groups; g++)
        t.rstd[g] = 1 / sqrtl(t.rstd[g] / count + (long double)1e-5);
    for (int64_t i = 0; i < l->numel; i++) {
        const int64_t g = group_of(l->stats, i), a = group_of(l->affine, i);
        const long double d = (long double)dy[i], product = d * hat(&t, g, (double)x[i]);
        t.small[DBETA][a] += d;
        t.small[DGAMMA][a] += product;
        t.s1[g] += (long double)gamma[a] * d / count;
        t.s2[g] += (long double)gamma[a] * product / count;
    }
    return t;
}

static void free_truth(truth *t)
{
    free(t->mean);
    free(t->rstd);
    free(t->s1);
    free(t->s2);
    for (int r = DGAMMA; r < RESULTS; r++)
        free(t->small[r]);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

typedef struct error {
    double max, square, spacings; /* largest, Σ of squares, largest in units of the spacing */
} error;

typedef struct errors {
    double largest, square; /* of the true values */
    error side[SIDES];
} errors;

static double spacing(double size)
{
    return ldexp(1, ilogb(fmax(size, 0x1p-126)) - 23);
}

/* `size`: what the last rounding is relative to; 0 where that is not asked. */
static void note(errors *e, long double value, double size, const outputs *out, int result, int64_t i)
{
    e->largest = fmax(e->largest, (double)fabsl(value));
    e->square += (double)(value * value);
    for (int s = 0; s < SIDES; s++) {
        if (!out[s].of[result])
            continue;
        const double got = (double)out[s].of[result][i];
        const double off = isfinite(got) ? (double)fabsl((long double)got - value) : (double)INFINITY;
        error *side = &e->side[s];
        side->max = fmax(side->max, off);
        side->square += off * off;
        if (size > 0)
            side->spacings = fmax(side->spacings, off / spacing(size));
    }
}

static void compare(const layout *l, const inputs *in, const truth *t, const outputs *out, errors *e)
{
    const float *x = floats(in->x), *dy = floats(in->dy), *gamma = floats(in->gamma), *beta = floats(in->beta);
    for (int64_t i = 0; i < l->numel; i++) {
        const int64_t g = group_of(l->stats, i), a = group_of(l->affine, i);
        const long double h = hat(t, g, (double)x[i]), scaled = (long double)gamma[a] * h;
        const long double y = scaled + (long double)beta[a];
        const double size = fmax(fmax((double)fabsl(y), (double)fabsl(scaled)), fabs((double)beta[a]));
        note(&e[Y], y, size, out, Y, i);
        const long double own = (long double)gamma[a] * (long double)dy[i];
        note(&e[DX], t->rstd[g] * (own - t->s1[g] - h * t->s2[g]), 0, out, DX, i);
    }
    for (int r = DGAMMA; r < RESULTS; r++)
        for (int64_t i = 0; i < size_of(l, r); i++)
            note(&e[r], t->small[r][i], 0, out, r, i);
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

typedef struct worse {
    char name[NAME_BYTES];
    int result;
    double max[SIDES], rms[SIDES];
} worse;

typedef struct report {
    const char *pattern;
    peer peer;
    int lines, compared, as_good, n_worse;
    worse at[MOST_WORSE];
} report;

static void number(bool known, double value)
{
    if (known)
        printf("\t%.2e", value);
    else
        fputs("\t-", stdout);
}

static void print_line(report *to, const char *name, int result, const errors *e, bool both)
{
    worse line = {.result = result};
    double *max = line.max, *rms = line.rms;
    for (int s = 0; s < SIDES; s++) {
        max[s] = e->side[s].max / e->largest;
        rms[s] = sqrt(e->side[s].square / e->square);
    }
    printf("%s\t%s", name, result_names[result]);
    number(true, max[OURS]);
    number(both, max[PEER]);
    number(true, rms[OURS]);
    number(both, rms[PEER]);
    number(result == Y, e->side[OURS].spacings);
    number(result == Y && both, e->side[PEER].spacings);
    putchar('\n');
    to->lines++;
    if (!both)
        return;
    to->compared++;
    if (max[OURS] <= max[PEER] && rms[OURS] <= rms[PEER]) {
        to->as_good++;
    } else if (to->n_worse < MOST_WORSE) {
        memcpy(line.name, name, strlen(name) + 1);
        to->at[to->n_worse++] = line;
    }
}

static void summarize(const report *r)
{
    if (r->compared)
        printf("# ours at least as accurate in %d of %d\n", r->as_good, r->compared);
    for (const worse *w = r->at; w < r->at + r->n_worse; w++)
        printf("# the peer is better: %s %s: max %.2e against %.2e (%.2f times), rms %.2e against %.2e (%.2f times)\n",
               w->name, result_names[w->result], w->max[OURS], w->max[PEER], w->max[OURS] / w->max[PEER], w->rms[OURS],
               w->rms[PEER], w->rms[OURS] / w->rms[PEER]);
}

static bool measure(void *user, const bench_case *c)
{
    report *to = user;
    char name[NAME_BYTES];
    snprintf(name, sizeof name, "%s_%s_mean%s", c->kind, c->size, c->variant);
    if (to->pattern && !strstr(name, to->pattern) && fnmatch(to->pattern, name, 0) != 0)
        return true;
    const layout l = layout_of(c);
    inputs in = draw(c, &l);
    outputs out[SIDES] = {compute_ours(c, &l, &in), {{NULL}}};
    const bool both = compute_peers(&to->peer, c, &l, &in, &out[PEER]);
    truth t = find_truth(&l, &in);
    errors e[RESULTS] = {{0}};
    compare(&l, &in, &t, out, e);
    for (int r = 0; r < RESULTS; r++)
        if (size_of(&l, r) > 0)
            print_line(to, name, r, &e[r], both);
    fflush(stdout);
    free_truth(&t);
    free_outputs(&out[OURS]);
    free_outputs(&out[PEER]);
    free_inputs(&in);
    return true;
}

int main(int argc, char **argv)
{
    static report to;
    const char *path[3] = {NULL};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--match") && i + 1 < argc)
            to.pattern = argv[++i];
        else if (n < 3)
            path[n++] = argv[i];
    }
    if (n != 1 && n != 3)
        die("expected [--match PATTERN] CASES [TO FROM]");
    signal(SIGPIPE, SIG_IGN);
    if (n == 3) {
        to.peer = (peer){fopen(path[1], "w"), fopen(path[2], "r")};
        if (!to.peer.to || !to.peer.from)
            die("cannot open the pipes to the peer");
    }
    puts("case\tresult\tours_max\tpeer_max\tours_rms\tpeer_rms\tours_spacings\tpeer_spacings");
    if (bench_each_case(path[0], measure, &to) < 0)
        die("cannot read the cases");
    if (to.lines == 0)
        die("no case matches");
    summarize(&to);
    return EXIT_SUCCESS;
}
