/* The table of a net. */
#include "module.h"

typedef struct row {
    ek_module *module;
    bool was_training;
    bool reached;
    ek_shape shape; /* of its last output */
} row;

typedef struct table {
    ek_watch watch; /* first, so that a watch is its table */
    ek_module *root;
    row *rows; /* in the order of ek_module_next */
    int n;
} table;

static void remember_output(const ek_watch *watch, const ek_module *module, const ek_tensor *x, const ek_tensor *y)
{
    (void)x;
    const table *t = (const table *)watch;
    for (int i = 0; i < t->n; i++)
        if (t->rows[i].module == module) {
            t->rows[i].shape = y->shape;
            t->rows[i].reached = true;
        }
}

static ek_status fill_rows(table *t)
{
    for (ek_module *m = t->root; m; m = ek_module_next(t->root, m))
        t->n++;
    t->rows = ek_alloc_zeroed((size_t)t->n * sizeof *t->rows);
    if (!t->rows)
        return EK_ERR_MEMORY;
    int i = 0;
    for (ek_module *m = t->root; m; m = ek_module_next(t->root, m), i++)
        t->rows[i] = (row){.module = m, .was_training = m->training};
    return EK_OK;
}

/* One evaluation forward on a tape that records nothing and moves nothing. */
static ek_status run_forward(table *t, ek_tensor *example)
{
    ek_tape *tape = ek_tape_new();
    if (!tape)
        return EK_ERR_MEMORY;
    tape->recording = false;
    tape->leaves_modules_alone = true;
    tape->watch = &t->watch;
    ek_module_eval(t->root);
    ek_forward(t->root, tape, example);
    for (int i = 0; i < t->n; i++)
        t->rows[i].module->training = t->rows[i].was_training;
    ek_status status = ek_tape_status(tape);
    ek_tape_free(tape);
    return status;
}

/* ---- what is printed -------------------------------------------------------------------------------------------- */

typedef struct size {
    int64_t numel;
    size_t bytes;
} size;

static size size_of(const ek_slots *slots)
{
    size total = {0, 0};
    for (int i = 0; i < slots->n; i++) {
        total.numel += slots->at[i].tensor->numel;
        total.bytes += ek_tensor_bytes(slots->at[i].tensor);
    }
    return total;
}

static const char *name_of(const table *t, const ek_module *module, char name[EK_NAME_BYTES])
{
    ek_module_name(module, t->root, NULL, name, EK_NAME_BYTES);
    return *name ? name : "-";
}

static const char *shape_of(const row *r, char text[200])
{
    return r->reached ? ek_shape_text(r->shape, text, 200) : "not used";
}

static int wider(int width, const char *text)
{
    return (int)strlen(text) > width ? (int)strlen(text) : width;
}

static void print_rows(const table *t, FILE *out)
{
    char name[EK_NAME_BYTES], shape[200];
    int names = (int)strlen("name"), layers = (int)strlen("layer"), shapes = (int)strlen("output");
    for (int i = 0; i < t->n; i++) {
        names = wider(names, name_of(t, t->rows[i].module, name));
        layers = wider(layers, t->rows[i].module->description);
        shapes = wider(shapes, shape_of(&t->rows[i], shape));
    }
    fprintf(out, "%-*s  %-*s  %-*s  %12s\n", names, "name", layers, "layer", shapes, "output", "parameters");
    for (int i = 0; i < t->n; i++) {
        const row *r = &t->rows[i];
        fprintf(out, "%-*s  %-*s  %-*s  %12lld\n", names, name_of(t, r->module, name), layers, r->module->description,
                shapes, shape_of(r, shape), (long long)size_of(&r->module->parameters).numel);
    }
}

static void print_totals(const table *t, FILE *out)
{
    size parameters = {0, 0}, buffers = {0, 0};
    for (int i = 0; i < t->n; i++) {
        size own = size_of(&t->rows[i].module->parameters), kept = size_of(&t->rows[i].module->buffers);
        parameters = (size){parameters.numel + own.numel, parameters.bytes + own.bytes};
        buffers = (size){buffers.numel + kept.numel, buffers.bytes + kept.bytes};
    }
    int64_t trained = ek_module_count_parameters(t->root);
    fprintf(out, "%lld parameters, %zu bytes", (long long)parameters.numel, parameters.bytes);
    if (trained != parameters.numel)
        fprintf(out, " (%lld trained)", (long long)trained);
    fprintf(out, "; %lld values in buffers, %zu bytes\n", (long long)buffers.numel, buffers.bytes);
}

static void note_of(const row *r, char text[EK_NOTE_BYTES])
{
    text[0] = '\0';
    if (r->module->note)
        r->module->note(r->module, text);
}

/* Each note once, before it the names of the layers that have it. */
static void print_notes(const table *t, FILE *out)
{
    char note[EK_NOTE_BYTES], other[EK_NOTE_BYTES], name[EK_NAME_BYTES];
    for (int i = 0; i < t->n; i++) {
        note_of(&t->rows[i], note);
        bool said = !*note;
        for (int j = 0; j < i && !said; j++) {
            note_of(&t->rows[j], other);
            said = !strcmp(note, other);
        }
        if (said)
            continue;
        fputs(name_of(t, t->rows[i].module, name), out);
        for (int j = i + 1; j < t->n; j++) {
            note_of(&t->rows[j], other);
            if (!strcmp(note, other))
                fprintf(out, ", %s", name_of(t, t->rows[j].module, name));
        }
        fprintf(out, ": %s\n", note);
    }
}

/* A bias right before a layer that takes the mean along the same axis away trains in vain. */
static void print_lost_biases(const table *t, FILE *out)
{
    char name[EK_NAME_BYTES], next_name[EK_NAME_BYTES];
    for (int i = 0; i < t->n; i++) {
        const ek_module *m = t->rows[i].module, *parent = m->parent;
        if (m == t->root || !t->rows[i].reached || !ek_module_is_sequential(parent) ||
            m->index + 1 == parent->num_children)
            continue;
        const ek_module *next = parent->children[m->index + 1];
        int ndim = t->rows[i].shape.ndim;
        if (m->bias_axis && next->centers_axis &&
            ek_axis_resolve(m->bias_axis, ndim) == ek_axis_resolve(next->centers_axis, ndim))
            fprintf(out, "the bias of %s (%s) is cancelled by %s (%s): set opts.bias = false\n", name_of(t, m, name),
                    m->def.type, name_of(t, next, next_name), next->def.type);
    }
}

ek_status ek_module_summary(ek_module *module, ek_tensor *example, FILE *out)
{
    if (!module || !example || !out)
        return ek_fail_null(EK_ERR_ARGUMENT, "module_summary", !module ? "module" : !example ? "example" : "file");
    table t = {.watch.output = remember_output, .root = module};
    ek_status status = fill_rows(&t);
    if (status == EK_OK)
        status = run_forward(&t, example);
    if (status == EK_OK) {
        print_rows(&t, out);
        print_totals(&t, out);
        print_notes(&t, out);
        print_lost_biases(&t, out);
        if (ferror(out))
            status = ek_fail(EK_ERR_IO, "module_summary: writing failed");
    }
    ek_release(t.rows);
    return status;
}
