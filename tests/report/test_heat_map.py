"""The map of sensitivities: what it shows, that it is whole, alone and the same every time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread

from mixq.errors import OutputError, UsageError
from mixq.formats import Format
from mixq.report.heat_map import write_heat_html, write_heat_png
from mixq.report.heat_view import (
    LONGEST_LABEL,
    MOST_NUMBERED,
    ZERO_COLOUR,
    HeatView,
    cell_label,
    describe,
    short_names,
)
from mixq.report.pareto_view import INK
from mixq.sensitivity.estimate import Estimate
from mixq.sensitivity.table import SensitivityTable

from .pages import Page

Rows = Mapping[str, Mapping[str, Estimate]]
SOME = Estimate.of([1.0, 2.0, 3.0])
ZERO = Estimate.of([0.0, 0.0, 0.0])


def table(rows: Rows, power: float = 2.0, **more: Any) -> SensitivityTable:
    entries = {
        unit: {Format.parse(name): entry for name, entry in row.items()}
        for unit, row in rows.items()
    }
    return SensitivityTable(entries, power, "", 3, "", "", **more)


def a_model() -> SensitivityTable:
    """One of everything: an exact zero, a missing entry, a refused one, several blocks."""
    return table(
        {
            "net.0.up.weight": {"w32": ZERO, "w8g64": SOME, "w4g64-zp": Estimate.of([4.0, 6.0])},
            "net.0.down.weight": {"w32": ZERO, "w8g64-zp": Estimate.of([1e-6, 1e-6])},
            "net.1.up.weight": {"w32": ZERO, "w8g64": ZERO, "w4g64": Estimate.of([3.0])},
        },
        refused={("net.0.down.weight", "w4g64"): "scale 1e6 is beyond float16"},
    )


CHOSEN = {
    "net.0.up.weight": Format.parse("w4g64-zp"),
    "net.0.down.weight": Format.parse("w8g64-zp"),
    "net.1.up.weight": Format.parse("w4g64"),
}


class TestView:
    def test_rows_and_columns(self) -> None:
        view = HeatView.of(a_model(), CHOSEN)
        assert view.units == tuple(a_model().entries)
        assert view.columns == ("w8g64", "w4g64")
        assert [[c and c.format.name for c in row] for row in view.cells] == [
            ["w8g64", "w4g64-zp"], ["w8g64-zp", None], ["w8g64", "w4g64"],
        ]  # fmt: skip
        assert view.cells[0][1] is not None
        assert view.cells[0][1].shown == 2.5  # 5 over a power of 2
        assert view.chosen() == [(0, 1), (1, 0), (2, 1)]
        assert view.blocks() == [2]
        assert view.has_zeros

    def test_32_bits_are_shown_where_a_plan_has_them(self) -> None:
        assert HeatView.of(a_model()).columns[0] == "w8g64"
        exact = {**CHOSEN, "net.1.up.weight": Format(32)}
        view = HeatView.of(a_model(), exact)
        assert view.columns[0] == "w32"
        assert view.chosen()[-1] == (2, 0)

    def test_a_table_of_32_bits_alone_is_shown(self) -> None:
        assert HeatView.of(table({"a": {"w32": ZERO}})).columns == ("w32",)

    @pytest.mark.parametrize(
        ("formats", "columns"),
        [
            (["w2", "w4g32", "w8", "w4g128", "w4"], ("w8", "w4", "w4g128", "w4g32", "w2")),
            (["w8a8-dynamic", "w8g64", "w16"], ("w16", "w8g64", "w8a8-dynamic")),
            (["w4g64-zp-gptq", "w8g64-clip"], ("w8g64", "w4g64")),
            (["w4g64-zp-gptq", "w4g64-affine-gptq"], ("w4g64-affine", "w4g64-zp")),
            (["w4g64-gptq", "w4g64-clip"], ("w4g64-clip", "w4g64-gptq")),
        ],
        ids=["sizes", "activations", "merged", "grids", "methods"],
    )
    def test_columns_go_from_wide_to_narrow(
        self, formats: Sequence[str], columns: tuple[str, ...]
    ) -> None:
        view = HeatView.of(table({"a": dict.fromkeys(formats, SOME), "b": {formats[0]: SOME}}))
        assert view.columns == columns
        assert all(view.cells[0])

    def test_the_scale_spans_what_is_not_zero(self) -> None:
        view = HeatView.of(a_model())
        places = [view.place(c) for row in view.cells for c in row if c]
        assert min(places) == pytest.approx(0, abs=1e-12)
        assert np.nanmax(places) == pytest.approx(1)
        assert sum(map(math.isnan, places)) == 1

    @settings(derandomize=True, deadline=None, max_examples=50)
    @given(st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=5), st.floats(0, 1e9))
    def test_any_numbers_have_a_place(self, errors: list[float], power: float) -> None:
        entry = {f"u{i}": {"w4": Estimate(e, 0.0, 1)} for i, e in enumerate(errors)}
        view = HeatView.of(table(entry, power))
        for row in view.cells:
            for cell in filter(None, row):
                place = view.place(cell)
                assert math.isnan(place) if cell.shown == 0 else -1e-9 <= place <= 1 + 1e-9
                assert cell_label(cell)

    def test_no_units_are_refused(self) -> None:
        with pytest.raises(UsageError, match="0 units"):
            HeatView.of(table({}))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["bert.a.weight", "bert.b.weight"], ["a", "b"]),
        (["model.weight"], ["model"]),
        (["a.weight", "a"], ["a.weight", "a"]),
        (["x.y", "x.z.weight_hh"], ["y", "z.weight_hh"]),
        (["x." + 20 * "long." + "end", "y"], ["x.long.long.lo…ong.long.long.long.long.end", "y"]),
    ],
    ids=["shared", "alone", "same", "other-parameters", "long"],
)  # fmt: skip
def test_short_names(names: list[str], short: list[str]) -> None:
    assert short_names(names) == short
    assert all(len(name) <= LONGEST_LABEL for name in short)


def test_blocks_begin_where_a_number_changes() -> None:
    names = ["emb.weight", *(f"h.{i}.{part}" for i in range(3) for part in "abcd"), "head"]
    view = HeatView.of(table({name: {"w4": SOME} for name in names}))
    assert view.blocks() == [1, 5, 9, 13]
    assert HeatView.of(table({name: {"w4": SOME} for name in "abc"})).blocks() == []


@pytest.mark.parametrize(
    ("row", "column", "said"),
    [
        (0, 1, ["net.0.up.weight", "w4g64-zp, in the plan", "error 2.5 ± 0.5"]),
        (1, 1, ["net.0.down.weight", "w4g64", "scale 1e6 is beyond float16"]),
        (2, 0, ["net.1.up.weight", "w8g64", "no error at all, on 3 samples"]),
        (2, 1, [
            "net.1.up.weight", "w4g64, in the plan", "error 1.5",
            "one sample: how far off is not known",
        ]),
    ],
    ids=["chosen", "refused", "zero", "one-sample"],
)  # fmt: skip
def test_what_is_said_of_a_cell(row: int, column: int, said: list[str]) -> None:
    view = HeatView.of(a_model(), CHOSEN)
    lines = describe(view, view.units[row], view.columns[column], view.cells[row][column])
    assert lines[: len(said)] == said
    if (row, column) == (0, 1):
        low, high = (end / 2 for end in Estimate.of([4.0, 6.0]).interval())
        assert lines[-1] == f"95%: {low:.3g} to {high:.3g} (2 samples)"


def html(
    folder: Path, found: SensitivityTable, title: str = "net", chosen: Any = None
) -> tuple[Page, int]:
    path = folder / "map.html"
    write_heat_html(found, path, title, chosen)
    return Page(path.read_text(encoding="utf-8")), path.stat().st_size


class TestHtml:
    def test_nothing_is_fetched(self, tmp_path: Path) -> None:
        page, _ = html(tmp_path, a_model(), chosen=CHOSEN)
        assert not [attributes for _, attributes in page.tags if {"src", "href"} & set(attributes)]
        assert sum(len(script) for script in page.scripts) > 3_000_000  # plotly.js itself

    def test_errors_zeros_and_gaps(self, tmp_path: Path) -> None:
        page, _ = html(tmp_path, a_model(), chosen=CHOSEN)
        (zeros, errors, *rest), layout = page.figure()
        # From 5e-7 to 2.5 are 6.699 decades; 1 and 1.5 are 6.301 and 6.477 above the least.
        assert zeros["z"] == [[None, None], [None, None], [0, None]]
        assert [[None if v is None else round(v, 3) for v in row] for row in errors["z"]] == [
            [0.941, 1.0], [0.0, None], [None, 0.967],
        ]  # fmt: skip
        assert "95%:" in errors["hovertext"][0][0]
        assert "beyond float16" in errors["hovertext"][1][1]
        assert layout["xaxis"]["ticktext"] == ["w8g64", "w4g64"]
        assert layout["yaxis"]["ticktext"] == ["0.up", "0.down", "1.up"]
        assert [trace.get("name") for trace in rest] == [
            None, None, "chosen plan", "chosen plan", "no error at all"
        ]  # fmt: skip
        assert rest[0]["text"] == ["1", "2", "5·10⁻⁷", "0", "2"]
        # Around row 0, column 1, and then the next.
        assert rest[1]["y"] == [1.5, 1.5, None]  # between the blocks
        assert rest[2]["x"][:6] == [0.5, 1.5, 1.5, 0.5, 0.5, None]
        assert rest[2]["y"][:6] == [-0.5, -0.5, 0.5, 0.5, -0.5, None]

    def test_an_analysis_has_no_outlines(self, tmp_path: Path) -> None:
        page, _ = html(tmp_path, a_model())
        assert "chosen plan" not in [trace.get("name") for trace in page.figure()[0]]

    def test_names_are_text_and_never_markup(self, tmp_path: Path) -> None:
        evil = "</script><script>alert(1)</script><b>&"
        found = table({evil: {"w4": SOME}}, refused={(evil, "w8"): evil})
        page, _ = html(tmp_path, found, evil)
        harmless, _ = html(tmp_path, table({"x": {"w4": SOME}}), "x")
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
        assert page.title == evil
        escaped = "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;b&gt;&amp;"
        traces, layout = page.figure()
        assert traces[1]["hovertext"][0][0].startswith(f"<b>{escaped}</b>")
        assert layout["yaxis"]["ticktext"] == [escaped]
        assert layout["title"]["text"].startswith(escaped)

    def test_a_thousand_units(self, tmp_path: Path) -> None:
        page, size = html(
            tmp_path, many(1000), chosen=dict.fromkeys(many(1000).entries, Format(4))
        )
        assert size < 10_000_000
        traces, layout = page.figure()
        assert layout["height"] > 10_000
        assert "text" not in {trace.get("mode") for trace in traces}


def many(units: int) -> SensitivityTable:
    row = {f"w{bits}{group}": SOME for bits in (8, 4, 2) for group in ("", "g128", "g64", "g32")}
    return table({f"model.layers.{i // 7}.part_{i % 7}.weight": row for i in range(units)})


def pixels(path: Path) -> set[str]:
    found = np.unique(np.asarray(imread(path))[..., :3].reshape(-1, 3), axis=0)
    return {to_hex((float(r), float(g), float(b))) for r, g, b in found}


class TestPng:
    @pytest.mark.parametrize("chosen", [None, CHOSEN], ids=["analysis", "plan"])
    def test_shows_what_there_is(self, tmp_path: Path, chosen: Any) -> None:
        path = tmp_path / "map.png"
        write_heat_png(a_model(), path, "net", chosen)
        assert {ZERO_COLOUR, INK} <= pixels(path)

    def test_has_no_zero_where_there_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / "map.png"
        write_heat_png(table({"a": {"w4": SOME}}), path, "net")
        assert ZERO_COLOUR not in pixels(path)

    @pytest.mark.parametrize(
        ("units", "rows_px"), [(1, 22), (MOST_NUMBERED, 1760), (500, 6000), (1100, 6600)]
    )
    def test_grows_with_the_units(self, tmp_path: Path, units: int, rows_px: int) -> None:
        path = tmp_path / "map.png"
        write_heat_png(many(units), path, "net")
        assert imread(path).shape[0] - rows_px == pytest.approx(170, abs=1)

    def test_takes_names_that_look_like_formulas(self, tmp_path: Path) -> None:
        found = table({"$x^$": {"w4": SOME}, r"$\frac{$": {"w4": SOME}})
        write_heat_png(found, tmp_path / "map.png", r"$\frac{$")

    def test_leaves_the_callers_matplotlib_alone(self, tmp_path: Path) -> None:
        before = dict(matplotlib.rcParams)
        write_heat_png(a_model(), tmp_path / "map.png", "net", CHOSEN)
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("write", [write_heat_html, write_heat_png], ids=["html", "png"])
class TestBothFiles:
    def test_the_same_table_is_the_same_file(self, write: Any, tmp_path: Path) -> None:
        for name in "ab":
            write(a_model(), tmp_path / name, "net", CHOSEN)
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_a_refused_map_leaves_the_old_file(self, write: Any, tmp_path: Path) -> None:
        path = tmp_path / "map"
        path.write_text("old")
        with pytest.raises(UsageError):
            write(table({}), path, "nothing")
        assert path.read_text() == "old"
        with pytest.raises(OutputError, match="nowhere"):
            write(a_model(), tmp_path / "nowhere" / "map", "net")
