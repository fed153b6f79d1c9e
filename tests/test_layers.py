"""Who may import whom: a room imports only from rooms below it, and keeps to its libraries."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

LEVELS = (
    {"errors", "workshop"},
    {"files", "progress", "batch", "callable_room"},
    {"plugins"},
    {"formats"},
    {"validation", "html_table", "frames"},
    {"plan_parts"},
    {"plan_view"},
    {"profiles", "plan", "graph", "quantize", "calibration"},
    {"activations", "moments", "tensor_file", "equalize"},
    {"packed_module"},
    {"packed_units"},
    {"plan_weights"},
    {"rounding", "apply", "cost", "sources", "demo", "plan_check"},
    {"sensitivity", "artifact", "predict"},
    {"training", "streaming"},
    {"search", "export"},
    {"bench", "harness"},
    {"report", "calibrate"},
    {"cli"},
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
SIDEWAYS = {("sources", "demo")}
"""(importer, imported) of one level: the demo is one source of models."""
DEFERRED = {
    *(("plan", room) for room in ("apply", "plan_weights", "calibration", "export")),
    ("plan_view", "plan"),
}
"""(importer, imported) allowed inside functions and for types: `plan.apply(model)`,
`plan.compile(model)` and `plan.save(path)` are spellings users know, and a plan itself is read
without torch."""
EXEMPT = {"", "testing"}
"""mixq itself gathers the public names from everywhere; contract suites meet every room."""

HOMES = {
    "torch": {
        *("graph", "quantize", "batch", "calibration", "sensitivity"),
        *("activations", "moments", "tensor_file", "packed_module", "packed_units"),
        *("plan_weights", "rounding", "equalize", "training", "streaming"),
        *("apply", "artifact", "sources", "demo", "export", "bench", "harness", "calibrate"),
    },
    "optuna": {"search"},
}
TYPED_ONLY = {("search", "torch"), ("plan", "torch")}
"""(importer, library) allowed in `if TYPE_CHECKING:` alone: models pass through, unread."""


@dataclass(frozen=True)
class Import:
    """An absolute dotted name that a module imports, and where."""

    name: str
    line: int
    type_checking: bool
    in_function: bool


def imported_names(node: ast.AST, package: list[str]) -> list[str]:
    """Absolute names that one node imports; `package` is where relative imports start."""
    match node:
        case ast.Import(names=aliases):
            return [alias.name for alias in aliases]
        case ast.ImportFrom(module=base, names=aliases, level=level):
            above = package[: len(package) - level + 1] if level else []
            start = ".".join([*above, *([base] if base else [])])
            return [f"{start}.{alias.name}" for alias in aliases]
        case ast.Call(func=function, args=[ast.Constant(value=str(name)), *_]):
            is_import = ast.unparse(function).endswith(("import_module", "__import__"))
            return [name] if is_import else []
        case _:
            return []


def imports_of(module: str, source: str, *, is_package: bool) -> list[Import]:
    """Every import of `source`, at any depth, by line."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    found = []
    pending: list[tuple[ast.AST, bool, bool]] = [(ast.parse(source), False, False)]
    while pending:
        node, typed, inside = pending.pop()
        for name in imported_names(node, package):
            found.append(Import(name, getattr(node, "lineno", 0), typed, inside))
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        guarded: list[ast.stmt] = []
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            guarded = node.body
        for child in ast.iter_child_nodes(node):
            pending.append((child, typed or child in guarded, inside))
    return sorted(found, key=lambda item: (item.line, item.name))


def room_of(name: str) -> str | None:
    """Room of a dotted name: "" is mixq itself, None is somebody else's."""
    first, *rest = name.split(".")
    if first != "mixq":
        return None
    return rest[0] if rest else ""


def order_fault(room: str, found: Import) -> str | None:
    """Why `room` may not import this name within mixq; None if it may."""
    target = room_of(found.name)
    late = found.in_function or found.type_checking
    if target in ("__version__", room) or (late and (room, target) in DEFERRED):
        return None
    if target not in LEVEL:
        return "mixq itself, testing and unknown rooms are no room's foundation"
    if LEVEL[target] > LEVEL[room]:
        return "upward"
    if LEVEL[target] == LEVEL[room] and (room, target) not in SIDEWAYS:
        return "sideways"
    return None


def library_fault(room: str, found: Import) -> str | None:
    """Why `room` may not import this library; None if it may."""
    names = set(found.name.split("."))
    for library, homes in HOMES.items():
        # `safetensors.torch` brings torch as surely as `torch` does.
        if library not in names or room in homes:
            continue
        if found.type_checking and (room, library) in TYPED_ONLY:
            continue
        return f"{library} stays in {', '.join(sorted(homes))}"
    return None


def faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Broken rules of one module, `LINE: what (why)` each; `module` is its dotted name."""
    room = room_of(module)
    assert room is not None, module
    found = []
    if room not in EXEMPT:
        if room not in LEVEL:
            return [f"1: room {room!r} has no level; add it to LEVELS"]
        for item in imports_of(module, source, is_package=is_package):
            within = room_of(item.name) is not None
            why = order_fault(room, item) if within else library_fault(room, item)
            if why is not None:
                found.append(f"{item.line}: {item.name} ({why})")
    if room != "cli":
        found += [
            f"{node.lineno}: print (only cli prints)"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"
        ]
    return found


def modules() -> dict[str, Path]:
    """Every module of the library: dotted name -> file; links are not followed."""
    found = {}
    for folder, package in (
        ("mixq", "mixq"),
        ("search", "mixq.search"),
        ("profiles", "mixq.profiles"),
    ):
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


@pytest.mark.parametrize("module", modules())
def test_module_keeps_the_order(module: str) -> None:
    path = modules()[module]
    source = path.read_text(encoding="utf-8")
    assert faults(module, source, is_package=path.name == "__init__.py") == []


def test_every_room_is_seen() -> None:
    seen = {room_of(module) for module in modules()}
    assert {"", "errors", "formats", "graph", "search", "profiles", "cli"} <= seen


FACADE = "mixq itself, testing and unknown rooms are no room's foundation"
TORCH = f"torch stays in {', '.join(sorted(HOMES['torch']))}"
LATER = "def later():\n    "
TYPED = "if TYPE_CHECKING:\n    "
FAULTY = {
    "upward": ("mixq.formats", "import mixq.cost", "1: mixq.cost (upward)"),
    "from": ("mixq.graph.trace", "from mixq.cost import a", "1: mixq.cost.a (upward)"),
    "from-mixq": ("mixq.graph.trace", "from mixq import cost", "1: mixq.cost (upward)"),
    "relative": ("mixq.graph.trace", "from ..cost import a", "1: mixq.cost.a (upward)"),
    "later": ("mixq.graph.trace", LATER + "import mixq.cli", "2: mixq.cli (upward)"),
    "typed": ("mixq.graph.trace", TYPED + "import mixq.cli", "2: mixq.cli (upward)"),
    "by-string": ("mixq.graph", "import_module('mixq.cli')", "1: mixq.cli (upward)"),
    "sideways": ("mixq.cost.a", "import mixq.apply", "1: mixq.apply (sideways)"),
    "one-way": ("mixq.demo.net", "import mixq.sources", "1: mixq.sources (sideways)"),
    "not-deferred": ("mixq.plan", "from mixq import apply", "1: mixq.apply (upward)"),
    "facade": ("mixq.cost.table", "import mixq", f"1: mixq ({FACADE})"),
    "testing": ("mixq.cli", "import mixq.testing", f"1: mixq.testing ({FACADE})"),
    "new-room": ("mixq.novel", "", "1: room 'novel' has no level; add it to LEVELS"),
    "torch": ("mixq.cost.roofline", "import torch", f"1: torch ({TORCH})"),
    "torch-later": ("mixq.cli", LATER + "import torch.nn", f"2: torch.nn ({TORCH})"),
    "torch-typed": ("mixq.cli", TYPED + "import torch", f"2: torch ({TORCH})"),
    "torch-else": ("mixq.plan", TYPED + "a\nelse:\n    import torch", f"4: torch ({TORCH})"),
    "torch-search": ("mixq.search.study.study", "import torch", f"1: torch ({TORCH})"),
    "torch-hidden": ("mixq.plan", "import safetensors.torch", f"1: safetensors.torch ({TORCH})"),
    "optuna": ("mixq.cli.run", "import optuna", "1: optuna (optuna stays in search)"),
    "print": ("mixq.report.plot", "print('x')", "1: print (only cli prints)"),
    "print-facade": ("mixq", "print('x')", "1: print (only cli prints)"),
}
SOUND = {
    "downward": ("mixq.cost.table", "from mixq.formats import Format"),
    "own-room": ("mixq.cost.table", "from . import kernels\nfrom .kernels import Kernel"),
    "sources-demo": ("mixq.sources", "from mixq.demo import load"),
    "version": ("mixq.artifact", "from mixq import __version__"),
    "deferred": ("mixq.plan", LATER + "from mixq.apply import apply"),
    "torch-at-home": ("mixq.apply", "import torch"),
    "torch-typed": ("mixq.search", TYPED + "from torch import nn"),
    "facade": ("mixq", "from mixq.search import search\nimport torch"),
    "testing": ("mixq.testing.cost", "import mixq.cli"),
    "cli-prints": ("mixq.cli.show", "print('x')"),
}


@pytest.mark.parametrize(("module", "source", "fault"), FAULTY.values(), ids=FAULTY)
def test_checker_names_the_fault(module: str, source: str, fault: str) -> None:
    assert faults(module, source) == [fault]


@pytest.mark.parametrize(("module", "source"), SOUND.values(), ids=SOUND)
def test_checker_allows(module: str, source: str) -> None:
    assert faults(module, source) == []


HEAVY = ("torch", "optuna", "matplotlib", "plotly")
ASK_FOR_HELP = f"""
import json, sys
sys.argv = ["mixq", *json.loads(sys.argv[1])]
from mixq.cli import main
try:
    main()
except SystemExit as exit:
    assert not exit.code, exit.code
sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    command = [sys.executable, "-P", "-c", ASK_FOR_HELP, json.dumps(arguments)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "Usage" in answer.stdout
    assert json.loads(answer.stderr) == []


def test_import_mixq_is_light() -> None:
    code = "import sys, mixq; sys.exit(mixq.__version__ == '' or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-P", "-c", code], timeout=60, check=True)
