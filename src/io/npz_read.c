/* Reading .npz.  Nothing in the file is believed: every size and offset is held against the file's length before it is
 * used, the two records of an entry against each other, and the data against the CRC. */
#include "file.h"
#include "npy.h"
#include "zip.h"

#include <stdlib.h>
#include <string.h>

#define MAX_COMMENT 65535
#define MAX_NPY_TEXT 65535
#define CHUNK_BYTES ((size_t)1 << 16) /* a multiple of every element size */

typedef struct entry {
    char *name; /* in npz->directory, its ".npy" cut off */
    size_t name_bytes;
    uint16_t flags, method;
    uint32_t crc;
    int64_t packed, plain;  /* bytes in the file, and unpacked */
    int64_t offset;         /* of the local record */
    int64_t begin, end;     /* of the data */
} entry;

struct ek_npz {
    ek_file file;
    char *path;
    unsigned char *directory;
    entry *entries;
    int64_t count;
};

static ek_status refuse(const ek_npz *npz, const char *what)
{
    return ek_fail(EK_ERR_FORMAT, "%s: %s is not a readable .npz archive: %s", npz->file.who, npz->path, what);
}

static ek_status refuse_entry(const ek_npz *npz, const entry *e, const char *what)
{
    return ek_fail(EK_ERR_FORMAT, "%s: %s entry '%s': %s", npz->file.who, npz->path, e->name, what);
}

/* ---- the end of the archive -------------------------------------------------------------------------------------- */

typedef struct directory_place {
    uint64_t offset, bytes, entries;
    uint64_t end; /* where the records that follow the directory begin */
} directory_place;

/* The 64-bit end record, when there is one: it has to lie just before its locator, and that just before the end. */
static ek_status find_end64(const ek_npz *npz, int64_t end_offset, directory_place *place)
{
    unsigned char locator[LOCATOR_BYTES], end64[END64_BYTES];
    int64_t locator_offset = end_offset - LOCATOR_BYTES, end64_offset = locator_offset - END64_BYTES;
    if (end64_offset < 0)
        return EK_OK;
    ek_status status = ek_file_read(&npz->file, locator_offset, locator, sizeof locator);
    if (status != EK_OK || ek_little32(locator) != LOCATOR_SIGNATURE)
        return status;
    status = ek_file_read(&npz->file, end64_offset, end64, sizeof end64);
    if (status != EK_OK)
        return status;
    if (ek_little64(locator + LOCATOR_OFFSET) != (uint64_t)end64_offset || ek_little32(end64) != END64_SIGNATURE ||
        ek_little64(end64 + END64_RECORD_BYTES) != END64_BYTES - 12 || ek_little64(end64 + END64_DISK) != 0 ||
        ek_little32(locator + 4) != 0 || ek_little32(locator + LOCATOR_DISKS) > 1 ||
        ek_little64(end64 + END64_ENTRIES_HERE) != ek_little64(end64 + END64_ENTRIES))
        return refuse(npz, "its 64-bit end record makes no sense");
    *place = (directory_place){
        .offset = ek_little64(end64 + END64_DIRECTORY_OFFSET),
        .bytes = ek_little64(end64 + END64_DIRECTORY_BYTES),
        .entries = ek_little64(end64 + END64_ENTRIES),
        .end = (uint64_t)end64_offset,
    };
    return EK_OK;
}

/* The last place from which an end record and its comment reach exactly to the end of the file; −1 if none. */
static int64_t find_end(const unsigned char *tail, int64_t bytes)
{
    for (int64_t at = bytes - END_BYTES; at >= 0; at--)
        if (ek_little32(tail + at) == END_SIGNATURE &&
            at + END_BYTES + ek_little16(tail + at + END_COMMENT_BYTES) == bytes)
            return at;
    return -1;
}

/* Looks for the end record among the last `tail_bytes` bytes. */
static ek_status locate_directory(const ek_npz *npz, int64_t tail_bytes, directory_place *place)
{
    unsigned char *tail = ek_alloc((size_t)tail_bytes), end[END_BYTES];
    if (!tail)
        return EK_ERR_MEMORY;
    ek_status status = ek_file_read(&npz->file, npz->file.bytes - tail_bytes, tail, (size_t)tail_bytes);
    int64_t at = status == EK_OK ? find_end(tail, tail_bytes) : -1;
    if (at >= 0)
        memcpy(end, tail + at, sizeof end);
    ek_release(tail);
    if (status != EK_OK)
        return status;
    if (at < 0)
        return refuse(npz, "it has no end record (truncated, or no zip at all)");
    if (ek_little32(end + END_DISK) != 0 || ek_little16(end + END_ENTRIES_HERE) != ek_little16(end + END_ENTRIES))
        return refuse(npz, "it is one part of several");
    int64_t end_offset = npz->file.bytes - tail_bytes + at;
    const directory_place short_place = {
        .offset = ek_little32(end + END_DIRECTORY_OFFSET),
        .bytes = ek_little32(end + END_DIRECTORY_BYTES),
        .entries = ek_little16(end + END_ENTRIES),
        .end = (uint64_t)end_offset,
    };
    *place = short_place;
    status = find_end64(npz, end_offset, place);
    if (status != EK_OK)
        return status;
    if ((short_place.offset != place->offset && short_place.offset != ZIP_FULL32) ||
        (short_place.bytes != place->bytes && short_place.bytes != ZIP_FULL32) ||
        (short_place.entries != place->entries && short_place.entries != ZIP_FULL16))
        return refuse(npz, "its two end records contradict each other");
    if (place->offset > place->end || place->bytes != place->end - place->offset ||
        place->entries > place->bytes / CENTRAL_BYTES)
        return refuse(npz, "its directory does not fit into the file");
    return EK_OK;
}

/* ---- the directory ----------------------------------------------------------------------------------------------- */

/* Finds the zip64 field among `bytes` bytes of extra fields; NULL if there is none. */
static const unsigned char *find_zip64(const unsigned char *extra, size_t bytes, size_t *field_bytes)
{
    while (bytes >= 4) {
        size_t size = ek_little16(extra + 2);
        if (size > bytes - 4)
            return NULL;
        if (ek_little16(extra) == ZIP64_EXTRA) {
            *field_bytes = size;
            return extra + 4;
        }
        extra += 4 + size;
        bytes -= 4 + size;
    }
    return NULL;
}

/* Replaces each of the n values that is full by the next one of the zip64 field; false when that is too short. */
static bool widen(uint64_t *const *values, int n, const unsigned char *extra, size_t extra_bytes)
{
    size_t left = 0;
    const unsigned char *field = find_zip64(extra, extra_bytes, &left);
    for (int i = 0; i < n; i++) {
        if (*values[i] != ZIP_FULL32)
            continue;
        if (!field || left < 8)
            return false;
        *values[i] = ek_little64(field);
        field += 8;
        left -= 8;
    }
    return true;
}

/* Cuts ".npy" off and refuses what no array can be called. */
static ek_status take_name(const ek_npz *npz, char *name, size_t bytes, entry *e)
{
    if (bytes < 5 || memcmp(name + bytes - 4, ".npy", 4) != 0)
        return ek_fail(EK_ERR_FORMAT, "%s: %s is not a readable .npz archive: expected entries called <name>.npy, got "
                       "'%.*s'", npz->file.who, npz->path, bytes < 100 ? (int)bytes : 100, name);
    for (size_t i = 0; i < bytes; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7F)
            return refuse(npz, "a name holds control characters");
    e->name = name;
    e->name_bytes = bytes - 4;
    name[e->name_bytes] = '\0';
    return EK_OK;
}

/* One record of the directory, at *at; moves *at to the next. */
static ek_status read_central(const ek_npz *npz, const directory_place *place, uint64_t *at, entry *e)
{
    unsigned char *record = npz->directory + *at;
    uint64_t left = place->bytes - *at;
    if (left < CENTRAL_BYTES || ek_little32(record) != CENTRAL_SIGNATURE)
        return refuse(npz, "its directory is damaged");
    size_t name_bytes = ek_little16(record + CENTRAL_NAME_BYTES);
    size_t extra_bytes = ek_little16(record + CENTRAL_EXTRA_BYTES);
    size_t bytes = CENTRAL_BYTES + name_bytes + extra_bytes + ek_little16(record + CENTRAL_COMMENT_BYTES);
    if (bytes > left)
        return refuse(npz, "its directory is damaged");
    uint64_t plain = ek_little32(record + CENTRAL_PLAIN), packed = ek_little32(record + CENTRAL_PACKED);
    uint64_t offset = ek_little32(record + CENTRAL_OFFSET);
    uint64_t *const sizes[] = {&plain, &packed, &offset};
    bool wide = widen(sizes, 3, record + CENTRAL_BYTES + name_bytes, extra_bytes);
    e->flags = ek_little16(record + CENTRAL_FLAGS);
    e->method = ek_little16(record + CENTRAL_METHOD);
    e->crc = ek_little32(record + CENTRAL_CRC);
    ek_status status = take_name(npz, (char *)record + CENTRAL_BYTES, name_bytes, e);
    if (status != EK_OK)
        return status;
    if (e->flags & ~ZIP_FLAGS_KNOWN || (e->method != ZIP_STORED && e->method != ZIP_DEFLATED))
        return refuse_entry(npz, e, "it is encrypted, or packed by a method other than deflate");
    if (!wide || offset > place->offset || packed > place->offset - offset)
        return refuse_entry(npz, e, "it lies outside the file");
    if (e->method == ZIP_STORED ? plain != packed : plain / EK_DEFLATE_MAX_RATIO > packed)
        return refuse_entry(npz, e, "its sizes contradict each other");
    e->plain = (int64_t)plain;
    e->packed = (int64_t)packed;
    e->offset = (int64_t)offset;
    *at += bytes;
    return EK_OK;
}

/* The record before the entry's data, which has to say the same as the directory. */
static ek_status read_local(const ek_npz *npz, const directory_place *place, entry *e)
{
    unsigned char record[LOCAL_BYTES];
    if ((uint64_t)e->offset + LOCAL_BYTES > place->offset)
        return refuse_entry(npz, e, "it lies outside the file");
    ek_status status = ek_file_read(&npz->file, e->offset, record, sizeof record);
    if (status != EK_OK)
        return status;
    size_t name_bytes = ek_little16(record + LOCAL_NAME_BYTES), extra_bytes = ek_little16(record + LOCAL_EXTRA_BYTES);
    e->begin = e->offset + LOCAL_BYTES + (int64_t)(name_bytes + extra_bytes);
    e->end = e->begin + e->packed;
    if ((uint64_t)e->end > place->offset)
        return refuse_entry(npz, e, "it lies outside the file");
    if (ek_little32(record) != LOCAL_SIGNATURE || ek_little16(record + LOCAL_FLAGS) != e->flags ||
        ek_little16(record + LOCAL_METHOD) != e->method || name_bytes != e->name_bytes + 4)
        return refuse_entry(npz, e, "its own record and the directory contradict each other");
    unsigned char *text = ek_alloc(name_bytes + extra_bytes);
    if (!text)
        return EK_ERR_MEMORY;
    status = ek_file_read(&npz->file, e->offset + LOCAL_BYTES, text, name_bytes + extra_bytes);
    bool same = !memcmp(text, e->name, e->name_bytes) && !memcmp(text + e->name_bytes, ".npy", 4);
    if (status == EK_OK && !(e->flags & ZIP_FLAG_AFTER)) {
        uint64_t plain = ek_little32(record + LOCAL_PLAIN), packed = ek_little32(record + LOCAL_PACKED);
        same = same && widen((uint64_t *const[]){&plain, &packed}, 2, text + name_bytes, extra_bytes) &&
               plain == (uint64_t)e->plain && packed == (uint64_t)e->packed &&
               ek_little32(record + LOCAL_CRC) == e->crc;
    }
    ek_release(text);
    if (status == EK_OK && !same)
        return refuse_entry(npz, e, "its own record and the directory contradict each other");
    return status;
}

static int by_offset(const void *a, const void *b)
{
    int64_t x = (*(const entry *const *)a)->offset, y = (*(const entry *const *)b)->offset;
    return (x > y) - (x < y);
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const entry *const *)a)->name, (*(const entry *const *)b)->name);
}

/* No two entries share bytes (a few bytes could unpack to many arrays else) or a name. */
static ek_status check_distinct(const ek_npz *npz)
{
    const entry **sorted = ek_alloc((size_t)npz->count * sizeof *sorted);
    if (!sorted)
        return EK_ERR_MEMORY;
    for (int64_t i = 0; i < npz->count; i++)
        sorted[i] = &npz->entries[i];
    ek_status status = EK_OK;
    qsort(sorted, (size_t)npz->count, sizeof *sorted, by_offset);
    for (int64_t i = 1; i < npz->count && status == EK_OK; i++)
        if (sorted[i]->offset < sorted[i - 1]->end)
            status = refuse_entry(npz, sorted[i], "it overlaps with another entry");
    qsort(sorted, (size_t)npz->count, sizeof *sorted, by_name);
    for (int64_t i = 1; i < npz->count && status == EK_OK; i++)
        if (by_name(&sorted[i], &sorted[i - 1]) == 0)
            status = refuse_entry(npz, sorted[i], "the name is there twice");
    ek_release(sorted);
    return status;
}

static ek_status read_directory(ek_npz *npz, const directory_place *place)
{
    npz->directory = ek_alloc((size_t)place->bytes);
    npz->entries = ek_alloc_zeroed((size_t)place->entries * sizeof *npz->entries);
    if (!npz->directory || !npz->entries)
        return EK_ERR_MEMORY;
    ek_status status = ek_file_read(&npz->file, (int64_t)place->offset, npz->directory, (size_t)place->bytes);
    uint64_t at = 0;
    for (uint64_t i = 0; status == EK_OK && i < place->entries; i++) {
        status = read_central(npz, place, &at, &npz->entries[i]);
        if (status == EK_OK)
            status = read_local(npz, place, &npz->entries[i]);
    }
    npz->count = (int64_t)place->entries;
    if (status == EK_OK && at != place->bytes)
        return refuse(npz, "its directory is damaged");
    return status == EK_OK ? check_distinct(npz) : status;
}

static ek_status open_archive(ek_npz *npz, const char *path)
{
    npz->path = path ? ek_copy_text(path) : NULL;
    if (path && !npz->path)
        return EK_ERR_MEMORY;
    ek_status status = ek_file_open(&npz->file, "npz_open", npz->path);
    if (status != EK_OK)
        return status;
    int64_t longest = END_BYTES + MAX_COMMENT;
    directory_place place = {0};
    status = locate_directory(npz, npz->file.bytes < longest ? npz->file.bytes : longest, &place);
    return status == EK_OK ? read_directory(npz, &place) : status;
}

ek_npz *ek_npz_open(const char *path)
{
    ek_npz *npz = ek_alloc_zeroed(sizeof *npz);
    if (!npz)
        return NULL;
    npz->file.descriptor = -1;
    if (open_archive(npz, path) != EK_OK) {
        ek_npz_close(npz);
        return NULL;
    }
    npz->file.who = "npz_read";
    return npz;
}

void ek_npz_close(ek_npz *npz)
{
    if (!npz)
        return;
    ek_file_close(&npz->file);
    ek_release(npz->path);
    ek_release(npz->directory);
    ek_release(npz->entries);
    ek_release(npz);
}

int64_t ek_npz_count(const ek_npz *npz)
{
    return npz ? npz->count : 0;
}

/* Is there an entry i?  Fails if not. */
static bool has_entry(const char *who, const ek_npz *npz, int64_t i)
{
    if (npz && i >= 0 && i < npz->count)
        return true;
    ek_fail(EK_ERR_ARGUMENT, "%s: expected an entry of 0 to %lld, got %lld", who, (long long)ek_npz_count(npz) - 1,
            (long long)i);
    return false;
}

const char *ek_npz_name(const ek_npz *npz, int64_t i)
{
    return has_entry("npz_name", npz, i) ? npz->entries[i].name : NULL;
}

int64_t ek_npz_find(const ek_npz *npz, const char *name)
{
    for (int64_t i = 0; name && i < ek_npz_count(npz); i++)
        if (!strcmp(npz->entries[i].name, name))
            return i;
    return -1;
}

/* ---- arrays ------------------------------------------------------------------------------------------------------ */

typedef struct entry_reader {
    ek_stream stream;
    int64_t left; /* of the entry's unpacked bytes */
    uint32_t crc;
} entry_reader;

static ek_status read_bytes(entry_reader *reader, void *out, size_t bytes)
{
    size_t got = 0;
    if (bytes > (uint64_t)reader->left)
        return ek_stream_fail(&reader->stream, "it is too short for the array it declares", NULL);
    ek_status status = ek_stream_read(&reader->stream, out, bytes, &got);
    if (status == EK_OK && got < bytes)
        return ek_stream_fail(&reader->stream, "it unpacks to fewer bytes than the directory says", NULL);
    if (status == EK_OK) {
        reader->crc = (uint32_t)crc32_z(reader->crc, out, bytes);
        reader->left -= (int64_t)bytes;
    }
    return status;
}

static ek_status read_header(entry_reader *reader, ek_npy *npy)
{
    unsigned char prefix[12];
    ek_status status = read_bytes(reader, prefix, EK_NPY_PREFIX);
    if (status != EK_OK)
        return status;
    if (memcmp(prefix, "\x93NUMPY", 6) != 0 || prefix[6] < 1 || prefix[6] > 3)
        return ek_stream_fail(&reader->stream, "expected an .npy array of version 1 to 3, got something else", NULL);
    size_t bytes = ek_little16(prefix + 8);
    if (prefix[6] > 1) {
        status = read_bytes(reader, prefix + 10, 2);
        if (status != EK_OK)
            return status;
        bytes = ek_little32(prefix + 8);
        if (bytes > MAX_NPY_TEXT)
            return ek_stream_fail(&reader->stream, "its .npy header is far too long", NULL);
    }
    char *text = ek_alloc(bytes);
    if (!text)
        return EK_ERR_MEMORY;
    status = read_bytes(reader, text, bytes);
    if (status == EK_OK) {
        status = ek_npy_parse(text, bytes, npy);
        if (status != EK_OK)
            ek_fail(status, "npz_read: %s entry '%s': %s", reader->stream.file->path, reader->stream.part,
                    ek_last_error());
    }
    ek_release(text);
    return status;
}

/* Integers of fewer than 8 bytes, or unsigned, little-endian → int64. */
static void widen_integers(const unsigned char *raw, size_t n, const ek_npy *npy, int64_t *out)
{
    size_t bytes = npy->element_bytes;
    uint64_t sign = npy->is_signed ? UINT64_C(1) << (8 * bytes - 1) : 0;
    for (size_t i = 0; i < n; i++) {
        uint64_t value = 0;
        for (size_t b = bytes; b-- > 0;)
            value = value << 8 | raw[i * bytes + b];
        out[i] = (int64_t)((value ^ sign) - sign);
    }
}

static ek_status read_elements(entry_reader *reader, const ek_npy *npy, ek_tensor *t)
{
    if (npy->element_bytes == ek_dtype_size(npy->dtype))
        return read_bytes(reader, t->data, ek_tensor_bytes(t));
    unsigned char *raw = ek_alloc(CHUNK_BYTES);
    if (!raw)
        return EK_ERR_MEMORY;
    ek_status status = EK_OK;
    int64_t step = (int64_t)(CHUNK_BYTES / npy->element_bytes);
    for (int64_t first = 0; first < t->numel && status == EK_OK; first += step) {
        size_t n = (size_t)(t->numel - first < step ? t->numel - first : step);
        status = read_bytes(reader, raw, n * npy->element_bytes);
        if (status == EK_OK)
            widen_integers(raw, n, npy, (int64_t *)t->data + first);
    }
    ek_release(raw);
    return status;
}

/* The array's bytes have been read: do the coded data end with them, and are they what was written? */
static ek_status check_end(entry_reader *reader, uint32_t crc)
{
    unsigned char extra;
    size_t got = 0;
    ek_status status = ek_stream_read(&reader->stream, &extra, 1, &got);
    if (status == EK_OK && got)
        return ek_stream_fail(&reader->stream, "it unpacks to more bytes than the directory says", NULL);
    if (status == EK_OK && reader->crc != crc)
        return ek_stream_fail(&reader->stream, "its CRC is wrong: the data is damaged", NULL);
    return status;
}

/* A new tensor with the axes of t in the opposite order; frees t. */
static ek_tensor *reverse_axes(ek_tensor *t)
{
    int ndim = t->shape.ndim;
    ek_shape shape = {.ndim = ndim};
    int64_t stride[EK_MAX_NDIM], at[EK_MAX_NDIM] = {0}, product = 1;
    for (int i = 0; i < ndim; i++)
        shape.dim[i] = t->shape.dim[ndim - 1 - i];
    for (int i = ndim - 1; i >= 0; i--) { /* axis i of the result is axis ndim−1−i of t */
        stride[ndim - 1 - i] = product;
        product *= shape.dim[i];
    }
    ek_tensor *out = ek_tensor_new(t->dtype, shape);
    size_t bytes = ek_dtype_size(t->dtype);
    for (int64_t flat = 0, to = 0; out && flat < t->numel; flat++) {
        memcpy((char *)out->data + (size_t)to * bytes, (const char *)t->data + (size_t)flat * bytes, bytes);
        for (int axis = ndim - 1; axis >= 0; axis--) {
            to += stride[axis];
            if (++at[axis] < t->shape.dim[axis])
                break;
            to -= stride[axis] * at[axis];
            at[axis] = 0;
        }
    }
    ek_tensor_free(t);
    return out;
}

static ek_tensor *read_array(entry_reader *reader, const entry *e)
{
    ek_npy npy;
    int64_t numel;
    if (read_header(reader, &npy) != EK_OK)
        return NULL;
    if (ek_shape_check("npz_read", npy.dtype, npy.shape, &numel) != EK_OK) {
        ek_fail(EK_ERR_SHAPE, "npz_read: %s entry '%s': %s", reader->stream.file->path, e->name, ek_last_error());
        return NULL;
    }
    if (numel * (int64_t)npy.element_bytes != reader->left) {
        ek_fail(EK_ERR_FORMAT, "npz_read: %s entry '%s': expected %lld bytes for %s of '%s', got %lld",
                reader->stream.file->path, e->name, (long long)(numel * (int64_t)npy.element_bytes),
                EK_TEXT(npy.shape), npy.descr, (long long)reader->left);
        return NULL;
    }
    ek_shape shape = npy.shape;
    for (int i = 0; npy.fortran_order && i < shape.ndim; i++)
        shape.dim[i] = npy.shape.dim[shape.ndim - 1 - i];
    ek_tensor *t = ek_tensor_new(npy.dtype, shape);
    if (t && (read_elements(reader, &npy, t) != EK_OK || check_end(reader, e->crc) != EK_OK)) {
        ek_tensor_free(t);
        return NULL;
    }
    return t && npy.fortran_order ? reverse_axes(t) : t;
}

ek_tensor *ek_npz_read_at(const ek_npz *npz, int64_t i)
{
    if (!has_entry("npz_read", npz, i))
        return NULL;
    const entry *e = &npz->entries[i];
    entry_reader reader = {.left = e->plain};
    ek_coding coding = e->method == ZIP_STORED ? EK_STORED : EK_RAW_DEFLATE;
    if (ek_stream_open(&reader.stream, &npz->file, e->name, coding, e->begin, e->end) != EK_OK)
        return NULL;
    ek_tensor *t = read_array(&reader, e);
    ek_stream_close(&reader.stream);
    return t;
}

ek_tensor *ek_npz_read(const ek_npz *npz, const char *name)
{
    int64_t i = ek_npz_find(npz, name);
    if (i >= 0)
        return ek_npz_read_at(npz, i);
    ek_fail(EK_ERR_ARGUMENT, "npz_read: expected the name of an entry of %s, got '%s'", npz ? npz->path : "an archive",
            name ? name : "NULL");
    return NULL;
}
