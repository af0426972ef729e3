/* Transposing for the part of a file that is compiled per float type: to be included there, hence no include guard.  In
 * squares of SQUARE × SQUARE elements, which a few shuffles transpose in registers. */
#define SQUARE ((int)(16 / sizeof(REAL)))
typedef REAL FN(quad) __attribute__((vector_size(16), aligned(sizeof(REAL)), may_alias));

/* to[p·ldt + j] = from[j·ldf + p] for j, p < SQUARE. */
static inline void FN(transpose_square)(const REAL *from, int64_t ldf, REAL *to, int64_t ldt)
{
    FN(quad) row[SQUARE];
    for (int j = 0; j < SQUARE; j++)
        row[j] = *(const FN(quad) *)(from + j * ldf);
#if REAL_IS_F32
    const FN(quad) a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
    const FN(quad) b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
    const FN(quad) c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
    const FN(quad) d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
    *(FN(quad) *)to = __builtin_shufflevector(a, b, 0, 1, 4, 5);
    *(FN(quad) *)(to + ldt) = __builtin_shufflevector(a, b, 2, 3, 6, 7);
    *(FN(quad) *)(to + 2 * ldt) = __builtin_shufflevector(c, d, 0, 1, 4, 5);
    *(FN(quad) *)(to + 3 * ldt) = __builtin_shufflevector(c, d, 2, 3, 6, 7);
#else
    *(FN(quad) *)to = __builtin_shufflevector(row[0], row[1], 0, 2);
    *(FN(quad) *)(to + ldt) = __builtin_shufflevector(row[0], row[1], 1, 3);
#endif
}

/* to[p·ldt + j] = from[j·ldf + p] for j < n, p < k. */
static inline void FN(transpose)(int64_t n, int64_t k, const REAL *from, int64_t ldf, REAL *to, int64_t ldt)
{
    const int64_t whole_n = n - n % SQUARE, whole_k = k - k % SQUARE;
    for (int64_t p = 0; p < whole_k; p += SQUARE)
        for (int64_t j = 0; j < whole_n; j += SQUARE)
            FN(transpose_square)(from + j * ldf + p, ldf, to + p * ldt + j, ldt);
    for (int64_t p = 0; p < k; p++)
        for (int64_t j = p < whole_k ? whole_n : 0; j < n; j++)
            to[p * ldt + j] = from[j * ldf + p];
}
#undef SQUARE
