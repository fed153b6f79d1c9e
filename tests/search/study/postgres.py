"""A PostgreSQL of Debian's package, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None if they are not installed."""
    named = shutil.which("initdb")
    found = [Path(named).resolve()] if named else []
    found += [p for folder in FOLDERS for p in sorted(Path("/").glob(f"{folder[1:]}/initdb"))]
    return found[-1].parent if found else None


@dataclass
class Cluster:
    """A server that listens on a socket in a temporary folder alone."""

    folder: Path
    programs: Path
    identity: dict[str, Any]
    server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://mixq@/postgres?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = {
            "listen_addresses": "", "unix_socket_directories": str(self.folder), "fsync": "off",
        }  # fmt: skip
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        server = subprocess.Popen(
            [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *settings],
            stderr=subprocess.DEVNULL, **self.identity,
        )  # fmt: skip
        self.server = cast("subprocess.Popen[bytes]", server)
        deadline = time.monotonic() + 60
        ready = [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)]
        while subprocess.run(ready, check=False).returncode:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends its sessions too, SIGQUIT leaves all as a crash does."""
        if self.server is not None:
            self.server.send_signal(how)
            self.server.wait(timeout=60)
            self.server = None


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server that is started, for as long as the block runs."""
    bin_folder = programs()
    assert bin_folder is not None
    # It refuses to run as root. Short, since a socket's path has at most 107 bytes.
    identity: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mixq-pg-", dir="/tmp") as name:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(name, user.pw_uid, user.pw_gid)
        identity |= {"stdout": subprocess.DEVNULL, "cwd": name}
        subprocess.run(
            [str(bin_folder / "initdb"), "-D", f"{name}/data", "-U", "mixq", "--auth=trust",
             "--no-sync", "--encoding=UTF8", "--no-locale"],
            check=True, timeout=120, **identity,
        )  # fmt: skip
        found = Cluster(Path(name), bin_folder, identity)
        found.start()
        try:
            yield found
        finally:
            found.stop()


@contextmanager
def postgres() -> Iterator[str]:
    """URL of such a server."""
    with cluster() as started:
        yield started.url
