"""Pages that are made from the code: the command line from typer, the library from docstrings."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from textwrap import dedent
from typing import Any

import typer

import mixq
from mixq.cli.app import app

ROOMS = {"export": "mixq.export.export", "search": "mixq.search.call"}
"""Public names that are rooms which can be called: the module of what a call runs."""
SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Yields|Example|Examples|Note):$")
ITEM = re.compile(r"^(\*{0,2}[\w.]+(?: \([^)]*\))?): (.*)$")


def command_line() -> str:
    """Every command with every option, as `--help` has them."""
    root = typer.main.get_command(app)
    parts = ["# Command line\n\nMade from what `mixq COMMAND --help` says.\n"]
    parts.extend(_commands("mixq", root))
    return "\n".join(parts)


def _commands(path: str, command: Any) -> Iterator[str]:
    if hasattr(command, "commands"):
        if path != "mixq":
            yield f"## {path}\n\n{_prose(command.help or '')}\n"
        else:
            yield f"{_prose(command.help or '')}\n"
            yield _options(command)
        for name, inner in command.commands.items():
            yield from _commands(f"{path} {name}", inner)
        return
    yield f"{'#' * min(3, 1 + path.count(' '))} {path}\n\n{_prose(command.help or '')}\n"
    yield _options(command)
    if command.epilog:
        yield f"{_prose(command.epilog)}\n"


def _options(command: Any) -> str:
    rows = []
    context = command.context_class(command)
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        if parameter.param_type_name == "argument":
            name = f"`{parameter.display_name_raw or parameter.name.upper()}`"
        else:
            spelled = ", ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
            flag = getattr(parameter, "is_flag", False)
            name = spelled if flag else f"{spelled} `{_metavar(parameter, context)}`"
        default = parameter.default
        hidden = default in (None, False, (), []) or callable(default)
        shown = "" if hidden else f"`{_text(default)}`"
        if parameter.required:
            shown = "required"
        rows.append(f"| {name} | {_cell(getattr(parameter, 'help', '') or '')} | {shown} |")
    if not rows:
        return ""
    return "\n".join(["| option | | default |", "|---|---|---|", *rows, ""])


def _text(default: Any) -> str:
    return str(getattr(default, "value", default))


def _metavar(parameter: Any, context: typer.Context) -> str:
    return parameter.metavar or parameter.display_type(context).strip("<>")


def _cell(text: str) -> str:
    return _prose(text).replace("|", "\\|").replace("\n", " ")


def _prose(text: str) -> str:
    paragraphs = dedent(text).strip().replace("<", "&lt;").split("\n\n")
    return "\n\n".join(
        f"`{one}`" if one.startswith("mixq ") and "\n" not in one else one for one in paragraphs
    )


def library() -> str:
    """Every public name: signature, docstring, fields, methods."""
    parts = [
        "# Library\n\nThe public names of `mixq`, made from their docstrings. Everything else may "
        "change from one version to the next.\n"
    ]
    for name in mixq.__all__:
        home = importlib.import_module(ROOMS[name]) if name in ROOMS else mixq
        thing = getattr(home, name)
        parts.extend(_entry(name, thing))
    return "\n".join(parts)


def _entry(name: str, thing: Any) -> Iterator[str]:
    yield f"## mixq.{name}\n"
    if not inspect.isclass(thing):
        yield _signature(f"mixq.{name}", thing)
        yield _docstring(thing)
        return
    yield _docstring(thing)
    if is_dataclass(thing):
        shown = [field for field in fields(thing) if not field.name.startswith("_")]
        rows = [f"| `{field.name}` | `{_type(field.type)}` |" for field in shown]
        yield "\n".join(["| field | type |", "|---|---|", *rows, ""])
    for member_name, member in vars(thing).items():
        if member_name.startswith("_"):
            continue
        if isinstance(member, property):
            yield f"### {name}.{member_name}\n\n{_docstring(member)}"
        elif isinstance(member, classmethod | staticmethod) or inspect.isfunction(member):
            function = getattr(thing, member_name)
            yield f"### {name}.{member_name}\n\n" + _signature(f"{name}.{member_name}", function)
            yield _docstring(function)


def _type(annotation: Any) -> str:
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )
    return text.replace("|", "\\|")


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter for parameter in signature.parameters.values() if parameter.name != "self"
    ]
    inside = ""
    keyword = False
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword:
            keyword = True
            inside += "    *,\n"
        keyword = keyword or parameter.kind is parameter.VAR_POSITIONAL
        inside += f"    {_unquoted(str(parameter))},\n"
    returned = signature.return_annotation
    arrow = (
        ""
        if returned is signature.empty
        else f" -> {_unquoted(inspect.formatannotation(returned))}"
    )
    body = f"(\n{inside})" if inside else "()"
    return f"```text\n{name}{body}{arrow}\n```\n"


def _unquoted(text: str) -> str:
    return re.sub(r": '([^']*)'", r": \1", text).strip("'")


def _docstring(thing: Any) -> str:
    """A Google docstring as Markdown: sections in bold, their items as a list."""
    out: list[str] = []
    for line in (inspect.getdoc(thing) or "").splitlines():
        stripped = line.strip()
        indent = len(line) - len(line.lstrip())
        if SECTION.match(line):
            out.append(f"\n**{stripped.rstrip(':')}**\n")
        elif indent == 4 and (item := ITEM.match(stripped)):
            out.append(f"- `{item[1]}`: {item[2]}")
        elif indent >= 4 and out and out[-1].startswith(("- ", "  ")):
            out.append(f"  {stripped}")
        else:
            out.append(stripped if indent >= 4 else line)
    return "\n".join(out).replace("<", "&lt;") + "\n"
