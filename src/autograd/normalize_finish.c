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

/* Room for a report of n pairs on the tape; NULL when nobody asked, or with *status set. */
static double *report_room(ek_node *node, int64_t n, ek_status *status)
{
    const normalize_attributes *attr = node->attributes;
    *status = EK_OK;
    if (!attr->stats)
        return NULL;
    double *room = ek_tape_alloc(node->tape, (size_t)(2 * n) * sizeof *room);
    if (!room) {
        *status = EK_ERR_MEMORY;
        return NULL;
    }
    const bool differ = attr->plan.ragged && !attr->switchable;
    *attr->stats = (ek_normalize_stats){.mean = room, .var = room + n, .groups = n,
                                        .count = differ || !n ? 0 : attr->plan.numel / n};
    return room;
}

/* Biased variance of a group from its sum of squares; a group without elements has none. */
static double variance_of(const norm_plan *plan, int64_t group, double squares)
{
    const int64_t k = norm_count(plan, group);
    return k > 0 ? squares / (double)k : 0;
}

ek_status ek_norm_report(ek_node *node, const norm_saved *saved)
{
    const norm_plan *plan = &((const normalize_attributes *)node->attributes)->plan;
    ek_status status;
    double *room = report_room(node, plan->groups, &status);
    for (int64_t g = 0; room && g < plan->groups; g++) {
        room[g] = saved->mean[g];
        room[plan->groups + g] = variance_of(plan, g, saved->rstd[g]);
    }
    return status;
}

void ek_norm_finish_forward(const normalize_attributes *attr, const norm_saved *saved)
{
    const norm_plan *plan = &attr->plan;
    /* One element less its own mean is 0 whatever r is; r = 0 makes its gradient exactly 0, too. */
    for (int64_t g = 0; g < plan->groups; g++)
        saved->rstd[g] = attr->center && norm_count(plan, g) == 1
                             ? 0
                             : norm_rstd(variance_of(plan, g, saved->rstd[g]), attr->eps);
}

ek_status ek_norm_mix(ek_node *node, const norm_saved *saved, const double *mean_logits, const double *var_logits,
                      const double *running)
{
    const normalize_attributes *attr = node->attributes;
    const int64_t channels = attr->mix.c;
    double *tables = (double *)((char *)saved + sizeof(norm_saved) + sizeof(switch_saved)) + 3 * attr->plan.groups;
    ek_status status;
    double *batch = report_room(node, channels, &status);
    if (status != EK_OK)
        return status;
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

void ek_norm_finish_backward(const normalize_attributes *attr, const norm_saved *saved, norm_work *work)
{
    const norm_plan *plan = &attr->plan;
    norm_grads *g = &work->g;
    for (int64_t i = 0; i < plan->groups; i++) {
        double rstd = saved->rstd[i];
        g->s1[i] = attr->center ? -rstd * g->s1[i] : 0;
        g->s2[i] = -0.5 * rstd * rstd * g->s2[i];
    }
    if (attr->switchable)
        ek_switch_backward(saved->mixed, saved, g, work->switch_scratch, work->d_mean_logits, work->d_var_logits);
    for (int64_t i = 0; i < plan->groups; i++) {
        const int64_t count = norm_count(plan, i);
        const double k = (double)(count > 0 ? count : 1); /* no element will ask for what has none to spread over */
        const double spread = attr->switchable && attr->mix.unbiased && count > 1 ? k - 1 : k;
        g->s1[i] /= k;
        g->s2[i] *= 2 / spread;
    }
}
