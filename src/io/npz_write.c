/* Writing .npz: entries one after the other into a temporary file, then the directory, then the rename. */
#include "file.h"
#include "npy.h"
#include "zip.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "arrays are written as they lie in memory, little-endian");

#define OUTPUT_BYTES ((size_t)1 << 16)
#define ZIP_DATE 0x21 /* 1 January 1980, the format's first day: the same tensors give the same bytes */
#define VERSION_20 20 /* deflate */
#define VERSION_45 45 /* zip64 */

struct ek_npz_writer {
    char *path, *temporary;
    int descriptor;
    int level;
    ek_status failed; /* a write went wrong: nothing can come of this archive */
    uint64_t offset;  /* end of what is written */
    uint64_t entries, zip64_from;
    unsigned char *directory; /* the records for the end of the file */
    size_t directory_bytes, directory_room;
    bool deflating;
    z_stream deflater;
    unsigned char *output;
};

static void put16(unsigned char *p, uint64_t value)
{
    p[0] = (unsigned char)value;
    p[1] = (unsigned char)(value >> 8);
}

static void put32(unsigned char *p, uint64_t value)
{
    put16(p, value);
    put16(p + 2, value >> 16);
}

static void put64(unsigned char *p, uint64_t value)
{
    put32(p, value);
    put32(p + 4, value >> 32);
}

/* ---- the temporary file ------------------------------------------------------------------------------------------ */

static ek_status system_fail(ek_npz_writer *writer, const char *what)
{
    writer->failed = EK_ERR_IO;
    return ek_fail(EK_ERR_IO, "npz_writer: cannot %s %s: %s", what, writer->path, strerror(errno));
}

static ek_status write_at(ek_npz_writer *writer, uint64_t offset, const void *bytes, size_t n)
{
    const char *from = bytes;
    while (n > 0) {
        ssize_t done = pwrite(writer->descriptor, from, n, (off_t)offset);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return system_fail(writer, "write");
        from += done;
        offset += (uint64_t)done;
        n -= (size_t)done;
    }
    return EK_OK;
}

static ek_status append(ek_npz_writer *writer, const void *bytes, size_t n)
{
    ek_status status = write_at(writer, writer->offset, bytes, n);
    if (status == EK_OK)
        writer->offset += n;
    return status;
}

/* Makes "path.tmp-<process>-<number>", a name that nobody has. */
static ek_status open_temporary(ek_npz_writer *writer)
{
    size_t bytes = strlen(writer->path) + 64;
    writer->temporary = ek_alloc(bytes);
    if (!writer->temporary)
        return EK_ERR_MEMORY;
    for (int number = 0; number < 10000 && writer->descriptor < 0; number++) {
        snprintf(writer->temporary, bytes, "%s.tmp-%ld-%d", writer->path, (long)getpid(), number);
        writer->descriptor = open(writer->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (writer->descriptor < 0 && errno != EEXIST)
            break;
    }
    return writer->descriptor < 0 ? system_fail(writer, "make a temporary file beside") : EK_OK;
}

static void writer_free(ek_npz_writer *writer)
{
    if (writer->deflating)
        deflateEnd(&writer->deflater);
    ek_release(writer->path);
    ek_release(writer->temporary);
    ek_release(writer->directory);
    ek_release(writer->output);
    ek_release(writer);
}

void ek_npz_writer_abandon(ek_npz_writer *writer)
{
    if (!writer)
        return;
    if (writer->descriptor >= 0) {
        close(writer->descriptor);
        unlink(writer->temporary);
    }
    writer_free(writer);
}

static ek_status start(ek_npz_writer *writer, const char *path)
{
    writer->path = ek_copy_text(path);
    writer->output = ek_alloc(OUTPUT_BYTES);
    if (!writer->path || !writer->output)
        return EK_ERR_MEMORY;
    if (writer->level > 0) {
        writer->deflater.zalloc = ek_zlib_allocate;
        writer->deflater.zfree = ek_zlib_release;
        writer->deflating =
            deflateInit2(&writer->deflater, writer->level, Z_DEFLATED, -MAX_WBITS, 8, Z_DEFAULT_STRATEGY) == Z_OK;
        if (!writer->deflating)
            return ek_fail(EK_ERR_MEMORY, "npz_writer: out of memory before deflating %s", path);
    }
    return open_temporary(writer);
}

ek_npz_writer *ek_npz_writer_new(const char *path, int level)
{
    if (!path || !*path || level < 0 || level > 9) {
        ek_fail(EK_ERR_ARGUMENT, "npz_writer: expected a path and a level of 0 to 9, got %s and %d",
                path && *path ? path : "none", level);
        return NULL;
    }
    ek_npz_writer *writer = ek_alloc_zeroed(sizeof *writer);
    if (!writer)
        return NULL;
    writer->descriptor = -1;
    writer->level = level;
    writer->zip64_from = ZIP_FULL32;
    if (start(writer, path) != EK_OK) {
        ek_npz_writer_abandon(writer);
        return NULL;
    }
    return writer;
}

void ek_npz_writer_zip64_from(ek_npz_writer *writer, uint64_t bytes)
{
    writer->zip64_from = bytes;
}

/* ---- entries ----------------------------------------------------------------------------------------------------- */

typedef struct entry {
    const char *name; /* without ".npy" */
    size_t name_bytes;
    uint64_t plain, packed, offset;
    uint32_t crc;
    bool zip64; /* the local record leaves room for 64-bit sizes */
} entry;

/* Bytes `from` … as part of the entry's data; deflate may hold some back until `last`. */
static ek_status add_bytes(ek_npz_writer *writer, entry *e, const void *from, size_t n, bool last)
{
    const unsigned char none = 0, *at = n ? from : &none; /* no bytes may lie at NULL, where zlib starts anew */
    z_stream *z = &writer->deflater;
    do {
        uInt step = n < (1u << 30) ? (uInt)n : 1u << 30;
        bool end = last && step == n;
        e->crc = (uint32_t)crc32(e->crc, at, step);
        z->next_in = at;
        z->avail_in = step;
        do {
            if (!writer->deflating) {
                ek_status status = append(writer, at, step);
                if (status != EK_OK)
                    return status;
                break;
            }
            z->next_out = writer->output;
            z->avail_out = (uInt)OUTPUT_BYTES;
            deflate(z, end ? Z_FINISH : Z_NO_FLUSH);
            ek_status status = append(writer, writer->output, OUTPUT_BYTES - z->avail_out);
            if (status != EK_OK)
                return status;
        } while (z->avail_out == 0);
        at += step;
        n -= step;
    } while (n > 0);
    return EK_OK;
}

static ek_status write_local(ek_npz_writer *writer, const entry *e)
{
    unsigned char record[LOCAL_BYTES] = {0}, extra[20] = {0};
    put32(record, LOCAL_SIGNATURE);
    put16(record + LOCAL_NEEDED, e->zip64 ? VERSION_45 : VERSION_20);
    put16(record + LOCAL_FLAGS, ZIP_FLAG_UTF8);
    put16(record + LOCAL_METHOD, writer->deflating ? ZIP_DEFLATED : ZIP_STORED);
    put16(record + LOCAL_DATE, ZIP_DATE);
    put32(record + LOCAL_CRC, e->crc);
    put32(record + LOCAL_PACKED, e->zip64 ? ZIP_FULL32 : e->packed);
    put32(record + LOCAL_PLAIN, e->zip64 ? ZIP_FULL32 : e->plain);
    put16(record + LOCAL_NAME_BYTES, e->name_bytes + 4);
    put16(record + LOCAL_EXTRA_BYTES, e->zip64 ? sizeof extra : 0);
    put16(extra, ZIP64_EXTRA);
    put16(extra + 2, 16);
    put64(extra + 4, e->plain);
    put64(extra + 12, e->packed);
    uint64_t at = e->offset;
    ek_status status = write_at(writer, at, record, sizeof record);
    if (status == EK_OK)
        status = write_at(writer, at + LOCAL_BYTES, e->name, e->name_bytes);
    if (status == EK_OK)
        status = write_at(writer, at + LOCAL_BYTES + e->name_bytes, ".npy", 4);
    if (status == EK_OK && e->zip64)
        status = write_at(writer, at + LOCAL_BYTES + e->name_bytes + 4, extra, sizeof extra);
    return status;
}

static ek_status reserve_directory(ek_npz_writer *writer, size_t more)
{
    size_t needed = writer->directory_bytes + more;
    if (needed <= writer->directory_room)
        return EK_OK;
    unsigned char *larger = ek_alloc(2 * needed);
    if (!larger)
        return EK_ERR_MEMORY;
    if (writer->directory_bytes)
        memcpy(larger, writer->directory, writer->directory_bytes);
    ek_release(writer->directory);
    writer->directory = larger;
    writer->directory_room = 2 * needed;
    return EK_OK;
}

/* 64-bit values go to the extra field in this order, each only where its 32-bit field says so. */
static void list_entry(ek_npz_writer *writer, const entry *e)
{
    unsigned char *record = writer->directory + writer->directory_bytes, extra[28];
    size_t extra_bytes = 4;
    const struct {
        uint64_t value;
        int field;
    } sizes[] = {{e->plain, CENTRAL_PLAIN}, {e->packed, CENTRAL_PACKED}, {e->offset, CENTRAL_OFFSET}};
    memset(record, 0, CENTRAL_BYTES);
    for (int i = 0; i < 3; i++) {
        bool large = sizes[i].value >= writer->zip64_from;
        put32(record + sizes[i].field, large ? ZIP_FULL32 : sizes[i].value);
        if (large)
            put64(extra + extra_bytes, sizes[i].value);
        extra_bytes += large ? 8 : 0;
    }
    put16(extra, ZIP64_EXTRA);
    put16(extra + 2, extra_bytes - 4);
    if (extra_bytes == 4)
        extra_bytes = 0;
    put32(record, CENTRAL_SIGNATURE);
    put16(record + CENTRAL_MADE_BY, VERSION_45);
    put16(record + CENTRAL_NEEDED, e->zip64 || extra_bytes ? VERSION_45 : VERSION_20);
    put16(record + CENTRAL_FLAGS, ZIP_FLAG_UTF8);
    put16(record + CENTRAL_METHOD, writer->deflating ? ZIP_DEFLATED : ZIP_STORED);
    put16(record + CENTRAL_DATE, ZIP_DATE);
    put32(record + CENTRAL_CRC, e->crc);
    put16(record + CENTRAL_NAME_BYTES, e->name_bytes + 4);
    put16(record + CENTRAL_EXTRA_BYTES, extra_bytes);
    memcpy(record + CENTRAL_BYTES, e->name, e->name_bytes);
    memcpy(record + CENTRAL_BYTES + e->name_bytes, ".npy", 4);
    memcpy(record + CENTRAL_BYTES + e->name_bytes + 4, extra, extra_bytes);
    writer->directory_bytes += CENTRAL_BYTES + e->name_bytes + 4 + extra_bytes;
    writer->entries++;
}

static bool is_listed(const ek_npz_writer *writer, const char *name, size_t name_bytes)
{
    const unsigned char *record = writer->directory, *end = record + writer->directory_bytes;
    while (record < end) {
        size_t bytes = ek_little16(record + CENTRAL_NAME_BYTES);
        if (bytes == name_bytes + 4 && !memcmp(record + CENTRAL_BYTES, name, name_bytes))
            return true;
        record += CENTRAL_BYTES + bytes + ek_little16(record + CENTRAL_EXTRA_BYTES);
    }
    return false;
}

static ek_status check_name(const ek_npz_writer *writer, const char *name)
{
    size_t bytes = name ? strlen(name) : 0;
    if (bytes == 0 || bytes > 1024)
        return ek_fail(EK_ERR_ARGUMENT, "npz_writer: expected a name of 1 to 1024 bytes, got %zu", bytes);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7F)
            return ek_fail(EK_ERR_ARGUMENT, "npz_writer: expected a name without control characters, got character %d "
                           "at place %zu", name[i], i);
    if (writer->directory && is_listed(writer, name, bytes))
        return ek_fail(EK_ERR_ARGUMENT, "npz_writer: the name '%s' is in the archive already", name);
    return EK_OK;
}

ek_status ek_npz_writer_add(ek_npz_writer *writer, const char *name, const ek_tensor *tensor)
{
    if (!writer || !tensor)
        return ek_fail(EK_ERR_ARGUMENT, "npz_writer_add: expected a writer and a tensor, got NULL for the %s",
                       writer ? "tensor" : "writer");
    if (writer->failed != EK_OK)
        return ek_fail(EK_ERR_STATE, "npz_writer_add: an earlier write to %s failed; abandon this writer",
                       writer->path);
    ek_status status = check_name(writer, name);
    if (status == EK_OK)
        status = reserve_directory(writer, CENTRAL_BYTES + strlen(name) + 4 + 28);
    if (status != EK_OK)
        return status;
    char header[EK_NPY_MAX_HEADER];
    size_t header_bytes = ek_npy_format(tensor->dtype, tensor->shape, header), data_bytes = ek_tensor_bytes(tensor);
    entry e = {.name = name, .name_bytes = strlen(name), .plain = header_bytes + data_bytes, .offset = writer->offset};
    uint64_t bound = e.plain;
    if (writer->deflating) {
        deflateReset(&writer->deflater);
        bound = deflateBound(&writer->deflater, e.plain);
    }
    e.zip64 = bound >= writer->zip64_from;
    uint64_t data = writer->offset += LOCAL_BYTES + e.name_bytes + 4 + (e.zip64 ? 20 : 0);
    status = add_bytes(writer, &e, header, header_bytes, false);
    if (status == EK_OK)
        status = add_bytes(writer, &e, tensor->data, data_bytes, true);
    e.packed = writer->offset - data;
    if (status == EK_OK)
        status = write_local(writer, &e);
    if (status == EK_OK)
        list_entry(writer, &e);
    return status;
}

/* ---- the end ----------------------------------------------------------------------------------------------------- */

static ek_status write_directory(ek_npz_writer *writer)
{
    uint64_t offset = writer->offset, bytes = writer->directory_bytes, entries = writer->entries;
    bool zip64 = entries >= ZIP_FULL16 || offset >= writer->zip64_from || bytes >= writer->zip64_from;
    unsigned char end64[END64_BYTES] = {0}, locator[LOCATOR_BYTES] = {0}, end[END_BYTES] = {0};
    put32(end64, END64_SIGNATURE);
    put64(end64 + END64_RECORD_BYTES, END64_BYTES - 12);
    put16(end64 + END64_MADE_BY, VERSION_45);
    put16(end64 + END64_NEEDED, VERSION_45);
    put64(end64 + END64_ENTRIES_HERE, entries);
    put64(end64 + END64_ENTRIES, entries);
    put64(end64 + END64_DIRECTORY_BYTES, bytes);
    put64(end64 + END64_DIRECTORY_OFFSET, offset);
    put32(locator, LOCATOR_SIGNATURE);
    put64(locator + LOCATOR_OFFSET, offset + bytes);
    put32(locator + LOCATOR_DISKS, 1);
    put32(end, END_SIGNATURE);
    put16(end + END_ENTRIES_HERE, zip64 ? ZIP_FULL16 : entries);
    put16(end + END_ENTRIES, zip64 ? ZIP_FULL16 : entries);
    put32(end + END_DIRECTORY_BYTES, zip64 ? ZIP_FULL32 : bytes);
    put32(end + END_DIRECTORY_OFFSET, zip64 ? ZIP_FULL32 : offset);
    ek_status status = append(writer, writer->directory, writer->directory_bytes);
    if (status == EK_OK && zip64)
        status = append(writer, end64, sizeof end64);
    if (status == EK_OK && zip64)
        status = append(writer, locator, sizeof locator);
    return status == EK_OK ? append(writer, end, sizeof end) : status;
}

/* The rename itself has to reach the disk.  Some file systems cannot sync a folder (EINVAL): then nothing can. */
static ek_status sync_folder(ek_npz_writer *writer)
{
    char *slash = strrchr(writer->temporary, '/');
    if (slash)
        slash[slash == writer->temporary] = '\0'; /* "/name" lies in "/" */
    int folder = open(slash ? writer->temporary : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        return system_fail(writer, "open the folder of");
    ek_status status = fsync(folder) != 0 && errno != EINVAL ? system_fail(writer, "sync the folder of") : EK_OK;
    close(folder);
    return status;
}

ek_status ek_npz_writer_close(ek_npz_writer *writer)
{
    if (!writer)
        return ek_fail(EK_ERR_ARGUMENT, "npz_writer_close: expected a writer, got NULL");
    ek_status status = writer->failed;
    if (status == EK_OK)
        status = write_directory(writer);
    else
        status = ek_fail(EK_ERR_STATE, "npz_writer_close: an earlier write to %s failed; the archive is given up",
                         writer->path);
    if (status == EK_OK && fsync(writer->descriptor) != 0)
        status = system_fail(writer, "sync");
    if (status == EK_OK && rename(writer->temporary, writer->path) != 0)
        status = system_fail(writer, "rename a temporary file to");
    if (status != EK_OK) {
        ek_npz_writer_abandon(writer);
        return status;
    }
    close(writer->descriptor);
    status = sync_folder(writer);
    writer_free(writer);
    return status;
}
