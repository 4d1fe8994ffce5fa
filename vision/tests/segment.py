#!/usr/bin/env python3
"""Writes what PyTorch 2.11 says of a photograph with a person, which `tidemill models verify` and the tests compare with:
models/selfie-segmentation/golden.safetensors, and astronaut.mask.png, the mask at the photograph's size.

pip install torch==2.11.0 pillow numpy
python3 vision/tests/segment.py
"""

import json
import struct
from pathlib import Path

import numpy
import torch
from PIL import Image

HERE = Path(__file__).parent
MODEL = HERE.parents[1] / "models" / "selfie-segmentation"
PHOTO = HERE.parents[1] / "examples" / "photos" / "astronaut.png"
SIZE, MAP_STEP = 256, 8


def main():
    torch.set_grad_enabled(False)
    network = torch.jit.load(MODEL / "selfie-segmentation.pt").eval()
    photo = Image.open(PHOTO).convert("RGB")
    pixels = numpy.asarray(photo.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    person = network(torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255)
    both = torch.cat([1 - person, person], 1)
    outputs = both[:, :, ::MAP_STEP, ::MAP_STEP].contiguous().numpy()
    write(MODEL / "golden.safetensors", {"outputs": outputs, "pixels": pixels[None]})
    whole = torch.nn.functional.interpolate(both, size=photo.size[::-1], mode="bilinear", align_corners=False)
    mask = whole[0].argmax(0).to(torch.uint8).numpy()
    print("person:", mask.mean())
    Image.fromarray(mask * 255).convert("1").save(HERE / "astronaut.mask.png", optimize=True)


def write(file, arrays):
    """Writes arrays as safetensors."""
    kinds = {"float32": "F32", "uint8": "U8"}
    header, at = {}, 0
    for name, array in arrays.items():
        end = at + array.nbytes
        header[name] = {"dtype": kinds[str(array.dtype)], "shape": list(array.shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


main()
