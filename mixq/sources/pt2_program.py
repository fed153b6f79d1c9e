"""The program of a `.pt2` archive: a graph in JSON, of which torch evaluates more than one part.

torch 2.13 turns strings of this file into Python: names of nodes and weights go into generated
source, sizes go through sympy (which calls eval), guards are compiled, operators are looked up
by dotted path, tree specs may import modules. So every string must match the form that
torch.export.save gives it; names and operators are allowed by list, and what is not needed
(stack traces, guards) is left out.
"""

from __future__ import annotations

import json
import keyword
import re
from pathlib import Path
from typing import Any, Final

from mixq.errors import SourceError

NAMESPACES: Final = ("aten", "prims", "torchvision")
HIGHER_ORDER: Final = (
    "cond", "invoke_subgraph", "scan", "while_loop", "wrap_with_autocast",
    "wrap_with_set_grad_enabled",
)  # fmt: skip
"""Operators that take graphs; the graphs are checked as the outer one is."""
FORBIDDEN: Final = ("torch.ops.aten.from_file",)
"""Operators that read or write files."""
ARITHMETIC: Final = (
    "add", "and_", "eq", "floordiv", "ge", "getitem", "gt", "le", "lt", "mod", "mul", "ne",
    "neg", "not_", "or_", "pos", "pow", "sub", "truediv",
)  # fmt: skip
"""What is allowed of Python's operator module, which also has call and attrgetter."""
SIZE_WORDS: Final = frozenset((
    "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow", "Max", "Min", "And", "Or",
    "Not", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan",
    "GreaterThan", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "true", "false", "True", "False",
    "integer", "positive", "nonnegative", "negative", "nonpositive", "zero", "nonzero", "real",
    "finite", "precision", "prec", "evaluate", "FloorDiv", "ModularIndexing", "Where",
    "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift",
    "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "IsNonOverlappingAndDenseIndicator",
    "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity",
))  # fmt: skip
"""What sympy's srepr writes for sizes, and the functions that torch's deserializer knows."""
SIZE_LENGTH: Final = 10_000

_TOKEN: Final = re.compile(r"[A-Za-z0-9_.+@\-]*", re.ASCII)
_OPERATOR: Final = re.compile(
    rf"torch\.ops\.(?:{'|'.join(NAMESPACES)})\.\w+(?:\.\w+)?"
    rf"|torch\.ops\.higher_order\.(?:{'|'.join(HIGHER_ORDER)})"
    rf"|_operator\.(?:{'|'.join(ARITHMETIC)})"
    r"|torch\._?sym_[a-z_]+|math\.[a-z0-9]+",
    re.ASCII,
)
_SIZE_PIECE: Final = re.compile(
    r"\s+|[(),=+*/%<>-]|\d+(?:\.\d+)?|'-?\d+(?:\.\d+)?(?:e-?\d+)?'"
    r"|'?(?P<symbol>(?:s|u|zf|zuf)\d+)'?|(?P<word>[A-Za-z_]\w*)",
    re.ASCII,
)
_STACK: Final = re.compile(r"[A-Za-z0-9_.,;:@\-\[\]() '\"]*", re.ASCII)
_CONTAINERS: Final = (
    None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
)  # fmt: skip

_OUTPUT_CLASS: Final = re.compile(r"transformers(?:\.[A-Za-z]\w*)+", re.ASCII)

_NAMES: Final = ("name", "as_name")
_FREE_TEXT: Final = ("as_string", "as_strings")
"""Arguments of operators; torch writes them into source by repr."""
_TRAINING: Final = ("train", "training")


def checked_program(path: Path, program: dict[str, Any]) -> tuple[dict[str, Any], set[str]]:
    """A copy of the program without guards and stack traces, if all of it is plain.

    Beside it the classes of transformers whose instances it takes or returns.

    Args:
        path: the archive, for messages.
        program: `torch._export.serde.schema.ExportedProgram` as JSON.

    Raises:
        SourceError: naming the first string that is not plain, or the layer in training mode.
    """
    checker = _Checker(path)
    try:
        cleaned = checker.clean(program, "")
    except RecursionError as error:
        raise SourceError(f"{str(path)!r} has a program that is nested too deep") from error
    return cleaned, checker.output_classes


class _Checker:
    """Walks a program; `key` is the name under which a value was found."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.output_classes: set[str] = set()

    def clean(self, value: Any, key: str) -> Any:
        if isinstance(value, str):
            self._check(value, key)
            return value
        if isinstance(value, list):
            return [self.clean(item, key) for item in value]
        if isinstance(value, dict):
            if "target" in value and "inputs" in value:
                self._check_mode(value)
            return {self._key(name): self._entry(item, name) for name, item in value.items()}
        return value

    def _entry(self, value: Any, key: str) -> Any:
        if key == "metadata":
            return self._metadata(value)
        if key == "guards_code":
            return []
        return self.clean(value, key)

    def _key(self, name: str) -> str:
        if _TOKEN.fullmatch(name) is None:
            raise self._refusal("name", name)
        return name

    def _check(self, text: str, key: str) -> None:
        """Refuse a string that is not of the form that its key has."""
        if key in _FREE_TEXT:
            return
        if key in ("in_spec", "out_spec"):
            if text:
                self._check_tree(text)
        elif key == "expr_str":
            if not _is_size(text):
                raise self._refusal("size", text)
        elif key in ("target", "as_operator"):
            if _OPERATOR.fullmatch(text) is None or text.startswith(FORBIDDEN):
                raise self._refusal("operator", text)
        elif key in _NAMES:
            if text and (not (text.isascii() and text.isidentifier()) or keyword.iskeyword(text)):
                raise self._refusal("name", text)
        elif _TOKEN.fullmatch(text) is None:
            raise self._refusal(key or "string", text)

    def _check_tree(self, text: str) -> None:
        """Refuse a tree spec (how arguments nest) with other containers than the plain ones."""
        try:
            _, tree = json.loads(text)
        except (ValueError, TypeError) as error:
            raise self._refusal("tree spec", text) from error
        pending = [tree]
        while pending:
            node = pending.pop()
            if not isinstance(node, dict) or not isinstance(node.get("children_spec"), list):
                raise self._refusal("tree spec", text)
            kind, context = node.get("type"), node.get("context")
            if not (context is None or _is_plain_context(context)):
                raise self._refusal("container", f"{kind} of {context}")
            if kind not in _CONTAINERS:
                if _OUTPUT_CLASS.fullmatch(str(kind)) is None:
                    raise self._refusal("container", str(kind))
                self.output_classes.add(str(kind))
            pending += node["children_spec"]

    def _check_mode(self, node: dict[str, Any]) -> None:
        """Refuse an operator that was exported in training mode: dropout, batch statistics."""
        for item in node["inputs"]:
            if (
                isinstance(item, dict)
                and item.get("name") in _TRAINING
                and item.get("arg") == {"as_bool": True}
            ):
                raise SourceError(
                    f"{str(self.path)!r} was exported in training mode ({node['target']}); call "
                    "model.eval() before torch.export.export"
                )

    def _metadata(self, value: Any) -> dict[str, str]:
        """Only the modules that an operator came from."""
        stack = value.get("nn_module_stack") if isinstance(value, dict) else None
        if not isinstance(stack, str) or _STACK.fullmatch(stack) is None:
            return {}
        return {"nn_module_stack": stack}

    def _refusal(self, what: str, text: str) -> SourceError:
        return SourceError(
            f"{str(self.path)!r} has the {what} {text[:60]!r}, which torch.export.save does not "
            "write or mixq does not allow, so it is not loaded; pass package.module:function"
        )


def _is_size(text: str) -> bool:
    """Whether an expression is made of symbols, numbers and the functions for sizes only."""
    if len(text) > SIZE_LENGTH:
        return False
    position = 0
    while position < len(text):
        piece = _SIZE_PIECE.match(text, position)
        if piece is None or (piece["word"] is not None and piece["word"] not in SIZE_WORDS):
            return False
        position = piece.end()
    return True


def _is_plain_context(context: Any) -> bool:
    """Whether the context of a container is JSON of nothing, or of a list of plain keys."""
    try:
        keys = json.loads(context)
    except (ValueError, TypeError):
        return False
    return keys is None or (
        isinstance(keys, list)
        and all(isinstance(key, str) and _TOKEN.fullmatch(key) is not None for key in keys)
    )
