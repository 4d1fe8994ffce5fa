"""Reads a state dict in PyTorch's format of before 2020 without PyTorch, and writes it as safetensors.

libtorch (and so the crate `tch`) reads only the newer zip format. The unpickler knows the names that a state dict of
plain tensors needs and refuses every other, so a file cannot run code.
"""

import json
import pickle
import struct
from collections import OrderedDict

MAGIC = 0x1950A86A20F9469CFC6C
TYPES = {
    "FloatStorage": ("F32", 4),
    "LongStorage": ("I64", 8),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
}


class Storage:
    """The kind of a storage, as the pickle names it, and later its bytes."""

    def __init__(self, kind, count):
        self.dtype, self.size = TYPES[kind]
        self.count, self.data = count, b""


class Tensor:
    """A view of a storage, with any strides."""

    def __init__(self, storage, offset, shape, stride, *_):
        self.storage, self.offset, self.shape, self.stride = storage, offset, list(shape), list(stride)

    def data(self):
        """Returns the tensor's bytes in row-major order."""
        elements = memoryview(self.storage.data).cast({1: "B", 2: "H", 4: "I", 8: "Q"}[self.storage.size])
        dimensions = [(n, step) for n, step in zip(self.shape, self.stride, strict=True) if n > 1]
        return b"".join(rows(elements, self.offset, dimensions))


def rows(elements, at, dimensions):
    """Yields the bytes of the innermost rows, one after another."""
    if len(dimensions) <= 1:
        count, step = dimensions[0] if dimensions else (1, 1)
        yield elements[at : at + (count - 1) * step + 1 : step].tobytes()
        return
    count, step = dimensions[0]
    for index in range(count):
        yield from rows(elements, at + index * step, dimensions[1:])


class Unpickler(pickle.Unpickler):
    """Knows only what a state dict of plain tensors is made of."""

    def __init__(self, file):
        super().__init__(file)
        self.storages = {}

    def find_class(self, module, name):
        if module == "torch" and name in TYPES:
            return name
        known = {("collections", "OrderedDict"): OrderedDict, ("torch._utils", "_rebuild_tensor_v2"): Tensor}
        if (module, name) in known:
            return known[module, name]
        raise pickle.UnpicklingError(f"a state dict does not need {module}.{name}")

    def persistent_load(self, pid):
        what, kind, key, _device, count, view = pid
        if what != "storage" or view is not None:
            raise pickle.UnpicklingError("only whole storages are read")
        return self.storages.setdefault(key, Storage(kind, count))


def read_legacy(file):
    """Returns the tensors of a legacy file by name."""
    if Unpickler(file).load() != MAGIC:
        raise pickle.UnpicklingError("not a PyTorch file of the legacy format")
    protocol, system = Unpickler(file).load(), Unpickler(file).load()
    if protocol != 1001 or not system["little_endian"]:
        raise pickle.UnpicklingError("an unknown version of the legacy format")
    reader = Unpickler(file)
    tensors = reader.load()
    for key in Unpickler(file).load():
        storage = reader.storages[key]
        (count,) = struct.unpack("<q", file.read(8))
        if count != storage.count:
            raise pickle.UnpicklingError(f"storage {key} has {count} elements, not {storage.count}")
        storage.data = file.read(count * storage.size)
    return tensors


def to_safetensors(tensors):
    """Writes tensors as the bytes of a safetensors file: eight bytes of header length, the header in JSON, the data.

    Counters of training (`num_batches_tracked`) are left out. The same tensors give the same bytes.
    """
    header, blocks, at = {}, [], 0
    for name in sorted(name for name in tensors if not name.endswith("num_batches_tracked")):
        tensor, data = tensors[name], tensors[name].data()
        end = at + len(data)
        header[name] = {"dtype": tensor.storage.dtype, "shape": tensor.shape, "data_offsets": [at, end]}
        blocks.append(data)
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([struct.pack("<Q", len(text)), text, *blocks])
