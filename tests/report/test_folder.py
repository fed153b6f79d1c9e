"""The files of a run folder: all of them, each whole, run.json last."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from mixq.errors import OutputError, PlanError
from mixq.plan import Plan
from mixq.report.folder import redraw, write_analysis, write_results
from mixq.report.run import Run
from mixq.search.call import search
from mixq.search.folder import RunFolder
from mixq.search.result import SearchResult
from mixq.sensitivity.table import SensitivityTable

IDENTITY = {"model": "sha256:1", "hardware": "sha256:2"}
FILES = [
    "plan.json", "plan.weights.safetensors", "sensitivity.json", "sensitivity.csv",
    "frontier.json", "frontier.csv", "costs.json", "pareto.html", "pareto.png", "sensitivity.html",
    "sensitivity.png", "audit.json", "audit.html", "audit.png", "run.json",
]  # fmt: skip
WRITTEN = [FILES[1], FILES[0], *FILES[2:]]
"""In this order: a plan never names weights that are not there."""


@pytest.fixture(scope="module")
def result() -> SearchResult:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    inputs = torch.randn(8, 32, generator=generator)
    return search(model, inputs, hardware="intel_cpu", target_compression=4, trials=1)


def state(folder: Path) -> object:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))["state"]


def test_everything_is_written_in_order(result: SearchResult, tmp_path: Path) -> None:
    files = write_results(result, RunFolder(tmp_path, IDENTITY))
    assert [file.name for file in files] == FILES
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)
    assert Plan.load(tmp_path / "plan.json") == result.plan
    assert SensitivityTable.load(tmp_path / "sensitivity.json") == result.sensitivity
    assert state(tmp_path) == "done"


@pytest.mark.parametrize("full_at", WRITTEN)
def test_a_disk_that_is_full_at(
    result: SearchResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_at: str
) -> None:
    """Every file before that one is new, every file from it on is absent or as it was."""
    replace = Path.replace

    def full(path: Path, target: Path) -> Path:
        done = b'"done"' in path.read_bytes()
        if target.name == full_at and (full_at != "run.json" or done):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return replace(path, target)

    folder = RunFolder(tmp_path, IDENTITY)
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match=f"{full_at} cannot be written: No space left"):
        write_results(result, folder)
    written = set(WRITTEN[: WRITTEN.index(full_at)]) | {"run.json"}
    assert {path.name for path in tmp_path.iterdir()} == written
    assert state(tmp_path) == "writing"
    monkeypatch.undo()
    write_results(result, folder)
    assert state(tmp_path) == "done"


def test_weights_of_an_earlier_run_do_not_stay(result: SearchResult, tmp_path: Path) -> None:
    write_results(result, RunFolder(tmp_path, IDENTITY))
    layers = {
        name: layer.model_copy(update={"method": "rtn"})
        for name, layer in result.plan.layers.items()
    }
    bare = result.plan.model_copy(update={"layers": layers, "weights": None})
    files = write_results(replace(result, plan=bare), RunFolder(tmp_path, IDENTITY))
    assert [file.name for file in files] == [FILES[0], *FILES[2:]]
    assert {path.name for path in tmp_path.iterdir()} == {FILES[0], *FILES[2:]}


def test_weights_that_cannot_be_deleted_are_said(result: SearchResult, tmp_path: Path) -> None:
    (tmp_path / FILES[1]).mkdir()
    bare = result.plan.model_copy(update={"weights": None})
    with pytest.raises(OutputError, match=f"{FILES[1]} of an earlier run cannot be deleted"):
        write_results(replace(result, plan=bare), RunFolder(tmp_path, IDENTITY))


def test_an_analysis_leaves_a_finished_search_finished(
    result: SearchResult, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path, {"model": "sha256:1"})
    files = write_analysis(result.sensitivity, folder, "net")
    assert [file.name for file in files] == [
        "sensitivity.json", "sensitivity.csv", "sensitivity.html", "sensitivity.png"
    ]  # fmt: skip
    assert state(tmp_path) == "analyzed"
    write_results(result, RunFolder(tmp_path, IDENTITY))
    before = (tmp_path / "run.json").read_bytes()
    write_analysis(result.sensitivity, folder, "net")
    assert (tmp_path / "run.json").read_bytes() == before


def test_redrawing_gives_the_same_plots(result: SearchResult, tmp_path: Path) -> None:
    write_results(result, RunFolder(tmp_path, IDENTITY))
    plots = [tmp_path / f"{name}.{kind}" for name in ("pareto", "sensitivity", "audit")
             for kind in ("html", "png")]  # fmt: skip
    before = [plot.read_bytes() for plot in plots]
    for plot in plots:
        plot.unlink()
    assert redraw(Run.load(tmp_path)) == plots
    assert [plot.read_bytes() for plot in plots] == before


@pytest.mark.parametrize("missing", ["frontier.json", "sensitivity.json"])
def test_nothing_is_drawn_without(result: SearchResult, tmp_path: Path, missing: str) -> None:
    write_results(result, RunFolder(tmp_path, IDENTITY))
    for path in [tmp_path / missing, *tmp_path.glob("*.html"), *tmp_path.glob("*.png")]:
        path.unlink()
    with pytest.raises(PlanError, match=missing):
        redraw(Run.load(tmp_path))
    assert not [*tmp_path.glob("*.html"), *tmp_path.glob("*.png")]
