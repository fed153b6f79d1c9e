"""Probe: the fresh process that loads one file, runs it, and says what memory that took.

Started as `python -P -m mixq.bench.probe RUNTIME FILE BATCH THREADS RESULT`; see `memory`.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from mixq.batch import Batch
from mixq.errors import ExportError
from mixq.files import write_json_atomic
from mixq.tensor_file import read_tensors

PASSES: Final = 3
"""Forward passes before memory is read: buffers have their size by then."""
STATUS: Final = Path("/proc/self/status")
MAPS: Final = Path("/proc/self/smaps")
RESET: Final = Path("/proc/self/clear_refs")
LIBRARIES: Final = {
    "onnxruntime": "onnxruntime",
    "qdq": "onnxruntime",
    "onnxruntime-genai": "onnxruntime_genai",
    "openvino": "openvino",
    "gguf": "xllamacpp",
    "mlx": "mlx_lm",
    "transformers": "transformers",
}
"""What a runtime imports: its code is no part of what a model takes, so it is there before."""


def resident() -> dict[str, int]:
    """Memory of this process [bytes], by the names of the Linux kernel.

    Source: Linux, Documentation/filesystems/proc.rst, table 1-2 (and 1.1 for smaps).
    """
    found = {}
    for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key in ("VmRSS", "VmHWM", "RssAnon", "RssFile"):
            found[key] = int(value.split()[0]) * 1024
    return found


def library_bytes() -> int:
    """Resident pages of shared libraries, which belong to the runtime and not to the model."""
    total, is_library = 0, False
    for line in MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split(" ")[0]:  # `7f12-7f34 r-xp 00000000 08:01 1234  /path/lib.so.1`
            is_library = ".so" in line.rpartition("/")[2]
        elif is_library and key in ("Rss", "Anonymous"):
            total += int(value.split()[0]) * (1024 if key == "Rss" else -1024)
    return total


def probe(runtime_name: str, path: Path, batch: Batch, threads: int) -> dict[str, int]:
    """What loading and running a file adds to this process [bytes]; see `memory.Memory`."""
    from mixq.export.registry import runtime

    kind = runtime(runtime_name)
    with suppress(ImportError):
        importlib.import_module(LIBRARIES.get(runtime_name, ""))
    with suppress(OSError):  # a kernel without it keeps the peak of the imports
        RESET.write_text("5", encoding="ascii")  # proc.rst: 5 resets the peak resident set size
    libraries, before = library_bytes(), resident()
    session = kind.open(path, threads=threads)
    for _ in range(PASSES):
        session.run(batch)
    after = resident()
    session.close()
    return {
        "anonymous_bytes": after["RssAnon"] - before["RssAnon"],
        "file_backed_bytes": after["RssFile"] - before["RssFile"],
        "library_bytes": library_bytes() - libraries,
        "peak_bytes": max(after["VmHWM"] - before["VmRSS"], 0),
    }


def read_batch(path: Path) -> Batch:
    """The batch that `memory.write_batch` wrote."""
    header, tensors, _ = read_tensors(path, ExportError, "the batch")
    items = {name: tensors[str(index)].clone() for index, name in enumerate(header["names"])}
    if header["kind"] == "dict":
        return items
    values = tuple(items.values())
    return values if header["kind"] == "tuple" else values[0]


def main(arguments: list[str]) -> None:
    """Measure, and write the result as JSON."""
    name, path, batch, threads, result = arguments
    write_json_atomic(result, probe(name, Path(path), read_batch(Path(batch)), int(threads)))


if __name__ == "__main__":
    main(sys.argv[1:])
