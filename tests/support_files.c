#include "support_files.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

static char folder[512];

const char *temp_path(const char *name)
{
    static char paths[16][600];
    static int next;
    if (!folder[0]) {
        const char *base = getenv("TMPDIR");
        snprintf(folder, sizeof folder, "%s/evenkeel-test-XXXXXX", base ? base : "/tmp");
        ck_assert_msg(mkdtemp(folder) != NULL, "cannot make %s", folder);
    }
    char *path = paths[next++ % 16];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static int walk_temp(bool delete_files)
{
    DIR *entries = folder[0] ? opendir(folder) : NULL;
    int count = 0;
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        char path[800];
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        count++;
        if (delete_files)
            unlink(path);
    }
    if (entries)
        closedir(entries);
    return count;
}

int count_temp(void)
{
    return walk_temp(false);
}

void remove_temp(void)
{
    walk_temp(true);
    if (folder[0])
        rmdir(folder);
    folder[0] = '\0';
}

void write_file(const char *path, const void *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot write %s", path);
    ck_assert_uint_eq(fwrite(bytes, 1, n, file), n);
    ck_assert_int_eq(fclose(file), 0);
}

void write_byte(const char *path, size_t at, unsigned char byte)
{
    FILE *file = fopen(path, "r+b");
    ck_assert_msg(file != NULL, "cannot write %s", path);
    ck_assert(fseek(file, (long)at, SEEK_SET) == 0 && fputc(byte, file) == byte);
    ck_assert_int_eq(fclose(file), 0);
}

void cut_file(const char *path, size_t n)
{
    ck_assert_int_eq(truncate(path, (off_t)n), 0);
}

void write_gzip(const char *path, const void *bytes, size_t n)
{
    gzFile file = gzopen(path, "wb");
    ck_assert_msg(file != NULL, "cannot write %s", path);
    ck_assert_uint_eq(gzfwrite(bytes, 1, n, file), n);
    ck_assert_int_eq(gzclose(file), Z_OK);
}

unsigned char *read_file(const char *path, size_t *n)
{
    FILE *file = fopen(path, "rb");
    ck_assert_msg(file != NULL, "cannot read %s", path);
    ck_assert_int_eq(fseek(file, 0, SEEK_END), 0);
    *n = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*n + 1);
    ck_assert_uint_eq(fread(bytes, 1, *n, file), *n);
    fclose(file);
    return bytes;
}

static bool have_shared(const char *test, const char *file, const char *what)
{
    char path[600];
    snprintf(path, sizeof path, "%s/%s", SHARED_DATA_DIR, file);
    const bool there = access(path, R_OK) == 0;
    if (!there)
        printf("SKIPPED %s: there are no %s in %s: no %s\n", test, what, SHARED_DATA_DIR, file);
    return there;
}

bool have_mnist(const char *test)
{
    return have_shared(test, "mnist/train-labels-idx1-ubyte.gz", "MNIST files");
}

bool have_names(const char *test)
{
    return have_shared(test, "names/Arabic.txt", "names");
}
