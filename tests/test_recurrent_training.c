/* Recurrent nets at work: the same bits for any number of threads, no memory from the allocator in steady state while
 * lengths change, threads that share one net, and that they learn. */
#include "support_recurrent.h"

#include <pthread.h>
#include <stdio.h>

enum { VOCABULARY = 11, CLASSES = 4, COMBINATIONS = 3 * CELLS };

typedef struct sizes {
    int64_t n, steps, width, hidden;
} sizes;

/* Embedding → two layers in both directions → the final state of the last layer, both ways → logits. */
typedef struct training {
    recurrent_case c;
    ek_module *net, *embedding, *layer, *head;
    ek_optimizer *optimizer;
    ek_tape *tape;
    ek_tensor *tokens, *labels;
    ek_rng rng;
    double loss;
} training;

static training training_start(int which, sizes z)
{
    training t = {.c = recurrent_case_of((cell_kind)(which % CELLS)), .tape = ek_tape_new(), .rng = ek_rng_seed(5)};
    t.c.input = z.width;
    t.c.hidden = z.hidden;
    t.c.n = z.n;
    t.c.steps = z.steps;
    t.c.opts.norm = (ek_recurrent_norm)(which / CELLS);
    t.c.opts.num_layers = 2;
    t.c.opts.bidirectional = true;
    t.c.opts.dropout = 0.1;
    t.embedding = ek_embedding_layer(VOCABULARY, z.width, NULL);
    t.layer = recurrent_layer(&t.c);
    t.head = ek_linear(2 * z.hidden, CLASSES, NULL);
    t.net = ek_sequential(t.embedding, t.layer, t.head); /* for its parameters */
    ck_made(t.net);
    ck_ok(ek_module_init(t.net, 3));
    t.optimizer = ek_adam(t.net, 1e-2, NULL);
    t.tokens = ek_zeros(EK_I64, EK_SHAPE(z.n, z.steps));
    t.labels = ek_zeros(EK_I64, EK_SHAPE(z.n));
    ck_made(t.optimizer);
    return t;
}

/* A batch of other lengths each time; the class is the last valid token's, modulo their number. */
static void draw_batch(training *t)
{
    int64_t lengths[64];
    const int64_t longest = 2 + ek_rng_below(&t->rng, t->c.steps - 1);
    ck_assert_int_le(t->c.n, 64);
    for (int64_t i = 0; i < t->c.n; i++) {
        lengths[i] = 1 + ek_rng_below(&t->rng, longest);
        for (int64_t s = 0; s < t->c.steps; s++)
            ek_data_i64(t->tokens)[i * t->c.steps + s] = ek_rng_below(&t->rng, VOCABULARY);
        ek_data_i64(t->labels)[i] = ek_data_i64(t->tokens)[i * t->c.steps + lengths[i] - 1] % CLASSES;
    }
    ck_ok(ek_tensor_set_lengths(t->tokens, lengths, t->c.n, 0, 1));
}

static ek_tensor *logits_of(training *t)
{
    ek_recurrent_state final;
    ek_tensor *x = ek_forward(t->embedding, t->tape, t->tokens);
    if (!ek_recurrent_forward(t->layer, t->tape, x, NULL, &final))
        return NULL;
    ek_tensor *sides[2];
    for (int d = 0; d < 2; d++)
        sides[d] = ek_reshape(t->tape, ek_slice(t->tape, final.h, 0, 2 + d, 3 + d), EK_SHAPE(t->c.n, t->c.hidden));
    return ek_forward(t->head, t->tape, ek_concat(t->tape, sides, 2, 1));
}

static void training_step(training *t)
{
    draw_batch(t);
    ek_tensor *logits = logits_of(t), *loss = ek_cross_entropy(t->tape, logits, t->labels, NULL);
    ck_ok(ek_backward(t->tape, loss));
    t->loss = ek_item(loss);
    ck_ok(ek_clip_grad_norm(t->optimizer, 5, NULL));
    ck_ok(ek_optimizer_step(t->optimizer));
    ek_optimizer_zero_grad(t->optimizer);
    ek_tape_reset(t->tape);
}

static void training_end(training *t)
{
    ek_optimizer_free(t->optimizer);
    ek_module_free(t->net);
    ek_tape_free(t->tape);
    ek_tensor_free(t->tokens);
    ek_tensor_free(t->labels);
}

/* ---- threads ----------------------------------------------------------------------------------------------------- */
static const int thread_counts[] = {1, 2, 3, 8};

START_TEST(training_gives_the_same_bits_on_any_number_of_threads)
{
    ek_tensor *one = NULL;
    double loss = NAN;
    for (int i = 0; i < 4; i++) {
        ck_ok(ek_set_num_threads(thread_counts[i]));
        training t = training_start(_i, (sizes){41, 5, 6, 28});
        for (int step = 0; step < 20; step++)
            training_step(&t);
        ck_assert_msg(isfinite(t.loss), "the loss is %g", t.loss);
        if (i == 0) {
            one = copy_state(t.net);
            loss = t.loss;
        }
        ck_assert_msg(t.loss == loss, "%s, %d threads: a loss of %.17g, with one %.17g", recurrent_text(&t.c),
                      thread_counts[i], t.loss, loss);
        assert_state("more threads", t.net, one);
        training_end(&t);
    }
    ek_tensor_free(one);
}
END_TEST

/* Outputs, states and all gradients of a layer large enough for several chunks of every loop: rows of a step, and
 * blocks of 64 units of all of them. */
START_TEST(a_layer_gives_the_same_bits_on_any_number_of_threads)
{
    int64_t lengths[150];
    recurrent_case c = recurrent_case_of((cell_kind)(_i / 2 % CELLS));
    c.n = 150;
    c.steps = 3;
    c.input = 30;
    c.hidden = c.cell == RNN ? 140 : 70;
    c.states = true;
    c.opts.norm = (ek_recurrent_norm)(_i / 2 / CELLS);
    for (int64_t i = 0; i < c.n; i++)
        lengths[i] = 1 + i * 5 % c.steps;
    c.lengths = lengths;
    const ek_dtype dtype = _i % 2 ? EK_F64 : EK_F32;
    recurrent_run first = {.parameters = 0};
    recurrent_inputs in = recurrent_draw(&c, dtype, 3);
    for (int i = 0; i < 4; i++) {
        ck_ok(ek_set_num_threads(thread_counts[i]));
        ek_module *layer = recurrent_drawn(&c, dtype, 0.2, 2);
        recurrent_run run = recurrent_run_of(layer, &c, &in);
        if (i == 0) {
            first = run;
        } else {
            assert_same_run(recurrent_text(&c), &first, &run);
            recurrent_run_free(&run);
        }
        ek_module_free(layer);
    }
    recurrent_run_free(&first);
    recurrent_inputs_free(&in);
}
END_TEST

/* Row `i` along axis `axis` of a float64 tensor of three axes, as a tensor of its own. */
static ek_tensor *one_of(const ek_tensor *t, int axis, int64_t i)
{
    const int64_t d0 = ek_tensor_dim(t, 0), d1 = ek_tensor_dim(t, 1), d2 = ek_tensor_dim(t, 2);
    ek_tensor *one = ek_zeros(EK_F64, axis == 0 ? EK_SHAPE(1, d1, d2) : EK_SHAPE(d0, 1, d2));
    const double *from = ek_tensor_data((ek_tensor *)t);
    double *to = ek_tensor_data(one);
    for (int64_t p = 0; p < (axis == 0 ? d1 : d0); p++)
        memcpy(to + p * d2, from + (axis == 0 ? i * d1 + p : p * d1 + i) * d2, (size_t)d2 * sizeof *to);
    return one;
}

/* More sequences than a thread takes at a time, the last block not full: each has the states it has alone, and their
 * gradients add up to those of all. */
START_TEST(sequences_have_nothing_to_do_with_each_other)
{
    enum { N = 75 };
    int64_t lengths[N];
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.n = N;
    c.steps = 5;
    c.hidden = 9;
    c.opts.norm = _i / CELLS ? EK_RECURRENT_LAYER_NORM : EK_RECURRENT_NO_NORM;
    for (int64_t i = 0; i < N; i++)
        lengths[i] = 1 + i * 3 % c.steps;
    c.lengths = lengths;
    c.states = true;
    ek_module *layer = recurrent_drawn(&c, EK_F64, 0.3, 2);
    recurrent_inputs in = recurrent_draw(&c, EK_F64, 3);
    ek_tensor *dy = ek_zeros(EK_F64, recurrent_shape(&c, c.hidden)), *dh = ek_zeros(EK_F64, recurrent_state_shape(&c));
    ek_rng rng = ek_rng_seed(4);
    for (int64_t i = 0; i < ek_tensor_numel(dy); i++)
        ((double *)ek_tensor_data(dy))[i] = ek_rng_uniform(&rng) - 0.5;
    recurrent_run all = recurrent_run_with(layer, &in, dy, dh, c.cell == LSTM ? dh : NULL);
    double *sums[MOST_TENSORS];
    for (int p = 0; p < all.parameters; p++)
        sums[p] = calloc((size_t)ek_tensor_numel(all.gradient[p]), sizeof(double));
    for (int64_t i = 0; i < N; i++) {
        recurrent_case c1 = c;
        c1.n = 1;
        c1.lengths = lengths + i;
        recurrent_inputs alone = {one_of(in.x, 0, i), one_of(in.h0, 1, i), in.c0 ? one_of(in.c0, 1, i) : NULL};
        recurrent_set_lengths(&c1, alone.x);
        ek_tensor *dy1 = one_of(dy, 0, i), *dh1 = one_of(dh, 1, i), *y = one_of(all.y, 0, i);
        recurrent_run run = recurrent_run_with(layer, &alone, dy1, dh1, c.cell == LSTM ? dh1 : NULL);
        for (int64_t j = 0; j < ek_tensor_numel(y); j++)
            ck_near(ek_tensor_at(run.y, j), ek_tensor_at(y, j), 1e-13);
        for (int p = 0; p < all.parameters; p++)
            for (int64_t j = 0; j < ek_tensor_numel(run.gradient[p]); j++)
                sums[p][j] += ek_tensor_at(run.gradient[p], j);
        ek_tensor_free(dy1);
        ek_tensor_free(dh1);
        ek_tensor_free(y);
        recurrent_run_free(&run);
        recurrent_inputs_free(&alone);
    }
    for (int p = 0; p < all.parameters; p++) {
        for (int64_t j = 0; j < ek_tensor_numel(all.gradient[p]); j++)
            ck_near(ek_tensor_at(all.gradient[p], j), sums[p][j], 1e-11);
        free(sums[p]);
    }
    recurrent_run_free(&all);
    recurrent_inputs_free(&in);
    ek_tensor_free(dy);
    ek_tensor_free(dh);
    ek_module_free(layer);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The tape has seen the longest batch before it is counted; lengths are other ones each step. */
START_TEST(a_step_takes_no_memory)
{
    memory_count counted;
    count_memory(&counted);
    training t = training_start(_i, (sizes){8, 7, 5, 6});
    for (int step = 0; step < 30; step++)
        training_step(&t);
    const int64_t calls = counted.calls;
    const size_t bytes = ek_tape_bytes(t.tape);
    for (int step = 0; step < 60; step++)
        training_step(&t);
    ck_assert_msg(counted.calls == calls, "%s: %lld allocations in 60 steps", recurrent_text(&t.c),
                  (long long)(counted.calls - calls));
    ck_assert_uint_eq(ek_tape_bytes(t.tape), bytes);
    training_end(&t);
    ck_assert_int_eq(counted.alive, 0);
    ck_ok(ek_set_allocator(NULL));
}
END_TEST

/* ---- serving ----------------------------------------------------------------------------------------------------- */
typedef struct serving {
    ek_module *layer;
    const recurrent_inputs *in;
    const recurrent_run *expected;
    bool same;
} serving;

static void *serve(void *context)
{
    serving *s = context;
    ek_tape *tape = ek_tape_new();
    s->same = tape && ek_tape_set_recording(tape, false) == EK_OK;
    for (int i = 0; s->same && i < 50; i++) {
        ek_recurrent_state initial = {s->in->h0, s->in->c0}, final;
        ek_tensor *y = ek_recurrent_forward(s->layer, tape, s->in->x, &initial, &final);
        s->same = y && ek_tensor_equal(y, s->expected->y) && ek_tensor_equal(final.h, s->expected->h);
        ek_tape_reset(tape);
    }
    ek_tape_free(tape);
    return NULL;
}

START_TEST(threads_serve_one_layer)
{
    static const int64_t lengths[] = {4, 6, 1, 4, 2};
    recurrent_case c = recurrent_case_of((cell_kind)(_i % CELLS));
    c.lengths = lengths;
    c.states = c.opts.bidirectional = true;
    c.opts.num_layers = 2;
    c.opts.dropout = 0.5;
    c.opts.norm = (ek_recurrent_norm)(_i / CELLS);
    ek_module *layer = recurrent_drawn(&c, EK_F32, 0.5, 1);
    recurrent_inputs in = recurrent_draw(&c, EK_F32, 2);
    feed(layer, in.x);
    ek_module_eval(layer);
    recurrent_run expected = recurrent_forward_of(layer, &in);
    enum { THREADS = 4 };
    pthread_t threads[THREADS];
    serving work[THREADS];
    for (int i = 0; i < THREADS; i++) {
        work[i] = (serving){layer, &in, &expected, false};
        ck_assert_int_eq(pthread_create(&threads[i], NULL, serve, &work[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        ck_assert_msg(work[i].same, "%s: thread %d", recurrent_text(&c), i);
    }
    recurrent_run_free(&expected);
    recurrent_inputs_free(&in);
    ek_module_free(layer);
}
END_TEST

/* ---- learning ---------------------------------------------------------------------------------------------------- */

/* The class is that of the last token: every cell learns it, with every norm. */
START_TEST(it_learns)
{
    training t = training_start(_i, (sizes){32, 6, 8, 16});
    for (int step = 0; step < 150; step++)
        training_step(&t);
    ek_module_eval(t.net);
    int64_t right = 0, all = 0;
    for (int batch = 0; batch < 10; batch++) {
        draw_batch(&t);
        right += ek_count_correct(logits_of(&t), t.labels);
        all += t.c.n;
        ek_tape_reset(t.tape);
    }
    ck_assert_msg(right * 100 >= all * 95, "%s: %lld of %lld", recurrent_text(&t.c), (long long)right, (long long)all);
    training_end(&t);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("recurrent_training");
    TCase *tcase = tcase_create("recurrent_training");
    tcase_add_loop_test(tcase, training_gives_the_same_bits_on_any_number_of_threads, 0, COMBINATIONS);
    tcase_add_loop_test(tcase, a_layer_gives_the_same_bits_on_any_number_of_threads, 0, 2 * COMBINATIONS);
    tcase_add_loop_test(tcase, sequences_have_nothing_to_do_with_each_other, 0, 2 * CELLS);
    tcase_add_loop_test(tcase, a_step_takes_no_memory, 0, COMBINATIONS);
    tcase_add_loop_test(tcase, threads_serve_one_layer, 0, COMBINATIONS);
    tcase_add_loop_test(tcase, it_learns, 0, COMBINATIONS);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
