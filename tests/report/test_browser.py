"""The report in a real browser: what it draws, answers and keeps from doing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mixq.report.report import write_report
from mixq.report.run import Run

from .runs import EVIL, names, write_analyzed, write_run

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
READY = "document.documentElement.dataset.ready === 'yes'"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page with all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, ready: str = READY, **options: Any) -> None:
        self.page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.said: list[str] = []
        self.asked: list[str] = []
        address = file.resolve().as_uri()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda r: self.asked.append(r.url) if r.url != address else None)
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.goto(address)
        self.page.wait_for_function(ready)

    def clean(self) -> bool:
        """Whether nothing was said and nothing asked for."""
        return self.said == [] and self.asked == []

    def colour(self, what: str, of: str = "backgroundColor") -> list[int]:
        """A colour of an element, as numbers."""
        found: list[int] = self.page.evaluate(
            "([s, of]) => getComputedStyle(document.querySelector(s))[of].match(/\\d+/g)",
            [what, of],
        )
        return [int(part) for part in found]

    def dot(self, kind: str) -> tuple[float, float]:
        """Where the first point of a kind is on the screen."""
        x, y = self.page.evaluate(
            """kind => {
              const g = document.getElementById('pareto'), l = g._fullLayout;
              const t = g.data.find(t => t.customdata && t.legendgroup === kind);
              const box = g.querySelector('.nsewdrag').getBoundingClientRect();
              return [box.x + l.xaxis.d2p(t.x[0]), box.y + l.yaxis.d2p(t.y[0])];
            }""",
            kind,
        )
        return x, y

    def click(self, kind: str) -> None:
        """Click the first point of a kind, as a hand does: plotly clicks what it hovers over."""
        self.page.mouse.move(5, 5)
        self.page.wait_for_selector(".hoverlayer .hovertext", state="detached")
        self.page.mouse.move(*self.dot(kind), steps=4)
        self.page.wait_for_selector(".hoverlayer .hovertext")
        self.page.mouse.down()
        self.page.mouse.up()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_run(tmp_path_factory.mktemp("browser") / "run", names(30), what="accuracy")
    write_report(Run.load(folder))
    return folder


@pytest.fixture(scope="module")
def opened(browser: Any, folder: Path) -> Opened:
    return Opened(browser, folder / "report.html")


def test_nothing_is_said_and_nothing_asked_for(opened: Opened) -> None:
    assert opened.clean(), (opened.said, opened.asked)


def test_no_request_can_leave_the_page(browser: Any, folder: Path) -> None:
    """Its policy stops what a script in it would try."""
    own = Opened(browser, folder / "report.html")
    answer = own.page.evaluate(
        """async () => {
          const image = new Image();
          const failed = new Promise(done => { image.onerror = () => done('stopped'); });
          image.src = 'http://127.0.0.1:9/x.png';
          const script = document.createElement('script');
          script.textContent = 'window.hacked = 1';
          document.body.append(script);
          const fetched = await fetch('http://127.0.0.1:9/').catch(() => 'stopped');
          return [await failed, fetched, window.hacked === undefined];
        }"""
    )
    assert answer == ["stopped", "stopped", True]
    assert sum("Content Security Policy" in line for line in own.said) >= 3
    own.page.close()


def test_hover_names_the_plan(opened: Opened) -> None:
    opened.page.mouse.move(5, 5)
    opened.page.mouse.move(*opened.dot("uniform"), steps=4)
    opened.page.wait_for_selector(".hoverlayer .hovertext")
    shown = opened.page.text_content(".hoverlayer .hovertext")
    assert shown is not None
    assert "uniform 0 accuracy" in shown
    assert "compression 9x" in shown


def test_a_click_shows_the_allocation(opened: Opened, folder: Path) -> None:
    records = json.loads((folder / "frontier.json").read_text())
    for kind in ("trial", "uniform", "chosen"):
        record = next(plan for plan in records["plans"] if plan["kind"] == kind)
        opened.click(kind)
        opened.page.wait_for_function(
            "name => document.getElementById('plan-facts').textContent.includes(name)",
            arg=record["name"],
        )
        formats = opened.page.eval_on_selector_all(
            "#plan-table .chip", "chips => chips.map(chip => chip.textContent)"
        )
        assert formats == [records["formats"][i] for i in record["formats"]]
        assert opened.page.locator("#plan-strip i").count() == 30


def test_the_list_shows_the_same_as_a_click(opened: Opened) -> None:
    """So that a keyboard reaches every plan."""
    opened.page.focus("#plan")
    before = opened.page.inner_text("#plan-facts")
    opened.page.keyboard.press("End")
    after = opened.page.inner_text("#plan-facts")
    assert after != before
    assert "frontier" in after


def test_a_layer_of_the_bar_tells_its_name(opened: Opened) -> None:
    opened.page.hover("#allocation .strip i:nth-child(3)")
    assert "0.part2.dense: " in opened.page.inner_text("#tip")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_and_the_button_between(browser: Any, folder: Path, scheme: str) -> None:
    own = Opened(browser, folder / "report.html", color_scheme=scheme)
    first = own.colour("body")
    assert (min(first) > 200) == (scheme == "light")
    own.page.click("#theme")
    second = own.colour("body")
    assert (min(second) > 200) == (scheme == "dark")
    own.page.click("#theme")
    assert own.colour("body") == first
    assert own.clean()
    own.page.close()


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_screen(browser: Any, folder: Path, width: int) -> None:
    own = Opened(browser, folder / "report.html", viewport={"width": width, "height": 800})
    assert own.page.evaluate("document.documentElement.scrollWidth") == width
    assert own.clean()
    own.page.close()


def test_paper_and_a_picture(browser: Any, folder: Path, tmp_path: Path) -> None:
    """A dark screen prints black on white."""
    own = Opened(browser, folder / "report.html", color_scheme="dark")
    own.page.screenshot(path=tmp_path / "shot.png", full_page=True)
    assert (tmp_path / "shot.png").stat().st_size > 50_000
    own.page.pdf(path=tmp_path / "paper.pdf", print_background=True, format="A4")
    assert (tmp_path / "paper.pdf").read_bytes().startswith(b"%PDF")
    own.page.emulate_media(media="print")
    assert own.colour("body") == [255, 255, 255]
    assert max(own.colour("body", "color")) < 80
    assert own.clean()
    own.page.close()


def test_everything_has_a_name_for_those_who_cannot_see_it(opened: Opened) -> None:
    nameless = opened.page.evaluate(
        """() => [...document.querySelectorAll('main svg, main [role=img], [role=region], button,'
              + 'select')].filter(e => !e.closest('.js-plotly-plot .svg-container')
              && !e.ariaLabel && !e.ariaHidden && !(e.labels && e.labels.length))
              .map(e => e.outerHTML.slice(0, 80))"""
    )
    assert nameless == []


def test_hostile_names_do_nothing(browser: Any, tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", list(EVIL), what=EVIL[1])
    own = Opened(browser, write_report(Run.load(folder)))
    for kind in ("trial", "uniform", "chosen"):
        own.click(kind)
    own.page.hover("#allocation .strip i:nth-child(2)")
    assert own.page.evaluate("window.hacked") is None
    assert own.page.locator("main img, main b[onmouseover], main a[href^=http]").count() == 0
    shown = own.page.inner_text("#plan-table")
    assert "<script>window.hacked=1</script>" in shown
    assert "\\u202egnp.exe\\u2066" in shown
    assert own.clean(), (own.said, own.asked)
    own.page.close()


def test_an_analysis_opens_too(browser: Any, tmp_path: Path) -> None:
    write_analyzed(tmp_path / "a", names(4))
    own = Opened(browser, write_report(Run.load(tmp_path / "a")), ready="true")
    assert "4 layers measured on 8 samples" in own.page.inner_text("h1")
    own.page.hover(".heat td:nth-child(3)")
    assert "95%" in own.page.inner_text("#tip")
    own.page.click("#theme")
    assert own.clean()
    own.page.close()
