#include "cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LINE_BYTES = 512 };

int64_t bench_option(const bench_case *c, const char *name, int64_t otherwise)
{
    const size_t length = strlen(name);
    for (int i = 0; i < c->n_options; i++)
        if (!strncmp(c->options[i], name, length)) {
            if (c->options[i][length] == '=')
                return strtoll(c->options[i] + length + 1, NULL, 10);
            if (c->options[i][length] == '\0')
                return 1;
        }
    return otherwise;
}

int64_t bench_size(const bench_case *c, char letter, int64_t otherwise)
{
    for (const char *at = c->size; at; at = strchr(at, '_') ? strchr(at, '_') + 1 : NULL)
        if (*at == letter)
            return strtoll(at + 1, NULL, 10);
    return otherwise;
}

/* 32x64x56x56; a size that is no shape has no dimensions. */
static void read_shape(bench_case *c)
{
    const char *text = c->size;
    c->numel = 1;
    for (char *end; c->ndim < BENCH_MAX_NDIM; text = end + 1) {
        const int64_t dim = strtoll(text, &end, 10);
        if (end == text || dim < 1)
            break;
        c->dim[c->ndim++] = dim;
        c->numel *= dim;
        if (*end == '\0')
            return;
        if (*end != 'x')
            break;
    }
    c->ndim = 0;
    c->numel = 0;
}

bool bench_read_case(char *line, bench_case *c)
{
    *c = (bench_case){0};
    const char *word[BENCH_MAX_WORDS];
    int n = 0;
    for (char *at = strtok(line, " \n"); at && n < BENCH_MAX_WORDS; at = strtok(NULL, " \n"))
        word[n++] = at;
    if (n < 4)
        return false;
    c->kind = word[0];
    c->size = word[1];
    c->variant = word[2];
    c->threads = atoi(word[3]);
    for (int i = 4; i < n; i++)
        c->options[c->n_options++] = word[i];
    c->relu = strstr(c->variant, "relu") != NULL;
    c->train = strstr(c->variant, "train") != NULL;
    read_shape(c);
    return c->threads >= 1;
}

/* The line KIND SIZE [OPTION…] in each of `variants`; adds to *calls, false when that is enough. */
static bool use_variants(const char *line, const char *variants, bool (*use)(void *user, const bench_case *c),
                         void *user, int *calls)
{
    char text[2 * LINE_BYTES], kind[64], size[64];
    int options = 0;
    if (sscanf(line, "%63s %63s %n", kind, size, &options) < 2)
        return true;
    for (size_t length; *variants; variants += length + (variants[length] != '\0')) {
        bench_case c;
        length = strcspn(variants, " ");
        snprintf(text, sizeof text, "%s %s %.*s 1 %s", kind, size, (int)length, variants, line + options);
        if (length == 0 || !bench_read_case(text, &c))
            continue;
        ++*calls;
        if (!use(user, &c))
            return false;
    }
    return true;
}

int bench_each_case(const char *path, bool (*use)(void *user, const bench_case *c), void *user)
{
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    char line[LINE_BYTES], variants[LINE_BYTES] = "";
    int calls = 0;
    for (bool more = true; more && fgets(line, sizeof line, file);) {
        line[strcspn(line, "#\n")] = '\0';
        if (!strncmp(line, "variants ", 9))
            snprintf(variants, sizeof variants, "%s", line + 9);
        else if (strncmp(line, "threads ", 8) != 0)
            more = use_variants(line, variants, use, user, &calls);
    }
    fclose(file);
    return calls;
}
