/* Reading and writing .npz archives. */
#include "support_files.h"

#include "npy.h"
#include "zip.h"

#include <signal.h>
#include <sys/resource.h>

#define GOLDEN(name) TEST_DATA_DIR "/golden/npz/" name

/* ---- archives that NumPy wrote ----------------------------------------------------------------------------------- */

static ek_tensor *read_entry(ek_npz *npz, const char *name, ek_dtype dtype, const char *shape)
{
    ek_tensor *t = ek_npz_read(npz, name);
    char text[200];
    ck_made(t);
    ck_assert_int_eq(ek_tensor_dtype(t), dtype);
    ck_assert_str_eq(ek_shape_text(ek_tensor_shape(t), text, sizeof text), shape);
    return t;
}

/* Element i is scale·i + first. */
static void assert_count(ek_npz *npz, const char *name, ek_dtype dtype, const char *shape, double scale, double first)
{
    ek_tensor *t = read_entry(npz, name, dtype, shape);
    for (int64_t i = 0; i < ek_tensor_numel(t); i++)
        ck_assert_msg(ek_tensor_at(t, i) == scale * (double)i + first, "%s element %lld is %g", name, (long long)i,
                      ek_tensor_at(t, i));
    ek_tensor_free(t);
}

START_TEST(written_by_numpy)
{
    const char *files[] = {GOLDEN("savez.npz"), GOLDEN("compressed.npz"), GOLDEN("streamed.npz")};
    for (int f = 0; f < 3; f++) {
        ek_npz *npz = ek_npz_open(files[f]);
        ck_made(npz);
        ck_assert_int_eq(ek_npz_count(npz), 13);
        ck_assert_str_eq(ek_npz_name(npz, 0), "0.weight");
        ck_assert_str_eq(ek_npz_name(npz, 12), "transposed");
        ck_assert_int_eq(ek_npz_find(npz, "i4"), 4);
        ck_assert_int_eq(ek_npz_find(npz, "i"), -1);
        assert_count(npz, "0.weight", EK_F32, "(2, 3)", 0.25, 0);
        assert_count(npz, "1.running_mean", EK_F64, "(5,)", 0.25, 0);
        assert_count(npz, "1.num_batches_tracked", EK_I64, "()", 0, 7);
        assert_count(npz, "empty", EK_F32, "(0, 3)", 0, 0);
        assert_count(npz, "i4", EK_I64, "(4,)", 1, -2);
        assert_count(npz, "i2", EK_I64, "(4,)", 1, -2);
        assert_count(npz, "i1", EK_I64, "(4,)", 1, -2);
        assert_count(npz, "u4", EK_I64, "(4,)", 1, 0);
        assert_count(npz, "u2", EK_I64, "(4,)", 1, 0);
        assert_count(npz, "u1", EK_I64, "(2, 2)", 1, 0);
        assert_count(npz, "fortran", EK_F32, "(2, 3, 4)", 0.25, 0);
        ek_tensor *t = read_entry(npz, "bool", EK_I64, "(4,)");
        for (int i = 0; i < 4; i++)
            ck_assert_int_eq(ek_data_i64(t)[i], i % 2);
        ek_tensor_free(t);
        t = read_entry(npz, "transposed", EK_F64, "(2, 3)");
        for (int i = 0; i < 6; i++)
            ck_assert_double_eq(ek_tensor_at(t, i), (i % 3 * 2 + i / 3) / 4.0);
        ek_tensor_free(t);
        ek_npz_close(npz);
    }
}
END_TEST

START_TEST(versions_and_64_bit_records)
{
    ek_npz *npz = ek_npz_open(GOLDEN("versions.npz"));
    ck_made(npz);
    ck_assert_int_eq(ek_npz_count(npz), 3);
    assert_count(npz, "v1", EK_I64, "(2, 3)", 1, 0);
    assert_count(npz, "v2", EK_I64, "(2, 3)", 1, 0);
    assert_count(npz, "v3", EK_I64, "(2, 3)", 1, 0);
    ek_npz_close(npz);
    npz = ek_npz_open(GOLDEN("zip64.npz"));
    ck_made(npz);
    assert_count(npz, "a", EK_F32, "(6,)", 1, 0);
    assert_count(npz, "b", EK_I64, "(3,)", 1, 0);
    ek_npz_close(npz);
    npz = ek_npz_open(GOLDEN("nothing.npz"));
    ck_made(npz);
    ck_assert_int_eq(ek_npz_count(npz), 0);
    ek_npz_close(npz);
}
END_TEST

START_TEST(types_that_cannot_be_read)
{
    const struct {
        const char *path, *name, *text;
    } cases[] = {
        {GOLDEN("records.npz"), "arr_0", "entry 'arr_0': expected an array of numbers, got one of records"},
        {GOLDEN("half.npz"), "x", "little-endian, got '<f2': convert with astype before saving"},
        {GOLDEN("big_endian.npz"), "x", "little-endian, got '>f4'"},
    };
    for (int i = 0; i < 3; i++) {
        ek_npz *npz = ek_npz_open(cases[i].path);
        ck_made(npz);
        ck_assert_ptr_null(ek_npz_read(npz, cases[i].name));
        ck_error(EK_ERR_DTYPE, cases[i].text);
        ck_error(EK_ERR_DTYPE, cases[i].path);
        ek_npz_close(npz);
    }
}
END_TEST

/* ---- round trips ------------------------------------------------------------------------------------------------- */

enum { SAMPLES = 8 };
static const char *const sample_names[SAMPLES] = {"0.weight", "a/b",  "ünïcode", "f64",
                                                  "scalar",   "none", "deep",    "large"};

static void make_samples(ek_tensor *samples[SAMPLES])
{
    ek_rng rng = ek_rng_seed(1);
    samples[0] = ek_normal(EK_F32, EK_SHAPE(3, 4), 0, 1, &rng);
    samples[1] = ek_arange(EK_I64, -5, 5, 1);
    samples[2] = ek_full(EK_F32, EK_SHAPE(2), NAN);
    samples[3] = ek_normal(EK_F64, EK_SHAPE(7), 0, 1e300, &rng);
    samples[4] = ek_full(EK_I64, EK_SCALAR, 9);
    samples[5] = ek_zeros(EK_F64, EK_SHAPE(4, 0));
    samples[6] = ek_ones(EK_F32, EK_SHAPE(1, 2, 1, 2, 1, 2, 1, 2));
    samples[7] = ek_uniform(EK_F32, EK_SHAPE(50000), -1, 1, &rng); /* several buffers long */
}

/* Writes all samples; zip64_from 0: leave the limit where it is. */
static void write_samples(const char *path, int level, uint64_t zip64_from, ek_tensor *samples[SAMPLES])
{
    ek_npz_writer *writer = ek_npz_writer_new(path, level);
    ck_made(writer);
    if (zip64_from)
        ek_npz_writer_zip64_from(writer, zip64_from);
    for (int i = 0; i < SAMPLES; i++)
        ck_ok(ek_npz_writer_add(writer, sample_names[i], samples[i]));
    ck_ok(ek_npz_writer_close(writer));
}

START_TEST(round_trip)
{
    ek_tensor *samples[SAMPLES];
    make_samples(samples);
    const struct {
        int level;
        uint64_t zip64_from;
    } cases[] = {{0, 0}, {1, 0}, {9, 0}, {0, 1}, {1, 1}, {1, 200}, {0, 1000}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const char *path = temp_path("a.npz");
        write_samples(path, cases[c].level, cases[c].zip64_from, samples);
        ck_assert_int_eq(count_temp(), 1); /* the temporary file has become this one */
        ek_npz *npz = ek_npz_open(path);
        ck_made(npz);
        ck_assert_int_eq(ek_npz_count(npz), SAMPLES);
        for (int i = 0; i < SAMPLES; i++) {
            ck_assert_str_eq(ek_npz_name(npz, i), sample_names[i]);
            ek_tensor *t = ek_npz_read(npz, sample_names[i]);
            ck_made(t);
            ck_assert_msg(ek_tensor_equal(t, samples[i]), "%s came back different", sample_names[i]);
            ek_tensor_free(t);
        }
        ek_npz_close(npz);
    }
    for (int i = 0; i < SAMPLES; i++)
        ek_tensor_free(samples[i]);
    remove_temp();
}
END_TEST

START_TEST(borrowed_nothing_comes_back)
{
    const char *path = temp_path("nothing.npz");
    ek_tensor *nothing = ek_borrow(EK_F32, EK_SHAPE(0, 3), NULL, NULL, NULL);
    ck_made(nothing);
    for (int level = 0; level < 2; level++) {
        ek_npz_writer *writer = ek_npz_writer_new(path, level);
        ck_made(writer);
        ck_ok(ek_npz_writer_add(writer, "nothing", nothing));
        ck_ok(ek_npz_writer_close(writer));
        ek_npz *npz = ek_npz_open(path);
        ek_tensor *read = ek_npz_read(npz, "nothing");
        ck_made(read); /* its header's CRC is right */
        ck_assert(ek_tensor_equal(read, nothing));
        ek_tensor_free(read);
        ek_npz_close(npz);
    }
    ek_tensor_free(nothing);
    remove_temp();
}
END_TEST

START_TEST(same_tensors_same_bytes)
{
    ek_tensor *samples[SAMPLES];
    size_t n[2];
    unsigned char *bytes[2];
    make_samples(samples);
    for (int i = 0; i < 2; i++) {
        write_samples(temp_path("a.npz"), 6, 0, samples);
        bytes[i] = read_file(temp_path("a.npz"), &n[i]);
    }
    ck_assert(n[0] == n[1] && !memcmp(bytes[0], bytes[1], n[0]));
    for (int i = 0; i < SAMPLES; i++)
        ek_tensor_free(samples[i]);
    free(bytes[0]);
    free(bytes[1]);
    remove_temp();
}
END_TEST

/* ---- the writer's errors ----------------------------------------------------------------------------------------- */

START_TEST(old_archive_survives)
{
    const char *path = temp_path("a.npz");
    write_file(path, "old", 3);
    ek_tensor *t = ek_ones(EK_F32, EK_SHAPE(10));
    ek_npz_writer *writer = ek_npz_writer_new(path, 1);
    ck_ok(ek_npz_writer_add(writer, "t", t));
    ck_assert_int_eq(count_temp(), 2);
    ek_npz_writer_abandon(writer);
    ck_assert_int_eq(count_temp(), 1);
    size_t n;
    unsigned char *bytes = read_file(path, &n);
    ck_assert(n == 3 && !memcmp(bytes, "old", 3));
    free(bytes);
    ek_npz_writer_abandon(NULL);

    /* A path that is a folder: the rename fails, and the temporary file goes. */
    char folder[600];
    snprintf(folder, sizeof folder, "%s", temp_path(""));
    folder[strlen(folder) - 1] = '\0';
    writer = ek_npz_writer_new(folder, 1);
    ck_made(writer);
    ck_assert_int_eq(ek_npz_writer_close(writer), EK_ERR_IO);
    ck_error(EK_ERR_IO, "npz_writer: cannot rename a temporary file to ");
    ck_assert_int_eq(count_temp(), 1);
    ek_tensor_free(t);
    remove_temp();
}
END_TEST

START_TEST(writer_errors)
{
    ck_assert_ptr_null(ek_npz_writer_new(NULL, 1));
    ck_error(EK_ERR_ARGUMENT, "npz_writer: expected a path and a level of 0 to 9, got none and 1");
    ck_assert_ptr_null(ek_npz_writer_new("x", 10));
    ck_error(EK_ERR_ARGUMENT, "got x and 10");
    ck_assert_ptr_null(ek_npz_writer_new("/nonexistent/a.npz", 1));
    ck_error(EK_ERR_IO, "npz_writer: cannot make a temporary file beside /nonexistent/a.npz: No such file");
    ck_assert_int_eq(ek_npz_writer_close(NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "npz_writer_close: expected a writer, got NULL");

    ek_tensor *t = ek_ones(EK_F32, EK_SHAPE(2));
    ek_npz_writer *writer = ek_npz_writer_new(temp_path("a.npz"), 1);
    ck_ok(ek_npz_writer_add(writer, "t", t));
    ck_assert_int_eq(ek_npz_writer_add(writer, "t", t), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "npz_writer: the name 't' is in the archive already");
    ck_assert_int_eq(ek_npz_writer_add(writer, "", t), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "npz_writer: expected a name of 1 to 1024 bytes, got 0");
    ck_assert_int_eq(ek_npz_writer_add(writer, "a\nb", t), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "expected a name without control characters, got character 10 at place 1");
    ck_assert_int_eq(ek_npz_writer_add(writer, "n", NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "npz_writer_add: expected a writer and a tensor, got NULL for the tensor");
    ck_assert_int_eq(ek_npz_writer_add(NULL, "n", t), EK_ERR_ARGUMENT);
    ck_ok(ek_npz_writer_close(writer)); /* none of these did any harm */
    ek_npz *npz = ek_npz_open(temp_path("a.npz"));
    ck_assert_int_eq(ek_npz_count(npz), 1);
    ek_npz_close(npz);
    ek_tensor_free(t);
    remove_temp();
}
END_TEST

/* The system refuses to write: here because of a limit on the size of files. */
START_TEST(disk_full)
{
    signal(SIGXFSZ, SIG_IGN);
    const char *path = temp_path("a.npz");
    ek_tensor *t = ek_ones(EK_F64, EK_SHAPE(10000));
    ek_npz_writer *writer = ek_npz_writer_new(path, 0);
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    rlim_t before = limit.rlim_cur;
    limit.rlim_cur = 20000;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(ek_npz_writer_add(writer, "t", t), EK_ERR_IO);
    ck_error(EK_ERR_IO, "npz_writer: cannot write ");
    limit.rlim_cur = before;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    ck_assert_int_eq(ek_npz_writer_add(writer, "u", t), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "npz_writer_add: an earlier write to ");
    ck_assert_int_eq(ek_npz_writer_close(writer), EK_ERR_STATE);
    ck_error(EK_ERR_STATE, "npz_writer_close: an earlier write to ");
    ck_assert_int_eq(count_temp(), 0);
    ek_tensor_free(t);
    remove_temp();
}
END_TEST

/* ---- damaged archives -------------------------------------------------------------------------------------------- */

/* Reads all there is; false when the archive or an entry is refused, always with a message of a fitting kind. */
static bool reads_like(const char *path, ek_tensor **expected, const char *const *names, int n, bool *same)
{
    ek_npz *npz = ek_npz_open(path);
    bool fine = npz != NULL;
    *same = fine && ek_npz_count(npz) == n;
    for (int64_t i = 0; i < ek_npz_count(npz); i++) {
        ek_tensor *t = ek_npz_read_at(npz, i);
        fine = fine && t;
        *same = *same && t && !strcmp(ek_npz_name(npz, i), names[i]) && ek_tensor_equal(t, expected[i]);
        ek_tensor_free(t);
    }
    ek_npz_close(npz);
    if (!fine) {
        ek_status status = ek_last_status();
        ck_assert(status == EK_ERR_FORMAT || status == EK_ERR_DTYPE || status == EK_ERR_SHAPE);
        ck_assert_int_gt((int)strlen(ek_last_error()), 30);
    }
    return fine;
}

/* Every truncation is refused; every flipped bit is refused or harmless (dates, attributes, the NUL of a comment). */
START_TEST(damage)
{
    ek_tensor *t[2] = {ek_arange(EK_F32, 0, 6, 1), ek_arange(EK_I64, 0, 3, 1)};
    const char *const names[] = {"a", "b"};
    const char *own[] = {temp_path("stored.npz"), temp_path("deflated.npz"), temp_path("zip64.npz")};
    for (int i = 0; i < 3; i++) {
        ek_npz_writer *writer = ek_npz_writer_new(own[i], i == 0 ? 0 : 6);
        if (i == 2)
            ek_npz_writer_zip64_from(writer, 1);
        ck_ok(ek_npz_writer_add(writer, "a", t[0]));
        ck_ok(ek_npz_writer_add(writer, "b", t[1]));
        ck_ok(ek_npz_writer_close(writer));
    }
    const char *files[] = {own[0], own[1], own[2], GOLDEN("zip64.npz")};
    const char *path = temp_path("damaged.npz");
    for (int f = 0; f < 4; f++) {
        size_t n;
        bool same;
        unsigned char *bytes = read_file(files[f], &n);
        write_file(path, bytes, n);
        ck_assert(reads_like(path, t, names, 2, &same) && same);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            write_byte(path, bit / 8, bytes[bit / 8] ^ (unsigned char)(1 << bit % 8));
            bool fine = reads_like(path, t, names, 2, &same);
            ck_assert_msg(!fine || same, "flipping bit %zu of %s changed what is read", bit, files[f]);
            write_byte(path, bit / 8, bytes[bit / 8]);
        }
        for (size_t cut = n; cut-- > 0;) {
            cut_file(path, cut);
            bool fine = reads_like(path, t, names, 2, &same);
            ck_assert_msg(!fine, "%zu of %zu bytes of %s were accepted", cut, n, files[f]);
        }
        free(bytes);
    }
    ek_tensor_free(t[0]);
    ek_tensor_free(t[1]);
    remove_temp();
}
END_TEST

/* An archive of two stored arrays, "aa" and "bb", whose bytes the cases below change. */
typedef struct archive {
    unsigned char *bytes;
    size_t n, second, directory, second_record, end;
} archive;

static archive make_archive(void)
{
    ek_tensor *t = ek_ones(EK_F32, EK_SHAPE(4));
    ek_npz_writer *writer = ek_npz_writer_new(temp_path("a.npz"), 0);
    ck_ok(ek_npz_writer_add(writer, "aa", t));
    ck_ok(ek_npz_writer_add(writer, "bb", t));
    ck_ok(ek_npz_writer_close(writer));
    ek_tensor_free(t);
    archive a;
    a.bytes = read_file(temp_path("a.npz"), &a.n);
    a.second = LOCAL_BYTES + 6 + 144;
    a.directory = 2 * a.second;
    a.second_record = a.directory + CENTRAL_BYTES + 6;
    a.end = a.second_record + CENTRAL_BYTES + 6;
    ck_assert_uint_eq(a.n, a.end + END_BYTES);
    return a;
}

static void expect_refused(archive a, const char *text)
{
    const char *path = temp_path("bad.npz");
    write_file(path, a.bytes, a.n);
    ek_npz *npz = ek_npz_open(path);
    if (npz) {
        ck_assert_ptr_null(ek_npz_read(npz, "aa"));
        ek_npz_close(npz);
    }
    ck_assert_msg(strstr(ek_last_error(), text), "expected «%s», got «%s»", text, ek_last_error());
    ck_assert_msg(strstr(ek_last_error(), path), "«%s» does not name the file", ek_last_error());
    free(a.bytes);
}

/* Overwrites n bytes. */
static archive patched(size_t at, const void *bytes, size_t n)
{
    archive a = make_archive();
    memcpy(a.bytes + at, bytes, n);
    return a;
}

START_TEST(refused_directories)
{
    archive a = make_archive();
    free(a.bytes);
    const size_t first = a.directory, second = a.second_record;
    expect_refused(patched(a.end, "XX", 2), "is not a readable .npz archive: it has no end record (truncated, or no "
                   "zip at all)");
    expect_refused(patched(a.end + END_DISK, "\1", 1), "it is one part of several");
    expect_refused(patched(a.end + END_ENTRIES, "\3", 1), "it is one part of several");
    expect_refused(patched(a.end + END_ENTRIES_HERE, "\1\0\1", 3), "its directory is damaged");
    expect_refused(patched(a.end + END_ENTRIES_HERE, "\xFF\xFF\xFF\xFF", 4), "its directory does not fit into the");
    expect_refused(patched(a.end + END_DIRECTORY_OFFSET, "\xFF\xFF\xFF\x7F", 4), "its directory does not fit");
    expect_refused(patched(a.end + END_DIRECTORY_BYTES, "\1", 1), "its directory does not fit");
    expect_refused(patched(first, "XX", 2), "its directory is damaged");
    expect_refused(patched(second + CENTRAL_COMMENT_BYTES, "\1", 1), "its directory is damaged");
    expect_refused(patched(first + CENTRAL_FLAGS, "\1", 1), "entry 'aa': it is encrypted, or packed by a method other "
                   "than deflate");
    expect_refused(patched(first + CENTRAL_METHOD, "\14", 1), "packed by a method other than deflate");
    expect_refused(patched(second + CENTRAL_OFFSET, "\xFF\xFF\xFF\x7F", 4), "entry 'bb': it lies outside the file");
    expect_refused(patched(second + CENTRAL_OFFSET, "\xFF\xFF\xFF\xFF", 4), "entry 'bb': it lies outside the file");
    expect_refused(patched(first + CENTRAL_PLAIN, "\xFF\xFF\xFF\x7F", 4), "'aa': its sizes contradict each other");
    expect_refused(patched(first + CENTRAL_PACKED, "\xFF\xFF\xFF\x7F\xFF\xFF\xFF\x7F", 8), "it lies outside the file");
    expect_refused(patched(first + CENTRAL_CRC, "XX", 2), "entry 'aa': its own record and the directory contradict "
                   "each other");
    expect_refused(patched(LOCAL_PLAIN, "\1", 1), "its own record and the directory contradict each other");
    expect_refused(patched(LOCAL_BYTES, "zz", 2), "its own record and the directory contradict each other");
    expect_refused(patched(first + CENTRAL_BYTES + 2, ".txt", 4), "expected entries called <name>.npy, got 'aa.txt'");
    expect_refused(patched(first + CENTRAL_BYTES, "a\n", 2), "a name holds control characters");

    a = make_archive(); /* both called aa, in both places */
    memcpy(a.bytes + a.second + LOCAL_BYTES, "aa", 2);
    memcpy(a.bytes + a.second_record + CENTRAL_BYTES, "aa", 2);
    expect_refused(a, "entry 'aa': the name is there twice");
    a = make_archive(); /* the second record points at the first entry */
    memcpy(a.bytes + a.second_record + CENTRAL_BYTES, "aa", 2);
    memset(a.bytes + a.second_record + CENTRAL_OFFSET, 0, 4);
    expect_refused(a, "entry 'aa': it overlaps with another entry");
    a = make_archive(); /* something before the archive: offsets no longer fit */
    memmove(a.bytes + 1, a.bytes, a.n - 1);
    expect_refused(a, "is not a readable .npz archive");

    ck_assert_ptr_null(ek_npz_open(NULL));
    ck_error(EK_ERR_ARGUMENT, "npz_open: expected a path, got NULL");
    ck_assert_ptr_null(ek_npz_open("/nonexistent.npz"));
    ck_error(EK_ERR_IO, "npz_open: cannot open /nonexistent.npz: No such file or directory");
    ck_assert_ptr_null(ek_npz_open("/tmp"));
    ck_error(EK_ERR_IO, "which is a directory");
    remove_temp();
}
END_TEST

/* The array's own header says something else; sizes still agree, so this is all that stands between us and 4 GB. */
START_TEST(refused_arrays)
{
    const size_t npy = LOCAL_BYTES + 6, text = npy + EK_NPY_PREFIX;
    expect_refused(patched(npy, "X", 1), "entry 'aa': expected an .npy array of version 1 to 3, got something else");
    expect_refused(patched(npy + 6, "\4", 1), "expected an .npy array of version 1 to 3");
    expect_refused(patched(npy + 8, "\xFF\xFF", 2), "entry 'aa': it is too short for the array it declares");
    expect_refused(patched(npy + 6, "\2\0\xFF\xFF\xFF\x7F", 6), "its .npy header is far too long");
    expect_refused(patched(text, "x", 1), "expected an .npy header with 'descr', 'fortran_order' and 'shape'");
    expect_refused(patched(text, "{'descr':'<f4','fortran_order':False,'shape':(1073741824,)}  ", 60),
                   "entry 'aa': expected 4294967296 bytes for (1073741824,) of '<f4', got 16");
    expect_refused(patched(text, "{'descr':'<f4','fortran_order':False,'shape':(9,9,9,9,9,9,9,9,9)}", 65),
                   "entry 'aa': expected a rank of at most 8, got 9");
    expect_refused(patched(text, "{'descr':'<f4','fortran_order':False,'shape':(4294967296,4294967296)}", 69),
                   "overflows int64");
    expect_refused(patched(text + 118, "X", 1), "entry 'aa': its CRC is wrong: the data is damaged");
    remove_temp();
}
END_TEST

/* Deflated data that are longer or shorter than both records say. */
START_TEST(lying_sizes)
{
    const char *const files[] = {GOLDEN("unpacks_to_more.npz"), GOLDEN("unpacks_to_less.npz")};
    const char *const texts[] = {"entry 'x': it unpacks to more bytes than the directory says",
                                 "entry 'x': it unpacks to fewer bytes than the directory says"};
    for (int i = 0; i < 2; i++) {
        ek_npz *npz = ek_npz_open(files[i]);
        ck_made(npz);
        ck_assert_ptr_null(ek_npz_read(npz, "x"));
        ck_error(EK_ERR_FORMAT, texts[i]);
        ek_npz_close(npz);
    }
}
END_TEST

START_TEST(headers)
{
    static const struct {
        const char *text;
        ek_status status;
        const char *message; /* or the shape */
    } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }    \n", EK_OK, "(3, 4)"},
        {"{\"shape\":(),\"fortran_order\":True,\"descr\":\"<i8\"}", EK_OK, "()"},
        {"{'descr': '|b1', 'fortran_order': False, 'shape': (3L,), }", EK_OK, "(3,)"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (0,1,2,3,4,5,6,7)}", EK_OK, "(0, 1, 2, 3, 4, 5, 6, 7)"},
        {"", EK_ERR_FORMAT, "expected an .npy header with"},
        {"{", EK_ERR_FORMAT, "expected an .npy header with"},
        {"{}", EK_ERR_FORMAT, "expected an .npy header with"},
        {"{'descr': '<f4', 'shape': (3,), }", EK_ERR_FORMAT, "expected an .npy header with"},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (3,)}", EK_ERR_FORMAT, "expected an .npy"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), 'x': 1}", EK_ERR_FORMAT, "expected an .npy header"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3,)} x", EK_ERR_FORMAT, "expected an .npy header"},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (3,)}", EK_ERR_FORMAT, "expected an .npy header"},
        {"{'descr': '<f4', 'fortran_order': Maybe, 'shape': (3,)}", EK_ERR_FORMAT, "no readable 'fortran_order'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 3}", EK_ERR_FORMAT, "no readable 'shape'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}", EK_ERR_FORMAT, "no readable 'shape'"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (3", EK_ERR_FORMAT, "no readable 'shape'"},
        {"{'descr': 4, 'fortran_order': False, 'shape': (3,)}", EK_ERR_FORMAT, "no readable 'descr'"},
        {"{'descr': '<f4, ", EK_ERR_FORMAT, "no readable 'descr'"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (3,)}", EK_ERR_DTYPE, "got '<c8': convert with astype"},
        {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (3,)}", EK_ERR_DTYPE, "got one of records"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1)}", EK_ERR_SHAPE, "at most 8, got 9"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775808,)}", EK_ERR_SHAPE, "overflows int64"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ek_npy npy;
        char shape[200];
        size_t bytes = strlen(cases[i].text);
        char *exact = malloc(bytes + 1); /* of this length, for the sanitizer to see a read behind it */
        exact = realloc(exact, bytes ? bytes : 1);
        memcpy(exact, cases[i].text, bytes);
        ek_status status = ek_npy_parse(exact, bytes, &npy);
        ck_assert_msg(status == cases[i].status, "%s: %s", cases[i].text, ek_last_error());
        if (status == EK_OK)
            ck_assert_str_eq(ek_shape_text(npy.shape, shape, sizeof shape), cases[i].message);
        else
            ck_error(status, cases[i].message);
        free(exact);
    }
    char header[EK_NPY_MAX_HEADER];
    ck_assert_uint_eq(ek_npy_format(EK_F32, EK_SHAPE(4), header), 128);
    ck_assert(!memcmp(header, "\x93NUMPY\1\0\x76\0{'descr': '<f4', 'fortran_order': False, 'shape': (4,), }  ", 69));
    ck_assert_int_eq(header[127], '\n');
    int64_t most = INT64_MAX; /* the longest header there can be */
    ek_shape longest = {8, {most, most, most, most, most, most, most, most}};
    ck_assert_uint_le(ek_npy_format(EK_F32, longest, header), EK_NPY_MAX_HEADER);
}
END_TEST

START_TEST(lookups)
{
    ek_npz *npz = ek_npz_open(GOLDEN("savez.npz"));
    ck_assert_ptr_null(ek_npz_read(npz, "absent"));
    ck_error(EK_ERR_ARGUMENT, "npz_read: expected the name of an entry of ");
    ck_error(EK_ERR_ARGUMENT, "got 'absent'");
    ck_assert_ptr_null(ek_npz_read(npz, NULL));
    ck_assert_ptr_null(ek_npz_read_at(npz, 13));
    ck_error(EK_ERR_ARGUMENT, "npz_read: expected an entry of 0 to 12, got 13");
    ck_assert_ptr_null(ek_npz_name(npz, -1));
    ck_error(EK_ERR_ARGUMENT, "npz_name: expected an entry of 0 to 12, got -1");
    ek_npz_close(npz);
    ck_assert_ptr_null(ek_npz_read(NULL, "a"));
    ck_assert_int_eq(ek_npz_find(NULL, "a"), -1);
    ck_assert_int_eq(ek_npz_count(NULL), 0);
    ek_npz_close(NULL);
}
END_TEST

int main(void)
{
    return RUN_TESTS("npz", written_by_numpy, versions_and_64_bit_records, types_that_cannot_be_read, round_trip,
                     borrowed_nothing_comes_back, same_tensors_same_bytes, old_archive_survives, writer_errors,
                     disk_full, damage, refused_directories, refused_arrays, lying_sizes, headers, lookups);
}
