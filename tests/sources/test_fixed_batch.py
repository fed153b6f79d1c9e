"""Programs exported for one batch size: calibration comes in batches of that size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import mixq
from mixq.batch import sample_count
from mixq.errors import CalibrationError
from mixq.sources import load_calibration, load_model


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.second(self.first(x + y).relu())
        return result


def exported(path: Path, *, dynamic: bool) -> str:
    example = (torch.randn(4, 16), torch.randn(4, 16))
    batch = {0: torch.export.Dim("batch")}
    shapes = {"x": batch, "y": batch} if dynamic else None
    program = torch.export.export(TwoInputs().eval(), example, dynamic_shapes=shapes)
    torch.export.save(program, path)
    return str(path)


def tensors(path: Path, samples: int) -> str:
    save_file({name: torch.randn(samples, 16) for name in ("0", "1")}, path)
    return str(path)


@pytest.mark.parametrize(
    ("dynamic", "size", "batches"), [(False, 4, [4] * 5), (True, None, [16, 6])]
)
def test_batch_size_of_an_export(
    dynamic: bool, size: int | None, batches: list[int], tmp_path: Path
) -> None:
    loaded = load_model(exported(tmp_path / "m.pt2", dynamic=dynamic))
    assert loaded.batch_size == size
    calibration = load_calibration(tensors(tmp_path / "c.safetensors", 22), loaded)
    sizes = [sample_count(batch) for batch in calibration.batches]
    assert sizes == batches


def test_a_search_keeps_to_the_only_batch_size(tmp_path: Path) -> None:
    loaded = load_model(exported(tmp_path / "m.pt2", dynamic=False))
    calibration = load_calibration(tensors(tmp_path / "c.safetensors", 16), loaded)
    result = mixq.search(
        loaded.model, calibration, hardware="intel_cpu", target_compression=5, trials=1
    )
    assert result.plan.workload.batch_size == 4
    assert result.plan.workload.shapes == {"0": [4, 16], "1": [4, 16]}
    assert result.plan.measured.heldout_output_mse is not None


def test_too_few_samples_are_refused(tmp_path: Path) -> None:
    loaded = load_model(exported(tmp_path / "m.pt2", dynamic=False))
    with pytest.raises(CalibrationError, match="exported for batches of 4"):
        load_calibration(tensors(tmp_path / "c.safetensors", 3), loaded)
