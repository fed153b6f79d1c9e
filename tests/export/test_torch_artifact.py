"""torch: the packed artifact, loaded into an architecture without weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.errors import ExportError
from mixq.export import registry
from mixq.formats import Format
from tests.plans import plan_for


class Buffered(nn.Module):
    """A buffer that no file holds, and one that counts."""

    frequencies: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)
        self.register_buffer("frequencies", torch.arange(1.0, 9.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.layer(x * self.frequencies))
        return out


def test_torch_files_are_the_artifact(tmp_path: Path) -> None:
    net = Buffered().eval()
    plan, data = plan_for(net, Format.parse("w4")), torch.randn(4, 8)
    path = tmp_path / "model.mixq.safetensors"
    done = mixq.export(net, plan, path, runtime="torch", calibration=data)
    assert done.tensor_bytes == done.predicted_bytes == plan.predicted.weight_bytes
    assert done.difference < 1e-6
    with torch.no_grad():
        assert torch.equal(mixq.load(path, Buffered().eval())(data), plan.apply(net)(data))


def test_weights_come_from_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loader that read nothing would leave the architecture's own weights, which are zero."""
    monkeypatch.setattr("mixq.export.torch_artifact.load", lambda path, model: model)
    net = Buffered().eval()
    with pytest.raises(ExportError, match="differ from the plan's"):
        mixq.export(
            net, plan_for(net, Format.parse("w16")), tmp_path / "model.safetensors",
            runtime="torch", calibration=torch.randn(4, 8),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def test_torch_files_hold_no_architecture(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"holds no architecture; load it with mixq.load\(path, mo"
    ):
        registry.runtime("torch").open(tmp_path / "model.mixq.safetensors")
