/* Modules: ownership, names, initialisation, forward and what it puts off, observers, summary. */
#include "support.h"

#include "module.h"

#include <pthread.h>


/* y = scale·x, with one random parameter so that initialisation has something to do. */
static ek_tensor *scale_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    return ek_affine(tape, x, *(double *)ek_module_state(module), 0);
}

static int destroyed;

static void count_destroyed(void *state)
{
    (void)state;
    destroyed++;
}

static const ek_module_def scale_def = {"scale", scale_forward, count_destroyed, sizeof(double)};

static ek_module *scale(double factor)
{
    ek_module *module = ek_module_new(&scale_def, "scale(%g)", factor);
    ck_made(module);
    *(double *)ek_module_state(module) = factor;
    ck_made(ek_module_add_parameter(module, "w", EK_SHAPE(3), (ek_init){EK_INIT_UNIFORM, 1}, true));
    return module;
}

static ek_tensor *leaf(void)
{
    ek_tensor *x = ek_from_array(EK_F32, EK_SHAPE(2), (float[]){1, 2});
    ck_made(x);
    ck_ok(ek_tensor_set_requires_grad(x, true));
    return x;
}

/* ---- ownership -------------------------------------------------------------------------------------------------- */

START_TEST(root_frees_all)
{
    destroyed = 0;
    ek_module *net = ek_sequential(scale(1), ek_sequential(scale(2), scale(3)));
    ck_made(net);
    ek_module_free(ek_module_child(net, 0)); /* has a parent: left alone */
    ck_assert_int_eq(destroyed, 0);
    ck_assert_int_eq(ek_module_num_children(net), 2);
    ck_assert_str_eq(ek_module_describe(ek_module_child(ek_module_child(net, 1), 0)), "scale(2)");
    ck_assert_str_eq(ek_module_type(net), "sequential");
    ck_assert_ptr_null(ek_module_child(net, 2));
    ck_error(EK_ERR_ARGUMENT, "expected an index below 2, got 2");
    ek_module_free(net);
    ck_assert_int_eq(destroyed, 3);
    ek_module_free(NULL);
}
END_TEST

START_TEST(sequential_owns_its_arguments_when_it_fails)
{
    destroyed = 0;
    ek_module *twice = scale(1);
    ck_assert_ptr_null(ek_sequential(twice, scale(2), twice));
    ck_error(EK_ERR_ARGUMENT, "sequential: modules 0 and 2 are the same scale(1); make one for each");
    ck_assert_int_eq(destroyed, 2);

    ek_clear_error();
    ck_assert_ptr_null(ek_sequential(scale(1), NULL));
    ck_error(EK_ERR_ARGUMENT, "sequential: the module at index 1 of 2 is NULL");
    ck_assert_int_eq(destroyed, 3);

    ek_fail(EK_ERR_SHAPE, "why(3): the cause");
    ck_assert_ptr_null(ek_sequential(scale(1), ek_sequential(NULL, scale(2)), scale(3)));
    ck_error(EK_ERR_SHAPE, "sequential: the module at index 1 of 3 is NULL; the last error was: sequential: the "
                           "module at index 0 of 2 is NULL; the last error was: why(3): the cause");
    ck_assert_int_eq(destroyed, 6);

    ck_assert_ptr_null(ek_sequential_from(-1, NULL));
    ck_error(EK_ERR_ARGUMENT, "sequential: expected a list of modules, got NULL of length -1");
}
END_TEST

START_TEST(sequential_of_a_module_and_its_own_child)
{
    destroyed = 0;
    ek_module *inner = scale(1), *outer = ek_sequential(inner);
    ck_assert_ptr_null(ek_sequential(scale(2), outer, inner));
    ck_error(EK_ERR_STATE, "scale(1) already is \"0\" of sequential");
    ck_assert_int_eq(destroyed, 2);

    inner = scale(1), outer = ek_sequential(inner);
    ck_assert_ptr_null(ek_sequential(scale(2), inner, outer, scale(3)));
    ck_error(EK_ERR_STATE, "scale(1) already is \"0\" of sequential");
    ck_assert_int_eq(destroyed, 5);

    /* The owner is none of the arguments: the child stays with it. */
    inner = scale(1), outer = ek_sequential(inner);
    ck_assert_ptr_null(ek_sequential(inner, scale(2)));
    ck_error(EK_ERR_STATE, "already is \"0\"");
    ck_assert_int_eq(destroyed, 6);
    ek_module_free(outer);
    ck_assert_int_eq(destroyed, 7);
}
END_TEST

START_TEST(add_child_fails_without_harm)
{
    destroyed = 0;
    ek_module *net = scale(1), *child = scale(2);
    ck_ok(ek_module_add_child(net, "a", child));
    ck_assert_int_eq(ek_module_add_child(net, "b", child), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "scale(2) already is \"a\" of scale(1), and a module has one parent");
    ck_assert_int_eq(destroyed, 0);
    const char *bad[] = {"a", "w", "x.y", "", NULL};
    for (int i = 0; i < 5; i++) {
        ck_assert_int_eq(ek_module_add_child(net, bad[i], scale(3)), EK_ERR_ARGUMENT);
        ck_assert_int_eq(destroyed, i + 1);
        ck_error(EK_ERR_ARGUMENT, i < 2 ? "scale(1) already has something named" : "expected a name without '.', got");
    }
    ck_assert_int_eq(ek_module_add_child(net, "self", net), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "scale(1) cannot be a child of itself");
    ck_assert_int_eq(ek_module_add_child(child, "cycle", net), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "scale(1) cannot be a child of a module below it");
    ek_fail(EK_ERR_SHAPE, "the cause");
    ck_assert_int_eq(ek_module_add_child(net, "n", NULL), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "module_add_child: the child is NULL; the last error was: the cause");
    ek_clear_error();
    ck_assert_int_eq(ek_module_add_child(NULL, "n", scale(4)), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "the module is NULL");
    ck_assert_int_eq(destroyed, 6);
    ek_module_free(net);
    ck_assert_int_eq(destroyed, 8);
}
END_TEST

START_TEST(definitions_and_slots_are_checked)
{
    ck_assert_ptr_null(ek_module_new(NULL, NULL));
    ck_error(EK_ERR_ARGUMENT, "module_new: expected a definition with a type and a forward function, got NULL");
    ck_assert_ptr_null(ek_module_new(&(ek_module_def){.forward = scale_forward}, NULL));
    ck_error(EK_ERR_ARGUMENT, "got no type");
    ck_assert_ptr_null(ek_module_new(&(ek_module_def){.type = "x"}, NULL));
    ck_error(EK_ERR_ARGUMENT, "got no forward function");
    ck_assert_ptr_null(ek_module_new(&(ek_module_def){"x", scale_forward, NULL, SIZE_MAX}, NULL));
    ck_error(EK_ERR_MEMORY, "module_new: x: no memory holds a state of");

    ek_module *m = scale(1);
    ek_init zeros = {EK_INIT_ZEROS, 0};
    ck_assert_ptr_null(ek_module_add_parameter(m, "w", EK_SHAPE(1), zeros, true));
    ck_error(EK_ERR_ARGUMENT, "module_add_parameter: scale(1) already has something named \"w\"");
    ck_assert_ptr_null(ek_module_add_buffer(m, "a.b", EK_F32, EK_SHAPE(1), 0));
    ck_error(EK_ERR_ARGUMENT, "module_add_buffer: scale(1): expected a name without '.', got \"a.b\"");
    ck_assert_ptr_null(ek_module_add_parameter(m, "v", EK_SHAPE(-1), zeros, true));
    ck_error(EK_ERR_SHAPE, "expected dimensions of 0 or more");
    ck_assert_ptr_null(ek_module_add_parameter(m, "v", EK_SHAPE(1), (ek_init){EK_INIT_NORMAL, -1}, true));
    ck_error(EK_ERR_ARGUMENT, "v: expected a finite scale of 0 or more, got -1");
    ck_assert_ptr_null(ek_module_add_parameter(m, "v", EK_SHAPE(1), (ek_init){(ek_init_kind)9, 1}, true));
    ck_error(EK_ERR_ARGUMENT, "v: there is no ek_init_kind 9");
    ek_clear_error();
    ck_assert_ptr_null(ek_module_add_buffer(NULL, "v", EK_F32, EK_SHAPE(1), 0));
    ck_error(EK_ERR_ARGUMENT, "module_add_buffer: the module is NULL");
    ek_module_free(m);
}
END_TEST

/* ---- names and initialisation ----------------------------------------------------------------------------------- */

static ek_status collect(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)tensor;
    char *text = user;
    strcat(text, name);
    strcat(text, kind == EK_PARAMETER ? " " : "* ");
    return EK_OK;
}

static ek_status stop_at_once(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    (void)name, (void)tensor, (void)kind;
    ++*(int *)user;
    return EK_DONE;
}

START_TEST(names_are_those_of_a_state_dict)
{
    ek_module *inner = scale(2), *net = ek_sequential(scale(1), ek_sequential(inner));
    ck_made(ek_module_add_buffer(inner, "count", EK_I64, EK_SCALAR, 7));
    ck_made(ek_module_add_parameter(inner, "b", EK_SHAPE(2, 2), (ek_init){EK_INIT_ONES, 0}, false));
    ck_ok(ek_module_add_child(inner, "deep", scale(3)));
    char text[200] = "";
    ck_ok(ek_module_visit(net, collect, text));
    ck_assert_str_eq(text, "0.w 1.0.w 1.0.b 1.0.count* 1.0.deep.w ");
    text[0] = '\0';
    ck_ok(ek_module_visit(inner, collect, text)); /* relative to what was asked */
    ck_assert_str_eq(text, "w b count* deep.w ");
    int calls = 0;
    ck_assert_int_eq(ek_module_visit(net, stop_at_once, &calls), EK_DONE);
    ck_assert_int_eq(calls, 1);

    ck_assert(ek_item(ek_module_buffer(net, "1.0.count")) == 7);
    ck_assert(ek_tensor_at(ek_module_parameter(net, "1.0.b"), 3) == 1);
    ck_assert_ptr_null(ek_module_parameter(net, "1.0.count"));
    ck_error(EK_ERR_ARGUMENT, "module_parameter: sequential has no parameter named \"1.0.count\"; there are: 0.w, "
                              "1.0.w, 1.0.b, 1.0.deep.w");
    ck_assert_ptr_null(ek_module_parameter(net, "2.w"));
    ck_assert_ptr_null(ek_module_parameter(net, NULL));
    ck_assert_ptr_null(ek_module_buffer(net, "nothing"));
    ck_error(EK_ERR_ARGUMENT, "has no buffer named \"nothing\"; there are: 1.0.count");
    ck_assert_int_eq(ek_module_count_parameters(net), 3 + 3 + 4 + 3);
    ck_ok(ek_tensor_set_requires_grad(ek_module_parameter(net, "1.0.b"), false));
    ck_assert_int_eq(ek_module_count_parameters(net), 9);
    ek_module_free(net);
}
END_TEST

START_TEST(initialisation_does_not_depend_on_order)
{
    ek_module *second = scale(2), *first = scale(1), *a = ek_sequential(first, second);
    ek_module *b = ek_sequential(scale(1), scale(2));
    ck_ok(ek_module_init(a, 5));
    ck_ok(ek_module_init(b, 5));
    ck_assert(ek_tensor_equal(ek_module_parameter(a, "0.w"), ek_module_parameter(b, "0.w")));
    ck_assert(ek_tensor_equal(ek_module_parameter(a, "1.w"), ek_module_parameter(b, "1.w")));
    ck_assert(!ek_tensor_equal(ek_module_parameter(a, "0.w"), ek_module_parameter(a, "1.w")));
    ek_tensor *old = ek_tensor_clone(ek_module_parameter(a, "0.w"));
    ck_ok(ek_module_init(a, 6));
    ck_assert(!ek_tensor_equal(ek_module_parameter(a, "0.w"), old));
    /* A part of a net is drawn as it would be within the whole. */
    ck_ok(ek_module_init(ek_module_child(a, 0), 5));
    ck_assert(ek_tensor_equal(ek_module_parameter(a, "0.w"), old));
    ek_tensor_free(old);
    ek_module_free(a);
    ek_module_free(b);
}
END_TEST

START_TEST(initialisation_by_itself_overwrites_nothing)
{
    ek_module *net = ek_sequential(scale(1)), *explicit = ek_sequential(scale(1), scale(2));
    float mine[3] = {7, 8, 9};
    ck_ok(ek_tensor_write(ek_module_parameter(net, "0.w"), mine, sizeof mine));
    /* A layer that comes later is drawn; what is there stays. */
    ck_ok(ek_module_add_child(net, "1", scale(2)));
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf();
    ck_made(ek_forward(ek_module_child(net, 0), tape, x));
    ck_ok(ek_module_init(explicit, 0));
    ck_assert(ek_tensor_at(ek_module_parameter(net, "0.w"), 2) == 9);
    ck_assert(ek_tensor_equal(ek_module_parameter(net, "1.w"), ek_module_parameter(explicit, "1.w")));
    ck_made(ek_module_add_parameter(ek_module_child(net, 0), "v", EK_SHAPE(3), (ek_init){EK_INIT_NORMAL, 1}, true));
    ck_made(ek_forward(net, tape, x));
    ck_assert(ek_tensor_at(ek_module_parameter(net, "0.w"), 2) == 9);
    ck_assert(ek_tensor_at(ek_module_parameter(net, "0.v"), 2) != 0);
    /* Constants are there from the start, so a write before the first forward holds, too. */
    ek_tensor *c = ek_module_add_parameter(net, "c", EK_SHAPE(1), (ek_init){EK_INIT_ZEROS, 0}, true);
    ck_ok(ek_tensor_write(c, &(float){4}, sizeof(float)));
    ck_made(ek_forward(net, tape, x));
    ck_assert(ek_item(c) == 4);
    /* An explicit init starts everything anew, buffers included. */
    ek_tensor *b = ek_module_add_buffer(net, "b", EK_F32, EK_SHAPE(1), 3);
    ck_ok(ek_tensor_write(b, &(float){4}, sizeof(float)));
    ck_ok(ek_module_init(net, 0));
    ck_assert(ek_item(c) == 0 && ek_item(b) == 3);
    ck_assert_int_eq(ek_module_init(NULL, 0), EK_ERR_ARGUMENT);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    ek_module_free(explicit);
}
END_TEST

/* ---- forward ---------------------------------------------------------------------------------------------------- */

static ek_tensor *failing_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    (void)tape, (void)x;
    switch (*(int *)ek_module_state(module)) {
    case 0: ek_fail(EK_ERR_SHAPE, "my own words"); return NULL;
    case 1: return NULL;
    case 2: ek_affine(tape, NULL, 1, 0); return x; /* swallows an error */
    case 3: return ek_forward(module, tape, x);    /* endless */
    default: return x;
    }
}

static ek_module *failing(int how)
{
    static const ek_module_def def = {"failing", failing_forward, NULL, sizeof(int)};
    ek_module *module = ek_module_new(&def, "failing(%d)", how);
    *(int *)ek_module_state(module) = how;
    return module;
}

START_TEST(errors_say_where)
{
    const char *words[] = {"my own words", "failing(1): its forward function returned NULL without an error",
                           "affine: input 0 is NULL", "modules call each other more than 1000 deep"};
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf();
    for (int how = 0; how < 4; how++) {
        ek_module *net = ek_sequential(scale(1), ek_sequential(scale(2), failing(how)));
        ek_fail(EK_ERR_IO, "something long ago");
        ck_assert_ptr_null(ek_forward(net, tape, x));
        ck_error(ek_tape_status(tape), words[how]);
        ck_assert_ptr_nonnull(strstr(ek_last_error(), " [in layer \"1.1\": failing("));
        ck_assert_str_eq(ek_last_error(), ek_tape_error(tape));
        ck_assert_ptr_null(strstr(strstr(ek_last_error(), "[in layer") + 1, "[in layer"));
        ck_assert_int_eq(tape->depth, 0);
        /* The first cause survives. */
        ek_fail(EK_ERR_IO, "something else");
        ck_assert_ptr_null(ek_forward(net, tape, x));
        ck_error(ek_tape_status(tape), words[how]);
        ek_tape_reset(tape);
        ek_module_free(net);
    }
    ek_module *lone = failing(0);
    ck_assert_ptr_null(ek_forward(lone, tape, x));
    ck_assert_str_eq(ek_last_error(), "my own words");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_forward(lone, tape, NULL));
    ck_error(EK_ERR_ARGUMENT, "failing(0): the input is NULL");
    ek_tape_reset(tape);
    ck_assert_ptr_null(ek_forward(NULL, tape, x));
    ck_error(EK_ERR_ARGUMENT, "forward: the module is NULL");
    ck_assert_ptr_null(ek_forward(lone, NULL, x));
    ck_error(EK_ERR_ARGUMENT, "forward: the tape is NULL");
    ek_tape_reset(tape);
    ek_tape *other = ek_tape_new();
    ck_assert_ptr_null(ek_forward(lone, tape, ek_relu(other, x)));
    ck_error(EK_ERR_STATE, "forward: failing(0): the input belongs to another tape");
    ek_module_free(lone);
    ek_tape_free(other);
    ek_tape_free(tape);
    ek_tensor_free(x);
}
END_TEST

/* Counts forwards that succeeded and failed, in its buffers, as a norm would. */
static void counted(ek_module *module, const void *data, bool succeeded)
{
    ck_assert_int_eq(*(const int *)data, 42);
    *ek_data_i64(ek_module_buffer(module, succeeded ? "good" : "bad")) += 1;
}

static ek_tensor *counter_forward(ek_module *module, ek_tape *tape, ek_tensor *x)
{
    int data = 42;
    if (ek_after_forward(tape, module, counted, &data, sizeof data) != EK_OK)
        return NULL;
    data = 0; /* it was copied */
    return ek_affine(tape, x, 1, 0);
}

static ek_module *counter(void)
{
    static const ek_module_def def = {"counter", counter_forward, NULL, 0};
    ek_module *module = ek_module_new(&def, NULL);
    bool complete = ek_module_add_buffer(module, "good", EK_I64, EK_SCALAR, 0) &&
                    ek_module_add_buffer(module, "bad", EK_I64, EK_SCALAR, 0);
    return ek_module_complete(module, complete);
}

START_TEST(statistics_move_with_a_forward_that_succeeded)
{
    ek_module *net = ek_sequential(counter(), counter(), failing(9));
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf();
    ck_made(ek_forward(net, tape, x));
    ck_assert(ek_item(ek_module_buffer(net, "0.good")) == 1 && ek_item(ek_module_buffer(net, "1.good")) == 1);
    ek_tape_reset(tape);
    *(int *)ek_module_state(ek_module_child(net, 2)) = 0;
    ck_assert_ptr_null(ek_forward(net, tape, x));
    ck_assert(ek_item(ek_module_buffer(net, "0.good")) == 1 && ek_item(ek_module_buffer(net, "0.bad")) == 1);
    /* A failed tape calls nothing. */
    ck_assert_ptr_null(ek_forward(net, tape, x));
    ck_assert(ek_item(ek_module_buffer(net, "0.bad")) == 1);
    ek_tape_reset(tape);
    *(int *)ek_module_state(ek_module_child(net, 2)) = 9;
    tape->leaves_modules_alone = true;
    ck_made(ek_forward(net, tape, x));
    ck_assert(ek_item(ek_module_buffer(net, "0.good")) == 1 && ek_item(ek_module_buffer(net, "0.bad")) == 1);
    ck_assert_int_eq(ek_after_forward(tape, net, counted, NULL, 0), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "after_forward: sequential: no forward is running on this tape");
    ck_assert_int_eq(ek_tape_status(tape), EK_ERR_STATE);
    ek_tape_reset(tape);
    ck_assert_int_eq(ek_after_forward(tape, net, NULL, NULL, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "after_forward: the function is NULL");
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(modes_reach_every_module)
{
    ek_module *net = ek_sequential(scale(1), ek_sequential(scale(2)));
    ek_module *deep = ek_module_child(ek_module_child(net, 1), 0);
    ck_assert(ek_module_is_training(deep));
    ek_module_eval(net);
    ck_assert(!ek_module_is_training(net) && !ek_module_is_training(deep));
    ek_module_train(ek_module_child(net, 1));
    ck_assert(!ek_module_is_training(net) && ek_module_is_training(deep));
    ck_assert(!ek_module_is_training(NULL));
    ek_module_free(net);
}
END_TEST

START_TEST(conversion_is_in_place)
{
    ek_module *net = ek_sequential(scale(1), counter());
    ek_tensor *w = ek_module_parameter(net, "0.w"), *held = ek_tensor_retain(w);
    ek_tensor *before = ek_tensor_cast(w, EK_F64);
    ck_ok(ek_module_to(net, EK_F64));
    ck_assert_ptr_eq(ek_module_parameter(net, "0.w"), w);
    ck_assert(ek_tensor_equal(held, before) && ek_tensor_requires_grad(held));
    ck_assert_int_eq(ek_tensor_dtype(ek_module_buffer(net, "1.good")), EK_I64);
    ek_tensor *v = ek_module_add_parameter(net, "v", EK_SHAPE(1), (ek_init){EK_INIT_ONES, 0}, true);
    ck_assert_int_eq(ek_tensor_dtype(v), EK_F64);
    ck_assert_int_eq(ek_module_to(net, EK_I64), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "module_to: expected float32 or float64, got int64");
    ck_assert_int_eq(ek_module_to(NULL, EK_F32), EK_ERR_ARGUMENT);
    ek_module_free(net);
    ck_assert(ek_tensor_equal(held, before)); /* parameters may outlive their module */
    ek_tensor_free(held);
    ek_tensor_free(before);
}
END_TEST

/* ---- observers -------------------------------------------------------------------------------------------------- */

static void note(void *user, const char *name, const ek_module *module, ek_event event, const ek_tensor *tensor)
{
    char *text = user;
    sprintf(text + strlen(text), "%s\"%s\" %s %g; ", event == EK_EVENT_OUTPUT ? "" : "d", name,
            ek_module_describe(module), ek_tensor_at(tensor, 1));
}

START_TEST(conversion_between_forward_and_backward_is_found)
{
    ek_module *net = ek_sequential(ek_linear(2, 3, NULL), ek_relu_layer());
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf();
    ck_ok(ek_module_to(net, EK_F32));
    ek_tensor *loss = ek_sum(tape, ek_forward(net, tape, x), EK_ALL_AXES, false);
    ck_made(loss);
    ck_ok(ek_module_to(net, EK_F64));
    ck_assert_int_eq(ek_backward(tape, loss), EK_ERR_STATE);
    ck_error(EK_ERR_STATE,
             "backward: linear: input 1 was float32 in the forward and is float64 now; call ek_module_to() "
             "while no tape holds a forward of the module");
    ck_assert_ptr_null(ek_tensor_grad(x));
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
}
END_TEST

START_TEST(observers_see_outputs_and_gradients)
{
    ek_module *net = ek_sequential(scale(2), ek_sequential(scale(3)));
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf(), *dy = ek_from_array(EK_F32, EK_SHAPE(2), (float[]){1, 10});
    char all[400] = "", part[400] = "";
    ck_ok(ek_module_observe(net, note, all));
    ck_ok(ek_module_observe(ek_module_child(net, 1), note, part));
    ek_tensor *y = ek_forward(net, tape, x);
    ck_made(y);
    ck_ok(ek_backward_from(tape, y, dy));
    /* x = 2, dL/dy = 10: 2·2 = 4, 4·3 = 12; back 10, then 10·3 = 30. */
    ck_assert_str_eq(all, "\"0\" scale(2) 4; \"1.0\" scale(3) 12; \"1\" sequential 12; \"\" sequential 12; "
                          "d\"\" sequential 10; d\"1\" sequential 10; d\"1.0\" scale(3) 10; d\"0\" scale(2) 30; ");
    ck_assert_str_eq(part, "\"0\" scale(3) 12; \"\" sequential 12; d\"\" sequential 10; d\"0\" scale(3) 10; ");
    ek_tape_reset(tape);
    /* One taken away between forward and backward is not called. */
    all[0] = part[0] = '\0';
    y = ek_forward(net, tape, x);
    ck_ok(ek_module_observe(net, NULL, NULL));
    ck_ok(ek_backward_from(tape, y, dy));
    ck_assert_ptr_null(strchr(all, 'd'));
    ck_assert_int_eq(ek_module_observe(NULL, note, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "module_observe: the module is NULL");
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_tensor_free(dy);
    ek_module_free(net);
}
END_TEST

/* ---- summary ---------------------------------------------------------------------------------------------------- */

static void running_note(const ek_module *module, char *text)
{
    (void)module;
    snprintf(text, EK_NOTE_BYTES, "running ← 0.9·running + 0.1·batch");
}

/* A file in memory, read back as text. */
static void summarise(ek_module *net, ek_tensor *x, char *text, size_t bytes)
{
    FILE *file = tmpfile();
    ck_made(file);
    ck_ok(ek_module_summary(net, x, file));
    rewind(file);
    text[fread(text, 1, bytes - 1, file)] = '\0';
    fclose(file);
}

START_TEST(summary_is_a_table)
{
    ek_module *norm = counter(), *unused = scale(9);
    norm->note = running_note;
    norm->centers_axis = 1;
    ek_module *net = ek_sequential(scale(2), norm, ek_sequential(scale(3), ek_flatten_layer(), ek_relu_layer()));
    ek_module_child(net, 0)->bias_axis = -1;
    ck_ok(ek_module_add_child(norm, "extra", unused));
    ck_ok(ek_tensor_set_requires_grad(ek_module_parameter(net, "2.0.w"), false));
    ek_module_eval(ek_module_child(net, 2));
    char calls[400] = "", text[2000];
    ck_ok(ek_module_observe(net, note, calls));
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(5, 4));
    summarise(net, x, text, sizeof text);
    ck_assert_str_eq(text, "name     layer       output      parameters\n"
                           "-        sequential  (5, 4)               0\n"
                           "0        scale(2)    (5, 4)               3\n"
                           "1        counter     (5, 4)               0\n"
                           "1.extra  scale(9)    not used             3\n"
                           "2        sequential  (5, 4)               0\n"
                           "2.0      scale(3)    (5, 4)               3\n"
                           "2.1      flatten     (5, 4)               0\n"
                           "2.2      relu        (5, 4)               0\n"
                           "9 parameters, 36 bytes (6 trained); 2 values in buffers, 16 bytes\n"
                           "1: running ← 0.9·running + 0.1·batch\n"
                           "the bias of 0 (scale) is cancelled by 1 (counter): set opts.bias = false\n");
    /* Nothing was changed and nobody called. */
    ck_assert_str_eq(calls, "");
    ck_assert(ek_module_is_training(net) && !ek_module_is_training(ek_module_child(net, 2)));
    ck_assert(ek_item(ek_module_buffer(net, "1.good")) == 0);
    /* A bias along another axis is not lost. */
    ek_tensor *deep = ek_ones(EK_F32, EK_SHAPE(2, 3, 4));
    summarise(net, deep, text, sizeof text);
    ck_assert_ptr_null(strstr(text, "cancelled"));
    ck_ok(ek_module_add_child(net, "3", failing(0)));
    ck_assert_int_eq(ek_module_summary(net, x, stdout), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "my own words [in layer \"3\": failing(0)]");
    ck_assert(ek_module_is_training(net) && !ek_module_is_training(ek_module_child(net, 2)));
    ck_assert_int_eq(ek_module_summary(net, NULL, stdout), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "module_summary: the example is NULL");
    ek_tensor_free(x);
    ek_tensor_free(deep);
    ek_module_free(net);
}
END_TEST

/* ---- threads, depth, memory ------------------------------------------------------------------------------------- */

typedef struct serving {
    ek_module *net;
    ek_tensor *x, *expected;
    bool same;
} serving;

static void *serve(void *context)
{
    serving *s = context;
    ek_tape *tape = ek_tape_new();
    s->same = tape && ek_tape_set_recording(tape, false) == EK_OK;
    for (int i = 0; s->same && i < 200; i++) {
        s->same = ek_tensor_equal(ek_forward(s->net, tape, s->x), s->expected);
        ek_tape_reset(tape);
    }
    ek_tape_free(tape);
    return NULL;
}

START_TEST(two_threads_serve_one_net)
{
    ek_module *net = ek_sequential(scale(2), ek_relu_layer(), ek_sequential(scale(3)));
    ck_ok(ek_module_init(net, 1));
    ek_module_eval(net);
    ek_tensor *x = leaf(), *expected = ek_from_array(EK_F32, EK_SHAPE(2), (float[]){6, 12});
    serving work[2] = {{net, x, expected, false}, {net, x, expected, false}};
    pthread_t thread[2];
    for (int i = 0; i < 2; i++)
        ck_assert_int_eq(pthread_create(&thread[i], NULL, serve, &work[i]), 0);
    for (int i = 0; i < 2; i++) {
        pthread_join(thread[i], NULL);
        ck_assert(work[i].same);
    }
    ek_tensor_free(x);
    ek_tensor_free(expected);
    ek_module_free(net);
}
END_TEST

START_TEST(deep_trees)
{
    destroyed = 0;
    ek_module *net = ek_sequential(scale(1));
    for (int i = 0; i < 3000; i++) {
        net = ek_sequential(net);
        ck_made(net);
    }
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = leaf();
    ck_assert_ptr_null(ek_forward(net, tape, x)); /* refused, not overflowing the stack */
    ck_error(EK_ERR_STATE, "modules call each other more than 1000 deep");
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    ck_assert_int_eq(destroyed, 1);
}
END_TEST

/* A conversion that failed has converted nothing. */
static void assert_float32(const ek_module *net)
{
    for (const ek_module *m = net; m; m = ek_module_next(net, m)) {
        for (int i = 0; i < m->parameters.n; i++)
            ck_assert_int_ne(m->parameters.at[i].tensor->dtype, EK_F64);
        for (int i = 0; i < m->buffers.n; i++)
            ck_assert_int_ne(m->buffers.at[i].tensor->dtype, EK_F64);
    }
}

static ek_status use_a_net(void)
{
    ek_module *norm = counter();
    ek_module *net = ek_sequential(ek_relu_layer(), ek_sequential(ek_flatten_layer(), ek_tanh_layer()), norm);
    ek_module *late = net ? ek_leaky_relu_layer(0.1) : NULL;
    ek_status status = !net ? ek_last_status() : ek_module_add_child(net, "3", late);
    if (status == EK_OK && (!ek_module_add_parameter(net, "w", EK_SHAPE(3), (ek_init){EK_INIT_NORMAL, 1}, true) ||
                            !ek_module_add_buffer(late, "mean", EK_F32, EK_SHAPE(3), 1)))
        status = ek_last_status();
    ek_tensor *x = status == EK_OK ? ek_ones(EK_F32, EK_SHAPE(2, 3)) : NULL;
    ek_tape *tape = x ? ek_tape_new() : NULL;
    char calls[1000] = "";
    if (status == EK_OK && !tape)
        status = ek_last_status();
    if (status == EK_OK) {
        ek_tensor_set_requires_grad(x, true);
        ek_module_observe(net, note, calls);
        ek_tensor *loss = ek_mean(tape, ek_forward(net, tape, x), EK_ALL_AXES, false);
        status = ek_backward(tape, loss);
    }
    if (status == EK_OK) {
        status = ek_module_to(net, EK_F64);
        if (status != EK_OK)
            assert_float32(net);
    }
    if (status == EK_OK)
        status = ek_module_init(net, 3);
    if (status == EK_OK)
        status = ek_module_to(net, EK_F32);
    FILE *nowhere = fopen("/dev/null", "w");
    if (status == EK_OK)
        status = ek_module_summary(net, x, nowhere);
    fclose(nowhere);
    ek_tape_free(tape);
    ek_tensor_free(x);
    ek_module_free(net);
    return status;
}

START_TEST(memory_may_run_out_anywhere)
{
    ck_assert_int_gt(assert_survives_refusals(use_a_net), 40);
}
END_TEST

int main(void)
{
    return RUN_TESTS("module", root_frees_all, sequential_owns_its_arguments_when_it_fails,
                     sequential_of_a_module_and_its_own_child, add_child_fails_without_harm,
                     definitions_and_slots_are_checked, names_are_those_of_a_state_dict,
                     initialisation_does_not_depend_on_order, initialisation_by_itself_overwrites_nothing,
                     errors_say_where, statistics_move_with_a_forward_that_succeeded, modes_reach_every_module,
                     conversion_is_in_place, conversion_between_forward_and_backward_is_found,
                     observers_see_outputs_and_gradients, summary_is_a_table, two_threads_serve_one_net, deep_trees,
                     memory_may_run_out_anywhere);
}
