/* From lengths to the order of rows. */
#include "sequence.h"

/* Sequences from the longest to the shortest, equal ones as they come (a counting sort), and how many have each
 * step. */
static void sort_by_length(const ek_lengths *lengths, int64_t steps, int64_t *by_length, int64_t *count, int64_t *first)
{
    memset(count, 0, (size_t)steps * sizeof *count);
    for (int64_t i = 0; i < lengths->n; i++)
        if (lengths->length[i] > 0)
            count[lengths->length[i] - 1]++;
    for (int64_t s = steps - 2; s >= 0; s--)
        count[s] += count[s + 1];
    first[0] = 0;
    for (int64_t s = 0; s < steps; s++) /* for now: where sequences of length s + 1 begin in by_length */
        first[s + 1] = s + 1 < steps ? count[s + 1] : 0;
    int64_t none = steps > 0 ? count[0] : 0; /* sequences without a step come last */
    for (int64_t i = 0; i < lengths->n; i++) {
        int64_t length = lengths->length[i];
        by_length[length > 0 ? first[length]++ : none++] = i;
    }
    for (int64_t s = 0; s < steps; s++)
        first[s + 1] = first[s] + count[s];
}

static bool fill_by_step(ek_tape *tape, ek_rows *rows, int64_t *sequence, int64_t *step)
{
    const ek_lengths *lengths = rows->lengths;
    for (int64_t i = 0; i < lengths->n; i++)
        rows->steps = lengths->length[i] > rows->steps ? lengths->length[i] : rows->steps;
    int64_t *memory = ek_tape_alloc(tape, (size_t)(lengths->n + 2 * rows->steps + 1) * sizeof *memory);
    if (!memory)
        return false;
    int64_t *count = memory, *first = memory + rows->steps, *by_length = first + rows->steps + 1;
    sort_by_length(lengths, rows->steps, by_length, count, first);
    for (int64_t s = 0, row = 0; s < rows->steps; s++)
        for (int64_t k = 0; k < count[s]; k++, row++) {
            int64_t i = by_length[k], at = rows->order == EK_ROWS_BY_STEP ? s : lengths->length[i] - 1 - s;
            sequence[row] = i;
            step[row] = lengths->step[lengths->start[i] + at];
        }
    rows->count = count;
    rows->first = first;
    rows->by_length = by_length;
    return true;
}

const ek_rows *ek_rows_make(ek_tape *tape, const ek_lengths *lengths, ek_row_order order)
{
    ek_rows *rows = ek_tape_alloc(tape, sizeof *rows);
    int64_t *sequence = rows ? ek_tape_alloc(tape, (size_t)(2 * lengths->total) * sizeof *sequence) : NULL;
    if (!sequence)
        return ek_tape_fail(tape);
    int64_t *step = sequence + lengths->total;
    *rows = (ek_rows){.lengths = lengths, .order = order, .carried = true, .sequence = sequence, .step = step};
    if (order != EK_ROWS_BY_SEQUENCE)
        return fill_by_step(tape, rows, sequence, step) ? rows : ek_tape_fail(tape);
    for (int64_t i = 0; i < lengths->n; i++)
        for (int64_t k = lengths->start[i]; k < lengths->start[i + 1]; k++) {
            sequence[k] = i;
            step[k] = lengths->step[k];
        }
    return rows;
}
