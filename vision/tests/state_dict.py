#!/usr/bin/env python3
"""Writes state-dict.pt, a state dict with a little of everything, which the reader's tests read.

pip install torch==2.11.0
python3 vision/tests/state_dict.py
"""

from collections import OrderedDict
from pathlib import Path

import torch

whole = torch.arange(6, dtype=torch.float32).reshape(2, 3)
tensors = OrderedDict(
    plain=whole,
    turned=whole.T,
    part=whole[1],
    half=torch.tensor([0.5, -2.0], dtype=torch.float16),
    brain=torch.tensor([1.5], dtype=torch.bfloat16),
    counter=torch.tensor(7),
    learned=torch.nn.Parameter(torch.ones(2)),
)
tensors._metadata = OrderedDict({"": {"version": 1}})
torch.save(tensors, Path(__file__).with_name("state-dict.pt"))
