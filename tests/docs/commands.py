"""Command lines of the documentation: taken apart, and held against the parsers that read them."""

from __future__ import annotations

import argparse
import ast
import contextlib
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

from mixq.cli.app import app
from mixq.errors import OutputError

from .blocks import ROOT

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOREIGN = {
    "apt-get": "changes the machine",
    "llama-quantize": "llama.cpp's own program; its library does it in tests/export",
    "optuna-dashboard": "a server that does not end; tests/search opens a run's journal with it",
    "bash": "one of the repository's own scripts",
    "cd": "a place",
    "git": "needs a remote",
}
"""Programs that are never run here, each with the reason."""


class ShellError(AssertionError):
    """A line that is no plain sequence of commands."""


def commands_of(text: str) -> list[list[str]]:
    """Argument lists of a bash block: lines, joined at backslashes and parted at `&&`.

    Raises:
        ShellError: where a shell would do more than run programs with arguments.
    """
    found: list[list[str]] = []
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if word == "&&":
                found.append(command)
                command = []
            elif word and set(word) <= set("|&;<>()"):
                raise ShellError(f"{line!r}: {word!r} is not tested here; write plain commands")
            else:
                command.append(word)
        found.append(command)
    return [command for command in found if command]


def without_environment(command: Sequence[str]) -> list[str]:
    """A command without the `NAME=value` before it."""
    words = list(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words.pop(0)
    return words


def parse_mixq(arguments: Sequence[str], *, complete: bool = True) -> None:
    """Holds `mixq ARGUMENTS` against typer's parser; nothing is run.

    Args:
        arguments: the words after `mixq`.
        complete: whether what the command demands has to be there; prose may leave it out.
    """
    command: Any = typer.main.get_command(app)
    words, path = list(arguments), "mixq"
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{path} has no command {name!r}"
        command, path = command.commands[name], f"{path} {name}"
    if hasattr(command, "commands"):
        known = {option for one in command.params for option in one.opts} | {"--help"}
        assert set(words) <= known, f"{path} has no {' '.join(words)}"
        return
    try:
        command.make_context(path, list(words))
    except (typer.Exit, OutputError):
        pass  # --help; --resume reads the folder, which is not there
    except typer.TyperException as error:
        message = str(getattr(error, "message", "")) or repr(error)
        kind = type(error).__name__
        if complete or not (kind == "MissingParameter" or "requires an argument" in message):
            raise AssertionError(f"{path} {' '.join(words)}: {message}") from None


def parse_python(arguments: Sequence[str]) -> None:
    """Holds `python SCRIPT ...` against the script's own argparse, at which it is stopped."""
    if arguments[:1] == ["-m"]:
        assert shutil.which(arguments[1], path=Path(sys.executable).parent), arguments[1]
        return
    script = ROOT / arguments[0]
    assert script.is_file(), f"there is no {arguments[0]}"
    source = script.read_text(encoding="utf-8")
    if "parse_args" not in source:
        ast.parse(source)
        assert not [word for word in arguments if word.startswith("-")], "it takes no options"
        return
    reached = []

    class Reached(BaseException):
        pass

    real = argparse.ArgumentParser.parse_args

    def stop(self: argparse.ArgumentParser, *given: Any) -> Any:
        reached.append(real(self, *given))
        raise Reached

    def refuse(self: argparse.ArgumentParser, message: str) -> Any:
        raise AssertionError(f"{arguments[0]}: {message}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "error", refuse)
        patch.setattr(sys, "argv", [str(script), *arguments[1:]])
        patch.setattr(sys, "path", [str(script.parent), *sys.path])
        with contextlib.suppress(Reached):
            runpy.run_path(str(script), run_name="__main__")
    assert reached, f"{arguments[0]} never parsed its arguments"


def parse_pip(arguments: Sequence[str]) -> None:
    """Extras that are asked for exist, requirement files are there."""
    assert arguments[0] == "install"
    words = list(arguments[1:])
    while words:
        word = words.pop(0)
        if word in ("-r", "-c", "-e", "--editable"):
            target = Path(words.pop(0).partition("[")[0] or ".")
            assert (ROOT / target).exists(), target
        elif not word.startswith("-") and word != ".":
            wanted = Requirement(word)
            if wanted.name == "mixq":
                extras = PROJECT["project"]["optional-dependencies"]
                assert wanted.extras <= set(extras), wanted
            elif str(wanted.specifier):
                pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
                assert f"{wanted.name}{wanted.specifier}" in pins, f"{wanted} is not the pin"


def parse_make(arguments: Sequence[str]) -> None:
    """Make knows the targets and what they need."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("no make")
    tried = [*arguments, "--dry-run", "--silent"]
    done = subprocess.run([make, *tried], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def parse_foreign(program: str) -> Callable[[Sequence[str]], None]:
    """The program stands in the table above; a script of ours that it is given is there."""
    assert program in FOREIGN, f"no test knows the program {program!r}"

    def parse(arguments: Sequence[str]) -> None:
        if program == "bash":
            assert (ROOT / arguments[0]).is_file()

    return parse


PARSERS: dict[str, Callable[[Sequence[str]], None]] = {
    "make": parse_make,
    "mixq": parse_mixq,
    "pip": parse_pip,
    "python": parse_python,
}


def parse(command: Sequence[str]) -> None:
    """Refuses a command that its program would refuse, as far as that can be told unrun."""
    program, *arguments = without_environment(command)
    if program.startswith(".venv/bin/"):
        program = program.removeprefix(".venv/bin/")
        groups = PROJECT["dependency-groups"]
        listed = [one for one in (*groups["test"], *groups["dev"]) if isinstance(one, str)]
        names = {Requirement(one).name for one in listed}
        assert program in names | set(PARSERS), f"{program} is no tool of `make test`"
        if program in names:
            return
    (PARSERS.get(program) or parse_foreign(program))(arguments)
    for word in arguments:  # a model of ours that is named
        if found := re.fullmatch(r"(examples/\S+\.py):(\w+)", word):
            tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
            functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
            assert found[2] in functions, word
        elif word.startswith("examples/"):
            assert (ROOT / word).exists(), word
