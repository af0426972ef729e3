/* The norm report: it leaves no trace and costs nothing when it is not asked for; the same bits for any number of
 * threads; its table, its CSV, its errors. */
#include "module.h"
#include "support_layers.h"

#include <stdio.h>
#include <time.h>

/* ---- leaving no trace --------------------------------------------------------------------------------------------- */

/* Everything that has a state: norms of all kinds, dropout, recurrent BatchNorm. */
static ek_module *mixed_net(void)
{
    ek_recurrent_opts recurrent = ek_recurrent_opts_default();
    recurrent.norm = EK_RECURRENT_BATCH_NORM;
    recurrent.num_layers = 2;
    recurrent.dropout = 0.3;
    ek_instance_norm_opts tracked = ek_instance_norm_opts_default();
    tracked.track_running_stats = true;
    ek_module *net = ek_sequential(
        ek_lstm(3, 4, EK_BATCH_FIRST, &recurrent), ek_batch_norm1d(5, NULL), ek_relu_layer(), ek_dropout_layer(0.4),
        ek_residual(ek_sequential(ek_linear(4, 4, NULL), ek_switchable_norm_sequence(5, NULL))), ek_tanh_layer(),
        ek_instance_norm1d(5, &tracked), ek_group_norm(1, 5, NULL), ek_sigmoid_layer(), ek_layer_norm(EK_SHAPE(4), NULL),
        ek_rms_norm(EK_SHAPE(4), NULL));
    ck_made(net);
    ck_ok(ek_module_init(net, 3));
    return net;
}

static void count_events(void *user, const char *name, const ek_module *module, ek_event event, const ek_tensor *tensor)
{
    (void)name;
    (void)module;
    (void)event;
    (void)tensor;
    ++*(int *)user;
}

START_TEST(a_report_leaves_no_trace)
{
    ek_tensor *x = normal(EK_F32, EK_SHAPE(6, 5, 3), 0, 1, 1);
    for (int training = 0; training < 2; training++) {
        ek_module *net = mixed_net(), *twin = mixed_net();
        feed(net, x);
        feed(twin, x);
        ek_module *modules[] = {net, twin};
        for (int i = 0; i < 2; i++) {
            (training ? ek_module_train : ek_module_eval)(modules[i]);
            ek_module_eval(ek_module_child(modules[i], 1)); /* modes may differ below */
            ek_module_train(ek_module_child(modules[i], 3));
        }
        int events = 0;
        ck_ok(ek_module_observe(net, count_events, &events));
        ek_tensor *before = copy_state(net);
        ek_norm_report *report = report_on(net, x);
        ck_assert_int_eq(ek_norm_report_size(report), 6 + 6);
        ek_norm_report_free(report);
        assert_state("a report", net, before);
        ck_assert_int_eq(events, 0);
        ck_assert_int_eq(ek_module_non_finite_batches(net), 0);
        ck_ok(ek_module_observe(net, NULL, NULL));
        const ek_module *a = net, *b = twin;
        for (; a && b; a = ek_module_next(net, a), b = ek_module_next(twin, b))
            ck_assert(ek_module_is_training(a) == ek_module_is_training(b));
        /* The next forwards draw the same masks and move the same statistics. */
        for (int i = 0; i < 3; i++) {
            ek_tensor *y = apply_layer(net, x), *z = apply_layer(twin, x);
            ck_assert(ek_tensor_equal(y, z));
            ek_tensor_free(y);
            ek_tensor_free(z);
        }
        ek_tensor *after = copy_state(twin);
        assert_state("forwards after a report", net, after);
        ek_tensor_free(before);
        ek_tensor_free(after);
        ek_module_free(net);
        ek_module_free(twin);
    }
    ek_tensor_free(x);
}
END_TEST

/* ---- free when off ------------------------------------------------------------------------------------------------ */

static int64_t allocations_of_a_forward(ek_module *net, ek_tape *tape, ek_tensor *x, const memory_count *count)
{
    const int64_t before = count->calls;
    ck_made(ek_forward(net, tape, x));
    ek_tape_reset(tape);
    return count->calls - before;
}

START_TEST(a_net_that_was_reported_on_allocates_nothing_for_it)
{
    memory_count count;
    count_memory(&count);
    ek_module *net = mixed_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(6, 5, 3), 0, 1, 1);
    ek_tape *tape = ek_tape_new();
    const int64_t first = allocations_of_a_forward(net, tape, x, &count);
    ck_assert(first > 0);
    ck_assert_int_eq(allocations_of_a_forward(net, tape, x, &count), 0); /* the tape has its memory by now */
    const int64_t before = count.calls;
    ek_norm_report_free(report_on(net, x));
    ck_assert(count.calls > before);
    ck_assert_int_eq(allocations_of_a_forward(net, tape, x, &count), 0);
    ek_tape_free(tape);
    tape = ek_tape_new();
    ck_assert_int_eq(allocations_of_a_forward(net, tape, x, &count), first);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Shortest of many forwards, before and after a report, in turns: the same code, so the same time.  The wide margin is
 * for a busy machine; a report itself takes several times as long. */
START_TEST(a_forward_takes_the_time_it_took)
{
    ek_module *net = ek_sequential(ek_batch_norm2d(16, NULL), ek_relu_layer(), ek_batch_norm2d(16, NULL));
    ek_module *twin = ek_sequential(ek_batch_norm2d(16, NULL), ek_relu_layer(), ek_batch_norm2d(16, NULL));
    ek_tensor *x = normal(EK_F32, EK_SHAPE(8, 16, 16, 16), 0, 1, 1);
    ek_tape *tape = ek_tape_new();
    double best[2] = {INFINITY, INFINITY};
    ck_ok(ek_set_num_threads(1));
    ek_norm_report_free(report_on(net, x));
    for (int i = 0; i < 400; i++) {
        const double start = seconds();
        ck_made(ek_forward(i % 2 ? twin : net, tape, x));
        best[i % 2] = fmin(best[i % 2], seconds() - start);
        ek_tape_reset(tape);
    }
    ck_assert_msg(best[0] <= 1.5 * best[1], "%g s with a report behind it, %g s without", best[0], best[1]);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    ek_module_free(twin);
}
END_TEST

static void assert_same_rows(const ek_norm_report *a, const ek_norm_report *b)
{
    FILE *files[2] = {tmpfile(), tmpfile()};
    char text[2][16384] = {"", ""};
    for (int i = 0; i < 2; i++) {
        ck_ok(ek_norm_report_csv(i ? b : a, 0, true, files[i]));
        rewind(files[i]);
        ck_assert(fread(text[i], 1, sizeof text[i] - 1, files[i]) > 100);
        fclose(files[i]);
    }
    ck_assert_str_eq(text[0], text[1]);
    for (int i = 0; i < ek_norm_report_size(a); i++) {
        const ek_norm_report_row *r = ek_norm_report_at(a, i), *s = ek_norm_report_at(b, i);
        ck_assert(!memcmp(&r->mean_drift, &s->mean_drift, sizeof r->mean_drift) &&
                  !memcmp(&r->variance_ratio, &s->variance_ratio, sizeof r->variance_ratio) &&
                  !memcmp(&r->variance, &s->variance, sizeof r->variance) &&
                  !memcmp(&r->saturation, &s->saturation, sizeof r->saturation));
    }
}

START_TEST(threads_change_no_bit)
{
    ek_module *net = mixed_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(300, 5, 3), 0, 1, 1);
    feed(net, x);
    ck_ok(ek_set_num_threads(1));
    ek_norm_report *one = report_on(net, x);
    const int threads[] = {2, 3, 8};
    for (int i = 0; i < 3; i++) {
        ck_ok(ek_set_num_threads(threads[i]));
        ek_norm_report *more = report_on(net, x);
        assert_same_rows(one, more);
        ek_norm_report_free(more);
    }
    ek_norm_report_free(one);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

/* ---- text --------------------------------------------------------------------------------------------------------- */

enum { MOST_FIELDS = 64 };

/* Cuts a line of CSV into its fields, in place; returns how many there are. */
static int parse_line(char *line, char *fields[MOST_FIELDS])
{
    int n = 0;
    char *to = line;
    for (const char *p = line;; p++) {
        bool quoted = *p == '"';
        fields[n++] = to;
        for (p += quoted; *p && *p != '\n' && (quoted || *p != ','); p++) {
            if (quoted && *p == '"' && p[1] != '"')
                quoted = false;
            else {
                p += *p == '"';
                *to++ = *p;
            }
        }
        const bool last = *p != ',';
        *to++ = '\0';
        if (last || n == MOST_FIELDS)
            return n;
    }
}

static const char *field(int n, char *const names[], char *const values[], const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return values[i];
    ck_abort_msg("no column %s", name);
    return NULL;
}

START_TEST(csv_holds_the_rows)
{
    ek_module *net = mixed_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(6, 5, 3), 0, 1, 1);
    feed(net, x);
    ek_norm_report *report = report_on(net, x);
    const int size = ek_norm_report_size(report);
    FILE *file = tmpfile();
    ck_ok(ek_norm_report_csv(report, 7, true, file));
    ck_ok(ek_norm_report_csv(report, 8, false, file));
    rewind(file);
    char header[4096], line[4096], *names[MOST_FIELDS], *values[MOST_FIELDS];
    ck_made(fgets(header, sizeof header, file));
    const int n = parse_line(header, names);
    ck_assert_int_eq(n, 1 + 14 + 5 * 3 + 2 * 3);
    for (int i = 0; i < 2 * size; i++) {
        const ek_norm_report_row *row = ek_norm_report_at(report, i % size);
        ck_made(fgets(line, sizeof line, file));
        ck_assert_int_eq(parse_line(line, values), n);
        ck_assert_int_eq(atoi(field(n, names, values, "step")), i < size ? 7 : 8);
        ck_assert_str_eq(field(n, names, values, "name"), row->name);
        ck_assert_str_eq(field(n, names, values, "layer"), row->layer);
        ck_assert_str_eq(field(n, names, values, "activation"), row->activation);
        ck_assert_int_eq(atoi(field(n, names, values, "groups")), row->groups);
        const struct {
            const char *name;
            double value;
        } numbers[] = {{"mean_drift_max", row->mean_drift.max}, {"variance_ratio_min", row->variance_ratio.min},
                       {"variance_mean", row->variance.mean},   {"near_zero", row->near_zero},
                       {"saturation", row->saturation},         {"beta_max", row->beta.max},
                       {"var_mixture_bn", row->var_mixture[2]}};
        for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++) {
            const char *text = field(n, names, values, numbers[k].name);
            if (isnan(numbers[k].value))
                ck_assert_str_eq(text, "");
            else
                ck_near(atof(text), numbers[k].value, 1e-8 * fabs(numbers[k].value)); /* nine digits */
        }
        const char *batches = field(n, names, values, "batches");
        ck_assert_str_eq(batches, row->has_running ? "1" : "");
        ck_assert_str_eq(field(n, names, values, "statistics"), row->has_running ? "batch" : "own");
    }
    ck_assert_ptr_null(fgets(line, sizeof line, file));
    fclose(file);
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

static int characters(const char *text)
{
    int n = 0;
    for (; *text && *text != '\n'; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return n;
}

START_TEST(the_table_is_aligned)
{
    ek_module *net = mixed_net();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(6, 5, 3), 0, 1, 1);
    ek_norm_report *report = report_on(net, x);
    ek_module_free(net); /* the report does not need it */
    ek_tensor_free(x);
    FILE *file = tmpfile();
    ck_ok(ek_norm_report_print(report, file));
    rewind(file);
    char line[1024];
    int width = 0;
    for (int i = 0; i <= ek_norm_report_size(report); i++) {
        ck_made(fgets(line, sizeof line, file));
        width = i ? width : characters(line);
        ck_assert_int_eq(characters(line), width);
        const char *name = i ? ek_norm_report_at(report, i - 1)->name : "name";
        ck_assert(!strncmp(line, name, strlen(name)));
    }
    ck_made(fgets(line, sizeof line, file));
    ck_assert_str_eq(line, "4.0.1: means IN 0.333 LN 0.333 BN 0.333, variances IN 0.333 LN 0.333 BN 0.333\n");
    ck_assert_ptr_null(fgets(line, sizeof line, file));
    fclose(file);
    ek_norm_report_free(report);
}
END_TEST

/* ---- errors and memory -------------------------------------------------------------------------------------------- */

START_TEST(errors_say_what_is_wrong)
{
    ek_module *net = ek_sequential(ek_batch_norm1d(2, NULL), ek_batch_norm1d(2, NULL)), *plain = ek_relu_layer();
    ek_tensor *x = normal(EK_F32, EK_SHAPE(3, 2), 0, 1, 1), *wrong = normal(EK_F32, EK_SHAPE(3, 5), 0, 1, 1);
    ck_refused(EK_ERR_ARGUMENT, "norm_report_new: the module is NULL", ek_norm_report_new(NULL, x, NULL));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_new: the input is NULL", ek_norm_report_new(net, NULL, NULL));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_new: there is no norm at or below relu",
               ek_norm_report_new(plain, x, NULL));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_new: expected a near_zero ≥ 0 or EK_NEAR_ZERO_EPS, got -2",
               ek_norm_report_new(net, x, &(ek_norm_report_opts){-2}));
    ck_refused(EK_ERR_ARGUMENT, "got nan", ek_norm_report_new(net, x, &(ek_norm_report_opts){(double)NAN}));
    ck_refused(EK_ERR_SHAPE, "batch_norm1d(2): expected (N, 2) or (N, 2, L), got (3, 5) [in layer \"0\"",
               ek_norm_report_new(net, wrong, NULL));
    ek_norm_report *report = report_on(net, x);
    ck_refused(EK_ERR_ARGUMENT, "norm_report_at: expected a row of 0 … 1, got 2", ek_norm_report_at(report, 2));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_at: expected a row of 0 … 1, got -1", ek_norm_report_at(report, -1));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_at: the report is NULL", ek_norm_report_at(NULL, 0));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_find: the report is NULL", ek_norm_report_find(NULL, "0"));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_find: the name is NULL", ek_norm_report_find(report, NULL));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_find: there is no norm \"2\"; there are \"0\", \"1\"",
               ek_norm_report_find(report, "2"));
    ck_assert_int_eq(ek_norm_report_size(NULL), 0);
    ck_error(EK_ERR_ARGUMENT, "norm_report_size: the report is NULL");
    ck_assert(ek_norm_report_print(NULL, stdout) == EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "norm_report_print: the report is NULL");
    ck_assert(ek_norm_report_print(report, NULL) == EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "norm_report_print: the file is NULL");
    ck_assert(ek_norm_report_csv(NULL, 0, true, stdout) == EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "norm_report_csv: the report is NULL");
    ck_assert(ek_norm_report_csv(report, 0, true, NULL) == EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "norm_report_csv: the file is NULL");
    FILE *closed = fopen("/dev/null", "r"); /* cannot be written to */
    ck_assert(closed && ek_norm_report_print(report, closed) == EK_ERR_IO);
    ck_error(EK_ERR_IO, "norm_report_print: writing failed");
    ck_assert(ek_norm_report_csv(report, 0, true, closed) == EK_ERR_IO);
    ck_error(EK_ERR_IO, "norm_report_csv: writing failed");
    fclose(closed);
    ek_norm_report_free(report);
    ek_norm_report_free(NULL);
    ek_module *folded = ek_sequential(ek_linear(2, 2, NULL), ek_batch_norm1d(2, NULL));
    ek_module_eval(folded);
    ck_ok(ek_fold_batch_norm(folded, NULL));
    ck_refused(EK_ERR_ARGUMENT, "norm_report_new: there is no norm at or below sequential",
               ek_norm_report_new(folded, x, NULL));
    ek_module_free(folded);
    ek_tensor_free(x);
    ek_tensor_free(wrong);
    ek_module_free(net);
    ek_module_free(plain);
}
END_TEST

static ek_status use_a_report(void)
{
    ek_recurrent_opts recurrent = ek_recurrent_opts_default();
    recurrent.norm = EK_RECURRENT_BATCH_NORM;
    ek_switchable_norm_opts last = ek_switchable_norm_opts_default();
    last.channel_axis = EK_CHANNELS_LAST;
    ek_module *net = ek_sequential(ek_gru(2, 2, EK_BATCH_FIRST, &recurrent), ek_switchable_norm_sequence(2, &last),
                                   ek_tanh_layer());
    ek_rng rng = ek_rng_seed(1);
    ek_tensor *x = net ? ek_normal(EK_F32, EK_SHAPE(2, 3, 2), 0, 1, &rng) : NULL;
    ek_status status = x ? ek_tensor_set_lengths(x, (const int64_t[]){3, 2}, 2, 0, 1) : ek_last_status();
    ek_norm_report *report = status == EK_OK ? ek_norm_report_new(net, x, NULL) : NULL;
    if (status == EK_OK && !report)
        status = ek_last_status();
    ek_norm_report_free(report);
    ek_tensor_free(x);
    ek_module_free(net);
    return status;
}

START_TEST(refused_memory_is_an_error)
{
    ck_assert(assert_survives_refusals(use_a_report) > 20);
}
END_TEST

int main(void)
{
    return RUN_TESTS("use of the norm report", a_report_leaves_no_trace,
                     a_net_that_was_reported_on_allocates_nothing_for_it, a_forward_takes_the_time_it_took,
                     threads_change_no_bit, csv_holds_the_rows, the_table_is_aligned, errors_say_what_is_wrong,
                     refused_memory_is_an_error);
}
