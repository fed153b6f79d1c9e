"""The audit's plots: what they show, alone and the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.image import imread

from mixq.report.audit import write_audit_html, write_audit_png
from mixq.report.audit_view import LESS_COLOUR, MORE_COLOUR, AuditView
from mixq.search.audit import Audit, AuditedPlan, Interaction

from .pages import Page

EVIL = "</script><b>$x^$\x1b"


def audit(*pairs: Interaction, name: str = "optimum", layers: tuple[str, ...] = ()) -> Audit:
    plans = (
        AuditedPlan("uniform 8", "uniform", 9, 0.1, 0.12, 0.01),
        AuditedPlan("w4g64 everywhere", "single", 5, 1.0, 0.9, 0.01),
        AuditedPlan(name, "additive", 5, 2.0, 3.0, 0.01),
        AuditedPlan("tilt", "tilted", 5, 0.0, 0.0, 0.0),
    )
    known = layers or tuple(dict.fromkeys(n for p in pairs for n in (p.first, p.second)))
    return Audit("mse", name, plans, 8, known, pairs)


PAIRS = (
    Interaction("net.0.up.weight", "net.1.up.weight", 1.0, 1.5, 0.5, 0.1),
    Interaction("net.0.up.weight", "net.2.up.weight", 1.0, 0.9, -0.1, 0.2),
)


def test_the_view() -> None:
    view = AuditView.of(audit(*PAIRS))
    assert {kind: [p.name for p in plans] for kind, plans in view.plans.items()} == {
        "uniform": ["uniform 8", "w4g64 everywhere"], "chosen": ["optimum"], "trial": ["tilt"],
    }  # fmt: skip
    assert [bar.names for bar in view.bars] == [("0.up", "1.up"), ("0.up", "2.up")]
    assert [(bar.percent, bar.twice_se) for bar in view.bars] == [(25.0, 10.0), (-5.0, 20.0)]
    assert [bar.colour for bar in view.bars] == [MORE_COLOUR, LESS_COLOUR]
    # One axis both ways, so that errors which add up lie on the diagonal; zero has its place.
    assert view.axis.low < 0.1 < 3.0 < view.axis.high
    assert view.axis.zero is not None
    assert view.xy(view.plans["trial"]) == ([view.axis.zero], [view.axis.zero])


def test_the_page_is_alone_and_says_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "audit.html"
    write_audit_html(audit(*PAIRS), path, "net on chip")
    page = Page(path.read_text(encoding="utf-8"))
    assert not any({"src", "href"} & set(attributes) for _, attributes in page.tags)
    traces, layout = page.figure()
    points = [trace for trace in traces if trace.get("mode") == "markers"]
    assert sum(len(trace["hovertext"]) for trace in points) == 4
    (bars,) = (trace for trace in traces if trace["type"] == "bar")
    assert len(bars["marker"]["color"]) == 2
    assert audit(*PAIRS).sentence in layout["title"]["text"]
    assert layout["xaxis"]["range"] == layout["yaxis"]["range"]


@pytest.mark.parametrize("pairs", [PAIRS, ()], ids=["pairs", "no-pairs"])
def test_the_same_audit_is_the_same_files(tmp_path: Path, pairs: tuple[Interaction, ...]) -> None:
    for name in ("one", "two"):
        write_audit_html(audit(*pairs), tmp_path / f"{name}.html", "net")
        write_audit_png(audit(*pairs), tmp_path / f"{name}.png", "net")
    for kind in ("html", "png"):
        one, two = (tmp_path / f"{name}.{kind}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()
    assert imread(tmp_path / "one.png").shape[:2] == (700, 1300)


def test_names_from_outside_are_drawn_as_they_are(tmp_path: Path) -> None:
    hostile = audit(
        Interaction(EVIL, "b", 1.0, 2.0, 1.0, 0.0), name=EVIL, layers=(EVIL, "b")
    )  # fmt: skip
    write_audit_html(hostile, tmp_path / "a.html", "</title><b>$x^$")
    write_audit_png(hostile, tmp_path / "a.png", "</title><b>$x^$")
    page = Page((tmp_path / "a.html").read_text(encoding="utf-8"))
    assert "b" not in [tag for tag, _ in page.tags]
    assert "\x1b" not in hostile.sentence
