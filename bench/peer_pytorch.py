"""PyTorch's side of a comparison: answers the driver as worker.h says.

peer_pytorch.py            everything
                           (for `job` the environment names the data: BENCH_JOB)
peer_pytorch.py scripted   what torch.jit.script can make faster: the layer-normalized LSTM
"""
import gc
import os
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_job import BATCHES, Job
from pytorch_models import make_model

FEWEST_REPETITIONS = 2


class SwitchableNorm2d(nn.Module):
    """SwitchableNorm composed of PyTorch's own ops (Luo et al. 2018, arXiv:1806.10779): instance statistics, those of
    LayerNorm and BatchNorm from them, mixed by two softmaxes; running statistics as in BatchNorm."""

    def __init__(self, channels, eps=1e-5, momentum=0.1):
        super().__init__()
        self.eps, self.momentum = eps, momentum
        self.weight = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.mean_weight = nn.Parameter(torch.ones(3))
        self.var_weight = nn.Parameter(torch.ones(3))
        self.register_buffer("running_mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("running_var", torch.ones(1, channels, 1, 1))

    def forward(self, x):
        mean_in = x.mean((2, 3), keepdim=True)
        var_in = x.var((2, 3), unbiased=False, keepdim=True)
        mean_ln = mean_in.mean(1, keepdim=True)
        var_ln = var_in.mean(1, keepdim=True) + mean_in.var(1, unbiased=False, keepdim=True)
        mean_bn = mean_in.mean(0, keepdim=True)
        var_bn = var_in.mean(0, keepdim=True) + mean_in.var(0, unbiased=False, keepdim=True)
        with torch.no_grad():
            n = x.numel() // x.shape[1]
            self.running_mean.lerp_(mean_bn, self.momentum)
            self.running_var.lerp_(var_bn * (n / (n - 1)), self.momentum)
        w = torch.softmax(self.mean_weight, 0)
        u = torch.softmax(self.var_weight, 0)
        mean = w[0] * mean_in + w[1] * mean_ln + w[2] * mean_bn
        var = u[0] * var_in + u[1] * var_ln + u[2] * var_bn
        return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias


def make_norm(kind, shape, options):
    """The layer, or None when there is no such norm."""
    channels = shape[1]
    latest = {"momentum": 1, "track_running_stats": True} if "latest" in options else {}
    if kind == "bn":
        return (nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d)(channels, **latest)
    if kind in ("in", "in_affine"):
        return nn.InstanceNorm2d(channels, affine=kind == "in_affine", **latest)
    if kind == "gn":
        return nn.GroupNorm(int(options["groups"]), channels)
    if kind == "ln":
        return nn.LayerNorm(shape[-int(options.get("last", 1)):])
    if kind == "sn":
        return SwitchableNorm2d(channels)
    return None


def read_options(words):
    return dict((word.split("=") + [""])[:2] for word in words)


def fill(shape, step, shift):
    """The numbers of bench_fill()."""
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    i.mul_(step).bitwise_and_(0xFFFFFFFF).bitwise_right_shift_(8)
    return i.to(torch.float32).mul_(2.0**-23).sub_(shift).reshape(shape)


class Norm:
    """A norm, alone or with a ReLU in place behind it."""

    inputs = None, None, None  # shape, x, dy: kept while the shape stays

    def __init__(self, layer, shape, variant):
        if Norm.inputs[0] != shape:
            Norm.inputs = None, None, None
            x = fill(shape, 2654435761, 0.5).requires_grad_()
            Norm.inputs = shape, x, fill(shape, 2246822519, 1.0)
        _, self.x, self.dy = Norm.inputs
        self.layer = nn.Sequential(layer, nn.ReLU(inplace=True)) if "relu" in variant else layer
        self.train = "train" in variant

    def step(self):
        y = self.layer(self.x)
        if self.train:
            y.backward(self.dy)
            self.x.grad = None
            self.layer.zero_grad(set_to_none=True)

    def check(self):
        y = self.layer(self.x)
        value = mean_absolute(y)
        if not self.train:
            return value, 0
        y.backward(self.dy)
        slope = mean_absolute(self.x.grad)
        self.x.grad = None
        self.layer.zero_grad(set_to_none=True)
        return value, slope


class Conv:
    """A 3×3 convolution with padding 1."""

    def __init__(self, size, variant):
        channels, out, side, batch = (int(part) for part in size.replace("b", "").split("_"))
        self.x = fill((batch, channels, side, side), 2654435761, 0.5).requires_grad_()
        self.w = fill((out, channels, 3, 3), 2246822519, 1.0).requires_grad_()
        self.b = fill((out,), 2246822519, 1.0).requires_grad_()
        self.dy = fill((batch, out, side, side), 2246822519, 1.0)
        self.train = "train" in variant

    def forward_backward(self):
        y = F.conv2d(self.x, self.w, self.b, padding=1)
        if self.train:
            y.backward(self.dy)
        return y

    def step(self):
        self.forward_backward()
        self.x.grad = self.w.grad = self.b.grad = None

    def check(self):
        value, product = mean_absolute(self.forward_backward()), 0
        if self.train:
            product = mean_absolute(self.x.grad) * mean_absolute(self.w.grad) * mean_absolute(self.b.grad)
        self.x.grad = self.w.grad = self.b.grad = None
        return value, product


class Product:
    """x·w."""

    def __init__(self, m, n, k):
        self.x = fill((m, k), 2654435761, 0.5)
        self.w = fill((k, n), 2246822519, 1.0)

    def step(self):
        torch.mm(self.x, self.w)

    def check(self):
        return mean_absolute(torch.mm(self.x, self.w)), 0


def mean_absolute(tensor):
    return tensor.detach().abs().mean(dtype=torch.float64).item()


def prepare(words, scripted):
    """A case that can step and check, or None."""
    kind, size, variant, threads = words[:4]
    options = read_options(words[4:])
    torch.set_num_threads(int(threads))
    if scripted:
        return make_model(kind, size, variant, scripted)
    if kind == "gemm":
        return Product(*(int(dim) for dim in size.split("x")))
    if kind == "job":
        return Job(os.environ["BENCH_JOB"], BATCHES if size == "-" else (int(size[1:]),))
    if kind == "conv":
        return Conv(size, variant)
    model = make_model(kind, size, variant)
    if model:
        return model
    if not size[0].isdigit():
        return None
    shape = [int(dim) for dim in size.split("x")]
    layer = make_norm(kind, shape, options)
    return Norm(layer, shape, variant) if layer is not None else None


def run(step, warm_up, seconds):
    """Median of the repetitions in microseconds, how many there were, and the fastest."""
    clock = time.perf_counter
    start = clock()
    while clock() - start < warm_up:
        step()
    took = []
    start = before = clock()
    fewest = FEWEST_REPETITIONS if seconds > 0 else 1
    while len(took) < fewest or before - start < seconds:
        step()
        after = clock()
        took.append(after - before)
        before = after
    took.sort()
    n = len(took)
    return 1e6 * (took[n // 2] + took[(n - 1) // 2]) / 2, n, 1e6 * took[0]


def main():
    gc.disable()
    scripted = sys.argv[1:] == ["scripted"]
    case = None
    for line in iter(sys.stdin.readline, ""):
        words = line.split()
        if words[0] == "about":
            print("PyTorch", torch.__version__, "scripted" if scripted else "")
        elif words[0] == "case":
            case = None
            case = prepare(words[1:], scripted)
            print("ready %.9g %.9g" % case.check() if case else "none")
        else:
            print("%.6g %d %.6g" % run(case.step, float(words[1]), float(words[2])))
        sys.stdout.flush()


if __name__ == "__main__":
    main()
