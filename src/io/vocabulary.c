/* The characters of texts, numbered. */
#include "text.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

struct ek_vocabulary {
    int64_t num_codes;
    uint32_t *codes; /* [num_codes], ascending; code i is symbol EK_FIRST_CODE + i */
};

enum { EK_FIRST_CODE = 2 };

void ek_vocabulary_free(ek_vocabulary *vocabulary)
{
    if (!vocabulary)
        return;
    ek_release(vocabulary->codes);
    ek_release(vocabulary);
}

/* Which code points occur: a flag for each that there can be. */
enum { ALL_CODES = 0x110000 };

static void mark_codes(const char *utf8, bool *seen)
{
    const size_t n = strlen(utf8);
    uint32_t code;
    const char *fault;
    for (size_t at = 0; at < n; seen[code] = true)
        at += (size_t)ek_utf8_decode(utf8 + at, n - at, &code, &fault);
}

static ek_vocabulary *from_marks(const bool *seen)
{
    ek_vocabulary *vocabulary = ek_alloc_zeroed(sizeof *vocabulary);
    if (!vocabulary)
        return NULL;
    for (uint32_t code = 0; code < ALL_CODES; code++)
        vocabulary->num_codes += seen[code];
    vocabulary->codes = ek_alloc((size_t)vocabulary->num_codes * sizeof *vocabulary->codes);
    if (!vocabulary->codes) {
        ek_release(vocabulary);
        return NULL;
    }
    int64_t next = 0;
    for (uint32_t code = 0; code < ALL_CODES; code++)
        if (seen[code])
            vocabulary->codes[next++] = code;
    return vocabulary;
}

ek_vocabulary *ek_vocabulary_from_text(const ek_text *text)
{
    if (!text) {
        ek_fail(EK_ERR_ARGUMENT, "vocabulary_from_text: expected texts, got NULL");
        return NULL;
    }
    bool *seen = ek_alloc_zeroed(ALL_CODES * sizeof *seen);
    for (int64_t i = 0; seen && i < text->texts.count; i++)
        mark_codes(ek_string(&text->texts, i), seen);
    ek_vocabulary *vocabulary = seen ? from_marks(seen) : NULL;
    ek_release(seen);
    return vocabulary;
}

static ek_status check_utf8(const char *who, const char *utf8)
{
    int64_t count;
    const char *fault;
    if (!utf8)
        return ek_fail(EK_ERR_ARGUMENT, "%s: expected a string, got NULL", who);
    if (!ek_utf8_count(utf8, strlen(utf8), &count, &fault))
        return ek_fail(EK_ERR_FORMAT, "%s: character %lld: expected UTF-8, got %s", who, (long long)count, fault);
    return EK_OK;
}

ek_vocabulary *ek_vocabulary_from_characters(const char *utf8)
{
    if (check_utf8("vocabulary_from_characters", utf8) != EK_OK)
        return NULL;
    bool *seen = ek_alloc_zeroed(ALL_CODES * sizeof *seen);
    if (!seen)
        return NULL;
    mark_codes(utf8, seen);
    ek_vocabulary *vocabulary = from_marks(seen);
    ek_release(seen);
    return vocabulary;
}

int64_t ek_vocabulary_size(const ek_vocabulary *vocabulary)
{
    return vocabulary ? EK_FIRST_CODE + vocabulary->num_codes : 0;
}

static int64_t symbol_of(const ek_vocabulary *vocabulary, uint32_t code)
{
    int64_t low = 0, high = vocabulary->num_codes;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (vocabulary->codes[middle] < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < vocabulary->num_codes && vocabulary->codes[low] == code ? EK_FIRST_CODE + low : EK_UNKNOWN;
}

int64_t ek_vocabulary_encode(const ek_vocabulary *vocabulary, const char *utf8, int64_t *out, int64_t capacity)
{
    static const char who[] = "vocabulary_encode";
    if (!vocabulary || capacity < 0 || (!out && capacity > 0)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a vocabulary and room for symbols, got %s and %s of %lld", who,
                vocabulary ? "one" : "NULL", out ? "room" : "NULL", (long long)capacity);
        return -1;
    }
    if (check_utf8(who, utf8) != EK_OK)
        return -1;
    int64_t count = 0;
    uint32_t code;
    const char *fault;
    for (size_t at = 0, n = strlen(utf8); at < n; count++) {
        at += (size_t)ek_utf8_decode(utf8 + at, n - at, &code, &fault);
        if (count < capacity)
            out[count] = symbol_of(vocabulary, code);
    }
    return count;
}

int64_t ek_vocabulary_decode(const ek_vocabulary *vocabulary, const int64_t *symbols, int64_t n, char *out,
                             int64_t capacity)
{
    static const char who[] = "vocabulary_decode";
    if (!vocabulary || n < 0 || (!symbols && n > 0) || capacity < 0 || (!out && capacity > 0)) {
        ek_fail(EK_ERR_ARGUMENT, "%s: expected a vocabulary, symbols and room for bytes, got %s, %s of %lld and %s of "
                "%lld", who, vocabulary ? "one" : "NULL", symbols ? "symbols" : "NULL", (long long)n,
                out ? "room" : "NULL", (long long)capacity);
        return -1;
    }
    for (int64_t i = 0; i < n; i++)
        if (symbols[i] < 0 || symbols[i] >= ek_vocabulary_size(vocabulary)) {
            ek_fail(EK_ERR_ARGUMENT, "%s: expected symbols of 0 to %lld, got %lld at place %lld", who,
                    (long long)ek_vocabulary_size(vocabulary) - 1, (long long)symbols[i], (long long)i);
            return -1;
        }
    int64_t used = 0, written = 0;
    for (int64_t i = 0; i < n; i++) {
        char bytes[EK_UTF8_MAX_BYTES];
        if (symbols[i] == EK_PADDING)
            continue;
        const bool known = symbols[i] >= EK_FIRST_CODE;
        const int step = ek_utf8_encode(known ? vocabulary->codes[symbols[i] - EK_FIRST_CODE] : 0xFFFD, bytes);
        used += step;
        if (used < capacity) { /* whole characters only, and room for the NUL */
            memcpy(out + written, bytes, (size_t)step);
            written += step;
        }
    }
    if (capacity > 0)
        out[written] = '\0';
    return used;
}
