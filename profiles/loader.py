"""Finding, reading and checking profile files."""

from __future__ import annotations

import difflib
import os
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from mixq.errors import ProfileError
from mixq.files import open_regular
from mixq.profiles.convert import convert
from mixq.profiles.document import MAX_BYTES, Document, Layer, merge, read_layer, shown
from mixq.profiles.place import HOST, host_path
from mixq.profiles.problem import problem_of
from mixq.profiles.profile import Profile
from mixq.profiles.schema import ProfileFile

PUBLISHED: Final = "published"
"""Folder of chips that only occur in published measurements."""
FITTED: Final = "fitted"
"""Folder of kernels that benchmarks/fit_published.py wrote, one file per profile."""
_DEEPEST: Final = 8


@cache
def available(*, published: bool = False) -> tuple[str, ...]:
    """Names of the shipped profiles, sorted.

    Args:
        published: also those of chips that only occur in published measurements.
    """
    folders = [_shipped_files(), *([_shipped_files() / PUBLISHED] if published else [])]
    files = [file.name for folder in folders if folder.is_dir() for file in folder.iterdir()]
    return tuple(sorted(name[:-5] for name in files if name.endswith(".toml")))


def load(name_or_path: str) -> Profile:
    """The profile of that name, or of the user's own `.toml` file.

    Raises:
        ProfileError: if there is no such profile, or it breaks a rule of the schema; one line
            that names the file, the line and the key.
    """
    if name_or_path == HOST:
        return _host()
    if name_or_path in available(published=True):
        return _shipped(name_or_path)
    if not _is_path(name_or_path):
        raise ProfileError(
            f"hardware {name_or_path[:80]!r} is not a shipped profile and not a .toml file; "
            f"{_hint(name_or_path)}shipped are {', '.join(available())} (mixq hardware list)"
        )
    path = Path(name_or_path)
    return _checked(_document(_read(path), str(path), path.parent, ()))


def parse(content: bytes, *, origin: str) -> Profile:
    """The profile that these bytes of TOML describe; `origin` names them in errors.

    Raises:
        ProfileError: if the bytes are no TOML or break a rule of the schema.
    """
    return _checked(_document(content, origin, Path(), ()))


@cache
def _shipped(name: str) -> Profile:
    return _checked(_shipped_document(name, ()))


@cache
def _shipped_layers(name: str) -> tuple[Layer, ...]:
    """The file of a shipped profile and, where there is one, that of its fitted kernels."""
    top = _shipped_files()
    own = top / f"{name}.toml"
    own = own if own.is_file() else top / PUBLISHED / f"{name}.toml"
    layers = [read_layer(own.read_bytes(), origin=name, profile=name)]
    fitted = top / FITTED / f"{name}.toml"
    if fitted.is_file():
        layers.append(read_layer(fitted.read_bytes(), origin=f"{FITTED}/{name}", profile=name))
    return tuple(layers)


def _shipped_document(name: str, below: tuple[str, ...]) -> Document:
    layers = _shipped_layers(name)
    return merge(_base(layers[0], None, (*below, name)), layers)


def _document(content: bytes, origin: str, folder: Path, below: tuple[str, ...]) -> Document:
    layer = read_layer(content, origin=origin)
    return merge(_base(layer, folder, (*below, origin)), [layer])


def _base(layer: Layer, folder: Path | None, chain: tuple[str, ...]) -> Document | None:
    """What `layer` extends: a shipped profile or, in a user's file, one at a path beside it."""
    name = layer.content.get("extends")
    if name is None:
        return None
    if not isinstance(name, str):
        raise layer.says(("extends",), "extends: not a name; write the name of a profile")
    is_path = folder is not None and name not in available(published=True) and _is_path(name)
    target = str(folder / name) if is_path and folder is not None else name
    if target in chain or len(chain) > _DEEPEST:
        circle = " -> ".join(part[:60] for part in (*chain, target))
        raise layer.says(
            ("extends",), f"extends: {circle} goes round in a circle or is too long; end it"
        )
    if is_path:
        # A file from outside shall not make us read wherever it likes.
        if Path(name).is_absolute() or ".." in Path(name).parts or not name.endswith(".toml"):
            raise layer.says(
                ("extends",),
                f"extends: {name[:80]!r} is no .toml file beside this one; put it there",
            )
        path = Path(target)
        try:
            content = _read(path)
        except ProfileError as error:
            raise layer.says(("extends",), f"extends: {error}") from error
        found = _document(content, target, path.parent, chain)
        _checked(found)  # so that errors of that file name it
        return found
    if name not in available(published=True):
        raise layer.says(
            ("extends",),
            f"extends: {name[:80]!r} is not a shipped profile and not a .toml file; "
            f"{_hint(name)}choose one of {', '.join(available())}",
        )
    return _shipped_document(name, chain)


def _checked(document: Document) -> Profile:
    try:
        file = ProfileFile.model_validate(document.content)
    except ValidationError as error:
        raise problem_of(error, document) from error
    origins = {
        name: [layer.profile for layer, _ in places] for name, places in document.kernels.items()
    }
    return convert(file, origins)


def _shipped_files() -> Traversable:
    return resources.files("mixq.profiles")


def _is_path(name: str) -> bool:
    return name.endswith(".toml") or os.sep in name


def _hint(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), available(published=True), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(map(repr, near))}? " if near else ""


def _host() -> Profile:
    """The profile that `mixq hardware calibrate` wrote for this machine."""
    path = host_path()
    if not path.is_file():
        raise ProfileError(
            f"hardware {HOST!r} has no profile yet: {shown(str(path))} does not exist; "
            "run mixq hardware calibrate, which measures this machine in a minute or two"
        )
    return parse(_read(path), origin=str(path))


def _read(path: Path) -> bytes:
    """At most MAX_BYTES + 1 bytes of a regular file."""
    try:
        if path.exists() and not path.is_file():
            raise ProfileError(
                f"profile {shown(str(path))}: not a regular file; name a .toml file"
            )
        with open_regular(path) as stream:
            return stream.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, ProfileError):
            raise
        raise ProfileError(
            f"profile {shown(str(path))}: cannot be read ({reason}); "
            f"name a .toml file or one of {', '.join(available())}"
        ) from error
