/* Running statistics, whoever keeps them: norms over channels, and recurrent layers with BatchNorm. */
#include "norm.h"

bool ek_running_options_ok(const ek_module *module, double momentum, ek_norm_statistics choice)
{
    if (momentum != EK_MOMENTUM_CUMULATIVE && !(momentum >= 0 && momentum <= 1)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a momentum (the update fraction) of 0 … 1 or EK_MOMENTUM_CUMULATIVE, "
                                 "got %g", module->description, momentum);
        return false;
    }
    if (choice < EK_STATS_AUTO || choice > EK_STATS_FROZEN) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected one of ek_norm_statistics, got %d", module->description, (int)choice);
        return false;
    }
    return true;
}

void ek_running_describe(double momentum, ek_norm_statistics choice, char *text)
{
    if (choice == EK_STATS_FROZEN)
        snprintf(text, EK_NOTE_BYTES, "running statistics are used and frozen");
    else if (momentum == EK_MOMENTUM_CUMULATIVE)
        snprintf(text, EK_NOTE_BYTES, "running ← running + (batch − running)/(number of batches)");
    else
        snprintf(text, EK_NOTE_BYTES, "running ← %g·running + %g·batch", 1 - momentum, momentum);
}

bool ek_running_is_used(ek_norm_statistics choice, bool training)
{
    return choice != EK_STATS_BATCH && (choice != EK_STATS_AUTO || !training);
}

bool ek_running_is_updated(ek_norm_statistics choice, bool training)
{
    return training && choice != EK_STATS_FROZEN;
}

double ek_running_fraction(double momentum, int64_t batches)
{
    return momentum == EK_MOMENTUM_CUMULATIVE ? 1 / (double)batches : momentum;
}

void ek_running_set(ek_tensor *buffer, int64_t i, double value)
{
    if (buffer->dtype == EK_F32)
        ((float *)buffer->data)[i] = (float)value;
    else
        ((double *)buffer->data)[i] = value;
}

void ek_running_warn_refused(const ek_module *module, const char *what, int64_t index, int64_t batches)
{
    char name[EK_NAME_BYTES];
    ek_module_name(module, NULL, NULL, name, sizeof name);
    ek_warn("%s%s%s%s: the batch statistics of %s %lld are not finite; the running ones were left as they were (%lld "
            "such batches so far)", module->description, *name ? " in layer \"" : "", name, *name ? "\"" : "", what,
            (long long)index, (long long)batches);
}

/* ---- several batches as one -------------------------------------------------------------------------------------- */

/* Chan, Golub and LeVeque (1979): with n1, n2 elements and d = m2 − m1, the mean is m1 + d·n2/(n1 + n2), and the sums of
 * squares about the two means add up to that about the common one with d²·n1·n2/(n1 + n2). */
double ek_pooled_join_mean(ek_pooled *pooled, double elements, double mean)
{
    const double before = pooled->elements;
    pooled->elements += elements;
    if (before == 0) { /* as every batch is that stands alone: no division */
        pooled->mean = mean;
        return 0;
    }
    const double share = elements / pooled->elements, distance = mean - pooled->mean;
    pooled->mean += distance * share;
    return before * share * distance * distance;
}

void ek_pooled_join(ek_pooled *pooled, double elements, double mean, double squares)
{
    pooled->squares += squares + ek_pooled_join_mean(pooled, elements, mean);
    pooled->freedom = pooled->elements - 1;
}

ek_pooled *ek_running_pool(const ek_module *module)
{
    return module->pooled ? module->pooled : module->gathered;
}

/* ---- for every layer of a net ------------------------------------------------------------------------------------ */

ek_status ek_module_set_norm_statistics(ek_module *module, ek_norm_statistics choice)
{
    if (!module)
        return ek_fail(EK_ERR_ARGUMENT, "set_norm_statistics: the module is NULL");
    if (choice < EK_STATS_AUTO || choice > EK_STATS_FROZEN)
        return ek_fail(EK_ERR_ARGUMENT, "set_norm_statistics: expected one of ek_norm_statistics, got %d", (int)choice);
    bool any = false;
    for (ek_module *m = module; m; m = ek_module_next(module, m))
        if (m->choose_statistics) {
            m->choose_statistics(m, choice);
            any = true;
        }
    return any ? EK_OK : ek_fail(EK_ERR_ARGUMENT, "set_norm_statistics: no norm with running statistics at or below %s",
                                 module->description);
}

int64_t ek_module_non_finite_batches(const ek_module *module)
{
    int64_t total = 0;
    for (const ek_module *m = module; m; m = ek_module_next(module, m))
        total += m->non_finite_batches ? *m->non_finite_batches : 0;
    return total;
}
