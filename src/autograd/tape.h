/* Between tape.c and backward.c: memory that is given back within a step. */
#ifndef EK_TAPE_H
#define EK_TAPE_H

#include "op.h"

void *ek_pool_alloc(ek_tape *tape, size_t bytes);
/* NULL is left alone. */
void ek_pool_free(ek_tape *tape, void *memory);
/* For the functions that an op of one's own calls: a node, or the failure that says it is NULL. */
bool ek_node_there(const ek_node *node, const char *who);
/* Gives back what ek_node_scratch handed out. */
void ek_release_scratch(ek_record *record);

#endif
