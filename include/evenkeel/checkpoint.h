/* Files: .npz archives, saving and loading a module. */
#ifndef EVENKEEL_CHECKPOINT_H
#define EVENKEEL_CHECKPOINT_H

#include "layers.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
}
#endif
#endif
