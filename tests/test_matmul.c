/* ek_matmul and ek_linear_op: values and gradients against loops over every index, threads, what they refuse. */
#include "support_ops.h"

#include <float.h>

typedef struct options {
    bool ta, tb;
} options;

static ek_tensor *call_matmul(ek_tape *t, ek_tensor *const *in, const void *user)
{
    const options *o = user;
    return ek_matmul(t, in[0], in[1], o->ta, o->tb);
}

static ek_tensor *call_linear(ek_tape *t, ek_tensor *const *in, const void *user)
{
    (void)user;
    return ek_linear_op(t, in[0], in[1], in[2]);
}

/* Sums of `k` products of numbers in [−1, 1], in any order: |error| ≤ γ_k·k, with one more rounding to spare
 * (Higham 2002, §3.1; u is half the epsilon). */
static double bound(ek_dtype dtype, int64_t k)
{
    double u = (dtype == EK_F32 ? FLT_EPSILON : DBL_EPSILON) / 2;
    return (double)(k + 1) * u / (1 - (double)(k + 1) * u) * (double)k;
}

/* Flat index of the element of a tensor of `shape` at `index`, whose last two axes are swapped if asked; axes of size 1
 * are broadcast. */
static int64_t at(ek_shape shape, const int64_t *index, int ndim, int64_t row, int64_t column, bool swapped)
{
    int64_t flat = 0;
    for (int i = 0; i < shape.ndim - 2; i++)
        flat = flat * shape.dim[i] + (shape.dim[i] == 1 ? 0 : index[ndim - shape.ndim + i]);
    flat = flat * shape.dim[shape.ndim - 2] + (swapped ? column : row);
    return flat * shape.dim[shape.ndim - 1] + (swapped ? row : column);
}

/* The result and both gradients by loops over (batch, m, n, k), in double. */
static void check_matmul(ek_dtype dtype, ek_shape sa, ek_shape sb, options o, ek_rng *rng)
{
    ek_tensor *in[2] = {random_leaf(dtype, sa, rng), random_leaf(dtype, sb, rng)};
    ek_tensor *y = run_op(call_matmul, in, 2, &o, NULL);
    ek_shape sy = ek_tensor_shape(y);
    ek_tensor *dy = ek_uniform(dtype, sy, -1, 1, rng);
    ek_tensor_free(y);
    y = run_op(call_matmul, in, 2, &o, dy);
    ek_tensor *wanted = ek_zeros(EK_F64, sy), *da = ek_zeros(EK_F64, sa), *db = ek_zeros(EK_F64, sb);
    int64_t m = sy.dim[sy.ndim - 2], n = sy.dim[sy.ndim - 1], k = sa.dim[sa.ndim - (o.ta ? 2 : 1)];
    int64_t total = ek_tensor_numel(y), index[8];
    for (int64_t flat = 0; flat < total; flat++) {
        int64_t rest = flat;
        for (int i = sy.ndim - 1; i >= 0; i--) {
            index[i] = rest % sy.dim[i];
            rest /= sy.dim[i];
        }
        int64_t row = index[sy.ndim - 2], column = index[sy.ndim - 1];
        for (int64_t q = 0; q < k; q++) {
            int64_t ia = at(sa, index, sy.ndim, row, q, o.ta), ib = at(sb, index, sy.ndim, q, column, o.tb);
            double a = ek_tensor_at(in[0], ia), b = ek_tensor_at(in[1], ib), d = ek_tensor_at(dy, flat);
            ek_data_f64(wanted)[flat] += a * b;
            ek_data_f64(da)[ia] += d * b;
            ek_data_f64(db)[ib] += d * a;
        }
    }
    int64_t batches = m * n > 0 ? total / (m * n) : 0;
    int64_t longest = (m > n ? m : n) * (batches > 1 ? batches : 1);
    assert_close("y", y, wanted, 0, bound(dtype, k));
    assert_close("da", ek_tensor_grad(in[0]), da, 0, bound(dtype, longest));
    assert_close("db", ek_tensor_grad(in[1]), db, 0, bound(dtype, longest));
    ek_tensor *all[] = {in[0], in[1], y, dy, wanted, da, db};
    for (int i = 0; i < 7; i++)
        ek_tensor_free(all[i]);
}

static ek_shape matrix_shape(ek_shape batch, int64_t rows, int64_t columns, bool swapped)
{
    batch.dim[batch.ndim++] = swapped ? columns : rows;
    batch.dim[batch.ndim++] = swapped ? rows : columns;
    return batch;
}

START_TEST(matmul_against_loops)
{
    static const int64_t sizes[][3] = {{1, 1, 1}, {5, 7, 3}, {20, 33, 17}, {0, 3, 2}, {3, 0, 2}, {3, 2, 0}};
    const ek_shape batches[][2] = {{EK_SCALAR, EK_SCALAR},
                                   {EK_SHAPE(3), EK_SHAPE(3)},
                                   {EK_SHAPE(2, 3), EK_SCALAR},
                                   {EK_SCALAR, EK_SHAPE(2, 3)},
                                   {EK_SHAPE(2, 1, 2), EK_SHAPE(3, 1)},
                                   {EK_SHAPE(1, 4), EK_SHAPE(4, 1)},
                                   {EK_SHAPE(0), EK_SHAPE(1)},
                                   {EK_SHAPE(1), EK_SHAPE(0)},
                                   {EK_SHAPE(2, 1, 1, 1, 2, 1), EK_SHAPE(1, 2, 2, 1)}};
    ek_rng rng = ek_rng_seed(1);
    for (int b = 0; b < 9; b++)
        for (int s = 0; s < 6; s++)
            for (int t = 0; t < 4; t++) {
                options o = {t & 1, t & 2};
                check_matmul(t % 2 ? EK_F32 : EK_F64, matrix_shape(batches[b][0], sizes[s][0], sizes[s][2], o.ta),
                             matrix_shape(batches[b][1], sizes[s][2], sizes[s][1], o.tb), o, &rng);
            }
}
END_TEST

/* Large enough that a single product of the batch is cut up by itself. */
START_TEST(matmul_of_large_matrices)
{
    ek_rng rng = ek_rng_seed(2);
    check_matmul(EK_F32, EK_SHAPE(2, 1, 150, 160), EK_SHAPE(2, 160, 140), (options){false, false}, &rng);
    check_matmul(EK_F64, EK_SHAPE(3000, 20), EK_SHAPE(3000, 40), (options){true, false}, &rng);
}
END_TEST

START_TEST(matmul_for_any_threads)
{
    const ek_shape shapes[][2] = {{EK_SHAPE(40, 30, 20), EK_SHAPE(20, 50)},
                                  {EK_SHAPE(64, 20, 30), EK_SHAPE(64, 30, 10)},
                                  {EK_SHAPE(1, 8, 30, 30), EK_SHAPE(9, 1, 30, 30)},
                                  {EK_SHAPE(200, 300), EK_SHAPE(300, 100)},
                                  {EK_SHAPE(2, 150, 160), EK_SHAPE(2, 160, 140)}};
    ek_rng rng = ek_rng_seed(3);
    for (int i = 0; i < 5; i++) {
        ek_tensor *in[2] = {random_leaf(EK_F32, shapes[i][0], &rng), random_leaf(EK_F32, shapes[i][1], &rng)};
        assert_same_for_any_threads("matmul", call_matmul, in, 2, &(options){false, false});
        ek_tensor_free(in[0]);
        ek_tensor_free(in[1]);
    }
}
END_TEST

/* linear(x, w, b) = x·wᵀ + b by loops. */
START_TEST(linear_against_loops)
{
    const ek_shape shapes[] = {EK_SHAPE(7), EK_SHAPE(5, 7), EK_SHAPE(2, 0, 7), EK_SHAPE(2, 3, 4, 7), EK_SHAPE(3000, 7),
                               EK_SHAPE(3, 0)};
    ek_rng rng = ek_rng_seed(4);
    for (int i = 0; i < 12; i++) {
        ek_dtype dtype = i & 1 ? EK_F32 : EK_F64;
        ek_shape sx = shapes[i / 2];
        int64_t k = sx.dim[sx.ndim - 1], n = 6;
        ek_tensor *in[3] = {random_leaf(dtype, sx, &rng), random_leaf(dtype, EK_SHAPE(n, k), &rng),
                            i % 3 ? random_leaf(dtype, EK_SHAPE(n), &rng) : NULL};
        ek_shape sy = sx;
        sy.dim[sx.ndim - 1] = n;
        ek_tensor *dy = ek_uniform(dtype, sy, -1, 1, &rng);
        ek_tape *t = ek_tape_new();
        ek_tensor *y = ek_linear_op(t, in[0], in[1], in[2]);
        ck_made(y);
        ck_ok(ek_backward_from(t, y, dy));
        ek_tensor *wanted = ek_zeros(EK_F64, sy), *dx = ek_zeros(EK_F64, sx), *dw = ek_zeros(EK_F64, EK_SHAPE(n, k));
        ek_tensor *db = ek_zeros(EK_F64, EK_SHAPE(n));
        int64_t m = ek_tensor_numel(y) / n;
        for (int64_t row = 0; row < m; row++)
            for (int64_t j = 0; j < n; j++) {
                double d = ek_tensor_at(dy, row * n + j), *sum = &ek_data_f64(wanted)[row * n + j];
                *sum = in[2] ? ek_tensor_at(in[2], j) : 0;
                ek_data_f64(db)[j] += d;
                for (int64_t q = 0; q < k; q++) {
                    *sum += ek_tensor_at(in[0], row * k + q) * ek_tensor_at(in[1], j * k + q);
                    ek_data_f64(dx)[row * k + q] += d * ek_tensor_at(in[1], j * k + q);
                    ek_data_f64(dw)[j * k + q] += d * ek_tensor_at(in[0], row * k + q);
                }
            }
        assert_close("y", y, wanted, 0, bound(dtype, k + 1));
        assert_close("dx", ek_tensor_grad(in[0]), dx, 0, bound(dtype, n));
        assert_close("dw", ek_tensor_grad(in[1]), dw, 0, bound(dtype, m));
        if (in[2])
            assert_close("db", ek_tensor_grad(in[2]), db, 0, bound(dtype, m));
        ek_tape_free(t);
        ek_tensor *all[] = {in[0], in[1], in[2], dy, wanted, dx, dw, db};
        for (int j = 0; j < 8; j++)
            ek_tensor_free(all[j]);
    }
}
END_TEST

START_TEST(linear_for_any_threads)
{
    ek_rng rng = ek_rng_seed(5);
    ek_tensor *in[3] = {random_leaf(EK_F32, EK_SHAPE(4000, 70), &rng), random_leaf(EK_F32, EK_SHAPE(30, 70), &rng),
                        random_leaf(EK_F32, EK_SHAPE(30), &rng)};
    assert_same_for_any_threads("linear", call_linear, in, 3, NULL);
    for (int i = 0; i < 3; i++)
        ek_tensor_free(in[i]);
}
END_TEST

static void refuses(op_call op, const char *text, ek_status status, ek_tensor *a, ek_tensor *b, ek_tensor *c,
                    const options *o)
{
    ek_tensor *in[3] = {a, b, c};
    assert_op_fails(status, text, op, in, op == call_linear ? 3 : 2, o);
    for (int i = 0; i < 3; i++)
        ek_tensor_free(in[i]);
}
#define F32(...) ek_ones(EK_F32, EK_SHAPE(__VA_ARGS__))

START_TEST(refused)
{
    options none = {false, false}, ta = {true, false};
    refuses(call_matmul, "matmul: expected two matrices or batches of them, got (3,) and (3, 2)", EK_ERR_SHAPE, F32(3),
            F32(3, 2), NULL, &none);
    refuses(call_matmul, "matmul: expected (…, M, K)·(…, K, N), got (2, 3) · (2, 3): 3 columns against 2 rows",
            EK_ERR_SHAPE, F32(2, 3), F32(2, 3), NULL, &none);
    refuses(call_matmul, "got (2, 3)ᵀ · (3, 3): 2 columns against 3 rows", EK_ERR_SHAPE, F32(2, 3), F32(3, 3), NULL,
            &ta);
    refuses(call_matmul, "matmul: (2,) and (3,) do not broadcast", EK_ERR_SHAPE, F32(2, 4, 4), F32(3, 4, 4), NULL,
            &none);
    refuses(call_matmul, "matmul: expected float32 or float64 for input 1, got int64", EK_ERR_DTYPE, F32(2, 2),
            ek_ones(EK_I64, EK_SHAPE(2, 2)), NULL, &none);
    refuses(call_matmul, "expected inputs of one float type", EK_ERR_DTYPE, F32(2, 2), ek_ones(EK_F64, EK_SHAPE(2, 2)),
            NULL, &none);
    refuses(call_linear, "linear: expected a weight of shape (out, in), got (3,)", EK_ERR_SHAPE, F32(2, 3), F32(3),
            NULL, &none);
    refuses(call_linear, "linear: expected an input of shape (…, 4) for a weight of shape (5, 4), got (2, 3)",
            EK_ERR_SHAPE, F32(2, 3), F32(5, 4), NULL, &none);
    refuses(call_linear, "linear: expected a bias of shape (5,) for a weight of shape (5, 3), got (3,)", EK_ERR_SHAPE,
            F32(2, 3), F32(5, 3), F32(3), &none);
    refuses(call_linear, "linear: expected float32 or float64 for input 0, got int64", EK_ERR_DTYPE,
            ek_ones(EK_I64, EK_SHAPE(2, 3)), F32(5, 3), NULL, &none);
}
END_TEST

int main(void)
{
    return RUN_TESTS("matmul", matmul_against_loops, matmul_of_large_matrices, matmul_for_any_threads,
                     linear_against_loops, linear_for_any_threads, refused);
}
