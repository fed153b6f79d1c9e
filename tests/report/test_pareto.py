"""The Pareto plots: what they show, that they are whole, alone and the same every time."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.image import imread

from mixq.errors import OutputError, PlanError, UsageError
from mixq.report.log_axis import LogAxis, number_label
from mixq.report.pareto import write_pareto_html, write_pareto_png
from mixq.report.pareto_view import CHOSEN_COLOUR, UNIFORM_COLOUR, ParetoView
from mixq.report.points import PlanPoint, PointKind

from .pages import Page

LAWS = settings(derandomize=True, deadline=None, max_examples=200)


def point(
    name: str = "plan",
    kind: PointKind = "trial",
    weight_bytes: int = 10_000_000,
    error: float = 0.01,
    latency_s: float = 0.005,
    measured: bool = True,
    detail: str = "",
) -> PlanPoint:
    """A plan of a model of 80 MB."""
    return PlanPoint(
        name, kind, weight_bytes, 80e6 / weight_bytes, error, latency_s, measured, detail
    )


def a_search() -> list[PlanPoint]:
    """One of everything: a frontier down to zero error, trials, uniform plans, a chosen one."""
    frontier = [(80e6, 0.0), (40e6, 1e-6), (20e6, 1e-4), (10e6, 1e-2), (5e6, 1.0)]
    trials = [(10.4e6, 0.013, 0.004), (9.8e6, 0.016, 0.006), (9.9e6, 0.011, 0.005)]
    return [
        *(point(f"frontier {i}", "frontier", int(b), e) for i, (b, e) in enumerate(frontier)),
        *(point(f"trial {i}", "trial", int(b), e, s) for i, (b, e, s) in enumerate(trials)),
        point("w8", "uniform", 20_200_000, 2e-4),
        point("w4", "uniform", 10_300_000, 0.09),
        point("trial 2", "chosen", 9_900_000, 0.011, detail="accuracy 0.91"),
    ]


class TestPlanPoint:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("kind", "best"),
            ("weight_bytes", 0),
            ("compression", -1.0),
            ("compression", float("inf")),
            ("latency_s", 0.0),
            ("error", -1e-9),
            ("error", float("nan")),
        ],
        ids=lambda value: str(value),
    )
    def test_refuses_what_cannot_be_plotted(self, field: str, value: Any) -> None:
        good: dict[str, Any] = {
            "name": "trial 3",
            "kind": "trial",
            "weight_bytes": 1,
            "compression": 4.0,
            "error": 0.0,
            "latency_s": 0.1,
            "measured": True,
        }
        assert PlanPoint(**good).error == 0
        with pytest.raises(PlanError, match=f"'trial 3' has {field} .*{value}") as refused:
            PlanPoint(**(good | {field: value}))
        assert "\n" not in str(refused.value)


POSITIVE = st.floats(1e-12, 1e12)


class TestLogAxis:
    @given(st.lists(POSITIVE, min_size=1), st.booleans())
    @LAWS
    def test_every_value_has_a_place_on_the_axis(self, values: list[float], zero: bool) -> None:
        axis = LogAxis.of([*values, 0.0] if zero else values)
        assert all(axis.low < axis.place(value) < axis.high for value in values)
        assert all(axis.place(value) == value for value in values)
        assert (axis.zero is not None) == zero
        if zero:
            assert axis.low < axis.place(0) < min(values) / 3

    @given(POSITIVE, POSITIVE, st.booleans())
    @LAWS
    def test_ticks_are_some_round_and_told_apart(self, a: float, b: float, zero: bool) -> None:
        axis = LogAxis.of([a, b, 0.0] if zero else [a, b])
        ticks = axis.ticks()
        assert 2 <= len(ticks) <= 14
        assert all(axis.low <= tick <= axis.high for tick in ticks)
        assert all(low < high for low, high in pairwise(ticks))
        assert axis.zero is None or ticks[0] > axis.zero
        assert len({number_label(tick) for tick in ticks}) == len(ticks)

    def test_zero_alone_has_a_place_and_no_ticks(self) -> None:
        axis = LogAxis.of([0.0])
        assert axis.low < axis.place(0) < axis.high
        assert axis.ticks() == ()

    @pytest.mark.parametrize(
        ("values", "ticks"),
        [
            ([1e-4, 1.0], (1e-4, 1e-3, 1e-2, 0.1, 1.0)),
            ([5.0, 40.0], (5.0, 7.0, 10.0, 20.0, 30.0)),
            ([10.0, 14.0], (10.0, 11.0, 12.0, 13.0, 14.0)),
            ([0.21, 0.34], (0.22, 0.24, 0.26, 0.28, 0.3, 0.32, 0.34)),
        ],
        ids=["decades", "digits", "even", "even-below-one"],
    )
    def test_ticks_are_what_a_reader_expects(
        self, values: list[float], ticks: tuple[float, ...]
    ) -> None:
        assert LogAxis.of(values).ticks() == ticks

    @pytest.mark.parametrize(
        ("value", "label"),
        [
            (1.0, "1"),
            (0.02, "0.02"),
            (0.001, "0.001"),
            (90.9, "90.9"),
            (1e-4, "10⁻⁴"),
            (2e-6, "2·10⁻⁶"),
            (1e12, "10¹²"),
        ],
        ids=str,
    )
    def test_labels(self, value: float, label: str) -> None:
        assert number_label(value) == label


SIZES_AND_ERRORS = st.lists(
    st.tuples(st.integers(1, 30), st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0, 2.0])), min_size=1
)


class TestParetoView:
    @given(SIZES_AND_ERRORS)
    @LAWS
    def test_the_line_joins_exactly_what_nothing_beats(
        self, pairs: list[tuple[int, float]]
    ) -> None:
        points = [
            point(str(i), "frontier", b, e, latency_s=1 + i) for i, (b, e) in enumerate(pairs)
        ]
        line = ParetoView.of(points).frontier_line()
        unbeaten = {
            (b, e)
            for b, e in pairs
            if not any((c <= b and f <= e and (c, f) != (b, e)) for c, f in pairs)
        }
        assert [(p.weight_bytes, p.error) for p in line] == sorted(unbeaten)

    def test_the_error_axis_names_the_metric(self, tmp_path: Path) -> None:
        assert ParetoView.of(a_search()).error_title == "output error (mean squared difference)"
        hostile = ParetoView.of(a_search(), "my:loss$<b>\n")
        assert hostile.error_title == "output error (my:loss$<b>\\n)"
        write_pareto_html(a_search(), tmp_path / "a.html", "net", "my:loss$<b>")
        assert "output error (my:loss$<b>)" not in (tmp_path / "a.html").read_text("utf-8")
        write_pareto_png(a_search(), tmp_path / "a.png", "net", "my:loss$<b>")

    def test_refuses_nothing_to_show(self) -> None:
        with pytest.raises(UsageError, match="0 plans"):
            ParetoView.of([])

    @pytest.mark.parametrize(
        ("measured", "name"),
        [
            ((True, True), "trials (measured)"),
            ((False, False), "trials (predicted)"),
            ((True, False), "trials"),
        ],
        ids=["measured", "predicted", "mixed"],
    )
    def test_the_legend_says_whether_errors_were_measured(
        self, measured: tuple[bool, bool], name: str
    ) -> None:
        view = ParetoView.of([point(measured=is_measured) for is_measured in measured])
        assert view.legend("trial") == name

    def test_size_labels_carry_the_compression(self) -> None:
        labels = ParetoView.of(a_search()).size_labels("|")
        assert "10|8x" in labels
        assert "50|1.6x" in labels
        # The margin reaches beyond the original, where compression means nothing.
        at_the_original = ParetoView.of([point(weight_bytes=80_000_000)]).size_labels("|")
        assert {"80|1x", "83"} <= set(at_the_original)

    def test_near_neighbours_are_labelled_on_opposite_sides(self) -> None:
        sizes = (5_000_000, 5_100_000, 10_000_000)
        view = ParetoView.of([point(str(size), "uniform", size) for size in sizes])
        assert view.label_is_left(view.kind("uniform")) == [True, False, False]

    def test_names_of_single_formats_stand_nowhere(self) -> None:
        view = ParetoView.of([point(name, "uniform") for name in ("w8", "w4g32 everywhere")])
        assert [p.name for p in view.labelled("uniform")] == ["w8"]
        assert len(view.kind("uniform")) == 2


def html(points: list[PlanPoint], folder: Path, title: str = "a search") -> Page:
    path = folder / "pareto.html"
    write_pareto_html(points, path, title)
    return Page(path.read_text(encoding="utf-8"))


class TestHtml:
    def test_nothing_is_fetched(self, tmp_path: Path) -> None:
        page = html(a_search(), tmp_path)
        assert not [
            attributes
            for tag, attributes in page.tags
            if tag in ("script", "link", "img", "iframe") and {"src", "href"} & set(attributes)
        ]
        assert sum(len(script) for script in page.scripts) > 3_000_000  # plotly.js itself

    def test_kinds_lie_on_each_other_as_they_should(self, tmp_path: Path) -> None:
        traces, layout = html(a_search(), tmp_path).figure()
        assert [trace["name"] for trace in traces] == [
            "frontier (measured)",
            "frontier (measured)",
            "trials (measured)",
            "one width or format everywhere (measured)",
            "chosen plan (measured)",
        ]
        assert [trace["mode"] for trace in traces[:2]] == ["lines", "markers"]
        assert traces[-1]["marker"]["symbol"] == "star"
        assert traces[-2]["text"] == [" w4 ", " w8 "]
        assert layout["xaxis"]["type"] == layout["yaxis"]["type"] == "log"

    def test_trials_are_coloured_by_latency_in_ms(self, tmp_path: Path) -> None:
        traces, layout = html(a_search(), tmp_path).figure()
        marker = traces[2]["marker"]
        assert marker["color"] == [6.0, 5.0, 4.0]  # smallest plan first
        assert marker["coloraxis"] == traces[1]["marker"]["coloraxis"], "one scale for all"
        assert layout["coloraxis"]["colorbar"]["title"]["text"] == "latency, ms"

    def test_one_latency_needs_no_scale(self, tmp_path: Path) -> None:
        _, layout = html([point("a"), point("b", error=0.1)], tmp_path).figure()
        assert "coloraxis" not in layout

    def test_hover_names_the_plan_and_its_figures(self, tmp_path: Path) -> None:
        traces, _ = html(a_search(), tmp_path).figure()
        assert traces[-1]["hovertext"] == [
            "<b>trial 2</b><br>9.9 MB, compression 8.08x<br>error 0.011 (measured)"
            "<br>latency 5 ms<br>accuracy 0.91"
        ]

    def test_an_error_of_zero_is_drawn_on_a_line_that_says_so(self, tmp_path: Path) -> None:
        traces, layout = html(a_search(), tmp_path).figure()
        zero = traces[1]["y"][-1]
        assert 0 < zero < 1e-6
        assert layout["shapes"][0]["y0"] == zero
        assert layout["annotations"][0]["y"] == pytest.approx(np.log10(zero))
        assert "error 0 (" in traces[1]["hovertext"][-1]

    def test_names_are_text_and_never_markup(self, tmp_path: Path) -> None:
        evil = "</script><script>alert(1)</script><b>&"
        page = html([point(evil, "uniform", detail=evil)], tmp_path, title=evil)
        harmless = html([point("x", "uniform", detail="x")], tmp_path, title="x")
        assert [tag for tag, _ in page.tags] == [tag for tag, _ in harmless.tags]
        assert page.title == evil
        traces, layout = page.figure()
        escaped = "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;b&gt;&amp;"
        assert traces[0]["text"] == [f" {escaped} "]
        assert traces[0]["hovertext"][0].count(escaped) == 2
        assert layout["title"]["text"] == escaped


def colours(path: Path) -> set[str]:
    """The colours of a picture's pixels, `#rrggbb`."""
    pixels = np.asarray(imread(path))[..., :3].reshape(-1, 3)
    return {to_hex((float(r), float(g), float(b))) for r, g, b in np.unique(pixels, axis=0)}


class TestPng:
    def test_is_a_picture_of_1200_by_800(self, tmp_path: Path) -> None:
        path = tmp_path / "pareto.png"
        write_pareto_png(a_search(), path, "a search")
        assert imread(path).shape[:2] == (800, 1200)
        assert {CHOSEN_COLOUR, UNIFORM_COLOUR} <= colours(path)

    def test_shows_only_what_there_is(self, tmp_path: Path) -> None:
        path = tmp_path / "pareto.png"
        write_pareto_png([point()], path, "one trial")
        assert not {CHOSEN_COLOUR, UNIFORM_COLOUR} & colours(path)

    def test_takes_names_that_look_like_formulas(self, tmp_path: Path) -> None:
        points = [point("$x^$", "uniform"), point("a_b", "uniform", error=0.0)]
        write_pareto_png(points, tmp_path / "pareto.png", r"$\frac{$")

    def test_leaves_the_callers_matplotlib_alone(self, tmp_path: Path) -> None:
        before = dict(matplotlib.rcParams)
        write_pareto_png(a_search(), tmp_path / "pareto.png", "a search")
        assert dict(matplotlib.rcParams) == before


WRITERS = [write_pareto_html, write_pareto_png]
WRITER_IDS = ["html", "png"]


@pytest.mark.parametrize("write", WRITERS, ids=WRITER_IDS)
class TestBothFiles:
    def test_order_does_not_matter(self, write: Any, tmp_path: Path) -> None:
        shuffled = a_search()
        random.Random(3).shuffle(shuffled)
        write(a_search(), tmp_path / "a", "a search")
        write(shuffled, tmp_path / "b", "a search")
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()

    def test_a_refused_plot_leaves_the_old_file(self, write: Any, tmp_path: Path) -> None:
        path = tmp_path / "plot"
        path.write_text("old")
        with pytest.raises(UsageError):
            write([], path, "nothing")
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]

    def test_a_missing_folder_is_named(self, write: Any, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="nowhere"):
            write(a_search(), tmp_path / "nowhere" / "plot", "a search")


SCRIPT = """
import sys
from hashlib import sha256
from pathlib import Path
from mixq.report.pareto import write_pareto_html, write_pareto_png
from mixq.report.points import PlanPoint

points = [PlanPoint(f"p{i}", "trial", 10 + i, 4.0, 0.1 * i, 1.0 + i, True) for i in range(3)]
write_pareto_html(points, sys.argv[1] + "/a", "t")
write_pareto_png(points, sys.argv[1] + "/b", "t")
print(*(sha256(Path(sys.argv[1], name).read_bytes()).hexdigest() for name in "ab"))
print(sorted({"torch", "matplotlib.pyplot"} & set(sys.modules)))
"""


def test_another_process_writes_the_same_bytes_without_torch_or_pyplot(tmp_path: Path) -> None:
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    points = [PlanPoint(f"p{i}", "trial", 10 + i, 4.0, 0.1 * i, 1.0 + i, True) for i in range(3)]
    write_pareto_html(points, tmp_path / "c", "t")
    write_pareto_png(points, tmp_path / "d", "t")
    here = [hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() for name in "cd"]
    assert printed == [" ".join(here), "[]"]
