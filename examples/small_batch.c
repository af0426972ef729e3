/* What becomes of each norm as the batch shrinks.
 *
 * The same small CNN is trained with BatchNorm, LayerNorm, InstanceNorm, GroupNorm, SwitchableNorm and without a norm
 * at batch sizes 32 … 2, the learning rate scaled with the batch size, several seeds each; then the error on held-out
 * images is measured.  Beside it stands the reason: how far the mean and variance of a batch stray from those of the
 * whole training set.
 */
#include "small_net.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { N_NORMS = 6, N_BATCHES = 5, MOST_SEEDS = 20, N_PROBES = 3 };

static const int64_t batches[N_BATCHES] = {32, 16, 8, 4, 2};
static const char *const norms[N_NORMS] = {"none", "BN", "LN", "IN", "GN", "SN"};
static const char *const legends[N_NORMS] = {"no norm",    "BatchNorm",       "LayerNorm",
                                             "InstanceNorm (none on the fully connected layer: one value per channel)",
                                             "GroupNorm, 4 groups", "SwitchableNorm"};

/* The layers whose output goes into a norm, and how many values of a channel one image has there. */
static const char *const probe_names[N_PROBES] = {"0", "3", "7"};
static const char *const probe_labels[N_PROBES] = {"conv 1→8", "conv 8→16", "fc 784→64"};
static const int64_t probe_channels[N_PROBES] = {8, 16, 64}, probe_positions[N_PROBES] = {14 * 14, 7 * 7, 1};

typedef struct result {
    double train_error, test_error; /* in % */
    bool failed;
    char error[512];
} result;

/* Sums of x and x² over the positions of one channel of one image: [image][channel]. */
typedef struct probe {
    double *sum, *squares;
    int64_t filled;
} probe;

typedef struct experiment {
    image_sets data;
    int64_t epochs, seeds, seed;
    bool report; /* of the nets of the first seed: how their norms fare on the held-out images */
    ek_norm_report *reports[N_NORMS][N_BATCHES];
    result results[N_NORMS][N_BATCHES][MOST_SEEDS];
    probe probes[N_PROBES];
    pthread_mutex_t lock;
    int64_t done;
} experiment;

/* Error in % over a whole data set, in evaluation mode; −1 on failure. */
static double error_of(ek_module *net, ek_dataset *data)
{
    evaluation figures;
    if (evaluate(net, data, &figures) != EK_OK)
        return -1;
    return 100.0 * (1 - (double)figures.right / (double)ek_dataset_size(data));
}

/* An observer: adds up each channel of each image at the probed layers. */
static void record_probe(void *user, const char *name, const ek_module *module, ek_event event, const ek_tensor *output)
{
    experiment *e = user;
    (void)module;
    for (int p = 0; event == EK_EVENT_OUTPUT && p < N_PROBES; p++)
        if (!strcmp(name, probe_names[p])) {
            const int64_t planes = ek_tensor_dim(output, 0) * probe_channels[p], positions = probe_positions[p];
            const float *x = ek_tensor_const_data(output);
            for (int64_t i = 0; i < planes; i++, e->probes[p].filled++)
                for (int64_t s = 0; s < positions; s++) {
                    double value = x[i * positions + s];
                    e->probes[p].sum[e->probes[p].filled] += value;
                    e->probes[p].squares[e->probes[p].filled] += value * value;
                }
        }
}

/* One run of one norm at one batch size with one seed. */
static void run(void *context, int job)
{
    experiment *e = context;
    /* The smallest batches take longest: they go first. */
    const int seed = job % (int)e->seeds, norm = job / (int)e->seeds % N_NORMS;
    const int batch = N_BATCHES - 1 - job / (int)e->seeds / N_NORMS;
    result *r = &e->results[norm][batch][seed];
    const uint64_t run_seed = (uint64_t)(e->seed + seed);
    ek_module *net = small_net(norms[norm]);
    r->failed = true;
    if (net && ek_module_init(net, run_seed) == EK_OK &&
        train_small_net(net, e->data.train, batches[batch], e->epochs, run_seed) == EK_OK) {
        if (norm == 1 && batch == 0 && seed == 0) /* the net whose activations are looked at: BN at 32 */
            ek_module_observe(net, record_probe, e);
        r->train_error = error_of(net, e->data.train);
        ek_module_observe(net, NULL, NULL);
        r->test_error = error_of(net, e->data.test);
        r->failed = r->train_error < 0 || r->test_error < 0;
        if (e->report && norm > 0 && seed == 0 && !r->failed) {
            ek_module_eval(net);
            e->reports[norm][batch] = ek_norm_report_new(net, ek_dataset_x(e->data.test), NULL);
            r->failed = !e->reports[norm][batch];
        }
    }
    if (r->failed)
        snprintf(r->error, sizeof r->error, "%s", ek_last_error());
    ek_module_free(net);
    pthread_mutex_lock(&e->lock);
    show_progress("trained", ++e->done, e->seeds * N_NORMS * N_BATCHES);
    pthread_mutex_unlock(&e->lock);
}

/* How far the statistics of batches of `size` stray from those of all images: the root mean square over batches and
 * channels of (batch mean − mean)/σ and of batch variance/σ² − 1. */
static void stray(const probe *p, int64_t images, int64_t channels, int64_t positions, int64_t size, double *mean_stray,
                  double *variance_stray)
{
    double mean_total = 0, variance_total = 0;
    int64_t counted = 0;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, squares = 0;
        for (int64_t i = 0; i < images; i++) {
            sum += p->sum[i * channels + c];
            squares += p->squares[i * channels + c];
        }
        const double all = (double)(images * positions), mean = sum / all, variance = squares / all - mean * mean;
        if (!(variance > 1e-12)) /* a dead channel has no scale to measure by */
            continue;
        for (int64_t first = 0; first + size <= images; first += size) {
            double batch_sum = 0, batch_squares = 0, n = (double)(size * positions);
            for (int64_t i = first; i < first + size; i++) {
                batch_sum += p->sum[i * channels + c];
                batch_squares += p->squares[i * channels + c];
            }
            double batch_mean = batch_sum / n, batch_variance = batch_squares / n - batch_mean * batch_mean;
            mean_total += (batch_mean - mean) * (batch_mean - mean) / variance;
            variance_total += (batch_variance / variance - 1) * (batch_variance / variance - 1);
            counted++;
        }
    }
    *mean_stray = counted ? sqrt(mean_total / (double)counted) : 0;
    *variance_stray = counted ? sqrt(variance_total / (double)counted) : 0;
}

static void errors_of(const experiment *e, int norm, int batch, double *mean, double *spread)
{
    double values[MOST_SEEDS];
    for (int s = 0; s < e->seeds; s++)
        values[s] = e->results[norm][batch][s].test_error;
    mean_and_spread(values, (int)e->seeds, mean, spread);
}

static void print_table(const experiment *e)
{
    printf("\nTest error in %%, mean ± standard deviation over %lld seed%s\n\n  batch size", (long long)e->seeds,
           e->seeds == 1 ? "" : "s");
    for (int n = 0; n < N_NORMS; n++)
        printf("  %11s", norms[n]);
    printf("\n");
    for (int b = 0; b < N_BATCHES; b++) {
        printf("  %10lld", (long long)batches[b]);
        for (int n = 0; n < N_NORMS; n++) {
            double mean, spread;
            errors_of(e, n, b, &mean, &spread);
            printf("  %5.1f ±%4.1f", mean, spread);
        }
        printf("\n");
    }
    printf("\n");
    for (int n = 0; n < N_NORMS; n++)
        printf("  %-5s %s\n", norms[n], legends[n]);
}

static void print_strays(const experiment *e)
{
    printf(
        "\nHow far a batch's statistics stray from those of all %lld training images (in the BN net trained at batch\n"
        "size 32, at the input of each norm): root mean square of (batch mean − mean)/σ, and of batch variance/σ² − "
        "1\n\n"
        "  batch size",
        (long long)ek_dataset_size(e->data.train));
    for (int p = 0; p < N_PROBES; p++)
        printf("  %15s", probe_labels[p]);
    printf("\n");
    for (int b = 0; b < N_BATCHES; b++) {
        printf("  %10lld", (long long)batches[b]);
        for (int p = 0; p < N_PROBES; p++) {
            double mean, variance;
            stray(&e->probes[p], ek_dataset_size(e->data.train), probe_channels[p], probe_positions[p], batches[b],
                  &mean, &variance);
            printf("    %5.2f  %5.2f", mean, variance);
        }
        printf("\n");
    }
}

/* What was measured, in words that follow from the numbers. */
static void print_conclusion(const experiment *e)
{
    const int last = N_BATCHES - 1;
    double bn_large, bn_small, worst_other = 0, spread;
    int worst = 2;
    bool others_hold = true;
    errors_of(e, 1, 0, &bn_large, &spread);
    errors_of(e, 1, last, &bn_small, &spread);
    for (int n = 2; n < 5; n++) {
        double large, small;
        errors_of(e, n, 0, &large, &spread);
        errors_of(e, n, last, &small, &spread);
        others_hold &= small < 1.5 * large;
        if (small > worst_other) {
            worst_other = small;
            worst = n;
        }
    }
    const bool bn_falls = bn_small > 1.5 * bn_large && bn_small > 1.5 * worst_other;
    printf("\n%s.\nBN: %.1f %% at batch size %lld, %.1f %% at %lld; the worst of LN, IN and GN at %lld is %s with %.1f "
           "%%.\n",
           bn_falls && others_hold
               ? "BatchNorm degrades as the batch shrinks; LayerNorm, InstanceNorm and GroupNorm do not"
           : bn_falls ? "BatchNorm degrades as the batch shrinks, but in this run others did too"
                      : "BatchNorm's degradation did NOT show in this run",
           bn_large, (long long)batches[0], bn_small, (long long)batches[last], (long long)batches[last], norms[worst],
           worst_other);
}

static bool write_csv(const experiment *e, const char *folder)
{
    char path[512];
    FILE *csv = open_output(folder, "small_batch.csv", path, sizeof path);
    if (!csv)
        return false;
    fprintf(csv, "norm,batch,seed,train_error,test_error\n");
    for (int n = 0; n < N_NORMS; n++)
        for (int b = 0; b < N_BATCHES; b++)
            for (int s = 0; s < e->seeds; s++)
                fprintf(csv, "%s,%lld,%lld,%.4f,%.4f\n", norms[n], (long long)batches[b], (long long)(e->seed + s),
                        e->results[n][b][s].train_error, e->results[n][b][s].test_error);
    if (!close_output(csv, path))
        return false;
    printf("\nEvery run: %s\n", path);
    return true;
}

static bool draw(const experiment *e, const char *folder)
{
    char path[512];
    FILE *script = open_output(folder, "small_batch.gnuplot", path, sizeof path);
    if (!script)
        return false;
    fprintf(script, "set terminal pngcairo size 900,600 font ',12'\nset output '%s/small_batch.png'\n"
                    "set title 'Test error against batch size (mean and standard deviation, seeds: %lld)'\n"
                    "set xlabel 'batch size'\nset ylabel 'test error (%%)'\nset logscale xy\n"
                    "set xtics (2, 4, 8, 16, 32)\nset xrange [1.7:38]\nset key outside\nset grid\n"
                    "set ytics (1, 2, 3, 5, 10, 20, 30, 50, 100)\n",
            folder, (long long)e->seeds);
    for (int n = 0; n < N_NORMS; n++) {
        fprintf(script, "$%s << END\n", norms[n]);
        for (int b = 0; b < N_BATCHES; b++) {
            double mean, spread;
            errors_of(e, n, b, &mean, &spread);
            fprintf(script, "%lld %.4f %.4f\n", (long long)batches[b], mean, spread);
        }
        fprintf(script, "END\n");
    }
    fprintf(script, "plot ");
    static const char *const colours[N_NORMS] = {"#777777", "#d62728", "#1f77b4", "#2ca02c", "#9467bd", "#e07b00"};
    for (int n = 0; n < N_NORMS; n++)
        fprintf(script, "%s$%s using 1:2:3 with yerrorlines lw 2 pt %d lc rgb '%s' title '%s'", n ? ", \\\n     " : "",
                norms[n], n + 4, colours[n], n == 3 ? "IN (not after fc)" : norms[n]);
    fprintf(script, "\n");
    return finish_plot(script, path, folder, "small_batch.png");
}

/* The norm reports at the largest and the smallest batch size. */
static void print_reports(const experiment *e)
{
    for (int n = 1; n < N_NORMS; n++)
        for (int b = 0; b < N_BATCHES; b += N_BATCHES - 1) {
            printf("\n%s trained at batch size %lld, on the held-out images\n\n", norms[n], (long long)batches[b]);
            ek_norm_report_print(e->reports[n][b], stdout);
        }
}

/* Room for the probes' sums; false when there is none. */
static bool make_probes(experiment *e)
{
    for (int p = 0; p < N_PROBES; p++) {
        size_t n = (size_t)(ek_dataset_size(e->data.train) * probe_channels[p]);
        e->probes[p].sum = calloc(n, sizeof(double));
        e->probes[p].squares = calloc(n, sizeof(double));
        if (!e->probes[p].sum || !e->probes[p].squares)
            return false;
    }
    return true;
}

static void free_experiment(experiment *e)
{
    for (int p = 0; p < N_PROBES; p++) {
        free(e->probes[p].sum);
        free(e->probes[p].squares);
    }
    for (int i = 0; i < N_NORMS * N_BATCHES; i++)
        ek_norm_report_free(e->reports[i / N_BATCHES][i % N_BATCHES]);
    free_images(&e->data);
    free(e);
}

/* Says on stderr why a run failed, if one did. */
static bool all_succeeded(const experiment *e)
{
    for (int i = 0; i < N_NORMS * N_BATCHES * (int)e->seeds; i++) {
        const result *r = &e->results[i % N_NORMS][i / N_NORMS % N_BATCHES][i / N_NORMS / N_BATCHES];
        if (r->failed) {
            fprintf(stderr, "small_batch: a run with %s failed: %s\n", norms[i % N_NORMS], r->error);
            return false;
        }
    }
    return true;
}

int main(int argc, char **argv)
{
    const char *folder = NULL, *out = "out";
    int64_t n_train = 4096, n_test = 2000, epochs = 2, seeds = 3, seed = 1;
    bool quick = false, report = false;
    const option options[] = {
        {"data", "DIR", OPTION_TEXT, &folder, 0, "MNIST's IDX files, plain or .gz; without it the embedded glyphs"},
        {"seeds", "N", OPTION_INT, &seeds, 1, "runs per norm and batch size, 20 at most"},
        {"seed", "N", OPTION_INT, &seed, 0, "the first of them"},
        {"images", "N", OPTION_INT, &n_train, 64, "training images"},
        {"test-images", "N", OPTION_INT, &n_test, 1, "held-out images"},
        {"epochs", "N", OPTION_INT, &epochs, 1, "passes over the training images"},
        {"quick", NULL, OPTION_FLAG, &quick, 0, "512 images, one epoch, one seed: to see that it runs"},
        {"report", NULL, OPTION_FLAG, &report, 0, "also a norm report of each net at batch sizes 32 and 2"},
        {"out", "DIR", OPTION_TEXT, &out, 0, "folder for the CSV and the plot; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "Trains a small CNN with each norm at batch sizes 32 … 2 and shows its test error.",
                       options, (int)(sizeof options / sizeof options[0]), &status))
        return status;
    if (quick) {
        n_train = 512;
        n_test = 500;
        epochs = seeds = 1;
    }
    if (seeds > MOST_SEEDS) {
        fprintf(stderr, "small_batch: --seeds: expected at most %d, got %lld\n", MOST_SEEDS, (long long)seeds);
        return EXIT_FAILURE;
    }
    if (!make_folder(out))
        return EXIT_FAILURE;

    experiment *e = calloc(1, sizeof *e);
    if (!e)
        return EXIT_FAILURE;
    e->epochs = epochs;
    e->seeds = seeds;
    e->seed = seed;
    e->report = report;
    pthread_mutex_init(&e->lock, NULL);
    if (load_images(folder, n_train, n_test, &e->data) != EK_OK || !make_probes(e)) {
        status = report_failure("small_batch");
        free_experiment(e);
        return status;
    }
    printf("%s\n%lld training and %lld held-out images (%s), epochs: %lld, SGD, momentum 0.9, "
           "learning rate 0.05·batch/32\n", ek_build_info(), (long long)ek_dataset_size(e->data.train),
           (long long)ek_dataset_size(e->data.test), folder ? folder : "embedded glyphs", (long long)epochs);
    fflush(stdout);
    run_jobs((int)seeds * N_NORMS * N_BATCHES, run, e);
    status = all_succeeded(e) ? EXIT_SUCCESS : EXIT_FAILURE;
    if (status == EXIT_SUCCESS) {
        print_table(e);
        print_strays(e);
        print_conclusion(e);
        if (report)
            print_reports(e);
        if (!write_csv(e, out) || !draw(e, out))
            status = EXIT_FAILURE;
    }
    free_experiment(e);
    return status;
}
