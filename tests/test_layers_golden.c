/* Linear, convolution, pooling, activation, softmax, flatten, embedding and residual layers, with every option,
 * against PyTorch 1.13.1: output, gradients of input and parameters.  Dropout's masks cannot agree with PyTorch's: only
 * p = 0 is here.  Cases: golden_layers.def.  Tolerance and its reason: support_golden.h. */
#include "support_golden.h"

#define CASE(name, condition, ...)                                                                                     \
    static ek_module *make_##name(void)                                                                                \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#include "golden_layers.def"
#undef CASE

#define CASE(name, condition, ...) {#name, condition, make_##name, NULL},
static const golden_case cases[] = {
#include "golden_layers.def"
};

GOLDEN_TESTS(layers, "layers.npz", cases)

int main(void)
{
    Suite *suite = suite_create("layers_golden");
    TCase *tcase = tcase_create("layers_golden");
    ADD_GOLDEN_TESTS(tcase, layers, cases);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
