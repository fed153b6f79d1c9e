"""What mkdocs is told beyond mkdocs.yml: pages from elsewhere, formulas, links."""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import formulas
import reference

ROOT = Path(__file__).resolve().parents[2]
GUESTS = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/models/README.md": "example-models.md",
}
"""Files outside docs/ that are pages: path in the repository, path on the site."""
LINK = re.compile(r"(?<!!)\[(?P<label>[^\]\[]+)\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^# (.+)$", re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lets math fences be drawn, and an entry `folder/` of the nav stand for all its pages."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    drawn = {"name": "math", "class": "formulas", "format": formulas.fence}
    fences.setdefault("custom_fences", []).append(drawn)
    assert config.nav is not None
    config.nav = filled(config.nav, Path(config.docs_dir))
    return config


def filled(entry: Any, docs: Path) -> Any:
    """A nav entry whose folders are lists of their pages, in the order of the files' names."""
    if isinstance(entry, dict):
        return {title: filled(inner, docs) for title, inner in entry.items()}
    if isinstance(entry, list):
        return [filled(inner, docs) for inner in entry]
    if not entry.endswith("/"):
        return entry
    pages = sorted((docs / entry).glob("*.md"))
    if not pages:
        raise PluginError(f"mkdocs.yml: nav: docs/{entry} has no pages")
    return [f"{entry}{page.name}" for page in pages]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the guests and the pages that are made from the code itself, so that none is stale."""
    for source, target in GUESTS.items():
        if (ROOT / source).is_file():
            text = (ROOT / source).read_text(encoding="utf-8")
            files.append(File.generated(config, target, content=text))
    made = {"reference/cli.md": reference.command_line, "reference/api.md": reference.library}
    for target, write in made.items():
        files.append(File.generated(config, target, content=write()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between files of the repository become links between pages.

    What is no page (a script, a folder of code) is linked where `repo_url` is set, and named
    otherwise; what does not exist fails a strict build.
    """
    site = page.file.src_uri
    homes = {target: source for source, target in GUESTS.items()}
    home = homes.get(site, f"docs/{site}")

    def moved(found: re.Match[str]) -> str:
        label, target = found["label"], found["target"]
        path, mark, anchor = target.partition("#")
        if not path or "://" in path or path.startswith(("mailto:", "/")):
            return found[0]
        in_repository = posixpath.normpath(posixpath.join(posixpath.dirname(home), path))
        uri = GUESTS.get(in_repository, in_repository.removeprefix("docs/"))
        is_page = in_repository in GUESTS or in_repository.startswith("docs/")
        if is_page and files.get_file_from_path(uri) is not None:
            relative = posixpath.relpath(uri, posixpath.dirname(site) or ".")
            return f"[{label}]({relative}{mark}{anchor})"
        if (is_page and in_repository.endswith(".md")) or not (ROOT / in_repository).exists():
            return found[0]  # mkdocs says what is wrong with it
        if config.repo_url:
            return f"[{label}]({config.repo_url.rstrip('/')}/{in_repository})"
        is_plain = label.startswith("`") or label == in_repository
        return label if is_plain else f"{label} (`{in_repository}`)"

    return outside_fences(markdown, moved)


def outside_fences(markdown: str, moved: Any) -> str:
    """The text with its links replaced, but for code."""
    parts = re.split(r"(^ *```.*?^ *```[^\S\n]*$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if index % 2 else LINK.sub(moved, part) for index, part in enumerate(parts)
    )
