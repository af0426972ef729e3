/* UTF-8 (RFC 3629): code points U+0000 … U+10FFFF but for surrogates, each in its shortest form.  Not installed. */
#ifndef EK_UTF8_H
#define EK_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EK_UTF8_MAX_BYTES = 4 };

/* The code point that starts at bytes[0]; n ≥ 1 bytes are there.  Returns how many bytes it takes, 1 to 4, or 0 with
 * *fault, a few words, when these bytes are not UTF-8. */
int ek_utf8_decode(const char *bytes, size_t n, uint32_t *code, const char **fault);
/* Writes a code point and returns how many bytes it takes. */
int ek_utf8_encode(uint32_t code, char out[EK_UTF8_MAX_BYTES]);
/* Counts the code points of n bytes; false, with the number (from 1) of the one that is not UTF-8, or is a NUL, and
 * *fault, when that fails. */
bool ek_utf8_count(const char *bytes, size_t n, int64_t *count, const char **fault);

#endif
