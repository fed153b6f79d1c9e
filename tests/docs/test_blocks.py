"""Every block of the documentation runs, or is held against the parser of what it is for."""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mixq.cli.main import run
from mixq.errors import MixqError
from mixq.profiles import load as load_profile
from mixq.search import recipe

from . import commands
from .blocks import LANGUAGES, ROOT, Block, blocks_of, inline_code, pages
from .exceptions import HEAVY, LISTINGS, PARSED, PLANNED, PRELUDE
from .outputs import missing_lines
from .sandbox import encoder_folder, furnish, language_model_folder

LONG = "MIXQ_LONG_BLOCKS"
"""Environment variable: run the tutorials' commands of minutes too, and compare their output."""
BLOCKS = {page: blocks for page in pages() if (blocks := blocks_of(page))}


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder, as it is before any command."""
    folder = tmp_path_factory.mktemp("user")
    furnish(folder)
    return folder


@pytest.fixture
def desk(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the user's folder, which is where commands and Python run."""
    folder = tmp_path / "desk"
    shutil.copytree(furnished, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("MIXQ_TRACEBACK", "1")
    monkeypatch.setenv("COLUMNS", "150")  # of the terminal that the tutorials' tables are from
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        del sys.modules[name]


@dataclass
class Reader:
    """Someone who types a page's blocks one after the other."""

    page: str
    capsys: pytest.CaptureFixture[str]
    names: dict[str, Any] = field(default_factory=dict)
    said: str | None = None
    """Output of the block before; None where that was not run."""
    read_any: bool = False
    """Whether there was a block that prints."""

    def read_all(self, blocks: list[Block]) -> None:
        for block in blocks:
            assert block.language in LANGUAGES, f"{block}: a block without a known language"
            getattr(self, f"read_{block.language}")(block)

    def read_bash(self, block: Block) -> None:
        self.said, self.read_any = "", True
        for command in commands.commands_of(block.text):
            commands.parse(command)
            if why_parsed(self.page, shlex.join(command)) or command[0] != "mixq":
                self.said = None
                continue
            self.run_mixq(command[1:], block)

    def run_mixq(self, arguments: list[str], where: object) -> None:
        prepare(arguments)
        self.capsys.readouterr()
        status = run(arguments)
        printed = self.capsys.readouterr()
        assert status == 0, f"{where}: mixq {shlex.join(arguments)}: {printed.err}"
        self.said = f"{self.said or ''}{printed.out}{printed.err}"

    def read_python(self, block: Block) -> None:
        tree = ast.parse(block.text, str(block))
        self.read_any = True
        if why_parsed(self.page, block.text):
            self.said = None
            check_imports(tree)
            return
        self.capsys.readouterr()
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), self.names)
        printed = self.capsys.readouterr()
        self.said = f"{printed.out}{printed.err}"

    def read_text(self, block: Block) -> None:
        if (self.page, beginning(block)) in LISTINGS:
            return
        assert self.read_any, f"{block}: stands behind no command, and is no known listing"
        if self.said is None:  # of a command that is only parsed
            return
        missing = missing_lines(block.text, self.said)
        assert not missing, f"{block}: {missing!r} was not printed, but:\n{self.said}"

    def read_toml(self, block: Block) -> None:
        content = tomllib.loads(block.text)
        file = Path("written.toml")
        if "formats" in content or "budget" in content:
            file.write_text(block.text, encoding="utf-8")
            recipe.load(file)
            return
        whole = block.text
        if "schema_version" not in content:  # some lines of a chip
            whole = f'schema_version = 2\nname = "x"\nextends = "intel_cpu"\n[chip]\n{whole}'
        file.write_text(whole, encoding="utf-8")
        load_profile(str(file))

    def read_math(self, block: Block) -> None:
        from .site import formulas

        for line in formulas().lines(block.text):
            formulas().formula_svg(line)


def beginning(block: Block) -> str:
    """The key of `LISTINGS` for a block: the one that it starts with, else its first line."""
    first = block.text.lstrip()
    for page, start in LISTINGS:
        if page == block.page and first.startswith(start):
            return start
    return first.partition("\n")[0]


def why_parsed(page: str, text: str) -> str | None:
    """Why a command or a block is not run; None if it is."""
    plain = text
    if "\n" not in text:
        plain = shlex.join(commands.without_environment(shlex.split(text)))
    for (where, piece), reason in PARSED.items():
        if where == page and piece in plain:
            return reason
    is_long = "docs/tutorials/" in page and os.environ.get(LONG)
    if not is_long and any(piece in text for piece in HEAVY):
        return "needs wheels of weights, and minutes"
    return None


def check_imports(tree: ast.Module) -> None:
    """Every name that Python imports is there."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


def prepare(arguments: list[str]) -> None:
    """Makes the Hugging Face folders that a command names."""
    for word in arguments:
        if word.strip("./") == "minilm-folder" and not Path(word).exists():
            encoder_folder(Path(word))
        elif word.strip("./") in ("llama-folder", "llama-7b") and not Path(word).exists():
            language_model_folder(Path(word))


@pytest.mark.parametrize("page", BLOCKS)
def test_every_block_of_the_page_runs(
    page: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader(page, capsys)
    if given := PRELUDE.get(page):
        if given.startswith("mixq "):
            reader.run_mixq(shlex.split(given)[1:], "prelude")
        else:
            exec(given, reader.names)
    reader.read_all(BLOCKS[page])


@pytest.mark.parametrize("page", pages())
def test_every_command_in_the_prose_is_one(page: str) -> None:
    for code in inline_code(page):
        if code.text.startswith("mixq ") and (page, code.text) not in PLANNED:
            for command in commands.commands_of(code.text):
                placed = [word for word in command[1:] if word not in ("...", "…")]
                commands.parse_mixq(placed, complete=False)


WRONG = {
    "a fence without a language": ("```\nmixq --version\n```", "without a known language"),
    "an unknown language": ("```fish\nmixq --version\n```", "without a known language"),
    "an indented block": ("Text:\n\n    mixq --version\n", "without a known language"),
    "an unknown command": ("```bash\nmixq serach\n```", "no command 'serach'"),
    "an unknown option": ("```bash\nmixq search --target 4\n```", "--target"),
    "a value that is no number": ("```bash\nmixq search --trials many\n```", "many"),
    "a refused command": ("```bash\nmixq hardware show no_such_chip\n```", "no_such_chip"),
    "a missing script": ("```bash\npython benchmarks/none.py\n```", "there is no benchmarks/none"),
    "an option that a script lacks": (
        "```bash\npython benchmarks/search.py --fast\n```",
        "unrecognized arguments: --fast",
    ),
    "an extra that is not there": ("```bash\npip install 'mixq[none]'\n```", "none"),
    "a target that make lacks": ("```bash\nmake nonsense\n```", "nonsense"),
    "an unknown program": ("```bash\ncurl example.org\n```", "no test knows the program 'curl'"),
    "a pipe": ("```bash\nmixq --version | cat\n```", "write plain commands"),
    "Python that fails": ("```python\nassert 1 == 2, 'one'\n```", "one"),
    "a model of ours that is missing": (
        "```bash\nmixq search --model examples/models/crepe_tiny.py:nothing\n```",
        "crepe_tiny.py:nothing",
    ),
    "TOML of no profile": (
        "```toml\nname = 'x'\nschema_version = 2\n```",
        "description: is",
    ),
    "TOML of a wrong recipe": ("```toml\nname = 'x'\n[budget]\nsize = 3\n```", "size"),
    "output that is not printed": (
        "```bash\nmixq --version\n```\n```text\nmixq 9.9.9\n```",
        "was not printed",
    ),
    "a listing that nobody knows": ("```text\nfour\n```", "stands behind no command"),
    "a formula that is none": ("```math\n\\frac{1\n```", "frac"),
}


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_seen(
    text: str, said: str, desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader = Reader("a page", capsys)
    with pytest.raises((AssertionError, MixqError, ValueError), match=re.escape(said)):
        reader.read_all(blocks_of("a page", text))


@pytest.mark.parametrize(("page", "piece"), PARSED, ids=" ".join)
def test_no_exception_outlives_its_block(page: str, piece: str) -> None:
    spoken = [block for block in BLOCKS[page] if block.language in ("bash", "python")]
    said = [
        shlex.join(commands.without_environment(command))
        for block in spoken
        if block.language == "bash"
        for command in commands.commands_of(block.text)
    ]
    said += [block.text for block in spoken if block.language == "python"]
    assert any(piece in one for one in said)


@pytest.mark.parametrize(("page", "start"), LISTINGS, ids=" ".join)
def test_no_listing_outlives_its_block(page: str, start: str) -> None:
    assert any(block.text.startswith(start) for block in BLOCKS[page])


@pytest.mark.parametrize("reason", [*PARSED.values(), *LISTINGS.values()])
def test_what_a_reason_names_is_there(reason: str) -> None:
    for named in re.findall(r"tests/[\w/.]+", reason):
        assert (ROOT / named).exists(), named
