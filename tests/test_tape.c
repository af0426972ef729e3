/* The tape: memory, life of what is on it, errors, the walk back, ops of one's own. */
#include "support.h"
#include "tape.h"

/* ---- an allocator that counts, and refuses the allocation numbered `refuse_at` ----------------------------------- */
typedef struct counter {
    int64_t calls, alive, refuse_at; /* refuse_at −1: never */
} counter;

static void *counted_allocate(size_t bytes, void *user)
{
    counter *c = user;
    if (c->calls++ == c->refuse_at)
        return NULL;
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    c->alive += memory != NULL;
    return memory;
}

static void counted_release(void *memory, void *user)
{
    ((counter *)user)->alive--;
    free(memory);
}

static void count_from_here(counter *c, int64_t refuse_at)
{
    *c = (counter){.refuse_at = refuse_at};
    ck_ok(ek_set_allocator(&(ek_allocator){counted_allocate, counted_release, c}));
}

/* Everything is released, and the default allocator back. */
static void stop_counting(const counter *c)
{
    ck_assert_int_eq(c->alive, 0);
    ck_ok(ek_set_allocator(NULL));
}

/* ---- a step of training, with ops of every kind ------------------------------------------------------------------ */
enum { ROWS = 64, COLUMNS = 48 };

typedef struct model {
    ek_tensor *x, *scale, *shift;
} model;

static ek_tensor *parameter(ek_tensor *t)
{
    return t && ek_tensor_set_requires_grad(t, true) == EK_OK ? t : NULL;
}

static void model_free(model *m)
{
    ek_tensor_free(m->x);
    ek_tensor_free(m->scale);
    ek_tensor_free(m->shift);
}

static bool model_make(model *m)
{
    ek_rng rng = ek_rng_seed(1);
    m->x = ek_normal(EK_F32, EK_SHAPE(ROWS, COLUMNS), 0, 1, &rng);
    m->scale = parameter(ek_ones(EK_F32, EK_SHAPE(COLUMNS)));
    m->shift = parameter(ek_zeros(EK_F32, EK_SHAPE(ROWS, 1)));
    return m->x && m->scale && m->shift;
}

static ek_tensor *model_loss(ek_tape *t, const model *m)
{
    ek_tensor *y = ek_relu(t, ek_add(t, ek_mul(t, m->x, m->scale), m->shift));
    ek_tensor *upper = ek_slice(t, y, 0, 0, ROWS / 2), *lower = ek_slice(t, y, 0, ROWS / 2, ROWS);
    ek_tensor *left = ek_slice(t, ek_sub(t, lower, upper), 1, 0, COLUMNS / 2);
    ek_tensor *wide = ek_concat(t, (ek_tensor *[]){left, upper, left}, 3, -1);
    ek_tensor *turned = ek_permute(t, wide, EK_AXES(1, 0));
    ek_tensor *squares = ek_mul(t, turned, turned);
    ek_tensor *ratio = ek_div(t, squares, ek_affine(t, ek_sum(t, squares, EK_AXES(0), true), 1, 2));
    return ek_mean(t, ek_reshape(t, ratio, EK_SHAPE(-1)), EK_ALL_AXES, false);
}

static ek_status model_step(ek_tape *t, const model *m)
{
    ek_status status = ek_backward(t, model_loss(t, m));
    if (status == EK_OK)
        for (int64_t i = 0; i < COLUMNS; i++)
            ek_data_f32(m->scale)[i] -= 0.1f * ek_data_f32(ek_tensor_grad(m->scale))[i];
    ek_tensor_clear_grad(m->scale);
    ek_tensor_clear_grad(m->shift);
    ek_tape_reset(t);
    return status;
}

START_TEST(a_step_in_steady_state_allocates_nothing)
{
    counter c;
    model m;
    count_from_here(&c, -1);
    ek_tape *tape = ek_tape_new();
    ck_assert(model_make(&m));
    for (int step = 0; step < 3; step++)
        ck_ok(model_step(tape, &m));
    int64_t calls = c.calls;
    for (int step = 0; step < 20; step++)
        ck_ok(model_step(tape, &m));
    ck_assert_int_eq(c.calls, calls);
    model_free(&m);
    ek_tape_free(tape);
    stop_counting(&c);
}
END_TEST

START_TEST(a_step_larger_than_the_first_chunk_settles_too)
{
    counter c;
    count_from_here(&c, -1);
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(300000)));
    int64_t calls = 0;
    size_t bytes = 0;
    for (int step = 0; step < 6; step++) {
        ek_tensor *y = x;
        for (int i = 0; i < 10; i++)
            y = ek_mul(tape, y, x);
        ck_ok(ek_backward(tape, ek_sum(tape, y, EK_ALL_AXES, false)));
        ek_tape_reset(tape);
        if (step == 2) {
            calls = c.calls;
            bytes = ek_tape_bytes(tape);
        }
    }
    ck_assert_int_eq(c.calls, calls);
    ck_assert_uint_eq(ek_tape_bytes(tape), bytes);
    /* 10 results and a few gradients at a time, not 10 gradients. */
    ck_assert_uint_lt(bytes, (size_t)17 * 300000 * 4);
    ek_tensor_free(x);
    ek_tape_free(tape);
    stop_counting(&c);
}
END_TEST

/* Blocks of `bytes` bytes each, then given back in an order that meets free neighbours on no side, above, below and on
 * both sides; then all of it at once. */
START_TEST(memory_given_back_in_any_order_serves_a_larger_request)
{
    enum { N = 64, BYTES = 8000 };
    ek_tape *tape = ek_tape_new();
    void *whole = ek_pool_alloc(tape, (size_t)N * (BYTES + 256)); /* one chunk that holds them all */
    ck_assert_ptr_nonnull(whole);
    ek_pool_free(tape, whole);
    const size_t bytes = ek_tape_bytes(tape);
    for (int stride = 1; stride < N; stride += 2) { /* odd, so k·stride mod N visits every block */
        unsigned char *block[N];
        for (int k = 0; k < N; k++) {
            block[k] = ek_pool_alloc(tape, BYTES);
            ck_assert_ptr_nonnull(block[k]);
            ck_assert_uint_eq((uintptr_t)block[k] % EK_ALIGNMENT, 0);
            memset(block[k], k, BYTES);
        }
        for (int k = 0; k < N; k++) {
            const int at = k * stride % N;
            int changed = 0;
            for (int i = 0; i < BYTES; i++)
                changed += block[at][i] != at;
            ck_assert_int_eq(changed, 0);
            ek_pool_free(tape, block[at]);
            if (k % 3 == 0) /* from the middle of what is free, or its end */
                ek_pool_free(tape, ek_pool_alloc(tape, BYTES / 2));
        }
        ck_assert_ptr_eq(ek_pool_alloc(tape, (size_t)N * (BYTES + 256)), whole);
        ek_pool_free(tape, whole);
    }
    ck_assert_uint_eq(ek_tape_bytes(tape), bytes);
    ek_tape_free(tape);
}
END_TEST

START_TEST(results_take_what_the_pool_gave_back)
{
    ek_tape *tape = ek_tape_new();
    ek_pool_free(tape, ek_pool_alloc(tape, 1 << 20));
    const size_t bytes = ek_tape_bytes(tape);
    ck_assert_ptr_nonnull(ek_tape_alloc(tape, 1 << 20));
    ck_assert_uint_eq(ek_tape_bytes(tape), bytes);
    ek_tape_free(tape);
}
END_TEST

/* Makes a model and trains two steps, whatever happens in between. */
static ek_status train(void)
{
    model m;
    ek_tape *tape = ek_tape_new();
    bool good = model_make(&m);
    for (int step = 0; tape && good && step < 2; step++) {
        good = ek_backward(tape, model_loss(tape, &m)) == EK_OK;
        if (!good) /* after a failure nothing has changed */
            ck_assert(!ek_tensor_grad(m.scale) && !ek_tensor_grad(m.shift));
        ek_tensor_clear_grad(m.scale);
        ek_tensor_clear_grad(m.shift);
        ek_tape_reset(tape);
    }
    model_free(&m);
    ek_tape_free(tape);
    return tape && good ? EK_OK : ek_last_status();
}

START_TEST(every_refused_allocation_is_an_error_and_leaks_nothing)
{
    ck_assert_int_gt(assert_survives_refusals(train), 10);
    for (int64_t k = 0;; k++) { /* and once only, so that what follows goes on */
        counter c;
        ek_clear_error();
        count_from_here(&c, k);
        ek_status status = train();
        ck_assert_msg(c.alive == 0, "allocation %lld refused: %lld blocks leak", (long long)k, (long long)c.alive);
        stop_counting(&c);
        if (status != EK_OK)
            ck_error(EK_ERR_MEMORY, "out of memory");
        if (c.calls <= k) { /* k is beyond the last allocation */
            ck_ok(status);
            break;
        }
    }
}
END_TEST

/* The tape asks for more than it needs, then for just that. */
START_TEST(a_refused_chunk_is_asked_for_smaller)
{
    counter c;
    model m;
    count_from_here(&c, -1);
    ck_assert(model_make(&m));
    ek_tape *tape = ek_tape_new();
    c.refuse_at = c.calls; /* the first chunk */
    ck_made(model_loss(tape, &m));
    ck_assert_str_eq(ek_last_error(), "");
    ck_assert_int_eq(ek_tape_status(tape), EK_OK);
    ek_tape_free(tape);
    model_free(&m);
    stop_counting(&c);
}
END_TEST

/* ---- one tensor as both inputs ----------------------------------------------------------------------------------- */

static double slope_of(ek_tensor *(*op)(ek_tape *, ek_tensor *, ek_tensor *), bool behind_an_op)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_full(EK_F64, EK_SHAPE(3), 1.5));
    ek_tensor *u = behind_an_op ? ek_affine(tape, x, 1, 0) : x;
    ck_ok(ek_backward(tape, ek_sum(tape, op(tape, u, u), EK_ALL_AXES, false)));
    double slope = ek_tensor_at(ek_tensor_grad(x), 2);
    ek_tensor_free(x);
    ek_tape_free(tape);
    return slope;
}

START_TEST(both_inputs_may_be_the_same_tensor)
{
    for (int behind = 0; behind < 2; behind++) {
        ck_assert(slope_of(ek_add, behind) == 2);
        ck_assert(slope_of(ek_sub, behind) == 0);
        ck_assert(slope_of(ek_mul, behind) == 3);
        ck_assert(slope_of(ek_div, behind) == 0);
    }
}
END_TEST

START_TEST(gradients_that_are_handed_on_still_add_up)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F64, EK_SHAPE(4)));
    ek_tensor *u = ek_affine(tape, x, 1, 0), *sum = u, *doubled = u;
    for (int i = 0; i < 50; i++)
        sum = ek_add(tape, sum, u); /* 51·u */
    for (int i = 0; i < 10; i++)
        doubled = ek_add(tape, doubled, doubled); /* 1024·u */
    ek_tensor *shaped = ek_reshape(tape, ek_reshape(tape, u, EK_SHAPE(2, 2)), EK_SHAPE(4)); /* u */
    ek_tensor *y = ek_sub(tape, ek_add(tape, sum, shaped), doubled);
    ck_ok(ek_backward(tape, ek_sum(tape, ek_add(tape, y, u), EK_ALL_AXES, false)));
    for (int i = 0; i < 4; i++)
        ck_assert(ek_tensor_at(ek_tensor_grad(x), i) == 51 + 1 - 1024 + 1);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

/* ---- slices and views -------------------------------------------------------------------------------------------- */

START_TEST(backward_of_slices_costs_their_range_only)
{
    /* A sequence in 500 slices.  Had any gradient but x's own the size of the sequence, the tape would hold it. */
    enum { T = 500, D = 4000, SMALL = 3000 /* bytes beside the data, per step */ };
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(T, D))), *state = NULL;
    for (int t = 0; t < T; t++) {
        ek_tensor *step = ek_slice(tape, x, 0, t, t + 1);
        ck_assert_ptr_eq(ek_data_f32(step), ek_data_f32(x) + t * D);
        state = state ? ek_add(tape, ek_affine(tape, state, 0.5, 0), step) : step;
    }
    ck_ok(ek_backward(tape, ek_sum(tape, state, EK_ALL_AXES, false)));
    for (int t = 0; t < T; t++)
        ck_assert(ek_tensor_at(ek_tensor_grad(x), t * D) == (float)pow(0.5, T - 1 - t));
    ek_tape_reset(tape); /* its chunks hold what was used, and little more */
    size_t sequence = (size_t)T * D * 4, forward = 2 * sequence; /* the halves and the sums */
    ck_assert_uint_lt(ek_tape_bytes(tape), (forward + (size_t)T * SMALL) / 16 * 17 + sequence / 2);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

static void note_release(void *values, void *user)
{
    memset(values, 0, sizeof(float) * 4);
    ++*(int *)user;
}

static ek_tensor *view_by_reshape(ek_tape *t, ek_tensor *x)
{
    return ek_reshape(t, x, EK_SHAPE(2, 2));
}

static ek_tensor *view_by_slice(ek_tape *t, ek_tensor *x)
{
    return ek_slice(t, x, 0, 0, 4);
}

START_TEST(views_keep_their_leaf_alive_until_the_reset)
{
    ek_tensor *(*const view[])(ek_tape *, ek_tensor *) = {view_by_reshape, view_by_slice, ek_detach};
    for (int recording = 0; recording < 2; recording++)
        for (size_t i = 0; i < sizeof view / sizeof view[0]; i++)
            for (int trains = 0; trains < 2; trains++) {
                float values[4] = {1, 2, 3, 4};
                int released = 0;
                ek_tape *tape = ek_tape_new();
                ck_ok(ek_tape_set_recording(tape, recording));
                ek_tensor *x = ek_borrow(EK_F32, EK_SHAPE(4), values, note_release, &released);
                ck_ok(ek_tensor_set_requires_grad(x, trains));
                ek_tensor *y = view[i](tape, x);
                ck_made(y);
                ek_tensor_free(x);
                ck_assert_int_eq(released, 0);
                ck_assert(ek_tensor_at(y, 3) == 4);
                ek_tape_reset(tape);
                ck_assert_int_eq(released, 1);
                ek_tape_free(tape);
                ck_assert_int_eq(released, 1);
            }
}
END_TEST

START_TEST(a_leaf_may_be_freed_between_forward_and_backward)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_full(EK_F32, EK_SHAPE(3), 2)), *fixed = ek_full(EK_F32, EK_SHAPE(3), 5);
    ek_tensor *loss = ek_sum(tape, ek_mul(tape, ek_mul(tape, x, fixed), x), EK_ALL_AXES, false);
    ek_tensor_free(fixed);
    ek_tensor *kept = ek_tensor_retain(x);
    ek_tensor_free(x);
    ck_ok(ek_backward(tape, loss));
    ck_assert(ek_tensor_at(ek_tensor_grad(kept), 1) == 20);
    ek_tensor_free(kept);
    ek_tape_free(tape);
}
END_TEST

START_TEST(tensors_of_a_tape_are_cloned_out)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2)), *y = ek_affine(tape, x, 3, 0), *out = ek_tensor_clone(y);
    ck_assert_ptr_null(ek_tensor_retain(y));
    ck_error(EK_ERR_STATE, "tensor_retain: a tensor of a tape lives until ek_tape_reset(); ek_tensor_clone() makes");
    ck_assert_int_eq(ek_tensor_write(y, (float[]){0, 0}, 8), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "tensor_write: the tensor belongs to a tape");
    ck_assert_int_eq(ek_tensor_set_requires_grad(y, true), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "set_requires_grad: expected a leaf, got a tensor of a tape");
    ek_tensor_free(y); /* left alone */
    ck_assert(ek_tensor_at(y, 0) == 3);
    ek_tape_free(tape);
    ck_assert(ek_tensor_at(out, 1) == 3);
    ek_tensor_free(out);
    ek_tensor_free(x);
}
END_TEST

/* ---- errors ------------------------------------------------------------------------------------------------------ */

START_TEST(the_first_error_survives_and_null_propagates)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *a = parameter(ek_ones(EK_F32, EK_SHAPE(2))), *b = ek_ones(EK_F32, EK_SHAPE(3));
    ck_assert_int_eq(ek_tape_status(tape), EK_OK);
    ck_assert_str_eq(ek_tape_error(tape), "");
    ek_tensor *loss = ek_sum(tape, ek_relu(tape, ek_mul(tape, ek_add(tape, a, b), a)), EK_AXES(7), false);
    ck_assert_ptr_null(loss);
    static const char *const first = "add: (2,) and (3,) do not broadcast";
    ck_error(EK_ERR_SHAPE, first);
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_SHAPE);
    ck_assert(!strncmp(ek_tape_error(tape), first, strlen(first)));
    ck_assert_ptr_null(ek_relu(tape, a)); /* a good call does nothing either */
    ck_assert_ptr_null(ek_detach(tape, a));
    ck_assert_int_eq(ek_backward(tape, loss), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, first);
    ek_tape_reset(tape);
    ck_assert_int_eq(ek_tape_status(tape), EK_OK);
    ck_assert_str_eq(ek_tape_error(tape), "");
    ck_ok(ek_backward(tape, ek_sum(tape, a, EK_ALL_AXES, false)));
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_detach(tape, NULL));
    ck_error(EK_ERR_ARGUMENT, "detach: the input is NULL");
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_tape_status(NULL), EK_ERR_ARGUMENT);
    ck_assert_str_eq(ek_tape_error(NULL), "the tape is NULL");
    ck_assert_uint_eq(ek_tape_bytes(NULL), 0);
    ck_assert(!ek_tape_recording(NULL));
    ek_tape_reset(NULL);
    ek_tape_free(NULL);
    ek_tensor_free(a);
    ek_tensor_free(b);
    ek_tape_free(tape);
}
END_TEST

START_TEST(a_failed_tensor_from_outside_names_its_cause)
{
    ek_tape *tape = ek_tape_new();
    ck_assert_ptr_null(ek_relu(tape, ek_zeros(EK_F32, EK_SHAPE(-1))));
    ck_error(EK_ERR_ARGUMENT, "relu: input 0 is NULL; the last error was: zeros: expected dimensions of 0 or more");
    ek_tape_free(tape);
}
END_TEST

START_TEST(tapes_do_not_mix)
{
    ek_tape *tape = ek_tape_new(), *other = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(1))), *y = ek_affine(tape, x, 2, 0);
    ck_assert_ptr_null(ek_add(other, x, y));
    ck_error(EK_ERR_STATE, "add: input 1 belongs to another tape; ek_tensor_clone() it to carry it over");
    ek_tape_reset(other);
    ck_assert_ptr_null(ek_detach(other, y));
    ck_error(EK_ERR_STATE, "detach: the input belongs to another tape; ek_tensor_clone() it to carry it over");
    ek_tape_reset(other);
    ck_made(ek_affine(other, x, 2, 0));
    ck_assert_int_eq(ek_backward(other, y), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: the tensor belongs to another tape");
    ck_ok(ek_backward(tape, y));
    ek_tensor_free(x);
    ek_tape_free(tape);
    ek_tape_free(other);
}
END_TEST

/* The gradient to start from is used in place, and never written to: not by ops that hand gradients on, nor where it is
 * the gradient of a leaf that the walk adds to. */
START_TEST(the_first_gradient_stays_the_callers)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(2))), *dy = ek_full(EK_F32, EK_SHAPE(2), 3);
    ek_tensor *inner = ek_affine(tape, x, 1, 0);
    ek_tensor *twice = ek_add(tape, inner, inner);
    ck_ok(ek_backward_from(tape, ek_reshape(tape, ek_add(tape, twice, inner), EK_SHAPE(2)), dy));
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 9);
    ck_assert(ek_tensor_at(dy, 0) == 3 && ek_tensor_at(dy, 1) == 3);
    ek_tape_reset(tape);
    ck_ok(ek_backward_from(tape, ek_mul(tape, x, x), ek_tensor_grad(x))); /* 9 + 9·x + 9·x */
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 27 && ek_tensor_at(ek_tensor_grad(x), 1) == 27);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_tape_free(tape);
}
END_TEST

START_TEST(backward_refuses)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(2))), *fixed = ek_ones(EK_F32, EK_SHAPE(2));
    ek_tensor *wide = ek_ones(EK_F64, EK_SHAPE(2)), *y = ek_affine(tape, x, 2, 0);
    ck_assert_int_eq(ek_backward(tape, y), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "backward: expected a loss of one element, got (2,); reduce it, or give its gradient to "
                           "ek_backward_from()");
    ck_assert_int_eq(ek_backward_from(tape, y, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "backward: the gradient to start from is NULL");
    ck_assert_int_eq(ek_backward_from(tape, y, wide), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "backward: expected a gradient of float32 (2,), got float64 (2,)");
    ck_assert_int_eq(ek_backward(tape, ek_sum(tape, fixed, EK_ALL_AXES, false)), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: the tensor does not depend on any leaf that requires a gradient");
    ck_assert_int_eq(ek_backward(tape, x), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: the tensor is a leaf itself, not the result of an op of this tape");
    ck_assert_int_eq(ek_backward(tape, fixed), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: the tensor does not depend on any leaf that requires a gradient");
    ek_clear_error();
    ck_assert_int_eq(ek_backward(tape, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "backward: the tensor is NULL");
    ck_assert_int_eq(ek_backward(NULL, y), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "backward: the tape is NULL");
    ck_assert_ptr_null(ek_tensor_grad(x));
    ck_ok(ek_backward_from(tape, y, fixed)); /* none of that used up the one backward */
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 2);
    ck_assert_int_eq(ek_backward_from(tape, y, fixed), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: one backward per recording; ek_tape_reset() and run the forward again");
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 2);
    ek_tensor_free(x);
    ek_tensor_free(fixed);
    ek_tensor_free(wide);
    ek_tape_free(tape);
}
END_TEST

START_TEST(a_tape_that_does_not_record)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(1000)));
    ck_assert(ek_tape_recording(tape));
    ck_ok(ek_tape_set_recording(tape, false));
    ek_tensor *y = ek_sum(tape, ek_mul(tape, x, x), EK_ALL_AXES, false);
    ck_assert(ek_item(y) == 1000 && !ek_tensor_requires_grad(y));
    ck_assert_int_eq(ek_backward(tape, y), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "backward: the tape does not record; ek_tape_set_recording(tape, true)");
    ck_assert_int_eq(ek_tape_set_recording(tape, true), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "tape_set_recording: the tape holds tensors; call ek_tape_reset() first");
    ck_ok(ek_tape_set_recording(tape, false));
    ek_tape_reset(tape);
    ck_ok(ek_tape_set_recording(tape, true));
    ck_ok(ek_backward(tape, ek_sum(tape, ek_mul(tape, x, x), EK_ALL_AXES, false)));
    ck_assert_int_eq(ek_tape_set_recording(NULL, true), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "tape_set_recording: the tape is NULL");
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

/* ---- gradients of leaves ----------------------------------------------------------------------------------------- */

START_TEST(gradients_accumulate_until_they_are_cleared)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *input = parameter(ek_full(EK_F32, EK_SHAPE(2), 3)), *unused = parameter(ek_ones(EK_F32, EK_SHAPE(2)));
    ek_tensor *frozen = ek_ones(EK_F32, EK_SHAPE(2));
    for (int pass = 1; pass <= 2; pass++) {
        ck_ok(ek_backward(tape, ek_sum(tape, ek_mul(tape, ek_mul(tape, input, input), frozen), EK_ALL_AXES, false)));
        ck_assert(ek_tensor_at(ek_tensor_grad(input), 0) == 6 * pass);
        ek_tape_reset(tape);
    }
    ck_assert_ptr_null(ek_tensor_grad(unused));
    ck_assert_ptr_null(ek_tensor_grad(frozen));
    ek_tensor_clear_grad(input);
    ck_assert_ptr_null(ek_tensor_grad(input));
    ck_ok(ek_backward(tape, ek_sum(tape, ek_add(tape, input, input), EK_ALL_AXES, false)));
    ck_assert(ek_tensor_at(ek_tensor_grad(input), 1) == 2); /* starts anew, also through a handed-on buffer */
    ek_tensor *all[] = {input, unused, frozen};
    for (int i = 0; i < 3; i++)
        ek_tensor_free(all[i]);
    ek_tape_free(tape);
}
END_TEST

START_TEST(no_gradient_flows_through_detach)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_full(EK_F64, EK_SHAPE(2), 3)), *u = ek_affine(tape, x, 2, 0);
    ek_tensor *stopped = ek_detach(tape, u);
    ck_assert_ptr_eq(ek_tensor_data(stopped), ek_tensor_data(u));
    ck_assert(!ek_tensor_requires_grad(stopped));
    ck_ok(ek_backward(tape, ek_sum(tape, ek_mul(tape, u, stopped), EK_ALL_AXES, false)));
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 12);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

START_TEST(branches_beside_the_loss_are_skipped)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F32, EK_SHAPE(2))), *u = ek_affine(tape, x, 2, 0);
    ek_tensor *loss = ek_sum(tape, u, EK_ALL_AXES, false);
    ck_made(ek_mul(tape, u, u)); /* recorded later, not part of the loss */
    ck_ok(ek_backward(tape, loss));
    ck_assert(ek_tensor_at(ek_tensor_grad(x), 0) == 2);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

START_TEST(an_empty_batch_gives_zero_gradients)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_zeros(EK_F32, EK_SHAPE(0, 3)), *w = parameter(ek_ones(EK_F32, EK_SHAPE(3)));
    ek_tensor *left = ek_mul(tape, x, w), *right = ek_slice(tape, ek_mul(tape, x, w), 0, 0, 0);
    ek_tensor *y = ek_concat(tape, (ek_tensor *[]){left, right}, 2, 1);
    ck_ok(ek_backward(tape, ek_sum(tape, ek_permute(tape, y, EK_AXES(1, 0)), EK_ALL_AXES, false)));
    for (int i = 0; i < 3; i++)
        ck_assert(ek_tensor_at(ek_tensor_grad(w), i) == 0);
    ek_tensor_free(x);
    ek_tensor_free(w);
    ek_tape_free(tape);
}
END_TEST

typedef struct seen_hook {
    ek_hook hook;
    double value;
    int calls;
} seen_hook;

static void see_gradient(const ek_hook *hook, const ek_tensor *gradient)
{
    seen_hook *seen = (seen_hook *)(void *)hook; /* const is for hooks that live in a tape; this one is ours */
    seen->value = ek_tensor_at(gradient, 0);
    seen->calls++;
}

START_TEST(hooks_see_complete_gradients)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = parameter(ek_ones(EK_F64, EK_SHAPE(1))), *u = ek_affine(tape, x, 2, 0);
    seen_hook seen = {.hook = {.call = see_gradient}};
    ek_tape_hook(u, &seen.hook);
    ck_ok(ek_backward(tape, ek_add(tape, ek_add(tape, u, u), u)));
    ck_assert(seen.calls == 1 && seen.value == 3);
    ek_tensor_free(x);
    ek_tape_free(tape);
}
END_TEST

START_TEST(integer_tensors_pass_shape_ops_without_a_record)
{
    ek_tape *tape = ek_tape_new();
    ek_tensor *labels = ek_arange(EK_I64, 0, 6, 1);
    ek_tensor *table = ek_reshape(tape, labels, EK_SHAPE(2, 3)), *turned = ek_permute(tape, table, EK_AXES(1, 0));
    ek_tensor *row = ek_slice(tape, turned, 0, 1, 2), *joined = ek_concat(tape, (ek_tensor *[]){turned, row}, 2, 0);
    static const int64_t expected[8] = {0, 3, 1, 4, 2, 5, 1, 4};
    ck_assert_mem_eq(ek_data_i64(joined), expected, sizeof expected);
    ck_assert(!ek_tensor_requires_grad(joined));
    ck_assert_ptr_null(tape->last);
    ck_assert_ptr_null(ek_relu(tape, labels));
    ck_error(EK_ERR_DTYPE, "relu: expected float32 or float64 for input 0, got int64; ek_tensor_cast() converts");
    ek_tensor_free(labels);
    ek_tape_free(tape);
}
END_TEST

int main(void)
{
    return RUN_TESTS("tape", a_step_in_steady_state_allocates_nothing, a_step_larger_than_the_first_chunk_settles_too,
                     memory_given_back_in_any_order_serves_a_larger_request, results_take_what_the_pool_gave_back,
                     every_refused_allocation_is_an_error_and_leaks_nothing, a_refused_chunk_is_asked_for_smaller,
                     both_inputs_may_be_the_same_tensor, gradients_that_are_handed_on_still_add_up,
                     backward_of_slices_costs_their_range_only, views_keep_their_leaf_alive_until_the_reset,
                     a_leaf_may_be_freed_between_forward_and_backward, tensors_of_a_tape_are_cloned_out,
                     the_first_error_survives_and_null_propagates, a_failed_tensor_from_outside_names_its_cause,
                     tapes_do_not_mix, the_first_gradient_stays_the_callers, backward_refuses,
                     a_tape_that_does_not_record,
                     gradients_accumulate_until_they_are_cleared, no_gradient_flows_through_detach,
                     branches_beside_the_loss_are_skipped, an_empty_batch_gives_zero_gradients,
                     hooks_see_complete_gradients, integer_tensors_pass_shape_ops_without_a_record);
}
