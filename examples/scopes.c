/* Which elements share a mean and a variance in each norm, and which share γ and β; checked region by region: in the
 * output of the norm every region has mean 0 and variance 1.
 */
#include "common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef enum scope { PER_CHANNEL, PER_SAMPLE_CHANNEL, PER_SAMPLE_GROUP, PER_ROW } scope;

typedef struct example {
    const char *layer;   /* as the table shows it */
    ek_module *(*make)(void);
    ek_shape input;      /* (N, C, …), or (…, normalized shape) for PER_ROW */
    scope scope;
    int64_t groups;      /* PER_SAMPLE_GROUP: of channels; PER_ROW: trailing axes */
    const char *sharing; /* what one γ, β is shared over */
} example;

static ek_module *bn1d(void)
{
    return ek_batch_norm1d(100, NULL);
}

static ek_module *bn2d(void)
{
    return ek_batch_norm2d(100, NULL);
}

static ek_module *bn2d_plain(void)
{
    ek_batch_norm_opts opts = ek_batch_norm_opts_default();
    opts.affine = false;
    return ek_batch_norm2d(100, &opts);
}

static ek_module *ln10(void)
{
    return ek_layer_norm(EK_SHAPE(10), NULL);
}

static ek_module *ln_image(void)
{
    return ek_layer_norm(EK_SHAPE(5, 10, 10), NULL);
}

static ek_module *in2d(void)
{
    return ek_instance_norm2d(100, NULL);
}

static ek_module *in2d_affine(void)
{
    ek_instance_norm_opts opts = ek_instance_norm_opts_default();
    opts.affine = true;
    return ek_instance_norm2d(100, &opts);
}

static ek_module *gn3(void)
{
    return ek_group_norm(3, 6, NULL);
}

static ek_module *gn6(void)
{
    return ek_group_norm(6, 6, NULL);
}

static ek_module *gn1(void)
{
    return ek_group_norm(1, 6, NULL);
}

/* A norm from its input shape to the number of the region that element `flat` belongs to. */
static int64_t region_of(const example *e, int64_t flat)
{
    int64_t positions = 1;
    if (e->scope == PER_ROW) {
        for (int i = 1; i <= e->groups; i++)
            positions *= e->input.dim[e->input.ndim - i];
        return flat / positions;
    }
    for (int i = 2; i < e->input.ndim; i++)
        positions *= e->input.dim[i];
    const int64_t channels = e->input.dim[1], plane = flat / positions, sample = plane / channels,
                  channel = plane % channels;
    switch (e->scope) {
    case PER_CHANNEL: return channel;
    case PER_SAMPLE_CHANNEL: return plane;
    default: return sample * e->groups + channel / (channels / e->groups);
    }
}

/* What the output of a norm looks like, region by region. */
typedef struct findings {
    int64_t regions, elements, normalized;
    double worst_mean, worst_variance; /* largest |mean| and |variance − 1| */
} findings;

/* Every region has to reach |mean| < tolerance and |variance − 1| < tolerance.  Float32 output of up to 31500 elements
 * of size 1 holds both to about 1e-6; eps = 1e-5 takes up to 1e-5/variance(input), 2e-5 here, off the variance. */
static bool inspect(const example *e, const ek_tensor *y, findings *found)
{
    const double tolerance = 1e-4;
    const int64_t n = ek_tensor_numel(y), last = region_of(e, n - 1) + 1;
    double *sum = calloc((size_t)last, sizeof *sum), *squares = calloc((size_t)last, sizeof *squares);
    if (!sum || !squares) {
        free(sum);
        free(squares);
        ek_fail(EK_ERR_MEMORY, "out of memory");
        return false;
    }
    *found = (findings){.regions = last, .elements = n / last};
    for (int64_t i = 0; i < n; i++)
        sum[region_of(e, i)] += ek_tensor_at(y, i);
    for (int64_t i = 0; i < n; i++) {
        const int64_t r = region_of(e, i);
        const double d = ek_tensor_at(y, i) - sum[r] / (double)found->elements;
        squares[r] += d * d;
    }
    for (int64_t r = 0; r < last; r++) {
        const double mean = fabs(sum[r] / (double)found->elements);
        const double variance = fabs(squares[r] / (double)found->elements - 1);
        found->normalized += mean < tolerance && variance < tolerance;
        found->worst_mean = fmax(found->worst_mean, mean);
        found->worst_variance = fmax(found->worst_variance, variance);
    }
    free(sum);
    free(squares);
    return true;
}

static const example examples[] = {
    {"BatchNorm1d(100)", bn1d, {2, {20, 100}}, PER_CHANNEL, 0, "channel, over the batch"},
    {"BatchNorm1d(100)", bn1d, {3, {20, 100, 35}}, PER_CHANNEL, 0, "channel, over batch and length"},
    {"BatchNorm2d(100)", bn2d, {4, {20, 100, 35, 45}}, PER_CHANNEL, 0, "channel, over batch and space"},
    {"BatchNorm2d(100), affine off", bn2d_plain, {4, {20, 100, 35, 45}}, PER_CHANNEL, 0, NULL},
    {"LayerNorm(10)", ln10, {3, {20, 5, 10}}, PER_ROW, 1, "place in the row, over all rows"},
    {"LayerNorm(5, 10, 10)", ln_image, {4, {20, 5, 10, 10}}, PER_ROW, 3, "place in the sample, over the batch"},
    {"InstanceNorm2d(100), affine on", in2d_affine, {4, {20, 100, 35, 45}}, PER_SAMPLE_CHANNEL, 0,
     "channel, over batch and space"},
    {"InstanceNorm2d(100)", in2d, {4, {20, 100, 35, 45}}, PER_SAMPLE_CHANNEL, 0, NULL},
    {"GroupNorm(3, 6)", gn3, {4, {20, 6, 10, 10}}, PER_SAMPLE_GROUP, 3, "channel, over batch and space"},
    {"GroupNorm(6, 6)", gn6, {4, {20, 6, 10, 10}}, PER_SAMPLE_GROUP, 6, "channel, over batch and space"},
    {"GroupNorm(1, 6)", gn1, {4, {20, 6, 10, 10}}, PER_SAMPLE_GROUP, 1, "channel, over batch and space"},
};
enum { N_EXAMPLES = sizeof examples / sizeof examples[0] };

/* One line of the table and of the CSV.  False when the library failed; *all_normal is cleared when a region is off. */
static bool show(const example *e, uint64_t seed, FILE *csv, bool *all_normal)
{
    ek_rng rng = ek_rng_seed(seed);
    ek_tensor *x = ek_normal(EK_F32, e->input, 3, 2, &rng);
    ek_module *norm = e->make();
    ek_tape *tape = ek_tape_new();
    ek_tensor *y = x && norm && tape ? ek_forward(norm, tape, x) : NULL;
    findings found;
    const bool done = y && inspect(e, y, &found);
    if (done) {
        char in[200], out[200], verdict[64];
        const int64_t pairs = ek_module_count_parameters(norm) / 2;
        ek_shape_text(e->input, in, sizeof in);
        ek_shape_text(ek_tensor_shape(y), out, sizeof out);
        snprintf(verdict, sizeof verdict, "%lld of %lld", (long long)found.normalized, (long long)found.regions);
        printf("%-31s %-18s %7lld %9lld  %13s %9.1e %9.1e  ", e->layer, in, (long long)found.regions,
               (long long)found.elements, verdict, found.worst_mean, found.worst_variance);
        if (pairs)
            printf("%lld, each for one %s\n", (long long)pairs, e->sharing);
        else
            printf("none\n");
        fprintf(csv, "\"%s\",\"%s\",\"%s\",%lld,%lld,%lld,%.3e,%.3e,%lld\n", e->layer, in, out,
                (long long)found.regions, (long long)found.elements, (long long)found.normalized, found.worst_mean,
                found.worst_variance, (long long)pairs);
        *all_normal &= found.normalized == found.regions && !strcmp(in, out);
    }
    ek_tape_free(tape);
    ek_module_free(norm);
    ek_tensor_free(x);
    return done;
}

int main(int argc, char **argv)
{
    const char *out = "out";
    int64_t seed = 0;
    const option options[] = {
        {"seed", "N", OPTION_INT, &seed, 0, "of the random input"},
        {"out", "DIR", OPTION_TEXT, &out, 0, "folder for scopes.csv; out unless given"},
    };
    int status;
    if (!parse_options(argc, argv, "Shows which elements share statistics in each norm, and checks every region.",
                       options, (int)(sizeof options / sizeof options[0]), &status))
        return status;
    char path[512];
    FILE *csv = open_output(out, "scopes.csv", path, sizeof path);
    if (!csv)
        return EXIT_FAILURE;
    fprintf(csv,
            "layer,input,output,pairs,elements_per_pair,normalized,worst_mean,worst_variance_minus_1,gamma_beta\n");
    printf("Input: normal, mean 3, standard deviation 2.  A region is a set of elements that share one (mean, "
           "variance).\n\n"
           "%-31s %-18s %7s %9s  %13s %9s %9s  %s\n",
           "layer", "input = output", "regions", "elements", "mean 0, var 1", "max |m|", "max |v-1|", "γ, β");
    bool all_normal = true;
    for (int i = 0; i < N_EXAMPLES; i++)
        if (!show(&examples[i], (uint64_t)seed, csv, &all_normal)) {
            fclose(csv);
            return report_failure("scopes");
        }
    if (fclose(csv) != 0) {
        fprintf(stderr, "writing %s failed\n", path);
        return EXIT_FAILURE;
    }
    printf("\n%s\nTable: %s\n",
           all_normal ? "Every region of every layer has mean 0 and variance 1, and every shape is kept."
                      : "Some region is NOT normalized, or a shape changed: see the table.",
           path);
    return all_normal ? EXIT_SUCCESS : EXIT_FAILURE;
}
