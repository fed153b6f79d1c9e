"""Hardware profiles: one TOML file per chip, and the loader."""

from __future__ import annotations

from mixq.profiles.loader import available, load
from mixq.profiles.profile import Kernel, Profile, Runtime

__all__ = ["Kernel", "Profile", "Runtime", "available", "load"]
