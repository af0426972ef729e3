/* The norm report as a table for people and as CSV for programs. */
#include "norm_report.h"

#include <stddef.h>

static const char *const parts_of_mixture[3] = {"IN", "LN", "BN"};

/* What the forward normalized by. */
static const char *statistics_text(const ek_norm_report_row *row)
{
    if (!row->has_running)
        return "own";
    if (row->statistics == EK_STATS_FROZEN)
        return "frozen";
    return row->uses_running ? "running" : "batch";
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

enum { CELL_BYTES = EK_NAME_BYTES + NORM_PART_BYTES };

typedef enum column {
    NAME,
    LAYER,
    STATISTICS,
    BATCHES,
    REFUSED,
    DRIFT_MEAN,
    DRIFT_MAX,
    RATIO_MEAN,
    RATIO_MIN,
    RATIO_MAX,
    VARIANCE_MIN,
    VARIANCE_MAX,
    NEAR_ZERO,
    GAMMA,
    BETA,
    ACTIVATION,
    SATURATED,
    COLUMNS,
    FIRST_NUMBER = BATCHES
} column;
static const char *const titles[COLUMNS] = {
    "name", "layer", "statistics", "batches", "refused", "drift/σ", "max", "var ratio", "min", "max", "var min",
    "var max", "near 0", "|γ|", "|β|", "activation", "flat"};

static void number_text(double value, const char *format, char *text)
{
    if (isnan(value))
        snprintf(text, CELL_BYTES, "-");
    else
        snprintf(text, CELL_BYTES, format, value);
}

static void count_text(int64_t value, char *text)
{
    if (value < 0)
        snprintf(text, CELL_BYTES, "-");
    else
        snprintf(text, CELL_BYTES, "%lld", (long long)value);
}

static void range_text(ek_spread spread, char *text)
{
    if (isnan(spread.min))
        snprintf(text, CELL_BYTES, "-");
    else
        snprintf(text, CELL_BYTES, "%.3g…%.3g", spread.min, spread.max);
}

static void text_of(const ek_norm_report_row *row, column which, char text[CELL_BYTES])
{
    static const char number[] = "%.3g", percent[] = "%.1f%%";
    switch (which) {
    case NAME: snprintf(text, CELL_BYTES, "%s", *row->name ? row->name : "-"); break;
    case LAYER: snprintf(text, CELL_BYTES, "%s", row->layer); break;
    case STATISTICS: snprintf(text, CELL_BYTES, "%s", statistics_text(row)); break;
    case BATCHES: count_text(row->batches, text); break;
    case REFUSED: count_text(row->refused_batches, text); break;
    case DRIFT_MEAN: number_text(row->mean_drift.mean, number, text); break;
    case DRIFT_MAX: number_text(row->mean_drift.max, number, text); break;
    case RATIO_MEAN: number_text(row->variance_ratio.mean, number, text); break;
    case RATIO_MIN: number_text(row->variance_ratio.min, number, text); break;
    case RATIO_MAX: number_text(row->variance_ratio.max, number, text); break;
    case VARIANCE_MIN: number_text(row->variance.min, number, text); break;
    case VARIANCE_MAX: number_text(row->variance.max, number, text); break;
    case NEAR_ZERO: number_text(100 * row->near_zero, percent, text); break;
    case GAMMA: range_text(row->gamma, text); break;
    case BETA: range_text(row->beta, text); break;
    case ACTIVATION: snprintf(text, CELL_BYTES, "%s", *row->activation ? row->activation : "-"); break;
    case SATURATED: number_text(100 * row->saturation, percent, text); break;
    case COLUMNS: break;
    }
}

/* Characters of UTF-8: bytes that do not continue one. */
static int width_of(const char *text)
{
    int width = 0;
    for (; *text; text++)
        width += ((unsigned char)*text & 0xC0) != 0x80;
    return width;
}

static void print_cell(FILE *out, column which, int width, const char *text)
{
    const int gap = width - width_of(text);
    const bool left = which < FIRST_NUMBER || which == ACTIVATION;
    if (left)
        fprintf(out, "%s%s%*s", which ? "  " : "", text, gap, "");
    else
        fprintf(out, "  %*s%s%s", gap, "", text, which + 1 == COLUMNS ? "\n" : "");
}

static void print_table(const ek_norm_report *report, FILE *out)
{
    char text[CELL_BYTES];
    int width[COLUMNS];
    for (int k = 0; k < COLUMNS; k++) {
        width[k] = width_of(titles[k]);
        for (int i = 0; i < report->size; i++) {
            text_of(&report->entry[i].row, (column)k, text);
            width[k] = width_of(text) > width[k] ? width_of(text) : width[k];
        }
    }
    for (int k = 0; k < COLUMNS; k++)
        print_cell(out, (column)k, width[k], titles[k]);
    for (int i = 0; i < report->size; i++)
        for (int k = 0; k < COLUMNS; k++) {
            text_of(&report->entry[i].row, (column)k, text);
            print_cell(out, (column)k, width[k], text);
        }
}

static void print_mixture(FILE *out, const char *what, const double share[3])
{
    fputs(what, out);
    for (int k = 0; k < 3; k++)
        fprintf(out, " %s %.3f", parts_of_mixture[k], share[k]);
}

ek_status ek_norm_report_print(const ek_norm_report *report, FILE *out)
{
    if (!report || !out)
        return ek_fail_null(EK_ERR_ARGUMENT, "norm_report_print", !report ? "report" : "file");
    print_table(report, out);
    for (int i = 0; i < report->size; i++) {
        const ek_norm_report_row *row = &report->entry[i].row;
        const char *name = *row->name ? row->name : "-";
        if (!isnan(row->mean_mixture[0])) {
            fprintf(out, "%s:", name);
            print_mixture(out, " means", row->mean_mixture);
            print_mixture(out, ", variances", row->var_mixture);
            fprintf(out, "\n");
        }
        if (*row->note)
            fprintf(out, "%s: %s\n", name, row->note);
    }
    return ferror(out) ? ek_fail(EK_ERR_IO, "norm_report_print: writing failed") : EK_OK;
}

/* ---- CSV --------------------------------------------------------------------------------------------------------- */

typedef enum field_kind { TEXT, COUNT, FLAG, NUMBER, SPREAD, MIXTURE, CHOICE } field_kind;
static const struct field {
    const char *name;
    field_kind kind;
    size_t offset;
} fields[] = {
#define FIELD(NAME, KIND) {#NAME, KIND, offsetof(ek_norm_report_row, NAME)}
    FIELD(name, TEXT),
    FIELD(layer, TEXT),
    FIELD(note, TEXT),
    FIELD(calls, COUNT),
    FIELD(has_running, FLAG),
    FIELD(statistics, CHOICE),
    FIELD(uses_running, FLAG),
    FIELD(batches, COUNT),
    FIELD(refused_batches, COUNT),
    FIELD(groups, COUNT),
    FIELD(mean_drift, SPREAD),
    FIELD(worst_channel, COUNT),
    FIELD(variance_ratio, SPREAD),
    FIELD(variance, SPREAD),
    FIELD(near_zero, NUMBER),
    FIELD(gamma, SPREAD),
    FIELD(beta, SPREAD),
    FIELD(activation, TEXT),
    FIELD(saturation, NUMBER),
    FIELD(mean_mixture, MIXTURE),
    FIELD(var_mixture, MIXTURE),
#undef FIELD
};
enum { FIELDS = sizeof fields / sizeof fields[0] };

/* Quoted where a comma or a quotation mark is in it (RFC 4180). */
static void write_text(FILE *out, const char *text)
{
    const bool quoted = strpbrk(text, ",\"\n") != NULL;
    if (quoted)
        fputc('"', out);
    for (; *text; text++)
        fprintf(out, "%s%c", *text == '"' ? "\"" : "", *text);
    if (quoted)
        fputc('"', out);
}

static void write_number(FILE *out, double value)
{
    if (!isnan(value))
        fprintf(out, "%.9g", value);
}

static void write_field(FILE *out, const ek_norm_report_row *row, const struct field *field)
{
    const void *at = (const char *)row + field->offset;
    const double *numbers = at;
    switch (field->kind) {
    case TEXT: write_text(out, *(const char *const *)at); break;
    case FLAG: fputc(*(const bool *)at ? '1' : '0', out); break;
    case NUMBER: write_number(out, *numbers); break;
    case CHOICE: fputs(statistics_text(row), out); break;
    case COUNT:
        if (*(const int64_t *)at >= 0)
            fprintf(out, "%lld", (long long)*(const int64_t *)at);
        break;
    case SPREAD:
    case MIXTURE: /* three doubles each */
        for (int k = 0; k < 3; k++) {
            fputs(k ? "," : "", out);
            write_number(out, numbers[k]);
        }
        break;
    }
}

static void write_header(FILE *out)
{
    fputs("step", out);
    for (int i = 0; i < FIELDS; i++) {
        const char *name = fields[i].name;
        if (fields[i].kind == SPREAD)
            fprintf(out, ",%s_mean,%s_min,%s_max", name, name, name);
        else if (fields[i].kind == MIXTURE)
            fprintf(out, ",%s_in,%s_ln,%s_bn", name, name, name);
        else
            fprintf(out, ",%s", name);
    }
    fputc('\n', out);
}

ek_status ek_norm_report_csv(const ek_norm_report *report, int64_t step, bool header, FILE *out)
{
    if (!report || !out)
        return ek_fail_null(EK_ERR_ARGUMENT, "norm_report_csv", !report ? "report" : "file");
    if (header)
        write_header(out);
    for (int i = 0; i < report->size; i++) {
        fprintf(out, "%lld", (long long)step);
        for (int k = 0; k < FIELDS; k++) {
            fputc(',', out);
            write_field(out, &report->entry[i].row, &fields[k]);
        }
        fputc('\n', out);
    }
    return ferror(out) ? ek_fail(EK_ERR_IO, "norm_report_csv: writing failed") : EK_OK;
}
