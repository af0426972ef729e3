/* Labelled texts as their sources and users see them.  Not installed. */
#ifndef EK_TEXT_H
#define EK_TEXT_H

#include "core.h"

#include <evenkeel/data.h>

/* A growing list of strings in one piece of memory. */
typedef struct ek_strings {
    char *bytes; /* each ends with a NUL */
    size_t used, room;
    size_t *start; /* [count] */
    size_t start_room;
    int64_t count;
} ek_strings;

/* Appends a copy of n bytes and a NUL. */
ek_status ek_strings_add(ek_strings *strings, const char *bytes, size_t n);
void ek_strings_free(ek_strings *strings);
static inline const char *ek_string(const ek_strings *strings, int64_t i)
{
    return strings->bytes + strings->start[i];
}

struct ek_text {
    ek_strings texts, classes;
    int64_t *labels; /* [texts.count] */
    size_t labels_room;
};

ek_text *ek_text_new(void);
ek_status ek_text_add(ek_text *text, const char *bytes, size_t n, int64_t label);
ek_status ek_text_add_class(ek_text *text, const char *name);
/* `text` where status is EK_OK; else it is freed and NULL comes back. */
ek_text *ek_text_finish(ek_text *text, ek_status status);

#endif
