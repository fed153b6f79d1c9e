"""Place: where the profile of this machine lies, one for each user."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

HOST: Final = "host"
"""Name of the profile of the machine at hand, which is measured and not shipped."""


def host_path() -> Path:
    """`host.toml` in the user's folder for data of mixq.

    That is `$XDG_DATA_HOME/mixq` (XDG Base Directory Specification 0.8; `~/.local/share` by
    default), `~/Library/Application Support/mixq` on macOS, `%LOCALAPPDATA%` on Windows.
    """
    home = Path.home()
    given = os.environ.get("XDG_DATA_HOME", "")
    if given and Path(given).is_absolute():  # a relative one is to be ignored
        folder = Path(given)
    elif sys.platform == "darwin":
        folder = home / "Library" / "Application Support"
    elif sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
    else:
        folder = home / ".local" / "share"
    return folder / "mixq" / f"{HOST}.toml"
