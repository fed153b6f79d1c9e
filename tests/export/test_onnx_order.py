"""Where nodes stand in the file decides how many float copies of weights live at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from mixq.bench.uniform import uniform_plan
from mixq.calibration import Calibration
from mixq.export.export import export
from mixq.formats import Format

onnx = pytest.importorskip("onnx")


def test_what_is_dequantized_stands_before_all_that_reads_activations(tmp_path: Path) -> None:
    # ONNX Runtime's search in depth takes the later of two nodes first: copies that stand in front
    # of their readers would all be made before the first convolution runs.
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(4))).eval()
    data = Calibration.of(torch.randn(4, 4, 6, 6))
    plan = uniform_plan(model, data, Format.parse("w4g16-affine"))
    export(model, plan, tmp_path / "model.onnx", calibration=data)
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert kinds.count("DequantizeLinear") == kinds.count("Conv") == 4
    last = max(index for index, kind in enumerate(kinds) if kind == "DequantizeLinear")
    assert last < kinds.index("Conv")
