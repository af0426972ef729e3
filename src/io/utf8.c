/* Decoding strictly: what is not the one encoding of a code point is refused, never repaired. */
#include "utf8.h"

/* How many bytes a sequence takes that starts so; 0: none starts so. */
static int sequence_bytes(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xC0 ? 0 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : lead < 0xF8 ? 4 : 0;
}

int ek_utf8_decode(const char *bytes, size_t n, uint32_t *code, const char **fault)
{
    static const uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000}; /* that takes this many bytes */
    const unsigned char *p = (const unsigned char *)bytes;
    const int length = sequence_bytes(p[0]);
    if (length == 0) {
        *fault = p[0] < 0xC0 ? "a continuation byte without a lead byte" : "a byte that no UTF-8 text holds";
        return 0;
    }
    uint32_t value = length == 1 ? p[0] : p[0] & (0x7Fu >> length);
    for (int i = 1; i < length; i++) {
        if ((size_t)i >= n || (p[i] & 0xC0) != 0x80) {
            *fault = (size_t)i >= n ? "a sequence cut short by the end" : "a sequence cut short by another byte";
            return 0;
        }
        value = value << 6 | (p[i] & 0x3Fu);
    }
    *fault = value < smallest[length]               ? "an overlong form"
             : value >= 0xD800 && value <= 0xDFFF   ? "a surrogate, which is for UTF-16 alone"
             : value > 0x10FFFF                     ? "a code point above U+10FFFF"
                                                    : NULL;
    *code = value;
    return *fault ? 0 : length;
}

int ek_utf8_encode(uint32_t code, char out[EK_UTF8_MAX_BYTES])
{
    if (code < 0x80) {
        out[0] = (char)code;
        return 1;
    }
    const int length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (int i = length - 1; i > 0; i--, code >>= 6)
        out[i] = (char)(0x80 | (code & 0x3F));
    out[0] = (char)((0xF00 >> length & 0xFF) | code); /* as many leading ones as there are bytes */
    return length;
}

bool ek_utf8_count(const char *bytes, size_t n, int64_t *count, const char **fault)
{
    *count = 0;
    for (size_t at = 0; at < n;) {
        uint32_t code = 0;
        const int step = ek_utf8_decode(bytes + at, n - at, &code, fault);
        ++*count;
        if (step == 1 && code == 0)
            *fault = "a NUL byte";
        if (step == 0 || code == 0)
            return false;
        at += (size_t)step;
    }
    return true;
}
