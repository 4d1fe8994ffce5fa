#!/usr/bin/env python3
"""Writes architectures.json: what torchvision's networks are called inside and say, which tests compare ours with.

    pip install torch==2.11.0 torchvision==0.26.0
    python3 vision/tests/architectures.py

Weights and picture come from a formula that both sides compute alike, so none has to be stored. `names` is a digest of the
names and shapes of the weights; `logits` is what comes out, for a selection of networks (of maps ten numbers).
"""

import hashlib
import json
import math
from pathlib import Path

import torch
import torchvision

CLASSES = 10
SIDE, SIDE_OF_INCEPTION = 96, 139
LOGITS = {
    "alexnet",
    "densenet121",
    "efficientnet_b0",
    "efficientnet_b5",
    "fcn32s-vgg19",
    "inception_v3",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "squeezenet1_0",
    "squeezenet1_1",
}
NAMES = [
    "alexnet",
    *(f"densenet{n}" for n in (121, 161, 169, 201)),
    *(f"efficientnet_b{n}" for n in (0, 3, 5)),
    "fcn32s-vgg19",
    "inception_v3",
    "mobilenet_v2",
    *(f"resnet{n}" for n in (18, 34, 50)),
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg11_bn",
]


class FCN32s(torch.nn.Module):
    """FCN-32s over VGG-19 with a narrow head."""

    def __init__(self, classes, width=8):
        super().__init__()
        self.features = torchvision.models.vgg19().features
        head = {"fc6": (512, width, 7), "fc7": (width, width, 1), "score": (width, classes, 1)}
        convolutions = {name: torch.nn.Conv2d(i, o, k, padding=k // 2) for name, (i, o, k) in head.items()}
        self.head = torch.nn.ModuleDict(convolutions)
        self.upscore = torch.nn.ConvTranspose2d(classes, classes, 64, stride=32, padding=16, bias=False)

    def forward(self, x):
        x = self.head["fc6"](self.features(x)).relu()
        return self.upscore(self.head["score"](self.head["fc7"](x).relu()))


def hashed(name, count):
    """Numbers from 0 up to 2^32, scattered by the name and the place."""
    seed = 0
    for byte in name.encode():
        seed = (seed * 31 + byte) & 0xFFFFFFFF
    x = (torch.arange(count) + seed) * 0x9E3779B1 & 0xFFFFFFFF
    x = (x ^ (x >> 16)) * 0x45D9F3B & 0xFFFFFFFF
    return x ^ (x >> 16)


def formula(name, shape, is_normalisation):
    """Weights that keep numbers in bounds on their way through many layers."""
    uniform = (hashed(name, math.prod(shape)).double() / 2**32).reshape(shape)
    if is_normalisation and name.endswith((".weight", ".running_var")):
        return (uniform + 0.5).float()
    if len(shape) < 2:
        return ((uniform - 0.5) * 0.2).float()
    return ((uniform * 2 - 1) * math.sqrt(3 / math.prod(shape[1:]))).float()


def main():
    torch.set_grad_enabled(False)
    reference = {}
    for name in NAMES:
        if name == "fcn32s-vgg19":
            network = FCN32s(CLASSES).eval()
        else:
            more = {"init_weights": False} if name == "inception_v3" else {}
            network = getattr(torchvision.models, name)(num_classes=CLASSES, **more).eval()
        state = {
            key: value
            for key, value in network.state_dict().items()
            if not key.endswith("num_batches_tracked") and not key.startswith("AuxLogits.")
        }
        lines = "".join(f"{key} {list(value.shape)}\n" for key, value in sorted(state.items()))
        entry = {"names": hashlib.sha256(lines.encode()).hexdigest()}
        if name in LOGITS:
            for key, value in state.items():
                parent = key.rsplit(".", 1)[0]
                value.copy_(formula(key, list(value.shape), f"{parent}.running_mean" in state))
            side = SIDE_OF_INCEPTION if name == "inception_v3" else SIDE
            picture = (hashed("picture", 3 * side * side) & 255).reshape(1, 3, side, side).float() / 255 * 2 - 1
            output = network(picture).flatten()
            entry["logits"] = output[:: len(output) // CLASSES][:CLASSES].tolist()
            print(name, [round(logit, 3) for logit in entry["logits"]])
        reference[name] = entry
    Path(__file__).with_suffix(".json").write_text(json.dumps(reference, indent=1) + "\n")


main()
