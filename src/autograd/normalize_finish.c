/* What stands between the passes of `normalize` over memory: tables of a few numbers per group. */
#include "normalize.h"

/* In one piece: the header, the mixing's header, then the tables of numbers. */
norm_saved *ek_norm_saved_make(ek_node *node)
{
    const normalize_attributes *attr = node->attributes;
    const int64_t groups = attr->plan.groups;
    int64_t numbers = groups * (attr->switchable ? 3 : 2); /* a mixed M is not the input's mean m */
    if (attr->switchable)
        numbers += ek_switch_table_size(attr->mix.n, attr->mix.c);
    size_t header = sizeof(norm_saved) + sizeof(switch_saved);
    norm_saved *saved = ek_node_save(node, header + (size_t)numbers * sizeof(double));
    if (!saved)
        return NULL;
    double *tables = (double *)((char *)saved + header);
    *saved = (norm_saved){.mean = tables, .rstd = tables + groups,
                          .center = attr->switchable ? tables + 2 * groups : tables};
    if (attr->switchable) {
        saved->mixed = (switch_saved *)(saved + 1);
        *saved->mixed = attr->mix;
    }
    return saved;
}

ek_status ek_norm_report_room(ek_node *node, int64_t groups, double **room)
{
    const normalize_attributes *attr = node->attributes;
    *room = NULL;
    if (!attr->stats)
        return EK_OK;
    *room = ek_tape_alloc(node->tape, (size_t)(2 * groups) * sizeof **room);
    if (!*room)
        return EK_ERR_MEMORY;
    const bool differ = attr->plan.ragged && !attr->switchable;
    *attr->stats = (ek_normalize_stats){.mean = *room, .var = *room + groups, .groups = groups,
                                        .count = differ || !groups ? 0 : attr->plan.numel / groups};
    return EK_OK;
}

/* Biased variance of a group from its sum of squares; a group without elements has none. */
static double variance_of(const norm_plan *plan, int64_t group, double squares)
{
    const int64_t k = norm_count(plan, group);
    return k > 0 ? squares / (double)k : 0;
}

void ek_norm_report(const norm_plan *plan, const norm_saved *saved, int64_t g, double *room)
{
    room[g] = saved->mean[g];
    room[plan->groups + g] = variance_of(plan, g, saved->rstd[g]);
}

void ek_norm_finish_forward(const normalize_attributes *attr, const norm_saved *saved, int64_t g)
{
    /* One element less its own mean is 0 whatever r is; r = 0 makes its gradient exactly 0, too. */
    const norm_plan *plan = &attr->plan;
    const bool lone = attr->center && norm_count(plan, g) == 1;
    saved->rstd[g] = lone ? 0 : norm_rstd(variance_of(plan, g, saved->rstd[g]), attr->eps);
}

ek_status ek_norm_mix(ek_node *node, const norm_saved *saved, const double *mean_logits, const double *var_logits,
                      const double *running)
{
    const normalize_attributes *attr = node->attributes;
    const int64_t channels = attr->mix.c;
    double *tables = (double *)((char *)saved + sizeof(norm_saved) + sizeof(switch_saved)) + 3 * attr->plan.groups;
    double *batch;
    if (ek_norm_report_room(node, channels, &batch) != EK_OK)
        return EK_ERR_MEMORY;
    ek_switch_forward(saved->mixed, tables, saved, attr->eps, mean_logits, var_logits, running,
                      running ? running + channels : NULL, batch, batch ? batch + channels : NULL);
    return EK_OK;
}

ek_status ek_norm_work_make(ek_node *node, norm_work *work, bool affine_wanted)
{
    const normalize_attributes *attr = node->attributes;
    const int64_t groups = attr->plan.groups, affine = affine_wanted ? attr->plan.affine_groups : 0;
    const int64_t mixing = attr->switchable ? 2 * (attr->mix.n + attr->mix.c) : 0;
    const size_t bytes = (size_t)(2 * groups + 2 * affine + mixing) * sizeof(double);
    double *tables = ek_node_scratch(node, bytes);
    if (!tables)
        return EK_ERR_MEMORY;
    memset(tables, 0, bytes);
    *work = (norm_work){.g = {tables, tables + groups}};
    if (affine_wanted) {
        work->d_gamma = tables + 2 * groups;
        work->d_beta = work->d_gamma + affine;
    }
    work->switch_scratch = tables + 2 * groups + 2 * affine;
    return EK_OK;
}

void ek_norm_finish_group(const normalize_attributes *attr, const norm_saved *saved, const norm_grads *g,
                          int64_t group)
{
    const double rstd = saved->rstd[group];
    g->s1[group] = attr->center ? -rstd * g->s1[group] : 0;
    g->s2[group] = -0.5 * rstd * rstd * g->s2[group];
}

void ek_norm_share_group(const normalize_attributes *attr, const norm_grads *g, int64_t group)
{
    const int64_t count = norm_count(&attr->plan, group);
    const double k = (double)(count > 0 ? count : 1); /* no element will ask for what has none to spread over */
    const double spread = attr->switchable && attr->mix.unbiased && count > 1 ? k - 1 : k;
    g->s1[group] /= k;
    g->s2[group] *= 2 / spread;
}

void ek_norm_finish_backward(const normalize_attributes *attr, const norm_saved *saved, norm_work *work)
{
    const int64_t groups = attr->plan.groups;
    for (int64_t i = 0; i < groups; i++)
        ek_norm_finish_group(attr, saved, &work->g, i);
    if (attr->switchable)
        ek_switch_backward(saved->mixed, saved, &work->g, work->switch_scratch, work->d_mean_logits,
                           work->d_var_logits);
    for (int64_t i = 0; i < groups; i++)
        ek_norm_share_group(attr, &work->g, i);
}
