/* IDX files and data sets. */
#include "support_files.h"

#define BYTES(...) (const unsigned char[]){__VA_ARGS__}, sizeof((const unsigned char[]){__VA_ARGS__})

/* Three 2×2 images and their labels. */
static const unsigned char images[] = {0, 0, 8, 3, 0, 0, 0, 3,  0,  0,   0, 2, 0,   0,
                                       0, 2, 0, 255, 51, 102, 1, 2, 3, 4, 10, 20, 30, 40};
static const unsigned char labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 2, 0, 1};

/* The error of reading these bytes, stored and gzipped; `text` NULL: not as a gzip file. */
static void expect_refused(const void *bytes, size_t n, const char *text, const char *gzip_text)
{
    const char *path = temp_path("bad");
    write_file(path, bytes, n);
    ck_assert_ptr_null(ek_idx_read(path, EK_F32));
    ck_error(EK_ERR_FORMAT, text);
    ck_error(EK_ERR_FORMAT, path);
    if (!gzip_text)
        return;
    write_gzip(path, bytes, n);
    ck_assert_ptr_null(ek_idx_read(path, EK_F32));
    ck_error(EK_ERR_FORMAT, gzip_text);
    ck_error(EK_ERR_FORMAT, path);
}

START_TEST(element_types)
{
    static const struct {
        unsigned char type, bytes[24];
        size_t n;
        double values[3];
    } cases[] = {
        {8, {0, 7, 255}, 3, {0, 7, 255}},
        {9, {0x7F, 0x80, 0xFF}, 3, {127, -128, -1}},
        {11, {0x01, 0x02, 0x80, 0x00, 0xFF, 0xFF}, 6, {258, -32768, -1}},
        {12, {0, 1, 0, 0, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFE}, 12, {65536, -2147483648.0, -2}},
        {13, {0x3F, 0x80, 0, 0, 0xC0, 0x20, 0, 0, 0, 0, 0, 0}, 12, {1, -2.5, 0}},
        {14, {0x3F, 0xF0, 0, 0, 0, 0, 0, 0, 0xC0, 0x04, 0, 0, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0}, 24, {1, -2.5, 2}},
    };
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        unsigned char file[40] = {0, 0, cases[c].type, 1, 0, 0, 0, 3};
        memcpy(file + 8, cases[c].bytes, cases[c].n);
        write_file(temp_path("a"), file, 8 + cases[c].n);
        write_gzip(temp_path("a.gz"), file, 8 + cases[c].n);
        for (int dtype = EK_F32; dtype <= EK_I64; dtype++) {
            ek_tensor *a = ek_idx_read(temp_path("a"), (ek_dtype)dtype);
            ek_tensor *b = ek_idx_read(temp_path("a.gz"), (ek_dtype)dtype);
            if (dtype == EK_I64 && cases[c].type >= 13) {
                ck_assert_ptr_null(a);
                ck_error(EK_ERR_DTYPE, "idx_read: expected integer elements for int64, got float");
                continue;
            }
            ck_made(a);
            ck_assert(ek_tensor_equal(a, b));
            ck_assert_int_eq(ek_tensor_dtype(a), dtype);
            for (int i = 0; i < 3; i++)
                ck_assert_double_eq(ek_tensor_at(a, i), cases[c].values[i]);
            ek_tensor_free(a);
            ek_tensor_free(b);
        }
    }
}
END_TEST

START_TEST(bad_files)
{
    expect_refused("", 0, "truncated: 4 bytes of the magic number are missing",
                   "truncated: 4 bytes of the magic number are missing");
    expect_refused(BYTES(0, 0, 8), "truncated: 1 bytes of the magic number", "truncated: 1 bytes of the magic number");
    expect_refused("hello", 5, "is not an IDX file: expected the bytes 0, 0, a type (8, 9, 11 to 14) and a rank of 1 "
                   "to 8, got 104, 101, 108, 108", "is not an IDX file");
    expect_refused(BYTES(0, 0, 10, 1, 0, 0, 0, 0), "is not an IDX file", "is not an IDX file");
    expect_refused(BYTES(0, 0, 8, 0, 5), "got 0, 0, 8, 0", "got 0, 0, 8, 0");
    expect_refused(BYTES(0, 0, 8, 9, 5), "got 0, 0, 8, 9", "got 0, 0, 8, 9");
    expect_refused(BYTES(0, 0, 8, 2, 0, 0, 0, 1, 0, 0), "truncated: 2 bytes of the dimensions are missing",
                   "truncated: 2 bytes of the dimensions are missing");
    expect_refused(images, sizeof images - 1, "truncated: its header promises (3, 2, 2) elements, 12 bytes, which a "
                   "file of 27 bytes cannot hold", "truncated: 1 bytes of the elements are missing");
    unsigned char longer[sizeof images + 2] = {0};
    memcpy(longer, images, sizeof images);
    expect_refused(longer, sizeof longer, "has 2 bytes after the (3, 2, 2) elements that its header promises",
                   "has bytes after the (3, 2, 2) elements");
    /* A few bytes that ask for 4 GB, for a number of bytes above int64, for one just below. */
    expect_refused(BYTES(0, 0, 8, 1, 0xFF, 0xFF, 0xFF, 0xFF, 1), "promises (4294967295,) elements, 4294967295 bytes",
                   "promises (4294967295,) elements, 4294967295 bytes");
    expect_refused(BYTES(0, 0, 8, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1),
                   "the dimensions make no sense: ", "the dimensions make no sense: ");
    expect_refused(BYTES(0, 0, 14, 3, 0, 0, 0x0F, 0xFF, 0, 1, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF),
                   "which a file of 16 bytes cannot hold", "cannot hold");
    remove_temp();
}
END_TEST

START_TEST(bad_paths)
{
    ck_assert_ptr_null(ek_idx_read(NULL, EK_F32));
    ck_error(EK_ERR_ARGUMENT, "idx_read: expected a path, got NULL");
    ck_assert_ptr_null(ek_idx_read("/nonexistent/x", EK_F32));
    ck_error(EK_ERR_IO, "idx_read: cannot open /nonexistent/x: No such file or directory");
    ck_assert_ptr_null(ek_idx_read("/tmp", EK_F32));
    ck_error(EK_ERR_IO, "idx_read: expected a regular file, got /tmp, which is a directory");
    ck_assert_ptr_null(ek_idx_read("/dev/null", EK_F32));
    ck_error(EK_ERR_IO, "which is a pipe or a device");
    ck_assert_ptr_null(ek_idx_read("/dev/null", (ek_dtype)9));
    ck_error(EK_ERR_DTYPE, "idx_read: expected EK_F32, EK_F64 or EK_I64, got dtype 9");
}
END_TEST

/* Every truncation is refused; every flipped bit is refused or changes nothing (names and dates in gzip's header). */
START_TEST(damaged_gzip)
{
    const char *path = temp_path("images.gz");
    write_gzip(path, images, sizeof images);
    ek_tensor *whole = ek_idx_read(path, EK_F32);
    ck_made(whole);
    size_t n;
    unsigned char *bytes = read_file(path, &n);
    int refused = 0;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        write_byte(path, bit / 8, bytes[bit / 8] ^ (unsigned char)(1 << bit % 8));
        ek_tensor *t = ek_idx_read(path, EK_F32);
        ck_assert_msg(!t || ek_tensor_equal(t, whole), "flipping bit %zu changed the values", bit);
        refused += !t;
        ek_tensor_free(t);
        write_byte(path, bit / 8, bytes[bit / 8]);
    }
    for (size_t cut = n; cut-- > 0;) {
        cut_file(path, cut);
        ck_assert_msg(!ek_idx_read(path, EK_F32), "%zu of %zu bytes were accepted", cut, n);
        ck_assert_int_eq(ek_last_status(), EK_ERR_FORMAT);
    }
    ck_assert_int_gt(refused, (int)(8 * (n - 10))); /* all but some of the ten bytes of gzip's header */
    bytes[n - 5] ^= 1; /* the CRC is bytes n−8 … n−5 */
    write_file(path, bytes, n);
    ck_assert_ptr_null(ek_idx_read(path, EK_F32));
    ck_error(EK_ERR_FORMAT, "the compressed data is corrupt: incorrect data check");
    bytes[n - 5] ^= 1;
    unsigned char *more = malloc(2 * n);
    memcpy(more, bytes, n);
    memcpy(more + n, "xyz", 3);
    write_file(path, more, n + 3);
    ck_assert_ptr_null(ek_idx_read(path, EK_F32));
    ck_error(EK_ERR_FORMAT, "bytes follow the end of the compressed data");
    memcpy(more + n, bytes, n); /* a second member is more data, as for gunzip: here, trailing */
    write_file(path, more, 2 * n);
    ck_assert_ptr_null(ek_idx_read(path, EK_F32));
    ck_error(EK_ERR_FORMAT, "has bytes after the (3, 2, 2) elements");
    free(more);
    free(bytes);
    ek_tensor_free(whole);
    remove_temp();
}
END_TEST

/* One gzip file of two members, the second holding the last element: longer than one chunk as well. */
START_TEST(large_and_two_members)
{
    enum { N = 200001 };
    unsigned char *file = malloc(8 + N);
    memcpy(file, BYTES(0, 0, 8, 1, 0, 0x03, 0x0D, 0x41));
    for (int i = 0; i < N; i++)
        file[8 + i] = (unsigned char)((int64_t)i * i % 251);
    write_gzip(temp_path("a"), file, 7 + N);
    write_gzip(temp_path("b"), file + 7 + N, 1);
    size_t na, nb;
    unsigned char *a = read_file(temp_path("a"), &na), *b = read_file(temp_path("b"), &nb);
    unsigned char *both = malloc(na + nb);
    memcpy(both, a, na);
    memcpy(both + na, b, nb);
    write_file(temp_path("both"), both, na + nb);
    ek_tensor *t = ek_idx_read(temp_path("both"), EK_I64);
    ck_made(t);
    for (int i = 0; i < N; i++)
        ck_assert_int_eq(ek_data_i64(t)[i], (int64_t)i * i % 251);
    ek_tensor_free(t);
    free(a);
    free(b);
    free(both);
    free(file);
    remove_temp();
}
END_TEST

START_TEST(dataset_from_idx)
{
    write_file(temp_path("x"), images, sizeof images);
    write_gzip(temp_path("y"), labels, sizeof labels);
    ek_dataset *data = ek_dataset_from_idx(temp_path("x"), temp_path("y"), 0);
    ck_made(data);
    ck_assert_int_eq(ek_dataset_size(data), 3);
    ck_assert_int_eq(ek_dataset_num_classes(data), 3);
    ek_tensor *x = ek_dataset_x(data);
    char text[200];
    ck_assert_str_eq(ek_shape_text(ek_tensor_shape(x), text, sizeof text), "(3, 1, 2, 2)");
    ck_assert_int_eq(ek_tensor_dtype(x), EK_F32);
    ck_assert(ek_data_f32(x)[0] == 0 && ek_data_f32(x)[1] == 1 && ek_data_f32(x)[2] == 51 / 255.0f);
    ck_assert_int_eq(ek_data_i64(ek_dataset_y(data))[0], 2);
    ek_dataset_free(data);

    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), temp_path("y"), 2));
    ck_error(EK_ERR_ARGUMENT, "dataset_from_idx: expected labels of 0 to 1, got 2 for sample 0");
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("y"), temp_path("x"), 0));
    ck_error(EK_ERR_SHAPE, "dataset_from_idx: expected images (N, H, W) in ");
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), temp_path("x"), 0));
    ck_error(EK_ERR_SHAPE, "dataset_from_idx: expected labels (N), got (3, 2, 2)");
    write_file(temp_path("short"), BYTES(0, 0, 8, 1, 0, 0, 0, 2, 1, 1));
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), temp_path("short"), 0));
    ck_error(EK_ERR_SHAPE, "expected as many targets as samples, got 3 samples and 2 targets");
    write_file(temp_path("negative"), BYTES(0, 0, 9, 1, 0, 0, 0, 3, 1, 1, 0xFF));
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), temp_path("negative"), 0));
    ck_error(EK_ERR_ARGUMENT, "got -1 for sample 2");
    write_file(temp_path("float"), BYTES(0, 0, 13, 1, 0, 0, 0, 1, 0, 0, 0, 0));
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), temp_path("float"), 0));
    ck_error(EK_ERR_DTYPE, "dataset_from_idx: expected integer elements");
    write_file(temp_path("signed"), BYTES(0, 0, 9, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 1));
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("signed"), temp_path("y"), 0));
    ck_error(EK_ERR_DTYPE, "expected uint8, float32 or float64 pixels in ");
    write_file(temp_path("empty"), BYTES(0, 0, 8, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 2));
    write_file(temp_path("none"), BYTES(0, 0, 8, 1, 0, 0, 0, 0));
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("empty"), temp_path("none"), 0));
    ck_error(EK_ERR_ARGUMENT, "the data set is empty: expected at least one sample, got (0, 1, 2, 2)");
    ck_assert_ptr_null(ek_dataset_from_idx(temp_path("x"), NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "dataset_from_idx: expected a path, got NULL");
    remove_temp();
}
END_TEST

START_TEST(mnist_folder)
{
    write_gzip(temp_path("train-images-idx3-ubyte.gz"), images, sizeof images);
    write_file(temp_path("train-labels-idx1-ubyte"), labels, sizeof labels);
    char *folder = strdup(temp_path(""));
    ek_dataset *data = ek_dataset_from_mnist(folder, EK_TRAIN);
    ck_made(data);
    ck_assert_int_eq(ek_dataset_num_classes(data), 10);
    ek_dataset_free(data);
    ck_assert_ptr_null(ek_dataset_from_mnist(folder, EK_TEST));
    ck_error(EK_ERR_IO, "dataset_from_mnist: expected t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz in ");
    ck_assert_ptr_null(ek_dataset_from_mnist(NULL, EK_TEST));
    ck_error(EK_ERR_ARGUMENT, "dataset_from_mnist: expected a folder and EK_TRAIN or EK_TEST, got NULL and 1");
    ck_assert_ptr_null(ek_dataset_from_mnist(folder, (ek_split)2));
    ck_error(EK_ERR_ARGUMENT, "and 2");
    free(folder);
    remove_temp();
}
END_TEST

START_TEST(real_mnist)
{
    if (!have_mnist("real_mnist"))
        return;
    ek_dataset *train = ek_dataset_from_mnist(SHARED_DATA_DIR "/mnist", EK_TRAIN);
    ek_dataset *test = ek_dataset_from_mnist(SHARED_DATA_DIR "/mnist", EK_TEST);
    ck_made(train);
    ck_made(test);
    ck_assert_int_eq(ek_dataset_size(train), 60000);
    ck_assert_int_eq(ek_dataset_size(test), 10000);
    double mean, std;
    ck_ok(ek_dataset_moments(train, &mean, &std));
    ck_assert_double_eq_tol(mean, 0.1307, 5e-5); /* the figures everyone normalizes MNIST with */
    ck_assert_double_eq_tol(std, 0.3081, 5e-5);
    ck_assert_int_eq(ek_data_i64(ek_dataset_y(train))[0], 5);
    ck_assert_int_eq(ek_data_i64(ek_dataset_y(test))[0], 7);
    ek_dataset_free(train);
    ek_dataset_free(test);
}
END_TEST

START_TEST(dataset_from_tensors)
{
    ek_tensor *x = ek_arange(EK_F32, 0, 12, 1), *wrong = ek_zeros(EK_F32, EK_SCALAR);
    int64_t label[] = {0, 3, 1};
    ek_tensor *rows = ek_from_array(EK_F32, EK_SHAPE(3, 4), ek_tensor_data(x));
    ek_tensor *y = ek_from_array(EK_I64, EK_SHAPE(3), label), *targets = ek_ones(EK_F64, EK_SHAPE(3, 2));
    ek_dataset *data = ek_dataset_from_tensors(rows, y, 0), *regression = ek_dataset_from_tensors(rows, targets, 0);
    ck_made(data);
    ck_made(regression);
    ck_assert_int_eq(ek_dataset_num_classes(data), 4);
    ck_assert_int_eq(ek_dataset_num_classes(regression), 0);
    ck_assert_ptr_eq(ek_dataset_x(data), rows);
    ek_tensor_free(targets);
    ek_dataset_free(regression);

    /* mean 5.5, variance (12² − 1)/12; normalizing leaves the caller's tensor alone */
    double mean, std;
    ck_ok(ek_dataset_moments(data, &mean, &std));
    ck_assert_int_eq(ek_dataset_moments(data, NULL, &std), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "dataset_moments: expected places for two numbers, got NULL for the mean");
    ck_assert_int_eq(ek_dataset_moments(data, &mean, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "dataset_moments: expected places for two numbers, got NULL for the std");
    ck_assert_double_eq(mean, 5.5);
    ck_assert_double_eq_tol(std, sqrt(143.0 / 12), 1e-15 * 12);
    ck_ok(ek_dataset_normalize(data, 1, 2));
    ck_assert_double_eq(ek_tensor_at(ek_dataset_x(data), 7), 3);
    ck_assert_double_eq(ek_tensor_at(rows, 7), 7);
    ck_assert_int_eq(ek_dataset_normalize(data, 0, 0), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "dataset_normalize: expected a finite mean and a std above 0, got 0 and 0");
    ck_assert_int_eq(ek_dataset_normalize(data, NAN, 1), EK_ERR_ARGUMENT);
    ck_assert_int_eq(ek_dataset_normalize(NULL, 0, 1), EK_ERR_ARGUMENT);
    ck_assert_double_eq(ek_tensor_at(ek_dataset_x(data), 7), 3);

    /* what nobody else owns is changed where it is, borrowed memory is not */
    const ek_tensor *own = ek_dataset_x(data);
    ck_ok(ek_dataset_normalize(data, 1, 0.5));
    ck_assert_ptr_eq(ek_dataset_x(data), own);
    ck_assert_double_eq(ek_tensor_at(own, 7), 4);
    ck_ok(ek_dataset_normalize(data, -2, 2));
    float borrowed[] = {1, 2};
    ek_tensor *held = ek_borrow(EK_F32, EK_SHAPE(2, 1), borrowed, NULL, NULL), *two = ek_zeros(EK_I64, EK_SHAPE(2));
    ek_dataset *on_loan = ek_dataset_from_tensors(held, two, 0);
    ck_made(on_loan);
    ek_tensor_free(held);
    ek_tensor_free(two);
    ck_ok(ek_dataset_normalize(on_loan, 1, 1));
    ck_assert_double_eq(ek_tensor_at(ek_dataset_x(on_loan), 1), 1);
    ck_assert_float_eq(borrowed[1], 2);
    ek_dataset_free(on_loan);

    ek_dataset *slice = ek_dataset_slice(data, 1, 3), *subset = ek_dataset_subset(data, (int64_t[]){2, 0, 2}, 3);
    ck_made(slice);
    ck_made(subset);
    ck_assert_int_eq(ek_dataset_size(slice), 2);
    ck_assert_int_eq(ek_dataset_num_classes(slice), 4);
    ck_assert_double_eq(ek_tensor_at(ek_dataset_x(slice), 0), 1.5);
    ck_assert_int_eq(ek_data_i64(ek_dataset_y(slice))[0], 3);
    ck_assert_int_eq(ek_dataset_size(subset), 3);
    ck_assert_double_eq(ek_tensor_at(ek_dataset_x(subset), 8), 3.5);
    ck_assert_int_eq(ek_data_i64(ek_dataset_y(subset))[2], 1);
    ck_assert_ptr_null(ek_dataset_slice(data, 1, 4));
    ck_error(EK_ERR_ARGUMENT, "dataset_slice: expected 0 ≤ start < stop ≤ 3, the number of samples, got start 1 and "
             "stop 4");
    ck_assert_ptr_null(ek_dataset_slice(data, 1, 1));
    ck_assert_ptr_null(ek_dataset_subset(data, (int64_t[]){1, 3}, 2));
    ck_error(EK_ERR_ARGUMENT, "dataset_subset: expected indices of 0 to 2, got 3 at place 1");
    ck_assert_ptr_null(ek_dataset_subset(data, NULL, 2));
    ck_error(EK_ERR_ARGUMENT, "dataset_subset: expected a data set and at least one index, got one and 0");
    ek_dataset_free(slice);
    ek_dataset_free(subset);
    ek_dataset_free(data);

    ck_assert_ptr_null(ek_dataset_from_tensors(rows, y, 3));
    ck_error(EK_ERR_ARGUMENT, "dataset_from_tensors: expected labels of 0 to 2, got 3 for sample 1");
    ck_assert_ptr_null(ek_dataset_from_tensors(x, y, 0));
    ck_error(EK_ERR_SHAPE, "expected as many targets as samples, got 12 samples and 3 targets");
    ck_assert_ptr_null(ek_dataset_from_tensors(wrong, y, 0));
    ck_error(EK_ERR_SHAPE, "expected samples (N, …) and targets (N) or (N, …), got () and (3,)");
    ck_assert_ptr_null(ek_dataset_from_tensors(rows, NULL, 0));
    ck_error(EK_ERR_ARGUMENT, "expected two tensors, got NULL for the targets");
    ck_assert_ptr_null(ek_dataset_from_tensors(x, x, 2));
    ck_error(EK_ERR_DTYPE, "expected int64 labels for 2 classes, got float32");
    ck_assert_ptr_null(ek_dataset_from_tensors(rows, y, -1));
    ck_error(EK_ERR_ARGUMENT, "expected num_classes of 0 or more, got -1");
    ek_tape *tape = ek_tape_new();
    ck_assert_ptr_null(ek_dataset_from_tensors(ek_detach(tape, rows), y, 0));
    ck_error(EK_ERR_STATE,
             "dataset_from_tensors: a tensor of a tape lives until ek_tape_reset(); ek_tensor_clone() it");
    ek_tape_free(tape);
    ek_dataset *integers = ek_dataset_from_tensors(y, y, 0);
    ck_made(integers);
    ck_assert_int_eq(ek_dataset_moments(integers, &mean, &std), EK_ERR_DTYPE);
    ck_error(EK_ERR_DTYPE, "dataset_moments: expected float samples, got int64");
    ek_dataset_free(integers);
    ek_tensor *nothing = ek_zeros(EK_F32, EK_SHAPE(ek_tensor_dim(y, 0), 0));
    ek_dataset *hollow = ek_dataset_from_tensors(nothing, y, 0);
    ck_made(hollow);
    ck_assert_int_eq(ek_dataset_moments(hollow, &mean, &std), EK_ERR_SHAPE);
    ck_error(EK_ERR_SHAPE, "dataset_moments: expected samples of at least one element, got (");
    ek_dataset_free(hollow);
    ek_tensor_free(nothing);
    ek_dataset_free(NULL);
    ek_tensor_free(x);
    ek_tensor_free(rows);
    ek_tensor_free(y);
    ek_tensor_free(wrong);
}
END_TEST

static ek_status read_pair(void)
{
    ek_dataset *data = ek_dataset_from_idx(temp_path("x"), temp_path("y.gz"), 0);
    ek_dataset_free(data);
    return data ? EK_OK : ek_last_status();
}

START_TEST(memory_runs_out)
{
    write_file(temp_path("x"), images, sizeof images);
    write_gzip(temp_path("y.gz"), labels, sizeof labels);
    ck_assert_int_gt(assert_survives_refusals(read_pair), 5);
    remove_temp();
}
END_TEST

int main(void)
{
    return RUN_TESTS("idx", element_types, bad_files, bad_paths, damaged_gzip, large_and_two_members, dataset_from_idx,
                     mnist_folder, real_mnist, dataset_from_tensors, memory_runs_out);
}
