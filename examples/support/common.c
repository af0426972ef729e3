#include "common.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MOST_THREADS = 64 };

/* ---- options ----------------------------------------------------------------------------------------------------- */

static void print_option(int width, const option *o)
{
    char flag[80];
    snprintf(flag, sizeof flag, "--%s %s", o->name, o->argument ? o->argument : "");
    printf("  %-*s %s", width, flag, o->help);
    if (o->kind == OPTION_INT)
        printf(" (%lld)", (long long)*(int64_t *)o->value);
    if (o->kind == OPTION_CHOICE)
        printf(" (%s)", *(const char **)o->value);
    printf("\n");
}

static void print_help(const char *program, const char *about, const option *options, int n)
{
    const option help = {"help", NULL, OPTION_FLAG, NULL, 0, "this text"};
    int width = 18;
    for (int i = 0; i < n; i++) {
        const int length = (int)(strlen(options[i].name) + (options[i].argument ? strlen(options[i].argument) : 0)) + 3;
        width = length > width ? length : width;
    }
    printf("usage: %s [OPTION…]\n\n%s\n\n", program, about);
    for (int i = 0; i < n; i++)
        print_option(width, &options[i]);
    print_option(width, &help);
}

/* `text` is one of the words of "a|b|c". */
static bool is_choice(const char *words, const char *text)
{
    const size_t length = strlen(text);
    for (const char *word = words; word; word = strchr(word, '|') ? strchr(word, '|') + 1 : NULL)
        if (length == strcspn(word, "|") && !strncmp(word, text, length))
            return true;
    return false;
}

static bool set_number(const option *o, const char *text)
{
    char *end;
    const double number = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(number) || !(number > (double)o->least))
        return false;
    *(double *)o->value = number;
    return true;
}

static bool set_int(const option *o, const char *text)
{
    char *end;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    if (end == text || *end != '\0' || errno || number < o->least)
        return false;
    *(int64_t *)o->value = number;
    return true;
}

static bool set_option(const char *program, const option *o, const char *text)
{
    option_list *list = o->value;
    switch (o->kind) {
    case OPTION_INT:
        if (set_int(o, text))
            return true;
        fprintf(stderr, "%s: --%s: expected a whole number of at least %lld, got \"%s\"\n", program, o->name,
                (long long)o->least, text);
        return false;
    case OPTION_NUMBER:
        if (set_number(o, text))
            return true;
        fprintf(stderr, "%s: --%s: expected a number above %lld, got \"%s\"\n", program, o->name, (long long)o->least,
                text);
        return false;
    case OPTION_CHOICE:
        if (!is_choice(o->argument, text)) {
            fprintf(stderr, "%s: --%s: expected one of %s, got \"%s\"\n", program, o->name, o->argument, text);
            return false;
        }
        *(const char **)o->value = text;
        return true;
    case OPTION_LIST:
        if (list->n == MOST_LISTED) {
            fprintf(stderr, "%s: --%s: expected at most %d of them\n", program, o->name, MOST_LISTED);
            return false;
        }
        list->text[list->n++] = text;
        return true;
    default: *(const char **)o->value = text; return true;
    }
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

/* ---- output ------------------------------------------------------------------------------------------------------ */

void show_progress(const char *what, int64_t done, int64_t total)
{
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%s: %lld of %lld%s", what, (long long)done, (long long)total, done == total ? "\n" : "");
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double peak_memory(void)
{
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)used.ru_maxrss / 1024; /* Linux counts it in KiB */
}

void update_progress(progress *p, const char *format, ...)
{
    const bool terminal = isatty(STDERR_FILENO);
    const double now = seconds_now();
    if (p->last == 0 && !terminal)
        p->last = now;
    if (now - p->last < (terminal ? 0.1 : 10))
        return;
    p->last = now;
    p->open = terminal;
    va_list arguments;
    va_start(arguments, format);
    fputs(terminal ? "\r" : "", stderr);
    vfprintf(stderr, format, arguments);
    fputs(terminal ? "\033[K" : "\n", stderr); /* the rest of a longer line before it goes */
    va_end(arguments);
}

void clear_progress(progress *p)
{
    if (p->open)
        fputs("\r\033[K", stderr);
    p->open = false;
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
