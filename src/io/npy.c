/* The header of an .npy array: {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), } */
#include "npy.h"

#include <string.h>

static const struct {
    const char *descr;
    ek_dtype dtype;
    size_t bytes;
    bool is_signed;
} element_types[] = {
    {"<f4", EK_F32, 4, true}, {"<f8", EK_F64, 8, true},  {"<i8", EK_I64, 8, true},  {"<i4", EK_I64, 4, true},
    {"<i2", EK_I64, 2, true}, {"|i1", EK_I64, 1, true},  {"<u4", EK_I64, 4, false}, {"<u2", EK_I64, 2, false},
    {"|u1", EK_I64, 1, false}, {"|b1", EK_I64, 1, false},
};

/* ---- reading ----------------------------------------------------------------------------------------------------- */

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_blanks(cursor *c)
{
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
        c->at++;
}

/* Skips blanks, and this character if it comes next. */
static bool accept(cursor *c, char wanted)
{
    skip_blanks(c);
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static bool accept_word(cursor *c, const char *word)
{
    size_t bytes = strlen(word);
    skip_blanks(c);
    if ((size_t)(c->end - c->at) < bytes || memcmp(c->at, word, bytes) != 0)
        return false;
    c->at += bytes;
    return true;
}

/* A quoted text without escapes. */
static bool accept_text(cursor *c, const char **text, size_t *bytes)
{
    skip_blanks(c);
    if (c->at == c->end || (*c->at != '\'' && *c->at != '"'))
        return false;
    char quote = *c->at++;
    *text = c->at;
    while (c->at < c->end && *c->at != quote)
        c->at++;
    *bytes = (size_t)(c->at - *text);
    return accept(c, quote);
}

/* (), (3,), (3, 4), with Python 2's 3L as well; false when it is none of these. */
static bool accept_shape(cursor *c, ek_shape *shape, int *rank, bool *overflows)
{
    *rank = 0;
    *overflows = false;
    if (!accept(c, '('))
        return false;
    while (!accept(c, ')')) {
        if (*rank > 0 && !accept(c, ','))
            return false;
        if (*rank > 0 && accept(c, ')'))
            return true;
        skip_blanks(c);
        int64_t value = 0;
        const char *first = c->at;
        for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++)
            *overflows |= __builtin_mul_overflow(value, 10, &value) ||
                          __builtin_add_overflow(value, *c->at - '0', &value);
        if (c->at == first)
            return false;
        accept(c, 'L');
        if (*rank < EK_MAX_NDIM)
            shape->dim[*rank] = value;
        ++*rank;
    }
    return true;
}

static ek_status read_descr(cursor *c, ek_npy *npy)
{
    const char *text;
    size_t bytes;
    skip_blanks(c);
    if (c->at < c->end && *c->at == '[')
        return ek_fail(EK_ERR_DTYPE, "expected an array of numbers, got one of records");
    if (!accept_text(c, &text, &bytes))
        return ek_fail(EK_ERR_FORMAT, "the .npy header has no readable 'descr'");
    for (size_t i = 0; i < sizeof element_types / sizeof *element_types; i++)
        if (bytes == strlen(element_types[i].descr) && !memcmp(text, element_types[i].descr, bytes)) {
            npy->descr = element_types[i].descr;
            npy->dtype = element_types[i].dtype;
            npy->element_bytes = element_types[i].bytes;
            npy->is_signed = element_types[i].is_signed;
            return EK_OK;
        }
    return ek_fail(EK_ERR_DTYPE, "expected float32, float64, bool, int8 to int64 or uint8 to uint32, little-endian, "
                   "got '%.*s': convert with astype before saving", bytes < 40 ? (int)bytes : 40, text);
}

static ek_status read_shape(cursor *c, ek_npy *npy)
{
    int rank;
    bool overflows;
    if (!accept_shape(c, &npy->shape, &rank, &overflows))
        return ek_fail(EK_ERR_FORMAT, "the .npy header has no readable 'shape'");
    if (rank > EK_MAX_NDIM)
        return ek_fail(EK_ERR_SHAPE, "expected a rank of at most %d, got %d", EK_MAX_NDIM, rank);
    if (overflows)
        return ek_fail(EK_ERR_SHAPE, "a dimension overflows int64");
    npy->shape.ndim = rank;
    return EK_OK;
}

static ek_status read_order(cursor *c, ek_npy *npy)
{
    npy->fortran_order = accept_word(c, "True");
    if (!npy->fortran_order && !accept_word(c, "False"))
        return ek_fail(EK_ERR_FORMAT, "the .npy header has no readable 'fortran_order'");
    return EK_OK;
}

ek_status ek_npy_parse(const char *text, size_t bytes, ek_npy *npy)
{
    static const struct {
        const char *key;
        ek_status (*read)(cursor *c, ek_npy *npy);
    } keys[] = {{"descr", read_descr}, {"fortran_order", read_order}, {"shape", read_shape}};
    cursor c = {text, text + bytes};
    unsigned seen = 0;
    *npy = (ek_npy){0};
    bool fine = accept(&c, '{');
    while (fine && !accept(&c, '}')) {
        const char *key;
        size_t key_bytes;
        fine = accept_text(&c, &key, &key_bytes) && accept(&c, ':');
        bool known = false;
        for (unsigned k = 0; fine && k < 3; k++) {
            if (key_bytes != strlen(keys[k].key) || memcmp(key, keys[k].key, key_bytes) || seen & 1u << k)
                continue;
            ek_status status = keys[k].read(&c, npy);
            if (status != EK_OK)
                return status;
            seen |= 1u << k;
            known = true;
        }
        fine = fine && known;
        if (fine && !accept(&c, ',')) {
            fine = accept(&c, '}');
            break;
        }
    }
    skip_blanks(&c);
    if (!fine || seen != 7 || c.at != c.end)
        return ek_fail(EK_ERR_FORMAT, "expected an .npy header with 'descr', 'fortran_order' and 'shape'");
    return EK_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

size_t ek_npy_format(ek_dtype dtype, ek_shape shape, char header[EK_NPY_MAX_HEADER])
{
    const char *descr = dtype == EK_F32 ? "<f4" : dtype == EK_F64 ? "<f8" : "<i8";
    int used = snprintf(header + EK_NPY_PREFIX, EK_NPY_MAX_HEADER - EK_NPY_PREFIX,
                        "{'descr': '%s', 'fortran_order': False, 'shape': %s, }", descr, EK_TEXT(shape));
    size_t text = (size_t)used, total = (EK_NPY_PREFIX + text + 1 + 63) / 64 * 64; /* data start on a multiple of 64 */
    memset(header + EK_NPY_PREFIX + text, ' ', total - EK_NPY_PREFIX - text);
    header[total - 1] = '\n';
    memcpy(header, "\x93NUMPY\x01\x00", 8);
    header[8] = (char)((total - EK_NPY_PREFIX) & 0xFF);
    header[9] = (char)((total - EK_NPY_PREFIX) >> 8);
    return total;
}
