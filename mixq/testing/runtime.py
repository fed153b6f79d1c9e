"""RuntimeContract: what every exporter must keep, whatever its files look like."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import Tensor, nn

from mixq.batch import Batch
from mixq.calibration import Calibration
from mixq.errors import ExportError, MissingExtraError, MixqError
from mixq.export.export import Export, export
from mixq.export.registry import runtime as runtime_named
from mixq.export.runtime import Runtime
from mixq.export.source import Source
from mixq.export.verify import BYTES_TOLERANCE, output_difference
from mixq.formats import Format
from mixq.testing.layers import LAYERS, chain
from mixq.testing.plans import plan_in_turn

FORMATS: Final = (
    *("w32", "w16", "w16-bf16", "w8", "w8g64", "w8g32-signed", "w8g32-zp", "w8g64-affine"),
    *("w8-reduced", "w4", "w4g32", "w4g32-signed", "w4g32-zp", "w4g32-affine", "w2g32"),
    *("w2g32-signed", "w2g32-zp", "w2g32-affine", "w8a8-dynamic", "w8a8-static"),
)
"""Every width, grid and sort of activations; a runtime holds each or refuses it."""
LARGEST_TOLERANCE: Final = 0.05
"""What the coarsest runtime of mixq needs, llama.cpp, which rounds activations by itself."""
_ALONE: Final = "import sys; sys.modules['mixq'] = None\n"
"""In front of a loader, so that it cannot import mixq."""


@dataclass(frozen=True)
class Subject:
    """What is exported.

    Attributes:
        model: in eval mode; at least as many units as the runtime holds formats.
        batches: of calibration, one sample or more each.
        other: another batch, of another number of samples.
        folder: with tokenizer and configuration, where the runtime needs one.
    """

    model: nn.Module
    batches: list[Batch]
    other: Batch
    folder: Path | None = None

    def source(self, *formats: str) -> Source:
        """It in a plan that gives its units these formats in turn."""
        data = Calibration.of(self.batches)
        plan = plan_in_turn(self.model, data, [Format.parse(name) for name in formats])
        return Source.of(self.model, plan, data, self.folder)


@dataclass(frozen=True)
class _Made:
    """A file that was exported, and from what."""

    source: Source
    path: Path
    done: Export


class RuntimeContract:
    """Duties of one exporter; inherit, say what it holds, and read its files.

        class TestNpz(RuntimeContract):
            runtime = "npz"
            holds = ("w32", "w16", "w8", "w4g32-zp", ...)
            takes = ("embedding", "tied")
            loader = "import sys, numpy; numpy.load(sys.argv[1])"

            def weights(self, path, source): ...

    Attributes:
        runtime: its name; its package is installed, or the test registers it.
        options: of its class.
        holds: formats that it takes, of `FORMATS` and others; it refuses the rest of `FORMATS`.
        takes: layers of `mixq.testing.layers.LAYERS` that it takes; it refuses the rest.
        loader: a program that loads the file `sys.argv[1]` without mixq; "" where mixq itself is
            what loads it.
        needs: modules without which it is refused.
        is_exact: whether its files take the plan's bytes, no more.
    """

    runtime: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    holds: ClassVar[tuple[str, ...]]
    takes: ClassVar[tuple[str, ...]] = ()
    loader: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    is_exact: ClassVar[bool] = True

    def weights(self, path: Path, source: Source) -> Mapping[str, Tensor]:
        """What the integers in a file stand for, by name of the unit, shaped like its parameter.

        Read from the file, not taken from `source`, which says where things are.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how its files are read")

    def subject(self, folder: Path) -> Subject:
        """What is exported: by default linear layers; `folder` is empty and may be filled."""
        model = chain(len(self.holds))
        generator = torch.Generator().manual_seed(1)
        batches: list[Batch] = [torch.randn(4, 64, generator=generator) for _ in range(2)]
        return Subject(model, batches, torch.randn(3, 64, generator=generator))

    def test_it_keeps_the_interface(self) -> None:
        made = self._runtime()
        assert made.name == self.runtime
        assert isinstance(made.extra, str)
        assert made.suffix.startswith(".") or made.is_folder

    def test_the_file_does_what_the_plan_does(self, tmp_path_factory: Any) -> None:
        """In the runtime itself, on samples that nobody verified it with, too."""
        made = self._made(tmp_path_factory)
        assert made.done.difference <= made.done.tolerance <= LARGEST_TOLERANCE
        held = {unit.packed.format.name for unit in made.source.units.values()}
        assert held >= set(self.holds) - {"w32"}
        other = Source(
            made.source.plan, made.source.model, made.source.applied,
            Calibration.of(self._subject(tmp_path_factory).other), made.source.folder,
        )  # fmt: skip
        runtime = self._runtime()
        runtime.check(made.source)
        session = runtime.open(made.path, threads=2)
        try:
            # Whose tolerance holds for the mean of many samples; one may be twice as far.
            assert output_difference(other, session) <= 2 * made.done.tolerance
        finally:
            session.close()

    def test_the_file_holds_the_plans_integers(self, tmp_path_factory: Any) -> None:
        made = self._made(tmp_path_factory)
        found = self.weights(made.path, made.source)
        assert set(found) == set(made.source.units)
        for name, unit in made.source.units.items():
            expected = unit.weight()
            assert found[name].shape == expected.shape, name
            assert torch.equal(found[name].to(expected.dtype), expected), name

    def test_the_file_takes_the_bytes_that_were_predicted(self, tmp_path_factory: Any) -> None:
        made = self._made(tmp_path_factory)
        done, planned = made.done, made.source.plan.predicted.weight_bytes
        assert abs(done.tensor_bytes - done.predicted_bytes) <= (
            BYTES_TOLERANCE * done.predicted_bytes
        )
        assert done.file_bytes >= done.tensor_bytes * (1 - BYTES_TOLERANCE)
        if self.is_exact:
            assert abs(done.predicted_bytes - planned) <= BYTES_TOLERANCE * planned

    def test_the_file_loads_without_mixq(self, tmp_path_factory: Any) -> None:
        made = self._made(tmp_path_factory)
        if not self.loader:
            assert runtime_named(self.runtime).extra == ""  # mixq alone
            return
        command = [sys.executable, "-c", _ALONE + self.loader, str(made.path)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]

    def test_the_same_plan_gives_the_same_bytes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
    ) -> None:
        """Tomorrow too: archives like to say when they were made. And nothing lies elsewhere."""
        made = self._made(tmp_path_factory)
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86400)
        monkeypatch.chdir(tmp_path)
        place = tmp_path_factory.mktemp("again")
        self._runtime_for(made.source).write(made.source, place / made.path.name)
        assert _contents(place) == _contents(made.path.parent)
        assert all(item.name.startswith("model") for item in place.iterdir())
        assert _contents(tmp_path) == {}

    @pytest.mark.parametrize("name", FORMATS)
    def test_other_formats_are_refused(self, name: str, tmp_path_factory: Any) -> None:
        """In one line that names the unit, its format and a way out."""
        if name in self.holds:
            return
        source = self._subject(tmp_path_factory).source(name)
        message = self._refusal(source, tmp_path_factory.mktemp("refused"))
        assert name in message
        assert any(unit in message for unit in source.units)

    @pytest.mark.parametrize("kind", LAYERS)
    def test_layers_are_taken_or_refused(self, kind: str, tmp_path_factory: Any) -> None:
        layer, folder = LAYERS[kind], tmp_path_factory.mktemp("layer")
        torch.manual_seed(0)
        model, batch = layer.build().eval(), layer.inputs()
        bits = next(name for name in self.holds if name not in ("w32", "w16", "w16-bf16"))
        source = Subject(model, [batch], batch).source(bits)
        if kind not in self.takes:
            self._refusal(source, folder)
            return
        path = folder / f"model{self._runtime().suffix}"
        done = export(
            model, source.plan, path, runtime=self.runtime, calibration=batch, **self.options
        )
        if self.is_exact:  # what is shared is stored once
            assert done.tensor_bytes <= source.plan.predicted.weight_bytes * (1 + BYTES_TOLERANCE)

    @pytest.mark.parametrize("share", [0.0, 0.5], ids=["empty", "half"])
    def test_a_damaged_file_is_refused(self, share: float, tmp_path_factory: Any) -> None:
        made = self._made(tmp_path_factory)
        runtime = self._runtime_for(made.source)
        path = tmp_path_factory.mktemp("damaged") / "folder" / made.path.name
        shutil.copytree(made.path.parent, path.parent)
        largest = max(_files(path.parent), key=lambda item: item.stat().st_size)
        data = largest.read_bytes()
        largest.write_bytes(data[: int(share * len(data))])
        batch = made.source.calibration.batches[0]
        with pytest.raises(MixqError) as refused:
            runtime.open(path).run(batch)
        assert str(refused.value).isprintable()

    def test_a_full_disk_changes_nothing(self, tmp_path_factory: Any) -> None:
        """No file may grow beyond half of what its tensors take: what was there stays."""
        resource = pytest.importorskip("resource")
        made = self._made(tmp_path_factory)
        target = tmp_path_factory.mktemp("full") / made.path.name
        if made.path.is_dir():
            target.mkdir()
            (target / "old").write_bytes(b"old")
        else:
            target.write_bytes(b"old")
        before, limits = _contents(target.parent), resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (made.done.tensor_bytes // 2, limits[1]))
        try:
            with pytest.raises(MixqError) as refused:
                self._export(made.source, target)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(refused.value).isprintable()
        assert _contents(target.parent) == before

    def test_what_is_not_installed_is_named(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: Any
    ) -> None:
        made = self._made(tmp_path_factory)
        for package in self.needs:
            with monkeypatch.context() as patch:
                for name in [n for n in sys.modules if n.split(".")[0] == package]:
                    patch.delitem(sys.modules, name)
                patch.setitem(sys.modules, package, None)
                target = tmp_path_factory.mktemp("missing") / made.path.name
                with pytest.raises(MissingExtraError) as refused:
                    self._export(made.source, target)
            assert refused.value.extra == self._runtime().extra
            assert str(refused.value).isprintable()
            assert _contents(target.parent) == {}

    def _runtime(self) -> Runtime:
        return runtime_named(self.runtime, **self.options)

    def _runtime_for(self, source: Source) -> Runtime:
        runtime = self._runtime()
        runtime.check(source)
        return runtime

    def _export(self, source: Source, path: Path) -> Export:
        return export(
            source.model, source.plan, path, runtime=self.runtime, overwrite=True,
            calibration=source.calibration, tokenizer=source.folder, **self.options,
        )  # fmt: skip

    def _refusal(self, source: Source, folder: Path) -> str:
        """The message of a refusal, in one line that ends in a way out."""
        with pytest.raises(ExportError) as refused:
            self._export(source, folder / f"model{self._runtime().suffix}")
        message = str(refused.value)
        assert message.isprintable()
        assert ";" in message
        assert _contents(folder) == {}
        return message

    def _subject(self, factory: Any) -> Subject:
        """Made once per class."""
        kind: Any = type(self)
        if "_known_subject" not in kind.__dict__:
            torch.manual_seed(0)
            kind._known_subject = self.subject(factory.mktemp("subject"))
        known: Subject = kind._known_subject
        return known

    def _made(self, factory: Any) -> _Made:
        """A file in every format that the runtime holds, exported once per class."""
        kind: Any = type(self)
        if "_known_made" not in kind.__dict__:
            source = self._subject(factory).source(*self.holds)
            path = factory.mktemp("made") / f"model{self._runtime().suffix}"
            kind._known_made = _Made(source, path, self._export(source, path))
        known: _Made = kind._known_made
        return known


def _files(folder: Path) -> list[Path]:
    return [item for item in sorted(folder.rglob("*")) if item.is_file()]


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(item.relative_to(folder)): item.read_bytes() for item in _files(folder)}
