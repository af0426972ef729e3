#!/usr/bin/env python3
"""Makes recurrent.npz: what PyTorch 1.13.1 computes, in float64, of RNN, LSTM and GRU, and of the same cells with
LayerNorm or with BatchNorm per step, composed of PyTorch's own parts.

    python3 tests/golden/make_recurrent.py      # writes it beside itself, the same bytes each time

A case named CASE holds:
    CASE.case                    cell (0 RNN, 1 LSTM, 2 GRU), input_size, hidden_size, N, T, layout (1 batch first,
                                 2 time first), num_layers, bias, bidirectional, nonlinearity (0 tanh, 1 relu), norm
                                 (0 none, 1 LayerNorm, 2 BatchNorm), whether there are initial states; then, where the
                                 batch is padded, the N lengths
    CASE.y, CASE.h, CASE.c       output, final states (c: of an LSTM)
    CASE.dx, CASE.dh0, CASE.dc0  gradients of the input and, where there are any, of the initial states
    CASE.g                       gradients of all parameters, one after the other, names in alphabetical order
What goes in is shared: a case takes the first numbers of the arrays x, h0, c0, p (the parameters, in the order of g),
and of the cotangents dy, dh, dc of output and final states.  All of them are exact in float32.

state.CELL.NAME: zeros, shaped and ordered as in the state_dict of torch's layer.
init.NAME: largest magnitude, mean, standard deviation of the first values of an LSTM.
"""
import make_layers  # first: it fixes what the bytes could depend on  # noqa: I001
from make_layers import Archive, numbers

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

CELLS = {"rnn": 0, "lstm": 1, "gru": 2}
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
NORMS = {None: 0, "ln": 1, "bn": 2}
RANGES = {"x": 2.0, "h0": 1.0, "c0": 1.0, "p": 0.625, "dy": 1.0, "dh": 1.0, "dc": 1.0}
EPS = 2.0**-7
COUNT = {"x": 192, "h0": 40, "c0": 40, "p": 320, "dy": 192, "dh": 40, "dc": 40}


class Composed(nn.Module):
    """The three cells step by step.  eps is 2^-7: where two sequences remain, a batch's variance may be small, and
    1/sqrt(var + eps) is what its rounding errors grow by."""

    def __init__(self, cell, input_size, hidden, layers, bias, both, relu, norm):
        super().__init__()
        self.cell, self.hidden, self.layers, self.both, self.norm = cell, hidden, layers, both, norm
        self.act = torch.relu if relu else torch.tanh
        rows = GATES[cell] * hidden
        for layer in range(layers):
            for way in ("", "_reverse")[: 1 + both]:
                width = hidden * (1 + both) if layer else input_size
                shapes = {"weight_ih": (rows, width), "weight_hh": (rows, hidden)}
                if bias:
                    shapes.update(bias_ih=(rows,), bias_hh=(rows,))
                if norm:
                    shapes.update(gain_ih=(rows,), gain_hh=(rows,))
                    if cell == "lstm":
                        shapes.update(gain_c=(hidden,))
                        if bias:
                            shapes.update(bias_c=(hidden,))
                for name, shape in shapes.items():
                    self.register_parameter(f"{name}_l{layer}{way}", nn.Parameter(torch.zeros(shape)))

    def normalized(self, v, which, suffix):
        gain, bias = (getattr(self, f"{kind}_{which}{suffix}", None) for kind in ("gain", "bias"))
        if not self.norm:
            return v if bias is None else v + bias
        if self.norm == "ln":
            parts = [2 * self.hidden, self.hidden] if self.cell == "gru" else [v.shape[1]]
            at, done = 0, []
            for size in parts:
                cut = slice(at, at + size)
                done.append(F.layer_norm(v[:, cut], (size,), gain[cut], bias if bias is None else bias[cut], EPS))
                at += size
            return torch.cat(done, 1)
        if v.shape[0] > 1:
            return F.batch_norm(v, None, None, gain, bias, True, 0.0, EPS)
        one = torch.ones_like(gain)  # the running statistics, as they start
        return F.batch_norm(v, 0 * one, one, gain, bias, False, 0.0, EPS)

    def step(self, x, h, c, suffix):
        a = self.normalized(x @ getattr(self, "weight_ih" + suffix).T, "ih", suffix)
        b = self.normalized(h @ getattr(self, "weight_hh" + suffix).T, "hh", suffix)
        if self.cell == "rnn":
            return self.act(a + b), c
        if self.cell == "lstm":
            i, f, g, o = (a + b).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            return torch.sigmoid(o) * torch.tanh(self.normalized(c, "c", suffix) if self.norm else c), c
        ar, az, an = a.chunk(3, 1)
        br, bz, bn = b.chunk(3, 1)
        r, z = torch.sigmoid(ar + br), torch.sigmoid(az + bz)
        return (1 - z) * torch.tanh(an + r * bn) + z * h, c

    def one_way(self, x, lengths, h, c, suffix, back):
        h, c = list(h), list(c)
        out = [[torch.zeros(self.hidden, dtype=x.dtype)] * x.shape[1] for _ in lengths]
        for s in range(max(lengths)):
            running = [n for n, length in enumerate(lengths) if length > s]
            steps = [lengths[n] - 1 - s if back else s for n in running]
            hs, cs = self.step(torch.stack([x[n, t] for n, t in zip(running, steps)]),
                               torch.stack([h[n] for n in running]), torch.stack([c[n] for n in running]), suffix)
            for row, (n, t) in enumerate(zip(running, steps)):
                h[n], c[n], out[n][t] = hs[row], cs[row], hs[row]
        return torch.stack([torch.stack(o) for o in out]), torch.stack(h), torch.stack(c)

    def forward(self, x, lengths, h0, c0):
        """x (N, T, D)."""
        h, c, at = [], [], 0
        for layer in range(self.layers):
            ways = []
            for back in range(1 + self.both):
                y, hn, cn = self.one_way(x, lengths, h0[at], c0[at], f"_l{layer}" + "_reverse" * back, back)
                ways.append(y)
                h.append(hn)
                c.append(cn)
                at += 1
            x = torch.cat(ways, 2)
        return x, torch.stack(h), torch.stack(c)


def torch_layer(cell, input_size, hidden, layers, bias, both, relu):
    kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    extra = {"nonlinearity": "relu" if relu else "tanh"} if cell == "rnn" else {}
    return kind(input_size, hidden, layers, bias=bias, bidirectional=both, batch_first=True, **extra)


def run_torch(layer, x, lengths, h0, c0):
    lstm = isinstance(layer, nn.LSTM)
    if min(lengths) < x.shape[1]:
        packed = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        y, final = layer(packed, (h0, c0) if lstm else h0)
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=x.shape[1])
    else:
        y, final = layer(x, (h0, c0) if lstm else h0)
    return (y, *final) if lstm else (y, final, torch.zeros_like(final))


def take(a, kind, shape):
    """The first numbers of a shared array, a leaf."""
    if kind not in a.entries:
        a.add(kind, numbers("recurrent " + kind, (COUNT[kind],), -RANGES[kind], RANGES[kind]))
    size = int(np.prod(shape))
    assert size <= COUNT[kind], (kind, size)
    return torch.from_numpy(a.entries[kind][:size].reshape(shape).copy()).requires_grad_()


def add_case(a, case, cell, norm=None, n=3, steps=4, input_size=3, hidden=3, layout=1, layers=1, bias=True, both=False,
             relu=False, states=False, lengths=None):
    lstm, ways = cell == "lstm", layers * (1 + both)
    composed = Composed(cell, input_size, hidden, layers, bias, both, relu, norm).double()
    layer = composed if norm else torch_layer(cell, input_size, hidden, layers, bias, both, relu).double()
    named = sorted(layer.named_parameters())
    flat, at = take(a, "p", (sum(p.numel() for _, p in named),)).detach(), 0
    for name, p in named:
        p.data = flat[at:at + p.numel()].reshape(p.shape).clone()
        dict(composed.named_parameters())[name].data = p.data
        at += p.numel()
    x = take(a, "x", (n, steps, input_size) if layout == 1 else (steps, n, input_size))
    zeros = torch.zeros(ways, n, hidden).double()
    h0 = take(a, "h0", zeros.shape) if states else zeros
    c0 = take(a, "c0", zeros.shape) if states and lstm else zeros
    whole = lengths or [steps] * n
    batch_first = x if layout == 1 else x.transpose(0, 1)
    y, h, c = composed(batch_first, whole, h0, c0) if norm else run_torch(layer, batch_first, whole, h0, c0)
    for ours, theirs in list(zip(composed(batch_first, whole, h0, c0), (y, h, c)))[:2 + lstm]:
        assert (ours - theirs).abs().max() < 1e-13, case  # the composition is the layer
    y = y if layout == 1 else y.transpose(0, 1)
    loss = (y * take(a, "dy", y.shape).detach()).sum() + (h * take(a, "dh", h.shape).detach()).sum()
    if lstm:
        loss = loss + (c * take(a, "dc", c.shape).detach()).sum()
    loss.backward()
    a.add(f"{case}.case", np.array([CELLS[cell], input_size, hidden, n, steps, layout, layers, bias, both, relu,
                                    NORMS[norm], states, *(lengths or [])], dtype=np.int16))
    a.add(f"{case}.y", y)
    a.add(f"{case}.h", h)
    a.add(f"{case}.dx", x.grad)
    if lstm:
        a.add(f"{case}.c", c)
    if states:
        a.add(f"{case}.dh0", h0.grad)
        if lstm:
            a.add(f"{case}.dc0", c0.grad)
    a.add(f"{case}.g", torch.cat([p.grad.reshape(-1) for _, p in named]))


MIXED = [3, 5, 1, 5, 2]  # unsorted, a tie, a length of 1


def cases(a):
    for name, cell, relu in (("rnn", "rnn", False), ("relu", "rnn", True), ("lstm", "lstm", False),
                             ("gru", "gru", False)):
        add_case(a, name, cell, relu=relu)
        add_case(a, f"{name}_no_bias", cell, relu=relu, bias=False, layout=2, states=True)
        add_case(a, f"{name}_packed", cell, relu=relu, n=5, steps=5, states=True, lengths=MIXED)
        add_case(a, f"{name}_deep", cell, relu=relu, hidden=2, layers=3, layout=2, n=5, steps=6, lengths=MIXED)
        if not relu:
            add_case(a, f"{name}_both", cell, hidden=2, layers=2, both=True, states=True, layout=2)
        add_case(a, f"{name}_both_packed", cell, relu=relu, hidden=2, layers=2, both=True, states=True, n=5, steps=5,
                 lengths=MIXED)
    add_case(a, "lstm_one", "lstm", n=1, steps=1)
    add_case(a, "gru_wide", "gru", n=2, steps=3, input_size=1, hidden=5, lengths=[1, 1])
    add_case(a, "lstm_long", "lstm", n=2, steps=40, input_size=1, hidden=2, lengths=[40, 17])
    for norm in ("ln", "bn"):
        for cell in CELLS:
            name = f"{norm}_{cell}"
            add_case(a, name, cell, norm, n=4)
            add_case(a, f"{name}_packed", cell, norm, n=5, steps=5, states=True, lengths=MIXED)
        add_case(a, f"{norm}_lstm_no_bias", "lstm", norm, n=4, bias=False, layout=2, lengths=[2, 4, 1, 3])
        add_case(a, f"{norm}_lstm_deep", "lstm", norm, n=5, steps=5, hidden=2, layers=2, both=True, states=True,
                 lengths=MIXED)
        add_case(a, f"{norm}_gru_deep", "gru", norm, n=5, steps=5, hidden=2, layers=2, both=True, layout=2,
                 lengths=MIXED)
        add_case(a, f"{norm}_relu", "rnn", norm, n=4, relu=True, bias=False)


def names_and_first_values(a):
    for name, layer in (("rnn", nn.RNN(4, 3, 2, bias=False)), ("lstm", nn.LSTM(4, 3, 2, bidirectional=True)),
                        ("gru", nn.GRU(4, 3))):
        for key, value in layer.state_dict().items():
            a.add(f"state.{name}.{key}", torch.zeros_like(value))
    torch.manual_seed(5)
    for key, value in nn.LSTM(30, 40).state_dict().items():
        v = value.double()
        a.add(f"init.{key}", [v.abs().max().item(), v.mean().item(), v.std(unbiased=False).item()])


def main():
    assert torch.__version__.startswith("1.13"), f"expected PyTorch 1.13, got {torch.__version__}"
    torch.set_num_threads(1)
    archive = Archive("recurrent.npz")
    cases(archive)
    names_and_first_values(archive)
    archive.write()


if __name__ == "__main__":
    main()
