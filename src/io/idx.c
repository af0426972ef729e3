/* IDX files: bytes 0 0 type rank, big-endian dimensions, big-endian elements. */
#include "dataset.h"
#include "file.h"

#include <string.h>

#define CHUNK_BYTES ((size_t)1 << 16) /* a multiple of every element size */

static const struct {
    ek_idx_type type;
    size_t bytes;
    bool is_float;
} element_types[] = {
    {EK_IDX_U8, 1, false},  {EK_IDX_I8, 1, false}, {EK_IDX_I16, 2, false},
    {EK_IDX_I32, 4, false}, {EK_IDX_F32, 4, true}, {EK_IDX_F64, 8, true},
};

typedef struct idx_header {
    ek_idx_type type;
    size_t element_bytes;
    bool is_float;
    ek_shape shape;
} idx_header;

static double element(const unsigned char *p, ek_idx_type type)
{
    uint64_t wide = type == EK_IDX_F64 ? (uint64_t)ek_big32(p) << 32 | ek_big32(p + 4) : 0;
    uint32_t word = type == EK_IDX_F32 || type == EK_IDX_I32 ? ek_big32(p) : 0;
    float f;
    double d;
    switch (type) {
    case EK_IDX_U8: return *p;
    case EK_IDX_I8: return *p < 0x80 ? *p : *p - 0x100;
    case EK_IDX_I16: return (p[0] < 0x80 ? p[0] : p[0] - 0x100) * 0x100 + p[1];
    case EK_IDX_I32: return word < 0x80000000u ? (double)word : (double)word - 0x1p32;
    case EK_IDX_F32: memcpy(&f, &word, 4); return f;
    case EK_IDX_F64: memcpy(&d, &wide, 8); return d;
    }
    return 0;
}

/* Converts n elements to t, starting at its element `first`. */
static void convert(const unsigned char *raw, size_t n, const idx_header *header, ek_tensor *t, int64_t first)
{
    for (size_t i = 0; i < n; i++) {
        double value = element(raw + i * header->element_bytes, header->type);
        switch (t->dtype) {
        case EK_F32: ((float *)t->data)[first + (int64_t)i] = (float)value; break;
        case EK_F64: ((double *)t->data)[first + (int64_t)i] = value; break;
        case EK_I64: ((int64_t *)t->data)[first + (int64_t)i] = (int64_t)value; break;
        }
    }
}

/* Fills `out` or fails: the stream must not end before. */
static ek_status read_exactly(ek_stream *stream, void *out, size_t bytes, const char *what)
{
    size_t got;
    ek_status status = ek_stream_read(stream, out, bytes, &got);
    if (status == EK_OK && got < bytes)
        return ek_fail(EK_ERR_FORMAT, "%s: %s is truncated: %zu bytes of %s are missing", stream->file->who,
                       stream->file->path, bytes - got, what);
    return status;
}

static ek_status read_header(ek_stream *stream, idx_header *header)
{
    const ek_file *file = stream->file;
    unsigned char magic[4], dims[4 * EK_MAX_NDIM];
    ek_status status = read_exactly(stream, magic, sizeof magic, "the magic number");
    if (status != EK_OK)
        return status;
    bool known = false;
    for (size_t i = 0; i < sizeof element_types / sizeof *element_types; i++)
        if (magic[0] == 0 && magic[1] == 0 && magic[2] == element_types[i].type) {
            header->type = element_types[i].type;
            header->element_bytes = element_types[i].bytes;
            header->is_float = element_types[i].is_float;
            known = true;
        }
    if (!known || magic[3] == 0 || magic[3] > EK_MAX_NDIM)
        return ek_fail(EK_ERR_FORMAT, "%s: %s is not an IDX file: expected the bytes 0, 0, a type (8, 9, 11 to 14) and "
                       "a rank of 1 to %d, got %d, %d, %d, %d", file->who, file->path, EK_MAX_NDIM, magic[0], magic[1],
                       magic[2], magic[3]);
    header->shape.ndim = magic[3];
    status = read_exactly(stream, dims, 4 * (size_t)header->shape.ndim, "the dimensions");
    for (int i = 0; status == EK_OK && i < header->shape.ndim; i++)
        header->shape.dim[i] = ek_big32(dims + 4 * i);
    return status;
}

/* Is the file long enough for what its header promises?  A stored file has to have exactly that length. */
static ek_status check_length(const ek_stream *stream, const idx_header *header)
{
    const ek_file *file = stream->file;
    int64_t numel;
    ek_status status = ek_shape_check(file->path, EK_F64, header->shape, &numel);
    if (status != EK_OK)
        return ek_stream_fail(stream, "the dimensions make no sense", ek_last_error());
    int64_t promised = numel * (int64_t)header->element_bytes, held = file->bytes - 4 - 4 * header->shape.ndim;
    if (stream->coding == EK_STORED && promised < held)
        return ek_fail(EK_ERR_FORMAT, "%s: %s has %lld bytes after the %s elements that its header promises", file->who,
                       file->path, (long long)(held - promised), EK_TEXT(header->shape));
    if (stream->coding == EK_STORED ? promised > held : promised / EK_DEFLATE_MAX_RATIO > file->bytes)
        return ek_fail(EK_ERR_FORMAT, "%s: %s is truncated: its header promises %s elements, %lld bytes, which a file "
                       "of %lld bytes cannot hold", file->who, file->path, EK_TEXT(header->shape),
                       (long long)promised, (long long)file->bytes);
    return EK_OK;
}

static ek_status read_elements(ek_stream *stream, const idx_header *header, ek_tensor *t)
{
    unsigned char *raw = ek_alloc(CHUNK_BYTES);
    if (!raw)
        return EK_ERR_MEMORY;
    ek_status status = EK_OK;
    int64_t step = (int64_t)(CHUNK_BYTES / header->element_bytes);
    for (int64_t first = 0; status == EK_OK && first < t->numel; first += step) {
        size_t n = (size_t)(t->numel - first < step ? t->numel - first : step);
        status = read_exactly(stream, raw, n * header->element_bytes, "the elements");
        if (status == EK_OK)
            convert(raw, n, header, t, first);
    }
    size_t extra = 0;
    if (status == EK_OK) /* this read also checks gzip's CRC and length */
        status = ek_stream_read(stream, raw, 1, &extra);
    ek_release(raw);
    if (status == EK_OK && extra)
        return ek_fail(EK_ERR_FORMAT, "%s: %s has bytes after the %s elements that its header promises",
                       stream->file->who, stream->file->path, EK_TEXT(header->shape));
    return status;
}

static ek_tensor *read_stream(ek_stream *stream, ek_dtype dtype, ek_idx_type *type)
{
    idx_header header = {.type = EK_IDX_U8};
    if (read_header(stream, &header) != EK_OK || check_length(stream, &header) != EK_OK)
        return NULL;
    if (dtype == EK_I64 && header.is_float) {
        ek_fail(EK_ERR_DTYPE, "%s: expected integer elements for int64, got %s in %s", stream->file->who,
                header.type == EK_IDX_F32 ? "float32" : "float64", stream->file->path);
        return NULL;
    }
    ek_tensor *t = ek_tensor_new(dtype, header.shape);
    if (t && read_elements(stream, &header, t) != EK_OK) {
        ek_tensor_free(t);
        return NULL;
    }
    *type = header.type;
    return t;
}

ek_tensor *ek_idx_load(const char *who, const char *path, ek_dtype dtype, ek_idx_type *type)
{
    int64_t numel;
    ek_file file;
    if (ek_shape_check(who, dtype, EK_SCALAR, &numel) != EK_OK || ek_file_open(&file, who, path) != EK_OK)
        return NULL;
    unsigned char magic[2] = {0, 0};
    ek_stream stream;
    ek_tensor *t = NULL;
    if (file.bytes < 2 || ek_file_read(&file, 0, magic, 2) == EK_OK) {
        ek_coding coding = magic[0] == 0x1F && magic[1] == 0x8B ? EK_GZIP : EK_STORED;
        if (ek_stream_open(&stream, &file, NULL, coding, 0, file.bytes) == EK_OK) {
            t = read_stream(&stream, dtype, type);
            ek_stream_close(&stream);
        }
    }
    ek_file_close(&file);
    return t;
}

ek_tensor *ek_idx_read(const char *path, ek_dtype dtype)
{
    ek_idx_type type;
    return ek_idx_load("idx_read", path, dtype, &type);
}
