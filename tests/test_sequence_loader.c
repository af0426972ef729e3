/* Vocabularies, and mini-batches of padded sequences. */
#include "support_files.h"

/* ---- vocabularies ------------------------------------------------------------------------------------------------ */

static ek_text *make_text(const char *const *texts, int64_t n)
{
    static const char *names[] = {"even", "odd"};
    int64_t *labels = malloc((size_t)n * sizeof *labels);
    for (int64_t i = 0; i < n; i++)
        labels[i] = i % 2;
    ek_text *text = ek_text_from_arrays(texts, labels, n, names, 2);
    ck_made(text);
    free(labels);
    return text;
}

START_TEST(vocabulary_there_and_back)
{
    ek_text *text = make_text((const char *[]){"née", "a😀b", "a n"}, 3);
    ek_vocabulary *vocabulary = ek_vocabulary_from_text(text);
    ck_made(vocabulary);
    ck_assert_int_eq(ek_vocabulary_size(vocabulary), 9); /* ' ' a b e n é 😀 from 2 on */
    int64_t symbols[8] = {-7, -7, -7, -7, -7, -7, -7, -7};
    const int64_t expected[] = {2, 3, 4, 5, 6, 7, 8, 1};
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, " abené😀x", symbols, 8), 8);
    ck_assert_mem_eq(symbols, expected, sizeof expected);
    symbols[2] = -7;
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "née", symbols, 2), 3); /* two are written, three there are */
    ck_assert(symbols[0] == 6 && symbols[1] == 7 && symbols[2] == -7);
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "née", NULL, 0), 3);
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "", NULL, 0), 0);

    char bytes[32];
    const int64_t some[] = {8, 0, 1, 7, 0};
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, some, 5, bytes, sizeof bytes), 9);
    ck_assert_str_eq(bytes, "😀\uFFFDé");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, some, 5, bytes, 9), 9); /* whole characters and a NUL fit */
    ck_assert_str_eq(bytes, "😀\uFFFD");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, some, 5, bytes, 4), 9);
    ck_assert_str_eq(bytes, "");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, some, 5, NULL, 0), 9);

    const int64_t all[] = {8, 7, 6, 5, 4, 3, 2, 2}; /* its characters make it again */
    ek_vocabulary_decode(vocabulary, all, 8, bytes, sizeof bytes);
    ek_vocabulary *again = ek_vocabulary_from_characters(bytes);
    ck_assert_int_eq(ek_vocabulary_size(again), 9);
    ck_assert_int_eq(ek_vocabulary_encode(again, " abené😀x", symbols, 8), 8);
    ck_assert_mem_eq(symbols, expected, sizeof expected);
    ek_vocabulary_free(again);
    again = ek_vocabulary_from_characters("");
    ck_assert_int_eq(ek_vocabulary_size(again), 2);
    ek_vocabulary_free(again);
    ek_vocabulary_free(vocabulary);
    ek_vocabulary_free(NULL);
    ek_text_free(text);
}
END_TEST

START_TEST(vocabulary_errors)
{
    ck_refused(EK_ERR_ARGUMENT, "vocabulary_from_text: expected texts, got NULL", ek_vocabulary_from_text(NULL));
    ck_refused(EK_ERR_ARGUMENT, "vocabulary_from_characters: expected a string, got NULL",
               ek_vocabulary_from_characters(NULL));
    ck_refused(EK_ERR_FORMAT, "vocabulary_from_characters: character 3: expected UTF-8, got an overlong form",
               ek_vocabulary_from_characters("ab\xC0\x80"));
    ek_vocabulary *vocabulary = ek_vocabulary_from_characters("ab");
    int64_t symbols[2];
    char bytes[8];
    ck_assert_int_eq(ek_vocabulary_encode(NULL, "a", symbols, 2), -1);
    ck_error(EK_ERR_ARGUMENT, "vocabulary_encode: expected a vocabulary and room for symbols, got NULL and room of 2");
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "a", NULL, 2), -1);
    ck_error(EK_ERR_ARGUMENT, "got one and NULL of 2");
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "a", symbols, -1), -1);
    ck_error(EK_ERR_ARGUMENT, "got one and room of -1");
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, NULL, symbols, 2), -1);
    ck_error(EK_ERR_ARGUMENT, "vocabulary_encode: expected a string, got NULL");
    ck_assert_int_eq(ek_vocabulary_encode(vocabulary, "a\xE2\x82", symbols, 2), -1);
    ck_error(EK_ERR_FORMAT, "vocabulary_encode: character 2: expected UTF-8, got a sequence cut short by the end");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, (int64_t[]){2, 4}, 2, bytes, 8), -1);
    ck_error(EK_ERR_ARGUMENT, "vocabulary_decode: expected symbols of 0 to 3, got 4 at place 1");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, (int64_t[]){-1}, 1, bytes, 8), -1);
    ck_error(EK_ERR_ARGUMENT, "got -1 at place 0");
    ck_assert_int_eq(ek_vocabulary_decode(NULL, symbols, 2, bytes, 8), -1);
    ck_error(EK_ERR_ARGUMENT, "vocabulary_decode: expected a vocabulary, symbols and room for bytes, got NULL, symbols "
             "of 2 and room of 8");
    ck_assert_int_eq(ek_vocabulary_decode(vocabulary, NULL, 2, NULL, 8), -1);
    ck_error(EK_ERR_ARGUMENT, "got one, NULL of 2 and NULL of 8");
    ck_assert_int_eq(ek_vocabulary_size(NULL), 0);
    ek_vocabulary_free(vocabulary);
}
END_TEST

/* ---- batches ----------------------------------------------------------------------------------------------------- */

enum { MOST = 600, LONGEST = 40 };

/* Text i is its own number and then x's, `length(i)` characters in all, at least 3. */
static int64_t varied_length(int64_t i)
{
    return 3 + (i * i * 7 + i * 13) % (LONGEST - 2);
}

static ek_text *varied_text(int64_t n)
{
    static char bytes[MOST][LONGEST + 1];
    static const char *texts[MOST];
    for (int64_t i = 0; i < n; i++) {
        memset(bytes[i], 'x', LONGEST);
        bytes[i][varied_length(i)] = '\0';
        for (int64_t digit = 2, rest = i; digit >= 0; digit--, rest /= 10)
            bytes[i][digit] = (char)('0' + rest % 10);
        texts[i] = bytes[i];
    }
    return make_text(texts, n);
}

static ek_sequence_loader *make_loader(int64_t n, int64_t batch_size, ek_sequence_loader_opts opts)
{
    ek_text *text = varied_text(n);
    ek_vocabulary *vocabulary = ek_vocabulary_from_characters("0123456789x");
    ek_sequence_loader *loader = ek_sequence_loader_new(text, vocabulary, batch_size, &opts);
    ck_made(loader);
    ek_text_free(text); /* the loader needs neither */
    ek_vocabulary_free(vocabulary);
    return loader;
}

/* What an epoch gave: samples in their order, sizes and steps of batches, all elements of x and the valid ones. */
typedef struct epoch {
    int64_t order[MOST], sizes[MOST], steps[MOST];
    int64_t samples, batches, elements, valid;
} epoch;

static double padding_share(const epoch *e)
{
    return 1 - (double)e->valid / (double)e->elements;
}

/* Everything that has to be right about a batch; returns nothing but what it adds to the epoch. */
static void check_batch(const ek_batch *batch, int64_t pad_to, epoch *e)
{
    const int64_t n = batch->size, steps = batch->steps;
    const ek_lengths *carried = ek_tensor_lengths(batch->x);
    int64_t longest = pad_to;
    ck_assert_int_eq(ek_tensor_ndim(batch->x), 2);
    ck_assert(ek_tensor_dim(batch->x, 0) == n && ek_tensor_dim(batch->x, 1) == steps);
    ck_assert_int_eq(ek_tensor_numel(batch->x), n * steps);
    ck_assert(ek_tensor_ndim(batch->y) == 1 && ek_tensor_numel(batch->y) == n);
    ck_assert(carried && carried->n == n && carried->steps == steps && carried->leading);
    ck_assert(carried->batch_axis == 0 && carried->time_axis == 1);
    for (int64_t i = 0; i < n; i++) {
        const int64_t *row = ek_data_i64(batch->x) + i * steps, length = batch->lengths[i];
        const int64_t sample = (row[0] - 2) * 100 + (row[1] - 2) * 10 + row[2] - 2; /* '0' is symbol 2 */
        ck_assert_int_eq(batch->indices[i], sample);
        ck_assert_int_eq(length, varied_length(sample));
        ck_assert_int_eq(carried->length[i], length);
        ck_assert_int_eq(ek_data_i64(batch->y)[i], sample % 2);
        for (int64_t s = 3; s < steps; s++)
            ck_assert_int_eq(row[s], s < length ? 12 : EK_PADDING);
        longest = length > longest ? length : longest;
        e->order[e->samples++] = sample;
        e->valid += length;
    }
    ck_assert_int_eq(steps, longest);
    e->elements += n * steps;
    e->sizes[e->batches] = n;
    e->steps[e->batches++] = steps;
}

static epoch run_epoch(ek_sequence_loader *loader, int64_t pad_to)
{
    epoch e = {.samples = 0};
    ek_batch batch;
    ek_status status;
    while ((status = ek_sequence_loader_next(loader, &batch)) == EK_OK)
        check_batch(&batch, pad_to, &e);
    ck_assert_int_eq(status, EK_DONE);
    ck_assert(!batch.x && !batch.y && batch.size == 0 && !batch.lengths);
    ck_assert_int_eq(e.batches, ek_sequence_loader_num_batches(loader));
    bool seen[MOST] = {false};
    for (int64_t i = 0; i < e.samples; i++) {
        ck_assert(!seen[e.order[i]]);
        seen[e.order[i]] = true;
    }
    return e;
}

START_TEST(batches_are_padded)
{
    ek_sequence_loader_opts opts = ek_sequence_loader_opts_default();
    ck_assert(opts.shuffle && !opts.drop_last && !opts.merge_last && opts.seed == 0 && opts.bucket == 0 &&
              opts.pad_to == 0 && opts.max_steps == 0 && !opts.truncate && opts.unknown == EK_UNKNOWN_MAP);
    ek_sequence_loader *loader = make_loader(100, 8, opts);
    const epoch first = run_epoch(loader, 0), second = run_epoch(loader, 0);
    ck_assert(first.samples == 100 && first.batches == 13 && first.sizes[12] == 4);
    ck_assert(memcmp(first.order, second.order, sizeof first.order) != 0);
    ek_sequence_loader_reset(loader);
    const epoch again = run_epoch(loader, 0);
    ck_assert_mem_eq(&first, &again, sizeof first);
    ek_sequence_loader_free(loader);
    ek_sequence_loader_free(NULL);

    opts.pad_to = 20; /* at least so many steps; longer texts stay whole */
    loader = make_loader(100, 8, opts);
    const epoch padded = run_epoch(loader, 20);
    ck_assert_mem_eq(padded.order, first.order, sizeof first.order);
    ek_sequence_loader_free(loader);
    opts.pad_to = 70;
    opts.shuffle = false;
    loader = make_loader(100, 8, opts);
    const epoch wide = run_epoch(loader, 70);
    ck_assert_int_eq(wide.elements, 70 * 100);
    for (int64_t i = 0; i < 100; i++)
        ck_assert_int_eq(wide.order[i], i);
    ek_sequence_loader_free(loader);
}
END_TEST

/* Both loaders walk alike: the same samples in the same order. */
START_TEST(same_order_as_the_other_loader)
{
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(53, 1)), *y = ek_zeros(EK_I64, EK_SHAPE(53));
    ek_dataset *data = ek_dataset_from_tensors(x, y, 2);
    ek_tensor_free(x);
    ek_tensor_free(y);
    const bool choices[][2] = {{false, false}, {true, false}, {false, true}};
    for (int c = 0; c < 3; c++) {
        const ek_loader_opts opts = {.shuffle = true, .seed = 9, .drop_last = choices[c][0],
                                     .merge_last = choices[c][1]};
        const ek_sequence_loader_opts sequence_opts = {.shuffle = true, .seed = 9, .drop_last = choices[c][0],
                                                       .merge_last = choices[c][1]};
        ek_loader *loader = ek_loader_new(data, 4, &opts); /* 53 = 13·4 + 1 */
        ek_sequence_loader *sequences = make_loader(53, 4, sequence_opts);
        ek_batch a, b;
        for (int64_t batch = 0; batch < 3 * (ek_loader_num_batches(loader) + 1); batch++) {
            ck_assert_int_eq(ek_loader_next(loader, &a), ek_sequence_loader_next(sequences, &b));
            ck_assert_int_eq(a.size, b.size);
            ck_assert(a.steps == 0 && !a.lengths);
            for (int64_t i = 0; i < a.size; i++)
                ck_assert_int_eq(a.indices[i], b.indices[i]);
        }
        ek_loader_free(loader);
        ek_sequence_loader_free(sequences);
    }
    ek_dataset_free(data);
}
END_TEST

/* ---- buckets ----------------------------------------------------------------------------------------------------- */

static bool ascending(const int64_t *steps, int64_t n)
{
    for (int64_t i = 1; i < n; i++)
        if (steps[i] < steps[i - 1])
            return false;
    return true;
}

START_TEST(buckets_hold_equal_lengths)
{
    double share[4];
    static const int64_t buckets[] = {0, 2, 8, 1000000};
    for (int b = 0; b < 4; b++) {
        ek_sequence_loader_opts opts = ek_sequence_loader_opts_default();
        opts.bucket = buckets[b];
        ek_sequence_loader *loader = make_loader(600, 20, opts);
        const epoch first = run_epoch(loader, 0), second = run_epoch(loader, 0);
        share[b] = padding_share(&first);
        ck_assert(first.samples == 600 && second.samples == 600);
        ck_assert(memcmp(first.order, second.order, sizeof first.order) != 0);
        ck_assert(!ascending(first.steps, first.batches)); /* batches come in random order */
        ek_sequence_loader_free(loader);
    }
    printf("padding in 30 batches of 20: %.1f %% without buckets, %.1f %% in windows of 2 batches, %.1f %% of 8, "
           "%.1f %% of all\n", 100 * share[0], 100 * share[1], 100 * share[2], 100 * share[3]);
    /* Lengths are nearly uniform on 3 … 40: batches of 20 random ones are padded to about 38.6 of a mean of 21.  In a
     * window of k batches the sorted ones differ by 37/k within a batch, half of which is padding. */
    ck_assert_double_gt(share[0], 0.40);
    ck_assert(share[1] < 0.32 && share[1] > 0.2);
    ck_assert(share[2] < 0.12 && share[2] > 0.05);
    ck_assert_double_lt(share[3], 0.04);
}
END_TEST

START_TEST(buckets_in_order)
{
    /* Without shuffling: windows of the file's order, each ascending, equals in the order they were in. */
    ek_sequence_loader_opts opts = {.bucket = 5};
    ek_sequence_loader *loader = make_loader(230, 10, opts);
    const epoch e = run_epoch(loader, 0);
    for (int64_t i = 0; i < 230; i++) {
        ck_assert_int_eq(e.order[i] / 50, i / 50); /* four windows of 50 and one of 30 */
        if (i % 50 == 0)
            continue;
        const int64_t last = varied_length(e.order[i - 1]), length = varied_length(e.order[i]);
        ck_assert(last < length || (last == length && e.order[i - 1] < e.order[i]));
    }
    ek_sequence_loader_free(loader);
}
END_TEST

/* The last batch, and what drop_last leaves out, are the same samples as without buckets. */
START_TEST(buckets_leave_the_last_batch_alone)
{
    for (int choice = 0; choice < 3; choice++)
        for (int64_t n = 81; n <= 83; n += 2) { /* 8 batches and 1, or 3, more */
            ek_sequence_loader_opts opts = {.shuffle = true, .seed = 3, .drop_last = choice == 1,
                                            .merge_last = choice == 2};
            ek_sequence_loader *plain = make_loader(n, 10, opts);
            opts.bucket = 3;
            ek_sequence_loader *bucketed = make_loader(n, 10, opts);
            const epoch a = run_epoch(plain, 0), b = run_epoch(bucketed, 0);
            ck_assert(a.samples == b.samples && a.batches == b.batches);
            ck_assert_mem_eq(a.sizes, b.sizes, sizeof a.sizes);
            const int64_t last = a.sizes[a.batches - 1];
            if (last != 10)
                ck_assert_mem_eq(a.order + a.samples - last, b.order + b.samples - last,
                                 (size_t)last * sizeof *a.order);
            bool sampled[MOST] = {false};
            for (int64_t i = 0; i < a.samples; i++)
                sampled[a.order[i]] = true;
            for (int64_t i = 0; i < b.samples; i++)
                ck_assert(sampled[b.order[i]]);
            ek_sequence_loader_free(plain);
            ek_sequence_loader_free(bucketed);
        }
}
END_TEST

/* Over many epochs a sample meets all others and stands everywhere: the order stays random. */
START_TEST(buckets_stay_random)
{
    ek_sequence_loader_opts opts = {.shuffle = true, .bucket = 4};
    ek_sequence_loader *loader = make_loader(80, 10, opts);
    int64_t places[8] = {0};
    enum { EPOCHS = 400 };
    for (int e = 0; e < EPOCHS; e++) {
        const epoch run = run_epoch(loader, 0);
        for (int64_t i = 0; i < 80; i++)
            if (run.order[i] == 7)
                places[i / 10]++;
    }
    for (int b = 0; b < 8; b++) /* binomial, mean 50, standard deviation 6.6: five of them */
        ck_assert_msg(places[b] > 17 && places[b] < 83, "batch %d: %lld times of 50 expected", b, (long long)places[b]);
    ek_sequence_loader_free(loader);
}
END_TEST

/* ---- going on ---------------------------------------------------------------------------------------------------- */

START_TEST(state_goes_on_where_it_was)
{
    ek_sequence_loader_opts opts = {.shuffle = true, .seed = 7, .bucket = 2, .merge_last = true};
    ek_sequence_loader *loader = make_loader(61, 6, opts);
    const epoch first = run_epoch(loader, 0);
    ek_batch batch;
    ck_ok(ek_sequence_loader_next(loader, &batch));
    ck_ok(ek_sequence_loader_next(loader, &batch));
    ek_loader_state state = ek_sequence_loader_get_state(loader);
    ck_assert(state.seed == 7 && state.epoch == 1 && state.batch == 2);
    epoch rest = {.samples = 0}, resumed = {.samples = 0};
    while (ek_sequence_loader_next(loader, &batch) == EK_OK)
        check_batch(&batch, 0, &rest);
    ek_sequence_loader_free(loader);

    opts.seed = 0; /* the seed comes with the state */
    loader = make_loader(61, 6, opts);
    ck_ok(ek_sequence_loader_set_state(loader, state));
    while (ek_sequence_loader_next(loader, &batch) == EK_OK)
        check_batch(&batch, 0, &resumed);
    ck_assert_int_eq(resumed.samples, 49);
    ck_assert_mem_eq(&rest, &resumed, sizeof rest);
    ck_ok(ek_sequence_loader_set_state(loader, (ek_loader_state){.seed = 7}));
    const epoch again = run_epoch(loader, 0);
    ck_assert_mem_eq(&first, &again, sizeof first);

    ck_assert_int_eq(ek_sequence_loader_set_state(loader, (ek_loader_state){.batch = 11}), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "sequence_loader_set_state: expected an epoch of 0 or more and a batch of 0 to 10, got "
             "epoch 0 and batch 11");
    ck_assert_int_eq(ek_sequence_loader_set_state(loader, (ek_loader_state){.epoch = -1}), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_sequence_loader_get_state(loader).epoch, 1); /* nothing has moved */
    ck_assert_int_eq(ek_sequence_loader_set_state(NULL, state), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "sequence_loader_set_state: expected a loader, got NULL");
    ck_assert_int_eq(ek_sequence_loader_get_state(NULL).epoch, 0);
    ck_assert_int_eq(ek_sequence_loader_num_batches(NULL), 0);
    ek_sequence_loader_reset(NULL);
    ek_sequence_loader_free(loader);
}
END_TEST

/* ---- options and errors ------------------------------------------------------------------------------------------ */

START_TEST(long_texts)
{
    ek_text *text = make_text((const char *[]){"ab", "abcdé", "abc"}, 3);
    ek_vocabulary *vocabulary = ek_vocabulary_from_text(text);
    ek_sequence_loader_opts opts = {.max_steps = 4};
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: text 1, 'abcdé' of class 'odd', has 5 characters, more than "
               "max_steps, which is 4: set truncate to cut it, or a larger max_steps",
               ek_sequence_loader_new(text, vocabulary, 3, &opts));
    opts.truncate = true;
    ek_sequence_loader *loader = ek_sequence_loader_new(text, vocabulary, 3, &opts);
    ck_made(loader);
    ek_batch batch;
    ck_ok(ek_sequence_loader_next(loader, &batch));
    const int64_t expected[] = {2, 3, 0, 0, 2, 3, 4, 5, 2, 3, 4, 0};
    ck_assert_int_eq(batch.steps, 4);
    ck_assert_mem_eq(ek_data_i64(batch.x), expected, sizeof expected);
    ck_assert(batch.lengths[0] == 2 && batch.lengths[1] == 4 && batch.lengths[2] == 3);
    ek_sequence_loader_free(loader);
    opts = (ek_sequence_loader_opts){.max_steps = 5};
    loader = ek_sequence_loader_new(text, vocabulary, 3, &opts);
    ck_made(loader);
    ek_sequence_loader_free(loader);
    opts.max_steps = 0;
    opts.truncate = true;
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: truncate needs max_steps, the number of steps to cut texts to, got 0",
               ek_sequence_loader_new(text, vocabulary, 3, &opts));
    opts = (ek_sequence_loader_opts){.unknown = (ek_unknown)2};
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: expected unknown to be EK_UNKNOWN_MAP or EK_UNKNOWN_REFUSE, got 2",
               ek_sequence_loader_new(text, vocabulary, 3, &opts));
    ek_vocabulary_free(vocabulary);
    ek_text_free(text);
}
END_TEST

START_TEST(unknown_characters)
{
    ek_vocabulary *vocabulary = ek_vocabulary_from_characters("abc");
    ek_text *text = make_text((const char *[]){"ab", "cabź😀", "c"}, 3);
    ek_sequence_loader_opts opts = {.shuffle = false};
    ek_sequence_loader *loader = ek_sequence_loader_new(text, vocabulary, 3, &opts);
    ck_made(loader);
    ek_batch batch;
    ck_ok(ek_sequence_loader_next(loader, &batch));
    const int64_t expected[] = {2, 3, 0, 0, 0, 4, 2, 3, 1, 1, 4, 0, 0, 0, 0};
    ck_assert_mem_eq(ek_data_i64(batch.x), expected, sizeof expected);
    ek_sequence_loader_free(loader);
    opts.unknown = EK_UNKNOWN_REFUSE;
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: text 1, 'cabź😀' of class 'odd', holds 'ź' (U+017A), which the "
               "vocabulary does not: make the vocabulary from these texts too, or let unknown be EK_UNKNOWN_MAP",
               ek_sequence_loader_new(text, vocabulary, 3, &opts));
    opts.max_steps = 3; /* what is cut off may be unknown */
    opts.truncate = true;
    loader = ek_sequence_loader_new(text, vocabulary, 3, &opts);
    ck_made(loader);
    ek_sequence_loader_free(loader);
    ek_text_free(text);

    char long_text[200] = "";
    for (int i = 0; i < 40; i++)
        strcat(long_text, "ęę");
    text = make_text((const char *[]){long_text + 2}, 1);
    opts = (ek_sequence_loader_opts){.unknown = EK_UNKNOWN_REFUSE};
    ck_refused(EK_ERR_ARGUMENT, "ęę…' of class 'even', holds 'ę' (U+0119)",
               ek_sequence_loader_new(text, vocabulary, 1, &opts));
    ek_text_free(text);
    ek_vocabulary_free(vocabulary);
}
END_TEST

START_TEST(errors)
{
    ek_text *text = varied_text(3);
    ek_vocabulary *vocabulary = ek_vocabulary_from_text(text);
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: expected texts and a vocabulary, got NULL for the texts",
               ek_sequence_loader_new(NULL, vocabulary, 1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "got NULL for the vocabulary", ek_sequence_loader_new(text, NULL, 1, NULL));
    ck_refused(EK_ERR_ARGUMENT, "sequence_loader: expected a batch size of 1 to 3, the number of samples, got 4",
               ek_sequence_loader_new(text, vocabulary, 4, NULL));
    ck_refused(EK_ERR_ARGUMENT, "got 0", ek_sequence_loader_new(text, vocabulary, 0, NULL));
    const ek_sequence_loader_opts bad[] = {{.bucket = -1}, {.pad_to = -2}, {.max_steps = -3}};
    static const char *messages[] = {"of 0 or more, got -1, 0 and 0", "got 0, -2 and 0", "got 0, 0 and -3"};
    for (int i = 0; i < 3; i++)
        ck_refused(EK_ERR_ARGUMENT, messages[i], ek_sequence_loader_new(text, vocabulary, 1, &bad[i]));
    const ek_sequence_loader_opts endless = {.pad_to = INT64_MAX / 2};
    ck_refused(EK_ERR_SHAPE, "overflow", ek_sequence_loader_new(text, vocabulary, 3, &endless));
    ek_batch batch;
    ck_assert_int_eq(ek_sequence_loader_next(NULL, &batch), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "sequence_loader_next: expected a loader and a batch to fill, got NULL");
    ek_vocabulary_free(vocabulary);
    ek_text_free(text);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

START_TEST(takes_no_memory)
{
    memory_count count;
    count_memory(&count);
    for (int choice = 0; choice < 4; choice++) {
        ek_sequence_loader_opts opts = {.shuffle = true, .bucket = choice % 2 ? 4 : 0, .merge_last = choice == 2,
                                        .pad_to = choice == 3 ? 50 : 0};
        ek_sequence_loader *loader = make_loader(99, 7, opts); /* 14 batches and one sample */
        ck_assert_int_gt(count.calls, 0);
        count.calls = 0;
        for (int e = 0; e < 5; e++)
            run_epoch(loader, opts.pad_to);
        ck_ok(ek_sequence_loader_set_state(loader, (ek_loader_state){.seed = 1, .epoch = 9, .batch = 3}));
        ek_batch batch;
        ck_ok(ek_sequence_loader_next(loader, &batch));
        ck_assert_int_eq(count.calls, 0);
        ek_sequence_loader_free(loader);
    }
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

static ek_status numerals_in_a_loader(void)
{
    ek_text *text = ek_text_numerals(20, 0, EK_TRAIN), *train = NULL, *test = NULL;
    ek_status status = text ? ek_text_split(text, 0.3, 1, &train, &test) : ek_last_status();
    ek_vocabulary *vocabulary = status == EK_OK ? ek_vocabulary_from_text(train) : NULL;
    const ek_sequence_loader_opts opts = {.shuffle = true, .bucket = 2};
    ek_sequence_loader *loader = vocabulary ? ek_sequence_loader_new(test, vocabulary, 2, &opts) : NULL;
    ek_batch batch;
    status = loader ? ek_sequence_loader_next(loader, &batch) : ek_last_status();
    ek_vocabulary *again = status == EK_OK ? ek_vocabulary_from_characters("xyz") : NULL;
    status = again ? EK_OK : ek_last_status();
    ek_sequence_loader_free(loader);
    ek_vocabulary_free(vocabulary);
    ek_vocabulary_free(again);
    ek_text_free(text);
    ek_text_free(train);
    ek_text_free(test);
    return status;
}

START_TEST(memory_runs_out)
{
    ck_assert_int_gt(assert_survives_refusals(numerals_in_a_loader), 40);
}
END_TEST

/* ---- surnames ---------------------------------------------------------------------------------------------------- */

START_TEST(every_name_there_and_back)
{
    if (!have_names("every_name_there_and_back"))
        return;
    ek_text *text = ek_text_from_folder(SHARED_DATA_DIR "/names");
    ek_vocabulary *vocabulary = ek_vocabulary_from_text(text);
    ck_made(vocabulary);
    for (int64_t i = 0; i < ek_text_size(text); i++) {
        int64_t symbols[64];
        char bytes[200];
        const int64_t n = ek_vocabulary_encode(vocabulary, ek_text_at(text, i), symbols, 64);
        ck_each(n >= 1 && n <= 20, "%s has %lld characters", ek_text_at(text, i), (long long)n);
        const int64_t used = ek_vocabulary_decode(vocabulary, symbols, n, bytes, sizeof bytes);
        ck_each(strcmp(bytes, ek_text_at(text, i)) == 0 && used == (int64_t)strlen(bytes), "%s became %s",
                ek_text_at(text, i), bytes);
    }
    ck_assert_int_eq(ek_vocabulary_size(vocabulary), 85); /* 83 characters, counted with another program */
    epoch of[2] = {{.samples = 0}};
    for (int b = 0; b < 2; b++) {
        const ek_sequence_loader_opts opts = {.shuffle = true, .bucket = 16 * b, .unknown = EK_UNKNOWN_REFUSE};
        ek_sequence_loader *loader = ek_sequence_loader_new(text, vocabulary, 64, &opts);
        ck_made(loader);
        ek_batch batch;
        while (ek_sequence_loader_next(loader, &batch) == EK_OK) {
            of[b].samples += batch.size;
            of[b].elements += batch.size * batch.steps;
            for (int64_t i = 0; i < batch.size; i++)
                of[b].valid += batch.lengths[i];
        }
        ck_assert_int_eq(of[b].samples, 20050);
        ek_sequence_loader_free(loader);
    }
    printf("names in batches of 64: %.1f %% padding, %.1f %% in buckets of 16 batches\n", 100 * padding_share(&of[0]),
           100 * padding_share(&of[1]));
    ck_assert_double_gt(padding_share(&of[0]), 0.4); /* 43.4 and 6.9 % measured */
    ck_assert_double_lt(padding_share(&of[1]), 0.09);
    ck_assert_int_eq(of[0].valid, of[1].valid);
    ek_vocabulary_free(vocabulary);
    ek_text_free(text);
}
END_TEST

int main(void)
{
    return RUN_TESTS("sequence_loader", vocabulary_there_and_back, vocabulary_errors, batches_are_padded,
                     same_order_as_the_other_loader, buckets_hold_equal_lengths, buckets_in_order,
                     buckets_leave_the_last_batch_alone, buckets_stay_random, state_goes_on_where_it_was, long_texts,
                     unknown_characters, errors, takes_no_memory, memory_runs_out, every_name_there_and_back);
}
