/* Rows of a table by index.  Expands to embedding_forward_f32, embedding_backward_f32 and their _f64 twins. */
#ifdef REAL

typedef struct {
    int64_t n, width;     /* indices; elements of a row */
    const int64_t *index; /* [n] */
    int64_t padding_idx;
    const REAL *table;    /* [V, width] */
    REAL *y;              /* [n, width] */
    const REAL *dy;       /* [n, width] */
    REAL *dtable;         /* [V, width], added to */
} FN(embedding_arguments);

/* y[i] = table[index[i]]. */
static void FN(gather_rows)(void *context, int64_t begin, int64_t end)
{
    const FN(embedding_arguments) *a = context;
    for (int64_t i = begin; i < end; i++)
        memcpy(a->y + i * a->width, a->table + a->index[i] * a->width, (size_t)a->width * sizeof *a->y);
}

/* dtable[index[i]] += dy[i], but for the padding row, in columns begin … end−1.  Each thread has columns of its own and
 * takes the indices in order, so a row that occurs twice is summed in that order whatever the number of threads. */
static void FN(scatter_columns)(void *context, int64_t begin, int64_t end)
{
    const FN(embedding_arguments) *a = context;
    for (int64_t i = 0; i < a->n; i++) {
        if (a->index[i] == a->padding_idx)
            continue;
        REAL *row = a->dtable + a->index[i] * a->width;
        for (int64_t k = begin; k < end; k++)
            row[k] += a->dy[i * a->width + k];
    }
}

static FN(embedding_arguments) FN(arguments)(const ek_node *node)
{
    return (FN(embedding_arguments)){.n = node->in[1]->numel, .width = node->in[0]->shape.dim[1],
                                     .index = node->in[1]->data, .padding_idx = *(const int64_t *)node->attributes,
                                     .table = node->in[0]->data, .y = node->out->data};
}

static ek_status FN(embedding_forward)(ek_node *node)
{
    FN(embedding_arguments) a = FN(arguments)(node);
    if (a.width > 0)
        ek_parallel_for(a.n, a.width < EK_GRAIN ? EK_GRAIN / a.width : 1, FN(gather_rows), &a);
    return EK_OK;
}

static ek_status FN(embedding_backward)(ek_node *node)
{
    FN(embedding_arguments) a = FN(arguments)(node);
    a.dy = ek_node_grad_out(node);
    a.dtable = ek_node_grad_in(node, 0);
    if (a.dtable && a.n > 0) {
        const int64_t columns_per_line = EK_ALIGNMENT / (int64_t)sizeof(REAL), fair = EK_GRAIN / a.n;
        ek_parallel_for(a.width, fair > columns_per_line ? fair : columns_per_line, FN(scatter_columns), &a);
    }
    return EK_OK;
}

#else
#include "op.h"
#define OP_FILE "op_embedding.c"
#include "foreach_real.h"

static ek_status infer_embedding(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    (void)dtype; /* that of the table */
    const ek_tensor *table = node->in[0], *indices = node->in[1];
    const int64_t padding_idx = *(const int64_t *)node->attributes, *index = indices->data;
    if (ek_need_float(node, 0) != EK_OK || ek_need_int64(node, 1) != EK_OK)
        return EK_ERR_DTYPE;
    if (table->shape.ndim != 2)
        return ek_fail(EK_ERR_SHAPE, "embedding: expected a table (V, D), got %s", EK_TEXT(table->shape));
    if (indices->shape.ndim >= EK_MAX_NDIM)
        return ek_fail(EK_ERR_SHAPE, "embedding: expected indices of rank below %d, got %s", EK_MAX_NDIM,
                       EK_TEXT(indices->shape));
    const int64_t rows = table->shape.dim[0];
    if (padding_idx != EK_NO_PADDING_IDX && (padding_idx < 0 || padding_idx >= rows))
        return ek_fail(EK_ERR_ARGUMENT, "embedding: expected padding_idx in 0 … %lld or EK_NO_PADDING_IDX, got %lld",
                       (long long)rows - 1, (long long)padding_idx);
    for (int64_t i = 0; i < indices->numel; i++)
        if (index[i] < 0 || index[i] >= rows)
            return ek_fail(EK_ERR_ARGUMENT, "embedding: expected indices in 0 … %lld, got %lld at flat index %lld",
                           (long long)rows - 1, (long long)index[i], (long long)i);
    *shape = indices->shape;
    shape->dim[shape->ndim++] = table->shape.dim[1];
    return EK_OK;
}

static ek_status embedding_lengths(const ek_node *node, const ek_lengths **lengths)
{
    const ek_lengths *carried = ek_node_lengths(node, 1);
    return carried ? ek_place_lengths(node, 1, carried->batch_axis, carried->time_axis, lengths) : EK_OK;
}

static const ek_op embedding = {.name = "embedding",
                                .infer = infer_embedding,
                                .forward = EK_BY_DTYPE(embedding_forward),
                                .backward = EK_BY_DTYPE(embedding_backward),
                                .flags = EK_OP_ADDS_GRADIENT,
                                .lengths = embedding_lengths};
const ek_op *const ek_op_embedding = &embedding;

ek_tensor *ek_embedding(ek_tape *tape, ek_tensor *table, ek_tensor *indices, int64_t padding_idx)
{
    return ek_apply(tape, ek_op_embedding, 2, (ek_tensor *[]){table, indices}, &padding_idx, sizeof padding_idx);
}
#endif
