/* The net and the training of the small-batch experiment (small_batch.c), which bench/job.c times. */
#ifndef EXAMPLES_SMALL_NET_H
#define EXAMPLES_SMALL_NET_H

#include "images.h"

/* Two convolutions with stride 2 and two fully connected layers on images of 28×28, with a norm ("none", "BN", …) and a
 * ReLU behind each but the last. */
ek_module *small_net(const char *norm);
/* SGD with momentum 0.9 and learning rate 0.05·batch_size/32, for all epochs. */
ek_status train_small_net(ek_module *net, ek_dataset *data, int64_t batch_size, int64_t epochs, uint64_t seed);

#endif
