/* A loss of one's own, twice: put together from ops, and as an op with a backward written by hand; both go through the
 * gradient check, which also finds the mistake in a third version.
 *
 * The loss is Charbonnier's: mean of √(d² + ε²) over d = x − target, a smooth |d|.
 */
#include "common.h"

#include <math.h>
#include <stdlib.h>

static const double epsilon = 0.1;

/* ---- 1. from ops: backward comes by itself ----------------------------------------------------------------------- */

static ek_tensor *composed(ek_tape *tape, ek_tensor *const *in, void *user)
{
    (void)user;
    ek_tensor *d = ek_sub(tape, in[0], in[1]);
    ek_tensor *square = ek_affine(tape, ek_mul(tape, d, d), 1, epsilon * epsilon);
    return ek_mean(tape, ek_sqrt(tape, square), EK_ALL_AXES, false);
}

/* ---- 2. as an op: one pass forward, one backward ----------------------------------------------------------------- */

static ek_status loss_infer(const ek_node *node, ek_dtype *dtype, ek_shape *shape)
{
    if (ek_tensor_numel(node->in[0]) != ek_tensor_numel(node->in[1]))
        return ek_fail(EK_ERR_SHAPE, "charbonnier: expected as many targets as inputs, got %lld and %lld",
                       (long long)ek_tensor_numel(node->in[1]), (long long)ek_tensor_numel(node->in[0]));
    if (*dtype != EK_F64)
        return ek_fail(EK_ERR_DTYPE, "charbonnier: expected float64, got %s", ek_dtype_name(*dtype));
    *shape = EK_SCALAR;
    return EK_OK;
}

static ek_status loss_forward(ek_node *node)
{
    const double *x = ek_tensor_const_data(node->in[0]), *target = ek_tensor_const_data(node->in[1]);
    double *y = ek_tensor_data(node->out), sum = 0;
    const int64_t n = ek_tensor_numel(node->in[0]);
    for (int64_t i = 0; i < n; i++)
        sum += sqrt((x[i] - target[i]) * (x[i] - target[i]) + epsilon * epsilon);
    *y = sum / (double)n;
    return EK_OK;
}

/* d loss / dx = d/√(d² + ε²)/n, and the opposite for the target.  `slip` scales the target's gradient: 1 is right. */
static ek_status backward_with(ek_node *node, double slip)
{
    const double *x = ek_tensor_const_data(node->in[0]), *target = ek_tensor_const_data(node->in[1]);
    const double *dy = ek_node_grad_out(node);
    double *dx = ek_node_grad_in(node, 0), *dt = ek_node_grad_in(node, 1);
    const int64_t n = ek_tensor_numel(node->in[0]);
    for (int64_t i = 0; i < n; i++) {
        const double d = x[i] - target[i], slope = *dy * d / sqrt(d * d + epsilon * epsilon) / (double)n;
        if (dx)
            dx[i] = slope;
        if (dt)
            dt[i] = -slip * slope;
    }
    return EK_OK;
}

static ek_status loss_backward(ek_node *node)
{
    return backward_with(node, 1);
}

static ek_status wrong_backward(ek_node *node)
{
    return backward_with(node, 0.999);
}

static const ek_op charbonnier = {.name = "charbonnier",
                                  .infer = loss_infer,
                                  .forward = {loss_forward, loss_forward},
                                  .backward = {loss_backward, loss_backward}};
static const ek_op mistaken = {.name = "mistaken",
                               .infer = loss_infer,
                               .forward = {loss_forward, loss_forward},
                               .backward = {wrong_backward, wrong_backward}};

static ek_tensor *apply_op(ek_tape *tape, ek_tensor *const *in, void *op)
{
    return ek_apply(tape, op, 2, in, NULL, 0);
}

/* ---- the check --------------------------------------------------------------------------------------------------- */

static bool check(const char *what, ek_gradcheck_fn fn, const ek_op *op, ek_tensor **in)
{
    ek_gradcheck_result result = {0};
    const ek_status status = ek_gradcheck(fn, (void *)op, in, 2, NULL, &result);
    printf("%-24s %s: largest relative error %.1e over %lld derivatives\n", what, status == EK_OK ? "passes" : "FAILS ",
           result.error, (long long)result.checked);
    if (status != EK_OK)
        printf("  %s\n", ek_last_error());
    return status == EK_OK;
}

int main(int argc, char **argv)
{
    int64_t seed = 0;
    const option options[] = {{"seed", "N", OPTION_INT, &seed, 0, "of the random input"}};
    int status;
    if (!parse_options(argc, argv, "Checks the gradient of a loss of one's own.", options, 1, &status))
        return status;
    ek_rng rng = ek_rng_seed((uint64_t)seed);
    ek_tensor *in[2] = {ek_normal(EK_F64, EK_SHAPE(8, 5), 0, 1, &rng), ek_normal(EK_F64, EK_SHAPE(8, 5), 0, 1, &rng)};
    if (!in[0] || !in[1] || ek_tensor_set_requires_grad(in[0], true) != EK_OK ||
        ek_tensor_set_requires_grad(in[1], true) != EK_OK)
        return report_failure("own_loss");
    const bool ops = check("composed of ops", composed, NULL, in);
    const bool own = check("an op of one's own", apply_op, &charbonnier, in);
    const bool wrong = check("with a mistake of 0.1 %", apply_op, &mistaken, in);
    ek_tensor_free(in[0]);
    ek_tensor_free(in[1]);
    printf("\n%s\n", ops && own && !wrong ? "Both right versions pass at 1e-7 and the mistake is found."
                                          : "NOT as expected: see above.");
    return ops && own && !wrong ? EXIT_SUCCESS : EXIT_FAILURE;
}
