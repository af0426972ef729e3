/* Data sets, readers and the mini-batch loader. */
#ifndef EVENKEEL_DATA_H
#define EVENKEEL_DATA_H

#include "tensor.h"

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __cplusplus
}
#endif
#endif
