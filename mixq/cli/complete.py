"""What a shell offers behind an option when Tab is pressed: names that are in files of mixq.

A shell waits for each answer, so nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args


def hardware(incomplete: str) -> Iterator[str]:
    """Chips of `mixq hardware list`, and the user's own files."""
    from mixq.profiles import available
    from mixq.profiles.place import HOST, host_path

    calibrated = [HOST] if host_path().is_file() else []
    yield from _starting((*available(), *calibrated), incomplete)
    yield from _files(incomplete, ".toml")


def recipes(incomplete: str) -> Iterator[str]:
    """Shipped recipes, and the user's own files."""
    from importlib import resources

    shipped = resources.files("mixq.search") / "recipes"
    names = sorted(file.name[:-5] for file in shipped.iterdir() if file.name.endswith(".toml"))
    yield from _starting(names, incomplete)
    yield from _files(incomplete, ".toml")


def runtimes(incomplete: str) -> Iterator[str]:
    """Runtimes of `mixq export`."""
    from mixq.export.registry import PLUGINS

    return _starting(sorted(PLUGINS.names()), incomplete)


def metrics(incomplete: str) -> Iterator[str]:
    """Output errors that are built in."""
    from mixq.sensitivity.metrics.choice import AUTO, BUILT_IN

    return _starting((AUTO, *BUILT_IN), incomplete)


def equalizations(incomplete: str) -> Iterator[str]:
    """Ways to rewrite a model first."""
    return _starting(("none", "fold", "cross-layer", "input", "all"), incomplete)


def methods(incomplete: str) -> Iterator[str]:
    """Rounding methods."""
    from mixq.formats import METHODS

    return _starting(("auto", *METHODS.names()), incomplete)


def halves(incomplete: str) -> Iterator[str]:
    """Formats of 16 bits."""
    return _starting(("float16", "bfloat16"), incomplete)


def devices(incomplete: str) -> Iterator[str]:
    """Where a model may run; which of them there are, only torch knows."""
    return _starting(("cpu", "cuda"), incomplete)


def bits(incomplete: str) -> Iterator[str]:
    """Widths, more of them behind a comma."""
    return _listed(("32", "16", "8", "4", "2"), incomplete)


def group_sizes(incomplete: str) -> Iterator[str]:
    """Group sizes, more of them behind a comma."""
    return _listed(("16", "32", "64", "128", "256", "channel"), incomplete)


def grids(incomplete: str) -> Iterator[str]:
    """Grids below 8 bits, more of them behind a comma."""
    from mixq.formats import GRIDS

    return _listed(GRIDS[4], incomplete)


def activations(incomplete: str) -> Iterator[str]:
    """What inputs of 8-bit layers may be, more of them behind a comma."""
    from mixq.formats import Activation

    return _listed(get_args(Activation), incomplete)


def _starting(words: Sequence[str], incomplete: str) -> Iterator[str]:
    return (word for word in words if word.startswith(incomplete))


def _listed(words: Sequence[str], incomplete: str) -> Iterator[str]:
    """The last of words with commas, none of them twice."""
    before, comma, last = incomplete.rpartition(",")
    taken = before.split(",")
    return (f"{before}{comma}{w}" for w in words if w.startswith(last) and w not in taken)


def _files(incomplete: str, suffix: str) -> Iterator[str]:
    """Files with a suffix, and folders that may hold some, as far as a path is typed."""
    folder = Path(incomplete).parent if not incomplete.endswith("/") else Path(incomplete)
    try:
        inside = sorted(folder.iterdir())
    except OSError:
        return
    for path in inside:
        shown = f"{path}/" if path.is_dir() else str(path)
        wanted = path.suffix == suffix or path.is_dir()
        hidden = not incomplete and path.name.startswith(".")
        if shown.startswith(incomplete) and wanted and not hidden:
            yield shown
