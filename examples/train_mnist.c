/* Trains a classifier of images: an MLP or a small CNN, with any norm, on MNIST or on the embedded glyphs.
 *
 * It shows how training goes while it runs, and leaves the learning curves as CSV and as a plot.
 */
#include "images.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CLASSES = 10, HIDDEN = 256, CHANNELS = 16, GROUPS = 8, MOST_LAYERS = 16 };
enum { POINTS = 100 }; /* of the learning curve, per epoch */

typedef struct settings {
    const char *model, *norm, *optimizer, *data, *out;
    int64_t batch, epochs, images, seed, threads;
    double lr;
    bool quick;
} settings;

/* What training needs, and how far it is. */
typedef struct training {
    const settings *set;
    image_sets data;
    ek_module *net;
    ek_optimizer *optimizer;
    ek_schedule schedule;
    ek_loader *loader;
    ek_tape *tape;
    FILE *csv;
    progress line;
    int64_t batches, step, seen; /* batches per epoch; steps and images so far */
    double began, trained;       /* when; seconds spent in training alone */
} training;

/* Means over some steps. */
typedef struct average {
    double loss, right;
    int64_t images;
} average;

/* ---- the net ----------------------------------------------------------------------------------------------------- */

typedef struct layers {
    const char *norm;
    ek_module *at[MOST_LAYERS]; /* ek_sequential_from() refuses those that failed */
    int n;
} layers;

/* The norm and the ReLU behind a layer with so many channels, planes of size×size or (0) single values. */
static void add_norm_relu(layers *l, int64_t channels, int64_t size)
{
    if (strcmp(l->norm, "none"))
        l->at[l->n++] = make_norm(l->norm, channels, size, GROUPS);
    l->at[l->n++] = ek_relu_layer();
}

static void add_linear(layers *l, int64_t in, int64_t out)
{
    ek_linear_opts opts = ek_linear_opts_default();
    opts.bias = !strcmp(l->norm, "none"); /* a norm has one of its own */
    l->at[l->n++] = ek_linear(in, out, &opts);
    add_norm_relu(l, out, 0);
}

static void add_conv(layers *l, int64_t in, int64_t out, int64_t size)
{
    ek_conv_layer_opts opts = ek_conv_layer_opts_default();
    opts.padding[0] = opts.padding[1] = 1;
    opts.bias = !strcmp(l->norm, "none");
    l->at[l->n++] = ek_conv2d_layer(in, out, 3, &opts);
    add_norm_relu(l, out, size);
}

static ek_module *make_net(const char *model, const char *norm)
{
    layers l = {.norm = norm};
    if (!strcmp(model, "mlp")) {
        l.at[l.n++] = ek_flatten_layer();
        add_linear(&l, 784, HIDDEN);
        add_linear(&l, HIDDEN, HIDDEN);
        l.at[l.n++] = ek_linear(HIDDEN, CLASSES, NULL);
    } else {
        add_conv(&l, 1, CHANNELS, 28);
        add_conv(&l, CHANNELS, CHANNELS, 28);
        l.at[l.n++] = ek_max_pool2d_layer(2, NULL);
        add_conv(&l, CHANNELS, 2 * CHANNELS, 14);
        l.at[l.n++] = ek_max_pool2d_layer(2, NULL);
        l.at[l.n++] = ek_flatten_layer();
        l.at[l.n++] = ek_linear(2 * CHANNELS * 7 * 7, CLASSES, NULL);
    }
    return ek_sequential_from(l.n, l.at);
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

/* The peak of the learning rate's cycle that serves both models with every norm, at batch size 128.  Gradients of
 * smaller batches are noisier: SGD takes steps in proportion to the batch, the others to its root. */
static double default_rate(const settings *set)
{
    const double share = fmin(1, (double)set->batch / 128);
    if (!strcmp(set->optimizer, "sgd"))
        return 0.1 * share;
    return (strcmp(set->optimizer, "rmsprop") ? 3e-3 : 1e-3) * sqrt(share);
}

static ek_optimizer *make_optimizer(ek_module *net, const char *name, double lr)
{
    if (!strcmp(name, "adam"))
        return ek_adam(net, lr, NULL);
    if (!strcmp(name, "rmsprop"))
        return ek_rmsprop(net, lr, NULL);
    if (!strcmp(name, "adamw")) {
        ek_adamw_opts decay = ek_adamw_opts_default();
        decay.decay_norms_and_biases = false;
        return ek_adamw(net, lr, &decay);
    }
    ek_sgd_opts momentum = ek_sgd_opts_default();
    momentum.momentum = 0.9;
    return ek_sgd(net, lr, &momentum);
}

/* What cannot be trained, said before any work is done. */
static ek_status check_settings(const settings *set)
{
    const bool mlp = !strcmp(set->model, "mlp");
    if (mlp && !strcmp(set->norm, "in"))
        return ek_fail(EK_ERR_ARGUMENT, "--model mlp --norm in: InstanceNorm needs several values per channel of an "
                       "image, where the mlp has one: take --model cnn, or another norm, --norm ln say");
    if (mlp && set->batch == 1 && (!strcmp(set->norm, "bn") || !strcmp(set->norm, "sn")))
        return ek_fail(EK_ERR_ARGUMENT, "--model mlp --norm %s --batch 1: statistics of a batch need several values "
                       "per channel, where this has one: take --batch 2 or more, or another norm, --norm ln say",
                       set->norm);
    return EK_OK;
}

static ek_status prepare(training *t)
{
    const settings *set = t->set;
    ek_status status = load_images(set->data, set->images, set->quick ? 500 : set->data ? INT64_MAX : 2000, &t->data);
    if (status != EK_OK)
        return status;
    const int64_t size = ek_dataset_size(t->data.train);
    if (set->batch > size)
        return ek_fail(EK_ERR_ARGUMENT, "--batch %lld: there are %lld training images: take a batch of at most that",
                       (long long)set->batch, (long long)size);
    ek_loader_opts shuffled = ek_loader_opts_default();
    shuffled.seed = (uint64_t)set->seed;
    shuffled.merge_last = true;
    const double lr = set->lr > 0 ? set->lr : default_rate(set);
    t->loader = ek_loader_new(t->data.train, set->batch, &shuffled);
    t->net = t->loader ? make_net(set->model, set->norm) : NULL;
    if (!t->net || (status = ek_module_init(t->net, (uint64_t)set->seed)) != EK_OK)
        return ek_last_status();
    t->optimizer = make_optimizer(t->net, set->optimizer, lr);
    t->tape = t->optimizer ? ek_tape_new() : NULL;
    if (!t->tape)
        return ek_last_status();
    t->batches = ek_loader_num_batches(t->loader);
    t->schedule = ek_schedule_one_cycle(lr, t->batches * set->epochs);
    printf("%s\n%lld training and %lld test images (%s)\n%s, norm: %s, %lld parameters; %s, learning rate in one cycle "
           "up to %.3g; batch size %lld, seed %lld\n\n", ek_build_info(), (long long)size,
           (long long)ek_dataset_size(t->data.test), set->data ? set->data : "embedded glyphs", set->model, set->norm,
           (long long)ek_module_count_parameters(t->net), set->optimizer, lr, (long long)set->batch,
           (long long)set->seed);
    return EK_OK;
}

/* ---- training ---------------------------------------------------------------------------------------------------- */

/* One step on a batch, which joins the average. */
static ek_status train_on(training *t, const ek_batch *batch, average *mean)
{
    ek_tensor *logits = ek_forward(t->net, t->tape, batch->x);
    ek_tensor *loss = ek_cross_entropy(t->tape, logits, batch->y, NULL);
    ek_status status = ek_backward(t->tape, loss);
    if (status == EK_OK && !isfinite(ek_item(loss)))
        status = ek_fail(EK_ERR_ARGUMENT, "the loss is no finite number at step %lld: take a smaller --lr than %.3g",
                         (long long)t->step + 1, t->schedule.lr);
    if (status == EK_OK) {
        mean->loss += ek_item(loss) * (double)batch->size;
        mean->right += (double)ek_count_correct(logits, batch->y);
        mean->images += batch->size;
        status = ek_schedule_apply(&t->schedule, t->optimizer, t->step);
    }
    if (status == EK_OK)
        status = ek_optimizer_step(t->optimizer);
    ek_optimizer_zero_grad(t->optimizer);
    ek_tape_reset(t->tape);
    return status;
}

static double images_per_second(const training *t)
{
    return (double)t->seen / t->trained;
}

static double in_percent(double right, int64_t images)
{
    return 100 * right / (double)images;
}

/* A line of the learning curve, with test figures where there are some; and of progress. */
static void record(training *t, const average *mean, const evaluation *test)
{
    const double loss = mean->loss / (double)mean->images, accuracy = in_percent(mean->right, mean->images);
    fprintf(t->csv, "%lld,%.4f,%.6g,%.6f,%.4f,", (long long)t->step, (double)t->step / (double)t->batches,
            ek_schedule_lr(&t->schedule, t->step - 1), loss, accuracy);
    if (test)
        fprintf(t->csv, "%.6f,%.4f", test->loss, in_percent((double)test->right, ek_dataset_size(t->data.test)));
    else
        fprintf(t->csv, ",");
    fprintf(t->csv, ",%.3f\n", seconds_now() - t->began);

    /* A step is a forward and a backward of twice its work; the test is a forward. */
    const double train = 3 * (double)ek_dataset_size(t->data.train), tested = (double)ek_dataset_size(t->data.test);
    const double epoch = floor((double)(t->step - 1) / (double)t->batches);
    const double done = 3 * (double)t->seen + epoch * tested, all = (double)t->set->epochs * (train + tested);
    const double left = (seconds_now() - t->began) * (all / done - 1);
    update_progress(&t->line, "epoch %.0f of %lld, %3.0f %%: loss %.4f, accuracy %.2f %%, %.0f images/s, %d:%02d left",
                    epoch + 1, (long long)t->set->epochs, 100 * done / all, loss, accuracy, images_per_second(t),
                    (int)left / 60, (int)left % 60);
}

/* One pass over the training images, then the test. */
static ek_status train_epoch(training *t, int64_t epoch, evaluation *test)
{
    const int64_t interval = (t->batches + POINTS - 1) / POINTS;
    average whole = {0}, part = {0};
    ek_batch batch;
    ek_status status;
    double start = seconds_now();
    while ((status = ek_loader_next(t->loader, &batch)) == EK_OK) {
        if ((status = train_on(t, &batch, &part)) != EK_OK)
            return status;
        t->step++;
        t->seen += batch.size;
        const bool last = t->step % t->batches == 0;
        if (!last && t->step % t->batches % interval)
            continue;
        t->trained += seconds_now() - start;
        if (last && (status = evaluate(t->net, t->data.test, test)) != EK_OK)
            return status;
        record(t, &part, last ? test : NULL);
        whole.loss += part.loss;
        whole.right += part.right;
        whole.images += part.images;
        part = (average){0};
        start = seconds_now();
    }
    clear_progress(&t->line);
    printf("  %5lld  %13.4f  %8.2f %%  %9.4f  %8.2f %%  %8.0f  %7.1f\n", (long long)epoch,
           whole.loss / (double)whole.images, in_percent(whole.right, whole.images), test->loss,
           in_percent((double)test->right, ek_dataset_size(t->data.test)), images_per_second(t),
           seconds_now() - t->began);
    fflush(stdout);
    return status == EK_DONE ? EK_OK : status;
}

static ek_status train(training *t, evaluation *test)
{
    printf("  %5s  %13s  %10s  %9s  %10s  %8s  %7s\n", "epoch", "training loss", "accuracy", "test loss", "accuracy",
           "images/s", "seconds");
    fflush(stdout);
    fprintf(t->csv, "step,epoch,lr,train_loss,train_accuracy,test_loss,test_accuracy,seconds\n");
    t->began = seconds_now();
    ek_status status = EK_OK;
    for (int64_t epoch = 1; epoch <= t->set->epochs && status == EK_OK; epoch++)
        status = train_epoch(t, epoch, test);
    clear_progress(&t->line);
    return status;
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

static void print_result(const training *t, const evaluation *test)
{
    const int64_t size = ek_dataset_size(t->data.test);
    printf("\nTest accuracy: %.2f %% (%lld of %lld wrong)\nTime: %.1f s, of which %.1f s in training, %.0f images/s\n"
           "Peak memory: %.0f MiB\n", in_percent((double)test->right, size), (long long)(size - test->right),
           (long long)size, seconds_now() - t->began, t->trained, images_per_second(t), peak_memory());
}

/* The curves of the CSV: loss and error, in training and in the test. */
static bool draw(const settings *set, const char *csv)
{
    char path[512];
    FILE *script = open_output(set->out, "train_mnist.gnuplot", path, sizeof path);
    if (!script)
        return false;
    fprintf(script, "set terminal pngcairo size 900,800 font ',12'\nset output '%s/train_mnist.png'\n"
                    "set datafile separator ','\nset grid\nset logscale y\nset xlabel 'epoch'\n"
                    "set multiplot layout 2,1 title '%s, norm: %s, %s, batch size %lld'\n",
            set->out, set->model, set->norm, set->optimizer, (long long)set->batch);
    for (int panel = 0; panel < 2; panel++)
        fprintf(script, "set ylabel '%s'\nplot '%s' every ::1 using 2:%s with lines lc rgb '#1f77b4' title 'training', "
                        "\\\n     '' every ::1 using 2:%s with points pt 7 ps 1.5 lc rgb '#d62728' title 'test'\n",
                panel ? "error (%)" : "loss", csv, panel ? "(100-$5)" : "4", panel ? "(100-$7)" : "6");
    fprintf(script, "unset multiplot\n");
    return finish_plot(script, path, set->out, "train_mnist.png");
}

/* Prepares, trains and tells; false after a message. */
static bool run(training *t)
{
    char path[512];
    evaluation test;
    ek_status status = check_settings(t->set);
    if (status == EK_OK)
        status = prepare(t);
    t->csv = status == EK_OK ? open_output(t->set->out, "train_mnist.csv", path, sizeof path) : NULL;
    if (status == EK_OK && !t->csv)
        return false;
    if (status == EK_OK)
        status = train(t, &test);
    const bool written = !t->csv || close_output(t->csv, path);
    if (status != EK_OK) {
        report_failure("train_mnist");
        return false;
    }
    print_result(t, &test);
    if (written)
        printf("Learning curves: %s\n", path);
    return written && draw(t->set, path);
}

int main(int argc, char **argv)
{
    settings set = {.model = "cnn", .norm = "bn", .optimizer = "adam", .out = "out", .seed = 1};
    const option options[] = {
        {"data", "DIR", OPTION_TEXT, &set.data, 0, "MNIST's IDX files, plain or .gz; without it the embedded glyphs"},
        {"model", "mlp|cnn", OPTION_CHOICE, &set.model, 0, "two hidden layers of 256, or three convolutions"},
        {"norm", "none|bn|ln|in|gn|sn", OPTION_CHOICE, &set.norm, 0, "behind each of these"},
        {"batch", "N", OPTION_INT, &set.batch, 0, "batch size; 0: 128"},
        {"epochs", "N", OPTION_INT, &set.epochs, 0, "passes over the training images; 0: 3"},
        {"optimizer", "sgd|adam|adamw|rmsprop", OPTION_CHOICE, &set.optimizer, 0, "sgd has momentum 0.9"},
        {"lr", "X", OPTION_NUMBER, &set.lr, 0, "peak learning rate; by optimizer and batch size unless given"},
        {"seed", "N", OPTION_INT, &set.seed, 0, "of the first weights and of the order of the images"},
        {"images", "N", OPTION_INT, &set.images, 0, "training images; 0: all of MNIST's, 8000 of the embedded ones"},
        {"threads", "N", OPTION_INT, &set.threads, 0, "threads; 0: as many as there are cores"},
        {"quick", NULL, OPTION_FLAG, &set.quick, 0, "512 images, 2 epochs, batch size 16, unless given: a try"},
        {"out", "DIR", OPTION_TEXT, &set.out, 0, "folder for the CSV and the plot; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "Trains an MLP or a CNN with any norm, and shows how that goes.", options,
                       (int)(sizeof options / sizeof options[0]), &status))
        return status;
    if (set.images == 0)
        set.images = set.quick ? 512 : set.data ? INT64_MAX : 8000;
    if (set.epochs == 0)
        set.epochs = set.quick ? 2 : 3;
    if (set.batch == 0)
        set.batch = set.quick ? 16 : 128;
    use_threads(set.threads);
    if (!make_folder(set.out))
        return EXIT_FAILURE;
    training t = {.set = &set};
    status = run(&t) ? EXIT_SUCCESS : EXIT_FAILURE;
    ek_tape_free(t.tape);
    ek_optimizer_free(t.optimizer);
    ek_module_free(t.net);
    ek_loader_free(t.loader);
    free_images(&t.data);
    return status;
}
