/* Cardinal numbers from 0 to 999 999 in eight languages, by the rules of each. */
#include "spell.h"

#include <stdbool.h>
#include <string.h>

/* ---- putting words together ------------------------------------------------------------------------------------- */

typedef struct word {
    char *out; /* [EK_SPELL_BYTES] */
    size_t n;
} word;

static void put(word *w, const char *text)
{
    const size_t bytes = strlen(text);
    memcpy(w->out + w->n, text, bytes);
    w->n += bytes;
}

static bool ends_with(const word *w, const char *end)
{
    const size_t bytes = strlen(end);
    return w->n >= bytes && memcmp(w->out + w->n - bytes, end, bytes) == 0;
}

/* ---- English ----------------------------------------------------------------------------------------------------- */

static const char *const english_small[] = {
    "zero",   "one",    "two",      "three",    "four",     "five",    "six",     "seven",     "eight",    "nine",
    "ten",    "eleven", "twelve",   "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
static const char *const english_tens[] = {"",      "",      "twenty",  "thirty", "forty",
                                           "fifty", "sixty", "seventy", "eighty", "ninety"};

static void english_below_100(word *w, int n)
{
    put(w, n < 20 ? english_small[n] : english_tens[n / 10]);
    if (n > 20 && n % 10) {
        put(w, "-");
        put(w, english_small[n % 10]);
    }
}

static void english_below_1000(word *w, int n)
{
    if (n >= 100) {
        put(w, english_small[n / 100]);
        put(w, n % 100 ? " hundred and " : " hundred");
    }
    if (n < 100 || n % 100)
        english_below_100(w, n % 100);
}

static void english(word *w, int n)
{
    if (n >= 1000) {
        english_below_1000(w, n / 1000);
        put(w, n % 1000 == 0 ? " thousand" : n % 1000 < 100 ? " thousand and " : " thousand ");
    }
    if (n < 1000 || n % 1000)
        english_below_1000(w, n % 1000);
}

/* ---- German and Dutch: units before tens ------------------------------------------------------------------------- */

static const char *const german_small[] = {"null",     "ein",      "zwei",     "drei",     "vier",
                                           "fünf",     "sechs",    "sieben",   "acht",     "neun",
                                           "zehn",     "elf",      "zwölf",    "dreizehn", "vierzehn",
                                           "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"};
static const char *const german_tens[] = {"",        "",        "zwanzig", "dreißig", "vierzig",
                                          "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"};

static void german_below_1000(word *w, int n)
{
    if (n >= 100) {
        put(w, german_small[n / 100]);
        put(w, "hundert");
        n %= 100;
    }
    if (n > 20 && n % 10) {
        put(w, german_small[n % 10]);
        put(w, "und");
    }
    if (n > 0)
        put(w, n < 20 ? german_small[n] : german_tens[n / 10]);
}

static void german(word *w, int n)
{
    if (n >= 1000) {
        german_below_1000(w, n / 1000);
        put(w, "tausend");
    }
    german_below_1000(w, n % 1000);
    if (n == 0)
        put(w, german_small[0]);
    if (n % 100 == 1) /* a one at the end */
        put(w, "s");
}

static const char *const dutch_small[] = {"nul",      "een",     "twee",      "drie",     "vier",
                                          "vijf",     "zes",     "zeven",     "acht",     "negen",
                                          "tien",     "elf",     "twaalf",    "dertien",  "veertien",
                                          "vijftien", "zestien", "zeventien", "achttien", "negentien"};
static const char *const dutch_tens[] = {"",        "",        "twintig",  "dertig",   "veertig",
                                         "vijftig", "zestig",  "zeventig", "tachtig",  "negentig"};

static void dutch_below_1000(word *w, int n)
{
    if (n >= 100) {
        if (n >= 200)
            put(w, dutch_small[n / 100]);
        put(w, "honderd");
        n %= 100;
    }
    if (n > 20 && n % 10) {
        put(w, dutch_small[n % 10]);
        put(w, ends_with(w, "e") ? "ën" : "en"); /* tweeën-, drieën- */
    }
    if (n > 0)
        put(w, n < 20 ? dutch_small[n] : dutch_tens[n / 10]);
}

static void dutch(word *w, int n)
{
    if (n >= 2000)
        dutch_below_1000(w, n / 1000);
    if (n >= 1000)
        put(w, n % 1000 ? "duizend " : "duizend");
    dutch_below_1000(w, n % 1000);
    if (n == 0)
        put(w, dutch_small[0]);
}

/* ---- Swedish ----------------------------------------------------------------------------------------------------- */

static const char *const swedish_small[] = {"noll",   "ett",    "två",     "tre",   "fyra",   "fem",     "sex",
                                            "sju",    "åtta",   "nio",     "tio",   "elva",   "tolv",    "tretton",
                                            "fjorton", "femton", "sexton", "sjutton", "arton", "nitton"};
static const char *const swedish_tens[] = {"",       "",        "tjugo",    "trettio", "fyrtio",
                                           "femtio", "sextio",  "sjuttio",  "åttio",   "nittio"};

static void swedish_below_1000(word *w, int n)
{
    if (n >= 100) {
        put(w, swedish_small[n / 100]);
        put(w, "hundra");
        n %= 100;
    }
    if (n >= 20)
        put(w, swedish_tens[n / 10]);
    n = n < 20 ? n : n % 10;
    if (n > 0)
        put(w, swedish_small[n]);
}

static void swedish(word *w, int n)
{
    if (n >= 1000) {
        swedish_below_1000(w, n / 1000);
        put(w, ends_with(w, "tt") ? "usen" : "tusen"); /* no letter three times in a row */
        if (n % 1000)
            put(w, " ");
    }
    swedish_below_1000(w, n % 1000);
    if (n == 0)
        put(w, swedish_small[0]);
}

/* ---- French ------------------------------------------------------------------------------------------------------ */

static const char *const french_small[] = {"zéro",   "un",      "deux",   "trois",    "quatre",   "cinq",
                                           "six",    "sept",    "huit",   "neuf",     "dix",      "onze",
                                           "douze",  "treize",  "quatorze", "quinze", "seize",    "dix-sept",
                                           "dix-huit", "dix-neuf"};
static const char *const french_tens[] = {"",          "",         "vingt",    "trente",       "quarante",
                                          "cinquante", "soixante", "soixante", "quatre-vingt", "quatre-vingt"};

/* `last`: nothing follows, so that quatre-vingts and deux cents take their s (before mille they do not). */
static void french_below_100(word *w, int n, bool last)
{
    if (n < 20) {
        put(w, french_small[n]);
        return;
    }
    const int ten = n / 10, rest = ten == 7 || ten == 9 ? n - (ten - 1) * 10 : n % 10; /* soixante et onze */
    put(w, french_tens[ten]);
    if (rest == 0) {
        put(w, ten == 8 && last ? "s" : "");
        return;
    }
    put(w, ten < 8 && (rest == 1 || rest == 11) ? " et " : "-");
    put(w, french_small[rest]);
}

static void french_below_1000(word *w, int n, bool last)
{
    if (n >= 200) {
        put(w, french_small[n / 100]);
        put(w, " ");
    }
    if (n >= 100)
        put(w, n % 100 ? "cent " : n >= 200 && last ? "cents" : "cent");
    if (n < 100 || n % 100)
        french_below_100(w, n % 100, last);
}

static void french(word *w, int n)
{
    if (n >= 2000) {
        french_below_1000(w, n / 1000, false);
        put(w, " ");
    }
    if (n >= 1000)
        put(w, n % 1000 ? "mille " : "mille");
    if (n < 1000 || n % 1000)
        french_below_1000(w, n % 1000, true);
}

/* ---- Italian ----------------------------------------------------------------------------------------------------- */

static const char *const italian_small[] = {"zero",     "uno",        "due",      "tre",         "quattro",
                                            "cinque",   "sei",        "sette",    "otto",        "nove",
                                            "dieci",    "undici",     "dodici",   "tredici",     "quattordici",
                                            "quindici", "sedici",     "diciassette", "diciotto", "diciannove"};
static const char *const italian_tens[] = {"",          "",         "venti",    "trenta",  "quaranta",
                                           "cinquanta", "sessanta", "settanta", "ottanta", "novanta"};

static void italian_below_1000(word *w, int n)
{
    if (n >= 200)
        put(w, italian_small[n / 100]);
    if (n >= 100) {
        put(w, "cento");
        n %= 100;
        if (n == 8 || n / 10 == 8)
            w->n--; /* centotto, centottanta */
    }
    if (n >= 20) {
        put(w, italian_tens[n / 10]);
        n %= 10;
        if (n == 1 || n == 8)
            w->n--; /* ventuno, ventotto */
    }
    if (n > 0)
        put(w, italian_small[n]);
}

static void italian(word *w, int n)
{
    if (n >= 2000) {
        italian_below_1000(w, n / 1000);
        put(w, "mila");
    } else if (n >= 1000) {
        put(w, "mille");
    }
    italian_below_1000(w, n % 1000);
    if (n == 0)
        put(w, italian_small[0]);
    if (n > 3 && n % 10 == 3 && n % 100 != 13) { /* ventitré, but tre and tredici */
        w->n--;
        put(w, "é");
    }
}

/* ---- Spanish ----------------------------------------------------------------------------------------------------- */

static const char *const spanish_small[] = {
    "cero",       "uno",         "dos",        "tres",       "cuatro",      "cinco",       "seis",    "siete",
    "ocho",       "nueve",       "diez",       "once",       "doce",        "trece",       "catorce", "quince",
    "dieciséis",  "diecisiete",  "dieciocho",  "diecinueve", "veinte",      "veintiuno",   "veintidós", "veintitrés",
    "veinticuatro", "veinticinco", "veintiséis", "veintisiete", "veintiocho", "veintinueve"};
static const char *const spanish_tens[] = {"",          "",        "",        "treinta", "cuarenta",
                                           "cincuenta", "sesenta", "setenta", "ochenta", "noventa"};
static const char *const spanish_hundreds[] = {"",            "ciento",     "doscientos",  "trescientos",
                                               "cuatrocientos", "quinientos", "seiscientos", "setecientos",
                                               "ochocientos",   "novecientos"};

/* `before_mil`: uno is short there, un or -ún. */
static void spanish_below_100(word *w, int n, bool before_mil)
{
    if (n >= 30) {
        put(w, spanish_tens[n / 10]);
        n %= 10;
        put(w, n ? " y " : "");
    }
    if (n == 21 && before_mil)
        put(w, "veintiún");
    else if (n == 1 && before_mil)
        put(w, "un");
    else if (n > 0)
        put(w, spanish_small[n]);
}

static void spanish_below_1000(word *w, int n, bool before_mil)
{
    if (n >= 100) {
        put(w, n == 100 ? "cien" : spanish_hundreds[n / 100]);
        put(w, n % 100 ? " " : "");
    }
    spanish_below_100(w, n % 100, before_mil);
}

static void spanish(word *w, int n)
{
    if (n >= 2000) {
        spanish_below_1000(w, n / 1000, true);
        put(w, " ");
    }
    if (n >= 1000)
        put(w, n % 1000 ? "mil " : "mil");
    spanish_below_1000(w, n % 1000, false);
    if (n == 0)
        put(w, spanish_small[0]);
}

/* ---- Portuguese -------------------------------------------------------------------------------------------------- */

static const char *const portuguese_small[] = {"zero",    "um",        "dois",     "três",    "quatro",
                                               "cinco",   "seis",      "sete",     "oito",    "nove",
                                               "dez",     "onze",      "doze",     "treze",   "catorze",
                                               "quinze",  "dezasseis", "dezassete", "dezoito", "dezanove"};
static const char *const portuguese_tens[] = {"",          "",         "vinte",   "trinta",  "quarenta",
                                              "cinquenta", "sessenta", "setenta", "oitenta", "noventa"};
static const char *const portuguese_hundreds[] = {"",             "cento",      "duzentos",   "trezentos",
                                                  "quatrocentos", "quinhentos", "seiscentos", "setecentos",
                                                  "oitocentos",   "novecentos"};

static void portuguese_below_1000(word *w, int n)
{
    if (n >= 100) {
        put(w, n == 100 ? "cem" : portuguese_hundreds[n / 100]);
        n %= 100;
        put(w, n ? " e " : "");
    }
    if (n >= 20) {
        put(w, portuguese_tens[n / 10]);
        n %= 10;
        put(w, n ? " e " : "");
    }
    if (n > 0)
        put(w, portuguese_small[n]);
}

static void portuguese(word *w, int n)
{
    const int rest = n % 1000;
    if (n >= 2000) {
        portuguese_below_1000(w, n / 1000);
        put(w, " ");
    }
    if (n >= 1000) {
        put(w, "mil");
        put(w, rest == 0 ? "" : rest <= 100 || rest % 100 == 0 ? " e " : " "); /* mil e cem, but mil cento e um */
    }
    portuguese_below_1000(w, rest);
    if (n == 0)
        put(w, portuguese_small[0]);
}

/* ---- all of them ------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*spell)(word *w, int n);
} languages[EK_NUM_LANGUAGES] = {
    [EK_DUTCH] = {"Dutch", dutch},       [EK_ENGLISH] = {"English", english},
    [EK_FRENCH] = {"French", french},    [EK_GERMAN] = {"German", german},
    [EK_ITALIAN] = {"Italian", italian}, [EK_PORTUGUESE] = {"Portuguese", portuguese},
    [EK_SPANISH] = {"Spanish", spanish}, [EK_SWEDISH] = {"Swedish", swedish},
};

const char *ek_language_name(ek_language language)
{
    return languages[language].name;
}

size_t ek_spell(ek_language language, int n, char out[EK_SPELL_BYTES])
{
    word w = {.out = out, .n = 0};
    languages[language].spell(&w, n);
    out[w.n] = '\0';
    return w.n;
}
