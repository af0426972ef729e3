/* ek_save and ek_load. */
#include "support_files.h"

#define GOLDEN(name) TEST_DATA_DIR "/golden/npz/" name

static ek_module *make_net(int64_t features)
{
    ek_module *net = ek_sequential(ek_batch_norm1d(features, NULL), ek_layer_norm(EK_SHAPE(features), NULL),
                                   ek_sequential(ek_relu_layer(), ek_group_norm(2, features, NULL)));
    ck_made(net);
    return net;
}

/* Parameter or buffer `name`, element i is first + step·i. */
static void assert_values(ek_module *net, const char *name, double first, double step)
{
    ek_tensor *t = ek_module_parameter(net, name);
    if (!t)
        t = ek_module_buffer(net, name);
    ck_made(t);
    for (int64_t i = 0; i < ek_tensor_numel(t); i++)
        ck_assert_msg(fabs(ek_tensor_at(t, i) - first - step * (double)i) < 1e-6, "%s[%lld] is %g", name, (long long)i,
                      ek_tensor_at(t, i));
}

/* Copies of all parameters and buffers, and their comparison with what is there later. */
typedef struct snapshot {
    ek_tensor *tensors[40];
    int n, at;
    bool same;
} snapshot;

static ek_status copy_one(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    snapshot *all = user;
    (void)name;
    (void)kind;
    all->tensors[all->n++] = ek_tensor_clone(tensor);
    return EK_OK;
}

static ek_status compare_one(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    snapshot *all = user;
    (void)name;
    (void)kind;
    all->same = all->same && all->at < all->n && ek_tensor_equal(all->tensors[all->at], tensor);
    all->at++;
    return EK_OK;
}

static snapshot take_snapshot(ek_module *net)
{
    snapshot all = {.n = 0};
    ck_ok(ek_module_visit(net, copy_one, &all));
    return all;
}

static bool is_as_in(ek_module *net, snapshot *all)
{
    all->at = 0;
    all->same = true;
    ck_ok(ek_module_visit(net, compare_one, all));
    return all->same && all->at == all->n;
}

static void free_snapshot(snapshot *all)
{
    for (int i = 0; i < all->n; i++)
        ek_tensor_free(all->tensors[i]);
}

/* Gives every element of the net a value of its own. */
static ek_status fill_one(void *user, const char *name, ek_tensor *tensor, ek_state_kind kind)
{
    double *next = user;
    (void)name;
    (void)kind;
    for (int64_t i = 0; i < ek_tensor_numel(tensor); i++, ++*next)
        switch (ek_tensor_dtype(tensor)) {
        case EK_F32: ek_data_f32(tensor)[i] = (float)*next; break;
        case EK_F64: ek_data_f64(tensor)[i] = *next; break;
        case EK_I64: ek_data_i64(tensor)[i] = (int64_t)*next; break;
        }
    return EK_OK;
}

START_TEST(round_trip)
{
    const char *path = temp_path("net.npz");
    for (int dtype = EK_F32; dtype <= EK_F64; dtype++) {
        ek_module *a = make_net(6), *b = make_net(6);
        double next = 1;
        ck_ok(ek_module_to(a, (ek_dtype)dtype));
        ck_ok(ek_module_to(b, (ek_dtype)dtype));
        ck_ok(ek_module_visit(a, fill_one, &next));
        snapshot all = take_snapshot(a);
        ck_assert_int_eq(all.n, 9);
        ck_assert(!is_as_in(b, &all));
        ck_ok(ek_save(a, path));
        ck_ok(ek_load(b, path));
        ck_assert(is_as_in(a, &all) && is_as_in(b, &all));
        ck_assert_int_eq(count_temp(), 1);
        free_snapshot(&all);
        ek_module_free(a);
        ek_module_free(b);
    }
    ek_npz *npz = ek_npz_open(path);
    const char *const names[] = {"0.weight", "0.bias", "0.running_mean", "0.running_var", "0.num_batches_tracked",
                                 "1.weight", "1.bias", "2.1.weight", "2.1.bias"};
    ck_assert_int_eq(ek_npz_count(npz), 9);
    for (int i = 0; i < 9; i++)
        ck_assert_str_eq(ek_npz_name(npz, i), names[i]);
    ek_npz_close(npz);
    remove_temp();
}
END_TEST

/* A module that never ran keeps what was loaded when it runs for the first time. */
START_TEST(loaded_before_the_first_forward)
{
    ek_module *net = make_net(4);
    ck_ok(ek_load(net, GOLDEN("state_dict.npz")));
    snapshot all = take_snapshot(net);
    ek_module_eval(net);
    ek_tape *tape = ek_tape_new();
    ek_tensor *x = ek_ones(EK_F32, EK_SHAPE(2, 4));
    ck_made(ek_forward(net, tape, x));
    ck_assert(is_as_in(net, &all));
    free_snapshot(&all);
    ek_tensor_free(x);
    ek_tape_free(tape);
    ek_module_free(net);
}
END_TEST

/* Parameter k of the file is k, k + 1/8, …; its BatchNorm saw the columns {0, 4, 8} + c of three rows: mean 4 + c,
 * unbiased variance 16, momentum 0.1. */
START_TEST(state_dict_of_pytorch)
{
    ek_module *net = make_net(4);
    ck_ok(ek_load(net, GOLDEN("state_dict.npz")));
    assert_values(net, "0.weight", 0, 0.125);
    assert_values(net, "0.bias", 1, 0.125);
    assert_values(net, "1.weight", 2, 0.125);
    assert_values(net, "2.1.bias", 5, 0.125);
    assert_values(net, "0.running_mean", 0.4, 0.1);
    assert_values(net, "0.running_var", 2.5, 0);
    assert_values(net, "0.num_batches_tracked", 1, 0);
    ck_ok(ek_load(net, GOLDEN("state_dict_uncounted.npz"))); /* a counter that is missing reads as 0 */
    assert_values(net, "0.num_batches_tracked", 0, 0);
    assert_values(net, "0.running_mean", 0.4, 0.1);
    ek_module_free(net);
}
END_TEST

/* ---- refusals: the module is as it was --------------------------------------------------------------------------- */

static void expect_refused(ek_module *net, const char *path, const char *const *texts, int n)
{
    snapshot all = take_snapshot(net);
    ck_assert_int_eq(ek_load(net, path), EK_ERR_FORMAT);
    for (int i = 0; i < n; i++)
        ck_error(EK_ERR_FORMAT, texts[i]);
    ck_assert(is_as_in(net, &all));
    free_snapshot(&all);
}
#define EXPECT_REFUSED(net, path, ...)                                                                                 \
    expect_refused(net, path, (const char *const[]){__VA_ARGS__},                                                      \
                   (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)))

/* The order of an archive's entries means nothing. */
START_TEST(entries_in_another_order)
{
    static const char *const name[] = {"2.1.bias", "0.weight", "2.1.weight", "1.bias", "0.running_var", "0.bias",
                                       "0.num_batches_tracked", "1.weight", "0.running_mean"};
    enum { N = sizeof name / sizeof *name };
    ek_module *net = make_net(4), *other = make_net(4);
    double next = 1;
    ck_ok(ek_module_visit(net, fill_one, &next));
    const char *path = temp_path("net.npz");
    ek_npz_writer *writer = ek_npz_writer_new(path, 0);
    ck_made(writer);
    for (int i = 0; i < N; i++) {
        bool buffer = strstr(name[i], "running") || strstr(name[i], "tracked");
        ck_ok(ek_npz_writer_add(writer, name[i],
                                buffer ? ek_module_buffer(net, name[i]) : ek_module_parameter(net, name[i])));
    }
    ck_ok(ek_npz_writer_close(writer));
    ck_ok(ek_load(other, path));
    snapshot all = take_snapshot(net);
    ck_assert_int_eq(all.n, N);
    ck_assert(is_as_in(other, &all));
    free_snapshot(&all);
    ek_module_free(net);
    ek_module_free(other);
    remove_temp();
}
END_TEST

START_TEST(refusals)
{
    ek_module *net = make_net(4), *wide = make_net(6), *shorter = ek_sequential(ek_batch_norm1d(4, NULL));
    ek_module *longer = ek_sequential(ek_batch_norm1d(4, NULL), ek_layer_norm(EK_SHAPE(4), NULL),
                                      ek_sequential(ek_relu_layer(), ek_group_norm(2, 4, NULL)),
                                      ek_batch_norm1d(4, NULL));
    const char *path = temp_path("net.npz");
    ck_ok(ek_save(net, path));
    EXPECT_REFUSED(wide, path, "net.npz does not fit this module, which is left as it was; 0.weight: expected (6,), "
                   "got (4,); 0.bias: expected (6,), got (4,); ", "; 2.1.bias: expected (6,), got (4,)");
    EXPECT_REFUSED(shorter, path, "as it was; unexpected: 1.weight; unexpected: 1.bias; unexpected: 2.1.weight; "
                   "unexpected: 2.1.bias");
    EXPECT_REFUSED(longer, path, "as it was; missing: 3.weight; missing: 3.bias; missing: 3.running_mean; missing: "
                   "3.running_var");
    ck_assert(!strstr(ek_last_error(), "num_batches_tracked"));
    ck_ok(ek_module_to(net, EK_F64));
    EXPECT_REFUSED(net, path, "as it was; 0.weight: expected float64, got float32; ");

    /* More to say than a message holds. */
    ek_module *many[30];
    for (int i = 0; i < 30; i++)
        many[i] = ek_layer_norm(EK_SHAPE(4), NULL);
    ek_module *large = ek_sequential_from(30, many);
    ck_ok(ek_save(large, path));
    EXPECT_REFUSED(shorter, path, "; unexpected: 1.weight; ", " more");
    ck_assert_int_lt((int)strlen(ek_last_error()), 2047);
    ek_module_free(net);
    ek_module_free(wide);
    ek_module_free(shorter);
    ek_module_free(longer);
    ek_module_free(large);
    remove_temp();
}
END_TEST

/* Every truncation and a damaged value are refused before anything is touched. */
START_TEST(damaged_files)
{
    const char *path = temp_path("net.npz");
    size_t n;
    unsigned char *bytes = read_file(GOLDEN("state_dict.npz"), &n);
    ek_module *net = make_net(4);
    snapshot all = take_snapshot(net);
    for (size_t cut = 0; cut < n; cut += 7) {
        write_file(path, bytes, cut);
        ck_assert_int_eq(ek_load(net, path), EK_ERR_FORMAT);
        ck_assert(is_as_in(net, &all));
    }
    size_t directory = 0; /* the last array's data end where the directory begins */
    while (memcmp(bytes + directory, "PK\1\2", 4) != 0)
        directory++;
    bytes[directory - 1] ^= 1;
    write_file(path, bytes, n);
    ck_assert_int_eq(ek_load(net, path), EK_ERR_FORMAT);
    ck_error(EK_ERR_FORMAT, "entry '2.1.bias': its CRC is wrong: the data is damaged");
    ck_assert(is_as_in(net, &all));
    free(bytes);
    free_snapshot(&all);
    ek_module_free(net);
    remove_temp();
}
END_TEST

START_TEST(argument_errors)
{
    ek_module *net = make_net(4);
    ck_assert_int_eq(ek_save(NULL, "x"), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "save: expected a module and a path, got NULL for the module");
    ck_assert_int_eq(ek_load(net, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "load: expected a module and a path, got NULL for the path");
    ck_assert_int_eq(ek_load(net, "/nonexistent.npz"), EK_ERR_IO);
    ck_error(EK_ERR_IO, "cannot open /nonexistent.npz");
    ck_assert_int_eq(ek_save(net, "/nonexistent/a.npz"), EK_ERR_IO);
    ck_error(EK_ERR_IO, "cannot make a temporary file beside /nonexistent/a.npz");
    ek_module_free(net);
}
END_TEST

/* Memory runs out in saving: no file, not even a temporary one; in loading: the module is as it was. */
static ek_status make_and_save(void)
{
    const char *path = temp_path("net.npz");
    remove(path);
    ek_module *net = ek_sequential(ek_batch_norm1d(4, NULL));
    ek_status status = net ? ek_save(net, path) : ek_last_status();
    ck_assert_int_eq(count_temp(), status == EK_OK);
    ek_module_free(net);
    return status;
}

static ek_status make_and_load(void)
{
    ek_module *net = ek_sequential(ek_batch_norm1d(4, NULL));
    double next = 5;
    ek_status status = net ? ek_module_visit(net, fill_one, &next) : ek_last_status();
    if (status == EK_OK) {
        status = ek_load(net, temp_path("other.npz"));
        assert_values(net, "0.bias", status == EK_OK ? 0 : 9, status == EK_OK ? 0 : 1);
        assert_values(net, "0.num_batches_tracked", status == EK_OK ? 0 : 21, 0);
    }
    ek_module_free(net);
    return status;
}

START_TEST(memory_runs_out)
{
    ck_assert_int_gt(assert_survives_refusals(make_and_save), 10);
    ck_ok(make_and_save());
    ck_assert_int_eq(rename(temp_path("net.npz"), temp_path("other.npz")), 0);
    ck_assert_int_gt(assert_survives_refusals(make_and_load), 10);
    remove_temp();
}
END_TEST

int main(void)
{
    return RUN_TESTS("save_load", round_trip, loaded_before_the_first_forward, state_dict_of_pytorch,
                     entries_in_another_order, refusals, damaged_files, argument_errors, memory_runs_out);
}
