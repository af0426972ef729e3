#include "common.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MOST_THREADS = 64 };

/* ---- options ----------------------------------------------------------------------------------------------------- */

static void print_help(const char *program, const char *about, const option *options, int n)
{
    printf("usage: %s [OPTION…]\n\n%s\n\n", program, about);
    for (int i = 0; i < n; i++) {
        char flag[64];
        snprintf(flag, sizeof flag, "--%s %s", options[i].name, options[i].argument ? options[i].argument : "");
        printf("  %-18s %s", flag, options[i].help);
        if (options[i].kind == OPTION_INT)
            printf(" (%lld)", (long long)*(int64_t *)options[i].value);
        printf("\n");
    }
    printf("  %-18s %s\n", "--help", "this text");
}

static bool set_option(const char *program, const option *o, const char *text)
{
    if (o->kind == OPTION_TEXT) {
        *(const char **)o->value = text;
        return true;
    }
    if (o->kind == OPTION_LIST) {
        option_list *list = o->value;
        if (list->n == MOST_LISTED) {
            fprintf(stderr, "%s: --%s: expected at most %d of them\n", program, o->name, MOST_LISTED);
            return false;
        }
        list->text[list->n++] = text;
        return true;
    }
    char *end;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*text == '\0' || *end != '\0' || errno || number < o->least) {
        fprintf(stderr, "%s: --%s: expected a whole number of at least %lld, got \"%s\"\n", program, o->name,
                (long long)o->least, text);
        return false;
    }
    *(int64_t *)o->value = number;
    return true;
}

bool parse_options(int argc, char **argv, const char *about, const option *options, int n, int *status)
{
    const char *slash = strrchr(argv[0], '/'), *program = slash ? slash + 1 : argv[0];
    *status = EXIT_FAILURE;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help(program, about, options, n);
            *status = EXIT_SUCCESS;
            return false;
        }
        const option *found = NULL;
        for (int k = 0; k < n && !found; k++)
            if (!strncmp(argv[i], "--", 2) && !strcmp(argv[i] + 2, options[k].name))
                found = &options[k];
        if (!found) {
            fprintf(stderr, "%s: there is no option \"%s\"; --help lists them\n", program, argv[i]);
            return false;
        }
        if (found->kind == OPTION_FLAG) {
            *(bool *)found->value = true;
            continue;
        }
        if (++i == argc) {
            fprintf(stderr, "%s: --%s: expected %s after it\n", program, found->name, found->argument);
            return false;
        }
        if (!set_option(program, found, argv[i]))
            return false;
    }
    return true;
}

void use_threads(int64_t n)
{
    if (n > 0)
        ek_set_num_threads(n < MOST_THREADS ? (int)n : MOST_THREADS);
}

int report_failure(const char *program)
{
    fprintf(stderr, "%s: %s\n", program, ek_last_error());
    return EXIT_FAILURE;
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

ek_dataset *load_images(const char *folder, ek_split split, int64_t n, uint64_t seed)
{
    if (!folder)
        return ek_dataset_glyphs(n, seed, split);
    ek_dataset *all = ek_dataset_from_mnist(folder, split);
    if (!all)
        return NULL;
    int64_t size = ek_dataset_size(all);
    int64_t *order = malloc((size_t)size * sizeof *order);
    ek_dataset *some = NULL;
    if (order) {
        ek_rng rng = ek_rng_named(seed, split == EK_TRAIN ? "training images" : "test images");
        ek_rng_permutation(&rng, size, order);
        some = ek_dataset_subset(all, order, n < size ? n : size);
    } else {
        ek_fail(EK_ERR_MEMORY, "out of memory");
    }
    free(order);
    ek_dataset_free(all);
    return some;
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

void show_progress(const char *what, int64_t done, int64_t total)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s: %lld of %lld%s", what, (long long)done, (long long)total, done == total ? "\n" : "");
}

bool make_folder(const char *folder)
{
    struct stat is;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
        fprintf(stderr, "cannot make the folder %s: %s\n", folder, strerror(errno));
        return false;
    }
    if (stat(folder, &is) == 0 && !S_ISDIR(is.st_mode))
        errno = ENOTDIR;
    else if (access(folder, W_OK | X_OK) == 0)
        return true;
    fprintf(stderr, "cannot write to the folder %s: %s\n", folder, strerror(errno));
    return false;
}

FILE *open_output(const char *folder, const char *name, char *path, size_t bytes)
{
    snprintf(path, bytes, "%s/%s", folder, name);
    if (!make_folder(folder))
        return NULL;
    FILE *file = fopen(path, "w");
    if (!file)
        fprintf(stderr, "cannot write %s: %s\n", path, strerror(errno));
    return file;
}

bool close_output(FILE *file, const char *path)
{
    const bool written = !ferror(file);
    if (fclose(file) == 0 && written)
        return true;
    fprintf(stderr, "writing %s failed\n", path);
    return false;
}

/* False when there is no gnuplot; its own errors go to stderr. */
static bool run_gnuplot(const char *script_path)
{
    if (system("command -v gnuplot >/dev/null 2>&1") != 0)
        return false;
    char command[1024];
    snprintf(command, sizeof command, "gnuplot '%s'", script_path);
    return system(command) == 0;
}

bool finish_plot(FILE *script, const char *path, const char *folder, const char *image)
{
    if (!close_output(script, path))
        return false;
    if (run_gnuplot(path))
        printf("Plot: %s/%s\n", folder, image);
    else
        printf("Plot: not drawn; with gnuplot (package gnuplot-nox): gnuplot %s\n", path);
    return true;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

typedef struct job_queue {
    atomic_int next;
    int n;
    void (*job)(void *context, int i);
    void *context;
} job_queue;

static void *work(void *argument)
{
    job_queue *queue = argument;
    ek_set_num_threads(1); /* of this thread: the jobs share the cores among them */
    for (int i; (i = atomic_fetch_add(&queue->next, 1)) < queue->n;)
        queue->job(queue->context, i);
    return NULL;
}

void run_jobs(int n, void (*job)(void *context, int i), void *context)
{
    job_queue queue = {.n = n, .job = job, .context = context};
    pthread_t threads[MOST_THREADS];
    int wanted = ek_num_threads() < n ? ek_num_threads() : n, started = 0;
    while (started < wanted && started < MOST_THREADS && pthread_create(&threads[started], NULL, work, &queue) == 0)
        started++;
    if (started == 0) { /* no thread to be had: do it here */
        int before = ek_num_threads();
        work(&queue);
        ek_set_num_threads(before);
    }
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

void mean_and_spread(const double *values, int n, double *mean, double *spread)
{
    double sum = 0, squares = 0;
    for (int i = 0; i < n; i++)
        sum += values[i];
    *mean = sum / n;
    for (int i = 0; i < n; i++)
        squares += (values[i] - *mean) * (values[i] - *mean);
    *spread = n > 1 ? sqrt(squares / (n - 1)) : 0;
}
