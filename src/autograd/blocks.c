/* Copies of equal blocks, for ops that only move elements. */
#include "op.h"

enum { PIECE_BYTES = 1 << 18 };

typedef struct block_arguments {
    size_t bytes, pieces; /* of one block */
    const char *src;
    char *dst;
    size_t src_step, dst_step;
} block_arguments;

static void copy_pieces(void *context, int64_t begin, int64_t end)
{
    const block_arguments *g = context;
    for (int64_t i = begin; i < end; i++) {
        size_t block = (size_t)i / g->pieces, at = (size_t)i % g->pieces * PIECE_BYTES;
        memcpy(g->dst + block * g->dst_step + at, g->src + block * g->src_step + at,
               g->bytes - at < PIECE_BYTES ? g->bytes - at : PIECE_BYTES);
    }
}

void ek_copy_blocks(int64_t count, size_t bytes, const void *src, size_t src_step, void *dst, size_t dst_step)
{
    if (bytes == 0)
        return;
    block_arguments g = {.bytes = bytes, .pieces = (bytes + PIECE_BYTES - 1) / PIECE_BYTES, .src = src, .dst = dst,
                         .src_step = src_step, .dst_step = dst_step};
    int64_t grain = bytes < PIECE_BYTES ? (int64_t)(PIECE_BYTES / bytes) : 1;
    ek_parallel_for(count * (int64_t)g.pieces, grain, copy_pieces, &g);
}
