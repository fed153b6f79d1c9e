"""mixq.export: a verified file in its place, or everything as it was."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import mixq
from mixq.batch import Batch, call
from mixq.calibration import Calibration
from mixq.errors import ExportError, MixqError, OutputError, UsageError
from mixq.export import registry
from mixq.export.runtime import Written
from mixq.export.source import Source
from mixq.export.verify import check_bytes, check_outputs, output_difference
from mixq.formats import Format
from mixq.sensitivity.outputs import floating_outputs
from tests.plans import plan_for

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]


class Fake:
    """A runtime that computes in PyTorch, and fails where a test says."""

    name: ClassVar[str] = "fake"
    extra: ClassVar[str] = ""
    suffix: ClassVar[str] = ".fake"
    is_folder: ClassVar[bool] = False
    closed: ClassVar[int] = 0

    def __init__(
        self, *, fail: str = "", error: BaseException | None = None, change: Change | None = None,
        beside: bool = False, sizes: tuple[int, int] = (1000, 1000),
    ) -> None:  # fmt: skip
        self.fail, self.error, self.change = fail, error, change
        self.beside, self.sizes = beside, sizes
        self.model: nn.Module | None = None

    def _at(self, stage: str) -> None:
        if self.fail == stage:
            raise self.error or ExportError(f"{stage} fails")

    def check(self, source: Source) -> None:
        self._at("check")
        self.model = source.applied

    def write(self, source: Source, path: Path) -> Written:
        files = [path]
        if self.is_folder:
            path.mkdir()
            files = [path / "weights", path / "config"]
        elif self.beside:
            files.append(path.with_name(f"{path.name}.data"))
        for file in files:
            file.write_bytes(b"new")
        self._at("write")
        return Written(*self.sizes, tolerance=1e-3, notes=("a note",))

    def open(self, path: Path, *, threads: int = 1) -> Fake:
        assert path.exists()
        self._at("open")
        return self

    def run(self, batch: Batch) -> dict[str, Tensor]:
        self._at("run")
        assert self.model is not None
        with torch.no_grad():
            outputs = floating_outputs(call(self.model, batch))
        return self.change(outputs) if self.change else outputs

    def close(self) -> None:
        type(self).closed += 1


class FakeFolder(Fake):
    """The same into a folder."""

    is_folder: ClassVar[bool] = True


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("fake", "Fake"), ("fake-folder", "FakeFolder")):
        monkeypatch.setitem(registry.RUNTIMES, name, f"tests.export.test_export:{kind}")  # type: ignore[misc]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(32, 8).eval()


def export(path: Path, runtime: str = "fake", **options: Any) -> Any:
    net = model()
    plan = plan_for(net, Format.parse("w8g32"))
    data = torch.randn(20, 32, generator=torch.Generator().manual_seed(1))
    return mixq.export(net, plan, path, runtime=runtime, calibration=data, **options)  # type: ignore[operator]


def contents(folder: Path) -> dict[str, bytes | None]:
    """Everything in a folder, hidden files too."""
    items = sorted(folder.rglob("*"))
    return {str(i.relative_to(folder)): i.read_bytes() if i.is_file() else None for i in items}


FAILURES: dict[str, tuple[dict[str, Any], type[BaseException], str]] = {
    "check": ({"fail": "check"}, ExportError, "check fails"),
    "write": ({"fail": "write"}, ExportError, "write fails"),
    "open": ({"fail": "open"}, ExportError, "open fails"),
    "run": ({"fail": "run"}, ExportError, "run fails"),
    "disk-full": (
        {"fail": "write", "error": OSError(errno.ENOSPC, "No space left on device")},
        OutputError, "No space left on device; nothing was changed",
    ),
    "ctrl-c": ({"fail": "run", "error": KeyboardInterrupt()}, KeyboardInterrupt, "^$"),
    "a-bug": ({"fail": "open", "error": ZeroDivisionError("bug")}, ZeroDivisionError, "bug"),
    "bytes": ({"sizes": (1006, 1000)}, ExportError, "1,006 bytes of tensors where 1,000 were"),
    "outputs": (
        {"change": lambda o: {n: 1.01 * t for n, t in o.items()}},
        ExportError, "computes outputs that differ from the plan's by 0.01 of their size",
    ),
    "nan": (
        {"change": lambda o: {n: t * torch.nan for n, t in o.items()}},
        ExportError, "differ from the plan's by nan",
    ),
    "shape": (
        {"change": lambda o: {n: t[:, :2] for n, t in o.items()}},
        ExportError, r"output 'output' has shape \(16, 2\), but the model's has \(16, 8\)",
    ),
    "missing": ({"change": lambda o: {"other": o["output"]}}, ExportError, "no output 'output'"),
}  # fmt: skip


@pytest.mark.parametrize("there", ["nothing", "an-old-one"])
@pytest.mark.parametrize("runtime", ["fake", "fake-folder"])
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_changes_nothing(name: str, runtime: str, there: str, tmp_path: Path) -> None:
    options, kind, message = FAILURES[name]
    target = tmp_path / "model.fake"
    if there == "an-old-one":
        if runtime == "fake":
            target.write_bytes(b"old")
        else:
            target.mkdir()
            (target / "weights").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        export(target, runtime, overwrite=True, **options)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("change", [None, lambda o: {"output": o["output"][:, :1]}])
def test_a_session_is_closed_either_way(change: Change | None, tmp_path: Path) -> None:
    before = Fake.closed
    if change is None:
        export(tmp_path / "model.fake")
    else:
        with pytest.raises(ExportError):
            export(tmp_path / "model.fake", change=change)
    assert Fake.closed == before + 1


def test_a_kill_leaves_the_old_file(tmp_path: Path) -> None:
    """kill -9 while the file is being verified."""
    target = tmp_path / "model.fake"
    target.write_bytes(b"old")
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom mixq.export import registry\n"
        "from tests.export import test_export as t\n"
        "registry.RUNTIMES['fake'] = 'tests.export.test_export:Fake'\n"
        "t.Fake.run = lambda self, batch: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"t.export(Path({str(target)!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir() if not item.name.startswith(".")] == [
        "model.fake"
    ]


def test_a_verified_file_takes_the_old_ones_place(tmp_path: Path) -> None:
    target = tmp_path / "model.fake"
    target.write_bytes(b"old")
    steps: list[tuple[str, int, int]] = []
    done = export(target, progress=lambda *step: steps.append(step))
    assert contents(tmp_path) == {"model.fake": b"new"}
    assert (done.file_bytes, done.tensor_bytes, done.predicted_bytes) == (3, 1000, 1000)
    assert done.difference <= done.tolerance == 1e-3
    assert done.notes == ("a note",)
    assert steps == [("exporting to fake", i, 3) for i in range(4)]
    assert done.to_json()["notes"] == ["a note"]


def test_what_a_file_refers_to_is_there_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    replace = Path.replace

    def recorded(self: Path, target: Path) -> Path:
        order.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", recorded)
    done = export(tmp_path / "model.fake", beside=True)
    assert order == ["model.fake.data", "model.fake"]
    assert contents(tmp_path) == {"model.fake": b"new", "model.fake.data": b"new"}
    assert done.file_bytes == 6


def test_a_folder_is_replaced_whole_if_that_is_asked_for(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "of-another-export").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=r"folder exists, .* pass --overwrite"):
        export(target, "fake-folder")
    assert contents(tmp_path) == before
    export(target, "fake-folder", overwrite=True)
    assert contents(tmp_path) == {
        "folder": None,
        "folder/config": b"new",
        "folder/weights": b"new",
    }


def test_a_folder_that_cannot_be_moved_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    (target / "weights").write_bytes(b"old")
    before, rename = contents(tmp_path), Path.rename

    def refusing(self: Path, place: Path) -> Path:
        if place == target and (self / "config").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", refusing)
    with pytest.raises(OutputError, match="Input/output error; nothing was changed"):
        export(target, "fake-folder", overwrite=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("place", "runtime", "message"),
    [
        ("no/such/model.fake", "fake", "there is no folder .*/no/such; make it"),
        ("here", "fake", "here is a folder, but runtime fake writes a file"),
        ("file", "fake-folder", "file is a file, but runtime fake writes a folder"),
        ("model\0.fake", "fake", "a name has no NUL"),
        ("n" * 300, "fake", "File name too long"),
    ],
)
def test_places_that_cannot_be_written(
    place: str, runtime: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        export(tmp_path / place, runtime)
    assert contents(tmp_path) == before
    assert "\n" not in str(caught.value)


def test_runtimes_and_options_have_names() -> None:
    with pytest.raises(UsageError, match="runtime 'onnx' is unknown; choose one of onnxruntime, "):
        registry.runtime("onnx")
    for options in ({"speed": 11}, {"name": "x"}, {"runtime": "x"}):
        with pytest.raises(UsageError, match="runtime 'torch' does not take these options"):
            registry.runtime("torch", **options)


@pytest.mark.parametrize("name", [name for name in registry.RUNTIMES if "fake" not in name])
def test_every_runtime_keeps_the_interface(name: str) -> None:
    made = registry.runtime(name)
    assert made.name == name
    assert isinstance(made.is_folder, bool)
    assert f"model{made.suffix}" != "model"
    assert all(callable(getattr(made, part)) for part in ("check", "write", "open"))


@pytest.mark.parametrize(
    ("found", "predicted", "fine"),
    [
        (1000, 1000, True),
        (1005, 1000, True),
        (1006, 1000, False),
        (994, 1000, False),
        (0, 0, True),
    ],
)
def test_bytes_may_be_off_by_half_a_percent(found: int, predicted: int, fine: bool) -> None:
    written = Written(found, predicted, tolerance=1.0)
    if fine:
        check_bytes(written)
    else:
        with pytest.raises(ExportError, match=r"off by more than 0.5%"):
            check_bytes(written)


@pytest.mark.parametrize(
    ("difference", "fine"),
    [(1e-3, True), (1.1e-3, False), (float("nan"), False), (float("inf"), False)],
)
def test_outputs_keep_the_tolerance(difference: float, fine: bool) -> None:
    if fine:
        check_outputs(difference, 1e-3, "fake")
    else:
        with pytest.raises(ExportError, match=r"0\.001 is allowed"):
            check_outputs(difference, 1e-3, "fake")


class Tokens(nn.Module):
    """Two outputs per token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 6)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        hidden = self.embedding(input_ids)
        return {"logits": self.head(hidden), "hidden": hidden}


def of_tokens(change: Change, outputs: list[str]) -> float:
    torch.manual_seed(0)
    net = Tokens().eval()
    plan = plan_for(net, Format.parse("w8"))
    metric = plan.error_metric.model_copy(update={"outputs": outputs})
    batch = {
        "input_ids": torch.arange(6).view(2, 3),
        "attention_mask": torch.tensor([[1, 1, 0]] * 2),
    }
    source = Source.of(
        net, plan.model_copy(update={"error_metric": metric}), Calibration.of(batch)
    )
    fake = Fake(change=change)
    fake.check(source)
    return output_difference(source, fake)


def hidden_positions(outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    logits = outputs["logits"].clone()
    logits[:, 2] = torch.nan
    return {**outputs, "logits": logits}


def scaled(**factors: float) -> Change:
    return lambda outputs: {name: t * factors.get(name, 1.0) for name, t in outputs.items()}


@pytest.mark.parametrize(
    ("change", "outputs", "expected"),
    [
        (scaled(), [], 0.0),
        (scaled(logits=1.5), [], 0.5),
        (scaled(hidden=1.5), [], 0.0),  # nobody measured it when the plan was made
        (scaled(hidden=1.5, logits=1.25), ["logits", "hidden"], 0.5),
        (scaled(hidden=torch.nan), ["logits", "hidden"], torch.nan),
        (scaled(logits=torch.nan), ["logits", "hidden"], torch.nan),
        (hidden_positions, ["logits"], 0.0),
    ],
)
def test_the_difference_is_the_largest_of_what_counts(
    change: Change, outputs: list[str], expected: float
) -> None:
    # The floats of the restored model add up in another order than the packed modules.
    assert of_tokens(change, outputs) == pytest.approx(expected, abs=1e-6, nan_ok=True)


def test_a_plan_of_other_outputs_is_refused() -> None:
    with pytest.raises(
        ExportError, match="none of the outputs that the plan's error is of: start"
    ):
        of_tokens(scaled(), ["start"])


class Buffered(nn.Module):
    """A buffer that no file holds, and one that counts."""

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
    done = mixq.export(net, plan, path, runtime="torch", calibration=data)  # type: ignore[operator]
    assert done.tensor_bytes == done.predicted_bytes == plan.predicted.weight_bytes
    assert done.difference < 1e-6
    with torch.no_grad():
        assert torch.equal(mixq.load(path, Buffered().eval())(data), plan.apply(net)(data))


def test_torch_files_hold_no_architecture(tmp_path: Path) -> None:
    with pytest.raises(
        MixqError, match=r"holds no architecture; load it with mixq.load\(path, mo"
    ):
        registry.runtime("torch").open(tmp_path / "model.mixq.safetensors")
