"""Candidate: one file that is benched, and where files of a user's own belong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mixq.errors import UsageError
from mixq.export.registry import PLUGINS
from mixq.export.registry import runtime as runtime_named
from mixq.files import one_line, parse_json, read_bounded

SUFFIXES: Final = {".onnx": "onnxruntime", ".xml": "openvino", ".gguf": "gguf"}
"""Of files: whose they are, unless the runtime that was asked for writes such files too."""
GENAI: Final = "genai_config.json"
CONFIG: Final = "config.json"
"""Of folders: the file that says whose they are."""
KEYS: Final = {"quantization": "mlx", "quantization_config": "transformers"}
"""What its configuration has, as mlx-lm and transformers read it, and whose the folder is."""
WITHOUT_CODE: Final = ("torch",)
"""Runtimes whose files need the model's own code beside them."""
LARGEST_CONFIG: Final = 16 << 20


@dataclass(frozen=True)
class Predicted:
    """What a plan says of a forward pass, on its chip and for its workload.

    Attributes:
        latency_s, baseline_latency_s: of the candidate, and of 32 bits.
        peak_memory_bytes: of a process, from loading the file to its last pass; None if nothing
            says so.
    """

    latency_s: float
    baseline_latency_s: float
    peak_memory_bytes: int | None = None

    @property
    def ratio(self) -> float | None:
        """Of the two; None if 32 bits are predicted to take no time."""
        return self.latency_s / self.baseline_latency_s if self.baseline_latency_s else None


@dataclass(frozen=True)
class Candidate:
    """A file or folder to be run.

    Attributes:
        name: in tables, unlike that of any other candidate.
        runtime: that it is for.
        path: where it lies; None if it could not be made.
        file_bytes: of all that belongs to it.
        predicted: by a plan; None if nothing was predicted.
        fault: why there is no file, in words.
        notes: what to know of it, a sentence each.
        blocks: kernels that the exporter chose, see `mixq.export.runtime.Written`.
    """

    name: str
    runtime: str
    path: Path | None
    file_bytes: int = 0
    predicted: Predicted | None = None
    fault: str | None = None
    notes: tuple[str, ...] = ()
    blocks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of_file(cls, path: Path, wanted: str, name: str) -> Candidate:
        """A file or folder that was exported before.

        Args:
            path: where it lies.
            wanted: runtime that was asked for; another one takes a file that it cannot read.
            name: in tables.

        Raises:
            UsageError: if no runtime reads such files, or there is none.
        """
        return cls(name, runtime_of(path, wanted), path, size_of(path))


def check_runtime(name: str) -> None:
    """Refuse a runtime that there is not, or whose files cannot be run by themselves.

    Raises:
        UsageError: with what can be chosen.
    """
    runtime_named(name)
    if name in WITHOUT_CODE:
        others = ", ".join(known for known in PLUGINS.names() if known not in WITHOUT_CODE)
        raise UsageError(
            f"files for runtime {name!r} hold no architecture, so a fresh process cannot run "
            f"them; mixq evaluate judges them, and bench takes {others}"
        )


def runtime_of(path: Path, wanted: str) -> str:
    """Name of the runtime that a file or folder is for.

    Raises:
        UsageError: if there is no such file, or it is of no known kind.
    """
    known = f"{', '.join(SUFFIXES)}, a folder with {GENAI} or a quantized {CONFIG}"
    if not path.exists():
        raise UsageError(
            f"{one_line(path)} does not exist; pass a plan.json, or a file that mixq export wrote"
        )
    kind = runtime_named(wanted)
    if path.is_dir():
        found = _folder_of(path)
    elif kind.suffix == path.suffix and not kind.is_folder:
        found = [wanted]
    else:
        found = [name for name in (SUFFIXES.get(path.suffix),) if name is not None]
    if not found:
        raise UsageError(
            f"{one_line(path)} is no file that a runtime loads; pass a plan.json, or one of "
            f"{known}"
        )
    if found[0] not in PLUGINS:
        raise UsageError(
            f"{one_line(path)} is for {found[0]}, which mixq cannot run here; it runs "
            f"{', '.join(PLUGINS.names())}"
        )
    return found[0]


def _folder_of(path: Path) -> list[str]:
    """Whose a folder is, if that can be told."""
    if (path / GENAI).is_file():
        return ["onnxruntime-genai"]
    file = path / CONFIG
    if not file.is_file():
        return []
    what = f"the configuration {one_line(file)}"
    config = parse_json(read_bounded(file, LARGEST_CONFIG, UsageError, what), UsageError, what)
    return [name for key, name in KEYS.items() if isinstance(config, dict) and key in config][:1]


def size_of(path: Path) -> int:
    """Bytes of a file with what lies beside it for it, or of everything in a folder."""
    if path.is_dir():
        return sum(item.stat().st_size for item in path.rglob("*") if item.is_file())
    beside = (path, path.with_name(f"{path.name}.data"), *_weights(path))
    return sum(item.stat().st_size for item in beside if item.is_file())


def _weights(path: Path) -> list[Path]:
    """OpenVINO's second file."""
    return [path.with_suffix(".bin")] if path.suffix == ".xml" else []
