#include "sequences.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- texts ------------------------------------------------------------------------------------------------------- */

/* Takes about n texts of *text, in the proportions of its classes. */
static ek_status keep(ek_text **text, int64_t n, uint64_t seed)
{
    if (n >= ek_text_size(*text))
        return EK_OK;
    ek_text *rest = NULL, *kept = NULL;
    const ek_status status = ek_text_split(*text, (double)n / (double)ek_text_size(*text), seed, &rest, &kept);
    if (status != EK_OK)
        return status;
    ek_text_free(rest);
    ek_text_free(*text);
    *text = kept;
    return EK_OK;
}

static double most_frequent_class(const ek_text *text)
{
    int64_t most = 0;
    for (int64_t c = 0; c < ek_text_num_classes(text); c++) {
        int64_t n = 0;
        for (int64_t i = 0; i < ek_text_size(text); i++)
            n += ek_text_label(text, i) == c;
        most = n > most ? n : most;
    }
    return 100.0 * (double)most / (double)ek_text_size(text);
}

ek_status load_texts(const char *folder, int64_t n_train, int64_t n_test, uint64_t seed, texts *t)
{
    ek_status status = EK_OK;
    *t = (texts){0};
    if (folder) {
        ek_text *all = ek_text_from_folder(folder);
        status = all ? ek_text_split(all, 0.2, seed, &t->train, &t->test) : ek_last_status();
        ek_text_free(all);
        if (status == EK_OK)
            status = keep(&t->train, n_train, seed);
        if (status == EK_OK)
            status = keep(&t->test, n_test, seed);
    } else {
        t->train = ek_text_numerals(n_train, seed, EK_TRAIN);
        t->test = t->train ? ek_text_numerals(n_test, seed, EK_TEST) : NULL;
        status = t->test ? EK_OK : ek_last_status();
    }
    t->vocabulary = status == EK_OK ? ek_vocabulary_from_text(t->train) : NULL;
    if (!t->vocabulary)
        return ek_last_status();
    t->most_frequent = most_frequent_class(t->test);
    return EK_OK;
}

void free_texts(texts *t)
{
    ek_text_free(t->train);
    ek_text_free(t->test);
    ek_vocabulary_free(t->vocabulary);
}

void print_texts(const texts *t, const char *folder)
{
    printf("%lld training and %lld held-out texts of %lld classes (%s), %.1f %% of the most frequent class\n",
           (long long)ek_text_size(t->train), (long long)ek_text_size(t->test),
           (long long)ek_text_num_classes(t->train), folder ? folder : "embedded numerals", t->most_frequent);
}

/* ---- batches ----------------------------------------------------------------------------------------------------- */

ek_sequence_loader *open_texts(const ek_text *text, const ek_vocabulary *vocabulary, int64_t size, int64_t bucket,
                               bool shuffle, uint64_t seed)
{
    ek_sequence_loader_opts opts = ek_sequence_loader_opts_default();
    opts.shuffle = shuffle;
    opts.seed = seed;
    opts.bucket = bucket;
    opts.merge_last = true; /* BatchNorm cannot train on one text */
    opts.pad_to = 2;        /* InstanceNorm refuses tensors of one step, which texts of one letter would be */
    const int64_t n = ek_text_size(text);
    return ek_sequence_loader_new(text, vocabulary, n < size ? n : size, &opts);
}

ek_tensor *pad_to_share(const ek_batch *batch, double share)
{
    int64_t total = 0;
    for (int64_t i = 0; i < batch->size; i++)
        total += batch->lengths[i];
    const int64_t wanted = llround((double)total / ((double)batch->size * (1 - share)));
    const int64_t steps = wanted > batch->steps ? wanted : batch->steps;
    ek_tensor *x = ek_zeros(EK_I64, EK_SHAPE(batch->size, steps)); /* EK_PADDING is 0 */
    if (!x || ek_tensor_set_lengths(x, batch->lengths, batch->size, 0, 1) != EK_OK) {
        ek_tensor_free(x);
        return NULL;
    }
    const int64_t *from = ek_tensor_const_data(batch->x);
    int64_t *to = ek_data_i64(x);
    for (int64_t i = 0; i < batch->size; i++)
        memcpy(to + i * steps, from + i * batch->steps, (size_t)batch->steps * sizeof *to);
    return x;
}

ek_status training_step(ek_module *net, ek_optimizer *optimizer, ek_tape *tape, ek_tensor *x, ek_tensor *y,
                        double *loss)
{
    ek_tensor *l = ek_cross_entropy(tape, ek_forward(net, tape, x), y, NULL);
    ek_status status = ek_backward(tape, l);
    if (status == EK_OK) {
        *loss = ek_item(l);
        status = ek_clip_grad_norm(optimizer, 1, NULL);
    }
    if (status == EK_OK)
        status = ek_optimizer_step(optimizer);
    ek_optimizer_zero_grad(optimizer);
    ek_tape_reset(tape);
    return status;
}

int64_t count_right(ek_module *net, ek_tape *tape, ek_tensor *x, ek_tensor *y)
{
    ek_tensor *logits = ek_forward(net, tape, x);
    const int64_t right = logits ? ek_count_correct(logits, y) : -1;
    ek_tape_reset(tape);
    return right;
}
