/* Labelled texts: UTF-8, files, hostile files, the stratified split. */
#include "support_files.h"
#include "utf8.h"

#include <sys/stat.h>
#include <unistd.h>

static void write_text(const char *name, const char *content)
{
    write_file(temp_path(name), content, strlen(content));
}

/* The folder of temp_path() itself. */
static const char *folder(void)
{
    static char path[600];
    snprintf(path, sizeof path, "%s", temp_path(""));
    path[strlen(path) - 1] = '\0';
    return path;
}

/* ---- UTF-8 ------------------------------------------------------------------------------------------------------- */

START_TEST(every_code_point_there_and_back)
{
    int64_t good = 0;
    for (uint32_t code = 0; code <= 0x10FFFF; code++) {
        char bytes[EK_UTF8_MAX_BYTES];
        uint32_t back = 0;
        const char *fault;
        const int n = ek_utf8_encode(code, bytes);
        ck_each(n == (code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4), "U+%04X takes %d", code, n);
        const int taken = ek_utf8_decode(bytes, (size_t)n, &back, &fault);
        if (code >= 0xD800 && code <= 0xDFFF) {
            ck_each(taken == 0, "U+%04X is a surrogate", code);
            continue;
        }
        ck_each(taken == n && back == code, "U+%04X came back as U+%04X", code, back);
        good++;
        for (int cut = 1; cut < n; cut++)
            ck_each(ek_utf8_decode(bytes, (size_t)cut, &back, &fault) == 0, "U+%04X, %d bytes", code, cut);
    }
    ck_assert_int_eq(good, 0x110000 - 0x800);
}
END_TEST

/* What RFC 3629 forbids, and where it is found. */
static const struct {
    const char *bytes, *fault;
    int64_t column;
} faults[] = {
    {"ab\x80", "a continuation byte without a lead byte", 3},
    {"\xC3\xA9\xBF", "a continuation byte without a lead byte", 2},
    {"\xFF", "a byte that no UTF-8 text holds", 1},
    {"a\xF8\x88\x80\x80\x80", "a byte that no UTF-8 text holds", 2},
    {"\xC0\xAF", "an overlong form", 1},
    {"x\xC1\xBF", "an overlong form", 2},
    {"\xE0\x9F\xBF", "an overlong form", 1},
    {"\xF0\x8F\xBF\xBF", "an overlong form", 1},
    {"\xED\xA0\x80", "a surrogate, which is for UTF-16 alone", 1},
    {"\xED\xBF\xBF", "a surrogate, which is for UTF-16 alone", 1},
    {"\xF4\x90\x80\x80", "a code point above U+10FFFF", 1},
    {"\xF7\xBF\xBF\xBF", "a code point above U+10FFFF", 1},
    {"M\xFCller", "a byte that no UTF-8 text holds", 2}, /* Latin-1 */
    {"\xE2\x82x", "a sequence cut short by another byte", 1},
    {"Coti\xC3", "a sequence cut short by the end", 5},
    {"\xF0\x9F\x98", "a sequence cut short by the end", 1},
};

START_TEST(invalid_utf8)
{
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        char content[64], expected[128];
        snprintf(content, sizeof content, "Meyer\r\n\n%s", faults[i].bytes);
        write_text("German.txt", content);
        snprintf(expected, sizeof expected, "German.txt, line 3, column %lld: expected UTF-8, got %s: save the file as "
                 "UTF-8 text", (long long)faults[i].column, faults[i].fault);
        ck_refused(EK_ERR_FORMAT, expected, ek_text_from_folder(folder()));
        ck_error(EK_ERR_FORMAT, "text_from_folder: /");

        snprintf(content, sizeof content, "a,b\n,%s", faults[i].bytes);
        write_text("lines", content);
        snprintf(expected, sizeof expected, "lines, line 2, column %lld: expected UTF-8, got %s",
                 (long long)faults[i].column + 1, faults[i].fault);
        ck_refused(EK_ERR_FORMAT, expected, ek_text_from_lines(temp_path("lines"), ','));

        snprintf(expected, sizeof expected, "text_from_arrays: text 1, character %lld: expected UTF-8, got %s",
                 (long long)faults[i].column, faults[i].fault);
        const char *texts[] = {"a", faults[i].bytes}, *names[] = {"A"};
        ck_refused(EK_ERR_FORMAT, expected, ek_text_from_arrays(texts, (int64_t[]){0, 0}, 2, names, 1));
    }
    write_file(temp_path("German.txt"), "Mey\0er\n", 7);
    ck_refused(EK_ERR_FORMAT, "line 1, column 4: expected UTF-8, got a NUL byte", ek_text_from_folder(folder()));
    remove_temp();
}
END_TEST

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* "A:x|y B:z": classes and texts in one line. */
static void expect_text(const ek_text *text, const char *expected)
{
    char got[400] = "";
    ck_made(text);
    for (int64_t c = 0; c < ek_text_num_classes(text); c++) {
        snprintf(got + strlen(got), sizeof got - strlen(got), "%s%s:", c ? " " : "", ek_text_class_name(text, c));
        for (int64_t i = 0; i < ek_text_size(text); i++)
            if (ek_text_label(text, i) == c)
                snprintf(got + strlen(got), sizeof got - strlen(got), "%s|", ek_text_at(text, i));
    }
    ck_assert_str_eq(got, expected);
}

START_TEST(folder_of_classes)
{
    write_text("b.txt", "\xEF\xBB\xBF one two \t\r\n\r\n   \nthree"); /* a BOM, blanks, no newline at the end */
    write_text("B.txt", "\xC3\x89mile\n\xC3\x89mile\n");
    write_text("Łódź.txt", "\xEF\xBB\xBFx\n"); /* a name beyond ASCII */
    write_text("a.text", "not this one");
    write_text(".hidden.txt", "nor this");
    write_text(".txt", "nor this");
    ek_text *text = ek_text_from_folder(folder());
    expect_text(text, "B:Émile|Émile| b:one two|three| Łódź:x|");
    ck_assert_int_eq(ek_text_size(text), 5);
    ck_assert_int_eq(ek_text_label(text, 0), 0); /* texts stand class after class */
    ck_assert_int_eq(ek_text_label(text, 4), 2);
    ek_text_free(text);

    write_text("empty.txt", "");
    ck_refused(EK_ERR_FORMAT, "/empty.txt holds no text: expected one text per line, got an empty file; fill the file "
               "or take it away", ek_text_from_folder(folder()));
    write_text("empty.txt", "\xEF\xBB\xBF \n\r\n");
    ck_refused(EK_ERR_FORMAT, "/empty.txt holds no text: expected one text per line, got blank lines only",
               ek_text_from_folder(folder()));
    remove_temp();
}
END_TEST

START_TEST(labelled_lines)
{
    write_text("lines", "spam, win, now\r\nham,see you\n\n spam ,\tx \nHam,h");
    ek_text *text = ek_text_from_lines(temp_path("lines"), ',');
    expect_text(text, "Ham:h| ham:see you| spam:win, now|x|");
    ck_assert_str_eq(ek_text_at(text, 1), "see you"); /* the order of the file */
    ck_assert_int_eq(ek_text_label(text, 1), 1);
    ek_text_free(text);

    write_text("lines", "a\tx\n\n   \na y\n");
    ck_refused(EK_ERR_FORMAT, "lines, line 4: expected label\ttext, got no separator '\\t'",
               ek_text_from_lines(temp_path("lines"), '\t'));
    write_text("lines", "a;x\na; \n");
    ck_refused(EK_ERR_FORMAT, "lines, line 2: the text after the separator ';' is empty: fill it in or take the line "
               "away", ek_text_from_lines(temp_path("lines"), ';'));
    write_text("lines", ";x\n");
    ck_refused(EK_ERR_FORMAT, "lines, line 1: the label before the separator ';' is empty",
               ek_text_from_lines(temp_path("lines"), ';'));
    write_text("lines", "\n\n");
    ck_refused(EK_ERR_FORMAT, "lines holds no text: expected lines label;text, got blank lines only",
               ek_text_from_lines(temp_path("lines"), ';'));
    write_text("lines", "");
    ck_refused(EK_ERR_FORMAT, "got an empty file", ek_text_from_lines(temp_path("lines"), ';'));
    const char bad[] = {'\n', '\r', '\0', '\x7F', '\x80'};
    for (size_t i = 0; i < sizeof bad; i++)
        ck_refused(EK_ERR_ARGUMENT, "text_from_lines: expected a printable ASCII character or a tab as the separator, "
                   "got byte ", ek_text_from_lines(temp_path("lines"), bad[i]));
    remove_temp();
}
END_TEST

START_TEST(files_that_cannot_be_read)
{
    ck_refused(EK_ERR_ARGUMENT, "text_from_folder: expected a folder, got NULL", ek_text_from_folder(NULL));
    ck_refused(EK_ERR_ARGUMENT, "text_from_lines: expected a path, got NULL", ek_text_from_lines(NULL, ','));
    write_text("notes", "a,b");
    ck_refused(EK_ERR_FORMAT, "text_from_folder: expected a file CLASS.txt for each class in /",
               ek_text_from_folder(folder()));
    ck_refused(EK_ERR_IO, "cannot open the folder", ek_text_from_folder(temp_path("notes")));
    ck_refused(EK_ERR_IO, "none: No such file or directory", ek_text_from_folder(temp_path("none")));
    ck_refused(EK_ERR_IO, "none: No such file or directory", ek_text_from_lines(temp_path("none"), ','));
    ck_refused(EK_ERR_IO, "which is a directory", ek_text_from_lines(folder(), ','));
    ck_assert_int_eq(mkdir(temp_path("c.txt"), 0700), 0);
    ck_refused(EK_ERR_IO, "c.txt, which is a directory", ek_text_from_folder(folder()));
    ck_assert_int_eq(rmdir(temp_path("c.txt")), 0);
    ck_assert_int_eq(mkfifo(temp_path("c.txt"), 0700), 0);
    ck_refused(EK_ERR_IO, "c.txt, which is a pipe or a device", ek_text_from_folder(folder()));
    unlink(temp_path("c.txt"));
    write_text("\xFF.txt", "x");
    ck_refused(EK_ERR_FORMAT, "a file's name is no UTF-8 (a byte that no UTF-8 text holds in its character 1): rename "
               "it", ek_text_from_folder(folder()));
    unlink(temp_path("\xFF.txt"));
    write_text("d.txt", "x");
    ck_assert_int_eq(chmod(temp_path("d.txt"), 0), 0);
    if (access(temp_path("d.txt"), R_OK) != 0)
        ck_refused(EK_ERR_IO, "d.txt: Permission denied", ek_text_from_folder(folder()));
    else
        printf("SKIPPED a file without permission to read: this user may read all\n");
    remove_temp();
}
END_TEST

/* One line of 3 MB, and one of a million lines. */
START_TEST(long_files)
{
    enum { BYTES = 3000000 };
    char *bytes = malloc(BYTES + 2);
    memset(bytes, 'x', BYTES);
    bytes[0] = 'l';
    bytes[1] = ',';
    write_file(temp_path("lines"), bytes, BYTES);
    ek_text *text = ek_text_from_lines(temp_path("lines"), ',');
    ck_made(text);
    ck_assert_int_eq(ek_text_size(text), 1);
    ck_assert_uint_eq(strlen(ek_text_at(text, 0)), BYTES - 2);
    ek_text_free(text);
    for (int i = 0; i + 3 <= BYTES; i += 3)
        memcpy(bytes + i, i % 2 ? "xy\n" : "z \n", 3);
    write_file(temp_path("a.txt"), bytes, BYTES);
    text = ek_text_from_folder(folder());
    ck_made(text);
    ck_assert_int_eq(ek_text_size(text), 1000000);
    ck_assert_str_eq(ek_text_at(text, 999999), "xy");
    ck_assert_str_eq(ek_text_at(text, 999998), "z");
    ek_text_free(text);
    free(bytes);
    remove_temp();
}
END_TEST

START_TEST(arrays_and_access)
{
    const char *texts[] = {"x", "y z", "é"}, *names[] = {"one", "two"}, *twice[] = {"one", "one"};
    const int64_t labels[] = {1, 0, 1}, bad[] = {1, 2, 0};
    ek_text *text = ek_text_from_arrays(texts, labels, 3, names, 2);
    expect_text(text, "one:y z| two:x|é|");
    ck_refused(EK_ERR_ARGUMENT, "text_at: expected a text of 0 to 2, got 3", ek_text_at(text, 3));
    ck_refused(EK_ERR_ARGUMENT, "text_class_name: expected a class of 0 to 1, got -1", ek_text_class_name(text, -1));
    ck_assert_int_eq(ek_text_label(text, -1), -1);
    ck_error(EK_ERR_ARGUMENT, "text_label: expected a text of 0 to 2, got -1");
    ek_text_free(text);
    ek_text_free(NULL);
    ck_assert(ek_text_size(NULL) == 0 && ek_text_num_classes(NULL) == 0);
    ck_refused(EK_ERR_ARGUMENT, "text_from_arrays: expected at least one text, its label and the names of the classes, "
               "got texts, NULL and names, 3 texts and 2 classes", ek_text_from_arrays(texts, NULL, 3, names, 2));
    ck_refused(EK_ERR_ARGUMENT, "0 texts", ek_text_from_arrays(texts, labels, 0, names, 2));
    ck_refused(EK_ERR_ARGUMENT, "expected labels of 0 to 1, got 2 for text 1",
               ek_text_from_arrays(texts, bad, 3, names, 2));
    ck_refused(EK_ERR_ARGUMENT, "classes 0 and 1 are both named 'one'",
               ek_text_from_arrays(texts, labels, 3, twice, 2));
    texts[2] = "";
    ck_refused(EK_ERR_ARGUMENT, "text 2 is empty: leave it out", ek_text_from_arrays(texts, labels, 3, names, 2));
    texts[2] = NULL;
    ck_refused(EK_ERR_ARGUMENT, "text 2 is NULL", ek_text_from_arrays(texts, labels, 3, names, 2));
    names[1] = "";
    ck_refused(EK_ERR_ARGUMENT, "class name 1 is empty", ek_text_from_arrays(texts, labels, 3, names, 2));
}
END_TEST

/* ---- the split --------------------------------------------------------------------------------------------------- */

/* Class c has counts[c] texts that are all different, its own number in them; classes take turns. */
static ek_text *numbered(const int64_t *counts, int64_t classes)
{
    static char bytes[4000][16];
    static const char *texts[4000], *names[] = {"a", "b", "c", "d", "e"};
    static int64_t labels[4000];
    int64_t n = 0;
    for (int64_t i = 0; i < 1000; i++)
        for (int64_t c = 0; c < classes; c++)
            if (i < counts[c]) {
                snprintf(bytes[n], sizeof *bytes, "%lld.%lld", (long long)c, (long long)i);
                texts[n] = bytes[n];
                labels[n++] = c;
            }
    ek_text *text = ek_text_from_arrays(texts, labels, n, names, classes);
    ck_made(text);
    return text;
}

static int64_t count_label(const ek_text *text, int64_t label)
{
    int64_t count = 0;
    for (int64_t i = 0; i < ek_text_size(text); i++)
        count += ek_text_label(text, i) == label;
    return count;
}

static bool holds(const ek_text *text, const char *string, int64_t label)
{
    for (int64_t i = 0; i < ek_text_size(text); i++)
        if (ek_text_label(text, i) == label && strcmp(ek_text_at(text, i), string) == 0)
            return true;
    return false;
}

START_TEST(split_is_stratified)
{
    static const int64_t counts[] = {200, 2, 10, 5, 33};
    static const struct {
        double fraction;
        int64_t test[5];
    } cases[] = {
        {0.2, {40, 1, 2, 1, 7}}, {0.5, {100, 1, 5, 3, 17}}, {0.01, {2, 1, 1, 1, 1}}, {0.999, {199, 1, 9, 4, 32}},
        {0.1, {20, 1, 1, 1, 3}}, {0.15, {30, 1, 2, 1, 5}}, /* 1.5 of 10 becomes 2, 4.95 of 33 becomes 5 */
    };
    ek_text *text = numbered(counts, 5), *train, *test;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ck_ok(ek_text_split(text, cases[i].fraction, i, &train, &test));
        ck_assert_int_eq(ek_text_size(train) + ek_text_size(test), 250);
        for (int64_t c = 0; c < 5; c++) {
            ck_assert_int_eq(count_label(test, c), cases[i].test[c]);
            ck_assert_int_eq(count_label(train, c), counts[c] - cases[i].test[c]);
            ck_assert_str_eq(ek_text_class_name(test, c), ek_text_class_name(text, c));
        }
        /* Merging both sides by the order they kept gives the whole again. */
        int64_t from_train = 0, from_test = 0;
        for (int64_t k = 0; k < 250; k++) {
            const bool left = from_train < ek_text_size(train) &&
                              strcmp(ek_text_at(train, from_train), ek_text_at(text, k)) == 0;
            const char *got = left ? ek_text_at(train, from_train++) : ek_text_at(test, from_test++);
            ck_assert_str_eq(got, ek_text_at(text, k));
        }
        ek_text_free(train);
        ek_text_free(test);
    }
    ek_text_free(text);
}
END_TEST

/* The same texts of a class land in the same part whatever else there is; another seed parts them otherwise. */
START_TEST(split_is_a_function_of_seed_and_class)
{
    ek_text *both = numbered((int64_t[]){60, 60}, 2), *one = numbered((int64_t[]){60}, 1), *train[4], *test[4];
    ck_ok(ek_text_split(both, 0.3, 5, &train[0], &test[0]));
    ck_ok(ek_text_split(one, 0.3, 5, &train[1], &test[1]));
    ck_ok(ek_text_split(both, 0.3, 6, &train[2], &test[2]));
    const char *backwards[60], *name = "a";
    for (int i = 0; i < 60; i++)
        backwards[i] = ek_text_at(one, 59 - i);
    ek_text *turned = ek_text_from_arrays(backwards, (int64_t[60]){0}, 60, &name, 1);
    ck_ok(ek_text_split(turned, 0.3, 5, &train[3], &test[3]));
    int64_t moved = 0, like_other_class = 0;
    for (int64_t i = 0; i < ek_text_size(test[1]); i++) {
        const char *string = ek_text_at(test[1], i);
        char other[16];
        snprintf(other, sizeof other, "1.%s", string + 2);
        ck_assert(holds(test[0], string, 0));
        ck_assert(holds(test[3], string, 0));
        moved += !holds(test[2], string, 0);
        like_other_class += holds(test[0], other, 1);
    }
    ck_assert_int_gt(moved, 5);
    ck_assert_int_lt(like_other_class, 14);
    for (int i = 0; i < 4; i++) {
        ek_text_free(train[i]);
        ek_text_free(test[i]);
    }
    ek_text_free(both);
    ek_text_free(one);
    ek_text_free(turned);
}
END_TEST

START_TEST(equal_texts_stay_together)
{
    /* 60 × x, 3 × y, 37 others, all of one class; y of another class goes its own way. */
    static const char *texts[103];
    static char others[37][8];
    static int64_t labels[103];
    const char *names[] = {"a", "b"};
    for (int i = 0; i < 100; i++) {
        if (i >= 63)
            snprintf(others[i - 63], sizeof *others, "z%d", i);
        texts[i] = i < 60 ? "x" : i < 63 ? "y" : others[i - 63];
    }
    texts[100] = "y";
    texts[101] = "q";
    texts[102] = "r";
    labels[100] = labels[101] = labels[102] = 1;
    ek_text *text = ek_text_from_arrays(texts, labels, 103, names, 2), *train, *test;
    ck_made(text);
    bool y_tested = false, y_trained = false;
    for (uint64_t seed = 0; seed < 40; seed++) {
        ck_ok(ek_text_split(text, 0.25, seed, &train, &test));
        ck_assert_int_eq(count_label(test, 0), 25); /* the single ones fill up what is left */
        ck_assert_int_eq(count_label(test, 1), 1);
        ck_assert(holds(train, "x", 0) && !holds(test, "x", 0)); /* too many to be tested */
        ck_assert(holds(train, "y", 0) != holds(test, "y", 0));
        y_tested |= holds(test, "y", 0);
        y_trained |= holds(train, "y", 0);
        ek_text_free(train);
        ek_text_free(test);
    }
    ck_assert(y_tested && y_trained);
    ek_text_free(text);
    /* Where no text fits, the one with the fewest copies is tested. */
    const char *few[] = {"x", "x", "x", "x", "y", "y"};
    text = ek_text_from_arrays(few, (int64_t[6]){0}, 6, names, 2);
    for (uint64_t seed = 0; seed < 8; seed++) {
        ck_ok(ek_text_split(text, 0.2, seed, &train, &test));
        ck_assert_int_eq(ek_text_size(test), 2);
        ck_assert_str_eq(ek_text_at(test, 0), "y");
        ek_text_free(train);
        ek_text_free(test);
    }
    ek_text_free(text);
}
END_TEST

START_TEST(split_errors)
{
    ek_text *text = numbered((int64_t[]){3, 1}, 2), *train = NULL, *test = NULL;
    ck_assert_int_eq(ek_text_split(text, 0.5, 0, &train, &test), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "text_split: class 'b' has one text ('1.0', 1 times), which cannot be on both sides: "
             "expected two different ones; add some or leave the class out");
    static const double bad[] = {0, 1, -0.5, NAN};
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(ek_text_split(text, bad[i], 0, &train, &test), EK_ERR_ARGUMENT);
        ck_error(EK_ERR_ARGUMENT, "text_split: expected a test fraction between 0 and 1, got ");
    }
    ck_assert_int_eq(ek_text_split(NULL, 0.5, 0, &train, &test), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "got NULL for the texts");
    ck_assert_int_eq(ek_text_split(text, 0.5, 0, NULL, &test), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "got NULL for the training part");
    ck_assert_int_eq(ek_text_split(text, 0.5, 0, &train, NULL), EK_ERR_ARGUMENT);
    ck_error(EK_ERR_ARGUMENT, "got NULL for the test part");
    ck_assert(!train && !test);
    ek_text_free(text);
}
END_TEST

/* ---- surnames ---------------------------------------------------------------------------------------------------- */

START_TEST(names_of_18_languages)
{
    static const struct {
        const char *language;
        int64_t lines; /* counted with wc -l */
    } expected[] = {
        {"Arabic", 2000}, {"Chinese", 268},   {"Czech", 519},     {"Dutch", 297},      {"English", 3668},
        {"French", 277},  {"German", 724},    {"Greek", 203},     {"Irish", 232},      {"Italian", 709},
        {"Japanese", 991}, {"Korean", 94},    {"Polish", 139},    {"Portuguese", 74},  {"Russian", 9384},
        {"Scottish", 100}, {"Spanish", 298},  {"Vietnamese", 73},
    };
    if (!have_names("names_of_18_languages"))
        return;
    ek_text *text = ek_text_from_folder(SHARED_DATA_DIR "/names"), *train, *test;
    ck_made(text);
    ck_assert_int_eq(ek_text_num_classes(text), 18);
    ck_assert_int_eq(ek_text_size(text), 20050);
    for (int c = 0; c < 18; c++) {
        ck_assert_str_eq(ek_text_class_name(text, c), expected[c].language);
        ck_assert_int_eq(count_label(text, c), expected[c].lines);
    }
    ck_ok(ek_text_split(text, 0.2, 1, &train, &test));
    for (int c = 0; c < 18; c++) {
        /* Arabic, 108 names in 2000 lines, is the one whose copies do not always fill the fifth. */
        const int64_t wanted = (int64_t)floor(0.2 * (double)expected[c].lines + 0.5), got = count_label(test, c);
        ck_assert_msg(got <= wanted && wanted - got <= 10, "%s: %lld of %lld", expected[c].language, (long long)got,
                      (long long)wanted);
    }
    for (int64_t i = 0; i < ek_text_size(test); i++)
        ck_each(!holds(train, ek_text_at(test, i), ek_text_label(test, i)), "%s is on both sides", ek_text_at(test, i));
    ek_text_free(train);
    ek_text_free(test);
    ek_text_free(text);
}
END_TEST

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static ek_status read_and_split(void)
{
    ek_text *text = ek_text_from_folder(folder()), *train = NULL, *test = NULL;
    ek_status status = text ? ek_text_split(text, 0.5, 0, &train, &test) : ek_last_status();
    ek_text_free(text);
    ek_text_free(train);
    ek_text_free(test);
    text = status == EK_OK ? ek_text_from_lines(temp_path("lines"), ',') : NULL;
    status = text ? EK_OK : ek_last_status();
    ek_text_free(text);
    return status;
}

START_TEST(memory_runs_out)
{
    char content[400] = "";
    for (int i = 0; i < 40; i++)
        snprintf(content + strlen(content), sizeof content - strlen(content), "text%d\n", i);
    write_text("a.txt", content);
    write_text("b.txt", "x\ny\n");
    write_text("lines", "a,x\nb,y\n");
    ck_assert_int_gt(assert_survives_refusals(read_and_split), 30);
    remove_temp();
}
END_TEST

int main(void)
{
    return RUN_TESTS("text", every_code_point_there_and_back, invalid_utf8, folder_of_classes, labelled_lines,
                     files_that_cannot_be_read, long_files, arrays_and_access, split_is_stratified,
                     split_is_a_function_of_seed_and_class, equal_texts_stay_together, split_errors,
                     names_of_18_languages, memory_runs_out);
}
