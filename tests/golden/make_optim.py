#!/usr/bin/env python3
"""Makes optim.npz: what torch.optim and torch.optim.lr_scheduler (PyTorch 1.13.1) compute.

    python3 tests/golden/make_optim.py      # writes optim.npz beside itself

The parameters are a weight (3, 5) and a bias (3); every row of 18 numbers is the weight followed by the bias.
Optimizers: from <dtype>.start, with the rows of <dtype>.gradients one after the other, the same for every case,
<dtype>.<case> holds the parameters after the updates listed in recorded_steps.
Clipping: clip.<dtype>.<case> holds the first row of gradients after clipping, clip.<dtype>.<case>.norm the norm before.
Schedules: schedule.<case> holds the learning rate at steps 0, 1, 2, …
"""
import os

import numpy as np
import torch

STEPS = 20
RECORDED = (1, 2, 3, 5, 10, 20)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
LR = 0.05


def whole(make):
    """A case that gives both parameters to one group."""
    return lambda weight, bias: make([weight, bias])


CASES = {
    "sgd": whole(lambda p: torch.optim.SGD(p, LR)),
    "sgd_decay": whole(lambda p: torch.optim.SGD(p, LR, weight_decay=0.1)),
    "sgd_momentum": whole(lambda p: torch.optim.SGD(p, LR, momentum=0.9)),
    "sgd_dampening": whole(lambda p: torch.optim.SGD(p, LR, momentum=0.9, dampening=0.3, weight_decay=0.1)),
    "sgd_nesterov": whole(lambda p: torch.optim.SGD(p, LR, momentum=0.9, nesterov=True, weight_decay=0.1)),
    "adam": whole(lambda p: torch.optim.Adam(p, LR)),
    "adam_options": whole(lambda p: torch.optim.Adam(p, LR, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.1)),
    "adam_amsgrad": whole(lambda p: torch.optim.Adam(p, LR, betas=(0.9, 0.5), amsgrad=True)),
    "adamw": whole(lambda p: torch.optim.AdamW(p, LR)),
    "adamw_options": whole(lambda p: torch.optim.AdamW(p, LR, betas=(0.8, 0.5), eps=1e-3, weight_decay=0.5,
                                                       amsgrad=True)),
    "rmsprop": whole(lambda p: torch.optim.RMSprop(p, LR)),
    "rmsprop_centered": whole(lambda p: torch.optim.RMSprop(p, LR, alpha=0.9, eps=1e-2, centered=True)),
    "rmsprop_momentum": whole(lambda p: torch.optim.RMSprop(p, LR, alpha=0.9, eps=1e-2, weight_decay=0.1, momentum=0.8,
                                                            centered=True)),
    "groups": lambda w, b: torch.optim.SGD([{"params": [w]}, {"params": [b], "lr": 0.2, "weight_decay": 0.3}], LR,
                                           momentum=0.9),
    "no_decay": lambda w, b: torch.optim.AdamW([{"params": [w]}, {"params": [b], "weight_decay": 0.0}], LR,
                                               weight_decay=0.5),
    # The bias gets no gradient at steps 3, 6, …: neither it nor its state moves then.
    "skip": whole(lambda p: torch.optim.Adam(p, LR, weight_decay=0.1)),
}


def leaves(row, dtype):
    row = torch.tensor(row, dtype=dtype)
    return [row[:15].reshape(3, 5).clone().requires_grad_(), row[15:].clone().requires_grad_()]


def give_gradients(parameters, row, dtype):
    for parameter, gradient in zip(parameters, leaves(row, dtype)):
        parameter.grad = gradient.detach()


def join(tensors):
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).numpy()


def trajectories(out):
    rng = np.random.default_rng(2)
    start, gradients = rng.standard_normal(18), rng.standard_normal((STEPS, 18))
    for name, dtype in DTYPES.items():
        out[f"{name}.start"], out[f"{name}.gradients"] = start.astype(name), gradients.astype(name)
        for case, make in CASES.items():
            parameters = leaves(start, dtype)
            optimizer = make(*parameters)
            record = []
            for step in range(1, STEPS + 1):
                give_gradients(parameters, gradients[step - 1], dtype)
                if case == "skip" and step % 3 == 0:
                    parameters[1].grad = None
                optimizer.step()
                if step in RECORDED:
                    record.append(join(parameters))
            out[f"{name}.{case}"] = np.stack(record)
    out["recorded_steps"] = np.array(RECORDED, dtype=np.int64)


def schedules(out):
    lr_scheduler = torch.optim.lr_scheduler

    def warm_cosine(optimizer):
        warm = lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=10)
        return lr_scheduler.SequentialLR(optimizer, [warm, lr_scheduler.CosineAnnealingLR(optimizer, 30, 0.01)], [10])

    cases = {
        "step": (40, lambda o: lr_scheduler.StepLR(o, 7, 0.5)),
        "cosine": (60, lambda o: lr_scheduler.CosineAnnealingLR(o, 25, 0.01)),
        "warmup": (30, lambda o: lr_scheduler.LinearLR(o, start_factor=1 / 3, total_iters=12)),
        "warmup_cosine": (40, warm_cosine),
        "one_cycle": (50, lambda o: lr_scheduler.OneCycleLR(o, 0.4, 50, cycle_momentum=False)),
        "one_cycle_options": (25, lambda o: lr_scheduler.OneCycleLR(o, 0.4, 25, pct_start=0.45, div_factor=10,
                                                                    final_div_factor=100, cycle_momentum=False)),
        "one_cycle_falls": (9, lambda o: lr_scheduler.OneCycleLR(o, 0.4, 9, pct_start=0.0, cycle_momentum=False)),
        "one_cycle_rises": (9, lambda o: lr_scheduler.OneCycleLR(o, 0.4, 9, pct_start=1.0, cycle_momentum=False)),
    }
    for case, (steps, make) in cases.items():
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.4)
        schedule = make(optimizer)
        rates = []
        for step in range(steps):
            if step:
                optimizer.step()
                schedule.step()
            rates.append(optimizer.param_groups[0]["lr"])
        out[f"schedule.{case}"] = np.array(rates)


def clipping(out):
    for name, dtype in DTYPES.items():
        for case, max_norm in (("cut", 0.7), ("kept", 1e3)):
            parameters = leaves(out[f"{name}.start"], dtype)
            give_gradients(parameters, out[f"{name}.gradients"][0], dtype)
            norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
            out[f"clip.{name}.{case}.norm"] = norm.numpy()
            out[f"clip.{name}.{case}"] = join([parameter.grad for parameter in parameters])


def main():
    assert torch.__version__.startswith("1.13"), f"expected PyTorch 1.13, got {torch.__version__}"
    out = {}
    trajectories(out)
    schedules(out)
    clipping(out)
    np.savez_compressed(os.path.join(os.path.dirname(os.path.abspath(__file__)), "optim.npz"), **out)


if __name__ == "__main__":
    main()
