/* The logistic function and softplus without overflow, for the part of an op file that is compiled per float type: to
 * be included there, hence no include guard.  Both rest on exp(−|x|) ≤ 1. */

/* σ(x) = 1/(1 + e⁻ˣ) for x ≥ 0, eˣ/(1 + eˣ) below. */
static inline REAL FN(logistic)(REAL x)
{
    const REAL e = MATH(exp)(-MATH(fabs)(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

/* ln(1 + exp(−|x|)); ln(1 + eˣ) = max(x, 0) + this. */
static inline REAL FN(softplus_tail)(REAL x)
{
    return MATH(log1p)(MATH(exp)(-MATH(fabs)(x)));
}
