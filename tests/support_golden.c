#include "support_golden.h"

ek_npz *golden_open(const char *name)
{
    char path[500];
    snprintf(path, sizeof path, TEST_DATA_DIR "/golden/%s", name);
    ek_npz *npz = ek_npz_open(path);
    ck_made(npz);
    return npz;
}

/* NULL when there is none. */
static ek_tensor *read_if_there(const ek_npz *npz, const char *a, const char *b)
{
    char name[200];
    snprintf(name, sizeof name, "%s%s", a, b);
    if (ek_npz_find(npz, name) < 0)
        return NULL;
    ek_tensor *t = ek_npz_read(npz, name);
    ck_assert_msg(t != NULL, "%s: %s", name, ek_last_error());
    return t;
}

ek_tensor *golden_read(const ek_npz *npz, const char *a, const char *b)
{
    ek_tensor *t = read_if_there(npz, a, b);
    ck_assert_msg(t != NULL, "the archive has no %s%s", a, b);
    return t;
}

static ek_shape shape_of_row(const ek_tensor *rows)
{
    ek_shape shape = ek_tensor_shape(rows);
    ck_assert_int_gt(shape.ndim, 0);
    memmove(shape.dim, shape.dim + 1, (EK_MAX_NDIM - 1) * sizeof *shape.dim);
    shape.ndim--;
    return shape;
}

ek_tensor *golden_row(const ek_tensor *rows, int64_t row, ek_dtype dtype)
{
    const ek_shape shape = shape_of_row(rows);
    const ek_dtype stored = ek_tensor_dtype(rows);
    ck_assert_int_lt(row, ek_tensor_dim(rows, 0));
    const size_t bytes = (size_t)(ek_tensor_numel(rows) / ek_tensor_dim(rows, 0)) * ek_dtype_size(stored);
    ek_tensor *t = ek_from_array(stored, shape, (const char *)ek_tensor_const_data(rows) + (size_t)row * bytes);
    ck_made(t);
    if (stored == EK_F64 && dtype == EK_F32) {
        ek_tensor *narrow = ek_tensor_cast(t, dtype);
        ck_made(narrow);
        ek_tensor_free(t);
        return narrow;
    }
    return t;
}

double golden_tolerance(ek_dtype dtype, const ek_tensor *expected, int64_t terms, double condition)
{
    double scale = 1;
    for (int64_t i = 0; i < ek_tensor_numel(expected); i++)
        scale = fmax(scale, fabs(ek_tensor_at(expected, i)));
    return 4 * sqrt((double)terms) * (dtype == EK_F32 ? 0x1p-24 : 0x1p-52) * scale * condition;
}

/* ---- one case ---------------------------------------------------------------------------------------------------- */

typedef struct run {
    const golden_case *c;
    ek_dtype dtype;
    int64_t row, rows, terms;
    ek_tensor *x[GOLDEN_INPUTS];         /* all rows */
    ek_tensor *dx[GOLDEN_INPUTS];        /* NULL for an int64 input */
    int inputs;
    ek_tensor *y, *dy;
    ek_tensor *parameters, *gradients, *buffers; /* NULL where there are none */
    ek_module *module;
} run;

static void close_to(const run *r, const char *what, const ek_tensor *ours, const ek_tensor *expected)
{
    char label[200];
    snprintf(label, sizeof label, "%s, %s, row %lld: %s", r->c->name, ek_dtype_name(r->dtype), (long long)r->row, what);
    assert_close(label, ours, expected, 0, golden_tolerance(r->dtype, expected, r->terms, r->c->condition));
}

/* The shared array "<kind> <shape>" of a row of `like`. */
static ek_tensor *read_shared(const ek_npz *npz, const char *kind, const ek_tensor *like)
{
    char key[40], shape[200];
    snprintf(key, sizeof key, "%s ", kind);
    return golden_read(npz, key, ek_shape_text(shape_of_row(like), shape, sizeof shape));
}

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static run read_case(const ek_npz *npz, const golden_case *c, ek_dtype dtype)
{
    run r = {.c = c, .dtype = dtype};
    r.y = golden_read(npz, c->name, ".y");
    r.rows = ek_tensor_dim(r.y, 0);
    r.dy = read_shared(npz, "dy", r.y);
    r.parameters = read_if_there(npz, c->name, ".p");
    r.gradients = read_if_there(npz, c->name, ".g");
    r.buffers = read_if_there(npz, c->name, ".b");
    r.terms = ek_tensor_numel(r.y) / r.rows;
    for (int i = 0; i < GOLDEN_INPUTS; i++) {
        char kind[8] = {'x', (char)('0' + i)}, own[8], gradient[8];
        snprintf(own, sizeof own, ".%s", kind);
        snprintf(gradient, sizeof gradient, ".d%s", kind);
        r.dx[i] = read_if_there(npz, c->name, gradient);
        r.x[i] = read_if_there(npz, c->name, own);
        if (!r.x[i] && r.dx[i])
            r.x[i] = read_shared(npz, kind, r.dx[i]);
        if (!r.x[i])
            break;
        r.terms = larger(r.terms, ek_tensor_numel(r.x[i]) / ek_tensor_dim(r.x[i], 0));
        r.inputs++;
    }
    ck_assert_msg(r.inputs > 0, "%s has no input", c->name);
    return r;
}

static void free_case(run *r)
{
    for (int i = 0; i < GOLDEN_INPUTS; i++) {
        ek_tensor_free(r->x[i]);
        ek_tensor_free(r->dx[i]);
    }
    ek_tensor *all[] = {r->y, r->dy, r->parameters, r->gradients, r->buffers};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ek_tensor_free(all[i]);
    ek_module_free(r->module);
}

/* Walks over the module's tensors and over a row of all of them. */
typedef struct walk {
    const run *r;
    const ek_tensor *all;
    int64_t row, at;
    ek_state_kind kind;
    enum { WRITE, COMPARE_VALUE, COMPARE_GRADIENT } action;
} walk;

static void compare_part(const walk *w, const char *name, const ek_tensor *ours, const ek_tensor *expected)
{
    if (ek_tensor_dtype(ours) == EK_I64)
        ck_assert_msg(ek_item(ours) == ek_item(expected), "%s: %s is %g, expected %g", w->r->c->name, name,
                      ek_item(ours), ek_item(expected));
    else
        close_to(w->r, name, ours, expected);
}

static ek_status visit(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    walk *w = user;
    const bool counter = strcmp(name, "num_batches_tracked") == 0;
    if (kind != w->kind)
        return EK_OK;
    const int64_t n = ek_tensor_numel(t), row_length = ek_tensor_dim(w->all, -1);
    if (counter && w->at == row_length) /* PyTorch's InstanceNorm never counts; ours does, on purpose */
        return EK_OK;
    ck_assert_msg(w->at + n <= row_length, "%s: PyTorch has no %s", w->r->c->name, name);
    ek_tensor *row = w->action == WRITE ? ek_tensor_clone(w->all) : golden_row(w->all, w->row, EK_F64);
    ck_made(row);
    ek_tensor *part = ek_from_array(EK_F64, ek_tensor_shape(t), ek_data_f64(row) + w->at);
    ck_made(part);
    w->at += n;
    if (w->action == WRITE) {
        ek_tensor *values = ek_tensor_cast(part, w->r->dtype);
        ck_made(values);
        ck_ok(ek_tensor_write(t, ek_tensor_data(values), (size_t)n * ek_dtype_size(w->r->dtype)));
        ek_tensor_free(values);
    } else if (w->action == COMPARE_VALUE) {
        compare_part(w, name, t, part);
    } else {
        char what[100];
        snprintf(what, sizeof what, "gradient of %s", name);
        ck_assert_msg(ek_tensor_grad(t) != NULL, "%s: no %s", w->r->c->name, what);
        compare_part(w, what, ek_tensor_grad(t), part);
    }
    ek_tensor_free(part);
    ek_tensor_free(row);
    return EK_OK;
}

/* All of one kind, which must be as many numbers as PyTorch has. */
static void walk_over(walk w)
{
    if (!w.all)
        w.all = ek_zeros(EK_F64, w.action == WRITE ? EK_SHAPE(0) : EK_SHAPE(w.r->rows + 1, 0));
    else
        ck_ok(ek_tensor_retain((ek_tensor *)w.all) ? EK_OK : EK_ERR_STATE);
    ck_ok(ek_module_visit(w.r->module, visit, &w));
    ck_assert_msg(w.at == ek_tensor_dim(w.all, -1), "%s: %lld numbers, PyTorch has %lld", w.r->c->name, (long long)w.at,
                  (long long)ek_tensor_dim(w.all, -1));
    ek_tensor_free((ek_tensor *)w.all);
}

/* Forward and backward on row r->row; returns the output's copy. */
static ek_tensor *run_row(run *r)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x[GOLDEN_INPUTS] = {0}, *dy = golden_row(r->dy, r->row, r->dtype);
    for (int i = 0; i < r->inputs; i++) {
        x[i] = golden_row(r->x[i], r->row, r->dtype);
        if (r->dx[i])
            ck_ok(ek_tensor_set_requires_grad(x[i], true));
    }
    ek_module_clear_grad(r->module);
    ek_tensor *y = r->module ? ek_forward(r->module, tape, x[0]) : r->c->call(tape, x);
    ck_assert_msg(y != NULL, "%s: %s", r->c->name, ek_last_error());
    ek_tensor *expected = golden_row(r->y, r->row, EK_F64), *copy = ek_tensor_clone(y);
    char ours[200], theirs[200];
    ck_assert_str_eq(ek_shape_text(ek_tensor_shape(y), ours, sizeof ours),
                     ek_shape_text(ek_tensor_shape(expected), theirs, sizeof theirs));
    ck_assert_int_eq(ek_tensor_dtype(y), r->dtype);
    close_to(r, "y", y, expected);
    ek_tensor_free(expected);
    ck_ok(ek_backward_from(tape, y, dy));
    for (int i = 0; i < r->inputs; i++)
        if (r->dx[i]) {
            char what[40];
            snprintf(what, sizeof what, "gradient of x%d", i);
            expected = golden_row(r->dx[i], r->row, EK_F64);
            close_to(r, what, ek_tensor_grad(x[i]), expected);
            ek_tensor_free(expected);
        }
    for (int i = 0; i < r->inputs; i++)
        ek_tensor_free(x[i]);
    ek_tensor_free(dy);
    ek_tape_free(tape);
    return copy;
}

static void run_module_rows(run *r)
{
    r->module = r->c->make();
    ck_assert_msg(r->module != NULL, "%s: %s", r->c->name, ek_last_error());
    ck_ok(ek_module_to(r->module, r->dtype));
    walk_over((walk){.r = r, .all = r->parameters, .kind = EK_PARAMETER, .action = WRITE});
    walk_over((walk){.r = r, .all = r->buffers, .kind = EK_BUFFER, .action = COMPARE_VALUE});
    for (r->row = 0; r->row < r->rows; r->row++) {
        if (r->rows > 1 && r->row == r->rows - 1)
            ek_module_eval(r->module);
        ek_tensor_free(run_row(r));
        walk_over((walk){.r = r, .all = r->gradients, .row = r->row, .kind = EK_PARAMETER, .action = COMPARE_GRADIENT});
        walk_over((walk){.r = r, .all = r->buffers, .row = r->row + 1, .kind = EK_BUFFER, .action = COMPARE_VALUE});
    }
    if (r->rows == 1) {
        r->row = 0;
        ek_tensor *training = run_row(r);
        ek_module_eval(r->module);
        ek_tensor *evaluation = run_row(r);
        ck_assert_msg(ek_tensor_equal(training, evaluation), "%s: other bits in evaluation", r->c->name);
        ek_tensor_free(training);
        ek_tensor_free(evaluation);
    }
}

void golden_check(const ek_npz *npz, const golden_case *c, ek_dtype dtype)
{
    run r = read_case(npz, c, dtype);
    if (c->make)
        run_module_rows(&r);
    else
        ek_tensor_free(run_row(&r));
    free_case(&r);
}

void golden_check_complete(const ek_npz *npz, const golden_case *cases, int n)
{
    int outputs = 0;
    for (int64_t i = 0; i < ek_npz_count(npz); i++) {
        const char *name = ek_npz_name(npz, i), *dot = strrchr(name, '.');
        if (!dot || strcmp(dot, ".y") != 0)
            continue;
        int found = 0;
        for (int k = 0; k < n; k++)
            found += strlen(cases[k].name) == (size_t)(dot - name) &&
                     memcmp(cases[k].name, name, (size_t)(dot - name)) == 0;
        ck_assert_msg(found == 1, "%s stands %d times in the table of cases", name, found);
        outputs++;
    }
    ck_assert_int_eq(outputs, n);
}

/* ---- names and first values -------------------------------------------------------------------------------------- */

static bool has_prefix(const golden_order *order)
{
    return order->next < ek_npz_count(order->npz) &&
           strncmp(ek_npz_name(order->npz, order->next), order->prefix, strlen(order->prefix)) == 0;
}

static ek_status visit_in_order(void *user, const char *name, ek_tensor *t, ek_state_kind kind)
{
    golden_order *order = user;
    char ours[200], theirs[200];
    (void)kind;
    ck_assert_msg(has_prefix(order), "PyTorch's state_dict ends before %s", name);
    ck_assert_str_eq(name, ek_npz_name(order->npz, order->next) + strlen(order->prefix));
    ek_tensor *golden = ek_npz_read_at(order->npz, order->next++);
    ck_made(golden);
    ck_assert_msg(strcmp(ek_shape_text(ek_tensor_shape(t), ours, sizeof ours),
                         ek_shape_text(ek_tensor_shape(golden), theirs, sizeof theirs)) == 0,
                  "%s is %s, PyTorch's %s", name, ours, theirs);
    ck_assert_int_eq(ek_tensor_dtype(t) == EK_I64, ek_tensor_dtype(golden) == EK_I64);
    if (order->each)
        order->each(order, t, golden, name);
    ek_tensor_free(golden);
    return EK_OK;
}

void golden_in_order(ek_module *net, golden_order order)
{
    while (order.next < ek_npz_count(order.npz) && !has_prefix(&order))
        order.next++;
    ck_ok(ek_module_visit(net, visit_in_order, &order));
    ck_assert_msg(!has_prefix(&order), "only PyTorch's state_dict has %s", ek_npz_name(order.npz, order.next));
}

void golden_alike(const char *name, const ek_tensor *ours, const ek_tensor *theirs, bool normal)
{
    const double n = (double)ek_tensor_numel(ours), largest = ek_tensor_at(theirs, 0), std = ek_tensor_at(theirs, 2);
    double most = 0, sum = 0, squares = 0;
    for (int64_t i = 0; i < ek_tensor_numel(ours); i++) {
        double v = ek_tensor_at(ours, i);
        most = fmax(most, fabs(v));
        sum += v;
        squares += v * v;
    }
    const double mean = sum / n, ours_std = sqrt(fmax(0, squares / n - mean * mean));
    const double error = std > 0 ? 12 * std / sqrt(n) : 0;
    const double span = std == 0 ? 0 : normal ? 6 * std / 4 : 12 * largest / n;
    ck_assert_msg(fabs(mean - ek_tensor_at(theirs, 1)) <= error, "%s: mean %g, PyTorch's %g", name, mean,
                  ek_tensor_at(theirs, 1));
    ck_assert_msg(fabs(ours_std - std) <= error, "%s: standard deviation %g, PyTorch's %g", name, ours_std, std);
    ck_assert_msg(fabs(most - largest) <= span, "%s: largest magnitude %g, PyTorch's %g", name, most, largest);
}
