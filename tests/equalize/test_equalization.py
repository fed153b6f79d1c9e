"""Equalization as a value: stored, read back, applied to the same bits, or refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

from mixq.calibration import Calibration
from mixq.equalize.equalization import Equalization
from mixq.equalize.find import find_equalization
from mixq.errors import ArtifactError, CalibrationError, FormatError, ModelError
from mixq.graph.state import fingerprint

from .helpers import four_bits

MODEL = """
import torch
from torch import nn

def build():
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(128, 6), nn.LayerNorm(6),
        nn.Linear(6, 5),
    )
    for name, buffer in model.named_buffers():
        if name.endswith(("mean", "var")):
            buffer.copy_(torch.rand(buffer.shape) + 0.1)
    return model.eval()
"""
DATA = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))


def build() -> nn.Sequential:
    names: dict[str, Any] = {}
    exec(MODEL, names)
    model = names["build"]()
    assert isinstance(model, nn.Sequential)
    return model


@pytest.fixture(scope="module")
def found() -> Equalization:
    return find_equalization(build(), DATA, input_scaling=True, round_trip=four_bits)


def test_it_holds_every_kind(found: Equalization) -> None:
    assert [fold.side for fold in found.folds] == ["after", "before"]
    assert {scaling.purpose for scaling in found.scalings} == {"cross-layer", "input"}
    assert str(found).startswith("2 batch norms folded, 2 cross-layer and ")


def test_the_model_computes_the_same(found: Equalization) -> None:
    model = build()
    with torch.no_grad():
        before, after = model(DATA), found.apply(model)(DATA)
    assert float((after - before).norm() / before.norm()) < 1e-5
    assert not torch.equal(after, before)


def test_finding_it_twice_gives_the_same(found: Equalization) -> None:
    again = find_equalization(build(), DATA, input_scaling=True, round_trip=four_bits)
    assert again.header() == found.header()
    assert list(again.tensors()) == list(found.tensors())
    assert all(torch.equal(again.tensors()[name], t) for name, t in found.tensors().items())


def test_stored_and_read_it_is_the_same(found: Equalization, tmp_path: Path) -> None:
    header = json.loads(json.dumps(found.header()))
    save_file(found.tensors(), tmp_path / "e.safetensors")
    read = Equalization.from_tensors(header, load_file(tmp_path / "e.safetensors"))
    assert read.header() == found.header()
    assert read.skipped == found.skipped
    assert list(read.tensors()) == list(found.tensors())
    assert all(torch.equal(read.tensors()[name], t) for name, t in found.tensors().items())
    assert fingerprint(read.apply(build())) == fingerprint(found.apply(build()))


def test_another_process_makes_the_same_bits(found: Equalization, tmp_path: Path) -> None:
    save_file(found.tensors(), tmp_path / "e.safetensors")
    (tmp_path / "e.json").write_text(json.dumps(found.header()))
    code = f"""
import json, sys
from pathlib import Path
from safetensors.torch import load_file
from mixq.equalize.equalization import Equalization
from mixq.graph.state import fingerprint
{MODEL}
folder = Path(sys.argv[1])
header = json.loads((folder / "e.json").read_text())
read = Equalization.from_tensors(header, load_file(folder / "e.safetensors"))
torch.set_num_threads(3)
sys.stdout.write(fingerprint(read.apply(build())))
"""
    command = [sys.executable, "-P", "-c", code, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert answer.stdout == fingerprint(found.apply(build()))


def test_another_models_weights_take_the_same_structure(found: Equalization) -> None:
    """A packed file is loaded into an architecture whose own weights do not matter."""
    other = build()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    applied = found.apply(other)
    assert list(applied.state_dict()) == list(found.apply(build()).state_dict())
    assert torch.allclose(applied(DATA), other(DATA), rtol=1e-4, atol=1e-4)


def test_nothing_to_do_is_a_copy() -> None:
    model = build()
    same = Equalization().apply(model)
    assert fingerprint(same) == fingerprint(model)
    assert same is not model


DAMAGED: dict[str, tuple[Callable[[dict[str, Any], dict[str, Tensor]], Any], str]] = {
    "version": (lambda h, _: h.update(version=2), "header is damaged at 'version'"),
    "missing-list": (lambda h, _: h.pop("folds"), "header is damaged at 'folds'"),
    "side": (lambda h, _: h["folds"][0].update(side="above"), "damaged at 'folds.0.side'"),
    "name": (lambda h, _: h["folds"][0].update(weight=3), "damaged at 'folds.0.weight'"),
    "no-tensor": (lambda _, t: t.pop("scalings.0.factor"), "torch.float32, but is missing"),
    "dtype": (
        lambda _, t: t.update({"folds.0.index": t["folds.0.index"].long()}),
        "must be torch.int32, but is torch.int64",
    ),
    "negative": (
        lambda _, t: t["scalings.0.factor"].neg_(), "must be one row of positive numbers"
    ),
    "nan": (
        lambda _, t: t["scalings.0.factor"].fill_(torch.nan), "must be one row of positive numbers"
    ),
    "shape": (
        lambda _, t: t.update({"scalings.0.factor": t["scalings.0.factor"][None]}),
        "must be one row of positive numbers",
    ),
    "index": (
        lambda _, t: t["scalings.0.parts.0.index"].fill_(99), "names channels outside of 0..8"
    ),
    "negative-index": (
        lambda _, t: t["folds.0.index"].fill_(-1), "names channels outside of 0.."
    ),
}  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_refused_in_one_line(
    found: Equalization, damage: Callable[[dict[str, Any], dict[str, Tensor]], Any], words: str
) -> None:
    header, tensors = json.loads(json.dumps(found.header())), found.tensors()
    damage(header, tensors)
    with pytest.raises(ArtifactError) as refused:
        Equalization.from_tensors(header, tensors)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def without(index: int, module: nn.Module) -> nn.Module:
    model = build()
    model[index] = module
    return model


OTHERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no-norm": (lambda: without(2, nn.ReLU()), "folds batch norm '2', but the model has a ReLU"),
    "other-norm": (lambda: without(2, nn.BatchNorm2d(7)), "of 7 channels into '1.weight'"),
    "other-width": (lambda: without(1, nn.Conv2d(3, 7, 3, bias=False)), "'1.weight' along (8,"),
    "no-layer": (lambda: without(7, nn.Flatten()), "along (1, 128), but in the model it is"),
    "fewer": (lambda: build()[:2], "folds batch norm '2', but the model has nothing there"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "words"), OTHERS.values(), ids=OTHERS)
def test_another_model_is_refused_in_one_line(
    found: Equalization, make: Callable[[], nn.Module], words: str
) -> None:
    with pytest.raises(ModelError) as refused:
        found.apply(make())
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_narrow_weights_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(
        ModelError, match=r"weights, whose rounding .* call model\.float\(\) first"
    ):
        find_equalization(build().to(dtype), DATA.to(dtype))


def test_a_narrow_layer_among_others_is_left_alone() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4).bfloat16(), nn.Linear(4, 4)
            self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.b(self.a(x.bfloat16()).float().relu())
            return self.d(self.c(y.sin()).relu())

    found = find_equalization(Mixed(), torch.randn(3, 4))
    assert [s.producers[0].name for s in found.scalings] == ["c.weight"]


class Unseen(nn.Module):
    """Reads its own activations where no trace can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Any:
        y = self.a(x)
        return self.b(y.relu()) + float(y.detach().numpy().sum())


def test_what_no_trace_shows_is_found_by_the_last_look() -> None:
    torch.manual_seed(0)
    with pytest.raises(ModelError, match=r"changes its outputs by .* leave out fold") as refused:
        find_equalization(Unseen(), torch.randn(8, 4))
    assert "\n" not in str(refused.value)


def test_infinite_outputs_are_no_change() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            y = self.b(self.a(x).relu())
            return y.masked_fill(torch.eye(4, dtype=torch.bool)[: len(x)], -torch.inf)

    assert len(find_equalization(Masked(), torch.randn(3, 4)).scalings) == 1


def test_a_model_that_cannot_be_followed_is_left_alone() -> None:
    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            if _get_current_dispatch_mode() is not None:
                raise RuntimeError("no modes here")
            return self.a(x)

    found = find_equalization(Strict(), torch.randn(2, 4))
    assert not found.folds
    assert not found.scalings
    assert len(found.skipped) == 1
    assert "no modes here" in found.skipped[0]


@pytest.mark.parametrize("error", [FormatError("no such grid"), TypeError("bad call")], ids=str)
def test_errors_of_the_round_trip_are_the_callers(error: Exception) -> None:
    def trip(_weight: Tensor, _rows: int, _columns: int) -> Tensor:
        raise error

    with pytest.raises(type(error), match=str(error)):
        find_equalization(build(), DATA, input_scaling=True, round_trip=trip)


def test_a_batch_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CalibrationError, match="does not take the calibration batch"):
        find_equalization(build(), torch.randn(2, 5))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_parts_are_left_alone() -> None:
    inner: Any = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)))
    model = nn.Sequential(inner, nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    found = find_equalization(model, torch.randn(3, 4))
    assert [s.producers[0].name for s in found.scalings] == ["1.weight"]


@pytest.mark.parametrize("whole", [False, True], ids=["cut", "whole"])
def test_fixed_batches_are_followed_whole(whole: bool) -> None:
    seen = []

    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Any:
            seen.append(len(x))
            return self.b(self.a(x).relu())

    find_equalization(Fixed(), Calibration((torch.randn(4, 4),), whole=whole))
    assert set(seen) == ({4} if whole else {2, 4})
