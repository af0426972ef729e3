/* The models whose training step is measured, and whose determinism is tested (tests/test_training_determinism.c).
 *
 * The kind of a case is FAMILY[_NORM][_OPTIMIZER]:
 *
 *   mlp      784-256-256-10, Linear-norm-ReLU twice, Linear; cross-entropy; Adam
 *   cnn      1×28×28 → conv 32, conv 32, pool, conv 64, pool, Linear 10; 3×3 kernels, norm and ReLU behind each;
 *            cross-entropy; SGD with momentum 0.9
 *   resnet   3×32×32 → conv 16, two basic blocks each of 16, 32 and 64 channels (strides 1, 2, 2), mean over the
 *            plane, Linear 10 (He et al. 2016, arXiv:1512.03385); cross-entropy; SGD with momentum 0.9
 *   lstm     20 steps of 64 features, 128 units; mean square of all outputs less a target; Adam
 *   lnlstm   the same with EK_RECURRENT_LAYER_NORM
 *
 * NORM is bn (the default), gn (8 groups) or none, OPTIMIZER adam or sgd.  In the size bB is the batch, wW the width
 * of the model: units of mlp, lstm and lnlstm, channels of the first layer of the others.  Weights, data and targets
 * are functions of these words (bench_noise).  Steps go round several batches, 256 samples in all, as on a single small
 * one the loss would soon be 0, and with it the gradients.  VARIANT mem, where memory is measured, has one batch.
 */
#ifndef BENCH_MODELS_H
#define BENCH_MODELS_H

#include <evenkeel/evenkeel.h>

#include "cases.h"

enum { BENCH_MOST_BATCHES = 256 };

typedef struct bench_model {
    ek_module *net;
    ek_optimizer *optimizer;
    ek_tape *tape;
    int batches, next;
    ek_tensor *x[BENCH_MOST_BATCHES], *target[BENCH_MOST_BATCHES]; /* target: labels, or float */
} bench_model;

/* False: there is no such kind, or making it failed, which ek_last_status() tells; nothing is to be freed then. */
bool bench_model_make(bench_model *model, const bench_case *c);
/* One training step.  *loss (may be NULL): before the update. */
ek_status bench_model_step(bench_model *model, double *loss);
void bench_model_free(bench_model *model);

#endif
