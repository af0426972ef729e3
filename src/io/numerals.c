/* The embedded sequence set: numbers spelled out, to be told apart by language. */
#include "spell.h"
#include "text.h"

/* Each number belongs to one split, whatever the seed: one bit of a stream that is the numbers' own. */
static ek_split split_of(int number)
{
    static const uint64_t key = 0x6E756D6572616C73u; /* "numerals" */
    uint32_t word[4];
    ek_philox(key, (uint64_t)number, word);
    return word[0] & 1 ? EK_TEST : EK_TRAIN;
}

/* One to six digits, all equally likely, then a number of so many (0 is one of one), of this split. */
static int draw_number(ek_rng *rng, ek_split split)
{
    for (;;) {
        int low = 1;
        for (int64_t digits = ek_rng_below(rng, 6); digits > 0; digits--)
            low *= 10;
        const int number = low == 1 ? (int)ek_rng_below(rng, 10) : low + (int)ek_rng_below(rng, 9 * low);
        if (split_of(number) == split)
            return number;
    }
}

static ek_status add_numerals(ek_text *text, int64_t n, uint64_t seed, ek_split split)
{
    const ek_rng numbers = ek_rng_named(seed, split == EK_TRAIN ? "numerals.train" : "numerals.test");
    const ek_rng orders = ek_rng_named(seed, split == EK_TRAIN ? "numerals.train.order" : "numerals.test.order");
    int64_t order[EK_NUM_LANGUAGES]; /* of the languages in each group of as many texts */
    ek_status status = EK_OK;
    for (int64_t i = 0; status == EK_OK && i < n; i++) {
        char spelled[EK_SPELL_BYTES];
        ek_rng order_rng = ek_rng_child(orders, i / EK_NUM_LANGUAGES), rng = ek_rng_child(numbers, i);
        if (i % EK_NUM_LANGUAGES == 0)
            ek_rng_permutation(&order_rng, EK_NUM_LANGUAGES, order);
        const int64_t label = order[i % EK_NUM_LANGUAGES];
        const size_t bytes = ek_spell((ek_language)label, draw_number(&rng, split), spelled);
        status = ek_text_add(text, spelled, bytes, label);
    }
    return status;
}

ek_text *ek_text_numerals(int64_t n, uint64_t seed, ek_split split)
{
    if (n < 1 || (split != EK_TRAIN && split != EK_TEST)) {
        ek_fail(EK_ERR_ARGUMENT, "text_numerals: expected at least one text and EK_TRAIN or EK_TEST, got %lld and %d",
                (long long)n, (int)split);
        return NULL;
    }
    ek_text *text = ek_text_new();
    ek_status status = text ? EK_OK : EK_ERR_MEMORY;
    for (int language = 0; status == EK_OK && language < EK_NUM_LANGUAGES; language++)
        status = ek_text_add_class(text, ek_language_name((ek_language)language));
    if (status == EK_OK)
        status = add_numerals(text, n, seed, split);
    return ek_text_finish(text, status);
}
