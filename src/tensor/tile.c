/* Register tiles (tile.h): the kernels of tile_kernels.h once per float type and instruction set, and the choice among
 * them.  Expands to ek_tile_f32 and ek_tile_f64.
 *
 * EK_KERNEL would not do here: how many sums fit depends on the registers of each instruction set.  CMake lets this
 * file alone contract a·b + c to one fused operation, which doubles its speed where there is one. */
#ifdef REAL

/* SSE2 and whatever else has registers of 16 bytes; 16 of them. */
#define TILE(name) FN(name##_baseline)
#define TARGET
#define VECTOR_BYTES 16
#define ROWS 4
#define DOT_ROWS 3
#define DOT_COLUMNS 4
#include "tile_kernels.h"
#undef TILE
#undef TARGET
#undef VECTOR_BYTES

#ifdef EK_MULTIVERSION
/* AVX2 and FMA: 16 registers of 32 bytes. */
#define TILE(name) FN(name##_v3)
#define TARGET __attribute__((target("arch=x86-64-v3")))
#define VECTOR_BYTES 32
#include "tile_kernels.h"
#undef TILE
#undef TARGET
#undef VECTOR_BYTES
#undef ROWS
#undef DOT_ROWS
#undef DOT_COLUMNS

/* AVX-512: 32 registers of 64 bytes. */
#define TILE(name) FN(name##_v4)
#define TARGET __attribute__((target("arch=x86-64-v4")))
#define VECTOR_BYTES 64
#define ROWS 8
#define DOT_ROWS 4
#define DOT_COLUMNS 6
#include "tile_kernels.h"
#undef TILE
#undef TARGET
#undef VECTOR_BYTES
#endif
#undef ROWS
#undef DOT_ROWS
#undef DOT_COLUMNS

const FN(ek_tile_kernels) *FN(ek_tile)(void)
{
#ifdef EK_MULTIVERSION
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
        return &FN(kernels_v4);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return &FN(kernels_v3);
#endif
    return &FN(kernels_baseline);
}

#else
#include "tile.h"

#include <float.h>

enum { VECTORS = 3 }; /* side by side in a tile of multiply: enough to hide a multiplication's latency */

#define INLINE __attribute__((always_inline))
/* EK_ONE_TILE: loops over a tile stay loops, in one copy for all sizes. */
#ifdef EK_ONE_TILE
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#define OP_FILE "tile.c"
#include "foreach_real.h"
#endif
