/* exp, log, tanh, the logistic function, softplus and the normal distribution for the loops of kernels: to be included
 * in the part of a file that is compiled per float type (foreach_real.h), hence no include guard.
 *
 * In float they are plain additions, multiplications, divisions, selections and operations on the bits of a number, so
 * that a compiler makes vectors of them, and every result has the same bits in the body of a loop and in its tail, from
 * every clone of a kernel and every compiler.  No fma: the clone for processors without it would call a function.  In
 * double they are those of the C library, which gradient checks can trust to the last digits.
 *
 * Largest errors over all float arguments, in units in the last place (tests/test_vector_math.c):
 *
 *   exp 0.99   log 0.88   tanh 1.42   sigmoid 2.41   softplus_tail 1.71   Φ 4.88   φ 2.09
 *
 * There is no erf: GELU, all that would take it, needs Φ(x) = ½·(1 + erf(x/√2)), which keeps its digits in the left tail
 * only when it is not made of erf.
 *
 * NaN, ±∞, −0, overflow and results below FLT_MIN are what the C library gives.
 *
 * The coefficients of each polynomial minimize the largest relative error of the function it makes (least squares on
 * Chebyshev nodes, weighted anew by the errors until they level; from the constant term on each is rounded to float
 * and the others fitted again).  Its last line says what error they leave in exact arithmetic. */
#include "core.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#if REAL_IS_F32

EK_INLINE uint32_t bits_of_f32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

EK_INLINE float float_of_bits_f32(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ln 2 in two parts: products of the first, of 16 bits, with whole numbers below 256 are exact. */
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f

/* exp(x + rest), −170 ≤ x ≤ 89, |rest| < 0.06: 2ⁿ·eʳ with n = round(x/ln 2), r = x − n·ln 2 + rest. */
EK_INLINE float exp_of_sum_f32(float x, float rest)
{
    /* Adding 1.5·2²³ leaves the nearest whole number in the low bits. */
    const float rounder = 0x1.8p23f, log2_e = 0x1.715476p0f;
    const float shifted = x * log2_e + rounder, n = shifted - rounder;
    const float r = (x - n * LN2_HIGH) - (n * LN2_LOW - rest);
    /* (eʳ − 1 − r)/r², 2⁻²⁸ of eʳ */
    float q = 0x1.6a5134p-10f;
    q = q * r + 0x1.12397cp-7f;
    q = q * r + 0x1.5558acp-5f;
    q = q * r + 0x1.555492p-3f;
    q = q * r + 0x1.fffffcp-2f;
    const float e = 1 + (r + r * r * q);
    /* In two steps: 2ⁿ alone may lie beyond the largest and the smallest float.  The second rounds, once. */
    const uint32_t twice_biased = bits_of_f32(shifted) - bits_of_f32(rounder) + 254, first = twice_biased / 2;
    return e * float_of_bits_f32(first << 23) * float_of_bits_f32((twice_biased - first) << 23);
}

EK_INLINE float real_exp_f32(float x)
{
    const float above = x < -104 ? -104 : x; /* 0 from there on */
    return exp_of_sum_f32(above > 89 ? 89 : above, 0); /* ∞ */
}

/* n·ln 2 + ln(1 + f), √½ ≤ 1 + f < √2. */
EK_INLINE float log_of_parts_f32(float n, float f)
{
    /* (ln(1 + f) − f + f²/2)/f³, 2⁻³⁰ of ln(1 + f) */
    float p = 0x1.147268p-4f;
    p = p * f + -0x1.de0116p-4f;
    p = p * f + 0x1.e6bfecp-4f;
    p = p * f + -0x1.fc28dap-4f;
    p = p * f + 0x1.233ba4p-3f;
    p = p * f + -0x1.555c44p-3f;
    p = p * f + 0x1.99a476p-3f;
    p = p * f + -0x1.000006p-2f;
    p = p * f + 0x1.555548p-2f;
    const float square = f * f;
    return (f + (square * f * p + (n * LN2_LOW - 0.5f * square))) + n * LN2_HIGH;
}

EK_INLINE float real_log_f32(float x)
{
    const uint32_t root_half = 0x3f3504f3, bias = 128;
    const float scaled = x < FLT_MIN ? x * 0x1p25f : x;
    const uint32_t bits = bits_of_f32(scaled) - root_half + (bias << 23);
    const float n = (float)((int32_t)(bits >> 23) - (int32_t)bias) - (x < FLT_MIN ? 25.0f : 0.0f);
    const float y = log_of_parts_f32(n, float_of_bits_f32((bits & 0x7fffff) + root_half) - 1);
    const float outside = x == 0 ? -INFINITY : NAN;
    return x > 0 ? x <= FLT_MAX ? y : x : outside;
}

/* ln(1 + x), 0 ≤ x ≤ 1. */
EK_INLINE float log1p_of_unit_f32(float x)
{
    const bool halve = x > 0x1.a82798p-2f; /* √2 − 1 */
    return log_of_parts_f32(halve ? 1 : 0, halve ? 0.5f * (x - 1) : x);
}

EK_INLINE float real_tanh_f32(float x)
{
    const float a = fabsf(x), square = a * a, far = 1 - 2 / (real_exp_f32(2 * a) + 1);
    /* (tanh(a)/a − 1)/a², 2⁻²⁹ of tanh a */
    float p = -0x1.9454f2p-8f;
    p = p * square + 0x1.5811f6p-6f;
    p = p * square + -0x1.b905c4p-5f;
    p = p * square + 0x1.110c5ep-3f;
    p = p * square + -0x1.555548p-2f;
    return copysignf(a < 0.5625f ? a + a * (square * p) : far, x);
}

/* Φ(x) and φ(x) of the standard normal distribution.  With a = |x|, Φ(−a) = φ(a)·M(a), where Mills' ratio M falls
 * from √(π/2) to 1/a: (a + 3)·M is a polynomial in (a − 1)/(a + 3).  a² is taken in two parts, since the error of an
 * exponent is one of as many digits of the result. */
EK_INLINE void real_normal_f32(float x, float *cdf, float *density)
{
    float a = fabsf(x);
    a = a > 15 ? 15 : a; /* φ = 0 */
    const float high = float_of_bits_f32(bits_of_f32(a) & 0xfffff000);
    const float e = exp_of_sum_f32(-0.5f * (high * high), -0.5f * ((a - high) * (a + high)));
    const float inverse = 1 / (a + 3), w = (a - 1) * inverse;
    /* (a + 3)·M/√(2π), 2⁻²⁸ of it */
    float g = 0x1.afacacp-9f;
    g = g * w + -0x1.828bd2p-8f;
    g = g * w + -0x1.5519c2p-8f;
    g = g * w + 0x1.520614p-8f;
    g = g * w + 0x1.a4fap-6f;
    g = g * w + 0x1.8d59d2p-8f;
    g = g * w + -0x1.b21926p-4f;
    g = g * w + -0x1.6c9408p-5f;
    g = g * w + 0x1.404494p-1f;
    g = g * w + -0x1.26c966p0f;
    g = g * w + 0x1.0bdb2ep0f;
    const float tail = e * (g * inverse);
    *cdf = x < 0 ? tail : 1 - tail;
    *density = e * 0x1.988454p-2f; /* 1/√(2π) */
}

#undef LN2_HIGH
#undef LN2_LOW

#else

EK_INLINE double real_exp_f64(double x)
{
    return exp(x);
}

EK_INLINE double real_log_f64(double x)
{
    return log(x);
}

EK_INLINE double log1p_of_unit_f64(double x)
{
    return log1p(x);
}

EK_INLINE double real_tanh_f64(double x)
{
    return tanh(x);
}

/* Φ by erfc, since 1 + erf loses every digit in the left tail. */
EK_INLINE void real_normal_f64(double x, double *cdf, double *density)
{
    *cdf = 0.5 * erfc(-0.70710678118654752440 * x);
    *density = 0.39894228040143267794 * exp(-0.5 * x * x);
}

#endif

/* σ(x) = 1/(1 + e⁻ˣ) for x ≥ 0, eˣ/(1 + eˣ) below: e⁻ˣ would overflow. */
EK_INLINE REAL FN(real_sigmoid)(REAL x)
{
    const REAL e = FN(real_exp)(-MATH(fabs)(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

/* ln(1 + exp(−|x|)); ln(1 + eˣ) = max(x, 0) + this. */
EK_INLINE REAL FN(softplus_tail)(REAL x)
{
    return FN(log1p_of_unit)(FN(real_exp)(-MATH(fabs)(x)));
}
