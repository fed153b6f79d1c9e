"""Links at output paths, names that lead elsewhere, and code that a folder brings along."""

from __future__ import annotations

import builtins
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mixq.artifact import load as load_artifact
from mixq.artifact import save as save_artifact
from mixq.calibration import Calibration
from mixq.cli.main import run
from mixq.cli.resume import _OWN
from mixq.errors import MixqError, OutputError, SourceError
from mixq.export.compressed_tensors.session import TransformersSession
from mixq.files import write_bytes_atomic
from mixq.formats import Format
from mixq.plan import Plan
from mixq.rounding.store import RoundedStore
from mixq.search.folder import LOCK, run_folder
from mixq.search.study.storage import JOURNAL, open_storage
from mixq.sensitivity.store import Store
from mixq.sources import load_model

from ..plans import GOLDEN, calibrated_plan_for
from .run_targets import calibrated, model

WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "bytes": ("out", lambda path: write_bytes_atomic(path, b"new")),
    "plan": ("plan.json", lambda path: calibrated().save(path)),
    "plan-weights": (
        "plan.weights.safetensors",
        lambda path: calibrated().save(path.with_name("plan.json")),
    ),
    "artifact": ("a.safetensors", lambda path: save_artifact(calibrated().apply(model()), path)),
}


@pytest.mark.parametrize(("name", "write"), WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("kind", ["link", "dangling", "hard-link", "into-a-protected-folder"])
def test_an_output_takes_the_place_of_a_link(
    name: str, write: Callable[[Path], object], kind: str, tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    other = elsewhere / "theirs"
    if kind != "dangling":
        other.write_text("theirs")
    place = folder / name
    if kind == "hard-link":
        place.hardlink_to(other)
    else:
        place.symlink_to(other)
    if kind == "into-a-protected-folder":
        elsewhere.chmod(0o500)
    write(place)
    elsewhere.chmod(0o700)
    assert place.is_file()
    assert not place.is_symlink()
    assert place.stat().st_nlink == 1
    assert (other.read_text() if other.exists() else None) == (
        None if kind == "dangling" else "theirs"
    )


def test_a_folder_that_is_a_link_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    calibrated().save(tmp_path / "link" / "plan.json")
    assert (tmp_path / "real" / "plan.json").is_file()
    assert (tmp_path / "link").is_symlink()


def victim(tmp_path: Path) -> Path:
    path = tmp_path / "theirs"
    path.write_text("no line end, which a torn line has neither")
    return path


APPENDED: dict[str, tuple[str, Callable[[Path], object]]] = {
    "measurements": (
        Store(Path("x"), "k")._path.name,  # type: ignore[union-attr]
        lambda folder: Store(folder, "k").put("a", "w8", [1.0]),
    ),
    "journal": (JOURNAL, lambda folder: open_storage(folder, None)),
    "lock": (LOCK, lambda folder: run_folder(folder, {"model": "m"}).__enter__()),
}


@pytest.mark.parametrize("dangling", [False, True], ids=["link", "dangling"])
@pytest.mark.parametrize(("name", "write"), APPENDED.values(), ids=APPENDED)
def test_nothing_is_appended_through_a_link(
    name: str, write: Callable[[Path], object], dangling: bool, tmp_path: Path
) -> None:
    theirs = victim(tmp_path)
    before = theirs.read_text()
    if dangling:
        theirs.unlink()
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).symlink_to(theirs)
    with pytest.raises(OutputError, match="link"):
        write(folder)
    assert (theirs.read_text() if theirs.exists() else None) == (None if dangling else before)


def test_a_store_with_a_second_name_becomes_one_of_its_own(tmp_path: Path) -> None:
    Store(tmp_path, "k").put("a", "w8", [1.0])
    path = next(tmp_path.glob("measurements-*"))
    backup = tmp_path / "backup"
    backup.hardlink_to(path)
    before = backup.read_bytes()
    store = Store(tmp_path, "k")
    store.put("b", "w8", [2.0])
    assert backup.read_bytes() == before
    assert Store(tmp_path, "k").get("a", "w8") == [1.0]
    assert Store(tmp_path, "k").get("b", "w8") == [2.0]


def test_a_linked_folder_of_rounded_weights_is_not_written(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    store = RoundedStore(tmp_path, "k")
    assert store._folder is not None
    store._folder.symlink_to("theirs")
    plan = calibrated()
    assert plan._held is not None
    unit, packed = next(iter(plan._held.units.items()))
    with pytest.raises(OutputError, match="link"):
        store.put(unit, packed)
    assert not list((tmp_path / "theirs").iterdir())


NAMES = (
    "/etc/passwd", "a/b", "/", "~", "\\\\host\\x", "con", "\n", "\x1b[31mred", "\u202edrow",
    "$(touch x)", "</script><script>alert(1)</script>", "a" * 300, "A", "a", "\0",
)  # fmt: skip


class Named(nn.Module):
    """A chain of layers whose names are not nice; torch allows no dots."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in NAMES:
            self._modules[name] = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self._modules.values():
            assert layer is not None
            x = x + layer(x)
        return x


def test_names_of_units_lead_nowhere(tmp_path: Path) -> None:
    """Stores, plans, artifacts and tables of a model whose layers are named like paths."""
    named, data = Named().eval(), torch.rand(8, 16)
    folder = tmp_path / "deep" / "run"
    folder.mkdir(parents=True)
    plan = calibrated_plan_for(named, Calibration.of([data]), Format(4, 16, method="gptq"))
    plan.save(folder / "plan.json")
    loaded = Plan.load(folder / "plan.json")
    assert loaded == Plan.load(folder / "plan.json")
    applied = loaded.apply(named)
    save_artifact(applied, folder / "a.safetensors")
    assert torch.equal(load_artifact(folder / "a.safetensors", named)(data), applied(data))
    assert plan._held is not None
    rounded, store = RoundedStore(folder, "k"), Store(folder, "k")
    for unit, packed in plan._held.units.items():
        rounded.put(unit, packed)
        store.put(unit, "w4", [1.0])
    assert len(Store(folder, "k")._known) == len(NAMES)
    assert len(list(folder.glob("rounded-*/*"))) == len(NAMES)
    kept = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert all(path.is_relative_to(folder) for path in kept)
    assert len(kept) == 4 + len(NAMES)
    assert all(str(path.relative_to(folder)).isascii() for path in kept)


CODE = """
from pathlib import Path
Path({canary!r}).touch()
import torch
from transformers import PretrainedConfig, PreTrainedModel
class OwnConfig(PretrainedConfig):
    model_type = "mixq-own"
class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear(4, 2)
        self.post_init()
    def forward(self, x):
        return self.linear(x)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose config asks for the code beside it."""
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from transformers import dynamic_module_utils

    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "own.py").write_text(CODE.format(canary=str(tmp_path / "ran")))
    config = {
        "model_type": "mixq-own",
        "architectures": ["OwnModel"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.OwnModel"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    weights = {"linear.weight": torch.ones(2, 4), "linear.bias": torch.zeros(2)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(builtins, "input", lambda *_: pytest.fail("it asks at the terminal"))
    return folder


def test_code_of_a_folder_is_not_run_unasked(own: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="--trust-remote-code"):
        load_model(str(own))
    assert not (tmp_path / "ran").exists()


def test_code_of_a_folder_is_run_when_the_user_says_so(own: Path, tmp_path: Path) -> None:
    loaded = load_model(str(own), trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    assert torch.equal(loaded.model(torch.ones(1, 4)), torch.full((1, 2), 4.0))


def test_an_exported_folder_runs_no_code(own: Path, tmp_path: Path) -> None:
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "architectures": ["AutoModel"]}))
    with pytest.raises(MixqError):
        TransformersSession(own)
    assert not (tmp_path / "ran").exists()


COMMANDS = (
    ("apply", str(GOLDEN)), ("evaluate", str(GOLDEN)), ("plan", "check", str(GOLDEN)),
    ("analyze",), ("search", "--target-compression", "4", "--hardware", "intel_cpu"),
    ("export", str(GOLDEN)), ("bench", str(GOLDEN)),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_names_the_option(
    command: tuple[str, ...],
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run([*command, "--model", str(own)]) != 0
    said = capsys.readouterr().err
    assert "--trust-remote-code" in said or "colum" in said or "plan" in said
    assert not (tmp_path / "ran").exists()
    assert run([*command, "--trust-remote-code", "--help"]) == 0


def test_trust_is_taken_from_no_file() -> None:
    assert "trust_remote_code" in _OWN


def test_trust_in_a_run_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkdir("run")  # noqa: PTH102
    asked: dict[str, Any] = {"target_compression": 4.0, "trust_remote_code": True}
    Path("run/run.json").write_text(json.dumps({"request": asked, "state": "running"}))
    assert run(["search", "--resume", "--output", "run"]) == 1
    assert "trust_remote_code" in capsys.readouterr().err
