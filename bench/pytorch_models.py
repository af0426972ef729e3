"""The models of models.h in PyTorch: same weights, same data, same steps."""
import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASSES, STEPS, FEATURES = 10, 20, 64
STREAM_BATCH, MOST_BATCHES = 1000, 256
CHECKED_STEPS = 5


def bench_hash(n, stream, begin=0):
    """bench_hash() of begin … n−1: products wrap, of which the lower 32 bits are right."""
    h = torch.arange(begin, n, dtype=torch.int64).add_(stream * 0x9E3779B9).bitwise_and_(0xFFFFFFFF)
    h.bitwise_xor_(h >> 16).mul_(0x85EBCA6B).bitwise_and_(0xFFFFFFFF)
    h.bitwise_xor_(h >> 13).mul_(0xC2B2AE35).bitwise_and_(0xFFFFFFFF)
    return h.bitwise_xor_(h >> 16)


def fill_noise(tensor, stream, scale=1.0):
    """bench_noise(), in pieces: what is made on the way would count as memory."""
    flat = tensor.detach().view(-1)
    for begin in range(0, flat.numel(), 16384):
        piece = flat[begin:begin + 16384]
        h = bench_hash(begin + piece.numel(), stream, begin)
        piece.copy_(h >> 8).mul_(2.0**-23).sub_(1).mul_(scale)
    return tensor


def noise(*shape, stream):
    return fill_noise(torch.empty(shape), stream)


def norm_relu(norm, channels, planes):
    layers = {"bn": nn.BatchNorm2d if planes else nn.BatchNorm1d, "gn": lambda c: nn.GroupNorm(8, c)}
    return ([layers[norm](channels)] if norm in layers else []) + [nn.ReLU(inplace=True)]


def make_mlp(norm, width):
    bias = norm == "none"
    return nn.Sequential(nn.Linear(784, width, bias), *norm_relu(norm, width, False),
                         nn.Linear(width, width, bias), *norm_relu(norm, width, False), nn.Linear(width, CLASSES))


def conv(norm, in_channels, out_channels, kernel=3, stride=1):
    return nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=norm == "none")


def make_cnn(norm, width):
    return nn.Sequential(conv(norm, 1, width), *norm_relu(norm, width, True),
                         conv(norm, width, width), *norm_relu(norm, width, True), nn.MaxPool2d(2),
                         conv(norm, width, 2 * width), *norm_relu(norm, 2 * width, True), nn.MaxPool2d(2),
                         nn.Flatten(), nn.Linear(2 * width * 7 * 7, CLASSES))


class BasicBlock(nn.Module):
    def __init__(self, norm, in_channels, out_channels, stride):
        super().__init__()
        self.body = nn.Sequential(conv(norm, in_channels, out_channels, 3, stride), nn.BatchNorm2d(out_channels),
                                  nn.ReLU(inplace=True), conv(norm, out_channels, out_channels),
                                  nn.BatchNorm2d(out_channels))
        self.shortcut = None
        if stride > 1:
            self.shortcut = nn.Sequential(conv(norm, in_channels, out_channels, 1, stride),
                                          nn.BatchNorm2d(out_channels))

    def forward(self, x):
        return F.relu_(self.body(x).add_(x if self.shortcut is None else self.shortcut(x)))


def make_resnet(norm, width):
    blocks, channels = [], width
    for stage in range(3):
        out = width << stage
        blocks += [BasicBlock(norm, channels, out, 2 if stage else 1), BasicBlock(norm, out, out, 1)]
        channels = out
    return nn.Sequential(conv(norm, 3, width), *norm_relu(norm, width, True), *blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(4 * width, CLASSES))


class LSTM(nn.LSTM):
    def forward(self, x):
        return super().forward(x)[0]


class LayerNormLSTM(nn.Module):
    """EK_RECURRENT_LAYER_NORM composed of nn.functional's parts; the products with x of all steps are one."""

    def __init__(self, features, width):
        super().__init__()
        self.width = width
        for name, *shape in (("weight_ih", 4 * width, features), ("weight_hh", 4 * width, width),
                             ("bias_ih", 4 * width), ("bias_hh", 4 * width), ("gain_ih", 4 * width),
                             ("gain_hh", 4 * width), ("gain_c", width), ("bias_c", width)):
            setattr(self, name, nn.Parameter(torch.ones(shape)))

    def forward(self, x: Tensor) -> Tensor:
        steps, batch = x.shape[0], x.shape[1]
        gates = [4 * self.width]
        h = torch.zeros(batch, self.width)
        c = torch.zeros(batch, self.width)
        from_x = F.layer_norm(F.linear(x, self.weight_ih), gates, self.gain_ih, self.bias_ih)
        out = []
        for t in range(steps):
            z = from_x[t] + F.layer_norm(F.linear(h, self.weight_hh), gates, self.gain_hh, self.bias_hh)
            i, f, g, o = z.chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, [self.width], self.gain_c, self.bias_c))
            out.append(h)
        return torch.stack(out)


# name: (default norm, default optimizer, default width, maker, shape of a sample)
FAMILIES = {
    "mlp": ("bn", "adam", 256, make_mlp, (784,)),
    "cnn": ("bn", "sgd", 32, make_cnn, (1, 28, 28)),
    "resnet": ("bn", "sgd", 16, make_resnet, (3, 32, 32)),
    "lstm": ("none", "adam", 128, lambda norm, width: LSTM(FEATURES, width), None),
    "lnlstm": ("none", "adam", 128, lambda norm, width: LayerNormLSTM(FEATURES, width), None),
}


def fill_parameters(net):
    for stream, (name, p) in enumerate(net.named_parameters()):
        if p.dim() > 1:
            fill_noise(p, stream, (p.numel() // len(p))**-0.5)
        elif "bias" in name:
            fill_noise(p, stream, 0.1)


class Model:
    """A net and its training step."""

    def __init__(self, kind, size, variant, scripted=False):
        family, *words = kind.split("_")
        norm, optimizer, width, make, sample = FAMILIES[family]
        for word in words:
            if word in ("adam", "sgd"):
                optimizer = word
            else:
                norm = word
        sizes = {part[0]: int(part[1:]) for part in size.split("_")}
        batch, width = sizes.get("b", 32), sizes.get("w", width)
        self.net = make(norm, width)
        fill_parameters(self.net)
        self.parameters = list(self.net.parameters())
        if optimizer == "sgd":
            self.optimizer = torch.optim.SGD(self.parameters, 0.01, momentum=0.9)
        else:
            self.optimizer = torch.optim.Adam(self.parameters, 1e-3)
        self.states_memory = variant == "mem"
        self.forward = torch.jit.script(self.net) if scripted else self.net
        self.loss = F.cross_entropy if sample else F.mse_loss
        self.batches = []
        for k in range(1 if self.states_memory else max(1, MOST_BATCHES // batch)):
            stream = STREAM_BATCH + 2 * k
            if sample:
                self.batches.append((noise(batch, *sample, stream=stream), bench_hash(batch, stream + 1) % CLASSES))
            else:
                self.batches.append((noise(STEPS, batch, FEATURES, stream=stream),
                                     noise(STEPS, batch, width, stream=stream + 1)))
        self.next = itertools.cycle(self.batches)

    def step(self):
        x, target = next(self.next)
        loss = self.loss(self.forward(x), target)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss

    def state(self):
        return [t.detach() for t in self.net.state_dict().values() if t.is_floating_point()]

    def check(self):
        """The sum of the losses of the first steps, and how far they moved weights and running statistics."""
        before = [] if self.states_memory else [t.clone() for t in self.state()]
        losses = sum(self.step().item() for _ in range(CHECKED_STEPS))
        if self.states_memory:
            return losses, 0
        moved = sum((t - b).abs().sum(dtype=torch.float64).item() for t, b in zip(self.state(), before))
        return losses, moved / sum(b.numel() for b in before)


def make_model(kind, size, variant, scripted=False):
    """A Model, or None when there is no such kind."""
    family = kind.split("_")[0]
    if family not in FAMILIES or scripted and family != "lnlstm":
        return None
    return Model(kind, size, variant, scripted)
