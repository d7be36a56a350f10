"""Reading safetensors with numpy alone."""

import json
import struct
from pathlib import Path

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16, "I32": np.int32}


class File:
    """One safetensors file, mapped."""

    def __init__(self, path):
        self.path = Path(path)
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self.table = json.loads(file.read(length))
        self.table.pop("__metadata__", None)
        self.start = 8 + length

    def names(self):
        return list(self.table)

    def read(self, name):
        """A tensor; BF16 and F16 widened to float32."""
        entry = self.table[name]
        begin, end = entry["data_offsets"]
        dtype = np.dtype(DTYPES[entry["dtype"]])
        flat = np.memmap(self.path, dtype, "r", self.start + begin, ((end - begin) // dtype.itemsize,))
        if entry["dtype"] == "BF16":
            flat = (flat.astype(np.uint32) << 16).view(np.float32)
        elif entry["dtype"] == "F16":
            flat = flat.astype(np.float32)
        return flat.reshape(entry["shape"])


class Tensors:
    """All safetensors files of a folder."""

    def __init__(self, folder):
        files = [File(path) for path in sorted(Path(folder).glob("*.safetensors")) if path.name != "golden.safetensors"]
        self.files = {name: file for file in files for name in file.names()}

    def names(self):
        return list(self.files)

    def read(self, name):
        return self.files[name].read(name)
