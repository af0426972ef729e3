/* Between tape.c and backward.c: memory that is given back within a step. */
#ifndef EK_TAPE_H
#define EK_TAPE_H

#include "op.h"

void *ek_pool_alloc(ek_tape *tape, size_t bytes);
/* NULL is left alone. */
void ek_pool_free(ek_tape *tape, void *memory);
/* What a function of an op returned: a failure that left no message since `errors_before` gets one. */
ek_status ek_op_result(const ek_op *op, const char *function, ek_status status, uint64_t errors_before);
/* For the functions that an op of one's own calls: a node, or the failure that says it is NULL. */
bool ek_node_there(const ek_node *node, const char *who);
/* Gives back what ek_node_scratch handed out. */
void ek_release_scratch(ek_record *record);

#endif
