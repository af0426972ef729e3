"""The small-batch experiment with BatchNorm as a plain PyTorch script.

pytorch_job.py FILE   trains at batch sizes 2, 4, 8 and 32 on what `job export FILE` wrote; prints seconds and errors
"""
import sys
import time

import numpy
import torch
import torch.nn.functional as F
from torch import nn

BATCHES, EVALUATION_BATCH = (2, 4, 8, 32), 100


def make_net():
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
                         nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Flatten(),
                         nn.Linear(784, 64), nn.BatchNorm1d(64), nn.ReLU(inplace=True), nn.Linear(64, 10))


class Job:
    """What is timed: training and evaluation at each of the batch sizes."""

    def __init__(self, path, batches=BATCHES):
        with numpy.load(path) as archive:
            arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}
        self.weights = {name[4:]: value for name, value in arrays.items() if name.startswith("net.")}
        self.train, self.test = (arrays["train.x"], arrays["train.y"]), (arrays["test.x"], arrays["test.y"])
        self.order = arrays["order"]
        self.few_orders = {batch: arrays["few.order.%d" % batch][:1] for batch in BATCHES}
        self.batches = batches

    def fit(self, batch, order):
        net = make_net()
        net.load_state_dict(self.weights)
        optimizer = torch.optim.SGD(net.parameters(), 0.05 * batch / 32, momentum=0.9)
        x, y = self.train
        for epoch in order:
            for chosen in epoch.split(batch):
                F.cross_entropy(net(x[chosen]), y[chosen]).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return net

    def evaluate(self, net):
        """Held-out loss and error in %."""
        loss = right = 0
        net.eval()
        with torch.no_grad():
            for x, y in zip(*(part.split(EVALUATION_BATCH) for part in self.test)):
                logits = net(x)
                loss += F.cross_entropy(logits, y, reduction="sum").item()
                right += (logits.argmax(1) == y).sum().item()
        size = len(self.test[1])
        return loss / size, 100 * (1 - right / size)

    def step(self):
        return [self.evaluate(self.fit(batch, self.order)) for batch in self.batches]

    def check(self):
        return sum(self.evaluate(self.fit(batch, self.few_orders[batch]))[0] for batch in self.batches), 0


def main():
    torch.set_num_threads(1)
    for batch in BATCHES:
        job = Job(sys.argv[1], (batch,))
        start = time.perf_counter()
        error = job.step()[0][1]
        print("batch size %2d: %.2f s, test error %.2f %%" % (batch, time.perf_counter() - start, error))


if __name__ == "__main__":
    main()
