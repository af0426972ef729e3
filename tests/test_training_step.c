/* Whole training steps, data to optimizer: the same bits for any number of threads, and no memory from the allocator
 * once the first steps have been taken. */
#include "support.h"

/* ---- two nets ---------------------------------------------------------------------------------------------------- */
typedef struct job {
    ek_module *(*net)(void);
    ek_optimizer *(*optimizer)(ek_module *net);
    ek_dataset *(*data)(void);
    int64_t batch_size;
} job;

static ek_module *mlp(void)
{
    return ek_sequential(ek_linear(300, 256, NULL), ek_batch_norm1d(256, NULL), ek_relu_layer(), ek_dropout_layer(0.2),
                         ek_linear(256, 200, NULL), ek_layer_norm(EK_SHAPE(200), NULL), ek_gelu_layer(),
                         ek_residual(ek_sequential(ek_linear(200, 200, NULL), ek_switchable_norm1d(200, NULL))),
                         ek_linear(200, 10, NULL));
}

static ek_module *cnn(void)
{
    ek_conv_layer_opts conv = ek_conv_layer_opts_default();
    conv.padding[0] = conv.padding[1] = 1;
    return ek_sequential(ek_conv2d_layer(1, 8, 3, &conv), ek_group_norm(4, 8, NULL), ek_relu_layer(),
                         ek_max_pool2d_layer(2, NULL), ek_conv2d_layer(8, 16, 3, &conv),
                         ek_switchable_norm2d(16, NULL), ek_relu_layer(), ek_avg_pool2d_layer(2, NULL),
                         ek_conv2d_layer(16, 16, 3, &conv), ek_instance_norm2d(16, NULL), ek_silu_layer(),
                         ek_flatten_layer(), ek_linear(16 * 7 * 7, 10, NULL));
}

static ek_optimizer *adam(ek_module *net)
{
    return ek_adam(net, 1e-3, NULL);
}

static ek_optimizer *sgd(ek_module *net)
{
    ek_sgd_opts opts = ek_sgd_opts_default();
    opts.momentum = 0.9;
    return ek_sgd(net, 0.02, &opts);
}

static ek_dataset *vectors(void)
{
    ek_rng rng = ek_rng_seed(7);
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(1000, 300), 0, 1, &rng), *y = ek_zeros(EK_I64, EK_SHAPE(1000));
    for (int64_t i = 0; x && y && i < 1000; i++)
        ek_data_i64(y)[i] = ek_rng_below(&rng, 10);
    ek_dataset *data = x && y ? ek_dataset_from_tensors(x, y, 10) : NULL;
    ek_tensor_free(x);
    ek_tensor_free(y);
    return data;
}

static ek_dataset *glyphs(void)
{
    return ek_dataset_glyphs(200, 5, EK_TRAIN);
}

static const job mlp_adam = {mlp, adam, vectors, 128}, cnn_sgd = {cnn, sgd, glyphs, 32};

typedef struct training {
    ek_module *net;
    ek_optimizer *optimizer;
    ek_loader *loader;
    ek_tape *tape;
} training;

static training training_start(const job *j)
{
    training t = {.net = j->net(), .tape = ek_tape_new()};
    ck_made(t.net);
    ck_ok(ek_module_init(t.net, 3));
    t.optimizer = j->optimizer(t.net);
    ek_dataset *data = j->data();
    ck_made(t.optimizer);
    ck_made(data);
    t.loader = ek_loader_new(data, j->batch_size, NULL); /* its last batch of an epoch is smaller */
    ek_dataset_free(data);
    ck_made(t.loader);
    return t;
}

/* Takes n steps and returns the last loss. */
static double training_run(training *t, int n)
{
    double last = NAN;
    ek_batch batch;
    for (int step = 0; step < n;) {
        ek_status status = ek_loader_next(t->loader, &batch);
        if (status == EK_DONE)
            continue;
        ck_ok(status);
        ek_tensor *loss = ek_cross_entropy(t->tape, ek_forward(t->net, t->tape, batch.x), batch.y, NULL);
        ck_ok(ek_backward(t->tape, loss));
        last = ek_item(loss);
        ck_ok(ek_clip_grad_norm(t->optimizer, 5, NULL));
        ck_ok(ek_optimizer_step(t->optimizer));
        ek_optimizer_zero_grad(t->optimizer);
        ek_tape_reset(t->tape);
        step++;
    }
    return last;
}

static void training_end(training *t)
{
    ek_loader_free(t->loader);
    ek_optimizer_free(t->optimizer);
    ek_module_free(t->net);
    ek_tape_free(t->tape);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */
enum { STEPS = 20, MOST_TENSORS = 64 };

/* Every parameter and buffer of a net, as they are after training. */
typedef struct state {
    ek_tensor *tensor[MOST_TENSORS];
    int n;
    double loss;
} state;

static ek_status keep(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name;
    (void)kind;
    state *s = user;
    ck_assert_int_lt(s->n, MOST_TENSORS);
    s->tensor[s->n] = ek_tensor_clone(tensor);
    ck_made(s->tensor[s->n++]);
    return EK_OK;
}

static ek_status compare(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)kind;
    state *s = user;
    ck_assert_msg(ek_tensor_equal(tensor, s->tensor[s->n]), "%s is not the same", name);
    s->n++;
    return EK_OK;
}

static void assert_threads_do_not_matter(const job *j)
{
    static const int threads[] = {1, 2, 3, 8};
    state one = {.n = 0};
    for (int i = 0; i < 4; i++) {
        ck_ok(ek_set_num_threads(threads[i]));
        training t = training_start(j);
        double loss = training_run(&t, STEPS);
        ck_assert_msg(isfinite(loss), "the loss is %g", loss);
        if (i == 0)
            one.loss = loss;
        ck_assert_msg(loss == one.loss, "%d threads: a loss of %.17g, with one %.17g", threads[i], loss, one.loss);
        one.n = 0;
        ck_ok(ek_module_visit(t.net, i == 0 ? keep : compare, &one));
        training_end(&t);
    }
    for (int k = 0; k < one.n; k++)
        ek_tensor_free(one.tensor[k]);
}

START_TEST(mlp_trains_to_the_same_bits_on_any_number_of_threads)
{
    assert_threads_do_not_matter(&mlp_adam);
}
END_TEST

START_TEST(cnn_trains_to_the_same_bits_on_any_number_of_threads)
{
    assert_threads_do_not_matter(&cnn_sgd);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Steps over more than one epoch, so that the smaller last batch and the new order of the next epoch are among them. */
static void assert_no_memory_is_taken(const job *j, int warm_up, int steps)
{
    memory_count c;
    count_memory(&c);
    training t = training_start(j);
    training_run(&t, warm_up);
    int64_t calls = c.calls;
    size_t bytes = ek_tape_bytes(t.tape);
    training_run(&t, steps);
    ck_assert_msg(c.calls == calls, "%lld allocations in %d steps", (long long)(c.calls - calls), steps);
    ck_assert_uint_eq(ek_tape_bytes(t.tape), bytes);
    training_end(&t);
    ck_assert_int_eq(c.alive, 0);
    ck_ok(ek_set_allocator(NULL));
}

START_TEST(mlp_step_takes_no_memory)
{
    assert_no_memory_is_taken(&mlp_adam, 2, 20);
}
END_TEST

START_TEST(cnn_step_takes_no_memory)
{
    assert_no_memory_is_taken(&cnn_sgd, 2, 16);
}
END_TEST

int main(void)
{
    return RUN_TESTS("training_step", mlp_trains_to_the_same_bits_on_any_number_of_threads,
                     cnn_trains_to_the_same_bits_on_any_number_of_threads, mlp_step_takes_no_memory,
                     cnn_step_takes_no_memory);
}
