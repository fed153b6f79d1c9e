"""The documentation site: built strictly, complete, and without any network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

import mixq
from mixq.cli.app import app

from .blocks import ROOT, pages
from .site import formulas

pytest.importorskip("mkdocs")


def build(project: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """`mkdocs build --strict`, as `make docs` does it."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(
        command, cwd=project, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = build(ROOT, folder)
    assert built.returncode == 0, built.stderr
    return folder


class Loads(HTMLParser):
    """Addresses that a page loads by itself; links that a reader follows are none."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag != "a" and values.get("rel") != "canonical":
            self.found += [value for key in ("src", "href", "data") if (value := values.get(key))]


def test_no_page_loads_anything_from_a_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert loads.found, page
        assert not [address for address in loads.found if re.match(r"\w+:|//", address)], page


def test_every_page_of_the_repository_is_on_the_site(site: Path) -> None:
    elsewhere = {
        "CONTRIBUTING.md": "contributing.html",
        "SECURITY.md": "security.html",
        "examples/models/README.md": "example-models.html",
    }
    for page in set(pages()) - {"README.md"}:
        target = elsewhere.get(page, page.removeprefix("docs/").removesuffix(".md") + ".html")
        assert (site / target).is_file(), page


def commands(path: str, command: Any) -> Iterator[tuple[str, str]]:
    """(command, option) of all that typer knows."""
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(f"{path} {name}", inner)
    for parameter in command.params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            yield path, option


def test_the_command_line_s_page_has_every_command_and_option(site: Path) -> None:
    text = (site / "reference/cli.html").read_text(encoding="utf-8")
    pattern = r"<h[23] id=\"[^\"]*\">(mixq[ \w]*)<.*?</h[23]>(.*?)(?=<h[123] |$)"
    sections = dict(re.findall(pattern, text, re.DOTALL))
    for path, option in commands("mixq", typer.main.get_command(app)):
        if path != "mixq":
            assert f"<code>{option}</code>" in sections[path], (path, option)


def test_the_library_s_page_has_every_public_name(site: Path) -> None:
    text = (site / "reference/api.html").read_text(encoding="utf-8")
    for name in mixq.__all__:
        assert re.search(rf"<h2 id=\"[^\"]*\">mixq\.{name}<", text), name


BROKEN = {
    "a page that is not there": ("limits.md", "[x](nowhere.md)", "nowhere.md"),
    "an anchor that is not there": ("limits.md", "[x](cost.md#no-such-part)", "no-such-part"),
    "an absolute link": ("limits.md", "[x](/cost.md)", "/cost.md"),
    "a file of the repository that is not there": ("limits.md", "[x](../mixq/none.py)", "none.py"),
    "a picture that is not there": ("limits.md", "![x](images/none.png)", "images/none.png"),
    "a page that is in no menu": ("stray.md", "Text.", "stray.md"),
}


@pytest.fixture(scope="module")
def warnings(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a strict build says of a copy in which all of that is wrong."""
    folder = tmp_path_factory.mktemp("broken")
    copied = ("mkdocs.yml", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md")
    for name in copied:
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("benchmarks", "examples", "mixq", "profiles", "search", "tests"):
        (folder / name).symlink_to(ROOT / name)
    for page, text, _ in BROKEN.values():
        with (folder / "docs" / page).open("a", encoding="utf-8") as opened:
            opened.write(f"\n{text}\n")
    built = build(folder, tmp_path_factory.mktemp("site"))
    assert built.returncode == 1
    return built.stderr


@pytest.mark.parametrize(("page", "text", "said"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_fails_the_build(page: str, text: str, said: str, warnings: str) -> None:
    complaints = [line for line in warnings.splitlines() if line.startswith("WARNING")]
    assert any(said in line for line in complaints) or (said == "stray.md" and said in warnings)


@pytest.mark.parametrize(
    "tex", [r"\frac{a_i}{\sqrt{2}}", r"\sum_{i=1}^{n} \hat{x}_i^2", r"\left(p^{2}\right)"]
)
def test_formulas_are_paths_in_the_colour_of_the_text(tex: str) -> None:
    drawn = formulas().formula_svg(tex)
    assert drawn.startswith("<svg")
    assert 'fill="currentColor"' in drawn
    assert "<text" not in drawn


def test_every_fence_of_formulas_is_drawn(site: Path) -> None:
    for page in sorted(ROOT.glob("docs/how/*.md")):
        fences = page.read_text(encoding="utf-8").count("```math")
        html = (site / "how" / f"{page.stem}.html").read_text(encoding="utf-8")
        assert html.count('<div class="formulas">') == fences, page
