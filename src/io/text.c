/* Labelled texts: the list itself, made from arrays, looked at, split. */
#include "text.h"
#include "utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists ------------------------------------------------------------------------------------------------------- */

/* Makes room for `need` items; what is there stays. */
static ek_status grow(void **items, size_t *room, size_t need, size_t item_bytes)
{
    if (need <= *room)
        return EK_OK;
    const size_t more = need < 32 ? 64 : 2 * need;
    void *larger = more > SIZE_MAX / 2 / item_bytes ? NULL : ek_alloc(more * item_bytes);
    if (!larger)
        return ek_fail(EK_ERR_MEMORY, "out of memory: the allocator refused room for %zu texts or characters", more);
    if (*room > 0)
        memcpy(larger, *items, *room * item_bytes);
    ek_release(*items);
    *items = larger;
    *room = more;
    return EK_OK;
}

ek_status ek_strings_add(ek_strings *strings, const char *bytes, size_t n)
{
    void *text = strings->bytes, *start = strings->start;
    ek_status status = grow(&text, &strings->room, strings->used + n + 1, 1);
    strings->bytes = text;
    if (status == EK_OK)
        status = grow(&start, &strings->start_room, (size_t)strings->count + 1, sizeof *strings->start);
    strings->start = start;
    if (status != EK_OK)
        return status;
    strings->start[strings->count++] = strings->used;
    memcpy(strings->bytes + strings->used, bytes, n);
    strings->used += n;
    strings->bytes[strings->used++] = '\0';
    return EK_OK;
}

void ek_strings_free(ek_strings *strings)
{
    ek_release(strings->bytes);
    ek_release(strings->start);
    *strings = (ek_strings){0};
}

ek_text *ek_text_new(void)
{
    return ek_alloc_zeroed(sizeof(ek_text));
}

ek_status ek_text_add(ek_text *text, const char *bytes, size_t n, int64_t label)
{
    void *labels = text->labels;
    ek_status status = grow(&labels, &text->labels_room, (size_t)text->texts.count + 1, sizeof *text->labels);
    text->labels = labels;
    if (status != EK_OK)
        return status;
    text->labels[text->texts.count] = label;
    return ek_strings_add(&text->texts, bytes, n);
}

ek_status ek_text_add_class(ek_text *text, const char *name)
{
    return ek_strings_add(&text->classes, name, strlen(name));
}

ek_text *ek_text_finish(ek_text *text, ek_status status)
{
    if (status == EK_OK)
        return text;
    ek_text_free(text);
    return NULL;
}

void ek_text_free(ek_text *text)
{
    if (!text)
        return;
    ek_strings_free(&text->texts);
    ek_strings_free(&text->classes);
    ek_release(text->labels);
    ek_release(text);
}

/* ---- from arrays ------------------------------------------------------------------------------------------------- */

static ek_status check_string(const char *who, const char *what, int64_t i, const char *string)
{
    int64_t count;
    const char *fault;
    if (!string || !*string)
        return ek_fail(EK_ERR_ARGUMENT, "%s: %s %lld is %s: leave it out", who, what, (long long)i,
                       string ? "empty" : "NULL");
    if (!ek_utf8_count(string, strlen(string), &count, &fault))
        return ek_fail(EK_ERR_FORMAT, "%s: %s %lld, character %lld: expected UTF-8, got %s", who, what, (long long)i,
                       (long long)count, fault);
    return EK_OK;
}

static ek_status add_classes(const char *who, ek_text *text, const char *const *names, int64_t n)
{
    for (int64_t c = 0; c < n; c++) {
        ek_status status = check_string(who, "class name", c, names[c]);
        for (int64_t other = 0; status == EK_OK && other < c; other++)
            if (strcmp(names[other], names[c]) == 0)
                status = ek_fail(EK_ERR_ARGUMENT, "%s: classes %lld and %lld are both named '%s'", who,
                                 (long long)other, (long long)c, names[c]);
        if (status == EK_OK)
            status = ek_text_add_class(text, names[c]);
        if (status != EK_OK)
            return status;
    }
    return EK_OK;
}

ek_text *ek_text_from_arrays(const char *const *texts, const int64_t *labels, int64_t n,
                             const char *const *class_names, int64_t num_classes)
{
    static const char who[] = "text_from_arrays";
    if (!texts || !labels || !class_names || n < 1 || num_classes < 1) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected at least one text, its label and the names of the classes, got %s, %s "
                "and %s, %lld texts and %lld classes", who, texts ? "texts" : "NULL", labels ? "labels" : "NULL",
                class_names ? "names" : "NULL", (long long)n, (long long)num_classes);
        return NULL;
    }
    ek_text *text = ek_text_new();
    ek_status status = text ? add_classes(who, text, class_names, num_classes) : EK_ERR_MEMORY;
    for (int64_t i = 0; status == EK_OK && i < n; i++) {
        status = check_string(who, "text", i, texts[i]);
        if (status == EK_OK && (labels[i] < 0 || labels[i] >= num_classes))
            status = ek_fail(EK_ERR_ARGUMENT, "%s: expected labels of 0 to %lld, got %lld for text %lld", who,
                             (long long)num_classes - 1, (long long)labels[i], (long long)i);
        if (status == EK_OK)
            status = ek_text_add(text, texts[i], strlen(texts[i]), labels[i]);
    }
    return ek_text_finish(text, status);
}

/* ---- access ------------------------------------------------------------------------------------------------------ */

int64_t ek_text_size(const ek_text *text)
{
    return text ? text->texts.count : 0;
}

int64_t ek_text_num_classes(const ek_text *text)
{
    return text ? text->classes.count : 0;
}

/* Is there an entry i?  Fails if not. */
static bool has_entry(const char *who, const char *what, int64_t count, int64_t i)
{
    if (i >= 0 && i < count)
        return true;
    ek_fail(EK_ERR_ARGUMENT, "%s: expected %s of 0 to %lld, got %lld", who, what, (long long)count - 1, (long long)i);
    return false;
}

const char *ek_text_class_name(const ek_text *text, int64_t label)
{
    return has_entry("text_class_name", "a class", ek_text_num_classes(text), label) ? ek_string(&text->classes, label)
                                                                                    : NULL;
}

const char *ek_text_at(const ek_text *text, int64_t i)
{
    return has_entry("text_at", "a text", ek_text_size(text), i) ? ek_string(&text->texts, i) : NULL;
}

int64_t ek_text_label(const ek_text *text, int64_t i)
{
    return has_entry("text_label", "a text", ek_text_size(text), i) ? text->labels[i] : -1;
}

/* ---- stratified split -------------------------------------------------------------------------------------------- */

/* One text of a class, sorted by its bytes so that equal ones stand together. */
typedef struct entry {
    const char *text;
    int64_t index;
} entry;

static int by_text(const void *a, const void *b)
{
    return strcmp(((const entry *)a)->text, ((const entry *)b)->text);
}

/* All texts of one class, in groups of equal ones: group g is entries[group[g]] … entries[group[g + 1] − 1]. */
typedef struct class_groups {
    entry *entries;
    int64_t *group, *order; /* [texts + 1], [texts] */
    int64_t n, num_groups;
} class_groups;

static void collect_class(const ek_text *text, int64_t label, class_groups *c)
{
    c->n = c->num_groups = 0;
    for (int64_t i = 0; i < text->texts.count; i++)
        if (text->labels[i] == label)
            c->entries[c->n++] = (entry){ek_string(&text->texts, i), i};
    qsort(c->entries, (size_t)c->n, sizeof *c->entries, by_text);
    for (int64_t i = 0; i < c->n; i++)
        if (i == 0 || strcmp(c->entries[i - 1].text, c->entries[i].text) != 0)
            c->group[c->num_groups++] = i;
    c->group[c->num_groups] = c->n;
}

static void take_group(const class_groups *c, int64_t g, bool *in_test, int64_t *taken)
{
    for (int64_t i = c->group[g]; i < c->group[g + 1]; i++)
        in_test[c->entries[i].index] = true;
    *taken += c->group[g + 1] - c->group[g];
}

/* Groups go into the test set in random order, each that still fits; where none does, the smallest. */
static void choose_test(const class_groups *c, double fraction, ek_rng rng, bool *in_test)
{
    int64_t wanted = (int64_t)floor(fraction * (double)c->n + 0.5), taken = 0;
    wanted = wanted < 1 ? 1 : wanted > c->n - 1 ? c->n - 1 : wanted;
    ek_rng_permutation(&rng, c->num_groups, c->order);
    int64_t smallest = c->order[0];
    for (int64_t i = 0; i < c->num_groups; i++) {
        const int64_t g = c->order[i], size = c->group[g + 1] - c->group[g];
        if (taken + size <= wanted)
            take_group(c, g, in_test, &taken);
        if (size < c->group[smallest + 1] - c->group[smallest])
            smallest = g;
    }
    if (taken == 0)
        take_group(c, smallest, in_test, &taken);
}

static ek_status mark_test(const ek_text *text, double fraction, uint64_t seed, class_groups *c, bool *in_test)
{
    ek_rng seeds = ek_rng_named(seed, "text_split");
    const uint64_t key = ek_rng_u64(&seeds);
    for (int64_t label = 0; label < text->classes.count; label++) {
        const char *name = ek_string(&text->classes, label);
        collect_class(text, label, c);
        if (c->num_groups == 1)
            return ek_fail(EK_ERR_ARGUMENT, "text_split: class '%s' has one text ('%s', %lld times), which cannot be "
                           "on both sides: expected two different ones; add some or leave the class out", name,
                           c->entries[0].text, (long long)c->n);
        if (c->num_groups > 1)
            choose_test(c, fraction, ek_rng_named(key, name), in_test);
    }
    return EK_OK;
}

/* The texts whose mark is `side`, in their order, with all class names. */
static ek_text *copy_side(const ek_text *text, const bool *in_test, bool side)
{
    ek_text *copy = ek_text_new();
    ek_status status = copy ? EK_OK : EK_ERR_MEMORY;
    for (int64_t c = 0; status == EK_OK && c < text->classes.count; c++)
        status = ek_text_add_class(copy, ek_string(&text->classes, c));
    for (int64_t i = 0; status == EK_OK && i < text->texts.count; i++) {
        const char *string = ek_string(&text->texts, i);
        if (in_test[i] == side)
            status = ek_text_add(copy, string, strlen(string), text->labels[i]);
    }
    return ek_text_finish(copy, status);
}

ek_status ek_text_split(const ek_text *text, double test_fraction, uint64_t seed, ek_text **train, ek_text **test)
{
    static const char who[] = "text_split";
    if (!text || !train || !test)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected texts and places for two parts, got NULL for the %s", who,
                       !text ? "texts" : !train ? "training part" : "test part");
    if (!(test_fraction > 0 && test_fraction < 1))
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a test fraction between 0 and 1, got %g", who, test_fraction);
    const size_t n = (size_t)text->texts.count;
    class_groups c = {.entries = ek_alloc(n * sizeof *c.entries), .group = ek_alloc((n + 1) * sizeof *c.group),
                      .order = ek_alloc(n * sizeof *c.order)};
    bool *in_test = ek_alloc_zeroed(n * sizeof *in_test);
    ek_status status = EK_ERR_MEMORY;
    if (c.entries && c.group && c.order && in_test)
        status = mark_test(text, test_fraction, seed, &c, in_test);
    ek_text *parts[2] = {NULL, NULL};
    for (int side = 0; status == EK_OK && side < 2; side++) {
        parts[side] = copy_side(text, in_test, side == 1);
        status = parts[side] ? EK_OK : EK_ERR_MEMORY;
    }
    ek_release(c.entries);
    ek_release(c.group);
    ek_release(c.order);
    ek_release(in_test);
    if (status != EK_OK) {
        ek_text_free(parts[0]);
        return status;
    }
    *train = parts[0];
    *test = parts[1];
    return EK_OK;
}
