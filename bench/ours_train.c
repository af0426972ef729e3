/* Training steps of the models of models.h. */
#include <math.h>
#include <string.h>

#include "models.h"
#include "ours.h"

enum { CHECKED_STEPS = 5 };

static bench_model model;
static bool states_memory; /* a copy of the weights would count */

static bool prepare(const bench_case *c)
{
    states_memory = !strcmp(c->variant, "mem");
    return bench_model_make(&model, c);
}

static void step(void)
{
    ours_need(bench_model_step(&model, NULL) == EK_OK);
}

static void discard(void)
{
    bench_model_free(&model);
}

/* ---- what was computed ------------------------------------------------------------------------------------------- */

enum { MOST_TENSORS = 128 };

typedef struct change {
    int n;
    ek_tensor *before[MOST_TENSORS];
    bool after;
    double sum, count;
} change;

/* At first copies the float tensors of the state, then adds up how far each element has moved. */
static ek_status note(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    change *c = user;
    (void)name;
    (void)kind;
    if (ek_tensor_dtype(tensor) != EK_F32)
        return EK_OK;
    if (c->n == MOST_TENSORS)
        return ek_fail(EK_ERR_ARGUMENT, "expected at most %d tensors", MOST_TENSORS);
    if (!c->after) {
        c->before[c->n++] = ek_tensor_clone(tensor);
        return c->before[c->n - 1] ? EK_OK : ek_last_status();
    }
    const float *x = ek_tensor_const_data(tensor), *from = ek_tensor_const_data(c->before[c->n]);
    const int64_t n = ek_tensor_numel(tensor);
    for (int64_t i = 0; i < n; i++)
        c->sum += fabs((double)x[i] - (double)from[i]);
    c->count += (double)n;
    ek_tensor_free(c->before[c->n++]);
    return EK_OK;
}

/* The sum of the losses of the first steps, and how far they moved weights and running statistics in the mean. */
static void check(double *a, double *b)
{
    change c = {0};
    if (!states_memory)
        ours_need(ek_module_visit(model.net, note, &c) == EK_OK);
    for (int i = 0; i < CHECKED_STEPS; i++) {
        double loss;
        ours_need(bench_model_step(&model, &loss) == EK_OK);
        *a += loss;
    }
    if (states_memory)
        return;
    c.n = 0;
    c.after = true;
    ours_need(ek_module_visit(model.net, note, &c) == EK_OK);
    *b = c.sum / c.count;
}

const ours_kind ours_train = {prepare, step, check, discard};
