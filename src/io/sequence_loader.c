/* Mini-batches of padded sequences.  Texts are encoded once, so that a batch is a matter of copying. */
#include "dataset.h"
#include "epochs.h"
#include "text.h"
#include "utf8.h"

#include <string.h>

struct ek_sequence_loader {
    ek_epochs epochs;
    int64_t num_texts;
    int64_t *lengths; /* [num_texts] */
    int64_t *start;   /* [num_texts]: where a text begins in `symbols` */
    int64_t *labels;  /* [num_texts] */
    int64_t *symbols; /* all texts, one after the other */
    int64_t pad_to;
    ek_tensor *x, *y; /* memory for the largest batch; each batch gives them its own shape */
    int64_t *batch_lengths; /* [largest batch] */
};

ek_sequence_loader_opts ek_sequence_loader_opts_default(void)
{
    return (ek_sequence_loader_opts){.shuffle = true};
}

static ek_status check_options(const char *who, const ek_sequence_loader_opts *o)
{
    if (o->bucket < 0 || o->pad_to < 0 || o->max_steps < 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected bucket, pad_to and max_steps of 0 or more, got %lld, %lld and "
                       "%lld", who, (long long)o->bucket, (long long)o->pad_to, (long long)o->max_steps);
    if (o->truncate && o->max_steps == 0)
        return ek_fail(EK_ERR_ARGUMENT, "%s: truncate needs max_steps, the number of steps to cut texts to, got 0",
                       who);
    if (o->unknown != EK_UNKNOWN_MAP && o->unknown != EK_UNKNOWN_REFUSE)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected unknown to be EK_UNKNOWN_MAP or EK_UNKNOWN_REFUSE, got %d", who,
                       (int)o->unknown);
    return EK_OK;
}

/* ---- encoding ---------------------------------------------------------------------------------------------------- */

/* Which text a failure is about. */
static ek_status refuse_text(ek_status status, const char *who, const ek_text *text, int64_t i, const char *what)
{
    const char *string = ek_string(&text->texts, i);
    const size_t bytes = strlen(string);
    int shown = bytes > 60 ? 60 : (int)bytes;
    while (shown > 0 && (string[shown] & 0xC0) == 0x80) /* not the middle of a character */
        shown--;
    return ek_fail(status, "%s: text %lld, '%.*s%s' of class '%s', %s", who, (long long)i, shown, string,
                   (size_t)shown < bytes ? "…" : "", ek_string(&text->classes, text->labels[i]), what);
}

/* Lengths and places of all texts; *total symbols. */
static ek_status measure(ek_sequence_loader *loader, const char *who, const ek_text *text,
                         const ek_sequence_loader_opts *o, int64_t *total)
{
    *total = 0;
    for (int64_t i = 0; i < loader->num_texts; i++) {
        const char *string = ek_string(&text->texts, i), *fault;
        int64_t length;
        ek_utf8_count(string, strlen(string), &length, &fault);
        if (o->max_steps > 0 && length > o->max_steps && !o->truncate) {
            char what[160];
            snprintf(what, sizeof what, "has %lld characters, more than max_steps, which is %lld: set truncate to cut "
                     "it, or a larger max_steps", (long long)length, (long long)o->max_steps);
            return refuse_text(EK_ERR_ARGUMENT, who, text, i, what);
        }
        loader->lengths[i] = o->max_steps > 0 && length > o->max_steps ? o->max_steps : length;
        loader->labels[i] = text->labels[i];
        loader->start[i] = *total;
        *total += loader->lengths[i];
    }
    return EK_OK;
}

/* Says which character of text i is unknown; one is. */
static ek_status refuse_unknown(const ek_sequence_loader *loader, const char *who, const ek_text *text, int64_t i)
{
    const int64_t *symbols = loader->symbols + loader->start[i];
    const char *at = ek_string(&text->texts, i), *fault;
    uint32_t code = 0;
    int bytes = 0;
    for (int64_t s = 0; s == 0 || symbols[s - 1] != EK_UNKNOWN; s++) {
        at += bytes;
        bytes = ek_utf8_decode(at, strlen(at), &code, &fault);
    }
    char what[160];
    snprintf(what, sizeof what, "holds '%.*s' (U+%04X), which the vocabulary does not: make the vocabulary from these "
             "texts too, or let unknown be EK_UNKNOWN_MAP", bytes, at, (unsigned)code);
    return refuse_text(EK_ERR_ARGUMENT, who, text, i, what);
}

static ek_status encode(ek_sequence_loader *loader, const char *who, const ek_text *text,
                        const ek_vocabulary *vocabulary, const ek_sequence_loader_opts *o)
{
    for (int64_t i = 0; i < loader->num_texts; i++) {
        int64_t *symbols = loader->symbols + loader->start[i];
        if (ek_vocabulary_encode(vocabulary, ek_string(&text->texts, i), symbols, loader->lengths[i]) < 0)
            return ek_last_status();
        for (int64_t s = 0; o->unknown == EK_UNKNOWN_REFUSE && s < loader->lengths[i]; s++)
            if (symbols[s] == EK_UNKNOWN)
                return refuse_unknown(loader, who, text, i);
    }
    return EK_OK;
}

static ek_status take_texts(ek_sequence_loader *loader, const char *who, const ek_text *text,
                            const ek_vocabulary *vocabulary, const ek_sequence_loader_opts *o)
{
    const size_t n = (size_t)text->texts.count;
    int64_t total;
    loader->num_texts = text->texts.count;
    loader->lengths = ek_alloc(n * sizeof *loader->lengths);
    loader->start = ek_alloc(n * sizeof *loader->start);
    loader->labels = ek_alloc(n * sizeof *loader->labels);
    if (!loader->lengths || !loader->start || !loader->labels)
        return EK_ERR_MEMORY;
    ek_status status = measure(loader, who, text, o, &total);
    if (status != EK_OK)
        return status;
    loader->symbols = ek_alloc((size_t)total * sizeof *loader->symbols);
    return loader->symbols ? encode(loader, who, text, vocabulary, o) : EK_ERR_MEMORY;
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

/* Gives the tensors the shape of a batch; their memory is enough for it. */
static void shape_batch(ek_sequence_loader *loader, int64_t n, int64_t steps)
{
    loader->x->shape = EK_SHAPE(n, steps);
    loader->x->numel = n * steps;
    loader->y->shape = EK_SHAPE(n);
    loader->y->numel = n;
}

/* Memory for the largest batch there can be, that of its lengths included: setting them once takes it. */
static ek_status make_memory(ek_sequence_loader *loader)
{
    const int64_t n = ek_epochs_largest(&loader->epochs);
    int64_t steps = loader->pad_to > 1 ? loader->pad_to : 1;
    for (int64_t i = 0; i < loader->num_texts; i++)
        steps = loader->lengths[i] > steps ? loader->lengths[i] : steps;
    loader->x = ek_tensor_new(EK_I64, EK_SHAPE(n, steps));
    loader->y = ek_tensor_new(EK_I64, EK_SHAPE(n));
    loader->batch_lengths = ek_alloc((size_t)n * sizeof *loader->batch_lengths);
    if (!loader->x || !loader->y || !loader->batch_lengths)
        return EK_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++)
        loader->batch_lengths[i] = 1;
    return ek_tensor_set_lengths(loader->x, loader->batch_lengths, n, 0, 1);
}

ek_sequence_loader *ek_sequence_loader_new(const ek_text *text, const ek_vocabulary *vocabulary, int64_t batch_size,
                                           const ek_sequence_loader_opts *opts)
{
    static const char who[] = "sequence_loader";
    if (!text || !vocabulary) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected texts and a vocabulary, got NULL for the %s", who,
                text ? "vocabulary" : "texts");
        return NULL;
    }
    const ek_sequence_loader_opts o = opts ? *opts : ek_sequence_loader_opts_default();
    const ek_loader_opts walk = {.shuffle = o.shuffle, .seed = o.seed, .drop_last = o.drop_last,
                                 .merge_last = o.merge_last};
    if (check_options(who, &o) != EK_OK)
        return NULL;
    ek_sequence_loader *loader = ek_alloc_zeroed(sizeof *loader);
    if (!loader)
        return NULL;
    loader->pad_to = o.pad_to;
    ek_status status = ek_epochs_begin(&loader->epochs, who, text->texts.count, batch_size, &walk);
    if (status == EK_OK)
        status = take_texts(loader, who, text, vocabulary, &o);
    if (status == EK_OK)
        status = ek_epochs_bucket(&loader->epochs, o.bucket, loader->lengths);
    if (status == EK_OK)
        status = make_memory(loader);
    if (status != EK_OK) {
        ek_sequence_loader_free(loader);
        return NULL;
    }
    return loader;
}

void ek_sequence_loader_free(ek_sequence_loader *loader)
{
    if (!loader)
        return;
    int64_t *arrays[] = {loader->lengths, loader->start, loader->labels, loader->symbols, loader->batch_lengths};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        ek_release(arrays[i]);
    ek_tensor_free(loader->x);
    ek_tensor_free(loader->y);
    ek_epochs_end(&loader->epochs);
    ek_release(loader);
}

ek_status ek_sequence_loader_next(ek_sequence_loader *loader, ek_batch *batch)
{
    if (!loader || !batch)
        return ek_fail(EK_ERR_ARGUMENT, "sequence_loader_next: expected a loader and a batch to fill, got NULL");
    const int64_t *indices;
    int64_t n;
    *batch = (ek_batch){0};
    ek_status status = ek_epochs_next(&loader->epochs, &indices, &n);
    if (status != EK_OK)
        return status;
    int64_t steps = loader->pad_to;
    for (int64_t i = 0; i < n; i++) {
        loader->batch_lengths[i] = loader->lengths[indices[i]];
        steps = loader->batch_lengths[i] > steps ? loader->batch_lengths[i] : steps;
    }
    shape_batch(loader, n, steps);
    int64_t *x = loader->x->data, *y = loader->y->data; /* [n][steps], [n] */
    for (int64_t i = 0; i < n; i++) {
        const int64_t length = loader->batch_lengths[i];
        memcpy(x + i * steps, loader->symbols + loader->start[indices[i]], (size_t)length * sizeof *x);
        for (int64_t s = length; s < steps; s++)
            x[i * steps + s] = EK_PADDING;
        y[i] = loader->labels[indices[i]];
    }
    status = ek_tensor_set_lengths(loader->x, loader->batch_lengths, n, 0, 1);
    if (status == EK_OK)
        *batch = (ek_batch){.x = loader->x, .y = loader->y, .size = n, .indices = indices,
                            .lengths = loader->batch_lengths, .steps = steps};
    return status;
}

int64_t ek_sequence_loader_num_batches(const ek_sequence_loader *loader)
{
    return loader ? loader->epochs.num_batches : 0;
}

void ek_sequence_loader_reset(ek_sequence_loader *loader)
{
    if (loader)
        ek_epochs_reset(&loader->epochs);
}

ek_loader_state ek_sequence_loader_get_state(const ek_sequence_loader *loader)
{
    return loader ? loader->epochs.at : (ek_loader_state){0};
}

ek_status ek_sequence_loader_set_state(ek_sequence_loader *loader, ek_loader_state state)
{
    if (!loader)
        return ek_fail(EK_ERR_ARGUMENT, "sequence_loader_set_state: expected a loader, got NULL");
    return ek_epochs_set_state(&loader->epochs, state);
}
