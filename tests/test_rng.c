/* The generator against published vectors, against its own definition, and against the laws its draws follow.  Seeds
 * are fixed, so a bound of 5 standard deviations never fails by chance. */
#include "core.h"
#include "support.h"

/* Philox4x32-10 with all 128 bits of counter, word by word from the paper; ek_philox fixes the upper 64 at 0. */
static void reference_philox(const uint32_t key[2], const uint32_t counter[4], uint32_t out[4])
{
    uint32_t k[2] = {key[0], key[1]}, c[4];
    memcpy(c, counter, sizeof c);
    for (int round = 0; round < 10; round++) {
        const uint64_t left = (uint64_t)0xD2511F53 * c[0], right = (uint64_t)0xCD9E8D57 * c[2];
        const uint32_t next[4] = {(uint32_t)(right >> 32) ^ c[1] ^ k[0], (uint32_t)right,
                                  (uint32_t)(left >> 32) ^ c[3] ^ k[1], (uint32_t)left};
        memcpy(c, next, sizeof c);
        k[0] += 0x9E3779B9; /* the golden ratio */
        k[1] += 0xBB67AE85; /* √3 − 1 */
    }
    memcpy(out, c, sizeof c);
}

/* kat_vectors of Random123, philox4x32 with 10 rounds. */
START_TEST(philox_matches_the_published_vectors)
{
    static const struct {
        uint32_t counter[4], key[2], out[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    uint32_t out[4];
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        reference_philox(known[i].key, known[i].counter, out);
        ck_assert_msg(!memcmp(out, known[i].out, sizeof out), "the reference misses vector %zu", i);
    }
    ek_philox(0, 0, out);
    ck_assert_mem_eq(out, known[0].out, sizeof out);
}
END_TEST

START_TEST(philox_is_its_definition_for_every_key_and_counter)
{
    uint64_t state = 12345;
    for (int i = 0; i < 1000; i++) {
        uint64_t word[2];
        for (int k = 0; k < 2; k++) /* Knuth's MMIX generator, so that the choice does not rest on ours */
            word[k] = state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t key[2] = {(uint32_t)word[0], (uint32_t)(word[0] >> 32)};
        uint32_t counter[4] = {(uint32_t)word[1], (uint32_t)(word[1] >> 32), 0, 0}, expected[4], out[4];
        reference_philox(key, counter, expected);
        ek_philox(word[0], word[1], out);
        ck_assert_mem_eq(out, expected, sizeof out);
    }
}
END_TEST

START_TEST(a_stream_goes_on_from_its_two_numbers)
{
    ek_rng rng = ek_rng_seed(7);
    for (int i = 0; i < 10; i++)
        ek_rng_u64(&rng);
    ek_rng copy = {.key = rng.key, .counter = rng.counter};
    for (int i = 0; i < 100; i++)
        ck_assert_uint_eq(ek_rng_u64(&rng), ek_rng_u64(&copy));
    ck_assert_uint_eq(rng.counter, copy.counter);
    ek_rng other = ek_rng_seed(8), again = ek_rng_seed(7);
    ck_assert_uint_ne(ek_rng_u64(&other), ek_rng_u64(&again));
}
END_TEST

enum { DRAWS = 200000 };

START_TEST(uniform_draws_have_uniform_moments)
{
    ek_rng rng = ek_rng_seed(1);
    double sum = 0, squares = 0, previous = 0.5, lagged = 0;
    int decile[10] = {0};
    for (int i = 0; i < DRAWS; i++) {
        double u = ek_rng_uniform(&rng);
        ck_each(u >= 0 && u < 1, "%g is outside [0, 1)", u);
        sum += u;
        squares += (u - 0.5) * (u - 0.5);
        lagged += (u - 0.5) * (previous - 0.5);
        previous = u;
        decile[(int)(u * 10)]++;
    }
    /* Var u = 1/12, Var (u − ½)² = 1/80 − 1/144, Var of a lagged product = 1/144. */
    ck_assert_double_le(fabs(sum / DRAWS - 0.5), 5 * sqrt(1.0 / 12 / DRAWS));
    ck_assert_double_le(fabs(squares / DRAWS - 1.0 / 12), 5 * sqrt((1.0 / 80 - 1.0 / 144) / DRAWS));
    ck_assert_double_le(fabs(lagged / DRAWS), 5 * sqrt(1.0 / 144 / DRAWS));
    for (int k = 0; k < 10; k++)
        ck_assert_double_le(fabs(decile[k] - DRAWS / 10.0), 5 * sqrt(DRAWS * 0.1 * 0.9));
}
END_TEST

/* First four moments and the share within one σ.  The variance of x^k is E x^2k − (E x^k)²: 1, 2, 15, 96. */
static void check_normal(int n, const double *x)
{
    double moment[5] = {0};
    int inside = 0;
    for (int i = 0; i < n; i++) {
        for (int k = 1; k <= 4; k++)
            moment[k] += pow(x[i], k) / n;
        inside += fabs(x[i]) < 1;
    }
    ck_assert_double_le(fabs(moment[1]), 5 * sqrt(1.0 / n));
    ck_assert_double_le(fabs(moment[2] - 1), 5 * sqrt(2.0 / n));
    ck_assert_double_le(fabs(moment[3]), 5 * sqrt(15.0 / n));
    ck_assert_double_le(fabs(moment[4] - 3), 5 * sqrt(96.0 / n));
    double share = erf(sqrt(0.5));
    ck_assert_double_le(fabs((double)inside / n - share), 5 * sqrt(share * (1 - share) / n));
}

START_TEST(normal_draws_have_normal_moments)
{
    double *x = malloc(DRAWS * sizeof *x);
    ek_rng rng = ek_rng_seed(2);
    for (int i = 0; i < DRAWS; i++)
        x[i] = ek_rng_normal(&rng);
    check_normal(DRAWS, x);
    ek_tensor *t = ek_normal(EK_F64, EK_SHAPE(DRAWS), 3, 2, &rng);
    double neighbours = 0;
    for (int i = 0; i < DRAWS; i++)
        x[i] = (ek_data_f64(t)[i] - 3) / 2;
    check_normal(DRAWS, x);
    for (int i = 0; i < DRAWS; i += 2)
        neighbours += x[i] * x[i + 1]; /* the two of a pair are independent */
    ck_assert_double_le(fabs(neighbours / (DRAWS / 2)), 5 * sqrt(2.0 / DRAWS));
    ek_tensor_free(t);
    free(x);
}
END_TEST

START_TEST(below_favours_no_number)
{
    ek_rng rng = ek_rng_seed(3);
    int count[7] = {0};
    for (int i = 0; i < DRAWS; i++) {
        int64_t k = ek_rng_below(&rng, 7);
        ck_each(k >= 0 && k < 7, "%lld of 7", (long long)k);
        count[k]++;
    }
    for (int k = 0; k < 7; k++)
        ck_assert_double_le(fabs(count[k] - DRAWS / 7.0), 5 * sqrt(DRAWS * (1 / 7.0) * (6 / 7.0)));
    /* 2⁶⁴ mod 3·2⁶¹ = 2⁶²: a plain remainder would fall below 2⁶² in 3 of 4 draws instead of 2 of 3. */
    const int64_t n = (int64_t)3 << 61;
    int low = 0;
    for (int i = 0; i < DRAWS; i++) {
        int64_t k = ek_rng_below(&rng, n);
        ck_each(k >= 0 && k < n, "%lld of %lld", (long long)k, (long long)n);
        low += k < (int64_t)1 << 62;
    }
    ck_assert_double_le(fabs((double)low / DRAWS - 2 / 3.0), 5 * sqrt(2 / 9.0 / DRAWS));
    uint64_t before = rng.counter;
    ck_assert_int_eq(ek_rng_below(&rng, 1), 0);
    ck_assert_int_eq(ek_rng_below(&rng, 0), 0);
    ck_assert_int_eq(ek_rng_below(&rng, -5), 0);
    ck_assert_uint_le(rng.counter, before + 1);
}
END_TEST

START_TEST(permutations_hold_everything_once_and_are_uniform)
{
    enum { N = 1000, ROUNDS = 60000 };
    static int64_t order[N];
    bool seen[N] = {false};
    ek_rng rng = ek_rng_seed(4);
    ek_rng_permutation(&rng, N, order);
    int fixed = 0;
    for (int i = 0; i < N; i++) {
        ck_assert(order[i] >= 0 && order[i] < N && !seen[order[i]]);
        seen[order[i]] = true;
        fixed += order[i] == i;
    }
    ck_assert_int_lt(fixed, 10); /* Poisson(1) */
    int count[27] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        ek_rng_permutation(&rng, 3, order);
        count[order[0] * 9 + order[1] * 3 + order[2]]++;
    }
    int kinds = 0;
    for (int k = 0; k < 27; k++)
        if (count[k]) {
            kinds++;
            ck_assert_double_le(fabs(count[k] - ROUNDS / 6.0), 5 * sqrt(ROUNDS * (1 / 6.0) * (5 / 6.0)));
        }
    ck_assert_int_eq(kinds, 6);
    order[0] = -1;
    ek_rng_permutation(&rng, 0, order);
    ek_rng_permutation(&rng, INT64_MIN, order);
    ck_assert_int_eq(order[0], -1);
}
END_TEST

START_TEST(named_streams_depend_on_seed_and_name_alone)
{
    ek_rng a = ek_rng_named(1, "0.weight"), again = ek_rng_named(1, "0.weight");
    ek_rng b = ek_rng_named(1, "1.weight"), c = ek_rng_named(2, "0.weight"), d = ek_rng_named(1, "");
    ck_assert(a.key == again.key && a.counter == 0 && again.counter == 0);
    ck_assert(a.key != b.key && a.key != c.key && a.key != d.key && b.key != c.key);
    /* Unrelated: the number of equal bits of two keys is binomial(64, ½), σ = 4. */
    ck_assert_int_le(abs(__builtin_popcountll(a.key ^ b.key) - 32), 20);
    double correlation = 0;
    for (int i = 0; i < DRAWS; i++)
        correlation += (ek_rng_uniform(&a) - 0.5) * (ek_rng_uniform(&b) - 0.5);
    ck_assert_double_le(fabs(correlation / DRAWS), 5 * sqrt(1.0 / 144 / DRAWS));
}
END_TEST

START_TEST(a_generator_that_is_null_gives_0)
{
    int64_t order[2] = {7, 7};
    ek_rng rng = ek_rng_seed(1);
    ck_assert(ek_rng_u64(NULL) == 0);
    ck_error(EK_ERR_ARGUMENT, "rng_u64: the random generator is NULL; ek_rng_seed() makes one");
    ck_assert(ek_rng_uniform(NULL) == 0);
    ck_error(EK_ERR_ARGUMENT, "rng_uniform: the random generator is NULL");
    ck_assert(ek_rng_normal(NULL) == 0);
    ck_error(EK_ERR_ARGUMENT, "rng_normal: the random generator is NULL");
    ck_assert(ek_rng_below(NULL, 5) == 0);
    ck_error(EK_ERR_ARGUMENT, "rng_below: the random generator is NULL");
    ek_rng_permutation(NULL, 2, order);
    ck_error(EK_ERR_ARGUMENT, "rng_permutation: the random generator is NULL");
    ck_assert(order[0] == 7 && order[1] == 7);
    ek_rng_permutation(&rng, 2, NULL);
    ck_error(EK_ERR_ARGUMENT, "rng_permutation: expected room for 2 numbers, got NULL");
    ck_assert(rng.counter == 0);
    ck_assert(ek_rng_named(3, NULL).key == ek_rng_named(3, "").key);
    ck_error(EK_ERR_ARGUMENT, "rng_named: the name is NULL");
}
END_TEST

START_TEST(uniform_tensors_stay_below_the_open_end)
{
    /* Two units of the last place wide: a quarter of the draws would round up to `high`. */
    ek_rng rng = ek_rng_seed(5);
    ek_tensor *single = ek_uniform(EK_F32, EK_SHAPE(1000), 1, 1 + 2 * 0x1p-23, &rng);
    ek_tensor *wide = ek_uniform(EK_F64, EK_SHAPE(1000), 1, 1 + 2 * 0x1p-52, &rng);
    ck_made(single);
    ck_made(wide);
    for (int i = 0; i < 1000; i++) {
        ck_assert(ek_tensor_at(single, i) >= 1 && ek_tensor_at(single, i) < 1 + 2 * 0x1p-23);
        ck_assert(ek_tensor_at(wide, i) >= 1 && ek_tensor_at(wide, i) < 1 + 2 * 0x1p-52);
    }
    ek_tensor_free(single);
    ek_tensor_free(wide);
}
END_TEST

START_TEST(tensors_of_equal_seed_are_equal)
{
    ek_rng a = ek_rng_seed(6), b = ek_rng_seed(6);
    ek_tensor *x = ek_normal(EK_F32, EK_SHAPE(5), 0, 1, &a), *y = ek_normal(EK_F32, EK_SHAPE(5), 0, 1, &b);
    ck_assert(ek_tensor_equal(x, y));
    ck_assert_uint_eq(a.counter, b.counter);
    ek_tensor *next = ek_normal(EK_F32, EK_SHAPE(5), 0, 1, &a);
    ck_assert(!ek_tensor_equal(x, next));
    ek_tensor_free(x);
    ek_tensor_free(y);
    ek_tensor_free(next);
    ck_assert_ptr_null(ek_normal(EK_F32, EK_SHAPE(5), 0, 1, NULL));
    ck_error(EK_ERR_ARGUMENT, "normal: the random generator is NULL; ek_rng_seed() makes one");
    ck_assert_ptr_null(ek_uniform(EK_F32, EK_SHAPE(5), 0, 1, NULL));
    ck_error(EK_ERR_ARGUMENT, "uniform: the random generator is NULL; ek_rng_seed() makes one");
}
END_TEST

int main(void)
{
    return RUN_TESTS("rng", philox_matches_the_published_vectors, philox_is_its_definition_for_every_key_and_counter,
                     a_stream_goes_on_from_its_two_numbers, uniform_draws_have_uniform_moments,
                     normal_draws_have_normal_moments, below_favours_no_number,
                     permutations_hold_everything_once_and_are_uniform, named_streams_depend_on_seed_and_name_alone,
                     a_generator_that_is_null_gives_0, uniform_tensors_stay_below_the_open_end,
                     tensors_of_equal_seed_are_equal);
}
