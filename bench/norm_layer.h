/* The layer that a line of bench/norm.cases or bench/accuracy.cases is about. */
#ifndef BENCH_NORM_LAYER_H
#define BENCH_NORM_LAYER_H

#include <evenkeel/evenkeel.h>

#include "cases.h"

/* NULL: there is no such norm, or making it failed, which ek_last_status() tells. */
ek_module *bench_norm(const bench_case *c);
ek_shape bench_shape(const bench_case *c);

#endif
