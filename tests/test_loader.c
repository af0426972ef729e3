/* The mini-batch loader. */
#include "support.h"

/* n samples: row i holds 10i, 10i + 1 and has label i mod 3. */
static ek_dataset *make_data(int64_t n)
{
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(n, 2)), *y = ek_zeros(EK_I64, EK_SHAPE(n));
    for (int64_t i = 0; i < n; i++) {
        ek_data_f32(x)[2 * i] = (float)(10 * i);
        ek_data_f32(x)[2 * i + 1] = (float)(10 * i + 1);
        ek_data_i64(y)[i] = i % 3;
    }
    ek_dataset *data = ek_dataset_from_tensors(x, y, 3);
    ck_made(data);
    ek_tensor_free(x);
    ek_tensor_free(y);
    return data;
}

/* A loader that alone keeps its data alive. */
static ek_loader *make_loader(int64_t n, int64_t batch_size, ek_loader_opts opts)
{
    ek_dataset *data = make_data(n);
    ek_loader *loader = ek_loader_new(data, batch_size, &opts);
    ck_made(loader);
    ek_dataset_free(data);
    return loader;
}

/* Runs one epoch, checks that each row has its own label, and writes the order of samples and the sizes of batches;
 * returns the number of samples. */
static int64_t run_epoch(ek_loader *loader, int64_t *order, int64_t *sizes)
{
    ek_batch batch;
    int64_t seen = 0, batches = 0;
    ek_status status;
    while ((status = ek_loader_next(loader, &batch)) == EK_OK) {
        ck_assert_int_eq(ek_tensor_dim(batch.x, 0), batch.size);
        ck_assert_int_eq(ek_tensor_numel(batch.x), 2 * batch.size);
        ck_assert_int_eq(ek_tensor_numel(batch.y), batch.size);
        for (int64_t i = 0; i < batch.size; i++) {
            int64_t sample = (int64_t)ek_data_f32(batch.x)[2 * i] / 10;
            ck_assert_double_eq(ek_data_f32(batch.x)[2 * i + 1], (double)(10 * sample + 1));
            ck_assert_int_eq(ek_data_i64(batch.y)[i], sample % 3);
            order[seen++] = sample;
        }
        sizes[batches++] = batch.size;
    }
    ck_assert_int_eq(status, EK_DONE);
    ck_assert(!batch.x && !batch.y && batch.size == 0);
    ck_assert_int_eq(batches, ek_loader_num_batches(loader));
    return seen;
}

static void assert_permutation(const int64_t *order, int64_t n)
{
    bool seen[64] = {false};
    for (int64_t i = 0; i < n; i++) {
        ck_assert(order[i] >= 0 && order[i] < n && !seen[order[i]]);
        seen[order[i]] = true;
    }
}

START_TEST(shuffled_epochs)
{
    int64_t a[50], b[50], c[50], sizes[50];
    ek_loader_opts opts = ek_loader_opts_default();
    ck_assert(opts.shuffle && !opts.drop_last && !opts.merge_last && opts.seed == 0);
    ek_loader *loader = make_loader(50, 8, opts);
    ck_assert_int_eq(run_epoch(loader, a, sizes), 50);
    assert_permutation(a, 50);
    ck_assert_int_eq(sizes[6], 2);
    ck_assert_int_eq(run_epoch(loader, b, sizes), 50);
    assert_permutation(b, 50);
    ck_assert(memcmp(a, b, sizeof a) != 0);
    ek_loader_reset(loader);
    run_epoch(loader, c, sizes);
    ck_assert(memcmp(a, c, sizeof a) == 0);
    ek_loader_free(loader);

    loader = make_loader(50, 5, opts); /* the order does not depend on the batch size */
    run_epoch(loader, c, sizes);
    ck_assert(memcmp(a, c, sizeof a) == 0);
    ek_loader_free(loader);
    opts.seed = 1;
    loader = make_loader(50, 8, opts);
    run_epoch(loader, c, sizes);
    assert_permutation(c, 50);
    ck_assert(memcmp(a, c, sizeof a) != 0);
    ek_loader_free(loader);
    opts.shuffle = false;
    loader = make_loader(50, 8, opts);
    run_epoch(loader, c, sizes);
    for (int i = 0; i < 50; i++)
        ck_assert_int_eq(c[i], i);
    ek_loader_free(loader);
    ek_loader_free(NULL);
}
END_TEST

START_TEST(last_batches)
{
    static const struct {
        int64_t n, batch_size;
        bool drop_last, merge_last;
        int64_t batches, last, samples;
    } cases[] = {
        {12, 4, false, false, 3, 4, 12}, {13, 4, false, false, 4, 1, 13}, {13, 4, true, false, 3, 4, 12},
        {13, 4, false, true, 3, 5, 13},  {13, 4, true, true, 3, 4, 12},   {14, 4, false, true, 4, 2, 14},
        {5, 4, false, true, 1, 5, 5},    {4, 4, false, true, 1, 4, 4},    {3, 1, false, true, 3, 1, 3},
        {1, 1, true, true, 1, 1, 1},     {3, 2, false, true, 1, 3, 3},    {12, 4, false, true, 3, 4, 12},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ek_loader_opts opts = {.shuffle = true, .drop_last = cases[i].drop_last, .merge_last = cases[i].merge_last};
        ek_loader *loader = make_loader(cases[i].n, cases[i].batch_size, opts);
        int64_t order[50], sizes[50];
        ck_assert_int_eq(ek_loader_num_batches(loader), cases[i].batches);
        for (int epoch = 0; epoch < 2; epoch++) {
            ck_assert_int_eq(run_epoch(loader, order, sizes), cases[i].samples);
            ck_assert_int_eq(sizes[cases[i].batches - 1], cases[i].last);
            for (int64_t b = 0; b + 1 < cases[i].batches; b++)
                ck_assert_int_eq(sizes[b], cases[i].batch_size);
        }
        ek_loader_free(loader);
    }
}
END_TEST

START_TEST(state_goes_on_where_it_was)
{
    ek_loader_opts opts = ek_loader_opts_default();
    opts.seed = 7;
    ek_loader *loader = make_loader(20, 6, opts);
    int64_t whole[2][20], sizes[20], rest[20];
    run_epoch(loader, whole[0], sizes);
    ek_batch batch;
    ck_ok(ek_loader_next(loader, &batch));
    ck_ok(ek_loader_next(loader, &batch));
    ek_loader_state state = ek_loader_get_state(loader);
    ck_assert(state.seed == 7 && state.epoch == 1 && state.batch == 2);
    ek_loader_reset(loader);
    run_epoch(loader, whole[0], sizes);
    run_epoch(loader, whole[1], sizes);
    ek_loader_free(loader);

    loader = make_loader(20, 6, ek_loader_opts_default()); /* the seed comes with the state */
    ck_ok(ek_loader_set_state(loader, state));
    int64_t seen = 0;
    while (ek_loader_next(loader, &batch) == EK_OK)
        for (int64_t i = 0; i < batch.size; i++)
            rest[seen++] = (int64_t)ek_data_f32(batch.x)[2 * i] / 10;
    ck_assert_int_eq(seen, 8);
    ck_assert(memcmp(rest, whole[1] + 12, 8 * sizeof *rest) == 0);
    state.batch = 4; /* the end of an epoch is a place too */
    ck_ok(ek_loader_set_state(loader, state));
    ck_assert_int_eq(ek_loader_next(loader, &batch), EK_DONE);
    state = ek_loader_get_state(loader);
    ck_assert(state.epoch == 2 && state.batch == 0);

    ck_assert_int_eq(ek_loader_set_state(loader, (ek_loader_state){.batch = 5}), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "loader_set_state: expected an epoch of 0 or more and a batch of 0 to 4, got epoch 0 and "
             "batch 5");
    ck_assert_int_eq(ek_loader_set_state(loader, (ek_loader_state){.epoch = -1}), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_loader_set_state(NULL, state), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_loader_get_state(loader).epoch, 2);
    ek_loader_free(loader);
}
END_TEST

START_TEST(errors)
{
    ek_dataset *data = make_data(3);
    ck_assert_ptr_null(ek_loader_new(data, 4, NULL));
    ck_error(EK_ERR_ARGUMENT, "loader: expected a batch size of 1 to 3, the number of samples, got 4");
    ck_assert_ptr_null(ek_loader_new(data, 0, NULL));
    ck_error(EK_ERR_ARGUMENT, "got 0");
    ck_assert_ptr_null(ek_loader_new(NULL, 1, NULL));
    ck_error(EK_ERR_ARGUMENT, "loader: expected a data set, got NULL");
    ek_batch batch;
    ck_assert_int_eq(ek_loader_next(NULL, &batch), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "loader_next: expected a loader and a batch to fill, got NULL");
    ek_dataset_free(data);
}
END_TEST

START_TEST(takes_no_memory)
{
    memory_count count;
    count_memory(&count);
    ek_loader *loader = make_loader(50, 7, ek_loader_opts_default());
    ck_assert_int_gt(count.calls, 0);
    count.calls = 0;
    int64_t order[50], sizes[50];
    for (int epoch = 0; epoch < 3; epoch++)
        run_epoch(loader, order, sizes);
    ck_assert_int_eq(count.calls, 0);
    ek_loader_free(loader);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

static ek_status glyphs_in_a_loader(void)
{
    ek_dataset *data = ek_dataset_glyphs(9, 0, EK_TEST), *part = data ? ek_dataset_slice(data, 1, 9) : NULL;
    ek_dataset *subset = part ? ek_dataset_subset(part, (int64_t[]){7, 0, 1}, 3) : NULL;
    ek_status status = subset ? ek_dataset_normalize(subset, 0.5, 2) : ek_last_status();
    ek_loader *loader = status == EK_OK ? ek_loader_new(subset, 2, NULL) : NULL;
    status = loader ? EK_OK : ek_last_status();
    ek_loader_free(loader);
    ek_dataset_free(data);
    ek_dataset_free(part);
    ek_dataset_free(subset);
    return status;
}

START_TEST(memory_runs_out)
{
    ck_assert_int_gt(assert_survives_refusals(glyphs_in_a_loader), 10);
}
END_TEST

int main(void)
{
    return RUN_TESTS("loader", shuffled_epochs, last_batches, state_goes_on_where_it_was, errors, takes_no_memory,
                     memory_runs_out);
}
