/* BatchNorm in training and in evaluation: where its running statistics come from, what a sample's company does to its
 * output, and a batch of one in service; with LayerNorm beside it, which knows no difference.
 */
#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { FEATURES = 4, BATCH = 32, COMPANIES = 3 };
static const double true_mean[FEATURES] = {5, -2, 0, 10}, true_std[FEATURES] = {2, 0.5, 1, 3};

/* n rows of the four features. */
static ek_tensor *draw(int64_t n, ek_rng *rng)
{
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(n, FEATURES), 0, 1, rng);
    float *values = ek_data_f32(x);
    for (int64_t i = 0; values && i < n * FEATURES; i++)
        values[i] = (float)(true_mean[i % FEATURES] + true_std[i % FEATURES] * values[i]);
    return x;
}

/* Row 0 of norm(x); false on failure. */
static bool first_row(ek_module *norm, ek_tape *tape, ek_tensor *x, float row[FEATURES])
{
    ek_tensor *y = ek_forward(norm, tape, x);
    if (y)
        memcpy(row, ek_tensor_const_data(y), FEATURES * sizeof *row);
    ek_tape_reset(tape);
    return y != NULL;
}

static void print_row(const char *label, const float row[FEATURES])
{
    printf("  %-44s", label);
    for (int i = 0; i < FEATURES; i++)
        printf(" %9.5f", row[i]);
    printf("\n");
}

/* 1. Training moves the running statistics toward those of the data. */
static bool record_path(ek_module *norm, ek_tape *tape, int64_t steps, ek_rng *rng, FILE *csv)
{
    printf("1. BatchNorm1d(%d) in training, batches of %d: running ← 0.9·running + 0.1·batch\n\n"
           "  %8s  %33s  %33s\n", FEATURES, BATCH, "batches", "running_mean", "running_var");
    fprintf(csv, "batches,feature,running_mean,running_var,true_mean,true_var\n");
    ek_tensor *mean = ek_module_buffer(norm, "running_mean"), *var = ek_module_buffer(norm, "running_var");
    for (int64_t step = 0; step <= steps; step++) {
        if (step > 0) {
            ek_tensor *x = draw(BATCH, rng);
            const bool done = x && ek_forward(norm, tape, x);
            ek_tensor_free(x);
            ek_tape_reset(tape);
            if (!done)
                return false;
        }
        const bool shown = step <= 2 || step == 5 || step == 10 || step == 20 || step == 50 || step == steps;
        if (shown)
            printf("  %8lld ", (long long)step);
        for (int i = 0; shown && i < FEATURES; i++)
            printf(" %7.3f", ek_tensor_at(mean, i));
        for (int i = 0; shown && i < FEATURES; i++)
            printf("%s%7.3f", i ? " " : "   ", ek_tensor_at(var, i));
        if (shown)
            printf("\n");
        for (int i = 0; i < FEATURES; i++)
            fprintf(csv, "%lld,%d,%.6f,%.6f,%g,%g\n", (long long)step, i, ek_tensor_at(mean, i), ek_tensor_at(var, i),
                    true_mean[i], true_std[i] * true_std[i]);
    }
    printf("  %8s ", "data");
    for (int i = 0; i < FEATURES; i++)
        printf(" %7.3f", true_mean[i]);
    for (int i = 0; i < FEATURES; i++)
        printf("%s%7.3f", i ? " " : "   ", true_std[i] * true_std[i]);
    printf("\n");
    return true;
}

/* How a norm's output for one sample depends on mode and company. */
typedef struct company_result {
    float training[COMPANIES][FEATURES], evaluation[COMPANIES][FEATURES];
    double training_spread;   /* largest difference between companies, in training */
    bool evaluation_same_bits; /* between companies, in evaluation */
    bool modes_same_bits;      /* training and evaluation, in every company */
} company_result;

/* Sends three batches that differ in all but their first row through a norm.  Evaluation comes first, because training
 * moves BatchNorm's running statistics. */
static bool try_companies(ek_module *norm, ek_tape *tape, ek_tensor *const company[COMPANIES], company_result *r)
{
    *r = (company_result){.evaluation_same_bits = true, .modes_same_bits = true};
    ek_module_eval(norm);
    for (int c = 0; c < COMPANIES; c++)
        if (!first_row(norm, tape, company[c], r->evaluation[c]))
            return false;
    ek_module_train(norm);
    for (int c = 0; c < COMPANIES; c++) {
        if (!first_row(norm, tape, company[c], r->training[c]))
            return false;
        for (int i = 0; i < FEATURES; i++)
            r->training_spread = fmax(r->training_spread, fabs(r->training[c][i] - r->training[0][i]));
        r->evaluation_same_bits &= !memcmp(r->evaluation[c], r->evaluation[0], sizeof r->evaluation[0]);
        r->modes_same_bits &= !memcmp(r->training[c], r->evaluation[c], sizeof r->training[c]);
    }
    return true;
}

static void print_companies(const char *name, const company_result *r)
{
    char label[64];
    for (int c = 0; c < COMPANIES; c++) {
        snprintf(label, sizeof label, "%s, training, company %c", name, 'A' + c);
        print_row(label, r->training[c]);
    }
    for (int c = 0; c < COMPANIES; c++) {
        snprintf(label, sizeof label, "%s, evaluation, company %c", name, 'A' + c);
        print_row(label, r->evaluation[c]);
    }
}

/* 3. The sample alone, as a service gets it. */
static bool batch_of_one(ek_module *bn, ek_module *ln, ek_tape *tape, const float *sample)
{
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(1, FEATURES), sample);
    float row[FEATURES];
    printf("\n3. A batch of one\n\n");
    ek_module_train(bn);
    if (!x || first_row(bn, tape, x, row)) { /* it has to be refused */
        ek_tensor_free(x);
        return false;
    }
    printf("  BatchNorm, training:  refused: %s\n", ek_last_error());
    ek_module_eval(bn);
    bool done = first_row(bn, tape, x, row);
    if (done)
        print_row("BatchNorm, evaluation", row);
    ek_module_train(ln);
    done = done && first_row(ln, tape, x, row);
    if (done)
        print_row("LayerNorm, training", row);
    ek_module_eval(ln);
    done = done && first_row(ln, tape, x, row);
    if (done)
        print_row("LayerNorm, evaluation", row);
    ek_tensor_free(x);
    return done;
}

static bool draw_path(const char *folder, const char *csv_path)
{
    char path[512];
    FILE *script = open_output(folder, "train_vs_eval.gnuplot", path, sizeof path);
    if (!script)
        return false;
    fprintf(script,
            "set datafile separator ','\nset terminal pngcairo size 900,500 font ',12'\n"
            "set output '%s/train_vs_eval.png'\nset title 'Running mean of BatchNorm during training (dotted: data)'\n"
            "set xlabel 'batches'\nset ylabel 'running\\_mean'\nset grid\nset key outside\nplot ",
            folder);
    for (int i = 0; i < FEATURES; i++)
        fprintf(script,
                "%s'%s' skip 1 every %d::%d using 1:3 with lines lw 2 lc %d title 'feature %d', "
                "'' skip 1 every %d::%d using 1:5 with lines dt 3 lc %d notitle",
                i ? ", \\\n     " : "", csv_path, FEATURES, i, i + 1, i, FEATURES, i, i + 1);
    fprintf(script, "\n");
    return finish_plot(script, path, folder, "train_vs_eval.png");
}

int main(int argc, char **argv)
{
    const char *out = "out";
    int64_t seed = 0, steps = 100;
    const option options[] = {
        {"seed", "N", OPTION_INT, &seed, 0, "of the random data"},
        {"steps", "N", OPTION_INT, &steps, 1, "training batches"},
        {"out", "DIR", OPTION_TEXT, &out, 0, "folder for the CSV and the plot; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "BatchNorm in training and in evaluation, with LayerNorm beside it.", options,
                       (int)(sizeof options / sizeof options[0]), &status))
        return status;

    char path[512];
    FILE *csv = open_output(out, "train_vs_eval.csv", path, sizeof path);
    if (!csv)
        return EXIT_FAILURE;
    const float sample[FEATURES] = {6, -2.5f, 1, 4};
    ek_rng rng = ek_rng_seed((uint64_t)seed);
    ek_module *bn = ek_batch_norm1d(FEATURES, NULL), *ln = ek_layer_norm(EK_SHAPE(FEATURES), NULL);
    ek_tape *tape = ek_tape_new();
    ek_tensor *company[COMPANIES] = {NULL};
    company_result with_bn, with_ln;
    bool done = bn && ln && tape && record_path(bn, tape, steps, &rng, csv);
    for (int c = 0; done && c < COMPANIES; c++) {
        company[c] = draw(BATCH, &rng);
        done = company[c] != NULL;
        if (done)
            memcpy(ek_data_f32(company[c]), sample, sizeof sample);
    }
    float mean[FEATURES], var[FEATURES]; /* put back after the training forwards, for a fair section 3 */
    ek_tensor *running_mean = ek_module_buffer(bn, "running_mean"), *running_var = ek_module_buffer(bn, "running_var");
    done = done && ek_tensor_read(running_mean, mean, sizeof mean) == EK_OK &&
           ek_tensor_read(running_var, var, sizeof var) == EK_OK && try_companies(bn, tape, company, &with_bn) &&
           ek_tensor_write(running_mean, mean, sizeof mean) == EK_OK &&
           ek_tensor_write(running_var, var, sizeof var) == EK_OK && try_companies(ln, tape, company, &with_ln);
    if (done) {
        printf("\n2. One sample, (6, -2.5, 1, 4), in three batches of %d\n\n", BATCH);
        print_companies("BatchNorm", &with_bn);
        print_companies("LayerNorm", &with_ln);
        done = batch_of_one(bn, ln, tape, sample);
    }
    for (int c = 0; c < COMPANIES; c++)
        ek_tensor_free(company[c]);
    ek_tape_free(tape);
    ek_module_free(bn);
    ek_module_free(ln);
    if (fclose(csv) != 0 || !done)
        return report_failure("train_vs_eval");

    printf("\nBatchNorm in training gives the sample outputs that differ by up to %.3f with its company; in evaluation "
           "%s.\n"
           "LayerNorm gives %s in both modes and in every company.\n\nPath of the running statistics: %s\n",
           with_bn.training_spread, with_bn.evaluation_same_bits ? "the same bits" : "DIFFERENT bits",
           with_ln.modes_same_bits && with_ln.evaluation_same_bits ? "the same bits" : "DIFFERENT bits", path);
    return draw_path(out, path) ? EXIT_SUCCESS : EXIT_FAILURE;
}
