"""One zygote for all tests of faults."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .commands import Stage
from .driver import zygote
from .traps import SUPPORTED


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if not SUPPORTED:
        pytest.skip("system calls are watched on Linux on x86-64 alone")
    with zygote() as started:
        yield Stage(started, tmp_path_factory.mktemp("undisturbed"))
