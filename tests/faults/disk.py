"""Disks that fill up: a small file system in memory in place of a command's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Final

PAGE_BYTES: Final = 4096


def can_mount() -> bool:
    """Whether this process may mount file systems, as root outside of most containers may."""
    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "none", name],
            capture_output=True, check=False,
        )  # fmt: skip
        if done.returncode == 0:
            subprocess.run(["umount", name], check=True)
        return done.returncode == 0


def small_disk(free_bytes: int) -> Callable[[Path], AbstractContextManager[None]]:
    """What makes a folder a disk with so many bytes left; afterwards it has room again."""

    @contextmanager
    def mounted(folder: Path) -> Iterator[None]:
        held = sum(
            -(-path.stat().st_size // PAGE_BYTES) * PAGE_BYTES
            for path in folder.rglob("*") if path.is_file()
        )  # fmt: skip
        disk = folder.with_name(folder.name + "-disk")
        disk.mkdir()
        size = held + max(free_bytes, PAGE_BYTES)
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(disk)], check=True
        )
        try:
            shutil.copytree(folder, disk, dirs_exist_ok=True)
            subprocess.run(["mount", "--move", str(disk), str(folder)], check=True)
            try:
                yield
                disk.mkdir(exist_ok=True)
                shutil.copytree(folder, disk, dirs_exist_ok=True, symlinks=True)
            finally:
                subprocess.run(["umount", str(folder)], check=True)
            shutil.rmtree(folder)
            os.rename(disk, folder)  # noqa: PTH104
        finally:
            with suppress(OSError):
                disk.rmdir()

    return mounted
