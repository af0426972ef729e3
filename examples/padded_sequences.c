/* What padding does to each norm.
 *
 * First two sentences of 30 and 8 words, padded to 30: the mean and variance that BatchNorm, LayerNorm over time and
 * features, and LayerNorm over features see, with the padding, without it, and masked.  Then, as the share of padding
 * grows: how far BatchNorm's statistics move, whether LayerNorm per word keeps its bits, and what becomes of the same
 * recurrent classifier with each norm, trained at that share and then served both so and alone.
 */
#include "sequences.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { N_SHARES = 6, N_NETS = 12, MOST_SEEDS = 20 };
/* Batches are made among BUCKET times as many texts, of similar length: else none had little padding. */
enum { BATCH = 32, BUCKET = 32, FEATURES = 16, HIDDEN = 32, GROUPS = 4 };
enum { LONG_SENTENCE = 30, SHORT_SENTENCE = 8 };

/* Of all steps in a batch; MIXED: of each batch another one, up to the largest. */
#define MIXED (-1.0)
static const double shares[N_SHARES] = {0, 0.25, 0.5, 0.75, 0.9, MIXED};
static const char *const share_labels[N_SHARES] = {"0 %", "25 %", "50 %", "75 %", "90 %", "mixed"};

typedef enum norm_kind { NO_NORM, LN_WORD, BN, LN_TIME, IN, GN, SN } norm_kind;
enum { BN_OVER_PADDING = 2, BN_MASKED = 3 }; /* in the list below */
/* A net by its norm, and whether that norm is told the lengths. */
static const struct net_kind {
    const char *label;
    norm_kind norm;
    bool masked;
} nets[N_NETS] = {
    {"none", NO_NORM, true},        {"LN per word", LN_WORD, true},
    {"BN over padding", BN, false}, {"BN masked", BN, true},
    {"LN (T, D) over padding", LN_TIME, false}, {"LN (T, D) masked", LN_TIME, true},
    {"IN over padding", IN, false}, {"IN masked", IN, true},
    {"GN over padding", GN, false}, {"GN masked", GN, true},
    {"SN over padding", SN, false}, {"SN masked", SN, true},
};

typedef struct result {
    double padded, alone; /* test accuracy in %, padded as in training and in batches of one */
    bool failed;
    char error[512];
} result;

typedef struct experiment {
    texts data;
    int64_t epochs, seeds, seed;
    result results[N_NETS][N_SHARES][MOST_SEEDS];
    pthread_mutex_t lock;
    int64_t done;
} experiment;

/* ---- norms of (N, T, D) ------------------------------------------------------------------------------------------ */

/* The norm of FEATURES features of each step; an empty sequential for none. */
static ek_module *make_norm(norm_kind kind)
{
    ek_batch_norm_opts batch = ek_batch_norm_opts_default();
    ek_instance_norm_opts instance = ek_instance_norm_opts_default();
    ek_group_norm_opts group = ek_group_norm_opts_default();
    ek_switchable_norm_opts switchable = ek_switchable_norm_opts_default();
    ek_layer_norm_opts time = ek_layer_norm_opts_default();
    batch.channel_axis = instance.channel_axis = group.channel_axis = switchable.channel_axis = EK_CHANNELS_LAST;
    instance.affine = true;
    time.over_time = true;
    switch (kind) {
    case LN_WORD: return ek_layer_norm(EK_SHAPE(FEATURES), NULL);
    case LN_TIME: return ek_layer_norm(EK_SHAPE(FEATURES), &time);
    case BN: return ek_batch_norm1d(FEATURES, &batch);
    case IN: return ek_instance_norm1d(FEATURES, &instance);
    case GN: return ek_group_norm(GROUPS, FEATURES, &group);
    case SN: return ek_switchable_norm_sequence(FEATURES, &switchable);
    case NO_NORM: break;
    }
    return ek_sequential_from(0, NULL);
}

/* Of the symbols: the one that pads is 0 in all features and stays so. */
static ek_module *make_embedding(const ek_vocabulary *vocabulary)
{
    ek_embedding_layer_opts opts = ek_embedding_layer_opts_default();
    opts.padding_idx = EK_PADDING;
    return ek_embedding_layer(ek_vocabulary_size(vocabulary), FEATURES, &opts);
}

/* A module of our own: its child sees x without its lengths, so padding is data to it; the output has them again. */
static ek_tensor *forward_over_padding(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    ek_tensor *y = ek_forward(ek_module_child(module, 0), tape, ek_with_lengths(tape, x, NULL));
    return ek_with_lengths(tape, y, x);
}

static ek_module *over_padding(ek_module *child)
{
    static const ek_module_def def = {.type = "over_padding", .forward = forward_over_padding};
    ek_module *module = ek_module_new(&def, NULL);
    if (module && ek_module_add_child(module, "0", child) == EK_OK)
        return module;
    ek_module_free(module);
    return NULL;
}

/* ---- statistics, read off a norm's output ------------------------------------------------------------------------ */

typedef struct moments {
    double mean, variance;
} moments;

/* A norm gives y = (x − mean)/√(variance + eps), so two elements of a group tell both.  The group: n elements of x and
 * y from `first` on, `stride` apart. */
static moments statistics_behind(const ek_tensor *x, const ek_tensor *y, int64_t first, int64_t n, int64_t stride)
{
    static const double eps = 1e-5;
    int64_t low = first, high = first;
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = first + i * stride;
        low = ek_tensor_at(x, at) < ek_tensor_at(x, low) ? at : low;
        high = ek_tensor_at(x, at) > ek_tensor_at(x, high) ? at : high;
    }
    const double deviation = (ek_tensor_at(x, high) - ek_tensor_at(x, low)) /
                             (ek_tensor_at(y, high) - ek_tensor_at(y, low));
    return (moments){ek_tensor_at(x, low) - ek_tensor_at(y, low) * deviation, deviation * deviation - eps};
}

/* The valid steps of x and of norm(x) as rows (Σ lengths, D), sequence after sequence. */
typedef struct rows {
    ek_tensor *x, *y;
} rows;

/* With `masked` the norm knows the lengths of x; else all of x is data to it. */
static bool valid_rows(ek_module *norm, ek_tape *tape, ek_tensor *x, bool masked, rows *r)
{
    ek_tensor *y = ek_forward(norm, tape, masked ? x : ek_with_lengths(tape, x, NULL));
    r->x = ek_pack(tape, x, EK_ROWS_BY_SEQUENCE);
    r->y = ek_pack(tape, ek_with_lengths(tape, y, x), EK_ROWS_BY_SEQUENCE);
    return r->x && r->y;
}

/* ---- 1. two sentences -------------------------------------------------------------------------------------------- */

static void print_three(const char *label, const moments m[3])
{
    printf("  %-42s", label);
    for (int i = 0; i < 3; i++)
        printf("  %8.4f %8.4f", m[i].mean, m[i].variance);
    printf("\n");
}

/* Mean over the features of BatchNorm's statistics. */
static moments over_features(const rows *r)
{
    moments sum = {0, 0};
    for (int64_t d = 0; d < FEATURES; d++) {
        const moments m = statistics_behind(r->x, r->y, d, ek_tensor_dim(r->x, 0), FEATURES);
        sum.mean += m.mean / FEATURES;
        sum.variance += m.variance / FEATURES;
    }
    return sum;
}

/* Three looks at one norm: over the padding, without any, masked. */
typedef struct looks {
    rows padded, bare, masked;
} looks;

/* `alone`: what the norm gets where there is no padding; NULL: the rows of x. */
static bool look(ek_module *norm, ek_tape *tape, ek_tensor *x, ek_tensor *alone, looks *l)
{
    if (!norm || ek_module_to(norm, EK_F64) != EK_OK || !valid_rows(norm, tape, x, false, &l->padded) ||
        !valid_rows(norm, tape, x, true, &l->masked))
        return false;
    l->bare.x = alone ? alone : l->masked.x;
    l->bare.y = ek_forward(norm, tape, l->bare.x);
    return l->bare.y != NULL;
}

static void print_group(const char *label, const looks *l, int64_t first, int64_t n, int64_t stride, int64_t bare_first)
{
    print_three(label, (moments[3]){statistics_behind(l->padded.x, l->padded.y, first, n, stride),
                                    statistics_behind(l->bare.x, l->bare.y, bare_first, n, stride),
                                    statistics_behind(l->masked.x, l->masked.y, first, n, stride)});
}

static bool show_sentences(uint64_t seed)
{
    enum { WORDS = LONG_SENTENCE + SHORT_SENTENCE, SHORT_AT = LONG_SENTENCE * FEATURES };
    ek_rng rng = ek_rng_named(seed, "two sentences");
    ek_tensor *x = ek_zeros(EK_F64, EK_SHAPE(2, LONG_SENTENCE, FEATURES));
    ek_tensor *words = ek_normal(EK_F64, EK_SHAPE(WORDS, FEATURES), 1, 2, &rng);
    ek_module *norms[3] = {make_norm(BN), make_norm(LN_TIME), make_norm(LN_WORD)};
    ek_tape *tape = ek_tape_new();
    bool done = x && words && tape;
    if (done) { /* the short sentence stands at the start of its row, and zeros after it */
        memcpy(ek_data_f64(x), ek_data_f64(words), WORDS * FEATURES * sizeof(double));
        done = ek_tensor_set_lengths(x, (const int64_t[]){LONG_SENTENCE, SHORT_SENTENCE}, 2, 0, 1) == EK_OK;
    }
    ek_tensor *first = done ? ek_reshape(tape, ek_slice(tape, words, 0, 0, LONG_SENTENCE),
                                         EK_SHAPE(1, LONG_SENTENCE, FEATURES)) : NULL;
    ek_tensor *second = done ? ek_reshape(tape, ek_slice(tape, words, 0, LONG_SENTENCE, WORDS),
                                          EK_SHAPE(1, SHORT_SENTENCE, FEATURES)) : NULL;
    looks bn, time_first, time_second, word;
    done = first && second && look(norms[0], tape, x, NULL, &bn) && look(norms[1], tape, x, first, &time_first) &&
           look(norms[1], tape, x, second, &time_second) && look(norms[2], tape, x, NULL, &word);
    if (done) {
        printf("\n1. Two sentences, of %d and %d words, padded to %d with zeros; %d features per word, drawn with mean "
               "1 and\n   standard deviation 2: the mean and variance by which their words are normalized\n\n"
               "  %-42s  %17s  %17s  %17s\n  %-42s", LONG_SENTENCE, SHORT_SENTENCE, LONG_SENTENCE, FEATURES, "",
               "over the padding", "sentences alone", "masked", "");
        for (int i = 0; i < 3; i++)
            printf("  %8s %8s", "mean", "variance");
        printf("\n");
        print_group("BN, feature 0", &bn, 0, WORDS, FEATURES, 0);
        print_three("BN, mean over the features",
                    (moments[3]){over_features(&bn.padded), over_features(&bn.bare), over_features(&bn.masked)});
        print_group("LN over (T, D), the sentence of 30", &time_first, 0, SHORT_AT, 1, 0);
        print_group("LN over (T, D), the sentence of 8", &time_second, SHORT_AT, SHORT_SENTENCE * FEATURES, 1, 0);
        print_group("LN over D, last word of the sentence of 8", &word, (WORDS - 1) * FEATURES, FEATURES, 1,
                    (WORDS - 1) * FEATURES);
    }
    ek_tape_free(tape);
    for (int i = 0; i < 3; i++)
        ek_module_free(norms[i]);
    ek_tensor_free(words);
    ek_tensor_free(x);
    return done;
}

/* ---- 2. statistics as the share of padding grows ----------------------------------------------------------------- */

typedef struct shift {
    double padding;         /* share of all steps, as it came out */
    int64_t steps;          /* padded to */
    double mean, variance;  /* root mean square over features of Δmean/σ and of variance/σ² − 1, over the padding */
    double masked_mean, masked_variance;
    int64_t differing, values; /* outputs of LayerNorm per word that differ from those without padding, in any bit */
} shift;

/* How far what a norm saw is from what it saw without padding. */
static void measure_shift(const rows *r, const rows *bare, double *mean, double *variance)
{
    double mean_total = 0, variance_total = 0;
    for (int64_t d = 0; d < FEATURES; d++) {
        const int64_t n = ek_tensor_dim(r->x, 0);
        const moments seen = statistics_behind(r->x, r->y, d, n, FEATURES);
        const moments right = statistics_behind(bare->x, bare->y, d, n, FEATURES);
        mean_total += (seen.mean - right.mean) * (seen.mean - right.mean) / right.variance;
        variance_total += pow(seen.variance / right.variance - 1, 2);
    }
    *mean = sqrt(mean_total / FEATURES);
    *variance = sqrt(variance_total / FEATURES);
}

/* How many of two tensors' values differ in any bit. */
static int64_t count_differing(const ek_tensor *a, const ek_tensor *b)
{
    const size_t bytes = ek_dtype_size(ek_tensor_dtype(a));
    const char *p = ek_tensor_const_data(a), *q = ek_tensor_const_data(b);
    int64_t differing = 0;
    for (int64_t i = 0; i < ek_tensor_numel(a); i++)
        differing += memcmp(p + (size_t)i * bytes, q + (size_t)i * bytes, bytes) != 0;
    return differing;
}

static bool shift_at(const ek_batch *batch, double share, ek_module *embedding, ek_module *bn, ek_module *ln,
                     ek_tape *tape, shift *s)
{
    ek_tensor *symbols = pad_to_share(batch, share);
    ek_tensor *x = ek_forward(embedding, tape, symbols);
    looks b, l;
    const bool done = x && look(bn, tape, x, NULL, &b) && look(ln, tape, x, NULL, &l);
    if (done) {
        measure_shift(&b.padded, &b.bare, &s->mean, &s->variance);
        measure_shift(&b.masked, &b.bare, &s->masked_mean, &s->masked_variance);
        s->differing = count_differing(l.padded.y, l.bare.y);
        s->values = ek_tensor_numel(l.bare.y);
        s->steps = ek_tensor_dim(symbols, 1);
        s->padding = 1 - (double)ek_tensor_dim(l.bare.y, 0) / (double)(batch->size * s->steps);
    }
    ek_tape_reset(tape);
    ek_tensor_free(symbols);
    return done;
}

static bool measure_shifts(const experiment *e, shift *shifts)
{
    ek_sequence_loader *loader = open_texts(e->data.train, e->data.vocabulary, BATCH, BUCKET, true, (uint64_t)e->seed);
    ek_module *embedding = make_embedding(e->data.vocabulary);
    ek_module *bn = make_norm(BN), *ln = make_norm(LN_WORD);
    ek_tape *tape = ek_tape_new();
    ek_batch batch;
    bool done = loader && embedding && tape && ek_sequence_loader_next(loader, &batch) == EK_OK &&
                ek_module_init(embedding, (uint64_t)e->seed) == EK_OK && ek_module_to(embedding, EK_F64) == EK_OK;
    for (int i = 0; done && i < N_SHARES && shares[i] != MIXED; i++)
        done = shift_at(&batch, shares[i], embedding, bn, ln, tape, &shifts[i]);
    ek_tape_free(tape);
    ek_module_free(bn);
    ek_module_free(ln);
    ek_module_free(embedding);
    ek_sequence_loader_free(loader);
    return done;
}

static void print_shifts(const shift *shifts)
{
    printf("\n2. A batch of %d texts, embedded (%d features) and padded with zeros: root mean square over features of\n"
           "   (mean − mean of the valid steps)/σ and of variance/σ² − 1 (BN), values that changed in any bit (LN)\n\n"
           "  %8s %9s %7s  %19s  %19s  %20s\n  %8s %9s %7s", BATCH, FEATURES, "", "", "", "BN over padding",
           "BN masked", "LN per word", "share", "measured", "steps");
    for (int i = 0; i < 2; i++)
        printf("  %9s %9s", "mean", "variance");
    printf("  %20s\n", "values that differ");
    for (int i = 0; i < N_SHARES && shares[i] != MIXED; i++) {
        const shift *s = &shifts[i];
        printf("  %8s %7.1f %% %7lld  %9.4f %9.4f  %9.2g %9.2g  %8lld of %8lld\n", share_labels[i], 100 * s->padding,
               (long long)s->steps, s->mean, s->variance, s->masked_mean, s->masked_variance, (long long)s->differing,
               (long long)s->values);
    }
}

/* ---- 3. the classifier ------------------------------------------------------------------------------------------- */

/* The norm is all in which nets differ: recurrence and pooling know the lengths in each. */
static ek_module *make_net(const struct net_kind *kind, const texts *data)
{
    ek_module *norm = make_norm(kind->norm);
    if (!kind->masked)
        norm = over_padding(norm);
    return ek_sequential(make_embedding(data->vocabulary), norm, ek_gru(FEATURES, HIDDEN, EK_BATCH_FIRST, NULL),
                         ek_pool_time_layer(1, EK_POOL_MEAN),
                         ek_linear(HIDDEN, ek_text_num_classes(data->train), NULL));
}

/* The share of the next batch. */
static double next_share(double share, ek_rng *rng)
{
    return share == MIXED ? 0.9 * ek_rng_uniform(rng) : share;
}

static ek_status train(ek_module *net, const experiment *e, double share, uint64_t seed)
{
    ek_sequence_loader *loader = open_texts(e->data.train, e->data.vocabulary, BATCH, BUCKET, true, seed);
    ek_optimizer *optimizer = loader ? ek_adam(net, 1e-2, NULL) : NULL;
    ek_tape *tape = optimizer ? ek_tape_new() : NULL;
    ek_rng rng = ek_rng_named(seed, "shares in training");
    ek_status status = tape ? EK_OK : ek_last_status();
    for (int64_t epoch = 0; epoch < e->epochs && status == EK_OK; epoch++) {
        ek_batch batch;
        while (status == EK_OK && (status = ek_sequence_loader_next(loader, &batch)) == EK_OK) {
            ek_tensor *x = pad_to_share(&batch, next_share(share, &rng));
            double loss;
            status = training_step(net, optimizer, tape, x, batch.y, &loss);
            ek_tensor_free(x);
        }
        if (status == EK_DONE)
            status = EK_OK;
    }
    ek_tape_free(tape);
    ek_optimizer_free(optimizer);
    ek_sequence_loader_free(loader);
    return status;
}

/* Accuracy in % over the test texts: in batches padded as in training, or one by one, unpadded.  −1 on failure. */
static double evaluate(ek_module *net, const experiment *e, double share, bool alone)
{
    ek_sequence_loader *loader =
        open_texts(e->data.test, e->data.vocabulary, alone ? 1 : BATCH, alone ? 0 : BUCKET, false, 0);
    ek_tape *tape = loader ? ek_tape_new() : NULL;
    ek_rng rng = ek_rng_named(0, "shares in service");
    ek_status status = tape ? ek_tape_set_recording(tape, false) : ek_last_status();
    ek_batch batch;
    int64_t right = 0;
    ek_module_eval(net);
    while (status == EK_OK && (status = ek_sequence_loader_next(loader, &batch)) == EK_OK) {
        ek_tensor *x = pad_to_share(&batch, alone ? 0 : next_share(share, &rng));
        const int64_t hits = count_right(net, tape, x, batch.y);
        if (hits < 0)
            status = ek_last_status();
        right += hits;
        ek_tensor_free(x);
    }
    ek_tape_free(tape);
    ek_sequence_loader_free(loader);
    return status == EK_DONE ? 100.0 * (double)right / (double)ek_text_size(e->data.test) : -1;
}

/* One training of one net at one share with one seed. */
static void run(void *context, int job)
{
    experiment *e = context;
    const int seed = job % (int)e->seeds, kind = job / (int)e->seeds % N_NETS, share = job / (int)e->seeds / N_NETS;
    result *r = &e->results[kind][share][seed];
    const uint64_t run_seed = (uint64_t)(e->seed + seed);
    ek_module *net = make_net(&nets[kind], &e->data);
    r->failed = true;
    if (net && ek_module_init(net, run_seed) == EK_OK && train(net, e, shares[share], run_seed) == EK_OK) {
        r->padded = evaluate(net, e, shares[share], false);
        r->alone = evaluate(net, e, shares[share], true);
        r->failed = r->padded < 0 || r->alone < 0;
    }
    if (r->failed)
        snprintf(r->error, sizeof r->error, "%s", ek_last_error());
    ek_module_free(net);
    pthread_mutex_lock(&e->lock);
    show_progress("trained", ++e->done, e->seeds * N_NETS * N_SHARES);
    pthread_mutex_unlock(&e->lock);
}

static void accuracy_of(const experiment *e, int kind, int share, bool alone, double *mean, double *spread)
{
    double values[MOST_SEEDS];
    for (int s = 0; s < e->seeds; s++)
        values[s] = alone ? e->results[kind][share][s].alone : e->results[kind][share][s].padded;
    mean_and_spread(values, (int)e->seeds, mean, spread);
}

static void print_accuracy(const experiment *e, bool alone)
{
    printf("\n   %s\n\n  %-22s", alone ? "served alone, without padding" : "served in batches, padded as in training",
           "padding in training");
    for (int i = 0; i < N_SHARES; i++)
        printf("%s%11s", i ? "  " : " ", share_labels[i]);
    printf("\n");
    for (int n = 0; n < N_NETS; n++) {
        printf("  %-22s", nets[n].label);
        for (int i = 0; i < N_SHARES; i++) {
            double mean, spread;
            accuracy_of(e, n, i, alone, &mean, &spread);
            printf("  %5.1f ±%4.1f", mean, spread);
        }
        printf("\n");
    }
}

/* ---- what was measured, in words that follow from the numbers ---------------------------------------------------- */

static void conclude_shifts(const shift *shifts)
{
    const shift *most = &shifts[N_SHARES - 2];
    double masked = 0;
    int64_t differing = 0;
    for (int i = 0; i < N_SHARES && shares[i] != MIXED; i++) {
        masked = fmax(masked, fmax(shifts[i].masked_mean, shifts[i].masked_variance));
        differing += shifts[i].differing;
    }
    printf("\nWith %.0f %% padding BatchNorm normalizes by a mean %.2f σ off and a variance %.0f %% off",
           100 * most->padding, most->mean, 100 * most->variance);
    if (masked == 0)
        printf("; masked, by exactly those of the\nvalid steps at every share.  ");
    else
        printf("; masked it is STILL off, by up to %.2g.\n", masked);
    if (differing == 0)
        printf("LayerNorm per word gives the same bits with and without padding.\n");
    else
        printf("LayerNorm per word CHANGED in %lld values.\n", (long long)differing);
}

/* The largest loss of accuracy between service as in training and alone, over the shares, in points.  True when that
 * one is at least a point and twice its standard error over the seeds. */
static bool largest_loss(const experiment *e, int kind, double *loss, int *share)
{
    bool seen = false;
    *loss = -INFINITY;
    *share = 0;
    for (int i = 0; i < N_SHARES; i++) {
        double losses[MOST_SEEDS], mean, spread;
        for (int s = 0; s < e->seeds; s++)
            losses[s] = e->results[kind][i][s].padded - e->results[kind][i][s].alone;
        mean_and_spread(losses, (int)e->seeds, &mean, &spread);
        if (mean > *loss) {
            *loss = mean;
            *share = i;
            seen = mean >= 1 && mean >= 2 * spread / sqrt((double)e->seeds);
        }
    }
    return seen;
}

static void conclude_accuracy(const experiment *e)
{
    printf("\nPoints of accuracy lost when served alone instead of as in training, the most over the shares:\n");
    for (int n = 0; n < N_NETS; n++) {
        double loss;
        int share;
        if (nets[n].masked)
            continue;
        const bool seen = largest_loss(e, n, &loss, &share);
        printf("  %-22s %5.1f at %-5s  %s\n", nets[n].label, loss, share_labels[share],
               nets[n].norm == BN && loss == 0
                   ? "not hurt: in service its running statistics are used, whatever the padding"
               : e->seeds < 2 ? "one seed says nothing of chance"
               : seen         ? "hurt by the padding it was trained over"
                              : "NOT hurt beyond chance in this run");
    }
    double largest = 0;
    for (int n = 0; n < N_NETS; n++)
        for (int i = 0; nets[n].masked && i < N_SHARES; i++)
            for (int s = 0; s < e->seeds; s++) {
                const result *r = &e->results[n][i][s], *base = &e->results[n][0][s];
                largest = fmax(largest, fmax(fabs(r->alone - base->alone), fabs(r->padded - base->alone)));
            }
    if (largest == 0)
        printf("Masked norms, LayerNorm per word and no norm: the same accuracy at every share, padded and alone.\n");
    else
        printf("Masked norms, LayerNorm per word and no norm: no run moved by more than %.1f points with the share, "
               "padded or alone.\n", largest);
    printf("BatchNorm trained over padding against masked, served alone, in points of accuracy%s:\n ",
           e->seeds < 2 ? "; one seed says nothing of chance" : "");
    for (int i = 0; i < N_SHARES; i++) {
        double gains[MOST_SEEDS], mean, spread;
        for (int s = 0; s < e->seeds; s++)
            gains[s] = e->results[BN_OVER_PADDING][i][s].alone - e->results[BN_MASKED][i][s].alone;
        mean_and_spread(gains, (int)e->seeds, &mean, &spread);
        const bool chance = e->seeds > 1 && fabs(mean) <= 2 * spread / sqrt((double)e->seeds);
        printf("%s %+.1f ± %.1f at %s%s", i == N_SHARES / 2 ? ",\n " : i ? "," : "", mean, spread, share_labels[i],
               chance ? " (chance)" : "");
    }
    printf(".\n");
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static bool write_csv(const experiment *e, const shift *shifts, const char *folder)
{
    char path[512];
    FILE *csv = open_output(folder, "padded_sequences_statistics.csv", path, sizeof path);
    if (!csv)
        return false;
    fprintf(csv, "share,measured_share,steps,bn_mean_shift,bn_variance_shift,masked_bn_mean_shift,"
                 "masked_bn_variance_shift,ln_differing_values,ln_values\n");
    for (int i = 0; i < N_SHARES && shares[i] != MIXED; i++) {
        const shift *s = &shifts[i];
        fprintf(csv, "%g,%.4f,%lld,%.6g,%.6g,%.6g,%.6g,%lld,%lld\n", shares[i], s->padding, (long long)s->steps,
                s->mean, s->variance, s->masked_mean, s->masked_variance, (long long)s->differing,
                (long long)s->values);
    }
    if (!close_output(csv, path))
        return false;
    printf("\nStatistics: %s\n", path);
    csv = open_output(folder, "padded_sequences.csv", path, sizeof path);
    if (!csv)
        return false;
    fprintf(csv, "net,masked,share,seed,accuracy_padded,accuracy_alone\n");
    for (int n = 0; n < N_NETS; n++)
        for (int i = 0; i < N_SHARES; i++)
            for (int s = 0; s < e->seeds; s++)
                fprintf(csv, "\"%s\",%d,%s,%lld,%.4f,%.4f\n", nets[n].label, nets[n].masked, share_labels[i],
                        (long long)(e->seed + s), e->results[n][i][s].padded, e->results[n][i][s].alone);
    if (!close_output(csv, path))
        return false;
    printf("Every run: %s\n", path);
    return true;
}

static void plot_accuracy(FILE *script, bool alone)
{
    static const char *const colours[] = {"#777777", "#1f77b4", "#d62728", "#d62728", "#17becf", "#17becf",
                                          "#2ca02c", "#2ca02c", "#9467bd", "#9467bd", "#e07b00", "#e07b00"};
    fprintf(script, "set title 'served %s'\nset ylabel 'test accuracy (%%)'\nset key outside right\nplot ",
            alone ? "alone, without padding" : "in batches padded as in training");
    for (int n = 0; n < N_NETS; n++)
        fprintf(script, "%s$net%d using 1:%d:%d with yerrorlines lw 2 pt %d dt %d lc rgb '%s' title '%s'",
                n ? ", \\\n     " : "", n, alone ? 4 : 2, alone ? 5 : 3, nets[n].masked ? 7 : 4, nets[n].masked ? 1 : 2,
                colours[n], nets[n].label);
    fprintf(script, "\n");
}

static bool draw(const experiment *e, const shift *shifts, const char *folder)
{
    char path[512];
    FILE *script = open_output(folder, "padded_sequences.gnuplot", path, sizeof path);
    if (!script)
        return false;
    fprintf(script, "set terminal pngcairo size 1000,1300 font ',11'\nset output '%s/padded_sequences.png'\n"
                    "$shift << END\n",
            folder);
    for (int i = 0; i < N_SHARES && shares[i] != MIXED; i++)
        fprintf(script, "%.4f %.6g %.6g %.6g %.6g %.6g\n", 100 * shifts[i].padding, shifts[i].mean, shifts[i].variance,
                shifts[i].masked_mean, shifts[i].masked_variance,
                (double)shifts[i].differing / (double)shifts[i].values);
    fprintf(script, "END\n");
    for (int n = 0; n < N_NETS; n++) {
        fprintf(script, "$net%d << END\n", n);
        for (int i = 0; i < N_SHARES && shares[i] != MIXED; i++) {
            double padded[2], alone[2];
            accuracy_of(e, n, i, false, &padded[0], &padded[1]);
            accuracy_of(e, n, i, true, &alone[0], &alone[1]);
            fprintf(script, "%g %.4f %.4f %.4f %.4f\n", 100 * shares[i], padded[0], padded[1], alone[0], alone[1]);
        }
        fprintf(script, "END\n");
    }
    fprintf(script, "set multiplot layout 3,1\nset xlabel 'padding (%% of all steps)'\nset grid\nset xrange [-3:95]\n"
                    "set title 'Statistics of BatchNorm against those of the valid steps; values of LayerNorm'\n"
                    "set ylabel 'rms difference; share'\nset key outside right\n"
                    "plot $shift using 1:2 with linespoints lw 2 lc rgb '#d62728' title 'mean/σ', \\\n"
                    "     $shift using 1:3 with linespoints lw 2 dt 2 lc rgb '#d62728' title 'variance/σ²', \\\n"
                    "     $shift using 1:4 with linespoints lw 2 lc rgb '#1f77b4' title 'mean/σ, masked', \\\n"
                    "     $shift using 1:5 with linespoints lw 2 dt 2 lc rgb '#1f77b4' title 'variance/σ², masked', \\\n"
                    "     $shift using 1:6 with points pt 6 ps 2 lc rgb '#2ca02c' title 'LN per word, changed'\n");
    plot_accuracy(script, false);
    plot_accuracy(script, true);
    fprintf(script, "unset multiplot\n");
    return finish_plot(script, path, folder, "padded_sequences.png");
}

/* ---- the program ------------------------------------------------------------------------------------------------- */

/* Says on stderr why a run failed, if one did. */
static bool all_succeeded(const experiment *e)
{
    for (int i = 0; i < N_NETS * N_SHARES * (int)e->seeds; i++) {
        const result *r = &e->results[i % N_NETS][i / N_NETS % N_SHARES][i / N_NETS / N_SHARES];
        if (r->failed) {
            fprintf(stderr, "padded_sequences: a run with %s failed: %s\n", nets[i % N_NETS].label, r->error);
            return false;
        }
    }
    return true;
}

/* The three parts, one after the other. */
static int experiment_run(experiment *e, const char *out)
{
    shift shifts[N_SHARES] = {{0}};
    if (!show_sentences((uint64_t)e->seed) || !measure_shifts(e, shifts))
        return report_failure("padded_sequences");
    print_shifts(shifts);
    printf("\n3. Test accuracy in %%, mean ± standard deviation over %lld seed%s: embedding (%d) → norm → GRU (%d) → "
           "mean over\n   time → linear.  All but the norms \"over padding\" know the lengths; \"0 %%\": to the "
           "longest of\n   texts of similar length; \"mixed\": each batch another share, 0 … 90 %%\n",
           (long long)e->seeds, e->seeds == 1 ? "" : "s", FEATURES, HIDDEN);
    fflush(stdout);
    run_jobs((int)e->seeds * N_NETS * N_SHARES, run, e);
    if (!all_succeeded(e))
        return EXIT_FAILURE;
    print_accuracy(e, false);
    print_accuracy(e, true);
    conclude_shifts(shifts);
    conclude_accuracy(e);
    return write_csv(e, shifts, out) && draw(e, shifts, out) ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
    const char *folder = NULL, *out = "out";
    int64_t n_train = 0, n_test = 500, epochs = 4, seeds = 5, seed = 1, threads = 0;
    bool quick = false;
    const option options[] = {
        {"data", "DIR", OPTION_TEXT, &folder, 0, "texts, a file CLASS.txt per class; without it the embedded numerals"},
        {"seeds", "N", OPTION_INT, &seeds, 1, "runs per net and share of padding, 20 at most"},
        {"seed", "N", OPTION_INT, &seed, 0, "the first of them"},
        {"texts", "N", OPTION_INT, &n_train, 0, "training texts; 0: 1024 of the embedded ones, 4096 of a folder"},
        {"test-texts", "N", OPTION_INT, &n_test, 32, "held-out texts"},
        {"epochs", "N", OPTION_INT, &epochs, 1, "passes over the training texts"},
        {"threads", "N", OPTION_INT, &threads, 0, "threads; 0: as many as there are cores"},
        {"quick", NULL, OPTION_FLAG, &quick, 0, "128 texts, one epoch, one seed: to see that it runs"},
        {"out", "DIR", OPTION_TEXT, &out, 0, "folder for the CSVs and the plot; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "What padding does to the statistics of each norm, and to a recurrent classifier.\n"
                       "About a minute on two cores.", options, (int)(sizeof options / sizeof options[0]), &status))
        return status;
    if (quick) {
        n_train = 128;
        n_test = 64;
        epochs = seeds = 1;
    }
    if (n_train == 0)
        n_train = folder ? 4096 : 1024;
    if (seeds > MOST_SEEDS) {
        fprintf(stderr, "padded_sequences: --seeds: expected at most %d, got %lld\n", MOST_SEEDS, (long long)seeds);
        return EXIT_FAILURE;
    }
    use_threads(threads);
    experiment *e = make_folder(out) ? calloc(1, sizeof *e) : NULL;
    if (!e)
        return EXIT_FAILURE;
    e->epochs = epochs;
    e->seeds = seeds;
    e->seed = seed;
    pthread_mutex_init(&e->lock, NULL);
    if (load_texts(folder, n_train, n_test, 0, &e->data) == EK_OK) {
        printf("%s\n", ek_build_info());
        print_texts(&e->data, folder);
        status = experiment_run(e, out);
    } else {
        status = report_failure("padded_sequences");
    }
    free_texts(&e->data);
    free(e);
    return status;
}
