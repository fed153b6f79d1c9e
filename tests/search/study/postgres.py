"""A PostgreSQL of Debian's package, for as long as a test needs it."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDERS = ("/usr/lib/postgresql/*/bin", "/usr/local/pgsql/bin")


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; None if they are not installed."""
    named = shutil.which("initdb")
    found = [Path(named).resolve()] if named else []
    found += [p for folder in FOLDERS for p in sorted(Path("/").glob(f"{folder[1:]}/initdb"))]
    return found[-1].parent if found else None


@contextmanager
def postgres() -> Iterator[str]:
    """URL of a server that listens on a socket in a temporary folder alone."""
    bin_folder = programs()
    assert bin_folder is not None
    # It refuses to run as root. Short, since a socket's path has at most 107 bytes.
    identity: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="mixq-pg-", dir="/tmp") as name:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            identity = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(name, user.pw_uid, user.pw_gid)
        data = str(Path(name, "data"))
        identity |= {"stdout": subprocess.DEVNULL, "cwd": name}
        subprocess.run(
            [str(bin_folder / "initdb"), "-D", data, "-U", "mixq", "--auth=trust", "--no-sync",
             "--encoding=UTF8", "--no-locale"],
            check=True, timeout=120, **identity,
        )  # fmt: skip
        options = {"listen_addresses": "", "unix_socket_directories": name, "fsync": "off"}
        settings = [part for key, value in options.items() for part in ("-c", f"{key}={value}")]
        server = subprocess.Popen(
            [str(bin_folder / "postgres"), "-D", data, *settings],
            stderr=subprocess.DEVNULL, **identity,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 60
            ready = [str(bin_folder / "pg_isready"), "-q", "-h", name]
            while subprocess.run(ready, check=False).returncode:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield f"postgresql://mixq@/postgres?host={name}"
        finally:
            server.send_signal(2)  # SIGINT: ends its sessions too
            server.wait(timeout=60)
