"""Any number of workers gives the table of one process, byte for byte, and loses nothing."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from mixq.calibration import Calibration
from mixq.errors import MixqError, ModelError, WorkerError
from mixq.formats import Format
from mixq.graph.find import find_units
from mixq.graph.units import WeightUnit
from mixq.rounding.prepare import prepare_rounding
from mixq.rounding.rounder import Rounder
from mixq.sensitivity.measured import STAGE, measure
from mixq.sensitivity.reference import Reference
from mixq.sensitivity.store import Store
from mixq.sensitivity.table import SensitivityTable

FORMATS = tuple(map(Format.parse, ("w32", "w16", "w8", "w4g16", "w2g16-zp")))
LEARNT = tuple(
    map(Format.parse, ("w8a8-dynamic", "w8a8-static", "w4g16-zp-gptq", "w2g16-clip-bc"))
)


def x(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def batches(count: int, *shape: int) -> list[Tensor]:
    return [x(2, *shape, seed=seed) for seed in range(count)]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 16)
        self.inner = nn.Linear(16, 16)
        self.head = nn.Linear(16, 9, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.inner(self.embed(tokens)).tanh())
        return result


class Noisy(nn.Module):
    """No tape takes it: it draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.inner(x)
        return hidden + torch.randn_like(hidden)


def layers() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16), nn.GELU(), nn.Linear(16, 4)
    )


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    data: object
    formats: Sequence[Format] = FORMATS


CASES: dict[str, Case] = {
    "encoder": Case(
        lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), batches(3, 5, 16)
    ),
    "lstm": Case(lambda: nn.LSTM(16, 8, 2, batch_first=True), batches(2, 5, 16)),
    "tied": Case(Tied, [torch.arange(12).view(3, 4) % 9, torch.arange(8).view(2, 4) % 9]),
    "parametrized": Case(
        lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 16)), nn.Linear(16, 4)),
        batches(3, 16),
    ),
    "one-unit": Case(lambda: nn.Linear(16, 4), batches(5, 16)),
    "no-tape": Case(Noisy, batches(3, 16)),
    "learnt": Case(layers, batches(16, 16), (*FORMATS, *LEARNT)),
    "half": Case(lambda: layers().bfloat16(), [b.bfloat16() for b in batches(3, 16)]),
}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()


def prepared(
    case: Case,
) -> tuple[nn.Module, Calibration, list[WeightUnit], Mapping[str, Sequence[Format]], Rounder]:
    model, calibration = seeded(case.make).eval(), Calibration.of(case.data)
    units = find_units(model)
    formats = {unit.name: case.formats for unit in units}
    rounding = prepare_rounding(model, {unit.name: unit for unit in units}, formats, calibration)
    return model, rounding.unseen, units, rounding.formats, rounding.rounder


def saved(table: SensitivityTable, folder: Path) -> bytes:
    table.save(folder / "table.json")
    return (folder / "table.json").read_bytes()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_two_workers_give_the_table_of_one_process(
    case: Case, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, calibration, units, formats, rounder = prepared(case)

    def table(workers: int, folder: Path) -> SensitivityTable:
        folder.mkdir()
        return measure(
            model, calibration, units, formats, rounder=rounder, workers=workers,
            store=Store(folder, "key"),
        )  # fmt: skip

    alone, together = table(1, tmp_path / "one"), table(2, tmp_path / "two")
    assert together == alone
    assert saved(together, tmp_path) == saved(alone, tmp_path)
    assert list(together.refused) == list(alone.refused)
    assert any(entry.error > 0 for row in alone.entries.values() for entry in row.values())
    lines = [
        sorted(next(folder.iterdir()).read_bytes().splitlines())
        for folder in (tmp_path / "one", tmp_path / "two")
    ]
    assert lines[0] == lines[1]
    # Once per table, not once per worker.
    warned = [record for record in caplog.records if "the whole model is run" in record.message]
    assert len(warned) == (2 if isinstance(model, Noisy) else 0)


class Threaded(nn.Module):
    """Shows in its outputs what decides the last bits of others."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = layers()

    def forward(self, x: Tensor) -> Tensor:
        factor = torch.get_num_threads() + len(torch.get_float32_matmul_precision())
        result: Tensor = self.inner(x) * factor
        return result


def test_threads_and_precision_are_those_of_the_parent() -> None:
    """Sums are divided among threads, so their number decides the last bits."""
    model, calibration = seeded(Threaded), Calibration.of(x(2, 16))
    units = find_units(model)
    formats = {unit.name: (Format.parse("w4g16"),) for unit in units}
    before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    tables = []
    try:
        for threads, precision in ((3, "high"), (1, "high"), (1, "highest")):
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(precision)
            tables.append(measure(model, calibration, units, formats))
            assert measure(model, calibration, units, formats, workers=2) == tables[-1]
    finally:
        torch.set_num_threads(before[0])
        torch.set_float32_matmul_precision(before[1])
    assert len({table.output_power for table in tables}) == 3


def test_few_units_are_divided_by_samples(tmp_path: Path) -> None:
    seen: set[int] = set()
    model = Counted(nn.Linear(16, 4), str(tmp_path))
    calibration = Calibration.of(batches(8, 16))
    units = find_units(model)
    measure(model, calibration, units, {units[0].name: FORMATS}, workers=2)
    seen = {int(path.name) for path in tmp_path.iterdir()} - {os.getpid()}
    assert len(seen) == 2  # a single unit has kept both busy


class Counted(nn.Module):
    """Leaves the number of each process that runs it in a folder, and takes its time."""

    def __init__(self, inner: nn.Module, folder: str) -> None:
        super().__init__()
        self.inner, self.folder = inner, folder

    def forward(self, x: Tensor) -> Tensor:
        Path(self.folder, str(os.getpid())).touch()
        time.sleep(0.02)
        result: Tensor = self.inner(x)
        return result


def test_progress_is_told_of_every_measurement() -> None:
    model, calibration, units, formats, rounder = prepared(CASES["encoder"])
    store = Store(None)
    first = units[2]
    store.put(first.name, "w8", [0.0] * 6)
    calls: list[tuple[str, int, int]] = []
    measure(
        model, calibration, units, formats, rounder=rounder, store=store, workers=2,
        progress=lambda stage, done, total: calls.append((stage, done, total)),
    )  # fmt: skip
    total = len(units) * len(FORMATS)
    assert calls == [(STAGE, done, total) for done in range(1, total + 1)]


class Fragile(nn.Module):
    """NaN as soon as a weight of the last layer changes."""

    original: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16))
        last: Any = self.inner[2]
        self.register_buffer("original", last.weight.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.inner(x)
        last: Any = self.inner[2]
        return result if torch.equal(self.original, last.weight) else result * torch.nan


def test_what_a_worker_refuses_is_said_as_by_one_process() -> None:
    model, calibration = Fragile(), Calibration.of(x(4, 16))
    units = find_units(model)
    formats = {unit.name: (Format(32), Format(8)) for unit in units}
    said: list[str] = []
    for workers in (1, 2):
        store = Store(None)
        with pytest.raises(ModelError) as refusal:
            measure(model, calibration, units, formats, store=store, workers=workers)
        said.append(str(refusal.value))
        assert store.get(units[-1].name, "w32") == [0.0] * 4  # came before it, in one task
    assert said[0] == said[1]
    assert "inner.2.weight at w8" in said[0]


def test_a_model_that_cannot_travel_is_refused() -> None:
    model = nn.Linear(16, 4)
    model.log = sys.stdout  # type: ignore[assignment]
    units = find_units(model)
    with pytest.raises(ModelError, match=r"cannot be sent .*; use --workers 1") as refusal:
        measure(model, Calibration.of(x(2, 16)), units, {"weight": FORMATS}, workers=2)
    assert "\n" not in str(refusal.value)


class Deadly(nn.Module):
    """Kills the process that runs it, unless that is `parent`, once there are so many files."""

    def __init__(self, folder: str, after: int) -> None:
        super().__init__()
        self.inner = layers()
        self.folder, self.after, self.parent = folder, after, os.getpid()

    def forward(self, x: Tensor) -> Tensor:
        if os.getpid() != self.parent:
            time.sleep(0.02)  # so that what is done is written before all is done
            store = next(iter(Path(self.folder).iterdir()), None)
            done = 0 if store is None else store.read_bytes().count(b"\n")
            if done >= self.after:
                os.kill(os.getpid(), signal.SIGKILL)
        result: Tensor = self.inner(x) + torch.rand(1) * 0  # no tape takes it
        return result


def test_a_worker_that_is_killed_loses_nothing(tmp_path: Path) -> None:
    model = Deadly(str(tmp_path), after=3)
    calibration = Calibration.of(batches(2, 16))
    units = find_units(model)
    formats = {unit.name: FORMATS for unit in units}
    expected = measure(model, calibration, units, formats)
    for _ in range(2):  # the second time, the pool is a new one
        with pytest.raises(WorkerError, match="a worker process has died") as failure:
            measure(model, calibration, units, formats, store=Store(tmp_path, "key"), workers=2)
        assert "\n" not in str(failure.value)
        assert "fewer --workers" in str(failure.value)
    kept = next(tmp_path.iterdir()).read_bytes().count(b"\n")
    assert 3 <= kept < len(units) * len(FORMATS)
    assert measure(model, calibration, units, formats, store=Store(tmp_path, "key")) == expected


def test_threads_are_no_workers() -> None:
    model = layers()
    units = find_units(model)
    formats = {unit.name: FORMATS for unit in units}
    with (
        joblib.parallel_config(backend="threading"),
        pytest.raises(WorkerError, match="ThreadingBackend, whose workers would change"),
    ):
        measure(model, Calibration.of(x(2, 16)), units, formats, workers=2)


def test_a_configured_backend_is_taken() -> None:
    model, calibration, units, formats, rounder = prepared(CASES["encoder"])
    alone = measure(model, calibration, units, formats, rounder=rounder)
    with joblib.parallel_config(backend="sequential"):
        assert measure(model, calibration, units, formats, rounder=rounder, workers=2) == alone


def test_a_part_of_a_reference_is_the_reference_of_a_part() -> None:
    model, calibration = layers(), Calibration.of(batches(4, 16))
    whole = Reference(model, calibration)
    part = whole.part(1, 3)
    alone = Reference(model, Calibration(calibration.batches[1:3]))
    assert part.samples == alone.samples == 4
    assert part.batches == alone.batches
    for own, other in zip(part.outputs, alone.outputs, strict=True):
        assert own.keys() == other.keys()
        assert all(torch.equal(own[name], other[name]) for name in own)
    assert (whole.samples, len(whole.batches)) == (8, 4)


def test_errors_travel_by_their_kind() -> None:
    assert issubclass(WorkerError, MixqError)
    assert WorkerError.exit_status == 1


@pytest.mark.slow
def test_ray() -> None:
    """Two workers of a cluster of its own, in whose folders nothing of these tests lies."""
    ray = pytest.importorskip("ray", reason="an extra")
    from ray.util.joblib import register_ray

    register_ray()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        for case in (CASES["learnt"], CASES["no-tape"]):
            model, calibration, units, formats, rounder = prepared(case)
            alone = measure(model, calibration, units, formats, rounder=rounder)
            with joblib.parallel_config(backend="ray"):
                together = measure(model, calibration, units, formats, rounder=rounder, workers=2)
            assert together == alone
            assert together.to_json() == alone.to_json()
    finally:
        ray.shutdown()
