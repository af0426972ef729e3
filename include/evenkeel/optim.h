/* Optimizers, gradient clipping and learning-rate schedules. */
#ifndef EVENKEEL_OPTIM_H
#define EVENKEEL_OPTIM_H

#include "layers.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
}
#endif
#endif
