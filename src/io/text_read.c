/* Labelled texts from files: a folder with one file per class, or one file of labelled lines. */
#include "file.h"
#include "text.h"
#include "utf8.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- lines ------------------------------------------------------------------------------------------------------- */

/* A file in memory, cut into lines. */
typedef struct lines {
    const char *who, *path;
    char *bytes;
    size_t size, next;
    int64_t number; /* of the current line, from 1 */
} lines;

typedef struct span {
    const char *bytes;
    size_t n;
} span;

static ek_status lines_open(lines *in, const char *who, const char *path)
{
    *in = (lines){.who = who, .path = path};
    ek_file file;
    ek_status status = ek_file_open(&file, who, path);
    if (status != EK_OK)
        return status;
    in->size = (size_t)file.bytes;
    in->bytes = ek_alloc(in->size);
    status = in->bytes ? ek_file_read(&file, 0, in->bytes, in->size) : EK_ERR_MEMORY;
    ek_file_close(&file);
    if (status != EK_OK)
        ek_release(in->bytes);
    else if (in->size >= 3 && memcmp(in->bytes, "\xEF\xBB\xBF", 3) == 0)
        in->next = 3; /* a byte order mark, which some editors write */
    return status;
}

static bool is_blank(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static span trimmed(const char *bytes, size_t n)
{
    while (n > 0 && is_blank(bytes[n - 1]))
        n--;
    while (n > 0 && is_blank(*bytes)) {
        bytes++;
        n--;
    }
    return (span){bytes, n};
}

/* The next line that is not blank, as it is but for its end; EK_DONE when there is none. */
static ek_status next_line(lines *in, span *line)
{
    while (in->next < in->size) {
        const char *begin = in->bytes + in->next;
        const char *end = memchr(begin, '\n', in->size - in->next);
        *line = (span){begin, end ? (size_t)(end - begin) : in->size - in->next};
        in->next += line->n + 1;
        in->number++;
        int64_t column;
        const char *fault;
        if (!ek_utf8_count(line->bytes, line->n, &column, &fault))
            return ek_fail(EK_ERR_FORMAT, "%s: %s, line %lld, column %lld: expected UTF-8, got %s: save the file as "
                           "UTF-8 text", in->who, in->path, (long long)in->number, (long long)column, fault);
        if (trimmed(line->bytes, line->n).n > 0)
            return EK_OK;
    }
    return EK_DONE;
}

/* ---- one file per class ------------------------------------------------------------------------------------------ */

static ek_status read_class(ek_text *text, const char *who, const char *path, int64_t label)
{
    lines in;
    span line;
    const int64_t before = text->texts.count;
    ek_status status = lines_open(&in, who, path);
    if (status != EK_OK)
        return status;
    while (status == EK_OK && (status = next_line(&in, &line)) == EK_OK) {
        const span content = trimmed(line.bytes, line.n);
        status = ek_text_add(text, content.bytes, content.n, label);
    }
    ek_release(in.bytes);
    if (status == EK_DONE && text->texts.count == before)
        return ek_fail(EK_ERR_FORMAT, "%s: %s holds no text: expected one text per line, got %s; fill the file or take "
                       "it away", who, path, in.size == 0 ? "an empty file" : "blank lines only");
    return status == EK_DONE ? EK_OK : status;
}

/* The class that a file is for: its name without ".txt"; 0 characters for any other file. */
static size_t class_name_length(const char *file_name)
{
    const size_t n = strlen(file_name);
    return n > 4 && file_name[0] != '.' && strcmp(file_name + n - 4, ".txt") == 0 ? n - 4 : 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Adds the names, sorted by their bytes, each once, as the classes of `text`. */
static ek_status add_sorted_classes(ek_text *text, const ek_strings *names)
{
    const char **sorted = ek_alloc((size_t)names->count * sizeof *sorted);
    if (!sorted)
        return EK_ERR_MEMORY;
    for (int64_t i = 0; i < names->count; i++)
        sorted[i] = ek_string(names, i);
    qsort(sorted, (size_t)names->count, sizeof *sorted, by_name);
    ek_status status = EK_OK;
    for (int64_t i = 0; status == EK_OK && i < names->count; i++)
        if (i == 0 || strcmp(sorted[i - 1], sorted[i]) != 0)
            status = ek_text_add_class(text, sorted[i]);
    ek_release(sorted);
    return status;
}

static ek_status list_classes(const char *who, const char *folder, ek_text *text)
{
    DIR *entries = opendir(folder);
    if (!entries)
        return ek_fail(EK_ERR_IO, "%s: cannot open the folder %s: %s", who, folder, strerror(errno));
    ek_strings names = {0};
    ek_status status = EK_OK;
    errno = 0;
    for (struct dirent *entry; status == EK_OK && (entry = readdir(entries)); errno = 0) {
        const size_t n = class_name_length(entry->d_name);
        int64_t character;
        const char *fault;
        if (n > 0 && !ek_utf8_count(entry->d_name, n, &character, &fault))
            status = ek_fail(EK_ERR_FORMAT, "%s: %s: a file's name is no UTF-8 (%s in its character %lld): rename it",
                             who, folder, fault, (long long)character);
        else if (n > 0)
            status = ek_strings_add(&names, entry->d_name, n);
    }
    if (status == EK_OK && errno != 0)
        status = ek_fail(EK_ERR_IO, "%s: cannot read the folder %s: %s", who, folder, strerror(errno));
    closedir(entries);
    if (status == EK_OK && names.count == 0)
        status = ek_fail(EK_ERR_FORMAT, "%s: expected a file CLASS.txt for each class in %s, got none", who, folder);
    if (status == EK_OK)
        status = add_sorted_classes(text, &names);
    ek_strings_free(&names);
    return status;
}

static ek_status read_classes(ek_text *text, const char *who, const char *folder)
{
    ek_status status = EK_OK;
    for (int64_t c = 0; status == EK_OK && c < text->classes.count; c++) {
        const char *name = ek_string(&text->classes, c);
        const size_t bytes = strlen(folder) + strlen(name) + sizeof "/.txt";
        char *path = ek_alloc(bytes);
        if (!path)
            return EK_ERR_MEMORY;
        snprintf(path, bytes, "%s/%s.txt", folder, name);
        status = read_class(text, who, path, c);
        ek_release(path);
    }
    return status;
}

ek_text *ek_text_from_folder(const char *folder)
{
    static const char who[] = "text_from_folder";
    if (!folder) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a folder, got NULL", who);
        return NULL;
    }
    ek_text *text = ek_text_new();
    ek_status status = text ? list_classes(who, folder, text) : EK_ERR_MEMORY;
    if (status == EK_OK)
        status = read_classes(text, who, folder);
    return ek_text_finish(text, status);
}

/* ---- labelled lines ---------------------------------------------------------------------------------------------- */

/* "'\t'", "','" in a buffer of 8 bytes. */
static const char *separator_text(char separator, char text[8])
{
    snprintf(text, 8, separator == '\t' ? "'\\t'" : "'%c'", separator);
    return text;
}

/* Cuts a line at its first separator. */
static ek_status cut_line(const lines *in, span line, char separator, span *label, span *content)
{
    char shown[8];
    const char *at = memchr(line.bytes, separator, line.n);
    if (!at)
        return ek_fail(EK_ERR_FORMAT, "%s: %s, line %lld: expected label%ctext, got no separator %s", in->who, in->path,
                       (long long)in->number, separator, separator_text(separator, shown));
    *label = trimmed(line.bytes, (size_t)(at - line.bytes));
    *content = trimmed(at + 1, line.n - (size_t)(at + 1 - line.bytes));
    if (label->n == 0 || content->n == 0)
        return ek_fail(EK_ERR_FORMAT, "%s: %s, line %lld: the %s %s the separator %s is empty: fill it in or take the "
                       "line away", in->who, in->path, (long long)in->number, label->n == 0 ? "label" : "text",
                       label->n == 0 ? "before" : "after", separator_text(separator, shown));
    return EK_OK;
}

/* Labels are known by name until all lines are read. */
static ek_status read_labelled(lines *in, char separator, ek_text *text, ek_strings *labels)
{
    span line, label = {NULL, 0}, content = {NULL, 0};
    ek_status status;
    while ((status = next_line(in, &line)) == EK_OK) {
        status = cut_line(in, line, separator, &label, &content);
        if (status == EK_OK)
            status = ek_strings_add(labels, label.bytes, label.n);
        if (status == EK_OK)
            status = ek_text_add(text, content.bytes, content.n, 0);
        if (status != EK_OK)
            return status;
    }
    if (status == EK_DONE && text->texts.count == 0)
        return ek_fail(EK_ERR_FORMAT, "%s: %s holds no text: expected lines label%ctext, got %s", in->who, in->path,
                       separator, in->size == 0 ? "an empty file" : "blank lines only");
    return status == EK_DONE ? EK_OK : status;
}

/* Index of a class by binary search: class names are sorted and this one is among them. */
static int64_t find_class(const ek_text *text, const char *name)
{
    int64_t low = 0, high = text->classes.count - 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (strcmp(ek_string(&text->classes, middle), name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

ek_text *ek_text_from_lines(const char *path, char separator)
{
    static const char who[] = "text_from_lines";
    if ((unsigned char)separator >= 0x7F || separator == '\n' || separator == '\r' ||
        (separator < ' ' && separator != '\t')) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a printable ASCII character or a tab as the separator, got byte %d", who,
                (unsigned char)separator);
        return NULL;
    }
    lines in;
    if (lines_open(&in, who, path) != EK_OK)
        return NULL;
    ek_strings labels = {0};
    ek_text *text = ek_text_new();
    ek_status status = text ? read_labelled(&in, separator, text, &labels) : EK_ERR_MEMORY;
    ek_release(in.bytes);
    if (status == EK_OK)
        status = add_sorted_classes(text, &labels);
    for (int64_t i = 0; status == EK_OK && i < labels.count; i++)
        text->labels[i] = find_class(text, ek_string(&labels, i));
    ek_strings_free(&labels);
    return ek_text_finish(text, status);
}
