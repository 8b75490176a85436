"""The benchmark's other half, run by an environment with torch and bayesian-torch: takes steps when told to.

The argument is the plan: [image, batch, examples, steps, layers]. Each line of input names a model, and is
answered with "done" after that many training steps of it; the other process holds the clock.
"""

import json
import sys

import torch
from bayesian_torch.layers import Conv2dFlipout, LinearFlipout
from torch import nn


class Network(nn.Module):
    """The layers of the plan, Bayesian where they are in ours or nowhere; gives logits and the KL."""

    def __init__(self, image, layers, bayesian):
        super().__init__()
        height, width, channels = image
        places, parts = height * width, []
        for layer in layers:
            noisy = bayesian and layer.get("bayesian")
            if layer["kind"] == "flatten":
                parts.append(nn.Flatten())
                channels, places = channels * places, 1
            elif layer["kind"] == "pool":
                parts.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
                places = height * width
            elif layer["kind"] == "conv":
                make = Conv2dFlipout if noisy else nn.Conv2d
                parts.append(make(channels, layer["units"], layer["kernel"], padding=layer["kernel"] // 2))
                channels = layer["units"]
            else:
                parts.append((LinearFlipout if noisy else nn.Linear)(channels, layer["units"]))
                channels = layer["units"]
            parts += [nn.ReLU()] if layer.get("relu") else []
        self.parts = nn.ModuleList(parts)

    def forward(self, x):
        divergence = 0.0
        for part in self.parts:
            x = part(x)
            if isinstance(x, tuple):
                x, kl = x
                divergence = divergence + kl
        return x, divergence


def stepper(model, x, y, examples):
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def step():
        optimizer.zero_grad()
        logits, kl = model(x)
        loss = nn.functional.cross_entropy(logits, y) + kl / examples
        loss.backward()
        optimizer.step()

    return step


def main():
    image, batch, examples, steps, layers = json.loads(sys.argv[1])
    x = torch.rand(batch, image[2], *image[:2])
    y = torch.randint(0, 10, (batch,))
    names = {"bayesian-torch": True, "torch twin": False}
    run = {name: stepper(Network(image, layers, noisy), x, y, examples) for name, noisy in names.items()}
    for line in sys.stdin:
        for _ in range(steps):
            run[line.strip()]()
        print("done", flush=True)


if __name__ == "__main__":
    main()
