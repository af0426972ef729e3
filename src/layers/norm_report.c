/* The norm report: one forward with a watch on the tape.  The watch is shown what every module takes and gives; nothing
 * is in the way of a forward without one. */
#include "norm_report.h"

typedef struct collector {
    ek_watch watch; /* first, so that a watch is its collector */
    ek_norm_report *report;
    const ek_module *net;
    double near_zero;
    ek_status status;
} collector;

static const ek_spread unknown = {NAN, NAN, NAN};

/* ---- numbers over channels --------------------------------------------------------------------------------------- */

/* A spread under way: the sum in place of the mean. */
static void spread_add(ek_spread *spread, int64_t *n, double value)
{
    if (*n == 0)
        *spread = (ek_spread){0, value, value};
    ++*n;
    spread->mean += value;
    if (isnan(value) || isnan(spread->min)) {
        spread->min = spread->max = NAN;
        return;
    }
    spread->min = value < spread->min ? value : spread->min;
    spread->max = value > spread->max ? value : spread->max;
}

static void spread_end(ek_spread *spread, int64_t n)
{
    spread->mean /= (double)n;
}

static ek_spread spread_of_magnitudes(const ek_tensor *t)
{
    ek_spread spread = unknown;
    int64_t n = 0;
    for (int64_t i = 0; t && i < t->numel; i++)
        spread_add(&spread, &n, fabs(ek_tensor_at(t, i)));
    spread_end(&spread, n);
    return spread;
}

/* Variances, and how many are near zero, over the groups that have one. */
static void report_variances(const collector *c, report_entry *entry, const norm_moments *moments)
{
    ek_norm_report_row *row = &entry->row;
    const double least = c->near_zero == EK_NEAR_ZERO_EPS ? entry->traits.eps : c->near_zero;
    int64_t near_zero = 0;
    row->groups = 0;
    row->variance = unknown;
    for (int64_t g = 0; g < moments->groups; g++) {
        if (moments->count[g] < (entry->traits.center ? 2 : 1)) /* one element has a mean(x²), and no variance */
            continue;
        near_zero += moments->var[g] <= least;
        spread_add(&row->variance, &row->groups, moments->var[g]);
    }
    spread_end(&row->variance, row->groups);
    row->near_zero = (double)near_zero / (double)row->groups;
}

static void begin_drift(report_entry *entry)
{
    entry->row.mean_drift = entry->row.variance_ratio = unknown;
    entry->row.worst_channel = -1;
    entry->note[0] = '\0';
}

/* The drift of one channel: batch (mean, var) against row `at` of the running tables. */
static void report_drift(report_entry *entry, int64_t channel, int64_t at, double mean, double var, int64_t *n)
{
    const double eps = entry->traits.eps, running_mean = ek_tensor_at(entry->traits.running_mean, at);
    const double running_var = ek_tensor_at(entry->traits.running_var, at);
    const double distance = fabs(mean - running_mean);
    const double drift = distance == 0 ? 0 : distance / sqrt(running_var + eps);
    const double ratio = var == running_var ? 1 : (var + eps) / (running_var + eps);
    int64_t ratios = *n;
    if (*n == 0 || drift > entry->row.mean_drift.max)
        entry->row.worst_channel = channel;
    spread_add(&entry->row.variance_ratio, &ratios, ratio);
    spread_add(&entry->row.mean_drift, n, drift);
}

static void end_drift(report_entry *entry, int64_t n)
{
    spread_end(&entry->row.mean_drift, n);
    spread_end(&entry->row.variance_ratio, n);
    if (n == 0)
        snprintf(entry->note, sizeof entry->note, "no statistic of this batch has two elements: no drift");
}

/* ---- from the input of a norm to the statistics of its channels -------------------------------------------------- */

/* The groups that the layer normalizes by; SwitchableNorm: those that its mixture is made of. */
static ek_status group_input(norm_grouping *grouping, const norm_traits *traits, const ek_tensor *x)
{
    const ek_lengths *lengths = x->lengths;
    const int ndim = x->shape.ndim, batch = lengths ? lengths->batch_axis : 0;
    if (ek_norm_grouping_make(grouping, x) != EK_OK)
        return EK_ERR_MEMORY;
    if (traits->groups == GROUPS_PER_POSITION) {
        const int time = !traits->over_time ? -1 : lengths ? lengths->time_axis : 1;
        for (int i = ndim - traits->axes - 1; i >= 0; i--)
            if (i != time) {
                grouping->stride[i] = grouping->groups;
                grouping->groups *= x->shape.dim[i];
            }
        return EK_OK;
    }
    const int axis = traits->channel_axis == 1 ? 1 : ndim - 1;
    grouping->divide[axis] = traits->channels_per_group;
    grouping->stride[axis] = 1;
    grouping->groups = traits->channels / traits->channels_per_group;
    if (traits->groups != GROUPS_PER_CHANNEL) {
        grouping->stride[batch] = grouping->groups;
        grouping->groups *= x->shape.dim[batch];
    }
    return EK_OK;
}

/* A channel of the batch, as it would move the running statistics: var with K/(K − 1), or as the published SwitchableNorm
 * has it.  The functions that make one return false where the batch has no variance to move them by. */
typedef struct channel_of_batch {
    double mean, var;
} channel_of_batch;

/* InstanceNorm: means over samples of each one's mean and unbiased variance. */
static bool pool_instances(const norm_moments *planes, int64_t channels, int64_t c, channel_of_batch *pooled)
{
    int64_t means = 0, variances = 0;
    *pooled = (channel_of_batch){0, 0};
    for (int64_t i = c; i < planes->groups; i += channels) {
        const int64_t k = planes->count[i];
        means += k > 0;
        pooled->mean += planes->mean[i];
        if (k > 1) {
            variances++;
            pooled->var += planes->var[i] * ((double)k / (double)(k - 1));
        }
    }
    pooled->mean /= (double)means;
    pooled->var /= (double)variances;
    return variances > 0;
}

/* SwitchableNorm: all elements of the channel, v = Σ p·v_n + Σ p·(m_n − m)² with p the plane's share of them.
 * `reference`: v_n = SS/(s − 1); where planes are single elements by shape, the samples' variance is SS/(N − 1). */
static bool pool_planes(const norm_moments *planes, int64_t channels, int64_t c, bool reference, bool flat,
                        channel_of_batch *biased, channel_of_batch *pooled)
{
    double elements = 0, within = 0, between = 0, sum = 0;
    for (int64_t i = c; i < planes->groups; i += channels) {
        elements += (double)planes->count[i];
        sum += (double)planes->count[i] * (planes->mean[i] - planes->mean[c]);
    }
    const double mean = planes->mean[c] + sum / elements;
    double corrected = 0;
    for (int64_t i = c; i < planes->groups; i += channels) {
        const double k = (double)planes->count[i], d = planes->mean[i] - mean;
        within += k * planes->var[i];
        corrected += k * planes->var[i] * (k > 1 ? k / (k - 1) : 1);
        between += k * d * d;
    }
    *biased = (channel_of_batch){mean, (within + between) / elements};
    *pooled = *biased;
    if (!reference)
        pooled->var *= elements / (elements - 1);
    else if (flat)
        pooled->var = between / (elements - 1);
    else
        pooled->var = (corrected + between) / elements;
    return elements > 1;
}

/* SwitchableNorm shows its channels, which BN's part normalizes by: the planes become channels on the way. */
static ek_status report_mixed(const collector *c, report_entry *entry, const norm_moments *planes, bool flat)
{
    const norm_traits *traits = &entry->traits;
    norm_moments channels;
    if (ek_norm_moments_make(&channels, traits->channels) != EK_OK)
        return EK_ERR_MEMORY;
    int64_t n = 0;
    begin_drift(entry);
    for (int64_t j = 0; j < traits->channels; j++) {
        channel_of_batch biased, pooled;
        for (int64_t i = j; i < planes->groups; i += traits->channels)
            channels.count[j] += planes->count[i];
        if (!pool_planes(planes, traits->channels, j, traits->reference, flat, &biased, &pooled))
            continue;
        channels.mean[j] = biased.mean;
        channels.var[j] = biased.var;
        if (traits->running_mean)
            report_drift(entry, j, j, pooled.mean, pooled.var, &n);
    }
    report_variances(c, entry, &channels);
    if (traits->running_mean)
        end_drift(entry, n);
    ek_norm_moments_free(&channels);
    return EK_OK;
}

static void report_channels(const collector *c, report_entry *entry, const norm_moments *moments)
{
    const norm_traits *traits = &entry->traits;
    const bool instances = traits->groups == GROUPS_PER_SAMPLE;
    int64_t n = 0;
    report_variances(c, entry, moments);
    begin_drift(entry);
    for (int64_t j = 0; traits->running_mean && j < traits->channels; j++) {
        const double k = instances ? 0 : (double)moments->count[j];
        channel_of_batch pooled;
        if (instances ? !pool_instances(moments, traits->channels, j, &pooled) : k < 2)
            continue;
        if (!instances)
            pooled = (channel_of_batch){moments->mean[j], moments->var[j] * (k / (k - 1))};
        report_drift(entry, j, j, pooled.mean, pooled.var, &n);
    }
    if (traits->running_mean)
        end_drift(entry, n);
}

static ek_status measure(const collector *c, report_entry *entry, const ek_tensor *x)
{
    norm_grouping grouping;
    norm_moments moments = {0};
    ek_status status = group_input(&grouping, &entry->traits, x);
    if (status == EK_OK)
        status = ek_norm_moments_make(&moments, grouping.groups);
    if (status == EK_OK) {
        ek_norm_moments_take(&moments, &grouping, x, entry->traits.center);
        if (entry->traits.groups == GROUPS_MIXED)
            status = report_mixed(c, entry, &moments, x->shape.ndim == 2 && !x->lengths);
        else
            report_channels(c, entry, &moments);
    }
    ek_release(grouping.valid);
    ek_norm_moments_free(&moments);
    return status;
}

/* ---- the activation behind a norm -------------------------------------------------------------------------------- */

typedef struct flat_count {
    bool (*is_flat)(double y);
    int64_t flat, all;
} flat_count;

static void count_flat(void *context, int64_t group, double value)
{
    flat_count *count = context;
    (void)group;
    count->all++;
    count->flat += count->is_flat(value);
}

static ek_status report_activation(report_entry *entry, const ek_module *module, const ek_tensor *y)
{
    flat_count count = {module->is_flat, 0, 0};
    norm_grouping all;
    snprintf(entry->activation, sizeof entry->activation, "%s", module->def.type);
    entry->output = NULL;
    if (!module->is_flat)
        return EK_OK;
    ek_status status = ek_norm_grouping_make(&all, y);
    if (status == EK_OK)
        ek_norm_each(&all, y, count_flat, &count);
    ek_release(all.valid);
    entry->row.saturation = (double)count.flat / (double)count.all;
    return status;
}

/* Where the output of a norm goes: through `module`, which makes y of x. */
static ek_status follow(report_entry *entry, const ek_module *module, const ek_tensor *x, const ek_tensor *y)
{
    if (module == entry->residual) { /* its branch ended with the norm */
        entry->output = y;
        entry->residual = NULL;
    }
    if (!entry->output)
        return EK_OK;
    if (x == entry->output && module->is_activation)
        return report_activation(entry, module, y);
    if (x == entry->output && y->data == x->data) /* the same numbers: a reshape */
        entry->output = y;
    if (y == entry->output && module->parent && ek_module_is_residual(module->parent))
        entry->residual = module->parent;
    return EK_OK;
}

/* ---- the watch --------------------------------------------------------------------------------------------------- */

static void see_output(const ek_watch *watch, const ek_module *module, const ek_tensor *x, const ek_tensor *y)
{
    collector *c = (collector *)watch;
    for (int i = 0; i < c->report->size && c->status == EK_OK; i++) {
        report_entry *entry = &c->report->entry[i];
        if (entry->module == module) {
            entry->row.calls++;
            if (entry->traits.groups == GROUPS_UNKNOWN || entry->traits.groups == GROUPS_PER_STEP)
                continue;
            entry->output = y;
            c->status = measure(c, entry, x);
        }
        if (c->status == EK_OK)
            c->status = follow(entry, module, x, y);
    }
}

static report_entry *find_norm(const collector *c, const ek_module *module, int norm)
{
    for (int i = 0; i < c->report->size; i++)
        if (c->report->entry[i].module == module)
            return &c->report->entry[i + norm];
    return NULL;
}

static void see_steps(const ek_watch *watch, const ek_module *module, const ek_watched_steps *steps)
{
    collector *c = (collector *)watch;
    report_entry *entry = find_norm(c, module, steps->norm);
    const int64_t units = steps->units;
    norm_moments moments;
    if (!entry || c->status != EK_OK)
        return;
    c->status = ek_norm_moments_make(&moments, steps->steps * units);
    if (c->status != EK_OK)
        return;
    int64_t n = 0;
    begin_drift(entry);
    for (int64_t i = 0; i < moments.groups; i++) {
        const int64_t s = i / units;
        const double k = (double)steps->count[s];
        moments.count[i] = steps->count[s];
        moments.var[i] = steps->var[i];
        report_drift(entry, i, steps->running_step[s] * units + i % units, steps->mean[i],
                     steps->var[i] * (k / (k - 1)), &n);
    }
    report_variances(c, entry, &moments);
    end_drift(entry, n);
    ek_norm_moments_free(&moments);
}

/* ---- the report -------------------------------------------------------------------------------------------------- */

/* Shares of IN, LN, BN: the softmax of the weights in use. */
static void mixture(const norm_traits *traits, const ek_tensor *weight, double share[3])
{
    const bool used[3] = {traits->instance, true, traits->batch};
    double largest = -INFINITY, sum = 0;
    for (int i = 0; i < 3; i++)
        share[i] = weight ? 0 : NAN;
    if (!weight)
        return;
    for (int64_t i = 0; i < weight->numel; i++)
        largest = fmax(largest, ek_tensor_at(weight, i));
    for (int i = 0, at = 0; i < 3; i++)
        if (used[i])
            sum += share[i] = exp(ek_tensor_at(weight, at++) - largest);
    for (int i = 0; i < 3; i++)
        share[i] /= sum;
}

/* What is known before the forward. */
static void begin_row(const collector *c, report_entry *entry)
{
    const norm_traits *traits = &entry->traits;
    const ek_module *module = entry->module;
    const size_t length = ek_module_name(module, c->net, NULL, entry->name, EK_NAME_BYTES);
    const size_t used = length < EK_NAME_BYTES ? length : EK_NAME_BYTES - 1;
    snprintf(entry->name + used, sizeof entry->name - used, "%s%s", used && *traits->part ? "." : "", traits->part);
    snprintf(entry->layer, sizeof entry->layer, "%s", module->description);
    if (traits->groups == GROUPS_UNKNOWN)
        snprintf(entry->note, sizeof entry->note,
                 "the cell does not keep the statistics of its LayerNorm: γ and β alone are reported");
    ek_norm_report_row *row = &entry->row;
    *row = (ek_norm_report_row){.name = entry->name, .layer = entry->layer, .note = entry->note,
                                .has_running = traits->running_mean, .statistics = EK_STATS_BATCH,
                                .batches = -1, .refused_batches = -1, .worst_channel = -1, .mean_drift = unknown,
                                .variance_ratio = unknown, .variance = unknown, .near_zero = NAN,
                                .gamma = spread_of_magnitudes(traits->weight),
                                .beta = spread_of_magnitudes(traits->bias), .activation = entry->activation,
                                .saturation = NAN};
    mixture(traits, traits->mean_weight, row->mean_mixture);
    mixture(traits, traits->var_weight, row->var_mixture);
    if (row->has_running) {
        row->statistics = traits->statistics;
        row->uses_running = traits->uses_running;
        row->batches = ((const int64_t *)traits->num_batches_tracked->data)[0];
        row->refused_batches = *module->non_finite_batches;
    }
}

/* Norms at or below `net`; fills their entries, where there are some. */
static int list_norms(ek_module *net, report_entry *entry)
{
    int n = 0;
    norm_traits traits;
    for (ek_module *m = net; m; m = ek_module_next(net, m))
        for (int i = 0; m->norm_at && m->norm_at(m, i, &traits); i++, n++)
            if (entry) {
                entry[n].module = m;
                entry[n].traits = traits;
            }
    return n;
}

/* On a tape that records nothing, lets nothing move and keeps observers out of it. */
static ek_status run_forward(collector *c, ek_module *net, ek_tensor *x)
{
    ek_tape *tape = ek_tape_new();
    if (!tape)
        return EK_ERR_MEMORY;
    tape->recording = false;
    tape->leaves_modules_alone = true;
    tape->watch = &c->watch;
    ek_forward(net, tape, x);
    const ek_status status = ek_tape_status(tape);
    ek_tape_free(tape);
    return status != EK_OK ? status : c->status;
}

static ek_norm_report *report_of(int size)
{
    ek_norm_report *report = ek_alloc(sizeof *report);
    report_entry *entry = report ? ek_alloc_zeroed((size_t)size * sizeof *entry) : NULL;
    if (!entry) {
        ek_release(report);
        return NULL;
    }
    *report = (ek_norm_report){size, entry};
    return report;
}

ek_norm_report_opts ek_norm_report_opts_default(void)
{
    return (ek_norm_report_opts){.near_zero = EK_NEAR_ZERO_EPS};
}

ek_norm_report *ek_norm_report_new(ek_module *net, ek_tensor *x, const ek_norm_report_opts *opts)
{
    const ek_norm_report_opts defaults = ek_norm_report_opts_default();
    opts = opts ? opts : &defaults;
    const int size = net ? list_norms(net, NULL) : 0;
    ek_norm_report *report = NULL;
    if (!net || !x)
        ek_fail_null(EK_ERR_ARGUMENT, "norm_report_new", !net ? "module" : "input");
    else if (opts->near_zero != EK_NEAR_ZERO_EPS && !(opts->near_zero >= 0))
        ek_fail(EK_ERR_ARGUMENT, "norm_report_new: expected a near_zero ≥ 0 or EK_NEAR_ZERO_EPS, got %g",
                opts->near_zero);
    else if (size == 0)
        ek_fail(EK_ERR_ARGUMENT, "norm_report_new: there is no norm at or below %s", net->description);
    else if (ek_module_ready(net) == EK_OK)
        report = report_of(size);
    if (!report)
        return NULL;
    collector c = {.watch = {see_output, see_steps}, .report = report, .net = net, .near_zero = opts->near_zero,
                   .status = EK_OK};
    list_norms(net, report->entry);
    for (int i = 0; i < size; i++)
        begin_row(&c, &report->entry[i]);
    if (run_forward(&c, net, x) != EK_OK) {
        ek_norm_report_free(report);
        return NULL;
    }
    for (int i = 0; i < size; i++)
        if (!report->entry[i].row.calls)
            snprintf(report->entry[i].note, EK_NOTE_BYTES, "not used in this forward");
    return report;
}

void ek_norm_report_free(ek_norm_report *report)
{
    if (report)
        ek_release(report->entry);
    ek_release(report);
}

int ek_norm_report_size(const ek_norm_report *report)
{
    if (!report)
        ek_fail_null(EK_ERR_ARGUMENT, "norm_report_size", "report");
    return report ? report->size : 0;
}

const ek_norm_report_row *ek_norm_report_at(const ek_norm_report *report, int i)
{
    if (report && i >= 0 && i < report->size)
        return &report->entry[i].row;
    if (!report)
        ek_fail_null(EK_ERR_ARGUMENT, "norm_report_at", "report");
    else
        ek_fail(EK_ERR_ARGUMENT, "norm_report_at: expected a row of 0 … %d, got %d", report->size - 1, i);
    return NULL;
}

const ek_norm_report_row *ek_norm_report_find(const ek_norm_report *report, const char *name)
{
    if (!report || !name) {
        ek_fail_null(EK_ERR_ARGUMENT, "norm_report_find", !report ? "report" : "name");
        return NULL;
    }
    char names[1024] = "";
    size_t used = 0;
    for (int i = 0; i < report->size; i++) {
        if (!strcmp(report->entry[i].name, name))
            return &report->entry[i].row;
        if (used < sizeof names)
            used += (size_t)snprintf(names + used, sizeof names - used, "%s\"%s\"", i ? ", " : "",
                                     report->entry[i].name);
    }
    ek_fail(EK_ERR_ARGUMENT, "norm_report_find: there is no norm \"%s\"; there are %s", name, names);
    return NULL;
}
