"""The embedded demo: it is accurate, its splits are disjoint, and 8x compression is in reach."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from mixq import demo
from mixq.demo.data import DATA, SPLITS, Evaluate, Split, load_splits
from mixq.demo.model import WEIGHTS, DigitsNet
from mixq.formats import Format


def shape_matrix(parameter: nn.Parameter) -> tuple[int, int]:
    """Rows and columns as in mixq.graph.units."""
    rows = parameter.shape[0] if parameter.ndim == 4 else parameter.numel() // parameter.shape[-1]
    return rows, parameter.numel() // rows


def state_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def model() -> DigitsNet:
    return demo.load()[0]


def test_load_gives_an_accurate_model_in_eval_mode() -> None:
    model, calibration, evaluate = demo.load()
    assert not any(module.training for module in model.modules())
    assert calibration.samples == 200
    metrics = evaluate(model)
    # 0.996 on the machine that trained it; a rounding difference may cost an image or two.
    assert metrics["accuracy"] >= 0.99
    assert metrics["loss"] <= 0.1
    assert evaluate.primary in metrics


def test_load_draws_no_random_numbers() -> None:
    before = torch.random.get_rng_state()
    demo.load()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_importing_the_demo_does_not_import_torch() -> None:
    code = "import sys, mixq.demo, mixq.sources; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_splits_are_disjoint_and_cover_the_data() -> None:
    splits = load_splits()
    parts = (splits.train, splits.calibration, splits.test)
    assert [len(part.labels) for part in parts] == list(SPLITS.values())
    assert sum(SPLITS.values()) == 1797
    images = torch.cat([part.images for part in parts])
    assert images.shape == (1797, 1, 8, 8)
    # No image occurs twice, so none is in two splits.
    assert len(images.flatten(1).unique(dim=0)) == 1797
    assert (float(images.min()), float(images.max())) == (0.0, 1.0)
    for part in parts:
        # Every digit is in every split, none rarer than half its fair share.
        assert part.labels.bincount(minlength=10).min() >= len(part.labels) / 20


def test_calibration_is_not_the_test_split() -> None:
    _, calibration, evaluate = demo.load()
    images = torch.cat([batch for batch in calibration.batches if isinstance(batch, torch.Tensor)])
    assert torch.equal(images, load_splits().calibration.images)
    assert torch.equal(evaluate.split.images, load_splits().test.images)


def test_evaluate_counts_right_answers() -> None:
    images = torch.eye(10).view(10, 1, 2, 5)
    labels = torch.arange(10)
    labels[:3] = torch.tensor([1, 2, 0])
    metrics = Evaluate(Split(images, labels))(nn.Flatten())
    assert metrics["accuracy"] == pytest.approx(0.7)
    # Logits are one 1 and nine 0: log(e + 9) less the logit of the label, 1 for seven of ten.
    assert metrics["loss"] == pytest.approx(float(torch.tensor(2.718281828 + 9).log()) - 0.7)


def test_files_are_small() -> None:
    assert WEIGHTS.stat().st_size < 1_000_000
    assert DATA.stat().st_size < 150_000


def test_layers_are_of_many_kinds(model: DigitsNet) -> None:
    kinds = {type(module) for module in model.modules()}
    assert kinds >= {nn.Conv2d, nn.MultiheadAttention, nn.Linear, nn.LayerNorm, nn.BatchNorm2d}
    assert model.depthwise.groups == model.depthwise.in_channels
    assert 100_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 220_000


def test_matrices_hold_nearly_all_bytes_and_8x_lies_between_4_and_2_bits(model: DigitsNet) -> None:
    total = state_bytes(model)
    units = [parameter for parameter in model.parameters() if parameter.ndim >= 2]
    other = total - sum(unit.numel() * 4 for unit in units)
    assert other / total <= 0.03

    def compression(name: str) -> float:
        fmt = Format.parse(name)
        return total / (other + sum(fmt.stored_bytes(*shape_matrix(unit)) for unit in units))

    assert compression("w4g64") < 8 < compression("w2g64")


def test_data_are_attributed() -> None:
    text = (Path(demo.__file__).parent / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for needed in ("Alpaydin", "Kaynak", "CC BY 4.0", "10.24432/C50P49", "scikit-learn"):
        assert re.search(re.escape(needed), text)
