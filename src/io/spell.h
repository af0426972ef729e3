/* Numbers spelled out.  Not installed. */
#ifndef EK_SPELL_H
#define EK_SPELL_H

#include <stddef.h>

typedef enum ek_language {
    EK_DUTCH,
    EK_ENGLISH,
    EK_FRENCH,
    EK_GERMAN,
    EK_ITALIAN,
    EK_PORTUGUESE,
    EK_SPANISH,
    EK_SWEDISH,
    EK_NUM_LANGUAGES
} ek_language;

enum { EK_SPELL_LIMIT = 1000000, EK_SPELL_BYTES = 128 };

/* "Dutch", … */
const char *ek_language_name(ek_language language);
/* Writes the cardinal number n, 0 … EK_SPELL_LIMIT−1, in UTF-8 with a NUL; returns its bytes without that.
 *
 * Where usage varies: British "and" in English; the traditional hyphens of French; German "einhundert", "eintausend";
 * Dutch "duizend honderd", as for all other thousands, and no "en" after a hundred; European Portuguese; Swedish
 * "etthundra", "ettusen". */
size_t ek_spell(ek_language language, int n, char out[EK_SPELL_BYTES]);

#endif
