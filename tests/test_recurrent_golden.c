/* RNN, LSTM and GRU against PyTorch 1.13.1: plain, with LayerNorm and with BatchNorm per step; output, final states and
 * all gradients, with whole and with packed sequences; names, shapes, order and first values of the parameters.
 * golden/make_recurrent.py says what the archive holds; tolerance: recurrent_tolerance. */
#include "support_golden.h"
#include "support_recurrent.h"

#include <stdio.h>

enum { CASES = 46, CASE_NUMBERS = 12 };

/* What BatchNorm and LayerNorm there take for eps; 1/√eps ≈ 11. */
static const double eps = 0x1p-7, condition = 12;

/* The name of case i of the archive, to be freed. */
static char *case_name(const ek_npz *npz, int which)
{
    for (int64_t i = 0; i < ek_npz_count(npz); i++) {
        const char *name = ek_npz_name(npz, i), *dot = strrchr(name, '.');
        if (dot && strcmp(dot, ".case") == 0 && which-- == 0) {
            char *copy = strdup(name);
            copy[dot - name] = '\0';
            return copy;
        }
    }
    return NULL;
}

static recurrent_case read_case(const ek_npz *npz, const char *name, int64_t *lengths)
{
    ek_tensor *t = golden_read(npz, name, ".case");
    const int64_t *v = ek_data_i64(t);
    recurrent_case c = {.cell = (cell_kind)v[0], .input = v[1], .hidden = v[2], .n = v[3], .steps = v[4],
                        .layout = (ek_sequence_layout)v[5], .opts = ek_recurrent_opts_default(), .states = v[11]};
    c.opts.num_layers = v[6];
    c.opts.bias = v[7];
    c.opts.bidirectional = v[8];
    c.opts.nonlinearity = v[9] ? EK_NONLINEARITY_RELU : EK_NONLINEARITY_TANH;
    c.opts.norm = (ek_recurrent_norm)v[10];
    if (v[10])
        c.opts.eps = eps;
    if (ek_tensor_numel(t) > CASE_NUMBERS) {
        ck_assert_int_eq(ek_tensor_numel(t), CASE_NUMBERS + c.n);
        memcpy(lengths, v + CASE_NUMBERS, (size_t)c.n * sizeof *lengths);
        c.lengths = lengths;
    }
    ek_tensor_free(t);
    return c;
}

/* The first numbers of a shared array. */
static ek_tensor *take(const ek_npz *npz, const char *kind, ek_shape shape, ek_dtype dtype)
{
    ek_tensor *all = golden_read(npz, kind, ""), *wide = ek_from_array(EK_F64, shape, ek_data_f64(all));
    ck_made(wide);
    ck_assert_int_le(ek_tensor_numel(wide), ek_tensor_numel(all));
    ek_tensor *t = ek_tensor_cast(wide, dtype);
    ck_made(t);
    ek_tensor_free(all);
    ek_tensor_free(wide);
    return t;
}

/* ---- parameters in alphabetical order ---------------------------------------------------------------------------- */

typedef struct named {
    char name[80];
    ek_tensor *tensor;
    int index; /* in the order of ek_module_visit */
} named;
typedef struct named_list {
    named at[MOST_TENSORS];
    int n;
} named_list;

static ek_status collect(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    named_list *list = user;
    if (kind != EK_PARAMETER)
        return EK_OK;
    ck_assert_int_lt(list->n, MOST_TENSORS);
    named *next = &list->at[list->n];
    snprintf(next->name, sizeof next->name, "%s", name);
    next->tensor = t;
    next->index = list->n++;
    return EK_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static named_list alphabetical(ek_module *layer)
{
    named_list list = {.n = 0};
    ck_ok(ek_module_visit(layer, collect, &list));
    qsort(list.at, (size_t)list.n, sizeof *list.at, by_name);
    return list;
}

static void write_parameters(const ek_npz *npz, const named_list *list)
{
    ek_tensor *all = golden_read(npz, "p", "");
    int64_t at = 0;
    for (int i = 0; i < list->n; i++) {
        ek_tensor *t = list->at[i].tensor;
        const int64_t n = ek_tensor_numel(t);
        ck_assert_int_le(at + n, ek_tensor_numel(all));
        ek_tensor *wide = ek_from_array(EK_F64, ek_tensor_shape(t), ek_data_f64(all) + at);
        ek_tensor *values = ek_tensor_cast(wide, ek_tensor_dtype(t));
        ck_made(values);
        ck_ok(ek_tensor_write(t, ek_tensor_data(values), (size_t)n * ek_dtype_size(ek_tensor_dtype(t))));
        ek_tensor_free(wide);
        ek_tensor_free(values);
        at += n;
    }
    ek_tensor_free(all);
}

/* ---- one case ---------------------------------------------------------------------------------------------------- */

typedef struct comparison {
    const ek_npz *npz;
    const char *name;
    const recurrent_case *c;
    ek_dtype dtype;
} comparison;

/* PyTorch's numbers are rounded as well, in float64: twice the tolerance there. */
static double tolerance_of(const comparison *cmp, const ek_tensor *expected)
{
    double scale = 1;
    for (int64_t i = 0; i < ek_tensor_numel(expected); i++)
        scale = fmax(scale, fabs(ek_tensor_at(expected, i)));
    return recurrent_tolerance(cmp->dtype, cmp->c, scale, cmp->c->opts.norm ? condition : 1) *
           (cmp->dtype == EK_F64 ? 2 : 1);
}

static void compare(const comparison *cmp, const char *what, const ek_tensor *ours)
{
    char label[200], key[20], a[200], b[200];
    snprintf(label, sizeof label, "%s, %s: %s", cmp->name, ek_dtype_name(cmp->dtype), what);
    snprintf(key, sizeof key, ".%s", what);
    ek_tensor *expected = golden_read(cmp->npz, cmp->name, key);
    ck_assert_msg(ours != NULL, "%s is missing", label);
    ck_assert_str_eq(ek_shape_text(ek_tensor_shape(ours), a, sizeof a),
                     ek_shape_text(ek_tensor_shape(expected), b, sizeof b));
    ck_assert_int_eq(ek_tensor_dtype(ours), cmp->dtype);
    assert_close(label, ours, expected, 0, tolerance_of(cmp, expected));
    ek_tensor_free(expected);
}

static void compare_gradients(const comparison *cmp, const named_list *list, const recurrent_run *run)
{
    ek_tensor *all = golden_read(cmp->npz, cmp->name, ".g");
    const double tolerance = tolerance_of(cmp, all);
    int64_t at = 0;
    for (int i = 0; i < list->n; i++) {
        const named *p = &list->at[i];
        const int64_t n = ek_tensor_numel(p->tensor);
        ck_assert_int_le(at + n, ek_tensor_numel(all));
        ek_tensor *expected = ek_from_array(EK_F64, ek_tensor_shape(p->tensor), ek_data_f64(all) + at);
        char label[300];
        snprintf(label, sizeof label, "%s, %s: gradient of %s", cmp->name, ek_dtype_name(cmp->dtype), p->name);
        assert_close(label, run->gradient[p->index], expected, 0, tolerance);
        ek_tensor_free(expected);
        at += n;
    }
    ck_assert_int_eq(at, ek_tensor_numel(all));
    ek_tensor_free(all);
}

static void check(const ek_npz *npz, const char *name, ek_dtype dtype)
{
    int64_t lengths[MOST_SEQUENCES];
    const recurrent_case c = read_case(npz, name, lengths);
    const comparison cmp = {npz, name, &c, dtype};
    ek_module *layer = recurrent_layer(&c);
    ck_ok(ek_module_to(layer, dtype));
    const named_list list = alphabetical(layer);
    write_parameters(npz, &list);
    const ek_shape state = recurrent_state_shape(&c);
    const bool lstm = c.cell == LSTM;
    recurrent_inputs in = {.x = take(npz, "x", recurrent_shape(&c, c.input), dtype)};
    recurrent_set_lengths(&c, in.x);
    if (c.states)
        in.h0 = take(npz, "h0", state, dtype);
    if (c.states && lstm)
        in.c0 = take(npz, "c0", state, dtype);
    ek_tensor *dy = take(npz, "dy", recurrent_shape(&c, c.hidden * recurrent_directions(&c)), dtype);
    ek_tensor *dh = take(npz, "dh", state, dtype), *dc = take(npz, "dc", state, dtype);
    recurrent_run run = recurrent_run_with(layer, &in, dy, dh, dc);
    compare(&cmp, "y", run.y);
    compare(&cmp, "h", run.h);
    compare(&cmp, "dx", run.dx);
    if (lstm)
        compare(&cmp, "c", run.c);
    else
        ck_assert_ptr_null(run.c);
    if (c.states)
        compare(&cmp, "dh0", run.dh0);
    if (c.states && lstm)
        compare(&cmp, "dc0", run.dc0);
    compare_gradients(&cmp, &list, &run);
    recurrent_run_free(&run);
    recurrent_inputs_free(&in);
    ek_tensor_free(dy);
    ek_tensor_free(dh);
    ek_tensor_free(dc);
    ek_module_free(layer);
}

START_TEST(outputs_states_and_gradients)
{
    ek_npz *npz = golden_open("recurrent.npz");
    char *name = case_name(npz, _i / 2);
    ck_assert_ptr_nonnull(name);
    check(npz, name, _i % 2 ? EK_F64 : EK_F32);
    free(name);
    ek_npz_close(npz);
}
END_TEST

START_TEST(no_case_is_left_out)
{
    ek_npz *npz = golden_open("recurrent.npz");
    char *beyond = case_name(npz, CASES);
    ck_assert_msg(!beyond, "%s is not run", beyond);
    free(beyond);
    ek_npz_close(npz);
}
END_TEST

/* ---- names ------------------------------------------------------------------------------------------------------- */

START_TEST(names_shapes_and_order)
{
    static const char *const prefixes[] = {"state.rnn.", "state.lstm.", "state.gru."};
    ek_npz *npz = golden_open("recurrent.npz");
    for (int cell = 0; cell < CELLS; cell++) {
        recurrent_case c = recurrent_case_of((cell_kind)cell);
        c.input = 4;
        c.hidden = 3;
        c.opts.num_layers = cell == GRU ? 1 : 2;
        c.opts.bidirectional = cell == LSTM;
        c.opts.bias = cell != RNN;
        ek_module *layer = recurrent_layer(&c);
        golden_in_order(layer, (golden_order){.npz = npz, .prefix = prefixes[cell]});
        ek_module_free(layer);
    }
    ek_npz_close(npz);
}
END_TEST

static ek_status compare_draws(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    ek_tensor *theirs = golden_read(user, "init.", name);
    (void)kind;
    golden_alike(name, t, theirs, false);
    ek_tensor_free(theirs);
    return EK_OK;
}

START_TEST(first_values)
{
    ek_npz *npz = golden_open("recurrent.npz");
    ek_module *layer = ek_lstm(30, 40, EK_BATCH_FIRST, NULL);
    ck_made(layer);
    ck_ok(ek_module_init(layer, 1));
    ck_ok(ek_module_visit(layer, compare_draws, npz));
    ek_module_free(layer);
    ek_npz_close(npz);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_golden");
    TCase *tcase = tcase_create("recurrent_golden");
    tcase_add_loop_test(tcase, outputs_states_and_gradients, 0, 2 * CASES);
    tcase_add_test(tcase, no_case_is_left_out);
    tcase_add_test(tcase, names_shapes_and_order);
    tcase_add_test(tcase, first_values);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
