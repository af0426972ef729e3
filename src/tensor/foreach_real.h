/* Compiles the part of OP_FILE under #ifdef REAL once for float and once for double:
 *
 *   #ifdef REAL
 *   static void FN(kernel)(int64_t n, const REAL *x, REAL *y) { … MATH(exp)(x[i]) … }
 *   #else
 *   #define OP_FILE "op_kernel.c"
 *   #include "foreach_real.h"
 *   … kernel_f32, kernel_f64, EK_BY_DTYPE(kernel) …
 *   #endif
 *
 * No include guard: it is included once per file.  REAL_IS_F32 is 1 in the float pass and 0 in the double pass.
 */
#define EK_BY_DTYPE(name) {name##_f32, name##_f64}

#define REAL float
#define FN(name) name##_f32
#define MATH(function) function##f
#define REAL_IS_F32 1
#define REAL_DTYPE EK_F32
#define REAL_EPSILON FLT_EPSILON
#include OP_FILE
#undef REAL
#undef FN
#undef MATH
#undef REAL_IS_F32
#undef REAL_DTYPE
#undef REAL_EPSILON

#define REAL double
#define FN(name) name##_f64
#define MATH(function) function
#define REAL_IS_F32 0
#define REAL_DTYPE EK_F64
#define REAL_EPSILON DBL_EPSILON
#include OP_FILE
#undef REAL
#undef FN
#undef MATH
#undef REAL_IS_F32
#undef REAL_DTYPE
#undef REAL_EPSILON
#undef OP_FILE
