/* Where the strips of a padded tensor are. */
#include "strips.h"

ek_strips ek_strips_of(ek_shape shape, int time_axis, const ek_lengths *lengths)
{
    const int batch_axis = lengths ? lengths->batch_axis : -1;
    ek_strips strips = {.lengths = lengths, .count = 1, .steps = shape.dim[time_axis], .width = 1, .stride = 1,
                        .side_by_side = 1, .per_sequence = 1, .runs = time_axis == shape.ndim - 1};
    for (int axis = 0; axis < shape.ndim; axis++) {
        if (axis < time_axis) {
            strips.count *= shape.dim[axis];
            strips.per_sequence *= axis > batch_axis ? shape.dim[axis] : 1;
        } else if (axis > time_axis) {
            strips.stride *= shape.dim[axis];
            *(axis <= batch_axis ? &strips.side_by_side : &strips.width) *= shape.dim[axis];
        }
    }
    if (batch_axis > time_axis)
        strips.per_sequence = 1;
    strips.count *= strips.side_by_side;
    strips.grain = EK_GRAIN / (strips.steps * strips.width + 1) + 1;
    return strips;
}

ek_strip ek_strip_at(const ek_strips *strips, int64_t index)
{
    const int64_t outer = index / strips->side_by_side, beside = index % strips->side_by_side * strips->width;
    const ek_lengths *lengths = strips->lengths;
    ek_strip strip = {.begin = outer * strips->steps * strips->stride + beside,
                      .place = outer * strips->stride + beside, .length = strips->steps};
    if (lengths) {
        int64_t sequence = index / strips->per_sequence % lengths->n;
        strip.length = lengths->length[sequence];
        strip.step = lengths->step + lengths->start[sequence];
    }
    return strip;
}
