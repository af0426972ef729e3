/* Random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 * Block `counter` of stream `key` is a pure function of the two, so the state is two numbers and any block can be drawn
 * on its own. */
#include "core.h"

#include <math.h>
#include <string.h>

static const double two_pi = 6.283185307179586476925;

void ek_philox(uint64_t key, uint64_t counter, uint32_t out[4])
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32), c2 = 0, c3 = 0;
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

ek_rng ek_rng_seed(uint64_t seed)
{
    return (ek_rng){.key = seed, .counter = 0};
}

/* Is there a generator to draw from?  Fails if not. */
static bool can_draw(const char *who, const ek_rng *rng)
{
    if (!rng)
        ek_fail(EK_ERR_ARGUMENT, "%s: the random generator is NULL; ek_rng_seed() makes one", who);
    return rng;
}

/* FNV-1a over the name, then one Philox block to spread it: neighbouring names and seeds give unrelated keys. */
ek_rng ek_rng_named(uint64_t seed, const char *name)
{
    uint64_t hash = 0xCBF29CE484222325u;
    if (!name)
        ek_fail(EK_ERR_ARGUMENT, "rng_named: the name is NULL, which gives the stream of \"\"");
    for (const char *c = name ? name : ""; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 0x100000001B3u;
    uint32_t word[4];
    ek_philox(seed, hash, word);
    return (ek_rng){.key = (uint64_t)word[1] << 32 | word[0], .counter = 0};
}

static uint64_t draw_u64(ek_rng *rng)
{
    uint32_t word[4];
    ek_philox(rng->key, rng->counter++, word);
    return (uint64_t)word[1] << 32 | word[0];
}

uint64_t ek_rng_u64(ek_rng *rng)
{
    return can_draw("rng_u64", rng) ? draw_u64(rng) : 0;
}

ek_rng ek_rng_child(ek_rng keys, int64_t i)
{
    keys.counter = (uint64_t)i;
    return ek_rng_seed(draw_u64(&keys));
}

static double unit_interval(uint64_t bits)
{
    return (double)(bits >> 11) * 0x1p-53;
}

/* Two independent normals from two 64-bit words (Box and Muller 1958).  1 − u is in (0, 1], so the log is finite. */
static void normal_pair(const uint32_t word[4], double pair[2])
{
    double radius = sqrt(-2 * log(1 - unit_interval((uint64_t)word[1] << 32 | word[0])));
    double angle = two_pi * unit_interval((uint64_t)word[3] << 32 | word[2]);
    pair[0] = radius * cos(angle);
    pair[1] = radius * sin(angle);
}

double ek_rng_uniform(ek_rng *rng)
{
    return can_draw("rng_uniform", rng) ? unit_interval(draw_u64(rng)) : 0;
}

double ek_rng_normal(ek_rng *rng)
{
    uint32_t word[4];
    double pair[2];
    if (!can_draw("rng_normal", rng))
        return 0;
    ek_philox(rng->key, rng->counter++, word);
    normal_pair(word, pair);
    return pair[0];
}

static int64_t draw_below(ek_rng *rng, int64_t n)
{
    uint64_t range = (uint64_t)n, threshold = (0 - range) % range; /* 2^64 mod n: draws below it would favour some */
    for (;;) {
        uint64_t draw = draw_u64(rng);
        if (draw >= threshold)
            return (int64_t)(draw % range);
    }
}

int64_t ek_rng_below(ek_rng *rng, int64_t n)
{
    return can_draw("rng_below", rng) && n > 0 ? draw_below(rng, n) : 0;
}

void ek_rng_permutation(ek_rng *rng, int64_t n, int64_t *order)
{
    if (!can_draw("rng_permutation", rng))
        return;
    if (!order && n > 0) {
        ek_fail(EK_ERR_ARGUMENT, "rng_permutation: expected room for %lld numbers, got NULL", (long long)n);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n > 1 ? n - 1 : 0; i > 0; i--) {
        int64_t j = draw_below(rng, i + 1), swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
}

/* Writes a float64 value to element i of a float tensor. */
static void put(ek_tensor *t, int64_t i, double value)
{
    if (t->dtype == EK_F32)
        ((float *)t->data)[i] = (float)value;
    else
        ((double *)t->data)[i] = value;
}

void ek_fill_uniform(ek_tensor *t, double low, double high, ek_rng *rng)
{
    for (int64_t i = 0; i < t->numel; i++) {
        double value = low + (high - low) * ek_rng_uniform(rng);
        if (high > low && t->dtype == EK_F32 && (float)value >= (float)high)
            value = nextafterf((float)high, (float)low); /* rounding must not reach the open end */
        else if (high > low && value >= high)
            value = nextafter(high, low);
        put(t, i, value);
    }
}

void ek_fill_normal(ek_tensor *t, double mean, double std, ek_rng *rng)
{
    for (int64_t i = 0; i < t->numel; i += 2) {
        uint32_t word[4];
        double pair[2];
        ek_philox(rng->key, rng->counter++, word);
        normal_pair(word, pair);
        put(t, i, mean + std * pair[0]);
        if (i + 1 < t->numel)
            put(t, i + 1, mean + std * pair[1]);
    }
}
