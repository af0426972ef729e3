#!/usr/bin/env python3
"""Makes what PyTorch 1.13.1 computes, in float64, of ops.npz, layers.npz, batch_norm.npz, instance_norm.npz,
other_norms.npz, rms_machine.npz, switchable_norm.npz and nets.npz.

    python3 tests/golden/make_layers.py      # writes them beside itself, the same bytes each time

A case named CASE (of all but the last) holds, with R rows along the first axis of each array:
    CASE.xI   input I, where it is not the shared array "xI SHAPE" of its archive
    CASE.y    the output for each row; the cotangent is the shared array "dy SHAPE"
    CASE.dxI  the gradient of input I
    CASE.p    all parameters, one after the other in the order of the state_dict (no rows); CASE.g their gradients
    CASE.b    all buffers likewise, before the first row and after each row
R = 1: a layer that does the same in training and evaluation, or an op.  R > 1: one layer in state, its last row in
evaluation, the others in training.  SHAPE is written "(2, 3)" or "(5,)", of one row.

Every input, parameter and cotangent is a multiple of 2^-12 between -2 and 2, if nothing else is said: exact in float32,
so that the same file judges both types.
"""
import os

# The bytes must not depend on the machine's instruction set or number of cores.
os.environ.update(ATEN_CPU_CAPABILITY="default", OPENBLAS_CORETYPE="Prescott", OMP_NUM_THREADS="1")

import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

HERE = os.path.dirname(os.path.abspath(__file__))


def shape_text(shape):
    return str(tuple(shape))


def numbers(key, shape, low=-2.0, high=2.0):
    """Multiples of 2^-12, a function of the key alone: a new case moves no other."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    return rng.integers(int(low * 4096), int(high * 4096), size=shape, endpoint=True) / 4096.0


def joined(tensors):
    """A copy of all of them in one row, float64."""
    return torch.cat([torch.zeros(0).double()] + [t.detach().double().reshape(-1) for t in tensors])


class Archive:
    def __init__(self, name):
        self.name, self.entries = name, {}

    def add(self, key, value):
        value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        assert key not in self.entries, key
        self.entries[key] = value.copy()

    def shared(self, kind, shape):
        """The rows of an input or cotangent that all cases of this shape use: (4, *shape)."""
        key = f"{kind} {shape_text(shape)}"
        if key not in self.entries:
            self.entries[key] = numbers(key, (4, *shape))
        return self.entries[key]

    def inputs(self, case, given, rows):
        """From a shape: the shared array; from an array, one with rows that belongs to the case."""
        result = []
        for i, x in enumerate(given):
            if isinstance(x, tuple):
                x = self.shared(f"x{i}", x)[:rows]
            else:
                self.add(f"{case}.x{i}", x)
            result.append(torch.from_numpy(np.array(x)))
        return result

    def run(self, case, function, given, rows=1, module=None):
        """Rows of `function(*inputs)` with a random cotangent; `given` as in inputs()."""
        inputs = self.inputs(case, given, rows)
        parameters = list(module.named_parameters()) if module else []
        buffers = [(n, b) for n, b in module.named_buffers() if not skipped(module, n)] if module else []
        y, dx, g, b = [], [[] for _ in inputs], [], [joined(value for _, value in buffers)]
        for row in range(rows):
            if module:
                module.train(rows == 1 or row < rows - 1)
                module.zero_grad(set_to_none=True)
            x = [t[row].clone().requires_grad_(t.is_floating_point()) for t in inputs]
            out = function(*x)
            out.backward(torch.from_numpy(np.array(self.shared("dy", tuple(out.shape))[row])))
            y.append(out.detach())
            for i, t in enumerate(x):
                dx[i].append(t.grad)
            g.append(joined(p.grad if p.grad is not None else torch.zeros_like(p) for _, p in parameters))
            b.append(joined(dict(module.named_buffers())[n] for n, _ in buffers))
        self.add(f"{case}.y", torch.stack(y))
        for i, t in enumerate(inputs):
            if t.is_floating_point():
                self.add(f"{case}.dx{i}", torch.stack(dx[i]))
        for key, rows_of, any_of in (("p", [joined(p for _, p in parameters)], parameters), ("g", g, parameters),
                                     ("b", b, buffers)):
            if any_of:
                self.add(f"{case}.{key}", rows_of[0] if key == "p" else torch.stack(rows_of))

    def layer(self, case, module, x, rows=1, forward=None, keep=False):
        """A module with random parameters (keep: its own).  `forward(module, x)` where calling it is not enough."""
        module.double()
        for n, p in module.named_parameters():
            if not keep:
                p.data = torch.from_numpy(numbers(f"{case}.{n}", tuple(p.shape)))
        self.run(case, lambda t: forward(module, t) if forward else module(t), [x], rows, module)

    def write(self):
        for key, value in self.entries.items():
            if value.dtype == np.float64:
                assert np.isfinite(value).all(), key
        np.savez_compressed(os.path.join(HERE, self.name), **self.entries)


def skipped(module, name):
    """PyTorch's InstanceNorm has num_batches_tracked but never moves it; ours counts."""
    return isinstance(module, nn.modules.instancenorm._InstanceNorm) and name == "num_batches_tracked"


# ---- linear, convolution, pooling, activations, embedding ------------------------------------------------------------


def basic_layers(a):
    a.layer("linear", nn.Linear(5, 4), (3, 5))
    a.layer("linear_no_bias", nn.Linear(5, 4, bias=False), (3, 5))
    a.layer("linear_more_axes", nn.Linear(5, 4), (2, 3, 5))
    a.layer("linear_wide", nn.Linear(70, 3), (2, 70))

    a.layer("conv1d", nn.Conv1d(2, 3, 3), (2, 2, 7))
    a.layer("conv1d_no_bias", nn.Conv1d(2, 3, 3, bias=False), (2, 2, 7))
    a.layer("conv1d_stride", nn.Conv1d(2, 3, 3, stride=2), (2, 2, 8))
    a.layer("conv1d_padding", nn.Conv1d(2, 3, 3, padding=2), (2, 2, 7))
    a.layer("conv1d_dilation", nn.Conv1d(2, 3, 3, dilation=3), (2, 2, 8))
    a.layer("conv1d_groups", nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7))
    a.layer("conv1d_depthwise", nn.Conv1d(4, 4, 3, groups=4), (2, 4, 7))
    a.layer("conv1d_multiplier", nn.Conv1d(4, 8, 3, groups=4, bias=False), (2, 4, 7))
    a.layer("conv1d_pointwise", nn.Conv1d(2, 3, 1), (2, 2, 7))
    a.layer("conv1d_all", nn.Conv1d(4, 2, 2, stride=2, padding=1, dilation=2, groups=2), (2, 4, 7))

    a.layer("conv2d", nn.Conv2d(2, 3, 3), (2, 2, 5, 4))
    a.layer("conv2d_no_bias", nn.Conv2d(2, 3, 3, bias=False), (2, 2, 5, 4))
    a.layer("conv2d_stride", nn.Conv2d(2, 3, 3, stride=(2, 1)), (2, 2, 6, 4))
    a.layer("conv2d_padding", nn.Conv2d(2, 3, 3, padding=(1, 2)), (2, 2, 4, 3))
    a.layer("conv2d_dilation", nn.Conv2d(2, 3, 2, dilation=(3, 2)), (2, 2, 5, 4))
    a.layer("conv2d_groups", nn.Conv2d(4, 6, 3, groups=2), (2, 4, 4, 4))
    a.layer("conv2d_depthwise", nn.Conv2d(4, 4, 3, padding=1, groups=4), (2, 4, 4, 3))
    a.layer("conv2d_pointwise", nn.Conv2d(2, 3, 1), (2, 2, 3, 4))
    a.layer("conv2d_rectangle", nn.Conv2d(2, 3, (1, 3)), (2, 2, 3, 5))
    a.layer("conv2d_tall", nn.Conv2d(2, 3, (3, 2), padding=(1, 0), bias=False), (2, 2, 3, 4))
    a.layer("conv2d_all", nn.Conv2d(4, 2, (3, 2), stride=(2, 3), padding=(2, 1), dilation=(1, 2), groups=2),
            (2, 4, 5, 6))

    a.layer("max_pool1d", nn.MaxPool1d(2), (2, 2, 7))
    a.layer("max_pool1d_stride", nn.MaxPool1d(3, stride=1), (2, 2, 7))
    a.layer("max_pool1d_padding", nn.MaxPool1d(3, stride=2, padding=1), (2, 2, 7))
    a.layer("max_pool2d", nn.MaxPool2d(2), (2, 2, 5, 4))
    a.layer("max_pool2d_stride", nn.MaxPool2d(3, stride=(1, 2)), (2, 2, 5, 6))
    a.layer("max_pool2d_padding", nn.MaxPool2d(3, stride=2, padding=1), (2, 2, 5, 4))
    a.layer("max_pool2d_sides", nn.MaxPool2d(3, padding=(1, 0)), (2, 2, 5, 4))
    a.layer("max_pool2d_ties", nn.MaxPool2d(2, stride=1), np.sign(numbers("ties", (1, 2, 2, 3, 4))))
    a.layer("avg_pool1d", nn.AvgPool1d(2), (2, 2, 7))
    a.layer("avg_pool1d_stride", nn.AvgPool1d(3, stride=1), (2, 2, 7))
    a.layer("avg_pool1d_padding", nn.AvgPool1d(3, stride=2, padding=1), (2, 2, 7))
    a.layer("avg_pool1d_inside", nn.AvgPool1d(3, stride=2, padding=1, count_include_pad=False), (2, 2, 7))
    a.layer("avg_pool2d", nn.AvgPool2d(2), (2, 2, 5, 4))
    a.layer("avg_pool2d_stride", nn.AvgPool2d(3, stride=(1, 2)), (2, 2, 5, 6))
    a.layer("avg_pool2d_padding", nn.AvgPool2d(3, stride=2, padding=1), (2, 2, 5, 4))
    a.layer("avg_pool2d_inside", nn.AvgPool2d(3, stride=(1, 2), padding=1, count_include_pad=False), (2, 2, 5, 4))
    a.layer("adaptive1d", nn.AdaptiveAvgPool1d(3), (2, 2, 7))
    a.layer("adaptive1d_one", nn.AdaptiveAvgPool1d(1), (2, 2, 7))
    a.layer("adaptive1d_more", nn.AdaptiveAvgPool1d(9), (2, 2, 7))
    a.layer("adaptive2d", nn.AdaptiveAvgPool2d((2, 3)), (2, 2, 5, 4))
    a.layer("adaptive2d_one", nn.AdaptiveAvgPool2d(1), (2, 2, 5, 4))

    a.layer("flatten", nn.Flatten(), (2, 2, 5, 4))
    wide = numbers("activations", (1, 4, 9), -30, 30)
    for name, module in (("relu", nn.ReLU()), ("leaky_relu", nn.LeakyReLU(0.25)), ("gelu", nn.GELU()),
                         ("silu", nn.SiLU()), ("sigmoid", nn.Sigmoid()), ("tanh", nn.Tanh()),
                         ("softplus", nn.Softplus())):
        a.layer(name, module, (3, 5))
        a.layer(name + "_wide", module, wide)
    # PyTorch's own gradient of silu takes 1 - sigmoid(x), which has few digits there.
    a.layer("silu_large", nn.SiLU(), numbers("large", (1, 1, 5), 10, 18),
            forward=lambda m, x: x * torch.exp(-F.softplus(-x)))
    a.layer("softplus_threshold", nn.Softplus(), numbers("threshold", (1, 4, 9), 18, 22))
    a.layer("dropout_none", nn.Sequential(nn.Linear(5, 5), nn.Dropout(0.0)), (3, 5))
    for axis in (0, 1, 2):
        a.layer(f"softmax_{axis}", nn.Softmax(axis), (2, 3, 4))
        a.layer(f"log_softmax_{axis}", nn.LogSoftmax(axis), (2, 3, 4))
    a.layer("softmax_wide", nn.Softmax(-1), wide)
    a.layer("log_softmax_wide", nn.LogSoftmax(-1), wide)
    words = np.array([[[1, 0, 3], [3, 2, 3]]])
    a.layer("embedding", nn.Embedding(5, 4), words)
    a.layer("embedding_padding", nn.Embedding(5, 4, padding_idx=3), words)
    a.layer("residual", nn.Sequential(nn.Linear(5, 5)), (3, 5), forward=lambda m, x: x + m(x))


# ---- norms -----------------------------------------------------------------------------------------------------------

SHAPES = {"1d": (3, 3, 4), "2d": (2, 3, 2, 2), "3d": (2, 3, 2, 1, 2)}
BATCH = {"1d": nn.BatchNorm1d, "2d": nn.BatchNorm2d, "3d": nn.BatchNorm3d}
INSTANCE = {"1d": nn.InstanceNorm1d, "2d": nn.InstanceNorm2d, "3d": nn.InstanceNorm3d}
ROWS = 4


def channels_last(module, x):
    return module(x.movedim(-1, 1)).movedim(1, -1)


def last(shape):
    return (shape[0], *shape[2:], shape[1])


def running(module, x):
    """Normalizes by the running statistics as they were, and updates them from the batch in training."""
    buffers = [module.running_mean.clone(), module.running_var.clone()]
    if module.training:
        with torch.no_grad():
            module(x)
    return F.batch_norm(x, *buffers, module.weight, module.bias, False, 0.0, module.eps)


def frozen(module, x):
    return F.batch_norm(x, module.running_mean, module.running_var, module.weight, module.bias, False, 0.0, module.eps)


def always_batch(module, x):
    if module.training:
        return module(x)
    return F.batch_norm(x, None, None, module.weight, module.bias, True, 0.0, module.eps)


def cumulative_instance(module, x):
    """PyTorch takes momentum None as 0 here; ours weighs every batch alike, as BatchNorm does."""
    if module.training:
        module.seen = getattr(module, "seen", 0) + 1
        module.momentum = 1 / module.seen
    return module(x)


def batch_norms(a):
    for d, make in BATCH.items():
        shape, c = SHAPES[d], 3
        a.layer(f"bn{d}", make(c), shape, ROWS)
        a.layer(f"bn{d}_no_affine", make(c, affine=False), shape, ROWS)
        a.layer(f"bn{d}_no_track", make(c, track_running_stats=False), shape, ROWS)
        a.layer(f"bn{d}_bare", make(c, affine=False, track_running_stats=False), shape, ROWS)
        a.layer(f"bn{d}_momentum_0", make(c, momentum=0.0), shape, ROWS)
        a.layer(f"bn{d}_momentum_03", make(c, momentum=0.3), shape, ROWS)
        a.layer(f"bn{d}_cumulative", make(c, momentum=None), shape, ROWS)
        a.layer(f"bn{d}_eps", make(c, eps=0.25), shape, ROWS)
        a.layer(f"bn{d}_last", make(c), last(shape), ROWS, channels_last)
    a.layer("bn1d_flat", nn.BatchNorm1d(3), (5, 3), ROWS)
    a.layer("bn1d_flat_bare", nn.BatchNorm1d(3, affine=False, track_running_stats=False), (5, 3), ROWS)
    a.layer("bn1d_flat_cumulative", nn.BatchNorm1d(3, momentum=None), (5, 3), ROWS)
    a.layer("bn1d_pair", nn.BatchNorm1d(3), (2, 3), ROWS)
    a.layer("bn1d_one_sample", nn.BatchNorm1d(3), (1, 3, 5), ROWS)
    a.layer("bn2d_large", nn.BatchNorm2d(2, momentum=1.0), (5, 2, 3, 5), ROWS)
    a.layer("bn2d_offset", nn.BatchNorm2d(3), 1000 + numbers("offset", (ROWS, *SHAPES["2d"])), ROWS)
    a.layer("bn2d_narrow", nn.BatchNorm2d(3), numbers("narrow", (ROWS, *SHAPES["2d"])) / 512, ROWS)
    a.layer("bn2d_batch", nn.BatchNorm2d(3), SHAPES["2d"], ROWS, always_batch)
    a.layer("bn2d_running", nn.BatchNorm2d(3), SHAPES["2d"], ROWS, running)
    a.layer("bn2d_frozen", nn.BatchNorm2d(3), SHAPES["2d"], ROWS, frozen)


def instance_norms(a):
    for d, make in INSTANCE.items():
        shape, c = SHAPES[d], 3
        a.layer(f"in{d}", make(c), shape, ROWS)
        a.layer(f"in{d}_affine", make(c, affine=True), shape, ROWS)
        a.layer(f"in{d}_track", make(c, track_running_stats=True), shape, ROWS)
        both = dict(affine=True, track_running_stats=True)
        a.layer(f"in{d}_both", make(c, **both), shape, ROWS)
        a.layer(f"in{d}_momentum_0", make(c, momentum=0.0, **both), shape, ROWS)
        a.layer(f"in{d}_momentum_03", make(c, momentum=0.3, **both), shape, ROWS)
        a.layer(f"in{d}_cumulative", make(c, **both), shape, ROWS, cumulative_instance)
        a.layer(f"in{d}_eps", make(c, eps=0.25, **both), shape, ROWS)
        a.layer(f"in{d}_last", make(c, **both), last(shape), ROWS, channels_last)
    a.layer("in2d_offset", nn.InstanceNorm2d(3, affine=True), 1000 + numbers("offset", (ROWS, *SHAPES["2d"])), ROWS)


class Composed(nn.Module):
    """LayerNorm with weight and bias separately, and RMSNorm, of which 1.13.1 has neither."""

    def __init__(self, shape, center, weight, bias, eps):
        super().__init__()
        self.axes, self.center, self.eps = tuple(range(-len(shape), 0)), center, eps
        self.weight = nn.Parameter(torch.ones(shape)) if weight else None
        self.bias = nn.Parameter(torch.zeros(shape)) if bias else None

    def forward(self, x):
        d = x - x.mean(self.axes, keepdim=True) if self.center else x
        y = d / torch.sqrt((d * d).mean(self.axes, keepdim=True) + self.eps)
        y = y * self.weight if self.weight is not None else y
        return y + self.bias if self.bias is not None else y


def layer_norms(a):
    x = (2, 3, 2, 5)
    for k in (1, 2, 3):
        a.layer(f"ln_{k}", nn.LayerNorm(x[-k:]), x)
        a.layer(f"ln_{k}_bare", nn.LayerNorm(x[-k:], elementwise_affine=False), x)
        a.layer(f"ln_{k}_no_bias", Composed(x[-k:], True, True, False, 1e-5), x)
        a.layer(f"ln_{k}_no_weight", Composed(x[-k:], True, False, True, 1e-5), x)
        a.layer(f"rms_{k}", Composed(x[-k:], False, True, False, 1e-6), x)
        a.layer(f"rms_{k}_bare", Composed(x[-k:], False, False, False, 1e-6), x)
    a.layer("ln_whole", nn.LayerNorm((3, 5)), (3, 5))
    a.layer("ln_eps", nn.LayerNorm(5, eps=0.25), x)
    a.layer("ln_one", nn.LayerNorm(1), (3, 1))
    a.layer("ln_wide", nn.LayerNorm(70), (2, 70))
    a.layer("ln_offset", nn.LayerNorm(5), 1000 + numbers("offset", (1, 3, 5)))
    a.layer("rms_eps", Composed((5,), False, True, False, 0.25), x)
    a.layer("rms_wide", Composed((70,), False, True, False, 1e-6), (2, 70))


def rms_machine(a):
    """RMSNorm's default eps: one case per type, of inputs so small that it shows."""
    for name, eps, scale in (("float32", 2.0**-23, 2.0**-10), ("float64", 2.0**-52, 2.0**-24)):
        a.layer(f"rms_machine_{name}", Composed((5,), False, True, False, eps), scale * numbers("tiny", (1, 3, 5)))


def group_norms(a):
    x = (2, 6, 2, 3)
    for g in (1, 2, 3, 6):
        a.layer(f"gn_{g}", nn.GroupNorm(g, 6), x)
        a.layer(f"gn_{g}_bare", nn.GroupNorm(g, 6, affine=False), x)
    a.layer("gn_flat", nn.GroupNorm(2, 6), (3, 6))
    a.layer("gn_1d", nn.GroupNorm(3, 6), (2, 6, 3))
    a.layer("gn_3d", nn.GroupNorm(2, 4), (2, 4, 2, 1, 3))
    a.layer("gn_eps", nn.GroupNorm(2, 6, eps=0.25), x)
    a.layer("gn_last", nn.GroupNorm(2, 6), last(x), 1, channels_last)
    a.layer("gn_offset", nn.GroupNorm(2, 6), 1000 + numbers("offset", (1, *x)))


class SwitchableNorm(nn.Module):
    """Luo et al. 2018.  By default from the definitions: each of IN, LN and BN takes mean and population variance of
    its own region of x, and the buffers are BatchNorm's.  `reference`: the formulas of the published code, whose plane
    variances are unbiased, whose LN and BN variances come from those by E[v + m²] − E[m]², and whose buffers start at
    0 and take the batch variance as it is.  `momentum` is the update fraction in both; None: equal weights."""

    def __init__(self, c, d, batch=True, reference=False, affine=True, momentum=0.1, eps=1e-5, last_gamma=False,
                 statistics="auto"):
        super().__init__()
        self.d, self.batch, self.reference, self.momentum, self.eps = d, batch, reference, momentum, eps
        self.statistics = statistics
        self.weight = nn.Parameter(torch.full((c,), 0.0 if last_gamma else 1.0)) if affine else None
        self.bias = nn.Parameter(torch.zeros(c)) if affine else None
        n = (d != "1d") + 1 + batch
        self.mean_weight, self.var_weight = nn.Parameter(torch.ones(n)), nn.Parameter(torch.ones(n))
        if batch:
            self.register_buffer("running_mean", torch.zeros(c))
            self.register_buffer("running_var", torch.zeros(c) if reference else torch.ones(c))
            self.register_buffer("num_batches_tracked", torch.tensor(0))

    def by_definition(self, x):
        regions = {"in": (2,), "ln": (1, 2), "bn": (0, 2)}
        return {k: (x.mean(r, keepdim=True), x.var(r, unbiased=False, keepdim=True)) for k, r in regions.items()}

    def published(self, x):
        if self.d == "1d":
            return {k: (x.mean(r, keepdim=True), x.var(r, unbiased=True, keepdim=True))
                    for k, r in (("ln", (1,)), ("bn", (0,)))}
        mean, var = x.mean(2, keepdim=True), x.var(2, unbiased=True, keepdim=True)
        square = var + mean**2
        pairs = {"in": (mean, var)}
        for k, axis in (("ln", 1), ("bn", 0)):
            m = mean.mean(axis, keepdim=True)
            pairs[k] = (m, square.mean(axis, keepdim=True) - m**2)
        return pairs

    def forward(self, x):
        shape = x.shape
        x = x.reshape(shape[0], shape[1], -1)
        pairs = self.published(x) if self.reference else self.by_definition(x)
        if self.d == "1d":
            pairs.pop("in", None)
        own = pairs.pop("bn")
        if self.batch:
            use = (own if self.statistics == "batch" or (self.statistics == "auto" and self.training) else
                   (self.running_mean.clone().reshape(1, -1, 1), self.running_var.clone().reshape(1, -1, 1)))
            pairs["bn"] = use
            if self.training and self.statistics != "frozen":
                self.update(own, x.numel() // shape[1])
        w, u = self.mean_weight.softmax(0), self.var_weight.softmax(0)
        m = sum(w[i] * pair[0] for i, pair in enumerate(pairs.values()))
        v = sum(u[i] * pair[1] for i, pair in enumerate(pairs.values()))
        y = (x - m) / torch.sqrt(v + self.eps)
        if self.weight is not None:
            y = y * self.weight.reshape(1, -1, 1) + self.bias.reshape(1, -1, 1)
        return y.reshape(shape)

    @torch.no_grad()
    def update(self, own, count):
        self.num_batches_tracked += 1
        f = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        mean, var = own[0].reshape(-1), own[1].reshape(-1)
        self.running_mean.mul_(1 - f).add_(f * mean)
        self.running_var.mul_(1 - f).add_(f * var * (1 if self.reference else count / (count - 1)))


def switchable_norms(a):
    shapes = {"1d": (4, 3), "2d": (3, 3, 2, 2), "3d": (2, 3, 2, 1, 2)}
    for d, shape in shapes.items():
        for suffix, options in (("", {}), ("_reference", dict(reference=True)), ("_no_batch", dict(batch=False)),
                                ("_reference_no_batch", dict(reference=True, batch=False)),
                                ("_momentum_03", dict(momentum=0.3)), ("_momentum_0", dict(momentum=0.0)),
                                ("_reference_momentum", dict(reference=True, momentum=0.003)),
                                ("_cumulative", dict(momentum=None)), ("_eps", dict(eps=0.25)),
                                ("_no_affine", dict(affine=False)), ("_batch", dict(statistics="batch")),
                                ("_running", dict(statistics="running")), ("_frozen", dict(statistics="frozen"))):
            a.layer(f"sn{d}{suffix}", SwitchableNorm(3, d, **options), shape, ROWS)
    a.layer("sn2d_last_gamma", SwitchableNorm(3, "2d", last_gamma=True), shapes["2d"], ROWS, keep=True)
    a.layer("sn2d_fresh", SwitchableNorm(3, "2d"), shapes["2d"], ROWS, keep=True)
    a.layer("sn2d_one_sample", SwitchableNorm(3, "2d"), (1, 3, 2, 2), ROWS)
    a.layer("sn2d_offset", SwitchableNorm(3, "2d"), 1000 + numbers("offset", (ROWS, *shapes["2d"])), ROWS)


# ---- ops -------------------------------------------------------------------------------------------------------------


def arithmetic(a):
    over = [numbers("denominator", (1, 4, 1), 0.5, 2)]
    a.run("add", torch.add, [(2, 1, 3), (4, 1)])
    a.run("sub", torch.sub, [(2, 1, 3), (4, 1)])
    a.run("mul", torch.mul, [(2, 1, 3), (4, 1)])
    a.run("div", torch.div, [(2, 1, 3), over[0]])
    a.run("add_scalar", torch.add, [(3, 5), ()])
    a.run("sub_vector", torch.sub, [(5,), (3, 5)])
    a.run("mul_channel", torch.mul, [(2, 3, 2, 2), (3, 1, 1)])
    a.run("mul_same", lambda x: x * x, [(3, 5)])
    a.run("div_scalar", torch.div, [(), numbers("divisor", (1, 3, 5), 0.5, 2)])
    a.run("affine", lambda x: -1.5 * x + 0.25, [(3, 5)])
    a.run("matmul", torch.matmul, [(3, 5), (5, 4)])
    a.run("matmul_ta", lambda x, y: x.mT @ y, [(5, 3), (5, 4)])
    a.run("matmul_tb", lambda x, y: x @ y.mT, [(3, 5), (4, 5)])
    a.run("matmul_tab", lambda x, y: x.mT @ y.mT, [(5, 3), (4, 5)])
    a.run("matmul_batch", torch.matmul, [(2, 3, 4), (2, 4, 2)])
    a.run("matmul_batch_ta", lambda x, y: x.mT @ y, [(2, 4, 3), (2, 4, 2)])
    a.run("matmul_batch_tb", lambda x, y: x @ y.mT, [(2, 3, 4), (2, 2, 4)])
    a.run("matmul_batch_tab", lambda x, y: x.mT @ y.mT, [(2, 4, 3), (2, 2, 4)])
    a.run("matmul_one_for_all", torch.matmul, [(2, 2, 3, 4), (4, 2)])
    a.run("matmul_crossed", lambda x, y: x.mT @ y, [(2, 1, 4, 3), (3, 4, 2)])
    a.run("linear_op", F.linear, [(2, 3, 5), (4, 5), (4,)])
    a.run("linear_op_no_bias", F.linear, [(2, 3, 5), (4, 5)])


def shapes_and_reductions(a):
    x = (2, 3, 4)
    a.run("sum_all", torch.sum, [x])
    a.run("sum_1", lambda t: t.sum(1), [x])
    a.run("sum_02_keep", lambda t: t.sum((0, 2), keepdim=True), [x])
    a.run("mean_all", torch.mean, [x])
    a.run("mean_12", lambda t: t.mean((1, 2)), [x])
    a.run("mean_0_keep", lambda t: t.mean(0, keepdim=True), [x])
    a.run("reshape", lambda t: t.reshape(4, -1), [x])
    a.run("flatten_op", lambda t: t.flatten(1, 2), [(2, 2, 5, 4)])
    a.run("permute", lambda t: t.permute(2, 0, 1), [x])
    a.run("permute_4", lambda t: t.permute(0, 3, 1, 2), [(2, 2, 5, 4)])
    a.run("slice_0", lambda t: t[1:2], [x])
    a.run("slice_2", lambda t: t[:, :, 1:-1], [x])
    a.run("slice_twice", lambda t: t[:, 0:2] * t[:, 1:3], [x])
    a.run("concat_0", lambda s, t: torch.cat([s, t], 0), [(2, 3), (4, 3)])
    a.run("concat_1", lambda s, t: torch.cat([s, t, s], 1), [x, (2, 1, 4)])


def elementwise(a):
    positive = numbers("positive", (1, 3, 5), 0.25, 4)
    a.run("exp", torch.exp, [(3, 5)])
    a.run("log", torch.log, [positive])
    a.run("sqrt", torch.sqrt, [positive])
    a.run("pow_3", lambda t: t.pow(3), [(3, 5)])
    a.run("pow_2", lambda t: t.pow(2), [(3, 5)])
    a.run("pow_minus_1", lambda t: t.pow(-1), [positive])
    a.run("pow_fraction", lambda t: t.pow(1.7), [positive])
    a.run("abs", torch.abs, [(3, 5)])
    a.run("abs_zeros", torch.abs, [np.zeros((1, 3, 5))])
    a.run("relu_zeros", torch.relu, [np.zeros((1, 3, 5))])
    a.run("clamp", lambda t: t.clamp(-0.5, 1.25), [(3, 5)])
    a.run("clamp_low", lambda t: t.clamp(min=-0.5), [(3, 5)])
    a.run("clamp_high", lambda t: t.clamp(max=0.5), [(3, 5)])
    a.run("clamp_edge", lambda t: t.clamp(-1, 1), [np.sign(numbers("edge", (1, 3, 5)))])
    a.run("leaky_relu_op", F.leaky_relu, [(3, 5)])
    a.run("softplus_op", lambda t: F.softplus(t, 2.5, 3), [(3, 5)])
    a.run("softplus_20", lambda t: F.softplus(t), [numbers("past the threshold", (1, 3, 5), 15, 25)])


def losses(a):
    labels, more = np.array([[2, 0, 3, 3, 1]]), np.array([[[2, 0, 1], [3, -1, 0]]])
    some = np.array([[2, -100, 3, -100, 1]])
    for reduction in ("mean", "sum", "none"):
        def cross(**options):
            return lambda x, t: F.cross_entropy(x, t, reduction=reduction, **options)
        a.run(f"cross_{reduction}", cross(), [(5, 4), labels])
        a.run(f"cross_ignored_{reduction}", cross(), [(5, 4), some])
        a.run(f"cross_index_{reduction}", cross(ignore_index=3), [(5, 4), labels])
        a.run(f"cross_smooth_{reduction}", cross(label_smoothing=0.3), [(5, 4), labels])
        a.run(f"cross_smooth_ignored_{reduction}", cross(label_smoothing=0.3), [(5, 4), some])
        a.run(f"cross_1d_{reduction}", cross(ignore_index=-1), [(2, 4, 3), more])
        a.run(f"cross_1d_smooth_{reduction}", cross(ignore_index=-1, label_smoothing=0.1), [(2, 4, 3), more])
        for name, loss in (("mse", F.mse_loss), ("l1", F.l1_loss), ("huber", F.huber_loss)):
            a.run(f"{name}_{reduction}", lambda x, t: loss(x, t, reduction=reduction), [(3, 5), (3, 5)])
        a.run(f"huber_03_{reduction}", lambda x, t: F.huber_loss(x, t, reduction=reduction, delta=0.3),
              [(3, 5), (3, 5)])
        wide, targets = numbers("logits", (1, 3, 5), -40, 40), numbers("targets", (1, 3, 5), 0, 1)
        bce = lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction=reduction)
        a.run(f"bce_{reduction}", bce, [wide, targets])
    a.run("cross_wide", F.cross_entropy, [numbers("wide", (1, 5, 4), -80, 80), labels])


def convolution_ops(a):
    """What the layers cannot say: rectangular pools, and kernels that are inputs."""
    a.run("conv1d_op", lambda x, w, b: F.conv1d(x, w, b, 2, 1), [(2, 2, 7), (3, 2, 3), (3,)])
    a.run("conv2d_op", lambda x, w: F.conv2d(x, w, None, (1, 2), (1, 0)), [(2, 2, 5, 4), (3, 2, 3, 2)])
    a.run("max_pool2d_rectangle", lambda x: F.max_pool2d(x, (3, 2), (1, 2), (1, 0)), [(2, 2, 5, 4)])
    a.run("avg_pool2d_rectangle", lambda x: F.avg_pool2d(x, (3, 2), (1, 2), (1, 0)), [(2, 2, 5, 4)])
    a.run("embedding_op", lambda t, i: F.embedding(i, t, 2), [(4, 3), np.array([[1, 2, 1, 3]])])


# ---- whole nets ------------------------------------------------------------------------------------------------------


def cnn():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(),
                         nn.Conv2d(4, 6, 3, stride=2, bias=False), nn.GroupNorm(2, 6), nn.ReLU(), nn.Flatten(),
                         nn.Linear(6 * 2 * 2, 3))


def mlp():
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8, momentum=None), nn.ReLU(), nn.Linear(8, 3))


def train(a, name, net, x, optimizer, steps=5):
    """NAME.x, NAME.labels: one batch per step and a last one for evaluation.  NAME.before.*, NAME.after.*: state_dict;
    NAME.losses; NAME.output: of the last batch in evaluation."""
    net.double()
    for key, p in net.named_parameters():
        p.data = p.data.to(torch.float32).double()
    for key, value in net.state_dict().items():
        a.add(f"{name}.before.{key}", value)
    x, rng = numbers(name, (steps + 1, *x)), np.random.default_rng(7)
    labels, losses, step = rng.integers(0, 3, (steps + 1, x.shape[1])), [], optimizer(net.parameters())
    for i in range(steps):
        loss = F.cross_entropy(net(torch.from_numpy(x[i])), torch.from_numpy(labels[i]))
        step.zero_grad()
        loss.backward()
        step.step()
        losses.append(loss.item())
    for key, value in net.state_dict().items():
        a.add(f"{name}.after.{key}", value)
    net.eval()
    a.add(f"{name}.x", x)
    a.add(f"{name}.labels", labels)
    a.add(f"{name}.losses", losses)
    a.add(f"{name}.output", net(torch.from_numpy(x[steps])))


def nets(a):
    torch.manual_seed(3)
    train(a, "cnn", cnn(), (4, 1, 6, 6), lambda p: torch.optim.SGD(p, 0.1))
    train(a, "mlp", mlp(), (6, 6), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9))
    nested = nn.Sequential(
        nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4),
                      nn.Sequential(nn.Conv2d(4, 6, (3, 2), groups=2, bias=False), nn.ReLU(), nn.BatchNorm2d(6))),
        nn.LayerNorm((4, 5)), nn.Embedding(7, 3), nn.Sequential(nn.GroupNorm(2, 6), nn.Flatten()),
        nn.InstanceNorm2d(6, affine=True, track_running_stats=True), nn.InstanceNorm1d(6),
        nn.BatchNorm3d(5, affine=False), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(4, 3),
        nn.Linear(3, 2, bias=False))
    for key, value in nested.state_dict().items():
        a.add(f"nested.{key}", torch.zeros_like(value))


def initial_values(a):
    """init.CASE.NAME: largest magnitude, mean, standard deviation of torch's own first values."""
    torch.manual_seed(5)
    cases = {"linear": nn.Linear(400, 300), "conv1d": nn.Conv1d(40, 96, 5, groups=2),
             "conv2d": nn.Conv2d(24, 64, (3, 5), groups=4), "embedding": nn.Embedding(200, 50),
             "padding_idx": nn.Embedding(200, 50, padding_idx=3), "batch_norm": nn.BatchNorm2d(4),
             "instance_norm": nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
             "layer_norm": nn.LayerNorm(4), "group_norm": nn.GroupNorm(2, 4)}
    for case, module in cases.items():
        for key, value in module.state_dict().items():
            v = value.double()
            a.add(f"init.{case}.{key}", [v.abs().max().item(), v.mean().item(), v.std(unbiased=False).item()])


def main():
    assert torch.__version__.startswith("1.13"), f"expected PyTorch 1.13, got {torch.__version__}"
    torch.set_num_threads(1)
    for name, parts in (("ops.npz", [arithmetic, shapes_and_reductions, elementwise, losses, convolution_ops]),
                        ("layers.npz", [basic_layers]), ("batch_norm.npz", [batch_norms]),
                        ("instance_norm.npz", [instance_norms]), ("other_norms.npz", [layer_norms, group_norms]),
                        ("rms_machine.npz", [rms_machine]),
                        ("switchable_norm.npz", [switchable_norms]), ("nets.npz", [nets, initial_values])):
        archive = Archive(name)
        for part in parts:
            part(archive)
        archive.write()


if __name__ == "__main__":
    main()
