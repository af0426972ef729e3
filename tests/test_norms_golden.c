/* Every norm layer, with every option, against PyTorch 1.13.1: output, gradients of input and parameters, and running
 * buffers over three training steps and one evaluation.  Cases: golden_norms.def.  Tolerance and its reason:
 * support_golden.h; data with mean 1000 and σ near 1 has condition 1000.
 *
 * Where 1.13.1 has no such layer the script composes it from primitives: LayerNorm with one of weight and bias,
 * RMSNorm, SwitchableNorm, channels last, sticky statistics.  Two differences from PyTorch are deliberate: our tracked
 * InstanceNorm counts its batches (PyTorch has num_batches_tracked there and leaves it at 0), and with cumulative
 * momentum it weighs them alike (PyTorch takes momentum None as 0 there). */
#include "support_golden.h"

#define MAKER(name, condition, ...)                                                                                    \
    static ek_module *make_##name(void)                                                                                \
    {                                                                                                                  \
        __VA_ARGS__                                                                                                    \
    }
#define ROW(name, condition, ...) {#name, condition, make_##name, NULL},

#define BATCH_NORMS
#define CASE MAKER
#include "golden_norms.def"
#undef CASE
#define CASE ROW
static const golden_case batch_norms[] = {
#include "golden_norms.def"
};
#undef CASE
#undef BATCH_NORMS

#define INSTANCE_NORMS
#define CASE MAKER
#include "golden_norms.def"
#undef CASE
#define CASE ROW
static const golden_case instance_norms[] = {
#include "golden_norms.def"
};
#undef CASE
#undef INSTANCE_NORMS

#define OTHER_NORMS
#define CASE MAKER
#include "golden_norms.def"
#undef CASE
#define CASE ROW
static const golden_case other_norms[] = {
#include "golden_norms.def"
};
#undef CASE
#undef OTHER_NORMS

#define SWITCHABLE_NORMS
#define CASE MAKER
#include "golden_norms.def"
#undef CASE
#define CASE ROW
static const golden_case switchable_norms[] = {
#include "golden_norms.def"
};
#undef CASE
#undef SWITCHABLE_NORMS

GOLDEN_TESTS(batch_norm, "batch_norm.npz", batch_norms)
GOLDEN_TESTS(instance_norm, "instance_norm.npz", instance_norms)
GOLDEN_TESTS(other_norms, "other_norms.npz", other_norms)
GOLDEN_TESTS(switchable_norm, "switchable_norm.npz", switchable_norms)

static ek_module *make_rms_machine(void)
{
    return ek_rms_norm(EK_SHAPE(5), NULL);
}

/* The default eps is the machine epsilon of the input's type; inputs so small that it shows. */
START_TEST(test_rms_machine_eps)
{
    static const golden_case cases[] = {{"rms_machine_float32", 1, make_rms_machine, NULL},
                                        {"rms_machine_float64", 1, make_rms_machine, NULL}};
    ek_npz *npz = golden_open("rms_machine.npz");
    golden_check(npz, &cases[_i], _i ? EK_F64 : EK_F32);
    ek_npz_close(npz);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("norms_golden");
    TCase *tcase = tcase_create("norms_golden");
    ADD_GOLDEN_TESTS(tcase, batch_norm, batch_norms);
    ADD_GOLDEN_TESTS(tcase, instance_norm, instance_norms);
    ADD_GOLDEN_TESTS(tcase, other_norms, other_norms);
    ADD_GOLDEN_TESTS(tcase, switchable_norm, switchable_norms);
    tcase_add_loop_test(tcase, test_rms_machine_eps, 0, 2);
    suite_add_tcase(suite, tcase);
    return run_suite(suite);
}
