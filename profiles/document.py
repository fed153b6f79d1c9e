"""Document: a profile as its files say it, with what it takes over from the file it extends."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from mixq.errors import ProfileError
from mixq.files import parse_toml
from mixq.profiles.lines import Path, line_of

DOCS: Final = "docs/profiles.md describes the file"
MAX_BYTES: Final = 1024 * 1024
"""Largest file read; the shipped ones are below a tenth of it."""
INHERITED_SPREAD: Final = 0.25
"""How much more log(measured / predicted) of a kernel spreads on a chip that only extends the one
it was fitted on; squares add. Between alike chips 0.13 to 0.25 was found (docs/decisions/0034)."""
_WHOLE: Final = ("core_peak", "cache")
"""Tables of a chip that a file gives or leaves, since half of one would mix two chips."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One TOML file.

    Attributes:
        origin: what errors call it.
        profile: name of the profile that it belongs to.
    """

    origin: str
    profile: str
    text: str
    content: Mapping[str, Any]

    def says(self, path: Path, problem: str) -> ProfileError:
        """The error for `problem` at the line of `path`."""
        return ProfileError(
            f"profile {shown(self.origin)}: line {line_of(self.text, path)}: {problem}; {DOCS}"
        )


@dataclass(slots=True)
class Document:
    """The tables of a profile after merging, and which file each kernel comes from.

    Attributes:
        layers: the files, the profile's own first.
        kernels: for each runtime the file and the number in it of every kernel.
    """

    content: dict[str, Any]
    layers: tuple[Layer, ...]
    kernels: dict[str, list[tuple[Layer, int]]] = field(default_factory=dict)

    def at(self, path: Path) -> tuple[Layer, Path]:
        """The file that says what stands at `path` of the merged tables, and its path there."""
        if len(path) >= 4 and path[0] == "runtime" and path[2] == "kernel":
            runtime, number = str(path[1]), path[3]
            if isinstance(number, int) and number < len(self.kernels.get(runtime, ())):
                layer, place = self.kernels[runtime][number]
                return layer, (*path[:3], place, *path[4:])
        depths = [_depth(layer.content, path) for layer in self.layers]
        # The first of the deepest: a key that a file gives itself hides the one it extends.
        return self.layers[depths.index(max(depths))], path


def read_layer(content: bytes, *, origin: str, profile: str | None = None) -> Layer:
    """The file with these bytes.

    Raises:
        ProfileError: if they are no TOML.
    """
    if len(content) > MAX_BYTES:
        raise ProfileError(
            f"profile {shown(origin)}: larger than the {MAX_BYTES} bytes allowed; {DOCS}"
        )
    try:
        # ValueError covers TOMLDecodeError, UnicodeDecodeError and integers with too many digits.
        text = content.decode("utf-8")
        tables = parse_toml(text)
    except ValueError as error:
        reason = " ".join(str(error).split())[:160]
        raise ProfileError(
            f"profile {shown(origin)}: not readable as TOML: {reason}; {DOCS}"
        ) from error
    name = tables.get("name")
    return Layer(
        origin,
        profile or (name if isinstance(name, str) else origin),
        text.replace("\r\n", "\n"),
        tables,
    )


def merge(base: Document | None, layers: Iterable[Layer]) -> Document:
    """`layers` over a checked `base`: keys of theirs replace the base's, kernels join its.

    A kernel with the name, bits and activation bits of an earlier one takes its place. What the
    base's chip is called in published tables does not hold for this one. Kernels that were fitted
    on the base's chip get a wider spread.
    """
    own = tuple(layers)
    document = Document({}, (*own, *(base.layers if base else ())))
    if base is not None:
        _put(document, base.content, None, base.kernels)
        document.content.get("chip", {}).pop("names", None)
        document.content.pop("extends", None)
        for runtime in document.content["runtime"].values():
            runtime["kernel"] = [_widened(kernel) for kernel in runtime["kernel"]]
    for layer in own:
        _put(document, layer.content, layer, {})
    if base is not None:
        _drop_impossible(document, own)
    return document


def shown(origin: str) -> str:
    """`origin` in quotes, cut to a line's length."""
    return repr(origin if len(origin) <= 200 else f"{origin[:200]}...")


def _put(
    document: Document,
    content: Mapping[str, Any],
    layer: Layer | None,
    kernels: Mapping[str, list[tuple[Layer, int]]],
) -> None:
    """Writes `content` over the document; the schema refuses what is of another kind."""
    into = document.content
    for key, value in content.items():
        if key == "chip" and isinstance(value, dict) and isinstance(into.get(key), dict):
            into[key] = {**into[key], **value}
        elif key != "runtime" or not isinstance(value, dict):
            into[key] = dict(value) if isinstance(value, dict) else value
        elif not isinstance(into.setdefault(key, {}), dict):
            into[key] = value
        else:
            for name, runtime in value.items():
                places = kernels.get(name)
                into[key][name] = _runtime(document, name, runtime, layer, places)


def _runtime(
    document: Document,
    name: str,
    runtime: Any,
    layer: Layer | None,
    places: list[tuple[Layer, int]] | None,
) -> Any:
    """The tables of one runtime after `runtime` has been written over them."""
    earlier = document.content["runtime"].get(name, {})
    listed = runtime.get("kernel", []) if isinstance(runtime, dict) else None
    if not isinstance(earlier, dict) or listed is None:
        return runtime
    if not isinstance(listed, list):
        return {**earlier, **runtime}
    if places is None:
        places = [(layer, number) for number in range(len(listed))] if layer else []
    kernels, origins = list(earlier.get("kernel", ())), document.kernels.setdefault(name, [])
    taken = {_identity(kernel): number for number, kernel in enumerate(kernels)}
    for kernel, place in zip(listed, places, strict=True):
        # Twice in one file is not taken over but refused by the schema.
        number = taken.pop(_identity(kernel), None)
        if number is None:
            kernels.append(kernel)
            origins.append(place)
        else:
            kernels[number], origins[number] = kernel, place
    return {**earlier, **runtime, "kernel": kernels}


def _drop_impossible(document: Document, own: tuple[Layer, ...]) -> None:
    """Leaves out measured kernels of the base that compute in what this chip does not have."""
    chip = document.content.get("chip")
    peaks = chip.get("core_peak") if isinstance(chip, dict) else None
    runtimes = document.content.get("runtime", {})
    if not isinstance(peaks, dict) or not isinstance(runtimes, dict):
        return
    for name, places in list(document.kernels.items()):
        runtime = runtimes[name]
        if not isinstance(runtime, dict) or "dequantize" in runtime:
            continue
        if not isinstance(runtime["kernel"], list) or len(runtime["kernel"]) != len(places):
            continue
        kept = [
            (kernel, place)
            for kernel, place in zip(runtime["kernel"], places, strict=True)
            if place[0] in own or not isinstance(kernel, dict) or kernel.get("compute") in peaks
        ]
        runtime["kernel"] = [kernel for kernel, _ in kept]
        document.kernels[name] = [place for _, place in kept]
        if not kept and name not in _given(own):
            del runtimes[name], document.kernels[name]


def _given(layers: tuple[Layer, ...]) -> set[str]:
    """Runtimes that these files speak of."""
    tables = [layer.content.get("runtime") for layer in layers]
    return {name for table in tables if isinstance(table, dict) for name in table}


def _identity(kernel: Any) -> tuple[str, ...]:
    """What makes a later kernel take the place of an earlier one."""
    if not isinstance(kernel, dict):
        return (str(kernel),)
    return tuple(str(kernel.get(key)) for key in ("name", "bits", "activation_bits", "ops"))


def _widened(kernel: dict[str, Any]) -> dict[str, Any]:
    if "spread" not in kernel:
        return kernel
    value = math.hypot(kernel["spread"]["value"], INHERITED_SPREAD)
    return {**kernel, "spread": {**kernel["spread"], "value": value}}


def _depth(content: Any, path: Path) -> int:
    """How many keys of `path` the tables have."""
    for depth, key in enumerate(path):
        if isinstance(content, Mapping) and key in content:
            content = content[key]
            continue
        if not isinstance(content, list) or not isinstance(key, int) or key >= len(content):
            return depth
        content = content[key]
    return len(path)
