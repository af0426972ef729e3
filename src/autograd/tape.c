/* The tape: an arena that holds what a step makes, a pool inside it for what comes and goes within the step, and the
 * application of ops.  The walk back is in backward.c. */
#include "tape.h"

/* ---- arena ------------------------------------------------------------------------------------------------------- */

/* What lives until the reset is handed out from a chunk's start, what comes and goes within the step from its end: so
 * each takes what the other leaves.  Chunks stay as they are: to make one of several would for a moment take twice the
 * memory.  The same requests after a reset find the same places, for the oldest chunk with room serves; so a step like
 * the one before asks the allocator for nothing. */
struct ek_chunk {
    _Alignas(EK_ALIGNMENT) ek_chunk *newer;
    size_t capacity;  /* of the bytes after this header */
    size_t low, high; /* free between these two */
};

enum { FIRST_CHUNK_BYTES = 64 << 10, SMALL_BYTES = 4 << 10 };

static size_t aligned(size_t bytes)
{
    return (bytes + EK_ALIGNMENT - 1) / EK_ALIGNMENT * EK_ALIGNMENT;
}

static ek_chunk *add_chunk(ek_tape *tape, size_t capacity)
{
    ek_chunk *chunk = ek_alloc(sizeof *chunk + capacity);
    if (!chunk)
        return NULL;
    *chunk = (ek_chunk){.capacity = capacity, .high = capacity};
    ek_chunk **end = &tape->chunks;
    while (*end)
        end = &(*end)->newer;
    *end = chunk;
    tape->taken += sizeof *chunk + capacity;
    return chunk;
}

static void free_chunks(ek_tape *tape)
{
    while (tape->chunks) {
        ek_chunk *newer = tape->chunks->newer;
        ek_release(tape->chunks);
        tape->chunks = newer;
    }
    tape->taken = 0;
}

/* A chunk with so many bytes to spare: the oldest, else a new one. */
static ek_chunk *find_room(ek_tape *tape, size_t bytes)
{
    for (ek_chunk *chunk = tape->chunks; chunk; chunk = chunk->newer)
        if (chunk->high - chunk->low >= bytes)
            return chunk;
    /* A quarter of what there is, so that a step needs few chunks and leaves little of them, for a whole number of such
     * requests; if that is refused, just what is asked. */
    size_t more = tape->taken / 4 > FIRST_CHUNK_BYTES ? tape->taken / 4 : FIRST_CHUNK_BYTES;
    ek_chunk *chunk = add_chunk(tape, (more + bytes - 1) / bytes * bytes);
    if (!chunk && (chunk = add_chunk(tape, bytes)))
        ek_clear_error();
    return chunk;
}

static bool too_large(size_t bytes)
{
    if (bytes <= PTRDIFF_MAX / 4)
        return false;
    ek_fail(EK_ERR_MEMORY, "out of memory: %zu bytes asked of a tape", bytes);
    return true;
}

void *ek_tape_alloc(ek_tape *tape, size_t bytes)
{
    if (too_large(bytes))
        return NULL;
    bytes = aligned(bytes ? bytes : 1);
    ek_chunk *chunk = tape->current;
    if (!chunk || chunk->high - chunk->low < bytes) {
        chunk = find_room(tape, bytes);
        if (!chunk)
            return NULL;
        if (bytes < SMALL_BYTES || !tape->current) /* what is large passes a chunk by that has room for small things */
            tape->current = chunk;
    }
    void *memory = (char *)(chunk + 1) + chunk->low;
    chunk->low += bytes;
    return memory;
}

static bool is_empty(const ek_tape *tape)
{
    for (const ek_chunk *chunk = tape->chunks; chunk; chunk = chunk->newer)
        if (chunk->low > 0 || chunk->high < chunk->capacity)
            return false;
    return true;
}

static void empty_chunks(ek_tape *tape)
{
    for (ek_chunk *chunk = tape->chunks; chunk; chunk = chunk->newer) {
        chunk->low = 0;
        chunk->high = chunk->capacity;
    }
    tape->current = tape->chunks;
    tape->free_blocks = NULL;
}

/* ---- pool: memory that is given back within a step --------------------------------------------------------------- */

/* Blocks fill a chunk from `high` to its end.  No two neighbours are free, and the lowest is not. */
struct ek_pool_block {
    _Alignas(EK_ALIGNMENT) ek_pool_block *next; /* in the list it is in: of a record's scratch memory, or of free ones */
    ek_pool_block *previous;                    /* in the list of free ones */
    ek_pool_block *below;                       /* its lower neighbour, or NULL */
    ek_chunk *chunk;
    size_t bytes; /* with this header */
    bool free;
};

static ek_pool_block *block_above(const ek_pool_block *block)
{
    char *end = (char *)block + block->bytes;
    return end < (char *)(block->chunk + 1) + block->chunk->capacity ? (ek_pool_block *)end : NULL;
}

static void set_below(const ek_pool_block *block, ek_pool_block *below)
{
    ek_pool_block *above = block_above(block);
    if (above)
        above->below = below;
}

static void list_free(ek_tape *tape, ek_pool_block *block)
{
    block->free = true;
    block->previous = NULL;
    block->next = tape->free_blocks;
    if (block->next)
        block->next->previous = block;
    tape->free_blocks = block;
}

static void unlist_free(ek_tape *tape, ek_pool_block *block)
{
    block->free = false;
    *(block->previous ? &block->previous->next : &tape->free_blocks) = block->next;
    if (block->next)
        block->next->previous = block->previous;
}

/* The upper end of the smallest free block that holds so many bytes; NULL: none does. */
static ek_pool_block *take_free(ek_tape *tape, size_t bytes)
{
    ek_pool_block *best = NULL;
    for (ek_pool_block *block = tape->free_blocks; block && !(best && best->bytes == bytes); block = block->next)
        if (block->bytes >= bytes && (!best || block->bytes < best->bytes))
            best = block;
    if (!best)
        return NULL;
    if (best->bytes - bytes <= sizeof *best) { /* no memory behind a header: it stays in one piece */
        unlist_free(tape, best);
        return best;
    }
    best->bytes -= bytes;
    ek_pool_block *block = block_above(best);
    *block = (ek_pool_block){.below = best, .chunk = best->chunk, .bytes = bytes};
    set_below(block, block);
    return block;
}

static ek_pool_block *pool_take(ek_tape *tape, size_t bytes)
{
    if (too_large(bytes))
        return NULL;
    bytes = sizeof(ek_pool_block) + aligned(bytes ? bytes : 1);
    ek_pool_block *block = take_free(tape, bytes);
    if (block)
        return block;
    ek_chunk *chunk = find_room(tape, bytes);
    if (!chunk)
        return NULL;
    chunk->high -= bytes;
    block = (ek_pool_block *)((char *)(chunk + 1) + chunk->high);
    *block = (ek_pool_block){.chunk = chunk, .bytes = bytes};
    set_below(block, block);
    return block;
}

static void pool_give(ek_tape *tape, ek_pool_block *block)
{
    ek_pool_block *above = block_above(block), *below = block->below;
    if (above && above->free) {
        unlist_free(tape, above);
        block->bytes += above->bytes;
    }
    if (below && below->free) {
        unlist_free(tape, below);
        below->bytes += block->bytes;
        block = below;
    }
    if (block->below) {
        set_below(block, block);
        list_free(tape, block);
    } else {
        set_below(block, NULL);
        block->chunk->high += block->bytes;
    }
}

void *ek_pool_alloc(ek_tape *tape, size_t bytes)
{
    ek_pool_block *block = pool_take(tape, bytes);
    return block ? block + 1 : NULL;
}

void ek_pool_free(ek_tape *tape, void *memory)
{
    if (memory)
        pool_give(tape, (ek_pool_block *)memory - 1);
}

void ek_scratch_release_to(ek_node *node, ek_pool_block *mark)
{
    ek_record *record = (ek_record *)node;
    while (record->scratch != mark) {
        ek_pool_block *next = record->scratch->next;
        pool_give(node->tape, record->scratch);
        record->scratch = next;
    }
}

void ek_release_scratch(ek_record *record)
{
    ek_scratch_release_to(&record->node, NULL);
}

/* ---- life of a tape ---------------------------------------------------------------------------------------------- */

struct ek_retained {
    ek_retained *next;
    ek_tensor *leaf;
};

ek_tape *ek_tape_new(void)
{
    ek_tape *tape = ek_alloc_zeroed(sizeof *tape);
    if (!tape)
        return NULL;
    tape->recording = true;
    tape->pending_end = &tape->pending;
    return tape;
}

void ek_tape_reset(ek_tape *tape)
{
    if (!tape)
        return;
    for (ek_retained *kept = tape->retained; kept; kept = kept->next)
        ek_tensor_free(kept->leaf);
    tape->retained = NULL;
    tape->last = NULL;
    tape->backward_done = false;
    tape->depth = 0;
    tape->pending = NULL;
    tape->pending_end = &tape->pending;
    tape->status = EK_OK;
    tape->error[0] = '\0';
    tape->error_placed = false;
    empty_chunks(tape);
}

void ek_tape_free(ek_tape *tape)
{
    if (!tape)
        return;
    ek_tape_reset(tape);
    free_chunks(tape);
    ek_release(tape);
}

ek_status ek_tape_set_recording(ek_tape *tape, bool recording)
{
    if (!tape)
        return ek_fail(EK_ERR_ARGUMENT, "tape_set_recording: the tape is NULL");
    if (tape->recording != recording && !is_empty(tape))
        return ek_fail(EK_ERR_STATE, "tape_set_recording: the tape holds tensors; call ek_tape_reset() first");
    tape->recording = recording;
    return EK_OK;
}

bool ek_tape_recording(const ek_tape *tape)
{
    return tape && tape->recording;
}

ek_status ek_tape_status(const ek_tape *tape)
{
    return tape ? tape->status : EK_ERR_ARGUMENT;
}

const char *ek_tape_error(const ek_tape *tape)
{
    return tape ? tape->error : "the tape is NULL";
}

size_t ek_tape_bytes(const ek_tape *tape)
{
    return tape ? tape->taken : 0;
}

void *ek_tape_fail(ek_tape *tape)
{
    if (tape->status == EK_OK) {
        tape->status = ek_last_status() != EK_OK ? ek_last_status() : EK_ERR_ARGUMENT;
        snprintf(tape->error, sizeof tape->error, "%s", ek_last_error());
    }
    return NULL;
}

bool ek_tape_usable(ek_tape *tape, const char *who)
{
    if (!tape) {
        ek_fail(EK_ERR_ARGUMENT, "%s: the tape is NULL", who);
        return false;
    }
    if (tape->status != EK_OK) {
        ek_fail(tape->status, "%s", tape->error); /* the first cause stays on top */
        return false;
    }
    return true;
}

ek_status ek_tape_retain(ek_tape *tape, ek_tensor *leaf)
{
    ek_retained *kept = ek_tape_alloc(tape, sizeof *kept);
    if (!kept)
        return EK_ERR_MEMORY;
    *kept = (ek_retained){.next = tape->retained, .leaf = ek_tensor_retain(leaf)};
    tape->retained = kept;
    return EK_OK;
}

ek_tensor *ek_tape_tensor(ek_tape *tape, ek_dtype dtype, ek_shape shape, int64_t numel)
{
    ek_tensor *t = ek_tape_alloc(tape, sizeof *t);
    if (!t)
        return NULL;
    memset(t, 0, sizeof *t);
    t->dtype = dtype;
    t->shape = shape;
    t->numel = numel;
    t->tape = tape;
    return t;
}

ek_tensor *ek_detach(ek_tape *tape, ek_tensor *x)
{
    if (!ek_tape_usable(tape, "detach"))
        return NULL;
    if (!x) {
        ek_fail(EK_ERR_ARGUMENT, "detach: the input is NULL");
        return ek_tape_fail(tape);
    }
    if (x->tape && x->tape != tape) {
        ek_fail(EK_ERR_STATE, "detach: the input belongs to another tape; ek_tensor_clone() it to carry it over");
        return ek_tape_fail(tape);
    }
    ek_tensor *y = ek_tape_tensor(tape, x->dtype, x->shape, x->numel);
    if (!y || (!x->tape && ek_tape_retain(tape, x) != EK_OK))
        return ek_tape_fail(tape);
    y->data = x->data;
    if (x->lengths && !(y->lengths = x->tape ? x->lengths : ek_lengths_on_tape(tape, x->lengths)))
        return ek_tape_fail(tape);
    return y;
}

/* ---- applying an op ---------------------------------------------------------------------------------------------- */

/* All inputs there, of this tape, of one float type; finds that type and whether a gradient will be asked for. */
static ek_status check_inputs(const ek_node *node, ek_dtype *real, bool *needs_grad)
{
    const char *who = node->op->name;
    bool seen = false;
    *real = EK_F32;
    *needs_grad = false;
    for (int i = 0; i < node->n_in; i++) {
        const ek_tensor *x = node->in[i];
        if (!x) {
            if (node->op->optional_from > 0 && i >= node->op->optional_from)
                continue;
            return ek_fail(EK_ERR_ARGUMENT, "%s: input %d is NULL%s%s", who, i,
                           *ek_last_error() ? "; the last error was: " : "", ek_last_error());
        }
        if (x->tape && x->tape != node->tape)
            return ek_fail(EK_ERR_STATE, "%s: input %d belongs to another tape; ek_tensor_clone() it to carry it over",
                           who, i);
        *needs_grad |= x->requires_grad;
        if (x->dtype == EK_I64)
            continue;
        if (seen && x->dtype != *real)
            return ek_fail(EK_ERR_DTYPE, "%s: expected inputs of one float type, got %s and %s (input %d); "
                                         "ek_tensor_cast() converts", who, ek_dtype_name(*real),
                           ek_dtype_name(x->dtype), i);
        *real = x->dtype;
        seen = true;
    }
    return EK_OK;
}

/* Notes which inputs carry lengths.  Those of a leaf are copied: it may carry others by the time of the backward. */
static ek_status note_lengths(ek_node *node)
{
    const ek_lengths **lengths = NULL;
    for (int i = 0; i < node->n_in; i++) {
        const ek_tensor *x = node->in[i];
        if (!x || !x->lengths)
            continue;
        if (!lengths) {
            lengths = ek_tape_alloc(node->tape, (size_t)node->n_in * sizeof *lengths);
            if (!lengths)
                return EK_ERR_MEMORY;
            memset(lengths, 0, (size_t)node->n_in * sizeof *lengths);
            node->lengths = lengths;
        }
        lengths[i] = x->tape ? x->lengths : ek_lengths_on_tape(node->tape, x->lengths);
        if (!lengths[i])
            return EK_ERR_MEMORY;
    }
    return EK_OK;
}

/* The record of an application that a backward may follow: in memory of the tape, inputs kept alive. */
static ek_record *keep_record(ek_tape *tape, const ek_record *draft, size_t attribute_bytes)
{
    int n_in = draft->node.n_in;
    ek_record *record = ek_tape_alloc(tape, sizeof *record);
    ek_tensor **in = ek_tape_alloc(tape, (size_t)n_in * sizeof *in);
    void **grad_in = ek_tape_alloc(tape, (size_t)n_in * sizeof *grad_in);
    void *attributes = attribute_bytes ? ek_tape_alloc(tape, attribute_bytes) : NULL;
    if (!record || !in || !grad_in || (attribute_bytes && !attributes))
        return NULL;
    *record = *draft;
    for (int i = 0; i < n_in; i++) {
        in[i] = draft->node.in[i];
        grad_in[i] = NULL;
        if (in[i] && !in[i]->tape && ek_tape_retain(tape, in[i]) != EK_OK)
            return NULL;
    }
    if (attribute_bytes)
        memcpy(attributes, draft->node.attributes, attribute_bytes);
    record->node.in = in;
    record->node.attributes = attributes;
    record->node.recorded = true;
    record->grad_in = grad_in;
    return record;
}

ek_status ek_op_result(const ek_op *op, const char *function, ek_status status, uint64_t errors_before)
{
    if (status != EK_OK && ek_error_count() == errors_before)
        ek_fail(status, "%s: its %s function returned %s without a message; return what ek_fail() returns", op->name,
                function, ek_status_name(status));
    return status;
}

/* The functions that this application needs are there: an op of one's own may know one float type only. */
static ek_status check_functions(const ek_op *op, ek_dtype real, bool record_it)
{
    if (op->forward[real] && (op->backward[real] || !record_it))
        return EK_OK;
    return ek_fail(EK_ERR_ARGUMENT, "%s: the op has no %s function for %s%s", op->name,
                   op->forward[real] ? "backward" : "forward", ek_dtype_name(real),
                   op->forward[real] ? "; ek_detach() the inputs if no gradient is to flow" : "");
}

static ek_tensor *apply(ek_record *draft, size_t attribute_bytes)
{
    ek_tape *tape = draft->node.tape;
    const ek_op *op = draft->node.op;
    ek_dtype real;
    bool needs_grad;
    if (check_inputs(&draft->node, &real, &needs_grad) != EK_OK || note_lengths(&draft->node) != EK_OK)
        return NULL;
    draft->real = real;
    ek_dtype dtype = draft->node.in[0]->dtype;
    ek_shape shape = draft->node.in[0]->shape;
    int64_t numel;
    uint64_t errors = ek_error_count();
    if (ek_op_result(op, "infer", op->infer(&draft->node, &dtype, &shape), errors) != EK_OK ||
        ek_shape_check(op->name, dtype, shape, &numel) != EK_OK)
        return NULL;

    bool record_it = tape->recording && needs_grad && dtype != EK_I64;
    if (check_functions(op, real, record_it) != EK_OK)
        return NULL;
    ek_record *record = record_it ? keep_record(tape, draft, attribute_bytes) : draft;
    ek_tensor *out = record ? ek_tape_tensor(tape, dtype, shape, numel) : NULL;
    if (!out)
        return NULL;
    if (op->flags & EK_OP_VIEW) {
        ek_tensor *viewed = record->node.in[0];
        if (!record_it && !viewed->tape && ek_tape_retain(tape, viewed) != EK_OK)
            return NULL;
    } else {
        out->data = ek_tape_alloc(tape, ek_tensor_bytes(out));
        if (!out->data)
            return NULL;
    }
    record->node.out = out;
    if (record->node.lengths && op->lengths &&
        ek_op_result(op, "lengths", op->lengths(&record->node, &out->lengths), errors) != EK_OK)
        return NULL;
    ek_status status = ek_op_result(op, "forward", op->forward[real](&record->node), errors);
    ek_release_scratch(record);
    if (status != EK_OK)
        return NULL;
    if (record_it) {
        out->requires_grad = true;
        out->record = record;
        record->previous = tape->last;
        tape->last = record;
    }
    return out;
}

ek_tensor *ek_apply(ek_tape *tape, const ek_op *op, int n_in, ek_tensor *const *in, const void *attributes,
                    size_t attribute_bytes)
{
    if (!ek_tape_usable(tape, op && op->name ? op->name : "apply"))
        return NULL;
    if (!op || n_in < 1 || !in) {
        ek_fail(EK_ERR_ARGUMENT, "apply: expected an op and at least one input, got %s and %d", op ? op->name : "NULL",
                in ? n_in : 0);
        return ek_tape_fail(tape);
    }
    if (!op->name || !op->infer || (attribute_bytes && !attributes)) {
        ek_fail(EK_ERR_ARGUMENT, "apply: %s: the %s NULL", op->name ? op->name : "an op", !op->name ? "name is" :
                !op->infer ? "shape rule, infer, is" : "attributes are");
        return ek_tape_fail(tape);
    }
    /* const is shed only to fit ek_node: nothing writes through these pointers. */
    ek_record draft = {.node = {.op = op, .n_in = n_in, .in = (ek_tensor **)in, .attributes = (void *)attributes,
                                .tape = tape}};
    ek_tensor *out = apply(&draft, attribute_bytes);
    return out ? out : ek_tape_fail(tape);
}

bool ek_node_there(const ek_node *node, const char *who)
{
    if (!node)
        ek_fail(EK_ERR_ARGUMENT, "%s: the node is NULL", who);
    return node;
}

void *ek_node_scratch(ek_node *node, size_t bytes)
{
    if (!ek_node_there(node, "node_scratch"))
        return NULL;
    ek_record *record = (ek_record *)node;
    ek_pool_block *block = pool_take(node->tape, bytes);
    if (!block)
        return NULL;
    block->next = record->scratch;
    record->scratch = block;
    return block + 1;
}

void *ek_node_save(ek_node *node, size_t bytes)
{
    if (!ek_node_there(node, "node_save"))
        return NULL;
    node->saved = node->recorded ? ek_pool_alloc(node->tape, bytes) : ek_node_scratch(node, bytes);
    return node->saved;
}
