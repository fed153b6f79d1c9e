"""What docs/extend shows of a file stands in that file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPET = re.compile(r"^```(?:python|toml)\n# (examples/\S+)\n(.*?)^```$", re.M | re.S)
SNIPPETS = [
    (page.name, *found.groups())
    for page in sorted((ROOT / "docs/extend").glob("*.md"))
    for found in SNIPPET.finditer(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize(("page", "file", "text"), SNIPPETS, ids=lambda value: str(value)[:40])
def test_a_snippet_is_a_piece_of_its_file(page: str, file: str, text: str) -> None:
    assert text in (ROOT / file).read_text(encoding="utf-8")


def test_every_example_is_shown() -> None:
    shown = {file for _, file, _ in SNIPPETS}
    written = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "examples/plugins").rglob("*.*")
        if path.suffix in (".py", ".toml") and "build" not in path.parts
    }
    assert written - shown == {"examples/plugins/npz/npz_network.py"}  # named, not shown
