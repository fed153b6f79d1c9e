"""The runtime keeps mixq's contract; the package has to be installed (pip install -e .)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mixq.export.source import Source
from mixq.testing import RuntimeContract


class TestNpz(RuntimeContract):
    runtime = "npz"
    holds = (
        *("w32", "w16", "w8", "w8g64", "w8g32-signed", "w8g32-zp", "w8g64-affine", "w8-reduced"),
        *("w4", "w4g32", "w4g32-signed", "w4g32-zp", "w4g32-affine"),
        *("w2g32", "w2g32-signed", "w2g32-zp", "w2g32-affine"),
    )
    takes = ("embedding", "tied")
    loader = "import sys, npz_network; npz_network.Network(sys.argv[1])"

    def weights(self, path: Path, source: Source) -> dict[str, Tensor]:
        from npz_network import Network

        network = Network(str(path))
        return {name: torch.from_numpy(network.weight(name)) for name in source.units}
