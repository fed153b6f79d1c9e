"""A bench of candidates in a runtime made for the test: faults, metrics, what is closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixq.batch import Batch
from mixq.bench import run
from mixq.bench.candidate import Candidate, Predicted
from mixq.bench.memory import Memory
from mixq.bench.result import Bench, Settings
from mixq.bench.run import bench
from mixq.bench.workload import workload
from mixq.calibration import Calibration
from mixq.errors import ExportError, MissingExtraError, ModelError, UsageError, WorkerError
from mixq.sensitivity.outputs import ONLY

INPUTS = Calibration.of(torch.arange(12.0).reshape(4, 3))
MEMORY = Memory(8, 4, 2, 16)


class Session:
    """Doubles its input; counts."""

    opened = 0

    def __init__(self, path: Path) -> None:
        self.fails = path.name == "runs.not"
        type(self).opened += 1

    def run(self, batch: Batch) -> dict[str, Tensor]:
        if self.fails:
            raise ExportError("it cannot run\nthe batch")
        assert isinstance(batch, Tensor)
        return {ONLY: batch * 2}

    def close(self) -> None:
        type(self).opened -= 1


class Runtime:
    def open(self, path: Path, *, threads: int = 1) -> Session:
        if path.name == "loads.not":
            raise ExportError("it does not load")
        if path.name == "extra.not":
            raise MissingExtraError("gguf", "gguf", "running a GGUF file")
        return Session(path)


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run, "runtime_named", lambda name: Runtime())
    monkeypatch.setattr(run, "measure_memory", lambda *_: MEMORY)
    Session.opened = 0
    yield
    assert Session.opened == 0, "every session is closed, whatever happens"


def candidate(name: str, file: str = "file", **more: Any) -> Candidate:
    return Candidate(name, "ours", Path(file), 100, **more)


def done(*candidates: Candidate, **more: Any) -> Bench:
    return bench(candidates, INPUTS, Settings(repeat=2), **more)


def mean(model: nn.Module) -> dict[str, float]:
    return {"least": 0.0, "mean": float(model(torch.ones(2, 3)).mean())}


def test_what_fails_says_so_and_the_others_go_on() -> None:
    found = done(
        candidate("fp32"),
        candidate("a", "loads.not"),
        candidate("b", "runs.not"),
        Candidate("c", "ours", None, fault="it was not verified"),
        candidate("d"),
    )
    assert [row.name for row in found.rows] == ["fp32", "a", "b", "c", "d"]
    assert [row.fault for row in found.rows] == [
        None, "it does not load", "it cannot run\\nthe batch", "it was not verified", None,
    ]  # fmt: skip
    assert [row.timing is not None for row in found.rows] == [True, False, False, False, True]
    assert found.rows[-1].memory == MEMORY


def test_if_nothing_runs_the_first_reason_is_given() -> None:
    with pytest.raises(ExportError, match="nothing runs: fp32: it does not load"):
        done(candidate("fp32", "loads.not"), candidate("plan", "runs.not"))


def test_a_missing_library_is_no_fault_of_a_file() -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[gguf\]'"):
        done(candidate("fp32"), candidate("plan", "extra.not"))


def test_ratios_are_over_fp32() -> None:
    fp32, plan = done(candidate("fp32"), candidate("plan")).rows
    assert fp32.ratio is not None
    assert (fp32.ratio.wall.median, fp32.ratio.cpu.median) == (1, 1)
    assert plan.ratio is not None
    (alone,) = done(candidate("plan")).rows
    assert alone.ratio is None
    assert alone.to_json()["ratio"] is None


def test_predictions_stand_beside_what_was_measured() -> None:
    (row,) = done(candidate("plan", predicted=Predicted(0.25, 1.0, 7))).rows
    assert (row.predicted_latency_s, row.predicted_ratio) == (0.25, 0.25)
    assert row.to_json()["predicted_peak_bytes"] == row.predicted_peak_bytes == 7


def test_the_metric_is_computed_through_the_session() -> None:
    found = done(candidate("fp32"), evaluate={"ones": mean})
    assert found.rows[0].metric == {"ones": {"least": 0.0, "mean": 2.0}}
    assert found.primary == {"ones": "least"}, "the first one, as nothing names another"

    class Named:
        primary = "mean"

        def __call__(self, model: nn.Module) -> dict[str, float]:
            return mean(model)

    assert done(candidate("fp32"), evaluate={"ones": Named()}).primary == {"ones": "mean"}


def test_a_metric_that_fails_is_a_note() -> None:
    def fails(model: nn.Module) -> dict[str, float]:
        raise ModelError("no layers here")

    (row,) = done(candidate("fp32"), evaluate={"ones": mean, "none": fails}).rows
    assert list(row.metric) == ["ones"]
    assert row.notes == ("none cannot judge it: no layers here",)


def test_a_memory_process_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Memory:
        raise WorkerError("killed")

    monkeypatch.setattr(run, "measure_memory", fails)
    (row,) = done(candidate("fp32")).rows
    assert row.memory is None
    assert row.notes == ("killed",)


@pytest.mark.parametrize("option", ["threads", "batch_size", "repeat", "sequence"])
def test_a_count_of_none_is_refused(option: str) -> None:
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')} is 0, but it must be"):
        Settings(**{option: 0})


TOKENS = torch.arange(24).reshape(4, 6)
WORKLOADS = {
    "ids": (TOKENS, TOKENS[:1].repeat(2, 1)[:, :3]),
    "keywords": (
        {"input_ids": TOKENS, "mask": torch.ones(4, 6).long(), "image": torch.ones(4, 9)},
        {
            "input_ids": TOKENS[:1].repeat(2, 1)[:, :3],
            "mask": torch.ones(2, 3).long(),
            "image": torch.ones(2, 9),
        },
    ),
    "positions": ((TOKENS, torch.ones(4, 9)), (TOKENS[:1].repeat(2, 1)[:, :3], torch.ones(2, 9))),
}


@pytest.mark.parametrize(("data", "expected"), WORKLOADS.values(), ids=WORKLOADS)
def test_a_workload_is_the_first_sample_so_many_times_and_so_long(
    data: object, expected: object
) -> None:
    found = workload(Calibration.of(data), 2, 3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("data", "words"),
    [(TOKENS, "has 6 tokens"), (torch.ones(2, 9), "is no sequence of tokens")],
    ids=["too-long", "images"],
)
def test_a_sequence_that_is_not_there_is_refused(data: Tensor, words: str) -> None:
    with pytest.raises(UsageError, match=rf"--sequence is 7, but the first .* {words}"):
        workload(Calibration.of(data), 1, 7)
