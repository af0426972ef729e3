"""PyTorch's results for accuracy.c.  A request is a line KIND SIZE [OPTION…] and the float32 numbers of x, dy, γ, β;
the answer is "ready" and those of y, dx, dγ, dβ and, where there are some, of the running mean and variance; "none"
where there is no such norm."""
import sys

import numpy
import torch

from peer_pytorch import make_norm, read_options


def read(shape):
    count = torch.Size(shape).numel()
    values = numpy.frombuffer(sys.stdin.buffer.read(4 * count), numpy.float32)
    return torch.from_numpy(values.copy()).reshape(shape)


def write(tensor):
    sys.stdout.buffer.write(memoryview(tensor.detach().contiguous().numpy()).cast("B"))


def main():
    torch.set_num_threads(1)
    for line in iter(sys.stdin.buffer.readline, b""):
        kind, size, *words = line.decode().split()
        shape = [int(dim) for dim in size.split("x")]
        layer = make_norm(kind, shape, read_options(words))
        x, dy = read(shape).requires_grad_(), read(shape)
        with torch.no_grad():
            layer.weight.copy_(read(layer.weight.shape))
            layer.bias.copy_(read(layer.bias.shape))
        y = layer(x)
        y.backward(dy)
        sys.stdout.buffer.write(b"ready\n")
        for tensor in (y, x.grad, layer.weight.grad, layer.bias.grad):
            write(tensor)
        if getattr(layer, "running_mean", None) is not None:
            write(layer.running_mean)
            write(layer.running_var)
        sys.stdout.buffer.flush()


main()
