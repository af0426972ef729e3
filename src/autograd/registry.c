/* The list of ops.def as an array. */
#include "op.h"

#define EK_OP(name) &ek_op_##name,
const ek_op *const *const ek_registry[] = {
#include "ops.def"
};
#undef EK_OP
const int ek_registry_size = (int)(sizeof ek_registry / sizeof ek_registry[0]);
