"""Plans, results, tables and frontiers in a notebook, as data frames and as dicts."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pandas
import pytest
import torch

import mixq
from mixq import SearchResult
from mixq.errors import MissingExtraError
from mixq.frames import data_frame
from mixq.html_table import MOST_ROWS, WIDTHS, html_table, html_text
from mixq.plan_view import LAYER_COLUMNS
from mixq.search.view import POINT_COLUMNS, TRIAL_COLUMNS
from mixq.sensitivity.view import COLUMNS
from tests.determinism_case import case

HOSTILE = "<script>alert(1)</script>\"'&\x1b[31m\n</td>"


@pytest.fixture(scope="module")
def result() -> Iterator[SearchResult]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model, inputs = case()
    yield mixq.search(model, inputs, hardware="intel_cpu", target_compression=5.5, trials=2)
    torch.set_num_threads(before)


class Page(HTMLParser):
    """Reads HTML strictly enough to see that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.cells: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert {name for name, _ in attrs} <= {"style", "colspan", "aria-hidden"}
        self.open.append(tag)
        self.tags.append(tag)
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.cells[-1][-1] += data


SHOWN: dict[str, Callable[[SearchResult], Any]] = {
    "plan": lambda result: result.plan,
    "result": lambda result: result,
    "sensitivity": lambda result: result.sensitivity,
    "frontier": lambda result: result.frontier,
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_html_is_whole_and_short(result: SearchResult, shown: Any) -> None:
    text = shown(result)._repr_html_()
    page = Page(text)
    assert "table" in page.tags
    assert not {"script", "style", "link", "img", "iframe"} & set(page.tags)
    assert len(text) < 40_000


def test_html_has_the_numbers(result: SearchResult) -> None:
    page = Page(result._repr_html_())
    rows = {row[0].strip(): row for row in page.cells}
    for name, layer in result.plan.layers.items():
        assert rows[name][1].split()[-1] == layer.format.name
        assert rows[name][3] == f"{layer.weight_bytes:,}"
    assert rows["this plan"][2] == f"{result.plan.predicted.weight_bytes:,}"
    assert f"{result.plan.predicted.compression:.2f}x smaller" in "".join(page.text)
    errors = Page(result.sensitivity._repr_html_()).cells
    for row in errors[1:]:
        entries = result.sensitivity.entries[row[0]]
        for text, bits in zip(row[1:], (32, 8, 4, 2), strict=True):
            least = min(entry.error for fmt, entry in entries.items() if fmt.bits == bits)
            assert float(text) == pytest.approx(least, rel=5e-3)


def test_a_result_prints_in_two_lines(result: SearchResult) -> None:
    first, second = str(result).splitlines()
    assert repr(result) == str(result)
    assert first.startswith(f"SearchResult: {result.plan.model.name} on intel_cpu: ")
    compression = result.plan.predicted.compression
    for part in (
        f"{compression:.2f}x smaller, {result.plan.predicted.weight_bytes:,} bytes, ",
        "output error ",
        f"{len(result.trials)} trials, frontier of {len(result.frontier):,} plans",
    ):
        assert part in first
    assert len(first) < 200
    named = [word.strip("(),.") for word in second.removeprefix("see ").split()]
    assert all(hasattr(result, name) for name in named)
    model = result.plan.model.model_copy(update={"name": HOSTILE})
    hostile = replace(result, plan=result.plan.model_copy(update={"model": model}))
    assert "\x1b" not in repr(hostile)
    assert len(repr(hostile).splitlines()) == 2


def test_names_from_outside_are_shown_and_not_obeyed(result: SearchResult) -> None:
    layers = {HOSTILE + name: layer for name, layer in result.plan.layers.items()}
    model = result.plan.model.model_copy(update={"name": HOSTILE})
    plan = result.plan.model_copy(update={"layers": layers, "model": model})
    page = Page(plan._repr_html_())
    assert "script" not in page.tags
    assert any("<script>alert(1)</script>" in text for text in page.text)
    assert "\x1b" not in plan._repr_html_()
    assert "\n" not in html_text(HOSTILE)


def test_long_tables_are_cut_and_say_so(result: SearchResult) -> None:
    first = next(iter(result.plan.layers.values()))
    plan = result.plan.model_copy(update={"layers": {f"layer{i}": first for i in range(5000)}})
    page = Page(plan._repr_html_())
    last = page.cells[-1][0]
    assert last == f"and {5000 - MOST_ROWS:,} more: print(plan), plan.to_pandas(), plan.layers"
    assert f"layer{MOST_ROWS - 1}" in page.text
    assert f"layer{MOST_ROWS}" not in page.text
    assert len(plan._repr_html_()) < 40_000


@pytest.mark.parametrize("count", [0, MOST_ROWS, MOST_ROWS + 1])
def test_rows_of_a_table(count: int) -> None:
    page = Page(html_table(("a", "b"), ((i, i * i) for i in range(count)), total=count))
    body = page.cells[1:]
    assert len(body) == min(count, MOST_ROWS + 1)
    assert (body[-1:] == [["and 1 more"]]) == (count > MOST_ROWS)


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2) of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return sum(
        weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
    )


@pytest.mark.parametrize("page", ["#ffffff", "#111111"], ids=["light", "dark"])
@pytest.mark.parametrize("bits", WIDTHS)
def test_marks_are_seen_on_light_and_dark(bits: int, page: str) -> None:
    """3 to 1 for what is no text: WCAG 2.2, success criterion 1.4.11."""
    dark, light = sorted((luminance(WIDTHS[bits]), luminance(page)))
    assert (light + 0.05) / (dark + 0.05) >= 3


FRAMES: dict[str, tuple[Mapping[str, str], Callable[[SearchResult], int]]] = {
    "plan": (LAYER_COLUMNS, lambda result: len(result.plan.layers)),
    "result": (TRIAL_COLUMNS, lambda result: len(result.trials)),
    "sensitivity": (
        COLUMNS, lambda result: sum(map(len, result.sensitivity.entries.values()))
    ),
    "frontier": (POINT_COLUMNS, lambda result: len(result.frontier)),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_frames_have_the_documented_columns(result: SearchResult, name: str) -> None:
    columns, count = FRAMES[name]
    frame = SHOWN[name](result).to_pandas()
    assert list(frame.columns) == list(columns)
    assert len(frame) == count(result)
    for column, kind in columns.items():
        if kind != "str":  # pandas 2 has objects for text
            assert str(frame.dtypes[column]) == kind


@pytest.mark.parametrize("columns", [columns for columns, _ in FRAMES.values()], ids=FRAMES)
def test_an_empty_frame_has_the_same_types(columns: dict[str, str]) -> None:
    assert list(data_frame(columns, []).columns) == list(columns)


def test_frames_hold_the_numbers(result: SearchResult) -> None:
    plan = result.plan
    layers = plan.to_pandas().set_index("unit")
    for name, layer in plan.layers.items():
        row = layers.loc[name]
        assert (row["format"], row["latency_s"]) == (layer.format.name, layer.latency_s)
        assert bool(pandas.isna(row["group_size"])) == (layer.group_size is None)
    trials = result.to_pandas()
    assert trials.chosen.sum() == 1
    (chosen,) = trials[trials.chosen].heldout_error
    assert chosen == plan.measured.heldout_error
    points = result.frontier.to_pandas()
    assert points.weight_bytes.is_monotonic_increasing
    assert points.error.is_monotonic_decreasing
    original = plan.model.original_bytes
    assert (points.compression == original / points.weight_bytes).all()


def test_dicts_are_what_json_holds(result: SearchResult, tmp_path: Any) -> None:
    plan, table = tmp_path / "plan.json", tmp_path / "sensitivity.json"
    result.plan.save(plan)
    result.sensitivity.save(table)
    assert result.plan.to_dict() == json.loads(plan.read_text(encoding="utf-8"))
    assert result.sensitivity.to_dict() == json.loads(table.read_text(encoding="utf-8"))
    whole = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert whole == result.to_dict()
    assert {key: whole[key] for key in result.plan.to_dict()} == result.plan.to_dict()
    assert result.audit is not None
    assert whole["audit"] == json.loads(json.dumps(result.audit.to_json()))
    points = json.loads(json.dumps(result.frontier.to_dict(), allow_nan=False))
    assert points["points"] == len(points["error"]) == len(result.frontier)


@pytest.mark.parametrize("name", FRAMES)
def test_without_pandas(result: SearchResult, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(module: str, *arguments: Any, **named: Any) -> Any:
        if module == "pandas":
            raise ImportError(module)
        return real(module, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'mixq\[pandas\]'"):
        SHOWN[name](result).to_pandas()


def test_ctrl_c_in_the_library_says_how_to_go_on(tmp_path: Any) -> None:
    model, inputs = case()
    told: list[str] = []

    def stop(stage: str, done: int, total: int) -> None:
        told.append(stage)
        if stage == "measuring plans":
            raise KeyboardInterrupt

    asked: dict[str, Any] = {"hardware": "intel_cpu", "target_compression": 5.5, "trials": 2}
    folder = tmp_path / "kept"
    with pytest.raises(KeyboardInterrupt) as stopped:
        mixq.search(model, inputs, **asked, folder=folder, progress=stop)
    (note,) = stopped.value.__notes__
    assert note == (
        f"what was measured is kept in {folder}: the same call with folder={str(folder)!r} goes "
        "on from there"
    )
    again: list[str] = []
    mixq.search(
        model, inputs, **asked, folder=folder,
        progress=lambda stage, done, total: again.append(f"{stage} {done} of {total}"),
    )  # fmt: skip
    assert told.count("sketching sensitivities") > 0
    with pytest.raises(KeyboardInterrupt) as stopped:
        mixq.search(model, inputs, **asked, progress=stop)
    assert not hasattr(stopped.value, "__notes__")


def test_bars_are_quiet_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with mixq.progress_bar() as progress:
        progress("stage", 0, 2)
        progress("stage", 2, 2)
    assert capsys.readouterr() == ("", "")
