"""A quantized network in an .npz file, run by numpy alone.

python npz_network.py model.npz inputs.npy outputs.npy
"""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ACTIVATIONS = {
    "ReLU": lambda x: np.maximum(x, 0),
    "Tanh": np.tanh,
    "Identity": lambda x: x,
    "Flatten": lambda x: x.reshape(len(x), -1),
}


class Network:
    """Layers in a row, read from a file."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:  # noqa: PTH123
            self._arrays = dict(file)
        self._program = json.loads(self._arrays.pop("program").tobytes())

    def __call__(self, x: Array) -> Array:
        for layer in self._program["layers"]:
            kind = layer["kind"]
            if kind == "Linear":
                x = x @ self.weight(layer["weight"]).T
                x = x + self._arrays[layer["bias"]] if layer["bias"] else x
            elif kind == "Embedding":
                x = self.weight(layer["weight"])[x]
            else:
                x = ACTIVATIONS[kind](x)
        return x

    def weight(self, name: str) -> Array:
        """A matrix as float32, from codes if it has any."""
        unit = self._program["units"].get(name)
        if unit is None:
            return self._arrays[name].astype(np.float32)
        rows, columns, bits = unit["rows"], unit["columns"], unit["bits"]
        group = np.arange(columns) // (unit["group_size"] or columns)
        scales = self._arrays[f"{name}/scales"].astype(np.float32)
        codes = unpacked(self._arrays[f"{name}/codes"], bits, rows * columns).reshape(
            rows, columns
        )
        if f"{name}/minimums" in self._arrays:
            minimums = self._arrays[f"{name}/minimums"].astype(np.float32)
            return codes * scales[:, group] + minimums[:, group]
        zeros = np.full(scales.shape, 1 << (bits - 1), np.float32)
        if f"{name}/zeros" in self._arrays:
            packed = self._arrays[f"{name}/zeros"]
            zeros = unpacked(packed, bits, scales.size).reshape(scales.shape)
        return (codes - zeros[:, group]) * scales[:, group]


def unpacked(packed: Array, bits: int, count: int) -> Array:
    """Codes as float32; the first lies in the lowest bits of the first byte."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    codes = (packed[:, None] >> shifts) & ((1 << bits) - 1)
    return codes.reshape(-1)[:count].astype(np.float32)


if __name__ == "__main__":
    model, inputs, outputs = sys.argv[1:]
    np.save(outputs, Network(model)(np.load(inputs)))
