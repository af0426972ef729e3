/* Ops that no layer covers, and losses with every option, against PyTorch 1.13.1: output and gradient of every input.
 * Cases: golden_ops.def.  Tolerance and its reason: support_golden.h. */
#include "support_golden.h"

#define CASE(name, condition, ...)                                                                                     \
    static ek_tensor *call_##name(ek_tape *t, ek_tensor *const *x)                                                     \
    {                                                                                                                  \
        return __VA_ARGS__;                                                                                            \
    }
#define LOSS(name, how, ...)                                                                                           \
    static ek_tensor *call_##name(ek_tape *t, ek_tensor *const *x)                                                     \
    {                                                                                                                  \
        const ek_reduction reduction = how;                                                                            \
        return __VA_ARGS__;                                                                                            \
    }
#include "golden_ops.def"
#undef CASE
#undef LOSS

#define CASE(name, condition, ...) {#name, condition, NULL, call_##name},
#define LOSS(name, how, ...) {#name, 1, NULL, call_##name},
static const golden_case cases[] = {
#include "golden_ops.def"
};

GOLDEN_TESTS(ops, "ops.npz", cases)

int main(void)
{
    Suite *suite = suite_create("ops_golden");
    TCase *tcase = tcase_create("ops_golden");
    ADD_GOLDEN_TESTS(tcase, ops, cases);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
