/* Reading files, plain or deflated. */
#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INPUT_BYTES ((size_t)1 << 16)

ek_status ek_file_open(ek_file *file, const char *who, const char *path)
{
    *file = (ek_file){.who = who, .path = path, .descriptor = -1};
    if (!path)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a path, got NULL", who);
    file->descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not block: it is refused below */
    if (file->descriptor < 0)
        return ek_fail(EK_ERR_IO, "%s: cannot open %s: %s", who, path, strerror(errno));
    struct stat about;
    if (fstat(file->descriptor, &about) != 0) {
        int cause = errno;
        ek_file_close(file);
        return ek_fail(EK_ERR_IO, "%s: cannot read %s: %s", who, path, strerror(cause));
    }
    if (!S_ISREG(about.st_mode)) {
        ek_file_close(file);
        return ek_fail(EK_ERR_IO, "%s: expected a regular file, got %s, which is %s", who, path,
                       S_ISDIR(about.st_mode) ? "a directory" : "a pipe or a device");
    }
    file->bytes = (int64_t)about.st_size;
    return EK_OK;
}

void ek_file_close(ek_file *file)
{
    if (file->descriptor >= 0)
        close(file->descriptor);
    file->descriptor = -1;
}

ek_status ek_file_read(const ek_file *file, int64_t offset, void *out, size_t bytes)
{
    char *to = out;
    while (bytes > 0) {
        ssize_t got = pread(file->descriptor, to, bytes, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return ek_fail(EK_ERR_IO, "%s: cannot read %s: %s", file->who, file->path, strerror(errno));
        if (got == 0)
            return ek_fail(EK_ERR_FORMAT, "%s: %s is truncated: %zu more bytes expected at byte %lld", file->who,
                           file->path, bytes, (long long)offset);
        to += got;
        offset += got;
        bytes -= (size_t)got;
    }
    return EK_OK;
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

voidpf ek_zlib_allocate(voidpf user, uInt items, uInt bytes)
{
    (void)user;
    return ek_alloc_zeroed((size_t)items * bytes); /* zeroed: deflate looks at parts of its window it never wrote */
}

void ek_zlib_release(voidpf user, voidpf memory)
{
    (void)user;
    ek_release(memory);
}

ek_status ek_stream_fail(const ek_stream *stream, const char *what, const char *detail)
{
    const char *part = stream->part;
    return ek_fail(EK_ERR_FORMAT, "%s: %s%s%s%s: %s%s%s", stream->file->who, stream->file->path, part ? " entry '" : "",
                   part ? part : "", part ? "'" : "", what, detail ? ": " : "", detail ? detail : "");
}

ek_status ek_stream_open(ek_stream *stream, const ek_file *file, const char *part, ek_coding coding, int64_t begin,
                         int64_t end)
{
    *stream = (ek_stream){.file = file, .part = part, .coding = coding, .next = begin, .end = end};
    if (coding == EK_STORED)
        return EK_OK;
    stream->input = ek_alloc(end - begin < (int64_t)INPUT_BYTES ? (size_t)(end - begin) : INPUT_BYTES);
    if (!stream->input)
        return EK_ERR_MEMORY;
    stream->inflater.zalloc = ek_zlib_allocate;
    stream->inflater.zfree = ek_zlib_release;
    /* zlib's codes for "gzip header and CRC" and "no header at all" */
    if (inflateInit2(&stream->inflater, coding == EK_GZIP ? MAX_WBITS + 16 : -MAX_WBITS) != Z_OK) {
        ek_release(stream->input);
        stream->input = NULL;
        return ek_fail(EK_ERR_MEMORY, "%s: out of memory before inflating %s", file->who, file->path);
    }
    return EK_OK;
}

void ek_stream_close(ek_stream *stream)
{
    if (stream->input)
        inflateEnd(&stream->inflater);
    ek_release(stream->input);
    stream->input = NULL;
}

static ek_status refill(ek_stream *stream)
{
    int64_t left = stream->end - stream->next;
    size_t bytes = left < (int64_t)INPUT_BYTES ? (size_t)left : INPUT_BYTES;
    ek_status status = ek_file_read(stream->file, stream->next, stream->input, bytes);
    if (status != EK_OK)
        return status;
    stream->next += (int64_t)bytes;
    stream->inflater.next_in = stream->input;
    stream->inflater.avail_in = (uInt)bytes;
    return EK_OK;
}

/* The coded data has ended.  A gzip file may hold several members, one after the other; anything else that follows is
 * no part of the data. */
static ek_status end_of_member(ek_stream *stream)
{
    z_stream *z = &stream->inflater;
    if (z->avail_in == 0 && stream->next < stream->end) {
        ek_status status = refill(stream);
        if (status != EK_OK)
            return status;
    }
    if (z->avail_in == 0) {
        stream->finished = true;
        return EK_OK;
    }
    if (stream->coding == EK_GZIP && z->next_in[0] == 0x1F) {
        inflateReset(z);
        return EK_OK;
    }
    return ek_stream_fail(stream, "bytes follow the end of the compressed data", NULL);
}

static ek_status read_inflated(ek_stream *stream, unsigned char *out, size_t bytes, size_t *got)
{
    z_stream *z = &stream->inflater;
    while (*got < bytes && !stream->finished) {
        if (z->avail_in == 0 && stream->next < stream->end) {
            ek_status status = refill(stream);
            if (status != EK_OK)
                return status;
        }
        size_t room = bytes - *got;
        uInt step = room < UINT32_MAX / 2 ? (uInt)room : UINT32_MAX / 2;
        z->next_out = out + *got;
        z->avail_out = step;
        int code = inflate(z, Z_NO_FLUSH);
        *got += step - z->avail_out;
        if (code == Z_STREAM_END) {
            ek_status status = end_of_member(stream);
            if (status != EK_OK)
                return status;
        } else if (code == Z_MEM_ERROR) {
            return ek_fail(EK_ERR_MEMORY, "%s: out of memory while inflating %s", stream->file->who,
                           stream->file->path);
        } else if (code == Z_BUF_ERROR || (code == Z_OK && z->avail_in == 0 && z->avail_out > 0 &&
                                           stream->next >= stream->end)) {
            return ek_stream_fail(stream, "truncated: the compressed data stops before its end", NULL);
        } else if (code != Z_OK) {
            return ek_stream_fail(stream, "the compressed data is corrupt", z->msg ? z->msg : "zlib refuses it");
        }
    }
    return EK_OK;
}

ek_status ek_stream_read(ek_stream *stream, void *out, size_t bytes, size_t *got)
{
    *got = 0;
    if (stream->coding != EK_STORED)
        return read_inflated(stream, out, bytes, got);
    int64_t left = stream->end - stream->next;
    size_t step = (uint64_t)left < bytes ? (size_t)left : bytes;
    ek_status status = ek_file_read(stream->file, stream->next, out, step);
    if (status != EK_OK)
        return status;
    stream->next += (int64_t)step;
    *got = step;
    return EK_OK;
}
