/* The parts of the zip format (PKWARE's APPNOTE.TXT) that .npz archives use: offsets of fields in little-endian
 * records.  Not installed. */
#ifndef EK_ZIP_H
#define EK_ZIP_H

#include <evenkeel/checkpoint.h>

/* Before each entry's data: the name and the extra fields follow. */
enum {
    LOCAL_SIGNATURE = 0x04034B50,
    LOCAL_NEEDED = 4, /* version needed to extract */
    LOCAL_FLAGS = 6,
    LOCAL_METHOD = 8,
    LOCAL_DATE = 12,
    LOCAL_CRC = 14,
    LOCAL_PACKED = 18, /* bytes in the file */
    LOCAL_PLAIN = 22,  /* bytes unpacked */
    LOCAL_NAME_BYTES = 26,
    LOCAL_EXTRA_BYTES = 28,
    LOCAL_BYTES = 30
};

/* The directory, one record per entry; name, extra fields and comment follow. */
enum {
    CENTRAL_SIGNATURE = 0x02014B50,
    CENTRAL_MADE_BY = 4,
    CENTRAL_NEEDED = 6,
    CENTRAL_FLAGS = 8,
    CENTRAL_METHOD = 10,
    CENTRAL_DATE = 14,
    CENTRAL_CRC = 16,
    CENTRAL_PACKED = 20,
    CENTRAL_PLAIN = 24,
    CENTRAL_NAME_BYTES = 28,
    CENTRAL_EXTRA_BYTES = 30,
    CENTRAL_COMMENT_BYTES = 32,
    CENTRAL_OFFSET = 42,
    CENTRAL_BYTES = 46
};

/* End of the directory; the archive's comment follows. */
enum {
    END_SIGNATURE = 0x06054B50,
    END_DISK = 4, /* the numbers of two disks, 0 */
    END_ENTRIES_HERE = 8,
    END_ENTRIES = 10,
    END_DIRECTORY_BYTES = 12,
    END_DIRECTORY_OFFSET = 16,
    END_COMMENT_BYTES = 20,
    END_BYTES = 22
};

/* Before it, when a number does not fit: the same in 64 bits, and where that is. */
enum {
    END64_SIGNATURE = 0x06064B50,
    END64_RECORD_BYTES = 4, /* counted from after this field */
    END64_MADE_BY = 12,
    END64_NEEDED = 14,
    END64_DISK = 16,
    END64_ENTRIES_HERE = 24,
    END64_ENTRIES = 32,
    END64_DIRECTORY_BYTES = 40,
    END64_DIRECTORY_OFFSET = 48,
    END64_BYTES = 56
};
enum {
    LOCATOR_SIGNATURE = 0x07064B50,
    LOCATOR_OFFSET = 8,
    LOCATOR_DISKS = 16,
    LOCATOR_BYTES = 20
};

enum {
    ZIP_STORED = 0,
    ZIP_DEFLATED = 8,
    ZIP64_EXTRA = 1,       /* id of the extra field that holds 64-bit sizes and offsets */
    ZIP_FLAG_AFTER = 1 << 3, /* CRC and sizes follow the data; zero in the local record */
    ZIP_FLAG_UTF8 = 1 << 11,
    ZIP_FLAGS_KNOWN = 6 | ZIP_FLAG_AFTER | ZIP_FLAG_UTF8 /* 6: deflate's options */
};
#define ZIP_FULL16 0xFFFFu     /* "see the 64-bit record" */
#define ZIP_FULL32 0xFFFFFFFFu /* "see the zip64 extra field" */

/* Where the writer turns to 64-bit records, 2³² − 1; tests lower it. */
void ek_npz_writer_zip64_from(ek_npz_writer *writer, uint64_t bytes);

#endif
