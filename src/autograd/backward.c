/* The walk back over the tape. */
#include "tape.h"

/* dst += src over a range of elements. */
typedef struct sum_arguments {
    ek_dtype dtype;
    void *dst;
    const void *src;
} sum_arguments;

static void add_range(void *context, int64_t begin, int64_t end)
{
    const sum_arguments *sum = context;
    if (sum->dtype == EK_F32) {
        float *dst = sum->dst;
        const float *src = sum->src;
        for (int64_t i = begin; i < end; i++)
            dst[i] += src[i];
    } else {
        double *dst = sum->dst;
        const double *src = sum->src;
        for (int64_t i = begin; i < end; i++)
            dst[i] += src[i];
    }
}

static void add_grad(ek_tensor *x, const void *src)
{
    sum_arguments sum = {x->dtype, x->grad_data, src};
    ek_parallel_for(x->numel, EK_GRAIN, add_range, &sum);
}

/* Gives x a gradient buffer for its first contribution. */
static ek_status start_grad(ek_tape *tape, ek_tensor *x)
{
    if (!x->tape) {
        if (ek_tensor_need_grad_buffer(x) != EK_OK)
            return EK_ERR_MEMORY;
    } else {
        x->grad_data = ek_pool_alloc(tape, ek_tensor_bytes(x));
        if (!x->grad_data)
            return EK_ERR_MEMORY;
    }
    x->has_grad = true;
    return EK_OK;
}

const void *ek_node_grad_out(const ek_node *node)
{
    return ek_node_there(node, "node_grad_out") ? node->out->grad_data : NULL;
}

void *ek_node_grad_out_to_change(ek_node *node)
{
    /* The walk holds it for this op alone, and gives it back when the op is done. */
    return node->out->grad_is_borrowed ? ek_node_scratch(node, ek_tensor_bytes(node->out)) : node->out->grad_data;
}

/* The first contribution to a gradient is written in place.  A later one goes to memory of its own and is added when
 * the op is done, so no kernel has to know which it is, and f(x, x) needs no care. */
void *ek_node_grad_in(ek_node *node, int i)
{
    if (!ek_node_there(node, "node_grad_in"))
        return NULL;
    ek_record *record = (ek_record *)node;
    ek_tensor *x = i >= 0 && i < node->n_in ? node->in[i] : NULL;
    if (!x || !x->requires_grad)
        return NULL;
    if (record->grad_in[i])
        return record->grad_in[i];
    bool adds = node->op->flags & EK_OP_ADDS_GRADIENT;
    if (!x->has_grad) {
        if (start_grad(node->tape, x) == EK_OK) {
            record->grad_in[i] = x->grad_data;
            if (adds)
                memset(x->grad_data, 0, ek_tensor_bytes(x));
        }
    } else {
        record->grad_in[i] = adds ? x->grad_data : ek_node_scratch(node, ek_tensor_bytes(x));
    }
    record->out_of_memory |= !record->grad_in[i];
    return record->grad_in[i];
}

void *ek_node_grad_over_input(ek_node *node, int i)
{
    ek_tensor *x = node->in[i];
    if (!x || !x->tape || !x->requires_grad || x->has_grad)
        return ek_node_grad_in(node, i);
    x->grad_data = x->data;
    x->has_grad = x->grad_is_borrowed = true;
    return ((ek_record *)node)->grad_in[i] = x->grad_data;
}

ek_status ek_node_pass_grad(ek_node *node, int i)
{
    ek_record *record = (ek_record *)node;
    ek_tensor *x = node->in[i], *y = node->out;
    if (!x || !x->requires_grad)
        return EK_OK;
    if (x->has_grad) {
        add_grad(x, y->grad_data); /* also right when x took this very buffer before: x + x doubles it */
    } else if (x->tape && !record->passed && !y->grad_is_borrowed) {
        x->grad_data = y->grad_data;
        x->has_grad = true;
        record->passed = true;
    } else {
        if (start_grad(node->tape, x) != EK_OK)
            return EK_ERR_MEMORY;
        memcpy(x->grad_data, y->grad_data, ek_tensor_bytes(x));
    }
    return EK_OK;
}

void ek_tape_hook(ek_tensor *t, ek_hook *hook)
{
    if (t->record) {
        hook->next = t->record->hooks;
        t->record->hooks = hook;
    }
}

/* Gives back everything the walk holds for the output of one op. */
static void release_record(ek_record *record)
{
    ek_node *node = &record->node;
    ek_release_scratch(record);
    if (!record->passed && !node->out->grad_is_borrowed)
        ek_pool_free(node->tape, node->out->grad_data);
    node->out->grad_data = NULL;
    node->out->has_grad = node->out->grad_is_borrowed = false;
    ek_pool_free(node->tape, node->saved);
    node->saved = NULL;
}

/* The inputs are still of the type that the forward saw. */
static ek_status check_types(const ek_record *record)
{
    for (int i = 0; i < record->node.n_in; i++) {
        const ek_tensor *x = record->node.in[i];
        if (x && x->dtype != EK_I64 && x->dtype != record->real)
            return ek_fail(EK_ERR_STATE,
                           "backward: %s: input %d was %s in the forward and is %s now; call ek_module_to() "
                           "while no tape holds a forward of the module",
                           record->node.op->name, i, ek_dtype_name(record->real), ek_dtype_name(x->dtype));
    }
    return EK_OK;
}

static ek_status backward_record(ek_record *record)
{
    ek_node *node = &record->node;
    ek_tensor *y = node->out;
    if (record->hooks) {
        ek_tensor gradient = {.dtype = y->dtype, .shape = y->shape, .numel = y->numel, .data = y->grad_data,
                              .tape = node->tape};
        for (const ek_hook *hook = record->hooks; hook; hook = hook->next)
            hook->call(hook, &gradient);
    }
    ek_status status = check_types(record);
    if (status == EK_OK) {
        uint64_t errors = ek_error_count();
        status = ek_op_result(node->op, "backward", node->op->backward[record->real](node), errors);
    }
    if (status == EK_OK && record->out_of_memory)
        status = EK_ERR_MEMORY;
    for (int i = 0; status == EK_OK && i < node->n_in; i++)
        if (record->grad_in[i] && record->grad_in[i] != node->in[i]->grad_data)
            add_grad(node->in[i], record->grad_in[i]);
    release_record(record);
    return status;
}

static ek_status backward_check(ek_tape *tape, const ek_tensor *y)
{
    if (!ek_tape_usable(tape, "backward"))
        return ek_last_status();
    if (!y)
        return ek_fail_null(EK_ERR_ARGUMENT, "backward", "tensor");
    if (!tape->recording)
        return ek_fail(EK_ERR_STATE, "backward: the tape does not record; ek_tape_set_recording(tape, true)");
    if (tape->backward_done)
        return ek_fail(EK_ERR_STATE, "backward: one backward per recording; ek_tape_reset() and run the forward again");
    if (y->tape && y->tape != tape)
        return ek_fail(EK_ERR_STATE, "backward: the tensor belongs to another tape");
    if (!y->record && !y->tape && y->requires_grad)
        return ek_fail(EK_ERR_STATE, "backward: the tensor is a leaf itself, not the result of an op of this tape");
    if (!y->record)
        return ek_fail(EK_ERR_STATE, "backward: the tensor does not depend on any leaf that requires a gradient");
    return EK_OK;
}

/* Walks the tape backward from y, whose gradient is set. */
static ek_status walk(ek_tape *tape, ek_tensor *y)
{
    ek_status status = EK_OK;
    y->has_grad = true;
    tape->backward_done = true;
    for (ek_record *record = tape->last; status == EK_OK && record; record = record->previous)
        if (record->node.out->has_grad)
            status = backward_record(record);
    if (status != EK_OK) /* half a gradient is worse than none */
        for (ek_record *record = tape->last; record; record = record->previous)
            for (int i = 0; i < record->node.n_in; i++)
                ek_tensor_clear_grad(record->node.in[i]);
    return status;
}

ek_status ek_backward(ek_tape *tape, ek_tensor *loss)
{
    ek_status status = backward_check(tape, loss);
    if (status != EK_OK)
        return status;
    if (loss->numel != 1)
        return ek_fail(EK_ERR_SHAPE,
                       "backward: expected a loss of one element, got %s; reduce it, or give its gradient "
                       "to ek_backward_from()",
                       EK_TEXT(loss->shape));
    status = start_grad(tape, loss);
    if (status != EK_OK)
        return status;
    if (loss->dtype == EK_F32)
        *(float *)loss->grad_data = 1;
    else
        *(double *)loss->grad_data = 1;
    return walk(tape, loss);
}

/* Is this the memory of a leaf's gradient that the walk may write to? */
static bool is_gradient_of_input(const ek_tape *tape, const void *data)
{
    for (const ek_record *record = tape->last; record; record = record->previous)
        for (int i = 0; i < record->node.n_in; i++)
            if (record->node.in[i] && record->node.in[i]->grad_data == data)
                return true;
    return false;
}

ek_status ek_backward_from(ek_tape *tape, ek_tensor *y, const ek_tensor *dy)
{
    ek_status status = backward_check(tape, y);
    if (status != EK_OK)
        return status;
    if (!dy)
        return ek_fail(EK_ERR_ARGUMENT, "backward: the gradient to start from is NULL");
    if (dy->dtype != y->dtype || !ek_shape_equal(dy->shape, y->shape))
        return ek_fail(EK_ERR_SHAPE, "backward: expected a gradient of %s %s, got %s %s", ek_dtype_name(y->dtype),
                       EK_TEXT(y->shape), ek_dtype_name(dy->dtype), EK_TEXT(dy->shape));
    if (is_gradient_of_input(tape, dy->data)) { /* which the walk is about to change */
        status = start_grad(tape, y);
        if (status != EK_OK)
            return status;
        memcpy(y->grad_data, dy->data, ek_tensor_bytes(y));
        return walk(tape, y);
    }
    /* Used in place: nothing adds to the gradient of the tensor where the walk starts, and const is shed only to fit
     * the field. */
    y->grad_data = (void *)dy->data;
    y->grad_is_borrowed = true;
    return walk(tape, y);
}
