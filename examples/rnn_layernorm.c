/* LayerNorm and BatchNorm inside recurrent cells.
 *
 * LSTM and GRU, each plain, layer-normalized (Ba et al. 2016) and batch-normalized (Cooijmans et al. 2017), on two
 * tasks: to name the first symbol of a long sequence after its end, and to tell the class of a text, a language by
 * default.  Loss curves, test accuracy and time per training step; then, for each --name, what the best net for the
 * texts takes it for.
 */
#include "sequences.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { N_TASKS = 2, N_CELLS = 2, N_NORMS = 3, N_NETS = N_CELLS * N_NORMS, MOST_SEEDS = 20 };
enum { N_POINTS = 20, N_COLUMNS = 4 }; /* of the loss curves, in the plot and in the table */
enum { MEMORY_TASK, TEXT_TASK };
enum { BATCH = 32, SYMBOLS = 8, FEATURES = 16, HIDDEN = 32, MEMORY_TESTS = 512 };

static const char *const memory_streams[2] = {"memory.train", "memory.test"}; /* by ek_split */
static const char *const task_names[N_TASKS] = {"memory", "texts"};
/* A net by cell and norm, in the order of N_CELLS, N_NORMS. */
static const char *const labels[N_NETS] = {"LSTM", "LSTM + LN", "LSTM + BN", "GRU", "GRU + LN", "GRU + BN"};
static const ek_recurrent_norm norms[N_NORMS] = {EK_RECURRENT_NO_NORM, EK_RECURRENT_LAYER_NORM,
                                                 EK_RECURRENT_BATCH_NORM};

typedef struct result {
    double loss[N_POINTS]; /* mean over each twentieth of the training */
    double accuracy, train_accuracy; /* in % of the test set, and of what it was trained on */
    double milliseconds;   /* processor time of one training step */
    ek_module *net;
    bool failed;
    char error[512];
} result;

typedef struct experiment {
    texts data;
    int64_t steps[N_TASKS]; /* of training */
    int64_t memory, seeds, seed, longest;
    result results[N_TASKS][N_NETS][MOST_SEEDS];
    pthread_mutex_t lock;
    int64_t done;
} experiment;

/* ---- tasks ------------------------------------------------------------------------------------------------------- */

/* Where training batches come from: a loader for texts, else made on the spot. */
typedef struct source {
    ek_sequence_loader *loader;
    ek_rng rng;
    ek_tensor *x, *y; /* of the memory task */
} source;

/* n sequences of random symbols, each of which is to be answered with its first. */
static ek_status fill_memory(source *s)
{
    int64_t *x = ek_data_i64(s->x), *y = ek_data_i64(s->y);
    const int64_t n = ek_tensor_dim(s->x, 0), steps = ek_tensor_dim(s->x, 1);
    for (int64_t i = 0; i < n * steps; i++)
        x[i] = ek_rng_below(&s->rng, SYMBOLS);
    for (int64_t i = 0; i < n; i++)
        y[i] = x[i * steps];
    return EK_OK;
}

static ek_status open_memory(source *s, int64_t n, int64_t steps, uint64_t seed, const char *stream)
{
    *s = (source){.rng = ek_rng_named(seed, stream)};
    s->x = ek_zeros(EK_I64, EK_SHAPE(n, steps));
    s->y = s->x ? ek_zeros(EK_I64, EK_SHAPE(n)) : NULL;
    return s->y ? EK_OK : ek_last_status();
}

static ek_status open_loader(source *s, const ek_text *text, const experiment *e, bool shuffle, uint64_t seed)
{
    *s = (source){.loader = open_texts(text, e->data.vocabulary, BATCH, 0, shuffle, seed)};
    return s->loader ? EK_OK : ek_last_status();
}

static void close_source(source *s)
{
    ek_sequence_loader_free(s->loader);
    ek_tensor_free(s->x);
    ek_tensor_free(s->y);
}

/* The next training batch, epoch after epoch. */
static ek_status next_batch(source *s, ek_batch *batch)
{
    if (s->loader) {
        ek_status status = ek_sequence_loader_next(s->loader, batch);
        return status == EK_DONE ? ek_sequence_loader_next(s->loader, batch) : status;
    }
    *batch = (ek_batch){.x = s->x, .y = s->y, .size = ek_tensor_dim(s->x, 0)};
    return fill_memory(s);
}

/* ---- nets and training ------------------------------------------------------------------------------------------- */

static ek_module *make_net(const experiment *e, int task, int kind)
{
    const int64_t symbols = task == MEMORY_TASK ? SYMBOLS : ek_vocabulary_size(e->data.vocabulary);
    const int64_t classes = task == MEMORY_TASK ? SYMBOLS : ek_text_num_classes(e->data.train);
    ek_recurrent_opts opts = ek_recurrent_opts_default();
    opts.norm = norms[kind % N_NORMS];
    opts.max_steps = task == MEMORY_TASK ? e->memory : e->longest;
    ek_module *cell = kind < N_NORMS ? ek_lstm(FEATURES, HIDDEN, EK_BATCH_FIRST, &opts)
                                     : ek_gru(FEATURES, HIDDEN, EK_BATCH_FIRST, &opts);
    return ek_sequential(ek_embedding_layer(symbols, FEATURES, NULL), cell, ek_pool_time_layer(1, EK_POOL_LAST),
                         ek_linear(HIDDEN, classes, NULL));
}

/* Processor time of this thread: other runs beside it do not count. */
static double milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static ek_status train(const experiment *e, int task, ek_module *net, source *s, result *r)
{
    const int64_t steps = e->steps[task];
    ek_optimizer *optimizer = ek_adam(net, 5e-3, NULL);
    ek_tape *tape = optimizer ? ek_tape_new() : NULL;
    ek_status status = tape ? EK_OK : ek_last_status();
    int64_t counted[N_POINTS] = {0};
    double spent = 0;
    for (int64_t step = 0; step < steps && status == EK_OK; step++) {
        const int point = (int)(step * N_POINTS / steps);
        ek_batch batch;
        double loss = 0;
        status = next_batch(s, &batch);
        const double start = milliseconds();
        if (status == EK_OK)
            status = training_step(net, optimizer, tape, batch.x, batch.y, &loss);
        spent += milliseconds() - start;
        r->loss[point] += (loss - r->loss[point]) / (double)++counted[point];
    }
    r->milliseconds = spent / (double)steps;
    ek_tape_free(tape);
    ek_optimizer_free(optimizer);
    return status;
}

/* Accuracy in % in evaluation mode over all batches of a loader, or one of the memory task. */
static ek_status evaluate(ek_module *net, source *s, double *accuracy)
{
    ek_tape *tape = ek_tape_new();
    ek_status status = tape ? ek_tape_set_recording(tape, false) : ek_last_status();
    int64_t right = 0, all = 0;
    ek_batch batch;
    ek_module_eval(net);
    while (status == EK_OK &&
           (status = s->loader ? ek_sequence_loader_next(s->loader, &batch) : next_batch(s, &batch)) == EK_OK) {
        const int64_t hits = count_right(net, tape, batch.x, batch.y);
        status = hits < 0 ? ek_last_status() : s->loader ? EK_OK : EK_DONE;
        right += hits;
        all += batch.size;
        if (status == EK_DONE)
            break;
    }
    ek_tape_free(tape);
    *accuracy = all ? 100.0 * (double)right / (double)all : 0;
    return status == EK_DONE ? EK_OK : status;
}

/* On the training or the test set; of the memory task so many sequences of either stream. */
static ek_status test(const experiment *e, int task, ek_module *net, ek_split split, uint64_t seed, double *accuracy)
{
    source s;
    const bool training = split == EK_TRAIN;
    ek_status status = task == MEMORY_TASK ? open_memory(&s, MEMORY_TESTS, e->memory, seed, memory_streams[split])
                                           : open_loader(&s, training ? e->data.train : e->data.test, e, false, 0);
    if (status == EK_OK)
        status = evaluate(net, &s, accuracy);
    close_source(&s);
    return status;
}

static ek_status train_and_test(const experiment *e, int task, uint64_t seed, result *r)
{
    source s;
    ek_status status = ek_module_init(r->net, seed);
    if (status != EK_OK)
        return status;
    status = task == MEMORY_TASK ? open_memory(&s, BATCH, e->memory, seed, memory_streams[EK_TRAIN])
                                 : open_loader(&s, e->data.train, e, true, seed);
    if (status == EK_OK)
        status = train(e, task, r->net, &s, r);
    close_source(&s);
    if (status == EK_OK)
        status = test(e, task, r->net, EK_TRAIN, seed, &r->train_accuracy);
    return status == EK_OK ? test(e, task, r->net, EK_TEST, seed, &r->accuracy) : status;
}

/* One training of one net with one seed. */
static void run(void *context, int job)
{
    experiment *e = context;
    const int seed = job % (int)e->seeds, kind = job / (int)e->seeds % N_NETS, task = job / (int)e->seeds / N_NETS;
    result *r = &e->results[task][kind][seed];
    r->net = make_net(e, task, kind);
    r->failed = !r->net || train_and_test(e, task, (uint64_t)(e->seed + seed), r) != EK_OK;
    if (r->failed)
        snprintf(r->error, sizeof r->error, "%s", ek_last_error());
    pthread_mutex_lock(&e->lock);
    show_progress("trained", ++e->done, e->seeds * N_NETS * N_TASKS);
    pthread_mutex_unlock(&e->lock);
}

/* ---- what came out ----------------------------------------------------------------------------------------------- */

typedef enum figure { ACCURACY, TRAIN_ACCURACY, TIME } figure;

static void figure_of(const experiment *e, int task, int kind, figure f, double *mean, double *spread)
{
    double values[MOST_SEEDS];
    for (int s = 0; s < e->seeds; s++) {
        const result *r = &e->results[task][kind][s];
        values[s] = f == ACCURACY ? r->accuracy : f == TIME ? r->milliseconds : r->train_accuracy;
    }
    mean_and_spread(values, (int)e->seeds, mean, spread);
}

static double mean_loss(const experiment *e, int task, int kind, int point)
{
    double sum = 0;
    for (int s = 0; s < e->seeds; s++)
        sum += e->results[task][kind][s].loss[point];
    return sum / (double)e->seeds;
}

static void print_task(const experiment *e, int task)
{
    if (task == MEMORY_TASK)
        printf("\n1. Memory: which of %d symbols came first in a sequence of %lld?  Chance: %.1f %%.  Batches of %d, "
               "training steps: %lld\n", SYMBOLS, (long long)e->memory, 100.0 / SYMBOLS, BATCH,
               (long long)e->steps[task]);
    else
        printf("\n2. Texts: of which class?  The most frequent one: %.1f %%.  Batches of %d, training steps: %lld\n",
               e->data.most_frequent, BATCH, (long long)e->steps[task]);
    printf("\n  %-10s  %-30s  %-32s  %s\n  %-10s ", "", "training loss after", "accuracy in %", "ms per step", "");
    for (int i = 1; i <= N_COLUMNS; i++)
        printf("  %4d %%", 100 * i / N_COLUMNS);
    printf("  %13s  %13s\n", "training data", "test data");
    for (int n = 0; n < N_NETS; n++) {
        double accuracy, spread, training, training_spread, time, time_spread;
        figure_of(e, task, n, ACCURACY, &accuracy, &spread);
        figure_of(e, task, n, TRAIN_ACCURACY, &training, &training_spread);
        figure_of(e, task, n, TIME, &time, &time_spread);
        printf("  %-10s ", labels[n]);
        for (int i = 1; i <= N_COLUMNS; i++)
            printf("  %6.3f", mean_loss(e, task, n, N_POINTS * i / N_COLUMNS - 1));
        printf("  %6.1f ±%5.1f  %6.1f ±%5.1f  %6.2f ±%5.2f\n", training, training_spread, accuracy, spread, time,
               time_spread);
    }
}

/* Whether a norm changed a cell's accuracy by more than twice the standard error of the difference, and which way. */
static void print_effect(const experiment *e, int task, int plain, int normed)
{
    double without, without_spread, with, with_spread;
    figure_of(e, task, plain, ACCURACY, &without, &without_spread);
    figure_of(e, task, normed, ACCURACY, &with, &with_spread);
    const double error = sqrt((without_spread * without_spread + with_spread * with_spread) / (double)e->seeds);
    const double gain = with - without;
    printf("  %s, %s: %s, %.1f %% against %.1f %%\n", task_names[task], labels[normed],
           e->seeds < 2              ? "one seed says nothing of chance"
           : fabs(gain) <= 2 * error ? "NO difference beyond chance"
           : gain > 0                ? "better than plain"
                                     : "worse than plain",
           with, without);
}

static void print_conclusion(const experiment *e)
{
    printf("\nTest accuracy with a norm against the plain cell, beyond twice the standard error over the seeds:\n");
    for (int t = 0; t < N_TASKS; t++)
        for (int n = 0; n < N_NETS; n++)
            if (n % N_NORMS)
                print_effect(e, t, n - n % N_NORMS, n);
    double plain, normed, spread;
    printf("Time of a training step relative to the plain cell (%s):", task_names[MEMORY_TASK]);
    for (int n = 0; n < N_NETS; n++)
        if (n % N_NORMS) {
            figure_of(e, MEMORY_TASK, n - n % N_NORMS, TIME, &plain, &spread);
            figure_of(e, MEMORY_TASK, n, TIME, &normed, &spread);
            printf("%s %s %.2f", n > 1 ? "," : "", labels[n], normed / plain);
        }
    printf(".\n");
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

/* The net with the best test accuracy on the texts. */
static const result *best_net(const experiment *e, const char **label)
{
    const result *best = &e->results[TEXT_TASK][0][0];
    *label = labels[0];
    for (int n = 0; n < N_NETS; n++)
        for (int s = 0; s < e->seeds; s++)
            if (e->results[TEXT_TASK][n][s].accuracy > best->accuracy) {
                best = &e->results[TEXT_TASK][n][s];
                *label = labels[n];
            }
    return best;
}

/* One of the names asked for, and its symbols. */
typedef struct query {
    char *name;
    int64_t *symbols, n;
} query;

typedef struct queries {
    query *list;
    int n;
} queries;

static void free_queries(queries *q)
{
    for (int i = 0; i < q->n; i++) {
        free(q->list[i].name);
        free(q->list[i].symbols);
    }
    free(q->list);
}

static ek_status encode(const ek_vocabulary *vocabulary, const char *name, size_t bytes, query *q)
{
    *q = (query){.name = calloc(bytes + 1, 1)};
    if (!q->name)
        return ek_fail(EK_ERR_MEMORY, "out of memory");
    memcpy(q->name, name, bytes);
    q->n = ek_vocabulary_encode(vocabulary, q->name, NULL, 0);
    if (q->n < 0)
        return ek_last_status();
    if (q->n == 0)
        return ek_fail(EK_ERR_ARGUMENT, "--name: expected at least one character, got an empty name");
    q->symbols = malloc((size_t)q->n * sizeof *q->symbols);
    if (!q->symbols)
        return ek_fail(EK_ERR_MEMORY, "out of memory");
    ek_vocabulary_encode(vocabulary, q->name, q->symbols, q->n);
    return EK_OK;
}

/* Names stand after --name, several of them between commas.  To be called before any work: it finds what is wrong. */
static ek_status read_queries(const option_list *names, const ek_vocabulary *vocabulary, queries *q)
{
    int most = 0;
    for (int i = 0; i < names->n; i++) {
        most++;
        for (const char *c = names->text[i]; *c; c++)
            most += *c == ',';
    }
    q->list = calloc((size_t)most + 1, sizeof *q->list);
    ek_status status = q->list ? EK_OK : ek_fail(EK_ERR_MEMORY, "out of memory");
    for (int i = 0; i < names->n; i++)
        for (const char *name = names->text[i]; status == EK_OK && name;) {
            const size_t bytes = strcspn(name, ",");
            status = encode(vocabulary, name, bytes, &q->list[q->n++]);
            name = name[bytes] ? name + bytes + 1 : NULL;
        }
    return status;
}

/* Names each character that the training texts do not have. */
static void print_unknown(const query *q)
{
    const char *c = q->name;
    for (int64_t i = 0; i < q->n; i++) {
        int bytes = 1; /* of this UTF-8 character: the ones that continue it begin with the bits 10 */
        while ((c[bytes] & 0xC0) == 0x80)
            bytes++;
        if (q->symbols[i] == EK_UNKNOWN)
            printf("  unknown character: \"%.*s\", the %lld. of the name, is in no training text; the net reads a "
                   "symbol that it was not trained on\n", bytes, c, (long long)i + 1);
        c += bytes;
    }
}

/* Class probabilities, the largest first; those below half a percent together. */
static ek_status classify(const experiment *e, ek_module *net, const query *q)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_from_array(EK_I64, EK_SHAPE(1, q->n), q->symbols);
    ek_tensor *p = tape && x ? ek_softmax(tape, ek_forward(net, tape, x), 1) : NULL;
    const ek_status status = p ? EK_OK : ek_last_status();
    if (p) {
        float *left = ek_data_f32(p);
        double rest = 1;
        printf("\n%s\n", q->name);
        print_unknown(q);
        for (int64_t k = 0, classes = ek_tensor_numel(p); k < classes; k++) {
            int64_t most = 0;
            for (int64_t c = 1; c < classes; c++)
                most = left[c] > left[most] ? c : most;
            if (left[most] < 0.005f)
                break;
            printf("  %5.1f %%  %s\n", 100.0 * left[most], ek_text_class_name(e->data.train, most));
            rest -= left[most];
            left[most] = 0;
        }
        if (rest >= 5e-4)
            printf("  %5.1f %%  all others\n", 100 * rest);
    }
    ek_tensor_free(x);
    ek_tape_free(tape);
    return status;
}

static ek_status answer(const experiment *e, const queries *q)
{
    const char *label;
    const result *best = best_net(e, &label);
    ek_status status = EK_OK;
    if (q->n)
        printf("\nBy the best net, %s with %.1f %% of the test texts right:\n", label, best->accuracy);
    for (int i = 0; i < q->n && status == EK_OK; i++)
        status = classify(e, best->net, &q->list[i]);
    return status;
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

static bool write_csv(const experiment *e, const char *folder)
{
    char path[512];
    FILE *csv = open_output(folder, "rnn_layernorm.csv", path, sizeof path);
    if (!csv)
        return false;
    fprintf(csv, "task,net,seed,step,mean_loss,final_train_accuracy,final_test_accuracy,ms_per_step\n");
    for (int t = 0; t < N_TASKS; t++)
        for (int n = 0; n < N_NETS; n++)
            for (int s = 0; s < e->seeds; s++)
                for (int p = 0; p < N_POINTS; p++) {
                    const result *r = &e->results[t][n][s];
                    fprintf(csv, "%s,%s,%lld,%.1f,%.6f,%.4f,%.4f,%.4f\n", task_names[t], labels[n],
                            (long long)(e->seed + s), (double)e->steps[t] * (p + 0.5) / N_POINTS, r->loss[p],
                            r->train_accuracy, r->accuracy, r->milliseconds);
                }
    if (!close_output(csv, path))
        return false;
    printf("\nEvery run: %s\n", path);
    return true;
}

static bool draw(const experiment *e, const char *folder)
{
    static const char *const colours[N_NORMS] = {"#777777", "#1f77b4", "#d62728"};
    char path[512];
    FILE *script = open_output(folder, "rnn_layernorm.gnuplot", path, sizeof path);
    if (!script)
        return false;
    fprintf(script, "set terminal pngcairo size 900,900 font ',12'\nset output '%s/rnn_layernorm.png'\n"
                    "set multiplot layout 2,1\nset xlabel 'training step'\nset ylabel 'training loss'\nset grid\n"
                    "set key outside\n", folder);
    for (int t = 0; t < N_TASKS; t++) {
        for (int n = 0; n < N_NETS; n++) {
            fprintf(script, "$net%d_%d << END\n", t, n);
            for (int p = 0; p < N_POINTS; p++)
                fprintf(script, "%.1f %.6f\n", (double)e->steps[t] * (p + 0.5) / N_POINTS, mean_loss(e, t, n, p));
            fprintf(script, "END\n");
        }
        fprintf(script, "set title '%s (mean over seeds: %lld)'\nplot ",
                t == MEMORY_TASK ? "The first symbol, after the end of the sequence" : "The class of a text",
                (long long)e->seeds);
        for (int n = 0; n < N_NETS; n++)
            fprintf(script, "%s$net%d_%d using 1:2 with lines lw 2 dt %d lc rgb '%s' title '%s'",
                    n ? ", \\\n     " : "", t, n, n / N_NORMS + 1, colours[n % N_NORMS], labels[n]);
        fprintf(script, "\n");
    }
    fprintf(script, "unset multiplot\n");
    return finish_plot(script, path, folder, "rnn_layernorm.png");
}

/* ---- the program ------------------------------------------------------------------------------------------------- */

static bool all_succeeded(const experiment *e)
{
    for (int i = 0; i < N_TASKS * N_NETS * (int)e->seeds; i++) {
        const result *r = &e->results[i % N_TASKS][i / N_TASKS % N_NETS][i / N_TASKS / N_NETS];
        if (r->failed) {
            fprintf(stderr, "rnn_layernorm: a run with %s failed: %s\n", labels[i / N_TASKS % N_NETS], r->error);
            return false;
        }
    }
    return true;
}

static void free_experiment(experiment *e)
{
    for (int t = 0; t < N_TASKS; t++)
        for (int n = 0; n < N_NETS; n++)
            for (int s = 0; s < MOST_SEEDS; s++)
                ek_module_free(e->results[t][n][s].net);
    free_texts(&e->data);
    free(e);
}

static int experiment_run(experiment *e, const option_list *names, const char *out)
{
    queries q = {0};
    if (read_queries(names, e->data.vocabulary, &q) != EK_OK) {
        free_queries(&q);
        return report_failure("rnn_layernorm");
    }
    run_jobs((int)e->seeds * N_NETS * N_TASKS, run, e);
    int status = all_succeeded(e) ? EXIT_SUCCESS : EXIT_FAILURE;
    if (status == EXIT_SUCCESS) {
        for (int t = 0; t < N_TASKS; t++)
            print_task(e, t);
        print_conclusion(e);
        if (!write_csv(e, out) || !draw(e, out))
            status = EXIT_FAILURE;
        else if (answer(e, &q) != EK_OK)
            status = report_failure("rnn_layernorm");
    }
    free_queries(&q);
    return status;
}

/* Steps of the longest training text. */
static int64_t longest_text(const texts *data)
{
    int64_t longest = 1;
    for (int64_t i = 0; i < ek_text_size(data->train); i++) {
        const int64_t n = ek_vocabulary_encode(data->vocabulary, ek_text_at(data->train, i), NULL, 0);
        longest = n > longest ? n : longest;
    }
    return longest;
}

int main(int argc, char **argv)
{
    const char *folder = NULL, *out = "out";
    int64_t n_train = 0, n_test = 1000, epochs = 5, steps = 800, memory = 30, seeds = 5, seed = 1, threads = 0;
    option_list names = {.n = 0};
    bool quick = false;
    const option options[] = {
        {"data", "DIR", OPTION_TEXT, &folder, 0, "texts, a file CLASS.txt per class; without it the embedded numerals"},
        {"name", "X", OPTION_LIST, &names, 0, "show what the best net takes X for; may be repeated, or X,Y,Z"},
        {"seeds", "N", OPTION_INT, &seeds, 1, "runs per net and task, 20 at most"},
        {"seed", "N", OPTION_INT, &seed, 0, "the first of them"},
        {"texts", "N", OPTION_INT, &n_train, 0, "training texts; 0: 2048 of the embedded ones, 8192 of a folder"},
        {"test-texts", "N", OPTION_INT, &n_test, 32, "held-out texts"},
        {"epochs", "N", OPTION_INT, &epochs, 1, "passes over the training texts"},
        {"memory", "N", OPTION_INT, &memory, 2, "length of the sequences of which the first symbol is asked"},
        {"steps", "N", OPTION_INT, &steps, N_POINTS, "training steps on them"},
        {"threads", "N", OPTION_INT, &threads, 0, "threads; 0: as many as there are cores"},
        {"quick", NULL, OPTION_FLAG, &quick, 0, "few steps, one seed: to see that it runs"},
        {"out", "DIR", OPTION_TEXT, &out, 0, "folder for the CSV and the plot; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "LSTM and GRU, plain, layer-normalized and batch-normalized: what they learn, in "
                       "what time.\nAbout a minute on two cores.", options,
                       (int)(sizeof options / sizeof options[0]), &status))
        return status;
    if (quick) {
        n_train = 640;
        n_test = 64;
        steps = N_POINTS;
        epochs = seeds = 1;
    }
    if (n_train == 0)
        n_train = folder ? 8192 : 2048;
    if (seeds > MOST_SEEDS) {
        fprintf(stderr, "rnn_layernorm: --seeds: expected at most %d, got %lld\n", MOST_SEEDS, (long long)seeds);
        return EXIT_FAILURE;
    }
    use_threads(threads);
    experiment *e = make_folder(out) ? calloc(1, sizeof *e) : NULL;
    if (!e)
        return EXIT_FAILURE;
    pthread_mutex_init(&e->lock, NULL);
    if (load_texts(folder, n_train, n_test, 0, &e->data) == EK_OK) {
        e->memory = memory;
        e->seeds = seeds;
        e->seed = seed;
        e->longest = longest_text(&e->data);
        e->steps[MEMORY_TASK] = steps;
        e->steps[TEXT_TASK] = epochs * ((ek_text_size(e->data.train) + BATCH - 1) / BATCH);
        printf("%s\n", ek_build_info());
        print_texts(&e->data, folder);
        fflush(stdout);
        status = experiment_run(e, &names, out);
    } else {
        status = report_failure("rnn_layernorm");
    }
    free_experiment(e);
    return status;
}
