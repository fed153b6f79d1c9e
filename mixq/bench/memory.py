"""Memory: what a file takes in a fresh process that does nothing but run it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from mixq.batch import Batch, named_tensors
from mixq.bench.probe import STATUS
from mixq.errors import ExportError, WorkerError
from mixq.files import one_line, parse_json, read_bounded
from mixq.tensor_file import write_tensors


@dataclass(frozen=True)
class Memory:
    """How much a process grew from before it loaded a file until it had run it, in bytes.

    The interpreter, torch and the runtime's own code were there before and do not count.

    Attributes:
        anonymous_bytes: private memory (RssAnon): copies of weights, activations, buffers.
        file_backed_bytes: pages of mapped files (RssFile), which the system can drop and read
            again.
        library_bytes: those of them that are code of shared libraries: the runtime's, which its
            first use brings in, whatever the model.
        peak_bytes: the most that was resident at any time, loading included (VmHWM).
    """

    anonymous_bytes: int
    file_backed_bytes: int
    library_bytes: int
    peak_bytes: int

    @property
    def mapped_bytes(self) -> int:
        """Pages of mapped files that are no code: weights that the runtime maps."""
        return self.file_backed_bytes - self.library_bytes


def write_batch(batch: Batch, path: Path) -> None:
    """Write a batch for another process, without pickle."""
    items = named_tensors(batch)
    kind = {"dict": "dict", "tuple": "tuple"}.get(type(batch).__name__, "tensor")
    tensors = {str(index): tensor for index, (_, tensor) in enumerate(items)}
    write_tensors(path, tensors, {"kind": kind, "names": [name for name, _ in items]})


def measure_memory(runtime: str, path: Path, batch: Path, threads: int) -> Memory | None:
    """What the file takes in a process of its own; None where the system does not tell.

    Args:
        runtime: name of the runtime.
        path: of the file or folder.
        batch: file of `write_batch`, in a folder where the answer can be written.
        threads: of one call.

    Raises:
        WorkerError: if the process fails, with its last words.
    """
    if not STATUS.exists():
        return None
    answer = batch.with_name("memory.json")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-P", "-m", "mixq.bench.probe", runtime]
    done = subprocess.run(
        [*command, str(path.resolve()), str(batch), str(threads), str(answer)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise WorkerError(
            f"the process that measures memory ended with status {done.returncode}: "
            f"{one_line(said[-1] if said else 'no message')}"
        )
    text = read_bounded(answer, 1 << 16, ExportError, "the answer of the memory process")
    found = parse_json(text, ExportError, "the answer of the memory process")
    assert isinstance(found, dict), json.dumps(found)
    return Memory(**found)
