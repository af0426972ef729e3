/* What the examples share: options, output files, plots, progress, and jobs on several threads. */
#ifndef EXAMPLES_COMMON_H
#define EXAMPLES_COMMON_H

#include <evenkeel/evenkeel.h>
#include <stdio.h>

typedef enum option_kind {
    OPTION_FLAG,
    OPTION_INT,
    OPTION_NUMBER,
    OPTION_TEXT,
    OPTION_CHOICE, /* one of the words of `argument`, which has a | between them */
    OPTION_LIST
} option_kind;

/* What an option that may be given several times has collected. */
enum { MOST_LISTED = 16 };
typedef struct option_list {
    const char *text[MOST_LISTED];
    int n;
} option_list;

/* --name ARGUMENT; value points to a bool, an int64_t of at least `least`, a double above `least`, a const char * (of
 * OPTION_TEXT and OPTION_CHOICE) or an option_list. */
typedef struct option {
    const char *name, *argument;
    option_kind kind;
    void *value;
    int64_t least;
    const char *help;
} option;

/* Reads the command line.  False when the program is to end, with *status as its exit status: after --help, or after
 * saying on stderr what is wrong. */
bool parse_options(int argc, char **argv, const char *about, const option *options, int n, int *status);

/* Lets the kernels, and run_jobs(), use n threads; 0: as many as they would anyway. */
void use_threads(int64_t n);

/* Prints "program: ek_last_error()" on stderr and returns EXIT_FAILURE. */
int report_failure(const char *program);

/* A line that overwrites itself, on stderr, when that is a terminal; nothing otherwise.  done = total ends it. */
void show_progress(const char *what, int64_t done, int64_t total);

/* A line of progress of any text.  {0} at the start. */
typedef struct progress {
    double last; /* when it was shown */
    bool open;   /* it stands on the terminal */
} progress;
/* Shows the line on stderr: on a terminal in place of the one before, ten times a second at most; elsewhere as a line
 * of its own, every ten seconds at most. */
void update_progress(progress *p, const char *format, ...) EK_PRINTF(2, 3);
/* Takes the line from the terminal, before something else is printed there. */
void clear_progress(progress *p);

/* Seconds since some moment in the past. */
double seconds_now(void);
/* The most memory this process has had resident, in MiB. */
double peak_memory(void);

/* Makes a folder for output if need be.  False, after a message, when nothing can be written there: to be called before
 * the work begins. */
bool make_folder(const char *folder);

/* Opens folder/name for writing, making the folder if need be; its path is left in `path`.  NULL after a message. */
FILE *open_output(const char *folder, const char *name, char *path, size_t bytes);

/* Closes what open_output() opened; false after a message when something could not be written. */
bool close_output(FILE *file, const char *path);

/* Closes a gnuplot script, runs it where there is a gnuplot, and says on stdout where the image is or how to get it.
 * False after a message when the script could not be written. */
bool finish_plot(FILE *script, const char *path, const char *folder, const char *image);

/* Calls job(context, i) for i = 0 … n−1 on as many threads as the kernels would use, each job with serial kernels, so
 * what a job computes does not depend on how many run beside it. */
void run_jobs(int n, void (*job)(void *context, int i), void *context);

/* Mean and sample standard deviation. */
void mean_and_spread(const double *values, int n, double *mean, double *spread);

#endif
