"""Out of memory, which every library says in words of its own."""

from __future__ import annotations

import errno
import re
from typing import Final

ADVICE: Final = "out of memory; take fewer or smaller calibration batches, or fewer --workers"
_WORDS: Final = re.compile(
    r"std::bad_alloc"  # C++ behind pybind11
    r"|bad allocation"
    r"|^\[enforce fail a"  # torch, where even its words found no room
    r"|allocate (?:enough )?memory|failed to allocate|out of memory"  # torch, ONNX Runtime, CUDA
    r"|failed to map segment"  # the loader of shared libraries
    r"|can't start new thread",
    re.IGNORECASE,
)
_NOT_SET: Final = "error return without exception set"
"""What CPython says of a library whose allocation failed and that forgot to say so."""
_KINDS: Final = (RuntimeError, ImportError, SystemError, ValueError)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory ran out."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, MemoryError):
            return True
        if isinstance(seen, OSError) and seen.errno == errno.ENOMEM:
            return True
        text = str(seen)
        # ONNX Runtime's errors have no base but Exception.
        plain = isinstance(seen, _KINDS) or type(seen).__module__.startswith("onnxruntime")
        if plain and (_WORDS.search(text) or (isinstance(seen, SystemError) and _NOT_SET in text)):
            return True
        seen = seen.__cause__
    return False
