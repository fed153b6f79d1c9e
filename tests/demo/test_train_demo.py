"""The training script: it writes a loadable file, moves images rightly, and repeats itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from mixq.demo.data import DATA
from mixq.demo.model import DigitsNet

SCRIPT = Path(__file__).parents[2] / "examples" / "train_demo.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_one_epoch_writes_weights_that_load_and_repeat(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    for file in files:
        monkeypatch.setattr(sys, "argv", ["train_demo.py", "--output", str(file), "--epochs", "1"])
        script.main()
    assert "test accuracy" in capsys.readouterr().out
    assert files[0].read_bytes() == files[1].read_bytes()
    DigitsNet().load_state_dict(load_file(files[0]))


def test_shifted_moves_by_at_most_one_pixel(script: ModuleType) -> None:
    image = torch.zeros(1, 1, 8, 8)
    image[0, 0, 3, 4] = 1
    generator = torch.Generator().manual_seed(0)
    seen = set()
    for _ in range(200):
        moved = script.shifted(image, generator)
        assert moved.shape == image.shape
        ((row, column),) = moved[0, 0].nonzero().tolist()
        seen.add((row - 3, column - 4))
    assert seen == {(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)}


def test_shifted_brings_zeros_in_at_the_edge(script: ModuleType) -> None:
    image = torch.ones(50, 1, 8, 8)
    moved = script.shifted(image, torch.Generator().manual_seed(0))
    # 8x8 ones moved by (a, b) leave (8 - |a|) (8 - |b|) of them.
    assert set(moved.flatten(1).sum(1).tolist()) == {64.0, 56.0, 49.0}


def test_rebuilt_data_are_the_packaged_data(script: ModuleType, tmp_path: Path) -> None:
    script.rebuild_data(tmp_path / "digits.safetensors")
    assert (tmp_path / "digits.safetensors").read_bytes() == DATA.read_bytes()
