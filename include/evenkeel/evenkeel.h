/* Everything. */
#ifndef EVENKEEL_H
#define EVENKEEL_H

#include "autograd.h"
#include "checkpoint.h"
#include "data.h"
#include "layers.h"
#include "optim.h"
#include "status.h"
#include "tensor.h"

#endif
