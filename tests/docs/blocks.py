"""What the documentation shows as code: every block and every command in its prose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = ("bash", "json", "math", "python", "text", "toml")
MORE_PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "examples/models/README.md")


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the line of its first character, its language and text."""

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Every page that a reader may copy from, by its path in the repository."""
    found = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md")]
    return sorted([*found, *(page for page in MORE_PAGES if (ROOT / page).is_file())])


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """The blocks of a page in order; an indented one has the language "", as a bare fence has."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    found = []
    for token in MarkdownIt("commonmark").parse(text):
        if token.type in ("fence", "code_block"):
            assert token.map is not None
            fenced = token.type == "fence"
            found.append(Block(page, token.map[0] + 1 + fenced, token.info.strip(), token.content))
    return found


def inline_code(page: str) -> list[Block]:
    """Code within sentences, each with the line that its paragraph begins at."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(page, (token.map or [0])[0] + 1, "inline", child.content)
        for token in MarkdownIt("commonmark").enable("table").parse(text)
        for child in token.children or ()
        if child.type == "code_inline"
    ]
