/* Convolution: values and gradients against loops over every index for many sizes and options, threads, errors. */
#include "support_ops.h"

#include <float.h>

/* Two-dimensional sizes; a one-dimensional case has h = kh = 1. */
typedef struct sizes {
    int64_t n, c, h, w, o, kh, kw;
    ek_conv_opts opts;
    bool one_d, bias;
} sizes;

static ek_tensor *call(ek_tape *t, ek_tensor *const *in, const void *user)
{
    const sizes *s = user;
    ek_conv_opts opts = s->opts;
    if (!s->one_d)
        return ek_conv2d(t, in[0], in[1], in[2], &opts);
    opts.stride[0] = opts.stride[1];
    opts.padding[0] = opts.padding[1];
    opts.dilation[0] = opts.dilation[1];
    opts.stride[1] = opts.padding[1] = opts.dilation[1] = -7; /* must not be looked at */
    return ek_conv1d(t, in[0], in[1], in[2], &opts);
}

/* Sums of at most `terms` products of numbers in [−1, 1], in any order: |error| ≤ γ·terms, γ = (terms + 2)·u; one
 * rounding more for a bias and one for the last conversion (Higham 2002, §3.1; u is half the epsilon). */
static double bound(ek_dtype dtype, int64_t terms)
{
    double u = (dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON) / 2;
    return (double)(terms + 2) * u * (double)(terms + 1);
}

static ek_tensor *wide_zeros(const ek_tensor *like)
{
    ek_tensor *x = ek_zeros(EK_F64, ek_tensor_shape(like));
    ck_made(x);
    return x;
}

static int64_t out_size(int64_t in, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation)
{
    int64_t room = in + 2 * padding - dilation * (kernel - 1) - 1;
    ck_assert_int_ge(room, 0);
    return room / stride + 1;
}

/* Adds every product of the definition to y, dx and dw. */
static void by_loops(const sizes *s, int64_t oh, int64_t ow, ek_tensor *const *in, const ek_tensor *dy, double *y,
                     double *dx, double *dw)
{
    int64_t cg = s->c / s->opts.groups, og = s->o / s->opts.groups;
    for (int64_t n = 0; n < s->n; n++)
        for (int64_t o = 0; o < s->o; o++)
            for (int64_t i = 0; i < oh; i++)
                for (int64_t j = 0; j < ow; j++)
                    for (int64_t c = 0; c < cg; c++)
                        for (int64_t a = 0; a < s->kh; a++)
                            for (int64_t b = 0; b < s->kw; b++) {
                                int64_t row = i * s->opts.stride[0] - s->opts.padding[0] + a * s->opts.dilation[0];
                                int64_t column = j * s->opts.stride[1] - s->opts.padding[1] + b * s->opts.dilation[1];
                                if (row < 0 || row >= s->h || column < 0 || column >= s->w)
                                    continue;
                                int64_t at_x = ((n * s->c + o / og * cg + c) * s->h + row) * s->w + column;
                                int64_t at_w = ((o * cg + c) * s->kh + a) * s->kw + b;
                                int64_t at_y = ((n * s->o + o) * oh + i) * ow + j;
                                double x = ek_tensor_at(in[0], at_x), w = ek_tensor_at(in[1], at_w);
                                y[at_y] += x * w;
                                dx[at_x] += ek_tensor_at(dy, at_y) * w;
                                dw[at_w] += ek_tensor_at(dy, at_y) * x;
                            }
}

static void make_inputs(const sizes *s, ek_dtype dtype, ek_rng *rng, ek_tensor **in)
{
    int64_t cg = s->c / s->opts.groups;
    in[0] = random_leaf(dtype, s->one_d ? EK_SHAPE(s->n, s->c, s->w) : EK_SHAPE(s->n, s->c, s->h, s->w), rng);
    in[1] = random_leaf(dtype, s->one_d ? EK_SHAPE(s->o, cg, s->kw) : EK_SHAPE(s->o, cg, s->kh, s->kw), rng);
    in[2] = s->bias ? random_leaf(dtype, EK_SHAPE(s->o), rng) : NULL;
}

static void check(const sizes *s, ek_dtype dtype, ek_rng *rng)
{
    int64_t oh = out_size(s->h, s->kh, s->opts.stride[0], s->opts.padding[0], s->opts.dilation[0]);
    int64_t ow = out_size(s->w, s->kw, s->opts.stride[1], s->opts.padding[1], s->opts.dilation[1]);
    ek_shape sy = s->one_d ? EK_SHAPE(s->n, s->o, ow) : EK_SHAPE(s->n, s->o, oh, ow);
    ek_tensor *in[3], *dy = ek_uniform(dtype, sy, -1, 1, rng);
    make_inputs(s, dtype, rng, in);
    ek_tape *t = ek_tape_new();
    ek_tensor *y = call(t, in, s);
    ck_made(y);
    ck_ok(ek_backward_from(t, y, dy));
    ek_tensor *wanted = wide_zeros(dy), *dx = wide_zeros(in[0]), *dw = wide_zeros(in[1]);
    ek_tensor *db = ek_zeros(EK_F64, EK_SHAPE(s->o));
    for (int64_t i = 0; i < ek_tensor_numel(dy); i++) {
        int64_t o = i / (oh * ow) % s->o;
        ek_data_f64(wanted)[i] = s->bias ? ek_tensor_at(in[2], o) : 0;
        ek_data_f64(db)[o] += ek_tensor_at(dy, i);
    }
    by_loops(s, oh, ow, in, dy, ek_data_f64(wanted), ek_data_f64(dx), ek_data_f64(dw));
    int64_t taps = s->kh * s->kw, pixels = s->n * oh * ow;
    assert_close("y", y, wanted, 0, bound(dtype, s->c / s->opts.groups * taps));
    assert_close("dx", ek_tensor_grad(in[0]), dx, 0, bound(dtype, s->o / s->opts.groups * taps));
    assert_close("dw", ek_tensor_grad(in[1]), dw, 0, bound(dtype, pixels));
    if (s->bias)
        assert_close("db", ek_tensor_grad(in[2]), db, 0, bound(dtype, pixels));
    ek_tape_free(t);
    ek_tensor *all[] = {in[0], in[1], in[2], dy, wanted, dx, dw, db};
    for (int i = 0; i < 8; i++)
        ek_tensor_free(all[i]);
}

START_TEST(random_options)
{
    ek_rng rng = ek_rng_seed(1);
    for (int i = 0; i < 150; i++) {
        int64_t groups = 1 + ek_rng_below(&rng, 4);
        sizes s = {.n = ek_rng_below(&rng, 4), .c = groups * (1 + ek_rng_below(&rng, 3)),
                   .o = groups * (1 + ek_rng_below(&rng, 3)), .kh = 1 + ek_rng_below(&rng, 3),
                   .kw = 1 + ek_rng_below(&rng, 4), .one_d = i % 3 == 0, .bias = i % 2};
        s.opts = (ek_conv_opts){{1 + ek_rng_below(&rng, 4), 1 + ek_rng_below(&rng, 3)},
                                {ek_rng_below(&rng, 4), ek_rng_below(&rng, 5)},
                                {1 + ek_rng_below(&rng, 2), 1 + ek_rng_below(&rng, 3)},
                                groups, false};
        s.h = s.opts.dilation[0] * (s.kh - 1) + 1 + ek_rng_below(&rng, 6);
        s.w = s.opts.dilation[1] * (s.kw - 1) + 1 + ek_rng_below(&rng, 20);
        if (s.one_d) {
            s.h = s.kh = s.opts.stride[0] = s.opts.dilation[0] = 1;
            s.opts.padding[0] = 0;
        }
        check(&s, i % 4 < 2 ? EK_F32 : EK_F64, &rng);
    }
}
END_TEST

/* More channels, samples and pixels: whole tiles and the rest of one, several samples side by side, planes that are
 * shared between the gradients, taps with planes of their own. */
START_TEST(random_sizes)
{
    static const int64_t batch[] = {1, 2, 5, 9}, channels[] = {1, 2, 3, 8, 10, 17}, kernel[] = {1, 2, 3, 3, 5, 7};
    ek_rng rng = ek_rng_seed(5);
    for (int i = 0; i < 120; i++) {
        sizes s;
        do {
            const int64_t groups = ek_rng_below(&rng, 3) ? 1 : 2, side = kernel[ek_rng_below(&rng, 6)];
            s = (sizes){.n = batch[ek_rng_below(&rng, 4)], .c = groups * channels[ek_rng_below(&rng, 6)],
                        .o = groups * (1 + ek_rng_below(&rng, 40)), .kh = side, .kw = side, .one_d = i % 5 == 0,
                        .bias = i % 2};
            const int64_t stride = 1 + ek_rng_below(&rng, 3) / 2 * (1 + ek_rng_below(&rng, 2));
            s.opts = (ek_conv_opts){{stride, stride},
                                    {ek_rng_below(&rng, side + 1), ek_rng_below(&rng, side + 1)},
                                    {1 + ek_rng_below(&rng, 4) / 3, 1 + ek_rng_below(&rng, 4) / 3},
                                    groups, false};
            s.h = s.opts.dilation[0] * (side - 1) + 1 + ek_rng_below(&rng, 18);
            s.w = s.opts.dilation[1] * (side - 1) + 1 + ek_rng_below(&rng, s.one_d ? 300 : 20);
            if (s.one_d) {
                s.h = s.kh = s.opts.stride[0] = s.opts.dilation[0] = 1;
                s.opts.padding[0] = 0;
            }
        } while ((double)(s.n * s.c / s.opts.groups * s.o * s.kh * s.kw) * (double)(s.h * s.w) > 4e5);
        check(&s, i % 4 < 2 ? EK_F32 : EK_F64, &rng);
    }
}
END_TEST

#define PLAIN {{1, 1}, {0, 0}, {1, 1}, 1, false}
#define SAME {{1, 1}, {1, 1}, {1, 1}, 1, false}
#define SAME_1D {{1, 1}, {0, 1}, {1, 1}, 1, false}

START_TEST(special_shapes)
{
    static const sizes list[] = {
        {.n = 0, .c = 2, .h = 4, .w = 4, .o = 3, .kh = 3, .kw = 3, .opts = PLAIN, .bias = true}, /* an empty batch */
        {.n = 2, .c = 0, .h = 4, .w = 4, .o = 3, .kh = 3, .kw = 3, .opts = PLAIN, .bias = true}, /* y = b */
        {.n = 2, .c = 3, .h = 4, .w = 4, .o = 0, .kh = 3, .kw = 3, .opts = PLAIN, .bias = true},
        {.n = 1, .c = 1, .h = 1, .w = 1, .o = 1, .kh = 1, .kw = 1, .opts = PLAIN, .bias = true},
        {.n = 2, .c = 1, .h = 5, .w = 5, .o = 2, .kh = 5, .kw = 5, .opts = PLAIN, .bias = true}, /* one pixel out */
        {.n = 2, .c = 1, .h = 1, .w = 1, .o = 2, .kh = 3, .kw = 3, .opts = SAME, .bias = true},  /* mostly padding */
        {.n = 1, .c = 1, .h = 2, .w = 2, .o = 1, .kh = 1, .kw = 1, .opts = {{1, 1}, {3, 3}, {1, 1}, 1, false}},
        {.n = 3, .c = 2, .h = 9, .w = 11, .o = 2, .kh = 2, .kw = 2, .opts = {{5, 4}, {1, 0}, {1, 1}, 1, false}},
        {.n = 3, .c = 70, .h = 60, .w = 30, .o = 5, .kh = 3, .kw = 3, .opts = SAME, .bias = true}, /* many strips */
        {.n = 40, .c = 3, .h = 12, .w = 12, .o = 20, .kh = 3, .kw = 3, .opts = SAME, .bias = true}, /* many chunks */
        {.n = 40, .c = 20, .h = 12, .w = 12, .o = 20, .kh = 1, .kw = 1, .opts = PLAIN, .bias = true},
        {.n = 4, .c = 8, .h = 20, .w = 70, .o = 8, .kh = 3, .kw = 3, .opts = {{1, 1}, {1, 1}, {1, 1}, 8, false}},
        {.n = 2, .c = 40, .w = 9000, .o = 2, .h = 1, .kh = 1, .kw = 3, .opts = SAME_1D, .one_d = true}, /* cut lines */
        {.n = 1, .c = 1, .w = 70000, .o = 6, .h = 1, .kh = 1, .kw = 3,
         .opts = SAME_1D, .one_d = true}, /* of few taps */
        {.n = 2, .c = 1, .h = 300, .w = 80, .o = 19, .kh = 3, .kw = 2, .opts = {{2, 1}, {1, 0}, {1, 2}, 1, false}},
        {.n = 3, .c = 1, .h = 16, .w = 16, .o = 24, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 9, .c = 2, .h = 4, .w = 4, .o = 40, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 2, .c = 70, .h = 7, .w = 7, .o = 9, .kh = 3, .kw = 3, .opts = SAME}, /* more taps than a block */
        {.n = 2, .c = 4, .h = 2, .w = 9, .o = 4, .kh = 2, .kw = 2, .opts = {{5, 3}, {1, 2}, {1, 1}, 2, false}},
        {.n = 2, .c = 6, .h = 9, .w = 9, .o = 6, .kh = 5, .kw = 3,
         .opts = {{2, 2}, {2, 4}, {1, 2}, 6, false}, .bias = true}};
    ek_rng rng = ek_rng_seed(2);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        check(&list[i], EK_F32, &rng);
        check(&list[i], EK_F64, &rng);
    }
}
END_TEST

START_TEST(any_threads)
{
    static const sizes list[] = {
        {.n = 33, .c = 3, .h = 14, .w = 14, .o = 16, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 2, .c = 70, .h = 60, .w = 30, .o = 5, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 16, .c = 30, .h = 20, .w = 20, .o = 20, .kh = 1, .kw = 1, .opts = PLAIN, .bias = true},
        {.n = 16, .c = 8, .h = 30, .w = 40, .o = 8, .kh = 3, .kw = 3, .opts = {{1, 1}, {1, 1}, {1, 1}, 8, false}},
        {.n = 16, .c = 8, .h = 20, .w = 20, .o = 16, .kh = 3, .kw = 3, .opts = {{2, 2}, {1, 1}, {1, 1}, 4, false}},
        {.n = 1, .c = 40, .h = 20, .w = 20, .o = 50, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 2, .c = 33, .h = 28, .w = 28, .o = 70, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 5, .c = 20, .h = 14, .w = 14, .o = 30, .kh = 3, .kw = 3, .opts = {{2, 2}, {1, 1}, {1, 1}, 1, false}},
        {.n = 37, .c = 1, .h = 28, .w = 28, .o = 32, .kh = 3, .kw = 3, .opts = SAME, .bias = true},
        {.n = 5, .c = 64, .h = 7, .w = 7, .o = 64, .kh = 3, .kw = 3, .opts = SAME, .bias = true}};
    ek_rng rng = ek_rng_seed(3);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        ek_tensor *in[3];
        make_inputs(&list[i], EK_F32, &rng, in);
        assert_same_for_any_threads("convolution", call, in, list[i].bias ? 3 : 2, &list[i]);
        for (int k = 0; k < 3; k++)
            ek_tensor_free(in[k]);
    }
}
END_TEST

/* Only the gradients that are asked for are made, and a frozen weight does not stop the others. */
START_TEST(some_gradients)
{
    sizes s = {.n = 2, .c = 2, .h = 5, .w = 5, .o = 3, .kh = 3, .kw = 3, .opts = SAME, .bias = true};
    ek_rng rng = ek_rng_seed(4);
    ek_tensor *in[3], *full[3];
    make_inputs(&s, EK_F64, &rng, in);
    ek_tensor_free(run_op(call, in, 3, &s, NULL));
    for (int i = 0; i < 3; i++)
        full[i] = ek_tensor_clone(ek_tensor_grad(in[i]));
    for (int wanted = 0; wanted < 3; wanted++) {
        for (int i = 0; i < 3; i++) {
            ek_tensor_clear_grad(in[i]);
            ck_ok(ek_tensor_set_requires_grad(in[i], i == wanted));
        }
        ek_tensor_free(run_op(call, in, 3, &s, NULL));
        for (int i = 0; i < 3; i++)
            ck_assert(i == wanted ? ek_tensor_equal(ek_tensor_grad(in[i]), full[i]) : !ek_tensor_grad(in[i]));
    }
    for (int i = 0; i < 3; i++) {
        ek_tensor_free(in[i]);
        ek_tensor_free(full[i]);
    }
}
END_TEST

typedef struct refusal {
    ek_status status;
    const char *text;
    ek_shape x, w, b; /* b.ndim < 0: none */
    ek_conv_opts opts;
} refusal;

static ek_tensor *call_refused(ek_tape *t, ek_tensor *const *in, const void *user)
{
    const refusal *r = user;
    return strstr(r->text, "conv1d") ? ek_conv1d(t, in[0], in[1], in[2], &r->opts)
                                     : ek_conv2d(t, in[0], in[1], in[2], &r->opts);
}

START_TEST(refused)
{
    const ek_shape x = EK_SHAPE(2, 4, 5, 6), w = EK_SHAPE(6, 4, 3, 3), none = {.ndim = -1};
    const ek_conv_opts plain = ek_conv_opts_default();
    const refusal list[] = {
        {EK_ERR_SHAPE, "conv2d: expected an input (N, C, H, W), got (4, 5, 6)", EK_SHAPE(4, 5, 6), w, none, plain},
        {EK_ERR_SHAPE, "conv1d: expected an input (N, C, L), got (2, 4, 5, 6)", x, EK_SHAPE(6, 4, 3), none, plain},
        {EK_ERR_SHAPE, "conv2d: expected a weight (O, C/groups, KH, KW), got (6, 4, 3)", x, EK_SHAPE(6, 4, 3), none,
         plain},
        {EK_ERR_SHAPE, "conv1d: expected a weight (O, C/groups, K), got (6, 4)", EK_SHAPE(2, 4, 6), EK_SHAPE(6, 4),
         none, plain},
        {EK_ERR_SHAPE, "conv2d: expected a weight (O, C/groups, KH, KW) with C/groups = 4/1 = 4, got (6, 3, 3, 3) for "
                       "the input (2, 4, 5, 6)", x, EK_SHAPE(6, 3, 3, 3), none, plain},
        {EK_ERR_SHAPE, "with C/groups = 4/2 = 2, got (6, 4, 3, 3)", x, w, none, {{1, 1}, {0, 0}, {1, 1}, 2, false}},
        {EK_ERR_ARGUMENT, "conv2d: expected at least 1 group, got 0", x, w, none, {{1, 1}, {0, 0}, {1, 1}, 0, false}},
        {EK_ERR_SHAPE, "conv2d: expected numbers of input and output channels that 3 groups divide, got 4 and 6", x, w,
         none, {{1, 1}, {0, 0}, {1, 1}, 3, false}},
        {EK_ERR_SHAPE, "that 4 groups divide, got 4 and 6", x, EK_SHAPE(6, 1, 3, 3), none,
         {{1, 1}, {0, 0}, {1, 1}, 4, false}},
        {EK_ERR_SHAPE, "conv2d: expected a bias of shape (6,) for a weight of shape (6, 4, 3, 3), got (4,)", x, w,
         EK_SHAPE(4), plain},
        {EK_ERR_SHAPE, "conv2d: the kernel spans 5 (size 3, dilation 2), more than the width of 4 with padding 0 on "
                       "both sides: pad more, or take a smaller kernel", EK_SHAPE(1, 4, 5, 4), w, none,
         {{1, 1}, {0, 0}, {2, 2}, 1, false}},
        {EK_ERR_SHAPE, "more than the height of 0 with padding 1", EK_SHAPE(1, 4, 0, 4), w, none,
         {{1, 1}, {1, 1}, {1, 1}, 1, false}},
        {EK_ERR_SHAPE, "conv1d: the kernel spans 3 (size 3, dilation 1), more than the length of 2", EK_SHAPE(1, 4, 2),
         EK_SHAPE(6, 4, 3), none, plain},
        {EK_ERR_ARGUMENT, "conv2d: expected a kernel size of 1 … 2147483647 for the width, got 0", x,
         EK_SHAPE(6, 4, 3, 0), none, plain},
        {EK_ERR_ARGUMENT, "conv2d: expected a stride of 1 … 2147483647 for the height, got 0", x, w, none,
         {{0, 1}, {0, 0}, {1, 1}, 1, false}},
        {EK_ERR_ARGUMENT, "conv2d: expected a padding of 0 … 2147483647 for the width, got -1", x, w, none,
         {{1, 1}, {0, -1}, {1, 1}, 1, false}},
        {EK_ERR_ARGUMENT, "conv2d: expected a dilation of 1 … 2147483647 for the height, got 0", x, w, none,
         {{1, 1}, {0, 0}, {0, 1}, 1, false}},
        {EK_ERR_ARGUMENT, "conv2d: expected a dilation of 1 … 2147483647 for the height, got 4294967296", x, w, none,
         {{1, 1}, {0, 0}, {(int64_t)1 << 32, 1}, 1, false}}};
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        const refusal *r = &list[i];
        ek_tensor *in[3] = {ek_ones(EK_F32, r->x), ek_ones(EK_F32, r->w),
                            r->b.ndim < 0 ? NULL : ek_ones(EK_F32, r->b)};
        assert_op_fails(r->status, r->text, call_refused, in, 3, r);
        for (int k = 0; k < 3; k++)
            ek_tensor_free(in[k]);
    }
    refusal types = {EK_ERR_DTYPE, "conv2d: expected float32 or float64 for input 0, got int64", x, w, none, plain};
    ek_tensor *in[3] = {ek_ones(EK_I64, x), ek_ones(EK_F32, w), NULL};
    assert_op_fails(types.status, types.text, call_refused, in, 3, &types);
    ek_tensor_free(in[0]);
    ek_tensor_free(in[1]);
}
END_TEST

int main(void)
{
    return RUN_TESTS("conv", random_options, random_sizes, special_shapes, any_threads, some_gradients, refused);
}
