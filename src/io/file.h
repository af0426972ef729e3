/* Bytes of files, as they are or inflated, for the readers of this directory.  Not installed. */
#ifndef EK_FILE_H
#define EK_FILE_H

#include "core.h"

#define ZLIB_CONST /* input is const */
#include <zlib.h>

/* A regular file that is open for reading.  `who` is the public function at work, for messages. */
typedef struct ek_file {
    const char *who;
    const char *path; /* the caller's, who keeps it */
    int descriptor;
    int64_t bytes;
} ek_file;

ek_status ek_file_open(ek_file *file, const char *who, const char *path);
void ek_file_close(ek_file *file);
/* Reads `bytes` bytes at `offset`; when there are fewer: EK_ERR_FORMAT. */
ek_status ek_file_read(const ek_file *file, int64_t offset, void *out, size_t bytes);

typedef enum ek_coding { EK_STORED, EK_RAW_DEFLATE, EK_GZIP } ek_coding;

/* Deflate codes at most 258 bytes in two bits, so no stream grows by more: what claims to is refused before memory is
 * taken for it. */
#define EK_DEFLATE_MAX_RATIO 1032

/* Bytes begin … end−1 of a file, decoded from front to back. */
typedef struct ek_stream {
    const ek_file *file;
    const char *part; /* the archive's entry, for messages; NULL: the file itself */
    ek_coding coding;
    int64_t next, end; /* what is still to be read from the file */
    bool finished;     /* the coded data has come to its own end */
    z_stream inflater;
    unsigned char *input;
} ek_stream;

ek_status ek_stream_open(ek_stream *stream, const ek_file *file, const char *part, ek_coding coding, int64_t begin,
                         int64_t end);
/* Fills `out` and sets *got, which is less than `bytes` only where the stream ends.  EK_ERR_FORMAT when the coded data
 * is truncated, corrupt, or followed by something else: seen for certain only by a read that reaches the end. */
ek_status ek_stream_read(ek_stream *stream, void *out, size_t bytes, size_t *got);
void ek_stream_close(ek_stream *stream);
/* "npz_read: path entry 'name': what: detail", EK_ERR_FORMAT; detail may be NULL. */
ek_status ek_stream_fail(const ek_stream *stream, const char *what, const char *detail);

/* zlib's memory comes from ek_alloc too. */
voidpf ek_zlib_allocate(voidpf user, uInt items, uInt bytes);
void ek_zlib_release(voidpf user, voidpf memory);

static inline uint16_t ek_little16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t ek_little32(const unsigned char *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t ek_little64(const unsigned char *p)
{
    return (uint64_t)ek_little32(p + 4) << 32 | ek_little32(p);
}

static inline uint32_t ek_big32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

#endif
