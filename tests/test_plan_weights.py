"""PlanWeights: what rounding made travels with the plan, and comes with no other."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.activations.ranges import collect_ranges
from mixq.artifact import tensor_bytes
from mixq.calibration import Calibration
from mixq.errors import MixqError, OutputError, PlanError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.state import fingerprint, stored_tensors
from mixq.moments.collect import collect
from mixq.plan import Plan
from mixq.plan_parts import Layer
from mixq.plan_weights import PlanWeights
from mixq.rounding.rounder import Rounder
from mixq.tensor_file import read_tensors, write_tensors

GOLDEN = Path(__file__).parent / "data" / "plan-v1.json"
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.depthwise = nn.Conv2d(12, 12, 3, groups=12)
        self.hidden = nn.Linear(48, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, images):
        x = self.depthwise(self.conv(images).relu()).relu()
        return self.head(self.hidden(x.flatten(1)).tanh())


def net():
    torch.manual_seed(0)
    return Net().eval()


def images():
    return torch.rand(16, 3, 4, 4, generator=torch.Generator().manual_seed(1))
"""
_made: dict[str, Any] = {}
exec(MODEL, _made)
net: Callable[[], nn.Module] = _made["net"]
images: Callable[[], Tensor] = _made["images"]

UNITS = ("conv.weight", "depthwise.weight", "hidden.weight", "head.weight")
MIX = ("w4g16-gptq", "w8a8-static", "w2g16-affine-gptq-bc", "w8a8g16-hqq-dynamic")
LEARNED = (
    *("w4g16-clip", "w4g16-affine-clip", "w4g32-signed-gptq", "w4g16-zp-hqq", "w2-affine-gptq"),
    *("w4g16-bc", "w2g16-zp-gptq-bc", "w8a8-static", "w8a8-reduced-clip-static", "w8a8g16-static"),
    *("w8a8-affine-gptq-bc-static", "w8a8-clip-dynamic"),
)
FREE = ("w32", "w16", "w16-bf16", "w8", "w4g16-zp-squant", "w2g16-affine", "w8a8-dynamic")


@cache
def rounder() -> Rounder:
    model, calibration = net(), Calibration.of(images())
    units = {unit.name: unit for unit in find_units(model)}
    ranges = collect_ranges(model, calibration, units.values())
    return Rounder(
        model,
        units,
        collect(model, calibration, units.values()),
        {name: found.tensors() for name, found in ranges.items()},
    )


def plan_of(*names: str, weights: PlanWeights | None = None) -> Plan:
    """A plan that gives the net's units these formats in turn, with the codes of a rounder."""
    by = rounder()
    assignment = {
        unit: Format.parse(names[index % len(names)]) for index, unit in enumerate(by.units)
    }
    other = sum(s.stored_bytes for s in stored_tensors(by.model) if s.names[0] not in by.units)
    template = Plan.load(GOLDEN)
    layers = {
        name: Layer(
            bits=fmt.bits,
            group_size=fmt.group_size,
            grid=fmt.grid,
            activation=fmt.activation,
            method=fmt.method,
            bias_corrected=fmt.bias_corrected,
            weight_bytes=by.units[name].stored_bytes(fmt),
            latency_s=0.0,
            error=0.0,
            error_se=0.0,
            shape=list(by.units[name].shape),
            matrix=(by.units[name].rows, by.units[name].columns),
        )
        for name, fmt in assignment.items()
    }
    size = other + sum(layer.weight_bytes for layer in layers.values())
    plan = template.model_copy(
        update={
            "model": template.model.model_copy(update={"fingerprint": fingerprint(by.model)}),
            "layers": layers,
            "predicted": template.predicted.model_copy(update={"weight_bytes": size}),
        }
    )
    weights = weights or by.plan_weights(assignment)
    return plan if weights is None else plan.with_weights(weights)


def outputs(plan: Plan) -> Tensor:
    with torch.no_grad():
        found: Tensor = plan.apply(net())(images())
    return found


def refusal(act: Callable[[], object], kind: type[MixqError] = PlanError) -> str:
    """The one line with which something is refused."""
    with pytest.raises(kind) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 800
    return message


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """plan.json of a mix, with its weights beside it."""
    plan_of(*MIX).save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_the_cases_are_what_they_are_meant_to_be() -> None:
    assert tuple(rounder().units) == UNITS
    assert all(Format.parse(name).needs_codes for name in (*LEARNED, *MIX[:3]))
    assert not any(Format.parse(name).needs_codes for name in FREE)


@pytest.mark.parametrize("name", LEARNED)
def test_a_plan_computes_what_was_rounded_and_comes_back(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    expected = outputs(plan)
    assignment = plan.assignment
    replacement = rounder().joint(assignment)
    applied = plan.apply(net())
    for unit in UNITS:
        module, _, leaf = unit.rpartition(".")
        weight = getattr(applied.get_submodule(module), leaf)
        assert torch.equal(weight, replacement.tensors[unit]), unit
    biases = {unit.replace("weight", "bias") for unit in UNITS}
    moved = biases if Format.parse(name).bias_corrected else set()
    assert set(replacement.tensors) == {*UNITS, *moved}
    for bias in moved:
        assert torch.equal(applied.get_parameter(bias), replacement.tensors[bias])
        assert not torch.equal(applied.get_parameter(bias), net().get_parameter(bias))
    plan.save(tmp_path / "plan.json")
    assert {path.name for path in tmp_path.iterdir()} == {
        "plan.json", "plan.weights.safetensors"
    }  # fmt: skip
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert torch.equal(outputs(again), expected)


@pytest.mark.parametrize("name", FREE)
def test_what_follows_from_the_weights_keeps_nothing(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    assert plan.weights is None
    plan.save(tmp_path / "plan.json")
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]
    assert torch.equal(outputs(Plan.load(tmp_path / "plan.json")), outputs(plan))


@pytest.mark.parametrize("name", [*LEARNED, *FREE])
def test_the_predicted_bytes_are_those_of_the_artifact(tmp_path: Path, name: str) -> None:
    plan = plan_of(name)
    path = tmp_path / "net.safetensors"
    applied = plan.apply(net())
    assert mixq.save(applied, path) == plan.predicted.weight_bytes == tensor_bytes(path)
    with torch.no_grad():
        assert torch.equal(mixq.load(path, net())(images()), applied(images()))


def test_a_tensor_file_holds_no_more_than_the_codes(saved: Path) -> None:
    header, tensors, checksum = read_tensors(
        saved.with_name("plan.weights.safetensors"), PlanError, "x"
    )
    plan = Plan.load(saved)
    assert plan.weights is not None
    assert plan.weights.model_dump() == {"file": "plan.weights.safetensors", "sha256": checksum}
    assert set(header["units"]) == set(UNITS)
    assert set(tensors) == {
        *("conv.weight__codes", "conv.weight__scales"),
        *(
            f"depthwise.weight__{part}"
            for part in ("codes", "scales", "input_scale", "input_zero")
        ),
        *(f"hidden.weight__{part}" for part in ("codes", "scales", "minimums")),
        *("head.weight__codes", "head.weight__scales", "other hidden.bias"),
    }


PROGRAM = """
import sys, torch
from mixq import Plan
from model import images, net

with torch.no_grad():
    output = Plan.load(sys.argv[1]).apply(net())(images())
sys.stdout.buffer.write(output.numpy().tobytes())
"""


def test_another_process_computes_the_same_bits(saved: Path) -> None:
    saved.with_name("model.py").write_text(MODEL, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, saved],
        cwd=saved.parent,
        env={**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=True,
        timeout=120,
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert done.stdout == outputs(Plan.load(saved)).numpy().tobytes()
    finally:
        torch.set_num_threads(threads)


def test_a_plan_is_saved_elsewhere_with_its_weights(saved: Path) -> None:
    plan = Plan.load(saved)
    expected = outputs(plan)
    other = saved.with_name("elsewhere") / "best plan (2) é.json"
    other.parent.mkdir()
    plan.save(other)
    for path in saved.parent.glob("plan*"):
        path.unlink()
    copied = Plan.load(other)
    assert copied == plan
    assert copied.weights is not None
    assert copied.weights.file == "best plan (2) é.weights.safetensors"
    assert torch.equal(outputs(copied), expected)
    assert "is missing" in refusal(lambda: outputs(plan))
    assert "is missing" in refusal(lambda: plan.save(saved))
    assert not saved.exists()


def test_a_plan_is_saved_over_itself(saved: Path) -> None:
    plan = Plan.load(saved)
    expected = outputs(plan)
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    plan.save(saved)
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before
    assert torch.equal(outputs(plan), expected)


def test_both_files_moved_together_stay_a_plan(saved: Path, tmp_path: Path) -> None:
    expected = outputs(Plan.load(saved))
    moved = Path(shutil.move(str(saved), tmp_path / "renamed.json"))  # names its weights still
    assert torch.equal(outputs(Plan.load(moved)), expected)


@pytest.mark.parametrize(
    "name", ["a\\b.json", "a\nb.json", "\x1b[31m.json", "\udcff.json"], ids=ascii
)
def test_names_that_no_plan_can_hold(tmp_path: Path, name: str) -> None:
    message = refusal(lambda: plan_of(*MIX).save(tmp_path / name), OutputError)
    assert "choose another" in message
    assert list(tmp_path.iterdir()) == []
    plan_of("w8").save(tmp_path / name)  # which names no other file


def test_equality_is_of_what_is_computed_not_of_where_it_lies(saved: Path) -> None:
    plan = Plan.load(saved)
    held = plan_of(*MIX)
    assert held == plan
    plan.save(saved.with_name("other.json"))
    assert Plan.load(saved.with_name("other.json")) == plan
    assert plan_of(*MIX).to_json()["weights"] == plan.to_json()["weights"]
    assert plan_of("w4g16-gptq") != plan_of("w4g16-clip")
    weights = plan_of("w4g16-gptq")._held
    assert weights is not None
    unit = weights.units["conv.weight"]
    codes = unit.tensors["codes"].clone()
    codes[0] ^= 1
    flipped = replace(unit, tensors={**unit.tensors, "codes": codes})
    other = PlanWeights({**weights.units, "conv.weight": flipped})
    assert plan_of("w4g16-gptq", weights=other) != plan_of("w4g16-gptq")


def test_a_changed_copy_keeps_its_weights(saved: Path) -> None:
    for plan in (Plan.load(saved), plan_of(*MIX)):
        noted = plan.model_copy(update={"notes": ["mine"]})
        assert torch.equal(outputs(noted), outputs(plan))
        assert noted != plan
        noted.save(saved.with_name("noted.json"))
        assert Plan.load(saved.with_name("noted.json")) == noted


def test_text_alone_says_where_the_weights_are(saved: Path) -> None:
    plan = Plan.from_json(saved.read_text(encoding="utf-8"))
    assert plan == Plan.load(saved)
    message = refusal(lambda: outputs(plan))
    assert "mixq.Plan.load" in message
    assert refusal(lambda: plan.save(saved)) == message


def test_applying_leaves_files_and_model_alone(saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    plan, model = Plan.load(saved), net()
    plan.apply(model)
    assert fingerprint(model) == plan.model.fingerprint
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_an_applied_model_is_not_changed_by_who_overwrites_the_file(saved: Path) -> None:
    plan = Plan.load(saved)
    applied = plan.apply(net())
    with torch.no_grad():
        before = applied(images())
        with saved.with_name("plan.weights.safetensors").open("rb+") as file:
            file.seek(-200, os.SEEK_END)
            file.write(bytes(200))
        assert torch.equal(applied(images()), before)
    assert "checksum" in refusal(lambda: outputs(Plan.load(saved)))


# What may happen to the two files, and the words that name it.

Edit: TypeAlias = Callable[[dict[str, Any]], object]


def layer(unit: str, **fields: object) -> Edit:
    return lambda data: data["layers"][unit].update(fields)


EDITS: dict[str, tuple[Edit, str]] = {
    "no-weights": (
        lambda d: d.update(weights=None),
        "'conv.weight' is stored as w4g16-gptq, whose",
    ),
    "weights-gone": (lambda d: d.pop("weights"), "does not hold; was its JSON edited by hand?"),
    "method": (layer("conv.weight", method="clip"), "planned as w4g16-clip, but the codes beside"),
    "width": (layer("conv.weight", bits=8), "planned as w8g16-gptq, but the codes"),
    "float": (
        layer("conv.weight", bits=32, group_size=None, method="rtn"),
        "planned as w32, but the codes beside the plan are w4g16-gptq",
    ),
    "static": (layer("depthwise.weight", activation="none"), "planned as w8, but the codes"),
    "uncorrected": (layer("hidden.weight", bias_corrected=False), "edited apart"),
    "one-layer-less": (lambda d: d["layers"].pop("head.weight"), "'head.weight' that it does not"),
    "matrix": (layer("conv.weight", matrix=[27, 12]), "planned as w4g16-gptq, but the codes"),
    "other-checksum": (lambda d: d["weights"].update(sha256="0" * 64), "belongs to another plan"),
    "other-model": (lambda d: d["model"].update(fingerprint="sha256:0"), "search again"),
}


@pytest.mark.parametrize(("edit", "words"), EDITS.values(), ids=EDITS)
def test_json_edited_apart_from_the_weights(saved: Path, edit: Edit, words: str) -> None:
    data = json.loads(saved.read_text(encoding="utf-8"))
    edit(data)
    saved.write_text(json.dumps(data), encoding="utf-8")
    plan = Plan.load(saved)
    assert words in refusal(lambda: outputs(plan))


TRAVERSALS = (
    *("../plan.weights.safetensors", "/etc/passwd", "sub/plan.weights.safetensors", "..", "."),
    *("", "..\\x", "C:\\x", "a\nb", "a\0b", "\x1b[31m", "x" * 256, 7, None, ["a"]),
)


@pytest.mark.parametrize("file", TRAVERSALS, ids=lambda file: ascii(file)[:20])
def test_a_file_outside_the_plans_folder_is_never_opened(tmp_path: Path, file: object) -> None:
    folder = tmp_path / "run"
    (folder / "sub").mkdir(parents=True)
    plan_of(*MIX).save(folder / "plan.json")
    weights = folder / "plan.weights.safetensors"
    shutil.copy(weights, tmp_path)
    shutil.copy(weights, folder / "sub")
    data = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    data["weights"]["file"] = file
    (folder / "plan.json").write_text(json.dumps(data), encoding="utf-8")
    assert "weights.file" in refusal(lambda: Plan.load(folder / "plan.json"))


@pytest.mark.parametrize("sha256", ["", "0" * 63, "g" * 64, "0" * 64 + "\n", None], ids=ascii)
def test_a_checksum_that_is_none(saved: Path, sha256: object) -> None:
    data = json.loads(saved.read_text(encoding="utf-8"))
    data["weights"]["sha256"] = sha256
    saved.write_text(json.dumps(data), encoding="utf-8")
    assert "weights.sha256" in refusal(lambda: Plan.load(saved))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def put_another(path: Path) -> None:
    plan_of("w4g16-gptq").save(path.with_name("another.json"))
    path.with_name("another.weights.safetensors").replace(path)


Damage: TypeAlias = Callable[[Path], object]
DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda p: p.unlink(), "is missing; it holds the codes of the plan"),
    "a-folder": (make_folder, "is missing"),
    "empty": (lambda p: p.write_bytes(b""), "is damaged or not a safetensors file"),
    "short": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "is damaged"),
    "flipped": (lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\xff"), "match its checksum"),
    "another-plans": (put_another, "belongs to another plan"),
    "an-artifact": (
        lambda p: mixq.save(plan_of(*MIX).apply(net()), p),
        "belongs to another plan",
    ),
}


@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_damaged_weights(saved: Path, damage: Damage, words: str) -> None:
    plan = Plan.load(saved)
    damage(saved.with_name("plan.weights.safetensors"))
    for act in (
        lambda: outputs(plan),
        lambda: plan.save(saved.with_name("new.json")),
    ):
        message = refusal(act)
        assert words in message
        assert "plan.weights.safetensors" in message
    assert not saved.with_name("new.json").exists()
    assert not saved.with_name("new.weights.safetensors").exists()


Forge: TypeAlias = Callable[[dict[str, Any], dict[str, Tensor]], object]


def header(unit: str, **fields: object) -> Forge:
    return lambda header, tensors: header["units"][unit].update(fields)


def tensor(name: str, value: Tensor) -> Forge:
    return lambda header, tensors: tensors.update({name: value})


def filled(name: str, value: float) -> Forge:
    return lambda header, tensors: tensors[name].fill_(value)


def named_as(name: str, unit: str) -> Forge:
    return lambda header, tensors: header["units"].update({name: header["units"][unit]})


FORGERIES: dict[str, tuple[Forge, str]] = {
    "version": (lambda h, t: h.update(version=2), "version"),
    "no-units": (lambda h, t: h.pop("units"), "units"),
    "units-list": (lambda h, t: h.update(units=[]), "units"),
    "unit-of-nothing": (named_as("no.such", "conv.weight"), "'no.such' is not a parameter"),
    "unit-is-a-bias": (named_as("head.bias", "head.weight"), "unit 'head.bias' is"),
    "unit-empty": (lambda h, t: h["units"].update({"conv.weight": {}}), "format: Field required"),
    "unit-text": (
        lambda h, t: h["units"].update({"conv.weight": "w8"}),
        "'conv.weight': the whole",
    ),
    "format-unknown": (header("conv.weight", format="w3"), "bits is 3"),
    "format-long": (header("conv.weight", format="w" * 10**6), "format: String should have"),
    "format-float": (header("conv.weight", format="w32"), "w32 as a matrix of"),
    "shape": (header("conv.weight", shape=[12, 27]), "'float32' (12, 27), but the model's is"),
    "dtype": (header("conv.weight", dtype="float64"), "'float64' (12, 3, 3, 3), but the model's"),
    "rows": (header("conv.weight", rows=10**9), "does not belong to shape"),
    "codes-missing": (lambda h, t: t.pop("conv.weight__codes"), "codes must be"),
    "codes-short": (tensor("conv.weight__codes", torch.zeros(3, dtype=torch.uint8)), "codes must"),
    "scales-wide": (tensor("conv.weight__scales", torch.zeros(12, 2)), "scales must be"),
    "scales-nan": (filled("conv.weight__scales", torch.nan), "scales is not finite"),
    "minimums-inf": (filled("hidden.weight__minimums", torch.inf), "minimums is not finite"),
    "input-scale-zero": (filled("depthwise.weight__input_scale", 0), "is 0, not positive"),
    "input-scale-negative": (filled("depthwise.weight__input_scale", -1), "is -1, not positive"),
    "input-scale-nan": (filled("depthwise.weight__input_scale", torch.nan), "is not finite"),
    "bias-of-nothing": (tensor("other no.bias", torch.zeros(5)), "the model's is missing"),
    "bias-short": (
        tensor("other hidden.bias", torch.zeros(3)),
        "'hidden.bias' is torch.float32 (3,)",
    ),
    "bias-wide": (tensor("other hidden.bias", torch.zeros(20).double()), "torch.float64 (20,)"),
    "packed-twice": (tensor("other conv.weight", torch.zeros(12, 3, 3, 3)), "packed and plain"),
    "equalization": (lambda h, t: h.update(equalization=[]), "plan.weights.safetensors: "),
}


@pytest.mark.parametrize(("forge", "words"), FORGERIES.values(), ids=FORGERIES)
def test_weights_that_were_made_up(saved: Path, forge: Forge, words: str) -> None:
    """Files whose checksums agree with each other, and with no mixq that wrote them."""
    path = saved.with_name("plan.weights.safetensors")
    header, tensors, _ = read_tensors(path, PlanError, "x")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    forge(header, tensors)
    path.unlink()
    checksum = write_tensors(path, tensors, header)
    data = json.loads(saved.read_text(encoding="utf-8"))
    data["weights"]["sha256"] = checksum
    saved.write_text(json.dumps(data), encoding="utf-8")
    assert words in refusal(lambda: outputs(Plan.load(saved)))


@pytest.mark.parametrize("name", LEARNED)
def test_a_format_that_needs_codes_is_refused_without_them(name: str) -> None:
    bare = plan_of(name).model_copy(update={"weights": None})
    bare._held = None
    message = refusal(lambda: outputs(bare))
    assert f"is stored as {name}, whose codes the plan does not hold" in message


class FullDisk:
    """Lets so many files be put in place, then fails like a full disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, files: int) -> None:
        replace, left = Path.replace, [files]

        def full(path: Path, target: Path) -> Path:
            if not left[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left[0] -= 1
            return replace(path, target)

        monkeypatch.setattr(Path, "replace", full)


def test_a_full_disk_leaves_the_old_plan(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}
    with monkeypatch.context() as patch:
        FullDisk(patch, 0)
        assert "No space left" in refusal(lambda: plan_of("w4g16-gptq").save(saved), OutputError)
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_a_plan_that_cannot_be_written_leaves_the_old_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in saved.parent.iterdir()}

    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert "plan.json cannot be" in refusal(
            lambda: plan_of("w4g16-gptq").save(saved), OutputError
        )
    assert {path.name: path.read_bytes() for path in saved.parent.iterdir()} == before


def test_a_plan_never_names_weights_that_are_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        FullDisk(patch, 1)
        refusal(lambda: plan_of(*MIX).save(tmp_path / "plan.json"), OutputError)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.weights.safetensors"]
