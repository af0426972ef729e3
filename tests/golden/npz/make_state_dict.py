#!/usr/bin/env python3
"""Makes state_dict.npz, a PyTorch state_dict saved with NumPy, and the same without its counters; test_save_load.c reads
them.  PyTorch 1.13.1 was used."""
import os

import numpy as np
import torch
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))

net = nn.Sequential(nn.BatchNorm1d(4), nn.LayerNorm(4), nn.Sequential(nn.ReLU(), nn.GroupNorm(2, 4)))
with torch.no_grad():
    for i, parameter in enumerate(net.parameters()):
        parameter.copy_(torch.arange(4) / 8 + i)
net(torch.arange(12, dtype=torch.float32).reshape(3, 4))  # moves the running statistics once
state = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
np.savez(os.path.join(HERE, "state_dict.npz"), **state)
np.savez(os.path.join(HERE, "state_dict_uncounted.npz"),
         **{name: value for name, value in state.items() if not name.endswith("num_batches_tracked")})
