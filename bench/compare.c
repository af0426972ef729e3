/* Times the cases of a .cases file by several programs (worker.h) in turn and prints a table.
 *
 *   compare [--quick] [--best] [--match PATTERN] CASES ours=COMMAND copy=COMMAND [NAME=COMMAND…]
 *   compare [--match PATTERN] --list CASES
 *
 * One line per case and peer on standard output, separated by tabs:
 *
 *   case  ours_us  peer_us  ratio  peer_name  copy_us
 *
 * A case whose variant is `mem` is called mem_KIND_SIZE; there the numbers are MiB, of resident memory at its peak.
 *
 * All processes stay alive and take rounds alternately, so that a machine that is slow for a while is slow for all of
 * them.  Times are medians over the rounds; the ratio peer/ours is the median of the ratios within each round.  With
 * --best they are the fastest repetitions of all, and the ratio is theirs: what is left to do on a busy machine.  What
 * is to be told beside the table goes to standard error.
 */
#include <errno.h>
#include <fnmatch.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_WORKERS = 10, MOST_CASES = 256, MOST_WORDS = 12, WORD_BYTES = 64, LINE_BYTES = 512, MOST_ROUNDS = 5 };
enum { OURS = 0, COPY = 1, FIRST_PEER = 2 };

/* ---- cases ------------------------------------------------------------------------------------------------------- */

typedef struct words {
    int n;
    char word[MOST_WORDS][WORD_BYTES];
} words;

typedef struct bench_case {
    char name[4 * WORD_BYTES], command[LINE_BYTES], small[LINE_BYTES]; /* small: the same on a net of next to no size */
    int threads;
    bool once;        /* rounds are single repetitions: below a line "once" */
    bool memory;      /* not time but memory: variant mem */
    double tolerance; /* between the numbers that everyone computes: option tolerance=… */
} bench_case;

typedef struct case_list {
    int n;
    bench_case at[MOST_CASES];
} case_list;

static _Noreturn void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("compare: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(EXIT_FAILURE);
}

static words split(char *line)
{
    words w = {0};
    line[strcspn(line, "#\n")] = '\0';
    for (const char *at = strtok(line, " \t"); at; at = strtok(NULL, " \t")) {
        if (w.n == MOST_WORDS || strlen(at) >= WORD_BYTES)
            die("a line of the cases has too many words, or too long ones: \"%s\"", at);
        memcpy(w.word[w.n++], at, strlen(at) + 1);
    }
    return w;
}

/* A pattern without wildcards is looked for anywhere in the name. */
static bool matches(const char *pattern, const char *name)
{
    return !pattern || strstr(name, pattern) || fnmatch(pattern, name, 0) == 0;
}

static const double usual_tolerance = 1e-3;

/* The cases of one line: KIND SIZE [OPTION…] in each variant; "-" is a variant or a size without a
 * name. */
static void add_cases(case_list *list, const words *line, const words *variants, int threads, bool once,
                      const char *pattern)
{
    for (int v = 1; v < variants->n; v++) {
        bench_case c = {.threads = threads, .once = once, .tolerance = usual_tolerance};
        const char *variant = variants->word[v], *shown = strcmp(variant, "-") ? variant : "";
        const char *size = strcmp(line->word[1], "-") ? line->word[1] : "";
        c.memory = !strcmp(variant, "mem");
        if (c.memory)
            snprintf(c.name, sizeof c.name, "mem_%s_%s", line->word[0], line->word[1]);
        else
            snprintf(c.name, sizeof c.name, "%s%s%s%s%s_t%d", line->word[0], *size ? "_" : "", size, *shown ? "_" : "",
                     shown, threads);
        snprintf(c.small, sizeof c.small, "case %s b2_w8 mem %d", line->word[0], threads);
        int used = snprintf(c.command, sizeof c.command, "case %s %s %s %d", line->word[0], line->word[1], variant,
                            threads);
        for (int i = 2; i < line->n && used < (int)sizeof c.command; i++) {
            sscanf(line->word[i], "tolerance=%lf", &c.tolerance);
            used += snprintf(c.command + used, sizeof c.command - (size_t)used, " %s", line->word[i]);
        }
        if (!matches(pattern, c.name))
            continue;
        if (list->n == MOST_CASES)
            die("more than %d cases", MOST_CASES);
        list->at[list->n++] = c;
    }
}

/* Reads the cases that run on this number of threads; 0 when the file names no larger one. */
static bool read_cases(const char *path, const char *pattern, int threads, case_list *list)
{
    FILE *file = fopen(path, "r");
    if (!file)
        die("cannot read %s: %s", path, strerror(errno));
    words variants = {0}, teams = {0};
    char text[LINE_BYTES];
    bool more = false, once = false;
    list->n = 0;
    while (fgets(text, sizeof text, file)) {
        const words line = split(text);
        if (line.n == 0)
            continue;
        if (!strcmp(line.word[0], "variants")) {
            variants = line;
        } else if (!strcmp(line.word[0], "threads")) {
            teams = line;
        } else if (!strcmp(line.word[0], "once")) {
            once = true;
        } else if (line.n < 2 || !variants.n || !teams.n) {
            die("%s: expected \"variants …\" and \"threads …\", then lines of a kind and a size", path);
        } else {
            for (int i = 1; i < teams.n; i++) {
                more |= atoi(teams.word[i]) > threads;
                if (atoi(teams.word[i]) == threads)
                    add_cases(list, &line, &variants, threads, once, pattern);
            }
        }
    }
    fclose(file);
    return more;
}

/* ---- workers ----------------------------------------------------------------------------------------------------- */

typedef struct worker {
    const char *name, *command;
    pid_t process;
    FILE *to, *from;
    bool lost, ready; /* gone for good; has the current case */
    double value[2];  /* what it computed, as numbers to compare */
    double took[MOST_ROUNDS];
} worker;

static void start(worker *w, int threads)
{
    char number[16];
    int in[2], out[2];
    snprintf(number, sizeof number, "%d", threads);
    if (pipe(in) != 0 || pipe(out) != 0)
        die("cannot make a pipe: %s", strerror(errno));
    w->process = fork();
    if (w->process < 0)
        die("cannot start a process: %s", strerror(errno));
    if (w->process == 0) {
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        for (int fd = STDERR_FILENO + 1; fd < 64; fd++)
            close(fd);
        setenv("OMP_NUM_THREADS", number, 1);
        if (threads > 1)
            setenv("OMP_PROC_BIND", "true", 0); /* a core for each, not two threads taking turns on one */
        execl("/bin/sh", "sh", "-c", w->command, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    w->to = fdopen(in[1], "w");
    w->from = fdopen(out[0], "r");
    if (!w->to || !w->from)
        die("out of memory");
}

static void stop(worker *w)
{
    if (!w->to)
        return;
    fclose(w->to);
    fclose(w->from);
    waitpid(w->process, NULL, 0);
    w->to = w->from = NULL;
}

/* Goes on without this worker, and says why. */
static void lose(worker *w, const char *why)
{
    if (!strcmp(w->name, "ours"))
        die("our own program failed: %s: %s", w->command, why);
    fprintf(stderr, "compare: %s %s; going on without it\n", w->name, why);
    w->lost = true;
    w->ready = false;
    stop(w);
}

/* Sends a command and reads the answer; false when the worker is gone, which is told once. */
static bool ask(worker *w, char *answer, const char *format, ...)
{
    if (w->lost)
        return false;
    va_list args;
    va_start(args, format);
    const bool sent = vfprintf(w->to, format, args) > 0 && fputc('\n', w->to) == '\n' && fflush(w->to) == 0;
    va_end(args);
    if (sent && fgets(answer, LINE_BYTES, w->from)) {
        answer[strcspn(answer, "\n")] = '\0';
        return true;
    }
    lose(w, "gives no answer");
    return false;
}

static void start_all(worker *workers, int n, int threads, bool introduce)
{
    char answer[LINE_BYTES];
    for (int i = 0; i < n; i++) {
        if (workers[i].lost)
            continue;
        start(&workers[i], threads);
        if (ask(&workers[i], answer, "about") && introduce)
            fprintf(stderr, "# %s: %s\n", workers[i].name, answer);
    }
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

typedef struct effort {
    int rounds, rounds_if_long; /* long: rounds of a case have taken `patience` seconds in all */
    double warm_up, seconds, patience;
    bool best; /* the fastest repetitions, not the medians */
} effort;

static const effort thorough = {.rounds = MOST_ROUNDS, .rounds_if_long = 3, .warm_up = 0.01, .seconds = 0.02,
                                .patience = 1.5};
static const effort quick = {.rounds = 1, .rounds_if_long = 1, .warm_up = 0.005, .seconds = 0.01, .patience = 1};

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Sorts the values. */
static double median(double *values, int n)
{
    qsort(values, (size_t)n, sizeof *values, ascending);
    return (values[n / 2] + values[(n - 1) / 2]) / 2;
}

static bool close_to(double a, double b, double tolerance)
{
    return fabs(a - b) <= tolerance * fmax(fabs(a), fabs(b)) + 1e-12;
}

/* Sends the line of a case; true when the worker has it, and computed what is in w->value. */
static bool have_case(worker *w, const char *command)
{
    char answer[LINE_BYTES];
    return ask(w, answer, "%s", command) && sscanf(answer, "ready %lf %lf", &w->value[0], &w->value[1]) == 2;
}

/* Says so when someone computed something else than we did. */
static void compare_values(const worker *workers, int n, const bench_case *c)
{
    for (int i = FIRST_PEER; i < n; i++)
        for (int k = 0; k < 2 && workers[i].ready; k++)
            if (!close_to(workers[i].value[k], workers[OURS].value[k], c->tolerance))
                fprintf(stderr, "compare: %s: %s computes something else: %.6g, ours %.6g\n", c->name,
                        workers[i].name, workers[i].value[k], workers[OURS].value[k]);
    if (!workers[OURS].ready)
        die("%s: our own program does not know this case", c->name);
}

static void prepare(worker *workers, int n, const bench_case *c)
{
    for (int i = 0; i < n; i++)
        workers[i].ready = have_case(&workers[i], c->command);
    compare_values(workers, n, c);
}

/* Rounds over all workers, each starting with the next one; returns how many. */
static int measure(worker *workers, int n, bool once, const effort *how)
{
    char answer[LINE_BYTES];
    const double began = seconds_now();
    int round = 0;
    while (round < how->rounds && (round < how->rounds_if_long || seconds_now() - began < how->patience)) {
        for (int i = 0; i < n; i++) {
            worker *w = &workers[(i + round) % n];
            double median, fastest;
            if (!w->ready || !ask(w, answer, "run %g %g", once ? 0 : how->warm_up, once ? 0 : how->seconds))
                continue;
            if (sscanf(answer, "%lf %*d %lf", &median, &fastest) == 2)
                w->took[round] = how->best ? fastest : median;
            else
                lose(w, "gives other times than \"median repetitions fastest\"");
        }
        round++;
    }
    return round;
}

/* All rounds of all workers become their fastest. */
static void keep_fastest(worker *workers, int n, int rounds)
{
    for (int i = 0; i < n; i++) {
        double fastest = workers[i].took[0];
        for (int r = 1; r < rounds; r++)
            fastest = fmin(fastest, workers[i].took[r]);
        for (int r = 0; r < rounds; r++)
            workers[i].took[r] = fastest;
    }
}

/* Prints the lines of a case and notes how far the ratios of each lie apart; returns how many lines. */
static int report(const bench_case *c, worker *workers, int n, int rounds, double *spread)
{
    double ratio[MOST_WORKERS][MOST_ROUNDS], typical[MOST_WORKERS] = {0};
    for (int i = 0; i < n; i++)
        for (int r = 0; r < rounds; r++)
            ratio[i][r] = workers[i].took[r] / workers[OURS].took[r];
    for (int i = 0; i < n; i++)
        if (workers[i].ready)
            typical[i] = median(workers[i].took, rounds);
    char copied[32] = "-";
    if (workers[COPY].ready)
        snprintf(copied, sizeof copied, "%.2f", typical[COPY]);
    int lines = 0;
    for (int i = FIRST_PEER; i < n; i++) {
        if (!workers[i].ready)
            continue;
        const double middle = median(ratio[i], rounds);
        spread[lines++] = (ratio[i][rounds - 1] - ratio[i][0]) / middle;
        printf("%s\t%.2f\t%.2f\t%.3f\t%s\t%s\n", c->name, typical[OURS], typical[i], middle, workers[i].name, copied);
        if (c->memory)
            fprintf(stderr, "# %s: ours %.2f MiB, %s %.2f MiB: %.2f of it\n", c->name, typical[OURS], workers[i].name,
                    typical[i], typical[OURS] / typical[i]);
    }
    if (n == FIRST_PEER)
        printf("%s\t%.2f\t-\t-\tnone\t%s\n", c->name, typical[OURS], copied);
    fflush(stdout);
    return lines;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The largest resident memory of a process since forget_peak(), in KiB; −1 where the system does not tell. */
static double peak(pid_t process)
{
    char path[64], line[LINE_BYTES];
    double kib = -1;
    snprintf(path, sizeof path, "/proc/%ld/status", (long)process);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %lf", &kib) != 1)
        ;
    if (file)
        fclose(file);
    return kib;
}

static void forget_peak(pid_t process)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/clear_refs", (long)process);
    FILE *file = fopen(path, "w");
    if (file) {
        fputs("5", file);
        fclose(file);
    }
}

/* Peak memory of a few steps in a process of its own, in MiB, above what it needs for those of a net of next to no size
 * (which has loaded the libraries and the code); −1 where this cannot be told. */
static double measure_memory(worker *w, const bench_case *c)
{
    enum { RUNS = 3 };
    worker fresh = {.name = w->name, .command = w->command};
    char answer[LINE_BYTES];
    start(&fresh, c->threads);
    bool works = have_case(&fresh, c->small) && ask(&fresh, answer, "run 0 0");
    forget_peak(fresh.process);
    const double before = peak(fresh.process);
    works = works && have_case(&fresh, c->command);
    for (int i = 0; i < RUNS && works; i++)
        works = ask(&fresh, answer, "run 0 0");
    const double after = peak(fresh.process);
    stop(&fresh);
    memcpy(w->value, fresh.value, sizeof w->value);
    return works && before > 0 ? (after - before) / 1024 : -1;
}

/* As if it were a case of one round. */
static void measure_memory_of_all(worker *workers, int n, const bench_case *c)
{
    for (int i = 0; i < n; i++) {
        worker *w = &workers[i];
        w->ready = have_case(w, c->small);
        if (!w->ready)
            continue;
        w->took[0] = measure_memory(w, c);
        w->ready = w->took[0] > 0;
    }
    compare_values(workers, n, c);
}

static int run_team(worker *workers, int n, const case_list *cases, const effort *how, double *spread)
{
    int lines = 0;
    for (int i = 0; i < cases->n; i++) {
        if (cases->at[i].memory) {
            measure_memory_of_all(workers, n, &cases->at[i]);
            report(&cases->at[i], workers, n, 1, spread + lines);
            continue;
        }
        prepare(workers, n, &cases->at[i]);
        const int rounds = measure(workers, n, cases->at[i].once, how);
        if (how->best)
            keep_fastest(workers, n, rounds);
        lines += report(&cases->at[i], workers, n, rounds, spread + lines);
    }
    return lines;
}

/* ---- the program ------------------------------------------------------------------------------------------------- */

static void add_worker(worker *workers, int *n, char *argument)
{
    char *equals = strchr(argument, '=');
    if (!equals || *n == MOST_WORKERS)
        die("expected at most %d times NAME=COMMAND, got \"%s\"", MOST_WORKERS, argument);
    *equals = '\0';
    workers[(*n)++] = (worker){.name = argument, .command = equals + 1};
}

int main(int argc, char **argv)
{
    static worker workers[MOST_WORKERS];
    static case_list cases;
    static double spread[MOST_CASES * MOST_WORKERS];
    effort how = thorough;
    bool best = false;
    const char *pattern = NULL, *path = NULL;
    int n = 0, lines = 0;
    bool list = false;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick"))
            how = quick;
        else if (!strcmp(argv[i], "--best"))
            best = true;
        else if (!strcmp(argv[i], "--match") && i + 1 < argc)
            pattern = argv[++i];
        else if (!strcmp(argv[i], "--list"))
            list = true;
        else if (!path)
            path = argv[i];
        else
            add_worker(workers, &n, argv[i]);
    }
    if (!path || (!list && (n < FIRST_PEER || strcmp(workers[OURS].name, "ours") != 0 ||
                            strcmp(workers[COPY].name, "copy") != 0)))
        die("expected [--quick] [--best] [--match PATTERN] CASES ours=COMMAND copy=COMMAND [NAME=COMMAND…]");
    how.best = best;
    signal(SIGPIPE, SIG_IGN);
    bool more = true, found = false;
    for (int threads = 1; more; threads++) {
        more = read_cases(path, pattern, threads, &cases);
        for (int i = 0; list && i < cases.n; i++)
            puts(cases.at[i].name);
        if (list || !cases.n) {
            found |= cases.n > 0;
            continue;
        }
        start_all(workers, n, threads, !found);
        found = true;
        lines += run_team(workers, n, &cases, &how, spread + lines);
        for (int i = 0; i < n; i++)
            stop(&workers[i]);
    }
    if (!found)
        die("%s: no case matches \"%s\"", path, pattern ? pattern : "");
    if (lines && how.rounds > 1 && !best) {
        const double middle = median(spread, lines);
        fprintf(stderr, "# the ratios behind a line span %.0f %% of their median, in the worst line %.0f %%\n",
                100 * middle, 100 * spread[lines - 1]);
    }
    return EXIT_SUCCESS;
}
